//! `cargo xtask bench solvers`: every solver of `influence attribute` on one network, with what it costs and how
//! near its scores are to those of converged (block) conjugate gradients.
//!
//! The job: an MLP 784-256-128-10 trained on 10,000 images of MNIST until it fits them all, 100 queries about these
//! images, Gauss-Newton, l2 1e-4, damping 0.01, f32, where 1e-4 is the residual that can be reached.
//!
//! `cargo xtask bench preconditioners`: products a query to 1e-6, in f64, with each preconditioner and with block CG, at
//! three dampings, on such a network trained on all of MNIST and on softmax regression, with 1,000 training examples.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::{cargo, repository};

/// A row of the table: what it is called, the arguments that make it, and products that its preparation takes once for
/// all queries, which reports of queries do not count.
const SOLVERS: &[(&str, &str, usize)] = &[
    (REFERENCE, "--solver block-cg", 0),
    ("cg", "--solver cg", 0),
    ("cg+nystroem", "--solver cg --preconditioner nystroem --rank 200", 200),
    ("cg+kfac", "--solver cg --preconditioner kfac", 0),
    ("cg+ekfac", "--solver cg --preconditioner ekfac", 0),
    ("cg+diagonal", "--solver cg --preconditioner diagonal", 0),
    ("neumann", "--solver neumann --max-iterations 40", 0),
    ("lissa, depth 1000", "--solver lissa --depth 1000 --batch 100 --repeats 1", 0),
    ("nystroem", "--solver nystroem --rank 200", 200),
    ("arnoldi", "--solver arnoldi --rank 100", 150),
    ("kfac", "--solver kfac", 0),
    ("kfac-sampled", "--solver kfac --labels sampled", 0),
    ("ekfac", "--solver ekfac", 0),
    ("ekfac-sampled", "--solver ekfac --labels sampled", 0),
    ("datainf", "--solver datainf --curvature fisher", 0),
    ("diagonal", "--solver diagonal", 0),
    ("identity", "--solver identity", 0),
    ("block-cg+rank8", "--solver block-cg --query-rank 8", 0),
    // Exact solvers by an explicit matrix, which this network is too large for: their rows say by how much.
    ("cholesky", "--solver cholesky", 0),
    ("eigen", "--solver eigen", 0),
    ("dual", "--solver dual", 0),
];
const REFERENCE: &str = "block-cg";

/// What a run showed.
#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    /// Arguments of `influence train` for its network, where it is kept.
    training: String,
    /// Arguments of `influence attribute`.
    arguments: String,
    seconds: f64,
    /// Products with the curvature for each query.
    products: f64,
    peak_gib: f64,
    /// Empty where the solver refused the job.
    scores: Vec<f64>,
    ended: String,
    flagged: bool,
}

/// Runs all, or those named in `only`, and prints the table. What a run showed is kept: rows that are
/// not run are those of the last time.
pub fn run(only: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = only.iter().find(|wanted| !SOLVERS.iter().any(|(name, ..)| name == wanted)) {
        let known: Vec<&str> = SOLVERS.iter().map(|(name, ..)| *name).collect();
        bail!("no solver {unknown}: expected {}", known.join(", "));
    }
    let bench = Bench::new()?;
    bench.train(FITTED, FITTED_TRAINING)?;
    let mut rows = Vec::new();
    for &(name, arguments, once) in SOLVERS {
        let kept = bench.folder.join(format!("{name}.row.json"));
        let curvature = if arguments.contains("--curvature") { "" } else { "--curvature gauss-newton " };
        let job = format!("{SOLVERS_JOB} {curvature}{arguments}");
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            println!("{name} ...");
            let mut row = bench.row(name, FITTED, &job)?;
            row.products += once as f64 / QUERIES as f64;
            row.training = FITTED_TRAINING.to_owned();
            fs::write(&kept, serde_json::to_string(&row)?)?;
            rows.push(row);
        } else if let Ok(text) = fs::read_to_string(&kept)
            && let Ok(row) = serde_json::from_str::<Row>(&text)
            && row.training == FITTED_TRAINING
            && row.arguments == job
        {
            rows.push(row);
        }
    }
    print_table(rows);
    Ok(ExitCode::SUCCESS)
}

