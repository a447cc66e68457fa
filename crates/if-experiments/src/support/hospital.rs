//! Diabetes 130-US hospitals, as Koh & Liang's code splits them.

use std::ops::Range;

use anyhow::Context as _;
use if_data::Examples;
use if_models::Dataset;

use super::{dataset, problem::examples};
use crate::Context;

/// Stays in hospital, label 1 where another followed within 30 days.
pub struct Hospital {
    /// The 127 features of the authors' code, not scaled.
    pub data: Dataset,
    /// Their names, such as `age=[0-10)`.
    pub features: Vec<String>,
    /// Names of medical specialties; `?` where it is not known.
    pub specialties: Vec<String>,
    /// That of every stay.
    pub specialty: Vec<usize>,
}

/// Training examples of each label.
const EACH: usize = 10_000;
const FEATURES: usize = 127;
const SPECIALTY: &str = "medical_specialty=";

impl Hospital {
    /// All stays.
    pub fn load(context: &Context) -> anyhow::Result<Self> {
        let all = examples(context, "diabetes130-hospital")?;
        let names = all.feature_names.clone().context("the columns have names")?;
        let (features, specialties) = names.split_at(FEATURES);
        let ones = columns(&all, FEATURES..names.len());
        let specialty = ones
            .chunks_exact(specialties.len())
            .map(|row| row.iter().position(|&one| one == 1.0).context("every stay has a specialty"));
        Ok(Self {
            data: dataset(FEATURES, columns(&all, 0..FEATURES), all.y.to_f64())?,
            features: features.to_vec(),
            specialty: specialty.collect::<anyhow::Result<_>>()?,
            specialties: specialties.iter().map(|name| name.replace(SPECIALTY, "")).collect(),
        })
    }

    /// Rows to train on, 10,000 of each label, and the others, by `seed`; those of `always` come to the front.
    pub fn split(&self, seed: u64, always: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let order = if_methods::random_order(self.data.len(), seed);
        let others = order.into_iter().filter(|row| !always.contains(row));
        let mut taken = [0; 2];
        always.iter().copied().chain(others).partition(|&row| {
            let taken = &mut taken[self.data.labels()[row] as usize];
            *taken += 1;
            *taken <= EACH
        })
    }
}

/// Some columns, row after row.
fn columns(all: &Examples, columns: Range<usize>) -> Vec<f64> {
    let mut row = vec![0.0; all.x.width()];
    let mut values = Vec::with_capacity(all.len() * columns.len());
    for i in 0..all.len() {
        all.x.read_row(i, &mut row);
        values.extend_from_slice(&row[columns.clone()]);
    }
    values
}
