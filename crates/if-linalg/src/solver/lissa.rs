//! LiSSA: the Neumann series, every term from another batch of examples.
//!
//! Agarwal, Bullins, Hazan 2017; Koh and Liang 2017. With `A_t` the average over a batch of examples (l2 and damping
//! whole) and `s` the scale:
//!
//! ```text
//! x_0 = b / s        x_t = x_(t-1) + (b - A_t x_(t-1)) / s
//! ```
//!
//! `x_(t-1)` does not depend on the batch of step `t`, so the mean of `x_t` is the sum of `t + 1` terms of the Neumann
//! series of the full operator, [`Neumann`](super::Neumann), and tends to `A^-1 b`.
//!
//! Deviations:
//! 1. Damping is in the operator, in its units. The published recursion `X <- v + (1 - d) X - H_t X / s`, `x = X / s`
//!    damps by `s d` instead; [`PublishedLissa`] translates, and then all iterates are the same.
//! 2. The answer is the average of the last half of the iterates, over all repeats: the noise of a single iterate does
//!    not fall with the depth, that of the average does.
//! 3. The true residual of that average, with the full operator, decides. Where no depth is given, the depth doubles,
//!    and what was the whole becomes the half that is not averaged, until the residual is below the tolerance.
//! 4. While `0 <= A_t <= 2 s` no step can make `x_t` longer than `(t + 1) |b| / s`. An iterate of more than twice that
//!    shows that the scale is too small, or that a batch has negative curvature: all columns start again at twice the
//!    scale, and after some such attempts they end as `Diverged`, with NaN.
//! 5. Where they are not given, the batch is the smallest of 128, 256, ... whose largest eigenvalue, over some random
//!    batches, is at most twice that of the full operator, and the scale is 1.5 times that eigenvalue. From half of
//!    the examples on, all are taken: there is no noise then, and one repeat is as good as many.
//! 6. A Lanczos run on the full operator ends the solve at once where its smallest Ritz value is negative or cannot be
//!    told from zero.
//! 7. A batch holds no example twice; batches are drawn independently of each other. (FastIF cuts one permutation of the
//!    examples into the batches of all its devices.)

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::columns::Columns;
use super::{Prepared, Solver, definite_spectrum, failed};
use crate::{
    Backend, Block, ColumnReport, FiniteSumOperator, Layout, LinalgError, LinearOperator, Observer, Solution,
    Termination, lanczos_extremes, side_by_side,
};

/// The stochastic Neumann series. An operator that is no [`FiniteSumOperator`] is taken whole at every step.
///
/// Repeats are independent tasks: `repeats` of them keep as many processors busy, for a single right-hand side too
/// (FastIF's parallel variant, Guo et al. 2021), and on as many devices as the operator has
/// [replicas](FiniteSumOperator::replicas). Memory: three blocks of `repeats` times the right-hand sides.
///
/// The report names the scale, batch and repeats that were used in the end. Its columns count products in units of the
/// full operator, rounded up: a batch of `m` of `n` examples counts `m / n`, for every repeat, attempts at smaller
/// scales included. The spectral estimates belong to the preparation and are in no column's count.
#[derive(Clone, Debug, PartialEq)]
pub struct Lissa {
    /// True relative residual to reach, `|b - A x| <= tolerance |b|`.
    pub tolerance: f64,
    /// Steps; `None`: doubled from 64 until the residual is below the tolerance, to 16,384 at most.
    pub depth: Option<usize>,
    /// Independent recursions that are averaged.
    pub repeats: usize,
    /// `s`, in units of the operator; `None`: from a spectral estimate.
    pub scale: Option<f64>,
    /// Examples in a step; `None`: from a spectral estimate.
    pub batch: Option<usize>,
    /// Of the batches.
    pub seed: u64,
}

/// Settings as they are published, for the recursion of deviation 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedLissa {
    /// Where they are from.
    pub name: &'static str,
    /// `s`.
    pub scale: f64,
    /// `d`, which damps by `s d`.
    pub damping: f64,
    /// Steps.
    pub depth: usize,
    /// Examples in a step.
    pub batch: usize,
    /// Independent recursions that are averaged.
    pub repeats: usize,
}

