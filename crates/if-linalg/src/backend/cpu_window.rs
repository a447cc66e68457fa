//! Kernels over windows on the CPU: patches of convolutions, and pools.

use std::ops::Range;

use super::{Cpu, View, ViewMut};
use crate::{Real, Window};

/// `out[(c, u, v)][window] = image[c][source]`, 0 in the padding.
#[inline(always)]
pub(super) fn im2col<T: Real>(window: &Window, image: &[T], out: &mut [T], row_stride: usize) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    let offsets: Vec<Inside> = (0..window.kernel[1]).map(|v| Inside::new(window, v, across)).collect();
    let mut rows = out.chunks_mut(row_stride);
    for plane in image.chunks_exact(height * width) {
        for u in 0..window.kernel[0] {
            for (v, inside) in offsets.iter().enumerate() {
                let target = &mut rows.next().expect("as many rows as offsets")[..down * across];
                if is_shift(window) {
                    let [to, from] = overlap(target.len(), shift(window, u, v));
                    target[..to.start].fill(T::ZERO);
                    target[to.end..].fill(T::ZERO);
                    target[to].copy_from_slice(&plane[from]);
                    inside.clear_outside(target, across);
                    continue;
                }
                for (i, target) in target.chunks_exact_mut(across).enumerate() {
                    match window.source(0, i, u) {
                        Some(y) => inside.take(&plane[y * width..][..width], target),
                        None => target.fill(T::ZERO),
                    }
                }
            }
        }
    }
}

/// The sum of all patches, each where it was taken from: the transpose of [`im2col`].
#[inline(always)]
pub(super) fn col2im<T: Real>(window: &Window, cols: &[T], row_stride: usize, image: &mut [T]) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    let offsets: Vec<Inside> = (0..window.kernel[1]).map(|v| Inside::new(window, v, across)).collect();
    let mut inner = vec![T::ZERO; down * across];
    let mut rows = cols.chunks(row_stride);
    for plane in image.chunks_exact_mut(height * width) {
        plane.fill(T::ZERO);
        for u in 0..window.kernel[0] {
            for (v, inside) in offsets.iter().enumerate() {
                let source = &rows.next().expect("as many rows as offsets")[..down * across];
                if is_shift(window) {
                    // What lies in the padding must not reach the other end of the next line.
                    inner.copy_from_slice(source);
                    inside.clear_outside(&mut inner, across);
                    let [from, to] = overlap(plane.len(), shift(window, u, v));
                    plane[to].iter_mut().zip(&inner[from]).for_each(|(out, x)| *out += *x);
                    continue;
                }
                for (i, source) in source.chunks_exact(across).enumerate() {
                    if let Some(y) = window.source(0, i, u) {
                        inside.add(source, &mut plane[y * width..][..width]);
                    }
                }
            }
        }
    }
}

/// Whether there are as many windows as pixels, side by side: a row of patches is then the plane, shifted.
fn is_shift(window: &Window) -> bool {
    window.stride == 1 && window.steps() == Some(window.image)
}

/// How much further on in the plane offset `(u, v)` of a window is than the window.
fn shift(window: &Window, u: usize, v: usize) -> isize {
    let width = window.image[1];
    (u * width + v) as isize - (window.padding * (width + 1)) as isize
}

/// The positions `at` of `len` for which `at + by` is a position as well, and those.
fn overlap(len: usize, by: isize) -> [Range<usize>; 2] {
    let [before, after] = [-by, by].map(|by| by.clamp(0, len as isize) as usize);
    [before..len - after, after..len - before]
}

/// The windows across whose offset `v` lies inside the image, and where it lies.
struct Inside {
    /// Windows `first..last`.
    first: usize,
    last: usize,
    /// Column of the image under the first of them.
    start: usize,
    stride: usize,
}

impl Inside {
    /// Of `count` windows across.
    #[inline(always)]
    fn new(window: &Window, v: usize, count: usize) -> Self {
        let first = window.padding.saturating_sub(v).div_ceil(window.stride).min(count);
        // w stride + v - padding < width
        let room = (window.image[1] + window.padding).saturating_sub(v);
        let last = room.div_ceil(window.stride).min(count).max(first);
        let start = (first * window.stride + v).saturating_sub(window.padding);
        Self { first, last, start, stride: window.stride }
    }

    /// One image row under the offset, 0 outside.
    #[inline(always)]
    fn take<T: Real>(&self, image: &[T], out: &mut [T]) {
        let count = self.last - self.first;
        out[..self.first].fill(T::ZERO);
        out[self.last..].fill(T::ZERO);
        if count == 0 {
            return;
        }
        if self.stride == 1 {
            out[self.first..self.last].copy_from_slice(&image[self.start..self.start + count]);
        } else {
            let sources = image[self.start..].iter().step_by(self.stride);
            out[self.first..self.last].iter_mut().zip(sources).for_each(|(out, x)| *out = *x);
        }
    }

