//! Neighbours by a graph against the nearest of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use if_linalg::testing::random;
use if_linalg::{Block, Cpu, Layout, Observer};
use if_methods::{MethodError, nearest, nearest_by_graph};

use crate::common::Double;

const N: usize = 2000;
const DIM: usize = 16;
const QUERIES: usize = 50;

fn features(rows: usize, dim: usize, seed: u64) -> Block<Double> {
    let layout: Arc<Layout> = Layout::vector(dim);
    Block::from_f64(&Cpu::new(), &layout, &random(rows * dim, seed))
}

/// Catches: another metric, neighbours of another query, positions that are not those of the rows.
#[test]
fn nearly_all_of_the_nearest_are_found() {
    let (train, queries) = (features(N, DIM, 1), features(QUERIES, DIM, 2));
    for count in [10, 200] {
        let exact = nearest(&train, &queries, count).unwrap();
        let found = nearest_by_graph(&train, &queries, count, &()).unwrap();
        assert_eq!(found.len(), QUERIES);
        let hits: usize = exact
            .iter()
            .zip(&found)
            .map(|(exact, found)| exact.iter().filter(|i| found.contains(i)).count())
            .sum();
        let recall = hits as f64 / (QUERIES * count) as f64;
        assert!(recall > 0.9, "{recall} of {count}");
        // The farthest of 200 may be missed, the nearest is not.
        let first = exact.iter().zip(&found).filter(|(exact, found)| exact[0] == found[0]).count();
        assert!(first >= QUERIES - 1, "{first}");
    }
    // A row is its own neighbour, and no row is found twice.
    let own = nearest_by_graph(&train, &train, 3, &()).unwrap();
    let hits = own.iter().enumerate().filter(|(i, found)| found[0] == *i).count();
    assert!(hits as f64 > 0.99 * N as f64, "{hits}");
    assert!(own.iter().all(|found| found[0] != found[1] && found[1] != found[2] && found[0] != found[2]));
}

#[test]
fn the_same_features_give_the_same_neighbours() {
    let (train, queries) = (features(N, DIM, 1), features(QUERIES, DIM, 2));
    let found = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| nearest_by_graph(&train, &queries, 100, &()).unwrap())
    };
    let once = found(1);
    assert_eq!(once, found(1));
    assert_eq!(once, found(4));
}

#[test]
fn bad_settings_and_a_stop_end_the_search() {
    /// Stops at the second look.
    struct Once(AtomicUsize);
    impl Observer for Once {
        fn cancelled(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed) > 0
        }
    }
    let (train, queries) = (features(N, DIM, 1), features(2, DIM, 2));
    let stopped = nearest_by_graph(&train, &queries, 5, &Once(AtomicUsize::new(0)));
    assert_eq!(stopped, Err(MethodError::Cancelled));
    for (queries, count) in [(&queries, 0), (&queries, N + 1), (&features(2, 3, 2), 5)] {
        let exact = nearest(&train, queries, count).unwrap_err();
        assert_eq!(nearest_by_graph(&train, queries, count, &()).unwrap_err(), exact);
    }
}
