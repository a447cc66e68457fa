//! The CPU: rayon for tasks, the `gemm` crate for products, vectors for convolutions, plain loops for the rest.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::cpu_convolution::{Convolve, Transpose, Weights};
use super::cpu_steps::CgSums;
use super::gemm::{Operand, product};
use super::{Adam, Backend, CgProducts, CgStep, View, ViewMut, falling};
use super::{cpu_activation, cpu_bag, cpu_convolution, cpu_loss, cpu_pool, cpu_steps, cpu_window};
use crate::{Activation, Loss, Real, SignStream, Window};

/// The processor, computing in `T` (`f32` or `f64`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu<T>(PhantomData<T>);

impl<T> Cpu<T> {
    /// The processor, with the rayon thread pool of the calling thread.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// Elements of one row that one task of a block kernel handles. A constant: it fixes the order of
/// summation. 64 kB of `f64`, so that partial sums are few and a chunk fits the first-level cache.
pub(super) const CHUNK: usize = 8192;
/// Below this many elements a block kernel stays on the calling thread.
pub(super) const PARALLEL_FROM: usize = 4 * CHUNK;

/// Runs `kernel`, as far as it is inlined, compiled for the widest vectors of this processor instead of those that
/// all of its kind have. Nothing is contracted or reordered: bits stay the same. A closure has to ask for being inlined:
/// else it is compiled apart, for the least of processors.
fn wide(kernel: impl FnOnce()) {
    pulp::Arch::new().dispatch(kernel);
}

impl<T: Real> View<'_, Cpu<T>> {
    pub(super) fn row(&self, i: usize) -> &[T] {
        debug_assert_eq!(self.col_stride, 1);
        &self.buffer[self.offset + i * self.row_stride..][..self.cols]
    }
}

