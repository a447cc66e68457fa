//! Products with the Hessian or the Gauss-Newton matrix of an empirical risk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use if_linalg::{
    Backend, Block, Definiteness, FiniteSumOperator, Layout, LinearOperator, Real, SymmetricMatrix, View,
    ViewMut, by_columns,
};
use serde::{Deserialize, Serialize};

use crate::inputs::{Batch, Rows};
use crate::layer::Scratch;
use crate::network::Network;
use crate::risk::EmpiricalRisk;
use crate::tape::{Deltas, Directions, Point, Tape};

/// Which matrix stands for the second derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curvature {
    /// The true Hessian of the data term; may be indefinite for networks with hidden layers.
    Hessian,
    /// `(1/n) sum J_i^T (d2 l / dz2) J_i` with `J_i = dz_i/dtheta`: positive semidefinite for
    /// convex losses, and equal to the Hessian for linear models.
    GaussNewton,
    /// The empirical Fisher matrix `(1/n) sum g_i g_i^T` of the loss gradients at the labels as they are; positive
    /// semidefinite. Unlike the Fisher matrix, which is the Gauss-Newton matrix of a softmax, it vanishes with the
    /// gradients of examples that are fitted.
    Fisher,
}

impl Curvature {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hessian => "hessian",
            Self::GaussNewton => "gauss-newton",
            Self::Fisher => "fisher",
        }
    }
}

/// `C + (l2 + damping) I` at fixed parameters, applied to a block of directions at once:
/// R-forward, Hessian of the loss, R-backward (Pearlmutter 1994) for the Hessian; the same with a
/// plain backward pass for Gauss-Newton (Schraudolph 2002) and, with `g g^T` in place of the loss's Hessian, for
/// the empirical Fisher matrix.
pub struct CurvatureOperator<'r, 'a, B: Backend> {
    risk: &'r EmpiricalRisk<'a, B>,
    theta: &'r Block<B>,
    curvature: Curvature,
    damping: f64,
    /// The passes over all row blocks, where they fit.
    kept: Option<Vec<Passes<B>>>,
    /// Examples times vectors that were multiplied so far.
    multiplied: AtomicUsize,
    /// The same on further devices.
    replicas: &'r [CurvatureOperator<'r, 'a, B>],
}

/// What all directions share of a row block.
struct Passes<B: Backend> {
    tape: Tape<B>,
    /// Output gradients with the examples' weights in; Gauss-Newton needs none.
    deltas: Option<Deltas<B>>,
}

impl<'r, 'a, B: Backend> CurvatureOperator<'r, 'a, B> {
    pub(crate) fn new(
        risk: &'r EmpiricalRisk<'a, B>,
        theta: &'r Block<B>,
        curvature: Curvature,
        damping: f64,
        cache: usize,
    ) -> Self {
        let (network, inputs) = (risk.network(), risk.inputs());
        let multiplied = AtomicUsize::new(0);
        let mut operator = Self { risk, theta, curvature, damping, kept: None, multiplied, replicas: &[] };
        if inputs.len().saturating_mul(network.passes_bytes()) <= cache {
            operator.kept = Some(network.backend().map(inputs.blocks(), |b| {
                let rows = inputs.block(b);
                operator.passes(&mut Scratch::new(network.backend()), &inputs.batch(rows), rows)
            }));
        }
        operator
    }

    /// The same operator with `replicas` of it on further devices, which take a share of work that is independent.
    pub fn with_replicas(self, replicas: &'r [Self]) -> Self {
        Self { replicas, ..self }
    }

    /// What is added to the diagonal beside l2, in units of the curvature; [`LinearOperator::damping`] has both.
    pub fn damping_beside_l2(&self) -> f64 {
        self.damping
    }

    /// Products with a vector so far, a batch of `m` of the `n` examples counted as `m / n`. The explicit matrix of a
    /// linear model takes none.
    pub fn products(&self) -> f64 {
        self.multiplied.load(Ordering::Relaxed) as f64 / self.risk.n() as f64
    }

