//! Scores in factors, statistics of layers, and selections of layers, against explicit gradients and matrices.

use std::sync::Arc;

use crate::common::{assert_close, cpu, dense_network, few_positions, pictures, random_data, random_theta};
use if_linalg::testing::random;
use if_linalg::{Backend, Block, LinearOperator, SignStream, SymmetricMatrix};
use if_models::testing::check_network;
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LabelExpectation, LayerSpec, LayerVectors, Loss,
    ModelError, ModelSpec, Network, Projection, ProjectionKind, Replica, RiskSettings, Rows, ScoringWay,
    Signs,
};
use ndarray::ArrayD;

test_on_devices!(
    f64: inner_products_of_gradients_are_those_of_explicit_gradients,
    moments_multiply_to_the_gauss_newton_block_of_one_example, moments_are_means_over_all_examples,
    selected_layers_have_their_part_of_everything, frozen_layers_leave_nothing_behind_them,
    convolutions_with_few_positions_stay_in_factors, signs_are_as_if_they_were_kept,
    scores_of_several_devices_are_those_of_one,
);

fn at(matrix: &SymmetricMatrix, i: usize, j: usize) -> f64 {
    matrix.as_slice()[i * matrix.dim() + j]
}

fn dots(a: &[f64], b: &[f64], p: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(p).flat_map(|a| b.chunks(p).map(move |b| dot(a, b))).collect()
}

fn inner_products_of_gradients_are_those_of_explicit_gradients<B: Backend<Elem = f64>>(backend: &B) {
    let (network, theta, data) = pictures(backend, 9);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let p = network.layout().dim();
    let all = network.example_gradients(&inputs, &theta, Rows::Range(0, 9)).to_f64();
    let queries = [4, 1, 7];
    let chosen = network.example_gradients(&inputs, &theta, Rows::Indices(&queries));
    let expected = dots(&chosen.to_f64(), &all, p);
    let found = network.gradient_products(&inputs, &theta, (&inputs, Rows::Indices(&queries)));
    assert_close(&found, &expected, 1e-13);
    assert_close(&network.scores(&inputs, &theta, &chosen), &expected, 1e-13);
}

/// Row blocks shared by devices, as many as there are and more. Catches: examples that are left out or that come in
/// another order, scores of the wrong vector.
fn scores_of_several_devices_are_those_of_one<B: Backend<Elem = f64>>(backend: &B) {
    let n = 2 * B::ROW_BLOCK + 5;
    let model = || {
        let network = Network::linear(backend, 4, 3, true, Loss::CrossEntropy);
        let inputs = Inputs::new(&network, &random_data(n, 4, Loss::CrossEntropy, 3, 5), usize::MAX).unwrap();
        Replica { network, inputs: Arc::new(inputs) }
    };
    let Replica { network, inputs } = model();
    let theta = Block::from_f64(backend, network.layout(), &random(network.layout().dim(), 8));
    let v = Block::from_f64(backend, network.layout(), &random(2 * network.layout().dim(), 9));
    let whole = network.scores(&inputs, &theta, &v);
    let outer = network.gradient_vectors(&inputs, &theta, Rows::Indices(&[3, 0, 7]));
    let products = network.scores_of(&inputs, &theta, &outer);
    for others in 0..5 {
        let replicas: Vec<_> = (0..others).map(|_| model()).collect();
        assert!(network.scores_with(&replicas, &inputs, &theta, &v) == whole, "{others} others");
        assert!(network.scores_of_with(&replicas, &inputs, &theta, &outer) == products, "{others} others");
    }
}

/// Vectors of signs against the same numbers kept, layer after layer, more than are made together.
fn signs_are_as_if_they_were_kept<B: Backend<Elem = f64>>(backend: &B) {
    let (network, theta, data) = pictures(backend, 9);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let projection = Projection { kind: ProjectionKind::Rademacher, dim: 300, seed: 3 };
    let vectors = network.projection(projection, 1);
    let p = network.layout().dim();
    let mut kept = vec![f64::NAN; 300 * p];
    let mut offset = 0;
    for (s, segment) in network.layout().segments().iter().enumerate() {
        let LayerVectors::Signs(Signs { key, scale }) = vectors.layer(s) else {
            panic!("signs are not kept")
        };
        let size = segment.rows * segment.cols;
        for j in 0..300 * size {
            let minus = SignStream { key }.word(j as u64 / 64) >> (j % 64) & 1 == 1;
            kept[j / size * p + offset + j % size] = if minus { -scale } else { scale };
        }
        offset += size;
    }
    let all = network.example_gradients(&inputs, &theta, Rows::Range(0, 9)).to_f64();
    assert_close(&network.scores_of(&inputs, &theta, &vectors), &dots(&kept, &all, p), 1e-13);
}

