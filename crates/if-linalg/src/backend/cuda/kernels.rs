//! Arguments of kernels, as common.cuh and its companions lay them out.

use cudarc::driver::DeviceRepr;

use crate::{Activation, Loss, Window};

/// Names of all kernels.
pub(super) const KERNELS: [&str; 42] = [
    "copy_rows",
    "fill",
    "signs",
    "round_off",
    "gather_rows",
    "top_k",
    "swap_axes",
    "axpby",
    "row_axpby",
    "dots_partial",
    "sum_partial",
    "cg_update",
    "cg_direct",
    "lissa_step",
    "sum_parts",
    "adam",
    "scale_rows",
    "row_dots",
    "row_dots_short",
    "paired_dots",
    "paired_products",
    "outer_rows",
    "activate",
    "activation_backward",
    "activation_r_backward",
    "loss",
    "loss_hessian",
    "loss_root",
    "im2col",
    "col2im",
    "max_pool_gather",
    "max_pool_scatter",
    "avg_pool",
    "avg_pool_transpose",
    "bag_gather",
    "bag_scatter",
    "bag_squares",
    "arrange_weights",
    "convolve_7",
    "convolve_8",
    "convolve_weights",
    "add_parts",
];

/// `struct Matrix`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Matrix {
    pub data: u64,
    pub rows: i64,
    pub cols: i64,
    pub stride: i64,
}

// SAFETY: it has the layout of `struct Matrix` in common.cuh: a pointer and three 64-bit integers.
unsafe impl DeviceRepr for Matrix {}

impl Matrix {
    pub fn len(&self) -> usize {
        (self.rows * self.cols) as usize
    }
}

/// `struct Division`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Division {
    by: u32,
    factor: u32,
    shift: u32,
}

// SAFETY: it has the layout of `struct Division` in common.cuh: three 32-bit integers.
unsafe impl DeviceRepr for Division {}

impl Division {
    /// By `by`, which is at least 1 and below 2^31.
    pub fn new(by: usize) -> Self {
        assert!((1..1 << 31).contains(&by), "only numbers below 2^31 are divided so");
        let shift = by.next_power_of_two().trailing_zeros();
        let factor = ((1 << 32) * ((1 << shift) - by)) / by + 1;
        Self { by: by as u32, factor: factor as u32, shift }
    }
}

/// `struct Window`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Windows {
    numbers: [i32; 9],
    divisions: [Division; 5],
}

// SAFETY: it has the layout of `struct Window` in window.cu: nine integers and five `Division`, all of 32 bits.
unsafe impl DeviceRepr for Windows {}

impl From<&Window> for Windows {
    fn from(window: &Window) -> Self {
        let [down, across] = window.steps().expect("the window fits the image");
        let Window { channels, image: [height, width], kernel: [high, wide], stride, padding } = *window;
        let all = [channels, height, width, high, wide, stride, padding, down, across];
        Self {
            numbers: all.map(|number| i32::try_from(number).expect("an image has fewer pixels")),
            divisions: [height, width, stride, down * across, across].map(Division::new),
        }
    }
}

/// The number of an activation in network.cu, and its parameter.
pub(super) fn activation(f: Activation) -> (i32, f64) {
    match f {
        Activation::Relu => (0, 0.0),
        Activation::LeakyRelu { slope } => (1, slope),
        Activation::Tanh => (2, 0.0),
        Activation::Sigmoid => (3, 0.0),
        Activation::Softplus => (4, 0.0),
        Activation::Gelu => (5, 0.0),
        Activation::GeluTanh => (6, 0.0),
        Activation::Selu => (7, 0.0),
    }
}

/// The number of a loss in network.cu, and its parameter.
pub(super) fn loss(loss: Loss) -> (i32, f64) {
    match loss {
        Loss::CrossEntropy => (0, 0.0),
        Loss::LabelSmoothing { smoothing } => (1, smoothing),
        Loss::Logistic => (2, 0.0),
        Loss::Squared => (3, 0.0),
        Loss::Hinge => (4, 0.0),
        Loss::SmoothHinge { temperature } => (5, temperature),
        Loss::Logit => (6, 0.0),
        Loss::Margin => (7, 0.0),
    }
}
