//! The networks that benches measure, with their flops counted.

use if_linalg::testing::random;
use if_linalg::{Backend, Block};
use if_models::{Curvature, Dataset, HostArray, LayerSpec, Loss, ModelSpec, Network};
use ndarray::ArrayD;

use crate::matrix;

/// What one layer costs.
pub struct Cost {
    /// Multiply-adds through its weights, for an example.
    products: f64,
    /// Positions of its window; 1 of a dense layer.
    positions: f64,
    /// Whether its input depends on parameters.
    inner: bool,
}

/// A network to measure.
pub struct Case {
    /// For people.
    pub name: &'static str,
    /// Its layers.
    pub spec: ModelSpec,
    layers: Vec<Cost>,
}

fn dense(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Dense { name: name.into(), out, bias: true }
}

fn conv(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Conv2d { name: name.into(), out, kernel: 3, stride: 1, padding: 1, bias: true }
}

/// 784-256-128-10, relu.
pub fn mlp() -> Case {
    let layers = vec![
        LayerSpec::Flatten {},
        dense("0", 256),
        LayerSpec::Relu {},
        dense("2", 128),
        LayerSpec::Relu {},
        dense("4", 10),
    ];
    let costs = [(785 * 256, 1, false), (257 * 128, 1, true), (129 * 10, 1, true)];
    Case { name: "MLP 784-256-128-10", spec: spec(vec![1, 28, 28], layers), layers: costs.map(cost).into() }
}

/// Two convolutions of 16 and 32 planes with pools, and a dense layer.
pub fn cnn() -> Case {
    let pool = || LayerSpec::MaxPool { size: 2, stride: None, padding: 0 };
    let layers = vec![
        conv("0", 16),
        LayerSpec::Relu {},
        pool(),
        conv("3", 32),
        LayerSpec::Relu {},
        pool(),
        LayerSpec::Flatten {},
        dense("7", 10),
    ];
    let costs = [(10 * 16, 784, false), (145 * 32, 196, true), (1569 * 10, 1, true)];
    Case { name: "CNN 16-32", spec: spec(vec![1, 28, 28], layers), layers: costs.map(cost).into() }
}

/// 3072-1024-512-10, relu.
pub fn wide_mlp() -> Case {
    let layers =
        vec![dense("0", 1024), LayerSpec::Relu {}, dense("2", 512), LayerSpec::Relu {}, dense("4", 10)];
    let costs = [(3073 * 1024, 1, false), (1025 * 512, 1, true), (513 * 10, 1, true)];
    Case { name: "MLP 3072-1024-512-10", spec: spec(vec![3072], layers), layers: costs.map(cost).into() }
}

fn spec(input: Vec<usize>, layers: Vec<LayerSpec>) -> ModelSpec {
    ModelSpec { input, loss: Loss::CrossEntropy, layers }
}

fn cost((weights, positions, inner): (usize, usize, bool)) -> Cost {
    Cost { products: (weights * positions) as f64, positions: positions as f64, inner }
}

impl Case {
    /// Flops of one direction, activations at hand: forward along it, back to the weights, and where
    /// the input moves as well, once more for each of the two and back to the input (twice for the Hessian).
    pub fn direction(&self, curvature: Curvature) -> f64 {
        let each = |layer: &Cost| {
            let passes = match (layer.inner, curvature) {
                (false, _) => 2.0,
                (true, Curvature::Hessian) => 6.0,
                (true, Curvature::GaussNewton | Curvature::Fisher) => 4.0,
            };
            2.0 * passes * layer.products
        };
        self.layers.iter().map(each).sum()
    }

    /// Flops of the forward pass.
    pub fn forward(&self) -> f64 {
        self.layers.iter().map(|layer| 2.0 * layer.products).sum()
    }

    /// Flops of the gradients of all outputs.
    pub fn backward(&self) -> f64 {
        self.layers.iter().filter(|layer| layer.inner).map(|layer| 2.0 * layer.products).sum()
    }

    /// Flops of the scores of an example against `k` vectors, once its outputs' gradients are at hand: of a convolution
    /// with the gradient formed first, which is the cheapest way where there are more positions than weights of a plane.
    pub fn scores(&self, k: usize) -> f64 {
        let each = |layer: &Cost| {
            let gradient = if layer.positions > 1.0 { layer.products } else { 0.0 };
            2.0 * (gradient + k as f64 * layer.products / layer.positions)
        };
        self.layers.iter().map(each).sum()
    }

    /// `k` random vectors of its parameters.
    pub fn vectors<B: Backend>(&self, network: &Network<B>, k: usize, scale: f64) -> Block<B> {
        let p = network.layout().dim();
        let values: Vec<f64> = random(k * p, 3).into_iter().map(|v| scale * v).collect();
        Block::from_f64(network.backend(), network.layout(), &values)
    }

    /// `n` random examples that it takes.
    pub fn examples(&self, n: usize) -> Dataset {
        let shape: Vec<usize> = [n].into_iter().chain(self.spec.input.iter().copied()).collect();
        let pixels = matrix::<f32>(n, self.spec.input.iter().product(), 1);
        let x = ArrayD::from_shape_vec(shape, pixels).expect("as many numbers");
        Dataset::new(HostArray::F32(x), (0..n).map(|i| (i % 10) as f64).collect()).expect("finite features")
    }
}
