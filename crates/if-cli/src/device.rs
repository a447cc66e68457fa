//! The device of a command: opened once, before anything is computed or written.

#[cfg(feature = "cuda")]
use std::sync::atomic::{AtomicBool, Ordering};

use if_linalg::Cpu;
#[cfg(feature = "cuda")]
use if_linalg::{Backend, Cuda, CudaError, CudaOptions, CudaReal, Products};

use crate::args::{DeviceArgs, DeviceName, Precision};
use crate::console::Console;
use crate::error::Failure;

/// An open device that computes in one precision.
pub struct Device {
    /// What it is called in records, and in keys of what is kept.
    pub name: String,
    /// Its arithmetic.
    pub precision: Precision,
    /// What commands run on, by [`on_device!`] or [`in_double!`].
    pub backend: AnyBackend,
    /// Whether `--device auto` chose it, and leaves it where its memory is used up.
    pub automatic: bool,
}

/// The backends.
pub enum AnyBackend {
    /// The processor in single precision.
    CpuF32(Cpu<f32>),
    /// The processor in double precision.
    CpuF64(Cpu<f64>),
    /// A GPU in single precision.
    #[cfg(feature = "cuda")]
    CudaF32(Cuda<f32>),
    /// A GPU in double precision.
    #[cfg(feature = "cuda")]
    CudaF64(Cuda<f64>),
}

/// `on_device!(device, |backend| body)`: the result of `body` with whatever backend `device` has, or its failure.
macro_rules! on_device {
    ($device:expr, |$backend:ident| $body:expr) => {
        match &$device.backend {
            $crate::device::AnyBackend::CpuF32($backend) => $body,
            $crate::device::AnyBackend::CpuF64($backend) => $body,
            #[cfg(feature = "cuda")]
            $crate::device::AnyBackend::CudaF32($backend) => {
                $crate::device::caught($device.automatic, || $body)
            }
            #[cfg(feature = "cuda")]
            $crate::device::AnyBackend::CudaF64($backend) => {
                $crate::device::caught($device.automatic, || $body)
            }
        }
    };
}

/// The same for what is computed in double precision only, on a device that was opened so.
macro_rules! in_double {
    ($device:expr, |$backend:ident| $body:expr) => {
        match &$device.backend {
            $crate::device::AnyBackend::CpuF64($backend) => $body,
            #[cfg(feature = "cuda")]
            $crate::device::AnyBackend::CudaF64($backend) => {
                $crate::device::caught($device.automatic, || $body)
            }
            _ => unreachable!("the command opens its device in double precision"),
        }
    };
}

pub(crate) use {in_double, on_device};

/// The result of `body`, or what happened to the GPU under way, such as that its memory is used up.
#[cfg(feature = "cuda")]
pub fn caught<R>(automatic: bool, body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    CudaError::catch(body).unwrap_or_else(|error| match error {
        CudaError::OutOfMemory { .. } if automatic => Err(Failure::TooSmallGpu),
        other => Err(Failure::input(other.to_string())),
    })
}

/// Whether the memory of the GPU that `--device auto` chose was too small: then it chooses the processor.
#[cfg(feature = "cuda")]
static TOO_SMALL: AtomicBool = AtomicBool::new(false);

/// Runs `command`, and all of it once more on the processor where `--device auto` chose a GPU whose memory is too small,
/// which shows under way.
#[cfg(feature = "cuda")]
pub fn or_on_cpu<R>(console: &Console, command: impl Fn() -> Result<R, Failure>) -> Result<R, Failure> {
    match command() {
        Err(Failure::TooSmallGpu) => {
            TOO_SMALL.store(true, Ordering::Relaxed);
            console.note("--device auto: the GPU's memory is used up; beginning again on the cpu");
            command()
        }
        other => other,
    }
}

#[cfg(not(feature = "cuda"))]
pub fn or_on_cpu<R>(_: &Console, command: impl Fn() -> Result<R, Failure>) -> Result<R, Failure> {
    command()
}

impl Device {
    /// Opens what `--device` names.
    ///
    /// # Errors
    /// No such device, or a precision that it does not have.
    pub fn open(args: &DeviceArgs, precision: Precision, console: &Console) -> Result<Self, Failure> {
        let named = |numbers: &[usize]| {
            Self::cuda(numbers, precision)
                .map_err(|reason| Failure::input(format!("--device {}: {reason}", args.device)))
        };
        match &args.device {
            DeviceName::Cpu => Self::cpu(precision),
            DeviceName::Cuda(numbers) => named(numbers),
            DeviceName::AllCuda => named(&all_gpus()),
            #[cfg(feature = "cuda")]
            DeviceName::Auto if TOO_SMALL.load(Ordering::Relaxed) => Self::cpu(precision),
            DeviceName::Auto => match Self::cuda(&[0], precision) {
                Ok(device) => {
                    console.note(&format!("--device auto: {}", device.name));
                    Ok(Self { automatic: matches!(precision, Precision::F32 | Precision::F64), ..device })
                }
                Err(reason) => {
                    let device = Self::cpu(precision)?;
                    console.note(&format!("--device auto: cpu; no GPU can be used: {reason}"));
                    Ok(device)
                }
            },
        }
    }

