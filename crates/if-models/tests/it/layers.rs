//! Every layer through the kit, on every device; and a kit that sees every fault planted in a layer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::common::{Double, cpu};
use if_linalg::testing::{ACTIVATIONS, random};
use if_linalg::{Backend, Cpu, Segment, View, ViewMut, Window};
use if_models::layer::{
    BatchNorm, Conv2d, Delta, Dense, Direction, Elementwise, EmbeddingBag, Factors, Frozen, Layer, Pool2d,
    Pooling, Primal, ResidualSum, Scratch,
};
use if_models::testing::{LayerCheck, check_layer};
use proptest::prelude::*;

test_on_devices!(
    f64: dense, dense_of_any_shape, conv2d_of_any_shape, conv2d_in_groups, embedding_bag_of_any_shape,
    batch_norm_of_any_shape, pools_of_any_shape, elementwise, elementwise_of_any_shape,
    residual_sum_of_any_shape, frozen,
);

fn dense<B: Backend<Elem = f64>>(backend: &B) {
    for bias in [true, false] {
        for (inputs, outputs) in [(1, 1), (3, 1), (1, 4), (4, 3), (7, 5), (17, 2)] {
            for (rows, directions) in [(1, 1), (1, 3), (2, 1), (5, 3), (9, 33)] {
                let layer = Dense::new("fc", inputs, outputs, bias);
                check_layer(backend, &layer, LayerCheck { inputs, rows, directions, seed: 3 });
            }
        }
    }
}

/// Random sizes, as many as keep a run short.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() }
}

fn dense_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        inputs in 1usize..12, outputs in 1usize..9, rows in 1usize..9, directions in 1usize..6,
        bias: bool, seed in 0u64..1000,
    )| {
        let layer = Dense::new("fc", inputs, outputs, bias);
        check_layer(backend, &layer, LayerCheck { inputs, rows, directions, seed });
    });
}

/// Odd sizes, strides that leave a rest, windows as large as the image, padding beyond the image.
fn conv2d_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        channels in 1usize..4, height in 1usize..8, width in 1usize..8, kernel in (1usize..8, 1usize..8),
        stride in 1usize..4, padding in 0usize..4, outputs in 1usize..4, bias: bool,
        rows in 1usize..4, directions in 1usize..4, seed in 0u64..1000,
    )| {
        let window = Window { channels, image: [height, width], kernel: kernel.into(), stride, padding };
        prop_assume!(window.steps().is_some());
        let sizes = LayerCheck { inputs: window.inputs(), rows, directions, seed };
        check_layer(backend, &Conv2d::new("conv", window, outputs, bias), sizes);
    });
}

/// More and fewer tokens than an example has places, so that they repeat, and do not.
fn embedding_bag_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        vocabulary in 1usize..9, dim in 1usize..5, inputs in 1usize..7, rows in 1usize..6,
        directions in 1usize..5, seed in 0u64..1000,
    )| {
        let sizes = LayerCheck { inputs, rows, directions, seed };
        check_layer(backend, &EmbeddingBag::new("emb", vocabulary, dim), sizes);
    });
}

fn batch_norm_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        planes in 1usize..5, positions in 1usize..6, rows in 1usize..5, directions in 1usize..4,
        seed in 0u64..1000,
    )| {
        let mean = random(planes, seed);
        let variance = random(planes, seed + 1).iter().map(|v| 0.1 + v * v).collect();
        let layer = BatchNorm::new("bn", positions, mean, variance, 1e-5);
        check_layer(backend, &layer, LayerCheck { inputs: planes * positions, rows, directions, seed });
    });
}

fn pools_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        channels in 1usize..4, height in 1usize..8, width in 1usize..8, kernel in (1usize..8, 1usize..8),
        stride in 1usize..4, padding in 0usize..3, rows in 1usize..4, directions in 1usize..4,
        seed in 0u64..1000,
    )| {
        let window = Window { channels, image: [height, width], kernel: kernel.into(), stride, padding };
        prop_assume!(window.steps().is_some() && 2 * padding <= kernel.0.min(kernel.1));
        let sizes = LayerCheck { inputs: window.inputs(), rows, directions, seed };
        // Where two numbers are as near as a step of a difference, the maximum has a kink.
        let x = random(rows * window.inputs(), 100 * seed + 2);
        prop_assume!(x.chunks(height * width).all(|plane| {
            let mut sorted = plane.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.windows(2).all(|pair| pair[1] - pair[0] > 4e-5)
        }));
        for pooling in [Pooling::Max, Pooling::Mean] {
            check_layer(backend, &Pool2d::new(pooling, window), sizes);
        }
    });
}

