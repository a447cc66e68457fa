//! `perturb`, `attack` and `multistage`: contracts, and what is said about bad input.

use std::collections::BTreeMap;

use if_data::{Array, read_npz, read_tensors, write_tensors};
use ndarray::{ArrayD, Axis};

use crate::support::{Folder, Outcome, Problem, json, numbers};

const DIGITS: &str = "--model softmax --train digits:train[0..300] --l2 0.01";

#[test]
fn slopes_are_written_drawn_and_named() {
    let folder = Folder::new();
    let base = format!("perturb {DIGITS} --query digits:test[3..5]");
    let text = folder.succeed(&format!("{base} --examples 7,0,12 --slopes S.npy --picture P.svg")).stdout;
    assert!(text.contains("digits:test[4]: how its loss changes") && text.contains('('), "{text}");
    let slopes = folder.scores("S.npy");
    assert_eq!(slopes.shape(), [2, 3, 64]);
    let document = json(&folder.succeed(&format!("{base} --examples 7 --json")).stdout);
    let strongest = &document["queries"][1]["examples"][0]["strongest"][0];
    let feature = strongest["feature"].as_u64().unwrap() as usize;
    let slope = slopes.to_f64()[[1, 0, feature]];
    assert!((strongest["slope"].as_f64().unwrap() - slope).abs() <= 1e-9 * slope.abs());
    let svg = String::from_utf8(folder.bytes("P.svg")).unwrap();
    assert!(svg.contains("What digits:test[3] hangs on") && svg.contains("train 12"));
    folder.refuse(
        &format!("{base} --examples 300"),
        &["--examples: expected rows of digits:train[0..300] from 0 to 299, found 300"],
    );
    Problem::new(30, 3, true).write(&folder);
    let flat = "perturb --model softmax --train T.npz --query Q.npz --l2 0.1 --picture P2.svg";
    folder.refuse(flat, &["--picture: expected square images", "[4]"]);
}

#[test]
fn attacks_keep_to_their_box_and_write_the_training_set() {
    let folder = Folder::new();
    let base = format!("attack {DIGITS} --target digits:test[7] --count 30");
    let weak = json(&folder.succeed(&format!("{base} --radius 0.02 --json")).stdout);
    assert_eq!(weak["flipped"], false);
    let strong = folder.succeed(&format!("{base} --radius 0.6 --out A.npz --picture A.svg --json")).stdout;
    let strong = json(&strong);
    assert_eq!(strong["flipped"], true);
    let margins = strong["margins"].as_array().unwrap();
    assert!(margins[0].as_f64().unwrap() > 0.0 && margins.last().unwrap().as_f64().unwrap() < 0.0);
    folder.succeed("data show digits:train[0..1]");
    let changed = read_npz(&folder.path("A.npz")).unwrap();
    assert_eq!(changed["x"].shape(), [300, 8, 8]);
    let rows: Vec<u64> =
        strong["examples"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap()).collect();
    // Retrained on the changed set, the program itself gets the target wrong.
    let explained =
        folder.succeed("explain --model softmax --train A.npz --query digits:test[7] --l2 0.01 --json");
    let query = &json(&explained.stdout)["queries"][0];
    // Less than even odds for its label.
    assert!(query["predicted"] != query["label"] || query["probability"].as_f64().unwrap() < 0.5, "{query}");
    assert_eq!(rows.len(), 30);
    folder.refuse(
        &format!("{base} --radius 0.1 --out A.csv"),
        &["--out A.csv: expected a name that ends in .npz"],
    );
    folder.refuse(&format!("{base} --radius 0.1 --removal renormalised"), &["attack removes no example"]);
    folder.refuse(
        &format!("attack {DIGITS} --target digits:test[7] --radius 0.1 --examples 3,3"),
        &["--examples: row 3 stands there twice"],
    );
    // The head of a network: what retraining alone does is no attack's doing.
    folder
        .succeed("train --model mlp:8 --train digits:train[0..300] --l2 1e-3 --epochs 40 --batch 20 --out N.safetensors");
    let head =
        "attack --model N.toml --weights N.safetensors --train digits:train[0..300] --l2 1e-3 --radius 0.6";
    folder.refuse(&format!("{head} --target digits:test[7]"), &["expected a linear model, or --layers last"]);
    let mut attacked = 0;
    for target in 0..6 {
        let found =
            folder.run(&format!("{head} --target digits:test[{target}] --layers last --count 30 --json"));
        if found.code == 2 {
            assert!(found.stderr.contains("that the retrained model gets right"), "{}", found.stderr);
            continue;
        }
        let found = json(&found.stdout);
        let margins = found["margins"].as_array().unwrap();
        let [first, last] = [0, margins.len() - 1].map(|at| margins[at].as_f64().unwrap());
        assert!(first > 0.0 && last < first, "{found}");
        attacked += 1;
    }
    assert!(attacked > 0);
    folder.refuse(
        &format!("attack {DIGITS} --target digits:test[0..2] --radius 0.1"),
        &["--target", "one example", "found 2"],
    );
    folder.refuse(&format!("{base} --radius 0"), &["--radius"]);
    folder.refuse(
        &format!("attack {DIGITS} --target digits:test[7] --count 300 --radius 0.1"),
        &["--count 300"],
    );
}

const FIRST: &str = "input = [4]\nloss = \"cross-entropy\"\n\
    [[layer]]\ntype = \"dense\"\nname = \"emb\"\nout = 3\n\
    [[layer]]\ntype = \"tanh\"\n\
    [[layer]]\ntype = \"dense\"\nname = \"head\"\nout = 3\n";

