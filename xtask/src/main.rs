//! `cargo xtask`: one command for each thing that is done to this repository.

// A program: it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod process;
mod solvers;
mod test;
mod tidy;

use std::process::ExitCode;

use process::{cargo, repository};

const HELP: &str = "\
cargo xtask test [--full]            format, lints, tidy, all tests; --full adds the long tests
cargo xtask tidy                     the layer rules and the documentation
cargo xtask reproduce [--only ID]... rerun the papers' experiments (--help shows all arguments)
cargo xtask bench [NAME]             benchmarks, all or one of linalg, models, networks, mnist
cargo xtask bench solvers [NAME]...  cost and accuracy of every solver, or of those named, on one network
cargo xtask bench preconditioners     products to 1e-6 with each, at three dampings
cargo xtask data ...                 datasets: list, fetch, verify (as `influence data`)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    };
    let result = match (command.as_str(), rest) {
        ("help" | "--help" | "-h", _) => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ("test", []) => test::run(false),
        ("test", [full]) if full == "--full" => test::run(true),
        ("tidy", []) => tidy::run(),
        ("test" | "tidy", _) => return usage(&format!("unexpected arguments: {}", arguments.join(" "))),
        ("reproduce", _) => forward(&["run", "--release", "-p", "if-experiments", "--"], rest),
        ("bench", [name, only @ ..]) if name == "solvers" => solvers::run(only),
        ("bench", [name]) if name == "preconditioners" => solvers::preconditioners(),
        ("bench", []) => forward(&["bench", "-p", "if-benches"], rest),
        ("bench", _) => forward(&["bench", "-p", "if-benches", "--bench"], rest),
        ("data", _) => forward(&["run", "--release", "-p", "if-cli", "--", "data"], rest),
        _ => return usage(&format!("no command '{command}'; `cargo xtask` lists them")),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn usage(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(2)
}

/// Runs cargo in the repository's root with `rest` appended, and exits as it does.
fn forward(cargo_arguments: &[&str], rest: &[String]) -> anyhow::Result<ExitCode> {
    let status = cargo(&repository()).args(cargo_arguments).args(rest).status()?;
    // No code: ended by a signal.
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