/// More directions and positions than a piece of work holds: groups of one image, of some, and of all.
fn conv2d_in_groups<B: Backend<Elem = f64>>(backend: &B) {
    for (image, outputs, rows, directions) in [([3, 4], 2, 11, 1), ([4, 5], 3, 7, 5), ([5, 5], 4, 5, 33)] {
        let window = Window { channels: 2, image, kernel: [3, 2], stride: 1, padding: 1 };
        let sizes = LayerCheck { inputs: window.inputs(), rows, directions, seed: 7 };
        check_layer(backend, &Conv2d::new("conv", window, outputs, true), sizes);
    }
}

/// A mean that is large beside the deviation costs no digits but those that the numbers lack.
#[test]
fn batch_norm_in_single_precision() {
    let x: Vec<f32> = (0..8).map(|i| 1000.0 + 0.25 * i as f32).collect();
    let layer = BatchNorm::new("bn", 8, vec![1000.9], vec![0.5], 0.0);
    let (w, mut y) = (vec![1.0, 0.0], vec![0.0; 8]);
    layer.forward(
        &mut Scratch::new(&Cpu::<f32>::new()),
        Some(View::new(&w, 0, 1, 2)),
        View::new(&x, 0, 1, 8),
        ViewMut::new(&mut y, 0, 1, 8),
    );
    for (x, y) in x.iter().zip(y) {
        let expected = (f64::from(*x) - f64::from(1000.9f32)) / 0.5f64.sqrt();
        assert!((f64::from(y) - expected).abs() < 3e-7 * expected.abs(), "{y} is not {expected}");
    }
}

/// Against the definition, sum by sum, and the first of equal maxima.
#[test]
fn windows_by_hand() {
    let forward = |layer: &dyn Layer<Double>, w: &[f64], x: &[f64]| {
        let mut y = vec![0.0; layer.width()];
        let segment = layer.segment();
        let w_buffer = w.to_vec();
        let w = segment.as_ref().map(|s| View::new(&w_buffer, 0, s.rows, s.cols));
        let x = x.to_vec();
        let target = ViewMut::new(&mut y, 0, 1, layer.width());
        layer.forward(&mut Scratch::new(&cpu()), w, View::new(&x, 0, 1, x.len()), target);
        y
    };
    let window = Window { channels: 1, image: [3, 3], kernel: [2, 2], stride: 2, padding: 1 };
    let x: Vec<f64> = (1..=9).map(f64::from).collect();
    // Windows see (0 0 0 1), (0 0 2 3), (0 4 0 7), (5 6 8 9).
    let conv = Conv2d::new("conv", window, 1, true);
    assert_eq!(forward(&conv, &[1.0, 10.0, 100.0, 1000.0, 0.5], &x), [1000.5, 3200.5, 7040.5, 9865.5]);
    let max = Pool2d::new(Pooling::Max, window);
    assert_eq!(forward(&max, &[], &x), [1.0, 3.0, 7.0, 9.0]);
    let mean = Pool2d::new(Pooling::Mean, window);
    assert_eq!(forward(&mean, &[], &x), [0.25, 1.25, 2.75, 7.0]);
    // All equal: the gradient goes to the first.
    let window = Window { channels: 1, image: [2, 2], kernel: [2, 2], stride: 2, padding: 0 };
    let (equal, dy, mut dx) = (vec![3.0; 4], vec![1.0], vec![9.0; 4]);
    let (x, dy) = (View::<Double>::new(&equal, 0, 1, 4), View::new(&dy, 0, 1, 1));
    cpu().max_pool_scatter(&window, x, dy, ViewMut::new(&mut dx, 0, 1, 4));
    assert_eq!(dx, [1.0, 0.0, 0.0, 0.0]);
}

fn elementwise<B: Backend<Elem = f64>>(backend: &B) {
    for activation in ACTIVATIONS {
        for (inputs, rows, directions) in [(1, 1, 1), (1, 3, 2), (4, 1, 3), (5, 4, 3), (7, 9, 33)] {
            let layer = Elementwise::new(activation, inputs);
            check_layer(backend, &layer, LayerCheck { inputs, rows, directions, seed: 5 });
        }
    }
}

