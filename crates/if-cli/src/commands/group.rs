//! `influence group`: what happens to queries without groups of training examples.

use std::path::Path;
use std::time::Instant;

use if_data::{AtomicFile, Element, NpyWriter};
use if_linalg::Backend;
use if_methods::{Agreement, GroupEffects};
use serde_json::{Value, json};

use super::{certificates_beside, model_name, need_exact, need_extension};
use crate::args::{GroupArgs, OrderName, Precision};
use crate::console::Console;
use crate::device::{Device, in_double, on_device};
use crate::error::Failure;
use crate::groups::Groups;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Csv, Report, Table, document, exact, seconds, short};
use crate::retrain::Truth;
use crate::session::{Optimality, Session, report_flags};
use crate::source::{Data, keep_inputs, load};

/// Runs the command.
pub fn run(args: &GroupArgs, console: &Console) -> Result<Report, Failure> {
    let certificates = certificates_beside(&args.effects, "--effects", "csv")?;
    let mut outputs: Vec<&Path> = vec![&args.effects, &certificates];
    outputs.extend(args.draw.save_groups.as_deref().into_iter().chain(args.parameter_changes.as_deref()));
    let files: Vec<&Path> =
        args.base.weights.weights.as_deref().into_iter().chain(args.source.groups.as_deref()).collect();
    keep_inputs(&outputs, &[&args.base.model.train, &args.base.query], &files)?;
    let kind = Kind::new(&args.base.model)?;
    need_extension(args.parameter_changes.as_deref(), "--parameter-changes", "npy")?;
    need_extension(args.draw.save_groups.as_deref(), "--save-groups", "csv")?;
    if args.source.draw.is_none() && args.draw.is_given() {
        return Err(Failure::input("--draw-size, --draw-count and --draw-seed belong to --draw"));
    }
    let precision = match args.precision {
        Some(found) if found != Precision::F64 && (args.retrain || args.proximal) => {
            let option = if args.retrain { "--retrain" } else { "--proximal" };
            return Err(Failure::input(format!("{option}: expected --precision f64, found {found}")));
        }
        Some(precision) => precision,
        None if args.retrain || args.proximal => Precision::F64,
        None => kind.default_precision(),
    };
    let device = Device::open(&args.base.device, precision, console)?;
    let (train, query) = load(&args.base, args.source.group_by.as_deref())?;
    let groups = match (&args.source.groups, &args.source.group_by) {
        (Some(path), _) => Some(Groups::read(path, &train)?),
        (_, Some(column)) => Some(Groups::by_column(column, &train)?),
        _ => None,
    };
    let risk = crate::job::risk_settings(&args.base.objective, args.base.solve.removal)?;
    let mut problem = Problem::from_data(kind, train, &args.base.weights, risk, console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, problem.solver_of_many()?)?;
    settings.need_changes()?;
    if args.order == OrderName::Newton {
        need_exact(&settings, "--order newton")?;
    }
    if args.order == OrderName::Rescaled {
        problem.need_gauss_newton(&settings, "--order rescaled")?;
    }
    let truth = Truth::prepare(&device, (args.retrain, args.proximal), &mut problem, &settings, console)?;
    let job = Job { args, settings, problem: &problem, query: &query, certificates: &certificates };
    job.run(&device, groups, truth.as_ref(), console)
}

struct Job<'a> {
    args: &'a GroupArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
    certificates: &'a Path,
}

/// What is predicted.
struct Predicted {
    groups: Groups,
    found: GroupEffects,
    optimality: Optimality,
}

