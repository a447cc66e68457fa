//! 1b: Koh & Liang 2017, section 4.2 and figure 2 (right): leave-one-out retraining of a convolutional network that is
//! not convex and not at its optimum, against influence with a damped Hessian.
//!
//! Deviations:
//! 1. 1,000 images of 14 x 14 pixels, three of the paper's five 3 x 3 convolutions and one seed; the paper's 5,500 images,
//!    network and 100 removals, on three seeds, with `--full`.
//! 2. Adam for some epochs and L-BFGS after it in place of 500,000 steps of Adam.
//! 3. Retraining takes a fixed number of steps from the trained weights, of gradient descent with momentum on all
//!    examples in place of Adam, and so does the model with which it is compared, with nothing removed: what is left of
//!    training is no effect of removal.

use if_linalg::{Block, Cg, Loss, Solver, lanczos_extremes};
use if_methods::{Agreement, Influence, Scores, descending, loss_changes, pearson, random_order};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Fit, FitReport, Inputs, LayerSpec, Lbfgs, ModelError, ModelSpec,
    Network, Optimizer, Removal, RiskSettings, Rows, Schedule, Training,
};

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{
    F64, OverSeeds, Pictured, agreement_row, conv, dense, draw, each_seed, load, pairs_plot, predict,
    predicted, resampled, strongest,
};
use crate::{Context, Experiment, Figure, Outcome};

const L2: f64 = 0.001;
const DAMPING: f64 = 0.01;
const SETTINGS: RiskSettings = RiskSettings {
    family: if_models::Family::Mean,
    removal: Removal::Renormalised,
    l2: L2,
    regularise_bias: true,
};
const SOLVER: Cg = Cg { tolerance: 1e-6, max_iterations: 1000 };
/// Products that the least eigenvalue is estimated with.
const LANCZOS: usize = 50;
/// Test images of which the query is that of highest loss.
const TEST: usize = 1000;
/// Sets the drawn data of a seed apart.
const DRAWS: [u64; 3] = [1 << 32, 2 << 32, 3 << 32];
const TARGET: f64 = 0.75;
const MOMENTUM: f64 = 0.9;

/// What differs between the default and `--full`.
struct Size {
    train: usize,
    side: usize,
    /// Strides of the 3 x 3 convolutions.
    strides: &'static [usize],
    removed: usize,
    epochs: usize,
    /// L-BFGS steps of training, and steps of each retraining.
    steps: [usize; 2],
}

const SMALL: Size =
    Size { train: 1000, side: 14, strides: &[1, 2, 1], removed: 40, epochs: 300, steps: [1000, 100] };
const PAPER: Size =
    Size { train: 5500, side: 28, strides: &[1, 2, 1, 2, 1], removed: 100, epochs: 500, steps: [3000, 300] };

/// `1b`.
pub struct ConvNet;

