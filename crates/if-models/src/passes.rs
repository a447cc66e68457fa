//! Passes over all examples: per-example results block by block, sums segment by segment.

use std::sync::{Arc, Mutex, PoisonError};

use if_linalg::{Backend, Block, Layout, Real, View, ViewMut};

use crate::ModelError;
use crate::inputs::{Inputs, Rows};
use crate::layer::{Layer, Primal, Scratch, products};
use crate::network::Network;
use crate::tape::{Directions, Point};

impl<B: Backend> Network<B> {
    /// `f` on every row block of `inputs`, results in order.
    pub(crate) fn map_blocks<R: Send>(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        f: impl Fn(&mut Scratch<B>, Point<B>) -> R + Send + Sync,
    ) -> Vec<R> {
        self.backend().map(inputs.blocks(), |b| self.at_rows(inputs, theta, inputs.block(b), &f))
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

    /// What goes into the layer `name`, one vector for each example: features, by which examples are found that are like
    /// each other.
    ///
    /// # Errors
    /// A name that no layer with parameters has.
    pub fn layer_inputs(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        name: &str,
    ) -> Result<Block<B>, ModelError> {
        let s = self.segments_named(&[name])?.iter().position(|own| *own).expect("it was named");
        let l = self.with_parameters().nth(s).expect("a segment belongs to a layer");
        let features = self.activations_into(inputs, theta, l);
        let layout = Layout::vector(features.len() / inputs.len());
        Ok(Block::from_f64(self.backend(), &layout, &features))
    }

    /// What goes into layer `l`, row after row.
    pub(crate) fn activations_into(&self, inputs: &Inputs<B>, theta: &Block<B>, l: usize) -> Vec<f64> {
        let blocks = self.map_blocks(inputs, theta, |_, at| {
            let x = self.primal(l, at).x;
            self.host(x.col_range(0, x.cols - 1))
        });
        blocks.concat()
    }

    /// `dl/dz` of every example, `n x outputs`, row-major.
    pub fn output_gradients(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        self.map_blocks(inputs, theta, |_, at| self.host(self.delta(at.tape))).concat()
    }

    /// `(dz/dtheta) v_j` of every example: `k x n x outputs`, row-major.
    pub fn output_tangents(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<f64> {
        let (n, outputs, k) = (inputs.len(), self.outputs(), v.k());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            self.map_parts(at, k, |part, start, k| {
                let tangents = self.jvp(scratch, part, Directions { block: v, start, k });
                let last = self.host(View::new(&tangents[tangents.len() - 1], 0, k * part.rows, outputs));
                tangents.into_iter().for_each(|buffer| scratch.give(buffer));
                last
            })
        });
        direction_major(blocks.into_iter().flatten(), k, n, outputs)
    }

