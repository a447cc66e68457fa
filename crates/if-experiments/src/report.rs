//! `index.html`: all results on one page without scripts or anything to load, for screens of any
//! width and for paper.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::number::{duration, short};
use crate::result::{FigureFile, Metric, Record, Table};
use crate::store::Stored;
use crate::terminal::{mark, reported};

const STYLE: &str = include_str!("report.css");

/// The page over `results`, in their order.
pub fn html(results: &[Stored]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Influence functions: the papers' experiments, rerun" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Influence functions: the papers’ experiments, rerun" }
                    p { "Every number here was measured by the command given below it. "
                        "A gate is a target fixed before the run; a missed one is shown as missed." }
                }
                @if results.is_empty() { p { "There are no results yet." } } @else { (overview(results)) }
                @for stored in results { (experiment(stored)) }
            }
        }
    };
    page.into_string()
}

fn overview(results: &[Stored]) -> Markup {
    html! {
        nav aria-label="Experiments" {
            table class="overview rows" {
                thead { tr { th { "Experiment" } th { "Paper" } th { "Gates met" } th class="number" { "Time" } } }
                tbody {
                    @for Stored { record, .. } in results {
                        tr {
                            th scope="row" { a href={ "#" (record.id) } { (record.id) } " " (record.title) }
                            td class="wide" data-name="Paper" { (record.paper) }
                            (gates(record))
                            td class="number" data-name="Time" { (duration(record.seconds)) }
                        }
                    }
                }
            }
        }
    }
}

/// The cell that says how many gates are met.
fn gates(record: &Record) -> Markup {
    let (met, all) = record.gates();
    html! {
        td.verdict.missed[met < all] data-name="Gates met" {
            (met) " of " (all)
            @if met < all { ", " (all - met) " missed" }
        }
    }
}

fn experiment(stored: &Stored) -> Markup {
    let record = &stored.record;
    html! {
        section id=(record.id) {
            h2 { span class="id" { (record.id) } " " (record.title) }
            p class="paper" { (record.paper) }
            p class="claim" { (record.claim) }
            (figures(stored, &record.plots))
            (metrics(&record.metrics))
            @for table in &record.tables { (own_table(table)) }
            (figures(stored, &record.pictures))
            @if !record.notes.is_empty() {
                ul class="notes" { @for note in &record.notes { li { (note) } } }
            }
            (settings(record))
        }
    }
}

fn figures(stored: &Stored, files: &[FigureFile]) -> Markup {
    html! {
        @if !files.is_empty() {
            div class="figures" {
                @for file in files {
                    figure {
                        // Written by this program, with its text escaped there.
                        @match stored.svg(file) {
                            Some(svg) => (PreEscaped(svg)),
                            None => p class="missed" { "The file " (file.file) " is missing." },
                        }
                        figcaption { (file.caption) }
                    }
                }
            }
        }
    }
}

fn metrics(metrics: &[Metric]) -> Markup {
    html! {
        div class="scroll" {
            table class="metrics rows" {
                thead {
                    tr { th { "Metric" } th { "Reported" } th class="number" { "Measured" } th { "Gate" } th { "Verdict" } }
                }
                tbody {
                    @for metric in metrics {
                        tr {
                            th scope="row" { (metric.name) }
                            td class="wide" data-name="Reported" { (reported(metric)) }
                            td class="number" data-name="Measured" { (short(metric.value)) }
                            td class="gate" data-name="Gate" { @if let Some(gate) = metric.gate { (gate) } }
                            td class={ "verdict " (mark(metric)) } data-name="Verdict" { (verdict(metric)) }
                        }
                    }
                }
            }
        }
    }
}

/// In words and with a sign, for readers who do not see the colour.
fn verdict(metric: &Metric) -> &'static str {
    match metric.pass {
        Some(true) => "✓ met",
        Some(false) => "✗ missed",
        None => "",
    }
}

fn own_table(table: &Table) -> Markup {
    html! {
        // Reached by the keyboard, so that it can be scrolled by it.
        div class="scroll" tabindex="0" role="region" aria-label=(table.title) {
            table class="own" {
                caption { (table.title) }
                thead { tr { @for (i, column) in table.columns.iter().enumerate() { th.number[i > 0] { (column) } } } }
                tbody {
                    @for row in &table.rows {
                        tr { @for (i, cell) in row.iter().enumerate() { td.number[i > 0] { (cell) } } }
                    }
                }
            }
        }
    }
}

fn settings(record: &Record) -> Markup {
    let seeds: Vec<String> = record.seeds.iter().map(u64::to_string).collect();
    html! {
        dl {
            @for (name, value) in &record.settings {
                // Text without the quotation marks that JSON puts around it.
                div { dt { (name) } dd { @match value.as_str() { Some(text) => (text), None => (value) } } }
            }
            @if !seeds.is_empty() { div { dt { "seeds" } dd { (seeds.join(", ")) } } }
            div { dt { "time" } dd { (duration(record.seconds)) } }
            @if let Some(measured) = &record.measured {
                div { dt { "machine" } dd { (measured.machine) } }
                div { dt { "revision" } dd { (measured.revision) } }
                div { dt { "date" } dd { (measured.date) } }
            }
        }
        p { "Run just this again: " code { (record.command) } }
    }
}

#[cfg(test)]
mod tests;
