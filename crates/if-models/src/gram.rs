//! Linear models with one output and more parameters than examples, through the Gram matrix.
//!
//! The optimum lies in the span of the examples, `theta = X^T a`, so all is said by `K = X X^T`:
//!
//! ```text
//! z = K a         u = r + l2 a,  r_i = w_i l'_i         grad J = X^T u         |grad J|^2 = u^T K u
//! (X^T D X + l2 I)^-1 X^T u = X^T (u - S M^-1 S K u) / l2
//! D = S^2 = diag(w_i l''_i),     M = l2 I + S K S       (Woodbury)
//! ```
//!
//! A Newton step is exact and costs `n^3 / 3`, whatever the conditioning. Bags of words (p = 7,154,
//! n = 4,137, l2 = 1e-4) train in seconds, where conjugate gradients need thousands of products.

use if_linalg::{Backend, Block, CholeskyFactor, Observer, Real, SymmetricMatrix, View, ViewMut};

use crate::inputs::Inputs;
use crate::newton::{Fit, FitReport};
use crate::risk::EmpiricalRisk;
use crate::{ModelError, Network};

/// `K = X X^T` over all examples, biases included: computed once, used by every fit of these features.
pub struct Gram {
    n: usize,
    /// All of the symmetric matrix.
    k: Vec<f64>,
    cols: usize,
}

/// Newton's method in the span of the examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GramNewton {
    /// Norm of the gradient of the objective (in units of the mean loss) to reach.
    pub gradient_tolerance: f64,
    /// Newton steps at most.
    pub max_iterations: usize,
}

impl Default for GramNewton {
    fn default() -> Self {
        Self { gradient_tolerance: 1e-8, max_iterations: 100 }
    }
}

impl Gram {
    /// Multiplies the examples with each other: `n^2 p` multiplications, `8 n^2` bytes.
    ///
    /// # Errors
    /// A network that is not one dense layer with one output.
    pub fn new<B: Backend>(network: &Network<B>, inputs: &Inputs<B>) -> Result<Self, ModelError> {
        if !network.is_linear() || network.outputs() != 1 {
            return Err(ModelError::Unsupported(
                "the Gram matrix stands for models of one dense layer with one output".into(),
            ));
        }
        let (n, cols, backend) = (inputs.len(), network.layout().dim(), network.backend());
        let strips = backend.map(inputs.blocks(), |b| {
            let batch = inputs.batch(inputs.block(b));
            let mut strip = Vec::new();
            for other in (0..=b).map(|other| inputs.batch(inputs.block(other))) {
                let mut tile = backend.zeros(batch.rows * other.rows);
                let (x, y) = (batch.x().col_range(0, cols), other.x().col_range(0, cols));
                backend.gemm(1.0, x, y.t(), 0.0, ViewMut::new(&mut tile, 0, batch.rows, other.rows));
                strip.push((other.rows, backend.download(View::new(&tile, 0, batch.rows, other.rows))));
            }
            strip
        });
        let mut k = vec![0.0; n * n];
        for (b, strip) in strips.into_iter().enumerate() {
            for (other, (width, tile)) in strip.into_iter().enumerate() {
                for (at, value) in tile.into_iter().enumerate() {
                    let (i, j) = (b * B::ROW_BLOCK + at / width, other * B::ROW_BLOCK + at % width);
                    k[i * n + j] = value.to_f64();
                    k[j * n + i] = value.to_f64();
                }
            }
        }
        Ok(Self { n, k, cols })
    }

    /// `x_i^T (H + l2 I)^-1 x_i` of every example, with `H` the Hessian of the data term of `risk` at
    /// `theta`; times `l'_i^2` it is the self-influence, times `w_i l''_i` the leverage.
    ///
    /// # Errors
    /// Another data set than the one multiplied, l2 = 0, or an unregularised bias.
    pub fn inverse_forms<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
    ) -> Result<Vec<f64>, ModelError> {
        let problem = Problem::new(self, risk)?;
        let state = problem.at(risk.network().example_outputs(risk.inputs(), theta));
        let (n, backend) = (self.n, risk.network().backend());
        let factor = problem.factor(&state.s);
        let forms = backend.map(risk.inputs().blocks(), |b| {
            let rows = b * B::ROW_BLOCK..n.min((b + 1) * B::ROW_BLOCK);
            let weighted = |i: usize| self.row(i).iter().zip(&state.s).map(|(k, s)| k * s);
            let mut solved: Vec<f64> = rows.clone().flat_map(weighted).collect();
            factor.solve(&mut solved);
            let form = |(i, x): (usize, &[f64])| {
                let taken: f64 = weighted(i).zip(x).map(|(k, x)| k * x).sum();
                (self.row(i)[i] - taken) / problem.l2
            };
            rows.zip(solved.chunks_exact(n)).map(form).collect::<Vec<f64>>()
        });
        Ok(forms.concat())
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.k[i * self.n..(i + 1) * self.n]
    }

    fn times<B: Backend>(&self, backend: &B, a: &[f64]) -> Vec<f64> {
        let dot = |row: &[f64]| -> f64 { row.iter().zip(a).map(|(k, a)| k * a).sum() };
        let blocks = backend.map(self.n.div_ceil(B::ROW_BLOCK), |b| {
            let rows = b * B::ROW_BLOCK..self.n.min((b + 1) * B::ROW_BLOCK);
            rows.map(|i| dot(self.row(i))).collect::<Vec<f64>>()
        });
        blocks.concat()
    }
}

