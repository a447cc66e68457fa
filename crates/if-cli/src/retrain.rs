//! Ground truth: the model trained again without some examples, from its own optimum; or the proximal response.

use if_linalg::{Backend, Block};
use if_methods::{LossChanges, loss_changes};
use if_models::{EmpiricalRisk, FitReport, Inputs, Lbfgs, Removal};

use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::fit::{Trainer, optimality_name};
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::session::Session;

/// Retraining goes so far that what is left is small beside the effect of an ordinary example among a
/// million; an example that is fitted to the last digit may matter less, and is then named.
const GRADIENT_NORM: f64 = 1e-10;
/// The same for the hinge, as a distance.
const DISTANCE: f64 = 1e-7;
/// Of proximal responses, which start at an optimum.
const RESPONSE_GRADIENT_NORM: f64 = 1e-9;
/// Of networks: quasi-Newton steps come so far.
const NETWORK_GRADIENT_NORM: f64 = 1e-8;

/// What predictions are compared with.
pub enum Truth {
    /// The model trained again without the group.
    Retrained(Retraining),
    /// The proximal Bregman response (Bae et al. 2022): what damped Gauss-Newton influence predicts, at any weights.
    Proximal,
}

impl Truth {
    /// What was asked for, if anything; retraining takes the model of `problem` to an optimum first, on `device`.
    pub fn prepare(
        device: &Device,
        (retrain, proximal): (bool, bool),
        problem: &mut Problem,
        settings: &Settings,
        console: &Console,
    ) -> Result<Option<Self>, Failure> {
        if retrain {
            let retraining =
                in_double!(device, |backend| Retraining::prepare(backend, problem, settings, console))?;
            return Ok(Some(Self::Retrained(retraining)));
        }
        if !proximal {
            return Ok(None);
        }
        if settings.risk.removal != Removal::Fixed {
            return Err(Failure::input("--proximal: expected --removal fixed, found renormalised"));
        }
        problem.need_gauss_newton(settings, "--proximal")?;
        Ok(Some(Self::Proximal))
    }

    /// For people, after a name of predictions.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retrained(_) => "retraining",
            Self::Proximal => "proximal response",
        }
    }

    /// What becomes of the queries' losses without each of `groups`, groups x queries, and whether some of it is not
    /// exact.
    pub fn actual<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        queries: &Inputs<B>,
        groups: &[Vec<usize>],
        settings: &Settings,
        console: &Console,
    ) -> Result<(Vec<Vec<f64>>, bool), Failure> {
        match self {
            Self::Retrained(retraining) => {
                let found = retraining.changes(session, queries, groups, settings, console)?;
                let short_of = retraining.shortfalls(&session.problem.model.kind, &found.fits, console);
                Ok((found.changes, short_of != [0, 0]))
            }
            Self::Proximal => responses(session, queries, groups, settings, console),
        }
    }
}

fn responses<B: Backend<Elem = f64>>(
    session: &Session<B>,
    queries: &Inputs<B>,
    groups: &[Vec<usize>],
    settings: &Settings,
    console: &Console,
) -> Result<(Vec<Vec<f64>>, bool), Failure> {
    let risk = EmpiricalRisk::new(&session.network, &session.train, settings.risk)?;
    let theta = &session.theta;
    let proximal = risk
        .proximal(theta, settings.damping_of(&risk, theta, console))
        .map_err(|_| Failure::input("--proximal: expected --l2 plus --damping above 0"))?;
    let before = session.network.example_losses(queries, theta);
    let lbfgs =
        Lbfgs { gradient_tolerance: RESPONSE_GRADIENT_NORM, max_iterations: 20_000, ..Lbfgs::default() };
    let respond = |risk: &EmpiricalRisk<B>| lbfgs.minimise(risk, theta, &());
    let found = loss_changes(&proximal, groups, queries, &before, respond, console)?;
    let stopped = found.fits.iter().filter(|fit| !fit.converged()).count();
    if stopped > 0 {
        console.warn(&format!(
            "{stopped} of {} proximal responses stopped above gradient norm {RESPONSE_GRADIENT_NORM:.0e}: they are not exact; raise --damping",
            groups.len()
        ));
    }
    Ok((found.changes, stopped > 0))
}

