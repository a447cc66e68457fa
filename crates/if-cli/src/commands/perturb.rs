//! `influence perturb`: which features of which training examples a query's loss depends on.

use std::path::Path;

use if_data::{AtomicFile, NpyWriter};
use if_linalg::Backend;
use if_methods::{Attack, MethodError, descending};
use serde_json::json;

use super::{ink, model_name, need_extension, need_no_removal, picture_row, square_width};
use crate::args::{PerturbArgs, Precision, SolverName};
use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, Table, signed};
use crate::session::{Session, report_flags};
use crate::source::{Data, keep_inputs, load};

/// Features of an example that are named.
const SHOWN: usize = 5;
/// Examples in the picture.
const PICTURED: usize = 10;

/// Runs the command.
pub fn run(args: &PerturbArgs, console: &Console) -> Result<Report, Failure> {
    let outputs: Vec<&Path> = args.slopes.as_deref().into_iter().chain(args.picture.as_deref()).collect();
    let sources = [&args.base.model.train, &args.base.query];
    keep_inputs(&outputs, &sources, args.base.weights.weights.as_deref().as_slice())?;
    let kind = Kind::new(&args.base.model)?;
    let device = Device::open(&args.base.device, Precision::F64, console)?;
    let settings = Settings::new(&args.base.objective, &args.base.solve, &device, SolverName::Cg)?;
    settings.need_changes()?;
    need_no_removal(&settings, "perturb")?;
    need_extension(args.slopes.as_deref(), "--slopes", "npy")?;
    need_extension(args.picture.as_deref(), "--picture", "svg")?;
    let (train, query) = load(&args.base, None)?;
    if args.picture.is_some() {
        square_width(&train)?;
    }
    let problem = Problem::from_data(kind, train, &args.base.weights, settings.risk, console)?;
    let job = Job { args, settings, problem: &problem, query: &query };
    in_double!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a PerturbArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
}

impl Job<'_> {
    fn run<B: Backend<Elem = f64>>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let train = &self.problem.train;
        let picture = self.args.picture.as_deref().map(AtomicFile::create).transpose()?;
        let session = Session::open(backend, self.problem, &self.settings, self.query.set.len())?;
        let queries = session.inputs(self.query)?;
        let measured = session.measured(self.args.measure)?;
        let named = train.positions(&self.args.examples, "--examples")?;
        let (queries_count, width) = (self.query.set.len(), train.set.width());
        let mut slopes: Vec<f64> = Vec::new();
        let ((examples, report), optimality) = session.influence(console, |_, influence| {
            let influence = influence.measuring(measured.loss())?;
            let examples = if named.is_empty() {
                let first = session.inputs(&self.query.only(0))?;
                let mut strongest = Attack::victims(&influence, &first, console)?;
                strongest.truncate(self.args.top);
                strongest
            } else {
                named
            };
            let chosen = session.inputs(&train.select(&examples))?;
            let report = influence.perturbation(&queries, &chosen, console, |_, some| {
                slopes.extend_from_slice(some);
                Ok::<(), MethodError>(())
            })?;
            Ok((examples, report))
        })?;
        // Of a measurement the loss is minus what is measured.
        let sign = self.args.measure.sign();
        slopes.iter_mut().for_each(|slope| *slope *= sign);
        if let Some(path) = &self.args.slopes {
            let mut out = NpyWriter::<f64>::create(path, &[queries_count, examples.len(), width])?;
            out.append(&slopes).map_err(Failure::output)?;
            out.finish().map_err(Failure::output)?;
        }
        if let Some(file) = picture {
            let svg = self.picture(&examples, &slopes)?;
            file.finish_with(svg.as_bytes()).map_err(Failure::output)?;
        }
        let rows: Vec<usize> = examples.iter().map(|&i| train.set.ids()[i]).collect();
        let each = |q: usize, e: usize| &slopes[(q * examples.len() + e) * width..][..width];
        let entry = |q: usize| {
            let strongest = |e: usize| {
                let features = strongest(each(q, e)).into_iter();
                let features = features.map(|j| json!({ "feature": j, "slope": each(q, e)[j] }));
                json!({ "train": rows[e], "strongest": features.collect::<Vec<_>>() })
            };
            json!({
                "query": self.query.set.ids()[q],
                "solve": report.columns[q],
                "examples": (0..examples.len()).map(strongest).collect::<Vec<_>>(),
            })
        };
        let json = json!({
            "measure": self.args.measure,
            "unit": "change of what is measured of the query when the feature of the training example grows by 1, to first order",
            "settings": self.problem.record(&model_name(&self.args.base.model.model), &self.settings, Some(&self.args.base.query)),
            "optimality": optimality,
            "summary": report.summary(),
            "queries": (0..queries_count).map(entry).collect::<Vec<_>>(),
        });
        let mut text = String::new();
        for q in 0..queries_count {
            let mut table = Table::new(&["train", "<label", "<strongest features: slope"]);
            for (e, &example) in examples.iter().enumerate() {
                let features = strongest(each(q, e)).into_iter();
                let features = features.map(|j| format!("{}: {}", self.feature(j), signed(each(q, e)[j])));
                table.row([
                    rows[e].to_string(),
                    train.label_name(train.set.labels()[example]),
                    features.collect::<Vec<_>>().join("  "),
                ]);
            }
            let name = format!("{}[{}]", self.query.source.origin, self.query.set.ids()[q]);
            text += &format!(
                "{}{name}: how its {} changes when a feature of a training example grows by 1\n{}",
                if q == 0 { "" } else { "\n" },
                self.args.measure.name(),
                table.render()
            );
        }
        let flagged = report_flags(&report, self.query.set.ids(), "queries", console);
        Ok(Report { text, json, flagged: flagged || self.problem.unfinished })
    }

    /// A pixel by row and column, any other feature by its number.
    fn feature(&self, j: usize) -> String {
        match *self.problem.train.set.features().shape() {
            [_, _, width] | [_, 1, _, width] => format!("({}, {})", j / width, j % width),
            _ => j.to_string(),
        }
    }

    /// Every example beside its slopes for the first query.
    fn picture(&self, examples: &[usize], slopes: &[f64]) -> Result<String, Failure> {
        let train = &self.problem.train;
        let width = square_width(train)?;
        let features = train.set.width();
        let largest = slopes[..examples.len() * features].iter().fold(0.0f64, |all, s| all.max(s.abs()));
        let mut shown = Vec::new();
        for (e, &example) in examples.iter().take(PICTURED).enumerate() {
            let slopes = &slopes[e * features..(e + 1) * features];
            let grey = |slope: &f64| (127.5 * (1.0 - slope / largest.max(f64::MIN_POSITIVE))).round() as u8;
            let label = train.label_name(train.set.labels()[example]);
            shown.push((ink(train, example), format!("train {}\nlabel {label}", train.set.ids()[example])));
            shown.push((
                slopes.iter().map(grey).collect(),
                format!("slopes, dark:\nraises {}", self.args.measure.name()),
            ));
        }
        let title = format!("What {}[{}] hangs on", self.query.source.origin, self.query.set.ids()[0]);
        Ok(picture_row(&title, &shown, width))
    }
}

/// The features of the largest slopes.
fn strongest(slopes: &[f64]) -> Vec<usize> {
    let sizes: Vec<f64> = slopes.iter().map(|slope| slope.abs()).collect();
    let mut order = descending(&sizes);
    order.truncate(SHOWN);
    order
}
