//! Random signs by number.

/// Signs that are a function of their number: 64 at a time are the bits of a mixed counter (SplitMix64; Steele, Lea &
/// Flood 2014). No part of a stream depends on another, so that it need not be kept.
#[derive(Clone, Copy, Debug)]
pub struct SignStream {
    /// Of its start: streams of random keys do not meet in practice.
    pub key: u64,
}

impl SignStream {
    /// The signs `64 word..64 word + 64`, the first in the lowest bit; a bit that is set is a minus.
    pub fn word(self, word: u64) -> u64 {
        let mut z = self.key.wrapping_add((word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Calls `f` with each of `len` signs from `first` on, in order: whether it is a minus.
    #[inline]
    pub(crate) fn each(self, first: u64, len: usize, mut f: impl FnMut(usize, bool)) {
        let mut at = 0;
        while at < len {
            let number = first + at as u64;
            let (skipped, bits) = ((number % 64) as usize, self.word(number / 64));
            let count = (64 - skipped).min(len - at);
            for i in 0..count {
                f(at + i, bits >> (skipped + i) & 1 == 1);
            }
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(key: u64, first: u64, len: usize) -> Vec<bool> {
        let mut all = Vec::new();
        SignStream { key }.each(first, len, |_, minus| all.push(minus));
        all
    }

    /// What is kept was drawn so: the first number of SplitMix64 with seed 0.
    #[test]
    fn signs_stay_what_they_were() {
        assert_eq!(SignStream { key: 0 }.word(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn a_part_is_a_part_of_the_whole() {
        let all = signs(7, 0, 1000);
        for (first, len) in [(0, 1), (63, 2), (64, 64), (100, 500), (999, 1), (5, 0)] {
            assert_eq!(signs(7, first as u64, len), all[first..first + len]);
        }
    }

    /// Sums of products of a stream with itself, moved, and with others are as small as those of coins.
    #[test]
    fn signs_are_independent() {
        let n = 100_000;
        let all = signs(7, 0, 2 * n);
        let bound = 4.5 * (n as f64).sqrt();
        let sum = |a: &[bool], b: &[bool]| -> f64 {
            a.iter().zip(b).map(|(a, b)| if a == b { 1.0 } else { -1.0 }).sum()
        };
        let minuses = vec![true; n];
        assert!(sum(&all[..n], &minuses).abs() < bound);
        for shift in [1, 2, 31, 63, 64, 65, 127, 784, 785, 4096, n] {
            assert!(sum(&all[..n], &all[shift..shift + n]).abs() < bound, "moved by {shift}");
        }
        for key in [6, 8, 7 + (1 << 32)] {
            assert!(sum(&all[..n], &signs(key, 0, n)).abs() < bound, "key {key}");
        }
    }
}
