//! `influence fragility`: how far retraining bears influence out, over kinds of networks (Basu, Pope & Feizi 2021).

use std::time::Instant;

use if_linalg::{Backend, Cpu, Observer};
use if_methods::{Agreement, Fragility, FragilityTrial};
use if_models::{LayerSpec, Lbfgs, ModelSpec, RiskSettings};
use serde_json::{Value, json};

use super::model_name;
use crate::args::{FragilityArgs, ModelName, Precision};
use crate::console::{Console, Quiet};
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::model::{check_shape, network_spec};
use crate::output::{Report, Table, seconds, short};
use crate::source::Data;

/// Runs the command.
pub fn run(args: &FragilityArgs, console: &Console) -> Result<Report, Failure> {
    let device = Device::open(&args.device, Precision::F64, console)?;
    let train = Data::load(&args.train, args.label.as_deref())?;
    let test = Data::load_like(&args.test, args.label.as_deref(), &train)?;
    let kinds = kinds(args, &train)?;
    for kind in &kinds {
        let network = kind.spec.build(&Cpu::<f64>::new())?;
        for data in [&train, &test] {
            check_shape(&kind.spec, data)?;
            data.set
                .targets(network.loss(), network.outputs())
                .map_err(|error| Failure::input(format!("{}: {error}", data.source)))?;
        }
    }
    let job = Job { args, device: &device, train: &train, test: &test, kinds };
    in_double!(device, |backend| job.run(backend, console))
}

/// One kind of network, and how it is trained.
struct Kind {
    model: ModelName,
    spec: ModelSpec,
    l2: f64,
    examples: usize,
}

/// Every axis, with the others at their first value.
fn kinds(args: &FragilityArgs, train: &Data) -> Result<Vec<Kind>, Failure> {
    let n = train.set.len();
    let sizes = if args.examples.is_empty() { &[n][..] } else { &args.examples };
    if let Some(size) = sizes.iter().find(|size| **size > n) {
        return Err(Failure::input(format!(
            "--examples: expected at most the {n} of {}, found {size}",
            train.source
        )));
    }
    let of = |model: &ModelName, l2: f64, examples: usize| {
        let spec = network_spec(model, train, &LayerSpec::Tanh {})?.ok_or_else(|| {
            let name = model_name(model);
            Failure::input(format!("--model {name}: expected mlp:5,5, cnn:4 or FILE.toml"))
                .hint("influence verify retrains linear models")
        })?;
        Ok(Kind { model: model.clone(), spec, l2, examples })
    };
    let (model, l2, size) = (&args.model[0], args.l2[0], sizes[0]);
    let models = args.model.iter().map(|model| (model, l2, size));
    let decays = args.l2.iter().map(|l2| (model, *l2, size));
    let sizes = sizes.iter().map(|size| (model, l2, *size));
    let mut walked = Vec::new();
    for kind in models.chain(decays).chain(sizes) {
        if !walked.contains(&kind) {
            walked.push(kind);
        }
    }
    walked.into_iter().map(|(model, l2, examples)| of(model, l2, examples)).collect()
}

