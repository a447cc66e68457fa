//! Checks of a single layer.

use if_linalg::testing::random;
use if_linalg::{Backend, Segment, View, ViewMut};

use super::{ROUNDING, close, difference, dot, near, plus, same_bits};
use crate::layer::{Basis, Delta, Direction, Factors, Layer, Primal, Scratch};
use crate::scoring::{ScoringWay, materialised_scores};

/// Sizes of the random problem that [`check_layer`] sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCheck {
    /// Numbers per example that the layer takes.
    pub inputs: usize,
    /// Examples.
    pub rows: usize,
    /// Directions that are stacked.
    pub directions: usize,
    /// Seed of weights, inputs and directions.
    pub seed: u64,
}

impl LayerCheck {
    /// Five examples and three directions.
    pub fn new(inputs: usize) -> Self {
        Self { inputs, rows: 5, directions: 3, seed: 0 }
    }
}

/// Checks every product of a layer at random weights, inputs and directions:
///
/// - outputs belong to their own example, and the column of ones stays as it is;
/// - `jvp`, `backward` and `r_backward` against central differences; `<jvp(v), dy> = <v, backward(dy)>`;
/// - stacked directions are the single ones; leaving out an output changes no other;
/// - `dw`, scores, norms and moments add to what is there, all else overwrites it, and nothing reads
///   what a scratch buffer held before;
/// - `example_gradients` are those of single examples and sum to `backward`; scores, in every way that the
///   layer has, and `squared_norms` are their dots; their factors multiply to them, and moments are those of
///   the factors;
/// - everything twice gives the same bits.
///
/// The input of a layer that takes token ids is random ids, with repeats and padding, and the first of
/// several examples has none; derivatives in it are to be zero.
///
/// A layer with kinks (relu, max pool) is differentiable at the random point almost surely.
///
/// # Panics
/// On the first property that does not hold.
pub fn check_layer<B: Backend<Elem = f64>>(backend: &B, layer: &dyn Layer<B>, sizes: LayerCheck) {
    let probe = Probe::new(backend, layer, sizes);
    probe.check_forward();
    probe.check_jvp();
    probe.check_backward();
    probe.check_r_backward();
    if probe.segment.is_some() {
        probe.check_examples();
    }
}

/// Weights and inputs, and a random direction in each (`k` of them, stacked).
struct Probe<'a, B: Backend> {
    backend: &'a B,
    layer: &'a dyn Layer<B>,
    segment: Option<Segment>,
    sizes: LayerCheck,
    w: Vec<f64>,
    x: Vec<f64>,
    v: Vec<f64>,
    rx: Vec<f64>,
    /// One output gradient, and `k` of them.
    dy: Vec<f64>,
    rdy: Vec<f64>,
}

/// Outer products in each of the vectors that pairwise scores are checked against.
const TERMS: usize = 2;

/// What sums are added to, to see that they are added.
const BEFORE: f64 = 1.0;

impl<'a, B: Backend<Elem = f64>> Probe<'a, B> {
    fn new(backend: &'a B, layer: &'a dyn Layer<B>, sizes: LayerCheck) -> Self {
        let LayerCheck { inputs, rows, directions, seed } = sizes;
        let segment = layer.segment();
        let parameters = segment.as_ref().map_or(0, |s| s.rows * s.cols);
        let seeds = |stream: u64| seed.wrapping_mul(100).wrapping_add(stream);
        Self {
            backend,
            layer,
            segment,
            sizes,
            w: random(parameters, seeds(1)),
            x: match layer.vocabulary() {
                Some(vocabulary) => token_ids(vocabulary, rows, inputs, seeds(2)),
                None => random(rows * inputs, seeds(2)),
            },
            v: random(directions * parameters, seeds(3)),
            rx: random(directions * rows * inputs, seeds(4)),
            dy: random(rows * layer.width(), seeds(5)),
            rdy: random(directions * rows * layer.width(), seeds(6)),
        }
    }

    /// `x + h rx`, or token ids as they are.
    fn moved(&self, h: f64, rx: &[f64]) -> Vec<f64> {
        let h = if self.layer.vocabulary().is_some() { 0.0 } else { h };
        plus(&self.x, h, rx)
    }

