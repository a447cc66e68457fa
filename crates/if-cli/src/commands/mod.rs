//! The commands, one file each.

mod attack;
mod attribute;
mod audit;
mod clusters;
mod correct;
mod correct_report;
mod damping;
mod damping_plot;
mod data;
mod explain;
mod fast_if;
mod fragility;
mod group;
mod lds;
mod lds_judged;
mod multistage;
mod perturb;
mod select;
mod trace;
mod train;
mod train_network;
mod train_plan;
mod verify;
mod what_if;

use std::path::{Path, PathBuf};

use if_models::Removal;

use crate::args::{Command, ModelName};
use crate::console::Console;
use crate::error::Failure;
use crate::job::Settings;
use crate::output::Report;
use crate::source::Data;

/// Runs a command to what it has to say.
pub fn run(command: &Command, console: &Console) -> Result<Report, Failure> {
    match command {
        Command::Train(args) => train::run(args, console),
        Command::Attribute(args) => attribute::run(args, console),
        Command::Explain(args) => explain::run(args, console),
        Command::Fastif(args) => fast_if::run(args, console),
        Command::Correct(args) => correct::run(args, console),
        Command::Clusters(args) => clusters::run(args, console),
        Command::Audit(args) => audit::run(args, console),
        Command::Verify(args) => verify::run(args, console),
        Command::Lds(args) => lds::run(args, console),
        Command::Fragility(args) => fragility::run(args, console),
        Command::Group(args) => group::run(args, console),
        Command::WhatIf(args) => what_if::run(args, console),
        Command::Select(args) => select::run(args, console),
        Command::Perturb(args) => perturb::run(args, console),
        Command::Attack(args) => attack::run(args, console),
        Command::Multistage(args) => multistage::run(args, console),
        Command::Damping(args) => damping::run(args, console),
        Command::Data(args) => data::run(args),
    }
}

/// Refuses a solver that only approximates, for a method that takes solutions.
fn need_exact(settings: &Settings, method: &str) -> Result<(), Failure> {
    if settings.solver.is_exact() {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{method}: expected a solver that solves (cg, block-cg, cholesky, eigen, dual, neumann), found an approximation"
    )))
}

/// `OUT.json` beside an output whose name ends in `.extension`.
fn certificates_beside(output: &Path, option: &str, extension: &str) -> Result<PathBuf, Failure> {
    if output.extension().is_none_or(|found| found != extension) {
        let name = output.display();
        return Err(Failure::input(format!("{option} {name}: expected a name that ends in .{extension}")));
    }
    Ok(output.with_extension("json"))
}

/// Refuses an output of another kind than its name says.
fn need_extension(output: Option<&Path>, option: &str, extension: &str) -> Result<(), Failure> {
    output.map_or(Ok(()), |output| certificates_beside(output, option, extension).map(|_| ()))
}

/// Refuses a meaning of removal where nothing is removed.
fn need_no_removal(settings: &Settings, method: &str) -> Result<(), Failure> {
    match settings.risk.removal {
        Removal::Fixed => Ok(()),
        Removal::Renormalised => {
            Err(Failure::input(format!("{method} removes no example: expected no --removal renormalised")))
        }
    }
}

/// The side of square images.
fn square_width(data: &Data) -> Result<usize, Failure> {
    match *data.set.features().shape() {
        [_, height, width] | [_, 1, height, width] if height == width => Ok(width),
        ref shape => Err(Failure::input(format!(
            "--picture: expected square images of one channel, found examples of shape {:?} in {}",
            &shape[1..],
            data.source
        ))),
    }
}

/// Grey levels of example `i`, dark ink on white as on paper.
fn ink(data: &Data, i: usize) -> Vec<u8> {
    let mut values = vec![0.0f64; data.set.width()];
    data.set.features().read_row(i, &mut values);
    on_paper(&values)
}

/// Values from 0, white, to 1, black.
fn on_paper(values: &[f64]) -> Vec<u8> {
    values.iter().map(|value| (255.0 * (1.0 - value)).round() as u8).collect()
}

/// An SVG document of grey pictures of one width, each with its caption.
fn picture_row(title: &str, shown: &[(Vec<u8>, String)], width: usize) -> String {
    let pictures: Vec<if_plot::Picture> =
        shown.iter().map(|(pixels, caption)| if_plot::Picture { pixels, width, caption }).collect();
    if_plot::PictureRow { title, pictures: &pictures }.svg()
}

/// `--model` as it was given.
fn model_name(name: &ModelName) -> String {
    match name {
        ModelName::Softmax => "softmax".into(),
        ModelName::Logistic => "logistic".into(),
        ModelName::Svm => "svm".into(),
        ModelName::File(path) => path.display().to_string(),
        ModelName::Mlp(widths) => format!("mlp:{}", join(widths)),
        ModelName::Cnn(planes) => format!("cnn:{}", join(planes)),
    }
}

fn join(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}
