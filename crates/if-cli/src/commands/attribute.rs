//! `influence attribute`: the score matrix to a file, with a certificate for every query.

use std::path::{Path, PathBuf};
use std::time::Instant;

use if_data::{AtomicFile, Element, NpyWriter};
use if_linalg::{Backend, SolveReport};
use if_methods::{ScoreUnit, Truncation};
use serde_json::{Value, json};

use super::{certificates_beside, model_name, trace};
use crate::args::{AttributeArgs, MethodName, ObjectiveArgs, Precision, SolverName, WeightsArgs};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, document, seconds};
use crate::session::{Session, report_flags};
use crate::source::{Data, keep_inputs};

/// Runs the command.
pub fn run(args: &AttributeArgs, console: &Console) -> Result<Report, Failure> {
    let certificates = certificates_beside(&args.scores, "--scores", "npy")?;
    let files: Vec<&Path> =
        args.weights.iter().chain(args.checkpoint.iter().map(|c| &c.weights)).map(|path| &**path).collect();
    let beside =
        args.sketch.as_deref().map(|sketch| certificates_beside(sketch, "--sketch", "npy")).transpose()?;
    let mut outputs: Vec<&Path> = vec![&args.scores, &certificates];
    outputs.extend(args.sketch.as_deref().into_iter().chain(beside.as_deref()));
    keep_inputs(&outputs, &[&args.model.train, &args.query], &files)?;
    if args.method != MethodName::Influence {
        return trace::run(args, &certificates, console);
    }
    if !args.checkpoint.is_empty() || args.training_run.is_some() || args.projection.is_some() {
        return Err(Failure::input(
            "--checkpoint, --training-run and --projection belong to --method tracin, trak and tracin-ideal",
        ));
    }
    let (weights, objective) = given(args)?;
    let kind = Kind::new(&args.model)?;
    let device = Device::open(args.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let settings = Settings::new(&objective, &args.solve, &device, SolverName::Cg)?;
    let weights = WeightsArgs { weights: Some(weights.clone()), no_bias: false };
    let problem = Problem::new(&args.model, &weights, settings.risk, console)?;
    let query = Data::load_like(&args.query, args.model.label.as_deref(), &problem.train)?;
    let job = Job { args, settings, problem: &problem, query: &query, certificates: &certificates };
    on_device!(device, |backend| job.run(backend, console))
}

/// Weights and objective, which only some methods do without.
pub fn given(args: &AttributeArgs) -> Result<(&PathBuf, ObjectiveArgs), Failure> {
    match (&args.weights, args.l2) {
        (Some(weights), Some(l2)) => Ok((weights, ObjectiveArgs { l2, conventions: args.conventions })),
        _ => Err(Failure::input("this method takes --weights and --l2")),
    }
}

struct Job<'a> {
    args: &'a AttributeArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
    certificates: &'a Path,
}

impl Job<'_> {
    fn run<B: Backend<Elem: Element>>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        let shape = [self.query.set.len(), self.problem.train.set.len()];
        let session = Session::open(backend, self.problem, &self.settings, shape[0])?;
        let queries = session.inputs(self.query)?;
        let measured = session.measured(self.args.measure)?;
        // Both outputs are open before the long run: what cannot be written fails now.
        let mut scores = NpyWriter::<B::Elem>::create(&self.args.scores, &shape)?;
        let certificates = AtomicFile::create(self.certificates)?;
        let mut truncations: Vec<Truncation> = Vec::new();
        let ((report, unit), optimality) = session.influence(console, |_, influence| {
            let mut influence = influence.measuring(measured.loss())?;
            if let Some(rank) = self.args.query_rank {
                influence = influence.with_query_rank(rank)?;
            }
            let report = influence.attribute(&queries, console, |rows| {
                truncations.extend(rows.truncations.unwrap_or_default().iter().cloned());
                scores.append(rows.scores).map_err(Failure::output)
            })?;
            Ok((report, influence.unit()))
        })?;
        let mut json = self.record::<B::Elem>(&report, unit, shape);
        for (entry, truncation) in json["queries"].as_array_mut().into_iter().flatten().zip(&truncations) {
            entry["truncation"] = json!(truncation);
        }
        json["optimality"] = json!(optimality);
        json["parameters"] = json!(session.coverage);
        let text = format!("{:#}\n", document("attribute", json.clone()));
        // Scores never stand without their certificates.
        certificates.finish_with(text.as_bytes()).map_err(Failure::output)?;
        scores.finish().map_err(Failure::output)?;
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        let elapsed = start.elapsed().as_secs_f64();
        json["seconds"] = json!(elapsed);
        Ok(Report { text: self.text(&report, elapsed) + &bounds(&truncations), json, flagged })
    }

    /// What `OUT.json` holds: nothing in it depends on the machine or the time.
    fn record<T: Element>(&self, report: &SolveReport, unit: ScoreUnit, shape: [usize; 2]) -> Value {
        let queries: Vec<Value> = report
            .columns
            .iter()
            .zip(self.query.set.ids())
            .map(|(column, id)| {
                let mut entry = json!(column);
                entry["query"] = json!(id);
                entry
            })
            .collect();
        let mut scores = json!(unit);
        scores["file"] = json!(self.args.scores.file_name().map(|name| name.to_string_lossy()));
        scores["dtype"] = json!(T::DESCR);
        scores["shape"] = json!(shape);
        scores["sign"] = json!(self.args.measure.sign_text());
        scores["formula"] = json!(match unit {
            ScoreUnit::InnerProduct => "score = g_q^T g_i".to_owned(),
            _ => self.args.measure.formula_text(),
        });
        json!({
            "measure": self.args.measure,
            "scores": scores,
            "query_rank": self.args.query_rank,
            "curvature": self.settings.curvature,
            "settings": self.problem.record(&model_name(&self.args.model.model), &self.settings, Some(&self.args.query)),
            "first_train_row": self.problem.train.set.ids()[0],
            "solver": report.solver,
            "effective_damping": report.damping,
            "converged": report.all_converged(),
            "summary": report.summary(),
            "queries": queries,
        })
    }

    fn text(&self, report: &SolveReport, elapsed: f64) -> String {
        format!(
            "{}: {} queries x {} training examples, {}\n{}{}, {}\n",
            self.args.scores.display(),
            self.query.set.len(),
            self.problem.train.set.len(),
            match self.settings.precision {
                Precision::F64 => "float64",
                Precision::F32 | Precision::Tf32 | Precision::Bf16 => "float32",
            },
            report.summary(),
            match report.products() {
                0 => String::new(),
                products => {
                    format!("; largest true residual {:.1e}, {products} products", report.worst_residual())
                }
            },
            seconds(elapsed),
        )
    }
}

/// A line about truncated queries.
fn bounds(truncations: &[Truncation]) -> String {
    let known = truncations.iter().map(|truncation| truncation.bound).filter(|bound| !bound.is_nan());
    let rank = truncations.iter().flat_map(|truncation| &truncation.ranks).max();
    match (rank, known.reduce(f64::max)) {
        (Some(rank), Some(worst)) => {
            format!(
                "queries truncated to rank {rank} at most: this moves no score by more than {worst:.1e}\n"
            )
        }
        _ => String::new(),
    }
}
