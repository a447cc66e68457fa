//! Which pretraining examples made the fine-tuned model predict this? Chen, Si, Li, Chelba, Kumar, Boning & Hsieh 2020.
//!
//! The first stage trains `(W, U)` on `m` examples, the second `Theta` on `W`, which it keeps or moves. With `A` the
//! curvature of the first stage over all its parameters, `G` that of the second, `g` the gradient of the query's loss
//! after the second and `f_z` that of a pretraining example:
//!
//! ```text
//! score(q, z) = (t, 0)^T A^-1 grad f_z              removal of z changes the loss of q by about score / m
//! fixed    W stays               t = g_W - G_WTheta G_ThetaTheta^-1 g_Theta
//! updated  min G(W, Theta) + alpha |W - W*|^2       t = 2 alpha [J^-1 g]_W      J = G + diag(2 alpha I_W, 0)
//! ```
//!
//! All derivatives of the second stage are taken where it ended. The joint block `A` is inverted and then cut, and the
//! answer of the head `Theta` is part of `t`: without either the scores correlate, and are wrong.
//!
//! Deviations:
//! 1. Two solves per query, none per pretraining example.
//! 2. What `alpha` is in the paper could not be read in a source; here it is as above. Whether l2 of the second stage
//!    covers `W` is its objective's to say ([`EmpiricalRisk::with_l2_on`]).
//! 3. Positive means proponent; the published influence is `-score`.

use if_linalg::{Backend, Block, Layout, LinearOperator, Observer, Prepared, Real, Solution, SolveReport};
use if_models::{EmpiricalRisk, Inputs, Rows};

use crate::influence::{QUERY_BLOCK, extend};
use crate::{MethodError, ScoreRows, ScoreUnit, Scores};

/// A stage of training: its objective and where it ended.
pub struct Stage<'a, B: Backend> {
    /// The objective.
    pub risk: &'a EmpiricalRisk<'a, B>,
    /// The parameters at the end.
    pub theta: &'a Block<B>,
}

impl<B: Backend> Clone for Stage<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Stage<'_, B> {}

/// What the second stage does to the shared layers.
pub enum Tuning<'a, B: Backend> {
    /// It keeps them.
    Fixed {
        /// The curvature of all of the second stage's network; its diagonal does not matter.
        operator: &'a dyn LinearOperator<B>,
        /// Solves with the curvature of the head, the other layers in their order, l2 included.
        head: &'a dyn Prepared<B>,
    },
    /// It moves them, pulled back by `alpha |W - W*|^2`.
    Updated {
        /// The strength of the pull, above 0.
        alpha: f64,
        /// Solves with `J`, the curvature of the objective with the pull
        /// ([`EmpiricalRisk::anchored`] with a strength of `2 alpha`).
        solver: &'a dyn Prepared<B>,
    },
}

/// Influence of pretraining examples on a fine-tuned model.
///
/// ```
/// use if_linalg::{Block, Cholesky, Cpu, Solver};
/// use if_methods::{MultiStage, Stage, Tuning};
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LayerSpec};
/// use if_models::{Lbfgs, Loss, ModelSpec, RiskSettings};
///
/// let data = |classes: usize| {
///     let x = ndarray::ArrayD::from_shape_fn(vec![30, 3], |i| (3.0 * i[0] as f64 + i[1] as f64).sin());
///     Dataset::new(HostArray::F64(x), (0..30).map(|i| (i % classes) as f64).collect())
/// };
/// let network = |classes: usize| {
///     let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
///     let layers = vec![dense("embedding", 2), LayerSpec::Tanh {}, dense("head", classes)];
///     ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers }.build(&Cpu::<f64>::new())
/// };
/// // Pretraining on three classes, fine-tuning on two of the whole network, pulled back to where it was.
/// let (alpha, settings, lbfgs) = (0.5, RiskSettings::mean(0.05), Lbfgs::default());
/// let networks = [network(3)?, network(2)?];
/// let [pretrain, tune] = [Inputs::new(&networks[0], &data(3)?, usize::MAX)?, Inputs::new(&networks[1], &data(2)?, usize::MAX)?];
/// let first = EmpiricalRisk::new(&networks[0], &pretrain, settings)?;
/// let start = |n: &if_models::Network<_>| {
///     let theta: Vec<f64> = (0..n.layout().dim()).map(|i| (i as f64).cos()).collect();
///     Block::from_f64(n.backend(), n.layout(), &theta)
/// };
/// let embedded = lbfgs.minimise(&first, &start(&networks[0]), &()).theta;
/// let mut begin = start(&networks[1]);
/// begin.copy_segment(0, &embedded, 0);
/// let second = EmpiricalRisk::new(&networks[1], &tune, settings)?.anchored(&begin, 2.0 * alpha, &["embedding"])?;
/// let tuned = lbfgs.minimise(&second, &begin, &()).theta;
///
/// let operators = [
///     first.operator(&embedded, Curvature::GaussNewton, 0.0, usize::MAX),
///     second.operator(&tuned, Curvature::GaussNewton, 0.0, usize::MAX),
/// ];
/// let cholesky = Cholesky { tolerance: 1e-8, memory_budget: usize::MAX };
/// let [solver, joint] = [cholesky.prepare(&operators[0])?, cholesky.prepare(&operators[1])?];
/// let stages = [Stage { risk: &first, theta: &embedded }, Stage { risk: &second, theta: &tuned }];
/// let tuning = Tuning::Updated { alpha, solver: &*joint };
/// let method = MultiStage::new(stages[0], &*solver, stages[1], &["embedding"], tuning)?;
/// let scores = method.scores(&tune, &())?;
/// println!("removal of pretraining example 4 changes the loss of query 0 by {:?}", scores.loss_change(0, 4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MultiStage<'a, B: Backend> {
    first: Stage<'a, B>,
    /// Solves with the curvature of all of the first stage.
    solver: &'a dyn Prepared<B>,
    second: Stage<'a, B>,
    tuning: Tuning<'a, B>,
    /// Segments of the shared layers in the first and in the second network.
    shared: Vec<(usize, usize)>,
}

