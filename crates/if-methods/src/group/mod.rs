//! What happens when whole groups are removed. Koh, Ang, Teo & Liang 2019; Basu, You & Feizi 2020.
//!
//! A group `S` of `m` training examples. With `b = f sum_{i in S} g_i` (`f` and `g_i` as for single examples, see
//! [`EmpiricalRisk::removal_gradients`]), `A` the curvature with `l2 + damping` and `A_S` the same without the group, the
//! parameters are predicted to change by
//!
//! ```text
//! first order    d = A^-1 b
//! second order   d = A^-1 b + A^-1 (A - A_S) A^-1 b
//! Newton         d = A_S^-1 b
//! rescaled       d = sum_{i in S} (A - C_i / n)^-1 f g_i        each example as if it went alone
//! effect on query q:   linear g_q . d      evaluated l_q(theta + d) - l_q(theta)
//! ```
//!
//! Under fixed removal `A - A_S = (1/n) sum_S C_i`: the second order is two terms of the Neumann series of the Newton
//! step. Under renormalised removal `A_S = c (A - (1/n) sum_S C_i) - (c - 1)(l2 + damping)`, `c = n / (n - m)`, and with
//! `p = m / n`, `k = A^-1 (1/n) sum_S g_i`, `C_i` and `g_i` each with their share of l2, it is Basu's
//!
//! ```text
//! d = (1 - 2p) / (1 - p)^2 k + 1 / (1 - p)^2 A^-1 (1/n) sum_S C_i k
//! ```
//!
//! Deviations:
//! 1. One formula for both removals; the published constants follow from `A_S` (a test says so).
//! 2. Newton steps of many groups share their solves with `A` ([`NearbyCg`]): a low-rank update where groups are small,
//!    conjugate gradients where they are large.
//! 3. First order of more groups than queries is summed up from the influences of single examples, after one solve for
//!    each query instead of each group.
//! 4. The published self-influence measures the group's own loss; here any query may be measured.

mod draw;
mod rescaled;
mod select;

use if_linalg::{
    Backend, Block, ColumnReport, Nearby, NearbyCg, Observer, Prepared, Real, Solution, SolveReport,
};
use if_models::{CurvatureOperator, EmpiricalRisk, Inputs, Loss};
use serde::{Deserialize, Serialize};

pub use draw::{GroupDraw, Tail};
pub use select::{Selected, Selection};

use crate::influence::extend;
use crate::{Influence, MethodError};

/// Groups that are solved for together, at most, and the numbers in one vector for each of them. Constants: they decide
/// which solves a group shares, and so its rounding.
const GROUP_BLOCK: usize = 128;
const NUMBERS: usize = 1 << 23;

/// How far the removal of a group is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The sum of the influences of its examples: Koh & Liang 2017, Koh et al. 2019.
    First,
    /// With what its examples do to each other: Basu et al. 2020.
    Second,
    /// A Newton step on what remains: Koh et al. 2019.
    Newton,
    /// The sum of the Newton steps of its examples, each alone: rescaled influence (Rubinstein & Hopkins 2025). Takes
    /// the Gauss-Newton matrix, or the Hessian of a linear model. Under renormalised removal the others' growing weight
    /// is in `f` and `g_i` alone.
    Rescaled,
}

/// Effects of the removal of groups, at parameters and with a curvature given by its operator.
///
/// ```
/// use if_linalg::{Block, Cholesky, Cpu, Solver};
/// use if_methods::{GroupInfluence, Order};
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
/// use if_models::{Network, NewtonCg, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let y = (0..40).map(|i| (i % 2) as f64).collect();
/// let data = Dataset::new(HostArray::F64(x), y)?;
///
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
/// let start = Block::zeros(network.backend(), network.layout(), 1);
/// let theta = NewtonCg::default().minimise(&risk, &start, &()).theta;
///
/// let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
/// let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX }.prepare(&operator)?;
/// let queries = Inputs::new(&network, &data.slice(0, 3), usize::MAX)?;
/// let groups = [vec![0, 2, 4, 6, 8], vec![1, 3]];
/// let influence = GroupInfluence::new(&operator, &*solver);
/// let found = influence.effects(&groups, &queries, (Order::Newton, true), &())?;
///
/// assert!(found.report.all_converged());
/// println!("without the first group the loss of query 2 changes by {}", found.effects[0][2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct GroupInfluence<'a, B: Backend> {
    operator: &'a CurvatureOperator<'a, 'a, B>,
    solver: &'a dyn Prepared<B>,
    measure: Loss,
    newton: (f64, usize),
}

