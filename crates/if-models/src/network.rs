//! A network: a list of layers and a loss.

mod front;

use std::sync::{Arc, Mutex, PoisonError};

use if_linalg::{Backend, Block, Layout, Loss, Target, View, ViewMut};

use crate::ModelError;
use crate::inputs::Batch;
use crate::layer::{Delta, Dense, Direction, Frozen, Layer, Primal, Scratch};
use crate::tape::{Deltas, Directions, Point, Tape};

/// A feed-forward network and its loss. Linear models are networks of one dense layer.
///
/// Parameters are one vector, a [`Block`] with `k = 1`, with one segment per layer that has any.
pub struct Network<B: Backend> {
    backend: B,
    inputs: usize,
    layers: Vec<Arc<dyn Layer<B>>>,
    /// Segment of each layer's parameters.
    pub(crate) segments: Vec<Option<usize>>,
    /// For each layer the earlier activation that is added to its output: 0 is the input, `l + 1` the
    /// output of layer `l`.
    skips: Vec<Option<usize>>,
    layout: Arc<Layout>,
    loss: Loss,
    /// Examples that go through all layers together: one, a row block, or as many as the device wants in hand.
    part: usize,
    /// Buffers of earlier passes, one set for each that was under way at the same time.
    scratches: Arc<Mutex<Vec<Scratch<B>>>>,
}

impl<B: Backend> Clone for Network<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            layers: self.layers.clone(),
            segments: self.segments.clone(),
            skips: self.skips.clone(),
            layout: self.layout.clone(),
            scratches: self.scratches.clone(),
            ..*self
        }
    }
}

