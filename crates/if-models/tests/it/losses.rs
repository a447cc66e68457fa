//! Losses: values and derivatives against dual numbers, through the kit, and at extreme margins.

use crate::common::cpu;
use if_linalg::{Backend, View, ViewMut};
use if_models::Loss;
use if_models::testing::check_loss;
use num_dual::{Dual2_64, DualNum};
use proptest::prelude::*;

const TEMPERATURES: [f64; 4] = [0.001, 0.1, 1.0, 10.0];
const SMOOTHINGS: [f64; 3] = [0.0, 0.1, 0.9];

test_on_devices!(
    f64: kernels_against_differences,
);

fn kernels_against_differences<B: Backend<Elem = f64>>(backend: &B) {
    for outputs in [1, 2, 3, 10, 17] {
        check_loss(backend, Loss::CrossEntropy, outputs);
        check_loss(backend, Loss::Squared, outputs);
        check_loss(backend, Loss::Logit, outputs);
        check_loss(backend, Loss::Margin, outputs);
        for smoothing in SMOOTHINGS {
            check_loss(backend, Loss::LabelSmoothing { smoothing }, outputs);
        }
    }
    for loss in [Loss::Logistic, Loss::Hinge] {
        check_loss(backend, loss, 1);
    }
    // Differences cannot follow smaller temperatures; the dual numbers below do.
    for temperature in [0.1, 1.0, 10.0] {
        check_loss(backend, Loss::SmoothHinge { temperature }, 1);
    }
}

/// Value, delta and curvature of one example.
fn kernel(loss: Loss, z: &[f64], y: f64) -> [Vec<f64>; 3] {
    let mut out = [vec![f64::NAN], vec![f64::NAN; z.len()], vec![f64::NAN; z.len()]];
    let [value, delta, curvature] = &mut out;
    cpu().loss(
        loss,
        View::new(&z.to_vec(), 0, 1, z.len()),
        View::new(&vec![y], 0, 1, 1),
        ViewMut::new(value, 0, 1, 1),
        ViewMut::new(delta, 0, 1, z.len()),
        ViewMut::new(curvature, 0, 1, z.len()),
    );
    out
}

fn hessian_product(loss: Loss, z: &[f64], y: f64, v: &[f64]) -> Vec<f64> {
    let curvature = kernel(loss, z, y)[2].clone();
    let mut out = vec![f64::NAN; z.len()];
    cpu().loss_hessian(
        loss,
        View::new(&curvature, 0, 1, z.len()),
        View::new(&v.to_vec(), 0, 1, z.len()),
        ViewMut::new(&mut out, 0, 1, z.len()),
    );
    out
}

/// The roots `first..first + count` of one example's Hessian.
fn roots(loss: Loss, z: &[f64], y: f64, first: usize, count: usize) -> Vec<f64> {
    let curvature = kernel(loss, z, y)[2].clone();
    let mut out = vec![f64::NAN; count * z.len()];
    cpu().loss_root(
        loss,
        View::new(&curvature, 0, 1, z.len()),
        first,
        ViewMut::new(&mut out, 0, count, z.len()),
    );
    out
}

/// The formulas of the losses, for numbers that carry derivatives.
fn formula(loss: Loss, z: &[Dual2_64], y: f64) -> Dual2_64 {
    let zero = Dual2_64::from(0.0);
    let log_one_plus_exp = |u: Dual2_64| if u.re > 0.0 { u + (-u).exp().ln_1p() } else { u.exp().ln_1p() };
    let log_sum = |z: &[Dual2_64]| {
        let max = z.iter().map(|z| z.re).fold(f64::NEG_INFINITY, f64::max);
        z.iter().fold(zero, |sum, z| sum + (*z - max).exp()).ln() + max
    };
    match loss {
        Loss::CrossEntropy => log_sum(z) - z[y as usize],
        Loss::LabelSmoothing { smoothing: s } => z.iter().enumerate().fold(zero, |sum, (c, z_c)| {
            let hot = if c as f64 == y { 1.0 - s } else { 0.0 };
            sum + (log_sum(z) - *z_c) * (hot + s / z.len() as f64)
        }),
        Loss::Logit | Loss::Margin if z.len() == 1 => -z[0] * y,
        Loss::Logit => -z[y as usize],
        Loss::Margin => {
            let others = [&z[..y as usize], &z[y as usize + 1..]].concat();
            log_sum(&others) - z[y as usize]
        }
        Loss::Logistic => log_one_plus_exp(-z[0] * y),
        Loss::Squared if z.len() == 1 => (z[0] - y).powi(2) * 0.5,
        Loss::Squared => z.iter().enumerate().fold(zero, |sum, (c, z)| {
            let hot = if c as f64 == y { 1.0 } else { 0.0 };
            sum + (*z - hot).powi(2) * 0.5
        }),
        Loss::Hinge => {
            let slack = -z[0] * y + 1.0;
            if slack.re > 0.0 { slack } else { zero }
        }
        Loss::SmoothHinge { temperature: t } => log_one_plus_exp((-z[0] * y + 1.0) / t) * t,
    }
}

