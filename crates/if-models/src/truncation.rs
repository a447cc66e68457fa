//! Low-rank queries: vectors truncated layer by layer (Eckart & Young 1936), with a bound on every score.
//!
//! A vector has the matrix `V` (`out x (in + 1)`) in the parameters of a layer. Its best approximation of rank `r` is
//! `V_r = L R^T`, the projection on the first `r` singular vectors of its smaller side, and a score against `L R^T`
//! is pairwise, see [`ScoringWay`]: for a dense layer `r (out + in)` multiplications instead of `out in`. By
//! Cauchy-Schwarz
//!
//! ```text
//! |<g_i, V> - <g_i, V_r>| <= sum_l |V_l - V_l,r| |g_il|
//! ```
//!
//! Deviations:
//! 1. `|V - V_r|` (Frobenius) is that of the difference itself, with `L` and `R` as they are stored, and not the root
//!    of a sum of squared singular values, which cancels. What the bound leaves out is the rounding of the scores.
//! 2. The Gram matrix does not tell singular values apart below `1e-8` of the largest. There a rank may be larger than
//!    the least that meets a tolerance; errors and bounds are no less true.
//! 3. A layer stays whole for all vectors, and exact, where outer products do not make its scores cheaper.

use if_linalg::{Backend, Block, Cpu, Real, Segment, SymmetricMatrix, View, ViewMut};
use serde::{Deserialize, Serialize};

use crate::layer::Layer;
use crate::scoring::{Numbers, ScoringWay, Vectors, VectorsPart};
use crate::{ModelError, Network};

/// How far vectors are truncated in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryRank {
    /// To this rank.
    Rank(usize),
    /// To the least rank with `|V - V_r| <= tolerance |V|`.
    Tolerance(f64),
}

impl QueryRank {
    /// Checks the range.
    ///
    /// # Errors
    /// A rank of 0, or a tolerance that is not above 0 and below 1.
    pub fn validate(self) -> Result<Self, ModelError> {
        let wrong = |name, expected, found| Err(ModelError::Setting { name, expected, found });
        match self {
            Self::Rank(0) => wrong("query rank", "at least 1", 0.0),
            Self::Tolerance(t) if !(t > 0.0 && t < 1.0) => {
                wrong("query tolerance", "a number above 0 and below 1", t)
            }
            valid => Ok(valid),
        }
    }

    /// The least rank that may come out.
    fn least(self) -> usize {
        match self {
            Self::Rank(rank) => rank,
            Self::Tolerance(_) => 1,
        }
    }
}

/// `k` truncated vectors, and what truncation left out. Layers are those with parameters, in the order of the
/// layout's segments.
pub struct Truncated<B: Backend> {
    /// For [`Network::scores_of`].
    pub vectors: Vectors<B>,
    /// `|V_l - V_l,r|`, `k x layers` row-major.
    pub errors: Vec<f64>,
    /// `r` of every layer, `k x layers` row-major; the smaller side of a layer that stayed whole.
    pub ranks: Vec<usize>,
}

impl<B: Backend> Truncated<B> {
    /// For every vector `max_i sum_l |V_l - V_l,r| |g_il|`: no score of it is farther off. `squares` are those of
    /// [`Network::layer_squared_norms`], for the examples that are scored.
    ///
    /// # Panics
    /// Where `squares` are of another number of layers.
    pub fn bounds(&self, squares: &[Vec<f64>]) -> Vec<f64> {
        let n = squares.first().map_or(0, Vec::len);
        let norms: Vec<Vec<f64>> = squares.iter().map(|s| s.iter().map(|s| s.sqrt()).collect()).collect();
        let bound = |q: usize| {
            let errors = &self.errors[q * norms.len()..(q + 1) * norms.len()];
            let of = |i: usize| errors.iter().zip(&norms).map(|(error, norms)| error * norms[i]).sum::<f64>();
            // A NaN stays one.
            (0..n).map(of).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
        };
        assert_eq!(self.errors.len(), self.vectors.k() * norms.len(), "norms of other layers");
        (0..self.vectors.k()).map(bound).collect()
    }
}

impl<B: Backend> Network<B> {
    /// `x`, vectors in the parameters of this network, with every layer truncated as `rank` says, or whole where that
    /// does not make scores cheaper. A layer is also whole for all vectors where one of them has numbers that are not
    /// finite, or a tolerance that the stored factors cannot meet.
    pub fn truncate(&self, x: &Block<B>, rank: QueryRank) -> Truncated<B> {
        let (k, layers) = (x.k(), self.layout().segments().len());
        let (mut errors, mut ranks) = (vec![0.0; k * layers], vec![0; k * layers]);
        let mut parts = Vec::with_capacity(layers);
        for (s, layer) in self.parameter_layers().enumerate() {
            let Segment { rows, cols, .. } = self.layout().segments()[s];
            let low = self.low_rank(layer, x, s, rank);
            for q in 0..k {
                let (error, rank) = low.as_ref().map_or((0.0, rows.min(cols)), |l| (l[q].error, l[q].rank));
                (errors[q * layers + s], ranks[q * layers + s]) = (error, rank);
            }
            let numbers = match low {
                Some(low) => outer(self.backend(), &low, [rows, cols]),
                None => {
                    let mut whole = self.backend().zeros(k * rows * cols);
                    self.backend().copy(x.segment(s), ViewMut::new(&mut whole, 0, k, rows * cols));
                    Numbers::Whole(whole)
                }
            };
            parts.push(VectorsPart { rows, cols, numbers });
        }
        Truncated { vectors: Vectors::new(k, parts), errors, ranks }
    }

