//! Studies of fragility against their parts, done one by one.

use if_linalg::{Block, Cpu, LinearOperator, Lissa};
use if_methods::{Agreement, Fragility, FragilityTrial, MethodError};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Inputs, LayerSpec, Lbfgs, Loss, ModelSpec, Network, NewtonCg,
    RiskSettings,
};

use crate::common::{Double, WIDTH, data, dot};

const L2: f64 = 0.05;
const N: usize = 24;

fn fragility() -> Fragility {
    Fragility {
        lbfgs: Lbfgs { gradient_tolerance: 1e-11, max_iterations: 10_000, ..Lbfgs::default() },
        left_out: 6,
        points: vec![0.0, 0.25, 1.0],
        cold: true,
        lissa: None,
        memory_budget: 1 << 20,
    }
}

fn hidden() -> Network<Double> {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![dense("0", 4), LayerSpec::Tanh {}, dense("2", 3)];
    ModelSpec { input: vec![WIDTH], loss: Loss::CrossEntropy, layers }.build(&Cpu::new()).unwrap()
}

fn trial(fragility: &Fragility, network: &Network<Double>) -> Result<FragilityTrial, MethodError> {
    let (train, tests) = (data(N, 3, 1), data(8, 3, 2));
    fragility.trial((network, &network.initial(3)), RiskSettings::mean(L2), (&train, &tests), &())
}

fn without(all: &Dataset, i: usize) -> Vec<usize> {
    (0..all.len()).filter(|j| *j != i).collect()
}

fn losses(network: &Network<Double>, data: &Dataset, theta: &Block<Double>) -> Vec<f64> {
    network.example_losses(&Inputs::new(network, data, usize::MAX).unwrap(), theta)
}

/// A convex problem, whose optimum another optimiser finds too, on data that really lack the example.
#[test]
fn what_is_predicted_and_measured() {
    let network = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let (train, tests) = (data(N, 3, 1), data(8, 3, 2));
    let found = trial(&fragility(), &network).unwrap();
    let optimum = |data: &Dataset, l2: f64| {
        let inputs = Inputs::new(&network, data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(l2)).unwrap();
        let start = Block::zeros(network.backend(), network.layout(), 1);
        NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() }.minimise(&risk, &start, &()).theta
    };
    let theta = optimum(&train, L2);
    let own = losses(&network, &train, &theta);
    let before = losses(&network, &tests, &theta);

    // The six of the highest loss, in their order; points by the share of losses above them.
    let rest: Vec<usize> = (0..N).filter(|i| !found.left_out.contains(i)).collect();
    assert_eq!(found.left_out.len(), 6);
    assert!(found.left_out.windows(2).all(|pair| own[pair[0]] > own[pair[1]]));
    assert!(rest.iter().all(|i| own[*i] < own[found.left_out[5]]));
    let above = found.points.iter().map(|&p| before.iter().filter(|loss| **loss > before[p]).count());
    assert_eq!(above.collect::<Vec<_>>(), [0, 2, 7]);

    let inputs = Inputs::new(&network, &train, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(L2)).unwrap();
    let hessian = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX).to_dense();
    let smallest = hessian.eigen().0[0];
    assert!((found.smallest_eigenvalue - smallest).abs() < 1e-9, "{} {smallest}", found.smallest_eigenvalue);
    assert_eq!((found.damping, found.stopped), (0.0, 0));
    assert!(found.gradient_norm <= 1e-11);
    let factor = hessian.cholesky().unwrap();
    let gradient = |set: &Dataset, i: usize| {
        let one = Inputs::new(&network, &set.select(&[i]), usize::MAX).unwrap();
        EmpiricalRisk::new(&network, &one, RiskSettings::mean(0.0)).unwrap().gradient(&theta).1.to_f64()
    };
    for (j, &i) in found.left_out.iter().enumerate() {
        let mut solved = gradient(&train, i);
        factor.solve(&mut solved);
        for (p, &point) in found.points.iter().enumerate() {
            let predicted = dot(&gradient(&tests, point), &solved) / N as f64;
            assert!(
                (found.predicted[p][j] - predicted).abs() < 1e-8,
                "{} {predicted}",
                found.predicted[p][j]
            );
        }
        // The others keep their weight 1/n: their mean is larger, and so is l2 beside it.
        let grown = L2 * N as f64 / (N - 1) as f64;
        let after = losses(&network, &tests, &optimum(&train.select(&without(&train, i)), grown));
        let cold = found.cold_changes.as_ref().unwrap();
        for t in 0..tests.len() {
            let actual = after[t] - before[t];
            assert!(
                (found.warm_changes[j][t] - actual).abs() < 1e-8,
                "{} {actual}",
                found.warm_changes[j][t]
            );
            assert!((cold[j][t] - actual).abs() < 1e-8, "{} {actual}", cold[j][t]);
        }
    }
    for p in 0..3 {
        let actual =
            |changes: &[Vec<f64>]| changes.iter().map(|own| own[found.points[p]]).collect::<Vec<_>>();
        let [warm, cold] = [&found.warm_changes, found.cold_changes.as_ref().unwrap()].map(|all| actual(all));
        assert_eq!(found.warm(p), Agreement::new(&found.predicted[p], &warm));
        assert_eq!(found.cold(p), Some(Agreement::new(&found.predicted[p], &cold)));
        assert_ne!(found.cold(p), Some(found.warm(p)), "the two end at other roundings of the optimum");
        assert!(found.warm(p).pearson > 0.95, "{:?}", found.warm(p));
    }
    assert!(found.lissa(0).is_none());
}

