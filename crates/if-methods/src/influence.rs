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
//! 4. Solved queries may be truncated ([`Influence::with_query_rank`]); every query then has a bound on the error.

use if_linalg::{Backend, Block, ColumnReport, Observer, Prepared, Real, Solution, SolveReport, Termination};
use if_models::{
    EmpiricalRisk, Inputs, Loss, ModelError, Network, QueryRank, Removal, Replica, Rows, Truncated,
};

use crate::{MethodError, ScoreRows, ScoreUnit, Scores, Truncation};

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
    pub(crate) risk: &'a EmpiricalRisk<'a, B>,
    pub(crate) theta: &'a Block<B>,
    /// None: the identity stands for the curvature.
    solver: Option<&'a dyn Prepared<B>>,
    /// Of queries.
    pub(crate) measure: Loss,
    /// How far solved queries are truncated before they are scored.
    query_rank: Option<QueryRank>,
    /// Further devices that score.
    replicas: &'a [Replica<B>],
}

impl<'a, B: Backend> Influence<'a, B> {
    /// `solver` solves with the curvature of `risk` at `theta`, damping included.
    pub fn new(risk: &'a EmpiricalRisk<'a, B>, theta: &'a Block<B>, solver: &'a dyn Prepared<B>) -> Self {
        let measure = risk.network().loss();
        Self { risk, theta, solver: Some(solver), measure, query_rank: None, replicas: &[] }
    }

    /// Inner products of gradients, `g_q^T g_i`: the identity in place of the curvature. Layers whose gradients have
    /// few terms are scored pairwise, without forming a gradient. `g_i` is `grad l_i` whatever removal means.
    pub fn of_identity(risk: &'a EmpiricalRisk<'a, B>, theta: &'a Block<B>) -> Self {
        let measure = risk.network().loss();
        Self { risk, theta, solver: None, measure, query_rank: None, replicas: &[] }
    }

    /// The same with the scores of [`attribute`](Self::attribute) shared by further devices.
    pub fn with_replicas(self, replicas: &'a [Replica<B>]) -> Self {
        Self { replicas, ..self }
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

    /// The same with solved queries truncated layer by layer where that makes scores cheaper. Every query comes with
    /// the ranks and a bound on the error of its scores; the share of l2 that renormalised removal adds to scores is
    /// exact. [`self_influence`](Self::self_influence) is not truncated.
    ///
    /// # Errors
    /// A rank of 0, or a tolerance that is not above 0 and below 1.
    pub fn with_query_rank(self, rank: QueryRank) -> Result<Self, MethodError> {
        Ok(Self { query_rank: Some(rank.validate()?), ..self })
    }

    /// What the scores measure.
    pub fn unit(&self) -> ScoreUnit {
        let factor = self.risk.removal_factor();
        if self.solver.is_none() {
            return ScoreUnit::InnerProduct;
        }
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
        if self.solver.is_none() && self.query_rank.is_none() {
            return self.inner_products(&network, queries, observer, take);
        }
        let truncate = self
            .query_rank
            .map(|rank| (rank, self.risk.network().layer_squared_norms(self.risk.inputs(), self.theta)));
        self.each_block(&network, queries, "scoring queries", observer, |first, _, solution| {
            let (x, report) = (&solution.x, &solution.report);
            let train = self.risk.network();
            let (scores, truncations) = match &truncate {
                None => (against_train(self.risk, self.replicas, self.theta, x), None),
                Some((rank, squares)) => {
                    let truncated = train.truncate(x, *rank);
                    let mut scores = train.scores_of_with(
                        self.replicas,
                        self.risk.inputs(),
                        self.theta,
                        &truncated.vectors,
                    );
                    // Inner products know nothing of removal.
                    if self.solver.is_some() {
                        add_penalty_share(self.risk, self.theta, x, &mut scores);
                    }
                    (scores, Some(truncations(&truncated, squares)))
                }
            };
            take(ScoreRows { first, scores: &scores, report, truncations: truncations.as_deref() })
        })
    }

    /// [`attribute`](Self::attribute) with the identity.
    fn inner_products<E: From<MethodError>>(
        &self,
        network: &Network<B>,
        queries: &Inputs<B>,
        observer: &dyn Observer,
        mut take: impl FnMut(ScoreRows<B::Elem>) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        let mut whole = identity_report(0);
        for first in (0..queries.len()).step_by(QUERY_BLOCK) {
            let rows = Rows::Range(first, QUERY_BLOCK.min(queries.len() - first));
            let vectors = network.gradient_vectors(queries, self.theta, rows);
            let train = self.risk.network();
            let scores = train.scores_of_with(self.replicas, self.risk.inputs(), self.theta, &vectors);
            if observer.cancelled() {
                return Err(MethodError::Cancelled.into());
            }
            let report = identity_report(rows.len());
            take(ScoreRows { first, scores: &scores, report: &report, truncations: None })?;
            whole.columns.extend(report.columns);
            observer.progress("scoring queries", first + rows.len(), queries.len());
        }
        Ok(whole)
    }

    /// Solves for the gradients of `inputs` under the loss of `network`, a block at a time, and hands
    /// each block to `take`: the position of its first example, the gradients, the solutions. Returns all certificates.
    pub(crate) fn each_block<E: From<MethodError>>(
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
            let solution = match self.solver {
                Some(solver) => solver.solve(&gradients, observer),
                None => Solution { x: gradients.clone(), report: identity_report(rows.len()) },
            };
            if observer.cancelled() {
                return Err(MethodError::Cancelled.into());
            }
            take(first, &gradients, &solution)?;
            extend(&mut whole, solution.report);
            observer.progress(stage, first + rows.len(), inputs.len());
        }
        Ok(whole.expect("a data set is never empty"))
    }

