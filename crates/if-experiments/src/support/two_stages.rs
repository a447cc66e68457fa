//! Training in two stages, and what becomes of both when pretraining examples weigh something else.

use anyhow::ensure;
use if_linalg::{Backend, Block, Loss, Prepared, Solver};
use if_methods::{MultiStage, Stage, Tuning};
use if_models::{
    Chord, Curvature, Dataset, EmpiricalRisk, Fit, Inputs, LayerSpec, Lbfgs, ModelSpec, Network,
    RiskSettings, Rows,
};

use super::{F64, FACTORED, dense, fit};
use crate::Context;

const HEAD: [&str; 1] = ["head"];
const OPERATOR_CACHE: usize = usize::MAX;
/// Norm of every gradient: of losses that differ by 1e-5 the differences are asked for.
const GRADIENT: f64 = 1e-12;
/// From here Newton's method takes over.
const NEAR: f64 = 1e-9;

/// The layers that both stages share.
#[derive(Clone, Copy)]
pub struct Embedding {
    /// What it is, in words.
    pub name: &'static str,
    /// Its layers.
    pub layers: fn() -> Vec<LayerSpec>,
    /// The names of those with parameters.
    pub names: &'static [&'static str],
}

/// Two stages, of a softmax and of a logistic head on one embedding.
pub struct TwoStages {
    shared: &'static [&'static str],
    networks: [Network<F64>; 2],
    pretrain: Inputs<F64>,
    finetune: Inputs<F64>,
    queries: Inputs<F64>,
    settings: RiskSettings,
    /// The pull of the second stage towards the first; none where it keeps the embedding.
    alpha: Option<f64>,
}

/// Where both stages ended.
pub struct Trained([Block<F64>; 2]);

/// How pretraining examples may be scored: the method, what it becomes when a part of it is left out, and a baseline.
pub const WAYS: [&str; 4] = [
    "both stages",
    "the embedding’s block inverted alone",
    "the head’s answer left out",
    "dot product of gradients",
];

impl TwoStages {
    /// The stages on `[pretrain, finetune, queries]`, of which the last is of the second's kind.
    pub fn new(
        embedding: Embedding,
        [pretrain, finetune, queries]: [&Dataset; 3],
        (l2, alpha): (f64, Option<f64>),
    ) -> anyhow::Result<Self> {
        let build = |outputs: usize, loss: Loss| {
            let mut layers = (embedding.layers)();
            layers.push(dense(HEAD[0], outputs));
            let input = pretrain.features().shape()[1..].to_vec();
            ModelSpec { input, loss, layers }.build(&F64::new())
        };
        let classes = pretrain.classes().expect("digits are classes");
        let networks = [build(classes, Loss::CrossEntropy)?, build(1, Loss::Logistic)?];
        let inputs = |stage: usize, data| Inputs::new(&networks[stage], data, usize::MAX);
        let (pretrain, finetune, queries) = (inputs(0, pretrain)?, inputs(1, finetune)?, inputs(1, queries)?);
        let (shared, settings) = (embedding.names, RiskSettings::mean(l2));
        Ok(Self { shared, networks, pretrain, finetune, queries, settings, alpha })
    }

