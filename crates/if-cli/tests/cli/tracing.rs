//! `attribute --method tracin` and `fastif`: contracts against `attribute` and gradients, and bad input.

use ndarray::Array2;

use crate::support::{Folder, Outcome, Problem, json};

const NET: &str = "--model N.toml --train T.npz --query Q.npz";

/// A trained network with checkpoints of its training.
fn folder() -> Folder {
    let folder = Folder::new();
    Problem::new(60, 3, true).write(&folder);
    folder.succeed(
        "train --model mlp:6 --train T.npz --l2 0.01 --epochs 4 --batch 11 --optimizer sgd --learning-rate 0.1 \
         --precision f64 --run R --out N.safetensors",
    );
    folder
}

fn matrix(folder: &Folder, name: &str) -> Array2<f64> {
    folder.scores(name).to_f64().into_dimensionality().unwrap()
}

/// The contract: rate times inner products of gradients, added up; no l2, no 1/n.
#[test]
fn tracin_adds_up_checkpoints() {
    let folder = folder();
    let checkpoints = ["R/step-00000005.safetensors", "R/step-00000020.safetensors"];
    let base = format!("attribute {NET} --precision f64");
    for (layers, rates) in [("", [0.5, 0.25]), ("--layers last", [0.1, 3.0])] {
        let mut expected: Array2<f64> = Array2::zeros((5, 55));
        for (weights, rate) in checkpoints.iter().zip(rates) {
            folder.succeed(&format!(
                "{base} {layers} --weights {weights} --l2 0.7 --solver identity --scores I.npy"
            ));
            expected = expected + rate * matrix(&folder, "I.npy");
        }
        let [first, second] = [0, 1].map(|c| format!("--checkpoint {}:{}", checkpoints[c], rates[c]));
        let text = folder
            .succeed(&format!("{base} --method tracin {layers} {first} {second} --scores S.npy"))
            .stdout;
        assert!(text.contains("5 queries x 55 training examples by tracin"), "{text}");
        let scores = matrix(&folder, "S.npy");
        let error: f64 = (&scores - &expected).mapv(|v| v * v).sum() / expected.mapv(|v| v * v).sum();
        assert!(error.sqrt() < 1e-9, "{error:e}");
        let report = json(&String::from_utf8(folder.bytes("S.json")).unwrap());
        assert_eq!(report["scores"]["unit"], "training-loss-reduction");
        assert_eq!(report["details"]["checkpoints"][1]["learning_rate"], rates[1]);
    }
    let bytes = folder.bytes("S.npy");
    let again = format!(
        "{base} --method tracin --layers last --checkpoint {}:0.1 --checkpoint {}:3",
        checkpoints[0], checkpoints[1]
    );
    folder.succeed(&format!("{again} --threads 1 --scores S.npy"));
    assert_eq!(folder.bytes("S.npy"), bytes);
    let noted = folder.succeed(&format!("{again} --l2 0.1 --damping 2 --scores S.npy"));
    assert!(noted.stderr.contains("--l2, --damping: of no use to this method"), "{}", noted.stderr);
}

