//! `influence explain`: the training examples that matter most for each query.

use std::io::IsTerminal;

use if_linalg::{Backend, SolveReport};
use if_methods::{Extremes, MethodError, Ranked};
use if_models::Inputs;
use serde_json::{Value, json};

use super::model_name;
use crate::args::{ExplainArgs, MeasureName, SolverName};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::{Kind, Prediction};
use crate::output::{Report, Table, short, signed};
use crate::picture::{Picture, gallery};
use crate::session::{Optimality, Session, report_flags};
use crate::source::{Data, load};

/// Runs the command.
pub fn run(args: &ExplainArgs, console: &Console) -> Result<Report, Failure> {
    let kind = Kind::new(&args.base.model)?;
    let device =
        Device::open(&args.base.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, SolverName::Cg)?;
    settings.need_changes()?;
    let (train, query) = load(&args.base, None)?;
    let problem = Problem::from_data(kind, train, &args.base.weights, settings.risk, console)?;
    let job = Job { args, settings, problem: &problem, query: &query };
    on_device!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a ExplainArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
}

/// What is known of one query.
struct Explained {
    position: usize,
    prediction: Prediction,
    loss: f64,
    /// What is explained of it; the loss again unless `--measure` says otherwise.
    measured: f64,
    extremes: Extremes,
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        let ((explained, report, factor), optimality) = self.explain(&session, &queries, console)?;
        let text: Vec<String> = explained.iter().map(|query| self.text(query, factor)).collect();
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        let each = explained.iter().zip(&report.columns);
        let json = json!({
            "measure": self.args.measure,
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "parameters": session.coverage,
            "converged": report.all_converged(),
            "summary": report.summary(),
            "queries": each.map(|(query, column)| {
                let mut entry = self.entry(query, factor);
                entry["solve"] = json!(column);
                entry
            }).collect::<Vec<_>>(),
        });
        Ok(Report { text: text.join("\n"), json, flagged: flagged || self.problem.unfinished })
    }

    /// Scores a block of queries at a time, and keeps the extremes of each. A score times the factor is
    /// the predicted change of what is explained.
    fn explain<B: Backend>(
        &self,
        session: &Session<B>,
        queries: &Inputs<B>,
        console: &Console,
    ) -> Result<((Vec<Explained>, SolveReport, f64), Optimality), Failure> {
        let n = self.problem.train.set.len();
        let measured = session.measured(self.args.measure)?;
        let losses = session.network.example_losses(queries, &session.theta);
        let values = measured.example_losses(queries, &session.theta);
        let known = session.predictions(queries).into_iter().zip(losses).zip(values);
        let sign = self.args.measure.sign();
        session.influence(console, |risk, influence| {
            let influence = influence.measuring(measured.loss())?;
            let mut extremes = Vec::new();
            let report = influence.attribute(queries, console, |rows| {
                extremes.extend(rows.scores.chunks_exact(n).map(|row| Extremes::of(row, self.args.top)));
                Ok::<(), MethodError>(())
            })?;
            let explained = known
                .zip(extremes)
                .enumerate()
                .map(|(position, (((prediction, loss), value), extremes))| Explained {
                    position,
                    prediction,
                    loss,
                    measured: sign * value,
                    extremes,
                })
                .collect();
            Ok((explained, report, sign * risk.removal_factor()))
        })
    }

    fn text(&self, query: &Explained, factor: f64) -> String {
        let Data { source, set, .. } = self.query;
        let measure = self.args.measure;
        let name = measure.name();
        let train = &self.problem.train;
        let (draw, colours) = self.drawing();
        let probability =
            query.prediction.probability.map_or(String::new(), |p| format!(" with probability {p:.3}"));
        let measured = match measure {
            MeasureName::Loss => String::new(),
            _ => format!(", {name} {}", short(query.measured)),
        };
        let mut text = format!(
            "{}[{}]: label {}, predicted {}{probability}, loss {}{measured}\n",
            source.origin,
            set.ids()[query.position],
            train.label_name(set.labels()[query.position]),
            train.label_name(query.prediction.label),
            short(query.loss),
        );
        if draw && let Some(picture) = Picture::of(set.features(), query.position) {
            picture.lines(colours).iter().for_each(|line| text += &format!("  {}\n", line.trim_end()));
        }
        if query.extremes.proponents.iter().chain(&query.extremes.opponents).all(|r| r.score == 0.0) {
            return format!(
                "{text}\nall scores are zero, as is the gradient of this {name}: no training example matters to it\n"
            );
        }
        let sides = [
            ("proponents", measure.without_proponent(), &query.extremes.proponents),
            ("opponents", measure.without_opponent(), &query.extremes.opponents),
        ];
        for (side, change, ranked) in sides {
            let table = self.table(ranked, factor);
            text += &format!("\n{side}: without one of them the {name} would {change}\n{table}");
            let pictures: Vec<(Picture, String)> = ranked
                .iter()
                .filter_map(|r| Some((Picture::of(train.set.features(), r.example)?, self.caption(r))))
                .collect();
            if draw && !pictures.is_empty() {
                text += &format!("\n{}", gallery(&pictures, colours));
            }
        }
        text
    }

    /// Whether pictures are drawn, and whether in greys.
    fn drawing(&self) -> (bool, bool) {
        let terminal = std::io::stdout().is_terminal();
        (terminal || self.args.pictures, terminal && std::env::var_os("NO_COLOR").is_none())
    }

    fn table(&self, ranked: &[Ranked], factor: f64) -> String {
        let set = &self.problem.train.set;
        let change = format!("change of the {}", self.args.measure.name());
        let mut table = Table::new(&["rank", "train", "<label", "score", &change]);
        for (rank, Ranked { example, score }) in ranked.iter().enumerate() {
            table.row([
                (rank + 1).to_string(),
                set.ids()[*example].to_string(),
                self.problem.train.label_name(set.labels()[*example]),
                short(*score),
                signed(factor * score),
            ]);
        }
        table.render()
    }

    fn caption(&self, ranked: &Ranked) -> String {
        let Data { set, .. } = &self.problem.train;
        format!(
            "{} ({})",
            set.ids()[ranked.example],
            self.problem.train.label_name(set.labels()[ranked.example])
        )
    }

    fn entry(&self, query: &Explained, factor: f64) -> Value {
        let train = &self.problem.train;
        let name = self.args.measure.name();
        let change = format!("{name}_change");
        let side = |ranked: &[Ranked]| -> Vec<Value> {
            let entry = |r: &Ranked| {
                let label = train.set.labels()[r.example];
                json!({
                    "train": train.set.ids()[r.example],
                    "label": label,
                    "class": train.label_name(label),
                    "score": r.score,
                    (&change): factor * r.score,
                })
            };
            ranked.iter().map(entry).collect()
        };
        let label = self.query.set.labels()[query.position];
        json!({
            "query": self.query.set.ids()[query.position],
            "label": label,
            "class": train.label_name(label),
            "predicted": query.prediction.label,
            "predicted_class": train.label_name(query.prediction.label),
            "probability": query.prediction.probability,
            "loss": query.loss,
            (name): query.measured,
            "proponents": side(&query.extremes.proponents),
            "opponents": side(&query.extremes.opponents),
        })
    }
}
