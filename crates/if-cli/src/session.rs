//! A problem on a device, in one precision, with a solver: what every question starts from.

use std::sync::Arc;

use if_linalg::{Backend, Block, LinearOperator, Observer, Prepared, SolveReport};
use if_methods::{GroupInfluence, Influence};
use if_models::{Curvature, CurvatureOperator, EmpiricalRisk, Inputs, Loss, Network, NewtonCg, Replica};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{MeasureName, SolverName};
use crate::console::Console;
use crate::error::Failure;
use crate::factors::{FactorStore, state_checksum};
use crate::job::{MemoryPlan, Problem, Settings};
use crate::key::common;
use crate::model::{Kind, Prediction, check_shape};
use crate::parse::Damping;
use crate::solver::System;
use crate::source::Data;

/// The network, its parameters and its training examples.
pub struct Session<'a, B: Backend> {
    /// What they were made from.
    pub problem: &'a Problem,
    /// The network.
    pub network: Network<B>,
    /// Its parameters.
    pub theta: Block<B>,
    /// The training examples.
    pub train: Inputs<B>,
    /// How much of the network counts.
    pub coverage: Coverage,
    /// The same on the other devices of the backend.
    replicas: Vec<Replica<B>>,
    memory: MemoryPlan,
    settings: Settings,
}

/// The layers whose parameters count, and their share of all.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// Their names.
    layers: Vec<String>,
    /// Parameters of these layers.
    covered: usize,
    /// Parameters of the whole network.
    of: usize,
    /// The first number over the second.
    share: f64,
}

impl Coverage {
    fn of<B: Backend>(network: &Network<B>, whole: &Network<B>) -> Self {
        let layers = network.layout().segments().iter().map(|segment| segment.name.clone()).collect();
        let (covered, of) = (network.layout().dim(), whole.layout().dim());
        Self { layers, covered, of, share: covered as f64 / of as f64 }
    }

    /// What to say where some layers are left out.
    fn note(&self) -> Option<String> {
        let Self { layers, covered, of, share } = self;
        let which = if layers.len() == 1 { "layer" } else { "layers" };
        (covered < of).then(|| {
            format!("{which} {}: {covered} of {of} parameters ({:.1} %)", layers.join(", "), 100.0 * share)
        })
    }
}

/// Examples that fit the model, on the device where `budget` bytes hold them.
pub fn inputs<B: Backend>(
    kind: &Kind,
    network: &Network<B>,
    data: &Data,
    budget: usize,
) -> Result<Inputs<B>, Failure> {
    if let Kind::Network(spec) = kind {
        check_shape(spec, data)?;
    }
    Inputs::new(network, &data.set, budget).map_err(|error| data.failure(error))
}

/// The layers that `names` say, all where there are none.
pub fn select<B: Backend>(
    network: &Network<B>,
    theta: Block<B>,
    names: &[String],
) -> Result<(Network<B>, Block<B>), Failure> {
    if names.is_empty() {
        return Ok((network.clone(), theta));
    }
    let last = network.last_layer().unwrap_or_default();
    let known = |name: &str| network.layout().segments().iter().any(|segment| segment.name == name);
    let names: Vec<&str> = names
        .iter()
        .map(|name| name.trim())
        .map(|name| if name == "last" && !known(name) { last } else { name })
        .collect();
    network.select(&theta, &names).map_err(|error| Failure::input(format!("--layers: {error}")))
}

/// How near the weights are to an optimum of the objective.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Optimality {
    /// `J`, in units of the mean loss.
    pub objective: f64,
    /// `|grad J|`.
    pub gradient_norm: f64,
    /// `|grad J|` over `mean |grad l_i| + |l2 theta|`, the largest it could be: 0 at an optimum, 1
    /// where nothing is balanced.
    pub relative: f64,
}

/// Above this relative gradient norm a user is told.
const NOT_AN_OPTIMUM: f64 = 1e-3;
/// At the optimum of the hinge, examples on the margin pull with any strength between none and full,
/// and in the smooth hinge with half of it: the gradient of the latter is not zero there.
const NOT_AN_OPTIMUM_SVM: f64 = 0.1;

