//! The hyperbolic tangent without branches, so that a loop over it becomes vector instructions, and with the same bits
//! whatever mathematics library the system has.
//!
//! After Cephes (Moshier 1989, `tanh.c` and `exp.c`): a rational function near zero, `1 - 2 / (exp(2 |x|) + 1)` beyond.

/// From here on the exponential is taken.
const LARGE: f64 = 0.625;
/// From here on 1 is nearer than any other number.
const ONE: f64 = 20.0;

/// `tanh x`, off by 2 units in the last place at most; NaN of NaN.
#[inline(always)]
pub(crate) fn tanh(x: f64) -> f64 {
    let z = x * x;
    let p = (-9.643_991_794_250_523e-1 * z - 9.928_772_310_019_185e1) * z - 1.614_687_684_417_084_5e3;
    let q = ((z + 1.128_116_784_916_329_3e2) * z + 2.235_488_390_601_004_5e3) * z + 4.844_063_053_251_255e3;
    let small = x + x * (z * (p / q));
    let large = 1.0 - 2.0 / (exp(2.0 * x.abs().min(ONE)) + 1.0);
    let size = if x.abs() >= LARGE { large } else { small };
    // Of zero, too.
    size.copysign(x)
}

/// `exp y` for `y` between 0 and 40.
#[inline(always)]
fn exp(y: f64) -> f64 {
    // Added and taken away again, this rounds to a whole number, which the last bits of the sum hold.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let sum = y * std::f64::consts::LOG2_E + ROUND;
    let n = sum - ROUND;
    // ln 2 in two parts, of which the first times n is exact.
    let r = (y - n * 6.931_457_519_531_25e-1) - n * 1.428_606_820_309_417_2e-6;
    let rr = r * r;
    let p = r * ((1.261_771_930_748_105_9e-4 * rr + 3.029_944_077_074_419_6e-2) * rr + 1.0);
    let q = ((3.001_985_051_386_644_6e-6 * rr + 2.524_483_403_496_841e-3) * rr + 2.272_655_482_081_550_3e-1)
        * rr
        + 2.0;
    let power = f64::from_bits((sum.to_bits() << 52).wrapping_add(1f64.to_bits()));
    (1.0 + 2.0 * (p / (q - p))) * power
}

#[cfg(test)]
mod tests {
    use super::tanh;

    #[test]
    fn as_near_as_the_mathematics_library() {
        let mut worst = 0f64;
        for i in -400_000..=400_000 {
            // Evenly over what matters, and over all magnitudes.
            let i = f64::from(i);
            for x in [i * 6e-5, (i * 1e-4).exp().copysign(i)] {
                let (found, expected) = (tanh(x), libm::tanh(x));
                worst = worst.max(((found - expected) / expected.abs().max(f64::MIN_POSITIVE)).abs());
            }
        }
        assert!(worst <= 3.0 * f64::EPSILON, "{} epsilon", worst / f64::EPSILON);
    }

    #[test]
    fn odd_and_at_the_ends() {
        for x in [0.0, 1e-300, 0.3, 0.625, 1.0, 19.9, 20.1, 1e300, f64::INFINITY] {
            assert_eq!(tanh(-x).to_bits(), (-tanh(x)).to_bits(), "{x}");
        }
        assert_eq!([tanh(f64::INFINITY), tanh(1e300), tanh(20.0)], [1.0; 3]);
        assert!(tanh(f64::NAN).is_nan());
        assert_eq!(tanh(-0.0).to_bits(), (-0.0f64).to_bits());
        assert_eq!(tanh(1e-300), 1e-300);
    }
}
