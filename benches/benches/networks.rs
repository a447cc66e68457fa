//! Block products with the Hessian and the Gauss-Newton matrix, and scoring, on the networks of the field:
//! counted flops against the rate of a matrix product in the same run, and for products milliseconds, which
//! `torch/double_backward.py` prints of PyTorch as well.
//!
//! `cargo bench -p if-benches --bench networks -- --test` measures the fractions only; `-- --test CNN` those
//! of one network.

#![allow(clippy::print_stdout)]

use criterion::{Criterion, criterion_group, criterion_main};
use if_benches::{beside_gemm, best_seconds, matrix, on_threads, print_fraction};
use if_linalg::testing::random;
use if_linalg::{Block, Cpu, LinearOperator};
use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LabelExpectation, LayerSpec, Loss};
use if_models::{ModelSpec, Network, RiskSettings, Rows};
use ndarray::ArrayD;

type Device = Cpu<f32>;

/// Multiply-adds of one layer for an example: through its weights, and whether its input depends on parameters.
struct Cost {
    products: f64,
    inner: bool,
}

/// A network to measure.
struct Case {
    name: &'static str,
    spec: ModelSpec,
    layers: Vec<Cost>,
    n: usize,
    /// Bytes for activations kept between products.
    cache: usize,
}

fn dense(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Dense { name: name.into(), out, bias: true }
}

fn conv(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Conv2d { name: name.into(), out, kernel: 3, stride: 1, padding: 1, bias: true }
}

/// 784-256-128-10, relu.
fn mlp(n: usize) -> Case {
    let layers = vec![
        LayerSpec::Flatten,
        dense("0", 256),
        LayerSpec::Relu,
        dense("2", 128),
        LayerSpec::Relu,
        dense("4", 10),
    ];
    let costs = [(785 * 256, false), (257 * 128, true), (129 * 10, true)];
    Case { name: "MLP", spec: spec(layers), layers: costs.map(cost).into(), n, cache: usize::MAX }
}

/// Two convolutions of 16 and 32 planes with pools, and a dense layer.
fn cnn(n: usize) -> Case {
    let pool = || LayerSpec::MaxPool { size: 2, stride: None, padding: 0 };
    let layers = vec![
        conv("0", 16),
        LayerSpec::Relu,
        pool(),
        conv("3", 32),
        LayerSpec::Relu,
        pool(),
        LayerSpec::Flatten,
        dense("7", 10),
    ];
    let costs = [(10 * 16 * 784, false), (145 * 32 * 196, true), (1569 * 10, true)];
    Case { name: "CNN", spec: spec(layers), layers: costs.map(cost).into(), n, cache: 0 }
}

fn spec(layers: Vec<LayerSpec>) -> ModelSpec {
    ModelSpec { input: vec![1, 28, 28], loss: Loss::CrossEntropy, layers }
}

fn cost((products, inner): (usize, bool)) -> Cost {
    Cost { products: products as f64, inner }
}

impl Case {
    /// Flops of one direction, activations at hand: forward along it, back to the weights, and where
    /// the input moves as well, once more for each of the two and back to the input (twice for the Hessian).
    fn direction(&self, curvature: Curvature) -> f64 {
        let each = |layer: &Cost| {
            let passes = match (layer.inner, curvature) {
                (false, _) => 2.0,
                (true, Curvature::Hessian) => 6.0,
                (true, Curvature::GaussNewton | Curvature::Fisher) => 4.0,
            };
            2.0 * passes * layer.products
        };
        self.layers.iter().map(each).sum()
    }

    /// Flops of the forward pass, and of the gradients of all outputs.
    fn forward(&self) -> f64 {
        self.layers.iter().map(|layer| 2.0 * layer.products).sum()
    }

    fn backward(&self) -> f64 {
        self.layers.iter().filter(|layer| layer.inner).map(|layer| 2.0 * layer.products).sum()
    }

