//! The spectrum of the curvature, and how the ranking of training examples depends on the damping.
//!
//! Systems that differ in their damping share a Krylov space (Frommer & Maass 1999; Golub & Meurant 2010,
//! chapter 4). So one Lanczos process per query, started at its gradient, solves for every damping `d`:
//!
//! ```text
//! A = C + l2 I,   A V = V T + beta_m v_(m+1) e_m^T,   v_1 = g_q / |g_q|
//! x(d) = |g_q| V y(d),   (T + d I) y(d) = e_1,   score(q, i; d) = x(d)^T g_i
//! |g_q - (A + d I) x(d)| / |g_q| = beta_m |e_m^T y(d)|
//! ```
//!
//! The spectrum comes from random starts, by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017;
//! Ghorbani, Krishnan & Xiao 2019).
//!
//! Deviations:
//! 1. The residual is not read off the identity, which rounding breaks, but recomputed: one product with
//!    the block of all `x(d)`.
//! 2. Scores are taken of the few `x(d)` and not of the many vectors of the basis: the same by linearity.
//! 3. `A + d I` is called indefinite as soon as the lowest Ritz value of any start, of queries too, is at
//!    or below `-d`.
//! 4. Random starts are [`PROBES`] vectors of signs, whose length does not vary.
//!
//! One query is in memory at a time: `steps` vectors of the basis and three for each damping.

use if_linalg::testing::random;
use if_linalg::{Backend, Block, Definiteness, Lanczos, LinearOperator, Observer, Real, Ritz, lanczos};
use if_models::{EmpiricalRisk, Inputs, Rows};
use serde::Serialize;

use crate::influence::against_train;
use crate::{Extremes, MethodError, Ranked, spearman};

/// Proponents that are compared between dampings.
pub const TOP: usize = 10;
/// Random starts for the spectrum.
const PROBES: u64 = 3;
/// Share of the top that neighbours on the path keep where a ranking is called stable.
const STABLE: f64 = 0.8;
/// The path begins at this multiple of the mean eigenvalue.
const BELOW_MEAN: f64 = 0.01;
/// It spans at most and at least these fractions of the largest eigenvalue.
const SPAN: [f64; 2] = [1e-6, 1e-2];

/// Where there is negative curvature, these multiples of the damping that it needs: less is all indefinite.
const NEAR_DEFINITE: [f64; 2] = [0.05, 10.0];

/// What Lanczos processes of `steps` steps tell of `A = C + l2 I`.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// Ritz values of all random starts in rising order; their weights together are 1, so that a sum of
    /// weights is a share of all eigenvalues.
    pub values: Vec<Ritz>,
    /// Lowest Ritz value of any start, queries included: the lowest eigenvalue or above it.
    pub lowest: f64,
    /// An eigenvalue lies within this distance of `lowest`.
    pub lowest_error: f64,
    /// Highest Ritz value of any random start: the highest eigenvalue or below it.
    pub highest: f64,
    /// Estimate of the mean eigenvalue, `trace / p`: the mean of `v^T A v` over the starts.
    pub mean: f64,
    /// Its standard error, from how far the few starts are apart.
    pub mean_error: f64,
}

impl Spectrum {
    /// The damping above which no negative curvature was seen: `max(0, -lowest)`. What was not seen can
    /// need as much as [`lowest_error`](Self::lowest_error) more, where the lowest value is settled.
    pub fn smallest_definite_damping(&self) -> f64 {
        (-self.lowest).max(0.0)
    }

    fn definite_at(&self, damping: f64) -> bool {
        self.lowest + damping > 0.0
    }

    /// Estimated share of the eigenvalues in `low..high`.
    pub fn share(&self, low: f64, high: f64) -> f64 {
        self.values.iter().filter(|r| low <= r.value && r.value < high).map(|r| r.weight).sum()
    }

    /// Density of the eigenvalues at `at`, every Ritz value spread by a Gaussian of standard deviation
    /// `width`.
    pub fn density(&self, at: f64, width: f64) -> f64 {
        let peak = 1.0 / (width * std::f64::consts::TAU.sqrt());
        let spread = |r: &Ritz| r.weight * peak * (-0.5 * ((at - r.value) / width).powi(2)).exp();
        self.values.iter().map(spread).sum()
    }

