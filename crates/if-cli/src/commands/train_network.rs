//! `influence train` for networks: minibatches, with checkpoints that a run resumes from.

use std::path::Path;
use std::time::Instant;

use if_data::{AtomicFile, sha256_of, write_tensors};
use if_linalg::{Block, Cpu, Observer, Real};
use if_models::{
    EmpiricalRisk, Inputs, ModelSpec, Network, Optimizer, RiskSettings, Schedule, StepReport, TrainState,
    Training,
};
use serde_json::json;

use super::train::accuracy_of;
use crate::args::{OptimizerName, Precision, ScheduleName, TrainArgs};
use crate::console::Console;
use crate::error::Failure;
use crate::output::{Report, seconds, short};
use crate::run_dir::{RunConfig, RunDir, schema, tensors};
use crate::source::Data;

/// Trains `spec` as `args` say.
pub fn run(
    args: &TrainArgs,
    spec: &ModelSpec,
    risk: RiskSettings,
    (train, test): (&Data, Option<&Data>),
    console: &Console,
) -> Result<Report, Failure> {
    let training = training(args)?.validate()?;
    let job = Job { args, spec, risk, train, test, training, start: Instant::now() };
    match args.network.precision {
        Precision::F32 => job.run::<f32>(console),
        Precision::F64 => job.run::<f64>(console),
    }
}

/// The settings, with the usual learning rate of the optimiser.
fn training(args: &TrainArgs) -> Result<Training, Failure> {
    let network = &args.network;
    let (optimizer, usual) = match network.optimizer {
        OptimizerName::Adam if network.momentum.is_some() => {
            return Err(Failure::input("--momentum belongs to --optimizer sgd"));
        }
        OptimizerName::Adam => (Optimizer::adam(), 1e-3),
        OptimizerName::Sgd => (Optimizer::Sgd { momentum: network.momentum.unwrap_or(0.9) }, 0.05),
    };
    Ok(Training {
        optimizer,
        learning_rate: network.learning_rate.unwrap_or(usual),
        schedule: match network.schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::Step => Schedule::Step { epochs: network.step_epochs, factor: network.step_factor },
        },
        epochs: network.epochs,
        batch: network.batch,
        seed: network.seed,
    })
}

struct Job<'a> {
    args: &'a TrainArgs,
    spec: &'a ModelSpec,
    risk: RiskSettings,
    train: &'a Data,
    test: Option<&'a Data>,
    training: Training,
    start: Instant,
}

