//! `influence train` for networks: runs that are stopped and resumed, and optima of L-BFGS.

use std::process::Child;

use if_data::{LoadOptions, read_tensors};
use if_linalg::{Block, Cpu};
use if_models::{Dataset, Inputs, ModelSpec, Rows};
use ndarray::{Array1, Array2};

use crate::dense::solve;
use crate::support::{Folder, Outcome, interrupt, json, left_behind};

const TRAIN: &str = "train --model mlp:8 --train digits:train --l2 0.001 --out W.safetensors";

/// Long enough to be stopped in the middle: 3600 steps.
const LONG: &str = "--epochs 300 --learning-rate 0.0123456789012345678";
const RUN: &str = "--run run --checkpoint-every 40";

fn refused(outcome: &Outcome, line: &str) {
    let Outcome { code, stdout, stderr } = outcome;
    assert_eq!((*code, stdout.as_str()), (2, ""), "{stderr}");
    let first = stderr.lines().find(|line| !line.starts_with("note: ")).unwrap();
    assert_eq!(first, format!("error: {line}"));
}

#[test]
fn checkpoints_at_chosen_steps() {
    // 12 steps an epoch.
    for (options, steps) in [
        ("", vec![12, 24]),
        ("--checkpoint-every 10", vec![10, 20, 24]),
        ("--checkpoint-at 1,7", vec![1, 7, 24]),
        ("--checkpoint-at 1,7,99 --checkpoint-every 12", vec![1, 7, 12, 24]),
    ] {
        let folder = Folder::new();
        folder.succeed(&format!("{TRAIN} --epochs 2 --run run {options}"));
        let manifest = json(&std::fs::read_to_string(folder.path("run/run.json")).unwrap());
        let found: Vec<usize> = manifest["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|checkpoint| checkpoint["step"].as_u64().unwrap() as usize)
            .collect();
        assert_eq!(found, steps, "{options}");
    }
}

/// Stopped in any way after a checkpoint, a run goes on to the same bits.
#[cfg(unix)]
#[test]
fn stopped_runs_resume_to_the_same_bits() {
    let whole = Folder::new();
    whole.succeed(&format!("{TRAIN} {LONG}"));
    let expected = whole.bytes("W.safetensors");
    let kill = |child: &mut Child| child.kill().unwrap();
    for (stop, code) in [(&kill as &dyn Fn(&mut Child), None), (&interrupt, Some(130))] {
        let folder = Folder::new();
        let first = folder.path("run/step-00000080.safetensors");
        let mut program = folder.begin(&format!("{TRAIN} {LONG} {RUN}"), || first.exists());
        stop(&mut program);
        let (found, stderr) = left_behind(program);
        assert_eq!(found, code, "{stderr}");
        assert!(!folder.path("W.safetensors").exists(), "the run was not in its middle");
        if code.is_some() {
            let last = stderr.lines().last().unwrap();
            assert_eq!(last, "error: interrupted; go on from the last checkpoint with --resume");
        }
        let resumed = folder.succeed(&format!("{TRAIN} {LONG} {RUN} --resume"));
        assert!(resumed.stderr.starts_with("note: resumed at step "), "{}", resumed.stderr);
        assert_eq!(folder.bytes("W.safetensors"), expected);
        // The last checkpoint is the result; to resume once more only writes it again.
        assert_eq!(folder.bytes("run/step-00003600.safetensors"), expected);
        std::fs::remove_file(folder.path("W.safetensors")).unwrap();
        folder.succeed(&format!("{TRAIN} {LONG} {RUN} --resume"));
        assert_eq!(folder.bytes("W.safetensors"), expected);
    }
}

#[test]
fn threads_change_no_bit() {
    let folder = Folder::new();
    let weights = [1, 2].map(|threads| {
        let more = format!("--epochs 3 --learning-rate 0.05 --test digits:test --threads {threads} --json");
        let report = json(&folder.succeed(&format!("{TRAIN} {more}")).stdout);
        assert!(report["test_accuracy"].as_f64().unwrap() > 0.3, "{report}");
        folder.bytes("W.safetensors")
    });
    assert!(weights[0] == weights[1]);
}

/// A line for every epoch, which says of what the accuracy is and, after a resume, of which steps the loss.
#[test]
fn epochs_are_told_of() {
    let folder = Folder::new();
    let told = |command: &str| {
        let stderr = folder.succeed(command).stderr;
        let lines = stderr.lines().filter(|line| line.starts_with("note: epoch "));
        lines.map(|line| line.split(char::is_numeric).collect::<String>()).collect::<Vec<_>>()
    };
    let train = TRAIN.replace("digits:train", "digits:train[0..600]");
    let of_train = "note: epoch  of : mean loss ., train accuracy . %";
    // 5 steps an epoch.
    assert_eq!(told(&format!("{train} --epochs 2 --run run --checkpoint-at 3,10")), [of_train; 2]);
    let with_test = told(&format!("{train} --test digits:test --epochs 1"));
    assert_eq!(with_test, ["note: epoch  of : mean loss ., test accuracy . %"]);
    std::fs::remove_file(folder.path("run/step-00000010.safetensors")).unwrap();
    assert_eq!(
        told(&format!("{train} --epochs 2 --run run --checkpoint-at 3,10 --resume")),
        ["note: epoch  of : mean loss of the last  steps ., train accuracy . %", of_train]
    );
}

#[test]
fn runs_are_resumed_only_as_they_were_started() {
    let folder = Folder::new();
    let short = format!("{TRAIN} --epochs 2 --run run");
    refused(&folder.run(&format!("{TRAIN} --resume")), "--resume goes with --run, the folder of the run");
    let none = folder.run(&format!("{short} --resume"));
    assert!(none.stderr.starts_with("error: run/run.json: cannot resume: "), "{}", none.stderr);
    folder.succeed(&short);
    let weights = folder.bytes("W.safetensors");

    let again = folder.run(&short);
    refused(&again, "run: a run is there already");
    assert!(again.stderr.ends_with("hint: go on with it with --resume, or name another --run\n"));
    for (more, difference) in [
        ("--learning-rate 0.01", "expected training.learning_rate 0.001, found 0.01"),
        ("--batch 64", "expected training.batch 128, found 64"),
        ("--precision f64", "expected precision \"f32\", found \"f64\""),
    ] {
        let line =
            format!("run/run.json: {difference}: a run is resumed with the settings it was started with");
        refused(&folder.run(&format!("{short} --resume {more}")), &line);
    }

    let manifest = folder.bytes("run/run.json");
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let changes: [(Change, &str); 3] = [
        (&|run| run["config"]["schema"] = 2.into(), "expected schema 1, found 2"),
        (
            &|run| run["config"]["program"] = "0.0.9".into(),
            "expected program \"0.0.9\", found \"0.1.0\": a run is resumed with the settings it was started with",
        ),
        (
            &|run| {
                let all = run["checkpoints"].as_array_mut().unwrap();
                all.truncate(1);
                all[0]["optimizer"] = serde_json::Value::Null;
            },
            "step 12: expected the state of the optimiser, found none",
        ),
    ];
    for (change, line) in changes {
        let mut run = json(&String::from_utf8(manifest.clone()).unwrap());
        change(&mut run);
        folder.write("run/run.json", run.to_string().as_bytes());
        refused(&folder.run(&format!("{short} --resume")), &format!("run/run.json: {line}"));
    }
    folder.write("run/run.json", &manifest);

    let last = "run/step-00000024.safetensors";
    let whole = folder.bytes(last);
    assert_eq!(whole, weights);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    folder.write(last, &flipped);
    // A damaged checkpoint is told of, and the one before it gives the same bits.
    let outcome = folder.succeed(&format!("{short} --resume"));
    assert!(outcome.stderr.starts_with(&format!("warning: {last}: expected sha256 ")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("; going back to the checkpoint before it\nnote: resumed at step 12\n"));
    assert_eq!((folder.bytes("W.safetensors"), folder.bytes(last)), (weights.clone(), weights.clone()));
    std::fs::remove_file(folder.path(last)).unwrap();
    let first = "run/step-00000012.safetensors";
    folder.write(first, b"no tensors");
    let outcome = folder.run(&format!("{short} --resume"));
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.starts_with(&format!("warning: {last}: cannot open")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("\nerror: {first}: expected sha256 ")), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 2, "{}", outcome.stderr);
    assert_eq!(folder.bytes("W.safetensors"), weights, "what was there stays");
}

#[test]
fn outputs_and_shapes_that_would_lose_something() {
    let folder = Folder::new();
    let train = "train --model mlp:4 --train digits:train[0..50] --l2 0.001 --epochs 1";
    refused(
        &folder.run(&format!("{train} --out x.toml")),
        "--out x.toml: expected a name that ends in .safetensors",
    );
    folder.write("own.toml", b"# mine\ninput = [8, 8]\n");
    let outcome = folder.run(&format!("{train} --out own.safetensors"));
    refused(&outcome, "own.toml: is there already, and not written by this program");
    assert_eq!(folder.bytes("own.toml"), b"# mine\ninput = [8, 8]\n");
    // What the program wrote may be written again.
    folder.succeed(&format!("{train} --out w.safetensors"));
    folder.succeed(&format!("{} --out w.safetensors", train.replace("mlp:4", "mlp:3")));

    let layers = "loss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"\n[[layer]]\ntype = \"dense\"\nname = \"0\"\nout = 10\n";
    folder.write("other.toml", format!("input = [4, 16]\n{layers}").as_bytes());
    let train = train.replace("mlp:4", "other.toml");
    refused(
        &folder.run(&format!("{train} --out o.safetensors")),
        "digits:train: expected examples of shape [4, 16], found [8, 8]",
    );
    for (from, to, line) in [
        (
            "input = [4, 16]",
            "input = [4, 0]",
            "expected an input of at least one number and at most 1073741824, found [4, 0]",
        ),
        (
            "input = [4, 16]",
            "input = [64, 288230376151711745]",
            "expected an input of at least one number and at most 1073741824, found [64, 288230376151711745]",
        ),
        (
            "out = 10",
            "out = 100000000000",
            "layer 1: dense \"0\" would take 65 x 100000000000 numbers, expected at most 1073741824",
        ),
        (
            "input = [4, 16]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"",
            "input = [64]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"embedding_bag\"\nname = \"e\"\nvocab = 16777216\ndim = 1000000",
            "layer 0: embedding_bag \"e\" would take 16777216 x 1000000 numbers, expected at most 1073741824",
        ),
        (
            "input = [4, 16]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"",
            "input = [1, 4, 4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"conv2d\"\nname = \"c\"\nout = 2\nkernel = 8589934592\npadding = 4294967296",
            "layer 0: conv2d \"c\": a window of side 8589934592 is too large",
        ),
        ("name = \"0\"", "name = \"\"", "layer 1: a layer with parameters has an empty name"),
        (
            "type = \"dense\"\nname = \"0\"\nout = 10",
            "type = \"relu\"",
            "expected a layer with parameters, found none",
        ),
    ] {
        folder.write("other.toml", format!("input = [4, 16]\n{layers}").replace(from, to).as_bytes());
        refused(&folder.run(&format!("{train} --out o.safetensors")), &format!("other.toml: {line}"));
    }
}

#[test]
fn settings_that_make_no_sense() {
    let folder = Folder::new();
    for (more, line) in [
        ("--epochs 0", "--epochs: expected a whole number above 0, found \"0\""),
        ("--batch 0", "--batch: expected a whole number above 0, found \"0\""),
        ("--learning-rate -1", "--learning-rate: expected a number above 0, found \"-1\""),
        ("--learning-rate nan", "--learning-rate: expected a number, found \"nan\""),
        ("--momentum 0.9", "--momentum belongs to --optimizer sgd"),
        ("--optimizer sgd --momentum 1", "momentum must be at least 0 and below 1, found 1"),
        ("--step-epochs 3", "--step-epochs and --step-factor belong to --schedule step"),
        ("--checkpoint-every 3", "--checkpoint-every goes with --run, the folder of the run"),
        ("--checkpoint-at 3", "--checkpoint-at goes with --run, the folder of the run"),
        ("--no-bias", "--no-bias belongs to models of one layer"),
        (
            "--max-iterations 3",
            "--max-iterations belongs to --optimizer lbfgs: minibatches are trained on for --epochs",
        ),
        (
            "--gradient-norm 1e-3",
            "--gradient-norm belongs to --optimizer lbfgs: minibatches are trained on for --epochs",
        ),
    ] {
        refused(&folder.run(&format!("{TRAIN} {more}")), line);
    }
    for option in ["--batch 3", "--epochs 3", "--momentum 0.5", "--schedule constant", "--run run"] {
        let name = option.split(' ').next().unwrap();
        refused(
            &folder.run(&format!("{TRAIN} --optimizer lbfgs {option}")),
            &format!(
                "{name} belongs to --optimizer adam and sgd: lbfgs takes all examples in every step, and keeps no checkpoints"
            ),
        );
        let softmax = TRAIN.replace("mlp:8", "softmax");
        refused(
            &folder.run(&format!("{softmax} {option}")),
            &format!("{name} belongs to networks, this model is trained to its optimum"),
        );
    }
    for model in ["mlp:0", "mlp:", "mlp:8,,8", "cnn:x"] {
        refused(
            &folder.run(&TRAIN.replace("mlp:8", model)),
            &format!("--model: expected sizes such as 256,128, found {model:?}"),
        );
    }
    folder.write("t.csv", b"a,b,class\n1,2,0\n2,1,1\n");
    refused(
        &folder.run("train --model cnn:4 --train t.csv --l2 0.1 --out W.safetensors"),
        "t.csv: cnn takes pictures, found examples of shape [2]",
    );
    refused(
        &folder.run(&TRAIN.replace("W.safetensors", "none/W.safetensors")),
        &first_line(&folder, "none/W.safetensors"),
    );
    std::fs::create_dir(folder.path("W.toml")).unwrap();
    let outcome = folder.run(TRAIN);
    assert!(outcome.code == 2 && outcome.stderr.contains("W.toml"), "{}", outcome.stderr);
    assert_eq!(folder.names(), ["W.toml", "t.csv"]);
}

/// What is said about an output that cannot be created.
fn first_line(folder: &Folder, out: &str) -> String {
    let outcome = folder.run(&format!("train --model softmax --train digits --l2 0.1 --out {out}"));
    outcome.stderr.lines().next().unwrap().strip_prefix("error: ").unwrap().to_owned()
}

#[test]
fn training_that_diverges() {
    let folder = Folder::new();
    for precision in ["f32 --learning-rate 1e30", "f64 --learning-rate 1e300"] {
        for optimizer in ["adam", "sgd"] {
            let Outcome { code, stderr, .. } = folder.run(&format!(
                "train --model mlp:8 --train digits:train[500..800] --l2 0 --out W.safetensors --optimizer {optimizer} --precision {precision}"
            ));
            assert_eq!(code, 2, "{stderr}");
            let line = stderr.strip_prefix("error: digits:train: the loss of example ").unwrap();
            let (example, line) = line.split_once(' ').unwrap();
            assert!((500..800).contains(&example.parse::<usize>().unwrap()), "rows of the source: {stderr}");
            assert!(
                line.starts_with("is not finite at step ") && line.ends_with(": lower the learning rate\n")
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
    // After a single step there is no other to notice it.
    let outcome =
        folder.run(&format!("{TRAIN} --epochs 1 --batch 5000 --learning-rate 1e30 --optimizer sgd"));
    assert_eq!(outcome.code, 2);
    let last = outcome.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "error: digits:train: the objective is not finite after step 1: lower the learning rate, or scale the features"
    );
    assert!(folder.names().is_empty());
    let outcome = folder.run(&format!("{TRAIN} --run run --learning-rate 1e30 --optimizer sgd"));
    let last = outcome.stderr.lines().last().unwrap();
    assert_eq!(last, "hint: other settings are another run: remove run, or name another --run");
}

#[test]
fn lbfgs_reaches_an_optimum() {
    let folder = Folder::new();
    folder.write(
        "net.toml",
        b"input = [8, 8]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"\n[[layer]]\ntype = \"dense\"\nname = \"0\"\nout = 4\n[[layer]]\ntype = \"tanh\"\n[[layer]]\ntype = \"dense\"\nname = \"1\"\nout = 10\n",
    );
    let train =
        "train --model net.toml --train digits:train[0..60] --l2 0.01 --optimizer lbfgs --out W.safetensors";
    let report = json(&folder.succeed(&format!("{train} --json")).stdout);
    assert!(report["gradient_norm"].as_f64().unwrap() <= 1e-8, "{report}");
    assert_eq!(report["steps"], report["fit"]["iterations"]);
    // Nothing is to be said about weights that are not at an optimum.
    let explained = folder.succeed(
        "explain --model W.toml --weights W.safetensors --train digits:train[0..60] --query digits:test[0] --l2 0.01 --curvature gauss-newton --precision f64",
    );
    assert_eq!(explained.stderr, "");
    let again = folder.succeed(&format!("{train} --init W.safetensors --json"));
    assert_eq!(json(&again.stdout)["steps"], 0);
    folder.succeed(&format!("{train} --precision f32"));

    let early = folder.run(&format!("{train} --max-iterations 3"));
    assert_eq!(early.code, 3);
    assert!(early.stderr.starts_with("warning: training stopped after 3 iterations at gradient norm "));
    assert!(early.stderr.ends_with("raise --max-iterations or --l2, or ask for less\n"), "{}", early.stderr);
    let relu = folder.run(&format!("{} --max-iterations 3", train.replace("net.toml", "mlp:4")));
    assert!(relu.code == 3 && relu.stderr.contains("tanh or softplus have none"), "{}", relu.stderr);
}

/// A network trained from its own description leaves it as it was written.
#[test]
fn a_description_is_not_written_over() {
    let folder = Folder::new();
    let text = "# mine\ninput = [8, 8]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"\n[[layer]]\ntype = \"dense\"\nname = \"fc\"\nout = 10\n";
    folder.write("net.toml", text.as_bytes());
    folder.succeed("train --model net.toml --train digits:train --l2 0.01 --epochs 1 --out net.safetensors");
    assert_eq!(folder.bytes("net.toml"), text.as_bytes());
    folder
        .succeed("train --model net.toml --train digits:train --l2 0.01 --epochs 1 --out other.safetensors");
    assert_eq!(folder.names(), ["net.safetensors", "net.toml", "other.safetensors", "other.toml"]);
    assert!(folder.bytes("other.safetensors") == folder.bytes("net.safetensors"));
}

/// `g_q^T (G + (l2 + damping) I)^-1 g_i` with the Gauss-Newton matrix `G` written out.
#[test]
fn scores_of_a_network_are_those_of_the_explicit_matrix() {
    let folder = Folder::new();
    let (train, query) = ("digits:train[0..40]", "digits:test[0..3]");
    folder.succeed(&format!(
        "train --model mlp:4 --train {train} --l2 0.01 --epochs 20 --precision f64 --out W.safetensors"
    ));
    let outcome = folder.run(&format!(
        "attribute --model W.toml --weights W.safetensors --train {train} --query {query} --l2 0.01 --damping 0.02 --precision f64 --solver cholesky --curvature gauss-newton --scores OUT.npy"
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);

    let spec: ModelSpec = toml::from_str(&String::from_utf8(folder.bytes("W.toml")).unwrap()).unwrap();
    let tensors = read_tensors(&folder.path("W.safetensors")).unwrap();
    let tensors = tensors.into_iter().map(|(name, array)| (name, array.to_f64())).collect();
    let (network, theta) = spec.load(&Cpu::<f64>::new(), &tensors).unwrap();
    let p = network.layout().dim();
    let inputs = |source: &str| {
        let examples = if_data::load(&source.parse().unwrap(), &LoadOptions::default()).unwrap();
        let data = Dataset::new(examples.x, examples.y.to_f64()).unwrap();
        Inputs::new(&network, &data, usize::MAX).unwrap()
    };
    let gradients = |inputs: &Inputs<Cpu<f64>>| {
        let all = network.example_gradients(inputs, &theta, Rows::Range(0, inputs.len()));
        Array2::from_shape_vec((inputs.len(), p), all.to_f64()).unwrap()
    };
    let (train, query) = (inputs(train), inputs(query));
    let (n, outputs) = (train.len(), network.outputs());

    let identity: Vec<f64> = Array2::<f64>::eye(p).into_raw_vec_and_offset().0;
    let identity = Block::from_f64(network.backend(), network.layout(), &identity);
    let jacobians = network.output_tangents(&train, &theta, &identity);
    let jacobians = ndarray::Array3::from_shape_vec((p, n, outputs), jacobians).unwrap();
    let logits = Array2::from_shape_vec((n, outputs), network.example_outputs(&train, &theta)).unwrap();
    let mut matrix = Array2::<f64>::eye(p) * (0.01 + 0.02);
    for i in 0..n {
        let e = logits.row(i).mapv(f64::exp);
        let probabilities: Array1<f64> = &e / e.sum();
        let j = jacobians.index_axis(ndarray::Axis(1), i);
        let mean = j.dot(&probabilities);
        let weighted = &j * &probabilities;
        for a in 0..p {
            for b in 0..p {
                matrix[[a, b]] += (weighted.row(a).dot(&j.row(b)) - mean[a] * mean[b]) / n as f64;
            }
        }
    }
    let (train, query) = (gradients(&train), gradients(&query));
    let expected: Vec<Array1<f64>> =
        query.rows().into_iter().map(|q| train.dot(&solve(matrix.clone(), q.to_owned()))).collect();
    let expected = Array2::from_shape_fn((3, n), |(q, i)| expected[q][i]);
    let found = folder.scores("OUT.npy").to_f64();
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let error = found.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(error < 1e-8 * size, "off by {error:e} of {size:e}");
}

/// PyTorch trains these otherwise, and a user has to know.
#[test]
fn what_training_leaves_as_it_is_is_said() {
    let folder = Folder::new();
    let layers = [
        "dense\"\nname = \"a\"\nout = 4",
        "batch_norm\"\nname = \"n",
        "dropout",
        "dense\"\nname = \"b\"\nout = 10",
    ];
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| {
            format!(
                "[[layer]]\ntype = \"{layer}{}\n",
                if layer.ends_with(char::is_numeric) { "" } else { "\"" }
            )
        })
        .collect();
    let text = format!(
        "input = [1, 8, 8]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"flatten\"\n{}",
        layers.concat()
    );
    folder.write("n.toml", text.as_bytes());
    let train = "train --model n.toml --train digits:train[0..50] --l2 0.1 --epochs 1";
    let first = folder.succeed(&format!("{train} --out A.safetensors")).stderr;
    assert!(
        first.contains("note: batch_norm n: statistics stay at mean 0 and variance 1; --init brings"),
        "{first}"
    );
    assert!(first.contains("note: dropout is the identity, in training too"), "{first}");
    let second = folder.succeed(&format!("{train} --init A.safetensors --out B.safetensors")).stderr;
    assert!(!second.contains("batch_norm"), "{second}");
}
