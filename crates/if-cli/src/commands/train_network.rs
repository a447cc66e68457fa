//! `influence train` for networks: minibatches, with checkpoints that a run resumes from, or L-BFGS.

use std::path::{Path, PathBuf};
use std::time::Instant;

use if_data::{AtomicFile, sha256_of, write_tensors};
use if_linalg::{Backend, Block, Observer, Target};
use if_models::{
    EmpiricalRisk, FitReport, Inputs, LayerSpec, Lbfgs, ModelError, ModelSpec, Network, RiskSettings,
    StepReport, TrainState, Training,
};
use serde_json::json;

use super::train::accuracy_of;
use super::train_plan::Plan;
use crate::args::{ModelName, TrainArgs};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::key::of_examples;
use crate::model::{check_shape, read_weights};
use crate::output::{Report, seconds, short};
use crate::run_dir::{RunConfig, RunDir, program, schema, tensors};
use crate::source::Data;

/// Trains `spec` as `args` say.
pub fn run(
    args: &TrainArgs,
    spec: &ModelSpec,
    risk: RiskSettings,
    (train, test): (&Data, Option<&Data>),
    console: &Console,
) -> Result<Report, Failure> {
    let (plan, precision) = Plan::new(args)?;
    let device = Device::open(&args.network.device, precision, console)?.keeping(args.network.run.is_some());
    for data in std::iter::once(train).chain(test) {
        check_shape(spec, data)?;
    }
    let description = args.out.with_extension("toml");
    let job =
        Job { args, device: &device, spec, risk, train, test, plan, description, start: Instant::now() };
    on_device!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a TrainArgs,
    device: &'a Device,
    spec: &'a ModelSpec,
    risk: RiskSettings,
    train: &'a Data,
    test: Option<&'a Data>,
    plan: Plan,
    /// The network beside its weights, as `attribute` takes it.
    description: PathBuf,
    start: Instant,
}

/// First line of a description that may be written over.
const WRITTEN: &str = "# Written by `influence train`.";

/// What training gave.
struct Trained<B: Backend> {
    theta: Block<B>,
    steps: usize,
    /// Of the last step on a minibatch.
    learning_rate: Option<f64>,
    /// How near an optimum L-BFGS came.
    fit: Option<FitReport>,
}

