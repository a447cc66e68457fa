//! Results as a table for the terminal.

use crate::number::{duration, short};
use crate::result::{Metric, Record};

/// The metrics of `record` as an aligned table with a heading.
pub fn table(record: &Record) -> String {
    let mut rows = vec![["metric", "measured", "target", "reported", ""].map(String::from)];
    rows.extend(record.metrics.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);

    let mut text = format!("{}  {} ({})\n", record.id, record.title, duration(record.seconds));
    for row in &rows {
        let line = format!(
            "  {:<4$}  {:>5$}  {:<6$}  {:<7$}",
            row[0], row[1], row[2], row[3], widths[0], widths[1], widths[2], widths[3]
        );
        text.push_str(format!("{line}  {}", row[4]).trim_end());
        text.push('\n');
    }
    text
}

fn cells(metric: &Metric) -> [String; 5] {
    [
        metric.name.clone(),
        short(metric.value),
        metric.gate.map_or(String::new(), |gate| gate.to_string()),
        reported(metric),
        mark(metric).into(),
    ]
}

/// The paper's number and where it was read.
pub fn reported(metric: &Metric) -> String {
    match (metric.reported, &metric.reported_source) {
        (Some(value), Some(source)) => format!("{value} ({source})"),
        (Some(value), None) => value.to_string(),
        (None, Some(source)) => source.clone(),
        (None, None) => String::new(),
    }
}

/// `pass`, `missed`, or nothing where there is no gate.
pub fn mark(metric: &Metric) -> &'static str {
    match metric.pass {
        Some(true) => "pass",
        Some(false) => "missed",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Gate;

    #[test]
    fn columns_are_aligned_and_misses_are_named() {
        let mut record = crate::sample::record("1a");
        record.metrics = vec![
            Metric::new("R", 0.9993).gate(Gate::AtLeast(0.99)).reported_as("diagonal (plot)"),
            Metric::new("slope", 1.23).gate(Gate::Between(0.85, 1.05)),
            Metric::new("examples", 5500.0),
        ];
        record.seconds = 12.3;
        let expected = "\
1a  A made-up experiment (12 s)
  metric    measured  target        reported
  R           0.9993  ≥ 0.99        diagonal (plot)  pass
  slope        1.230  0.85 to 1.05                   missed
  examples      5500
";
        assert_eq!(table(&record), expected);
    }
}
