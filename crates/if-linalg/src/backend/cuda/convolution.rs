//! Convolutions without patches in memory: how their work is cut for the kernels of convolution.cu, which say what
//! the words mean.
//!
//! Cuts follow from shapes and the type of numbers alone, and so does the order of sums.

use cudarc::driver::DeviceRepr;

use super::kernels::Division;
use super::{Cuda, CudaReal};
use crate::{View, ViewMut, Window};

/// Threads of a warp, which run together.
const WARP: usize = 32;
/// Threads of a block, at most.
const THREADS: usize = 256;
/// Outputs of a thread: `OUTS`.
const OUTS: usize = 8;
/// Windows of a thread of `convolve`, below each other: there is a kernel for each.
const STRIPS: [usize; 2] = [7, 8];
/// Offsets of a tile of weights: `OFFSETS`.
const OFFSETS: usize = 9;
/// Images that a block has at once, at most.
const IMAGES: usize = 8;
/// Planes that a block of `convolve` has at once, at most: some are on their way while others are at work.
const FEW: usize = 4;
/// Bytes of shared memory that every device gives a block.
const SHARED: usize = 48 << 10;
/// Blocks for one direction that keep a device busy.
const BLOCKS: usize = 1024;

// Rough costs, in instructions of a thread, by which cuts are compared.

/// A multiply-add with its share of loads.
const PRODUCT: f64 = 1.2;
/// A number copied to shared memory.
const COPY: f64 = 10.0;
/// The start of a column of windows.
const COLUMN: f64 = 60.0;
/// All threads that wait for a copy.
const WAIT: f64 = 20_000.0;

/// A convolution of stride 1.
struct Convolution {
    /// Of the images.
    planes: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    /// Lines of zeros above and to the left.
    before: [usize; 2],
    windows: [usize; 2],
}

/// What a block has in shared memory at once.
#[derive(Clone, Copy)]
struct Cut {
    images: usize,
    lines: usize,
    planes: usize,
    /// Numbers of a plane.
    plane: usize,
}

impl Cut {
    /// Numbers in shared memory: weights for `outs` outputs and images, of two chunks in turn.
    fn filter_numbers(&self, convolution: &Convolution, outs: usize) -> usize {
        let half = self.planes * (self.images * self.plane + convolution.area() * outs);
        if self.planes < convolution.planes { 2 * half.next_multiple_of(4) } else { half }
    }

    /// Numbers in shared memory: a plane of ones, images and what came of them, of two turns in turn.
    fn weights_numbers(&self, convolution: &Convolution, groups: usize) -> usize {
        let windows = odd(self.lines * convolution.windows[1]);
        self.plane + 2 * self.images * (self.planes * self.plane + groups * OUTS * windows)
    }
}

/// How the products of images with weights are cut.
struct ConvolveCut {
    at_once: Cut,
    /// Windows of a thread.
    strip: usize,
    /// Groups of [`OUTS`] outputs in a block.
    groups: usize,
    threads: usize,
}

/// How sums of weights are cut.
struct WeightsCut {
    at_once: Cut,
    /// Groups of [`OUTS`] outputs in a block.
    groups: usize,
    /// Tiles of offsets in a block.
    tiles: usize,
    /// Threads of a tile.
    splits: usize,
    threads: usize,
}

impl Convolution {
    fn new(window: &Window) -> Self {
        let windows = window.steps().expect("the window fits the image");
        let Window { channels: planes, image, kernel, padding, .. } = *window;
        Self { planes, image, kernel, before: [padding; 2], windows }
    }

    /// The transpose: images and windows have changed places, and the kernel is mirrored.
    fn transposed(window: &Window, outputs: usize) -> Self {
        let Self { image, kernel, windows, .. } = Self::new(window);
        let before = kernel.map(|size| size - 1 - window.padding);
        Self { planes: outputs, image: windows, kernel, before, windows: image }
    }

    fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn patch(&self) -> usize {
        self.planes * self.area()
    }

    /// Numbers of a line in shared memory, with the zeros around it.
    fn pitch(&self) -> usize {
        self.windows[1] + self.kernel[1] - 1
    }

    /// Numbers in shared memory under `lines` lines of windows.
    fn plane(&self, lines: usize) -> usize {
        (lines + self.kernel[0] - 1) * self.pitch()
    }

    fn bands(&self, lines: usize) -> usize {
        self.windows[0].div_ceil(lines)
    }