/// A run directory stands for its checkpoints, and can be replayed: ideal scores add up to what training did.
#[test]
fn a_training_run_is_traced_and_replayed() {
    let folder = folder();
    let base = format!("attribute {NET} --precision f64 --training-run R");
    folder.succeed(&format!("{base} --method tracin --scores S.npy"));
    let manifest = json(&String::from_utf8(folder.bytes("R/run.json")).unwrap());
    let named: Vec<String> = manifest["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("--checkpoint R/{}:{}", c["weights"].as_str().unwrap(), c["learning_rate"]))
        .collect();
    assert_eq!(named.len(), 4);
    let bytes = folder.bytes("S.npy");
    folder.succeed(&format!(
        "attribute {NET} --precision f64 --method tracin {} --scores S.npy",
        named.join(" ")
    ));
    assert_eq!(folder.bytes("S.npy"), bytes);
    let exact = matrix(&folder, "S.npy");
    // A sketch of many numbers is near.
    for kind in ["gaussian", "rademacher", "factored"] {
        folder.succeed(&format!(
            "{base} --method tracin --projection 4000 --projection-kind {kind} --scores P.npy"
        ));
        let error: f64 =
            (&matrix(&folder, "P.npy") - &exact).mapv(|v| v * v).sum() / exact.mapv(|v| v * v).sum();
        assert!(error.sqrt() < 0.2, "{kind}: {error}");
    }
    // Sketches that are kept give the same bits, and later queries find them; those of something else are refused.
    let sketched = format!("{base} --method tracin --projection 30 --projection-seed 5");
    folder.succeed(&format!("{sketched} --scores M.npy"));
    let kept = format!("{sketched} --sketch K.npy");
    folder.succeed(&format!("{kept} --scores P.npy"));
    assert_eq!(folder.bytes("P.npy"), folder.bytes("M.npy"));
    assert_eq!(folder.scores("K.npy").shape(), [55, 4 * 30]);
    let again = folder.succeed(&format!("{kept} --scores P.npy"));
    assert!(again.stderr.contains("taken from K.npy"), "{}", again.stderr);
    assert_eq!(folder.bytes("P.npy"), folder.bytes("M.npy"));
    // Stopped between the sketches and their sum: they appear whole, and it is taken then.
    let manifest = String::from_utf8(folder.bytes("K.json")).unwrap();
    let mut unfinished: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    unfinished["sha256"] = serde_json::Value::Null;
    folder.write("K.json", unfinished.to_string().as_bytes());
    folder.succeed(&format!("{kept} --scores P.npy"));
    assert_eq!(folder.bytes("P.npy"), folder.bytes("M.npy"));
    assert_eq!(folder.bytes("K.json"), manifest.as_bytes());
    folder.refuse(
        &format!("{} --scores E.npy", kept.replace("seed 5", "seed 6")),
        &["K.npy: expected sketches made as this command makes them, found some with another projection"],
    );
    folder.refuse(
        &format!("{kept} --layers last --scores E.npy"),
        &["K.npy", "another layer selection, another list of checkpoints"],
    );
    folder.refuse(&format!("{kept} --scores K.npy"), &["K.npy: expected a file for each output"]);
    folder.refuse(&format!("{base} --method tracin --sketch K.npy --scores E.npy"), &["--projection"]);
    let mut bytes = folder.bytes("K.npy");
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path("K.npy"), bytes).unwrap();
    folder.refuse(&format!("{kept} --scores E.npy"), &["K.npy: expected sha256"]);
    folder.succeed(&format!("{base} --method tracin-ideal --scores I.npy"));
    let ideal = matrix(&folder, "I.npy");
    let loss = |weights: &str| -> Vec<f64> {
        let explain = format!(
            "explain {NET} --weights {weights} --l2 0.01 --damping 9 --curvature gauss-newton --precision f64 --json"
        );
        let document = json(&folder.run(&explain).stdout);
        document["queries"].as_array().unwrap().iter().map(|q| q["loss"].as_f64().unwrap()).collect()
    };
    folder.succeed("train --model mlp:6 --train T.npz --l2 0.01 --epochs 1 --batch 50 --optimizer sgd --learning-rate 1e-300 --precision f64 --out Z.safetensors");
    let (start, end) = (loss("Z.safetensors"), loss("N.safetensors"));
    for q in 0..5 {
        let sum = ideal.row(q).sum();
        assert!((sum - (start[q] - end[q])).abs() < 1e-9, "{sum} against {}", start[q] - end[q]);
    }
    // TRAK ranks like its neighbours, at least in sign; its scores are finite and its seed decides them.
    folder.succeed(&format!("{base} --method trak --projection 20 --scores K.npy"));
    assert!(matrix(&folder, "K.npy").iter().all(|score| score.is_finite()));
    let bytes = folder.bytes("K.npy");
    folder.succeed(&format!("{base} --method trak --projection 20 --threads 1 --scores K.npy"));
    assert_eq!(folder.bytes("K.npy"), bytes);
    let f32 = format!("attribute {NET} --training-run R --method tracin-ideal --scores E.npy");
    folder.refuse(&f32, &["--precision: expected f64, found f32"]);
    let other = base.replace("T.npz", "Q.npz");
    folder.refuse(
        &format!("{other} --method tracin-ideal --scores E.npy"),
        &["the training examples: expected those of T.npz"],
    );
    // Another set of parameters in place of the last checkpoint, which its manifest knows of.
    std::fs::copy(folder.path("R/step-00000005.safetensors"), folder.path("R/step-00000020.safetensors"))
        .unwrap();
    let mut manifest = json(&String::from_utf8(folder.bytes("R/run.json")).unwrap());
    manifest["checkpoints"][3]["weights_sha256"] = manifest["checkpoints"][0]["weights_sha256"].clone();
    folder.write("R/run.json", manifest.to_string().as_bytes());
    folder.refuse(
        &format!("{base} --method tracin-ideal --scores E.npy"),
        &["R: the replay: expected the parameters of"],
    );
    folder.refuse(
        &format!("attribute {NET} --training-run nowhere --method tracin --scores E.npy"),
        &["nowhere"],
    );
}

