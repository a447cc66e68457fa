//! The root of the Gauss-Newton matrix against explicit rows, and a dual solve against Cholesky.

use crate::common::{Double, assert_close, cpu, mlp, on_threads, pictures, random_data, random_theta};
use if_linalg::testing::random;
use if_linalg::{Block, CurvatureRoot, LinearOperator};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, GaussNewtonRoot, Inputs, Loss, Network, Removal, RiskSettings,
};

/// Square roots of the loss's Hessian, `[c][d]` for each output vector `z` of a convex loss.
fn roots(loss: Loss, z: &[f64]) -> Vec<Vec<f64>> {
    let m = z.len();
    let unit = |c: usize, d: usize| f64::from(u8::from(c == d));
    if loss == Loss::CrossEntropy {
        let total: f64 = z.iter().map(|z| z.exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| z.exp() / total).collect();
        return (0..m).map(|c| (0..m).map(|d| p[c].sqrt() * (unit(c, d) - p[d])).collect()).collect();
    }
    let second = |c: usize| match loss {
        // d2/dz2 of log(1 + exp(-y z)) does not depend on y = -1, 1.
        Loss::Logistic => 1.0 / (2.0 + z[c].exp() + (-z[c]).exp()),
        _ => 1.0,
    };
    (0..m).map(|c| (0..m).map(|d| second(c).sqrt() * unit(c, d)).collect()).collect()
}

/// Rows of `U`, `(n m) x p`, from the Jacobian that tangents along unit vectors make.
fn explicit(
    network: &Network<Double>,
    inputs: &Inputs<Double>,
    theta: &Block<Double>,
    weights: &[f64],
) -> Vec<f64> {
    let (n, m, p) = (inputs.len(), network.outputs(), network.layout().dim());
    let identity: Vec<f64> = (0..p * p).map(|at| f64::from(u8::from(at / p == at % p))).collect();
    let unit = Block::from_f64(&cpu(), network.layout(), &identity);
    let jacobian = network.output_tangents(inputs, theta, &unit);
    let outputs = network.example_outputs(inputs, theta);
    let mut rows = vec![0.0; n * m * p];
    for (i, z) in outputs.chunks(m).enumerate() {
        for (c, root) in roots(network.loss(), z).iter().enumerate() {
            for (at, slot) in rows[(i * m + c) * p..][..p].iter_mut().enumerate() {
                let along = &jacobian[(at * n + i) * m..][..m];
                *slot = weights[i].sqrt() * along.iter().zip(root).map(|(j, s)| j * s).sum::<f64>();
            }
        }
    }
    rows
}

fn times_transposed(a: &[f64], b: &[f64], p: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(p).flat_map(|a| b.chunks(p).map(move |b| dot(a, b))).collect()
}

/// `c U`.
fn combined(c: &[f64], u: &[f64], p: usize) -> Vec<f64> {
    let r = u.len() / p;
    let row = |c: &[f64]| {
        let mut sum = vec![0.0; p];
        u.chunks(p).zip(c).for_each(|(u, c)| sum.iter_mut().zip(u).for_each(|(s, u)| *s += c * u));
        sum
    };
    c.chunks(r).flat_map(row).collect()
}

/// Catches: a weight or its root, the order of rows, roots and their transposes, a sign, a layer left out, a shift
/// in the wrong place.
fn check(network: &Network<Double>, theta: &Block<Double>, data: &Dataset) {
    let inputs = Inputs::new(network, data, usize::MAX).unwrap();
    let (n, m, p) = (data.len(), network.outputs(), network.layout().dim());
    let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(0.05) };
    let risk = EmpiricalRisk::new(network, &inputs, settings).unwrap().without(&[2]);
    let weights: Vec<f64> = (0..n).map(|i| if i == 2 { 0.0 } else { 1.0 / (n - 1) as f64 }).collect();
    let u = explicit(network, &inputs, theta, &weights);
    let root = GaussNewtonRoot::new(&risk, theta);
    assert_eq!(root.rank(), n * m);

    let gram = root.gram();
    assert_close(gram.as_slice(), &times_transposed(&u, &u, p), 1e-12);
    let r = gram.dim();
    assert!(
        (0..r * r).all(|at| gram.as_slice()[at] == gram.as_slice()[at % r * r + at / r]),
        "not symmetric"
    );

    let mut solved = Block::zeros(&cpu(), network.layout(), 1);
    for k in [1, 3, 33] {
        let rows = random(k * p, 3);
        let x = Block::from_f64(&cpu(), network.layout(), &rows);
        assert_close(&root.project(&x), &times_transposed(&rows, &u, p), 1e-12);
        let c = random(k * r, 4);
        let mut y = Block::from_f64(&cpu(), network.layout(), &rows);
        root.expand(&c, &mut y);
        assert_close(&y.to_f64(), &combined(&c, &u, p), 1e-12);
        solved = x;
    }

    // x = (1/s) (b - U^T (s I + U U^T)^-1 U b).
    let (b, shift) = (solved, 0.05 + 0.02);
    let mut inner = gram.clone();
    inner.add_diagonal(shift);
    let mut c = root.project(&b);
    inner.cholesky().unwrap().solve(&mut c);
    let mut x = Block::zeros(&cpu(), network.layout(), b.k());
    root.expand(&c, &mut x);
    x.axpby(1.0 / shift, &b, -1.0 / shift);
    let mut expected = b.to_f64();
    let dense = risk.operator(theta, Curvature::GaussNewton, 0.02, 0).to_dense();
    dense.cholesky().unwrap().solve(&mut expected);
    assert_close(&x.to_f64(), &expected, 1e-9);

    let bits = |threads| {
        on_threads(threads, || {
            let mut y = Block::zeros(&cpu(), network.layout(), b.k());
            root.expand(&c, &mut y);
            (root.gram(), root.project(&b), y.to_f64())
        })
    };
    assert!(bits(1) == bits(2), "other bits on another number of threads");
}

/// More examples than one tile holds.
#[test]
fn linear_models() {
    for (loss, outputs, n) in [(Loss::CrossEntropy, 3, 30), (Loss::Logistic, 1, 530), (Loss::Squared, 2, 9)] {
        let network = Network::linear(&cpu(), 4, outputs, true, loss);
        check(&network, &random_theta(&network, 4), &random_data(n, 4, loss, outputs, 5));
    }
}

/// So wide that the outputs do not go back through it together.
#[test]
fn hidden_layers() {
    let network = mlp(&cpu(), &[3, 5, 4], Loss::CrossEntropy);
    check(&network, &random_theta(&network, 4), &random_data(20, 3, Loss::CrossEntropy, 4, 5));
    let network = mlp(&cpu(), &[2, 100, 3], Loss::CrossEntropy);
    check(&network, &random_theta(&network, 4), &random_data(12, 2, Loss::CrossEntropy, 3, 5));
}

/// Layers with whole gradients, one example at a time, in one tile and in two.
#[test]
fn convolutions_and_batch_norm() {
    for n in [7, 515] {
        let (network, theta, data) = pictures(&cpu(), n);
        check(&network, &theta, &data);
    }
}
