//! Logistic regression on MNIST 1 against 7, against values computed independently with explicit
//! matrices and by retraining (`data/README.md`), at three strengths of l2.

// The agreement itself is worth reading: `cargo test -p if-tests --test it logreg17 -- --nocapture`.
#![allow(clippy::print_stdout)]

use if_data::Array;
use if_linalg::{Block, Cg, Cholesky, Cpu, Solver};
use if_methods::{Agreement, Influence, slope_through_origin};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss, Network, NewtonCg, Removal, RiskSettings,
};
use if_tests::{Golden, relative_error};

pub type Double = Cpu<f64>;

pub const STRENGTHS: [(f64, &str); 3] = [(0.001, "lam0.001_"), (0.01, "lam0.01_"), (0.1, "lam0.1_")];

pub struct Problem {
    pub network: Network<Double>,
    pub train: Inputs<Double>,
    pub queries: Inputs<Double>,
    golden: Golden,
}

pub fn problem() -> Problem {
    let golden = Golden::read("logreg17.npz");
    let part = |x: &str, y: &str| {
        let Array::U8(pixels) = golden.array(x) else { panic!("pixels are bytes") };
        Dataset::new(HostArray::U8(pixels.clone()), golden.values(y)).unwrap()
    };
    let (train, queries) = (part("x_train", "y_train"), part("x_test", "y_test"));
    let network = Network::linear(&Cpu::new(), train.width(), 1, true, Loss::Logistic);
    let train = Inputs::new(&network, &train, usize::MAX).unwrap();
    let queries = Inputs::new(&network, &queries, usize::MAX).unwrap();
    Problem { network, train, queries, golden }
}

impl Problem {
    /// The first `count` queries.
    pub fn some_queries(&self, count: usize) -> Inputs<Double> {
        let Array::U8(pixels) = self.golden.array("x_test") else { panic!("pixels are bytes") };
        let data = Dataset::new(HostArray::U8(pixels.clone()), self.golden.values("y_test")).unwrap();
        Inputs::new(&self.network, &data.slice(0, count), usize::MAX).unwrap()
    }

    pub fn risk(&self, l2: f64, removal: Removal) -> EmpiricalRisk<'_, Double> {
        let settings = RiskSettings { removal, ..RiskSettings::mean(l2) };
        EmpiricalRisk::new(&self.network, &self.train, settings).unwrap()
    }

    pub fn optimum(&self, risk: &EmpiricalRisk<Double>) -> Block<Double> {
        let start = Block::zeros(self.network.backend(), self.network.layout(), 1);
        let trainer = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() };
        let fit = trainer.minimise(risk, &start, &());
        assert!(fit.report.converged(), "{:?}", fit.report);
        fit.theta
    }

    /// Golden values of one strength of l2.
    fn golden(&self, prefix: &str, name: &str) -> Vec<f64> {
        self.golden.values(&format!("{prefix}{name}"))
    }
}

fn cholesky() -> Cholesky {
    Cholesky { tolerance: 1e-9, memory_budget: usize::MAX }
}

#[test]
fn optimum_ihvps_scores_and_self_influence() {
    let problem = problem();
    for (l2, prefix) in STRENGTHS {
        let risk = problem.risk(l2, Removal::Fixed);
        let theta = problem.optimum(&risk);
        let error = relative_error(&theta.to_f64(), &problem.golden(prefix, "theta"));
        assert!(error < 1e-9, "l2 {l2}: theta is off by {error:e}");

        let hessian = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let expected = problem.golden(prefix, "ihvp_test");
        let queries = expected.len() / problem.network.layout().dim();
        let gradients =
            problem.network.example_gradients(&problem.queries, &theta, if_models::Rows::Range(0, queries));
        let cg = Cg { tolerance: 1e-10, max_iterations: 2000 };
        let solvers: [&dyn Solver<Double>; 2] = [&cg, &cholesky()];
        for solver in solvers {
            let prepared = solver.prepare(&hessian).unwrap();
            let solution = prepared.solve(&gradients, &());
            assert!(solution.report.all_converged(), "{}", solution.report.summary());
            let error = relative_error(&solution.x.to_f64(), &expected);
            assert!(error < 1e-7, "l2 {l2}, {}: iHVPs are off by {error:e}", solver.name());

            let influence = Influence::new(&risk, &theta, &*prepared);
            let scores = influence.scores(&problem.queries, &()).unwrap();
            let error =
                relative_error(&scores.scores[..queries * risk.n()], &problem.golden(prefix, "score"));
            assert!(error < 1e-7, "l2 {l2}, {}: scores are off by {error:e}", solver.name());
        }
        let prepared = cholesky().prepare(&hessian).unwrap();
        let influence = Influence::new(&risk, &theta, &*prepared);
        let (own, report) = influence.self_influence(&()).unwrap();
        assert!(report.all_converged(), "{}", report.summary());
        let error = relative_error(&own, &problem.golden(prefix, "self_influence"));
        assert!(error < 1e-8, "l2 {l2}: self-influence is off by {error:e}");
    }
}

