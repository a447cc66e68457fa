//! Named problems on which solvers go wrong.

use super::random;
use crate::SymmetricMatrix;

/// What a correct solver does with a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Every column has a solution and must be solved, or approximated by a solver that promises no more.
    Solved,
    /// Solvable in exact arithmetic, hard in rounding: solved, or reported as not.
    SolvedOrReported,
    /// No column may be called converged.
    Reported,
}

/// A symmetric system `A X = B`.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is peculiar about it.
    pub name: &'static str,
    /// `A`.
    pub matrix: SymmetricMatrix,
    /// Rows of `B`, one right-hand side after another.
    pub b: Vec<f64>,
    /// What must happen.
    pub expectation: Expectation,
}

/// All problems.
pub fn zoo() -> Vec<Problem> {
    use Expectation::{Reported, Solved, SolvedOrReported};
    let spectrum = |n: usize, f: &dyn Fn(usize) -> f64| with_spectrum(&(0..n).map(f).collect::<Vec<_>>());
    let problem = |name, matrix: SymmetricMatrix, b: Vec<f64>, expectation| {
        assert_eq!(b.len() % matrix.dim(), 0);
        Problem { name, matrix, b, expectation }
    };
    let well = spectrum(20, &|i| 1.0 + i as f64);
    let mut mixed = random(3 * 20, 2);
    mixed[20..40].fill(0.0);
    let singular = spectrum(12, &|i| if i == 0 { 0.0 } else { i as f64 });
    let in_range = product(&singular, &random(12, 5));
    let mut with_nan = well.as_slice().to_vec();
    with_nan[7 * 20 + 3] = f64::NAN;
    with_nan[3 * 20 + 7] = f64::NAN;
    let mut nan_rhs = random(20, 9);
    nan_rhs[4] = f64::NAN;
    vec![
        problem("one by one", SymmetricMatrix::from_rows(1, vec![4.0]), vec![2.0], Solved),
        problem("one by one, b = 0", SymmetricMatrix::from_rows(1, vec![4.0]), vec![0.0], Solved),
        problem("identity", spectrum(8, &|_| 1.0), random(16, 1), Solved),
        problem("well conditioned", well.clone(), random(40, 1), Solved),
        problem("b = 0", well.clone(), vec![0.0; 20], Solved),
        problem("one of three b is 0", well.clone(), mixed, Solved),
        problem("one eigenvector", well.clone(), product(&well, &[1.0; 20]), Solved),
        problem("tiny scale", spectrum(20, &|i| 1e-12 * (1.0 + i as f64)), random(20, 3), Solved),
        problem("huge scale", spectrum(20, &|i| 1e12 * (1.0 + i as f64)), random(20, 3), Solved),
        problem("tiny b", well.clone(), random(20, 3).iter().map(|v| 1e-100 * v).collect(), Solved),
        problem(
            "condition 1e8",
            spectrum(30, &|i| 10f64.powf(-8.0 * i as f64 / 29.0)),
            random(30, 4),
            SolvedOrReported,
        ),
        problem("singular, b in its range", singular.clone(), in_range, SolvedOrReported),
        problem("singular, b outside its range", singular, random(12, 6), Reported),
        problem("zero matrix", SymmetricMatrix::from_rows(5, vec![0.0; 25]), random(5, 6), Reported),
        problem("indefinite", spectrum(20, &|i| i as f64 - 4.5), random(40, 7), Reported),
        problem(
            "barely indefinite",
            spectrum(20, &|i| if i == 0 { -1e-3 } else { 1.0 }),
            random(20, 8),
            Reported,
        ),
        problem("negative definite", spectrum(10, &|i| -1.0 - i as f64), random(10, 8), Reported),
        problem("NaN in the matrix", SymmetricMatrix::from_rows(20, with_nan), random(20, 8), Reported),
        problem("NaN in b", well.clone(), nan_rhs, Reported),
        problem("infinite b", well, vec![f64::INFINITY; 20], Reported),
    ]
}

/// A full symmetric matrix with the given eigenvalues: two Householder reflections of the diagonal.
fn with_spectrum(eigenvalues: &[f64]) -> SymmetricMatrix {
    let n = eigenvalues.len();
    let mut a = vec![0.0; n * n];
    (0..n).for_each(|i| a[i * n + i] = eigenvalues[i]);
    for seed in [11, 12] {
        let v = random(n, seed);
        let norm: f64 = v.iter().map(|v| v * v).sum();
        let reflect = |row: &mut [f64]| {
            let overlap: f64 = row.iter().zip(&v).map(|(a, v)| a * v).sum();
            row.iter_mut().zip(&v).for_each(|(a, v)| *a -= 2.0 * overlap / norm * v);
        };
        a.chunks_mut(n).for_each(reflect);
        a = transpose(&a, n);
        a.chunks_mut(n).for_each(reflect);
    }
    // Exactly symmetric.
    let t = transpose(&a, n);
    SymmetricMatrix::from_rows(n, a.iter().zip(&t).map(|(a, b)| 0.5 * (a + b)).collect())
}

fn transpose(a: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|i| a[(i % n) * n + i / n]).collect()
}

fn product(a: &SymmetricMatrix, x: &[f64]) -> Vec<f64> {
    a.as_slice().chunks(a.dim()).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}