/// Rows of fewer and of more than the 512 numbers whose derivatives the processor keeps at a time. Catches: the later
/// part of a row with derivatives of the first, a direction with those of another example.
fn elementwise_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    for activation in ACTIVATIONS {
        // Differences take time with the square of the numbers: few cases of the wide ones.
        for (cases, widths, most) in [(10, 1usize..20, 9usize), (2, 513..600, 3)] {
            proptest!(ProptestConfig { cases, ..config() }, |(
                inputs in widths, rows in 1..most, directions in 1usize..5, seed in 0u64..1000,
            )| {
                // Within a step of a difference from 0, relu has both of its slopes.
                let x = random(rows * inputs, 100 * seed + 2);
                prop_assume!(x.iter().all(|x| x.abs() > 2e-5));
                let sizes = LayerCheck { inputs, rows, directions, seed };
                check_layer(backend, &Elementwise::new(activation, inputs), sizes);
            });
        }
    }
}

/// Catches: a tangent or a gradient that is scaled or added to what was there, and one that is not written where the
/// input does not move.
fn residual_sum_of_any_shape<B: Backend<Elem = f64>>(backend: &B) {
    proptest!(config(), |(
        inputs in 1usize..12, rows in 1usize..9, directions in 1usize..6, seed in 0u64..1000,
    )| {
        check_layer(backend, &ResidualSum::new(inputs), LayerCheck { inputs, rows, directions, seed });
    });
}

/// Every layer with parameters, at constant ones. Catches: a product without the weights that are held, and one that
/// drops the input's direction together with that of the weights.
fn frozen<B: Backend<Elem = f64>>(backend: &B) {
    let check = |layer: Arc<dyn Layer<B>>, inputs: usize| {
        let segment = layer.segment().expect("a layer with parameters");
        let w = backend.upload(&random(segment.rows * segment.cols, 8));
        let frozen = Frozen::new(backend, layer, View::new(&w, 0, segment.rows, segment.cols));
        for (rows, directions) in [(1, 1), (1, 3), (5, 3), (9, 33)] {
            check_layer(backend, &frozen, LayerCheck { inputs, rows, directions, seed: 3 });
        }
    };
    check(Arc::new(Dense::new("fc", 4, 3, true)), 4);
    let window = Window { channels: 2, image: [3, 4], kernel: [3, 2], stride: 1, padding: 1 };
    check(Arc::new(Conv2d::new("conv", window, 2, true)), window.inputs());
    check(Arc::new(BatchNorm::new("bn", 2, vec![0.3, -0.5, 0.1], vec![0.5, 1.0, 2.0], 1e-5)), 6);
    check(Arc::new(EmbeddingBag::new("emb", 5, 3)), 4);
}

#[test]
fn layers_with_curvature_of_their_own() {
    check_layer(&cpu(), &crate::common::Tanh { width: 4 }, LayerCheck::new(4));
    let square = crate::common::Square(Dense::new("square", 4, 3, true));
    check_layer(&cpu(), &square, LayerCheck::new(4));
}

/// What can be wrong with a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    ForwardScaled,
    ForwardTouchesOnes,
    JvpWithoutInput,
    JvpSecondDirection,
    BackwardSign,
    BackwardOverwrites,
    BackwardWithoutBias,
    RWithoutInput,
    RWithoutWeights,
    RSignOfWeights,
    RUsesFirstDirection,
    GradientsShifted,
    ScoresOverwrite,
    PairwiseOverwrites,
    FactorsScaled,
    MomentsWithoutBias,
    MomentsOverwrite,
    ScoresScaled,
    NormsOverwrite,
    NormsNotSquared,
}

const FAULTS: [Fault; 20] = [
    Fault::ForwardScaled,
    Fault::ForwardTouchesOnes,
    Fault::JvpWithoutInput,
    Fault::JvpSecondDirection,
    Fault::BackwardSign,
    Fault::BackwardOverwrites,
    Fault::BackwardWithoutBias,
    Fault::RWithoutInput,
    Fault::RWithoutWeights,
    Fault::RSignOfWeights,
    Fault::RUsesFirstDirection,
    Fault::GradientsShifted,
    Fault::ScoresOverwrite,
    Fault::PairwiseOverwrites,
    Fault::FactorsScaled,
    Fault::MomentsWithoutBias,
    Fault::MomentsOverwrite,
    Fault::ScoresScaled,
    Fault::NormsOverwrite,
    Fault::NormsNotSquared,
];

