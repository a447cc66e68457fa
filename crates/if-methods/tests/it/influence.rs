//! Influence against the explicit formula and against real retraining, on small models of every kind.
//! Each test names the mutations of the formula that it catches.

use std::sync::Arc;

use if_linalg::{Backend, Block, Cg, Cholesky, Cpu, LinearOperator, Observer, Solver, SymmetricMatrix};
use if_methods::{Agreement, Extremes, Influence, MethodError, ScoreUnit, loss_changes};
use if_models::{
    Curvature, EmpiricalRisk, Family, Inputs, Loss, Network, NewtonCg, QueryRank, Removal, Replica,
    RiskSettings, Rows,
};

use crate::common::{Double, WIDTH, data, dot};

const N: usize = 60;

struct Problem {
    network: Network<Double>,
    train: Inputs<Double>,
    queries: Inputs<Double>,
    settings: RiskSettings,
}

impl Problem {
    fn new(loss: Loss, settings: RiskSettings) -> Self {
        let (classes, outputs) = if loss == Loss::CrossEntropy { (3, 3) } else { (2, 1) };
        let network = Network::linear(&Cpu::new(), WIDTH, outputs, true, loss);
        let train = Inputs::new(&network, &data(N, classes, 1), usize::MAX).unwrap();
        let queries = Inputs::new(&network, &data(7, classes, 2), usize::MAX).unwrap();
        Self { network, train, queries, settings }
    }

    fn risk(&self) -> EmpiricalRisk<'_, Double> {
        EmpiricalRisk::new(&self.network, &self.train, self.settings).unwrap()
    }

    fn optimum(&self, risk: &EmpiricalRisk<Double>) -> Block<Double> {
        let fit = trainer().minimise(risk, &Block::zeros(&Cpu::new(), self.network.layout(), 1), &());
        assert!(fit.report.converged());
        fit.theta
    }

    fn gradients(&self, inputs: &Inputs<Double>, theta: &Block<Double>) -> Vec<f64> {
        self.network.example_gradients(inputs, theta, Rows::Range(0, inputs.len())).to_f64()
    }
}

fn trainer() -> NewtonCg {
    NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() }
}

fn settings(removal: Removal) -> RiskSettings {
    RiskSettings { removal, ..RiskSettings::mean(0.05) }
}

/// Scores by the formula of the module, with the explicit matrix: `(1/n) sum of second differences`
/// would be the same; here the conformance-tested operator without shift, plus l2 and damping.
fn by_formula(problem: &Problem, theta: &Block<Double>, l2: f64, damping: f64) -> Vec<f64> {
    let queries = problem.gradients(&problem.queries, theta);
    scores_of_gradients(problem, theta, l2, damping, queries)
}

/// The same for any gradients of queries.
fn scores_of_gradients(
    problem: &Problem,
    theta: &Block<Double>,
    l2: f64,
    damping: f64,
    queries: Vec<f64>,
) -> Vec<f64> {
    let plain = EmpiricalRisk::new(&problem.network, &problem.train, RiskSettings::mean(0.0)).unwrap();
    let data_term = plain.operator(theta, Curvature::Hessian, 0.0, 0).to_dense();
    let p = data_term.dim();
    let mut matrix = SymmetricMatrix::from_rows(p, data_term.as_slice().to_vec());
    matrix.add_diagonal(l2 + damping);
    let mut solved = queries;
    matrix.cholesky().unwrap().solve(&mut solved);
    let own = theta.to_f64();
    let share = if problem.settings.removal == Removal::Renormalised { l2 } else { 0.0 };
    let train: Vec<Vec<f64>> = problem
        .gradients(&problem.train, theta)
        .chunks(p)
        .map(|g| g.iter().zip(&own).map(|(g, t)| g + share * t).collect())
        .collect();
    solved.chunks(p).flat_map(|x| train.iter().map(|g| dot(x, g)).collect::<Vec<_>>()).collect()
}

fn close(found: &[f64], expected: &[f64]) {
    let agreement = Agreement::new(found, expected);
    assert!(agreement.relative_error < 1e-8, "{agreement:?}");
}

