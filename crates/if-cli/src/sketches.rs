//! Sketches of the training examples in a file, so that later queries search them instead of the gradients.
//!
//! `NAME.npy` (`examples x numbers`) has `NAME.json` beside it: the key, everything that the sketches depend on, and the
//! sha256 of the former. They are mapped into memory, so they may be larger than it.

use std::fs;
use std::path::Path;

use if_data::{AtomicFile, Element, NpyMatrix, NpyWriter, sha256_of};
use if_linalg::{Backend, Observer, Real};
use if_methods::{MethodError, QUERY_BLOCK, sketch_products};
use serde_json::{Value, json};

use crate::console::Console;
use crate::error::Failure;

/// Numbers that are multiplied at once.
const BLOCK: usize = 1 << 22;

/// Sketches of the training examples, of `width` numbers each.
pub struct Sketches<T> {
    place: Place<T>,
    width: usize,
}

enum Place<T> {
    Memory(Vec<T>),
    File(NpyMatrix<T>),
}

impl<T: Real + Element> Sketches<T> {
    /// Those of one command.
    pub fn in_memory(numbers: Vec<T>, width: usize) -> Self {
        Self { place: Place::Memory(numbers), width }
    }

    /// Those in `path`, which are made and written where there is no such file.
    ///
    /// # Errors
    /// Sketches with another key, a damaged file, or one that cannot be written.
    pub fn in_file(
        path: &Path,
        shape: [usize; 2],
        key: &Value,
        make: impl FnOnce() -> Result<Vec<T>, MethodError>,
        console: &Console,
    ) -> Result<Self, Failure> {
        let manifest = path.with_extension("json");
        if path.exists() {
            check(path, &manifest, key)?;
            console.note(&format!("sketches of the training examples: taken from {}", path.display()));
        } else {
            let mut writer = NpyWriter::create(path, &shape)?;
            let file = AtomicFile::create(&manifest)?;
            writer.append(&make()?).map_err(Failure::output)?;
            // What the sketches are is known before they are there: a command that is stopped between the two leaves no
            // sketches of which nobody knows what they are.
            write_manifest(file, key, None)?;
            writer.finish().map_err(Failure::output)?;
            write_manifest(AtomicFile::create(&manifest)?, key, Some(&sha256_of(path)?))?;
        }
        let matrix = NpyMatrix::open(path)?;
        let found = matrix.shape();
        if found != shape {
            return Err(Failure::input(format!(
                "{}: expected shape {shape:?}, found {found:?}",
                path.display()
            )));
        }
        Ok(Self { place: Place::File(matrix), width: shape[1] })
    }

    /// Inner products of the sketches `queries` with all of these on the device, block of queries by block, row-major.
    ///
    /// # Errors
    /// Ctrl-C, or the first error of `take`.
    pub fn search(
        &self,
        backend: &impl Backend<Elem = T>,
        queries: &[T],
        console: &Console,
        mut take: impl FnMut(&[T]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let numbers = match &self.place {
            Place::Memory(numbers) => numbers,
            Place::File(matrix) => matrix.numbers(),
        };
        let (examples, most) = (numbers.len() / self.width, (BLOCK / self.width).max(1));
        for queries in queries.chunks(QUERY_BLOCK * self.width) {
            let mut scores = vec![T::ZERO; queries.len() / self.width * examples];
            for (block, rows) in numbers.chunks(most * self.width).enumerate() {
                if console.cancelled() {
                    return Err(MethodError::Cancelled.into());
                }
                let (first, len) = (block * most, rows.len() / self.width);
                let products = sketch_products(backend, queries, rows, self.width);
                for (own, products) in scores.chunks_exact_mut(examples).zip(products.chunks_exact(len)) {
                    own[first..first + len].copy_from_slice(products);
                }
            }
            take(&scores)?;
        }
        Ok(())
    }
}

fn write_manifest(file: AtomicFile, key: &Value, sha256: Option<&str>) -> Result<(), Failure> {
    let text = format!("{:#}\n", json!({ "key": key, "sha256": sha256 }));
    file.finish_with(text.as_bytes()).map_err(Failure::output)
}

/// Refuses sketches of something else, and those that are not what was written.
fn check(path: &Path, manifest: &Path, key: &Value) -> Result<(), Failure> {
    let hint = "name another file to make sketches anew";
    let refuse = |text: String| Err(Failure::input(text).hint(hint));
    let text = match fs::read_to_string(manifest) {
        Ok(text) => text,
        Err(error) => return refuse(format!("{}: {error}", manifest.display())),
    };
    let kept: Value = match serde_json::from_str(&text) {
        Ok(kept) => kept,
        Err(error) => return refuse(format!("{}: {error}", manifest.display())),
    };
    let fields = key.as_object().into_iter().flatten();
    let others: Vec<&str> =
        fields.filter(|(field, value)| kept["key"][field] != **value).map(|(field, _)| &**field).collect();
    if !others.is_empty() {
        return refuse(format!(
            "{}: expected sketches made as this command makes them, found some with another {}",
            path.display(),
            others.join(", another ")
        ));
    }
    let found = sha256_of(path)?;
    if kept["sha256"].is_null() {
        // Stopped right after the sketches, which appear whole or not at all.
        return write_manifest(AtomicFile::create(manifest)?, key, Some(&found));
    }
    if kept["sha256"] != json!(found) {
        return refuse(format!("{}: expected sha256 {}, found \"{found}\"", path.display(), kept["sha256"]));
    }
    Ok(())
}
