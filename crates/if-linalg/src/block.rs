//! Blocks of vectors: `k` right-hand sides, queries or directions that share every product.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Adam, Backend, CgProducts, CgStep, Real, View, ViewMut};

/// One matrix of parameters, such as a layer's weight with the bias as last column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Name of the owner, such as a layer.
    pub name: String,
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs, plus one where a bias is folded in).
    pub cols: usize,
}

/// How a vector of length `dim` is cut into matrices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    segments: Vec<Segment>,
    /// Position of each segment within one vector, and the total length at the end.
    starts: Vec<usize>,
}

impl Layout {
    /// A vector that is the concatenation of `segments`.
    pub fn new(segments: Vec<Segment>) -> Arc<Self> {
        let mut starts = vec![0];
        for segment in &segments {
            starts.push(starts[starts.len() - 1] + segment.rows * segment.cols);
        }
        Arc::new(Self { segments, starts })
    }

    /// A plain vector of length `n`.
    pub fn vector(n: usize) -> Arc<Self> {
        Self::new(vec![Segment { name: String::new(), rows: 1, cols: n }])
    }

    /// Length of one vector.
    pub fn dim(&self) -> usize {
        self.starts[self.segments.len()]
    }

    /// The matrices, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Position of segment `s` within one vector.
    pub fn start(&self, s: usize) -> usize {
        self.starts[s]
    }

    fn len(&self, s: usize) -> usize {
        self.starts[s + 1] - self.starts[s]
    }
}

/// `k` vectors of one [`Layout`], stored segment by segment: segment `s` is a contiguous
/// `(k, rows, cols)` array. So the directions of a layer are one `(k rows) x cols` matrix, and a
/// product with all of them is one GEMM; one vector is `k = 1`.
pub struct Block<B: Backend> {
    backend: B,
    layout: Arc<Layout>,
    k: usize,
    buffer: B::Buffer,
}

impl<B: Backend> Clone for Block<B> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(&self.backend, &self.layout, self.k);
        copy.copy_from(self);
        copy
    }
}

impl<B: Backend> Block<B> {
    /// `k` zero vectors.
    pub fn zeros(backend: &B, layout: &Arc<Layout>, k: usize) -> Self {
        let buffer = backend.zeros(k * layout.dim());
        Self { backend: backend.clone(), layout: layout.clone(), k, buffer }
    }

    /// From `k` host vectors, one after another (`k x dim`, row-major).
    pub fn from_rows(backend: &B, layout: &Arc<Layout>, rows: &[B::Elem]) -> Self {
        let dim = layout.dim();
        let k = rows.len().checked_div(dim).unwrap_or(0);
        assert_eq!(rows.len(), k * dim, "rows must be a multiple of the vector length {dim}");
        let mut host = Vec::with_capacity(rows.len());
        for s in 0..layout.segments.len() {
            for row in rows.chunks_exact(dim) {
                host.extend_from_slice(&row[layout.start(s)..layout.start(s) + layout.len(s)]);
            }
        }
        Self { backend: backend.clone(), layout: layout.clone(), k, buffer: backend.upload(&host) }
    }

    /// From `f64` host vectors (`k x dim`, row-major), rounded to the backend's type.
    pub fn from_f64(backend: &B, layout: &Arc<Layout>, rows: &[f64]) -> Self {
        let rows: Vec<B::Elem> = rows.iter().map(|v| B::Elem::from_f64(*v)).collect();
        Self::from_rows(backend, layout, &rows)
    }

    /// All vectors on the host, one after another (`k x dim`, row-major).
    pub fn to_rows(&self) -> Vec<B::Elem> {
        let dim = self.layout.dim();
        let mut rows = vec![B::Elem::ZERO; self.k * dim];
        for s in 0..self.layout.segments.len() {
            let (start, len) = (self.layout.start(s), self.layout.len(s));
            let host = self.backend.download(self.segment(s));
            for (row, part) in rows.chunks_exact_mut(dim).zip(host.chunks_exact(len)) {
                row[start..start + len].copy_from_slice(part);
            }
        }
        rows
    }

    /// [`to_rows`](Self::to_rows), widened to `f64`.
    pub fn to_f64(&self) -> Vec<f64> {
        self.to_rows().into_iter().map(Real::to_f64).collect()
    }

