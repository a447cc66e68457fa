//! Convolutions on the CPU without patches in memory: products whose one matrix is read where it lies in the image.
//!
//! Where windows lie side by side (stride 1), what is under offset `(u, v)` of the windows of a line is the line `u`
//! further down, from column `v` on. With zeros around the planes that holds at the edges as well; so a row of the patch
//! matrix needs no copy, only an address. Planes of inputs and of outputs have lines of the same length, `width +
//! padding`: zeros at the end of one line are those before the next.
//!
//! ```text
//! convolve             y[o][i, j]   = sum_cuv w[o][c, u, v] x[c][i + u - padding, j + v - padding]
//! convolve_transpose   dx[c][y, x]  = sum_ouv w[o][c, u, v] dy[o][y + padding - u, x + padding - v]
//! convolve_weights     dw[o][c,u,v] = sum_ij  dy[o][i, j] x[c][i + u - padding, j + v - padding]
//! ```
//!
//! The second is the first with the window mirrored and inputs and outputs exchanged. Both take the sums of a few
//! planes at the windows of a few vectors in registers, term by term; the third those of a few planes with a few offsets,
//! and adds up the lanes at the end.

mod dots;
mod planes;
mod sums;

use pulp::{Arch, Simd, WithSimd};

use self::dots::Dots;
use self::planes::Planes;
use self::sums::{Sums, Term, stretches};
use super::{Cpu, View, ViewMut};
use crate::{Real, Window};

/// Whether the three products are there for `window`.
pub(super) fn applies(window: &Window) -> bool {
    window.stride == 1 && window.kernel.iter().all(|size| window.padding < *size)
}

/// `y_i = beta y_i + W_j x_(i mod x.rows)`, image by image: [`Backend::convolve`](super::Backend::convolve).
pub struct Convolve<'a, T: Real> {
    pub window: &'a Window,
    pub w: View<'a, Cpu<T>>,
    pub x: View<'a, Cpu<T>>,
    pub beta: f64,
    pub y: ViewMut<'a, Cpu<T>>,
}

impl<T: Real> WithSimd for Convolve<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let window = self.window;
        let steps = window.steps().expect("the window fits the image");
        let outputs = self.y.cols / window.positions();
        let mut planes = Planes::inputs::<S>(window);
        let inputs = planes.offsets(window.kernel).into_iter().enumerate();
        let sums = Sums {
            terms: inputs.map(|(weight, input)| Term { weight, input }).collect(),
            step: self.w.row_stride,
            bias: (self.w.cols > window.patch()).then_some(window.patch()),
            stretches: stretches(steps, planes.pitch, T::count::<S>()),
            planes: outputs,
            plane: window.positions(),
            beta: T::from_f64(self.beta),
        };
        each_image(simd, &sums, (self.w, outputs), self.x, &mut planes, &mut self.y);
    }
}

/// [`Backend::convolve_transpose`](super::Backend::convolve_transpose).
pub struct Transpose<'a, T: Real> {
    pub window: &'a Window,
    pub w: View<'a, Cpu<T>>,
    pub dy: View<'a, Cpu<T>>,
    pub beta: f64,
    pub dx: ViewMut<'a, Cpu<T>>,
}

impl<T: Real> WithSimd for Transpose<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (window, [height, width]) = (self.window, self.window.kernel);
        let outputs = self.dy.cols / window.positions();
        let mut planes = Planes::outputs::<S>(window, outputs);
        let mirrored = |o: usize| {
            let plane = o * self.w.row_stride;
            (0..height * width).rev().map(move |offset| plane + offset)
        };
        let weights = (0..outputs).flat_map(mirrored);
        let inputs = planes.offsets(window.kernel);
        let sums = Sums {
            terms: weights.zip(inputs).map(|(weight, input)| Term { weight, input }).collect(),
            step: height * width,
            bias: None,
            stretches: stretches(window.image, planes.pitch, T::count::<S>()),
            planes: window.channels,
            plane: window.image[0] * window.image[1],
            beta: T::from_f64(self.beta),
        };
        each_image(simd, &sums, (self.w, outputs), self.dy, &mut planes, &mut self.dx);
    }
}

/// Computes `sums` for every row of `out`, which stack as many directions of the same examples as there are matrices of
/// `outputs` rows in `w`. `planes` is where the images of `x` are put, one after another.
#[inline(always)]
fn each_image<T: Real, S: Simd>(
    simd: S,
    sums: &Sums<T>,
    (w, outputs): (View<Cpu<T>>, usize),
    x: View<Cpu<T>>,
    planes: &mut Planes<T>,
    out: &mut ViewMut<Cpu<T>>,
) {
    if w.rows == 0 || out.rows == 0 {
        return;
    }
    debug_assert_eq!(w.col_stride, 1);
    let matrices = w.rows / outputs;
    let examples = out.rows / matrices;
    // An image meets all its matrices before the next.
    for i in 0..x.rows {
        planes.fill(simd, [x.row(i)]);
        for row in (i..out.rows).step_by(x.rows) {
            let w = &w.buffer[w.offset + row / examples * outputs * w.row_stride..];
            sums.compute(simd, [w, &planes.data], &mut out.buffer[out.offset + row * out.row_stride..]);
        }
    }
}

