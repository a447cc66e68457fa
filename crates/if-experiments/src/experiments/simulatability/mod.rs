//! 6c: Guo et al. 2021, simulatability: do steps on a query's proponents and opponents move its loss as influence says?
//!
//! For every query alone, some steps from the trained parameters on the `k` strongest proponents, opponents, or examples
//! chosen without the query; measured is what that does to the query's loss.
//!
//! Deviations:
//! 1. HANS is regenerated, and the model is that of experiment 6b.
//! 2. Beside it stands what the paper does not ask: how well influence predicts training without groups, and how well such
//!    trainings agree with each other (Park et al. 2023 measure attribution so).
//! 3. Scores of all training examples, by conjugate gradients: 6a says what the funnel costs.

mod retraining;

use if_methods::{FineTuning, descending, random_order, spearman};
use if_models::{EmpiricalRisk, RiskSettings};

use crate::result::{Gate, Metric, Table};
use crate::support::{
    OverSeeds, PAIRS_DAMPING, PAIRS_L2, PairModel, PairSplits, each_seed, line, pair_influence,
};
use crate::{Context, Experiment, Figure, Outcome};
use if_plot::{LineChart, Series};

const QUERIES: usize = 40;
/// Numbers of examples that are tuned on.
const COUNTS: [usize; 5] = [1, 3, 10, 30, 100];
/// The one that the gates are about.
const GATED: usize = 2;
/// Small enough for first order, see the metrics.
const TUNING: FineTuning = FineTuning { learning_rate: 0.02, steps: 5 };
/// Sets the random examples apart from everything else of the seed.
const DRAWS: u64 = 1 << 33;

const CHOICES: [&str; 6] = [
    "proponents",
    "random",
    "opponents",
    "highest loss",
    "highest mean loss over checkpoints",
    "largest gradient norm",
];

/// `6c`.
pub struct Simulatability;

