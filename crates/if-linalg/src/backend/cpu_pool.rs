//! Max pools on the CPU, plane by plane.

use std::ops::Range;

use super::cpu_window::Inside;
use super::{Cpu, View, ViewMut};
use crate::{Real, Window};

/// Whether `later` takes the place of `earlier` as the maximum of a window: equal numbers do not, and what is not a number
/// does, so that no pool hides it.
#[inline(always)]
fn beats<T: Real>(later: T, earlier: T) -> bool {
    #[allow(clippy::eq_op)]
    let nan = later != later;
    later > earlier || nan
}

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
                    let better = *at == usize::MAX || beats(value, *best);
                    *at = if better { source } else { *at };
                    *best = if better { value } else { *best };
                }
            }
        }
    }
}

/// Windows of the usual pool that are looked at together.
const PIECE: usize = 8;

/// What is under a piece of a line of windows, or one half of it: first and second numbers side by side.
type Pairs<T> = [T; 2 * PIECE];

/// The usual pool: windows of two by two numbers, side by side, that cover the image.
///
/// All planes are one tall image, as no window reaches from one to the next. What lies under a piece of windows is read,
/// compared and chosen from in registers. The last piece of a line overlaps the one before; where a line is shorter than a
/// piece, the piece reaches into the next line, which is written later.
struct Tiles {
    /// Windows in a line.
    across: usize,
}

impl Tiles {
    fn new(window: &Window) -> Option<Self> {
        let [height, width] = window.image;
        let are_tiles = window.kernel == [2, 2] && window.stride == 2 && window.padding == 0;
        (are_tiles && height.is_multiple_of(2) && width.is_multiple_of(2))
            .then_some(Self { across: width / 2 })
    }

    /// Calls `f` with the first window of every piece, and with where its two lines of numbers begin.
    #[inline(always)]
    fn each_piece(&self, windows: usize, mut f: impl FnMut(usize, [usize; 2])) {
        for line in (0..windows).step_by(self.across) {
            for at in (0..self.across).step_by(PIECE) {
                let at = at.min(self.across.saturating_sub(PIECE));
                let top = 4 * line + 2 * at;
                f(line + at, [top, top + 2 * self.across]);
            }
        }
    }

    /// `out` becomes `rx` at the maxima of `x`.
    #[inline(always)]
    fn gather<T: Real>(&self, x: &[T], rx: &[T], out: &mut [T]) {
        self.each_piece(
            out.len(),
            #[inline(always)]
            |window, lines| {
                if let (Some(x), Some(rx), Some(out)) =
                    (both(x, lines), both(rx, lines), out[window..].first_chunk_mut())
                {
                    *out = gathered(x, rx);
                } else {
                    let [x, rx] = [padded(x, lines), padded(rx, lines)];
                    let rest = out[window..].iter_mut();
                    rest.zip(gathered(x.each_ref(), rx.each_ref())).for_each(|(out, chosen)| *out = chosen);
                }
            },
        );
    }

    /// The transpose of [`gather`](Self::gather).
    #[inline(always)]
    fn scatter<T: Real>(&self, x: &[T], dy: &[T], out: &mut [T]) {
        self.each_piece(
            dy.len(),
            #[inline(always)]
            |window, lines| {
                if let (Some(x), Some(dy)) = (both(x, lines), dy[window..].first_chunk())
                    && lines[1] + 2 * PIECE <= out.len()
                {
                    let [above, below] = scattered(x, dy);
                    out[lines[0]..][..2 * PIECE].copy_from_slice(&above);
                    out[lines[1]..][..2 * PIECE].copy_from_slice(&below);
                } else {
                    let mut own = [T::ZERO; PIECE];
                    own.iter_mut().zip(&dy[window..]).for_each(|(own, dy)| *own = *dy);
                    for (part, line) in scattered(padded(x, lines).each_ref(), &own).iter().zip(lines) {
                        out[line..].iter_mut().zip(part).for_each(|(out, value)| *out = *value);
                    }
                }
            },
        );
    }
}

