//! `influence lds`: how good scores are, by training again on subsets (Park et al. 2023).
//!
//! ```text
//! LDS(q) = Spearman over subsets S of ( sum over i in S of score(q, i), -loss of q after training on S alone )
//! ```

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use if_data::AtomicFile;
use if_linalg::Backend;
use if_methods::{Checkpoint, TracIn};
use if_models::{EmpiricalRisk, ModelError, RiskSettings, Training};
use serde_json::{Value, json};

use super::lds_judged::{Judged, Verdict};
use super::{certificates_beside, model_name, need_extension};
use crate::args::{LdsArgs, Precision, RemovalName, WeightsArgs};
use crate::console::{Console, Quiet};
use crate::device::{Device, in_double, on_device};
use crate::error::Failure;
use crate::job::{Problem, risk_settings};
use crate::key::{common, of_examples};
use crate::model::{Kind, Model};
use crate::output::{Report, Table, document, seconds};
use crate::retrain::exact_trainer;
use crate::run_dir::Recorded;
use crate::session::inputs;
use crate::source::{Data, keep_inputs};
use crate::subsets::{Kept, Retrained, Unit, draw};

/// Runs the command.
pub fn run(args: &LdsArgs, console: &Console) -> Result<Report, Failure> {
    need_extension(Some(&args.out), "--out", "json")?;
    let files: Vec<&Path> = args.scores.iter().map(PathBuf::as_path).collect();
    let records = args.scores.iter().map(|scores| certificates_beside(scores, "--scores", "npy"));
    let records = records.collect::<Result<Vec<_>, Failure>>()?;
    let kept: Vec<&Path> = files.iter().copied().chain(records.iter().map(PathBuf::as_path)).collect();
    keep_inputs(&[&args.out], &[&args.model.train, &args.query], &kept)?;
    let kind = Kind::new(&args.model)?;
    let recorded = recorded(args, &kind)?;
    let precision = recorded.as_ref().map_or(Ok(Precision::F64), precision_of)?;
    let device = Device::open(&args.device, precision, console)?.keeping(args.resume);
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let query = Data::load_like(&args.query, label, &train)?;
    let risk = risk_settings(&args.objective, RemovalName::Fixed)?;
    if let Some(recorded) = &recorded {
        check(recorded, args, risk, (&kind, &train))?;
    }
    let n = train.set.len();
    let members = draw(n, args.subsets, args.share, args.seed)?;
    // What cannot be judged fails before the long run.
    let read = |path: &&Path| Judged::read(path, [query.set.len(), n], &members);
    let judged = files.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    let weights = recorded.as_ref().map(|recorded| recorded.last().1.to_owned());
    let weights = WeightsArgs { weights, no_bias: args.no_bias };
    let problem = Problem::from_data(kind, train, &weights, risk, console)?;
    let job = Job { args, device: &device, risk, recorded, problem, query: &query, members };
    job.run(judged, console)
}

/// The training that is repeated, for a network; none for a linear model.
fn recorded(args: &LdsArgs, kind: &Kind) -> Result<Option<Recorded>, Failure> {
    match (kind, &args.training_run) {
        (Kind::Network(_), _) if args.no_bias => {
            Err(Failure::input("--no-bias belongs to models of one layer"))
        }
        (Kind::Network(_), Some(folder)) => Recorded::read(folder).map(Some),
        (Kind::Network(_), None) => Err(Failure::input(
            "a network: expected the --training-run that is repeated on every subset, found none",
        )
        .hint("influence train --run DIR keeps one")),
        (_, Some(_)) => {
            Err(Failure::input("--training-run belongs to networks: this model is trained to its optimum"))
        }
        (_, None) if args.repeats > 1 => Err(Failure::input(
            "--repeats belongs to networks: this model has one optimum, whatever the seed",
        )),
        (_, None) => Ok(None),
    }
}

fn precision_of(recorded: &Recorded) -> Result<Precision, Failure> {
    let name = &recorded.config.precision;
    Precision::from_str(name, false).map_err(|_| recorded.refusal("precision", "one of this program", name))
}

