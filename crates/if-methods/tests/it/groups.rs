//! Group effects, selection and perturbation on small models, against the formulas with explicit matrices and against
//! retraining. Each test names the mutations that it catches.

use if_linalg::testing::random;
use if_linalg::{Block, BlockCg, Cg, Cholesky, Cpu, LinearOperator, Solver, SymmetricMatrix, Termination};
use if_methods::{
    Agreement, GroupDraw, GroupInfluence, Influence, MethodError, Order, Selection, Tail, leave_out,
};
use if_models::{
    Curvature, EmpiricalRisk, Family, Inputs, LayerSpec, Lbfgs, Loss, ModelSpec, Network, NewtonCg, Removal,
    RiskSettings, Rows,
};

use crate::common::{Double, WIDTH, data, dot};

const N: usize = 40;

fn optimum(risk: &EmpiricalRisk<Double>) -> Block<Double> {
    let start = Block::zeros(risk.network().backend(), risk.network().layout(), 1);
    let fit = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() }.minimise(risk, &start, &());
    assert!(fit.report.converged());
    fit.theta
}

fn cholesky() -> Cholesky {
    Cholesky { tolerance: 1e-9, memory_budget: usize::MAX }
}

/// `A^-1 b` of an explicit matrix.
fn solve(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut x = b.to_vec();
    SymmetricMatrix::from_rows(b.len(), a.to_vec()).cholesky().unwrap().solve(&mut x);
    x
}

fn times(a: &[f64], x: &[f64]) -> Vec<f64> {
    a.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn sum(alpha: f64, x: &[f64], beta: f64, y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| alpha * x + beta * y).collect()
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    let difference = sum(1.0, found, -1.0, expected);
    let error = (dot(&difference, &difference) / dot(expected, expected)).sqrt();
    assert!(error < 1e-9, "{what} is off by {error:e}");
}

/// Everything of a model as explicit matrices, without the code under test.
struct Explicit {
    n: usize,
    /// Gradients and Hessians of the examples, without l2.
    g: Vec<Vec<f64>>,
    h: Vec<Vec<f64>>,
    /// l2 on each parameter, and damping.
    l2: Vec<f64>,
    damping: f64,
    theta: Vec<f64>,
}

impl Explicit {
    fn new(risk: &EmpiricalRisk<Double>, theta: &Block<Double>, damping: f64) -> Self {
        let (network, n) = (risk.network(), risk.n());
        let p = network.layout().dim();
        let g = network.example_gradients(risk.inputs(), theta, Rows::Range(0, n)).to_f64();
        let settings = RiskSettings { l2: 0.0, ..risk.settings() };
        let plain = EmpiricalRisk::new(network, risk.inputs(), settings).unwrap();
        let hessian = |i: usize| {
            let mut weights = vec![0.0; n];
            weights[i] = 1.0;
            plain
                .reweighted(&weights)
                .operator(theta, Curvature::Hessian, 0.0, 0)
                .to_dense()
                .as_slice()
                .to_vec()
        };
        let ones = Block::from_f64(network.backend(), network.layout(), &vec![1.0; p]);
        let mut l2 = Block::zeros(network.backend(), network.layout(), 1);
        risk.add_l2(&ones, &mut l2);
        Self {
            n,
            g: g.chunks(p).map(<[f64]>::to_vec).collect(),
            h: (0..n).map(hessian).collect(),
            l2: l2.to_f64(),
            damping,
            theta: theta.to_f64(),
        }
    }

    /// `sum_i w_i H_i + l2 + damping`.
    fn matrix(&self, w: impl Fn(usize) -> f64) -> Vec<f64> {
        let p = self.theta.len();
        let mut a = vec![0.0; p * p];
        for (i, h) in self.h.iter().enumerate() {
            a.iter_mut().zip(h).for_each(|(a, h)| *a += w(i) * h);
        }
        (0..p).for_each(|j| a[j * p + j] += self.l2[j] + self.damping);
        a
    }

