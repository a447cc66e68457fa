//! Scores without per-example gradients: per layer the cheapest of three ways, by counted multiply-adds.
//!
//! A layer's gradient of one example is a sum of `R` outer products, `g_i = sum_r d_ir a_ir^T` (`out x (in + 1)`;
//! `R = 1` for a dense layer, the number of positions for a convolution). Against `k` vectors `V_j`:
//!
//! ```text
//! pairwise       V_j = sum_s u_js w_js^T  (S terms):   sum_rs (d_ir . u_js) (a_ir . w_js)    k R S (out + in)
//! ghost          V_j whole:                            sum_r d_ir . (V_j a_ir)               k R out in
//! materialised   V_j whole:                            <g_i, V_j>                            (R + k) out in
//! ```

use if_linalg::{Backend, Block, Segment, View, ViewMut};

use crate::inputs::{Inputs, Rows};
use crate::layer::{Factors, Layer, Primal, Scratch};
use crate::network::Network;
use crate::passes::direction_major;
use crate::replica::Replica;
use crate::tape::Point;

/// How a layer's share of a score is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoringWay {
    /// Factors of the gradient against factors of the vector.
    Pairwise,
    /// Factors of the gradient against the whole vector.
    Ghost,
    /// The gradients are formed, some examples at a time.
    Materialised,
}

impl ScoringWay {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pairwise, Self::Ghost, Self::Materialised];

    /// The cheapest for `k` vectors, whole or of `terms` outer products each.
    pub fn cheapest<B: Backend>(layer: &dyn Layer<B>, k: usize, terms: Option<usize>) -> Self {
        let cost = |way: &Self| layer.scoring_cost(*way, k, terms).unwrap_or(f64::INFINITY);
        let by_cost = |a: &Self, b: &Self| cost(a).total_cmp(&cost(b));
        Self::ALL.into_iter().min_by(by_cost).expect("there are three ways")
    }
}

/// `k` vectors in the parameters of one layer.
pub enum LayerVectors<'a, B: Backend> {
    /// `(k out) x (in + 1)`.
    Whole(View<'a, B>),
    /// Each a sum of outer products.
    Outer(Factors<'a, B>),
    /// Random signs that are not kept.
    Signs(Signs),
}

/// `k` vectors of random signs in the parameters of one layer, row by row and one after another parts of one
/// [stream](if_linalg::SignStream): made when they are needed, some vectors at a time.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// Of the stream.
    pub key: u64,
    /// Size of every entry.
    pub scale: f64,
}

/// `k` vectors of parameters, layer by layer whole or as sums of outer products.
pub struct Vectors<B: Backend> {
    k: usize,
    parts: Vec<VectorsPart<B>>,
}

/// The share of one layer.
pub(crate) struct VectorsPart<B: Backend> {
    /// Of one term, or of the whole matrix.
    pub rows: usize,
    pub cols: usize,
    pub numbers: Numbers<B>,
}

/// The numbers of `k` vectors, as [`LayerVectors`] reads them.
pub(crate) enum Numbers<B: Backend> {
    Whole(B::Buffer),
    Outer { terms: usize, left: B::Buffer, right: B::Buffer },
    Signs(Signs),
}

impl<B: Backend> Vectors<B> {
    /// `k` vectors with one part for each layer with parameters, in order.
    pub(crate) fn new(k: usize, parts: Vec<VectorsPart<B>>) -> Self {
        Self { k, parts }
    }

    /// Number of vectors.
    pub fn k(&self) -> usize {
        self.k
    }

    /// A copy of what is on the device `from`, through the host.
    pub(crate) fn copied(&self, from: &B, to: &B) -> Self {
        let copy = |buffer: &B::Buffer| from.copied(buffer, to);
        let part = |VectorsPart { rows, cols, numbers }: &VectorsPart<B>| VectorsPart {
            rows: *rows,
            cols: *cols,
            numbers: match numbers {
                Numbers::Whole(whole) => Numbers::Whole(copy(whole)),
                Numbers::Outer { terms, left, right } => {
                    Numbers::Outer { terms: *terms, left: copy(left), right: copy(right) }
                }
                Numbers::Signs(signs) => Numbers::Signs(*signs),
            },
        };
        Self { k: self.k, parts: self.parts.iter().map(part).collect() }
    }

    /// The share of the layer with segment `s`.
    pub fn layer(&self, s: usize) -> LayerVectors<'_, B> {
        let VectorsPart { rows, cols, numbers } = &self.parts[s];
        match numbers {
            Numbers::Whole(whole) => LayerVectors::Whole(View::new(whole, 0, self.k * rows, *cols)),
            Numbers::Outer { terms, left, right } => LayerVectors::Outer(Factors {
                terms: *terms,
                left: View::new(left, 0, self.k * terms, *rows),
                right: View::new(right, 0, self.k * terms, *cols),
            }),
            Numbers::Signs(signs) => LayerVectors::Signs(*signs),
        }
    }
}

/// Numbers of the gradients that are formed together, where a cache counts. A constant, so that memory is bounded.
pub(crate) const GRADIENTS: usize = 1 << 20;
/// Random signs that are made together, and numbers of the gradients that meet them, where a cache counts; elsewhere a
/// part of what is in hand.
const SIGNS: usize = 1 << 22;

