//! Enron1: 5,172 e-mails to one employee, 3,672 ham and 1,500 spam.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use tar::Archive;

use super::info::{DatasetInfo, Kind, SplitInfo};
use crate::{BagOfWords, DataError, Examples, Labels, LoadOptions, Origin, Source};

/// Words in at least [`MIN_DF`] e-mails of train.
pub(super) const VOCABULARY: usize = 7154;

/// Words in fewer e-mails of train are left out (Koh and Liang 2017).
const MIN_DF: usize = 5;

/// Raw texts with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Texts {
    /// The texts.
    pub texts: Vec<String>,
    /// Class ids, one per text: 0 is ham, 1 is spam.
    pub y: Vec<i64>,
    /// The 0-based row of every text in its split. Slicing keeps them.
    pub ids: Vec<usize>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The texts in `rows`, with their ids.
    ///
    /// # Panics
    /// If `rows` reaches beyond [`len`](Self::len).
    pub fn slice(&self, rows: Range<usize>) -> Self {
        Self {
            texts: self.texts[rows.clone()].to_vec(),
            y: self.y[rows.clone()].to_vec(),
            ids: self.ids[rows].to_vec(),
        }
    }
}

/// Loads the raw texts of `enron1-spam` (`train`, `test` or `all`), such as `enron1-spam:all[0..100]`.
///
/// `all` is sorted by path, ham first. The split is a fixed random one: sorted by the sha256 of their
/// path (such as `ham/0001.1999-12-10.farmer.ham.txt`), the first 4,137 e-mails are train, the other
/// 1,035 test, each in that order. Texts are decoded as Latin-1.
///
/// # Errors
/// If `source` is something else, or the archive is missing or malformed.
pub fn load_texts(source: &Source, options: &LoadOptions) -> Result<Texts, DataError> {
    let Origin::Dataset { name, split } = &source.origin else {
        return Err(not_texts(source));
    };
    let info = DatasetInfo::find(name)?;
    let Kind::Enron1 = info.kind else {
        return Err(not_texts(source));
    };
    let split = info.split(split.as_deref())?;
    let texts = Emails::read(&info.verified(&info.files[0], options)?)?.texts(split);
    let rows = source.rows.resolve(texts.len(), source)?;
    Ok(texts.slice(rows))
}

fn not_texts(source: &Source) -> DataError {
    let reason = "expected a dataset of texts: enron1-spam".to_owned();
    DataError::BadSource { spec: source.to_string(), reason }
}

/// Counts of the words in at least 5 e-mails of train, whatever the split.
pub(super) fn load(
    info: &DatasetInfo,
    split: &SplitInfo,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    let archive = info.verified(&info.files[0], options)?;
    let emails = Emails::read(&archive)?;
    let bag = BagOfWords::fit(&emails.texts(&info.splits[0]).texts, MIN_DF)?;
    let texts = emails.texts(split);
    let mut examples = Examples::new(bag.transform(&texts.texts), Labels::Integer(texts.y), &archive)?;
    examples.feature_names = Some(bag.vocabulary().to_vec());
    Ok(examples)
}

/// The archive: `(path, text)`, sorted by path.
struct Emails(Vec<(String, String)>);

impl Emails {
    fn read(archive: &Path) -> Result<Self, DataError> {
        let file = File::open(archive).map_err(DataError::io(archive, "open"))?;
        let mut emails =
            unpack(GzDecoder::new(BufReader::new(file))).map_err(DataError::io(archive, "read"))?;
        emails.sort();
        Ok(Self(emails))
    }

    fn texts(&self, split: &SplitInfo) -> Texts {
        let mut rows: Vec<usize> = (0..self.0.len()).collect();
        if split.name != "all" {
            rows.sort_by_cached_key(|&row| Sha256::digest(&self.0[row].0));
        }
        let rows = match split.name {
            "test" => &rows[rows.len() - split.examples..],
            _ => &rows[..split.examples],
        };
        Texts {
            texts: rows.iter().map(|&row| self.0[row].1.clone()).collect(),
            y: rows.iter().map(|&row| i64::from(self.0[row].0.starts_with("spam/"))).collect(),
            ids: (0..rows.len()).collect(),
        }
    }
}

/// The members `enron1/ham/*` and `enron1/spam/*`, without `enron1/`.
fn unpack(tar: impl Read) -> io::Result<Vec<(String, String)>> {
    let mut emails = Vec::new();
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(name) = path.strip_prefix("enron1/") else { continue };
        if !entry.header().entry_type().is_file() || !(name.starts_with("ham/") || name.starts_with("spam/"))
        {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        // Latin-1: every byte is the code point of the same number.
        emails.push((name.to_owned(), bytes.into_iter().map(char::from).collect()));
    }
    Ok(emails)
}