    fn check_forward(&self) {
        let y = self.forward(&self.w, &self.x);
        same_bits(&self.forward(&self.w, &self.x), &y, "forward twice");
        let single = self.one_by_one(|x, _| self.forward(&self.w, x));
        close(&single.concat(), &y, ROUNDING, "forward of single examples");
    }

    fn check_jvp(&self) {
        let all = self.jvp(&self.v, Some(&self.rx));
        same_bits(&self.jvp(&self.v, Some(&self.rx)), &all, "jvp twice");
        let fixed = self.jvp(&self.v, None);
        let zeros = vec![0.0; self.rx.len()];
        let still = self.jvp(&self.v, Some(&zeros));
        // Both are zero for a layer without parameters.
        close(&fixed, &still, ROUNDING, "jvp of an input that does not depend on parameters");
        for j in 0..self.sizes.directions {
            let (v, rx) = (self.direction(&self.v, j), self.direction(&self.rx, j));
            let along = self.direction(&all, j);
            close(&self.jvp(v, Some(rx)), along, ROUNDING, "jvp of a single direction");
            let by_difference = difference(|h| self.forward(&plus(&self.w, h, v), &self.moved(h, rx)));
            near(along, &by_difference, "jvp against differences of forward");
        }
    }

    fn check_backward(&self) {
        let (dx, dw) = self.backward(&self.w, &self.x, &self.dy);
        let again = self.backward(&self.w, &self.x, &self.dy);
        same_bits(&again.0, &dx, "backward twice, dx");
        same_bits(&again.1, &dw, "backward twice, dw");
        let value = |w: &[f64], x: &[f64]| vec![dot(&self.forward(w, x), &self.dy)];
        let to_w = coordinates(self.w.len(), |e| difference(|h| value(&plus(&self.w, h, e), &self.x)));
        let to_x = coordinates(self.x.len(), |e| difference(|h| value(&self.w, &self.moved(h, e))));
        near(&dw, &to_w, "backward against differences of forward, dw");
        near(&dx, &to_x, "backward against differences of forward, dx");
        let (all_dx, all_dw) = self.backward(&self.w, &self.x, &self.rdy);
        for j in 0..self.sizes.directions {
            let (dx, dw) = self.backward(&self.w, &self.x, self.direction(&self.rdy, j));
            close(&dx, self.direction(&all_dx, j), ROUNDING, "backward of a single direction, dx");
            close(&dw, self.direction(&all_dw, j), ROUNDING, "backward of a single direction, dw");
            let (v, rx) = (self.direction(&self.v, j), self.direction(&self.rx, j));
            let forward = dot(&self.jvp(v, Some(rx)), self.direction(&self.rdy, j));
            let size = norm_bound(&[v, rx], &[&dw, &dx]);
            let gap = (forward - dot(v, &dw) - dot(rx, &dx)).abs();
            assert!(gap <= ROUNDING * size, "jvp and backward are not adjoint: {gap:e} of {size:e}");
        }
        let only = [(true, false), (false, true)].map(|wanted| self.backward_of(wanted, &self.rdy));
        same_bits(&only[0].0, &all_dx, "dx without dw");
        same_bits(&only[1].1, &all_dw, "dw without dx");
    }

    fn check_r_backward(&self) {
        let moving = self.r_backward((true, true), &self.v, Some(&self.rx), &self.rdy);
        let again = self.r_backward((true, true), &self.v, Some(&self.rx), &self.rdy);
        same_bits(&again.0, &moving.0, "r_backward twice, rdx");
        same_bits(&again.1, &moving.1, "r_backward twice, dw");
        same_bits(
            &self.r_backward((true, false), &self.v, Some(&self.rx), &self.rdy).0,
            &moving.0,
            "rdx without dw",
        );
        same_bits(
            &self.r_backward((false, true), &self.v, Some(&self.rx), &self.rdy).1,
            &moving.1,
            "dw without rdx",
        );
        let fixed = self.r_backward((true, true), &self.v, None, &self.rdy);
        let zeros = vec![0.0; self.rx.len()];
        for j in 0..self.sizes.directions {
            self.check_r_direction(j, &self.rx, &moving);
            self.check_r_direction(j, &zeros, &fixed);
            let (v, rx) = (self.direction(&self.v, j), self.direction(&self.rx, j));
            let single = self.r_backward((true, true), v, Some(rx), self.direction(&self.rdy, j));
            close(&single.0, self.direction(&moving.0, j), ROUNDING, "r_backward of a single direction, rdx");
            close(&single.1, self.direction(&moving.1, j), ROUNDING, "r_backward of a single direction, dw");
        }
    }

