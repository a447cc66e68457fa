//! Passes over all examples: per-example results block by block, sums segment by segment.

use if_linalg::{Backend, Block, Real, View, ViewMut};

use crate::inputs::{Inputs, Rows};
use crate::layer::Scratch;
use crate::network::{Directions, Network, Point};

impl<B: Backend> Network<B> {
    /// `f` on every row block of `inputs`, results in order.
    fn map_blocks<R: Send>(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        f: impl Fn(&mut Scratch<B>, Point<B>) -> R + Send + Sync,
    ) -> Vec<R> {
        self.backend().map(inputs.blocks(), |b| {
            let mut scratch = Scratch::new(self.backend());
            let batch = inputs.batch(inputs.block(b));
            let tape = self.forward(&mut scratch, theta, &batch);
            f(&mut scratch, Point { theta, batch: &batch, tape: &tape })
        })
    }

    /// Loss of every example, without regulariser (length `n`).
    pub fn example_losses(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        let blocks = self.map_blocks(inputs, theta, |_, at| self.host(self.losses(at.tape)));
        blocks.concat()
    }

    /// Outputs of every example, `n x outputs`, row-major.
    pub fn example_outputs(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        self.map_blocks(inputs, theta, |_, at| self.host(self.logits(at.tape))).concat()
    }

    /// `(dz/dtheta) v_j` of every example: `k x n x outputs`, row-major.
    pub fn output_tangents(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<f64> {
        let (n, outputs, k) = (inputs.len(), self.outputs(), v.k());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let tangents = self.jvp(scratch, at, Directions { block: v, start: 0, k });
            let last = tangents.last().expect("a network has layers");
            (at.tape.rows, self.host(View::new(last, 0, k * at.tape.rows, outputs)))
        });
        direction_major(blocks, k, n, outputs)
    }

    /// Norm of the loss gradient of every example (length `n`), without forming gradients.
    pub fn gradient_norms(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        let squares = self.map_blocks(inputs, theta, |scratch, at| {
            let mut sums = self.backend().zeros(at.tape.rows);
            self.backward(scratch, at, self.delta(at.tape), false, |scratch, _, layer, primal, dy| {
                layer.squared_norms(scratch, primal, dy, ViewMut::new(&mut sums, 0, dy.rows, 1));
            });
            self.host(View::new(&sums, 0, at.tape.rows, 1))
        });
        squares.concat().into_iter().map(f64::sqrt).collect()
    }

    /// Loss gradients of `rows`, one vector each (`rows.len()` times the size of the parameters).
    pub fn example_gradients(&self, inputs: &Inputs<B>, theta: &Block<B>, rows: Rows) -> Block<B> {
        let mut gradients = Block::zeros(self.backend(), self.layout(), rows.len());
        let mut scratch = Scratch::new(self.backend());
        let batch = inputs.batch(rows);
        let tape = self.forward(&mut scratch, theta, &batch);
        let (backend, at) = (self.backend(), Point { theta, batch: &batch, tape: &tape });
        self.backward(&mut scratch, at, self.delta(&tape), false, |_, s, layer, at, dy| {
            layer.example_gradients(at, dy, backend, gradients.segment_mut(s));
        });
        gradients
    }

    /// `<grad l_i, v_j>` of every example with every vector, `k x n` row-major, without forming the
    /// gradients: the scores of influence functions, and the JVP of the losses.
    pub fn scores(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<B::Elem> {
        let (n, k) = (inputs.len(), v.k());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let mut sums = self.backend().zeros(at.tape.rows * k);
            self.backward(scratch, at, self.delta(at.tape), false, |scratch, s, layer, primal, dy| {
                let target = ViewMut::new(&mut sums, 0, dy.rows, k);
                layer.scores(scratch, primal, dy, v.stacked(s, 0, k), target);
            });
            self.backend().download(View::new(&sums, 0, at.tape.rows, k))
        });
        let mut all = vec![B::Elem::ZERO; k * n];
        for (i, row) in blocks.iter().flat_map(|block| block.chunks_exact(k)).enumerate() {
            row.iter().enumerate().for_each(|(j, score)| all[j * n + i] = *score);
        }
        all
    }

    /// `dl/dx` of every example, `n x inputs` row-major; zeros where examples are token ids.
    pub fn input_gradients(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        let width = self.inputs();
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let dx = self.backward(scratch, at, self.delta(at.tape), true, |_, _, _, _, _| {});
            self.host(View::new(&dx.expect("asked for"), 0, at.tape.rows, width))
        });
        blocks.concat()
    }

    /// `d/dx <grad_theta l_i, v_j>`, how a change of the input changes a score: `k x n x inputs`,
    /// row-major. The R-backward pass carried on to the input (Koh & Liang 2017, section 2.2). Zeros where
    /// examples are token ids.
    pub fn mixed_products(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<f64> {
        let (n, width, k) = (inputs.len(), self.inputs(), v.k());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let (rows, outputs) = (at.tape.rows, self.outputs());
            let v = Directions { block: v, start: 0, k };
            let tangents = self.jvp(scratch, at, v);
            let mut rdz = scratch.take(k * rows * outputs);
            let rz = View::new(&tangents[tangents.len() - 1], 0, k * rows, outputs);
            self.loss_hessian(at.tape, rz, ViewMut::new(&mut rdz, 0, k * rows, outputs));
            let deltas = (self.delta(at.tape), View::new(&rdz, 0, k * rows, outputs));
            let rdx = self.r_backward(scratch, at, (v, &tangents), deltas, None);
            (rows, self.host(View::new(&rdx.expect("asked for"), 0, k * rows, width)))
        });
        direction_major(blocks, k, n, width)
    }

    fn host(&self, x: View<B>) -> Vec<f64> {
        self.backend().download(x).into_iter().map(Real::to_f64).collect()
    }
}

