//! Every solver through every problem of the zoo: what each may say is checked, and how each ended is compared with the
//! tables of `docs/solver-safety.md`. `UPDATE_DOCS=1 cargo test -p if-linalg --test it safety` writes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::rows::Rows;
use if_linalg::testing::{Expectation, Problem, random, zoo};
use if_linalg::{
    Approximate, Approximation, Arnoldi, Backend, Block, BlockCg, Cg, Cholesky, ColumnReport, Complement,
    Cpu, DenseOperator, Dual, Eigen, Kronecker, KroneckerFactors, LayerBlocks, Layout, LinearOperator, Lissa,
    Neumann, Nystroem, PreconditionedCg, Real, Segment, Shifted, Solver, SymmetricMatrix, Termination,
};

/// Every problem is solved as it is, and with this many changes of its numbers in the last digit. A word that a change
/// turns into another is decided by rounding: another processor may decide otherwise, so it must not be in a table.
const CHANGES: u64 = 3;
/// Beyond this condition rounding decides how a solve ends.
const NEARLY_SINGULAR: f64 = 1e7;
/// Solvers that divide by the damping, and call a system without any singular.
const DIVIDE_BY_DAMPING: [&str; 2] = ["dual", "nystroem"];
/// Solvers that meet a zero eigenvalue as a quotient or a pivot of either sign, if at all.
const JUDGE_BY_ROUNDING: [&str; 4] = ["cg", "cg, nystroem", "block-cg", "cholesky"];
const MEMORY_BUDGET: usize = 1 << 20;

/// A matrix of the zoo on vectors of two layers, as the curvature of a network is.
struct Layered<B: Backend> {
    matrix: DenseOperator<B>,
    layout: Arc<Layout>,
}

impl<B: Backend> LinearOperator<B> for Layered<B> {
    fn backend(&self) -> &B {
        self.matrix.backend()
    }

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn apply(&self, x: &Block<B>, y: &mut Block<B>) {
        let flat = Block::from_f64(self.backend(), self.matrix.layout(), &x.to_f64());
        let mut product = flat.clone();
        self.matrix.apply(&flat, &mut product);
        y.copy_from(&Block::from_f64(self.backend(), &self.layout, &product.to_f64()));
    }
}

/// A problem of the zoo as `C + shift I`. Where the matrix is positive definite, half of its smallest eigenvalue is the
/// shift; where it is not finite, 1 is; elsewhere there is none.
struct System<B: Backend> {
    c: SymmetricMatrix,
    shift: f64,
    operator: Layered<B>,
    /// `U` with `C = U^T U` where `C` is not negative, of its positive part elsewhere.
    root: Block<B>,
    b: Block<B>,
    /// Beyond [`NEARLY_SINGULAR`], but not zero.
    nearly_singular: bool,
}

impl<B: Backend> System<B> {
    fn new(backend: &B, problem: &Problem, change: u64) -> Self {
        let n = problem.matrix.dim();
        let (matrix, b) = changed::<B::Elem>(problem, change);
        let Spectrum { shift, root, nearly_singular } = Spectrum::new::<B::Elem>(&matrix);
        let mut c = matrix;
        c.add_diagonal(-shift);
        let layout = two_layers(n);
        let [root, b] = [root, b].map(|rows| Block::from_f64(backend, &layout, &rows));
        let operator = Layered { matrix: DenseOperator::new(backend, &c), layout };
        Self { c, shift, operator, root, b, nearly_singular }
    }

