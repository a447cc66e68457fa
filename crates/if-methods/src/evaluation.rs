//! How well predictions agree with what really happened.
//!
//! A correlation alone is blind to wrong units and to a constant per query, so the slope is taken
//! **through the origin** and the relative error stands beside every correlation.

use serde::{Deserialize, Serialize};

/// Agreement of predicted with actual values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Number of pairs.
    pub pairs: usize,
    /// Pearson's correlation.
    pub pearson: f64,
    /// Spearman's rank correlation, ties by their mean rank.
    pub spearman: f64,
    /// `<predicted, actual> / <actual, actual>`: below 1 where effects are underestimated.
    pub slope: f64,
    /// `|predicted - actual| / |actual|`, Euclidean norms.
    pub relative_error: f64,
}

impl Agreement {
    /// Compares pair by pair. NaN where a quantity is not defined, such as a correlation with a constant.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn new(predicted: &[f64], actual: &[f64]) -> Self {
        assert_eq!(predicted.len(), actual.len(), "one actual value for each prediction");
        let difference: Vec<f64> = predicted.iter().zip(actual).map(|(p, a)| p - a).collect();
        Self {
            pairs: actual.len(),
            pearson: pearson(predicted, actual),
            spearman: spearman(predicted, actual),
            slope: slope_through_origin(predicted, actual),
            relative_error: (dot(&difference, &difference) / dot(actual, actual)).sqrt(),
        }
    }
}

/// Pearson's correlation of two samples of one length.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let (x, y) = (centred(x), centred(y));
    dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()
}

/// Pearson's correlation of the ranks.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// Least-squares `b` of `predicted = b actual`, without intercept.
pub fn slope_through_origin(predicted: &[f64], actual: &[f64]) -> f64 {
    dot(predicted, actual) / dot(actual, actual)
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn centred(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x - mean).collect()
}

/// Ranks from 0, the mean rank for ties; NaN stays NaN.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut ranks = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        let value = x[order[start]];
        let end = start + order[start..].iter().take_while(|&&i| x[i] == value || value.is_nan()).count();
        let mean = if value.is_nan() { f64::NAN } else { (start + end - 1) as f64 / 2.0 };
        order[start..end].iter().for_each(|&i| ranks[i] = mean);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_by_hand() {
        let found = Agreement::new(&[1.0, 2.0, 4.0], &[2.0, 2.0, 5.0]);
        // Means 7/3 and 3; sums of squares 14/3 and 6; cross products 5.
        assert!((found.pearson - 5.0 / (14.0f64 / 3.0 * 6.0).sqrt()).abs() < 1e-15);
        // Ranks 0 1 2 against 0.5 0.5 2.
        assert!((found.spearman - 1.5 / (2.0f64 * 1.5).sqrt()).abs() < 1e-15);
        assert!((found.slope - 26.0 / 33.0).abs() < 1e-15);
        assert!((found.relative_error - (2.0f64 / 33.0).sqrt()).abs() < 1e-15);
    }

    /// What correlation cannot see: a factor and a constant.
    #[test]
    fn slope_and_error_see_what_correlation_does_not() {
        let actual = [1.0, -2.0, 3.0, 0.5];
        let scaled: Vec<f64> = actual.iter().map(|a| 1e4 * a).collect();
        let shifted: Vec<f64> = actual.iter().map(|a| a + 3.0).collect();
        for predicted in [scaled, shifted] {
            let found = Agreement::new(&predicted, &actual);
            assert!((found.pearson - 1.0).abs() < 1e-12 && found.spearman == 1.0);
            assert!((found.slope - 1.0).abs() > 0.4 && found.relative_error > 1.0);
        }
    }

    #[test]
    fn undefined_is_nan() {
        let found = Agreement::new(&[1.0, 1.0], &[2.0, 3.0]);
        assert!(found.pearson.is_nan() && found.spearman.is_nan() && found.slope.is_finite());
        assert!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]).is_nan());
    }
}
