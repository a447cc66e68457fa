//! Minibatch training: steps against their formulas, batches against their promises.

use crate::common::{assert_close, cpu, dense_network, random_data, random_theta};
use if_linalg::{Block, Loss};
use if_models::{
    Dataset, EmpiricalRisk, Inputs, LayerSpec, ModelError, ModelSpec, Network, NewtonCg, Optimizer,
    RiskSettings, Rows, Schedule, Training,
};

fn training(optimizer: Optimizer) -> Training {
    Training { optimizer, learning_rate: 0.1, schedule: Schedule::Constant, epochs: 3, batch: 4, seed: 7 }
}

fn data() -> Dataset {
    random_data(10, 3, Loss::CrossEntropy, 3, 5)
}

fn network() -> Network<crate::common::Double> {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![dense("0", 4), LayerSpec::Tanh {}, dense("2", 3)];
    ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers }.build(&cpu()).unwrap()
}

/// Parameters after `steps` steps, computed from example gradients on the host.
fn by_formula(training: &Training, steps: usize) -> Vec<f64> {
    let (network, data) = (network(), data());
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let mut theta = training.start(&network).theta.to_f64();
    let (mut m, mut v) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    for step in 0..steps {
        let batch = training.batch(10, step);
        let at = Block::from_f64(&cpu(), network.layout(), &theta);
        let gradients = network.example_gradients(&inputs, &at, Rows::Indices(&batch)).to_f64();
        let t = (step + 1) as f64;
        for (p, theta) in theta.clone().iter().enumerate().map(|(p, _)| p).zip(theta.iter_mut()) {
            let sum: f64 = gradients.chunks(m.len()).map(|g| g[p]).sum();
            let g = sum / batch.len() as f64 + 0.01 * *theta;
            match training.optimizer {
                Optimizer::Sgd { momentum } => {
                    m[p] = momentum * m[p] + g;
                    *theta -= 0.1 * m[p];
                }
                Optimizer::Adam { beta1, beta2, epsilon } => {
                    m[p] = beta1 * m[p] + (1.0 - beta1) * g;
                    v[p] = beta2 * v[p] + (1.0 - beta2) * g * g;
                    let (mean, square) = (m[p] / (1.0 - beta1.powf(t)), v[p] / (1.0 - beta2.powf(t)));
                    *theta -= 0.1 * mean / (square.sqrt() + epsilon);
                }
            }
        }
    }
    theta
}

/// Catches: a missing 1/b or l2, momentum on the wrong side, Adam's corrections.
#[test]
fn steps_follow_their_formulas() {
    let adam = Optimizer::adam();
    for optimizer in [Optimizer::Sgd { momentum: 0.0 }, Optimizer::Sgd { momentum: 0.9 }, adam] {
        let (network, data, training) = (network(), data(), training(optimizer));
        let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).unwrap();
        let mut state = training.start(&network);
        let mut seen = Vec::new();
        training
            .run::<_, ModelError>(&risk, &mut state, &(), |state, report| {
                assert_eq!(state.step, report.step);
                seen.push(report.step);
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, (1..=9).collect::<Vec<_>>());
        assert_close(&state.theta.to_f64(), &by_formula(&training, 9), 1e-12);
    }
}

#[test]
fn every_epoch_sees_every_example_once_in_another_order() {
    let training = training(Optimizer::adam());
    assert_eq!((training.steps_per_epoch(10), training.steps(10)), (3, 9));
    let epochs: Vec<Vec<usize>> =
        (0..3).map(|e| (0..3).flat_map(|part| training.batch(10, 3 * e + part)).collect()).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!(training.batch(10, 2).len(), 2);
}

/// From any state on, the rest of a run has the same bits; and for any number of threads.
#[test]
fn a_run_resumes_with_the_same_bits() {
    let (network, data) = (network(), data());
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.01)).unwrap();
    let training = training(Optimizer::adam());
    let whole = |stop: Option<usize>| {
        let mut state = training.start(&network);
        let stopped = training.run::<_, ModelError>(&risk, &mut state, &(), |state, _| {
            if stop == Some(state.step) { Err(ModelError::Unsupported("stop".into())) } else { Ok(()) }
        });
        assert_eq!(stopped.is_err(), stop.is_some());
        if stop.is_some() {
            training.run::<_, ModelError>(&risk, &mut state, &(), |_, _| Ok(())).unwrap();
        }
        state.theta.to_f64()
    };
    let expected = whole(None);
    assert_eq!(whole(Some(4)), expected);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| whole(Some(7))), expected);
    }
}

