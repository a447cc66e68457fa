//! Label errors found by going through a ranking, Koh & Liang 2017, section 5.4.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How many of the wrong labels are found after checking the first examples of a ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct RecallCurve {
    /// Wrong labels among the first `c` examples, at position `c`; length `n + 1`.
    found: Vec<usize>,
}

impl RecallCurve {
    /// Goes through `order` (positions of examples, the most suspicious first).
    ///
    /// # Panics
    /// Where `order` is not a permutation of the examples.
    pub fn new(order: &[usize], wrong: &[bool]) -> Self {
        assert_eq!(order.len(), wrong.len(), "every example has one place in the ranking");
        let mut seen = vec![false; wrong.len()];
        let mut found = vec![0];
        for &example in order {
            assert!(!std::mem::replace(&mut seen[example], true), "example {example} ranked twice");
            found.push(found[found.len() - 1] + usize::from(wrong[example]));
        }
        Self { found }
    }

    /// Fraction of the wrong labels that are found when the fraction `checked` of the examples (rounded
    /// to a whole number of them) is checked; NaN where none is wrong.
    pub fn recall(&self, checked: f64) -> f64 {
        let n = self.found.len() - 1;
        let count = ((checked * n as f64).round() as usize).min(n);
        self.found[count] as f64 / self.found[n] as f64
    }

    /// The curve at `points` equal steps after 0: pairs of checked and found fractions.
    pub fn points(&self, points: usize) -> Vec<(f64, f64)> {
        let at = |i: usize| i as f64 / points as f64;
        (0..=points).map(|i| (at(i), self.recall(at(i)))).collect()
    }
}

/// The baseline that any ranking must beat: an order fixed by `seed`.
pub fn random_order(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_by_hand() {
        let wrong = [false, true, false, true, false];
        let curve = RecallCurve::new(&[3, 0, 1, 2, 4], &wrong);
        assert_eq!([0.0, 0.2, 0.4, 0.6, 1.0].map(|c| curve.recall(c)), [0.0, 0.5, 0.5, 1.0, 1.0]);
        assert_eq!(curve.points(1), [(0.0, 0.0), (1.0, 1.0)]);
        assert!(RecallCurve::new(&[0], &[false]).recall(1.0).is_nan());
    }

    #[test]
    fn random_orders_are_permutations_of_their_seed() {
        let order = random_order(50, 1);
        assert_eq!(order, random_order(50, 1));
        assert_ne!(order, random_order(50, 2));
        RecallCurve::new(&order, &[true; 50]);
    }
}
