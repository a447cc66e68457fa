//! Checks of a loss kernel.

use if_linalg::testing::random;
use if_linalg::{Backend, Loss, Target, View, ViewMut};

use super::{ROUNDING, close, difference, dot, near, norm, plus, same_bits, within};

/// Examples in the random problem.
const ROWS: usize = 24;
/// Stacked directions.
const DIRECTIONS: usize = 3;
/// The hinge is kept this far from its kink.
const KINK: f64 = 0.01;

/// Checks the kernels of a loss at random outputs and targets:
///
/// - `delta` against central differences of the value, `loss_hessian` against those of `delta`;
/// - the Hessian is symmetric and without negative curvature, and `loss_root` is a root of it, whichever part of the
///   root is asked for;
/// - stacked directions are the single ones, and a row alone is that row of the batch;
/// - everything twice gives the same bits.
///
/// # Panics
/// On the first property that does not hold.
pub fn check_loss<B: Backend<Elem = f64>>(backend: &B, loss: Loss, outputs: usize) {
    let (z, targets) = problem(loss, outputs);
    let kernel = Kernel { backend, loss, outputs, targets };
    let batch = kernel.loss(&z);
    same_bits(&kernel.loss(&z).concat(), &batch.concat(), "loss twice");
    let [_, delta, curvature] = &batch;
    kernel.check_delta(&z, delta);
    kernel.check_hessian(&z, curvature);
    kernel.check_root(curvature);
    kernel.check_rows(&z, &batch);
}

/// Outputs in [-3, 3) and targets that the loss takes.
fn problem(loss: Loss, outputs: usize) -> (Vec<f64>, Vec<f64>) {
    let mut z: Vec<f64> = random(ROWS * outputs, 1).iter().map(|z| 3.0 * z).collect();
    let targets = (0..ROWS).map(|i| match loss.target(outputs) {
        Target::Sign => [1.0, -1.0][i % 2],
        Target::Class => (i % outputs) as f64,
        Target::Real => (i as f64).sin(),
    });
    let targets: Vec<f64> = targets.collect();
    if loss.is_binary() {
        let near = |(z, y): (&mut f64, &f64)| {
            if (1.0 - y * *z).abs() < KINK {
                *z += 2.0 * KINK;
            }
        };
        z.iter_mut().zip(&targets).for_each(near);
    }
    (z, targets)
}

struct Kernel<'a, B: Backend> {
    backend: &'a B,
    loss: Loss,
    outputs: usize,
    targets: Vec<f64>,
}

