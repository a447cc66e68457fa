//! Training: truncated Newton against independent optimisers, the hinge against its optimality conditions.

use crate::common::{Double, assert_close, cpu, dataset, dense_network, random_data, random_theta};
use if_linalg::testing::random;
use if_linalg::{Block, Observer, sigmoid};
use if_models::{
    Dataset, EmpiricalRisk, Family, Fit, HingeSvm, Inputs, Loss, Network, NewtonCg, Removal, RiskSettings,
};

struct Problem {
    network: Network<Double>,
    data: Dataset,
    inputs: Inputs<Double>,
    settings: RiskSettings,
}

impl Problem {
    fn new(network: Network<Double>, data: Dataset, settings: RiskSettings) -> Self {
        let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
        Self { network, data, inputs, settings }
    }

    fn linear(
        n: usize,
        width: usize,
        outputs: usize,
        bias: bool,
        loss: Loss,
        settings: RiskSettings,
    ) -> Self {
        let network = Network::linear(&cpu(), width, outputs, bias, loss);
        Self::new(network, random_data(n, width, loss, outputs, 11), settings)
    }

    fn risk(&self) -> EmpiricalRisk<'_, Double> {
        EmpiricalRisk::new(&self.network, &self.inputs, self.settings).unwrap()
    }

    fn zeros(&self) -> Block<Double> {
        Block::zeros(&cpu(), self.network.layout(), 1)
    }

    /// Rows `x~`: features, and a one where there is a bias.
    fn rows(&self) -> Vec<Vec<f64>> {
        let bias = self.network.biases()[0];
        let row = |i: usize| {
            let mut row = vec![0.0; self.data.width()];
            self.data.features().read_row(i, &mut row);
            row.extend(bias.then_some(1.0));
            row
        };
        (0..self.data.len()).map(row).collect()
    }

    /// Labels -1 and +1.
    fn signs(&self) -> Vec<f64> {
        self.data.labels().iter().map(|y| if *y > 0.0 { 1.0 } else { -1.0 }).collect()
    }
}

fn newton(tolerance: f64) -> NewtonCg {
    NewtonCg { gradient_tolerance: tolerance, ..NewtonCg::default() }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Solves `A x = b` by elimination with pivoting.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for c in 0..n {
        let pivot = (c..n).max_by(|&i, &j| a[i][c].abs().total_cmp(&a[j][c].abs())).unwrap();
        a.swap(c, pivot);
        b.swap(c, pivot);
        for i in c + 1..n {
            let factor = a[i][c] / a[c][c];
            let upper = a[c].clone();
            a[i].iter_mut().zip(&upper).for_each(|(v, u)| *v -= factor * u);
            b[i] -= factor * b[c];
        }
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - dot(&a[i][i + 1..], &b[i + 1..])) / a[i][i];
    }
    b
}

/// Logistic regression by Newton's method with the explicit matrix: `weights` on the losses, `l2` on
/// every parameter.
fn explicit_newton(rows: &[Vec<f64>], y: &[f64], weights: &[f64], l2: &[f64]) -> Vec<f64> {
    let p = l2.len();
    let mut theta = vec![0.0; p];
    for _ in 0..30 {
        let mut gradient: Vec<f64> = (0..p).map(|a| l2[a] * theta[a]).collect();
        let mut hessian: Vec<Vec<f64>> =
            (0..p).map(|a| (0..p).map(|b| if a == b { l2[a] } else { 0.0 }).collect()).collect();
        for ((row, y), weight) in rows.iter().zip(y).zip(weights) {
            let s = sigmoid(-y * dot(row, &theta));
            for a in 0..p {
                gradient[a] -= weight * s * y * row[a];
                for b in 0..p {
                    hessian[a][b] += weight * s * (1.0 - s) * row[a] * row[b];
                }
            }
        }
        let step = solve(hessian, gradient);
        theta.iter_mut().zip(step).for_each(|(t, s)| *t -= s);
    }
    theta
}

