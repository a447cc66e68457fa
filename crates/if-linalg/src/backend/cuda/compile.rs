//! Kernels from source to machine code: by NVRTC, for the device found, kept in a folder.

use std::ffi::{CStr, CString, c_char};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, process};

use cudarc::driver::DriverError;
use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::CudaError;

/// All kernels, one program.
const SOURCE: &str = concat!(
    include_str!("common.cuh"),
    include_str!("block.cu"),
    include_str!("network.cu"),
    include_str!("window.cu"),
    include_str!("convolution.cu"),
);

/// Machine code, or what the driver makes it of.
pub(super) enum Image {
    Cubin(Vec<u8>),
    Ptx(String),
}

/// A compiler for one kind of device.
pub(super) struct Compiler {
    version: (i32, i32),
    /// The newest architecture it knows that the device can run, and whether it is the device's own.
    architecture: i32,
    exact: bool,
}

impl Compiler {
    /// For compute capability `major.minor`, as the number `10 major + minor`.
    ///
    /// # Errors
    /// No NVRTC, or one that is too old for the device.
    pub fn new(capability: i32) -> Result<Self, CudaError> {
        // SAFETY: it only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoLibrary {
                library: "CUDA compiler",
                file: "libnvrtc.so.13 or .12",
                package: "the CUDA toolkit (or the Python wheel nvidia-cuda-nvrtc)",
            });
        }
        let (mut version, mut count) = ((0, 0), 0);
        // SAFETY: the library is there, and every pointer is to a variable of the right type; the list has as many
        // places as the library says it needs.
        let known = unsafe {
            check(sys::nvrtcVersion(&mut version.0, &mut version.1))?;
            check(sys::nvrtcGetNumSupportedArchs(&mut count))?;
            let mut known = vec![0; count.max(0) as usize];
            check(sys::nvrtcGetSupportedArchs(known.as_mut_ptr()))?;
            known
        };
        let usable = known.iter().copied().filter(|architecture| *architecture <= capability).max();
        let architecture = usable.ok_or_else(|| CudaError::Compiler {
            target: format!("sm_{capability}"),
            log: format!("NVRTC {}.{} knows no device so old", version.0, version.1),
        })?;
        Ok(Self { version, architecture, exact: architecture == capability })
    }

    /// The kernels for numbers of type `real`, from `cache` where they were compiled before.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn kernels(&self, real: &str, cache: Option<&Path>) -> Result<Image, CudaError> {
        let options = self.options(real);
        let kept = cache.map(|folder| self.kept(folder, &options));
        if let Some(image) = kept
            .as_deref()
            .and_then(|path| fs::read(path).ok())
            .and_then(whole)
            .and_then(|bytes| self.image(bytes))
        {
            return Ok(image);
        }
        let bytes = self.compile(&options)?;
        if let Some(path) = kept {
            // A folder that cannot be written costs the next start its seconds, no more.
            let _ = keep(&path, &bytes);
        }
        self.image(bytes).ok_or_else(|| CudaError::Failed("NVRTC returned no text".into()))
    }

    /// What to say where a driver of version `driver` (1000 times the major one) does not load the kernels.
    pub fn refused(&self, driver: i32, error: DriverError) -> CudaError {
        if driver / 1000 < self.version.0 {
            return CudaError::NewerCompiler { driver, compiler: self.version };
        }
        error.into()
    }

    /// Machine code for a device the compiler knows, else an intermediate form that the driver translates.
    fn options(&self, real: &str) -> Vec<String> {
        let kind = if self.exact { "sm" } else { "compute" };
        vec![
            format!("--gpu-architecture={kind}_{}", self.architecture),
            format!("-DREAL={real}"),
            "--std=c++17".into(),
        ]
    }

    fn image(&self, bytes: Vec<u8>) -> Option<Image> {
        if self.exact {
            return Some(Image::Cubin(bytes));
        }
        String::from_utf8(bytes).ok().map(Image::Ptx)
    }

    /// Where the result is kept, under a key of all it depends on.
    fn kept(&self, folder: &Path, options: &[String]) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(SOURCE);
        hash.update(format!("{options:?} {:?}", self.version));
        let name: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        folder.join(format!("{name}.{}", if self.exact { "cubin" } else { "ptx" }))
    }

    fn compile(&self, options: &[String]) -> Result<Vec<u8>, CudaError> {
        let source = CString::new(SOURCE).expect("kernels hold no zero byte");
        let program = Program(result::create_program(&source, Some(c"influence.cu")).map_err(failed)?);
        // SAFETY: the program was created above and is destroyed when it is dropped, not before.
        unsafe {
            if result::compile_program(program.0, options).is_err() {
                let log = result::get_program_log(program.0).map_err(failed)?;
                return Err(CudaError::Compiler { target: options[0].clone(), log: text(&log) });
            }
            if !self.exact {
                let ptx = result::get_ptx(program.0).map_err(failed)?;
                return Ok(text(&ptx).into_bytes());
            }
            let mut size = 0;
            check(sys::nvrtcGetCUBINSize(program.0, &mut size))?;
            let mut cubin = vec![0u8; size];
            check(sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()))?;
            Ok(cubin)
        }
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created by `create_program`, and this is the only place that destroys it.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Writes a whole file or none, whoever else writes it at the same time: a checksum, and what it is of.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static PARTS: AtomicUsize = AtomicUsize::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let number = PARTS.fetch_add(1, Ordering::Relaxed);
    let part = path.with_extension(format!("part{}-{number}", process::id()));
    let mut file = fs::File::create(&part)?;
    file.write_all(&Sha256::digest(bytes))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// What was kept, if it is whole: a driver would refuse anything else at every start.
