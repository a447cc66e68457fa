//! 2c: Koh, Ang, Teo & Liang 2019, section on credit: what the examples of each source are worth, to the mean loss of
//! the test set and to the test examples of the same source.
//!
//! Deviations:
//! 1. The paper's sources are the crowd workers of MultiNLI; here they are the medical specialties of stays in hospital,
//!    which is no feature of the model.
//! 2. Test losses are those of 10,000 of the stays that are not trained on, by the seed.

use if_linalg::{Loss, Solver};
use if_methods::{Agreement, GroupInfluence, Order};
use if_models::{Curvature, Family, Removal, RiskSettings};

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{
    FACTORED, Hospital, OverSeeds, Problem, agreement_cells, fit, group_effects, loss_change, pairs_plot,
    ranking_cells, retrained,
};
use crate::{Context, Experiment, Figure, Outcome};

/// For each training example.
const L2: f64 = 1e-4;
const GRADIENT: f64 = 1e-9;
/// Training examples that a source must have.
const FEWEST: usize = 20;
const TEST: usize = 10_000;
const UNKNOWN: &str = "?";
/// The influences, so many of them, and what costs no Hessian.
const INFLUENCES: usize = 2;
const METHODS: [&str; 4] = ["first order", "Newton", "gradient dot product", "number of examples"];
const MEASURES: [&str; 2] = ["mean test loss", "loss of the source’s own test examples"];

/// `2c`.
pub struct Credit;

