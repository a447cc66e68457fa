//! Leave-one-out retraining on the embedded digits: Koh & Liang 2017, section 4.1, in seconds, and
//! with both meanings of removal.
//!
//! Each convention is held against its own first order and against the other's. The two differ by one
//! constant per query, `l2 g_q^T H^-1 theta / n`, which no correlation within a query sees.

use if_linalg::{Block, Cg, Loss};
use if_methods::{Agreement, Scores, descending, random_order};
use if_models::{EmpiricalRisk, Inputs, Removal, RiskSettings};

use crate::result::{Gate, Metric, Table};
use crate::support::{
    F64, Pictured, Problem, Removals, Targets, agreement_row, fit, influence, judged, load, newton,
    pairs_plot, predict, predicted, strongest, union,
};
use crate::{Context, Experiment, Outcome};

const L2: f64 = 0.01;
const QUERIES: usize = 5;
const STRONGEST: usize = 50;
const ORDINARY: usize = 100;
const GRADIENT: f64 = 1e-10;
const SOLVER: Cg = Cg { tolerance: 1e-10, max_iterations: 2000 };

/// `digits-loo`.
pub struct DigitsLoo;

impl Experiment for DigitsLoo {
    fn id(&self) -> &str {
        "digits-loo"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Leave-one-out retraining, softmax regression on digits, two meanings of removal"
    }
    fn claim(&self) -> &str {
        "First-order influence predicts what retraining without a training example does to the loss of a test example, in size as well as in order, where formula and removal belong together."
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let (train, test) = (load(context, "digits:train")?, load(context, "digits:test")?);
        let problem = Problem::linear(train, test, (10, true, Loss::CrossEntropy))?;
        let fixed = problem.risk(RiskSettings::mean(L2))?;
        let renormalised =
            problem.risk(RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(L2) })?;
        // The whole model is the same under both.
        let theta = fit(&fixed, None, GRADIENT)?.theta;
        let losses = problem.network.example_losses(&problem.test, &theta);
        let rows = &descending(&losses)[..QUERIES];
        let queries = problem.queries(rows)?;
        let scores = |risk| influence(context, risk, (&queries, &theta), &SOLVER);
        let (by_fixed, by_renormalised) = (scores(&fixed)?, scores(&renormalised)?);

        let mut outcome = Outcome { seeds: context.seeds(1), ..Outcome::default() };
        let ordinary = random_order(problem.train.len(), outcome.seeds[0])[..ORDINARY].to_vec();
        let study = Study { context, theta: &theta, queries: &queries, ordinary };
        study.compare(&mut outcome, ("fixed", &fixed), (&by_fixed, &by_renormalised))?;
        study.compare(&mut outcome, ("renormalised", &renormalised), (&by_renormalised, &by_fixed))?;
        let everyone: Vec<usize> = (0..problem.train.len()).collect();
        outcome.pictures = Pictured {
            name: "query",
            query: (&problem.test_data, rows[0]),
            predicted: predict(&problem.network, &problem.test, &theta)[rows[0]],
            train: &problem.train_data,
            changes: &predicted(&by_fixed, 0, &everyone),
        }
        .figures();
        describe(&mut outcome, &problem, rows);
        Ok(outcome)
    }
}

/// What both conventions share.
struct Study<'a> {
    context: &'a Context,
    theta: &'a Block<F64>,
    queries: &'a Inputs<F64>,
    /// Examples drawn at random.
    ordinary: Vec<usize>,
}

/// Real removals under one convention, and which examples were left out for each query.
struct Measured {
    removals: Removals,
    top: Vec<Vec<usize>>,
}

