//! Paths of dampings against explicit matrices, each solved anew. Each test names the mutations it catches.

use if_linalg::testing::random;
use if_linalg::{Block, Cpu, LinearOperator, Observer, SymmetricMatrix, lanczos};
use if_methods::{
    Agreement, DampingPath, DampingReport, Extremes, MethodError, PointStatus, Spectrum, TOP, spearman,
};
use if_models::{
    Curvature, EmpiricalRisk, Family, Inputs, LayerSpec, Loss, ModelSpec, Network, Removal, RiskSettings,
    Rows,
};

use crate::common::{Double, data};

const L2: f64 = 0.02;

/// Overlapping classes of 3 features.
struct Problem {
    network: Network<Double>,
    train: Inputs<Double>,
    queries: Inputs<Double>,
    theta: Block<Double>,
}

impl Problem {
    fn new(network: Network<Double>, theta: &[f64]) -> Self {
        let inputs = |n, seed| Inputs::new(&network, &data(n, 3, seed), usize::MAX).unwrap();
        let (train, queries) = (inputs(60, 1), inputs(4, 2));
        let theta = Block::from_f64(&Cpu::new(), network.layout(), theta);
        Self { network, train, queries, theta }
    }

    fn softmax() -> Self {
        let network = Network::linear(&Cpu::new(), 3, 3, true, Loss::CrossEntropy);
        Self::new(network, &random(12, 5))
    }

    /// Parameters that are no optimum: the Hessian is far from definite.
    fn tanh() -> Self {
        let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
        let layers = vec![dense("0", 4), LayerSpec::Tanh {}, dense("2", 3)];
        let spec = ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers };
        let network = spec.build(&Cpu::new()).unwrap();
        let theta: Vec<f64> = random(network.layout().dim(), 8).iter().map(|v| 2.0 * v).collect();
        Self::new(network, &theta)
    }

    fn risk(&self, settings: RiskSettings) -> EmpiricalRisk<'_, Double> {
        EmpiricalRisk::new(&self.network, &self.train, settings).unwrap()
    }

    fn run(&self, settings: RiskSettings, steps: usize, damping: Option<f64>) -> DampingReport {
        let risk = self.risk(settings);
        let operator = risk.operator(&self.theta, Curvature::Hessian, 0.0, usize::MAX);
        let path =
            DampingPath { risk: &risk, theta: &self.theta, operator: &operator, steps, tolerance: 1e-8 };
        path.run(&self.queries, damping, &()).unwrap()
    }

    /// The Hessian of the data term, with `l2` added where `settings` say.
    fn matrix(&self, settings: RiskSettings) -> SymmetricMatrix {
        let plain = self.risk(RiskSettings::mean(0.0));
        let mut matrix = plain.operator(&self.theta, Curvature::Hessian, 0.0, 0).to_dense();
        let sum = settings.family == Family::Sum;
        let l2 = if sum { settings.l2 / 60.0 } else { settings.l2 };
        // Every fourth parameter of the softmax model is a bias.
        let free = |i: usize| sum && i % 4 == 3;
        let shares: Vec<f64> = (0..matrix.dim()).map(|i| if free(i) { 0.0 } else { l2 }).collect();
        matrix.add_to_diagonal(&shares);
        matrix
    }

    fn gradients(&self, inputs: &Inputs<Double>) -> Vec<f64> {
        self.network.example_gradients(inputs, &self.theta, Rows::Range(0, inputs.len())).to_f64()
    }

    /// Scores of all queries at one damping, from a Cholesky factor of that system.
    fn scores(&self, settings: RiskSettings, damping: f64) -> Vec<Vec<f64>> {
        let mut matrix = self.matrix(settings);
        let p = matrix.dim();
        matrix.add_diagonal(damping);
        let mut solved = self.gradients(&self.queries);
        matrix.cholesky().unwrap().solve(&mut solved);
        let share = if settings.removal == Removal::Renormalised { settings.l2 } else { 0.0 };
        let own = self.theta.to_f64();
        let mut train = self.gradients(&self.train);
        train.chunks_mut(p).for_each(|g| g.iter_mut().zip(&own).for_each(|(g, t)| *g += share * t));
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        solved.chunks(p).map(|x| train.chunks(p).map(|g| dot(x, g)).collect()).collect()
    }

    /// Every definite point of `report` is what a solve of its own gives.
    fn check(&self, settings: RiskSettings, report: &DampingReport) {
        let last = report.dampings.len() - 1;
        let dense: Vec<Option<Vec<Vec<f64>>>> = (0..=last)
            .map(|i| {
                let definite = report.status(i) != PointStatus::Indefinite;
                definite.then(|| self.scores(settings, report.dampings[i]))
            })
            .collect();
        for (i, now) in dense.iter().enumerate() {
            let Some(now) = now else { continue };
            for (q, (query, scores)) in report.queries.iter().zip(now).enumerate() {
                let point = &query.points[i];
                assert!(point.residual <= 1e-8, "damping {}: {}", report.dampings[i], point.residual);
                let expected = Extremes::of(scores, TOP).proponents;
                let values = |of: &[if_methods::Ranked]| of.iter().map(|r| r.score).collect::<Vec<_>>();
                let examples = |of: &[if_methods::Ranked]| of.iter().map(|r| r.example).collect::<Vec<_>>();
                assert_eq!(examples(&point.top), examples(&expected));
                let agreement = Agreement::new(&values(&point.top), &values(&expected));
                assert!(agreement.relative_error < 1e-8, "{agreement:?}");
                if let Some(next) = dense.get(i + 1).and_then(Option::as_ref) {
                    let found = point.spearman_with_next.unwrap();
                    assert!((found - spearman(scores, &next[q])).abs() < 1e-12);
                    let top = Extremes::of(&next[q], TOP).proponents;
                    let (a, b) = (examples(&expected), examples(&top));
                    let both = a.iter().filter(|e| b.contains(e)).count();
                    assert_eq!(point.overlap_with_next, Some(both as f64 / a.len().max(b.len()) as f64));
                }
            }
        }
    }
}

