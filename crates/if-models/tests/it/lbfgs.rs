//! L-BFGS against truncated Newton, and against its promises.

use crate::common::{Double, assert_close, cpu, random_data, random_theta};
use if_linalg::{Block, Cpu, Loss, Observer};
use if_models::{
    Dataset, EmpiricalRisk, Inputs, LayerSpec, Lbfgs, ModelSpec, Network, NewtonCg, RiskSettings,
};

fn softmax() -> (Network<Double>, Dataset) {
    let network = Network::linear(&cpu(), 6, 4, true, Loss::CrossEntropy);
    (network, random_data(200, 6, Loss::CrossEntropy, 4, 3))
}

fn mlp_spec() -> ModelSpec {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![dense("0", 5), LayerSpec::Tanh {}, dense("2", 3)];
    ModelSpec { input: vec![4], loss: Loss::CrossEntropy, layers }
}

fn mlp() -> (Network<Double>, Dataset) {
    (mlp_spec().build(&cpu()).unwrap(), random_data(60, 4, Loss::CrossEntropy, 3, 9))
}

#[test]
fn the_optimum_is_that_of_newton() {
    let (network, data) = softmax();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).unwrap();
    let start = Block::zeros(&cpu(), network.layout(), 1);
    let fit = Lbfgs::default().minimise(&risk, &start, &());
    assert!(fit.report.converged() && fit.report.iterations < 60, "{:?}", fit.report);
    let newton = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() };
    let expected = newton.minimise(&risk, &start, &()).theta.to_f64();
    assert_close(&fit.theta.to_f64(), &expected, 1e-6);
}

#[test]
fn a_network_reaches_a_stationary_point_and_never_climbs() {
    let (network, data) = mlp();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.001)).unwrap();
    let start = random_theta(&network, 2);
    let fit = Lbfgs::default().minimise(&risk, &start, &());
    assert!(fit.report.converged(), "{:?}", fit.report);
    let (objective, gradient) = risk.gradient(&fit.theta);
    assert!(gradient.norms()[0] <= 1e-8);
    assert_eq!((fit.report.objective, fit.report.optimality), (objective, gradient.norms()[0]));

    // The same steps, stopped after each.
    let mut before = risk.objective(&start);
    let last = fit.report.iterations;
    for max_iterations in (1..=80).chain(last - 20..=last) {
        let part = Lbfgs { max_iterations, ..Lbfgs::default() }.minimise(&risk, &start, &()).report;
        assert_eq!(part.iterations, max_iterations);
        assert!(part.objective <= before * (1.0 + 1e-14), "step {max_iterations} climbs");
        before = part.objective;
    }
}

/// Every pair that is remembered saves steps; without any it would be descent along the gradient.
#[test]
fn memory_pays() {
    let (network, data) = mlp();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.001)).unwrap();
    let start = random_theta(&network, 2);
    let steps = |memory| {
        let settings = Lbfgs { gradient_tolerance: 1e-4, max_iterations: 1000, memory };
        settings.minimise(&risk, &start, &()).report.iterations
    };
    let (none, three, twenty) = (steps(0), steps(3), steps(20));
    assert!(twenty < three && 3 * three < none, "{none}, {three}, {twenty}");
}

#[test]
fn what_cannot_be_reached_is_not_called_converged() {
    let (network, data) = mlp();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.001)).unwrap();
    let start = random_theta(&network, 2);
    let few = Lbfgs { max_iterations: 3, ..Lbfgs::default() }.minimise(&risk, &start, &()).report;
    assert!(!few.converged() && few.iterations == 3);
    let absurd = Lbfgs { gradient_tolerance: 1e-300, ..Lbfgs::default() }.minimise(&risk, &start, &()).report;
    assert!(!absurd.converged() && absurd.iterations < 1000, "stops where rounding does: {absurd:?}");
    assert!(absurd.optimality < 1e-8);
    let broken = Block::from_f64(&cpu(), network.layout(), &vec![f64::NAN; network.layout().dim()]);
    let broken = Lbfgs::default().minimise(&risk, &broken, &()).report;
    assert!(!broken.converged() && broken.iterations == 0);

    struct Cancelled;
    impl Observer for Cancelled {
        fn cancelled(&self) -> bool {
            true
        }
    }
    assert_eq!(Lbfgs::default().minimise(&risk, &start, &Cancelled).report.iterations, 0);
}

#[test]
fn single_precision_comes_as_far_as_it_can() {
    let network = mlp_spec().build(&Cpu::<f32>::new()).unwrap();
    let inputs = Inputs::new(&network, &mlp().1, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.001)).unwrap();
    let values = random_theta(&mlp().0, 2).to_f64();
    let start = Block::from_f64(network.backend(), network.layout(), &values);
    let fit = Lbfgs { gradient_tolerance: 1e-5, ..Lbfgs::default() }.minimise(&risk, &start, &());
    assert!(fit.report.converged(), "{:?}", fit.report);
}
