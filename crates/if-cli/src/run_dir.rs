//! A run directory: the manifest that replays a training run, and its checkpoints.
//!
//! A checkpoint is two files, `step-N.safetensors` (the parameters, loadable as weights) and
//! `step-N.optimizer.safetensors` (what the optimiser remembers). The manifest `run.json` names them with
//! their sha256 once both are on the disk, so that a run killed at any moment goes on from the last
//! checkpoint that is whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use if_data::{Array, AtomicFile, read_tensors, sha256_of, write_tensors};
use if_linalg::{Backend, Block, Real};
use if_models::{ModelSpec, Network, RiskSettings, TrainState, Training};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Failure;
use crate::key::{difference, of_examples};
use crate::model::Kind;
use crate::source::Data;

const SCHEMA: u32 = 1;
const MANIFEST: &str = "run.json";

/// Everything that the bits of a run depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Of this file.
    pub schema: u32,
    /// Version of this program: another one may draw other minibatches.
    #[serde(default = "program")]
    pub program: String,
    /// The network, as `model.toml` holds it.
    pub model: ModelSpec,
    /// The objective.
    pub objective: RiskSettings,
    /// Optimiser, rates, epochs, batch and seed: with `examples` they say which example was in which step.
    pub training: Training,
    /// Where it is computed; runs that were begun when there was but one device do not say.
    #[serde(default = "cpu")]
    pub device: String,
    /// Arithmetic.
    pub precision: String,
    /// Where the training examples came from.
    pub train: String,
    /// Their number.
    pub examples: usize,
    /// Of their features and labels.
    pub data_sha256: String,
    /// Parameters that training began with, where they were given.
    pub init_sha256: Option<String>,
}

fn cpu() -> String {
    "cpu".into()
}

/// For a new run; those that were begun before it was written down are of the first version as well.
pub fn program() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// A point that a run can be resumed from.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Checkpoint {
    step: usize,
    /// Of the step that led here; TracIn weighs the checkpoint with it.
    learning_rate: f64,
    weights: String,
    weights_sha256: String,
    optimizer: Option<String>,
    optimizer_sha256: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    config: RunConfig,
    checkpoints: Vec<Checkpoint>,
}

/// A run that is over, or as far as it came.
pub struct Recorded {
    folder: PathBuf,
    /// What it was started with.
    pub config: RunConfig,
    /// Its checkpoints, in order: step, learning rate, and the weights.
    pub checkpoints: Vec<(usize, f64, PathBuf)>,
}

impl Recorded {
    /// Reads the manifest in `folder`.
    ///
    /// # Errors
    /// None there, or no manifest; no checkpoint, or one whose weights are not those that were kept.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let Manifest { config, checkpoints } = read_manifest(folder, "read")?;
        if checkpoints.is_empty() {
            return Err(Failure::input(format!(
                "{}: expected at least one checkpoint, found none",
                folder.display()
            )));
        }
        let each = checkpoints.into_iter().map(|c| {
            let weights = folder.join(c.weights);
            verify(&weights, &c.weights_sha256)?;
            Ok((c.step, c.learning_rate, weights))
        });
        Ok(Self { folder: folder.to_owned(), config, checkpoints: each.collect::<Result<_, Failure>>()? })
    }

    /// Whether the training came to its end: only then can what is repeated be compared with what was trained.
    ///
    /// # Errors
    /// If its last checkpoint is not that of its last step.
    pub fn finished(&self) -> Result<(), Failure> {
        let (last, steps) = (self.last().0, self.config.training.steps(self.config.examples));
        if last == steps {
            return Ok(());
        }
        let [expected, found] = [steps, last].map(|step| format!("step {step}"));
        Err(self
            .refusal("the last checkpoint", &expected, &found)
            .hint("finish the run with influence train --resume"))
    }

    /// Where the run stood at its last checkpoint: its step and the weights.
    pub fn last(&self) -> (usize, &Path) {
        let (step, _, weights) = &self.checkpoints[self.checkpoints.len() - 1];
        (*step, weights)
    }

    /// The network, if it is that of `kind`, which `name` names, and was trained on `train` from initial parameters: only
    /// then can the training be repeated.
    ///
    /// # Errors
    /// Anything else.
    pub fn repeatable<'k>(&self, kind: &'k Kind, name: &str, train: &Data) -> Result<&'k ModelSpec, Failure> {
        let Kind::Network(spec) = kind else {
            return Err(self.refusal("the model", "a network", name));
        };
        if self.config.model != *spec {
            return Err(self.refusal("the model", "the network that was trained", name));
        }
        if self.config.program != program() {
            return Err(self.refusal("the program", &program(), &self.config.program));
        }
        if self.config.init_sha256.is_some() {
            return Err(self.refusal("the start", "a run from initial parameters", "one with --init"));
        }
        if self.config.data_sha256 != of_examples(train) {
            let expected = format!("those of {}", self.config.train);
            return Err(self.refusal("the training examples", &expected, &train.source.to_string()));
        }
        Ok(spec)
    }

    /// What does not go with the run.
    pub fn refusal(&self, what: &str, expected: &str, found: &str) -> Failure {
        Failure::input(format!("{}: {what}: expected {expected}, found {found}", self.folder.display()))
    }
}

