//! Bad input: one line that says where, what was expected and what was found; exit 2; nothing written.

use std::collections::BTreeMap;

use if_data::{Array, write_npz, write_tensors};
use ndarray::ArrayD;

use crate::support::{Folder, Outcome, Problem, json};

/// A folder with a good problem, to be spoilt.
fn good() -> Folder {
    let folder = Folder::new();
    Problem::new(45, 3, true).write(&folder);
    folder
}

/// Checks that `attribute` with `more` refuses in one line that holds every one of `parts`.
fn assert_refused(folder: &Folder, more: &str, parts: &[&str]) {
    let before = folder.names();
    check(&folder.attribute(&format!("--model softmax {more}")), parts);
    assert_eq!(folder.names(), before, "nothing may be left behind");
}

fn check(outcome: &Outcome, parts: &[&str]) {
    let Outcome { code, stdout, stderr } = outcome;
    assert_eq!((*code, stdout.as_str()), (2, ""), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].starts_with("error: "), "{stderr}");
    assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("hint: ")), "{stderr}");
    for part in parts {
        assert!(lines[0].contains(part), "{stderr:?} should contain {part:?}");
    }
}

fn write_data(folder: &Folder, name: &str, x: ArrayD<f64>, y: Vec<i64>) {
    let y = Array::I64(ndarray::Array1::from(y).into_dyn());
    write_npz(&folder.path(name), [("x", &Array::F64(x)), ("y", &y)]).unwrap();
}

fn write_weights(folder: &Folder, tensors: &[(&str, &[usize])]) {
    let tensors: BTreeMap<String, Array> = tensors
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), Array::F64(ArrayD::from_elem(shape.to_vec(), 0.1))))
        .collect();
    write_tensors(&folder.path("W.safetensors"), &tensors).unwrap();
}

/// An output must not cost an input: weights, queries and training examples stay as they were.
#[test]
fn output_that_is_an_input() {
    let folder = good();
    let weights = folder.bytes("W.safetensors");
    folder.write("W.npy", &weights);
    let refused = folder.run(
        "attribute --model softmax --weights W.npy --train T.npz --query Q.npz --l2 0.05 --scores W.npy",
    );
    check(&refused, &["W.npy", "apart from the inputs"]);
    assert_eq!(folder.bytes("W.npy"), weights);
    let data = folder.bytes("T.npz");
    check(&folder.run("train --model softmax --train T.npz --l2 0.1 --out T.npz"), &["T.npz"]);
    assert_eq!(folder.bytes("T.npz"), data);
}

#[test]
fn truncated_npz() {
    let folder = good();
    let bytes = folder.bytes("T.npz");
    folder.write("T.npz", &bytes[..bytes.len() / 2]);
    assert_refused(&folder, "", &["T.npz"]);
}

#[test]
fn truncated_idx() {
    let folder = good();
    // 10 images of 2 x 2 pixels are promised, 3 are there.
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 2];
    images.extend([0; 12]);
    folder.write("images-ubyte", &images);
    folder.write("labels-ubyte", &[0, 0, 8, 1, 0, 0, 0, 10, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
    let before = folder.names();
    let outcome =
        folder.run("train --model softmax --train images-ubyte,labels-ubyte --l2 0.1 --out W2.safetensors");
    check(&outcome, &["images-ubyte", "expected 40 bytes"]);
    assert_eq!(folder.names(), before);
}

#[test]
fn an_npy_header_that_claims_too_much() {
    let folder = good();
    let mut header = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000000, 4), }";
    header.extend(format!("{text:<117}\n").as_bytes());
    folder.write("x.npy", &header);
    folder.write("y.npy", &header);
    let before = folder.names();
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train x.npy,y.npy --query Q.npz --l2 0.1 --scores OUT.npy",
    );
    check(&outcome, &["x.npy", "1000000000000000000"]);
    assert_eq!(folder.names(), before);
}

#[test]
fn a_label_out_of_range() {
    let folder = good();
    write_data(&folder, "T.npz", ArrayD::zeros(vec![4, 4]), vec![0, 1, 3, 2]);
    assert_refused(&folder, "", &["T.npz: example 2 has label 3", "expected a class from 0 to 2"]);
}

#[test]
fn an_absurd_label_allocates_nothing() {
    let folder = good();
    write_data(&folder, "T.npz", ArrayD::zeros(vec![3, 4]), vec![0, 1, 99_999_999]);
    let outcome = folder.run("train --model softmax --train T.npz --l2 0.1 --out new.safetensors");
    check(&outcome, &["T.npz", "99999999"]);
}