/// Catches: l2 left out or counted twice, the damping's sign or unit, the length of the gradient, an
/// eigenvector transposed, the penalty's share, an unregularised bias regularised, neighbours exchanged.
#[test]
fn every_point_is_a_direct_solve() {
    let problem = Problem::softmax();
    let mean = RiskSettings::mean(L2);
    let renormalised = RiskSettings { removal: Removal::Renormalised, ..mean };
    // Cholesky needs more than rounding above 0: the softmax biases are free under SUM.
    let sum = RiskSettings { family: Family::Sum, l2: 1.2, ..mean };
    for settings in [mean, renormalised] {
        let report = problem.run(settings, 100, Some(0.0123));
        assert!((0..report.dampings.len()).all(|i| report.status(i) == PointStatus::Resolved));
        assert_eq!(report.dampings[0], 0.0);
        assert!(report.dampings.len() > 5 && report.dampings.is_sorted());
        assert_eq!(report.dampings[report.reference.unwrap()], 0.0123);
        problem.check(settings, &report);
    }
    let report = problem.run(sum, 100, Some(0.0123));
    assert_ne!(report.status(1), PointStatus::Indefinite);
    let without_zero = DampingReport {
        dampings: report.dampings[1..].to_vec(),
        queries: report
            .queries
            .iter()
            .map(|q| if_methods::QueryPath { points: q.points[1..].to_vec(), ..q.clone() })
            .collect(),
        ..report
    };
    problem.check(sum, &without_zero);
}

/// Catches: the lowest eigenvalue taken from the wrong end, an l2 left out, a damping called definite
/// that is not, scores given out where there are none.
#[test]
fn an_indefinite_hessian_names_its_damping() {
    let problem = Problem::tanh();
    let settings = RiskSettings::mean(L2);
    let eigenvalues = problem.matrix(settings).eigen().0;
    let lowest = eigenvalues[0];
    assert!(lowest < -0.01, "{lowest}: this test needs an indefinite Hessian");
    let report = problem.run(settings, 100, None);
    let spectrum = &report.spectrum;
    assert!((spectrum.smallest_definite_damping() + lowest).abs() < 1e-9, "{}", spectrum.lowest);
    assert!(spectrum.lowest_error < 1e-6);
    assert!((spectrum.highest - eigenvalues[eigenvalues.len() - 1]).abs() < 1e-9);
    let mut statuses = Vec::new();
    for (i, damping) in report.dampings.iter().enumerate() {
        assert_eq!(report.status(i) == PointStatus::Indefinite, damping + lowest <= 0.0, "{damping}");
        statuses.push(report.status(i));
        if report.status(i) == PointStatus::Indefinite {
            let empty =
                |q: &if_methods::QueryPath| q.points[i].top.is_empty() && q.points[i].residual.is_nan();
            assert!(report.queries.iter().all(empty));
            assert!(report.over_queries(i, |p| p.overlap_with_reference).is_none());
        }
    }
    assert_eq!(statuses[0], PointStatus::Indefinite);
    assert_eq!(statuses[statuses.len() - 1], PointStatus::Resolved);
    problem.check(settings, &report);
}

