//! Problems shared by the tests.

use std::sync::Arc;

use if_linalg::testing::random;
use if_linalg::{Backend, Block, Cpu, Segment, View, ViewMut};
use if_models::layer::{Delta, Dense, Direction, Layer, Primal, Scratch};
use if_models::{Dataset, HostArray, LayerSpec, Loss, ModelSpec, Network, Target};
use ndarray::ArrayD;

pub type Double = Cpu<f64>;

pub fn cpu() -> Double {
    Cpu::new()
}

/// A data set of the rows `x` (flattened, `n x width`).
pub fn dataset(width: usize, x: Vec<f64>, labels: Vec<f64>) -> Dataset {
    let x = ArrayD::from_shape_vec(vec![x.len() / width, width], x).unwrap();
    Dataset::new(HostArray::F64(x), labels).unwrap()
}

/// Random features, and labels that the loss takes.
pub fn random_data(n: usize, width: usize, loss: Loss, outputs: usize, seed: u64) -> Dataset {
    let noise = random(n, seed + 1000);
    let label = |i: usize| match loss.target(outputs) {
        Target::Sign => noise[i].signum(),
        Target::Class => ((noise[i] + 1.0) / 2.0 * outputs as f64).floor(),
        Target::Real => noise[i],
    };
    dataset(width, random(n * width, seed), (0..n).map(label).collect())
}

/// Dense layers of these widths, the first of which is the input's.
pub fn dense_network<B: Backend>(backend: &B, widths: &[usize], bias: bool, loss: Loss) -> Network<B> {
    let layer = |(l, pair): (usize, &[usize])| {
        Arc::new(Dense::new(format!("{l}"), pair[0], pair[1], bias)) as Arc<dyn Layer<B>>
    };
    Network::new(backend, widths[0], widths.windows(2).enumerate().map(layer).collect(), loss)
}

pub fn random_theta<B: Backend>(network: &Network<B>, seed: u64) -> Block<B> {
    Block::from_f64(network.backend(), network.layout(), &random(network.layout().dim(), seed))
}

#[track_caller]
pub fn assert_close(found: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    assert!(error <= relative * size, "off by {error:e} of {size:e}: {found:?}, expected {expected:?}");
}

/// `f` on a pool of this many threads.
pub fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Dense layers of these widths with tanh between them.
pub fn mlp<B: Backend>(backend: &B, widths: &[usize], loss: Loss) -> Network<B> {
    let mut layers = Vec::new();
    for (l, out) in widths[1..].iter().enumerate() {
        layers.extend((l > 0).then_some(LayerSpec::Tanh {}));
        layers.push(LayerSpec::Dense { name: format!("{l}"), out: *out, bias: true });
    }
    ModelSpec { input: vec![widths[0]], loss, layers }.build(backend).unwrap()
}

/// A network with every kind of layer that has parameters, and pictures for it.
pub fn pictures<B: Backend>(backend: &B, n: usize) -> (Network<B>, Block<B>, Dataset) {
    let conv = |name: &str, out, padding| LayerSpec::Conv2d {
        name: name.into(),
        out,
        kernel: 3,
        stride: 1,
        padding,
        bias: true,
    };
    let layers = vec![
        conv("first", 2, 1),
        LayerSpec::BatchNorm { name: "norm".into(), eps: 1e-5 },
        LayerSpec::Tanh {},
        LayerSpec::Residual { layers: vec![conv("second", 2, 1), LayerSpec::Softplus {}] },
        LayerSpec::MaxPool { size: 2, stride: None, padding: 0 },
        LayerSpec::Flatten {},
        LayerSpec::Dense { name: "third".into(), out: 4, bias: true },
        LayerSpec::Tanh {},
        LayerSpec::Dense { name: "last".into(), out: 3, bias: true },
    ];
    let spec = ModelSpec { input: vec![1, 4, 4], loss: Loss::CrossEntropy, layers };
    let network = spec.build(backend).expect("the layers fit");
    let x = ArrayD::from_shape_vec(vec![n, 1, 4, 4], random(16 * n, 3)).expect("as many numbers");
    let data = Dataset::new(HostArray::F64(x), (0..n).map(|i| (i % 3) as f64).collect()).expect("finite");
    let theta = random_theta(&network, 9);
    (network, theta, data)
}

