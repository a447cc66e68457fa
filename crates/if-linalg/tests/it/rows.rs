//! A matrix that is given by its root.

use if_linalg::{Backend, Block, CurvatureRoot, SymmetricMatrix};

/// The rows of a block, as the root that [`Dual`](if_linalg::Dual) needs.
pub struct Rows<B: Backend>(pub Block<B>);

impl<B: Backend> CurvatureRoot<B> for Rows<B> {
    fn rank(&self) -> usize {
        self.0.k()
    }

    fn gram(&self) -> SymmetricMatrix {
        SymmetricMatrix::from_rows(self.0.k(), self.0.gram(&self.0))
    }

    fn project(&self, x: &Block<B>) -> Vec<f64> {
        x.gram(&self.0)
    }

    fn expand(&self, c: &[f64], y: &mut Block<B>) {
        y.combine(c, &self.0, 0.0);
    }
}