/// Value, slope and curvature of `h -> l(z + h v)`.
fn along(loss: Loss, z: &[f64], y: f64, v: &[f64]) -> [f64; 3] {
    let z: Vec<Dual2_64> = z.iter().zip(v).map(|(z, v)| Dual2_64::new(*z, *v, 0.0)).collect();
    let l = formula(loss, &z, y);
    [l.re, l.v1, l.v2]
}

fn check_against_duals(loss: Loss, z: &[f64], y: f64, v: &[f64]) {
    let [value, delta, _] = kernel(loss, z, y);
    let slope: f64 = delta.iter().zip(v).map(|(d, v)| d * v).sum();
    let curvature: f64 = hessian_product(loss, z, y, v).iter().zip(v).map(|(h, v)| h * v).sum();
    let found = [value[0], slope, curvature];
    let expected = along(loss, z, y, v);
    let size: f64 = v.iter().map(|v| v.abs()).sum();
    // Softmax probabilities carry the rounding of z: a few eps times its size.
    let scale = [1.0 + expected[0].abs(), size, size * size * loss_curvature_scale(loss)];
    for order in 0..3 {
        let error = (found[order] - expected[order]).abs();
        assert!(
            error <= 2e-14 * scale[order],
            "{loss:?} at {z:?}, {y}: derivative {order}: {found:?}, {expected:?}"
        );
    }
}

const BINARY: [Loss; 5] = [Loss::Logistic, Loss::Hinge, Loss::Squared, Loss::Logit, Loss::Margin];