impl Experiment for ConvNet {
    fn id(&self) -> &str {
        "1b"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Leave-one-out retraining of a convolutional network, MNIST"
    }
    fn claim(&self) -> &str {
        "Where the objective is not convex and training has not arrived, influence with a damped Hessian still orders what retraining without single examples does; its size it does not give."
    }
    fn needs(&self) -> &[&str] {
        &["mnist"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let size = if context.full { PAPER } else { SMALL };
        let (train, test) = (load(context, "mnist:train")?, load(context, "mnist:test")?);
        let seeds = context.seeds(if context.full { 3 } else { 1 });
        let network = network(&size)?;
        let trials = each_seed(context, &seeds, |seed| {
            let drawn = |data, count, apart| resampled(&draw(data, Some, count, seed ^ apart), size.side);
            let data = [drawn(&train, size.train, DRAWS[0]), drawn(&test, TEST, DRAWS[1])];
            Trial::new(context, (&network, &size), data, seed)
        })?;
        let mut outcome = Outcome { metrics: judge(&trials), seeds, ..Outcome::default() };
        outcome.plots.push(trials[0].plot());
        outcome.pictures = trials[0].pictures();
        outcome.tables = vec![table(&trials)];
        describe(&mut outcome, &network, &size);
        Ok(outcome)
    }
}

/// 3 x 3 convolutions of 8 planes, a 1 x 1 convolution to 10, the mean of each plane, a dense layer.
fn network(size: &Size) -> anyhow::Result<Network<F64>> {
    let mut layers = Vec::new();
    for (i, &stride) in size.strides.iter().enumerate() {
        layers.extend([conv(&format!("conv{}", i + 1), 8, 3, stride), LayerSpec::Tanh {}]);
    }
    layers.extend([
        conv("planes", 10, 1, 1),
        LayerSpec::Tanh {},
        LayerSpec::GlobalAvgPool {},
        LayerSpec::Flatten {},
    ]);
    layers.push(dense("head", 10));
    let spec = ModelSpec { input: vec![1, size.side, size.side], loss: Loss::CrossEntropy, layers };
    Ok(spec.build(&F64::new())?)
}

/// What one seed gives.
struct Trial {
    train: Dataset,
    test: Dataset,
    /// Row of the query in the test data, its loss, and the label it is given.
    query: (usize, f64, f64),
    accuracy: f64,
    scores: Scores<f64>,
    /// Norm of the gradient where training ended.
    gradient: f64,
    /// Least eigenvalue of the Hessian with l2, without damping.
    least: f64,
    /// Examples left out, and what that did.
    removed: Vec<usize>,
    actual: Vec<f64>,
    /// Change of the query's loss by as many steps with nothing removed.
    drift: f64,
    /// R of a gradient dot product, of the loss and of chance.
    baselines: [f64; 3],
}

impl Trial {
    fn new(
        context: &Context,
        (network, size): (&Network<F64>, &Size),
        [train, test]: [Dataset; 2],
        seed: u64,
    ) -> anyhow::Result<Self> {
        let [inputs, test_inputs] = [&train, &test].map(|data| Inputs::new(network, data, usize::MAX));
        let (inputs, test_inputs) = (inputs?, test_inputs?);
        let risk = EmpiricalRisk::new(network, &inputs, SETTINGS)?;
        let (theta, gradient) = trained(context, &risk, size, seed)?;

        let labels = predict(network, &test_inputs, &theta);
        let right = labels.iter().zip(test.labels()).filter(|(a, b)| a == b).count();
        let losses = network.example_losses(&test_inputs, &theta);
        let row = descending(&losses)[0];
        let queries = Inputs::new(network, &test.select(&[row]), usize::MAX)?;

        let hessian = risk.operator(&theta, Curvature::Hessian, DAMPING, usize::MAX);
        let prepared = SOLVER.prepare(&hessian)?;
        // The certificate is shown, whatever it says: the authors' solver stops at negative curvature too.
        let scores = Influence::new(&risk, &theta, &*prepared).scores(&queries, context)?;
        let [least, most] = lanczos_extremes(&hessian, LANCZOS, seed).map(|value| value - DAMPING);

        let removed = strongest(scores.row(0), size.removed);
        let groups: Vec<Vec<usize>> =
            std::iter::once(Vec::new()).chain(removed.iter().map(|&i| vec![i])).collect();
        let retrain = |risk: &EmpiricalRisk<'_, F64>| descended(risk, &theta, (1.0 / most, size.steps[1]));
        let found = loss_changes(&risk, &groups, &queries, &[losses[row]], retrain, context)?;
        let drift = found.changes[0][0];
        let actual: Vec<f64> = found.changes[1..].iter().map(|change| change[0] - drift).collect();
        let baselines = baselines(&risk, (&queries, &theta), (&removed, &actual), seed);
        let accuracy = right as f64 / test.len() as f64;
        let query = (row, losses[row], labels[row]);
        Ok(Self { train, test, query, accuracy, scores, gradient, least, removed, actual, drift, baselines })
    }

    fn predicted(&self) -> Vec<f64> {
        predicted(&self.scores, 0, &self.removed)
    }