impl<'a, B: Backend> Session<'a, B> {
    /// Brings `problem` to the device; `queries` solves share a block.
    pub fn open(
        backend: &B,
        problem: &'a Problem,
        settings: &Settings,
        queries: usize,
    ) -> Result<Self, Failure> {
        let on = |backend: &B| -> Result<_, Failure> {
            let (whole, theta) = problem.model.build(backend)?;
            let (network, theta) = select(&whole, theta, &settings.layers)?;
            Ok((whole, network, theta))
        };
        let (whole, network, theta) = on(backend)?;
        let coverage = Coverage::of(&network, &whole);
        let features = problem.train.set.features();
        let memory = MemoryPlan::new(&network, features, queries, &settings.solver, settings.memory_budget);
        let loaded =
            |network: &Network<B>| inputs(&problem.model.kind, network, &problem.train, memory.resident);
        let train = loaded(&network)?;
        let replica = |peer: &B| -> Result<_, Failure> {
            let (_, network, _) = on(peer)?;
            let inputs = Arc::new(loaded(&network)?);
            Ok(Replica { network, inputs })
        };
        let replicas = backend.peers().iter().map(replica).collect::<Result<_, _>>()?;
        Ok(Self { problem, network, theta, train, coverage, replicas, memory, settings: settings.clone() })
    }

    /// Other examples for the same network.
    pub fn inputs(&self, data: &Data) -> Result<Inputs<B>, Failure> {
        // A few queries; whatever there are, they are streamed past what the training examples left.
        inputs(&self.problem.model.kind, &self.network, data, self.memory.cache)
    }

    /// The network under what is explained of queries.
    pub fn measured(&self, measure: MeasureName) -> Result<Network<B>, Failure> {
        measure.network(&self.network)
    }

    /// Prepares the solver, says what there is to say, and hands `body` the objective and the method.
    pub fn influence<R>(
        &self,
        console: &Console,
        body: impl FnOnce(&EmpiricalRisk<B>, Influence<B>) -> Result<R, Failure>,
    ) -> Result<(R, Optimality), Failure> {
        self.solved(console, |risk, _, prepared| body(risk, self.method(risk, prepared)))
    }

