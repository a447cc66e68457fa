//! What one experiment says: the contract of `result.json`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::provenance::Provenance;

/// The condition that a measured value has to meet. In JSON it is the pair `op`, `target`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "target")]
pub enum Gate {
    /// `value >= target`.
    #[serde(rename = ">=")]
    AtLeast(f64),
    /// `value <= target`.
    #[serde(rename = "<=")]
    AtMost(f64),
    /// `value > target`.
    #[serde(rename = ">")]
    Above(f64),
    /// `value < target`.
    #[serde(rename = "<")]
    Below(f64),
    /// `low <= value <= high`.
    #[serde(rename = "between")]
    Between(f64, f64),
}

impl Gate {
    /// Whether `value` meets the gate; NaN meets none.
    pub fn admits(self, value: f64) -> bool {
        match self {
            Gate::AtLeast(target) => value >= target,
            Gate::AtMost(target) => value <= target,
            Gate::Above(target) => value > target,
            Gate::Below(target) => value < target,
            Gate::Between(low, high) => (low..=high).contains(&value),
        }
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gate::AtLeast(target) => write!(f, "≥ {target}"),
            Gate::AtMost(target) if *target != 0.0 && target.abs() < 1e-4 => write!(f, "≤ {target:e}"),
            Gate::AtMost(target) => write!(f, "≤ {target}"),
            Gate::Above(target) => write!(f, "> {target}"),
            Gate::Below(target) => write!(f, "< {target}"),
            Gate::Between(low, high) => write!(f, "{low} to {high}"),
        }
    }
}

/// One measured number, beside the gate that it has to meet and the number that the paper reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured; unique within its experiment.
    pub name: String,
    /// The measurement. JSON has no NaN: a value that is not finite is written as null.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// The gate; without one the value is only reported.
    #[serde(flatten)]
    pub gate: Option<Gate>,
    /// Whether the gate is met; null where there is none.
    pub pass: Option<bool>,
    /// The number that the paper reports.
    pub reported: Option<f64>,
    /// Where the reported number was read, and how sure that is.
    pub reported_source: Option<String>,
}

impl Metric {
    /// A measurement without gate.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, gate: None, pass: None, reported: None, reported_source: None }
    }

    /// Sets the gate and judges the value by it.
    pub fn gate(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self.pass = Some(gate.admits(self.value));
        self
    }

    /// Adds the paper's number and where it was read.
    pub fn reported(mut self, value: f64, source: impl Into<String>) -> Self {
        self.reported = Some(value);
        self.reported_source = Some(source.into());
        self
    }

    /// Adds what the paper says where it gives no number, such as "on the diagonal (plot)".
    pub fn reported_as(mut self, source: impl Into<String>) -> Self {
        self.reported_source = Some(source.into());
        self
    }
}

/// An SVG file beside `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FigureFile {
    /// File name within the experiment's folder.
    pub file: String,
    /// What is to be seen.
    pub caption: String,
}

/// A table of the experiment's own, with cells formatted by it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What the table shows.
    pub title: String,
    /// Column headings.
    pub columns: Vec<String>,
    /// Rows of cells, as many in each as there are columns. The first column names the row.
    pub rows: Vec<Vec<String>>,
}

/// Everything that is kept of one run of one experiment: `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Short name, the argument of `--only`.
    pub id: String,
    /// The paper.
    pub paper: String,
    /// What was done.
    pub title: String,
    /// What the experiment shows where its gates are met, in one sentence.
    pub claim: String,
    /// The measurements.
    pub metrics: Vec<Metric>,
    /// The random seeds used.
    pub seeds: Vec<u64>,
    /// Wall-clock time of the run.
    pub seconds: f64,
    /// Sizes, hyperparameters and whatever else decides the numbers.
    pub settings: Map<String, Value>,
    /// The command that repeats this run.
    pub command: String,
    /// Where and when; none in results that are older than this field.
    #[serde(default)]
    pub measured: Option<Provenance>,
    /// Plots.
    pub plots: Vec<FigureFile>,
    /// Pictures of examples.
    pub pictures: Vec<FigureFile>,
    /// Further tables.
    pub tables: Vec<Table>,
    /// Deviations from the paper, and what a reader should know before believing the numbers.
    pub notes: Vec<String>,
}