#[test]
fn logistic_regression_reaches_1e12() {
    for bias in [true, false] {
        let problem = Problem::linear(200, 6, 1, bias, Loss::Logistic, RiskSettings::mean(0.01));
        let risk = problem.risk();
        let fit = newton(1e-12).minimise(&risk, &problem.zeros(), &());
        assert!(fit.report.converged(), "{:?}", fit.report);
        assert!(fit.report.iterations <= 10, "quadratic convergence: {:?}", fit.report);
        let (objective, gradient) = risk.gradient(&fit.theta);
        assert!(gradient.norms()[0] <= 1e-12);
        assert_eq!((fit.report.optimality, fit.report.objective), (gradient.norms()[0], objective));
        let p = problem.network.layout().dim();
        let expected =
            explicit_newton(&problem.rows(), &problem.signs(), &[1.0 / 200.0; 200], &vec![0.01; p]);
        assert_close(&fit.theta.to_f64(), &expected, 1e-10);
    }
}

/// Every convention reaches its own optimum, computed here without the library.
#[test]
fn optima_of_all_conventions() {
    let (n, l2) = (40, 0.05);
    let mean = RiskSettings::mean(l2);
    let renormalised = RiskSettings { removal: Removal::Renormalised, ..mean };
    let spared = RiskSettings { regularise_bias: false, ..mean };
    let sum = RiskSettings { family: Family::Sum, l2: l2 * n as f64, ..mean };
    let cases = [
        (mean, 1.0 / 40.0, [l2, l2, l2]),
        (renormalised, 1.0 / 38.0, [l2, l2, l2]),
        (spared, 1.0 / 40.0, [l2, l2, 0.0]),
        // Sums, and the strength as it was given.
        (sum, 1.0, [2.0, 2.0, 0.0]),
    ];
    for (settings, weight, l2) in cases {
        let problem = Problem::linear(n, 2, 1, true, Loss::Logistic, settings);
        let risk = problem.risk().without(&[3, 17]);
        let weights: Vec<f64> = (0..n).map(|i| if i == 3 || i == 17 { 0.0 } else { weight }).collect();
        let expected = explicit_newton(&problem.rows(), &problem.signs(), &weights, &l2);
        let fit = newton(1e-12).minimise(&risk, &problem.zeros(), &());
        assert!(fit.report.converged());
        assert_close(&fit.theta.to_f64(), &expected, 1e-9);
    }
}

#[test]
fn softmax_agrees_with_gradient_descent() {
    let problem = Problem::linear(90, 4, 3, true, Loss::CrossEntropy, RiskSettings::mean(0.1));
    let risk = problem.risk();
    let fit = newton(1e-10).minimise(&risk, &problem.zeros(), &());
    assert!(fit.report.converged(), "{:?}", fit.report);
    let (rows, classes) = (problem.rows(), problem.data.labels());
    let mut theta = vec![0.0; 15];
    for _ in 0..2000 {
        let mut gradient: Vec<f64> = theta.iter().map(|t| 0.1 * t).collect();
        for (row, y) in rows.iter().zip(classes) {
            let z: Vec<f64> = theta.chunks(5).map(|w| dot(w, row).exp()).collect();
            let total: f64 = z.iter().sum();
            for (c, z) in z.iter().enumerate() {
                let delta = z / total - f64::from(u8::from(c as f64 == *y));
                (0..5).for_each(|a| gradient[c * 5 + a] += delta * row[a] / 90.0);
            }
        }
        theta.iter_mut().zip(&gradient).for_each(|(t, g)| *t -= 0.7 * g);
    }
    assert_close(&fit.theta.to_f64(), &theta, 1e-9);
}

#[test]
fn ridge_regression_is_one_linear_system() {
    let problem = Problem::linear(30, 3, 1, true, Loss::Squared, RiskSettings::mean(0.2));
    let fit = newton(1e-12).minimise(&problem.risk(), &problem.zeros(), &());
    assert!(fit.report.converged());
    let (rows, y) = (problem.rows(), problem.data.labels());
    let mean = |f: &dyn Fn(usize) -> f64| (0..30).map(f).sum::<f64>() / 30.0;
    let a = (0..4).map(|a| {
        (0..4).map(|b| mean(&|i| rows[i][a] * rows[i][b]) + if a == b { 0.2 } else { 0.0 }).collect()
    });
    let b = (0..4).map(|a| mean(&|i| rows[i][a] * y[i])).collect();
    assert_close(&fit.theta.to_f64(), &solve(a.collect(), b), 1e-11);
}

