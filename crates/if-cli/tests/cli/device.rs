//! `--device` and the precisions that only some devices have: messages, exit codes, and what is kept.

use std::fs;

use crate::support::{Folder, Outcome, Problem, json};

const NET: &str = "--model N.toml --train T.npz --query Q.npz";
const SOLVE: &str = "--weights N.safetensors --l2 0.05 --damping 0.02 --curvature gauss-newton";

/// T.npz, Q.npz, W.safetensors, and a network with checkpoints of its training in R.
fn folder() -> Folder {
    let folder = Folder::new();
    Problem::new(45, 3, true).write(&folder);
    folder.succeed(
        "train --model mlp:5 --train T.npz --l2 0.05 --epochs 2 --batch 10 --optimizer sgd --run R --out N.safetensors",
    );
    folder
}

/// Every command that computes.
fn commands() -> Vec<String> {
    let query = "--model softmax --train T.npz --query Q.npz --l2 0.05";
    let one = query.replace("--query Q.npz", "--target Q.npz[0]");
    vec![
        "train --model mlp:5 --train T.npz --l2 0.05 --epochs 1 --out new.safetensors".into(),
        format!("attribute {NET} {SOLVE} --scores OUT.npy"),
        format!("attribute {NET} --method tracin --training-run R --scores OUT.npy"),
        format!("fastif {NET} {SOLVE} --features 1 --candidates 9 --scores OUT.json"),
        format!("correct {NET} {SOLVE} --out OUT.safetensors"),
        format!("explain {query}"),
        "audit --model softmax --train T.npz --l2 0.05 --output OUT.csv".into(),
        format!("verify {query}"),
        format!("lds {query} --scores S.npy --out OUT.json"),
        format!("group {query} --draw random --effects OUT.csv"),
        format!("what-if {query} --group T.npz"),
        format!("select {query} --size 3 --save-groups G.csv"),
        format!("perturb {query} --slopes OUT.npy"),
        format!("attack {one} --radius 0.1 --out OUT.npz"),
        format!(
            "multistage {NET} --weights N.safetensors --pretrain-model N.toml --pretrain-weights N.safetensors --pretrain T.npz --embedding-layers 1 --l2-pretrain 0.05 --l2 0.05 --scores OUT.npy"
        ),
        format!("damping {query} --plot OUT.svg"),
    ]
}

#[test]
fn devices_have_names() {
    let folder = folder();
    for name in ["tpu", "cuda:x", "cuda:-1", "cuda:", "cuda:0,", "cuda:all,1", "CPU", "cpu:0", "2"] {
        for command in commands() {
            folder.refuse(
                &format!("{command} --device {name}"),
                &["--device: expected cpu, cuda, cuda:1, cuda:0,1, cuda:all or auto, found ", name],
            );
        }
    }
    folder.refuse("data list --device cpu", &["--device"]);
}

#[test]
fn named_products_belong_to_gpus() {
    let folder = folder();
    for precision in ["tf32", "bf16"] {
        let line = format!("--precision {precision}: expected --device cuda, found cpu");
        for command in commands().into_iter().filter(|command| takes_precision(command)) {
            folder.refuse(&format!("{command} --precision {precision}"), &[&line]);
        }
    }
    let group = "group --model softmax --train T.npz --query Q.npz --l2 0.05 --draw random --effects OUT.csv";
    folder.refuse(&format!("{group} --retrain --precision tf32"), &["--retrain: expected --precision f64"]);
}

/// Some compute in double precision only.
fn takes_precision(command: &str) -> bool {
    let double = ["verify", "lds", "what-if", "select", "perturb", "attack"];
    !double.contains(&command.split(' ').next().unwrap())
}

