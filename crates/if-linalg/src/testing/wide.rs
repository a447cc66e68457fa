//! The processor, asked for work in large pieces.

use crate::{Activation, Adam, Backend, CgProducts, CgStep, Cpu, Loss, Real, View, ViewMut, Window};

/// Computes like [`Cpu`], but wants much work at once, as a GPU does, in pieces so small that tests have several.
///
/// What a network does on a GPU (many examples and directions in hand, convolutions of several images at a time) is so
/// tested on every machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wide<T>(Cpu<T>);

impl<T> Wide<T> {
    /// The processor, with the rayon thread pool of the calling thread.
    pub fn new() -> Self {
        Self(Cpu::new())
    }
}

/// An argument of a kernel, as [`Cpu`] takes it.
trait ForCpu {
    type Argument;

    fn for_cpu(self) -> Self::Argument;
}

impl<'a, T: Real> ForCpu for View<'a, Wide<T>> {
    type Argument = View<'a, Cpu<T>>;

    fn for_cpu(self) -> View<'a, Cpu<T>> {
        let Self { buffer, offset, rows, cols, row_stride, col_stride } = self;
        View { buffer, offset, rows, cols, row_stride, col_stride }
    }
}

impl<'a, T: Real> ForCpu for ViewMut<'a, Wide<T>> {
    type Argument = ViewMut<'a, Cpu<T>>;

    fn for_cpu(self) -> ViewMut<'a, Cpu<T>> {
        let Self { buffer, offset, rows, cols, row_stride } = self;
        ViewMut { buffer, offset, rows, cols, row_stride }
    }
}

impl<'a, T: Real, const N: usize> ForCpu for [View<'a, Wide<T>>; N] {
    type Argument = [View<'a, Cpu<T>>; N];

    fn for_cpu(self) -> Self::Argument {
        self.map(ForCpu::for_cpu)
    }
}

/// Arguments that are the same for both.
macro_rules! same {
    ($($argument:ty),+ $(,)?) => {
        $(impl ForCpu for $argument {
            type Argument = Self;

            fn for_cpu(self) -> Self {
                self
            }
        })+
    };
}

same!(f64, u64, usize, [usize; 3], Activation, Loss, &Adam, &Window, &[f64], &mut [f64], &[usize]);

/// Kernels that [`Cpu`] has.
macro_rules! delegate {
    ($($kernel:ident($($name:ident: $argument:ty),*);)+) => {
        $(fn $kernel(&self, $($name: $argument),*) {
            self.0.$kernel($($name.for_cpu()),*)
        })+
    };
}

impl<T: Real> Backend for Wide<T> {
    type Elem = T;
    type Buffer = Vec<T>;
    type CgSums = <Cpu<T> as Backend>::CgSums;

    const ROW_BLOCK: usize = 96;
    const IN_HAND: Option<usize> = Some(5000);

    fn describe(&self) -> String {
        format!("{} in large pieces", self.0.describe())
    }

    fn zeros(&self, len: usize) -> Vec<T> {
        self.0.zeros(len)
    }

    fn upload(&self, host: &[T]) -> Vec<T> {
        self.0.upload(host)
    }

    fn write(&self, buffer: &mut Vec<T>, offset: usize, host: &[T]) {
        self.0.write(buffer, offset, host);
    }

    fn download(&self, x: View<Self>) -> Vec<T> {
        self.0.download(x.for_cpu())
    }

    fn len(buffer: &Vec<T>) -> usize {
        buffer.len()
    }

    fn map<R: Send>(&self, tasks: usize, task: impl Fn(usize) -> R + Send + Sync) -> Vec<R> {
        self.0.map(tasks, task)
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency()
    }

    fn top_k(&self, k: usize, x: View<Self>) -> Vec<Vec<usize>> {
        self.0.top_k(k, x.for_cpu())
    }

    fn dots(&self, pairs: &[[View<Self>; 2]], out: &mut [f64]) {
        let pairs: Vec<_> = pairs.iter().map(|pair| pair.for_cpu()).collect();
        self.0.dots(&pairs, out);
    }

