//! Low-rank and exact solvers against explicit matrices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::rows::Rows;
use if_linalg::testing::random;
use if_linalg::{
    Approximate, Approximation, Arnoldi, Backend, Block, Cg, Complement, Cpu, DenseOperator, Dual, Eigen,
    LayerBlocks, Layout, LinalgError, LinearOperator, LowRank, LowRankFactors, LowRankInverse, Nystroem,
    PreconditionedCg, Real, Segment, Shifted, Solution, Solver, SymmetricMatrix, Termination,
};

const TOLERANCE: f64 = 1e-9;

/// Orthonormal rows, fixed by the seed.
fn rotation(n: usize, seed: u64) -> Vec<f64> {
    let a = random(n * n, seed);
    let symmetric = (0..n * n).map(|at| a[at] + a[at % n * n + at / n]).collect();
    SymmetricMatrix::from_rows(n, symmetric).eigen().1
}

/// `sum_i values[i] v_i v_i^T` with the rows `v_i` of [`rotation`].
fn with_spectrum(values: &[f64], seed: u64) -> SymmetricMatrix {
    weighted(&rotation(values.len(), seed), values)
}

/// `sum_i d[i] u_i u_i^T` with the rows `u_i` of `u`, element by element.
fn weighted(u: &[f64], d: &[f64]) -> SymmetricMatrix {
    let n = u.len() / d.len();
    let mut a = vec![0.0; n * n];
    for (u, d) in u.chunks(n).zip(d) {
        for (i, row) in a.chunks_mut(n).enumerate() {
            row.iter_mut().zip(u).for_each(|(a, v)| *a += d * u[i] * v);
        }
    }
    SymmetricMatrix::from_rows(n, a)
}

/// `(matrix + shift I)^-1 b` for every row of `b`, by a factorisation in `f64`.
fn solved(matrix: &SymmetricMatrix, shift: f64, b: &[f64]) -> Vec<f64> {
    let mut matrix = matrix.clone();
    matrix.add_diagonal(shift);
    let mut x = b.to_vec();
    matrix.cholesky().unwrap().solve(&mut x);
    x
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = dot(expected, expected).sqrt();
    let off = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(off <= tolerance * size, "{off:e} of {size:e}");
}

fn solve<B: Backend>(solver: &dyn Solver<B>, operator: &dyn LinearOperator<B>, b: &[f64]) -> Solution<B> {
    let b = Block::from_f64(operator.backend(), operator.layout(), b);
    solver.prepare(operator).unwrap().solve(&b, &())
}

fn approximate<'s, B: Backend>(approximation: impl Approximation<B> + 's) -> Approximate<'s, B> {
    Approximate { approximation: Box::new(approximation), tolerance: TOLERANCE }
}

fn nystroem(rank: usize) -> Nystroem {
    Nystroem { rank, seed: 5, complement: Complement::Zero }
}

fn endings<B: Backend>(solution: &Solution<B>) -> Vec<Termination> {
    solution.report.columns.iter().map(|column| column.termination).collect()
}

/// An operator that counts the vectors it multiplies.
struct Counted<'a, B: Backend> {
    inner: &'a dyn LinearOperator<B>,
    products: AtomicUsize,
}

impl<'a, B: Backend> Counted<'a, B> {
    fn new(inner: &'a dyn LinearOperator<B>) -> Self {
        Self { inner, products: AtomicUsize::new(0) }
    }

    fn taken(&self) -> usize {
        self.products.swap(0, Ordering::Relaxed)
    }
}

impl<B: Backend> LinearOperator<B> for Counted<'_, B> {
    fn backend(&self) -> &B {
        self.inner.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        self.inner.layout()
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        self.products.fetch_add(x.k(), Ordering::Relaxed);
        self.inner.apply(x, y);
    }

    fn damping(&self) -> f64 {
        self.inner.damping()
    }
}

/// Three layers, 6 + 5 + 8 parameters.
fn layers() -> Arc<Layout> {
    let segment = |name: &str, rows, cols| Segment { name: name.into(), rows, cols };
    Layout::new(vec![segment("a", 2, 3), segment("b", 1, 5), segment("c", 4, 2)])
}

