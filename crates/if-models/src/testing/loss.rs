//! Checks of a loss kernel.

use if_linalg::testing::random;
use if_linalg::{Backend, Loss, Target, View, ViewMut};

use super::{ROUNDING, difference, dot, near, norm, plus, same_bits};

/// Examples in the random problem.
const ROWS: usize = 24;
/// Stacked directions.
const DIRECTIONS: usize = 3;
/// The hinge is kept this far from its kink.
const KINK: f64 = 0.01;

/// Checks the kernels of a loss at random outputs and targets: `delta` against central differences of
/// the value, `loss_hessian` (with stacked directions) against those of `delta`; the Hessian symmetric
/// and without negative curvature; everything twice gives the same bits.
///
/// # Panics
/// On the first property that does not hold.
pub fn check_loss<B: Backend<Elem = f64>>(backend: &B, loss: Loss, outputs: usize) {
    let (z, targets) = problem(loss, outputs);
    let kernel = Kernel { backend, loss, outputs, targets };
    let [value, delta, curvature] = kernel.loss(&z);
    let again = kernel.loss(&z);
    same_bits(&again.concat(), &[value, delta.clone(), curvature.clone()].concat(), "loss twice");
    for c in 0..outputs {
        let unit: Vec<f64> = (0..z.len()).map(|i| f64::from(u8::from(i % outputs == c))).collect();
        let by_difference = difference(|h| kernel.loss(&plus(&z, h, &unit))[0].clone());
        let column: Vec<f64> = delta.chunks(outputs).map(|row| row[c]).collect();
        near(&column, &by_difference, "delta against differences of the loss");
    }
    let rz = random(DIRECTIONS * z.len(), 2);
    let products = kernel.hessian(&curvature, &rz);
    same_bits(&kernel.hessian(&curvature, &rz), &products, "loss Hessian twice");
    for (rz, product) in rz.chunks(z.len()).zip(products.chunks(z.len())) {
        let by_difference = difference(|h| kernel.loss(&plus(&z, h, rz))[1].clone());
        near(product, &by_difference, "loss Hessian against differences of delta");
        for (u, hu) in rz.chunks(outputs).zip(product.chunks(outputs)) {
            assert!(dot(u, hu) >= -ROUNDING * norm(u) * norm(hu), "the loss Hessian has negative curvature");
        }
    }
    let (u, v) = (&rz[..z.len()], &rz[z.len()..2 * z.len()]);
    let (hu, hv) = (&products[..z.len()], &products[z.len()..2 * z.len()]);
    let gap = (dot(v, hu) - dot(u, hv)).abs();
    assert!(gap <= ROUNDING * norm(u) * norm(hv), "the loss Hessian is not symmetric: {gap:e}");
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
    /// Value, delta and curvature.
    fn loss(&self, z: &[f64]) -> [Vec<f64>; 3] {
        let o = self.outputs;
        let (z, targets) = (self.backend.upload(z), self.backend.upload(&self.targets));
        let mut out = [1, o, o].map(|width| self.backend.upload(&vec![f64::NAN; ROWS * width]));
        let [value, delta, curvature] = &mut out;
        self.backend.loss(
            self.loss,
            View::new(&z, 0, ROWS, o),
            View::new(&targets, 0, ROWS, 1),
            ViewMut::new(value, 0, ROWS, 1),
            ViewMut::new(delta, 0, ROWS, o),
            ViewMut::new(curvature, 0, ROWS, o),
        );
        out.map(|buffer| self.backend.download(View::new(&buffer, 0, 1, B::len(&buffer))))
    }

    fn hessian(&self, curvature: &[f64], rz: &[f64]) -> Vec<f64> {
        let stacked = rz.len() / self.outputs;
        let (curvature, rz) = (self.backend.upload(curvature), self.backend.upload(rz));
        let mut out = self.backend.upload(&vec![f64::NAN; stacked * self.outputs]);
        self.backend.loss_hessian(
            self.loss,
            View::new(&curvature, 0, ROWS, self.outputs),
            View::new(&rz, 0, stacked, self.outputs),
            ViewMut::new(&mut out, 0, stacked, self.outputs),
        );
        self.backend.download(View::new(&out, 0, stacked, self.outputs))
    }
}