impl GramNewton {
    /// Minimises `risk` from the coefficients `a` of `theta = X^T a` (empty: zero), which come back as
    /// those of the optimum.
    ///
    /// # Errors
    /// Another data set than that of `gram`, l2 = 0, or an unregularised bias.
    pub fn minimise<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        gram: &Gram,
        a: &mut Vec<f64>,
        observer: &dyn Observer,
    ) -> Result<Fit<B>, ModelError> {
        let problem = Problem::new(gram, risk)?;
        let backend = risk.network().backend();
        a.resize(gram.n, 0.0);
        let mut state = problem.at(gram.times(backend, a));
        let mut objective = problem.objective(&state, a);
        let mut iterations = 0;
        let norm = loop {
            let u: Vec<f64> = state.r.iter().zip(a.iter()).map(|(r, a)| r + problem.l2 * a).collect();
            let ku = gram.times(backend, &u);
            let norm = dot(&u, &ku).max(0.0).sqrt();
            if norm <= self.gradient_tolerance || iterations >= self.max_iterations || observer.cancelled() {
                break norm;
            }
            let step = problem.step(&state, &u, &ku);
            let dz = gram.times(backend, &step);
            // grad J . d theta = u^T K step.
            let slope = dot(&u, &dz);
            let Some(t) = problem.search(a, &state, (&step, &dz), (objective, slope)) else { break norm };
            a.iter_mut().zip(&step).for_each(|(a, step)| *a += t * step);
            state = problem.at(state.z.iter().zip(&dz).map(|(z, dz)| z + t * dz).collect());
            objective = problem.objective(&state, a);
            iterations += 1;
        };
        let report =
            FitReport { objective, optimality: norm, tolerance: self.gradient_tolerance, iterations };
        Ok(Fit { theta: combination(risk, gram.cols, a), report })
    }
}

/// A risk in terms of the outputs `z` of its examples.
struct Problem<'a> {
    gram: &'a Gram,
    loss: crate::Loss,
    y: Vec<f64>,
    w: Vec<f64>,
    l2: f64,
}

/// Outputs of the examples and what follows from them.
struct State {
    z: Vec<f64>,
    /// `w_i l_i`, summed.
    data: f64,
    /// `w_i l'_i`.
    r: Vec<f64>,
    /// `sqrt(w_i l''_i)`.
    s: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new<B: Backend>(gram: &'a Gram, risk: &EmpiricalRisk<B>) -> Result<Self, ModelError> {
        let spared = !risk.regularises_bias() && risk.network().biases().contains(&true);
        let l2 = risk.mean_l2();
        if (risk.n(), risk.network().layout().dim()) != (gram.n, gram.cols)
            || l2 <= 0.0
            || spared
            || !risk.is_plain()
        {
            return Err(ModelError::Unsupported(
                "the Gram matrix serves its own examples, with l2 > 0 and a regularised bias".into(),
            ));
        }
        let (loss, y, w) = (risk.network().loss(), risk.inputs().targets(), risk.example_weights());
        Ok(Self { gram, loss, y, w, l2 })
    }

    fn at(&self, z: Vec<f64>) -> State {
        let (mut data, mut r, mut s) = (0.0, Vec::with_capacity(z.len()), Vec::with_capacity(z.len()));
        for ((z, y), w) in z.iter().zip(&self.y).zip(&self.w) {
            let [value, first, second] = self.loss.scalar(*z, *y);
            data += w * value;
            r.push(w * first);
            s.push((w * second).sqrt());
        }
        State { z, data, r, s }
    }

    fn objective(&self, state: &State, a: &[f64]) -> f64 {
        state.data + 0.5 * self.l2 * dot(a, &state.z)
    }

    /// `M = l2 I + S K S`, factored; l2 > 0 keeps it positive.
    fn factor(&self, s: &[f64]) -> CholeskyFactor {
        let rows = self.gram.k.chunks_exact(self.gram.n).zip(s);
        let scaled = rows.flat_map(|(row, si)| row.iter().zip(s).map(move |(k, sj)| si * k * sj));
        let mut m = SymmetricMatrix::from_rows(self.gram.n, scaled.collect());
        m.add_diagonal(self.l2);
        m.cholesky().expect("a positive semidefinite matrix plus l2 I is positive definite")
    }

    /// Coefficients of the Newton step.
    fn step(&self, state: &State, u: &[f64], ku: &[f64]) -> Vec<f64> {
        let mut solved: Vec<f64> = state.s.iter().zip(ku).map(|(s, ku)| s * ku).collect();
        self.factor(&state.s).solve(&mut solved);
        let each = u.iter().zip(&state.s).zip(&solved);
        each.map(|((u, s), x)| -(u - s * x) / self.l2).collect()
    }

