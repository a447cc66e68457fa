//! The objective and its constants, against formulas worked out by hand on three examples.

use crate::common::{Double, assert_close, cpu, dataset, dense_network, random_data, random_theta};
use if_linalg::{Block, Definiteness, LinearOperator};
use if_models::{Curvature, EmpiricalRisk, Family, Inputs, Loss, ModelError, Network, Removal, RiskSettings};

/// `x`, `y`, and parameters `(w, b)` of a squared loss: residuals `r = w x + b - y` are `R`.
const X: [f64; 3] = [1.0, 2.0, -1.0];
const Y: [f64; 3] = [1.5, 7.0, -4.5];
const THETA: [f64; 2] = [2.0, 0.5];
const R: [f64; 3] = [1.0, -2.5, 3.0];

struct Problem {
    network: Network<Double>,
    inputs: Inputs<Double>,
    theta: Block<Double>,
}

fn three() -> Problem {
    let network = Network::linear(&cpu(), 1, 1, true, Loss::Squared);
    let inputs = Inputs::new(&network, &dataset(1, X.to_vec(), Y.to_vec()), usize::MAX).unwrap();
    let theta = Block::from_f64(&cpu(), network.layout(), &THETA);
    Problem { network, inputs, theta }
}

impl Problem {
    fn risk(&self, settings: RiskSettings) -> EmpiricalRisk<'_, Double> {
        EmpiricalRisk::new(&self.network, &self.inputs, settings).unwrap()
    }

    /// Objective, gradient (2) and Hessian with `damping` (4), flattened.
    fn numbers(&self, risk: &EmpiricalRisk<Double>, damping: f64) -> Vec<f64> {
        let (value, gradient) = risk.gradient(&self.theta);
        let operator = risk.operator(&self.theta, Curvature::Hessian, damping, 0);
        [vec![value], gradient.to_f64(), operator.to_dense().as_slice().to_vec()].concat()
    }
}

/// What [`Problem::numbers`] should be: data term with `weights`, `l2` on (w, b), damping on both.
fn by_hand(weights: [f64; 3], l2: [f64; 2], damping: f64) -> Vec<f64> {
    let sum = |f: &dyn Fn(usize) -> f64| (0..3).map(|i| weights[i] * f(i)).sum::<f64>();
    let penalty = 0.5 * (l2[0] * THETA[0] * THETA[0] + l2[1] * THETA[1] * THETA[1]);
    vec![
        sum(&|i| 0.5 * R[i] * R[i]) + penalty,
        sum(&|i| R[i] * X[i]) + l2[0] * THETA[0],
        sum(&|i| R[i]) + l2[1] * THETA[1],
        sum(&|i| X[i] * X[i]) + l2[0] + damping,
        sum(&|i| X[i]),
        sum(&|i| X[i]),
        sum(&|_| 1.0) + l2[1] + damping,
    ]
}

const THIRD: f64 = 1.0 / 3.0;

#[test]
fn mean() {
    let problem = three();
    let risk = problem.risk(RiskSettings::mean(0.3));
    let found = problem.numbers(&risk, 0.0);
    // J = (1 + 6.25 + 9) / 6 + 0.15 * 4.25, in plain numbers.
    assert_close(&found[..1], &[16.25 / 6.0 + 0.6375], 1e-15);
    assert_close(&found[1..3], &[-7.0 / 3.0 + 0.6, 0.5 + 0.15], 1e-15);
    assert_close(&found[3..], &[2.3, 2.0 / 3.0, 2.0 / 3.0, 1.3], 1e-15);
    assert_close(&found, &by_hand([THIRD; 3], [0.3, 0.3], 0.0), 1e-15);
    assert_eq!((risk.mean_l2(), risk.removal_factor()), (0.3, THIRD));
}

#[test]
fn bias_without_l2() {
    let problem = three();
    let settings = RiskSettings { regularise_bias: false, ..RiskSettings::mean(0.3) };
    let risk = problem.risk(settings);
    assert!(!risk.regularises_bias());
    // Damping covers every parameter, l2 does not.
    assert_close(&problem.numbers(&risk, 0.7), &by_hand([THIRD; 3], [0.3, 0.0], 0.7), 1e-15);
}

