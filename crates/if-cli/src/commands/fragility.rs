//! `influence fragility`: how far retraining bears influence out, over kinds of networks (Basu, Pope & Feizi 2021).

use std::time::Instant;

use if_linalg::{Backend, Lissa, Observer};
use if_methods::{Agreement, Fragility, FragilityTrial, random_order};
use if_models::{Dataset, LayerSpec, Lbfgs, ModelSpec, RiskSettings};
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
    let device = Device::open(args.device, Precision::F64, console)?;
    let train = Data::load(&args.train, args.label.as_deref())?;
    let test = Data::load_like(&args.test, args.label.as_deref(), &train)?;
    let kinds = kinds(args, &train)?;
    for kind in &kinds {
        for data in [&train, &test] {
            check_shape(&kind.spec, data)?;
        }
    }
    let job = Job { args, train: &train, test: &test, kinds };
    in_double!(device, |backend| job.run(backend, console))
}

/// One kind of network, and how it is trained.
#[derive(Clone)]
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
        let spec = network_spec(model, train, &LayerSpec::Tanh)?.ok_or_else(|| {
            let name = model_name(model);
            Failure::input(format!("--model {name}: expected mlp:5,5, cnn:4 or FILE.toml"))
                .hint("influence verify retrains linear models")
        })?;
        Ok(Kind { model: model.clone(), spec, l2, examples })
    };
    let (model, l2, size) = (&args.model[0], args.l2[0], sizes[0]);
    let models = args.model.iter().map(|model| of(model, l2, size));
    let decays = args.l2[1..].iter().map(|l2| of(model, *l2, size));
    let sizes = sizes[1..].iter().map(|size| of(model, l2, *size));
    models.chain(decays).chain(sizes).collect()
}

struct Job<'a> {
    args: &'a FragilityArgs,
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
            for seed in (self.args.seed..).take(self.args.seeds) {
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
            "Spearman and Pearson are correlations over the examples left out; slope is that of predicted over actual,\n\
             through the origin. What is damped had a Hessian that is not positive definite.\n",
        );
        Ok(Report { text, json: self.json(&found), flagged: stopped > 0 })
    }

    /// The training examples: all of them, or as many drawn by `seed`.
    fn drawn(&self, kind: &Kind, seed: u64) -> Dataset {
        let set = &self.train.set;
        match kind.examples == set.len() {
            true => set.clone(),
            false => set.select(&random_order(set.len(), seed)[..kind.examples]),
        }
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
        let drawn = self.drawn(kind, seed);
        let fragility = Fragility {
            lbfgs: Lbfgs {
                gradient_tolerance: args.gradient_norm,
                max_iterations: args.max_iterations,
                ..Lbfgs::default()
            },
            left_out: args.left_out,
            points: args.points.clone(),
            cold: args.cold,
            lissa: args.lissa.then_some(LISSA),
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
            let drawn = self.drawn(kind, seed);
            let points = 0..args.points.len();
            json!({
                "seed": seed,
                "left_out": trial.left_out.iter().map(|&i| drawn.ids()[i]).collect::<Vec<_>>(),
                "points": trial.points.iter().map(|&i| test[i]).collect::<Vec<_>>(),
                "warm": points.clone().map(|p| trial.warm(p)).collect::<Vec<_>>(),
                "cold": points.clone().filter_map(|p| trial.cold(p)).collect::<Vec<_>>(),
                "lissa": points.filter_map(|p| trial.lissa(p)).collect::<Vec<_>>(),
                "gradient_norm": trial.gradient_norm,
                "smallest_eigenvalue": trial.smallest_eigenvalue,
                "damping": trial.damping,
                "trainings_stopped": trial.stopped,
            })
        };
        let networks = self.kinds.iter().zip(found).map(|(kind, trials)| {
            let seeds = (args.seed..).zip(trials);
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
            },
            "networks": networks.collect::<Vec<_>>(),
        })
    }
}

/// Nothing is chosen by hand.
const LISSA: Lissa = Lissa { tolerance: 0.05, depth: None, repeats: 4, scale: None, batch: None, seed: 0 };

/// A test point by the share of losses above it.
fn point_name(above: f64) -> String {
    match above {
        0.0 => "highest loss".into(),
        0.5 => "median".into(),
        // Four digits of a percent: .07 is not quite 7 %.
        _ => format!("{}% above", (1e6 * above).round() / 1e4),
    }
}
