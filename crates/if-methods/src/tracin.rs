//! TracIn: what the steps of training did. Pruthi, Liu, Kale & Sundararajan 2020.
//!
//! ```text
//! CP       score(q, i) = sum_c eta_c grad l_q(theta_c) . grad l_i(theta_c)         over checkpoints, section 3.3
//! ideal    score(q, i) = sum_t [l_q(theta_t) - l_q(theta_t+1)] / b_t              over the steps whose batch holds i
//! ```
//!
//! Gradients are those of losses, without l2; no `1/n` and no batch size is in CP. Positive means proponent: steps on the
//! example lowered the query's loss. The ideal scores of a query add up to what training took off its loss, as every
//! step is shared out among its batch.
//!
//! Deviations:
//! 1. No gradient is formed where layers have few terms: inner products are taken pairwise.
//! 2. Sketches of gradients may be factored layer by layer ([`ProjectionKind::Factored`](if_models::ProjectionKind)).

use if_linalg::{Backend, Block, Observer, Real, View, ViewMut};
use if_models::{
    EmpiricalRisk, Inputs, ModelError, Network, Projection, Replica, Rows, TrainState, Training,
};

use crate::error::observed;
use crate::influence::{QUERY_BLOCK, identity_report};
use crate::{MethodError, ScoreRows, ScoreUnit, Scores};

/// A point that training went through. The network comes along, as running statistics and frozen layers are part of it.
pub struct Checkpoint<B: Backend> {
    /// The network.
    pub network: Network<B>,
    /// Its parameters there.
    pub theta: Block<B>,
    /// Of the steps around it.
    pub learning_rate: f64,
}

/// TracIn over checkpoints.
///
/// ```
/// use if_linalg::Cpu;
/// use if_methods::{Checkpoint, TracIn};
/// use if_models::{Dataset, HostArray, Inputs, Loss, Network};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![20, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let data = Dataset::new(HostArray::F64(x), (0..20).map(|i| (i % 2) as f64).collect())?;
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let checkpoint = |seed| Checkpoint { network: network.clone(), theta: network.initial(seed), learning_rate: 0.1 };
///
/// let checkpoints = [checkpoint(0), checkpoint(1)];
/// let tracin = TracIn::new(&train, &checkpoints)?;
/// let queries = Inputs::new(&network, &data.slice(0, 3), usize::MAX)?;
/// println!("{:?}", tracin.scores(&queries, &())?.row(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TracIn<'a, B: Backend> {
    train: &'a Inputs<B>,
    checkpoints: &'a [Checkpoint<B>],
    /// Further devices that score, for each checkpoint.
    replicas: &'a [Vec<Replica<B>>],
}

impl<'a, B: Backend> TracIn<'a, B> {
    /// Over `checkpoints` of one network.
    ///
    /// # Errors
    /// No checkpoint, or parameters of different shapes.
    pub fn new(train: &'a Inputs<B>, checkpoints: &'a [Checkpoint<B>]) -> Result<Self, MethodError> {
        let Some(first) = checkpoints.first() else {
            let expected = "at least one".into();
            return Err(MethodError::Setting { name: "checkpoints", expected, found: "none".into() });
        };
        if checkpoints.iter().any(|checkpoint| checkpoint.theta.layout() != first.theta.layout()) {
            let expected = "parameters of one shape".into();
            return Err(MethodError::Setting { name: "checkpoints", expected, found: "several".into() });
        }
        Ok(Self { train, checkpoints, replicas: &[] })
    }

    /// The same with the scores of [`attribute`](Self::attribute) shared by further devices, which are listed for every
    /// checkpoint.
    ///
    /// # Panics
    /// Where there are lists for more or fewer checkpoints.
    pub fn with_replicas(self, replicas: &'a [Vec<Replica<B>>]) -> Self {
        assert_eq!(replicas.len(), self.checkpoints.len(), "replicas of each checkpoint");
        Self { replicas, ..self }
    }

