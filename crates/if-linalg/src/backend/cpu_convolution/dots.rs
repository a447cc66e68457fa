//! Inner products of a few planes with what lies under a few offsets.

use std::ops::Range;

use pulp::Simd;

use super::planes::Planes;
use crate::Real;

/// `dw[o][offset] += <dy_o, x from that offset on>` over `len` numbers of each image. Those between and behind lines are
/// among them: there `dy` is 0, so that an infinite or undefined number of an image may reach more of that image's
/// products than it is under.
pub(super) struct Dots<'a, T> {
    pub(super) x: &'a Planes<T>,
    pub(super) offsets: &'a [usize],
    pub(super) dy: &'a Planes<T>,
    pub(super) images: usize,
    pub(super) len: usize,
    /// Between rows of `dw`.
    pub(super) stride: usize,
}

/// Numbers of a plane, or of the same plane of several images, that meet all offsets before the next: those of some
/// planes fit the first cache.
pub(super) const AT_ONCE: usize = 1024;

impl<T: Real> Dots<'_, T> {
    #[inline(always)]
    pub(super) fn compute<S: Simd>(&self, simd: S, dw: &mut [T]) {
        let last = self.offsets.iter().max().expect("a window has offsets");
        let last_plane = self.dy.start + (self.dy.count - 1) * self.dy.stride;
        for (planes, last) in [(self.x, *last), (self.dy, last_plane)] {
            let last_image = (self.images - 1) * planes.image::<S>();
            assert!(last_image + last + self.len + T::count::<S>() <= planes.data.len());
        }
        let last_row = (self.dy.count - 1).checked_mul(self.stride).expect("a distance in memory");
        assert!(last_row + self.offsets.len() <= dw.len());
        for first in (0..self.len).step_by(AT_ONCE) {
            let len = AT_ONCE.min(self.len - first);
            let (all, part) = (0..self.dy.count, (first, len));
            // Offsets in a tile of four planes: so many that all sums and what is multiplied are in registers.
            if S::REGISTER_COUNT >= 32 {
                self.planes::<S, 5>(simd, part, all, dw);
            } else {
                self.planes::<S, 3>(simd, part, all, dw);
            }
        }
    }

    /// The `planes` with `N` offsets at a time.
    #[inline(always)]
    fn planes<S: Simd, const N: usize>(
        &self,
        simd: S,
        part: (usize, usize),
        planes: Range<usize>,
        dw: &mut [T],
    ) {
        let end = planes.end;
        let mut done = self.rows::<S, 4, N>(simd, part, planes, dw);
        done = self.rows::<S, 2, N>(simd, part, done..end, dw);
        self.rows::<S, 1, N>(simd, part, done..end, dw);
    }

    /// Planes `M` at a time, as long as there are as many; returns how many are done then.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        part: (usize, usize),
        planes: Range<usize>,
        dw: &mut [T],
    ) -> usize {
        let groups = planes.len() / M;
        for first in (0..groups).map(|group| planes.start + group * M) {
            let mut offsets = self.offsets.chunks_exact(N);
            let mut column = 0;
            for some in &mut offsets {
                self.tile::<S, M, N>(simd, part, some, first, &mut dw[column..]);
                column += N;
            }
            let (left, dw) = (offsets.remainder(), &mut dw[column..]);
            match left.len() {
                0 => {}
                1 => self.tile::<S, M, 1>(simd, part, left, first, dw),
                2 => self.tile::<S, M, 2>(simd, part, left, first, dw),
                3 => self.tile::<S, M, 3>(simd, part, left, first, dw),
                _ => self.tile::<S, M, 4>(simd, part, left, first, dw),
            }
        }
        planes.start + groups * M
    }

    /// The planes `first..first + M` with `N` offsets.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        (start, len): (usize, usize),
        offsets: &[usize],
        first: usize,
        dw: &mut [T],
    ) {
        let zero = T::splat(simd, T::ZERO);
        let mut sums = [[zero; N]; M];
        for image in 0..self.images {
            let mut x = [self.x.data.as_ptr(); N];
            for (x, offset) in x.iter_mut().zip(offsets) {
                // SAFETY: `compute` has asserted that `len` numbers of a plane and a vector more lie behind every offset
                // of the last image.
                *x = unsafe { x.add(image * self.x.image::<S>() + offset + start) };
            }
            let plane = image * self.dy.image::<S>() + self.dy.start + first * self.dy.stride;
            // SAFETY: `compute` has asserted as much of the planes of `dy`.
            let dy = unsafe { self.dy.data.as_ptr().add(plane + start) };
            for at in (0..len).step_by(T::count::<S>()) {
                let mut inputs = [zero; N];
                for (input, x) in inputs.iter_mut().zip(x) {
                    // SAFETY: as above.
                    *input = unsafe { T::load::<S>(x.add(at)) };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let dy = unsafe { T::load::<S>(dy.add(r * self.dy.stride + at)) };
                    for (sum, input) in sums.iter_mut().zip(inputs) {
                        *sum = T::mul_add(simd, dy, input, *sum);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (slot, sum) in dw[(first + r) * self.stride..].iter_mut().zip(sums) {
                *slot += T::reduce_sum(simd, *sum);
            }
        }
    }
}
