//! `cargo xtask test`: everything that must hold, quickest first.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::process::{cargo, repository, step};
use crate::tidy;

/// Where a system's OpenBLAS is looked for if pkg-config does not know it.
const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
    "/usr/local/opt/openblas/lib",
    "/opt/homebrew/opt/openblas/lib",
];

/// Runs every check and stops at the first that fails.
pub fn run(full: bool) -> anyhow::Result<ExitCode> {
    let root = repository();
    step("format", cargo(&root).args(["fmt", "--all", "--", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("lints", cargo(&root).args(clippy))?;
    tidy::run()?;
    step("tests", cargo(&root).args(["test", "--workspace"]))?;
    test_lapack(&root)?;
    test_features(&root, full)?;
    if full {
        step("long tests", cargo(&root).args(["test", "--release", "--workspace", "--", "--ignored"]))?;
    }
    println!("all checks passed");
    Ok(ExitCode::SUCCESS)
}

/// Builds with the features `cuda` and `usearch`. One for GPUs starts everywhere, and says what it skips where there is
/// none; networks on a GPU are tested where there is one: `cargo test -p if-models --features cuda`. The other needs a C++
/// compiler.
fn test_features(root: &Path, full: bool) -> anyhow::Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version =
        Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut features = String::from("if-linalg/cuda,if-cli/cuda");
    if version.is_ok_and(|status| status.success()) {
        features += ",if-methods/usearch,if-cli/usearch";
    } else {
        println!("── usearch: skipped, no C++ compiler found (Debian: apt-get install g++)\n");
    }
    let packages = ["-p", "if-linalg", "-p", "if-methods", "-p", "if-cli"];
    let clippy = ["--all-targets", "--features", &features, "--", "-D", "warnings"];
    step("lints of cuda and usearch", cargo(root).arg("clippy").args(packages).args(clippy))?;
    // The program with these features takes as long to build as all that went before.
    let kernels = ["test", "-p", "if-linalg", "--features", "cuda", "--", "cuda"];
    step("tests of cuda", cargo(root).args(kernels))?;
    if !full {
        return Ok(());
    }
    let test = ["--features", &features, "--", "cuda", "device", "hnsw", "usearch"];
    step("tests of cuda and usearch", cargo(root).arg("test").args(packages).args(test))
}

/// `lapack` links only with a provider, which `if-tests` chooses for both packages.
fn test_lapack(root: &Path) -> anyhow::Result<()> {
    if !has_openblas() {
        println!(
            "── lapack: skipped, no OpenBLAS found (Debian: apt-get install libopenblas-dev pkg-config)\n"
        );
        return Ok(());
    }
    // Factorisations are all that differs: their own tests, and one problem from end to end.
    let own = ["test", "-p", "if-linalg", "-p", "if-tests", "--lib", "dense"];
    let features = ["--features", "if-linalg/lapack,if-tests/openblas-system"];
    step("lapack: factorisations", cargo(root).args(own).args(features))?;
    let whole = ["test", "-p", "if-tests", "--test", "it", "logreg17", "--features", "openblas-system"];
    step("lapack: end to end", cargo(root).args(whole))
}

fn has_openblas() -> bool {
    let pkg_config = Command::new("pkg-config").args(["--exists", "openblas"]).stderr(Stdio::null()).status();
    pkg_config.is_ok_and(|status| status.success())
        || LIBRARY_FOLDERS.iter().any(|folder| {
            ["libopenblas.so", "libopenblas.dylib"].iter().any(|name| Path::new(folder).join(name).exists())
        })
}
