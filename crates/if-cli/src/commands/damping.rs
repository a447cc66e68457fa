//! `influence damping`: the spectrum, the smallest damping that makes the system definite, and how stable
//! the top proponents are along the damping.

use std::path::Path;

use if_data::AtomicFile;
use if_linalg::Backend;
use if_methods::{DampingPath, DampingReport, PathPoint, PointStatus, QueryPath, Spectrum, TOP};
use serde_json::{Value, json};

use super::damping_plot::plot;
use super::model_name;
use crate::args::{DampingArgs, RemovalName, SolverName};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings, risk_settings};
use crate::model::Kind;
use crate::output::{Report, Table, short};
use crate::parse::Damping;
use crate::session::Session;
use crate::solver::SolverSettings;
use crate::source::{Data, keep_inputs};

/// Decades of eigenvalues that are told apart on each side of 0.
const DECADES: i32 = 6;
/// Characters of the longest bar.
const BAR: f64 = 40.0;
/// An error below this share of the lowest eigenvalue does not show in its four digits.
const SETTLED: f64 = 1e-4;
/// Solves that the memory plan counts as one: it takes ten vectors for each.
const VECTORS_OF_A_SOLVE: usize = 10;
/// Vectors beside the basis: three for each of at most so many dampings.
const BESIDE_THE_BASIS: usize = 3 * 20;

/// Runs the command.
pub fn run(args: &DampingArgs, console: &Console) -> Result<Report, Failure> {
    let outputs: Vec<&Path> = args.plot.as_deref().into_iter().collect();
    if let Some(path) = outputs.iter().find(|path| path.extension().is_none_or(|e| e != "svg")) {
        return Err(Failure::input(format!("--plot {}: expected a name that ends in .svg", path.display())));
    }
    let sources = [&args.model.train, &args.query];
    keep_inputs(&outputs, &sources, args.weights.weights.as_deref().as_slice())?;
    let kind = Kind::new(&args.model)?;
    let device = Device::open(&args.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let settings = settings(args, &device)?;
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let query = Data::load_like(&args.query, label, &train)?;
    let problem = Problem::from_data(kind, train, &args.weights, settings.risk, console)?;
    let job = Job { args, settings, problem: &problem, query: &query };
    on_device!(device, |backend| job.run(backend, console))
}

/// No system is solved by a solver, and the ranking does not depend on what removal means: every score of a
/// query moves by one number.
fn settings(args: &DampingArgs, device: &Device) -> Result<Settings, Failure> {
    Ok(Settings {
        risk: risk_settings(&args.objective, RemovalName::Fixed)?,
        solver: SolverSettings::plain(SolverName::Cg),
        damping: Damping::Number(0.0),
        curvature: args.curvature.into(),
        layers: args.layers.clone(),
        tolerance: args.tolerance,
        max_iterations: args.steps,
        idle: Vec::new(),
        device: device.name.clone(),
        precision: device.precision,
        memory_budget: args.memory_budget,
        run: None,
    })
}

struct Job<'a> {
    args: &'a DampingArgs,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let vectors = self.args.steps + BESIDE_THE_BASIS;
        let solves = vectors.div_ceil(VECTORS_OF_A_SOLVE);
        let session = Session::open(backend, self.problem, &self.settings, solves)?;
        let queries = session.inputs(self.query)?;
        // Open before the long run: what cannot be written fails now.
        let output = self.args.plot.as_deref().map(AtomicFile::create).transpose()?;
        let ((found, parameters), optimality) = session.curvature(console, |risk, operator| {
            let DampingArgs { steps, tolerance, damping, .. } = *self.args;
            let path = DampingPath { risk, theta: &session.theta, operator, steps, tolerance };
            Ok((path.run(&queries, damping, console)?, operator.dim()))
        })?;
        if let Some(file) = output {
            file.finish_with(plot(&found, parameters).as_bytes()).map_err(Failure::output)?;
        }
        let flagged = self.warn(&found, console);
        let mut json = self.json(&found);
        json["optimality"] = json!(optimality);
        json["parameters"] = json!(session.coverage);
        let text = self.text(&found, parameters);
        Ok(Report { text, json, flagged: flagged || self.problem.unfinished })
    }

    /// Names on stderr what is not resolved; whether there is any.
    fn warn(&self, found: &DampingReport, console: &Console) -> bool {
        let of = |status| (0..found.dampings.len()).filter(move |i| found.status(*i) == status);
        let unresolved: Vec<String> = of(PointStatus::Unresolved).map(|i| short(found.dampings[i])).collect();
        if unresolved.is_empty() {
            return false;
        }
        console.warn(&format!(
            "some query is not solved to {:.0e} in {} steps at damping {}: raise --steps or --tolerance",
            self.args.tolerance,
            self.args.steps,
            unresolved.join(", ")
        ));
        true
    }

    fn text(&self, found: &DampingReport, parameters: usize) -> String {
        let spectrum = &found.spectrum;
        format!(
            "{}: estimated eigenvalues of the curvature with l2, without damping ({parameters} parameters)\n{}\n  lowest {}, mean {} (standard error {}), highest {}\n\n{}\n\ntop {TOP} proponents of {} along the damping; means over {}\n{}\n{}\n",
            self.problem.train.source,
            histogram(spectrum, parameters),
            short(spectrum.lowest),
            short(spectrum.mean),
            short(spectrum.mean_error),
            short(spectrum.highest),
            definite_text(spectrum),
            self.query.source,
            match found.queries.len() {
                1 => "1 query".to_owned(),
                n => format!("{n} queries"),
            },
            path_table(found),
            recommendation(found, self.args.damping),
        )
    }

    fn json(&self, found: &DampingReport) -> Value {
        let name = model_name(&self.args.model.model);
        let mut settings = self.problem.record(&name, &self.settings, Some(&self.args.query));
        // What belongs to solvers and single systems.
        if let Some(settings) = settings.as_object_mut() {
            settings.retain(|name, _| {
                !["solver", "max_iterations", "damping", "removal"].contains(&name.as_str())
            });
        }
        settings["steps"] = json!(self.args.steps);
        let damping = |at: Option<usize>| at.map(|i| found.dampings[i]);
        let queries = found.queries.iter().zip(self.query.set.ids());
        json!({
            "settings": settings,
            "spectrum": spectrum_json(&found.spectrum),
            "reference": damping(found.reference),
            "recommended": damping(found.recommended),
            "dampings": (0..found.dampings.len()).map(|i| damping_json(found, i)).collect::<Vec<_>>(),
            "queries": queries.map(|(query, id)| self.query_json(found, query, *id)).collect::<Vec<_>>(),
        })
    }

    fn query_json(&self, found: &DampingReport, query: &QueryPath, id: usize) -> Value {
        let train = &self.problem.train;
        let top = |point: &PathPoint| -> Vec<Value> {
            let of = |r: &if_methods::Ranked| {
                let label = train.set.labels()[r.example];
                json!({ "train": train.set.ids()[r.example], "label": label, "score": r.score })
            };
            point.top.iter().map(of).collect()
        };
        let points = query.points.iter().zip(&found.dampings).map(|(point, damping)| {
            json!({
                "damping": damping,
                "status": point.status,
                "residual": point.residual,
                "overlap_with_reference": point.overlap_with_reference,
                "overlap_with_next": point.overlap_with_next,
                "spearman_with_next": point.spearman_with_next,
                "proponents": top(point),
            })
        });
        json!({ "query": id, "gradient_norm": query.gradient_norm, "path": points.collect::<Vec<_>>() })
    }
}