    fn gradient(&self, w: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sum = vec![0.0; self.theta.len()];
        for (i, g) in self.g.iter().enumerate() {
            sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += w(i) * g);
        }
        sum
    }

    /// What the group's removal does to the gradient, as a difference of objectives.
    fn pull(&self, group: &[usize], removal: Removal) -> Vec<f64> {
        let (n, m) = (self.n as f64, group.len() as f64);
        let stay = if removal == Removal::Fixed { n } else { n - m };
        self.gradient(|i| if group.contains(&i) { 1.0 / n } else { 1.0 / n - 1.0 / stay })
    }

    fn without(&self, group: &[usize], removal: Removal) -> Vec<f64> {
        let stay = self.n - if removal == Removal::Fixed { 0 } else { group.len() };
        self.matrix(|i| if group.contains(&i) { 0.0 } else { 1.0 / stay as f64 })
    }
}

fn settings() -> Vec<RiskSettings> {
    let mean = RiskSettings::mean(0.1);
    vec![
        mean,
        RiskSettings { removal: Removal::Renormalised, ..mean },
        RiskSettings { regularise_bias: false, ..mean },
        RiskSettings { removal: Removal::Renormalised, regularise_bias: false, ..mean },
        RiskSettings { family: Family::Sum, l2: 4.0, ..mean },
    ]
}

fn regularises_bias(settings: RiskSettings) -> bool {
    settings.regularise_bias && settings.family == Family::Mean
}

/// Catches: a sign, 1/n, the factor c of the others' weights, l2 or damping left out of what remains (all renormalised
/// cases), a group's Hessian with weight 1 or 1/(n-m), the second order's terms exchanged, effects transposed.
#[test]
fn every_order_is_its_formula_under_every_convention() {
    for (loss, classes) in [(Loss::Logistic, 2), (Loss::CrossEntropy, 3)] {
        let outputs = if classes == 2 { 1 } else { classes };
        let network = Network::linear(&Cpu::new(), WIDTH, outputs, true, loss);
        let train = Inputs::new(&network, &data(N, classes, 1), usize::MAX).unwrap();
        let queries = Inputs::new(&network, &data(5, classes, 2), usize::MAX).unwrap();
        let groups = [vec![3], vec![0, 4, 9, 33], (0..25).collect::<Vec<_>>()];
        for settings in settings() {
            for damping in [0.0, 0.3] {
                if outputs > 1 && damping == 0.0 && !regularises_bias(settings) {
                    // Nothing tells the biases of all classes from their sum with a constant.
                    continue;
                }
                let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
                let theta = optimum(&risk);
                let operator = risk.operator(&theta, Curvature::Hessian, damping, usize::MAX);
                let prepared = cholesky().prepare(&operator).unwrap();
                let influence = GroupInfluence::new(&operator, &*prepared).with_newton(1e-12, 100);
                let explicit = Explicit::new(&risk, &theta, damping);
                let a = explicit.matrix(|_| 1.0 / N as f64);
                let what = format!("{loss:?}, {settings:?}, damping {damping}");
                // More groups than queries are summed up from single scores, fewer are solved for: the same.
                let few = Inputs::new(&network, &data(5, classes, 2).slice(0, 2), usize::MAX).unwrap();
                let [added, solved] = [&few, &queries]
                    .map(|queries| influence.effects(&groups, queries, (Order::First, false), &()).unwrap());
                for (added, solved) in added.effects.iter().zip(&solved.effects) {
                    assert_close(added, &solved[..2], &format!("{what}, sums of scores"));
                }
                let g = network.example_gradients(&queries, &theta, Rows::Range(0, 5)).to_f64();
                let p = theta.to_f64().len();
                for (order, name) in
                    [(Order::First, "first"), (Order::Second, "second"), (Order::Newton, "Newton")]
                {
                    let changes = influence.parameter_changes(&groups, order, &()).unwrap();
                    assert!(changes.report.all_converged(), "{what}: {}", changes.report.summary());
                    let effects = influence.effects(&groups, &queries, (order, false), &()).unwrap();
                    for (group, (found, effects)) in
                        groups.iter().zip(changes.total.to_f64().chunks(p).zip(&effects.effects))
                    {
                        let b = explicit.pull(group, settings.removal);
                        let rest = explicit.without(group, settings.removal);
                        let first = solve(&a, &b);
                        let expected = match order {
                            Order::First => first,
                            Order::Newton => solve(&rest, &b),
                            _ => {
                                let lost = sum(1.0, &times(&a, &first), -1.0, &times(&rest, &first));
                                sum(1.0, &first, 1.0, &solve(&a, &lost))
                            }
                        };
                        assert_close(found, &expected, &format!("{what}, {name}, {} examples", group.len()));
                        let linear: Vec<f64> = g.chunks(p).map(|g| dot(g, &expected)).collect();
                        assert_close(effects, &linear, &format!("{what}, effects by {name}"));
                    }
                }
            }
        }
    }
}

