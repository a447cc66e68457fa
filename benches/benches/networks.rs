//! Block products with the Hessian and the Gauss-Newton matrix, and scoring, on the networks of the field:
//! counted flops against the rate of a matrix product in the same run, and for products milliseconds, which
//! `torch/double_backward.py` prints of PyTorch as well.
//!
//! `cargo bench -p if-benches --bench networks -- --test` measures the fractions only; `-- --test CNN` those
//! of one network.

#![allow(clippy::print_stdout)]

use criterion::{Criterion, criterion_group, criterion_main};
use if_benches::cases::{Case, cnn, mlp};
use if_benches::{beside_gemm, best_seconds, on_threads, print_fraction};
use if_linalg::{Backend, Block, Cpu, LinearOperator};
use if_models::{Curvature, EmpiricalRisk, Inputs, LabelExpectation, Network, RiskSettings, Rows};

type Device = Cpu<f32>;

/// A network to measure.
struct Measured {
    case: Case,
    n: usize,
    /// Bytes for activations kept between products: all, or none.
    caches: &'static [usize],
}

/// Row blocks of the examples whose gradients are multiplied with those of 100 queries: 10,240 examples.
const MANY: usize = 20;

impl Measured {
    fn run(&self, criterion: &mut Criterion) {
        let cpu = Device::new();
        let network: Network<Device> = self.case.spec.build(&cpu).expect("the layers fit");
        let data = self.case.examples(self.n);
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).expect("in range");
        let vectors = |k: usize, scale: f64| self.case.vectors(&network, k, scale);
        let theta = vectors(1, 0.05);
        let many = self.case.examples(MANY * Device::ROW_BLOCK);
        let many = Inputs::new(&network, &many, usize::MAX).expect("the data fit");
        for threads in [1, 2] {
            on_threads(threads, || {
                for cache in self.caches {
                    for curvature in [Curvature::Hessian, Curvature::GaussNewton] {
                        self.products(&risk, (curvature, *cache), threads, (&theta, &vectors(16, 1.0)));
                    }
                }
                self.scoring(&network, &inputs, threads, (&theta, &vectors(100, 1.0)));
                self.inner_products(&network, &many, threads, &theta);
                self.statistics(&risk, threads, (&theta, &vectors(1, 1.0)));
            });
        }
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, self.caches[0]);
        let (x, mut y) = (vectors(16, 1.0), vectors(16, 1.0));
        criterion.bench_function(&format!("{} Hessian product, 16 directions", self.case.name), |bench| {
            bench.iter(|| operator.apply(&x, &mut y));
        });
    }

    /// Products with 1 and 16 directions.
    fn products(
        &self,
        risk: &EmpiricalRisk<Device>,
        (curvature, cache): (Curvature, usize),
        threads: usize,
        (theta, x): (&Block<Device>, &Block<Device>),
    ) {
        let operator = risk.operator(theta, curvature, 0.0, cache);
        let mut seconds = Vec::new();
        for k in [1, 16] {
            let (x, mut y) = (x.select(&(0..k).collect::<Vec<_>>()), x.select(&(0..k).collect::<Vec<_>>()));
            let (gemm, time) = beside_gemm::<f32>(5, || operator.apply(&x, &mut y));
            let shared = if cache > 0 { 0.0 } else { self.case.forward() + self.shared(curvature) };
            let flops = self.n as f64 * (shared + k as f64 * self.case.direction(curvature));
            let how = if cache > 0 { "" } else { ", activations recomputed" };
            let what =
                format!("{} {curvature:?} product, {k} directions{how}, {threads} threads", self.case.name);
            print_fraction(&what, flops, time, gemm);
            let each = 1e3 * time / k as f64 * 1000.0 / self.n as f64;
            println!("    {each:.1} ms per direction and 1000 examples");
            seconds.push((time, flops));
        }
        let [(one, flops_one), (block, flops_block)] = seconds[..] else { return };
        let predicted = one * flops_block / flops_one;
        println!(
            "    16 directions take {:.2} singles, {:.2} of what flops predict",
            block / one,
            block / predicted
        );
    }

    fn shared(&self, curvature: Curvature) -> f64 {
        if curvature == Curvature::Hessian { self.case.backward() } else { 0.0 }
    }

    fn scoring(
        &self,
        network: &Network<Device>,
        inputs: &Inputs<Device>,
        threads: usize,
        (theta, v): (&Block<Device>, &Block<Device>),
    ) {
        let (gemm, seconds) = beside_gemm::<f32>(3, || drop(network.scores(inputs, theta, v)));
        let example = self.case.forward() + self.case.backward() + self.case.scores(v.k());
        let what = format!("{} scoring, {} vectors, {threads} threads", self.case.name, v.k());
        print_fraction(&what, self.n as f64 * example, seconds, gemm);
    }

    /// Fits of K-FAC and EK-FAC with the exact expectation over classes, in Hessian products of one direction.
    fn statistics(
        &self,
        risk: &EmpiricalRisk<Device>,
        threads: usize,
        (theta, x): (&Block<Device>, &Block<Device>),
    ) {
        let (network, inputs) = (risk.network(), risk.inputs());
        let operator = risk.operator(theta, Curvature::Hessian, 0.0, self.caches[0]);
        let mut y = x.clone();
        let product = best_seconds(3, || operator.apply(x, &mut y));
        let kfac = best_seconds(2, || drop(network.kfac(inputs, theta, LabelExpectation::Exact)));
        let ekfac = best_seconds(2, || drop(network.ekfac(inputs, theta, LabelExpectation::Exact)));
        println!(
            "    fits on {} examples, {threads} threads: K-FAC {kfac:.2} s, {:.1} Hessian products; EK-FAC {ekfac:.2} s, {:.1}",
            self.n,
            kfac / product,
            ekfac / product
        );
    }

    /// Inner products of the gradients of 100 examples with those of all, beside one forward and backward pass.
    fn inner_products(
        &self,
        network: &Network<Device>,
        inputs: &Inputs<Device>,
        threads: usize,
        theta: &Block<Device>,
    ) {
        let n = inputs.len();
        let risk = EmpiricalRisk::new(network, inputs, RiskSettings::mean(0.0)).expect("in range");
        let passes = best_seconds(3, || drop(risk.batch_gradient(theta, &(0..n).collect::<Vec<_>>())));
        let queries = (inputs, Rows::Range(0, 100));
        let products = best_seconds(3, || drop(network.gradient_products(inputs, theta, queries)));
        println!(
            "    inner products of gradients, 100 x {n}, {threads} threads: {products:.3} s, {:.2} of forward and backward",
            products / passes
        );
    }
}

/// Whether a name on the command line leaves `case` out.
fn wanted(case: &Case) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| case.name.contains(&filter) || filter.contains(case.name))
}

fn benches(criterion: &mut Criterion) {
    let rows = Device::ROW_BLOCK;
    let all: [(Case, usize, &[usize]); 2] = [(mlp(), MANY * rows, &[usize::MAX, 0]), (cnn(), 2 * rows, &[0])];
    for (case, n, caches) in all.into_iter().filter(|(case, ..)| wanted(case)) {
        Measured { case, n, caches }.run(criterion);
    }
}

criterion_group!(all, benches);
criterion_main!(all);
