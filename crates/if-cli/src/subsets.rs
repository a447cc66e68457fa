//! Models trained on subsets of the training examples alone, and what they measure of queries.
//!
//! What comes out of each training is kept in a folder, so that a command that was stopped, or comes again with other
//! scores, does not train it again: `key.json` holds all that they depend on, `SUBSET-REPEAT.json` one of them.

use std::fs;
use std::path::{Path, PathBuf};

use if_data::{AtomicFile, checksum, sha256_of_text};
use if_linalg::{Backend, HostArray, Observer};
use if_methods::GroupDraw;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::console::Console;
use crate::error::Failure;
use crate::key::difference;

/// `count` subsets of as many of `n` examples as `share` says, positions in rising order. The first ones do not depend
/// on how many there are.
///
/// # Errors
/// A share of none or of all examples.
pub fn draw(n: usize, count: usize, share: f64, seed: u64) -> Result<Vec<Vec<usize>>, Failure> {
    let size = (share * n as f64).round() as usize;
    if size == 0 || size == n {
        return Err(Failure::input(format!(
            "--share {share}: expected some, but not all of {n} examples, found {size}"
        )));
    }
    let mut draw = GroupDraw::new(seed);
    Ok((0..count).map(|_| draw.random(n, size)).collect())
}

/// One training.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Which subset it is trained on.
    pub subset: usize,
    /// Which of the seeds it is trained with.
    pub repeat: usize,
}

/// What came out of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrained {
    /// Whether it came to its tolerance, where it has one.
    pub converged: bool,
    /// Loss of every query, or what stands for it.
    pub losses: Vec<f64>,
}

impl Retrained {
    fn sha256(&self) -> String {
        let losses = HostArray::F64(ndarray::Array1::from(self.losses.clone()).into_dyn());
        checksum(&losses, &[f64::from(u8::from(self.converged))])
    }
}

/// A folder of trainings.
pub struct Kept {
    folder: PathBuf,
    /// Of the key.
    sha256: String,
}

/// In its folder.
const KEY: &str = "key.json";

impl Kept {
    /// A new folder, or with `resume` the one that is there.
    ///
    /// # Errors
    /// One that is there already, none to resume, or one with another key.
    pub fn open(folder: &Path, key: &Value, resume: bool) -> Result<Self, Failure> {
        let path = folder.join(KEY);
        let place = path.display();
        if resume {
            let text = fs::read_to_string(&path)
                .map_err(|e| Failure::input(format!("{place}: cannot resume: {e}")))?;
            let there: Value = serde_json::from_str(&text)
                .map_err(|e| Failure::input(format!("{place}: expected a key, found: {e}")))?;
            if let Some(field) = difference(&there, key) {
                return Err(Failure::input(format!(
                    "{place}: {field}: retrainings are taken for the command that made them"
                )));
            }
        } else if folder.is_dir() && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::input(format!("{}: retrainings are there already", folder.display()))
                .hint("take them with --resume, delete them, or name another --out"));
        } else {
            fs::create_dir_all(folder)
                .map_err(|e| Failure::input(format!("{}: cannot create: {e}", folder.display())))?;
            AtomicFile::create(&path)?
                .finish_with(format!("{key:#}\n").as_bytes())
                .map_err(Failure::output)?;
        }
        Ok(Self { folder: folder.to_owned(), sha256: sha256_of_text(&key.to_string()) })
    }

    /// The trainings `units`, by `retrain` where they are not there yet; as many at once as `backend` can work on, and
    /// each is kept as soon as those are finished.
    ///
    /// # Errors
    /// The first of `retrain`, and a full disk. What was finished is kept.
    pub fn complete<B: Backend>(
        &self,
        backend: &B,
        units: &[Unit],
        retrain: impl Fn(Unit) -> Result<Retrained, Failure> + Sync,
        console: &Console,
    ) -> Result<Vec<Retrained>, Failure> {
        let mut found: Vec<Option<Retrained>> = units.iter().map(|unit| self.read(*unit, console)).collect();
        let missing: Vec<usize> = (0..units.len()).filter(|&u| found[u].is_none()).collect();
        let mut done = units.len() - missing.len();
        if done > 0 {
            console.note(&format!(
                "{done} of {} retrainings: taken from {}",
                units.len(),
                self.folder.display()
            ));
        }
        for wave in missing.chunks(backend.concurrency()) {
            console.progress("retraining", done, units.len());
            let mut failure: Option<Failure> = None;
            let results = backend.map(wave.len(), |k| retrain(units[wave[k]]));
            for (&u, result) in wave.iter().zip(results) {
                match result {
                    Ok(retrained) => {
                        self.write(units[u], &retrained)?;
                        found[u] = Some(retrained);
                        done += 1;
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            match failure {
                None => {}
                Some(Failure::Interrupted) => {
                    return Err(Failure::Suspended(format!(
                        "interrupted; {done} of {} retrainings are kept: go on with --resume",
                        units.len()
                    )));
                }
                Some(other) => return Err(other),
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn path(&self, unit: Unit) -> PathBuf {
        self.folder.join(format!("{}-{}.json", unit.subset, unit.repeat))
    }

    /// What is there of a training, if it is whole.
    fn read(&self, unit: Unit, console: &Console) -> Option<Retrained> {
        let path = self.path(unit);
        let entry: Value = serde_json::from_slice(&fs::read(&path).ok()?).unwrap_or_default();
        let retrained = serde_json::from_value(entry["retrained"].clone());
        let whole = |retrained: &Retrained| {
            entry["sha256"] == json!(retrained.sha256()) && entry["key_sha256"] == json!(self.sha256)
        };
        match retrained.ok().filter(whole) {
            Some(retrained) => Some(retrained),
            None => {
                console.warn(&format!("{}: damaged or of another command, and made anew", path.display()));
                None
            }
        }
    }

    fn write(&self, unit: Unit, retrained: &Retrained) -> Result<(), Failure> {
        let entry =
            json!({ "key_sha256": self.sha256, "sha256": retrained.sha256(), "retrained": retrained });
        let file = AtomicFile::create(&self.path(unit))?;
        file.finish_with(format!("{entry:#}\n").as_bytes()).map_err(Failure::output)
    }
}
