//! What the tests share.

use std::fmt::Debug;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use if_data::{DataError, Examples, LoadOptions, load};
use tempfile::TempDir;

/// A folder that goes when the test ends.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file into the folder.
pub fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Loads what is written like on a command line.
pub fn load_spec(spec: &str) -> Result<Examples, DataError> {
    load(&spec.parse()?, &LoadOptions::default())
}

/// Checks that the result is an error of one line that holds every one of `parts`.
pub fn assert_error<T: Debug>(result: Result<T, DataError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} should contain {part:?}");
    }
}

/// The folder of real data, or `None` and one line that says so.
#[allow(clippy::print_stderr)]
pub fn data_dir() -> Option<PathBuf> {
    let folder = std::env::var_os("INFLUENCE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no data folder at {} ($INFLUENCE_DATA)", folder.display());
    None
}