#[test]
fn a_sketch_of_the_whole_space_is_the_inverse() {
    let cpu = Cpu::<f64>::new();
    let values: Vec<f64> = (0..40).map(|i| 10f64.powf(1.0 - 4.0 * f64::from(i) / 39.0)).collect();
    let matrix = with_spectrum(&values, 1);
    let c = DenseOperator::new(&cpu, &matrix);
    let b = random(3 * 40, 2);
    for shift in [0.0, 0.05] {
        let a = Shifted { operator: &c, shift };
        for complement in [Complement::Zero, Complement::Smallest] {
            // More vectors than there are dimensions are as many as there are.
            let solution = solve(&approximate(Nystroem { rank: 50, seed: 3, complement }), &a, &b);
            assert!(solution.report.all_converged(), "{}", solution.report.summary());
            assert_close(&solution.x.to_f64(), &solved(&matrix, shift, &b), 1e-9);
            assert_eq!((solution.report.solver.as_str(), solution.report.damping), ("nystroem", shift));
        }
        let arnoldi = solve(&approximate(Arnoldi { rank: 40, steps: 40, seed: 3 }), &a, &b);
        assert_close(&arnoldi.x.to_f64(), &solved(&matrix, shift, &b), 1e-9);
    }
}

/// The values are those of `C`: a shift that stayed in them, or vectors that are no vectors of it, would show.
#[test]
fn nystroem_recovers_a_curvature_of_low_rank() {
    let cpu = Cpu::<f64>::new();
    let (n, exact) = (60, [9.0, 4.0, 2.0, 1.0, 0.5, 0.1, 0.03, 0.01]);
    let v = &rotation(n, 4)[..8 * n];
    let c = DenseOperator::new(&cpu, &weighted(v, &exact));
    let a = Shifted { operator: &c, shift: 0.2 };
    let b = random(2 * n, 6);
    let factors = nystroem(12).factors(&a).unwrap();
    let (values, u) = (factors.values(), factors.vectors().to_f64());
    assert_close(&values[..8], &exact, 1e-11);
    assert!(values[8..].iter().all(|v| *v > 0.0 && *v < 1e-12), "{values:?}");
    for i in 0..8 {
        assert!((dot(&u[i * n..(i + 1) * n], &v[i * n..(i + 1) * n]).abs() - 1.0).abs() < 1e-11);
    }
    let solution = solve(&approximate(nystroem(12)), &a, &b);
    assert!(solution.report.all_converged(), "{}", solution.report.summary());
    assert_close(&solution.x.to_f64(), &solved(&weighted(v, &exact), 0.2, &b), 1e-11);
}

/// Orthonormal vectors for a spectrum that decays below rounding, and the bounds that every Nystroem approximation
/// keeps: `0 <= C' <= C`, and what is missing has the size of the first values left out.
#[test]
fn nystroem_stays_below_the_curvature() {
    let cpu = Cpu::<f64>::new();
    let n = 50;
    let spectrum: Vec<f64> = (0..n).map(|i| 10f64.powf(-0.5 * i as f64)).collect();
    let matrix = with_spectrum(&spectrum, 7);
    for (rank, bound) in [(30, 1e-12), (10, spectrum[7])] {
        let factors = nystroem(rank).factors(&DenseOperator::new(&cpu, &matrix)).unwrap();
        let (u, values) = (factors.vectors().to_f64(), factors.values());
        assert!(values.windows(2).all(|w| w[0] >= w[1]) && values.iter().all(|value| *value > 0.0));
        for i in 0..values.len() {
            for j in 0..values.len() {
                let overlap = dot(&u[i * n..(i + 1) * n], &u[j * n..(j + 1) * n]);
                assert!((overlap - f64::from(u8::from(i == j))).abs() < 1e-13, "{i} {j} {overlap}");
            }
        }
        let kept = weighted(&u, values);
        let missing = matrix.as_slice().iter().zip(kept.as_slice()).map(|(a, b)| a - b).collect();
        let (missing, _) = SymmetricMatrix::from_rows(n, missing).eigen();
        assert!(missing[0] > -1e-13 && missing[n - 1] < bound, "{missing:?}");
    }
}