impl<'a, B: Backend> MultiStage<'a, B> {
    /// `solver` is prepared for the curvature of the `first` stage; `layers` are the names of the shared layers.
    ///
    /// # Errors
    /// A layer that one of the stages lacks, or has in another shape; a fixed embedding whose parameters differ; an
    /// alpha that is not above 0.
    pub fn new(
        first: Stage<'a, B>,
        solver: &'a dyn Prepared<B>,
        second: Stage<'a, B>,
        layers: &[&str],
        tuning: Tuning<'a, B>,
    ) -> Result<Self, MethodError> {
        let shared = shared_segments([first.theta.layout(), second.theta.layout()], layers)?;
        match tuning {
            Tuning::Updated { alpha, .. } if !(alpha > 0.0 && alpha.is_finite()) => {
                let (name, expected) = ("alpha", "a number above 0".into());
                return Err(MethodError::Setting { name, expected, found: alpha.to_string() });
            }
            Tuning::Fixed { .. } => check_same([first.theta, second.theta], &shared)?,
            Tuning::Updated { .. } => {}
        }
        Ok(Self { first, solver, second, tuning, shared })
    }

    /// What the scores measure.
    pub fn unit(&self) -> ScoreUnit {
        ScoreUnit::LossChangeOnRemoval { factor: self.first.risk.removal_factor() }
    }

    /// Scores every query, an example of the second stage's kind, against every pretraining example; `take` gets a
    /// block of queries at a time. Returns the certificates of all queries, each of both its solves.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop, or the first error of `take`.
    pub fn attribute<E: From<MethodError>>(
        &self,
        queries: &Inputs<B>,
        observer: &dyn Observer,
        mut take: impl FnMut(ScoreRows<B::Elem>) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        let mut whole: Option<SolveReport> = None;
        for first in (0..queries.len()).step_by(QUERY_BLOCK) {
            let rows = Rows::Range(first, QUERY_BLOCK.min(queries.len() - first));
            let (pull, tuning) = self.pull(queries, rows, observer);
            let Solution { x, report } = self.solver.solve(&pull, observer);
            if observer.cancelled() {
                return Err(MethodError::Cancelled.into());
            }
            let report = crate::group::both(report, tuning);
            let scores = crate::influence::against_train(self.first.risk, &[], self.first.theta, &x);
            take(ScoreRows { first, scores: &scores, report: &report, truncations: None })?;
            extend(&mut whole, report);
            observer.progress("scoring queries", first + rows.len(), queries.len());
        }
        Ok(whole.expect("a data set is never empty"))
    }

