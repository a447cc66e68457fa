//! The largest eigenvalues of the curvature by a Krylov space; the rest of it is left out.
//!
//! Schioppa, Zablotskaia, Vilar & Sokolov 2022, "Scaling Up Influence Functions". Vectors are rows; after `m` steps
//! `V A V^T = T`, of which the eigenpairs `T = W^T (L + shift) W` give the Ritz vectors `W V`. With the `r` pairs of
//! largest `|l_i|`, eigenvalues of `C = A - shift I`:
//!
//! ```text
//! x = U^T (L + shift)^-1 U b
//! ```
//!
//! The part of `b` outside their span is dropped, as published: the score of two examples is an inner product of `r`
//! numbers each.
//!
//! Deviations:
//! 1. `A` is symmetric, so Arnoldi's iteration is Lanczos' (with full reorthogonalisation), and `T` tridiagonal.
//! 2. The paper inverts negative eigenvalues as they are. Here a clearly negative Ritz value of `A`, among the `r` or
//!    not, ends as `NegativeCurvature`.

use std::sync::Arc;

use super::low_rank::refuse_negative;
use super::orthonormal::symmetric;
use crate::lanczos::{Lanczos, lanczos};
use crate::testing::random;
use crate::{
    Approximation, Backend, Block, Complement, Inverse, LinalgError, LinearOperator, LowRankFactors,
    LowRankInverse, Termination,
};

/// The recipe: `steps` products with the operator, one after another, then none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arnoldi {
    /// Ritz pairs that are kept.
    pub rank: usize,
    /// Steps of the iteration, at least `rank`; some more make the last pairs accurate.
    pub steps: usize,
    /// Fixes the random start.
    pub seed: u64,
}

/// Name in reports and on the command line.
const NAME: &str = "arnoldi";

impl Arnoldi {
    /// The Ritz pairs of `C = A - shift I` largest in magnitude, largest first: `rank`, or as many as the Krylov space
    /// has dimensions. Holds `steps + rank` vectors.
    ///
    /// # Errors
    /// `NegativeCurvature` where `A` is not positive on the Krylov space, `NonFinite`.
    pub fn factors<B: Backend>(
        &self,
        operator: &dyn LinearOperator<B>,
    ) -> Result<LowRankFactors<B>, Termination> {
        let start = random(operator.dim(), self.seed);
        let start = Block::from_f64(operator.backend(), operator.layout(), &start);
        let Lanczos { basis, diagonal, off, .. } = lanczos(operator, &start, self.steps, &());
        if diagonal.iter().chain(&off).any(|v| !v.is_finite()) {
            return Err(Termination::NonFinite);
        }
        let (m, shift) = (basis.len(), operator.damping());
        let (values, vectors) = symmetric(m, &tridiagonal(&diagonal, &off)).eigen();
        if let (Some(lowest), Some(highest)) = (values.first(), values.last()) {
            refuse_negative::<B::Elem>(*lowest, lowest.abs().max(highest.abs()), m)?;
        }
        let mut kept: Vec<usize> = (0..m).collect();
        kept.sort_by(|&i, &j| (values[j] - shift).abs().total_cmp(&(values[i] - shift).abs()));
        kept.truncate(self.rank);
        let mut ritz = Block::zeros(operator.backend(), operator.layout(), kept.len());
        for (j, v) in basis.iter().enumerate() {
            let column: Vec<f64> = kept.iter().map(|&i| vectors[i * m + j]).collect();
            ritz.combine(&column, v, 1.0);
        }
        Ok(LowRankFactors::new(ritz, kept.iter().map(|&i| values[i] - shift).collect()))
    }
}

/// All `m * m` numbers of a symmetric tridiagonal matrix.
fn tridiagonal(diagonal: &[f64], off: &[f64]) -> Vec<f64> {
    let m = diagonal.len();
    let mut t = vec![0.0; m * m];
    diagonal.iter().enumerate().for_each(|(i, value)| t[i * m + i] = *value);
    for (i, value) in off.iter().enumerate() {
        t[i * m + i + 1] = *value;
        t[(i + 1) * m + i] = *value;
    }
    t
}

impl<B: Backend> Approximation<B> for Arnoldi {
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
        match self.factors(operator) {
            Ok(factors) => {
                let complement = Complement::Dropped;
                LowRankInverse { name: NAME, factors: Arc::new(factors), complement }.fit(operator)
            }
            Err(termination) => Ok(Err(termination)),
        }
    }
}
