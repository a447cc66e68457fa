//! Scores that are kept while they are computed, so that a command that was stopped goes on after them.
//!
//! `OUT.npy.part` holds the finished rows of scores. `OUT.json.part` is a journal: a line with the key, everything that
//! the scores depend on, and a line for every finished block of queries, with its certificate and the sha256 of its
//! rows. Every line begins with a sha256 of its own. Rows are handed to the operating system before the line that
//! declares them, so what was whole when the program was killed is a prefix of both files. What does not fit its
//! checksum was not finished, or is damaged, and is computed anew with all that follows. The last block has no line, as
//! the result follows at once.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use if_data::{AtomicFile, DataError, Element, NpyWriter, sha256_of_text};
use if_linalg::Real;
use if_methods::QUERY_BLOCK;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::console::Console;
use crate::error::Failure;
use crate::key::difference;

/// `OUT.npy` and `OUT.json` before they have their names. Every block of queries has a certificate `C`.
pub struct Partial<T, C> {
    scores: NpyWriter<T>,
    /// The names that both will have.
    names: [PathBuf; 2],
    journal: Journal,
    /// Queries and training examples.
    shape: [usize; 2],
    /// Queries that have their scores.
    done: usize,
    /// Those of them of which a score is infinite or undefined.
    undefined: Vec<usize>,
    blocks: Vec<C>,
}

/// What the journal says of a block.
#[derive(Serialize, Deserialize)]
struct Entry<C> {
    queries: usize,
    sha256: String,
    /// Queries, counted in the block, of which a score is not finite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    undefined: Vec<usize>,
    certificate: C,
}

struct Journal {
    file: File,
    path: PathBuf,
    /// Whether it declares any block.
    stays: bool,
}

impl<T: Element + Real, C: Serialize + DeserializeOwned> Partial<T, C> {
    /// Opens the outputs, both before the long run: what cannot be written fails now. With `resume` it goes on after the
    /// blocks that are there, and says so; else they are written over.
    ///
    /// # Errors
    /// What is there has another key, or another process is writing it; outputs that cannot be written.
    pub fn open(
        [scores, certificates]: [&Path; 2],
        shape: [usize; 2],
        key: &Value,
        resume: bool,
        console: &Console,
    ) -> Result<Self, Failure> {
        let mut path = certificates.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let there = Journal::read::<C>(&path, shape[0])?;
        if let (true, Some(kept)) = (resume, &there)
            && let Some(field) = difference(&kept.key, key)
        {
            return Err(Failure::input(format!(
                "{}: {field}: scores are resumed with the settings they were begun with",
                path.display()
            ))
            .hint("without --resume they are computed from the beginning"));
        }
        let there = there.map(|there| there.entries).unwrap_or_default();
        let begun = !there.is_empty();
        let mut entries = if resume { there } else { Vec::new() };
        let rows: Vec<(usize, String)> =
            entries.iter().map(|(entry, _)| (entry.queries * shape[1], entry.sha256.clone())).collect();
        let names = [scores, certificates].map(Path::to_owned);
        let (scores, kept) = NpyWriter::resume(scores, &shape, &rows)?;
        entries.truncate(kept);
        // Not kept open: a program that is killed leaves nothing of it.
        drop(AtomicFile::create(certificates)?);
        let journal = Journal::open(path, entries.last().map_or(0, |(_, end)| *end), key)?;
        let mut partial =
            Self { scores, names, journal, shape, done: 0, undefined: Vec::new(), blocks: Vec::new() };
        entries.into_iter().for_each(|(entry, _)| partial.count(entry));
        match (resume, kept) {
            (true, 0) => {
                console.note("--resume: nothing whole is there to go on from; starting at the beginning")
            }
            (true, _) => console.note(&format!("--resume: {} are there already", partial.progress())),
            (false, _) if begun => {
                console.note("unfinished scores are written over; --resume would have gone on with them");
            }
            (false, _) => {}
        }
        Ok(partial)
    }

    /// Queries that have their scores, from the first on: never all of them.
    pub fn done(&self) -> usize {
        self.done
    }

    fn count(&mut self, Entry { queries, undefined, certificate, .. }: Entry<C>) {
        self.undefined.extend(undefined.iter().map(|query| self.done + query));
        self.done += queries;
        self.blocks.push(certificate);
    }

