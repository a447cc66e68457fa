//! `influence what-if`: one group removed, every order side by side, and how far to trust them.

use if_linalg::{Backend, SolveReport};
use if_methods::{GroupInfluence, MethodError, Order};
use if_models::{Curvature, Inputs};
use serde_json::{Value, json};

use super::{model_name, need_exact};
use crate::args::{Precision, WhatIfArgs};
use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::groups::Groups;
use crate::job::{Problem, Settings, risk_settings};
use crate::model::Kind;
use crate::output::{Report, Table, short, signed};
use crate::retrain::Truth;
use crate::session::{Session, report_flags};
use crate::source::{Data, load};

/// Queries in the table; the JSON document has all.
const SHOWN: usize = 20;
/// Up to such a difference to the Newton step the first order is as good, and up to this one it still ranks.
const SMALL: f64 = 0.05;
const MODERATE: f64 = 0.25;

/// Runs the command.
pub fn run(args: &WhatIfArgs, console: &Console) -> Result<Report, Failure> {
    let kind = Kind::new(&args.base.model)?;
    let device = Device::open(&args.base.device, Precision::F64, console)?;
    let (train, query) = load(&args.base, None)?;
    let groups = Groups::read(&args.group, &train)?;
    let risk = risk_settings(&args.base.objective, args.base.solve.removal)?;
    let mut problem = Problem::from_data(kind, train, &args.base.weights, risk, console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, problem.solver_of_many()?)?;
    settings.need_changes()?;
    need_exact(&settings, "what-if")?;
    let truth = Truth::prepare(&device, (args.retrain, args.proximal), &mut problem, &settings, console)?;
    let job = Job { args, settings, problem: &problem, query: &query, groups: &groups };
    in_double!(device, |backend| job.run(backend, truth.as_ref(), console))
}

struct Job<'a> {
    args: &'a WhatIfArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
    groups: &'a Groups,
}

/// One way to say what removal does: a name for people, one for programs, and effects, groups x queries.
struct Column {
    title: &'static str,
    key: &'static str,
    effects: Vec<Vec<f64>>,
}

