//! Every solver by its name: that it runs, agrees where it is exact, says what it is where it is not, and keeps its
//! factors only as long as they are right.

use std::fs;

use if_data::Array;
use serde_json::Value;

use crate::support::{Folder, Problem, json};

const EXACT: [&str; 8] = [
    "--solver block-cg",
    "--solver cholesky",
    "--solver eigen",
    "--solver dual",
    "--solver cg --preconditioner diagonal",
    "--solver cg --preconditioner kfac",
    "--solver cg --preconditioner ekfac",
    "--solver cg --preconditioner nystroem --rank 5",
];
const APPROXIMATE: [&str; 7] = [
    "--solver arnoldi --rank 6",
    "--solver nystroem --rank 6",
    "--solver kfac",
    "--solver kfac --labels sampled",
    "--solver ekfac",
    "--solver datainf",
    "--solver diagonal",
];

fn folder() -> Folder {
    let folder = Folder::new();
    Problem::new(60, 3, true).write(&folder);
    folder
}

/// A small network with an indefinite Hessian, trained for an epoch on T.npz.
fn network() -> Folder {
    let folder = folder();
    folder.write(
        "net.toml",
        b"input = [4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"dense\"\nname = \"0\"\nout = 5\n[[layer]]\ntype = \"tanh\"\n[[layer]]\ntype = \"dense\"\nname = \"2\"\nout = 3\n",
    );
    folder.succeed(
        "train --model net.toml --train T.npz --l2 0.01 --epochs 1 --precision f64 --out N.safetensors",
    );
    folder
}

/// DataInf is of the empirical Fisher matrix alone.
fn curvature_of(arguments: &str) -> &'static str {
    if arguments.contains("datainf") { "fisher" } else { "gauss-newton" }
}

fn scores(folder: &Folder) -> Vec<f64> {
    match folder.scores("OUT.npy") {
        Array::F64(scores) => scores.into_iter().collect(),
        other => panic!("{:?}", other.shape()),
    }
}

fn report(folder: &Folder) -> Value {
    json(&fs::read_to_string(folder.path("OUT.json")).unwrap())
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut x.iter().zip(y).map(|(a, b)| a - b)) / norm(&mut y.iter().copied())
}

#[test]
fn exact_solvers_agree() {
    for model in ["softmax --weights W.safetensors", "net.toml --weights N.safetensors"] {
        let folder = network();
        let run = |arguments: &str| {
            let command = format!(
                "attribute --model {model} --train T.npz --query Q.npz --l2 0.05 --damping 0.02 --curvature {} --precision f64 --scores OUT.npy {arguments}",
                curvature_of(arguments)
            );
            let outcome = folder.run(&command);
            assert_eq!(outcome.code, 0, "{arguments}: {}", outcome.stderr);
            (scores(&folder), report(&folder))
        };
        let (expected, _) = run("--solver cg --tolerance 1e-12");
        for arguments in EXACT {
            let (found, report) = run(arguments);
            assert!(distance(&found, &expected) < 1e-7, "{arguments}: {}", distance(&found, &expected));
            assert_eq!(report["converged"], true, "{arguments}");
            assert_eq!(report["effective_damping"], 0.05 + 0.02);
            assert_eq!(report["curvature"], "gauss-newton");
        }
        // With its noise: as near as its tolerance says.
        let (found, report) = run("--solver lissa");
        assert!(distance(&found, &expected) < 0.1);
        assert!(report["solver"].as_str().unwrap().starts_with("lissa, scale"), "{}", report["solver"]);
        let (found, _) = run("--solver neumann --tolerance 1e-6 --max-iterations 100000");
        assert!(distance(&found, &expected) < 1e-4);
        for arguments in APPROXIMATE {
            let (found, report) = run(arguments);
            assert_eq!(report["queries"][0]["termination"], "approximate", "{arguments}");
            let residual = report["queries"][0]["residual"].as_f64().unwrap();
            assert!(residual > 1e-8 && residual.is_finite(), "{arguments}: {residual}");
            assert!(report["summary"].as_str().unwrap().contains("approximated by"), "{arguments}");
            assert!(found.iter().all(|score| score.is_finite()), "{arguments}");
        }
    }
}

#[test]
fn the_identity_gives_inner_products() {
    let folder = folder();
    assert_eq!(folder.attribute("--model softmax --solver identity").code, 0);
    let (own, found) = (report(&folder), scores(&folder));
    assert_eq!(own["scores"]["unit"], "inner-product");
    assert_eq!(own["scores"]["formula"], "score = g_q^T g_i");
    // A huge damping makes the inverse a multiple of the identity.
    assert_eq!(folder.attribute("--model softmax --solver cholesky --damping 1e9").code, 0);
    let expected: Vec<f64> = scores(&folder).iter().map(|score| score * 1e9).collect();
    assert!(distance(&found, &expected) < 1e-7);
    let refused = folder.run("explain --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 --solver identity");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("inner products predict no change"), "{}", refused.stderr);
}

