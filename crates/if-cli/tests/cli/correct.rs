//! `correct`: a round against scores of `attribute` and steps by hand, the controls, the files, bad input.

use if_data::read_tensors;
use ndarray::{Array2, Axis};
use serde_json::Value;

use crate::support::{Folder, Outcome, Problem, json};

const SOFTMAX: &str = "correct --model softmax --train T.npz --query Q.npz --solver cholesky";

/// T.npz with 30 examples, Q.npz with the other 30, and W.safetensors, at which many are wrong.
fn folder() -> (Folder, Problem) {
    let folder = Folder::new();
    let problem = Problem::new(60, 3, true);
    problem.write_examples(&folder, "T.npz", 0, 30);
    problem.write_examples(&folder, "Q.npz", 30, 60);
    problem.write_weights(&folder, "W.safetensors");
    (folder, problem)
}

fn matrix(folder: &Folder, file: &str, name: &str) -> Array2<f64> {
    let tensors = read_tensors(&folder.path(file)).unwrap();
    let array = tensors[name].to_f64();
    let rows = array.shape()[0];
    array.to_shape((rows, array.len() / rows)).unwrap().into_owned()
}

/// Probabilities of the classes for the examples `rows`.
fn softmax(problem: &Problem, rows: std::ops::Range<usize>) -> Array2<f64> {
    let x = problem.x.slice(ndarray::s![rows, ..]);
    let mut z = x.dot(&problem.weight.t()) + problem.bias.as_ref().unwrap();
    z.mapv_inplace(f64::exp);
    let sums = z.sum_axis(Axis(1)).insert_axis(Axis(1));
    z / sums
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(ToString::to_string).collect()
}

/// One round with all errors as anchors, computed from the scores of `attribute` and the gradient of softmax regression.
/// Catches: right queries among the anchors, the wrong end of the scores, steps that are not of mean gradient and l2, the
/// wrong weights in the file.
#[test]
fn a_round_is_steps_on_the_largest_summed_scores() {
    let (folder, problem) = folder();
    let (l2, rate) = (0.05, 0.2);
    folder.succeed(
        "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 --damping 0.01 \
         --solver cholesky --scores S.npy",
    );
    let scores: Array2<f64> = folder.scores("S.npy").to_f64().into_dimensionality().unwrap();
    let said = softmax(&problem, 30..60);
    let best = |row: ndarray::ArrayView1<f64>| (0..3).fold(0, |b, c| if row[c] > row[b] { c } else { b });
    let wrong: Vec<usize> = (0..30).filter(|&q| best(said.row(q)) != problem.y[30 + q]).collect();
    assert!((5..25).contains(&wrong.len()), "{wrong:?}");
    let sums = scores.select(Axis(0), &wrong).sum_axis(Axis(0));
    let mut order: Vec<usize> = (0..30).collect();
    order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));

    let base = format!("{SOFTMAX} --weights W.safetensors --l2 {l2} --damping 0.01 --learning-rate {rate}");
    let all = "--anchors 30 --examples 4 --out W2.safetensors --json";
    let found = json(&folder.succeed(&format!("{base} --rounds 1 {all}")).stdout);
    assert_eq!((&found["queries"], &found["wrong"]), (&json("30"), &json(&wrong.len().to_string())));
    let sorted = |list: &Value| {
        let mut rows: Vec<usize> = strings(list).iter().map(|id| id.parse().unwrap()).collect();
        rows.sort_unstable();
        rows
    };
    let rounds = &found["rounds"];
    assert_eq!(sorted(&rounds["most_helpful"][0]["anchors"]), wrong);
    assert_eq!(json(&format!("{:?}", &order[..4])), rounds["most_helpful"][0]["train"]);
    let last: Vec<usize> = order.iter().rev().take(4).copied().collect();
    assert_eq!(json(&format!("{last:?}")), rounds["most_harmful"][0]["train"]);

    let drawn = if_methods::random_order(30, 0);
    assert_eq!(json(&format!("{:?}", &drawn[..4])), rounds["random"][0]["train"]);

    // theta - rate (mean gradient + l2 theta), by hand.
    let p = softmax(&problem, 0..30);
    let mut weight = problem.weight.clone() * (1.0 - rate * l2);
    for &i in &order[..4] {
        for c in 0..3 {
            let residual = p[[i, c]] - f64::from(u8::from(problem.y[i] == c));
            weight.row_mut(c).scaled_add(-rate * residual / 4.0, &problem.x.row(i));
        }
    }
    let written = matrix(&folder, "W2.safetensors", "fc.weight");
    assert!((&written - &weight).iter().all(|d| d.abs() < 1e-12), "{written} {weight}");
    assert_eq!(read_tensors(&folder.path("W2.safetensors")).unwrap().len(), 2);

    // What is reported is what the new weights do; another round from there is the second round.
    let judged = &found["judged"];
    assert_eq!(judged[0]["before"]["accuracy"], 0.0);
    let before = -wrong.iter().map(|&q| said[[q, problem.y[30 + q]]].ln()).sum::<f64>() / wrong.len() as f64;
    assert!((judged[0]["before"]["loss"].as_f64().unwrap() - before).abs() < 1e-12);
    let again = format!("{base} --rounds 1 {all}").replace("W2.saf", "W3.saf");
    let again = json(&folder.succeed(&again.replace("--weights W.", "--weights W2.")).stdout);
    assert_eq!(again["judged"][1]["before"], judged[1]["most_helpful"]);
    folder.succeed(&format!("{base} --rounds 2 {all}"));
    assert_eq!(folder.bytes("W2.safetensors"), folder.bytes("W3.safetensors"));
}