    /// The largest `t = 1, 1/2, 1/4, ...` that lowers the objective as Armijo asks; 1 where its
    /// differences drown in rounding.
    fn search(
        &self,
        a: &[f64],
        state: &State,
        (step, dz): (&[f64], &[f64]),
        (objective, slope): (f64, f64),
    ) -> Option<f64> {
        let rounding = 10.0 * f64::EPSILON * objective.abs();
        if slope.abs() < rounding {
            return Some(1.0);
        }
        (0..40).map(|halvings| 0.5f64.powi(halvings)).find(|&t| {
            let move_by =
                |x: &[f64], d: &[f64]| x.iter().zip(d).map(|(x, d)| x + t * d).collect::<Vec<f64>>();
            let value = self.objective(&self.at(move_by(&state.z, dz)), &move_by(a, step));
            value <= objective + 1e-4 * t * slope + rounding
        })
    }
}

/// `X^T a`.
fn combination<B: Backend>(risk: &EmpiricalRisk<B>, cols: usize, a: &[f64]) -> Block<B> {
    let (inputs, backend) = (risk.inputs(), risk.network().backend());
    let mut theta = Block::zeros(backend, risk.network().layout(), 1);
    for b in 0..inputs.blocks() {
        let batch = inputs.batch(inputs.block(b));
        let part: Vec<B::Elem> =
            a[b * B::ROW_BLOCK..][..batch.rows].iter().map(|a| B::Elem::from_f64(*a)).collect();
        let part = backend.upload(&part);
        let x = batch.x().col_range(0, cols);
        backend.gemm(1.0, View::new(&part, 0, 1, batch.rows), x, 1.0, theta.stacked_mut(0, 0, 1));
    }
    theta
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Curvature, Dataset, HostArray, Loss, NewtonCg, RiskSettings, Rows};
    use if_linalg::{Cholesky, Cpu, Solver};

    /// Fewer examples than parameters, two of them equal, so that K is singular.
    fn data(scale: f64) -> Dataset {
        let x = ndarray::ArrayD::from_shape_fn(vec![530, 600], |i| {
            scale * ((i[0].min(528) * (3 + i[1])) as f64).sin()
        });
        Dataset::new(HostArray::F64(x), (0..530).map(|i| f64::from(u8::from(i % 3 == 0))).collect()).unwrap()
    }

    #[test]
    fn the_same_optimum_and_forms_as_in_parameters() {
        let (data, bias) = (data(1.0), true);
        let network = Network::linear(&Cpu::<f64>::new(), 600, 1, bias, Loss::Logistic);
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(1e-2)).unwrap();
        let gram = Gram::new(&network, &train).unwrap();
        let trainer = GramNewton { gradient_tolerance: 1e-12, ..GramNewton::default() };
        let mut a = Vec::new();
        let fit = trainer.minimise(&risk, &gram, &mut a, &()).unwrap();
        assert!(fit.report.converged(), "{:?}", fit.report);
        assert!(risk.gradient(&fit.theta).1.norms()[0] < 1e-11);
        let start = Block::zeros(network.backend(), network.layout(), 1);
        let newton = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() };
        let mut difference = newton.minimise(&risk, &start, &()).theta;
        difference.axpby(-1.0, &fit.theta, 1.0);
        assert!(difference.norms()[0] < 1e-9);
        assert!(trainer.minimise(&risk, &gram, &mut a, &()).unwrap().report.iterations == 0);

        let hessian = risk.operator(&fit.theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX }.prepare(&hessian).unwrap();
        let gradients = network.example_gradients(&train, &fit.theta, Rows::Range(500, 30));
        let own = solver.solve(&gradients, &()).x.dots(&gradients);
        let outputs = network.example_outputs(&train, &fit.theta);
        let forms = gram.inverse_forms(&risk, &fit.theta).unwrap();
        for (i, own) in (500..530).zip(own) {
            let first = Loss::Logistic.scalar(outputs[i], train.targets()[i])[1];
            assert!((own / (first * first * forms[i]) - 1.0).abs() < 1e-9, "example {i}");
        }
    }

    #[test]
    fn large_features_do_not_throw_it_off() {
        let data = data(300.0);
        let network = Network::linear(&Cpu::<f64>::new(), 600, 1, false, Loss::Logistic);
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(1e-4)).unwrap();
        let gram = Gram::new(&network, &train).unwrap();
        let fit = GramNewton::default().minimise(&risk, &gram, &mut Vec::new(), &()).unwrap();
        assert!(fit.report.converged(), "{:?}", fit.report);
    }

    #[test]
    fn what_it_cannot_do_is_said() {
        let data = data(1.0);
        let network = Network::linear(&Cpu::<f64>::new(), 600, 1, false, Loss::Logistic);
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let gram = Gram::new(&network, &train).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.0)).unwrap();
        assert!(GramNewton::default().minimise(&risk, &gram, &mut Vec::new(), &()).is_err());
        let wide = Network::linear(&Cpu::<f64>::new(), 600, 2, false, Loss::CrossEntropy);
        assert!(Gram::new(&wide, &train).is_err());
    }
}