impl<T: Real> ViewMut<'_, Cpu<T>> {
    pub(super) fn row(&mut self, i: usize) -> &mut [T] {
        &mut self.buffer[self.offset + i * self.row_stride..][..self.cols]
    }

    /// The rows, one mutable slice each.
    pub(super) fn into_rows<'b>(self) -> Vec<&'b mut [T]>
    where
        Self: 'b,
    {
        let ViewMut { buffer, offset, rows, cols, row_stride } = self;
        if rows == 0 || cols == 0 {
            return (0..rows).map(|_| <&mut [T]>::default()).collect();
        }
        // The last row may end before a full stride.
        let end = offset + (rows - 1) * row_stride + cols;
        buffer[offset..end].chunks_mut(row_stride).map(|row| &mut row[..cols]).collect()
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Elem = T;
    type Buffer = Vec<T>;
    type CgSums = CgSums;

    /// 256 to 1000 are equally fast.
    const ROW_BLOCK: usize = 512;
    const IN_HAND: Option<usize> = None;

    fn describe(&self) -> String {
        format!("cpu {}", T::NAME)
    }

    fn zeros(&self, len: usize) -> Vec<T> {
        vec![T::ZERO; len]
    }

    fn upload(&self, host: &[T]) -> Vec<T> {
        host.to_vec()
    }

    fn write(&self, buffer: &mut Vec<T>, offset: usize, host: &[T]) {
        buffer[offset..offset + host.len()].copy_from_slice(host);
    }

    fn download(&self, x: View<Self>) -> Vec<T> {
        (0..x.rows).flat_map(|i| x.row(i).iter().copied()).collect()
    }

    fn len(buffer: &Vec<T>) -> usize {
        buffer.len()
    }

    fn map<R: Send>(&self, tasks: usize, task: impl Fn(usize) -> R + Send + Sync) -> Vec<R> {
        (0..tasks).into_par_iter().with_max_len(1).map(task).collect()
    }

    fn concurrency(&self) -> usize {
        rayon::current_num_threads()
    }

    fn copy(&self, x: View<Self>, mut y: ViewMut<Self>) {
        for i in 0..x.rows {
            y.row(i).copy_from_slice(x.row(i));
        }
    }

    fn fill(&self, value: f64, mut y: ViewMut<Self>) {
        for i in 0..y.rows {
            y.row(i).fill(T::from_f64(value));
        }
    }

    fn gather_rows(&self, x: View<Self>, indices: &[usize], mut y: ViewMut<Self>) {
        for (i, &source) in indices.iter().enumerate() {
            y.row(i).copy_from_slice(x.row(source));
        }
    }

    fn top_k(&self, k: usize, x: View<Self>) -> Vec<Vec<usize>> {
        self.map(x.rows, |i| {
            let row = x.row(i);
            let mut order: Vec<usize> = (0..row.len()).collect();
            let by_number = |a: &usize, b: &usize| falling((row[*a], *a), (row[*b], *b));
            if (1..order.len()).contains(&k) {
                order.select_nth_unstable_by(k - 1, by_number);
            }
            order.truncate(k);
            order.sort_unstable_by(by_number);
            order
        })
    }

    fn swap_axes(&self, [a, b, c]: [usize; 3], x: View<Self>, mut y: ViewMut<Self>) {
        if c == 1 && y.row_stride == a {
            let y = &mut y.buffer[y.offset..][..a * b];
            for i in 0..a {
                y[i..].iter_mut().step_by(a).zip(x.row(i)).for_each(|(y, x)| *y = *x);
            }
            return;
        }
        for i in 0..a {
            for (j, x) in x.row(i).chunks_exact(c).enumerate() {
                y.row(j)[i * c..][..c].copy_from_slice(x);
            }
        }
    }

    fn gemm(&self, alpha: f64, a: View<Self>, b: View<Self>, beta: f64, c: ViewMut<Self>) {
        let (a, b) = (operand(a), operand(b));
        product(alpha, a, b, beta, &mut c.buffer[c.offset..], c.row_stride);
    }

    fn gemm_batch(
        &self,
        count: usize,
        steps: [usize; 3],
        alpha: f64,
        [a, b]: [View<Self>; 2],
        beta: f64,
        c: ViewMut<Self>,
    ) {
        for i in 0..count {
            let [own, other] = [(a, steps[0]), (b, steps[1])]
                .map(|(x, step)| operand(View { offset: x.offset + i * step, ..x }));
            let target = &mut c.buffer[c.offset + i * steps[2]..];
            product(alpha, own, other, beta, target, c.row_stride);
        }
    }

    fn row_axpby(&self, alpha: &[f64], x: View<Self>, beta: &[f64], y: ViewMut<Self>) {
        each_chunk(y, |i, start, y| axpby(alpha[i], &x.row(i)[start..], beta[i], y));
    }

    /// One pass over `y`.
    fn add_all(&self, xs: &[View<Self>], y: ViewMut<Self>) {
        each_chunk(y, |i, start, y| xs.iter().for_each(|x| axpby(1.0, &x.row(i)[start..], 1.0, y)));
    }

    fn dots(&self, pairs: &[[View<Self>; 2]], out: &mut [f64]) {
        for [x, y] in pairs {
            let body = |(i, total): (usize, &mut f64)| {
                let chunks = x.row(i).chunks(CHUNK).zip(y.row(i).chunks(CHUNK));
                *total += chunks.map(|(x, y)| dot(x, y)).sum::<f64>();
            };
            if x.rows * x.cols >= PARALLEL_FROM {
                out.par_iter_mut().enumerate().for_each(body);
            } else {
                out.iter_mut().enumerate().for_each(body);
            }
        }
    }

    fn gram(&self, x: View<Self>, y: View<Self>, out: &mut [f64]) {
        let (rows, cols) = (x.rows, y.rows);
        let parts: Vec<Vec<T>> = chunks(x.cols)
            .into_par_iter()
            .map(|(start, len)| {
                let mut part = vec![T::ZERO; rows * cols];
                let (x, y) = (operand(x.col_range(start, len)), operand(y.col_range(start, len)));
                product(1.0, x, y.t(), 0.0, &mut part, cols);
                part
            })
            .collect();
        for part in parts {
            out.iter_mut().zip(part).for_each(|(out, v)| *out += v.to_f64());
        }
    }

    fn combine(&self, m: &[f64], x: View<Self>, beta: f64, y: ViewMut<Self>) {
        let (rows, inner) = (y.rows, x.rows);
        let m: Vec<T> = m.iter().map(|v| T::from_f64(*v)).collect();
        // The same columns of all rows, chunk by chunk.
        let mut tasks: Vec<Vec<&mut [T]>> = chunks(x.cols).iter().map(|_| Vec::with_capacity(rows)).collect();
        for row in y.into_rows() {
            tasks.iter_mut().zip(row.chunks_mut(CHUNK)).for_each(|(task, part)| task.push(part));
        }
        tasks.into_par_iter().zip(chunks(x.cols)).for_each(|(task, (start, len))| {
            let mut sum = vec![T::ZERO; rows * len];
            let m = Operand::rows(&m, [rows, inner], inner);
            product(1.0, m, operand(x.col_range(start, len)), 0.0, &mut sum, len);
            let beta = T::from_f64(beta);
            for (y, sum) in task.into_iter().zip(sum.chunks_exact(len)) {
                if beta == T::ZERO {
                    y.copy_from_slice(sum);
                } else {
                    y.iter_mut().zip(sum).for_each(|(y, s)| *y = beta * *y + *s);
                }
            }
        });
    }

    fn cg_step(
        &self,
        step: CgStep,
        parts: &[(usize, usize)],
        pq: [&Vec<T>; 2],
        xr: [&mut Vec<T>; 2],
    ) -> CgSums {
        cpu_steps::cg_step(step, parts, pq, xr)
    }

    fn cg_turn(
        &self,
        sums: CgSums,
        parts: &[(usize, usize)],
        r: &Vec<T>,
        z: Option<&Vec<T>>,
        p: &mut Vec<T>,
    ) -> CgProducts {
        cpu_steps::cg_turn(sums, parts, r, z, p)
    }

    fn lissa_step(
        &self,
        (scale, k): (f64, usize),
        parts: &[(usize, usize)],
        b_ax: [&Vec<T>; 2],
        x: &mut Vec<T>,
        sum: Option<&mut Vec<T>>,
    ) -> Vec<f64> {
        cpu_steps::lissa_step((scale, k), parts, b_ax, x, sum)
    }

    fn adam_update(
        &self,
        adam: &Adam,
        g: View<Self>,
        mut m: ViewMut<Self>,
        mut v: ViewMut<Self>,
        mut theta: ViewMut<Self>,
    ) {
        let [b1, b2, rate, epsilon] = [adam.beta1, adam.beta2, adam.rate, adam.epsilon].map(T::from_f64);
        let moments = m.row(0).iter_mut().zip(v.row(0));
        for ((theta, g), (m, v)) in theta.row(0).iter_mut().zip(g.row(0)).zip(moments) {
            *m = b1 * *m + (T::ONE - b1) * *g;
            *v = b2 * *v + (T::ONE - b2) * *g * *g;
            *theta -= rate * *m / (v.sqrt() + epsilon);
        }
    }

    fn scale_rows(&self, weights: View<Self>, mut y: ViewMut<Self>) {
        wide(
            #[inline(always)]
            || {
                for i in 0..y.rows {
                    let weight = weights.row(i % weights.rows)[0];
                    for value in y.row(i) {
                        *value *= weight;
                    }
                }
            },
        );
    }

    fn row_dots(&self, x: View<Self>, y: View<Self>, beta: f64, mut out: ViewMut<Self>) {
        let c = y.cols;
        for i in 0..x.rows {
            let (x, y, out) = (x.row(i), y.row(i), out.row(i));
            wide(
                #[inline(always)]
                || {
                    for (g, slot) in out.iter_mut().enumerate() {
                        let value = T::from_f64(dot(&x[g * c..(g + 1) * c], y));
                        *slot = if beta == 0.0 { value } else { value + T::from_f64(beta) * *slot };
                    }
                },
            );
        }
    }

    fn paired_dots(&self, x: View<Self>, y: View<Self>, mut out: ViewMut<Self>) {
        let c = x.cols / out.cols;
        for i in 0..x.rows {
            let pairs = x.row(i).chunks_exact(c).zip(y.row(i).chunks_exact(c));
            let pairs = out.row(i).iter_mut().zip(pairs);
            if c == 1 {
                pairs.for_each(|(slot, (x, y))| *slot += x[0] * y[0]);
            } else {
                wide(
                    #[inline(always)]
                    || pairs.for_each(|(slot, (x, y))| *slot += T::from_f64(dot(x, y))),
                );
            }
        }
    }

    fn signs(&self, key: u64, first: u64, scale: f64, mut out: ViewMut<Self>) {
        let [plus, minus] = [scale, -scale].map(T::from_f64);
        for i in 0..out.rows {
            let first = first + (i * out.cols) as u64;
            let row = out.row(i);
            SignStream { key }
                .each(first, row.len(), |j, is_minus| row[j] = if is_minus { minus } else { plus });
        }
    }

    fn outer_rows(&self, x: View<Self>, y: View<Self>, mut out: ViewMut<Self>) {
        for i in 0..x.rows {
            let y = y.row(i);
            for (x, out) in x.row(i).iter().zip(out.row(i).chunks_exact_mut(y.len())) {
                for (slot, y) in out.iter_mut().zip(y) {
                    *slot = *x * *y;
                }
            }
        }
    }

    fn activate(&self, f: Activation, x: View<Self>, y: ViewMut<Self>) {
        wide(
            #[inline(always)]
            || cpu_activation::activate(f, x, y),
        );
    }

    fn activation_backward(&self, f: Activation, at: [View<Self>; 2], dy: View<Self>, out: ViewMut<Self>) {
        wide(
            #[inline(always)]
            || cpu_activation::backward(f, at, dy, out),
        );
    }

    fn activation_r_backward(
        &self,
        f: Activation,
        at: [View<Self>; 2],
        deltas: [View<Self>; 3],
        out: ViewMut<Self>,
    ) {
        wide(
            #[inline(always)]
            || cpu_activation::r_backward(f, at, deltas, out),
        );
    }

    fn im2col(&self, window: &Window, x: View<Self>, out: ViewMut<Self>) {
        let positions = window.positions();
        for i in 0..x.rows {
            let target = &mut out.buffer[out.offset + i * positions..];
            wide(
                #[inline(always)]
                || cpu_window::im2col(window, x.row(i), target, out.row_stride),
            );
        }
    }

    fn col2im(&self, window: &Window, cols: View<Self>, mut images: ViewMut<Self>) {
        let positions = window.positions();
        for i in 0..images.rows {
            let source = &cols.buffer[cols.offset + i * positions..];
            wide(
                #[inline(always)]
                || cpu_window::col2im(window, source, cols.row_stride, images.row(i)),
            );
        }
    }

    fn convolves(&self, window: &Window) -> bool {
        cpu_convolution::applies(window)
    }

    fn convolve(&self, window: &Window, w: View<Self>, x: View<Self>, beta: f64, y: ViewMut<Self>) {
        T::convolve(Convolve { window, w, x, beta, y });
    }

    fn convolve_transpose(
        &self,
        window: &Window,
        w: View<Self>,
        dy: View<Self>,
        beta: f64,
        dx: ViewMut<Self>,
    ) {
        T::transpose(Transpose { window, w, dy, beta, dx });
    }

    fn convolve_weights(&self, window: &Window, dy: View<Self>, x: View<Self>, dw: ViewMut<Self>) {
        T::weights(Weights { window, dy, x, dw });
    }

    fn max_pool_gather(&self, window: &Window, x: View<Self>, rx: View<Self>, out: ViewMut<Self>) {
        wide(
            #[inline(always)]
            || cpu_pool::max_pool_gather(window, x, rx, out),
        );
    }

    fn max_pool_scatter(&self, window: &Window, x: View<Self>, dy: View<Self>, out: ViewMut<Self>) {
        wide(
            #[inline(always)]
            || cpu_pool::max_pool_scatter(window, x, dy, out),
        );
    }

    fn avg_pool(&self, window: &Window, x: View<Self>, mut out: ViewMut<Self>) {
        let share = T::from_f64(1.0 / (window.kernel[0] * window.kernel[1]) as f64);
        for i in 0..x.rows {
            let (x, out) = (x.row(i), out.row(i));
            out.fill(T::ZERO);
            cpu_window::under_windows(window, |output, input| out[output] += share * x[input]);
        }
    }

    fn avg_pool_transpose(&self, window: &Window, dy: View<Self>, mut out: ViewMut<Self>) {
        let share = T::from_f64(1.0 / (window.kernel[0] * window.kernel[1]) as f64);
        for i in 0..dy.rows {
            let (dy, out) = (dy.row(i), out.row(i));
            out.fill(T::ZERO);
            cpu_window::under_windows(window, |output, input| out[input] += share * dy[output]);
        }
    }

    fn bag_gather(&self, ids: View<Self>, w: View<Self>, out: ViewMut<Self>) {
        cpu_bag::gather_mean(ids, w, out);
    }

    fn bag_scatter(&self, ids: View<Self>, dy: View<Self>, dw: ViewMut<Self>) {
        cpu_bag::scatter_mean(ids, dy, dw);
    }

    fn bag_squares(&self, ids: View<Self>, out: ViewMut<Self>) {
        cpu_bag::squares(ids, out);
    }

    fn loss(
        &self,
        loss: Loss,
        z: View<Self>,
        targets: View<Self>,
        mut value: ViewMut<Self>,
        mut delta: ViewMut<Self>,
        mut curvature: ViewMut<Self>,
    ) {
        for i in 0..z.rows {
            let target = targets.row(i)[0];
            let (z, delta, curvature) = (z.row(i), delta.row(i), curvature.row(i));
            value.row(i)[0] = cpu_loss::evaluate(loss, z, target, delta, curvature);
        }
    }

    fn loss_hessian(&self, loss: Loss, curvature: View<Self>, rz: View<Self>, mut out: ViewMut<Self>) {
        for i in 0..rz.rows {
            let (c, rz, out) = (curvature.row(i % curvature.rows), rz.row(i), out.row(i));
            let mean = match loss.couples_outputs() {
                true => c.iter().zip(rz).map(|(c, rz)| *c * *rz).sum(),
                false => T::ZERO,
            };
            for ((out, c), rz) in out.iter_mut().zip(c).zip(rz) {
                *out = *c * (*rz - mean);
            }
        }
    }

    fn loss_root(&self, loss: Loss, curvature: View<Self>, first: usize, mut out: ViewMut<Self>) {
        for row in 0..out.rows {
            let (c, p) = (first + row / curvature.rows, curvature.row(row % curvature.rows));
            let (root, out) = (p[c].sqrt(), out.row(row));
            if loss.couples_outputs() {
                out.iter_mut().zip(p).for_each(|(out, p)| *out = T::ZERO - root * *p);
                out[c] += root;
            } else {
                out.fill(T::ZERO);
                out[c] = root;
            }
        }
    }
}

