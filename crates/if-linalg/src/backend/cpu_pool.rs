//! Max pools on the CPU, plane by plane.

use std::ops::Range;

use super::cpu_window::Inside;
use super::{Cpu, View, ViewMut};
use crate::{Real, Window};

/// Position in a plane of the first maximum under every window.
///
/// A row of windows at a time, all windows across under one offset after another, so that the innermost loop
/// runs over windows and has no branches.
#[inline(always)]
fn maxima<T: Real>(window: &Window, plane: &[T], found: &mut Vec<usize>) {
    let [down, across] = window.steps().expect("the window fits the image");
    let width = window.image[1];
    found.clear();
    found.resize(down * across, usize::MAX);
    let offsets: Vec<Inside> = (0..window.kernel[1]).map(|v| Inside::new(window, v, across)).collect();
    let mut best = vec![T::ZERO; across];
    for (i, found) in found.chunks_exact_mut(across).enumerate() {
        for y in (0..window.kernel[0]).filter_map(|u| window.source(0, i, u)) {
            let line = y * width;
            for inside in &offsets {
                let slots =
                    found[inside.first..inside.last].iter_mut().zip(&mut best[inside.first..inside.last]);
                for (w, (at, best)) in slots.enumerate() {
                    let source = line + inside.start + w * inside.stride;
                    let value = plane[source];
                    let better = *at == usize::MAX || value > *best;
                    *at = if better { source } else { *at };
                    *best = if better { value } else { *best };
                }
            }
        }
    }
}

/// The usual pool: windows of two by two numbers, side by side, that cover the image.
///
/// Left and right numbers of the windows are taken apart first; what is chosen is then chosen by vectors that do not see
/// where lines end: every line meets the next, also where the two are no pair, and results of that are left out. (Half a
/// line is too short for loops of its own.) What a condition chooses from is read before it, whatever it says, and a loop
/// has one result: else the compiler makes branches, which no processor could predict.
struct Tiles<T> {
    /// Numbers in half a line.
    across: usize,
    /// Of all lines, where the right number of a window is the larger: 1, else 0.
    right: Vec<T>,
    /// Of all lines but the last, where the next one has the larger number: 1, else 0.
    down: Vec<T>,
    /// Left and right numbers.
    sides: [Vec<T>; 2],
    /// One of each two.
    chosen: Vec<T>,
    /// One of each four, in every second line, where outputs are gathered.
    lines: Vec<T>,
    /// The same where they are scattered: the other lines are 0.
    scattered: Vec<T>,
}

impl<T: Real> Tiles<T> {
    fn new(window: &Window) -> Option<Self> {
        let [height, width] = window.image;
        let are_tiles = window.kernel == [2, 2] && window.stride == 2 && window.padding == 0;
        (are_tiles && height.is_multiple_of(2) && width.is_multiple_of(2)).then(|| {
            let (across, half) = (width / 2, height * width / 2);
            let [right, left_side, right_side, chosen] = [(); 4].map(|()| vec![T::ZERO; half]);
            let [down, lines, scattered] = [(); 3].map(|()| vec![T::ZERO; half - across]);
            Self { across, right, down, sides: [left_side, right_side], chosen, lines, scattered }
        })
    }

    /// Takes a plane whose maxima are meant.
    #[inline(always)]
    fn look_at(&mut self, x: &[T]) {
        take_apart(x, &mut self.sides);
        let [left, right] = &self.sides;
        mark_larger(left, right, &mut self.right);
        choose(&self.right, [left, right], &mut self.chosen);
        mark_larger(&self.chosen, &self.chosen[self.across..], &mut self.down);
    }

    /// `out` becomes `rx` at the maxima of `x`.
    #[inline(always)]
    fn gather(&mut self, rx: &[T], out: &mut [T]) {
        take_apart(rx, &mut self.sides);
        let [left, right] = &self.sides;
        choose(&self.right, [left, right], &mut self.chosen);
        choose(&self.down, [&self.chosen, &self.chosen[self.across..]], &mut self.lines);
        for (out, line) in out.chunks_exact_mut(self.across).zip(self.lines.chunks(2 * self.across)) {
            copy_line(&line[..self.across], out);
        }
    }

    /// The transpose of [`gather`](Self::gather).
    #[inline(always)]
    fn scatter(&mut self, dy: &[T], out: &mut [T]) {
        for (line, dy) in self.scattered.chunks_mut(2 * self.across).zip(dy.chunks_exact(self.across)) {
            copy_line(dy, &mut line[..self.across]);
        }
        // Every second line stays 0 and gives nothing: first what goes down, then what stays is added.
        self.chosen[..self.across].fill(T::ZERO);
        keep_where(false, &self.down, &self.scattered, &mut self.chosen[self.across..]);
        for ((chosen, line), mark) in self.chosen.iter_mut().zip(&self.scattered).zip(&self.down) {
            let (line, chosen_before) = (*line, *chosen);
            *chosen = chosen_before + if *mark == T::ZERO { line } else { T::ZERO };
        }
        let [left, right] = &mut self.sides;
        keep_where(true, &self.right, &self.chosen, left);
        keep_where(false, &self.right, &self.chosen, right);
        for (out, (l, r)) in out.chunks_exact_mut(2).zip(left.iter().zip(&*right)) {
            out[0] = *l;
            out[1] = *r;
        }
    }
}

/// `out` is 1 where the second is larger than the first, else 0.
#[inline(always)]
fn mark_larger<T: Real>(first: &[T], second: &[T], out: &mut [T]) {
    for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
        *out = if *second > *first { T::ONE } else { T::ZERO };
    }
}

