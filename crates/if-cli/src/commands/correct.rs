//! `influence correct`: errors corrected by steps on the training examples that are most helpful for them, beside the
//! same on random and on the most harmful ones.

use std::path::Path;
use std::time::Instant;

use if_data::{AtomicFile, write_tensors};
use if_linalg::{Backend, Block, Observer, SolveReport};
use if_methods::{Correction, FineTuning, Influence, MethodError, Pull, nearest_to_mean, random_order};
use if_models::{EmpiricalRisk, Inputs, Target};
use serde_json::{Value, json};

use super::correct_report::{CHOICES, Corrected, Found, Judgement};
use super::{certificates_beside, model_name};
use crate::args::{CorrectArgs, SolverName};
use crate::console::Console;
use crate::device::{Device, on_device};
use crate::error::Failure;
use crate::job::{Problem, Settings};
use crate::model::Kind;
use crate::output::{Report, seconds};
use crate::run_dir::tensors;
use crate::session::{Optimality, Session, report_flags, right, share};
use crate::source::{Data, keep_inputs, load};

/// What is asked for, then the controls; `None` is for random examples.
const PULLS: [Option<Pull>; CHOICES.len()] = [Some(Pull::Helpful), None, Some(Pull::Harmful)];

/// Runs the command.
pub fn run(args: &CorrectArgs, console: &Console) -> Result<Report, Failure> {
    let base = &args.base;
    certificates_beside(&args.out, "--out", "safetensors")?;
    let sources: Vec<_> = [&base.model.train, &base.query].into_iter().chain(&args.test).collect();
    let weights: Vec<&Path> = base.weights.weights.as_deref().into_iter().collect();
    keep_inputs(&[&args.out], &sources, &weights)?;
    if base.solve.run.is_some() {
        return Err(Failure::input(
            "--run keeps what is fitted at given weights: correct moves them in every round, expected no --run",
        ));
    }
    let kind = Kind::new(&base.model)?;
    let device = Device::open(&base.device, args.precision.unwrap_or(kind.default_precision()), console)?;
    let settings = Settings::new(&base.objective, &base.solve, &device, SolverName::BlockCg)?;
    let (train, query) = load(base, None)?;
    let n = train.set.len();
    for (option, count) in [("--examples", Some(args.examples)), ("--candidates", args.candidates)] {
        if let Some(found) = count.filter(|count| *count > n) {
            return Err(Failure::input(format!(
                "{option}: expected from 1 to the {n} training examples, found {found}"
            )));
        }
    }
    let label = base.model.label.as_deref();
    let tests: Vec<Data> =
        args.test.iter().map(|test| Data::load_like(test, label, &train)).collect::<Result<_, _>>()?;
    let problem = Problem::from_data(kind, train, &base.weights, settings.risk, console)?;
    let tuning = FineTuning { learning_rate: args.learning_rate, steps: args.steps };
    let correction = Correction { anchors: args.anchors, examples: args.examples, tuning };
    let job = Job { args, correction, settings, problem: &problem, query: &query, tests: &tests };
    on_device!(device, |backend| job.run(backend, console))
}

struct Job<'a> {
    args: &'a CorrectArgs,
    correction: Correction,
    settings: Settings,
    problem: &'a Problem,
    query: &'a Data,
    tests: &'a [Data],
}

/// Examples on which the model is judged.
struct Judged<'a, B: Backend> {
    name: String,
    data: &'a Data,
    inputs: Inputs<B>,
}

/// Certificates of all rounds, with what they are of.
#[derive(Default)]
struct Solves {
    report: Option<SolveReport>,
    names: Vec<String>,
    /// Of the weights as they were given.
    optimality: Option<Optimality>,
}

