//! `influence lds`: by hand, against training apart, killed and resumed, and bad input.

use std::process::Child;

use if_data::{Array, write_npy, write_npz};
use ndarray::{Array1, Array2, Axis};
use serde_json::Value;

use crate::support::{Folder, Problem, interrupt, json, left_behind};

const SOFTMAX: &str = "lds --model softmax --train T.npz --query Q.npz --l2 0.05";

fn matrix(folder: &Folder, name: &str) -> Array2<f64> {
    folder.scores(name).to_f64().into_dimensionality().unwrap()
}

fn record(folder: &Folder, name: &str) -> Value {
    json(&String::from_utf8(folder.bytes(name)).unwrap())
}

fn floats(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}

fn members(subset: &Value) -> Vec<usize> {
    subset["members"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect()
}

/// The entry of scores by name.
fn judged<'a>(record: &'a Value, name: &str) -> &'a Value {
    record["scores"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
}

fn lds(record: &Value, name: &str) -> f64 {
    judged(record, name)["mean"].as_f64().unwrap()
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let (ma, mb) = (mean(a), mean(b));
        a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum()
    };
    product(x, y) / (product(x, x) * product(y, y)).sqrt()
}

/// How many are smaller, and half of the others that are equal.
fn ranks(x: &[f64]) -> Vec<f64> {
    let rank = |v: &f64| {
        let less = x.iter().filter(|other| *other < v).count() as f64;
        less + (x.iter().filter(|other| *other == v).count() as f64 - 1.0) / 2.0
    };
    x.iter().map(rank).collect()
}

/// Rank correlation and Pearson's of every query: sums of `scores` over subsets, with minus the loss, or plus a measurement.
fn by_hand(record: &Value, scores: &Array2<f64>, sign: f64) -> Vec<[f64; 2]> {
    let subsets = record["subsets"].as_array().unwrap();
    (0..scores.nrows())
        .map(|q| {
            let sum = |subset: &Value| members(subset).iter().map(|&i| scores[[q, i]]).sum::<f64>();
            let mean = |subset: &Value| {
                let repeats = subset["measured"].as_array().unwrap();
                sign * repeats.iter().map(|one| floats(one)[q]).sum::<f64>() / repeats.len() as f64
            };
            let predicted: Vec<f64> = subsets.iter().map(sum).collect();
            let actual: Vec<f64> = subsets.iter().map(mean).collect();
            [correlation(&ranks(&predicted), &ranks(&actual)), correlation(&predicted, &actual)]
        })
        .collect()
}

fn assert_by_hand(record: &Value, name: &str, scores: &Array2<f64>, sign: f64) {
    let expected = by_hand(record, scores, sign);
    let entry = judged(record, name);
    for (found, [rank, _]) in floats(&entry["each"]).iter().zip(&expected) {
        assert!((found - rank).abs() < 1e-12, "{name}: {found} against {rank}");
    }
    for (key, column) in [("mean", 0), ("pearson", 1)] {
        let mean = expected.iter().map(|pair| pair[column]).sum::<f64>() / expected.len() as f64;
        let found = entry[key].as_f64().unwrap();
        assert!((found - mean).abs() < 1e-12, "{name}, {key}: {found} against {mean}");
    }
}