    /// The same for parameters that the command has moved from where they were given: nothing is said of them.
    pub fn influence_on_the_way<R>(
        &self,
        console: &Console,
        body: impl FnOnce(Influence<B>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.prepared(console, |risk, _, prepared| body(self.method(risk, prepared)))
    }

    fn method<'r>(
        &'r self,
        risk: &'r EmpiricalRisk<'r, B>,
        prepared: Option<&'r dyn Prepared<B>>,
    ) -> Influence<'r, B> {
        let method = match prepared {
            Some(prepared) => Influence::new(risk, &self.theta, prepared),
            None => Influence::of_identity(risk, &self.theta),
        };
        method.with_replicas(&self.replicas)
    }

    /// The same for methods that remove groups.
    pub fn groups<R>(
        &self,
        console: &Console,
        body: impl FnOnce(GroupInfluence<B>) -> Result<R, Failure>,
    ) -> Result<(R, Optimality), Failure> {
        let Settings { tolerance, max_iterations, .. } = self.settings;
        self.solved(console, |_, operator, prepared| {
            let prepared = prepared.expect("the identity predicts no changes, and was refused");
            body(GroupInfluence::new(operator, prepared).with_newton(tolerance, max_iterations))
        })
    }

    /// Prepares the solver, says what there is to say, and hands `body` the objective, the system and the solver;
    /// no solver for the identity.
    pub fn solved<R>(
        &self,
        console: &Console,
        body: impl FnOnce(
            &EmpiricalRisk<B>,
            &CurvatureOperator<B>,
            Option<&dyn Prepared<B>>,
        ) -> Result<R, Failure>,
    ) -> Result<(R, Optimality), Failure> {
        self.prepared(console, |risk, operator, prepared| {
            let preparation = operator.products();
            let optimality = self.checked(risk, console)?;
            if self.settings.damping == Damping::Auto && prepared.is_some() {
                console.note(&format!(
                    "--damping auto: {:.3e}, a tenth of the mean eigenvalue{}",
                    operator.damping_beside_l2(),
                    if self.settings.curvature == Curvature::Hessian {
                        " of the Gauss-Newton matrix"
                    } else {
                        ""
                    }
                ));
            }
            let found = body(risk, operator, prepared)?;
            // Not earlier: input that is refused gets one line and no more.
            if preparation > 0.0 {
                console.note(&format!(
                    "products with the curvature before the first solve, for the solver and the eigenvalues in certificates: {}, once for all queries",
                    preparation.ceil()
                ));
            }
            Ok((found, optimality))
        })
    }

    /// The objective, the system and the solver, with nothing said of them.
    fn prepared<R>(
        &self,
        console: &Console,
        body: impl FnOnce(
            &EmpiricalRisk<B>,
            &CurvatureOperator<B>,
            Option<&dyn Prepared<B>>,
        ) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let Settings { risk: settings, curvature, .. } = self.settings.clone();
        let risk = EmpiricalRisk::new(&self.network, &self.train, settings)?;
        let damping = self.settings.damping_of(&risk, &self.theta, console);
        // Only repeats of LiSSA are shared; a step of one takes a batch, for which nothing is kept.
        let lissa = self.settings.solver.name == SolverName::Lissa;
        let sharing = if lissa { &self.replicas[..] } else { &[] };
        let others = sharing.iter().map(|Replica { network, inputs }| {
            let theta = self.theta.to(network.backend());
            Ok((EmpiricalRisk::new(network, inputs, settings)?, theta))
        });
        let others = others.collect::<Result<Vec<_>, Failure>>()?;
        let replicas: Vec<_> =
            others.iter().map(|(risk, theta)| risk.operator(theta, curvature, damping, 0)).collect();
        let operator =
            risk.operator(&self.theta, curvature, damping, self.memory.cache).with_replicas(&replicas);
        // A factorisation can take minutes.
        console.progress("preparing the solver", 0, 1);
        let store = self.store();
        let system = System {
            risk: &risk,
            theta: &self.theta,
            curvature,
            operator: &operator,
            store: &store,
            console,
        };
        let solver = self.settings.solver.build(&system, self.settings.limits())?;
        let prepared = solver.as_ref().map(|solver| solver.prepare(&operator)).transpose()?;
        if console.cancelled() {
            return Err(Failure::Interrupted);
        }
        body(&risk, &operator, prepared.as_deref())
    }

    /// Hands `body` the objective and the curvature without damping, where a method brings its own way to solve.
    pub fn curvature<R>(
        &self,
        console: &Console,
        body: impl FnOnce(&EmpiricalRisk<B>, &dyn LinearOperator<B>) -> Result<R, Failure>,
    ) -> Result<(R, Optimality), Failure> {
        let Settings { risk, curvature, .. } = self.settings.clone();
        let risk = EmpiricalRisk::new(&self.network, &self.train, risk)?;
        let operator = risk.operator(&self.theta, curvature, 0.0, self.memory.cache);
        let optimality = self.checked(&risk, console)?;
        Ok((body(&risk, &operator)?, optimality))
    }

    /// Refuses weights at which nothing is finite, and says what there is to say about the others.
    fn checked(&self, risk: &EmpiricalRisk<B>, console: &Console) -> Result<Optimality, Failure> {
        let optimality = self.optimality(risk);
        if !optimality.gradient_norm.is_finite() {
            return Err(Failure::input(format!(
                "{}: the gradient of the objective is not finite at these weights: expected features and weights of ordinary size",
                self.problem.train.source.origin
            )));
        }
        // Not earlier: input that is refused gets one line and no more.
        for text in self.memory.note().into_iter().chain(self.coverage.note()) {
            console.note(&text);
        }
        if let Some(text) = self.settings.solver.note(self.settings.damping) {
            console.note(&text);
        }
        for text in &self.settings.idle {
            console.note(text);
        }
        if let Some(text) = self.not_at_optimum(optimality) {
            console.warn(&text);
        }
        Ok(optimality)
    }

    /// Where fits are kept.
    fn store(&self) -> FactorStore {
        FactorStore::new(self.settings.run.as_deref(), || self.key())
    }

    /// What all that is computed in this session depends on, how systems are solved apart.
    pub fn key(&self) -> Value {
        let Problem { model, train, .. } = self.problem;
        let (whole, theta) = model.build(self.network.backend()).expect("it was built before");
        let layers = self.network.layout().segments().iter().map(|segment| &segment.name);
        let mut key = common(&model.kind, train, &self.settings.device, self.settings.precision);
        key["weights"] = json!(state_checksum(&whole, &theta));
        key["layers"] = json!(layers.collect::<Vec<_>>());
        key
    }

    /// How near the weights are to an optimum.
    fn optimality(&self, risk: &EmpiricalRisk<B>) -> Optimality {
        let (objective, gradient) = risk.gradient(&self.theta);
        let gradient_norm = gradient.norms()[0];
        let mut penalty = Block::zeros(self.network.backend(), self.network.layout(), 1);
        risk.add_l2(&self.theta, &mut penalty);
        let norms = self.network.gradient_norms(&self.train, &self.theta);
        let scale = norms.iter().sum::<f64>() / norms.len() as f64 + penalty.norms()[0];
        let relative = if gradient_norm == 0.0 { 0.0 } else { gradient_norm / scale };
        Optimality { objective, gradient_norm, relative }
    }

    /// What to say about weights that are not at an optimum.
    fn not_at_optimum(&self, found: Optimality) -> Option<String> {
        let (limit, remedy) = match self.problem.model.kind {
            Kind::Linear(_) => (NOT_AN_OPTIMUM, "check --l2, or finish with `influence train --init`"),
            Kind::Svm { .. } => (NOT_AN_OPTIMUM_SVM, "check --l2, or train with `influence train`"),
            Kind::Network(_) => (NOT_AN_OPTIMUM, "check --l2, train longer, or raise --damping"),
        };
        // What training itself would accept is fine, however small the gradients are that balance there.
        let fine = found.relative <= limit || found.gradient_norm <= NewtonCg::default().gradient_tolerance;
        (!fine).then(|| {
            format!(
                "the weights are not at an optimum of this objective: gradient norm {:.1e}, {:.1} % of the gradients that should cancel; scores assume an optimum: {remedy}",
                found.gradient_norm,
                100.0 * found.relative
            )
        })
    }

    /// What the model says about every example of `inputs`, which come from `labels`.
    pub fn predictions(&self, inputs: &Inputs<B>) -> Vec<Prediction> {
        let outputs = self.network.example_outputs(inputs, &self.theta);
        predictions(self.network.loss(), &outputs, self.network.outputs(), self.problem.train.set.labels())
    }
}

