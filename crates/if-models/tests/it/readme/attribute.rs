use if_linalg::{Block, Cg, Cpu, Solver};
use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
use if_models::{Network, NewtonCg, RiskSettings, Rows};
use ndarray::ArrayD;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = Cpu::<f64>::new();
    let x = ArrayD::from_shape_fn(vec![60, 2], |i| (7.0 * i[0] as f64 + 3.0 * i[1] as f64).sin());
    let y = (0..60).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
    let train = Dataset::new(HostArray::F64(x), y)?;

    // Logistic regression: two features, one output, a bias.
    let network = Network::linear(&cpu, 2, 1, true, Loss::Logistic);
    let inputs = Inputs::new(&network, &train, usize::MAX)?;

    // J = (1/n) sum l_i + (l2/2) |theta|^2, to a gradient norm of 1e-12.
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.1))?;
    let trainer = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() };
    let fit = trainer.minimise(&risk, &Block::zeros(&cpu, network.layout(), 1), &());
    assert!(fit.report.converged());

    // (H + l2 I)^-1 times the gradient of one example, then the scores of all examples.
    let hessian = risk.operator(&fit.theta, Curvature::Hessian, 0.0, usize::MAX);
    let query = network.example_gradients(&inputs, &fit.theta, Rows::Range(0, 1));
    let solution = Cg { tolerance: 1e-10, max_iterations: 100 }.prepare(&hessian)?.solve(&query, &());
    assert!(solution.report.all_converged());
    let scores = network.scores(&inputs, &fit.theta, &solution.x);

    // Removing an example changes the loss of the query by about its score times 1/n.
    let predicted = risk.removal_factor() * scores[2];
    let without = trainer.minimise(&risk.without(&[2]), &fit.theta, &());
    let loss = |theta| network.example_losses(&inputs, theta)[0];
    let actual = loss(&without.theta) - loss(&fit.theta);
    assert!((predicted / actual - 1.0).abs() < 0.1, "predicted {predicted}, actual {actual}");
    Ok(())
}
