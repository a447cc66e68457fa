//! Queries and training examples in groups that act on each other: the picture of FastIF's interactions (Guo et al. 2021)
//! put in order by spectral co-clustering (Dhillon 2001).
//!
//! For scores `A` (queries x train), the edges of a graph between the two sides, with `R` and `C` diagonal:
//!
//! ```text
//! R_qq = sum_i |A_qi|     C_ii = sum_q |A_qi|     R^-1/2 A C^-1/2 = U S V^T
//! coordinates of a query: its row of R^-1/2 U, of a training example: its row of C^-1/2 V; then k-means on both together
//! ```
//!
//! Deviations:
//! 1. Scores have a sign, so degrees are sums of absolute scores (Kunegis et al. 2010): a training example lies near the
//!    queries that it is a proponent of, and far from those that it is an opponent of.
//! 2. Where nothing is negative the first pair of singular vectors is constant, and the next `ceil(log2 k)` are what Dhillon
//!    takes; with signs the first says most. So `1 + ceil(log2 k)` are taken from the first on: one that is constant does
//!    no harm.
//! 3. k-means starts from k-means++ (Arthur & Vassilvitskii 2007) several times, and the best end is taken.

use if_linalg::{Observer, SymmetricMatrix};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::MethodError;
use crate::error::observed;

/// Queries and training examples in common clusters, numbered from 0 with the most members on.
#[derive(Clone, Debug, PartialEq)]
pub struct CoClusters {
    /// Cluster of every query.
    pub queries: Vec<usize>,
    /// Cluster of every training example.
    pub train: Vec<usize>,
    /// The singular values whose vectors were taken, largest first; at most 1.
    pub singular_values: Vec<f64>,
}

/// Starts of k-means.
const STARTS: usize = 20;
/// Rounds after which a start ends whatever it does; it seldom needs a tenth.
const ROUNDS: usize = 300;

impl CoClusters {
    /// Clusters of `scores` (row-major, `queries x train`, `train` in a row). Needs the square of the shorter side in
    /// memory. The seed is that of the starts of k-means.
    ///
    /// # Errors
    /// Scores that are no matrix or not finite, a number of clusters of 0 or above that of queries and training
    /// examples together, or [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn new(
        scores: &[f64],
        train: usize,
        clusters: usize,
        seed: u64,
        observer: &dyn Observer,
    ) -> Result<Self, MethodError> {
        if train == 0 || scores.is_empty() || !scores.len().is_multiple_of(train) {
            let expected = format!("rows of {train} numbers, at least one");
            return Err(MethodError::Setting { name: "scores", expected, found: scores.len().to_string() });
        }
        if scores.iter().any(|score| !score.is_finite()) {
            let (expected, found) = ("finite numbers".into(), "one that is not".into());
            return Err(MethodError::Setting { name: "scores", expected, found });
        }
        let queries = scores.len() / train;
        if clusters == 0 || clusters > queries + train {
            let expected =
                format!("from 1 to {}, the number of queries and training examples", queries + train);
            return Err(MethodError::Setting { name: "clusters", expected, found: clusters.to_string() });
        }
        let vectors = 1 + clusters.next_power_of_two().ilog2() as usize;
        let (points, singular_values) =
            coordinates(scores, train, vectors.min(queries).min(train), observer)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut least, mut best) = (f64::INFINITY, Vec::new());
        for start in 0..STARTS {
            observed(observer, "clusters", start, STARTS)?;
            let (sum, assigned) = k_means(&points, clusters, &mut rng, observer)?;
            if best.is_empty() || sum < least {
                (least, best) = (sum, assigned);
            }
            // Every point is its own centre, or equal to one.
            if least == 0.0 {
                break;
            }
        }
        let mut queries_first = by_size(&best);
        let train = queries_first.split_off(queries);
        Ok(Self { queries: queries_first, train, singular_values })
    }

    /// Number of clusters.
    pub fn count(&self) -> usize {
        self.queries.iter().chain(&self.train).max().map_or(0, |last| last + 1)
    }

    /// Positions of queries, or of training examples, cluster by cluster, each in their order.
    pub fn order(clusters: &[usize]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..clusters.len()).collect();
        order.sort_by_key(|&i| clusters[i]);
        order
    }

    /// Places in [`order`](Self::order) at which another cluster begins, the first cluster apart.
    pub fn borders(clusters: &[usize]) -> Vec<usize> {
        let order = Self::order(clusters);
        (1..order.len()).filter(|&at| clusters[order[at]] != clusters[order[at - 1]]).collect()
    }

    /// Mean of the `scores` (row-major) of queries with training examples of their own cluster, and with those of others;
    /// NaN where there are none.
    pub fn within_and_between(&self, scores: &[f64]) -> [f64; 2] {
        let Self { queries, train, .. } = self;
        [true, false].map(|same| {
            let places =
                (0..scores.len()).filter(|at| (queries[at / train.len()] == train[at % train.len()]) == same);
            let (sum, count) = places.fold((0.0, 0), |(sum, count), at| (sum + scores[at], count + 1));
            sum / f64::from(count)
        })
    }
}

