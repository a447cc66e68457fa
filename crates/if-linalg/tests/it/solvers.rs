//! Every solver through the zoo, every operator of the algebra through the conformance kit, on every device.

use if_linalg::testing::{Expectation, check_operator, check_solver, random, zoo};
use if_linalg::{
    Approximate, Approximation, Arnoldi, Backend, Block, BlockCg, Cg, Cholesky, Complement, Cpu,
    DenseOperator, Eigen, LayerBlocks, LinearOperator, Lissa, LowRank, Neumann, Nystroem, Observer,
    PreconditionedCg, Scaled, Shifted, Solver, Sum, SymmetricMatrix, Termination,
};

test_on_devices!(
    f64: zoo_f64, zoo_of_approximations, algebra, report_knows_spectrum_and_damping,
    negative_curvature_is_measured_and_explained, iteration_limit_is_reported, blocks_of_dependent_right_hand_sides,
    a_block_needs_fewer_products,
);
test_on_devices!(f32: zoo_f32, f32_stalls_above_its_floor_and_says_so);

fn well_conditioned() -> SymmetricMatrix {
    zoo().into_iter().find(|p| p.name == "well conditioned").unwrap().matrix
}

fn zoo_f64<B: Backend<Elem = f64>>(backend: &B) {
    let cg = check_solver(backend, &Cg { tolerance: 1e-9, max_iterations: 500 }, 1e-9);
    let block = check_solver(backend, &BlockCg { tolerance: 1e-9, max_iterations: 500 }, 1e-9);
    let cholesky = check_solver(backend, &Cholesky { tolerance: 1e-9, memory_budget: 1 << 20 }, 1e-9);
    let eigen = check_solver(backend, &Eigen { tolerance: 1e-9, memory_budget: 1 << 20 }, 1e-9);
    for lines in [cg, block, cholesky, eigen] {
        assert_eq!(lines.len(), zoo().len());
    }
    let neumann =
        check_solver(backend, &Neumann { tolerance: 1e-9, max_iterations: 1000, scale: None }, 1e-9);
    let lissa = Lissa { tolerance: 1e-6, depth: None, repeats: 2, scale: None, batch: None, seed: 1 };
    let lissa = check_solver(backend, &lissa, 1e-6);
    // What the spectral estimate sees is named, not left to the iterates.
    for lines in [neumann, lissa] {
        assert!(
            lines.contains(&"barely indefinite: stopped at negative curvature -1.00e-3".into()),
            "{lines:#?}"
        );
        assert!(lines.contains(&"NaN in the matrix: met a number that is not finite".into()), "{lines:#?}");
    }
}

/// Approximations of the whole space are solvers: what can be solved is, and nothing else is called so.
fn zoo_of_approximations<B: Backend<Elem = f64>>(backend: &B) {
    let nystroem = Nystroem { rank: 30, seed: 1, complement: Complement::Zero };
    let layers = LayerBlocks { memory_budget: 1 << 20 };
    let wholes: [Box<dyn Approximation<B>>; 2] = [Box::new(nystroem), Box::new(layers)];
    for approximation in wholes {
        let lines = check_solver(backend, &Approximate { approximation, tolerance: 1e-9 }, 1e-9);
        for (line, problem) in lines.iter().zip(zoo()) {
            assert!(problem.expectation != Expectation::Solved || !line.contains("approximated"), "{line}");
            check_ending(line);
        }
    }
    let arnoldi = Box::new(Arnoldi { rank: 10, steps: 30, seed: 1 });
    let arnoldi = Approximate { approximation: arnoldi, tolerance: 1e-9 };
    check_solver(backend, &arnoldi, 1e-9).iter().for_each(|line| check_ending(line));
    let preconditioner = Box::new(Nystroem { rank: 5, seed: 1, complement: Complement::Smallest });
    let cg = Cg { tolerance: 1e-9, max_iterations: 500 };
    let lines = check_solver(backend, &PreconditionedCg { cg, preconditioner }, 1e-9);
    for line in lines.iter().filter(|line| line.contains("definite")) {
        assert!(line.contains("negative curvature"), "{line}");
    }
}

/// The reason that a problem must be reported with.
fn check_ending(line: &str) {
    let reasons = [("definite", "negative curvature"), ("NaN", "not finite"), ("infinite", "not finite")];
    for (problem, reason) in reasons {
        let name = line.split(':').next().unwrap();
        assert!(!name.contains(problem) || line.contains(reason), "{line}");
    }
}