    /// Forward, and for the Hessian backward.
    fn passes(&self, scratch: &mut Scratch<B>, batch: &Batch<B>, rows: Rows) -> Passes<B> {
        let network = self.risk.network();
        let tape = network.forward(scratch, self.theta, batch);
        let deltas = (self.curvature == Curvature::Hessian).then(|| {
            let weighted = self.risk.weighted_delta(scratch, &tape, rows);
            let dz = View::new(&weighted, 0, tape.rows, network.outputs());
            let deltas = network.deltas(scratch, Point::new(self.theta, batch, &tape), dz, false);
            scratch.give(weighted);
            deltas
        });
        Passes { tape, deltas }
    }

    /// Adds the products of the examples `rows` with the vectors `start..start + sum.k()` of `x`.
    fn add_rows(
        &self,
        scratch: &mut Scratch<B>,
        rows: Rows,
        kept: Option<&Passes<B>>,
        (x, start): (&Block<B>, usize),
        sum: &mut Block<B>,
    ) {
        let (network, inputs) = (self.risk.network(), self.risk.inputs());
        if let Some(Passes { tape, deltas }) = kept {
            let batch = inputs.batch(rows);
            let whole = Point::new(self.theta, &batch, tape);
            for (first, count) in network.parts(rows.len()) {
                let at = whole.part(first, count);
                self.add_part(scratch, (at, rows.part(first, count)), deltas.as_ref(), (x, start), sum);
            }
            return;
        }
        for (first, count) in network.parts(rows.len()) {
            let part = rows.part(first, count);
            let batch = inputs.batch(part);
            let Passes { tape, deltas } = self.passes(scratch, &batch, part);
            let at = Point::new(self.theta, &batch, &tape);
            self.add_part(scratch, (at, part), deltas.as_ref(), (x, start), sum);
            network.release(scratch, tape);
            deltas.into_iter().for_each(|deltas| network.release_deltas(scratch, deltas));
        }
    }

    /// The same for a part of a row block, whose passes are done.
    fn add_part(
        &self,
        scratch: &mut Scratch<B>,
        (at, rows): (Point<B>, Rows),
        deltas: Option<&Deltas<B>>,
        (x, start): (&Block<B>, usize),
        sum: &mut Block<B>,
    ) {
        let network = self.risk.network();
        let (outputs, weights) = (network.outputs(), self.risk.weights_of(rows));
        for first in (0..sum.k()).step_by(network.group()) {
            let k = network.group().min(sum.k() - first);
            let v = Directions { block: x, start: start + first, k };
            let tangents = network.jvp(scratch, at, v);
            let stacked = k * at.rows;
            let mut rdz = match self.curvature {
                Curvature::Fisher => network.delta_along(scratch, at, &tangents, k),
                Curvature::Hessian | Curvature::GaussNewton => network.r_delta(scratch, at, &tangents, k),
            };
            self.backend().scale_rows(weights.view(at.rows, 1), ViewMut::new(&mut rdz, 0, stacked, outputs));
            let dz = View::new(&rdz, 0, stacked, outputs);
            match deltas {
                Some(deltas) => {
                    network.r_backward(scratch, at, (v, &tangents), (deltas, dz), Some((&mut *sum, first)));
                }
                None => network.add_gradients(scratch, at, dz, (&mut *sum, first)),
            }
            scratch.give(rdz);
            tangents.into_iter().for_each(|buffer| scratch.give(buffer));
        }
    }