    fn first(&self) -> anyhow::Result<EmpiricalRisk<'_, F64>> {
        Ok(EmpiricalRisk::new(&self.networks[0], &self.pretrain, self.settings)?)
    }

    /// The second stage with the embedding of `first`: `network` is the whole or a part of the second.
    fn second<'a>(
        &'a self,
        network: &'a Network<F64>,
        anchor: &Block<F64>,
    ) -> anyhow::Result<EmpiricalRisk<'a, F64>> {
        let risk = EmpiricalRisk::new(network, &self.finetune, self.settings)?;
        match self.alpha {
            Some(alpha) => Ok(risk.anchored(anchor, 2.0 * alpha, self.shared)?),
            None => Ok(risk),
        }
    }

    /// The embedding of `first` with the head of `second`.
    fn joined(&self, first: &Block<F64>, second: &Block<F64>) -> Block<F64> {
        let mut joined = second.clone();
        self.copy_embedding(first, &mut joined);
        joined
    }

    /// The embedding comes first in every layout.
    fn copy_embedding(&self, from: &Block<F64>, to: &mut Block<F64>) {
        (0..self.shared.len()).for_each(|s| from.backend().copy(from.segment(s), to.segment_mut(s)));
    }

    /// Both stages from parameters drawn by `seed`.
    pub fn train(&self, seed: u64) -> anyhow::Result<Trained> {
        let first = descended(&self.first()?, &self.networks[0].initial(seed))?;
        let start = self.joined(&first, &self.networks[1].initial(seed));
        let second = match self.alpha {
            Some(_) => descended(&self.second(&self.networks[1], &start)?, &start)?,
            None => self.with_fitted_head(start)?,
        };
        Ok(Trained([first, second]))
    }

    /// `start` with the head that is best on its embedding.
    fn with_fitted_head(&self, start: Block<F64>) -> anyhow::Result<Block<F64>> {
        let (network, head) = self.networks[1].select(&start, &HEAD)?;
        let head = fit(&self.second(&network, &start)?, Some(&head), GRADIENT)?.theta;
        let mut fitted = start;
        head.backend().copy(head.segment(0), fitted.segment_mut(self.shared.len()));
        Ok(fitted)
    }

    /// Losses of the queries (one row for each of `weights`) after both stages are trained again, from where they
    /// ended, with these weights of the pretraining examples.
    pub fn retrained_losses(
        &self,
        Trained([first, second]): &Trained,
        weights: &[Vec<f64>],
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let risk = self.first()?;
        let risks: Vec<_> = weights.iter().map(|weights| risk.reweighted(weights)).collect();
        let firsts = retrained(&risk, &risks, first)?;
        let starts: Vec<_> = firsts.iter().map(|first| self.joined(first, second)).collect();
        let seconds = match self.alpha {
            Some(_) => {
                let whole = self.second(&self.networks[1], &self.joined(first, second))?;
                let anchored = |start| self.second(&self.networks[1], start);
                let risks: Vec<_> = starts.iter().map(anchored).collect::<anyhow::Result<_>>()?;
                retrained(&whole, &risks, second)?
            }
            None => {
                starts.into_iter().map(|start| self.with_fitted_head(start)).collect::<Result<Vec<_>, _>>()?
            }
        };
        Ok(seconds.iter().map(|theta| self.losses(theta)).collect())
    }

    /// Losses of the queries.
    fn losses(&self, second: &Block<F64>) -> Vec<f64> {
        self.networks[1].example_losses(&self.queries, second)
    }

    /// Losses of the queries at the end of both stages.
    pub fn trained_losses(&self, trained: &Trained) -> Vec<f64> {
        self.losses(&trained.0[1])
    }

    /// Scores of all pretraining examples, `queries x examples`, in each of [`WAYS`].
    pub fn scores(
        &self,
        context: &Context,
        Trained([first, second]): &Trained,
    ) -> anyhow::Result<[Vec<f64>; 4]> {
        let risk = self.first()?;
        let hessian = risk.operator(first, Curvature::Hessian, 0.0, OPERATOR_CACHE);
        let solver = FACTORED.prepare(&hessian)?;
        let (network, theta) = self.networks[0].select(first, self.shared)?;
        let embedding = EmpiricalRisk::new(&network, &self.pretrain, self.settings)?;
        let block = embedding.operator(&theta, Curvature::Hessian, 0.0, OPERATOR_CACHE);
        let block = FACTORED.prepare(&block)?;
        let (whole, alone) = (Stage { risk: &risk, theta: first }, Stage { risk: &embedding, theta: &theta });

        // The second stage as if the head stood still.
        let (still, still_theta) = self.networks[1].select(second, self.shared)?;
        let all = Rows::Range(0, self.queries.len());
        let pull = still.example_gradients(&self.queries, &still_theta, all);
        let unanswered = match self.alpha {
            Some(alpha) => {
                let risk = self.second(&still, &theta)?;
                let hessian = risk.operator(&still_theta, Curvature::Hessian, 0.0, OPERATOR_CACHE);
                let tuning = Tuning::Updated { alpha, solver: &*FACTORED.prepare(&hessian)? };
                let still = Stage { risk: &risk, theta: &still_theta };
                self.solved(context, (whole, &*solver), still, tuning)?
            }
            None => {
                let mut padded = Block::zeros(pull.backend(), first.layout(), pull.k());
                self.copy_embedding(&pull, &mut padded);
                let solution = solver.solve(&padded, context);
                ensure!(solution.report.all_converged(), "{}", solution.report.summary());
                self.networks[0].scores(&self.pretrain, first, &solution.x)
            }
        };
        Ok([
            self.tuned(context, (whole, &*solver), [first, second])?,
            self.tuned(context, (alone, &*block), [first, second])?,
            unanswered,
            network.scores(&self.pretrain, &theta, &pull),
        ])
    }

    /// With the second stage as it is.
    fn tuned(
        &self,
        context: &Context,
        stage: (Stage<'_, F64>, &dyn Prepared<F64>),
        [first, second]: [&Block<F64>; 2],
    ) -> anyhow::Result<Vec<f64>> {
        let at = self.joined(first, second);
        let risk = self.second(&self.networks[1], &at)?;
        let hessian = risk.operator(second, Curvature::Hessian, 0.0, OPERATOR_CACHE);
        let tuned = Stage { risk: &risk, theta: second };
        if let Some(alpha) = self.alpha {
            let solver = FACTORED.prepare(&hessian)?;
            return self.solved(context, stage, tuned, Tuning::Updated { alpha, solver: &*solver });
        }
        let (network, theta) = self.networks[1].select(second, &HEAD)?;
        let head = self.second(&network, &at)?;
        let head = head.operator(&theta, Curvature::Hessian, 0.0, OPERATOR_CACHE);
        let head = FACTORED.prepare(&head)?;
        self.solved(context, stage, tuned, Tuning::Fixed { operator: &hessian, head: &*head })
    }

    fn solved(
        &self,
        context: &Context,
        (first, solver): (Stage<'_, F64>, &dyn Prepared<F64>),
        second: Stage<'_, F64>,
        tuning: Tuning<'_, F64>,
    ) -> anyhow::Result<Vec<f64>> {
        let method = MultiStage::new(first, solver, second, self.shared, tuning)?;
        let scores = method.scores(&self.queries, context)?;
        ensure!(scores.report.all_converged(), "{}", scores.report.summary());
        Ok(scores.scores)
    }
}

/// Down to a stationary point by L-BFGS, and into it with the Hessian there.
fn descended(risk: &EmpiricalRisk<'_, F64>, start: &Block<F64>) -> anyhow::Result<Block<F64>> {
    let lbfgs = Lbfgs { gradient_tolerance: NEAR, max_iterations: 20_000, memory: 40 };
    let near = lbfgs.minimise(risk, start, &()).theta;
    let fit = chords(risk, std::slice::from_ref(risk), &near)?.remove(0);
    ensure!(fit.report.converged(), "training stopped at a gradient of norm {:.1e}", fit.report.optimality);
    Ok(fit.theta)
}

/// The optimum of each of `risks` next to `theta`, that of `risk`.
fn retrained(
    risk: &EmpiricalRisk<'_, F64>,
    risks: &[EmpiricalRisk<'_, F64>],
    theta: &Block<F64>,
) -> anyhow::Result<Vec<Block<F64>>> {
    let fits = chords(risk, risks, theta)?.into_iter().zip(risks);
    // An example that takes along much of the least curvature: the Hessian with it leads nowhere.
    let arrived = |(fit, risk): (Fit<F64>, _)| match fit.report.converged() {
        true => Ok(fit.theta),
        false => descended(risk, theta),
    };
    fits.map(arrived).collect()
}

/// Newton steps on each of `risks` from `theta`, with the Hessian of `risk` there.
fn chords(
    risk: &EmpiricalRisk<'_, F64>,
    risks: &[EmpiricalRisk<'_, F64>],
    theta: &Block<F64>,
) -> anyhow::Result<Vec<Fit<F64>>> {
    let hessian = risk.operator(theta, Curvature::Hessian, 0.0, OPERATOR_CACHE);
    let solver = FACTORED.prepare(&hessian)?;
    let chord = Chord { gradient_tolerance: GRADIENT, ..Chord::default() };
    Ok(chord.minimise(risks, theta, &*solver, &()))
}
