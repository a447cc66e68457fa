//! Natural language inference: pairs of a premise and a hypothesis, and whether one follows from the other.
//!
//! - `hans-regenerated`: 30,000 pairs in the file format of HANS (McCoy, Pavlick & Linzen 2019), written anew by its
//!   authors' generator of templates: other sentences than the published file, from the same distribution.
//! - `cad-snli`: pairs of SNLI with revisions that people made to change the label (Kaushik, Hovy & Lipton 2020).
//! - `anli-dev`: the development sets of the three rounds of ANLI (Nie et al. 2020), without 2 pairs of the third.
//!
//! Features are ids of hashed tokens, see [`hashed_pairs`].

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use flate2::bufread::GzDecoder;
use serde::Deserialize;

use super::info::{DatasetInfo, Kind, SplitInfo};
use crate::{DataError, Examples, Labels, LoadOptions, hashed_pairs};

/// Different ids.
const BUCKETS: u32 = 4096;
/// Tokens of a pair; what a longer one has more is left out.
pub(super) const LENGTH: usize = 128;

/// One split in the order of its file. A table may be asked for a group column, such as `subcase` of HANS.
pub(super) fn load(
    info: &DatasetInfo,
    split: &SplitInfo,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    let at = info.splits.iter().position(|own| own == split).expect("a split of this dataset");
    let path = info.verified(&info.files[at], options)?;
    let file = GzDecoder::new(BufReader::new(File::open(&path).map_err(DataError::io(&path, "open"))?));
    let group = options.group_column.as_deref();
    let pairs = match info.kind {
        Kind::Anli => Pairs::from_json_lines(file, &path, info.classes),
        // The only quotes in HANS would be those of its sentences.
        Kind::Hans => Pairs::from_table(file, &path, (info.classes, false), group),
        _ => Pairs::from_table(file, &path, (info.classes, true), group),
    }?;
    let mut examples =
        Examples::new(hashed_pairs(&pairs.texts, BUCKETS, LENGTH), Labels::Integer(pairs.y), &path)?;
    examples.groups = pairs.groups;
    Ok(examples)
}

/// Pairs as they are read.
#[derive(Debug, Default, PartialEq)]
struct Pairs {
    /// Premise and hypothesis.
    texts: Vec<(String, String)>,
    /// Positions among the classes.
    y: Vec<i64>,
    groups: Option<Vec<String>>,
}

/// A line of ANLI's files; what else it holds is not read.
#[derive(Deserialize)]
struct Line {
    context: String,
    hypothesis: String,
    label: String,
}

impl Pairs {
    /// A table with tabs, and the columns `gold_label`, `sentence1` and `sentence2` among others.
    fn from_table(
        table: impl Read,
        path: &Path,
        (classes, quoting): (&[&str], bool),
        group: Option<&str>,
    ) -> Result<Self, DataError> {
        let malformed = |e: csv::Error| DataError::malformed(path, "table", "rows with tabs", e.to_string());
        let mut reader = ReaderBuilder::new().delimiter(b'\t').quoting(quoting).from_reader(table);
        let header = reader.headers().map_err(malformed)?.clone();
        let column = |name: &str| {
            let place = header.iter().position(|column| column == name);
            place.ok_or_else(|| DataError::malformed(path, "line 1", format!("a column {name:?}"), "none"))
        };
        let [label, premise, hypothesis] =
            [column("gold_label")?, column("sentence1")?, column("sentence2")?];
        let group = group.map(column).transpose()?;
        let mut pairs = Self { groups: group.map(|_| Vec::new()), ..Self::default() };
        for row in reader.records() {
            let row: StringRecord = row.map_err(malformed)?;
            let line = row.position().map_or(0, |position| position.line());
            pairs.push((&row[premise], &row[hypothesis]), class(&row[label], classes, path, line as usize)?);
            if let (Some(groups), Some(group)) = (&mut pairs.groups, group) {
                groups.push(row[group].to_owned());
            }
        }
        Ok(pairs)
    }

