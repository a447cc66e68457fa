//! The Lanczos process (Lanczos 1950; Golub & Meurant 2010, chapters 4 and 6) with full
//! reorthogonalisation: after `m` products
//!
//! ```text
//! A V = V T + beta_m v_(m+1) e_m^T       V^T V = I, T tridiagonal of order m, v_1 = start / |start|
//! ```
//!
//! The eigenvalues of `T` (Ritz values) approach those of `A` from inside, the outermost first, each to
//! `beta_m |s_m|` with `s` the eigenvector of `T`. With the squared first components of the
//! eigenvectors as weights they are the nodes of Gauss quadrature for `v_1^T f(A) v_1`.
//!
//! Deviation: every new vector is orthogonalised twice against all earlier ones, so that no eigenvalue
//! is found again by rounding (a ghost).

use crate::{Backend, Block, LinearOperator, Observer, SymmetricMatrix, testing::random};

/// A product this small beside the diagonal is rounding: the basis spans an invariant subspace.
const INVARIANT: f64 = 1e-12;

/// What [`lanczos`] found in `m` steps.
pub struct Lanczos<B: Backend> {
    /// The `m` orthonormal vectors, one to a block.
    pub basis: Vec<Block<B>>,
    /// Diagonal of `T`, length `m`.
    pub diagonal: Vec<f64>,
    /// Beside the diagonal, length `m - 1`.
    pub off: Vec<f64>,
    /// `beta_m`: what couples the basis with the vector that would come next. 0 where the basis spans an
    /// invariant subspace, so that everything said of `T` is exact.
    pub next: f64,
}

/// An eigenvalue of the tridiagonal matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ritz {
    /// The eigenvalue of `T`.
    pub value: f64,
    /// An eigenvalue of the operator lies within this distance.
    pub error: f64,
    /// Squared first component of the eigenvector of `T`: the share of this value in the spectrum as
    /// the start sees it. All shares together are 1.
    pub weight: f64,
}

/// Runs `steps` steps from the one vector of `start`, fewer where the basis becomes invariant, a product is
/// not finite, or the observer asks to stop. None where `start` is 0.
///
/// # Panics
/// Where `start` holds more than one vector.
pub fn lanczos<B: Backend>(
    operator: &dyn LinearOperator<B>,
    start: &Block<B>,
    steps: usize,
    observer: &dyn Observer,
) -> Lanczos<B> {
    assert_eq!(start.k(), 1, "one start at a time");
    let mut found = Lanczos { basis: Vec::new(), diagonal: Vec::new(), off: Vec::new(), next: 0.0 };
    let mut v = start.clone();
    let mut norm = start.norms()[0];
    let steps = steps.min(operator.dim());
    let mut largest = 0.0f64;
    // `norm` is what links the next vector with the basis, for the first one the length of the start.
    while found.basis.len() < steps && norm > 0.0 && !observer.cancelled() {
        let unscaled = v.clone();
        v.axpby(1.0 / norm, &unscaled, 0.0);
        let mut w = Block::zeros(operator.backend(), operator.layout(), 1);
        operator.apply(&v, &mut w);
        let diagonal = w.dots(&v)[0];
        if !diagonal.is_finite() {
            break;
        }
        if !found.basis.is_empty() {
            found.off.push(norm);
        }
        found.diagonal.push(diagonal);
        found.basis.push(v);
        orthogonalise(&mut w, &found.basis);
        largest = largest.max(diagonal.abs());
        let beta = w.norms()[0];
        norm = if beta <= INVARIANT * largest { 0.0 } else { beta };
        v = w;
    }
    // No basis: `norm` is still the length of the start.
    found.next = if found.basis.is_empty() { 0.0 } else { norm };
    found
}

/// Removes from `w` its parts along the orthonormal `basis`. Twice is enough (Kahan, Parlett): the second
/// pass removes what rounding left.
fn orthogonalise<B: Backend>(w: &mut Block<B>, basis: &[Block<B>]) {
    for _ in 0..2 {
        for q in basis {
            let overlap = w.dots(q)[0];
            w.axpby(-overlap, q, 1.0);
        }
    }
}

impl<B: Backend> Lanczos<B> {
    /// Eigenvalues of `T` in rising order with their errors and weights, and the matrix whose row `i` is the
    /// `i`-th eigenvector (`m x m`). Empty for an empty basis.
    pub fn ritz(&self) -> (Vec<Ritz>, Vec<f64>) {
        let m = self.diagonal.len();
        if m == 0 {
            return (Vec::new(), Vec::new());
        }
        let mut t = vec![0.0; m * m];
        for (i, diagonal) in self.diagonal.iter().enumerate() {
            t[i * m + i] = *diagonal;
        }
        for (i, off) in self.off.iter().enumerate() {
            t[i * m + i + 1] = *off;
            t[(i + 1) * m + i] = *off;
        }
        let (values, vectors) = SymmetricMatrix::from_rows(m, t).eigen();
        let ritz = |(value, s): (&f64, &[f64])| Ritz {
            value: *value,
            error: self.next * s[m - 1].abs(),
            weight: s[0] * s[0],
        };
        (values.iter().zip(vectors.chunks_exact(m)).map(ritz).collect(), vectors)
    }
}

