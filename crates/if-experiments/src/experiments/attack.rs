//! 1d: Koh & Liang 2017, section 5.2: a few training images changed so little that nobody sees it, and a test image is
//! misclassified.
//!
//! Deviations:
//! 1. Digits 4 against 9 at 14 x 14 pixels, and features of 300 random relu units in place of dogs, fish and Inception.
//! 2. Boxes of 4/255 and 25/255 beside the paper's 0.5/255: shallow features need more.
//! 3. The paper's step, 0.02 on pixels from -1 to 1, is 0.01 here; as many steps as cross the box, and some to settle.
//! 4. Newton-CG to a gradient of norm 1e-8 in place of retraining by L-BFGS.

use if_linalg::{Backend, Block, Loss, Solver};
use if_methods::{Attack, Influence, random_order};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Inputs, LayerSpec, ModelSpec, Network, RiskSettings, Unfrozen,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{
    F64, FACTORED, OverSeeds, dense, draw, each_seed, fit, ink, load, nine, pixels_of, predict, resampled,
};
use crate::{Context, Experiment, Figure, Outcome};
use if_plot::{LineChart, Picture, PictureRow, Series};

const SIDE: usize = 14;
const TRAIN: usize = 1000;
const TEST: usize = 1000;
const FEATURES: usize = 300;
/// On PyTorch's initial weights: what goes into a unit has a standard deviation of about 1.
const SCALE: f64 = 5.0;
const L2: f64 = 1e-3;
const TARGETS: usize = 20;
const COUNTS: [usize; 4] = [1, 2, 5, 10];
/// Half the side of the box around a pixel, in 255ths.
const BOXES: [f64; 3] = [0.5, 4.0, 25.0];
const STEP: f64 = 0.01;
/// Steps after the box is crossed.
const SETTLE: usize = 3;
const GRADIENT: f64 = 1e-8;
/// Sets the drawn data, the targets and the noise of a seed apart.
const DRAWS: [u64; 4] = [1 << 32, 2 << 32, 3 << 32, 4 << 32];

/// `1d`.
pub struct TrainingSetAttack;

