//! Networks from PyTorch (`tests/interop`), and what is said about one that does not fit its description.

use std::path::PathBuf;

use if_data::{Array, read_tensors, write_npz, write_tensors};
use ndarray::ArrayD;

use crate::support::{Folder, Outcome, json};

fn interop(network: &str, file: &str) -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop");
    // Beside this program, where that was copied to another machine.
    let all = if built.exists() { built } else { std::env::current_exe().unwrap().with_file_name("interop") };
    all.join(network).join(file)
}

/// model.toml, W.safetensors and the examples T.npz.
fn folder_of(network: &str) -> Folder {
    let folder = Folder::new();
    for (file, name) in [("model.toml", "model.toml"), ("weights.safetensors", "W.safetensors")] {
        std::fs::copy(interop(network, file), folder.path(name)).unwrap();
    }
    let dump = read_tensors(&interop(network, "dump.safetensors")).unwrap();
    write_npz(&folder.path("T.npz"), [("x", &dump["x"]), ("y", &dump["y"])]).unwrap();
    folder
}

fn attribute(folder: &Folder, more: &str) -> Outcome {
    folder.run(&format!(
        "attribute --model model.toml --weights W.safetensors --train T.npz --query T.npz[0..3] --l2 0.1 --curvature gauss-newton --scores OUT.npy {more}"
    ))
}

#[test]
fn a_state_dict_is_attributed_unchanged() {
    for (network, examples) in [("mlp", 16), ("cnn", 10), ("residual", 10)] {
        let folder = folder_of(network);
        let outcome = attribute(&folder, "--precision f64");
        assert_eq!(outcome.code, 0, "{network}: {}", outcome.stderr);
        let by_cg = folder.scores("OUT.npy").to_f64();
        assert_eq!(by_cg.shape(), [3, examples]);
        attribute(&folder, "--precision f64 --solver block-cg");
        let by_block_cg = folder.scores("OUT.npy").to_f64();
        attribute(&folder, "--precision f64 --solver cholesky");
        let by_cholesky = folder.scores("OUT.npy").to_f64();
        let size = by_cholesky.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for scores in [by_cg, by_block_cg] {
            assert!(scores.iter().zip(&by_cholesky).all(|(a, b)| (a - b).abs() < 1e-7 * size), "{network}");
        }
        // Predictions are PyTorch's.
        let explained = folder.succeed(
            "explain --model model.toml --weights W.safetensors --train T.npz --query T.npz[0..3] --l2 0.1 --curvature gauss-newton --precision f64 --json",
        );
        let dump = read_tensors(&interop(network, "dump.safetensors")).unwrap();
        let (logits, labels) = (dump["logits"].to_f64(), dump["y"].to_f64());
        for (i, query) in json(&explained.stdout)["queries"].as_array().unwrap().iter().enumerate() {
            let row: Vec<f64> = logits.index_axis(ndarray::Axis(0), i).iter().copied().collect();
            let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(query["label"].as_f64(), Some(labels[i]));
            assert_eq!(query["predicted"].as_f64(), Some(best as f64), "{query}");
        }
    }
}

/// Checks that `folder` is refused with exactly these lines.
fn assert_refused(folder: &Folder, lines: &[&str]) {
    let Outcome { code, stdout, stderr } = attribute(folder, "");
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert_eq!(stderr.lines().collect::<Vec<_>>(), lines);
    assert!(!folder.path("OUT.npy").exists());
}

fn rewrite(folder: &Folder, network: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(interop(network, "model.toml")).unwrap();
    assert!(text.contains(from));
    folder.write("model.toml", text.replacen(from, to, 1).as_bytes());
}

const SUPPORTED: &str = "dense, embedding_bag, conv2d, max_pool, avg_pool, global_avg_pool, batch_norm, residual, flatten, dropout, relu, leaky_relu, tanh, sigmoid, softplus, gelu, selu";

#[test]
fn layers_that_are_not_supported() {
    let folder = folder_of("residual");
    let unknown = |place: &str, name: &str| {
        format!("error: model.toml: layer {place}: unknown layer type \"{name}\", supported: {SUPPORTED}")
    };
    rewrite(&folder, "residual", "\"selu\"", "\"lstm\"");
    assert_refused(&folder, &[&unknown("1", "lstm")]);
    rewrite(&folder, "residual", "\"batch_norm\"", "\"BatchNorm2d\"");
    assert_refused(&folder, &[&unknown("2.1", "BatchNorm2d"), "hint: BatchNorm2d is called batch_norm here"]);
    for name in ["linear", "Linear"] {
        rewrite(&folder, "residual", "\"dense\"", &format!("\"{name}\""));
        assert_refused(&folder, &[&unknown("6", name), &format!("hint: {name} is called dense here")]);
    }
}