impl Record {
    /// How many gates are met, and how many there are.
    pub fn gates(&self) -> (usize, usize) {
        let judged = || self.metrics.iter().filter_map(|metric| metric.pass);
        (judged().filter(|&pass| pass).count(), judged().count())
    }
}

/// How a run compares with the committed one.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// Gates that the committed run met and this one misses.
    pub lost: Vec<String>,
    /// Gates that the committed run met and this one did not measure (a shorter run may leave some out).
    pub unmeasured: Vec<String>,
}

/// Looks up every gate that `committed` met in `now`.
pub fn compare(committed: &Record, now: &Record) -> Comparison {
    let mut comparison = Comparison::default();
    for met in committed.metrics.iter().filter(|metric| metric.pass == Some(true)) {
        match now.metrics.iter().find(|metric| metric.name == met.name).and_then(|metric| metric.pass) {
            Some(true) => {}
            Some(false) => comparison.lost.push(met.name.clone()),
            None => comparison.unmeasured.push(met.name.clone()),
        }
    }
    comparison
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(metrics: Vec<Metric>) -> Record {
        Record { metrics, ..crate::sample::record("t") }
    }

    #[test]
    fn metric_follows_the_contract() {
        let metric = Metric::new("R", 0.999).gate(Gate::AtLeast(0.99)).reported(0.875, "notebook");
        let expected = json!({"name": "R", "value": 0.999, "op": ">=", "target": 0.99, "pass": true,
            "reported": 0.875, "reported_source": "notebook"});
        assert_eq!(serde_json::to_value(&metric).unwrap(), expected);

        let slope = Metric::new("slope", 1.2).gate(Gate::Between(0.85, 1.05));
        let written = serde_json::to_value(&slope).unwrap();
        assert_eq!(written["target"], json!([0.85, 1.05]));
        assert_eq!(written["op"], "between");
        assert_eq!(written["pass"], false);
        assert_eq!(serde_json::from_value::<Metric>(written).unwrap().gate, slope.gate);
    }

    #[test]
    fn without_gate_nothing_is_judged() {
        let written = serde_json::to_value(Metric::new("n", 3.0)).unwrap();
        assert_eq!(written["pass"], Value::Null);
        assert_eq!(serde_json::from_value::<Metric>(written).unwrap().gate, None);
    }

    #[test]
    fn nan_is_null_and_meets_no_gate() {
        let gates = [
            Gate::AtLeast(0.0),
            Gate::AtMost(0.0),
            Gate::Above(0.0),
            Gate::Below(0.0),
            Gate::Between(-1.0, 1.0),
        ];
        for gate in gates {
            assert!(!gate.admits(f64::NAN), "{gate}");
        }
        let written = serde_json::to_string(&Metric::new("R", f64::NAN).gate(Gate::Above(0.0))).unwrap();
        assert!(written.contains(r#""value":null"#), "{written}");
        let read: Metric = serde_json::from_str(&written).unwrap();
        assert!(read.value.is_nan());
        assert_eq!(read.pass, Some(false));
    }

    #[test]
    fn gates_at_their_targets() {
        assert!(Gate::AtLeast(1.0).admits(1.0) && !Gate::Above(1.0).admits(1.0));
        assert!(Gate::AtMost(1.0).admits(1.0) && !Gate::Below(1.0).admits(1.0));
        assert!(Gate::Between(1.0, 2.0).admits(2.0) && !Gate::Between(1.0, 2.0).admits(2.1));
    }

    #[test]
    fn comparison_names_lost_and_unmeasured_gates() {
        let gated = |name: &str, value: f64| Metric::new(name, value).gate(Gate::AtLeast(1.0));
        let committed =
            record(vec![gated("kept", 1.0), gated("lost", 1.0), gated("gone", 1.0), gated("bad", 0.0)]);
        let now = record(vec![gated("kept", 2.0), gated("lost", f64::NAN), gated("bad", 0.0)]);
        let expected = Comparison { lost: vec!["lost".into()], unmeasured: vec!["gone".into()] };
        assert_eq!(compare(&committed, &now), expected);
    }
}
