//! `influence train`: to the optimum, and the parameters to a file.

use std::collections::BTreeMap;
use std::time::Instant;

use if_data::{Array, Source};
use if_linalg::{Backend, Block, Cpu};
use if_models::{FitReport, Inputs, LayerSpec, Network};
use serde_json::json;

use super::{model_name, train_network};
use crate::args::{RemovalName, TrainArgs};
use crate::console::Console;
use crate::error::Failure;
use crate::fit::{Trained, Trainer, optimality_name, shortfall};
use crate::job::risk_settings;
use crate::model::{Kind, Model, network_spec};
use crate::output::{Report, seconds, short};
use crate::session::{right, share};
use crate::source::{Data, keep_inputs};

/// Runs the command.
pub fn run(args: &TrainArgs, console: &Console) -> Result<Report, Failure> {
    let start = Instant::now();
    let settings = risk_settings(&args.objective, RemovalName::Fixed)?;
    let sources: Vec<_> = std::iter::once(&args.model.train).chain(&args.test).collect();
    keep_inputs(&[&args.out], &sources, &[])?;
    if args.out.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(Failure::input(format!(
            "--out {}: expected a name that ends in .safetensors",
            args.out.display()
        )));
    }
    let label = args.model.label.as_deref();
    let train = Data::load(&args.model.train, label)?;
    let test = args.test.as_ref().map(|source| Data::load_like(source, label, &train)).transpose()?;
    if let Some(spec) = network_spec(&args.model.model, &train, &LayerSpec::Relu {})? {
        return train_network::run(args, &spec, settings, (&train, test.as_ref()), console);
    }
    if let Some(option) = args.network.given() {
        return Err(Failure::input(format!(
            "{option} belongs to networks, this model is trained to its optimum"
        )));
    }
    let kind = Kind::new(&args.model)?;
    if args.init.is_some() && matches!(kind, Kind::Svm { .. }) {
        return Err(Failure::input("--init does not apply to svm: it is trained in the dual"));
    }
    let init = args.init.as_ref().map(|path| Model::read(&kind, path, &train)).transpose()?;
    let writable = if_data::AtomicFile::create(&args.out)?;
    let trainer = Trainer::new(&kind, args.gradient_norm);
    let Trained { model, report: fit, .. } =
        trainer.train(&Cpu::<f64>::new(), &train, !args.no_bias, settings, init, console)?;
    let accuracy = (accuracy(&model, &train)?, test.as_ref().map(|test| accuracy(&model, test)).transpose()?);
    drop(writable);
    let tensors: BTreeMap<String, Array> =
        model.tensors.iter().map(|(name, values)| (name.clone(), Array::F64(values.clone()))).collect();
    if_data::write_tensors(&args.out, &tensors).map_err(Failure::output)?;
    let shortfall = shortfall(&kind, &fit);
    if let Some(text) = &shortfall {
        console.warn(text);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let text = text(args, &kind, &train.source, &fit, accuracy, elapsed);
    let json = json!({
        "model": model_name(&args.model.model),
        "objective_settings": { "family": settings.family, "l2": settings.l2, "regularise_bias": settings.regularise_bias },
        "train": args.model.train.to_string(),
        "test": args.test.as_ref().map(ToString::to_string),
        "weights": args.out,
        "examples": train.set.len(),
        "fit": fit,
        "converged": fit.converged(),
        "train_accuracy": accuracy.0,
        "test_accuracy": accuracy.1,
        "seconds": elapsed,
    });
    Ok(Report { text, json, flagged: shortfall.is_some() })
}

fn text(
    args: &TrainArgs,
    kind: &Kind,
    source: &Source,
    fit: &FitReport,
    (train, test): (f64, Option<f64>),
    elapsed: f64,
) -> String {
    let mut lines = vec![
        ("model", format!("{} on {source}, l2 {}", model_name(&args.model.model), args.objective.l2)),
        ("objective", format!("{} (mean loss and penalty)", short(fit.objective))),
        (optimality_name(kind), format!("{:.1e} after {} iterations", fit.optimality, fit.iterations)),
        ("train accuracy", format!("{:.2} %", 100.0 * train)),
    ];
    lines.extend(test.map(|test| ("test accuracy", format!("{:.2} %", 100.0 * test))));
    lines.push(("weights", format!("{} ({})", args.out.display(), seconds(elapsed))));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

fn accuracy(model: &Model, data: &Data) -> Result<f64, Failure> {
    let (network, theta) = model.build(&Cpu::<f64>::new())?;
    accuracy_of(&network, &theta, data)
}

/// Share of the examples whose label is predicted.
pub fn accuracy_of<B: Backend>(network: &Network<B>, theta: &Block<B>, data: &Data) -> Result<f64, Failure> {
    let inputs = Inputs::new(network, &data.set, 0).map_err(|error| data.failure(error))?;
    Ok(share(&right(network, theta, &inputs, data.set.labels())))
}