    /// A copy on another device, through the host.
    pub fn to(&self, backend: &B) -> Self {
        let buffer = self.backend.copied(&self.buffer, backend);
        Self { backend: backend.clone(), layout: self.layout.clone(), k: self.k, buffer }
    }

    /// Number of vectors.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Where the vectors live.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// How each vector is cut.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Segment `s` of all vectors, one vector a row: `k x (rows cols)`.
    pub fn segment(&self, s: usize) -> View<'_, B> {
        View::new(&self.buffer, self.k * self.layout.start(s), self.k, self.layout.len(s))
    }

    /// [`segment`](Self::segment), writable.
    pub fn segment_mut(&mut self, s: usize) -> ViewMut<'_, B> {
        ViewMut::new(&mut self.buffer, self.k * self.layout.start(s), self.k, self.layout.len(s))
    }

    /// Segment `s` of the vectors `start..start + count`, stacked: `(count rows) x cols`.
    pub fn stacked(&self, s: usize, start: usize, count: usize) -> View<'_, B> {
        let Segment { rows, cols, .. } = self.layout.segments[s];
        View::new(&self.buffer, self.k * self.layout.start(s) + start * rows * cols, count * rows, cols)
    }

    /// [`stacked`](Self::stacked), writable.
    pub fn stacked_mut(&mut self, s: usize, start: usize, count: usize) -> ViewMut<'_, B> {
        let Segment { rows, cols, .. } = self.layout.segments[s];
        let offset = self.k * self.layout.start(s) + start * rows * cols;
        ViewMut::new(&mut self.buffer, offset, count * rows, cols)
    }

    /// Overwrites with the contents of `x`, which has the same shape.
    pub fn copy_from(&mut self, x: &Self) {
        self.axpby(1.0, x, 0.0);
    }

    /// `self = alpha x + beta self`.
    pub fn axpby(&mut self, alpha: f64, x: &Self, beta: f64) {
        self.row_axpby(&vec![alpha; self.k], x, &vec![beta; self.k]);
    }

    /// Vector by vector: `self_i = alpha_i x_i + beta_i self_i`.
    pub fn row_axpby(&mut self, alpha: &[f64], x: &Self, beta: &[f64]) {
        assert_eq!((self.k, self.layout.dim()), (x.k, x.layout.dim()), "blocks differ in shape");
        let backend = self.backend.clone();
        for s in 0..self.layout.segments.len() {
            backend.row_axpby(alpha, x.segment(s), beta, self.segment_mut(s));
        }
    }

    /// Adds `alpha x` to the vectors `start..start + x.k()`.
    pub fn add_at(&mut self, start: usize, alpha: f64, x: &Self) {
        let backend = self.backend.clone();
        let coefficients = vec![alpha; x.k];
        let ones = vec![1.0; x.k];
        for s in 0..self.layout.segments.len() {
            let len = self.layout.len(s);
            let mut own = self.segment_mut(s);
            backend.row_axpby(&coefficients, x.segment(s), &ones, own.part(start, x.k, len));
        }
    }

    /// Adds each of `xs`, in order, to the vectors from `start` on.
    pub fn add_all_at(&mut self, start: usize, xs: &[&Self]) {
        let backend = self.backend.clone();
        let Some(k) = xs.first().map(|x| x.k) else { return };
        for s in 0..self.layout.segments.len() {
            let (len, parts) = (self.layout.len(s), xs.iter().map(|x| x.segment(s)).collect::<Vec<_>>());
            backend.add_all(&parts, self.segment_mut(s).part(start, k, len));
        }
    }

    /// `<self_i, x_i>` for every vector, in `f64`.
    pub fn dots(&self, x: &Self) -> Vec<f64> {
        let mut out = vec![0.0; self.k];
        let pairs: Vec<_> =
            (0..self.layout.segments.len()).map(|s| [self.segment(s), x.segment(s)]).collect();
        self.backend.dots(&pairs, &mut out);
        out
    }

    /// `<self_i, x_j>` for all pairs, `k x x.k()` row-major, accumulated in `f64` from chunks.
    pub fn gram(&self, x: &Self) -> Vec<f64> {
        let mut out = vec![0.0; self.k * x.k];
        for s in 0..self.layout.segments.len() {
            self.backend.gram(self.segment(s), x.segment(s), &mut out);
        }
        out
    }

    /// `self_i = beta self_i + sum_j m[i][j] x_j`, with `m` row-major.
    pub fn combine(&mut self, m: &[f64], x: &Self, beta: f64) {
        assert_eq!(m.len(), self.k * x.k, "a matrix of another shape");
        let backend = self.backend.clone();
        for s in 0..self.layout.segments.len() {
            backend.combine(m, x.segment(s), beta, self.segment_mut(s));
        }
    }

    /// Euclidean norm of every vector.
    pub fn norms(&self) -> Vec<f64> {
        self.dots(self).into_iter().map(f64::sqrt).collect()
    }

    /// The vectors at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut chosen = Self::zeros(&self.backend, &self.layout, indices.len());
        for s in 0..self.layout.segments.len() {
            self.backend.gather_rows(self.segment(s), indices, chosen.segment_mut(s));
        }
        chosen
    }

    /// Overwrites segment `s` of every vector with segment `t` of the vectors of `x`, which has as many, of that size.
    pub fn copy_segment(&mut self, s: usize, x: &Self, t: usize) {
        let backend = self.backend.clone();
        backend.copy(x.segment(t), self.segment_mut(s));
    }

    /// Overwrites vector `i` with vector `j` of `x`.
    pub fn set_row(&mut self, i: usize, x: &Self, j: usize) {
        let backend = self.backend.clone();
        for s in 0..self.layout.segments.len() {
            let len = self.layout.len(s);
            let offset = self.k * self.layout.start(s) + i * len;
            let target = ViewMut::new(&mut self.buffer, offset, 1, len);
            backend.copy(x.segment(s).row_range(j, 1), target);
        }
    }

    /// Every element becomes 0.
    pub fn clear(&mut self) {
        let (backend, len) = (self.backend.clone(), B::len(&self.buffer));
        backend.fill(0.0, ViewMut::new(&mut self.buffer, 0, 1, len));
    }

    /// Every element of vector `i` becomes `value`.
    pub fn fill_row(&mut self, i: usize, value: f64) {
        let backend = self.backend.clone();
        for s in 0..self.layout.segments.len() {
            let len = self.layout.len(s);
            let offset = self.k * self.layout.start(s) + i * len;
            backend.fill(value, ViewMut::new(&mut self.buffer, offset, 1, len));
        }
    }

    /// One step of Adam on all vectors, see [`Backend::adam_update`].
    pub fn adam_update(adam: &Adam, gradient: &Self, mean: &mut Self, square: &mut Self, theta: &mut Self) {
        let backend = theta.backend.clone();
        let len = B::len(&theta.buffer);
        backend.adam_update(
            adam,
            View::new(&gradient.buffer, 0, 1, len),
            ViewMut::new(&mut mean.buffer, 0, 1, len),
            ViewMut::new(&mut square.buffer, 0, 1, len),
            ViewMut::new(&mut theta.buffer, 0, 1, len),
        );
    }

    /// First half of a step of conjugate gradients on every vector, see [`Backend::cg_step`].
    pub fn cg_step(step: CgStep, p: &Self, q: &Self, x: &mut Self, r: &mut Self) -> B::CgSums {
        p.backend.cg_step(step, &p.parts(), [&p.buffer, &q.buffer], [&mut x.buffer, &mut r.buffer])
    }

    /// Second half, on the directions `self`, see [`Backend::cg_turn`].
    pub fn cg_turn(&mut self, sums: B::CgSums, r: &Self, z: Option<&Self>) -> CgProducts {
        let (backend, parts) = (self.backend.clone(), self.parts());
        backend.cg_turn(sums, &parts, &r.buffer, z.map(|z| &z.buffer), &mut self.buffer)
    }

    /// One step of LiSSA on every vector, see [`Backend::lissa_step`].
    pub fn lissa_step(&mut self, scale: f64, b: &Self, ax: &Self, sum: Option<&mut Self>) -> Vec<f64> {
        let (backend, parts, k) = (self.backend.clone(), self.parts(), self.k);
        let sum = sum.map(|sum| &mut sum.buffer);
        backend.lissa_step((scale, k), &parts, [&b.buffer, &ax.buffer], &mut self.buffer, sum)
    }

    /// Start of every segment in the buffer, and its length in one vector.
    fn parts(&self) -> Vec<(usize, usize)> {
        let all = 0..self.layout.segments.len();
        all.map(|s| (self.k * self.layout.start(s), self.layout.len(s))).collect()
    }
}
