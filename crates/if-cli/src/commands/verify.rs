//! `influence verify`: what the first order predicts, and what retraining says.

use std::collections::BTreeMap;

use if_linalg::{Backend, SolveReport};
use if_methods::{Agreement, Influence, MethodError};
use if_models::{FitReport, Inputs, Loss, Removal};
use serde_json::{Value, json};

use super::model_name;
use crate::args::{Precision, SolverName, VerifyArgs};
use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, Table, short, signed};
use crate::retrain::Retraining;
use crate::session::{Optimality, Session, report_flags};
use crate::source::{Data, load};

/// Pairs in the table; the JSON document has all.
const SHOWN: usize = 40;

/// Runs the command.
pub fn run(args: &VerifyArgs, console: &Console) -> Result<Report, Failure> {
    let kind = Kind::new(&args.base.model)?;
    let device = Device::open(&args.base.device, Precision::F64, console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, SolverName::Cg)?;
    settings.need_changes()?;
    let (train, query) = load(&args.base, None)?;
    if train.set.len() < 2 {
        return Err(Failure::input(format!(
            "{}: expected at least 2 examples to leave one out",
            train.source
        )));
    }
    let mut problem = Problem::from_data(kind, train, &args.base.weights, settings.risk, console)?;
    let retraining =
        in_double!(device, |backend| Retraining::prepare(backend, &mut problem, &settings, console))?;
    let job = Job { args, settings, problem: &problem, query: &query, retraining };
    in_double!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a VerifyArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
    retraining: Retraining,
}

/// A training example left out, and what becomes of a query's loss.
struct Pair {
    query: usize,
    example: usize,
    predicted: f64,
    actual: f64,
    leverage: Option<f64>,
}

impl Pair {
    /// First order over `1 - leverage`.
    fn corrected(&self) -> Option<f64> {
        self.leverage.map(|leverage| self.predicted / (1.0 - leverage))
    }
}

impl Job<'_> {
    fn run<B: Backend<Elem = f64>>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        let ((mut pairs, report), optimality) = self.predict(&session, &queries, console)?;
        let fits = self.retrain(&session, &queries, &mut pairs, console)?;
        let [stopped, idle] = self.retraining.shortfalls(&self.problem.model.kind, &fits, console);
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        let (first, corrected) = agreements(&pairs);
        let json = json!({
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "converged": report.all_converged(),
            "summary": report.summary(),
            "retrainings": fits.len(),
            "retrainings_not_converged": stopped,
            "retrainings_without_step": idle,
            "agreement": first,
            "agreement_over_one_minus_leverage": corrected,
            "pairs": pairs.iter().map(|pair| self.entry(pair)).collect::<Vec<_>>(),
        });
        let text = self.text(&pairs, fits.len(), first, corrected);
        Ok(Report { text, json, flagged: flagged || stopped + idle > 0 })
    }

    /// The strongest examples of every query, with the predicted changes.
    fn predict<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        queries: &Inputs<B>,
        console: &Console,
    ) -> Result<((Vec<Pair>, SolveReport), Optimality), Failure> {
        let n = self.problem.train.set.len();
        session.influence(console, |risk, influence| {
            let factor = risk.removal_factor();
            let mut pairs = Vec::new();
            let report = influence.attribute(queries, console, |rows| {
                for (q, row) in rows.scores.chunks_exact(n).enumerate() {
                    pairs.extend(strongest(row, self.args.top).into_iter().map(|example| Pair {
                        query: rows.first + q,
                        example,
                        predicted: factor * row[example],
                        actual: f64::NAN,
                        leverage: None,
                    }));
                }
                Ok::<(), MethodError>(())
            })?;
            self.add_leverages(session, influence, &mut pairs, console)?;
            Ok((pairs, report))
        })
    }

    /// Leverages of the examples in `pairs`, for models that are smooth and have one output.
    fn add_leverages<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        influence: Influence<B>,
        pairs: &mut [Pair],
        console: &Console,
    ) -> Result<(), Failure> {
        let smooth = matches!(session.network.loss(), Loss::Logistic | Loss::Squared);
        if !smooth || session.network.outputs() != 1 || self.settings.risk.removal != Removal::Fixed {
            return Ok(());
        }
        let train = &self.problem.train;
        let examples: Vec<usize> = groups(pairs).into_keys().collect();
        let chosen = Inputs::new(&session.network, &train.set.select(&examples), 0)
            .map_err(|error| train.failure(error))?;
        let mut own = vec![0.0; train.set.len()];
        // As queries, the examples meet themselves on the way: one solve each.
        influence.attribute(&chosen, console, |rows| {
            for (j, row) in rows.scores.chunks_exact(own.len()).enumerate() {
                let example = examples[rows.first + j];
                own[example] = row[example];
            }
            Ok::<(), MethodError>(())
        })?;
        let leverages = influence.leverages(&own)?;
        pairs.iter_mut().for_each(|pair| pair.leverage = Some(leverages[pair.example]));
        Ok(())
    }

    /// Retrains without every example in `pairs` and fills in the actual changes.
    fn retrain<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        queries: &Inputs<B>,
        pairs: &mut [Pair],
        console: &Console,
    ) -> Result<Vec<FitReport>, Failure> {
        let positions = groups(pairs);
        let each: Vec<Vec<usize>> = positions.keys().map(|example| vec![*example]).collect();
        let found = self.retraining.changes(session, queries, &each, &self.settings, console)?;
        for pair in pairs {
            pair.actual = found.changes[positions[&pair.example]][pair.query];
        }
        Ok(found.fits)
    }

    fn text(
        &self,
        pairs: &[Pair],
        retrained: usize,
        first: Agreement,
        corrected: Option<Agreement>,
    ) -> String {
        let train = &self.problem.train;
        let mut headings = vec!["query", "train", "<label", "predicted change", "actual change"];
        headings.extend(corrected.map(|_| "first / (1 - leverage)"));
        let mut table = Table::new(&headings);
        for pair in pairs.iter().take(SHOWN) {
            let mut row = vec![
                self.query.set.ids()[pair.query].to_string(),
                train.set.ids()[pair.example].to_string(),
                train.label_name(train.set.labels()[pair.example]),
                signed(pair.predicted),
                signed(pair.actual),
            ];
            row.extend(pair.corrected().map(signed));
            table.row(row);
        }
        let more = pairs.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!("  ... and {more} more; --json has all\n") } else { String::new() };
        format!(
            "change of the loss of {} without one example of {}; {retrained} retrainings\n{}{more}\n{}",
            self.query.source,
            train.source,
            table.render(),
            agreement_text(first, corrected)
        )
    }

    fn entry(&self, pair: &Pair) -> Value {
        json!({
            "query": self.query.set.ids()[pair.query],
            "train": self.problem.train.set.ids()[pair.example],
            "predicted": pair.predicted,
            "actual": pair.actual,
            "leverage": pair.leverage,
            "first_over_one_minus_leverage": pair.corrected(),
        })
    }
}