impl PublishedLissa {
    /// Koh and Liang 2017, their code.
    pub const KOH_LIANG: Self =
        Self { name: "koh-liang", scale: 25.0, damping: 0.0, depth: 5000, batch: 1, repeats: 10 };
    /// FastIF, Guo et al. 2021, their code for MultiNLI. (That code also divides the answer by the depth, a constant
    /// factor that is not part of the translation; nor are the two steps that it takes beyond the depth.)
    pub const FASTIF_MNLI: Self =
        Self { name: "fastif-mnli", scale: 1e4, damping: 5e-3, depth: 1000, batch: 1, repeats: 1 };
    /// The same for HANS.
    pub const FASTIF_HANS: Self = Self { name: "fastif-hans", scale: 1e6, depth: 2000, ..Self::FASTIF_MNLI };
    /// The same for ANLI.
    pub const FASTIF_ANLI: Self = Self { name: "fastif-anli", scale: 1e6, depth: 1500, ..Self::FASTIF_MNLI };
    /// All of them.
    pub const ALL: [Self; 4] = [Self::KOH_LIANG, Self::FASTIF_MNLI, Self::FASTIF_HANS, Self::FASTIF_ANLI];

    /// What is added to the curvature: `scale * damping`. The operator that [`solver`](Self::solver) is prepared for
    /// must contain it.
    pub fn effective_damping(&self) -> f64 {
        self.scale * self.damping
    }

    /// The solver with the same iterates, on an operator damped by [`effective_damping`](Self::effective_damping).
    pub fn solver(&self, tolerance: f64, seed: u64) -> Lissa {
        let Self { scale, depth, batch, repeats, .. } = *self;
        Lissa { tolerance, depth: Some(depth), repeats, scale: Some(scale), batch: Some(batch), seed }
    }
}

/// Depth of the first check where none is given.
const FIRST_DEPTH: usize = 64;
/// Depth of the last check where none is given.
const MAX_DEPTH: usize = 16_384;
/// Examples in the smallest batch that is tried.
const FIRST_BATCH: usize = 128;
/// Examples whose curvature is looked at for every size of batch, in 4 to 64 batches.
const SAMPLED: usize = 512;
/// Products that estimate the largest eigenvalue of a batch.
const BATCH_STEPS: usize = 8;
/// How far the curvature of a batch may exceed that of the full operator.
const BATCH_CURVATURE: f64 = 2.0;
/// The scale over the largest eigenvalue of the batches looked at: others exceed it.
const SCALE_SAFETY: f64 = 1.5;
/// Iterates longer than this many times the bound of deviation 4 have grown.
const GROWN: f64 = 2.0;
/// Steps after which repeats meet.
const ROUND: usize = 64;
/// Times that the scale is doubled.
const BACK_OFFS: u32 = 10;

impl<B: Backend> Solver<B> for Lissa {
    fn name(&self) -> &'static str {
        "lissa"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        LinalgError::check("depth", self.depth != Some(0))?;
        LinalgError::check("repeats", self.repeats > 0)?;
        LinalgError::check("batch", self.batch != Some(0))?;
        LinalgError::check("scale", self.scale.is_none_or(|scale| scale > 0.0))?;
        let plan = definite_spectrum(operator, self.seed).map(|extremes| self.plan(operator, extremes));
        Ok(Box::new(PreparedLissa { settings: self.clone(), operator, plan }))
    }
}

impl Lissa {
    /// Chooses what is not given.
    fn plan<B: Backend>(&self, operator: &dyn LinearOperator<B>, eigenvalues: [f64; 2]) -> Plan {
        let whole =
            Plan { batch: None, repeats: 1, scale: self.scale.unwrap_or(eigenvalues[1]), eigenvalues };
        let Some(sum) = operator.as_finite_sum() else { return whole };
        let n = sum.examples();
        let mut batch = self.batch.unwrap_or(FIRST_BATCH);
        loop {
            let all = if self.batch.is_some() { batch >= n } else { batch >= n.div_ceil(2) };
            if all {
                return whole;
            }
            let chosen = |scale| Plan { batch: Some(batch), repeats: self.repeats, scale, eigenvalues };
            if let (Some(_), Some(scale)) = (self.batch, self.scale) {
                return chosen(scale);
            }
            let largest = self.largest_of_batches(sum, batch);
            if self.batch.is_some() || largest <= BATCH_CURVATURE * eigenvalues[1] {
                return chosen(self.scale.unwrap_or(SCALE_SAFETY * largest));
            }
            batch *= 2;
        }
    }

