//! `influence audit`: wrong labels first, by self-influence, beside the baselines.

use std::path::Path;

use if_data::AtomicFile;
use if_linalg::{Backend, SolveReport};
use if_methods::{RecallCurve, descending, random_order};
use serde_json::{Value, json};

use super::model_name;
use crate::args::{AuditArgs, SolverName};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::flip::flip;
use crate::job::{Problem, Settings, risk_settings};
use crate::model::{Kind, Prediction};
use crate::output::{Csv, Report, Table, short};
use crate::session::{Optimality, Session, report_flags};
use crate::source::{Data, keep_inputs};

/// Shares of the examples that are checked, for the recall table.
const CHECKED: [f64; 4] = [0.05, 0.1, 0.2, 0.3];

/// Runs the command.
pub fn run(args: &AuditArgs, console: &Console) -> Result<Report, Failure> {
    let outputs: Vec<&Path> = args.output.as_deref().into_iter().collect();
    keep_inputs(&outputs, &[&args.model.train], args.weights.weights.as_deref().as_slice())?;
    let kind = Kind::new(&args.model)?;
    let device = Device::open(&args.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let mut train = Data::load(&args.model.train, args.model.label.as_deref())?;
    let flipped = args.flip.map(|fraction| flip(&mut train, fraction, args.seed)).transpose()?;
    let output = args.output.as_deref().map(AtomicFile::create).transpose()?;
    let risk = risk_settings(&args.objective, args.solve.removal)?;
    let problem = Problem::from_data(kind, train, &args.weights, risk, console)?;
    let solver = if problem.is_small()? { SolverName::Cholesky } else { SolverName::Cg };
    let settings = Settings::new(&args.objective, &args.solve, &device, solver)?;
    let job = Job { args, settings, problem: &problem, flipped };
    on_device!(device, |backend| job.run(backend, output, console))
}

struct Job<'a> {
    args: &'a AuditArgs,
    settings: Settings,
    problem: &'a Problem,
    flipped: Option<Vec<bool>>,
}

/// One way to suspect examples.
struct Criterion {
    name: &'static str,
    values: Vec<f64>,
    /// Positions of the examples, the most suspicious first.
    order: Vec<usize>,
    /// Rank from 1 of each example.
    ranks: Vec<usize>,
}

impl Criterion {
    fn new(name: &'static str, values: Vec<f64>) -> Self {
        let order = descending(&values);
        let mut ranks = vec![0; order.len()];
        order.iter().enumerate().for_each(|(rank, &example)| ranks[example] = rank + 1);
        Self { name, values, order, ranks }
    }
}