    /// `r_backward` against differences of `backward` along direction `j` of weights, inputs and
    /// output gradients.
    fn check_r_direction(&self, j: usize, rx: &[f64], (rdx, dw): &(Vec<f64>, Vec<f64>)) {
        let (v, rx, rdy) = (self.direction(&self.v, j), self.direction(rx, j), self.direction(&self.rdy, j));
        let moved = |h: f64| self.backward(&plus(&self.w, h, v), &self.moved(h, rx), &plus(&self.dy, h, rdy));
        let (to_x, to_w) = (difference(|h| moved(h).0), difference(|h| moved(h).1));
        near(self.direction(rdx, j), &to_x, "r_backward against differences of backward, rdx");
        near(self.direction(dw, j), &to_w, "r_backward against differences of backward, dw");
    }

    fn check_examples(&self) {
        let gradients = self.example_gradients();
        same_bits(&self.example_gradients(), &gradients, "example gradients twice");
        let single = self.one_by_one(|x, dy| self.backward(&self.w, x, dy).1);
        close(&gradients, &single.concat(), ROUNDING, "example gradients against single examples");
        let mut sum = vec![0.0; self.w.len()];
        single.iter().for_each(|gradient| sum = plus(&sum, 1.0, gradient));
        close_sums(&self.backward(&self.w, &self.x, &self.dy).1, &sum, "sum of example gradients");
        let squares: Vec<f64> = gradients.chunks(self.w.len()).map(|g| dot(g, g)).collect();
        let norms = self.squared_norms();
        close_sums(&norms, &squares, "squared norms against example gradients");
        same_bits(&self.squared_norms(), &norms, "squared norms twice");
        self.check_scores(&gradients);
        self.check_squares();
        if self.layer.gradient_terms().is_some() {
            self.check_factors(&gradients);
        }
    }

    /// Every way to score against the dots with the example gradients.
    fn check_scores(&self, gradients: &[f64]) {
        let k = self.sizes.directions;
        let dots = |v: &[f64]| -> Vec<f64> {
            gradients
                .chunks(self.w.len())
                .flat_map(|g| (0..k).map(|j| dot(g, self.direction(v, j))))
                .collect()
        };
        for way in [ScoringWay::Ghost, ScoringWay::Materialised] {
            if self.layer.scoring_cost(way, k, None).is_some() {
                let scores = self.scores(way);
                close_sums(&scores, &dots(&self.v), &format!("{way:?} scores against example gradients"));
                same_bits(&self.scores(way), &scores, "scores twice");
            }
        }
        if self.layer.scoring_cost(ScoringWay::Pairwise, k, Some(TERMS)).is_some() {
            let scores = self.pairwise_scores();
            let whole: Vec<f64> = (0..k).flat_map(|j| self.outer_sum(&self.factors(), j, TERMS)).collect();
            close_sums(&scores, &dots(&whole), "pairwise scores against example gradients");
            same_bits(&self.pairwise_scores(), &scores, "pairwise scores twice");
        }
    }

