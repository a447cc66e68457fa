//! The one error type of the crate: every message is one line that names the file, the position in
//! it, what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

/// Why data could not be read, written or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system, or a decompressor, refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted: `open`, `read`, `create`, ...
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A file does not hold what its format, its own header, or its use asks for.
    #[error("{}: {at}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file: a byte, an entry, a line and column.
        at: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A source such as `mnist:test[7]` that does not follow the grammar of [`Source`](crate::Source).
    #[error("{spec:?} is not a data source: {reason}")]
    BadSource {
        /// The text as it was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that the registry does not know.
    #[error("unknown dataset {name:?}: the registry has {known}")]
    UnknownDataset {
        /// The name as it was given.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// A split that the dataset does not have.
    #[error("dataset {name} has no split {split:?}: it has {known}")]
    UnknownSplit {
        /// The dataset.
        name: &'static str,
        /// The split as it was given.
        split: String,
        /// The splits there are, separated by commas.
        known: String,
    },
    /// A slice that reaches beyond the examples, or holds none.
    #[error("{source_name}: rows [{start}..{end}] asked for, but it has the rows [0..{len}]")]
    RowsOutOfRange {
        /// The source that was sliced.
        source_name: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Number of rows there are.
        len: usize,
    },
    /// A file of a registry dataset is in neither folder; the message holds the command that fetches it.
    #[error("dataset {name} is not here: {file} is {searched}; fetch it with `influence data fetch {name}`")]
    Missing {
        /// The dataset.
        name: &'static str,
        /// The file that was looked for, relative to the data folder.
        file: String,
        /// Where it was looked for.
        searched: String,
    },
    /// A bag of words in which no word occurs in enough documents.
    #[error("no word occurs in at least min_df = {min_df} of the {documents} documents")]
    EmptyVocabulary {
        /// The least number of documents asked for.
        min_df: usize,
        /// The number of documents given.
        documents: usize,
    },
    /// A download failed; nothing was left behind.
    #[error("{url}: {reason}")]
    Download {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

impl DataError {
    /// For `map_err` on an [`io::Error`] met while doing `action` to `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn malformed(
        path: &Path,
        at: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            at: at.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
