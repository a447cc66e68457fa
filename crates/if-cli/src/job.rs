//! From arguments to a validated job: settings, model, data, and the memory it may use.

use std::path::PathBuf;

use if_data::Source;
use if_linalg::{Backend, Block, Bytes, Cpu, Observer, Solver};
use if_methods::QUERY_BLOCK;
use if_models::{Curvature, EmpiricalRisk, Family, HostArray, Inputs, Network, Removal, RiskSettings};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{
    CurvatureName, FamilyName, ModelArgs, ObjectiveArgs, Precision, RemovalName, SolveArgs, SolverName,
    WeightsArgs,
};
use crate::console::Console;
use crate::device::Device;
use crate::error::Failure;
use crate::fit::{Trained, Trainer, shortfall};
use crate::model::{Kind, Model};
use crate::parse::Damping;
use crate::solver::{Limits, SolverSettings};
use crate::source::Data;

/// The objective as the risk takes it.
pub fn risk_settings(args: &ObjectiveArgs, removal: RemovalName) -> Result<RiskSettings, Failure> {
    let settings = RiskSettings {
        family: match args.conventions.family {
            FamilyName::Mean => Family::Mean,
            FamilyName::Sum => Family::Sum,
        },
        removal: match removal {
            RemovalName::Fixed => Removal::Fixed,
            RemovalName::Renormalised => Removal::Renormalised,
        },
        l2: args.l2,
        regularise_bias: !args.conventions.no_regularise_bias,
    };
    Ok(settings.validate()?)
}

impl From<CurvatureName> for Curvature {
    fn from(name: CurvatureName) -> Self {
        match name {
            CurvatureName::Hessian => Self::Hessian,
            CurvatureName::GaussNewton => Self::GaussNewton,
            CurvatureName::Fisher => Self::Fisher,
        }
    }
}

/// How influence is computed.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The objective and what removal means.
    #[serde(flatten)]
    pub risk: RiskSettings,
    /// How systems are solved.
    #[serde(flatten)]
    pub solver: SolverSettings,
    /// In units of the curvature.
    pub damping: Damping,
    /// Which second derivative.
    pub curvature: Curvature,
    /// Names of the layers whose parameters count; all where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// True relative residual to reach.
    pub tolerance: f64,
    /// Of conjugate gradients.
    pub max_iterations: usize,
    /// What is given that this solver has no use for, and why.
    #[serde(skip)]
    pub idle: Vec<&'static str>,
    /// Where it is computed.
    pub device: String,
    /// Of the arithmetic.
    pub precision: Precision,
    /// Bytes to keep to; not part of what was computed.
    #[serde(skip)]
    pub memory_budget: usize,
    /// Folder that keeps fits; not part of what was computed.
    #[serde(skip)]
    pub run: Option<PathBuf>,
}

impl Settings {
    /// Fills in the defaults that depend on the precision of `device`.
    pub fn new(
        objective: &ObjectiveArgs,
        solve: &SolveArgs,
        device: &Device,
        solver: SolverName,
    ) -> Result<Self, Failure> {
        let solver = SolverSettings::new(solve, solver)?;
        let tolerance = match device.precision {
            _ if solver.name == SolverName::Lissa => 0.05,
            Precision::F64 => 1e-8,
            Precision::F32 => 1e-4,
            Precision::Tf32 => 1e-3,
            Precision::Bf16 => 1e-2,
        };
        let own_curvature = solver.own_curvature();
        let damping = solve.damping.unwrap_or(Damping::Number(solver.published_damping()));
        Ok(Self {
            risk: risk_settings(objective, solve.removal)?,
            idle: solver.idle(solve),
            solver,
            damping,
            curvature: solve.curvature.map_or(own_curvature, Curvature::from),
            layers: solve.layers.clone(),
            tolerance: solve.tolerance.unwrap_or(tolerance),
            max_iterations: solve.max_iterations.unwrap_or(MAX_ITERATIONS),
            device: device.name.clone(),
            precision: device.precision,
            memory_budget: solve.memory_budget,
            run: solve.run.clone(),
        })
    }

    /// # Errors
    /// A solver whose scores predict no change.
    pub fn need_changes(&self) -> Result<(), Failure> {
        match self.solver.name {
            SolverName::Identity => Err(Failure::input(
                "--solver identity: inner products predict no change of a loss; influence attribute and audit take it",
            )),
            _ => Ok(()),
        }
    }

    /// The damping of this system as a number.
    pub fn damping_of<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
        console: &Console,
    ) -> f64 {
        match self.damping {
            Damping::Number(damping) => damping,
            Damping::Auto if self.solver.name == SolverName::Identity => 0.0,
            Damping::Auto => {
                console.progress("mean eigenvalue", 0, 1);
                risk.auto_damping(theta, self.curvature)
            }
        }
    }

    /// A solver that can be prepared for any system.
    ///
    /// # Errors
    /// One that is fitted to a single system.
    pub fn plain_solver<B: Backend>(&self, method: &str) -> Result<Box<dyn Solver<B>>, Failure> {
        self.solver.unfitted(self.limits()).ok_or_else(|| {
            Failure::input(format!(
                "{method}: expected a solver that is fitted to nothing (cg without preconditioner, block-cg, cholesky, eigen, neumann, lissa)"
            ))
        })
    }

    /// What bounds solves.
    pub fn limits(&self) -> Limits {
        let Self { tolerance, max_iterations, memory_budget, .. } = *self;
        Limits { tolerance, max_iterations, memory_budget }
    }
}

/// Of an iteration, by default.
const MAX_ITERATIONS: usize = 1000;
/// Up to so many parameters a factorisation is cheaper than one solve for each training example.
const CHOLESKY_UP_TO: usize = 10_000;