/// The funnel: all training examples as candidates are no funnel, and a few are the nearest.
#[test]
fn candidates_are_the_nearest() {
    let (folder, problem) = folder();
    let base = format!(
        "{SOFTMAX} --weights W.safetensors --l2 0.05 --rounds 1 --anchors 30 --examples 3 --out W2.safetensors --json"
    );
    let plain = json(&folder.succeed(&base).stdout);
    let bytes = folder.bytes("W2.safetensors");
    folder.succeed(&format!("{base} --features fc --candidates 30 --threads 1"));
    assert_eq!(folder.bytes("W2.safetensors"), bytes);
    let funnel = json(&folder.succeed(&format!("{base} --features fc --candidates 5")).stdout);
    let anchors = &funnel["rounds"]["most_helpful"][0]["anchors"];
    assert_eq!(anchors, &plain["rounds"]["most_helpful"][0]["anchors"]);
    let rows: Vec<usize> = strings(anchors).iter().map(|id| 30 + id.parse::<usize>().unwrap()).collect();
    let mean = problem.x.select(Axis(0), &rows).mean_axis(Axis(0)).unwrap();
    let mut nearest: Vec<usize> = (0..30).collect();
    let distance = |i: usize| (&problem.x.row(i) - &mean).mapv(|d| d * d).sum();
    nearest.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    for choice in ["most_helpful", "most_harmful"] {
        for id in strings(&funnel["rounds"][choice][0]["train"]) {
            assert!(nearest[..5].contains(&id.parse().unwrap()), "{choice}: {id}, {nearest:?}");
        }
    }
}

