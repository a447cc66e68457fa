//! One quantity against another: predicted against actual, with the diagonal on which a perfect prediction lies.

use super::PALETTE;
use super::axis::{Axis, Frame, plottable};
use super::svg::{Anchor, LINE, MARGIN, Svg};

/// A scatter plot of two quantities.
pub struct Scatter<'a> {
    /// Heading.
    pub title: &'a str,
    /// What lies to the right, such as the actual quantity.
    pub x_label: &'a str,
    /// What lies upwards, such as the predicted quantity.
    pub y_label: &'a str,
    /// Pairs (right, up).
    pub points: &'a [(f64, f64)],
    /// Written below the number of points, into the corner above the diagonal or above the axes, such as "R = 0.9993".
    pub annotation: &'a str,
    /// Whether both are of the same unit: the axes have the same range, and their diagonal is drawn.
    pub diagonal: bool,
}

impl Scatter<'_> {
    /// The plot as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let mut top = svg.title(self.title);
        let drawn: Vec<_> =
            self.points.iter().copied().filter(|&(x, y)| plottable(x) && plottable(y)).collect();
        let range = |own: fn(&(f64, f64)) -> f64, other: fn(&(f64, f64)) -> f64| {
            let others = drawn.iter().filter(|_| self.diagonal).map(other);
            Axis::around(drawn.iter().map(own).chain(others))
        };
        let (x, y) = (range(|point| point.0, |point| point.1), range(|point| point.1, |point| point.0));
        if !self.diagonal {
            // No corner is sure to be empty.
            top = self.annotate(&mut svg, (MARGIN, top), drawn.len());
        }
        let frame = Frame::draw(&mut svg, x, y, [self.x_label, self.y_label], top, None);
        if self.diagonal {
            let (from, to) =
                (frame.place((frame.x.low, frame.y.low)), frame.place((frame.x.high, frame.y.high)));
            svg.raw(format_args!(
                r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#555" stroke-dasharray="6 4"/>"##,
                from.0, from.1, to.0, to.1
            ));
        }
        // Many points: smaller ones, so that the shape of the cloud is seen.
        let radius = if drawn.len() > 300 { 2.0 } else { 3.5 };
        svg.raw(format_args!(r#"<g fill="{}" fill-opacity="0.6">"#, PALETTE[0]));
        for &point in &drawn {
            let (x, y) = frame.place(point);
            svg.raw(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#));
        }
        svg.raw(format_args!("</g>"));
        if self.diagonal {
            let (left, top) = frame.top_left();
            self.annotate(&mut svg, (left + 10.0, top), drawn.len());
        }
        let height = frame.draw_x_label(&mut svg, self.x_label);
        svg.finish(self.title, height)
    }

    /// Writes below `top`, and returns where that ends.
    fn annotate(&self, svg: &mut Svg, (left, top): (f64, f64), drawn: usize) -> f64 {
        let count = match self.points.len() - drawn {
            0 => format!("n = {drawn}"),
            missing => format!("n = {drawn}, {missing} more not finite"),
        };
        let mut y = top;
        for line in std::iter::once(count.as_str()).chain(self.annotation.lines()) {
            y += LINE;
            svg.text((left, y), Anchor::Start, "#111", line);
        }
        y + 4.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scatter(points: &[(f64, f64)]) -> String {
        let (x_label, y_label, annotation) = ("actual", "predicted", "R = 1 < 2");
        Scatter { title: "t", x_label, y_label, points, annotation, diagonal: true }.svg()
    }

    #[test]
    fn quantities_of_different_units_have_their_own_axes() {
        let points = [(4.0, 0.1), (14.0, -0.2)];
        let plot = |diagonal| {
            let (title, annotation) = ("t", "");
            Scatter {
                title,
                x_label: "distance",
                y_label: "influence",
                points: &points,
                annotation,
                diagonal,
            }
            .svg()
        };
        assert!(plot(true).contains("dasharray") && !plot(true).contains(">−0.1<"));
        assert!(!plot(false).contains("dasharray") && plot(false).contains(">−0.10<"));
    }

    #[test]
    fn points_that_are_not_finite_are_counted() {
        let svg = scatter(&[(0.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("n = 1, 2 more not finite"));
        assert!(svg.contains("R = 1 &lt; 2"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn no_points_and_constant_points() {
        assert!(scatter(&[]).contains("n = 0"));
        let svg = scatter(&[(2.0, 2.0); 3]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN"));
    }
}