/// Each way to treat the rest, against its formula written out; and projections: a right-hand side in the span does not
/// see the complement, one outside sees nothing else.
#[test]
fn what_the_factors_do_not_span() {
    let cpu = Cpu::<f64>::new();
    let (n, r, shift) = (30, 7, 0.3);
    let c = DenseOperator::new(&cpu, &with_spectrum(&(1..=n).map(|i| 5.0 / i as f64).collect::<Vec<_>>(), 8));
    let a = Shifted { operator: &c, shift };
    let factors = Arc::new(nystroem(r).factors(&a).unwrap());
    let (u, values) = (factors.vectors().to_f64(), factors.values().to_vec());
    assert_eq!(values.len(), r);
    let b = random(n, 9);
    let outside = [1.0 / shift, 1.0 / (values[r - 1] + shift), 0.0];
    let complements = [Complement::Zero, Complement::Smallest, Complement::Dropped];
    for (complement, outside) in complements.into_iter().zip(outside) {
        let stored = LowRankInverse { name: "stored", factors: Ok(factors.clone()), complement };
        let apply = |b: &[f64]| solve(&approximate(stored_again(&stored)), &a, b).x.to_f64();
        let mut inside = vec![0.0; n];
        let mut expected = vec![0.0; n];
        for (u, value) in u.chunks(n).zip(&values) {
            let overlap = dot(u, &b);
            inside.iter_mut().zip(u).for_each(|(x, u)| *x += overlap * u);
            expected.iter_mut().zip(u).for_each(|(x, u)| *x += overlap / (value + shift) * u);
        }
        let rest: Vec<f64> = b.iter().zip(&inside).map(|(b, inside)| b - inside).collect();
        assert_close(&apply(&inside), &expected, 1e-12);
        let scaled: Vec<f64> = rest.iter().map(|v| outside * v).collect();
        let found = apply(&rest);
        assert!(found.iter().zip(&scaled).all(|(a, b)| (a - b).abs() < 1e-12));
        expected.iter_mut().zip(&scaled).for_each(|(x, rest)| *x += rest);
        assert_close(&apply(&b), &expected, 1e-12);
    }
}

/// As a program would reload them: vectors and values alone.
fn stored_again<B: Backend>(stored: &LowRankInverse<B>) -> LowRankInverse<B> {
    let LowRankInverse { name, factors, complement } = stored;
    let factors = factors.as_ref().unwrap();
    let vectors = factors.vectors();
    let again = Block::from_rows(vectors.backend(), vectors.layout(), &vectors.to_rows());
    let factors = Ok(Arc::new(LowRankFactors::new(again, factors.values().to_vec())));
    LowRankInverse { name, factors, complement: *complement }
}

/// Factors do not know the shift they were found at; used again, they cost no product.
#[test]
fn factors_are_paid_once() {
    let cpu = Cpu::<f64>::new();
    let values: Vec<f64> = (0..90).map(|i| 3.0 * 0.8f64.powi(i)).collect();
    let c = DenseOperator::new(&cpu, &with_spectrum(&values, 3));
    let (low, high) = (Shifted { operator: &c, shift: 0.01 }, Shifted { operator: &c, shift: 0.5 });
    let (low, high) = (Counted::new(&low), Counted::new(&high));
    let b = Block::from_f64(&cpu, c.layout(), &random(2 * 90, 3));

    let factors = Arc::new(nystroem(70).factors(&low).unwrap());
    assert_eq!(low.taken(), 70);
    let stored = LowRankInverse { name: "nystroem", factors: Ok(factors), complement: Complement::Zero };
    let reused = approximate(stored).prepare(&high).unwrap();
    assert_eq!(high.taken(), 24, "the spectrum in the report, and nothing for the factors");
    let reused = reused.solve(&b, &());
    assert_eq!(high.taken(), 2, "the residual of each column");
    let anew = approximate(nystroem(70)).prepare(&high).unwrap().solve(&b, &());
    assert_close(&reused.x.to_f64(), &anew.x.to_f64(), 1e-9);

    high.taken();
    let _ = Arnoldi { rank: 5, steps: 20, seed: 1 }.factors(&high).unwrap();
    assert_eq!(high.taken(), 20);
}

#[test]
fn nystroem_saves_products_of_conjugate_gradients() {
    let cpu = Cpu::<f64>::new();
    let values: Vec<f64> = (0..200).map(|i| 100.0 * 0.85f64.powi(i)).collect();
    let c = DenseOperator::new(&cpu, &with_spectrum(&values, 2));
    let a = Shifted { operator: &c, shift: 0.01 };
    let b = random(4 * 200, 4);
    let cg = Cg { tolerance: 1e-8, max_iterations: 1000 };
    let plain = solve(&cg, &a, &b).report;
    let preconditioner = Box::new(Nystroem { rank: 50, seed: 1, complement: Complement::Smallest });
    let solution = solve(&PreconditionedCg { cg, preconditioner }, &a, &b);
    let report = &solution.report;
    assert!(plain.all_converged() && report.all_converged());
    assert_eq!(report.solver, "cg, preconditioned by nystroem");
    assert!(3 * report.products() <= plain.products(), "{} of {}", report.products(), plain.products());
}