    /// `u_j^T J_i^T (d2 l_i / dz2) J_i v_j` of every example, `J_i = dz_i/dtheta`: the share of example `i` in a form of
    /// the Gauss-Newton matrix, `k x n`, row-major. `u` and `v` have as many vectors.
    pub fn curvature_forms(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        u: &Block<B>,
        v: &Block<B>,
    ) -> Vec<f64> {
        assert_eq!(u.k(), v.k(), "one vector on the left for each on the right");
        let (n, k, outputs) = (inputs.len(), u.k(), self.outputs());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            self.map_parts(at, k, |part, start, k| {
                let stacked = k * part.rows;
                let left = self.jvp(scratch, part, Directions { block: u, start, k });
                let right = self.jvp(scratch, part, Directions { block: v, start, k });
                let product = self.r_delta(scratch, part, &right, k);
                let mut forms = scratch.take(stacked);
                self.backend().row_dots(
                    View::new(&left[left.len() - 1], 0, stacked, outputs),
                    View::new(&product, 0, stacked, outputs),
                    0.0,
                    ViewMut::new(&mut forms, 0, stacked, 1),
                );
                let host = self.host(View::new(&forms, 0, stacked, 1));
                left.into_iter().chain(right).chain([product, forms]).for_each(|buffer| scratch.give(buffer));
                host
            })
        });
        direction_major(blocks.into_iter().flatten(), k, n, 1)
    }

    /// Norm of the loss gradient of every example (length `n`), without forming gradients.
    pub fn gradient_norms(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        let mut squares = vec![0.0; inputs.len()];
        for layer in self.layer_squared_norms(inputs, theta) {
            squares.iter_mut().zip(layer).for_each(|(sum, square)| *sum += square);
        }
        squares.into_iter().map(f64::sqrt).collect()
    }

    /// The squared norm of every layer's share of every example's loss gradient: for each layer with
    /// parameters, in the order of the layout's segments, a vector of length `n`.
    pub fn layer_squared_norms(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<Vec<f64>> {
        let layers = self.layout().segments().len();
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let mut squares = self.backend().zeros(layers * at.rows);
            self.each_layer(scratch, at, |scratch, s, layer, primal, dy| {
                let target = ViewMut::new(&mut squares, s * at.rows, at.rows, 1);
                layer.squared_norms(scratch, primal, dy, target);
            });
            self.host(View::new(&squares, 0, layers, at.rows))
        });
        let share = |(block, squares): (usize, &Vec<f64>), s: usize| {
            let rows = inputs.block(block).len();
            squares[s * rows..(s + 1) * rows].to_vec()
        };
        (0..layers).map(|s| blocks.iter().enumerate().flat_map(|block| share(block, s)).collect()).collect()
    }

    /// Loss gradients of `rows`, one vector each (`rows.len()` times the size of the parameters).
    pub fn example_gradients(&self, inputs: &Inputs<B>, theta: &Block<B>, rows: Rows) -> Block<B> {
        let mut gradients = Block::zeros(self.backend(), self.layout(), rows.len());
        self.at_rows(inputs, theta, rows, |scratch, at| {
            self.each_layer(scratch, at, |scratch, s, layer, primal, dy| {
                layer.example_gradients(scratch, primal, dy, gradients.segment_mut(s));
            });
        });
        gradients
    }

    /// Calls `f` with the pass over `rows`.
    pub(crate) fn at_rows<R>(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        rows: Rows,
        f: impl FnOnce(&mut Scratch<B>, Point<B>) -> R,
    ) -> R {
        self.with_scratch(|scratch| {
            let batch = inputs.batch(rows);
            let tape = self.forward(scratch, theta, &batch);
            let result = f(scratch, Point::new(theta, &batch, &tape));
            self.release(scratch, tape);
            result
        })
    }

    /// Calls `f(scratch, segment, layer, primal, dy)` for every layer with parameters, in any order, `dy` the gradient of
    /// the loss with respect to its output.
    pub(crate) fn each_layer(
        &self,
        scratch: &mut Scratch<B>,
        at: Point<B>,
        mut f: impl FnMut(&mut Scratch<B>, usize, &dyn Layer<B>, Primal<B>, View<B>),
    ) {
        let delta = self.delta(at.tape);
        if B::IN_HAND.is_some() {
            // All examples go back together: there is nothing to keep.
            self.backward(scratch, at, delta, false, |scratch, l, primal, dy| {
                if let Some(s) = self.segments[l] {
                    f(scratch, s, &*self.layers()[l], primal, dy);
                }
            });
            return;
        }
        let layers: Vec<usize> = self.with_parameters().collect();
        let sizes = layers.iter().map(|&l| at.rows * self.layers()[l].width());
        let mut deltas: Vec<B::Buffer> = sizes.map(|len| scratch.take(len)).collect();
        for (first, rows) in self.parts(at.rows) {
            self.backward(
                scratch,
                at.part(first, rows),
                delta.row_range(first, rows),
                false,
                |_, l, _, dy| {
                    if let Some(s) = self.segments[l] {
                        self.backend().copy(dy, ViewMut::new(&mut deltas[s], first * dy.cols, rows, dy.cols));
                    }
                },
            );
        }
        for (s, (l, dy)) in layers.into_iter().zip(&deltas).enumerate() {
            let layer = &*self.layers()[l];
            f(scratch, s, layer, self.primal(l, at), View::new(dy, 0, at.rows, layer.width()));
        }
        deltas.into_iter().for_each(|dy| scratch.give(dy));
    }

    /// `dl/dx` of every example, `n x inputs` row-major; zeros where examples are token ids.
    pub fn input_gradients(&self, inputs: &Inputs<B>, theta: &Block<B>) -> Vec<f64> {
        let width = self.inputs();
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            self.map_parts(at, 1, |part, _, _| {
                let dz = part.rows_of(self.delta(part.tape));
                let dx = self.backward(scratch, part, dz, true, |_, _, _, _| {}).expect("asked for");
                let host = self.host(View::new(&dx, 0, part.rows, width));
                scratch.give(dx);
                host
            })
        });
        direction_major(blocks.into_iter().flatten(), 1, inputs.len(), width)
    }

    /// `d/dx <grad_theta l_i, v_j>`, how a change of the input changes a score: `k x n x inputs`,
    /// row-major. The R-backward pass carried on to the input (Koh & Liang 2017, section 2.2). Zeros where
    /// examples are token ids.
    pub fn mixed_products(&self, inputs: &Inputs<B>, theta: &Block<B>, v: &Block<B>) -> Vec<f64> {
        let (n, width, k) = (inputs.len(), self.inputs(), v.k());
        let blocks = self.map_blocks(inputs, theta, |scratch, at| {
            let outputs = self.outputs();
            let deltas = self.deltas(scratch, at, self.delta(at.tape), true);
            let products = self.map_parts(at, k, |part, start, k| {
                let v = Directions { block: v, start, k };
                let tangents = self.jvp(scratch, part, v);
                let stacked = k * part.rows;
                let rdz = self.r_delta(scratch, part, &tangents, k);
                let gradients = (&deltas, View::new(&rdz, 0, stacked, outputs));
                let rdx = self.r_backward(scratch, part, (v, &tangents), gradients, None).expect("asked for");
                let host = self.host(View::new(&rdx, 0, stacked, width));
                tangents.into_iter().chain([rdz, rdx]).for_each(|buffer| scratch.give(buffer));
                host
            });
            self.release_deltas(scratch, deltas);
            products
        });
        direction_major(blocks.into_iter().flatten(), k, n, width)
    }

    /// `f(part, start, count)` on every part of a row block, with the directions `start..start + count` of `k`: as many as
    /// go through the layers together. Of each part its rows and what `f` says of all directions.
    fn map_parts<'t>(
        &self,
        at: Point<'t, B>,
        k: usize,
        mut f: impl FnMut(Point<'t, B>, usize, usize) -> Vec<f64>,
    ) -> Vec<(usize, Vec<f64>)> {
        let mut each = |part: Point<'t, B>| {
            let groups = (0..k).step_by(self.group());
            groups.flat_map(|start| f(part, start, self.group().min(k - start))).collect()
        };
        self.parts(at.rows).map(|(first, rows)| (rows, each(at.part(first, rows)))).collect()
    }

    fn host(&self, x: View<B>) -> Vec<f64> {
        self.backend().download(x).into_iter().map(Real::to_f64).collect()
    }
}