/// PyTorch's `EmbeddingBag(mode="mean")` with offsets: the mean over the tokens, padding not counted, a
/// token twice where it stands twice, zeros where there is none.
#[test]
fn embedding_bag_by_hand() {
    let layer: &dyn Layer<Double> = &EmbeddingBag::new("emb", 3, 2);
    let w = vec![1.0, 2.0, 10.0, 20.0, 100.0, 200.0];
    // Tokens [0, 2, 2], [1], [], each row followed by its one.
    let x = vec![0.0, 2.0, 2.0, 1.0, -1.0, 1.0, -3.0, 1.0, -1.0, -1.0, -1.0, 1.0];
    let (w, x) = (View::new(&w, 0, 3, 2), View::new(&x, 0, 3, 4));
    let mut y = vec![f64::NAN; 9];
    let scratch = &mut Scratch::new(&cpu());
    layer.forward(scratch, Some(w), x, ViewMut::new(&mut y, 0, 3, 2).with_stride(3));
    let found: Vec<f64> = y.chunks(3).flat_map(|row| row[..2].to_vec()).collect();
    crate::common::assert_close(&found, &[67.0, 134.0, 10.0, 20.0, 0.0, 0.0], 1e-15);

    let at = Primal { w: Some(w), x, y: View::new(&y, 0, 3, 3) };
    let dy = vec![3.0, 6.0, 1.0, 0.0, 5.0, 5.0];
    let dy = View::new(&dy, 0, 3, 2);
    let mut dw = vec![0.0; 6];
    layer.backward(scratch, at, dy, None, Some(ViewMut::new(&mut dw, 0, 3, 2)));
    crate::common::assert_close(&dw, &[1.0, 2.0, 1.0, 0.0, 2.0, 4.0], 1e-15);
    let mut squares = vec![0.0; 3];
    layer.squared_norms(scratch, at, dy, ViewMut::new(&mut squares, 0, 3, 1));
    crate::common::assert_close(&squares, &[25.0, 1.0, 0.0], 1e-15);
}

#[test]
fn the_kit_sees_every_fault() {
    let fails = |fault| {
        let layer = Faulty { inner: Dense::new("fc", 4, 3, true), fault };
        catch_unwind(AssertUnwindSafe(|| check_layer(&cpu(), &layer, LayerCheck::new(4)))).is_err()
    };
    assert!(!fails(Fault::None));
    let missed: Vec<Fault> = FAULTS.into_iter().filter(|&fault| !fails(fault)).collect();
    assert!(missed.is_empty(), "missed: {missed:?}");
}

/// A dense layer with one fault.
struct Faulty {
    inner: Dense,
    fault: Fault,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Changes the numbers of a target after the fact.
    fn edit(target: &mut ViewMut<Double>, f: impl Fn(usize, usize, f64) -> f64) {
        for i in 0..target.rows {
            for j in 0..target.cols {
                let slot = &mut target.buffer[target.offset + i * target.row_stride + j];
                *slot = f(i, j, *slot);
            }
        }
    }
}

