//! Reading binary files without believing them.
//!
//! A header may claim any size. [`Input`] knows the most bytes that its file can still yield, refuses
//! a larger claim before it allocates, and reports positions.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use crate::element::codec::Order;
use crate::{DataError, Element};

/// No deflate stream expands more than this: 258 bytes from two bits, and a little.
pub(crate) const MAX_DEFLATE_RATIO: u64 = 1032;

/// Decoded in pieces, so that the raw bytes of an array never lie beside its numbers.
const PIECE: usize = 1 << 18;

/// A stream of bytes from a file, or from an entry of an archive.
pub(crate) struct Input<R> {
    reader: R,
    path: PathBuf,
    /// Prefix of every position: empty, or the archive's entry.
    entry: String,
    position: u64,
    limit: u64,
}

/// Opens a plain or gzip-compressed file (told apart by its first bytes).
pub(crate) fn open(path: &Path) -> Result<Input<Box<dyn Read>>, DataError> {
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    let bytes = file.metadata().map_err(DataError::io(path, "open"))?.len();
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf().map_err(DataError::io(path, "read"))?;
    if start.starts_with(&[0x1f, 0x8b]) {
        let limit = bytes.saturating_mul(MAX_DEFLATE_RATIO);
        return Ok(Input::new(Box::new(MultiGzDecoder::new(reader)), path, "", limit));
    }
    Ok(Input::new(Box::new(reader), path, "", bytes))
}

impl<R: Read> Input<R> {
    /// A stream that yields at most `limit` bytes; `entry` names the part of `path` it comes from.
    pub fn new(reader: R, path: &Path, entry: &str, limit: u64) -> Self {
        let entry = if entry.is_empty() { String::new() } else { format!("entry {entry}, ") };
        Self { reader, path: path.to_owned(), entry, position: 0, limit }
    }

    /// Bytes that were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// An error at the current position.
    pub fn malformed(&self, expected: impl Into<String>, found: impl Into<String>) -> DataError {
        let at = format!("{}byte {}", self.entry, self.position);
        DataError::malformed(&self.path, at, expected, found)
    }

    /// Fills `buffer`, or says how much of `what` is missing.
    pub fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), DataError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                // Decompressors report a file that stops too early as an error.
                Ok(0) => break,
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(DataError::io(&self.path, "read")(e)),
                Ok(n) => filled += n,
            }
        }
        if filled < buffer.len() {
            let expected = format!("{} bytes of {what}", buffer.len());
            return Err(self.malformed(expected, format!("the end of the data after {filled}")));
        }
        self.position += filled as u64;
        Ok(())
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DataError> {
        let mut buffer = [0; N];
        self.fill(&mut buffer, what)?;
        Ok(buffer)
    }

    /// An array of `shape`, stored in row-major or (`fortran`) column-major order.
    pub fn array<T: Element>(
        &mut self,
        shape: &[u64],
        order: Order,
        fortran: bool,
    ) -> Result<ArrayD<T>, DataError> {
        let count = self.affordable::<T>(shape)?;
        let values = self.values(count, order)?;
        // Every length was multiplied into a count that fits, except beside a zero.
        let lengths: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&lengths).set_f(fortran), values)
            .map_err(|e| self.malformed("a shape that fits memory", format!("{shape:?} ({e})")))?;
        Ok(if fortran { array.as_standard_layout().into_owned() } else { array })
    }

    /// The number of elements of `shape`, if the stream can hold so many.
    pub fn affordable<T: Element>(&self, shape: &[u64]) -> Result<usize, DataError> {
        let left = self.limit.saturating_sub(self.position);
        let count = shape.iter().try_fold(1_u64, |product, &length| product.checked_mul(length));
        let bytes = count.and_then(|count| count.checked_mul(T::SIZE as u64));
        match (count, bytes) {
            (Some(count), Some(bytes)) if bytes <= left => Ok(count as usize),
            (_, bytes) => {
                let bytes = bytes.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string());
                let expected = format!("{bytes} bytes for the shape {shape:?}");
                Err(self.malformed(expected, format!("room for at most {left}")))
            }
        }
    }

    fn values<T: Element>(&mut self, count: usize, order: Order) -> Result<Vec<T>, DataError> {
        let mut values = Vec::new();
        if values.try_reserve_exact(count).is_err() {
            return Err(self.malformed("an array that fits memory", format!("{count} elements")));
        }
        let mut piece = vec![0; PIECE.min(count * T::SIZE)];
        while values.len() < count {
            let bytes = piece.len().min((count - values.len()) * T::SIZE);
            self.fill(&mut piece[..bytes], "data")?;
            values.extend(piece[..bytes].chunks_exact(T::SIZE).map(|b| T::decode(b, order)));
        }
        Ok(values)
    }

    /// Checks that nothing follows; this also makes decompressors verify their checksum.
    pub fn expect_end(&mut self) -> Result<(), DataError> {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.malformed("the end of the data", "more bytes")),
            Err(e) => Err(DataError::io(&self.path, "read")(e)),
        }
    }
}
