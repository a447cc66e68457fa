//! A GPU: its libraries, its memory, its queue of work.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, result};
use cudarc::nvrtc::Ptx;

use super::CudaError;
use super::compile::{Compiler, Image};
use super::eigen::CuSolver;
use super::error::expect;
use super::kernels::KERNELS;
use super::staging::{LARGE, Staging};

/// In which arithmetic matrices of `f32` are multiplied. Sums are `f32` always, and all else,
/// convolutions without patches among it, is `f32` as well;
/// `f64` knows [`Full`](Self::Full) only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// As they are.
    #[default]
    Full,
    /// Factors rounded to 10 bits of mantissa.
    Tf32,
    /// Factors rounded to 7 bits of mantissa.
    Bf16,
}

/// Which GPU, and how.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Its number, from 0 on.
    pub ordinal: usize,
    /// A folder where compiled kernels are kept; without one they are compiled at every start (seconds).
    pub cache: Option<PathBuf>,
    /// How matrices are multiplied.
    pub products: Products,
}

/// Names of the GPUs of this machine, in order.
///
/// # Errors
/// No driver, or one that is too old.
pub fn cuda_devices() -> Result<Vec<String>, CudaError> {
    // SAFETY: it only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoLibrary {
            library: "NVIDIA driver",
            file: "libcuda.so.1",
            package: "the driver of your GPU",
        });
    }
    let version = driver_version()?;
    if version < 12_000 {
        return Err(CudaError::OldDriver { version });
    }
    let count = match result::init().and_then(|()| result::device::get_count()) {
        Ok(count) => count,
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
        Err(error) => return Err(error.into()),
    };
    let name = |i| result::device::get(i).and_then(result::device::get_name);
    Ok((0..count).map(name).collect::<Result<_, _>>()?)
}

/// 1000 times the major version of CUDA that the driver supports, plus 10 times the minor one; the library is there.
fn driver_version() -> Result<i32, CudaError> {
    let mut version = 0;
    // SAFETY: this function is as old as CUDA itself, and the pointer is to an integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// What all buffers and clones of a backend share.
pub(super) struct Device {
    pub name: String,
    // Fields are dropped in this order: the context goes last.
    blas: Mutex<Blas>,
    /// Opened when it is first needed: loading it takes long.
    cusolver: OnceLock<Option<Mutex<CuSolver>>>,
    kernels: HashMap<&'static str, CudaFunction>,
    staging: Mutex<Staging>,
    pub stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Blocks of threads that fill the device.
    pub blocks: u32,
}

/// A handle of cuBLAS, destroyed with its last user.
struct Blas(blas_sys::cublasHandle_t);

// SAFETY: the handle may be used from any thread, one at a time, which the mutex around it sees to.
unsafe impl Send for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: it was created by `create_handle`, and this is the only place that destroys it.
        let _ = unsafe { blas::destroy_handle(self.0) };
    }
}

impl Device {
    /// Opens it and compiles the kernels for numbers of the C type `real`.
    pub fn open(options: &CudaOptions, real: &str) -> Result<Self, CudaError> {
        let devices = cuda_devices()?;
        let Some(name) = devices.get(options.ordinal).cloned() else {
            return Err(CudaError::NoDevice { ordinal: options.ordinal, devices });
        };
        // SAFETY: it only tries to load the library.
        if !unsafe { blas_sys::is_culib_present() } {
            return Err(CudaError::NoLibrary {
                library: "cuBLAS",
                file: "libcublas.so.13 or .12",
                package: "the CUDA toolkit (or the Python wheel nvidia-cublas)",
            });
        }
        let context = CudaContext::new(options.ordinal)?;
        if !context.has_async_alloc() {
            return Err(CudaError::Failed(format!("{name} has no memory pools")));
        }
        keep_freed_memory(&context)?;
        let stream = context.new_stream()?;
        let (major, minor) = context.compute_capability()?;
        let compiler = Compiler::new(10 * major + minor)?;
        let image = match compiler.kernels(real, options.cache.as_deref())? {
            Image::Cubin(bytes) => Ptx::from_binary(bytes),
            Image::Ptx(text) => Ptx::from_src(text),
        };
        let driver = driver_version()?;
        let module = context.load_module(image).map_err(|error| compiler.refused(driver, error))?;
        let kernels = functions(&module)?;
        let handle = Blas(blas::create_handle()?);
        // SAFETY: the handle and the stream both live as long as this device.
        unsafe { blas::set_stream(handle.0, stream.cu_stream().cast())? };
        let processors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let blocks = 16 * processors as u32;
        let staging = Mutex::new(Staging::new(&context)?);
        let (blas, cusolver) = (Mutex::new(handle), OnceLock::new());
        Ok(Self { name, blas, cusolver, kernels, staging, stream, context, blocks })
    }

