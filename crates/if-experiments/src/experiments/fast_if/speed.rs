//! What each part of FastIF saves, one query at a time: short runs of LiSSA, candidates alone, repeats in parallel.

use std::time::Instant;

use anyhow::ensure;
use if_linalg::{Block, Lissa, Prepared, Solver};
use if_methods::{Extremes, Influence, MethodError, Ranked, Scores, nearest, recall};
use if_models::{Curvature, EmpiricalRisk, Inputs, Network, RiskSettings};
use rayon::ThreadPool;

use super::{DAMPING, L2, SHARES, TOP, Trial, candidates_in, mean};
use crate::Context;
use crate::number::short;
use crate::result::{Metric, Table};
use crate::support::F64;

/// Queries, one after another.
pub(super) const QUERIES: usize = 5;
/// Depth, batch and repeats of the paper's reference runs, and of those in their place: four, as on its four GPUs.
const LONG: [usize; 3] = [1000, 128, 1];
const SHORT: [usize; 3] = [300, 10, 4];
/// The share of candidates that is named: a tenth.
const NAMED: usize = super::GATED;

/// One way to the scores of a query: seconds from the query to its scores, and what its strongest are worth. Both are
/// averages over queries.
#[derive(Clone, Copy, Default)]
struct Way {
    seconds: f64,
    /// Of the exact scores' strongest proponents and opponents, those among this way's own.
    recall: [f64; 2],
}

/// All of them, timed in turn for every query.
pub(super) struct Speed {
    /// Everything by long runs, and by short runs; on one thread.
    everything: [Way; 2],
    /// Candidates at every share, by short runs: on one thread, and on all.
    funnel: [[Way; SHARES.len()]; 2],
    /// Seconds of the short runs alone, on one thread and on all.
    solve: [f64; 2],
}

/// What all ways share.
struct Bench<'a> {
    context: &'a Context,
    model: (&'a Network<F64>, &'a Block<F64>),
    influences: [Influence<'a, F64>; 2],
    features: Block<F64>,
    one: ThreadPool,
}

impl Speed {
    /// Through all layers. `exact` are the scores of everything, for `queries` and more.
    pub(super) fn measure(
        context: &Context,
        (network, theta): (&Network<F64>, &Block<F64>),
        (train, queries): (&Inputs<F64>, &[Inputs<F64>]),
        exact: &Scores<f64>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let risk = EmpiricalRisk::new(network, train, RiskSettings::mean(L2))?;
        let operator = risk.operator(theta, Curvature::GaussNewton, DAMPING, 1 << 30);
        let prepare = |[depth, batch, repeats]: [usize; 3]| {
            let (depth, batch) = (Some(depth), Some(batch));
            Lissa { tolerance: 1e-12, depth, repeats, scale: None, batch, seed }.prepare(&operator)
        };
        let prepared: [Box<dyn Prepared<F64> + '_>; 2] = [prepare(LONG)?, prepare(SHORT)?];
        let influences = [0, 1].map(|way| Influence::new(&risk, theta, &*prepared[way]));
        let features = network.layer_inputs(train, theta, "3")?;
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        let bench = Bench { context, model: (network, theta), influences, features, one };
        let mut speed = Self { everything: Default::default(), funnel: Default::default(), solve: [0.0; 2] };
        for (q, query) in queries.iter().enumerate() {
            speed.add(&bench, query, exact.row(q))?;
        }
        Ok(speed)
    }

    /// Adds one query, every way one after another.
    fn add(&mut self, bench: &Bench, query: &Inputs<F64>, exact: &[f64]) -> anyhow::Result<()> {
        let part = 1.0 / QUERIES as f64;
        for (way, influence) in self.everything.iter_mut().zip(&bench.influences) {
            let (scores, seconds) = bench.timed(true, || bench.everything(influence, query))?;
            way.add(part, seconds, exact, &scores);
        }
        for (s, share) in SHARES.into_iter().enumerate() {
            let run = |single| bench.timed(single, || bench.funnel(query, candidates_in(share, exact.len())));
            let [(scores, slow), (same, fast)] = [run(true)?, run(false)?];
            ensure!(scores == same, "the number of threads changed a score");
            self.funnel[0][s].add(part, slow, exact, &scores);
            self.funnel[1][s].add(part, fast, exact, &same);
        }
        for (solve, single) in self.solve.iter_mut().zip([true, false]) {
            // Without a candidate worth the name: what is left is the solve.
            *solve += part * bench.timed(single, || bench.candidates(query, vec![0]))?.1;
        }
        Ok(())
    }
}

impl Way {
    fn add(&mut self, part: f64, seconds: f64, exact: &[f64], scores: &[f64]) {
        self.seconds += part * seconds;
        let own = Extremes::of(scores, TOP);
        let sides = [own.proponents, own.opponents];
        for (side, strongest) in sides.into_iter().enumerate() {
            let own: Vec<usize> = strongest.iter().map(|ranked: &Ranked| ranked.example).collect();
            self.recall[side] += part * recall(exact, &own, TOP)[side];
        }
    }
}

impl Bench<'_> {
    /// On a single thread, or on all.
    fn timed(
        &self,
        single: bool,
        task: impl Fn() -> anyhow::Result<Vec<f64>> + Send + Sync,
    ) -> anyhow::Result<(Vec<f64>, f64)> {
        let timed = || {
            let start = Instant::now();
            task().map(|scores| (scores, start.elapsed().as_secs_f64()))
        };
        if single { self.one.install(timed) } else { timed() }
    }

