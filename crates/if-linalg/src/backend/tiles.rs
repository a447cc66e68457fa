//! Products of small matrices, for which packing would cost as much as the arithmetic.
//!
//! A tile of the result stays in registers while the inner dimension passes by: vectors from a row of `b`,
//! read where it lies, times single numbers of `a`. The panel of `b` under a tile stays in the first-level
//! cache while the rows of `a` pass by. Every element of the result is one sum in the order of the inner
//! dimension, so bits depend neither on how tiles are cut nor on which operand is which.
//!
//! Written for processors of the x86-64 kind with AVX2, and left to the `gemm` crate on all others.

use super::gemm::Operand;
use crate::Real;

/// Inner dimensions: at least so long that tiles are more than their writing, at most so long that panels fit
/// the first-level cache.
const INNER: (usize, usize) = (4, 512);

/// `c = alpha a b + beta c` as [`product`](super::gemm::product), operands and result already known to fit;
/// `false` where products of this shape are not for here.
pub(super) fn product<T: Real>(
    alpha: T,
    a: Operand<T>,
    b: Operand<T>,
    beta: T,
    c: &mut [T],
    stride: usize,
) -> bool {
    if !(INNER.0..=INNER.1).contains(&a.shape[1]) {
        return false;
    }
    // The right operand has to lie row by row; where the transpose of the left one does, they change places.
    let (a, b, strides) = match (b.strides[1], a.strides[0]) {
        (1, _) => (a, b, [stride, 1]),
        (_, 1) => (b.t(), a.t(), [1, stride]),
        _ => return false,
    };
    // Narrower than a tile: too few sums under way.
    if b.shape[1] < 16 {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has what the function is compiled for.
        unsafe { x86::panels(a, b, x86::Target { alpha, beta, c, strides }) };
        return true;
    }
    let _ = (alpha, a, b, beta, c, strides);
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub trait Lanes {}
#[cfg(not(target_arch = "x86_64"))]
impl<T> Lanes for T {}
#[cfg(target_arch = "x86_64")]
pub use x86::Lanes;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array::from_fn;

    use super::Operand;
    use crate::Real;

    /// From so many rows on, a panel is copied first, as the distance between rows of `b` may be such that they
    /// compete for places in the cache.
    const COPY_FROM: usize = 96;
    /// The most numbers in a tile: twelve vectors.
    const TILE: usize = 96;

    /// Vectors of 32 bytes.
    pub trait Lanes: Sized {
        /// Some numbers.
        type Vector: Copy;
        /// How many.
        const LANES: usize;

        /// All of them `self`.
        ///
        /// # Safety
        /// As for all that follow: the processor has AVX2 and FMA, and a pointer to as many numbers is valid.
        unsafe fn splat(self) -> Self::Vector;
        /// Numbers from memory.
        ///
        /// # Safety
        /// See [`splat`](Self::splat).
        unsafe fn load(from: *const Self) -> Self::Vector;
        /// Numbers to memory.
        ///
        /// # Safety
        /// See [`splat`](Self::splat).
        unsafe fn store(to: *mut Self, vector: Self::Vector);
        /// `a b + c`, rounded once.
        ///
        /// # Safety
        /// See [`splat`](Self::splat).
        unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    }

    macro_rules! lanes {
        ($t:ident, $vector:ident, $lanes:literal, $splat:ident, $load:ident, $store:ident, $fma:ident) => {
            impl Lanes for $t {
                type Vector = $vector;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn splat(self) -> $vector {
                    // SAFETY: what the trait asks for.
                    unsafe { $splat(self) }
                }
                #[inline(always)]
                unsafe fn load(from: *const $t) -> $vector {
                    // SAFETY: what the trait asks for.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(to: *mut $t, vector: $vector) {
                    // SAFETY: what the trait asks for.
                    unsafe { $store(to, vector) }
                }
                #[inline(always)]
                unsafe fn multiply_add(a: $vector, b: $vector, c: $vector) -> $vector {
                    // SAFETY: what the trait asks for.
                    unsafe { $fma(a, b, c) }
                }
            }
        };
    }

    lanes!(f32, __m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
    lanes!(f64, __m256d, 4, _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd, _mm256_fmadd_pd);

    /// Where a product goes: element `(i, j)` is `c[i * strides[0] + j * strides[1]]`.
    pub(super) struct Target<'c, T> {
        pub alpha: T,
        pub beta: T,
        pub c: &'c mut [T],
        pub strides: [usize; 2],
    }

    /// `a` times all columns of `b`, whose rows are contiguous.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn panels<T: Real>(a: Operand<T>, b: Operand<T>, mut target: Target<T>) {
        let cols = b.shape[1];
        let mut copy = Vec::new();
        let mut first = 0;
        while first < cols {
            // Six rows by two vectors fill the registers with sums. An odd vector at the end would leave too few
            // of them under way, and goes with the two before it.
            let vectors = match (cols - first).div_ceil(T::LANES) {
                1 => 1,
                3 => 3,
                _ => 2,
            };
            let full = vectors * T::LANES;
            let width = full.min(cols - first);
            let (mut panel, mut stride) = (&b.data[first..], b.strides[0]);
            if width < full || a.shape[0] >= COPY_FROM {
                copy.resize(b.shape[0] * full, T::ZERO);
                for (row, copy) in copy.chunks_exact_mut(full).enumerate() {
                    let source = &panel[row * stride..][..width];
                    copy.iter_mut().zip(source).for_each(|(slot, value)| *slot = *value);
                }
                (panel, stride) = (&copy, full);
            }
            let panel = Panel { data: panel, stride, first, width };
            match vectors {
                1 => panel.rows::<1, 6>(a, &mut target),
                2 => panel.rows::<2, 6>(a, &mut target),
                _ => panel.rows::<3, 3>(a, &mut target),
            }
            first += width;
        }
    }

    /// A few columns of the right operand, as many as a tile is wide.
    struct Panel<'a, T> {
        /// Row `k` begins at `k * stride` and can be read for the full width of a tile.
        data: &'a [T],
        stride: usize,
        /// The first column, and how many count.
        first: usize,
        width: usize,
    }

    impl<T: Real> Panel<'_, T> {
        /// All rows of `a` times this panel, `V` vectors wide; at most `M` rows at once, evenly cut.
        #[inline(always)]
        fn rows<const V: usize, const M: usize>(&self, a: Operand<T>, target: &mut Target<T>) {
            let (rows, blocks) = (a.shape[0], a.shape[0].div_ceil(M));
            for block in 0..blocks {
                let [start, end] = [block, block + 1].map(|block| rows * block / blocks);
                match end - start {
                    1 => self.tile::<V, 1>(a, start, target),
                    2 => self.tile::<V, 2>(a, start, target),
                    3 => self.tile::<V, 3>(a, start, target),
                    4 => self.tile::<V, 4>(a, start, target),
                    5 => self.tile::<V, 5>(a, start, target),
                    _ => self.tile::<V, 6>(a, start, target),
                }
            }
        }

        /// Rows `i..i + H` of `a` times this panel.
        // Counted loops, so that every index into the sums is a constant once they are unrolled.
        #[allow(clippy::needless_range_loop)]
        #[inline(always)]
        fn tile<const V: usize, const H: usize>(&self, a: Operand<T>, i: usize, target: &mut Target<T>) {
            let (inner, [row, step]) = (a.shape[1], a.strides);
            let full = V * T::LANES;
            assert!((i + H - 1) * row + (inner - 1) * step < a.data.len());
            assert!((inner - 1) * self.stride + full <= self.data.len() && H * full <= TILE);
            let whole = self.width == full && target.strides[1] == 1;
            let start = i * target.strides[0] + self.first * target.strides[1];
            assert!(!whole || start + (H - 1) * target.strides[0] + full <= target.c.len());
            // SAFETY: the asserts have tested the largest offsets that are read in `a` and in the panel and,
            // where the tile is whole, written in `c`; `tile` is as long as they say as well. `panels` runs
            // only where the processor has these instructions.
            let tile = unsafe {
                let mut sums = [[T::ZERO.splat(); V]; H];
                let rows: [*const T; H] = from_fn(|r| a.data.as_ptr().add((i + r) * row));
                for k in 0..inner {
                    let vectors: [T::Vector; V] =
                        from_fn(|v| T::load(self.data.as_ptr().add(k * self.stride + v * T::LANES)));
                    for r in 0..H {
                        let factor = (*rows[r].add(k * step)).splat();
                        for v in 0..V {
                            sums[r][v] = T::multiply_add(factor, vectors[v], sums[r][v]);
                        }
                    }
                }
                if whole {
                    let (alpha, beta, zero) = (target.alpha.splat(), target.beta.splat(), T::ZERO.splat());
                    for r in 0..H {
                        for v in 0..V {
                            let slot =
                                target.c.as_mut_ptr().add(start + r * target.strides[0] + v * T::LANES);
                            let old = match target.beta == T::ZERO {
                                true => zero,
                                false => T::multiply_add(beta, T::load(slot), zero),
                            };
                            T::store(slot, T::multiply_add(alpha, sums[r][v], old));
                        }
                    }
                    return;
                }
                let mut tile = [T::ZERO; TILE];
                for r in 0..H {
                    for v in 0..V {
                        T::store(tile.as_mut_ptr().add((r * V + v) * T::LANES), sums[r][v]);
                    }
                }
                tile
            };
            for r in 0..H {
                for j in 0..self.width {
                    let slot = &mut target.c[start + r * target.strides[0] + j * target.strides[1]];
                    let old = if target.beta == T::ZERO { T::ZERO } else { target.beta * *slot };
                    *slot = target.alpha.mul_add(tile[r * full + j], old);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Every way through [`product`], against plain sums in `f64`.
    fn check<T: Real>([rows, cols, inner]: [usize; 3], turned: [bool; 2], beta: f64) {
        let values =
            |len: usize, seed: u64| random(len, seed).into_iter().map(T::from_f64).collect::<Vec<T>>();
        let (a_data, b_data) = (values(rows * inner, 1), values(inner * cols, 2));
        let operand = |data, [rows, cols]: [usize; 2], turned| match turned {
            true => Operand::rows(data, [cols, rows], rows).t(),
            false => Operand::rows(data, [rows, cols], cols),
        };
        let a = operand(&a_data, [rows, inner], turned[0]);
        let b = operand(&b_data, [inner, cols], turned[1]);
        let stride = cols + 3;
        let old = values(rows * stride, 3);
        let mut c = old.clone();
        // Garbage where it must not be read.
        if beta == 0.0 {
            c.fill(T::from_f64(f64::NAN));
        }
        if !product(T::from_f64(0.5), a, b, T::from_f64(beta), &mut c, stride) {
            assert!(
                turned == [false, true] || cfg!(not(target_arch = "x86_64")) || b.shape[1] < 16 || rows < 16
            );
            return;
        }
        let at = |m: &Operand<T>, i: usize, j: usize| m.data[i * m.strides[0] + j * m.strides[1]].to_f64();
        for i in 0..rows {
            for j in 0..cols {
                let sum: f64 = (0..inner).map(|k| at(&a, i, k) * at(&b, k, j)).sum();
                let before = if beta == 0.0 { 0.0 } else { beta * old[i * stride + j].to_f64() };
                let (expected, found) = (0.5 * sum + before, c[i * stride + j].to_f64());
                let tolerance = 8.0 * T::EPSILON * (inner as f64 + 1.0);
                assert!((found - expected).abs() <= tolerance, "{rows} {cols} {inner} {turned:?} {beta}");
            }
        }
    }

    #[test]
    fn products_are_sums() {
        for shape in [[32, 196, 145], [100, 40, 9], [1, 16, 4], [7, 17, 5], [13, 24, 31], [24, 33, 8]] {
            for turned in [[false, false], [true, false], [true, true], [false, true]] {
                for beta in [0.0, 1.0, -2.0] {
                    check::<f32>(shape, turned, beta);
                    check::<f64>(shape, turned, beta);
                }
            }
        }
    }
}
