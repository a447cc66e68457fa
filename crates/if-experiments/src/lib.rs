//! The papers' experiments, rerun: what is measured, beside what the paper reports and a gate.
//!
//! An experiment is one file that implements [`Experiment`] and one line in [`all`]. It measures;
//! the rest (arguments, progress, files, tables, plots, the HTML report) is done here once.

// A program in library form: this crate and `if-cli` are the two that talk to the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod eta;
mod experiments;
mod harness;
mod markdown;
pub mod number;
mod progress;
pub mod provenance;
mod report;
pub mod result;
mod run;
mod store;
mod support;
mod terminal;

#[cfg(test)]
mod sample;

pub use harness::{Context, Experiment, Figure, Outcome};
pub use markdown::write_reproduction;
pub use run::{Plan, Request, Summary, committed_results, list};

/// Every experiment, in the order of the report.
pub fn all() -> Vec<Box<dyn Experiment>> {
    vec![
        Box::new(experiments::SoftmaxLoo),
        Box::new(experiments::ConvNet),
        Box::new(experiments::Hinge),
        Box::new(experiments::TrainingSetAttack),
        Box::new(experiments::Children),
        Box::new(experiments::Mislabel),
        Box::new(experiments::Distance),
        Box::new(experiments::GroupEffects),
        Box::new(experiments::Counterexamples),
        Box::new(experiments::Credit),
        Box::new(experiments::SecondOrder),
        Box::new(experiments::GroupSelection),
        Box::new(experiments::TwoStageInfluence),
        Box::new(experiments::TracInMislabel),
        Box::new(experiments::FastIf),
        Box::new(experiments::ErrorCorrection),
        Box::new(experiments::Simulatability),
        Box::new(experiments::Interactions),
        Box::new(experiments::Fragility),
        Box::new(experiments::DigitsLoo),
    ]
}