    /// Adds the rows of the next block of queries.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, rows: &[T], certificate: C) -> Result<(), Failure> {
        let each = rows.chunks_exact(self.shape[1]).enumerate();
        let undefined = each.filter(|(_, row)| !row.iter().all(|score| score.to_f64().is_finite()));
        let undefined = undefined.map(|(query, _)| query).collect();
        let queries = rows.len() / self.shape[1];
        let last = self.done + queries == self.shape[0];
        let sha256 = match last {
            true => self.scores.append(rows).map(|()| String::new()),
            false => self.scores.append_block(rows),
        };
        let entry = Entry { queries, sha256: sha256.map_err(Failure::output)?, undefined, certificate };
        if !last {
            let text = serde_json::to_string(&entry).map_err(|error| Failure::Other(error.to_string()))?;
            self.journal.add(&text)?;
        }
        self.count(entry);
        Ok(())
    }

    /// The certificates of all blocks.
    pub fn blocks(&self) -> &[C] {
        &self.blocks
    }

    /// What a failure under way means: an interrupted command with finished blocks can go on.
    pub fn stopped(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Interrupted if self.done > 0 => {
                Failure::Suspended(format!("interrupted; {} are kept: go on with --resume", self.progress()))
            }
            other => other,
        }
    }

    fn progress(&self) -> String {
        format!("{} of {} blocks of queries", self.blocks.len(), self.shape[0].div_ceil(QUERY_BLOCK))
    }

    /// Gives both files their names, `text` being what `OUT.json` holds. Returns the queries of which a score is infinite or
    /// undefined.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self, text: &str) -> Result<Vec<usize>, Failure> {
        // Scores never stand without their certificates, nor those of another run beside these.
        let [scores, certificates] = &self.names;
        match fs::remove_file(scores) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                let error = DataError::Io { path: scores.clone(), action: "replace", source };
                return Err(Failure::output(error));
            }
            _ => {}
        }
        let certificates = AtomicFile::create(certificates).map_err(Failure::output)?;
        certificates.finish_with(text.as_bytes()).map_err(Failure::output)?;
        self.scores.finish().map_err(Failure::output)?;
        self.journal.stays = false;
        Ok(self.undefined)
    }
}

/// What a journal says as far as it is whole.
struct Kept<C> {
    key: Value,
    /// The blocks, and where the line of each ends.
    entries: Vec<(Entry<C>, u64)>,
}

impl Journal {
    /// What is there of fewer than `queries`; `None` where there is no journal, or one whose key is damaged.
    fn read<C: DeserializeOwned>(path: &Path, queries: usize) -> Result<Option<Kept<C>>, Failure> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::input(format!("{}: {error}", path.display()))),
        };
        let mut end = 0;
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map_while(|line| {
            end += line.len() as u64;
            let (sha256, text) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
            (sha256_of_text(text) == sha256).then_some((text, end))
        });
        let Some(key) = lines.next().and_then(|(text, _)| serde_json::from_str(text).ok()) else {
            return Ok(None);
        };
        let mut left = queries;
        let entries = lines.map_while(|(text, end)| {
            let entry: Entry<C> = serde_json::from_str(text).ok()?;
            left = left.checked_sub(entry.queries).filter(|left| *left > 0)?;
            Some((entry, end))
        });
        Ok(Some(Kept { key, entries: entries.collect() }))
    }

    /// Goes on after the first `bytes` of the journal in `path`, or begins it with `key` where these are none.
    fn open(path: PathBuf, bytes: u64, key: &Value) -> Result<Self, Failure> {
        let error = |source| DataError::Io { path: path.clone(), action: "create", source };
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(error)?;
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).map_err(error)?;
        let mut journal = Self { file, path, stays: bytes > 0 };
        if bytes == 0 {
            journal.write(&key.to_string())?;
        }
        Ok(journal)
    }

    /// Declares a block.
    fn add(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text)?;
        self.stays = true;
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let line = format!("{} {text}\n", sha256_of_text(text));
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| {
            Failure::output(DataError::Io { path: self.path.clone(), action: "write", source })
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.stays {
            // It says nothing that anybody needs, whether it goes or not.
            let _ = fs::remove_file(&self.path);
        }
    }
}