impl<B: Backend<Elem = f64>> Kernel<'_, B> {
    fn check_delta(&self, z: &[f64], delta: &[f64]) {
        for c in 0..self.outputs {
            let by_difference = difference(|h| self.loss(&plus(z, h, &self.unit(c)))[0].clone());
            let column: Vec<f64> = delta.chunks(self.outputs).map(|row| row[c]).collect();
            near(&column, &by_difference, "delta against differences of the loss");
        }
    }

    fn check_hessian(&self, z: &[f64], curvature: &[f64]) {
        let rz = random(DIRECTIONS * z.len(), 2);
        let products = self.hessian(curvature, &rz);
        same_bits(&self.hessian(curvature, &rz), &products, "loss Hessian twice");
        for (rz, product) in rz.chunks(z.len()).zip(products.chunks(z.len())) {
            close(&self.hessian(curvature, rz), product, ROUNDING, "loss Hessian of a single direction");
            let by_difference = difference(|h| self.loss(&plus(z, h, rz))[1].clone());
            near(product, &by_difference, "loss Hessian against differences of delta");
            for (u, hu) in rz.chunks(self.outputs).zip(product.chunks(self.outputs)) {
                let least = -ROUNDING * norm(u) * norm(hu);
                assert!(dot(u, hu) >= least, "the loss Hessian has negative curvature");
            }
        }
        let (u, v) = (&rz[..z.len()], &rz[z.len()..2 * z.len()]);
        let (hu, hv) = (&products[..z.len()], &products[z.len()..2 * z.len()]);
        let gap = (dot(v, hu) - dot(u, hv)).abs();
        assert!(gap <= ROUNDING * norm(u) * norm(hv), "the loss Hessian is not symmetric: {gap:e}");
    }

    /// `sum_c s_c s_c^T`, column by column. Catches: a root of another Hessian or of another row's, and directions that
    /// are counted from 0 wherever they should begin.
    fn check_root(&self, curvature: &[f64]) {
        let (outputs, len) = (self.outputs, curvature.len());
        let roots = self.root(curvature, 0, outputs);
        same_bits(&self.root(curvature, 0, outputs), &roots, "loss root twice");
        for first in 1..outputs {
            let rest = self.root(curvature, first, outputs - first);
            close(&rest, &roots[first * len..], ROUNDING, "loss root from a later direction on");
        }
        for d in 0..outputs {
            // s_cd s_c of every row.
            let term = |root: &[f64]| -> Vec<f64> {
                root.chunks(outputs).flat_map(|s| s.iter().map(move |value| s[d] * value)).collect()
            };
            let sum = roots.chunks(len).fold(vec![0.0; len], |sum, root| plus(&sum, 1.0, &term(root)));
            let column = self.hessian(curvature, &self.unit(d));
            // Where outputs are coupled, numbers of the curvature's size cancel.
            within(&sum, &column, ROUNDING * norm(curvature), "loss root against the loss Hessian");
        }
    }

    /// Every row as a batch of its own. Catches: a row that is given another's target or curvature.
    fn check_rows(&self, z: &[f64], [value, delta, curvature]: &[Vec<f64>; 3]) {
        let outputs = self.outputs;
        let rz = random(DIRECTIONS * z.len(), 3);
        let (products, roots) = (self.hessian(curvature, &rz), self.root(curvature, 0, outputs));
        for (i, (z, target)) in z.chunks(outputs).zip(&self.targets).enumerate() {
            let alone = Kernel { targets: vec![*target], ..*self };
            // The same row of all directions.
            let row = |stacked: &[f64]| -> Vec<f64> {
                stacked.chunks(outputs).skip(i).step_by(ROWS).flatten().copied().collect()
            };
            let [own_value, own_delta, own_curvature] = alone.loss(z);
            close(&own_value, &value[i..=i], ROUNDING, "loss of a row alone");
            close(&own_delta, &row(delta), ROUNDING, "delta of a row alone");
            close(&own_curvature, &row(curvature), ROUNDING, "curvature of a row alone");
            let product = alone.hessian(&own_curvature, &row(&rz));
            close(&product, &row(&products), ROUNDING, "loss Hessian of a row alone");
            let root = alone.root(&own_curvature, 0, outputs);
            close(&root, &row(&roots), ROUNDING, "loss root of a row alone");
        }
    }

    /// The direction of output `c` in every row.
    fn unit(&self, c: usize) -> Vec<f64> {
        (0..ROWS * self.outputs).map(|i| f64::from(u8::from(i % self.outputs == c))).collect()
    }

    /// Value, delta and curvature.
    fn loss(&self, z: &[f64]) -> [Vec<f64>; 3] {
        let (rows, o) = (self.targets.len(), self.outputs);
        let (z, targets) = (self.backend.upload(z), self.backend.upload(&self.targets));
        let mut out = [1, o, o].map(|width| self.backend.upload(&vec![f64::NAN; rows * width]));
        let [value, delta, curvature] = &mut out;
        self.backend.loss(
            self.loss,
            View::new(&z, 0, rows, o),
            View::new(&targets, 0, rows, 1),
            ViewMut::new(value, 0, rows, 1),
            ViewMut::new(delta, 0, rows, o),
            ViewMut::new(curvature, 0, rows, o),
        );
        out.map(|buffer| self.backend.download(View::new(&buffer, 0, 1, B::len(&buffer))))
    }

    fn hessian(&self, curvature: &[f64], rz: &[f64]) -> Vec<f64> {
        let stacked = rz.len() / self.outputs;
        let (curvature, rz) = (self.backend.upload(curvature), self.backend.upload(rz));
        let mut out = self.backend.upload(&vec![f64::NAN; stacked * self.outputs]);
        self.backend.loss_hessian(
            self.loss,
            View::new(&curvature, 0, self.targets.len(), self.outputs),
            View::new(&rz, 0, stacked, self.outputs),
            ViewMut::new(&mut out, 0, stacked, self.outputs),
        );
        self.backend.download(View::new(&out, 0, stacked, self.outputs))
    }

    /// The directions `first..first + count` of the root.
    fn root(&self, curvature: &[f64], first: usize, count: usize) -> Vec<f64> {
        let (rows, o) = (self.targets.len(), self.outputs);
        let curvature = self.backend.upload(curvature);
        let mut out = self.backend.upload(&vec![f64::NAN; count * rows * o]);
        self.backend.loss_root(
            self.loss,
            View::new(&curvature, 0, rows, o),
            first,
            ViewMut::new(&mut out, 0, count * rows, o),
        );
        self.backend.download(View::new(&out, 0, count * rows, o))
    }
}
