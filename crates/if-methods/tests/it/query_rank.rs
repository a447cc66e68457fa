//! Scores of truncated queries: within their bound, which is not far above the real error.

use if_linalg::testing::random;
use if_linalg::{Backend, Block, Cholesky, Cpu, Real, Solver};
use if_methods::{Influence, MethodError};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LayerSpec, Lbfgs, Loss, ModelError, ModelSpec,
    QueryRank, Removal, RiskSettings,
};
use ndarray::ArrayD;

const N: usize = 150;
/// More than one block of them.
const QUERIES: usize = 131;
const WIDTH: usize = 12;

fn data(n: usize, seed: u64) -> Dataset {
    let mut x = random(n * WIDTH, seed);
    let y: Vec<f64> = (0..n).map(|i| (i % 4) as f64).collect();
    x.chunks_mut(WIDTH).zip(&y).for_each(|(x, y)| x[*y as usize] += 0.8);
    Dataset::new(HostArray::F64(ArrayD::from_shape_vec(vec![n, WIDTH], x).unwrap()), y).unwrap()
}

/// Catches: an error of one layer left out of the bound or ranks and errors exchanged among layers, norms of other
/// examples, the penalty's share truncated or lost, results of later blocks lost.
fn check<B: Backend>(backend: &B, removal: Removal, rounding: f64) {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let layers = vec![dense("0", 16), LayerSpec::Tanh {}, dense("2", 10), LayerSpec::Tanh {}, dense("4", 4)];
    let spec = ModelSpec { input: vec![WIDTH], loss: Loss::CrossEntropy, layers };
    let network = spec.build(backend).unwrap();
    let [train, queries] =
        [(N, 1), (QUERIES, 2)].map(|(n, seed)| Inputs::new(&network, &data(n, seed), usize::MAX).unwrap());
    let settings = RiskSettings { removal, ..RiskSettings::mean(0.01) };
    let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
    let start = Block::from_f64(backend, network.layout(), &random(network.layout().dim(), 3));
    let lbfgs = Lbfgs { gradient_tolerance: 1e-4, max_iterations: 200, ..Lbfgs::default() };
    let theta = lbfgs.minimise(&risk, &start, &()).theta;
    let operator = risk.operator(&theta, Curvature::GaussNewton, 0.01, usize::MAX);
    let solver = Cholesky { tolerance: 1e-4, memory_budget: usize::MAX }.prepare(&operator).unwrap();
    let influence = Influence::new(&risk, &theta, &*solver);
    let exact = influence.scores(&queries, &()).unwrap();
    assert!(exact.truncations.is_none());

    let sizes = network.layout().segments().iter().map(|s| s.rows.min(s.cols)).collect::<Vec<_>>();
    for rank in [QueryRank::Rank(1), QueryRank::Rank(2), QueryRank::Tolerance(0.2), QueryRank::Rank(99)] {
        let truncated = influence.clone().with_query_rank(rank).unwrap().scores(&queries, &()).unwrap();
        let truncations = truncated.truncations.as_ref().unwrap();
        assert_eq!(truncations.len(), QUERIES);
        for (q, truncation) in truncations.iter().enumerate() {
            let largest = |f: &dyn Fn(usize) -> f64| (0..N).map(f).fold(0.0, f64::max);
            let (found, expected) = (truncated.row(q), exact.row(q));
            let error = largest(&|i| (found[i].to_f64() - expected[i].to_f64()).abs());
            let rounding = rounding * largest(&|i| expected[i].to_f64().abs());
            let bound = truncation.bound;
            assert!(error <= bound + rounding, "{rank:?}: off by {error:e}, bound {bound:e}");
            match rank {
                QueryRank::Rank(99) => assert_eq!((&truncation.ranks, bound), (&sizes, 0.0)),
                QueryRank::Rank(r) => {
                    assert_eq!(truncation.ranks, [r; 3]);
                    assert!(bound < 100.0 * error, "{rank:?}: off by {error:e} only, bound {bound:e}");
                }
                QueryRank::Tolerance(_) => {
                    assert!(
                        truncation.ranks.iter().zip(&sizes).all(|(rank, size)| (1..=*size).contains(rank))
                    );
                }
            }
        }
    }
}

#[test]
fn bounds_hold_and_are_not_far_above_the_errors() {
    for removal in [Removal::Fixed, Removal::Renormalised] {
        check(&Cpu::<f64>::new(), removal, 1e-12);
        check(&Cpu::<f32>::new(), removal, 1e-5);
    }
}

#[test]
fn a_rank_of_zero_is_refused() {
    let network = if_models::Network::linear(&Cpu::<f64>::new(), WIDTH, 4, true, Loss::CrossEntropy);
    let train = Inputs::new(&network, &data(N, 1), usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.01)).unwrap();
    let theta = Block::zeros(&Cpu::new(), network.layout(), 1);
    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let solver = Cholesky { tolerance: 1e-4, memory_budget: usize::MAX }.prepare(&operator).unwrap();
    let refused = Influence::new(&risk, &theta, &*solver).with_query_rank(QueryRank::Rank(0)).err();
    let expected = ModelError::Setting { name: "query rank", expected: "at least 1", found: 0.0 };
    assert_eq!(refused, Some(MethodError::Model(expected)));
}