/// Positions of the `count` scores of the largest size, ties by position. NaN ranks nowhere.
fn strongest(row: &[f64], count: usize) -> Vec<usize> {
    let sizes: Vec<f64> = row.iter().map(|score| score.abs()).collect();
    if_methods::Extremes::of(&sizes, count).proponents.into_iter().map(|ranked| ranked.example).collect()
}

/// The examples to leave out, each once, with its place among the retrainings.
fn groups(pairs: &[Pair]) -> BTreeMap<usize, usize> {
    let examples: std::collections::BTreeSet<usize> = pairs.iter().map(|pair| pair.example).collect();
    examples.into_iter().zip(0..).collect()
}

/// Of the first order, and where there are leverages of first / (1 - leverage).
fn agreements(pairs: &[Pair]) -> (Agreement, Option<Agreement>) {
    let actual: Vec<f64> = pairs.iter().map(|pair| pair.actual).collect();
    let predicted: Vec<f64> = pairs.iter().map(|pair| pair.predicted).collect();
    let corrected: Option<Vec<f64>> = pairs.iter().map(Pair::corrected).collect();
    let corrected = corrected.filter(|values| !values.is_empty());
    (Agreement::new(&predicted, &actual), corrected.map(|values| Agreement::new(&values, &actual)))
}

fn agreement_text(first: Agreement, corrected: Option<Agreement>) -> String {
    if first.slope.is_nan() {
        return "nothing to compare: no actual change, or no solution\n".into();
    }
    let mut headings = vec!["<agreement of predicted with actual", "first order"];
    headings.extend(corrected.map(|_| "first / (1 - leverage)"));
    let mut table = Table::new(&headings);
    let measures: [(&str, fn(&Agreement) -> f64); 4] = [
        ("Pearson", |a| a.pearson),
        ("Spearman", |a| a.spearman),
        ("slope through the origin", |a| a.slope),
        ("relative error", |a| a.relative_error),
    ];
    for (name, measure) in measures {
        let columns = std::iter::once(first).chain(corrected).map(|a| short(measure(&a)));
        table.row(std::iter::once(name.to_owned()).chain(columns));
    }
    let mut text = table.render();
    if corrected.is_some() {
        text += "\nFirst order underestimates large removals: without an example of leverage h the parameters\n\
                 really change about 1/(1 - h) times as much.\n";
    }
    text
}
