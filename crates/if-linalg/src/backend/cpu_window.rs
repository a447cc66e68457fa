//! Kernels over windows on the CPU: patches of convolutions, and pools.

use super::{Cpu, View, ViewMut};
use crate::{Real, Window};

/// `out[(c, u, v)][window] = image[c][source]`, 0 in the padding.
pub(super) fn im2col<T: Real>(window: &Window, image: &[T], out: &mut [T], row_stride: usize) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    let mut row = 0;
    for plane in image.chunks_exact(height * width) {
        for u in 0..window.kernel[0] {
            for v in 0..window.kernel[1] {
                let target = &mut out[row * row_stride..][..down * across];
                for (i, target) in target.chunks_exact_mut(across).enumerate() {
                    match window.source(0, i, u) {
                        Some(y) => patch_row(window, &plane[y * width..][..width], v, target),
                        None => target.fill(T::ZERO),
                    }
                }
                row += 1;
            }
        }
    }
}

/// One image row under offset `v` of all windows across.
fn patch_row<T: Real>(window: &Window, image: &[T], v: usize, out: &mut [T]) {
    let (first, last) = inside(window, v, out.len());
    out[..first].fill(T::ZERO);
    out[last..].fill(T::ZERO);
    let start = (first * window.stride + v).saturating_sub(window.padding);
    if window.stride == 1 {
        out[first..last].copy_from_slice(&image[start..start + last - first]);
    } else {
        let sources = image[start.min(image.len())..].iter().step_by(window.stride);
        out[first..last].iter_mut().zip(sources).for_each(|(out, x)| *out = *x);
    }
}

/// The windows `first..last` whose offset `v` lies inside the image, of `count` windows across.
fn inside(window: &Window, v: usize, count: usize) -> (usize, usize) {
    let first = window.padding.saturating_sub(v).div_ceil(window.stride).min(count);
    // w stride + v - padding < width
    let room = (window.image[1] + window.padding).saturating_sub(v);
    let last = room.div_ceil(window.stride).min(count);
    (first, last.max(first))
}

/// Adds every patch to the image it was taken from: the transpose of [`im2col`].
pub(super) fn col2im<T: Real>(window: &Window, cols: &[T], row_stride: usize, image: &mut [T]) {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    let mut row = 0;
    for plane in image.chunks_exact_mut(height * width) {
        for u in 0..window.kernel[0] {
            for v in 0..window.kernel[1] {
                let source = &cols[row * row_stride..][..down * across];
                let (first, last) = inside(window, v, across);
                let start = (first * window.stride + v).saturating_sub(window.padding);
                for (i, source) in source.chunks_exact(across).enumerate() {
                    let Some(y) = window.source(0, i, u) else { continue };
                    let image = &mut plane[y * width..][..width];
                    let targets = image[start.min(width)..].iter_mut().step_by(window.stride);
                    source[first..last].iter().zip(targets).for_each(|(x, out)| *out += *x);
                }
                row += 1;
            }
        }
    }
}

/// Position in the image of the first maximum under every window: `channels x windows`.
pub(super) fn maxima<T: Real>(window: &Window, image: &[T]) -> Vec<usize> {
    let [down, across] = window.steps().expect("the window fits the image");
    let [height, width] = window.image;
    let mut found = Vec::with_capacity(window.channels * down * across);
    for c in 0..window.channels {
        for i in 0..down {
            for j in 0..across {
                let mut best: Option<usize> = None;
                for y in (0..window.kernel[0]).filter_map(|u| window.source(0, i, u)) {
                    for x in (0..window.kernel[1]).filter_map(|v| window.source(1, j, v)) {
                        let at = (c * height + y) * width + x;
                        if best.is_none_or(|best| image[at] > image[best]) {
                            best = Some(at);
                        }
                    }
                }
                found.push(best.expect("padding is at most half of the window"));
            }
        }
    }
    found
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

/// Row `i` of `out` becomes `rx_i` at the maxima of row `i mod x.rows` of `x`.
pub(super) fn max_pool_gather<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    rx: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    for example in 0..x.rows {
        let maxima = maxima(window, x.row(example));
        for i in (example..rx.rows).step_by(x.rows) {
            let rx = rx.row(i);
            out.row(i).iter_mut().zip(&maxima).for_each(|(out, at)| *out = rx[*at]);
        }
    }
}

/// The transpose of [`max_pool_gather`].
pub(super) fn max_pool_scatter<T: Real>(
    window: &Window,
    x: View<Cpu<T>>,
    dy: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    for example in 0..x.rows {
        let maxima = maxima(window, x.row(example));
        for i in (example..dy.rows).step_by(x.rows) {
            let out = out.row(i);
            out.fill(T::ZERO);
            dy.row(i).iter().zip(&maxima).for_each(|(dy, at)| out[*at] += *dy);
        }
    }
}
