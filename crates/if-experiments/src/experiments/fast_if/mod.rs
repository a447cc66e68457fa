//! 6a: Guo et al. 2021, sections 4 and 5: candidates by nearest neighbours, and LiSSA's depth against its batch.
//!
//! Deviations:
//! 1. An MLP on 6,000 MNIST digits (all 60,000 with `--full`) and the inputs of its last layer, where the
//!    paper has BERT's pooled output.
//! 2. Two speed-ups, each measured in one run: against all scores of 20 queries together by block conjugate gradients, and,
//!    as the paper has it, one query at a time against long runs of LiSSA and all scores. The paper's factor of 80 is on
//!    MNLI (393,000 examples) and four GPUs.
//! 3. Curvature is the Gauss-Newton matrix with a damping of 0.01; the published settings mean a damping of 50 and more,
//!    at which influence is the inner product of gradients.
//! 4. Beside the neighbours stand candidates that are the same for all queries: by loss, mean loss over checkpoints,
//!    gradient norm, and at random.

mod speed;

use std::sync::OnceLock;
use std::time::Instant;

use anyhow::ensure;
use if_linalg::{Block, BlockCg, Lissa, Observer, Prepared, Solution, Solver};
use if_methods::{
    Influence, MethodError, Scores, TracIn, descending, nearest, pearson, random_order, recall,
};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Inputs, LayerSpec, Loss, ModelSpec, Network, Optimizer, RiskSettings,
    Schedule, Training,
};

use crate::number::short;
use crate::result::{Gate, Metric, Table};
use crate::support::{F64, OverSeeds, line, load, train_with_checkpoints};
use crate::{Context, Experiment, Figure, Outcome};
use if_plot::{LineChart, Series};
use speed::Speed;

/// Training examples, and with `--full`.
const N: [usize; 2] = [6000, 60_000];
const QUERIES: usize = 20;
const L2: f64 = 1e-4;
const DAMPING: f64 = 0.01;
/// Strongest proponents and opponents that candidates are to hold.
const TOP: usize = 10;
/// Candidates, as parts of the training examples.
const SHARES: [f64; 5] = [0.01, 0.05, 0.1, 0.25, 0.5];
/// The share that the gate is about.
const GATED: usize = 2;
/// Orders whose first examples are candidates for every query.
const BASELINES: [&str; 4] =
    ["highest loss", "highest mean loss over checkpoints", "largest gradient norm", "random"];
/// Epochs of the training, and between its checkpoints.
const EPOCHS: usize = 20;
const EVERY: usize = 5;
const DEPTHS: [usize; 3] = [100, 300, 1000];
const BATCHES: [usize; 3] = [1, 10, 100];
const EXACT: BlockCg = BlockCg { tolerance: 1e-6, max_iterations: 1000 };

/// `6a`.
pub struct FastIf;

