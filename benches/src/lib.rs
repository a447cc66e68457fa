//! Rates: how fast the machine is in this very run, and what fraction of that a computation reaches.
//!
//! Seconds mean little on a shared machine, so every bench prints its rate as a fraction of the rate of
//! a plain matrix product on the same threads, measured just before.

#![allow(clippy::print_stdout)]

pub mod cases;

use std::hint::black_box;
use std::time::Instant;

use if_linalg::testing::random;
use if_linalg::{Backend, Cpu, Real, View, ViewMut};

/// Seconds of the fastest of `runs` runs of `work`, after one that is not counted.
pub fn best_seconds(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    (0..runs).map(|_| seconds(&mut work)).fold(f64::INFINITY, f64::min)
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
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
pub fn gemm_seconds<T: Real>(shape: [usize; 3], runs: usize) -> f64 {
    best_seconds(runs, gemm_everywhere::<T>(shape))
}

/// One product of the given shape on every thread of the current pool.
fn gemm_everywhere<T: Real>([m, n, k]: [usize; 3]) -> impl FnMut() {
    let cpu = Cpu::<T>::new();
    let (a, b) = (matrix::<T>(m, k, 1), matrix::<T>(k, n, 2));
    move || {
        let sums = cpu.map(cpu.concurrency(), |_| {
            let mut c = cpu.zeros(m * n);
            let (a, b) = (View::<Cpu<T>>::new(&a, 0, m, k), View::new(&b, 0, k, n));
            cpu.gemm(1.0, a, b, 0.0, ViewMut::new(&mut c, 0, m, n));
            c[m * n / 2]
        });
        black_box(sums);
    }
}

const FRIENDLY: [usize; 3] = [512, 512, 512];

/// Flops a second of a matrix product at a friendly shape, all threads of the current pool together.
pub fn gemm_rate<T: Real>() -> f64 {
    rayon::current_num_threads() as f64 * gemm_flops(FRIENDLY) / gemm_seconds::<T>(FRIENDLY, 20)
}

/// The rate of a matrix product (flops a second) and the seconds of `work`, from the turn in the middle of several. In
/// every turn the product runs for about as long as the work, so that both meet a shared machine in the same moods:
/// the best of many short products would be compared with the average of a long run.
pub fn beside_gemm<T: Real>(turns: usize, mut work: impl FnMut()) -> (f64, f64) {
    let mut product = gemm_everywhere::<T>(FRIENDLY);
    product();
    work();
    let mut measured: Vec<(f64, f64)> = (0..turns)
        .map(|_| {
            let time = seconds(&mut work);
            let (start, mut rounds) = (Instant::now(), 0.0);
            while start.elapsed().as_secs_f64() < time {
                product();
                rounds += 1.0;
            }
            let flops = rounds * rayon::current_num_threads() as f64 * gemm_flops(FRIENDLY);
            (flops / start.elapsed().as_secs_f64(), time)
        })
        .collect();
    measured.sort_by(|(rate, time), (other, others)| (rate * time).total_cmp(&(other * others)));
    measured[turns / 2]
}

/// `2 m n k`.
pub fn gemm_flops(shape: [usize; 3]) -> f64 {
    2.0 * shape.iter().product::<usize>() as f64
}

/// A type whose multiply-adds in registers can be timed.
pub trait PeakRate: Real {
    /// Flops a second of independent multiply-adds in registers on one thread: what no product can beat.
    fn peak_rate() -> f64;
}

/// Steps of every accumulator in one timed run.
const STEPS: usize = 50_000;
/// Accumulators: enough to hide the latency of a multiply-add, few enough for sixteen registers.
const ACCUMULATORS: usize = 12;

macro_rules! peak_rate {
    ($type:ident, $splat:ident, $mul_add:ident, $sum:ident, $vector:ident) => {
        impl PeakRate for $type {
            fn peak_rate() -> f64 {
                struct MultiplyAdds([$type; 2]);

                impl pulp::WithSimd for MultiplyAdds {
                    /// A result that depends on all of the work, and the numbers in a vector.
                    type Output = ($type, usize);

                    #[inline(always)]
                    fn with_simd<S: pulp::Simd>(self, simd: S) -> Self::Output {
                        let [scale, shift] = self.0.map(|value| simd.$splat(value));
                        let mut lanes = [scale; ACCUMULATORS];
                        for _ in 0..STEPS {
                            for lane in &mut lanes {
                                *lane = simd.$mul_add(*lane, scale, shift);
                            }
                        }
                        let sum = lanes.into_iter().map(|lane| simd.$sum(lane)).sum();
                        (sum, size_of::<S::$vector>() / size_of::<$type>())
                    }
                }

                let mut width = 0;
                let seconds = best_seconds(50, || {
                    let work = MultiplyAdds(black_box([0.999, 1e-3]));
                    width = black_box(pulp::Arch::new().dispatch(work)).1;
                });
                2.0 * (ACCUMULATORS * STEPS * width) as f64 / seconds
            }
        }
    };
}

peak_rate!(f32, splat_f32s, mul_add_f32s, reduce_sum_f32s, f32s);
peak_rate!(f64, splat_f64s, mul_add_f64s, reduce_sum_f64s, f64s);

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