/// Dense layers keep the gradients of queries in factors, convolutions with many positions do not.
#[test]
fn the_cheapest_way_is_taken() {
    let (network, theta, data) = pictures(&cpu(), 9);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let vectors = network.gradient_vectors(&inputs, &theta, Rows::Range(0, 5));
    let in_factors =
        (0..5).map(|s| matches!(vectors.layer(s), LayerVectors::Outer(factors) if factors.terms == 1));
    assert_eq!(in_factors.collect::<Vec<_>>(), [false, false, false, true, true]);
    let layer = |l: usize| &*network.layers()[l];
    // 16 positions, 2 x 10 weights: forming the gradient pays from the second vector on.
    assert_eq!(ScoringWay::cheapest(layer(0), 1, None), ScoringWay::Ghost);
    assert_eq!(ScoringWay::cheapest(layer(0), 2, None), ScoringWay::Materialised);
    assert_eq!(ScoringWay::cheapest(layer(7), 100, None), ScoringWay::Ghost);
    assert_eq!(ScoringWay::cheapest(layer(7), 100, Some(1)), ScoringWay::Pairwise);
}

/// With a single example the Gauss-Newton block of a layer with one term is exactly `G x A`.
fn moments_multiply_to_the_gauss_newton_block_of_one_example<B: Backend<Elem = f64>>(backend: &B) {
    for (loss, outputs) in [(Loss::CrossEntropy, 3), (Loss::Squared, 2), (Loss::Logistic, 1)] {
        let network = dense_network(backend, &[3, 2, outputs], true, loss);
        let (theta, data) = (random_theta(&network, 4), random_data(1, 3, loss, outputs, 5));
        check_kronecker(&network, &theta, &data);
    }
    // A convolution whose window covers the image has one position.
    let layers = vec![
        LayerSpec::Conv2d { name: "conv".into(), out: 2, kernel: 2, stride: 1, padding: 0, bias: true },
        LayerSpec::Tanh {},
        LayerSpec::Flatten {},
        LayerSpec::Dense { name: "fc".into(), out: 3, bias: false },
    ];
    let spec = ModelSpec { input: vec![2, 2, 2], loss: Loss::CrossEntropy, layers };
    let network = spec.build(backend).expect("the layers fit");
    let x = ArrayD::from_shape_vec(vec![1, 2, 2, 2], random(8, 3)).expect("as many numbers");
    let data = Dataset::new(HostArray::F64(x), vec![1.0]).expect("finite");
    check_kronecker(&network, &random_theta(&network, 4), &data);
}

fn check_kronecker<B: Backend<Elem = f64>>(network: &Network<B>, theta: &Block<B>, data: &Dataset) {
    let inputs = Inputs::new(network, data, usize::MAX).expect("the data fit");
    let risk = EmpiricalRisk::new(network, &inputs, RiskSettings::mean(0.0)).expect("in range");
    let dense = risk.operator(theta, Curvature::GaussNewton, 0.0, 0).to_dense();
    let mut start = 0;
    for moments in network.layer_moments(&inputs, theta, LabelExpectation::Exact) {
        assert_eq!(moments.terms, 1);
        let (rows, cols) = (moments.outputs.dim(), moments.inputs.dim());
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (i, j) in (0..rows * cols).flat_map(|i| (0..rows * cols).map(move |j| (i, j))) {
            let (g, a) = (at(&moments.outputs, i / cols, j / cols), at(&moments.inputs, i % cols, j % cols));
            found.push(g * a);
            expected.push(at(&dense, start + i, start + j));
        }
        assert_close(&found, &expected, 1e-12);
        start += rows * cols;
    }
    assert_eq!(start, network.layout().dim(), "every layer has moments");
}

