//! The crate from outside, on good files and on every kind of bad one.

mod support;

mod atomic;
mod csv;
#[cfg(feature = "download")]
mod download;
mod idx;
mod npy;
mod npz;
mod registry;
mod tensors;