#[test]
fn settings_that_a_layer_does_not_have() {
    let folder = folder_of("cnn");
    let refused = |from: &str, to: &str, lines: &[&str]| {
        rewrite(&folder, "cnn", from, to);
        assert_refused(&folder, lines);
    };
    refused(
        "padding = 1\nbias = false",
        "padding = 1\ndilation = 2",
        &[
            "error: model.toml: layer 4: unknown field \"dilation\", expected one of \"name\", \"out\", \"kernel\", \"stride\", \"padding\", \"bias\"",
        ],
    );
    refused(
        "out = 5",
        "out = \"5\"",
        &["error: model.toml: layer 4: invalid type: string \"5\", expected a whole number"],
    );
    refused("type = \"relu\"", "", &["error: model.toml: layer 2: missing field \"type\""]);
    for layer in ["global_avg_pool", "flatten", "dropout", "relu", "tanh", "sigmoid", "softplus", "selu"] {
        refused(
            "type = \"relu\"",
            &format!("type = {layer:?}\nbeta = 2"),
            &["error: model.toml: layer 2: unknown field \"beta\", there are no fields"],
        );
    }
    refused(
        "\"cross-entropy\"",
        "\"mse\"",
        &[
            "error: model.toml: line 2: unknown value \"mse\", supported: cross-entropy, label-smoothing, logistic, squared, hinge, smooth-hinge",
        ],
    );
    refused(
        "type = \"flatten\"",
        "type = \"relu\"",
        &["error: model.toml: layer 8: dense \"8\" takes a flat input, found shape [5, 2, 2]"],
    );
    refused(
        "kernel = 3",
        "kernel = 12",
        &[
            "error: model.toml: layer 0: conv2d \"0\": no window of side 12 with stride 2 fits 9 x 9 with padding 1",
        ],
    );
}

/// Replaces or (without values) removes a tensor of W.safetensors.
fn change_tensor(folder: &Folder, network: &str, name: &str, values: Option<ArrayD<f64>>) {
    let mut tensors = read_tensors(&interop(network, "weights.safetensors")).unwrap();
    match values {
        Some(values) => tensors.insert(name.to_owned(), Array::F64(values)),
        None => tensors.remove(name),
    };
    write_tensors(&folder.path("W.safetensors"), &tensors).unwrap();
}

#[test]
fn tensors_that_do_not_fit() {
    let folder = folder_of("mlp");
    let refused = |name: &str, values: Option<ArrayD<f64>>, line: &str| {
        change_tensor(&folder, "mlp", name, values);
        assert_refused(&folder, &[&format!("error: W.safetensors: {line}")]);
    };
    let zeros = |shape: &[usize]| Some(ArrayD::zeros(shape.to_vec()));
    refused(
        "3.bias",
        None,
        "tensor 3.bias of shape [8] is missing; there are: 0.bias, 0.weight, 3.weight, 5.weight, 7.bias, 7.weight",
    );
    refused(
        "5.bias",
        zeros(&[6]),
        "tensor 5.bias belongs to no layer of the model; its tensors are: 0.bias, 0.weight, 3.bias, 3.weight, 5.weight, 7.bias, 7.weight",
    );
    refused("3.weight", zeros(&[10, 8]), "tensor 3.weight has shape [10, 8], expected [8, 10]");
    refused(
        "7.bias",
        Some(ArrayD::from_elem(vec![4], f64::NAN)),
        "tensor 7.bias holds a number that is not finite at position 0",
    );
    change_tensor(&folder, "mlp", "7.bias", Some(ArrayD::from_elem(vec![4], 1e300)));
    assert_refused(
        &folder,
        &[
            "error: tensor 7.bias holds 1e300 at position 0, too large for single precision",
            "hint: --precision f64 has room for it",
        ],
    );
    let mut tensors = read_tensors(&interop("mlp", "weights.safetensors")).unwrap();
    tensors.insert("7.bias".into(), Array::I64(ArrayD::zeros(vec![4])));
    write_tensors(&folder.path("W.safetensors"), &tensors).unwrap();
    assert_refused(
        &folder,
        &["error: W.safetensors: tensor 7.bias: expected F64, F32, F16 or BF16, found integers"],
    );
}