/// Both lines under a piece, where there are as many numbers.
#[inline(always)]
fn both<T>(x: &[T], lines: [usize; 2]) -> Option<[&Pairs<T>; 2]> {
    Some([x[lines[0]..].first_chunk()?, x[lines[1]..].first_chunk()?])
}

/// The same with zeros behind the last number.
fn padded<T: Real>(x: &[T], lines: [usize; 2]) -> [Pairs<T>; 2] {
    lines.map(|line| {
        let mut piece = [T::ZERO; 2 * PIECE];
        piece.iter_mut().zip(&x[line..]).for_each(|(own, x)| *own = *x);
        piece
    })
}

// Of the two functions below and the two that they call, each loop has one result, and what a condition chooses from is
// read before it, whatever it says: else the compiler makes branches, which no processor could predict.

/// Of each window the one of four `rx` that stands where the first maximum of `x` does.
#[inline(always)]
fn gathered<T: Real>(x: [&Pairs<T>; 2], rx: [&Pairs<T>; 2]) -> [T; PIECE] {
    let [up, down] = [larger(x[0], x[0]), larger(x[1], x[1])];
    let [above, below] = [larger(x[0], rx[0]), larger(x[1], rx[1])];
    let mut chosen = [T::ZERO; PIECE];
    for w in 0..PIECE {
        let (above, below) = (above[w], below[w]);
        chosen[w] = if beats(down[w], up[w]) { below } else { above };
    }
    chosen
}

/// The transpose: `dy` where the first maximum of `x` is under each window, and 0 elsewhere.
#[inline(always)]
fn scattered<T: Real>(x: [&Pairs<T>; 2], dy: &[T; PIECE]) -> [Pairs<T>; 2] {
    let [up, down] = [larger(x[0], x[0]), larger(x[1], x[1])];
    let [mut above, mut below] = [[T::ZERO; PIECE]; 2];
    for w in 0..PIECE {
        let dy = dy[w];
        above[w] = if beats(down[w], up[w]) { T::ZERO } else { dy };
    }
    for w in 0..PIECE {
        let dy = dy[w];
        below[w] = if beats(down[w], up[w]) { dy } else { T::ZERO };
    }
    [at_larger(x[0], &above), at_larger(x[1], &below)]
}

/// Of each two `values` that which stands where the larger number of `x` does, or the first.
#[inline(always)]
fn larger<T: Real>(x: &Pairs<T>, values: &Pairs<T>) -> [T; PIECE] {
    let mut chosen = [T::ZERO; PIECE];
    for w in 0..PIECE {
        let (first, second) = (values[2 * w], values[2 * w + 1]);
        chosen[w] = if beats(x[2 * w + 1], x[2 * w]) { second } else { first };
    }
    chosen
}

/// The transpose: each of `values` where the larger of two numbers of `x` is, or the first, and 0 where the other is.
#[inline(always)]
fn at_larger<T: Real>(x: &Pairs<T>, values: &[T; PIECE]) -> Pairs<T> {
    let mut spread = [T::ZERO; 2 * PIECE];
    for w in 0..PIECE {
        let value = values[w];
        spread[2 * w] = if beats(x[2 * w + 1], x[2 * w]) { T::ZERO } else { value };
        spread[2 * w + 1] = if beats(x[2 * w + 1], x[2 * w]) { value } else { T::ZERO };
    }
    spread
}

