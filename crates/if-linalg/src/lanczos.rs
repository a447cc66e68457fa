//! The Lanczos process, and the extreme eigenvalues of an operator by it.

use crate::{Backend, Block, LinearOperator, testing::random};

/// Smallest and largest Ritz value after at most `steps` products, from a random start fixed by
/// `seed`. The extremes of a spectrum are approached from inside, the outermost first.
pub fn lanczos_extremes<B: Backend>(operator: &dyn LinearOperator<B>, steps: usize, seed: u64) -> [f64; 2] {
    let Lanczos { diagonal, off, .. } = lanczos(operator, steps, seed);
    tridiagonal_extremes(&diagonal, &off)
}

/// `V A V^T = T` with the orthonormal rows `V` of a Krylov space and a tridiagonal `T`.
pub(crate) struct Lanczos<B: Backend> {
    /// The `m` rows of `V`, one vector each.
    pub basis: Vec<Block<B>>,
    /// The `m` elements of the diagonal of `T`.
    pub diagonal: Vec<f64>,
    /// The `m - 1` elements beside it.
    pub off: Vec<f64>,
}

/// At most `steps` products (fewer where the Krylov space is exhausted) from a random start fixed by `seed`. With
/// full reorthogonalisation, so the Ritz values are those of an orthonormal basis.
pub(crate) fn lanczos<B: Backend>(operator: &dyn LinearOperator<B>, steps: usize, seed: u64) -> Lanczos<B> {
    let n = operator.dim();
    let mut basis: Vec<Block<B>> = Vec::new();
    let mut v = Block::from_f64(operator.backend(), operator.layout(), &random(n, seed));
    let norm = v.norms()[0];
    let unscaled = v.clone();
    v.axpby(1.0 / norm, &unscaled, 0.0);
    let (mut diagonal, mut off) = (Vec::new(), Vec::new());
    for _ in 0..steps.min(n) {
        let mut w = Block::zeros(operator.backend(), operator.layout(), 1);
        operator.apply(&v, &mut w);
        diagonal.push(w.dots(&v)[0]);
        basis.push(v);
        // Twice is enough (Kahan, Parlett): the second pass removes what rounding left.
        for _ in 0..2 {
            for q in &basis {
                let overlap = w.dots(q)[0];
                w.axpby(-overlap, q, 1.0);
            }
        }
        let beta = w.norms()[0];
        if beta.is_nan() || beta <= 1e-12 * diagonal.iter().fold(0.0f64, |m, d| m.max(d.abs())) {
            break;
        }
        off.push(beta);
        let unscaled = w.clone();
        w.axpby(1.0 / beta, &unscaled, 0.0);
        v = w;
    }
    off.truncate(diagonal.len().saturating_sub(1));
    Lanczos { basis, diagonal, off }
}

/// Smallest and largest eigenvalue of a symmetric tridiagonal matrix, by bisection on Sturm counts;
/// NaN for an empty or non-finite matrix.
pub(crate) fn tridiagonal_extremes(diagonal: &[f64], off: &[f64]) -> [f64; 2] {
    let n = diagonal.len();
    let finite = diagonal.iter().chain(off).all(|v| v.is_finite());
    if n == 0 || !finite {
        return [f64::NAN; 2];
    }
    let neighbour = |i: usize| off.get(i).map_or(0.0, |b| b.abs());
    let radius = |i: usize| neighbour(i) + if i > 0 { neighbour(i - 1) } else { 0.0 };
    let low = (0..n).map(|i| diagonal[i] - radius(i)).fold(f64::INFINITY, f64::min);
    let high = (0..n).map(|i| diagonal[i] + radius(i)).fold(f64::NEG_INFINITY, f64::max);
    [1, n].map(|count| bisect(diagonal, off, low, high, count))
}

/// The `count`-th smallest eigenvalue within `[low, high]`.
fn bisect(diagonal: &[f64], off: &[f64], mut low: f64, mut high: f64, count: usize) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if eigenvalues_below(diagonal, off, middle) >= count {
            high = middle;
        } else {
            low = middle;
        }
    }
    0.5 * (low + high)
}

/// Number of eigenvalues below `x`: sign changes of the Sturm sequence.
fn eigenvalues_below(diagonal: &[f64], off: &[f64], x: f64) -> usize {
    let mut count = 0;
    let mut pivot = 1.0;
    for (i, d) in diagonal.iter().enumerate() {
        let coupling = if i > 0 { off[i - 1] * off[i - 1] / pivot } else { 0.0 };
        pivot = d - x - coupling;
        if pivot == 0.0 {
            pivot = f64::MIN_POSITIVE;
        }
        count += usize::from(pivot < 0.0);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, DenseOperator, SymmetricMatrix};

    #[test]
    fn tridiagonal_matches_the_closed_form() {
        // Eigenvalues of the second-difference matrix: 2 - 2 cos(j pi / (n + 1)).
        let n = 30;
        let [low, high] = tridiagonal_extremes(&vec![2.0; n], &vec![-1.0; n - 1]);
        let exact = |j: usize| 2.0 - 2.0 * (j as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
        assert!((low - exact(1)).abs() < 1e-12 && (high - exact(n)).abs() < 1e-12);
    }

    #[test]
    fn extremes_of_a_diagonal_matrix() {
        let n = 50;
        let mut data = vec![0.0; n * n];
        (0..n).for_each(|i| data[i * n + i] = i as f64 - 3.0);
        let operator = DenseOperator::new(&Cpu::<f64>::new(), &SymmetricMatrix::from_rows(n, data));
        let [low, high] = lanczos_extremes(&operator, 50, 1);
        assert!((low + 3.0).abs() < 1e-8 && (high - 46.0).abs() < 1e-8);
    }
}
