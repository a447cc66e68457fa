//! A network: a list of layers and a loss.

use std::sync::Arc;

use if_linalg::{Backend, Block, Layout, Loss, Target, View, ViewMut};

use crate::ModelError;
use crate::inputs::Batch;
use crate::layer::{Delta, Dense, Direction, Layer, Primal, Scratch};

/// A feed-forward network and its loss. Linear models are networks of one dense layer.
///
/// Parameters are one vector, a [`Block`] with `k = 1`, with one segment per layer that has any.
pub struct Network<B: Backend> {
    backend: B,
    inputs: usize,
    layers: Vec<Arc<dyn Layer<B>>>,
    /// Segment of each layer's parameters.
    segments: Vec<Option<usize>>,
    /// For each layer the earlier activation that is added to its output: 0 is the input, `l + 1` the
    /// output of layer `l`.
    skips: Vec<Option<usize>>,
    layout: Arc<Layout>,
    loss: Loss,
}

impl<B: Backend> Clone for Network<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            layers: self.layers.clone(),
            segments: self.segments.clone(),
            skips: self.skips.clone(),
            layout: self.layout.clone(),
            ..*self
        }
    }
}

/// The forward pass of one row block, kept for everything that follows it.
pub struct Tape<B: Backend> {
    /// Number of examples.
    pub rows: usize,
    /// Output of each layer, `rows x (width + 1)` with a last column of ones.
    outputs: Vec<B::Buffer>,
    /// Losses (`rows`), then `dl/dz` and what the loss's Hessian needs (`rows x outputs` each).
    loss: [B::Buffer; 3],
}

/// Where derivatives are taken: parameters, some examples, and the network's pass over them.
pub struct Point<'a, B: Backend> {
    /// Parameters (`k = 1`).
    pub theta: &'a Block<B>,
    /// The examples.
    pub batch: &'a Batch<'a, B>,
    /// The forward pass of `batch` at `theta`.
    pub tape: &'a Tape<B>,
}

impl<B: Backend> Clone for Point<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Point<'_, B> {}

/// Directions in parameter space: the vectors `start..start + k` of a block.
pub struct Directions<'a, B: Backend> {
    /// Holds the vectors.
    pub block: &'a Block<B>,
    /// The first of them.
    pub start: usize,
    /// Their number.
    pub k: usize,
}

impl<B: Backend> Clone for Directions<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Directions<'_, B> {}

impl<B: Backend> Network<B> {
    /// The network `layers`, from `inputs` numbers per example.
    ///
    /// # Panics
    /// Where a layer that takes token ids is not the first.
    pub fn new(backend: &B, inputs: usize, layers: Vec<Arc<dyn Layer<B>>>, loss: Loss) -> Self {
        let takes_ids = |layer: &Arc<dyn Layer<B>>| layer.vocabulary().is_some();
        assert!(!layers.iter().skip(1).any(takes_ids), "token ids are what the first layer takes");
        let mut parameters = Vec::new();
        let mut segments = Vec::new();
        for layer in &layers {
            segments.push(layer.segment().map(|segment| {
                parameters.push(segment);
                parameters.len() - 1
            }));
        }
        let layout = Layout::new(parameters);
        let skips = vec![None; layers.len()];
        Self { backend: backend.clone(), inputs, layers, segments, skips, layout, loss }
    }

    /// The same network with an earlier activation added to the output of layer `layer`, which is a
    /// [`ResidualSum`](crate::layer::ResidualSum): `source` 0 is the input, `l + 1` the output of layer `l`.
    ///
    /// # Panics
    /// Where the two differ in width, or `source` comes after `layer`.
    pub fn with_skip(mut self, layer: usize, source: usize) -> Self {
        assert!(source <= layer, "a skip leads forward");
        assert_eq!(self.width_into(source), self.layers[layer].width(), "widths of a residual sum differ");
        self.skips[layer] = Some(source);
        self
    }

    /// One dense layer `fc`: softmax, logistic or linear regression, or a linear SVM, as the loss says.
    pub fn linear(backend: &B, inputs: usize, outputs: usize, bias: bool, loss: Loss) -> Self {
        Self::new(backend, inputs, vec![Arc::new(Dense::new("fc", inputs, outputs, bias))], loss)
    }

    /// The same layers under another loss, such as a smooth hinge at weights trained on the hinge.
    pub fn with_loss(&self, loss: Loss) -> Self {
        Self { loss, ..self.clone() }
    }