impl Experiment for FastIf {
    fn id(&self) -> &str {
        "6a"
    }
    fn paper(&self) -> &str {
        "Guo et al. 2021"
    }
    fn title(&self) -> &str {
        "FastIF: nearest neighbours as candidates, and short LiSSA runs, MLP on MNIST"
    }
    fn claim(&self) -> &str {
        "A tenth of the training examples, the nearest in the features of the last layer, holds most of the strongest proponents and opponents, for influence through the last layer and through all of them."
    }
    fn needs(&self) -> &[&str] {
        &["mnist"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let (n, seeds) = (N[usize::from(context.full)], context.seeds(3));
        // One after another: they are timed.
        let trials = seeds.iter().map(|&seed| trial(context, n, seed)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut outcome = Outcome { metrics: judge(&trials), seeds, ..Outcome::default() };
        outcome.plots.push(plot(&trials));
        outcome.tables.push(recalls(&trials));
        outcome.tables.push(baselines(&trials));
        outcome.tables.push(grid(&trials));
        outcome.tables.push(times(&trials));
        outcome.metrics.extend(speed::judge(&trials));
        outcome.tables.push(speed::table(&trials));
        describe(&mut outcome, n);
        Ok(outcome)
    }
}

/// What one seed gives.
struct Trial {
    /// Through the last layer, and through all.
    routes: [Route; 2],
    /// Training examples in each of the orders of [`BASELINES`].
    orders: Vec<Vec<usize>>,
    /// LiSSA at every depth and batch: correlation with the exact scores, and seconds a query.
    grid: Vec<[f64; 2]>,
    /// Seconds a query of the neighbours' search.
    search: f64,
    /// One query at a time.
    speed: Speed,
}

struct Route {
    /// Of proponents and of opponents at every share, averaged over queries.
    recall: Vec<[f64; 2]>,
    scores: Scores<f64>,
    /// Seconds a query: everything scored, and candidates alone at every share.
    everything: f64,
    candidates: Vec<f64>,
}

const ROUTES: [&str; 2] = ["last layer", "all layers"];

fn trial(context: &Context, n: usize, seed: u64) -> anyhow::Result<Trial> {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![LayerSpec::Flatten {}, dense("1", 100), LayerSpec::Relu {}, dense("3", 10)];
    let spec = ModelSpec { input: vec![28, 28], loss: Loss::CrossEntropy, layers };
    let network: Network<F64> = spec.build(&F64::new())?;
    let drawn = |source: &str, count: usize| -> anyhow::Result<_> {
        let all = load(context, source)?;
        let mut order = random_order(all.len(), seed);
        order.truncate(count);
        Ok(all.select(&order))
    };
    let inputs = |data: &Dataset| Inputs::new(&network, data, usize::MAX);
    let (train, test) = (drawn("mnist:train", n)?, drawn("mnist:test", QUERIES)?);
    let (train, queries) = (inputs(&train)?, inputs(&test)?);
    let training = Training {
        optimizer: Optimizer::Sgd { momentum: 0.9 },
        learning_rate: 0.02,
        schedule: Schedule::Constant,
        epochs: EPOCHS,
        batch: 64,
        seed,
    };
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(L2))?;
    let (theta, checkpoints) = train_with_checkpoints(context, &training, &risk, EVERY)?;
    let orders = vec![
        descending(&network.example_losses(&train, &theta)),
        descending(&TracIn::new(&train, &checkpoints)?.mean_losses()),
        descending(&network.gradient_norms(&train, &theta)),
        random_order(n, seed),
    ];
    let start = Instant::now();
    let features = |inputs| network.layer_inputs(inputs, &theta, "3");
    let neighbours = nearest(&features(&train)?, &features(&queries)?, n)?;
    let search = start.elapsed().as_secs_f64() / QUERIES as f64;
    let (head, head_theta) = network.select(&theta, &["3"])?;
    let last = route(context, (&head, &head_theta), (&train, &queries), &neighbours)?;
    let all = route(context, (&network, &theta), (&train, &queries), &neighbours)?;
    let grid = lissa(context, (&head, &head_theta), (&train, &queries), seed)?;
    let single = (0..speed::QUERIES).map(|q| inputs(&test.select(&[q]))).collect::<Result<Vec<_>, _>>()?;
    let speed = Speed::measure(context, (&network, &theta), (&train, &single), &all.scores, seed)?;
    Ok(Trial { routes: [last, all], orders, grid, search, speed })
}

/// Scores everything, then candidates alone.
fn route(
    context: &Context,
    (network, theta): (&Network<F64>, &Block<F64>),
    (train, queries): (&Inputs<F64>, &Inputs<F64>),
    neighbours: &[Vec<usize>],
) -> anyhow::Result<Route> {
    let risk = EmpiricalRisk::new(network, train, RiskSettings::mean(L2))?;
    let operator = risk.operator(theta, Curvature::GaussNewton, DAMPING, 1 << 30);
    let solver = SolvedOnce { solver: EXACT.prepare(&operator)?, solved: OnceLock::new() };
    let influence = Influence::new(&risk, theta, &solver);
    let start = Instant::now();
    let scores = influence.scores(queries, context)?;
    let everything = start.elapsed().as_secs_f64() / QUERIES as f64;
    ensure!(scores.report.all_converged(), "{}", scores.report.summary());
    let solve = solver.solved.get().map_or(0.0, |(_, seconds)| *seconds);
    let (mut found, mut seconds) = (Vec::new(), Vec::new());
    for share in SHARES {
        let count = candidates_in(share, train.len());
        let candidates: Vec<Vec<usize>> = neighbours.iter().map(|all| all[..count].to_vec()).collect();
        let start = Instant::now();
        influence.attribute_candidates(queries, &candidates, context, |_, _| Ok::<(), MethodError>(()))?;
        seconds.push((solve + start.elapsed().as_secs_f64()) / QUERIES as f64);
        found.push(mean_recall(&scores, &candidates));
    }
    Ok(Route { recall: found, scores, everything, candidates: seconds })
}

fn candidates_in(share: f64, n: usize) -> usize {
    (share * n as f64).round() as usize
}

/// Solves for the queries once, and remembers how long that took: it is the same for all candidates.
struct SolvedOnce<'a> {
    solver: Box<dyn Prepared<F64> + 'a>,
    solved: OnceLock<(Solution<F64>, f64)>,
}

