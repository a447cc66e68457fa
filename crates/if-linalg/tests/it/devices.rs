//! One test body, every device.

/// Makes tests of generic bodies `fn body<B: Backend<Elem = $real>>(backend: &B)`, one for each device: `body::cpu`,
/// `body::wide` and, with the feature `cuda`, `body::cuda` on every GPU of the machine.
macro_rules! test_on_devices {
    ($real:ident: $($body:ident),+ $(,)?) => {
        $(mod $body {
            #[test]
            fn cpu() {
                super::$body(&if_linalg::Cpu::<$real>::new());
            }

            #[test]
            fn wide() {
                super::$body(&if_linalg::testing::Wide::<$real>::new());
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn cuda() {
                crate::devices::on_gpus::<$real>(if_linalg::Products::Full, module_path!(), super::$body);
            }
        })+
    };
}

#[cfg(feature = "cuda")]
pub use gpus::on_gpus;

#[cfg(feature = "cuda")]
mod gpus {
    use std::any::Any;
    use std::sync::{Mutex, PoisonError};

    use if_linalg::{Backend, Cuda, CudaError, CudaOptions, CudaReal, Products, cuda_devices};

    /// Calls `check` with every GPU, one after another; where there is none, says that `test` is skipped and why.
    #[allow(clippy::print_stderr)]
    pub fn on_gpus<T: CudaReal>(products: Products, test: &str, check: impl Fn(&Cuda<T>)) {
        match opened(products) {
            Ok(gpus) => gpus.iter().for_each(|gpu| {
                CudaError::catch(|| check(gpu)).unwrap_or_else(|why| panic!("{}: {why}", gpu.describe()));
            }),
            Err(why) => eprintln!("{test} is skipped: {why}"),
        }
    }

    /// All GPUs, opened once in a program, since making their kernels takes seconds. An error says what is not
    /// installed; a GPU that is there and does not start is a failure of the test.
    fn opened<T: CudaReal>(products: Products) -> Result<Vec<Cuda<T>>, CudaError> {
        static OPENED: Mutex<Vec<(Products, Box<dyn Any + Send>)>> = Mutex::new(Vec::new());
        // A list of devices is whole whatever became of a thread that held the lock.
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(how, gpus): &(Products, Box<dyn Any + Send>)| {
            gpus.downcast_ref::<Vec<Cuda<T>>>().filter(|_| *how == products).cloned()
        };
        if let Some(gpus) = opened.iter().find_map(known) {
            return Ok(gpus);
        }
        let devices = cuda_devices()?;
        if devices.is_empty() {
            return Err(CudaError::NoDevice { ordinal: 0, devices });
        }
        let open = |ordinal: usize| match Cuda::new(&CudaOptions { ordinal, products, cache: None }) {
            Err(why) if !matches!(why, CudaError::NoLibrary { .. }) => panic!("{}: {why}", devices[ordinal]),
            opened => opened,
        };
        let gpus = (0..devices.len()).map(open).collect::<Result<Vec<Cuda<T>>, _>>()?;
        opened.push((products, Box::new(gpus.clone())));
        Ok(gpus)
    }
}
