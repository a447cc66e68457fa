//! Matrix products against the machine's peak, and conjugate gradients against matrix products.

#![allow(clippy::print_stdout)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use if_benches::{PeakRate, best_seconds, gemm_flops, gemm_rate, gemm_seconds, on_threads, print_fraction};
use if_linalg::testing::random;
use if_linalg::{Block, Cg, Cpu, DenseOperator, LinearOperator, Real, Solver, SymmetricMatrix};

/// Products as they occur: inputs times weights, deltas transposed times inputs, narrow outputs.
const SHAPES: [[usize; 3]; 4] = [[512, 512, 512], [512, 256, 785], [256, 785, 512], [512, 10, 785]];

fn gemm<T: PeakRate>(criterion: &mut Criterion) {
    let peak = T::peak_rate();
    println!("{}: one thread reaches {:.1} GF/s in registers", T::NAME, peak / 1e9);
    let mut group = criterion.benchmark_group(format!("gemm {}", T::NAME));
    for shape in SHAPES {
        let flops = gemm_flops(shape);
        let seconds = on_threads(1, || gemm_seconds::<T>(shape, 20));
        println!("{} {shape:?}: {:.0} % of the peak", T::NAME, 100.0 * flops / seconds / peak);
        group.throughput(Throughput::Elements(flops as u64));
        let id = BenchmarkId::from_parameter(format!("{shape:?}"));
        group.bench_function(id, |bench| bench.iter(|| on_threads(1, || gemm_seconds::<T>(shape, 1))));
    }
    group.finish();
}

/// 64 right-hand sides on an explicit matrix of order 1,000 with condition number about 100.
fn cg<T: Real>(criterion: &mut Criterion) {
    const N: usize = 1000;
    const COLUMNS: usize = 64;
    let u = random(N, 1);
    let entry =
        |i: usize, j: usize| u[i] * u[j] / 3.0 + f64::from(u8::from(i == j)) * (1.0 + 3.0 * u[i].abs());
    let dense = (0..N * N).map(|at| entry(at / N, at % N)).collect();
    let operator = DenseOperator::new(&Cpu::<T>::new(), &SymmetricMatrix::from_rows(N, dense));
    let b = Block::from_f64(operator.backend(), operator.layout(), &random(COLUMNS * N, 2));
    let solver = Cg { tolerance: 1e-5, max_iterations: 200 };
    let run = || solver.prepare(&operator).expect("nothing to prepare").solve(&b, &());

    let report = run().report;
    assert!(report.all_converged(), "{}", report.summary());
    let flops = 2.0 * (N * N * report.products()) as f64;
    for threads in [1, 2] {
        let (gemm, seconds) = on_threads(threads, || (gemm_rate::<T>(), best_seconds(5, || drop(run()))));
        let what = format!("cg {}, {COLUMNS} columns of {N}, {threads} threads", T::NAME);
        print_fraction(&what, flops, seconds, gemm);
    }
    criterion.bench_function(&format!("cg {}", T::NAME), |bench| bench.iter(run));
}

fn benches(criterion: &mut Criterion) {
    gemm::<f32>(criterion);
    gemm::<f64>(criterion);
    cg::<f32>(criterion);
    cg::<f64>(criterion);
}

criterion_group!(all, benches);
criterion_main!(all);