/// The constants as they are published: `(1 - 2p)/(1 - p)^2 k + 1/(1 - p)^2 H^-1 (H_U/n) k` with the share of l2 in every
/// `g_i` and `H_i`. Catches every wrong p-factor, such as 1/(1-p) in place of its square.
#[test]
fn second_order_under_renormalised_removal_is_that_of_basu() {
    let network = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 3, 1), usize::MAX).unwrap();
    let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(0.05) };
    let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
    let theta = optimum(&risk);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    let explicit = Explicit::new(&risk, &theta, 0.0);
    let group: Vec<usize> = (0..12).collect();
    let (n, p) = (N as f64, group.len() as f64 / N as f64);
    let inside = |i: usize| if group.contains(&i) { 1.0 / n } else { 0.0 };
    let hessian = explicit.matrix(|_| 1.0 / n);
    let g = sum(1.0, &explicit.gradient(inside), p * 0.05, &explicit.theta);
    let k = solve(&hessian, &g);
    let mut own = explicit.matrix(inside);
    (0..k.len()).for_each(|j| own[j * k.len() + j] -= (1.0 - p) * 0.05);
    let pairs = solve(&hessian, &times(&own, &k));
    let q = 1.0 - p;
    let expected = sum((1.0 - 2.0 * p) / (q * q), &k, 1.0 / (q * q), &pairs);
    let influence = GroupInfluence::new(&operator, &*prepared);
    let found = influence.parameter_changes(&[group], Order::Second, &()).unwrap();
    assert_close(&found.total.to_f64(), &expected, "second order");
    let first: Vec<f64> = k.iter().map(|k| k / q).collect();
    assert_close(&found.first_order.unwrap().to_f64(), &first, "its first order k/(1-p)");
}

/// Catches: a leverage without 1/n, a root without its weights, a factor where several outputs need a matrix.
#[test]
fn rescaled_influence_is_a_sum_of_newton_steps() {
    for (loss, classes) in [(Loss::Logistic, 2), (Loss::CrossEntropy, 3)] {
        let outputs = if classes == 2 { 1 } else { classes };
        let network = Network::linear(&Cpu::new(), WIDTH, outputs, true, loss);
        let train = Inputs::new(&network, &data(N, classes, 1), usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.02)).unwrap();
        let theta = optimum(&risk);
        let operator = risk.operator(&theta, Curvature::Hessian, 0.1, usize::MAX);
        let prepared = cholesky().prepare(&operator).unwrap();
        let influence = GroupInfluence::new(&operator, &*prepared).with_newton(1e-12, 100);
        let groups = [vec![1, 2, 3, 30], vec![2, 7]];
        let found = influence.parameter_changes(&groups, Order::Rescaled, &()).unwrap();
        assert!(found.report.all_converged());
        let p = theta.to_f64().len();
        for (group, found) in groups.iter().zip(found.total.to_f64().chunks(p)) {
            let alone: Vec<Vec<usize>> = group.iter().map(|&i| vec![i]).collect();
            let steps = influence.parameter_changes(&alone, Order::Newton, &()).unwrap().total.to_f64();
            let expected = steps.chunks(p).fold(vec![0.0; p], |all, step| sum(1.0, &all, 1.0, step));
            assert_close(found, &expected, &format!("{loss:?}"));
        }
    }
    let tanh = mlp();
    let train = Inputs::new(&tanh, &data(N, 3, 1), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&tanh, &train, RiskSettings::mean(0.1)).unwrap();
    let theta = start(&tanh);
    let operator = risk.operator(&theta, Curvature::Hessian, 9.0, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    let refused =
        GroupInfluence::new(&operator, &*prepared).parameter_changes(&[vec![0]], Order::Rescaled, &());
    assert!(matches!(refused.err(), Some(MethodError::Curvature { .. })));
}

