//! `influence attribute`, on which other programs rely.

use if_data::{Array, write_npz};
use ndarray::ArrayD;

use crate::dense::Dense;
use crate::support::{Folder, Problem, interrupt, json, left_behind};

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

/// Texts as rows of token ids: trained, attributed, and refused where an id is unknown.
#[test]
fn texts_are_bags_of_token_ids() {
    let folder = Folder::new();
    let write = |name: &str, ids: &[[i32; 3]]| {
        let x = Array::F32(ArrayD::from_shape_fn(vec![ids.len(), 3], |at| ids[at[0]][at[1]] as f32));
        let y = Array::I64(ArrayD::from_shape_fn(vec![ids.len()], |at| i64::from(ids[at[0]][0] > 3)));
        write_npz(&folder.path(name), [("x", &x), ("y", &y)]).unwrap();
    };
    let texts: Vec<[i32; 3]> =
        (0..40).map(|i| [i % 8, (3 * i + 1) % 8, if i % 3 == 0 { -1 } else { i % 5 }]).collect();
    write("T.npz", &texts);
    write("Q.npz", &texts[3..6]);
    let model = "input = [3]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"embedding_bag\"\nname = \"emb\"\nvocab = 8\ndim = 4\n[[layer]]\ntype = \"dense\"\nname = \"fc\"\nout = 2\n";
    folder.write("text.toml", model.as_bytes());
    folder.succeed("train --model text.toml --train T.npz --l2 0.01 --epochs 20 --batch 8 --learning-rate 0.05 --out W.safetensors");
    let tensors = if_data::read_tensors(&folder.path("W.safetensors")).unwrap();
    assert_eq!(tensors["emb.weight"].shape(), [8, 4]);
    let outcome = folder.attribute("--model text.toml --damping 0.1 --curvature gauss-newton");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(folder.scores("OUT.npy").shape(), [3, 40]);

    write("Q.npz", &[[0, 1, 2], [3, 8, -1]]);
    let outcome = folder.attribute("--model text.toml");
    assert_eq!(outcome.code, 2);
    assert!(
        outcome.stderr.starts_with("error: Q.npz: example 1 has token id 8 at position 1"),
        "{}",
        outcome.stderr
    );
}

/// Without smoothing it is cross-entropy, to the bit; with it, another model.
#[test]
fn label_smoothing_is_a_loss_with_a_setting() {
    let folder = folder_of(&Problem::new(45, 3, true));
    let mut results = Vec::new();
    for loss in [
        "\"cross-entropy\"",
        "{ label-smoothing = { smoothing = 0.0 } }",
        "{ label-smoothing = { smoothing = 0.2 } }",
    ] {
        let model =
            format!("input = [4]\nloss = {loss}\n[[layer]]\ntype = \"dense\"\nname = \"fc\"\nout = 3\n");
        folder.write("net.toml", model.as_bytes());
        assert_eq!(folder.attribute("--model net.toml --precision f64").code, 0);
        results.push(folder.bytes("OUT.npy"));
        let explained = folder.succeed(
            "explain --model net.toml --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 --json",
        );
        assert!(json(&explained.stdout)["queries"][0]["probability"].as_f64().is_some());
    }
    assert_eq!(results[0], results[1]);
    assert_ne!(results[0], results[2]);
}

/// The margin of a binary model is linear in the parameters: its gradient is `y x`, whatever the weights.
#[test]
fn measures_other_than_the_loss() {
    let problem = Problem::new(45, 2, true);
    let folder = folder_of(&problem);
    let by_loss = folder.attribute("--model logistic --solver cholesky --json");
    let by_loss = json(&by_loss.stdout);
    assert_eq!(by_loss["measure"], "loss");
    let losses = folder.scores("OUT.npy").to_f64();
    let outcome = folder.attribute("--model logistic --solver cholesky --measure margin --json");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let certificates = json(&String::from_utf8(folder.bytes("OUT.json")).unwrap());
    assert_eq!(certificates["measure"], "margin");
    let scores = &certificates["scores"];
    assert_eq!(scores["unit"], "measurement-drop-on-removal");
    assert_eq!(scores["factor"].as_f64(), Some(1.0 / 40.0));
    let sign = "positive = proponent: removing the training example lowers the margin of the query";
    assert_eq!(scores["sign"], sign);
    assert!(scores["formula"].as_str().unwrap().ends_with("= -factor * score"), "{scores}");
    // The gradient of the loss is sigma(-m) times that of minus the margin.
    let margins = folder.scores("OUT.npy").to_f64();
    for q in 0..5 {
        let z = problem.x.row(40 + q).dot(&problem.weight.row(0)) + problem.bias.as_ref().unwrap()[0];
        let m = if problem.y[40 + q] == 1 { z } else { -z };
        for i in 0..40 {
            let expected = margins[[q, i]] / (1.0 + m.exp());
            assert!((losses[[q, i]] - expected).abs() < 1e-9 * losses[[q, i]].abs().max(1e-3));
        }
    }
    assert_eq!(folder.attribute("--model logistic --solver cholesky --measure logit").code, 0);
    assert_eq!(folder.scores("OUT.npy").to_f64(), margins, "with one output they are the same");
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
    for solver in ["cg", "block-cg", "cholesky"] {
        let mut results = Vec::new();
        for (threads, budget) in [
            (1, "4GiB"),
            (2, "4GiB"),
            (1, "1MiB"),
            (2, "1MiB"),
            // The features fit here; the activations do not at first.
            (2, "7130kB"),
            (2, "7300kB"),
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
    let folder = Folder::new();
    folder.succeed("train --model softmax --train digits:train --l2 0.001 --out W.safetensors");
    // Both outputs are open under their temporary names: the long run begins.
    let mut program = folder.begin(
        "attribute --model softmax --weights W.safetensors --train digits:train --query digits --l2 0.001 --tolerance 1e-30 --scores OUT.npy",
        || folder.names().len() >= 3,
    );
    interrupt(&mut program);
    let (code, stderr) = left_behind(program);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("error: interrupted; nothing was written"), "{stderr}");
    assert_eq!(folder.names(), ["W.safetensors"]);
}
