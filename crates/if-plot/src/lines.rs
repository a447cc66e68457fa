//! Named series over a common x axis, with optional bands.

use super::PALETTE;
use super::axis::{Axis, Frame, plottable};
use super::svg::{Anchor, FONT, LINE, MARGIN, Svg, WIDTH, text_width};

const DASHES: [&str; 7] = ["none", "8 4", "2 3", "10 3 2 3", "5 3", "12 5", "1 4"];
const PLOT_HEIGHT: f64 = 280.0;
/// Between charts in a stack.
const GAP: f64 = 16.0;
/// A series of more points has markers on some of them only.
const MARKERS: usize = 10;

/// One line of a [`LineChart`].
pub struct Series<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Points by increasing x. A value that is not finite interrupts the line.
    pub points: &'a [(f64, f64)],
    /// Lowest and highest y at each of `points`, such as over seeds; empty for no band.
    pub band: &'a [(f64, f64)],
}

/// A line chart; the legend stands above the plotting area, where it covers no line.
pub struct LineChart<'a> {
    /// Heading.
    pub title: &'a str,
    /// Label of the horizontal axis.
    pub x_label: &'a str,
    /// Label of the vertical axis.
    pub y_label: &'a str,
    /// The lines.
    pub series: &'a [Series<'a>],
    /// A range that the vertical axis covers, and more where the lines go beyond it.
    pub y_covers: Option<(f64, f64)>,
}