/// Start and length of the chunks of a row.
fn chunks(cols: usize) -> Vec<(usize, usize)> {
    (0..cols).step_by(CHUNK).map(|start| (start, CHUNK.min(cols - start))).collect()
}

/// `body(i, start, chunk)` for the chunks of all rows, `chunk` being what row `i` has from `start` on.
fn each_chunk<T: Real>(y: ViewMut<Cpu<T>>, body: impl Fn(usize, usize, &mut [T]) + Send + Sync) {
    let parallel = y.rows * y.cols >= PARALLEL_FROM;
    let rows = y.into_rows().into_iter().enumerate();
    let chunks =
        rows.flat_map(|(i, row)| row.chunks_mut(CHUNK).enumerate().map(move |(c, y)| (i, c * CHUNK, y)));
    if parallel {
        chunks.collect::<Vec<_>>().into_par_iter().for_each(|(i, start, y)| body(i, start, y));
    } else {
        chunks.for_each(|(i, start, y)| body(i, start, y));
    }
}

fn operand<T: Real>(view: View<'_, Cpu<T>>) -> Operand<'_, T> {
    Operand {
        data: &view.buffer[view.offset..],
        shape: [view.rows, view.cols],
        strides: [view.row_stride, view.col_stride],
    }
}

fn axpby<T: Real>(alpha: f64, x: &[T], beta: f64, y: &mut [T]) {
    let a = T::from_f64(alpha);
    if beta == 0.0 {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = a * *x);
    } else if beta == 1.0 {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += a * *x);
    } else {
        let b = T::from_f64(beta);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = a * *x + b * *y);
    }
}

/// `<x, y>` in `f64`: eight partial sums, so that the loop vectorises and the order is fixed.
#[inline(always)]
pub(super) fn dot<T: Real>(x: &[T], y: &[T]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let tail: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x.to_f64() * y.to_f64()).sum();
    for (x, y) in xs.zip(ys) {
        for lane in 0..8 {
            lanes[lane] += x[lane].to_f64() * y[lane].to_f64();
        }
    }
    lanes.iter().sum::<f64>() + tail
}