#[test]
fn threads_and_seeds() {
    let folder = network();
    let run = |arguments: &str| {
        let command = format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.05 --damping 0.02 --curvature {} --precision f64 --scores OUT.npy {arguments}",
            curvature_of(arguments)
        );
        assert_eq!(folder.run(&command).code, 0, "{arguments}");
        folder.bytes("OUT.npy")
    };
    for arguments in EXACT.iter().chain(&APPROXIMATE).chain(&["--solver lissa", "--solver lissa --batch 10"])
    {
        let one = run(&format!("{arguments} --threads 1"));
        assert!(one == run(&format!("{arguments} --threads 2")), "{arguments}");
    }
    for arguments in
        ["--solver lissa --batch 10", "--solver nystroem --rank 6", "--solver kfac --labels sampled"]
    {
        assert!(run(arguments) == run(&format!("{arguments} --solver-seed 0")), "{arguments}");
        assert!(run(arguments) != run(&format!("{arguments} --solver-seed 1")), "{arguments}");
    }
}

#[test]
fn negative_curvature_is_flagged_by_every_solver_that_can_see_it() {
    let folder = network();
    for solver in
        ["cg", "block-cg", "lissa", "neumann", "cholesky", "eigen", "nystroem --rank 43", "arnoldi --rank 43"]
    {
        let outcome = folder.run(&format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0 --precision f64 --scores OUT.npy --solver {solver}"
        ));
        assert_eq!(outcome.code, 3, "{solver}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("negative curvature"), "{solver}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("raise --damping by more than"), "{solver}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("--curvature gauss-newton"), "{solver}: {}", outcome.stderr);
    }
}

/// The Hessian of a network, made definite by damping: conjugate gradients against the explicit matrix, and in the
/// precision that networks have by default.
#[test]
fn hessians_of_networks() {
    let folder = network();
    let run = |arguments: &str| -> Vec<f64> {
        folder.succeed(&format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.05 --damping 1 --scores OUT.npy {arguments}"
        ));
        folder.scores("OUT.npy").to_f64().into_raw_vec_and_offset().0
    };
    let exact = run("--solver cholesky --precision f64 --curvature hessian");
    let solved = run("--solver cg --tolerance 1e-10 --precision f64 --curvature hessian");
    assert!(distance(&solved, &exact) < 1e-9);
    assert!(distance(&run("--solver cg --curvature hessian"), &exact) < 1e-3);
    let other = run("--solver cholesky --precision f64 --curvature gauss-newton");
    assert!(distance(&other, &exact) > 1e-3, "this network tells the two matrices apart");
}

#[test]
fn a_scale_too_small_is_backed_off_from() {
    let folder = folder();
    let exact = {
        assert_eq!(folder.attribute("--model softmax --solver cholesky").code, 0);
        scores(&folder)
    };
    assert_eq!(folder.attribute("--model softmax --solver lissa").code, 0);
    let chosen = report(&folder)["solver"].as_str().unwrap().to_owned();
    let scale: f64 = chosen.split("scale ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let outcome = folder.attribute(&format!("--model softmax --solver lissa --scale {}", scale / 100.0));
    match outcome.code {
        0 => assert!(distance(&scores(&folder), &exact) < 0.2),
        3 => assert!(
            outcome.stderr.contains("diverged") || outcome.stderr.contains("depth"),
            "{}",
            outcome.stderr
        ),
        code => panic!("{code}: {}", outcome.stderr),
    }
    let outcome = folder.attribute("--model softmax --solver lissa --scale 1e-9");
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("diverged"), "{}", outcome.stderr);
    assert!(scores(&folder).iter().all(|score| score.is_nan()), "no score without a certificate");
}

#[test]
fn presets_are_translated() {
    let folder = folder();
    let outcome = folder.attribute("--model softmax --solver lissa --preset fastif-mnli");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("mean a damping of 50"), "{}", outcome.stderr);
    assert_eq!(report(&folder)["effective_damping"], 50.05);
}