    /// Zeros in every line, one for each row of windows, where the offset lies in the padding.
    #[inline(always)]
    fn clear_outside<T: Real>(&self, lines: &mut [T], across: usize) {
        // Column by column: a line has one or two of them, for which a call to fill them would be long.
        for column in (0..self.first).chain(self.last..across) {
            lines[column..].iter_mut().step_by(across).for_each(|value| *value = T::ZERO);
        }
    }

    /// The transpose of [`take`](Self::take), added.
    #[inline(always)]
    fn add<T: Real>(&self, source: &[T], image: &mut [T]) {
        let count = self.last - self.first;
        if count == 0 {
            return;
        }
        let source = &source[self.first..self.last];
        if self.stride == 1 {
            let targets = &mut image[self.start..self.start + count];
            targets.iter_mut().zip(source).for_each(|(out, x)| *out += *x);
        } else {
            let targets = image[self.start..].iter_mut().step_by(self.stride);
            targets.zip(source).for_each(|(out, x)| *out += *x);
        }
    }
}

/// Position in the image of the first maximum under every window: `channels x windows`.
///
/// A row of windows at a time, all windows across under one offset after another, so that the innermost loop
/// runs over windows and has no branches.
#[inline(always)]
fn maxima<T: Real>(window: &Window, image: &[T], found: &mut Vec<usize>) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    found.clear();
    found.resize(window.channels * down * across, usize::MAX);
    let offsets: Vec<Inside> = (0..window.kernel[1]).map(|v| Inside::new(window, v, across)).collect();
    let mut best = vec![T::ZERO; across];
    for (row, found) in found.chunks_exact_mut(across).enumerate() {
        let (plane, i) = (row / down, row % down);
        for y in (0..window.kernel[0]).filter_map(|u| window.source(0, i, u)) {
            let line = (plane * height + y) * width;
            for inside in &offsets {
                let slots =
                    found[inside.first..inside.last].iter_mut().zip(&mut best[inside.first..inside.last]);
                for (w, (at, best)) in slots.enumerate() {
                    let source = line + inside.start + w * inside.stride;
                    let value = image[source];
                    let better = *at == usize::MAX || value > *best;
                    *at = if better { source } else { *at };
                    *best = if better { value } else { *best };
                }
            }
        }
    }
}

/// The usual pool: windows of two by two numbers, side by side, that cover the image. What is largest in each is found
/// in two steps of plain vectors, between neighbours in a line and between the lines of a pair.
///
/// What a condition chooses from is read before it, whatever it says: else the compiler makes branches, which no
/// processor could predict.
struct Tiles<T> {
    /// Numbers in half a line.
    across: usize,
    /// The larger of each two neighbours.
    larger: Vec<T>,
    /// Scratch of the same size.
    half: Vec<T>,
}

impl<T: Real> Tiles<T> {
    fn new(window: &Window) -> Option<Self> {
        let [height, width] = window.image;
        let are_tiles = window.kernel == [2, 2] && window.stride == 2 && window.padding == 0;
        (are_tiles && height.is_multiple_of(2) && width.is_multiple_of(2)).then(|| {
            let half = vec![T::ZERO; window.inputs() / 2];
            Self { across: width / 2, larger: half.clone(), half }
        })
    }

    /// Takes an image whose maxima are meant.
    #[inline(always)]
    fn look_at(&mut self, x: &[T]) {
        for (larger, x) in self.larger.iter_mut().zip(x.chunks_exact(2)) {
            *larger = if x[1] > x[0] { x[1] } else { x[0] };
        }
    }

    /// `out` becomes `rx` at the maxima of `x`.
    #[inline(always)]
    fn gather(&mut self, x: &[T], rx: &[T], out: &mut [T]) {
        for (half, (x, rx)) in self.half.iter_mut().zip(x.chunks_exact(2).zip(rx.chunks_exact(2))) {
            let [left, right] = [rx[0], rx[1]];
            *half = if x[1] > x[0] { right } else { left };
        }
        let pairs = self.larger.chunks_exact(2 * self.across).zip(self.half.chunks_exact(2 * self.across));
        for (out, (larger, half)) in out.chunks_exact_mut(self.across).zip(pairs) {
            let (larger, half) = (larger.split_at(self.across), half.split_at(self.across));
            let lines = larger.0.iter().zip(larger.1).zip(half.0.iter().zip(half.1));
            for (out, ((upper, lower), (above, below))) in out.iter_mut().zip(lines) {
                let (above, below) = (*above, *below);
                *out = if *lower > *upper { below } else { above };
            }
        }
    }

