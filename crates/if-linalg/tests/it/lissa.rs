//! LiSSA and the Neumann series on an average over examples, against Cholesky, closed forms and the published
//! recursion.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use if_linalg::testing::random;
use if_linalg::{
    Block, Cholesky, ColumnReport, Cpu, DenseOperator, FiniteSumOperator, Layout, LinalgError,
    LinearOperator, Lissa, Neumann, Observer, PublishedLissa, Shifted, Solution, Solver, SymmetricMatrix,
    Termination,
};

type F64 = Cpu<f64>;

/// `(1/n) sum x_i x_i^T + shift`.
struct LeastSquares {
    backend: F64,
    layout: Arc<Layout>,
    x: Vec<f64>,
    shift: f64,
}

impl LeastSquares {
    /// Examples with independent features, the variance of feature `j` falling as `1 / (j + 1)`.
    fn new(n: usize, p: usize, shift: f64) -> Self {
        let x =
            random(n * p, 40).into_iter().enumerate().map(|(at, v)| v * (3.0 / (at % p + 1) as f64).sqrt());
        Self { backend: Cpu::new(), layout: Layout::vector(p), x: x.collect(), shift }
    }

    /// Every `every`-th example `factor` times as long.
    fn with_outliers(mut self, every: usize, factor: f64) -> Self {
        let p = self.layout.dim();
        self.x.chunks_mut(p).step_by(every).flatten().for_each(|v| *v *= factor);
        self
    }

    fn block(&self, k: usize, seed: u64) -> Block<F64> {
        Block::from_f64(&self.backend, &self.layout, &random(k * self.layout.dim(), seed))
    }
}

impl LinearOperator<F64> for LeastSquares {
    fn backend(&self) -> &F64 {
        &self.backend
    }

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn apply(&self, x: &Block<F64>, y: &mut Block<F64>) {
        self.apply_batch(&(0..self.examples()).collect::<Vec<_>>(), x, y);
    }

    fn damping(&self) -> f64 {
        self.shift
    }

    fn as_finite_sum(&self) -> Option<&dyn FiniteSumOperator<F64>> {
        Some(self)
    }
}

impl FiniteSumOperator<F64> for LeastSquares {
    fn examples(&self) -> usize {
        self.x.len() / self.layout.dim()
    }

    fn apply_batch(&self, indices: &[usize], x: &Block<F64>, y: &mut Block<F64>) {
        let p = self.layout.dim();
        let mut products = Vec::new();
        for v in x.to_f64().chunks(p) {
            let mut product: Vec<f64> = v.iter().map(|v| self.shift * v).collect();
            for &i in indices {
                let example = &self.x[i * p..(i + 1) * p];
                let overlap: f64 = example.iter().zip(v).map(|(a, b)| a * b).sum();
                let weight = overlap / indices.len() as f64;
                product.iter_mut().zip(example).for_each(|(y, a)| *y += weight * a);
            }
            products.extend(product);
        }
        y.copy_from(&Block::from_f64(&self.backend, &self.layout, &products));
    }
}

/// Nothing given but the tolerance.
fn automatic(tolerance: f64) -> Lissa {
    Lissa { tolerance, depth: None, repeats: 1, scale: None, batch: None, seed: 3 }
}

fn solve(solver: &dyn Solver<F64>, operator: &dyn LinearOperator<F64>, b: &Block<F64>) -> Solution<F64> {
    solver.prepare(operator).unwrap().solve(b, &())
}

fn exact(operator: &dyn LinearOperator<F64>, b: &Block<F64>) -> Vec<f64> {
    let solution = solve(&Cholesky { tolerance: 1e-10, memory_budget: 1 << 20 }, operator, b);
    assert!(solution.report.all_converged());
    solution.x.to_f64()
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    let size = y.iter().map(|y| y * y).sum::<f64>().sqrt();
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt() / size
}

