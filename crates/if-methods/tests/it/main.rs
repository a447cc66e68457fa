//! All integration tests in one program: the networks they instantiate are compiled once.

mod common;
mod damping_path;
mod fast_if;
mod fragility;
mod groups;
#[cfg(feature = "usearch")]
mod hnsw;
mod influence;
mod query_rank;
mod stages;
mod tracing;
