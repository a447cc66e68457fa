//! Convolutions without patches against those by patches and matrix products.

use if_linalg::testing::random;
use if_linalg::{Backend, Cpu, Real, View, ViewMut, Window};

/// Images, kernels and paddings of which lines are shorter and longer than vectors, and not multiples of them.
const WINDOWS: [([usize; 3], [usize; 2], usize); 11] = [
    ([3, 5, 5], [1, 1], 0),
    ([3, 9, 10], [3, 1], 0),
    ([1, 1, 1], [1, 1], 0),
    ([2, 3, 5], [3, 2], 1),
    ([3, 7, 7], [3, 3], 1),
    ([16, 14, 14], [3, 3], 1),
    ([2, 9, 17], [3, 3], 0),
    ([1, 28, 28], [5, 5], 2),
    ([3, 6, 40], [1, 4], 0),
    ([2, 4, 9], [4, 4], 3),
    ([1, 40, 33], [2, 3], 1),
];

fn windows() -> impl Iterator<Item = Window> {
    WINDOWS.into_iter().map(|([channels, height, width], kernel, padding)| Window {
        channels,
        image: [height, width],
        kernel,
        stride: 1,
        padding,
    })
}

/// A matrix with room between its rows and before them.
struct Matrix<T> {
    buffer: Vec<T>,
    rows: usize,
    cols: usize,
}

impl<T: Real> Matrix<T> {
    fn random(rows: usize, cols: usize, seed: u64) -> Self {
        let numbers = random(2 + rows * (cols + 3), seed);
        Self { buffer: numbers.into_iter().map(T::from_f64).collect(), rows, cols }
    }

    fn view(&self) -> View<'_, Cpu<T>> {
        View::new(&self.buffer, 2, self.rows, self.cols).with_stride(self.cols + 3)
    }

    fn target(&mut self) -> ViewMut<'_, Cpu<T>> {
        let (rows, cols) = (self.rows, self.cols);
        ViewMut::new(&mut self.buffer, 2, rows, cols).with_stride(cols + 3)
    }
}

/// Patches of row `i` of `x` with a row of ones below, `(patch + 1) x positions`.
fn patches<T: Real>(window: &Window, x: View<Cpu<T>>) -> Matrix<T> {
    let (patch, positions) = (window.patch(), window.positions());
    let mut all =
        Matrix { buffer: vec![T::ONE; 2 + (patch + 1) * (positions + 3)], rows: patch + 1, cols: positions };
    let images = x.col_range(0, window.inputs());
    Cpu::<T>::new().im2col(window, images, all.target().part(0, patch, positions));
    all
}

/// All three products of `k` directions of `n` examples against patches and products with them. What lies between rows
/// must stay.
fn against_patches<T: Real>(window: &Window, [outputs, n, k]: [usize; 3], tolerance: f64) {
    let (cpu, positions, patch) = (Cpu::<T>::new(), window.positions(), window.patch());
    let close = |found: &Matrix<T>, expected: &Matrix<T>, what: &str| {
        for (at, (found, expected)) in found.buffer.iter().zip(&expected.buffer).enumerate() {
            let difference = (found.to_f64() - expected.to_f64()).abs();
            assert!(
                difference <= tolerance * (1.0 + expected.to_f64().abs()),
                "{what} of {window:?}: {found} is not {expected} at {at}"
            );
        }
    };
    for (beta, bias) in [(0.0, 1), (1.0, 0), (-0.5, 1)] {
        for matrices in [1, k] {
            let w = Matrix::<T>::random(matrices * outputs, patch + bias, 1);
            // With one matrix there is an image for each direction as well.
            let x = Matrix::random(if matrices == 1 { k * n } else { n }, window.inputs() + 1, 2);
            let mut found = Matrix::random(k * n, outputs * positions, 3);
            let mut expected = Matrix { buffer: found.buffer.clone(), ..found };
            cpu.convolve(window, w.view(), x.view(), beta, found.target());
            for i in 0..k * n {
                let image = patches(window, x.view().row_range(i % x.rows, 1));
                let own = w.view().row_range(if matrices == 1 { 0 } else { i / n * outputs }, outputs);
                let target = expected.target();
                let target = ViewMut {
                    offset: target.offset + i * target.row_stride,
                    rows: outputs,
                    cols: positions,
                    row_stride: positions,
                    ..target
                };
                cpu.gemm(1.0, own, image.view().row_range(0, patch + bias), beta, target);
            }
            close(&found, &expected, "convolve");

            let dy = Matrix::random(x.rows, outputs * positions, 4);
            let mut found = Matrix::random(k * n, window.inputs(), 5);
            let mut expected = Matrix { buffer: found.buffer.clone(), ..found };
            cpu.convolve_transpose(window, w.view().col_range(0, patch), dy.view(), beta, found.target());
            for i in 0..k * n {
                let own = w.view().row_range(if matrices == 1 { 0 } else { i / n * outputs }, outputs);
                let mut cols = Matrix::random(patch, positions, 0);
                let planes = dy.view().row_as(i % dy.rows, outputs, positions);
                cpu.gemm(1.0, own.col_range(0, patch).t(), planes, 0.0, cols.target());
                let mut image = Matrix::random(1, window.inputs(), 0);
                cpu.col2im(window, cols.view(), image.target());
                cpu.row_axpby(&[1.0], image.view(), &[beta], expected.target().part(i, 1, window.inputs()));
            }
            close(&found, &expected, "convolve_transpose");
        }
        for [dys, xs] in [[k * n, n], [n, k * n], [k * n, k * n]] {
            let dy = Matrix::<T>::random(dys, outputs * positions, 6);
            let x = Matrix::random(xs, window.inputs() + 1, 7);
            let mut found = Matrix::random(k * outputs, patch + bias, 8);
            let mut expected = Matrix { buffer: found.buffer.clone(), ..found };
            cpu.convolve_weights(window, dy.view(), x.view(), found.target());
            for i in 0..k * n {
                let image = patches(window, x.view().row_range(i % xs, 1));
                let planes = dy.view().row_as(i % dys, outputs, positions);
                let inputs = image.view().row_range(0, patch + bias).t();
                cpu.gemm(
                    1.0,
                    planes,
                    inputs,
                    1.0,
                    expected.target().part(i / n * outputs, outputs, patch + bias),
                );
            }
            close(&found, &expected, "convolve_weights");
        }
    }
}