/// On a network that is trained on few digits: what influence chooses lowers the losses of what is wrong more than random
/// examples, and what it warns of raises them. Measured on three seeds.
#[test]
fn influence_corrects_more_than_more_training() {
    let folder = Folder::new();
    folder.succeed(
        "train --model mlp:16 --train digits:train[0..300] --l2 1e-4 --epochs 30 --batch 32 --learning-rate 0.003 \
         --out N.safetensors",
    );
    let base = "correct --model N.toml --weights N.safetensors --train digits:train[0..300] \
                --query digits:train[300..800] --test digits:test --test digits:train[800..1437] --l2 1e-4 \
                --damping 0.01 --curvature gauss-newton --out C.safetensors";
    for seed in 0..3 {
        let found = json(&folder.run(&format!("{base} --seed {seed} --json")).stdout);
        let loss = |choice: &str| found["judged"][0][choice]["loss"].as_f64().unwrap();
        let [before, helpful, random, harmful] =
            ["before", "most_helpful", "random", "most_harmful"].map(loss);
        assert!(helpful < before && helpful < random && random < harmful, "{}", found["judged"]);
        assert_eq!(found["judged"].as_array().unwrap().len(), 4);
    }
    let once = folder.bytes("C.safetensors");
    let text = folder.run(&format!("{base} --seed 2 --threads 1"));
    assert_eq!((folder.bytes("C.safetensors"), text.code), (once, 0), "{}", text.stderr);
    for part in
        ["digits:train[300..800], the wrong ones", "most helpful", "influence, not more training alone"]
    {
        assert!(text.stdout.contains(part), "{}", text.stdout);
    }

    // The layers that are not named stay as they were.
    folder.run(&format!("{base} --layers last"));
    let [given, corrected] =
        ["N.safetensors", "C.safetensors"].map(|file| read_tensors(&folder.path(file)).unwrap());
    assert!(given.keys().eq(corrected.keys()));
    let same: Vec<bool> = given.iter().map(|(name, values)| corrected[name] == *values).collect();
    assert_eq!(given.keys().collect::<Vec<_>>(), ["1.bias", "1.weight", "3.bias", "3.weight"]);
    assert_eq!(same, [true, true, false, false]);
    let judged = json(
        &folder
            .run(
                &base
                    .replace("--weights N.", "--weights C.")
                    .replace("--out C.", "--out D.")
                    .replace("correct", "correct --json"),
            )
            .stdout,
    );
    assert!(judged["judged"][1]["before"]["loss"].as_f64().unwrap() > 0.0);
}

/// A model that gets all right has nothing to be corrected, unless anchors are drawn from what is right too.
#[test]
fn anchors_are_what_is_wrong() {
    let folder = Folder::new();
    let base = "correct --model softmax --train digits:train[0..200] --query digits:train[0..20] --l2 1e-4 \
                --out W.safetensors";
    folder.refuse(
        base,
        &["--query digits:train[0..20]: expected an example that the model gets wrong, found 20"],
    );
    let text = folder.succeed(&format!("{base} --all --rounds 2")).stdout;
    assert!(text.contains("0 of 20 examples are wrong; anchors are drawn from all"), "{text}");
    // One error, and steps that set it right.
    let Outcome { stdout, .. } = folder.succeed(
        "correct --model softmax --train digits:train[0..200] --query digits:train[200..260] --l2 0.01 \
         --learning-rate 0.3 --rounds 30 --steps 5 --out W.safetensors",
    );
    assert!(stdout.contains("most helpful: "), "{stdout}");
    assert!(stdout.contains("of 30 rounds, then nothing was wrong"), "{stdout}");
}

#[test]
fn bad_input() {
    let (folder, _) = folder();
    let base = format!("{SOFTMAX} --weights W.safetensors --l2 0.05");
    for (more, part) in [
        ("--out W2.npy", "--out W2.npy: expected a name that ends in .safetensors"),
        ("--out W.safetensors", "W.safetensors: expected an output apart from the inputs"),
        ("--out O.safetensors --run R", "expected no --run"),
        (
            "--out O.safetensors --examples 31",
            "--examples: expected from 1 to the 30 training examples, found 31",
        ),
        ("--out O.safetensors --features fc", "--candidates"),
        (
            "--out O.safetensors --features fc --candidates 31",
            "--candidates: expected from 1 to the 30 training examples, found 31",
        ),
        ("--out O.safetensors --features no --candidates 3", "--features: "),
        ("--out O.safetensors --learning-rate 0", "--learning-rate: expected a number above 0"),
        ("--out O.safetensors --test none.npz", "none.npz"),
        ("--out nowhere/O.safetensors", "nowhere/O.safetensors"),
    ] {
        folder.refuse(&format!("{base} {more}"), &[part]);
    }
    // Of weights that were trained here there is nothing else to say.
    folder.refuse(
        "correct --model softmax --train T.npz --query Q.npz --l2 0.05 --learning-rate 1e300 --steps 9 --out O.safetensors",
        &["round 1 of the most helpful: T.npz: the loss of example", "is not finite at step "],
    );
}
