//! Made-up experiments and results for tests.

use std::path::Path;

use crate::harness::{Context, Experiment, Figure, Outcome};
use crate::result::{Gate, Metric, Record, Table};
use crate::run::{Plan, Request, Summary};
use if_plot::{LineChart, Picture, PictureRow, Scatter, Series};

/// A result without measurements.
pub fn record(id: &str) -> Record {
    Record {
        id: id.into(),
        paper: "Nobody 2000".into(),
        title: "A made-up experiment".into(),
        claim: "Nothing.".into(),
        metrics: Vec::new(),
        seeds: vec![0],
        seconds: 1.0,
        settings: Default::default(),
        command: format!("cargo xtask reproduce --only {id}"),
        measured: None,
        plots: Vec::new(),
        pictures: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    }
}

/// Runs the sample experiments of `only` (all if empty) into `out`, with what lies in its folder
/// `committed` as the committed results.
pub fn run(out: &Path, only: &[&str]) -> anyhow::Result<Summary> {
    plan(out, only)?.run()
}

/// The plan of [`run`].
pub fn plan(out: &Path, only: &[&str]) -> anyhow::Result<Plan> {
    let all: Vec<Box<dyn Experiment>> = vec![Box::new(Broken), Box::new(Sample), Box::new(Needy)];
    let only = only.iter().map(|id| id.to_string()).collect();
    let request =
        Request { only, out: out.to_path_buf(), committed: out.join("committed"), keep_since: None };
    Plan::new(all, Context::new(None, false, 0), request)
}

/// Panics.
struct Broken;

impl Experiment for Broken {
    fn id(&self) -> &str {
        "broken"
    }
    fn paper(&self) -> &str {
        "Nobody 2000"
    }
    fn title(&self) -> &str {
        "Panics"
    }
    fn claim(&self) -> &str {
        ""
    }
    fn run(&self, _: &Context) -> anyhow::Result<Outcome> {
        panic!("on purpose")
    }
}

/// Needs data that are not there.
struct Needy;

impl Experiment for Needy {
    fn id(&self) -> &str {
        "needy"
    }
    fn paper(&self) -> &str {
        "Nobody 2000"
    }
    fn title(&self) -> &str {
        "Lacks its data"
    }
    fn claim(&self) -> &str {
        ""
    }
    fn needs(&self) -> &[&str] {
        &["no-such-set"]
    }
    fn run(&self, _: &Context) -> anyhow::Result<Outcome> {
        unreachable!("its data are missing")
    }
}

/// Uses everything that the report can show.
struct Sample;

impl Experiment for Sample {
    fn id(&self) -> &str {
        "sample"
    }
    fn paper(&self) -> &str {
        "Koh & Liang 2017"
    }
    fn title(&self) -> &str {
        "Leave-one-out retraining against influence, softmax regression on MNIST"
    }
    fn claim(&self) -> &str {
        "First-order influence predicts how the loss of a test point changes when one training example is left out."
    }
    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        context.progress("sampling", 1, 2);
        let mut outcome = Outcome {
            metrics: metrics(),
            seeds: context.seeds(3),
            plots: vec![scatter(), curves()],
            pictures: vec![pictures()],
            tables: vec![recalls()],
            notes: vec!["Text is escaped: <b>bold</b> & 'quoted'.".into()],
            ..Outcome::default()
        };
        outcome.setting("n", 5500);
        outcome.setting("l2", 0.01);
        outcome.setting("solver", "conjugate gradients, tolerance 1e-8");
        outcome.setting("removal", "renormalised");
        Ok(outcome)
    }
}

fn metrics() -> Vec<Metric> {
    vec![
        Metric::new("R, top 100", 0.99932).gate(Gate::AtLeast(0.99)).reported_as("diagonal (plot)"),
        Metric::new("slope through the origin", 1.073).gate(Gate::Between(0.85, 1.05)),
        Metric::new("relative error", 0.0412).gate(Gate::AtMost(0.1)),
        Metric::new("fixed at 10 % checked", 0.61).reported(0.62, "notebook's plot"),
        Metric::new("largest absolute change", 4.1e-5),
        Metric::new("not measurable", f64::NAN).gate(Gate::Above(0.0)),
    ]
}

/// Numbers without a pattern, between -1 and 1.
fn noise(i: usize) -> f64 {
    (i as f64 * 12.9898).sin() * 43758.5453 % 1.0
}

fn scatter() -> Figure {
    let points: Vec<_> =
        (0..100).map(|i| (noise(i) * 4e-5, noise(i) * 3.8e-5 + noise(i + 500) * 2e-6)).collect();
    let svg = Scatter {
        title: "Predicted against actual change of the loss of test point 7",
        x_label: "actual, by retraining",
        y_label: "predicted",
        points: &points,
        annotation: "R = 0.9993\nslope = 1.073",
        diagonal: true,
    }
    .svg();
    Figure { name: "scatter".into(), caption: "Each point is a left-out example.".into(), svg }
}

fn curves() -> Figure {
    let curve =
        |speed: f64| (0..=20).map(move |i| i as f64 / 20.0).map(move |x| (x, 1.0 - (-speed * x).exp()));
    let influence: Vec<_> = curve(9.0).collect();
    let band: Vec<_> = influence.iter().map(|&(_, y)| (y - 0.04, (y + 0.04).min(1.0))).collect();
    let (loss, norm): (Vec<_>, Vec<_>) = (curve(7.0).collect(), curve(8.6).collect());
    let random: Vec<_> = (0..=20).map(|i| (i as f64 / 20.0, i as f64 / 20.0)).collect();
    let svg = LineChart {
        title: "Flipped labels found",
        x_label: "fraction of the training data checked",
        y_label: "fraction of the flips fixed",
        series: &[
            Series { name: "self-influence", points: &influence, band: &band },
            Series { name: "loss", points: &loss, band: &[] },
            Series { name: "gradient norm", points: &norm, band: &[] },
            Series { name: "random", points: &random, band: &[] },
        ],
        y_covers: None,
    }
    .svg();
    Figure { name: "recall".into(), caption: "Mean over 3 seeds; band: least and most.".into(), svg }
}

fn pictures() -> Figure {
    let digit = |seed: usize| -> Vec<u8> {
        let ink = |i: usize| {
            let (x, y) = ((i % 28) as f64 - 14.0, (i / 28) as f64 - 14.0);
            let ring = (x.hypot(y * 0.7) - 7.0 - noise(seed)).abs();
            (255.0 * (ring / 2.5).min(1.0)) as u8
        };
        (0..28 * 28).map(ink).collect()
    };
    let (pixels, captions): (Vec<_>, Vec<_>) =
        (0..6).map(|i| (digit(i), format!("train {}\nlabel {i}\n{:+.4}", 1234 + i, noise(i)))).unzip();
    let pictures: Vec<_> = pixels
        .iter()
        .zip(&captions)
        .map(|(pixels, caption)| Picture { pixels, width: 28, caption })
        .collect();
    let svg = PictureRow { title: "Strongest proponents of test point 7", pictures: &pictures }.svg();
    Figure { name: "proponents".into(), caption: "With label and predicted change.".into(), svg }
}

fn recalls() -> Table {
    let row = |cells: [&str; 4]| cells.map(String::from).to_vec();
    Table {
        title: "Recall by method".into(),
        columns: row(["method", "at 10 %", "at 20 %", "at 30 %"]),
        rows: vec![row(["self-influence", "0.61", "0.80", "0.91"]), row(["random", "0.10", "0.20", "0.30"])],
    }
}