    /// What every score of each solved query has from l2, see [`penalty_share`].
    pub(crate) fn penalty_shares(&self, x: &Block<B>) -> Vec<f64> {
        match self.solver {
            Some(_) => penalty_share(self.risk, self.theta, x),
            // Inner products know nothing of removal.
            None => vec![0.0; x.k()],
        }
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
        let mut truncations = self.query_rank.map(|_| Vec::with_capacity(queries.len()));
        let report = self.attribute(queries, observer, |rows| {
            scores.extend_from_slice(rows.scores);
            if let (Some(all), Some(some)) = (&mut truncations, rows.truncations) {
                all.extend_from_slice(some);
            }
            Ok::<(), MethodError>(())
        })?;
        Ok(Scores { unit: self.unit(), train: self.risk.n(), scores, report, truncations })
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
                let mut own = solution.x.dots(gradients);
                if self.solver.is_some() {
                    let penalty = penalty_share(self.risk, self.theta, &solution.x);
                    own.iter_mut().zip(penalty).for_each(|(own, share)| *own += share);
                }
                values.extend(own);
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

/// Scores of all training examples of `risk` against solved queries `x`, shared with `replicas`: `k x n`.
pub(crate) fn against_train<B: Backend>(
    risk: &EmpiricalRisk<B>,
    replicas: &[Replica<B>],
    theta: &Block<B>,
    x: &Block<B>,
) -> Vec<B::Elem> {
    let mut scores = risk.network().scores_with(replicas, risk.inputs(), theta, x);
    add_penalty_share(risk, theta, x, &mut scores);
    scores
}

/// Adds `x_j . l2 theta`, where it counts, to row `j` of scores of all training examples: `k x n`.
fn add_penalty_share<B: Backend>(
    risk: &EmpiricalRisk<B>,
    theta: &Block<B>,
    x: &Block<B>,
    scores: &mut [B::Elem],
) {
    let penalty = penalty_share(risk, theta, x);
    for (row, share) in scores.chunks_exact_mut(risk.n()).zip(penalty) {
        let share = B::Elem::from_f64(share);
        row.iter_mut().for_each(|score| *score += share);
    }
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

/// The certificates `whole` of the blocks so far, with those of another.
pub(crate) fn extend(whole: &mut Option<SolveReport>, block: SolveReport) {
    match whole {
        None => *whole = Some(block),
        Some(report) => report.extend(block),
    }
}

/// The certificates of `k` solves with the identity: nothing is solved, and nothing can go wrong.
pub(crate) fn identity_report(k: usize) -> SolveReport {
    let column = ColumnReport {
        termination: Termination::Converged,
        iterations: 0,
        products: 0,
        residual: 0.0,
        eigenvalues: None,
    };
    SolveReport { solver: "identity".into(), tolerance: 0.0, damping: 0.0, columns: vec![column; k] }
}

/// What truncation did to every query, given the squared norms of the training examples' gradients.
fn truncations<B: Backend>(truncated: &Truncated<B>, squares: &[Vec<f64>]) -> Vec<Truncation> {
    let bounds = truncated.bounds(squares);
    let ranks = |q: usize| truncated.ranks[q * squares.len()..(q + 1) * squares.len()].to_vec();
    bounds.into_iter().enumerate().map(|(q, bound)| Truncation { ranks: ranks(q), bound }).collect()
}
