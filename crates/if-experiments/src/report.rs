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
        nav class="scroll" {
            table class="overview" {
                thead { tr { th { "Experiment" } th { "Paper" } th class="number" { "Gates met" } th class="number" { "Time" } } }
                tbody {
                    @for Stored { record, .. } in results {
                        @let (met, all) = record.gates();
                        tr {
                            td { a href={ "#" (record.id) } { (record.id) } " " (record.title) }
                            td { (record.paper) }
                            td.number.missed[met < all] { (met) " of " (all) }
                            td class="number" { (duration(record.seconds)) }
                        }
                    }
                }
            }
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
            table {
                thead {
                    tr { th { "Metric" } th class="number" { "Measured" } th { "Gate" } th { "Verdict" } th { "Reported" } }
                }
                tbody {
                    @for metric in metrics {
                        tr {
                            td { (metric.name) }
                            td class="number" { (short(metric.value)) }
                            td class="gate" { @if let Some(gate) = metric.gate { (gate) } }
                            td class=(mark(metric)) { (mark(metric)) }
                            td { (reported(metric)) }
                        }
                    }
                }
            }
        }
    }
}

fn own_table(table: &Table) -> Markup {
    html! {
        div class="scroll" {
            table {
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
        }
        p class="rerun" { "Run just this again: " code { (record.command) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sample, store};

    /// The report over a run of the sample experiments. Look at it in a browser after a change:
    /// `IF_SAMPLE_REPORT=DIR cargo test -p if-experiments sample_report` keeps the files in DIR.
    #[test]
    fn sample_report_is_complete_and_escaped() {
        let temporary = tempfile::tempdir().unwrap();
        let out = std::env::var_os("IF_SAMPLE_REPORT").map_or(temporary.path().to_path_buf(), Into::into);
        sample::run(&out, &[]).unwrap();

        let page = std::fs::read_to_string(out.join("index.html")).unwrap();
        for part in
            ["0.9993", "≥ 0.99", "missed", "diagonal (plot)", "cargo xtask reproduce --only sample", "<svg"]
        {
            assert!(page.contains(part), "no '{part}'");
        }
        assert!(!page.contains("<b>bold</b>") && page.contains("&lt;b&gt;bold"));
        assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("url("));
    }

    #[test]
    fn a_lost_plot_is_named() {
        let out = tempfile::tempdir().unwrap();
        sample::run(out.path(), &[]).unwrap();
        std::fs::remove_file(out.path().join("sample/scatter.svg")).unwrap();
        let (results, unreadable) = store::load_all(out.path()).unwrap();
        assert!(unreadable.is_empty());
        assert!(html(&results).contains("The file scatter.svg is missing."));
    }
}