/// Line charts below each other in one document, each with its own title; `title` is for screen readers.
pub fn stack(title: &str, charts: &[LineChart<'_>]) -> String {
    let (mut svg, mut top) = (Svg::default(), 0.0);
    for chart in charts {
        let (panel, height) = chart.draw();
        svg.append(panel, top);
        top += height + GAP;
    }
    svg.finish(title, (top - GAP).max(0.0))
}

impl LineChart<'_> {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let (svg, height) = self.draw();
        svg.finish(self.title, height)
    }

    fn draw(&self) -> (Svg, f64) {
        let mut svg = Svg::default();
        let top = svg.title(self.title);
        let top = self.draw_legend(&mut svg, top);
        let x = Axis::around(self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0)));
        let values = self.series.iter().flat_map(|series| {
            let band = series.band.iter().flat_map(|&(low, high)| [low, high]);
            series.points.iter().map(|point| point.1).chain(band)
        });
        let covered = self.y_covers.iter().flat_map(|&(low, high)| [low, high]);
        let y = Axis::around(values.chain(covered));
        let frame = Frame::draw(&mut svg, x, y, [self.x_label, self.y_label], top, Some(PLOT_HEIGHT));
        for (i, series) in self.series.iter().enumerate() {
            draw_band(&mut svg, &frame, i, series);
        }
        for (i, series) in self.series.iter().enumerate() {
            draw_line(&mut svg, &frame, i, series);
        }
        let height = frame.draw_x_label(&mut svg, self.x_label);
        (svg, height)
    }

    fn draw_legend(&self, svg: &mut Svg, top: f64) -> f64 {
        const SAMPLE: f64 = 34.0;
        let (mut x, mut y) = (MARGIN, top + LINE - 4.0);
        for (i, series) in self.series.iter().enumerate() {
            let width = SAMPLE + 6.0 + text_width(series.name) + 14.0;
            if x > MARGIN && x + width > WIDTH {
                (x, y) = (MARGIN, y + LINE + 2.0);
            }
            let middle = y - 0.35 * FONT;
            svg.raw(format_args!(r#"<path d="M{x:.1} {middle:.1}h{SAMPLE}" {}/>"#, stroke(i)));
            svg.raw(format_args!("{}", marker(i, (x + SAMPLE / 2.0, middle))));
            svg.text((x + SAMPLE + 6.0, y), Anchor::Start, "#111", series.name);
            x += width;
        }
        y + 8.0
    }
}

fn stroke(series: usize) -> String {
    let (colour, dash) = (PALETTE[series % PALETTE.len()], DASHES[series % DASHES.len()]);
    format!(r#"fill="none" stroke="{colour}" stroke-width="2.2" stroke-dasharray="{dash}""#)
}

/// Six shapes against seven colours: 42 series before both repeat.
fn marker(series: usize, (x, y): (f64, f64)) -> String {
    let shape = match series % 6 {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        1 => "m-3.6 -3.6h7.2v7.2h-7.2z",
        2 => "m0 -4.8l4.6 8.2h-9.2z",
        3 => "m0 -5l5 5l-5 5l-5 -5z",
        4 => "m-4 -4l8 8m0 -8l-8 8",
        _ => "m-5 0h10m-5 -5v10",
    };
    let colour = PALETTE[series % PALETTE.len()];
    format!(r##"<path d="M{x:.1} {y:.1}{shape}" fill="#fff" stroke="{colour}" stroke-width="2"/>"##)
}

fn draw_band(svg: &mut Svg, frame: &Frame, index: usize, series: &Series<'_>) {
    let edges: Vec<_> = series
        .points
        .iter()
        .zip(series.band)
        .filter(|((x, _), (low, high))| plottable(*x) && plottable(*low) && plottable(*high))
        .collect();
    let there = edges.iter().map(|((x, _), (low, _))| (*x, *low));
    let back = edges.iter().rev().map(|((x, _), (_, high))| (*x, *high));
    let outline: Vec<String> = there
        .chain(back)
        .map(|point| {
            let (x, y) = frame.place(point);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    if !outline.is_empty() {
        let (colour, outline) = (PALETTE[index % PALETTE.len()], outline.join(" "));
        svg.raw(format_args!(r#"<polygon points="{outline}" fill="{colour}" fill-opacity="0.16"/>"#));
    }
}

fn draw_line(svg: &mut Svg, frame: &Frame, index: usize, series: &Series<'_>) {
    let mut path = String::new();
    let mut markers = String::new();
    let every = series.points.len().div_ceil(MARKERS).max(1);
    let mut command = 'M';
    for (i, &point) in series.points.iter().enumerate() {
        if !plottable(point.0) || !plottable(point.1) {
            command = 'M';
            continue;
        }
        let (x, y) = frame.place(point);
        path.push_str(&format!("{command}{x:.1} {y:.1}"));
        command = 'L';
        // Series that coincide take their markers at different points.
        if i % every == index % every {
            markers.push_str(&marker(index, (x, y)));
        }
    }
    if !path.is_empty() {
        svg.raw(format_args!(r#"<path d="{path}" {}/>{markers}"#, stroke(index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: &[Series<'_>]) -> String {
        LineChart { title: "t", x_label: "x", y_label: "y", series, y_covers: None }.svg()
    }

    #[test]
    fn a_range_is_covered() {
        let points = [(3.0, 0.9), (4.0, 1.0)];
        let series = [Series { name: "s", points: &points, band: &[] }];
        let chart =
            |y_covers| LineChart { title: "t", x_label: "x", y_label: "y", series: &series, y_covers };
        assert!(chart(Some((0.0, 1.0))).svg().contains(">0.2</text>"));
        assert!(!chart(None).svg().contains(">0.2</text>"));
    }

    #[test]
    fn charts_are_stacked_in_one_document() {
        let points = [(0.0, 1.0), (1.0, 2.0)];
        let series = [Series { name: "s", points: &points, band: &[] }];
        let chart = |title| LineChart { title, x_label: "x", y_label: "y", series: &series, y_covers: None };
        let svg = stack("both", &[chart("first"), chart("second")]);
        assert_eq!((svg.matches("<svg").count(), svg.matches("<rect").count()), (1, 1));
        assert!(svg.contains(">first<") && svg.contains(">second<") && svg.contains(r#"aria-label="both""#));
        assert!(stack("none", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn a_gap_interrupts_the_line() {
        let points = [(0.0, 0.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, f64::INFINITY)];
        let svg = chart(&[Series { name: "<a>", points: &points, band: &[(0.0, 1.0), (0.0, f64::NAN)] }]);
        assert!(svg.contains("&lt;a&gt;") && !svg.contains("<a>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("<polygon").count(), 1);
    }

    #[test]
    fn empty_series_and_no_series() {
        assert!(chart(&[]).ends_with("</svg>\n"));
        let svg = chart(&[Series { name: "none", points: &[], band: &[] }]);
        assert!(svg.contains("none") && !svg.contains("NaN"));
    }

    #[test]
    fn series_differ_in_more_than_colour() {
        let points = [(0.0, 1.0), (1.0, 1.0)];
        let series: Vec<_> = (0..7).map(|_| Series { name: "s", points: &points, band: &[] }).collect();
        let svg = chart(&series);
        for dash in DASHES {
            assert!(svg.contains(&format!(r#"stroke-dasharray="{dash}""#)), "{dash}");
        }
    }
}
