//! First-order influence. Koh & Liang 2017, equations 1 and 2, in the conventions of this system:
//!
//! ```text
//! score(q, i) = g_q^T (H + (l2 + damping) I)^-1 g_i       positive = proponent
//! loss of q on removal of i, predicted change = factor * score(q, i)
//! ```
//!
//! `g_q` is the gradient of the query's loss. `g_i` is `grad l_i` with factor `1/n` where removal is
//! fixed, and `grad l_i + l2 theta` with factor `1/(n - 1)` where it renormalises: then the examples
//! that stay gain weight, and the derivative of the objective along that change is not zero.
//!
//! The query's loss may be another one than the training loss ([`Influence::measuring`]). With
//! [`Loss::Logit`] or [`Loss::Margin`] it is minus what is measured, so what is measured is predicted to
//! change by `-factor * score(q, i)`, and positive still means proponent.
//!
//! Deviations:
//! 1. The published `I_up,loss` is `-score` ([`Scores::up_loss`]).
//! 2. One solve per query, none per training example, and no gradient of a training example is formed.
//! 3. Queries go through in blocks of [`QUERY_BLOCK`], all of which share every pass over the data.

use if_linalg::{Backend, Block, Observer, Prepared, Real, Solution, SolveReport};
use if_models::{EmpiricalRisk, Inputs, Loss, ModelError, Network, Removal, Rows};

use crate::{MethodError, ScoreRows, ScoreUnit, Scores};

/// Queries that are solved together. A constant: it decides which products a query shares, and so its
/// rounding.
pub const QUERY_BLOCK: usize = 128;

/// First-order influence at parameters `theta`, with a solver prepared for the curvature there.
///
/// ```
/// use if_linalg::{Block, Cg, Cpu, Solver};
/// use if_methods::{Extremes, Influence};
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
/// use if_models::{Network, NewtonCg, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let y = (0..40).map(|i| (i % 2) as f64).collect();
/// let data = Dataset::new(HostArray::F64(x), y)?;
///
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
/// let start = Block::zeros(network.backend(), network.layout(), 1);
/// let theta = NewtonCg::default().minimise(&risk, &start, &()).theta;
///
/// let hessian = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
/// let solver = Cg { tolerance: 1e-10, max_iterations: 100 }.prepare(&hessian)?;
/// let queries = Inputs::new(&network, &data.slice(0, 3), usize::MAX)?;
/// let scores = Influence::new(&risk, &theta, &*solver).scores(&queries, &())?;
///
/// assert!(scores.report.all_converged());
/// println!("{:?}", Extremes::of(scores.row(0), 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Influence<'a, B: Backend> {
    risk: &'a EmpiricalRisk<'a, B>,
    theta: &'a Block<B>,
    solver: &'a dyn Prepared<B>,
    /// Of queries.
    measure: Loss,
}

impl<'a, B: Backend> Influence<'a, B> {
    /// `solver` solves with the curvature of `risk` at `theta`, damping included.
    pub fn new(risk: &'a EmpiricalRisk<'a, B>, theta: &'a Block<B>, solver: &'a dyn Prepared<B>) -> Self {
        Self { risk, theta, solver, measure: risk.network().loss() }
    }

    /// The same with `g_q` the gradient of `loss`, such as [`Loss::Margin`], for queries. Training
    /// examples keep the training loss, and so does [`self_influence`](Self::self_influence).
    ///
    /// # Errors
    /// A loss that takes other targets than the training loss.
    pub fn measuring(self, loss: Loss) -> Result<Self, MethodError> {
        self.risk.network().measured_by(loss)?;
        Ok(Self { measure: loss, ..self })
    }

    /// What the scores measure.
    pub fn unit(&self) -> ScoreUnit {
        let factor = self.risk.removal_factor();
        if self.measure.is_measurement() {
            ScoreUnit::MeasurementDropOnRemoval { factor }
        } else {
            ScoreUnit::LossChangeOnRemoval { factor }
        }
    }

    /// Scores every query against every training example, a block of queries at a time; `take` gets
    /// each block as soon as it is finished. Returns the certificates of all queries.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop, or the first error of `take`.
    pub fn attribute<E: From<MethodError>>(
        &self,
        queries: &Inputs<B>,
        observer: &dyn Observer,
        mut take: impl FnMut(ScoreRows<B::Elem>) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        let network = self.risk.network().with_loss(self.measure);
        self.each_block(&network, queries, "scoring queries", observer, |first, _, solution| {
            let scores = against_train(self.risk, self.theta, &solution.x);
            take(ScoreRows { first, scores: &scores, report: &solution.report })
        })
    }

