//! `influence attribute --method tracin`: inner products of gradients, summed over checkpoints.

use std::path::Path;
use std::time::Instant;

use if_data::{AtomicFile, Element, NpyWriter};
use if_linalg::Real;
use if_methods::{Checkpoint, ScoreUnit, TracIn};
use serde_json::json;

use super::model_name;
use crate::args::{AttributeArgs, MeasureName, Precision};
use crate::console::Console;
use crate::error::Failure;
use crate::model::{Kind, Model};
use crate::output::{Report, document, finish_text, seconds};
use crate::session::{inputs, select};
use crate::source::Data;

/// Runs the command.
pub fn run(args: &AttributeArgs, certificates: &Path, console: &Console) -> Result<Report, Failure> {
    if args.checkpoint.is_empty() {
        return Err(Failure::input("--method tracin: expected at least one --checkpoint FILE:RATE"));
    }
    let kind = Kind::new(&args.model)?;
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let query = Data::load_like(&args.query, label, &train)?;
    let job = Job { args, kind: &kind, train: &train, query: &query, certificates };
    match args.precision.unwrap_or(kind.default_precision()) {
        Precision::F32 => job.run::<f32>(console),
        Precision::F64 => job.run::<f64>(console),
    }
}

struct Job<'a> {
    args: &'a AttributeArgs,
    kind: &'a Kind,
    train: &'a Data,
    query: &'a Data,
    certificates: &'a Path,
}

impl Job<'_> {
    fn run<T: Real + Element>(&self, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        let mut checkpoints: Vec<Checkpoint<_>> = Vec::new();
        for checkpoint in &self.args.checkpoint {
            let model = Model::read(self.kind, &checkpoint.weights, self.train)?;
            let (network, theta) = model.build::<T>()?;
            let (network, theta) = select(&network, theta, &self.args.solve.layers)?;
            if checkpoints.first().is_some_and(|first| first.theta.layout() != theta.layout()) {
                return Err(Failure::input(format!(
                    "{}: expected parameters of the shapes in {}, found others",
                    checkpoint.weights.display(),
                    self.args.checkpoint[0].weights.display()
                )));
            }
            checkpoints.push(Checkpoint { network, theta, learning_rate: checkpoint.learning_rate });
        }
        let network = &checkpoints[0].network;
        let budget = self.args.solve.memory_budget / 2;
        let train = inputs(self.kind, network, self.train, budget)?;
        let queries = inputs(self.kind, network, self.query, budget)?;
        let tracin = TracIn::new(&train, &checkpoints)?;
        let shape = [queries.len(), train.len()];
        let mut scores = NpyWriter::<T>::create(&self.args.scores, &shape)?;
        let file = AtomicFile::create(self.certificates)?;
        self.note_unused(console);
        tracin.attribute(&queries, console, |rows| scores.append(rows.scores).map_err(Failure::output))?;
        let mut unit = json!(ScoreUnit::TrainingLossReduction);
        unit["file"] = json!(self.args.scores.file_name().map(|name| name.to_string_lossy()));
        unit["dtype"] = json!(T::DESCR);
        unit["shape"] = json!(shape);
        unit["sign"] =
            json!("positive = proponent: steps on the training example lowered the loss of the query");
        unit["formula"] =
            json!("score = sum over checkpoints of rate * g_q^T g_i; loss gradients without l2, no 1/n");
        let json = json!({
            "method": self.args.method,
            "scores": unit,
            "model": model_name(&self.args.model.model),
            "checkpoints": self.args.checkpoint,
            "layers": self.args.solve.layers,
            "train": self.args.model.train.to_string(),
            "query": self.args.query.to_string(),
            "first_train_row": self.train.set.ids()[0],
            "queries": self.query.set.ids(),
        });
        finish_text(file, self.certificates, &format!("{:#}\n", document("attribute", json.clone())))?;
        scores.finish().map_err(Failure::output)?;
        let text = format!(
            "{}: {} queries x {} training examples, tracin over {} checkpoints, {}\n",
            self.args.scores.display(),
            shape[0],
            shape[1],
            checkpoints.len(),
            seconds(start.elapsed().as_secs_f64())
        );
        Ok(Report { text, json, flagged: false })
    }

    /// What was given and says nothing to TracIn.
    fn note_unused(&self, console: &Console) {
        let args = self.args;
        let foreign = [
            (args.weights.is_some(), "--weights"),
            (args.l2.is_some(), "--l2"),
            (args.solve.solver.is_some(), "--solver"),
            (args.solve.damping.is_some(), "--damping"),
            (args.solve.curvature.is_some(), "--curvature"),
            (args.query_rank.is_some(), "--query-rank"),
            (args.measure != MeasureName::Loss, "--measure"),
        ];
        let given: Vec<&str> = foreign.iter().filter(|(given, _)| *given).map(|(_, name)| *name).collect();
        if !given.is_empty() {
            console.note(&format!("{}: of no use to tracin", given.join(", ")));
        }
    }
}
