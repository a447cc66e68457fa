//! `influence attribute` by methods that solve nothing: TracIn over checkpoints or ideal, TRAK, representer points.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use if_data::Element;
use if_linalg::{Backend, Real, Segment};
use if_methods::{Checkpoint, MethodError, ScoreUnit, TracIn, ideal_tracin, representers, trak};
use if_models::{EmpiricalRisk, Inputs, ModelError, Projection, ProjectionKind, Replica};
use serde_json::{Value, json};

use super::attribute::given;
use super::model_name;
use crate::args::{AttributeArgs, CheckpointArg, FamilyName, MeasureName, MethodName, RemovalName};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::factors::state_checksum;
use crate::job::risk_settings;
use crate::key::{common, of_examples};
use crate::model::{Kind, Model, read_weights};
use crate::output::{Report, document, seconds};
use crate::partial::Partial;
use crate::run_dir::Recorded;
use crate::session::{inputs, report_undefined, select};
use crate::sketches::Sketches;
use crate::source::Data;

/// Projections of TRAK by default.
const TRAK_DIM: usize = 512;

/// From this share of the outputs on, what their decomposition leaves is worth a warning.
const REPRESENTER_GAP: f64 = 0.01;

/// Runs the command.
pub fn run(args: &AttributeArgs, certificates: &Path, console: &Console) -> Result<Report, Failure> {
    let of_all = matches!(args.method, MethodName::TracinIdeal | MethodName::Representer);
    if of_all && !args.solve.layers.is_empty() {
        return Err(Failure::input(
            "--layers: expected none, as tracin-ideal is of all layers and representer of the last",
        ));
    }
    let kind = Kind::new(&args.model)?;
    let device = Device::open(&args.device, args.precision.unwrap_or(kind.default_precision()), console)?
        .keeping(args.resume);
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let query = Data::load_like(&args.query, label, &train)?;
    let job = Job { args, device: &device, kind: &kind, train: &train, query: &query, certificates };
    on_device!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a AttributeArgs,
    device: &'a Device,
    kind: &'a Kind,
    train: &'a Data,
    query: &'a Data,
    certificates: &'a Path,
}

/// Where scores go, block by block; nothing is solved, so blocks have no certificates.
type Output<T> = Partial<T, ()>;