    /// Solves for the gradients of `inputs` under the loss of `network`, a block at a time, and hands
    /// each block to `take`: the position of its first example, the gradients, the solutions. Returns all certificates.
    fn each_block<E: From<MethodError>>(
        &self,
        network: &Network<B>,
        inputs: &Inputs<B>,
        stage: &str,
        observer: &dyn Observer,
        mut take: impl FnMut(usize, &Block<B>, &Solution<B>) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        let mut whole: Option<SolveReport> = None;
        for first in (0..inputs.len()).step_by(QUERY_BLOCK) {
            let rows = Rows::Range(first, QUERY_BLOCK.min(inputs.len() - first));
            let gradients = network.example_gradients(inputs, self.theta, rows);
            let solution = self.solver.solve(&gradients, observer);
            if observer.cancelled() {
                return Err(MethodError::Cancelled.into());
            }
            take(first, &gradients, &solution)?;
            match &mut whole {
                None => whole = Some(solution.report),
                Some(report) => report.columns.extend(solution.report.columns),
            }
            observer.progress(stage, first + rows.len(), inputs.len());
        }
        Ok(whole.expect("a data set is never empty"))
    }

    /// The whole score matrix, in memory.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn scores(
        &self,
        queries: &Inputs<B>,
        observer: &dyn Observer,
    ) -> Result<Scores<B::Elem>, MethodError> {
        let mut scores = Vec::with_capacity(queries.len() * self.risk.n());
        let report = self.attribute(queries, observer, |rows| {
            scores.extend_from_slice(rows.scores);
            Ok::<(), MethodError>(())
        })?;
        Ok(Scores { unit: self.unit(), train: self.risk.n(), scores, report })
    }

    /// `score(i, i)` of every training example (length `n`): how much its own loss would rise without
    /// it. One solve per example, in blocks; no `n x n` matrix. Returns the certificates too.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn self_influence(&self, observer: &dyn Observer) -> Result<(Vec<f64>, SolveReport), MethodError> {
        let mut values = Vec::with_capacity(self.risk.n());
        let report = self.each_block::<MethodError>(
            self.risk.network(),
            self.risk.inputs(),
            "self-influence",
            observer,
            |_, gradients, solution| {
                let data = solution.x.dots(gradients);
                values.extend(
                    data.iter().zip(penalty_share(self.risk, self.theta, &solution.x)).map(|(d, p)| d + p),
                );
                Ok(())
            },
        )?;
        Ok((values, report))
    }

    /// Leverage of every training example, `w_i l''_i j_i^T (H + ...)^-1 j_i` with `j_i` the gradient of
    /// its output: the share of the curvature that goes with it. Removal really changes the parameters
    /// by about `1/(1 - leverage)` times the first order, exactly so where the loss is quadratic.
    /// Computed from plain self-influences `g_i^T (H + ...)^-1 g_i`, as `g_i = l'_i j_i`.
    ///
    /// # Errors
    /// A network with more than one output, or renormalised removal (whose self-influences are not plain).
    pub fn leverages(&self, self_influence: &[f64]) -> Result<Vec<f64>, ModelError> {
        let network = self.risk.network();
        if network.outputs() != 1 || self.risk.settings().removal != Removal::Fixed {
            return Err(ModelError::Unsupported(
                "leverage is defined here for models with one output and fixed removal".into(),
            ));
        }
        let outputs = network.example_outputs(self.risk.inputs(), self.theta);
        let targets = self.risk.inputs().targets();
        let weights = self.risk.example_weights();
        let each = outputs.iter().zip(targets).zip(weights).zip(self_influence);
        Ok(each
            .map(|(((z, y), weight), own)| {
                let [_, first, second] = network.loss().scalar(*z, y);
                // Fitted so confidently that the derivatives underflow: nothing goes with this example.
                if second == 0.0 || first * first == 0.0 {
                    0.0
                } else {
                    weight * second * own / (first * first)
                }
            })
            .collect())
    }
}

/// Scores of all training examples of `risk` against solved queries `x`: `k x n`.
pub(crate) fn against_train<B: Backend>(
    risk: &EmpiricalRisk<B>,
    theta: &Block<B>,
    x: &Block<B>,
) -> Vec<B::Elem> {
    let mut scores = risk.network().scores(risk.inputs(), theta, x);
    let penalty = penalty_share(risk, theta, x);
    for (row, share) in scores.chunks_exact_mut(risk.n()).zip(penalty) {
        let share = B::Elem::from_f64(share);
        row.iter_mut().for_each(|score| *score += share);
    }
    scores
}

/// `x_j . l2 theta` for every vector where removal renormalises, else zeros.
fn penalty_share<B: Backend>(risk: &EmpiricalRisk<B>, theta: &Block<B>, x: &Block<B>) -> Vec<f64> {
    match risk.settings().removal {
        Removal::Fixed => vec![0.0; x.k()],
        Removal::Renormalised => {
            let mut penalty = Block::zeros(x.backend(), x.layout(), 1);
            risk.add_l2(theta, &mut penalty);
            let repeated = penalty.select(&vec![0; x.k()]);
            x.dots(&repeated)
        }
    }
}