/// Digits: the score by hand, influence far ahead of what knows no query, and its sign.
#[test]
fn influence_is_judged_as_by_hand_and_leads() {
    let folder = Folder::new();
    let digits = "--model softmax --train digits:train --query digits:test[0..10] --l2 0.01";
    folder.succeed("train --model softmax --train digits:train --l2 0.01 --out W.safetensors");
    folder.succeed(&format!("attribute {digits} --weights W.safetensors --scores S.npy"));
    folder.succeed(&format!("attribute {digits} --weights W.safetensors --solver identity --scores I.npy"));
    let scores = matrix(&folder, "S.npy");
    write_npy(&folder.path("MINUS.npy"), (-&scores).view()).unwrap();
    let outcome = folder.succeed(&format!(
        "lds {digits} --scores S.npy --scores I.npy --scores MINUS.npy --subsets 30 --seed 4 --out L.json"
    ));
    assert!(
        outcome
            .stdout
            .starts_with("loss of digits:test[0..10] after training on each of 30 subsets of 719 of 1437")
    );
    let warned: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(
        warned.len() == 1 && warned[0].contains("MINUS.npy: the scores rank subsets the wrong way"),
        "{warned:?}"
    );

    let record = record(&folder, "L.json");
    assert_by_hand(&record, "S.npy", &scores, -1.0);
    assert_by_hand(&record, "MINUS.npy", &-&scores, -1.0);
    assert_by_hand(&record, "gradient dot product", &matrix(&folder, "I.npy"), -1.0);
    // 0.994 was measured.
    assert!(lds(&record, "S.npy") > 0.98, "{}", lds(&record, "S.npy"));
    assert!((lds(&record, "MINUS.npy") + lds(&record, "S.npy")).abs() < 1e-12);
    assert!(lds(&record, "gradient dot product") > 0.4);
    for name in ["gradient norm", "loss", "random"] {
        assert!(lds(&record, name).abs() < 0.3, "{name}: {}", lds(&record, name));
    }
    let kept = format!("lds {digits} --scores S.npy --seed 4 --resume --out L.json");
    folder.refuse(
        &kept.replace("0.01", "0.02"),
        &["L.retrained/key.json: expected objective.l2 0.01, found 0.02"],
    );
    folder.refuse(&format!("{kept} --no-bias"), &["L.retrained/key.json: expected bias true, found false"]);
    let [low, high] = floats(&judged(&record, "gradient dot product")["interval"])[..] else { panic!() };
    assert!(low < lds(&record, "gradient dot product") && lds(&record, "gradient dot product") < high);
    for subset in record["subsets"].as_array().unwrap() {
        let members = members(subset);
        assert!(members.len() == 719 && members[718] < 1437 && members.is_sorted_by(|a, b| a < b));
    }
}

/// Trains apart on a subset of the examples of `problem`, and asks `explain` for the losses of the queries.
fn losses_apart(folder: &Folder, problem: &Problem, subset: &Value, train: &str, explain: &str) -> Vec<f64> {
    let members = members(subset);
    let x = Array::F64(problem.x.select(Axis(0), &members).into_dyn());
    let y: Array1<i64> = members.iter().map(|&i| problem.y[i] as i64).collect();
    write_npz(&folder.path("PART.npz"), [("x", &x), ("y", &Array::I64(y.into_dyn()))]).unwrap();
    folder.succeed(&format!("train {train} --train PART.npz --l2 0.05 --out PART.safetensors"));
    let explained = folder.run(&format!(
        "explain {explain} --weights PART.safetensors --train PART.npz --query Q.npz --l2 0.05 --json"
    ));
    let document = json(&explained.stdout);
    document["queries"].as_array().unwrap().iter().map(|query| query["loss"].as_f64().unwrap()).collect()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < tolerance);
    assert!(near, "{found:?} against {expected:?}");
}

fn softmax_folder() -> (Folder, Problem) {
    let (folder, problem) = (Folder::new(), Problem::new(60, 3, true));
    problem.write(&folder);
    folder.succeed("train --model softmax --train T.npz --l2 0.05 --out W.safetensors");
    (folder, problem)
}

/// A column of the table that `audit` writes of the training examples.
fn audited(folder: &Folder, model: &str, column: usize) -> Array1<f64> {
    folder.succeed(&format!("audit {model} --train T.npz --l2 0.05 --output A.csv"));
    let table = String::from_utf8(folder.bytes("A.csv")).unwrap();
    assert!(table.starts_with("train,label,predicted,self_influence,loss,gradient_norm,"), "{table}");
    table.lines().skip(1).map(|row| row.split(',').nth(column).unwrap().parse::<f64>().unwrap()).collect()
}

