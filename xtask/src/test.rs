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
    let optional = optional_features();
    let clippy = ["clippy", "--workspace", "--all-targets", "--features", &optional, "--", "-D", "warnings"];
    step("lints", cargo(&root).args(clippy))?;
    tidy::run()?;
    step("tests", cargo(&root).args(["test", "--workspace"]))?;
    test_backends(&root)?;
    if full {
        // All that depends on them takes as long to build as all that went before.
        let tests = ["test", "--workspace", "--features", &optional];
        let named = ["--", "cuda", "device", "hnsw", "usearch"];
        step("tests of cuda and usearch", cargo(&root).args(tests).args(named))?;
        step("long tests", cargo(&root).args(["test", "--release", "--workspace", "--", "--ignored"]))?;
    }
    println!("all checks passed");
    Ok(ExitCode::SUCCESS)
}

/// The features that nobody has by default, as far as they build here: `cuda` everywhere, `usearch` with a C++ compiler.
fn optional_features() -> String {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version =
        Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut features = String::from("if-linalg/cuda,if-models/cuda,if-cli/cuda,if-benches/cuda");
    if version.is_ok_and(|status| status.success()) {
        features += ",if-methods/usearch,if-cli/usearch";
    } else {
        println!("── usearch: skipped, no C++ compiler found (Debian: apt-get install g++)\n");
    }
    features
}

/// What if-linalg does otherwise with its features `cuda` and `lapack`, built once for both. Tests of `cuda` start
/// everywhere, and say what they skip where there is no GPU; networks on one are tested where there is one: `cargo test -p
/// if-models --features cuda`. `lapack` links only with a provider, which `if-tests` chooses; factorisations are all that
/// differs: their own tests, and one problem from end to end.
fn test_backends(root: &Path) -> anyhow::Result<()> {
    let own = ["test", "-p", "if-linalg", "--features", "cuda", "--", "cuda"];
    let both = [
        &["test", "-p", "if-linalg", "-p", "if-tests", "--lib", "--test", "it"][..],
        &["--features", "if-linalg/cuda,if-linalg/lapack,if-tests/openblas-system"],
        &["--", "cuda", "dense", "logreg17"],
    ];
    if has_openblas() {
        return step("tests of cuda and lapack", cargo(root).args(both.concat()));
    }
    println!("── lapack: skipped, no OpenBLAS found (Debian: apt-get install libopenblas-dev pkg-config)\n");
    step("tests of cuda", cargo(root).args(own))
}

fn has_openblas() -> bool {
    let pkg_config = Command::new("pkg-config").args(["--exists", "openblas"]).stderr(Stdio::null()).status();
    pkg_config.is_ok_and(|status| status.success())
        || LIBRARY_FOLDERS.iter().any(|folder| {
            ["libopenblas.so", "libopenblas.dylib"].iter().any(|name| Path::new(folder).join(name).exists())
        })
}