/// A linear model is trained to its optimum on the processor; only the user who asks for a GPU is told.
#[test]
fn linear_models_are_trained_on_the_cpu() {
    let folder = folder();
    let train = "train --model softmax --train T.npz --l2 0.05 --out new.safetensors";
    folder.refuse(&format!("{train} --device cuda"), &["--device cuda belongs to networks"]);
    folder.succeed(&format!("{train} --device auto"));
}

/// What is kept says where it was computed, and is not taken for what another device would have computed.
#[test]
fn what_is_kept_names_its_device() {
    let folder = folder();
    let elsewhere = "cuda:0 of another machine";
    let rename = |path: &str, found: &str| {
        let text = String::from_utf8(folder.bytes(path)).unwrap();
        let (old, new) = (format!("\"device\": \"{found}\""), format!("\"device\": \"{elsewhere}\""));
        assert_eq!(text.matches(&old).count(), 1, "{text}");
        folder.write(path, text.replace(&old, &new).as_bytes());
    };

    let kfac = format!("attribute {NET} {SOLVE} --solver kfac --run F --scores OUT.npy");
    folder.succeed(&kfac);
    let record = json(&String::from_utf8(folder.bytes("OUT.json")).unwrap());
    assert_eq!(
        (&record["settings"]["device"], &record["settings"]["precision"]),
        (&"cpu".into(), &"f32".into())
    );
    let factors: Vec<_> = fs::read_dir(folder.path("F/factors")).unwrap().collect();
    let manifest = factors.into_iter().map(|file| file.unwrap().file_name().into_string().unwrap());
    let manifest = manifest.filter(|name| name.ends_with(".json")).collect::<Vec<_>>();
    assert_eq!(manifest.len(), 1);
    assert!(folder.succeed(&kfac).stderr.contains("kfac: taken from"));
    rename(&format!("F/factors/{}", manifest[0]), "cpu");
    assert!(!folder.succeed(&kfac).stderr.contains("kfac: taken from"));

    let tracin = format!(
        "attribute {NET} --method tracin --training-run R --projection 8 --sketch S.npy --scores OUT.npy"
    );
    folder.succeed(&tracin);
    rename("S.json", "cpu");
    let refused = folder.run(&tracin);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("found some with another device"), "{}", refused.stderr);

    let train = "train --model mlp:5 --train T.npz --l2 0.05 --epochs 2 --batch 10 --optimizer sgd --run R --resume --out N.safetensors";
    let ideal = format!("attribute {NET} --method tracin-ideal --training-run R --scores I.npy");
    folder.succeed(&ideal);
    // Runs from before there were devices.
    let run = String::from_utf8(folder.bytes("R/run.json")).unwrap();
    folder.write("R/run.json", run.replace("\"device\": \"cpu\",", "").as_bytes());
    folder.succeed(train);
    folder.succeed(&ideal);
    folder.write("R/run.json", run.as_bytes());
    rename("R/run.json", "cpu");
    folder.refuse(train, &["run.json: expected device \"cuda:0 of another machine\", found \"cpu\""]);
    folder.refuse(&ideal, &["--device: expected cuda:0 of another machine, found cpu"]);
}

/// Whether a GPU can be used, which changes what `auto` is.
fn has_gpu() -> bool {
    #[cfg(feature = "cuda")]
    let found = if_linalg::Cuda::<f32>::new(&if_linalg::CudaOptions::default()).is_ok();
    #[cfg(not(feature = "cuda"))]
    let found = false;
    found
}

#[test]
fn auto_falls_back_to_the_cpu() {
    if has_gpu() {
        return;
    }
    let folder = folder();
    let command = format!("attribute {NET} {SOLVE} --scores OUT.npy");
    folder.succeed(&command);
    let expected = ["OUT.npy", "OUT.json"].map(|name| folder.bytes(name));
    let Outcome { stderr, .. } = folder.succeed(&format!("{command} --device auto"));
    let note = format!("note: --device auto: cpu; no GPU can be used: {}", why_not());
    assert!(stderr.lines().any(|line| line.starts_with(&note)), "{stderr}");
    assert!(["OUT.npy", "OUT.json"].map(|name| folder.bytes(name)) == expected, "the same bits");
    folder.refuse(
        &format!("{command} --device auto --precision tf32"),
        &["--precision tf32: expected --device cuda, found cpu"],
    );
}

