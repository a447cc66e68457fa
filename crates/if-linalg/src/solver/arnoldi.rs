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
use crate::lanczos::lanczos;
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
        let krylov = lanczos(operator, &start, self.steps, &());
        if krylov.diagonal.iter().chain(&krylov.off).any(|v| !v.is_finite()) {
            return Err(Termination::NonFinite);
        }
        let (m, shift) = (krylov.basis.len(), operator.damping());
        let (ritz, vectors) = krylov.ritz();
        let values: Vec<f64> = ritz.into_iter().map(|ritz| ritz.value).collect();
        if let (Some(lowest), Some(highest)) = (values.first(), values.last()) {
            refuse_negative::<B::Elem>(*lowest, lowest.abs().max(highest.abs()), m)?;
        }
        let mut kept: Vec<usize> = (0..m).collect();
        kept.sort_by(|&i, &j| (values[j] - shift).abs().total_cmp(&(values[i] - shift).abs()));
        kept.truncate(self.rank);
        let mut kept_vectors = Block::zeros(operator.backend(), operator.layout(), kept.len());
        for (j, v) in krylov.basis.iter().enumerate() {
            let column: Vec<f64> = kept.iter().map(|&i| vectors[i * m + j]).collect();
            kept_vectors.combine(&column, v, 1.0);
        }
        Ok(LowRankFactors::new(kept_vectors, kept.iter().map(|&i| values[i] - shift).collect()))
    }
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
        let (factors, complement) = (self.factors(operator).map(Arc::new), Complement::Dropped);
        LowRankInverse { name: NAME, factors, complement }.fit(operator)
    }
}