/// Cold retraining starts where training did, warm retraining where it ended: a few steps from there tell them apart.
#[test]
fn where_retraining_starts() {
    let network = hidden();
    let few = Fragility { lbfgs: Lbfgs { max_iterations: 5, ..fragility().lbfgs }, ..fragility() };
    let found = trial(&few, &network).unwrap();
    let (train, tests) = (data(N, 3, 1), data(8, 3, 2));
    let inputs = Inputs::new(&network, &train, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(L2)).unwrap();
    let initial = network.initial(3);
    let theta = few.lbfgs.minimise(&risk, &initial, &()).theta;
    let before = losses(&network, &tests, &theta);
    for (j, &i) in found.left_out.iter().enumerate() {
        for (start, changes) in
            [(&theta, &found.warm_changes), (&initial, found.cold_changes.as_ref().unwrap())]
        {
            let fit = few.lbfgs.minimise(&risk.without(&[i]), start, &());
            let after = losses(&network, &tests, &fit.theta);
            for t in 0..tests.len() {
                assert!((changes[j][t] - (after[t] - before[t])).abs() < 1e-12);
            }
        }
    }
    // No training arrived: the first, six warm ones and six cold ones.
    assert_eq!(found.stopped, 13);
}

/// At initial parameters the Hessian is indefinite: it is damped until its smallest eigenvalue is 1e-4.
#[test]
fn an_indefinite_hessian_is_damped() {
    let network = hidden();
    let none = Fragility { lbfgs: Lbfgs { max_iterations: 1, ..fragility().lbfgs }, ..fragility() };
    let (train, tests) = (data(N, 3, 1), data(8, 3, 2));
    let start = network.initial(3);
    let found = none.trial((&network, &start), RiskSettings::mean(0.0), (&train, &tests), &()).unwrap();
    assert!(found.smallest_eigenvalue < 0.0, "{}", found.smallest_eigenvalue);
    assert!((found.damping + found.smallest_eigenvalue - 1e-4).abs() < 1e-15);
    assert!(found.predicted.iter().flatten().all(|change| change.is_finite()));
}