/// SUM: `sum l_i + (l2/2) w^2`. All numbers are those of SUM divided by n.
#[test]
fn sum_is_n_times_mean_at_l2_over_n() {
    let problem = three();
    for regularise_bias in [true, false] {
        let settings =
            RiskSettings { family: Family::Sum, removal: Removal::Fixed, l2: 0.9, regularise_bias };
        let risk = problem.risk(settings);
        assert!(!risk.regularises_bias(), "the bias of SUM is never regularised");
        assert_close(&[risk.mean_l2(), risk.removal_factor()], &[0.3, THIRD], 1e-15);
        let times_n: Vec<f64> = problem.numbers(&risk, 0.0).iter().map(|v| 3.0 * v).collect();
        assert_close(&times_n, &by_hand([1.0; 3], [0.9, 0.0], 0.0), 1e-15);
        // l2 stays as it is when examples go: l2 / 3, not l2 / 2.
        let times_n: Vec<f64> = problem.numbers(&risk.without(&[1]), 0.0).iter().map(|v| 3.0 * v).collect();
        assert_close(&times_n, &by_hand([1.0, 0.0, 1.0], [0.9, 0.0], 0.0), 1e-15);
    }
}

#[test]
fn damping_is_in_units_of_the_hessian_and_no_l2() {
    let problem = three();
    let risk = problem.risk(RiskSettings::mean(0.3));
    let found = problem.numbers(&risk, 0.7);
    // Neither objective nor gradient know of it.
    assert_close(&found, &by_hand([THIRD; 3], [0.3, 0.3], 0.7), 1e-15);
    let operator = risk.operator(&problem.theta, Curvature::GaussNewton, 0.7, usize::MAX);
    assert_close(&[operator.damping()], &[1.0], 1e-15);
    assert_close(operator.to_dense().as_slice(), &by_hand([THIRD; 3], [0.3, 0.3], 0.7)[3..], 1e-15);
}

#[test]
fn removal_with_fixed_weights() {
    let problem = three();
    let risk = problem.risk(RiskSettings::mean(0.3)).without(&[1]);
    assert_eq!(risk.example_weights(), [THIRD, 0.0, THIRD]);
    assert_eq!((risk.n(), risk.removal_factor()), (3, THIRD));
    assert_close(&problem.numbers(&risk, 0.1), &by_hand([THIRD, 0.0, THIRD], [0.3, 0.3], 0.1), 1e-15);
}

#[test]
fn removal_with_renormalised_weights() {
    let problem = three();
    let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(0.3) };
    let whole = problem.risk(settings);
    assert_eq!(whole.example_weights(), [THIRD; 3], "nothing is removed yet");
    assert_eq!(whole.removal_factor(), 0.5);
    let one = whole.without(&[1]);
    assert_eq!(one.example_weights(), [0.5, 0.0, 0.5]);
    assert_close(&problem.numbers(&one, 0.1), &by_hand([0.5, 0.0, 0.5], [0.3, 0.3], 0.1), 1e-15);
    // Twice in one step, in two steps, with a repetition: the group is counted once.
    for two in [whole.without(&[1, 2]), one.without(&[2]), whole.without(&[2, 1, 2]), one.without(&[1, 2])] {
        assert_eq!(two.example_weights(), [1.0, 0.0, 0.0]);
        assert_close(&problem.numbers(&two, 0.0), &by_hand([1.0, 0.0, 0.0], [0.3, 0.3], 0.0), 1e-15);
    }
    assert_eq!(whole.without(&[]).example_weights(), [THIRD; 3]);
}

/// The two conventions, at the optimum: `grad l_i` against `grad l_i + l2 theta`. The gradient of the
/// objective without example `i` is minus that over n, or over n - 1.
#[test]
fn gradients_after_removal_are_the_two_formulas() {
    let problem = three();
    let l2 = 0.3;
    // The optimum of ridge regression on three points, from its two normal equations.
    let [a, b, d] = [6.0 / 3.0 + l2, 2.0 / 3.0, 1.0 + l2];
    let [p, q] = [(1.5 + 14.0 + 4.5) / 3.0, 4.0 / 3.0];
    let optimum = [(d * p - b * q) / (a * d - b * b), (a * q - b * p) / (a * d - b * b)];
    let theta = Block::from_f64(&cpu(), problem.network.layout(), &optimum);
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let risk = problem.risk(RiskSettings { removal, ..RiskSettings::mean(l2) });
        assert!(risk.gradient(&theta).1.norms()[0] < 1e-15);
        for i in 0..3 {
            let r = optimum[0] * X[i] + optimum[1] - Y[i];
            let (factor, regulariser) = match removal {
                Removal::Fixed => (-1.0 / 3.0, 0.0),
                Removal::Renormalised => (-1.0 / 2.0, l2),
            };
            let expected = [r * X[i] + regulariser * optimum[0], r + regulariser * optimum[1]];
            let found = risk.without(&[i]).gradient(&theta).1.to_f64();
            assert_close(&found, &expected.map(|v| factor * v), 1e-14);
        }
    }
}

