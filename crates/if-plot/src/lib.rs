#![doc = include_str!("../README.md")]

mod axis;
mod heat_map;
mod lines;
mod picture;
mod scatter;
mod svg;

pub use heat_map::HeatMap;
pub use lines::{LineChart, Series, stack};
pub use picture::{Picture, PictureRow};
pub use scatter::Scatter;

/// Colours after Okabe and Ito, told apart by colour-blind readers; the first two differ most in grey.
/// Their yellow is left out: on white it is not seen.
const PALETTE: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