/// How the parameters are predicted to change when groups are removed: one vector for each group.
pub struct ParameterChanges<B: Backend> {
    /// The changes.
    pub total: Block<B>,
    /// The share of the first order, where the order is the second.
    pub first_order: Option<Block<B>>,
    /// One certificate for each group, of all solves that its change took.
    pub report: SolveReport,
}

/// Predicted effects: `groups x queries`.
#[derive(Clone, Debug)]
pub struct GroupEffects {
    /// Change of each query's loss on removal of each group; positive: the loss rises.
    pub effects: Vec<Vec<f64>>,
    /// The share of the first order, where the order is the second; the rest is what the examples do to each other.
    pub first_order: Option<Vec<Vec<f64>>>,
    /// One certificate for each group.
    pub report: SolveReport,
}

impl<'a, B: Backend> GroupInfluence<'a, B> {
    /// With `operator` the curvature at the optimum, damping included, and `solver` prepared for it.
    pub fn new(operator: &'a CurvatureOperator<'a, 'a, B>, solver: &'a dyn Prepared<B>) -> Self {
        let tolerance = if B::Elem::EPSILON < 1e-10 { 1e-8 } else { 1e-4 };
        Self { operator, solver, measure: operator.risk().network().loss(), newton: (tolerance, 200) }
    }

    /// The same with Newton steps to another true relative residual (1e-8, in single precision 1e-4) or with another
    /// number of iterations at most (200).
    pub fn with_newton(self, tolerance: f64, max_iterations: usize) -> Self {
        Self { newton: (tolerance, max_iterations), ..self }
    }

    /// The same with `loss` measured of queries, such as [`Loss::Margin`], which is minus the margin.
    ///
    /// # Errors
    /// A loss that takes other targets than the training loss.
    pub fn measuring(self, loss: Loss) -> Result<Self, MethodError> {
        self.risk().network().measured_by(loss)?;
        Ok(Self { measure: loss, ..self })
    }

