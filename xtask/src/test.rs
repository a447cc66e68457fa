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
    test_cuda(&root)?;
    test_usearch(&root)?;
    if full {
        step("long tests", cargo(&root).args(["test", "--release", "--workspace", "--", "--ignored"]))?;
    }
    println!("all checks passed");
    Ok(ExitCode::SUCCESS)
}

/// Builds for GPUs start everywhere, and say what they skip where there is none. Networks on a GPU are tested where there
/// is one: `cargo test -p if-models --features cuda`.
fn test_cuda(root: &Path) -> anyhow::Result<()> {
    let packages = ["-p", "if-linalg", "-p", "if-models", "-p", "if-cli", "-p", "if-benches"];
    let features = ["--features", "if-models/cuda,if-cli/cuda,if-benches/cuda"];
    let lints = ["--all-targets", "--", "-D", "warnings"];
    step("GPU: lints", cargo(root).arg("clippy").args(packages).args(features).args(lints))?;
    let own = ["test", "-p", "if-linalg", "-p", "if-cli", "--features", "if-linalg/cuda,if-cli/cuda"];
    step("GPU: kernels and messages", cargo(root).args(own).args(["--", "cuda", "device"]))
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

/// `usearch` compiles C++.
fn test_usearch(root: &Path) -> anyhow::Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version =
        Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        println!("── usearch: skipped, no C++ compiler found (Debian: apt-get install g++)\n");
        return Ok(());
    }
    let neighbours = ["test", "-p", "if-methods", "--features", "usearch", "--test", "it", "hnsw"];
    step("usearch: neighbours", cargo(root).args(neighbours))?;
    let program = ["test", "-p", "if-cli", "--features", "usearch", "--test", "cli", "usearch"];
    step("usearch: the program", cargo(root).args(program))
}

fn has_openblas() -> bool {
    let pkg_config = Command::new("pkg-config").args(["--exists", "openblas"]).stderr(Stdio::null()).status();
    pkg_config.is_ok_and(|status| status.success())
        || LIBRARY_FOLDERS.iter().any(|folder| {
            ["libopenblas.so", "libopenblas.dylib"].iter().any(|name| Path::new(folder).join(name).exists())
        })
}
