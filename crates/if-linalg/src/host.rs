//! Numbers as they arrive from files: three element types, one conversion rule.

use ndarray::{ArrayD, Axis, Slice};

use crate::Real;

/// Host numbers of any shape in the type they were stored in; the first axis counts examples.
///
/// This type owns the conversion rule of the whole system: **`u8` is divided by 255, wherever it
/// comes from; floats are untouched.** Keeping the stored type means that 55,000 MNIST images cost
/// 43 MB until the moment a row block is converted.
#[derive(Clone, Debug, PartialEq)]
pub enum HostArray {
    /// Bytes, such as pixels; converted as `value / 255`.
    U8(ArrayD<u8>),
    /// Single precision.
    F32(ArrayD<f32>),
    /// Double precision.
    F64(ArrayD<f64>),
}

macro_rules! each {
    ($array:expr, $a:ident => $body:expr) => {
        match $array {
            HostArray::U8($a) => $body,
            HostArray::F32($a) => $body,
            HostArray::F64($a) => $body,
        }
    };
}

impl HostArray {
    /// Shape, examples first.
    pub fn shape(&self) -> &[usize] {
        each!(self, a => a.shape())
    }

    /// Number of examples: the length of the first axis (0 for a scalar).
    pub fn rows(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }

    /// Numbers per example: the product of all axes but the first.
    pub fn width(&self) -> usize {
        self.shape().iter().skip(1).product()
    }

    /// The examples `start..end`, in their stored type.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let range = Slice::from(start..end);
        match self {
            Self::U8(a) => Self::U8(a.slice_axis(Axis(0), range).to_owned()),
            Self::F32(a) => Self::F32(a.slice_axis(Axis(0), range).to_owned()),
            Self::F64(a) => Self::F64(a.slice_axis(Axis(0), range).to_owned()),
        }
    }

    /// The examples at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        match self {
            Self::U8(a) => Self::U8(a.select(Axis(0), indices)),
            Self::F32(a) => Self::F32(a.select(Axis(0), indices)),
            Self::F64(a) => Self::F64(a.select(Axis(0), indices)),
        }
    }

    /// Writes example `row` into `out` (length [`width`](Self::width)), converted to `T`.
    pub fn read_row<T: Real>(&self, row: usize, out: &mut [T]) {
        match self {
            Self::U8(a) => {
                fill(a.index_axis(Axis(0), row).iter(), out, |v| T::from_f64(f64::from(*v) / 255.0))
            }
            Self::F32(a) => fill(a.index_axis(Axis(0), row).iter(), out, |v| T::from_f64(f64::from(*v))),
            Self::F64(a) => fill(a.index_axis(Axis(0), row).iter(), out, |v| T::from_f64(*v)),
        }
    }

    /// First example that holds a NaN or an infinity, with the position inside the example.
    pub fn first_non_finite(&self) -> Option<(usize, usize)> {
        let width = self.width().max(1);
        let position = match self {
            Self::U8(_) => None,
            Self::F32(a) => a.iter().position(|v| !v.is_finite()),
            Self::F64(a) => a.iter().position(|v| !v.is_finite()),
        }?;
        Some((position / width, position % width))
    }
}

fn fill<'a, S: 'a, T>(values: impl Iterator<Item = &'a S>, out: &mut [T], convert: impl Fn(&S) -> T) {
    for (slot, value) in out.iter_mut().zip(values) {
        *slot = convert(value);
    }
}