    /// Images and lines, whole `strip`s of them, that a block may have at once.
    fn portions(&self, strip: usize) -> impl Iterator<Item = (usize, usize)> {
        let strips = shares(self.windows[0].div_ceil(strip));
        strips.flat_map(move |strips| (1..=IMAGES).map(move |images| (images, strips * strip)))
    }

    /// The cheapest cut for `outputs` planes, where there is one.
    fn convolve_cut<T>(&self, outputs: usize) -> Option<ConvolveCut> {
        cheapest(self.convolve_cuts::<T>(outputs))
    }

    /// All cuts that fit a block, with their costs.
    fn convolve_cuts<T>(&self, outputs: usize) -> impl Iterator<Item = (f64, ConvolveCut)> {
        let kinds = STRIPS
            .into_iter()
            .flat_map(move |strip| shares(outputs.div_ceil(OUTS)).map(move |groups| (strip, groups)));
        kinds.flat_map(move |kind| {
            let cuts = self.portions(kind.0);
            cuts.filter_map(move |portion| self.convolve_cut_into::<T>(outputs, kind, portion))
        })
    }

    fn convolve_cut_into<T>(
        &self,
        outputs: usize,
        (strip, groups): (usize, usize),
        (images, lines): (usize, usize),
    ) -> Option<(f64, ConvolveCut)> {
        let (outs, area, plane) = (groups * OUTS, self.area(), self.plane(lines));
        let threads = (groups * images * (lines / strip) * self.windows[1]).next_multiple_of(WARP);
        if threads > THREADS {
            return None;
        }
        let cuts = (1..=FEW.min(self.planes)).rev().map(|planes| Cut { images, lines, planes, plane });
        let at_once = cuts
            .filter(|cut| self.planes.div_ceil(self.planes.div_ceil(cut.planes)) == cut.planes)
            .find(|cut| cut.filter_numbers(self, outs) * size_of::<T>() <= SHARED)?;
        let products = (threads * OUTS * strip * area * self.planes) as f64;
        let copies = (self.planes * (images * plane + area * outs)) as f64;
        let waits = self.planes.div_ceil(at_once.planes) as f64;
        let blocks = (outputs.div_ceil(outs) * self.bands(lines)) as f64;
        let cost = blocks * (PRODUCT * products + COPY * copies + WAIT * waits) / images as f64;
        Some((cost, ConvolveCut { at_once, strip, groups, threads }))
    }

    /// Tiles of offsets, one more for the bias.
    fn tiles(&self, bias: bool) -> usize {
        self.patch().div_ceil(OFFSETS) + usize::from(bias)
    }

    /// The cheapest cut for the sums of weights of `outputs` planes over `examples`, where there is one.
    fn weights_cut<T>(&self, outputs: usize, bias: bool, examples: usize) -> Option<WeightsCut> {
        cheapest(self.weights_cuts::<T>(outputs, bias, examples))
    }

    /// All cuts that fit a block, with their costs.
    fn weights_cuts<T>(
        &self,
        outputs: usize,
        bias: bool,
        examples: usize,
    ) -> impl Iterator<Item = (f64, WeightsCut)> {
        let sizes = (outputs, self.tiles(bias));
        let kinds = shares(sizes.1).flat_map(move |tiles| {
            let planes = self.planes_under(tiles * OFFSETS);
            shares(outputs.div_ceil(OUTS)).map(move |groups| (tiles, planes, groups))
        });
        let room = kinds.filter(|(tiles, _, groups)| tiles * groups <= THREADS);
        room.flat_map(move |kind| {
            let cuts = self.portions(1).filter(move |(images, _)| *images <= examples);
            cuts.filter_map(move |portion| self.weights_cut_into::<T>(sizes, kind, portion))
        })
    }

    fn weights_cut_into<T>(
        &self,
        (outputs, all_tiles): (usize, usize),
        (tiles, planes, groups): (usize, usize, usize),
        (images, lines): (usize, usize),
    ) -> Option<(f64, WeightsCut)> {
        let splits = THREADS / (tiles * groups);
        let threads = (splits * tiles * groups).next_multiple_of(WARP);
        let at_once = Cut { images, lines, planes, plane: odd(self.plane(lines)) };
        let numbers = at_once.weights_numbers(self, groups);
        if numbers.max(OFFSETS * threads) * size_of::<T>() > SHARED {
            return None;
        }
        let columns = threads * (images * self.windows[1]).div_ceil(splits);
        let products = PRODUCT * (columns * lines * OUTS * OFFSETS) as f64;
        let blocks = all_tiles.div_ceil(tiles) * outputs.div_ceil(groups * OUTS) * self.bands(lines);
        let cost = products + COLUMN * columns as f64 + COPY * (numbers / 2) as f64 + WAIT;
        let cost = blocks as f64 * cost / images as f64;
        Some((cost, WeightsCut { at_once, groups, tiles, splits, threads }))
    }

