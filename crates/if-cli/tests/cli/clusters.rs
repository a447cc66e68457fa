//! `clusters`: blocks, names and labels, the picture, bad input.

use if_data::{Array, write_npy, write_npz};
use ndarray::{Array1, Array2, Array3, array};

use crate::support::{Folder, json, numbers};

/// Groups of 6 queries and 9 training examples in a shuffled order: proponents within, a little of everything between.
fn group(i: usize) -> usize {
    i * 2 % 3
}

fn blocks() -> Array2<f64> {
    let mut next = numbers(5);
    Array2::from_shape_fn((6, 9), |(q, i)| {
        // Queries of very different size.
        let size = 10f64.powi(q as i32 - 3);
        size * (f64::from(u8::from(group(q) == group(i))) + 0.1 * next())
    })
}

#[test]
fn clusters_of_blocks_are_the_blocks() {
    let folder = Folder::new();
    write_npy(&folder.path("S.npy"), blocks().view()).unwrap();
    let command = "clusters --scores S.npy --clusters 3 --out C.json --plot C.svg";
    let text = folder.succeed(command).stdout;
    assert!(text.contains("C.json: 6 queries x 9 training examples, clusters: 3"), "{text}");
    let bytes = folder.bytes("C.json");
    let found = json(&String::from_utf8(bytes.clone()).unwrap());
    let clusters = found["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), 3);
    for cluster in clusters {
        let members = |side: &str| -> Vec<usize> {
            cluster[side].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as usize).collect()
        };
        let (queries, train) = (members("queries"), members("train"));
        let own = group(queries[0]);
        assert_eq!(queries, (0..6).filter(|&q| group(q) == own).collect::<Vec<_>>());
        assert_eq!(train, (0..9).filter(|&i| group(i) == own).collect::<Vec<_>>());
        assert!(cluster["mean_score"].as_f64().unwrap() > 0.8, "{cluster}");
        assert!(cluster["queries_labels"].is_null());
    }
    let mean = |name: &str| found[name].as_f64().unwrap();
    assert!(mean("mean_score_within") > 0.8 && mean("mean_score_between").abs() < 0.1);
    // In the picture every row of a cluster starts or ends where the clusters do.
    let picture = String::from_utf8(folder.bytes("C.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n") && !picture.contains("NaN"));
    assert!(picture.contains("Scores of S.npy, by clusters"));
    folder.succeed(&format!("{command} --threads 1"));
    assert_eq!(folder.bytes("C.json"), bytes);
}

