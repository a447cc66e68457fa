//! How far leave-one-out retraining bears influence out, for one network: Basu, Pope & Feizi 2021.
//!
//! A network is trained to an optimum; the training examples of the highest loss are left out one at a time, and what
//! that does to the loss of test points is predicted by influence and measured by training again, **warm** from the
//! optimum and **cold** from the initial parameters. Their agreement is read beside what may explain it: how near an
//! optimum training came, and the smallest eigenvalue of the Hessian (Epifano et al. 2023).
//!
//! Deviations:
//! 1. The Hessian of all parameters with its regulariser, where scripts of the paper take that of the last layer without;
//!    exact, and where it is not positive definite, or rounding might take it for indefinite, damped until its smallest
//!    eigenvalue is 1e-4.
//! 2. Training by L-BFGS to a small gradient, so that what is measured is not where an optimiser happened to stop.

use if_linalg::{
    Backend, Block, Bytes, Cholesky, LinearOperator, Lissa, Observer, Real, SolveReport, Solver,
};
use if_models::{Curvature, Dataset, EmpiricalRisk, Lbfgs, Network, RiskSettings, Unfrozen};

use crate::error::observed;
use crate::{Agreement, Influence, LossChanges, MethodError, Scores, descending, loss_changes, random_order};

/// Smallest eigenvalue of a Hessian that had to be damped.
const MARGIN: f64 = 1e-4;
/// Smallest over largest eigenvalue down to which a Hessian is factored as it is: a residual of [`EXACT`] can be reached.
const CONDITION: f64 = 1e-9;
/// Matrices of the Hessian's size that are alive at once: itself twice, and what its eigenvalues take.
const COPIES: usize = 3;

/// How networks are studied.
#[derive(Clone, Debug)]
pub struct Fragility {
    /// How they are trained, and trained again.
    pub lbfgs: Lbfgs,
    /// Training examples left out, one at a time: those of the highest loss.
    pub left_out: usize,
    /// Test points, each by the share of test examples whose loss is higher: 0 for the highest, .5 for the median.
    pub points: Vec<f64>,
    /// Whether networks are trained again from the initial parameters too.
    pub cold: bool,
    /// LiSSA, whose predictions stand beside the exact ones.
    pub lissa: Option<Lissa>,
    /// Bytes that an explicit Hessian may take.
    pub memory_budget: usize,
}

/// What one network showed.
#[derive(Clone, Debug)]
pub struct FragilityTrial {
    /// The training examples left out, from the highest loss on.
    pub left_out: Vec<usize>,
    /// The test points among the test examples.
    pub points: Vec<usize>,
    /// Predicted change of the loss of each point by each example left out, `points x left_out`.
    pub predicted: Vec<Vec<f64>>,
    /// The same by LiSSA.
    pub by_lissa: Option<ByLissa>,
    /// What warm retraining changed in the loss of every test example, `left_out x tests`.
    pub warm_changes: Vec<Vec<f64>>,
    /// The same for cold retraining.
    pub cold_changes: Option<Vec<Vec<f64>>>,
    /// Norm of the gradient at the trained parameters.
    pub gradient_norm: f64,
    /// Smallest eigenvalue of the Hessian, its regulariser included.
    pub smallest_eigenvalue: f64,
    /// What was added to it.
    pub damping: f64,
    /// Trainings that did not come to the gradient asked for.
    pub stopped: usize,
}

/// What LiSSA predicted.
#[derive(Clone, Debug)]
pub struct ByLissa {
    /// As far as it came, `points x left_out`; NaN where it diverged.
    pub predicted: Vec<Vec<f64>>,
    /// How each point's solve ended.
    pub report: SolveReport,
}

impl FragilityTrial {
    /// Predicted with warm retraining, at `points[p]`.
    pub fn warm(&self, p: usize) -> Agreement {
        self.agreement(&self.predicted, &self.warm_changes, p)
    }

    /// Predicted with cold retraining, where there was any.
    pub fn cold(&self, p: usize) -> Option<Agreement> {
        self.cold_changes.as_ref().map(|cold| self.agreement(&self.predicted, cold, p))
    }

    /// Predicted by LiSSA with warm retraining, where it was asked for.
    pub fn lissa(&self, p: usize) -> Option<Agreement> {
        self.by_lissa.as_ref().map(|lissa| self.agreement(&lissa.predicted, &self.warm_changes, p))
    }

    fn agreement(&self, predicted: &[Vec<f64>], changes: &[Vec<f64>], p: usize) -> Agreement {
        let actual: Vec<f64> = changes.iter().map(|change| change[self.points[p]]).collect();
        Agreement::new(&predicted[p], &actual)
    }
}

impl Fragility {
    /// LiSSA with its scale, batch and depth from the spectrum.
    pub const LISSA: Lissa =
        Lissa { tolerance: 0.05, depth: None, repeats: 4, scale: None, batch: None, seed: 0 };

