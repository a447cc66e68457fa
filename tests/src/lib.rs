//! What the end-to-end tests share: real data, golden values, comparisons.

#[cfg(feature = "openblas-system")]
use ndarray_linalg as _;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use if_data::{Array, LoadOptions};

/// The folder of real data (`$INFLUENCE_DATA`, else `../shared/data`), or `None` and one line that says so.
#[allow(clippy::print_stderr)]
pub fn data_dir() -> Option<PathBuf> {
    let folder = std::env::var_os("INFLUENCE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no data folder at {} ($INFLUENCE_DATA)", folder.display());
    None
}

/// Where [`if_data::load`] looks.
pub fn load_options(data_dir: PathBuf) -> LoadOptions {
    LoadOptions { data_dir: Some(data_dir), ..LoadOptions::default() }
}

/// Arrays of an npz file in this package's `data` folder.
pub struct Golden(BTreeMap<String, Array>);

impl Golden {
    /// Reads `data/NAME`.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
        Self(if_data::read_npz(&path).expect("golden values can be read"))
    }

    /// All numbers of one array, row-major.
    ///
    /// # Panics
    /// Where there is no such array.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.0.get(name).unwrap_or_else(|| panic!("no array {name}")).to_f64().into_iter().collect()
    }

    /// Shape of one array.
    ///
    /// # Panics
    /// Where there is no such array.
    pub fn shape(&self, name: &str) -> &[usize] {
        self.0.get(name).unwrap_or_else(|| panic!("no array {name}")).shape()
    }

    /// One array of positions.
    ///
    /// # Panics
    /// Where there is no such array.
    pub fn indices(&self, name: &str) -> Vec<usize> {
        self.values(name).into_iter().map(|v| v as usize).collect()
    }
}

/// `|found - expected| / |expected|`, Euclidean norms.
///
/// # Panics
/// Where the lengths differ.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "another number of values");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    difference / norm(&mut expected.iter().copied())
}