/// At an optimum representer values add up to the output, and the gap says so.
#[test]
fn representer_points_add_up() {
    let folder = Folder::new();
    Problem::new(60, 3, true).write(&folder);
    folder.succeed("train --model softmax --train T.npz --l2 0.05 --out W.safetensors");
    let base =
        "attribute --model softmax --train T.npz --query Q.npz --l2 0.05 --method representer --scores S.npy";
    folder.succeed(&format!("{base} --weights W.safetensors"));
    let report = json(&String::from_utf8(folder.bytes("S.json")).unwrap());
    assert!(report["details"]["relative_gap_to_outputs"].as_f64().unwrap() < 1e-6);
    assert_eq!(folder.scores("S.npy").shape(), [5, 55]);
    let noted = folder.succeed(&format!("{base} --weights W.safetensors --training-run none")).stderr;
    assert_eq!(noted, "note: --training-run: of no use to this method\n", "a run of no use is not read");
    folder.refuse(&base.replace("S.npy", "R.npy"), &["--weights"]);
    let free = base.replace("0.05", "0").replace("S.npy", "R.npy");
    folder.refuse(
        &format!("{free} --weights W.safetensors"),
        &["--method representer: representer points need"],
    );
}

#[test]
fn bad_checkpoints_are_refused() {
    let folder = folder();
    folder.succeed(
        "train --model mlp:5 --train T.npz --l2 0.01 --epochs 1 --precision f64 --out O.safetensors",
    );
    let base = format!("attribute {NET} --scores S.npy");
    let good = "--checkpoint N.safetensors:0.1";
    for (more, part) in [
        ("--method tracin --weights N.safetensors --l2 0.1", "expected at least one --checkpoint"),
        ("--method tracin", "expected at least one --checkpoint"),
        ("--method trak", "expected at least one --checkpoint"),
        ("--method tracin-ideal", "expected the --training-run"),
        ("--method representer --layers 3", "--layers: expected none"),
        (
            &format!("--method trak {good} --projection 1000000000"),
            "--projection 1000000000: expected one that fits into --memory-budget 1610612736 (bytes), found one that takes",
        ),
        (&format!("--method tracin {good} --projection 1000000000"), "--projection 1000000000: expected one"),
        ("--method tracin --checkpoint N.safetensors", "expected FILE:RATE"),
        ("--method tracin --checkpoint N.safetensors:0", "a learning rate above 0"),
        ("--method tracin --checkpoint N.safetensors:fast", "expected FILE:RATE"),
        ("--method tracin --checkpoint :0.1", "expected FILE:RATE"),
        ("--method tracin --checkpoint missing.safetensors:0.1", "missing.safetensors"),
        (&format!("--method tracin {good} --checkpoint O.safetensors:0.1"), "O.safetensors"),
        (&format!("--method tracin {good} --layers nowhere"), "nowhere"),
        (&format!("{good} --l2 0.1"), "belong to --method tracin"),
        ("--l2 0.1", "--weights"),
        ("--weights N.safetensors", "--l2"),
    ] {
        folder.refuse(&format!("{base} {more}"), &[part]);
    }
}