fn mlp() -> Network<Double> {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![dense("0", 4), LayerSpec::Tanh {}, dense("2", 3)];
    ModelSpec { input: vec![WIDTH], loss: Loss::CrossEntropy, layers }.build(&Cpu::new()).unwrap()
}

fn start(network: &Network<Double>) -> Block<Double> {
    let p = network.layout().dim();
    let theta: Vec<f64> = random(p, 5).into_iter().map(|v| 0.5 * v).collect();
    Block::from_f64(network.backend(), network.layout(), &theta)
}

/// An optimum of a network, true Hessian and an iterative solver: what is solved for is the same system.
#[test]
fn newton_steps_of_networks_with_an_iterative_solver() {
    let network = mlp();
    let train = Inputs::new(&network, &data(N, 3, 1), usize::MAX).unwrap();
    let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(0.05) };
    let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
    let lbfgs = Lbfgs { gradient_tolerance: 1e-10, ..Lbfgs::default() };
    let theta = lbfgs.minimise(&risk, &start(&network), &()).theta;
    for curvature in [Curvature::Hessian, Curvature::GaussNewton] {
        let operator = risk.operator(&theta, curvature, 0.05, usize::MAX);
        let cg = BlockCg { tolerance: 1e-10, max_iterations: 500 };
        let prepared = <BlockCg as Solver<Double>>::prepare(&cg, &operator).unwrap();
        let influence = GroupInfluence::new(&operator, &*prepared);
        let groups = [vec![3, 5, 8], vec![0, 1], (10..20).collect::<Vec<_>>()];
        let found = influence.parameter_changes(&groups, Order::Newton, &()).unwrap();
        assert!(found.report.all_converged(), "{}", found.report.summary());
        for (g, group) in groups.iter().enumerate() {
            let rest = risk.without(group);
            let reduced = rest.operator(&theta, curvature, 0.05, usize::MAX);
            let solver = cholesky().prepare(&reduced).unwrap();
            let members: Vec<&[usize]> = vec![group];
            let expected = solver.solve(&risk.removal_gradients(&theta, &members), &()).x;
            let difference = sum(1.0, &found.total.select(&[g]).to_f64(), -1.0, &expected.to_f64());
            let error = dot(&difference, &difference).sqrt() / expected.norms()[0];
            assert!(error < 1e-7, "{curvature:?}, group {g}: {error:e}");
        }
    }
}

/// What remains is indefinite, or the solver does not solve: said, not passed over.
#[test]
fn systems_that_cannot_be_solved_are_reported() {
    let network = mlp();
    let train = Inputs::new(&network, &data(N, 3, 1), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
    let theta = start(&network);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let cg = Cg { tolerance: 1e-8, max_iterations: 500 };
    let prepared = <Cg as Solver<Double>>::prepare(&cg, &operator).unwrap();
    let influence = GroupInfluence::new(&operator, &*prepared);
    for order in [Order::First, Order::Second, Order::Newton] {
        let found = influence.parameter_changes(&[vec![0, 1]], order, &()).unwrap();
        let termination = found.report.columns[0].termination;
        assert!(matches!(termination, Termination::NegativeCurvature { .. }), "{order:?}: {termination:?}");
    }
}

#[test]
fn groups_that_cannot_be_removed_are_refused() {
    let network = Network::linear(&Cpu::new(), WIDTH, 1, true, Loss::Logistic);
    let train = Inputs::new(&network, &data(N, 2, 1), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1)).unwrap();
    let theta = optimum(&risk);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    let influence = GroupInfluence::new(&operator, &*prepared);
    let refused = |groups: &[Vec<usize>]| {
        influence.effects(groups, &train, (Order::First, false), &()).unwrap_err().to_string()
    };
    assert_eq!(refused(&[]), "expected at least one group, found none");
    assert_eq!(refused(&[vec![1], vec![]]), "group 1: expected at least one training example, found none");
    assert_eq!(refused(&[vec![0, 40]]), "group 0: expected positions of 40 training examples, found 40");
    assert_eq!(refused(&[vec![5, 2, 5]]), "group 0: training example 5 stands there twice");
    let all = refused(&[(0..N).collect()]);
    assert_eq!(all, "group 0: it holds all 40 training examples, so that none would stay");
}

