//! Sums over the terms of a few output planes at a few windows.

use std::array::from_ref;
use std::ops::Range;

use pulp::Simd;

use crate::Real;

/// Stretches of windows in a tile: with six planes (and eight where there are 32 registers), all sums, what comes from
/// the stretches and one weight are in registers, of which most processors have 16.
const STRETCHES: usize = 2;

/// A product of a weight and a number under a window.
#[derive(Clone, Copy)]
pub(super) struct Term {
    /// Distance from the first weight of an output plane.
    pub(super) weight: usize,
    /// Distance from the number under the first offset of a window.
    pub(super) input: usize,
}

/// Some windows of a line, at most a vector of them.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    /// Of the first number under the first of them.
    pub(super) input: usize,
    /// Of the first of them in an output plane.
    pub(super) output: usize,
    pub(super) len: usize,
}

/// What `convolve`, or its transpose, does to every image.
pub(super) struct Sums<T> {
    pub(super) terms: Vec<Term>,
    /// Distance between the weights of output planes.
    pub(super) step: usize,
    /// Distance of the bias from the first weight of an output plane.
    pub(super) bias: Option<usize>,
    pub(super) stretches: Vec<Stretch>,
    pub(super) planes: usize,
    /// Numbers of an output plane.
    pub(super) plane: usize,
    pub(super) beta: T,
}

impl<T: Real> Sums<T> {
    /// The output planes of one image `x`, as [`Planes`](super::planes::Planes) hold it, by one matrix `w`.
    #[inline(always)]
    pub(super) fn compute<S: Simd>(&self, simd: S, wx: [&[T]; 2], out: &mut [T]) {
        let [w, x] = wx;
        let (Some(weight), Some(input)) =
            (self.terms.iter().map(|t| t.weight).max(), self.terms.iter().map(|t| t.input).max())
        else {
            return;
        };
        let last = self.stretches.iter().map(|s| s.input).max().unwrap_or(0);
        let last_plane = (self.planes - 1).checked_mul(self.step).expect("a distance in memory");
        assert!(last_plane + weight.max(self.bias.unwrap_or(0)) < w.len());
        assert!(input + last + T::count::<S>() <= x.len());
        assert!(self.planes * self.plane <= out.len());
        let (all, mut done) = (self.planes, 0);
        if S::REGISTER_COUNT >= 32 {
            done = self.rows::<S, 8>(simd, wx, done..all, out);
        }
        // Two or three planes alone have too few sums to keep a processor busy: better eight in two parts.
        let left = all - done;
        let sixes = left / 6 - usize::from(left > 6 && matches!(left % 6, 2 | 3));
        done = self.rows::<S, 6>(simd, wx, done..done + 6 * sixes, out);
        done = self.rows::<S, 4>(simd, wx, done..all, out);
        done = self.rows::<S, 2>(simd, wx, done..all, out);
        self.rows::<S, 1>(simd, wx, done..all, out);
    }

    /// Output planes `M` at a time, as long as there are as many; returns how many are done then.
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(
        &self,
        simd: S,
        wx: [&[T]; 2],
        planes: Range<usize>,
        out: &mut [T],
    ) -> usize {
        let groups = planes.len() / M;
        for first in (0..groups).map(|group| planes.start + group * M) {
            let (pairs, rest) = self.stretches.as_chunks::<STRETCHES>();
            for pair in pairs {
                self.tile::<S, M, STRETCHES>(simd, wx, first, pair, out);
            }
            for one in rest {
                self.tile::<S, M, 1>(simd, wx, first, from_ref(one), out);
            }
        }
        planes.start + groups * M
    }

    /// The planes `first..first + M` at `N` stretches.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        [w, x]: [&[T]; 2],
        first: usize,
        stretches: &[Stretch; N],
        out: &mut [T],
    ) {
        let w = &w[first * self.step..];
        let mut sums = [[T::splat(simd, T::ZERO); N]; M];
        if let Some(bias) = self.bias {
            for (r, sums) in sums.iter_mut().enumerate() {
                *sums = [T::splat(simd, w[r * self.step + bias]); N];
            }
        }
        let mut x = [x.as_ptr(); N];
        for (x, stretch) in x.iter_mut().zip(stretches) {
            // SAFETY: `compute` has asserted that a vector fits behind the last number under every stretch.
            *x = unsafe { x.add(stretch.input) };
        }
        for term in &self.terms {
            let mut inputs = [T::splat(simd, T::ZERO); N];
            for (input, x) in inputs.iter_mut().zip(x) {
                // SAFETY: as above.
                *input = unsafe { T::load::<S>(x.add(term.input)) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `compute` has asserted that the last weight of the last plane is there.
                let weight = T::splat(simd, unsafe { *w.as_ptr().add(term.weight + r * self.step) });
                for (sum, input) in sums.iter_mut().zip(inputs) {
                    *sum = T::mul_add(simd, weight, input, *sum);
                }
            }
        }
        for (n, stretch) in stretches.iter().enumerate() {
            let at = first * self.plane + stretch.output;
            // Vectors reach beyond the windows of a stretch: into those of the next, which overwrite that...
            if self.beta == T::ZERO && stretch.output + T::count::<S>() <= self.plane {
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: `compute` has asserted that the plane is there.
                    unsafe { T::store::<S>(out.as_mut_ptr().add(at + r * self.plane), sums[n]) };
                }
                continue;
            }
            let head = T::head(simd, stretch.len);
            // ...or into another plane, or beyond memory at its end.
            if at + (M - 1) * self.plane + T::count::<S>() <= out.len() {
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: even behind the last plane there is a vector's worth of numbers.
                    unsafe { self.put(simd, sums[n], out.as_mut_ptr().add(at + r * self.plane), head) };
                }
            } else {
                for (r, sums) in sums.iter().enumerate() {
                    self.put_lanes(simd, sums[n], head, &mut out[at + r * self.plane..][..stretch.len]);
                }
            }
        }
    }

    /// `out = sum + beta out` in the lanes of `head`.
    ///
    /// # Safety
    /// `out` points to a vector's worth of numbers, all of which are written: those that are not in `head` as they were.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, simd: S, sum: T::Vector<S>, out: *mut T, head: T::Mask<S>) {
        // SAFETY: the caller's promise.
        unsafe {
            let before = T::load::<S>(out);
            let after = match self.beta == T::ZERO {
                true => sum,
                false => T::mul_add(simd, T::splat(simd, self.beta), before, sum),
            };
            T::store::<S>(out, T::select(simd, head, after, before));
        }
    }

    /// The same where no vector fits behind `out`, which is as long as `head`.
    fn put_lanes<S: Simd>(&self, simd: S, sum: T::Vector<S>, head: T::Mask<S>, out: &mut [T]) {
        let mut lanes = [T::ZERO; MAX_LANES];
        lanes[..out.len()].copy_from_slice(out);
        // SAFETY: no register has more lanes.
        unsafe { self.put(simd, sum, lanes.as_mut_ptr(), head) };
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// Of the smallest type in the widest register there is.
const MAX_LANES: usize = 16;

/// Cuts lines of windows into stretches.
pub(super) fn stretches([down, across]: [usize; 2], pitch: usize, lanes: usize) -> Vec<Stretch> {
    let line = |i: usize| {
        (0..across).step_by(lanes).map(move |j| Stretch {
            input: i * pitch + j,
            output: i * across + j,
            len: lanes.min(across - j),
        })
    };
    (0..down).flat_map(line).collect()
}