/// Catches: a sign, a factor of n, l2 or damping left out or counted twice, the penalty's share in the
/// wrong convention, queries and examples exchanged.
#[test]
fn scores_follow_the_formula() {
    for loss in [Loss::Logistic, Loss::CrossEntropy, Loss::SmoothHinge { temperature: 0.5 }] {
        for removal in [Removal::Fixed, Removal::Renormalised] {
            for damping in [0.0, 0.3] {
                let problem = Problem::new(loss, settings(removal));
                let risk = problem.risk();
                let theta = problem.optimum(&risk);
                let expected = by_formula(&problem, &theta, 0.05, damping);
                let system = risk.operator(&theta, Curvature::Hessian, damping, usize::MAX);
                let cg = Cg { tolerance: 1e-11, max_iterations: 100 };
                let cholesky = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX };
                let solvers: [&dyn Solver<Double>; 2] = [&cg, &cholesky];
                for solver in solvers {
                    let prepared = solver.prepare(&system).unwrap();
                    let influence = Influence::new(&risk, &theta, &*prepared);
                    let scores = influence.scores(&problem.queries, &()).unwrap();
                    assert!(scores.report.all_converged(), "{}", scores.report.summary());
                    close(&scores.scores, &expected);
                    assert_eq!(scores.up_loss(2, 5), -scores.row(2)[5]);
                }
            }
        }
    }
}

/// Catches: a wrong sign, `1/n` against `1/(n - 1)`, and the other convention's gradient.
#[test]
fn predictions_agree_with_retraining() {
    for removal in [Removal::Fixed, Removal::Renormalised] {
        for loss in [Loss::Logistic, Loss::CrossEntropy] {
            let problem = Problem::new(loss, RiskSettings { l2: 0.5, ..settings(removal) });
            let risk = problem.risk();
            let theta = problem.optimum(&risk);
            let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
            let prepared = Cg { tolerance: 1e-11, max_iterations: 100 }.prepare(&system).unwrap();
            let scores = Influence::new(&risk, &theta, &*prepared).scores(&problem.queries, &()).unwrap();
            let factor = if removal == Removal::Fixed { 1.0 / 60.0 } else { 1.0 / 59.0 };
            assert_eq!(scores.unit, ScoreUnit::LossChangeOnRemoval { factor });

            let groups: Vec<Vec<usize>> = (0..N).map(|i| vec![i]).collect();
            let before = problem.network.example_losses(&problem.queries, &theta);
            let retrain = |risk: &EmpiricalRisk<Double>| trainer().minimise(risk, &theta, &());
            let actual = loss_changes(&risk, &groups, &problem.queries, &before, retrain, &()).unwrap();
            assert!(actual.fits.iter().all(|fit| fit.converged()));
            let predicted: Vec<f64> = (0..N)
                .flat_map(|i| (0..7).map(|q| scores.loss_change(q, i).unwrap()).collect::<Vec<_>>())
                .collect();
            let agreement = Agreement::new(&predicted, &actual.changes.concat());
            assert!(agreement.pearson > 0.9995 && agreement.relative_error < 0.04, "{agreement:?}");
            assert!((0.96..1.0).contains(&agreement.slope), "{agreement:?}");
        }
    }
}

/// Minus what is measured of every query, from the outputs.
fn measured(problem: &Problem, loss: Loss, theta: &Block<Double>) -> Vec<f64> {
    let outputs = problem.network.outputs();
    let z = problem.network.example_outputs(&problem.queries, theta);
    let each = z.chunks(outputs).zip(problem.queries.targets());
    each.map(|(z, y)| match loss {
        _ if outputs == 1 => -y * z[0],
        Loss::Logit => -z[y as usize],
        _ => {
            let others = (0..outputs).filter(|&c| c as f64 != y).map(|c| z[c].exp());
            others.sum::<f64>().ln() - z[y as usize]
        }
    })
    .collect()
}

