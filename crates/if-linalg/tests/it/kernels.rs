//! Every kernel of every device against the CPU in `f64`.

use if_linalg::Cpu;
use if_linalg::testing::check_backend;

#[test]
fn cpu() {
    check_backend(&Cpu::<f64>::new(), 0.0, 0.0);
    check_backend(&Cpu::<f32>::new(), 1e-6, 1e-6);
}

#[cfg(feature = "cuda")]
mod cuda {
    use if_linalg::testing::check_backend;
    use if_linalg::{Cuda, CudaError, CudaOptions, Products, cuda_devices};

    /// `test` on every GPU.
    fn on_devices(test: impl Fn(CudaOptions)) {
        match cuda_devices() {
            Ok(devices) if !devices.is_empty() => {
                (0..devices.len())
                    .for_each(|ordinal| test(CudaOptions { ordinal, ..CudaOptions::default() }));
            }
            Ok(_) => eprintln!("skipped: no GPU"),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn kernels() {
        on_devices(|options| {
            check_backend(&Cuda::<f64>::new(&options).unwrap(), 1e-14, 1e-14);
            check_backend(&Cuda::<f32>::new(&options).unwrap(), 1e-5, 1e-5);
        });
    }

    /// Factors are rounded to 11 and 8 significant bits: half a unit in the last place of each.
    #[test]
    fn narrow_products() {
        on_devices(|options| {
            for (products, bound) in [(Products::Tf32, 1e-3), (Products::Bf16, 8e-3)] {
                let options = CudaOptions { products, ..options.clone() };
                check_backend(&Cuda::<f32>::new(&options).unwrap(), 1e-5, bound);
            }
        });
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let options = CudaOptions { ordinal: 999, ..CudaOptions::default() };
        let error = Cuda::<f32>::new(&options).err().unwrap();
        assert!(matches!(
            error,
            CudaError::NoLibrary { .. } | CudaError::NoDevice { .. } | CudaError::OldDriver { .. }
        ));
        assert!(!error.to_string().contains('\n'));
    }

    /// A device whose memory is used up says so, and works again.
    #[test]
    fn memory_that_is_used_up_is_an_error() {
        use if_linalg::Backend;
        on_devices(|options| {
            let cuda = Cuda::<f32>::new(&options).unwrap();
            let bytes = 1usize << 50;
            let error = CudaError::catch(|| drop(cuda.zeros(bytes / 4))).err();
            assert_eq!(error, Some(CudaError::OutOfMemory { bytes }));
            assert_eq!(<Cuda<f32> as Backend>::len(&cuda.zeros(10)), 10);
        });
    }
}