/// Every certificate says what is true: the residual that it names, and `Converged` only up to the tolerance.
fn certified(solution: &Solution<F64>, operator: &dyn LinearOperator<F64>, b: &Block<F64>) {
    let mut residual = Block::zeros(b.backend(), b.layout(), b.k());
    operator.apply(&solution.x, &mut residual);
    residual.axpby(1.0, b, -1.0);
    for (j, column) in solution.report.columns.iter().enumerate() {
        let actual = residual.norms()[j] / b.norms()[j];
        match column.termination {
            Termination::Diverged => assert!(column.residual.is_nan() && actual.is_nan()),
            _ => assert!((actual - column.residual).abs() <= 1e-12 * actual, "{actual} {}", column.residual),
        }
        assert!(column.termination != Termination::Converged || actual <= solution.report.tolerance);
    }
}

#[test]
fn nothing_given_but_the_tolerance() {
    let operator = LeastSquares::new(3000, 20, 0.05);
    let b = operator.block(3, 1);
    // Columns that are done leave both repeats.
    let lissa = Lissa { repeats: 2, ..automatic(0.02) };
    let solution = solve(&lissa, &operator, &b);
    let report = &solution.report;
    assert!(report.all_converged(), "{}", report.summary());
    assert!(report.solver.contains("batch 128"), "{}", report.solver);
    assert_eq!(report.damping, 0.05);
    certified(&solution, &operator, &b);
    let error = distance(&solution.x.to_f64(), &exact(&operator, &b));
    assert!(error < 0.05, "{error}");
    let depths: Vec<usize> = report.columns.iter().map(|c| c.iterations).collect();
    assert!(depths.iter().any(|depth| *depth != depths[0]), "{depths:?}");
    // A column does not depend on which others there are, and when they leave.
    for j in 0..3 {
        let alone = solve(&lissa, &operator, &b.select(&[j]));
        assert_eq!(alone.report.columns[0], report.columns[j]);
        assert_eq!(alone.x.to_f64(), solution.x.to_f64()[20 * j..20 * (j + 1)]);
    }
}

/// Half of so few examples is no batch: there is no noise, and any tolerance is in reach.
#[test]
fn few_examples_are_taken_whole() {
    let operator = LeastSquares::new(200, 8, 0.1);
    let b = operator.block(2, 1);
    let solution = solve(&Lissa { repeats: 5, ..automatic(1e-9) }, &operator, &b);
    assert!(solution.report.all_converged(), "{}", solution.report.summary());
    assert!(solution.report.solver.ends_with("batch all, repeats 1"), "{}", solution.report.solver);
    assert!(distance(&solution.x.to_f64(), &exact(&operator, &b)) < 1e-7);
}

#[test]
fn batches_grow_until_they_curve_like_the_whole() {
    // Of 1 in 150 examples that carry the curvature, a batch of 128 has none to four.
    let operator = LeastSquares::new(6000, 10, 0.5).with_outliers(150, 15.0);
    let b = operator.block(2, 1);
    let solution = solve(&automatic(0.05), &operator, &b);
    assert!(!solution.report.solver.contains("batch 128,"), "{}", solution.report.solver);
    assert!(solution.report.all_converged(), "{}", solution.report.summary());
    certified(&solution, &operator, &b);
}

#[test]
fn a_scale_too_small_is_backed_off_from_or_reported() {
    let operator = LeastSquares::new(3000, 20, 0.05);
    let b = operator.block(3, 1);
    // The largest eigenvalue is about 1: from 100 times too small to as small as ten doublings cannot mend.
    for (scale, depth, tolerance) in [(0.01, None, 0.02), (0.1, Some(3000), 0.1), (1e-6, None, 0.02)] {
        let lissa = Lissa { scale: Some(scale), depth, ..automatic(tolerance) };
        let solution = solve(&lissa, &operator, &b);
        certified(&solution, &operator, &b);
        if scale > 1e-3 {
            assert!(solution.report.all_converged(), "{}", solution.report.summary());
            let said = format!(" (backed off from {scale:.3e}), batch");
            assert!(solution.report.solver.contains(&said), "{}", solution.report.solver);
        } else {
            let diverged = |c: &ColumnReport| c.termination == Termination::Diverged;
            assert!(solution.report.columns.iter().all(diverged), "{}", solution.report.summary());
            // Seen by their length, long before they overflow.
            assert!(solution.report.columns[0].iterations < 50, "{:?}", solution.report.columns[0]);
            assert!(solution.report.summary().contains("--scale"), "{}", solution.report.summary());
        }
    }
}