/// The gradients by central differences, the system by the explicit matrix. Catches: the measurement
/// on the wrong side, the training loss instead of it, a sign, the other measurement.
#[test]
fn measured_queries_follow_the_formula() {
    for trained in [Loss::Logistic, Loss::CrossEntropy] {
        for measure in [Loss::Logit, Loss::Margin] {
            let problem = Problem::new(trained, settings(Removal::Renormalised));
            let risk = problem.risk();
            let theta = problem.optimum(&risk);
            let p = theta.layout().dim();
            let mut gradients = vec![0.0; 7 * p];
            for a in 0..p {
                let moved = |h: f64| {
                    let mut at = theta.to_f64();
                    at[a] += h;
                    measured(&problem, measure, &Block::from_f64(&Cpu::new(), theta.layout(), &at))
                };
                for (q, (ahead, behind)) in moved(1e-5).iter().zip(moved(-1e-5)).enumerate() {
                    gradients[q * p + a] = (ahead - behind) / 2e-5;
                }
            }
            let expected = scores_of_gradients(&problem, &theta, 0.05, 0.1, gradients);
            let system = risk.operator(&theta, Curvature::Hessian, 0.1, usize::MAX);
            let prepared = Cg { tolerance: 1e-12, max_iterations: 100 }.prepare(&system).unwrap();
            let plain = Influence::new(&risk, &theta, &*prepared);
            let influence = plain.measuring(measure).unwrap();
            let scores = influence.scores(&problem.queries, &()).unwrap();
            close(&scores.scores, &expected);
            assert_eq!(scores.unit, ScoreUnit::MeasurementDropOnRemoval { factor: 1.0 / 59.0 });
            // Training examples keep their loss.
            assert_eq!(influence.self_influence(&()).unwrap().0, plain.self_influence(&()).unwrap().0);
            let same = plain.measuring(trained).unwrap().scores(&problem.queries, &()).unwrap();
            assert_eq!(same.scores, plain.scores(&problem.queries, &()).unwrap().scores);
        }
    }
}

/// What is measured really changes by `-factor * score`. Catches: a sign in the meaning of the scores.
#[test]
fn measurements_fall_with_their_proponents() {
    let problem = Problem::new(Loss::CrossEntropy, RiskSettings::mean(0.5));
    let risk = problem.risk();
    let theta = problem.optimum(&risk);
    let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = Cg { tolerance: 1e-11, max_iterations: 100 }.prepare(&system).unwrap();
    let fits: Vec<_> = (0..N).map(|i| trainer().minimise(&risk.without(&[i]), &theta, &()).theta).collect();
    for measure in [Loss::Logit, Loss::Margin] {
        let influence = Influence::new(&risk, &theta, &*prepared).measuring(measure).unwrap();
        let scores = influence.scores(&problem.queries, &()).unwrap();
        let ScoreUnit::MeasurementDropOnRemoval { factor } = scores.unit else { panic!("{:?}", scores.unit) };
        let before = measured(&problem, measure, &theta);
        let (mut predicted, mut actual) = (Vec::new(), Vec::new());
        for (i, fit) in fits.iter().enumerate() {
            for (q, after) in measured(&problem, measure, fit).iter().enumerate() {
                predicted.push(-factor * scores.row(q)[i]);
                actual.push(before[q] - after);
                assert_eq!(scores.loss_change(q, i).unwrap(), -predicted[predicted.len() - 1]);
            }
        }
        let agreement = Agreement::new(&predicted, &actual);
        assert!(agreement.pearson > 0.9995 && agreement.relative_error < 0.04, "{agreement:?}");
    }
}

/// A measure of classes says nothing of a regression.
#[test]
fn measures_need_the_targets_of_the_training_loss() {
    let problem = Problem::new(Loss::Squared, settings(Removal::Fixed));
    let risk = problem.risk();
    let theta = problem.optimum(&risk);
    let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = Cg { tolerance: 1e-11, max_iterations: 100 }.prepare(&system).unwrap();
    let refused = Influence::new(&risk, &theta, &*prepared).measuring(Loss::Margin).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "expected a model that is trained on labels, found one that is trained on real numbers"
    );
}

