//! Features with their labels: what every loader returns.

use std::ops::Range;
use std::path::Path;

use if_linalg::HostArray;

use crate::DataError;

/// Examples `z_i = (x_i, y_i)` in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// Features, shape `(n, ...)`, in the type they were stored in.
    pub x: HostArray,
    /// Labels, length `n`.
    pub y: Labels,
    /// The 0-based row of every example in its file or split: example `i` of `mnist:test[100..200]`
    /// has `ids[i] = 100 + i`. Slicing keeps them.
    pub ids: Vec<usize>,
    /// Name of class `c` at position `c`, where the source has names.
    pub class_names: Option<Vec<String>>,
    /// Name of every feature, where the source has names; length [`HostArray::width`].
    pub feature_names: Option<Vec<String>>,
    /// What every example has in the group column, where one was asked for and the table has it.
    pub groups: Option<Vec<String>>,
}

/// One label per example, as the file stores them.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Integers: class ids, or -1 and +1.
    Integer(Vec<i64>),
    /// Floats: regression targets, or classes (see [`to_integers`](Self::to_integers)).
    Real(Vec<f64>),
}

impl Examples {
    /// Puts features and labels together; `labels_path` is the file that an error should name.
    pub(crate) fn new(x: HostArray, y: Labels, labels_path: &Path) -> Result<Self, DataError> {
        let n = x.rows();
        if y.len() != n {
            let expected = format!("{n} labels, one per example");
            return Err(DataError::malformed(labels_path, "labels", expected, y.len().to_string()));
        }
        if n == 0 || x.width() == 0 {
            let found = format!("features of shape {:?}", x.shape());
            return Err(DataError::malformed(labels_path, "examples", "at least one number", found));
        }
        Ok(Self { x, y, ids: (0..n).collect(), class_names: None, feature_names: None, groups: None })
    }

    /// Number of examples, `n`.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The examples in `rows`, with their ids.
    ///
    /// # Panics
    /// If `rows` reaches beyond [`len`](Self::len).
    pub fn slice(&self, rows: Range<usize>) -> Self {
        Self {
            x: self.x.slice(rows.start, rows.end),
            y: self.y.slice(rows.clone()),
            ids: self.ids[rows.clone()].to_vec(),
            class_names: self.class_names.clone(),
            feature_names: self.feature_names.clone(),
            groups: self.groups.as_ref().map(|groups| groups[rows].to_vec()),
        }
    }

    /// The examples at `rows`, in that order, with their ids.
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            x: self.x.select(rows),
            y: self.y.select(rows),
            ids: rows.iter().map(|&row| self.ids[row]).collect(),
            class_names: self.class_names.clone(),
            feature_names: self.feature_names.clone(),
            groups: self.groups.as_ref().map(|groups| rows.iter().map(|&row| groups[row].clone()).collect()),
        }
    }
}

impl Labels {
    /// Number of labels.
    pub fn len(&self) -> usize {
        match self {
            Self::Integer(y) => y.len(),
            Self::Real(y) => y.len(),
        }
    }

    /// Whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels as class ids, if every one is an integer: NumPy likes to store classes as floats, so
    /// `1.0` counts as 1. `None` for regression targets.
    pub fn to_integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Integer(y) => Some(y.clone()),
            Self::Real(y) => y.iter().map(|&v| (v as i64 as f64 == v).then_some(v as i64)).collect(),
        }
    }

    /// The labels as regression targets.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Integer(y) => y.iter().map(|&v| v as f64).collect(),
            Self::Real(y) => y.clone(),
        }
    }

    pub(crate) fn first_non_finite(&self) -> Option<usize> {
        match self {
            Self::Integer(_) => None,
            Self::Real(y) => y.iter().position(|v| !v.is_finite()),
        }
    }

    fn slice(&self, rows: Range<usize>) -> Self {
        match self {
            Self::Integer(y) => Self::Integer(y[rows].to_vec()),
            Self::Real(y) => Self::Real(y[rows].to_vec()),
        }
    }

    fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Integer(y) => Self::Integer(rows.iter().map(|&row| y[row]).collect()),
            Self::Real(y) => Self::Real(rows.iter().map(|&row| y[row]).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_are_class_ids() {
        assert_eq!(Labels::Real(vec![-1.0, 1.0]).to_integers(), Some(vec![-1, 1]));
        assert_eq!(Labels::Real(vec![1.0, 0.5]).to_integers(), None);
        assert_eq!(Labels::Real(vec![1e300]).to_integers(), None);
        assert_eq!(Labels::Integer(vec![3]).to_f64(), [3.0]);
    }

    #[test]
    fn ids_survive_slicing_and_selecting() {
        let x = HostArray::U8(ndarray::ArrayD::zeros(vec![6, 2]));
        let all = Examples::new(x, Labels::Integer((0..6).collect()), Path::new("test")).unwrap();
        let some = all.slice(2..6).select(&[3, 0]);
        assert_eq!((some.ids.as_slice(), some.len()), (&[5, 2][..], 2));
        assert_eq!(some.y, Labels::Integer(vec![5, 2]));
        assert_eq!(some.x.shape(), [2, 2]);
    }
}
