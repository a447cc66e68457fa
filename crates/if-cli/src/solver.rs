//! From the name of a solver and its settings to the solver.

use std::sync::Arc;

use if_linalg::{
    Approximate, Approximation, BlockCg, Cg, Cholesky, Cpu, Kronecker, LinearOperator, PreconditionedCg,
    Real, Solver,
};
use if_models::{Curvature, EmpiricalRisk, LabelExpectation};
use serde::Serialize;
use serde_json::json;

use crate::args::{LabelsName, PreconditionerName, PresetName, SolveArgs, SolverName};
use crate::console::Console;
use crate::error::Failure;
use crate::factors::{FactorStore, kronecker_factors, kronecker_tensors};

/// Which solver, and what only some solvers take.
#[derive(Clone, Debug, Serialize)]
pub struct SolverSettings {
    /// The solver.
    #[serde(rename = "solver")]
    pub name: SolverName,
    #[serde(skip_serializing_if = "Option::is_none")]
    preconditioner: Option<PreconditionerName>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    per_layer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelsName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<PresetName>,
    /// Of everything random.
    #[serde(rename = "solver_seed")]
    seed: u64,
}

/// What bounds an iteration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// True relative residual to reach.
    pub tolerance: f64,
    /// Iterations at most.
    pub max_iterations: usize,
    /// Bytes that explicit matrices may take.
    pub memory_budget: usize,
}

/// The system, as solvers that know the model see it.
pub struct System<'s, 'r, T: Real> {
    /// The objective.
    pub risk: &'s EmpiricalRisk<'r, Cpu<T>>,
    /// Where its curvature is taken.
    pub theta: &'s if_linalg::Block<Cpu<T>>,
    /// Which curvature.
    pub curvature: Curvature,
    /// The operator, damping included.
    pub operator: &'s dyn LinearOperator<Cpu<T>>,
}

impl SolverSettings {
    /// # Errors
    /// A setting that the solver does not take.
    pub fn new(solve: &SolveArgs, default: SolverName) -> Result<Self, Failure> {
        let own = &solve.own;
        let settings = Self {
            name: solve.solver.unwrap_or(default),
            preconditioner: own.preconditioner.filter(|name| *name != PreconditionerName::None),
            per_layer: own.per_layer,
            rank: own.rank,
            labels: own.labels,
            depth: own.depth,
            repeats: own.repeats,
            scale: own.scale,
            batch: own.batch,
            preset: own.preset,
            seed: own.solver_seed.unwrap_or(0),
        };
        settings.refuse_foreign()?;
        Ok(settings)
    }

    /// What is given must be used.
    fn refuse_foreign(&self) -> Result<(), Failure> {
        use PreconditionerName as P;
        use SolverName as S;
        let solver = |names: &[SolverName]| names.contains(&self.name);
        let preconditioner = |names: &[P]| self.preconditioner.is_some_and(|name| names.contains(&name));
        let lissa = solver(&[S::Lissa]);
        let statistics =
            solver(&[S::Kfac, S::Ekfac, S::Diagonal]) || preconditioner(&[P::Diagonal, P::Kfac, P::Ekfac]);
        let low_rank = solver(&[S::Nystroem, S::Arnoldi]) || preconditioner(&[P::Nystroem]);
        let foreign = [
            (self.preconditioner.is_some() && !solver(&[S::Cg]), "--preconditioner", "--solver cg"),
            (self.per_layer && !solver(&[S::Cholesky]), "--per-layer", "--solver cholesky"),
            (self.rank.is_some() && !low_rank, "--rank", "nystroem and arnoldi"),
            (self.labels.is_some() && !statistics, "--labels", "kfac, ekfac and diagonal"),
            (self.depth.is_some() && !lissa, "--depth", "--solver lissa"),
            (self.repeats.is_some() && !lissa, "--repeats", "--solver lissa"),
            (self.batch.is_some() && !lissa, "--batch", "--solver lissa"),
            (self.preset.is_some() && !lissa, "--preset", "--solver lissa"),
            (
                self.scale.is_some() && !solver(&[S::Lissa, S::Neumann]),
                "--scale",
                "--solver lissa and neumann",
            ),
        ];
        match foreign.into_iter().find_map(|(wrong, option, owner)| wrong.then_some((option, owner))) {
            Some((option, owner)) => Err(Failure::input(format!("{option} belongs to {owner}"))),
            None => Ok(()),
        }
    }