    /// Scores every query against every training example; `take` gets a block of queries at a time. Nothing is solved:
    /// the certificates say so.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop, or the first error of `take`.
    pub fn attribute<E: From<MethodError>>(
        &self,
        queries: &Inputs<B>,
        observer: &dyn Observer,
        mut take: impl FnMut(ScoreRows<B::Elem>) -> Result<(), E>,
    ) -> Result<(), E> {
        for first in (0..queries.len()).step_by(QUERY_BLOCK) {
            let rows = Rows::Range(first, QUERY_BLOCK.min(queries.len() - first));
            let mut scores = vec![B::Elem::ZERO; rows.len() * self.train.len()];
            for (c, Checkpoint { network, theta, learning_rate }) in self.checkpoints.iter().enumerate() {
                if observer.cancelled() {
                    return Err(MethodError::Cancelled.into());
                }
                let rate = B::Elem::from_f64(*learning_rate);
                let replicas = self.replicas.get(c).map_or(&[][..], |own| own);
                let products = network.gradient_products_with(replicas, self.train, theta, (queries, rows));
                scores.iter_mut().zip(products).for_each(|(score, product)| *score += rate * product);
            }
            let report = identity_report(rows.len());
            take(ScoreRows { first, scores: &scores, report: &report, truncations: None })?;
            observer.progress("scoring queries", first + rows.len(), queries.len());
        }
        Ok(())
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
        let mut scores = Vec::new();
        self.attribute(queries, observer, |rows| {
            scores.extend_from_slice(rows.scores);
            Ok::<(), MethodError>(())
        })?;
        let report = identity_report(queries.len());
        let unit = ScoreUnit::TrainingLossReduction;
        Ok(Scores { unit, train: self.train.len(), scores, report, truncations: None })
    }

    /// `score(i, i)` of every training example (length `n`): `sum_c eta_c |grad l_i|^2`.
    pub fn self_influence(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.train.len()];
        for Checkpoint { network, theta, learning_rate } in self.checkpoints {
            let norms = network.gradient_norms(self.train, theta);
            sums.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += learning_rate * norm * norm);
        }
        sums
    }

    /// Loss of every training example, averaged over the checkpoints: the baseline to beat.
    pub fn mean_losses(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.train.len()];
        for Checkpoint { network, theta, .. } in self.checkpoints {
            let losses = network.example_losses(self.train, theta);
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss / self.checkpoints.len() as f64);
        }
        sums
    }

    /// Sketches of examples, `examples x (checkpoints dim)` row-major: inner products of two sketches estimate their
    /// score, with an error that falls as `1 / sqrt(dim)`. Every checkpoint has a projection of its own.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn sketch(
        &self,
        examples: &Inputs<B>,
        projection: Projection,
        observer: &dyn Observer,
    ) -> Result<Vec<B::Elem>, MethodError> {
        let (n, dim, count) = (examples.len(), projection.dim, self.checkpoints.len());
        let mut all = vec![B::Elem::ZERO; n * count * dim];
        for (c, Checkpoint { network, theta, learning_rate }) in self.checkpoints.iter().enumerate() {
            observed(observer, "sketching", c, count)?;
            let sketch = network.scores_of(examples, theta, &network.projection(projection, c));
            let root = B::Elem::from_f64(learning_rate.sqrt());
            for (j, row) in sketch.chunks_exact(n).enumerate() {
                for (i, value) in row.iter().enumerate() {
                    all[(i * count + c) * dim + j] = root * *value;
                }
            }
        }
        Ok(all)
    }
}

/// Scores that two blocks of [sketches](TracIn::sketch) of `width` numbers each estimate, `queries x examples`
/// row-major.
///
/// # Panics
/// If a block is not whole rows.
pub fn sketch_products<B: Backend>(
    backend: &B,
    queries: &[B::Elem],
    examples: &[B::Elem],
    width: usize,
) -> Vec<B::Elem> {
    let [k, n] = [queries, examples].map(|block| block.len() / width);
    let [queries, examples] = [queries, examples].map(|block| backend.upload(block));
    let mut products = backend.upload(&vec![B::Elem::ZERO; k * n]);
    let examples = View::new(&examples, 0, n, width);
    backend.gemm(
        1.0,
        View::new(&queries, 0, k, width),
        examples.t(),
        0.0,
        ViewMut::new(&mut products, 0, k, n),
    );
    backend.download(View::new(&products, 0, k, n))
}

/// Ideal TracIn, `queries x n`: replays `training` of `risk` from `state` on and shares what every step took off each
/// query's loss among the examples of the step. `state` is at the end then.
///
/// # Errors
/// A loss that is not finite, or [`MethodError::Cancelled`].
pub fn ideal_tracin<B: Backend>(
    training: &Training,
    risk: &EmpiricalRisk<B>,
    state: &mut TrainState<B>,
    queries: &Inputs<B>,
    observer: &dyn Observer,
) -> Result<Vec<f64>, MethodError> {
    let (network, n) = (risk.network(), risk.n());
    let mut scores = vec![0.0; queries.len() * n];
    let mut before = network.example_losses(queries, &state.theta);
    training.run::<B, ModelError>(risk, state, observer, |state, step| {
        let after = network.example_losses(queries, &state.theta);
        let batch = training.batch(n, step.step - 1);
        for (q, (before, after)) in before.iter().zip(&after).enumerate() {
            let share = (before - after) / batch.len() as f64;
            batch.iter().for_each(|&i| scores[q * n + i] += share);
        }
        before = after;
        Ok(())
    })?;
    if observer.cancelled() {
        return Err(MethodError::Cancelled);
    }
    Ok(scores)
}