#[test]
fn a_missing_gpu_is_one_line() {
    if has_gpu() {
        return;
    }
    let folder = folder();
    for command in commands() {
        for (name, shown) in
            [("cuda", "cuda:0"), ("cuda:99", "cuda:99"), ("cuda:1,0", "cuda:1,0"), ("cuda:all", "cuda:all")]
        {
            folder.refuse(
                &format!("{command} --device {name}"),
                &[&format!("--device {shown}: {}", why_not())],
            );
        }
    }
    assert!(!folder.path("cache").exists(), "no folder for kernels");
    let outcome = folder.run(&format!("{} --device cuda --json", commands()[1]));
    assert_eq!((outcome.code, json(&outcome.stdout)["exit_code"].as_i64()), (2, Some(2)));
}

/// The reason, or the beginning of it, why there is no GPU.
fn why_not() -> String {
    #[cfg(feature = "cuda")]
    let why = if_linalg::Cuda::<f32>::new(&if_linalg::CudaOptions::default()).err().unwrap().to_string();
    #[cfg(not(feature = "cuda"))]
    let why = "this program is built without CUDA: rebuild it with --features cuda".to_owned();
    why
}

/// Runs `command` on the processor, on a GPU and on `several`: what these give differs by `bound` at most, in no bit.
#[cfg(feature = "cuda")]
fn same_on_gpus(folder: &Folder, command: &str, several: &str, output: &str, bound: f64) {
    // The processor has no named products: there the reference is double.
    let reference = command.replace("tf32", "f64").replace("bf16", "f64");
    folder.succeed(&reference);
    let expected = folder.scores(output).to_f64();
    folder.succeed(&format!("{command} --device cuda"));
    let found = folder.scores(output).to_f64();
    // All GPUs, or one as two: what is shared gives the same bits.
    folder.succeed(&format!("{command} --device {several}"));
    assert!(folder.scores(output).to_f64() == found, "{command}: other bits of two devices");
    let norm = |a: &ndarray::ArrayD<f64>| a.iter().map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&(&found - &expected)) / norm(&expected);
    assert!(error < bound, "{command}: {error:e}");
}