impl Job<'_> {
    fn run<B: Backend>(&self, backend: &B, console: &Console) -> Result<Report, Failure> {
        let start = Instant::now();
        let writable = AtomicFile::create(&self.args.out)?;
        let mut session = Session::open(
            backend,
            self.problem,
            &self.settings,
            self.args.anchors.min(self.query.set.len()),
        )?;
        if session.network.loss().target(session.network.outputs()) == Target::Real {
            return Err(Failure::input(
                "correct: expected a model that predicts classes, found one that predicts numbers",
            ));
        }
        let queries = session.inputs(self.query)?;
        let wrong = self.wrong(&session, &queries);
        let errors: Vec<usize> = (0..wrong.len()).filter(|&q| wrong[q]).collect();
        if errors.is_empty() && !self.args.all {
            return Err(Failure::input(format!(
                "--query {}: expected an example that the model gets wrong, found {} that it gets right",
                self.query.source,
                wrong.len()
            ))
            .hint("--all draws from these too"));
        }
        let errors = (!errors.is_empty()).then(|| self.query.select(&errors));
        let judged = self.judged(&session, errors.as_ref())?;
        let before = judged.iter().map(|set| set.judge(&session)).collect();
        let (mut solves, mut thetas, mut corrected) = (Solves::default(), Vec::new(), Vec::new());
        let given = session.theta.clone();
        for c in 0..CHOICES.len() {
            session.theta = given.clone();
            let rounds = self.correct(&mut session, (c, &queries), &mut solves, console)?;
            corrected.push(Corrected {
                rounds,
                judgements: judged.iter().map(|set| set.judge(&session)).collect(),
            });
            thetas.push(session.theta.clone());
        }
        drop(writable);
        self.write(&session, &thetas[0])?;
        let sets = judged.into_iter().map(|set| (set.name, set.data.set.len())).collect();
        let found = Found { sets, before, corrected };
        let text = format!(
            "{}{}\n{}\nweights after the most helpful: {} ({})\n",
            self.heading(&wrong, &found),
            found.tables(),
            found.verdict(found.sets.len() - self.tests.len()),
            self.args.out.display(),
            seconds(start.elapsed().as_secs_f64())
        );
        let mut json = self.record(&wrong, &found);
        json["optimality"] = json!(solves.optimality);
        json["parameters"] = json!(session.coverage);
        json["seconds"] = json!(start.elapsed().as_secs_f64());
        Ok(Report { text, json, flagged: solves.flagged(console) || self.problem.unfinished })
    }

    fn record(&self, wrong: &[bool], found: &Found) -> Value {
        let CorrectArgs { base, seed, features, candidates, all, out, .. } = self.args;
        json!({
            "settings": self.problem.record(&model_name(&base.model.model), &self.settings, Some(&base.query)),
            "correction": self.correction,
            "seed": seed,
            "features": features,
            "candidates": candidates,
            "queries": wrong.len(),
            "wrong": wrong.iter().filter(|wrong| **wrong).count(),
            "anchors_from_all": all,
            "judged": found.judged(),
            "rounds": found.rounds(),
            "weights": out,
        })
    }

    /// Which queries the model gets wrong as it is now.
    fn wrong<B: Backend>(&self, session: &Session<B>, queries: &Inputs<B>) -> Vec<bool> {
        let found = right(&session.network, &session.theta, queries, self.query.set.labels());
        found.into_iter().map(|right| !right).collect()
    }

    /// The errors first, where there are any.
    fn judged<'d, B: Backend>(
        &'d self,
        session: &Session<B>,
        errors: Option<&'d Data>,
    ) -> Result<Vec<Judged<'d, B>>, Failure> {
        let name = |data: &Data| data.source.to_string();
        let errors = errors.map(|errors| (format!("{}, the wrong ones", name(self.query)), errors));
        let whole = std::iter::once(self.query).chain(self.tests).map(|data| (name(data), data));
        errors
            .into_iter()
            .chain(whole)
            .map(|(name, data)| Ok(Judged { name, data, inputs: session.inputs(data)? }))
            .collect()
    }

    /// All rounds of choice `c`, after which the session holds the corrected parameters.
    fn correct<B: Backend>(
        &self,
        session: &mut Session<B>,
        (c, queries): (usize, &Inputs<B>),
        solves: &mut Solves,
        console: &Console,
    ) -> Result<Vec<Value>, Failure> {
        let mut rounds = Vec::new();
        for round in 0..self.args.rounds {
            console.progress("correcting", c * self.args.rounds + round, CHOICES.len() * self.args.rounds);
            if console.cancelled() {
                return Err(Failure::Interrupted);
            }
            let seed = self.args.seed.wrapping_add(round as u64);
            let mut eligible = self.wrong(session, queries);
            if self.args.all {
                eligible.fill(true);
            }
            let anchors = self.correction.anchors(&eligible, seed);
            if anchors.is_empty() {
                break;
            }
            let anchors = self.query.select(&anchors);
            let order = match PULLS[c] {
                None => random_order(self.problem.train.set.len(), seed),
                Some(pull) => {
                    let (order, report) = self.by_influence(session, (&anchors, pull), solves, console)?;
                    solves.add(report, anchors.set.ids(), round, CHOICES[c]);
                    order
                }
            };
            let risk = EmpiricalRisk::new(&session.network, &session.train, self.settings.risk)?;
            let stepped = self.correction.step(&risk, &session.theta, &order);
            let stepped = stepped.map_err(|error| self.diverged(error, round, CHOICES[c]))?;
            session.theta = stepped;
            let rows = self.correction.chosen(&order).iter().map(|&i| self.problem.train.set.ids()[i]);
            rounds.push(json!({ "anchors": anchors.set.ids(), "train": rows.collect::<Vec<_>>() }));
        }
        Ok(rounds)
    }

    /// Training examples, or the nearest of them, by their helpfulness.
    fn by_influence<B: Backend>(
        &self,
        session: &Session<B>,
        (anchors, pull): (&Data, Pull),
        solves: &mut Solves,
        console: &Console,
    ) -> Result<(Vec<usize>, SolveReport), Failure> {
        let inputs = session.inputs(anchors)?;
        let candidates = match (&self.args.features, self.args.candidates) {
            (Some(layer), Some(count)) => {
                let features = |inputs| {
                    let found = session.network.layer_inputs(inputs, &session.theta, layer);
                    found.map_err(|error| Failure::input(format!("--features: {error}")))
                };
                nearest_to_mean(&features(&session.train)?, &features(&inputs)?, count)?
            }
            _ => (0..self.problem.train.set.len()).collect(),
        };
        let order =
            |influence: Influence<B>| Ok(influence.by_helpfulness(&inputs, &candidates, pull, console)?);
        if solves.optimality.is_some() {
            return session.influence_on_the_way(console, order);
        }
        let (ordered, optimality) = session.influence(console, |_, influence| order(influence))?;
        solves.optimality = Some(optimality);
        Ok(ordered)
    }

    fn diverged(&self, error: MethodError, round: usize, choice: &str) -> Failure {
        match error {
            MethodError::Model(error) => {
                let found = self.problem.train.failure(error);
                Failure::input(format!("round {} of the {choice}: {}", round + 1, found.message()))
            }
            other => other.into(),
        }
    }

    /// All tensors of the model, those of the layers that moved among them.
    fn write<B: Backend>(&self, session: &Session<B>, theta: &Block<B>) -> Result<(), Failure> {
        let (whole, start) = self.problem.model.build(session.network.backend())?;
        let mut all = tensors(&whole, &start, "");
        all.extend(tensors(&session.network, theta, ""));
        write_tensors(&self.args.out, &all).map_err(Failure::output)
    }

    fn heading(&self, wrong: &[bool], found: &Found) -> String {
        let CorrectArgs { rounds, steps, examples, learning_rate, .. } = self.args;
        let anchors = self.args.anchors.min(self.query.set.len());
        let count = wrong.iter().filter(|wrong| **wrong).count();
        let rest = if self.args.all {
            "anchors are drawn from all".to_owned()
        } else {
            format!("the {} that are right are left out", wrong.len() - count)
        };
        let mut text = format!(
            "{}: {count} of {} examples are wrong; {rest}\n\
             each round: {anchors} anchors, {examples} of {} training examples, {steps} step{} at rate {learning_rate}\n",
            self.query.source,
            wrong.len(),
            self.problem.train.set.len(),
            if *steps == 1 { "" } else { "s" },
        );
        for (name, choice) in CHOICES.iter().zip(&found.corrected) {
            let done = choice.rounds.len();
            if done < *rounds {
                text += &format!("{name}: {done} of {rounds} rounds, then nothing was wrong\n");
            }
        }
        text
    }
}

impl<B: Backend> Judged<'_, B> {
    fn judge(&self, session: &Session<B>) -> Judgement {
        let right = right(&session.network, &session.theta, &self.inputs, self.data.set.labels());
        let losses = session.network.example_losses(&self.inputs, &session.theta);
        Judgement { accuracy: share(&right), loss: losses.iter().sum::<f64>() / losses.len() as f64 }
    }
}

impl Solves {
    fn add(&mut self, report: SolveReport, anchors: &[usize], round: usize, choice: &str) {
        self.names.extend(anchors.iter().map(|id| format!("{id} (round {} of the {choice})", round + 1)));
        match &mut self.report {
            // Not `extend`: a solver that finds its settings anew in every round would be named as often.
            Some(all) => all.columns.extend(report.columns),
            None => self.report = Some(report),
        }
    }

    /// Names what carries a flag; whether there is any.
    fn flagged(&self, console: &Console) -> bool {
        self.report.as_ref().is_some_and(|report| report_flags(report, &self.names, "anchors", console))
    }
}