    /// The dampings of a path around these eigenvalues: 0, and 1 and 3 times every power of ten from a
    /// hundredth of the mean eigenvalue to the largest; around the smallest definite damping where that is
    /// not 0.
    fn dampings(&self) -> Vec<f64> {
        let high = self.highest.abs().max(self.lowest.abs());
        let low = (BELOW_MEAN * self.mean).clamp(SPAN[0] * high, SPAN[1] * high);
        let definite = self.smallest_definite_damping();
        let (low, high) = (low.max(NEAR_DEFINITE[0] * definite), high.max(NEAR_DEFINITE[1] * definite));
        let mut dampings = vec![0.0];
        if high > 0.0 {
            let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
            // Read from text: powers of ten are off by a rounding.
            let round = exponents.flat_map(|e| [format!("1e{e}"), format!("3e{e}")]);
            let round = round.filter_map(|text| text.parse::<f64>().ok());
            dampings.extend(round.filter(|d| (low..=high).contains(d)));
        }
        dampings
    }
}

/// What is known of one query at one damping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointStatus {
    /// Solved to the tolerance.
    Resolved,
    /// Not solved to the tolerance in these steps: the ranking may be another one. More steps help.
    Unresolved,
    /// `A + d I` is not positive definite: there is no ranking.
    Indefinite,
}

/// One query at one damping.
#[derive(Clone, Debug)]
pub struct PathPoint {
    /// Whether the rest means anything.
    pub status: PointStatus,
    /// True relative residual (NaN where indefinite).
    pub residual: f64,
    /// The [`TOP`] strongest proponents; fewer where fewer scores are above 0, none where indefinite.
    pub top: Vec<Ranked>,
    /// Share of `top` that is among the top at the reference damping too. `None` where one of the two is
    /// not resolved, or both are empty.
    pub overlap_with_reference: Option<f64>,
    /// The same for the next damping of the path.
    pub overlap_with_next: Option<f64>,
    /// Spearman's correlation of all scores with those at the next damping.
    pub spearman_with_next: Option<f64>,
}

/// One query along the path.
#[derive(Clone, Debug)]
pub struct QueryPath {
    /// `|g_q|`; where it is 0 all scores are.
    pub gradient_norm: f64,
    /// One for each damping.
    pub points: Vec<PathPoint>,
}

/// The spectrum and the paths of all queries.
#[derive(Clone, Debug)]
pub struct DampingReport {
    /// Of the curvature without damping.
    pub spectrum: Spectrum,
    /// Rising.
    pub dampings: Vec<f64>,
    /// Position of the damping that all others are compared with: the one asked for, else the recommended
    /// one, else the smallest at which everything is resolved.
    pub reference: Option<usize>,
    /// Position of the smallest damping at which every query is resolved and its top stays the same but
    /// for two in ten, on average over the queries, at the neighbouring dampings.
    pub recommended: Option<usize>,
    /// One for each query.
    pub queries: Vec<QueryPath>,
}

impl DampingReport {
    /// Mean and smallest of `value` over the queries that have one at damping `i`.
    pub fn over_queries(&self, i: usize, value: impl Fn(&PathPoint) -> Option<f64>) -> Option<(f64, f64)> {
        let known: Vec<f64> = self.queries.iter().filter_map(|query| value(&query.points[i])).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        (!known.is_empty()).then(|| (mean, known.iter().copied().fold(f64::INFINITY, f64::min)))
    }

    /// How well damping `i` is solved: as its worst query, indefinite where any is.
    pub fn status(&self, i: usize) -> PointStatus {
        let any = |status| self.queries.iter().any(|query| query.points[i].status == status);
        [PointStatus::Indefinite, PointStatus::Unresolved]
            .into_iter()
            .find(|status| any(*status))
            .unwrap_or(PointStatus::Resolved)
    }

    fn recommend(&self) -> Option<usize> {
        let kept = |i: usize| self.over_queries(i, |point| point.overlap_with_next).map(|(mean, _)| mean);
        let stable = |i: &usize| {
            let neighbours = [i.checked_sub(1).and_then(kept), kept(*i)];
            self.status(*i) == PointStatus::Resolved
                && neighbours.iter().any(Option::is_some)
                && neighbours.iter().flatten().all(|overlap| *overlap >= STABLE)
        };
        (0..self.dampings.len()).find(stable)
    }

