//! `REPRODUCTION.md`: what the committed results say, a line for every experiment, and everything about missed gates.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::harness::Experiment;
use crate::number::{duration, short};
use crate::result::{Metric, Record};
use crate::run::committed_results;
use crate::store;
use crate::terminal::reported;

const HEAD: &str = "\
# Reproduction

Written by `cargo xtask reproduce --markdown` from the committed results (`crates/if-experiments/results`): do not edit.
`cargo xtask reproduce --only ID` repeats a row, with its plots, all its numbers and the notes on what deviates from the
paper. These are results of the command in the last table: where it does not say `--full`, what only that runs is not among
them. Gates were set before the runs and are not moved. A row shows its first gate, or the first that is missed; all that
are missed stand below, with what was tried. Times depend on what else the machine did: they tell minutes from hours.

";

/// Writes the document over the committed results, in the order of `all`.
///
/// # Errors
/// An experiment without committed result, or a file that is none.
pub fn write_reproduction(all: &[Box<dyn Experiment>]) -> anyhow::Result<()> {
    store::write(&file(), &reproduction(all, &committed_results())?)
}

/// In the root of this repository.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../REPRODUCTION.md")
}

fn reproduction(all: &[Box<dyn Experiment>], committed: &Path) -> anyhow::Result<String> {
    let mut records = Vec::new();
    for experiment in all {
        let id = experiment.id();
        let record = store::committed(committed, id)?;
        records.push(record.with_context(|| format!("no {id}.json in {}", committed.display()))?);
    }
    Ok(document(&records))
}

fn document(records: &[Record]) -> String {
    let mut text = HEAD.to_owned();
    text += "| id | experiment | metric | reported | measured | gate | verdict |\n|---|---|---|---|---|---|---|\n";
    for record in records {
        text += &overview(record);
    }
    text += "\n## Missed gates\n";
    let missed: Vec<&Record> = records.iter().filter(|record| misses(record).next().is_some()).collect();
    if missed.is_empty() {
        text += "\nNone.\n";
    }
    for record in missed {
        text += &misses_of(record);
    }
    text += "\n## Runs\n\n| id | command | time | revision | date | machine |\n|---|---|---|---|---|---|\n";
    for record in records {
        text += &run(record);
    }
    text
}

fn misses(record: &Record) -> impl Iterator<Item = &Metric> {
    record.metrics.iter().filter(|metric| metric.pass == Some(false))
}

fn overview(record: &Record) -> String {
    let (met, all) = record.gates();
    let gated = record.metrics.iter().find(|metric| metric.gate.is_some());
    let metric = misses(record).next().or(gated).or(record.metrics.first());
    let metric = metric.map_or_else(Default::default, cells);
    let verdict = match (met, all) {
        (_, 0) => "no number to judge by".to_owned(),
        _ if met == all => format!("met: {met} of {all}"),
        _ => format!("missed: {met} of {all}"),
    };
    let experiment = format!("{}: {}", record.paper, record.title);
    let [name, reported, measured, gate] = metric;
    row(&[&record.id, &experiment, &name, &reported, &measured, &gate, &verdict])
}

fn cells(metric: &Metric) -> [String; 4] {
    let gate = metric.gate.map_or(String::new(), |gate| gate.to_string());
    [metric.name.clone(), reported(metric), short(metric.value), gate]
}

fn misses_of(record: &Record) -> String {
    let mut text = format!("\n### {} {}\n\n", plain(&record.id), plain(&record.title));
    text += "| missed | reported | measured | gate |\n|---|---|---|---|\n";
    for metric in misses(record) {
        text += &row(&cells(metric));
    }
    text.push('\n');
    for note in &record.notes {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "- {}", plain(note));
    }
    text
}

fn run(record: &Record) -> String {
    let unknown = || "not recorded".to_owned();
    let of = |value: fn(&crate::provenance::Provenance) -> &String| {
        record.measured.as_ref().map_or_else(unknown, |measured| value(measured).clone())
    };
    row(&[
        record.id.clone(),
        format!("`{}`", record.command),
        duration(record.seconds),
        of(|measured| &measured.revision),
        of(|measured| &measured.date),
        of(|measured| &measured.machine),
    ])
}

fn row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| plain(cell.as_ref())).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Text that cannot end a cell or a line, nor become HTML.
fn plain(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Gate;

    #[test]
    fn every_row_tells_its_gate_and_every_miss_what_was_tried() {
        let mut good = crate::sample::record("good");
        good.metrics = vec![
            Metric::new("size", 3.0),
            Metric::new("R | a", 0.99).gate(Gate::AtLeast(0.9)).reported(0.875, "notebook"),
        ];
        let mut bad = crate::sample::record("bad");
        bad.metrics = vec![
            Metric::new("R", 1.0).gate(Gate::AtLeast(0.9)),
            Metric::new("slope", 2.0).gate(Gate::Between(0.85, 1.05)),
        ];
        bad.notes = vec!["Tried in vain:\n<b>everything</b>.".into()];
        let mut picture = crate::sample::record("picture");
        picture.metrics = vec![Metric::new("size", 3.0)];
        let text = document(&[good, bad, picture]);
        let experiment = "Nobody 2000: A made-up experiment";
        for line in [
            format!("| good | {experiment} | R \\| a | 0.875 (notebook) | 0.9900 | ≥ 0.9 | met: 1 of 1 |"),
            format!("| bad | {experiment} | slope |  | 2.000 | 0.85 to 1.05 | missed: 1 of 2 |"),
            format!("| picture | {experiment} | size |  | 3.000 |  | no number to judge by |"),
            "### bad A made-up experiment".into(),
            "| slope |  | 2.000 | 0.85 to 1.05 |".into(),
            "- Tried in vain: &lt;b>everything&lt;/b>.".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
        assert!(!text.contains("### good"));
    }

    /// Whoever commits a result writes the document again.
    #[test]
    fn the_document_is_that_of_the_committed_results() {
        let written = std::fs::read_to_string(file()).unwrap();
        let expected = reproduction(&crate::all(), &committed_results()).unwrap();
        assert!(written == expected, "REPRODUCTION.md is old: cargo xtask reproduce --markdown");
    }
}