fn spectrum_json(spectrum: &Spectrum) -> Value {
    let value = |r: &if_linalg::Ritz| json!({ "value": r.value, "error": r.error, "weight": r.weight });
    json!({
        "lowest": spectrum.lowest,
        "lowest_error": spectrum.lowest_error,
        "highest": spectrum.highest,
        "mean": spectrum.mean,
        "mean_error": spectrum.mean_error,
        "smallest_definite_damping": spectrum.smallest_definite_damping(),
        "values": spectrum.values.iter().map(value).collect::<Vec<_>>(),
    })
}

fn damping_json(found: &DampingReport, i: usize) -> Value {
    let over = |value: fn(&PathPoint) -> Option<f64>| {
        found.over_queries(i, value).map(|(mean, least)| json!({ "mean": mean, "least": least }))
    };
    json!({
        "damping": found.dampings[i],
        "status": found.status(i),
        "overlap_with_reference": over(|point| point.overlap_with_reference),
        "overlap_with_next": over(|point| point.overlap_with_next),
        "spearman_with_next": over(|point| point.spearman_with_next),
    })
}

/// Shares of the eigenvalues by decade, the most negative first; empty decades are left out.
fn histogram(spectrum: &Spectrum, parameters: usize) -> String {
    let high = spectrum.highest.abs().max(spectrum.lowest.abs()).max(f64::MIN_POSITIVE);
    let top = high.log10().floor() as i32 + 1;
    // Read from text: powers of ten are off by a rounding.
    let ends: Vec<f64> =
        (top - DECADES..=top).map(|e| format!("1e{e}").parse().unwrap_or(f64::INFINITY)).collect();
    let edges: Vec<f64> = ends.iter().rev().map(|e| -e).chain(ends.iter().copied()).collect();
    let bins: Vec<([f64; 2], f64)> = edges
        .windows(2)
        .map(|edge| ([edge[0], edge[1]], spectrum.share(edge[0], edge[1])))
        .filter(|(_, share)| *share > 0.0)
        .collect();
    let largest = bins.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let mut table = Table::new(&["from", "to", "share", "about", "<"]);
    for ([from, to], share) in bins {
        let bar = "█".repeat((BAR * share / largest).round() as usize);
        let count = (share * parameters as f64).round();
        let share = 100.0 * share;
        let share = if share < 0.01 { "<0.01 %".to_owned() } else { format!("{share:.2} %") };
        table.row([power(from), power(to), share, format!("{count}"), bar]);
    }
    table.render()
}

