//! Every device and precision against the processor in `f64`: whatever a network computes, over several row blocks,
//! parts of examples and groups of directions; and solves of its systems.

use crate::common::{assert_close, random_data};
use if_linalg::testing::random;
use if_linalg::{
    Backend, Block, BlockCg, Cg, Cholesky, Cpu, LinearOperator, Lissa, Real, Solver, Termination,
};
use if_models::{
    Approximation, Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LabelExpectation, LayerSpec, Loss,
    ModelSpec, Network, RiskSettings, Rows,
};
use ndarray::ArrayD;

test_on_devices!(f32: mlp_in_f32, cnn_in_f32, texts_in_f32, solves_in_f32);
test_on_devices!(f64: cnn_in_f64, solves_in_f64);

/// Norm-wise relative difference that is allowed to `f32`.
const SINGLE: f64 = 1e-5;
/// The same for `f64`: orders of summation differ.
const DOUBLE: f64 = 1e-12;

/// A network and examples for it; no unit is near a kink, where rounding would choose the derivative.
struct Problem {
    spec: ModelSpec,
    /// Shape of an example, or how many tokens it has.
    input: Vec<usize>,
    tokens: Option<usize>,
}

fn dense(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Dense { name: name.into(), out, bias: true }
}

fn problem(input: &[usize], tokens: Option<usize>, layers: Vec<LayerSpec>) -> Problem {
    let spec = ModelSpec { input: input.to_vec(), loss: Loss::CrossEntropy, layers };
    Problem { spec, input: input.to_vec(), tokens }
}

/// So wide that 40 directions are more than a GPU takes at a time.
fn mlp() -> Problem {
    let gelu = LayerSpec::Gelu { approximate: Approximation::None };
    problem(&[20], None, vec![dense("0", 300), LayerSpec::Tanh {}, dense("2", 100), gelu, dense("4", 10)])
}

/// One convolution without patches where a device has that, one with. The largest pixels
/// are the same in every precision; relu and max pools behind a product would not be.
fn cnn() -> Problem {
    let conv = |name: &str, out, kernel, stride, padding| LayerSpec::Conv2d {
        name: name.into(),
        out,
        kernel,
        stride,
        padding,
        bias: true,
    };
    let layers = vec![
        LayerSpec::MaxPool { size: 3, stride: Some(2), padding: 1 },
        conv("1", 4, 5, 1, 2),
        LayerSpec::Softplus {},
        LayerSpec::AvgPool { size: 2, stride: None, padding: 0 },
        conv("4", 5, 3, 2, 1),
        LayerSpec::Tanh {},
        LayerSpec::Flatten {},
        dense("7", 5),
    ];
    problem(&[3, 24, 24], None, layers)
}

/// Texts of up to 8 tokens, some of them empty.
fn texts() -> Problem {
    let bag = LayerSpec::EmbeddingBag { name: "words".into(), vocab: 50, dim: 300 };
    problem(
        &[8],
        Some(50),
        vec![bag, LayerSpec::Tanh {}, dense("fc", 60), LayerSpec::Softplus {}, dense("out", 4)],
    )
}

/// Random numbers that `f32` holds exactly, so that every precision is asked the same.
fn exact(n: usize, scale: f64, seed: u64) -> Vec<f64> {
    random(n, seed).iter().map(|v| f64::from((scale * v) as f32)).collect()
}

impl Problem {
    fn data(&self, n: usize, classes: usize) -> Dataset {
        let width: usize = self.input.iter().product();
        let x = match self.tokens {
            None => exact(n * width, 1.0, 3),
            // From -4 on: a part of the places has no token.
            Some(vocabulary) => {
                let id = |v: &f64| ((v + 1.0) / 2.0 * (vocabulary as f64 + 4.0)).floor() - 4.0;
                let mut ids: Vec<f64> = random(n * width, 3).iter().map(id).collect();
                ids[width..2 * width].fill(-1.0);
                ids
            }
        };
        let shape = [&[n], &self.input[..]].concat();
        let labels = random_data(n, 1, Loss::CrossEntropy, classes, 5).labels().to_vec();
        let x = ArrayD::from_shape_vec(shape, x).expect("as many numbers");
        Dataset::new(HostArray::F64(x), labels).expect("finite")
    }

    /// More than a row block of `B`.
    fn rows<B: Backend>() -> usize {
        B::ROW_BLOCK + B::ROW_BLOCK / 8 + 1
    }

    /// Each result and its name, of `n` examples.
    fn results<B: Backend>(&self, backend: &B, n: usize) -> Vec<(String, Vec<f64>)> {
        let network = self.spec.build(backend).expect("the layers fit");
        let inputs = Inputs::new(&network, &self.data(n, network.outputs()), usize::MAX).expect("they fit");
        let theta = parameters(&network);
        let mut results = Results { network: &network, inputs: &inputs, theta: &theta, all: Vec::new() };
        results.passes();
        results.scores();
        results.curvature();
        results.statistics();
        results.all
    }

    /// Compares `backend` with the processor in `f64`, and with itself, over more than a row block.
    fn check<B: Backend>(&self, backend: &B, bound: f64) {
        self.check_of(backend, Self::rows::<B>(), bound);
    }

