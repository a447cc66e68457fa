//! Wrong labels found by going through rankings, over several seeds.

use if_methods::RecallCurve;
use if_plot::{LineChart, Series};

use super::{OverSeeds, line};
use crate::Figure;
use crate::result::Table;

/// What every method finds, for each seed one curve for each method.
pub struct Recalls<'a> {
    /// Names of the methods.
    pub methods: &'a [&'a str],
    /// Curves, seeds x methods.
    pub trials: &'a [Vec<&'a RecallCurve>],
}

type Points = Vec<(f64, f64)>;

impl Recalls<'_> {
    /// Fraction of the wrong labels that method `m` finds in the fraction `checked`, for each seed.
    pub fn each(&self, m: usize, checked: f64) -> Vec<f64> {
        self.trials.iter().map(|trial| trial[m].recall(checked)).collect()
    }

    /// Its mean over the seeds.
    pub fn mean(&self, m: usize, checked: f64) -> f64 {
        self.each(m, checked).iter().sum::<f64>() / self.trials.len() as f64
    }

    /// Mean of each method over the seeds, with the least and the most as a band.
    pub fn figure(&self, name: &str, title: &str, y_label: &str) -> Figure {
        let drawn: Vec<_> = (0..self.methods.len()).map(|m| self.curve(m)).collect();
        let series: Vec<_> = self
            .methods
            .iter()
            .zip(&drawn)
            .map(|(name, (points, band))| Series { name, points, band })
            .collect();
        let chart = LineChart {
            title,
            x_label: "fraction of the training data checked",
            y_label,
            series: &series,
            y_covers: None,
        };
        let caption =
            format!("Mean over {} seeds; the bands go from the least to the most.", self.trials.len());
        Figure { name: name.into(), caption, svg: chart.svg() }
    }

    /// From nothing to half of the examples checked, in steps of 5 %.
    fn curve(&self, m: usize) -> (Points, Points) {
        let at = |step: usize| {
            let checked = step as f64 / 20.0;
            (checked, OverSeeds::of(self.each(m, checked)))
        };
        line((0..=10).map(at))
    }

    /// Mean and standard deviation over the seeds (of one, what it gives), at every fraction of `checked`.
    pub fn table(&self, title: &str, checked: &[f64]) -> Table {
        let row = |m: usize| {
            let cell = |&checked: &f64| {
                let (found, mean) = (self.each(m, checked), self.mean(m, checked));
                if found.len() == 1 {
                    return format!("{mean:.3}");
                }
                let squares: f64 = found.iter().map(|x| (x - mean) * (x - mean)).sum();
                let spread = (squares / (found.len() as f64 - 1.0)).sqrt();
                format!("{mean:.3} ± {spread:.3}")
            };
            std::iter::once(self.methods[m].to_owned()).chain(checked.iter().map(cell)).collect()
        };
        let heading = |checked: &f64| format!("{} %", (100.0 * checked * 10.0).round() / 10.0);
        Table {
            title: title.into(),
            columns: std::iter::once("order".to_owned()).chain(checked.iter().map(heading)).collect(),
            rows: (0..self.methods.len()).map(row).collect(),
        }
    }
}