    /// `|b_j - (C + shift I) x_j| / |b_j|` from the numbers themselves, and how far rounding can move it.
    fn residual(&self, j: usize, x: &[f64]) -> (f64, f64) {
        let n = self.c.dim();
        let round = |v: f64| B::Elem::from_f64(v).to_f64();
        let (b, x) = (&self.b.to_f64()[j * n..(j + 1) * n], &x[j * n..(j + 1) * n]);
        let mut r = b.to_vec();
        let mut size = norm(b);
        for (row, r) in self.c.as_slice().chunks(n).zip(&mut r) {
            *r -= row.iter().zip(x).map(|(c, x)| round(*c) * x).sum::<f64>();
            size += norm(row) * norm(x);
        }
        r.iter_mut().zip(x).for_each(|(r, x)| *r -= self.shift * x);
        let over = if norm(b) == 0.0 { 1.0 } else { norm(b) };
        (norm(&r) / over, n as f64 * B::Elem::EPSILON * (size + self.shift * norm(x)) / over)
    }
}

/// The numbers of a problem, each times a random factor within rounding of 1; change 0 leaves them as they are.
fn changed<T: Real>(problem: &Problem, change: u64) -> (SymmetricMatrix, Vec<f64>) {
    let (n, a) = (problem.matrix.dim(), problem.matrix.as_slice());
    let size = if change == 0 { 0.0 } else { T::EPSILON };
    let by = random(n * n + problem.b.len(), 100 + change);
    let factor = |at: usize| 1.0 + size * by[at];
    let matrix = (0..n * n).map(|at| a[at] * factor((at / n).max(at % n) * n + (at / n).min(at % n)));
    let b = problem.b.iter().enumerate().map(|(at, b)| b * factor(n * n + at)).collect();
    (SymmetricMatrix::from_rows(n, matrix.collect()), b)
}

/// What is known of a matrix before it is solved with.
struct Spectrum {
    shift: f64,
    root: Vec<f64>,
    nearly_singular: bool,
}

impl Spectrum {
    fn new<T: Real>(matrix: &SymmetricMatrix) -> Self {
        let n = matrix.dim();
        if !matrix.is_finite() {
            // A root is not finite either, and some shift makes the solvers look at it.
            return Self { shift: 1.0, root: matrix.as_slice().to_vec(), nearly_singular: false };
        }
        let (values, vectors) = matrix.eigen();
        let smallest = values.iter().fold(f64::INFINITY, |low, v| low.min(v.abs()));
        let largest = values.iter().fold(0.0f64, |high, v| high.max(v.abs()));
        let shift = if values[0] > n as f64 * T::EPSILON * largest { 0.5 * values[0] } else { 0.0 };
        let root = (0..n * n).map(|at| (values[at / n] - shift).max(0.0).sqrt() * vectors[at]).collect();
        let nearly_singular = largest > 0.0 && NEARLY_SINGULAR * smallest < largest;
        Self { shift, root, nearly_singular }
    }
}