/// The files of `attribute`: rows are those of the sources, labels are counted, and some columns can be left out.
#[test]
fn scores_of_attribute_are_named() {
    let folder = Folder::new();
    let sources = "--train digits:train[100..300] --query digits:test[20..40]";
    folder.succeed("train --model softmax --train digits:train[100..300] --l2 0.01 --out W.safetensors");
    folder.succeed(&format!(
        "attribute --model softmax --weights W.safetensors {sources} --l2 0.01 --scores S.npy"
    ));
    let members = |found: &serde_json::Value, side: &str| -> Vec<u64> {
        let clusters = found["clusters"].as_array().unwrap().iter();
        let mut all: Vec<u64> = clusters
            .flat_map(|c| {
                c[side].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        all
    };
    let base = "clusters --scores S.npy --clusters 4 --out C.json --json";
    let found = json(&folder.succeed(base).stdout);
    assert_eq!(members(&found, "queries"), (20..40).collect::<Vec<_>>());
    assert_eq!(members(&found, "train"), (100..300).collect::<Vec<_>>());

    let labelled = json(&folder.succeed(&format!("{base} {sources}")).stdout);
    for (side, total) in [("queries", 20), ("train", 200)] {
        assert_eq!(members(&labelled, side), members(&found, side));
        let count = |c: &serde_json::Value| -> u64 {
            let labels = c[format!("{side}_labels")].as_object().unwrap();
            assert_eq!(
                labels.values().map(|v| v.as_u64().unwrap()).sum::<u64>() as usize,
                c[side].as_array().unwrap().len()
            );
            labels.values().map(|v| v.as_u64().unwrap()).sum()
        };
        assert_eq!(labelled["clusters"].as_array().unwrap().iter().map(count).sum::<u64>(), total);
    }

    // The two strongest of every query, whatever their sign.
    let scores: Array2<f64> = folder.scores("S.npy").to_f64().into_dimensionality().unwrap();
    let mut kept: Vec<u64> = scores
        .rows()
        .into_iter()
        .flat_map(|row| {
            let mut order: Vec<u64> = (0..200).collect();
            order.sort_by(|&a, &b| row[b as usize].abs().total_cmp(&row[a as usize].abs()));
            [100 + order[0], 100 + order[1]]
        })
        .collect();
    kept.sort_unstable();
    kept.dedup();
    let top = json(&folder.succeed(&format!("{base} {sources} --top 2")).stdout);
    assert_eq!(members(&top, "train"), kept);
    let text = folder.succeed(&format!("clusters --scores S.npy {sources} --clusters 4 --out C.json")).stdout;
    assert!(text.contains("labels of queries") && text.contains("labels of train"), "{text}");

    for (more, part) in [
        (
            "--train digits:train[0..200]",
            "digits:train[0..200]: expected the examples that S.npy is of, found example 0 in place of 100",
        ),
        (
            "--train digits:train[100..200]",
            "digits:train[100..200]: expected as many examples as S.npy has columns, 200, found 100",
        ),
        (
            "--query digits:test[20..30]",
            "digits:test[20..30]: expected as many examples as S.npy has rows, 20, found 10",
        ),
    ] {
        folder.refuse(&format!("clusters --scores S.npy --clusters 2 --out X.json {more}"), &[part]);
    }
    folder.refuse(
        "clusters --scores S.npy --clusters 2 --out S.json",
        &["--out S.json: expected another name, this is that of the record of S.npy"],
    );
    folder.write("S.json", b"{\"queries\": [1, 2]}");
    folder.refuse(
        "clusters --scores S.npy --clusters 2 --out X.json",
        &["S.json: expected a query for each of 20 rows of scores, found 2"],
    );
    folder.write("S.json", b"{");
    folder.refuse("clusters --scores S.npy --clusters 2 --out X.json", &["S.json: expected JSON"]);
}

#[test]
fn bad_input() {
    let folder = Folder::new();
    let refuse = |more: &str, parts: &[&str]| {
        folder.refuse(&format!("clusters --scores S.npy --out C.json {more}"), parts);
    };
    write_npy(&folder.path("S.npy"), Array1::<f64>::zeros(5).view()).unwrap();
    refuse(
        "--clusters 2",
        &["S.npy: expected scores, queries x training examples, found an array of shape [5]"],
    );
    write_npy(&folder.path("S.npy"), Array3::<f64>::zeros((2, 2, 2)).view()).unwrap();
    refuse("--clusters 2", &["shape [2, 2, 2]"]);
    write_npy(&folder.path("S.npy"), Array2::<f64>::zeros((0, 3)).view()).unwrap();
    refuse("--clusters 2", &["S.npy: expected scores, found none (0 x 3)"]);
    let mut scores = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    write_npy(&folder.path("S.npy"), scores.view()).unwrap();
    refuse("--clusters 6", &["--clusters: expected from 1 to 5", "found 6"]);
    refuse("--clusters 0", &["--clusters: expected a whole number above 0"]);
    refuse("--clusters 2 --plot C.png", &["--plot C.png: expected a name that ends in .svg"]);
    folder.refuse("clusters --scores S.npz --clusters 2 --out C.json", &["--scores S.npz: expected a name"]);
    folder.refuse("clusters --scores S.npy --clusters 2 --out C.csv", &["--out C.csv: expected a name"]);
    folder.succeed("clusters --scores S.npy --clusters 2 --out D.json");
    write_npy(&folder.path("S.npy"), Array2::<f32>::ones((1001, 1000)).view()).unwrap();
    refuse("--clusters 2 --plot C.svg", &["--plot: expected at most 1000000 scores, found 1001 x 1000"]);
    scores[[1, 2]] = f32::NAN;
    write_npy(&folder.path("S.npy"), scores.view()).unwrap();
    refuse("--clusters 2", &["S.npy: row 1, column 2: expected a finite score, found NaN"]);
    let x = Array::F64(Array2::zeros((3, 1)).into_dyn());
    write_npz(&folder.path("T.npz"), [("x", &x)]).unwrap();
    refuse("--clusters 2 --train T.npz", &["row 1, column 2"]);
}

/// Queries that nothing acts on are in some cluster, and all-zero scores are no error.
#[test]
fn zeros_are_clustered() {
    let folder = Folder::new();
    write_npy(&folder.path("S.npy"), Array2::<f64>::zeros((3, 4)).view()).unwrap();
    let outcome = folder.succeed("clusters --scores S.npy --clusters 2 --out C.json --plot C.svg");
    assert!(!String::from_utf8(folder.bytes("C.svg")).unwrap().contains("NaN"));
    assert!(outcome.stdout.contains("3 queries x 4 training examples"), "{}", outcome.stdout);
}
