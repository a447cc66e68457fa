//! A number of every seed: mean and spread.

use if_methods::Agreement;
use rayon::prelude::*;

use super::agreement_row;
use crate::Context;
use crate::number::short;

/// Mean, least and most.
#[derive(Clone, Copy)]
pub struct OverSeeds {
    pub mean: f64,
    pub least: f64,
    pub most: f64,
}

impl OverSeeds {
    /// Of `values`, one for each seed; one NaN makes the mean NaN.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Of `value` of each of `trials`.
    pub fn over<T>(trials: &[T], value: impl FnMut(&T) -> f64) -> Self {
        Self::of(trials.iter().map(value))
    }

    /// `mean (least to most)`, a cell of a table.
    pub fn cell(&self) -> String {
        format!("{} ({} to {})", short(self.mean), short(self.least), short(self.most))
    }
}

/// One trial for each of `seeds`, side by side, with progress. What is timed does not belong in here.
pub fn each_seed<T: Send>(
    context: &Context,
    seeds: &[u64],
    trial: impl Fn(u64) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let outer = context.outer_progress("seeds", seeds.len());
    let one = |&seed: &u64| {
        let found = trial(seed);
        outer.step();
        found
    };
    seeds.par_iter().map(one).collect()
}

/// Means by x, and the least and the most at each: a line of a chart with its band.
pub fn line(at: impl Iterator<Item = (f64, OverSeeds)>) -> (Vec<(f64, f64)>, Vec<(f64, f64)>) {
    at.map(|(x, found)| ((x, found.mean), (found.least, found.most))).unzip()
}

/// The cells `R`, `Spearman`, `slope` and `relative error` of a table, with their spread where there are several seeds.
pub fn agreement_cells(found: &[Agreement]) -> Vec<String> {
    if let [one] = found {
        return agreement_row(one);
    }
    let values: [fn(&Agreement) -> f64; 4] =
        [|one| one.pearson, |one| one.spearman, |one| one.slope, |one| one.relative_error];
    values.map(|value| OverSeeds::over(found, value).cell()).to_vec()
}

/// The same of what has no unit of change, such as a loss: its size says nothing, and those cells are empty.
pub fn ranking_cells(found: &[Agreement]) -> Vec<String> {
    agreement_cells(found).into_iter().take(2).chain(["–", "–"].map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_spread() {
        let found = OverSeeds::over(&[1.0, 2.0, 6.0], |value| *value);
        assert_eq!((found.mean, found.least, found.most), (3.0, 1.0, 6.0));
        assert_eq!(found.cell(), "3.000 (1.000 to 6.000)");
        assert!(OverSeeds::of([1.0, f64::NAN]).mean.is_nan());
    }
}
