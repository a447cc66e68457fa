//! `cargo xtask tidy`: the rules of the layers, kept by a program instead of by good will.

mod blank;
mod layers;
mod source;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use crate::process::{cargo, repository, step};

/// Checks the rules, then builds the documentation without warnings.
pub fn run() -> anyhow::Result<ExitCode> {
    let root = repository();
    println!("── tidy");
    let problems = problems(&root)?;
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problem(s): cargo xtask tidy", problems.len());
    }
    let mut documentation = cargo(&root);
    documentation.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", &mut documentation)?;
    Ok(ExitCode::SUCCESS)
}

/// One line for every rule that is broken somewhere.
fn problems(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = layers::check(&metadata(root)?);
    let mut files = Vec::new();
    collect(root, &mut files)?;
    for file in files {
        // What is not UTF-8 is data.
        let Ok(content) = fs::read_to_string(&file) else { continue };
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        problems.extend(text::check(&path, &content));
        if path.ends_with(".rs") {
            problems.extend(source::check(&path, &content));
        }
    }
    problems.sort();
    Ok(problems)
}

fn metadata(root: &Path) -> anyhow::Result<serde_json::Value> {
    let output = cargo(root).args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// All files below `folder` except build outputs and git's own.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        // In a further worktree `.git` is a file.
        if name == ".git" {
            continue;
        }
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && name != "target" {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}
