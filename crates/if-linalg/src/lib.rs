//! Numbers for influence functions.

mod host;
mod real;

pub use host::HostArray;
pub use real::Real;