impl Job<'_> {
    fn run<B: Backend>(
        &self,
        backend: &B,
        output: Option<AtomicFile>,
        console: &Console,
    ) -> Result<Report, Failure> {
        let session = Session::open(backend, self.problem, &self.settings, self.problem.train.set.len())?;
        let predictions = session.predictions(&session.train);
        let ((own, report), optimality) =
            session.influence(console, |_, influence| Ok(influence.self_influence(console)?))?;
        let criteria = [
            Criterion::new("self-influence", own),
            Criterion::new("loss", session.network.example_losses(&session.train, &session.theta)),
            Criterion::new("gradient norm", session.network.gradient_norms(&session.train, &session.theta)),
        ];
        if let (Some(file), Some(path)) = (output, &self.args.output) {
            self.write(file, path, &criteria, &predictions)?;
        }
        let flagged = report_flags(&report, self.problem.train.set.ids(), "training examples", console);
        let mut json = self.json(&criteria, &predictions, &report, optimality);
        json["parameters"] = json!(session.coverage);
        let text = self.text(&criteria, &predictions);
        Ok(Report { text, json, flagged: flagged || self.problem.unfinished })
    }

    fn text(&self, criteria: &[Criterion; 3], predictions: &[Prediction]) -> String {
        let Data { source, set, .. } = &self.problem.train;
        let [own, loss, norm] = criteria;
        let mut headings = vec![
            "rank",
            "train",
            "<label",
            "<predicted",
            "self-influence",
            "loss",
            "rank by loss",
            "by gradient norm",
        ];
        headings.extend(self.flipped.as_ref().map(|_| "<"));
        let mut table = Table::new(&headings);
        for &i in own.order.iter().take(self.args.top) {
            let mut row = vec![
                own.ranks[i].to_string(),
                set.ids()[i].to_string(),
                self.problem.train.label_name(set.labels()[i]),
                self.problem.train.label_name(predictions[i].label),
                short(own.values[i]),
                short(loss.values[i]),
                loss.ranks[i].to_string(),
                norm.ranks[i].to_string(),
            ];
            row.extend(
                self.flipped.as_ref().map(|flipped| if flipped[i] { "flipped" } else { "" }.to_owned()),
            );
            table.row(row);
        }
        let mut text = format!(
            "{source}: {} examples by self-influence, the most suspicious first\n{}",
            set.len(),
            table.render()
        );
        if let Some(flipped) = &self.flipped {
            text += &self.recall_text(criteria, flipped);
        }
        if let Some(path) = &self.args.output {
            text += &format!("\nall {} examples: {}\n", set.len(), path.display());
        }
        text
    }

    /// Share of the flipped labels that each criterion finds.
    fn recall(&self, criteria: &[Criterion; 3], flipped: &[bool]) -> Vec<(&'static str, [f64; 4])> {
        let random = random_order(flipped.len(), self.args.seed.wrapping_add(1));
        let named = criteria.iter().map(|criterion| (criterion.name, &criterion.order));
        let at = |order: &[usize]| {
            let curve = RecallCurve::new(order, flipped);
            CHECKED.map(|checked| curve.recall(checked))
        };
        named.chain([("random", &random)]).map(|(name, order)| (name, at(order))).collect()
    }

    fn recall_text(&self, criteria: &[Criterion; 3], flipped: &[bool]) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let checked = CHECKED.map(percent);
        let mut table = Table::new(&["<checked", &checked[0], &checked[1], &checked[2], &checked[3]]);
        for (name, recall) in self.recall(criteria, flipped) {
            table.row(std::iter::once(name.to_owned()).chain(recall.map(percent)));
        }
        let count = flipped.iter().filter(|flipped| **flipped).count();
        format!(
            "\n{count} of {} labels were flipped (seed {}); share of them among the examples checked first\n{}",
            flipped.len(),
            self.args.seed,
            table.render()
        )
    }

    fn json(
        &self,
        criteria: &[Criterion; 3],
        predictions: &[Prediction],
        report: &SolveReport,
        optimality: Optimality,
    ) -> Value {
        let set = &self.problem.train.set;
        let [own, loss, norm] = criteria;
        let entry = |&i: &usize| {
            json!({
                "train": set.ids()[i],
                "label": set.labels()[i],
                "predicted": predictions[i].label,
                "self_influence": own.values[i],
                "loss": loss.values[i],
                "gradient_norm": norm.values[i],
                "rank": own.ranks[i],
                "rank_by_loss": loss.ranks[i],
                "rank_by_gradient_norm": norm.ranks[i],
                "flipped": self.flipped.as_ref().map(|flipped| flipped[i]),
            })
        };
        let recall = |flipped: &Vec<bool>| {
            let each = self.recall(criteria, flipped).into_iter();
            each.map(|(name, recall)| json!({ "criterion": name, "checked": CHECKED, "found": recall }))
                .collect::<Vec<_>>()
        };
        json!({
            "settings": self.problem.record(&model_name(&self.args.model.model), &self.settings, None),
            "optimality": optimality,
            "converged": report.all_converged(),
            "summary": report.summary(),
            "examples": own.order.iter().take(self.args.top).map(entry).collect::<Vec<_>>(),
            "recall": self.flipped.as_ref().map(recall),
            "output": self.args.output,
        })
    }

    /// Every example in the order of the file.
    fn write(
        &self,
        file: AtomicFile,
        path: &Path,
        criteria: &[Criterion; 3],
        predictions: &[Prediction],
    ) -> Result<(), Failure> {
        let set = &self.problem.train.set;
        let [own, loss, norm] = criteria;
        let mut table = Csv::new(file, path);
        let mut heading = vec!["train", "label", "predicted", "self_influence", "loss", "gradient_norm"];
        heading.extend(["rank_self_influence", "rank_loss", "rank_gradient_norm"]);
        heading.extend(self.flipped.as_ref().map(|_| "flipped"));
        table.row(&heading)?;
        for i in 0..set.len() {
            let mut row =
                vec![set.ids()[i].to_string(), set.labels()[i].to_string(), predictions[i].label.to_string()];
            row.extend(criteria.iter().map(|criterion| criterion.values[i].to_string()));
            row.extend([own, loss, norm].map(|criterion| criterion.ranks[i].to_string()));
            row.extend(self.flipped.as_ref().map(|flipped| u8::from(flipped[i]).to_string()));
            table.row(&row)?;
        }
        table.finish()
    }
}