/// What is measured is what a model says that was trained on the subset and nothing else; a margin with its own sign.
#[test]
fn linear_models_are_retrained_as_train_trains() {
    let (folder, problem) = softmax_folder();
    for measure in ["loss", "margin"] {
        let attribute =
            "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.05";
        folder.succeed(&format!("{attribute} --measure {measure} --scores S.npy"));
        folder.succeed(&format!(
            "{SOFTMAX} --measure {measure} --scores S.npy --subsets 12 --share 0.6 --out {measure}.json"
        ));
        let record = record(&folder, &format!("{measure}.json"));
        let sign = if measure == "loss" { -1.0 } else { 1.0 };
        assert_by_hand(&record, "S.npy", &matrix(&folder, "S.npy"), sign);
        folder.succeed(&format!("{attribute} --measure {measure} --solver identity --scores I.npy"));
        assert_by_hand(&record, "gradient dot product", &matrix(&folder, "I.npy"), sign);
        for (name, column) in [("loss", 4), ("gradient norm", 5)] {
            let one = audited(&folder, "--model softmax --weights W.safetensors", column);
            let all = one.broadcast((5, 55)).unwrap().to_owned();
            assert_by_hand(&record, name, &all, sign);
        }
        assert!(lds(&record, "S.npy") > 0.8, "{measure}: {}", lds(&record, "S.npy"));
        let subset = &record["subsets"][7];
        assert_eq!(members(subset).len(), 33);
        let softmax = "--model softmax";
        let losses =
            losses_apart(&folder, &problem, subset, &format!("{softmax} --gradient-norm 1e-10"), softmax);
        // The loss is ln(1 + exp(-margin)).
        let margins: Vec<f64> = losses.iter().map(|loss| -loss.exp_m1().ln()).collect();
        let expected = if measure == "loss" { losses } else { margins };
        assert_near(&floats(&subset["measured"][0]), &expected, 1e-8);
    }
}