impl Job<'_> {
    fn run(
        &self,
        device: &Device,
        groups: Option<Groups>,
        truth: Option<&Truth>,
        console: &Console,
    ) -> Result<Report, Failure> {
        let start = Instant::now();
        // Both outputs are open before the long run: what cannot be written fails now.
        let table = Csv::create(&self.args.effects)?;
        let certificates = AtomicFile::create(self.certificates)?;
        let saved = self.args.draw.save_groups.as_deref().map(Csv::create).transpose()?;
        let predicted = on_device!(device, |backend| self.predict(backend, groups, console))?;
        let Predicted { groups, found, .. } = &predicted;
        let actual = truth
            .map(|truth| in_double!(device, |backend| self.actual(backend, truth, &groups.members, console)));
        let actual = actual.transpose()?;
        if let Some(table) = saved {
            groups.write(table, &self.problem.train)?;
        }
        let agreement =
            actual.as_ref().map(|(actual, _)| Agreement::new(&found.effects.concat(), &actual.concat()));
        let json = self.record(&predicted, agreement);
        let text = format!("{:#}\n", document("group", json.clone()));
        certificates.finish_with(text.as_bytes()).map_err(Failure::output)?;
        self.write(table, groups, found, actual.as_ref().map(|(actual, _)| actual))?;
        let flagged = report_flags(&found.report, &groups.names, "groups", console);
        let short_of = actual.is_some_and(|(_, short_of)| short_of);
        let text = self.text(groups, found, agreement, start.elapsed().as_secs_f64());
        Ok(Report { text, json, flagged: flagged || short_of || self.problem.unfinished })
    }

    fn predict<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        groups: Option<Groups>,
        console: &Console,
    ) -> Result<Predicted, Failure> {
        let count = groups.as_ref().map_or(1, |groups| groups.names.len()).max(self.query.set.len());
        let session = Session::open(backend, self.problem, &self.settings, count)?;
        let queries = session.inputs(self.query)?;
        let order = (self.args.order.into(), self.args.evaluated);
        let ((groups, found), optimality) = session.groups(console, |method| {
            let groups = match (groups, self.args.source.draw) {
                (Some(groups), _) => groups,
                (None, Some(kind)) => {
                    Groups::draw(kind, &self.args.draw, &session, (&method.single(), &queries))?
                }
                (None, None) => unreachable!("one source of groups is required"),
            };
            if let Some(path) = &self.args.parameter_changes {
                let shape = [groups.members.len(), session.network.layout().dim()];
                let mut out = NpyWriter::<B::Elem>::create(path, &shape)?;
                let changes = method.parameter_changes(&groups.members, order.0, console)?;
                out.append(&changes.total.to_rows()).map_err(Failure::output)?;
                out.finish().map_err(Failure::output)?;
            }
            let found = method.effects(&groups.members, &queries, order, console)?;
            Ok((groups, found))
        })?;
        Ok(Predicted { groups, found, optimality })
    }

    /// What really happens, groups x queries, and whether some of it is not exact.
    fn actual<B: Backend<Elem = f64>>(
        &self,
        backend: &B,
        truth: &Truth,
        groups: &[Vec<usize>],
        console: &Console,
    ) -> Result<(Vec<Vec<f64>>, bool), Failure> {
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        truth.actual(&session, &queries, groups, &self.settings, console)
    }

    fn write(
        &self,
        mut table: Csv,
        groups: &Groups,
        found: &GroupEffects,
        actual: Option<&Vec<Vec<f64>>>,
    ) -> Result<(), Failure> {
        let mut heading = vec!["group", "size", "query", "effect"];
        heading.extend(actual.map(|_| if self.args.proximal { "proximal" } else { "actual" }));
        if found.first_order.is_some() {
            heading.extend(["first_order", "interaction"]);
        }
        table.row(&heading)?;
        for (g, effects) in found.effects.iter().enumerate() {
            for (q, effect) in effects.iter().enumerate() {
                let mut row = vec![
                    groups.names[g].clone(),
                    groups.members[g].len().to_string(),
                    self.query.set.ids()[q].to_string(),
                    exact(*effect),
                ];
                row.extend(actual.map(|actual| exact(actual[g][q])));
                if let Some(first) = &found.first_order {
                    row.extend([first[g][q], effect - first[g][q]].map(exact));
                }
                table.row(&row)?;
            }
        }
        table.finish()
    }

    fn record(&self, predicted: &Predicted, agreement: Option<Agreement>) -> Value {
        let Predicted { groups, found, optimality } = predicted;
        let each = groups.names.iter().zip(&groups.members).zip(&found.report.columns);
        let groups = each.map(|((name, members), column)| {
            let mut entry = json!(column);
            (entry["group"], entry["size"]) = (json!(name), json!(members.len()));
            entry
        });
        json!({
            "effects": self.args.effects.file_name().map(|name| name.to_string_lossy()),
            "sign": "positive: without the group the loss of the query rises",
            "order": if_methods::Order::from(self.args.order),
            "evaluated": self.args.evaluated,
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "solver": found.report.solver,
            "effective_damping": found.report.damping,
            "converged": found.report.all_converged(),
            "summary": found.report.summary(),
            "truth": match (self.args.retrain, self.args.proximal) {
                (true, _) => Some("retraining"),
                (_, true) => Some("proximal"),
                _ => None,
            },
            "agreement": agreement,
            "groups": groups.collect::<Vec<_>>(),
        })
    }

    fn text(
        &self,
        groups: &Groups,
        found: &GroupEffects,
        agreement: Option<Agreement>,
        elapsed: f64,
    ) -> String {
        let mut text = format!(
            "{}: {} groups x {} queries\n{}, {}\n",
            self.args.effects.display(),
            groups.names.len(),
            self.query.set.len(),
            found.report.summary(),
            seconds(elapsed)
        );
        let mut table = Table::new(&["<group", "examples", "mean effect", "largest effect"]);
        let order = strongest(&found.effects);
        for &g in order.iter().take(SHOWN) {
            let effects = &found.effects[g];
            let mean = effects.iter().sum::<f64>() / effects.len() as f64;
            let largest = effects.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a });
            let size = groups.members[g].len().to_string();
            table.row([groups.names[g].clone(), size, short(mean), short(largest.unwrap_or(f64::NAN))]);
        }
        text +=
            &format!("\npredicted change of the queries' losses, strongest groups first\n{}", table.render());
        if let Some(found) = agreement {
            text += &format!(
                "\nagainst {}, all groups and queries together: Pearson {}, Spearman {}, slope through the origin {}, relative error {}\n",
                if self.args.proximal { "the proximal response" } else { "retraining" },
                short(found.pearson),
                short(found.spearman),
                short(found.slope),
                short(found.relative_error)
            );
        }
        text
    }
}

/// Groups in the table; the csv file has all.
const SHOWN: usize = 10;

/// Positions of the groups, those of the largest mean size of an effect first.
fn strongest(effects: &[Vec<f64>]) -> Vec<usize> {
    let sizes: Vec<f64> = effects.iter().map(|row| row.iter().map(|effect| effect.abs()).sum()).collect();
    if_methods::descending(&sizes)
}
