//! Rates: how fast the machine is in this very run, and what fraction of that a computation reaches.
//!
//! Seconds mean little on a shared machine, so every bench prints its rate as a fraction of the rate of
//! a plain matrix product on the same threads, measured just before.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use if_linalg::testing::random;
use if_linalg::{Backend, Cpu, Real, View, ViewMut};

/// Seconds of the fastest of `runs` runs of `work`, after one that is not counted.
pub fn best_seconds(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

/// Runs `work` on a pool of `threads` threads.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start").install(work)
}

/// `rows x cols` pseudo-random numbers.
pub fn matrix<T: Real>(rows: usize, cols: usize, seed: u64) -> Vec<T> {
    random(rows * cols, seed).into_iter().map(T::from_f64).collect()
}

/// Seconds of one product of the given shape on every thread of the current pool at once.
pub fn gemm_seconds<T: Real>([m, n, k]: [usize; 3], runs: usize) -> f64 {
    let cpu = Cpu::<T>::new();
    let (a, b) = (matrix::<T>(m, k, 1), matrix::<T>(k, n, 2));
    best_seconds(runs, || {
        let sums = cpu.map(cpu.concurrency(), |_| {
            let mut c = cpu.zeros(m * n);
            let (a, b) = (View::<Cpu<T>>::new(&a, 0, m, k), View::new(&b, 0, k, n));
            cpu.gemm(1.0, a, b, 0.0, ViewMut::new(&mut c, 0, m, n));
            c[m * n / 2]
        });
        black_box(sums);
    })
}

/// Flops a second of a matrix product at a friendly shape, all threads of the current pool together.
pub fn gemm_rate<T: Real>() -> f64 {
    let shape = [512, 512, 512];
    let products = rayon::current_num_threads() as f64;
    products * gemm_flops(shape) / gemm_seconds::<T>(shape, 20)
}

/// `2 m n k`.
pub fn gemm_flops(shape: [usize; 3]) -> f64 {
    2.0 * shape.iter().product::<usize>() as f64
}

/// Flops a second of independent multiply-adds in registers on one thread: what no product can beat.
pub fn peak_rate<T: MulAdd>() -> f64 {
    /// Enough accumulators to hide the latency of a multiply-add at any vector width.
    const LANES: usize = 192;
    const STEPS: usize = 20_000;
    let (scale, shift) = (black_box(T::from_f64(0.999)), black_box(T::from_f64(1e-3)));
    let seconds = best_seconds(20, || {
        let mut lanes = [T::ONE; LANES];
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for _ in 0..STEPS {
                    for lane in &mut lanes {
                        *lane = lane.mul_add(scale, shift);
                    }
                }
            },
        );
        black_box(&lanes);
    });
    2.0 * (LANES * STEPS) as f64 / seconds
}

/// Fused multiply-add.
pub trait MulAdd: Real {
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl MulAdd for f32 {
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }
}

impl MulAdd for f64 {
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }
}

/// Prints the rate of `flops` in `seconds` beside `gemm`, the rate of a matrix product in this run.
pub fn print_fraction(what: &str, flops: f64, seconds: f64, gemm: f64) {
    let rate = flops / seconds;
    println!(
        "{what}: {:.1} GF/s, {:.0} % of the GEMM rate {:.1} GF/s",
        rate / 1e9,
        100.0 * rate / gemm,
        gemm / 1e9
    );
}
