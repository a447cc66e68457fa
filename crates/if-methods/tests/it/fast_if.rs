//! What FastIF does with influence: fine-tuning on chosen examples, and clusters of queries and training examples.

use if_linalg::testing::random;
use if_linalg::{Block, Cholesky, Cpu, Loss, Observer, Prepared, Solution, Solver, Termination};
use if_methods::{
    CoClusters, Correction, FineTuning, Influence, MethodError, Pull, arranged, by_largest, descending,
    nearest_to_mean, random_order,
};
use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Network, Removal, RiskSettings};
use ndarray::ArrayD;

use crate::common::{Double, WIDTH, data, dot};

const N: usize = 30;

/// Gradient descent on least squares has a closed form: with `A = X_S^T X_S / |S| + l2 I` and `b = X_S^T y_S / |S|`,
/// `theta_s = theta_(s-1) - eta (A theta_(s-1) - b)`. Catches: 1/n in place of 1/|S|, l2 left out, the wrong examples, a
/// step too few.
#[test]
fn steps_follow_the_closed_form() {
    let x = random(N * WIDTH, 1);
    let y = random(N, 2);
    let features = ArrayD::from_shape_vec(vec![N, WIDTH], x.clone()).unwrap();
    let data = Dataset::new(HostArray::F64(features), y.clone()).unwrap();
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 1, false, Loss::Squared);
    let train = Inputs::new(&network, &data, usize::MAX).unwrap();
    let (l2, eta) = (0.3, 0.2);
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(l2)).unwrap();
    let start = random(WIDTH, 3);
    let theta = Block::from_f64(network.backend(), network.layout(), &start);
    let examples = [4, 17, 17, 2, 29];
    let mut expected = start;
    for _ in 0..6 {
        let mut gradient: Vec<f64> = expected.iter().map(|t| l2 * t).collect();
        for &i in &examples {
            let row = &x[i * WIDTH..(i + 1) * WIDTH];
            let residual = dot(row, &expected) - y[i];
            gradient.iter_mut().zip(row).for_each(|(g, x)| *g += residual * x / examples.len() as f64);
        }
        expected.iter_mut().zip(gradient).for_each(|(t, g)| *t -= eta * g);
    }
    let tuned = FineTuning { learning_rate: eta, steps: 6 }.run(&risk, &theta, &examples).unwrap();
    tuned.to_f64().iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-13, "{a} {b}"));
    let unmoved = FineTuning { learning_rate: eta, steps: 0 }.run(&risk, &theta, &examples).unwrap();
    assert_eq!(unmoved.to_f64(), theta.to_f64());
    let absurd = FineTuning { learning_rate: 1e200, steps: 9 }.run(&risk, &theta, &examples[..2]);
    let error = absurd.err().expect("losses overflow").to_string();
    assert!(error.contains("example 4") && error.contains("step 2"), "{error}");
}

/// One step changes a query's loss as inner products of gradients say, up to a rest that falls with the square of the
/// rate; on the strongest proponent the loss falls, on the strongest opponent it rises.
#[test]
fn a_short_step_moves_queries_as_inner_products_say() {
    let all = data(N, 3, 5);
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &all, usize::MAX).unwrap();
    let queries = Inputs::new(&network, &data(4, 3, 6), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
    let theta = Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), 7));
    let scores = Influence::of_identity(&risk, &theta).scores(&queries, &()).unwrap();
    let before = network.example_losses(&queries, &theta);
    let examples = [3, 11, 20];
    let rest = |rate: f64| -> f64 {
        let tuned = FineTuning { learning_rate: rate, steps: 1 }.run(&risk, &theta, &examples).unwrap();
        let after = network.example_losses(&queries, &tuned);
        let predicted = |q: usize| -rate / 3.0 * examples.iter().map(|&i| scores.row(q)[i]).sum::<f64>();
        (0..4).map(|q| (after[q] - before[q] - predicted(q)).abs()).sum()
    };
    let ratio = rest(1e-2) / rest(1e-3);
    assert!((90.0..110.0).contains(&ratio), "{ratio}");
    for (q, before) in before.iter().enumerate() {
        let row = scores.row(q);
        let by_score = |a: &usize, b: &usize| row[*a].total_cmp(&row[*b]);
        for (example, sign) in [((0..N).max_by(by_score), -1.0), ((0..N).min_by(by_score), 1.0)] {
            let tuned =
                FineTuning { learning_rate: 1e-3, steps: 1 }.run(&risk, &theta, &[example.unwrap()]).unwrap();
            assert!(sign * (network.example_losses(&queries, &tuned)[q] - before) > 0.0);
        }
    }
}