impl Study<'_> {
    /// Retrains under the convention of `risk` and judges both formulas.
    fn compare(
        &self,
        outcome: &mut Outcome,
        (name, risk): (&str, &EmpiricalRisk<'_, F64>),
        (own, other): (&Scores<f64>, &Scores<f64>),
    ) -> anyhow::Result<()> {
        let top: Vec<Vec<usize>> = (0..QUERIES).map(|q| strongest(own.row(q), STRONGEST)).collect();
        let examples = union(&[top.as_slice(), std::slice::from_ref(&self.ordinary)].concat());
        let retrain = |risk: &EmpiricalRisk<'_, F64>| newton(GRADIENT).minimise(risk, self.theta, &());
        let removals = Removals::measure(self.context, risk, (self.queries, self.theta), examples, retrain)?;
        let measured = Measured { removals, top };

        let (guess, actual) = measured.pooled(own, |q| &measured.top[q]);
        let prefix = format!("{name}, top {STRONGEST}: ");
        let found = Agreement::new(&guess, &actual);
        outcome.metrics.extend(judged(&prefix, &found, &Targets::LEAVE_ONE_OUT));
        let wrong = measured.error(other, |q| &measured.top[q]);
        outcome.metrics.push(Metric::new(format!("{prefix}relative error, other formula"), wrong));

        let prefix = format!("{name}, {ORDINARY} random: ");
        let right = measured.error(own, |_| &self.ordinary);
        let times = measured.error(other, |_| &self.ordinary) / right;
        let gate = Gate::AtMost(Targets::LEAVE_ONE_OUT.relative_error);
        outcome.metrics.push(Metric::new(format!("{prefix}relative error"), right).gate(gate));
        let times_name = format!("{prefix}error of the other formula ÷ own");
        outcome.metrics.push(Metric::new(times_name, times).gate(Gate::Above(1.0)));

        let title = format!("Predicted against actual change, {name} removal");
        let caption = format!(
            "{QUERIES} test examples, each with the {STRONGEST} training examples of largest influence on it."
        );
        outcome.plots.push(pairs_plot(name, (&title, caption), (&guess, &actual)));
        outcome.tables.push(measured.table(name, own));
        Ok(())
    }
}

impl Measured {
    /// Predicted and actual changes of every query with its examples, one query after the other.
    fn pooled<'s>(
        &self,
        scores: &Scores<f64>,
        set: impl Fn(usize) -> &'s Vec<usize>,
    ) -> (Vec<f64>, Vec<f64>) {
        let guess = (0..QUERIES).flat_map(|q| predicted(scores, q, set(q))).collect();
        (guess, (0..QUERIES).flat_map(|q| self.removals.changes(q, set(q))).collect())
    }

    fn error<'s>(&self, scores: &Scores<f64>, set: impl Fn(usize) -> &'s Vec<usize>) -> f64 {
        let (guess, actual) = self.pooled(scores, set);
        Agreement::new(&guess, &actual).relative_error
    }

    fn table(&self, name: &str, scores: &Scores<f64>) -> Table {
        let row = |q: usize| {
            let guess = predicted(scores, q, &self.top[q]);
            let found = Agreement::new(&guess, &self.removals.changes(q, &self.top[q]));
            std::iter::once(format!("{}", q + 1)).chain(agreement_row(&found)).collect()
        };
        Table {
            title: format!("Query by query, {name} removal, top {STRONGEST}"),
            columns: ["query", "R", "Spearman", "slope", "relative error"].map(String::from).to_vec(),
            rows: (0..QUERIES).map(row).collect(),
        }
    }
}

fn describe(outcome: &mut Outcome, problem: &Problem, rows: &[usize]) {
    outcome.setting("train", format!("digits:train, n = {}", problem.train.len()));
    outcome.setting("model", format!("softmax regression with bias, p = {}", problem.network.layout().dim()));
    outcome.setting("l2", L2);
    outcome.setting("solver", "conjugate gradients, relative residual 1e-10");
    outcome.setting("retraining", "Newton-CG from the whole model, gradient norm 1e-10");
    outcome.setting("queries", format!("digits:test {rows:?}, the {QUERIES} of highest loss"));
    outcome.notes = vec![
        "The digits are not in the paper; its setting is experiment 1a.".into(),
        "Fixed removal: the others keep weight 1/n, and the prediction is g_q·H⁻¹·∇l / n. Renormalised (the paper’s): weights 1/(n−1), and the prediction is g_q·H⁻¹·(∇l + l2·θ) / (n−1). Each is held against retraining of its own kind.".into(),
        format!("The formulas differ by one constant per query. Beside the {STRONGEST} strongest effects it is small, and may even hide a part of the error of first order; on {ORDINARY} random examples the formulas are told apart."),
        "First order leaves out that a removed example takes its curvature along: it underestimates, the more so the larger the example’s leverage.".into(),
    ];
}
