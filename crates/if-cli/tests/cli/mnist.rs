//! Networks of the field on real digits: what they reach.

use std::path::{Path, PathBuf};

use crate::support::{Folder, json};

/// The folder of real data, or `None` and one line that says so.
#[allow(clippy::print_stderr)]
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("INFLUENCE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let found = folder.join("mnist").is_dir().then(|| folder.canonicalize().unwrap());
    if found.is_none() {
        eprintln!("skipped: no mnist in {} ($INFLUENCE_DATA)", folder.display());
    }
    found
}

#[test]
#[ignore = "trains for a minute"]
fn test_accuracies_on_mnist() {
    let Some(data) = data() else { return };
    let folder = Folder::new();
    for (network, more, least) in
        [("mlp:256,128", "", 0.975), ("cnn:16,32", "--epochs 4 --learning-rate 2e-3", 0.985)]
    {
        let command = format!(
            "train --model {network} --train mnist:train --test mnist:test --l2 1e-5 {more} --out W.safetensors --json"
        );
        let result = json(&folder.run_with_data(&command, &data).stdout);
        let accuracy = result["test_accuracy"].as_f64().unwrap();
        assert!(accuracy >= least, "{network}: {accuracy}, expected {least}");
    }
}
