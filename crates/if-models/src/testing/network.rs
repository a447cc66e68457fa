//! Checks of a whole network and of the objective on top of it.

use if_linalg::testing::{check_operator, random};
use if_linalg::{Backend, Block, FiniteSumOperator, HostArray, LinearOperator, Loss, by_columns, sigmoid};
use ndarray::ArrayD;

use super::{DIFFERENCE, ROUNDING, close, difference, dot, near, plus, same_bits};
use crate::{Curvature, CurvatureOperator, Dataset, EmpiricalRisk, Family, Inputs, Network, Removal};
use crate::{RiskSettings, Rows};

/// Checks everything a network and its [`EmpiricalRisk`] offer, against explicit matrices: so the
/// network should have at most a hundred or so parameters, and `data` at least four examples (more
/// than [`ROW_BLOCK`](if_linalg::Backend::ROW_BLOCK) to reach the sums over row blocks).
///
/// - Examples: gradients against central differences of the losses, tangents and input gradients
///   likewise (the latter zero where examples are token ids); scores and norms against the explicit
///   gradients, for 1, 3 and 33 vectors.
/// - Objectives (both families, both removals, bias regularised or not): value and gradient against
///   the sum over explicit examples; the Hessian against central differences of the gradient; the
///   Gauss-Newton matrix against `sum w_i J_i^T (d2 l / dz2) J_i + l2 + damping`.
/// - Operators: symmetric, linear, equal to their dense matrix, and over batches of indices.
/// - The same bits for inputs streamed or resident, activations kept or not, and any number of threads.
///
/// # Panics
/// On the first property that does not hold.
pub fn check_network<B: Backend<Elem = f64>>(network: &Network<B>, data: &Dataset, theta: &Block<B>) {
    assert!(data.len() >= 4, "the checks remove two examples and need more than two to stay");
    let check = Check::new(network, data, theta);
    check.check_outputs();
    check.check_examples();
    check.check_input_gradients();
    for case in cases(data.len()) {
        check.check_objective(&case);
        check.check_curvature(&case);
        check.check_batches(&case);
    }
    check.check_bits();
}

/// An objective, and its constants written out.
struct Case {
    settings: RiskSettings,
    removed: Vec<usize>,
    damping: f64,
    /// Weight of every example that stays.
    weight: f64,
    /// l2 in units of the mean.
    mean_l2: f64,
    /// Whether biases have l2.
    on_bias: bool,
}

fn cases(n: usize) -> Vec<Case> {
    let settings =
        |family, removal, l2, regularise_bias| RiskSettings { family, removal, l2, regularise_bias };
    let (count, removed) = (n as f64, vec![0, n / 2]);
    let sum = settings(Family::Sum, Removal::Fixed, 0.2 * count, true);
    let renormalised = settings(Family::Mean, Removal::Renormalised, 0.3, false);
    let mean = RiskSettings::mean(0.4);
    let case = |settings, removed: &[usize], damping, weight, mean_l2, on_bias| Case {
        settings,
        removed: removed.to_vec(),
        damping,
        weight,
        mean_l2,
        on_bias,
    };
    vec![
        case(RiskSettings::mean(0.0), &[], 0.0, 1.0 / count, 0.0, true),
        case(mean, &removed, 0.7, 1.0 / count, 0.4, true),
        case(renormalised, &removed, 0.05, 1.0 / (count - 2.0), 0.3, false),
        case(sum, &removed, 0.0, 1.0 / count, 0.2, false),
    ]
}

struct Check<'a, B: Backend> {
    network: &'a Network<B>,
    data: &'a Dataset,
    theta: &'a Block<B>,
    inputs: Inputs<B>,
    /// Explicit gradients, `n x p`.
    gradients: Vec<f64>,
}

impl<'a, B: Backend<Elem = f64>> Check<'a, B> {
    fn new(network: &'a Network<B>, data: &'a Dataset, theta: &'a Block<B>) -> Self {
        let inputs = Inputs::new(network, data, usize::MAX).expect("the data fit the network");
        let gradients = network.example_gradients(&inputs, theta, Rows::Range(0, data.len())).to_f64();
        Self { network, data, theta, inputs, gradients }
    }

