//! 1a: Koh & Liang 2017, section 4.1 and figure 2 (left): leave-one-out retraining of softmax
//! regression on MNIST against first-order influence.
//!
//! Deviations:
//! 1. 5,500 training examples by default, and the 100 of largest influence; the paper takes 55,000 and 500.
//! 2. The paper's test point is not named: here it is the misclassified one of highest loss, and further
//!    misclassified ones drawn by the seed are held to the same gates.
//! 3. LiSSA's iterates are the paper's (scale 25, depth 5,000, single examples, 10 repeats); the answer averages the last
//!    half of them.
//! 4. Newton-CG to a gradient of norm 1e-10 in place of L-BFGS.

use if_linalg::{Block, Cg, Loss, PublishedLissa, Solver};
use if_methods::{Agreement, Influence, Scores, descending, pearson, random_order};
use if_models::{Curvature, EmpiricalRisk, Inputs, Removal, RiskSettings, Rows};

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{
    F64, Pictured, Problem, Removals, Targets, agreement_row, fit, influence, judged, load, pairs_plot,
    predict, predicted, strongest, union,
};
use crate::{Context, Experiment, Outcome};

const L2: f64 = 0.01;
const FURTHER: usize = 2;
const STRONGEST: usize = 100;
const GRADIENT: f64 = 1e-10;
const SOLVER: Cg = Cg { tolerance: 1e-8, max_iterations: 2000 };
const LISSA: PublishedLissa = PublishedLissa::KOH_LIANG;
const LISSA_PEARSON: f64 = 0.97;
const ON_DIAGONAL: &str = "on the diagonal (plot)";

/// `1a`.
pub struct SoftmaxLoo;

impl Experiment for SoftmaxLoo {
    fn id(&self) -> &str {
        "1a"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Leave-one-out retraining, softmax regression on MNIST"
    }
    fn claim(&self) -> &str {
        "Influence, from one solve with the Hessian, predicts the change of a test loss on removal of a training example; dot products of gradients, losses and chance do not."
    }
    fn needs(&self) -> &[&str] {
        &["mnist"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome { seeds: context.seeds(1), ..Outcome::default() };
        run_at(context, &mut outcome, "mnist:train[0..5500]", "")?;
        if context.full {
            run_at(context, &mut outcome, "mnist:train[0..55000]", "n = 55,000: ")?;
        }
        outcome.setting("model", "softmax regression without bias, p = 7840");
        outcome.setting("l2", L2);
        outcome.setting("removal", "renormalised: weights 1/(n−1), prediction g_q·H⁻¹·(∇l + l2·θ) / (n−1)");
        outcome.setting("solver", "conjugate gradients, relative residual 1e-8");
        outcome.setting("second solver", "LiSSA: scale 25, depth 5,000, batches of one example, 10 repeats");
        outcome.setting(
            "retraining",
            "chord Newton from the whole model, its Hessian factored once; gradient norm 1e-10",
        );
        outcome.notes = vec![
            format!("The paper removes the 500 examples of largest influence from 55,000; here it is {STRONGEST} from 5,500, and from 55,000 with --full."),
            "The paper does not name its misclassified test point. Here it is the one of highest loss; further ones, drawn by the seed, are held to the same targets.".into(),
            "LiSSA runs the paper’s recursion and settings; its answer is the average over the last half of its iterates. Its residual is far above any tolerance, so its scores would be flagged: rankings survive that, sizes less.".into(),
            "A slope below 1 is expected: first order leaves out that a removed example takes its curvature along.".into(),
        ];
        Ok(outcome)
    }
}

/// The whole experiment on one training set; metrics begin with `prefix`.
fn run_at(context: &Context, outcome: &mut Outcome, source: &str, prefix: &str) -> anyhow::Result<()> {
    let (train, test) = (load(context, source)?, load(context, "mnist:test")?);
    let problem = Problem::linear(train, test, (10, false, Loss::CrossEntropy))?;
    let risk = problem.risk(RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(L2) })?;
    let theta = fit(&risk, None, GRADIENT)?.theta;
    let labels = predict(&problem.network, &problem.test, &theta);
    let rows = misclassified(&problem, &theta, &labels, outcome.seeds[0]);
    let queries = problem.queries(&rows)?;
    let scores = influence(context, &risk, (&queries, &theta), &SOLVER)?;
    let stochastic = lissa(context, &risk, (&queries, &theta), outcome.seeds[0])?;

    let top: Vec<Vec<usize>> = (0..rows.len()).map(|q| strongest(scores.row(q), STRONGEST)).collect();
    let removals = Removals::measure_near(context, &risk, (&queries, &theta), union(&top), GRADIENT)?;
    let changes = |q: usize| (predicted(&scores, q, &top[q]), removals.changes(q, &top[q]));
    let agreement = |scores: &Scores<f64>| -> Vec<Agreement> {
        let of = |q: usize| Agreement::new(&predicted(scores, q, &top[q]), &removals.changes(q, &top[q]));
        (0..rows.len()).map(of).collect()
    };
    let (found, by_lissa) = (agreement(&scores), agreement(&stochastic));

