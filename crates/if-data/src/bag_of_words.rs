//! Texts as counts of words.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use if_linalg::HostArray;
use ndarray::Array2;

use crate::DataError;

/// Counts of the words of a fixed vocabulary.
///
/// A word is a run of at least two word characters (letters and digits of any script, `_`) of the
/// lowercased text: scikit-learn's `CountVectorizer` with its default token pattern. Fit it on the
/// training part only.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// let bag = if_data::BagOfWords::fit(&["Free money now", "free lunch", "no MONEY"], 2)?;
/// assert_eq!(bag.vocabulary(), ["free", "money"]);
/// assert_eq!(bag.transform(&["money, money and more"]).shape(), [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BagOfWords {
    vocabulary: Vec<String>,
    columns: HashMap<String, usize>,
}

impl BagOfWords {
    /// Takes the words that occur in at least `min_df` of the texts, sorted by code point.
    ///
    /// # Errors
    /// If there is no such word.
    pub fn fit<S: AsRef<str>>(texts: &[S], min_df: usize) -> Result<Self, DataError> {
        let mut frequencies: BTreeMap<String, usize> = BTreeMap::new();
        for text in texts {
            let text = text.as_ref().to_lowercase();
            for word in words(&text).collect::<BTreeSet<_>>() {
                match frequencies.get_mut(word) {
                    Some(frequency) => *frequency += 1,
                    None => {
                        frequencies.insert(word.to_owned(), 1);
                    }
                }
            }
        }
        frequencies.retain(|_, frequency| *frequency >= min_df);
        if frequencies.is_empty() {
            return Err(DataError::EmptyVocabulary { min_df, documents: texts.len() });
        }
        let vocabulary: Vec<String> = frequencies.into_keys().collect();
        let columns = vocabulary.iter().cloned().zip(0..).collect();
        Ok(Self { vocabulary, columns })
    }

    /// The words, one per feature, sorted.
    pub fn vocabulary(&self) -> &[String] {
        &self.vocabulary
    }

    /// How often every word of the vocabulary occurs in every text: shape `(texts, words)`, `f32`,
    /// dense. Other words are ignored.
    pub fn transform<S: AsRef<str>>(&self, texts: &[S]) -> HostArray {
        let mut counts = Array2::<f32>::zeros((texts.len(), self.vocabulary.len()));
        for (text, mut row) in texts.iter().zip(counts.rows_mut()) {
            let text = text.as_ref().to_lowercase();
            for &column in words(&text).filter_map(|word| self.columns.get(word)) {
                row[column] += 1.0;
            }
        }
        HostArray::F32(counts.into_dyn())
    }
}

/// The words of a lowercased text.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|run| run.chars().nth(1).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_token_pattern() {
        let found: Vec<_> = words("it's a re-run, über_x 42 7 a1 é").collect();
        assert_eq!(found, ["it", "re", "run", "über_x", "42", "a1"]);
    }

    #[test]
    fn counts_and_document_frequency_differ() {
        // "spam" is in two texts but four times; "ham" is twice in one text only.
        let bag = BagOfWords::fit(&["spam spam spam", "Spam ham ham"], 2).unwrap();
        assert_eq!(bag.vocabulary(), ["spam"]);
        let HostArray::F32(counts) = bag.transform(&["spam ham SPAM", "ham"]) else { panic!("f32") };
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [2.0, 0.0]);
    }

    #[test]
    fn an_empty_vocabulary_is_an_error() {
        let message = BagOfWords::fit(&["one", "two"], 2).unwrap_err().to_string();
        assert_eq!(message, "no word occurs in at least min_df = 2 of the 2 documents");
    }
}
