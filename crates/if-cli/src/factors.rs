//! Fitted factors and sketches in a run directory, so that later commands need not fit them again.
//!
//! A fit is two files in `factors/`: `NAME.safetensors`, and `NAME.json` with the key, everything that the fit depends
//! on, and the sha256 of the former. `NAME` holds a hash of the key, and the key itself is compared too: another
//! example, weight, layer, seed or version is another fit, so none is ever stale.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use if_data::{Array, AtomicFile, checksum, read_tensors, sha256_of, sha256_of_text, write_tensors};
use if_linalg::{Backend, Block, HostArray, KroneckerFactors, Layout, LowRankFactors, Real};
use if_models::{Network, Tensors};
use ndarray::{Array1, ArrayD};
use serde_json::{Value, json};

use crate::console::Console;
use crate::error::Failure;

/// Where fits are kept, if anywhere.
pub struct FactorStore {
    folder: Option<PathBuf>,
    /// What every fit of this session depends on.
    common: Value,
}

/// The files of one fit.
struct Place {
    tensors: PathBuf,
    manifest: PathBuf,
    key: Value,
}

impl FactorStore {
    /// In `run/factors`; `common` is only asked for where there is a run.
    pub fn new(run: Option<&Path>, common: impl FnOnce() -> Value) -> Self {
        Self { folder: run.map(|run| run.join("factors")), common: run.map_or(Value::Null, |_| common()) }
    }

    /// The fit `name` with `key`: read where it is kept, else made by `fit`, and kept unless that fails.
    ///
    /// # Errors
    /// A folder that cannot be written. A fit that cannot be read is made anew.
    pub fn get<F, E>(
        &self,
        name: &str,
        key: Value,
        (read, write): (impl Fn(&Tensors) -> Option<F>, impl Fn(&F) -> Tensors),
        fit: impl FnOnce() -> Result<F, E>,
        console: &Console,
    ) -> Result<Result<F, E>, Failure> {
        let Some(folder) = &self.folder else { return Ok(fit()) };
        let place = self.place(folder, name, key);
        match place.read() {
            Ok(Some(tensors)) => {
                if let Some(kept) = read(&tensors) {
                    console.note(&format!("{name}: taken from {}", place.tensors.display()));
                    return Ok(Ok(kept));
                }
                console
                    .note(&format!("{}: not a fit of this network; fitting anew", place.tensors.display()));
            }
            Ok(None) => {}
            Err(reason) => console.note(&format!("{}; fitting anew", reason.message())),
        }
        let fitted = match fit() {
            Ok(fitted) => fitted,
            Err(refused) => return Ok(Err(refused)),
        };
        fs::create_dir_all(folder)
            .map_err(|error| Failure::input(format!("{}: {error}", folder.display())))?;
        place.write(&write(&fitted))?;
        Ok(Ok(fitted))
    }

    fn place(&self, folder: &Path, name: &str, own: Value) -> Place {
        let key = json!({ "name": name, "own": own, "common": self.common });
        let hash = sha256_of_text(&key.to_string());
        let stem = format!("{name}-{}", &hash[..16]);
        Place {
            tensors: folder.join(format!("{stem}.safetensors")),
            manifest: folder.join(format!("{stem}.json")),
            key,
        }
    }
}

impl Place {
    /// The tensors; `None` where there is no such fit.
    fn read(&self) -> Result<Option<Tensors>, Failure> {
        let Ok(text) = fs::read_to_string(&self.manifest) else { return Ok(None) };
        let manifest: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::input(format!("{}: {error}", self.manifest.display())))?;
        if manifest["key"] != self.key {
            return Ok(None);
        }
        let found = sha256_of(&self.tensors)?;
        if manifest["sha256"] != json!(found) {
            let expected = &manifest["sha256"];
            return Err(Failure::input(format!(
                "{}: expected sha256 {expected}, found \"{found}\"",
                self.tensors.display()
            )));
        }
        let tensors = read_tensors(&self.tensors)?;
        Ok(Some(tensors.into_iter().map(|(name, array)| (name, array.to_f64())).collect()))
    }

    fn write(&self, tensors: &Tensors) -> Result<(), Failure> {
        let arrays: BTreeMap<String, Array> =
            tensors.iter().map(|(name, values)| (name.clone(), Array::F64(values.clone()))).collect();
        write_tensors(&self.tensors, &arrays).map_err(Failure::output)?;
        let manifest = json!({ "key": self.key, "sha256": sha256_of(&self.tensors)? });
        let text = format!("{manifest:#}\n");
        AtomicFile::create(&self.manifest)?.finish_with(text.as_bytes()).map_err(Failure::output)
    }
}

