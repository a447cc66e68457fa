//! `attribute --resume`: killed at some moment, interrupted, damaged or changed, and gone on with to the same bits.

use std::process::Child;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Folder, interrupt, left_behind};

/// A small network and 800 queries: 7 blocks.
const NET: &str =
    "attribute --model W.toml --train digits:train[0..600] --query digits:train[0..800] --scores OUT.npy";
const SOLVE: &str = "--weights W.safetensors --l2 0.001 --damping 1 --curvature gauss-newton";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.succeed(
        "train --model mlp:8 --train digits:train --l2 0.001 --epochs 2 --run R --out W.safetensors",
    );
    folder
}

/// Whole lines of the journal: the key, and one for every finished block.
fn lines(folder: &Folder) -> usize {
    let journal = std::fs::read(folder.path("OUT.json.part")).unwrap_or_default();
    journal.iter().filter(|byte| **byte == b'\n').count()
}

/// Starts a command and stops it soon after its journal has `blocks` blocks; its exit code and what it said.
fn stopped(folder: &Folder, command: &str, blocks: usize, stop: fn(&mut Child)) -> (Option<i32>, String) {
    let mut program = folder.begin(command, || lines(folder) > blocks);
    stop(&mut program);
    let left = left_behind(program);
    assert!(!folder.path("OUT.npy").exists(), "the run was not in its middle");
    left
}

/// After another wait in every run of these tests.
fn kill(program: &mut Child) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    std::thread::sleep(Duration::from_micros(u64::from(now % 5_000)));
    program.kill().unwrap();
}

/// `OUT.npy` and `OUT.json`, which stand alone.
fn results(folder: &Folder) -> [Vec<u8>; 2] {
    let left: Vec<String> = folder.names().into_iter().filter(|name| name.contains(".part")).collect();
    assert!(left.is_empty(), "{left:?}");
    ["OUT.npy", "OUT.json"].map(|name| folder.bytes(name))
}

/// How many blocks a resumed command says are there.
fn found(stderr: &str) -> usize {
    let line = stderr.lines().find_map(|line| line.strip_prefix("note: --resume: ")).expect(stderr);
    match line.strip_suffix(" of 7 blocks of queries are there already") {
        Some(count) => count.parse().unwrap(),
        None => {
            assert_eq!(line, "nothing whole is there to go on from; starting at the beginning");
            0
        }
    }
}

#[test]
fn killed_runs_resume_to_the_same_bits() {
    let folder = folder();
    let checkpoints = "--checkpoint R/step-00000012.safetensors:0.1 --checkpoint W.safetensors:0.3";
    // Enough of them, and of projections, that a block takes a moment.
    let tracin = format!("--method tracin {}", [checkpoints; 20].join(" "));
    for more in [
        format!("{SOLVE} --tolerance 1e-6"),
        format!("{SOLVE} --solver lissa --removal renormalised"),
        format!("{SOLVE} --query-rank 2"),
        tracin.clone(),
        format!("{tracin} --projection 400 --sketch K.npy"),
    ] {
        let command = format!("{NET} {more}");
        let code = folder.run(&command).code;
        assert!([0, 3].contains(&code), "{more}");
        let expected = results(&folder);
        for name in ["OUT.npy", "OUT.json"] {
            std::fs::remove_file(folder.path(name)).unwrap();
        }
        stopped(&folder, &command, 2, kill);
        let declared = lines(&folder) - 1;
        // Killed once more on the way.
        stopped(&folder, &format!("{command} --resume --threads 1"), declared + 1, kill);
        let resumed = folder.run(&format!("{command} --resume"));
        assert_eq!(resumed.code, code, "{more}: {}", resumed.stderr);
        assert!(found(&resumed.stderr) > declared, "{more}: {}", resumed.stderr);
        assert!(results(&folder) == expected, "{more}");
        for name in ["OUT.npy", "OUT.json"] {
            std::fs::remove_file(folder.path(name)).unwrap();
        }
    }
}

