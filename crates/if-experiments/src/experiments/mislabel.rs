//! 1f: Koh & Liang 2017, section 5.4 and figure 6: flipped labels of a spam filter, found by checking
//! training examples in an order.
//!
//! Deviations:
//! 1. Three seeds by default, forty (the paper's number) with `--full`.
//! 2. Our fixed random split of the same 5,172 e-mails: 4,137 to train, 1,035 to test.
//! 3. Test accuracy after the fixes at 30 % only.
//! 4. The norm of the gradient as a further baseline: it needs no Hessian.

use anyhow::ensure;
use if_linalg::{Block, Loss};
use if_methods::{RecallCurve, descending, random_order};
use if_models::{EmpiricalRisk, Gram, GramNewton, Inputs, RiskSettings};

use crate::result::{Gate, Metric};
use crate::support::{F64, Problem, Recalls, each_seed, load, predict};
use crate::{Context, Experiment, Outcome};

const L2: f64 = 1e-4;
/// One label in ten is flipped.
const FLIPPED: usize = 10;
/// Fraction of the training examples checked before retraining.
const CHECKED: f64 = 0.3;
/// Norm of the gradient at which a model is ranked.
const RANKED: f64 = 1e-6;
/// The same for models of which only the test accuracy is asked.
const JUDGED: f64 = 1e-4;
const NOTEBOOK: &str = "authors’ plot";
/// Sets the random ranking apart from the flips of the same seed.
const RANKING: u64 = 1 << 32;

/// The rankings, with the fractions found at 10 % and 30 % checked and the accuracy after 30 % that
/// the authors' plot shows.
const METHODS: [(&str, Option<[f64; 3]>); 4] = [
    ("self-influence", Some([0.62, 0.86, 0.972])),
    ("gradient norm", None),
    ("loss", Some([0.52, 0.80, 0.960])),
    ("random", Some([0.10, 0.30, 0.916])),
];

/// `1f`.
pub struct Mislabel;

impl Experiment for Mislabel {
    fn id(&self) -> &str {
        "1f"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Flipped labels of a spam filter found by self-influence, Enron1"
    }
    fn claim(&self) -> &str {
        "Checking the training examples in the order of their self-influence finds flipped labels sooner than checking those of high loss, and much sooner than chance; the norm of the gradient, without a Hessian, does at least as well."
    }
    fn needs(&self) -> &[&str] {
        &["enron1-spam"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let (train, test) = (load(context, "enron1-spam:train")?, load(context, "enron1-spam:test")?);
        let problem = Problem::linear(train, test, (1, false, Loss::Logistic))?;
        let study = Study { gram: Gram::new(&problem.network, &problem.train)?, problem };
        let clean = study.trained(study.problem.train_data.labels(), &mut Vec::new(), JUDGED)?;
        let clean = study.accuracy(&clean.theta);
        let seeds = context.seeds(if context.full { 40 } else { 3 });
        let trials = each_seed(context, &seeds, |seed| study.trial(seed))?;
        let curves: Vec<Vec<&RecallCurve>> =
            trials.iter().map(|trial| trial.methods.iter().map(|(curve, _)| curve).collect()).collect();
        let names = METHODS.map(|(name, _)| name);
        let recalls = Recalls { methods: &names, trials: &curves };
        let mut outcome = Outcome { metrics: judge(&trials, &recalls, clean), seeds, ..Outcome::default() };
        let title = "Flipped labels found by checking in an order";
        outcome.plots.push(recalls.figure("recall", title, "fraction of the flipped labels fixed"));
        let title = "Fraction of the flipped labels fixed: mean and standard deviation over seeds";
        outcome.tables.push(recalls.table(title, &[0.05, 0.1, 0.2, CHECKED, 0.5]));
        describe(&mut outcome, &study.problem);
        Ok(outcome)
    }
}

/// The clean problem; flips change its labels only.
struct Study {
    problem: Problem,
    gram: Gram,
}

/// What one seed gives.
struct Trial {
    /// Test accuracy with the flipped labels.
    flipped: f64,
    /// For each method how the flips are found, and the test accuracy after the fixes.
    methods: Vec<(RecallCurve, f64)>,
}

/// A model trained on some labels, and the data with them.
struct Trained {
    inputs: Inputs<F64>,
    theta: Block<F64>,
}

impl Study {
    /// Trains from the coefficients `start`, which it replaces, to a gradient of norm `tolerance`.
    fn trained(&self, labels: &[f64], start: &mut Vec<f64>, tolerance: f64) -> anyhow::Result<Trained> {
        let data = self.problem.train_data.clone().with_labels(labels.to_vec());
        let inputs = Inputs::new(&self.problem.network, &data, usize::MAX)?;
        let risk = EmpiricalRisk::new(&self.problem.network, &inputs, RiskSettings::mean(L2))?;
        let trainer = GramNewton { gradient_tolerance: tolerance, ..GramNewton::default() };
        let fit = trainer.minimise(&risk, &self.gram, start, &())?;
        let reached = fit.report.optimality;
        ensure!(fit.report.converged(), "training stopped at a gradient of norm {reached:.1e}");
        Ok(Trained { theta: fit.theta, inputs })
    }

    fn accuracy(&self, theta: &Block<F64>) -> f64 {
        let predicted = predict(&self.problem.network, &self.problem.test, theta);
        let right = predicted.iter().zip(self.problem.test_data.labels()).filter(|(a, b)| a == b).count();
        right as f64 / predicted.len() as f64
    }