/// Row blocks of `k` directions (`k x rows x width` each) as one `k x n x width` array.
fn direction_major(blocks: Vec<(usize, Vec<f64>)>, k: usize, n: usize, width: usize) -> Vec<f64> {
    let mut all = vec![0.0; k * n * width];
    let mut start = 0;
    for (rows, part) in blocks {
        for j in 0..k {
            let target = (j * n + start) * width;
            all[target..target + rows * width].copy_from_slice(&part[j * rows * width..][..rows * width]);
        }
        start += rows;
    }
    all
}

/// Parts of a sum over examples that are added up apart. A constant: it fixes the order of
/// summation, and bounds how many processors a single vector can use.
const SEGMENTS: usize = 16;
/// Directions that share one forward pass and one accumulator.
const DIRECTIONS: usize = 32;

/// How a sum over row blocks, for `k` vectors, is cut into tasks.
pub(crate) struct Plan {
    blocks: usize,
    segments: usize,
    k: usize,
}

/// One task of a [`Plan`]: some row blocks and some vectors.
pub(crate) struct Task {
    /// Row blocks `first..last`.
    pub blocks: std::ops::Range<usize>,
    /// Vectors `start..start + len`.
    pub vectors: (usize, usize),
}

impl Plan {
    pub fn new(blocks: usize, k: usize) -> Self {
        Self { blocks, segments: SEGMENTS.min(blocks), k }
    }

    fn task(&self, t: usize) -> Task {
        let (chunk, segment) = (t / self.segments, t % self.segments);
        let bound = |s: usize| s * self.blocks / self.segments;
        let start = chunk * DIRECTIONS;
        Task { blocks: bound(segment)..bound(segment + 1), vectors: (start, DIRECTIONS.min(self.k - start)) }
    }

    /// Adds `body`'s sums to `out`, task by task in order. Only as many tasks are in flight as the
    /// device can use, so that memory is bounded; the order of summation never changes.
    pub fn sum<B: Backend>(&self, out: &mut Block<B>, body: impl Fn(&Task, &mut Block<B>) + Send + Sync) {
        let (backend, layout) = (out.backend().clone(), out.layout().clone());
        let tasks = self.segments * self.k.div_ceil(DIRECTIONS);
        let wave = 2 * backend.concurrency();
        for first in (0..tasks).step_by(wave) {
            let sums = backend.map(wave.min(tasks - first), |i| {
                let task = self.task(first + i);
                let mut sum = Block::zeros(&backend, &layout, task.vectors.1);
                body(&task, &mut sum);
                (task.vectors.0, sum)
            });
            for (start, sum) in sums {
                out.add_at(start, 1.0, &sum);
            }
        }
    }
}