/// Refuses a run that cannot be repeated on a part of the examples, or that was not what `args` say.
fn check(
    recorded: &Recorded,
    args: &LdsArgs,
    risk: RiskSettings,
    (kind, train): (&Kind, &Data),
) -> Result<(), Failure> {
    recorded.repeatable(kind, &model_name(&args.model.model), train)?;
    let config = &recorded.config;
    if config.objective.l2 != risk.l2 {
        return Err(recorded.refusal("--l2", &config.objective.l2.to_string(), &risk.l2.to_string()));
    }
    if config.objective != risk {
        return Err(recorded.refusal("--family and --no-regularise-bias", "those of the run", "others"));
    }
    recorded.finished()
}

struct Job<'a> {
    args: &'a LdsArgs,
    device: &'a Device,
    risk: RiskSettings,
    recorded: Option<Recorded>,
    problem: Problem,
    query: &'a Data,
    /// Positions of the training examples of every subset.
    members: Vec<Vec<usize>>,
}

impl Job<'_> {
    fn run(&self, mut judged: Vec<Judged>, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        judged.extend(on_device!(self.device, |backend| self.baselines(backend, console))?);
        // Open before the long run: what cannot be written fails now.
        let file = AtomicFile::create(&self.args.out)?;
        let kept = Kept::open(&self.args.out.with_extension("retrained"), &self.key(), self.args.resume)?;
        let found = match &self.recorded {
            None => in_double!(self.device, |backend| self.optima(backend, &kept, console))?,
            Some(recorded) => {
                on_device!(self.device, |backend| self.trainings(backend, recorded, &kept, console))?
            }
        };
        let found: Vec<&[Retrained]> = found.chunks(self.args.repeats).collect();
        let verdict = Verdict::new(&judged, &found, self.args.seed);
        let stopped = found.iter().flat_map(|all| all.iter()).filter(|one| !one.converged).count();
        self.warn(&verdict, stopped, console);
        let mut json = self.record(&verdict, &found);
        let text = format!("{:#}\n", document("lds", json.clone()));
        file.finish_with(text.as_bytes()).map_err(Failure::output)?;
        let elapsed = start.elapsed().as_secs_f64();
        json["seconds"] = json!(elapsed);
        let flagged = stopped > 0 || self.problem.unfinished;
        Ok(Report { text: self.text(&verdict, elapsed), json, flagged })
    }

    /// What needs no retraining and no solve, at the parameters of the whole model.
    fn baselines<B: Backend>(&self, backend: &B, console: &Console) -> Result<Vec<Judged>, Failure> {
        let Problem { model, train, .. } = &self.problem;
        let (network, theta) = model.build(backend)?;
        let measured = self.args.measure.network(&network)?;
        let train = inputs(&model.kind, &network, train, usize::MAX)?;
        let queries = inputs(&model.kind, &network, self.query, usize::MAX)?;
        let risk = EmpiricalRisk::new(&network, &train, self.risk)?;
        let all = |name, values: &[f64]| Judged::same_for_all(name, values, queries.len(), &self.members);
        let mut baselines = vec![
            Judged::dots((&risk, &theta), (&queries, measured.loss()), &self.members, console)?,
            all("gradient norm", &network.gradient_norms(&train, &theta)),
            all("loss", &network.example_losses(&train, &theta)),
        ];
        if let Some(recorded) = &self.recorded {
            let read = |(_, learning_rate, weights): &(usize, f64, PathBuf)| {
                let (network, theta) =
                    Model::read(&model.kind, weights, &self.problem.train)?.build(backend)?;
                Ok(Checkpoint { network, theta, learning_rate: *learning_rate })
            };
            let checkpoints = recorded.checkpoints.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
            let losses = TracIn::new(&train, &checkpoints)?.mean_losses();
            baselines.push(all("mean loss over checkpoints", &losses));
        }
        baselines.push(Judged::random([queries.len(), train.len()], self.args.seed, &self.members));
        Ok(baselines)
    }

    fn units(&self) -> Vec<Unit> {
        let repeats = |subset| (0..self.args.repeats).map(move |repeat| Unit { subset, repeat });
        (0..self.members.len()).flat_map(repeats).collect()
    }

    /// Trains a linear model to its optimum on every subset.
    fn optima<B: Backend<Elem = f64>>(
        &self,
        backend: &B,
        kept: &Kept,
        console: &Console,
    ) -> Result<Vec<Retrained>, Failure> {
        let Problem { model, train, .. } = &self.problem;
        let trainer = exact_trainer(&model.kind);
        let network = trainer.training_network(&model.network(backend)?);
        let queries = inputs(&model.kind, &network, self.query, usize::MAX)?;
        let measured = self.args.measure.network(&network)?;
        let retrain = |unit: Unit| {
            let data = train.select(&self.members[unit.subset]);
            let start = Some(model.clone());
            let trained = trainer.train(backend, &data, model.bias, self.risk, start, &Quiet(console))?;
            let theta = network.parameters(&trained.model.tensors)?;
            self.retrained(unit, trained.report.converged(), measured.example_losses(&queries, &theta))
        };
        kept.complete(backend, &self.units(), retrain, console)
    }

    /// Repeats the training of a network on every subset.
    fn trainings<B: Backend>(
        &self,
        backend: &B,
        recorded: &Recorded,
        kept: &Kept,
        console: &Console,
    ) -> Result<Vec<Retrained>, Failure> {
        let Problem { model, train, .. } = &self.problem;
        let network = recorded.config.model.build(backend)?;
        let queries = inputs(&model.kind, &network, self.query, usize::MAX)?;
        let measured = self.args.measure.network(&network)?;
        let retrain = |unit: Unit| {
            let data = train.select(&self.members[unit.subset]);
            let own = inputs(&model.kind, &network, &data, usize::MAX)?;
            let risk = EmpiricalRisk::new(&network, &own, self.risk)?;
            let training = Training { seed: self.seeds(recorded)[unit.repeat], ..recorded.config.training };
            let mut state = training.start(&network);
            training
                .run(&risk, &mut state, &Quiet(console), |_, _| Ok::<(), ModelError>(()))
                .map_err(|error| data.failure(error))?;
            if state.step < training.steps(data.set.len()) {
                return Err(Failure::Interrupted);
            }
            self.retrained(unit, true, measured.example_losses(&queries, &state.theta))
        };
        kept.complete(backend, &self.units(), retrain, console)
    }

    /// One for each repeat. None is that of the run: scores that know its initial parameters would be judged by them.
    fn seeds(&self, recorded: &Recorded) -> Vec<u64> {
        let first = recorded.config.training.seed;
        (1..=self.args.repeats as u64).map(|repeat| first.wrapping_add(repeat)).collect()
    }

    fn retrained(&self, unit: Unit, converged: bool, losses: Vec<f64>) -> Result<Retrained, Failure> {
        match losses.iter().position(|loss| !loss.is_finite()) {
            None => Ok(Retrained { converged, losses }),
            Some(q) => Err(Failure::input(format!(
                "{}: after training on subset {} the {} of query {} is not finite",
                self.problem.train.source,
                unit.subset,
                self.args.measure.name(),
                self.query.set.ids()[q]
            ))),
        }
    }

    /// All that a retraining depends on, but for its subset and its repeat.
    fn key(&self) -> Value {
        let Device { name, precision, .. } = self.device;
        let mut key = common(&self.problem.model.kind, &self.problem.train, name, *precision);
        key["queries"] = json!(of_examples(self.query));
        key["bias"] = json!(self.problem.model.bias);
        key["objective"] = json!(self.risk);
        key["training"] = json!(self.recorded.as_ref().map(|recorded| recorded.config.training));
        key["measure"] = json!(self.args.measure);
        key["share"] = json!(self.args.share);
        key["seed"] = json!(self.args.seed);
        key
    }

    fn warn(&self, verdict: &Verdict, stopped: usize, console: &Console) {
        if stopped > 0 {
            console.warn(&format!(
                "{stopped} of {} trainings stopped early: what they measure is not exact; raise --l2 or scale the features",
                self.members.len()
            ));
        }
        for judged in
            verdict.scores.iter().take(self.args.scores.len()).filter(|judged| judged.lds.interval[1] < 0.0)
        {
            console.warn(&format!(
                "{}: the scores rank subsets the wrong way round: expected positive ones for proponents, whose presence lowers the loss",
                judged.name
            ));
        }
    }

    /// What `OUT.json` holds: nothing in it depends on the machine or the time.
    fn record(&self, verdict: &Verdict, found: &[&[Retrained]]) -> Value {
        let sign = self.args.measure.sign();
        let ids = self.problem.train.set.ids();
        let subset = |(members, repeats): (&Vec<usize>, &&[Retrained])| {
            let measured = |one: &Retrained| one.losses.iter().map(|loss| sign * loss).collect::<Vec<f64>>();
            json!({
                "members": members.iter().map(|&i| ids[i]).collect::<Vec<_>>(),
                "measured": repeats.iter().map(measured).collect::<Vec<_>>(),
            })
        };
        json!({
            "model": model_name(&self.args.model.model),
            "objective": self.risk,
            "training_run": self.args.training_run,
            "training": self.recorded.as_ref().map(|recorded| recorded.config.training),
            "seeds": self.recorded.as_ref().map(|recorded| self.seeds(recorded)),
            "device": self.device.name,
            "precision": self.device.precision,
            "train": self.args.model.train.to_string(),
            "query": self.args.query.to_string(),
            "queries": self.query.set.ids(),
            "measure": self.args.measure,
            "share": self.args.share,
            "seed": self.args.seed,
            "formula": "Spearman over subsets of the sum of the scores of a subset's members with minus the loss of the query after training on them alone, or with the measurement that was asked for; mean over queries, and over repeats of what is measured; intervals by drawing subsets and queries again",
            "scores": verdict.scores,
            "seed_noise": verdict.noise,
            "subsets": self.members.iter().zip(found).map(subset).collect::<Vec<_>>(),
        })
    }

    fn text(&self, verdict: &Verdict, elapsed: f64) -> String {
        let (n, queries) = (self.problem.train.set.len(), self.query.set.len());
        let mut table = Table::new(&["<scores", "LDS", "95 % interval", "Pearson", "queries"]);
        for judged in &verdict.scores {
            let [low, high] = judged.lds.interval;
            let known = |value: f64, text: String| if value.is_nan() { "none".to_owned() } else { text };
            table.row([
                judged.name.clone(),
                known(judged.lds.mean, format!("{:.3}", judged.lds.mean)),
                known(low, format!("{low:.3} to {high:.3}")),
                known(judged.pearson, format!("{:.3}", judged.pearson)),
                judged.lds.queries.to_string(),
            ]);
        }
        let size = self.members[0].len();
        let mut text = format!(
            "{} of {} after training on each of {} subsets of {size} of {n} examples{}\n{}",
            self.args.measure.name(),
            self.query.source,
            self.members.len(),
            if self.args.repeats > 1 {
                format!(", under {} seeds each", self.args.repeats)
            } else {
                String::new()
            },
            table.render()
        );
        let partly = verdict.scores.iter().filter(|judged| judged.lds.queries < queries);
        let partly: Vec<&str> = partly.map(|judged| &*judged.name).collect();
        if !partly.is_empty() {
            text += &format!(
                "\nOf {queries} queries some have no rank correlation, and are left out: sums of their scores are the same for\n\
                 all subsets, or too large to be numbers: {}.\n",
                partly.join(", ")
            );
        }
        if let Some(noise) = &verdict.noise {
            text += &format!(
                "\nTwo seeds agree with each other with Spearman {:.3}, Pearson {:.3}. With means over {} seeds no scores are\n\
                 expected to pass Pearson {:.3}.\n",
                noise.spearman, noise.pearson, self.args.repeats, noise.ceiling
            );
        }
        text + &format!("\n{} ({})\n", self.args.out.display(), seconds(elapsed))
    }
}
