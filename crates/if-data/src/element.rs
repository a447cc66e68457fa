//! Number types as files store them.

use ndarray::ArrayD;

use crate::Array;

/// A number type that `.npy` files hold: `u8`, `i64`, `f32`, `f64`, and on reading also the other
/// integers up to 64 bits. Sealed.
pub trait Element: Copy + codec::Codec {
    /// NumPy's name of the type, such as `<f8`.
    const DESCR: &'static str;
}

pub(crate) mod codec {
    use super::{Array, ArrayD};

    /// Byte order of stored numbers.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Order {
        Little,
        Big,
    }

    /// How an element becomes bytes and back. Public in a private module: it seals `Element`.
    pub trait Codec: Sized {
        const SIZE: usize;

        /// Decodes exactly `SIZE` bytes.
        fn decode(bytes: &[u8], order: Order) -> Self;

        /// Appends `SIZE` little-endian bytes.
        fn encode(self, out: &mut Vec<u8>);

        /// The array that holds these values, integers other than `u8` widened to `i64`.
        fn wrap(values: ArrayD<Self>) -> Array;
    }
}

use codec::{Codec, Order};

macro_rules! element {
    ($type:ty, $descr:literal, $wrap:expr) => {
        impl Element for $type {
            const DESCR: &'static str = $descr;
        }

        impl Codec for $type {
            const SIZE: usize = size_of::<$type>();

            fn decode(bytes: &[u8], order: Order) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                match order {
                    Order::Little => <$type>::from_le_bytes(own),
                    Order::Big => <$type>::from_be_bytes(own),
                }
            }

            fn encode(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn wrap(values: ArrayD<Self>) -> Array {
                $wrap(values)
            }
        }
    };
}

macro_rules! widened {
    ($type:ty, $descr:literal) => {
        element!($type, $descr, |values: ArrayD<$type>| Array::I64(values.mapv(i64::from)));
    };
}

element!(u8, "|u1", Array::U8);
element!(i64, "<i8", Array::I64);
element!(f32, "<f4", Array::F32);
element!(f64, "<f8", Array::F64);
widened!(i8, "|i1");
widened!(i16, "<i2");
widened!(i32, "<i4");
widened!(u16, "<u2");
widened!(u32, "<u4");
