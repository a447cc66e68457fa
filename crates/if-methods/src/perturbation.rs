//! What a change of a training example's features does. Koh & Liang 2017, section 2.2, equation 5.
//!
//! With `s_q = A^-1 g_q`, example `i` at weight `1/n` (whatever removal means: nothing is removed) and `x_i` on its way to
//! `x_i + delta`:
//!
//! ```text
//! slope(q, i) = -(1/n) d/dx <grad_theta l(x_i, y_i), s_q>         as long as x_i
//! change of the loss of q = slope(q, i) . delta
//! ```
//!
//! Deviations:
//! 1. The published `I_pert,loss` lacks the `1/n`.

use if_linalg::{Backend, Observer, SolveReport};
use if_models::Inputs;

use crate::{Influence, MethodError};

impl<B: Backend> Influence<'_, B> {
    /// The slopes of the loss of every query in the features of each of `examples`, which are training examples; `take`
    /// gets a block of queries at a time: the position of the first, and `queries x examples x features`, row-major.
    /// Returns the certificates of all queries.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop, or the first error of `take`.
    ///
    /// ```
    /// use if_linalg::{Block, Cholesky, Cpu, Solver};
    /// use if_methods::{Influence, MethodError};
    /// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
    /// use if_models::{Network, NewtonCg, RiskSettings};
    ///
    /// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
    /// let data = Dataset::new(HostArray::F64(x), (0..40).map(|i| (i % 2) as f64).collect())?;
    /// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
    /// let train = Inputs::new(&network, &data, usize::MAX)?;
    /// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
    /// let start = Block::zeros(network.backend(), network.layout(), 1);
    /// let theta = NewtonCg::default().minimise(&risk, &start, &()).theta;
    /// let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    /// let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX }.prepare(&operator)?;
    ///
    /// let influence = Influence::new(&risk, &theta, &*solver);
    /// let [queries, examples] = [data.slice(0, 1), data.slice(5, 8)];
    /// let queries = Inputs::new(&network, &queries, usize::MAX)?;
    /// let examples = Inputs::new(&network, &examples, usize::MAX)?;
    /// influence.perturbation(&queries, &examples, &(), |_, slopes| {
    ///     println!("a unit more of feature 0 of example 5 changes the loss by {}", slopes[0]);
    ///     Ok::<(), MethodError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn perturbation<E: From<MethodError>>(
        &self,
        queries: &Inputs<B>,
        examples: &Inputs<B>,
        observer: &dyn Observer,
        mut take: impl FnMut(usize, &[f64]) -> Result<(), E>,
    ) -> Result<SolveReport, E> {
        let network = self.risk.network();
        let measured = network.with_loss(self.measure);
        self.each_block(&measured, queries, "perturbations", observer, |first, _, solution| {
            let mut slopes = network.mixed_products(examples, self.theta, &solution.x);
            let factor = -1.0 / self.risk.n() as f64;
            slopes.iter_mut().for_each(|slope| *slope *= factor);
            take(first, &slopes)
        })
    }
}
