//! idx, the format of MNIST: two zero bytes, a type code, the number of axes, the axes as big-endian
//! `u32`, then the numbers in row-major order, big-endian.

use std::path::Path;

use crate::element::codec::{Codec, Order};
use crate::input::{self, Input};
use crate::{Array, DataError, Element};

/// Reads an idx file, plain or gzip-compressed, of element type `u8`, `i8`, `i16`, `i32`, `f32` or `f64`.
///
/// # Errors
/// If the file cannot be read, is not idx, is truncated, or is longer than its header says.
pub fn read_idx(path: &Path) -> Result<Array, DataError> {
    let mut file = input::open(path)?;
    let [zero, zero_too, code, axes] = file.bytes("idx magic")?;
    if (zero, zero_too) != (0, 0) {
        let found = format!("{zero:02x} {zero_too:02x}");
        return Err(DataError::malformed(path, "byte 0", "the idx magic 00 00", found));
    }
    let mut shape = Vec::with_capacity(usize::from(axes));
    for _ in 0..axes {
        shape.push(u64::from(u32::from_be_bytes(file.bytes("idx axis")?)));
    }
    let array = match code {
        0x08 => values::<u8>(&mut file, &shape),
        0x09 => values::<i8>(&mut file, &shape),
        0x0b => values::<i16>(&mut file, &shape),
        0x0c => values::<i32>(&mut file, &shape),
        0x0d => values::<f32>(&mut file, &shape),
        0x0e => values::<f64>(&mut file, &shape),
        _ => {
            let expected = "an idx element type (08, 09, 0b, 0c, 0d or 0e)";
            return Err(DataError::malformed(path, "byte 2", expected, format!("{code:02x}")));
        }
    }?;
    file.expect_end()?;
    Ok(array)
}

fn values<T: Element>(file: &mut Input<impl std::io::Read>, shape: &[u64]) -> Result<Array, DataError> {
    Ok(<T as Codec>::wrap(file.array(shape, Order::Big, false)?))
}
