//! K-FAC, EK-FAC and the diagonal against explicit matrices.

use std::sync::Arc;

use crate::common::{assert_close, dense_network, random_data, random_theta};
use if_linalg::testing::{check_solver, random};
use if_linalg::{
    Approximate, Approximation, Backend, Block, Cg, DenseOperator, Kronecker, KroneckerFactors, Layout,
    LinearOperator, PreconditionedCg, Segment, Solver, SymmetricMatrix, Termination,
};
use if_models::layer::Conv2d;
use if_models::testing::{LayerCheck, check_layer};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LabelExpectation, LayerSpec, Loss, ModelSpec,
    Network, RiskSettings,
};
use ndarray::ArrayD;

test_on_devices!(
    f64: diagonals_and_corrected_eigenvalues_are_those_of_the_explicit_matrix,
    the_inverse_is_exact_where_the_factors_are, the_inverse_is_the_formula,
    preconditioned_solutions_are_the_solutions, sampled_labels_estimate_the_expectation,
    squares_of_layers_with_few_terms, the_zoo,
);

fn conv(name: &str, out: usize, kernel: usize) -> LayerSpec {
    LayerSpec::Conv2d { name: name.into(), out, kernel, stride: 1, padding: 0, bias: true }
}

/// Two convolutions and a dense layer, on images of 2 x 4 x 4.
fn images<B: Backend>(backend: &B, n: usize) -> (Network<B>, Dataset) {
    let layers = vec![
        conv("0", 3, 2),
        LayerSpec::Tanh {},
        conv("2", 2, 1),
        LayerSpec::Flatten {},
        LayerSpec::Dense { name: "fc".into(), out: 3, bias: true },
    ];
    let spec = ModelSpec { input: vec![2, 4, 4], loss: Loss::CrossEntropy, layers };
    let x = ArrayD::from_shape_vec(vec![n, 2, 4, 4], random(n * 32, 3)).expect("as many numbers");
    let data = Dataset::new(HostArray::F64(x), (0..n).map(|i| (i % 3) as f64).collect()).expect("finite");
    (spec.build(backend).expect("the layers fit"), data)
}

fn tokens<B: Backend>(backend: &B, n: usize) -> (Network<B>, Dataset) {
    let layers = vec![
        LayerSpec::EmbeddingBag { name: "words".into(), vocab: 6, dim: 4 },
        LayerSpec::BatchNorm { name: "bn".into(), eps: 1e-5 },
        LayerSpec::Tanh {},
        LayerSpec::Dense { name: "fc".into(), out: 3, bias: true },
    ];
    let spec = ModelSpec { input: vec![5], loss: Loss::CrossEntropy, layers };
    let ids = random(n * 5, 3).iter().map(|v| (3.0 * (v + 1.0)).floor()).collect();
    let x = ArrayD::from_shape_vec(vec![n, 5], ids).expect("as many numbers");
    let data = Dataset::new(HostArray::F64(x), (0..n).map(|i| (i % 3) as f64).collect()).expect("finite");
    (spec.build(backend).expect("the layers fit"), data)
}

fn problems<B: Backend<Elem = f64>>(backend: &B) -> Vec<(Network<B>, Dataset)> {
    let dense = |loss, outputs| {
        (dense_network(backend, &[4, 3, outputs], true, loss), random_data(40, 4, loss, outputs, 5))
    };
    vec![
        dense(Loss::CrossEntropy, 3),
        dense(Loss::Squared, 2),
        dense(Loss::Logistic, 1),
        images(backend, 21),
        tokens(backend, 30),
    ]
}

fn diagonal(matrix: &SymmetricMatrix) -> Vec<f64> {
    let n = matrix.dim();
    (0..n).map(|i| matrix.as_slice()[i * n + i]).collect()
}

/// `q C q^T`'s diagonal, with `q` the rows of the basis of every segment.
fn diagonal_in<B: Backend<Elem = f64>>(
    factors: &KroneckerFactors<B>,
    layout: &Layout,
    c: &SymmetricMatrix,
) -> Vec<f64> {
    let n = c.dim();
    let mut all = Vec::new();
    for (s, Segment { rows, cols, .. }) in layout.segments().iter().enumerate() {
        let start = layout.start(s);
        let host =
            |side: usize| factors.basis(s).map(|basis| factors.values().backend().download(basis[side]));
        let (left, right) = (host(0), host(1));
        let entry = |q: &Option<Vec<f64>>, n: usize, a: usize, i: usize| match q {
            Some(q) => q[a * n + i],
            None => f64::from(u8::from(a == i)),
        };
        for at in 0..rows * cols {
            let q: Vec<f64> = (0..rows * cols)
                .map(|i| entry(&left, *rows, at / cols, i / cols) * entry(&right, *cols, at % cols, i % cols))
                .collect();
            let mut sum = 0.0;
            for i in 0..rows * cols {
                for j in 0..rows * cols {
                    sum += q[i] * c.as_slice()[(start + i) * n + start + j] * q[j];
                }
            }
            all.push(sum);
        }
    }
    all
}

