//! Steps of iterative solvers, each in one pass over its vectors.

use rayon::prelude::*;

use super::cpu::{CHUNK, PARALLEL_FROM, dot};
use super::{CgProducts, CgStep, Cpu, View, ViewMut};
use crate::{Backend, Real};

/// What the first half of a step of conjugate gradients leaves for the second.
pub struct CgSums {
    /// `r.z` before the step.
    rz: Vec<f64>,
    /// Which vectors took it.
    stepped: Vec<bool>,
    pq: Vec<f64>,
    rr: Vec<f64>,
}

/// Part of `k` vectors in a buffer, one a row.
fn part<T: Real>(buffer: &Vec<T>, k: usize, (start, len): (usize, usize)) -> View<'_, Cpu<T>> {
    View::new(buffer, start, k, len)
}

fn rows<T: Real>(buffer: &mut Vec<T>, k: usize, (start, len): (usize, usize)) -> Vec<&mut [T]> {
    ViewMut::<Cpu<T>>::new(buffer, start, k, len).into_rows()
}

/// `step` for every row of `len` numbers, on as many threads as that is worth.
fn each<R: Send>(rows: impl Iterator<Item = R>, (k, len): (usize, usize), step: impl Fn(R) + Send + Sync) {
    if k * len >= PARALLEL_FROM {
        rows.collect::<Vec<_>>().into_par_iter().for_each(step);
    } else {
        rows.for_each(step);
    }
}

/// [`Backend::cg_step`].
pub(super) fn cg_step<T: Real>(
    step: CgStep,
    parts: &[(usize, usize)],
    [p, q]: [&Vec<T>; 2],
    [x, r]: [&mut Vec<T>; 2],
) -> CgSums {
    let k = step.rz.len();
    let (mut pq, mut rr) = (vec![0.0; k], vec![0.0; k]);
    let pairs: Vec<_> = parts.iter().map(|&at| [part(p, k, at), part(q, k, at)]).collect();
    Cpu::new().dots(&pairs, &mut pq);
    let stepped: Vec<bool> = pq.iter().zip(step.floor).map(|(pq, floor)| pq > floor).collect();
    let alpha = |i: usize| stepped[i].then(|| T::from_f64(step.rz[i] / pq[i]));
    for (&at, [p, q]) in parts.iter().zip(pairs) {
        let targets = rows(x, k, at).into_iter().zip(rows(r, k, at)).zip(&mut rr).enumerate();
        each(targets, (k, at.1), |(i, ((x, r), rr))| {
            let alpha = alpha(i);
            let targets = x.chunks_mut(CHUNK).zip(r.chunks_mut(CHUNK));
            for ((x, r), (p, q)) in targets.zip(p.row(i).chunks(CHUNK).zip(q.row(i).chunks(CHUNK))) {
                // Not a step of length 0: p and q may be infinite.
                if let Some(alpha) = alpha {
                    for ((x, r), (p, q)) in x.iter_mut().zip(r.iter_mut()).zip(p.iter().zip(q)) {
                        *x += alpha * *p;
                        *r -= alpha * *q;
                    }
                }
                *rr += dot(r, r);
            }
        });
    }
    CgSums { rz: step.rz.to_vec(), stepped, pq, rr }
}

/// [`Backend::cg_turn`].
pub(super) fn cg_turn<T: Real>(
    sums: CgSums,
    parts: &[(usize, usize)],
    r: &Vec<T>,
    z: Option<&Vec<T>>,
    p: &mut Vec<T>,
) -> CgProducts {
    let CgSums { rz: before, stepped, pq, rr } = sums;
    let k = before.len();
    let mut rz = vec![0.0; k];
    match z {
        None => rz.copy_from_slice(&rr),
        Some(z) => {
            let pairs: Vec<_> = parts.iter().map(|&at| [part(r, k, at), part(z, k, at)]).collect();
            Cpu::new().dots(&pairs, &mut rz);
        }
    }
    let beta = |i: usize| stepped[i].then(|| T::from_f64(rz[i] / before[i]));
    let mut pp = vec![0.0; k];
    for &at in parts {
        let z = part(z.unwrap_or(r), k, at);
        each(rows(p, k, at).into_iter().zip(&mut pp).enumerate(), (k, at.1), |(i, (p, pp))| {
            let beta = beta(i);
            for (p, z) in p.chunks_mut(CHUNK).zip(z.row(i).chunks(CHUNK)) {
                match beta {
                    Some(beta) => p.iter_mut().zip(z).for_each(|(p, z)| *p = *z + beta * *p),
                    None => p.copy_from_slice(z),
                }
                *pp += dot(p, p);
            }
        });
    }
    CgProducts { pq, rr, rz, pp }
}

/// [`Backend::lissa_step`].
pub(super) fn lissa_step<T: Real>(
    (scale, k): (f64, usize),
    parts: &[(usize, usize)],
    [b, ax]: [&Vec<T>; 2],
    x: &mut Vec<T>,
    mut sum: Option<&mut Vec<T>>,
) -> Vec<f64> {
    let step = T::from_f64(1.0 / scale);
    let mut squares = vec![0.0; k];
    for &at in parts {
        let (b, ax) = (part(b, k, at), part(ax, k, at));
        let sums = match &mut sum {
            Some(sum) => rows(sum, k, at).into_iter().map(Some).collect(),
            None => (0..k).map(|_| None).collect::<Vec<_>>(),
        };
        let targets = rows(x, k, at).into_iter().zip(sums).zip(&mut squares).enumerate();
        each(targets, (k, at.1), |(i, ((x, mut sum), square))| {
            for (start, x) in (0..).step_by(CHUNK).zip(x.chunks_mut(CHUNK)) {
                let [b, ax] = [b.row(i), ax.row(i)].map(|row| &row[start..][..x.len()]);
                for (x, (b, ax)) in x.iter_mut().zip(b.iter().zip(ax)) {
                    *x = *x - step * *ax + step * *b;
                }
                if let Some(sum) = &mut sum {
                    sum[start..].iter_mut().zip(&*x).for_each(|(sum, x)| *sum += *x);
                }
                *square += dot(x, x);
            }
        });
    }
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A direction that is not finite makes no step: what was there stays, and the next direction is the residual.
    #[test]
    fn vectors_below_their_floor_stay() {
        let (p, q) = (vec![1.0, 2.0, f64::INFINITY, f64::NAN], vec![3.0, 4.0, 1.0, 1.0]);
        let (mut x, mut r) = (vec![0.5; 4], vec![0.25; 4]);
        let (parts, step) = ([(0, 2)], CgStep { rz: &[22.0, 1.0], floor: &[0.0, 0.0] });
        let sums = cg_step(step, &parts, [&p, &q], [&mut x, &mut r]);
        let mut turned = p.clone();
        let CgProducts { pq, rr, rz, pp } = cg_turn(sums, &parts, &r, None, &mut turned);
        assert_eq!((x, r), (vec![2.5, 4.5, 0.5, 0.5], vec![-5.75, -7.75, 0.25, 0.25]));
        assert_eq!((pq[0], rr[1]), (11.0, 0.125));
        assert_eq!(rz, rr);
        let beta = rr[0] / 22.0;
        assert_eq!(turned, [-5.75 + beta, -7.75 + beta * 2.0, 0.25, 0.25]);
        assert_eq!(pp[1], 0.125);
    }
}
