//! The picture of `influence damping`: the spectrum above, the path below.

use if_methods::{DampingReport, PathPoint, Spectrum};
use if_plot::{LineChart, Series, stack};

/// Points of the curve of the spectrum.
const POINTS: usize = 400;
/// Every eigenvalue is spread over this share of the spectrum.
const WIDTH: f64 = 0.01;

/// Both panels as one SVG document.
pub fn plot(found: &DampingReport, parameters: usize) -> String {
    let density = density(&found.spectrum, parameters);
    let spectrum = [Series { name: "estimated from random starts", points: &density, band: &[] }];
    let reference = line(found, |point| point.overlap_with_reference);
    let next = line(found, |point| point.overlap_with_next);
    let rank = line(found, |point| point.spearman_with_next);
    let limit = found.spectrum.smallest_definite_damping();
    let limit = [(limit.log10(), 0.0), (limit.log10(), 1.0)];
    let mut path = vec![
        Series { name: "top 10 shared with the reference", points: &reference.0, band: &reference.1 },
        Series { name: "top 10 shared with the next", points: &next.0, band: &[] },
        Series { name: "Spearman with the next", points: &rank.0, band: &[] },
    ];
    if limit[0].0.is_finite() {
        path.push(Series { name: "definite to the right", points: &limit, band: &[] });
    }
    let charts = [
        LineChart {
            title: "Spectrum of the curvature, without damping",
            x_label: "eigenvalue",
            y_label: "share of the eigenvalues nearby, as a power of ten",
            series: &spectrum,
            y_covers: None,
        },
        LineChart {
            title: "How stable the top proponents are",
            x_label: "damping, as a power of ten",
            y_label: "mean over the queries; band: least and most",
            series: &path,
            y_covers: Some((0.0, 1.0)),
        },
    ];
    stack("Spectrum, and stability of the top proponents along the damping", &charts)
}

/// Logarithms of the share of the eigenvalues within a width; less than a tenth of one eigenvalue is none.
fn density(spectrum: &Spectrum, parameters: usize) -> Vec<(f64, f64)> {
    let (low, high) = (spectrum.lowest, spectrum.highest);
    let width = (WIDTH * (high - low)).max(f64::MIN_POSITIVE);
    let (from, to) = (low - 4.0 * width, high + 4.0 * width);
    let peak = width * std::f64::consts::TAU.sqrt();
    let floor = 0.1 / parameters as f64;
    let point = |i: usize| {
        let at = from + (to - from) * i as f64 / (POINTS - 1) as f64;
        let share = peak * spectrum.density(at, width);
        (at, if share < floor { f64::NAN } else { share.log10() })
    };
    (0..POINTS).map(point).collect()
}

/// Means over the queries along the path, and between which values they lie. A damping of 0 has no place
/// on a logarithmic axis.
fn line(
    found: &DampingReport,
    value: impl Fn(&PathPoint) -> Option<f64>,
) -> (Vec<(f64, f64)>, Vec<(f64, f64)>) {
    let at = |i: usize| {
        let x = found.dampings[i].log10();
        let (mean, least) = found.over_queries(i, &value).unwrap_or((f64::NAN, f64::NAN));
        let most = found.queries.iter().filter_map(|query| value(&query.points[i])).fold(f64::NAN, f64::max);
        ((x, mean), (least, most))
    };
    (0..found.dampings.len()).map(at).unzip()
}