/// Smallest and largest Ritz value after at most `steps` products, from a random start fixed by `seed`.
/// NaN where the first product is not finite.
pub fn lanczos_extremes<B: Backend>(operator: &dyn LinearOperator<B>, steps: usize, seed: u64) -> [f64; 2] {
    let start = Block::from_f64(operator.backend(), operator.layout(), &random(operator.dim(), seed));
    let found = lanczos(operator, &start, steps, &());
    tridiagonal_extremes(&found.diagonal, &found.off)
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

    fn symmetric(n: usize) -> DenseOperator<Cpu<f64>> {
        let r = random(n * n, 3);
        let data = (0..n * n).map(|i| r[i] + r[i % n * n + i / n]).collect();
        DenseOperator::new(&Cpu::new(), &SymmetricMatrix::from_rows(n, data))
    }

    fn start(operator: &DenseOperator<Cpu<f64>>) -> Block<Cpu<f64>> {
        Block::from_f64(operator.backend(), operator.layout(), &random(operator.dim(), 4))
    }

    /// `A V = V T + beta_m v_(m+1) e_m^T`, read off inner products and the length of what is left of the
    /// last column. Catches an off-diagonal shifted by one or cut short, and a wrong `next`.
    #[test]
    fn the_recurrence_holds() {
        let (n, m) = (40, 12);
        let operator = symmetric(n);
        let found = lanczos(&operator, &start(&operator), m, &());
        assert_eq!((found.basis.len(), found.diagonal.len(), found.off.len()), (m, m, m - 1));
        for (j, v) in found.basis.iter().enumerate() {
            let mut rest = Block::zeros(operator.backend(), operator.layout(), 1);
            operator.apply(v, &mut rest);
            for (i, q) in found.basis.iter().enumerate() {
                let t = match i.abs_diff(j) {
                    0 => found.diagonal[j],
                    1 => found.off[i.min(j)],
                    _ => 0.0,
                };
                assert!((q.dots(v)[0] - f64::from(u8::from(i == j))).abs() < 1e-13);
                rest.axpby(-t, q, 1.0);
            }
            let expected = if j + 1 == m { found.next } else { 0.0 };
            assert!((rest.norms()[0] - expected).abs() < 1e-12, "column {j}: {}", rest.norms()[0]);
        }
    }

    /// Against all eigenvalues of the matrix: errors bound the distance to the nearest one, and the weights
    /// integrate every polynomial of degree below `2m`.
    #[test]
    fn ritz_values_have_errors_and_weights() {
        let operator = symmetric(40);
        let exact = operator.to_dense().eigen().0;
        let start = start(&operator);
        let found = lanczos(&operator, &start, 12, &());
        let (ritz, _) = found.ritz();
        for Ritz { value, error, .. } in &ritz {
            let nearest = exact.iter().map(|e| (e - value).abs()).fold(f64::INFINITY, f64::min);
            assert!(nearest <= error + 1e-12, "{value}: {nearest} > {error}");
        }
        assert!(ritz.iter().any(|r| r.error > 1e-3), "some values are far from settled");
        let mut power = start.clone();
        power.axpby(1.0 / start.norms()[0], &start, 0.0);
        for degree in 0..12 {
            let moment: f64 = ritz.iter().map(|r| r.weight * r.value.powi(2 * degree)).sum();
            let expected = power.dots(&power)[0];
            assert!((moment / expected - 1.0).abs() < 1e-11, "degree {}: {moment} {expected}", 2 * degree);
            let previous = power.clone();
            operator.apply(&previous, &mut power);
        }
        // All steps: the whole spectrum, without error.
        let (ritz, _) = lanczos(&operator, &start, 100, &()).ritz();
        assert_eq!(ritz.len(), 40);
        assert!(ritz.iter().zip(&exact).all(|(r, e)| (r.value - e).abs() < 1e-11));
    }

    #[test]
    fn starts_and_matrices_that_end_it_early() {
        let operator = symmetric(10);
        let zero = Block::zeros(operator.backend(), operator.layout(), 1);
        let found = lanczos(&operator, &zero, 5, &());
        assert!(found.basis.is_empty() && found.ritz().0.is_empty() && found.next == 0.0);

        let identity = (0..100).map(|i| f64::from(u8::from(i % 11 == 0))).collect();
        let identity = DenseOperator::new(&Cpu::<f64>::new(), &SymmetricMatrix::from_rows(10, identity));
        let found = lanczos(&identity, &start(&operator), 5, &());
        assert_eq!((found.basis.len(), found.next), (1, 0.0));

        let broken = SymmetricMatrix::from_rows(10, vec![f64::NAN; 100]);
        let broken = DenseOperator::new(&Cpu::<f64>::new(), &broken);
        assert!(lanczos(&broken, &start(&operator), 5, &()).basis.is_empty());
        assert!(lanczos_extremes(&broken, 5, 1)[0].is_nan());
    }
}
