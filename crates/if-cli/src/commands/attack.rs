//! `influence attack`: training examples changed a little so that a test example is misclassified.

use std::path::Path;

use if_data::{Array, AtomicFile, write_npz};
use if_linalg::Backend;
use if_methods::{Attack, Attacked};
use if_models::{Dataset, EmpiricalRisk, HostArray, Inputs};
use ndarray::{Array1, ArrayD};
use serde_json::json;

use super::{ink, model_name, need_extension, need_no_removal, on_paper, picture_row, square_width};
use crate::args::{AttackArgs, Precision, SolverName};
use crate::console::Console;
use crate::device::{Device, in_double};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, short};
use crate::session::Session;
use crate::source::{Data, keep_inputs};

/// Norm of the gradient that retraining goes to.
const GRADIENT_NORM: f64 = 1e-8;

/// Runs the command.
pub fn run(args: &AttackArgs, console: &Console) -> Result<Report, Failure> {
    let outputs: Vec<&Path> = args.out.as_deref().into_iter().chain(args.picture.as_deref()).collect();
    let sources = [&args.model.train, &args.target];
    keep_inputs(&outputs, &sources, args.weights.weights.as_deref().as_slice())?;
    let kind = Kind::new(&args.model)?;
    let device = Device::open(&args.device, Precision::F64, console)?;
    if matches!(kind, Kind::Svm { .. }) {
        return Err(Failure::input(
            "attack retrains a model with probabilities: expected softmax, logistic or a network, found svm",
        ));
    }
    let settings = Settings::new(&args.objective, &args.solve, &device, SolverName::Cg)?;
    settings.need_changes()?;
    need_no_removal(&settings, "attack")?;
    need_extension(args.out.as_deref(), "--out", "npz")?;
    need_extension(args.picture.as_deref(), "--picture", "svg")?;
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let target = Data::load_like(&args.target, label, &train)?;
    if target.set.len() != 1 {
        let found = target.set.len();
        return Err(Failure::input(format!(
            "--target {}: expected one example such as {}[7], found {found}",
            target.source, target.source.origin
        )));
    }
    if args.count >= train.set.len() {
        return Err(Failure::input(format!(
            "--count {}: expected less than the {} training examples",
            args.count,
            train.set.len()
        )));
    }
    if args.picture.is_some() {
        square_width(&train)?;
    }
    let problem = Problem::from_data(kind, train, &args.weights, settings.risk, console)?;
    let job = Job { args, settings, problem: &problem, target: &target };
    in_double!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a AttackArgs,
    settings: Settings,
    problem: &'a Problem,
    target: &'a Data,
}