/// Descent reaches the optimum that Newton's method finds.
#[test]
fn small_steps_reach_the_optimum() {
    let network = Network::linear(&cpu(), 3, 3, true, Loss::CrossEntropy);
    let data = data();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.1)).unwrap();
    let training = Training {
        batch: 10,
        epochs: 400,
        learning_rate: 0.5,
        schedule: Schedule::Cosine,
        ..training(Optimizer::Sgd { momentum: 0.9 })
    };
    let mut state = training.start(&network);
    training.run::<_, ModelError>(&risk, &mut state, &(), |_, _| Ok(())).unwrap();
    let zeros = Block::zeros(&cpu(), network.layout(), 1);
    let optimum = NewtonCg::default().minimise(&risk, &zeros, &()).theta;
    assert_close(&state.theta.to_f64(), &optimum.to_f64(), 1e-6);
}

#[test]
fn schedules() {
    let rates = |schedule| {
        let training = Training { schedule, ..training(Optimizer::adam()) };
        [0, 3, 6, 8].map(|step| training.learning_rate_at(10, step))
    };
    assert_eq!(rates(Schedule::Constant), [0.1; 4]);
    let halved = rates(Schedule::Step { epochs: 1, factor: 0.5 });
    assert_eq!(halved, [0.1, 0.05, 0.025, 0.025]);
    assert_eq!(rates(Schedule::Step { epochs: 2, factor: 0.5 }), [0.1, 0.1, 0.05, 0.05]);
    // Nine steps: a third of the way, two thirds, and the last but none.
    let cosine = [0, 3, 6, 8].map(|step| 0.05 * (1.0 + (std::f64::consts::PI * f64::from(step) / 9.0).cos()));
    assert_close(&rates(Schedule::Cosine), &cosine, 1e-15);
}

#[test]
fn settings_and_explosions_are_named() {
    let wrong = Training { learning_rate: -1.0, ..training(Optimizer::adam()) };
    let error = wrong.validate().unwrap_err().to_string();
    assert_eq!(error, "learning rate must be a number above 0, found -1");
    let wrong = training(Optimizer::Sgd { momentum: 1.0 }).validate().unwrap_err().to_string();
    assert_eq!(wrong, "momentum must be at least 0 and below 1, found 1");

    let network = Network::linear(&cpu(), 3, 1, true, Loss::Squared);
    let data = random_data(10, 3, Loss::Squared, 1, 5);
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.0)).unwrap();
    let wild = Training { learning_rate: 1e200, epochs: 50, ..training(Optimizer::Sgd { momentum: 0.0 }) };
    let mut state = wild.start(&network);
    let error = wild.run::<_, ModelError>(&risk, &mut state, &(), |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("the loss of example") && error.contains("lower the learning rate"), "{error}");
}

/// More examples than one part of a minibatch has, some of them twice.
#[test]
fn gradients_of_large_batches() {
    let network = dense_network(&cpu(), &[3, 4, 2], true, Loss::CrossEntropy);
    let (theta, data) = (random_theta(&network, 4), random_data(90, 3, Loss::CrossEntropy, 2, 5));
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.3)).unwrap();
    let batch: Vec<usize> = (0..150).map(|i| (7 * i) % 90).collect();
    let (losses, gradient) = risk.batch_gradient(&theta, &batch);
    let all = network.example_losses(&inputs, &theta);
    assert_close(&losses, &batch.iter().map(|&i| all[i]).collect::<Vec<_>>(), 1e-14);
    let p = network.layout().dim();
    let each = network.example_gradients(&inputs, &theta, Rows::Range(0, 90)).to_f64();
    let expected: Vec<f64> = theta
        .to_f64()
        .iter()
        .enumerate()
        .map(|(j, theta)| batch.iter().map(|i| each[i * p + j]).sum::<f64>() / 150.0 + 0.3 * theta)
        .collect();
    assert_close(&gradient.to_f64(), &expected, 1e-13);
}