impl Experiment for Credit {
    fn id(&self) -> &str {
        "2c"
    }
    fn paper(&self) -> &str {
        "Koh, Ang, Teo & Liang 2019"
    }
    fn title(&self) -> &str {
        "Credit by source: medical specialties, logistic regression on hospital stays"
    }
    fn claim(&self) -> &str {
        "Influence says what the examples of each source are worth, for all of the test set and for those of the same source, as retraining without them does; the number of examples does not."
    }
    fn needs(&self) -> &[&str] {
        &["diabetes130-hospital"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let hospital = Hospital::load(context)?;
        let mut outcome = Outcome { seeds: context.seeds(3), ..Outcome::default() };
        let trial = |&seed: &u64| Trial::new(context, &hospital, seed);
        let trials: Vec<Trial> = outcome.seeds.iter().map(trial).collect::<anyhow::Result<_>>()?;
        outcome.metrics = judge(&trials);
        outcome.tables = vec![methods(&trials, 0), methods(&trials, 1), sources(&trials[0])];
        outcome.plots = [0, 1].map(|measure| plot(&trials[0], measure)).into();
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// A source, and the effects of its removal: for each of [`MEASURES`] by each of [`METHODS`], and by retraining.
struct Source {
    name: String,
    examples: usize,
    predicted: [[f64; 4]; 2],
    actual: [f64; 2],
}

/// The sources of one seed.
struct Trial(Vec<Source>);

impl Trial {
    fn new(context: &Context, hospital: &Hospital, seed: u64) -> anyhow::Result<Self> {
        let (train, mut test) = hospital.split(seed, &[]);
        test.truncate(TEST);
        let of_source = |rows: &[usize], source: usize| -> Vec<usize> {
            (0..rows.len()).filter(|&i| hospital.specialty[rows[i]] == source).collect()
        };
        let known = (0..hospital.specialties.len()).filter(|&source| hospital.specialties[source] != UNKNOWN);
        let sources: Vec<(usize, Vec<usize>, Vec<usize>)> = known
            .map(|source| (source, of_source(&train, source), of_source(&test, source)))
            .filter(|(_, group, own)| group.len() >= FEWEST && !own.is_empty())
            .collect();
        let groups: Vec<Vec<usize>> = sources.iter().map(|(_, group, _)| group.clone()).collect();

        let (train, test) = (hospital.data.select(&train), hospital.data.select(&test));
        let l2 = L2 * train.len() as f64;
        let problem = Problem::linear(train, test, (1, true, Loss::Logistic))?;
        let (family, removal) = (Family::Sum, Removal::Fixed);
        let risk = problem.risk(RiskSettings { family, removal, l2, regularise_bias: false })?;
        let theta = fit(&risk, None, GRADIENT)?.theta;
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = FACTORED.prepare(&operator)?;
        let influence = GroupInfluence::new(&operator, &*solver);
        let effects = |order| group_effects(context, &influence, (&groups, &problem.test), (order, false));
        let [first, newton] = [effects(Order::First)?, effects(Order::Newton)?];
        let members: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
        let gradients = risk.removal_gradients(&theta, &members);
        let dots = problem.network.scores(&problem.test, &theta, &gradients);
        let change = loss_change(&problem.network, &problem.test, &theta);
        let actual = retrained(context, &risk, (&theta, &*solver), (&groups, GRADIENT), change)?;

        let everyone: Vec<usize> = (0..problem.test.len()).collect();
        let source = |(g, (source, group, own)): (usize, &(usize, Vec<usize>, Vec<usize>))| {
            let measured = |changes: &[f64]| {
                [&everyone, own].map(|rows| OverSeeds::over(rows, |&row| changes[row]).mean)
            };
            let by_method = [
                measured(&first[g]),
                measured(&newton[g]),
                measured(&dots[g * TEST..(g + 1) * TEST]),
                [group.len() as f64; 2],
            ];
            Source {
                name: hospital.specialties[*source].clone(),
                examples: group.len(),
                predicted: [0, 1].map(|measure| by_method.map(|found| found[measure])),
                actual: measured(&actual[g]),
            }
        };
        Ok(Self(sources.iter().enumerate().map(source).collect()))
    }

    fn pairs(&self, measure: usize, method: usize) -> (Vec<f64>, Vec<f64>) {
        self.0.iter().map(|source| (source.predicted[measure][method], source.actual[measure])).unzip()
    }

    fn agreement(&self, measure: usize, method: usize) -> Agreement {
        let (predicted, actual) = self.pairs(measure, method);
        Agreement::new(&predicted, &actual)
    }
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for (measure, what) in MEASURES.iter().enumerate() {
        for (m, method) in METHODS.iter().enumerate() {
            let rank = OverSeeds::over(trials, |trial| trial.agreement(measure, m).spearman);
            let metric = Metric::new(format!("{what}, {method}: Spearman, mean over seeds"), rank.mean);
            metrics.push(if m < INFLUENCES { metric.gate(Gate::AtLeast(0.9)) } else { metric });
            if m < INFLUENCES {
                metrics.push(Metric::new(format!("{what}, {method}: Spearman, lowest seed"), rank.least));
            }
        }
    }
    metrics
}

fn methods(trials: &[Trial], measure: usize) -> Table {
    let row = |m: usize| {
        let found: Vec<Agreement> = trials.iter().map(|trial| trial.agreement(measure, m)).collect();
        let cells = if m < INFLUENCES { agreement_cells(&found) } else { ranking_cells(&found) };
        std::iter::once(METHODS[m].to_owned()).chain(cells).collect()
    };
    Table {
        title: format!("Effects of sources on the {}, mean (least to most) over seeds", MEASURES[measure]),
        columns: ["method", "R", "Spearman", "slope", "relative error"].map(String::from).to_vec(),
        rows: (0..METHODS.len()).map(row).collect(),
    }
}

/// Largest first.
fn sources(trial: &Trial) -> Table {
    let mut sorted: Vec<&Source> = trial.0.iter().collect();
    sorted.sort_by_key(|source| std::cmp::Reverse(source.examples));
    let row = |source: &&Source| {
        let cells = [0, 1].map(|measure| {
            let [first, newton, ..] = source.predicted[measure];
            [first, newton, source.actual[measure]].map(short)
        });
        let head = [source.name.clone(), source.examples.to_string()];
        head.into_iter().chain(cells.concat()).collect()
    };
    let columns = [
        "specialty",
        "examples",
        "all: first order",
        "all: Newton",
        "all: retrained",
        "own: first order",
        "own: Newton",
        "own: retrained",
    ];
    Table {
        title: "Change of the mean loss of all test examples, and of the source’s own, without each source: first seed"
            .into(),
        columns: columns.map(String::from).to_vec(),
        rows: sorted.iter().map(row).collect(),
    }
}

fn plot(trial: &Trial, measure: usize) -> Figure {
    let (predicted, actual) = trial.pairs(measure, 0);
    let title = format!("Change of the {} without each source", MEASURES[measure]);
    let caption =
        "By first order; one point for each specialty, first seed. Above 0 the source is missed.".into();
    let name = ["mean", "own"][measure];
    pairs_plot(name, (&title, caption), (&predicted, &actual))
}

fn describe(outcome: &mut Outcome) {
    outcome.setting("train", "diabetes130-hospital, 10,000 stays of each label by the seed");
    outcome.setting("queries", format!("{TEST} of the other stays by the seed"));
    outcome.setting("model", "logistic regression on 127 features as they are, bias not regularised");
    outcome.setting("l2/n", L2);
    outcome.setting("sources", format!("known medical specialties with at least {FEWEST} training examples"));
    outcome.setting("removal", "fixed: l2 stays, nothing is rescaled");
    outcome.setting("retraining", format!("to a gradient of norm {GRADIENT:e} (of the mean loss)"));
    outcome.notes = vec![
        "Half of the stays have no known specialty; they are trained on, and are no source.".into(),
        "The mean test loss changes little on the removal of a source of some dozens of examples, of either sign: the ranks of small sources are the hard part.".into(),
        "Training examples are half readmitted, test examples one in sixty: as in the authors’ code the training set is balanced and the rest is not.".into(),
    ];
}
