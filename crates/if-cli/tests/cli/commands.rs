//! The other commands, on the embedded digits.

use crate::support::{Folder, Problem, json};

const DIGITS: &str = "--model softmax --train digits:train[0..400] --l2 0.01";

#[test]
fn trained_weights_are_an_optimum() {
    let folder = Folder::new();
    let trained = folder.succeed(&format!("train {DIGITS} --test digits:test --out W.safetensors --json"));
    let trained = json(&trained.stdout);
    assert!(trained["fit"]["optimality"].as_f64().unwrap() <= 1e-8);
    assert!(trained["train_accuracy"].as_f64().unwrap() > 0.9, "{trained}");
    assert!(trained["test_accuracy"].as_f64().unwrap() > 0.7, "{trained}");
    let attributed = folder.succeed(
        "attribute --model softmax --train digits:train[0..400] --l2 0.01 --weights W.safetensors --query digits:test[0..3] --scores s.npy --json",
    );
    assert_eq!(attributed.stderr, "");
    assert!(json(&attributed.stdout)["optimality"]["relative"].as_f64().unwrap() < 1e-6);
    // From the optimum there is nothing left to do.
    let again = folder.succeed(&format!("train {DIGITS} --init W.safetensors --out W2.safetensors --json"));
    assert_eq!(json(&again.stdout)["fit"]["iterations"], 0);
    assert_eq!(folder.bytes("W.safetensors"), folder.bytes("W2.safetensors"));
}

#[test]
fn training_that_stops_early_is_flagged() {
    let folder = Folder::new();
    let outcome = folder.run(&format!("train {DIGITS} --gradient-norm 1e-300 --out W.safetensors"));
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("training stopped"), "{}", outcome.stderr);
    assert_eq!(folder.names(), ["W.safetensors"]);
}

#[test]
fn explain_needs_nothing_else() {
    let folder = Folder::new();
    let command = format!("explain {DIGITS} --query digits:test[7] --top 3");
    let outcome = folder.succeed(&command);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.starts_with("digits:test[7]: label 9, predicted "), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains('█'), "no pictures where stdout is no terminal");
    assert!(folder.succeed(&format!("{command} --pictures")).stdout.contains('█'));

    let document = json(&folder.succeed(&format!("{command} --json")).stdout);
    let query = &document["queries"][0];
    for (side, sign) in [("proponents", 1.0), ("opponents", -1.0)] {
        let ranked = query[side].as_array().unwrap();
        let scores: Vec<f64> = ranked.iter().map(|r| sign * r["score"].as_f64().unwrap()).collect();
        assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b) && scores[2] > 0.0, "{scores:?}");
        let change = ranked[0]["loss_change"].as_f64().unwrap();
        assert!((change * 400.0 - sign * scores[0]).abs() < 1e-9);
    }
    assert_eq!(query["query"], 7);
}

/// Log-odds of the label: `ln(p / (1 - p))`, here of a prediction that is right.
#[test]
fn explain_speaks_of_the_measure() {
    let folder = Folder::new();
    let command = format!("explain {DIGITS} --query digits:test[0] --top 3 --measure margin");
    let text = folder.succeed(&command).stdout;
    for part in [", margin ", "one of them the margin would fall", "change of the margin"] {
        assert!(text.contains(part), "{text}");
    }
    let document = json(&folder.succeed(&format!("{command} --json")).stdout);
    assert_eq!(document["measure"], "margin");
    let query = &document["queries"][0];
    let value = |name: &str| query[name].as_f64().unwrap();
    let p = value("probability");
    assert_eq!(query["label"], query["predicted"]);
    assert!((value("margin") - (p / (1.0 - p)).ln()).abs() < 1e-9, "{query}");
    assert!((value("loss") + p.ln()).abs() < 1e-9, "{query}");
    for side in ["proponents", "opponents"] {
        let first = &query[side][0];
        let (score, change) = (first["score"].as_f64().unwrap(), first["margin_change"].as_f64().unwrap());
        assert!((change * 400.0 + score).abs() < 1e-9, "{first}");
    }
}