#[test]
fn products_are_those_of_patches() {
    for window in windows() {
        for sizes in [[1, 2, 3], [4, 1, 1], [7, 9, 2], [13, 1, 2]] {
            against_patches::<f64>(&window, sizes, 1e-12);
            against_patches::<f32>(&window, sizes, 2e-4);
        }
    }
}

#[test]
fn zeros_between_lines_are_enough() {
    // With a padding as large as the window, some windows see nothing of the image.
    let direct = |stride, padding| {
        Cpu::<f32>::new().convolves(&Window { channels: 1, image: [4, 4], kernel: [2, 2], stride, padding })
    };
    assert!(direct(1, 1) && !direct(1, 2) && !direct(2, 1));
}

/// What is overwritten is not read, in memory that ends where the result ends.
#[test]
fn nothing_is_read_that_is_overwritten() {
    let window = Window { channels: 2, image: [3, 7], kernel: [3, 3], stride: 1, padding: 1 };
    let (w, x) = (random(2 * 18, 1), random(2 * 21, 2));
    let (cpu, mut y) = (Cpu::<f64>::new(), vec![f64::NAN; 2 * 21]);
    let images = |x| View::new(x, 0, 1, 2 * 21);
    cpu.convolve(&window, View::new(&w, 0, 2, 18), images(&x), 0.0, ViewMut::new(&mut y, 0, 1, 2 * 21));
    assert!(y.iter().all(|v| v.is_finite()), "{y:?}");
    let mut dx = vec![f64::NAN; 2 * 21];
    let target = ViewMut::new(&mut dx, 0, 1, 2 * 21);
    cpu.convolve_transpose(&window, View::new(&w, 0, 2, 18), images(&y), 0.0, target);
    assert!(dx.iter().all(|v| v.is_finite()), "{dx:?}");
}

#[test]
fn no_directions_are_no_work() {
    let window = Window { channels: 1, image: [3, 3], kernel: [3, 3], stride: 1, padding: 1 };
    let (cpu, x) = (Cpu::<f64>::new(), random(9, 1));
    let (nothing, mut out) = (Vec::new(), Vec::new());
    let none = View::new(&nothing, 0, 0, 9);
    cpu.convolve(&window, none, View::new(&x, 0, 1, 9), 0.0, ViewMut::new(&mut out, 0, 0, 18));
    cpu.convolve_transpose(&window, none, View::new(&x, 0, 1, 9), 0.0, ViewMut::new(&mut out, 0, 0, 9));
    cpu.convolve_weights(
        &window,
        View::new(&nothing, 0, 0, 18),
        View::new(&x, 0, 1, 9),
        ViewMut::new(&mut out, 0, 0, 9),
    );
}