    fn n(&self) -> usize {
        self.data.len()
    }

    fn p(&self) -> usize {
        self.network.layout().dim()
    }

    fn block(&self, rows: &[f64]) -> Block<B> {
        Block::from_f64(self.network.backend(), self.network.layout(), rows)
    }

    fn vectors(&self, k: usize, seed: u64) -> Block<B> {
        self.block(&random(k * self.p(), seed))
    }

    /// `theta + h v`.
    fn moved(&self, h: f64, v: &[f64]) -> Block<B> {
        self.block(&plus(&self.theta.to_f64(), h, v))
    }

    fn unit(&self, i: usize) -> Vec<f64> {
        (0..self.p()).map(|j| f64::from(u8::from(i == j))).collect()
    }

    /// `dz/dtheta` of every example, `p x n x outputs`.
    fn jacobian(&self) -> Vec<f64> {
        let identity: Vec<f64> = (0..self.p()).flat_map(|i| self.unit(i)).collect();
        self.network.output_tangents(&self.inputs, self.theta, &self.block(&identity))
    }

    fn check_outputs(&self) {
        let jacobian = self.jacobian();
        let each = self.n() * self.network.outputs();
        for (i, column) in jacobian.chunks(each).enumerate() {
            let e = self.unit(i);
            let by_difference =
                difference(|h| self.network.example_outputs(&self.inputs, &self.moved(h, &e)));
            near(column, &by_difference, "tangents against differences of the outputs");
        }
        for k in [1, 3, 33] {
            let v = self.vectors(k, 3);
            let tangents = self.network.output_tangents(&self.inputs, self.theta, &v);
            for (v, tangent) in v.to_f64().chunks(self.p()).zip(tangents.chunks(each)) {
                let mut expected = vec![0.0; each];
                jacobian.chunks(each).zip(v).for_each(|(column, v)| expected = plus(&expected, *v, column));
                close(tangent, &expected, ROUNDING, "tangents against the Jacobian");
            }
        }
    }

    fn check_examples(&self) {
        for i in 0..self.p() {
            let e = self.unit(i);
            let losses = |h| self.network.example_losses(&self.inputs, &self.moved(h, &e));
            let column: Vec<f64> = self.gradients.chunks(self.p()).map(|g| g[i]).collect();
            near(&column, &difference(losses), "example gradients against differences of losses");
        }
        let backwards: Vec<usize> = (0..self.n()).rev().collect();
        let gathered = self.network.example_gradients(&self.inputs, self.theta, Rows::Indices(&backwards));
        let expected: Vec<f64> = self.gradients.chunks(self.p()).rev().flatten().copied().collect();
        close(&gathered.to_f64(), &expected, ROUNDING, "example gradients by index");
        let norms: Vec<f64> = self.gradients.chunks(self.p()).map(super::norm).collect();
        close(&self.network.gradient_norms(&self.inputs, self.theta), &norms, ROUNDING, "gradient norms");
        for k in [1, 3, 33] {
            let v = self.vectors(k, 4);
            let dots = |v: &[f64]| self.gradients.chunks(self.p()).map(|g| dot(g, v)).collect::<Vec<_>>();
            let expected: Vec<f64> = v.to_f64().chunks(self.p()).flat_map(dots).collect();
            let scores = self.network.scores(&self.inputs, self.theta, &v);
            close(&scores, &expected, ROUNDING, "scores against example gradients");
        }
    }

    fn check_input_gradients(&self) {
        let features = host_features(self.data);
        let width = self.network.inputs();
        let gradients = self.network.input_gradients(&self.inputs, self.theta);
        let v = self.vectors(2, 8);
        let mixed = self.network.mixed_products(&self.inputs, self.theta, &v);
        if self.network.vocabulary().is_some() {
            let n = self.n() * width;
            close(&gradients, &vec![0.0; n], 0.0, "input gradients at token ids");
            close(&mixed, &vec![0.0; 2 * n], 0.0, "mixed products at token ids");
            return;
        }
        for feature in 0..width {
            let losses = |h| {
                let mut moved = features.clone();
                moved.chunks_mut(width).for_each(|row| row[feature] += h);
                let data = with_features(self.data, moved);
                let inputs = Inputs::new(self.network, &data, usize::MAX).expect("same shape");
                self.network.example_losses(&inputs, self.theta)
            };
            let column: Vec<f64> = gradients.chunks(width).map(|row| row[feature]).collect();
            near(&column, &difference(losses), "input gradients against differences of losses");
            let scores = |h| {
                let mut moved = features.clone();
                moved.chunks_mut(width).for_each(|row| row[feature] += h);
                let data = with_features(self.data, moved);
                let inputs = Inputs::new(self.network, &data, usize::MAX).expect("same shape");
                self.network.scores(&inputs, self.theta, &v)
            };
            let column: Vec<f64> = mixed.chunks(width).map(|row| row[feature]).collect();
            near(&column, &difference(scores), "mixed products against differences of scores");
        }
    }

