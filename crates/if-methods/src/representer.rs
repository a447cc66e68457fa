//! Representer points: a prediction as a sum over training examples. Yeh, Kim, Yen & Ravikumar 2018.
//!
//! At an optimum of the last layer under `(l2/2) |theta|^2` its weights are combinations of the features `f_i` that go into
//! it (a one for the bias among them), and so is every output:
//!
//! ```text
//! alpha_i = -(w_i / l2) dl_i/dz              z(q) = sum_i alpha_i (f_i . f_q)
//! score(q, i) = alpha_i,y (f_i . f_q)        y the query's label
//! ```
//!
//! Positive means that the example argues for the query's label. With one output the score is that of the label's side.
//!
//! Deviations:
//! 1. Their `lambda |theta|^2` is `(l2/2) |theta|^2` here: `l2 = 2 lambda`.
//! 2. The last layer is taken as it is: how far its outputs are from their sum says how far it is from an optimum.

use if_linalg::{Backend, Block, Layout, Real};
use if_models::{EmpiricalRisk, Inputs, ModelError};

use crate::MethodError;

/// Representer values, and how far the decomposition is from the outputs.
#[derive(Clone, Debug)]
pub struct Representers {
    /// `queries x n`, row-major.
    pub scores: Vec<f64>,
    /// `|z - sum| / |z|` over the queries' outputs: 0 where the last layer is at its optimum.
    pub gap: f64,
}

/// Decomposes the outputs of `queries` over the training examples of `risk` at `theta`.
///
/// # Errors
/// A network whose last layer with parameters is not its last, is no dense layer, or has a bias that l2 spares; l2 = 0.
///
/// ```
/// use if_linalg::{Block, Cpu};
/// use if_methods::representers;
/// use if_models::{Dataset, EmpiricalRisk, HostArray, Inputs, Loss, Network, NewtonCg, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let data = Dataset::new(HostArray::F64(x), (0..40).map(|i| (i % 2) as f64).collect())?;
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
/// let start = Block::zeros(network.backend(), network.layout(), 1);
/// let theta = NewtonCg::default().minimise(&risk, &start, &()).theta;
/// let found = representers(&risk, &theta, &train)?;
/// assert!(found.gap < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn representers<B: Backend>(
    risk: &EmpiricalRisk<B>,
    theta: &Block<B>,
    queries: &Inputs<B>,
) -> Result<Representers, MethodError> {
    let (network, l2) = (risk.network(), risk.mean_l2());
    let (n, outputs) = (risk.n(), network.outputs());
    let biased = network.biases().last() == Some(&true);
    let last = network.layers().last().is_some_and(|layer| layer.is_dense());
    if !last || l2 <= 0.0 || (biased && !risk.regularises_bias()) {
        let text = "representer points need a dense last layer, l2 above 0 and a regularised bias".into();
        return Err(ModelError::Unsupported(text).into());
    }
    let name = network.last_layer().expect("a dense layer has parameters");
    let features = |inputs| -> Result<Block<B>, MethodError> {
        let block = network.layer_inputs(inputs, theta, name)?;
        if !biased {
            return Ok(block);
        }
        let width = block.layout().dim();
        let mut rows = Vec::with_capacity(block.k() * (width + 1));
        for row in block.to_rows().chunks_exact(width) {
            rows.extend_from_slice(row);
            rows.push(B::Elem::ONE);
        }
        Ok(Block::from_rows(block.backend(), &Layout::vector(width + 1), &rows))
    };
    let products = features(queries)?.gram(&features(risk.inputs())?);
    let delta = network.output_gradients(risk.inputs(), theta);
    let weights = risk.example_weights();
    let alpha = |i: usize, c: usize| -weights[i] / l2 * delta[i * outputs + c];
    let z = network.example_outputs(queries, theta);
    let [mut apart, mut size] = [0.0, 0.0];
    let mut scores = Vec::with_capacity(queries.len() * n);
    for (q, target) in queries.targets().into_iter().enumerate() {
        let row = &products[q * n..(q + 1) * n];
        for c in 0..outputs {
            let sum: f64 = row.iter().enumerate().map(|(i, product)| alpha(i, c) * product).sum();
            let z = z[q * outputs + c];
            (apart, size) = (apart + (z - sum).powi(2), size + z * z);
        }
        let (class, sign) = if outputs == 1 { (0, target) } else { (target as usize, 1.0) };
        scores.extend(row.iter().enumerate().map(|(i, product)| sign * alpha(i, class) * product));
    }
    Ok(Representers { scores, gap: (apart / size).sqrt() })
}