/// Helpfulness against the sum of rows of the score matrix. Catches: one anchor left out or taken twice, the wrong sign,
/// the share of l2 that renormalised removal adds, positions in the list in place of examples.
#[test]
fn helpfulness_is_the_sum_over_anchors() {
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 3, 5), usize::MAX).unwrap();
    let anchors = Inputs::new(&network, &data(4, 3, 6), usize::MAX).unwrap();
    let theta = Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), 7));
    let candidates: Vec<usize> = (0..N).rev().step_by(2).collect();
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let settings = RiskSettings { removal, ..RiskSettings::mean(0.3) };
        let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
        let operator = risk.operator(&theta, Curvature::Hessian, 0.1, usize::MAX);
        let solver: Box<dyn Prepared<Double>> =
            Cholesky { tolerance: 1e-9, memory_budget: usize::MAX }.prepare(&operator).unwrap();
        let influence = Influence::new(&risk, &theta, &*solver);
        let scores = influence.scores(&anchors, &()).unwrap();
        let sum = |i: usize| (0..4).map(|a| scores.row(a)[i]).sum::<f64>();
        let sums: Vec<f64> = candidates.iter().map(|&i| sum(i)).collect();
        let mut expected: Vec<usize> = descending(&sums).into_iter().map(|at| candidates[at]).collect();
        let order = |pull| influence.by_helpfulness(&anchors, &candidates, pull, &()).unwrap().0;
        assert_eq!(order(Pull::Helpful), expected);
        expected.reverse();
        assert_eq!(order(Pull::Harmful), expected);

        // Without the second anchor, of which nothing is known.
        let without = Without { solver: &*solver, column: 1 };
        let influence = Influence::new(&risk, &theta, &without);
        let (found, report) = influence.by_helpfulness(&anchors, &candidates, Pull::Helpful, &()).unwrap();
        let others: Vec<f64> = candidates.iter().map(|&i| sum(i) - scores.row(1)[i]).collect();
        let expected: Vec<usize> = descending(&others).into_iter().map(|at| candidates[at]).collect();
        assert_eq!((found, report.none_failed()), (expected, false));
        let alone = Inputs::new(&network, &data(1, 3, 6), usize::MAX).unwrap();
        let without = Without { solver: &*solver, column: 0 };
        let influence = Influence::new(&risk, &theta, &without);
        let refused = influence.by_helpfulness(&alone, &candidates, Pull::Helpful, &()).unwrap_err();
        assert!(matches!(refused, MethodError::Unsolved(_)), "{refused}");
    }
}

/// More anchors than are solved at once. Catches: a block that takes the place of those before.
#[test]
fn helpfulness_is_the_sum_over_all_blocks_of_anchors() {
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 3, 5), usize::MAX).unwrap();
    let anchors = Inputs::new(&network, &data(131, 3, 6), usize::MAX).unwrap();
    let theta = Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), 7));
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
    let influence = Influence::of_identity(&risk, &theta);
    let scores = influence.scores(&anchors, &()).unwrap();
    let sums: Vec<f64> = (0..N).map(|i| (0..131).map(|a| scores.row(a)[i]).sum()).collect();
    let all: Vec<usize> = (0..N).collect();
    let (found, _) = influence.by_helpfulness(&anchors, &all, Pull::Helpful, &()).unwrap();
    assert_eq!(found, descending(&sums));
}

/// A solver that loses one column.
struct Without<'a> {
    solver: &'a dyn Prepared<Double>,
    column: usize,
}

impl Prepared<Double> for Without<'_> {
    fn solve(&self, b: &Block<Double>, observer: &dyn Observer) -> Solution<Double> {
        let mut solution = self.solver.solve(b, observer);
        solution.x.fill_row(self.column, f64::NAN);
        solution.report.columns[self.column].termination = Termination::NonFinite;
        solution
    }
}

