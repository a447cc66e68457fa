//! Examples on the device, in row blocks.

use if_linalg::{Backend, HostArray, Real, View, ViewMut};

use crate::{Dataset, ModelError, Network};

/// Which examples a pass covers.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Examples `start..start + len`.
    Range(usize, usize),
    /// These examples, in this order.
    Indices(&'a [usize]),
}

impl Rows<'_> {
    /// The examples `first..first + len` of these.
    pub fn part(&self, first: usize, len: usize) -> Self {
        match self {
            Rows::Range(start, _) => Rows::Range(start + first, len),
            Rows::Indices(indices) => Rows::Indices(&indices[first..first + len]),
        }
    }

    /// Position in the data set of the `i`-th of these examples.
    pub fn index(&self, i: usize) -> usize {
        match self {
            Rows::Range(start, _) => start + i,
            Rows::Indices(indices) => indices[i],
        }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Rows::Range(_, len) => *len,
            Rows::Indices(indices) => indices.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A data set as a network reads it: features converted, flattened, and followed by a column of
/// ones, so that a bias is one more weight; targets as the loss takes them.
pub struct Inputs<B: Backend> {
    backend: B,
    n: usize,
    width: usize,
    features: Features<B>,
    targets: B::Buffer,
}

enum Features<B: Backend> {
    /// All rows, `n x (width + 1)`.
    Resident(B::Buffer),
    /// Converted block by block: same numbers, less memory.
    Streamed(HostArray),
}

impl<B: Backend> Inputs<B> {
    /// Checks `data` against `network` and brings it to the device; where the converted features
    /// would take more than `budget` bytes they stay on the host and are converted at each pass.
    ///
    /// # Errors
    /// Another number of features than the network's input, a label the loss cannot take, or a token id
    /// that the network does not know.
    pub fn new(network: &Network<B>, data: &Dataset, budget: usize) -> Result<Self, ModelError> {
        let (n, width) = (data.len(), data.width());
        if width != network.inputs() {
            return Err(ModelError::FeatureCount { found: width, expected: network.inputs() });
        }
        if let Some(vocabulary) = network.vocabulary() {
            check_ids(data.features(), vocabulary)?;
        }
        let backend = network.backend().clone();
        let targets = data.targets(network.loss(), network.outputs())?;
        let targets: Vec<B::Elem> = targets.into_iter().map(B::Elem::from_f64).collect();
        let bytes = Self::resident_bytes(n, width);
        let features = if bytes <= budget {
            let host = converted(data.features(), Rows::Range(0, n), width);
            Features::Resident(backend.upload(&host))
        } else {
            Features::Streamed(data.features().clone())
        };
        let targets = backend.upload(&targets);
        Ok(Self { backend, n, width, features, targets })
    }

    /// Bytes that `n` converted examples of `width` features take.
    pub fn resident_bytes(n: usize, width: usize) -> usize {
        n * (width + 1) * size_of::<B::Elem>()
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Never true: an empty data set cannot be made.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Where the examples are.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Targets as the loss takes them: class indices, -1 / +1, or real numbers (length `n`).
    pub fn targets(&self) -> Vec<f64> {
        let targets = self.backend.download(View::new(&self.targets, 0, self.n, 1));
        targets.into_iter().map(Real::to_f64).collect()
    }

    /// Number of row blocks.
    pub fn blocks(&self) -> usize {
        self.n.div_ceil(B::ROW_BLOCK)
    }

    /// Row block `b`.
    pub fn block(&self, b: usize) -> Rows<'static> {
        Rows::Range(b * B::ROW_BLOCK, B::ROW_BLOCK.min(self.n - b * B::ROW_BLOCK))
    }

    /// Features and targets of `rows`.
    pub fn batch(&self, rows: Rows) -> Batch<'_, B> {
        let stride = self.width + 1;
        let x = match (&self.features, rows) {
            (Features::Resident(all), Rows::Range(start, _)) => Part::Borrowed(all, start * stride),
            (Features::Resident(all), Rows::Indices(indices)) => {
                Part::Owned(self.gather(all, stride, indices))
            }
            (Features::Streamed(host), rows) => {
                Part::Owned(self.backend.upload(&converted(host, rows, self.width)))
            }
        };
        Batch { x, targets: self.column(&self.targets, rows), rows: rows.len(), width: self.width }
    }

    /// The part of a column of `n` numbers that belongs to `rows`.
    pub(crate) fn column<'a>(&self, column: &'a B::Buffer, rows: Rows) -> Part<'a, B> {
        match rows {
            Rows::Range(start, _) => Part::Borrowed(column, start),
            Rows::Indices(indices) => Part::Owned(self.gather(column, 1, indices)),
        }
    }

    /// Replaces the features of example `i` (floats, as the network reads them).
    ///
    /// # Panics
    /// Where features are converted anew in each pass, or `row` has another length.
    pub fn set_features(&mut self, i: usize, row: &[f64]) {
        assert_eq!(row.len(), self.width, "another number of features");
        let Features::Resident(all) = &mut self.features else { panic!("features stay on the host") };
        let row: Vec<B::Elem> = row.iter().map(|value| B::Elem::from_f64(*value)).collect();
        let row = self.backend.upload(&row);
        let target = ViewMut::new(all, i * (self.width + 1), 1, self.width);
        self.backend.copy(View::new(&row, 0, 1, self.width), target);
    }

    fn gather(&self, source: &B::Buffer, stride: usize, indices: &[usize]) -> B::Buffer {
        let mut rows = self.backend.zeros(indices.len() * stride);
        let target = ViewMut::new(&mut rows, 0, indices.len(), stride);
        self.backend.gather_rows(View::new(source, 0, self.n, stride), indices, target);
        rows
    }
}