    fn everything(&self, influence: &Influence<F64>, query: &Inputs<F64>) -> anyhow::Result<Vec<f64>> {
        Ok(influence.scores(query, self.context)?.scores)
    }

    /// kNN, LiSSA and the scores of `count` candidates; 0 for all others.
    fn funnel(&self, query: &Inputs<F64>, count: usize) -> anyhow::Result<Vec<f64>> {
        let (network, theta) = self.model;
        let near = nearest(&self.features, &network.layer_inputs(query, theta, "3")?, count)?;
        self.candidates(query, near.into_iter().flatten().collect())
    }

    fn candidates(&self, query: &Inputs<F64>, candidates: Vec<usize>) -> anyhow::Result<Vec<f64>> {
        let mut scores = vec![0.0; self.features.k()];
        let lists = [candidates];
        self.influences[1].attribute_candidates(query, &lists, self.context, |_, own| {
            lists[0].iter().zip(own).for_each(|(&i, score)| scores[i] = score);
            Ok::<(), MethodError>(())
        })?;
        Ok(scores)
    }
}

/// Seconds by one value over those by another, of all seeds together.
fn ratio(trials: &[Trial], over: impl Fn(&Speed) -> f64, under: impl Fn(&Speed) -> f64) -> f64 {
    mean(trials, |trial| over(&trial.speed)) / mean(trials, |trial| under(&trial.speed))
}

/// The speed-up of the whole and of its parallel variant, beside the paper's.
pub(super) fn judge(trials: &[Trial]) -> Vec<Metric> {
    let long = |speed: &Speed| speed.everything[0].seconds;
    let reported = "about 80 (abstract), the parallel variant included: see the notes";
    let mut metrics = Vec::new();
    for (name, threads) in [("one thread", 0), ("all threads", 1)] {
        let funnel = ratio(trials, long, |speed| speed.funnel[threads][NAMED].seconds);
        let name =
            format!("one query at a time: funnel on {name} over everything by long runs, times as fast");
        metrics.push(Metric::new(name, funnel).reported_as(reported));
    }
    let parallel = ratio(trials, |speed| speed.solve[0], |speed| speed.solve[1]);
    metrics.push(Metric::new(
        "one query at a time: four repeats of LiSSA on all threads over one thread, times as fast",
        parallel,
    ));
    metrics
}

/// The full search against the funnel, for every share of candidates.
pub(super) fn table(trials: &[Trial]) -> Table {
    let long = mean(trials, |trial| trial.speed.everything[0].seconds);
    let row = |name: String, way: &dyn Fn(&Speed) -> Way| {
        let seconds = mean(trials, |trial| way(&trial.speed).seconds);
        let recall = |side: usize| short(mean(trials, |trial| way(&trial.speed).recall[side]));
        vec![name, short(1e3 * seconds), short(long / seconds), recall(0), recall(1)]
    };
    let [[depth, batch, _], [short_depth, short_batch, repeats]] = [LONG, SHORT];
    let mut rows = vec![
        row(format!("everything, LiSSA of depth {depth}, batch {batch}; one thread"), &|speed| {
            speed.everything[0]
        }),
        row(
            format!("everything, {repeats} repeats of depth {short_depth}, batch {short_batch}; one thread"),
            &|speed| speed.everything[1],
        ),
    ];
    for (t, threads) in ["one thread", "all threads"].into_iter().enumerate() {
        for (s, share) in SHARES.into_iter().enumerate() {
            let name = format!("nearest {} %, the same repeats; {threads}", 100.0 * share);
            rows.push(row(name, &|speed| speed.funnel[t][s]));
        }
    }
    let recall = |who: &str| format!("recall of the top {TOP} {who}");
    Table {
        title: "The full search against the funnel, all layers, one query at a time".into(),
        columns: [
            "scored".into(),
            "milliseconds a query".into(),
            "times as fast".into(),
            recall("proponents"),
            recall("opponents"),
        ]
        .into(),
        rows,
    }
}