/// The pairs are eigenpairs of `C`, chosen by magnitude: the third largest is negative, within the damping.
#[test]
fn arnoldi_keeps_the_largest_pairs_and_drops_the_rest() {
    let cpu = Cpu::<f64>::new();
    let n = 80;
    let mut values: Vec<f64> = (0..n).map(|i| 8.0 * 0.6f64.powi(i as i32)).collect();
    values[2] = -values[2];
    let v = rotation(n, 6);
    let c = DenseOperator::new(&cpu, &weighted(&v, &values));
    let shift = 4.0;
    let a = Shifted { operator: &c, shift };
    let arnoldi = Arnoldi { rank: 6, steps: 50, seed: 2 };
    let factors = arnoldi.factors(&a).unwrap();
    assert_close(factors.values(), &values[..6], 1e-12);

    let b = random(2 * n, 1);
    let solution = solve(&approximate(arnoldi), &a, &b);
    let mut expected = vec![0.0; 2 * n];
    for (x, b) in expected.chunks_mut(n).zip(b.chunks(n)) {
        for (v, value) in v.chunks(n).zip(&values[..6]) {
            let part = dot(v, b) / (value + shift);
            x.iter_mut().zip(v).for_each(|(x, v)| *x += part * v);
        }
    }
    assert_close(&solution.x.to_f64(), &expected, 1e-9);
    assert_eq!(endings(&solution), [Termination::Approximate; 2]);
    assert!(solution.report.none_failed() && solution.report.worst_residual() > 0.1);
}

/// What each fit can see of a matrix with eigenvalues -2 and 1, 2, ..., and the size that it says.
#[test]
fn negative_curvature_is_seen_where_it_can_be() {
    let cpu = Cpu::<f64>::new();
    let n = 20;
    let values: Vec<f64> = (0..n).map(|i| if i == 0 { -2.0 } else { i as f64 }).collect();
    let c = DenseOperator::new(&cpu, &with_spectrum(&values, 9));
    let b = random(2 * n, 1);
    for (shift, expected) in [(0.0, -2.0), (0.5, -1.5)] {
        let a = Shifted { operator: &c, shift };
        let solvers: [&dyn Solver<Cpu<f64>>; 5] = [
            &approximate(nystroem(n)),
            &approximate(Nystroem { complement: Complement::Smallest, ..nystroem(n) }),
            &approximate(Arnoldi { rank: 3, steps: n, seed: 1 }),
            &Eigen { tolerance: TOLERANCE, memory_budget: 1 << 20 },
            &approximate(LayerBlocks { memory_budget: 1 << 20 }),
        ];
        for solver in solvers {
            let solution = solve(solver, &a, &b);
            assert!(solution.x.to_f64().iter().all(|v| v.is_nan()));
            for termination in endings(&solution) {
                let Termination::NegativeCurvature { curvature } = termination else {
                    panic!("{}: {termination}", solver.name());
                };
                assert!((curvature - expected).abs() < 1e-9, "{}: {curvature}", solver.name());
            }
        }
    }
    // Damped enough, A is positive although C is not: C' has no negative part, and preconditions.
    let a = Shifted { operator: &c, shift: 2.5 };
    let factors = nystroem(n).factors(&a).unwrap();
    assert_eq!(factors.values().len(), n - 1);
    assert_close(&factors.values()[..1], &[(n - 1) as f64], 1e-9);
    let preconditioner = Box::new(Nystroem { complement: Complement::Smallest, ..nystroem(10) });
    let cg = Cg { tolerance: TOLERANCE, max_iterations: 100 };
    assert!(solve(&PreconditionedCg { cg, preconditioner }, &a, &b).report.all_converged());
}

