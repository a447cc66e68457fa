//! 6b: Guo et al. 2021, correction of errors: a few more steps on the training examples that are most helpful for what a
//! model gets wrong.
//!
//! In each round ten errors (anchors) are drawn; ten examples are chosen of those that training saw, or of others; one
//! step is taken on them. Helpful and harmful examples come through FastIF's funnel: the nearest neighbours of the
//! anchors' mean features, inverse-Hessian-vector products by a short LiSSA run, scores of the neighbours.
//!
//! Deviations:
//! 1. HANS is regenerated: the authors' templates, other sentences than the published ones.
//! 2. A bag of hashed tokens and two dense layers where the paper has BERT; influence and steps go through the dense
//!    layers, as there through the top layers.
//! 3. Trained on HANS pairs of which nine in ten follow by the overlap of words, where the paper trains on MultiNLI; for
//!    ANLI on pairs of SNLI with revisions (`cad-snli`).
//! 4. LiSSA with a damping of 0.01 of the Gauss-Newton matrix; the published setting is an effective one of 5,000.

use anyhow::ensure;
use if_linalg::{Block, Lissa, Prepared, Solver, Termination};
use if_methods::{Correction, FineTuning, Influence, Pull, descending, nearest_to_mean, random_order};
use if_models::{Curvature, Dataset, EmpiricalRisk, Inputs, RiskSettings};

use crate::result::{Gate, Metric, Table};
use crate::support::{F64, OverSeeds, PAIRS_DAMPING, PAIRS_L2, PairModel, PairSplits, each_seed, line};
use crate::{Context, Experiment, Figure, Outcome};
use if_plot::{LineChart, Series};

const ROUNDS: usize = 10;
/// Neighbours that are scored, one in ten of HANS's training examples.
const CANDIDATES: usize = 300;
/// At a rate of 0.1 accuracy went up and down from round to round; this one was chosen on other seeds, see the notes.
const CORRECTION: Correction =
    Correction { anchors: 10, examples: 10, tuning: FineTuning { learning_rate: 0.03, steps: 1 } };
const DEPTH: usize = 200;
const BATCH: usize = 32;
/// Sets the draws of a round apart from everything else of the seed.
const DRAWS: u64 = 1 << 32;

/// How the examples of a round are chosen.
#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Helpful,
    Random,
    Harmful,
    Loss,
    MeanLoss,
    GradientNorm,
}

const CHOICES: [(Choice, &str); 6] = [
    (Choice::Helpful, "most helpful"),
    (Choice::Random, "random"),
    (Choice::Harmful, "most harmful"),
    (Choice::Loss, "highest loss"),
    (Choice::MeanLoss, "highest mean loss over checkpoints"),
    (Choice::GradientNorm, "largest gradient norm"),
];
const POOLS: [&str; 2] = ["seen in training", "unseen"];

/// `6b`.
pub struct ErrorCorrection;

