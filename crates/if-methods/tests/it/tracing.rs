//! TracIn and FastIF against gradients that are formed, recorded losses and scores of all examples.

use std::sync::Arc;

use if_linalg::testing::random;
use if_linalg::{Backend, Cg, Cpu, Solver, SymmetricMatrix};
use if_methods::{
    Checkpoint, Influence, MethodError, TracIn, ideal_tracin, nearest, recall, representers, sketch_products,
    trak,
};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LayerSpec, Lbfgs, Loss, ModelSpec, Network,
    Optimizer, Projection, ProjectionKind, Removal, Replica, RiskSettings, Rows, Schedule, Training,
};
use ndarray::ArrayD;

use crate::common::Double;

const N: usize = 50;

fn images(n: usize, seed: u64) -> Dataset {
    let y = (0..n).map(|i| (i % 3) as f64).collect();
    let x = ArrayD::from_shape_vec(vec![n, 1, 4, 4], random(n * 16, seed)).unwrap();
    Dataset::new(HostArray::F64(x), y).unwrap()
}

/// A convolution, whose gradients have many terms, and two dense layers.
fn network() -> Network<Double> {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let conv = LayerSpec::Conv2d { name: "0".into(), out: 2, kernel: 2, stride: 1, padding: 0, bias: true };
    let layers = vec![
        conv,
        LayerSpec::Tanh {},
        LayerSpec::Flatten {},
        dense("3", 6),
        LayerSpec::Tanh {},
        dense("5", 3),
    ];
    ModelSpec { input: vec![1, 4, 4], loss: Loss::CrossEntropy, layers }.build(&Cpu::new()).unwrap()
}

fn checkpoints(network: &Network<Double>) -> Vec<Checkpoint<Double>> {
    let rates = [0.1, 0.05, 0.01];
    let at = |(seed, learning_rate): (usize, f64)| Checkpoint {
        network: network.clone(),
        theta: network.initial(seed as u64),
        learning_rate,
    };
    rates.into_iter().enumerate().map(at).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let error =
        norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
    assert!(error < tolerance, "off by {error:e}");
}

/// Catches: a learning rate left out or taken of another checkpoint, l2 in a gradient, 1/n.
#[test]
fn checkpoints_add_up_inner_products_of_gradients() {
    let network = network();
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let queries = Inputs::new(&network, &images(5, 2), usize::MAX).unwrap();
    let checkpoints = checkpoints(&network);
    let tracin = TracIn::new(&train, &checkpoints).unwrap();
    let scores = tracin.scores(&queries, &()).unwrap();
    let (mut expected, mut own) = (vec![0.0; 5 * N], vec![0.0; N]);
    for Checkpoint { theta, learning_rate, .. } in &checkpoints {
        let all = network.example_gradients(&train, theta, Rows::Range(0, N));
        let some = network.example_gradients(&queries, theta, Rows::Range(0, 5));
        some.gram(&all).iter().zip(&mut expected).for_each(|(dot, sum)| *sum += learning_rate * dot);
        all.dots(&all).iter().zip(&mut own).for_each(|(dot, sum)| *sum += learning_rate * dot);
    }
    assert_close(&scores.scores, &expected, 1e-12);
    assert_close(&tracin.self_influence(), &own, 1e-12);
    let losses: Vec<Vec<f64>> =
        checkpoints.iter().map(|c| network.example_losses(&train, &c.theta)).collect();
    let mean: Vec<f64> = (0..N).map(|i| losses.iter().map(|own| own[i]).sum::<f64>() / 3.0).collect();
    assert_close(&tracin.mean_losses(), &mean, 1e-12);
    assert_eq!(scores.loss_change(0, 0), None);
    assert!(TracIn::new(&train, &[]).is_err());
}

