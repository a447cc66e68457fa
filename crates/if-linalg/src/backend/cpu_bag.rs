//! Bags of token ids on the CPU. An id is a number, and below 0 there is no token.

use super::{Cpu, View, ViewMut};
use crate::Real;

/// The token ids of a row.
fn tokens<T: Real>(row: &[T]) -> impl Iterator<Item = usize> {
    row.iter().map(|id| id.to_f64()).filter(|id| *id >= 0.0).map(|id| id as usize)
}

/// What each token of a row counts for; a row without any is a sum of nothing.
fn share<T: Real>(row: &[T]) -> T {
    T::from_f64(1.0 / tokens(row).count().max(1) as f64)
}

/// Every row of `out` becomes the mean of the rows of `w` at its tokens.
pub(super) fn gather_mean<T: Real>(ids: View<Cpu<T>>, w: View<Cpu<T>>, mut out: ViewMut<Cpu<T>>) {
    let vocabulary = w.rows * ids.rows / out.rows.max(1);
    for i in 0..out.rows {
        let (row, first) = (ids.row(i % ids.rows), i / ids.rows * vocabulary);
        let out = out.row(i);
        out.fill(T::ZERO);
        for token in tokens(row) {
            out.iter_mut().zip(w.row(first + token)).for_each(|(out, w)| *out += *w);
        }
        let share = share(row);
        out.iter_mut().for_each(|out| *out *= share);
    }
}

/// The transpose of [`gather_mean`], added to `dw`.
pub(super) fn scatter_mean<T: Real>(ids: View<Cpu<T>>, dy: View<Cpu<T>>, mut dw: ViewMut<Cpu<T>>) {
    let vocabulary = dw.rows * ids.rows / dy.rows.max(1);
    for i in 0..dy.rows {
        let (row, first) = (ids.row(i % ids.rows), i / ids.rows * vocabulary);
        let share = share(row);
        for token in tokens(row) {
            dw.row(first + token).iter_mut().zip(dy.row(i)).for_each(|(dw, dy)| *dw += share * *dy);
        }
    }
}

/// `sum_t (m_t / c)^2` over the `c` tokens of every row, of which `m_t` are `t`.
pub(super) fn squares<T: Real>(ids: View<Cpu<T>>, mut out: ViewMut<Cpu<T>>) {
    for i in 0..ids.rows {
        let mut sorted: Vec<usize> = tokens(ids.row(i)).collect();
        sorted.sort_unstable();
        let pairs: usize = sorted.chunk_by(|a, b| a == b).map(|same| same.len() * same.len()).sum();
        out.row(i)[0] = T::from_f64(pairs as f64 / (sorted.len() * sorted.len()).max(1) as f64);
    }
}