/// `-1e-3`.
fn power(value: f64) -> String {
    format!("{value:e}")
}

fn definite_text(spectrum: &Spectrum) -> String {
    let damping = spectrum.smallest_definite_damping();
    if damping == 0.0 && spectrum.lowest_error >= spectrum.lowest.abs() {
        return format!(
            "no negative curvature was seen, but the lowest eigenvalue is not settled: {} give or take {:.0e}; --steps settles it",
            short(spectrum.lowest),
            spectrum.lowest_error
        );
    }
    if damping == 0.0 {
        return "no damping is needed to make the system definite: no negative curvature was seen".to_owned();
    }
    let named = format!("smallest damping that makes the system definite: {}", short(damping));
    let error = spectrum.lowest_error;
    if error < SETTLED * damping {
        return named;
    }
    format!("{named}, give or take {error:.0e}: the lowest eigenvalue is not settled, --steps settles it")
}

fn path_table(found: &DampingReport) -> String {
    let reference = match found.reference {
        Some(i) => format!("same as at {}", plain(found.dampings[i])),
        None => "same as at the reference".to_owned(),
    };
    let mut table =
        Table::new(&["damping", "<", &reference, "least", "as at the next", "least", "Spearman with next"]);
    for (i, damping) in found.dampings.iter().enumerate() {
        let status = match found.status(i) {
            PointStatus::Resolved => "",
            PointStatus::Unresolved => "not resolved",
            PointStatus::Indefinite => "not definite",
        };
        let pair = |value: fn(&PathPoint) -> Option<f64>| match found.over_queries(i, value) {
            Some((mean, least)) => [percent(mean), percent(least)],
            None => ["-".to_owned(), "-".to_owned()],
        };
        let [with_reference, least_reference] = pair(|point| point.overlap_with_reference);
        let [with_next, least_next] = pair(|point| point.overlap_with_next);
        let rank = found.over_queries(i, |point| point.spearman_with_next);
        let rank = rank.filter(|(mean, _)| mean.is_finite());
        let rank = rank.map_or("-".to_owned(), |(mean, _)| format!("{mean:.3}"));
        table.row([
            plain(*damping),
            status.to_owned(),
            with_reference,
            least_reference,
            with_next,
            least_next,
            rank,
        ]);
    }
    table.render()
}

/// Dampings of the path are round: `3e-4`, but `0.0123` where the user says so.
fn plain(damping: f64) -> String {
    let digits = damping.to_string();
    if digits.len() <= 6 { digits } else { format!("{damping:e}") }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn recommendation(found: &DampingReport, asked: Option<f64>) -> String {
    let resolved = (0..found.dampings.len()).filter(|i| found.status(*i) == PointStatus::Resolved);
    let Some(best) = found.recommended else {
        return match resolved.count() {
            0 => "no damping of this path is solved for all queries: raise --steps".to_owned(),
            _ => "no damping keeps the top of these queries at its neighbours: the ranking depends on the damping everywhere, so quote the damping with every result".to_owned(),
        };
    };
    let damping = plain(found.dampings[best]);
    let advice = format!(
        "recommended: --damping {damping}, the smallest at which the system is definite and solved, and its neighbours keep 80 % of the top or more"
    );
    match asked.filter(|asked| *asked < found.dampings[best]) {
        Some(asked) => format!("{advice}; at --damping {} this is not so", plain(asked)),
        None => advice,
    }
}
