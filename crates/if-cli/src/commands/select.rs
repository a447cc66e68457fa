//! `influence select`: the group of a size that matters most to each query.

use std::path::Path;

use if_linalg::Backend;
use if_methods::{GroupDraw, Selected, Selection};
use serde_json::json;

use super::{model_name, need_exact};
use crate::args::{Precision, SelectArgs};
use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::groups::Groups;
use crate::job::{Problem, Settings, risk_settings};
use crate::model::Kind;
use crate::output::{Csv, Report, Table, signed};
use crate::retrain::Truth;
use crate::session::{Session, report_flags};
use crate::source::{Data, keep_inputs, load};

/// Above this share of the training examples the second order is often far off.
const LARGE: f64 = 0.2;
/// Members of a group that are named.
const SHOWN: usize = 15;

/// Runs the command.
pub fn run(args: &SelectArgs, console: &Console) -> Result<Report, Failure> {
    let outputs: Vec<&Path> = args.save_groups.as_deref().into_iter().collect();
    let sources = [&args.base.model.train, &args.base.query];
    keep_inputs(&outputs, &sources, args.base.weights.weights.as_deref().as_slice())?;
    let kind = Kind::new(&args.base.model)?;
    let device = Device::open(&args.base.device, Precision::F64, console)?;
    let (train, query) = load(&args.base, None)?;
    let n = train.set.len();
    if args.size >= n {
        return Err(Failure::input(format!(
            "--size {}: expected less than the {n} training examples",
            args.size
        )));
    }
    let risk = risk_settings(&args.base.objective, args.base.solve.removal)?;
    let mut problem = Problem::from_data(kind, train, &args.base.weights, risk, console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, problem.solver_of_many()?)?;
    settings.need_changes()?;
    need_exact(&settings, "select")?;
    problem.need_gauss_newton(&settings, "select")?;
    let truth = Truth::prepare(&device, (args.retrain, false), &mut problem, &settings, console)?;
    let job = Job { args, settings, problem: &problem, query: &query };
    in_double!(device, |backend| job.run(backend, truth.as_ref(), console))
}

struct Job<'a> {
    args: &'a SelectArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
}

impl Job<'_> {
    fn run<B: Backend<Elem = f64>>(
        &self,
        backend: &B,
        truth: Option<&Truth>,
        console: &Console,
    ) -> Result<Report, Failure> {
        let saved = self.args.save_groups.as_deref().map(Csv::create).transpose()?;
        let session = Session::open(backend, self.problem, &self.settings, 1)?;
        let each: Vec<Data> = (0..self.query.set.len()).map(|q| self.query.only(q)).collect();
        let selection = Selection { opponents: self.args.opponents, ..Selection::of(self.args.size) };
        let (found, optimality) = session.groups(console, |method| {
            let one = |query: &Data| Ok(method.select(&session.inputs(query)?, selection, console)?);
            each.iter().map(one).collect::<Result<Vec<Selected>, Failure>>()
        })?;
        let mut report = found[0].report.clone();
        found[1..].iter().for_each(|found| report.extend(found.report.clone()));
        let mut flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        flagged |= self.problem.unfinished;
        let mut actual: Vec<Option<[f64; 3]>> = vec![None; found.len()];
        if let Some(truth) = truth {
            let mut draw = GroupDraw::new(self.args.seed);
            for ((found, query), actual) in found.iter().zip(&each).zip(&mut actual) {
                let random = draw.random(self.problem.train.set.len(), self.args.size);
                let groups = [found.group.clone(), found.greedy.clone(), random];
                let queries = session.inputs(query)?;
                let (changes, short_of) =
                    truth.actual(&session, &queries, &groups, &self.settings, console)?;
                flagged |= short_of;
                *actual = Some([0, 1, 2].map(|g| changes[g][0]));
            }
        }
        if let Some(table) = saved {
            let name = |query: &Data| format!("query-{}", query.set.ids()[0]);
            let members = found.iter().map(|found| found.group.clone()).collect();
            let groups = Groups { names: each.iter().map(name).collect(), members };
            groups.write(table, &self.problem.train)?;
        }
        let ids = self.problem.train.set.ids();
        let rows = |group: &[usize]| group.iter().map(|&i| ids[i]).collect::<Vec<_>>();
        let entries = found.iter().zip(&each).zip(&actual).map(|((found, query), actual)| {
            json!({
                "query": query.set.ids()[0],
                "group": rows(&found.group),
                "effect": found.effect,
                "greedy": rows(&found.greedy),
                "greedy_effect": found.greedy_effect,
                "iterations": found.iterations,
                "solve": found.report.columns[0],
                "actual": actual.map(|[group, greedy, random]| json!({"group": group, "greedy": greedy, "random": random})),
            })
        });
        let json = json!({
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "size": self.args.size,
            "summary": report.summary(),
            "queries": entries.collect::<Vec<_>>(),
        });
        let text = found
            .iter()
            .zip(&each)
            .zip(actual)
            .map(|((found, query), actual)| self.text(query, found, actual, &rows(&found.group)));
        let text = text.collect::<Vec<_>>().join("\n");
        Ok(Report { text, json, flagged })
    }

    fn text(&self, query: &Data, found: &Selected, actual: Option<[f64; 3]>, rows: &[usize]) -> String {
        let mut headings = vec!["<group", "second-order effect"];
        headings.extend(actual.map(|_| "actual, by retraining"));
        let mut table = Table::new(&headings);
        let effects = [Some(found.effect), Some(found.greedy_effect), None];
        for (g, name) in ["selected", "strongest one by one", "random"].into_iter().enumerate() {
            let mut row = vec![name.to_owned(), effects[g].map_or("-".into(), signed)];
            row.extend(actual.map(|actual| signed(actual[g])));
            if g < 2 || actual.is_some() {
                table.row(row);
            }
        }
        let shown: Vec<String> = rows.iter().take(SHOWN).map(usize::to_string).collect();
        let more = rows.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        if found.effect == 0.0 && found.greedy_effect == 0.0 {
            return format!(
                "{}[{}]: no training example matters to its loss\n",
                query.source.origin,
                query.set.ids()[0]
            );
        }
        let share = self.args.size as f64 / self.problem.train.set.len() as f64;
        let caution = if share > LARGE && actual.is_none() {
            format!(
                "{:.0} % of the training examples: beyond what two orders tell, ask with --retrain\n",
                100.0 * share
            )
        } else {
            String::new()
        };
        format!(
            "{}[{}]: {} training examples whose removal {} its loss most\n  {}{more}\n{}{caution}",
            query.source.origin,
            query.set.ids()[0],
            self.args.size,
            if self.args.opponents { "lowers" } else { "raises" },
            shown.join(", "),
            table.render()
        )
    }
}