    /// `y_j = A_j x_j` where `A_j` is the operator without the examples `groups[j]`, removed as the risk says; `ax` is
    /// `A x`. With `C_j = (1/n) sum_{i in group} C_i` and the factor `c` by which the weights of the others grow,
    ///
    /// ```text
    /// A_j = c (A - C_j) - (c - 1) D        D = l2 + damping, the diagonal of A
    /// ```
    ///
    /// so that a product costs one over the group, not over all examples.
    pub fn apply_without(&self, groups: &[&[usize]], x: &Block<B>, ax: &Block<B>, y: &mut Block<B>) {
        let network = self.risk.network();
        let own = self.backend().map(groups.len(), |j| {
            let mut sum = Block::zeros(self.backend(), self.layout(), 1);
            network.with_scratch(|scratch| {
                for rows in groups[j].chunks(B::ROW_BLOCK) {
                    self.add_rows(scratch, Rows::Indices(rows), None, (x, j), &mut sum);
                }
            });
            sum
        });
        y.copy_from(ax);
        own.iter().enumerate().for_each(|(j, product)| y.add_at(j, -1.0, product));
        let growth: Vec<f64> = groups.iter().map(|group| self.risk.growth(group.len())).collect();
        if growth.iter().any(|c| *c != 1.0) {
            let mut diagonal = Block::zeros(self.backend(), self.layout(), x.k());
            self.add_diagonal(x, &mut diagonal);
            let minus: Vec<f64> = growth.iter().map(|c| 1.0 - c).collect();
            y.row_axpby(&minus, &diagonal, &growth);
        }
    }

    /// `(A - A_S) x + (c - 1) A x`, with `A_S` as in [`apply_without`](Self::apply_without), for a group of `size` examples
    /// to which every example belongs by `shares[i]`: `c (1/n) sum_i shares_i C_i x + (c - 1) D x`.
    pub fn apply_share(&self, shares: &[f64], size: usize, x: &Block<B>) -> Block<B> {
        let n = self.risk.n() as f64;
        let growth = self.risk.growth(size);
        let weights: Vec<f64> = shares.iter().map(|share| share / n).collect();
        let risk = self.risk.reweighted(&weights);
        let mut y = Block::zeros(self.backend(), self.layout(), x.k());
        let Self { theta, curvature, damping, .. } = *self;
        let multiplied = AtomicUsize::new(0);
        CurvatureOperator { risk: &risk, theta, curvature, damping, kept: None, multiplied, replicas: &[] }
            .apply(x, &mut y);
        let mut diagonal = Block::zeros(self.backend(), self.layout(), x.k());
        self.add_diagonal(x, &mut diagonal);
        y.axpby(-1.0, &diagonal, growth);
        y
    }

    /// The objective whose curvature it is.
    pub fn risk(&self) -> &'r EmpiricalRisk<'a, B> {
        self.risk
    }

    /// Which curvature it is.
    pub fn curvature(&self) -> Curvature {
        self.curvature
    }

    /// Where the curvature is taken.
    pub fn theta(&self) -> &'r Block<B> {
        self.theta
    }

    fn add_diagonal(&self, x: &Block<B>, y: &mut Block<B>) {
        self.risk.add_penalty_product(x, y);
        if self.damping != 0.0 {
            y.axpby(self.damping, x, 1.0);
        }
    }
}

impl<B: Backend> Network<B> {
    /// `Rdz = (d2 l / dz2) Rz`, the output gradients' derivative along `k` directions, from their tangents
    /// (those of [`jvp`](Self::jvp)): `(k rows) x outputs`.
    pub(crate) fn r_delta(
        &self,
        scratch: &mut Scratch<B>,
        at: Point<B>,
        tangents: &[B::Buffer],
        k: usize,
    ) -> B::Buffer {
        let (stacked, outputs) = (k * at.rows, self.outputs());
        let rz = View::new(&tangents[tangents.len() - 1], 0, stacked, outputs);
        let mut rdz = scratch.take(stacked * outputs);
        self.loss_hessian(at, rz, ViewMut::new(&mut rdz, 0, stacked, outputs));
        rdz
    }

