//! Vectors of `f32` and `f64` as wide as the processor has them, under one name.

use pulp::Simd;

/// A number of which a vector register holds several.
///
/// `pulp` names its operations after the type of the numbers; kernels written with these run on both.
pub trait Lanes: Copy {
    /// A register of the instruction set `S`.
    type Vector<S: Simd>: Copy;
    /// A choice of its lanes.
    type Mask<S: Simd>: Copy;

    /// `value` in every lane.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// `a b + c`, rounded once where the processor can.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// The first `count` lanes.
    fn head<S: Simd>(simd: S, count: usize) -> Self::Mask<S>;
    /// The lanes of `a` that are in `mask`, the others of `b`.
    fn select<S: Simd>(
        simd: S,
        mask: Self::Mask<S>,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// The sum of all lanes.
    fn reduce_sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;

    /// Numbers in a register.
    #[inline(always)]
    fn count<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }

    /// The register's worth of numbers from `source` on.
    ///
    /// # Safety
    /// `source` points to as many initialised numbers.
    #[inline(always)]
    unsafe fn load<S: Simd>(source: *const Self) -> Self::Vector<S> {
        // SAFETY: the caller's promise; a register is plain numbers side by side.
        unsafe { source.cast::<Self::Vector<S>>().read_unaligned() }
    }

    /// Overwrites the register's worth of numbers from `target` on.
    ///
    /// # Safety
    /// `target` points to as many numbers that nobody else looks at.
    #[inline(always)]
    unsafe fn store<S: Simd>(target: *mut Self, value: Self::Vector<S>) {
        // SAFETY: as in `load`.
        unsafe { target.cast::<Self::Vector<S>>().write_unaligned(value) }
    }
}

macro_rules! lanes {
    ($t:ident, $vector:ident, $mask:ident, $splat:ident, $mul_add:ident, $select:ident, $between:ident, $index:ident, $sum:ident) => {
        impl Lanes for $t {
            type Vector<S: Simd> = S::$vector;
            type Mask<S: Simd> = S::$mask;

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }

            #[inline(always)]
            fn head<S: Simd>(simd: S, count: usize) -> S::$mask {
                simd.$between(0, count as $index).mask()
            }

            #[inline(always)]
            fn select<S: Simd>(simd: S, mask: S::$mask, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$select(mask, a, b)
            }

            #[inline(always)]
            fn reduce_sum<S: Simd>(simd: S, a: S::$vector) -> Self {
                simd.$sum(a)
            }
        }
    };
}

lanes!(f32, f32s, m32s, splat_f32s, mul_add_e_f32s, select_f32s, mask_between_m32s, u32, reduce_sum_f32s);
lanes!(f64, f64s, m64s, splat_f64s, mul_add_e_f64s, select_f64s, mask_between_m64s, u64, reduce_sum_f64s);
