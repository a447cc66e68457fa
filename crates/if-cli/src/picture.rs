//! Images in the terminal: two pixels to a character, as upper and lower half blocks.

use if_linalg::HostArray;

/// Larger images are not drawn.
const LARGEST: usize = 28;
/// Characters in a row of pictures.
const LINE: usize = 80;

/// What is black where there are no greys.
const INK: f64 = 0.4;

/// A grey image with values from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    width: usize,
    pixels: Vec<f64>,
}

impl Picture {
    /// Example `i` of `features`, where its shape is that of a small image: `h x w` or `1 x h x w`.
    pub fn of(features: &HostArray, i: usize) -> Option<Self> {
        let (height, width) = match features.shape() {
            [_, height, width] | [_, 1, height, width] => (*height, *width),
            _ => return None,
        };
        if !(2..=LARGEST).contains(&height) || !(2..=LARGEST).contains(&width) {
            return None;
        }
        let mut pixels = vec![0.0; height * width];
        features.read_row(i, &mut pixels);
        let low = pixels.iter().copied().fold(f64::INFINITY, f64::min);
        let range = pixels.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low;
        pixels.iter_mut().for_each(|pixel| *pixel = if range > 0.0 { (*pixel - low) / range } else { 0.0 });
        Some(Self { width, pixels })
    }

    /// At most half of [`LARGEST`] wide, by the means of 2 x 2 pixels.
    pub fn thumbnail(&self) -> Self {
        if 2 * self.width <= LARGEST {
            return self.clone();
        }
        let (width, height) = (self.width.div_ceil(2), self.height().div_ceil(2));
        let mean = |row: usize, column: usize| {
            let corners = [(0, 0), (0, 1), (1, 0), (1, 1)];
            corners.iter().map(|(r, c)| self.at(2 * row + r, 2 * column + c)).sum::<f64>() / 4.0
        };
        let pixels = (0..height).flat_map(|row| (0..width).map(move |column| mean(row, column))).collect();
        Self { width, pixels }
    }

    fn height(&self) -> usize {
        self.pixels.len() / self.width
    }

    /// 0 beyond the edges.
    fn at(&self, row: usize, column: usize) -> f64 {
        if row < self.height() && column < self.width { self.pixels[row * self.width + column] } else { 0.0 }
    }

    /// The lines of the picture: in 24 greys where the terminal has colours, else black and white.
    pub fn lines(&self, colours: bool) -> Vec<String> {
        let pairs =
            |row: usize| (0..self.width).map(move |column| (self.at(row, column), self.at(row + 1, column)));
        let rows = (0..self.height()).step_by(2);
        if !colours {
            return rows
                .map(|row| pairs(row).map(|(top, bottom)| half_block(top > INK, bottom > INK)).collect())
                .collect();
        }
        let grey = |value: f64| 232 + (value * 23.0).round() as u8;
        let cell = |(top, bottom)| format!("\x1b[38;5;{};48;5;{}m▀", grey(top), grey(bottom));
        rows.map(|row| pairs(row).map(cell).collect::<String>() + "\x1b[0m").collect()
    }
}

fn half_block(top: bool, bottom: bool) -> char {
    match (top, bottom) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    }
}

/// Thumbnails beside each other with a caption above each, as many as a line has room for.
pub fn gallery(pictures: &[(Picture, String)], colours: bool) -> String {
    let thumbnails: Vec<(Picture, &str)> =
        pictures.iter().map(|(p, caption)| (p.thumbnail(), &**caption)).collect();
    let Some(cell) = thumbnails.iter().map(|(p, caption)| p.width.max(caption.chars().count())).max() else {
        return String::new();
    };
    let mut text = String::new();
    for row in thumbnails.chunks((LINE / (cell + 2)).max(1)) {
        let captions: Vec<String> = row.iter().map(|(_, caption)| format!("{caption:<cell$}")).collect();
        text += &format!("  {}\n", captions.join("  ").trim_end());
        let lines: Vec<(Vec<String>, usize)> =
            row.iter().map(|(p, _)| (p.lines(colours), cell - p.width)).collect();
        for i in 0..lines[0].0.len() {
            let parts: Vec<String> =
                lines.iter().map(|(picture, pad)| picture[i].clone() + &" ".repeat(*pad)).collect();
            text += &format!("  {}\n", parts.join("  ").trim_end());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayD;

    #[test]
    fn two_pixels_are_one_character() {
        let pixels = ArrayD::from_shape_vec(vec![1, 3, 2], vec![0u8, 255, 255, 255, 255, 0]).unwrap();
        let picture = Picture::of(&HostArray::U8(pixels), 0).unwrap();
        assert_eq!(picture.lines(false), ["▄█", "▀ "]);
        assert_eq!(picture.lines(true)[0], "\x1b[38;5;232;48;5;255m▀\x1b[38;5;255;48;5;255m▀\x1b[0m");
        assert_eq!(
            gallery(&[(picture.clone(), "a".into()), (picture, "b".into())], false),
            "  a   b\n  ▄█  ▄█\n  ▀   ▀\n"
        );
    }

    #[test]
    fn only_small_images_are_drawn() {
        let of = |shape: Vec<usize>| Picture::of(&HostArray::F32(ArrayD::zeros(shape)), 0);
        assert!(
            of(vec![1, 4]).is_none() && of(vec![1, 3, 32, 32]).is_none() && of(vec![1, 29, 29]).is_none()
        );
        let large = of(vec![1, 1, 28, 28]).unwrap();
        assert_eq!((large.lines(false).len(), large.thumbnail().lines(false).len()), (14, 7));
    }
}