fn diagonals_and_corrected_eigenvalues_are_those_of_the_explicit_matrix<B: Backend<Elem = f64>>(backend: &B) {
    for (network, data) in problems(backend) {
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.0)).expect("in range");
        let theta = random_theta(&network, 4);
        for (curvature, expectation) in [
            (Curvature::GaussNewton, LabelExpectation::Exact),
            (Curvature::Fisher, LabelExpectation::Observed),
        ] {
            let dense = risk.operator(&theta, curvature, 0.0, 0).to_dense();
            let plain = network.diagonal(&inputs, &theta, expectation);
            assert_close(&plain.values().to_f64(), &diagonal(&dense), 1e-12);
            let factors = network.ekfac(&inputs, &theta, expectation);
            let expected = diagonal_in(&factors, network.layout(), &dense);
            assert_close(&factors.values().to_f64(), &expected, 1e-11);
        }
    }
}

/// With one example the Gauss-Newton matrix of a single dense layer is `G x A`: K-FAC is exact.
fn the_inverse_is_exact_where_the_factors_are<B: Backend<Elem = f64>>(backend: &B) {
    for (loss, outputs) in [(Loss::CrossEntropy, 4), (Loss::Squared, 2)] {
        let network = Network::linear(backend, 3, outputs, true, loss);
        let (theta, data) = (random_theta(&network, 4), random_data(1, 3, loss, outputs, 5));
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.03)).expect("in range");
        let operator = risk.operator(&theta, Curvature::GaussNewton, 0.2, 0);
        let b = Block::from_f64(backend, network.layout(), &random(3 * network.layout().dim(), 6));
        for corrected in [false, true] {
            let fit = if corrected { Network::ekfac } else { Network::kfac };
            let factors = Arc::new(fit(&network, &inputs, &theta, LabelExpectation::Exact));
            let approximation = Box::new(Kronecker { name: "kfac", factors });
            let solver = Approximate { approximation, tolerance: 1e-12 };
            let report = solver.prepare(&operator).expect("factors fit").solve(&b, &()).report;
            assert!(report.all_converged(), "{}", report.summary());
            assert_eq!((report.damping, report.solver.as_str()), (0.23, "kfac"));
        }
    }
}

/// Against the formula with explicit Kronecker products, on a network where it is no exact inverse.
fn the_inverse_is_the_formula<B: Backend<Elem = f64>>(backend: &B) {
    let (network, data) = images(backend, 21);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.0)).expect("in range");
    let theta = random_theta(&network, 4);
    let damping = 0.07;
    let operator = risk.operator(&theta, Curvature::GaussNewton, damping, 0);
    let p = network.layout().dim();
    let b = random(2 * p, 6);
    let block = Block::from_f64(backend, network.layout(), &b);
    let factors = Arc::new(network.kfac(&inputs, &theta, LabelExpectation::Exact));
    let solver =
        Approximate { approximation: Box::new(Kronecker { name: "kfac", factors }), tolerance: 1e-9 };
    let solution = solver.prepare(&operator).expect("factors fit").solve(&block, &());
    assert!(solution.report.columns.iter().all(|c| c.termination == Termination::Approximate));
    // Multiplying back by G x A / R + damping, layer by layer, returns b.
    let x = solution.x.to_f64();
    let mut back = vec![0.0; 2 * p];
    for moments in network.layer_moments(&inputs, &theta, LabelExpectation::Exact) {
        let Segment { rows, cols, .. } = network.layout().segments()[moments.segment];
        let start = network.layout().start(moments.segment);
        let (g, a) = (moments.outputs.as_slice(), moments.inputs.as_slice());
        for (at, to) in (0..2 * rows * cols).map(|v| (v % (rows * cols), v / (rows * cols) * p + start)) {
            let (o, i) = (at / cols, at % cols);
            let mut sum = damping * x[to + at];
            for (o2, i2) in (0..rows).flat_map(|o2| (0..cols).map(move |i2| (o2, i2))) {
                sum += g[o * rows + o2] * a[i * cols + i2] / moments.terms as f64 * x[to + o2 * cols + i2];
            }
            back[to + at] = sum;
        }
    }
    assert_close(&back, &b, 1e-10);
    // The residual in the report is that of the full operator.
    let dense = operator.to_dense();
    let product: Vec<f64> = dense.as_slice().chunks(p).map(|row| dot(row, &x[..p])).collect();
    let r: Vec<f64> = product.iter().zip(&b).map(|(a, b)| a - b).collect();
    let expected = (dot(&r, &r) / dot(&b[..p], &b[..p])).sqrt();
    assert!((solution.report.columns[0].residual / expected - 1.0).abs() < 1e-9);
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// As a preconditioner any of them leads to the same solution.
fn preconditioned_solutions_are_the_solutions<B: Backend<Elem = f64>>(backend: &B) {
    for (network, data) in problems(backend) {
        let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).expect("in range");
        let theta = random_theta(&network, 4);
        let operator = risk.operator(&theta, Curvature::GaussNewton, 0.01, 0);
        let b = Block::from_f64(backend, network.layout(), &random(3 * network.layout().dim(), 6));
        let cg = Cg { tolerance: 1e-11, max_iterations: 2000 };
        let exact = cg.prepare(&operator).expect("nothing to prepare").solve(&b, &());
        for (name, factors) in [
            ("diagonal", network.diagonal(&inputs, &theta, LabelExpectation::Exact)),
            ("kfac", network.kfac(&inputs, &theta, LabelExpectation::Exact)),
            ("ekfac", network.ekfac(&inputs, &theta, LabelExpectation::Exact)),
        ] {
            let preconditioner = Box::new(Kronecker { name, factors: Arc::new(factors) });
            let solver = PreconditionedCg { cg: cg.clone(), preconditioner };
            let found = solver.prepare(&operator).expect("factors fit").solve(&b, &());
            assert!(found.report.all_converged(), "{name}: {}", found.report.summary());
            assert_close(&found.x.to_f64(), &exact.x.to_f64(), 1e-8);
            assert_eq!(found.report.solver, format!("cg, preconditioned by {name}"));
        }
    }
}