    /// `<dl/dz, Rz> dl/dz`, what the empirical Fisher matrix has in place of [`r_delta`](Self::r_delta).
    fn delta_along(
        &self,
        scratch: &mut Scratch<B>,
        at: Point<B>,
        tangents: &[B::Buffer],
        k: usize,
    ) -> B::Buffer {
        let (rows, outputs) = (at.rows, self.outputs());
        let delta = at.rows_of(self.delta(at.tape));
        let [mut slopes, mut out] = [rows, k * rows * outputs].map(|len| scratch.take(len));
        for j in 0..k {
            let rz = View::new(&tangents[tangents.len() - 1], j * rows * outputs, rows, outputs);
            self.backend().row_dots(rz, delta, 0.0, ViewMut::new(&mut slopes, 0, rows, 1));
            let mut target = ViewMut::new(&mut out, j * rows * outputs, rows, outputs);
            self.backend().copy(delta, target.reborrow());
            self.backend().scale_rows(View::new(&slopes, 0, rows, 1), target);
        }
        scratch.give(slopes);
        out
    }
}

impl<B: Backend> LinearOperator<B> for CurvatureOperator<'_, '_, B> {
    fn backend(&self) -> &B {
        self.risk.network().backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.risk.network().layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let inputs = self.risk.inputs();
        self.multiplied.fetch_add(inputs.len() * x.k(), Ordering::Relaxed);
        y.clear();
        self.risk.network().sum_blocks(inputs.blocks(), y, |scratch, b, start, sum| {
            let kept = self.kept.as_ref().map(|kept| &kept[b]);
            self.add_rows(scratch, inputs.block(b), kept, (x, start), sum);
        });
        self.add_diagonal(x, y);
    }

    fn definiteness(&self) -> Definiteness {
        let linear = self.risk.network().is_linear();
        match self.curvature {
            Curvature::Hessian if !linear => Definiteness::Unknown,
            _ if self.damping < 0.0 => Definiteness::Unknown,
            _ if self.risk.least_penalty() + self.damping > 0.0 => Definiteness::Positive,
            _ => Definiteness::Semidefinite,
        }
    }

    fn damping(&self) -> f64 {
        self.risk.mean_l2() + self.damping
    }

    fn as_finite_sum(&self) -> Option<&dyn FiniteSumOperator<B>> {
        Some(self)
    }

    fn to_dense(&self) -> SymmetricMatrix {
        if !self.risk.network().is_linear() || self.curvature == Curvature::Fisher {
            return by_columns(self);
        }
        let mut dense = self.dense_of_one_layer();
        let ones = Block::from_f64(self.backend(), self.layout(), &vec![1.0; self.dim()]);
        let mut diagonal = Block::zeros(self.backend(), self.layout(), 1);
        self.add_diagonal(&ones, &mut diagonal);
        dense.add_to_diagonal(&diagonal.to_f64());
        dense
    }
}

impl<B: Backend> FiniteSumOperator<B> for CurvatureOperator<'_, '_, B> {
    fn examples(&self) -> usize {
        self.risk.n()
    }

    fn apply_batch(&self, indices: &[usize], x: &Block<B>, y: &mut Block<B>) {
        assert!(!indices.is_empty(), "a batch of no examples has no mean");
        self.multiplied.fetch_add(indices.len() * x.k(), Ordering::Relaxed);
        y.clear();
        let blocks = indices.len().div_ceil(B::ROW_BLOCK);
        let scale = self.risk.n() as f64 / indices.len() as f64;
        self.risk.network().sum_blocks(blocks, y, |scratch, b, start, sum| {
            let end = indices.len().min((b + 1) * B::ROW_BLOCK);
            let rows = Rows::Indices(&indices[b * B::ROW_BLOCK..end]);
            self.add_rows(scratch, rows, None, (x, start), sum);
        });
        y.axpby(0.0, x, scale);
        self.add_diagonal(x, y);
    }

    fn replicas(&self) -> Vec<&dyn LinearOperator<B>> {
        self.replicas.iter().map(|replica| replica as &dyn LinearOperator<B>).collect()
    }
}

/// Columns of the Hessian's tiles.
const TILE: usize = 256;

