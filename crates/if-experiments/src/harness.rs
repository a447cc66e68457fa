//! What an experiment is, what it is given, and what it gives back.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use if_linalg::Observer;
use serde_json::{Map, Value};

use crate::eta::Eta;
use crate::progress::{Outer, Progress};
use crate::result::{Metric, Table};

/// One experiment of one paper.
pub trait Experiment {
    /// Short name: the argument of `--only`, and the name of the results' folder.
    fn id(&self) -> &str;
    /// The paper, such as "Koh & Liang 2017".
    fn paper(&self) -> &str;
    /// What is done, such as "Leave-one-out retraining, softmax, MNIST".
    fn title(&self) -> &str;
    /// What it shows where its gates are met, in one sentence.
    fn claim(&self) -> &str;
    /// The datasets that must be in the data folder, by registry name.
    fn needs(&self) -> &[&str] {
        &[]
    }
    /// Measures.
    fn run(&self, context: &Context) -> anyhow::Result<Outcome>;
}

/// What an experiment measured.
#[derive(Default)]
pub struct Outcome {
    /// The measurements, with their gates.
    pub metrics: Vec<Metric>,
    /// The random seeds used.
    pub seeds: Vec<u64>,
    /// Sizes, hyperparameters and whatever else decides the numbers.
    pub settings: Map<String, Value>,
    /// Plots, made with [`if_plot`].
    pub plots: Vec<Figure>,
    /// Pictures of examples, such as proponents and opponents.
    pub pictures: Vec<Figure>,
    /// Further tables.
    pub tables: Vec<Table>,
    /// Deviations from the paper, and what a reader should know before believing the numbers.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Records a setting.
    pub fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.into(), value.into());
    }
}

/// An SVG picture with its caption.
pub struct Figure {
    /// File name without `.svg`; unique within the experiment.
    pub name: String,
    /// What is to be seen.
    pub caption: String,
    /// The document.
    pub svg: String,
}

/// What every experiment is given.
pub struct Context {
    data: Option<PathBuf>,
    /// Whether the long variant was asked for.
    pub full: bool,
    seed: u64,
    progress: Progress,
}

impl Context {
    /// A context that finds datasets in the folder `data` and counts seeds from `seed`.
    pub fn new(data: Option<PathBuf>, full: bool, seed: u64) -> Self {
        Self { data, full, seed, progress: Progress::default() }
    }

    /// The folder in which all datasets lie, if there is one.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// The folder of one dataset.
    pub fn dataset(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.find(name).with_context(|| format!("no dataset '{name}': cargo xtask data fetch {name}"))
    }

    /// Which of the datasets that `experiment` needs are not there.
    pub fn missing<'a>(&self, experiment: &'a dyn Experiment) -> Vec<&'a str> {
        experiment.needs().iter().copied().filter(|name| self.find(name).is_none()).collect()
    }

    // Some datasets share a folder.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let info = if_data::datasets().iter().find(|info| info.name == name)?;
        let folder = self.data.as_ref()?.join(info.folder);
        folder.is_dir().then_some(folder)
    }

    /// `count` consecutive seeds, from the one asked for on.
    pub fn seeds(&self, count: u64) -> Vec<u64> {
        (0..count).map(|i| self.seed.wrapping_add(i)).collect()
    }

    /// Shows that `done` of `total` units of `what` are finished. May be called from any thread.
    pub fn progress(&self, what: &str, done: usize, total: usize) {
        self.progress.show(what, done, total);
    }

    /// Shows how many of `total` units of `what` are finished, and nothing of the steps within them, until the result is
    /// dropped: for units that run side by side.
    pub fn outer_progress(&self, what: &str, total: usize) -> Outer<'_> {
        self.progress.outer(what, total)
    }

    /// Shows from now on what `run` says is left.
    pub(crate) fn set_run(&self, run: &Eta) {
        self.progress.set_run(run);
    }

    /// Takes the progress bar off the screen.
    pub(crate) fn clear_progress(&self) {
        self.progress.clear();
    }

    /// The command that runs the experiment `id` like this.
    pub(crate) fn command(&self, id: &str) -> String {
        let mut command = format!("cargo xtask reproduce --only {id}");
        if self.full {
            command.push_str(" --full");
        }
        if self.seed != 0 {
            command.push_str(&format!(" --seed {}", self.seed));
        }
        command
    }
}

/// The progress of library calls is shown like the experiment's own.
impl Observer for Context {
    fn progress(&self, stage: &str, done: usize, total: usize) {
        self.progress.show(stage, done, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_the_run() {
        assert_eq!(Context::new(None, false, 0).command("1a"), "cargo xtask reproduce --only 1a");
        let long = Context::new(None, true, 7);
        assert_eq!(long.command("1a"), "cargo xtask reproduce --only 1a --full --seed 7");
        assert_eq!(long.seeds(3), [7, 8, 9]);
    }

    #[test]
    fn a_missing_dataset_names_the_command_that_fetches_it() {
        let error = Context::new(None, false, 0).dataset("mnist").unwrap_err();
        assert!(error.to_string().contains("cargo xtask data fetch mnist"));
    }
}
