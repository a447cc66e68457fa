//! Rankings: the strongest examples of a stream of scores, and full orders.

use if_linalg::Real;

/// A training example and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Position in the training set.
    pub example: usize,
    /// Its score.
    pub score: f64,
}

/// The strongest proponents and opponents of one query.
#[derive(Clone, Debug, PartialEq)]
pub struct Extremes {
    /// Highest scores above 0, highest first; ties by position.
    pub proponents: Vec<Ranked>,
    /// Lowest scores below 0, lowest first; ties by position.
    pub opponents: Vec<Ranked>,
}

impl Extremes {
    /// The `count` highest positive and lowest negative of `scores` (fewer where there are fewer). Scores
    /// that are NaN, such as those of a failed solve, rank nowhere.
    pub fn of<T: Real>(scores: &[T], count: usize) -> Self {
        let all = || {
            let ranked = |(example, score): (usize, &T)| Ranked { example, score: score.to_f64() };
            scores.iter().enumerate().map(ranked)
        };
        let (helpful, harmful) =
            (all().filter(|r| r.score > 0.0).collect(), all().filter(|r| r.score < 0.0).collect());
        Self {
            proponents: first(helpful, count, |a, b| b.score.total_cmp(&a.score)),
            opponents: first(harmful, count, |a, b| a.score.total_cmp(&b.score)),
        }
    }
}

/// The first `count` in the given order, ties by position: a selection, then a sort of what is left.
fn first(
    mut all: Vec<Ranked>,
    count: usize,
    order: impl Fn(&Ranked, &Ranked) -> std::cmp::Ordering,
) -> Vec<Ranked> {
    let order = |a: &Ranked, b: &Ranked| order(a, b).then(a.example.cmp(&b.example));
    if count == 0 {
        return Vec::new();
    }
    if count < all.len() {
        all.select_nth_unstable_by(count - 1, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

/// Positions from the highest value to the lowest; ties by position, NaN last.
pub fn descending(values: &[f64]) -> Vec<usize> {
    let key = |i: usize| if values[i].is_nan() { f64::NEG_INFINITY } else { values[i] };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_sorted_and_stable() {
        let found = Extremes::of(&[1.0, f64::NAN, 3.0, -2.0, 3.0, 0.0], 2);
        assert_eq!(found.proponents.iter().map(|r| r.example).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(found.opponents.iter().map(|r| (r.example, r.score)).collect::<Vec<_>>(), [(3, -2.0)]);
        assert_eq!(Extremes::of(&[1.0f32, 2.0], 9).proponents.len(), 2);
        assert!(Extremes::of(&[1.0], 0).opponents.is_empty());
    }

    #[test]
    fn nobody_is_ranked_on_the_wrong_side() {
        let found = Extremes::of(&[1.0, 2.0, 0.0], 3);
        assert_eq!((found.proponents.len(), found.opponents.len()), (2, 0));
    }

    #[test]
    fn descending_puts_nan_last() {
        assert_eq!(descending(&[0.0, f64::NAN, 2.0, 2.0, -1.0]), [2, 3, 0, 4, 1]);
    }
}