impl<B: Backend> CurvatureOperator<'_, '_, B> {
    /// `H_cd = X~^T diag(w_i h_i,cd) X~` for outputs `c`, `d` of a single dense layer, with `h_i` the
    /// loss's Hessian: half the work of applying the operator to the identity, or a tenth where the
    /// outputs are few.
    fn dense_of_one_layer(&self) -> SymmetricMatrix {
        let network = self.risk.network();
        let (outputs, n) = (network.outputs(), self.dim());
        let cols = n / outputs;
        let mut data = vec![0.0; n * n];
        let tiles: Vec<(usize, usize, usize)> = (0..outputs)
            .flat_map(|c| (0..=c).map(move |d| (c, d)))
            .filter(|(c, d)| c == d || network.loss().couples_outputs())
            .flat_map(|(c, d)| (0..cols).step_by(TILE).map(move |start| (c, d, start)))
            .collect();
        let wave = 2 * self.backend().concurrency();
        for tiles in tiles.chunks(wave) {
            let strips = self.backend().map(tiles.len(), |t| self.strip(tiles[t], cols));
            for ((c, d, start), strip) in tiles.iter().zip(strips) {
                for (i, row) in strip.chunks_exact(cols).enumerate() {
                    for (j, value) in row.iter().enumerate() {
                        let (i, j) = (c * cols + start + i, d * cols + j);
                        data[i * n + j] = *value;
                        data[j * n + i] = *value;
                    }
                }
            }
        }
        SymmetricMatrix::from_rows(n, data)
    }

    /// Rows `start..` (at most [`TILE`]) of `H_cd`.
    fn strip(&self, (c, d, start): (usize, usize, usize), cols: usize) -> Vec<f64> {
        let (network, inputs, backend) = (self.risk.network(), self.risk.inputs(), self.backend());
        let width = TILE.min(cols - start);
        let mut scratch = Scratch::new(backend);
        let mut strip = backend.zeros(width * cols);
        for b in 0..inputs.blocks() {
            let rows = inputs.block(b);
            let batch = inputs.batch(rows);
            let fresh = self.kept.is_none().then(|| network.forward(&mut scratch, self.theta, &batch));
            let kept = self.kept.as_ref().map(|kept| &kept[b].tape);
            let tape = kept.or(fresh.as_ref()).expect("one of the two");
            let h = self.loss_hessian_entries(tape, c, d);
            let mut weighted = scratch.take(tape.rows * width);
            let x = batch.x().col_range(0, cols);
            backend.copy(x.col_range(start, width), ViewMut::new(&mut weighted, 0, tape.rows, width));
            let h = backend.upload(&h);
            backend
                .scale_rows(View::new(&h, 0, tape.rows, 1), ViewMut::new(&mut weighted, 0, tape.rows, width));
            self.risk.weigh(rows, ViewMut::new(&mut weighted, 0, tape.rows, width));
            let left = View::new(&weighted, 0, tape.rows, width).t();
            backend.gemm(1.0, left, x, 1.0, ViewMut::new(&mut strip, 0, width, cols));
            scratch.give(weighted);
            if let Some(tape) = fresh {
                network.release(&mut scratch, tape);
            }
        }
        let host = backend.download(View::new(&strip, 0, width, cols));
        host.into_iter().map(Real::to_f64).collect()
    }

    /// `d2 l_i / dz_c dz_d` of a tape's examples.
    fn loss_hessian_entries(&self, tape: &Tape<B>, c: usize, d: usize) -> Vec<B::Elem> {
        let network = self.risk.network();
        let outputs = network.outputs();
        let curvature = self.backend().download(network.loss_curvature(tape));
        let entry = |p: &[B::Elem]| match network.loss().couples_outputs() {
            true if c == d => p[c] - p[c] * p[c],
            true => -(p[c] * p[d]),
            false => p[c],
        };
        curvature.chunks_exact(outputs).map(entry).collect()
    }
}