    /// Sums of squared gradients of all stacked output gradients, as they are and in a basis.
    fn check_squares(&self) {
        let (rows, cols) = self.shape();
        let stacked = self.rdy.chunks(self.dy.len()).flat_map(|dy| self.example_gradients_of(dy));
        let stacked: Vec<f64> = stacked.collect();
        let [left, right] = [(rows, 31), (cols, 32)].map(|(n, seed)| random(n * n, seed));
        let entry = |g: &[f64], at: usize| {
            let (a, b) = (at / cols, at % cols);
            let row = |i: usize| dot(&g[i * cols..(i + 1) * cols], &right[b * cols..(b + 1) * cols]);
            (0..rows).map(|i| left[a * rows + i] * row(i)).sum::<f64>()
        };
        let squares = |entry: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
            let sum = |at| stacked.chunks(rows * cols).map(|g| entry(g, at) * entry(g, at)).sum();
            (0..rows * cols).map(sum).collect()
        };
        close_sums(&self.squares(None), &squares(&|g, at| g[at]), "squared gradients");
        close_sums(&self.squares(Some([&left, &right])), &squares(&entry), "squared gradients in a basis");
    }

    /// The factors of the gradients against the gradients, and the moments against the factors.
    fn check_factors(&self, gradients: &[f64]) {
        let terms = self.layer.gradient_terms().expect("asked before");
        let factors = self.gradient_factors(terms);
        let sums: Vec<f64> = (0..self.sizes.rows).flat_map(|i| self.outer_sum(&factors, i, terms)).collect();
        close(&sums, gradients, ROUNDING, "gradient factors against example gradients");
        let (inputs, outputs) = self.moments();
        let expected = second_moment(&factors.1, self.shape().1);
        close_sums(&inputs, &expected, "input moments against the factors");
        // Stacked output gradients count like more examples.
        let left =
            self.rdy.chunks(self.dy.len()).flat_map(|dy| self.factors_of(terms, dy).0).collect::<Vec<_>>();
        close_sums(&outputs, &second_moment(&left, self.shape().0), "output moments against the factors");
    }

    /// Rows and columns of the parameters.
    fn shape(&self) -> (usize, usize) {
        self.segment.as_ref().map_or((0, 0), |s| (s.rows, s.cols))
    }

    /// Random factors of `k` vectors: `(k TERMS) x out` and `(k TERMS) x (in + 1)`.
    fn factors(&self) -> (Vec<f64>, Vec<f64>) {
        let (rows, cols) = self.shape();
        let terms = self.sizes.directions * TERMS;
        (random(terms * rows, self.sizes.seed + 11), random(terms * cols, self.sizes.seed + 12))
    }

    /// `sum_r left_r right_r^T` of vector `j`, flattened.
    fn outer_sum(&self, (left, right): &(Vec<f64>, Vec<f64>), j: usize, terms: usize) -> Vec<f64> {
        let (rows, cols) = self.shape();
        let mut sum = vec![0.0; rows * cols];
        for r in j * terms..(j + 1) * terms {
            for (row, l) in sum.chunks_mut(cols).zip(&left[r * rows..]) {
                row.iter_mut().zip(&right[r * cols..]).for_each(|(out, r)| *out += l * r);
            }
        }
        sum
    }

    /// Part `j` of stacked directions.
    fn direction<'v>(&self, stacked: &'v [f64], j: usize) -> &'v [f64] {
        let len = stacked.len() / self.sizes.directions;
        &stacked[j * len..(j + 1) * len]
    }

    /// `f(x_i, dy_i)` of every example alone.
    fn one_by_one(&self, f: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
        let examples = self.x.chunks(self.sizes.inputs).zip(self.dy.chunks(self.layer.width()));
        examples.map(|(x, dy)| f(x, dy)).collect()
    }

    fn weights<'v>(&self, buffer: &'v B::Buffer, k: usize) -> Option<View<'v, B>> {
        self.segment.as_ref().map(|s| View::new(buffer, 0, k * s.rows, s.cols))
    }

    fn forward(&self, w: &[f64], x: &[f64]) -> Vec<f64> {
        let (rows, width) = (x.len() / self.sizes.inputs, self.layer.width());
        let (w, x) = (self.backend.upload(w), self.backend.upload(&with_ones(x, self.sizes.inputs)));
        let mut y = self.backend.upload(&with_ones(&vec![f64::NAN; rows * width], width));
        let target = ViewMut::new(&mut y, 0, rows, width).with_stride(width + 1);
        let x = View::new(&x, 0, rows, self.sizes.inputs + 1);
        self.layer.forward(&mut self.scratch(), self.weights(&w, 1), x, target);
        let y = self.backend.download(View::new(&y, 0, rows, width + 1));
        assert!(y.chunks(width + 1).all(|row| row[width] == 1.0), "forward overwrites the column of ones");
        y.chunks(width + 1).flat_map(|row| row[..width].to_vec()).collect()
    }

    /// Calls `f` with the forward pass at `w` and `x`.
    fn at<R>(&self, w: &[f64], x: &[f64], f: impl FnOnce(&mut Scratch<B>, Primal<B>) -> R) -> R {
        let (rows, inputs, width) = (x.len() / self.sizes.inputs, self.sizes.inputs, self.layer.width());
        let y = self.backend.upload(&with_ones(&self.forward(w, x), width));
        let (w, x) = (self.backend.upload(w), self.backend.upload(&with_ones(x, inputs)));
        let (x, y) = (View::new(&x, 0, rows, inputs + 1), View::new(&y, 0, rows, width + 1));
        f(&mut self.scratch(), Primal { w: self.weights(&w, 1), x, y })
    }

    fn jvp(&self, v: &[f64], rx: Option<&[f64]>) -> Vec<f64> {
        let (rows, width) = (self.sizes.rows, self.layer.width());
        let k = self.directions_in(v, rx);
        self.at(&self.w, &self.x, |scratch, at| {
            let (v, rx) = (self.backend.upload(v), rx.map(|rx| self.backend.upload(rx)));
            let rx = rx.as_ref().map(|rx| View::new(rx, 0, k * rows, self.sizes.inputs));
            let mut ry = self.filled(k * rows * width, f64::NAN);
            let target = ViewMut::new(&mut ry, 0, k * rows, width);
            self.layer.jvp(scratch, at, self.weights(&v, k), rx, target);
            self.backend.download(View::new(&ry, 0, k * rows, width))
        })
    }

    /// `dx` and `dw` (what is added) for the output gradients `dy`.
    fn backward(&self, w: &[f64], x: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
        self.backward_at((true, true), w, x, dy)
    }

    fn backward_of(&self, wanted: (bool, bool), dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
        self.backward_at(wanted, &self.w, &self.x, dy)
    }

    fn backward_at(&self, wanted: (bool, bool), w: &[f64], x: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let stacked = dy.len() / self.layer.width();
        let k = stacked * self.sizes.inputs / x.len();
        self.at(w, x, |scratch, at| {
            let dy = self.backend.upload(dy);
            let dy = View::new(&dy, 0, stacked, self.layer.width());
            self.gradients(k, stacked, wanted, |dx, dw| self.layer.backward(scratch, at, dy, dx, dw))
        })
    }

    fn r_backward(
        &self,
        wanted: (bool, bool),
        v: &[f64],
        rx: Option<&[f64]>,
        rdy: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let (rows, width) = (self.sizes.rows, self.layer.width());
        let k = rdy.len() / (rows * width);
        self.at(&self.w, &self.x, |scratch, at| {
            let (v, rx) = (self.backend.upload(v), rx.map(|rx| self.backend.upload(rx)));
            let (dy, rdy) = (self.backend.upload(&self.dy), self.backend.upload(rdy));
            let rx = rx.as_ref().map(|rx| View::new(rx, 0, k * rows, self.sizes.inputs));
            let direction = Direction { v: self.weights(&v, k), rx };
            let delta =
                Delta { dy: View::new(&dy, 0, rows, width), rdy: View::new(&rdy, 0, k * rows, width) };
            self.gradients(k, k * rows, wanted, |rdx, dw| {
                self.layer.r_backward(scratch, at, direction, delta, rdx, dw);
            })
        })
    }

    /// Runs `f` on fresh targets for `dx` (to be overwritten) and `dw` (to be added to).
    fn gradients(
        &self,
        k: usize,
        stacked: usize,
        (to_x, to_w): (bool, bool),
        f: impl FnOnce(Option<ViewMut<B>>, Option<ViewMut<B>>),
    ) -> (Vec<f64>, Vec<f64>) {
        let inputs = self.sizes.inputs;
        let mut dx = self.filled(stacked * inputs, f64::NAN);
        let mut dw = self.filled(k * self.w.len(), BEFORE);
        let shape = self.segment.as_ref().map(|s| (s.rows, s.cols)).filter(|_| to_w);
        let target = to_x.then(|| ViewMut::new(&mut dx, 0, stacked, inputs));
        f(target, shape.map(|(rows, cols)| ViewMut::new(&mut dw, 0, k * rows, cols)));
        let dw = self.backend.download(View::new(&dw, 0, 1, k * self.w.len()));
        (self.backend.download(View::new(&dx, 0, stacked, inputs)), added(&dw))
    }

    fn example_gradients(&self) -> Vec<f64> {
        self.example_gradients_of(&self.dy)
    }

    fn example_gradients_of(&self, dy: &[f64]) -> Vec<f64> {
        let (rows, p) = (self.sizes.rows, self.w.len());
        self.with_dy(dy, |scratch, at, dy| {
            let mut out = self.filled(rows * p, f64::NAN);
            self.layer.example_gradients(scratch, at, dy, ViewMut::new(&mut out, 0, rows, p));
            self.backend.download(View::new(&out, 0, rows, p))
        })
    }

    fn scores(&self, way: ScoringWay) -> Vec<f64> {
        let (rows, k) = (self.sizes.rows, self.sizes.directions);
        self.with_dy(&self.dy, |scratch, at, dy| {
            let v = self.backend.upload(&self.v);
            let v = self.weights(&v, k).expect("only layers with parameters are scored");
            let mut out = self.filled(rows * k, BEFORE);
            let target = ViewMut::new(&mut out, 0, rows, k);
            match way {
                ScoringWay::Ghost => self.layer.ghost_scores(scratch, at, dy, v, target),
                _ => materialised_scores(self.layer, scratch, at, dy, v, target),
            }
            added(&self.backend.download(View::new(&out, 0, rows, k)))
        })
    }

    fn pairwise_scores(&self) -> Vec<f64> {
        let (rows, k) = (self.sizes.rows, self.sizes.directions);
        self.with_dy(&self.dy, |scratch, at, dy| {
            let (left, right) = self.factors();
            let (left, right) = (self.backend.upload(&left), self.backend.upload(&right));
            let v = Factors {
                terms: TERMS,
                left: View::new(&left, 0, k * TERMS, self.shape().0),
                right: View::new(&right, 0, k * TERMS, self.shape().1),
            };
            let mut out = self.filled(rows * k, BEFORE);
            self.layer.pairwise_scores(scratch, at, dy, v, ViewMut::new(&mut out, 0, rows, k));
            added(&self.backend.download(View::new(&out, 0, rows, k)))
        })
    }

    fn gradient_factors(&self, terms: usize) -> (Vec<f64>, Vec<f64>) {
        self.factors_of(terms, &self.dy)
    }

    fn factors_of(&self, terms: usize, dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (count, (rows, cols)) = (self.sizes.rows * terms, self.shape());
        self.with_dy(dy, |scratch, at, dy| {
            let mut left = self.filled(count * rows, f64::NAN);
            let mut right = self.filled(count * cols, f64::NAN);
            let targets = (ViewMut::new(&mut left, 0, count, rows), ViewMut::new(&mut right, 0, count, cols));
            self.layer.gradient_factors(scratch, at, dy, targets);
            let download = |buffer, cols| self.backend.download(View::new(buffer, 0, count, cols));
            (download(&left, rows), download(&right, cols))
        })
    }

    /// Input moments, and output moments over the stacked output gradients.
    fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let (rows, cols) = self.shape();
        self.with_dy(&self.rdy, |scratch, at, dy| {
            let mut inputs = self.filled(cols * cols, BEFORE);
            let mut outputs = self.filled(rows * rows, BEFORE);
            self.layer.input_moments(scratch, at, ViewMut::new(&mut inputs, 0, cols, cols));
            self.layer.output_moments(scratch, dy, ViewMut::new(&mut outputs, 0, rows, rows));
            let download = |buffer, n| added(&self.backend.download(View::new(buffer, 0, n, n)));
            (download(&inputs, cols), download(&outputs, rows))
        })
    }

    fn squares(&self, basis: Option<[&[f64]; 2]>) -> Vec<f64> {
        let (rows, cols) = self.shape();
        let basis = basis.map(|sides| sides.map(|side| self.backend.upload(side)));
        self.with_dy(&self.rdy, |scratch, at, dy| {
            let basis = basis.as_ref().map(|[left, right]| Basis {
                left: View::new(left, 0, rows, rows),
                right: View::new(right, 0, cols, cols),
            });
            let mut out = self.filled(rows * cols, BEFORE);
            let target = ViewMut::new(&mut out, 0, 1, rows * cols);
            self.layer.squared_gradients(scratch, at, dy, basis, target);
            added(&self.backend.download(View::new(&out, 0, 1, rows * cols)))
        })
    }

    /// Calls `f` with the forward pass and the output gradients `dy`.
    fn with_dy<R>(&self, dy: &[f64], f: impl FnOnce(&mut Scratch<B>, Primal<B>, View<B>) -> R) -> R {
        let dy = self.backend.upload(dy);
        let width = self.layer.width();
        let dy = View::new(&dy, 0, B::len(&dy) / width, width);
        self.at(&self.w, &self.x, |scratch, at| f(scratch, at, dy))
    }

    fn squared_norms(&self) -> Vec<f64> {
        let rows = self.sizes.rows;
        self.with_dy(&self.dy, |scratch, at, dy| {
            let mut out = self.filled(rows, BEFORE);
            self.layer.squared_norms(scratch, at, dy, ViewMut::new(&mut out, 0, rows, 1));
            added(&self.backend.download(View::new(&out, 0, rows, 1)))
        })
    }

    fn directions_in(&self, v: &[f64], rx: Option<&[f64]>) -> usize {
        match rx {
            Some(rx) => rx.len() / self.x.len(),
            None if self.w.is_empty() => self.sizes.directions,
            None => v.len() / self.w.len(),
        }
    }

    fn filled(&self, len: usize, value: f64) -> B::Buffer {
        self.backend.upload(&vec![value; len])
    }

    /// Buffers of every size that hold NaN, so that a layer that takes one to be zero is seen.
    fn scratch(&self) -> Scratch<B> {
        let mut scratch = Scratch::new(self.backend);
        for size in (0..14).map(|power| 1 << power) {
            (0..2).for_each(|_| scratch.give(self.filled(size, f64::NAN)));
        }
        scratch
    }
}

