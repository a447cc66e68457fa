//! The program behind `cargo xtask reproduce`.

// A program: results go to stdout, errors to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use if_experiments::{Context, Plan, Request, all, committed_results, list, write_reproduction};

/// Reruns the papers' experiments and says how close they came.
#[derive(Parser)]
#[command(name = "cargo xtask reproduce")]
struct Arguments {
    /// Run only this experiment; may be given several times
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// List the experiments and stop
    #[arg(long)]
    list: bool,
    /// Write REPRODUCTION.md from the committed results and stop
    #[arg(long)]
    markdown: bool,
    /// Where results and index.html go
    #[arg(long, value_name = "DIR", default_value = "target/reproduce")]
    out: PathBuf,
    /// Where the datasets are; by default $INFLUENCE_DATA
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Go on after an interrupt: keep results that this build has written for the same command
    #[arg(long)]
    resume: bool,
    /// Run the long variants
    #[arg(long)]
    full: bool,
    /// The first random seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let data = arguments.data.or_else(|| std::env::var_os("INFLUENCE_DATA").map(PathBuf::from));
    let context = Context::new(data, arguments.full, arguments.seed);
    if arguments.list {
        print!("{}", list(&all(), &context));
        return ExitCode::SUCCESS;
    }
    if arguments.markdown {
        return finish(write_reproduction(&all()).map(|()| true));
    }
    let keep_since = arguments.resume.then(built).flatten();
    let request =
        Request { only: arguments.only, out: arguments.out, committed: committed_results(), keep_since };
    let plan = match Plan::new(all(), context, request) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    finish(plan.run().map(|summary| summary.success()))
}

/// The exit code of what has succeeded or not, or could not be done.
fn finish(success: anyhow::Result<bool>) -> ExitCode {
    match success {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// When this program was built, as far as the file system knows.
fn built() -> Option<SystemTime> {
    std::env::current_exe().and_then(std::fs::metadata).and_then(|file| file.modified()).ok()
}
