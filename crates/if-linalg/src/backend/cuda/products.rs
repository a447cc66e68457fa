//! Products of matrices by cuBLAS.

use std::ffi::c_void;

use cudarc::cublas::{result as blas, sys as blas_sys};

use super::{Cuda, CudaReal, Products};
use crate::{View, ViewMut};

impl<T: CudaReal> Cuda<T> {
    /// `c = alpha a b + beta c`, `count` times.
    pub(super) fn multiply(
        &self,
        products: Products,
        (count, steps): (usize, [usize; 3]),
        (alpha, beta): (f64, f64),
        [a, b]: [View<Self>; 2],
        c: ViewMut<Self>,
    ) {
        assert_eq!(a.cols, b.rows, "inner dimensions of a product differ");
        if count == 0 || c.rows == 0 || c.cols == 0 {
            return;
        }
        if a.cols == 0 {
            self.scale(count, steps[2], beta, c);
            return;
        }
        for (x, step) in [(&a, steps[0]), (&b, steps[1]), (&c.as_view(), steps[2])] {
            View { offset: x.offset + (count - 1) * step, ..*x }.check();
        }
        let number = |n: usize| i32::try_from(n).expect("a product has fewer rows and columns");
        // cuBLAS reads columns where we have rows: it multiplies the transposed matrices in the other order.
        let [(a_turned, a_stride), (b_turned, b_stride)] = [leading(&a), leading(&b)];
        let [a_step, b_step, c_step] = steps.map(|step| i64::try_from(step).expect("a buffer is shorter"));
        let (alpha, beta) = (T::from_f64(alpha), T::from_f64(beta));
        self.device.with_blas(|handle| {
            // SAFETY: all matrices lie inside their buffers, as checked above, `c` overlaps no other (it is borrowed
            // alone), and `alpha` and `beta` have the type that the arithmetic asks for.
            unsafe {
                blas::gemm_strided_batched_ex(
                    handle,
                    b_turned,
                    a_turned,
                    number(c.cols),
                    number(c.rows),
                    number(a.cols),
                    (&raw const alpha).cast(),
                    b.pointer(),
                    T::TYPE,
                    number(b_stride),
                    b_step,
                    a.pointer(),
                    T::TYPE,
                    number(a_stride),
                    a_step,
                    (&raw const beta).cast(),
                    c.as_view().pointer() as *mut c_void,
                    T::TYPE,
                    number(c.row_stride.max(c.cols)),
                    c_step,
                    number(count),
                    T::compute(products),
                    blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
                )
            }
        });
    }

    /// `c = beta c`: a product with nothing in between.
    fn scale(&self, count: usize, step: usize, beta: f64, c: ViewMut<Self>) {
        for i in 0..count {
            let target = ViewMut { buffer: &mut *c.buffer, offset: c.offset + i * step, ..c };
            let all = target.matrix();
            match beta {
                0.0 => launch!(self, "fill", self.each(all.len()), T::ZERO, all),
                _ => launch!(self, "axpby", self.each(all.len()), T::ZERO, all, T::from_f64(beta), all),
            }
        }
    }
}

/// How cuBLAS is to read the transposed matrix: as it lies or turned, and the distance between its lines.
fn leading<T: CudaReal>(x: &View<Cuda<T>>) -> (blas_sys::cublasOperation_t, usize) {
    use blas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
    if x.col_stride == 1 {
        (CUBLAS_OP_N, x.row_stride.max(x.cols))
    } else {
        assert!(x.row_stride == 1, "a factor of a product has rows or columns that lie together");
        (CUBLAS_OP_T, x.col_stride.max(x.rows))
    }
}
