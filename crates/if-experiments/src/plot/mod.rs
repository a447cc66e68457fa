//! Small plots as SVG text: predicted against actual, lines with bands, rows of pictures.
//!
//! Each stands alone as a file and inside HTML, is read at 360 pixels width, and in grey: series
//! differ in colour, dash and marker. Values that are not finite are left out, and counted where
//! they are left out.

mod axis;
mod lines;
mod picture;
mod scatter;
mod svg;

pub use lines::{LineChart, Series};
pub use picture::{Picture, PictureRow};
pub use scatter::Scatter;

/// Colours after Okabe and Ito, told apart by colour-blind readers; the first two differ most in grey.
/// Their yellow is left out: on white it is not seen.
const PALETTE: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
