//! Properties that hold for every correct operator and solver.

use super::{Expectation, random, zoo};
use crate::{Backend, Block, DenseOperator, LinearOperator, Real, Solver, Termination};

/// Checks an operator against its own definition: symmetric (`<u, A v> = <v, A u>`), linear, the
/// same bits when applied twice, a block equal to its single products, and equal to
/// [`LinearOperator::to_dense`]. Differences are relative to the norm of the product and bounded by
/// `tolerance`.
///
/// # Panics
/// On the first property that does not hold.
pub fn check_operator<B: Backend>(operator: &dyn LinearOperator<B>, tolerance: f64) {
    let n = operator.dim();
    let block = |rows: &[f64]| Block::from_f64(operator.backend(), operator.layout(), rows);
    let apply = |rows: &[f64]| {
        let x = block(rows);
        let mut y = Block::zeros(operator.backend(), operator.layout(), x.k());
        operator.apply(&x, &mut y);
        y.to_f64()
    };
    let rows = random(3 * n, 21);
    let products = apply(&rows);
    assert_eq!(products, apply(&rows), "applying twice gives other bits");

    let row = |m: &[f64], i: usize| m[i * n..(i + 1) * n].to_vec();
    let scale = norm(&products).max(f64::MIN_POSITIVE);
    for i in 0..3 {
        let single = apply(&row(&rows, i));
        close(&single, &row(&products, i), tolerance * scale, "a block differs from single products");
        for j in 0..i {
            let (u_av, v_au) =
                (dot(&row(&rows, j), &row(&products, i)), dot(&row(&rows, i), &row(&products, j)));
            assert!((u_av - v_au).abs() <= tolerance * scale * norm(&rows), "not symmetric: {u_av} {v_au}");
        }
    }
    let combined: Vec<f64> = (0..n).map(|i| 2.0 * rows[i] - 3.0 * rows[n + i]).collect();
    let expected: Vec<f64> = (0..n).map(|i| 2.0 * products[i] - 3.0 * products[n + i]).collect();
    close(&apply(&combined), &expected, 10.0 * tolerance * scale, "not linear");

    let dense = operator.to_dense();
    let by_matrix: Vec<f64> = dense.as_slice().chunks(n).map(|a| dot(a, &rows[..n])).collect();
    close(&by_matrix, &products[..n], 10.0 * tolerance * scale, "to_dense is another operator");
}

/// Runs a solver through the [`zoo`]. A column may be called converged only when the residual that
/// this function recomputes is at most `tolerance`; ill-posed problems must be reported; solving
/// twice gives the same bits. Returns one line per problem: its name and how its columns ended.
///
/// # Panics
/// On the first problem that is not treated as expected.
pub fn check_solver<B: Backend>(backend: &B, solver: &dyn Solver<B>, tolerance: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for problem in zoo() {
        let operator = DenseOperator::new(backend, &problem.matrix);
        let b = Block::from_f64(backend, operator.layout(), &problem.b);
        let prepared = solver.prepare(&operator).expect("the zoo fits every budget");
        let solution = prepared.solve(&b, &());
        let again = prepared.solve(&b, &());
        let bits = |s: &crate::Solution<B>| s.x.to_f64().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&solution), bits(&again), "{}: solving twice gives other bits", problem.name);

        let mut residual = Block::zeros(backend, operator.layout(), b.k());
        operator.apply(&solution.x, &mut residual);
        residual.axpby(1.0, &b, -1.0);
        let b_norms = b.norms();
        for (j, column) in solution.report.columns.iter().enumerate() {
            let converged = column.termination == Termination::Converged;
            let allowed = tolerance * b_norms[j] + 10.0 * B::Elem::EPSILON * b_norms[j];
            if converged {
                let actual = residual.norms()[j];
                assert!(actual <= allowed, "{}: residual {actual} called converged", problem.name);
            }
            let expected = match problem.expectation {
                // A solver that promises no more than an approximation says that it is one.
                Expectation::Solved => !column.termination.is_failure(),
                Expectation::SolvedOrReported => true,
                Expectation::Reported => !converged,
            };
            assert!(expected, "{}, column {j}: {}", problem.name, column.termination);
        }
        let ends: Vec<String> = solution.report.columns.iter().map(|c| c.termination.to_string()).collect();
        lines.push(format!("{}: {}", problem.name, ends.join(", ")));
    }
    lines
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

fn close(x: &[f64], y: &[f64], allowed: f64, what: &str) {
    let difference = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
    assert!(difference <= allowed, "{what}: {difference:e} > {allowed:e}");
}
