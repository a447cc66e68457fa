//! The groups of one seed: what is predicted of them, and what retraining says.

use if_linalg::{Block, Cg, Loss, Solver};
use if_methods::{GroupDraw, GroupInfluence, Order, Tail, descending, random_order, spearman};
use if_models::{Curvature, EmpiricalRisk, Inputs, Network};

use super::{EACH, GRADIENT, LARGEST, QUERIES, SIZES, SMALLEST, settings};
use crate::Context;
use crate::support::{
    F64, FACTORED, OverSeeds, Problem, all_converged, fit, influence, loss_change, retrained,
};

/// One group, its effects on every query by each of [`METHODS`](super::METHODS), and those by retraining.
pub struct Group {
    pub kind: usize,
    pub margins: Effects,
    pub losses: Effects,
}

pub struct Effects {
    pub predicted: Vec<Vec<f64>>,
    pub actual: Vec<f64>,
}

/// The groups of one seed.
pub struct Trial(pub Vec<Group>);

impl Trial {
    pub fn new(context: &Context, problem: &Problem, (l2, seed): (f64, u64)) -> anyhow::Result<Self> {
        let risk = problem.risk(settings(problem.train.len(), l2))?;
        let theta = fit(&risk, None, GRADIENT)?.theta;
        let queries = problem.queries(&test_points(problem, &theta, seed))?;
        let groups = draw(context, problem, &risk, (&queries, &theta), seed)?;
        let (kinds, groups): (Vec<usize>, Vec<Vec<usize>>) = groups.into_iter().unzip();
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = FACTORED.prepare(&operator)?;
        let influence = GroupInfluence::new(&operator, &*solver);
        let changes = |order| -> anyhow::Result<Block<F64>> {
            let found = influence.parameter_changes(&groups, order, context)?;
            all_converged(&found.report)?;
            Ok(found.total)
        };
        let [first, second, newton] =
            [changes(Order::First)?, changes(Order::Second)?, changes(Order::Newton)?];
        let members: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
        let gradients = risk.removal_gradients(&theta, &members);
        let retrained = retrained(context, &risk, (&theta, &*solver), (&groups, GRADIENT), Block::clone)?;

        let effects = |loss: Loss| -> Vec<Effects> {
            let network = problem.network.with_loss(loss);
            let measure = Measure { network: &network, queries: &queries, theta: &theta };
            let predicted = [
                measure.linear(&first),
                measure.linear(&second),
                measure.linear(&newton),
                measure.linear(&gradients),
                measure.evaluated(&first),
                measure.evaluated(&newton),
            ];
            let change = measure.change();
            let of_group = |(g, after): (usize, &Block<F64>)| Effects {
                predicted: predicted.iter().map(|all| all[g].clone()).collect(),
                actual: change(after),
            };
            retrained.iter().enumerate().map(of_group).collect()
        };
        let measured = effects(Loss::Margin).into_iter().zip(effects(problem.network.loss()));
        let group = |(kind, (margins, losses))| Group { kind, margins, losses };
        Ok(Self(kinds.into_iter().zip(measured).map(group).collect()))
    }

    /// Predicted and actual effects on margins, of all queries or of one, of all groups or of one kind.
    pub fn margins(&self, method: usize, query: Option<usize>, kind: Option<usize>) -> (Vec<f64>, Vec<f64>) {
        let queries = query.map_or(0..QUERIES, |q| q..q + 1);
        let groups = self.0.iter().filter(|group| kind.is_none_or(|kind| group.kind == kind));
        groups
            .flat_map(|group| {
                let Effects { predicted, actual } = &group.margins;
                queries.clone().map(|q| (predicted[method][q], actual[q]))
            })
            .unzip()
    }

    pub fn spearman(&self, method: usize, query: Option<usize>, kind: Option<usize>) -> f64 {
        let (predicted, actual) = self.margins(method, query, kind);
        spearman(&predicted, &actual)
    }