/// Adds `<g_i, v_j>` to `out` (`rows x k`) in the cheaper way without factors of the vectors.
fn whole_scores<B: Backend>(
    layer: &dyn Layer<B>,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    v: View<B>,
    out: ViewMut<B>,
) {
    match ScoringWay::cheapest(layer, out.cols, None) {
        ScoringWay::Ghost => layer.ghost_scores(scratch, at, dy, v, out),
        _ => materialised_scores(layer, scratch, at, dy, v, out),
    }
}

/// Adds `<g_i, v_j>` to `out` (`rows x k`) for vectors of signs, in the way that is cheapest for all of them.
fn sign_scores<B: Backend>(
    layer: &dyn Layer<B>,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    signs: Signs,
    mut out: ViewMut<B>,
) {
    let [rows, cols] = layer.segment().map_or([0; 2], |segment| [segment.rows, segment.cols]);
    let (size, k) = (rows * cols, out.cols);
    let numbers = B::IN_HAND.map_or(SIGNS, |numbers| numbers / 16);
    let each_group = |scratch: &mut Scratch<B>, f: &mut dyn FnMut(&mut Scratch<B>, usize, View<B>)| {
        let group = (numbers / size.max(1)).clamp(1, k);
        let mut some = scratch.take(group * size);
        for first in (0..k).step_by(group) {
            let count = group.min(k - first);
            let target = ViewMut::new(&mut some, 0, 1, count * size);
            scratch.backend().signs(signs.key, (first * size) as u64, signs.scale, target);
            f(scratch, first, View::new(&some, 0, count * rows, cols));
        }
        scratch.give(some);
    };
    if ScoringWay::cheapest(layer, k, None) == ScoringWay::Ghost {
        each_group(scratch, &mut |scratch, first, v| {
            layer.ghost_scores(scratch, at, dy, v, out.col_part(first, v.rows / rows));
        });
        return;
    }
    each_gradients(layer, scratch, (at, dy), numbers, |scratch, start, gradients| {
        each_group(scratch, &mut |scratch, first, v| {
            let v = v.reshape(v.rows / rows, size);
            let mut some = out.part(start, gradients.rows, k);
            scratch.backend().gemm(1.0, gradients, v.t(), 1.0, some.col_part(first, v.rows));
        });
    });
}

/// Adds `<g_i, v_j>` to `out` (`rows x k`) with the gradients formed.
pub(crate) fn materialised_scores<B: Backend>(
    layer: &dyn Layer<B>,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    v: View<B>,
    mut out: ViewMut<B>,
) {
    let k = out.cols;
    let v = View::new(v.buffer, v.offset, k, v.rows / k * v.cols);
    each_gradients(layer, scratch, (at, dy), GRADIENTS, |scratch, first, gradients| {
        scratch.backend().gemm(1.0, gradients, v.t(), 1.0, out.part(first, gradients.rows, k));
    });
}

/// Adds `|g_i|^2` to `out` (`rows x 1`) with the gradients formed.
pub(crate) fn materialised_norms<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    mut out: ViewMut<B>,
) {
    each_gradients(layer, scratch, (at, dy), GRADIENTS, |scratch, first, gradients| {
        scratch.backend().row_dots(gradients, gradients, 1.0, out.part(first, gradients.rows, 1));
    });
}

/// Calls `f` with the first of some examples and their gradients, one a row: `numbers` together where a cache counts.
pub(crate) fn each_gradients<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    (at, dy): (Primal<B>, View<B>),
    numbers: usize,
    mut f: impl FnMut(&mut Scratch<B>, usize, View<B>),
) {
    let size = layer.segment().map_or(0, |segment| segment.rows * segment.cols);
    let group = (B::IN_HAND.unwrap_or(numbers) / size).clamp(1, dy.rows);
    let mut gradients = scratch.take(group * size);
    for first in (0..dy.rows).step_by(group) {
        let count = group.min(dy.rows - first);
        let target = ViewMut::new(&mut gradients, 0, count, size);
        layer.example_gradients(scratch, at.part(first, count), dy.row_range(first, count), target);
        f(scratch, first, View::new(&gradients, 0, count, size));
    }
    scratch.give(gradients);
}

