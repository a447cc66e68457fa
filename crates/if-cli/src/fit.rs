//! Training to the optimum, in double precision.

use if_linalg::{Backend, Block, Observer};
use if_models::{
    EmpiricalRisk, Fit, FitReport, HingeSvm, Inputs, Lbfgs, Loss, ModelError, Network, NewtonCg,
    RiskSettings, Tensors,
};

use crate::error::Failure;
use crate::model::{Kind, Model};
use crate::source::Data;

/// What the dual of the hinge loss asks for.
const SVM_OBJECTIVE: &str =
    "an svm needs --l2 above 0, and where it has a bias neither --family sum nor --no-regularise-bias";

/// Steps of a network on its way to an optimum, at most.
const NETWORK_STEPS: usize = 20_000;

/// What training gave.
pub struct Trained {
    /// The model with its parameters.
    pub model: Model,
    /// How it went.
    pub report: FitReport,
    /// The dual variables of an svm, to retrain from.
    pub duals: Vec<f64>,
}

/// A trainer of one kind of model.
pub struct Trainer {
    kind: Kind,
    /// Gradient norm to reach; for an svm the distance to the optimum.
    pub tolerance: f64,
}

impl Trainer {
    /// Trains `kind` to `tolerance`, or to the default of the kind.
    pub fn new(kind: &Kind, tolerance: Option<f64>) -> Self {
        let default = if matches!(kind, Kind::Svm { .. }) { 1e-6 } else { 1e-8 };
        Self { kind: kind.clone(), tolerance: tolerance.unwrap_or(default) }
    }

    /// Trains on `train` from zero, or from `init`, on `backend`.
    ///
    /// # Errors
    /// Labels that the loss cannot take, settings without an optimum that can be computed, Ctrl-C.
    pub fn train<B: Backend<Elem = f64>>(
        &self,
        backend: &B,
        train: &Data,
        bias: bool,
        settings: RiskSettings,
        init: Option<Model>,
        observer: &dyn Observer,
    ) -> Result<Trained, Failure> {
        let mut model = match init {
            Some(model) => model,
            None => Model {
                kind: self.kind.clone(),
                inputs: train.set.width(),
                outputs: self.kind.outputs_for(train)?,
                bias,
                tensors: Tensors::new(),
            },
        };
        let network = self.training_network(&model.network(backend)?);
        let inputs = Inputs::new(&network, &train.set, usize::MAX).map_err(|e| train.failure(e))?;
        let risk = EmpiricalRisk::new(&network, &inputs, settings)?;
        let start = match model.tensors.is_empty() {
            true => Block::zeros(network.backend(), network.layout(), 1),
            false => network.parameters(&model.tensors)?,
        };
        let mut duals = Vec::new();
        let fit = self.minimise(&risk, &start, &mut duals, observer).map_err(|error| match error {
            ModelError::Unsupported(_) => Failure::input(SVM_OBJECTIVE),
            other => other.into(),
        })?;
        if observer.cancelled() {
            return Err(Failure::Interrupted);
        }
        model.tensors = network.state(&fit.theta);
        Ok(Trained { model, report: fit.report, duals })
    }

    /// The network under the loss that training minimises.
    pub fn training_network<B: Backend>(&self, network: &Network<B>) -> Network<B> {
        match self.kind {
            Kind::Svm { .. } => network.with_loss(Loss::Hinge),
            _ => network.clone(),
        }
    }

    /// Minimises `risk` from `start`, or for an svm from `duals`, which come back with the new ones.
    ///
    /// # Errors
    /// An svm without l2 or with a bias that is not regularised.
    pub fn minimise<B: Backend<Elem = f64>>(
        &self,
        risk: &EmpiricalRisk<B>,
        start: &Block<B>,
        duals: &mut Vec<f64>,
        observer: &dyn Observer,
    ) -> Result<Fit<B>, ModelError> {
        match self.kind {
            Kind::Svm { .. } => {
                let svm = HingeSvm { distance_tolerance: self.tolerance, ..HingeSvm::default() };
                svm.minimise(risk, duals, observer)
            }
            Kind::Network(_) => {
                let lbfgs = Lbfgs {
                    gradient_tolerance: self.tolerance,
                    max_iterations: NETWORK_STEPS,
                    ..Lbfgs::default()
                };
                Ok(lbfgs.minimise(risk, start, observer))
            }
            Kind::Linear(_) => {
                let newton = NewtonCg { gradient_tolerance: self.tolerance, ..NewtonCg::default() };
                Ok(newton.minimise(risk, start, observer))
            }
        }
    }
}

/// What is driven to zero, by name.
pub fn optimality_name(kind: &Kind) -> &'static str {
    if matches!(kind, Kind::Svm { .. }) { "distance to the optimum, at most" } else { "gradient norm" }
}

/// What to say where training stopped early; `None` where it reached its tolerance.
pub fn shortfall(kind: &Kind, report: &FitReport) -> Option<String> {
    (!report.converged()).then(|| {
        format!(
            "training stopped after {} iterations at {} {:.1e}, above {:.0e}: raise --l2, scale the features, or ask for less",
            report.iterations,
            optimality_name(kind),
            report.optimality,
            report.tolerance
        )
    })
}