/// Calls `f(positions of maxima, row, plane's inputs, plane's outputs)` for every plane of every row of `rows`, with the
/// maxima of that plane of row `row mod x.rows` of `x`: a plane meets all its directions before the next.
#[inline(always)]
fn each_plane<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    rows: usize,
    mut f: impl FnMut(&[usize], usize, Range<usize>, Range<usize>),
) {
    let plane = Window { channels: 1, ..*window };
    let (inputs, outputs) = (plane.inputs(), plane.positions());
    let mut positions = Vec::new();
    for example in 0..x.rows {
        for c in 0..window.channels {
            let [input, output] = [inputs, outputs].map(|len| c * len..(c + 1) * len);
            maxima(&plane, &x.row(example)[input.clone()], &mut positions);
            for row in (example..rows).step_by(x.rows) {
                f(&positions, row, input.clone(), output.clone());
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
    let Some(tiles) = Tiles::new(window) else {
        return each_plane(window, x, rx.rows, |positions, i, input, output| {
            let rx = &rx.row(i)[input];
            out.row(i)[output].iter_mut().zip(positions).for_each(|(out, at)| *out = rx[*at]);
        });
    };
    let windows = window.channels * window.positions();
    for example in 0..x.rows {
        for row in (example..rx.rows).step_by(x.rows) {
            tiles.gather(x.row(example), rx.row(row), &mut out.row(row)[..windows]);
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
    let Some(tiles) = Tiles::new(window) else {
        return each_plane(window, x, dy.rows, |positions, i, input, output| {
            let out = &mut out.row(i)[input];
            out.fill(T::ZERO);
            dy.row(i)[output].iter().zip(positions).for_each(|(dy, at)| out[*at] += *dy);
        });
    };
    let windows = window.channels * window.positions();
    for example in 0..x.rows {
        for row in (example..dy.rows).step_by(x.rows) {
            tiles.scatter(x.row(example), &dy.row(row)[..windows], &mut out.row(row)[..4 * windows]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Pools of tiles against the positions of maxima that other windows go by, with ties and with what is not a number.
    #[test]
    fn tiles_have_the_maxima_of_windows() {
        for image in [[2, 2], [8, 2], [4, 6], [14, 14], [2, 16], [6, 34]] {
            let window = Window { channels: 2, image, kernel: [2, 2], stride: 2, padding: 0 };
            let [inputs, outputs] = [window.inputs(), 2 * window.positions()];
            let mut x: Vec<f64> = random(inputs, 1).iter().map(|v| (3.0 * v).round()).collect();
            x.iter_mut().skip(1).step_by(5).for_each(|x| *x = f64::NAN);
            let view = View::<Cpu<f64>>::new(&x, 0, 1, inputs);
            let mut positions = Vec::new();
            each_plane(&window, view, 1, |found, _, input, _| {
                positions.extend(found.iter().map(|at| input.start + at));
            });
            let tiles = Tiles::new(&window).expect("windows that cover the image");
            let (rx, dy) = (random(inputs, 2), random(outputs, 3));
            let (mut out, mut dx) = (vec![f64::NAN; outputs], vec![f64::NAN; inputs]);
            tiles.gather(&x, &rx, &mut out);
            tiles.scatter(&x, &dy, &mut dx);
            assert_eq!(out, positions.iter().map(|&at| rx[at]).collect::<Vec<_>>());
            let source = |at: usize| {
                let (plane, in_plane) = (at / (image[0] * image[1]), at % (image[0] * image[1]));
                let [line, column] = [in_plane / image[1], in_plane % image[1]];
                (plane * image[0] / 2 + line / 2) * image[1] / 2 + column / 2
            };
            for (at, _) in x.iter().enumerate().filter(|(_, x)| x.is_nan()) {
                assert!(x[positions[source(at)]].is_nan(), "the window over {at} hides what is not a number");
            }
            let mut expected = vec![0.0; inputs];
            positions.iter().zip(&dy).for_each(|(&at, dy)| expected[at] = *dy);
            assert_eq!(dx, expected);
        }
        let cut = Window { channels: 1, image: [4, 5], kernel: [2, 2], stride: 2, padding: 0 };
        assert!(Tiles::new(&cut).is_none(), "a column lies under no window");
    }
}