/// Of the parameters and constants of a network.
pub fn state_checksum<B: Backend>(network: &Network<B>, theta: &Block<B>) -> String {
    let values: Vec<f64> = network.state(theta).values().flatten().copied().collect();
    checksum(&HostArray::F64(Array1::from_vec(values).into_dyn()), &[])
}

/// Kronecker factors as tensors: `values`, and of segment `s` `s.left` and `s.right`.
pub fn kronecker_tensors<B: Backend>(factors: &KroneckerFactors<B>) -> Tensors {
    let values = factors.values();
    let mut tensors = Tensors::new();
    tensors.insert("values".into(), Array1::from_vec(values.to_f64()).into_dyn());
    for s in 0..values.layout().segments().len() {
        let Some(basis) = factors.basis(s) else { continue };
        for (side, name) in basis.into_iter().zip(["left", "right"]) {
            let numbers: Vec<f64> = values.backend().download(side).into_iter().map(Real::to_f64).collect();
            let square = ArrayD::from_shape_vec(vec![side.rows, side.cols], numbers);
            tensors.insert(format!("{s}.{name}"), square.expect("a square matrix"));
        }
    }
    tensors
}

/// The inverse of [`kronecker_tensors`]; `None` where the sizes are others.
pub fn kronecker_factors<B: Backend>(
    backend: &B,
    layout: &Arc<Layout>,
    tensors: &Tensors,
) -> Option<KroneckerFactors<B>> {
    let values = Block::from_f64(backend, layout, &numbers(tensors, "values", layout.dim())?);
    let side = |s: usize, name: &str, n: usize| {
        let values = numbers(tensors, &format!("{s}.{name}"), n * n)?;
        Some(backend.upload(&values.into_iter().map(B::Elem::from_f64).collect::<Vec<_>>()))
    };
    let basis = |(s, segment): (usize, &if_linalg::Segment)| {
        if !tensors.contains_key(&format!("{s}.left")) {
            return Some(None);
        }
        Some(Some([side(s, "left", segment.rows)?, side(s, "right", segment.cols)?]))
    };
    let bases: Option<Vec<_>> = layout.segments().iter().enumerate().map(basis).collect();
    Some(KroneckerFactors::new(bases?, values))
}

/// Eigenpairs as tensors: `vectors` (`rank x p`) and `values`.
pub fn low_rank_tensors<B: Backend>(factors: &LowRankFactors<B>) -> Tensors {
    let vectors = factors.vectors();
    let shape = vec![vectors.k(), vectors.layout().dim()];
    let rows = ArrayD::from_shape_vec(shape, vectors.to_f64()).expect("as many numbers");
    let values = Array1::from_vec(factors.values().to_vec()).into_dyn();
    Tensors::from([("vectors".to_owned(), rows), ("values".to_owned(), values)])
}

/// The inverse of [`low_rank_tensors`]; `None` where the sizes are others.
pub fn low_rank_factors<B: Backend>(
    backend: &B,
    layout: &Arc<Layout>,
    tensors: &Tensors,
) -> Option<LowRankFactors<B>> {
    let values = numbers(tensors, "values", tensors.get("values")?.len())?;
    let vectors =
        Block::from_f64(backend, layout, &numbers(tensors, "vectors", values.len() * layout.dim())?);
    (vectors.k() == values.len()).then(|| LowRankFactors::new(vectors, values))
}

/// The tensor `name`, if it has `len` finite numbers.
fn numbers(tensors: &Tensors, name: &str, len: usize) -> Option<Vec<f64>> {
    let tensor = tensors.get(name)?;
    (tensor.len() == len && tensor.iter().all(|v| v.is_finite())).then(|| tensor.iter().copied().collect())
}