    /// One JSON object a line, with labels `e`, `n` and `c`.
    fn from_json_lines(lines: impl Read, path: &Path, classes: &[&str]) -> Result<Self, DataError> {
        let mut pairs = Self::default();
        for (i, line) in BufReader::new(lines).lines().enumerate() {
            let line = line.map_err(DataError::io(path, "read"))?;
            let expected = "an object with context, hypothesis and label";
            let line: Line = serde_json::from_str(&line).map_err(|error| {
                DataError::malformed(path, format!("line {}", i + 1), expected, error.to_string())
            })?;
            let name = match line.label.as_str() {
                "e" => "entailment",
                "n" => "neutral",
                "c" => "contradiction",
                other => other,
            };
            pairs.push((&line.context, &line.hypothesis), class(name, classes, path, i + 1)?);
        }
        Ok(pairs)
    }

    fn push(&mut self, (premise, hypothesis): (&str, &str), class: i64) {
        self.texts.push((premise.to_owned(), hypothesis.to_owned()));
        self.y.push(class);
    }
}

fn class(label: &str, classes: &[&str], path: &Path, line: usize) -> Result<i64, DataError> {
    let place = classes.iter().position(|class| *class == label);
    place.map(|class| class as i64).ok_or_else(|| {
        DataError::malformed(path, format!("line {line}"), classes.join(" or "), format!("{label:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[&str] = &["entailment", "non-entailment"];
    const THREE: &[&str] = &["entailment", "neutral", "contradiction"];

    fn table(text: &str, quoting: bool, group: Option<&str>) -> Result<Pairs, String> {
        let pairs = Pairs::from_table(text.as_bytes(), Path::new("t.tsv"), (TWO, quoting), group);
        pairs.map_err(|error| error.to_string())
    }

    #[test]
    fn tables_are_read_by_the_names_of_their_columns() {
        let text = "sentence2\tgold_label\tsentence1\tsubcase\n\"B b\"\tnon-entailment\tA a\tcn_if\n";
        let found = table(text, true, Some("subcase")).unwrap();
        assert_eq!(found.texts, [("A a".to_owned(), "B b".to_owned())]);
        assert_eq!((found.y, found.groups), (vec![1], Some(vec!["cn_if".to_owned()])));
        let unquoted = table(text, false, None).unwrap();
        assert_eq!((unquoted.texts[0].1.as_str(), unquoted.groups), ("\"B b\"", None));
    }

    #[test]
    fn malformed_tables_say_where() {
        let header = "gold_label\tsentence1\tsentence2\n";
        let cases = [
            ("gold_label\tsentence1\nentailment\ta\n".to_owned(), "line 1: expected a column \"sentence2\""),
            (
                format!("{header}entailment\ta\tb\nmaybe\ta\tb\n"),
                "line 3: expected entailment or non-entailment, found \"maybe\"",
            ),
            (format!("{header}entailment\ta\n"), "expected rows with tabs"),
        ];
        for (text, expected) in cases {
            let message = table(&text, true, None).unwrap_err();
            assert!(message.starts_with("t.tsv: ") && message.contains(expected), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        assert!(table(header, true, Some("subcase")).unwrap_err().contains("a column \"subcase\""));
    }

    #[test]
    fn json_lines_are_read_and_checked() {
        let read = |text: &str| Pairs::from_json_lines(text.as_bytes(), Path::new("t.jsonl"), THREE);
        let line = |label: &str| {
            format!("{{\"context\":\"A\",\"hypothesis\":\"B\",\"label\":\"{label}\",\"uid\":7}}\n")
        };
        let found = read(&(line("c") + &line("e"))).unwrap();
        assert_eq!(found.y, [2, 0]);
        assert_eq!(found.texts[1], ("A".to_owned(), "B".to_owned()));
        let cases = [
            (line("e") + "{}\n", "line 2: expected an object with context, hypothesis and label"),
            (line("e") + "{\"context\": \"A", "line 2: expected an object"),
            (line("x"), "line 1: expected entailment or neutral or contradiction, found \"x\""),
        ];
        for (text, expected) in cases {
            let message = read(&text).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
    }
}