#[test]
#[should_panic(expected = "removing all 3 examples")]
fn an_example_must_stay() {
    let problem = three();
    problem.risk(RiskSettings::mean(0.3)).without(&[0, 1, 2]);
}

#[test]
fn settings_out_of_range() {
    for l2 in [-0.1, f64::NAN, f64::INFINITY] {
        let error = RiskSettings::mean(l2).validate().unwrap_err();
        assert_eq!(error.to_string(), format!("l2 must be a number of at least 0, found {l2}"));
    }
    RiskSettings::mean(0.0).validate().unwrap();
    let settings =
        RiskSettings { family: Family::Sum, removal: Removal::Renormalised, l2: 0.1, regularise_bias: false };
    let error = settings.validate().unwrap_err();
    assert!(matches!(error, ModelError::Unsupported(_)));
    assert!(error.to_string().contains("family sum has no renormalised removal"), "{error}");
    let problem = three();
    assert!(EmpiricalRisk::new(&problem.network, &problem.inputs, settings).is_err());
}

/// With one layer the Hessian is the Gauss-Newton matrix; with two it is not, and says so.
#[test]
fn hessian_and_gauss_newton() {
    for (widths, same) in [(vec![3, 3], true), (vec![3, 2, 3], false)] {
        let network = dense_network(&cpu(), &widths, true, Loss::CrossEntropy);
        let data = random_data(9, 3, Loss::CrossEntropy, 3, 5);
        let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
        let theta = random_theta(&network, 8);
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).unwrap();
        let [h, g] = [Curvature::Hessian, Curvature::GaussNewton].map(|c| risk.operator(&theta, c, 0.0, 0));
        assert_eq!(h.definiteness(), if same { Definiteness::Positive } else { Definiteness::Unknown });
        assert_eq!(g.definiteness(), Definiteness::Positive);
        let (h, g) = (h.to_dense(), g.to_dense());
        let gap = h.as_slice().iter().zip(g.as_slice()).map(|(h, g)| (h - g).abs()).fold(0.0, f64::max);
        assert_eq!(gap < 1e-14, same, "{gap}");
        assert!(g.eigen().0[0] > 0.01 - 1e-12);
        assert!(same || h.eigen().0[0] < 0.0, "this Hessian is indefinite");
    }
}

/// A promise of definiteness is never made where the matrix breaks it.
#[test]
fn promises_of_definiteness_hold() {
    let problem = three();
    for (l2, regularise_bias, damping) in [
        (0.0, true, 0.0),
        (0.0, true, 0.5),
        (0.3, false, 0.0),
        (0.3, true, -0.2),
        (0.0, true, -3.0),
        (0.3, false, 0.1),
    ] {
        let settings = RiskSettings { regularise_bias, ..RiskSettings::mean(l2) };
        let risk = problem.risk(settings);
        let operator = risk.operator(&problem.theta, Curvature::GaussNewton, damping, 0);
        let smallest = operator.to_dense().eigen().0[0];
        match operator.definiteness() {
            Definiteness::Positive => assert!(smallest > 0.0),
            Definiteness::Semidefinite => assert!(smallest >= -1e-15),
            Definiteness::Unknown => assert!(damping < 0.0),
        }
    }
}