impl Layer<Double> for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn segment(&self) -> Option<Segment> {
        Layer::<Double>::segment(&self.inner)
    }

    fn has_bias(&self) -> bool {
        true
    }

    fn width(&self) -> usize {
        Layer::<Double>::width(&self.inner)
    }

    fn forward(
        &self,
        scratch: &mut Scratch<Double>,
        w: Option<View<Double>>,
        x: View<Double>,
        mut y: ViewMut<Double>,
    ) {
        self.inner.forward(scratch, w, x, y.reborrow());
        if self.is(Fault::ForwardScaled) {
            Self::edit(&mut y, |_, _, v| 1.001 * v);
        }
        if self.is(Fault::ForwardTouchesOnes) {
            y.cols += 1;
            Self::edit(&mut y, |_, j, v| if j == 3 { 0.0 } else { v });
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
        let rx = rx.filter(|_| !self.is(Fault::JvpWithoutInput));
        let rows = at.x.rows;
        self.inner.jvp(scratch, at, v, rx, ry.reborrow());
        if self.is(Fault::JvpSecondDirection) {
            Self::edit(&mut ry, |i, _, v| if i >= rows { 2.0 * v } else { v });
        }
    }

    fn backward(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        mut dx: Option<ViewMut<Double>>,
        mut dw: Option<ViewMut<Double>>,
    ) {
        if let Some(dw) = dw.as_mut().filter(|_| self.is(Fault::BackwardOverwrites)) {
            Self::edit(dw, |_, _, _| 0.0);
        }
        self.inner.backward(
            scratch,
            at,
            dy,
            dx.as_mut().map(ViewMut::reborrow),
            dw.as_mut().map(ViewMut::reborrow),
        );
        if let Some(dx) = dx.as_mut().filter(|_| self.is(Fault::BackwardSign)) {
            Self::edit(dx, |_, _, v| -v);
        }
        if let Some(dw) = dw.as_mut().filter(|_| self.is(Fault::BackwardWithoutBias)) {
            Self::edit(dw, |_, j, v| if j == 4 { 1.0 } else { v });
        }
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
        let rows = at.x.rows;
        let mut direction = direction;
        match self.fault {
            Fault::RWithoutInput => direction.rx = None,
            Fault::RWithoutWeights => direction.v = None,
            _ => {}
        }
        let negative = direction.v.map(|v| {
            let host: Vec<f64> = cpu().download(v).iter().map(|v| -v).collect();
            (host, v.rows, v.cols)
        });
        if let Some((host, rows, cols)) = negative.as_ref().filter(|_| self.is(Fault::RSignOfWeights)) {
            direction.v = Some(View::new(host, 0, *rows, *cols));
        }
        let first = cpu().download(delta.rdy.row_range(0, rows)).repeat(delta.rdy.rows / rows);
        let mut delta = delta;
        if self.is(Fault::RUsesFirstDirection) {
            delta.rdy = View::new(&first, 0, delta.rdy.rows, delta.rdy.cols);
        }
        self.inner.r_backward(scratch, at, direction, delta, rdx, dw);
    }

    fn example_gradients(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        mut out: ViewMut<Double>,
    ) {
        self.inner.example_gradients(scratch, at, dy, out.reborrow());
        if self.is(Fault::GradientsShifted) {
            let before: Vec<f64> = out.buffer.clone();
            let (stride, rows) = (out.row_stride, out.rows);
            Self::edit(&mut out, |i, j, _| before[((i + 1) % rows) * stride + j]);
        }
    }

    fn gradient_terms(&self) -> Option<usize> {
        Layer::<Double>::gradient_terms(&self.inner)
    }

    fn gradient_factors(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        (mut left, right): (ViewMut<Double>, ViewMut<Double>),
    ) {
        self.inner.gradient_factors(scratch, at, dy, (left.reborrow(), right));
        if self.is(Fault::FactorsScaled) {
            Self::edit(&mut left, |_, j, v| if j == 1 { 2.0 * v } else { v });
        }
    }

    fn ghost_scores(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        v: View<Double>,
        mut out: ViewMut<Double>,
    ) {
        if self.is(Fault::ScoresOverwrite) {
            Self::edit(&mut out, |_, _, _| 0.0);
        }
        self.inner.ghost_scores(scratch, at, dy, v, out.reborrow());
        if self.is(Fault::ScoresScaled) {
            Self::edit(&mut out, |_, j, v| if j == 1 { 1.0 + 2.0 * (v - 1.0) } else { v });
        }
    }

    fn pairwise_scores(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        v: Factors<Double>,
        mut out: ViewMut<Double>,
    ) {
        if self.is(Fault::PairwiseOverwrites) {
            Self::edit(&mut out, |_, _, _| 0.0);
        }
        self.inner.pairwise_scores(scratch, at, dy, v, out.reborrow());
    }

    fn input_moments(&self, scratch: &mut Scratch<Double>, at: Primal<Double>, mut out: ViewMut<Double>) {
        self.inner.input_moments(scratch, at, out.reborrow());
        if self.is(Fault::MomentsWithoutBias) {
            Self::edit(&mut out, |i, j, v| if i == 4 || j == 4 { 1.0 } else { v });
        }
    }

    fn output_moments(&self, scratch: &mut Scratch<Double>, dy: View<Double>, mut out: ViewMut<Double>) {
        if self.is(Fault::MomentsOverwrite) {
            Self::edit(&mut out, |_, _, _| 0.0);
        }
        self.inner.output_moments(scratch, dy, out);
    }

    fn squared_norms(
        &self,
        scratch: &mut Scratch<Double>,
        at: Primal<Double>,
        dy: View<Double>,
        mut out: ViewMut<Double>,
    ) {
        if self.is(Fault::NormsOverwrite) {
            Self::edit(&mut out, |_, _, _| 0.0);
        }
        self.inner.squared_norms(scratch, at, dy, out.reborrow());
        if self.is(Fault::NormsNotSquared) {
            Self::edit(&mut out, |_, _, v| 1.0 + (v - 1.0).sqrt());
        }
    }
}
