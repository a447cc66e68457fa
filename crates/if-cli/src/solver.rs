//! From the name of a solver and its settings to the solver.

use std::convert::Infallible;
use std::sync::Arc;

use if_linalg::{
    Approximate, Approximation, Arnoldi, Backend, BlockCg, Cg, Cholesky, Complement, Dual, Eigen, Kronecker,
    LayerBlocks, LinearOperator, Lissa, LowRankFactors, LowRankInverse, Neumann, Nystroem, PreconditionedCg,
    PublishedLissa, Solver, Termination,
};
use if_models::{Curvature, DataInf, EmpiricalRisk, GaussNewtonRoot, LabelExpectation};
use serde::Serialize;
use serde_json::json;

use crate::args::{LabelsName, PreconditionerName, PresetName, SolveArgs, SolverName};
use crate::console::Console;
use crate::error::Failure;
use crate::factors::{FactorStore, kronecker_factors, kronecker_tensors, low_rank_factors, low_rank_tensors};
use crate::parse::Damping;

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
pub struct System<'s, 'r, B: Backend> {
    /// The objective.
    pub risk: &'s EmpiricalRisk<'r, B>,
    /// Where its curvature is taken.
    pub theta: &'s if_linalg::Block<B>,
    /// Which curvature.
    pub curvature: Curvature,
    /// The operator, damping included.
    pub operator: &'s dyn LinearOperator<B>,
    /// Where fits are kept.
    pub store: &'s FactorStore,
    /// Told what is taken from there.
    pub console: &'s Console,
}

impl<'s, 'r, B: Backend> System<'s, 'r, B> {
    /// The root of its Gauss-Newton matrix.
    fn root(&self) -> Result<GaussNewtonRoot<'s, 'r, B>, Failure> {
        let gauss_newton = self.curvature == Curvature::GaussNewton
            || (self.curvature == Curvature::Hessian && self.risk.network().is_linear());
        if !gauss_newton {
            return Err(Failure::input(format!(
                "--solver dual: expected --curvature gauss-newton, or the Hessian of a linear model, found {}",
                self.curvature.name()
            )));
        }
        Ok(GaussNewtonRoot::new(self.risk, self.theta))
    }
}

/// Rank of sketches by default.
const RANK: usize = 200;
/// Blocks of repeats x queries vectors that LiSSA holds, and of rank vectors that a sketch does.
const LISSA_BLOCKS: usize = 5;
const SKETCH_BLOCKS: usize = 6;
/// Repeats of LiSSA by default.
const REPEATS: usize = 4;

impl SolverSettings {
    /// The solver `name` as it goes by itself.
    pub fn plain(name: SolverName) -> Self {
        Self {
            name,
            preconditioner: None,
            per_layer: false,
            rank: None,
            labels: None,
            depth: None,
            repeats: None,
            scale: None,
            batch: None,
            preset: None,
            seed: 0,
        }
    }

    /// # Errors
    /// A setting that the solver does not take.
    pub fn new(solve: &SolveArgs, default: SolverName) -> Result<Self, Failure> {
        let own = &solve.own;
        let name = solve.solver.unwrap_or(default);
        let mut settings = Self {
            preconditioner: own.preconditioner,
            per_layer: own.per_layer,
            rank: own.rank,
            labels: own.labels,
            depth: own.depth,
            repeats: own.repeats,
            scale: own.scale,
            batch: own.batch,
            preset: own.preset,
            seed: own.solver_seed.unwrap_or(0),
            ..Self::plain(name)
        };
        settings.refuse_foreign()?;
        // Records name what is used.
        if settings.sketches() {
            settings.rank = Some(settings.rank());
        }
        if name == SolverName::Lissa && settings.preset.is_none() {
            settings.repeats = Some(settings.repeats.unwrap_or(REPEATS));
        }
        Ok(settings)
    }

    /// Whether it has a rank.
    fn sketches(&self) -> bool {
        matches!(self.name, SolverName::Nystroem | SolverName::Arnoldi)
            || self.preconditioner == Some(PreconditionerName::Nystroem)
    }

