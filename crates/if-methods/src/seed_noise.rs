//! How well retrainings agree with each other: the ceiling of every attribution.
//!
//! Where training depends on a seed (initial parameters, order of the examples), the effect of removing an example has a
//! part that all seeds share and a part of the seed's own, `y_si = f_i + e_si`. No attribution that does not know the seed
//! can predict the second part. With `r` the correlation of the effects under two seeds, averaged over pairs of seeds, and
//! parts that are independent with equal variances over seeds (Spearman 1904 on attenuation; Spearman 1910 and Brown 1910 on
//! means of several measurements):
//!
//! ```text
//! r   = var f / (var f + var e)
//! r_m = m r / (1 + (m - 1) r)              correlation of a mean over m seeds with that over m others
//! corr(f, mean over m seeds) = sqrt(r_m)   what the best attribution, f itself, reaches
//! ```

use serde::{Deserialize, Serialize};

use crate::{pearson, spearman};

/// Agreement of retrainings under different seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedNoise {
    /// Number of seeds.
    pub seeds: usize,
    /// `r`: Pearson's correlation, averaged over pairs of seeds. NaN where one is not defined.
    pub pearson: f64,
    /// The same by ranks.
    pub spearman: f64,
}

impl SeedNoise {
    /// Of `effects`, seeds x examples (or groups): what removing each changed in one quantity, such as a query's loss.
    ///
    /// # Panics
    /// With fewer than two seeds, or rows of different lengths.
    pub fn new(effects: &[Vec<f64>]) -> Self {
        assert!(effects.len() > 1, "no seed to compare with");
        assert!(effects.iter().all(|row| row.len() == effects[0].len()), "an effect of every example");
        let pairs = || (0..effects.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let mean = |correlation: fn(&[f64], &[f64]) -> f64| {
            pairs().map(|(a, b)| correlation(&effects[a], &effects[b])).sum::<f64>() / pairs().count() as f64
        };
        Self { seeds: effects.len(), pearson: mean(pearson), spearman: mean(spearman) }
    }

    /// `sqrt(r_m)`: Pearson's correlation with the mean effects over `seeds` retrainings that no attribution is expected
    /// to pass. 0 where seeds do not agree at all.
    pub fn ceiling(&self, seeds: usize) -> f64 {
        let (m, r) = (seeds as f64, self.pearson);
        if r <= 0.0 { 0.0 } else { (m * r / (1.0 + (m - 1.0) * r)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cosine of its own frequency: all are orthogonal to each other and to constants.
    fn wave(frequency: usize, amplitude: f64) -> Vec<f64> {
        let at = |i: usize| ((i as f64 + 0.5) * frequency as f64 * std::f64::consts::PI / 64.0).cos();
        (0..64).map(|i| amplitude * at(i)).collect()
    }

    fn sum(x: &[f64], y: &[f64]) -> Vec<f64> {
        x.iter().zip(y).map(|(x, y)| x + y).collect()
    }

    /// Parts that are orthogonal, so that the formulas hold exactly.
    #[test]
    fn the_shared_part_reaches_the_ceiling() {
        let shared = wave(1, 2.0);
        let effects: Vec<Vec<f64>> = (0..5).map(|s| sum(&shared, &wave(2 + s, 1.5))).collect();
        let noise = SeedNoise::new(&effects);
        assert!((noise.pearson - 4.0 / (4.0 + 2.25)).abs() < 1e-13, "{noise:?}");
        for m in [1, 2, 5] {
            let mean = effects[..m].iter().skip(1).fold(effects[0].clone(), |all, own| sum(&all, own));
            assert!((pearson(&shared, &mean) - noise.ceiling(m)).abs() < 1e-13, "{m} seeds");
        }
    }

    #[test]
    fn seeds_that_agree_or_do_not() {
        let same = SeedNoise::new(&[wave(1, 1.0), wave(1, 3.0), wave(1, 2.0)]);
        assert!((same.pearson - 1.0).abs() < 1e-13 && (same.spearman - 1.0).abs() < 1e-13);
        assert!((same.ceiling(1) - 1.0).abs() < 1e-13 && (same.ceiling(9) - 1.0).abs() < 1e-13);
        let opposed = SeedNoise::new(&[wave(1, 1.0), wave(1, -1.0)]);
        assert_eq!(opposed.ceiling(2), 0.0);
        let constant = SeedNoise::new(&[vec![1.0; 4], vec![0.0, 1.0, 2.0, 3.0]]);
        assert!(constant.pearson.is_nan() && constant.ceiling(1).is_nan());
    }

    /// Ranks do not see by how much.
    #[test]
    fn ranks_agree_where_sizes_do_not() {
        let found = SeedNoise::new(&[vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 10.0, 100.0, 1000.0]]);
        assert!((found.spearman - 1.0).abs() < 1e-15 && found.pearson < 0.9);
    }
}