struct Job<'a> {
    args: &'a FragilityArgs,
    device: &'a Device,
    train: &'a Data,
    test: &'a Data,
    kinds: Vec<Kind>,
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        let total = self.kinds.len() * self.args.seeds;
        let mut found = Vec::new();
        for kind in &self.kinds {
            let mut trials = Vec::new();
            for seed in self.seeds() {
                console.progress("networks", found.len() * self.args.seeds + trials.len(), total);
                trials.push(self.trial(backend, kind, seed, console)?);
            }
            found.push(trials);
        }
        let stopped: usize = found.iter().flatten().map(|trial| trial.stopped).sum();
        if stopped > 0 {
            console.warn(&format!(
                "{stopped} trainings stopped above gradient norm {:.0e}, so that what they changed is not exact: raise --max-iterations, --gradient-norm or --l2",
                self.args.gradient_norm
            ));
        }
        let unsolved = found.iter().flatten().filter_map(|trial| trial.by_lissa.as_ref());
        let unsolved = unsolved.filter(|lissa| !lissa.report.none_failed()).count();
        if unsolved > 0 {
            console.warn(&format!(
                "LiSSA did not come to a residual of {} with {unsolved} of {total} networks: --json says how far it came",
                Fragility::LISSA.tolerance
            ));
        }
        let text = format!(
            "change of the loss of points of {} without one of {} examples of {}, predicted against retrained; {}; {}\n{}\n{}",
            self.test.source,
            self.args.left_out,
            self.train.source,
            match self.args.seeds {
                1 => "one seed".to_owned(),
                seeds => format!("means over {seeds} seeds"),
            },
            seconds(start.elapsed().as_secs_f64()),
            self.table(&found),
            LEGEND,
        );
        Ok(Report { text, json: self.json(&found), flagged: stopped + unsolved > 0 })
    }

    fn seeds(&self) -> impl Iterator<Item = u64> {
        let first = self.args.seed;
        (0..self.args.seeds as u64).map(move |next| first.wrapping_add(next))
    }

    fn trial<B: Backend>(
        &self,
        backend: &B,
        kind: &Kind,
        seed: u64,
        console: &Console,
    ) -> Result<FragilityTrial, Failure> {
        let args = self.args;
        let network = kind.spec.build(backend)?;
        let drawn = Fragility::drawn(&self.train.set, kind.examples, seed);
        let fragility = Fragility {
            lbfgs: Lbfgs {
                gradient_tolerance: args.gradient_norm,
                max_iterations: args.max_iterations,
                ..Lbfgs::default()
            },
            left_out: args.left_out,
            points: args.points.clone(),
            cold: args.cold,
            lissa: args.lissa.then_some(Fragility::LISSA),
            memory_budget: args.memory_budget,
        };
        let start = network.initial(seed);
        let risk = RiskSettings::mean(kind.l2);
        // One bar for all networks.
        let quiet = Quiet(console);
        Ok(fragility.trial((&network, &start), risk, (&drawn, &self.test.set), &quiet)?)
    }

    fn table(&self, found: &[Vec<FragilityTrial>]) -> String {
        let points: Vec<String> = self.args.points.iter().map(|above| point_name(*above)).collect();
        let warm: Vec<String> = points.iter().map(|point| format!("Spearman, {point}")).collect();
        let mut headings = vec!["<model", "l2", "examples"];
        headings.extend(warm.iter().map(String::as_str));
        headings.extend(self.args.cold.then_some("cold"));
        headings.extend(self.args.lissa.then_some("LiSSA"));
        headings.extend(["Pearson", "slope", "gradient norm", "lowest eigenvalue", "damped", "stopped"]);
        let mut table = Table::new(&headings);
        for (kind, trials) in self.kinds.iter().zip(found) {
            let mean = |value: &dyn Fn(&FragilityTrial) -> f64| {
                let mean = trials.iter().map(value).sum::<f64>() / trials.len() as f64;
                if mean.is_nan() { "–".to_owned() } else { short(mean) }
            };
            let spearman = |found: Option<Agreement>| found.map_or(f64::NAN, |found| found.spearman);
            let mut row = vec![model_name(&kind.model), format!("{:e}", kind.l2), kind.examples.to_string()];
            row.extend((0..points.len()).map(|p| mean(&|trial| trial.warm(p).spearman)));
            row.extend(self.args.cold.then(|| mean(&|trial| spearman(trial.cold(0)))));
            row.extend(self.args.lissa.then(|| mean(&|trial| spearman(trial.lissa(0)))));
            let extreme = |values: &mut dyn Iterator<Item = f64>, pick: fn(f64, f64) -> f64| {
                short(values.reduce(pick).unwrap_or(f64::NAN))
            };
            row.extend([
                mean(&|trial| trial.warm(0).pearson),
                mean(&|trial| trial.warm(0).slope),
                extreme(&mut trials.iter().map(|trial| trial.gradient_norm), f64::max),
                extreme(&mut trials.iter().map(|trial| trial.smallest_eigenvalue), f64::min),
                trials.iter().filter(|trial| trial.damping > 0.0).count().to_string(),
                trials.iter().map(|trial| trial.stopped).sum::<usize>().to_string(),
            ]);
            table.row(row);
        }
        table.render()
    }

    fn json(&self, found: &[Vec<FragilityTrial>]) -> Value {
        let args = self.args;
        let test = self.test.set.ids();
        let trial = |kind: &Kind, seed: u64, trial: &FragilityTrial| {
            let drawn = Fragility::drawn(&self.train.set, kind.examples, seed);
            let points = 0..args.points.len();
            // Points x examples left out, as predictions are.
            let actual = |changes: &[Vec<f64>]| -> Vec<Vec<f64>> {
                trial.points.iter().map(|&t| changes.iter().map(|change| change[t]).collect()).collect()
            };
            json!({
                "seed": seed,
                "left_out": trial.left_out.iter().map(|&i| drawn.ids()[i]).collect::<Vec<_>>(),
                "points": trial.points.iter().map(|&i| test[i]).collect::<Vec<_>>(),
                "predicted": trial.predicted,
                "actual_warm": actual(&trial.warm_changes),
                "actual_cold": trial.cold_changes.as_ref().map(|changes| actual(changes)),
                "warm": points.clone().map(|p| trial.warm(p)).collect::<Vec<_>>(),
                "cold": points.clone().filter_map(|p| trial.cold(p)).collect::<Vec<_>>(),
                "lissa": points.filter_map(|p| trial.lissa(p)).collect::<Vec<_>>(),
                "lissa_solves": trial.by_lissa.as_ref().map(|lissa| &lissa.report.columns),
                "gradient_norm": trial.gradient_norm,
                "smallest_eigenvalue": trial.smallest_eigenvalue,
                "damping": trial.damping,
                "trainings_stopped": trial.stopped,
            })
        };
        let networks = self.kinds.iter().zip(found).map(|(kind, trials)| {
            let seeds = self.seeds().zip(trials);
            json!({
                "model": model_name(&kind.model),
                "l2": kind.l2,
                "examples": kind.examples,
                "trials": seeds.map(|(seed, found)| trial(kind, seed, found)).collect::<Vec<_>>(),
            })
        });
        json!({
            "settings": {
                "train": self.train.source.to_string(),
                "test": self.test.source.to_string(),
                "points": args.points,
                "left_out": args.left_out,
                "gradient_norm": args.gradient_norm,
                "max_iterations": args.max_iterations,
                "curvature": "hessian",
                "cold": args.cold,
                "lissa_tolerance": args.lissa.then_some(Fragility::LISSA.tolerance),
                "seeds": self.seeds().collect::<Vec<_>>(),
                "device": self.device.name,
                "precision": self.device.precision,
            },
            "networks": networks.collect::<Vec<_>>(),
        })
    }
}

/// Below the table.
const LEGEND: &str = "\
Spearman and Pearson are correlations over the examples left out (–: not defined for some seed), slope is that of
predicted over actual through the origin. Of the seeds: the largest gradient norm, the lowest eigenvalue of the
Hessian, how many had to be damped to be definite, and how many trainings stopped early.
";

/// A test point by the share of losses above it.
fn point_name(above: f64) -> String {
    match above {
        0.0 => "highest loss".into(),
        0.5 => "median".into(),
        // Four digits of a percent: .07 is not quite 7 %.
        _ => format!("{}% above", (1e6 * above).round() / 1e4),
    }
}
