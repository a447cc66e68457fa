//! Folders with small problems, and the program in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use if_data::{Array, write_npz, write_tensors};
use ndarray::{Array1, Array2};
use tempfile::TempDir;

/// A small classification problem: features, labels, and weights that are no optimum.
pub struct Problem {
    pub x: Array2<f64>,
    pub y: Vec<usize>,
    pub weight: Array2<f64>,
    pub bias: Option<Array1<f64>>,
}

/// Numbers between -1 and 1 that look random.
pub fn numbers(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

impl Problem {
    /// `n` examples of 4 features; `classes` outputs, or one for a binary model.
    pub fn new(n: usize, classes: usize, bias: bool) -> Self {
        let mut next = numbers(7 + classes as u64);
        let outputs = if classes == 2 { 1 } else { classes };
        let x = Array2::from_shape_simple_fn((n, 4), &mut next);
        // Two classes can be told apart by a line, but for some noise.
        let side = |i: usize, noise: f64| usize::from(x[[i, 0]] + 0.5 * x[[i, 1]] + 0.6 * noise > 0.0);
        let y =
            (0..n).map(|i| if classes == 2 { side(i, next()) } else { (i * i + i / 3) % classes }).collect();
        Self {
            x,
            y,
            weight: Array2::from_shape_simple_fn((outputs, 4), &mut next),
            bias: bias.then(|| Array1::from_shape_simple_fn(outputs, &mut next)),
        }
    }

    /// The examples `start..end` as an npz file.
    pub fn write_examples(&self, folder: &Folder, name: &str, start: usize, end: usize) {
        let x = Array::F64(self.x.slice(ndarray::s![start..end, ..]).to_owned().into_dyn());
        let y: Array1<i64> = self.y[start..end].iter().map(|&y| y as i64).collect();
        write_npz(&folder.path(name), [("x", &x), ("y", &Array::I64(y.into_dyn()))]).unwrap();
    }

    pub fn write_weights(&self, folder: &Folder, name: &str) {
        let mut tensors = BTreeMap::new();
        tensors.insert("fc.weight".to_owned(), Array::F64(self.weight.clone().into_dyn()));
        if let Some(bias) = &self.bias {
            tensors.insert("fc.bias".to_owned(), Array::F64(bias.clone().into_dyn()));
        }
        write_tensors(&folder.path(name), &tensors).unwrap();
    }

    /// T.npz, Q.npz (the last 5 examples) and W.safetensors.
    pub fn write(&self, folder: &Folder) {
        let n = self.y.len();
        self.write_examples(folder, "T.npz", 0, n - 5);
        self.write_examples(folder, "Q.npz", n - 5, n);
        self.write_weights(folder, "W.safetensors");
    }
}

/// A folder that goes when the test ends; the program runs in it.
pub struct Folder(TempDir);

/// The program: where cargo built it, else beside these tests, which may be copied to another machine with it.
fn program() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_influence"));
    if built.exists() {
        return built;
    }
    std::env::current_exe().unwrap().with_file_name("influence")
}

/// Ctrl-C, where there are signals.
pub fn interrupt(child: &mut Child) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

/// What is left of a command that was stopped: its exit code, if it had one, and what it said.
pub fn left_behind(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// How a run ended.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `influence` with arguments that are separated by spaces.
    pub fn run(&self, arguments: &str) -> Outcome {
        // An empty name is no folder.
        self.run_with_data(arguments, Path::new(""))
    }

    /// The same with a folder of datasets.
    pub fn run_with_data(&self, arguments: &str, data: &Path) -> Outcome {
        let output = Command::new(program())
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env("INFLUENCE_DATA", data)
            .env("XDG_CACHE_HOME", self.path("cache"))
            .output()
            .unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a command that a test stops, and waits until it has `begun` what it is stopped in.
    pub fn begin(&self, arguments: &str, begun: impl Fn() -> bool) -> Child {
        let mut child = std::process::Command::new(program())
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env_remove("INFLUENCE_DATA")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while !begun() {
            assert!(child.try_wait().unwrap().is_none(), "ended too early to be stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    /// Runs a command that must succeed.
    pub fn succeed(&self, arguments: &str) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments}\n{}", outcome.stderr);
        outcome
    }

    /// Runs a command that must refuse its input: exit 2, one line that holds every one of `parts` and perhaps a hint,
    /// nothing on stdout, and nothing left behind.
    pub fn refuse(&self, arguments: &str, parts: &[&str]) {
        let before = self.names();
        let Outcome { code, stdout, stderr } = self.run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments}\n{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() <= 2, "{stderr}");
        for part in parts {
            assert!(stderr.lines().next().unwrap().contains(part), "{stderr:?} should contain {part:?}");
        }
        assert_eq!(self.names(), before, "nothing may be left behind");
    }

    /// The `attribute` of the contract on T.npz, Q.npz and W.safetensors, with more arguments.
    pub fn attribute(&self, more: &str) -> Outcome {
        self.run(&format!(
            "attribute --weights W.safetensors --train T.npz --query Q.npz --l2 0.05 --scores OUT.npy {more}"
        ))
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn scores(&self, name: &str) -> Array {
        if_data::read_npy(&self.path(name)).unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }
}

/// A document that the program printed.
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}