#[test]
fn anchors_are_drawn_from_the_errors() {
    let tuning = FineTuning { learning_rate: 0.1, steps: 1 };
    let correction = Correction { anchors: 3, examples: 2, tuning };
    let wrong: Vec<bool> = (0..20).map(|q| q % 3 == 0).collect();
    let drawn: Vec<Vec<usize>> = (0..20).map(|seed| correction.anchors(&wrong, seed)).collect();
    assert!(drawn.iter().all(|some| some.len() == 3 && some.iter().all(|&q| wrong[q])), "{drawn:?}");
    // Every error is drawn at some time.
    assert!((0..20).filter(|&q| wrong[q]).all(|q| drawn.iter().any(|some| some.contains(&q))));
    assert_eq!(correction.anchors(&[true, false, true], 4).len(), 2);
    assert!(correction.anchors(&[false; 5], 4).is_empty());
    assert_eq!(correction.chosen(&[9, 8, 7]), [9, 8]);
    assert_eq!(correction.chosen(&[9]), [9]);
}

#[test]
fn neighbours_of_the_mean_are_those_of_all_anchors_together() {
    let network: Network<Double> = Network::linear(&Cpu::new(), 1, 1, false, Loss::Squared);
    let block = |values: &[f64]| {
        let mut all = Block::zeros(network.backend(), network.layout(), values.len());
        values.iter().enumerate().for_each(|(row, value)| all.fill_row(row, *value));
        all
    };
    // The mean is 3; each anchor alone is nearest to another example.
    let found = nearest_to_mean(&block(&[0.0, 2.5, 6.0, 4.0]), &block(&[0.0, 6.0]), 2).unwrap();
    assert_eq!(found, [1, 3]);
}

/// A round on what helps, by inner products of gradients, lowers the losses of the anchors, and one on what harms raises
/// them.
#[test]
fn rounds_pull_the_anchors_as_they_say() {
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 3, 5), usize::MAX).unwrap();
    let anchors = Inputs::new(&network, &data(4, 3, 6), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
    let theta = Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), 7));
    let tuning = FineTuning { learning_rate: 1e-2, steps: 3 };
    let correction = Correction { anchors: 4, examples: 5, tuning };
    let influence = Influence::of_identity(&risk, &theta);
    let all: Vec<usize> = (0..N).collect();
    let loss = |theta: &Block<Double>| network.example_losses(&anchors, theta).iter().sum::<f64>();
    let after = |pull| {
        let (order, _) = influence.by_helpfulness(&anchors, &all, pull, &()).unwrap();
        let stepped = correction.step(&risk, &theta, &order).unwrap();
        assert_eq!(stepped.to_f64(), tuning.run(&risk, &theta, &order[..5]).unwrap().to_f64());
        loss(&stepped)
    };
    assert!(after(Pull::Helpful) < loss(&theta) && loss(&theta) < after(Pull::Harmful));
}

#[test]
fn what_cannot_be_tuned_on_is_said() {
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 3, 5), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1)).unwrap();
    let theta = network.initial(0);
    let message = |learning_rate: f64, examples: &[usize]| -> String {
        let tuning = FineTuning { learning_rate, steps: 400 };
        tuning.run(&risk, &theta, examples).err().map(|error: MethodError| error.to_string()).unwrap()
    };
    assert_eq!(message(0.0, &[1]), "learning rate: expected a number above 0, found 0");
    assert_eq!(message(0.1, &[]), "examples: expected at least one, found none");
    assert_eq!(message(0.1, &[1, 30]), "examples: expected positions below 30, found 30");
    // The penalty alone multiplies by 1 - 1e3.
    assert!(message(1e4, &[1]).contains("not finite"), "{}", message(1e4, &[1]));
}

