//! Inverses that are diagonal in a Kronecker-factored basis: K-FAC, EK-FAC, and the plain diagonal.
//!
//! Of a segment with matrices `X` (`out x in`) as vectors, `C` is approximated by
//!
//! ```text
//! C X ~ Q_L^T (values * (Q_L X Q_R^T)) Q_R          (C + shift I)^-1 X ~ Q_L^T ((Q_L X Q_R^T) / (values + shift)) Q_R
//! ```
//!
//! with orthogonal `Q_L`, `Q_R`, `*` and `/` element by element, and nothing between segments. K-FAC (Martens & Grosse
//! 2015) takes the eigenvectors of both factors and products of their eigenvalues; EK-FAC (George et al. 2018) the
//! same vectors and the second moments of gradients along them; the diagonal has no basis.
//!
//! Deviations:
//! 1. Damping is added to the eigenvalues of the product, not to the factors, so that it means what it means
//!    everywhere here.
//! 2. Where l2 spares biases, it is added to them like to all others: the residual in the report tells.

use std::sync::Arc;

use crate::{
    Approximation, Backend, Block, Inverse, LinalgError, LinearOperator, Termination, View, ViewMut,
};

/// The approximation of `C`, without damping.
pub struct KroneckerFactors<B: Backend> {
    /// `Q_L` (`out x out`) and `Q_R` (`in x in`) of each segment, eigenvectors as rows.
    bases: Vec<Option<[B::Buffer; 2]>>,
    /// The eigenvalues (`k = 1`).
    values: Block<B>,
}

impl<B: Backend> KroneckerFactors<B> {
    /// From a basis or none for each segment of `values`' layout.
    ///
    /// # Panics
    /// Where a basis has another size than its segment.
    pub fn new(bases: Vec<Option<[B::Buffer; 2]>>, values: Block<B>) -> Self {
        let segments = values.layout().segments();
        assert_eq!(bases.len(), segments.len(), "one basis, or none, for each segment");
        for (basis, segment) in bases.iter().zip(segments) {
            let Some([left, right]) = basis else { continue };
            let sizes = [B::len(left), B::len(right)];
            assert_eq!(sizes, [segment.rows, segment.cols].map(|n| n * n), "a basis of another size");
        }
        Self { bases, values }
    }

    /// `Q_L` and `Q_R` of segment `s`.
    pub fn basis(&self, s: usize) -> Option<[View<'_, B>; 2]> {
        let segment = &self.values.layout().segments()[s];
        self.bases[s].as_ref().map(|[left, right]| {
            [View::new(left, 0, segment.rows, segment.rows), View::new(right, 0, segment.cols, segment.cols)]
        })
    }

    /// The eigenvalues.
    pub fn values(&self) -> &Block<B> {
        &self.values
    }

    /// The same basis with other eigenvalues.
    pub fn with_values(self, values: Block<B>) -> Self {
        Self::new(self.bases, values)
    }
}

/// [`KroneckerFactors`] as an approximate inverse.
pub struct Kronecker<B: Backend> {
    /// `kfac`, `ekfac` or `diagonal`.
    pub name: &'static str,
    /// What is inverted.
    pub factors: Arc<KroneckerFactors<B>>,
}

impl<B: Backend> Approximation<B> for Kronecker<B> {
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
        let shift = operator.damping();
        let mut values = self.factors.values.to_f64();
        let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs())) + shift.abs();
        let smallest = values.iter().fold(f64::INFINITY, |m, v| m.min(*v)) + shift;
        if values.iter().any(|value| !value.is_finite()) {
            return Ok(Err(Termination::NonFinite));
        }
        if let Some(termination) = Termination::of_curvature::<B::Elem>(smallest, largest) {
            return Ok(Err(termination));
        }
        values.iter_mut().for_each(|value| *value = 1.0 / (*value + shift));
        let reciprocals = Block::from_f64(operator.backend(), self.factors.values.layout(), &values);
        Ok(Ok(Box::new(KroneckerInverse { factors: self.factors.clone(), reciprocals })))
    }
}

struct KroneckerInverse<B: Backend> {
    factors: Arc<KroneckerFactors<B>>,
    /// `1 / (values + shift)`.
    reciprocals: Block<B>,
}

impl<B: Backend> Inverse<B> for KroneckerInverse<B> {
    fn apply(&self, b: &Block<B>, x: &mut Block<B>) {
        let backend = b.backend();
        for s in 0..b.layout().segments().len() {
            let parts = backend.map(b.k(), |j| self.apply_one(s, b.stacked(s, j, 1)));
            for (j, part) in parts.iter().enumerate() {
                let mut target = x.stacked_mut(s, j, 1);
                let source = View::new(part, 0, target.rows, target.cols);
                backend.copy(source, target.reborrow());
            }
        }
    }
}

impl<B: Backend> KroneckerInverse<B> {
    /// One vector of one segment, `out x in`.
    fn apply_one(&self, s: usize, b: View<B>) -> B::Buffer {
        let (backend, [rows, cols]) = (self.reciprocals.backend(), [b.rows, b.cols]);
        let len = rows * cols;
        let [mut half, mut whole] = [0, 1].map(|_| backend.zeros(len));
        let basis = self.factors.basis(s);
        match basis {
            Some([left, right]) => {
                backend.gemm(1.0, left, b, 0.0, ViewMut::new(&mut half, 0, rows, cols));
                let half = View::new(&half, 0, rows, cols);
                backend.gemm(1.0, half, right.t(), 0.0, ViewMut::new(&mut whole, 0, rows, cols));
            }
            None => backend.copy(b, ViewMut::new(&mut whole, 0, rows, cols)),
        }
        let mut scaled = backend.zeros(len);
        let by = self.reciprocals.segment(s);
        backend.paired_dots(View::new(&whole, 0, 1, len), by, ViewMut::new(&mut scaled, 0, 1, len));
        let Some([left, right]) = basis else { return scaled };
        let scaled = View::new(&scaled, 0, rows, cols);
        backend.gemm(1.0, left.t(), scaled, 0.0, ViewMut::new(&mut half, 0, rows, cols));
        let half = View::new(&half, 0, rows, cols);
        backend.gemm(1.0, half, right, 0.0, ViewMut::new(&mut whole, 0, rows, cols));
        whole
    }
}