    /// Spearman of each query by itself.
    pub fn by_query(&self, method: usize, kind: Option<usize>) -> OverSeeds {
        OverSeeds::of((0..QUERIES).map(|q| self.spearman(method, Some(q), kind)))
    }

    /// Share of the effects on margins that first order underestimates in size.
    pub fn underestimated(&self, kind: Option<usize>) -> f64 {
        let (predicted, actual) = self.margins(0, None, kind);
        let below = predicted.iter().zip(&actual).filter(|(p, a)| p.abs() < a.abs()).count();
        below as f64 / actual.len() as f64
    }

    /// Median of the size of the first order over that of the actual effect on a margin.
    pub fn median_ratio(&self) -> f64 {
        let (predicted, actual) = self.margins(0, None, None);
        let mut ratios: Vec<f64> = predicted.iter().zip(&actual).map(|(p, a)| (p / a).abs()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    }
}

/// What is measured of the queries.
struct Measure<'a> {
    network: &'a Network<F64>,
    queries: &'a Inputs<F64>,
    theta: &'a Block<F64>,
}

impl Measure<'_> {
    /// First derivative along each of `changes`.
    fn linear(&self, changes: &Block<F64>) -> Vec<Vec<f64>> {
        let all = self.network.scores(self.queries, self.theta, changes);
        all.chunks_exact(self.queries.len()).map(<[f64]>::to_vec).collect()
    }

    /// Difference that each of `changes` makes.
    fn evaluated(&self, changes: &Block<F64>) -> Vec<Vec<f64>> {
        let change = self.change();
        let one = |g: usize| {
            let mut after = changes.select(&[g]);
            after.axpby(1.0, self.theta, 1.0);
            change(&after)
        };
        (0..changes.k()).map(one).collect()
    }

    /// Difference that other parameters make.
    fn change(&self) -> impl Fn(&Block<F64>) -> Vec<f64> {
        loss_change(self.network, self.queries, self.theta)
    }
}

/// Those of highest loss, then random ones.
fn test_points(problem: &Problem, theta: &Block<F64>, seed: u64) -> Vec<usize> {
    let losses = problem.network.example_losses(&problem.test, theta);
    let mut points = descending(&losses)[..EACH].to_vec();
    let random = random_order(losses.len(), seed).into_iter().filter(|i| !points.contains(i)).take(EACH);
    let random: Vec<usize> = random.collect();
    points.extend(random);
    points
}

/// Groups with the positions of their kinds.
fn draw(
    context: &Context,
    problem: &Problem,
    risk: &EmpiricalRisk<'_, F64>,
    (queries, theta): (&Inputs<F64>, &Block<F64>),
    seed: u64,
) -> anyhow::Result<Vec<(usize, Vec<usize>)>> {
    let scores = influence(context, risk, (queries, theta), &Cg { tolerance: 1e-8, max_iterations: 5000 })?;
    let (data, n) = (&problem.train_data, problem.train.len());
    let mut draw = GroupDraw::new(seed);
    let mut groups = Vec::new();
    for step in 0..SIZES {
        let share = SMALLEST + (LARGEST - SMALLEST) * step as f64 / (SIZES - 1) as f64;
        let size = (share * n as f64).round() as usize;
        let tail = scores.row(step % QUERIES);
        let of_kinds = [
            Some(draw.random(n, size)),
            draw.same_class(data.labels(), size),
            Some(draw.feature_window(data, size)),
            Some(draw.feature_cluster(data, size)),
            Some(draw.gradient_cluster(&problem.network, (&problem.train, theta), size)),
            Some(draw.influence_tail(tail, Tail::Positive, size)),
            Some(draw.influence_tail(tail, Tail::Negative, size)),
        ];
        groups.extend(of_kinds.into_iter().enumerate().filter_map(|(kind, group)| Some((kind, group?))));
    }
    Ok(groups)
}