impl Job<'_> {
    fn run<B: Backend<Elem = f64>>(
        &self,
        backend: &B,
        truth: Option<&Truth>,
        console: &Console,
    ) -> Result<Report, Failure> {
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        let losses = session.network.example_losses(&queries, &session.theta);
        let ((mut columns, report), optimality) =
            session.groups(console, |method| self.predict(&method, &queries, console))?;
        let mut flagged = self.problem.unfinished;
        if let Some(truth) = truth {
            let (effects, short_of) =
                truth.actual(&session, &queries, &self.groups.members, &self.settings, console)?;
            flagged |= short_of;
            columns.push(Column { title: truth.name(), key: "actual", effects });
        }
        flagged |= report_flags(&report, &self.groups.names, "groups", console);
        let trust: Vec<String> = (0..self.groups.names.len())
            .map(|g| match (report.columns[g].termination.is_failure(), self.settings.curvature) {
                (true, _) => "Not every system was solved: none of these numbers can be trusted.\n".to_owned(),
                (_, Curvature::Fisher) => {
                    format!("The empirical Fisher matrix is no second derivative: only retraining says how far these are off.\n{}", errors(g, &columns))
                }
                _ => trust(g, &columns),
            })
            .collect();
        let each = (0..self.groups.names.len()).map(|g| self.text(g, &losses, &columns, &trust[g]));
        let text = each.collect::<Vec<_>>().join("\n");
        let entry = |g: usize| -> Value {
            let mut entry = json!({
                "group": self.groups.names[g],
                "size": self.groups.members[g].len(),
                "solve": report.columns[g],
                "trust": trust[g],
            });
            for column in &columns {
                entry[column.key] = json!(column.effects[g]);
            }
            entry
        };
        let json = json!({
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "queries": self.query.set.ids(),
            "losses": losses,
            "summary": report.summary(),
            "groups": (0..self.groups.names.len()).map(entry).collect::<Vec<_>>(),
        });
        Ok(Report { text, json, flagged })
    }

    /// Every order, and for each group the worst of its certificates.
    fn predict<B: Backend<Elem = f64>>(
        &self,
        method: &GroupInfluence<B>,
        queries: &Inputs<B>,
        console: &Console,
    ) -> Result<(Vec<Column>, SolveReport), Failure> {
        let mut columns = Vec::new();
        let mut report: Option<SolveReport> = None;
        for (title, key, order, evaluated) in [
            ("first order", "first", Order::First, false),
            ("second order", "second", Order::Second, false),
            ("Newton", "newton", Order::Newton, false),
            ("Newton, evaluated", "newton_evaluated", Order::Newton, true),
            ("rescaled", "rescaled", Order::Rescaled, false),
        ] {
            match method.effects(&self.groups.members, queries, (order, evaluated), console) {
                Ok(found) => {
                    columns.push(Column { title, key, effects: found.effects });
                    report = Some(match report {
                        None => found.report,
                        Some(all) => worse(all, found.report),
                    });
                }
                Err(MethodError::Curvature { .. }) => {
                    console.note("rescaled influence takes --curvature gauss-newton: left out");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((columns, report.expect("there are orders that every curvature has")))
    }

    fn text(&self, g: usize, losses: &[f64], columns: &[Column], trust: &str) -> String {
        let (n, size) = (self.problem.train.set.len(), self.groups.members[g].len());
        let mut headings = vec!["query", "loss"];
        headings.extend(columns.iter().map(|column| column.title));
        let mut table = Table::new(&headings);
        for (q, loss) in losses.iter().enumerate().take(SHOWN) {
            let mut row = vec![self.query.set.ids()[q].to_string(), short(*loss)];
            row.extend(columns.iter().map(|column| signed(column.effects[g][q])));
            table.row(row);
        }
        let more = losses.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!("  ... and {more} more; --json has all\n") } else { String::new() };
        format!(
            "without group {}: {size} of {n} training examples ({:.1} %), change of the loss of {}\n{}{more}\n{}",
            self.groups.names[g],
            100.0 * size as f64 / n as f64,
            self.query.source,
            table.render(),
            trust
        )
    }
}

/// One report for two: for each group as good as the worse.
fn worse(mut one: SolveReport, other: SolveReport) -> SolveReport {
    for (one, other) in one.columns.iter_mut().zip(other.columns) {
        if other.termination.is_failure() && !one.termination.is_failure() {
            *one = other;
        }
    }
    one
}

/// `|found - from| / |from|`.
fn apart(found: &[f64], from: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(from).map(|(a, b)| a - b)) / norm(&mut from.iter().copied())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// How far every prediction for group `g` is from what really happened, where that is known.
fn errors(g: usize, columns: &[Column]) -> String {
    let Some(truth) = columns.iter().find(|column| column.key == "actual") else { return String::new() };
    let errors = columns
        .iter()
        .filter(|column| column.key != "actual")
        .map(|column| format!("{} {}", column.title, percent(apart(&column.effects[g], &truth.effects[g]))));
    format!("Error against {}: {}.\n", truth.title, errors.collect::<Vec<_>>().join("; "))
}

/// In plain words, how far the predictions for group `g` can be believed: by what really happened where it is known,
/// else by how far the first order is from the Newton step.
fn trust(g: usize, columns: &[Column]) -> String {
    let of = |key: &str| columns.iter().find(|column| column.key == key).map(|column| &column.effects[g]);
    let (Some(first), Some(newton)) = (of("first"), of("newton")) else { return String::new() };
    if let Some(actual) = of("actual") {
        let [first, newton] = [first, newton].map(|found| apart(found, actual));
        let verdict = if first.is_nan() || newton.is_nan() {
            "Nothing to compare: nothing happened."
        } else if first <= SMALL {
            "First order is as good as retraining here."
        } else if newton <= MODERATE {
            "At this size take Newton: first order is off, the Newton step is near."
        } else {
            "This group holds too much of what the model knows, or moves what no derivative sees: only retraining tells."
        };
        return format!("{verdict}\n{}", errors(g, columns));
    }
    let difference = apart(first, newton);
    if difference.is_nan() {
        "Nothing to compare: no effect.\n".to_owned()
    } else if difference <= SMALL {
        format!(
            "First order is {} from the Newton step: at this size it is as good, and so is everything beyond it.\n",
            percent(difference)
        )
    } else if difference <= MODERATE {
        format!(
            "First order is {} from the Newton step: trust its ranking of queries, and take Newton for sizes.\n",
            percent(difference)
        )
    } else {
        format!(
            "First order is {} from the Newton step: this group holds too much of what the model knows for it. \
             Trust Newton for sign and rank; sizes are known only by retraining (--retrain).\n",
            percent(difference)
        )
    }
}
