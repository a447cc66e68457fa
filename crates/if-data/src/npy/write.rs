//! Writing `.npy`: at once, or in pieces as they are computed.

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::path::Path;

use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::header;
use crate::registry::{Hash, sha256_of_stream};
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

/// Numbers of an array.
fn total(shape: &[usize]) -> usize {
    let total = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
    total.expect("the shape of an array that a program computes fits usize")
}

/// How many of `blocks` follow upon `header` in `file`, and their numbers.
fn whole_blocks<T: Element>(
    mut file: impl Read,
    header: &[u8],
    blocks: &[(usize, String)],
) -> io::Result<(usize, usize)> {
    let mut found = Vec::new();
    file.by_ref().take(header.len() as u64).read_to_end(&mut found)?;
    let (mut kept, mut written) = (0, 0);
    if found == header {
        for (numbers, sha256) in blocks {
            if sha256_of_stream(&mut file.by_ref().take((numbers * T::SIZE) as u64))? != *sha256 {
                break;
            }
            (kept, written) = (kept + 1, written + numbers);
        }
    }
    Ok((kept, written))
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
        let mut file = AtomicFile::create(path)?;
        file.write_all(&header::encode(T::DESCR, shape)).map_err(DataError::io(path, "write"))?;
        Ok(Self { file, written: 0, total: total(shape), element: PhantomData })
    }

    /// The same in `NAME.part`, which stays with its [blocks](Self::append_block) where the program is stopped. `blocks`
    /// are those that an earlier one appended, numbers and sha256 of each: the first of them that are still there are
    /// kept. Returns how many that is. Without any, a file is begun.
    ///
    /// # Errors
    /// As `create`, and where another process is writing the file.
    ///
    /// # Panics
    /// As `create`.
    pub fn resume(
        path: &Path,
        shape: &[usize],
        blocks: &[(usize, String)],
    ) -> Result<(Self, usize), DataError> {
        let (total, header) = (total(shape), header::encode(T::DESCR, shape));
        let mut file = AtomicFile::part(path)?;
        let error = || DataError::io(path, "write");
        let (kept, written) = whole_blocks::<T>(file.file(), &header, blocks).map_err(error())?;
        if kept == 0 {
            file.cut(0).and_then(|()| file.write_all(&header)).map_err(error())?;
        } else {
            file.cut((header.len() + written * T::SIZE) as u64).map_err(error())?;
            file.stay();
        }
        Ok((Self { file, written, total, element: PhantomData }, kept))
    }

    /// [`append`](Self::append) that hands the numbers to the operating system before it returns, and their sha256.
    ///
    /// # Errors
    /// As `append`.
    ///
    /// # Panics
    /// As `append`.
    pub fn append_block(&mut self, values: &[T]) -> Result<String, DataError> {
        self.append(values)?;
        self.file.flush().map_err(DataError::io(self.file.target(), "write"))?;
        self.file.stay();
        let mut hash = Hash::new();
        write_values(&mut hash, values.iter().copied())
            .map_err(DataError::io(self.file.target(), "write"))?;
        Ok(hash.hex())
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
