//! The main job at full size: softmax regression on 55,000 MNIST images, 100 queries against all of
//! them, `f64`, relative residual 1e-8. Prints a table of seconds, products, residuals and peak memory.

#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use if_benches::gemm_rate;
use if_data::{LoadOptions, load};
use if_linalg::{Block, Cg, Cpu, Solver};
use if_methods::Influence;
use if_models::{Curvature, Dataset, EmpiricalRisk, Inputs, Loss, Network, NewtonCg, RiskSettings};

fn main() {
    let data = std::env::var_os("INFLUENCE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let options = LoadOptions { data_dir: Some(data), ..LoadOptions::default() };
    let read = |source: &str| {
        let examples = load(&source.parse().expect("a source"), &options)?;
        let data = Dataset::new(examples.x, examples.y.to_f64()).expect("MNIST is finite");
        Ok::<Dataset, if_data::DataError>(data)
    };
    match (read("mnist:train[0..55000]"), read("mnist:test[0..100]")) {
        (Ok(train), Ok(queries)) => run(&train, &queries),
        (Err(error), _) | (_, Err(error)) => println!("mnist: skipped, {error}"),
    }
}

fn run(train: &Dataset, queries: &Dataset) {
    let network = Network::linear(&Cpu::<f64>::new(), train.width(), 10, false, Loss::CrossEntropy);
    let inputs = Inputs::new(&network, train, usize::MAX).expect("the data fit");
    let queries = Inputs::new(&network, queries, usize::MAX).expect("the data fit");
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).expect("settings in range");
    println!(
        "softmax MNIST, n = {}, p = {}, 100 queries, f64, l2 0.01",
        inputs.len(),
        network.layout().dim()
    );
    println!("GEMM rate {:.1} GF/s on {} threads", gemm_rate::<f64>() / 1e9, rayon::current_num_threads());

    let start = Instant::now();
    let zeros = Block::zeros(network.backend(), network.layout(), 1);
    let fit = NewtonCg::default().minimise(&risk, &zeros, &());
    line("training", start, &format!("gradient norm {:.1e}", fit.report.optimality));

    let hessian = risk.operator(&fit.theta, Curvature::Hessian, 0.0, usize::MAX);
    let cg = Cg { tolerance: 1e-8, max_iterations: 2000 };
    let start = Instant::now();
    let solver = cg.prepare(&hessian).expect("nothing to prepare");
    let scores = Influence::new(&risk, &fit.theta, &*solver).scores(&queries, &()).expect("not cancelled");
    let most = scores.report.columns.iter().map(|c| c.products).max().unwrap_or(0);
    let measured = format!(
        "{} products in all, at most {most} a query; worst residual {:.1e}",
        scores.report.products(),
        scores.report.worst_residual()
    );
    line("iHVPs and scores", start, &measured);
    println!("{}", scores.report.summary());
    assert!(scores.report.all_converged() && scores.report.worst_residual() <= 1e-8);
    match peak_memory() {
        Some(gib) => {
            println!("peak memory {gib:.2} GiB");
            assert!(gib < 2.0, "the main job is promised to fit 2 GiB");
        }
        None => println!("peak memory: not known on this system"),
    }
}

fn line(what: &str, start: Instant, measured: &str) {
    println!("{what:<18} {:>7.2} s   {measured}", start.elapsed().as_secs_f64());
}

/// GiB of the largest resident set so far, from Linux's account of this process.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / f64::from(1 << 20))
}