impl Experiment for Simulatability {
    fn id(&self) -> &str {
        "6c"
    }
    fn paper(&self) -> &str {
        "Guo et al. 2021"
    }
    fn title(&self) -> &str {
        "Simulatability: steps on proponents and opponents of a query, HANS (regenerated)"
    }
    fn claim(&self) -> &str {
        "Steps on a query’s proponents lower its loss, steps on its opponents raise it, and steps on random examples do something in between."
    }
    fn needs(&self) -> &[&str] {
        &["hans-regenerated"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let seeds = context.seeds(if context.full { 20 } else { 5 });
        let trials = each_seed(context, &seeds, |seed| trial(context, seed))?;
        let mut outcome = Outcome { metrics: judge(&trials), seeds, ..Outcome::default() };
        outcome.plots.push(plot(&trials));
        outcome.tables.push(table(&trials));
        let (metrics, table) = retraining::compare(context, &outcome.seeds)?;
        outcome.metrics.extend(metrics);
        outcome.tables.push(table);
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// What one model gives.
struct Trial {
    /// Choices x counts x queries: change of the query's loss.
    changes: Vec<Vec<Vec<f64>>>,
    /// Spearman's correlation over queries and choices, at every count: minus the mean score of the examples against the
    /// change.
    agreement: Vec<f64>,
}

fn trial(context: &Context, seed: u64) -> anyhow::Result<Trial> {
    let (splits, _) = PairSplits::hans(context, seed)?;
    let model = PairModel::train(context, (&splits.train, splits.classes), seed)?;
    let (network, theta) = (&model.network, &model.theta);
    let train = model.inputs(&splits.train)?;
    let drawn: Vec<usize> = random_order(splits.held_out.len(), seed).into_iter().take(QUERIES).collect();
    let queries = model.inputs(&splits.held_out.select(&drawn))?;
    let risk = EmpiricalRisk::new(network, &train, RiskSettings::mean(PAIRS_L2))?;
    let scores = pair_influence(context, (network, theta), (&train, &queries))?;
    let before = network.example_losses(&queries, theta);
    let without_query = [
        descending(&network.example_losses(&train, theta)),
        descending(&model.mean_losses(&train)?),
        descending(&network.gradient_norms(&train, theta)),
    ];
    let mut changes = vec![vec![Vec::new(); COUNTS.len()]; CHOICES.len()];
    let mut predicted = vec![vec![Vec::new(); COUNTS.len()]; CHOICES.len()];
    for (q, before) in before.into_iter().enumerate() {
        let row = scores.row(q);
        let ranked = descending(row);
        let random = random_order(risk.n(), seed.wrapping_add(DRAWS).wrapping_add(q as u64));
        let opponents: Vec<usize> = ranked.iter().rev().copied().collect();
        let orders = [&ranked, &random, &opponents].into_iter().chain(&without_query);
        for (c, order) in orders.enumerate() {
            for (k, &count) in COUNTS.iter().enumerate() {
                let tuned = TUNING.run(&risk, theta, &order[..count])?;
                changes[c][k].push(network.example_losses(&queries, &tuned)[q] - before);
                predicted[c][k].push(-order[..count].iter().map(|&i| row[i]).sum::<f64>() / count as f64);
            }
        }
    }
    let at = |values: &[Vec<Vec<f64>>], k: usize| {
        values.iter().flat_map(|counts| counts[k].iter().copied()).collect::<Vec<f64>>()
    };
    let agreement = (0..COUNTS.len()).map(|k| spearman(&at(&predicted, k), &at(&changes, k))).collect();
    Ok(Trial { changes, agreement })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean change over the queries at a count.
fn change(trials: &[Trial], choice: usize, k: usize) -> OverSeeds {
    OverSeeds::over(trials, |trial| mean(&trial.changes[choice][k]))
}

/// Part of the queries whose loss a choice lowers.
fn lowered(trials: &[Trial], choice: usize, k: usize) -> f64 {
    let part = |trial: &Trial| {
        let changes = &trial.changes[choice][k];
        changes.iter().filter(|change| **change < 0.0).count() as f64 / changes.len() as f64
    };
    OverSeeds::over(trials, part).mean
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let [proponents, random, opponents] = [0, 1, 2].map(|choice| change(trials, choice, GATED).mean);
    let name = |what: &str| format!("{} examples: {what}", COUNTS[GATED]);
    let mut metrics = vec![
        Metric::new(name("change of the loss by proponents"), proponents).gate(Gate::Below(0.0)),
        Metric::new(name("change of the loss by opponents"), opponents).gate(Gate::Above(0.0)),
        Metric::new(name("random over proponents"), random - proponents).gate(Gate::Above(0.0)),
        Metric::new(name("opponents over random"), opponents - random).gate(Gate::Above(0.0)),
        Metric::new(name("queries whose loss proponents lower"), lowered(trials, 0, GATED)),
        Metric::new(name("queries whose loss opponents raise"), 1.0 - lowered(trials, 2, GATED)),
        Metric::new(
            name("Spearman of influence and change, over queries and choices"),
            OverSeeds::over(trials, |trial| trial.agreement[GATED]).mean,
        ),
    ];
    for (c, choice) in CHOICES.into_iter().enumerate().skip(1).filter(|(c, _)| *c != 2) {
        let name = name(&format!("change of the loss by {choice}"));
        metrics.push(Metric::new(name, change(trials, c, GATED).mean));
    }
    metrics
}

fn plot(trials: &[Trial]) -> Figure {
    let drawn: Vec<_> = (0..CHOICES.len())
        .map(|c| {
            line(COUNTS.iter().enumerate().map(|(k, &count)| ((count as f64).log10(), change(trials, c, k))))
        })
        .collect();
    let series: Vec<Series> =
        CHOICES.iter().zip(&drawn).map(|(name, (points, band))| Series { name, points, band }).collect();
    let chart = LineChart {
        title: "What steps on some training examples do to a query",
        x_label: "decimal logarithm of the number of examples",
        y_label: "change of the query’s loss",
        series: &series,
        y_covers: None,
    };
    let caption = format!(
        "Mean over {QUERIES} queries and {} models; the bands go from the least to the most model.",
        trials.len()
    );
    Figure { name: "changes".into(), caption, svg: chart.svg() }
}

fn table(trials: &[Trial]) -> Table {
    let row = |(c, name): (usize, &&str)| {
        let cell = |k: usize| {
            let lowered = 100.0 * lowered(trials, c, k);
            format!("{}; {lowered:.0} % lower", change(trials, c, k).cell())
        };
        std::iter::once((*name).to_owned()).chain((0..COUNTS.len()).map(cell)).collect()
    };
    Table {
        title: "Change of a query’s loss: mean over queries; over models mean, least and most; part of the queries whose loss falls".into(),
        columns: std::iter::once("steps on".to_owned())
            .chain(COUNTS.map(|count| format!("{count} examples")))
            .collect(),
        rows: CHOICES.iter().enumerate().map(row).collect(),
    }
}

fn describe(outcome: &mut Outcome) {
    outcome.setting("data and model", "as in 6b, HANS (regenerated); nine of ten training pairs follow");
    outcome.setting("queries", format!("{QUERIES} of the pairs held out, drawn by the seed"));
    outcome.setting(
        "steps",
        format!(
            "{} at rate {}, dense layers, each query from the trained parameters",
            TUNING.steps, TUNING.learning_rate
        ),
    );
    outcome.setting(
        "influence",
        format!("dense layers, Gauss-Newton, damping {PAIRS_DAMPING}; block conjugate gradients to 1e-6"),
    );
    outcome.notes = vec![
        "HANS here is regenerated by its authors’ templates; its sentences are not the published ones.".into(),
        "Training depends on its seed. Effects of removal under two seeds agree as far as the first row of the second table says; the part that they do not share no attribution can predict. An attribution that knew the shared part would correlate with the mean effects up to the ceiling.".into(),
        "The paper shows figures and no numbers that could be compared.".into(),
        "Steps go along gradients, not along inverse-Hessian-vector products: influence says the direction of a change, not its size. Of the size only the rank over queries is measured.".into(),
    ];
}
