//! The last layers on what frozen ones give, against the whole network.

use crate::common::{assert_close, cpu, pictures, random_theta};
use if_linalg::testing::random;
use if_linalg::{Block, Cpu, LinearOperator};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LayerSpec, Loss, ModelSpec, Network, RiskSettings,
    Unfrozen,
};
use ndarray::ArrayD;

type Double = Cpu<f64>;

/// Loss, gradient and Hessian.
fn numbers(network: &Network<Double>, inputs: &Inputs<Double>, theta: &Block<Double>) -> Vec<f64> {
    let risk = EmpiricalRisk::new(network, inputs, RiskSettings::mean(0.1)).unwrap();
    let (objective, gradient) = risk.gradient(theta);
    let hessian = risk.operator(theta, Curvature::Hessian, 0.0, 0).to_dense();
    let all = [vec![objective], gradient.to_f64(), hessian.as_slice().to_vec()].concat();
    [all, network.example_losses(inputs, theta)].concat()
}

/// Before and after two examples change.
fn check(network: &Network<Double>, theta: &Block<Double>, data: &Dataset, inputs: usize) {
    let mut rest = Unfrozen::new(network, theta, data).unwrap();
    assert_eq!(rest.network().inputs(), inputs);
    assert_eq!(rest.network().layout().segments(), network.layout().segments());
    let mut whole = Inputs::new(network, data, usize::MAX).unwrap();
    let before = numbers(network, &whole, theta);
    assert_close(&numbers(rest.network(), rest.inputs(), theta), &before, 1e-14);

    let width = data.width();
    let mut changed = Inputs::new(network, &data.select(&[4, 1]), usize::MAX).unwrap();
    for (j, i) in [4, 1].into_iter().enumerate() {
        let row = random(width, 20 + i as u64);
        whole.set_features(i, &row);
        changed.set_features(j, &row);
    }
    rest.set_examples(&[4, 1], &changed);
    let after = numbers(network, &whole, theta);
    assert!(after[0] != before[0]);
    assert_close(&numbers(rest.network(), rest.inputs(), theta), &after, 1e-14);
}

#[test]
fn the_rest_of_a_network_is_the_network() {
    let (network, theta, data) = pictures(&cpu(), 7);
    // A dense layer after the flat picture; a residual block after the third layer; all of it.
    for (names, inputs) in
        [(vec!["last"], 4), (vec!["third", "last"], 8), (vec!["second", "last"], 32), (vec!["first"], 16)]
    {
        let (part, chosen) = network.select(&theta, &names).unwrap();
        check(&part, &chosen, &data, inputs);
    }
}

/// The first layer that changes lies inside a residual block: what goes around it comes from before.
#[test]
fn a_skip_across_keeps_the_network_whole() {
    let conv = |name: &str| LayerSpec::Conv2d {
        name: name.into(),
        out: 2,
        kernel: 3,
        stride: 1,
        padding: 1,
        bias: true,
    };
    let layers = vec![
        LayerSpec::Residual { layers: vec![conv("a"), LayerSpec::Tanh {}, conv("b")] },
        LayerSpec::Flatten {},
        LayerSpec::Dense { name: "c".into(), out: 3, bias: true },
    ];
    let spec = ModelSpec { input: vec![2, 3, 3], loss: Loss::CrossEntropy, layers };
    let network = spec.build(&cpu()).unwrap();
    let x = ArrayD::from_shape_vec(vec![6, 2, 3, 3], random(6 * 18, 1)).unwrap();
    let data = Dataset::new(HostArray::F64(x), (0..6).map(|i| (i % 3) as f64).collect()).unwrap();
    let (part, chosen) = network.select(&random_theta(&network, 2), &["b", "c"]).unwrap();
    check(&part, &chosen, &data, 18);
}