/// A run whose weights are not those that were kept, and one that did not come to its end.
#[test]
fn a_run_that_does_not_match_its_weights_is_refused() {
    let folder = folder();
    let base = format!("attribute {NET} --training-run R --precision f64 --scores S.npy");
    let [first, second] = [5, 10].map(|step| format!("R/step-{step:08}.safetensors"));
    let kept = folder.bytes(&first);
    folder.write(&first, &folder.bytes(&second));
    for method in ["tracin", "trak", "tracin-ideal"] {
        folder.refuse(&format!("{base} --method {method}"), &[&first, "expected sha256"]);
    }
    folder.write(&first, &kept);
    // What a run that was killed leaves: its manifest says less.
    let manifest = String::from_utf8(folder.bytes("R/run.json")).unwrap();
    let mut manifest = json(&manifest);
    manifest["checkpoints"].as_array_mut().unwrap().pop();
    folder.write("R/run.json", manifest.to_string().as_bytes());
    folder.refuse(
        &format!("{base} --method tracin-ideal"),
        &["R: the last checkpoint: expected step 20, found step"],
    );
}

/// What was given and says nothing to a method is named.
#[test]
fn options_of_other_methods_are_named() {
    let folder = folder();
    let told = folder.succeed(&format!(
        "attribute {NET} --scores S.npy --method tracin --checkpoint N.safetensors:0.1 --tolerance 0.1 --rank 3 --preconditioner kfac --removal renormalised"
    ));
    let line = "--removal, --tolerance, --preconditioner, --rank: of no use to this method";
    assert!(told.stderr.contains(line), "{}", told.stderr);
}

#[test]
fn fastif_scores_the_nearest_and_measures_its_recall() {
    let folder = folder();
    let solve = "--weights N.safetensors --l2 0.01 --damping 0.1 --curvature gauss-newton --precision f64";
    folder.succeed(&format!("attribute {NET} {solve} --solver block-cg --scores S.npy"));
    let scores = matrix(&folder, "S.npy");
    let base = format!("fastif {NET} {solve} --features 3 --scores F.json");
    let text = folder.succeed(&format!("{base} --candidates 55")).stdout;
    assert!(text.contains("100 % of the proponents and 100 % of the opponents"), "{text}");
    folder.succeed(&format!("{base} --candidates 12"));
    let document = json(&String::from_utf8(folder.bytes("F.json")).unwrap());
    for (q, query) in document["queries"].as_array().unwrap().iter().enumerate() {
        let train: Vec<usize> = serde_json::from_value(query["train"].clone()).unwrap();
        let own: Vec<f64> = serde_json::from_value(query["scores"].clone()).unwrap();
        assert_eq!((train.len(), own.len()), (12, 12));
        assert!(own.windows(2).all(|pair| pair[0] >= pair[1]));
        for (i, score) in train.iter().zip(own) {
            assert!((scores[[q, *i]] - score).abs() <= 1e-6 * scores[[q, *i]].abs().max(1e-3), "{q} {i}");
        }
        assert_eq!(query["termination"], "converged");
    }
    let recall = document["check"]["recall_of_top_10_proponents"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&recall));
    assert!(
        json(&folder.succeed(&format!("{base} --candidates 12 --check 0 --json")).stdout)["check"].is_null()
    );
    folder.refuse(
        &format!("{base} --candidates 56"),
        &["--candidates: expected from 1 to the 55 training examples, found 56"],
    );
    folder.refuse(&format!("{base} --candidates 0"), &["--candidates"]);
    folder
        .refuse(&format!("{base} --candidates 5 --index nearly"), &["--index", "expected exact or usearch"]);
    let nowhere = base.replace("--features 3", "--features relu");
    folder.refuse(
        &format!("{nowhere} --candidates 5"),
        &["--features: no layer with parameters is called \"relu\""],
    );
    folder.refuse(
        &base.replace("F.json", "F.npy").replace("--scores", "--candidates 5 --scores"),
        &["F.npy", ".json"],
    );
}