/// Each device scores its share of the row blocks at every checkpoint: a replica with other examples is found out by its
/// block. Catches: replicas that are not asked, or those of another checkpoint.
#[test]
fn replicas_score_their_share_at_their_checkpoint() {
    let block = <Double as Backend>::ROW_BLOCK;
    let n = block + 3;
    let network: Network<Double> = Network::linear(&Cpu::new(), 16, 3, true, Loss::CrossEntropy);
    let examples = |n, seed| Inputs::new(&network, &images(n, seed), usize::MAX).unwrap();
    let (train, queries, others) = (examples(n, 1), examples(4, 2), [7, 8].map(|seed| examples(n, seed)));
    let at = |seed, learning_rate| Checkpoint {
        network: network.clone(),
        theta: network.initial(seed),
        learning_rate,
    };
    let checkpoints = [at(1, 0.5), at(2, 0.25)];
    let scores = |train: &Inputs<Double>, c: usize| {
        TracIn::new(train, &checkpoints[c..=c]).unwrap().scores(&queries, &()).unwrap().scores
    };
    let each = [0, 1].map(|c| [scores(&train, c), scores(&others[c], c)]);
    let replicas = others.map(|inputs| vec![Replica { network: network.clone(), inputs: Arc::new(inputs) }]);
    let shared = TracIn::new(&train, &checkpoints).unwrap().with_replicas(&replicas);
    for (i, score) in shared.scores(&queries, &()).unwrap().scores.into_iter().enumerate() {
        let device = usize::from(i % n >= block);
        assert_eq!(score, each[0][device][i] + each[1][device][i], "{i}");
    }
}

/// Catches: losses of another step, an unequal share, examples of the next batch.
#[test]
fn ideal_scores_are_the_recorded_differences() {
    let network = network();
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let queries = Inputs::new(&network, &images(4, 2), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(1e-3)).unwrap();
    for batch in [1, 8] {
        let training = Training {
            optimizer: Optimizer::Sgd { momentum: 0.9 },
            learning_rate: 0.05,
            schedule: Schedule::Constant,
            epochs: 2,
            batch,
            seed: 3,
        };
        let mut state = training.start(&network);
        let start = network.example_losses(&queries, &state.theta);
        let scores = ideal_tracin(&training, &risk, &mut state, &queries, &()).unwrap();
        let end = network.example_losses(&queries, &state.theta);
        for q in 0..4 {
            let sum: f64 = scores[q * N..(q + 1) * N].iter().sum();
            assert!((sum - (start[q] - end[q])).abs() < 1e-12, "{sum} against {}", start[q] - end[q]);
        }
        // Step by step, from the record of who was in which.
        let mut expected = vec![0.0; 4 * N];
        let mut again = training.start(&network);
        let mut before = start;
        training
            .run::<_, if_models::ModelError>(&risk, &mut again, &(), |state, report| {
                let after = network.example_losses(&queries, &state.theta);
                let members = training.batch(N, report.step - 1);
                for q in 0..4 {
                    for &i in &members {
                        expected[q * N + i] += (before[q] - after[q]) / members.len() as f64;
                    }
                }
                before = after;
                Ok(())
            })
            .unwrap();
        assert_eq!(scores, expected);
    }
}

/// The error of a sketch falls as 1/sqrt(dim): four times as many numbers, half the error, from step to step.
#[test]
fn sketches_estimate_scores() {
    let network = network();
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let checkpoints = checkpoints(&network);
    let tracin = TracIn::new(&train, &checkpoints).unwrap();
    let exact = tracin.scores(&train, &()).unwrap().scores;
    let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    for kind in [ProjectionKind::Gaussian, ProjectionKind::Rademacher, ProjectionKind::Factored] {
        let error = |dim: usize| {
            let of_seed = |seed: u64| {
                let sketch = tracin.sketch(&train, Projection { kind, dim, seed }, &()).unwrap();
                let products = sketch_products(network.backend(), &sketch, &sketch, 3 * dim);
                let difference: Vec<f64> = products.iter().zip(&exact).map(|(a, b)| a - b).collect();
                norm(&difference) / norm(&exact)
            };
            (0..12).map(of_seed).sum::<f64>() / 12.0
        };
        let errors = [16, 64, 256].map(error);
        for pair in errors.windows(2) {
            assert!((1.6..2.5).contains(&(pair[0] / pair[1])), "{kind:?}: {errors:?}");
        }
        assert!(errors[2] < 0.35, "{kind:?}: {errors:?}");
    }
}

/// No checkpoint has the projection that another has, of this or of the next seed.
#[test]
fn every_checkpoint_has_a_projection_of_its_own() {
    let network = network();
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let same = || Checkpoint { network: network.clone(), theta: network.initial(1), learning_rate: 0.5 };
    let checkpoints = [same(), same()];
    let tracin = TracIn::new(&train, &checkpoints).unwrap();
    for kind in [ProjectionKind::Gaussian, ProjectionKind::Rademacher, ProjectionKind::Factored] {
        let sketches =
            [7, 8].map(|seed| tracin.sketch(&train, Projection { kind, dim: 1, seed }, &()).unwrap());
        let first = [sketches[0][0], sketches[0][1], sketches[1][0], sketches[1][1]];
        // One checkpoint after another.
        let alone = TracIn::new(&train, &checkpoints[..1]).unwrap();
        let projection = Projection { kind, dim: 1, seed: 7 };
        assert_eq!(sketches[0][0], alone.sketch(&train, projection, &()).unwrap()[0]);
        for (a, b) in (0..4).flat_map(|a| (0..a).map(move |b| (a, b))) {
            assert_ne!(first[a], first[b], "{kind:?}: {first:?}");
        }
    }
}

