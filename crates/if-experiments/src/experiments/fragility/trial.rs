//! One network: trained, asked, and trained again without single examples.

use std::collections::BTreeMap;

use anyhow::ensure;
use if_linalg::{Block, Cholesky, LinearOperator, Solver};
use if_methods::{Agreement, Influence, descending, leave_out, random_order};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Fit, LayerSpec, Lbfgs, Loss, ModelSpec, Network, RiskSettings,
    Unfrozen,
};

use crate::Context;
use crate::support::F64;

/// Test points by the part of the test examples whose loss is higher.
pub const POINTS: [(&str, f64); 3] = [("highest loss", 0.0), ("upper tenth", 0.1), ("median", 0.5)];

/// Data, and how networks are trained on them.
pub struct Case {
    pub name: &'static str,
    pub train: Dataset,
    pub test: Dataset,
    /// Shape of an example.
    pub input: Vec<usize>,
    /// The layers but the last, which is dense.
    pub hidden: fn(&Setting) -> Vec<LayerSpec>,
    /// Where each axis stands while another is varied.
    pub base: Setting,
    pub grid: Vec<Setting>,
    /// Training examples left out: those of the highest loss.
    pub left_out: usize,
    pub lbfgs: Lbfgs,
    /// Whether networks are trained from the initial parameters too.
    pub cold: bool,
}

/// One kind of network, and how many examples it is trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    pub depth: usize,
    pub width: usize,
    /// Weight decay as l2.
    pub decay: f64,
    pub examples: usize,
}

/// What one network gives.
pub struct Trial {
    /// Agreement with warm retraining, for each of [`POINTS`].
    pub warm: [Agreement; POINTS.len()],
    /// The same with cold retraining, of the first point.
    pub cold: Option<Agreement>,
    /// What cold retraining changed in the loss of every test example, by the example left out.
    pub cold_changes: BTreeMap<usize, Vec<f64>>,
    /// The first of [`POINTS`] among the test examples.
    pub point: usize,
    /// Norm of the gradient at the trained parameters.
    pub gradient: f64,
    /// Of the Hessian with its regulariser.
    pub smallest: f64,
    /// Added so that it is positive definite.
    pub damping: f64,
    /// Retrainings that did not come to the tolerance.
    pub stopped: usize,
}

impl Case {
    fn network(&self, setting: &Setting) -> anyhow::Result<Network<F64>> {
        let mut layers = (self.hidden)(setting);
        layers.push(LayerSpec::Dense {
            name: "last".into(),
            out: self.train.classes().unwrap_or(1),
            bias: true,
        });
        let spec = ModelSpec { input: self.input.clone(), loss: Loss::CrossEntropy, layers };
        Ok(spec.build(&F64::new())?)
    }

    /// The training examples: all of them, or as many drawn by `seed`.
    fn drawn(&self, setting: &Setting, seed: u64) -> Dataset {
        let n = self.train.len();
        if setting.examples == n {
            return self.train.clone();
        }
        self.train.select(&random_order(n, seed)[..setting.examples])
    }

    /// Trains the network of `setting` from the parameters of `seed`, and without each of the examples left out.
    pub fn trial(&self, context: &Context, setting: &Setting, seed: u64) -> anyhow::Result<Trial> {
        let whole = self.network(setting)?;
        let initial = whole.initial(seed);
        // Layers before the first with parameters, such as pooling, are passed once.
        let data = Unfrozen::new(&whole, &initial, &self.drawn(setting, seed))?;
        let tests = Unfrozen::new(&whole, &initial, &self.test)?;
        let (network, train) = (data.network(), data.inputs());
        let risk = EmpiricalRisk::new(network, train, RiskSettings::mean(setting.decay))?;
        let fit = self.lbfgs.minimise(&risk, &initial, &());
        let theta = fit.theta;
        let by_loss = descending(&network.example_losses(tests.inputs(), &theta));
        let chosen = POINTS.map(|(_, above)| by_loss[(above * by_loss.len() as f64) as usize]);
        let points = Unfrozen::new(&whole, &initial, &self.test.select(&chosen))?;
        let queries = points.inputs();
        let mut left_out = descending(&network.example_losses(train, &theta));
        left_out.truncate(self.left_out);

        let smallest = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX).to_dense().eigen().0[0];
        let damping = if smallest > 0.0 { 0.0 } else { 1e-4 - smallest };
        let operator = risk.operator(&theta, Curvature::Hessian, damping, usize::MAX);
        let solver = Cholesky { tolerance: 1e-6, memory_budget: 1 << 30 }.prepare(&operator)?;
        let scores = Influence::new(&risk, &theta, &*solver).scores(queries, &())?;
        ensure!(scores.report.all_converged(), "{setting:?}: {}", scores.report.summary());

        let losses = |theta: &Block<F64>| network.example_losses(tests.inputs(), theta);
        let before = losses(&theta);
        let groups: Vec<Vec<usize>> = left_out.iter().map(|&i| vec![i]).collect();
        let changes = |fit: &Fit<F64>| losses(&fit.theta).iter().zip(&before).map(|(a, b)| a - b).collect();
        let measure = |fit: &Fit<F64>| (changes(fit), fit.report.converged());
        let retrain = |start: &Block<F64>| {
            let from = start.clone();
            leave_out(&risk, &groups, move |risk| self.lbfgs.minimise(risk, &from, &()), measure, context)
        };
        let warm = retrain(&theta)?;
        let cold = self.cold.then(|| retrain(&initial)).transpose()?;
        let agreement = |found: &[(Vec<f64>, bool)], q: usize| {
            let predicted: Vec<f64> = left_out.iter().filter_map(|&i| scores.loss_change(q, i)).collect();
            let actual: Vec<f64> = found.iter().map(|(changes, _)| changes[chosen[q]]).collect();
            Agreement::new(&predicted, &actual)
        };
        Ok(Trial {
            stopped: warm.iter().chain(cold.iter().flatten()).filter(|(_, converged)| !converged).count(),
            warm: std::array::from_fn(|q| agreement(&warm, q)),
            cold: cold.as_ref().map(|found| agreement(found, 0)),
            cold_changes: left_out
                .iter()
                .zip(cold.into_iter().flatten())
                .map(|(&example, (changes, _))| (example, changes))
                .collect(),
            point: chosen[0],
            gradient: fit.report.optimality,
            smallest,
            damping,
        })
    }
}