/// Training examples and queries of the job below.
const TRAIN: usize = 10_000;
const QUERIES: usize = 100;
/// Weights; what networks are stands beside them, under the same name.
const FITTED: &str = "mlp-fitted.safetensors";
const FITTED_TRAINING: &str = "--model mlp:256,128 --train mnist:train[0..10000] --epochs 100";
const MLP: &str = "mlp.safetensors";
const SOFTMAX: &str = "softmax.safetensors";
/// What all solvers are asked.
const SOLVERS_JOB: &str =
    "--train mnist:train[0..10000] --query mnist:test[0..100] --l2 1e-4 --damping 0.01 --precision f32";

/// What it is called, the arguments, and the queries: a query of conjugate gradients does not see the others.
const PRECONDITIONERS: &[(&str, &str, usize)] = &[
    ("none", "--solver cg", 10),
    ("diagonal", "--solver cg --preconditioner diagonal", 10),
    ("kfac", "--solver cg --preconditioner kfac", 10),
    ("ekfac", "--solver cg --preconditioner ekfac", 10),
    ("nystroem, rank 200", "--solver cg --preconditioner nystroem --rank 200", 10),
    ("block CG, 10 queries", "--solver block-cg", 10),
    ("block CG, 100 queries", "--solver block-cg", 100),
];
const DAMPINGS: [&str; 3] = ["0.001", "0.01", "0.1"];
const PRECONDITIONERS_JOB: &str =
    "--train mnist:train[0..1000] --l2 1e-4 --curvature gauss-newton --precision f64 --tolerance 1e-6";