#[test]
fn other_losses_and_two_layers() {
    let smooth = Loss::SmoothHinge { temperature: 0.01 };
    let problem = Problem::linear(60, 3, 1, true, smooth, RiskSettings::mean(0.05));
    let fit = newton(1e-9).minimise(&problem.risk(), &random_theta(&problem.network, 4), &());
    assert!(fit.report.converged(), "{:?}", fit.report);

    let network = dense_network(&cpu(), &[3, 2, 3], true, Loss::CrossEntropy);
    let data = random_data(60, 3, Loss::CrossEntropy, 3, 5);
    let problem = Problem::new(network, data, RiskSettings::mean(0.02));
    let start = random_theta(&problem.network, 4);
    let before = problem.risk().objective(&start);
    // Gauss-Newton steps converge linearly where the residuals are large, as with random labels.
    let fit = newton(1e-4).minimise(&problem.risk(), &start, &());
    assert!(fit.report.converged() && fit.report.objective < before, "{:?}", fit.report);
}

/// Separable, hardly regularised: steps must be shortened on the way.
#[test]
fn separable_data_with_little_l2() {
    let x: Vec<f64> =
        (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 } * (1.0 + i as f64 / 10.0)).collect();
    let y = x.iter().map(|x| x.signum()).collect();
    let network = Network::linear(&cpu(), 1, 1, true, Loss::Logistic);
    let problem = Problem::new(network, dataset(1, x, y), RiskSettings::mean(1e-8));
    let fit = newton(1e-12).minimise(&problem.risk(), &problem.zeros(), &());
    assert!(fit.report.converged(), "{:?}", fit.report);
}

#[test]
fn warm_start_and_limits() {
    let problem = Problem::linear(100, 5, 1, true, Loss::Logistic, RiskSettings::mean(0.01));
    let risk = problem.risk();
    let fit = newton(1e-10).minimise(&risk, &problem.zeros(), &());
    let again = newton(1e-10).minimise(&risk, &fit.theta, &());
    assert_eq!(again.report.iterations, 0);
    assert_eq!(again.theta.to_f64(), fit.theta.to_f64());
    let near = newton(1e-10).minimise(&risk.without(&[7]), &fit.theta, &());
    assert!(near.report.converged() && near.report.iterations < fit.report.iterations);

    let short = NewtonCg { max_iterations: 1, ..newton(1e-10) }.minimise(&risk, &problem.zeros(), &());
    assert!(!short.report.converged() && short.report.iterations == 1);
    let cancelled = newton(1e-10).minimise(&risk, &problem.zeros(), &Cancelled);
    assert!(!cancelled.report.converged() && cancelled.report.iterations == 0);
    let mut start = problem.zeros();
    start.fill_row(0, f64::NAN);
    assert!(!newton(1e-10).minimise(&risk, &start, &()).report.converged(), "NaN is no optimum");
}

struct Cancelled;

impl Observer for Cancelled {
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let logistic = Problem::linear(1300, 4, 1, true, Loss::Logistic, RiskSettings::mean(0.01));
    let hinge = Problem::linear(200, 4, 1, true, Loss::Hinge, RiskSettings::mean(0.1));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let newton = newton(1e-10).minimise(&logistic.risk(), &logistic.zeros(), &());
            let svm = svm(&hinge.risk(), &mut Vec::new());
            (newton.theta.to_f64(), newton.report, svm.theta.to_f64(), svm.report)
        })
    };
    assert_eq!(run(1), run(2));
}

fn svm(risk: &EmpiricalRisk<Double>, duals: &mut Vec<f64>) -> Fit<Double> {
    let settings = HingeSvm { distance_tolerance: 1e-9, max_passes: 20_000, seed: 1 };
    settings.minimise(risk, duals, &()).unwrap()
}

