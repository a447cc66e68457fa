//! Numbers of a file as a slice, without reading them first.

use std::any::TypeId;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::ops::Deref;
use std::slice;

use memmap2::Mmap;

use crate::Real;

/// Little-endian numbers of a file that is mapped into memory: the system reads a page when it is first touched, shares
/// it with all who map the file, and takes it back where memory is short.
///
/// The file must not be changed in place while it is mapped. A program that replaces it by a rename, as every output of
/// this one is written, does no harm: what is mapped lives on. One that writes into it changes numbers under the
/// reader's eyes, and one that truncates it ends the process by a signal (SIGBUS) at the next touch of what is gone.
pub struct Mapped<T> {
    map: Mmap,
    /// Byte of the first number.
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Real> Mapped<T> {
    /// `len` numbers of `file` from byte `start` on.
    ///
    /// # Errors
    /// A file that cannot be mapped or ends before, numbers that are not aligned, or a big-endian processor.
    ///
    /// # Panics
    /// If `T` is a [`Real`] of somebody else's.
    pub fn new(file: &File, start: usize, len: usize) -> Result<Self> {
        if cfg!(target_endian = "big") {
            let text = "a file of little-endian numbers cannot be mapped by a big-endian processor";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let known = [TypeId::of::<f32>(), TypeId::of::<f64>()];
        assert!(known.contains(&TypeId::of::<T>()), "any bits must be a number: expected f32 or f64");
        // SAFETY: the mapping is private to this struct and only read. It is sound while nobody changes the file in
        // place. That cannot be enforced: locks are advisory, and who writes into somebody else's file takes none. It is
        // a condition on the user, stated above; this program never writes into a file that has its name.
        let map = unsafe { Mmap::map(file)? };
        let end = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(start));
        if end.is_none_or(|end| end > map.len()) {
            let text = format!("expected {len} numbers from byte {start} on, found {} bytes", map.len());
            return Err(Error::new(ErrorKind::UnexpectedEof, text));
        }
        if !(map.as_ptr() as usize + start).is_multiple_of(align_of::<T>()) {
            let text =
                format!("expected numbers at a multiple of {} bytes, found byte {start}", align_of::<T>());
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        Ok(Self { map, start, len, element: PhantomData })
    }
}

impl<T: Real> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` checked that so many numbers lie within the mapping, and their alignment; the mapping lives as
        // long as `self`. `T` is `f32` or `f64`, as `new` checked too, and every pattern of bits is one.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(self.start).cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8]).unwrap();
        for value in [1.5f64, -0.0, f64::NAN] {
            file.write_all(&value.to_le_bytes()).unwrap();
        }
        let bits = |numbers: &[f64]| numbers.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let mapped = Mapped::<f64>::new(&file, 8, 3).unwrap();
        assert_eq!(bits(&mapped), bits(&[1.5, -0.0, f64::NAN]));
        assert_eq!(bits(&Mapped::<f64>::new(&file, 8, 2).unwrap()), bits(&[1.5, -0.0]));
        assert!(Mapped::<f64>::new(&file, 32, 0).unwrap().is_empty());
        let upper_half = f32::from_bits((1.5f64.to_bits() >> 32) as u32);
        assert_eq!(Mapped::<f32>::new(&file, 12, 1).unwrap()[0], upper_half);
    }

    #[test]
    fn what_is_not_there_or_not_aligned_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 32]).unwrap();
        let refused = |start, len| Mapped::<f64>::new(&file, start, len).err().unwrap().to_string();
        for (start, len) in [(0, 5), (8, 4), (40, 0), (0, usize::MAX), (usize::MAX, 1)] {
            let line = format!("expected {len} numbers from byte {start} on, found 32 bytes");
            assert_eq!(refused(start, len), line);
        }
        assert_eq!(refused(4, 3), "expected numbers at a multiple of 8 bytes, found byte 4");
        assert!(Mapped::<f32>::new(&file, 4, 3).is_ok());
        let open = File::open(std::env::temp_dir()).unwrap();
        assert!(Mapped::<f32>::new(&open, 0, 0).is_err(), "a folder");
    }
}