/// Catches: weights that do not add up or are not divided by the starts, a density of another width,
/// a mean that is not `trace / p`.
#[test]
fn the_spectrum_is_that_of_the_matrix() {
    let problem = Problem::tanh();
    let settings = RiskSettings::mean(L2);
    let matrix = problem.matrix(settings);
    let p = matrix.dim();
    let Spectrum { values, mean, mean_error, lowest, highest, .. } =
        &problem.run(settings, 100, None).spectrum;
    // Three starts of signs, each of which sees every eigenvalue once, whatever its multiplicity.
    let mut distinct = matrix.eigen().0;
    distinct.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    assert_eq!(values.len(), 3 * distinct.len());
    let total: f64 = values.iter().map(|r| r.weight).sum();
    let first: f64 = values.iter().map(|r| r.weight * r.value).sum();
    assert!((total - 1.0).abs() < 1e-12 && (first - mean).abs() < 1e-12);
    let quadratic: Vec<f64> = (0..3)
        .map(|seed| {
            let v: Vec<f64> = random(p, seed).iter().map(|v| v.signum()).collect();
            let rows = matrix.as_slice().chunks(p);
            rows.zip(&v)
                .map(|(row, v_i)| v_i * row.iter().zip(&v).map(|(a, v)| a * v).sum::<f64>())
                .sum::<f64>()
                / p as f64
        })
        .collect();
    assert!((quadratic.iter().sum::<f64>() / 3.0 - mean).abs() < 1e-12);
    // The deviation of three numbers, over the root of three.
    let [a, b, c] = quadratic[..] else { panic!("three starts") };
    let deviation = (((a - b).powi(2) + (b - c).powi(2) + (c - a).powi(2)) / 6.0).sqrt();
    assert!((deviation / 3f64.sqrt() - mean_error).abs() < 1e-12 && deviation > 0.0);

    let spectrum = problem.run(settings, 100, None).spectrum;
    assert_eq!((spectrum.lowest, spectrum.highest), (*lowest, *highest));
    assert!((spectrum.share(f64::NEG_INFINITY, f64::INFINITY) - 1.0).abs() < 1e-12);
    let width = 0.05 * (highest - lowest);
    let step = 0.1 * width;
    let cells = ((highest - lowest + 12.0 * width) / step) as usize;
    let integral: f64 =
        (0..cells).map(|i| step * spectrum.density(lowest - 6.0 * width + step * i as f64, width)).sum();
    assert!((integral - 1.0).abs() < 1e-6, "{integral}");
}

/// With few steps the residual says so, and it is the one of the identity. Catches: a residual of the
/// undamped system, a tolerance that is not looked at, a ranking compared that is not resolved.
#[test]
fn few_steps_are_not_called_resolved() {
    let problem = Problem::softmax();
    let settings = RiskSettings::mean(1e-4);
    let steps = 4;
    let report = problem.run(settings, steps, None);
    let risk = problem.risk(settings);
    let operator = risk.operator(&problem.theta, Curvature::Hessian, 0.0, usize::MAX);
    for (q, query) in report.queries.iter().enumerate() {
        let gradient = problem.network.example_gradients(&problem.queries, &problem.theta, Rows::Range(q, 1));
        let krylov = lanczos(&operator, &gradient, steps, &());
        for (point, damping) in query.points.iter().zip(&report.dampings) {
            // T + d, solved for e_1.
            let mut t = vec![0.0; steps * steps];
            for i in 0..steps {
                t[i * steps + i] = krylov.diagonal[i] + damping;
                if i > 0 {
                    t[i * steps + i - 1] = krylov.off[i - 1];
                    t[(i - 1) * steps + i] = krylov.off[i - 1];
                }
            }
            let mut y = vec![1.0, 0.0, 0.0, 0.0];
            SymmetricMatrix::from_rows(steps, t).cholesky().unwrap().solve(&mut y);
            let identity = krylov.next * y[steps - 1].abs();
            assert!((point.residual / identity - 1.0).abs() < 1e-6, "{} {identity}", point.residual);
            let expected = if identity <= 1e-8 { PointStatus::Resolved } else { PointStatus::Unresolved };
            assert_eq!(point.status, expected);
        }
    }
    assert_eq!(report.status(0), PointStatus::Unresolved);
    assert!(report.over_queries(0, |point| point.overlap_with_next).is_none());
}

#[test]
fn a_query_without_gradient_has_no_ranking_to_lose() {
    let mut problem = Problem::softmax();
    // Outputs this far apart: the probability of the label is 1 to the last bit.
    let mut theta = vec![0.0; 12];
    (theta[3], theta[7], theta[11]) = (1000.0, 0.0, 0.0);
    problem.theta = Block::from_f64(&Cpu::new(), problem.network.layout(), &theta);
    let report = problem.run(RiskSettings::mean(L2), 10, None);
    let query = &report.queries[0];
    assert_eq!(query.gradient_norm, 0.0);
    assert!(query.points.iter().all(|p| p.residual == 0.0 && p.top.is_empty()));
    assert!(query.points.iter().all(|p| p.overlap_with_next.is_none()));
}

struct Stop;

impl Observer for Stop {
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn what_cannot_be_followed_is_an_error() {
    let mut problem = Problem::softmax();
    let risk = |problem: &Problem, observer: &dyn Observer| {
        let risk = problem.risk(RiskSettings::mean(L2));
        let operator = risk.operator(&problem.theta, Curvature::Hessian, 0.0, usize::MAX);
        let theta = &problem.theta;
        let path = DampingPath { risk: &risk, theta, operator: &operator, steps: 5, tolerance: 1e-8 };
        path.run(&problem.queries, None, observer).unwrap_err()
    };
    assert_eq!(risk(&problem, &Stop), MethodError::Cancelled);
    problem.theta = Block::from_f64(&Cpu::new(), problem.network.layout(), &[f64::NAN; 12]);
    assert_eq!(risk(&problem, &()), MethodError::NotFinite);
}
