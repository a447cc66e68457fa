//! `cargo xtask reproduce`, killed at some moment and resumed: the same numbers as of a run that nobody disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Experiments whose data are in the program.
const ONLY: [&str; 2] = ["2b", "digits-loo"];

fn reproduce(out: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_if-experiments"));
    command.arg("--out").arg(out).args(ONLY.iter().flat_map(|id| ["--only", id])).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Every file of the results; of `result.json` all but what tells of the run itself.
fn results(out: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for id in ONLY {
        for entry in fs::read_dir(out.join(id)).unwrap() {
            let path = entry.unwrap().path();
            let mut text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "result.json" {
                let mut record: Value = serde_json::from_str(&text).unwrap();
                let fields = record.as_object_mut().unwrap();
                assert!(fields.remove("seconds").is_some() && fields.remove("measured").is_some());
                text = record.to_string();
            }
            if !name.ends_with(".tmp") {
                files.insert(format!("{id}/{name}"), text);
            }
        }
    }
    files
}

#[test]
fn a_killed_run_resumes_to_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [undisturbed, killed] = ["undisturbed", "killed"].map(|name| folder.path().join(name));
    let start = Instant::now();
    let output = reproduce(&undisturbed, &[]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let whole = start.elapsed();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(1 of 2, ") && said.contains("(2 of 2, ") && said.contains(" left)"), "{said}");

    // Another moment in every run of this test.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let moment = whole.mul_f64(f64::from(now % 1000) / 1000.0);
    let mut run = reproduce(&killed, &[]);
    std::thread::sleep(moment);
    run.kill().unwrap();
    run.wait().unwrap();

    let resumed = reproduce(&killed, &["--resume"]).wait_with_output().unwrap();
    assert!(resumed.status.success(), "killed after {moment:?} of {whole:?}: {resumed:?}");
    assert!(results(&killed) == results(&undisturbed), "killed after {moment:?} of {whole:?}");
    assert!(fs::read_to_string(killed.join("index.html")).unwrap().contains("id=\"digits-loo\""));
}

/// A run that is killed within its second experiment keeps its first, and has a report of it.
#[test]
fn what_is_finished_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let first = out.join(ONLY[0]).join("result.json");
    let mut run = reproduce(out, &[]);
    let deadline = Instant::now() + Duration::from_secs(600);
    while !first.is_file() {
        assert!(Instant::now() < deadline && run.try_wait().unwrap().is_none(), "no result");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The report is written right after the result.
    std::thread::sleep(Duration::from_millis(300));
    run.kill().unwrap();
    run.wait().unwrap();
    let before = fs::read_to_string(&first).unwrap();
    assert!(fs::read_to_string(out.join("index.html")).unwrap().contains("id=\"2b\""));
    let resumed = reproduce(out, &["--resume"]).wait_with_output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(resumed.stdout).unwrap(), String::from_utf8(resumed.stderr).unwrap());
    assert!(stdout.contains("2b: kept from the run before") && !stderr.contains("2b  "), "{stdout}{stderr}");
    assert_eq!(fs::read_to_string(&first).unwrap(), before);
}