/// Prints products a query of each preconditioner at each damping.
pub fn preconditioners() -> anyhow::Result<ExitCode> {
    let bench = Bench::new()?;
    bench.train(MLP, "--model mlp:256,128 --train mnist:train")?;
    bench.train(SOFTMAX, "--model softmax --train mnist:train[0..1000]")?;
    for (title, model) in [("MLP 784-256-128-10", MLP), ("softmax regression", SOFTMAX)] {
        println!("\n| {title}, products a query | damping {} |", DAMPINGS.join(" | "));
        println!("|---|{}", "---|".repeat(DAMPINGS.len()));
        for (name, arguments, queries) in PRECONDITIONERS {
            let mut line = format!("| {name} |");
            for damping in DAMPINGS {
                let job = format!(
                    "{PRECONDITIONERS_JOB} --query mnist:test[0..{queries}] --damping {damping} {arguments}"
                );
                let row = bench.row(name, model, &job)?;
                line += &format!(" {:.1}{} |", row.products, if row.flagged { " (not solved)" } else { "" });
            }
            println!("{line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The program, and a folder with trained models.
struct Bench {
    root: PathBuf,
    folder: PathBuf,
    influence: PathBuf,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let root = repository();
        let built = cargo(&root).args(["build", "--release", "-p", "if-cli"]).status()?;
        ensure!(built.success(), "the build failed");
        let folder = root.join("target/bench/solvers");
        fs::create_dir_all(&folder)?;
        Ok(Self { influence: root.join("target/release/influence"), root, folder })
    }

    fn train(&self, weights: &str, arguments: &str) -> anyhow::Result<()> {
        let path = self.folder.join(weights);
        let record = path.with_extension("arguments");
        if path.is_file() && fs::read_to_string(&record).is_ok_and(|kept| kept == arguments) {
            return Ok(());
        }
        println!("training {weights}");
        let mut train = self.command("train");
        train.args(arguments.split(' ')).args(["--l2", "1e-4", "--out"]).arg(path);
        ensure!(train.status()?.success(), "training failed: influence train {arguments}");
        fs::write(record, arguments)?;
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.influence);
        command.arg(name).current_dir(&self.root).stderr(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("INFLUENCE_DATA").is_none() {
            command.env("INFLUENCE_DATA", self.root.join("../shared/data"));
        }
        command
    }

    /// Runs `influence attribute` to its end.
    fn row(&self, name: &str, weights: &str, arguments: &str) -> anyhow::Result<Row> {
        let scores = self.folder.join("scores.npy");
        let mut attribute = self.command("attribute");
        let weights = self.folder.join(weights);
        let network = weights.with_extension("toml");
        attribute.arg("--model").arg(if network.is_file() {
            network.as_path()
        } else {
            Path::new("softmax")
        });
        attribute.arg("--weights").arg(&weights).arg("--scores").arg(&scores);
        attribute.args(arguments.split(' '));
        let start = Instant::now();
        let mut child = attribute.stderr(Stdio::piped()).spawn()?;
        let mut peak_gib = 0.0f64;
        let status = loop {
            peak_gib = peak_gib.max(peak_of(child.id()).unwrap_or(0.0));
            if let Some(status) = child.try_wait()? {
                break status;
            }
            sleep(Duration::from_millis(20));
        };
        let seconds = start.elapsed().as_secs_f64();
        // 2: the job was refused, in one line; 3: some queries carry a flag. The table shows both.
        let refusal = match status.code() {
            Some(2) => Some(io::read_to_string(child.stderr.take().context("it is piped")?)?),
            _ => None,
        };
        if let Some(line) = refusal.as_deref().and_then(|text| text.strip_prefix("error: ")) {
            return Ok(Row {
                name: name.to_owned(),
                training: String::new(),
                arguments: arguments.to_owned(),
                seconds,
                products: 0.0,
                peak_gib,
                scores: Vec::new(),
                ended: line.lines().next().unwrap_or_default().to_owned(),
                flagged: true,
            });
        }
        if !matches!(status.code(), Some(0 | 3)) {
            bail!(
                "{name}: {status}; its messages: influence attribute --weights {} {arguments}",
                weights.display()
            );
        }
        let text = fs::read_to_string(scores.with_extension("json"))?;
        let report: Value = serde_json::from_str(&text)?;
        let queries = report["queries"].as_array().context("a list of queries")?;
        let total: f64 = queries.iter().filter_map(|query| query["products"].as_f64()).sum();
        Ok(Row {
            name: name.to_owned(),
            training: String::new(),
            arguments: arguments.to_owned(),
            seconds,
            products: total / queries.len() as f64,
            peak_gib,
            scores: read_npy(&scores)?,
            ended: report["summary"].as_str().unwrap_or_default().to_owned(),
            flagged: status.code() == Some(3),
        })
    }
}

/// GiB of the largest resident set of a process so far.
fn peak_of(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / f64::from(1 << 20))
}

/// The numbers of a file of scores.
fn read_npy(path: &PathBuf) -> anyhow::Result<Vec<f64>> {
    let bytes = fs::read(path)?;
    let header = bytes.get(8..10).context("a header")?;
    let start = 10 + usize::from(u16::from_le_bytes([header[0], header[1]]));
    let (header, body) = bytes.split_at_checked(start).context("a header")?;
    if header.windows(3).any(|part| part == b"<f8") {
        let numbers = body.chunks_exact(8);
        return Ok(numbers
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect());
    }
    let numbers = body.chunks_exact(4);
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
        println!("no row {REFERENCE} to compare with: run it, or all");
        return;
    };
    rows.sort_by(|a, b| a.scores.is_empty().cmp(&b.scores.is_empty()).then(a.seconds.total_cmp(&b.seconds)));
    println!(
        "\n| solver | seconds | products a query, shared ones included | peak GiB | Pearson, all scores | mean over queries | how it ended |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        if row.scores.is_empty() {
            println!("| {} | – | – | – | – | – | refused: {} |", row.name, row.ended);
            continue;
        }
        println!(
            "| {} | {:.1} | {:.1} | {:.2} | {:.4} | {:.4} | {} |",
            row.name,
            row.seconds,
            row.products,
            row.peak_gib,
            correlation(&row.scores, &exact),
            mean_correlation(&row.scores, &exact, TRAIN),
            row.ended
        );
    }
}
