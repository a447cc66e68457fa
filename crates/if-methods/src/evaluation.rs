//! How well predictions agree with what really happened.
//!
//! A correlation alone is blind to wrong units and to a constant per query, so the slope is taken
//! **through the origin** and the relative error stands beside every correlation.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

/// The linear datamodelling score (Park et al. 2023): for every query the rank correlation, over random groups, of the
/// predicted with the actual change on their removal; averaged over queries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatamodelScore {
    /// The mean over queries; queries whose correlation is not defined are left out.
    pub mean: f64,
    /// From the 2.5th to the 97.5th percentile of means over groups and queries drawn again with replacement.
    pub interval: [f64; 2],
    /// Queries in the mean.
    pub queries: usize,
}

/// Draws of the bootstrap.
const DRAWS: usize = 1000;

impl DatamodelScore {
    /// Compares `predicted` with `actual`, both groups x queries. Two retrainings from different seeds in their places
    /// give the agreement that seed noise leaves, see [`SeedNoise`](crate::SeedNoise).
    ///
    /// # Panics
    /// Where the shapes differ.
    pub fn new(predicted: &[Vec<f64>], actual: &[Vec<f64>], seed: u64) -> Self {
        assert_eq!(predicted.len(), actual.len(), "one prediction for each group");
        let queries = actual.first().map_or(0, Vec::len);
        let groups: Vec<usize> = (0..actual.len()).collect();
        let of = |groups: &[usize], q: usize| {
            let column = |values: &[Vec<f64>]| groups.iter().map(|&g| values[g][q]).collect::<Vec<_>>();
            spearman(&column(predicted), &column(actual))
        };
        let each: Vec<f64> = (0..queries).map(|q| of(&groups, q)).collect();
        let known: Vec<usize> = (0..queries).filter(|&q| !each[q].is_nan()).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut again = |from: &[usize]| -> Vec<usize> {
            from.iter().map(|_| from[rng.random_range(0..from.len())]).collect()
        };
        let mut means: Vec<f64> = match known.is_empty() {
            true => vec![f64::NAN; DRAWS],
            false => (0..DRAWS)
                .map(|_| {
                    let groups = again(&groups);
                    mean(&mut again(&known).into_iter().map(|q| of(&groups, q)))
                })
                .collect(),
        };
        means.sort_unstable_by(f64::total_cmp);
        let percentile = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
        Self {
            mean: mean(&mut each.into_iter()),
            interval: [percentile(0.025), percentile(0.975)],
            queries: known.len(),
        }
    }
}

/// Pearson's correlation of two samples of one length, however small or large their numbers are.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let (x, y) = (near_one(centred(x)), near_one(centred(y)));
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

/// Times a power of two, which changes no digit, so that squares neither vanish nor overflow.
fn near_one(x: Vec<f64>) -> Vec<f64> {
    let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return x;
    }
    // The smallest numbers of all are below any power of two with an inverse.
    let scale = 2.0f64.powi(-(largest.log2() as i32).clamp(-1000, 1000));
    x.into_iter().map(|x| x * scale).collect()
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
        // Ranks 0 1 2 3 against 0.5 0.5 2 3: cross products 4.5, sums of squares 5 and 4.5.
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[7.0, 7.0, 8.0, 9.0]) - 0.9f64.sqrt()).abs() < 1e-15);
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
    fn datamodel_scores_average_over_queries() {
        let actual: Vec<Vec<f64>> = (0..40).map(|g| vec![g as f64, ((g * 7) % 40) as f64, 1.0]).collect();
        let same = DatamodelScore::new(&actual, &actual, 0);
        assert_eq!((same.mean, same.interval, same.queries), (1.0, [1.0, 1.0], 2));
        // Right for the first query, wrong for the second, undefined for the third.
        let half: Vec<Vec<f64>> = actual.iter().map(|row| vec![row[0], -row[1], row[0]]).collect();
        let found = DatamodelScore::new(&half, &actual, 0);
        assert!(found.mean.abs() < 1e-12 && found.interval[0] < -0.5 && found.interval[1] > 0.5, "{found:?}");
        assert_eq!(found, DatamodelScore::new(&half, &actual, 0));
        // With noise the interval holds the mean, and narrows with more groups.
        let noisy = |count: usize, queries: usize| {
            let actual: Vec<Vec<f64>> = (0..count).map(|g| vec![(g as f64 * 0.37).sin(); queries]).collect();
            let noise = |g: usize, q: usize| ((g * 31 + q * 17) as f64 * 1.7).sin();
            let predicted: Vec<Vec<f64>> =
                (0..count).map(|g| (0..queries).map(|q| actual[g][q] + noise(g, q)).collect()).collect();
            DatamodelScore::new(&predicted, &actual, 1)
        };
        let [few, many, one] = [noisy(20, 5), noisy(400, 5), noisy(20, 1)];
        let width = |score: &DatamodelScore| score.interval[1] - score.interval[0];
        assert!(few.interval[0] < few.mean && few.mean < few.interval[1]);
        assert!(width(&many) < 0.5 * width(&few), "{few:?} {many:?}");
        assert!(width(&one) > 0.0, "groups are drawn again as well");
    }

    /// Losses far on the right side of a margin are as small as numbers get.
    #[test]
    fn correlations_know_no_size() {
        let (x, y) = ([1.0, 2.0, 4.0, 3.0], [2.0, 2.5, 5.0, 1.0]);
        let expected = pearson(&x, &y);
        for scale in [2.0f64.powi(-1000), 2.0f64.powi(-600), 2.0f64.powi(1000)] {
            let scaled = x.map(|x| scale * x);
            assert_eq!((pearson(&scaled, &y), pearson(&y, &scaled)), (expected, expected), "{scale:e}");
            assert!((pearson(&scaled, &scaled) - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn undefined_is_nan() {
        let found = Agreement::new(&[1.0, 1.0], &[2.0, 3.0]);
        assert!(found.pearson.is_nan() && found.spearman.is_nan() && found.slope.is_finite());
        assert!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]).is_nan());
    }
}
