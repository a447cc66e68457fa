//! What a device must be able to do.

mod cpu;
mod cpu_activation;
mod cpu_bag;
mod cpu_convolution;
mod cpu_loss;
mod cpu_pool;
mod cpu_steps;
mod cpu_window;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod gemm;
mod view;

pub use cpu::Cpu;
pub(crate) use cpu_convolution::Convolution;
pub use view::{View, ViewMut};

use std::cmp::Ordering;
use std::panic::resume_unwind;

use crate::{Activation, Loss, Real, SymmetricMatrix, Window};

/// Coefficients of one step of Adam, corrections for the first steps already in `rate` and `epsilon`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Step length.
    pub rate: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
}

/// What a step of conjugate gradients needs to know of every vector.
#[derive(Clone, Copy, Debug)]
pub struct CgStep<'a> {
    /// `r.z`.
    pub rz: &'a [f64],
    /// A vector with `p.q` not above this stays where it is: the sign of its curvature is unknown.
    pub floor: &'a [f64],
}

/// What comes out of a step of conjugate gradients, one number a vector, summed in `f64`.
#[derive(Clone, Debug, PartialEq)]
pub struct CgProducts {
    /// `p.q` with the old `p`, from which `alpha = r.z / p.q`.
    pub pq: Vec<f64>,
    /// `r.r` with the new `r`.
    pub rr: Vec<f64>,
    /// `r.z` with the new `r`, from which `beta`.
    pub rz: Vec<f64>,
    /// `p.p` with the new `p`.
    pub pp: Vec<f64>,
}

/// The order of [`Backend::top_k`], of numbers with their columns: falling, NaN last, zeros of both signs equal, and equal
/// ones by column.
pub(crate) fn falling<T: Real>(a: (T, usize), b: (T, usize)) -> Ordering {
    let rank = |value: T| {
        let value = value.to_f64();
        // The least in the total order of floating-point numbers.
        if value.is_nan() { -f64::NAN } else { value + 0.0 }
    };
    rank(b.0).total_cmp(&rank(a.0)).then(a.1.cmp(&b.1))
}

/// `task(0)`, ..., `task(tasks - 1)` at the same time, the first on this thread: one for each of some devices. Results in
/// task order; a task that unwinds takes all with it.
pub fn side_by_side<R: Send>(tasks: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let task = &task;
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..tasks).map(|i| scope.spawn(move || task(i))).collect();
        let mut results: Vec<R> = (0..tasks.min(1)).map(task).collect();
        results.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|why| resume_unwind(why))));
        results
    })
}

/// [`Backend::eigen`] where the device has nothing better.
pub(crate) fn eigen_on_host<B: Backend>(backend: &B, a: &SymmetricMatrix) -> (Vec<f64>, B::Buffer) {
    let (values, vectors) = a.eigen();
    let vectors: Vec<B::Elem> = vectors.into_iter().map(B::Elem::from_f64).collect();
    (values, backend.upload(&vectors))
}