impl Prepared<F64> for SolvedOnce<'_> {
    fn solve(&self, b: &Block<F64>, observer: &dyn Observer) -> Solution<F64> {
        let solve = || {
            let start = Instant::now();
            let solution = self.solver.solve(b, observer);
            (solution, start.elapsed().as_secs_f64())
        };
        let (solution, _) = self.solved.get_or_init(solve);
        Solution { x: solution.x.clone(), report: solution.report.clone() }
    }
}

fn mean_recall(scores: &Scores<f64>, candidates: &[Vec<usize>]) -> [f64; 2] {
    let each: Vec<[f64; 2]> =
        candidates.iter().enumerate().map(|(q, list)| recall(scores.row(q), list, TOP)).collect();
    [0, 1].map(|side| each.iter().map(|recall| recall[side]).sum::<f64>() / each.len() as f64)
}

/// Correlation of LiSSA's scores with the exact ones, averaged over queries, and its seconds a query.
fn lissa(
    context: &Context,
    (network, theta): (&Network<F64>, &Block<F64>),
    (train, queries): (&Inputs<F64>, &Inputs<F64>),
    seed: u64,
) -> anyhow::Result<Vec<[f64; 2]>> {
    let risk = EmpiricalRisk::new(network, train, RiskSettings::mean(L2))?;
    let operator = risk.operator(theta, Curvature::GaussNewton, DAMPING, 1 << 30);
    let prepared: Box<dyn Prepared<F64>> = EXACT.prepare(&operator)?;
    let exact = Influence::new(&risk, theta, &*prepared).scores(queries, context)?;
    let mut cells = Vec::new();
    for (depth, batch) in DEPTHS.into_iter().flat_map(|depth| BATCHES.map(|batch| (depth, batch))) {
        // A scale of its own; every tolerance is missed, as the depth is what is asked for.
        let solver =
            Lissa { tolerance: 1e-12, depth: Some(depth), repeats: 1, scale: None, batch: Some(batch), seed };
        let start = Instant::now();
        let prepared: Box<dyn Prepared<F64>> = solver.prepare(&operator)?;
        let scores = Influence::new(&risk, theta, &*prepared).scores(queries, context)?;
        let seconds = start.elapsed().as_secs_f64() / QUERIES as f64;
        let correlations = (0..QUERIES).map(|q| pearson(scores.row(q), exact.row(q)));
        cells.push([correlations.sum::<f64>() / QUERIES as f64, seconds]);
    }
    Ok(cells)
}