    /// As many of the examples of `data`, drawn by `seed`; where all are asked for, these in their order.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn drawn(data: &Dataset, examples: usize, seed: u64) -> Dataset {
        match examples == data.len() {
            true => data.clone(),
            false => data.select(&random_order(data.len(), seed)[..examples]),
        }
    }

    /// Trains `network` on `train` from `initial` under `settings`, and without each of the examples left out.
    ///
    /// # Errors
    /// Data that do not fit the network; fewer examples than are left out; a share outside 0 to 1; a Hessian beyond the
    /// memory budget or that is not finite; a cancelled run.
    pub fn trial<B: Backend>(
        &self,
        (network, initial): (&Network<B>, &Block<B>),
        settings: RiskSettings,
        (train, tests): (&Dataset, &Dataset),
        observer: &dyn Observer,
    ) -> Result<FragilityTrial, MethodError> {
        self.check(train.len(), network.layout().dim())?;
        // Layers before the first with parameters, such as pooling, are passed once.
        let unfrozen = |data: &Dataset| Unfrozen::new(network, initial, data);
        let (train, test) = (unfrozen(train)?, unfrozen(tests)?);
        let (network, inputs) = (train.network(), test.inputs());
        let risk = EmpiricalRisk::new(network, train.inputs(), settings)?;
        let fit = self.lbfgs.minimise(&risk, initial, observer);
        observed(observer, "trained", 1, 1)?;
        let theta = &fit.theta;
        let before = network.example_losses(inputs, theta);
        let by_loss = descending(&before);
        let point =
            |above: &f64| by_loss[((above * by_loss.len() as f64).round() as usize).min(by_loss.len() - 1)];
        let points: Vec<usize> = self.points.iter().map(point).collect();
        let mut left_out = descending(&network.example_losses(train.inputs(), theta));
        left_out.truncate(self.left_out);

        let undamped = risk.operator(theta, Curvature::Hessian, 0.0, usize::MAX);
        let hessian = undamped.to_dense();
        if !hessian.is_finite() {
            return Err(MethodError::NotFinite);
        }
        let eigenvalues = hessian.eigenvalues();
        let [smallest, largest] = [eigenvalues[0], eigenvalues[eigenvalues.len() - 1]];
        let damping = if smallest > CONDITION * largest { 0.0 } else { MARGIN - smallest };
        drop(hessian);
        observed(observer, "eigenvalues", 1, 1)?;
        let operator = risk.operator(theta, Curvature::Hessian, damping, usize::MAX);
        let queries = unfrozen(&tests.select(&points))?;
        let predict = |solver: &dyn Solver<B>| -> Result<_, MethodError> {
            let prepared = solver.prepare(&operator)?;
            let scores = Influence::new(&risk, theta, &*prepared).scores(queries.inputs(), observer)?;
            Ok((changes(&scores, &left_out), scores.report))
        };
        let (predicted, report) = predict(&Cholesky { tolerance: EXACT, memory_budget: self.memory_budget })?;
        if !report.none_failed() {
            return Err(MethodError::Unsolved(report.summary()));
        }
        let by_lissa = self.lissa.as_ref().map(|lissa| predict(lissa)).transpose()?;
        let by_lissa = by_lissa.map(|(predicted, report)| ByLissa { predicted, report });

        let groups: Vec<Vec<usize>> = left_out.iter().map(|&i| vec![i]).collect();
        let retrained = |start: &Block<B>| {
            let again = |risk: &EmpiricalRisk<B>| self.lbfgs.minimise(risk, start, &());
            loss_changes(&risk, &groups, inputs, &before, again, observer)
        };
        let warm = retrained(theta)?;
        let cold = self.cold.then(|| retrained(initial)).transpose()?;
        let stopped = |found: &LossChanges| found.fits.iter().filter(|fit| !fit.converged()).count();
        Ok(FragilityTrial {
            stopped: usize::from(!fit.report.converged()) + stopped(&warm) + cold.as_ref().map_or(0, stopped),
            left_out,
            points,
            predicted,
            by_lissa,
            warm_changes: warm.changes,
            cold_changes: cold.map(|cold| cold.changes),
            gradient_norm: fit.report.optimality,
            smallest_eigenvalue: smallest,
            damping,
        })
    }

    fn check(&self, examples: usize, dim: usize) -> Result<(), MethodError> {
        let wrong = |name, expected, found| Err(MethodError::Setting { name, expected, found });
        if examples <= FEWEST {
            return wrong("examples", format!("more than {FEWEST} to train on"), examples.to_string());
        }
        if !(FEWEST..examples).contains(&self.left_out) {
            let expected = format!("{FEWEST} to {} of {examples} training examples", examples - 1);
            return wrong("left-out", expected, self.left_out.to_string());
        }
        if let Some(share) = self.points.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            return wrong("points", "shares from 0 to 1".into(), share.to_string());
        }
        let needed = dim.saturating_mul(dim).saturating_mul(COPIES * size_of::<f64>());
        if needed > self.memory_budget {
            let expected = format!("{} for the Hessian of {dim} parameters", Bytes(needed));
            return wrong("memory-budget", expected, Bytes(self.memory_budget).to_string());
        }
        Ok(())
    }
}

/// Over fewer examples a correlation says nothing.
const FEWEST: usize = 3;
/// Relative residual of exact solves.
const EXACT: f64 = 1e-6;

/// Predicted change of every query's loss by each of `left_out`.
fn changes<T: Real>(scores: &Scores<T>, left_out: &[usize]) -> Vec<Vec<f64>> {
    let change = |q: usize, i: usize| scores.loss_change(q, i).expect("influence predicts changes");
    let queries = scores.report.columns.len();
    (0..queries).map(|q| left_out.iter().map(|&i| change(q, i)).collect()).collect()
}
