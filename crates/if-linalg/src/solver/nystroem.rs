//! Randomised Nystroem approximation: one sketch of the curvature for all right-hand sides.
//!
//! Frangella, Tropp & Udell 2021, "Randomized Nystroem Preconditioning". Vectors are rows; `Q` are `r` orthonormal
//! random rows, `A = C + shift I`:
//!
//! ```text
//! Y = Q C = Q A - shift Q     nu = eps |Y|_F     Y_nu = Y + nu Q
//! C + nu I ~ Y_nu^T (Q Y_nu^T)^-1 Y_nu = B^T B          B = D^-1/2 W Y_nu  with  Q Y_nu^T = W^T D W
//! B^T B = U^T S^2 U                                     L = S^2 - nu
//! A^-1 ~ U^T (L + shift)^-1 U + c (I - U^T U)
//! ```
//!
//! As a solver `c = 1 / shift`. The published preconditioner is `c = 1` with `(l_r + shift) (L + shift)^-1`: this one
//! divided by `l_r + shift`, see 3.
//!
//! Deviations:
//! 1. `W` and `D` are eigenpairs where the paper takes a Cholesky factor: the eigenvalues of `Q C Q^T` are those of
//!    `C` on the sketch, so a negative one of `A` is seen with its size and ends as `NegativeCurvature`. Directions on
//!    which `C` is not positive but `A` is are left out of the sketch.
//! 2. Values that the paper clips at 0, `S^2 <= nu`, leave with their vectors. The complement has them at 0, too.
//! 3. The preconditioner is scaled to an inverse, `c = 1 / (l_r + shift)`. Conjugate gradients do not see a factor.
//! 4. A sketch as large as the space has no complement, so that it needs no shift.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::low_rank::refuse_negative;
use super::orthonormal::{factors, matrix, product, symmetric};
use crate::{
    Approximation, Backend, Block, Complement, Inverse, LinalgError, LinearOperator, LowRankFactors,
    LowRankInverse, Real, Termination,
};

/// The recipe: `rank` products with the operator, then none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nystroem {
    /// Vectors of the sketch.
    pub rank: usize,
    /// Fixes the random vectors.
    pub seed: u64,
    /// [`Complement::Zero`] to solve with, [`Complement::Smallest`] to precondition with. The factors are the same.
    pub complement: Complement,
}

/// Name in reports and on the command line.
const NAME: &str = "nystroem";
/// Vectors that are drawn or multiplied at once.
const AT_ONCE: usize = 64;

impl Nystroem {
    /// Eigenpairs of the approximation of `C = A - shift I`, largest first: at most `rank`, all above 0. Holds some
    /// three blocks of `rank` vectors.
    ///
    /// # Errors
    /// `NegativeCurvature` where `A` is not positive on the sketch, `NonFinite`.
    pub fn factors<B: Backend>(
        &self,
        operator: &dyn LinearOperator<B>,
    ) -> Result<LowRankFactors<B>, Termination> {
        let (q, _) = factors(&gaussian(operator, self.rank.min(operator.dim()), self.seed));
        let mut y = curvature_products(operator, &q);
        let (r, shift) = (q.k(), operator.damping());
        let on_sketch = q.gram(&y);
        if on_sketch.iter().any(|v| !v.is_finite()) {
            return Err(Termination::NonFinite);
        }
        let nu = B::Elem::EPSILON * y.norms().iter().map(|norm| norm * norm).sum::<f64>().sqrt();
        let (d, w) = symmetric(r, &on_sketch).eigen();
        if let (Some(lowest), Some(highest)) = (d.first(), d.last()) {
            let largest = lowest.abs().max(highest.abs()) + shift.abs();
            refuse_negative::<B::Elem>(lowest + shift, largest, r)?;
        }
        y.axpby(nu, &q, 1.0);
        let kept = (0..r).filter(|&i| d[i] > 0.0);
        let roots = kept.flat_map(|i| w[i * r..(i + 1) * r].iter().map(move |w| (i, w)));
        let roots: Vec<f64> = roots.map(|(i, w)| w / (d[i] + nu).sqrt()).collect();
        Ok(eigenpairs(combined(&roots, &y), nu))
    }
}

/// Eigenpairs of `B^T B - nu I` with positive values, largest first.
fn eigenpairs<B: Backend>(half: Block<B>, nu: f64) -> LowRankFactors<B> {
    // B = c Q with orthonormal Q: the vectors are rotated, not divided by small singular values.
    let (q, c) = factors(&half);
    let r = q.k();
    let c = matrix(&c, half.k(), r);
    let (values, vectors) = symmetric(r, &product(c.t(), c)).eigen();
    let kept: Vec<usize> = (0..r).rev().filter(|&i| values[i] > nu).collect();
    let rotation: Vec<f64> = kept.iter().flat_map(|&i| &vectors[i * r..(i + 1) * r]).copied().collect();
    LowRankFactors::new(combined(&rotation, &q), kept.iter().map(|&i| values[i] - nu).collect())
}

/// `m X` for a row-major `m` with as many columns as `X` has vectors.
fn combined<B: Backend>(m: &[f64], x: &Block<B>) -> Block<B> {
    let mut rows = Block::zeros(x.backend(), x.layout(), m.len().checked_div(x.k()).unwrap_or(0));
    rows.combine(m, x, 0.0);
    rows
}

/// `rank` vectors of independent normal numbers, the same on every platform.
fn gaussian<B: Backend>(operator: &dyn LinearOperator<B>, rank: usize, seed: u64) -> Block<B> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Box and Muller 1958; 1 - u is above 0.
    let mut normal = |_| {
        let [u, v] = [(); 2].map(|()| rng.random::<f64>());
        (-2.0 * libm::log(1.0 - u)).sqrt() * libm::cos(std::f64::consts::TAU * v)
    };
    let mut rows = Block::zeros(operator.backend(), operator.layout(), rank);
    for start in (0..rank).step_by(AT_ONCE) {
        let count = AT_ONCE.min(rank - start);
        let host: Vec<f64> = (0..count * operator.dim()).map(&mut normal).collect();
        rows.add_at(start, 1.0, &Block::from_f64(operator.backend(), operator.layout(), &host));
    }
    rows
}

/// `C x` for every vector, with `C = A - shift I`.
fn curvature_products<B: Backend>(operator: &dyn LinearOperator<B>, x: &Block<B>) -> Block<B> {
    let mut products = Block::zeros(x.backend(), x.layout(), x.k());
    for start in (0..x.k()).step_by(AT_ONCE) {
        let part = x.select(&(start..x.k().min(start + AT_ONCE)).collect::<Vec<_>>());
        let mut product = Block::zeros(x.backend(), x.layout(), part.k());
        operator.apply(&part, &mut product);
        product.axpby(-operator.damping(), &part, 1.0);
        products.add_at(start, 1.0, &product);
    }
    products
}

impl<B: Backend> Approximation<B> for Nystroem {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn Inverse<B> + 'a>, Termination>, LinalgError>
    where
        Self: 'a,
    {
        let (factors, complement) = (self.factors(operator).map(Arc::new), self.complement);
        LowRankInverse { name: NAME, factors, complement }.fit(operator)
    }
}