/// [`Backend::convolve_weights`](super::Backend::convolve_weights).
pub struct Weights<'a, T: Real> {
    pub window: &'a Window,
    pub dy: View<'a, Cpu<T>>,
    pub x: View<'a, Cpu<T>>,
    pub dw: ViewMut<'a, Cpu<T>>,
}

impl<T: Real> WithSimd for Weights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.dw.rows == 0 {
            return;
        }
        let window = self.window;
        let [down, across] = window.steps().expect("the window fits the image");
        let outputs = self.dy.cols / window.positions();
        let matrices = self.dw.rows / outputs;
        let examples = self.dy.rows.max(self.x.rows) / matrices;
        let mut x = Planes::inputs::<S>(window);
        let mut dy = Planes::outputs::<S>(window, outputs);
        debug_assert_eq!(x.pitch, dy.pitch);
        let mut offsets = x.offsets(window.kernel);
        let len = (down - 1) * dy.pitch + across;
        if self.dw.cols > window.patch() {
            offsets.push(x.end::<S>());
            x.ones = len + T::count::<S>();
        }
        let at_once = images_at_once(len, x.image::<S>().max(dy.image::<S>()));
        for first in (0..examples).step_by(at_once) {
            let some = first..examples.min(first + at_once);
            for matrix in 0..matrices {
                // Rows that all directions share, or those of this one.
                for (planes, v) in [(&mut x, self.x), (&mut dy, self.dy)] {
                    if matrix == 0 || v.rows > examples {
                        let own = if v.rows > examples { matrix * examples } else { 0 };
                        planes.fill(simd, some.clone().map(|i| v.row(own + i)));
                    }
                }
                let dots = Dots {
                    x: &x,
                    offsets: &offsets,
                    dy: &dy,
                    images: some.len(),
                    len,
                    stride: self.dw.row_stride,
                };
                let target = self.dw.offset + matrix * outputs * self.dw.row_stride;
                dots.compute(simd, &mut self.dw.buffer[target..]);
            }
        }
    }
}

/// Images of which `convolve_weights` takes the sums before it adds up their lanes, from the numbers of a plane under an
/// offset and those of an image: together as many of a plane as are taken at once, and no more than fit the second cache.
fn images_at_once(plane: usize, image: usize) -> usize {
    (dots::AT_ONCE / plane).min(SECOND_CACHE / image).max(1)
}

/// Numbers, of the larger type, that leave room for others in most second caches.
const SECOND_CACHE: usize = 1 << 15;

/// The three products of one type of numbers, in the widest vectors of this processor.
///
/// For each type by itself: what is generic is compiled again in every crate that uses it, and these are long.
pub trait Convolution: Sized {
    /// See [`Convolve`].
    fn convolve(product: Convolve<Self>)
    where
        Self: Real;
    /// See [`Transpose`].
    fn transpose(product: Transpose<Self>)
    where
        Self: Real;
    /// See [`Weights`].
    fn weights(product: Weights<Self>)
    where
        Self: Real;
}

macro_rules! convolution {
    ($t:ident) => {
        impl Convolution for $t {
            fn convolve(product: Convolve<Self>) {
                Arch::new().dispatch(product);
            }

            fn transpose(product: Transpose<Self>) {
                Arch::new().dispatch(product);
            }

            fn weights(product: Weights<Self>) {
                Arch::new().dispatch(product);
            }
        }
    };
}

convolution!(f32);
convolution!(f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Machines with other vectors than this one.
    #[test]
    fn one_lane_is_enough() {
        let window = Window { channels: 2, image: [5, 6], kernel: [3, 3], stride: 1, padding: 1 };
        let [w, x, dy] = [3 * 19, 2 * 60, 2 * 90].map(|len| random(len, len as u64));
        let w = View::new(&w, 0, 3, 19);
        let [x, dy] = [View::new(&x, 0, 2, 60), View::new(&dy, 0, 2, 90)];
        let [mut vectors, mut lanes] = [(); 2].map(|()| [2 * 90, 2 * 60, 3 * 19].map(|len| random(len, 7)));
        fn products<'a>(
            window: &'a Window,
            [w, x, dy]: [View<'a, Cpu<f64>>; 3],
            [y, dx, dw]: &'a mut [Vec<f64>; 3],
        ) -> (Convolve<'a, f64>, Transpose<'a, f64>, Weights<'a, f64>) {
            (
                Convolve { window, w, x, beta: 0.5, y: ViewMut::new(y, 0, 2, 90) },
                Transpose { window, w, dy, beta: 1.0, dx: ViewMut::new(dx, 0, 2, 60) },
                Weights { window, dy, x, dw: ViewMut::new(dw, 0, 3, 19) },
            )
        }
        let (convolve, transpose, weights) = products(&window, [w, x, dy], &mut vectors);
        f64::convolve(convolve);
        f64::transpose(transpose);
        f64::weights(weights);
        let (convolve, transpose, weights) = products(&window, [w, x, dy], &mut lanes);
        convolve.with_simd(pulp::Scalar);
        transpose.with_simd(pulp::Scalar);
        weights.with_simd(pulp::Scalar);
        for (vector, lane) in vectors.iter().flatten().zip(lanes.iter().flatten()) {
            assert!((vector - lane).abs() < 1e-13, "{vector} is not {lane}");
        }
    }
}