impl Job<'_> {
    fn run<T: Real>(&self, console: &Console) -> Result<Report, Failure> {
        let cpu = Cpu::<T>::new();
        // Running statistics, where there are any, come with the initial parameters.
        let (network, init) = match &self.args.init {
            Some(path) => {
                let found = if_data::read_tensors(path)?;
                let found = found.into_iter().map(|(name, array)| (name, array.to_f64())).collect();
                let loaded = self.spec.load(&cpu, &found);
                let (network, theta) =
                    loaded.map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
                (network, Some(theta))
            }
            None => (self.spec.build(&cpu)?, None),
        };
        let inputs = Inputs::new(&network, &self.train.set, usize::MAX).map_err(|e| self.train.failure(e))?;
        let risk = EmpiricalRisk::new(&network, &inputs, self.risk)?;
        let mut run = self.open_run::<T>()?;
        let writable = AtomicFile::create(&self.args.out)?;
        let description = self.args.out.with_extension("toml");
        let mut state = self.first_state(&network, init, run.as_ref(), console)?;
        let last = self.take_steps(&network, &risk, &mut state, run.as_mut(), console)?;
        drop(writable);
        write_tensors(&self.args.out, &tensors(&network, &state.theta, "")).map_err(Failure::output)?;
        self.write_description(&description)?;
        self.report(&network, &risk, &state, last)
    }

    fn open_run<T: Real>(&self) -> Result<Option<RunDir>, Failure> {
        let Some(folder) = &self.args.network.run else {
            if self.args.network.resume {
                return Err(Failure::input("--resume goes with --run, the folder of the run"));
            }
            return Ok(None);
        };
        let config = RunConfig {
            schema: schema(),
            model: self.spec.clone(),
            objective: self.risk,
            training: self.training,
            precision: T::NAME.into(),
            train: self.train.source.to_string(),
            examples: self.train.set.len(),
            data_sha256: if_data::checksum(self.train.set.features(), self.train.set.labels()),
            init_sha256: self.args.init.as_deref().map(sha256_of).transpose()?,
        };
        RunDir::open(folder, config, self.args.network.resume).map(Some)
    }

    fn first_state<T: Real>(
        &self,
        network: &Network<Cpu<T>>,
        init: Option<Block<Cpu<T>>>,
        run: Option<&RunDir>,
        console: &Console,
    ) -> Result<TrainState<Cpu<T>>, Failure> {
        if let Some(state) = run.map(|run| run.last(network)).transpose()?.flatten() {
            console.note(&format!("resumed at step {}", state.step));
            return Ok(state);
        }
        let mut state = self.training.start(network);
        if let Some(theta) = init {
            state.theta = theta;
        }
        Ok(state)
    }

    /// Runs to the end, with a line for every epoch and the checkpoints that were asked for.
    fn take_steps<T: Real>(
        &self,
        network: &Network<Cpu<T>>,
        risk: &EmpiricalRisk<Cpu<T>>,
        state: &mut TrainState<Cpu<T>>,
        mut run: Option<&mut RunDir>,
        console: &Console,
    ) -> Result<Option<StepReport>, Failure> {
        let n = risk.n();
        let (per_epoch, steps) = (self.training.steps_per_epoch(n), self.training.steps(n));
        let every = self.args.network.checkpoint_every.unwrap_or(per_epoch);
        let (mut last, mut sum, mut count) = (None, 0.0, 0);
        self.training.run::<_, Failure>(risk, state, console, |state, report| {
            (last, sum, count) = (Some(report), sum + report.loss, count + 1);
            let whole = report.step == steps;
            if let Some(run) = &mut run
                && (report.step % every == 0 || whole || console.cancelled())
            {
                run.save(network, state, report.learning_rate)?;
            }
            if report.step % per_epoch == 0 {
                let tested = self.test.map(|test| accuracy_of(network, &state.theta, test)).transpose()?;
                let tested = tested.map_or(String::new(), |a| format!(", test accuracy {:.2} %", 100.0 * a));
                let epoch = report.step / per_epoch;
                let of = self.training.epochs;
                console.note(&format!(
                    "epoch {epoch} of {of}: mean loss {}{tested}",
                    short(sum / f64::from(count))
                ));
                (sum, count) = (0.0, 0);
            }
            Ok(())
        })?;
        if console.cancelled() {
            if run.is_some() {
                console.note("go on from the last checkpoint with --resume");
            }
            return Err(Failure::Interrupted);
        }
        Ok(last)
    }

    /// The network beside its weights, as `attribute` takes it.
    fn write_description(&self, path: &Path) -> Result<(), Failure> {
        use std::io::Write;
        let text = toml::to_string(self.spec)
            .map_err(|e| Failure::Other(format!("{}: cannot describe the network: {e}", path.display())))?;
        let mut file = AtomicFile::create(path)?;
        file.write_all(text.as_bytes()).map_err(|source| {
            Failure::output(if_data::DataError::Io { path: path.to_owned(), action: "write", source })
        })?;
        file.finish().map_err(Failure::output)
    }

    fn report<T: Real>(
        &self,
        network: &Network<Cpu<T>>,
        risk: &EmpiricalRisk<Cpu<T>>,
        state: &TrainState<Cpu<T>>,
        last: Option<StepReport>,
    ) -> Result<Report, Failure> {
        let (objective, gradient) = risk.gradient(&state.theta);
        let trained = accuracy_of(network, &state.theta, self.train)?;
        let tested = self.test.map(|test| accuracy_of(network, &state.theta, test)).transpose()?;
        let description = self.args.out.with_extension("toml");
        let elapsed = self.start.elapsed().as_secs_f64();
        let norm = gradient.norms()[0];
        let mut lines = vec![
            ("parameters", network.layout().dim().to_string()),
            ("steps", state.step.to_string()),
            ("objective", format!("{} (mean loss and penalty)", short(objective))),
            ("gradient norm", format!("{norm:.1e}")),
            ("train accuracy", format!("{:.2} %", 100.0 * trained)),
        ];
        lines.extend(tested.map(|tested| ("test accuracy", format!("{:.2} %", 100.0 * tested))));
        lines.push(("weights", self.args.out.display().to_string()));
        lines.push(("network", format!("{} ({})", description.display(), seconds(elapsed))));
        let text = lines.iter().map(|(name, value)| format!("{name:<14}  {value}\n")).collect();
        let json = json!({
            "training": self.training,
            "objective_settings": self.risk,
            "train": self.train.source.to_string(),
            "weights": self.args.out,
            "network": description,
            "parameters": network.layout().dim(),
            "steps": state.step,
            "last_learning_rate": last.map(|last| last.learning_rate),
            "objective": objective,
            "gradient_norm": norm,
            "train_accuracy": trained,
            "test_accuracy": tested,
            "seconds": elapsed,
        });
        Ok(Report { text, json, flagged: false })
    }
}
