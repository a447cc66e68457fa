//! FastIF: influence of a few likely examples instead of all. Guo, Rajani, Hase, Bansal & Xiong 2021.
//!
//! ```text
//! candidates(q) = the K training examples nearest to q in the features of a layer
//! score(q, i)   = g_q^T A^-1 g_i                                  for i among them only
//! ```
//!
//! Deviations:
//! 1. Neighbours are exact ([`nearest`]), but for the rounding of the backend's products: distances are one matrix
//!    product, at these sizes faster than an index that approximates. Behind the feature `usearch` there is such an index too, `nearest_by_graph`.
//! 2. Any solver may find `A^-1 g_q`; the published settings of LiSSA are presets of it
//!    ([`PublishedLissa`](if_linalg::PublishedLissa)), whose damping is `scale * damping`.
//! 3. The query's gradient has no weight decay, as everywhere here.

use if_linalg::{Backend, Block, Observer, Real, SolveReport, View, ViewMut};
use if_models::{Inputs, Rows};

use crate::{Influence, MethodError, Ranked};

/// Queries whose distances are in memory at once, on each processor.
const SEARCHED: usize = 32;

/// The `count` rows of `train` that lie nearest to each row of `queries`, nearest first, by Euclidean distance; ties by
/// position. Both are features such as [`Network::layer_inputs`](if_models::Network::layer_inputs).
///
/// # Errors
/// A count of 0 or above the number of training examples, or features of another length.
pub fn nearest<B: Backend>(
    train: &Block<B>,
    queries: &Block<B>,
    count: usize,
) -> Result<Vec<Vec<usize>>, MethodError> {
    check_neighbours(train, queries, count)?;
    let (backend, n) = (train.backend(), train.k());
    // The nearer, the larger q.x - |x|^2 / 2: the query's own square is the same for all.
    let halves: Vec<B::Elem> =
        train.dots(train).iter().map(|square| B::Elem::from_f64(-0.5 * square)).collect();
    let halves = backend.upload(&halves);
    let parts = backend.map(queries.k().div_ceil(SEARCHED), |part| {
        let first = part * SEARCHED;
        let rows = SEARCHED.min(queries.k() - first);
        let mut nearness = backend.zeros(rows * n);
        let mut target = ViewMut::new(&mut nearness, 0, rows, n);
        backend.gather_rows(View::new(&halves, 0, 1, n), &vec![0; rows], target.reborrow());
        for s in 0..train.layout().segments().len() {
            let some = queries.segment(s).row_range(first, rows);
            backend.gemm(1.0, some, train.segment(s).t(), 1.0, target.reborrow());
        }
        backend.top_k(count, View::new(&nearness, 0, rows, n))
    });
    Ok(parts.concat())
}

/// What any search for neighbours expects.
pub(crate) fn check_neighbours<B: Backend>(
    train: &Block<B>,
    queries: &Block<B>,
    count: usize,
) -> Result<(), MethodError> {
    let n = train.k();
    if count == 0 || count > n {
        let expected = format!("from 1 to {n}, the number of training examples");
        return Err(MethodError::Setting { name: "candidates", expected, found: count.to_string() });
    }
    if train.layout().dim() != queries.layout().dim() {
        let expected = format!("features of length {}", train.layout().dim());
        let found = queries.layout().dim().to_string();
        return Err(MethodError::Setting { name: "features", expected, found });
    }
    Ok(())
}

/// Of the `top` strongest by all scores, the part that is among `candidates`, proponents and opponents apart: NaN where
/// there is none. `scores` are those of all training examples.
pub fn recall<T: Real>(scores: &[T], candidates: &[usize], top: usize) -> [f64; 2] {
    let crate::Extremes { proponents, opponents } = crate::Extremes::of(scores, top);
    [proponents, opponents].map(|strongest: Vec<Ranked>| {
        let found = strongest.iter().filter(|ranked| candidates.contains(&ranked.example)).count();
        found as f64 / strongest.len() as f64
    })
}

impl<B: Backend> Influence<'_, B> {
    /// Scores of each query against its `candidates` alone (positions of training examples, one list for each query):
    /// `take` gets the position of the query and its scores, in the order of its candidates. Returns the certificates.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop, or the first error of `take`.
    pub fn attribute_candidates<E: From<MethodError>>(
        &self,
        queries: &Inputs<B>,
        candidates: &[Vec<usize>],
        observer: &dyn Observer,
        mut take: impl FnMut(usize, Vec<f64>) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        assert_eq!(candidates.len(), queries.len(), "one list of candidates for each query");
        let network = self.risk.network();
        let measured = network.with_loss(self.measure);
        self.each_block(&measured, queries, "scoring candidates", observer, |first, _, solution| {
            let shares = self.penalty_shares(&solution.x);
            for (j, share) in shares.into_iter().enumerate() {
                let rows = Rows::Indices(&candidates[first + j]);
                let scores =
                    network.scores_at(self.risk.inputs(), self.theta, rows, &solution.x.select(&[j]));
                take(first + j, scores.iter().map(|score| score.to_f64() + share).collect())?;
            }
            Ok(())
        })
    }
}
