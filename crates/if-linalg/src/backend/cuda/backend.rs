//! The kernels of [`Backend`] on a GPU.

use cudarc::driver::result;

use super::convolution::{self, Filters};
use super::kernels::{self, Windows};
use super::steps::{CgSums, chunks};
use super::{Cuda, CudaBuffer, CudaReal, Products, THREADS, expect};
use crate::backend::{eigen_on_host, falling};
use crate::{
    Activation, Adam, Backend, CgProducts, CgStep, Loss, Real, SymmetricMatrix, View, ViewMut, Window,
};

/// Columns of one product of a Gram matrix, the sums of which are added in `f64`.
const GRAM_CHUNK: usize = 8192;
/// Below this length a dot is left to a single thread.
const SHORT: usize = 16;

impl<T: CudaReal> Cuda<T> {
    /// A grid for `len` independent numbers.
    pub(super) fn each(&self, len: usize) -> (u32, u32) {
        (len.div_ceil(THREADS as usize).min(self.device.blocks as usize) as u32, 1)
    }

    /// A grid with one warp for each of `rows`.
    fn warps(&self, rows: usize) -> (u32, u32) {
        self.each(rows * 32)
    }

    /// Adds sums that are on the device, when they are done, to `out`.
    fn add_to(&self, out: &mut [f64], sums: &CudaBuffer<f64>) {
        let mut host = vec![0.0; out.len()];
        self.fetch(sums, 0, &mut host);
        out.iter_mut().zip(host).for_each(|(out, sum)| *out += sum);
    }
}

/// The one number that all are, if so.
fn uniform(numbers: &[f64]) -> Option<f64> {
    let first = *numbers.first()?;
    numbers.iter().all(|number| *number == first).then_some(first)
}

impl<T: CudaReal> Backend for Cuda<T> {
    type Elem = T;
    type Buffer = CudaBuffer<T>;
    type CgSums = CgSums;

    /// So many that kernels are long against the time it takes to start them.
    const ROW_BLOCK: usize = 16384;
    /// A gigabyte.
    const IN_HAND: Option<usize> = Some((1 << 30) / size_of::<T>());

    fn describe(&self) -> String {
        let products = match self.products {
            Products::Full => "",
            Products::Tf32 => ", products in tf32",
            Products::Bf16 => ", products in bf16",
        };
        format!("cuda {} ({}{products})", T::NAME, self.device.name)
    }

    fn zeros(&self, len: usize) -> CudaBuffer<T> {
        let buffer = self.allocate(len);
        if len > 0 {
            let stream = self.device.stream.cu_stream();
            // SAFETY: the buffer has so many bytes.
            expect(unsafe { result::memset_d8_async(buffer.pointer, 0, len * size_of::<T>(), stream) });
        }
        buffer
    }

    fn upload(&self, host: &[T]) -> CudaBuffer<T> {
        self.send(host)
    }

    fn write(&self, buffer: &mut CudaBuffer<T>, offset: usize, host: &[T]) {
        self.overwrite(buffer, offset, host);
    }

    fn download(&self, x: View<Self>) -> Vec<T> {
        let mut host = vec![T::ZERO; x.rows * x.cols];
        if host.is_empty() {
            return host;
        }
        x.check();
        if x.row_stride == x.cols || x.rows == 1 {
            self.fetch(x.buffer, x.offset, &mut host);
        } else {
            let mut together = self.allocate(host.len());
            self.copy(x, ViewMut::new(&mut together, 0, x.rows, x.cols));
            self.fetch(&together, 0, &mut host);
        }
        host
    }

    fn len(buffer: &CudaBuffer<T>) -> usize {
        buffer.len
    }

    /// One after another: each fills the device.
    fn map<R: Send>(&self, tasks: usize, task: impl Fn(usize) -> R + Send + Sync) -> Vec<R> {
        (0..tasks).map(task).collect()
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn peers(&self) -> &[Self] {
        &self.peers
    }

    fn copy(&self, x: View<Self>, y: ViewMut<Self>) {
        let y = y.matrix();
        launch!(self, "copy_rows", self.each(y.len()), x.matrix(), y);
    }

    fn fill(&self, value: f64, y: ViewMut<Self>) {
        let y = y.matrix();
        launch!(self, "fill", self.each(y.len()), T::from_f64(value), y);
    }

    fn signs(&self, key: u64, first: u64, scale: f64, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "signs", self.each(out.len()), key, first, T::from_f64(scale), out);
    }

