//! Arrays as files hold them, before anyone has said which are features and which are labels.

use std::path::Path;

use if_linalg::HostArray;
use ndarray::ArrayD;

use crate::{DataError, Labels};

/// Numbers of any shape, row-major, as read from `.npy`, `.npz`, idx or safetensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Bytes: as features they count as pixels, and are divided by 255 when used.
    U8(ArrayD<u8>),
    /// Every other integer type, widened.
    I64(ArrayD<i64>),
    /// Single precision; half precision is widened to this.
    F32(ArrayD<f32>),
    /// Double precision.
    F64(ArrayD<f64>),
}

impl Array {
    /// Length of every axis; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::U8(a) => a.shape(),
            Self::I64(a) => a.shape(),
            Self::F32(a) => a.shape(),
            Self::F64(a) => a.shape(),
        }
    }

    /// The values themselves as `f64`: bytes are **not** divided by 255, and integers beyond 2^53
    /// are rounded.
    pub fn to_f64(&self) -> ArrayD<f64> {
        match self {
            Self::U8(a) => a.mapv(f64::from),
            Self::I64(a) => a.mapv(|v| v as f64),
            Self::F32(a) => a.mapv(f64::from),
            Self::F64(a) => a.clone(),
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "uint8",
            Self::I64(_) => "integer",
            Self::F32(_) => "float32",
            Self::F64(_) => "float64",
        }
    }

    /// Reads the array as features, the first axis counting examples; `at` names it in errors.
    pub(crate) fn into_features(self, path: &Path, at: &str) -> Result<HostArray, DataError> {
        if self.shape().is_empty() {
            return Err(DataError::malformed(path, at, "an array with an axis of examples", "a scalar"));
        }
        match self {
            Self::U8(a) => Ok(HostArray::U8(a)),
            Self::F32(a) => Ok(HostArray::F32(a)),
            Self::F64(a) => Ok(HostArray::F64(a)),
            Self::I64(_) => {
                let found = "wider integers: store numbers and token ids as floats, pixels as uint8";
                Err(DataError::malformed(path, at, "features of type float32, float64 or uint8", found))
            }
        }
    }

    /// Reads the array as labels, one per example; `at` names it in errors.
    pub(crate) fn into_labels(self, path: &Path, at: &str) -> Result<Labels, DataError> {
        if self.shape().len() != 1 {
            let found = format!("shape {:?} of type {}", self.shape(), self.type_name());
            return Err(DataError::malformed(path, at, "labels of shape [n]", found));
        }
        let labels = match self {
            Self::U8(a) => Labels::Integer(a.iter().map(|&v| i64::from(v)).collect()),
            Self::I64(a) => Labels::Integer(a.into_iter().collect()),
            Self::F32(a) => Labels::Real(a.iter().map(|&v| f64::from(v)).collect()),
            Self::F64(a) => Labels::Real(a.into_iter().collect()),
        };
        match labels.first_non_finite() {
            Some(row) => Err(DataError::malformed(
                path,
                format!("{at}, row {row}"),
                "a finite label",
                "NaN or infinity",
            )),
            None => Ok(labels),
        }
    }
}

impl From<HostArray> for Array {
    fn from(features: HostArray) -> Self {
        match features {
            HostArray::U8(a) => Self::U8(a),
            HostArray::F32(a) => Self::F32(a),
            HostArray::F64(a) => Self::F64(a),
        }
    }
}

impl From<Labels> for Array {
    fn from(labels: Labels) -> Self {
        match labels {
            Labels::Integer(y) => Self::I64(ArrayD::from_shape_fn(vec![y.len()], |i| y[i[0]])),
            Labels::Real(y) => Self::F64(ArrayD::from_shape_fn(vec![y.len()], |i| y[i[0]])),
        }
    }
}