    /// Influence of single examples, at the same parameters and with the same solver.
    pub fn single(&self) -> Influence<'a, B> {
        let mut single = Influence::new(self.risk(), self.operator.theta(), self.solver);
        single.measure = self.measure;
        single
    }

    fn risk(&self) -> &'a EmpiricalRisk<'a, B> {
        self.operator.risk()
    }

    /// Predicted changes of the loss of every query on removal of every group (positions of training examples).
    /// `evaluated`: the loss at the changed parameters, in place of its first derivative along the change.
    ///
    /// # Errors
    /// A group that is empty, holds an example twice or one that there is not, or leaves none; for
    /// [`Order::Rescaled`] another curvature than the Gauss-Newton matrix; [`MethodError::Cancelled`].
    pub fn effects(
        &self,
        groups: &[Vec<usize>],
        queries: &Inputs<B>,
        (order, evaluated): (Order, bool),
        observer: &dyn Observer,
    ) -> Result<GroupEffects, MethodError> {
        if order == Order::First && !evaluated && queries.len() < groups.len() {
            return self.added_up(groups, queries, observer);
        }
        let network = self.risk().network().with_loss(self.measure);
        let theta = self.operator.theta();
        let before = network.example_losses(queries, theta);
        let effects_of = |changes: &Block<B>| -> Vec<Vec<f64>> {
            if !evaluated {
                let linear = network.scores(queries, theta, changes);
                let row = |row: &[B::Elem]| row.iter().map(|effect| effect.to_f64()).collect();
                return linear.chunks_exact(queries.len()).map(row).collect();
            }
            network.backend().map(changes.k(), |g| {
                let mut moved = changes.select(&[g]);
                moved.axpby(1.0, theta, 1.0);
                let after = network.example_losses(queries, &moved);
                after.iter().zip(&before).map(|(after, before)| after - before).collect()
            })
        };
        let mut effects = Vec::with_capacity(groups.len());
        let mut first_order = (order == Order::Second).then(Vec::new);
        let report = self.each_block(groups, order, observer, |changes| {
            effects.extend(effects_of(&changes.total));
            if let (Some(all), Some(first)) = (&mut first_order, &changes.first_order) {
                all.extend(effects_of(first));
            }
        })?;
        Ok(GroupEffects { effects, first_order, report })
    }

    /// First order as sums of the influences of single examples: one solve for each query, which are fewer than groups.
    fn added_up(
        &self,
        groups: &[Vec<usize>],
        queries: &Inputs<B>,
        observer: &dyn Observer,
    ) -> Result<GroupEffects, MethodError> {
        check_groups(groups, self.risk().n())?;
        let mut effects = vec![Vec::with_capacity(queries.len()); groups.len()];
        let mut report = self.single().attribute(queries, observer, |rows| {
            for row in rows.scores.chunks_exact(self.risk().n()) {
                for (group, effects) in groups.iter().zip(&mut effects) {
                    let sum: f64 = group.iter().map(|&i| row[i].to_f64()).sum();
                    effects.push(self.risk().removal_factor_of(group.len()) * sum);
                }
            }
            Ok::<(), MethodError>(())
        })?;
        // Every group rests on all queries' solves, and takes its share of their products.
        let mut worst =
            report.columns[1..].iter().fold(report.columns[0].clone(), |all, one| merged(&all, one));
        worst.products = worst.products.div_ceil(groups.len());
        report.columns = vec![worst; groups.len()];
        Ok(GroupEffects { effects, first_order: None, report })
    }

    /// How the parameters are predicted to change on removal of every group: upweighted by `epsilon` in the objective
    /// instead, they change by `-epsilon` times this over [`EmpiricalRisk::removal_factor_of`] (Koh & Liang 2017,
    /// `I_up,params`).
    ///
    /// # Errors
    /// As for [`effects`](Self::effects).
    pub fn parameter_changes(
        &self,
        groups: &[Vec<usize>],
        order: Order,
        observer: &dyn Observer,
    ) -> Result<ParameterChanges<B>, MethodError> {
        let operator = self.operator;
        let zeros =
            || Block::zeros(operator.risk().network().backend(), operator.theta().layout(), groups.len());
        let mut total = zeros();
        let mut first_order = (order == Order::Second).then(zeros);
        let mut done = 0;
        let report = self.each_block(groups, order, observer, |changes| {
            total.add_at(done, 1.0, &changes.total);
            if let (Some(all), Some(first)) = (&mut first_order, &changes.first_order) {
                all.add_at(done, 1.0, first);
            }
            done += changes.total.k();
        })?;
        Ok(ParameterChanges { total, first_order, report })
    }

    fn each_block(
        &self,
        groups: &[Vec<usize>],
        order: Order,
        observer: &dyn Observer,
        mut take: impl FnMut(&ParameterChanges<B>),
    ) -> Result<SolveReport, MethodError> {
        check_groups(groups, self.risk().n())?;
        let mut whole: Option<SolveReport> = None;
        let mut done = 0;
        for block in groups.chunks(self.together()) {
            let members: Vec<&[usize]> = block.iter().map(Vec::as_slice).collect();
            let changes = match order {
                Order::First => self.first(&members, observer),
                Order::Second => self.second(&members, observer),
                Order::Newton => self.newton(&members, observer),
                Order::Rescaled => self.rescaled(&members, observer)?,
            };
            if observer.cancelled() {
                return Err(MethodError::Cancelled);
            }
            take(&changes);
            extend(&mut whole, changes.report);
            done += block.len();
            observer.progress("groups", done, groups.len());
        }
        whole.ok_or(MethodError::NoGroups)
    }

    /// Vectors that are solved for together.
    fn together(&self) -> usize {
        (NUMBERS / self.risk().network().layout().dim().max(1)).clamp(1, GROUP_BLOCK)
    }

    fn first(&self, groups: &[&[usize]], observer: &dyn Observer) -> ParameterChanges<B> {
        let b = self.risk().removal_gradients(self.operator.theta(), groups);
        let Solution { x, report } = self.solver.solve(&b, observer);
        ParameterChanges { total: x, first_order: None, report }
    }

    fn second(&self, groups: &[&[usize]], observer: &dyn Observer) -> ParameterChanges<B> {
        let b = self.risk().removal_gradients(self.operator.theta(), groups);
        let Solution { x: first, report } = self.solver.solve(&b, observer);
        // (A - A_S) A^-1 b = b - A_S A^-1 b
        let mut difference = Block::zeros(b.backend(), b.layout(), b.k());
        self.operator.apply_without(groups, &first, &b, &mut difference);
        difference.axpby(1.0, &b, -1.0);
        let Solution { x: mut total, report: more } = self.solver.solve(&difference, observer);
        total.axpby(1.0, &first, 1.0);
        ParameterChanges { total, first_order: Some(first), report: both(report, more) }
    }

    fn newton(&self, groups: &[&[usize]], observer: &dyn Observer) -> ParameterChanges<B> {
        let b = self.risk().removal_gradients(self.operator.theta(), groups);
        let (tolerance, max_iterations) = self.newton;
        let remaining = Remaining { operator: self.operator, groups };
        let cg = NearbyCg { tolerance, max_iterations };
        let Solution { x, report } = cg.solve(self.operator, self.solver, &remaining, &b, observer);
        ParameterChanges { total: x, first_order: None, report }
    }
}