impl Experiment for ErrorCorrection {
    fn id(&self) -> &str {
        "6b"
    }
    fn paper(&self) -> &str {
        "Guo et al. 2021"
    }
    fn title(&self) -> &str {
        "Errors corrected by steps on helpful examples, HANS (regenerated) and ANLI"
    }
    fn claim(&self) -> &str {
        "A few steps on the examples that are most helpful for a model’s errors raise its accuracy on other examples more than steps on random ones, and steps on the most harmful ones less."
    }
    fn needs(&self) -> &[&str] {
        &["hans-regenerated", "cad-snli", "anli-dev"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let seeds = context.seeds(if context.full { 20 } else { 5 });
        let mut outcome = Outcome { seeds: seeds.clone(), ..Outcome::default() };
        for (name, reported) in [("HANS (regenerated)", [0.025, 0.028]), ("ANLI dev", [0.017, 0.017])] {
            let trials = each_seed(context, &seeds, |seed| {
                let splits = match name {
                    "ANLI dev" => PairSplits::anli(context, seed)?,
                    _ => PairSplits::hans(context, seed)?.0,
                };
                trial(context, &splits, seed)
            })?;
            let study = Study { name, trials };
            outcome.metrics.extend(study.judge(reported));
            outcome.plots.extend((0..POOLS.len()).map(|pool| study.plot(pool)));
            outcome.tables.push(study.table());
        }
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// Accuracies of one model along its correction.
struct Trial {
    /// Pools x choices x rounds (0 is before), on the examples held out.
    held_out: Vec<Vec<Vec<f64>>>,
    /// The same on the examples that anchors come from.
    anchors: Vec<Vec<Vec<f64>>>,
}

/// A model with all its examples.
struct Setting<'a> {
    context: &'a Context,
    model: &'a PairModel,
    splits: &'a PairSplits,
    train: Inputs<F64>,
    seed: u64,
}

fn trial(context: &Context, splits: &PairSplits, seed: u64) -> anyhow::Result<Trial> {
    let model = PairModel::train(context, (&splits.train, splits.classes), seed)?;
    let train = model.inputs(&splits.train)?;
    let setting = Setting { context, model: &model, splits, train, seed };
    let mut trial = Trial { held_out: Vec::new(), anchors: Vec::new() };
    for pool in [&splits.train, &splits.unseen] {
        let pool = model.inputs(pool)?;
        let corrections = CHOICES
            .iter()
            .map(|(choice, _)| setting.correct(&pool, *choice))
            .collect::<Result<Vec<_>, _>>()?;
        let (held_out, anchors) = corrections.into_iter().unzip();
        trial.held_out.push(held_out);
        trial.anchors.push(anchors);
    }
    Ok(trial)
}

impl Setting<'_> {
    /// Accuracies before the first and after every round, on the examples held out and on those of the anchors.
    fn correct(&self, pool: &Inputs<F64>, choice: Choice) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let risk = EmpiricalRisk::new(&self.model.network, pool, RiskSettings::mean(PAIRS_L2))?;
        let [held_out, anchors] =
            [&self.splits.held_out, &self.splits.anchors].map(|data| self.model.inputs(data));
        let (held_out, anchors) = (held_out?, anchors?);
        let mut theta = self.model.theta.clone();
        let mut accuracies = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let right = self.model.right(&self.splits.anchors, &anchors, &theta);
            accuracies.0.push(share(&self.model.right(&self.splits.held_out, &held_out, &theta)));
            accuracies.1.push(share(&right));
            if round < ROUNDS {
                let order = self.choose(choice, &risk, &theta, (round as u64, &right))?;
                theta = CORRECTION.step(&risk, &theta, &order)?;
            }
        }
        Ok(accuracies)
    }

    /// The examples of the pool, those first that `round` takes a step on.
    fn choose(
        &self,
        choice: Choice,
        risk: &EmpiricalRisk<'_, F64>,
        theta: &Block<F64>,
        (round, right): (u64, &[bool]),
    ) -> anyhow::Result<Vec<usize>> {
        let seed = self.seed.wrapping_add(DRAWS).wrapping_add(round);
        let by_influence = |pull| {
            let wrong: Vec<bool> = right.iter().map(|right| !right).collect();
            let anchors = self.splits.anchors.select(&CORRECTION.anchors(&wrong, seed));
            self.by_influence(risk, theta, (&anchors, pull), seed)
        };
        Ok(match choice {
            Choice::Helpful => by_influence(Pull::Helpful)?,
            Choice::Harmful => by_influence(Pull::Harmful)?,
            Choice::Random => random_order(risk.n(), seed),
            Choice::Loss => descending(&self.model.network.example_losses(risk.inputs(), theta)),
            Choice::MeanLoss => descending(&self.model.mean_losses(risk.inputs())?),
            Choice::GradientNorm => descending(&self.model.network.gradient_norms(risk.inputs(), theta)),
        })
    }

    /// Neighbours of the anchors' mean features, the strongest of that pull first.
    fn by_influence(
        &self,
        risk: &EmpiricalRisk<'_, F64>,
        theta: &Block<F64>,
        (anchors, pull): (&Dataset, Pull),
        seed: u64,
    ) -> anyhow::Result<Vec<usize>> {
        let queries = self.model.inputs(anchors)?;
        let [pool, of_anchors] = [risk.inputs(), &queries].map(|inputs| self.model.features(inputs, theta));
        let candidates = nearest_to_mean(&pool?, &of_anchors?, CANDIDATES)?;
        // The curvature is that of training whatever the pool.
        let trained = EmpiricalRisk::new(&self.model.network, &self.train, risk.settings())?;
        let operator = trained.operator(theta, Curvature::GaussNewton, PAIRS_DAMPING, 1 << 30);
        let lissa =
            Lissa { tolerance: 0.1, depth: Some(DEPTH), repeats: 1, scale: None, batch: Some(BATCH), seed };
        let solver: Box<dyn Prepared<F64>> = lissa.prepare(&operator)?;
        let influence = Influence::new(risk, theta, &*solver);
        let (order, report) = influence.by_helpfulness(&queries, &candidates, pull, self.context)?;
        // A short run may end above its tolerance; it may not diverge.
        let fine = |end| [Termination::Converged, Termination::DepthReached].contains(&end);
        ensure!(report.columns.iter().all(|column| fine(column.termination)), "{}", report.summary());
        Ok(order)
    }
}

fn share(right: &[bool]) -> f64 {
    right.iter().filter(|right| **right).count() as f64 / right.len() as f64
}

struct Study {
    name: &'static str,
    trials: Vec<Trial>,
}

impl Study {
    /// Gain in accuracy of all rounds on the examples held out.
    fn gain(&self, pool: usize, choice: usize) -> OverSeeds {
        OverSeeds::over(&self.trials, |trial| gain(&trial.held_out[pool][choice]))
    }