    /// The whole score matrix, queries x pretraining examples, in memory.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn scores(
        &self,
        queries: &Inputs<B>,
        observer: &dyn Observer,
    ) -> Result<Scores<B::Elem>, MethodError> {
        let mut scores = Vec::new();
        let report = self.attribute(queries, observer, |rows| {
            scores.extend_from_slice(rows.scores);
            Ok::<(), MethodError>(())
        })?;
        Ok(Scores { unit: self.unit(), train: self.first.risk.n(), scores, report, truncations: None })
    }

    /// `(t, 0)` in the parameters of the first stage, and the certificates of the solves in the second.
    fn pull(&self, queries: &Inputs<B>, rows: Rows, observer: &dyn Observer) -> (Block<B>, SolveReport) {
        let Stage { risk, theta } = self.second;
        let gradients = risk.network().example_gradients(queries, theta, rows);
        let (t, scale, report) = match &self.tuning {
            Tuning::Updated { alpha, solver } => {
                let Solution { x, report } = solver.solve(&gradients, observer);
                (x, 2.0 * alpha, report)
            }
            Tuning::Fixed { operator, head } => {
                let (t, report) = self.answered(gradients, *operator, *head, observer);
                (t, 1.0, report)
            }
        };
        let mut pull = Block::zeros(t.backend(), self.first.theta.layout(), t.k());
        for &(first, second) in &self.shared {
            let (scales, zeros) = (vec![scale; t.k()], vec![0.0; t.k()]);
            t.backend().row_axpby(&scales, t.segment(second), &zeros, pull.segment_mut(first));
        }
        (pull, report)
    }

    /// `g - G (0, G_ThetaTheta^-1 g_Theta)`, of which the shared layers count.
    fn answered(
        &self,
        mut gradients: Block<B>,
        operator: &dyn LinearOperator<B>,
        head: &dyn Prepared<B>,
        observer: &dyn Observer,
    ) -> (Block<B>, SolveReport) {
        let (backend, layout) = (gradients.backend().clone(), gradients.layout().clone());
        let is_head = |s: &usize| self.shared.iter().all(|(_, second)| second != s);
        let own: Vec<usize> = (0..layout.segments().len()).filter(is_head).collect();
        let own_layout = Layout::new(own.iter().map(|&s| layout.segments()[s].clone()).collect());
        let mut right = Block::zeros(&backend, &own_layout, gradients.k());
        own.iter().enumerate().for_each(|(to, &from)| right.copy_segment(to, &gradients, from));
        let Solution { x, report } = head.solve(&right, observer);
        let mut answer = Block::zeros(&backend, &layout, gradients.k());
        own.iter().enumerate().for_each(|(from, &to)| answer.copy_segment(to, &x, from));
        let mut product = Block::zeros(&backend, &layout, gradients.k());
        operator.apply(&answer, &mut product);
        gradients.axpby(-1.0, &product, 1.0);
        (gradients, report)
    }
}

/// Positions of `layers` in both layouts.
fn shared_segments(
    layouts: [&std::sync::Arc<Layout>; 2],
    layers: &[&str],
) -> Result<Vec<(usize, usize)>, MethodError> {
    let find = |stage: usize, name: &str| {
        let segments = layouts[stage].segments();
        segments.iter().position(|segment| segment.name == name).ok_or_else(|| {
            let known: Vec<&str> = segments.iter().map(|segment| segment.name.as_str()).collect();
            let which = ["first", "second"][stage];
            MethodError::Stages(format!(
                "no layer {name} with parameters in the {which} stage, there are: {}",
                known.join(", ")
            ))
        })
    };
    if layers.is_empty() {
        return Err(MethodError::Stages("expected at least one shared layer, found none".into()));
    }
    let pair = |name: &&str| {
        let (first, second) = (find(0, name)?, find(1, name)?);
        let [a, b] = [&layouts[0].segments()[first], &layouts[1].segments()[second]];
        if (a.rows, a.cols) != (b.rows, b.cols) {
            return Err(MethodError::Stages(format!(
                "layer {name} differs: {} x {} with bias in the first stage, {} x {} in the second",
                a.rows, a.cols, b.rows, b.cols
            )));
        }
        Ok((first, second))
    };
    layers.iter().map(pair).collect()
}

/// Parameters that are called fixed differ by no more than this, relative to their size: rounding to single precision.
const SAME: f64 = 1e-5;

fn check_same<B: Backend>(
    [first, second]: [&Block<B>; 2],
    shared: &[(usize, usize)],
) -> Result<(), MethodError> {
    for &(a, b) in shared {
        let host = |theta: &Block<B>, s| -> Vec<f64> {
            theta.backend().download(theta.segment(s)).into_iter().map(Real::to_f64).collect()
        };
        let (x, y) = (host(first, a), host(second, b));
        let size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let apart = x.iter().zip(&y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        if apart > SAME * size {
            let name = &first.layout().segments()[a].name;
            return Err(MethodError::Stages(format!(
                "layer {name} was moved by the second stage, by {:.1e} of its size: a fixed embedding stays as it is",
                apart / size
            )));
        }
    }
    Ok(())
}
