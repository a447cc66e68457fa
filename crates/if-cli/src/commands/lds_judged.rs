//! Scores that `influence lds` judges: their sums over subsets, and how these agree with retraining.

use std::path::Path;

use if_data::read_npy;
use if_linalg::{Backend, Block, Loss, Real};
use if_methods::{DatamodelScore, Influence, SeedNoise, pearson, spearman};
use if_models::{EmpiricalRisk, Inputs};
use ndarray::Ix2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::console::Console;
use crate::error::Failure;
use crate::subsets::Retrained;

/// Random scores have a stream of their own beside the subsets, which are drawn from stream 0.
const RANDOM_STREAM: u64 = 1;

/// Scores by name.
pub struct Judged {
    name: String,
    /// Sum of the scores of the members, subsets x queries.
    predicted: Vec<Vec<f64>>,
}

impl Judged {
    fn new(name: impl Into<String>, members: &[Vec<usize>]) -> Self {
        Self { name: name.into(), predicted: vec![Vec::new(); members.len()] }
    }

    /// Adds a query with the scores of all training examples.
    fn push<T: Real>(&mut self, members: &[Vec<usize>], scores: &[T]) {
        for (predicted, members) in self.predicted.iter_mut().zip(members) {
            predicted.push(members.iter().map(|&i| scores[i].to_f64()).sum());
        }
    }

    /// Scores of `shape`, query x train, from a file.
    ///
    /// # Errors
    /// Another shape, or a score that is not finite.
    pub fn read(path: &Path, shape: [usize; 2], members: &[Vec<usize>]) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let scores = read_npy(path)?.to_f64();
        if scores.shape() != shape {
            let found = scores.shape();
            let failure = Failure::input(format!(
                "{name}: expected scores of shape {shape:?}, query x train, found {found:?}"
            ));
            let turned = *found == [shape[1], shape[0]];
            return Err(if turned {
                failure.hint("it is train x query: save its transpose")
            } else {
                failure
            });
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let (row, column) = (at / shape[1], at % shape[1]);
            let found = scores[[row, column]];
            return Err(Failure::input(format!(
                "{name}: expected finite scores, found {found} in row {row}, column {column}"
            )));
        }
        let scores = scores.into_dimensionality::<Ix2>().expect("it has two axes");
        let mut judged = Self::new(name, members);
        scores.outer_iter().for_each(|row| judged.push(members, &row.to_vec()));
        Ok(judged)
    }

    /// One score for each training example, whatever the query.
    pub fn same_for_all(name: &str, scores: &[f64], queries: usize, members: &[Vec<usize>]) -> Self {
        let mut judged = Self::new(name, members);
        (0..queries).for_each(|_| judged.push(members, scores));
        judged
    }

    /// Scores that know nothing.
    pub fn random([queries, n]: [usize; 2], seed: u64, members: &[Vec<usize>]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(RANDOM_STREAM);
        let mut judged = Self::new("random", members);
        for _ in 0..queries {
            let scores: Vec<f64> = (0..n).map(|_| rng.random()).collect();
            judged.push(members, &scores);
        }
        judged
    }

    /// Inner products of gradients, those of queries under `loss`.
    pub fn dots<B: Backend>(
        (risk, theta): (&EmpiricalRisk<B>, &Block<B>),
        (queries, loss): (&Inputs<B>, Loss),
        members: &[Vec<usize>],
        console: &Console,
    ) -> Result<Self, Failure> {
        let mut judged = Self::new("gradient dot product", members);
        let dots = Influence::of_identity(risk, theta).measuring(loss)?;
        dots.attribute(queries, console, |rows| {
            rows.scores.chunks_exact(risk.n()).for_each(|row| judged.push(members, row));
            Ok::<(), Failure>(())
        })?;
        Ok(judged)
    }
}

/// How scores agree with retraining.
#[derive(Serialize)]
pub struct JudgedScores {
    /// What they are called.
    pub name: String,
    /// Rank correlation, mean over queries, with its interval.
    #[serde(flatten)]
    pub lds: DatamodelScore,
    /// Of every query; null where it is not defined.
    each: Vec<f64>,
    /// Pearson's correlation in place of Spearman's.
    pub pearson: f64,
}

/// How far seeds agree, means over queries.
#[derive(Serialize)]
pub struct Noise {
    /// Of two seeds with each other.
    pub pearson: f64,
    /// The same by ranks.
    pub spearman: f64,
    /// Pearson's correlation with means over all seeds that no scores are expected to pass.
    pub ceiling: f64,
}

/// What comes out.
pub struct Verdict {
    /// As they were given.
    pub scores: Vec<JudgedScores>,
    /// Where there is more than one seed.
    pub noise: Option<Noise>,
}

impl Verdict {
    /// Compares with `found`, subsets x repeats.
    pub fn new(judged: &[Judged], found: &[&[Retrained]], seed: u64) -> Self {
        let queries = found[0][0].losses.len();
        let repeats = found[0].len();
        // Scores of proponents are positive, and their presence lowers the loss.
        let actual: Vec<Vec<f64>> = found
            .iter()
            .map(|all| {
                let mean = |q: usize| all.iter().map(|one| one.losses[q]).sum::<f64>() / repeats as f64;
                (0..queries).map(|q| -mean(q)).collect()
            })
            .collect();
        let column = |values: &[Vec<f64>], q: usize| values.iter().map(|row| row[q]).collect::<Vec<f64>>();
        let scores = judged.par_iter().map(|Judged { name, predicted }| {
            let by = |correlation: fn(&[f64], &[f64]) -> f64| {
                let of = |q: usize| correlation(&column(predicted, q), &column(&actual, q));
                (0..queries).map(of).collect::<Vec<f64>>()
            };
            JudgedScores {
                name: name.clone(),
                lds: DatamodelScore::new(predicted, &actual, seed),
                each: by(spearman),
                pearson: mean_of_known(&by(pearson)),
            }
        });
        let noise = (repeats > 1).then(|| {
            let effects = |r: usize, q: usize| found.iter().map(|all| all[r].losses[q]).collect();
            let of = |q: usize| SeedNoise::new(&(0..repeats).map(|r| effects(r, q)).collect::<Vec<_>>());
            let each: Vec<SeedNoise> = (0..queries).map(of).collect();
            let mean = |value: &dyn Fn(&SeedNoise) -> f64| {
                mean_of_known(&each.iter().map(value).collect::<Vec<_>>())
            };
            Noise {
                pearson: mean(&|noise| noise.pearson),
                spearman: mean(&|noise| noise.spearman),
                ceiling: mean(&|noise| noise.ceiling(repeats)),
            }
        });
        Self { scores: scores.collect(), noise }
    }
}

/// Mean of what is not NaN.
fn mean_of_known(values: &[f64]) -> f64 {
    let known: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    known.iter().sum::<f64>() / known.len() as f64
}