    pub fn kernel(&self, name: &str) -> &CudaFunction {
        &self.kernels[name]
    }

    /// Memory for `bytes` bytes, with whatever is in it.
    pub fn allocate(&self, bytes: usize) -> sys::CUdeviceptr {
        self.allocate_in(&self.stream, bytes)
    }

    /// Memory with a copy of `host`, which may be changed at once.
    pub fn upload(&self, host: &[u8]) -> sys::CUdeviceptr {
        if host.len() < LARGE {
            let pointer = self.allocate(host.len());
            // SAFETY: the memory was just allocated, for so many bytes.
            unsafe { self.copy_in(pointer, host) };
            return pointer;
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        expect(staging.keep_pace(&self.stream));
        let pointer = self.allocate_in(staging.stream(), host.len());
        // SAFETY: the memory was just allocated in that queue, for so many bytes.
        expect(unsafe { staging.copy(host, pointer, &self.stream) });
        pointer
    }

    /// Queues a copy from the host. The driver takes pageable memory aside before it returns.
    ///
    /// # Safety
    /// From `to` on there are as many bytes.
    pub unsafe fn copy_in(&self, to: sys::CUdeviceptr, host: &[u8]) {
        self.bind();
        // SAFETY: as the caller promises.
        expect(unsafe { result::memcpy_htod_async(to, host, self.stream.cu_stream()) });
    }

    /// Fills `host` with what is at `from` when all that is in the queue is done.
    ///
    /// # Safety
    /// From `from` on there are as many bytes.
    pub unsafe fn fetch(&self, from: sys::CUdeviceptr, host: &mut [u8]) {
        self.bind();
        if host.len() < LARGE {
            // SAFETY: as the caller promises; the host waits before it looks.
            expect(unsafe { result::memcpy_dtoh_async(host, from, self.stream.cu_stream()) });
            self.wait();
        } else {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: as the caller promises.
            expect(unsafe { staging.fetch(from, host, &self.stream) });
        }
    }

    fn allocate_in(&self, stream: &CudaStream, bytes: usize) -> sys::CUdeviceptr {
        self.bind();
        // An empty buffer still has an address.
        // SAFETY: the stream is alive, and the memory is freed by `free` alone.
        let pointer = unsafe { result::malloc_async(stream.cu_stream(), bytes.max(1)) };
        pointer.unwrap_or_else(|error| match error.into() {
            CudaError::OutOfMemory { .. } => CudaError::OutOfMemory { bytes: Some(bytes) }.raise(),
            other => other.raise(),
        })
    }

    /// Gives memory back once all that is in the queue is done.
    ///
    /// # Safety
    /// `pointer` is from [`allocate`](Self::allocate), and nothing that is queued later uses it.
    pub unsafe fn free(&self, pointer: sys::CUdeviceptr) {
        // Where this fails the device has failed before, which was or will be reported by what waits for it.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: as the caller promises.
            let _ = unsafe { result::free_async(pointer, self.stream.cu_stream()) };
        }
    }

    /// Makes the device that of the calling thread.
    pub fn bind(&self) {
        expect(self.context.bind_to_thread());
    }

    /// Waits for all that is in the queue.
    fn wait(&self) {
        expect(self.stream.synchronize());
    }

    /// cuSOLVER, where it is installed, with the device that of the calling thread.
    pub fn cusolver(&self) -> Option<&Mutex<CuSolver>> {
        self.bind();
        self.cusolver.get_or_init(|| CuSolver::open(&self.stream)).as_ref()
    }

    /// Calls `f` with the handle of cuBLAS, which nobody else uses meanwhile.
    pub fn with_blas(&self, f: impl FnOnce(blas_sys::cublasHandle_t) -> Result<(), blas::CublasError>) {
        self.bind();
        expect(f(self.blas.lock().unwrap_or_else(PoisonError::into_inner).0));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The handles are destroyed on the device that they belong to, not on another that the thread used last.
        let _ = self.context.bind_to_thread();
    }
}

/// Has the driver keep what is freed for the next allocation, instead of returning it at every wait.
fn keep_freed_memory(context: &CudaContext) -> Result<(), CudaError> {
    let mut all = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is that of a living context, and the attribute is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut all).cast()).result()?;
    }
    Ok(())
}

fn functions(module: &Arc<CudaModule>) -> Result<HashMap<&'static str, CudaFunction>, CudaError> {
    KERNELS.iter().map(|name| Ok((*name, module.load_function(name)?))).collect()
}