/// Every row of `scores` (row-major, `train` in a row) by its largest absolute score, so that a query that is classified
/// with confidence, and has small scores in all places, counts like the others. A row of zeros stays as it is.
pub fn by_largest(scores: &mut [f64], train: usize) {
    for row in scores.chunks_exact_mut(train) {
        let largest = row.iter().fold(0.0, |most: f64, score| most.max(score.abs()));
        if largest > 0.0 {
            row.iter_mut().for_each(|score| *score /= largest);
        }
    }
}

/// A row-major matrix of `columns` in a row with its rows and columns in these orders.
pub fn arranged(matrix: &[f64], columns: usize, [rows, order]: [&[usize]; 2]) -> Vec<f64> {
    rows.iter().flat_map(|&r| order.iter().map(move |&c| matrix[r * columns + c])).collect()
}

/// One point for each query, then one for each training example, and the singular values.
fn coordinates(
    scores: &[f64],
    train: usize,
    vectors: usize,
    observer: &dyn Observer,
) -> Result<(Vec<Vec<f64>>, Vec<f64>), MethodError> {
    let queries = scores.len() / train;
    let inverse_root = |degree: f64| if degree > 0.0 { degree.sqrt().recip() } else { 0.0 };
    let rows: Vec<f64> = scores
        .chunks_exact(train)
        .map(|row| inverse_root(row.iter().map(|score| score.abs()).sum()))
        .collect();
    let column = |i: usize| scores.iter().skip(i).step_by(train).map(|score| score.abs()).sum();
    let columns: Vec<f64> = (0..train).map(|i| inverse_root(column(i))).collect();
    let scaled = |q: usize, i: usize| rows[q] * scores[q * train + i] * columns[i];
    // Singular vectors of the shorter side are the eigenvectors of its Gram matrix; those of the other follow.
    let (short, long) = (queries.min(train), queries.max(train));
    let value = |s: usize, l: usize| if queries <= train { scaled(s, l) } else { scaled(l, s) };
    let matrix: Vec<Vec<f64>> = (0..short).map(|s| (0..long).map(|l| value(s, l)).collect()).collect();
    let mut gram = vec![0.0; short * short];
    for a in 0..short {
        observed(observer, "singular vectors", a, short)?;
        for b in 0..=a {
            let product = dot(&matrix[a], &matrix[b]);
            (gram[a * short + b], gram[b * short + a]) = (product, product);
        }
    }
    let (values, all) = SymmetricMatrix::from_rows(short, gram).eigen();
    let singular_values: Vec<f64> =
        values.iter().rev().take(vectors).map(|value| value.max(0.0).sqrt()).collect();
    let of_short: Vec<&[f64]> = all.chunks_exact(short).rev().take(vectors).collect();
    let along = |l: usize, j: usize| {
        let product: f64 = matrix.iter().zip(of_short[j]).map(|(row, u)| row[l] * u).sum();
        // A value that is rounding of 0 has no direction on the long side.
        if singular_values[j] > 1e-7 { product / singular_values[j] } else { 0.0 }
    };
    let on_short = |s: usize| of_short.iter().map(|vector| vector[s]).collect::<Vec<f64>>();
    let on_long = |l: usize| (0..of_short.len()).map(|j| along(l, j)).collect::<Vec<f64>>();
    let point = |degree: f64, point: Vec<f64>| point.into_iter().map(|x| degree * x).collect::<Vec<f64>>();
    let of_query = |q: usize| point(rows[q], if queries <= train { on_short(q) } else { on_long(q) });
    let of_train = |i: usize| point(columns[i], if queries <= train { on_long(i) } else { on_short(i) });
    let points = (0..queries).map(of_query).chain((0..train).map(of_train)).collect();
    Ok((points, singular_values))
}

/// Lloyd's iterations from a k-means++ start: the sum of squared distances to the centres, and every point's cluster.
fn k_means(
    points: &[Vec<f64>],
    clusters: usize,
    rng: &mut ChaCha8Rng,
    observer: &dyn Observer,
) -> Result<(f64, Vec<usize>), MethodError> {
    let mut centres = vec![points[rng.random_range(0..points.len())].clone()];
    let mut squares: Vec<f64> = points.iter().map(|point| nearest(point, &centres).1).collect();
    while centres.len() < clusters {
        let centre = points[drawn_by(&squares, rng)].clone();
        let own = std::slice::from_ref(&centre);
        squares
            .iter_mut()
            .zip(points)
            .for_each(|(square, point)| *square = square.min(nearest(point, own).1));
        centres.push(centre);
    }
    let mut assigned: Vec<usize> = Vec::new();
    for _ in 0..ROUNDS {
        if observer.cancelled() {
            return Err(MethodError::Cancelled);
        }
        let now: Vec<usize> = points.iter().map(|point| nearest(point, &centres).0).collect();
        if now == assigned {
            break;
        }
        assigned = now;
        for (c, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&Vec<f64>> =
                points.iter().zip(&assigned).filter(|(_, own)| **own == c).map(|(point, _)| point).collect();
            // A cluster that lost all its points keeps its centre.
            if !members.is_empty() {
                let mean =
                    |d: usize| members.iter().map(|point| point[d]).sum::<f64>() / members.len() as f64;
                *centre = (0..centre.len()).map(mean).collect();
            }
        }
    }
    Ok((points.iter().map(|point| nearest(point, &centres).1).sum(), assigned))
}