    /// The same with `n` examples.
    fn check_of<B: Backend>(&self, backend: &B, n: usize, bound: f64) {
        let found = self.results(backend, n);
        compare(&found, &self.results(&Cpu::<f64>::new(), n), bound, &backend.describe());
        assert!(found == self.results(backend, n), "{}: other bits the second time", backend.describe());
    }
}

/// Weights of about the size that training begins with: `1 / sqrt(inputs)`.
fn parameters<B: Backend>(network: &Network<B>) -> Block<B> {
    let segment = |(s, segment): (usize, &if_linalg::Segment)| {
        exact(segment.rows * segment.cols, (3.0 / segment.cols as f64).sqrt(), 9 + s as u64)
    };
    let theta: Vec<f64> = network.layout().segments().iter().enumerate().flat_map(segment).collect();
    Block::from_f64(network.backend(), network.layout(), &theta)
}

struct Results<'a, B: Backend> {
    network: &'a Network<B>,
    inputs: &'a Inputs<B>,
    theta: &'a Block<B>,
    all: Vec<(String, Vec<f64>)>,
}

impl<B: Backend> Results<'_, B> {
    fn add(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) {
        self.all.push((name.into(), values.into_iter().collect()));
    }

    fn vectors(&self, k: usize) -> Block<B> {
        let layout = self.network.layout();
        Block::from_f64(self.network.backend(), layout, &exact(k * layout.dim(), 1.0, 20 + k as u64))
    }

    fn passes(&mut self) {
        let (network, inputs, theta) = (self.network, self.inputs, self.theta);
        self.add("losses", network.example_losses(inputs, theta));
        self.add("outputs", network.example_outputs(inputs, theta));
        self.add("output gradients", network.output_gradients(inputs, theta));
        self.add("output tangents", network.output_tangents(inputs, theta, &self.vectors(3)));
        for (l, squares) in network.layer_squared_norms(inputs, theta).into_iter().enumerate() {
            self.add(format!("squared norms of layer {l}"), squares);
        }
        let some = network.example_gradients(inputs, theta, Rows::Range(inputs.len() - 30, 30));
        self.add("example gradients", some.to_f64());
        if network.vocabulary().is_none() {
            self.add("input gradients", network.input_gradients(inputs, theta));
            self.add("mixed products", network.mixed_products(inputs, theta, &self.vectors(2)));
        }
    }

    /// One vector is scored without gradients, many against gradients or, where these have few terms, in pairs.
    fn scores(&mut self) {
        let (network, inputs, theta) = (self.network, self.inputs, self.theta);
        for k in [1, 3, 40] {
            let scores = network.scores(inputs, theta, &self.vectors(k));
            self.add(format!("scores of {k} vectors"), scores.into_iter().map(Real::to_f64));
        }
        let products = network.gradient_products(inputs, theta, (inputs, Rows::Indices(&[5, 1, 17, 60])));
        self.add("gradient products", products.into_iter().map(Real::to_f64));
    }

    fn curvature(&mut self) {
        let (network, inputs, theta) = (self.network, self.inputs, self.theta);
        let risk = EmpiricalRisk::new(network, inputs, RiskSettings::mean(0.0)).expect("in range");
        let (objective, gradient) = risk.gradient(theta);
        self.add("objective", [objective]);
        self.add("gradient", gradient.to_f64());
        for curvature in [Curvature::Hessian, Curvature::GaussNewton, Curvature::Fisher] {
            let operator = risk.operator(theta, curvature, 0.0, usize::MAX);
            for k in [3, 40] {
                let x = self.vectors(k);
                let mut y = Block::zeros(network.backend(), network.layout(), k);
                operator.apply(&x, &mut y);
                self.add(format!("{} products with {k} vectors", curvature.name()), y.to_f64());
            }
        }
    }

    fn statistics(&mut self) {
        let (network, inputs, theta) = (self.network, self.inputs, self.theta);
        for moments in network.layer_moments(inputs, theta, LabelExpectation::Exact) {
            self.add(format!("A of layer {}", moments.name), moments.inputs.as_slice().to_vec());
            self.add(format!("G of layer {}", moments.name), moments.outputs.as_slice().to_vec());
        }
        for (name, expectation) in
            [("gauss-newton", LabelExpectation::Exact), ("fisher", LabelExpectation::Observed)]
        {
            self.add(
                format!("diagonal of {name}"),
                network.diagonal(inputs, theta, expectation).values().to_f64(),
            );
        }
    }
}

