//! Networks through the kit, on every device: linear models with every loss, and deeper ones.

use std::sync::Arc;

use crate::common::{Square, Tanh, cpu, dense_network, random_data, random_theta};
use if_linalg::Backend;
use if_models::layer::Dense;
use if_models::testing::check_network;
use if_models::{Approximation, Dataset, HostArray, LayerSpec, Loss, ModelSpec, Network};
use ndarray::ArrayD;
use proptest::prelude::*;

test_on_devices!(
    f64: linear_models, two_linear_layers, several_row_blocks, one_wide_layer, many_features,
    bytes_and_other_shapes, small_networks_of_every_kind, networks_of_token_ids, residual_networks,
    networks_of_any_shape,
);

const LOSSES: [(Loss, usize); 11] = [
    (Loss::CrossEntropy, 3),
    (Loss::CrossEntropy, 2),
    (Loss::Logistic, 1),
    (Loss::Squared, 1),
    (Loss::Squared, 3),
    (Loss::Hinge, 1),
    (Loss::SmoothHinge { temperature: 0.3 }, 1),
    (Loss::LabelSmoothing { smoothing: 0.2 }, 3),
    (Loss::Logit, 3),
    (Loss::Margin, 3),
    (Loss::Margin, 1),
];

fn linear_models<B: Backend<Elem = f64>>(backend: &B) {
    for (loss, outputs) in LOSSES {
        for bias in [true, false] {
            let network = Network::linear(backend, 3, outputs, bias, loss);
            let data = random_data(11, 3, loss, outputs, 5);
            check_network(&network, &data, &random_theta(&network, 9));
        }
    }
}

fn two_linear_layers<B: Backend<Elem = f64>>(backend: &B) {
    for (loss, outputs) in LOSSES {
        for bias in [true, false] {
            let network = dense_network(backend, &[3, 2, outputs], bias, loss);
            let data = random_data(11, 3, loss, outputs, 5);
            check_network(&network, &data, &random_theta(&network, 9));
        }
    }
}

fn several_row_blocks<B: Backend<Elem = f64>>(backend: &B) {
    for (widths, loss) in
        [(vec![2, 2], Loss::CrossEntropy), (vec![2, 1], Loss::Logistic), (vec![1, 2, 2], Loss::CrossEntropy)]
    {
        let network = dense_network(backend, &widths, true, loss);
        let data = random_data(1050, widths[0], loss, widths[widths.len() - 1], 5);
        check_network(&network, &data, &random_theta(&network, 9));
    }
}

/// Directions are taken in groups of 256 / width: one at a time here.
fn one_wide_layer<B: Backend<Elem = f64>>(backend: &B) {
    let network = dense_network(backend, &[1, 150, 1], false, Loss::Logistic);
    let data = random_data(4, 1, Loss::Logistic, 1, 5);
    check_network(&network, &data, &random_theta(&network, 9));
}

/// More columns than one tile of the dense Hessian has.
fn many_features<B: Backend<Elem = f64>>(backend: &B) {
    let network = Network::linear(backend, 300, 1, true, Loss::Logistic);
    let data = random_data(9, 300, Loss::Logistic, 1, 5);
    check_network(&network, &data, &random_theta(&network, 9));
}

#[test]
fn layers_without_parameters() {
    let tanh = |width| Arc::new(Tanh { width });
    let dense = |name: &str, inputs, outputs| Arc::new(Dense::new(name, inputs, outputs, true));
    let loss = Loss::CrossEntropy;
    let networks = [
        Network::new(&cpu(), 3, vec![dense("0", 3, 2), tanh(2), dense("2", 2, 3)], loss),
        Network::new(&cpu(), 3, vec![tanh(3), dense("1", 3, 2), tanh(2), dense("3", 2, 3), tanh(3)], loss),
        Network::new(&cpu(), 3, vec![tanh(3), dense("1", 3, 3)], loss),
    ];
    for network in networks {
        check_network(&network, &random_data(9, 3, loss, 3, 5), &random_theta(&network, 9));
    }
}

/// One layer need not be a linear one.
#[test]
fn a_single_layer_with_curvature() {
    let square = Arc::new(Square(Dense::new("square", 3, 2, true)));
    let network = Network::new(&cpu(), 3, vec![square], Loss::CrossEntropy);
    let data = random_data(9, 3, Loss::CrossEntropy, 2, 5);
    check_network(&network, &data, &random_theta(&network, 9));
}

fn bytes_and_other_shapes<B: Backend<Elem = f64>>(backend: &B) {
    let pixels: Vec<u8> = (0..6 * 4).map(|i| (i * 37 % 256) as u8).collect();
    let x = HostArray::U8(ArrayD::from_shape_vec(vec![6, 2, 2], pixels).unwrap());
    let data = Dataset::new(x, vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0]).unwrap();
    let network = Network::linear(backend, 4, 1, true, Loss::Logistic);
    check_network(&network, &data, &random_theta(&network, 9));
}