    /// Fills in what is said relative to the reference: the damping `asked` for, or one that is found here.
    fn refer(&mut self, asked: Option<f64>) {
        self.recommended = self.recommend();
        let resolved = |i: &usize| self.status(*i) == PointStatus::Resolved;
        self.reference = match asked {
            Some(damping) => self.dampings.iter().position(|d| *d == damping),
            None => self.recommended.or_else(|| (0..self.dampings.len()).find(resolved)),
        };
        let Some(reference) = self.reference else { return };
        for query in &mut self.queries {
            let at = query.points[reference].clone();
            query.points.iter_mut().for_each(|point| point.overlap_with_reference = overlap(point, &at));
        }
    }
}

/// Share of the proponents that two points have in common.
fn overlap(a: &PathPoint, b: &PathPoint) -> Option<f64> {
    let resolved = [a, b].iter().all(|point| point.status == PointStatus::Resolved);
    let most = a.top.len().max(b.top.len());
    let shared = a.top.iter().filter(|r| b.top.iter().any(|other| other.example == r.example)).count();
    (resolved && most > 0).then(|| shared as f64 / most as f64)
}

/// Paths of dampings at parameters `theta`, each query's from one Lanczos process.
///
/// ```
/// use if_linalg::{Block, Cpu};
/// use if_methods::{DampingPath, PointStatus};
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss, Network, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let data = Dataset::new(HostArray::F64(x), (0..40).map(|i| (i % 2) as f64).collect())?;
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
/// let theta = Block::zeros(network.backend(), network.layout(), 1);
///
/// let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
/// let path = DampingPath { risk: &risk, theta: &theta, operator: &operator, steps: 20, tolerance: 1e-6 };
/// let report = path.run(&train, None, &())?;
/// assert_eq!(report.spectrum.smallest_definite_damping(), 0.0);
/// assert_eq!(report.status(0), PointStatus::Resolved);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct DampingPath<'a, B: Backend> {
    /// The objective, with the training examples that are scored.
    pub risk: &'a EmpiricalRisk<'a, B>,
    /// The parameters.
    pub theta: &'a Block<B>,
    /// `C + l2 I` there, without damping.
    pub operator: &'a dyn LinearOperator<B>,
    /// Products per query and per random start, at most.
    pub steps: usize,
    /// Relative residual up to which a point is called resolved.
    pub tolerance: f64,
}

