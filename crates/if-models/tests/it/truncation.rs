//! Truncated vectors: ranks, errors and bounds against matrices whose singular values are known.

use crate::common::{Double, assert_close, cpu, few_positions, mlp, pictures, random_data, random_theta};
use if_linalg::testing::random;
use if_linalg::{Backend, Block, Cpu, SymmetricMatrix};
use if_models::{
    Inputs, LayerSpec, LayerVectors, Loss, ModelError, ModelSpec, Network, QueryRank, Truncated,
};

/// `count` orthonormal vectors of length `n`, one after another.
fn orthonormal(n: usize, count: usize, seed: u64) -> Vec<f64> {
    let noise = random(n * n, seed);
    let symmetric = (0..n * n).map(|at| noise[at] + noise[at % n * n + at / n]).collect();
    SymmetricMatrix::from_rows(n, symmetric).eigen().1[..count * n].to_vec()
}

/// Vectors that have in every layer as many of the `values` as fit, as singular values, times `j + 1` in vector `j`.
fn with_singular_values<B: Backend>(network: &Network<B>, k: usize, values: &[f64]) -> Block<B> {
    let mut rows = Vec::new();
    for j in 0..k {
        for (s, segment) in network.layout().segments().iter().enumerate() {
            let (out, cols, seed) = (segment.rows, segment.cols, (100 * j + 10 * s) as u64);
            let small = out.min(cols);
            let (u, v) = (orthonormal(out, small, seed), orthonormal(cols, small, seed + 1));
            let number = |(o, c): (usize, usize)| -> f64 {
                let terms = values.iter().take(small).enumerate();
                terms.map(|(t, value)| (j + 1) as f64 * value * u[t * out + o] * v[t * cols + c]).sum()
            };
            rows.extend((0..out).flat_map(|o| (0..cols).map(move |c| (o, c))).map(number));
        }
    }
    Block::from_f64(network.backend(), network.layout(), &rows)
}

fn is_outer<B: Backend>(truncated: &Truncated<B>, s: usize) -> bool {
    matches!(truncated.vectors.layer(s), LayerVectors::Outer(_))
}