/// Parts of all examples, in order, of `k` directions (`k x rows x width` each) as one `k x n x width` array.
pub(crate) fn direction_major<T: Real>(
    parts: impl Iterator<Item = (usize, Vec<T>)>,
    k: usize,
    n: usize,
    width: usize,
) -> Vec<T> {
    let mut all = vec![T::ZERO; k * n * width];
    let mut start = 0;
    for (rows, part) in parts {
        for j in 0..k {
            let target = (j * n + start) * width;
            all[target..target + rows * width].copy_from_slice(&part[j * rows * width..][..rows * width]);
        }
        start += rows;
    }
    all
}

/// Parts of a sum over examples that are added up apart, at most. A constant: it fixes the order of
/// summation, and bounds how many processors a single vector can use.
const SEGMENTS: usize = 16;
/// Bytes of sums in flight: enough that no processor waits for the slowest task of a wave.
const IN_FLIGHT: usize = 64 << 20;
/// Tasks in flight for every processor, at the least.
const WAVE: usize = 2;
/// Directions that share one forward pass and one accumulator.
const DIRECTIONS: usize = 32;

impl<B: Backend> Network<B> {
    /// Adds to `out` what `body(scratch, block, start, sum)` adds to `sum` for each of the row blocks
    /// `0..blocks`, `sum` standing for the vectors of `out` from `start` on. Returns what `body` does, block
    /// after block for some vectors, then for the next.
    pub(crate) fn sum_blocks<R: Send>(
        &self,
        blocks: usize,
        out: &mut Block<B>,
        body: impl Fn(&mut Scratch<B>, usize, usize, &mut Block<B>) -> R + Send + Sync,
    ) -> Vec<R> {
        Plan { blocks, segments: segments(blocks), k: out.k() }.sum(out, |task, sum| {
            self.with_scratch(|scratch| {
                task.blocks.clone().map(|b| body(scratch, b, task.vectors.0, sum)).collect::<Vec<R>>()
            })
        })
    }

