//! Data in, trained linear model out.

use anyhow::{Context as _, ensure};
use if_data::{Examples, LoadOptions};
use if_linalg::{Block, Cpu, Loss, Solver};
use if_methods::{Influence, Scores};
use if_models::{Curvature, Dataset, EmpiricalRisk, Fit, Inputs, Network, NewtonCg, RiskSettings};

use crate::Context;

/// Every experiment computes in double precision.
pub type F64 = Cpu<f64>;

/// The examples of `source`, such as `mnist:train[0..5500]`, from the data folder of `context`.
pub fn load(context: &Context, source: &str) -> anyhow::Result<Dataset> {
    let examples = examples(context, source)?;
    Ok(Dataset::new(examples.x, examples.y.to_f64())?.with_ids(examples.ids))
}

/// The same with the names of features.
pub fn examples(context: &Context, source: &str) -> anyhow::Result<Examples> {
    let options = LoadOptions { data_dir: context.data_dir().map(Into::into), ..LoadOptions::default() };
    if_data::load(&source.parse()?, &options).with_context(|| format!("loading {source}"))
}

/// The examples of two digits, in their order.
pub fn two_digits(data: &Dataset, [one, other]: [f64; 2]) -> Dataset {
    let labels = data.labels();
    data.select(&(0..data.len()).filter(|&i| labels[i] == one || labels[i] == other).collect::<Vec<_>>())
}

/// The same examples with label 1 where it was `one`, and 0 elsewhere.
pub fn binary(data: &Dataset, one: f64) -> Dataset {
    data.clone().with_labels(data.labels().iter().map(|&label| f64::from(u8::from(label == one))).collect())
}

/// A linear model with its training and test examples.
pub struct Problem {
    /// One dense layer.
    pub network: Network<F64>,
    /// Training examples as they were loaded.
    pub train_data: Dataset,
    /// Test examples as they were loaded.
    pub test_data: Dataset,
    /// Training examples as the network reads them.
    pub train: Inputs<F64>,
    /// Test examples as the network reads them.
    pub test: Inputs<F64>,
}

impl Problem {
    /// One dense layer of `outputs` outputs over the features of `train_data`.
    pub fn linear(
        train_data: Dataset,
        test_data: Dataset,
        (outputs, bias, loss): (usize, bool, Loss),
    ) -> anyhow::Result<Self> {
        let network = Network::linear(&F64::new(), train_data.width(), outputs, bias, loss);
        let train = Inputs::new(&network, &train_data, usize::MAX)?;
        let test = Inputs::new(&network, &test_data, usize::MAX)?;
        Ok(Self { network, train_data, test_data, train, test })
    }

    /// Logistic regression without bias of MNIST 4 (label 1) against 9: `n` training images drawn by `seed`, and all
    /// test images.
    pub fn four_or_nine(context: &Context, n: usize, seed: u64) -> anyhow::Result<Self> {
        let of = |split| anyhow::Ok(binary(&two_digits(&load(context, split)?, [4.0, 9.0]), 4.0));
        let train = of("mnist:train")?.shuffled(seed).slice(0, n);
        Self::linear(train, of("mnist:test")?, (1, false, Loss::Logistic))
    }

    /// The objective over all training examples.
    pub fn risk(&self, settings: RiskSettings) -> anyhow::Result<EmpiricalRisk<'_, F64>> {
        Ok(EmpiricalRisk::new(&self.network, &self.train, settings)?)
    }

    /// The test examples at `rows`, as queries.
    pub fn queries(&self, rows: &[usize]) -> anyhow::Result<Inputs<F64>> {
        Ok(Inputs::new(&self.network, &self.test_data.select(rows), usize::MAX)?)
    }
}

/// Newton's method on `risk` from `start` (zero where there is none) to a gradient of norm `tolerance`.
pub fn fit(
    risk: &EmpiricalRisk<'_, F64>,
    start: Option<&Block<F64>>,
    tolerance: f64,
) -> anyhow::Result<Fit<F64>> {
    let zero = Block::zeros(risk.network().backend(), risk.network().layout(), 1);
    let fit = newton(tolerance).minimise(risk, start.unwrap_or(&zero), &());
    let reached = fit.report.optimality;
    ensure!(
        fit.report.converged(),
        "training stopped at a gradient of norm {reached:.1e}, not {tolerance:.0e}"
    );
    Ok(fit)
}

/// Newton's method to a gradient of norm `tolerance`.
pub fn newton(tolerance: f64) -> NewtonCg {
    NewtonCg { gradient_tolerance: tolerance, ..NewtonCg::default() }
}

/// First-order influence of all training examples on `queries`.
///
/// # Errors
/// A solve that did not converge.
pub fn influence(
    context: &Context,
    risk: &EmpiricalRisk<'_, F64>,
    (queries, theta): (&Inputs<F64>, &Block<F64>),
    solver: &dyn Solver<F64>,
) -> anyhow::Result<Scores<f64>> {
    let hessian = risk.operator(theta, Curvature::Hessian, 0.0, usize::MAX);
    let prepared = solver.prepare(&hessian)?;
    let scores = Influence::new(risk, theta, &*prepared).scores(queries, context)?;
    ensure!(scores.report.all_converged(), "{}", scores.report.summary());
    Ok(scores)
}

/// Predicted change of the loss of query `q` without each of `examples`.
pub fn predicted(scores: &Scores<f64>, q: usize, examples: &[usize]) -> Vec<f64> {
    examples.iter().map(|&example| scores.loss_change(q, example).expect("scores predict changes")).collect()
}

/// The label that the model gives every example: the class of the largest output, or 1 where a single
/// output is positive and 0 elsewhere.
pub fn predict(network: &Network<F64>, inputs: &Inputs<F64>, theta: &Block<F64>) -> Vec<f64> {
    let outputs = network.example_outputs(inputs, theta);
    let label = |z: &[f64]| match z {
        [z] => f64::from(u8::from(*z > 0.0)),
        z => (0..z.len()).fold(0, |best, c| if z[c] > z[best] { c } else { best }) as f64,
    };
    outputs.chunks_exact(network.outputs()).map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::dataset;

    #[test]
    fn two_digits_keep_their_order_and_become_binary() {
        let digits = dataset(1, vec![0.0, 1.0, 2.0, 3.0], vec![9.0, 1.0, 4.0, 9.0]).unwrap();
        let some = two_digits(&digits, [4.0, 9.0]);
        assert_eq!((some.ids(), some.labels()), (&[0, 2, 3][..], &[9.0, 4.0, 9.0][..]));
        assert_eq!(binary(&some, 4.0).labels(), [0.0, 1.0, 0.0]);
    }
}
