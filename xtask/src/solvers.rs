//! `cargo xtask bench solvers`: every solver of `influence attribute` on one network, with what it costs and how
//! near its scores are to those of converged conjugate gradients.
//!
//! The job: the MLP 784-256-128-10 that `influence train` makes on MNIST, 10,000 training examples, 100 queries,
//! Gauss-Newton, l2 1e-4, damping 0.01, f32.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::process::{cargo, repository};

/// A row of the table: what it is called, and the arguments that make it.
const SOLVERS: &[(&str, &str)] = &[
    (REFERENCE, "--solver cg --tolerance 1e-6"),
    ("block-cg", "--solver block-cg --tolerance 1e-6"),
    ("cg, nystroem 200", "--solver cg --preconditioner nystroem --rank 200 --tolerance 1e-6"),
    ("cg, kfac", "--solver cg --preconditioner kfac --tolerance 1e-6"),
    ("cg, ekfac", "--solver cg --preconditioner ekfac --tolerance 1e-6"),
    ("cg, diagonal", "--solver cg --preconditioner diagonal --tolerance 1e-6"),
    ("neumann", "--solver neumann --tolerance 1e-2"),
    ("lissa", "--solver lissa"),
    ("nystroem 200", "--solver nystroem --rank 200"),
    ("arnoldi 100", "--solver arnoldi --rank 100"),
    ("kfac", "--solver kfac"),
    ("kfac, sampled", "--solver kfac --labels sampled"),
    ("ekfac", "--solver ekfac"),
    ("ekfac, sampled", "--solver ekfac --labels sampled"),
    ("datainf", "--solver datainf"),
    ("diagonal", "--solver diagonal"),
    ("identity", "--solver identity"),
    ("block-cg, rank 8", "--solver block-cg --tolerance 1e-6 --query-rank 8"),
];
const REFERENCE: &str = "cg";

/// What a run showed.
struct Row {
    name: &'static str,
    seconds: f64,
    /// Products with the curvature for each query.
    products: f64,
    peak_gib: f64,
    scores: Vec<f64>,
    ended: String,
}

/// Runs all, or those whose name contains `only` beside the reference, and prints the table.
pub fn run(only: &[String]) -> anyhow::Result<ExitCode> {
    let root = repository();
    ensure!(
        cargo(&root).args(["build", "--release", "-p", "if-cli"]).status()?.success(),
        "the build failed"
    );
    let influence = root.join("target/release/influence");
    let folder = root.join("target/bench/solvers");
    fs::create_dir_all(&folder)?;
    let weights = folder.join("mlp.safetensors");
    if !weights.is_file() {
        println!("training the network");
        let mut train = command(&influence, &root);
        train.args("train --model mlp:256,128 --train mnist:train --l2 1e-4".split(' '));
        ensure!(train.arg("--out").arg(&weights).status()?.success(), "training failed");
    }
    let mut rows = Vec::new();
    for &(name, arguments) in SOLVERS {
        if name == REFERENCE || only.is_empty() || only.iter().any(|part| name.contains(part)) {
            println!("{name} ...");
            rows.push(row(name, arguments, &influence, &root, &folder)?);
        }
    }
    print_table(rows);
    Ok(ExitCode::SUCCESS)
}

fn command(influence: &Path, root: &Path) -> Command {
    let mut command = Command::new(influence);
    command.current_dir(root).stderr(Stdio::null()).stdout(Stdio::null());
    if std::env::var_os("INFLUENCE_DATA").is_none() {
        command.env("INFLUENCE_DATA", root.join("../shared/data"));
    }
    command
}

fn row(
    name: &'static str,
    arguments: &str,
    influence: &Path,
    root: &Path,
    folder: &Path,
) -> anyhow::Result<Row> {
    let scores = folder.join("scores.npy");
    let mut attribute = command(influence, root);
    attribute.args(
        "attribute --train mnist:train[0..10000] --query mnist:test[0..100] --l2 1e-4 --damping 0.01"
            .split(' '),
    );
    attribute.args("--curvature gauss-newton --precision f32".split(' ')).args(arguments.split(' '));
    for (option, file) in
        [("--model", "mlp.toml"), ("--weights", "mlp.safetensors"), ("--scores", "scores.npy")]
    {
        attribute.arg(option).arg(folder.join(file));
    }
    let start = Instant::now();
    let mut child = attribute.spawn()?;
    let mut peak_gib = 0.0f64;
    let status = loop {
        peak_gib = peak_gib.max(peak_of(child.id()).unwrap_or(0.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(Duration::from_millis(20));
    };
    let seconds = start.elapsed().as_secs_f64();
    // 3: some queries carry a flag, which the table shows.
    if !matches!(status.code(), Some(0 | 3)) {
        bail!("{name}: {status}: influence attribute {arguments}");
    }
    let text = fs::read_to_string(scores.with_extension("json"))?;
    let report: Value = serde_json::from_str(&text)?;
    let queries = report["queries"].as_array().context("a list of queries")?;
    let total: f64 = queries.iter().filter_map(|query| query["products"].as_f64()).sum();
    let ended = report["summary"].as_str().unwrap_or_default().to_owned();
    let products = total / queries.len() as f64;
    Ok(Row { name, seconds, products, peak_gib, scores: read_npy(&scores)?, ended })
}

/// GiB of the largest resident set of a process so far.
fn peak_of(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / f64::from(1 << 20))
}

/// The numbers of a file of `f32` that `influence` wrote.
fn read_npy(path: &PathBuf) -> anyhow::Result<Vec<f64>> {
    let bytes = fs::read(path)?;
    let header = bytes.get(8..10).context("a header")?;
    let start = 10 + usize::from(u16::from_le_bytes([header[0], header[1]]));
    ensure!(bytes[..start].windows(3).any(|part| part == b"<f4"), "{}: expected f32", path.display());
    let numbers = bytes[start..].chunks_exact(4);
    Ok(numbers.map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
}

/// Pearson's correlation.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let [mut xy, mut xx, mut yy] = [0.0; 3];
    for (a, b) in x.iter().zip(y) {
        xy += (a - mx) * (b - my);
        xx += (a - mx) * (a - mx);
        yy += (b - my) * (b - my);
    }
    xy / (xx * yy).sqrt()
}

/// Mean over queries of the correlation of their scores.
fn mean_correlation(x: &[f64], y: &[f64], train: usize) -> f64 {
    let each = x.chunks(train).zip(y.chunks(train)).map(|(x, y)| correlation(x, y));
    each.sum::<f64>() / (x.len() / train) as f64
}

fn print_table(mut rows: Vec<Row>) {
    let Some(exact) = rows.iter().find(|row| row.name == REFERENCE).map(|row| row.scores.clone()) else {
        return;
    };
    rows.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    println!(
        "\n| solver | seconds | products a query | peak GiB | Pearson, all scores | mean over queries | how it ended |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {:.1} | {:.1} | {:.2} | {:.4} | {:.4} | {} |",
            row.name,
            row.seconds,
            row.products,
            row.peak_gib,
            correlation(&row.scores, &exact),
            mean_correlation(&row.scores, &exact, exact.len() / 100),
            row.ended
        );
    }
}