    /// The damping of a preset, translated; else none.
    pub fn published_damping(&self) -> f64 {
        0.0
    }

    /// The solver; statistics come from the store or are fitted now.
    ///
    /// # Errors
    /// A solver that cannot work on this system.
    pub fn build<'s, T: Real>(
        &self,
        system: &System<'s, '_, T>,
        limits: Limits,
        store: &FactorStore,
        console: &Console,
    ) -> Result<Box<dyn Solver<Cpu<T>> + 's>, Failure> {
        let Limits { tolerance, max_iterations, memory_budget } = limits;
        let cg = Cg { tolerance, max_iterations };
        let approximate = |approximation| -> Box<dyn Solver<Cpu<T>> + 's> {
            Box::new(Approximate { approximation, tolerance })
        };
        Ok(match self.name {
            SolverName::Cg => match self.preconditioner {
                None | Some(PreconditionerName::None) => Box::new(cg),
                Some(name) => {
                    let preconditioner = self.preconditioner(name, system, store, console)?;
                    Box::new(PreconditionedCg { cg, preconditioner })
                }
            },
            SolverName::BlockCg => Box::new(BlockCg { tolerance, max_iterations }),
            SolverName::Cholesky => Box::new(Cholesky { tolerance, memory_budget }),
            SolverName::Kfac | SolverName::Ekfac | SolverName::Diagonal => {
                approximate(self.kronecker(self.name, system, store, console)?)
            }
            _ => todo!(),
        })
    }

    fn preconditioner<'s, T: Real>(
        &self,
        name: PreconditionerName,
        system: &System<'s, '_, T>,
        store: &FactorStore,
        console: &Console,
    ) -> Result<Box<dyn Approximation<Cpu<T>> + 's>, Failure> {
        match name {
            PreconditionerName::Diagonal => self.kronecker(SolverName::Diagonal, system, store, console),
            PreconditionerName::Kfac => self.kronecker(SolverName::Kfac, system, store, console),
            PreconditionerName::Ekfac => self.kronecker(SolverName::Ekfac, system, store, console),
            PreconditionerName::Nystroem | PreconditionerName::None => todo!(),
        }
    }

    /// K-FAC, EK-FAC or the diagonal.
    fn kronecker<'s, T: Real>(
        &self,
        name: SolverName,
        system: &System<'s, '_, T>,
        store: &FactorStore,
        console: &Console,
    ) -> Result<Box<dyn Approximation<Cpu<T>> + 's>, Failure> {
        let (network, inputs, theta) = (system.risk.network(), system.risk.inputs(), system.theta);
        let expectation = match (self.labels, system.curvature) {
            (Some(_), Curvature::Fisher) => {
                return Err(Failure::input(
                    "--labels: the empirical Fisher matrix of --curvature fisher takes the labels as they are",
                ));
            }
            (Some(LabelsName::Exact), _) => LabelExpectation::Exact,
            (Some(LabelsName::Sampled), _) => LabelExpectation::Sampled { seed: self.seed },
            (None, curvature) => LabelExpectation::of(curvature, network.outputs(), self.seed),
        };
        let (name, fit): (_, fn(&_, &_, &_, _) -> _) = match name {
            SolverName::Kfac => ("kfac", if_models::Network::kfac),
            SolverName::Ekfac => ("ekfac", if_models::Network::ekfac),
            _ => ("diagonal", if_models::Network::diagonal),
        };
        let factors = store.get(
            name,
            json!({ "labels": expectation }),
            (
                |tensors: &_| kronecker_factors(network.backend(), network.layout(), tensors),
                kronecker_tensors,
            ),
            || Ok(fit(network, inputs, theta, expectation)),
            console,
        )?;
        Ok(Box::new(Kronecker { name, factors: Arc::new(factors) }))
    }
}
