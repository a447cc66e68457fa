//! `influence attribute`: the score matrix to a file, with a certificate for every query.

use std::path::{Path, PathBuf};
use std::time::Instant;

use if_data::Element;
use if_linalg::{Backend, Real, SolveReport, number_or_nan};
use if_methods::{ScoreUnit, Truncation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{certificates_beside, model_name, trace};
use crate::args::{AttributeArgs, MethodName, ObjectiveArgs, Precision, SolverName, WeightsArgs};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::key::of_examples;
use crate::model::Kind;
use crate::output::{Report, document, seconds};
use crate::partial::Partial;
use crate::session::{Session, report_flags, report_undefined};
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
    let device = Device::open(&args.device, args.precision.unwrap_or(kind.default_precision()), console)?
        .keeping(args.resume);
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
        (None, Some(_)) => Err(Failure::input("this method takes --weights, too")),
        (Some(_), None) => Err(Failure::input("this method takes --l2, too")),
        (None, None) => Err(Failure::input("this method takes --weights and --l2")),
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
        let measured = session.measured(self.args.measure)?;
        let files = [&*self.args.scores, self.certificates];
        let key = self.key(&session);
        let mut output =
            Partial::<B::Elem, Certificate>::open(files, shape, &key, self.args.resume, console)?;
        let queries = session.inputs(&self.query.rest(output.done()))?;
        let solved = session.influence(console, |_, influence| {
            let mut influence = influence.measuring(measured.loss())?;
            if let Some(rank) = self.args.query_rank {
                influence = influence.with_query_rank(rank)?;
            }
            influence.attribute(&queries, console, |rows| {
                let truncations = rows.truncations.unwrap_or_default().to_vec();
                let largest = rows.scores.iter().map(|score| score.to_f64().abs()).fold(0.0, f64::max);
                output.append(rows.scores, Certificate { report: rows.report.clone(), truncations, largest })
            })?;
            Ok(influence.unit())
        });
        let (unit, optimality) = solved.map_err(|failure| output.stopped(failure))?;
        let (report, truncations) = together(output.blocks());
        let largest = output.blocks().iter().map(|block| block.largest).fold(0.0, f64::max);
        let mut json = self.record::<B::Elem>(&report, unit, shape);
        for (entry, truncation) in json["queries"].as_array_mut().into_iter().flatten().zip(&truncations) {
            entry["truncation"] = json!(truncation);
        }
        json["optimality"] = json!(optimality);
        json["parameters"] = json!(session.coverage);
        let text = format!("{:#}\n", document("attribute", json.clone()));
        let (undefined, ids) = (output.finish(&text)?, self.query.set.ids());
        let flagged =
            report_flags(&report, ids, "queries", console) || report_undefined(&undefined, ids, console);
        let elapsed = start.elapsed().as_secs_f64();
        json["seconds"] = json!(elapsed);
        Ok(Report { text: self.text(&report, elapsed) + &bounds(&truncations, largest), json, flagged })
    }

    /// All that the scores and their certificates depend on.
    fn key<B: Backend>(&self, session: &Session<B>) -> Value {
        let mut key = json!(self.settings);
        for (field, value) in session.key().as_object().into_iter().flatten() {
            key[field] = value.clone();
        }
        key["method"] = json!(self.args.method);
        key["queries"] = json!(of_examples(self.query));
        key["measure"] = json!(self.args.measure);
        key["query_rank"] = json!(self.args.query_rank);
        key
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
                // What is not solved stands in the summary with its residual.
                products if report.all_converged() => {
                    format!("; largest true residual {:.1e}, {products} products", report.worst_residual())
                }
                products => format!("; {products} products"),
            },
            seconds(elapsed),
        )
    }
}

/// Of a block of queries.
#[derive(Serialize, Deserialize)]
struct Certificate {
    report: SolveReport,
    /// One for each query, where queries are truncated.
    truncations: Vec<Truncation>,
    /// Largest absolute score.
    #[serde(deserialize_with = "number_or_nan")]
    largest: f64,
}

/// Certificates of all blocks as one.
fn together(blocks: &[Certificate]) -> (SolveReport, Vec<Truncation>) {
    let reports = blocks.iter().map(|block| block.report.clone());
    let report = reports.reduce(|mut whole, block| {
        whole.extend(block);
        whole
    });
    let truncations = blocks.iter().flat_map(|block| block.truncations.clone());
    (report.expect("a data set is never empty"), truncations.collect())
}

/// A line about truncated queries, whose largest absolute score is `largest`.
fn bounds(truncations: &[Truncation], largest: f64) -> String {
    let known = truncations.iter().map(|truncation| truncation.bound).filter(|bound| !bound.is_nan());
    let rank = truncations.iter().flat_map(|truncation| &truncation.ranks).max();
    match (rank, known.reduce(f64::max)) {
        (Some(rank), Some(worst)) => {
            format!(
                "queries truncated to rank {rank} at most: this moves no score by more than {worst:.1e} (largest score {largest:.1e})\n"
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use if_linalg::{ColumnReport, Termination};

    use super::*;

    /// A certificate that was kept says the same as one that was not, what is not finite included.
    #[test]
    fn certificates_survive_a_journal() {
        let column = |termination, residual| ColumnReport {
            termination,
            iterations: 3,
            products: 5,
            residual,
            eigenvalues: Some([1e-3 / 3.0, 0.1 + 0.2]),
        };
        let curvature = -1.0 / 3.0;
        let columns = vec![
            column(Termination::Converged, 1.0 / 3.0),
            column(Termination::NegativeCurvature { curvature }, 5e-324),
            ColumnReport { eigenvalues: None, ..column(Termination::NonFinite, f64::NAN) },
        ];
        let report = SolveReport { solver: "cg".into(), tolerance: 1e-8, damping: 0.1, columns };
        let truncations = [0.1 + 0.2, f64::NAN].map(|bound| Truncation { ranks: vec![2, 7], bound });
        let certificate = Certificate { report, truncations: truncations.to_vec(), largest: 0.25 };
        let kept: Certificate = serde_json::from_str(&json!(certificate).to_string()).unwrap();
        assert_eq!(json!(kept), json!(certificate));
        assert_eq!(kept.report.columns[..2], certificate.report.columns[..2]);
        assert!(kept.report.columns[2].residual.is_nan() && kept.truncations[1].bound.is_nan());
        assert_eq!(kept.truncations[0], certificate.truncations[0]);
    }

    /// Names of solvers, joined block by block, are what one run says.
    #[test]
    fn certificates_of_blocks_are_those_of_one_run() {
        let block = |solver: &str, k: usize| Certificate {
            report: SolveReport {
                solver: solver.into(),
                tolerance: 0.1,
                damping: 0.2,
                columns: vec![
                    ColumnReport {
                        termination: Termination::Converged,
                        iterations: k,
                        products: k,
                        residual: 0.0,
                        eigenvalues: None,
                    };
                    k
                ],
            },
            truncations: vec![Truncation { ranks: vec![k], bound: 1.0 }; k],
            largest: 1.0,
        };
        let (report, truncations) = together(&[block("a", 2), block("b", 1), block("a", 3)]);
        assert_eq!(report.solver, "a; b");
        let iterations: Vec<usize> = report.columns.iter().map(|column| column.iterations).collect();
        assert_eq!(iterations, [2, 2, 1, 3, 3, 3]);
        assert_eq!(truncations.len(), 6);
    }
}
