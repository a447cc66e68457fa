//! Writing `.npy`: at once, or in pieces as they are computed.

use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::Path;

use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::header;
use crate::{AtomicFile, DataError, Element};

/// Numbers are encoded in pieces of this many.
const PIECE: usize = 1 << 15;

/// Writes a row-major `.npy` file that appears whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_npy<T: Element, D: Dimension>(path: &Path, array: ArrayView<'_, T, D>) -> Result<(), DataError> {
    let mut file = AtomicFile::create(path)?;
    write_to(&mut file, array.into_dyn()).map_err(DataError::io(path, "write"))?;
    file.finish()
}

/// Writes the header and the numbers of one array.
pub(crate) fn write_to<T: Element>(out: &mut impl Write, array: ArrayViewD<'_, T>) -> io::Result<()> {
    out.write_all(&header::encode(T::DESCR, array.shape()))?;
    write_values(out, array.iter().copied())
}

fn write_values<T: Element>(out: &mut impl Write, values: impl Iterator<Item = T>) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE * T::SIZE);
    for value in values {
        value.encode(&mut piece);
        if piece.len() == PIECE * T::SIZE {
            out.write_all(&piece)?;
            piece.clear();
        }
    }
    out.write_all(&piece)
}

/// An `.npy` file of known shape whose numbers arrive in row-major order, block by block.
///
/// Create it before the long run: an unwritable output then fails in the first second. The file gets
/// its name in [`finish`](Self::finish); dropped before, nothing is left.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("scores.npy");
/// let mut scores = if_data::NpyWriter::<f64>::create(&path, &[2, 3])?;
/// scores.append(&[1.0, 2.0, 3.0])?;
/// scores.append(&[4.0, 5.0, 6.0])?;
/// scores.finish()?;
/// assert_eq!(if_data::read_npy(&path)?.shape(), [2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NpyWriter<T> {
    file: AtomicFile,
    written: usize,
    total: usize,
    element: PhantomData<T>,
}

impl<T: Element> NpyWriter<T> {
    /// Opens the file under a temporary name and writes the header.
    ///
    /// # Errors
    /// If the file cannot be created.
    ///
    /// # Panics
    /// If the product of `shape` does not fit `usize`.
    pub fn create(path: &Path, shape: &[usize]) -> Result<Self, DataError> {
        let total = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
        let total = total.expect("the shape of an array that a program computes fits usize");
        let mut file = AtomicFile::create(path)?;
        file.write_all(&header::encode(T::DESCR, shape)).map_err(DataError::io(path, "write"))?;
        Ok(Self { file, written: 0, total, element: PhantomData })
    }

    /// Writes the next numbers.
    ///
    /// # Errors
    /// If the disk is full.
    ///
    /// # Panics
    /// If they are more than the shape has room for.
    pub fn append(&mut self, values: &[T]) -> Result<(), DataError> {
        assert!(values.len() <= self.total - self.written, "more numbers than the shape has room for");
        write_values(&mut self.file, values.iter().copied())
            .map_err(DataError::io(self.file.target(), "write"))?;
        self.written += values.len();
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or the rename is refused.
    ///
    /// # Panics
    /// If numbers are missing.
    pub fn finish(self) -> Result<(), DataError> {
        assert_eq!(self.written, self.total, "numbers written, against what the shape promises");
        self.file.finish()
    }
}