    /// The largest eigenvalue of some random batches.
    fn largest_of_batches<B: Backend>(&self, sum: &dyn FiniteSumOperator<B>, batch: usize) -> f64 {
        // From the other end than the streams of the repeats.
        let mut sampler = Sampler::new(self.seed, u64::MAX, sum.examples());
        let mut largest: f64 = 0.0;
        for _ in 0..(SAMPLED / batch).clamp(4, 64) {
            let operator = BatchOperator { sum, indices: sampler.draw(batch) };
            largest = largest.max(lanczos_extremes(&operator, BATCH_STEPS, self.seed)[1]);
        }
        largest
    }
}

/// How a recursion runs.
#[derive(Clone, Copy)]
struct Plan {
    /// Examples in a step; `None`: the whole operator.
    batch: Option<usize>,
    repeats: usize,
    scale: f64,
    /// Extreme Ritz values of the full operator.
    eigenvalues: [f64; 2],
}

/// Random batches, one after another.
struct Sampler {
    rng: ChaCha8Rng,
    order: Vec<usize>,
}

impl Sampler {
    fn new(seed: u64, stream: u64, n: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng, order: (0..n).collect() }
    }

    fn draw(&mut self, batch: usize) -> Vec<usize> {
        self.order.partial_shuffle(&mut self.rng, batch).0.to_vec()
    }
}

/// The average over one batch.
struct BatchOperator<'a, B: Backend> {
    sum: &'a dyn FiniteSumOperator<B>,
    indices: Vec<usize>,
}

impl<B: Backend> LinearOperator<B> for BatchOperator<'_, B> {
    fn backend(&self) -> &B {
        self.sum.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.sum.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        self.sum.apply_batch(&self.indices, x, y);
    }
}

struct PreparedLissa<'a, B: Backend> {
    settings: Lissa,
    operator: &'a dyn LinearOperator<B>,
    plan: Result<Plan, Termination>,
}

impl<B: Backend> Prepared<B> for PreparedLissa<'_, B> {
    fn solve(&self, b: &Block<B>, observer: &dyn Observer) -> Solution<B> {
        let Lissa { tolerance, .. } = self.settings;
        let mut plan = match self.plan {
            Ok(plan) => plan,
            Err(termination) => return failed("lissa", self.operator, b, termination, tolerance),
        };
        let columns = Columns::new(self.operator, b);
        let mut run =
            Run { settings: &self.settings, operator: self.operator, columns, steps: 0, read: 0, checks: 0 };
        for attempt in 0..=BACK_OFFS {
            plan.scale *= if attempt > 0 { 2.0 } else { 1.0 };
            if run.attempt(&plan, observer) {
                break;
            }
        }
        let nothing = run.columns.b();
        run.end(&plan, &nothing, vec![Some((Termination::Diverged, f64::NAN)); nothing.k()]);
        let Plan { batch, repeats, scale, .. } = plan;
        let batch = batch.map_or("all".into(), |batch| batch.to_string());
        let backed_off = match self.plan {
            Ok(first) if first.scale < scale => format!(" (backed off from {:.3e})", first.scale),
            _ => String::new(),
        };
        let name = format!("lissa, scale {scale:.3e}{backed_off}, batch {batch}, repeats {repeats}");
        run.columns.finish(name, tolerance)
    }
}

/// The columns of a solve, over all attempts.
struct Run<'a, B: Backend> {
    settings: &'a Lissa,
    operator: &'a dyn LinearOperator<B>,
    columns: Columns<'a, B>,
    /// Steps taken in all attempts, by the repeat that took most.
    steps: usize,
    /// Examples read in all attempts, by all repeats together.
    read: usize,
    /// Products that checked residuals.
    checks: usize,
}