/// A layer of two rows and one of one row, unless there are too few parameters.
fn two_layers(n: usize) -> Arc<Layout> {
    let segment = |name: &str, rows, cols| Segment { name: name.into(), rows, cols };
    match n / 4 {
        0 => Layout::vector(n),
        quarter => Layout::new(vec![segment("first", 2, quarter), segment("second", 1, n - 2 * quarter)]),
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// What is diagonal of `C` in each layer, in which basis.
#[derive(Clone, Copy, PartialEq)]
enum Fit {
    Kfac,
    Ekfac,
    Diagonal,
}

/// Factors of the explicit `C`. In a layer, `C_ss ~ G x A / trace` with `G` and `A` its sums over inputs and outputs,
/// which is `C_ss` where that is a Kronecker product.
fn kronecker<B: Backend>(system: &System<B>, fit: Fit) -> Arc<KroneckerFactors<B>> {
    let (backend, layout) = (system.operator.backend(), system.operator.layout());
    let (mut bases, mut values) = (Vec::new(), Vec::new());
    for (s, &Segment { rows, cols, .. }) in layout.segments().iter().enumerate() {
        let start = layout.start(s);
        let c = |p: usize, q: usize| system.c.as_slice()[(start + p) * layout.dim() + start + q];
        let g =
            (0..rows * rows).map(|at| (0..cols).map(|i| c(at / rows * cols + i, at % rows * cols + i)).sum());
        let a =
            (0..cols * cols).map(|at| (0..rows).map(|o| c(o * cols + at / cols, o * cols + at % cols)).sum());
        let (g, left) = SymmetricMatrix::from_rows(rows, g.collect()).eigen();
        let (a, right) = SymmetricMatrix::from_rows(cols, a.collect()).eigen();
        let trace: f64 = g.iter().sum();
        let along = |o: usize, i: usize| {
            let q = |p: usize| left[o * rows + p / cols] * right[i * cols + p % cols];
            (0..rows * cols).map(|p| (0..rows * cols).map(|r| q(p) * c(p, r) * q(r)).sum::<f64>()).sum()
        };
        values.extend((0..rows * cols).map(|at| match fit {
            Fit::Diagonal => c(at, at),
            Fit::Ekfac => along(at / cols, at % cols),
            Fit::Kfac if trace == 0.0 => 0.0,
            Fit::Kfac => g[at / cols] * a[at % cols] / trace,
        }));
        let upload = |q: &[f64]| backend.upload(&q.iter().map(|v| B::Elem::from_f64(*v)).collect::<Vec<_>>());
        bases.push((fit != Fit::Diagonal).then(|| [upload(&left), upload(&right)]));
    }
    Arc::new(KroneckerFactors::new(bases, Block::from_f64(backend, layout, &values)))
}

type Named<'s, B> = (&'static str, Box<dyn Solver<B> + 's>);

/// All solvers, as the tables name them.
fn solvers<'s, B: Backend + 's>(system: &System<B>, tolerance: f64) -> Vec<Named<'s, B>> {
    let cg = Cg { tolerance, max_iterations: 500 };
    let nystroem = |complement| Nystroem { rank: 5, seed: 1, complement };
    let preconditioner = Box::new(nystroem(Complement::Smallest));
    let root = Arc::new(Rows(system.root.clone()));
    let lissa = Lissa { tolerance, depth: None, repeats: 2, scale: None, batch: None, seed: 1 };
    let mut all: Vec<Named<'s, B>> = vec![
        ("cg", Box::new(cg.clone())),
        ("cg, nystroem", Box::new(PreconditionedCg { cg, preconditioner })),
        ("block-cg", Box::new(BlockCg { tolerance, max_iterations: 500 })),
        ("cholesky", Box::new(Cholesky { tolerance, memory_budget: MEMORY_BUDGET })),
        ("eigen", Box::new(Eigen { tolerance, memory_budget: MEMORY_BUDGET })),
        ("dual", Box::new(Dual { root, tolerance, memory_budget: MEMORY_BUDGET })),
        ("neumann", Box::new(Neumann { tolerance, max_iterations: 1000, scale: None })),
        ("lissa", Box::new(lissa)),
    ];
    let approximations: [(&'static str, Box<dyn Approximation<B> + 's>); 6] = [
        ("nystroem", Box::new(nystroem(Complement::Zero))),
        ("arnoldi", Box::new(Arnoldi { rank: 5, steps: 30, seed: 2 })),
        ("layer-cholesky", Box::new(LayerBlocks { memory_budget: MEMORY_BUDGET })),
        ("kfac", Box::new(Kronecker { name: "kfac", factors: kronecker(system, Fit::Kfac) })),
        ("ekfac", Box::new(Kronecker { name: "ekfac", factors: kronecker(system, Fit::Ekfac) })),
        ("diagonal", Box::new(Kronecker { name: "diagonal", factors: kronecker(system, Fit::Diagonal) })),
    ];
    all.extend(approximations.map(|(name, approximation)| {
        (name, Box::new(Approximate { approximation, tolerance }) as Box<dyn Solver<B> + 's>)
    }));
    all
}

/// How a right-hand side ended, and the word for it in the table.
#[derive(Clone, Copy)]
struct End {
    termination: Termination,
    word: &'static str,
}

/// Solves, and checks what every certificate must be: true, and no better than the problem allows.
fn ends<B: Backend>(system: &System<B>, due: (&Problem, f64), (name, solver): &Named<B>) -> Vec<End> {
    let (problem, tolerance) = due;
    let operator = Shifted { operator: &system.operator, shift: system.shift };
    let solution = solver.prepare(&operator).expect("the zoo fits every budget").solve(&system.b, &());
    let (n, x) = (system.c.dim(), solution.x.to_f64());
    let end = |(j, column): (usize, &ColumnReport)| {
        let (termination, residual, row) = (column.termination, column.residual, j * n..(j + 1) * n);
        let place = format!("{name} on {}, column {j}: {termination}, residual {residual:e}", problem.name);
        if residual.is_finite() {
            let (actual, rounding) = system.residual(j, &x);
            assert!((actual - residual).abs() <= rounding, "{place}, but it is {actual:e}");
        } else {
            // Nothing is known of the solution, so it must not look like one.
            assert!(termination.is_failure() && x[row.clone()].iter().all(|x| x.is_nan()), "{place}");
        }
        assert!(termination != Termination::Converged || residual <= tolerance, "{place}");
        assert!(termination != Termination::Approximate || residual > tolerance, "{place}");
        let allowed = match problem.expectation {
            Expectation::Solved => !termination.is_failure(),
            Expectation::SolvedOrReported => true,
            Expectation::Reported => termination != Termination::Converged,
        };
        assert!(allowed, "{place}");
        let finite = |numbers: &[f64]| numbers.iter().all(|v| v.is_finite());
        if !finite(system.c.as_slice()) || !finite(&system.b.to_f64()[row]) {
            assert_eq!(termination, Termination::NonFinite, "{place}");
        }
        End { termination, word: word(system, problem, name, termination) }
    };
    solution.report.columns.iter().enumerate().map(end).collect()
}

/// The same on every machine: what rounding decides has a word of its own.
fn word<B: Backend>(system: &System<B>, problem: &Problem, name: &str, end: Termination) -> &'static str {
    use Termination::{Converged, Singular, Stagnated};
    let rounding = matches!(end, Converged | Stagnated) || JUDGE_BY_ROUNDING.contains(&name);
    if system.nearly_singular && rounding {
        let reported = problem.expectation == Expectation::Reported;
        return if reported { "reported" } else { "solved or reported" };
    }
    match end {
        Converged => "solved",
        Singular if system.shift == 0.0 && DIVIDE_BY_DAMPING.contains(&name) => "needs damping",
        Singular => "singular",
        Stagnated => "stalled",
        Termination::Approximate => "approximated",
        Termination::NegativeCurvature { .. } => "negative curvature",
        Termination::NonFinite => "not finite",
        Termination::Diverged => "diverged",
        Termination::MaxIterations | Termination::DepthReached => "limit",
        Termination::Cancelled => unreachable!("nobody cancels"),
    }
}