/// Family SUM is MEAN at `l2 / n` with the bias spared: catches a family that leaks into the scores.
#[test]
fn sum_is_mean_in_other_units() {
    let sum = RiskSettings { family: Family::Sum, ..RiskSettings::mean(0.05 * N as f64) };
    let mean = RiskSettings { regularise_bias: false, ..RiskSettings::mean(0.05) };
    let scores = |settings| {
        let problem = Problem::new(Loss::Logistic, settings);
        let risk = problem.risk();
        let theta = problem.optimum(&risk);
        let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let prepared = Cg { tolerance: 1e-12, max_iterations: 100 }.prepare(&system).unwrap();
        Influence::new(&risk, &theta, &*prepared).scores(&problem.queries, &()).unwrap()
    };
    let (sum, mean) = (scores(sum), scores(mean));
    assert_eq!(sum.unit, mean.unit);
    close(&sum.scores, &mean.scores);
}

/// Catches: self-influence with another formula than the diagonal of the score matrix.
#[test]
fn self_influence_is_the_diagonal() {
    for removal in [Removal::Fixed, Removal::Renormalised] {
        let problem = Problem::new(Loss::CrossEntropy, settings(removal));
        let risk = problem.risk();
        let theta = problem.optimum(&risk);
        let system = risk.operator(&theta, Curvature::Hessian, 0.01, usize::MAX);
        let prepared = Cg { tolerance: 1e-12, max_iterations: 100 }.prepare(&system).unwrap();
        let influence = Influence::new(&risk, &theta, &*prepared);
        let all = influence.scores(&problem.train, &()).unwrap();
        let (own, report) = influence.self_influence(&()).unwrap();
        assert_eq!(report.columns.len(), N);
        close(&own, &(0..N).map(|i| all.row(i)[i]).collect::<Vec<_>>());
    }
}

/// For least squares the parameters really move by `1/(1 - leverage)` times the first order.
/// Catches: a leverage without its weight, or without the loss's second derivative.
#[test]
fn leverage_is_exact_for_least_squares() {
    let problem = Problem::new(Loss::Squared, settings(Removal::Fixed));
    let risk = problem.risk();
    let theta = problem.optimum(&risk);
    let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = Cg { tolerance: 1e-13, max_iterations: 200 }.prepare(&system).unwrap();
    let influence = Influence::new(&risk, &theta, &*prepared);
    let leverages = influence.leverages(&influence.self_influence(&()).unwrap().0).unwrap();
    let gradients = problem.network.example_gradients(&problem.train, &theta, Rows::Range(0, N));
    let first = prepared.solve(&gradients, &()).x.to_f64();
    for i in [0, 17, 59] {
        let fit = trainer().minimise(&risk.without(&[i]), &theta, &());
        let p = theta.layout().dim();
        let actual: Vec<f64> =
            fit.theta.to_f64().iter().zip(theta.to_f64()).map(|(after, before)| after - before).collect();
        let predicted: Vec<f64> =
            first[i * p..(i + 1) * p].iter().map(|x| x / N as f64 / (1.0 - leverages[i])).collect();
        close(&predicted, &actual);
    }
    let renormalised = Problem::new(Loss::Squared, settings(Removal::Renormalised));
    let risk = renormalised.risk();
    assert!(Influence::new(&risk, &theta, &*prepared).leverages(&[0.0; N]).is_err());
}

