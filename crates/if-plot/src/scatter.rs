//! Predicted against actual, with the diagonal on which a perfect prediction lies.

use super::PALETTE;
use super::axis::{Axis, Frame, plottable};
use super::svg::{Anchor, LINE, Svg};

/// A scatter plot of two quantities of the same unit, both axes of the same range.
pub struct Scatter<'a> {
    /// Heading.
    pub title: &'a str,
    /// What lies to the right: the actual quantity.
    pub x_label: &'a str,
    /// What lies upwards: the predicted quantity.
    pub y_label: &'a str,
    /// Pairs (actual, predicted).
    pub points: &'a [(f64, f64)],
    /// Written into the corner below the number of points, such as "R = 0.9993".
    pub annotation: &'a str,
}

impl Scatter<'_> {
    /// The plot as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let top = svg.title(self.title);
        let drawn: Vec<_> =
            self.points.iter().copied().filter(|&(x, y)| plottable(x) && plottable(y)).collect();
        let range = || Axis::around(drawn.iter().flat_map(|&(x, y)| [x, y]));
        let frame = Frame::draw(&mut svg, range(), range(), [self.x_label, self.y_label], top, None);

        let (from, to) = (frame.place((frame.x.low, frame.y.low)), frame.place((frame.x.high, frame.y.high)));
        svg.raw(format_args!(
            r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#555" stroke-dasharray="6 4"/>"##,
            from.0, from.1, to.0, to.1
        ));
        // Many points: smaller ones, so that the shape of the cloud is seen.
        let radius = if drawn.len() > 300 { 2.0 } else { 3.5 };
        svg.raw(format_args!(r#"<g fill="{}" fill-opacity="0.6">"#, PALETTE[0]));
        for &point in &drawn {
            let (x, y) = frame.place(point);
            svg.raw(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#));
        }
        svg.raw(format_args!("</g>"));
        self.annotate(&mut svg, &frame, drawn.len());
        let height = frame.draw_x_label(&mut svg, self.x_label);
        svg.finish(self.title, height)
    }

    fn annotate(&self, svg: &mut Svg, frame: &Frame, drawn: usize) {
        let count = match self.points.len() - drawn {
            0 => format!("n = {drawn}"),
            missing => format!("n = {drawn}, {missing} more not finite"),
        };
        let (left, top) = frame.top_left();
        let lines = std::iter::once(count.as_str()).chain(self.annotation.lines());
        for (i, line) in lines.enumerate() {
            svg.text((left + 10.0, top + LINE * (i + 1) as f64), Anchor::Start, "#111", line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scatter(points: &[(f64, f64)]) -> String {
        Scatter { title: "t", x_label: "actual", y_label: "predicted", points, annotation: "R = 1 < 2" }.svg()
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
