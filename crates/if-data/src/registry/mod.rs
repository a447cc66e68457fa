//! The datasets with a name.

mod embedded;
mod enron;
mod files;
mod hospital;
mod images;
mod info;
mod nli;

#[cfg(feature = "download")]
mod fetch;

use crate::{DataError, Examples, LoadOptions};

#[cfg(feature = "download")]
pub use fetch::{FetchOptions, fetch};

pub use enron::{Texts, load_texts};
pub(crate) use files::{Hash, sha256_of_stream};
pub use files::{Location, checksum, sha256_of, sha256_of_text};
pub use info::{DatasetInfo, RemoteFile, SplitInfo, datasets};

use info::Kind;

/// Loads one split of a dataset; `None` is its first.
pub(crate) fn load(name: &str, split: Option<&str>, options: &LoadOptions) -> Result<Examples, DataError> {
    let info = DatasetInfo::find(name)?;
    let split = info.split(split)?;
    let mut examples = match info.kind {
        Kind::Digits => embedded::digits(split)?,
        Kind::Iris => embedded::iris(split)?,
        Kind::Mnist => images::mnist(info, split, options)?,
        Kind::Cifar10 => images::cifar10(info, split, options)?,
        Kind::Cifar10Jpeg => images::cifar10_jpeg(info, split, options)?,
        Kind::Enron1 => enron::load(info, split, options)?,
        Kind::Hospital => hospital::load(info, options)?,
        Kind::Hans | Kind::CadSnli | Kind::Anli => nli::load(info, split, options)?,
    };
    debug_assert_eq!(examples.len(), split.examples, "{name}:{}", split.name);
    examples.class_names = Some(info.classes.iter().map(|&class| class.to_owned()).collect());
    // A split is a dataset of its own: its rows count from 0.
    examples.ids = (0..split.examples).collect();
    Ok(examples)
}