    /// The same, where work is `kept` for one device alone: it goes on there or not at all.
    pub fn keeping(self, kept: bool) -> Self {
        Self { automatic: self.automatic && !kept, ..self }
    }

    fn cpu(precision: Precision) -> Result<Self, Failure> {
        let backend = match precision {
            Precision::F32 => AnyBackend::CpuF32(Cpu::new()),
            Precision::F64 => AnyBackend::CpuF64(Cpu::new()),
            Precision::Tf32 | Precision::Bf16 => {
                return Err(Failure::input(format!(
                    "--precision {precision}: expected --device cuda, found cpu, which knows f32 and f64"
                )));
            }
        };
        Ok(Self { name: "cpu".into(), precision, backend, automatic: false })
    }

    #[cfg(feature = "cuda")]
    fn cuda(numbers: &[usize], precision: Precision) -> Result<Self, CudaError> {
        let products = match precision {
            Precision::F32 | Precision::F64 => Products::Full,
            Precision::Tf32 => Products::Tf32,
            Precision::Bf16 => Products::Bf16,
        };
        let (name, backend) = match precision {
            Precision::F64 => {
                let (name, cuda) = opened(numbers, products)?;
                (name, AnyBackend::CudaF64(cuda))
            }
            _ => {
                let (name, cuda) = opened(numbers, products)?;
                (name, AnyBackend::CudaF32(cuda))
            }
        };
        Ok(Self { name, precision, backend, automatic: false })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_numbers: &[usize], _precision: Precision) -> Result<Self, &'static str> {
        Err("this program is built without CUDA: rebuild it with --features cuda")
    }
}

/// Numbers of all GPUs, the first where none is known: opening it says what is missing.
#[cfg(feature = "cuda")]
fn all_gpus() -> Vec<usize> {
    let count = if_linalg::cuda_devices().map_or(0, |devices| devices.len());
    (0..count.max(1)).collect()
}

#[cfg(not(feature = "cuda"))]
fn all_gpus() -> Vec<usize> {
    vec![0]
}

/// The first of some GPUs with the others beside it, and what it is called.
#[cfg(feature = "cuda")]
fn opened<T: CudaReal>(numbers: &[usize], products: Products) -> Result<(String, Cuda<T>), CudaError> {
    let open = |ordinal: &usize| {
        let cache = crate::source::cache_dir().map(|folder| folder.join("kernels"));
        Cuda::new(&CudaOptions { ordinal: *ordinal, cache, products })
    };
    let mut all = numbers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    // Several that are alike compute what one of them does, and go by its name.
    let mut names: Vec<String> = all.iter().map(Backend::describe).collect();
    names.dedup();
    let first = all.remove(0);
    Ok((names.join(" + "), first.with_peers(all)))
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use std::cell::RefCell;
    use std::panic::resume_unwind;

    use super::*;

    /// What a GPU does whose memory ends under way.
    fn without_memory() -> Result<(), Failure> {
        resume_unwind(Box::new(CudaError::OutOfMemory { bytes: None }))
    }

    #[test]
    fn auto_goes_back_to_the_cpu_where_cuda_memory_ends_under_way() {
        let args = DeviceArgs { device: DeviceName::Auto };
        let console = Console::default();
        let names = RefCell::new(Vec::new());
        or_on_cpu(&console, || {
            if names.borrow().is_empty() {
                names.borrow_mut().push("a GPU".to_owned());
                return caught(true, without_memory);
            }
            names.borrow_mut().push(Device::open(&args, Precision::F32, &console)?.name);
            Ok(())
        })
        .unwrap();
        assert_eq!(*names.borrow(), ["a GPU", "cpu"]);
    }

    #[test]
    fn a_cuda_device_that_was_named_is_not_left() {
        let failure = or_on_cpu(&Console::default(), || caught(false, without_memory)).unwrap_err();
        assert_eq!(
            failure.message(),
            "the GPU's memory is used up; use a smaller --memory-budget or --device cpu"
        );
        let other = || resume_unwind(Box::new(CudaError::Failed("misaligned address".into())));
        let failure = or_on_cpu(&Console::default(), || caught::<()>(true, other)).unwrap_err();
        assert_eq!(failure.message(), "CUDA failed: misaligned address");
    }
}
