//! Rescaled influence: the sum of the Newton steps of single examples (Rubinstein & Hopkins 2025).
//!
//! With `U_i` the rows that example `i` has in the root of the Gauss-Newton matrix, `C_i / n = U_i^T U_i`, and
//! `k_i = A^-1 g_i`, `V_i = A^-1 U_i^T`, `M_i = U_i V_i` (as many rows as outputs):
//!
//! ```text
//! (A - U_i^T U_i)^-1 g_i = k_i + V_i (I - M_i)^-1 U_i k_i
//! ```
//!
//! With one output `M_i` is the leverage, and the factor `1 / (1 - M_i)`.

use if_linalg::{
    Backend, Block, ColumnReport, Observer, Solution, SolveReport, SymmetricMatrix, Termination,
};
use if_models::{Curvature, GaussNewtonRoot};

use super::{GroupInfluence, ParameterChanges, both, merged};
use crate::MethodError;

impl<B: Backend> GroupInfluence<'_, B> {
    pub(super) fn rescaled(
        &self,
        groups: &[&[usize]],
        observer: &dyn Observer,
    ) -> Result<ParameterChanges<B>, MethodError> {
        let network = self.risk().network();
        let curvature = self.operator.curvature();
        if curvature != Curvature::GaussNewton && !(curvature == Curvature::Hessian && network.is_linear()) {
            return Err(MethodError::Curvature {
                method: "rescaled influence",
                expected: "gauss-newton, or the Hessian of a linear model",
                found: curvature.name(),
            });
        }
        let mut examples: Vec<usize> = groups.concat();
        examples.sort_unstable();
        examples.dedup();
        let mut total = Block::zeros(network.backend(), network.layout(), groups.len());
        let mut columns: Vec<Option<ColumnReport>> = vec![None; groups.len()];
        let mut whole: Option<SolveReport> = None;
        let some = (self.together() / network.outputs()).max(1);
        let mut done = 0;
        for chunk in examples.chunks(some) {
            let Solution { x: steps, report } = self.alone(chunk, observer);
            if observer.cancelled() {
                return Err(MethodError::Cancelled);
            }
            let mut shares = vec![0.0; groups.len() * chunk.len()];
            for (g, group) in groups.iter().enumerate() {
                let factor = self.risk().removal_factor_of(group.len()) / self.risk().removal_factor();
                for example in *group {
                    if let Ok(at) = chunk.binary_search(example) {
                        shares[g * chunk.len() + at] = factor;
                        let own = &report.columns[at];
                        columns[g] =
                            Some(columns[g].as_ref().map_or_else(|| own.clone(), |all| merged(all, own)));
                    }
                }
            }
            total.combine(&shares, &steps, 1.0);
            done += chunk.len();
            observer.progress("rescaled influence of single examples", done, examples.len());
            whole.get_or_insert(report);
        }
        let mut report = whole.expect("no group is empty");
        report.columns = columns.into_iter().map(|column| column.expect("no group is empty")).collect();
        Ok(ParameterChanges { total, first_order: None, report })
    }

    /// The Newton step of every one of `examples`, each removed alone.
    fn alone(&self, examples: &[usize], observer: &dyn Observer) -> Solution<B> {
        let (risk, theta) = (self.risk(), self.operator.theta());
        let m = risk.network().outputs();
        let single: Vec<&[usize]> = examples.iter().map(std::slice::from_ref).collect();
        let b = risk.removal_gradients(theta, &single);
        let Solution { x: mut steps, report } = self.solver.solve(&b, observer);
        let rows = GaussNewtonRoot::new(risk, theta).rows_of(examples);
        let Solution { x: v, report: more } = self.solver.solve(&rows, observer);
        let backend = b.backend();
        let coefficients: Vec<Option<Vec<f64>>> = backend.map(examples.len(), |e| {
            let own: Vec<usize> = (e * m..(e + 1) * m).collect();
            let u = rows.select(&own);
            let mut rest =
                SymmetricMatrix::from_rows(m, u.gram(&v.select(&own)).iter().map(|m| -m).collect());
            rest.add_diagonal(1.0);
            let mut c = steps.select(&[e]).gram(&u);
            rest.cholesky().ok().map(|factor| {
                factor.solve(&mut c);
                c
            })
        });
        let mut report = both(report, worst_of_each(more, m));
        for (e, c) in coefficients.into_iter().enumerate() {
            let Some(c) = c else {
                // Nothing of the curvature would be left along what the example alone holds.
                report.columns[e].termination = Termination::Singular;
                continue;
            };
            let own: Vec<usize> = (e * m..(e + 1) * m).collect();
            let mut step = Block::zeros(backend, b.layout(), 1);
            step.combine(&c, &v.select(&own), 0.0);
            steps.add_at(e, 1.0, &step);
        }
        Solution { x: steps, report }
    }
}

/// The certificates of groups of `m` right-hand sides, each as good as its worst.
fn worst_of_each(report: SolveReport, m: usize) -> SolveReport {
    let columns = report
        .columns
        .chunks_exact(m)
        .map(|own| own[1..].iter().fold(own[0].clone(), |all, one| merged(&all, one)));
    SolveReport { columns: columns.collect(), ..report }
}
