//! `influence fragility`: every axis has its networks, and the numbers are those of the library.

use serde_json::Value;

use crate::support::{Folder, Problem, json};

fn folder() -> Folder {
    let folder = Folder::new();
    let problem = Problem::new(60, 3, true);
    problem.write(&folder);
    problem.write_examples(&folder, "TEST.npz", 40, 60);
    folder
}

const STUDY: &str = "fragility --train T.npz --test TEST.npz --left-out 5";

#[test]
fn every_axis_is_walked_from_the_base() {
    let folder = folder();
    let axes = format!(
        "{STUDY} --model mlp:3 --model mlp:3,3 --l2 0.02,0.1 --examples 55,30 --points 0,0.5 --seeds 2 --seed 4 --cold --lissa"
    );
    let text = folder.succeed(&axes).stdout;
    let headings = ["median", "cold", "LiSSA", "slope", "gradient norm", "lowest eigenvalue"];
    assert!(headings.iter().all(|heading| text.contains(heading)), "{text}");
    assert!(text.contains("means over 2 seeds"), "{text}");
    let found = json(&folder.succeed(&format!("{axes} --json")).stdout);
    let networks = found["networks"].as_array().unwrap();
    let kinds: Vec<(&str, f64, u64)> = networks
        .iter()
        .map(|one| {
            (one["model"].as_str().unwrap(), one["l2"].as_f64().unwrap(), one["examples"].as_u64().unwrap())
        })
        .collect();
    let expected = [("mlp:3", 0.02, 55), ("mlp:3,3", 0.02, 55), ("mlp:3", 0.1, 55), ("mlp:3", 0.02, 30)];
    assert_eq!(kinds, expected);
    for trials in networks.iter().map(|one| one["trials"].as_array().unwrap()) {
        assert_eq!(trials.iter().map(|trial| trial["seed"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5]);
        for trial in trials {
            let counts = ["warm", "cold", "lissa", "points", "left_out"]
                .map(|field| trial[field].as_array().map_or(0, Vec::len));
            assert_eq!(counts, [2, 2, 2, 2, 5]);
            assert!(trial["gradient_norm"].as_f64().unwrap() <= 1e-8);
            assert_eq!(trial["trainings_stopped"], 0);
        }
    }
    // Much l2: influence is right.
    let pearson = |trial: &Value| trial["warm"][0]["pearson"].as_f64().unwrap();
    assert!(pearson(&networks[2]["trials"][0]) > 0.99, "{}", networks[2]);
    // Rows of the source, not positions among the examples that were drawn.
    let fewer = networks[3]["trials"][0]["left_out"].as_array().unwrap();
    assert!(fewer.iter().any(|row| row.as_u64().unwrap() >= 30), "{fewer:?}");
    // Another seed is another network.
    let trial = |seed: usize| &networks[0]["trials"][seed];
    assert_ne!(trial(0)["warm"], trial(1)["warm"]);
    let settings = &found["settings"];
    assert_eq!((&settings["device"], &settings["precision"]), (&json("\"cpu\""), &json("\"f64\"")));
    assert_eq!(settings["seeds"], json("[4, 5]"));
    // What the table says is what the trials say.
    let mean = |value: &dyn Fn(&Value) -> f64| (value(trial(0)) + value(trial(1))) / 2.0;
    let number = |value: &Value| value.as_f64().unwrap();
    let row: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    let shown = |at: usize| row[at].parse::<f64>().unwrap();
    let close =
        |at: usize, value: f64| assert!((shown(at) - value).abs() <= 1e-3 * value.abs(), "{at} {row:?}");
    close(3, mean(&|trial| number(&trial["warm"][0]["spearman"])));
    close(4, mean(&|trial| number(&trial["warm"][1]["spearman"])));
    close(5, mean(&|trial| number(&trial["cold"][0]["spearman"])));
    close(6, mean(&|trial| number(&trial["lissa"][0]["spearman"])));
    close(7, mean(&|trial| number(&trial["warm"][0]["pearson"])));
    close(8, mean(&|trial| number(&trial["warm"][0]["slope"])));
    close(9, number(&trial(0)["gradient_norm"]).max(number(&trial(1)["gradient_norm"])));
    close(10, number(&trial(0)["smallest_eigenvalue"]).min(number(&trial(1)["smallest_eigenvalue"])));
    // And agreements are those of the numbers beside them.
    let series = |value: &Value| value.as_array().unwrap().iter().map(number).collect::<Vec<f64>>();
    let (predicted, actual) = (series(&trial(0)["predicted"][1]), series(&trial(0)["actual_warm"][1]));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let slope = dot(&predicted, &actual) / dot(&actual, &actual);
    assert!((slope - number(&trial(0)["warm"][1]["slope"])).abs() < 1e-9 * slope.abs());
    // The same bits for one thread; an axis that says a thing twice says it once; seeds wrap around.
    assert_eq!(json(&folder.succeed(&format!("{axes} --json --threads 1")).stdout), found);
    let twice =
        format!("{STUDY} --model mlp:3 --model mlp:3 --l2 0.1,0.1 --seeds 2 --seed {} --json", u64::MAX);
    let found = json(&folder.succeed(&twice).stdout);
    assert_eq!(found["networks"].as_array().unwrap().len(), 1);
    assert_eq!(found["settings"]["seeds"], json(&format!("[{}, 0]", u64::MAX)));
}

/// A network of somebody's own, and what did not arrive is flagged.
#[test]
fn a_network_from_a_file() {
    let folder = folder();
    folder.write(
        "net.toml",
        b"input = [4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"dense\"\nname = \"a\"\nout = 3\n[[layer]]\ntype = \"softplus\"\n[[layer]]\ntype = \"dense\"\nname = \"b\"\nout = 3\n",
    );
    let study = format!("{STUDY} --model net.toml --l2 0.05 --seeds 1");
    assert!(folder.succeed(&study).stdout.contains("net.toml"));
    let stopped = folder.run(&format!("{study} --max-iterations 2"));
    assert_eq!(stopped.code, 3, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("6 trainings stopped above gradient norm 1e-8"), "{}", stopped.stderr);
}

#[test]
fn what_is_refused() {
    let folder = folder();
    for (arguments, expected) in [
        ("--model softmax --l2 0.1", "--model softmax: expected mlp:5,5, cnn:4 or FILE.toml"),
        ("--model mlp:3 --l2 0.1 --examples 56", "--examples: expected at most the 55 of T.npz, found 56"),
        ("--model mlp:3 --l2 0.1 --points 0,2", "--points: expected a share from 0 to 1, found \"2\""),
        ("--model mlp:3 --l2 0.1 --left-out 55", "left-out: expected 3 to 54 of 55 training examples"),
        ("--model mlp:3 --l2 -1", "--l2"),
        ("--model cnn:3 --l2 0.1", "T.npz: cnn takes pictures, found examples of shape [4]"),
        (
            "--model mlp:300 --l2 0.1 --memory-budget 1MiB",
            "memory-budget: expected 132.2 MiB for the Hessian of 2403 parameters, found 1.0 MiB",
        ),
    ] {
        let arguments = if arguments.contains("left-out") {
            arguments.to_owned()
        } else {
            format!("{arguments} --left-out 5")
        };
        let outcome = folder.run(&format!("fragility --train T.npz --test TEST.npz {arguments}"));
        assert_eq!(outcome.code, 2, "{arguments}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments}: {}", outcome.stderr);
    }
}