/// The Karush-Kuhn-Tucker conditions of `sum w_i hinge(m_i) + (l2/2) |theta|^2`: `theta = sum a_i y_i x~_i`
/// with `a_i` between 0 and `w_i / l2`, at the bound where the margin is short, 0 where it is long.
fn check_kkt(problem: &Problem, weights: &[f64], l2: f64, theta: &[f64], duals: &[f64]) {
    let (rows, y) = (problem.rows(), problem.signs());
    let mut sum = vec![0.0; theta.len()];
    let mut on_the_margin = 0;
    for i in 0..rows.len() {
        let (a, bound, margin) = (duals[i], weights[i] / l2, y[i] * dot(&rows[i], theta));
        assert!((0.0..=bound * (1.0 + 1e-15)).contains(&a), "dual {i} is {a}, its bound {bound}");
        if margin < 1.0 - 1e-6 {
            assert_close(&[a], &[bound], 1e-14);
        } else if margin > 1.0 + 1e-6 {
            assert_eq!(a, 0.0, "example {i} at margin {margin}");
        } else {
            on_the_margin += 1;
        }
        sum.iter_mut().zip(&rows[i]).for_each(|(s, x)| *s += a * y[i] * x);
    }
    assert_close(&sum, theta, 1e-12);
    assert!(on_the_margin > 0, "a problem without support vectors on the margin tests little");
}

#[test]
fn hinge_optimum_satisfies_kkt() {
    for bias in [true, false] {
        for removal in [Removal::Fixed, Removal::Renormalised] {
            let settings = RiskSettings { removal, ..RiskSettings::mean(0.05) };
            let problem = Problem::linear(80, 4, 1, bias, Loss::Hinge, settings);
            let mut duals = Vec::new();
            let fit = svm(&problem.risk(), &mut duals);
            assert!(fit.report.converged(), "{:?}", fit.report);
            check_kkt(&problem, &[1.0 / 80.0; 80], 0.05, &fit.theta.to_f64(), &duals);

            let removed = problem.risk().without(&[2, 9, 30]);
            let stay = if removal == Removal::Fixed { 80.0 } else { 77.0 };
            let weights: Vec<f64> =
                (0..80).map(|i| if [2, 9, 30].contains(&i) { 0.0 } else { 1.0 / stay }).collect();
            let mut cold = Vec::new();
            let fit = svm(&removed, &mut cold);
            check_kkt(&problem, &weights, 0.05, &fit.theta.to_f64(), &cold);
            let warm = svm(&removed, &mut duals);
            check_kkt(&problem, &weights, 0.05, &warm.theta.to_f64(), &duals);
            assert_close(&warm.theta.to_f64(), &fit.theta.to_f64(), 1e-7);
        }
    }
}

/// No other point near or far is better, and the reported objective is the one of the formula.
#[test]
fn hinge_optimum_is_the_minimum() {
    let problem = Problem::linear(50, 3, 1, true, Loss::Hinge, RiskSettings::mean(0.1));
    let fit = svm(&problem.risk(), &mut Vec::new());
    let (rows, y, best) = (problem.rows(), problem.signs(), fit.theta.to_f64());
    let objective = |theta: &[f64]| {
        let hinge: f64 = rows.iter().zip(&y).map(|(row, y)| (1.0 - y * dot(row, theta)).max(0.0)).sum();
        hinge / 50.0 + 0.05 * dot(theta, theta)
    };
    assert_close(&[fit.report.objective], &[objective(&best)], 1e-14);
    for (seed, size) in [1e-4, 1e-2, 0.1, 1.0].into_iter().cycle().enumerate().take(200) {
        let step = random(4, seed as u64);
        let other: Vec<f64> = best.iter().zip(&step).map(|(b, s)| b + size * s).collect();
        // Strong convexity: at least (l2 / 2) |step|^2 worse.
        let rise = 0.05 * size * size * dot(&step, &step);
        assert!(objective(&other) >= objective(&best) + rise - 1e-9 * size);
    }
}