/// A model with its training examples.
pub struct Problem {
    /// The model.
    pub model: Model,
    /// The training examples.
    pub train: Data,
    /// Where the parameters came from, for records.
    pub weights: Option<String>,
    /// Whether training stopped above its tolerance.
    pub unfinished: bool,
}

impl Problem {
    /// Reads the weights, or trains where there are none.
    pub fn new(
        model: &ModelArgs,
        weights: &WeightsArgs,
        risk: RiskSettings,
        console: &Console,
    ) -> Result<Self, Failure> {
        let kind = Kind::new(model)?;
        let train = Data::load(&model.train, model.label.as_deref())?;
        Self::from_data(kind, train, weights, risk, console)
    }

    /// The same with examples that are loaded already.
    pub fn from_data(
        kind: Kind,
        train: Data,
        weights: &WeightsArgs,
        risk: RiskSettings,
        console: &Console,
    ) -> Result<Self, Failure> {
        if let Some(path) = &weights.weights {
            let model = Model::read(&kind, path, &train)?;
            let weights = Some(path.display().to_string());
            return Ok(Self { model, train, weights, unfinished: false });
        }
        if matches!(kind, Kind::Network(_)) {
            return Err(Failure::input("a network from a file needs its --weights"));
        }
        // The optimum of the whole data is the same for both kinds of removal.
        let trainer = Trainer::new(&kind, None);
        let Trained { model, report, .. } =
            trainer.train(&Cpu::<f64>::new(), &train, !weights.no_bias, risk, None, console)?;
        let shortfall = shortfall(&kind, &report);
        if let Some(text) = &shortfall {
            console.warn(text);
        }
        Ok(Self { model, train, weights: None, unfinished: shortfall.is_some() })
    }

    /// Whether it is a linear model so small that a factorisation is cheaper than many solves.
    pub fn is_small(&self) -> Result<bool, Failure> {
        let network = self.model.network(&Cpu::<f64>::new())?;
        Ok(network.is_linear() && network.layout().dim() <= CHOLESKY_UP_TO)
    }

    /// Refuses another matrix than the Gauss-Newton matrix, which the Hessian of a linear model is, for `what`.
    pub fn need_gauss_newton(&self, settings: &Settings, what: &str) -> Result<(), Failure> {
        let linear = self.model.network(&Cpu::<f64>::new())?.is_linear();
        match settings.curvature {
            Curvature::GaussNewton => Ok(()),
            Curvature::Hessian if linear => Ok(()),
            other => Err(Failure::input(format!(
                "{what}: expected --curvature gauss-newton, found {}",
                other.name()
            ))),
        }
    }

    /// The solver for so many right-hand sides that they had better share.
    pub fn solver_of_many(&self) -> Result<SolverName, Failure> {
        Ok(if self.is_small()? { SolverName::Cholesky } else { SolverName::BlockCg })
    }

    /// Settings and sources, for records.
    pub fn record(&self, name: &str, settings: &Settings, query: Option<&Source>) -> Value {
        let mut record = serde_json::to_value(settings).unwrap_or_default();
        record["model"] = json!(name);
        if let Kind::Svm { temperature } = self.model.kind {
            record["temperature"] = json!(temperature);
        }
        record["weights"] = json!(self.weights);
        record["train"] = json!(self.train.source.to_string());
        if let Some(query) = query {
            record["query"] = json!(query.to_string());
        }
        record
    }
}

/// What may stay in memory between passes. It decides speed only, never a bit of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Bytes to keep to.
    budget: usize,
    /// Bytes that no budget can avoid.
    minimum: usize,
    /// Bytes for the converted training examples; they are converted anew in each pass where these
    /// are too few.
    pub resident: usize,
    /// Bytes for activations kept between products.
    pub cache: usize,
}

impl MemoryPlan {
    /// Divides the budget: first what cannot be avoided, then converted features, then activations.
    pub fn new<B: Backend>(
        network: &Network<B>,
        train: &HostArray,
        queries: usize,
        solver: &SolverSettings,
        budget: usize,
    ) -> Self {
        let dim = network.layout().dim();
        let vectors = solver.vectors(queries.min(QUERY_BLOCK), dim).saturating_mul(dim);
        let minimum =
            minimum(network, train, queries).saturating_add(vectors.saturating_mul(size_of::<B::Elem>()));
        let resident = budget.saturating_sub(minimum);
        let features = Inputs::<B>::resident_bytes(train.rows(), train.width());
        let cache = if features <= resident { resident - features } else { resident };
        Self { budget, minimum, resident, cache }
    }

    /// What to say where the budget is too small.
    pub fn note(&self) -> Option<String> {
        (self.minimum > self.budget).then(|| {
            format!(
                "about {} are needed at the least, more than --memory-budget {}; going on with the least",
                Bytes(self.minimum),
                Bytes(self.budget)
            )
        })
    }
}

/// Vectors of a block solve that are alive at once: right-hand sides, solution, and the four of
/// conjugate gradients with a copy each while columns leave.
const SOLVE_VECTORS: usize = 10;

/// Bytes that no budget can avoid: the stored examples (twice while they are streamed), one block of
/// solves, one block of score rows, and what passes have in hand.
fn minimum<B: Backend>(network: &Network<B>, train: &HostArray, queries: usize) -> usize {
    let stored = match train {
        HostArray::U8(a) => a.len(),
        HostArray::F32(a) => 4 * a.len(),
        HostArray::F64(a) => 8 * a.len(),
    };
    let (block, n) = (queries.min(QUERY_BLOCK), train.rows());
    let solves = SOLVE_VECTORS * block * network.layout().dim();
    2 * stored + size_of::<B::Elem>() * (solves + 3 * block * n) + network.bytes_in_hand(n, block)
}
