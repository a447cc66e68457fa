//! An NVIDIA GPU: cuBLAS for products, cuSOLVER for eigenproblems, kernels of our own for the rest.
//!
//! All work goes into one queue (stream), in the order of the calls; only what returns numbers to the host waits for
//! it. Kernels sum in an order that shapes fix, cuBLAS does for one device and version: the same call gives the same
//! bits. Libraries are loaded at run time, so that a program built with this starts anywhere.

/// Threads of a block, where a kernel asks for no other number.
const THREADS: u32 = 256;

/// Queues a kernel: its name, blocks in the grid, threads and bytes of shared memory of a block where it asks for any,
/// arguments as common.cuh and its companions declare them.
macro_rules! launch {
    ($self:expr, $name:literal, $grid:expr, block: $block:expr, $($argument:expr),+) => {{
        let ((x, y), (threads, shared)) = ($grid, $block);
        if x > 0 && y > 0 {
            use cudarc::driver::{LaunchConfig, PushKernelArg};
            let device = &$self.device;
            let config =
                LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared };
            // SAFETY: arguments have the types and the order of the kernel's parameters; matrices lie inside their
            // buffers, which `matrix` checked; buffers outlive the kernel, since they are freed in the same queue.
            $crate::backend::cuda::expect(unsafe {
                device.stream.launch_builder(device.kernel($name))$(.arg(&$argument))+.launch(config)
            });
        }
    }};
    ($self:expr, $name:literal, $grid:expr, $($argument:expr),+) => {
        launch!($self, $name, $grid, block: ($crate::backend::cuda::THREADS, 0), $($argument),+)
    };
}

mod backend;
mod compile;
mod convolution;
mod device;
mod eigen;
mod error;
mod kernels;
mod products;
mod staging;
mod steps;

pub use device::{CudaOptions, Products, cuda_devices};
pub use error::CudaError;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::cublas::sys::{cublasComputeType_t as Compute, cudaDataType_t as Type};
use cudarc::driver::{DeviceRepr, sys};

use crate::{Real, View, ViewMut};
use device::Device;
use error::expect;
use kernels::Matrix;

/// `f32` or `f64`, as a GPU knows them.
pub trait CudaReal: Real + DeviceRepr {
    /// Its name in C.
    const C: &'static str;
    /// Its name in cuBLAS.
    const TYPE: Type;
    /// The arithmetic of a product, and of its factors `alpha` and `beta`, which have this type.
    fn compute(products: Products) -> Compute;
}

impl CudaReal for f32 {
    const C: &'static str = "float";
    const TYPE: Type = Type::CUDA_R_32F;

    fn compute(products: Products) -> Compute {
        match products {
            Products::Full => Compute::CUBLAS_COMPUTE_32F,
            Products::Tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            Products::Bf16 => Compute::CUBLAS_COMPUTE_32F_FAST_16BF,
        }
    }
}

impl CudaReal for f64 {
    const C: &'static str = "double";
    const TYPE: Type = Type::CUDA_R_64F;

    fn compute(_: Products) -> Compute {
        Compute::CUBLAS_COMPUTE_64F
    }
}

/// An NVIDIA GPU, computing in `T` (`f32` or `f64`).
///
/// A device that fails under way (its memory used up, say) unwinds; [`CudaError::catch`] turns that into an error.
#[derive(Clone)]
pub struct Cuda<T> {
    device: Arc<Device>,
    products: Products,
    peers: Arc<[Self]>,
    real: PhantomData<T>,
}

impl<T: CudaReal> Cuda<T> {
    /// Opens the device and makes its kernels ready.
    ///
    /// # Errors
    /// Whatever is missing: the driver, the GPU, NVRTC, cuBLAS; a driver that is too old.
    pub fn new(options: &CudaOptions) -> Result<Self, CudaError> {
        let device = Arc::new(Device::open(options, T::C)?);
        Ok(Self { device, products: options.products, peers: Arc::new([]), real: PhantomData })
    }