fn zoo_f32<B: Backend<Elem = f32>>(backend: &B) {
    check_solver(backend, &Neumann { tolerance: 1e-4, max_iterations: 1000, scale: None }, 1e-4);
    let lissa = Lissa { tolerance: 1e-3, depth: None, repeats: 1, scale: None, batch: None, seed: 1 };
    check_solver(backend, &lissa, 1e-3);
}

fn f32_stalls_above_its_floor_and_says_so<B: Backend<Elem = f32>>(backend: &B) {
    let operator = DenseOperator::new(backend, &well_conditioned());
    let b = Block::from_f64(backend, operator.layout(), &random(40, 1));
    // Reachable in f32.
    let reach = Cg { tolerance: 1e-5, max_iterations: 500 }.prepare(&operator).unwrap().solve(&b, &());
    assert!(reach.report.all_converged(), "{}", reach.report.summary());
    // Below its floor: the recursion would get there, the true residual does not.
    let beyond = Cg { tolerance: 1e-12, max_iterations: 500 }.prepare(&operator).unwrap().solve(&b, &());
    for column in &beyond.report.columns {
        assert_eq!(column.termination, Termination::Stagnated);
        assert!(column.residual > 1e-9 && column.residual < 1e-5, "{}", column.residual);
    }
    assert!(beyond.report.summary().contains("--precision f64"), "{}", beyond.report.summary());
}

fn algebra<B: Backend<Elem = f64>>(backend: &B) {
    let a = DenseOperator::new(backend, &well_conditioned());
    let vectors = Block::from_f64(backend, a.layout(), &random(3 * 20, 4));
    let low = LowRank { vectors: &vectors, coefficients: &[1.0, -2.0, 0.5] };
    let operators: [&dyn LinearOperator<B>; 5] = [
        &a,
        &Shifted { operator: &a, shift: 0.3 },
        &Scaled { operator: &a, alpha: -2.0 },
        &low,
        &Sum { left: &a, right: &low },
    ];
    for operator in operators {
        check_operator(operator, 1e-13);
    }
    // Against the definition, element by element.
    let (dense, u) = (low.to_dense(), vectors.to_f64());
    for i in 0..20 {
        for j in 0..20 {
            let expected: f64 =
                [1.0, -2.0, 0.5].iter().enumerate().map(|(r, d)| d * u[r * 20 + i] * u[r * 20 + j]).sum();
            assert!((dense.as_slice()[i * 20 + j] - expected).abs() < 1e-14);
        }
    }
    let shifted = Shifted { operator: &a, shift: 0.3 }.to_dense();
    assert!((shifted.as_slice()[21] - a.to_dense().as_slice()[21] - 0.3).abs() < 1e-13);
}

/// Large enough that every parallel path is taken.
#[test]
fn bits_do_not_depend_on_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let cpu = Cpu::<f64>::new();
            let n = 1500;
            let mut a = vec![0.0; n * n];
            let v = random(n, 3);
            for i in 0..n {
                for j in 0..n {
                    a[i * n + j] = v[i] * v[j] + if i == j { 1.0 + v[i].abs() } else { 0.0 };
                }
            }
            let operator = DenseOperator::new(&cpu, &SymmetricMatrix::from_rows(n, a));
            let b = Block::from_f64(&cpu, operator.layout(), &random(40 * n, 8));
            let solution =
                Cg { tolerance: 1e-10, max_iterations: 50 }.prepare(&operator).unwrap().solve(&b, &());
            (solution.x.to_f64(), solution.report)
        })
    };
    assert_eq!(run(1), run(2));
}

fn report_knows_spectrum_and_damping<B: Backend<Elem = f64>>(backend: &B) {
    let a = DenseOperator::new(backend, &well_conditioned());
    let system = Shifted { operator: &a, shift: 0.5 };
    let b = Block::from_f64(backend, a.layout(), &random(20, 1));
    let report = Cg { tolerance: 1e-10, max_iterations: 100 }.prepare(&system).unwrap().solve(&b, &()).report;
    let [low, high] = report.columns[0].eigenvalues.unwrap();
    assert!((low - 1.5).abs() < 1e-6 && (high - 20.5).abs() < 1e-6, "{low} {high}");
    assert_eq!(report.damping, 0.5);
}

