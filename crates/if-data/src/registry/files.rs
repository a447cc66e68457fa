//! Finding a dataset's files and checking them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use if_linalg::HostArray;
use sha2::{Digest, Sha256};

use super::info::{DatasetInfo, RemoteFile};
use crate::{DataError, Element, LoadOptions};

/// Where a dataset is.
#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    /// In the program itself.
    Embedded,
    /// In this folder, all its files.
    Folder(PathBuf),
    /// Not here; `fetch` downloads it.
    Missing,
}

impl DatasetInfo {
    /// Looks for the dataset in the data folder, then in the cache folder. Checksums are left to
    /// [`load`](crate::load).
    pub fn locate(&self, options: &LoadOptions) -> Location {
        if self.files.is_empty() {
            return Location::Embedded;
        }
        let complete = |folder: &PathBuf| self.files.iter().all(|file| folder.join(file.name).is_file());
        self.folders(options).find(complete).map_or(Location::Missing, Location::Folder)
    }

    /// Checks every file of the dataset against its sha256.
    ///
    /// # Errors
    /// A file that is in neither folder, or another one than was published.
    pub fn verify(&self, options: &LoadOptions) -> Result<(), DataError> {
        self.files.iter().try_for_each(|file| self.verified(file, options).map(drop))
    }

    fn folders(&self, options: &LoadOptions) -> impl Iterator<Item = PathBuf> {
        [&options.data_dir, &options.cache_dir].into_iter().flatten().map(|folder| folder.join(self.folder))
    }

    /// The path of one of the files, checked against its sha256.
    pub(super) fn verified(&self, file: &RemoteFile, options: &LoadOptions) -> Result<PathBuf, DataError> {
        let candidates: Vec<PathBuf> = self.folders(options).map(|folder| folder.join(file.name)).collect();
        let Some(path) = candidates.iter().find(|path| path.is_file()) else {
            return Err(self.missing(file, options));
        };
        let found = sha256_of(path)?;
        if found == file.sha256 {
            return Ok(path.clone());
        }
        Err(DataError::malformed(path, "sha256", file.sha256, found))
    }

    fn missing(&self, file: &RemoteFile, options: &LoadOptions) -> DataError {
        let folders: Vec<String> = [&options.data_dir, &options.cache_dir]
            .into_iter()
            .flatten()
            .map(|folder| folder.display().to_string())
            .collect();
        let searched = match folders.as_slice() {
            [] => "looked for nowhere, as no data or cache folder is set".to_owned(),
            folders => format!("not in {}", folders.join(" or ")),
        };
        DataError::Missing { name: self.name, file: format!("{}/{}", self.folder, file.name), searched }
    }
}

/// The sha256 of a file, in lowercase hexadecimal digits.
///
/// # Errors
/// If it cannot be read.
pub fn sha256_of(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io(path, "open"))?;
    sha256_of_stream(&mut file).map_err(DataError::io(path, "read"))
}

/// The sha256 of all that `from` yields.
pub(crate) fn sha256_of_stream(from: &mut impl Read) -> io::Result<String> {
    let mut hash = Hash::new();
    copy(from, &mut hash)?;
    Ok(hash.hex())
}

/// The sha256 of a text, in lowercase hexadecimal digits.
pub fn sha256_of_text(text: &str) -> String {
    let mut hash = Hash::new();
    hash.0.update(text);
    hash.hex()
}

/// The sha256 of stored features (type, shape and values) and labels, in lowercase hexadecimal digits: the
/// same examples have the same, wherever they were loaded from.
pub fn checksum(features: &HostArray, labels: &[f64]) -> String {
    fn add<T: Element>(hash: &mut Hash, values: impl Iterator<Item = T>) {
        let mut bytes = Vec::with_capacity(1 << 16);
        for value in values {
            value.encode(&mut bytes);
            if bytes.len() >= (1 << 16) - 8 {
                hash.0.update(&bytes);
                bytes.clear();
            }
        }
        hash.0.update(&bytes);
    }
    let mut hash = Hash::new();
    for length in features.shape() {
        hash.0.update((*length as u64).to_le_bytes());
    }
    match features {
        HostArray::U8(a) => add(&mut hash, a.iter().copied()),
        HostArray::F32(a) => add(&mut hash, a.iter().copied()),
        HostArray::F64(a) => add(&mut hash, a.iter().copied()),
    }
    add(&mut hash, labels.iter().copied());
    hash.hex()
}

/// A running sha256 that can be written to.
pub(crate) struct Hash(Sha256);

impl Hash {
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    pub fn hex(self) -> String {
        format!("{:x}", self.0.finalize())
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`io::copy`] with a larger buffer: checksums of large files are twice as fast.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}