fn whole(mut kept: Vec<u8>) -> Option<Vec<u8>> {
    let bytes = kept.split_off(kept.len().min(CHECKSUM));
    (*kept == *Sha256::digest(&bytes)).then_some(bytes)
}

/// Bytes of a checksum.
const CHECKSUM: usize = 32;

/// C text up to its end.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(
        |_| String::from_utf8_lossy(&bytes).into_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

fn check(result: sys::nvrtcResult) -> Result<(), CudaError> {
    result.result().map_err(failed)
}

fn failed(error: result::NvrtcError) -> CudaError {
    CudaError::Failed(format!("NVRTC reports {:?}", error.0))
}

#[cfg(test)]
mod tests {
    use super::super::kernels::KERNELS;
    use super::*;

    /// Where NVRTC is installed, with a GPU or without.
    #[test]
    fn kernels_compile_for_every_architecture_in_use() {
        std::thread::scope(|scope| {
            for capability in [75, 80, 90, 100] {
                scope.spawn(move || check_kernels(capability));
            }
        });
    }

    #[test]
    fn a_driver_older_than_the_compiler_is_named() {
        use cudarc::driver::sys::CUresult;
        let compiler = Compiler { version: (13, 0), architecture: 80, exact: true };
        let error = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let newer = CudaError::NewerCompiler { driver: 12_080, compiler: (13, 0) };
        assert_eq!(compiler.refused(12_080, error), newer);
        assert_eq!(compiler.refused(13_000, error), CudaError::OutOfMemory { bytes: None });
    }

    fn check_kernels(capability: i32) {
        let compiler = match Compiler::new(capability) {
            Ok(compiler) => compiler,
            Err(error) => return skip(&error.to_string()),
        };
        if !compiler.exact {
            return skip(&format!("this NVRTC knows no sm_{capability}"));
        }
        let folder = tempfile::tempdir().unwrap();
        for real in ["float", "double"] {
            let Ok(Image::Cubin(first)) = compiler.kernels(real, Some(folder.path())) else {
                panic!("{:?}", compiler.kernels(real, None).err())
            };
            for name in KERNELS {
                let found = first.windows(name.len()).any(|bytes| bytes == name.as_bytes());
                assert!(found, "no kernel {name}");
            }
            let Ok(Image::Cubin(kept)) = compiler.kernels(real, Some(folder.path())) else { panic!() };
            assert!(first == kept, "the kept file is another");
            // One that is cut short is made again; once is enough.
            if (capability, real) == (80, "float") {
                let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
                fs::write(&path, &fs::read(&path).unwrap()[..first.len() / 2]).unwrap();
                let Ok(Image::Cubin(again)) = compiler.kernels(real, Some(folder.path())) else { panic!() };
                assert!(first == again, "half a file is taken");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "one file for each type");
    }

    /// A device newer than the compiler gets an intermediate form.
    #[test]
    fn an_unknown_device_is_left_to_the_driver() {
        match Compiler::new(9_990) {
            Ok(compiler) => {
                assert!(!compiler.exact);
                assert!(
                    matches!(compiler.kernels("float", None), Ok(Image::Ptx(ptx)) if ptx.contains(".target"))
                );
            }
            Err(error) => skip(&error.to_string()),
        }
    }

    #[allow(clippy::print_stderr)]
    fn skip(why: &str) {
        eprintln!("skipped: {why}");
    }
}