fn tail(values: &[f64], rank: usize) -> f64 {
    values[rank.min(values.len())..].iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// No score is off by more than its bound, and some by a good part of it.
fn check_bounds(
    network: &Network<Double>,
    inputs: &Inputs<Double>,
    theta: &Block<Double>,
    x: &Block<Double>,
    truncated: &Truncated<Double>,
) {
    let exact = network.scores(inputs, theta, x);
    let found = network.scores_of(inputs, theta, &truncated.vectors);
    let bounds = truncated.bounds(&network.layer_squared_norms(inputs, theta));
    let n = inputs.len();
    for ((exact, found), bound) in exact.chunks(n).zip(found.chunks(n)).zip(&bounds) {
        let largest = |f: &dyn Fn(usize) -> f64| (0..n).map(f).fold(0.0, f64::max);
        let error = largest(&|i| (exact[i] - found[i]).abs());
        let rounding = 1e-13 * largest(&|i| exact[i].abs());
        assert!(error <= bound + rounding, "off by {error:e}, bound {bound:e}");
        assert!(*bound < 100.0 * error + rounding, "off by {error:e} only, bound {bound:e}");
    }
}

const VALUES: [f64; 6] = [1.0, 0.5, 0.2, 0.05, 0.01, 1e-3];

#[test]
fn truncation_leaves_the_smaller_singular_values_out() {
    let network = mlp(&cpu(), &[30, 40, 25, 20], Loss::CrossEntropy);
    let theta = random_theta(&network, 4);
    let inputs = Inputs::new(&network, &random_data(60, 30, Loss::CrossEntropy, 20, 5), usize::MAX).unwrap();
    let x = with_singular_values(&network, 3, &VALUES);
    for rank in 1..=6 {
        let truncated = network.truncate(&x, QueryRank::Rank(rank));
        assert_eq!(truncated.ranks, [rank; 9]);
        assert!((0..3).all(|s| is_outer(&truncated, s)));
        for (at, error) in truncated.errors.iter().enumerate() {
            let size = (at / 3 + 1) as f64;
            assert!((error - size * tail(&VALUES, rank)).abs() < 1e-12 * size, "rank {rank}: {error:e}");
        }
        let kept = with_singular_values(&network, 3, &VALUES[..rank]);
        let found = network.scores_of(&inputs, &theta, &truncated.vectors);
        assert_close(&found, &network.scores(&inputs, &theta, &kept), 1e-9);
        check_bounds(&network, &inputs, &theta, &x, &truncated);
    }
    for tolerance in [0.9, 0.3, 0.1, 0.02, 1e-3, 1e-5, 1e-10] {
        let truncated = network.truncate(&x, QueryRank::Tolerance(tolerance));
        let size = tail(&VALUES, 0);
        let least = (0..=6).find(|r| tail(&VALUES, *r) <= tolerance * size).unwrap();
        assert_eq!(truncated.ranks, [least; 9], "tolerance {tolerance}");
        let allowed = |at: usize| tolerance * (at / 3 + 1) as f64 * size;
        assert!(truncated.errors.iter().enumerate().all(|(at, error)| *error <= allowed(at)));
        check_bounds(&network, &inputs, &theta, &x, &truncated);
    }
}

/// Below the root of rounding singular vectors are not told apart; the bound is no less true.
#[test]
fn bounds_hold_for_tiny_singular_values() {
    let network = mlp(&cpu(), &[30, 40, 25, 20], Loss::CrossEntropy);
    let theta = random_theta(&network, 4);
    let inputs = Inputs::new(&network, &random_data(60, 30, Loss::CrossEntropy, 20, 5), usize::MAX).unwrap();
    let x = with_singular_values(&network, 3, &[1.0, 1e-3, 1e-6, 1e-8, 1e-9, 1e-10, 1e-11]);
    for rank in 1..=7 {
        let truncated = network.truncate(&x, QueryRank::Rank(rank));
        check_bounds(&network, &inputs, &theta, &x, &truncated);
    }
    for tolerance in [1e-5, 1e-7, 1e-9, 1e-11] {
        let truncated = network.truncate(&x, QueryRank::Tolerance(tolerance));
        assert!(
            truncated
                .errors
                .iter()
                .enumerate()
                .all(|(at, e)| *e <= tolerance * (at / 3 + 1) as f64 * 1.00001)
        );
        check_bounds(&network, &inputs, &theta, &x, &truncated);
    }
}

/// Ranks differ among vectors, down to none at all.
#[test]
fn every_vector_has_its_own_rank() {
    let network = mlp(&cpu(), &[20, 15, 10], Loss::CrossEntropy);
    let theta = random_theta(&network, 4);
    let inputs = Inputs::new(&network, &random_data(20, 20, Loss::CrossEntropy, 10, 5), usize::MAX).unwrap();
    let mut x = Block::zeros(&cpu(), network.layout(), 3);
    x.set_row(0, &with_singular_values(&network, 1, &[1.0, 0.5, 0.2]), 0);
    x.set_row(2, &with_singular_values(&network, 1, &[3.0]), 0);
    let truncated = network.truncate(&x, QueryRank::Tolerance(1e-10));
    assert_eq!(truncated.ranks, [3, 3, 0, 0, 1, 1]);
    let found = network.scores_of(&inputs, &theta, &truncated.vectors);
    assert_close(&found, &network.scores(&inputs, &theta, &x), 1e-13);
    assert!(found[20..40].iter().all(|score| *score == 0.0));
    let nothing = network.truncate(&Block::zeros(&cpu(), network.layout(), 2), QueryRank::Tolerance(0.5));
    assert_eq!((nothing.ranks, nothing.errors), (vec![0; 4], vec![0.0; 4]));
}

#[test]
fn where_outer_products_are_dearer_a_layer_stays_whole_and_exact() {
    // 4 x 9 and 3 x 5 weights of dense layers; convolutions with 16 positions; batch normalisation.
    let (network, theta, data) = pictures(&cpu(), 9);
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let x = Block::from_f64(&cpu(), network.layout(), &random(5 * network.layout().dim(), 7));
    let truncated = network.truncate(&x, QueryRank::Rank(1));
    let outer: Vec<bool> = (0..5).map(|s| is_outer(&truncated, s)).collect();
    assert_eq!(outer, [false, false, false, true, true]);
    assert_eq!(truncated.ranks[..5], [2, 2, 2, 1, 1]);
    assert!(truncated.errors.chunks(5).all(|e| e[..3] == [0.0; 3] && e[3] > 0.0 && e[4] > 0.0));
    check_bounds(&network, &inputs, &theta, &x, &truncated);

    let whole = network.truncate(&x, QueryRank::Rank(100));
    assert!((0..5).all(|s| !is_outer(&whole, s)));
    assert_eq!(
        network.scores_of(&inputs, &theta, &whole.vectors),
        network.scores(&inputs, &theta, &x),
        "other bits"
    );
    assert_eq!(whole.bounds(&network.layer_squared_norms(&inputs, &theta)), [0.0; 5]);
}

/// A convolution with two positions; more weights than rows of its matrix.
#[test]
fn convolutions_are_truncated_where_it_pays() {
    let (network, theta, data) = few_positions(&cpu(), 7);
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let x = with_singular_values(&network, 4, &VALUES);
    let truncated = network.truncate(&x, QueryRank::Rank(2));
    assert!(is_outer(&truncated, 0));
    check_bounds(&network, &inputs, &theta, &x, &truncated);
}

#[test]
fn layer_norms_are_those_of_explicit_gradients() {
    let (network, theta, data) = pictures(&cpu(), 9);
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let gradients = network.example_gradients(&inputs, &theta, if_models::Rows::Range(0, 9));
    let squares = network.layer_squared_norms(&inputs, &theta);
    assert_eq!(squares.len(), 5);
    for (s, found) in squares.iter().enumerate() {
        let host = cpu().download(gradients.segment(s));
        let expected: Vec<f64> = host.chunks(host.len() / 9).map(|g| g.iter().map(|g| g * g).sum()).collect();
        assert_close(found, &expected, 1e-13);
    }
    let total: Vec<f64> = (0..9).map(|i| squares.iter().map(|s| s[i]).sum::<f64>().sqrt()).collect();
    assert_close(&network.gradient_norms(&inputs, &theta), &total, 1e-14);
}

/// The error is that of the factors as they are stored; a tolerance below their rounding leaves a layer whole.
#[test]
fn single_precision() {
    let layers = vec![LayerSpec::Dense { name: "fc".into(), out: 20, bias: true }];
    let spec = ModelSpec { input: vec![30], loss: Loss::CrossEntropy, layers };
    let network = spec.build(&Cpu::<f32>::new()).unwrap();
    let x = with_singular_values(&network, 2, &VALUES);
    let exact = network.truncate(&x, QueryRank::Rank(6));
    assert!(exact.errors.iter().all(|error| (1e-9..1e-6).contains(error)), "{:?}", exact.errors);
    let met = network.truncate(&x, QueryRank::Tolerance(1e-3));
    assert_eq!(met.ranks, [5, 5]);
    let impossible = network.truncate(&x, QueryRank::Tolerance(1e-9));
    assert!(!is_outer(&impossible, 0));
    assert_eq!((impossible.ranks, impossible.errors), (vec![20; 2], vec![0.0; 2]));
}

#[test]
fn numbers_that_are_not_finite_stay_what_they_are() {
    let network = mlp(&cpu(), &[20, 15, 10], Loss::CrossEntropy);
    let theta = random_theta(&network, 4);
    let inputs = Inputs::new(&network, &random_data(20, 20, Loss::CrossEntropy, 10, 5), usize::MAX).unwrap();
    let mut x = with_singular_values(&network, 2, &VALUES);
    x.fill_row(1, f64::NAN);
    let truncated = network.truncate(&x, QueryRank::Rank(1));
    let found = network.scores_of(&inputs, &theta, &truncated.vectors);
    assert_close(&found[..20], &network.scores(&inputs, &theta, &x)[..20], 1e-13);
    assert!(found[20..].iter().all(|score| score.is_nan()));
}

#[test]
fn ranks_and_tolerances_out_of_range_are_refused() {
    for wrong in [0.0, 1.0, -0.1, f64::NAN] {
        let error = QueryRank::Tolerance(wrong).validate().unwrap_err();
        assert!(matches!(error, ModelError::Setting { name: "query tolerance", .. }));
    }
    assert!(QueryRank::Rank(0).validate().is_err());
    assert_eq!(QueryRank::Rank(3).validate(), Ok(QueryRank::Rank(3)));
    assert_eq!(QueryRank::Tolerance(0.1).validate(), Ok(QueryRank::Tolerance(0.1)));
}