    /// The same layers with queries measured by `loss`, such as [`Loss::Margin`]: the targets stay what
    /// they are.
    ///
    /// # Errors
    /// A loss that takes other targets than the network's own.
    pub fn measured_by(&self, loss: Loss) -> Result<Self, ModelError> {
        let [wanted, known] = [loss, self.loss].map(|loss| loss.target(self.outputs()));
        if wanted != known {
            let name = |target| match target {
                Target::Class => "classes",
                Target::Sign => "-1 and +1",
                Target::Real => "real numbers",
            };
            let (wanted, known) = (name(wanted), name(known));
            return Err(ModelError::Unsupported(format!(
                "{loss:?} has {wanted} as targets, expected {known} as the training loss of this model has"
            )));
        }
        Ok(self.with_loss(loss))
    }

    /// Where it computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Numbers per example it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers per example it gives.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(self.inputs, |layer| layer.width())
    }

    /// How its parameters are laid out.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The loss.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Arc<dyn Layer<B>>] {
        &self.layers
    }

    /// The number of different tokens, where examples are token ids, see [`Layer::vocabulary`].
    pub fn vocabulary(&self) -> Option<usize> {
        self.layers.first().and_then(|layer| layer.vocabulary())
    }

    /// Whether it is one dense layer: outputs linear in the parameters.
    pub fn is_linear(&self) -> bool {
        matches!(&*self.layers, [only] if only.is_dense())
    }

    /// The layers with parameters, one for each segment.
    pub(crate) fn parameter_layers(&self) -> impl Iterator<Item = &dyn Layer<B>> {
        self.layers.iter().filter(|layer| layer.segment().is_some()).map(|layer| &**layer)
    }

    /// Whether each segment's last column is a bias.
    pub fn biases(&self) -> Vec<bool> {
        self.parameter_layers().map(|layer| layer.has_bias()).collect()
    }

    /// Bytes of a [`Tape`] for each example.
    pub fn tape_bytes(&self) -> usize {
        let activations: usize = self.layers.iter().map(|l| l.width() + 1).sum();
        (activations + 2 * self.outputs() + 1) * size_of::<B::Elem>()
    }

    /// Runs all layers and the loss on `batch`.
    pub fn forward(&self, scratch: &mut Scratch<B>, theta: &Block<B>, batch: &Batch<B>) -> Tape<B> {
        let (rows, backend, outputs) = (batch.rows, &self.backend, self.outputs());
        let mut tape = Tape {
            rows,
            outputs: Vec::with_capacity(self.layers.len()),
            loss: [rows, rows * outputs, rows * outputs].map(|len| scratch.take(len)),
        };
        for (l, layer) in self.layers.iter().enumerate() {
            let width = layer.width();
            let mut buffer = scratch.take(rows * (width + 1));
            let x = self.input_of(l, &tape, batch);
            layer.forward(scratch, self.weights(l, theta), x, activation_mut(&mut buffer, rows, width));
            if let Some(source) = self.skips[l] {
                let source = self.input_of(source, &tape, batch).col_range(0, width);
                add(backend, source, activation_mut(&mut buffer, rows, width));
            }
            let ones = ViewMut { buffer: &mut buffer, offset: width, rows, cols: 1, row_stride: width + 1 };
            backend.fill(1.0, ones);
            tape.outputs.push(buffer);
        }
        let [value, delta, curvature] = &mut tape.loss;
        backend.loss(
            self.loss,
            activation(&tape.outputs[self.layers.len() - 1], rows, outputs),
            batch.targets(),
            ViewMut::new(value, 0, rows, 1),
            ViewMut::new(delta, 0, rows, outputs),
            ViewMut::new(curvature, 0, rows, outputs),
        );
        tape
    }

    /// Gives a tape's buffers back for reuse.
    pub fn release(&self, scratch: &mut Scratch<B>, tape: Tape<B>) {
        tape.outputs.into_iter().chain(tape.loss).for_each(|buffer| scratch.give(buffer));
    }

    /// Losses of the tape's examples: `rows x 1`.
    pub fn losses<'t>(&self, tape: &'t Tape<B>) -> View<'t, B> {
        View::new(&tape.loss[0], 0, tape.rows, 1)
    }

    /// `dl/dz` of the tape's examples: `rows x outputs`.
    pub fn delta<'t>(&self, tape: &'t Tape<B>) -> View<'t, B> {
        View::new(&tape.loss[1], 0, tape.rows, self.outputs())
    }

    /// Outputs `z` of the tape's examples: `rows x outputs`.
    pub fn logits<'t>(&self, tape: &'t Tape<B>) -> View<'t, B> {
        activation(&tape.outputs[self.layers.len() - 1], tape.rows, self.outputs())
    }

    /// `out = (d2 l / dz2) rz` for `k` stacked directions (`(k rows) x outputs`).
    pub fn loss_hessian(&self, tape: &Tape<B>, rz: View<B>, out: ViewMut<B>) {
        let curvature = View::new(&tape.loss[2], 0, tape.rows, self.outputs());
        self.backend.loss_hessian(self.loss, curvature, rz, out);
    }

    /// What the second derivative of the loss is made of, see [`Backend::loss`]: `rows x outputs`.
    pub(crate) fn loss_curvature<'t>(&self, tape: &'t Tape<B>) -> View<'t, B> {
        View::new(&tape.loss[2], 0, tape.rows, self.outputs())
    }

    /// Tangents of every layer's output along `v`; the last entry is `Rz`, each `(k rows) x width`.
    pub fn jvp(&self, scratch: &mut Scratch<B>, point: Point<B>, v: Directions<B>) -> Vec<B::Buffer> {
        let (rows, k) = (point.tape.rows, v.k);
        let mut tangents: Vec<B::Buffer> = Vec::with_capacity(self.layers.len());
        for (l, layer) in self.layers.iter().enumerate() {
            let width = layer.width();
            let mut buffer = scratch.take(k * rows * width);
            let rx = self.tangent_into(l, &tangents, k * rows);
            let direction = self.segments[l].map(|s| v.block.stacked(s, v.start, k));
            let at = self.primal(l, point);
            layer.jvp(scratch, at, direction, rx, ViewMut::new(&mut buffer, 0, k * rows, width));
            let skipped = self.skips[l].and_then(|source| self.tangent_into(source, &tangents, k * rows));
            if let Some(source) = skipped {
                add(&self.backend, source, ViewMut::new(&mut buffer, 0, k * rows, width));
            }
            tangents.push(buffer);
        }
        tangents
    }

    /// Back-propagates `dz` (`(k rows) x outputs`, `k` output gradients of the same examples) and
    /// calls `visit(layer, primal, dy)` for every layer with parameters, last to first. Returns the
    /// gradient with respect to the input where `to_input`.
    pub fn backward(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        dz: View<B>,
        to_input: bool,
        mut visit: impl FnMut(&mut Scratch<B>, usize, &dyn Layer<B>, Primal<B>, View<B>),
    ) -> Option<B::Buffer> {
        let first = if to_input { 0 } else { self.first_with_parameters() };
        let mut owned: Option<B::Buffer> = None;
        let mut skipped = Skipped::new(self);
        for l in (0..self.layers.len()).rev() {
            let layer = &*self.layers[l];
            let at = self.primal(l, point);
            let dy = owned.as_ref().map_or(dz, |d| View::new(d, 0, dz.rows, layer.width()));
            skipped.keep(scratch, l, dy);
            if let Some(s) = self.segments[l] {
                visit(scratch, s, layer, at, dy);
            }
            if l < first || (l == first && !to_input) {
                break;
            }
            let width = self.width_into(l);
            let mut dx = scratch.take(dz.rows * width);
            layer.backward(scratch, at, dy, Some(ViewMut::new(&mut dx, 0, dz.rows, width)), None);
            skipped.add_to(scratch, l, ViewMut::new(&mut dx, 0, dz.rows, width));
            if let Some(old) = owned.replace(dx) {
                scratch.give(old);
            }
        }
        if to_input {
            return owned;
        }
        owned.into_iter().for_each(|buffer| scratch.give(buffer));
        None
    }

    /// The R-backward pass: adds to `sums.0`, from vector `sums.1` on, the derivative of the gradient
    /// along the directions `v`, whose tangents are those of [`jvp`](Self::jvp). `dz` is the output gradient and
    /// `rdz` its derivative, both with the examples' weights already in. Without `sums` it goes on to the
    /// input instead and returns the derivative of the gradient there, `(k rows) x inputs`.
    pub fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        (v, tangents): (Directions<B>, &[B::Buffer]),
        (dz, rdz): (View<B>, View<B>),
        mut sums: Option<(&mut Block<B>, usize)>,
    ) -> Option<B::Buffer> {
        let rows = point.tape.rows;
        let to_input = sums.is_none();
        let first = if to_input { 0 } else { self.first_with_parameters() };
        let mut owned: Option<[B::Buffer; 2]> = None;
        let (mut skipped, mut r_skipped) = (Skipped::new(self), Skipped::new(self));
        for l in (first..self.layers.len()).rev() {
            let layer = &*self.layers[l];
            let at = self.primal(l, point);
            let (dy, rdy) = match &owned {
                None => (dz, rdz),
                Some([d, rd]) => {
                    (View::new(d, 0, rows, layer.width()), View::new(rd, 0, rdz.rows, layer.width()))
                }
            };
            skipped.keep(scratch, l, dy);
            r_skipped.keep(scratch, l, rdy);
            let direction = Direction {
                v: self.segments[l].map(|s| v.block.stacked(s, v.start, v.k)),
                rx: self.tangent_into(l, tangents, rdz.rows),
            };
            let dw = match (&mut sums, self.segments[l]) {
                (Some((out, start)), Some(s)) => Some(out.stacked_mut(s, *start, v.k)),
                _ => None,
            };
            if l == first && !to_input {
                layer.r_backward(scratch, at, direction, Delta { dy, rdy }, None, dw);
                break;
            }
            let width = self.width_into(l);
            let mut dx = scratch.take(rows * width);
            let mut rdx = scratch.take(rdz.rows * width);
            layer.backward(scratch, at, dy, Some(ViewMut::new(&mut dx, 0, rows, width)), None);
            let target = Some(ViewMut::new(&mut rdx, 0, rdz.rows, width));
            layer.r_backward(scratch, at, direction, Delta { dy, rdy }, target, dw);
            skipped.add_to(scratch, l, ViewMut::new(&mut dx, 0, rows, width));
            r_skipped.add_to(scratch, l, ViewMut::new(&mut rdx, 0, rdz.rows, width));
            if let Some(old) = owned.replace([dx, rdx]) {
                old.into_iter().for_each(|buffer| scratch.give(buffer));
            }
        }
        let [dx, rdx] = owned?;
        scratch.give(dx);
        if to_input {
            return Some(rdx);
        }
        scratch.give(rdx);
        None
    }

    /// Below this layer nothing depends on parameters.
    fn first_with_parameters(&self) -> usize {
        self.segments.iter().position(Option::is_some).unwrap_or(self.layers.len())
    }

    fn weights<'t>(&self, l: usize, theta: &'t Block<B>) -> Option<View<'t, B>> {
        self.segments[l].map(|s| theta.stacked(s, 0, 1))
    }

    fn width_into(&self, l: usize) -> usize {
        if l == 0 { self.inputs } else { self.layers[l - 1].width() }
    }

    fn input_of<'t>(&self, l: usize, tape: &'t Tape<B>, batch: &'t Batch<B>) -> View<'t, B> {
        match l {
            0 => batch.x(),
            _ => View::new(&tape.outputs[l - 1], 0, batch.rows, self.width_into(l) + 1),
        }
    }

    fn primal<'t>(&self, l: usize, at: Point<'t, B>) -> Primal<'t, B> {
        let width = self.layers[l].width() + 1;
        Primal {
            w: self.weights(l, at.theta),
            x: self.input_of(l, at.tape, at.batch),
            y: View::new(&at.tape.outputs[l], 0, at.tape.rows, width),
        }
    }

    fn tangent_into<'t>(&self, l: usize, tangents: &'t [B::Buffer], rows: usize) -> Option<View<'t, B>> {
        (l > self.first_with_parameters()).then(|| View::new(&tangents[l - 1], 0, rows, self.width_into(l)))
    }
}

