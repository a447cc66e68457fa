//! Approximate neighbours by a graph: hierarchical navigable small worlds, Malkov & Yashunin 2018, through `usearch`.
//!
//! For training sets so large that the product of all features with all queries is too much: a search visits some
//! thousands of examples, however many there are, but the graph has to be built first. How many of the nearest it finds
//! depends on the features; measure it against [`nearest`](crate::nearest) on some queries.

use if_linalg::{Backend, Block, Observer};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use crate::MethodError;
use crate::fast_if::check_neighbours;

/// Neighbours of an example in the graph, `M` of the paper.
const CONNECTIVITY: usize = 16;
/// Examples that are looked at when one is inserted, `efConstruction`.
const EXPANSION_ADD: usize = 128;
/// Examples that are looked at in a search, `ef`, over those asked for.
const EXPANSION_SEARCH: usize = 2;
/// Examples inserted between two looks at the observer.
const STRIDE: usize = 1024;

/// Like [`nearest`](crate::nearest), approximately: about the `count` nearest rows of `train` (`n` x dim) to each row of
/// `queries`, nearest first, in single precision. Seldom fewer than `count`.
///
/// Examples are inserted in their order, and all is done by one thread: the same features, the same neighbours.
///
/// # Errors
/// Those of [`nearest`](crate::nearest), [`MethodError::Cancelled`], and [`MethodError::Index`] where memory runs out.
pub fn nearest_by_graph<B: Backend>(
    train: &Block<B>,
    queries: &Block<B>,
    count: usize,
    observer: &dyn Observer,
) -> Result<Vec<Vec<usize>>, MethodError> {
    check_neighbours(train, queries, count)?;
    let (n, dim) = (train.k(), train.layout().dim());
    let index = Index::new(&IndexOptions {
        dimensions: dim,
        metric: MetricKind::L2sq,
        quantization: ScalarKind::F32,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH * count,
        multi: false,
    })
    .map_err(failed)?;
    index.reserve_capacity_and_threads(n, 1).map_err(failed)?;
    for (i, row) in rows(train).chunks_exact(dim).enumerate() {
        if i.is_multiple_of(STRIDE) {
            observer.progress("index", i, n);
            if observer.cancelled() {
                return Err(MethodError::Cancelled);
            }
        }
        index.add(i as u64, row).map_err(failed)?;
    }
    let near = |row: &[f32]| {
        let found = index.search(row, count).map_err(failed)?;
        Ok(found.keys.into_iter().map(|key| key as usize).collect())
    };
    rows(queries).chunks_exact(dim).map(near).collect()
}

/// All rows, one after another.
fn rows<B: Backend>(features: &Block<B>) -> Vec<f32> {
    features.to_f64().into_iter().map(|value| value as f32).collect()
}

fn failed(error: impl std::fmt::Display) -> MethodError {
    MethodError::Index(error.to_string())
}