/// Ids from -1 to `vocabulary - 1`, `inputs` a row; the first of several rows is all padding.
fn token_ids(vocabulary: usize, rows: usize, inputs: usize, seed: u64) -> Vec<f64> {
    let choices = (vocabulary + 1) as f64;
    let mut ids: Vec<f64> =
        random(rows * inputs, seed).iter().map(|v| ((v + 1.0) / 2.0 * choices).floor() - 1.0).collect();
    if rows > 1 {
        ids[..inputs].fill(-1.0);
    }
    ids
}

/// Every row of `width` numbers followed by a one.
fn with_ones(x: &[f64], width: usize) -> Vec<f64> {
    x.chunks(width).flat_map(|row| row.iter().copied().chain([1.0])).collect()
}

/// What was added to [`BEFORE`].
fn added(sums: &[f64]) -> Vec<f64> {
    sums.iter().map(|v| v - BEFORE).collect()
}

/// [`close`] for what was added to [`BEFORE`], and carries the rounding of that sum however small it is.
fn close_sums(found: &[f64], expected: &[f64], what: &str) {
    let sums = |x: &[f64]| x.iter().map(|v| BEFORE + v).collect::<Vec<_>>();
    close(&sums(found), &sums(expected), ROUNDING, what);
}

/// `f` at every unit vector of length `n`.
fn coordinates(n: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect::<Vec<_>>();
    (0..n).flat_map(|i| f(&unit(i))).collect()
}

/// `sum_r x_r x_r^T` over rows of length `n`.
fn second_moment(x: &[f64], n: usize) -> Vec<f64> {
    let mut sum = vec![0.0; n * n];
    for row in x.chunks(n) {
        for (out, value) in sum.chunks_mut(n).zip(row) {
            out.iter_mut().zip(row).for_each(|(out, other)| *out += value * other);
        }
    }
    sum
}

/// Bound on `sum <a_i, b_i>` against which rounding is judged.
fn norm_bound(a: &[&[f64]], b: &[&[f64]]) -> f64 {
    a.iter().zip(b).map(|(a, b)| super::norm(a) * super::norm(b)).sum()
}
