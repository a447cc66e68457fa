//! Examples that are drawn, not loaded.

use if_linalg::HostArray;
use if_models::Dataset;
use ndarray::ArrayD;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Examples of `width` features each, row after row.
pub fn dataset(width: usize, x: Vec<f64>, y: Vec<f64>) -> anyhow::Result<Dataset> {
    Ok(Dataset::new(HostArray::F64(ArrayD::from_shape_vec(vec![y.len(), width], x)?), y)?)
}

/// Two classes, normal around half of an `axis` of random direction, and minus that: label 1 and 0, `each` of both.
pub fn two_normals(
    rng: &mut ChaCha8Rng,
    (width, axis): (usize, f64),
    each: usize,
) -> anyhow::Result<Dataset> {
    let direction: Vec<f64> = (0..width).map(|_| normal(rng)).collect();
    let scale = axis / direction.iter().map(|a| a * a).sum::<f64>().sqrt();
    let y: Vec<f64> = (0..2 * each).map(|i| f64::from(u8::from(i >= each))).collect();
    let mut x = Vec::with_capacity(y.len() * width);
    for label in &y {
        x.extend(direction.iter().map(|a| (label - 0.5) * scale * a + normal(rng)));
    }
    dataset(width, x, y)
}

/// `n` normal examples of `width` features, with labels drawn from a logistic model of normal weights.
pub fn logistic_labels(rng: &mut ChaCha8Rng, width: usize, n: usize) -> anyhow::Result<Dataset> {
    let weights: Vec<f64> = (0..width).map(|_| normal(rng)).collect();
    let x: Vec<f64> = (0..n * width).map(|_| normal(rng)).collect();
    let label = |x: &[f64]| {
        let z: f64 = x.iter().zip(&weights).map(|(x, w)| x * w).sum();
        f64::from(u8::from(rng.random::<f64>() * (1.0 + (-z).exp()) < 1.0))
    };
    let y = x.chunks_exact(width).map(label).collect();
    dataset(width, x, y)
}

/// By Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle) = (rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// The mean of the features over the examples of a label.
    fn mean(data: &Dataset, label: f64) -> Vec<f64> {
        let (mut sum, mut row, mut count) = (vec![0.0; data.width()], vec![0.0; data.width()], 0.0);
        for i in (0..data.len()).filter(|&i| data.labels()[i] == label) {
            data.features().read_row(i, &mut row);
            sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
            count += 1.0;
        }
        sum.into_iter().map(|sum| sum / count).collect()
    }

    #[test]
    fn two_normals_lie_an_axis_apart() {
        let data = two_normals(&mut ChaCha8Rng::seed_from_u64(1), (3, 2.0), 4000).unwrap();
        let [zero, one] = [0.0, 1.0].map(|label| mean(&data, label));
        let distance: f64 = zero.iter().zip(&one).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        assert!((distance - 2.0).abs() < 0.1, "{distance}");
    }

    #[test]
    fn labels_follow_the_features() {
        let data = logistic_labels(&mut ChaCha8Rng::seed_from_u64(1), 2, 2000).unwrap();
        let ones = data.labels().iter().sum::<f64>();
        assert!((800.0..1200.0).contains(&ones), "{ones}");
        let [zero, one] = [0.0, 1.0].map(|label| mean(&data, label));
        assert!(zero.iter().zip(&one).any(|(a, b)| (a - b).abs() > 0.3), "{zero:?} {one:?}");
    }
}
