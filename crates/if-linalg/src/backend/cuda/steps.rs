//! Steps of iterative solvers, each in one pass over its vectors. Coefficients of a step stay on the device.

use super::kernels::Matrix;
use super::{Cuda, CudaBuffer, CudaReal};
use crate::{CgProducts, CgStep, View};

/// Numbers of a row that one block of threads sums up. A constant: it fixes the order of summation.
const CHUNK: usize = 4096;

/// `r.z`, the floor, `p.q`, `r.r` with the new `r`, `r.z` with the new `z` and `p.p` with the new `p`, of `k` vectors
/// each.
pub struct CgSums {
    all: CudaBuffer<f64>,
    k: usize,
}

impl CgSums {
    fn at(&self, which: usize) -> u64 {
        self.all.at(which * self.k)
    }
}

/// Sums of the chunks of `k` vectors.
struct Partial {
    sums: CudaBuffer<f64>,
    /// Chunks of a vector.
    width: usize,
    k: usize,
}

pub(super) fn chunks(cols: usize) -> usize {
    cols.div_ceil(CHUNK)
}

/// Blocks for the chunks and rows of a matrix.
fn chunked(x: &Matrix) -> (u32, u32) {
    (chunks(x.cols as usize) as u32, x.rows.min(65_535) as u32)
}

impl<T: CudaReal> Cuda<T> {
    fn partial(&self, width: usize, k: usize) -> Partial {
        Partial { sums: self.allocate(k * width), width, k }
    }

    /// Where the chunks of `k` vectors go that consist of `parts`.
    fn partial_of(&self, parts: &[(usize, usize)], k: usize) -> Partial {
        self.partial(parts.iter().map(|(_, len)| chunks(*len)).sum(), k)
    }

    /// The sum of the chunks of each vector, on the device.
    fn sums(&self, partial: &Partial, out: u64) {
        let Partial { sums, width, k } = partial;
        launch!(self, "sum_partial", (*k as u32, 1), sums.at(0), *width as i64, out);
    }

    fn partial_dots(&self, pairs: &[[Matrix; 2]], partial: &Partial, out: u64) {
        let mut first = 0;
        for &[x, y] in pairs {
            let (grid, width) = (chunked(&x), partial.width as i64);
            launch!(self, "dots_partial", grid, x, y, CHUNK as i64, partial.sums.at(0), first, width);
            first += i64::from(grid.0);
        }
        self.sums(partial, out);
    }

    /// `<x_i, y_i>` for `k` vectors, of which each pair holds a part of `width` chunks in all, on the device.
    pub(super) fn pair_dots(&self, pairs: &[[Matrix; 2]], width: usize, k: usize) -> CudaBuffer<f64> {
        let out = self.allocate(k);
        self.partial_dots(pairs, &self.partial(width, k), out.at(0));
        out
    }

    /// [`Backend::cg_step`](crate::Backend::cg_step).
    pub(super) fn first_half(
        &self,
        step: CgStep,
        parts: &[(usize, usize)],
        [p, q]: [&CudaBuffer<T>; 2],
        [x, r]: [&mut CudaBuffer<T>; 2],
    ) -> CgSums {
        let k = step.rz.len();
        assert_eq!(step.floor.len(), k, "a floor for every vector");
        let sums = CgSums { all: self.allocate(6 * k), k };
        self.overwrite(&sums.all, 0, &[step.rz, step.floor].concat());
        let partial = self.partial_of(parts, k);
        let pairs: Vec<_> = parts.iter().map(|&at| [part(p, k, at), part(q, k, at)]).collect();
        self.partial_dots(&pairs, &partial, sums.at(2));
        let mut first = 0;
        for ([p, q], &at) in pairs.into_iter().zip(parts) {
            let (x, r, grid) = (part(x, k, at), part(r, k, at), chunked(&p));
            let (given, width) = (sums.at(0), partial.width as i64);
            launch!(
                self,
                "cg_update",
                grid,
                given,
                p,
                q,
                x,
                r,
                CHUNK as i64,
                partial.sums.at(0),
                first,
                width
            );
            first += i64::from(grid.0);
        }
        self.sums(&partial, sums.at(3));
        sums
    }

    /// [`Backend::cg_turn`](crate::Backend::cg_turn).
    pub(super) fn second_half(
        &self,
        sums: &CgSums,
        parts: &[(usize, usize)],
        r: &CudaBuffer<T>,
        z: Option<&CudaBuffer<T>>,
        p: &mut CudaBuffer<T>,
    ) -> CgProducts {
        let k = sums.k;
        let partial = self.partial_of(parts, k);
        if let Some(z) = z {
            let pairs: Vec<_> = parts.iter().map(|&at| [part(r, k, at), part(z, k, at)]).collect();
            self.partial_dots(&pairs, &partial, sums.at(4));
        }
        // Without a preconditioner `r.z` is `r.r`.
        let (given, rz) = (sums.at(0), sums.at(if z.is_some() { 4 } else { 3 }));
        let mut first = 0;
        for &at in parts {
            let (z, p) = (part(z.unwrap_or(r), k, at), part(p, k, at));
            let (grid, width) = (chunked(&p), partial.width as i64);
            launch!(self, "cg_direct", grid, given, rz, z, p, CHUNK as i64, partial.sums.at(0), first, width);
            first += i64::from(grid.0);
        }
        self.sums(&partial, sums.at(5));
        let mut host = vec![0.0; 4 * k];
        self.fetch(&sums.all, 2 * k, &mut host);
        let part = |which: usize| host[which * k..][..k].to_vec();
        CgProducts { pq: part(0), rr: part(1), rz: part(if z.is_some() { 2 } else { 1 }), pp: part(3) }
    }

    /// [`Backend::lissa_step`](crate::Backend::lissa_step).
    pub(super) fn add_residual(
        &self,
        (scale, k): (f64, usize),
        parts: &[(usize, usize)],
        [b, ax]: [&CudaBuffer<T>; 2],
        x: &mut CudaBuffer<T>,
        sum: Option<&mut CudaBuffer<T>>,
    ) -> Vec<f64> {
        let (partial, step) = (self.partial_of(parts, k), T::from_f64(1.0 / scale));
        let mut first = 0;
        for &at in parts {
            let [b, ax, x] = [b, ax, &*x].map(|buffer| part(buffer, k, at));
            // Never looked at where nothing is added up.
            let total = sum.as_deref().map_or(x, |sum| part(sum, k, at));
            let (adds, grid, width) = (i32::from(sum.is_some()), chunked(&x), partial.width as i64);
            let target = partial.sums.at(0);
            launch!(
                self,
                "lissa_step",
                grid,
                step,
                b,
                ax,
                x,
                adds,
                total,
                CHUNK as i64,
                target,
                first,
                width
            );
            first += i64::from(grid.0);
        }
        let (squares, mut host) = (self.allocate(k), vec![0.0; k]);
        self.sums(&partial, squares.at(0));
        self.fetch(&squares, 0, &mut host);
        host
    }
}

/// Part of `k` vectors in a buffer, one a row.
fn part<T: CudaReal>(buffer: &CudaBuffer<T>, k: usize, (start, len): (usize, usize)) -> Matrix {
    View::<Cuda<T>>::new(buffer, start, k, len).matrix()
}
