#![doc = include_str!("../README.md")]

mod array;
mod atomic;
mod bag_of_words;
mod csv;
mod element;
mod error;
mod examples;
mod idx;
mod input;
mod load;
mod npy;
mod npz;
mod pair_tokens;
mod registry;
mod source;
mod tensors;

pub use array::Array;
pub use atomic::AtomicFile;
pub use bag_of_words::BagOfWords;
pub use element::Element;
pub use error::DataError;
pub use examples::{Examples, Labels};
pub use idx::read_idx;
pub use load::{LoadOptions, load};
pub use npy::{NpyMatrix, NpyWriter, read_npy, write_npy};
pub use npz::{read_npz, read_npz_array, write_npz};
pub use pair_tokens::{hashed_pairs, pair_tokens};
pub use registry::{
    DatasetInfo, Location, RemoteFile, SplitInfo, Texts, checksum, datasets, load_texts, sha256_of,
    sha256_of_text,
};
pub use source::{Origin, Rows, Source};
pub use tensors::{read_tensors, write_tensors};

#[cfg(feature = "download")]
pub use registry::{FetchOptions, fetch};
