//! What can be wrong with a GPU.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cudarc::cublas::result::CublasError;
use cudarc::cublas::sys::cublasStatus_t;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Why a GPU cannot be used, or stopped being usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A library that is loaded at run time was not found.
    #[error("found no {library} ({file}); install {package}, or put its folder into LD_LIBRARY_PATH")]
    NoLibrary {
        /// What it is called.
        library: &'static str,
        /// The file that is looked for.
        file: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// The driver is too old for the interface that is used.
    #[error("the NVIDIA driver supports CUDA {}.{}, expected 12.0 or newer; update the driver", .version / 1000, .version % 1000 / 10)]
    OldDriver {
        /// As the driver reports it: 1000 times the major version plus 10 times the minor one.
        version: i32,
    },
    /// The driver does not load what a newer compiler made.
    #[error(
        "the NVIDIA driver supports CUDA {}.{} and does not load what NVRTC {}.{} compiles; update the driver, or install the \
         NVRTC and cuBLAS of CUDA {}",
        .driver / 1000, .driver % 1000 / 10, .compiler.0, .compiler.1, .driver / 1000
    )]
    NewerCompiler {
        /// As the driver reports it.
        driver: i32,
        /// Major and minor version of NVRTC.
        compiler: (i32, i32),
    },
    /// There is a driver, but no GPU, or not that one.
    #[error("there is no GPU {ordinal}; found {}", found(.devices))]
    NoDevice {
        /// The one asked for.
        ordinal: usize,
        /// Names of those that are there.
        devices: Vec<String>,
    },
    /// Device memory is used up.
    #[error(
        "the GPU's memory is used up{}; use a smaller --memory-budget or --device cpu", asked(*.bytes)
    )]
    OutOfMemory {
        /// What was asked for last, where it is known.
        bytes: Option<usize>,
    },
    /// A kernel does not compile: a defect of this program, or a compiler that is too old.
    #[error("the CUDA compiler (NVRTC) failed for {target}: {log}")]
    Compiler {
        /// Option for the device.
        target: String,
        /// What it says, first line.
        log: String,
    },
    /// Anything else the driver or cuBLAS reports.
    #[error("CUDA failed: {0}")]
    Failed(String),
}

fn asked(bytes: Option<usize>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(": no {bytes} bytes are left"))
}

fn found(devices: &[String]) -> String {
    match devices {
        [] => "none".into(),
        all => all.iter().enumerate().map(|(i, name)| format!("{i}: {name}")).collect::<Vec<_>>().join(", "),
    }
}

impl From<DriverError> for CudaError {
    fn from(error: DriverError) -> Self {
        match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory { bytes: None },
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<CublasError> for CudaError {
    fn from(error: CublasError) -> Self {
        match error.0 {
            cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => Self::OutOfMemory { bytes: None },
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl CudaError {
    /// The result of `f`, or the error of the device it computed on.
    ///
    /// Kernels return nothing, as on the CPU: a device that fails under way unwinds with its error.
    ///
    /// # Errors
    /// A device that failed; other panics go on.
    pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Self> {
        catch_unwind(AssertUnwindSafe(f)).or_else(|payload: Box<dyn Any + Send>| {
            match payload.downcast::<Self>() {
                Ok(error) => Err(*error),
                Err(other) => resume_unwind(other),
            }
        })
    }

    /// Leaves the computation, for [`catch`](Self::catch). No message is printed, as a panic would.
    pub(super) fn raise(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

/// The value, or the end of the computation.
pub(super) fn expect<T, E: Into<CudaError>>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| error.into().raise())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_under_way_is_caught_and_a_panic_is_not() {
        let error = CudaError::OutOfMemory { bytes: Some(7) };
        assert_eq!(CudaError::catch(|| -> () { error.clone().raise() }), Err(error));
        assert_eq!(CudaError::catch(|| 1), Ok(1));
        let other = catch_unwind(|| CudaError::catch(|| resume_unwind(Box::new("another"))).is_ok());
        assert!(other.is_err());
    }

    #[test]
    fn messages_name_what_is_missing_and_what_to_do() {
        let old = CudaError::OldDriver { version: 11_040 };
        assert_eq!(
            old.to_string(),
            "the NVIDIA driver supports CUDA 11.4, expected 12.0 or newer; update the driver"
        );
        let newer = CudaError::NewerCompiler { driver: 12_040, compiler: (13, 0) };
        assert_eq!(
            newer.to_string(),
            "the NVIDIA driver supports CUDA 12.4 and does not load what NVRTC 13.0 compiles; update the driver, or install \
             the NVRTC and cuBLAS of CUDA 12"
        );
        let none = CudaError::NoDevice { ordinal: 2, devices: vec!["A".into(), "B".into()] };
        assert_eq!(none.to_string(), "there is no GPU 2; found 0: A, 1: B");
        let memory = |bytes| CudaError::OutOfMemory { bytes }.to_string();
        let rest = "use a smaller --memory-budget or --device cpu";
        assert_eq!(memory(None), format!("the GPU's memory is used up; {rest}"));
        assert_eq!(memory(Some(7)), format!("the GPU's memory is used up: no 7 bytes are left; {rest}"));
    }
}