#[test]
fn lissa_stands_beside_the_exact_predictions() {
    let lissa = Lissa { tolerance: 1e-6, depth: None, repeats: 1, scale: None, batch: None, seed: 0 };
    let found = trial(&Fragility { lissa: Some(lissa), ..fragility() }, &hidden()).unwrap();
    let [exact, by_lissa] =
        [&found.predicted, &found.by_lissa.as_ref().unwrap().predicted].map(|rows| rows.concat());
    let size = dot(&exact, &exact).sqrt();
    let error: f64 = exact.iter().zip(&by_lissa).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(error < 1e-4 * size, "{error} {size}");
    assert!((found.lissa(0).unwrap().pearson - found.warm(0).pearson).abs() < 1e-3);
    assert_ne!(found.lissa(0), Some(found.warm(0)), "predictions of its own");
}

/// A softmax does not see what is added to all outputs: its Hessian is singular but for l2, which may be as small as rounding.
#[test]
fn a_hessian_that_rounding_may_spoil_is_damped_too() {
    let network = Network::linear(&Cpu::<f64>::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let (train, tests) = (data(N, 3, 1), data(8, 3, 2));
    let study = |l2: f64| {
        let lbfgs = Lbfgs { gradient_tolerance: 1e-6, ..fragility().lbfgs };
        let fragility = Fragility { lbfgs, cold: false, ..fragility() };
        let start = network.initial(3);
        fragility.trial((&network, &start), RiskSettings::mean(l2), (&train, &tests), &()).unwrap()
    };
    let found = study(1e-11);
    assert!((found.damping + found.smallest_eigenvalue - 1e-4).abs() < 1e-15, "{}", found.damping);
    let found = study(1e-6);
    assert!((found.smallest_eigenvalue - 1e-6).abs() < 1e-9, "{}", found.smallest_eigenvalue);
    assert_eq!(found.damping, 0.0);
}

/// Points are the nearest ranks: .29 of 100 is 29, though not in floating point.
#[test]
fn points_are_ranks() {
    let network = hidden();
    let (train, tests) = (data(N, 3, 1), data(100, 3, 2));
    let few = Fragility {
        lbfgs: Lbfgs { max_iterations: 2, ..fragility().lbfgs },
        points: vec![0.28, 0.29, 0.995, 1.0],
        cold: false,
        ..fragility()
    };
    let start = network.initial(3);
    let found = few.trial((&network, &start), RiskSettings::mean(L2), (&train, &tests), &()).unwrap();
    let inputs = Inputs::new(&network, &train, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(L2)).unwrap();
    let theta = few.lbfgs.minimise(&risk, &start, &()).theta;
    let own = losses(&network, &tests, &theta);
    let above = found.points.iter().map(|&p| own.iter().filter(|loss| **loss > own[p]).count());
    assert_eq!(above.collect::<Vec<_>>(), [28, 29, 99, 99]);
}

/// Pooling is passed once, before training: nothing else changes.
#[test]
fn layers_before_the_first_with_parameters() {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![LayerSpec::Flatten {}, dense("0", 4), LayerSpec::Tanh {}, dense("2", 3)];
    let spec = ModelSpec { input: vec![WIDTH], loss: Loss::CrossEntropy, layers };
    let flattened: Network<Double> = spec.build(&Cpu::new()).unwrap();
    let [plain, behind] = [hidden(), flattened].map(|network| trial(&fragility(), &network).unwrap());
    assert_eq!(plain.left_out, behind.left_out);
    assert_eq!(plain.predicted, behind.predicted);
    assert_eq!(plain.warm_changes, behind.warm_changes);
}

#[test]
fn what_cannot_be_studied() {
    let network = hidden();
    for (fragility, expected) in [
        (
            Fragility { left_out: 2, ..fragility() },
            "left-out: expected 3 to 23 of 24 training examples, found 2",
        ),
        (
            Fragility { left_out: 24, ..fragility() },
            "left-out: expected 3 to 23 of 24 training examples, found 24",
        ),
        (
            Fragility { points: vec![0.5, 1.5], ..fragility() },
            "points: expected shares from 0 to 1, found 1.5",
        ),
        (
            Fragility { memory_budget: 1000, ..fragility() },
            "memory-budget: expected 22.5 KiB for the Hessian of 31 parameters, found 1000 B",
        ),
    ] {
        assert_eq!(trial(&fragility, &network).unwrap_err().to_string(), expected);
    }
}