#[test]
fn damping_by_itself_is_a_tenth_of_the_mean_eigenvalue() {
    let folder = folder();
    let outcome = folder.attribute("--model softmax --solver eigen --damping auto");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let report = report(&folder);
    assert_eq!(report["settings"]["damping"], "auto");
    let damping = report["effective_damping"].as_f64().unwrap() - 0.05;
    assert!(outcome.stderr.contains(&format!("--damping auto: {damping:.3e}")), "{}", outcome.stderr);
    // The trace of softmax regression: mean over examples of |x~|^2 sum_c p_c (1 - p_c).
    let problem = Problem::new(60, 3, true);
    let trace: f64 = (0..55)
        .map(|i| {
            let z: Vec<f64> = (0..3)
                .map(|c| {
                    let row: f64 = (0..4).map(|j| problem.weight[[c, j]] * problem.x[[i, j]]).sum();
                    (row + problem.bias.as_ref().unwrap()[c]).exp()
                })
                .collect();
            let total: f64 = z.iter().sum();
            let spread: f64 = z.iter().map(|e| e / total * (1.0 - e / total)).sum();
            spread * (1.0 + (0..4).map(|j| problem.x[[i, j]].powi(2)).sum::<f64>()) / 55.0
        })
        .sum();
    assert!((damping / (0.1 * trace / 15.0) - 1.0).abs() < 1e-9, "{damping} {trace}");
}

#[test]
fn factors_are_kept_and_never_stale() {
    let folder = network();
    let run = |arguments: &str| {
        let command = format!(
            "attribute --weights N.safetensors --train T.npz --query Q.npz --l2 0.05 --curvature gauss-newton --precision f64 --scores OUT.npy --run R {arguments}"
        );
        let outcome = folder.run(&command);
        assert_eq!(outcome.code, 0, "{arguments}: {}", outcome.stderr);
        (folder.bytes("OUT.npy"), outcome.stderr.contains("taken from R/factors"))
    };
    for solver in ["kfac", "ekfac", "diagonal", "nystroem --rank 6", "arnoldi --rank 6"] {
        let base = format!("--model net.toml --damping 0.02 --solver {solver}");
        let (fitted, reused) = run(&base);
        assert!(!reused, "{solver}");
        let (again, reused) = run(&base);
        assert!(reused && again == fitted, "{solver}: the same bits from the kept factors");
        // What they depend on.
        assert!(!run(&format!("{base} --layers 2")).1, "{solver}: other layers");
        if solver.contains("rank") {
            assert!(!run(&base.replace("0.02", "0.03")).1, "{solver}: other damping");
            assert!(!run(&format!("{base} --solver-seed 9")).1, "{solver}: other seed");
        } else {
            assert!(run(&base.replace("0.02", "0.03")).1, "{solver}: statistics know no damping");
        }
    }
    // Other examples, and other weights under the same names.
    let base = "--model net.toml --damping 0.02 --solver kfac";
    Problem::new(61, 3, true).write_examples(&folder, "T.npz", 0, 56);
    assert!(!run(base).1, "other examples");
    folder.succeed(
        "train --model net.toml --train T.npz --l2 0.01 --epochs 2 --precision f64 --out N.safetensors",
    );
    let (fitted, reused) = run(base);
    assert!(!reused, "other weights");
    // A damaged file is fitted anew, and said.
    for entry in fs::read_dir(folder.path("R/factors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let (again, reused) = run(base);
    assert!(!reused && again == fitted);
    assert!(run(base).1);
}

#[test]
fn truncated_queries_carry_their_bound() {
    let folder = network();
    let run = |arguments: &str| {
        let command = format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.05 --damping 0.02 --curvature {} --precision f64 --scores OUT.npy {arguments}",
            curvature_of(arguments)
        );
        let outcome = folder.run(&command);
        assert_eq!(outcome.code, 0, "{arguments}: {}", outcome.stderr);
        (scores(&folder), report(&folder), outcome.stdout)
    };
    let (exact, _, _) = run("");
    let (found, report, text) = run("--query-rank 1");
    let train = exact.len() / 5;
    for (q, entry) in report["queries"].as_array().unwrap().iter().enumerate() {
        let bound = entry["truncation"]["bound"].as_f64().unwrap();
        let rows = exact[q * train..(q + 1) * train].iter().zip(&found[q * train..]);
        let worst = rows.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= bound && bound < 100.0 * worst, "{worst} {bound}");
    }
    assert!(text.contains("queries truncated to rank 1"), "{text}");
    let largest = found.iter().map(|score| score.abs()).fold(0.0, f64::max);
    assert!(text.contains(&format!("(largest score {largest:.1e})")), "{text}");
    let (found, _, _) = run("--query-rank 5");
    assert!(distance(&found, &exact) < 1e-12);
}