fn loss_curvature_scale(loss: Loss) -> f64 {
    match loss {
        Loss::SmoothHinge { temperature } => 1.0 / temperature,
        _ => 1.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn binary_losses_against_dual_numbers(z in -30.0f64..30.0, sign: bool, v in -2.0f64..2.0) {
        let y = if sign { 1.0 } else { -1.0 };
        let smooth = TEMPERATURES.map(|temperature| Loss::SmoothHinge { temperature });
        for loss in smooth.into_iter().chain(BINARY) {
            // Away from the kink, and where u = (1 - m) / t is not amplified rounding.
            if (1.0 - y * z).abs() > 1e-6 {
                check_against_duals(loss, &[z], y, &[v]);
            }
        }
    }

    #[test]
    fn class_losses_against_dual_numbers(
        z in proptest::collection::vec(-20.0f64..20.0, 2..8), class in 0usize..8, seed in 0u64..99,
    ) {
        let y = (class % z.len()) as f64;
        let v = if_linalg::testing::random(z.len(), seed);
        for loss in [Loss::CrossEntropy, Loss::Squared, Loss::Logit, Loss::Margin] {
            check_against_duals(loss, &z, y, &v);
        }
        for smoothing in SMOOTHINGS {
            check_against_duals(Loss::LabelSmoothing { smoothing }, &z, y, &v);
        }
    }
}

/// Every entry of the Hessian at `z = ln (1, 2, 5)` and class 1, not only its quadratic form.
fn check_hessian(loss: Loss, rows: [[f64; 3]; 3]) {
    for (i, row) in rows.iter().enumerate() {
        let unit: Vec<f64> = (0..3).map(|j| f64::from(u8::from(i == j))).collect();
        crate::common::assert_close(&hessian_product(loss, &by_hand(), 1.0, &unit), row, 1e-14);
    }
}

/// Their softmax is `(1, 2, 5) / 8`.
fn by_hand() -> [f64; 3] {
    [0.0, 2.0f64.ln(), 5.0f64.ln()]
}

/// `diag(p) - p p^T`
const SOFTMAX_HESSIAN: [[f64; 3]; 3] = [
    [7.0 / 64.0, -2.0 / 64.0, -5.0 / 64.0],
    [-2.0 / 64.0, 12.0 / 64.0, -10.0 / 64.0],
    [-5.0 / 64.0, -10.0 / 64.0, 15.0 / 64.0],
];

#[test]
fn cross_entropy_by_hand() {
    let [value, delta, p] = kernel(Loss::CrossEntropy, &by_hand(), 1.0);
    crate::common::assert_close(&value, &[4.0f64.ln()], 1e-15);
    crate::common::assert_close(&delta, &[0.125, -0.75, 0.625], 1e-15);
    crate::common::assert_close(&p, &[0.125, 0.25, 0.625], 1e-15);
    check_hessian(Loss::CrossEntropy, SOFTMAX_HESSIAN);
    assert_eq!(Loss::CrossEntropy.scalar(3.0, 0.0), [0.0; 3], "the only class is certain");
}

/// Catches: a share of `s / (C - 1)`, or one that leaves out the target.
#[test]
fn label_smoothing_by_hand() {
    // s = 0.3 of 3 classes: t = (0.1, 0.8, 0.1)
    let loss = Loss::LabelSmoothing { smoothing: 0.3 };
    let [value, delta, p] = kernel(loss, &by_hand(), 1.0);
    let expected = 0.1 * 8.0f64.ln() + 0.8 * 4.0f64.ln() + 0.1 * 1.6f64.ln();
    crate::common::assert_close(&value, &[expected], 1e-15);
    crate::common::assert_close(&delta, &[0.025, -0.55, 0.525], 1e-14);
    crate::common::assert_close(&p, &[0.125, 0.25, 0.625], 1e-15);
    check_hessian(loss, SOFTMAX_HESSIAN);
    let none = kernel(Loss::LabelSmoothing { smoothing: 0.0 }, &by_hand(), 1.0);
    assert_eq!(none, kernel(Loss::CrossEntropy, &by_hand(), 1.0), "without smoothing it is cross-entropy");
}

/// Catches: a sign, the target's own output in the sum, a Hessian of `p` instead of `q`.
#[test]
fn measurements_by_hand() {
    // The others are (1, 5) / 6; the odds of class 1 are 2 to 6.
    let [value, delta, q] = kernel(Loss::Margin, &by_hand(), 1.0);
    crate::common::assert_close(&value, &[3.0f64.ln()], 1e-15);
    crate::common::assert_close(&delta, &[1.0 / 6.0, -1.0, 5.0 / 6.0], 1e-15);
    crate::common::assert_close(&q, &[1.0 / 6.0, 0.0, 5.0 / 6.0], 1e-15);
    let h = 5.0 / 36.0;
    check_hessian(Loss::Margin, [[h, 0.0, -h], [0.0; 3], [-h, 0.0, h]]);

    let expected = [vec![-2.0f64.ln()], vec![0.0, -1.0, 0.0], vec![0.0; 3]];
    assert_eq!(kernel(Loss::Logit, &by_hand(), 1.0), expected);
    check_hessian(Loss::Logit, [[0.0; 3]; 3]);
    for loss in [Loss::Logit, Loss::Margin] {
        assert_eq!(kernel(loss, &[3.0], 1.0).concat(), [-3.0, -1.0, 0.0]);
        assert_eq!(kernel(loss, &[3.0], -1.0).concat(), [3.0, 1.0, 0.0]);
    }
}

/// Catches: another root of the same Hessian, and roots counted from another one than the first that is asked for.
#[test]
fn roots_by_hand() {
    // sqrt(p_c) (e_c - p) for the classes 1 and 2, of which the first has the root 1/2.
    let last = 0.625f64.sqrt() / 8.0;
    let expected = [-0.0625, 0.375, -0.3125, -last, -2.0 * last, 3.0 * last];
    for loss in [Loss::CrossEntropy, Loss::LabelSmoothing { smoothing: 0.3 }] {
        crate::common::assert_close(&roots(loss, &by_hand(), 1.0, 1, 2), &expected, 1e-14);
    }
    // With q = (1, 0, 5) / 6 the class itself has none.
    let last = (5.0f64 / 6.0).sqrt() / 6.0;
    let expected = [0.0, 0.0, 0.0, -last, 0.0, last];
    crate::common::assert_close(&roots(Loss::Margin, &by_hand(), 1.0, 1, 2), &expected, 1e-14);
    assert_eq!(roots(Loss::Squared, &by_hand(), 1.0, 1, 2), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    // u = ln 3 at t = 1/2: l'' = 3/8.
    let smooth = Loss::SmoothHinge { temperature: 0.5 };
    let found = roots(smooth, &[1.0 - 0.5 * 3.0f64.ln()], 1.0, 0, 1);
    crate::common::assert_close(&found, &[0.375f64.sqrt()], 1e-14);
}

#[test]
fn binary_losses_by_hand() {
    // sigma(ln 3) = 3/4
    let z = 3.0f64.ln();
    for (y, value, slope) in [(1.0, (4.0f64 / 3.0).ln(), -0.25), (-1.0, 4.0f64.ln(), 0.75)] {
        let found = kernel(Loss::Logistic, &[z], y).concat();
        crate::common::assert_close(&found, &[value, slope, 3.0 / 16.0], 1e-15);
    }
    // u = (1 - m) / t = ln 3 at t = 1/2
    let (t, m) = (0.5, 1.0 - 0.5 * 3.0f64.ln());
    for y in [1.0, -1.0] {
        let found = kernel(Loss::SmoothHinge { temperature: t }, &[y * m], y).concat();
        crate::common::assert_close(&found, &[t * 4.0f64.ln(), -y * 0.75, 3.0 / 16.0 / t], 1e-14);
    }
    assert_eq!(kernel(Loss::Hinge, &[0.25], 1.0).concat(), [0.75, -1.0, 0.0]);
    assert_eq!(kernel(Loss::Hinge, &[0.25], -1.0).concat(), [1.25, 1.0, 0.0]);
    assert_eq!(kernel(Loss::Hinge, &[1.0], 1.0).concat(), [0.0; 3], "the kink belongs to the flat side");
    assert_eq!(kernel(Loss::Squared, &[3.0], 1.0).concat(), [2.0, 2.0, 1.0]);
    assert_eq!(kernel(Loss::Squared, &[3.0, 1.0], 1.0).concat(), [4.5, 3.0, 0.0, 1.0, 1.0]);
}

/// Margins of +-1e3 and +-1e300: exact limits, never a NaN.
#[test]
fn extreme_margins() {
    let limits = |loss, far: f64, y: f64| kernel(loss, &[far], y).concat();
    let smooth = TEMPERATURES.map(|temperature| Loss::SmoothHinge { temperature });
    for loss in smooth.into_iter().chain([Loss::Logistic]) {
        for far in [1e3, 1e4, 1e100] {
            let shift = if loss == Loss::Logistic { 0.0 } else { 1.0 };
            for y in [1.0, -1.0] {
                let right = limits(loss, y * far, y);
                assert!(right.iter().all(|v| v.abs() < 1e-40), "{loss:?} {right:?}");
                let wrong = limits(loss, -y * far, y);
                assert!((wrong[0] / (far + shift) - 1.0).abs() < 1e-15, "{loss:?} {wrong:?}");
                assert_eq!(wrong[1], -y);
                assert!(wrong[2].abs() < 1e-40);
            }
        }
    }
    for far in [1e3, 1e100, 1e300] {
        let [value, delta, p] = kernel(Loss::CrossEntropy, &[far, 0.0, -far], 0.0);
        assert_eq!((value, delta, p), (vec![0.0], vec![0.0; 3], vec![1.0, 0.0, 0.0]));
        let [value, delta, _] = kernel(Loss::CrossEntropy, &[far, 0.0, -far], 1.0);
        assert_eq!((value, delta), (vec![far], vec![1.0, -1.0, 0.0]));
        let [value, delta, q] = kernel(Loss::Margin, &[far, 0.0, -far], 0.0);
        assert_eq!((value, delta, q), (vec![-far], vec![-1.0, 1.0, 0.0], vec![0.0, 1.0, 0.0]));
        let [value, delta, _] = kernel(Loss::Margin, &[far, 0.0, -far], 2.0);
        assert_eq!((value, delta), (vec![2.0 * far], vec![1.0, 0.0, -1.0]));
        // The target's own t is 0.8, the others' 0.1: 0.1 far + 0.2 far.
        let [value, delta, _] = kernel(Loss::LabelSmoothing { smoothing: 0.3 }, &[far, 0.0, -far], 0.0);
        crate::common::assert_close(&value, &[0.3 * far], 1e-15);
        crate::common::assert_close(&delta, &[0.2, -0.1, -0.1], 1e-15);
    }
}

/// `t -> 0` is the hinge; its distance is at most `t ln 2`.
#[test]
fn smooth_hinge_tends_to_the_hinge() {
    for z in [-3.0, 0.0, 0.9, 1.0, 1.1, 4.0] {
        let hinge = kernel(Loss::Hinge, &[z], 1.0)[0][0];
        for temperature in TEMPERATURES {
            let smooth = kernel(Loss::SmoothHinge { temperature }, &[z], 1.0)[0][0];
            let gap = smooth - hinge;
            assert!((-1e-15..=temperature * 2.0f64.ln() + 1e-15).contains(&gap), "{z} {temperature} {gap}");
        }
    }
}

/// Equal outputs shifted by a constant have the same loss.
#[test]
fn softmax_losses_ignore_shifts() {
    let z = [0.5, -1.0, 2.0];
    let shifted = z.map(|z| z + 512.0);
    for loss in [Loss::CrossEntropy, Loss::LabelSmoothing { smoothing: 0.3 }, Loss::Margin] {
        let (found, expected) = (kernel(loss, &shifted, 2.0), kernel(loss, &z, 2.0));
        crate::common::assert_close(&found.concat(), &expected.concat(), 1e-12);
    }
}
