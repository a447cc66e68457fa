//! The explicit diagonal block of every layer, factored on its own; what couples layers is left out.
//!
//! ```text
//! x_s = (A_ss)^-1 b_s        for every segment s of the layout
//! ```
//!
//! With one segment this is [`Cholesky`](crate::Cholesky). A segment of `p_s` parameters costs `p_s` products with the
//! whole operator, of which only its own part is kept: the whole matrix is never formed.

use std::sync::Arc;

use super::cholesky::factorise;
use crate::{
    Approximation, Backend, Block, CholeskyFactor, Inverse, Layout, LinalgError, LinearOperator, Real,
    Termination,
};

/// The recipe: a Cholesky factor of each segment's block, in `f64` whatever the backend computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerBlocks {
    /// Bytes that all explicit blocks together may take.
    pub memory_budget: usize,
}

impl<B: Backend> Approximation<B> for LayerBlocks {
    fn name(&self) -> &'static str {
        "layer-cholesky"
    }

    fn fit<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn Inverse<B> + 'a>, Termination>, LinalgError>
    where
        Self: 'a,
    {
        let blocks: Vec<DiagonalBlock<B>> =
            (0..operator.layout().segments().len()).map(|s| DiagonalBlock::new(operator, s)).collect();
        let largest = blocks.iter().map(|block| block.dim()).max().unwrap_or(0);
        let bytes = |block: &DiagonalBlock<B>| block.dim().saturating_pow(2).saturating_mul(size_of::<f64>());
        let needed = blocks.iter().map(bytes).fold(0, usize::saturating_add);
        if needed > self.memory_budget {
            return Err(LinalgError::BlocksTooLarge { largest, needed, budget: self.memory_budget });
        }
        // A direction within one segment is a direction of the whole: its curvature is the operator's.
        let factors: Result<Vec<CholeskyFactor>, Termination> =
            blocks.iter().map(|block| factorise(block)).collect();
        Ok(factors.map(|factors| Box::new(Factors(factors)) as _))
    }
}

/// `A_ss`: the operator on the vectors that are zero outside segment `s`.
struct DiagonalBlock<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    segment: usize,
    layout: Arc<Layout>,
}

impl<'a, B: Backend> DiagonalBlock<'a, B> {
    fn new(operator: &'a dyn LinearOperator<B>, segment: usize) -> Self {
        let layout = Layout::new(vec![operator.layout().segments()[segment].clone()]);
        Self { operator, segment, layout }
    }
}

impl<B: Backend> LinearOperator<B> for DiagonalBlock<'_, B> {
    fn backend(&self) -> &B {
        self.operator.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let (backend, layout) = (self.operator.backend(), self.operator.layout());
        let mut whole = Block::zeros(backend, layout, x.k());
        backend.copy(x.segment(0), whole.segment_mut(self.segment));
        let mut product = Block::zeros(backend, layout, x.k());
        self.operator.apply(&whole, &mut product);
        backend.copy(product.segment(self.segment), y.segment_mut(0));
    }
}

/// One factor for each segment.
struct Factors(Vec<CholeskyFactor>);

impl<B: Backend> Inverse<B> for Factors {
    fn apply(&self, b: &Block<B>, x: &mut Block<B>) {
        let backend = b.backend();
        for (s, factor) in self.0.iter().enumerate() {
            let mut rows: Vec<f64> = backend.download(b.segment(s)).into_iter().map(Real::to_f64).collect();
            factor.solve(&mut rows);
            let rows: Vec<B::Elem> = rows.into_iter().map(B::Elem::from_f64).collect();
            let target = x.segment_mut(s);
            backend.write(target.buffer, target.offset, &rows);
        }
    }
}