/// A network whose convolution has few positions and many channels, and pictures for it.
pub fn few_positions<B: Backend>(backend: &B, n: usize) -> (Network<B>, Block<B>, Dataset) {
    let conv =
        LayerSpec::Conv2d { name: "conv".into(), out: 12, kernel: 2, stride: 1, padding: 0, bias: true };
    let dense = LayerSpec::Dense { name: "fc".into(), out: 3, bias: true };
    let layers = vec![conv, LayerSpec::Tanh {}, LayerSpec::Flatten {}, dense];
    let spec = ModelSpec { input: vec![8, 2, 3], loss: Loss::CrossEntropy, layers };
    let network = spec.build(backend).expect("the layers fit");
    let x = ArrayD::from_shape_vec(vec![n, 8, 2, 3], random(48 * n, 3)).expect("as many numbers");
    let data = Dataset::new(HostArray::F64(x), (0..n).map(|i| (i % 3) as f64).collect()).expect("finite");
    let theta = random_theta(&network, 9);
    (network, theta, data)
}

/// `y = tanh(x)`: a layer without parameters, with curvature.
pub struct Tanh {
    pub width: usize,
}

fn host(x: View<Double>) -> Vec<f64> {
    cpu().download(x)
}

/// Writes (or adds) row-major numbers.
fn put(target: &mut ViewMut<Double>, values: impl Fn(usize, usize) -> f64, keep: bool) {
    for i in 0..target.rows {
        for j in 0..target.cols {
            let slot = &mut target.buffer[target.offset + i * target.row_stride + j];
            *slot = values(i, j) + if keep { *slot } else { 0.0 };
        }
    }
}

impl Layer<Double> for Tanh {
    fn name(&self) -> &str {
        "tanh"
    }

    fn width(&self) -> usize {
        self.width
    }

    fn forward(
        &self,
        _: &mut Scratch<Double>,
        _: Option<View<Double>>,
        x: View<Double>,
        mut y: ViewMut<Double>,
    ) {
        let (x, stride) = (host(x), self.width + 1);
        put(&mut y, |i, j| x[i * stride + j].tanh(), false);
    }

    fn jvp(
        &self,
        _: &mut Scratch<Double>,
        at: Primal<Double>,
        _: Option<View<Double>>,
        rx: Option<View<Double>>,
        mut ry: ViewMut<Double>,
    ) {
        let (y, w, rows) = (host(at.y), self.width, at.x.rows);
        let rx = rx.map_or_else(|| vec![0.0; ry.rows * w], host);
        let slope = |i: usize, j: usize| 1.0 - y[(i % rows) * (w + 1) + j].powi(2);
        put(&mut ry, |i, j| slope(i, j) * rx[i * w + j], false);
    }

    fn backward(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        dx: Option<ViewMut<Double>>,
        _: Option<ViewMut<Double>>,
    ) {
        // The Jacobian is diagonal, so it is its own transpose.
        if let Some(dx) = dx {
            self.jvp(scratch, at, None, Some(dy), dx);
        }
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        direction: Direction<Double>,
        delta: Delta<Double>,
        rdx: Option<ViewMut<Double>>,
        _: Option<ViewMut<Double>>,
    ) {
        let Some(mut rdx) = rdx else { return };
        self.backward(scratch, at, delta.rdy, Some(rdx.reborrow()), None);
        let Some(rx) = direction.rx else { return };
        let (y, dy, rx) = (host(at.y), host(delta.dy), host(rx));
        let (w, rows) = (self.width, at.x.rows);
        // d(1 - y^2) = -2 y (1 - y^2) rx
        let term = |i: usize, j: usize| {
            let y = y[(i % rows) * (w + 1) + j];
            -2.0 * y * (1.0 - y * y) * rx[i * w + j] * dy[(i % rows) * w + j]
        };
        put(&mut rdx, term, true);
    }
}