#[test]
fn without_a_shift_a_part_of_the_space_has_no_inverse() {
    let cpu = Cpu::<f64>::new();
    let c = DenseOperator::new(&cpu, &with_spectrum(&(1..=20).map(f64::from).collect::<Vec<_>>(), 9));
    let b = random(20, 1);
    for shift in [0.0, -0.5] {
        let a = Shifted { operator: &c, shift };
        let zero = solve(&approximate(nystroem(10)), &a, &b);
        assert_eq!(endings(&zero), [Termination::Singular], "shift {shift}");
        let smallest = Nystroem { complement: Complement::Smallest, ..nystroem(10) };
        assert_eq!(endings(&solve(&approximate(smallest), &a, &b)), [Termination::Approximate]);
    }
    // Nothing was found: with a shift that is all there is.
    let zero = DenseOperator::new(&cpu, &SymmetricMatrix::from_rows(20, vec![0.0; 400]));
    let a = Shifted { operator: &zero, shift: 4.0 };
    for rank in [0, 5] {
        let solution = solve(&approximate(nystroem(rank)), &a, &b);
        assert!(solution.report.all_converged());
        assert_close(&solution.x.to_f64(), &b.iter().map(|b| b / 4.0).collect::<Vec<_>>(), 1e-15);
    }
}

#[test]
fn seeds_fix_the_sketch() {
    let cpu = Cpu::<f64>::new();
    let values: Vec<f64> = (0..60).map(|i| 1.0 / f64::from(1 + i)).collect();
    let c = DenseOperator::new(&cpu, &with_spectrum(&values, 2));
    let bits = |factors: LowRankFactors<_>| (factors.vectors().to_f64(), factors.values().to_vec());
    let sketch = |seed| bits(Nystroem { seed, ..nystroem(15) }.factors(&c).unwrap());
    let krylov = |seed| bits(Arnoldi { rank: 5, steps: 9, seed }.factors(&c).unwrap());
    assert_eq!(sketch(1), sketch(1));
    assert_eq!(krylov(1), krylov(1));
    assert!(sketch(1) != sketch(2) && krylov(1) != krylov(2));
}

/// Large enough that every parallel path is taken.
#[test]
fn bits_do_not_depend_on_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let cpu = Cpu::<f64>::new();
            let (n, r) = (9000, 20);
            let segment = |rows| Segment { name: String::new(), rows, cols: 1 };
            let layout = Layout::new(vec![segment(n - 400), segment(150), segment(250)]);
            let u = Block::<Cpu<f64>>::from_f64(&cpu, &layout, &random(r * n, 1));
            let ones = vec![1.0; r];
            let low = LowRank { vectors: &u, coefficients: &ones };
            let a = Shifted { operator: &low, shift: 1.0 };
            let b = random(70 * n, 2);
            let mut found = Vec::new();
            let dual = Dual { root: Arc::new(Rows(u.clone())), tolerance: 1e-16, memory_budget: 1 << 20 };
            found.push(solve(&dual, &a, &b).x.to_f64());
            found.push(solve(&approximate(nystroem(25)), &a, &b).x.to_f64());
            found.push(solve(&approximate(Arnoldi { rank: 9, steps: 12, seed: 1 }), &a, &b).x.to_f64());
            let small = DenseOperator::new(
                &cpu,
                &with_spectrum(&random(150, 3).iter().map(|v| v.abs()).collect::<Vec<_>>(), 1),
            );
            let b = random(70 * 150, 2);
            found.push(solve(&Eigen { tolerance: 1e-9, memory_budget: 1 << 24 }, &small, &b).x.to_f64());
            found.push(solve(&approximate(LayerBlocks { memory_budget: 1 << 24 }), &small, &b).x.to_f64());
            found
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn eigen_solves_and_reports_the_spectrum() {
    let cpu = Cpu::<f64>::new();
    let n = 70;
    let values: Vec<f64> = (0..n).map(|i| 0.25 + i as f64).collect();
    let matrix = with_spectrum(&values, 3);
    let c = DenseOperator::new(&cpu, &matrix);
    let a = Shifted { operator: &c, shift: 0.5 };
    let b = random(65 * n, 2);
    let eigen = Eigen { tolerance: 1e-12, memory_budget: 4 * 8 * n * n };
    let solution = solve(&eigen, &a, &b);
    assert!(solution.report.all_converged(), "{}", solution.report.summary());
    assert_close(&solution.x.to_f64(), &solved(&matrix, 0.5, &b), 1e-12);
    for column in &solution.report.columns {
        let [low, high] = column.eigenvalues.unwrap();
        assert!((low - 0.75).abs() < 1e-12 && (high - 69.75).abs() < 1e-12, "{low} {high}");
    }
    assert_eq!((solution.report.solver.as_str(), solution.report.damping), ("eigen", 0.5));
    let singular = Shifted { operator: &c, shift: -0.25 };
    let solution = solve(&eigen, &singular, &b[..n]);
    assert_eq!(endings(&solution), [Termination::Singular]);
    assert!(solution.report.columns[0].eigenvalues.unwrap()[0].abs() < 1e-12);
    let small = Eigen { memory_budget: 4 * 8 * n * n - 1, ..eigen };
    assert!(matches!(small.prepare(&a), Err(LinalgError::TooLarge { dim: 70, .. })));
}

