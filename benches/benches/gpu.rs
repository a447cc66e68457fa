//! The work of influence functions on a GPU: seconds, and the fraction of what the device reaches in this run when it
//! only multiplies matrices. `gpu/peer.py` does the same work with PyTorch.
//!
//! `cargo bench -p if-benches --bench gpu --features cuda -- --out ours.json` measures the GPU; without the feature it
//! runs on the CPU, for which `--scale 0.01` takes a hundredth of the examples. The program runs alone: it can be
//! copied to a machine that has a GPU and no Rust. `--model CNN` and `--work hessian` measure what has that in its name.

#![allow(clippy::print_stdout)]

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use if_benches::cases::{Case, cnn, mlp, wide_mlp};
use if_benches::matrix;
use if_linalg::{Backend, Block, Cg, LinearOperator, Real, Solver, View, ViewMut};
use if_models::{Curvature, EmpiricalRisk, Inputs, LabelExpectation, Network, RiskSettings, Rows};
use serde_json::{Value, json};

/// As in gpu/peer.py.
const DAMPING: f64 = 0.01;
const ITERATIONS: usize = 20;
const CHECKPOINTS: usize = 5;
const QUERIES: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let scale = after("--scale").map_or(1.0, |scale| scale.parse::<f64>().expect("a number after --scale"));
    let only = after("--model").cloned().unwrap_or_default();
    let work = after("--work").cloned().unwrap_or_default();
    let out = after("--out").cloned();
    measure(&mut Run { scale, only: [only, work], out, records: Vec::new() });
}

