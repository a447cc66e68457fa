//! Inverses of `A = C + shift I` from a few eigenpairs of `C`, which can be saved and used again.
//!
//! With orthonormal rows `U` and `C ~ U^T L U`:
//!
//! ```text
//! x = U^T (L + shift)^-1 U b + c (b - U^T U b)
//! ```
//!
//! and [`Complement`] says what `c` is. The factors do not depend on the shift, the inverse does.

use std::sync::Arc;

use crate::{
    Approximation, Backend, Block, Inverse, LinalgError, LinearOperator, LowRank, Real, Termination,
};

/// `C ~ sum_i values[i] u_i u_i^T` with orthonormal `u_i`: what [`Nystroem`](crate::Nystroem) and
/// [`Arnoldi`](crate::Arnoldi) find.
pub struct LowRankFactors<B: Backend> {
    vectors: Block<B>,
    values: Vec<f64>,
}

impl<B: Backend> LowRankFactors<B> {
    /// From stored parts: `r` orthonormal vectors and their `r` values, those of `C` without the shift.
    ///
    /// # Panics
    /// Where their numbers differ.
    pub fn new(vectors: Block<B>, values: Vec<f64>) -> Self {
        assert_eq!(vectors.k(), values.len(), "each vector has one value");
        Self { vectors, values }
    }

    /// The `r` vectors `u_i`.
    pub fn vectors(&self) -> &Block<B> {
        &self.vectors
    }

    /// The `r` eigenvalues of `C` that belong to them.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// What is done with the part of a right-hand side that the vectors of [`LowRankFactors`] do not span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complement {
    /// `c = 1 / shift`, as if `C` were zero there: the exact inverse of `U^T L U + shift I`. To solve with.
    Zero,
    /// `c = 1 / (smallest value + shift)`, as if `C` went on as it ends. To precondition with: where the
    /// spectrum decays slowly, `1 / shift` is far too large.
    Smallest,
    /// `c = 0`: the solution lies in the span.
    Dropped,
}

/// The inverse that stored factors make. Needs no product with the operator.
pub struct LowRankInverse<B: Backend> {
    /// Name in reports, that of the method which found the factors.
    pub name: &'static str,
    /// Eigenpairs of `C`, shared by all who use them, or why it has none that serve.
    pub factors: Result<Arc<LowRankFactors<B>>, Termination>,
    /// What is done outside their span.
    pub complement: Complement,
}

impl<B: Backend> Approximation<B> for LowRankInverse<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fit<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn Inverse<B> + 'a>, Termination>, LinalgError>
    where
        Self: 'a,
    {
        let fitted = self
            .factors
            .as_ref()
            .map_err(|termination| *termination)
            .and_then(|factors| fitted(factors, self.complement, operator));
        Ok(fitted.map(|fitted| Box::new(fitted) as _))
    }
}

/// The coefficients of the inverse at the shift of `operator`, or why it is not positive definite.
fn fitted<B: Backend>(
    factors: &Arc<LowRankFactors<B>>,
    complement: Complement,
    operator: &dyn LinearOperator<B>,
) -> Result<Fitted<B>, Termination> {
    assert_eq!(factors.vectors.layout().dim(), operator.dim(), "factors of vectors of another length");
    let shift = operator.damping();
    let values = &factors.values;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Termination::NonFinite);
    }
    let smallest = values.iter().copied().reduce(f64::min);
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max((value + shift).abs())).max(shift);
    if let Some(smallest) = smallest
        && let Some(termination) = Termination::of_curvature::<B::Elem>(smallest + shift, largest)
    {
        return Err(termination);
    }
    let outside = match complement {
        _ if values.len() == operator.dim() => 0.0,
        Complement::Dropped => 0.0,
        Complement::Zero => reciprocal::<B::Elem>(shift, largest)?,
        Complement::Smallest => reciprocal::<B::Elem>(shift + smallest.unwrap_or(0.0), largest)?,
    };
    let coefficients = values.iter().map(|value| 1.0 / (value + shift) - outside).collect();
    Ok(Fitted { factors: factors.clone(), coefficients, outside })
}

/// `1 / rest`, where rounding can tell it from zero.
fn reciprocal<T: Real>(rest: f64, largest: f64) -> Result<f64, Termination> {
    // Not measured along any direction, so that nothing negative is claimed of the operator.
    Termination::of_curvature::<T>(rest, largest).map_or(Ok(1.0 / rest), |_| Err(Termination::Singular))
}

struct Fitted<B: Backend> {
    factors: Arc<LowRankFactors<B>>,
    /// `1 / (values[i] + shift) - outside`.
    coefficients: Vec<f64>,
    outside: f64,
}

impl<B: Backend> Inverse<B> for Fitted<B> {
    fn apply(&self, b: &Block<B>, x: &mut Block<B>) {
        LowRank { vectors: &self.factors.vectors, coefficients: &self.coefficients }.apply(b, x);
        x.axpby(self.outside, b, 1.0);
    }
}

/// Whether `A` has a direction of negative curvature, clear of the rounding of `count` Ritz values: `lowest` is the
/// smallest of them.
pub(super) fn refuse_negative<T: Real>(lowest: f64, largest: f64, count: usize) -> Result<(), Termination> {
    match Termination::of_curvature::<T>(lowest, count as f64 * largest) {
        Some(negative @ Termination::NegativeCurvature { .. }) => Err(negative),
        _ => Ok(()),
    }
}