    fn risk<'r>(&'r self, case: &Case) -> EmpiricalRisk<'r, B> {
        risk(self.network, &self.inputs, case)
    }

    /// Weight of every example, from the formulas.
    fn weights(&self, case: &Case) -> Vec<f64> {
        (0..self.n()).map(|i| if case.removed.contains(&i) { 0.0 } else { case.weight }).collect()
    }

    /// The diagonal of the regulariser.
    fn l2(&self, case: &Case) -> Vec<f64> {
        let segments = self.network.layout().segments().iter().zip(self.network.biases());
        let diagonal = segments.flat_map(|(segment, bias)| {
            let spared = bias && !case.on_bias;
            (0..segment.rows * segment.cols)
                .map(move |i| if spared && i % segment.cols == segment.cols - 1 { 0.0 } else { 1.0 })
        });
        diagonal.map(|on| on * case.mean_l2).collect()
    }

    fn check_objective(&self, case: &Case) {
        let risk = self.risk(case);
        let (theta, l2) = (self.theta.to_f64(), self.l2(case));
        let losses = self.network.example_losses(&self.inputs, self.theta);
        let penalised: Vec<f64> = l2.iter().zip(&theta).map(|(l2, theta)| l2 * theta).collect();
        let objective = dot(&losses, &self.weights(case)) + 0.5 * dot(&penalised, &theta);
        let mut gradient = penalised;
        for (g, weight) in self.gradients.chunks(self.p()).zip(self.weights(case)) {
            gradient = plus(&gradient, weight, g);
        }
        let (value, found) = risk.gradient(self.theta);
        close(&[value], &[objective], ROUNDING, "the objective");
        close(&[risk.objective(self.theta)], &[objective], ROUNDING, "the objective alone");
        close(&found.to_f64(), &gradient, ROUNDING, "the gradient of the objective");
        close(&risk.example_weights(), &self.weights(case), ROUNDING, "example weights");
    }

    fn check_curvature(&self, case: &Case) {
        let risk = self.risk(case);
        let hessian: Vec<f64> = (0..self.p())
            .flat_map(|i| {
                let e = self.unit(i);
                let gradient = |h| risk.gradient(&self.moved(h, &e)).1.to_f64();
                plus(&difference(gradient), case.damping, &e)
            })
            .collect();
        let expected = [
            (Curvature::Hessian, hessian, DIFFERENCE),
            (Curvature::GaussNewton, self.gauss_newton(case), 10.0 * ROUNDING),
            (Curvature::Fisher, self.fisher(case), 10.0 * ROUNDING),
        ];
        for (curvature, expected, tolerance) in expected {
            let operator = risk.operator(self.theta, curvature, case.damping, usize::MAX);
            let by_products = by_columns(&operator);
            close(by_products.as_slice(), &expected, tolerance, &format!("{curvature:?}, by columns"));
            close(operator.to_dense().as_slice(), &expected, tolerance, &format!("{curvature:?}, to_dense"));
            check_operator(&operator, 10.0 * ROUNDING);
            self.check_widths(&operator, by_products.as_slice());
        }
    }

    /// Products with as many vectors as cross every chunk of directions.
    fn check_widths(&self, operator: &CurvatureOperator<B>, dense: &[f64]) {
        for k in [1, 3, 33] {
            let x = self.vectors(k, 5);
            // What `y` held before must not matter.
            let mut y = self.block(&vec![f64::NAN; k * self.p()]);
            operator.apply(&x, &mut y);
            let product = |v: &[f64]| dense.chunks(v.len()).map(|row| dot(row, v)).collect::<Vec<_>>();
            let expected: Vec<f64> = x.to_f64().chunks(self.p()).flat_map(product).collect();
            close(&y.to_f64(), &expected, 10.0 * ROUNDING, "a product against the dense matrix");
        }
    }

    /// `sum w_i J_i^T h_i J_i + l2 + damping`, entry by entry.
    fn gauss_newton(&self, case: &Case) -> Vec<f64> {
        let (p, outputs) = (self.p(), self.network.outputs());
        let jacobian = self.jacobian();
        let row = |a: usize, i: usize| &jacobian[(a * self.n() + i) * outputs..][..outputs];
        let z = self.network.example_outputs(&self.inputs, self.theta);
        let targets = self.data.targets(self.network.loss(), outputs).expect("labels fit");
        let mut matrix = vec![0.0; p * p];
        for (i, weight) in self.weights(case).into_iter().enumerate() {
            let h = loss_hessian(self.network.loss(), &z[i * outputs..(i + 1) * outputs], targets[i]);
            for a in 0..p {
                let hj: Vec<f64> = h.chunks(outputs).map(|h| weight * dot(h, row(a, i))).collect();
                for b in 0..p {
                    matrix[a * p + b] += dot(&hj, row(b, i));
                }
            }
        }
        let l2 = self.l2(case);
        (0..p).for_each(|a| matrix[a * p + a] += l2[a] + case.damping);
        matrix
    }

    /// `sum w_i g_i g_i^T + l2 + damping` of the explicit gradients.
    fn fisher(&self, case: &Case) -> Vec<f64> {
        let p = self.p();
        let mut matrix = vec![0.0; p * p];
        for (g, weight) in self.gradients.chunks(p).zip(self.weights(case)) {
            (0..p * p).for_each(|at| matrix[at] += weight * g[at / p] * g[at % p]);
        }
        let l2 = self.l2(case);
        (0..p).for_each(|a| matrix[a * p + a] += l2[a] + case.damping);
        matrix
    }

    fn check_batches(&self, case: &Case) {
        let risk = self.risk(case);
        let x = self.vectors(3, 6);
        let everyone: Vec<usize> = (0..self.n()).collect();
        // A part, in another order, with one example twice and one that was removed.
        let some: Vec<usize> = [3, 0, 2, 3].into_iter().chain((4..self.n()).step_by(2)).collect();
        for curvature in [Curvature::Hessian, Curvature::GaussNewton, Curvature::Fisher] {
            let operator = risk.operator(self.theta, curvature, case.damping, usize::MAX);
            assert_eq!(operator.examples(), self.n());
            let apply_batch = |indices: &[usize]| {
                let mut y = self.block(&vec![f64::NAN; 3 * self.p()]);
                operator.apply_batch(indices, &x, &mut y);
                y.to_f64()
            };
            let mut whole = Block::zeros(self.network.backend(), self.network.layout(), 3);
            operator.apply(&x, &mut whole);
            close(&apply_batch(&everyone), &whole.to_f64(), ROUNDING, "the batch of all examples");
            let mut mean = vec![0.0; 3 * self.p()];
            some.iter().for_each(|&i| mean = plus(&mean, 1.0 / some.len() as f64, &apply_batch(&[i])));
            close(&apply_batch(&some), &mean, 10.0 * ROUNDING, "a batch against its single examples");
            let mut mean = vec![0.0; 3 * self.p()];
            everyone.iter().for_each(|&i| mean = plus(&mean, 1.0 / self.n() as f64, &apply_batch(&[i])));
            close(&mean, &whole.to_f64(), 10.0 * ROUNDING, "the mean over batches of one");
        }
    }

    fn check_bits(&self) {
        let streamed = Inputs::new(self.network, self.data, 0).expect("the data fit the network");
        let resident = self.everything(&self.inputs, usize::MAX);
        same_bits(&self.everything(&self.inputs, usize::MAX), &resident, "twice");
        same_bits(&self.everything(&streamed, usize::MAX), &resident, "streamed inputs");
        same_bits(&self.everything(&self.inputs, 0), &resident, "activations computed again");
        same_bits(&self.everything(&streamed, 0), &resident, "streamed inputs, activations computed again");
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            let found = pool.install(|| self.everything(&self.inputs, usize::MAX));
            same_bits(&found, &resident, &format!("{threads} threads"));
        }
    }

    /// All results that pass over the examples.
    fn everything(&self, inputs: &Inputs<B>, cache: usize) -> Vec<f64> {
        let (network, theta, v) = (self.network, self.theta, self.vectors(35, 7));
        let case = &cases(self.n())[1];
        let risk = risk(network, inputs, case);
        let (objective, gradient) = risk.gradient(theta);
        let mut all = vec![objective];
        all.extend(gradient.to_f64());
        all.extend(network.example_losses(inputs, theta));
        all.extend(network.example_outputs(inputs, theta));
        all.extend(network.output_tangents(inputs, theta, &v));
        all.extend(network.gradient_norms(inputs, theta));
        all.extend(network.scores(inputs, theta, &v));
        all.extend(network.input_gradients(inputs, theta));
        all.extend(network.mixed_products(inputs, theta, &v));
        let last = [self.n() - 1, 0, 1];
        all.extend(network.example_gradients(inputs, theta, Rows::Range(1, 3)).to_f64());
        all.extend(network.example_gradients(inputs, theta, Rows::Indices(&last)).to_f64());
        for curvature in [Curvature::Hessian, Curvature::GaussNewton, Curvature::Fisher] {
            let operator = risk.operator(theta, curvature, case.damping, cache);
            let mut y = Block::zeros(network.backend(), network.layout(), v.k());
            operator.apply(&v, &mut y);
            all.extend(y.to_f64());
            operator.apply_batch(&last, &v, &mut y);
            all.extend(y.to_f64());
            operator.apply_batch(&[1, 1], &v, &mut y);
            all.extend(y.to_f64());
            all.extend(operator.to_dense().as_slice());
        }
        all
    }
}