#[cfg(feature = "cuda")]
fn measure(run: &mut Run) {
    use if_linalg::{Cuda, CudaOptions, Products};
    let open = |products| {
        let options = CudaOptions { products, ..CudaOptions::default() };
        Cuda::<f32>::new(&options).unwrap_or_else(|error| panic!("{error}"))
    };
    let full = open(Products::Full);
    println!("{}", full.describe());
    let double = Cuda::<f64>::new(&CudaOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    run.rate(&double, "f64", 4096);
    run.copies(&full);
    let rate = run.rate(&full, "f32", 8192);
    run.networks(&full, "f32", rate);
    for (products, name) in [(Products::Tf32, "tf32"), (Products::Bf16, "bf16")] {
        let backend = open(products);
        let rate = run.rate(&backend, name, 8192);
        for case in run.cases().into_iter().filter(|case| case.name.contains("MLP")) {
            run.products(&Problem::new(&backend, case, run.scale), name, rate);
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn measure(run: &mut Run) {
    let backend = if_linalg::Cpu::<f32>::new();
    run.copies(&backend);
    let rate = run.rate(&backend, "f32", 1024);
    run.networks(&backend, "f32", rate);
}

/// One run of all.
struct Run {
    scale: f64,
    /// Parts of the names of models and works that are measured.
    only: [String; 2],
    /// Where the records are kept, after each.
    out: Option<String>,
    records: Vec<Value>,
}

/// A network, and data for products.
struct Problem<B: Backend> {
    case: Case,
    network: Network<B>,
    inputs: Inputs<B>,
    theta: Block<B>,
}

impl<B: Backend> Problem<B> {
    fn new(backend: &B, case: Case, scale: f64) -> Self {
        let network = case.spec.build(backend).expect("the layers fit");
        let data = case.examples((1e4 * scale) as usize);
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let theta = case.vectors(&network, 1, 0.05);
        Self { case, network, inputs, theta }
    }

    fn risk(&self) -> EmpiricalRisk<'_, B> {
        EmpiricalRisk::new(&self.network, &self.inputs, RiskSettings::mean(0.0)).expect("in range")
    }
}

impl Run {
    /// The networks that are wanted.
    fn cases(&self) -> Vec<Case> {
        let all = [mlp(), cnn(), wide_mlp()];
        all.into_iter().filter(|case| case.name.contains(&self.only[0])).collect()
    }

    /// Median seconds of `f`, where `work` is wanted.
    fn time(&self, work: &str, f: impl FnMut()) -> Option<(f64, usize)> {
        work.contains(&self.only[1]).then(|| median(f))
    }

    fn networks<B: Backend>(&mut self, backend: &B, precision: &str, rate: f64) {
        for case in self.cases() {
            let problem = Problem::new(backend, case, self.scale);
            self.products(&problem, precision, rate);
            self.conjugate_gradients(&problem, precision, rate);
            self.kronecker(&problem, precision);
            self.scoring(&problem, precision, rate);
        }
    }

    /// Products of the Hessian and the Gauss-Newton matrix, activations kept, as between the steps of a solver.
    fn products<B: Backend>(&mut self, problem: &Problem<B>, precision: &str, rate: f64) {
        let Problem { case, network, inputs, theta } = problem;
        let risk = problem.risk();
        for (curvature, work) in [(Curvature::Hessian, "hessian"), (Curvature::GaussNewton, "gauss-newton")] {
            let operator = risk.operator(theta, curvature, 0.0, usize::MAX);
            for k in [1, 16, 100] {
                let (x, mut y) = (case.vectors(network, k, 1.0), case.vectors(network, k, 1.0));
                let work = format!("{work}-{k}");
                let times = self.time(&work, || {
                    operator.apply(&x, &mut y);
                    finish(network.backend(), &y);
                });
                let flops = inputs.len() as f64 * k as f64 * case.direction(curvature);
                self.fraction(&work, case.name, precision, times, flops, rate);
            }
        }
    }

    /// A fixed number of iterations of 100 systems, as no residual is small enough to end them.
    fn conjugate_gradients<B: Backend>(&mut self, problem: &Problem<B>, precision: &str, rate: f64) {
        let Problem { case, network, inputs, theta } = problem;
        let risk = problem.risk();
        let operator = risk.operator(theta, Curvature::GaussNewton, DAMPING, usize::MAX);
        let cg = Cg { tolerance: 1e-30, max_iterations: ITERATIONS };
        let prepared = cg.prepare(&operator).expect("nothing to prepare");
        let b = network.example_gradients(inputs, theta, Rows::Range(0, QUERIES.min(inputs.len())));
        let times = self.time("cg-100", || drop(black_box(prepared.solve(&b, &()).report)));
        // One product more checks the residuals.
        let products = (ITERATIONS + 1) as f64 * b.k() as f64;
        let flops = inputs.len() as f64 * products * case.direction(Curvature::GaussNewton);
        self.fraction("cg-100", case.name, precision, times, flops, rate);
    }

    fn kronecker<B: Backend>(&mut self, problem: &Problem<B>, precision: &str) {
        let Problem { case, network, inputs, theta } = problem;
        let exact = LabelExpectation::Exact;
        let times = self.time("ekfac", || drop(black_box(network.ekfac(inputs, theta, exact))));
        self.record("ekfac", case.name, precision, times, json!({}));
    }

    /// 50,000 examples against 100 vectors, and against the gradients of 100 queries at 5 checkpoints.
    fn scoring<B: Backend>(&mut self, problem: &Problem<B>, precision: &str, rate: f64) {
        let Problem { case, network, theta, .. } = problem;
        let n = (5e4 * self.scale) as usize;
        let train = Inputs::new(network, &case.examples(n), usize::MAX).expect("the data fit");
        let v = case.vectors(network, QUERIES, 1.0);
        let times = self.time("scoring", || drop(black_box(network.scores(&train, theta, &v))));
        let flops = case.forward() + case.backward() + 2.0 * (QUERIES * network.layout().dim()) as f64;
        self.fraction("scoring", case.name, precision, times, n as f64 * flops, rate);
        let queries = Rows::Range(0, QUERIES.min(problem.inputs.len()));
        let times = self.time("tracin", || {
            for _ in 0..CHECKPOINTS {
                black_box(network.gradient_products(&train, theta, (&problem.inputs, queries)));
            }
        });
        self.record("tracin", case.name, precision, times, json!({}));
    }

    /// Flops a second of a product of square matrices.
    fn rate<B: Backend>(&mut self, backend: &B, precision: &str, n: usize) -> f64 {
        let n = ((n as f64 * self.scale.cbrt()) as usize).max(64);
        let numbers = matrix::<B::Elem>(n, n, 1);
        let (a, b, mut c) = (backend.upload(&numbers), backend.upload(&numbers), backend.zeros(n * n));
        let (seconds, repeats) = median(|| {
            let [a, b] = [&a, &b].map(|all| View::new(all, 0, n, n));
            backend.gemm(1.0, a, b, 0.0, ViewMut::new(&mut c, 0, n, n));
            backend.download(View::new(&c, 0, 1, 1));
        });
        let rate = 2.0 * (n as f64).powi(3) / seconds;
        let detail = json!({"flops_per_second": rate, "n": n});
        self.record("rate-gemm", "", precision, Some((seconds, repeats)), detail);
        rate
    }

    /// Bytes a second, read and written, of a copy.
    fn copies<B: Backend>(&mut self, backend: &B) {
        let len = (268_435_456.0 * self.scale) as usize;
        let (x, mut y) = (backend.zeros(len), backend.zeros(len));
        backend.fill(0.5, ViewMut::new(&mut y, 0, 1, len));
        let (seconds, repeats) = median(|| {
            backend.copy(View::new(&x, 0, 1, len), ViewMut::new(&mut y, 0, 1, len));
            backend.download(View::new(&y, 0, 1, 1));
        });
        let rate = 2.0 * (len * size_of::<B::Elem>()) as f64 / seconds;
        let detail = json!({"bytes_per_second": rate});
        self.record("rate-copy", "", B::Elem::NAME, Some((seconds, repeats)), detail);
    }

    fn fraction(
        &mut self,
        work: &str,
        model: &str,
        precision: &str,
        times: Option<(f64, usize)>,
        flops: f64,
        rate: f64,
    ) {
        let reached = flops / times.map_or(f64::NAN, |(seconds, _)| seconds);
        let detail = json!({"flops_per_second": reached, "fraction_of_gemm": reached / rate});
        self.record(work, model, precision, times, detail);
    }

    fn record(
        &mut self,
        work: &str,
        model: &str,
        precision: &str,
        times: Option<(f64, usize)>,
        detail: Value,
    ) {
        let Some((seconds, repeats)) = times else { return };
        println!("{work:16} {model:20} {precision:4} {seconds:.4e} s {detail}");
        self.records.push(json!({
            "work": work, "model": model, "precision": precision, "seconds": seconds, "repeats": repeats,
            "detail": detail,
        }));
        if let Some(path) = &self.out {
            let all = serde_json::to_string_pretty(&self.records).expect("numbers and names");
            fs::write(path, all + "\n").expect("the results can be written");
        }
    }
}

/// Waits until the device has made `y`.
fn finish<B: Backend>(backend: &B, y: &Block<B>) {
    backend.download(y.segment(0).row_range(0, 1).col_range(0, 1));
}

/// Median seconds of one call, and of how many, after one that is not counted: unless that one takes so long that what
/// only a first call pays does not matter.
fn median(mut work: impl FnMut()) -> (f64, usize) {
    let start = Instant::now();
    work();
    let first = start.elapsed().as_secs_f64();
    if first > 1.0 {
        return (first, 1);
    }
    let mut seconds = Vec::new();
    while seconds.len() < 3 || (seconds.len() < 20 && start.elapsed().as_secs_f64() < 0.5) {
        let turn = Instant::now();
        work();
        seconds.push(turn.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    (seconds[seconds.len() / 2], seconds.len())
}