/// A pretrained network and two fine-tuned ones: with its embedding as it was, and with another one.
fn stages() -> Folder {
    let folder = Folder::new();
    Problem::new(40, 3, true).write_examples(&folder, "P.npz", 0, 40);
    Problem::new(25, 2, true).write(&folder);
    folder.write("M1.toml", FIRST.as_bytes());
    folder.write("M2.toml", FIRST.replace("\"head\"\nout = 3", "\"top\"\nout = 2").as_bytes());
    folder.write("M3.toml", FIRST.replace("\"emb\"\nout = 3", "\"emb\"\nout = 2").as_bytes());
    folder.succeed("train --model M1.toml --train P.npz --l2 0.05 --optimizer lbfgs --out W1.safetensors");
    let first = read_tensors(&folder.path("W1.safetensors")).unwrap();
    let mut next = numbers(3);
    let mut random = |shape: &[usize]| Array::F64(ArrayD::from_shape_simple_fn(shape.to_vec(), &mut next));
    let mut second: BTreeMap<String, Array> =
        first.into_iter().filter(|(name, _)| name.starts_with("emb")).collect();
    second.insert("top.weight".into(), random(&[2, 3]));
    second.insert("top.bias".into(), random(&[2]));
    write_tensors(&folder.path("W2.safetensors"), &second).unwrap();
    second.insert("emb.weight".into(), random(&[3, 4]));
    write_tensors(&folder.path("W3.safetensors"), &second).unwrap();
    folder
}

const MULTISTAGE: &str = "multistage --pretrain-model M1.toml --pretrain-weights W1.safetensors --pretrain P.npz \
    --train T.npz --query Q.npz --l2-pretrain 0.05 --l2 0.05 --scores S.npy";

#[test]
fn multistage_scores_pretraining_examples() {
    let folder = stages();
    let fixed = format!("{MULTISTAGE} --model M2.toml --weights W2.safetensors --embedding-layers emb");
    let Outcome { stdout, stderr, .. } = folder.succeed(&fixed);
    assert!(stdout.contains("5 queries x 40 pretraining examples, fixed embedding emb"), "{stdout}");
    assert!(stderr.contains("the second stage is not at an optimum"), "{stderr}");
    let scores = folder.scores("S.npy");
    assert_eq!(scores.shape(), [5, 40]);
    assert!(scores.to_f64().map_axis(Axis(1), |row| row.iter().any(|s| *s != 0.0)).iter().all(|any| *any));
    let report = json(&String::from_utf8(folder.bytes("S.json")).unwrap());
    assert_eq!(report["scores"]["factor"], 1.0 / 40.0);
    assert_eq!(report["queries"][4]["termination"], "converged");
    // The same bits for any number of threads.
    let bytes = folder.bytes("S.npy");
    folder.succeed(&format!("{fixed} --threads 1"));
    assert_eq!(folder.bytes("S.npy"), bytes);
    // Moved far from where it was: only as an updated embedding, and l2 on it or not is another system.
    let moved =
        format!("{MULTISTAGE} --model M2.toml --weights W3.safetensors --embedding-layers emb --damping 2");
    folder.refuse(&moved, &["layer emb was moved by the second stage"]);
    let mut found = Vec::new();
    for more in ["--updated --alpha 0.5", "--updated --alpha 0.5 --l2-head-only"] {
        let outcome = folder.succeed(&format!("{moved} {more}"));
        assert!(outcome.stderr.contains("the second stage is not at an optimum"), "{}", outcome.stderr);
        found.push(folder.bytes("S.npy"));
    }
    assert_ne!(found[0], found[1]);
}

#[test]
fn stages_that_do_not_fit_are_refused() {
    let folder = stages();
    let base = format!("{MULTISTAGE} --model M2.toml --weights W2.safetensors");
    for (more, part) in [
        ("--embedding-layers top", "no layer top with parameters in the first stage"),
        ("--embedding-layers nowhere", "no layer nowhere"),
        ("--embedding-layers emb --updated", "--alpha"),
        ("--embedding-layers emb --updated --alpha 0", "--alpha: expected a number above 0"),
        ("--embedding-layers emb --updated --alpha -1", "--alpha"),
        ("--embedding-layers emb --alpha 1", "--updated"),
        ("--embedding-layers emb --l2-head-only", "--updated"),
        ("--embedding-layers emb --removal renormalised", "--removal fixed"),
        ("--embedding-layers emb --solver kfac", "multistage: expected a solver that solves"),
        ("--embedding-layers emb --layers top", "expected no --layers"),
        ("--embedding-layers emb,top", "found all"),
        ("", "--embedding-layers"),
    ] {
        folder.refuse(&format!("{base} {more}"), &[part]);
    }
    folder.succeed("train --model M3.toml --train T.npz --l2 0.05 --optimizer lbfgs --out W4.safetensors");
    folder.refuse(
        &format!("{MULTISTAGE} --model M3.toml --weights W4.safetensors --embedding-layers emb"),
        &["layer emb differs: 3 x 5 with bias in the first stage, 2 x 5 in the second"],
    );
    // A query of a class that the second stage does not know.
    Problem::new(30, 3, true).write_examples(&folder, "Q.npz", 0, 30);
    folder.refuse(&format!("{base} --embedding-layers emb"), &["Q.npz", "label"]);
    folder.refuse(
        &base.replace("M1.toml", "softmax").replace("--weights", "--embedding-layers emb --weights"),
        &["--pretrain-model: expected a network in FILE.toml"],
    );
}
