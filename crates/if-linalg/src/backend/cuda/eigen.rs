//! Eigenproblems of symmetric matrices by cuSOLVER, where it is installed.

use std::sync::{Mutex, PoisonError};

use cudarc::cusolver::result as cusolver;
use cudarc::cusolver::sys::{
    self, cublasFillMode_t::CUBLAS_FILL_MODE_UPPER as UPPER,
    cusolverEigMode_t::CUSOLVER_EIG_MODE_VECTOR as VECTORS,
};
use cudarc::driver::CudaStream;

use super::{Cuda, CudaBuffer, CudaReal};
use crate::SymmetricMatrix;

/// Below this order the host is done before the device is asked.
const SMALL: usize = 64;

/// A handle of cuSOLVER, destroyed with its last user.
pub(super) struct CuSolver(sys::cusolverDnHandle_t);

// SAFETY: the handle may be used from any thread, one at a time, which the mutex around it sees to.
unsafe impl Send for CuSolver {}

impl CuSolver {
    /// For work in `stream`; none where the library is not installed, or does not start.
    pub fn open(stream: &CudaStream) -> Option<Mutex<Self>> {
        // SAFETY: it only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let handle = Self(cusolver::dn_create().ok()?);
        // SAFETY: the handle was just made, and the stream lives as long as the device, whose field this becomes.
        unsafe { cusolver::dn_set_stream(handle.0, stream.cu_stream().cast()) }.ok()?;
        Some(Mutex::new(handle))
    }
}

impl Drop for CuSolver {
    fn drop(&mut self) {
        // SAFETY: it was made by `dn_create`, and this is the only place that destroys it.
        let _ = unsafe { cusolver::dn_destroy(self.0) };
    }
}

impl<T: CudaReal> Cuda<T> {
    /// Eigenvalues in rising order and eigenvectors one a row, in `f64` before vectors are rounded; none where the host has
    /// to find them. Results of cuSOLVER are the same bits each time, as its default is.
    pub(super) fn decompose(&self, a: &SymmetricMatrix) -> Option<(Vec<f64>, CudaBuffer<T>)> {
        let n = a.dim();
        assert!(a.is_finite(), "eigenvalues of what is not finite");
        if n < SMALL {
            return None;
        }
        let order = i32::try_from(n).ok()?;
        let handle = self.device.cusolver()?.lock().unwrap_or_else(PoisonError::into_inner);
        let vectors = self.send(a.as_slice());
        let (values, info) = (self.allocate::<f64>(n), self.allocate::<i32>(1));
        let (matrix, eigenvalues) = (vectors.at(0) as *mut f64, values.at(0) as *mut f64);
        let mut length = 0;
        // Columns as cuSOLVER reads and writes them are rows here; the matrix is symmetric.
        // SAFETY: the buffers hold as many numbers as the two calls ask for, and outlive the work, since they are freed in
        // the queue that it is in.
        unsafe {
            sys::cusolverDnDsyevd_bufferSize(
                handle.0,
                VECTORS,
                UPPER,
                order,
                matrix,
                order,
                eigenvalues,
                &mut length,
            )
            .result()
            .ok()?;
            let work = self.allocate::<f64>(length.max(1) as usize);
            sys::cusolverDnDsyevd(
                handle.0,
                VECTORS,
                UPPER,
                order,
                matrix,
                order,
                eigenvalues,
                work.at(0) as *mut f64,
                length,
                info.at(0) as *mut i32,
            )
            .result()
            .ok()?;
        }
        let mut failed = [0];
        self.fetch(&info, 0, &mut failed);
        if failed != [0] {
            return None;
        }
        let mut host = vec![0.0; n];
        self.fetch(&values, 0, &mut host);
        let rounded = self.allocate::<T>(n * n);
        launch!(self, "round_off", self.each(n * n), vectors.at(0), (n * n) as i64, rounded.at(0));
        Some((host, rounded))
    }
}