/// Rows of outputs as predictions; `labels` are those of the training examples.
pub fn predictions(loss: Loss, outputs: &[f64], width: usize, labels: &[f64]) -> Vec<Prediction> {
    outputs.chunks_exact(width).map(|row| Prediction::new(loss, row, labels)).collect()
}

/// Whether the label of every example is predicted.
pub fn right<B: Backend>(
    network: &Network<B>,
    theta: &Block<B>,
    inputs: &Inputs<B>,
    labels: &[f64],
) -> Vec<bool> {
    let outputs = network.example_outputs(inputs, theta);
    let found = predictions(network.loss(), &outputs, network.outputs(), labels);
    found.iter().zip(labels).map(|(found, label)| same(found.label, *label)).collect()
}

/// The negative class may be called 0 in one file and -1 in another.
fn same(a: f64, b: f64) -> bool {
    a == b || (a <= 0.0 && b <= 0.0 && (a == -1.0 || b == -1.0))
}

/// Part of `flags` that is true.
pub fn share(flags: &[bool]) -> f64 {
    flags.iter().filter(|flag| **flag).count() as f64 / flags.len() as f64
}

/// Names queries that carry a flag on stderr; whether there are any. Approximations carry none, but are named as such,
/// with a warning where they solve nothing.
pub fn report_flags<I: ToString>(report: &SolveReport, ids: &[I], what: &str, console: &Console) -> bool {
    match report {
        _ if report.all_converged() || !report.none_failed() => {}
        _ if report.any_leaves_more() => console.warn(&report.summary()),
        _ => console.note(&report.summary()),
    }
    let flagged: Vec<String> = report
        .columns
        .iter()
        .zip(ids)
        .filter(|(column, _)| column.termination.is_failure())
        .map(|(_, id)| id.to_string())
        .collect();
    if flagged.is_empty() {
        return false;
    }
    console.warn(&format!("{}; {what} {}", report.summary(), some(&flagged)));
    true
}

/// Names the queries, by number, of which a score is not finite; whether there are any.
pub fn report_undefined<I: ToString>(undefined: &[usize], ids: &[I], console: &Console) -> bool {
    let names: Vec<String> = undefined.iter().map(|query| ids[*query].to_string()).collect();
    if names.is_empty() {
        return false;
    }
    console.warn(&format!(
        "scores of {} of {} queries are not finite: features or weights are not of ordinary size; queries {}",
        names.len(),
        ids.len(),
        some(&names)
    ));
    true
}

/// The first names, and how many more there are.
fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(10)].join(", ");
    if names.len() > 10 { format!("{shown} and {} more", names.len() - 10) } else { shown }
}