    /// The same GPU with others beside it, which take a share of work that is independent.
    pub fn with_peers(self, peers: Vec<Self>) -> Self {
        Self { peers: peers.into(), ..self }
    }

    /// Memory for `len` numbers, with whatever is in it.
    fn allocate<N>(&self, len: usize) -> CudaBuffer<N> {
        let pointer = self.device.allocate(len * size_of::<N>());
        CudaBuffer { device: self.device.clone(), pointer, len, real: PhantomData }
    }

    /// Host numbers on the device.
    fn send<N: DeviceRepr>(&self, host: &[N]) -> CudaBuffer<N> {
        let pointer = self.device.upload(bytes(host));
        CudaBuffer { device: self.device.clone(), pointer, len: host.len(), real: PhantomData }
    }

    /// Host numbers in place of those from `offset` on.
    fn overwrite<N: DeviceRepr>(&self, buffer: &CudaBuffer<N>, offset: usize, host: &[N]) {
        assert!(offset + host.len() <= buffer.len, "more numbers than the buffer holds");
        // SAFETY: the buffer holds so many numbers, as asserted.
        unsafe { self.device.copy_in(buffer.at(offset), bytes(host)) };
    }

    /// The first numbers of a buffer from `offset` on, as many as `host` holds, when all that is in the queue is done.
    fn fetch<N: DeviceRepr>(&self, from: &CudaBuffer<N>, offset: usize, host: &mut [N]) {
        assert!(offset + host.len() <= from.len, "more numbers than the buffer holds");
        // SAFETY: the slice is that many bytes long, and any bytes are numbers.
        let bytes = unsafe { std::slice::from_raw_parts_mut(host.as_mut_ptr().cast(), size_of_val(host)) };
        // SAFETY: the buffer holds so many numbers, as asserted.
        unsafe { self.device.fetch(from.at(offset), bytes) };
    }
}

/// Numbers as they lie in memory.
fn bytes<N: DeviceRepr>(numbers: &[N]) -> &[u8] {
    // SAFETY: the slice is that many bytes long, and numbers that a device takes have no padding between them.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Memory of a GPU.
pub struct CudaBuffer<N> {
    device: Arc<Device>,
    pointer: sys::CUdeviceptr,
    len: usize,
    real: PhantomData<N>,
}

impl<N> Drop for CudaBuffer<N> {
    fn drop(&mut self) {
        // SAFETY: the pointer is from `allocate`; what is queued before this call is done before the memory goes.
        unsafe { self.device.free(self.pointer) };
    }
}

impl<N> CudaBuffer<N> {
    fn at(&self, offset: usize) -> u64 {
        debug_assert!(offset <= self.len);
        self.pointer + (offset * size_of::<N>()) as u64
    }
}

impl<T: CudaReal> View<'_, Cuda<T>> {
    /// As a kernel takes it, with its reach checked.
    fn matrix(&self) -> Matrix {
        assert!(self.col_stride == 1 || self.cols <= 1, "only products take transposed matrices");
        self.check();
        let [rows, cols, stride] = [self.rows, self.cols, self.row_stride].map(|number| number as i64);
        Matrix { data: self.buffer.at(self.offset), rows, cols, stride }
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = self.offset + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.buffer.len, "a matrix reaches beyond its buffer");
        }
    }

    fn pointer(&self) -> *const c_void {
        self.buffer.at(self.offset) as *const c_void
    }
}

impl<T: CudaReal> ViewMut<'_, Cuda<T>> {
    fn matrix(&self) -> Matrix {
        self.as_view().matrix()
    }

    fn as_view(&self) -> View<'_, Cuda<T>> {
        let Self { offset, rows, cols, row_stride, .. } = *self;
        View { buffer: self.buffer, offset, rows, cols, row_stride, col_stride: 1 }
    }
}