fn mean(trials: &[Trial], value: impl Fn(&Trial) -> f64) -> f64 {
    OverSeeds::over(trials, value).mean
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let share = SHARES[GATED];
    let mut metrics = Vec::new();
    for (r, route) in ROUTES.into_iter().enumerate() {
        for (side, who) in ["proponents", "opponents"].into_iter().enumerate() {
            let found = mean(trials, |trial| trial.routes[r].recall[GATED][side]);
            metrics.push(Metric::new(format!("{route}: recall of the top {TOP} {who} at 10 %"), found));
            // Random candidates hold as many of the strongest as their share.
            let metric = Metric::new(format!("{route}: the same over random candidates"), found / share);
            let metric = Metric { name: format!("{} ({who})", metric.name), ..metric };
            metrics.push(if r == 0 { metric.gate(Gate::AtLeast(5.0)) } else { metric });
        }
        let fast =
            |trial: &Trial| trial.routes[r].everything / (trial.search + trial.routes[r].candidates[GATED]);
        metrics.push(
            Metric::new(
                format!("{route}: times as fast as scores of everything, at 10 %"),
                mean(trials, fast),
            )
            .reported_as("about 80 (abstract), of another baseline: see the notes"),
        );
    }
    metrics
}

fn plot(trials: &[Trial]) -> Figure {
    let mut drawn = Vec::new();
    for (r, route) in ROUTES.into_iter().enumerate() {
        for (side, who) in ["proponents", "opponents"].into_iter().enumerate() {
            let at = |s: usize| (SHARES[s], OverSeeds::over(trials, |trial| trial.routes[r].recall[s][side]));
            let (points, band) = line((0..SHARES.len()).map(at));
            drawn.push((format!("{who}, {route}"), points, band));
        }
    }
    let chance: Vec<(f64, f64)> = SHARES.map(|share| (share, share)).to_vec();
    drawn.push(("random candidates".into(), chance, Vec::new()));
    let series: Vec<Series> =
        drawn.iter().map(|(name, points, band)| Series { name, points, band }).collect();
    let chart = LineChart {
        title: "Strongest examples among the nearest",
        x_label: "candidates, as a fraction of the training examples",
        y_label: "recall of the top 10",
        series: &series,
        y_covers: Some((0.0, 1.0)),
    };
    let caption = format!(
        "Mean over {QUERIES} queries and {} seeds; bands from the least to the most seed.",
        trials.len()
    );
    Figure { name: "recall".into(), caption, svg: chart.svg() }
}

fn recalls(trials: &[Trial]) -> Table {
    let mut rows = Vec::new();
    for (r, route) in ROUTES.into_iter().enumerate() {
        for (side, who) in ["proponents", "opponents"].into_iter().enumerate() {
            let found = |s: usize| OverSeeds::over(trials, |trial| trial.routes[r].recall[s][side]);
            let cells = (0..SHARES.len()).map(|s| found(s).cell());
            rows.push(std::iter::once(format!("{who}, {route}")).chain(cells).collect());
        }
    }
    let shares = SHARES.map(|share| format!("{} %", 100.0 * share));
    Table {
        title: format!("Recall of the top {TOP} by candidates: mean, least and most over seeds"),
        columns: std::iter::once("of".to_owned()).chain(shares).collect(),
        rows,
    }
}

/// The same by candidates that know nothing of the query.
fn baselines(trials: &[Trial]) -> Table {
    let mut rows = Vec::new();
    for (r, route) in ROUTES.into_iter().enumerate() {
        for (b, name) in BASELINES.into_iter().enumerate() {
            for (side, who) in ["proponents", "opponents"].into_iter().enumerate() {
                let found = |share: f64| {
                    OverSeeds::over(trials, |trial| {
                        let first = trial.orders[b][..candidates_in(share, trial.orders[b].len())].to_vec();
                        mean_recall(&trial.routes[r].scores, &vec![first; QUERIES])[side]
                    })
                };
                let cells = SHARES.map(|share| found(share).cell());
                rows.push(std::iter::once(format!("{who}, {route}, by {name}")).chain(cells).collect());
            }
        }
    }
    let shares = SHARES.map(|share| format!("{} %", 100.0 * share));
    Table {
        title: format!("Recall of the top {TOP} by candidates that are the same for all queries"),
        columns: std::iter::once("of".to_owned()).chain(shares).collect(),
        rows,
    }
}

