//! `influence multistage`: which pretraining examples made the fine-tuned network predict this.

use std::path::Path;
use std::time::Instant;

use if_data::{AtomicFile, Element, NpyWriter};
use if_linalg::{Backend, Block, Observer, SolveReport};
use if_methods::{MultiStage, ScoreUnit, Stage, Tuning};
use if_models::{EmpiricalRisk, RiskSettings};
use serde_json::{Value, json};

use super::{certificates_beside, model_name, need_exact};
use crate::args::{
    ConventionArgs, FamilyName, ModelName, MultiStageArgs, ObjectiveArgs, RemovalName, SolverName,
};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::Settings;
use crate::model::{Kind, Model};
use crate::output::{Report, document, seconds};
use crate::session::{inputs, report_flags};
use crate::source::{Data, keep_inputs};

/// Runs the command.
pub fn run(args: &MultiStageArgs, console: &Console) -> Result<Report, Failure> {
    let certificates = certificates_beside(&args.scores, "--scores", "npy")?;
    keep_inputs(
        &[&args.scores, &certificates],
        &[&args.pretrain, &args.train, &args.query],
        &[&args.pretrain_weights, &args.weights],
    )?;
    if !args.solve.layers.is_empty() {
        return Err(Failure::input("multistage inverts whole stages: expected no --layers"));
    }
    if matches!(args.solve.removal, RemovalName::Renormalised) {
        return Err(Failure::input("multistage: expected --removal fixed, found renormalised"));
    }
    let conventions = ConventionArgs { family: FamilyName::Mean, no_regularise_bias: false };
    let objective = ObjectiveArgs { l2: args.l2, conventions };
    let device = Device::open(&args.device, args.precision, console)?;
    let settings = Settings::new(&objective, &args.solve, &device, SolverName::BlockCg)?;
    settings.need_changes()?;
    need_exact(&settings, "multistage")?;
    let label = args.label.as_deref();
    let pretrain = Data::load(&args.pretrain, label)?;
    let train = Data::load(&args.train, label)?;
    let query = Data::load_like(&args.query, label, &train)?;
    let first = stage(&args.pretrain_model, "--pretrain-model", &args.pretrain_weights, &pretrain)?;
    let second = stage(&args.model, "--model", &args.weights, &train)?;
    let job = Job { args, settings, models: [&first, &second], data: [&pretrain, &train], query: &query };
    on_device!(device, |backend| job.run(backend, &certificates, console))
}

fn stage(name: &ModelName, option: &str, weights: &Path, data: &Data) -> Result<Model, Failure> {
    let ModelName::File(path) = name else {
        return Err(Failure::input(format!(
            "{option}: expected a network in FILE.toml, found {}",
            model_name(name)
        )));
    };
    Model::read(&Kind::Network(crate::spec_file::read_spec(path)?), weights, data)
}