impl<B: Backend> DampingPath<'_, B> {
    /// The spectrum, and the path of every query. `damping` is put on the path, and the others are compared
    /// with it.
    ///
    /// # Errors
    /// [`MethodError::NotFinite`] where no product is finite, [`MethodError::Cancelled`] where the observer
    /// asks to stop.
    pub fn run(
        &self,
        queries: &Inputs<B>,
        damping: Option<f64>,
        observer: &dyn Observer,
    ) -> Result<DampingReport, MethodError> {
        let mut spectrum = self.spectrum(observer)?;
        let mut dampings = spectrum.dampings();
        dampings.extend(damping);
        dampings.sort_by(f64::total_cmp);
        dampings.dedup();
        let mut paths = Vec::with_capacity(queries.len());
        for q in 0..queries.len() {
            paths.push(self.query(queries, q, &dampings, &mut spectrum, observer)?);
            observer.progress("following queries", q + 1, queries.len());
        }
        // A later query may have seen what an earlier one did not.
        for (i, _) in dampings.iter().enumerate().filter(|(_, d)| !spectrum.definite_at(**d)) {
            paths.iter_mut().for_each(|path| path.points[i] = indefinite());
        }
        let mut report =
            DampingReport { spectrum, dampings, reference: None, recommended: None, queries: paths };
        report.refer(damping);
        Ok(report)
    }

    /// The spectrum alone, from random starts.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn spectrum(&self, observer: &dyn Observer) -> Result<Spectrum, MethodError> {
        let (mut values, mut means) = (Vec::new(), Vec::new());
        for probe in 0..PROBES {
            let signs: Vec<f64> = random(self.operator.dim(), probe)
                .iter()
                .map(|v| if *v < 0.0 { -1.0 } else { 1.0 })
                .collect();
            let start = Block::from_f64(self.operator.backend(), self.operator.layout(), &signs);
            let found = self.lanczos(&start, observer)?;
            // v^T A v is what the first step computes.
            means.push(*found.diagonal.first().ok_or(MethodError::NotFinite)?);
            values.extend(found.ritz().0);
            observer.progress("spectrum", probe as usize + 1, PROBES as usize);
        }
        values.sort_by(|a, b| a.value.total_cmp(&b.value));
        values.iter_mut().for_each(|ritz| ritz.weight /= PROBES as f64);
        let (lowest, lowest_error) = self.settled(&values[0]);
        let highest = values[values.len() - 1].value;
        let starts = PROBES as f64;
        let mean = means.iter().sum::<f64>() / starts;
        let squares: f64 = means.iter().map(|own| (own - mean).powi(2)).sum();
        let mean_error = (squares / (starts - 1.0) / starts).sqrt();
        Ok(Spectrum { lowest, lowest_error, highest, mean, mean_error, values })
    }

    fn lanczos(&self, start: &Block<B>, observer: &dyn Observer) -> Result<Lanczos<B>, MethodError> {
        let found = lanczos(self.operator, start, self.steps, observer);
        if observer.cancelled() { Err(MethodError::Cancelled) } else { Ok(found) }
    }

    /// A Ritz value with its error; what the operator promises not to have below 0 is rounding.
    fn settled(&self, ritz: &Ritz) -> (f64, f64) {
        match self.operator.definiteness() {
            Definiteness::Unknown => (ritz.value, ritz.error),
            Definiteness::Positive | Definiteness::Semidefinite => (ritz.value.max(0.0), ritz.error),
        }
    }

    /// The path of query `q`, as far as is known now what is definite; adds what it sees to `spectrum`.
    fn query(
        &self,
        queries: &Inputs<B>,
        q: usize,
        dampings: &[f64],
        spectrum: &mut Spectrum,
        observer: &dyn Observer,
    ) -> Result<QueryPath, MethodError> {
        let gradient = self.risk.network().example_gradients(queries, self.theta, Rows::Range(q, 1));
        let krylov = self.lanczos(&gradient, observer)?;
        let (ritz, vectors) = krylov.ritz();
        if let Some(first) = ritz.first().map(|r| self.settled(r)).filter(|r| r.0 < spectrum.lowest) {
            (spectrum.lowest, spectrum.lowest_error) = first;
        }
        let definite: Vec<f64> = dampings.iter().copied().filter(|d| spectrum.definite_at(*d)).collect();
        let norm = gradient.norms()[0];
        let mut points = vec![indefinite(); dampings.len() - definite.len()];
        if definite.is_empty() {
            return Ok(QueryPath { gradient_norm: norm, points });
        }
        let x = solutions(&krylov, &ritz, &vectors, norm, &definite);
        let x = x.unwrap_or_else(|| Block::zeros(gradient.backend(), gradient.layout(), definite.len()));
        let residuals = self.residuals(&gradient, &x, &definite);
        let scores: Vec<f64> =
            against_train(self.risk, &[], self.theta, &x).into_iter().map(Real::to_f64).collect();
        // Definiteness rises with the damping: what is definite stands at the end.
        let rows: Vec<&[f64]> = scores.chunks_exact(self.risk.n()).collect();
        points.extend(rows.iter().zip(residuals).map(|(row, residual)| self.point(row, residual)));
        link(&mut points, &rows);
        Ok(QueryPath { gradient_norm: norm, points })
    }

    fn point(&self, scores: &[f64], residual: f64) -> PathPoint {
        let resolved = residual <= self.tolerance;
        let status = if resolved { PointStatus::Resolved } else { PointStatus::Unresolved };
        PathPoint { status, residual, top: Extremes::of(scores, TOP).proponents, ..indefinite() }
    }

    /// `|g - (A + d_i I) x_i| / |g|` (0 for g = 0).
    fn residuals(&self, gradient: &Block<B>, x: &Block<B>, dampings: &[f64]) -> Vec<f64> {
        let mut r = Block::zeros(x.backend(), x.layout(), x.k());
        self.operator.apply(x, &mut r);
        r.row_axpby(dampings, x, &vec![1.0; x.k()]);
        r.axpby(-1.0, &gradient.select(&vec![0; x.k()]), 1.0);
        let norm = gradient.norms()[0];
        r.norms().iter().map(|r| if norm == 0.0 { *r } else { r / norm }).collect()
    }
}

