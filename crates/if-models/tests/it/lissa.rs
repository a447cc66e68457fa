//! LiSSA on the curvature of models, with nothing given: it converges, or the curvature is negative.

use std::sync::Arc;

use crate::common::{Double, Tanh, cpu, dense_network, random_data, random_theta};
use if_linalg::testing::random;
use if_linalg::{Block, LinearOperator, Lissa, Solver, Termination};
use if_models::layer::{Dense, Layer};
use if_models::{Curvature, EmpiricalRisk, Inputs, Loss, Network, RiskSettings};

const N: usize = 1500;
const WIDTH: usize = 6;

fn tanh_network(outputs: usize, loss: Loss) -> Network<Double> {
    let layers: Vec<Arc<dyn Layer<Double>>> = vec![
        Arc::new(Dense::new("0", WIDTH, 5, true)),
        Arc::new(Tanh { width: 5 }),
        Arc::new(Dense::new("2", 5, outputs, true)),
    ];
    Network::new(&cpu(), WIDTH, layers, loss)
}

/// How the columns of a default solve end, on a pool of `threads`, and the solutions.
fn ends(network: &Network<Double>, curvature: Curvature, threads: usize) -> (Vec<Termination>, Vec<f64>) {
    let (loss, outputs) = (network.loss(), network.outputs());
    let data = random_data(N, WIDTH, loss, outputs, 5);
    let inputs = Inputs::new(network, &data, usize::MAX).unwrap();
    let theta = random_theta(network, 9);
    let settings = RiskSettings::mean(0.02);
    let risk = EmpiricalRisk::new(network, &inputs, settings).unwrap();
    let operator = risk.operator(&theta, curvature, 0.01, usize::MAX);
    let b = Block::from_f64(&cpu(), network.layout(), &random(4 * operator.dim(), 6));
    let lissa = Lissa { tolerance: 0.05, depth: None, repeats: 2, scale: None, batch: None, seed: 1 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let solution = pool.install(|| lissa.prepare(&operator).unwrap().solve(&b, &()));
    let mut residual = Block::zeros(&cpu(), network.layout(), 4);
    operator.apply(&solution.x, &mut residual);
    residual.axpby(1.0, &b, -1.0);
    let relative = residual.norms().into_iter().zip(b.norms()).map(|(r, b)| r / b);
    for (column, actual) in solution.report.columns.iter().zip(relative) {
        assert!(column.termination != Termination::Converged || actual <= 0.05, "{actual} {column:?}");
    }
    let lowest = operator.to_dense().eigen().0[0];
    for column in &solution.report.columns {
        let expected = if lowest > 0.0 {
            column.termination == Termination::Converged
        } else {
            matches!(column.termination, Termination::NegativeCurvature { curvature } if curvature >= lowest - 1e-9)
        };
        assert!(expected, "{loss:?} {curvature:?}, smallest eigenvalue {lowest}: {column:?}");
    }
    (solution.report.columns.iter().map(|c| c.termination).collect(), solution.x.to_f64())
}

#[test]
fn nothing_given_on_every_kind_of_model() {
    let linear = [
        (Loss::CrossEntropy, 3),
        (Loss::Logistic, 1),
        (Loss::Squared, 2),
        (Loss::SmoothHinge { temperature: 0.3 }, 1),
        (Loss::LabelSmoothing { smoothing: 0.2 }, 3),
    ];
    let mut networks: Vec<Network<Double>> = Vec::new();
    for (loss, outputs) in linear {
        networks.push(Network::linear(&cpu(), WIDTH, outputs, true, loss));
        networks.push(tanh_network(outputs, loss));
    }
    networks.push(dense_network(&cpu(), &[WIDTH, 4, 3], true, Loss::CrossEntropy));
    let mut negative = 0;
    for network in &networks {
        for curvature in [Curvature::Hessian, Curvature::GaussNewton] {
            let (ends, _) = ends(network, curvature, 2);
            negative += usize::from(ends[0] != Termination::Converged);
        }
    }
    // Both ends are met.
    assert!(negative > 0 && negative <= networks.len(), "{negative}");
}

#[test]
fn bits_do_not_depend_on_threads() {
    let network = tanh_network(3, Loss::CrossEntropy);
    let [one, two] = [1, 2].map(|threads| ends(&network, Curvature::GaussNewton, threads).1);
    assert_eq!(one, two);
}

/// Repeats on several devices: those of one device, to the bit, whatever their number. Catches: a repeat that is left
/// out or taken twice, another right-hand side or another operator on the other devices, columns that leave.
#[test]
fn repeats_on_several_devices_are_those_of_one() {
    let network = tanh_network(3, Loss::CrossEntropy);
    let inputs = Inputs::new(&network, &random_data(N, WIDTH, Loss::CrossEntropy, 3, 5), usize::MAX).unwrap();
    let theta = random_theta(&network, 9);
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.02)).unwrap();
    let operator = || risk.operator(&theta, Curvature::GaussNewton, 0.1, usize::MAX);
    let dim = operator().dim();
    let mut numbers = random(3 * dim, 6);
    // Solved sooner than the others, which go on without it.
    numbers[..dim].copy_from_slice(&operator().to_dense().eigen().1[(dim - 1) * dim..]);
    let b = Block::from_f64(&cpu(), network.layout(), &numbers);
    for repeats in [1, 2, 5] {
        // The noise of more repeats is less.
        let tolerance = 0.016 / (repeats as f64).sqrt();
        let lissa = Lissa { tolerance, depth: None, repeats, scale: None, batch: Some(200), seed: 1 };
        let alone = lissa.prepare(&operator()).unwrap().solve(&b, &());
        assert!(alone.report.all_converged(), "{}", alone.report.summary());
        let [first, .., last] = &alone.report.columns[..] else { panic!("three columns") };
        assert!(first.iterations < last.iterations, "{first:?} {last:?}");
        for devices in [2, 3] {
            let others: Vec<_> = (1..devices).map(|_| operator()).collect();
            let shared = operator().with_replicas(&others);
            let solution = lissa.prepare(&shared).unwrap().solve(&b, &());
            assert!(solution.x.to_f64() == alone.x.to_f64(), "{repeats} repeats on {devices} devices");
            assert_eq!(solution.report, alone.report);
            let busy = others.iter().filter(|other| other.products() > 0.0).count();
            assert_eq!(busy, devices.min(repeats) - 1, "{repeats} repeats on {devices} devices");
        }
    }
}
