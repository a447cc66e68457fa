//! Kernels over windows on the CPU: patches of convolutions, and what averages need.

use std::ops::Range;

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
pub(super) struct Inside {
    /// Windows `first..last`.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Column of the image under the first of them.
    pub(super) start: usize,
    pub(super) stride: usize,
}

impl Inside {
    /// Of `count` windows across.
    #[inline(always)]
    pub(super) fn new(window: &Window, v: usize, count: usize) -> Self {
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