/// How all solvers ended, in the order of [`solvers`].
struct Row {
    problem: Problem,
    solvers: Vec<(&'static str, Vec<End>)>,
}

impl Row {
    fn new<B: Backend>(backend: &B, problem: Problem, tolerance: f64) -> Self {
        let run = |change| -> Vec<(&'static str, Vec<End>)> {
            let system = System::new(backend, &problem, change);
            let solvers = solvers(&system, tolerance);
            solvers.iter().map(|solver| (solver.0, ends(&system, (&problem, tolerance), solver))).collect()
        };
        let solvers = run(0);
        for change in 1..=CHANGES {
            for ((name, ends), (_, other)) in solvers.iter().zip(run(change)) {
                let words = |ends: &[End]| ends.iter().map(|end| end.word).collect::<Vec<_>>();
                assert_eq!(words(ends), words(&other), "rounding decides: {name} on {}", problem.name);
            }
        }
        Self { problem, solvers }
    }

    /// A line of the table: each different word of a solver once.
    fn line(&self) -> String {
        let words = |ends: &[End]| BTreeSet::from_iter(ends.iter().map(|end| end.word));
        let cells = self.solvers.iter().map(|(_, ends)| Vec::from_iter(words(ends)).join(", "));
        let due = match self.problem.expectation {
            Expectation::Solved => "solution",
            Expectation::SolvedOrReported => "solution or report",
            Expectation::Reported => "report",
        };
        format!("| {} | {due} | {} |\n", self.problem.name, Vec::from_iter(cells).join(" | "))
    }
}

/// Both tables of one arithmetic.
fn tables<B: Backend>(backend: &B, tolerance: f64) -> String {
    let rows: Vec<Row> = zoo().into_iter().map(|problem| Row::new(backend, problem, tolerance)).collect();
    let names: Vec<&str> = rows[0].solvers.iter().map(|(name, _)| *name).collect();
    let mut text =
        format!("| problem | due | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    rows.iter().for_each(|row| text += &row.line());
    text += "\nRight-hand sides, counted:\n\n";
    text += "| solver | well-posed: solved | approximated | failed | ill-posed: failure reported | \
             approximated, above the tolerance | called converged |\n|---|---|---|---|---|---|---|\n";
    for (s, name) in names.iter().enumerate() {
        text += &format!("| {name} |");
        for (expectation, order) in [(Expectation::Solved, [0, 1, 2]), (Expectation::Reported, [2, 1, 0])] {
            let mut counts = [0; 3];
            let rows = rows.iter().filter(|row| row.problem.expectation == expectation);
            for end in rows.flat_map(|row| &row.solvers[s].1) {
                counts[match end.termination {
                    Termination::Converged => 0,
                    Termination::Approximate => 1,
                    _ => 2,
                }] += 1;
            }
            order.iter().for_each(|&i| text += &format!(" {} |", counts[i]));
        }
        text += "\n";
    }
    text
}

const INTRODUCTION: &str = "\
# How safely the solvers fail

Every solver of if-linalg runs through every problem of its zoo (`crates/if-linalg/src/testing/zoo.rs`), and this page
shows how each right-hand side ended: what has no solution must be reported, and never be called converged. A test
makes the page, fails where a solver is not honest or the page is out of date, and writes it again by

```
UPDATE_DOCS=1 cargo test -p if-linalg --test it safety
```

- **solved**: the true residual, recomputed, is at most the tolerance, 1e-9 in f64 and 1e-4 in f32.
- **approximated**: the solver promises no more; the true residual is in the report, and above the tolerance.
- **negative curvature**, **singular**, **not finite**, **diverged**, **stalled** (above the tolerance), **limit** (of
  iterations or depth): failures, reported with a remedy.
- **needs damping**: the solver divides by the damping, and reports a system without any as singular.
- **reported**, **solved or reported**: rounding decides which failure is met, or whether one is.

A positive definite matrix is solved as `C + damping I` with half of its smallest eigenvalue as damping, the matrix
with a NaN with damping 1, all others without. `nystroem` and `arnoldi` have rank 5; `kfac`, `ekfac` and `diagonal` are
those of the explicit matrix on two layers; `lissa` takes the matrix whole at every step. DataInf needs a network and
is not here.
";

/// The file, written anew where the caller asks for that.
#[test]
fn every_failure_is_reported() {
    let (double, single) = (tables(&Cpu::<f64>::new(), 1e-9), tables(&Cpu::<f32>::new(), 1e-4));
    let text = format!("{INTRODUCTION}\n## In f64\n\n{double}\n## In f32\n\n{single}");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/solver-safety.md");
    // Beside this program, where that was copied to another machine.
    let beside =
        std::env::current_exe().expect("this program has a place").with_file_name("solver-safety.md");
    let path = if built.exists() { built } else { beside };
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("docs/ can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let command = "UPDATE_DOCS=1 cargo test -p if-linalg --test it safety";
    assert!(committed == text, "docs/solver-safety.md is out of date: {command}");
}