/// Groups that help themselves and hurt the next, among noise, in a random order. With more than a few, most starts of
/// k-means end elsewhere.
#[test]
fn planted_clusters_are_found() {
    for (seed, groups) in (0..5).flat_map(|seed| [3, 8].map(|groups| (seed, groups))) {
        let (queries, train) = (8 * groups, 20 * groups);
        let [of_query, of_train] = [(queries, seed), (train, seed + 100)].map(|(count, seed)| {
            random_order(count, seed).into_iter().map(|i| i % groups).collect::<Vec<_>>()
        });
        let noise = random(queries * train, seed);
        let score = |at: usize| {
            let (q, i) = (of_query[at / train], of_train[at % train]);
            let planted = if q == i {
                1.0
            } else if (q + 1) % groups == i {
                -0.5
            } else {
                0.0
            };
            planted + 0.3 * noise[at]
        };
        let scores: Vec<f64> = (0..queries * train).map(score).collect();
        let found = CoClusters::new(&scores, train, groups, seed, &()).unwrap();
        assert_eq!(found, CoClusters::new(&scores, train, groups, seed, &()).unwrap());
        // Up to their names.
        let name = |c: usize| found.train[of_train.iter().position(|own| *own == c).unwrap()];
        assert!(of_train.iter().zip(&found.train).all(|(own, found)| name(*own) == *found), "{found:?}");
        assert!(of_query.iter().zip(&found.queries).all(|(own, found)| name(*own) == *found), "{found:?}");
        let order = CoClusters::order(&found.train);
        assert!(order.iter().map(|&i| found.train[i]).is_sorted());
    }
}

/// Blocks of ones have as many singular values of 1; two camps that help their own and hurt the other have one.
#[test]
fn singular_values_of_blocks_are_one() {
    let blocks: Vec<f64> = (0..6 * 9).map(|at| f64::from(u8::from(at / 9 / 2 == at % 9 / 3))).collect();
    let found = CoClusters::new(&blocks, 9, 3, 0, &()).unwrap();
    assert!(found.singular_values.iter().all(|s| (s - 1.0).abs() < 1e-12), "{found:?}");
    assert_eq!(found.train, [0, 0, 0, 1, 1, 1, 2, 2, 2].map(|c| found.train[3 * c]));
    let camps: Vec<f64> = (0..6 * 9).map(|at| if (at / 9) % 2 == at % 9 % 2 { 2.0 } else { -1.0 }).collect();
    let found = CoClusters::new(&camps, 9, 2, 0, &()).unwrap();
    assert_eq!(found.queries, [0, 1, 0, 1, 0, 1]);
    assert_eq!(found.train, [0, 1, 0, 1, 0, 1, 0, 1, 0]);
    // Nobody acts on the last query: it is in some cluster, and nothing is NaN.
    let lonely = CoClusters::new(&[1.0, -1.0, 2.0, -2.0, 0.0, 0.0], 2, 2, 0, &()).unwrap();
    assert!(lonely.queries.len() == 3 && lonely.singular_values.iter().all(|s| s.is_finite()));
}

/// What a picture shows: clusters side by side, and how they differ.
#[test]
fn clusters_stand_together() {
    let clusters = CoClusters { queries: vec![1, 0], train: vec![0, 1, 0], singular_values: vec![1.0] };
    let mut scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let order = [&clusters.queries, &clusters.train].map(|side| CoClusters::order(side));
    assert_eq!(arranged(&scores, 3, [&order[0], &order[1]]), [4.0, 6.0, 5.0, 1.0, 3.0, 2.0]);
    assert_eq!(CoClusters::borders(&clusters.train), [2]);
    assert_eq!(CoClusters::borders(&[2, 2, 0, 5]), [1, 3]);
    assert!(CoClusters::borders(&[0, 0]).is_empty());
    // Query 1 with examples 0 and 2, query 0 with example 1.
    let [within, between] = clusters.within_and_between(&scores);
    assert_eq!([within, between], [(4.0 + 6.0 + 2.0) / 3.0, (5.0 + 1.0 + 3.0) / 3.0]);
    scores[3] = -12.0;
    by_largest(&mut scores, 3);
    assert_eq!(scores, [1.0 / 3.0, 2.0 / 3.0, 1.0, -1.0, 5.0 / 12.0, 0.5]);
    let mut zeros = [0.0, 0.0];
    by_largest(&mut zeros, 2);
    assert_eq!(zeros, [0.0, 0.0]);
}

#[test]
fn what_cannot_be_clustered_is_said() {
    let message = |scores: &[f64], train, clusters| {
        CoClusters::new(scores, train, clusters, 0, &()).unwrap_err().to_string()
    };
    assert_eq!(message(&[1.0; 6], 4, 2), "scores: expected rows of 4 numbers, at least one, found 6");
    assert_eq!(message(&[1.0, f64::NAN], 2, 2), "scores: expected finite numbers, found one that is not");
    assert!(message(&[1.0; 6], 3, 6).contains("clusters: expected from 1 to 5"));
    assert!(message(&[1.0; 6], 3, 0).contains("found 0"));
}