/// Every method on a GPU against the processor, in double precision; named products within their rounding.
#[cfg(feature = "cuda")]
#[allow(clippy::print_stderr)]
#[test]
fn a_gpu_computes_the_same() {
    if !has_gpu() {
        eprintln!("skipped: {}", why_not());
        return;
    }
    let folder = folder();
    let net = format!("attribute {NET} {SOLVE} --scores OUT.npy --solver");
    let fisher = net.replace("gauss-newton", "fisher");
    let softmax = "--model softmax --train T.npz --query Q.npz --l2 0.05";
    let trace = format!("attribute {NET} --scores OUT.npy --training-run R --method");
    let cases = [
        (format!("{net} cholesky --precision f64"), "OUT.npy", 1e-9),
        (format!("{net} block-cg --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} cg --preconditioner nystroem --rank 5 --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} cg --tolerance 1e-8 --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} cg --preconditioner kfac --tolerance 1e-8 --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} dual --precision f64"), "OUT.npy", 1e-8),
        (format!("{net} eigen --precision f64"), "OUT.npy", 1e-8),
        (format!("{net} kfac --precision f64"), "OUT.npy", 1e-7),
        (format!("{net} diagonal --precision f64"), "OUT.npy", 1e-9),
        (format!("{net} arnoldi --rank 6 --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} neumann --tolerance 1e-3 --precision f64"), "OUT.npy", 1e-6),
        (format!("{net} cholesky --query-rank 2 --precision f64"), "OUT.npy", 1e-6),
        (format!("{fisher} cholesky --precision f64"), "OUT.npy", 1e-9),
        (format!("{fisher} datainf --precision f64"), "OUT.npy", 1e-9),
        (format!("{net} ekfac --precision f64"), "OUT.npy", 1e-7),
        (format!("{net} identity --precision f64"), "OUT.npy", 1e-9),
        (format!("{net} lissa --repeats 3 --batch 20 --tolerance 0.2 --precision f64"), "OUT.npy", 1e-9),
        (format!("{net} cholesky --precision f32"), "OUT.npy", 1e-4),
        (format!("{net} cholesky --precision tf32"), "OUT.npy", 2e-2),
        (format!("{net} cholesky --precision bf16"), "OUT.npy", 2e-1),
        (format!("{trace} tracin --precision f64"), "OUT.npy", 1e-9),
        (format!("{trace} tracin --projection 16 --precision f64"), "OUT.npy", 1e-9),
        (format!("{trace} trak --projection 4 --precision f64"), "OUT.npy", 1e-6),
        (
            format!(
                "attribute {NET} --weights N.safetensors --l2 0.05 --method representer --precision f64 --scores OUT.npy"
            ),
            "OUT.npy",
            1e-9,
        ),
        (format!("perturb {softmax} --slopes OUT.npy"), "OUT.npy", 1e-6),
        (
            format!(
                "multistage {NET} --weights N.safetensors --pretrain-model N.toml --pretrain-weights N.safetensors --pretrain T.npz --embedding-layers 1 --l2-pretrain 0.05 --l2 0.05 --damping 0.1 --curvature gauss-newton --solver cholesky --scores OUT.npy"
            ),
            "OUT.npy",
            1e-8,
        ),
        (
            format!(
                "group {softmax} --draw random --draw-size 3 --draw-count 2 --order newton --retrain --parameter-changes OUT.npy --effects E.csv"
            ),
            "OUT.npy",
            1e-6,
        ),
    ];
    let several = if if_linalg::cuda_devices().unwrap().len() > 1 { "cuda:all" } else { "cuda:0,0" };
    for (command, output, bound) in cases {
        same_on_gpus(&folder, &command, several, output, bound);
    }
    // Of more examples than a row block of a GPU holds each device scores a share.
    let many = Folder::new();
    Problem::new(40_000, 3, true).write(&many);
    for method in
        ["--weights W.safetensors --l2 0.1 --solver identity", "--method tracin --checkpoint W.safetensors:1"]
    {
        let command = format!(
            "attribute --model softmax --train T.npz --query Q.npz --precision f64 --scores OUT.npy {method}"
        );
        same_on_gpus(&many, &command, several, "OUT.npy", 1e-9);
    }
    assert!(folder.path("cache/influence/kernels").read_dir().unwrap().count() > 0, "kernels are kept");
    for (command, line) in [
        (format!("explain {softmax} --device cuda"), "proponents"),
        ("audit --model softmax --train T.npz --l2 0.05 --flip 0.1 --device auto".into(), "self-influence"),
        (format!("verify {softmax} --top 3 --device cuda"), "Pearson"),
        (format!("damping {softmax} --device cuda"), "eigenvalues"),
        (format!("fastif {NET} {SOLVE} --features 1 --candidates 9 --scores F.json --device cuda"), "as fast"),
        ("train --model cnn:2 --train digits:train[0..64] --l2 0.01 --epochs 1 --out C.safetensors --device cuda".into(), "weights"),
    ] {
        assert!(folder.succeed(&command).stdout.contains(line), "{command}");
    }
    folder
        .refuse(&format!("{net} cg --device cuda:99"), &["--device cuda:99: there is no GPU 99; found 0: "]);
    folder.refuse(
        &format!("{net} cg --device cuda:0,99"),
        &["--device cuda:0,99: there is no GPU 99; found 0: "],
    );
}