/// `out` is the first of both where `marks` are 0, else the second.
#[inline(always)]
fn choose<T: Real>(marks: &[T], [first, second]: [&[T]; 2], out: &mut [T]) {
    for ((out, mark), (first, second)) in out.iter_mut().zip(marks).zip(first.iter().zip(second)) {
        let (first, second) = (*first, *second);
        *out = if *mark == T::ZERO { first } else { second };
    }
}

/// `out = x` where `marks` are 0, or where they are not, else 0.
#[inline(always)]
fn keep_where<T: Real>(zero: bool, marks: &[T], x: &[T], out: &mut [T]) {
    for ((out, x), mark) in out.iter_mut().zip(x).zip(marks) {
        let x = *x;
        *out = if (*mark == T::ZERO) == zero { x } else { T::ZERO };
    }
}

/// `y = x` for a line, in pieces of one size, of which the last may overlap the one before: a call to copy it would take
/// longer.
#[inline(always)]
fn copy_line<T: Real>(x: &[T], y: &mut [T]) {
    const PIECE: usize = 8;
    let Some(last) = x.len().checked_sub(PIECE) else {
        return y.copy_from_slice(x);
    };
    for at in (0..x.len()).step_by(PIECE).map(|at| at.min(last)) {
        y[at..at + PIECE].copy_from_slice(&x[at..at + PIECE]);
    }
}

/// The first and the second of each two numbers of `x`.
#[inline(always)]
fn take_apart<T: Real>(x: &[T], [left, right]: &mut [Vec<T>; 2]) {
    for (x, (left, right)) in x.chunks_exact(2).zip(left.iter_mut().zip(right)) {
        *left = x[0];
        *right = x[1];
    }
}

/// Where the maxima of a plane lie.
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
    fn gather(&mut self, rx: &[T], out: &mut [T]) {
        match self {
            Self::Tiles(tiles) => tiles.gather(rx, out),
            Self::Positions(positions) => {
                out.iter_mut().zip(positions).for_each(|(out, at)| *out = rx[*at]);
            }
        }
    }

    #[inline(always)]
    fn scatter(&mut self, dy: &[T], out: &mut [T]) {
        match self {
            Self::Tiles(tiles) => tiles.scatter(dy, out),
            Self::Positions(positions) => {
                out.fill(T::ZERO);
                dy.iter().zip(positions).for_each(|(dy, at)| out[*at] += *dy);
            }
        }
    }
}

/// Calls `f(maxima, row, plane's inputs, plane's outputs)` for every plane of every row of `rows`, with the maxima of that
/// plane of row `row mod x.rows` of `x`: a plane meets all its directions before the next.
#[inline(always)]
fn each_plane<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    rows: usize,
    mut f: impl FnMut(&mut Maxima<T>, usize, Range<usize>, Range<usize>),
) {
    let plane = Window { channels: 1, ..*window };
    let (inputs, outputs) = (plane.inputs(), plane.positions());
    let mut maxima = Maxima::new(&plane);
    for example in 0..x.rows {
        for c in 0..window.channels {
            let [input, output] = [inputs, outputs].map(|len| c * len..(c + 1) * len);
            maxima.look_at(&plane, &x.row(example)[input.clone()]);
            for row in (example..rows).step_by(x.rows) {
                f(&mut maxima, row, input.clone(), output.clone());
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
    each_plane(
        window,
        x,
        rx.rows,
        #[inline(always)]
        |maxima, i, input, output| maxima.gather(&rx.row(i)[input], &mut out.row(i)[output]),
    );
}

/// The transpose of [`max_pool_gather`].
#[inline(always)]
pub(super) fn max_pool_scatter<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    dy: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    each_plane(
        window,
        x,
        dy.rows,
        #[inline(always)]
        |maxima, i, input, output| maxima.scatter(&dy.row(i)[output], &mut out.row(i)[input]),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Pools of tiles against the positions of maxima that other windows go by, with ties.
    #[test]
    fn tiles_have_the_maxima_of_windows() {
        for image in [[2, 2], [4, 6], [14, 14], [6, 34]] {
            let window = Window { channels: 1, image, kernel: [2, 2], stride: 2, padding: 0 };
            let numbers = |len: usize, seed: u64| random(len, seed);
            let x: Vec<f64> = numbers(window.inputs(), 1).iter().map(|v| (3.0 * v).round()).collect();
            let mut positions = Vec::new();
            maxima(&window, &x, &mut positions);
            let mut tiles = Tiles::new(&window).expect("windows that cover the image");
            tiles.look_at(&x);
            let (rx, dy) = (numbers(x.len(), 2), numbers(positions.len(), 3));
            let (mut out, mut dx) = (vec![f64::NAN; dy.len()], vec![f64::NAN; x.len()]);
            tiles.gather(&rx, &mut out);
            tiles.scatter(&dy, &mut dx);
            assert_eq!(out, positions.iter().map(|&at| rx[at]).collect::<Vec<_>>());
            let mut expected = vec![0.0; x.len()];
            positions.iter().zip(&dy).for_each(|(&at, dy)| expected[at] = *dy);
            assert_eq!(dx, expected);
        }
        let cut = Window { channels: 1, image: [4, 5], kernel: [2, 2], stride: 2, padding: 0 };
        assert!(Tiles::<f64>::new(&cut).is_none(), "a column lies under no window");
    }
}