fn negative_curvature_is_measured_and_explained<B: Backend<Elem = f64>>(backend: &B) {
    let problem = zoo().into_iter().find(|p| p.name == "indefinite").unwrap();
    let operator = DenseOperator::new(backend, &problem.matrix);
    let b = Block::from_f64(backend, operator.layout(), &problem.b);
    for solver in [
        Box::new(Cg { tolerance: 1e-8, max_iterations: 100 }) as Box<dyn Solver<B>>,
        Box::new(Cholesky { tolerance: 1e-8, memory_budget: 1 << 20 }),
    ] {
        let report = solver.prepare(&operator).unwrap().solve(&b, &()).report;
        let Termination::NegativeCurvature { curvature } = report.columns[0].termination else {
            panic!("{}", report.summary())
        };
        assert!((-4.5 - 1e-9..0.0).contains(&curvature), "{curvature}");
        assert!(report.summary().contains("raise --damping"), "{}", report.summary());
    }
}

#[test]
fn too_large_for_the_budget() {
    let cpu = Cpu::<f64>::new();
    let operator = DenseOperator::new(&cpu, &well_conditioned());
    let error = Cholesky { tolerance: 1e-8, memory_budget: 100 }.prepare(&operator).err().unwrap();
    assert!(error.to_string().contains("needs 3.1 KiB and the memory budget is 100 B"), "{error}");
}

#[test]
fn cancelled_columns_say_so() {
    struct Stop;
    impl Observer for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let cpu = Cpu::<f64>::new();
    let operator = DenseOperator::new(&cpu, &well_conditioned());
    let b = Block::from_f64(&cpu, operator.layout(), &random(20, 1));
    let solution = Cg { tolerance: 1e-8, max_iterations: 100 }.prepare(&operator).unwrap().solve(&b, &Stop);
    assert_eq!(solution.report.columns[0].termination, Termination::Cancelled);
    assert!((solution.report.columns[0].residual - 1.0).abs() < 1e-12);
}

fn iteration_limit_is_reported<B: Backend<Elem = f64>>(backend: &B) {
    let operator = DenseOperator::new(backend, &well_conditioned());
    let b = Block::from_f64(backend, operator.layout(), &random(20, 1));
    let report = Cg { tolerance: 1e-12, max_iterations: 3 }.prepare(&operator).unwrap().solve(&b, &()).report;
    assert_eq!(report.columns[0].termination, Termination::MaxIterations);
    assert_eq!((report.columns[0].iterations, report.columns[0].products), (3, 4));
    assert!(report.columns[0].residual > 1e-12);
    let _ = backend.describe();
}

/// Equal, dependent and more right-hand sides than dimensions: the block shrinks, and all are solved.
fn blocks_of_dependent_right_hand_sides<B: Backend<Elem = f64>>(backend: &B) {
    let operator = DenseOperator::new(backend, &well_conditioned());
    let n = operator.dim();
    let mut rows = random(3 * n, 5);
    rows.extend(rows[..n].to_vec());
    rows.extend((0..n).map(|i| 2.0 * rows[i] - rows[n + i]).collect::<Vec<_>>());
    rows.extend(rows[..n].iter().map(|v| 1e-30 * v).collect::<Vec<_>>());
    let many = random(25 * n, 6);
    for rows in [rows, many] {
        let b = Block::from_f64(backend, operator.layout(), &rows);
        let solution =
            BlockCg { tolerance: 1e-10, max_iterations: 50 }.prepare(&operator).unwrap().solve(&b, &());
        assert!(solution.report.all_converged(), "{}", solution.report.summary());
        let exact =
            Cholesky { tolerance: 1e-10, memory_budget: 1 << 20 }.prepare(&operator).unwrap().solve(&b, &());
        for (found, expected) in solution.x.to_f64().chunks(n).zip(exact.x.to_f64().chunks(n)) {
            let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-8 * size));
        }
    }
}

/// The reason to share: each right-hand side needs fewer products.
fn a_block_needs_fewer_products<B: Backend<Elem = f64>>(backend: &B) {
    let n = 300;
    let spread: Vec<f64> = (0..n).map(|i| 10f64.powf(-3.0 * i as f64 / n as f64)).collect();
    let v = random(n, 3);
    let dense =
        (0..n * n).map(|at| v[at / n] * v[at % n] + if at % (n + 1) == 0 { spread[at / n] } else { 0.0 });
    let operator = DenseOperator::new(backend, &SymmetricMatrix::from_rows(n, dense.collect()));
    let b = Block::from_f64(backend, operator.layout(), &random(30 * n, 2));
    let single =
        Cg { tolerance: 1e-6, max_iterations: 1000 }.prepare(&operator).unwrap().solve(&b, &()).report;
    let block =
        BlockCg { tolerance: 1e-6, max_iterations: 1000 }.prepare(&operator).unwrap().solve(&b, &()).report;
    assert!(single.all_converged() && block.all_converged());
    assert!(4 * block.products() < single.products(), "{} of {}", block.products(), single.products());
}