/// More queries than a block: the stream is the matrix, and ranks are those of the matrix.
#[test]
fn blocks_of_queries_arrive_in_order() {
    let problem = Problem::new(Loss::Logistic, settings(Removal::Fixed));
    let risk = problem.risk();
    let theta = problem.optimum(&risk);
    let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = Cg { tolerance: 1e-12, max_iterations: 100 }.prepare(&system).unwrap();
    let influence = Influence::new(&risk, &theta, &*prepared);
    let many = Inputs::new(&problem.network, &data(300, 2, 5), 0).unwrap();
    let (mut firsts, mut streamed) = (Vec::new(), Vec::new());
    let report = influence
        .attribute::<MethodError>(&many, &(), |rows| {
            firsts.push(rows.first);
            streamed.extend_from_slice(rows.scores);
            Ok(())
        })
        .unwrap();
    assert_eq!((firsts, report.columns.len()), (vec![0, 128, 256], 300));
    let expected = problem.network.scores(
        &problem.train,
        &theta,
        &prepared.solve(&problem.network.example_gradients(&many, &theta, Rows::Range(299, 1)), &()).x,
    );
    close(&streamed[299 * N..], &expected);
    let top = Extremes::of(&streamed[299 * N..], 1).proponents[0];
    assert!(expected.iter().all(|score| *score <= top.score + 1e-9));
}

#[test]
fn cancelling_is_an_error() {
    struct Stop;
    impl Observer for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let problem = Problem::new(Loss::Logistic, settings(Removal::Fixed));
    let risk = problem.risk();
    let theta = Block::zeros(&Cpu::new(), problem.network.layout(), 1);
    let system = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = Cg { tolerance: 1e-12, max_iterations: 100 }.prepare(&system).unwrap();
    let influence = Influence::new(&risk, &theta, &*prepared);
    assert_eq!(influence.scores(&problem.queries, &Stop).unwrap_err(), MethodError::Cancelled);
    assert_eq!(influence.self_influence(&Stop).unwrap_err(), MethodError::Cancelled);
    let retrain = |risk: &EmpiricalRisk<Double>| trainer().minimise(risk, &theta, &());
    let stopped = loss_changes(&risk, &[vec![0]], &problem.queries, &[0.0; 7], retrain, &Stop);
    assert!(matches!(stopped, Err(MethodError::Cancelled)));
}

/// Each device scores its share of the row blocks, whichever way queries are scored: a replica with other examples is found
/// out by its block. Catches: replicas that are not asked, or asked for the block of another.
#[test]
fn replicas_score_their_share() {
    let block = <Double as Backend>::ROW_BLOCK;
    let n = block + 40;
    let network: Network<Double> = Network::linear(&Cpu::new(), WIDTH, 3, true, Loss::CrossEntropy);
    let [train, others] = [1, 9].map(|seed| Inputs::new(&network, &data(n, 3, seed), usize::MAX).unwrap());
    let queries = Inputs::new(&network, &data(4, 3, 2), usize::MAX).unwrap();
    let theta = network.initial(3);
    let settings = RiskSettings::mean(0.1);
    let risks = [&train, &others].map(|inputs| EmpiricalRisk::new(&network, inputs, settings).unwrap());
    let operator = risks[0].operator(&theta, Curvature::Hessian, 0.1, usize::MAX);
    let solver = Cholesky { tolerance: 1e-9, memory_budget: usize::MAX };
    let solver = Solver::<Double>::prepare(&solver, &operator).unwrap();
    let replicas = [Replica {
        network: network.clone(),
        inputs: Arc::new(Inputs::new(&network, &data(n, 3, 9), usize::MAX).unwrap()),
    }];
    let rank = QueryRank::Rank(1);
    type Way<'a> = Box<dyn Fn(&'a EmpiricalRisk<'a, Double>) -> Influence<'a, Double> + 'a>;
    let ways: [Way; 3] = [
        Box::new(|risk| Influence::new(risk, &theta, &*solver)),
        Box::new(|risk| Influence::new(risk, &theta, &*solver).with_query_rank(rank).unwrap()),
        Box::new(|risk| Influence::of_identity(risk, &theta)),
    ];
    for way in ways {
        let scores = |influence: Influence<Double>| influence.scores(&queries, &()).unwrap().scores;
        let [own, other] = [&risks[0], &risks[1]].map(|risk| scores(way(risk)));
        let shared = scores(way(&risks[0]).with_replicas(&replicas));
        for (at, score) in shared.into_iter().enumerate() {
            assert_eq!(score, if at % n < block { own[at] } else { other[at] });
        }
    }
}
