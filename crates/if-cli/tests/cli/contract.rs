//! `influence attribute`, on which other programs rely.

use if_data::Array;
use ndarray::ArrayD;

use crate::dense::Dense;
use crate::support::{Folder, Problem, json};

/// Largest difference, relative to the largest of the expected numbers.
fn difference(found: &ArrayD<f64>, expected: &ndarray::Array2<f64>) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / size
}

fn folder_of(problem: &Problem) -> Folder {
    let folder = Folder::new();
    problem.write(&folder);
    folder
}

#[test]
fn scores_are_those_of_the_explicit_matrices() {
    for (model, classes, bias) in [("softmax", 3, true), ("logistic", 2, true), ("logistic", 2, false)] {
        let problem = Problem::new(45, classes, bias);
        let folder = folder_of(&problem);
        for (removal, penalty) in [("fixed", 0.0), ("renormalised", 0.05)] {
            let expected = Dense { shift: 0.05 + 0.02, penalty }.scores(&problem, 5);
            for (solver, precision, bound) in [
                ("cg", "f64", 1e-8),
                ("cholesky", "f64", 1e-12),
                ("cg", "f32", 1e-3),
                ("cholesky", "f32", 1e-5),
            ] {
                let outcome = folder.attribute(&format!(
                    "--model {model} --solver {solver} --damping 0.02 --removal {removal} --precision {precision} --max-iterations 100"
                ));
                assert_eq!(outcome.code, 0, "{}", outcome.stderr);
                let found = folder.scores("OUT.npy");
                assert!(matches!((&found, precision), (Array::F64(_), "f64") | (Array::F32(_), "f32")));
                let error = difference(&found.to_f64(), &expected);
                assert!(error < bound, "{model} {solver} {removal} {precision}: {error:e}");
            }
        }
    }
}

#[test]
fn a_network_of_one_dense_layer_is_softmax_regression() {
    let problem = Problem::new(45, 3, true);
    let folder = folder_of(&problem);
    let layers =
        "input = [4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"dense\"\nname = \"fc\"\nout = 3\n";
    folder.write("net.toml", layers.as_bytes());
    let outcome = folder.attribute("--model net.toml --precision f64");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let expected = Dense { shift: 0.05, penalty: 0.0 }.scores(&problem, 5);
    assert!(difference(&folder.scores("OUT.npy").to_f64(), &expected) < 1e-8);

    folder.attribute("--model net.toml");
    assert!(
        matches!(folder.scores("OUT.npy"), Array::F32(_)),
        "networks compute in f32 unless told otherwise"
    );
}

#[test]
fn certificates_lie_beside_the_scores() {
    let folder = folder_of(&Problem::new(45, 3, true));
    let outcome = folder.attribute("--model softmax --tolerance 1e-6 --json");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("not at an optimum"), "{}", outcome.stderr);
    let certificates = json(&String::from_utf8(folder.bytes("OUT.json")).unwrap());
    let queries = certificates["queries"].as_array().unwrap();
    assert_eq!(queries.len(), 5);
    for query in queries {
        assert_eq!(query["termination"], "converged");
        assert!(query["residual"].as_f64().unwrap() <= 1e-6);
    }
    let scores = &certificates["scores"];
    assert_eq!(
        (scores["unit"].as_str(), scores["dtype"].as_str()),
        (Some("loss-change-on-removal"), Some("<f8"))
    );
    assert_eq!(scores["factor"].as_f64(), Some(1.0 / 40.0));
    assert!(scores["sign"].as_str().unwrap().starts_with("positive = proponent"));
    assert_eq!(certificates["settings"]["removal"], "fixed");
    assert!(certificates["optimality"]["relative"].as_f64().unwrap() > 1e-3);

    // stdout is the same document and the time it took.
    let mut printed = json(&outcome.stdout);
    assert!(printed.as_object_mut().unwrap().remove("seconds").is_some());
    assert_eq!(printed, certificates);
    assert_eq!(folder.names(), ["OUT.json", "OUT.npy", "Q.npz", "T.npz", "W.safetensors"]);
}

#[test]
fn threads_and_memory_change_no_bit() {
    // Three row blocks and two query blocks.
    let problem = Problem::new(1300, 3, true);
    let folder = Folder::new();
    problem.write_examples(&folder, "T.npz", 0, 1150);
    problem.write_examples(&folder, "Q.npz", 1150, 1300);
    problem.write_weights(&folder, "W.safetensors");
    for solver in ["cg", "cholesky"] {
        let mut results = Vec::new();
        for (threads, budget) in [
            (1, "4GiB"),
            (2, "4GiB"),
            (1, "1MiB"),
            (2, "1MiB"),
            // The features fit here, and their activations not yet.
            (2, "3800kB"),
            (2, "3850kB"),
        ] {
            let outcome = folder.attribute(&format!(
                "--model softmax --solver {solver} --threads {threads} --memory-budget {budget}"
            ));
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            assert_eq!(outcome.stderr.contains("note: about"), budget == "1MiB", "{}", outcome.stderr);
            results.push((folder.bytes("OUT.npy"), folder.bytes("OUT.json")));
        }
        assert!(results.iter().all(|result| *result == results[0]), "{solver}");
    }
}

#[test]
fn queries_that_did_not_converge_are_written_and_flagged() {
    let folder = folder_of(&Problem::new(45, 3, true));
    let outcome = folder.attribute("--model softmax --max-iterations 2 --json");
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("0 of 5 right-hand sides solved"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("raise --max-iterations"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("queries 0, 1, 2, 3, 4"), "{}", outcome.stderr);
    assert_eq!(json(&outcome.stdout)["converged"], false);
    assert_eq!(folder.scores("OUT.npy").shape(), [5, 40]);
}

#[test]
fn an_svm_is_attributed_at_the_smooth_hinge() {
    let problem = Problem::new(45, 2, true);
    let folder = folder_of(&problem);
    let outcome = folder.attribute("--model svm --temperature 0.5 --solver cholesky --json");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(json(&outcome.stdout)["settings"]["temperature"], 0.5);
    let wide = folder.scores("OUT.npy");
    folder.attribute("--model svm --temperature 0.4 --solver cholesky");
    assert_ne!(folder.scores("OUT.npy"), wide);
}

/// The first Ctrl-C stops the work, and nothing is left in the folder.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing() {
    use std::process::Command;
    use std::time::Duration;

    let folder = Folder::new();
    folder.succeed("train --model softmax --train digits:train --l2 0.001 --out W.safetensors");
    let mut program = folder.spawn(
        "attribute --model softmax --weights W.safetensors --train digits:train --query digits --l2 0.001 --tolerance 1e-30 --scores OUT.npy",
    );
    // Both outputs are open under their temporary names: the long run begins.
    while folder.names().len() < 3 {
        assert!(program.try_wait().unwrap().is_none(), "ended too early to be interrupted");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("error: interrupted; nothing was written"), "{stderr}");
    assert_eq!(folder.names(), ["W.safetensors"]);
}