    fn agreement(&self) -> Agreement {
        Agreement::new(&self.predicted(), &self.actual)
    }

    fn plot(&self) -> Figure {
        let caption = format!(
            "Loss of mnist:test[{}] without each of the {} training examples of largest influence on it; first seed.",
            self.test.ids()[self.query.0],
            self.removed.len()
        );
        pairs_plot(
            "pairs",
            ("Predicted against actual change, convolutional network", caption),
            (&self.predicted(), &self.actual),
        )
    }

    fn pictures(&self) -> Vec<Figure> {
        let everyone: Vec<usize> = (0..self.train.len()).collect();
        let (row, _, predicted_label) = self.query;
        let changes = predicted(&self.scores, 0, &everyone);
        let pictured = Pictured {
            name: "query",
            query: (&self.test, row),
            predicted: predicted_label,
            train: &self.train,
            changes: &changes,
        };
        pictured.figures()
    }
}

/// By Adam, then by L-BFGS: the parameters and the norm of the gradient there.
fn trained(
    context: &Context,
    risk: &EmpiricalRisk<'_, F64>,
    size: &Size,
    seed: u64,
) -> anyhow::Result<(Block<F64>, f64)> {
    let training = Training {
        optimizer: Optimizer::adam(),
        learning_rate: 3e-3,
        schedule: Schedule::Cosine,
        epochs: size.epochs,
        batch: 100,
        seed,
    };
    let mut state = training.start(risk.network());
    training.run(risk, &mut state, context, |_, _| Ok::<(), ModelError>(()))?;
    let lbfgs = Lbfgs { gradient_tolerance: 1e-7, max_iterations: size.steps[0], memory: 50 };
    let fit = lbfgs.minimise(risk, &state.theta, context);
    Ok((fit.theta, fit.report.optimality))
}

/// `steps` of `u = MOMENTUM u + gradient`, `theta -= rate u`.
fn descended(risk: &EmpiricalRisk<'_, F64>, theta: &Block<F64>, (rate, steps): (f64, usize)) -> Fit<F64> {
    let mut theta = theta.clone();
    let mut velocity = Block::zeros(theta.backend(), theta.layout(), 1);
    for _ in 0..steps {
        velocity.axpby(1.0, &risk.gradient(&theta).1, MOMENTUM);
        theta.axpby(-rate, &velocity, 1.0);
    }
    let (objective, gradient) = risk.gradient(&theta);
    let report = FitReport { objective, optimality: gradient.norms()[0], tolerance: 0.0, iterations: steps };
    Fit { theta, report }
}

fn baselines(
    risk: &EmpiricalRisk<'_, F64>,
    (queries, theta): (&Inputs<F64>, &Block<F64>),
    (removed, actual): (&[usize], &[f64]),
    seed: u64,
) -> [f64; 3] {
    let (network, train) = (risk.network(), risk.inputs());
    let gradient = network.example_gradients(queries, theta, Rows::Range(0, 1));
    let chance = random_order(train.len(), seed ^ DRAWS[2]).into_iter().map(|rank| rank as f64).collect();
    let values = [network.scores(train, theta, &gradient), network.example_losses(train, theta), chance];
    values.map(|values| pearson(&removed.iter().map(|&i| values[i]).collect::<Vec<f64>>(), actual))
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let over = |value: fn(&Agreement) -> f64| OverSeeds::over(trials, |trial| value(&trial.agreement()));
    let pearson = over(|found| found.pearson);
    let mut metrics = vec![
        Metric::new("R", pearson.mean).gate(Gate::AtLeast(TARGET)).reported(0.875, "authors’ notebook"),
        Metric::new("R, lowest seed", pearson.least),
        Metric::new("Spearman", over(|found| found.spearman).mean),
        Metric::new("slope through the origin", over(|found| found.slope).mean),
        Metric::new("relative error", over(|found| found.relative_error).mean),
        Metric::new(
            "CG: true relative residual",
            OverSeeds::over(trials, |trial| trial.scores.report.worst_residual()).most,
        ),
        Metric::new(
            "least eigenvalue of the Hessian with l2",
            OverSeeds::over(trials, |trial| trial.least).least,
        ),
        Metric::new("accuracy on test images", OverSeeds::over(trials, |trial| trial.accuracy).mean),
    ];
    for (b, name) in ["gradient dot product", "loss", "random"].into_iter().enumerate() {
        let value = OverSeeds::over(trials, |trial| trial.baselines[b]).mean;
        metrics.push(Metric::new(format!("R of {name}, for comparison"), value));
    }
    metrics
}

fn table(trials: &[Trial]) -> Table {
    let row = |trial: &Trial| {
        let (row, loss, predicted) = trial.query;
        let head = [
            format!("mnist:test[{}]", trial.test.ids()[row]),
            format!("{} as {predicted}", trial.test.labels()[row]),
            short(loss),
        ];
        let tail = [
            short(trial.gradient),
            short(trial.drift),
            short(trial.least),
            trial.scores.report.columns[0].termination.to_string(),
        ];
        head.into_iter().chain(agreement_row(&trial.agreement())).chain(tail).collect()
    };
    let columns = [
        "query",
        "label as predicted",
        "loss",
        "R",
        "Spearman",
        "slope",
        "relative error",
        "gradient after training",
        "change with nothing removed",
        "least eigenvalue",
        "CG",
    ];
    Table {
        title: "One seed a row: the test image of highest loss".into(),
        columns: columns.map(String::from).to_vec(),
        rows: trials.iter().map(row).collect(),
    }
}

fn describe(outcome: &mut Outcome, network: &Network<F64>, size: &Size) {
    let [steps, again] = size.steps;
    outcome.setting(
        "train",
        format!("mnist:train, n = {} drawn by the seed, {1} × {1} pixels", size.train, size.side),
    );
    outcome.setting(
        "model",
        format!(
            "{} tanh convolutions 3 × 3 of 8 planes, one 1 × 1 of 10, mean of each plane, dense 10 × 10, p = {}",
            size.strides.len(),
            network.layout().dim()
        ),
    );
    outcome.setting("l2", L2);
    outcome.setting("damping", DAMPING);
    outcome.setting("removal", "renormalised: weights 1/(n−1), prediction g_q·H⁻¹·(∇l + l2·θ) / (n−1)");
    outcome.setting("solver", "conjugate gradients on the damped Hessian, relative residual 1e-6");
    outcome.setting(
        "training",
        format!("Adam, {} epochs of batches of 100, then up to {steps} steps of L-BFGS", size.epochs),
    );
    outcome.setting("retraining", format!("{again} steps of gradient descent on all examples from the trained weights, momentum {MOMENTUM}, rate 1 over the largest eigenvalue of the Hessian"));
    outcome.setting("removed", format!("the {} examples of largest influence", size.removed));
    outcome.notes = vec![
        "The paper’s 5,500 images, network of 2,616 parameters and 100 removals with --full, which takes hours; the default is a smaller network on fewer and smaller images, and one seed, so that all experiments fit into a quarter of an hour. The default on seeds 0, 1 and 2, before that: R .945, .895 and .939.".into(),
        "The paper’s test image is not named: here it is the one of highest loss among 1,000, for each seed.".into(),
        "What as many steps change with nothing removed is subtracted from every change.".into(),
        "No gate on the slope: damping shrinks predictions along directions of little curvature, and retraining stops before it has gone far along them. The two are much alike: descent for a time T is damping by 1/T.".into(),
        "Tried before, and missed the gate with a mean R of .50: a shorter training (200 epochs of Adam; gradients of .01 to .07) and retraining by 100 steps of L-BFGS. R was .92 and .86 on two seeds and −.27 on the third, where CG had met negative curvature. Longer training and retraining by descent came in together, after that miss; which of them mattered was not measured. Three fresh seeds after that (--seed 10): mean R .92, lowest .87.".into(),
        "The targets hold for the mean over seeds; seeds draw the images and the initial weights.".into(),
    ];
}