fn read_manifest(folder: &Path, action: &str) -> Result<Manifest, Failure> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path)
        .map_err(|e| Failure::input(format!("{}: cannot {action}: {e}", path.display())))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|e| Failure::input(format!("{}: expected a manifest, found: {e}", path.display())))?;
    let found = manifest.config.schema;
    if found != SCHEMA {
        return Err(Failure::input(format!("{}: expected schema {SCHEMA}, found {found}", path.display())));
    }
    Ok(manifest)
}

/// An open run directory.
pub struct RunDir {
    folder: PathBuf,
    manifest: Manifest,
}

impl RunDir {
    /// Starts a run in `folder`, or with `resume` opens the one that is there.
    ///
    /// # Errors
    /// A run that is there already, none to resume, or one with another configuration.
    pub fn open(folder: &Path, config: RunConfig, resume: bool) -> Result<Self, Failure> {
        let path = folder.join(MANIFEST);
        if !resume {
            if path.exists() {
                return Err(Failure::input(format!("{}: a run is there already", folder.display()))
                    .hint("go on with it with --resume, or name another --run"));
            }
            fs::create_dir_all(folder)
                .map_err(|e| Failure::input(format!("{}: cannot create: {e}", folder.display())))?;
            let run =
                Self { folder: folder.to_owned(), manifest: Manifest { config, checkpoints: Vec::new() } };
            run.write_manifest()?;
            return Ok(run);
        }
        let manifest = read_manifest(folder, "resume")?;
        let [there, here] = [&manifest.config, &config].map(|config| json!(config));
        if let Some(field) = difference(&there, &here) {
            return Err(Failure::input(format!(
                "{}: {field}: a run is resumed with the settings it was started with",
                path.display()
            )));
        }
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// The state at the last checkpoint that is whole, if there is one; those after it are forgotten. `note` is
    /// told of each that is not.
    ///
    /// # Errors
    /// Where all are missing, changed, or not those of the network.
    pub fn last<B: Backend>(
        &mut self,
        network: &Network<B>,
        note: impl Fn(&str),
    ) -> Result<Option<TrainState<B>>, Failure> {
        while let Some(checkpoint) = self.manifest.checkpoints.last() {
            match self.state(network, checkpoint) {
                Ok(state) => return Ok(Some(state)),
                Err(failure) if self.manifest.checkpoints.len() == 1 => return Err(failure),
                Err(failure) => {
                    note(&format!("{}; going back to the checkpoint before it", failure.message()))
                }
            }
            self.manifest.checkpoints.pop();
        }
        Ok(None)
    }

    fn state<B: Backend>(
        &self,
        network: &Network<B>,
        checkpoint: &Checkpoint,
    ) -> Result<TrainState<B>, Failure> {
        if checkpoint.weights != weights_name(checkpoint.step) {
            return Err(Failure::input(format!(
                "{}: step {} has {}, expected {}",
                self.folder.join(MANIFEST).display(),
                checkpoint.step,
                checkpoint.weights,
                weights_name(checkpoint.step)
            )));
        }
        let tensors = self.verified(&checkpoint.weights, &checkpoint.weights_sha256)?;
        let theta = self.block(network, &checkpoint.weights, &tensors, "")?;
        let (mut memory, memories) = (Vec::new(), self.manifest.config.training.optimizer.memories());
        if let (Some(name), Some(sha256)) = (&checkpoint.optimizer, &checkpoint.optimizer_sha256) {
            let tensors = self.verified(name, sha256)?;
            for i in 0..memories {
                memory.push(self.block(network, name, &tensors, &format!("{i}."))?);
            }
        } else if memories > 0 {
            return Err(Failure::input(format!(
                "{}: step {}: expected the state of the optimiser, found none",
                self.folder.join(MANIFEST).display(),
                checkpoint.step
            )));
        }
        Ok(TrainState { step: checkpoint.step, theta, memory })
    }

    /// Adds a checkpoint, if the last one is not of this step.
    ///
    /// # Errors
    /// A full disk.
    pub fn save<B: Backend>(
        &mut self,
        network: &Network<B>,
        state: &TrainState<B>,
        learning_rate: f64,
    ) -> Result<(), Failure> {
        if self.manifest.checkpoints.last().is_some_and(|last| last.step == state.step) {
            return Ok(());
        }
        let weights = weights_name(state.step);
        let weights_sha256 = self.write(&weights, &tensors(network, &state.theta, ""))?;
        let (mut optimizer, mut optimizer_sha256) = (None, None);
        if !state.memory.is_empty() {
            let name = format!("step-{:08}.optimizer.safetensors", state.step);
            let parts = state.memory.iter().enumerate();
            let all = parts.flat_map(|(i, block)| tensors(network, block, &format!("{i}."))).collect();
            optimizer_sha256 = Some(self.write(&name, &all)?);
            optimizer = Some(name);
        }
        let step = state.step;
        let checkpoint =
            Checkpoint { step, learning_rate, weights, weights_sha256, optimizer, optimizer_sha256 };
        self.manifest.checkpoints.push(checkpoint);
        self.write_manifest()
    }

    fn write(&self, name: &str, tensors: &BTreeMap<String, Array>) -> Result<String, Failure> {
        let path = self.folder.join(name);
        write_tensors(&path, tensors).and_then(|()| sha256_of(&path)).map_err(Failure::output)
    }

    fn write_manifest(&self) -> Result<(), Failure> {
        let path = self.folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(&self.manifest)
            .map_err(|e| Failure::Other(format!("{}: cannot write: {e}", path.display())))?
            + "\n";
        AtomicFile::create(&path)?.finish_with(text.as_bytes()).map_err(Failure::output)
    }

    fn verified(&self, name: &str, sha256: &str) -> Result<BTreeMap<String, Array>, Failure> {
        let path = self.folder.join(name);
        verify(&path, sha256)?;
        Ok(read_tensors(&path)?)
    }

    /// The tensors whose names begin with `prefix`, as a vector of parameters.
    fn block<B: Backend>(
        &self,
        network: &Network<B>,
        name: &str,
        tensors: &BTreeMap<String, Array>,
        prefix: &str,
    ) -> Result<Block<B>, Failure> {
        let own = tensors.iter().filter_map(|(name, array)| Some((name.strip_prefix(prefix)?, array)));
        let own = own.map(|(name, array)| (name.to_owned(), array.to_f64())).collect();
        network
            .parameters(&own)
            .map_err(|e| Failure::input(format!("{}: {e}", self.folder.join(name).display())))
    }
}

/// Refuses a file that is not what was written.
fn verify(path: &Path, sha256: &str) -> Result<(), Failure> {
    let found = sha256_of(path)?;
    if found != sha256 {
        return Err(Failure::input(format!("{}: expected sha256 {sha256}, found {found}", path.display())));
    }
    Ok(())
}

fn weights_name(step: usize) -> String {
    format!("step-{step:08}.safetensors")
}

/// A vector of parameters as tensors of its own type, names with a prefix.
pub fn tensors<B: Backend>(network: &Network<B>, theta: &Block<B>, prefix: &str) -> BTreeMap<String, Array> {
    let array = |values: ndarray::ArrayD<f64>| match B::Elem::NAME {
        // Exact for parameters, which were single before they were widened; running statistics may be double.
        "f32" if values.iter().all(|value| f64::from(*value as f32) == *value) => {
            Array::F32(values.mapv(|value| value as f32))
        }
        _ => Array::F64(values),
    };
    network
        .state(theta)
        .into_iter()
        .map(|(name, values)| (format!("{prefix}{name}"), array(values)))
        .collect()
}

/// For a new run.
pub fn schema() -> u32 {
    SCHEMA
}