/// In f32 the same numbers come out to f32 rounding.
#[test]
fn single_precision() {
    let single = if_linalg::Cpu::<f32>::new();
    let (x, y) = (X.to_vec(), Y.to_vec());
    let network = Network::linear(&single, 1, 1, true, Loss::Squared);
    let inputs = Inputs::new(&network, &dataset(1, x, y), usize::MAX).unwrap();
    let theta = Block::from_f64(&single, network.layout(), &THETA);
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.3)).unwrap();
    let operator = risk.operator(&theta, Curvature::Hessian, 0.7, usize::MAX);
    let (value, gradient) = risk.gradient(&theta);
    let found = [vec![value], gradient.to_f64(), operator.to_dense().as_slice().to_vec()].concat();
    assert_close(&found, &by_hand([THIRD; 3], [0.3, 0.3], 0.7), 3e-7);
}

/// What is added to an objective: l2 on some layers, a pull towards other parameters, other weights. Each term against
/// its formula, and gradients and curvature against the objective. Catches: a layer that l2 covers by mistake, a pull
/// towards zero, half of it, weights that removal forgets.
#[test]
fn what_is_added_to_an_objective_is_its_formula() {
    let network = dense_network(&cpu(), &[4, 3, 2], true, Loss::CrossEntropy);
    let data = random_data(20, 4, Loss::CrossEntropy, 2, 2);
    let train = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.3)).unwrap();
    let (theta, at) = (random_theta(&network, 1), random_theta(&network, 2));
    let names: Vec<String> = network.layout().segments().iter().map(|s| s.name.clone()).collect();
    let first = network.layout().segments()[0].rows * network.layout().segments()[0].cols;
    let losses = network.example_losses(&train, &theta);
    let mean = losses.iter().sum::<f64>() / 20.0;
    let square = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>();
    let (t, a) = (theta.to_f64(), at.to_f64());
    let apart: Vec<f64> = t.iter().zip(&a).map(|(t, a)| t - a).collect();

    let head = risk.with_l2_on(&[&names[1]]).unwrap();
    assert_close(&[head.objective(&theta)], &[mean + 0.15 * square(&t[first..])], 1e-14);
    let pulled = head.anchored(&at, 0.7, &[&names[0]]).unwrap();
    let penalty = 0.15 * square(&t[first..]) + 0.35 * square(&apart[..first]);
    assert_close(&[pulled.objective(&theta)], &[mean + penalty], 1e-14);
    let weights: Vec<f64> = (0..20).map(|i| 0.01 * i as f64).collect();
    let weighted: f64 = losses.iter().zip(&weights).map(|(l, w)| l * w).sum();
    assert_close(&[pulled.reweighted(&weights).objective(&theta)], &[weighted + penalty], 1e-14);
    let other_order = risk.reweighted(&weights).with_l2_on(&[&names[1]]).unwrap();
    let other_order = other_order.anchored(&at, 0.7, &[&names[0]]).unwrap();
    assert_close(&[other_order.objective(&theta)], &[weighted + penalty], 1e-14);
    assert!(risk.reweighted(&weights).proximal(&at, 0.2).unwrap().gradient(&at).1.norms()[0] < 1e-14);
    let left = (losses.iter().sum::<f64>() - losses[3] - losses[7]) / 20.0;
    assert_close(&[pulled.without(&[3, 7]).objective(&theta)], &[left + penalty], 1e-14);

    let proximal = risk.proximal(&at, 0.2).unwrap();
    for risk in [&head, &pulled, &pulled.reweighted(&weights), &proximal, &proximal.without(&[5])] {
        let direction = random_theta(&network, 3);
        let moved = |h: f64| {
            let mut moved = theta.clone();
            moved.axpby(h, &direction, 1.0);
            moved
        };
        let h = 1e-5;
        let slope = (risk.objective(&moved(h)) - risk.objective(&moved(-h))) / (2.0 * h);
        let gradient = risk.gradient(&theta).1;
        assert_close(&[gradient.dots(&direction)[0]], &[slope], 1e-8);
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let mut product = Block::zeros(network.backend(), network.layout(), 1);
        operator.apply(&direction, &mut product);
        let mut difference = risk.gradient(&moved(h)).1;
        difference.axpby(-1.0 / (2.0 * h), &risk.gradient(&moved(-h)).1, 1.0 / (2.0 * h));
        assert_close(&product.to_f64(), &difference.to_f64(), 1e-8);
    }
    assert!(risk.anchored(&at, 0.0, &[&names[0]]).is_err() && risk.with_l2_on(&["nowhere"]).is_err());
    assert!(
        EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap().proximal(&at, 0.0).is_err()
    );
}