impl<B: Backend> Network<B> {
    /// `<grad l_i, v_j>` of every example with every vector, `k x n` row-major, without keeping the
    /// gradients: the scores of influence functions, and the JVP of the losses.
    pub fn scores(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<B::Elem> {
        self.scores_at(inputs, theta, Rows::Range(0, inputs.len()), v)
    }

    /// [`scores`](Self::scores) against vectors that some layers hold as sums of outer products: pairwise there.
    pub fn scores_of(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Vectors<B>) -> Vec<B::Elem> {
        self.scores_of_at(inputs, theta, Rows::Range(0, inputs.len()), v)
    }

    /// Inner products of the loss gradients of the `queries` with those of every example of `inputs`,
    /// `queries x n` row-major: scores against [`gradient_vectors`](Self::gradient_vectors).
    pub fn gradient_products(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        (queries, rows): (&Inputs<B>, Rows),
    ) -> Vec<B::Elem> {
        self.gradient_products_with(&[], inputs, theta, (queries, rows))
    }

    /// [`gradient_products`](Self::gradient_products), shared with `replicas` as by [`scores_with`](Self::scores_with).
    pub fn gradient_products_with(
        &self,
        replicas: &[Replica<B>],
        inputs: &Inputs<B>,
        theta: &Block<B>,
        (queries, rows): (&Inputs<B>, Rows),
    ) -> Vec<B::Elem> {
        self.scores_of_with(replicas, inputs, theta, &self.gradient_vectors(queries, theta, rows))
    }

    /// Loss gradients of `rows`, in factors wherever scores against them are cheapest so.
    pub fn gradient_vectors(&self, inputs: &Inputs<B>, theta: &Block<B>, rows: Rows) -> Vectors<B> {
        let k = rows.len();
        let mut parts = Vec::new();
        self.at_rows(inputs, theta, rows, |scratch, at| {
            self.each_layer(scratch, at, |scratch, s, layer, primal, dy| {
                let Segment { rows, cols, .. } = self.layout().segments()[s];
                let terms = layer.gradient_terms();
                let numbers = match (ScoringWay::cheapest(layer, k, terms), terms) {
                    (ScoringWay::Pairwise, Some(terms)) => {
                        let mut left = self.backend().zeros(k * terms * rows);
                        let mut right = self.backend().zeros(k * terms * cols);
                        let targets = (
                            ViewMut::new(&mut left, 0, k * terms, rows),
                            ViewMut::new(&mut right, 0, k * terms, cols),
                        );
                        layer.gradient_factors(scratch, primal, dy, targets);
                        Numbers::Outer { terms, left, right }
                    }
                    _ => {
                        let mut whole = self.backend().zeros(k * rows * cols);
                        let target = ViewMut::new(&mut whole, 0, k, rows * cols);
                        layer.example_gradients(scratch, primal, dy, target);
                        Numbers::Whole(whole)
                    }
                };
                parts.push((s, VectorsPart { rows, cols, numbers }));
            });
        });
        parts.sort_by_key(|(s, _)| *s);
        Vectors::new(k, parts.into_iter().map(|(_, part)| part).collect())
    }

    /// [`scores`](Self::scores) of the examples `rows` alone, `k x rows.len()`.
    pub fn scores_at(&self, inputs: &Inputs<B>, theta: &Block<B>, rows: Rows, v: &Block<B>) -> Vec<B::Elem> {
        self.scores_against(inputs, theta, rows, v.k(), |s| LayerVectors::Whole(v.stacked(s, 0, v.k())))
    }

    /// [`scores_of`](Self::scores_of) the examples `rows` alone, `k x rows.len()`.
    pub(crate) fn scores_of_at(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        rows: Rows,
        v: &Vectors<B>,
    ) -> Vec<B::Elem> {
        self.scores_against(inputs, theta, rows, v.k(), |s| v.layer(s))
    }

    fn scores_against<'v>(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        rows: Rows,
        k: usize,
        vectors: impl Fn(usize) -> LayerVectors<'v, B> + Send + Sync,
    ) -> Vec<B::Elem>
    where
        B: 'v,
    {
        if k == 0 {
            return Vec::new();
        }
        let parts = self.backend().map(rows.len().div_ceil(B::ROW_BLOCK), |b| {
            let first = b * B::ROW_BLOCK;
            let part = rows.part(first, B::ROW_BLOCK.min(rows.len() - first));
            self.at_rows(inputs, theta, part, |scratch, at| self.scores_of_pass(scratch, at, k, &vectors))
        });
        direction_major(parts.into_iter(), k, rows.len(), 1)
    }

    /// The number of examples of a pass and their scores, `k x rows`.
    fn scores_of_pass<'v>(
        &self,
        scratch: &mut Scratch<B>,
        at: Point<B>,
        k: usize,
        vectors: impl Fn(usize) -> LayerVectors<'v, B>,
    ) -> (usize, Vec<B::Elem>)
    where
        B: 'v,
    {
        let mut sums = self.backend().zeros(at.rows * k);
        self.each_layer(scratch, at, |scratch, s, layer, primal, dy| {
            let out = ViewMut::new(&mut sums, 0, at.rows, k);
            match vectors(s) {
                LayerVectors::Outer(factors) => layer.pairwise_scores(scratch, primal, dy, factors, out),
                LayerVectors::Whole(v) => whole_scores(layer, scratch, primal, dy, v, out),
                LayerVectors::Signs(signs) => sign_scores(layer, scratch, primal, dy, signs, out),
            }
        });
        let mut by_vector = scratch.take(at.rows * k);
        let target = ViewMut::new(&mut by_vector, 0, k, at.rows);
        self.backend().swap_axes([at.rows, k, 1], View::new(&sums, 0, at.rows, k), target);
        let scores = self.backend().download(View::new(&by_vector, 0, k, at.rows));
        scratch.give(by_vector);
        (at.rows, scores)
    }
}
