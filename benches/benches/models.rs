//! Block products with the Hessian, and scoring, on softmax regression of MNIST's size.

#![allow(clippy::print_stdout)]

use criterion::{Criterion, criterion_group, criterion_main};
use if_benches::{best_seconds, gemm_rate, matrix, on_threads, print_fraction};
use if_linalg::LinearOperator;
use if_linalg::testing::random;
use if_linalg::{Block, Cpu, Real};
use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss, Network, RiskSettings};
use ndarray::ArrayD;

const N: usize = 5500;
const FEATURES: usize = 784;
const CLASSES: usize = 10;

fn softmax<T: Real>(criterion: &mut Criterion) {
    let cpu = Cpu::<T>::new();
    let network = Network::linear(&cpu, FEATURES, CLASSES, true, Loss::CrossEntropy);
    let pixels = matrix::<f32>(N, FEATURES, 1);
    let x = ArrayD::from_shape_vec(vec![N, FEATURES], pixels).expect("as many numbers");
    let y = (0..N).map(|i| (i % CLASSES) as f64).collect();
    let data = Dataset::new(HostArray::F32(x), y).expect("finite features");
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).expect("settings in range");
    let p = network.layout().dim();
    let vectors = |k: usize| Block::from_f64(&cpu, network.layout(), &random(k * p, 3));
    let theta = vectors(1);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);

    for threads in [1, 2] {
        on_threads(threads, || {
            let gemm = gemm_rate::<T>();
            for k in [1, 16, 100] {
                let (x, mut y) = (vectors(k), vectors(k));
                // Forward along the direction, and back: two products of every example with every direction.
                let flops = 4.0 * (N * p * k) as f64;
                let seconds = best_seconds(5, || operator.apply(&x, &mut y));
                let what = format!("Hessian product {}, {k} directions, {threads} threads", T::NAME);
                print_fraction(&what, flops, seconds, gemm);
            }
            let v = vectors(100);
            let seconds = best_seconds(5, || drop(network.scores(&inputs, &theta, &v)));
            // The forward pass, then all directions, then a dot over the outputs.
            let flops = 2.0 * (N * p * 101 + N * CLASSES * 100) as f64;
            let what = format!("scoring {}, 100 vectors, {threads} threads", T::NAME);
            print_fraction(&what, flops, seconds, gemm);
        });
    }
    let (x, mut y) = (vectors(16), vectors(16));
    criterion.bench_function(&format!("softmax Hessian product {}, 16 directions", T::NAME), |bench| {
        bench.iter(|| operator.apply(&x, &mut y));
    });
    criterion.bench_function(&format!("softmax scoring {}, 16 vectors", T::NAME), |bench| {
        bench.iter(|| network.scores(&inputs, &theta, &x));
    });
}

fn benches(criterion: &mut Criterion) {
    softmax::<f32>(criterion);
    softmax::<f64>(criterion);
}

criterion_group!(all, benches);
criterion_main!(all);
