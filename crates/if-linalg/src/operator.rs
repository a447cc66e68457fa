//! Linear operators on blocks, and their algebra.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Backend, Block, Layout, SymmetricMatrix, View, ViewMut};

/// What an operator promises about its eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Definiteness {
    /// All eigenvalues above 0.
    Positive,
    /// All eigenvalues at least 0.
    Semidefinite,
    /// No promise: a solver must watch for negative curvature.
    Unknown,
}

/// A symmetric linear map on vectors of one [`Layout`], applied to a whole [`Block`] at once.
pub trait LinearOperator<B: Backend>: Sync {
    /// Where it computes.
    fn backend(&self) -> &B;

    /// The vectors it acts on.
    fn layout(&self) -> &Arc<Layout>;

    /// `y = A x`, vector by vector. `x` and `y` have the same number of vectors.
    fn apply(&self, x: &Block<B>, y: &mut Block<B>);

    /// What is known of the eigenvalues.
    fn definiteness(&self) -> Definiteness {
        Definiteness::Unknown
    }

    /// Multiple of the identity that was added to the underlying curvature, for reports.
    fn damping(&self) -> f64 {
        0.0
    }

    /// The same operator as an average over examples, where it is one.
    fn as_finite_sum(&self) -> Option<&dyn FiniteSumOperator<B>> {
        None
    }

    /// Length of the vectors.
    fn dim(&self) -> usize {
        self.layout().dim()
    }

    /// The explicit matrix, in the order of [`Block::to_rows`]. The default is
    /// [`by_columns`]; an operator that knows a cheaper way overrides it.
    fn to_dense(&self) -> SymmetricMatrix {
        by_columns(self)
    }
}

/// The explicit matrix of any operator: its products with the identity, 64 columns at a time.
pub fn by_columns<B: Backend>(operator: &(impl LinearOperator<B> + ?Sized)) -> SymmetricMatrix {
    let n = operator.dim();
    let mut data = Vec::with_capacity(n * n);
    for start in (0..n).step_by(64) {
        let k = 64.min(n - start);
        let mut unit = vec![0.0; k * n];
        (0..k).for_each(|i| unit[i * n + start + i] = 1.0);
        let x = Block::from_f64(operator.backend(), operator.layout(), &unit);
        let mut y = Block::zeros(operator.backend(), operator.layout(), k);
        operator.apply(&x, &mut y);
        data.extend(y.to_f64());
    }
    SymmetricMatrix::from_rows(n, data)
}

/// An operator that is an average over examples, so that a part of them gives an unbiased estimate.
pub trait FiniteSumOperator<B: Backend>: LinearOperator<B> {
    /// Number of examples.
    fn examples(&self) -> usize;

    /// Like [`LinearOperator::apply`], with the average over all examples replaced by the average
    /// over `indices`. What is not a sum (l2, damping) stays whole.
    fn apply_batch(&self, indices: &[usize], x: &Block<B>, y: &mut Block<B>);

    /// The same operator on further devices, for work that is independent.
    fn replicas(&self) -> Vec<&dyn LinearOperator<B>> {
        Vec::new()
    }
}

/// An explicit symmetric matrix on the device.
pub struct DenseOperator<B: Backend> {
    backend: B,
    layout: Arc<Layout>,
    matrix: B::Buffer,
}

impl<B: Backend> DenseOperator<B> {
    /// Uploads `matrix`, rounded to the backend's type; vectors are plain (one segment).
    pub fn new(backend: &B, matrix: &SymmetricMatrix) -> Self {
        let layout = Layout::vector(matrix.dim());
        let rows = Block::<B>::from_f64(backend, &layout, matrix.as_slice());
        let matrix = backend.upload(&rows.to_rows());
        Self { backend: backend.clone(), layout, matrix }
    }
}

/// Rows of an explicit matrix that one task multiplies.
const DENSE_ROWS: usize = 512;

impl<B: Backend> LinearOperator<B> for DenseOperator<B> {
    fn backend(&self) -> &B {
        &self.backend
    }

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let (n, k) = (self.dim(), x.k());
        let parts = self.backend.map(n.div_ceil(DENSE_ROWS), |task| {
            let start = task * DENSE_ROWS;
            let rows = DENSE_ROWS.min(n - start);
            let a = View::new(&self.matrix, 0, n, n).row_range(start, rows);
            let mut part = self.backend.zeros(k * rows);
            self.backend.gemm(1.0, x.segment(0), a.t(), 0.0, ViewMut::new(&mut part, 0, k, rows));
            (start, rows, part)
        });
        for (start, rows, part) in parts {
            let mut target = y.segment_mut(0).with_stride(n);
            target.offset += start;
            target.cols = rows;
            self.backend.copy(View::new(&part, 0, k, rows), target);
        }
    }
}

/// `A + shift I`: damping, or an l2 that covers every parameter.
pub struct Shifted<'a, B: Backend> {
    /// `A`.
    pub operator: &'a dyn LinearOperator<B>,
    /// Multiple of the identity, in units of `A`.
    pub shift: f64,
}

impl<B: Backend> LinearOperator<B> for Shifted<'_, B> {
    fn backend(&self) -> &B {
        self.operator.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.operator.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        self.operator.apply(x, y);
        y.axpby(self.shift, x, 1.0);
    }

    fn definiteness(&self) -> Definiteness {
        match self.operator.definiteness() {
            Definiteness::Semidefinite if self.shift > 0.0 => Definiteness::Positive,
            known if self.shift >= 0.0 => known,
            _ => Definiteness::Unknown,
        }
    }

    fn damping(&self) -> f64 {
        self.operator.damping() + self.shift
    }

    fn to_dense(&self) -> SymmetricMatrix {
        let mut dense = self.operator.to_dense();
        dense.add_diagonal(self.shift);
        dense
    }
}

/// `alpha A`.
pub struct Scaled<'a, B: Backend> {
    /// `A`.
    pub operator: &'a dyn LinearOperator<B>,
    /// The factor.
    pub alpha: f64,
}

impl<B: Backend> LinearOperator<B> for Scaled<'_, B> {
    fn backend(&self) -> &B {
        self.operator.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.operator.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let mut product = Block::zeros(self.backend(), self.layout(), x.k());
        self.operator.apply(x, &mut product);
        y.axpby(self.alpha, &product, 0.0);
    }
}

/// `A + B`.
pub struct Sum<'a, B: Backend> {
    /// `A`.
    pub left: &'a dyn LinearOperator<B>,
    /// `B`, on the same layout.
    pub right: &'a dyn LinearOperator<B>,
}

impl<B: Backend> LinearOperator<B> for Sum<'_, B> {
    fn backend(&self) -> &B {
        self.left.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.left.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let mut second = Block::zeros(self.backend(), self.layout(), x.k());
        self.left.apply(x, y);
        self.right.apply(x, &mut second);
        y.axpby(1.0, &second, 1.0);
    }
}

/// `U^T diag(d) U`: a sum of `r` rank-one terms, with the vectors `u_i` as the rows of a block.
pub struct LowRank<'a, B: Backend> {
    /// The `r` vectors.
    pub vectors: &'a Block<B>,
    /// Their `r` coefficients.
    pub coefficients: &'a [f64],
}

impl<B: Backend> LinearOperator<B> for LowRank<'_, B> {
    fn backend(&self) -> &B {
        self.vectors.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.vectors.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let r = self.vectors.k();
        let mut c = x.gram(self.vectors);
        c.iter_mut().enumerate().for_each(|(i, value)| *value *= self.coefficients[i % r]);
        y.combine(&c, self.vectors, 0.0);
    }
}