/// A trainer that goes as far as ground truth asks for.
pub fn exact_trainer(kind: &Kind) -> Trainer {
    let tolerance = match kind {
        Kind::Svm { .. } => DISTANCE,
        Kind::Network(_) => NETWORK_GRADIENT_NORM,
        Kind::Linear(_) => GRADIENT_NORM,
    };
    Trainer::new(kind, Some(tolerance))
}

/// How a model is retrained.
pub struct Retraining {
    trainer: Trainer,
    /// Of an svm.
    duals: Vec<f64>,
    /// How the whole model came to its optimum.
    base: FitReport,
}

impl Retraining {
    /// Trains the model of `problem` on, to an optimum: both what is predicted and what is retrained start there.
    ///
    /// # Errors
    /// Layers that are left out, as retraining takes all.
    pub fn prepare<B: Backend<Elem = f64>>(
        backend: &B,
        problem: &mut Problem,
        settings: &Settings,
        console: &Console,
    ) -> Result<Self, Failure> {
        if !settings.layers.is_empty() {
            return Err(Failure::input("retraining changes every layer: expected no --layers"));
        }
        let trainer = exact_trainer(&problem.model.kind);
        let polished = trainer.train(
            backend,
            &problem.train,
            true,
            settings.risk,
            Some(problem.model.clone()),
            console,
        )?;
        if problem.weights.is_some() && polished.report.iterations > 0 {
            console.note(&format!(
                "the given weights were first trained on, to {} {:.1e}",
                optimality_name(&polished.model.kind),
                polished.report.optimality
            ));
        }
        problem.model = polished.model;
        Ok(Self { trainer, duals: polished.duals, base: polished.report })
    }

    /// What becomes of the queries' losses without each of `groups`.
    pub fn changes<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        queries: &Inputs<B>,
        groups: &[Vec<usize>],
        settings: &Settings,
        console: &Console,
    ) -> Result<LossChanges, Failure> {
        let network = self.trainer.training_network(&session.network);
        let risk = EmpiricalRisk::new(&network, &session.train, settings.risk)?;
        let theta: &Block<B> = &session.theta;
        let before = network.example_losses(queries, theta);
        let retrain = |risk: &EmpiricalRisk<B>| {
            let fit = self.trainer.minimise(risk, theta, &mut self.duals.clone(), &());
            fit.expect("the whole model was trained in the same way")
        };
        Ok(loss_changes(&risk, groups, queries, &before, retrain, console)?)
    }

    /// Says which trainings are no ground truth: how many stopped early, and how many took no step.
    pub fn shortfalls(&self, kind: &Kind, fits: &[FitReport], console: &Console) -> [usize; 2] {
        let stopped =
            fits.iter().filter(|fit| !fit.converged()).count() + usize::from(!self.base.converged());
        if stopped > 0 {
            console.warn(&format!(
                "{stopped} of {} trainings stopped above {} {:.0e}: the actual changes are not exact; raise --l2 or scale the features",
                fits.len() + 1,
                optimality_name(kind),
                self.trainer.tolerance
            ));
        }
        // The hinge really does not move where the example is no support vector.
        let idle = match kind {
            Kind::Svm { .. } => 0,
            _ => fits.iter().filter(|fit| fit.iterations == 0).count(),
        };
        if idle > 0 {
            console.warn(&format!(
                "{idle} of {} retrainings took no step: without the example the gradient norm is still below {:.0e}, so their actual changes read 0; raise --l2",
                fits.len(),
                self.trainer.tolerance
            ));
        }
        [stopped, idle]
    }
}