/// What a solver has no use for is said, and refused nowhere: one list of settings goes through all of them.
#[test]
fn settings_without_use_are_named() {
    let folder = folder();
    let all =
        "--damping 0.1 --curvature gauss-newton --tolerance 1e-1 --max-iterations 50 --run R --solver-seed 3";
    for (solver, idle, used) in [
        ("identity", &["--damping", "--curvature", "--tolerance", "--max-iterations"][..], &["--l2"][..]),
        ("diagonal", &["--tolerance", "--max-iterations"], &["--damping: ", "--curvature: "]),
        ("cholesky", &["--max-iterations"], &["--tolerance", "--damping: "]),
        ("cg", &["--run", "--solver-seed"], &["--tolerance", "--max-iterations"]),
        ("kfac", &["--tolerance"], &["--run", "--solver-seed"]),
        ("lissa", &["--run", "--max-iterations"], &["--tolerance", "--solver-seed"]),
    ] {
        let outcome = folder.attribute(&format!("--model softmax --solver {solver} {all}"));
        assert_eq!(outcome.code, 0, "{solver}: {}", outcome.stderr);
        for option in idle {
            assert!(outcome.stderr.contains(&format!("note: {option}: ")), "{solver}: {}", outcome.stderr);
        }
        for option in used {
            assert!(!outcome.stderr.contains(&format!("note: {option}")), "{solver}: {}", outcome.stderr);
        }
    }
}

/// An approximation that leaves more than no answer would is no quiet success; one that leaves less is.
#[test]
fn approximations_that_solve_nothing_are_warned_of() {
    let folder = network();
    let run = |damping: &str| {
        let command = format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0 --curvature fisher --solver datainf --damping {damping} --precision f64 --scores OUT.npy"
        );
        let outcome = folder.run(&command);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let residual = |query: &Value| query["residual"].as_f64().unwrap();
        let residuals: Vec<f64> =
            report(&folder)["queries"].as_array().unwrap().iter().map(residual).collect();
        (residuals, outcome.stderr)
    };
    let (residuals, text) = run("1e-4");
    let far = residuals.iter().filter(|residual| **residual > 1.0).count();
    assert!(far > 0, "{residuals:?}");
    assert!(text.contains(&format!("; {far} with a residual above 1")), "{text}");
    assert!(text.contains("warning: 5 of 5 right-hand sides approximated by datainf"), "{text}");
    let (residuals, text) = run("10");
    assert!(residuals.iter().all(|residual| *residual < 1.0), "{residuals:?}");
    assert!(text.contains("note: 5 of 5") && !text.contains("above 1"), "{text}");
}

/// What is done once for all queries is in no query's count, and is said.
#[test]
fn products_of_a_preparation_are_named() {
    let folder = network();
    let run = |arguments: &str| {
        let command = format!(
            "attribute --model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.05 --curvature gauss-newton --precision f64 --scores OUT.npy {arguments}"
        );
        folder.run(&command).stderr
    };
    let said =
        |products: usize| format!("for the solver and the eigenvalues in certificates: {products}, once");
    // The network has 43 parameters: a sketch holds no more vectors, whatever is asked for.
    assert!(run("--solver cg --preconditioner nystroem --rank 6").contains(&said(6)));
    assert!(run("--solver cg --preconditioner nystroem --rank 1000000000").contains(&said(43)));
    assert!(!run("--solver cg").contains("before the first solve"));
    // Kept from the first time on; the extreme eigenvalues that certificates name are found anew.
    let kept = "--solver nystroem --rank 6 --run R";
    assert!(run(kept).contains(&said(30)));
    assert!(run(kept).contains(&said(24)));
}

#[test]
fn settings_go_with_their_solver() {
    let folder = folder();
    for (arguments, expected) in [
        ("--solver kfac --rank 3", "--rank belongs to nystroem and arnoldi"),
        ("--solver block-cg --preconditioner kfac", "--preconditioner belongs to --solver cg"),
        ("--solver cg --depth 3", "--depth belongs to --solver lissa"),
        ("--solver cg --scale 3", "--scale belongs to --solver lissa and neumann"),
        ("--solver eigen --per-layer", "--per-layer belongs to --solver cholesky"),
        ("--solver cg --labels exact", "--labels belongs to kfac, ekfac and diagonal"),
        ("--solver kfac --labels exact --curvature fisher", "takes the labels as they are"),
        (
            "--solver dual --curvature fisher",
            "expected --curvature gauss-newton, or the Hessian of a linear model, found fisher",
        ),
        ("--solver datainf --curvature hessian", "expected --curvature fisher, found hessian"),
        ("--solver lissa --repeats 1000000000", "--repeats: expected a whole number from 1 to 1000"),
        ("--damping -1", "--damping: expected auto or a number of at least 0, found \"-1\""),
        (
            "--query-rank 0",
            "--query-rank: expected a rank of at least 1, or a relative error between 0 and 1, found \"0\"",
        ),
        ("--solver lissa --scale 0", "--scale: expected a number above 0, found \"0\""),
    ] {
        let outcome = folder.attribute(&format!("--model softmax {arguments}"));
        assert_eq!(outcome.code, 2, "{arguments}");
        assert!(outcome.stderr.contains(expected), "{arguments}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.trim().lines().count(), 1, "{arguments}: {}", outcome.stderr);
        assert!(!folder.path("OUT.npy").exists(), "{arguments}");
    }
}
