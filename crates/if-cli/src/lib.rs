//! The program `influence`: arguments become validated jobs, jobs run methods, results become
//! tables, files and one JSON document.

mod args;
mod commands;
mod console;
mod device;
mod error;
mod factors;
mod fit;
mod flip;
mod groups;
mod job;
mod key;
mod measure;
mod model;
mod output;
mod parse;
mod partial;
mod picture;
mod retrain;
mod run_dir;
mod session;
mod sketches;
mod solver;
mod source;
mod spec_file;
mod subsets;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};
use serde_json::json;

use crate::args::{Cli, Command};
use crate::console::Console;
use crate::error::{CLEAN, FLAGGED, Failure, INPUT, OTHER};
use crate::output::{Report, document, print};

/// Runs the command line `args` (with the program's name) to its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let wants_json = args.iter().any(|arg| arg == "--json");
    std::panic::set_hook(Box::new(report_panic));
    let code = catch_unwind(AssertUnwindSafe(|| match Cli::try_parse_from(args) {
        Ok(cli) => execute(&cli),
        Err(usage) if matches!(usage.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            finish_print(&usage.render().to_string(), CLEAN)
        }
        Err(usage) => refuse_usage(&usage, wants_json),
    }));
    ExitCode::from(code.unwrap_or(OTHER))
}

fn execute(cli: &Cli) -> u8 {
    console::catch_interrupts();
    let console = Console::default();
    let name = command_name(&cli.command);
    let command = || commands::run(&cli.command, &console);
    let result = start_threads(cli.global.threads).and_then(|()| device::or_on_cpu(&console, command));
    console.clear();
    match result {
        Ok(Report { text, json, flagged }) => {
            let code = if flagged { FLAGGED } else { CLEAN };
            let printed = if cli.global.json { lines(&document(name, json)) } else { text };
            finish_print(&printed, code)
        }
        Err(failure) => refuse(&failure, name, cli.global.json),
    }
}

fn start_threads(threads: Option<usize>) -> Result<(), Failure> {
    let Some(threads) = threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| Failure::Other(format!("cannot start {threads} threads: {error}")))
}

fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Train(_) => "train",
        Command::Attribute(_) => "attribute",
        Command::Explain(_) => "explain",
        Command::Fastif(_) => "fastif",
        Command::Correct(_) => "correct",
        Command::Clusters(_) => "clusters",
        Command::Audit(_) => "audit",
        Command::Verify(_) => "verify",
        Command::Lds(_) => "lds",
        Command::Fragility(_) => "fragility",
        Command::Group(_) => "group",
        Command::WhatIf(_) => "what-if",
        Command::Select(_) => "select",
        Command::Perturb(_) => "perturb",
        Command::Attack(_) => "attack",
        Command::Multistage(_) => "multistage",
        Command::Damping(_) => "damping",
        Command::Data(_) => "data",
    }
}

fn lines(document: &serde_json::Value) -> String {
    format!("{document:#}\n")
}

fn finish_print(text: &str, code: u8) -> u8 {
    match print(text) {
        Ok(()) => code,
        Err(error) => {
            complain(&format!("error: cannot write to stdout: {error}"));
            OTHER
        }
    }
}

/// One line that says what is wrong, perhaps one more that says what to do.
fn refuse(failure: &Failure, command: &str, json: bool) -> u8 {
    // A path may hold anything; the message stays one line.
    complain(&format!("error: {}", failure.message().replace('\n', "\\n")));
    if let Failure::Input(_, Some(hint)) = failure {
        complain(&format!("hint: {hint}"));
    }
    let code = failure.exit_code();
    if json {
        let error = json!({ "error": failure.message(), "exit_code": code });
        finish_print(&lines(&document(command, error)), code);
    }
    code
}

/// clap spreads a usage error over a paragraph; here it is a line and a hint.
fn refuse_usage(usage: &clap::Error, json: bool) -> u8 {
    let text = usage.render().to_string();
    if usage.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain(text.trim_end());
        return INPUT;
    }
    if let Some(message) = wrong_value(usage) {
        return refuse(&Failure::input(message), "usage", json);
    }
    let (mut message, mut hint) = (Vec::new(), "influence --help".to_owned());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(form) = line.strip_prefix("Usage: ") {
            hint = form.split(" --").next().unwrap_or(form).split(" [").next().unwrap_or(form).to_owned()
                + " --help";
        } else if !line.starts_with("For more information") {
            message.push(line);
        }
    }
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    refuse(&Failure::input(message).hint(hint), "usage", json)
}

/// `--damping: expected a number of at least 0, found "-1"`.
fn wrong_value(usage: &clap::Error) -> Option<String> {
    let text = |kind| usage.get(kind).map(ToString::to_string);
    let reason = std::error::Error::source(usage)?.to_string();
    let option = text(ContextKind::InvalidArg)?;
    let option = option.split(' ').next()?;
    let value = format!("{:?}", text(ContextKind::InvalidValue)?);
    let found = if reason.contains(&value) { String::new() } else { format!(", found {value}") };
    Some(format!("{option}: {reason}{found}"))
}

fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|s| &**s));
    let text = text.unwrap_or("no message").replace('\n', " ");
    let place = panic.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
    complain(&format!("error: a bug in influence, please report it: {text}{place}"));
}

#[allow(clippy::print_stderr)]
fn complain(line: &str) {
    eprintln!("{line}");
}
