//! Images as convolutions read them.

use std::ops::Range;

use pulp::Simd;

use crate::{Real, Window};

/// Planes of a few images with zeros around them.
pub(super) struct Planes<T> {
    pub(super) data: Vec<T>,
    /// Planes of an image.
    pub(super) count: usize,
    pub(super) shape: [usize; 2],
    /// Where the first number of the first plane of an image is.
    pub(super) start: usize,
    /// Distance between lines.
    pub(super) pitch: usize,
    /// Distance between planes.
    pub(super) stride: usize,
    /// How many ones there are behind the last plane of an image, for a bias.
    pub(super) ones: usize,
}

impl<T: Real> Planes<T> {
    /// With at least `gap[0]` lines of zeros between planes and `gap[1]` zeros between lines; nothing in them yet.
    fn new<S: Simd>(count: usize, shape: [usize; 2], gap: [usize; 2]) -> Self {
        let ([height, width], lanes) = (shape, T::count::<S>());
        let pitch = width + gap[1];
        let start = gap[0] * pitch + gap[1];
        // A vector that begins in a plane ends before the next.
        let stride = ((height + gap[0]) * pitch).max((height - 1) * pitch + width + lanes);
        Self { data: Vec::new(), count, shape, start, pitch, stride, ones: 0 }
    }

    /// Where the ones begin.
    pub(super) fn end<S: Simd>(&self) -> usize {
        self.start + self.count * self.stride + self.pitch - self.shape[1] + 2 * T::count::<S>()
    }

    /// The planes of an image's input.
    pub(super) fn inputs<S: Simd>(window: &Window) -> Self {
        Self::new::<S>(window.channels, window.image, [window.padding; 2])
    }

    /// The planes of `count` outputs.
    pub(super) fn outputs<S: Simd>(window: &Window, count: usize) -> Self {
        let gap = window.kernel.map(|size| size - 1 - window.padding);
        Self::new::<S>(count, window.steps().expect("the window fits the image"), gap)
    }

    /// Distance between images.
    pub(super) fn image<S: Simd>(&self) -> usize {
        self.end::<S>() + self.ones
    }

    /// Takes images, the planes of each of which lie one after another.
    #[inline(always)]
    pub(super) fn fill<'a, S: Simd>(&mut self, simd: S, images: impl IntoIterator<Item = &'a [T]>) {
        self.data.clear();
        for image in images {
            self.push(simd, image);
        }
    }

    /// Everything is written in the order in which it lies, zeros as well, a vector at a time: what a vector writes beyond
    /// its line is overwritten by what follows.
    #[inline(always)]
    fn push<S: Simd>(&mut self, simd: S, image: &[T]) {
        let ([height, width], lanes) = (self.shape, T::count::<S>());
        let image = &image[..self.count * height * width];
        // Where the last vector of a line begins, and the lines that have enough behind them to read all of it.
        let last = (width - 1) / lanes * lanes;
        let whole = image.len().checked_sub(last + lanes).map_or(0, |rest| rest / width + 1);
        let (end, len) = (self.end::<S>(), self.data.len());
        self.data.reserve(end + self.ones + lanes);
        let zero = T::splat(simd, T::ZERO);
        // SAFETY: all that is written lies between the end of what `data` holds and a vector behind the last of the ones,
        // for which there is room; all that is read lies in `image`. When the length is set, everything below it has been
        // written.
        unsafe {
            let target = self.data.as_mut_ptr().add(len);
            repeat::<T, S>(zero, target, 0..self.start);
            for c in 0..self.count {
                let (source, plane) = (c * height * width, target.add(self.start + c * self.stride));
                let whole = height.min(whole.saturating_sub(c * height));
                let lines = (image.as_ptr().add(source), plane, whole);
                // A known number of vectors makes a short loop.
                match last / lanes + 1 {
                    _ if self.pitch > last + lanes => self.lines::<S, 0>(simd, last, lines),
                    1 => self.lines::<S, 1>(simd, last, lines),
                    2 => self.lines::<S, 2>(simd, last, lines),
                    4 => self.lines::<S, 4>(simd, last, lines),
                    _ => self.lines::<S, 0>(simd, last, lines),
                }
                for i in whole..height {
                    let line = &image[source + i * width..][..width];
                    line.iter().enumerate().for_each(|(j, x)| *plane.add(i * self.pitch + j) = *x);
                    let next = i * self.pitch + self.pitch.max(last + lanes);
                    repeat::<T, S>(zero, plane, i * self.pitch + width..next);
                }
                repeat::<T, S>(zero, plane, (height - 1) * self.pitch + last + lanes..self.stride);
            }
            repeat::<T, S>(zero, target, self.start + self.count * self.stride..end);
            repeat::<T, S>(T::splat(simd, T::ONE), target, end..end + self.ones);
            self.data.set_len(len + end + self.ones);
        }
    }

    /// Copies lines of a plane, each in `N` vectors, or in as many as it takes where `N` is 0, with zeros behind it.
    ///
    /// # Safety
    /// As many lines can be read from `source` on, and a vector beginning `last` numbers after the start of each of them; there is
    /// room for as much from `target` on, at the distances of this plane.
    #[inline(always)]
    unsafe fn lines<S: Simd, const N: usize>(
        &self,
        simd: S,
        last: usize,
        (source, target, count): (*const T, *mut T, usize),
    ) {
        let ([_, width], lanes) = (self.shape, T::count::<S>());
        let last = if N == 0 { last } else { (N - 1) * lanes };
        let (zero, head) = (T::splat(simd, T::ZERO), T::head(simd, width - last));
        for i in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                let (line, at) = (source.add(i * width), target.add(i * self.pitch));
                for j in (0..last).step_by(lanes) {
                    T::store::<S>(at.add(j), T::load::<S>(line.add(j)));
                }
                let end = T::load::<S>(line.add(last));
                T::store::<S>(at.add(last), T::select(simd, head, end, zero));
                if N == 0 {
                    repeat::<T, S>(zero, at, last + lanes..self.pitch);
                }
            }
        }
    }

    /// Where what is under every offset of the first window lies, plane by plane.
    pub(super) fn offsets(&self, kernel: [usize; 2]) -> Vec<usize> {
        let mut all = Vec::with_capacity(self.count * kernel[0] * kernel[1] + 1);
        for c in 0..self.count {
            for u in 0..kernel[0] {
                let line = c * self.stride + u * self.pitch;
                all.extend(line..line + kernel[1]);
            }
        }
        all
    }
}

/// Writes `value` to a range, and to less than a vector behind it.
///
/// # Safety
/// From `target` on there is room for the range and a vector behind its end, at which nobody else looks.
#[inline(always)]
unsafe fn repeat<T: Real, S: Simd>(value: T::Vector<S>, target: *mut T, range: Range<usize>) {
    for at in range.step_by(T::count::<S>()) {
        // SAFETY: the caller's promise.
        unsafe { T::store::<S>(target.add(at), value) };
    }
}