/// Sampled labels are an unbiased estimate, the same for the same seed and any number of threads.
fn sampled_labels_estimate_the_expectation<B: Backend<Elem = f64>>(backend: &B) {
    let (network, data) = problems(backend).swap_remove(0);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let theta = random_theta(&network, 4);
    let values = |expectation| network.diagonal(&inputs, &theta, expectation).values().to_f64();
    let exact = values(LabelExpectation::Exact);
    let seeds = 400;
    let mut mean = vec![0.0; exact.len()];
    for seed in 0..seeds {
        let sampled = values(LabelExpectation::Sampled { seed });
        mean.iter_mut().zip(sampled).for_each(|(m, v)| *m += v / seeds as f64);
    }
    assert_close(&mean, &exact, 0.05);
    let one = LabelExpectation::Sampled { seed: 1 };
    assert_ne!(values(one), values(LabelExpectation::Sampled { seed: 2 }));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("threads start");
    assert_eq!(pool.install(|| values(one)), values(one));
    assert_eq!(LabelExpectation::of(Curvature::GaussNewton, 20, 7), LabelExpectation::Exact);
    assert_eq!(LabelExpectation::of(Curvature::Hessian, 21, 7), LabelExpectation::Sampled { seed: 7 });
    assert_eq!(LabelExpectation::of(Curvature::Fisher, 2, 7), LabelExpectation::Observed);
}

/// A convolution of one window of few positions, where rotating the factors first is cheaper.
fn squares_of_layers_with_few_terms<B: Backend<Elem = f64>>(backend: &B) {
    use if_linalg::Window;
    let window = Window { channels: 3, image: [1, 2], kernel: [1, 1], stride: 1, padding: 0 };
    let layer = Conv2d::new("conv", window, 4, true);
    check_layer(backend, &layer, LayerCheck::new(6));
}

/// A matrix with its eigenvectors as the only basis: the inverse is exact, and what is not positive definite is said.
struct Exact;

impl<B: Backend<Elem = f64>> Approximation<B> for Exact {
    fn name(&self) -> &'static str {
        "kfac"
    }

    fn fit<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn if_linalg::Inverse<B> + 'a>, Termination>, if_linalg::LinalgError>
    where
        Self: 'a,
    {
        let dense = operator.to_dense();
        if !dense.is_finite() {
            return Ok(Err(Termination::NonFinite));
        }
        let (values, vectors) = dense.eigen();
        let values = Block::from_f64(operator.backend(), operator.layout(), &values);
        let factors = Arc::new(KroneckerFactors::new(
            vec![Some([vec![1.0], vectors].map(|side| operator.backend().upload(&side)))],
            values,
        ));
        Kronecker { name: "kfac", factors }.fit(operator)
    }
}

fn the_zoo<B: Backend<Elem = f64>>(backend: &B) {
    check_solver(backend, &Approximate { approximation: Box::new(Exact), tolerance: 1e-9 }, 1e-9);
    let cg = Cg { tolerance: 1e-9, max_iterations: 500 };
    check_solver(backend, &PreconditionedCg { cg, preconditioner: Box::new(Exact) }, 1e-9);
    let indefinite = SymmetricMatrix::from_rows(2, vec![1.0, 0.0, 0.0, -2.0]);
    let operator = DenseOperator::new(backend, &indefinite);
    let solver = Approximate { approximation: Box::new(Exact), tolerance: 1e-9 };
    let b = Block::from_f64(backend, operator.layout(), &[1.0, 1.0]);
    let report = solver.prepare(&operator).expect("small").solve(&b, &()).report;
    assert_eq!(report.columns[0].termination, Termination::NegativeCurvature { curvature: -2.0 });
}