/// The curvature without each of some groups.
struct Remaining<'a, B: Backend> {
    operator: &'a CurvatureOperator<'a, 'a, B>,
    groups: &'a [&'a [usize]],
}

impl<B: Backend> Nearby<B> for Remaining<'_, B> {
    fn apply(&self, columns: &[usize], x: &Block<B>, ax: &Block<B>, y: &mut Block<B>) {
        let groups: Vec<&[usize]> = columns.iter().map(|&j| self.groups[j]).collect();
        self.operator.apply_without(&groups, x, ax, y);
    }
}

/// The certificates of results that take two solves each.
pub(crate) fn both(mut first: SolveReport, second: SolveReport) -> SolveReport {
    first.columns.iter_mut().zip(&second.columns).for_each(|(one, other)| *one = merged(one, other));
    first
}

/// One certificate for two solves: as good as the worse.
fn merged(one: &ColumnReport, other: &ColumnReport) -> ColumnReport {
    ColumnReport {
        termination: if one.termination.is_failure() { one.termination } else { other.termination },
        iterations: one.iterations + other.iterations,
        products: one.products + other.products,
        residual: one.residual.max(other.residual),
        eigenvalues: one.eigenvalues.or(other.eigenvalues),
    }
}

/// Whether every group can be removed from `n` examples.
fn check_groups(groups: &[Vec<usize>], n: usize) -> Result<(), MethodError> {
    for (group, members) in groups.iter().enumerate() {
        let mut sorted = members.clone();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
        let problem = match (sorted.last(), twice) {
            (None, _) => "expected at least one training example, found none".to_owned(),
            (Some(&last), _) if last >= n => {
                format!("expected positions of {n} training examples, found {last}")
            }
            (_, Some(pair)) => format!("training example {} stands there twice", pair[0]),
            _ if members.len() == n => format!("it holds all {n} training examples, so that none would stay"),
            _ => continue,
        };
        return Err(MethodError::Group { group, problem });
    }
    Ok(())
}
