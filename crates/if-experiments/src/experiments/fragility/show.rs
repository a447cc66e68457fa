//! Tables and plots of a study.

use if_methods::FragilityTrial as Trial;
use if_plot::{LineChart, Series, stack};

use super::trial::{POINTS, Setting};
use super::{Study, cold, lissa};
use crate::number::short;
use crate::result::Table;
use crate::support::OverSeeds;
use crate::{Figure, Outcome};

type Points = Vec<(f64, f64)>;

impl Study {
    pub fn show(&self, outcome: &mut Outcome) {
        outcome.plots.push(self.plot());
        outcome.tables.push(self.table());
    }

    fn table(&self) -> Table {
        let names = ["depth", "width", "weight decay", "examples"].into_iter().map(String::from);
        let points = POINTS.map(|(point, _)| format!("Spearman, warm, {point}"));
        let others = [
            "Spearman, cold",
            "Spearman of LiSSA, warm",
            "Pearson, warm",
            "slope, warm",
            "largest gradient norm",
            "smallest eigenvalue",
            "damped",
            "stopped",
        ];
        Table {
            title: format!(
                "{}: predicted against retrained, {}; cold, LiSSA, Pearson and slope of the test point of highest loss",
                self.case.name,
                match self.cells[0].1.len() {
                    1 => "first seed".to_owned(),
                    seeds => format!("mean (least to most) over {seeds} seeds"),
                }
            ),
            columns: names.chain(points).chain(others.map(String::from)).collect(),
            rows: self.cells.iter().map(|(setting, trials)| row(setting, trials)).collect(),
        }
    }

    /// Correlations along depth, weight decay and the number of examples.
    fn plot(&self) -> Figure {
        let base = self.case.base;
        let panels = [
            (
                "Along depth",
                "binary logarithm of the number of hidden layers",
                self.along(|at| ((at.depth as f64).log2(), Setting { depth: base.depth, ..*at })),
            ),
            (
                "Along weight decay",
                "logarithm of the weight decay",
                self.along(|at| (at.decay.log10(), Setting { decay: base.decay, ..*at })),
            ),
            (
                "Along the size of the training set",
                "training examples",
                self.along(|at| (at.examples as f64, Setting { examples: base.examples, ..*at })),
            ),
        ];
        let series: Vec<Vec<Series>> = panels
            .iter()
            .map(|(_, _, drawn)| {
                drawn.iter().map(|(name, points)| Series { name, points, band: &[] }).collect()
            })
            .collect();
        let charts: Vec<LineChart> = panels
            .iter()
            .zip(&series)
            .map(|((title, x_label, _), series)| LineChart {
                title,
                x_label,
                y_label: "correlation with retraining",
                series,
                y_covers: Some((0.0, 1.0)),
            })
            .collect();
        let name = self.case.name;
        Figure {
            name: format!("trends-{}", name.to_lowercase()),
            caption: format!(
                "{name}: means over the seeds; {} examples left out of each network. Where an axis is not varied: {} hidden layers of width {}, weight decay {:.0e}, {} examples.",
                self.case.left_out, base.depth, base.width, base.decay, base.examples
            ),
            svg: stack(&format!("Agreement of influence with retraining, {name}"), &charts),
        }
    }

    /// Correlations over the settings that `axis` takes to the base when it is undone, at the position on it.
    fn along(&self, axis: impl Fn(&Setting) -> (f64, Setting)) -> Vec<(&'static str, Points)> {
        let of = |value: &dyn Fn(&Trial) -> f64| {
            let at = |(setting, trials): &(Setting, Vec<Trial>)| {
                let (x, without) = axis(setting);
                (without == self.case.base).then(|| (x, OverSeeds::over(trials, value).mean))
            };
            let mut points: Points = self.cells.iter().filter_map(at).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let mut drawn = vec![
            ("Spearman, warm", of(&|trial| trial.warm(0).spearman)),
            ("Pearson, warm", of(&|trial| trial.warm(0).pearson)),
        ];
        if self.case.cold {
            drawn.insert(1, ("Spearman, cold", of(&|trial| cold(trial))));
        }
        drawn
    }
}

fn row(setting: &Setting, trials: &[Trial]) -> Vec<String> {
    let cell = |value: &dyn Fn(&Trial) -> f64| {
        let found = OverSeeds::over(trials, value);
        match found.mean.is_nan() {
            true => "–".into(),
            false if trials.len() == 1 => short(found.mean),
            false => found.cell(),
        }
    };
    let damped = trials.iter().filter(|trial| trial.damping > 0.0).count();
    let stopped: usize = trials.iter().map(|trial| trial.stopped).sum();
    let mut row = vec![
        setting.depth.to_string(),
        setting.width.to_string(),
        format!("{:.0e}", setting.decay),
        setting.examples.to_string(),
    ];
    row.extend((0..POINTS.len()).map(|q| cell(&|trial: &Trial| trial.warm(q).spearman)));
    row.extend([
        cell(&cold),
        cell(&lissa),
        cell(&|trial| trial.warm(0).pearson),
        cell(&|trial| trial.warm(0).slope),
        short(OverSeeds::over(trials, |trial| trial.gradient_norm).most),
        short(OverSeeds::over(trials, |trial| trial.smallest_eigenvalue).least),
        format!("{damped} of {}", trials.len()),
        stopped.to_string(),
    ]);
    row
}