/// Why minibatch training ended early.
enum Stop {
    Model(ModelError),
    Other(Failure),
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        // Running statistics, where there are any, come with the initial parameters.
        let (network, init) = match &self.args.init {
            Some(path) => {
                let loaded = self.spec.load(backend, &read_weights(path)?);
                let (network, theta) =
                    loaded.map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
                (network, Some(theta))
            }
            None => (self.spec.build(backend)?, None),
        };
        let inputs = Inputs::new(&network, &self.train.set, usize::MAX).map_err(|e| self.train.failure(e))?;
        let risk = EmpiricalRisk::new(&network, &inputs, self.risk)?;
        // Outputs are open before the long run: what cannot be written fails now.
        let weights = AtomicFile::create(&self.args.out)?;
        let description = self.open_description()?;
        self.note_frozen(console);
        let trained = match self.plan {
            Plan::Minibatches(training) => self.take_steps(&training, &risk, init, console)?,
            Plan::Lbfgs { lbfgs, seed } => {
                let start = init.unwrap_or_else(|| network.initial(seed));
                minimise(lbfgs, &risk, &start, console)?
            }
        };
        // Nothing is written that cannot be used.
        let report = self.report(&network, &risk, &trained, console)?;
        drop(weights);
        write_tensors(&self.args.out, &tensors(&network, &trained.theta, "")).map_err(Failure::output)?;
        if let Some(file) = description {
            self.write_description(file)?;
        }
        Ok(report)
    }

    /// Says what training leaves as it is, unlike PyTorch.
    fn note_frozen(&self, console: &Console) {
        let (mut norms, mut dropout) = (Vec::new(), false);
        let mut layers: Vec<&LayerSpec> = self.spec.layers.iter().rev().collect();
        while let Some(layer) = layers.pop() {
            match layer {
                LayerSpec::BatchNorm { name, .. } => norms.push(&**name),
                LayerSpec::Dropout {} => dropout = true,
                LayerSpec::Residual { layers: inner } => layers.extend(inner.iter().rev()),
                _ => {}
            }
        }
        if !norms.is_empty() && self.args.init.is_none() {
            console.note(&format!(
                "batch_norm {}: statistics stay at mean 0 and variance 1; --init brings trained ones",
                norms.join(", ")
            ));
        }
        if dropout {
            console.note("dropout is the identity, in training too");
        }
    }

    fn open_run(&self, training: &Training) -> Result<Option<RunDir>, Failure> {
        let Some(folder) = &self.args.network.run else { return Ok(None) };
        let config = RunConfig {
            schema: schema(),
            program: program(),
            model: self.spec.clone(),
            objective: self.risk,
            training: *training,
            device: self.device.name.clone(),
            precision: self.device.precision.to_string(),
            train: self.train.source.to_string(),
            examples: self.train.set.len(),
            data_sha256: of_examples(self.train),
            init_sha256: self.args.init.as_deref().map(sha256_of).transpose()?,
        };
        RunDir::open(folder, config, self.args.network.resume).map(Some)
    }

    /// Minibatches to the end, with a line for every epoch and the checkpoints that were asked for.
    fn take_steps<B: Backend>(
        &self,
        training: &Training,
        risk: &EmpiricalRisk<B>,
        init: Option<Block<B>>,
        console: &Console,
    ) -> Result<Trained<B>, Failure> {
        let (network, n) = (risk.network(), risk.n());
        let mut run = self.open_run(training)?;
        let mut state = first_state(training, network, init, run.as_mut(), console)?;
        let (per_epoch, steps) = (training.steps_per_epoch(n), training.steps(n));
        let (mut last, mut sum, mut count) = (None::<StepReport>, 0.0, 0);
        let stopped = training.run(risk, &mut state, console, |state, report| {
            (last, sum, count) = (Some(report), sum + report.loss, count + 1);
            if let Some(run) = &mut run
                && (self.args.network.is_checkpoint(report.step, per_epoch) || report.step == steps)
            {
                run.save(network, state, report.learning_rate).map_err(Stop::Other)?;
            }
            if report.step % per_epoch == 0 {
                let tested = self.tested(network, &state.theta).map_err(Stop::Other)?;
                let (which, accuracy) = match tested {
                    Some(tested) => ("test", tested),
                    None => ("train", accuracy_of(network, &state.theta, self.train).map_err(Stop::Other)?),
                };
                let tested = format!(", {which} accuracy {:.2} %", 100.0 * accuracy);
                let (epoch, of) = (report.step / per_epoch, training.epochs);
                let mean = short(sum / f64::from(count));
                // Of an epoch that was resumed in its middle the losses before are not known.
                let steps = if (count as usize) < per_epoch {
                    format!(" of the last {count} steps")
                } else {
                    String::new()
                };
                console.note(&format!("epoch {epoch} of {of}: mean loss{steps} {mean}{tested}"));
                (sum, count) = (0.0, 0);
            }
            Ok(())
        });
        stopped.map_err(|stop| match stop {
            Stop::Model(error) => {
                let failure = self.train.failure(error);
                match &self.args.network.run {
                    Some(run) => failure.hint(format!(
                        "other settings are another run: remove {}, or name another --run",
                        run.display()
                    )),
                    None => failure,
                }
            }
            Stop::Other(failure) => failure,
        })?;
        let learning_rate = last.map(|last| last.learning_rate);
        if console.cancelled() {
            let Some(mut run) = run else { return Err(Failure::Interrupted) };
            if let Some(rate) = learning_rate {
                run.save(network, &state, rate)?;
            }
            let line = "interrupted; go on from the last checkpoint with --resume";
            return Err(Failure::Suspended(line.into()));
        }
        Ok(Trained { theta: state.theta, steps: state.step, learning_rate, fit: None })
    }

    fn tested<B: Backend>(&self, network: &Network<B>, theta: &Block<B>) -> Result<Option<f64>, Failure> {
        self.test.map(|test| accuracy_of(network, theta, test)).transpose()
    }

    /// The file that will describe the network; none where it is described by that file already.
    fn open_description(&self) -> Result<Option<AtomicFile>, Failure> {
        let same = |path: &Path| {
            let (a, b) = (path.canonicalize(), self.description.canonicalize());
            a.is_ok() && a.ok() == b.ok()
        };
        let path = &self.description;
        match &self.args.model.model {
            ModelName::File(given) if same(given) => Ok(None),
            // Somebody's own description is worth more than ours.
            _ if std::fs::read(path).is_ok_and(|text| !text.starts_with(WRITTEN.as_bytes())) => {
                Err(Failure::input(format!(
                    "{}: is there already, and not written by this program",
                    path.display()
                ))
                .hint("remove it, or name another --out"))
            }
            _ => Ok(Some(AtomicFile::create(path)?)),
        }
    }

    fn write_description(&self, file: AtomicFile) -> Result<(), Failure> {
        let path = &self.description;
        let text = toml::to_string(self.spec)
            .map_err(|e| Failure::Other(format!("{}: cannot describe the network: {e}", path.display())))?;
        file.finish_with(format!("{WRITTEN}\n{text}").as_bytes()).map_err(Failure::output)
    }

    fn report<B: Backend>(
        &self,
        network: &Network<B>,
        risk: &EmpiricalRisk<B>,
        trained: &Trained<B>,
        console: &Console,
    ) -> Result<Report, Failure> {
        let Trained { theta, steps, learning_rate, fit } = trained;
        let (objective, gradient) = risk.gradient(theta);
        let norm = gradient.norms()[0];
        if !objective.is_finite() || !norm.is_finite() {
            return Err(Failure::input(format!(
                "{}: the objective is not finite after step {steps}: lower the learning rate, or scale the features",
                self.train.source.origin
            )));
        }
        let unfinished = fit.as_ref().filter(|fit| !fit.converged());
        if let Some(fit) = unfinished {
            let kinks = if has_kinks(&self.spec.layers) {
                "; at kinks, where the minima of relu networks often lie, no gradient vanishes: tanh or softplus have none"
            } else {
                ""
            };
            console.warn(&format!(
                "training stopped after {steps} iterations at gradient norm {norm:.1e}, above {:.0e}: raise --max-iterations or --l2, or ask for less{kinks}",
                fit.tolerance
            ));
        }
        let accuracy = accuracy_of(network, theta, self.train)?;
        let tested = self.tested(network, theta)?;
        let elapsed = self.start.elapsed().as_secs_f64();
        let mut lines = vec![
            ("parameters", network.layout().dim().to_string()),
            ("steps", steps.to_string()),
            ("objective", format!("{} (mean loss and penalty)", short(objective))),
            ("gradient norm", format!("{norm:.1e}")),
        ];
        // A number is hardly ever predicted to the last bit.
        if network.loss().target(network.outputs()) != Target::Real {
            lines.push(("train accuracy", format!("{:.2} %", 100.0 * accuracy)));
        }
        lines.extend(tested.map(|tested| ("test accuracy", format!("{:.2} %", 100.0 * tested))));
        lines.push(("weights", self.args.out.display().to_string()));
        lines.push(("network", format!("{} ({})", self.description.display(), seconds(elapsed))));
        let text = lines.iter().map(|(name, value)| format!("{name:<14}  {value}\n")).collect();
        let json = json!({
            "training": self.plan,
            "device": self.device.name,
            "precision": self.device.precision,
            "objective_settings": self.risk,
            "train": self.train.source.to_string(),
            "weights": self.args.out,
            "network": self.description,
            "parameters": network.layout().dim(),
            "steps": steps,
            "last_learning_rate": learning_rate,
            "fit": fit,
            "objective": objective,
            "gradient_norm": norm,
            "train_accuracy": accuracy,
            "test_accuracy": tested,
            "seconds": elapsed,
        });
        Ok(Report { text, json, flagged: unfinished.is_some() })
    }
}