    /// Whether it has statistics of the network's layers.
    fn has_statistics(&self) -> bool {
        use PreconditionerName as P;
        use SolverName as S;
        matches!(self.name, S::Kfac | S::Ekfac | S::Diagonal)
            || matches!(self.preconditioner, Some(P::Diagonal | P::Kfac | P::Ekfac))
    }

    /// Whether it fits what a run directory keeps.
    fn fits(&self) -> bool {
        self.has_statistics() || self.sketches()
    }

    /// What is given must be used.
    fn refuse_foreign(&self) -> Result<(), Failure> {
        use SolverName as S;
        let solver = |names: &[SolverName]| names.contains(&self.name);
        let lissa = solver(&[S::Lissa]);
        let foreign = [
            (self.preconditioner.is_some() && !solver(&[S::Cg]), "--preconditioner", "--solver cg"),
            (self.per_layer && !solver(&[S::Cholesky]), "--per-layer", "--solver cholesky"),
            (self.rank.is_some() && !self.sketches(), "--rank", "nystroem and arnoldi"),
            (self.labels.is_some() && !self.has_statistics(), "--labels", "kfac, ekfac and diagonal"),
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

    /// What `solve` gives that the solver has no use for, and why. Nothing is refused, so that one list of settings can
    /// go through all solvers.
    pub fn idle(&self, solve: &SolveArgs) -> Vec<&'static str> {
        use SolverName as S;
        let nothing_solved = self.name == S::Identity;
        let iterates = matches!(self.name, S::Cg | S::BlockCg | S::Neumann);
        let solves = self.is_exact() || self.name == S::Lissa;
        let may_sample = self.has_statistics() && self.labels != Some(LabelsName::Exact);
        let idle = [
            (solve.run.is_some() && !self.fits(), "--run: this solver fits nothing that could be kept"),
            (
                solve.own.solver_seed.is_some() && !(self.sketches() || may_sample || self.name == S::Lissa),
                "--solver-seed: this solver draws nothing",
            ),
            (solve.damping.is_some() && nothing_solved, "--damping: identity solves nothing"),
            (solve.curvature.is_some() && nothing_solved, "--curvature: identity solves nothing"),
            (
                solve.max_iterations.is_some() && self.name == S::Lissa,
                "--max-iterations: lissa goes by --depth",
            ),
            (
                solve.max_iterations.is_some() && !iterates && self.name != S::Lissa,
                "--max-iterations: this solver does not iterate",
            ),
            (
                solve.tolerance.is_some() && !solves,
                "--tolerance: this solver approximates, and does not go on until a residual is reached",
            ),
        ];
        idle.into_iter().filter_map(|(given, text)| given.then_some(text)).collect()
    }

    /// Whether it solves to a tolerance, and does not only approximate.
    pub fn is_exact(&self) -> bool {
        use SolverName as S;
        matches!(self.name, S::Cg | S::BlockCg | S::Eigen | S::Dual | S::Neumann)
            || (self.name == S::Cholesky && !self.per_layer)
    }

    /// The curvature that the solver is of, where it is of one only; else the Hessian.
    pub fn own_curvature(&self) -> Curvature {
        match self.name {
            SolverName::Datainf => Curvature::Fisher,
            SolverName::Dual | SolverName::Kfac | SolverName::Ekfac | SolverName::Diagonal => {
                Curvature::GaussNewton
            }
            _ => Curvature::Hessian,
        }
    }

    /// Vectors of `dim` parameters that it holds beside those of conjugate gradients, for `queries` at once.
    pub fn vectors(&self, queries: usize, dim: usize) -> usize {
        match self.name {
            // The tolerance has no vectors.
            SolverName::Lissa => LISSA_BLOCKS * self.lissa(0.0).repeats * queries,
            _ if self.sketches() => SKETCH_BLOCKS * self.rank().min(dim),
            _ => 0,
        }
    }

    /// The damping of a preset, translated; else none.
    pub fn published_damping(&self) -> f64 {
        self.published().map_or(0.0, |published| published.effective_damping())
    }

    /// What to say about a preset that is solved with `damping`.
    pub fn note(&self, damping: Damping) -> Option<String> {
        let PublishedLissa { name, scale, damping: published, .. } = self.published()?;
        let effective = self.published_damping();
        let mut text = format!(
            "--preset {name}: published scale {scale} and damping {published} mean a damping of {effective}, their product"
        );
        let overridden = [
            ("--damping", damping != Damping::Number(effective)),
            ("--scale", self.scale.is_some()),
            ("--depth", self.depth.is_some()),
            ("--repeats", self.repeats.is_some()),
            ("--batch", self.batch.is_some()),
        ];
        let given: Vec<&str> = overridden.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if !given.is_empty() {
            text += &format!("; {} as given instead", given.join(", "));
            if damping == Damping::Number(effective) {
                text += &format!(", with that damping of {effective}");
            }
        }
        Some(text)
    }

    fn published(&self) -> Option<PublishedLissa> {
        Some(match self.preset? {
            PresetName::KohLiang => PublishedLissa::KOH_LIANG,
            PresetName::FastifMnli => PublishedLissa::FASTIF_MNLI,
            PresetName::FastifHans => PublishedLissa::FASTIF_HANS,
            PresetName::FastifAnli => PublishedLissa::FASTIF_ANLI,
        })
    }

    /// The preset or nothing, with what is given in its place.
    fn lissa(&self, tolerance: f64) -> Lissa {
        let seed = self.seed;
        let plain = Lissa { tolerance, depth: None, repeats: REPEATS, scale: None, batch: None, seed };
        let base = self.published().map_or(plain, |published| published.solver(tolerance, seed));
        Lissa {
            depth: self.depth.or(base.depth),
            repeats: self.repeats.unwrap_or(base.repeats),
            scale: self.scale.or(base.scale),
            batch: self.batch.or(base.batch),
            ..base
        }
    }

    /// The solver, none for the identity; statistics come from the store or are fitted now.
    ///
    /// # Errors
    /// A solver that cannot work on this system.
    pub fn build<'s, B: Backend>(
        &self,
        system: &System<'s, '_, B>,
        limits: Limits,
    ) -> Result<Option<Box<dyn Solver<B> + 's>>, Failure> {
        let Limits { tolerance, max_iterations, memory_budget } = limits;
        if let Some(solver) = self.unfitted(limits) {
            return Ok(Some(solver));
        }
        let approximate =
            |approximation| -> Box<dyn Solver<B> + 's> { Box::new(Approximate { approximation, tolerance }) };
        Ok(Some(match self.name {
            SolverName::Dual => Box::new(Dual { root: Arc::new(system.root()?), tolerance, memory_budget }),
            SolverName::Kfac | SolverName::Ekfac | SolverName::Diagonal => {
                approximate(self.kronecker(self.name, system)?)
            }
            SolverName::Datainf if system.curvature != Curvature::Fisher => {
                return Err(Failure::input(format!(
                    "--solver datainf inverts the empirical Fisher matrix: expected --curvature fisher, found {}",
                    system.curvature.name()
                )));
            }
            SolverName::Datainf => approximate(Box::new(DataInf { risk: system.risk, theta: system.theta })),
            SolverName::Nystroem => approximate(self.nystroem(Complement::Zero, system)?),
            SolverName::Arnoldi => approximate(self.arnoldi(system)?),
            SolverName::Identity => return Ok(None),
            _ => {
                let cg = Cg { tolerance, max_iterations };
                let preconditioner = self.preconditioner(system)?;
                let preconditioner = preconditioner.expect("any other solver needs no fit");
                Box::new(PreconditionedCg { cg, preconditioner })
            }
        }))
    }

    /// The solver where nothing is fitted to one system: it can be prepared for any.
    pub fn unfitted<'s, B: Backend>(&self, limits: Limits) -> Option<Box<dyn Solver<B> + 's>> {
        let Limits { tolerance, max_iterations, memory_budget } = limits;
        let plain = matches!(self.preconditioner, None | Some(PreconditionerName::None));
        Some(match self.name {
            SolverName::Cg if plain => Box::new(Cg { tolerance, max_iterations }),
            SolverName::BlockCg => Box::new(BlockCg { tolerance, max_iterations }),
            SolverName::Lissa => Box::new(self.lissa(tolerance)),
            SolverName::Neumann => Box::new(Neumann { tolerance, max_iterations, scale: self.scale }),
            SolverName::Cholesky if self.per_layer => {
                Box::new(Approximate { approximation: Box::new(LayerBlocks { memory_budget }), tolerance })
            }
            SolverName::Cholesky => Box::new(Cholesky { tolerance, memory_budget }),
            SolverName::Eigen => Box::new(Eigen { tolerance, memory_budget }),
            _ => return None,
        })
    }

    fn nystroem<'s, B: Backend>(
        &self,
        complement: Complement,
        system: &System<'s, '_, B>,
    ) -> Result<Box<dyn Approximation<B> + 's>, Failure> {
        let recipe = Nystroem { rank: self.rank(), seed: self.seed, complement };
        self.low_rank("nystroem", complement, || recipe.factors(system.operator), system)
    }

    fn arnoldi<'s, B: Backend>(
        &self,
        system: &System<'s, '_, B>,
    ) -> Result<Box<dyn Approximation<B> + 's>, Failure> {
        // Half as many steps again: the last pairs are inaccurate.
        let recipe = Arnoldi { rank: self.rank(), steps: self.rank() + self.rank() / 2, seed: self.seed };
        self.low_rank("arnoldi", Complement::Dropped, || recipe.factors(system.operator), system)
    }

    /// The inverse of kept or fitted eigenpairs.
    fn low_rank<'s, B: Backend>(
        &self,
        name: &'static str,
        complement: Complement,
        fit: impl FnOnce() -> Result<LowRankFactors<B>, Termination>,
        system: &System<'s, '_, B>,
    ) -> Result<Box<dyn Approximation<B> + 's>, Failure> {
        let (backend, layout) = (system.operator.backend(), system.operator.layout());
        let key = json!({
            "rank": self.rank(),
            "seed": self.seed,
            "curvature": system.curvature,
            "objective": system.risk.settings(),
            "damping": system.operator.damping(),
        });
        let read = |tensors: &_| low_rank_factors(backend, layout, tensors);
        let factors = system.store.get(name, key, (read, low_rank_tensors), fit, system.console)?;
        Ok(Box::new(LowRankInverse { name, factors: factors.map(Arc::new), complement }))
    }

    /// Of sketches.
    fn rank(&self) -> usize {
        self.rank.unwrap_or(RANK)
    }

    fn preconditioner<'s, B: Backend>(
        &self,
        system: &System<'s, '_, B>,
    ) -> Result<Option<Box<dyn Approximation<B> + 's>>, Failure> {
        Ok(Some(match self.preconditioner {
            None | Some(PreconditionerName::None) => return Ok(None),
            Some(PreconditionerName::Diagonal) => self.kronecker(SolverName::Diagonal, system)?,
            Some(PreconditionerName::Kfac) => self.kronecker(SolverName::Kfac, system)?,
            Some(PreconditionerName::Ekfac) => self.kronecker(SolverName::Ekfac, system)?,
            Some(PreconditionerName::Nystroem) => self.nystroem(Complement::Smallest, system)?,
        }))
    }

    /// K-FAC, EK-FAC or the diagonal.
    fn kronecker<'s, B: Backend>(
        &self,
        name: SolverName,
        system: &System<'s, '_, B>,
    ) -> Result<Box<dyn Approximation<B> + 's>, Failure> {
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
        let factors = system.store.get(
            name,
            json!({ "labels": expectation }),
            (
                |tensors: &_| kronecker_factors(network.backend(), network.layout(), tensors),
                kronecker_tensors,
            ),
            || Ok::<_, Infallible>(fit(network, inputs, theta, expectation)),
            system.console,
        )?;
        let Ok(factors) = factors;
        let layers = network.layout().segments().iter().enumerate();
        let without: Vec<&str> =
            layers.filter(|(s, _)| factors.basis(*s).is_none()).map(|(_, layer)| &*layer.name).collect();
        if name != "diagonal" && !without.is_empty() {
            system.console.note(&format!(
                "{name}: {} by the diagonal of the curvature: gradients there are no outer products",
                without.join(", ")
            ));
        }
        Ok(Box::new(Kronecker { name, factors: Arc::new(factors) }))
    }
}