/// `x(d) = |g| V (T + d I)^-1 e_1` for every damping, with the eigenvectors of `T`: `dampings.len()` vectors.
/// `None` for an empty basis.
fn solutions<B: Backend>(
    krylov: &Lanczos<B>,
    ritz: &[Ritz],
    vectors: &[f64],
    norm: f64,
    dampings: &[f64],
) -> Option<Block<B>> {
    let first = krylov.basis.first()?;
    let m = ritz.len();
    let mut x = Block::zeros(first.backend(), first.layout(), dampings.len());
    for (j, v) in krylov.basis.iter().enumerate() {
        let along = |d: &f64| -> f64 {
            let eigenvectors = ritz.iter().zip(vectors.chunks_exact(m));
            eigenvectors.map(|(r, s)| norm * s[0] * s[j] / (r.value + d)).sum()
        };
        x.combine(&dampings.iter().map(along).collect::<Vec<_>>(), v, 1.0);
    }
    Some(x)
}

fn indefinite() -> PathPoint {
    PathPoint {
        status: PointStatus::Indefinite,
        residual: f64::NAN,
        top: Vec::new(),
        overlap_with_reference: None,
        overlap_with_next: None,
        spearman_with_next: None,
    }
}

/// Compares every point with the next; `rows` are the scores of the last of them.
fn link(points: &mut [PathPoint], rows: &[&[f64]]) {
    let first = points.len() - rows.len();
    for (i, pair) in rows.windows(2).enumerate() {
        let with_next = overlap(&points[first + i], &points[first + i + 1]);
        points[first + i].overlap_with_next = with_next;
        points[first + i].spearman_with_next = with_next.map(|_| spearman(pair[0], pair[1]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(top: &[usize]) -> PathPoint {
        let top = top.iter().map(|&example| Ranked { example, score: 1.0 }).collect();
        PathPoint { status: PointStatus::Resolved, residual: 0.0, top, ..indefinite() }
    }

    /// A report on one query with these tops.
    fn report(mut points: Vec<PathPoint>, asked: Option<f64>) -> DampingReport {
        let rows: Vec<&[f64]> = vec![&[1.0, 2.0]; points.len()];
        link(&mut points, &rows);
        let spectrum = Spectrum {
            values: Vec::new(),
            lowest: 0.0,
            lowest_error: 0.0,
            highest: 1.0,
            mean: 0.1,
            mean_error: 0.0,
        };
        let dampings = (0..points.len()).map(|i| i as f64).collect();
        let queries = vec![QueryPath { gradient_norm: 1.0, points }];
        let mut report = DampingReport { spectrum, dampings, reference: None, recommended: None, queries };
        report.refer(asked);
        report
    }

    #[test]
    fn the_smallest_stable_damping_is_recommended() {
        let unresolved = PathPoint { status: PointStatus::Unresolved, ..point(&[1, 2, 3, 4, 5]) };
        let points = vec![
            indefinite(),
            unresolved,
            point(&[1, 2, 3, 4, 5]),
            point(&[1, 2, 3, 8, 9]),
            point(&[1, 2, 3, 8, 7]),
            point(&[1, 2, 8, 3, 6]),
        ];
        let found = report(points.clone(), None);
        let next: Vec<_> = found.queries[0].points.iter().map(|p| p.overlap_with_next).collect();
        assert_eq!(next, [None, None, Some(0.6), Some(0.8), Some(0.8), None]);
        assert_eq!((found.recommended, found.reference), (Some(4), Some(4)));
        let with: Vec<_> = found.queries[0].points.iter().map(|p| p.overlap_with_reference).collect();
        assert_eq!(with, [None, None, Some(0.6), Some(0.8), Some(1.0), Some(0.8)]);
        assert_eq!(report(points.clone(), Some(2.0)).reference, Some(2));
        // Nothing is stable: the smallest resolved one is what there is to compare with.
        let found = report(points[..4].to_vec(), None);
        assert_eq!((found.recommended, found.reference), (None, Some(2)));
    }

    #[test]
    fn dampings_are_round_and_span_the_spectrum() {
        let spectrum = |lowest, highest, mean| {
            Spectrum { values: Vec::new(), lowest, lowest_error: 0.0, highest, mean, mean_error: 0.0 }
                .dampings()
        };
        assert_eq!(spectrum(0.0, 0.5, 0.2), [0.0, 3e-3, 1e-2, 3e-2, 0.1, 0.3]);
        // Not further down than a millionth.
        assert_eq!(spectrum(0.0, 1.0, 1e-9)[..3], [0.0, 1e-6, 3e-6]);
        // Definite from 1 on; a negative mean says nothing of the scale.
        assert_eq!(spectrum(-1.0, 1.0, -0.5), [0.0, 0.1, 0.3, 1.0, 3.0, 10.0]);
        assert_eq!(spectrum(0.0, 0.0, 0.0), [0.0]);
    }
}