    fn gather_rows(&self, x: View<Self>, indices: &[usize], y: ViewMut<Self>) {
        assert!(indices.iter().all(|i| *i < x.rows) && indices.len() == y.rows, "no such row");
        let indices = self.send(&indices.iter().map(|i| *i as i64).collect::<Vec<_>>());
        let y = y.matrix();
        launch!(self, "gather_rows", self.each(y.len()), x.matrix(), indices.at(0), y);
    }

    fn top_k(&self, k: usize, x: View<Self>) -> Vec<Vec<usize>> {
        let (rows, k) = (x.rows, k.min(x.cols));
        if rows == 0 || k == 0 {
            return vec![Vec::new(); rows];
        }
        let (columns, values) = (self.allocate::<i64>(rows * k), self.allocate::<T>(rows * k));
        let grid = (u32::try_from(rows).expect("fewer rows"), 1);
        launch!(self, "top_k", grid, x.matrix(), k as i64, columns.at(0), values.at(0));
        let (mut found, mut numbers) = (vec![0; rows * k], vec![T::ZERO; rows * k]);
        self.fetch(&columns, 0, &mut found);
        self.fetch(&values, 0, &mut numbers);
        // The kernel finds which they are; these few are put in order here.
        let sorted = |(columns, numbers): (&[i64], &[T])| {
            let columns = columns.iter().map(|j| *j as usize);
            let mut row: Vec<(T, usize)> = numbers.iter().copied().zip(columns).collect();
            row.sort_unstable_by(|a, b| falling(*a, *b));
            row.into_iter().map(|(_, column)| column).collect()
        };
        found.chunks_exact(k).zip(numbers.chunks_exact(k)).map(sorted).collect()
    }

    fn swap_axes(&self, [a, b, c]: [usize; 3], x: View<Self>, y: ViewMut<Self>) {
        assert_eq!([x.rows, x.cols, y.rows, y.cols], [a, b * c, b, a * c], "another shape");
        let y = y.matrix();
        launch!(self, "swap_axes", self.each(y.len()), c as i64, x.matrix(), y);
    }

    fn gemm(&self, alpha: f64, a: View<Self>, b: View<Self>, beta: f64, c: ViewMut<Self>) {
        self.multiply(self.products, (1, [0; 3]), (alpha, beta), [a, b], c);
    }

    fn gemm_batch(
        &self,
        count: usize,
        steps: [usize; 3],
        alpha: f64,
        ab: [View<Self>; 2],
        beta: f64,
        c: ViewMut<Self>,
    ) {
        self.multiply(self.products, (count, steps), (alpha, beta), ab, c);
    }

    fn row_axpby(&self, alpha: &[f64], x: View<Self>, beta: &[f64], y: ViewMut<Self>) {
        assert_eq!(
            [alpha.len(), beta.len(), x.rows, x.cols],
            [y.rows, y.rows, y.rows, y.cols],
            "another shape"
        );
        let (x, y) = (x.matrix(), y.matrix());
        if let (Some(alpha), Some(beta)) = (uniform(alpha), uniform(beta)) {
            launch!(self, "axpby", self.each(y.len()), T::from_f64(alpha), x, T::from_f64(beta), y);
        } else {
            let both = self.send(&[alpha, beta].concat());
            let (alpha, beta) = (both.at(0), both.at(alpha.len()));
            launch!(self, "row_axpby", self.each(y.len()), alpha, x, beta, y);
        }
    }

    fn dots(&self, pairs: &[[View<Self>; 2]], out: &mut [f64]) {
        let k = out.len();
        let width: usize = pairs.iter().map(|[x, _]| chunks(x.cols)).sum();
        if k == 0 || width == 0 {
            return;
        }
        let matrices = |[x, y]: &[View<Self>; 2]| {
            assert_eq!([x.rows, y.rows, x.cols], [k, k, y.cols], "another shape");
            [x.matrix(), y.matrix()]
        };
        let pairs: Vec<_> = pairs.iter().map(matrices).collect();
        self.add_to(out, &self.pair_dots(&pairs, width, k));
    }