    /// The most planes that `offsets` rows of the patch matrix lie in, counted from a multiple of so many on.
    fn planes_under(&self, offsets: usize) -> usize {
        let spans = (0..self.patch()).step_by(offsets).map(|first| {
            let last = (first + offsets).min(self.patch()) - 1;
            last / self.area() - first / self.area() + 1
        });
        spans.max().unwrap_or(0)
    }
}

fn cheapest<C>(cuts: impl Iterator<Item = (f64, C)>) -> Option<C> {
    cuts.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, cut)| cut)
}

/// The least sizes of 1, 2, ... equal shares of `all`, the largest first.
fn shares(all: usize) -> impl Iterator<Item = usize> {
    let size = move |number: usize| all.div_ceil(number);
    (1..=all).filter(move |number| *number == 1 || size(*number) < size(*number - 1)).map(size)
}

/// The next odd number: lines so far apart lie in different banks of shared memory.
fn odd(number: usize) -> usize {
    number | 1
}

/// `struct Planes`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Planes {
    numbers: [i32; 15],
    divisions: [Division; 2],
}

// SAFETY: it has the layout of `struct Planes` in convolution.cu: 15 integers and two `Division`, all of 32 bits.
unsafe impl DeviceRepr for Planes {}

impl Planes {
    fn new(convolution: &Convolution, cut: Cut) -> Self {
        let Convolution { planes, image: [height, width], kernel, before, windows } = *convolution;
        let ([down, across], pitch) = (windows, convolution.pitch());
        let all = [
            planes,
            height,
            width,
            kernel[0],
            kernel[1],
            before[0],
            before[1],
            down,
            across,
            cut.lines,
            convolution.bands(cut.lines),
            cut.images,
            cut.planes,
            cut.plane,
            pitch,
        ];
        let by = [pitch, across];
        Self {
            numbers: all.map(|number| i32::try_from(number).expect("an image has fewer pixels")),
            divisions: by.map(Division::new),
        }
    }
}

/// `struct Filter`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Filter {
    outputs: i32,
    sets: i32,
    groups: i32,
    mirrored: i32,
    bias: i32,
    out_step: i64,
    plane_step: i64,
    matrix_step: i64,
    divisions: [Division; 4],
}

// SAFETY: it has the layout of `struct Filter` in convolution.cu, member by member.
unsafe impl DeviceRepr for Filter {}

/// `struct Tiles`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tiles {
    outputs: i32,
    bias: i32,
    groups: i32,
    tiles: i32,
    all_tiles: i32,
    splits: i32,
    line: i32,
    directions: i64,
    examples: i64,
    of_a_part: i64,
    divisions: [Division; 2],
}

// SAFETY: it has the layout of `struct Tiles` in convolution.cu, member by member.
unsafe impl DeviceRepr for Tiles {}

/// A convolution by each of some stacked matrices of weights, and how they lie.
pub(super) struct Filters<'a, T: CudaReal> {
    convolution: Convolution,
    w: View<'a, Cuda<T>>,
    /// Rows of each.
    rows: usize,
    /// Planes that come out, and the distances of their weights and those of planes that go in.
    outputs: usize,
    out_step: usize,
    plane_step: usize,
    mirrored: bool,
    bias: bool,
}

impl<'a, T: CudaReal> Filters<'a, T> {
    /// Of matrices of `rows` rows, one for each plane that comes out.
    pub(super) fn new(window: &Window, w: View<'a, Cuda<T>>, rows: usize) -> Self {
        let convolution = Convolution::new(window);
        let (plane_step, bias) = (convolution.area(), w.cols > convolution.patch());
        let out_step = w.row_stride;
        Self { convolution, w, rows, outputs: rows, out_step, plane_step, mirrored: false, bias }
    }

    /// The transpose, without bias.
    pub(super) fn transposed(window: &Window, w: View<'a, Cuda<T>>, rows: usize) -> Self {
        let convolution = Convolution::transposed(window, rows);
        let (outputs, out_step, plane_step) = (window.channels, convolution.area(), w.row_stride);
        Self { convolution, w, rows, outputs, out_step, plane_step, mirrored: true, bias: false }
    }
}

