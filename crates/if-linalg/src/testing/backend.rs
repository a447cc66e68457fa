//! Every kernel of a backend against the reference: the CPU in `f64`.

use super::{ACTIVATIONS, random};
use crate::{Adam, Backend, CgProducts, CgStep, Cpu, Loss, Real, SymmetricMatrix, View, ViewMut, Window};

/// Runs every kernel of `backend` on random numbers, and again, and compares with the CPU in `f64`: norm-wise relative
/// differences are at most `tolerance`, products of matrices at most `products` (which may be computed in a narrower
/// type), what is infinite or undefined is so on both, and the second time gives the bits of the first. Outputs that are
/// to be overwritten hold NaN before.
///
/// Shapes cross the sizes at which devices change their ways: warps, blocks of threads, chunks of sums. Convolutions
/// without patches are compared where the backend has them.
///
/// # Panics
/// On the first kernel that does not hold.
pub fn check_backend<B: Backend>(backend: &B, tolerance: f64, products: f64) {
    let reference = Cpu::<f64>::new();
    let convolved: Vec<_> =
        CONVOLUTIONS.into_iter().filter(|(window, _)| backend.convolves(window)).collect();
    let expected = Results::of(&reference, &convolved);
    let found = Results::of(backend, &convolved);
    let again = Results::of(backend, &convolved);
    assert_eq!(expected.all.len(), found.all.len());
    for ((expected, found), again) in expected.all.iter().zip(&found.all).zip(&again.all) {
        let name = &expected.name;
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&found.values) == bits(&again.values), "{name}: another time, other bits");
        assert_eq!(expected.values.len(), found.values.len(), "{name}: another shape");
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let pairs = || expected.values.iter().zip(&found.values);
        let alike = |(a, b): (&f64, &f64)| if a.is_nan() { b.is_nan() } else { a == b || a.is_finite() };
        assert!(pairs().all(alike), "{}: {name} is finite elsewhere", backend.describe());
        let error = norm(&mut pairs().filter(|(a, _)| a.is_finite()).map(|(a, b)| a - b));
        let size = norm(&mut expected.values.iter().copied().filter(|a| a.is_finite()));
        let allowed = expected.rounding * if expected.product { products } else { tolerance };
        assert!(error <= allowed * size, "{}: {name} is off by {:e}", backend.describe(), error / size);
    }
}

/// What the kernels give.
struct Results<'a, B: Backend> {
    backend: &'a B,
    seed: u64,
    all: Vec<Result>,
}

struct Result {
    name: String,
    values: Vec<f64>,
    /// Whether it is a product of matrices in the backend's own arithmetic.
    product: bool,
    /// How many times the tolerance it may be off: rounding that adds up.
    rounding: f64,
}

/// Rows, columns, and numbers from row to row.
type Shape = (usize, usize, usize);

/// Numbers before the first of a matrix.
const OFFSET: usize = 3;

const fn window(channels: usize, image: [usize; 2], kernel: [usize; 2], padding: usize) -> Window {
    Window { channels, image, kernel, stride: 1, padding }
}

/// Windows with the planes that come out, and the examples: several images at once and bands of one, planes one after
/// another, offsets and outputs that fill up tiles and that do not, many examples in a sum.
const CONVOLUTIONS: [(Window, [usize; 2]); 10] = [
    (window(1, [1, 1], [1, 1], 0), [1, 20_000]),
    (window(3, [9, 10], [3, 2], 1), [5, 7]),
    (window(1, [28, 28], [3, 3], 1), [16, 9]),
    (window(16, [14, 14], [3, 3], 1), [32, 37]),
    (window(2, [9, 17], [5, 5], 2), [13, 6]),
    (window(3, [4, 9], [4, 4], 3), [33, 2]),
    (window(2, [70, 90], [3, 3], 0), [17, 2]),
    (window(70, [12, 12], [3, 3], 1), [70, 3]),
    (window(3, [32, 32], [3, 3], 1), [16, 3]),
    (window(40, [8, 9], [5, 4], 2), [24, 3]),
];