    /// The transpose of [`gather`](Self::gather).
    #[inline(always)]
    fn scatter(&mut self, x: &[T], dy: &[T], out: &mut [T]) {
        let pairs =
            self.larger.chunks_exact(2 * self.across).zip(self.half.chunks_exact_mut(2 * self.across));
        for (dy, (larger, half)) in dy.chunks_exact(self.across).zip(pairs) {
            let (larger, (above, below)) = (larger.split_at(self.across), half.split_at_mut(self.across));
            let lines = larger.0.iter().zip(larger.1).zip(above.iter_mut().zip(below));
            for (dy, ((upper, lower), (above, below))) in dy.iter().zip(lines) {
                let (dy, down) = (*dy, *lower > *upper);
                *above = if down { T::ZERO } else { dy };
                *below = if down { dy } else { T::ZERO };
            }
        }
        for (out, (x, half)) in out.chunks_exact_mut(2).zip(x.chunks_exact(2).zip(&self.half)) {
            let (half, right) = (*half, x[1] > x[0]);
            out[0] = if right { T::ZERO } else { half };
            out[1] = if right { half } else { T::ZERO };
        }
    }
}

/// Calls `visit(output, input)` for every pair of a window and a number under it, plane by plane.
pub(super) fn under_windows(window: &Window, mut visit: impl FnMut(usize, usize)) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    for c in 0..window.channels {
        for i in 0..down {
            for j in 0..across {
                let output = (c * down + i) * across + j;
                for y in (0..window.kernel[0]).filter_map(|u| window.source(0, i, u)) {
                    for x in (0..window.kernel[1]).filter_map(|v| window.source(1, j, v)) {
                        visit(output, (c * height + y) * width + x);
                    }
                }
            }
        }
    }
}

/// Where the maxima of an image lie.
enum Maxima<T> {
    Tiles(Tiles<T>),
    /// Their positions, for windows of any other kind.
    Positions(Vec<usize>),
}

impl<T: Real> Maxima<T> {
    fn new(window: &Window) -> Self {
        Tiles::new(window).map_or_else(|| Self::Positions(Vec::new()), Self::Tiles)
    }

    #[inline(always)]
    fn look_at(&mut self, window: &Window, x: &[T]) {
        match self {
            Self::Tiles(tiles) => tiles.look_at(x),
            Self::Positions(positions) => maxima(window, x, positions),
        }
    }

    #[inline(always)]
    fn gather(&mut self, x: &[T], rx: &[T], out: &mut [T]) {
        match self {
            Self::Tiles(tiles) => tiles.gather(x, rx, out),
            Self::Positions(positions) => {
                out.iter_mut().zip(positions).for_each(|(out, at)| *out = rx[*at]);
            }
        }
    }

    #[inline(always)]
    fn scatter(&mut self, x: &[T], dy: &[T], out: &mut [T]) {
        match self {
            Self::Tiles(tiles) => tiles.scatter(x, dy, out),
            Self::Positions(positions) => {
                out.fill(T::ZERO);
                dy.iter().zip(positions).for_each(|(dy, at)| out[*at] += *dy);
            }
        }
    }
}

/// Row `i` of `out` becomes `rx_i` at the maxima of row `i mod x.rows` of `x`.
#[inline(always)]
pub(super) fn max_pool_gather<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    rx: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    let mut maxima = Maxima::new(window);
    for example in 0..x.rows {
        maxima.look_at(window, x.row(example));
        for i in (example..rx.rows).step_by(x.rows) {
            maxima.gather(x.row(example), rx.row(i), out.row(i));
        }
    }
}

/// The transpose of [`max_pool_gather`].
#[inline(always)]
pub(super) fn max_pool_scatter<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    dy: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    let mut maxima = Maxima::new(window);
    for example in 0..x.rows {
        maxima.look_at(window, x.row(example));
        for i in (example..dy.rows).step_by(x.rows) {
            maxima.scatter(x.row(example), dy.row(i), out.row(i));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Pools of tiles against the positions of maxima that other windows go by, with ties.
    #[test]
    fn tiles_have_the_maxima_of_windows() {
        for image in [[2, 2], [4, 6], [14, 14], [6, 34]] {
            let window = Window { channels: 3, image, kernel: [2, 2], stride: 2, padding: 0 };
            let numbers = |len: usize, seed: u64| random(len, seed);
            let x: Vec<f64> = numbers(window.inputs(), 1).iter().map(|v| (3.0 * v).round()).collect();
            let mut positions = Vec::new();
            maxima(&window, &x, &mut positions);
            let mut tiles = Tiles::new(&window).expect("windows that cover the image");
            tiles.look_at(&x);
            let (rx, dy) = (numbers(x.len(), 2), numbers(positions.len(), 3));
            let (mut out, mut dx) = (vec![f64::NAN; dy.len()], vec![f64::NAN; x.len()]);
            tiles.gather(&x, &rx, &mut out);
            tiles.scatter(&x, &dy, &mut dx);
            assert_eq!(out, positions.iter().map(|&at| rx[at]).collect::<Vec<_>>());
            let mut expected = vec![0.0; x.len()];
            positions.iter().zip(&dy).for_each(|(&at, dy)| expected[at] = *dy);
            assert_eq!(dx, expected);
        }
        let cut = Window { channels: 1, image: [4, 5], kernel: [2, 2], stride: 2, padding: 0 };
        assert!(Tiles::<f64>::new(&cut).is_none(), "a column lies under no window");
    }
}