/// What would be taken for a row of classes, and is none.
#[test]
fn outputs_that_are_no_classes() {
    let folder = folder_of("cnn");
    let refused = |loss: &str, layers: &[&str], lines: &[&str]| {
        let layers: Vec<String> = layers.iter().map(|layer| format!("[[layer]]\n{layer}\n")).collect();
        let text = format!("input = [2, 5, 4]\nloss = {loss}\n{}", layers.concat());
        folder.write("model.toml", text.as_bytes());
        assert_refused(&folder, lines);
    };
    let (softmax, conv) = ("\"cross-entropy\"", "type = \"conv2d\"\nname = \"c\"\nout = 3\nkernel = 3");
    refused(
        softmax,
        &[conv],
        &[
            "error: model.toml: the last layer gives [3, 3, 2], expected a row of outputs: end with a dense layer after flatten or global_avg_pool",
        ],
    );
    let one = "type = \"dense\"\nname = \"d\"\nout = 1";
    refused(
        softmax,
        &["type = \"flatten\"", one],
        &[
            "error: model.toml: the loss is a softmax over classes, expected at least 2 outputs, found 1; logistic is the loss of one output",
        ],
    );
    refused(
        "\"label-smoothing\"",
        &["type = \"flatten\"", one],
        &[
            "error: model.toml: line 2: invalid type: a name, expected a setting with it",
            "hint: these losses have a setting: loss = { label-smoothing = { smoothing = 0.1 } }, loss = { smooth-hinge = { temperature = 0.1 } }",
        ],
    );
    refused(
        softmax,
        &["type = \"residual\"\n[[layer.layer]]\ntype = \"dropout\""],
        &[
            "error: model.toml: layer 0: expected a residual block with a layer that computes something, found none",
        ],
    );
}

#[test]
fn running_statistics_that_do_not_fit() {
    let folder = folder_of("cnn");
    change_tensor(&folder, "cnn", "1.running_var", Some(ArrayD::from_elem(vec![4], -1.0)));
    assert_refused(
        &folder,
        &["error: W.safetensors: 1.running_var: expected variances of at least 0, found -1 at position 0"],
    );
    change_tensor(&folder, "cnn", "1.running_mean", None);
    let outcome = attribute(&folder, "");
    assert!(
        outcome.stderr.starts_with("error: W.safetensors: tensor 1.running_mean of shape [4] is missing"),
        "{}",
        outcome.stderr
    );
    change_tensor(&folder, "cnn", "1.num_batches_tracked", None);
    assert_eq!(attribute(&folder, "").code, 0, "the count is not needed");
}

/// Another number of features than the network takes is the fault of the examples.
#[test]
fn examples_of_another_shape() {
    let folder = folder_of("mlp");
    std::fs::copy(interop("cnn", "model.toml"), folder.path("model.toml")).unwrap();
    std::fs::copy(interop("cnn", "weights.safetensors"), folder.path("W.safetensors")).unwrap();
    assert_refused(&folder, &["error: T.npz: the examples have 12 features, the model takes 162"]);
}

/// Influence through some layers: the others are constants, and the share of parameters is told.
#[test]
fn a_choice_of_layers() {
    let folder = folder_of("residual");
    let report = |folder: &Folder| json(&std::fs::read_to_string(folder.path("OUT.json")).unwrap());
    let all = attribute(&folder, "--precision f64");
    assert_eq!(all.code, 0, "{}", all.stderr);
    let whole = report(&folder)["parameters"].clone();
    assert_eq!((&whole["covered"], whole["share"].as_f64()), (&whole["of"], Some(1.0)));
    let names: Vec<String> =
        whole["layers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let last = names.last().unwrap();

    let by_word = attribute(&folder, "--precision f64 --layers last");
    assert_eq!(by_word.code, 0, "{}", by_word.stderr);
    let scores = folder.scores("OUT.npy").to_f64();
    let part = report(&folder)["parameters"].clone();
    assert_eq!(part["layers"], serde_json::json!([last]));
    let (covered, of) = (part["covered"].as_u64().unwrap(), part["of"].as_u64().unwrap());
    assert!(covered < of && whole["of"].as_u64() == Some(of));
    let line =
        format!("layer {last}: {covered} of {of} parameters ({:.1} %)", 100.0 * covered as f64 / of as f64);
    assert!(by_word.stderr.contains(&line), "{}", by_word.stderr);
    attribute(&folder, &format!("--precision f64 --layers {last}"));
    assert_eq!(folder.scores("OUT.npy").to_f64(), scores, "last is the last layer");
    attribute(&folder, &format!("--precision f64 --layers {}", names.join(",")));
    assert_ne!(folder.scores("OUT.npy").to_f64(), scores);

    std::fs::remove_file(folder.path("OUT.npy")).unwrap();
    let known = names.join(", ");
    let line = format!("error: --layers: no layer with parameters is called \"fc9\"; there are: {known}");
    let Outcome { code, stderr, .. } = attribute(&folder, "--layers fc9");
    assert_eq!((code, stderr.trim_end()), (2, line.as_str()));
    assert!(!folder.path("OUT.npy").exists());
}

#[test]
fn layers_without_kronecker_factors_are_named() {
    let folder = folder_of("cnn");
    let more = "--solver kfac --damping 0.1";
    let note = "note: kfac: 1 by the diagonal of the curvature: gradients there are no outer products\n";
    let Outcome { code, stderr, .. } = attribute(&folder, more);
    assert!(code == 0 && stderr.contains(note), "{stderr}");
    let folder = folder_of("mlp");
    assert!(!attribute(&folder, more).stderr.contains("diagonal"));
}