/// Whether all three products can be cut for `window`.
pub(super) fn applies<T>(window: &Window) -> bool {
    // More planes than are at work at once have to fit twice.
    let many = Window { channels: FEW + 1, ..*window };
    window.stride == 1
        && window.kernel.iter().all(|size| window.padding < *size)
        && Convolution::new(&many).convolve_cuts::<T>(1).next().is_some()
        && Convolution::transposed(window, FEW + 1).convolve_cuts::<T>(1).next().is_some()
        && Convolution::new(window).weights_cuts::<T>(1, true, 1).next().is_some()
}

impl<T: CudaReal> Cuda<T> {
    /// Every row of `y` becomes that of `x` convolved by its matrix.
    pub(super) fn filter_images(&self, filters: &Filters<T>, x: View<Self>, beta: f64, y: ViewMut<Self>) {
        let &Filters { ref convolution, w, rows, outputs, out_step, plane_step, mirrored, bias } = filters;
        if w.rows == 0 || y.rows == 0 {
            return;
        }
        let count = w.rows / rows;
        let of_a_matrix = y.rows / count;
        let run = of_a_matrix.min(x.rows);
        assert!(
            of_a_matrix.is_multiple_of(run) && x.rows.is_multiple_of(run),
            "directions have different examples"
        );
        let ConvolveCut { at_once, strip, groups, threads } =
            convolution.convolve_cut::<T>(outputs).expect("only what can be cut is convolved");
        let (outs, area) = (groups * OUTS, convolution.area());
        let sets = outputs.div_ceil(outs);
        let of_an_image = at_once.lines / strip * convolution.windows[1];
        let filter = Filter {
            outputs: outputs as i32,
            sets: sets as i32,
            groups: groups as i32,
            mirrored: i32::from(mirrored),
            bias: i32::from(bias),
            out_step: out_step as i64,
            plane_step: plane_step as i64,
            matrix_step: (rows * w.row_stride) as i64,
            divisions: [outs, area, at_once.images * of_an_image, of_an_image].map(Division::new),
        };
        let planes = Planes::new(convolution, at_once);
        let numbers = count * sets * (convolution.patch() + 1) * outs;
        let arranged = self.allocate::<T>(numbers);
        let (grid, weights) = (self.each(numbers), w.matrix().data);
        launch!(self, "arrange_weights", grid, planes, filter, count as i64, weights, arranged.at(0));

        let shared = at_once.filter_numbers(convolution, outs) * size_of::<T>();
        let block = (threads as u32, shared as u32);
        let bands = convolution.bands(at_once.lines);
        let blocks = y.rows / run * run.div_ceil(at_once.images) * bands;
        let grid = (blocks as u32, sets as u32);
        let (arranged, run, of_a_matrix) = (arranged.at(0), run as i64, of_a_matrix as i64);
        let (x, beta, y) = (x.matrix(), T::from_f64(beta), y.matrix());
        if strip == STRIPS[0] {
            launch!(self, "convolve_7", grid, block: block, planes, filter, arranged, run, of_a_matrix, x, beta, y);
        } else {
            launch!(self, "convolve_8", grid, block: block, planes, filter, arranged, run, of_a_matrix, x, beta, y);
        }
    }

