//! Reading `.npy`.

use std::io::Read;
use std::path::Path;

use super::header::Header;
use crate::element::codec::{Codec, Order};
use crate::input::{self, Input};
use crate::{Array, DataError, Element};

pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longer than any header of a plain array: 32 axes of 20 digits and the dictionary around them.
const MAX_HEADER: u32 = 4096;

const SUPPORTED: &str = "one of |u1 |i1 <i2 <i4 <i8 <u2 <u4 <f4 <f8";

/// Reads an `.npy` file (versions 1 to 3, row-major or column-major) into a row-major array.
///
/// # Errors
/// If the file cannot be read, is not npy, is big-endian or of another type than a plain number up to
/// 64 bits, is truncated, or is longer than its header says. Nothing is allocated because a header
/// says so.
pub fn read_npy(path: &Path) -> Result<Array, DataError> {
    read_from(&mut input::open(path)?)
}

/// Reads one `.npy` stream to its end.
pub(crate) fn read_from<R: Read>(input: &mut Input<R>) -> Result<Array, DataError> {
    let header = read_header(input)?;
    let array = match header.descr.as_str() {
        "|u1" | "<u1" => values::<u8, R>(input, &header),
        "|i1" | "<i1" => values::<i8, R>(input, &header),
        "<i2" => values::<i16, R>(input, &header),
        "<i4" => values::<i32, R>(input, &header),
        "<i8" => values::<i64, R>(input, &header),
        "<u2" => values::<u16, R>(input, &header),
        "<u4" => values::<u32, R>(input, &header),
        "<f4" => values::<f32, R>(input, &header),
        "<f8" => values::<f64, R>(input, &header),
        other => {
            let order = if other.starts_with('>') { " (big-endian)" } else { "" };
            Err(input.malformed(format!("an element type, {SUPPORTED}"), format!("{other:?}{order}")))
        }
    }?;
    input.expect_end()?;
    Ok(array)
}

fn read_header<R: Read>(input: &mut Input<R>) -> Result<Header, DataError> {
    let magic = input.bytes::<6>("npy magic")?;
    if &magic != MAGIC {
        return Err(
            input.malformed("the npy magic \\x93NUMPY", format!("{:?}", magic.escape_ascii().to_string()))
        );
    }
    let length = match input.bytes::<2>("npy version")? {
        [1, _] => u32::from(u16::from_le_bytes(input.bytes("header length")?)),
        [2 | 3, _] => u32::from_le_bytes(input.bytes("header length")?),
        [major, minor] => return Err(input.malformed("npy version 1, 2 or 3", format!("{major}.{minor}"))),
    };
    if length > MAX_HEADER {
        let expected = format!("a header of at most {MAX_HEADER} bytes");
        return Err(input.malformed(expected, format!("a claim of {length}")));
    }
    let mut text = vec![0; length as usize];
    input.fill(&mut text, "npy header")?;
    let parsed = std::str::from_utf8(&text).ok().and_then(Header::parse);
    parsed.ok_or_else(|| {
        let found = text.trim_ascii().escape_ascii().to_string();
        input.malformed("a header with descr, fortran_order and shape of a plain array", found)
    })
}

fn values<T: Element, R: Read>(input: &mut Input<R>, header: &Header) -> Result<Array, DataError> {
    Ok(<T as Codec>::wrap(input.array(&header.shape, Order::Little, header.fortran)?))
}