impl<'a, B: Backend> Results<'a, B> {
    fn of(backend: &'a B, convolved: &[(Window, [usize; 2])]) -> Self {
        let mut results = Self { backend, seed: 0, all: Vec::new() };
        results.moves();
        results.matrix_products();
        results.vectors();
        results.scoring();
        results.activations();
        results.losses();
        results.windows();
        convolved.iter().for_each(|(window, sizes)| results.convolutions(window, *sizes));
        results.bags();
        results
    }

    /// A matrix of random numbers, the same for every backend, that `f32` holds exactly.
    fn given(&mut self, (rows, _, stride): Shape) -> B::Buffer {
        self.seed += 1;
        let numbers = random(OFFSET + rows * stride, self.seed);
        self.exactly(&numbers)
    }

    fn exactly(&self, numbers: &[f64]) -> B::Buffer {
        let rounded: Vec<B::Elem> = numbers.iter().map(|v| B::Elem::from_f64(f64::from(*v as f32))).collect();
        self.backend.upload(&rounded)
    }

    /// A matrix that nobody may read.
    fn poison(&self, (rows, _, stride): Shape) -> B::Buffer {
        self.backend.upload(&vec![B::Elem::from_f64(f64::NAN); OFFSET + rows * stride])
    }

    fn keep(&mut self, name: impl Into<String>, buffer: &B::Buffer, shape: Shape) {
        let values = self.backend.download(view(buffer, shape));
        self.keep_values(name, values.into_iter().map(Real::to_f64).collect());
    }

    fn keep_values(&mut self, name: impl Into<String>, values: Vec<f64>) {
        self.all.push(Result { name: name.into(), values, product: false, rounding: 1.0 });
    }

    fn moves(&mut self) {
        let (shape, wide) = ((37, 70, 70), (37, 70, 81));
        let x = self.given(wide);
        let mut y = self.poison(shape);
        self.backend.copy(view(&x, wide), into(&mut y, shape));
        self.keep("copy", &y, shape);
        self.backend.fill(0.25, into(&mut y, shape));
        self.keep("fill", &y, shape);
        self.backend.signs(0x1234_5678_9abc_def0, 1 << 40 | 5, 0.5, into(&mut y, shape));
        self.keep("signs", &y, shape);
        let indices: Vec<usize> = (0..37).map(|i| i * 17 % 37).collect();
        self.backend.gather_rows(view(&x, wide), &indices, into(&mut y, shape));
        self.keep("gather_rows", &y, shape);
        for (a, b, c) in [(5, 7, 12), (300, 40, 1), (2, 3, 1000)] {
            let (from, to) = ((a, b * c, b * c + 1), (b, a * c, a * c + 3));
            let (x, mut y) = (self.given(from), self.poison(to));
            self.backend.swap_axes([a, b, c], view(&x, from), into(&mut y, to));
            self.keep(format!("swap_axes {a} {b} {c}"), &y, to);
        }
        self.largest();
        // Larger than a device copies in one go, twice, so that the second meets the first.
        let large = (5, 2_000_003, 2_000_003);
        let numbers: Vec<B::Elem> =
            (0..OFFSET + 5 * large.1).map(|i| B::Elem::from_f64((i % 4093) as f64)).collect();
        let [first, second] = [&numbers[..], &numbers[1..]].map(|numbers| self.backend.upload(numbers));
        let ones = self.backend.upload(&vec![B::Elem::ONE; OFFSET + 5 * large.1]);
        for (name, buffer) in [("first", &first), ("second", &second)] {
            let mut sums = vec![0.0; 4];
            let part = (4, large.1, large.1);
            self.backend.dots(&[[view(buffer, part), view(&ones, part)]], &mut sums);
            self.keep_values(format!("upload, {name}"), sums);
        }
        let mut y = self.given(shape);
        self.backend.write(&mut y, 11, &[B::Elem::ONE; 5]);
        self.keep("write", &y, shape);
    }