/// The curvature of single examples is tens of times that of their average, and some are far longer still.
#[test]
fn single_examples_are_never_silently_wrong() {
    let plain = LeastSquares::new(3000, 20, 0.05);
    let rare = LeastSquares::new(3000, 20, 0.05).with_outliers(2999, 100.0);
    let b = plain.block(2, 1);
    for operator in [&plain, &rare] {
        for (scale, batch) in [(Some(1.0), Some(1)), (Some(3.0), Some(1)), (None, Some(1)), (None, None)] {
            let lissa = Lissa { scale, batch, depth: Some(2000), ..automatic(0.05) };
            let solution = solve(&lissa, operator, &b);
            certified(&solution, operator, &b);
        }
    }
}

#[test]
fn bits_follow_from_the_seed_and_not_from_threads() {
    let operator = LeastSquares::new(1000, 12, 0.1);
    let b = operator.block(3, 1);
    let lissa = Lissa { depth: Some(200), repeats: 3, batch: Some(16), ..automatic(0.05) };
    let run = |lissa: &Lissa, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let solution = solve(lissa, &operator, &b);
            (solution.x.to_f64(), solution.report)
        })
    };
    // A scale too small ends all repeats when one has grown: always after the same steps.
    for scale in [None, Some(0.3)] {
        let lissa = Lissa { scale, ..lissa.clone() };
        let alone = run(&lissa, 1);
        for threads in [2, 5] {
            assert_eq!(run(&lissa, threads), alone, "{threads} threads");
        }
        assert_eq!(alone.1.columns[0].iterations > 200, scale.is_some(), "{:?}", alone.1.columns[0]);
    }
    assert_ne!(run(&lissa, 1).0, run(&Lissa { seed: 4, ..lissa.clone() }, 1).0);
    // Groups have their own batches: three repeats are not one.
    assert_ne!(run(&lissa, 1).0, run(&Lissa { repeats: 1, ..lissa.clone() }, 1).0);
}

/// An operator whose batches wait for each other.
struct Meeting {
    operator: LeastSquares,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl LinearOperator<F64> for Meeting {
    fn backend(&self) -> &F64 {
        self.operator.backend()
    }
    fn layout(&self) -> &Arc<Layout> {
        self.operator.layout()
    }
    fn apply(&self, x: &Block<F64>, y: &mut Block<F64>) {
        self.operator.apply(x, y);
    }
    fn as_finite_sum(&self) -> Option<&dyn FiniteSumOperator<F64>> {
        Some(self)
    }
}

impl FiniteSumOperator<F64> for Meeting {
    fn examples(&self) -> usize {
        self.operator.examples()
    }