impl Experiment for TrainingSetAttack {
    fn id(&self) -> &str {
        "1d"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Training-set attacks on random features, MNIST 4 against 9"
    }
    fn claim(&self) -> &str {
        "A few training images, each pixel moved a little along the slope of a test image’s loss, flip its prediction; the more images and the larger the steps, the more predictions. Noise of the same size flips next to none."
    }
    fn needs(&self) -> &[&str] {
        &["mnist"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let (train, test) = (load(context, "mnist:train")?, load(context, "mnist:test")?);
        let seeds = context.seeds(if context.full { 10 } else { 3 });
        let trials = each_seed(context, &seeds, |seed| {
            let data = [(&train, TRAIN, DRAWS[0]), (&test, TEST, DRAWS[1])];
            let [train, test] =
                data.map(|(data, count, apart)| resampled(&draw(data, nine, count, seed ^ apart), SIDE));
            Model::new(train, test, seed)?.trial(context, seed)
        })?;
        let mut outcome = Outcome { metrics: judge(&trials), seeds, ..Outcome::default() };
        outcome.plots.push(curves(&trials));
        outcome.pictures.extend(trials[0].figure());
        outcome.tables = vec![table(&trials)];
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// A logistic head on frozen random features.
struct Model {
    network: Network<F64>,
    theta: Block<F64>,
    train: Dataset,
    test: Dataset,
}

/// What happened to one target: flips by box and count.
struct Target {
    /// Row of the test data.
    row: usize,
    /// Log-odds of its label before.
    before: f64,
    /// The training examples, strongest first.
    victims: Vec<usize>,
    /// By the attack: log-odds after, and the features of the victims.
    attacked: [[(f64, Vec<f64>); COUNTS.len()]; BOXES.len()],
    /// Log-odds with noise of the same size.
    noise: [[f64; COUNTS.len()]; BOXES.len()],
}

struct Trial {
    model: Model,
    accuracy: f64,
    targets: Vec<Target>,
}

impl Model {
    fn new(train: Dataset, test: Dataset, seed: u64) -> anyhow::Result<Self> {
        let layers =
            vec![LayerSpec::Flatten {}, dense("features", FEATURES), LayerSpec::Relu {}, dense("head", 1)];
        let spec = ModelSpec { input: vec![1, SIDE, SIDE], loss: Loss::Logistic, layers };
        let whole = spec.build(&F64::new())?;
        let mut features = whole.initial(seed);
        let initial = features.clone();
        features.axpby(SCALE, &initial, 0.0);
        let (network, start) = whole.select(&features, &["head"])?;
        let head = Unfrozen::new(&network, &start, &train)?;
        let theta = fit(&risk(&head)?, Some(&start), GRADIENT)?.theta;
        Ok(Self { network, theta, train, test })
    }

    fn trial(self, context: &Context, seed: u64) -> anyhow::Result<Trial> {
        let test = Inputs::new(&self.network, &self.test, usize::MAX)?;
        let labels = predict(&self.network, &test, &self.theta);
        let right = |row: &usize| labels[*row] == self.test.labels()[*row];
        let accuracy = (0..TEST).filter(right).count() as f64 / TEST as f64;
        let rows = random_order(TEST, seed ^ DRAWS[2]).into_iter().filter(right).take(TARGETS);
        let rows: Vec<usize> = rows.collect();
        let victims = self.victims(&rows)?;
        let done = std::sync::atomic::AtomicUsize::new(0);
        let targets = self.network.backend().map(rows.len(), |t| {
            let target = self.target(rows[t], &victims[t], seed);
            let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            context.progress("targets", done, rows.len());
            target
        });
        let targets = targets.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Trial { model: self, accuracy, targets })
    }

    /// The training images that each of `rows` hangs on most, strongest first.
    fn victims(&self, rows: &[usize]) -> anyhow::Result<Vec<Vec<usize>>> {
        let Self { network, theta, train, .. } = self;
        let head = Unfrozen::new(network, theta, train)?;
        let risk = risk(&head)?;
        let hessian = risk.operator(theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = FACTORED.prepare(&hessian)?;
        let inputs = Inputs::new(network, train, usize::MAX)?;
        // Slopes reach through the features too.
        let whole = EmpiricalRisk::new(network, &inputs, RiskSettings::mean(L2))?;
        let influence = Influence::new(&whole, theta, &*solver);
        let strongest = |&row: &usize| {
            let target = Inputs::new(network, &self.test.select(&[row]), usize::MAX)?;
            let mut victims = Attack::victims(&influence, &target, &())?;
            victims.truncate(COUNTS[COUNTS.len() - 1]);
            Ok(victims)
        };
        rows.iter().map(strongest).collect()
    }

    /// Attacks one test image with every number of training images in every box.
    fn target(&self, row: usize, victims: &[usize], seed: u64) -> anyhow::Result<Target> {
        let Self { network, theta, train, .. } = self;
        let target = Inputs::new(network, &self.test.select(&[row]), usize::MAX)?;
        let mut head = Unfrozen::new(network, theta, train)?;
        let mut noise = ChaCha8Rng::seed_from_u64(seed ^ DRAWS[3]);
        let mut found = Target {
            row,
            before: self.margin(&target, theta)?,
            victims: victims.to_vec(),
            attacked: Default::default(),
            noise: Default::default(),
        };
        for (b, side) in BOXES.into_iter().enumerate() {
            let radius = side / 255.0;
            let iterations = (radius / STEP).ceil() as usize + SETTLE;
            let attack = Attack {
                step: STEP,
                radius,
                bounds: [0.0, 1.0],
                iterations,
                gradient_tolerance: GRADIENT,
                curvature: Curvature::Hessian,
                damping: 0.0,
            };
            for (c, count) in COUNTS.into_iter().enumerate() {
                let victims = &found.victims[..count];
                let data = (train, RiskSettings::mean(L2));
                let attacked = attack.run(network, theta, data, (victims, &target), &FACTORED, &())?;
                let after = attacked.margins[attacked.margins.len() - 1];
                found.attacked[b][c] = (after, attacked.features);
                found.noise[b][c] = self.with_noise(&mut head, (victims, &target), (radius, &mut noise))?;
            }
        }
        Ok(found)
    }

    /// Log-odds of the target's label with every pixel of `victims` at one of the ends of its box. `head` is left as it
    /// was.
    fn with_noise(
        &self,
        head: &mut Unfrozen<F64>,
        (victims, target): (&[usize], &Inputs<F64>),
        (radius, noise): (f64, &mut ChaCha8Rng),
    ) -> anyhow::Result<f64> {
        let mut images = Inputs::new(&self.network, &self.train.select(victims), usize::MAX)?;
        for (v, &victim) in victims.iter().enumerate() {
            let mut image = pixels_of(&self.train, victim);
            let mut moved = |x: f64| (x + if noise.random() { radius } else { -radius }).clamp(0.0, 1.0);
            image.iter_mut().for_each(|x| *x = moved(*x));
            images.set_features(v, &image);
        }
        head.set_examples(victims, &images);
        let theta = fit(&risk(head)?, Some(&self.theta), GRADIENT)?.theta;
        head.set_examples(victims, &Inputs::new(&self.network, &self.train.select(victims), usize::MAX)?);
        self.margin(target, &theta)
    }

    /// Log-odds of the target's label.
    fn margin(&self, target: &Inputs<F64>, theta: &Block<F64>) -> anyhow::Result<f64> {
        Ok(-self.network.measured_by(Loss::Margin)?.example_losses(target, theta)[0])
    }
}

fn risk(head: &Unfrozen<F64>) -> anyhow::Result<EmpiricalRisk<'_, F64>> {
    Ok(EmpiricalRisk::new(head.network(), head.inputs(), RiskSettings::mean(L2))?)
}

impl Trial {
    /// Part of the targets that are misclassified after the attack with `COUNTS[c]` images in `BOXES[b]`.
    fn flips(&self, b: usize, c: usize) -> f64 {
        self.part(|target| target.attacked[b][c].0)
    }

    fn noise_flips(&self, b: usize, c: usize) -> f64 {
        self.part(|target| target.noise[b][c])
    }

    fn part(&self, margin: impl Fn(&Target) -> f64) -> f64 {
        let flipped = self.targets.iter().filter(|target| margin(target) < 0.0).count();
        flipped as f64 / self.targets.len() as f64
    }

    /// The target that the fewest images in the smallest box flip, with the first of them.
    fn figure(&self) -> Option<Figure> {
        let cases = (0..COUNTS.len()).flat_map(|c| (0..BOXES.len()).map(move |b| (b, c)));
        let flipped = |&(b, c): &(usize, usize)| {
            self.targets.iter().find(|target| target.attacked[b][c].0 < 0.0).map(|target| (target, b, c))
        };
        let (target, b, c) = cases.map(|case| flipped(&case)).find(Option::is_some)??;
        let Model { train, test, .. } = &self.model;
        let (after, features) = &target.attacked[b][c];
        let victim = target.victims[0];
        let original = pixels_of(train, victim);
        let poisoned = &features[..original.len()];
        let difference: Vec<f64> = original.iter().zip(poisoned).map(|(x, moved)| moved - x).collect();
        let radius = BOXES[b] / 255.0;
        let scaled: Vec<u8> = difference.iter().map(|d| (127.5 * (1.0 - d / radius)).round() as u8).collect();
        let digit = |data: &Dataset, row: usize| if data.labels()[row] == 1.0 { 9 } else { 4 };
        let captions = [
            format!(
                "the target\nlabel {}\nlog-odds {} to {}",
                digit(test, target.row),
                short(target.before),
                short(*after)
            ),
            format!("train {}\nlabel {}\nas it was", train.ids()[victim], digit(train, victim)),
            "the same\npoisoned".into(),
            format!("difference\nwhite −{0}/255\nblack +{0}/255", BOXES[b]),
        ];
        let pictures = [ink(&pixels_of(test, target.row)), ink(&original), ink(poisoned), scaled];
        let pictures: Vec<_> = pictures
            .iter()
            .zip(&captions)
            .map(|(pixels, caption)| Picture { pixels, width: SIDE, caption })
            .collect();
        let title = match COUNTS[c] {
            1 => "One training image flips a prediction".to_owned(),
            count => format!("The first of {count} training images that flip a prediction"),
        };
        let caption = "First seed; the target that the fewest images in the smallest box flip. The difference is scaled to the box.";
        let svg = PictureRow { title: &title, pictures: &pictures }.svg();
        Some(Figure { name: "poisoned".into(), caption: caption.into(), svg })
    }
}

fn box_name(b: usize) -> String {
    format!("±{}/255", BOXES[b])
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let flips = |b: usize, c: usize| OverSeeds::over(trials, |trial| trial.flips(b, c)).mean;
    let (last_box, last) = (BOXES.len() - 1, COUNTS.len() - 1);
    // Rounding of a mean of twentieths is no fall.
    let fall = |falls: Vec<f64>| falls.into_iter().fold(0.0, f64::max).max(1e-12) - 1e-12;
    let by_count = (0..=last_box).flat_map(|b| (0..last).map(move |c| (b, c)));
    let by_box = (0..last_box).flat_map(|b| (0..=last).map(move |c| (b, c)));
    let never = |name: &str, falls: Vec<f64>| Metric::new(name, fall(falls)).gate(Gate::AtMost(0.0));
    let mut metrics = vec![
        never(
            "largest fall of the flips from a number of images to the next",
            by_count.map(|(b, c)| flips(b, c) - flips(b, c + 1)).collect(),
        ),
        never(
            "largest fall of the flips from a box to the next",
            by_box.map(|(b, c)| flips(b, c) - flips(b + 1, c)).collect(),
        ),
    ];
    for b in 1..=last_box {
        let name = format!("{}: flips by {} images over flips by 1", box_name(b), COUNTS[last]);
        metrics.push(Metric::new(name, flips(b, last) - flips(b, 0)).gate(Gate::Above(0.0)));
    }
    for (c, count) in COUNTS.into_iter().enumerate() {
        let name = format!("{}: flips by {count} over flips in {}", box_name(last_box), box_name(0));
        metrics.push(Metric::new(name, flips(last_box, c) - flips(0, c)).gate(Gate::Above(0.0)));
    }
    metrics
        .push(Metric::new("accuracy on test images", OverSeeds::over(trials, |trial| trial.accuracy).mean));
    metrics
}

fn curves(trials: &[Trial]) -> Figure {
    let of = |value: &dyn Fn(&Trial, usize) -> f64| -> (Vec<_>, Vec<_>) {
        let at = |c: usize| {
            let found = OverSeeds::over(trials, |trial| value(trial, c));
            ((COUNTS[c] as f64, found.mean), (found.least, found.most))
        };
        (0..COUNTS.len()).map(at).unzip()
    };
    let mut drawn: Vec<(String, _)> =
        (0..BOXES.len()).map(|b| (box_name(b), of(&|trial: &Trial, c| trial.flips(b, c)))).collect();
    let largest = BOXES.len() - 1;
    drawn.push((
        format!("noise {}", box_name(largest)),
        of(&|trial: &Trial, c| trial.noise_flips(largest, c)),
    ));
    let series: Vec<_> = drawn.iter().map(|(name, (points, band))| Series { name, points, band }).collect();
    let svg = LineChart {
        title: "Predictions flipped by a few training images",
        x_label: "training images changed",
        y_label: "part of the targets that are misclassified after",
        series: &series,
        y_covers: Some((0.0, 1.0)),
    }
    .svg();
    let caption = format!(
        "Mean over {} seeds of {TARGETS} targets each; the bands go from the least to the most.",
        trials.len()
    );
    Figure { name: "flips".into(), caption, svg }
}

fn table(trials: &[Trial]) -> Table {
    let row = |name: String, value: &dyn Fn(&Trial, usize) -> f64| {
        let cells = (0..COUNTS.len()).map(|c| OverSeeds::over(trials, |trial| value(trial, c)).cell());
        std::iter::once(name).chain(cells).collect::<Vec<_>>()
    };
    let drop = |trial: &Trial, b: usize, c: usize| {
        let targets = &trial.targets;
        targets.iter().map(|t| t.before - t.attacked[b][c].0).sum::<f64>() / targets.len() as f64
    };
    let boxes = || 0..BOXES.len();
    let flips = boxes().map(|b| row(format!("flipped, {}", box_name(b)), &|trial, c| trial.flips(b, c)));
    let noise = boxes()
        .map(|b| row(format!("flipped by noise, {}", box_name(b)), &|trial, c| trial.noise_flips(b, c)));
    let drops =
        boxes().map(|b| row(format!("fall of the log-odds, {}", box_name(b)), &|trial, c| drop(trial, b, c)));
    let columns = std::iter::once("box".to_owned()).chain(COUNTS.map(|count| match count {
        1 => "1 image".into(),
        count => format!("{count} images"),
    }));
    Table {
        title: "Part of the targets flipped, and mean fall of the log-odds of their label (which ends at the flip): mean (least to most) of seeds".into(),
        columns: columns.collect(),
        rows: flips.chain(noise).chain(drops).collect(),
    }
}

fn describe(outcome: &mut Outcome) {
    outcome.setting("train", format!("mnist:train, 4 and 9, n = {TRAIN} drawn by the seed"));
    outcome.setting("images", "14 × 14 pixels, means of 2 × 2");
    outcome.setting(
        "model",
        format!("logistic regression on {FEATURES} frozen random relu features, p = {}", FEATURES + 1),
    );
    outcome.setting("features", format!("weights uniform in ±{SCALE}/√196"));
    outcome.setting("l2", L2);
    outcome.setting(
        "targets",
        format!("{TARGETS} of the correctly classified among {TEST} test images, drawn by the seed"),
    );
    outcome.setting("victims", "the training images of largest sum of absolute slopes of the target’s loss");
    outcome.setting("step", format!("{STEP} on pixels from 0 to 1; as many as cross the box and {SETTLE} more, fewer where p(correct) < .5"));
    outcome.setting("retraining", "Newton-CG after every step; gradient norm 1e-8");
    outcome.setting("solver", "Cholesky");
    outcome.notes = vec![
        "Seeds draw the training and test images, the random features and the targets.".into(),
        "In the box of 0.5/255, the paper’s, nothing was expected to flip but targets near even odds: it takes features as deep as the paper’s Inception. Its numbers, of dogs and fish, are not comparable.".into(),
        "The attack of few images in a large box is seen; the paper’s is not.".into(),
    ];
}
