//! The commands, one file each.

mod attribute;
mod audit;
mod damping;
mod damping_plot;
mod data;
mod explain;
mod train;
mod train_network;
mod train_plan;
mod verify;

use crate::args::{Command, ModelName};
use crate::console::Console;
use crate::error::Failure;
use crate::output::Report;

/// Runs a command to what it has to say.
pub fn run(command: &Command, console: &Console) -> Result<Report, Failure> {
    match command {
        Command::Train(args) => train::run(args, console),
        Command::Attribute(args) => attribute::run(args, console),
        Command::Explain(args) => explain::run(args, console),
        Command::Audit(args) => audit::run(args, console),
        Command::Verify(args) => verify::run(args, console),
        Command::Damping(args) => damping::run(args, console),
        Command::Data(args) => data::run(args),
    }
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
