//! `influence damping`: the path against single solves by other commands, the files, bad input.

use std::collections::BTreeMap;

use if_data::{Array, write_tensors};
use ndarray::ArrayD;
use serde_json::Value;

use crate::support::{Folder, Outcome, Problem, json, numbers};

fn folder() -> Folder {
    let folder = Folder::new();
    Problem::new(45, 3, true).write(&folder);
    folder
}

/// A tanh network at weights that are no optimum, so that its Hessian is indefinite.
fn network(folder: &Folder) {
    let text = "input = [4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"dense\"\nname = \"0\"\nout = 3\n[[layer]]\ntype = \"tanh\"\n[[layer]]\ntype = \"dense\"\nname = \"2\"\nout = 3\n";
    folder.write("net.toml", text.as_bytes());
    let mut next = numbers(3);
    let mut random = |shape: &[usize]| Array::F64(ArrayD::from_shape_simple_fn(shape, || 2.0 * next()));
    let tensors = BTreeMap::from([
        ("0.weight".to_owned(), random(&[3, 4])),
        ("0.bias".to_owned(), random(&[3])),
        ("2.weight".to_owned(), random(&[3, 3])),
        ("2.bias".to_owned(), random(&[3])),
    ]);
    write_tensors(&folder.path("N.safetensors"), &tensors).unwrap();
}

fn softmax(folder: &Folder, more: &str) -> Outcome {
    folder.run(&format!(
        "damping --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 {more}"
    ))
}

/// Examples and scores of a list of proponents.
fn proponents(list: &Value) -> Vec<(u64, f64)> {
    let entries = list.as_array().unwrap().iter();
    entries.map(|r| (r["train"].as_u64().unwrap(), r["score"].as_f64().unwrap())).collect()
}

#[test]
fn every_point_is_what_explain_says_at_that_damping() {
    let folder = folder();
    let outcome = softmax(&folder, "--damping 0.02 --json --plot OUT.svg");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let found = json(&outcome.stdout);
    assert_eq!((&found["command"], &found["reference"]), (&json("\"damping\""), &json("0.02")));
    assert_eq!(found["spectrum"]["smallest_definite_damping"], 0.0);
    let weights: f64 =
        found["spectrum"]["values"].as_array().unwrap().iter().map(|v| v["weight"].as_f64().unwrap()).sum();
    assert!((weights - 1.0).abs() < 1e-12);
    let dampings = found["dampings"].as_array().unwrap();
    assert!(dampings.len() > 4);
    for (i, damping) in dampings.iter().enumerate() {
        assert_eq!(damping["status"], "resolved");
        let explained = json(
            &folder
                .succeed(&format!(
                    "explain --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 --damping {} --top 10 --json",
                    damping["damping"]
                ))
                .stdout,
        );
        for q in 0..5 {
            let here = proponents(&found["queries"][q]["path"][i]["proponents"]);
            let there = proponents(&explained["queries"][q]["proponents"]);
            assert_eq!(here.len(), there.len());
            for (a, b) in here.iter().zip(&there) {
                assert!(a.0 == b.0 && (a.1 / b.1 - 1.0).abs() < 1e-6, "{here:?} {there:?}");
            }
        }
    }
    let picture = String::from_utf8(folder.bytes("OUT.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"));
    assert_eq!(folder.names(), ["OUT.svg", "Q.npz", "T.npz", "W.safetensors"]);
}

/// Solves by another method succeed a little above the damping that is named, and meet negative curvature
/// a little below.
#[test]
fn the_smallest_definite_damping_is_where_solves_begin_to_succeed() {
    let folder = folder();
    network(&folder);
    let network = "--model net.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.001";
    let outcome = folder.run(&format!("damping {network} --precision f64 --json"));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let found = json(&outcome.stdout);
    let smallest = found["spectrum"]["smallest_definite_damping"].as_f64().unwrap();
    assert!(smallest > 1e-3, "{smallest}");
    assert_eq!(found["dampings"][0]["status"], "indefinite");
    let cholesky = |factor: f64| {
        let damping = factor * smallest;
        folder.run(&format!("explain {network} --precision f64 --solver cholesky --damping {damping}"))
    };
    assert_eq!(cholesky(1.001).code, 0);
    let below = cholesky(0.999);
    assert!(below.code == 3 && below.stderr.contains("negative curvature"), "{}", below.stderr);

    let text = folder.succeed(&format!("damping {network} --precision f64")).stdout;
    for part in ["smallest damping that makes the system definite", "not definite", "recommended: --damping"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn threads_and_memory_change_no_bit() {
    let folder = folder();
    let one = softmax(&folder, "--json --threads 1").stdout;
    assert_eq!(one, softmax(&folder, "--json --threads 2 --memory-budget 1kB").stdout);
}

#[test]
fn what_is_not_resolved_is_flagged() {
    let outcome = softmax(&folder(), "--steps 2 --plot OUT.svg");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("in 2 steps") && outcome.stderr.contains("raise --steps"));
    assert!(outcome.stdout.contains("not resolved"));
}

#[test]
fn bad_input() {
    let folder = folder();
    let before = folder.names();
    for (more, part) in [
        ("--plot OUT.png", "--plot OUT.png: expected a name that ends in .svg"),
        ("--plot nowhere/OUT.svg", "nowhere/OUT.svg"),
        ("--steps 0", "--steps: expected a whole number above 0"),
        ("--damping -1", "--damping: expected a number of at least 0"),
        ("--tolerance 1", "--tolerance: expected a fraction"),
        ("--layers none", "--layers: "),
    ] {
        let Outcome { code, stdout, stderr } = softmax(&folder, more);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{stderr}");
    }
    assert_eq!(folder.names(), before);
}