    fn gram(&self, x: View<Self>, y: View<Self>, out: &mut [f64]) {
        let (rows, cols, inner) = (x.rows, y.rows, x.cols);
        if rows * cols * inner == 0 {
            return;
        }
        let (whole, rest) = (inner / GRAM_CHUNK, inner % GRAM_CHUNK);
        let count = whole + usize::from(rest > 0);
        let mut parts = self.allocate::<T>(count * rows * cols);
        let steps = [GRAM_CHUNK, GRAM_CHUNK, rows * cols];
        let [some_x, some_y] = [x, y].map(|all| all.col_range(0, GRAM_CHUNK.min(inner)));
        let target = ViewMut::new(&mut parts, 0, rows, cols);
        self.multiply(Products::Full, (whole, steps), (1.0, 0.0), [some_x, some_y.t()], target);
        if rest > 0 {
            let [some_x, some_y] = [x, y].map(|all| all.col_range(whole * GRAM_CHUNK, rest));
            let target = ViewMut::new(&mut parts, whole * rows * cols, rows, cols);
            self.multiply(Products::Full, (1, [0; 3]), (1.0, 0.0), [some_x, some_y.t()], target);
        }
        let (sums, size) = (self.allocate(rows * cols), rows * cols);
        launch!(self, "sum_parts", self.each(size), parts.at(0), count as i64, size as i64, sums.at(0));
        self.add_to(out, &sums);
    }

    fn eigen(&self, a: &SymmetricMatrix) -> (Vec<f64>, CudaBuffer<T>) {
        self.decompose(a).unwrap_or_else(|| eigen_on_host(self, a))
    }

    fn combine(&self, m: &[f64], x: View<Self>, beta: f64, y: ViewMut<Self>) {
        let (rows, inner) = (y.rows, x.rows);
        let m = self.upload(&m.iter().map(|v| T::from_f64(*v)).collect::<Vec<_>>());
        let m = View::new(&m, 0, rows, inner);
        self.multiply(Products::Full, (1, [0; 3]), (1.0, beta), [m, x], y);
    }

    fn cg_step(
        &self,
        step: CgStep,
        parts: &[(usize, usize)],
        pq: [&CudaBuffer<T>; 2],
        xr: [&mut CudaBuffer<T>; 2],
    ) -> CgSums {
        self.first_half(step, parts, pq, xr)
    }

    fn cg_turn(
        &self,
        sums: CgSums,
        parts: &[(usize, usize)],
        r: &CudaBuffer<T>,
        z: Option<&CudaBuffer<T>>,
        p: &mut CudaBuffer<T>,
    ) -> CgProducts {
        self.second_half(&sums, parts, r, z, p)
    }

    fn lissa_step(
        &self,
        (scale, k): (f64, usize),
        parts: &[(usize, usize)],
        b_ax: [&CudaBuffer<T>; 2],
        x: &mut CudaBuffer<T>,
        sum: Option<&mut CudaBuffer<T>>,
    ) -> Vec<f64> {
        self.add_residual((scale, k), parts, b_ax, x, sum)
    }

    fn adam_update(
        &self,
        adam: &Adam,
        g: View<Self>,
        m: ViewMut<Self>,
        v: ViewMut<Self>,
        theta: ViewMut<Self>,
    ) {
        let [b1, b2, rate, epsilon] = [adam.beta1, adam.beta2, adam.rate, adam.epsilon].map(T::from_f64);
        let theta = theta.matrix();
        let grid = self.each(theta.len());
        launch!(self, "adam", grid, b1, b2, rate, epsilon, g.matrix(), m.matrix(), v.matrix(), theta);
    }

    fn scale_rows(&self, weights: View<Self>, y: ViewMut<Self>) {
        let y = y.matrix();
        launch!(self, "scale_rows", self.each(y.len()), weights.matrix(), y);
    }

    fn row_dots(&self, x: View<Self>, y: View<Self>, beta: f64, out: ViewMut<Self>) {
        let (x, y, out, beta) = (x.matrix(), y.matrix(), out.matrix(), T::from_f64(beta));
        if y.cols < SHORT as i64 {
            launch!(self, "row_dots_short", self.each(out.len()), x, y, beta, out);
        } else {
            launch!(self, "row_dots", self.warps(out.len()), x, y, beta, out);
        }
    }

