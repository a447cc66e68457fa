//! Every kernel of every device against the CPU in `f64`.

use if_linalg::testing::{Wide, check_backend};
use if_linalg::{Backend, Cpu};

test_on_devices!(f64: in_double);
test_on_devices!(f32: in_single);

fn in_double<B: Backend>(backend: &B) {
    check_backend(backend, 1e-14, 1e-14);
}

fn in_single<B: Backend>(backend: &B) {
    check_backend(backend, 1e-5, 1e-5);
}

/// The kit compares what it says, and the backends of the CPU are the reference to the bit.
#[test]
fn the_reference_is_itself() {
    check_backend(&Cpu::<f64>::new(), 0.0, 0.0);
    check_backend(&Wide::<f64>::new(), 0.0, 0.0);
    let single = std::panic::catch_unwind(|| check_backend(&Cpu::<f32>::new(), 1e-9, 1e-9));
    assert!(single.is_err(), "f32 is not f64");
}

#[cfg(feature = "cuda")]
mod cuda {
    use crate::devices::on_gpus;
    use if_linalg::testing::check_backend;
    use if_linalg::{Backend, Cuda, CudaError, CudaOptions, Products};

    /// Factors are rounded to 11 and 8 significant bits: by half a unit in the last place of each at most.
    #[test]
    fn narrow_products() {
        for (products, bound) in [(Products::Tf32, 1e-3), (Products::Bf16, 8e-3)] {
            on_gpus::<f32>(products, module_path!(), |cuda| check_backend(cuda, 1e-5, bound));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let options = CudaOptions { ordinal: 999, ..CudaOptions::default() };
        let error = Cuda::<f32>::new(&options).err().unwrap();
        use CudaError::{NoDevice, NoLibrary, OldDriver};
        assert!(matches!(error, NoLibrary { .. } | NoDevice { .. } | OldDriver { .. }));
        assert!(!error.to_string().contains('\n'));
    }

    /// A device whose memory is used up says so, and works again.
    #[test]
    fn memory_that_is_used_up_is_an_error() {
        on_gpus::<f32>(Products::Full, module_path!(), |cuda| {
            let bytes = 1usize << 50;
            let error = CudaError::catch(|| drop(cuda.zeros(bytes / 4))).err();
            assert_eq!(error, Some(CudaError::OutOfMemory { bytes: Some(bytes) }));
            assert_eq!(<Cuda<f32> as Backend>::len(&cuda.zeros(10)), 10);
        });
    }
}