fn risk<'r, B: Backend>(network: &'r Network<B>, inputs: &'r Inputs<B>, case: &Case) -> EmpiricalRisk<'r, B> {
    let risk = EmpiricalRisk::new(network, inputs, case.settings).expect("the settings are in range");
    if case.removed.is_empty() { risk } else { risk.without(&case.removed) }
}

/// `d2 l / dz2` of one example, `outputs x outputs`, from the formulas of [`Loss`].
fn loss_hessian(loss: Loss, z: &[f64], y: f64) -> Vec<f64> {
    let total: f64 = z.iter().map(|z| z.exp()).sum();
    let p: Vec<f64> = z.iter().map(|z| z.exp() / total).collect();
    let target = y as usize;
    let entry = |c: usize, d: usize| {
        let on = f64::from(u8::from(c == d));
        match loss {
            Loss::CrossEntropy | Loss::LabelSmoothing { .. } => p[c] * (on - p[d]),
            Loss::Margin if z.len() > 1 && c != target && d != target => {
                let others = 1.0 - p[target];
                p[c] / others * (on - p[d] / others)
            }
            Loss::Margin | Loss::Logit => 0.0,
            Loss::Logistic => on * sigmoid(z[c]) * (1.0 - sigmoid(z[c])),
            Loss::Squared => on,
            Loss::Hinge => 0.0,
            Loss::SmoothHinge { temperature: t } => {
                let s = sigmoid((1.0 - y * z[c]) / t);
                on * s * (1.0 - s) / t
            }
        }
    };
    (0..z.len()).flat_map(|c| (0..z.len()).map(move |d| (c, d))).map(|(c, d)| entry(c, d)).collect()
}

/// All features as a network reads them.
fn host_features(data: &Dataset) -> Vec<f64> {
    let mut rows = vec![0.0; data.len() * data.width()];
    for (i, row) in rows.chunks_mut(data.width()).enumerate() {
        data.features().read_row(i, row);
    }
    rows
}

fn with_features(data: &Dataset, features: Vec<f64>) -> Dataset {
    let features = ArrayD::from_shape_vec(vec![data.len(), data.width()], features).expect("same numbers");
    Dataset::new(HostArray::F64(features), data.labels().to_vec()).expect("finite features")
}