    fn cg_step(
        &self,
        step: CgStep,
        parts: &[(usize, usize)],
        pq: [&Vec<T>; 2],
        xr: [&mut Vec<T>; 2],
    ) -> Self::CgSums {
        self.0.cg_step(step, parts, pq, xr)
    }

    fn cg_turn(
        &self,
        sums: Self::CgSums,
        parts: &[(usize, usize)],
        r: &Vec<T>,
        z: Option<&Vec<T>>,
        p: &mut Vec<T>,
    ) -> CgProducts {
        self.0.cg_turn(sums, parts, r, z, p)
    }

    fn lissa_step(
        &self,
        scale_and_k: (f64, usize),
        parts: &[(usize, usize)],
        b_ax: [&Vec<T>; 2],
        x: &mut Vec<T>,
        sum: Option<&mut Vec<T>>,
    ) -> Vec<f64> {
        self.0.lissa_step(scale_and_k, parts, b_ax, x, sum)
    }

    delegate! {
        copy(x: View<Self>, y: ViewMut<Self>);
        fill(value: f64, y: ViewMut<Self>);
        signs(key: u64, first: u64, scale: f64, out: ViewMut<Self>);
        gather_rows(x: View<Self>, indices: &[usize], y: ViewMut<Self>);
        swap_axes(shape: [usize; 3], x: View<Self>, y: ViewMut<Self>);
        gemm(alpha: f64, a: View<Self>, b: View<Self>, beta: f64, c: ViewMut<Self>);
        gemm_batch(count: usize, steps: [usize; 3], alpha: f64, ab: [View<Self>; 2], beta: f64, c: ViewMut<Self>);
        row_axpby(alpha: &[f64], x: View<Self>, beta: &[f64], y: ViewMut<Self>);
        gram(x: View<Self>, y: View<Self>, out: &mut [f64]);
        combine(m: &[f64], x: View<Self>, beta: f64, y: ViewMut<Self>);
        adam_update(adam: &Adam, g: View<Self>, m: ViewMut<Self>, v: ViewMut<Self>, theta: ViewMut<Self>);
        scale_rows(weights: View<Self>, y: ViewMut<Self>);
        row_dots(x: View<Self>, y: View<Self>, beta: f64, out: ViewMut<Self>);
        paired_dots(x: View<Self>, y: View<Self>, out: ViewMut<Self>);
        outer_rows(x: View<Self>, y: View<Self>, out: ViewMut<Self>);
        activate(f: Activation, x: View<Self>, y: ViewMut<Self>);
        activation_backward(f: Activation, at: [View<Self>; 2], dy: View<Self>, out: ViewMut<Self>);
        activation_r_backward(f: Activation, at: [View<Self>; 2], deltas: [View<Self>; 3], out: ViewMut<Self>);
        im2col(window: &Window, x: View<Self>, out: ViewMut<Self>);
        col2im(window: &Window, cols: View<Self>, images: ViewMut<Self>);
        max_pool_gather(window: &Window, x: View<Self>, rx: View<Self>, out: ViewMut<Self>);
        max_pool_scatter(window: &Window, x: View<Self>, dy: View<Self>, out: ViewMut<Self>);
        avg_pool(window: &Window, x: View<Self>, out: ViewMut<Self>);
        avg_pool_transpose(window: &Window, dy: View<Self>, out: ViewMut<Self>);
        bag_gather(ids: View<Self>, w: View<Self>, out: ViewMut<Self>);
        bag_scatter(ids: View<Self>, dy: View<Self>, dw: ViewMut<Self>);
        bag_squares(ids: View<Self>, out: ViewMut<Self>);
        loss(
            loss: Loss, z: View<Self>, targets: View<Self>, value: ViewMut<Self>, delta: ViewMut<Self>,
            curvature: ViewMut<Self>
        );
        loss_hessian(loss: Loss, curvature: View<Self>, rz: View<Self>, out: ViewMut<Self>);
        loss_root(loss: Loss, curvature: View<Self>, first: usize, out: ViewMut<Self>);
    }
}