/// `y = (x~ W~^T)^2 / 2`, element by element: a single layer that is neither linear nor dense.
pub struct Square(pub Dense);

impl Square {
    /// `a = x~ W~^T`.
    fn inner(&self, at: Primal<Double>) -> Vec<f64> {
        let (rows, width) = (at.x.rows, Layer::<Double>::width(self));
        let mut a = vec![0.0; rows * width];
        self.0.forward(&mut Scratch::new(&cpu()), at.w, at.x, ViewMut::new(&mut a, 0, rows, width));
        a
    }

    /// `a` times the rows of `dy`, which may stack several directions.
    fn scaled(&self, at: Primal<Double>, dy: View<Double>) -> Vec<f64> {
        let a = self.inner(at);
        host(dy).iter().enumerate().map(|(i, dy)| dy * a[i % a.len()]).collect()
    }
}

impl Layer<Double> for Square {
    fn name(&self) -> &str {
        "square"
    }

    fn segment(&self) -> Option<Segment> {
        Layer::<Double>::segment(&self.0)
    }

    fn has_bias(&self) -> bool {
        Layer::<Double>::has_bias(&self.0)
    }

    fn width(&self) -> usize {
        Layer::<Double>::width(&self.0)
    }

    fn forward(
        &self,
        scratch: &mut Scratch<Double>,
        w: Option<View<Double>>,
        x: View<Double>,
        mut y: ViewMut<Double>,
    ) {
        self.0.forward(scratch, w, x, y.reborrow());
        for i in 0..y.rows {
            for j in 0..y.cols {
                let slot = &mut y.buffer[y.offset + i * y.row_stride + j];
                *slot = 0.5 * *slot * *slot;
            }
        }
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        v: Option<View<Double>>,
        rx: Option<View<Double>>,
        mut ry: ViewMut<Double>,
    ) {
        self.0.jvp(scratch, at, v, rx, ry.reborrow());
        let a = self.inner(at);
        let width = ry.cols;
        let ra: Vec<f64> = ry.buffer.clone();
        put(&mut ry, |i, j| ra[i * width + j] * a[(i * width + j) % a.len()], false);
    }

    fn backward(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        dx: Option<ViewMut<Double>>,
        dw: Option<ViewMut<Double>>,
    ) {
        let da = self.scaled(at, dy);
        self.0.backward(scratch, at, View::new(&da, 0, dy.rows, dy.cols), dx, dw);
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        direction: Direction<Double>,
        delta: Delta<Double>,
        rdx: Option<ViewMut<Double>>,
        dw: Option<ViewMut<Double>>,
    ) {
        // da = a dy, so R da = a Rdy + Ra dy.
        let Delta { dy, rdy } = delta;
        let mut ra = vec![0.0; rdy.rows * rdy.cols];
        let target = ViewMut::new(&mut ra, 0, rdy.rows, rdy.cols);
        self.0.jvp(scratch, at, direction.v, direction.rx, target);
        let (da, plain) = (self.scaled(at, dy), host(dy));
        let mut rda = self.scaled(at, rdy);
        rda.iter_mut().enumerate().for_each(|(i, rda)| *rda += ra[i] * plain[i % plain.len()]);
        let dy = View::new(&da, 0, dy.rows, dy.cols);
        let rdy = View::new(&rda, 0, rdy.rows, rdy.cols);
        self.0.r_backward(scratch, at, direction, Delta { dy, rdy }, rdx, dw);
    }

    fn example_gradients(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        out: ViewMut<Double>,
    ) {
        let da = self.scaled(at, dy);
        self.0.example_gradients(scratch, at, View::new(&da, 0, dy.rows, dy.cols), out);
    }
}