struct Job<'a> {
    args: &'a MultiStageArgs,
    settings: Settings,
    models: [&'a Model; 2],
    data: [&'a Data; 2],
    query: &'a Data,
}

impl Job<'_> {
    fn run<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        certificates: &Path,
        console: &Console,
    ) -> Result<Report, Failure> {
        let start = Instant::now();
        let budget = self.settings.memory_budget / 4;
        let (first, first_theta) = self.models[0].build(backend)?;
        let (second, second_theta) = self.models[1].build(backend)?;
        let pretrain = inputs(&self.models[0].kind, &first, self.data[0], budget)?;
        let train = inputs(&self.models[1].kind, &second, self.data[1], budget)?;
        let queries = inputs(&self.models[1].kind, &second, self.query, budget)?;
        let shape = [queries.len(), pretrain.len()];
        let mut scores = NpyWriter::<B::Elem>::create(&self.args.scores, &shape)?;
        let file = AtomicFile::create(certificates)?;

        let settings = |l2| RiskSettings { l2, ..self.settings.risk };
        let pretraining = EmpiricalRisk::new(&first, &pretrain, settings(self.args.l2_pretrain))?;
        let mut names: Vec<&str> = self.args.embedding_layers.iter().map(|name| name.trim()).collect();
        names.sort_unstable();
        names.dedup();
        let is_head = |name: &&str| !names.contains(name);
        let head: Vec<&str> =
            second.layout().segments().iter().map(|s| s.name.as_str()).filter(is_head).collect();
        let mut tuning_risk = EmpiricalRisk::new(&second, &train, settings(self.args.l2))?;
        if self.args.l2_head_only {
            tuning_risk = tuning_risk.with_l2_on(&head)?;
        }
        if head.is_empty() {
            return Err(Failure::input(
                "--embedding-layers: expected at least one layer of the second stage to be left out, found all",
            ));
        }
        if let Some(alpha) = self.args.alpha {
            // Layers that do not fit are named below.
            if let Some(at) = pulled_to(&first_theta, &second_theta, &names) {
                tuning_risk = tuning_risk.anchored(&at, 2.0 * alpha, &names)?;
            }
        }
        let (head_network, head_theta) = second.select(&second_theta, &head)?;
        let head_risk = EmpiricalRisk::new(&head_network, &train, settings(self.args.l2))?;

        let system =
            |risk: &EmpiricalRisk<B>, theta: &Block<B>| self.settings.damping_of(risk, theta, console);
        let curvature = self.settings.curvature;
        let solver = self.settings.plain_solver("multistage")?;
        let operators = [
            pretraining.operator(&first_theta, curvature, system(&pretraining, &first_theta), budget),
            tuning_risk.operator(&second_theta, curvature, system(&tuning_risk, &second_theta), budget),
        ];
        let head_operator =
            head_risk.operator(&head_theta, curvature, system(&head_risk, &head_theta), budget);
        console.progress("preparing the solvers", 0, 1);
        let prepared = solver.prepare(&operators[0])?;
        let inner = if self.args.updated {
            solver.prepare(&operators[1])?
        } else {
            solver.prepare(&head_operator)?
        };
        let tuning = match self.args.alpha {
            Some(alpha) => Tuning::Updated { alpha, solver: &*inner },
            None => Tuning::Fixed { operator: &operators[1], head: &*inner },
        };
        let stages = [
            Stage { risk: &pretraining, theta: &first_theta },
            Stage { risk: &tuning_risk, theta: &second_theta },
        ];
        let method = MultiStage::new(stages[0], &*prepared, stages[1], &names, tuning)
            .map_err(|error| Failure::input(format!("--embedding-layers {}: {error}", names.join(","))))?;
        check_optimum("first", &pretraining, &first_theta, console);
        if self.args.updated {
            check_optimum("second", &tuning_risk, &second_theta, console);
        } else {
            check_optimum("second", &head_risk, &head_theta, console);
        }
        let report = method
            .attribute(&queries, console, |rows| scores.append(rows.scores).map_err(Failure::output))?;
        let mut json = self.record::<B::Elem>(&report, method.unit(), shape);
        let text = format!("{:#}\n", document("multistage", json.clone()));
        file.finish_with(text.as_bytes()).map_err(Failure::output)?;
        scores.finish().map_err(Failure::output)?;
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        let elapsed = start.elapsed().as_secs_f64();
        json["seconds"] = json!(elapsed);
        let text = format!(
            "{}: {} queries x {} pretraining examples, {} embedding {}\n{}, {}\n",
            self.args.scores.display(),
            shape[0],
            shape[1],
            if self.args.updated { "updated" } else { "fixed" },
            names.join(", "),
            report.summary(),
            seconds(elapsed)
        );
        Ok(Report { text, json, flagged })
    }

    fn record<T: Element>(&self, report: &SolveReport, unit: ScoreUnit, shape: [usize; 2]) -> Value {
        let queries = report.columns.iter().zip(self.query.set.ids()).map(|(column, id)| {
            let mut entry = json!(column);
            entry["query"] = json!(id);
            entry
        });
        let mut scores = json!(unit);
        scores["file"] = json!(self.args.scores.file_name().map(|name| name.to_string_lossy()));
        scores["dtype"] = json!(T::DESCR);
        scores["shape"] = json!(shape);
        scores["sign"] =
            json!("positive = proponent: removing the pretraining example raises the loss of the query");
        json!({
            "scores": scores,
            "embedding_layers": self.args.embedding_layers,
            "updated": self.args.updated,
            "alpha": self.args.alpha,
            "l2_head_only": self.args.l2_head_only,
            "l2_pretrain": self.args.l2_pretrain,
            "pretrain_model": model_name(&self.args.pretrain_model),
            "pretrain_weights": self.args.pretrain_weights,
            "pretrain": self.args.pretrain.to_string(),
            "model": model_name(&self.args.model),
            "weights": self.args.weights,
            "train": self.args.train.to_string(),
            "query": self.args.query.to_string(),
            "settings": self.settings,
            "summary": report.summary(),
            "queries": queries.collect::<Vec<_>>(),
        })
    }
}

/// Above this part of an example's gradient norm a stage is said not to be at an optimum.
const NOT_AN_OPTIMUM: f64 = 1e-3;

/// Says where a stage is not at an optimum of its objective: of the second its head alone, where it kept the rest.
fn check_optimum<B: Backend>(name: &str, risk: &EmpiricalRisk<B>, theta: &Block<B>, console: &Console) {
    let norm = risk.gradient(theta).1.norms()[0];
    let norms = risk.network().gradient_norms(risk.inputs(), theta);
    let scale = norms.iter().sum::<f64>() / norms.len() as f64;
    if norm > NOT_AN_OPTIMUM * scale {
        console.warn(&format!(
            "the {name} stage is not at an optimum of its objective: gradient norm {norm:.1e}, examples have {scale:.1e}; scores assume an optimum: check its l2 and alpha, or train longer"
        ));
    }
}

/// The second stage's parameters with the layers `names` as the first stage left them; `None` where they do not fit.
fn pulled_to<B: Backend>(first: &Block<B>, second: &Block<B>, names: &[&str]) -> Option<Block<B>> {
    let mut at = second.clone();
    for name in names {
        let [from, to] = [first, second].map(|theta| {
            let segments = theta.layout().segments();
            segments.iter().position(|segment| segment.name == *name).map(|s| (s, &segments[s]))
        });
        let ((from, a), (to, b)) = (from?, to?);
        if (a.rows, a.cols) != (b.rows, b.cols) {
            return None;
        }
        at.copy_segment(to, first, from);
    }
    Some(at)
}