#[test]
fn groups_are_drawn_as_they_are_called_and_by_the_seed() {
    let set = data(N, 3, 1);
    let network = Network::linear(&Cpu::<f64>::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &set, usize::MAX).unwrap();
    let theta = start_linear(&network);
    let draw = |seed| {
        let mut draw = GroupDraw::new(seed);
        let scores: Vec<f64> = (0..N).map(|i| i as f64).collect();
        vec![
            draw.random(N, 7),
            draw.same_class(set.labels(), 7).unwrap(),
            draw.feature_window(&set, 7),
            draw.feature_cluster(&set, 7),
            draw.gradient_cluster(&network, (&train, &theta), 7),
            draw.influence_tail(&scores, Tail::Positive, 7),
            draw.influence_tail(&scores, Tail::Negative, 7),
        ]
    };
    let groups = draw(3);
    assert_eq!(groups, draw(3));
    assert_ne!(groups, draw(4));
    for group in &groups {
        assert_eq!(group.len(), 7);
        assert!(group.windows(2).all(|pair| pair[0] < pair[1]) && group[6] < N, "{group:?}");
    }
    let labels: Vec<f64> = groups[1].iter().map(|&i| set.labels()[i]).collect();
    assert!(labels.iter().all(|label| *label == labels[0]));
    assert!(GroupDraw::new(0).same_class(set.labels(), 15).is_none());
    // A window has no gap in the feature that it was cut from.
    let value = |i: usize, feature: usize| {
        let mut row = [0.0; WIDTH];
        set.features().read_row(i, &mut row);
        row[feature]
    };
    let gapless = |feature: usize| {
        let own: Vec<f64> = groups[2].iter().map(|&i| value(i, feature)).collect();
        let low = own.iter().copied().fold(f64::INFINITY, f64::min);
        let high = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (0..N).filter(|&i| (low..=high).contains(&value(i, feature))).count() == 7
    };
    assert!((0..WIDTH).any(gapless));
    // A cluster is a ball around one of its members, in features and in gradients.
    let rows = |i: usize| (0..WIDTH).map(|feature| value(i, feature)).collect::<Vec<_>>();
    let features: Vec<Vec<f64>> = (0..N).map(rows).collect();
    let gradients = network.example_gradients(&train, &theta, Rows::Range(0, N)).to_f64();
    let gradients: Vec<Vec<f64>> = gradients.chunks(12).map(<[f64]>::to_vec).collect();
    for (group, rows) in [(&groups[3], features), (&groups[4], gradients)] {
        let distance = |i: usize, j: usize| {
            let d = sum(1.0, &rows[i], -1.0, &rows[j]);
            dot(&d, &d)
        };
        let ball = |centre: usize| {
            let radius = group.iter().map(|&i| distance(centre, i)).fold(0.0, f64::max);
            (0..N).filter(|&i| distance(centre, i) <= radius).count() == 7
        };
        assert!(group.iter().any(|&centre| ball(centre)), "{group:?}");
    }
    assert!(groups[5].iter().all(|&i| i >= N - 10) && groups[6].iter().all(|&i| i < 10));
}

fn start_linear(network: &Network<Double>) -> Block<Double> {
    Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), 8))
}