/// The certificate: the distance to a far better optimum is below what a loose fit reports.
#[test]
fn hinge_report_bounds_the_distance() {
    let problem = Problem::linear(120, 6, 1, true, Loss::Hinge, RiskSettings::mean(0.01));
    let risk = problem.risk();
    let best = svm(&risk, &mut Vec::new()).theta.to_f64();
    for max_passes in [0, 1, 2, 5] {
        let settings = HingeSvm { distance_tolerance: 1e-12, max_passes, seed: 3 };
        let fit = settings.minimise(&risk, &mut Vec::new(), &()).unwrap();
        assert_eq!(fit.report.iterations, max_passes);
        assert!(!fit.report.converged());
        let gap: f64 = fit.theta.to_f64().iter().zip(&best).map(|(a, b)| (a - b) * (a - b)).sum();
        assert!(gap.sqrt() <= fit.report.optimality, "{} {}", gap.sqrt(), fit.report.optimality);
    }
}

/// One example, by hand: `max(0, 1 - t) + (l2/2) t^2` has its minimum at `min(1, 1 / l2)`.
#[test]
fn hinge_by_hand() {
    for (l2, expected) in [(0.5, 1.0), (1.0, 1.0), (2.0, 0.5), (8.0, 0.125)] {
        let network = Network::linear(&cpu(), 1, 1, false, Loss::Hinge);
        let problem = Problem::new(network, dataset(1, vec![1.0], vec![1.0]), RiskSettings::mean(l2));
        let fit = svm(&problem.risk(), &mut Vec::new());
        assert_close(&fit.theta.to_f64(), &[expected], 1e-9);
    }
}

#[test]
fn hinge_with_empty_features_and_warm_start() {
    let x = vec![0.0, 0.0, 1.0, 2.0, -1.0, 0.5];
    let network = Network::linear(&cpu(), 2, 1, false, Loss::Hinge);
    let problem = Problem::new(network, dataset(2, x, vec![1.0, 1.0, 0.0]), RiskSettings::mean(0.3));
    let mut duals = Vec::new();
    let fit = svm(&problem.risk(), &mut duals);
    assert!(fit.report.converged(), "{:?}", fit.report);
    assert_close(&duals[..1], &[1.0 / 3.0 / 0.3], 1e-15);
    let again = svm(&problem.risk(), &mut duals);
    assert_eq!(again.report.iterations, 0);
}

#[test]
fn what_the_dual_cannot_do_is_refused() {
    let mean = RiskSettings::mean(0.1);
    let spared = RiskSettings { regularise_bias: false, ..mean };
    let sum = RiskSettings { family: Family::Sum, ..mean };
    let refused = |problem: Problem| {
        let result = HingeSvm::default().minimise(&problem.risk(), &mut Vec::new(), &());
        let message = result.err().map(|e| e.to_string());
        message.is_some_and(|m| m.contains("one dense layer") && m.contains("l2 > 0"))
    };
    assert!(refused(Problem::linear(9, 2, 1, true, Loss::Logistic, mean)));
    assert!(refused(Problem::linear(9, 2, 1, true, Loss::Hinge, RiskSettings::mean(0.0))));
    assert!(refused(Problem::linear(9, 2, 1, true, Loss::Hinge, spared)));
    assert!(refused(Problem::linear(9, 2, 1, true, Loss::Hinge, sum)));
    let two = dense_network(&cpu(), &[2, 2, 1], true, Loss::Hinge);
    assert!(refused(Problem::new(two, random_data(9, 2, Loss::Hinge, 1, 3), mean)));
    // Without a bias there is nothing to spare.
    assert!(!refused(Problem::linear(9, 2, 1, false, Loss::Hinge, spared)));
    assert!(!refused(Problem::linear(9, 2, 1, false, Loss::Hinge, sum)));
}

/// SUM without a bias: `sum hinge + (l2/2) |w|^2`, so duals are bounded by `1 / l2`.
#[test]
fn hinge_under_sum() {
    let settings = RiskSettings { family: Family::Sum, l2: 4.0, ..RiskSettings::mean(0.0) };
    let problem = Problem::linear(80, 4, 1, false, Loss::Hinge, settings);
    let mut duals = Vec::new();
    let fit = svm(&problem.risk().without(&[5]), &mut duals);
    let weights: Vec<f64> = (0..80).map(|i| if i == 5 { 0.0 } else { 1.0 }).collect();
    check_kkt(&problem, &weights, 4.0, &fit.theta.to_f64(), &duals);
}