    /// Numbers of both signs and of all sizes, many of them equal, some no numbers.
    fn largest(&mut self) {
        for (rows, cols, k) in
            [(1, 1, 1), (3, 700, 700), (3, 700, 41), (40, 257, 0), (2, 70_001, 1000), (5, 9, 12)]
        {
            let shape = (rows, cols, cols + 1);
            let numbers = random(OFFSET + rows * (cols + 1), 31);
            let spread = |(i, v): (usize, &f64)| match i % 7 {
                0 => f64::NAN,
                1 => 0.0,
                2 => -0.0,
                3 => (v * 4.0).round(),
                4 => v * 1e30,
                _ => *v,
            };
            let x = self.exactly(&numbers.iter().enumerate().map(spread).collect::<Vec<_>>());
            let found = self.backend.top_k(k, view(&x, shape));
            self.keep_values(
                format!("top_k {k} of {cols}"),
                found.concat().iter().map(|j| *j as f64).collect(),
            );
        }
    }

    /// Symmetric matrices, definite and not, from their eigenvectors again: those are unique up to their signs only.
    fn eigenproblems(&mut self) {
        for n in [1, 5, 63, 64, 150] {
            let numbers = random(n * n, n as u64);
            let halves = |at: usize| 0.5 * (numbers[at] + numbers[at % n * n + at / n]);
            let (values, vectors) =
                self.backend.eigen(&SymmetricMatrix::from_rows(n, (0..n * n).map(halves).collect()));
            assert!(values.is_sorted(), "eigenvalues rise");
            let rows = self.backend.download(View::new(&vectors, 0, n, n));
            let rows: Vec<f64> = rows.into_iter().map(Real::to_f64).collect();
            let again = |at: usize| -> f64 {
                let (i, j) = (at / n, at % n);
                values.iter().zip(rows.chunks_exact(n)).map(|(value, v)| value * v[i] * v[j]).sum()
            };
            for (what, numbers) in [("vectors", (0..n * n).map(again).collect()), ("values", values.clone())]
            {
                self.keep_values(format!("eigen{what} of order {n}"), numbers);
                self.all.last_mut().expect("just kept").rounding = 10.0;
            }
        }
    }

