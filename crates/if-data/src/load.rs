//! From a [`Source`] to [`Examples`].

use std::path::{Path, PathBuf};

use crate::{Array, DataError, Examples, Origin, Source, csv, idx, npy, npz, registry};

/// What a [`Source`] does not say itself. The default knows no folders: embedded datasets and files
/// by their path still load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Folder with one subfolder per dataset, looked at first (`$INFLUENCE_DATA` of the programs).
    pub data_dir: Option<PathBuf>,
    /// Folder that `fetch` downloads into, looked at second.
    pub cache_dir: Option<PathBuf>,
    /// Label column of csv tables; `None` is the last. Other sources have no use for it.
    pub label_column: Option<String>,
    /// Column of csv tables, or array of numbers of npz files, that says where an example belongs, such as its source: no
    /// feature. Of the registry, `hans-regenerated` has such columns (`heuristic`, `subcase`).
    pub group_column: Option<String>,
}

/// Loads the examples of `source`.
///
/// Nothing is downloaded: a dataset that is in neither folder is [`DataError::Missing`], and the
/// message holds the command that fetches it. Files of the registry are checked against their sha256.
///
/// In csv tables features are numbers, kept as `f64`. Labels that are all integers stay as they are;
/// other numbers are regression targets; anything else is numbered in the sorted order of the names.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// use if_data::{LoadOptions, load};
///
/// let queries = load(&"digits:test[0..3]".parse()?, &LoadOptions::default())?;
/// assert_eq!(queries.x.shape(), [3, 8, 8]);
/// assert_eq!(queries.ids, [0, 1, 2]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the dataset, split or rows do not exist, or a file is missing or malformed.
pub fn load(source: &Source, options: &LoadOptions) -> Result<Examples, DataError> {
    let all = match &source.origin {
        Origin::Dataset { name, split } => registry::load(name, split.as_deref(), options)?,
        Origin::Npz(path) => npz::read_examples(path, options.group_column.as_deref())?,
        Origin::Csv(path) => csv::read_file(path, options)?,
        Origin::Pair { x, y } => read_pair(x, y)?,
    };
    let rows = source.rows.resolve(all.len(), source)?;
    Ok(if rows.len() == all.len() { all } else { all.slice(rows) })
}

/// Reads features and labels from two `.npy` or idx files.
pub(crate) fn read_pair(x: &Path, y: &Path) -> Result<Examples, DataError> {
    let features = read_array(x)?.into_features(x, "array")?;
    Examples::new(features, read_array(y)?.into_labels(y, "array")?, y)
}

fn read_array(path: &Path) -> Result<Array, DataError> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        npy::read_npy(path)
    } else {
        idx::read_idx(path)
    }
}