/// All groups of 3 among 12 by their second-order effect. Catches: a wrong gradient of the programme, a projection that
/// loses the size, proponents for opponents.
#[test]
fn selection_finds_the_best_group_or_nearly() {
    let network = Network::linear(&Cpu::new(), WIDTH, 1, true, Loss::Logistic);
    let small = data(12, 2, 6);
    let train = Inputs::new(&network, &small, usize::MAX).unwrap();
    let query = Inputs::new(&network, &data(1, 2, 9), usize::MAX).unwrap();
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let settings = RiskSettings { removal, ..RiskSettings::mean(0.02) };
        let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
        let theta = optimum(&risk);
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let prepared = cholesky().prepare(&operator).unwrap();
        let influence = GroupInfluence::new(&operator, &*prepared);
        let groups: Vec<Vec<usize>> =
            (0..12).flat_map(|a| (0..a).flat_map(move |b| (0..b).map(move |c| vec![c, b, a]))).collect();
        let effects =
            influence.effects(&groups, &query, (Order::Second, false), &()).unwrap().effects.concat();
        for opponents in [false, true] {
            let sign = if opponents { -1.0 } else { 1.0 };
            let best = effects.iter().map(|effect| sign * effect).fold(f64::NEG_INFINITY, f64::max);
            let selection = Selection { opponents, ..Selection::of(3) };
            let found = influence.select(&query, selection, &()).unwrap();
            assert!(sign * found.effect >= sign * found.greedy_effect);
            assert!(sign * found.effect >= 0.98 * best, "{removal:?}: {} of {best}", sign * found.effect);
            assert!(found.iterations > 0);
        }
        let refused = influence.select(&query, Selection::of(12), &()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "selection: expected one query and a size from 1 to 11, found 1 queries and size 12"
        );
    }
}

/// Central differences of models that are really retrained with a changed feature, to 1 %. Catches: a sign, 1/n, 1/(n-1)
/// under renormalised removal, damping or l2 left out, the derivative taken at the query.
#[test]
fn perturbation_influence_is_the_slope_of_retraining() {
    let linear = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    for (network, convex) in [(linear, true), (mlp(), false)] {
        for removal in [Removal::Fixed, Removal::Renormalised] {
            let settings = RiskSettings { removal, ..RiskSettings::mean(0.05) };
            let set = data(N, 3, 1);
            let mut train = Inputs::new(&network, &set, usize::MAX).unwrap();
            let queries = Inputs::new(&network, &data(4, 3, 2), usize::MAX).unwrap();
            let begin =
                if convex { Block::zeros(network.backend(), network.layout(), 1) } else { start(&network) };
            let lbfgs = Lbfgs { gradient_tolerance: 1e-11, max_iterations: 5000, ..Lbfgs::default() };
            let fitted = |train: &Inputs<Double>, from: &Block<Double>| {
                let risk = EmpiricalRisk::new(&network, train, settings).unwrap();
                lbfgs.minimise(&risk, from, &()).theta
            };
            let theta = fitted(&train, &begin);
            let example = 7;
            let chosen = Inputs::new(&network, &set.select(&[example]), usize::MAX).unwrap();
            let slopes = {
                let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
                let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
                let prepared = cholesky().prepare(&operator).unwrap();
                let mut all = Vec::new();
                let report = Influence::new(&risk, &theta, &*prepared)
                    .perturbation(&queries, &chosen, &(), |first, slopes| {
                        assert_eq!(first, 0);
                        all = slopes.to_vec();
                        Ok::<(), MethodError>(())
                    })
                    .unwrap();
                assert!(report.all_converged());
                all
            };
            let mut row = [0.0; WIDTH];
            set.features().read_row(example, &mut row);
            let step = 1e-3;
            let mut expected = vec![0.0; 4 * WIDTH];
            for feature in 0..WIDTH {
                for sign in [1.0, -1.0] {
                    let mut moved = row;
                    moved[feature] += sign * step;
                    train.set_features(example, &moved);
                    let losses = network.example_losses(&queries, &fitted(&train, &theta));
                    for (q, loss) in losses.iter().enumerate() {
                        expected[q * WIDTH + feature] += sign * loss / (2.0 * step);
                    }
                }
            }
            train.set_features(example, &row);
            let found = Agreement::new(&slopes, &expected);
            assert!(found.relative_error < 0.01, "convex {convex}, {removal:?}: {found:?}");
        }
    }
}