    fn paired_dots(&self, x: View<Self>, y: View<Self>, out: ViewMut<Self>) {
        let (x, y, out) = (x.matrix(), y.matrix(), out.matrix());
        if x.cols == out.cols {
            launch!(self, "paired_products", self.each(out.len()), x, y, out);
        } else {
            launch!(self, "paired_dots", self.warps(out.len()), x, y, out);
        }
    }

    fn outer_rows(&self, x: View<Self>, y: View<Self>, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "outer_rows", self.each(out.len()), x.matrix(), y.matrix(), out);
    }

    fn activate(&self, f: Activation, x: View<Self>, y: ViewMut<Self>) {
        let ((kind, slope), y) = (kernels::activation(f), y.matrix());
        launch!(self, "activate", self.each(y.len()), kind, T::from_f64(slope), x.matrix(), y);
    }

    fn activation_backward(&self, f: Activation, at: [View<Self>; 2], dy: View<Self>, out: ViewMut<Self>) {
        let ((kind, slope), [x, y]) = (kernels::activation(f), at.map(|view| view.matrix()));
        let (dy, out, slope) = (dy.matrix(), out.matrix(), T::from_f64(slope));
        launch!(self, "activation_backward", self.each(out.len()), kind, slope, x, y, dy, out);
    }

    fn activation_r_backward(
        &self,
        f: Activation,
        at: [View<Self>; 2],
        deltas: [View<Self>; 3],
        out: ViewMut<Self>,
    ) {
        let ((kind, slope), [x, y]) = (kernels::activation(f), at.map(|view| view.matrix()));
        let ([dy, rx, rdy], out, slope) =
            (deltas.map(|view| view.matrix()), out.matrix(), T::from_f64(slope));
        launch!(self, "activation_r_backward", self.each(out.len()), kind, slope, x, y, dy, rx, rdy, out);
    }

    fn im2col(&self, window: &Window, x: View<Self>, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "im2col", self.each(out.len()), Windows::from(window), x.matrix(), out);
    }

    fn col2im(&self, window: &Window, cols: View<Self>, images: ViewMut<Self>) {
        let images = images.matrix();
        launch!(self, "col2im", self.each(images.len()), Windows::from(window), cols.matrix(), images);
    }

    fn convolves(&self, window: &Window) -> bool {
        convolution::applies::<T>(window)
    }

    fn convolve(&self, window: &Window, w: View<Self>, x: View<Self>, beta: f64, y: ViewMut<Self>) {
        let filters = Filters::new(window, w, y.cols / window.positions());
        self.filter_images(&filters, x, beta, y);
    }

    fn convolve_transpose(
        &self,
        window: &Window,
        w: View<Self>,
        dy: View<Self>,
        beta: f64,
        dx: ViewMut<Self>,
    ) {
        let filters = Filters::transposed(window, w, dy.cols / window.positions());
        self.filter_images(&filters, dy, beta, dx);
    }

    fn convolve_weights(&self, window: &Window, dy: View<Self>, x: View<Self>, dw: ViewMut<Self>) {
        self.sum_weights(window, dy, x, dw);
    }

    fn max_pool_gather(&self, window: &Window, x: View<Self>, rx: View<Self>, out: ViewMut<Self>) {
        let (w, out) = (Windows::from(window), out.matrix());
        launch!(self, "max_pool_gather", self.each(out.len()), w, x.matrix(), rx.matrix(), out);
    }

    fn max_pool_scatter(&self, window: &Window, x: View<Self>, dy: View<Self>, out: ViewMut<Self>) {
        let (w, out) = (Windows::from(window), out.matrix());
        launch!(self, "max_pool_scatter", self.each(out.len()), w, x.matrix(), dy.matrix(), out);
    }

    fn avg_pool(&self, window: &Window, x: View<Self>, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "avg_pool", self.each(out.len()), Windows::from(window), x.matrix(), out);
    }

    fn avg_pool_transpose(&self, window: &Window, dy: View<Self>, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "avg_pool_transpose", self.each(out.len()), Windows::from(window), dy.matrix(), out);
    }

    fn bag_gather(&self, ids: View<Self>, w: View<Self>, out: ViewMut<Self>) {
        let vocabulary = w.rows * ids.rows / out.rows.max(1);
        let out = out.matrix();
        launch!(self, "bag_gather", self.each(out.len()), ids.matrix(), vocabulary as i64, w.matrix(), out);
    }

    fn bag_scatter(&self, ids: View<Self>, dy: View<Self>, dw: ViewMut<Self>) {
        let (rows, directions) = (ids.rows, dy.rows / ids.rows.max(1));
        if directions == 0 {
            return;
        }
        let vocabulary = dw.rows / directions;
        let bags = Bags::new(rows, &self.download(ids));
        let [tokens, starts, examples] =
            [&bags.tokens, &bags.starts, &bags.examples].map(|all| self.send(all));
        let shares = self.send(&bags.shares);
        launch!(
            self,
            "bag_scatter",
            (bags.tokens.len() as u32, directions as u32),
            tokens.at(0),
            starts.at(0),
            examples.at(0),
            shares.at(0),
            rows as i64,
            vocabulary as i64,
            dy.matrix(),
            dw.matrix()
        );
    }

    fn bag_squares(&self, ids: View<Self>, out: ViewMut<Self>) {
        let out = out.matrix();
        launch!(self, "bag_squares", self.each(out.len()), ids.matrix(), out);
    }

    fn loss(
        &self,
        loss: Loss,
        z: View<Self>,
        targets: View<Self>,
        value: ViewMut<Self>,
        delta: ViewMut<Self>,
        curvature: ViewMut<Self>,
    ) {
        let ((kind, parameter), z) = (kernels::loss(loss), z.matrix());
        let (value, delta, curvature) = (value.matrix(), delta.matrix(), curvature.matrix());
        let (grid, parameter) = (self.warps(z.rows as usize), T::from_f64(parameter));
        launch!(self, "loss", grid, kind, parameter, z, targets.matrix(), value, delta, curvature);
    }

    fn loss_hessian(&self, loss: Loss, curvature: View<Self>, rz: View<Self>, out: ViewMut<Self>) {
        let (coupled, rz) = (i32::from(loss.couples_outputs()), rz.matrix());
        let grid = self.warps(rz.rows as usize);
        launch!(self, "loss_hessian", grid, coupled, curvature.matrix(), rz, out.matrix());
    }

    fn loss_root(&self, loss: Loss, curvature: View<Self>, first: usize, out: ViewMut<Self>) {
        let (coupled, out) = (i32::from(loss.couples_outputs()), out.matrix());
        launch!(self, "loss_root", self.each(out.len()), coupled, curvature.matrix(), first as i64, out);
    }
}

