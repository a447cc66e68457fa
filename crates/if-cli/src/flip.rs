//! Wrong labels made on purpose, to see whether they are found.

use if_methods::random_order;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::Failure;
use crate::source::Data;

/// Gives a random `fraction` of the examples another label, any other with the same probability, and
/// says which.
pub fn flip(data: &mut Data, fraction: f64, seed: u64) -> Result<Vec<bool>, Failure> {
    let mut labels = data.set.labels().to_vec();
    let mut known = labels.clone();
    known.sort_unstable_by(f64::total_cmp);
    known.dedup();
    if known.len() < 2 || known.len() > 1000 || known.iter().any(|label| label.fract() != 0.0) {
        let origin = &data.source.origin;
        return Err(Failure::input(format!(
            "{origin}: --flip expects labels of at least two classes, found {} different ones",
            known.len()
        )));
    }
    let count = ((fraction * labels.len() as f64).round() as usize).max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut flipped = vec![false; labels.len()];
    for &i in &random_order(labels.len(), seed)[..count] {
        let own = known.iter().position(|label| *label == labels[i]).unwrap_or(0);
        labels[i] = known[(own + rng.random_range(1..known.len())) % known.len()];
        flipped[i] = true;
    }
    data.set = data.set.clone().with_labels(labels);
    Ok(flipped)
}
