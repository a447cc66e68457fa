//! Rows of small greyscale pictures with captions.

use super::svg::{Anchor, LINE, Svg, WIDTH, wrap};

/// Five pictures fit side by side.
const CELL: f64 = 89.0;
const GAP: f64 = 8.0;
const SIDE: f64 = 84.0;
/// Grey levels drawn; more are not told apart at this size, and each costs a path.
const LEVELS: usize = 32;

/// One picture.
pub struct Picture<'a> {
    /// Grey levels from 0, black, to 255, white, row after row; a rest that fills no row is not drawn.
    pub pixels: &'a [u8],
    /// Pixels in a row.
    pub width: usize,
    /// Written below; a newline starts a new line.
    pub caption: &'a str,
}

/// Pictures side by side, continued on the next line where the width is used up.
pub struct PictureRow<'a> {
    /// Heading.
    pub title: &'a str,
    /// The pictures.
    pub pictures: &'a [Picture<'a>],
}

impl PictureRow<'_> {
    /// The row as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let mut top = svg.title(self.title);
        let columns = ((WIDTH + GAP) / (CELL + GAP)) as usize;
        for row in self.pictures.chunks(columns) {
            let mut bottom = top;
            for (column, picture) in row.iter().enumerate() {
                let left = column as f64 * (CELL + GAP);
                bottom = f64::max(bottom, draw(&mut svg, picture, left, top));
            }
            top = bottom + GAP;
        }
        svg.finish(self.title, top)
    }
}

/// Draws one picture with its caption and returns where it ends.
fn draw(svg: &mut Svg, picture: &Picture<'_>, left: f64, top: f64) -> f64 {
    let pixels = picture.width.max(picture.pixels.len() / picture.width.max(1)).max(1);
    let scale = SIDE / pixels as f64;
    let x = left + (CELL - SIDE) / 2.0;
    svg.raw(format_args!(
        r#"<g transform="translate({x:.1} {top:.1}) scale({scale:.4})" shape-rendering="crispEdges">"#
    ));
    for (level, path) in runs(picture).iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let grey = level * 255 / (LEVELS - 1);
        svg.raw(format_args!(r##"<path d="{path}" fill="#{grey:02x}{grey:02x}{grey:02x}"/>"##));
    }
    svg.raw(format_args!("</g>"));
    svg.raw(format_args!(
        r##"<rect x="{x:.1}" y="{top:.1}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>"##
    ));
    let mut y = top + SIDE;
    for line in wrap(picture.caption, CELL) {
        y += LINE;
        svg.text((left + CELL / 2.0, y), Anchor::Middle, "#111", &line);
    }
    y + 6.0
}

/// One path per grey level; neighbours of the same level in a row are one rectangle.
fn runs(picture: &Picture<'_>) -> Vec<String> {
    let mut paths = vec![String::new(); LEVELS];
    let level = |pixel: &u8| (usize::from(*pixel) * (LEVELS - 1) + 127) / 255;
    for (y, row) in picture.pixels.chunks_exact(picture.width.max(1)).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| level(a) == level(b)) {
            let length = run.len();
            paths[level(&run[0])].push_str(&format!("M{x} {y}h{length}v1h-{length}z"));
            x += length;
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_merged() {
        let pixels = [0, 0, 255, 255, 255, 255];
        let paths = runs(&Picture { pixels: &pixels, width: 3, caption: "" });
        assert_eq!(paths[0], "M0 0h2v1h-2z");
        assert_eq!(paths[LEVELS - 1], "M2 0h1v1h-1zM0 1h3v1h-3z");
    }

    #[test]
    fn captions_are_escaped_and_odd_shapes_drawn() {
        let pictures = [
            Picture { pixels: &[1, 2, 3], width: 2, caption: "a<b\nc" },
            Picture { pixels: &[], width: 0, caption: "" },
        ];
        let svg = PictureRow { title: "row", pictures: &pictures }.svg();
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(PictureRow { title: "none", pictures: &[] }.svg().ends_with("</svg>\n"));
    }
}
