//! Reading `.npy`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use if_linalg::{Mapped, Real};

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

/// An `.npy` matrix of `f32` or `f64` that is mapped into memory, so that it may be larger: row-major numbers of a file
/// that must not be changed in place meanwhile, see [`Mapped`].
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("x.npy");
/// if_data::write_npy(&path, ndarray::array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].view())?;
/// let matrix = if_data::NpyMatrix::<f64>::open(&path)?;
/// assert_eq!(matrix.shape(), [3, 2]);
/// assert_eq!(matrix.numbers()[2..4], [3.0, 4.0]);
/// # Ok(())
/// # }
/// ```
pub struct NpyMatrix<T> {
    numbers: Mapped<T>,
    shape: [usize; 2],
}

impl<T: Element + Real> NpyMatrix<T> {
    /// Opens the file, reads its header, and compares what that says with the length of the file.
    ///
    /// # Errors
    /// As [`read_npy`], and if the file is not a row-major matrix of `T`, is compressed, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path, "open"))?;
        let bytes = file.metadata().map_err(DataError::io(path, "open"))?.len();
        let mut input = Input::new(BufReader::new(&file), path, "", bytes);
        let Header { descr, fortran, shape } = read_header(&mut input)?;
        let ([rows, cols], true, false) = (&shape[..], descr == T::DESCR, fortran) else {
            let found = format!("{descr} of shape {shape:?}{}", if fortran { ", column-major" } else { "" });
            return Err(input.malformed(format!("a row-major matrix of {}", T::DESCR), found));
        };
        let (start, count) = (input.position(), input.affordable::<T>(&shape)?);
        if start + (count * T::SIZE) as u64 != bytes {
            return Err(input.malformed("the end of the data", "more bytes"));
        }
        let numbers = Mapped::new(&file, start as usize, count).map_err(DataError::io(path, "map"))?;
        // Their product fits, except beside a zero.
        Ok(Self { numbers, shape: [*rows as usize, *cols as usize] })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The numbers, row-major.
    pub fn numbers(&self) -> &[T] {
        &self.numbers
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