    /// [`Backend::convolve_weights`](crate::Backend::convolve_weights).
    pub(super) fn sum_weights(&self, window: &Window, dy: View<Self>, x: View<Self>, dw: ViewMut<Self>) {
        let convolution = Convolution::new(window);
        let outputs = dy.cols / window.positions();
        let directions = dw.rows / outputs.max(1);
        if directions == 0 || dy.rows == 0 || x.rows == 0 {
            return;
        }
        let examples = dy.rows.max(x.rows) / directions;
        let bias = dw.cols > convolution.patch();
        let WeightsCut { at_once, groups, tiles, splits, threads } =
            convolution.weights_cut::<T>(outputs, bias, examples).expect("only what can be cut is convolved");
        let (all_tiles, outs) = (convolution.tiles(bias), groups * OUTS);
        let blocks = all_tiles.div_ceil(tiles) * outputs.div_ceil(outs);
        let of_a_part = examples.div_ceil(BLOCKS.div_ceil(blocks)).next_multiple_of(at_once.images);
        let parts = examples.div_ceil(of_a_part);
        let windows = at_once.lines * convolution.windows[1];
        let cut = Tiles {
            outputs: outputs as i32,
            bias: i32::from(bias),
            groups: groups as i32,
            tiles: tiles as i32,
            all_tiles: all_tiles as i32,
            splits: splits as i32,
            line: odd(windows) as i32,
            directions: directions as i64,
            examples: examples as i64,
            of_a_part: of_a_part as i64,
            divisions: [groups * tiles, groups].map(Division::new),
        };
        let planes = Planes::new(&convolution, at_once);
        let shared = at_once.weights_numbers(&convolution, groups).max(OFFSETS * threads) * size_of::<T>();
        let (grid, block) = (((parts * directions) as u32, blocks as u32), (threads as u32, shared as u32));
        let (dy, x) = (dy.matrix(), x.matrix());
        if parts == 1 {
            launch!(self, "convolve_weights", grid, block: block, planes, cut, dy, x, 1, dw.matrix());
            return;
        }
        let mut sums = self.allocate::<T>(parts * dw.rows * dw.cols);
        let all = ViewMut::<Self>::new(&mut sums, 0, parts * dw.rows, dw.cols).matrix();
        launch!(self, "convolve_weights", grid, block: block, planes, cut, dy, x, 0, all);
        let dw = dw.matrix();
        launch!(self, "add_parts", self.each(dw.len()), sums.at(0), parts as i64, dw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(channels: usize, side: usize, kernel: usize) -> Window {
        Window { channels, image: [side, side], kernel: [kernel; 2], stride: 1, padding: kernel / 2 }
    }

    /// Blocks have no more threads and shared memory than there are, and most threads have windows to work on.
    #[test]
    fn cuts_fit_a_block() {
        for (window, outputs) in [
            (window(1, 28, 3), 16),
            (window(16, 14, 3), 32),
            (window(3, 32, 3), 64),
            (window(64, 16, 3), 128),
            (window(6, 14, 5), 16),
            (window(3, 224, 7), 64),
            (window(1, 1, 1), 1),
        ] {
            for convolution in [Convolution::new(&window), Convolution::transposed(&window, outputs)] {
                let ConvolveCut { at_once, strip, groups, threads } =
                    convolution.convolve_cut::<f32>(outputs).unwrap();
                let [down, across] = convolution.windows;
                let outs = groups * OUTS;
                let numbers = at_once.filter_numbers(&convolution, outs);
                assert!(threads <= THREADS && numbers * size_of::<f32>() <= SHARED);
                let places =
                    threads * strip * OUTS * convolution.bands(at_once.lines) * outputs.div_ceil(outs);
                let used = (at_once.images * down * across * outputs) as f64 / places as f64;
                assert!(outputs < OUTS || used > 0.5, "{window:?}: only {used} of the threads work");
            }
            weights_fit::<f32>(&window, outputs);
            if applies::<f64>(&window) {
                weights_fit::<f64>(&window, outputs);
            }
        }
        assert!(applies::<f32>(&window(3, 224, 7)) && applies::<f64>(&window(64, 32, 3)));
        assert!(!applies::<f32>(&window(1, 1000, 3)));
        // There is room for one plane that comes in transposed, not for two.
        assert!(!applies::<f64>(&window(1, 116, 11)));
        assert!(!applies::<f32>(&Window { stride: 2, ..window(1, 8, 3) }));
        assert!(!applies::<f32>(&Window { padding: 3, ..window(1, 8, 3) }));
    }

    fn weights_fit<T>(window: &Window, outputs: usize) {
        let convolution = Convolution::new(window);
        for examples in [1, 3, 1000] {
            let cut = convolution.weights_cut::<T>(outputs, true, examples).unwrap();
            assert!(cut.threads <= THREADS && cut.splits * cut.tiles * cut.groups <= cut.threads);
            assert!(cut.at_once.images <= examples);
            let numbers = cut.at_once.weights_numbers(&convolution, cut.groups).max(OFFSETS * cut.threads);
            assert!(numbers * size_of::<T>() <= SHARED, "{window:?}: {numbers} numbers in shared memory");
        }
    }

    #[test]
    fn shares_are_all_sizes() {
        assert_eq!(shares(17).collect::<Vec<_>>(), [17, 9, 6, 5, 4, 3, 2, 1]);
        assert_eq!(shares(1).collect::<Vec<_>>(), [1]);
    }
}
