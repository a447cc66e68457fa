//! Networks with tanh against values computed independently (`data/README.md`), every field to 1e-9.

use if_linalg::{Block, Cholesky, Cpu, LinearOperator, Loss, Solver};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, LayerSpec, ModelSpec, Network, RiskSettings, Rows,
    Tensors,
};
use if_tests::{Golden, relative_error};
use ndarray::ArrayD;

const TOLERANCE: f64 = 1e-9;

fn dense(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Dense { name: name.into(), out, bias: true }
}

fn build(input: &[usize], layers: Vec<LayerSpec>) -> Network<Cpu<f64>> {
    ModelSpec { input: input.to_vec(), loss: Loss::CrossEntropy, layers }.build(&Cpu::new()).unwrap()
}

/// Golden vectors of parameters (tensor after tensor, as PyTorch flattens them) in the network's order.
fn vectors(network: &Network<Cpu<f64>>, flat: &[f64]) -> Block<Cpu<f64>> {
    let p = network.layout().dim();
    let one = |flat: &[f64]| {
        let mut rest = flat;
        let tensors: Tensors = network
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let (own, after) = rest.split_at(shape.iter().product());
                rest = after;
                (name, ArrayD::from_shape_vec(shape, own.to_vec()).unwrap())
            })
            .collect();
        network.parameters(&tensors).unwrap().to_f64()
    };
    let rows: Vec<f64> = flat.chunks_exact(p).flat_map(one).collect();
    Block::from_f64(network.backend(), network.layout(), &rows)
}

fn check(name: &str, found: &[f64], expected: &[f64]) {
    let error = relative_error(found, expected);
    assert!(error < TOLERANCE, "{name} is off by {error:e}");
}

#[test]
fn mlp() {
    let layers = vec![dense("0", 12), LayerSpec::Tanh {}, dense("2", 8), LayerSpec::Tanh {}, dense("4", 4)];
    check_all(&Golden::read("tiny_mlp_tanh.npz"), build(&[10], layers));
}

#[test]
fn cnn() {
    let conv = |name: &str, out| LayerSpec::Conv2d {
        name: name.into(),
        out,
        kernel: 3,
        stride: 1,
        padding: 1,
        bias: true,
    };
    let pool = LayerSpec::MaxPool { size: 2, stride: None, padding: 0 };
    let layers = vec![
        conv("0", 3),
        LayerSpec::Tanh {},
        pool.clone(),
        conv("3", 4),
        LayerSpec::Tanh {},
        pool,
        LayerSpec::Flatten {},
        dense("7", 5),
    ];
    check_all(&Golden::read("tiny_cnn_tanh.npz"), build(&[1, 8, 8], layers));
}

fn check_all(golden: &Golden, network: Network<Cpu<f64>>) {
    let in_order = |name: &str| vectors(&network, &golden.values(name)).to_f64();
    let theta = vectors(&network, &golden.values("theta"));
    let x = ArrayD::from_shape_vec(golden.array("X").shape().to_vec(), golden.values("X")).unwrap();
    let data = Dataset::new(HostArray::F64(x), golden.values("y")).unwrap();
    let n = data.len();
    let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
    let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.0)).unwrap();

    check("logits", &network.example_outputs(&inputs, &theta), &golden.values("logits"));
    check("losses", &network.example_losses(&inputs, &theta), &golden.values("losses"));
    check("grad_x", &network.input_gradients(&inputs, &theta), &golden.values("grad_x"));
    let gradients = network.example_gradients(&inputs, &theta, Rows::Range(0, n));
    check("per_example_grad", &gradients.to_f64(), &in_order("per_example_grad"));
    check("mean_grad", &risk.gradient(&theta).1.to_f64(), &in_order("mean_grad"));

    let v = vectors(&network, &golden.values("V"));
    check("jvp_logits", &network.output_tangents(&inputs, &theta, &v), &golden.values("jvp_logits"));
    check("mixed_x", &network.mixed_products(&inputs, &theta, &v), &golden.values("mixed_x"));
    for (curvature, name) in [(Curvature::Hessian, "HV"), (Curvature::GaussNewton, "GGNV")] {
        let mut product = Block::zeros(network.backend(), network.layout(), v.k());
        risk.operator(&theta, curvature, 0.0, usize::MAX).apply(&v, &mut product);
        check(name, &product.to_f64(), &in_order(name));
    }
    // Where each parameter stands in the golden order.
    let p = network.layout().dim();
    let order = vectors(&network, &(0..p).map(|i| i as f64).collect::<Vec<_>>()).to_f64();
    let matrix = |name: &str| -> Vec<f64> {
        let rows = golden.values(name);
        let entry = |at: usize| rows[order[at / p] as usize * p + order[at % p] as usize];
        (0..p * p).map(entry).collect()
    };
    let matrices =
        [(Curvature::Hessian, "H"), (Curvature::GaussNewton, "GGN"), (Curvature::Fisher, "hess_emp_fisher")];
    for (curvature, name) in matrices {
        let dense = risk.operator(&theta, curvature, 0.0, usize::MAX).to_dense();
        check(name, dense.as_slice(), &matrix(name));
        if curvature == Curvature::Hessian {
            check("H_eigs", &dense.eigen().0, &golden.values("H_eigs"));
        }
    }
    let damped = risk.operator(&theta, Curvature::GaussNewton, golden.values("ggn_damp")[0], usize::MAX);
    let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX };
    let solution = solver.prepare(&damped).unwrap().solve(&gradients, &());
    assert!(solution.report.all_converged());
    check("ggn_ihvp", &solution.x.to_f64(), &in_order("ggn_ihvp_of_per_example_grad"));
}