/// Every repeat is the recorded training with a seed of its own; seed noise by hand.
#[test]
fn networks_repeat_their_training_under_other_seeds() {
    let (folder, problem) = (Folder::new(), Problem::new(60, 3, true));
    problem.write(&folder);
    let training = "--epochs 9 --batch 11 --optimizer sgd --learning-rate 0.1 --precision f64";
    folder.succeed(&format!(
        "train --model mlp:6 --train T.npz --l2 0.05 {training} --seed 7 --run R --out N.safetensors"
    ));
    let net = "--model N.toml --train T.npz --query Q.npz --precision f64";
    folder.succeed(&format!("attribute {net} --method tracin --training-run R --scores S.npy"));
    folder.succeed(
        "lds --model N.toml --train T.npz --query Q.npz --l2 0.05 --training-run R --scores S.npy --subsets 9 \
         --repeats 3 --out L.json",
    );
    let record = record(&folder, "L.json");
    assert_by_hand(&record, "S.npy", &matrix(&folder, "S.npy"), -1.0);
    let checkpoints = std::fs::read_dir(folder.path("R")).unwrap().map(|entry| entry.unwrap().file_name());
    let checkpoints: Vec<String> = checkpoints
        .map(|name| name.into_string().unwrap())
        .filter(|name| name.ends_with(".safetensors") && !name.contains("optimizer"))
        .collect();
    assert!(checkpoints.len() > 5, "{checkpoints:?}");
    let losses = checkpoints.iter().map(|name| {
        let network = "--model N.toml --damping 9 --curvature gauss-newton --precision f64";
        audited(&folder, &format!("{network} --weights R/{name}"), 4)
    });
    let mean = losses.reduce(|sum, losses| sum + losses).unwrap() / checkpoints.len() as f64;
    let mean = mean.broadcast((5, mean.len())).unwrap().to_owned();
    assert_by_hand(&record, "mean loss over checkpoints", &mean, -1.0);
    assert_eq!(record["seeds"], serde_json::json!([8, 9, 10]));
    for (subset, repeat) in [(0, 0), (4, 2)] {
        let subset = &record["subsets"][subset];
        let train = format!("--model N.toml {training} --seed {}", 8 + repeat);
        let explain = "--model N.toml --damping 9 --curvature gauss-newton --precision f64";
        let losses = losses_apart(&folder, &problem, subset, &train, explain);
        assert_near(&floats(&subset["measured"][repeat]), &losses, 1e-12);
    }

    let effects = |r: usize, q: usize| -> Vec<f64> {
        record["subsets"].as_array().unwrap().iter().map(|s| s["measured"][r][q].as_f64().unwrap()).collect()
    };
    let over_queries = |value: &dyn Fn(usize) -> f64| (0..5).map(value).sum::<f64>() / 5.0;
    let pairs = [(0, 1), (0, 2), (1, 2)];
    let between =
        |q: usize| pairs.iter().map(|&(a, b)| correlation(&effects(a, q), &effects(b, q))).sum::<f64>() / 3.0;
    let by_rank = |q: usize| {
        let of = |&(a, b): &(usize, usize)| correlation(&ranks(&effects(a, q)), &ranks(&effects(b, q)));
        pairs.iter().map(of).sum::<f64>() / 3.0
    };
    let ceiling = |q: usize| {
        let r = between(q).max(0.0);
        (3.0 * r / (1.0 + 2.0 * r)).sqrt()
    };
    let noise = &record["seed_noise"];
    for (key, expected) in [
        ("pearson", over_queries(&between)),
        ("spearman", over_queries(&by_rank)),
        ("ceiling", over_queries(&ceiling)),
    ] {
        let found = noise[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{key}: {found} against {expected}");
    }
}

/// Stopped in any way it goes on to the same bytes; what is kept serves more subsets, is checked, and fits its command only.
#[cfg(unix)]
#[test]
fn stopped_retrainings_are_resumed_to_the_same_bytes() {
    let folder = Folder::new();
    let data = "--train digits:train --query digits:test[0..8]";
    folder.succeed(
        "train --model mlp:8 --train digits:train --l2 0.001 --epochs 30 --run R --out N.safetensors",
    );
    folder
        .succeed(&format!("attribute --model N.toml {data} --method tracin --training-run R --scores S.npy"));
    let lds = format!("lds --model N.toml {data} --l2 0.001 --training-run R --scores S.npy");
    folder.succeed(&format!("{lds} --subsets 24 --out WHOLE.json"));
    let expected = folder.bytes("WHOLE.json");
    let kept = |name: &str| std::fs::read_dir(folder.path(name)).unwrap().count();
    assert_eq!(kept("WHOLE.retrained"), 25);

    let kill = |child: &mut Child| child.kill().unwrap();
    for (stop, code, name) in [(&kill as &dyn Fn(&mut Child), None, "K"), (&interrupt, Some(130), "I")] {
        let long = format!("{lds} --subsets 24 --threads 1 --out {name}.json");
        let first = folder.path(&format!("{name}.retrained/2-0.json"));
        let mut program = folder.begin(&long, || first.exists());
        stop(&mut program);
        let (found, stderr) = left_behind(program);
        assert_eq!(found, code, "{stderr}");
        assert!(!folder.path(&format!("{name}.json")).exists(), "it was not in its middle");
        if code.is_some() {
            assert!(stderr.contains("go on") && stderr.contains("--resume"), "{stderr}");
        }
        folder.refuse(&long, &[&format!("{name}.retrained: retrainings are there already")]);
        let resumed = folder.succeed(&format!("{long} --threads 2 --resume").replace("--threads 1 ", ""));
        assert!(resumed.stderr.contains(" of 24 retrainings: taken from "), "{}", resumed.stderr);
        assert!(folder.bytes(&format!("{name}.json")) == expected);
    }

    let entry = String::from_utf8(folder.bytes("K.retrained/5-0.json")).unwrap();
    let digit = entry.rfind(|c: char| c.is_ascii_digit()).unwrap();
    let other = if &entry[digit..=digit] == "7" { "8" } else { "7" };
    folder.write(
        "K.retrained/5-0.json",
        format!("{}{other}{}", &entry[..digit], &entry[digit + 1..]).as_bytes(),
    );
    let resumed = folder.succeed(&format!("{lds} --subsets 24 --resume --out K.json"));
    assert!(
        resumed.stderr.contains("K.retrained/5-0.json: damaged or of another command, and made anew"),
        "{}",
        resumed.stderr
    );
    assert!(folder.bytes("K.json") == expected && folder.bytes("K.retrained/5-0.json") == entry.as_bytes());

    folder.succeed(&format!("{lds} --subsets 26 --resume --out K.json"));
    let [fewer, more] = ["WHOLE.json", "K.json"].map(|name| record(&folder, name)["subsets"].clone());
    assert_eq!(fewer.as_array().unwrap()[..], more.as_array().unwrap()[..24]);
    folder.succeed(
        "train --model mlp:8 --train digits:train --l2 0.001 --epochs 3 --run O --out O.safetensors",
    );
    for (from, to, field) in [
        ("--l2", "--seed 1 --l2", "seed 0, found 1"),
        ("--l2", "--share 0.4 --l2", "share 0.5, found 0.4"),
        ("--l2", "--measure margin --l2", "measure \"loss\", found \"margin\""),
        ("[0..8]", "[1..9]", "the same queries"),
        ("--training-run R", "--training-run O", "training.epochs 30, found 3"),
    ] {
        let other = lds.replace(from, to);
        folder.refuse(&format!("{other} --resume --out K.json"), &["K.retrained/key.json: expected", field]);
    }
}

/// Queries without a rank correlation are left out and counted.
#[test]
fn a_query_without_correlation_is_left_out() {
    let (folder, _) = softmax_folder();
    let mut scores = Array2::from_shape_fn((5, 55), |(q, i)| ((7 * i + q) as f64).sin());
    scores.row_mut(2).fill(0.0);
    write_npy(&folder.path("S.npy"), scores.view()).unwrap();
    let outcome = folder.succeed(&format!("{SOFTMAX} --scores S.npy --subsets 8 --out L.json"));
    assert!(outcome.stdout.contains("Of 5 queries some have no rank correlation"), "{}", outcome.stdout);
    let record = record(&folder, "L.json");
    let entry = judged(&record, "S.npy");
    assert!(entry["queries"] == 4 && entry["each"][2].is_null() && entry["each"][1].is_f64(), "{entry}");
    assert!(entry["mean"].is_f64());
}

/// Features so large that rounding keeps gradients from vanishing: that is said, and flagged.
#[test]
fn trainings_that_stop_early_are_flagged() {
    let folder = Folder::new();
    let mut problem = Problem::new(60, 3, true);
    problem.x *= 1e9;
    problem.write(&folder);
    write_npy(&folder.path("S.npy"), Array2::<f64>::zeros((5, 55)).view()).unwrap();
    let outcome = folder.run(&format!("{SOFTMAX} --scores S.npy --subsets 6 --out L.json"));
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("6 of 6 trainings stopped early"), "{}", outcome.stderr);
    assert_eq!(record(&folder, "L.json")["subsets"].as_array().unwrap().len(), 6);
}

