//! TRAK: influence of a linearised model in random features. Park, Georgiev, Ilyas, Leclerc & Madry 2023.
//!
//! With `m(z)` the log-odds of an example's label, `phi(z) = G grad m(z; theta)` its projected gradient and `p_i` the
//! probability of the label of training example `i`, averaged over models (checkpoints, or trainings from other seeds):
//!
//! ```text
//! score(q, i) = mean_c [phi_c(q)^T (Phi_c^T Phi_c)^-1 phi_c(i)] mean_c (1 - p_i)
//! ```
//!
//! Positive means proponent.
//!
//! Deviations:
//! 1. `Phi^T Phi` gets a ridge of its mean eigenvalue times a tenth of the root of rounding, so that it can be inverted where examples are fewer than
//!    projections; the authors' code has an option for it.

use if_linalg::{Backend, Cpu, Loss, Observer, Real, SymmetricMatrix, View, ViewMut};
use if_models::{Inputs, Projection};

use crate::error::observed;
use crate::{Checkpoint, MethodError};

/// TRAK scores of all training examples for every query, `queries x n` row-major.
///
/// # Errors
/// No model, one that is not trained on labels, or [`MethodError::Cancelled`] where the observer asks to stop.
pub fn trak<B: Backend>(
    models: &[Checkpoint<B>],
    (train, queries): (&Inputs<B>, &Inputs<B>),
    projection: Projection,
    observer: &dyn Observer,
) -> Result<Vec<f64>, MethodError> {
    if models.is_empty() {
        let (name, expected) = ("models", "at least one".into());
        return Err(MethodError::Setting { name, expected, found: "none".into() });
    }
    let (n, k, dim) = (train.len(), queries.len(), projection.dim);
    let count = models.len() as f64;
    let (mut scores, mut doubt) = (vec![0.0; k * n], vec![0.0; n]);
    let cpu = Cpu::<f64>::new();
    for (c, Checkpoint { network, theta, .. }) in models.iter().enumerate() {
        observed(observer, "models", c, models.len())?;
        let margin = network.measured_by(Loss::Margin)?;
        let vectors = margin.projection(projection, c);
        // Minus the margin's gradient on both sides.
        let [phi, own] = [train, queries].map(|inputs| {
            let by_vector = margin.scores_of(inputs, theta, &vectors);
            let rows = inputs.len();
            (0..rows * dim).map(|at| by_vector[(at % dim) * rows + at / dim].to_f64()).collect::<Vec<f64>>()
        });
        let mut kernel = vec![0.0; dim * dim];
        let features = View::<Cpu<f64>>::new(&phi, 0, n, dim);
        cpu.gemm(1.0, features.t(), features, 0.0, ViewMut::new(&mut kernel, 0, dim, dim));
        let trace: f64 = (0..dim).map(|j| kernel[j * dim + j]).sum();
        let mut kernel = SymmetricMatrix::from_rows(dim, kernel);
        kernel.add_diagonal(0.1 * B::Elem::EPSILON.sqrt() * trace / dim as f64);
        let mut solved = own;
        kernel.cholesky().map_err(|_| MethodError::NotFinite)?.solve(&mut solved);
        let solved = View::new(&solved, 0, k, dim);
        cpu.gemm(count.recip(), solved, features.t(), 1.0, ViewMut::new(&mut scores, 0, k, n));
        // The margin is a log-odds: 1 - p = 1 / (1 + e^m).
        let minus = margin.example_losses(train, theta);
        doubt.iter_mut().zip(minus).for_each(|(doubt, minus)| *doubt += 1.0 / (1.0 + (-minus).exp()) / count);
    }
    for row in scores.chunks_exact_mut(n) {
        row.iter_mut().zip(&doubt).for_each(|(score, doubt)| *score *= doubt);
    }
    Ok(scores)
}