impl Job<'_> {
    fn run<B: Backend<Elem = f64>>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let train = &self.problem.train;
        let picture = self.args.picture.as_deref().map(AtomicFile::create).transpose()?;
        let mut session = Session::open(backend, self.problem, &self.settings, 1)?;
        let target = session.inputs(self.target)?;
        if session.network.layout().segments().len() != 1 {
            return Err(Failure::input(
                "attack retrains one layer: expected a linear model, or --layers last for a network",
            ));
        }
        let attack = self.prepare(&mut session, console)?;
        if session.network.vocabulary().is_some() {
            return Err(Failure::input("attack changes features: expected numbers, found token ids"));
        }
        let margin =
            -session.measured(crate::args::MeasureName::Margin)?.example_losses(&target, &session.theta)[0];
        if margin < 0.0 {
            return Err(Failure::input(format!(
                "--target {}: expected an example that the retrained model gets right, found one with log-odds {} of its label",
                self.target.source,
                short(margin)
            )));
        }
        let (examples, attacked) = self.attack(&session, &target, attack, console)?;
        let rows: Vec<usize> = examples.iter().map(|&i| train.set.ids()[i]).collect();
        if let Some(path) = &self.args.out {
            self.write(path, &examples, &attacked.features)?;
        }
        if let Some(file) = picture {
            let svg = self.picture(&examples, &attacked)?;
            file.finish_with(svg.as_bytes()).map_err(Failure::output)?;
        }
        let (steps, flipped) = (attacked.margins.len() - 1, attacked.flipped());
        let last = attacked.margins[steps];
        let text = format!(
            "{}: {} after {steps} steps; log-odds of its label from {} to {}\n\
             changed training rows {} by at most {} in each feature\n",
            self.target.source,
            if flipped { "misclassified" } else { "still right" },
            short(margin),
            short(last),
            rows.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
            self.args.radius,
        );
        let json = json!({
            "settings": self.problem.record(&model_name(&self.args.model.model), &self.settings, Some(&self.args.target)),
            "radius": self.args.radius,
            "step": self.step(),
            "examples": rows,
            "flipped": flipped,
            "margins": attacked.margins,
            "out": self.args.out,
        });
        Ok(Report { text, json, flagged: self.problem.unfinished })
    }

    fn step(&self) -> f64 {
        self.args.step.unwrap_or(0.1 * self.args.radius)
    }

    /// The attack, from the optimum near the given weights: what retraining alone does is not its doing.
    fn prepare<B: Backend<Elem = f64>>(
        &self,
        session: &mut Session<B>,
        console: &Console,
    ) -> Result<Attack, Failure> {
        let risk = EmpiricalRisk::new(&session.network, &session.train, self.settings.risk)?;
        let mut attack = Attack {
            step: self.step(),
            radius: self.args.radius,
            bounds: bounds(&self.problem.train.set),
            iterations: self.args.iterations,
            gradient_tolerance: GRADIENT_NORM,
            curvature: self.settings.curvature,
            damping: 0.0,
        };
        let theta = attack.retrain(&risk, &session.theta)?;
        attack.damping = self.settings.damping_of(&risk, &theta, console);
        drop(risk);
        session.theta = theta;
        Ok(attack)
    }

    /// The examples that may change, and what became of them.
    fn attack<B: Backend<Elem = f64>>(
        &self,
        session: &Session<B>,
        target: &Inputs<B>,
        attack: Attack,
        console: &Console,
    ) -> Result<(Vec<usize>, Attacked<B>), Failure> {
        let train = &self.problem.train;
        let solver = self.settings.plain_solver("attack")?;
        let (examples, _) = session.influence(console, |_, influence| {
            if !self.args.examples.is_empty() {
                return train.positions(&self.args.examples, "--examples");
            }
            let mut strongest = Attack::victims(&influence, target, console)?;
            strongest.truncate(self.args.count);
            Ok(strongest)
        })?;
        let attacked = attack.run(
            &session.network,
            &session.theta,
            (&train.set, self.settings.risk),
            (&examples, target),
            &*solver,
            console,
        )?;
        Ok((examples, attacked))
    }

    /// The training set with the changed examples.
    fn write(&self, path: &Path, examples: &[usize], features: &[f64]) -> Result<(), Failure> {
        let set = &self.problem.train.set;
        let width = set.width();
        let mut all = vec![0.0f64; set.len() * width];
        all.chunks_exact_mut(width).enumerate().for_each(|(i, row)| set.features().read_row(i, row));
        for (&i, row) in examples.iter().zip(features.chunks_exact(width)) {
            all[i * width..(i + 1) * width].copy_from_slice(row);
        }
        let x = ArrayD::from_shape_vec(set.features().shape().to_vec(), all).expect("as many as before");
        let y = Array1::from_iter(set.labels().iter().map(|label| *label as i64)).into_dyn();
        Ok(write_npz(path, [("x", &Array::F64(x)), ("y", &Array::I64(y))])?)
    }

    /// The target, then every example before, after, and the difference.
    fn picture<B: Backend>(&self, examples: &[usize], attacked: &Attacked<B>) -> Result<String, Failure> {
        let train = &self.problem.train;
        let width = square_width(train)?;
        let label = |data: &Data, i: usize| data.label_name(data.set.labels()[i]);
        let flipped = if attacked.flipped() { "misclassified" } else { "still right" };
        let mut shown =
            vec![(ink(self.target, 0), format!("the target\nlabel {}\n{flipped}", label(self.target, 0)))];
        for (&example, features) in examples.iter().zip(attacked.features.chunks_exact(train.set.width())) {
            let name = format!("train {}\nlabel {}", train.set.ids()[example], label(train, example));
            let mut before = vec![0.0f64; features.len()];
            train.set.features().read_row(example, &mut before);
            let moved: Vec<f64> = features
                .iter()
                .zip(&before)
                .map(|(x, start)| 0.5 + 0.5 * (x - start) / self.args.radius)
                .collect();
            shown.push((on_paper(&before), name.clone()));
            shown.push((on_paper(features), format!("{name}\nchanged")));
            shown.push((on_paper(&moved), format!("the change,\nblack +{}", short(self.args.radius))));
        }
        let title = format!("Training examples changed against {}", self.target.source);
        Ok(picture_row(&title, &shown, width))
    }
}

/// What features may be: from 0 to 1 for pixels, else from the least to the largest in the training set.
fn bounds(set: &Dataset) -> [f64; 2] {
    if let HostArray::U8(_) = set.features() {
        return [0.0, 1.0];
    }
    let mut row = vec![0.0f64; set.width()];
    let [mut low, mut high] = [f64::INFINITY, f64::NEG_INFINITY];
    for i in 0..set.len() {
        set.features().read_row(i, &mut row);
        row.iter().for_each(|value| (low, high) = (low.min(*value), high.max(*value)));
    }
    [low, high]
}
