//! Pairs of texts as bags of hashed tokens, for models that begin with an embedding bag.

use std::collections::BTreeSet;

use if_linalg::HostArray;
use ndarray::Array2;

use crate::bag_of_words::words;

/// Steps longer than this, forwards or backwards, are one token.
const LONGEST_STEP: i64 = 9;

/// What a premise and a hypothesis have in common, and in which order: each token once, first those of the hypothesis.
///
/// Words are those of [`BagOfWords`](crate::BagOfWords). A word of the hypothesis is `both:w` where the premise has it
/// and `new:w` elsewhere; a word that only the premise has is `left:w`. The words of `both` are looked for in the
/// premise one after another, each from the place of the one before on (and from the start where there is none after
/// it): `step:d` says how far on each was found, and `rest:d` how many words of the premise follow the last. With no
/// order a bag could not tell who did what to whom.
///
/// ```
/// let tokens = if_data::pair_tokens("The judge saw the actor", "The actor saw him");
/// let expected = ["both:the", "step:1", "both:actor", "step:4", "both:saw", "step:-2", "new:him", "rest:2", "left:judge"];
/// assert_eq!(tokens, expected);
/// ```
pub fn pair_tokens(premise: &str, hypothesis: &str) -> Vec<String> {
    let [premise, hypothesis] = [premise, hypothesis].map(str::to_lowercase);
    let [premise, hypothesis] = [&premise, &hypothesis].map(|text| words(text).collect::<Vec<_>>());
    let clamp = |step: i64| step.clamp(-LONGEST_STEP, LONGEST_STEP);
    let mut tokens = Vec::new();
    let mut next = 0;
    for word in &hypothesis {
        let from = |start: usize| (start..premise.len()).find(|&at| premise[at] == *word);
        match from(next).or_else(|| from(0)) {
            None => tokens.push(format!("new:{word}")),
            Some(at) => {
                tokens.push(format!("both:{word}"));
                tokens.push(format!("step:{}", clamp(at as i64 + 1 - next as i64)));
                next = at + 1;
            }
        }
    }
    tokens.push(format!("rest:{}", clamp((premise.len() - next) as i64)));
    let known: BTreeSet<_> = hypothesis.iter().collect();
    tokens.extend(premise.iter().filter(|word| !known.contains(word)).map(|word| format!("left:{word}")));
    let mut seen = BTreeSet::new();
    tokens.retain(|token| seen.insert(token.clone()));
    tokens
}

/// Ids below `buckets` of the tokens of every pair, shape `(pairs, length)`, `f32`: what an embedding bag reads. A token's
/// id is the remainder of its 64-bit FNV-1a hash, so that no vocabulary is fitted (Weinberger et al. 2009). -1 fills up;
/// tokens beyond `length` are left out.
pub fn hashed_pairs<S: AsRef<str>>(pairs: &[(S, S)], buckets: u32, length: usize) -> HostArray {
    let mut ids = Array2::<f32>::from_elem((pairs.len(), length), -1.0);
    for ((premise, hypothesis), mut row) in pairs.iter().zip(ids.rows_mut()) {
        let tokens = pair_tokens(premise.as_ref(), hypothesis.as_ref());
        for (id, token) in row.iter_mut().zip(&tokens) {
            *id = (fnv1a(token) % u64::from(buckets)) as f32;
        }
    }
    HostArray::F32(ids.into_dyn())
}

/// Fowler, Noll & Vo's hash, the same on every platform and in every version.
fn fnv1a(text: &str) -> u64 {
    let byte = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vectors of the hash.
    #[test]
    fn hashes_are_those_of_the_authors() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn order_is_seen() {
        let premise = "The doctors near the actor saw the lawyers .";
        let kept = pair_tokens(premise, "The doctors saw the lawyers .");
        let swapped = pair_tokens(premise, "The lawyers saw the doctors .");
        let words = |tokens: &[String]| -> BTreeSet<String> {
            tokens.iter().filter(|token| token.contains("both")).cloned().collect()
        };
        assert_eq!(words(&kept), words(&swapped));
        assert!(swapped.iter().any(|token| token.starts_with("step:-")));
        assert!(!kept.iter().any(|token| token.starts_with("step:-")));
    }

    #[test]
    fn ids_fill_rows_of_one_length() {
        let HostArray::F32(ids) = hashed_pairs(&[("ab", "ab"), ("", "")], 1000, 4) else { panic!("f32") };
        assert_eq!(ids.shape(), [2, 4]);
        let id = |token: &str| (fnv1a(token) % 1000) as f32;
        assert_eq!(
            ids.index_axis(ndarray::Axis(0), 0).iter().copied().collect::<Vec<f32>>(),
            [id("both:ab"), id("step:1"), id("rest:0"), -1.0]
        );
        assert_eq!(
            ids.index_axis(ndarray::Axis(0), 1).iter().copied().collect::<Vec<f32>>(),
            [id("rest:0"), -1.0, -1.0, -1.0]
        );
        let HostArray::F32(cut) = hashed_pairs(&[("ab", "ab")], 1000, 2) else { panic!("f32") };
        assert_eq!(cut.into_iter().collect::<Vec<_>>(), [id("both:ab"), id("step:1")]);
    }
}
