//! A matrix as colours: signed numbers, in clusters.

use super::PALETTE;
use super::svg::{Anchor, FONT, GREY, LINE, MARGIN, Svg, WIDTH, wrap};

/// Shades on each side of 0; more are not told apart, and each costs a path.
const SHADES: i32 = 10;
/// Least and most height of a row.
const ROW: (f64, f64) = (3.0, 14.0);
/// Numbers that are not finite.
const MISSING: &str = "#bbb";
/// Of the scale, and of a line between clusters.
const SCALE: (f64, f64) = (180.0, 12.0);
const BORDER: &str = "#222";

/// A matrix of signed numbers: positive ones are blue, negative ones orange, 0 is white. Readers who see no colours still
/// see how far from 0 a number is, and the two sides stand in different places where rows and columns are in clusters.
pub struct HeatMap<'a> {
    /// Heading.
    pub title: &'a str,
    /// What the rows are.
    pub row_label: &'a str,
    /// What the columns are.
    pub column_label: &'a str,
    /// Row after row; a rest that fills no row is not drawn. Numbers that are not finite are grey.
    pub values: &'a [f64],
    /// Numbers in a row.
    pub columns: usize,
    /// The absolute value from which on a colour is full.
    pub limit: f64,
    /// Rows that a line is drawn above.
    pub row_lines: &'a [usize],
    /// Columns that a line is drawn left of.
    pub column_lines: &'a [usize],
}