    fn run(&self, criterion: &mut Criterion) {
        let cpu = Device::new();
        let network: Network<Device> = self.spec.build(&cpu).expect("the layers fit");
        let data = examples(self.n);
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).expect("in range");
        let p = network.layout().dim();
        let vectors = |k: usize, scale: f64| {
            let values: Vec<f64> = random(k * p, 3).into_iter().map(|v| scale * v).collect();
            Block::from_f64(&cpu, network.layout(), &values)
        };
        let theta = vectors(1, 0.05);
        for threads in [1, 2] {
            on_threads(threads, || {
                for curvature in [Curvature::Hessian, Curvature::GaussNewton] {
                    self.products(&risk, curvature, threads, (&theta, &vectors(16, 1.0)));
                }
                self.scoring(&network, &inputs, threads, (&theta, &vectors(100, 1.0)));
                self.statistics(&risk, threads, (&theta, &vectors(1, 1.0)));
            });
        }
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, self.cache);
        let (x, mut y) = (vectors(16, 1.0), vectors(16, 1.0));
        criterion.bench_function(&format!("{} Hessian product, 16 directions", self.name), |bench| {
            bench.iter(|| operator.apply(&x, &mut y));
        });
    }

    /// Products with 1 and 16 directions.
    fn products(
        &self,
        risk: &EmpiricalRisk<Device>,
        curvature: Curvature,
        threads: usize,
        (theta, x): (&Block<Device>, &Block<Device>),
    ) {
        let operator = risk.operator(theta, curvature, 0.0, self.cache);
        let mut seconds = Vec::new();
        for k in [1, 16] {
            let (x, mut y) = (x.select(&(0..k).collect::<Vec<_>>()), x.select(&(0..k).collect::<Vec<_>>()));
            let (gemm, time) = beside_gemm::<f32>(5, || operator.apply(&x, &mut y));
            let shared = if self.cache > 0 { 0.0 } else { self.forward() + self.shared(curvature) };
            let flops = self.n as f64 * (shared + k as f64 * self.direction(curvature));
            let what = format!("{} {curvature:?} product, {k} directions, {threads} threads", self.name);
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
        if curvature == Curvature::Hessian { self.backward() } else { 0.0 }
    }

    fn scoring(
        &self,
        network: &Network<Device>,
        inputs: &Inputs<Device>,
        threads: usize,
        (theta, v): (&Block<Device>, &Block<Device>),
    ) {
        let (gemm, seconds) = beside_gemm::<f32>(3, || drop(network.scores(inputs, theta, v)));
        let p = network.layout().dim();
        let example = self.forward() + self.backward() + 2.0 * (v.k() * p) as f64;
        let what = format!("{} scoring, {} vectors, {threads} threads", self.name, v.k());
        print_fraction(&what, self.n as f64 * example, seconds, gemm);
        self.inner_products(network, inputs, threads, theta);
    }

    /// Fits of K-FAC and EK-FAC with the exact expectation over classes, in Hessian products of one direction.
    fn statistics(
        &self,
        risk: &EmpiricalRisk<Device>,
        threads: usize,
        (theta, x): (&Block<Device>, &Block<Device>),
    ) {
        let (network, inputs) = (risk.network(), risk.inputs());
        let operator = risk.operator(theta, Curvature::Hessian, 0.0, self.cache);
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
        let risk = EmpiricalRisk::new(network, inputs, RiskSettings::mean(0.0)).expect("in range");
        let passes = best_seconds(3, || drop(risk.batch_gradient(theta, &(0..self.n).collect::<Vec<_>>())));
        let queries = (inputs, Rows::Range(0, 100));
        let products = best_seconds(3, || drop(network.gradient_products(inputs, theta, queries)));
        println!(
            "    inner products of gradients, 100 x {}, {threads} threads: {products:.3} s; forward and backward {passes:.3} s",
            self.n
        );
    }
}

fn examples(n: usize) -> Dataset {
    let pixels = matrix::<f32>(n, 784, 1);
    let x = ArrayD::from_shape_vec(vec![n, 1, 28, 28], pixels).expect("as many numbers");
    Dataset::new(HostArray::F32(x), (0..n).map(|i| (i % 10) as f64).collect()).expect("finite features")
}

/// Whether a name on the command line leaves `case` out.
fn wanted(case: &Case) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| case.name.contains(&filter) || filter.contains(case.name))
}

fn benches(criterion: &mut Criterion) {
    for case in
        [mlp(10 * Cpu::<f32>::ROW_BLOCK), cnn(2 * Cpu::<f32>::ROW_BLOCK)].iter().filter(|case| wanted(case))
    {
        case.run(criterion);
    }
}

criterion_group!(all, benches);
criterion_main!(all);