#[test]
fn the_nearest_are_found_and_counted() {
    let network = network();
    let theta = network.initial(1);
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let queries = Inputs::new(&network, &images(70, 2), usize::MAX).unwrap();
    let features = |inputs: &Inputs<Double>| network.layer_inputs(inputs, &theta, "5").unwrap();
    let (all, some) = (features(&train), features(&queries));
    assert_eq!((all.k(), all.layout().dim()), (N, 6));
    // Features are what the layer sees: with its weights they give the outputs.
    let weights = theta.to_f64();
    let last = &weights[weights.len() - 21..];
    let z = network.example_outputs(&train, &theta);
    let x = all.to_f64();
    let first: f64 = last[..6].iter().zip(&x[..6]).map(|(w, x)| w * x).sum::<f64>() + last[6];
    assert!((first - z[0]).abs() < 1e-12);
    let found = nearest(&all, &some, 7).unwrap();
    let queries_rows = some.to_f64();
    for (q, found) in found.iter().enumerate() {
        let distance =
            |i: usize| -> f64 { (0..6).map(|j| (x[i * 6 + j] - queries_rows[q * 6 + j]).powi(2)).sum() };
        let mut order: Vec<usize> = (0..N).collect();
        order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        assert_eq!(found[..], order[..7]);
    }
    assert_eq!(nearest(&all, &some, N).unwrap()[0].len(), N);
    let refused = nearest(&all, &some, N + 1).unwrap_err().to_string();
    assert_eq!(refused, "candidates: expected from 1 to 50, the number of training examples, found 51");
    assert!(nearest(&all, &some, 0).is_err());
    assert!(network.layer_inputs(&train, &theta, "nowhere").is_err());
    let scores = [0.5, -1.0, 3.0, 0.0, -2.0];
    assert_eq!(recall(&scores, &[2, 4], 2), [0.5, 0.5]);
    assert!(recall(&[1.0], &[0], 3)[1].is_nan());
}

/// More queries than a block. Catches: candidates of another query, scores in another order, the share of l2 under renormalised removal.
#[test]
fn candidates_have_the_scores_that_they_have_among_all() {
    let network = network();
    let theta = network.initial(1);
    let train = Inputs::new(&network, &images(N, 1), usize::MAX).unwrap();
    let queries = Inputs::new(&network, &images(133, 2), usize::MAX).unwrap();
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let settings = RiskSettings { removal, ..RiskSettings::mean(0.1) };
        let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
        let operator = risk.operator(&theta, Curvature::GaussNewton, 0.1, usize::MAX);
        let cg = Cg { tolerance: 1e-10, max_iterations: 500 };
        let prepared = <Cg as Solver<Double>>::prepare(&cg, &operator).unwrap();
        for influence in [Influence::new(&risk, &theta, &*prepared), Influence::of_identity(&risk, &theta)] {
            let all = influence.scores(&queries, &()).unwrap();
            let candidates: Vec<Vec<usize>> =
                (0..133).map(|q| vec![(7 * q) % N, 3, (11 * q + 5) % N]).collect();
            let mut found = Vec::new();
            influence
                .attribute_candidates(&queries, &candidates, &(), |q, scores| {
                    assert_eq!(q * 3, found.len());
                    found.extend(scores);
                    Ok::<(), MethodError>(())
                })
                .unwrap();
            let expected: Vec<f64> = candidates
                .iter()
                .enumerate()
                .flat_map(|(q, list)| list.iter().map(|&i| all.row(q)[i]).collect::<Vec<_>>())
                .collect();
            assert_close(&found, &expected, 1e-12);
        }
    }
}