    fn matrix_products(&mut self) {
        for (m, n, inner) in [(1, 1, 1), (70, 40, 33), (1, 300, 64), (257, 1, 90), (128, 96, 1)] {
            for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
                let turn = |turned: bool, rows: usize, cols: usize| {
                    if turned { (cols, rows, rows + 2) } else { (rows, cols, cols + 5) }
                };
                let (a_shape, b_shape, c_shape) =
                    (turn(a_turned, m, inner), turn(b_turned, inner, n), (m, n, n + 1));
                let (a, b) = (self.given(a_shape), self.given(b_shape));
                let [a, b] = [(&a, a_shape, a_turned), (&b, b_shape, b_turned)]
                    .map(|(x, shape, turned)| if turned { view(x, shape).t() } else { view(x, shape) });
                for (alpha, beta) in [(1.0, 0.0), (-0.5, 2.0)] {
                    let mut c = if beta == 0.0 { self.poison(c_shape) } else { self.given(c_shape) };
                    self.backend.gemm(alpha, a, b, beta, into(&mut c, c_shape));
                    self.keep(format!("gemm {m} {n} {inner} {a_turned} {b_turned} {beta}"), &c, c_shape);
                    self.all.last_mut().expect("just kept").product = true;
                }
            }
        }
        // Three products of 4 x 6 with 6 x 5, the second factors side by side.
        let (a, b, c) = ((12, 6, 6), (6, 15, 15), (3, 20, 20));
        let (x, y, mut out) = (self.given(a), self.given(b), self.poison(c));
        let own = View::new(&x, OFFSET, 4, 6);
        let target = ViewMut::new(&mut out, OFFSET, 4, 5);
        let other = view(&y, b).col_range(0, 5);
        self.backend.gemm_batch(3, [24, 5, 20], 1.0, [own, other], 0.0, target);
        self.keep("gemm_batch", &out, c);
        self.all.last_mut().expect("just kept").product = true;
    }

    fn vectors(&mut self) {
        for (k, len) in [(1, 20_000), (3, 8_193), (40, 57)] {
            let shape = (k, len, len);
            let each = |scale: f64| (0..k).map(|i| scale * (i as f64 + 1.0)).collect::<Vec<_>>();
            let (x, mut y) = (self.given(shape), self.given(shape));
            self.backend.row_axpby(&each(0.5), view(&x, shape), &each(-0.25), into(&mut y, shape));
            self.keep(format!("row_axpby {k}"), &y, shape);
            self.backend.row_axpby(&vec![2.0; k], view(&x, shape), &vec![1.0; k], into(&mut y, shape));
            self.keep(format!("axpby {k}"), &y, shape);
            let mut fresh = self.poison(shape);
            self.backend.row_axpby(&each(0.5), view(&x, shape), &vec![0.0; k], into(&mut fresh, shape));
            self.keep(format!("row_axpby of nothing {k}"), &fresh, shape);
            self.backend
                .add_all(&[view(&x, shape), view(&fresh, shape), view(&x, shape)], into(&mut y, shape));
            self.keep(format!("add_all {k}"), &y, shape);

            let mut out = vec![0.5; k];
            let pairs = [[view(&x, shape), view(&x, shape)], [view(&x, shape), view(&y, shape)]];
            self.backend.dots(&pairs, &mut out);
            self.keep_values(format!("dots {k}"), out);
            let other = (5, len, len);
            let z = self.given(other);
            let mut out = vec![0.5; k * 5];
            self.backend.gram(view(&x, shape), view(&z, other), &mut out);
            self.keep_values(format!("gram {k}"), out);
            let mixed = random(k * 5, 7);
            self.backend.combine(&mixed, view(&z, other), 0.5, into(&mut y, shape));
            self.keep(format!("combine {k}"), &y, shape);
            let mut fresh = self.poison(shape);
            self.backend.combine(&mixed, view(&z, other), 0.0, into(&mut fresh, shape));
            self.keep(format!("combine to nothing {k}"), &fresh, shape);
        }
        self.steps();
        self.eigenproblems();
        let shape = (1, 5000, 5000);
        let (g, mut m, mut theta) = (self.given(shape), self.given(shape), self.given(shape));
        let squares: Vec<f64> = random(OFFSET + 5000, 99).iter().map(|v| v * v).collect();
        let mut v = self.exactly(&squares);
        let adam = Adam { beta1: 0.9, beta2: 0.999, rate: 0.01, epsilon: 1e-3 };
        let [mean, square, parameters] = [&mut m, &mut v, &mut theta].map(|buffer| into(buffer, shape));
        self.backend.adam_update(&adam, view(&g, shape), mean, square, parameters);
        for (name, buffer) in [("adam mean", &m), ("adam square", &v), ("adam", &theta)] {
            self.keep(name, buffer, shape);
        }
    }

    /// Vectors in two parts, the last of which has a curvature below its floor.
    fn steps(&mut self) {
        let (k, sizes) = (3, [5000, 7]);
        let shape = (1, k * (sizes[0] + sizes[1]), k * (sizes[0] + sizes[1]));
        let parts = [(OFFSET, sizes[0]), (OFFSET + k * sizes[0], sizes[1])];
        let (p, noise, mut x, mut r) =
            (self.given(shape), self.given(shape), self.given(shape), self.given(shape));
        let mut q = self.given(shape);
        self.backend.row_axpby(&[2.0], view(&p, shape), &[0.0], into(&mut q, shape));
        self.backend.row_axpby(&[0.5], view(&noise, shape), &[1.0], into(&mut q, shape));
        let z = self.given(shape);
        for (name, z) in [("cg", None), ("preconditioned cg", Some(&z))] {
            let step = CgStep { rz: &[1.0, 200.0, 30.0], floor: &[0.0, 1.0, 1e9] };
            let sums = self.backend.cg_step(step, &parts, [&p, &q], [&mut x, &mut r]);
            let mut turned = self.given(shape);
            let products = self.backend.cg_turn(sums, &parts, &r, z, &mut turned);
            for (what, buffer) in [("x", &x), ("r", &r), ("p", &turned)] {
                self.keep(format!("{name} {what}"), buffer, shape);
            }
            let CgProducts { pq, rr, rz, pp } = products;
            for (what, values) in [("p.q", pq), ("r.r", rr), ("r.z", rz), ("p.p", pp)] {
                self.keep_values(format!("{name} {what}"), values);
            }
        }
        let mut sum = self.given(shape);
        let squares = self.backend.lissa_step((2.5, k), &parts, [&p, &q], &mut x, None);
        self.keep_values("lissa x.x", squares);
        let squares = self.backend.lissa_step((2.5, k), &parts, [&p, &q], &mut x, Some(&mut sum));
        self.keep_values("lissa x.x again", squares);
        self.keep("lissa x", &x, shape);
        self.keep("lissa sum", &sum, shape);
    }

    fn scoring(&mut self) {
        for (rows, groups, c) in [(70, 5, 3), (40, 7, 100), (1, 1, 5000)] {
            let (x, y, out) =
                ((rows, groups * c, groups * c + 2), (rows, c, c + 1), (rows, groups, groups + 4));
            let (left, right) = (self.given(x), self.given(y));
            let mut dots = self.poison(out);
            self.backend.row_dots(view(&left, x), view(&right, y), 0.0, into(&mut dots, out));
            self.keep(format!("row_dots {c}"), &dots, out);
            self.backend.row_dots(view(&left, x), view(&right, y), 1.0, into(&mut dots, out));
            self.keep(format!("row_dots added {c}"), &dots, out);
            let other = self.given(x);
            self.backend.paired_dots(view(&left, x), view(&other, x), into(&mut dots, out));
            self.keep(format!("paired_dots {c}"), &dots, out);
        }
        let (x, y, out) = ((9, 31, 33), (9, 4, 5), (9, 124, 130));
        let (left, right) = (self.given(x), self.given(y));
        let mut products = self.poison(out);
        self.backend.outer_rows(view(&left, x), view(&right, y), into(&mut products, out));
        self.keep("outer_rows", &products, out);
        let weights = self.given((9, 1, 1));
        let stacked = (27, 31, 33);
        let mut scaled = self.given(stacked);
        self.backend.scale_rows(view(&weights, (9, 1, 1)), into(&mut scaled, stacked));
        self.keep("scale_rows", &scaled, stacked);
        let (single, mut pairs) = (self.given((9, 31, 31)), self.given((9, 31, 31)));
        let own = view(&single, (9, 31, 31));
        self.backend.paired_dots(own, own, into(&mut pairs, (9, 31, 31)));
        self.keep("paired_dots 1", &pairs, (9, 31, 31));
    }

    fn activations(&mut self) {
        let (shape, tight, stacked) = ((6, 90, 91), (6, 90, 90), (54, 90, 90));
        for f in ACTIVATIONS {
            // Up to 8 in size, where the tails are.
            self.seed += 1;
            let x: Vec<f64> = random(OFFSET + 6 * 91, self.seed).iter().map(|v| 8.0 * v).collect();
            let (x, mut y) = (self.exactly(&x), self.poison(shape));
            self.backend.activate(f, view(&x, shape), into(&mut y, shape));
            self.keep(format!("{f:?}"), &y, shape);
            let (dy, rx, rdy) = (self.given(tight), self.given(stacked), self.given(stacked));
            let at = [view(&x, shape), view(&y, shape)];
            let mut out = self.poison(stacked);
            self.backend.activation_backward(f, at, view(&rdy, stacked), into(&mut out, stacked));
            self.keep(format!("{f:?} backward"), &out, stacked);
            let deltas = [view(&dy, tight), view(&rx, stacked), view(&rdy, stacked)];
            let mut out = self.poison(stacked);
            self.backend.activation_r_backward(f, at, deltas, into(&mut out, stacked));
            self.keep(format!("{f:?} R-backward"), &out, stacked);
        }
        self.far_activations();
    }

    /// Where numbers are large, small or undefined.
    fn far_activations(&mut self) {
        let (numbers, shape) = ([f64::NAN, -1e20, 1e20, -1e10, 1e10, -40.0, 40.0, -0.0, 0.0], (1, 9, 9));
        let padded = |numbers: &[f64]| [&[0.0; OFFSET], numbers].concat();
        let x = self.exactly(&padded(&numbers));
        let delta = self.exactly(&padded(&[0.5; 9]));
        for f in ACTIVATIONS {
            let mut y = self.poison(shape);
            self.backend.activate(f, view(&x, shape), into(&mut y, shape));
            // One after another: else the largest would hide the others.
            let each = self.backend.download(view(&y, shape));
            for (value, at) in each.into_iter().zip(numbers) {
                self.keep_values(format!("{f:?} at {at:e}"), vec![value.to_f64()]);
            }
            let at = [view(&x, shape), view(&y, shape)];
            let mut out = self.poison(shape);
            self.backend.activation_backward(f, at, view(&delta, shape), into(&mut out, shape));
            self.keep(format!("{f:?} backward, far"), &out, shape);
            let deltas = [view(&delta, shape); 3];
            let mut out = self.poison(shape);
            self.backend.activation_r_backward(f, at, deltas, into(&mut out, shape));
            self.keep(format!("{f:?} R-backward, far"), &out, shape);
        }
    }

    fn losses(&mut self) {
        let kinds = [
            (Loss::CrossEntropy, 10),
            (Loss::CrossEntropy, 70),
            (Loss::LabelSmoothing { smoothing: 0.2 }, 10),
            (Loss::Margin, 10),
            (Loss::Logit, 10),
            (Loss::Squared, 10),
            (Loss::Squared, 1),
            (Loss::Logistic, 1),
            (Loss::Hinge, 1),
            (Loss::SmoothHinge { temperature: 0.1 }, 1),
            (Loss::Margin, 1),
        ];
        for (loss, outputs) in kinds {
            let rows = 50;
            let (shape, column) = ((rows, outputs, outputs + 1), (rows, 1, 1));
            self.seed += 1;
            let mut z: Vec<f64> =
                random(OFFSET + rows * (outputs + 1), self.seed).iter().map(|v| 6.0 * v).collect();
            if matches!(loss, Loss::CrossEntropy | Loss::LabelSmoothing { .. } | Loss::Margin) && outputs > 1
            {
                // A class that is masked; the first example's own is class 0.
                z[OFFSET + 1] = f64::NEG_INFINITY;
            }
            let z = self.exactly(&z);
            let target = |i: usize| match loss.target(outputs) {
                crate::Target::Class => (i * 7 % outputs) as f64,
                crate::Target::Sign => {
                    if i.is_multiple_of(3) {
                        1.0
                    } else {
                        -1.0
                    }
                }
                crate::Target::Real => i as f64 / 16.0 - 1.0,
            };
            let targets: Vec<f64> = [0.0; OFFSET].into_iter().chain((0..rows).map(target)).collect();
            let targets = self.exactly(&targets);
            let (mut value, mut delta, mut curvature) =
                (self.poison(column), self.poison(shape), self.poison(shape));
            self.backend.loss(
                loss,
                view(&z, shape),
                view(&targets, column),
                into(&mut value, column),
                into(&mut delta, shape),
                into(&mut curvature, shape),
            );
            let name = format!("{loss:?} {outputs}");
            self.keep(&name, &value, column);
            self.keep(format!("{name} gradient"), &delta, shape);
            self.keep(format!("{name} curvature"), &curvature, shape);
            let stacked = (3 * rows, outputs, outputs);
            let (rz, mut out) = (self.given(stacked), self.poison(stacked));
            self.backend.loss_hessian(
                loss,
                view(&curvature, shape),
                view(&rz, stacked),
                into(&mut out, stacked),
            );
            self.keep(format!("{name} Hessian"), &out, stacked);
            let count = outputs.min(2);
            let stacked = (count * rows, outputs, outputs);
            let mut root = self.poison(stacked);
            self.backend.loss_root(loss, view(&curvature, shape), outputs - count, into(&mut root, stacked));
            self.keep(format!("{name} root"), &root, stacked);
        }
    }

    fn windows(&mut self) {
        let windows = [
            Window { channels: 3, image: [9, 7], kernel: [3, 2], stride: 2, padding: 1 },
            Window { channels: 2, image: [8, 8], kernel: [3, 3], stride: 1, padding: 1 },
            Window { channels: 1, image: [6, 5], kernel: [2, 2], stride: 2, padding: 0 },
            Window { channels: 2, image: [6, 4], kernel: [2, 2], stride: 2, padding: 0 },
            Window { channels: 2, image: [5, 5], kernel: [3, 3], stride: 1, padding: 0 },
            // Small windows that overlap, that leave a line, and that reach beyond.
            Window { channels: 2, image: [4, 4], kernel: [2, 2], stride: 1, padding: 0 },
            Window { channels: 1, image: [5, 6], kernel: [2, 2], stride: 2, padding: 0 },
            Window { channels: 1, image: [6, 6], kernel: [2, 2], stride: 2, padding: 1 },
        ];
        for w in windows {
            let (images, positions) = (4, w.positions());
            let image = (images, w.inputs(), w.inputs() + 1);
            let patches = (w.patch(), images * positions, images * positions);
            let (x, mut cols) = (self.given(image), self.poison(patches));
            self.backend.im2col(&w, view(&x, image), into(&mut cols, patches));
            self.keep(format!("im2col {w:?}"), &cols, patches);
            let (cols, mut sums) = (self.given(patches), self.poison(image));
            self.backend.col2im(&w, view(&cols, patches), into(&mut sums, image));
            self.keep(format!("col2im {w:?}"), &sums, image);

            let plane = w.channels * positions;
            // More directions than a device takes together.
            let pools = (9 * images, plane, plane);
            let (rx_shape, dy_shape) = ((9 * images, w.inputs(), w.inputs()), pools);
            // Few different values, so that there are ties.
            self.seed += 1;
            let mut tied: Vec<f64> = random(OFFSET + images * (w.inputs() + 1), self.seed)
                .iter()
                .map(|v| (3.0 * v).round())
                .collect();
            tied.iter_mut().step_by(13).for_each(|x| *x = f64::NAN);
            let x = self.exactly(&tied);
            let (rx, dy) = (self.given(rx_shape), self.given(dy_shape));
            let (mut out, mut back) = (self.poison(pools), self.poison(rx_shape));
            self.backend.max_pool_gather(&w, view(&x, image), view(&rx, rx_shape), into(&mut out, pools));
            self.keep(format!("max_pool_gather {w:?}"), &out, pools);
            self.backend.max_pool_scatter(
                &w,
                view(&x, image),
                view(&dy, dy_shape),
                into(&mut back, rx_shape),
            );
            self.keep(format!("max_pool_scatter {w:?}"), &back, rx_shape);
            let (mut out, mut back) = (self.poison(pools), self.poison(rx_shape));
            self.backend.avg_pool(&w, view(&rx, rx_shape), into(&mut out, pools));
            self.keep(format!("avg_pool {w:?}"), &out, pools);
            self.backend.avg_pool_transpose(&w, view(&dy, dy_shape), into(&mut back, rx_shape));
            self.keep(format!("avg_pool_transpose {w:?}"), &back, rx_shape);
        }
    }

    /// Along three directions: with a matrix for each or one for all, with images for each or the same for all.
    fn convolutions(&mut self, w: &Window, [outputs, n]: [usize; 2]) {
        let (k, patch, plane) = (3, w.patch(), outputs * w.positions());
        let kinds = [(k, n, 1, 0.0), (k, k * n, 0, -0.5), (1, k * n, 1, 1.0), (1, n, 0, 1.0)];
        for (matrices, images, bias, beta) in kinds {
            let name = format!("{w:?}, {matrices} matrices, {images} images");
            let filter = (matrices * outputs, patch + bias, patch + bias + 2);
            let (image, from) = ((images, w.inputs(), w.inputs() + 1), (images, plane, plane + 3));
            let (out, back) = ((k * n, plane, plane + 1), (k * n, w.inputs(), w.inputs() + 2));
            let (weights, x, dy) = (self.given(filter), self.given(image), self.given(from));
            let [mut y, mut dx] =
                [out, back].map(|shape| if beta == 0.0 { self.poison(shape) } else { self.given(shape) });
            self.backend.convolve(w, view(&weights, filter), view(&x, image), beta, into(&mut y, out));
            self.keep(format!("convolve {name}"), &y, out);
            let weights = view(&weights, filter).col_range(0, patch);
            self.backend.convolve_transpose(w, weights, view(&dy, from), beta, into(&mut dx, back));
            self.keep(format!("convolve_transpose {name}"), &dx, back);
        }
        for (dys, xs, k, bias) in [(k * n, n, k, 1), (n, k * n, k, 0), (n, n, n, 1), (n, n, 1, 1)] {
            let (from, image) = ((dys, plane, plane + 3), (xs, w.inputs(), w.inputs() + 1));
            let target = (k * outputs, patch + bias, patch + bias + 1);
            let (dy, x, mut dw) = (self.given(from), self.given(image), self.given(target));
            self.backend.convolve_weights(w, view(&dy, from), view(&x, image), into(&mut dw, target));
            self.keep(format!("convolve_weights {w:?}, {dys} and {xs} rows, {k} matrices"), &dw, target);
        }
    }

    fn bags(&mut self) {
        let (rows, length, vocabulary, dim, k) = (20, 6, 11, 40, 3);
        let bags = (rows, length, length + 1);
        let token = |v: &f64| (v * (vocabulary as f64 + 2.0)).floor().min(vocabulary as f64 - 1.0);
        let ids: Vec<f64> = random(OFFSET + rows * (length + 1), 5).iter().map(token).collect();
        let ids = self.exactly(&ids.iter().map(|v| v.max(-1.0)).collect::<Vec<_>>());
        let (table, out) = ((k * vocabulary, dim, dim + 1), (k * rows, dim, dim));
        let (w, mut means) = (self.given(table), self.poison(out));
        self.backend.bag_gather(view(&ids, bags), view(&w, table), into(&mut means, out));
        self.keep("bag_gather", &means, out);
        let (dy, mut dw) = (self.given(out), self.given(table));
        self.backend.bag_scatter(view(&ids, bags), view(&dy, out), into(&mut dw, table));
        self.keep("bag_scatter", &dw, table);
        let column = (rows, 1, 1);
        let mut squares = self.poison(column);
        self.backend.bag_squares(view(&ids, bags), into(&mut squares, column));
        self.keep("bag_squares", &squares, column);
    }
}

fn view<B: Backend>(buffer: &B::Buffer, (rows, cols, stride): Shape) -> View<'_, B> {
    View::new(buffer, OFFSET, rows, cols).with_stride(stride)
}

fn into<B: Backend>(buffer: &mut B::Buffer, (rows, cols, stride): Shape) -> ViewMut<'_, B> {
    ViewMut::new(buffer, OFFSET, rows, cols).with_stride(stride)
}