/// The blocks on the diagonal, each solved on its own; what couples them is left out, and the residual says how much.
#[test]
fn layer_blocks_solve_every_layer_alone() {
    let cpu = Cpu::<f64>::new();
    let (layout, n, r) = (layers(), 19, 40);
    let u = random(r * n, 3);
    let vectors = Block::<Cpu<f64>>::from_f64(&cpu, &layout, &u);
    let ones = vec![1.0; r];
    let low = LowRank { vectors: &vectors, coefficients: &ones };
    let shifted = Shifted { operator: &low, shift: 0.7 };
    let a = Counted::new(&shifted);
    let mut matrix = weighted(&u, &ones);
    matrix.add_diagonal(0.7);
    let bounds = [0, 6, 11, 19];
    let layer = |i: usize| bounds.iter().rposition(|start| *start <= i).unwrap();
    let same = |at: usize| layer(at / n) == layer(at % n);
    let blocks = (0..n * n).map(|at| if same(at) { matrix.as_slice()[at] } else { 0.0 }).collect();
    let b = random(3 * n, 4);
    let expected = solved(&SymmetricMatrix::from_rows(n, blocks), 0.0, &b);

    let blocks = LayerBlocks { memory_budget: 8 * (36 + 25 + 64) };
    let solver = approximate(blocks);
    let prepared = solver.prepare(&a).unwrap();
    assert_eq!(a.taken(), 2 * n, "each column, and the spectrum");
    let solution = prepared.solve(&Block::from_f64(&cpu, &layout, &b), &());
    assert_close(&solution.x.to_f64(), &expected, 1e-12);
    assert_eq!(endings(&solution), [Termination::Approximate; 3]);
    for ((column, x), b) in solution.report.columns.iter().zip(expected.chunks(n)).zip(b.chunks(n)) {
        let r: Vec<f64> = matrix.as_slice().chunks(n).zip(b).map(|(row, b)| b - dot(row, x)).collect();
        assert!((column.residual - dot(&r, &r).sqrt() / dot(b, b).sqrt()).abs() < 1e-10);
    }

    let small = LayerBlocks { memory_budget: blocks.memory_budget - 1 };
    let error = approximate(small).prepare(&a).err().unwrap();
    assert_eq!(error, LinalgError::BlocksTooLarge { largest: 8, needed: 1000, budget: 999 });
    assert_eq!(a.taken(), 3, "only the residuals: the budget is known before any product");
}

fn dual<B: Backend>(vectors: &Block<B>, tolerance: f64) -> Dual<'static, B> {
    Dual { root: Arc::new(Rows(vectors.clone())), tolerance, memory_budget: 1 << 20 }
}

#[test]
fn dual_is_the_inverse() {
    let cpu = Cpu::<f64>::new();
    let (layout, n) = (layers(), 19);
    // Fewer terms than parameters, as many, and more.
    for r in [1, 7, 19, 30] {
        let u = random(r * n, 3);
        let vectors = Block::<Cpu<f64>>::from_f64(&cpu, &layout, &u);
        let ones = vec![1.0; r];
        let low = LowRank { vectors: &vectors, coefficients: &ones };
        let a = Shifted { operator: &low, shift: 0.4 };
        let mut b = random(4 * n, 5);
        b[n..2 * n].fill(0.0);
        let solution = solve(&dual(&vectors, 1e-12), &a, &b);
        assert!(solution.report.all_converged(), "{}", solution.report.summary());
        assert_close(&solution.x.to_f64(), &solved(&weighted(&u, &ones), 0.4, &b), 1e-12);
        assert_eq!((solution.report.solver.as_str(), solution.report.damping), ("dual", 0.4));
        assert_eq!(solution.report.products(), 4);
    }
}