/// The sum over training examples is the output at an optimum of the last layer, and not elsewhere. Catches: 1/n, l2, a
/// sign, a bias left out, another class than the label.
#[test]
fn representer_points_add_up_to_the_outputs() {
    for (loss, outputs, classes) in [(Loss::CrossEntropy, 3, 3), (Loss::Logistic, 1, 2)] {
        let y = (0..N).map(|i| (i % classes) as f64).collect();
        let x = ArrayD::from_shape_vec(vec![N, 4], random(N * 4, 5)).unwrap();
        let data = Dataset::new(HostArray::F64(x), y).unwrap();
        let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
        let layers = vec![dense("0", 5), LayerSpec::Tanh {}, dense("2", outputs)];
        let network: Network<Double> = ModelSpec { input: vec![4], loss, layers }.build(&Cpu::new()).unwrap();
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.02)).unwrap();
        let start = network.initial(1);
        let theta =
            Lbfgs { gradient_tolerance: 1e-10, ..Lbfgs::default() }.minimise(&risk, &start, &()).theta;
        let found = representers(&risk, &theta, &train).unwrap();
        assert!(found.gap < 1e-7, "{:e}", found.gap);
        let z = network.example_outputs(&train, &theta);
        let targets = train.targets();
        let expected: Vec<f64> = (0..N)
            .map(|q| if outputs == 1 { targets[q] * z[q] } else { z[q * outputs + targets[q] as usize] })
            .collect();
        let sums: Vec<f64> = found.scores.chunks(N).map(|row| row.iter().sum()).collect();
        assert_close(&sums, &expected, 1e-6);
        assert!(representers(&risk, &start, &train).unwrap().gap > 0.1);
        let free = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
        assert!(representers(&free, &theta, &train).is_err());
    }
}

/// With as many projections as parameters TRAK is the formula with explicit matrices, whatever the projection. Catches: 1 - p of the query, an average of inverses, a sign.
#[test]
fn trak_is_its_formula() {
    let network = Network::linear(&Cpu::<f64>::new(), 4, 1, true, Loss::Logistic);
    let y = (0..N).map(|i| (i % 2) as f64).collect();
    let x = ArrayD::from_shape_vec(vec![N, 4], random(N * 4, 5)).unwrap();
    let data = Dataset::new(HostArray::F64(x), y).unwrap();
    let train = Inputs::new(&network, &data, usize::MAX).unwrap();
    let queries = Inputs::new(&network, &data.slice(3, 9), usize::MAX).unwrap();
    let models: Vec<Checkpoint<Double>> = (0..2)
        .map(|seed| Checkpoint { network: network.clone(), theta: network.initial(seed), learning_rate: 1.0 })
        .collect();
    // An invertible projection leaves phi^T (Phi^T Phi)^-1 phi as it is.
    let projection = Projection { kind: ProjectionKind::Gaussian, dim: 5, seed: 1 };
    let found = trak(&models, (&train, &queries), projection, &()).unwrap();
    let margin = network.measured_by(Loss::Margin).unwrap();
    let (mut expected, mut doubt) = (vec![0.0; 6 * N], vec![0.0; N]);
    for Checkpoint { theta, .. } in &models {
        let phi = margin.example_gradients(&train, theta, Rows::Range(0, N));
        let own = margin.example_gradients(&queries, theta, Rows::Range(0, 6));
        let rows = phi.to_f64();
        let mut kernel = vec![0.0; 25];
        for row in rows.chunks(5) {
            (0..25).for_each(|at| kernel[at] += row[at / 5] * row[at % 5]);
        }
        let mut solved = own.to_f64();
        SymmetricMatrix::from_rows(5, kernel).cholesky().unwrap().solve(&mut solved);
        for (at, sum) in expected.iter_mut().enumerate() {
            let (q, i) = (at / N, at % N);
            *sum += 0.5 * (0..5).map(|j| solved[q * 5 + j] * rows[i * 5 + j]).sum::<f64>();
        }
        let z = network.example_outputs(&train, theta);
        for (i, target) in train.targets().into_iter().enumerate() {
            doubt[i] += 0.5 / (1.0 + (target * z[i]).exp());
        }
    }
    expected.iter_mut().enumerate().for_each(|(at, score)| *score *= doubt[at % N]);
    assert_close(&found, &expected, 1e-7);
    // Every model has a projection of its own, even the same model twice.
    let few = Projection { dim: 2, ..projection };
    let scores = |models: &[Checkpoint<Double>]| trak(models, (&train, &queries), few, &()).unwrap();
    let same = || Checkpoint { network: network.clone(), theta: network.initial(0), learning_rate: 1.0 };
    let (once, twice) = (scores(&[same()]), scores(&[same(), same()]));
    assert!(once.iter().zip(&twice).all(|(once, twice)| once != twice));
}