    /// Flips, ranks, checks and retrains.
    fn trial(&self, seed: u64) -> anyhow::Result<Trial> {
        let true_labels = self.problem.train_data.labels();
        let n = true_labels.len();
        let (mut labels, mut wrong) = (true_labels.to_vec(), vec![false; n]);
        for &i in &random_order(n, seed)[..n / FLIPPED] {
            (labels[i], wrong[i]) = (1.0 - labels[i], true);
        }
        // Not from the clean model: flips are errors that it makes with great confidence, and far away.
        let mut start = Vec::new();
        let trained = self.trained(&labels, &mut start, RANKED)?;
        let mut methods = Vec::new();
        for order in self.rankings(&trained, seed)? {
            let mut fixed = labels.clone();
            let checked = (CHECKED * n as f64).round() as usize;
            order[..checked].iter().for_each(|&i| fixed[i] = true_labels[i]);
            let after = self.trained(&fixed, &mut start.clone(), JUDGED)?;
            methods.push((RecallCurve::new(&order, &wrong), self.accuracy(&after.theta)));
        }
        Ok(Trial { flipped: self.accuracy(&trained.theta), methods })
    }

    /// One order for each of [`METHODS`].
    fn rankings(&self, trained: &Trained, seed: u64) -> anyhow::Result<[Vec<usize>; 4]> {
        let (network, Trained { inputs, theta }) = (&self.problem.network, trained);
        let risk = EmpiricalRisk::new(network, inputs, RiskSettings::mean(L2))?;
        let outputs = network.example_outputs(inputs, theta);
        let forms = self.gram.inverse_forms(&risk, theta)?;
        let first = |(z, y): (&f64, f64)| network.loss().scalar(*z, y)[1];
        let firsts = outputs.iter().zip(inputs.targets()).map(first);
        let own: Vec<f64> = firsts.zip(forms).map(|(first, form)| first * first * form).collect();
        Ok([
            descending(&own),
            descending(&network.gradient_norms(inputs, theta)),
            descending(&network.example_losses(inputs, theta)),
            random_order(inputs.len(), seed.wrapping_add(RANKING)),
        ])
    }
}

/// Mean over trials.
fn mean(trials: &[Trial], value: impl Fn(&Trial) -> f64) -> f64 {
    trials.iter().map(value).sum::<f64>() / trials.len() as f64
}

fn judge(trials: &[Trial], recalls: &Recalls, clean: f64) -> Vec<Metric> {
    let found = |m: usize, checked: f64| recalls.mean(m, checked);
    let mut metrics = Vec::new();
    for (m, (name, reported)) in METHODS.into_iter().enumerate() {
        for (column, checked) in [0.1, CHECKED].into_iter().enumerate() {
            let percent = (100.0 * checked) as usize;
            let mut metric = Metric::new(format!("{name}: fixed at {percent} %"), found(m, checked));
            if let Some(reported) = reported {
                metric = metric.reported(reported[column], NOTEBOOK);
            }
            // The table of targets: within .06 of the paper at 10 %, for the two rankings it compares.
            if let (0, Some([at_ten, ..]), "self-influence" | "loss") = (column, reported, name) {
                let hundredth = |x: f64| (100.0 * x).round() / 100.0;
                metric = metric.gate(Gate::Between(hundredth(at_ten - 0.06), hundredth(at_ten + 0.06)));
            }
            metrics.push(metric);
        }
    }
    let [influence, _, loss, random] = [0, 1, 2, 3].map(|m| found(m, 0.1));
    metrics.push(
        Metric::new("fixed at 10 %: self-influence over loss", influence - loss).gate(Gate::Above(0.0)),
    );
    metrics.push(Metric::new("fixed at 10 %: loss over random", loss - random).gate(Gate::Above(0.0)));
    metrics.push(Metric::new("accuracy, clean labels", clean).reported(0.976, NOTEBOOK));
    metrics
        .push(Metric::new("accuracy, flipped labels", mean(trials, |t| t.flipped)).reported(0.888, NOTEBOOK));
    for (m, (name, reported)) in METHODS.into_iter().enumerate() {
        let accuracy = mean(trials, |trial| trial.methods[m].1);
        let metric = Metric::new(format!("accuracy, 30 % checked by {name}"), accuracy);
        metrics.push(match reported {
            Some([_, _, reported]) => metric.reported(reported, NOTEBOOK),
            None => metric,
        });
    }
    metrics
}

fn describe(outcome: &mut Outcome, problem: &Problem) {
    outcome.setting("train", format!("enron1-spam:train, n = {}", problem.train.len()));
    outcome.setting(
        "model",
        format!(
            "logistic regression on counts of words, without bias, p = {}",
            problem.network.layout().dim()
        ),
    );
    outcome.setting("l2", L2);
    outcome.setting("flipped labels", problem.train.len() / FLIPPED);
    outcome.setting(
        "training",
        "Newton through the Gram matrix; gradient norm 1e-6 before ranking, 1e-4 after fixing",
    );
    outcome.setting("self-influence", "exact, through the Gram matrix");
    outcome.notes = vec![
        "The paper’s numbers are means over 40 seeds (--full takes as many); they are read from the plot in the authors’ notebook, so their last digit is not sure.".into(),
        "The e-mails are the paper’s; the split into 4,137 to train and 1,035 to test is a random one of our own.".into(),
        "The norm of the gradient is not in the paper. It needs no Hessian, and on this data it finds more flips than self-influence does: a strong baseline.".into(),
    ];
}