/// Convolutions, pools and activations together, as a description builds them.
fn small_networks_of_every_kind<B: Backend<Elem = f64>>(backend: &B) {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let conv = |name: &str, out, padding| LayerSpec::Conv2d {
        name: name.into(),
        out,
        kernel: 2,
        stride: 1,
        padding,
        bias: true,
    };
    let max = LayerSpec::MaxPool { size: 2, stride: Some(1), padding: 0 };
    let mean = LayerSpec::AvgPool { size: 2, stride: None, padding: 1 };
    let gelu = LayerSpec::Gelu { approximate: Approximation::None };
    let lists = [
        vec![dense("0", 4), LayerSpec::Softplus {}, dense("2", 3)],
        vec![dense("0", 4), LayerSpec::Relu {}, dense("2", 3), LayerSpec::Selu {}, dense("4", 3)],
        vec![dense("0", 5), gelu, LayerSpec::Dropout {}, dense("2", 3)],
    ];
    for layers in lists {
        let spec = ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers };
        let network = spec.build(backend).unwrap();
        check_network(&network, &random_data(9, 3, Loss::CrossEntropy, 3, 5), &random_theta(&network, 9));
    }
    let lists = [
        vec![conv("0", 2, 1), LayerSpec::Tanh {}, max, LayerSpec::Flatten {}, dense("4", 2)],
        vec![mean, conv("1", 2, 1), LayerSpec::Sigmoid {}, conv("3", 2, 0), LayerSpec::GlobalAvgPool {}],
    ];
    for mut layers in lists {
        layers.push(LayerSpec::Flatten {});
        let spec = ModelSpec { input: vec![1, 3, 3], loss: Loss::CrossEntropy, layers };
        let network = spec.build(backend).unwrap();
        check_network(&network, &random_data(7, 9, Loss::CrossEntropy, 2, 5), &random_theta(&network, 9));
    }
}

/// Texts of up to 4 tokens out of 5: some repeat, some are missing, one text is empty.
fn networks_of_token_ids<B: Backend<Elem = f64>>(backend: &B) {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let bag = |dim| LayerSpec::EmbeddingBag { name: "emb".into(), vocab: 5, dim };
    let ids = [
        [0, 1, 2, 3],
        [4, 4, 4, -1],
        [-1, -1, -1, -1],
        [-1, 2, -1, 2],
        [3, -1, -1, -1],
        [0, 0, 1, 1],
        [2, 3, 0, -1],
    ];
    let ids = ids.iter().flatten().map(|id| f64::from(*id)).collect();
    let data = crate::common::dataset(4, ids, vec![0.0, 2.0, 1.0, 1.0, 0.0, 2.0, 0.0]);
    let lists = [
        vec![bag(3), dense("fc", 4), LayerSpec::Relu {}, dense("out", 3)],
        vec![LayerSpec::Dropout {}, bag(2), LayerSpec::Tanh {}, dense("out", 3)],
        // Linear in the parameters, but no dense layer.
        vec![bag(3)],
    ];
    for layers in lists {
        let network = ModelSpec { input: vec![4], loss: Loss::CrossEntropy, layers }.build(backend).unwrap();
        check_network(&network, &data, &random_theta(&network, 9));
    }
}

/// Skips from the input, around several layers, inside one another, and through batch normalisation.
fn residual_networks<B: Backend<Elem = f64>>(backend: &B) {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let block = |layers| LayerSpec::Residual { layers };
    let norm = |name: &str| LayerSpec::BatchNorm { name: name.into(), eps: 1e-5 };
    let lists = [
        vec![block(vec![dense("a", 3), LayerSpec::Tanh {}]), dense("z", 3)],
        vec![
            dense("a", 4),
            block(vec![norm("n"), LayerSpec::Tanh {}, block(vec![dense("b", 4), LayerSpec::Softplus {}])]),
            block(vec![LayerSpec::Sigmoid {}]),
            dense("z", 3),
        ],
        vec![block(vec![LayerSpec::Tanh {}]), dense("a", 3), norm("n"), block(vec![dense("z", 3)])],
    ];
    for layers in lists {
        let spec = ModelSpec { input: vec![3], loss: Loss::CrossEntropy, layers };
        let network = spec.build(backend).unwrap();
        check_network(&network, &random_data(9, 3, Loss::CrossEntropy, 3, 5), &random_theta(&network, 9));
    }
}

fn networks_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(
        n in 4usize..24, inputs in 1usize..5, hidden in proptest::option::of(1usize..4),
        which in 0usize..LOSSES.len(), bias: bool, seed in 0u64..1000,
    )| {
        let (loss, outputs) = LOSSES[which];
        let widths: Vec<usize> = [Some(inputs), hidden, Some(outputs)].into_iter().flatten().collect();
        let network = dense_network(backend, &widths, bias, loss);
        check_network(&network, &random_data(n, inputs, loss, outputs, seed), &random_theta(&network, seed + 1));
    });
}
