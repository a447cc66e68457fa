//! `cargo xtask reproduce`, killed at some moment and resumed: the same numbers as of a run that nobody disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// An experiment whose data are in the program, and one that comes before it.
const CHEAP: &str = "digits-loo";
const BEFORE: &str = "2b";

fn reproduce(out: &Path, only: &[&str], more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_if-experiments"));
    command.arg("--out").arg(out).args(only.iter().flat_map(|id| ["--only", id])).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Every file of the result; of `result.json` all but what tells of the run itself.
fn results(out: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(out.join(CHEAP)).unwrap() {
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
            files.insert(name.to_owned(), text);
        }
    }
    files
}

#[test]
fn a_killed_run_resumes_to_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [undisturbed, killed] = ["undisturbed", "killed"].map(|name| folder.path().join(name));
    let start = Instant::now();
    let output = reproduce(&undisturbed, &[CHEAP], &[]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let whole = start.elapsed();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(1 of 1, ") && said.contains(" left)"), "{said}");

    // Another moment in every run of this test.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let moment = whole.mul_f64(f64::from(now % 1000) / 1000.0);
    let mut run = reproduce(&killed, &[CHEAP], &[]);
    std::thread::sleep(moment);
    run.kill().unwrap();
    run.wait().unwrap();

    let resumed = reproduce(&killed, &[CHEAP], &["--resume"]).wait_with_output().unwrap();
    assert!(resumed.status.success(), "killed after {moment:?} of {whole:?}: {resumed:?}");
    assert!(results(&killed) == results(&undisturbed), "killed after {moment:?} of {whole:?}");
    assert!(fs::read_to_string(killed.join("index.html")).unwrap().contains("id=\"digits-loo\""));
}

/// A run that is killed within its second experiment keeps its first, and has a report of it.
#[test]
#[ignore = "computes for half a minute"]
fn what_is_finished_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let first = out.join(BEFORE).join("result.json");
    let mut run = reproduce(out, &[BEFORE, CHEAP], &[]);
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
    let resumed = reproduce(out, &[BEFORE, CHEAP], &["--resume"]).wait_with_output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(resumed.stdout).unwrap(), String::from_utf8(resumed.stderr).unwrap());
    assert!(stdout.contains("2b: kept from the run before") && !stderr.contains("2b  "), "{stdout}{stderr}");
    assert_eq!(fs::read_to_string(&first).unwrap(), before);
}
