//! `influence what-if`: one group removed, every order side by side, and how far to trust them.

use if_linalg::{Cpu, SolveReport};
use if_methods::{GroupInfluence, MethodError, Order};
use if_models::Inputs;
use serde_json::{Value, json};

use super::{model_name, need_exact};
use crate::args::{Precision, WhatIfArgs};
use crate::console::Console;
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
    let (train, query) = load(&args.base, None)?;
    let groups = Groups::read(&args.group, &train)?;
    let risk = risk_settings(&args.base.objective, args.base.solve.removal)?;
    let mut problem = Problem::from_data(kind, train, &args.base.weights, risk, console)?;
    let settings =
        Settings::new(&args.base.objective, &args.base.solve, Precision::F64, problem.solver_of_many()?)?;
    settings.need_changes()?;
    need_exact(&settings, "what-if")?;
    let truth = Truth::prepare((args.retrain, args.proximal), &mut problem, &settings, console)?;
    let job = Job { args, settings, problem: &problem, query: &query, groups: &groups };
    job.run(truth.as_ref(), console)
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
    fn run(&self, truth: Option<&Truth>, console: &Console) -> Result<Report, Failure> {
        let session = Session::<f64>::open(self.problem, &self.settings, self.query.set.len())?;
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
        let names: Vec<usize> = (0..self.groups.names.len()).collect();
        flagged |= report_flags(&report, &names, "groups", console);
        let each = (0..self.groups.names.len()).map(|g| self.text(g, &losses, &columns));
        let text = each.collect::<Vec<_>>().join("\n");
        let entry = |g: usize| -> Value {
            let mut entry = json!({
                "group": self.groups.names[g],
                "size": self.groups.members[g].len(),
                "solve": report.columns[g],
                "trust": trust(g, &columns),
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

    /// Every order, and the certificates of the Newton steps.
    fn predict(
        &self,
        method: &GroupInfluence<Cpu<f64>>,
        queries: &Inputs<Cpu<f64>>,
        console: &Console,
    ) -> Result<(Vec<Column>, SolveReport), Failure> {
        let mut columns = Vec::new();
        let mut newton = None;
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
                    if order == Order::Newton {
                        newton = Some(found.report);
                    }
                }
                Err(MethodError::Curvature { .. }) => {
                    console.note("rescaled influence takes --curvature gauss-newton: left out");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((columns, newton.expect("Newton steps are taken with every curvature")))
    }

    fn text(&self, g: usize, losses: &[f64], columns: &[Column]) -> String {
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
            trust(g, columns)
        )
    }
}

/// In plain words, how far the predictions for group `g` can be believed.
fn trust(g: usize, columns: &[Column]) -> String {
    let find = |key: &str| columns.iter().find(|column| column.key == key);
    let of = |key: &str| find(key).map(|column| &column.effects[g]);
    let apart = |found: &[f64], from: &[f64]| {
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        norm(&mut found.iter().zip(from).map(|(a, b)| a - b)) / norm(&mut from.iter().copied())
    };
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let (Some(first), Some(newton)) = (of("first"), of("newton")) else { return String::new() };
    let difference = apart(first, newton);
    let mut text = if difference.is_nan() {
        "Nothing to compare: no effect, or no solution.\n".to_owned()
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
             Trust Newton for sign and rank; sizes are known only by retraining.\n",
            percent(difference)
        )
    };
    if let Some(truth) = find("actual") {
        let actual = &truth.effects[g];
        let errors = columns
            .iter()
            .filter(|column| column.key != "actual")
            .map(|column| format!("{} {}", column.title, percent(apart(&column.effects[g], actual))));
        text += &format!("Error against {}: {}.\n", truth.title, errors.collect::<Vec<_>>().join("; "));
    }
    text
}