/// Output gradients on their way around residual blocks: for each activation what is to be added to its
/// gradient.
struct Skipped<'n, B: Backend> {
    network: &'n Network<B>,
    pending: Vec<Option<B::Buffer>>,
}

impl<'n, B: Backend> Skipped<'n, B> {
    fn new(network: &'n Network<B>) -> Self {
        Self { network, pending: (0..=network.layers.len()).map(|_| None).collect() }
    }

    /// Takes the gradient of layer `l`'s output to where the layer's skip comes from.
    fn keep(&mut self, scratch: &mut Scratch<B>, l: usize, dy: View<B>) {
        let Some(source) = self.network.skips[l] else { return };
        let backend = &self.network.backend;
        match &mut self.pending[source] {
            Some(sum) => add(backend, dy, ViewMut::new(sum, 0, dy.rows, dy.cols)),
            slot => {
                let mut copy = scratch.take(dy.rows * dy.cols);
                backend.copy(dy, ViewMut::new(&mut copy, 0, dy.rows, dy.cols));
                *slot = Some(copy);
            }
        }
    }

    /// Adds what was kept for the input of layer `l` to its gradient.
    fn add_to(&mut self, scratch: &mut Scratch<B>, l: usize, dx: ViewMut<B>) {
        if let Some(sum) = self.pending[l].take() {
            add(&self.network.backend, View::new(&sum, 0, dx.rows, dx.cols), dx);
            scratch.give(sum);
        }
    }
}

/// `y += x`.
fn add<B: Backend>(backend: &B, x: View<B>, y: ViewMut<B>) {
    let ones = vec![1.0; x.rows];
    backend.row_axpby(&ones, x, &ones, y);
}

/// The first `width` columns of an activation.
fn activation<B: Backend>(buffer: &B::Buffer, rows: usize, width: usize) -> View<'_, B> {
    View::new(buffer, 0, rows, width).with_stride(width + 1)
}

fn activation_mut<B: Backend>(buffer: &mut B::Buffer, rows: usize, width: usize) -> ViewMut<'_, B> {
    ViewMut::new(buffer, 0, rows, width).with_stride(width + 1)
}
