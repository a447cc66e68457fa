//! Images as convolutions read them.

use std::ops::Range;

use pulp::Simd;

use crate::{Real, Window};

/// Planes with zeros around them.
pub(super) struct Planes<T> {
    pub(super) data: Vec<T>,
    pub(super) count: usize,
    pub(super) shape: [usize; 2],
    /// Where the first number of the first plane is.
    pub(super) start: usize,
    /// Distance between lines.
    pub(super) pitch: usize,
    /// Distance between planes.
    pub(super) stride: usize,
    /// How many ones there are behind the last plane, for a bias.
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

    /// Takes the planes of one image, which lie one after another.
    ///
    /// Everything is written in the order in which it lies, zeros as well, a vector at a time: what a vector writes beyond
    /// its line is overwritten by what follows.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, image: &[T]) {
        let ([height, width], lanes) = (self.shape, T::count::<S>());
        let image = &image[..self.count * height * width];
        let end = self.end::<S>();
        self.data.clear();
        self.data.reserve(end + self.ones + lanes);
        let zero = T::splat(simd, T::ZERO);
        let target = self.data.as_mut_ptr();
        // SAFETY: all that is written lies between the start of `data` and a vector behind the last of the ones, for which
        // there is room; all that is read lies in `image`. When the length is set, everything below it has been written.
        unsafe {
            repeat::<T, S>(zero, target, 0..self.start);
            for (l, line) in image.chunks_exact(width).enumerate() {
                let (c, i) = (l / height, l % height);
                let at = self.start + c * self.stride + i * self.pitch;
                let whole = width / lanes * lanes;
                for j in (0..whole).step_by(lanes) {
                    T::store::<S>(target.add(at + j), T::load::<S>(line.as_ptr().add(j)));
                }
                if l * width + whole + lanes <= image.len() {
                    T::store::<S>(
                        target.add(at + whole),
                        T::load::<S>(image.as_ptr().add(l * width + whole)),
                    );
                } else {
                    for (j, x) in line.iter().enumerate().skip(whole) {
                        *target.add(at + j) = *x;
                    }
                }
                let next = if i + 1 < height { at + self.pitch } else { self.start + (c + 1) * self.stride };
                repeat::<T, S>(zero, target, at + width..next);
            }
            repeat::<T, S>(zero, target, self.start + self.count * self.stride..end);
            repeat::<T, S>(T::splat(simd, T::ONE), target, end..end + self.ones);
            self.data.set_len(end + self.ones);
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