fn relative(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// All results within `bound`, and a list of those that are not; a NaN is not.
#[allow(clippy::print_stderr)]
fn compare(found: &[(String, Vec<f64>)], expected: &[(String, Vec<f64>)], bound: f64, device: &str) {
    assert_eq!(found.len(), expected.len());
    let errors: Vec<(f64, &str)> = found
        .iter()
        .zip(expected)
        .map(|((name, found), (other, expected))| {
            assert!(name == other && found.len() == expected.len(), "{device}: {name} has another shape");
            (relative(found, expected), name.as_str())
        })
        .collect();
    let worst = errors.iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are results");
    eprintln!("{device}: {} results, {:.1e} at the most, {}", errors.len(), worst.0, worst.1);
    let beyond: Vec<_> = errors.iter().filter(|(error, _)| error.is_nan() || *error > bound).collect();
    assert!(beyond.is_empty(), "{device}: beyond {bound:e}: {beyond:?}");
}

fn mlp_in_f32<B: Backend<Elem = f32>>(backend: &B) {
    mlp().check(backend, SINGLE);
}

fn cnn_in_f32<B: Backend<Elem = f32>>(backend: &B) {
    cnn().check(backend, SINGLE);
}

fn texts_in_f32<B: Backend<Elem = f32>>(backend: &B) {
    texts().check(backend, SINGLE);
}

fn cnn_in_f64<B: Backend<Elem = f64>>(backend: &B) {
    cnn().check(backend, DOUBLE);
}

/// Rounding of a factor is `2^-11` (TF32) or `2^-8` (bf16), and of a product about as much, norm-wise; a network and its
/// derivatives pass through some ten products.
#[cfg(feature = "cuda")]
#[test]
fn products_in_fewer_bits_on_cuda() {
    use if_linalg::Products;
    for (products, bound) in [(Products::Tf32, 5e-3), (Products::Bf16, 5e-2)] {
        crate::devices::on_gpus::<f32>(products, &format!("parity in {products:?}"), |gpu| {
            [mlp(), cnn(), texts()].iter().for_each(|problem| problem.check_of(gpu, 1000, bound));
        });
    }
}

/// l2 and damping: the smallest eigenvalue of a system with the Gauss-Newton matrix is no smaller.
const SHIFT: f64 = 0.03;

/// Solutions of a Gauss-Newton system lie within what their certificates promise of those by Cholesky in `f64`:
/// `|x - x*| <= |r| / (l2 + damping)`.
fn check_solves<B: Backend>(backend: &B, solvers: &[(Box<dyn Solver<B>>, f64)]) {
    let (n, k) = (Problem::rows::<B>(), 5);
    let small = problem(&[6], None, vec![dense("0", 7), LayerSpec::Tanh {}, dense("2", 3)]);
    let data = small.data(n, 3);
    let rhs = exact(k * (7 * 7 + 3 * 8), 1.0, 4);
    let cholesky = Cholesky { tolerance: 1e-10, memory_budget: 1 << 24 };
    let expected = solve(&Cpu::<f64>::new(), &small, &data, &rhs, &cholesky, 1e-10);
    for (solver, tolerance) in solvers {
        let found = solve(backend, &small, &data, &rhs, &**solver, *tolerance);
        let p = rhs.len() / k;
        for j in 0..k {
            let part = j * p..(j + 1) * p;
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let (b, x) = (norm(&rhs[part.clone()]), norm(&expected[part.clone()]));
            // Beside the residual, the operators differ by rounding.
            let allowed = (tolerance * b + 10.0 * B::Elem::EPSILON * x) / SHIFT;
            assert_close(&found[part.clone()], &expected[part], allowed / x);
        }
    }
}

fn solve<B: Backend>(
    backend: &B,
    problem: &Problem,
    data: &Dataset,
    rhs: &[f64],
    solver: &dyn Solver<B>,
    tolerance: f64,
) -> Vec<f64> {
    let network = problem.spec.build(backend).expect("the layers fit");
    let inputs = Inputs::new(&network, data, usize::MAX).expect("they fit");
    let theta = parameters(&network);
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(SHIFT / 3.0)).expect("in range");
    let operator = risk.operator(&theta, Curvature::GaussNewton, SHIFT * 2.0 / 3.0, usize::MAX);
    let b = Block::from_f64(backend, network.layout(), rhs);
    let solution = solver.prepare(&operator).expect("the matrix fits").solve(&b, &());
    for column in &solution.report.columns {
        assert!(column.termination == Termination::Converged && column.residual <= tolerance, "{column:?}");
    }
    solution.x.to_f64()
}

fn solves_in_f64<B: Backend<Elem = f64>>(backend: &B) {
    let lissa = Lissa { tolerance: 1e-2, depth: None, repeats: 2, scale: None, batch: None, seed: 1 };
    check_solves(
        backend,
        &[
            (Box::new(Cg { tolerance: 1e-9, max_iterations: 500 }), 1e-9),
            (Box::new(BlockCg { tolerance: 1e-9, max_iterations: 500 }), 1e-9),
            (Box::new(Cholesky { tolerance: 1e-9, memory_budget: 1 << 24 }), 1e-9),
            (Box::new(lissa), 1e-2),
        ],
    );
}

fn solves_in_f32<B: Backend<Elem = f32>>(backend: &B) {
    let lissa = Lissa { tolerance: 1e-2, depth: None, repeats: 2, scale: None, batch: None, seed: 1 };
    check_solves(
        backend,
        &[
            (Box::new(Cg { tolerance: 1e-5, max_iterations: 500 }), 1e-5),
            (Box::new(BlockCg { tolerance: 1e-5, max_iterations: 500 }), 1e-5),
            (Box::new(lissa), 1e-2),
        ],
    );
}
