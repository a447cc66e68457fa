//! What the end-to-end tests share: golden values and comparisons.

#[cfg(feature = "openblas-system")]
use ndarray_linalg as _;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use if_data::Array;

/// A folder of this package, or one beside this program, where that was copied to another machine.
///
/// # Panics
/// Where a program has no place.
pub fn files(folder: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if built.exists() { built } else { std::env::current_exe().expect("a place").with_file_name(folder) }
}

/// Arrays of an npz file in this package's `data` folder.
pub struct Golden(BTreeMap<String, Array>);

impl Golden {
    /// Reads `data/NAME`.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn read(name: &str) -> Self {
        let path = files("data").join(name);
        Self(if_data::read_npz(&path).expect("golden values can be read"))
    }

    /// One array.
    ///
    /// # Panics
    /// Where there is no such array.
    pub fn array(&self, name: &str) -> &Array {
        self.0.get(name).unwrap_or_else(|| panic!("no array {name}"))
    }

    /// All numbers of one array, row-major.
    ///
    /// # Panics
    /// Where there is no such array.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.array(name).to_f64().into_iter().collect()
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