#[test]
fn dual_reports_what_it_cannot_solve() {
    let cpu = Cpu::<f64>::new();
    let (layout, n, r) = (layers(), 19, 7);
    let vectors = Block::<Cpu<f64>>::from_f64(&cpu, &layout, &random(r * n, 3));
    let low = LowRank { vectors: &vectors, coefficients: &[1.0; 7] };
    let mut b = random(3 * n, 5);
    b[n] = f64::NAN;
    b[2 * n + 18] = f64::INFINITY;
    let a = Shifted { operator: &low, shift: 0.4 };
    let solution = solve(&dual(&vectors, TOLERANCE), &a, &b);
    use Termination::{Converged, NonFinite, Singular, Stagnated};
    assert_eq!(endings(&solution), [Converged, NonFinite, NonFinite]);
    assert!(solution.x.to_f64()[n..].iter().all(|v| v.is_nan()));

    for shift in [0.0, -1.0] {
        let singular = Shifted { operator: &low, shift };
        assert_eq!(endings(&solve(&dual(&vectors, TOLERANCE), &singular, &b)), [Singular; 3]);
    }
    // A shift below rounding beside equal terms: a pivot fails, or the residual shows it.
    let twice = vectors.select(&[0, 1, 2, 0]);
    let low_twice = LowRank { vectors: &twice, coefficients: &[1.0; 4] };
    let a_twice = Shifted { operator: &low_twice, shift: 1e-30 };
    let ends = endings(&solve(&dual(&twice, TOLERANCE), &a_twice, &b[..n]));
    assert!(ends == [Singular] || ends == [Stagnated], "{ends:?}");
    // The root of another operator.
    let mut other = vectors.clone();
    other.axpby(0.5, &vectors, 0.0);
    let solution = solve(&dual(&other, TOLERANCE), &a, &b[..n]);
    assert_eq!(endings(&solution), [Stagnated]);
    assert!(solution.report.worst_residual() > 0.1);
    let mut with_nan = vectors.clone();
    with_nan.fill_row(2, f64::NAN);
    assert_eq!(endings(&solve(&dual(&with_nan, TOLERANCE), &a, &b[..n])), [NonFinite]);
    let small = Dual { memory_budget: 8 * r * r - 1, ..dual(&vectors, TOLERANCE) };
    assert!(matches!(small.prepare(&a), Err(LinalgError::TooLarge { dim: 7, needed: 392, budget: 391 })));
}

/// In `f32` the difference in Woodbury's formula leaves `|C| / shift` times its rounding; refinement takes that away
/// from right-hand sides in the span of the root.
#[test]
fn refinement_reaches_the_tolerance_in_f32() {
    let cpu = Cpu::<f32>::new();
    let (n, r) = (2000, 100);
    let layout = Layout::vector(n);
    let u: Vec<f64> = random(r * n, 1).iter().map(|v| v / (n as f64 / 3.0).sqrt()).collect();
    let vectors = Block::<Cpu<f32>>::from_f64(&cpu, &layout, &u);
    let low = LowRank { vectors: &vectors, coefficients: &vec![1.0; r] };
    let mut b = Block::zeros(&cpu, &layout, 2);
    b.combine(&random(2 * r, 3), &vectors, 0.0);
    let reports = |shift: f64, tolerance: f64| {
        let a = Shifted { operator: &low, shift };
        dual(&vectors, tolerance).prepare(&a).unwrap().solve(&b, &()).report
    };
    let once = reports(1e-3, 1e-2);
    assert!(once.all_converged() && once.worst_residual() > 1e-4, "{}", once.worst_residual());
    // One step where the loss is 1e3 times the rounding; a second one, from the new residual, where it is 1e4.
    for (shift, tolerance, products) in [(1e-3, 5e-6, 2), (1e-4, 2e-6, 3)] {
        let refined = reports(shift, tolerance);
        assert!(refined.all_converged(), "{}", refined.summary());
        assert!(refined.columns.iter().all(|column| column.products == products), "{:?}", refined.columns);
    }
    // Below the floor of the arithmetic it stops, and says so.
    let floor = reports(1e-3, f32::EPSILON.to_f64() * 1e-3);
    assert!(floor.columns.iter().all(|c| c.termination == Termination::Stagnated && c.products <= 6));
}
