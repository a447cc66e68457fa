//! Problems shared by the tests.

use if_linalg::Cpu;
use if_linalg::testing::random;
use if_models::{Dataset, HostArray};
use ndarray::ArrayD;

pub type Double = Cpu<f64>;

/// Features of [`data`].
pub const WIDTH: usize = 3;

/// Overlapping classes, so that every example has some influence.
pub fn data(n: usize, classes: usize, seed: u64) -> Dataset {
    shifted_classes([n, WIDTH], classes, 0.7, seed)
}

/// Random features, the first of which grows by `shift` with every class.
pub fn shifted_classes([n, width]: [usize; 2], classes: usize, shift: f64, seed: u64) -> Dataset {
    let mut x = random(n * width, seed);
    let y: Vec<f64> = (0..n).map(|i| (i % classes) as f64).collect();
    x.chunks_mut(width).zip(&y).for_each(|(x, y)| x[0] += shift * y);
    Dataset::new(HostArray::F64(ArrayD::from_shape_vec(vec![n, width], x).unwrap()), y).unwrap()
}

pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