#[test]
fn a_nan_is_named_by_its_example() {
    let folder = good();
    let mut x = ArrayD::zeros(vec![6, 4]);
    x[[4, 1]] = f64::NAN;
    write_data(&folder, "Q.npz", x, vec![0; 6]);
    assert_refused(&folder, "", &["Q.npz: example 4", "not finite (feature 1)"]);
    // In a slice it is still the row of the file.
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz[3..6] --l2 0.1 --scores OUT.npy",
    );
    check(&outcome, &["Q.npz: example 4"]);
}

#[test]
fn weights_of_another_shape_or_name() {
    let folder = good();
    write_weights(&folder, &[("fc.weight", &[3, 5]), ("fc.bias", &[3])]);
    assert_refused(&folder, "", &["W.safetensors", "fc.weight has shape [3, 5]", "expected [3, 4]"]);
    write_weights(&folder, &[("fc.weight", &[3, 4]), ("fc.bias", &[2])]);
    assert_refused(&folder, "", &["W.safetensors", "fc.bias has shape [2]", "expected [3]"]);
    write_weights(&folder, &[("weight", &[3, 4])]);
    assert_refused(&folder, "", &["W.safetensors", "tensor weight belongs to no layer", "fc.weight"]);
    write_weights(&folder, &[]);
    assert_refused(&folder, "", &["W.safetensors", "fc.weight", "missing"]);
    folder.write("W.safetensors", b"not a safetensors file");
    assert_refused(&folder, "", &["W.safetensors", "expected a complete safetensors file"]);
}

#[test]
fn queries_with_another_number_of_features() {
    let folder = good();
    write_data(&folder, "Q.npz", ArrayD::zeros(vec![2, 7]), vec![0, 1]);
    assert_refused(&folder, "", &["Q.npz", "7 features", "takes 4"]);
}

#[test]
fn settings_out_of_range() {
    let folder = good();
    for (setting, expected) in [
        ("--damping -0.1", "--damping: expected auto or a number of at least 0, found \"-0.1\""),
        ("--damping nan", "--damping"),
        ("--tolerance 0", "--tolerance: expected a fraction between 0 and 1, found \"0\""),
        ("--tolerance 2", "--tolerance: expected a fraction between 0 and 1, found \"2\""),
        ("--max-iterations 0", "--max-iterations: expected a whole number above 0"),
        ("--memory-budget lots", "--memory-budget: expected bytes"),
        ("--threads 0", "--threads"),
        ("--threads 100000", "--threads: expected a whole number from 1 to 1024"),
        ("--solver gmres", "--solver"),
        ("--family sum --removal renormalised", "family sum has no renormalised removal"),
        ("--temperature 0.1", "--temperature belongs to --model svm"),
    ] {
        assert_refused(&folder, setting, &[expected]);
    }
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 -1 --scores OUT.npy",
    );
    check(&outcome, &["--l2: expected a number of at least 0, found \"-1\""]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = good();
    let run = |scores: &str| {
        folder.run(&format!(
            "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0.1 --scores {scores}"
        ))
    };
    std::fs::create_dir(folder.path("folder.npy")).unwrap();
    let before = folder.names();
    check(&run("nowhere/OUT.npy"), &["nowhere/OUT.npy", "cannot create"]);
    check(&run("folder.npy"), &["folder.npy", "a folder"]);
    check(&run("OUT.npy/"), &["OUT.npy/", "the name of a file"]);
    check(&run("OUT.txt"), &["OUT.txt", "ends in .npy"]);
    let train = folder.run("train --model softmax --train T.npz --l2 0.1 --out nowhere/W.safetensors");
    check(&train, &["nowhere/W.safetensors"]);
    let audit = folder.run("audit --model softmax --train T.npz --l2 0.1 --output nowhere/a.csv");
    check(&audit, &["nowhere/a.csv"]);
    assert_eq!(folder.names(), before);
}

#[test]
fn a_matrix_beyond_the_memory_budget() {
    let folder = good();
    assert_refused(&folder, "--solver cholesky --memory-budget 1kB", &["15 x 15 matrix", "--solver cg"]);
}

#[test]
fn a_network_that_is_described_wrongly() {
    let folder = good();
    folder
        .write("net.toml", b"input = [4]\nloss = \"cross-entropy\"\n[[layer]]\ntype = \"dense\"\nout = 3\n");
    let outcome = folder.attribute("--model net.toml");
    check(&outcome, &["net.toml: layer 0", "name"]);
    check(&folder.attribute("--model none.toml"), &["none.toml: cannot read"]);
}