    fn apply_batch(&self, indices: &[usize], x: &Block<F64>, y: &mut Block<F64>) {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let start = Instant::now();
        while self.most.load(Ordering::SeqCst) < 2 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        self.operator.apply_batch(indices, x, y);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn repeats_for_a_single_column_run_at_the_same_time() {
    let operator = LeastSquares::new(200, 8, 0.1);
    let b = operator.block(1, 1);
    let lissa = Lissa { depth: Some(1), repeats: 2, batch: Some(10), scale: Some(10.0), ..automatic(1e-9) };
    let meeting = Meeting { operator, under_way: AtomicUsize::new(0), most: AtomicUsize::new(0) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let report = pool.install(|| solve(&lissa, &meeting, &b)).report;
    assert_eq!(report.columns[0].iterations, 1);
    assert_eq!(meeting.most.into_inner(), 2);
}

#[test]
fn repeats_and_depth_reduce_the_noise() {
    let operator = LeastSquares::new(1000, 12, 0.1);
    let b = operator.block(4, 1);
    let error = |repeats, depth| {
        let lissa =
            Lissa { depth: Some(depth), repeats, batch: Some(4), scale: Some(12.0), ..automatic(1e-9) };
        let solution = solve(&lissa, &operator, &b);
        certified(&solution, &operator, &b);
        distance(&solution.x.to_f64(), &exact(&operator, &b))
    };
    let [one, sixteen, deep] = [error(1, 1500), error(16, 1500), error(1, 24_000)];
    // Four times less is expected of both.
    assert!(sixteen < 0.4 * one && deep < 0.4 * one, "{one} {sixteen} {deep}");
}

#[test]
fn the_report_counts_what_was_read() {
    let operator = LeastSquares::new(200, 8, 0.1);
    let b = operator.block(1, 1);
    let lissa = Lissa { depth: Some(50), repeats: 3, batch: Some(10), scale: Some(10.0), ..automatic(1e-9) };
    let report = solve(&lissa, &operator, &b).report;
    let column = &report.columns[0];
    assert_eq!(column.termination, Termination::DepthReached);
    // 3 x 50 batches of a twentieth, and the product that checks.
    assert_eq!((column.iterations, column.products), (50, 8 + 1));
    assert!(report.summary().contains("raise --depth"), "{}", report.summary());
    assert_eq!(report.solver, "lissa, scale 1.000e1, batch 10, repeats 3");
    // 10 attempts at scales too small cost at least a step each.
    let backed_off = solve(&Lissa { scale: Some(0.02), ..lissa }, &operator, &b).report;
    assert!(backed_off.columns[0].iterations > 50, "{:?}", backed_off.columns[0]);
}

/// The published recursion, to the letter, on `H` with full batches: its iterates `X / s`, averaged over the last half.
fn published(h: &SymmetricMatrix, v: &[f64], from: &PublishedLissa) -> (Vec<f64>, Vec<f64>) {
    let (mut x, mut mean) = (v.to_vec(), vec![0.0; v.len()]);
    for step in 1..=from.depth {
        let dot = |row: &[f64]| row.iter().zip(&x).map(|(h, x)| h * x).sum::<f64>();
        let hx: Vec<f64> = h.as_slice().chunks(v.len()).map(dot).collect();
        x = (0..v.len()).map(|i| v[i] + (1.0 - from.damping) * x[i] - hx[i] / from.scale).collect();
        if step > from.depth / 2 {
            mean.iter_mut().zip(&x).for_each(|(m, x)| *m += x / from.scale);
        }
    }
    mean.iter_mut().for_each(|m| *m /= (from.depth - from.depth / 2) as f64);
    (x.iter().map(|x| x / from.scale).collect(), mean)
}

#[test]
fn published_settings_solve_with_scale_times_damping() {
    let dense = LeastSquares::new(60, 6, 0.0).to_dense();
    let h = DenseOperator::new(&Cpu::<f64>::new(), &dense);
    let v = random(6, 9);
    let b = Block::from_f64(h.backend(), h.layout(), &v);
    let settings = |depth| PublishedLissa { scale: 4.0, damping: 0.05, depth, ..PublishedLissa::KOH_LIANG };
    for depth in [1, 7, 40] {
        let system = Shifted { operator: &h, shift: settings(depth).effective_damping() };
        let solution = solve(&settings(depth).solver(1e-12, 0), &system, &b);
        let (_, mean) = published(&dense, &v, &settings(depth));
        assert!(distance(&solution.x.to_f64(), &mean) < 1e-13, "depth {depth}");
        assert_eq!(solution.report.damping, 0.2);
    }
    let system = Shifted { operator: &h, shift: 0.2 };
    let (fixed_point, _) = published(&dense, &v, &settings(2000));
    assert!(distance(&fixed_point, &exact(&system, &b)) < 1e-12);
    let solution = solve(&settings(2000).solver(1e-10, 0), &system, &b);
    assert!(solution.report.all_converged());
    assert!(distance(&solution.x.to_f64(), &fixed_point) < 1e-10);
}

#[test]
fn published_settings() {
    let damping = PublishedLissa::ALL.map(|settings| (settings.name, settings.effective_damping()));
    let expected =
        [("koh-liang", 0.0), ("fastif-mnli", 50.0), ("fastif-hans", 5000.0), ("fastif-anli", 5000.0)];
    assert_eq!(damping, expected);
    let lissa = PublishedLissa::KOH_LIANG.solver(0.1, 7);
    let same =
        Lissa { tolerance: 0.1, depth: Some(5000), repeats: 10, scale: Some(25.0), batch: Some(1), seed: 7 };
    assert_eq!(lissa, same);
}

#[test]
fn settings_that_mean_nothing() {
    let operator = LeastSquares::new(20, 3, 0.1);
    let wrong = [
        ("depth", Lissa { depth: Some(0), ..automatic(0.1) }),
        ("repeats", Lissa { repeats: 0, ..automatic(0.1) }),
        ("batch", Lissa { batch: Some(0), ..automatic(0.1) }),
        ("scale", Lissa { scale: Some(-1.0), ..automatic(0.1) }),
        ("scale", Lissa { scale: Some(f64::NAN), ..automatic(0.1) }),
    ];
    for (name, lissa) in wrong {
        assert_eq!(lissa.prepare(&operator).err(), Some(LinalgError::NotPositive(name)));
    }
    let neumann = Neumann { tolerance: 0.1, max_iterations: 9, scale: Some(0.0) };
    assert_eq!(neumann.prepare(&operator).err(), Some(LinalgError::NotPositive("scale")));
}

#[test]
fn a_cancelled_solve_certifies_where_it_stood() {
    /// Stops after some steps.
    struct After(AtomicUsize);
    impl Observer for After {
        fn cancelled(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed) >= 10
        }
    }
    let operator = LeastSquares::new(500, 6, 0.1);
    let b = operator.block(2, 1);
    let neumann = Neumann { tolerance: 1e-9, max_iterations: 100, scale: None };
    let lissa = Lissa { batch: Some(50), repeats: 2, ..automatic(1e-9) };
    for solver in [&neumann as &dyn Solver<F64>, &lissa] {
        let solution = solver.prepare(&operator).unwrap().solve(&b, &After(AtomicUsize::new(0)));
        certified(&solution, &operator, &b);
        for column in &solution.report.columns {
            assert_eq!(column.termination, Termination::Cancelled);
            assert!(column.residual < 0.9 && column.iterations <= 11, "{column:?}");
        }
    }
}

/// On one eigenvalue the residual is `(1 - lambda / s)^t`, to the last bit but a few.
#[test]
fn neumann_sums_what_the_closed_form_says() {
    let diagonal = |values: &[f64]| {
        let n = values.len();
        let data = (0..n * n).map(|at| if at % (n + 1) == 0 { values[at / n] } else { 0.0 });
        DenseOperator::new(&Cpu::<f64>::new(), &SymmetricMatrix::from_rows(n, data.collect()))
    };
    let a = diagonal(&[0.5, 1.0, 2.0]);
    let b = Block::from_f64(a.backend(), a.layout(), &[3.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let run = |scale, max_iterations| solve(&Neumann { tolerance: 1e-6, max_iterations, scale }, &a, &b);
    let solution = run(Some(4.0), 10);
    for (column, lambda) in solution.report.columns.iter().zip([0.5, 2.0]) {
        assert_eq!((column.termination, column.iterations), (Termination::MaxIterations, 10));
        assert!((column.residual - (1.0f64 - lambda / 4.0).powi(10)).abs() < 1e-14, "{column:?}");
        let [low, high] = column.eigenvalues.unwrap();
        assert!((low - 0.5).abs() < 1e-12 && (high - 2.0).abs() < 1e-12);
    }
    // The scale of the largest eigenvalue solves that column at once, and the other by a factor of 3/4 a step.
    let solution = run(None, 100);
    let iterations: Vec<usize> = solution.report.columns.iter().map(|c| c.iterations).collect();
    assert!(solution.report.all_converged());
    assert_eq!(iterations, [(1e-6f64.ln() / 0.75f64.ln()).ceil() as usize, 1]);
    assert!((solution.x.to_f64()[0] - 6.0).abs() < 1e-5);
    // Below half the largest eigenvalue the series has no sum for the second column.
    let report = run(Some(0.9), 1000).report;
    let ends: Vec<Termination> = report.columns.iter().map(|c| c.termination).collect();
    assert_eq!(ends, [Termination::Converged, Termination::Diverged]);
}

#[test]
fn neumann_in_f32_stalls_at_its_floor() {
    let cpu = Cpu::<f32>::new();
    let a = DenseOperator::new(&cpu, &LeastSquares::new(60, 6, 0.5).to_dense());
    let b = Block::from_f64(&cpu, a.layout(), &random(12, 3));
    let report = Neumann { tolerance: 1e-12, max_iterations: 100_000, scale: None }
        .prepare(&a)
        .unwrap()
        .solve(&b, &())
        .report;
    for column in &report.columns {
        assert_eq!(column.termination, Termination::Stagnated);
        assert!(column.residual < 1e-5 && column.iterations < 1000, "{column:?}");
    }
}