fn grid(trials: &[Trial]) -> Table {
    let row = |(d, depth): (usize, usize)| {
        let cells = (0..BATCHES.len()).map(|b| {
            let cell = d * BATCHES.len() + b;
            let correlation = mean(trials, |trial| trial.grid[cell][0]);
            let milliseconds = 1e3 * mean(trials, |trial| trial.grid[cell][1]);
            format!("{} in {} ms", short(correlation), short(milliseconds))
        });
        std::iter::once(format!("depth {depth}")).chain(cells).collect()
    };
    Table {
        title: "LiSSA through the last layer: correlation with exact scores, and time a query".into(),
        columns: std::iter::once("steps".to_owned())
            .chain(BATCHES.map(|batch| format!("batch {batch}")))
            .collect(),
        rows: DEPTHS.into_iter().enumerate().map(row).collect(),
    }
}

fn times(trials: &[Trial]) -> Table {
    let row = |(r, route): (usize, &str)| {
        let milliseconds = |value: &dyn Fn(&Trial) -> f64| short(1e3 * mean(trials, value));
        let mut row = vec![route.to_owned(), milliseconds(&|trial| trial.routes[r].everything)];
        row.extend(
            (0..SHARES.len()).map(|s| milliseconds(&|trial| trial.search + trial.routes[r].candidates[s])),
        );
        row
    };
    let shares = SHARES.map(|share| format!("{} %", 100.0 * share));
    Table {
        title: format!(
            "Milliseconds a query, {QUERIES} queries together: everything, and candidates with their search"
        ),
        columns: ["layers".to_owned(), "everything".into()].into_iter().chain(shares).collect(),
        rows: ROUTES.into_iter().enumerate().map(row).collect(),
    }
}

fn describe(outcome: &mut Outcome, n: usize) {
    outcome.setting("train", format!("mnist:train, {n} examples drawn by the seed"));
    outcome.setting("queries", format!("mnist:test, {QUERIES} examples drawn by the seed"));
    outcome.setting("model", format!("MLP 784-100-10, relu, l2 {L2}; SGD, {EPOCHS} epochs"));
    outcome.setting("threads", rayon::current_num_threads());
    outcome.setting("one query at a time", format!("the first {} of the queries", speed::QUERIES));
    outcome
        .setting("curvature", format!("Gauss-Newton, damping {DAMPING}; block conjugate gradients to 1e-6"));
    outcome.notes = vec![
        "The paper’s factor of 80 is that of its whole pipeline over long runs of LiSSA and the gradients of all 393,000 examples of MNLI, one query after another. There every score takes a backward pass through BERT, and 1,000 candidates save 99.7 % of them. Here no gradient of a training example is formed and all scores of a query cost less than its solve: candidates save little, short runs of LiSSA nearly all, with 6,000 examples as with 60,000 (--full).".into(),
        "With 20 queries together the solve is shared too, by block conjugate gradients; what is left to save is the scoring.".into(),
        "One query at a time: seconds from the query to its scores, kNN and the certificate of the solve (a product over all examples) included; the scale of LiSSA and the features of the training examples, which are found once, are not. Recall is of each way’s own ten strongest. Parallel repeats give the same bits as on one thread; how much sooner is what processors were free for them, and other programs take their share.".into(),
        "Candidates of the highest loss or the largest gradient norm, the same for all queries and without any search, hold more of the strongest than the nearest neighbours do: here few training examples act on nearly every query.".into(),
        "Neighbours are exact, by one matrix product; their search is in the times.".into(),
        "The published settings of LiSSA have an effective damping of 50 to 5,000 (scale times damping), far above this curvature’s eigenvalues: at it influence is the inner product of gradients.".into(),
    ];
}