/// Whether the gradient jumps anywhere.
fn has_kinks(layers: &[LayerSpec]) -> bool {
    layers.iter().any(|layer| match layer {
        LayerSpec::Residual { layers } => has_kinks(layers),
        LayerSpec::Relu {} | LayerSpec::LeakyRelu { .. } | LayerSpec::Selu {} | LayerSpec::MaxPool { .. } => {
            true
        }
        _ => false,
    })
}

fn first_state<B: Backend>(
    training: &Training,
    network: &Network<B>,
    init: Option<Block<B>>,
    run: Option<&mut RunDir>,
    console: &Console,
) -> Result<TrainState<B>, Failure> {
    if let Some(state) = run.map(|run| run.last(network, |text| console.warn(text))).transpose()?.flatten() {
        console.note(&format!("resumed at step {}", state.step));
        return Ok(state);
    }
    let mut state = training.start(network);
    if let Some(theta) = init {
        state.theta = theta;
    }
    Ok(state)
}

fn minimise<B: Backend>(
    lbfgs: Lbfgs,
    risk: &EmpiricalRisk<B>,
    start: &Block<B>,
    console: &Console,
) -> Result<Trained<B>, Failure> {
    let fit = lbfgs.minimise(risk, start, console);
    if console.cancelled() {
        return Err(Failure::Interrupted);
    }
    Ok(Trained { theta: fit.theta, steps: fit.report.iterations, learning_rate: None, fit: Some(fit.report) })
}
