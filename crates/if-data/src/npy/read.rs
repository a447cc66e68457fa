//! Reading `.npy`.

use std::io::Read;
use std::marker::PhantomData;
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

/// An `.npy` matrix that is read a block of rows at a time, for those larger than memory.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("x.npy");
/// if_data::write_npy(&path, ndarray::array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].view())?;
/// let mut rows = if_data::NpyRows::<f64>::open(&path)?;
/// assert_eq!(rows.shape(), [3, 2]);
/// assert_eq!(rows.next(2)?, [1.0, 2.0, 3.0, 4.0]);
/// assert_eq!(rows.next(2)?, [5.0, 6.0]);
/// assert!(rows.next(2)?.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct NpyRows<T> {
    input: Input<Box<dyn Read>>,
    shape: [u64; 2],
    left: u64,
    element: PhantomData<T>,
}

impl<T: Element> NpyRows<T> {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// As [`read_npy`], and if the file is not a row-major matrix of `T`.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut input = input::open(path)?;
        let Header { descr, fortran, shape } = read_header(&mut input)?;
        match shape[..] {
            [rows, cols] if descr == T::DESCR && !fortran => {
                Ok(Self { input, shape: [rows, cols], left: rows, element: PhantomData })
            }
            _ => {
                let found =
                    format!("{descr} of shape {shape:?}{}", if fortran { ", column-major" } else { "" });
                Err(input.malformed(format!("a row-major matrix of {}", T::DESCR), found))
            }
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape.map(|length| usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The next rows, `count` or as many as there are: row-major, empty at the end.
    ///
    /// # Errors
    /// If the file cannot be read, is truncated, or is longer than its header says.
    pub fn next(&mut self, count: usize) -> Result<Vec<T>, DataError> {
        let rows = self.left.min(count as u64);
        let values = self.input.array(&[rows, self.shape[1]], Order::Little, false)?;
        self.left -= rows;
        if self.left == 0 {
            self.input.expect_end()?;
        }
        Ok(values.into_raw_vec_and_offset().0)
    }
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