#[test]
fn audit_finds_flipped_labels() {
    let folder = Folder::new();
    let command = format!("audit {DIGITS} --flip 0.1 --seed 3 --output all.csv");
    let document = json(&folder.succeed(&format!("{command} --json")).stdout);
    let found = |criterion: &str| {
        let recall = document["recall"].as_array().unwrap();
        let row = recall.iter().find(|row| row["criterion"] == criterion).unwrap();
        row["found"][2].as_f64().unwrap()
    };
    assert!(found("self-influence") > 0.8, "{}", document["recall"]);
    assert!(found("random") < 0.5, "{}", document["recall"]);
    let table = String::from_utf8(folder.bytes("all.csv")).unwrap();
    assert_eq!(table.lines().count(), 401);
    assert_eq!(table.lines().filter(|line| line.ends_with(",1")).count(), 40);
    // The same seed flips the same labels, another one others.
    folder.succeed(&command);
    assert_eq!(table.as_bytes(), folder.bytes("all.csv"));
    folder.succeed(&format!("audit {DIGITS} --flip 0.1 --seed 4 --output other.csv"));
    assert_ne!(table.as_bytes(), folder.bytes("other.csv"));
}

#[test]
fn verify_agrees_with_retraining() {
    let folder = Folder::new();
    let outcome = folder.succeed(&format!("verify {DIGITS} --query digits:test[5..7] --top 5 --json"));
    let document = json(&outcome.stdout);
    let agreement = &document["agreement"];
    assert!(agreement["pearson"].as_f64().unwrap() > 0.99, "{agreement}");
    assert!((agreement["slope"].as_f64().unwrap() - 1.0).abs() < 0.15, "{agreement}");
    assert_eq!(document["pairs"].as_array().unwrap().len(), 10);
    assert!(document["agreement_over_one_minus_leverage"].is_null());
}

#[test]
fn verify_corrects_for_leverage_where_there_is_one_output() {
    let folder = Folder::new();
    Problem::new(85, 2, true).write(&folder);
    let command = "verify --model logistic --train T.npz --query Q.npz --l2 0.02 --top 6";
    let document = json(&folder.succeed(&format!("{command} --json")).stdout);
    let error = |name: &str| document[name]["relative_error"].as_f64().unwrap();
    assert!(error("agreement_over_one_minus_leverage") < error("agreement"), "{document}");
    assert!(folder.succeed(command).stdout.contains("First order underestimates large removals"));

    let given = folder.run(&format!("{command} --weights W.safetensors"));
    assert!(given.stderr.contains("first trained on"), "{}", given.stderr);
    let from_given = folder.succeed(&format!("{command} --weights W.safetensors --json"));
    let slope = |document: &serde_json::Value| document["agreement"]["slope"].as_f64().unwrap();
    assert!((slope(&json(&from_given.stdout)) - slope(&document)).abs() < 1e-6);
}

#[test]
fn verify_retrains_an_svm_on_the_hinge() {
    let folder = Folder::new();
    Problem::new(85, 2, true).write(&folder);
    let command = "verify --model svm --train T.npz --query Q.npz --l2 0.1 --top 4 --temperature 0.05 --json";
    let document = json(&folder.succeed(command).stdout);
    assert_eq!(document["retrainings_not_converged"], 0);
    assert!(document["agreement"]["pearson"].as_f64().unwrap() > 0.5, "{}", document["agreement"]);
}

/// Separable, with almost no l2: what an example does is below what training can see.
#[test]
fn retraining_that_took_no_step_is_flagged() {
    let folder = Folder::new();
    folder.write("s.csv", b"a,y\n-3,0\n-2,0\n2,1\n3,1\n");
    let outcome = folder.run("verify --model logistic --train s.csv --query s.csv[0] --l2 1e-12");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("took no step"), "{}", outcome.stderr);
}

#[test]
fn data_lists_shows_and_checks() {
    let folder = Folder::new();
    let listed = json(&folder.succeed("data list --json").stdout);
    let names: Vec<&str> =
        listed["datasets"].as_array().unwrap().iter().map(|set| set["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"digits") && names.contains(&"mnist"));
    assert!(folder.succeed("data show iris").stdout.contains("Iris-setosa: 50"));
    assert!(folder.succeed("data show digits:test[3]").stdout.contains('█'));
    assert!(folder.succeed("data verify digits").stdout.contains("in the program"));
    assert!(folder.succeed("data fetch digits").stdout.contains("nothing to fetch"));
    let missing = folder.run("data verify mnist");
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("influence data fetch mnist"), "{}", missing.stderr);
    let unknown = folder.run("data verify mnits");
    assert_eq!((unknown.code, unknown.stderr.lines().count()), (2, 1), "{}", unknown.stderr);
}

#[test]
fn help_is_no_error() {
    let folder = Folder::new();
    assert!(folder.succeed("--help").stdout.contains("Usage: influence"));
    assert!(folder.succeed("--version").stdout.starts_with("influence "));
    assert_eq!(folder.run("").code, 2);
}
