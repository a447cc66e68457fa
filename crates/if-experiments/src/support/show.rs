//! Measured against predicted, and the examples behind the numbers.

use if_methods::{Agreement, Extremes, Ranked};
use if_models::Dataset;

use super::pixels_of;
use crate::Figure;
use crate::number::short;
use crate::result::{Gate, Metric};
use if_plot::{Picture, PictureRow, Scatter};

/// What the agreement of predicted with actual changes has to reach.
pub struct Targets {
    /// Pearson's correlation.
    pub pearson: f64,
    /// The slope through the origin, lowest and highest.
    pub slope: (f64, f64),
    /// The relative error: no correlation sees a wrong constant or unit.
    pub relative_error: f64,
}

impl Targets {
    /// Those of the table in Koh & Liang's experiment 1a; the error is what a slope of .85 costs.
    pub const LEAVE_ONE_OUT: Targets = Targets { pearson: 0.99, slope: (0.85, 1.05), relative_error: 0.15 };
}

/// Correlations, slope and error as metrics under names that begin with `prefix`.
pub fn judged(prefix: &str, found: &Agreement, targets: &Targets) -> Vec<Metric> {
    let name = |what: &str| format!("{prefix}{what}");
    vec![
        Metric::new(name("R"), found.pearson).gate(Gate::AtLeast(targets.pearson)),
        Metric::new(name("Spearman"), found.spearman),
        Metric::new(name("slope through the origin"), found.slope)
            .gate(Gate::Between(targets.slope.0, targets.slope.1)),
        Metric::new(name("relative error"), found.relative_error).gate(Gate::AtMost(targets.relative_error)),
    ]
}

/// The cells `R`, `Spearman`, `slope` and `relative error` of a table.
pub fn agreement_row(found: &Agreement) -> Vec<String> {
    [found.pearson, found.spearman, found.slope, found.relative_error].map(short).to_vec()
}

/// Predicted against actual changes of a query's loss.
pub fn pairs_plot(
    name: &str,
    (title, caption): (&str, String),
    (predicted, actual): (&[f64], &[f64]),
) -> Figure {
    let points: Vec<_> = actual.iter().copied().zip(predicted.iter().copied()).collect();
    let found = Agreement::new(predicted, actual);
    let annotation = format!(
        "R = {}\nslope = {}\nrelative error = {}",
        short(found.pearson),
        short(found.slope),
        short(found.relative_error)
    );
    let (x_label, y_label) = ("actual change, by retraining", "predicted change");
    let svg =
        Scatter { title, x_label, y_label, points: &points, annotation: &annotation, diagonal: true }.svg();
    Figure { name: name.into(), caption, svg }
}

/// A query and the predicted changes of its loss, to be shown as pictures.
pub struct Pictured<'a> {
    /// Beginning of the figures' names.
    pub name: &'a str,
    /// The data set of the query, and its row there.
    pub query: (&'a Dataset, usize),
    /// The label that the model gives the query.
    pub predicted: f64,
    /// The training examples, square greyscale images as the query is.
    pub train: &'a Dataset,
    /// Predicted change of the query's loss without each training example.
    pub changes: &'a [f64],
}

impl Pictured<'_> {
    /// With the query, two lines of five pictures.
    const SHOWN: usize = 9;

    /// The query with its strongest proponents, and with its strongest opponents.
    pub fn figures(&self) -> Vec<Figure> {
        let extremes = Extremes::of(self.changes, Self::SHOWN);
        let figure = |kind: &str, ranked: Vec<Ranked>| {
            let examples: Vec<usize> = ranked.iter().map(|r| r.example).collect();
            let title = format!("Strongest {kind} of test example {}", self.query.0.ids()[self.query.1]);
            Figure {
                name: format!("{}-{kind}", self.name),
                caption: "With row, label and predicted change of the query’s loss on removal.".into(),
                svg: self.row(&title, &examples),
            }
        };
        vec![figure("proponents", extremes.proponents), figure("opponents", extremes.opponents)]
    }

    fn row(&self, title: &str, examples: &[usize]) -> String {
        let (data, row) = self.query;
        let query = format!("the query\nlabel {}\npredicted {}", data.labels()[row], self.predicted);
        let captions: Vec<String> = std::iter::once(query)
            .chain(examples.iter().map(|&i| {
                let (id, label) = (self.train.ids()[i], self.train.labels()[i]);
                let sign = if self.changes[i] > 0.0 { "+" } else { "" };
                format!("train {id}\nlabel {label}\n{sign}{}", short(self.changes[i]))
            }))
            .collect();
        let shown = std::iter::once((data, row)).chain(examples.iter().map(|&i| (self.train, i)));
        let pixels: Vec<Vec<u8>> = shown.map(|(data, i)| ink(&pixels_of(data, i))).collect();
        let width = data.width().isqrt();
        let pictures: Vec<_> = pixels
            .iter()
            .zip(&captions)
            .map(|(pixels, caption)| Picture { pixels, width, caption })
            .collect();
        PictureRow { title, pictures: &pictures }.svg()
    }
}

/// Grey levels of pixels from 0 to 1, dark ink on white as on paper.
pub fn ink(pixels: &[f64]) -> Vec<u8> {
    pixels.iter().map(|value| (255.0 * (1.0 - value)).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use if_linalg::HostArray;

    #[test]
    fn gates_judge_slope_and_error_where_correlation_is_blind() {
        let actual = [1.0, -2.0, 3.0];
        let halved = actual.map(|change| change / 2.0);
        let metrics = judged("fixed: ", &Agreement::new(&halved, &actual), &Targets::LEAVE_ONE_OUT);
        let passed: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), metric.pass)).collect();
        let expected = [
            ("fixed: R", Some(true)),
            ("fixed: Spearman", None),
            ("fixed: slope through the origin", Some(false)),
            ("fixed: relative error", Some(false)),
        ];
        assert_eq!(passed, expected);
    }

    #[test]
    fn a_query_is_shown_with_its_proponents_and_opponents() {
        let pixels = HostArray::U8(ndarray::ArrayD::from_elem(vec![3, 2, 2], 255));
        let data = Dataset::new(pixels, vec![4.0, 5.0, 6.0]).unwrap().with_ids(vec![10, 20, 30]);
        assert_eq!(ink(&pixels_of(&data, 0)), [0; 4]);
        let changes = [0.5, -0.25, 0.0];
        let pictured =
            Pictured { name: "q", query: (&data, 1), predicted: 4.0, train: &data, changes: &changes };
        let figures = pictured.figures();
        let names: Vec<_> = figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["q-proponents", "q-opponents"]);
        let opponents = &figures[1].svg;
        assert!(opponents.contains("test example 20") && opponents.contains("predicted 4"));
        assert!(opponents.contains("train 20") && opponents.contains("−0.2500"));
        let proponents = &figures[0].svg;
        assert!(proponents.contains("train 10") && proponents.contains("+0.5000"));
        // Who helps is no opponent, and who does nothing is neither.
        assert!(!opponents.contains("train 10") && !proponents.contains("train 20"));
        assert!(!opponents.contains("train 30") && !proponents.contains("train 30"));
    }
}