#[test]
fn classes_of_a_query_table_are_those_of_the_training_table() {
    let folder = good();
    let rows = |classes: &[&str]| {
        let rows = classes.iter().enumerate().map(|(i, class)| format!("{i}.5,{},2,1,{class}\n", i % 3));
        format!("a,b,c,d,class\n{}", rows.collect::<String>())
    };
    folder.write("t.csv", rows(&["cat", "dog", "cow", "cat", "dog"]).as_bytes());
    folder.write("q.csv", rows(&["dog"]).as_bytes());
    let explained = folder.succeed("explain --model softmax --train t.csv --query q.csv --l2 0.1 --json");
    assert_eq!(json(&explained.stdout)["queries"][0]["label"], 2.0);
    folder.write("q.csv", rows(&["horse"]).as_bytes());
    let outcome = folder.run("explain --model softmax --train t.csv --query q.csv --l2 0.1");
    check(&outcome, &["q.csv: expected the classes of t.csv (cat, cow, dog), found \"horse\""]);
}

/// Classes by name have no row of their own in weights of another size.
#[test]
fn weights_for_another_number_of_named_classes() {
    let folder = good();
    folder.write("n.csv", b"a,b,c,d,class\n1,2,3,4,cat\n4,3,2,2,zebra\n");
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train n.csv --query n.csv --l2 0.1 --scores OUT.npy",
    );
    check(&outcome, &["W.safetensors: fc.weight has 3 rows", "2 classes of n.csv (cat, zebra)"]);
}

#[test]
fn a_table_without_a_header() {
    let folder = good();
    folder.write("c.csv", b"1,2,0\n3,4,1\n3,5,1\n");
    check(&folder.run("data show c.csv"), &["c.csv: line 1", "is the header missing?"]);
}

#[test]
fn features_that_overflow() {
    let folder = good();
    write_data(&folder, "T.npz", ArrayD::from_elem(vec![6, 4], 1e300), vec![0, 1, 2, 0, 1, 2]);
    assert_refused(&folder, "", &["T.npz: the gradient of the objective is not finite"]);
}

#[test]
fn nothing_stays_when_the_only_example_goes() {
    let folder = good();
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train T.npz[0] --query Q.npz --l2 0.1 --removal renormalised --scores OUT.npy",
    );
    check(&outcome, &["renormalised removal needs at least 2 training examples"]);
}

/// Softmax without l2 is singular: adding a constant to all outputs changes nothing.
#[test]
fn a_singular_system_is_called_singular() {
    let folder = good();
    let outcome = folder.run(
        "attribute --model softmax --weights W.safetensors --train T.npz --query Q.npz --l2 0 --solver cholesky --scores OUT.npy",
    );
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("singular") && outcome.stderr.contains("raise --l2 or --damping"));
}

#[test]
fn json_holds_the_error_too() {
    let outcome = good().attribute("--model softmax --max-iterations 0 --json");
    assert_eq!(outcome.code, 2);
    let document = json(&outcome.stdout);
    assert_eq!(document["exit_code"], 2);
    assert!(document["error"].as_str().unwrap().contains("--max-iterations"));
}

/// Said before the work begins, and of the file that says it.
#[test]
fn losses_and_measures_that_do_not_belong() {
    let folder = good();
    let model = |loss: &str, out: usize| {
        let text =
            format!("input = [4]\nloss = {loss}\n[[layer]]\ntype = \"dense\"\nname = \"fc\"\nout = {out}\n");
        folder.write("net.toml", text.as_bytes());
    };
    model("\"margin\"", 3);
    check(&folder.attribute("--model net.toml"), &["net.toml: ", "no training losses", "label-smoothing"]);
    model("{ label-smoothing = { smoothing = 1.0 } }", 3);
    check(&folder.attribute("--model net.toml"), &["net.toml: smoothing must be", "below 1, found 1"]);
    model("\"squared\"", 1);
    write_weights(&folder, &[("fc.weight", &[1, 4]), ("fc.bias", &[1])]);
    let before = folder.names();
    for command in ["attribute --scores OUT.npy", "explain"] {
        let refused = folder.run(&format!(
            "{command} --model net.toml --weights W.safetensors --train T.npz --query Q.npz --l2 0.1 --measure logit"
        ));
        check(&refused, &["--measure logit: ", "found one that is trained on real numbers"]);
    }
    assert_eq!(folder.names(), before);
}