    /// Bytes that passes over `n` examples with `k` vectors have in hand at most: partial sums, and on every
    /// processor the passes of a row block and the intermediate products of scoring.
    pub fn bytes_in_hand(&self, n: usize, k: usize) -> usize {
        let (threads, size) = (self.backend().concurrency(), size_of::<B::Elem>());
        let sum = size * DIRECTIONS.min(k) * self.layout().dim();
        let tasks = segments(n.div_ceil(B::ROW_BLOCK)) * k.div_ceil(DIRECTIONS);
        let sums = (tasks * sum).min(IN_FLIGHT.max(WAVE * threads * sum));
        let rows = B::ROW_BLOCK.min(n);
        let products = products::<B>().min(rows * k * self.widest());
        sums + threads * (rows * self.passes_bytes() + size * products)
    }
}

/// Segments of `blocks` row blocks: the fewest, by twos, that leave none longer than [`SEGMENTS`] would, as 10 of two blocks
/// for 20 where 16 would be of one or two. Processors wait for the longest, and every segment has sums of its own.
fn segments(blocks: usize) -> usize {
    let fewest = blocks.div_ceil(blocks.div_ceil(SEGMENTS).max(1));
    fewest.next_multiple_of(2).min(SEGMENTS).min(blocks)
}

/// How a sum over row blocks, for `k` vectors, is cut into tasks.
struct Plan {
    blocks: usize,
    segments: usize,
    k: usize,
}

/// One task of a [`Plan`]: some row blocks and some vectors.
struct Task {
    /// Row blocks `first..last`.
    blocks: std::ops::Range<usize>,
    /// Vectors `start..start + len`.
    vectors: (usize, usize),
}

impl Plan {
    fn task(&self, t: usize) -> Task {
        let (chunk, segment) = (t / self.segments, t % self.segments);
        let bound = |s: usize| s * self.blocks / self.segments;
        let start = chunk * DIRECTIONS;
        Task { blocks: bound(segment)..bound(segment + 1), vectors: (start, DIRECTIONS.min(self.k - start)) }
    }

    /// Adds `body`'s sums to `out`, task by task in order, and returns its results in that order. Only as
    /// many tasks are in flight as the device can use, so that memory is bounded; the order of summation
    /// never changes.
    fn sum<B: Backend, R: Send>(
        &self,
        out: &mut Block<B>,
        body: impl Fn(&Task, &mut Block<B>) -> Vec<R> + Send + Sync,
    ) -> Vec<R> {
        let (backend, layout) = (out.backend().clone(), out.layout().clone());
        let tasks = self.segments * self.k.div_ceil(DIRECTIONS);
        let bytes = self.k.min(DIRECTIONS) * layout.dim() * size_of::<B::Elem>();
        let wave = (IN_FLIGHT / bytes.max(1)).max(WAVE * backend.concurrency());
        let mut results = Vec::new();
        // The sums of one wave serve the next: fresh memory costs as much as the additions.
        let spare = Mutex::new(Vec::new());
        for first in (0..tasks).step_by(wave) {
            let sums = backend.map(wave.min(tasks - first), |i| {
                let task = self.task(first + i);
                let mut sum = take_sum(&spare, &backend, &layout, task.vectors.1);
                let result = body(&task, &mut sum);
                (task.vectors.0, sum, result)
            });
            for same in sums.chunk_by(|a, b| a.0 == b.0) {
                out.add_all_at(same[0].0, &same.iter().map(|(_, sum, _)| sum).collect::<Vec<_>>());
            }
            for (_, sum, result) in sums {
                spare.lock().unwrap_or_else(PoisonError::into_inner).push(sum);
                results.extend(result);
            }
        }
        results
    }
}

/// `k` zero vectors, in the memory of one of `spare` where one has that size.
fn take_sum<B: Backend>(
    spare: &Mutex<Vec<Block<B>>>,
    backend: &B,
    layout: &Arc<Layout>,
    k: usize,
) -> Block<B> {
    let taken = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match taken {
        Some(mut sum) if sum.k() == k => {
            sum.clear();
            sum
        }
        _ => Block::zeros(backend, layout, k),
    }
}
