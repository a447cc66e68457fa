//! Random vectors of parameters, against which gradients are sketched: `E[(G g) . (G h)] = g . h`.

use if_linalg::{Backend, Real, Segment};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Network;
use crate::scoring::{Numbers, Signs, Vectors, VectorsPart};

/// How the entries of a projection are drawn; all have variance `1 / dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProjectionKind {
    /// Normal.
    Gaussian,
    /// `+-1 / sqrt(dim)`, made anew where they are needed, a few megabytes at a time (on a GPU 64): what the others keep
    /// grows with `dim`.
    Rademacher,
    /// Layer by layer outer products `u w^T` of signs: `(delta . u)(a . w)` costs a sum where the others cost a product.
    /// The error falls with `dim` in the same way, with a larger constant. Layers without factors take signs.
    Factored,
}

/// A random map of gradients to `dim` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// How it is drawn.
    pub kind: ProjectionKind,
    /// Numbers of a sketch.
    pub dim: usize,
    /// Of everything random.
    pub seed: u64,
}

impl<B: Backend> Network<B> {
    /// The `dim` vectors of `projection` at checkpoint `c`, independent of those at other checkpoints and of other seeds:
    /// [`scores_of`](Self::scores_of) against them are the sketches of the gradients.
    pub fn projection(&self, projection: Projection, c: usize) -> Vectors<B> {
        let Projection { kind, dim, seed } = projection;
        let scale = 1.0 / (dim as f64).sqrt();
        let backend = self.backend();
        let parts =
            self.parameter_layers().zip(self.layout().segments()).enumerate().map(|(s, (layer, segment))| {
                let Segment { rows, cols, .. } = *segment;
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                // A stream for each layer at each checkpoint.
                rng.set_stream((c as u64) << 32 | s as u64);
                let mut draw = |count: usize, normal: bool, scale: f64| {
                    let values: Vec<B::Elem> = (0..count)
                        .map(|_| {
                            B::Elem::from_f64(
                                scale * if normal { gaussian(&mut rng) } else { sign(&mut rng) },
                            )
                        })
                        .collect();
                    backend.upload(&values)
                };
                let numbers = if kind == ProjectionKind::Factored && layer.gradient_terms().is_some() {
                    Numbers::Outer {
                        terms: 1,
                        left: draw(dim * rows, false, scale),
                        right: draw(dim * cols, false, 1.0),
                    }
                } else if kind == ProjectionKind::Gaussian {
                    Numbers::Whole(draw(dim * rows * cols, true, scale))
                } else {
                    Numbers::Signs(Signs { key: rng.next_u64(), scale })
                };
                VectorsPart { rows, cols, numbers }
            });
        Vectors::new(dim, parts.collect())
    }
}

fn sign(rng: &mut ChaCha8Rng) -> f64 {
    if rng.next_u32() & 1 == 0 { 1.0 } else { -1.0 }
}

/// Box and Muller 1958.
fn gaussian(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