impl<B: Backend> Run<'_, B> {
    /// Ends all columns, one way or another, unless the iterates grow: then `false`.
    fn attempt(&mut self, plan: &Plan, observer: &dyn Observer) -> bool {
        let mut walks = Walks::new(self.operator, plan, &self.columns, self.settings.seed);
        let mut depth = self.settings.depth.unwrap_or(FIRST_DEPTH);
        while self.columns.k() > 0 {
            let before = walks.steps();
            let stop = walks.advance(depth, observer);
            self.count(plan, &before, &walks.steps());
            let x = match stop {
                Some(Stop::Grown) => return false,
                Some(Stop::Cancelled) => walks.mean(|walk| &walk.x, 1),
                None => walks.mean(|walk| &walk.sum, depth - depth / 2),
            };
            let last = match stop {
                Some(_) => Some(Termination::Cancelled),
                None if self.settings.depth.is_some() || depth >= MAX_DEPTH => {
                    Some(Termination::DepthReached)
                }
                None => None,
            };
            let stay = self.check(plan, &x, last);
            walks.keep(&stay);
            depth *= 2;
        }
        true
    }

    /// Counts what the repeats did, from their steps `before` and `after`.
    fn count(&mut self, plan: &Plan, before: &[usize], after: &[usize]) {
        let taken = || before.iter().zip(after).map(|(before, after)| after - before);
        self.steps += taken().max().unwrap_or(0);
        self.read += taken().sum::<usize>() * plan.batch.unwrap_or(self.examples());
    }

    fn examples(&self) -> usize {
        self.operator.as_finite_sum().map_or(1, |sum| sum.examples())
    }

    /// Ends the columns that have converged, and with `last` all.
    fn check(&mut self, plan: &Plan, x: &Block<B>, last: Option<Termination>) -> Vec<usize> {
        let (_, residuals) = self.columns.residuals(x);
        self.checks += 1;
        let end = |residual: f64| match residual {
            r if !r.is_finite() => Some((Termination::NonFinite, r)),
            r if r <= self.settings.tolerance => Some((Termination::Converged, r)),
            r => last.map(|termination| (termination, r)),
        };
        let ends = residuals.into_iter().map(end).collect();
        self.end(plan, x, ends)
    }

    fn end(&mut self, plan: &Plan, x: &Block<B>, ends: Vec<Option<(Termination, f64)>>) -> Vec<usize> {
        let (iterations, products) = (self.steps, self.read.div_ceil(self.examples()) + self.checks);
        self.columns.end(x, ends, |_, (termination, residual)| ColumnReport {
            termination,
            iterations,
            products,
            residual,
            eigenvalues: Some(plan.eigenvalues),
        })
    }
}

/// Why a recursion stops before its depth; the greater one decides for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Cancelled,
    Grown,
}

/// The recursions of one attempt, one for each repeat, on the active columns.
struct Walks<'a, B: Backend> {
    plan: &'a Plan,
    /// Repeat `g` runs on device `g` modulo their number.
    places: Vec<Place<'a, B>>,
    b_norms: Vec<f64>,
    /// Each is locked by the one task that runs it.
    each: Vec<Mutex<Walk<B>>>,
}

/// The system on one device.
struct Place<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    b: Block<B>,
}

/// The recursion of one repeat.
struct Walk<B: Backend> {
    sampler: Sampler,
    /// The iterate, `b.k()` vectors.
    x: Block<B>,
    product: Block<B>,
    /// Of the iterates that are averaged.
    sum: Block<B>,
    steps: usize,
}

impl<'a, B: Backend> Walks<'a, B> {
    /// At `x_0 = b / s`.
    fn new(operator: &'a dyn LinearOperator<B>, plan: &'a Plan, columns: &Columns<B>, seed: u64) -> Self {
        let (b, sum) = (columns.b(), operator.as_finite_sum());
        let (b_norms, n) = (b.norms(), sum.map_or(0, |sum| sum.examples()));
        let replicas = sum.map_or(Vec::new(), |sum| sum.replicas());
        let others: Vec<_> = replicas
            .into_iter()
            .take(plan.repeats - 1)
            .map(|operator| Place { operator, b: b.to(operator.backend()) })
            .collect();
        let places: Vec<_> = [Place { operator, b }].into_iter().chain(others).collect();
        let walk = |g: usize| {
            let b = &places[g % places.len()].b;
            let zeros = Block::zeros(b.backend(), b.layout(), b.k());
            let mut x = zeros.clone();
            x.axpby(1.0 / plan.scale, b, 0.0);
            let sampler = Sampler::new(seed, g as u64, n);
            Mutex::new(Walk { sampler, x, product: zeros.clone(), sum: zeros, steps: 0 })
        };
        let each = (0..plan.repeats).map(walk).collect();
        Self { plan, places, b_norms, each }
    }