/// Which examples hold a token, token by token: the transpose of the bags.
struct Bags {
    /// The distinct tokens, in order.
    tokens: Vec<i64>,
    /// Where the examples of each begin, and where the last end.
    starts: Vec<i64>,
    /// Once for each time that they hold it, in order.
    examples: Vec<i64>,
    /// What that time counts for.
    shares: Vec<f64>,
}

impl Bags {
    fn new<T: Real>(rows: usize, ids: &[T]) -> Self {
        let mut held: Vec<(i64, i64, f64)> = Vec::new();
        for (example, bag) in ids.chunks_exact((ids.len() / rows).max(1)).enumerate() {
            let tokens = bag.iter().map(|id| id.to_f64()).filter(|id| *id >= 0.0);
            let share = 1.0 / tokens.clone().count().max(1) as f64;
            held.extend(tokens.map(|token| (token as i64, example as i64, share)));
        }
        held.sort_by_key(|(token, example, _)| (*token, *example));
        let mut bags =
            Self { tokens: Vec::new(), starts: Vec::new(), examples: Vec::new(), shares: Vec::new() };
        for (at, (token, example, share)) in held.into_iter().enumerate() {
            if bags.tokens.last() != Some(&token) {
                bags.tokens.push(token);
                bags.starts.push(at as i64);
            }
            bags.examples.push(example);
            bags.shares.push(share);
        }
        bags.starts.push(bags.examples.len() as i64);
        bags
    }
}