/// Over several row blocks, the moments of a linear model are the means of explicit outer products.
fn moments_are_means_over_all_examples<B: Backend<Elem = f64>>(backend: &B) {
    let network = Network::linear(backend, 3, 2, true, Loss::CrossEntropy);
    let (theta, data) = (random_theta(&network, 4), random_data(1100, 3, Loss::CrossEntropy, 2, 5));
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let outputs = network.example_outputs(&inputs, &theta);
    let (mut a, mut g) = (vec![0.0; 16], vec![0.0; 4]);
    for (i, z) in outputs.chunks(2).enumerate() {
        let mut x = [1.0; 4];
        data.features().read_row(i, &mut x[..3]);
        let p = 1.0 / (1.0 + (z[1] - z[0]).exp());
        let signs = [1.0, -1.0];
        (0..16).for_each(|at| a[at] += x[at / 4] * x[at % 4] / 1100.0);
        (0..4).for_each(|at| g[at] += signs[at / 2] * signs[at % 2] * p * (1.0 - p) / 1100.0);
    }
    let moments = &network.layer_moments(&inputs, &theta, LabelExpectation::Exact)[0];
    assert_close(moments.inputs.as_slice(), &a, 1e-13);
    assert_close(moments.outputs.as_slice(), &g, 1e-13);

    // Sampled labels have the same expectation: 40 draws of 1,100 labels come within two percent.
    let mut mean = vec![0.0; 4];
    for seed in 0..40 {
        let sampled = &network.layer_moments(&inputs, &theta, LabelExpectation::Sampled { seed })[0];
        mean.iter_mut().zip(sampled.outputs.as_slice()).for_each(|(mean, v)| *mean += v / 40.0);
    }
    assert_close(&mean, &g, 0.02);
    let twice = [7, 7, 8].map(|seed| {
        network.layer_moments(&inputs, &theta, LabelExpectation::Sampled { seed })[0].outputs.clone()
    });
    assert!(twice[0] == twice[1] && twice[0] != twice[2], "labels follow from the seed");
}

fn selected_layers_have_their_part_of_everything<B: Backend<Elem = f64>>(backend: &B) {
    let (network, theta, data) = pictures(backend, 7);
    let names = ["second", "last"];
    let (part, chosen) = network.select(&theta, &names).expect("they exist");
    assert_eq!(part.last_layer(), Some("last"));
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    assert_eq!(part.example_outputs(&inputs, &chosen), network.example_outputs(&inputs, &theta));

    let segments = network.layout().segments();
    let positions: Vec<usize> = (0..segments.len())
        .filter(|s| names.contains(&segments[*s].name.as_str()))
        .flat_map(|s| (0..segments[s].rows * segments[s].cols).map(move |at| (s, at)))
        .map(|(s, at)| network.layout().start(s) + at)
        .collect();
    assert_eq!(positions.len(), part.layout().dim());
    for curvature in [Curvature::Hessian, Curvature::GaussNewton] {
        let dense = |network: &Network<B>, theta: &Block<B>| {
            let risk = EmpiricalRisk::new(network, &inputs, RiskSettings::mean(0.1)).expect("in range");
            risk.operator(theta, curvature, 0.0, 0).to_dense()
        };
        let (whole, own) = (dense(&network, &theta), dense(&part, &chosen));
        let pairs = || positions.iter().enumerate();
        let expected: Vec<f64> =
            pairs().flat_map(|(_, i)| pairs().map(|(_, j)| at(&whole, *i, *j)).collect::<Vec<_>>()).collect();
        let found: Vec<f64> =
            pairs().flat_map(|(i, _)| pairs().map(|(j, _)| at(&own, i, j)).collect::<Vec<_>>()).collect();
        assert_close(&found, &expected, 1e-12);
    }
    check_network(&part, &data, &chosen);

    let unknown = network.select(&theta, &["4"]).err();
    let known = "first, norm, second, third, last".to_owned();
    assert_eq!(unknown, Some(ModelError::UnknownLayer { name: "4".into(), known }));
}

fn frozen_layers_leave_nothing_behind_them<B: Backend<Elem = f64>>(backend: &B) {
    let (network, theta, data) = pictures(backend, 5);
    let (part, chosen) = network.select(&theta, &["last"]).expect("it exists");
    let inputs = Inputs::new(&part, &data, usize::MAX).expect("the data fit");
    let gradients = part.example_gradients(&inputs, &chosen, Rows::Range(0, 5));
    let all = network.example_gradients(&inputs, &theta, Rows::Range(0, 5));
    let own = host_rows(&all, network.layout().segments().len() - 1);
    assert_close(&gradients.to_f64(), &own, 1e-14);
}

fn host_rows<B: Backend<Elem = f64>>(block: &Block<B>, segment: usize) -> Vec<f64> {
    block.backend().download(block.segment(segment))
}

/// A convolution with few positions and many channels keeps gradients as several outer products.
fn convolutions_with_few_positions_stay_in_factors<B: Backend<Elem = f64>>(backend: &B) {
    let (network, theta, data) = few_positions(backend, 7);
    let inputs = Inputs::new(&network, &data, usize::MAX).expect("the data fit");
    let vectors = network.gradient_vectors(&inputs, &theta, Rows::Range(1, 4));
    assert!(matches!(vectors.layer(0), LayerVectors::Outer(factors) if factors.terms == 2));
    let p = network.layout().dim();
    let all = network.example_gradients(&inputs, &theta, Rows::Range(0, 7)).to_f64();
    let expected = dots(&all[p..5 * p], &all, p);
    assert_close(&network.scores_of(&inputs, &theta, &vectors), &expected, 1e-13);
}