    /// Every vector's matrix in one layer, truncated; `None` where the layer is better left whole.
    fn low_rank(
        &self,
        layer: &dyn Layer<B>,
        x: &Block<B>,
        s: usize,
        rank: QueryRank,
    ) -> Option<Vec<LowRank<B::Elem>>> {
        let pays =
            |terms: usize| ScoringWay::cheapest(layer, x.k(), Some(terms.max(1))) == ScoringWay::Pairwise;
        if x.k() == 0 || !pays(rank.least()) {
            return None;
        }
        let Segment { rows, cols, .. } = self.layout().segments()[s];
        let matrix = |q: usize| {
            let numbers = self.backend().download(x.stacked(s, q, 1));
            LowRank::new(numbers.into_iter().map(Real::to_f64).collect(), [rows, cols], rank)
        };
        let low: Vec<_> = self.backend().map(x.k(), matrix).into_iter().collect::<Option<_>>()?;
        pays(low.iter().map(|low| low.rank).max()?).then_some(low)
    }
}

/// `sum_t left_t right_t^T`, close to a matrix.
struct LowRank<T> {
    rank: usize,
    /// `rank x rows`.
    left: Vec<T>,
    /// `rank x cols`.
    right: Vec<T>,
    /// Frobenius norm of what it lacks.
    error: f64,
}

impl<T: Real> LowRank<T> {
    /// From the eigenvectors `q_t` of the Gram matrix `M M^T` of the smaller side, `M` the matrix or its transpose:
    /// `M = sum_t q_t (M^T q_t)^T`, largest first. `None` where the matrix is not finite, or rounding in `T` spoils the tolerance.
    fn new(matrix: Vec<f64>, [rows, cols]: [usize; 2], rank: QueryRank) -> Option<Self> {
        let (host, small, large) = (Cpu::<f64>::new(), rows.min(cols), rows.max(cols));
        let view = View::new(&matrix, 0, rows, cols);
        let m = if rows <= cols { view } else { view.t() };
        let mut gram = vec![0.0; small * small];
        host.gemm(1.0, m, m.t(), 0.0, ViewMut::new(&mut gram, 0, small, small));
        let gram = SymmetricMatrix::from_rows(small, gram);
        if !gram.is_finite() {
            return None;
        }
        let most = if let QueryRank::Rank(rank) = rank { rank.min(small) } else { small };
        let basis: Vec<f64> =
            gram.eigen().1.chunks_exact(small).rev().take(most).flatten().copied().collect();
        let mut shares = vec![0.0; most * large];
        let target = ViewMut::new(&mut shares, 0, most, large);
        host.gemm(1.0, View::new(&basis, 0, most, small), m, 0.0, target);

        // What may be missing, in the end and before the factors are rounded.
        let size = norm(&matrix);
        let (rank, allowed) = match rank {
            QueryRank::Rank(_) => (most, f64::INFINITY),
            QueryRank::Tolerance(tolerance) => {
                let rank = least_rank(&shares, large, (tolerance - 2.0 * T::EPSILON) * size)?;
                (rank, tolerance * size)
            }
        };
        let stored = |vectors: &[f64], width: usize| -> Vec<T> {
            vectors[..rank * width].iter().map(|v| T::from_f64(*v)).collect()
        };
        let (basis, shares) = (stored(&basis, small), stored(&shares, large));
        let (left, right) = if rows <= cols { (basis, shares) } else { (shares, basis) };
        let error = difference(matrix, (&left, &right, rank), [rows, cols]);
        (error <= allowed).then_some(Self { rank, left, right, error })
    }
}

/// The least `r` for which the vectors of length `width` after the first `r` have no larger norm together than
/// `allowed`; `None` where that is negative.
fn least_rank(vectors: &[f64], width: usize, allowed: f64) -> Option<usize> {
    let mut square = 0.0;
    let mut rank = vectors.len() / width;
    for vector in vectors.chunks_exact(width).rev() {
        square += vector.iter().map(|v| v * v).sum::<f64>();
        if square.sqrt() > allowed {
            break;
        }
        rank -= 1;
    }
    (allowed >= 0.0).then_some(rank)
}

/// `|M - sum_t left_t right_t^T|`.
fn difference<T: Real>(
    mut matrix: Vec<f64>,
    (left, right, rank): (&[T], &[T], usize),
    [rows, cols]: [usize; 2],
) -> f64 {
    if rank > 0 {
        let [left, right] = [left, right].map(|side| side.iter().map(|v| v.to_f64()).collect::<Vec<_>>());
        let (left, right) = (View::new(&left, 0, rank, rows), View::new(&right, 0, rank, cols));
        let target = ViewMut::new(&mut matrix, 0, rows, cols);
        Cpu::<f64>::new().gemm(-1.0, left.t(), right, 1.0, target);
    }
    norm(&matrix)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The factors of all vectors on the device, padded with zeros to the largest rank.
fn outer<B: Backend>(backend: &B, low: &[LowRank<B::Elem>], [rows, cols]: [usize; 2]) -> Numbers<B> {
    let terms = low.iter().map(|low| low.rank).max().unwrap_or(0).max(1);
    let [mut left, mut right] = [rows, cols].map(|width| backend.zeros(low.len() * terms * width));
    for (q, low) in low.iter().enumerate() {
        backend.write(&mut left, q * terms * rows, &low.left);
        backend.write(&mut right, q * terms * cols, &low.right);
    }
    Numbers::Outer { terms, left, right }
}