#[test]
fn bad_input_is_one_line() {
    let (folder, _) = softmax_folder();
    let training = "--epochs 3 --run R --out N.safetensors";
    folder.succeed(&format!("train --model mlp:6 --train T.npz --l2 0.05 {training}"));
    folder.succeed("train --model mlp:6 --train T.npz --l2 0.05 --epochs 1 --init N.safetensors --run C --out M.safetensors");
    let mut scores = Array2::<f64>::zeros((5, 55));
    write_npy(&folder.path("S.npy"), scores.view()).unwrap();
    write_npy(&folder.path("TURNED.npy"), scores.t()).unwrap();
    write_npy(&folder.path("FLAT.npy"), Array1::<f64>::zeros(275).view()).unwrap();
    scores[[3, 17]] = f64::NAN;
    write_npy(&folder.path("NAN.npy"), scores.view()).unwrap();

    folder.write("S.json", b"{}");
    folder.refuse(
        &format!("{SOFTMAX} --scores S.npy --out S.json"),
        &["S.json: expected an output apart from the inputs, found one of them"],
    );
    folder.succeed(&format!("{SOFTMAX} --scores S.npy --subsets 5 --out E.json"));
    std::fs::remove_file(folder.path("E.retrained/key.json")).unwrap();
    folder.refuse(
        &format!("{SOFTMAX} --scores S.npy --subsets 5 --out E.json"),
        &["E.retrained: retrainings are there already"],
    );

    let net = "lds --model N.toml --train T.npz --query Q.npz --l2 0.05";
    let cases = [
        (
            SOFTMAX,
            "--scores TURNED.npy",
            "TURNED.npy: expected scores of shape [5, 55], query x train, found [55, 5]",
        ),
        (
            SOFTMAX,
            "--scores FLAT.npy",
            "FLAT.npy: expected scores of shape [5, 55], query x train, found [275]",
        ),
        (
            SOFTMAX,
            "--scores S.npy --scores NAN.npy",
            "NAN.npy: expected finite scores, found NaN in row 3, column 17",
        ),
        (SOFTMAX, "--scores missing.npy", "missing.npy"),
        (SOFTMAX, "", "--scores"),
        (SOFTMAX, "--scores S.npy --share 1", "--share: expected a fraction between 0 and 1, found \"1\""),
        (
            SOFTMAX,
            "--scores S.npy --share -0.5",
            "--share: expected a fraction between 0 and 1, found \"-0.5\"",
        ),
        (
            SOFTMAX,
            "--scores S.npy --share 0.001",
            "--share 0.001: expected some, but not all of 55 examples, found 0",
        ),
        (
            SOFTMAX,
            "--scores S.npy --share 0.999",
            "--share 0.999: expected some, but not all of 55 examples, found 55",
        ),
        (
            SOFTMAX,
            "--scores S.npy --subsets 4",
            "--subsets: expected a whole number of at least 5, found \"4\"",
        ),
        (SOFTMAX, "--scores S.npy --repeats 2", "--repeats belongs to networks"),
        (SOFTMAX, "--scores S.npy --repeats 0", "--repeats: expected a whole number above 0"),
        (SOFTMAX, "--scores S.npy --training-run R", "--training-run belongs to networks"),
        (SOFTMAX, "--scores S.npy --resume", "OUT.retrained/key.json: cannot resume"),
        (
            net,
            "--scores S.npy",
            "a network: expected the --training-run that is repeated on every subset, found none",
        ),
        (net, "--scores S.npy --training-run nowhere", "nowhere"),
        (net, "--scores S.npy --training-run R --no-bias", "--no-bias belongs to models of one layer"),
        (net, "--scores S.npy --training-run R --family sum", "R: --family and --no-regularise-bias"),
        (net, "--scores S.npy --training-run C", "C: the start: expected a run from initial parameters"),
    ];
    for (command, more, part) in cases {
        folder.refuse(&format!("{command} {more} --out OUT.json"), &[part]);
    }
    let recorded = format!("{net} --scores S.npy --training-run R --out OUT.json");
    folder.refuse(&recorded.replace("0.05", "0.5"), &["R: --l2: expected 0.05, found 0.5"]);
    folder
        .refuse(&recorded.replace("T.npz", "Q.npz"), &["R: the training examples: expected those of T.npz"]);
    folder.refuse(
        &recorded.replace("OUT.json", "OUT.txt"),
        &["--out OUT.txt: expected a name that ends in .json"],
    );
    // Half of a run says nothing of its end.
    let run = String::from_utf8(folder.bytes("R/run.json")).unwrap();
    folder.write("R/run.json", run.replace("\"epochs\": 3", "\"epochs\": 4").as_bytes());
    folder.refuse(&recorded, &["R: the last checkpoint: expected step 4, found step 3"]);
}