impl HeatMap<'_> {
    /// The quantile at which [`full_from`](Self::full_from) cuts.
    pub const FULL: f64 = 0.9;

    /// A `limit` for `values`: a quantile of the absolute values, so that a few large ones do not leave all others pale.
    /// What is 0 is left out, and what is not finite; 0 where nothing is left.
    pub fn full_from(values: &[f64]) -> f64 {
        let mut sizes: Vec<f64> =
            values.iter().map(|value| value.abs()).filter(|size| *size > 0.0 && size.is_finite()).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        sizes.get((sizes.len().saturating_sub(1) as f64 * Self::FULL) as usize).copied().unwrap_or(0.0)
    }

    /// The map as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let mut top = svg.title(self.title);
        for line in
            wrap(&format!("down: {}; across: {}", self.row_label, self.column_label), WIDTH - 2.0 * MARGIN)
        {
            top += LINE;
            svg.text((MARGIN, top - 4.0), Anchor::Start, GREY, &line);
        }
        top = self.draw_scale(&mut svg, top + 6.0);
        let rows = self.values.len() / self.columns.max(1);
        let (across, width) = (self.columns.max(1) as f64, WIDTH - 2.0 * MARGIN);
        let row = (width / across).clamp(ROW.0, ROW.1);
        let height = row * rows as f64;
        svg.raw(format_args!(
            r#"<g transform="translate({MARGIN} {top:.1}) scale({:.5} {row:.5})" shape-rendering="crispEdges">"#,
            width / across
        ));
        for (fill, path) in self.paths() {
            svg.raw(format_args!(r#"<path d="{path}" fill="{fill}"/>"#));
        }
        svg.raw(format_args!("</g>"));
        let right = MARGIN + width;
        for &line in self.row_lines {
            let y = top + row * line as f64;
            svg.raw(format_args!(r#"<path d="M{MARGIN} {y:.1}H{right}" stroke="{BORDER}"/>"#));
        }
        for &line in self.column_lines {
            let (x, bottom) = (MARGIN + width * line as f64 / across, top + height);
            svg.raw(format_args!(r#"<path d="M{x:.1} {top:.1}V{bottom:.1}" stroke="{BORDER}"/>"#));
        }
        svg.raw(format_args!(
            r##"<rect x="{MARGIN}" y="{top:.1}" width="{width}" height="{height:.1}" fill="none" stroke="#888"/>"##
        ));
        svg.finish(self.title, top + height + 6.0)
    }

    /// The scale with its ends; returns where it ends.
    fn draw_scale(&self, svg: &mut Svg, top: f64) -> f64 {
        let (width, height) = SCALE;
        let step = width / f64::from(2 * SHADES + 1);
        let low = format!("−{}", number(self.limit));
        let left = MARGIN + low.chars().count() as f64 * FONT * 0.6 + 6.0;
        let baseline = top + height - 1.0;
        svg.text((MARGIN, baseline), Anchor::Start, GREY, &low);
        for shade in -SHADES..=SHADES {
            let (x, fill) = (left + step * f64::from(shade + SHADES), colour(shade));
            svg.raw(format_args!(
                r#"<rect x="{x:.1}" y="{top:.1}" width="{step:.2}" height="{height}" fill="{fill}"/>"#
            ));
        }
        svg.raw(format_args!(
            r##"<rect x="{left:.1}" y="{top:.1}" width="{width}" height="{height}" fill="none" stroke="#888"/>"##
        ));
        svg.text((left + width + 6.0, baseline), Anchor::Start, GREY, &format!("+{}", number(self.limit)));
        top + height + 8.0
    }

    /// One path for each colour in use; neighbours of the same colour in a row are one rectangle.
    fn paths(&self) -> Vec<(String, String)> {
        let mut paths: Vec<(String, String)> =
            (-SHADES..=SHADES).map(|shade| (colour(shade), String::new())).collect();
        paths.push((MISSING.into(), String::new()));
        let last = paths.len() - 1;
        let place = |value: &f64| shade(*value, self.limit).map_or(last, |shade| (shade + SHADES) as usize);
        for (y, row) in self.values.chunks_exact(self.columns.max(1)).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|a, b| place(a) == place(b)) {
                let length = run.len();
                paths[place(&run[0])].1.push_str(&format!("M{x} {y}h{length}v1h-{length}z"));
                x += length;
            }
        }
        // The document is white.
        paths.remove(SHADES as usize);
        paths.retain(|(_, path)| !path.is_empty());
        paths
    }
}

/// From `-SHADES` to `SHADES`; none for what is not finite. Without a limit above 0 everything is white.
fn shade(value: f64, limit: f64) -> Option<i32> {
    let full = |value: f64| if limit > 0.0 { (value / limit).clamp(-1.0, 1.0) } else { 0.0 };
    value.is_finite().then(|| (full(value) * f64::from(SHADES)).round() as i32)
}

/// Between white and the full blue or orange.
fn colour(shade: i32) -> String {
    let full = if shade > 0 { PALETTE[0] } else { PALETTE[1] };
    let part = f64::from(shade.abs()) / f64::from(SHADES);
    let channel = |at: usize| {
        let end = u8::from_str_radix(&full[at..at + 2], 16).expect("a colour of the palette");
        (255.0 + (f64::from(end) - 255.0) * part).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(1), channel(3), channel(5))
}

/// Two digits.
fn number(value: f64) -> String {
    if (0.01..1000.0).contains(&value) { format!("{value:.2}") } else { format!("{value:.1e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<'a>(values: &'a [f64], columns: usize, limit: f64) -> HeatMap<'a> {
        let (row_label, column_label) = ("queries <q>", "training examples");
        HeatMap {
            title: "t",
            row_label,
            column_label,
            values,
            columns,
            limit,
            row_lines: &[1],
            column_lines: &[2],
        }
    }

    #[test]
    fn signs_have_colours_and_sizes_have_shades() {
        assert_eq!(
            (colour(0), colour(SHADES), colour(-SHADES)),
            ("#ffffff".into(), "#0072b2".into(), "#d55e00".into())
        );
        assert_eq!([0.0, 1.0, -1.0, 7.0, 0.52].map(|v| shade(v, 1.0)), [0, 10, -10, 10, 5].map(Some));
        assert_eq!((shade(f64::NAN, 1.0), shade(3.0, 0.0)), (None, Some(0)));
        let values = [1.0, 1.0, -1.0, 0.0, f64::INFINITY, 2.0];
        let expected =
            [("#d55e00", "M2 0h1v1h-1z"), ("#0072b2", "M0 0h2v1h-2zM2 1h1v1h-1z"), ("#bbb", "M1 1h1v1h-1z")];
        let found = map(&values, 3, 1.0).paths();
        let found: Vec<_> = found.iter().map(|(fill, path)| (fill.as_str(), path.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_few_large_numbers_leave_the_others_their_colours() {
        let mut values: Vec<f64> =
            (0..=10).map(|i| if i % 2 == 0 { -f64::from(i) } else { f64::from(i) }).collect();
        values.extend([1e9, f64::NAN, f64::INFINITY, 0.0, 0.0]);
        assert_eq!(HeatMap::full_from(&values), 10.0);
        assert_eq!(HeatMap::full_from(&[0.0, -3.0, 0.0]), 3.0);
        assert_eq!(HeatMap::full_from(&[0.0]), 0.0);
    }

    #[test]
    fn labels_are_escaped_and_odd_shapes_drawn() {
        let svg = map(&[1.0, -1.0, 0.5, 0.2], 2, 0.3).svg();
        assert!(svg.contains("queries &lt;q&gt;") && svg.contains("−0.30") && svg.contains("+0.30"));
        for values in [&[][..], &[f64::NAN; 3]] {
            let svg = map(values, 0, f64::NAN).svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("inf"), "{svg}");
        }
    }
}