/// Columns that the directions of a group fill in a product.
const COLUMNS: usize = 256;
/// Tangents of the directions that go through a convolutional network together: about what a second-level cache holds.
const TANGENTS: usize = 1 << 18;
/// Examples that go through it together: few, as what one layer leaves is to be still in a cache when the next one reads
/// it, but so many that their products with small images run as long as what comes before and after.
const EXAMPLES: usize = 4;

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
        let by_example = layers.iter().any(|layer| layer.by_example());
        let widths = layers.iter().map(|layer| layer.width() + 1).sum::<usize>();
        let part = match B::IN_HAND {
            // A quarter of it, so that at least four directions share what belongs to the examples.
            Some(numbers) => (numbers / (4 * widths.max(1))).clamp(1, B::ROW_BLOCK),
            None if by_example => EXAMPLES,
            None => B::ROW_BLOCK,
        };
        let scratches = Arc::default();
        Self { backend: backend.clone(), inputs, layers, segments, skips, layout, loss, part, scratches }
    }

    /// The same network with an earlier activation added to the output of layer `layer`, which is a
    /// [`ResidualSum`](crate::layer::ResidualSum): `source` 0 is the input, `l + 1` the output of layer `l`.
    ///
    /// # Panics
    /// Where the two differ in width, `source` comes after `layer`, or `layer` is no residual sum or has a
    /// skip already.
    pub fn with_skip(mut self, layer: usize, source: usize) -> Self {
        assert!(source <= layer, "a skip leads forward");
        assert!(
            self.layers[layer].takes_skip() && self.skips[layer].is_none(),
            "no residual sum without a skip"
        );
        assert_eq!(self.width_into(source), self.layers[layer].width(), "widths of a residual sum differ");
        self.skips[layer] = Some(source);
        self
    }

    /// One dense layer `fc`: softmax, logistic or linear regression, or a linear SVM, as the loss says.
    pub fn linear(backend: &B, inputs: usize, outputs: usize, bias: bool, loss: Loss) -> Self {
        Self::new(backend, inputs, vec![Arc::new(Dense::new("fc", inputs, outputs, bias))], loss)
    }

    /// The same network, whose passes use the buffers of `other`'s, on the same device: for several that run one after
    /// another, such as the checkpoints of a training run.
    pub fn with_buffers_of(self, other: &Self) -> Self {
        Self { scratches: other.scratches.clone(), ..self }
    }

    /// The same layers under another loss, such as a smooth hinge at weights trained on the hinge.
    pub fn with_loss(&self, loss: Loss) -> Self {
        Self { loss, ..self.clone() }
    }

    /// The same network with only the layers `names` among its parameters, the others frozen at `theta`,
    /// and its parameters: influence through these layers alone.
    ///
    /// # Errors
    /// A name that no layer with parameters has.
    pub fn select(&self, theta: &Block<B>, names: &[&str]) -> Result<(Self, Block<B>), ModelError> {
        let selected = self.segments_named(names)?;
        let frozen = |l: usize, s: usize| -> Arc<dyn Layer<B>> {
            Arc::new(Frozen::new(&self.backend, self.layers[l].clone(), theta.stacked(s, 0, 1)))
        };
        let layers =
            self.layers.iter().zip(&self.segments).enumerate().map(|(l, (layer, segment))| match segment {
                Some(s) if !selected[*s] => frozen(l, *s),
                _ => layer.clone(),
            });
        let mut network = Self::new(&self.backend, self.inputs, layers.collect(), self.loss);
        network.skips = self.skips.clone();
        let mut chosen = Block::zeros(&self.backend, &network.layout, 1);
        for (own, there) in network.segments.iter().zip(&self.segments) {
            if let (Some(own), Some(there)) = (own, there) {
                chosen.copy_segment(*own, theta, *there);
            }
        }
        Ok((network, chosen))
    }

    /// Whether each segment of the layout belongs to a layer of `names`.
    ///
    /// # Errors
    /// A name that no layer with parameters has.
    pub fn segments_named(&self, names: &[&str]) -> Result<Vec<bool>, ModelError> {
        let known: Vec<&str> = self.parameter_layers().map(|layer| layer.name()).collect();
        match names.iter().find(|name| !known.contains(*name)) {
            Some(unknown) => {
                Err(ModelError::UnknownLayer { name: (*unknown).to_owned(), known: known.join(", ") })
            }
            None => Ok(known.iter().map(|name| names.contains(name)).collect()),
        }
    }

    /// Name of the last layer with parameters.
    pub fn last_layer(&self) -> Option<&str> {
        self.parameter_layers().last().map(|layer| layer.name())
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
            let wanted = if loss.is_measurement() { "labels" } else { name(wanted) };
            return Err(ModelError::Unsupported(format!(
                "expected a model that is trained on {wanted}, found one that is trained on {}",
                name(known)
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
        self.with_parameters().map(|l| &*self.layers[l])
    }

    /// Positions of the layers with parameters, one for each segment.
    pub(crate) fn with_parameters(&self) -> impl Iterator<Item = usize> {
        (0..self.layers.len()).filter(|l| self.segments[*l].is_some())
    }

    /// Whether each segment's last column is a bias.
    pub fn biases(&self) -> Vec<bool> {
        self.parameter_layers().map(|layer| layer.has_bias()).collect()
    }

    /// Bytes of a [`Tape`] and its [`Deltas`] for each example.
    pub(crate) fn passes_bytes(&self) -> usize {
        (2 * self.widths() + 2 * self.outputs() + 1) * size_of::<B::Elem>()
    }

    /// Numbers in all activations of an example, the ones included.
    fn widths(&self) -> usize {
        self.layers.iter().map(|layer| layer.width() + 1).sum()
    }

    /// Largest width of a layer.
    pub(crate) fn widest(&self) -> usize {
        self.layers.iter().map(|layer| layer.width()).max().unwrap_or(1)
    }

    /// Directions that go through all layers together: one after another where a cache counts and layers are
    /// wide, so that tangents stay there.
    pub(crate) fn group(&self) -> usize {
        let group = match B::IN_HAND {
            Some(numbers) => numbers / (self.part * self.widths()),
            None if self.part < B::ROW_BLOCK => TANGENTS / (self.part * self.widths()),
            None => COLUMNS / self.widest(),
        };
        group.max(1)
    }

    /// Cuts `rows` examples into parts (first, length) that are taken through all layers one after another: a few
    /// where a cache counts and layers take one after another anyway.
    pub(crate) fn parts(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let part = self.part;
        (0..rows).step_by(part).map(move |first| (first, part.min(rows - first)))
    }

    /// Calls `f` with buffers that earlier passes have left, so that not every task touches fresh memory.
    pub(crate) fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch<B>) -> R) -> R {
        // A list of buffers is whole whatever became of a thread that held the lock.
        let kept = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = kept().pop();
        let mut scratch = taken.unwrap_or_else(|| Scratch::new(&self.backend));
        let result = f(&mut scratch);
        kept().push(scratch);
        result
    }

    /// Runs all layers and the loss on `batch`.
    pub fn forward(&self, scratch: &mut Scratch<B>, theta: &Block<B>, batch: &Batch<B>) -> Tape<B> {
        let (total, outputs) = (batch.rows, self.outputs());
        let activations = self.layers.iter().map(|layer| scratch.take(total * (layer.width() + 1)));
        let mut tape = Tape {
            rows: total,
            outputs: activations.collect(),
            loss: [total, total * outputs, total * outputs].map(|len| scratch.take(len)),
        };
        for (first, rows) in self.parts(total) {
            for (l, layer) in self.layers.iter().enumerate() {
                let (before, rest) = tape.outputs.split_at_mut(l);
                let (out, width) = (&mut rest[0], layer.width());
                let x = self.input_of(l, before, batch).row_range(first, rows);
                layer.forward(scratch, self.weights(l, theta), x, activation_mut(out, (first, rows), width));
                if let Some(source) = self.skips[l] {
                    let source = self.input_of(source, before, batch).row_range(first, rows);
                    let target = activation_mut(out, (first, rows), width);
                    self.backend.add_all(&[source.col_range(0, width)], target);
                }
                let offset = first * (width + 1) + width;
                let ones = ViewMut { buffer: out, offset, rows, cols: 1, row_stride: width + 1 };
                self.backend.fill(1.0, ones);
            }
        }
        let [value, delta, curvature] = &mut tape.loss;
        self.backend.loss(
            self.loss,
            activation(&tape.outputs[self.layers.len() - 1], total, outputs),
            batch.targets(),
            ViewMut::new(value, 0, total, 1),
            ViewMut::new(delta, 0, total, outputs),
            ViewMut::new(curvature, 0, total, outputs),
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
    pub fn loss_hessian(&self, point: Point<B>, rz: View<B>, out: ViewMut<B>) {
        let curvature = point.rows_of(self.loss_curvature(point.tape));
        self.backend.loss_hessian(self.loss, curvature, rz, out);
    }

    /// What the second derivative of the loss is made of, see [`Backend::loss`]: `rows x outputs`.
    pub(crate) fn loss_curvature<'t>(&self, tape: &'t Tape<B>) -> View<'t, B> {
        View::new(&tape.loss[2], 0, tape.rows, self.outputs())
    }

    /// Tangents of every layer's output along `v`; the last entry is `Rz`, each `(k rows) x width`. Those of layers
    /// before the first with parameters, which would be zero, are empty.
    pub fn jvp(&self, scratch: &mut Scratch<B>, point: Point<B>, v: Directions<B>) -> Vec<B::Buffer> {
        let stacked = v.k * point.rows;
        let mut tangents: Vec<B::Buffer> = Vec::with_capacity(self.layers.len());
        let first = self.first_with_parameters().min(self.layers.len() - 1);
        tangents.resize_with(first, || scratch.take(0));
        for (l, layer) in self.layers.iter().enumerate().skip(first) {
            let width = layer.width();
            let mut buffer = scratch.take(stacked * width);
            let rx = self.tangent_into(l, &tangents, stacked);
            let direction = self.segments[l].map(|s| v.block.stacked(s, v.start, v.k));
            let at = self.primal(l, point);
            layer.jvp(scratch, at, direction, rx, ViewMut::new(&mut buffer, 0, stacked, width));
            let skipped = self.skips[l].and_then(|source| self.tangent_into(source, &tangents, stacked));
            if let Some(source) = skipped {
                self.backend.add_all(&[source], ViewMut::new(&mut buffer, 0, stacked, width));
            }
            tangents.push(buffer);
        }
        tangents
    }

    /// Back-propagates `dz` (`(k rows) x outputs`, `k` output gradients of the same examples) and
    /// calls `visit(l, primal, dy)` for every layer on the way, last to first, as far down as there are
    /// parameters. Returns the gradient with respect to the input where `to_input`.
    pub(crate) fn backward(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        dz: View<B>,
        to_input: bool,
        mut visit: impl FnMut(&mut Scratch<B>, usize, Primal<B>, View<B>),
    ) -> Option<B::Buffer> {
        let first = self.lowest(to_input);
        let mut owned: Option<B::Buffer> = None;
        let mut skipped = Skipped::new(self);
        for l in (first..self.layers.len()).rev() {
            let layer = &*self.layers[l];
            let at = self.primal(l, point);
            let dy = owned.as_ref().map_or(dz, |d| View::new(d, 0, dz.rows, layer.width()));
            skipped.keep(scratch, l, dy);
            visit(scratch, l, at, dy);
            if l == first && !to_input {
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

    /// Adds `(dz/dtheta)^T dz`, summed over the examples, to the vectors of `sum` from `start` on, for `k`
    /// stacked output gradients (`(k rows) x outputs`).
    pub fn add_gradients(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        dz: View<B>,
        (sum, start): (&mut Block<B>, usize),
    ) {
        let k = dz.rows / point.rows;
        self.backward(scratch, point, dz, false, |scratch, l, at, dy| {
            if let Some(s) = self.segments[l] {
                self.layers[l].backward(scratch, at, dy, None, Some(sum.stacked_mut(s, start, k)));
            }
        });
    }

    /// Back-propagates `dz` (`rows x outputs`) of a whole tape and keeps the gradient of every layer's
    /// output: of all layers where `to_input`, else as far down as there are parameters.
    pub fn deltas(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        dz: View<B>,
        to_input: bool,
    ) -> Deltas<B> {
        let first = self.lowest(to_input);
        let sizes = self.layers[first..].iter().map(|layer| point.tape.rows * layer.width());
        let mut deltas = Deltas { first, buffers: sizes.map(|len| scratch.take(len)).collect() };
        for (start, rows) in self.parts(point.tape.rows) {
            let part = dz.row_range(start, rows);
            self.backward(scratch, point.part(start, rows), part, to_input, |_, l, _, dy| {
                let target = ViewMut::new(&mut deltas.buffers[l - first], start * dy.cols, rows, dy.cols);
                self.backend.copy(dy, target);
            });
        }
        deltas
    }

    /// Gives the buffers back for reuse.
    pub(crate) fn release_deltas(&self, scratch: &mut Scratch<B>, deltas: Deltas<B>) {
        deltas.buffers.into_iter().for_each(|buffer| scratch.give(buffer));
    }

    /// What `deltas` hold of layer `l` at `point`, `rows x width`.
    pub(crate) fn delta_of<'t>(&self, deltas: &'t Deltas<B>, l: usize, point: Point<'t, B>) -> View<'t, B> {
        let width = self.layers[l].width();
        View::new(&deltas.buffers[l - deltas.first], point.first * width, point.rows, width)
    }

    /// The R-backward pass: adds to `sums.0`, from vector `sums.1` on, the derivative of the gradient
    /// along the directions `v`, whose tangents are those of [`jvp`](Self::jvp). `deltas` are the output
    /// gradients and `rdz` the derivative of the last of them, both with the examples' weights already in.
    /// Without `sums` it goes on to the input instead and returns the derivative of the gradient there,
    /// `(k rows) x inputs`.
    pub fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        point: Point<B>,
        (v, tangents): (Directions<B>, &[B::Buffer]),
        (deltas, rdz): (&Deltas<B>, View<B>),
        mut sums: Option<(&mut Block<B>, usize)>,
    ) -> Option<B::Buffer> {
        let to_input = sums.is_none();
        let first = self.lowest(to_input);
        let mut owned: Option<B::Buffer> = None;
        let mut skipped = Skipped::new(self);
        for l in (first..self.layers.len()).rev() {
            let layer = &*self.layers[l];
            let at = self.primal(l, point);
            let rdy = owned.as_ref().map_or(rdz, |rd| View::new(rd, 0, rdz.rows, layer.width()));
            skipped.keep(scratch, l, rdy);
            let direction = Direction {
                v: self.segments[l].map(|s| v.block.stacked(s, v.start, v.k)),
                rx: self.tangent_into(l, tangents, rdz.rows),
            };
            let dw = match (&mut sums, self.segments[l]) {
                (Some((out, start)), Some(s)) => Some(out.stacked_mut(s, *start, v.k)),
                _ => None,
            };
            let delta = Delta { dy: self.delta_of(deltas, l, point), rdy };
            if l == first && !to_input {
                layer.r_backward(scratch, at, direction, delta, None, dw);
                break;
            }
            let width = self.width_into(l);
            let mut rdx = scratch.take(rdz.rows * width);
            let target = Some(ViewMut::new(&mut rdx, 0, rdz.rows, width));
            layer.r_backward(scratch, at, direction, delta, target, dw);
            skipped.add_to(scratch, l, ViewMut::new(&mut rdx, 0, rdz.rows, width));
            if let Some(old) = owned.replace(rdx) {
                scratch.give(old);
            }
        }
        if to_input {
            return owned;
        }
        owned.into_iter().for_each(|buffer| scratch.give(buffer));
        None
    }

    fn weights<'t>(&self, l: usize, theta: &'t Block<B>) -> Option<View<'t, B>> {
        self.segments[l].map(|s| theta.stacked(s, 0, 1))
    }

    fn width_into(&self, l: usize) -> usize {
        if l == 0 { self.inputs } else { self.layers[l - 1].width() }
    }

    /// What goes into layer `l`, for the whole batch, with its column of ones.
    fn input_of<'t>(&self, l: usize, outputs: &'t [B::Buffer], batch: &'t Batch<B>) -> View<'t, B> {
        match l {
            0 => batch.x(),
            _ => View::new(&outputs[l - 1], 0, batch.rows, self.width_into(l) + 1),
        }
    }

    /// What layer `l` saw and gave at `point`.
    pub(crate) fn primal<'t>(&self, l: usize, point: Point<'t, B>) -> Primal<'t, B> {
        let y = View::new(&point.tape.outputs[l], 0, point.tape.rows, self.layers[l].width() + 1);
        Primal {
            w: self.weights(l, point.theta),
            x: point.rows_of(self.input_of(l, &point.tape.outputs, point.batch)),
            y: point.rows_of(y),
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
            Some(sum) => backend.add_all(&[dy], ViewMut::new(sum, 0, dy.rows, dy.cols)),
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
            self.network.backend.add_all(&[View::new(&sum, 0, dx.rows, dx.cols)], dx);
            scratch.give(sum);
        }
    }
}

/// The first `width` columns of an activation.
fn activation<B: Backend>(buffer: &B::Buffer, rows: usize, width: usize) -> View<'_, B> {
    View::new(buffer, 0, rows, width).with_stride(width + 1)
}

/// The same of the rows `first..first + rows`, writable.
fn activation_mut<B: Backend>(
    buffer: &mut B::Buffer,
    (first, rows): (usize, usize),
    width: usize,
) -> ViewMut<'_, B> {
    ViewMut::new(buffer, first * (width + 1), rows, width).with_stride(width + 1)
}