/// Whether all features are token ids: whole numbers, below `vocabulary`.
fn check_ids(features: &HostArray, vocabulary: usize) -> Result<(), ModelError> {
    if let HostArray::U8(_) = features {
        return Err(ModelError::Unsupported(
            "token ids of type uint8 would be divided by 255, as pixels are; store them as float32 or float64"
                .into(),
        ));
    }
    let mut row = vec![0.0f64; features.width()];
    for example in 0..features.rows() {
        features.read_row(example, &mut row);
        let unknown = |id: &f64| id.fract() != 0.0 || *id >= vocabulary as f64;
        if let Some(position) = row.iter().position(unknown) {
            return Err(ModelError::TokenId { example, position, found: row[position], vocabulary });
        }
    }
    Ok(())
}

/// Rows of `host`, flattened, each followed by a one.
fn converted<T: Real>(host: &HostArray, rows: Rows, width: usize) -> Vec<T> {
    let mut out = vec![T::ONE; rows.len() * (width + 1)];
    for (i, row) in out.chunks_exact_mut(width + 1).enumerate() {
        host.read_row(rows.index(i), &mut row[..width]);
    }
    out
}

/// A buffer that is either a part of a larger one, from an offset on, or its own.
pub(crate) enum Part<'a, B: Backend> {
    Borrowed(&'a B::Buffer, usize),
    Owned(B::Buffer),
}

impl<B: Backend> Part<'_, B> {
    pub fn view(&self, rows: usize, cols: usize) -> View<'_, B> {
        match self {
            Part::Borrowed(buffer, offset) => View::new(*buffer, *offset, rows, cols),
            Part::Owned(buffer) => View::new(buffer, 0, rows, cols),
        }
    }
}

/// Some examples, ready for a pass.
pub struct Batch<'a, B: Backend> {
    x: Part<'a, B>,
    targets: Part<'a, B>,
    /// Number of examples.
    pub rows: usize,
    width: usize,
}

impl<B: Backend> Batch<'_, B> {
    /// Features with the column of ones: `rows x (width + 1)`.
    pub fn x(&self) -> View<'_, B> {
        self.x.view(self.rows, self.width + 1)
    }

    /// One column.
    pub fn targets(&self) -> View<'_, B> {
        self.targets.view(self.rows, 1)
    }
}