/// Predicted loss changes, `left out x queries`, of the examples that the golden values leave out.
fn predicted(problem: &Problem, l2: f64, removal: Removal) -> (Vec<f64>, Vec<f64>) {
    let risk = problem.risk(l2, removal);
    let theta = problem.optimum(&risk);
    let hessian = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = cholesky().prepare(&hessian).unwrap();
    let influence = Influence::new(&risk, &theta, &*prepared);
    let scores = influence.scores(&problem.queries, &()).unwrap();
    let left_out = problem.golden.indices("loo_idx");
    let queries = scores.queries();
    let of = |&i: &usize| (0..queries).map(|q| scores.loss_change(q, i).unwrap()).collect::<Vec<_>>();
    let predicted = left_out.iter().flat_map(of).collect();
    let leverages = match removal {
        Removal::Fixed => {
            let own = influence.self_influence(&()).unwrap().0;
            let leverages = influence.leverages(&own).unwrap();
            left_out.iter().map(|&i| leverages[i]).collect()
        }
        Removal::Renormalised => Vec::new(),
    };
    (predicted, leverages)
}

/// Each removal convention against its own retraining at l2 = 0.1; the other's formula is worse.
#[test]
fn both_removal_conventions_predict_their_own_retraining() {
    let problem = problem();
    let (fixed, _) = predicted(&problem, 0.1, Removal::Fixed);
    let (renormalised, _) = predicted(&problem, 0.1, Removal::Renormalised);
    let actual_fixed = problem.golden("lam0.1_", "loo_actual_fixed");
    let actual_renormalised = problem.golden("lam0.1_", "loo_actual_renorm");
    for (name, right, wrong, actual) in [
        ("fixed", &fixed, &renormalised, &actual_fixed),
        ("renormalised", &renormalised, &fixed, &actual_renormalised),
    ] {
        let right = Agreement::new(right, actual);
        let wrong = Agreement::new(wrong, actual);
        println!("{name}: {right:?}; by the other formula: {wrong:?}");
        assert!(right.pearson >= 0.9997, "{name}: {right:?}");
        assert!(right.relative_error <= 0.05, "{name}: {right:?}");
        // The other formula fails the bound that the right one meets.
        assert!(wrong.relative_error > 0.05, "{name}: {wrong:?} against {right:?}");
        assert!(wrong.relative_error > 1.5 * right.relative_error, "{name}: {wrong:?} against {right:?}");
    }
}

/// Small removals are predicted to a percent at every l2. Large removals are underestimated by first
/// order, and `first / (1 - leverage)` mends most of it.
#[test]
fn leverage_says_what_first_order_underestimates() {
    let problem = problem();
    for (l2, prefix) in STRENGTHS {
        let (first, leverages) = predicted(&problem, l2, Removal::Fixed);
        let actual = problem.golden(prefix, "loo_actual_fixed");
        let queries = actual.len() / leverages.len();
        let leverage = |pair: usize| leverages[pair / queries];
        let corrected: Vec<f64> =
            first.iter().enumerate().map(|(pair, first)| first / (1.0 - leverage(pair))).collect();
        let small = |values: &[f64]| {
            let kept = values.iter().enumerate().filter(|(pair, _)| leverage(*pair) < 0.005);
            kept.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        let slope = slope_through_origin(&small(&first), &small(&actual));
        let (all, mended) = (Agreement::new(&first, &actual), Agreement::new(&corrected, &actual));
        println!(
            "l2 {l2}: slope {slope:.4} below leverage 0.005 ({} pairs); over all pairs first order has \
             slope {:.4}, R {:.5}, relative error {:.3}; first / (1 - leverage) has slope {:.4}, R {:.5}, \
             relative error {:.3}: large removals are underestimated by first order",
            small(&first).len(),
            all.slope,
            all.pearson,
            all.relative_error,
            mended.slope,
            mended.pearson,
            mended.relative_error,
        );
        assert!((0.99..=1.01).contains(&slope), "l2 {l2}: slope {slope}");
        assert!(all.slope < mended.slope && mended.relative_error < 0.5 * all.relative_error, "l2 {l2}");
    }
}