    fn judge(&self, reported: [f64; 2]) -> Vec<Metric> {
        let name = self.name;
        let before = OverSeeds::over(&self.trials, |trial| trial.held_out[0][0][0]).mean;
        let mut metrics = vec![Metric::new(format!("{name}: accuracy before"), before)];
        for (p, pool) in POOLS.into_iter().enumerate() {
            let [helpful, random, harmful] = [0, 1, 2].map(|choice| self.gain(p, choice).mean);
            let prefix = format!("{name}, examples {pool}");
            metrics.extend([
                Metric::new(format!("{prefix}: gain by the most helpful"), helpful)
                    .reported(reported[p], "abstract; its own model and data"),
                Metric::new(format!("{prefix}: most helpful over random"), helpful - random)
                    .gate(Gate::Above(0.0)),
                Metric::new(format!("{prefix}: random over most harmful"), random - harmful)
                    .gate(Gate::Above(0.0)),
            ]);
            for (c, (_, choice)) in CHOICES.iter().enumerate().skip(3) {
                metrics.push(Metric::new(format!("{prefix}: gain by {choice}"), self.gain(p, c).mean));
            }
        }
        metrics
    }

    fn plot(&self, pool: usize) -> Figure {
        let drawn: Vec<_> = (0..CHOICES.len())
            .map(|c| {
                let at = |round| OverSeeds::over(&self.trials, |trial| trial.held_out[pool][c][round]);
                line((0..=ROUNDS).map(|round| (round as f64, at(round))))
            })
            .collect();
        let series: Vec<Series> = CHOICES
            .iter()
            .zip(&drawn)
            .map(|((_, name), (points, band))| Series { name, points, band })
            .collect();
        let title = format!("{}: steps on examples {}", self.name, POOLS[pool]);
        let chart = LineChart {
            title: &title,
            x_label: "rounds, ten examples each",
            y_label: "accuracy on the examples held out",
            series: &series,
            y_covers: None,
        };
        let slug = if self.name.starts_with("HANS") { "hans" } else { "anli" };
        Figure {
            name: format!("{slug}-{}", ["seen", "unseen"][pool]),
            caption: format!(
                "Mean over {} models; the bands go from the least to the most.",
                self.trials.len()
            ),
            svg: chart.svg(),
        }
    }

    fn table(&self) -> Table {
        let mut rows = Vec::new();
        for (p, pool) in POOLS.into_iter().enumerate() {
            for (c, (_, choice)) in CHOICES.iter().enumerate() {
                let percent = |found: OverSeeds| {
                    let [mean, least, most] = [found.mean, found.least, found.most].map(|gain| 100.0 * gain);
                    format!("{mean:+.2} ({least:+.2} to {most:+.2})")
                };
                let anchors = OverSeeds::over(&self.trials, |trial| gain(&trial.anchors[p][c]));
                rows.push(vec![format!("{choice}, {pool}"), percent(self.gain(p, c)), percent(anchors)]);
            }
        }
        Table {
            title: format!(
                "{}: points of accuracy gained in {ROUNDS} rounds; mean, least and most over models",
                self.name
            ),
            columns: ["steps on", "examples held out", "examples that anchors come from"]
                .map(String::from)
                .to_vec(),
            rows,
        }
    }
}

fn gain(accuracies: &[f64]) -> f64 {
    accuracies[accuracies.len() - 1] - accuracies[0]
}

fn describe(outcome: &mut Outcome) {
    outcome.setting(
        "HANS (regenerated)",
        "hans-regenerated; train and unseen: 180 pairs of each subcase that follows, 20 of each that does not; anchors 100, held out 200 of each",
    );
    outcome.setting("ANLI", "train cad-snli:train, unseen cad-snli:dev and test; anchors and held out: halves of anli-dev, all rounds");
    outcome.setting(
        "model",
        format!(
            "embedding bag of 4,096 hashed tokens x 16, dense 32, relu, dense; Adam, 12 epochs, l2 {PAIRS_L2}"
        ),
    );
    outcome.setting(
        "correction",
        format!(
            "{ROUNDS} rounds, {} errors and {} examples each, one step at rate {}",
            CORRECTION.anchors, CORRECTION.examples, CORRECTION.tuning.learning_rate
        ),
    );
    outcome.setting(
        "influence",
        format!("dense layers, Gauss-Newton, damping {PAIRS_DAMPING}; LiSSA of {DEPTH} steps of {BATCH}; {CANDIDATES} nearest neighbours"),
    );
    outcome.notes = vec![
        "HANS here is regenerated by its authors’ templates; its sentences are not the published ones, and no number compares with one of the paper.".into(),
        "The paper’s gains are those of BERT trained on MultiNLI; they are printed for orientation. What is judged is the order.".into(),
        "The rate of the steps was chosen on seeds 100 to 104. A first run on seeds 0 to 2 at a rate of 0.1 overshot: with unseen examples the most helpful gained .0011, the random ones .0020.".into(),
        "The model of ANLI does no better than guessing one of three classes, so that there is nothing to correct it towards: its order is noise, gated and shown all the same.".into(),
        "Loss, mean loss and gradient norm look at the pool alone: they do not see the errors that are to be corrected. On HANS highest loss and gradient norm still come near to the most helpful, and pass it on examples unseen: with so biased a training set most errors are of one kind, and so are the examples that are hard to fit. Of the baselines the gates are about random alone.".into(),
    ];
}