/// A device and its arithmetic: memory, some thirty kernels, and how independent tasks are run.
///
/// A layer, solver or method is written once against this trait and runs wherever it is
/// implemented. Kernels run on the caller's thread (or the caller's stream); parallelism comes from
/// [`map`](Self::map), whose tasks are cut by the caller into a number that does not depend on the
/// machine. The kernels on whole blocks of vectors ([`top_k`](Self::top_k),
/// [`row_axpby`](Self::row_axpby), [`dots`](Self::dots), [`gram`](Self::gram), [`combine`](Self::combine),
/// [`cg_step`](Self::cg_step), [`cg_turn`](Self::cg_turn), [`lissa_step`](Self::lissa_step)) may use the whole device
/// themselves, in chunks of constant size. So results have the same bits for any number of threads.
///
/// Coefficients are `f64` on the host for every element type. Only what returns numbers to the host
/// ([`download`](Self::download), [`top_k`](Self::top_k), [`dots`](Self::dots), [`gram`](Self::gram),
/// [`eigen`](Self::eigen), [`cg_turn`](Self::cg_turn), [`lissa_step`](Self::lissa_step)) waits for the device, and on a
/// GPU [`bag_scatter`](Self::bag_scatter), which sorts tokens on the host.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Type of the numbers in memory.
    type Elem: Real;
    /// A contiguous allocation on the device.
    type Buffer: Send + Sync;
    /// Numbers of a step of conjugate gradients that stay on the device between its two halves.
    type CgSums;

    /// Examples in one row block. A constant of the device: it fixes the order of summation.
    const ROW_BLOCK: usize;
    /// Intermediate numbers that a pass through a network has in hand where the device wants much work at once;
    /// `None` where a cache wants little. A constant of the device as well.
    const IN_HAND: Option<usize>;

    /// For people: device and element type, such as `cpu f64`.
    fn describe(&self) -> String;

    /// A buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// A buffer with a copy of `host`.
    fn upload(&self, host: &[Self::Elem]) -> Self::Buffer;
    /// Overwrites `host.len()` elements from `offset` on.
    fn write(&self, buffer: &mut Self::Buffer, offset: usize, host: &[Self::Elem]);
    /// The matrix, row by row.
    fn download(&self, x: View<Self>) -> Vec<Self::Elem>;
    /// A copy of a whole buffer on the device `to`, through the host.
    fn copied(&self, buffer: &Self::Buffer, to: &Self) -> Self::Buffer {
        to.upload(&self.download(View::new(buffer, 0, 1, Self::len(buffer))))
    }
    /// Number of elements.
    fn len(buffer: &Self::Buffer) -> usize;

    /// Runs `task(0)`, ..., `task(tasks - 1)`, possibly at the same time; results in task order.
    fn map<R: Send>(&self, tasks: usize, task: impl Fn(usize) -> R + Send + Sync) -> Vec<R>;
    /// How many tasks can usefully be in flight. Never decides how work is cut, only how much of it
    /// is started at once.
    fn concurrency(&self) -> usize;

    /// Further devices that take a share of work that is independent, see [`side_by_side`](crate::side_by_side).
    fn peers(&self) -> &[Self] {
        &[]
    }

    /// `y = x`.
    fn copy(&self, x: View<Self>, y: ViewMut<Self>);
    /// Every element of `y` becomes `value`.
    fn fill(&self, value: f64, y: ViewMut<Self>);
    /// The numbers of `out`, row by row, become `scale` times the signs number `first`, `first + 1`, ... of the stream
    /// `key`: the same on every device, whatever part of a stream is asked for (see [`SignStream`](crate::SignStream)).
    fn signs(&self, key: u64, first: u64, scale: f64, out: ViewMut<Self>);
    /// Row `i` of `y` becomes row `indices[i]` of `x`.
    fn gather_rows(&self, x: View<Self>, indices: &[usize], y: ViewMut<Self>);
    /// Of every row of `x` the columns of the `k` largest numbers (all columns where there are fewer), largest first, equal
    /// ones by column; NaN is below everything.
    fn top_k(&self, k: usize, x: View<Self>) -> Vec<Vec<usize>>;
    /// `y[b][a][c] = x[a][b][c]`, with `a` and `b` the rows of `x` and `y`: between direction-major and
    /// example-major order.
    fn swap_axes(&self, shape: [usize; 3], x: View<Self>, y: ViewMut<Self>);

    /// `c = alpha a b + beta c`; `beta = 0` never reads `c`.
    fn gemm(&self, alpha: f64, a: View<Self>, b: View<Self>, beta: f64, c: ViewMut<Self>);

    /// [`gemm`](Self::gemm) `count` times: the `i`-th product takes and gives matrices that lie `i` times the `steps`
    /// of `a`, `b` and `c` further on in their buffers.
    fn gemm_batch(
        &self,
        count: usize,
        steps: [usize; 3],
        alpha: f64,
        ab: [View<Self>; 2],
        beta: f64,
        c: ViewMut<Self>,
    );

    /// Row `i`: `y_i = alpha_i x_i + beta_i y_i`; `beta_i = 0` never reads `y_i`.
    fn row_axpby(&self, alpha: &[f64], x: View<Self>, beta: &[f64], y: ViewMut<Self>);
    /// `y += x_1`, then `y += x_2` and so on, number by number in this order.
    fn add_all(&self, xs: &[View<Self>], mut y: ViewMut<Self>) {
        let ones = vec![1.0; y.rows];
        xs.iter().for_each(|x| self.row_axpby(&ones, *x, &ones, y.reborrow()));
    }
    /// `out_i += <x_i, y_i>` over the rows of every pair `[x, y]`, accumulated in `f64`, in a fixed order.
    fn dots(&self, pairs: &[[View<Self>; 2]], out: &mut [f64]);
    /// `out[i][j] += <x_i, y_j>` over all pairs of rows, row-major, summed in a fixed order.
    fn gram(&self, x: View<Self>, y: View<Self>, out: &mut [f64]);
    /// Eigenvalues of a finite matrix in rising order and, on the device, the matrix whose row `i` is the `i`-th
    /// eigenvector: found in `f64`, vectors rounded then.
    ///
    /// # Panics
    /// Where a number is not finite.
    fn eigen(&self, a: &SymmetricMatrix) -> (Vec<f64>, Self::Buffer) {
        eigen_on_host(self, a)
    }
    /// `y_i = beta y_i + sum_j m[i][j] x_j` over rows, with `m` row-major; `beta = 0` never reads `y`.
    fn combine(&self, m: &[f64], x: View<Self>, beta: f64, y: ViewMut<Self>);
    /// First half of a step of conjugate gradients, on directions `p`, their products `q = A p`, solutions `x` and
    /// residuals `r`: where `p.q` is above its floor, `x += alpha p` and `r -= alpha q` with `alpha = r.z / p.q`. Of each
    /// `(start, len)` in `parts`, `len` numbers from `start + i len` on belong to vector `i`.
    fn cg_step(
        &self,
        step: CgStep,
        parts: &[(usize, usize)],
        pq: [&Self::Buffer; 2],
        xr: [&mut Self::Buffer; 2],
    ) -> Self::CgSums;
    /// Second half: `p = z + beta p` with `beta = r.z / r'.z'`, the new one over the one given to
    /// [`cg_step`](Self::cg_step), and `beta = 0` where that made no step. `z` is the preconditioned residual; `None` is
    /// `r` itself.
    fn cg_turn(
        &self,
        sums: Self::CgSums,
        parts: &[(usize, usize)],
        r: &Self::Buffer,
        z: Option<&Self::Buffer>,
        p: &mut Self::Buffer,
    ) -> CgProducts;
    /// One step of LiSSA, `x += (b - ax) / scale`, and where there is a `sum`, `sum += x`; gives `x.x` of every one of
    /// `k` vectors. `parts` is that of [`cg_step`](Self::cg_step).
    fn lissa_step(
        &self,
        scale_and_k: (f64, usize),
        parts: &[(usize, usize)],
        b_ax: [&Self::Buffer; 2],
        x: &mut Self::Buffer,
        sum: Option<&mut Self::Buffer>,
    ) -> Vec<f64>;

    /// One step of [`Adam`] on one row: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
    /// `theta -= rate m / (sqrt(v) + epsilon)`.
    fn adam_update(
        &self,
        adam: &Adam,
        g: View<Self>,
        m: ViewMut<Self>,
        v: ViewMut<Self>,
        theta: ViewMut<Self>,
    );

    /// Row `i` of `y` is multiplied by `weights[i mod weights.rows]` (`weights` is one column;
    /// `y` stacks several directions of the same examples).
    fn scale_rows(&self, weights: View<Self>, y: ViewMut<Self>);
    /// `out[i][g] = <x[i][g c .. (g + 1) c], y[i]> + beta out[i][g]`, with `c = y.cols` and
    /// `out.cols` groups: the delta-weighted dots of scoring.
    fn row_dots(&self, x: View<Self>, y: View<Self>, beta: f64, out: ViewMut<Self>);
    /// `out[i][g] += <x[i][g c .. (g + 1) c], y[i][g c .. (g + 1) c]>` for the `out.cols` groups of `c` columns.
    fn paired_dots(&self, x: View<Self>, y: View<Self>, out: ViewMut<Self>);
    /// `out[i] = x_i y_i^T` flattened, `x.cols * y.cols` numbers a row: per-example gradients.
    fn outer_rows(&self, x: View<Self>, y: View<Self>, out: ViewMut<Self>);

    /// `y = f(x)`, element by element.
    fn activate(&self, f: Activation, x: View<Self>, y: ViewMut<Self>);
    /// `out = f'(x) dy` at `[x, f(x)]`; `dy` and `out` stack several directions of the `x.rows` examples
    /// (direction-major).
    fn activation_backward(&self, f: Activation, at: [View<Self>; 2], dy: View<Self>, out: ViewMut<Self>);
    /// `out = f'(x) rdy + f''(x) rx dy` at `[x, f(x)]`, for deltas `[dy, rx, rdy]`; `rx`, `rdy` and `out`
    /// stack several directions of the examples of `x` and `dy`.
    fn activation_r_backward(
        &self,
        f: Activation,
        at: [View<Self>; 2],
        deltas: [View<Self>; 3],
        out: ViewMut<Self>,
    );

    /// Patches of the images that are the rows of `x`: `out[(c, u, v)][i][w]` is what lies under offset `(u, v)`
    /// of window `w` in plane `c` of image `i`, 0 in the padding. `out` is `patch x (x.rows positions)`.
    fn im2col(&self, window: &Window, x: View<Self>, out: ViewMut<Self>);
    /// The sum of patches in the images (one a row) they belong to: the transpose of [`im2col`](Self::im2col);
    /// overwrites `images`.
    fn col2im(&self, window: &Window, cols: View<Self>, images: ViewMut<Self>);
    /// Whether the device has [`convolve`](Self::convolve), [`convolve_transpose`](Self::convolve_transpose) and
    /// [`convolve_weights`](Self::convolve_weights) for this window, without patches in memory. Where not, they are
    /// never called.
    fn convolves(&self, _window: &Window) -> bool {
        false
    }
    /// `y_i = W_j * x_(i mod x.rows) + beta y_i`, the convolution of row `i` by the matrix that its direction has:
    /// `w` stacks `out x patch` matrices, or `out x (patch + 1)` with a bias, and `y` (`out positions` columns)
    /// as many directions of the same examples. `beta = 0` never looks at `y`.
    fn convolve(&self, _window: &Window, _w: View<Self>, _x: View<Self>, _beta: f64, _y: ViewMut<Self>) {
        unreachable!("by patches")
    }
    /// `dx_i = W_j^T * dy_(i mod dy.rows) + beta dx_i`: the transpose of [`convolve`](Self::convolve) without bias.
    fn convolve_transpose(
        &self,
        _window: &Window,
        _w: View<Self>,
        _dy: View<Self>,
        _beta: f64,
        _dx: ViewMut<Self>,
    ) {
        unreachable!("by patches")
    }
    /// `dw_j += sum_i dY_i P_i^T` over the examples of direction `j`, with `P` the patches of `x`, and a row of ones
    /// below where `dw` has a column for a bias, for as many directions as `dw` stacks `out x patch` matrices. At most one
    /// of `dy` and `x` has one row for each example only, which is then that of all directions.
    fn convolve_weights(&self, _window: &Window, _dy: View<Self>, _x: View<Self>, _dw: ViewMut<Self>) {
        unreachable!("by patches")
    }
    /// `out_i = rx_i` at the maximum under every window of row `i mod x.rows` of `x`: the first where several are equal,
    /// the last NaN where there is one; padding is below everything. With `rx = x` this is max pooling.
    fn max_pool_gather(&self, window: &Window, x: View<Self>, rx: View<Self>, out: ViewMut<Self>);
    /// The transpose of [`max_pool_gather`](Self::max_pool_gather); overwrites `out`.
    fn max_pool_scatter(&self, window: &Window, x: View<Self>, dy: View<Self>, out: ViewMut<Self>);
    /// Mean over every window of every row of `x`; padding counts as zeros.
    fn avg_pool(&self, window: &Window, x: View<Self>, out: ViewMut<Self>);
    /// The transpose of [`avg_pool`](Self::avg_pool); overwrites `out`.
    fn avg_pool_transpose(&self, window: &Window, dy: View<Self>, out: ViewMut<Self>);

    /// Row `i` of `out` becomes the mean, over the tokens `t` of row `i mod ids.rows` of `ids`, of the rows
    /// `t` of `w`; zeros where there is no token. `ids` are whole numbers below the size of the vocabulary,
    /// and those below 0 are no tokens. `w` stacks as many `vocabulary x out.cols` matrices, one direction
    /// each, as `out` stacks directions of the examples.
    fn bag_gather(&self, ids: View<Self>, w: View<Self>, out: ViewMut<Self>);
    /// The transpose of [`bag_gather`](Self::bag_gather), added to `dw`, example by example.
    fn bag_scatter(&self, ids: View<Self>, dy: View<Self>, dw: ViewMut<Self>);
    /// `out_i = sum_t (m_t / c)^2` where `m_t` of the `c` tokens of row `i` are `t` (one column).
    fn bag_squares(&self, ids: View<Self>, out: ViewMut<Self>);

    /// Loss of every row of `z`: `value` (one column), `delta = dl/dz`, and what
    /// [`loss_hessian`](Self::loss_hessian) needs of the second derivative, the curvature `c`: the
    /// probabilities `p` or `q` where the loss [couples its outputs](Loss::couples_outputs), else `l''`.
    /// `targets` is one column: class index, -1 / +1, or real, as [`Loss::target`] says.
    fn loss(
        &self,
        loss: Loss,
        z: View<Self>,
        targets: View<Self>,
        value: ViewMut<Self>,
        delta: ViewMut<Self>,
        curvature: ViewMut<Self>,
    );
    /// `out = (d2 l / dz2) rz` for every row, with `d2 l / dz2` either `diag(c) - c c^T` or `diag(c)`; `rz` and
    /// `out` stack several directions of the `curvature.rows` examples (direction-major).
    fn loss_hessian(&self, loss: Loss, curvature: View<Self>, rz: View<Self>, out: ViewMut<Self>);
    /// A square root of the loss's Hessian, `d2 l / dz2 = sum_c s_c s_c^T`: `out` stacks the
    /// directions `first, first + 1, ...` (direction-major), of which `j` is `sqrt(c_j) (e_j - c)`, or
    /// `sqrt(c_j) e_j`.
    fn loss_root(&self, loss: Loss, curvature: View<Self>, first: usize, out: ViewMut<Self>);
}
