//! Scores from explicit matrices, written as plainly as possible.

use ndarray::{Array1, Array2, Axis};

use crate::support::Problem;

/// What the score of a query and an example is made of.
pub struct Dense {
    /// `l2 + damping`, on the whole diagonal.
    pub shift: f64,
    /// Added to every training gradient: `l2` where removal renormalises, else 0.
    pub penalty: f64,
}

impl Dense {
    /// `g_q^T (H + shift I)^-1 (g_i + penalty theta)` for the last `queries` examples of `problem`
    /// against the others.
    pub fn scores(&self, problem: &Problem, queries: usize) -> Array2<f64> {
        let n = problem.y.len() - queries;
        let x = with_ones(problem);
        let theta = parameters(problem);
        let (outputs, width) = theta.dim();
        let p = outputs * width;
        let mut hessian = Array2::<f64>::eye(p) * self.shift;
        let mut gradients = Array2::<f64>::zeros((n + queries, p));
        for i in 0..n + queries {
            let (first, second) = derivatives(&theta.dot(&x.row(i)), problem.y[i]);
            for a in 0..p {
                gradients[[i, a]] = first[a / width] * x[[i, a % width]];
                for b in 0..p {
                    let entry = second[[a / width, b / width]] * x[[i, a % width]] * x[[i, b % width]];
                    hessian[[a, b]] += if i < n { entry / n as f64 } else { 0.0 };
                }
            }
        }
        let flat = theta.flatten().to_owned();
        Array2::from_shape_fn((queries, n), |(q, i)| {
            let solved = solve(hessian.clone(), gradients.row(n + q).to_owned());
            solved.dot(&gradients.row(i)) + self.penalty * solved.dot(&flat)
        })
    }
}

/// Features, followed by a one where there is a bias.
fn with_ones(problem: &Problem) -> Array2<f64> {
    let mut x = problem.x.clone();
    if problem.bias.is_some() {
        x.push_column(Array1::ones(x.nrows()).view()).unwrap();
    }
    x
}

fn parameters(problem: &Problem) -> Array2<f64> {
    let mut theta = problem.weight.clone();
    if let Some(bias) = &problem.bias {
        theta.push_column(bias.view()).unwrap();
    }
    theta
}

/// First and second derivative of the loss in the outputs: logistic for one, softmax for more.
fn derivatives(z: &Array1<f64>, y: usize) -> (Array1<f64>, Array2<f64>) {
    if z.len() == 1 {
        let p = 1.0 / (1.0 + (-z[0]).exp());
        return (Array1::from_elem(1, p - y as f64), Array2::from_elem((1, 1), p * (1.0 - p)));
    }
    let exponentials = z.mapv(f64::exp);
    let p = &exponentials / exponentials.sum();
    let column = p.clone().insert_axis(Axis(1));
    let second = Array2::from_diag(&p) - column.dot(&column.t());
    let mut first = p;
    first[y] -= 1.0;
    (first, second)
}

/// Gaussian elimination with pivoting.
pub fn solve(mut a: Array2<f64>, mut b: Array1<f64>) -> Array1<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[[i, k]].abs().total_cmp(&a[[j, k]].abs())).unwrap();
        for c in 0..n {
            a.swap([k, c], [pivot, c]);
        }
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[[i, k]] / a[[k, k]];
            for c in k..n {
                a[[i, c]] -= factor * a[[k, c]];
            }
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|c| a[[k, c]] * b[c]).sum();
        b[k] = (b[k] - rest) / a[[k, k]];
    }
    b
}
