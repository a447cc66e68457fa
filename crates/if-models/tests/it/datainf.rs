//! DataInf against its formula with explicit gradients.

use crate::common::{
    Double, assert_close, cpu, dataset, mlp, on_threads, pictures, random_data, random_theta,
};
use if_linalg::testing::random;
use if_linalg::{Approximate, Block, Solver, Termination};
use if_models::{
    Curvature, DataInf, Dataset, EmpiricalRisk, Inputs, LayerSpec, Loss, ModelSpec, Network, Removal,
    RiskSettings, Rows,
};

/// The solutions for `b`, and how each column ended.
fn solve(
    risk: &EmpiricalRisk<Double>,
    theta: &Block<Double>,
    damping: f64,
    b: &Block<Double>,
) -> (Vec<f64>, Vec<Termination>) {
    let operator = risk.operator(theta, Curvature::GaussNewton, damping, 0);
    let solver = Approximate { approximation: Box::new(DataInf { risk, theta }), tolerance: 1e-14 };
    let solution = solver.prepare(&operator).unwrap().solve(b, &());
    assert_eq!(solution.report.solver, "datainf");
    (solution.x.to_f64(), solution.report.columns.iter().map(|c| c.termination).collect())
}

/// The formula of the module for one right-hand side, layer by layer.
fn by_formula(
    network: &Network<Double>,
    (gradients, weights): (&[f64], &[f64]),
    shift: f64,
    b: &[f64],
) -> Vec<f64> {
    let p = b.len();
    let mut x: Vec<f64> = b.to_vec();
    for (s, segment) in network.layout().segments().iter().enumerate() {
        let layer = network.layout().start(s)..network.layout().start(s) + segment.rows * segment.cols;
        for (g, w) in gradients.chunks(p).zip(weights) {
            let g = &g[layer.clone()];
            let dot: f64 = g.iter().zip(&b[layer.clone()]).map(|(g, b)| g * b).sum();
            let square: f64 = g.iter().map(|g| g * g).sum();
            let target = x[layer.clone()].iter_mut().zip(g);
            target.for_each(|(x, g)| *x -= w * dot / (shift + square) * g);
        }
    }
    x.iter().map(|x| x / shift).collect()
}

/// Catches: a sign, weights or l2 or damping left out, one norm for all layers, `1/s` missing in a term.
fn check(network: &Network<Double>, theta: &Block<Double>, data: &Dataset) {
    let inputs = Inputs::new(network, data, usize::MAX).unwrap();
    let n = data.len();
    let gradients = network.example_gradients(&inputs, theta, Rows::Range(0, n)).to_f64();
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let settings = RiskSettings { removal, ..RiskSettings::mean(0.02) };
        let risk = EmpiricalRisk::new(network, &inputs, settings).unwrap().without(&[1, n - 1]);
        let stay = if removal == Removal::Fixed { n } else { n - 2 };
        let weights: Vec<f64> =
            (0..n).map(|i| if i == 1 || i == n - 1 { 0.0 } else { 1.0 / stay as f64 }).collect();
        for k in [1, 3, 33] {
            let rows = random(k * network.layout().dim(), 8);
            let b = Block::from_f64(&cpu(), network.layout(), &rows);
            let expected: Vec<f64> = rows
                .chunks(network.layout().dim())
                .flat_map(|b| by_formula(network, (&gradients, &weights), 0.02 + 0.05, b))
                .collect();
            let (found, terminations) = solve(&risk, theta, 0.05, &b);
            assert_close(&found, &expected, 1e-12);
            assert!(terminations.iter().all(|t| *t == Termination::Approximate));
            let bits = |threads| on_threads(threads, || solve(&risk, theta, 0.05, &b).0);
            assert!(bits(1) == bits(2), "other bits on another number of threads");
        }
    }
}

/// Several row blocks, and a layer so wide that 33 directions do not go back through it together.
#[test]
fn dense_layers_follow_the_formula() {
    let network = mlp(&cpu(), &[3, 300, 2], Loss::CrossEntropy);
    check(&network, &random_theta(&network, 4), &random_data(530, 3, Loss::CrossEntropy, 2, 5));
    let network = mlp(&cpu(), &[3, 4, 3, 1], Loss::Logistic);
    check(&network, &random_theta(&network, 4), &random_data(1100, 3, Loss::Logistic, 1, 5));
}

#[test]
fn convolutions_and_batch_norm_follow_the_formula() {
    let (network, theta, data) = pictures(&cpu(), 9);
    check(&network, &theta, &data);
}

#[test]
fn embeddings_follow_the_formula() {
    let layers = vec![
        LayerSpec::EmbeddingBag { name: "emb".into(), vocab: 5, dim: 4 },
        LayerSpec::Dense { name: "fc".into(), out: 2, bias: true },
    ];
    let network = ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers }.build(&cpu()).unwrap();
    let ids = (0..60).map(|i| f64::from(i * i % 7 % 5)).collect();
    let data = dataset(3, ids, (0..20).map(|i| f64::from(i % 2)).collect());
    check(&network, &random_theta(&network, 4), &data);
}

/// With one example and one layer nothing is exchanged: the solution is that of `(g g^T + s I) x = b`.
#[test]
fn one_example_is_exact() {
    let network = Network::linear(&cpu(), 4, 3, true, Loss::CrossEntropy);
    let (theta, data) = (random_theta(&network, 4), random_data(1, 4, Loss::CrossEntropy, 3, 5));
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.1)).unwrap();
    let b = random(network.layout().dim(), 6);
    let (x, _) = solve(&risk, &theta, 0.2, &Block::from_f64(&cpu(), network.layout(), &b));
    let g = network.example_gradients(&inputs, &theta, Rows::Range(0, 1)).to_f64();
    let along: f64 = g.iter().zip(&x).map(|(g, x)| g * x).sum();
    let product: Vec<f64> = g.iter().zip(&x).map(|(g, x)| g * along + 0.3 * x).collect();
    assert_close(&product, &b, 1e-13);
}

#[test]
fn without_a_shift_there_is_no_inverse() {
    let network = mlp(&cpu(), &[3, 4, 2], Loss::CrossEntropy);
    let (theta, data) = (random_theta(&network, 4), random_data(9, 3, Loss::CrossEntropy, 2, 5));
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.1)).unwrap();
    let b = Block::from_f64(&cpu(), network.layout(), &random(2 * network.layout().dim(), 6));
    for damping in [-0.1, -0.3] {
        let (x, terminations) = solve(&risk, &theta, damping, &b);
        assert_eq!(terminations, [Termination::Singular; 2]);
        assert!(x.iter().all(|x| x.is_nan()));
    }
}