/// With explicit matrices, at any weights. Catches: damping or l2 left out, which retraining without damping cannot.
#[test]
fn perturbation_influence_has_the_damping() {
    let network = mlp();
    let set = data(N, 3, 1);
    let train = Inputs::new(&network, &set, usize::MAX).unwrap();
    let queries = Inputs::new(&network, &data(3, 3, 2), usize::MAX).unwrap();
    let chosen = Inputs::new(&network, &set.select(&[4, 9]), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.05)).unwrap();
    let theta = start(&network);
    let operator = risk.operator(&theta, Curvature::GaussNewton, 0.3, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    let mut found = Vec::new();
    Influence::new(&risk, &theta, &*prepared)
        .perturbation(&queries, &chosen, &(), |_, slopes| {
            found.extend_from_slice(slopes);
            Ok::<(), MethodError>(())
        })
        .unwrap();
    let mut matrix = risk.operator(&theta, Curvature::GaussNewton, 0.0, usize::MAX).to_dense();
    matrix.add_diagonal(0.3);
    let gradients = network.example_gradients(&queries, &theta, Rows::Range(0, 3)).to_f64();
    let p = network.layout().dim();
    let solved: Vec<f64> = gradients.chunks(p).flat_map(|g| solve(matrix.as_slice(), g)).collect();
    let solved = Block::from_f64(network.backend(), network.layout(), &solved);
    let expected: Vec<f64> =
        network.mixed_products(&chosen, &theta, &solved).iter().map(|m| -m / N as f64).collect();
    assert_close(&found, &expected, "slopes");
}

/// Under renormalised removal the weights of the others are in the factor and in `g_i`.
#[test]
fn rescaled_influence_under_renormalised_removal() {
    let network = Network::linear(&Cpu::new(), WIDTH, 1, true, Loss::Logistic);
    let train = Inputs::new(&network, &data(N, 2, 1), usize::MAX).unwrap();
    let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(0.05) };
    let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
    let theta = optimum(&risk);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    let group = vec![2, 3, 17, 30];
    let found = GroupInfluence::new(&operator, &*prepared)
        .parameter_changes(std::slice::from_ref(&group), Order::Rescaled, &())
        .unwrap();
    let explicit = Explicit::new(&risk, &theta, 0.0);
    let mut expected = vec![0.0; 4];
    for &i in &group {
        let without = explicit.matrix(|j| if i == j { 0.0 } else { 1.0 / N as f64 });
        let g = sum(1.0, &explicit.g[i], 0.05, &explicit.theta);
        expected = sum(1.0, &expected, 1.0 / (N - group.len()) as f64, &solve(&without, &g));
    }
    assert_close(&found.total.to_f64(), &expected, "rescaled");
}

/// Damped influence with the Gauss-Newton matrix is the derivative of the proximal Bregman response, at weights far from
/// any optimum, where retraining does something else. Catches: a tilt of the wrong sign, l2 counted twice.
#[test]
fn damped_influence_answers_the_proximal_objective() {
    let network = mlp();
    let train = Inputs::new(&network, &data(N, 3, 1), usize::MAX).unwrap();
    let queries = Inputs::new(&network, &data(6, 3, 2), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.01)).unwrap();
    let theta = start(&network);
    let damping = 0.5;
    let proximal = risk.proximal(&theta, damping).unwrap();
    assert!(proximal.gradient(&theta).1.norms()[0] < 1e-14, "the weights are its optimum");
    let operator = risk.operator(&theta, Curvature::GaussNewton, damping, usize::MAX);
    let prepared = cholesky().prepare(&operator).unwrap();
    // The curvature there is the Gauss-Newton matrix, though the Hessian was asked for.
    let own = proximal.operator(&theta, Curvature::Hessian, 0.0, usize::MAX).to_dense();
    assert_close(own.as_slice(), operator.to_dense().as_slice(), "the curvature of the proximal objective");

    let groups: Vec<Vec<usize>> = (0..12).map(|i| vec![i]).collect();
    let influence = GroupInfluence::new(&operator, &*prepared);
    let predicted =
        influence.effects(&groups, &queries, (Order::First, false), &()).unwrap().effects.concat();
    let before = network.example_losses(&queries, &theta);
    let lbfgs = Lbfgs { gradient_tolerance: 1e-11, ..Lbfgs::default() };
    let measure = |fit: &if_models::Fit<Double>| {
        assert!(fit.report.converged());
        let after = network.example_losses(&queries, &fit.theta);
        after.iter().zip(&before).map(|(after, before)| after - before).collect::<Vec<f64>>()
    };
    let response =
        leave_out(&proximal, &groups, |risk| lbfgs.minimise(risk, &theta, &()), measure, &()).unwrap();
    let found = Agreement::new(&predicted, &response.concat());
    assert!(found.pearson > 0.999 && found.relative_error < 0.05, "{found:?}");
}