impl Job<'_> {
    fn run<B: Backend<Elem: Element>>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        let shape = self.shape();
        let (output, details) = match self.args.method {
            MethodName::Influence => unreachable!("it solves, and has a command of its own"),
            MethodName::Tracin => self.tracin(backend, console)?,
            MethodName::Trak => self.trak(backend, console)?,
            MethodName::TracinIdeal => self.ideal(backend, console)?,
            MethodName::Representer => self.representer(backend, console)?,
        };
        self.note_unused(console);
        let mut json = json!({
            "method": self.args.method,
            "model": model_name(&self.args.model.model),
            "layers": self.args.solve.layers,
            "device": self.device.name,
            "precision": self.device.precision,
            "train": self.args.model.train.to_string(),
            "query": self.args.query.to_string(),
            "first_train_row": self.train.set.ids()[0],
            "queries": self.query.set.ids(),
        });
        json["scores"] = self.unit();
        json["scores"]["file"] = json!(self.args.scores.file_name().map(|name| name.to_string_lossy()));
        json["scores"]["dtype"] = json!(B::Elem::DESCR);
        json["scores"]["shape"] = json!(shape);
        json["details"] = details;
        let text = format!("{:#}\n", document("attribute", json.clone()));
        let undefined = output.finish(&text)?;
        let flagged = report_undefined(&undefined, self.query.set.ids(), console);
        let name = clap::ValueEnum::to_possible_value(&self.args.method).expect("it can be asked for");
        let text = format!(
            "{}: {} queries x {} training examples by {}, {}\n",
            self.args.scores.display(),
            shape[0],
            shape[1],
            name.get_name(),
            seconds(start.elapsed().as_secs_f64())
        );
        Ok(Report { text, json, flagged })
    }

    /// What the numbers mean.
    fn unit(&self) -> Value {
        let (sign, formula) = match self.args.method {
            MethodName::Tracin | MethodName::Influence => (
                "steps on the training example lowered the loss of the query",
                "score = sum over checkpoints of rate * g_q^T g_i; loss gradients without l2, no 1/n",
            ),
            MethodName::TracinIdeal => (
                "steps on the training example lowered the loss of the query",
                "score = sum over the steps whose batch holds i of (loss of q before - after) / batch",
            ),
            MethodName::Trak => (
                "the training example raises the log-odds of the query's label",
                "score = mean over models of phi_q^T (Phi^T Phi)^-1 phi_i, times the mean of 1 - p_i",
            ),
            MethodName::Representer => (
                "the training example argues for the query's label",
                "score = -(1/(n l2)) dl_i/dz_y (f_i . f_q); at an optimum the scores of a query add up to its output z_y",
            ),
        };
        let mut unit = match self.args.method {
            MethodName::Tracin | MethodName::TracinIdeal => json!(ScoreUnit::TrainingLossReduction),
            _ => json!({ "unit": "relative" }),
        };
        unit["sign"] = json!(format!("positive = proponent: {sign}"));
        unit["formula"] = json!(formula);
        unit
    }

    /// Says what is unlike the training of the run whose checkpoints were taken.
    fn note_run(&self, recorded: Option<&Recorded>, console: &Console) {
        let Some(recorded) = recorded else { return };
        if let Err(unfinished) = recorded.finished() {
            console.note(unfinished.message());
        }
        if recorded.config.data_sha256 != of_examples(self.train) {
            console.note(&format!("the run was trained on other examples, {}", recorded.config.train));
        }
    }

    fn recorded(&self) -> Result<Option<Recorded>, Failure> {
        self.args.training_run.as_deref().map(Recorded::read).transpose()
    }

    /// The checkpoints that were named, or those of a `recorded` run, on each of `devices`. Every file is read once.
    fn checkpoints<B: Backend>(
        &self,
        recorded: Option<&Recorded>,
        devices: &[&B],
    ) -> Result<(Vec<Vec<Checkpoint<B>>>, Vec<CheckpointArg>), Failure> {
        let named = match recorded {
            None => self.args.checkpoint.clone(),
            Some(recorded) => {
                let each = recorded.checkpoints.iter().cloned();
                each.map(|(_, learning_rate, weights)| CheckpointArg { weights, learning_rate }).collect()
            }
        };
        if named.is_empty() {
            return Err(Failure::input(
                "expected at least one --checkpoint FILE:RATE, or the --training-run that kept them",
            ));
        }
        let mut all: Vec<Vec<Checkpoint<_>>> = devices.iter().map(|_| Vec::new()).collect();
        for CheckpointArg { weights, learning_rate } in &named {
            let model = Model::read(self.kind, weights, self.train)?;
            for (backend, checkpoints) in devices.iter().zip(&mut all) {
                let (network, theta) = model.build(*backend)?;
                let (mut network, theta) = select(&network, theta, &self.args.solve.layers)?;
                if let Some(first) = checkpoints.first() {
                    if first.theta.layout() != theta.layout() {
                        return Err(Failure::input(format!(
                            "{}: expected parameters of the shapes in {}, found others",
                            weights.display(),
                            named[0].weights.display()
                        )));
                    }
                    network = network.with_buffers_of(&first.network);
                }
                checkpoints.push(Checkpoint { network, theta, learning_rate: *learning_rate });
            }
        }
        Ok((all, named))
    }

    /// The networks at every one of `count` checkpoints with the training examples, on all further devices.
    fn replicas<B: Backend>(
        &self,
        count: usize,
        others: Vec<Vec<Checkpoint<B>>>,
    ) -> Result<Vec<Vec<Replica<B>>>, Failure> {
        let mut replicas: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for checkpoints in others {
            let budget = self.args.solve.memory_budget / 2;
            let train = Arc::new(inputs(self.kind, &checkpoints[0].network, self.train, budget)?);
            for (own, Checkpoint { network, .. }) in replicas.iter_mut().zip(checkpoints) {
                own.push(Replica { network, inputs: train.clone() });
            }
        }
        Ok(replicas)
    }

    /// Training examples and `queries` on the device.
    fn both<B: Backend>(
        &self,
        network: &if_models::Network<B>,
        queries: &Data,
    ) -> Result<[Inputs<B>; 2], Failure> {
        let budget = self.args.solve.memory_budget / 2;
        Ok([inputs(self.kind, network, self.train, budget)?, inputs(self.kind, network, queries, budget)?])
    }

    /// Queries and training examples.
    fn shape(&self) -> [usize; 2] {
        [self.query.set.len(), self.train.set.len()]
    }

    /// The outputs. They can go on after queries that have their scores where a `key` says all that these depend on; some
    /// methods have all scores at once.
    fn open<T: Element + Real>(&self, key: Option<Value>, console: &Console) -> Result<Output<T>, Failure> {
        let resume = self.args.resume && key.is_some();
        Partial::open([&self.args.scores, self.certificates], self.shape(), &json!(key), resume, console)
    }

    fn projection(&self, dim: usize) -> Projection {
        Projection { kind: self.args.projection_kind.into(), dim, seed: self.args.projection_seed }
    }

    /// Refuses a projection that takes more memory than is allowed: its vectors, the sketches of all examples, and
    /// `square_bytes` for every pair of its numbers.
    fn check_projection<B: Backend>(
        &self,
        projection: Projection,
        checkpoints: &[Checkpoint<B>],
        square_bytes: usize,
    ) -> Result<(), Failure> {
        let (dim, size) = (projection.dim, size_of::<B::Elem>());
        let segments = checkpoints[0].network.layout().segments();
        let numbers = |segment: &Segment| match projection.kind {
            ProjectionKind::Factored => segment.rows + segment.cols,
            ProjectionKind::Gaussian => segment.rows * segment.cols,
            // Made a few at a time.
            ProjectionKind::Rademacher => 0,
        };
        let vectors: usize = segments.iter().map(numbers).sum();
        let examples = (self.train.set.len() + self.query.set.len()) * (checkpoints.len() + 1);
        let needed = (vectors + examples) as f64 * size as f64 * dim as f64
            + square_bytes as f64 * (dim as f64).powi(2);
        let budget = self.args.solve.memory_budget;
        if needed <= budget as f64 {
            return Ok(());
        }
        Err(Failure::input(format!(
            "--projection {dim}: expected one that fits into --memory-budget {budget} (bytes), found one that takes {needed:.1e}"
        )))
    }

    fn tracin<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        console: &Console,
    ) -> Result<(Output<B::Elem>, Value), Failure> {
        let projection = self.args.projection.map(|dim| self.projection(dim));
        // Sketches are made by the first alone.
        let others = backend.peers().iter().filter(|_| projection.is_none());
        let devices: Vec<&B> = [backend].into_iter().chain(others).collect();
        let recorded = self.recorded()?;
        let (mut all, named) = self.checkpoints(recorded.as_ref(), &devices)?;
        let checkpoints = all.remove(0);
        if let Some(projection) = projection {
            self.check_projection(projection, &checkpoints, 0)?;
        }
        let sketch_key = self.sketch_key(&checkpoints, projection);
        let mut key = sketch_key.clone();
        key["method"] = json!(self.args.method);
        key["queries"] = json!(of_examples(self.query));
        // Whatever does not fit a device is found out before outputs are opened.
        let replicas = self.replicas(checkpoints.len(), all)?;
        let mut output = self.open(Some(key), console)?;
        let [train, queries] = self.both(&checkpoints[0].network, &self.query.rest(output.done()))?;
        let tracin = TracIn::new(&train, &checkpoints)?.with_replicas(&replicas);
        let scored = match projection {
            None => tracin.attribute(&queries, console, |rows| output.append(rows.scores, ())),
            Some(projection) => {
                let width = projection.dim * checkpoints.len();
                let make = || tracin.sketch(&train, projection, console);
                let sketches = match &self.args.sketch {
                    None => Sketches::in_memory(make()?, width),
                    Some(path) => Sketches::in_file(path, [train.len(), width], &sketch_key, make, console)?,
                };
                let own = tracin.sketch(&queries, projection, console)?;
                sketches.search(backend, &own, console, |rows| output.append(rows, ()))
            }
        };
        scored.map_err(|failure| output.stopped(failure))?;
        self.note_run(recorded.as_ref(), console);
        Ok((output, json!({ "checkpoints": named, "projection": projection })))
    }

    fn trak<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        console: &Console,
    ) -> Result<(Output<B::Elem>, Value), Failure> {
        let recorded = self.recorded()?;
        let (mut all, named) = self.checkpoints(recorded.as_ref(), &[backend])?;
        let checkpoints = all.remove(0);
        let projection = self.projection(self.args.projection.unwrap_or(TRAK_DIM));
        // The matrix that is inverted, and its factor.
        self.check_projection(projection, &checkpoints, 2 * size_of::<f64>())?;
        let mut output = self.open(None, console)?;
        let [train, queries] = self.both(&checkpoints[0].network, self.query)?;
        let scores = trak(&checkpoints, (&train, &queries), projection, console)?;
        output.append(&scores.into_iter().map(B::Elem::from_f64).collect::<Vec<_>>(), ())?;
        self.note_run(recorded.as_ref(), console);
        Ok((output, json!({ "checkpoints": named, "projection": projection })))
    }

    /// All that sketches of the training examples depend on.
    fn sketch_key<B: Backend>(&self, checkpoints: &[Checkpoint<B>], projection: Option<Projection>) -> Value {
        let each = checkpoints.iter().map(|Checkpoint { network, theta, learning_rate }| {
            json!({ "weights_sha256": state_checksum(network, theta), "learning_rate": learning_rate })
        });
        let layers = checkpoints[0].network.layout().segments().iter().map(|segment| &segment.name);
        let mut key = common(self.kind, self.train, &self.device.name, self.device.precision);
        key["list of checkpoints"] = json!(each.collect::<Vec<_>>());
        key["layer selection"] = json!(layers.collect::<Vec<_>>());
        key["projection"] = json!(projection);
        if projection.is_some_and(|projection| projection.kind != ProjectionKind::Gaussian) {
            // How signs of whole layers are drawn, which was different once.
            key["signs"] = json!("SplitMix64");
        }
        key
    }

    /// Replays the run and compares where it ends with its last checkpoint.
    fn ideal<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        console: &Console,
    ) -> Result<(Output<B::Elem>, Value), Failure> {
        let Some(recorded) = self.recorded()? else {
            return Err(Failure::input(
                "--method tracin-ideal: expected the --training-run that is replayed",
            ));
        };
        let spec = recorded.repeatable(self.kind, &model_name(&self.args.model.model), self.train)?;
        recorded.finished()?;
        let config = &recorded.config;
        let Device { name, precision, .. } = self.device;
        if config.device != *name {
            return Err(recorded.refusal("--device", &config.device, name));
        }
        if config.precision != precision.to_string() {
            return Err(recorded.refusal("--precision", &config.precision, &precision.to_string()));
        }
        let mut output = self.open(None, console)?;
        let network = spec.build(backend)?;
        let [train, queries] = self.both(&network, self.query)?;
        let risk = EmpiricalRisk::new(&network, &train, config.objective)?;
        let mut state = config.training.start(&network);
        let scores = ideal_tracin(&config.training, &risk, &mut state, &queries, console)?;
        let (_, weights) = recorded.last();
        let last = network.parameters(&read_weights(weights)?)?;
        if last.to_rows() != state.theta.to_rows() {
            return Err(recorded.refusal(
                "the replay",
                &format!("the parameters of {}", weights.display()),
                "others: another version or processor",
            ));
        }
        output.append(&scores.into_iter().map(B::Elem::from_f64).collect::<Vec<_>>(), ())?;
        Ok((output, json!({ "training_run": self.args.training_run, "steps": state.step })))
    }

    fn representer<B: Backend<Elem: Element>>(
        &self,
        backend: &B,
        console: &Console,
    ) -> Result<(Output<B::Elem>, Value), Failure> {
        let (weights, objective) = given(self.args)?;
        let (network, theta) = Model::read(self.kind, weights, self.train)?.build(backend)?;
        let mut output = self.open(None, console)?;
        let [train, queries] = self.both(&network, self.query)?;
        let risk = EmpiricalRisk::new(&network, &train, risk_settings(&objective, self.args.solve.removal)?)?;
        let found = representers(&risk, &theta, &queries).map_err(|error| match error {
            MethodError::Model(ModelError::Unsupported(text)) => {
                Failure::input(format!("--method representer: {text}"))
            }
            other => other.into(),
        })?;
        if found.gap.is_nan() || found.gap > REPRESENTER_GAP {
            console.warn(&format!(
                "the sums of the scores are off the outputs by {:.1e} of them: the last layer is not at an optimum of this objective; check --l2, or train longer",
                found.gap
            ));
        }
        output.append(&found.scores.iter().map(|score| B::Elem::from_f64(*score)).collect::<Vec<_>>(), ())?;
        let details = json!({ "weights": weights, "l2": objective.l2, "relative_gap_to_outputs": found.gap });
        Ok((output, details))
    }

    /// What was given and says nothing to the method.
    fn note_unused(&self, console: &Console) {
        let (args, method) = (self.args, self.args.method);
        let (solve, own) = (&args.solve, &args.solve.own);
        let representer = method == MethodName::Representer;
        let projects = matches!(method, MethodName::Tracin | MethodName::Trak);
        let foreign = [
            (args.weights.is_some() && !representer, "--weights"),
            (args.l2.is_some() && !representer, "--l2"),
            (args.conventions.family != FamilyName::Mean && !representer, "--family"),
            (args.conventions.no_regularise_bias && !representer, "--no-regularise-bias"),
            (solve.removal != RemovalName::Fixed && !representer, "--removal"),
            (!args.checkpoint.is_empty() && !projects, "--checkpoint"),
            (args.training_run.is_some() && representer, "--training-run"),
            (args.projection.is_some() && !projects, "--projection"),
            (args.sketch.is_some() && method != MethodName::Tracin, "--sketch"),
            (args.resume && method != MethodName::Tracin, "--resume"),
            (args.measure != MeasureName::Loss, "--measure"),
            (args.query_rank.is_some(), "--query-rank"),
            (solve.solver.is_some(), "--solver"),
            (solve.damping.is_some(), "--damping"),
            (solve.curvature.is_some(), "--curvature"),
            (solve.tolerance.is_some(), "--tolerance"),
            (solve.max_iterations.is_some(), "--max-iterations"),
            (solve.run.is_some(), "--run"),
            (own.preconditioner.is_some(), "--preconditioner"),
            (own.per_layer, "--per-layer"),
            (own.rank.is_some(), "--rank"),
            (own.labels.is_some(), "--labels"),
            (own.depth.is_some(), "--depth"),
            (own.repeats.is_some(), "--repeats"),
            (own.scale.is_some(), "--scale"),
            (own.batch.is_some(), "--batch"),
            (own.preset.is_some(), "--preset"),
            (own.solver_seed.is_some(), "--solver-seed"),
        ];
        let given: Vec<&str> = foreign.iter().filter(|(given, _)| *given).map(|(_, name)| *name).collect();
        if !given.is_empty() {
            console.note(&format!("{}: of no use to this method", given.join(", ")));
        }
    }
}