    outcome.metrics.extend(judge(prefix, &found));
    outcome.metrics.extend([
        Metric::new(format!("{prefix}CG: true relative residual"), scores.report.worst_residual())
            .gate(Gate::AtMost(SOLVER.tolerance)),
        Metric::new(format!("{prefix}LiSSA: R"), by_lissa[0].pearson)
            .reported_as("nearly on the diagonal (plot)")
            .gate(Gate::AtLeast(LISSA_PEARSON)),
        Metric::new(format!("{prefix}LiSSA: slope"), by_lissa[0].slope),
        Metric::new(format!("{prefix}LiSSA: true relative residual"), stochastic.report.worst_residual()),
    ]);
    let (guess, actual) = changes(0);
    let seed = outcome.seeds[0];
    outcome.metrics.extend(baselines(&risk, (&queries, &theta), (&top[0], &actual), (prefix, seed)));
    outcome.tables.push(table(&problem, source, (&rows, &labels), (&found, &by_lissa)));
    let n = problem.train.len();
    let name = format!("n{n}");
    let title = format!("Predicted against actual change, n = {n}");
    let caption = format!(
        "Loss of mnist:test[{}] without each of the {STRONGEST} training examples of largest influence on it.",
        rows[0]
    );
    outcome.plots.push(pairs_plot(&name, (&title, caption), (&guess, &actual)));
    let everyone: Vec<usize> = (0..n).collect();
    let pictured = Pictured {
        name: &name,
        query: (&problem.test_data, rows[0]),
        predicted: labels[rows[0]],
        train: &problem.train_data,
        changes: &predicted(&scores, 0, &everyone),
    };
    outcome.pictures.extend(pictured.figures());
    Ok(())
}

/// Influence by the paper's stochastic estimate. The report says that it did not converge, as it is asked for a depth.
fn lissa(
    context: &Context,
    risk: &EmpiricalRisk<'_, F64>,
    (queries, theta): (&Inputs<F64>, &Block<F64>),
    seed: u64,
) -> anyhow::Result<Scores<f64>> {
    let hessian = risk.operator(theta, Curvature::Hessian, LISSA.effective_damping(), usize::MAX);
    let solver = LISSA.solver(SOLVER.tolerance, seed);
    let prepared = solver.prepare(&hessian)?;
    Ok(Influence::new(risk, theta, &*prepared).scores(queries, context)?)
}

/// The misclassified test point of highest loss, then further ones drawn by `seed`.
fn misclassified(problem: &Problem, theta: &Block<F64>, labels: &[f64], seed: u64) -> Vec<usize> {
    let losses = problem.network.example_losses(&problem.test, theta);
    let wrong = |i: &usize| labels[*i] != problem.test_data.labels()[*i];
    let worst = descending(&losses).into_iter().find(wrong);
    let drawn = random_order(losses.len(), seed).into_iter().filter(wrong).filter(|&i| Some(i) != worst);
    worst.into_iter().chain(drawn.take(FURTHER)).collect()
}

/// The first query is the paper's; the others are held to the same targets at their worst.
fn judge(prefix: &str, found: &[Agreement]) -> Vec<Metric> {
    let mut metrics = judged(prefix, &found[0], &Targets::LEAVE_ONE_OUT);
    metrics.iter_mut().take(3).for_each(|metric| metric.reported_source = Some(ON_DIAGONAL.into()));
    let further = &found[1..];
    let lowest = |value: fn(&Agreement) -> f64| further.iter().map(value).fold(f64::INFINITY, f64::min);
    let highest = further.iter().map(|f| f.relative_error).fold(0.0, f64::max);
    let name = |what: &str| format!("{prefix}{FURTHER} further points: {what}");
    metrics.extend([
        Metric::new(name("lowest R"), lowest(|f| f.pearson))
            .gate(Gate::AtLeast(Targets::LEAVE_ONE_OUT.pearson)),
        Metric::new(name("lowest slope"), lowest(|f| f.slope))
            .gate(Gate::AtLeast(Targets::LEAVE_ONE_OUT.slope.0)),
        Metric::new(name("highest relative error"), highest)
            .gate(Gate::AtMost(Targets::LEAVE_ONE_OUT.relative_error)),
    ]);
    metrics
}

/// What correlation with the actual changes `actual` of the first query costs no Hessian.
fn baselines(
    risk: &EmpiricalRisk<'_, F64>,
    (queries, theta): (&Inputs<F64>, &Block<F64>),
    (examples, actual): (&[usize], &[f64]),
    (prefix, seed): (&str, u64),
) -> Vec<Metric> {
    let (network, train) = (risk.network(), risk.inputs());
    let query = network.example_gradients(queries, theta, Rows::Range(0, 1));
    let dots = network.scores(train, theta, &query);
    let losses = network.example_losses(train, theta);
    let chance: Vec<f64> = random_order(train.len(), seed).into_iter().map(|rank| rank as f64).collect();
    [("gradient dot product", dots), ("loss", losses), ("random", chance)]
        .into_iter()
        .map(|(name, values)| {
            let values: Vec<f64> = examples.iter().map(|&i| values[i]).collect();
            Metric::new(format!("{prefix}R of {name}, for comparison"), pearson(&values, actual))
        })
        .collect()
}

fn table(
    problem: &Problem,
    source: &str,
    (rows, labels): (&[usize], &[f64]),
    (found, by_lissa): (&[Agreement], &[Agreement]),
) -> Table {
    let row = |((&row, found), by_lissa): ((&usize, &Agreement), &Agreement)| {
        let (label, predicted) = (problem.test_data.labels()[row], labels[row]);
        let head = [format!("mnist:test[{row}]"), format!("{label}"), format!("{predicted}")];
        let lissa = [by_lissa.pearson, by_lissa.slope].map(short);
        head.into_iter().chain(agreement_row(found)).chain(lissa).collect()
    };
    let columns = [
        "test point",
        "label",
        "predicted",
        "R",
        "Spearman",
        "slope",
        "relative error",
        "R by LiSSA",
        "slope by LiSSA",
    ];
    Table {
        title: format!("Misclassified test points, {source}, top {STRONGEST}"),
        columns: columns.map(String::from).to_vec(),
        rows: rows.iter().zip(found).zip(by_lissa).map(row).collect(),
    }
}