/// The nearest of `centres`, the first of equals, and its squared distance.
fn nearest(point: &[f64], centres: &[Vec<f64>]) -> (usize, f64) {
    let square = |centre: &[f64]| point.iter().zip(centre).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let squares = centres.iter().map(|centre| square(centre)).enumerate();
    squares.min_by(|(_, a), (_, b)| a.total_cmp(b)).expect("at least one centre")
}

/// A position, with probabilities in proportion to `weights`; any where all are 0.
fn drawn_by(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return rng.random_range(0..weights.len());
    }
    let mut left = rng.random_range(0.0..total);
    let passed = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    weights.iter().position(passed).unwrap_or(weights.len() - 1)
}

/// The same clusters numbered from the largest on, equals in the order of their first members.
fn by_size(clusters: &[usize]) -> Vec<usize> {
    let count = clusters.iter().max().map_or(0, |last| last + 1);
    let members = |c: usize| clusters.iter().filter(|own| **own == c).count();
    let first = |c: usize| clusters.iter().position(|own| *own == c);
    let mut order: Vec<usize> = (0..count).filter(|&c| members(c) > 0).collect();
    order.sort_by_key(|&c| (std::cmp::Reverse(members(c)), first(c)));
    let number = |c: usize| order.iter().position(|own| *own == c).expect("a cluster with members");
    clusters.iter().map(|&c| number(c)).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use if_linalg::testing::random;

    /// k-means against the best of all partitions.
    #[test]
    fn the_best_of_many_starts_is_the_best_partition() {
        for seed in 0..5 {
            let points: Vec<Vec<f64>> = random(18, seed).chunks_exact(2).map(<[f64]>::to_vec).collect();
            let cost = |assigned: &[usize]| -> f64 {
                let of = |c: usize| {
                    let members: Vec<_> = (0..9).filter(|&i| assigned[i] == c).collect();
                    let mean =
                        |d: usize| members.iter().map(|&i| points[i][d]).sum::<f64>() / members.len() as f64;
                    let centre = [mean(0), mean(1)];
                    members.iter().map(|&i| nearest(&points[i], &[centre.to_vec()]).1).sum::<f64>()
                };
                (0..3).map(of).sum()
            };
            let all =
                (0..3usize.pow(9)).map(|code| (0..9).map(|i| code / 3usize.pow(i) % 3).collect::<Vec<_>>());
            let best = all.map(|assigned| cost(&assigned)).fold(f64::INFINITY, f64::min);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            // Scattered points have many local ends: more starts than clusters need.
            let found = (0..300).map(|_| k_means(&points, 3, &mut rng, &()).unwrap());
            let (found, assigned) = found.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            assert!((found - best).abs() < 1e-12 && (cost(&assigned) - best).abs() < 1e-12, "{found} {best}");
        }
    }

    /// The coordinates against the definition: `Z v = s u` and `Z^T u = s v`, for either side the shorter.
    #[test]
    fn coordinates_are_singular_vectors() {
        for (queries, train) in [(5, 8), (8, 5)] {
            let scores = random(queries * train, 3);
            let (points, values) = coordinates(&scores, train, 3, &()).unwrap();
            let row = |q: usize| (0..train).map(|i| scores[q * train + i].abs()).sum::<f64>();
            let column = |i: usize| (0..queries).map(|q| scores[q * train + i].abs()).sum::<f64>();
            for j in 0..3 {
                // R^-1/2 A C^-1/2 v = s u with x = R^-1/2 u, y = C^-1/2 v is A y = s R x, and A^T x = s C y.
                for q in 0..queries {
                    let product: f64 =
                        (0..train).map(|i| scores[q * train + i] * points[queries + i][j]).sum();
                    assert!((product - values[j] * row(q) * points[q][j]).abs() < 1e-12);
                }
                for i in 0..train {
                    let product: f64 = (0..queries).map(|q| scores[q * train + i] * points[q][j]).sum();
                    assert!((product - values[j] * column(i) * points[queries + i][j]).abs() < 1e-12);
                }
                let norm: f64 = (0..queries).map(|q| row(q) * points[q][j] * points[q][j]).sum();
                assert!((norm - 1.0).abs() < 1e-12);
            }
            assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 1.0 + 1e-12);
        }
    }
}