#[cfg(not(feature = "usearch"))]
#[test]
fn without_usearch_its_index_is_refused() {
    let command = format!(
        "fastif {NET} --weights N.safetensors --l2 0.01 --features 3 --candidates 5 --index usearch --scores F.json"
    );
    folder().refuse(&command, &["--index", "rebuild it with --features usearch"]);
}

/// A graph of 55 examples misses none of its neighbours: the same scores as by all distances.
#[cfg(feature = "usearch")]
#[test]
fn usearch_finds_candidates_and_tells_how_many() {
    let folder = folder();
    let solve = "--weights N.safetensors --l2 0.01 --damping 0.1 --curvature gauss-newton --precision f64";
    let base = format!("fastif {NET} {solve} --features 3 --candidates 12");
    folder.succeed(&format!("{base} --scores E.json"));
    let text = folder.succeed(&format!("{base} --index usearch --scores F.json")).stdout;
    assert!(text.contains("the index found 100 % of the nearest"), "{text}");
    let [exact, found] =
        ["E.json", "F.json"].map(|name| json(&String::from_utf8(folder.bytes(name)).unwrap()));
    assert_eq!(exact["queries"], found["queries"]);
    assert_eq!((&exact["index"], &found["index"]), (&"exact".into(), &"usearch".into()));
    assert!(exact["check"]["recall_of_nearest"].is_null());
    assert_eq!(found["check"]["recall_of_nearest"], 1.0);
    let unchecked = folder.succeed(&format!("{base} --index usearch --check 0 --scores G.json")).stdout;
    assert!(!unchecked.contains("the index found"), "{unchecked}");
}

/// Losses and gradients of single precision are finite here, and their products are not.
#[test]
fn scores_that_are_not_finite_carry_a_flag() {
    let folder = Folder::new();
    let mut problem = Problem::new(40, 3, true);
    // The second query, and a training example.
    for (row, scale) in [(36, 1e20), (0, 1e20)] {
        problem.x.row_mut(row).mapv_inplace(|x| scale * x);
    }
    problem.write(&folder);
    let base = "attribute --model softmax --train T.npz --query Q.npz --precision f32 --scores OUT.npy";
    for method in
        ["--weights W.safetensors --l2 0.1 --solver identity", "--method tracin --checkpoint W.safetensors:1"]
    {
        let Outcome { code, stderr, .. } = folder.run(&format!("{base} {method}"));
        assert_eq!(code, 3, "{method}: {stderr}");
        let line = "warning: scores of 1 of 5 queries are not finite";
        assert!(
            stderr.lines().any(|l| l.starts_with(line) && l.ends_with("queries 1")),
            "{method}: {stderr}"
        );
        assert_eq!(
            matrix(&folder, "OUT.npy").iter().filter(|score| !score.is_finite()).count(),
            1,
            "{method}"
        );
    }
}

/// A run that is not over, and examples that are not its own.
#[test]
fn what_is_unlike_the_run_is_said() {
    let folder = folder();
    let base = "attribute --model N.toml --query Q.npz --precision f64 --training-run R --method tracin --scores S.npy";
    let clean = folder.succeed(&format!("{base} --train T.npz")).stderr;
    assert!(!clean.contains("run"), "{clean}");
    let manifest = String::from_utf8(folder.bytes("R/run.json")).unwrap();
    let mut cut = json(&manifest);
    cut["checkpoints"].as_array_mut().unwrap().pop();
    folder.write("R/run.json", cut.to_string().as_bytes());
    let noted = folder.succeed(&format!("{base} --train Q.npz")).stderr;
    assert!(noted.contains("note: R: the last checkpoint: expected step 20, found step 15"), "{noted}");
    assert!(noted.contains("note: the run was trained on other examples, T.npz"), "{noted}");
}
