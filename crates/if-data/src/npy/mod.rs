//! `.npy`, NumPy's format of one array.

mod header;
mod read;
mod write;

pub(crate) use read::read_from;
pub(crate) use write::write_to;

pub use read::{NpyMatrix, read_npy};
pub use write::{NpyWriter, write_npy};