/// What is not whole is computed anew, with what follows; what is whole is not.
#[cfg(unix)]
#[test]
fn damage_costs_no_more_than_what_follows_it() {
    let folder = folder();
    let command = format!("{NET} {SOLVE}");
    folder.succeed(&command);
    let expected = results(&folder);
    std::fs::remove_file(folder.path("OUT.npy")).unwrap();
    let (code, stderr) = stopped(&folder, &command, 3, interrupt);
    let kept = lines(&folder) - 1;
    assert_eq!(code, Some(130), "{stderr}");
    let line = format!("error: interrupted; {kept} of 7 blocks of queries are kept: go on with --resume");
    assert_eq!(stderr.lines().last(), Some(&*line));

    let [scores, journal] = ["OUT.npy.part", "OUT.json.part"].map(|name| folder.bytes(name));
    // f32 rows of 600 numbers after a header of 128 bytes.
    let row = 4 * 600;
    let block = 128 * row;
    assert_eq!(scores.len(), 128 + kept * block);
    let ends: Vec<usize> = (0..journal.len()).filter(|&at| journal[at] == b'\n').map(|at| at + 1).collect();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let longer = |bytes: &[u8]| [bytes, b"0 {}"].concat();
    for (scores, journal, whole) in [
        (scores.clone(), journal.clone(), kept),
        (longer(&scores), longer(&journal), kept),
        (scores[..scores.len() - 1].to_vec(), journal.clone(), kept - 1),
        (scores[..128 + block + row].to_vec(), journal.clone(), 1),
        (flipped(&scores, 128 + 2 * block), journal.clone(), 2),
        (flipped(&scores, 128 + 2 * block - 1), journal.clone(), 1),
        (flipped(&scores, 20), journal.clone(), 0),
        (Vec::new(), journal.clone(), 0),
        (scores.clone(), journal[..journal.len() - 1].to_vec(), kept - 1),
        (scores.clone(), journal[..ends[1] + 100].to_vec(), 1),
        (scores.clone(), flipped(&journal, ends[2] - 10), 1),
        (scores.clone(), flipped(&journal, ends[2] + 3), 2),
        (scores.clone(), flipped(&journal, 100), 0),
        (scores.clone(), Vec::new(), 0),
        // The first block declared twice, and no second.
        (scores.clone(), [&journal[..ends[1]], &journal[ends[0]..ends[1]]].concat(), 1),
    ] {
        folder.write("OUT.npy.part", &scores);
        folder.write("OUT.json.part", &journal);
        let resumed = folder.succeed(&format!("{command} --resume"));
        assert_eq!(found(&resumed.stderr), whole);
        assert!(results(&folder) == expected);
    }
    // One of the two alone, and neither.
    for (name, bytes) in [("OUT.npy.part", &scores), ("OUT.json.part", &journal), ("x.part", &journal)] {
        folder.write(name, bytes);
        let resumed = folder.succeed(&format!("{command} --resume"));
        assert_eq!(found(&resumed.stderr), 0);
        let _ = std::fs::remove_file(folder.path("x.part"));
        assert!(results(&folder) == expected);
    }
}

#[cfg(unix)]
#[test]
fn scores_are_resumed_only_as_they_were_begun() {
    let folder = folder();
    let command = format!("{NET} {SOLVE}");
    let mut program = folder.begin(&command, || lines(&folder) >= 2);
    for more in ["", "--resume"] {
        let parts = ["OUT.npy.part: output: expected a file that no other process writes"];
        folder.refuse(&format!("{command} {more}"), &parts);
    }
    interrupt(&mut program);
    program.wait().unwrap();
    let parts = || ["OUT.npy.part", "OUT.json.part"].map(|name| folder.bytes(name));
    let begun = parts();

    std::fs::copy(folder.path("R/step-00000012.safetensors"), folder.path("V.safetensors")).unwrap();
    let [net, all] = ["weights W.safetensors", "query digits:train[0..800]"];
    for (changed, field) in [
        (command.replace("damping 1", "damping 0.2"), "expected damping 1.0, found 0.2"),
        (command.replace("l2 0.001", "l2 0.002"), "expected l2 0.001, found 0.002"),
        (format!("{command} --tolerance 0.001"), "expected tolerance 0.0001, found 0.001"),
        (format!("{command} --solver lissa"), "expected solver \"cg\", found \"lissa\""),
        (format!("{command} --preconditioner kfac"), "expected preconditioner null, found \"kfac\""),
        (format!("{command} --removal renormalised"), "expected removal \"fixed\", found \"renormalised\""),
        (format!("{command} --measure margin"), "expected measure \"loss\", found \"margin\""),
        (format!("{command} --query-rank 2"), "expected query_rank null, found "),
        (format!("{command} --layers last"), "expected layers [\"1\",\"3\"], found [\"3\"]"),
        (format!("{command} --precision f64"), "expected precision \"f32\", found \"f64\""),
        (command.replace(net, "weights V.safetensors"), "expected the same weights, found something else"),
        (command.replace(all, "query digits:test"), "expected the same queries, found something else"),
        (command.replace("[0..600]", "[0..601]"), "expected the same training set, found"),
        (
            format!("{NET} --method tracin --checkpoint W.safetensors:0.1"),
            "expected method \"influence\", found \"tracin\"",
        ),
    ] {
        folder.refuse(&format!("{changed} --resume"), &["OUT.json.part: ", field]);
        assert!(parts() == begun, "{field}");
    }
    // Without --resume it is begun again, and says what is lost.
    let outcome = folder.succeed(&command);
    let line = "note: unfinished scores are written over; --resume would have gone on with them";
    assert_eq!(outcome.stderr.lines().next(), Some(line));
    let expected = results(&folder);
    // Nothing there: begun as well, and nothing that changes no bit is part of the key.
    let resumed = folder.succeed(&format!("{command} --resume --threads 1 --memory-budget 64MiB"));
    assert_eq!(found(&resumed.stderr), 0);
    assert!(results(&folder) == expected);

    // Input that is refused under way leaves nothing, and methods with all scores at once have nothing to resume.
    let fisher = command.replace("gauss-newton", "fisher --solver ekfac --labels exact");
    folder.refuse(&fisher, &["--labels"]);
    let at_once = "--method trak --checkpoint W.safetensors:0.1 --projection 20 --resume";
    let noted = folder.succeed(&format!("{NET} {at_once}"));
    assert!(noted.stderr.contains("note: --resume: of no use to this method"), "{}", noted.stderr);
}
