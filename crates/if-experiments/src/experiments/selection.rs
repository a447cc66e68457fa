//! 3s: Basu, You & Feizi 2020, section 5: which group of a size changes a prediction most when it is removed?
//!
//! Deviations:
//! 1. MNIST 4 against 9, 1,000 training images; the test images of highest loss.
//! 2. The size is a constraint of the relaxed programme, not a penalty.

use if_linalg::Solver;
use if_methods::{Agreement, GroupDraw, GroupInfluence, Selected, Selection, descending};
use if_models::{Curvature, Removal, RiskSettings};
use if_plot::{LineChart, Series};

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{FACTORED, OverSeeds, Problem, fit, line, loss_change, retrained};
use crate::{Context, Experiment, Figure, Outcome};

const N: usize = 1000;
const L2: f64 = 0.01;
const GRADIENT: f64 = 1e-10;
/// Sizes in per cent of the training examples.
const SIZES: [usize; 4] = [1, 5, 10, 20];
const QUERIES: usize = 5;
/// Random groups of each size.
const RANDOM: usize = 5;
const METHODS: [&str; 3] = ["second order", "greedy first order", "random"];

/// `3s`.
pub struct GroupSelection;

impl Experiment for GroupSelection {
    fn id(&self) -> &str {
        "3s"
    }
    fn paper(&self) -> &str {
        "Basu, You & Feizi 2020"
    }
    fn title(&self) -> &str {
        "The most influential group of a size, logistic regression on MNIST"
    }
    fn claim(&self) -> &str {
        "A group chosen with what its examples do to each other raises a test loss, when it is really removed, at least as much as the examples of largest influence do, and those much more than chance."
    }
    fn needs(&self) -> &[&str] {
        &["mnist"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome { seeds: context.seeds(3), ..Outcome::default() };
        let trials: Vec<Trial> =
            outcome.seeds.iter().map(|&seed| Trial::new(context, seed)).collect::<anyhow::Result<_>>()?;
        outcome.metrics = judge(&trials);
        outcome.tables = vec![effects(&trials), choices(&trials)];
        outcome.plots = vec![chart(&trials)];
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// What one query and size give.
struct Choice {
    size: usize,
    selected: Selected,
    /// Change of the query's loss without the group that each of [`METHODS`] chooses, by retraining.
    actual: [f64; 3],
}

/// The choices of one seed.
struct Trial(Vec<Choice>);

impl Trial {
    fn new(context: &Context, seed: u64) -> anyhow::Result<Self> {
        let problem = Problem::four_or_nine(context, N, seed)?;
        let settings = RiskSettings { removal: Removal::Renormalised, ..RiskSettings::mean(L2) };
        let risk = problem.risk(settings)?;
        let theta = fit(&risk, None, GRADIENT)?.theta;
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = FACTORED.prepare(&operator)?;
        let influence = GroupInfluence::new(&operator, &*solver);
        let losses = problem.network.example_losses(&problem.test, &theta);
        let points = &descending(&losses)[..QUERIES];
        let queries = problem.queries(points)?;
        let change = loss_change(&problem.network, &queries, &theta);
        let mut draw = GroupDraw::new(seed);
        let mut choices = Vec::new();
        for percent in SIZES {
            let size = N * percent / 100;
            let select = |&point: &usize| {
                influence
                    .select(&problem.queries(&[point])?, Selection::of(size), context)
                    .map_err(Into::into)
            };
            let selected: Vec<Selected> = points.iter().map(select).collect::<anyhow::Result<_>>()?;
            let mut groups: Vec<Vec<usize>> = (0..RANDOM).map(|_| draw.random(N, size)).collect();
            groups.extend(selected.iter().flat_map(|found| [found.group.clone(), found.greedy.clone()]));
            let changes = retrained(context, &risk, (&theta, &*solver), (&groups, GRADIENT), &change)?;
            for (q, selected) in selected.into_iter().enumerate() {
                let random = OverSeeds::over(&changes[..RANDOM], |change| change[q]).mean;
                let own = RANDOM + 2 * q;
                let actual = [changes[own][q], changes[own + 1][q], random];
                choices.push(Choice { size: percent, selected, actual });
            }
        }
        Ok(Self(choices))
    }

    fn of(&self, size: usize) -> Vec<&Choice> {
        self.0.iter().filter(|choice| choice.size == size).collect()
    }

    /// Mean over the queries.
    fn actual(&self, size: usize, method: usize) -> f64 {
        OverSeeds::over(&self.of(size), |choice| choice.actual[method]).mean
    }
}

fn actual(trials: &[Trial], size: usize, method: usize) -> OverSeeds {
    OverSeeds::over(trials, |trial| trial.actual(size, method))
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for size in SIZES {
        let [second, greedy, random] = [0, 1, 2].map(|m| actual(trials, size, m).mean);
        let name = |what: &str| format!("{size} %: mean actual effect, {what}");
        metrics.extend([
            Metric::new(name("second order"), second),
            Metric::new(name("second order less greedy"), second - greedy).gate(Gate::AtLeast(0.0)),
            Metric::new(name("greedy less random"), greedy - random).gate(Gate::AtLeast(0.0)),
        ]);
    }
    metrics
}

fn effects(trials: &[Trial]) -> Table {
    let row = |size: usize| {
        let cell = |m: usize| actual(trials, size, m).cell();
        std::iter::once(format!("{size} %")).chain((0..METHODS.len()).map(cell)).collect()
    };
    Table {
        title: format!(
            "Actual rise of the loss, by retraining: mean over {QUERIES} test points, then mean (least to most) over seeds"
        ),
        columns: std::iter::once("size").chain(METHODS).map(String::from).collect(),
        rows: SIZES.into_iter().map(row).collect(),
    }
}

/// How the two choices differ, and what was predicted of them.
fn choices(trials: &[Trial]) -> Table {
    let row = |size: usize| {
        let all: Vec<&Choice> = trials.iter().flat_map(|trial| trial.of(size)).collect();
        let shared = |choice: &&Choice| {
            let Selected { group, greedy, .. } = &choice.selected;
            greedy.iter().filter(|i| group.binary_search(i).is_ok()).count() as f64 / greedy.len() as f64
        };
        let wins = all.iter().filter(|choice| choice.actual[0] >= choice.actual[1]).count();
        let of = |m: usize| -> Agreement {
            let predicted = |choice: &&Choice| [choice.selected.effect, choice.selected.greedy_effect][m];
            let predicted: Vec<f64> = all.iter().map(predicted).collect();
            Agreement::new(&predicted, &all.iter().map(|choice| choice.actual[m]).collect::<Vec<_>>())
        };
        let (own, greedy) = (of(0), of(1));
        let cells = [
            OverSeeds::over(&all, shared).cell(),
            format!("{wins} of {}", all.len()),
            format!("{} / {} / {}", short(own.pearson), short(own.slope), short(own.relative_error)),
            format!("{} / {} / {}", short(greedy.pearson), short(greedy.slope), short(greedy.relative_error)),
        ];
        std::iter::once(format!("{size} %")).chain(cells).collect()
    };
    let columns = [
        "size",
        "share of the greedy group in the chosen one",
        "chosen at least as good as greedy",
        "chosen: R / slope / relative error of the second order",
        "greedy: the same",
    ];
    Table {
        title: "The two choices, all queries and seeds together".into(),
        columns: columns.map(String::from).to_vec(),
        rows: SIZES.into_iter().map(row).collect(),
    }
}

fn chart(trials: &[Trial]) -> Figure {
    let of_method = |m: usize| line(SIZES.into_iter().map(|size| (size as f64, actual(trials, size, m))));
    let lines = [0, 1, 2].map(of_method);
    let series: Vec<_> =
        METHODS.iter().zip(&lines).map(|(name, (points, band))| Series { name, points, band }).collect();
    let svg = LineChart {
        title: "Rise of a test loss without a chosen group",
        x_label: "size of the group in per cent of the training examples",
        y_label: "actual rise of the loss, by retraining",
        series: &series,
        y_covers: None,
    }
    .svg();
    let caption = format!(
        "Mean over the {QUERIES} test points of highest loss and the seeds; bands from the least seed to the most."
    );
    Figure { name: "selection".into(), caption, svg }
}

fn describe(outcome: &mut Outcome) {
    outcome.setting("train", format!("MNIST 4 against 9, {N} images by the seed"));
    outcome.setting("model", "logistic regression without bias");
    outcome.setting("l2", L2);
    outcome.setting("removal", "renormalised");
    outcome.setting("queries", format!("the {QUERIES} test images of highest loss"));
    outcome.setting("random", format!("mean of {RANDOM} groups"));
    outcome.setting("retraining", format!("to a gradient of norm {GRADIENT:e}"));
    outcome.notes = vec![
        "The relaxed programme starts from the greedy group, and never returns one of smaller second-order effect.".into(),
        "The paper’s numbers were not at hand.".into(),
    ];
}
