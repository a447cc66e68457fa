//! `influence fastif`: a few likely training examples scored for every query, instead of all.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use if_data::AtomicFile;
use if_linalg::{Backend, Block, SolveReport};
#[cfg(feature = "usearch")]
use if_methods::nearest_by_graph;
use if_methods::{Influence, MethodError, descending, nearest, random_order, recall};
use serde_json::{Value, json};

use super::{certificates_beside, model_name};
use crate::args::{FastIfArgs, IndexName, SolverName, WeightsArgs};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, document, seconds, short};
use crate::session::{Session, report_flags};
use crate::source::{Data, keep_inputs};

/// The strongest proponents and opponents of all that candidates are to hold.
const TOP: usize = 10;

/// Runs the command.
pub fn run(args: &FastIfArgs, console: &Console) -> Result<Report, Failure> {
    certificates_beside(&args.scores, "--scores", "json")?;
    keep_inputs(&[&args.scores], &[&args.model.train, &args.query], &[&args.weights])?;
    let kind = Kind::new(&args.model)?;
    let device = Device::open(&args.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let settings = Settings::new(&args.objective, &args.solve, &device, SolverName::BlockCg)?;
    let weights = WeightsArgs { weights: Some(args.weights.clone()), no_bias: false };
    let problem = Problem::new(&args.model, &weights, settings.risk, console)?;
    let n = problem.train.set.len();
    if args.candidates > n {
        let found = args.candidates;
        return Err(Failure::input(format!(
            "--candidates: expected from 1 to the {n} training examples, found {found}"
        )));
    }
    let query = Data::load_like(&args.query, args.model.label.as_deref(), &problem.train)?;
    let job = Job { args, settings, problem: &problem, query: &query };
    on_device!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a FastIfArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
}

/// How the funnel compares with scores of everything, on a sample of queries.
struct Check {
    queries: usize,
    /// Of proponents and of opponents, averaged.
    recall: [f64; 2],
    /// For each of these queries, of everything.
    seconds: f64,
    /// For each of these queries, of its candidates.
    funnel: f64,
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let path: &Path = &self.args.scores;
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        let file = AtomicFile::create(path)?;
        let start = Instant::now();
        let [train_features, query_features] = {
            let features = |inputs| {
                let found = session.network.layer_inputs(inputs, &session.theta, &self.args.features);
                found.map_err(|error| Failure::input(format!("--features: {error}")))
            };
            [features(&session.train)?, features(&queries)?]
        };
        let candidates = self.neighbours(&train_features, &query_features, console)?;
        let searched = start.elapsed().as_secs_f64();
        let of_nearest = self.recall_of_nearest(&train_features, &query_features, &candidates)?;
        let mut scores: Vec<Vec<f64>> = Vec::new();
        let ((report, check, scored), optimality) = session.influence(console, |_, influence| {
            let start = Instant::now();
            let report = influence.attribute_candidates(&queries, &candidates, console, |_, own| {
                scores.push(own);
                Ok::<(), MethodError>(())
            })?;
            let scored = start.elapsed().as_secs_f64();
            let check = self.check(&session, &influence, &candidates, console)?;
            Ok((report, check, scored))
        })?;
        let mut json = self.record(&report, &candidates, &scores);
        json["check"] = json!(check.as_ref().map(|check| json!({
            "queries": check.queries,
            "recall_of_top_10_proponents": check.recall[0],
            "recall_of_top_10_opponents": check.recall[1],
            "recall_of_nearest": of_nearest,
        })));
        json["optimality"] = json!(optimality);
        let text = format!("{:#}\n", document("fastif", json.clone()));
        file.finish_with(text.as_bytes()).map_err(Failure::output)?;
        let search = searched / queries.len() as f64;
        json["seconds"] = json!({
            "search": searched,
            "solve_and_score": scored,
            "each_query": check.as_ref().map(|check| search + check.funnel),
            "each_query_of_everything": check.as_ref().map(|check| check.seconds),
        });
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        let mut text = format!(
            "{}: {} queries x {} of {} training examples, the nearest by the inputs of layer {}\n{}, {}\n",
            path.display(),
            queries.len(),
            self.args.candidates,
            self.problem.train.set.len(),
            self.args.features,
            report.summary(),
            seconds(searched + scored),
        );
        if let Some(of_nearest) = of_nearest {
            text += &format!("the index found {} of the nearest\n", percent(of_nearest));
        }
        if let Some(check) = check {
            text += &format!(
                "of the {TOP} strongest of all, on {} queries: {} of the proponents and {} of the opponents are among them\n\
                 {:.2e} s for each of these, {:.2e} s for everything: {} times as fast\n",
                check.queries,
                percent(check.recall[0]),
                percent(check.recall[1]),
                search + check.funnel,
                check.seconds,
                short(check.seconds / (search + check.funnel)),
            );
        }
        Ok(Report { text, json, flagged: flagged || self.problem.unfinished })
    }

    /// Positions of the training examples that are scored for each query.
    fn neighbours<B: Backend>(
        &self,
        train: &Block<B>,
        queries: &Block<B>,
        _console: &Console,
    ) -> Result<Vec<Vec<usize>>, Failure> {
        let count = self.args.candidates;
        let found = match self.args.index {
            IndexName::Exact => nearest(train, queries, count),
            #[cfg(feature = "usearch")]
            IndexName::Usearch => nearest_by_graph(train, queries, count, _console),
        };
        Ok(found?)
    }

    /// Positions of the queries on which recall is measured.
    fn sample(&self) -> Vec<usize> {
        let mut sample = random_order(self.query.set.len(), self.args.seed);
        sample.truncate(self.args.check);
        sample
    }

    /// How many of the nearest an index found that approximates, on that sample.
    fn recall_of_nearest<B: Backend>(
        &self,
        train: &Block<B>,
        queries: &Block<B>,
        candidates: &[Vec<usize>],
    ) -> Result<Option<f64>, Failure> {
        let sample = self.sample();
        if self.args.index == IndexName::Exact || sample.is_empty() {
            return Ok(None);
        }
        let count = self.args.candidates;
        let exact = nearest(train, &queries.select(&sample), count)?;
        let found = sample.iter().zip(exact).map(|(&q, exact)| {
            let found: HashSet<usize> = candidates[q].iter().copied().collect();
            exact.iter().filter(|i| found.contains(i)).count()
        });
        Ok(Some(found.sum::<usize>() as f64 / (sample.len() * count) as f64))
    }

    /// Scores everything for a sample of the queries, and the candidates again: queries of a block share work, so that times
    /// are compared of the same ones.
    fn check<B: Backend>(
        &self,
        session: &Session<B>,
        influence: &Influence<B>,
        candidates: &[Vec<usize>],
        console: &Console,
    ) -> Result<Option<Check>, Failure> {
        let sample = self.sample();
        if sample.is_empty() {
            return Ok(None);
        }
        let n = self.problem.train.set.len();
        let queries = session.inputs(&self.query.select(&sample))?;
        let mut recalls = Vec::new();
        let start = Instant::now();
        influence.attribute(&queries, console, |rows| {
            for (j, row) in rows.scores.chunks_exact(n).enumerate() {
                recalls.push(recall(row, &candidates[sample[rows.first + j]], TOP));
            }
            Ok::<(), MethodError>(())
        })?;
        let mean = |side: usize| {
            let known: Vec<f64> = recalls.iter().map(|r| r[side]).filter(|r| !r.is_nan()).collect();
            known.iter().sum::<f64>() / known.len() as f64
        };
        let each = |start: Instant| start.elapsed().as_secs_f64() / sample.len() as f64;
        let seconds = each(start);
        let own: Vec<Vec<usize>> = sample.iter().map(|&q| candidates[q].clone()).collect();
        let start = Instant::now();
        influence.attribute_candidates(&queries, &own, console, |_, _| Ok::<(), MethodError>(()))?;
        Ok(Some(Check { queries: sample.len(), recall: [mean(0), mean(1)], seconds, funnel: each(start) }))
    }

    fn record(&self, report: &SolveReport, candidates: &[Vec<usize>], scores: &[Vec<f64>]) -> Value {
        let ids = self.problem.train.set.ids();
        let entry = |q: usize| {
            let order = descending(&scores[q]);
            let mut entry = json!(report.columns[q]);
            entry["query"] = json!(self.query.set.ids()[q]);
            entry["train"] = json!(order.iter().map(|&j| ids[candidates[q][j]]).collect::<Vec<_>>());
            entry["scores"] = json!(order.iter().map(|&j| scores[q][j]).collect::<Vec<_>>());
            entry
        };
        json!({
            "features": self.args.features,
            "candidates": self.args.candidates,
            "index": self.args.index,
            "settings": self.problem.record(&model_name(&self.args.model.model), &self.settings, Some(&self.args.query)),
            "solver": report.solver,
            "effective_damping": report.damping,
            "summary": report.summary(),
            "queries": (0..scores.len()).map(entry).collect::<Vec<_>>(),
        })
    }
}

fn percent(share: f64) -> String {
    if share.is_nan() { "none".into() } else { format!("{:.0} %", 100.0 * share) }
}