    /// Where repeat `g` runs.
    fn place(&self, g: usize) -> &Place<'a, B> {
        &self.places[g % self.places.len()]
    }

    /// Steps until `depth` of them are taken, the iterates of the last half added up.
    ///
    /// Repeats run as independent tasks, on as many processors as there are. They meet after every [`ROUND`] steps, so
    /// that one that grows soon ends all, always after the same steps.
    fn advance(&mut self, depth: usize, observer: &dyn Observer) -> Option<Stop> {
        let start = self.steps()[0];
        self.each.iter_mut().for_each(|walk| own(walk).sum.clear());
        for round in (start..depth).step_by(ROUND) {
            let to = depth.min(round + ROUND);
            // All repeats are about as far: one is enough to tell of.
            let run = |g: usize| {
                self.run(self.place(g), &mut lock(&self.each[g]), to, depth, |steps| {
                    if g == 0 {
                        observer.progress("LiSSA", steps, depth)
                    }
                    observer.cancelled()
                })
            };
            let devices = self.places.len().min(self.each.len());
            let stops = side_by_side(devices, |p| {
                let own = (self.each.len() - p).div_ceil(devices);
                self.places[p].b.backend().map(own, |i| run(p + i * devices))
            });
            if let Some(stop) = stops.into_iter().flatten().flatten().max() {
                return Some(stop);
            }
        }
        None
    }

    /// One repeat's steps until `to` of `depth` are taken, or until `cancelled`, which is told how many were.
    fn run(
        &self,
        place: &Place<B>,
        walk: &mut Walk<B>,
        to: usize,
        depth: usize,
        cancelled: impl Fn(usize) -> bool,
    ) -> Option<Stop> {
        while walk.steps < to {
            if cancelled(walk.steps) {
                return Some(Stop::Cancelled);
            }
            if !self.step(place, walk, depth) {
                return Some(Stop::Grown);
            }
        }
        None
    }

    /// One step; iterates of the last half of `depth` are added up. `false` where one is longer than contractions can
    /// make it, or not finite.
    fn step(&self, place: &Place<B>, walk: &mut Walk<B>, depth: usize) -> bool {
        let Walk { sampler, x, product, sum, steps } = walk;
        match (self.plan.batch, place.operator.as_finite_sum()) {
            (Some(batch), Some(sum)) => sum.apply_batch(&sampler.draw(batch), x, product),
            _ => place.operator.apply(x, product),
        }
        *steps += 1;
        let scale = self.plan.scale;
        let squares = x.lissa_step(scale, &place.b, product, (*steps > depth / 2).then_some(sum));
        let bound = GROWN * (*steps + 1) as f64 / scale;
        squares.iter().zip(&self.b_norms).all(|(square, b)| square.sqrt() <= bound * b)
    }

    /// Taken by each repeat.
    fn steps(&self) -> Vec<usize> {
        self.each.iter().map(|walk| lock(walk).steps).collect()
    }

    /// The mean over the repeats, in their order, of what each has of `count` iterates.
    fn mean(&self, of: impl Fn(&Walk<B>) -> &Block<B>, count: usize) -> Block<B> {
        let b = &self.places[0].b;
        let (mut mean, part) =
            (Block::zeros(b.backend(), b.layout(), b.k()), 1.0 / (self.each.len() * count) as f64);
        for (g, walk) in self.each.iter().enumerate() {
            let walk = lock(walk);
            if g % self.places.len() == 0 {
                mean.axpby(part, of(&walk), 1.0);
            } else {
                mean.axpby(part, &of(&walk).to(b.backend()), 1.0);
            }
        }
        mean
    }

    /// Goes on with the columns at `stay` only.
    fn keep(&mut self, stay: &[usize]) {
        if stay.len() == self.b_norms.len() {
            return;
        }
        for walk in &mut self.each {
            let Walk { x, product, sum, .. } = own(walk);
            [x, product, sum].into_iter().for_each(|block| *block = block.select(stay));
        }
        self.places.iter_mut().for_each(|place| place.b = place.b.select(stay));
        self.b_norms = self.places[0].b.norms();
    }
}

// A task that panics takes the whole solve with it.
fn lock<B: Backend>(walk: &Mutex<Walk<B>>) -> MutexGuard<'_, Walk<B>> {
    walk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn own<B: Backend>(walk: &mut Mutex<Walk<B>>) -> &mut Walk<B> {
    walk.get_mut().unwrap_or_else(PoisonError::into_inner)
}
