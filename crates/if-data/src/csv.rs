//! Comma-separated tables: a header line, numeric features, one label column.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};
use if_linalg::HostArray;
use ndarray::ArrayD;

use crate::{DataError, Examples, Labels, LoadOptions};

/// Reads a table from `reader`; `path` is what errors call it. The label column is the last by default, or the one
/// before a group column there.
pub(crate) fn read_examples(
    reader: impl Read,
    path: &Path,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    // Rows of another length are reported here, in the words of this crate.
    let mut table = ReaderBuilder::new().trim(Trim::All).flexible(true).from_reader(reader);
    let names = header(path, table.headers().map_err(|e| unreadable(path, e))?)?;
    let group = options.group_column.as_ref().and_then(|group| names.iter().position(|name| name == group));
    let label = label_column(path, &names, options.label_column.as_deref(), group)?;
    let (mut values, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for row in table.records() {
        let row = row.map_err(|e| unreadable(path, e))?;
        let line = row.position().map_or(0, csv::Position::line);
        check_length(path, line, &row, names.len())?;
        for (column, text) in row.iter().enumerate() {
            if column == label {
                labels.push(non_empty(path, line, &names[column], "a label", text)?);
            } else if Some(column) == group {
                groups.push(non_empty(path, line, &names[column], "a group", text)?);
            } else {
                values.push(number(path, line, &names[column], text)?);
            }
        }
    }
    let is_feature = |column: &usize| *column != label && Some(*column) != group;
    let features: Vec<String> =
        (0..names.len()).filter(is_feature).map(|column| names[column].clone()).collect();
    let x = ArrayD::from_shape_vec(vec![labels.len(), features.len()], values)
        .expect("every row was checked for its length");
    let (y, class_names) = parse_labels(labels);
    let mut examples = Examples::new(HostArray::F64(x), y, path)?;
    examples.class_names = class_names;
    examples.feature_names = Some(features);
    examples.groups = group.map(|_| groups);
    Ok(examples)
}

/// Reads the table in the file `path`.
pub(crate) fn read_file(path: &Path, options: &LoadOptions) -> Result<Examples, DataError> {
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    read_examples(file, path, options)
}

fn header(path: &Path, record: &StringRecord) -> Result<Vec<String>, DataError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = record.iter().find(|name| !seen.insert(*name)) {
        let found = format!("{twice:?} twice");
        return Err(DataError::malformed(path, "line 1", "a header of distinct column names", found));
    }
    if record.len() < 2 {
        let found = format!("{} columns", record.len());
        return Err(DataError::malformed(path, "line 1", "a header of at least two columns", found));
    }
    if record.iter().all(|name| name.parse::<f64>().is_ok()) {
        let found = "numbers: is the header missing?";
        return Err(DataError::malformed(path, "line 1", "a header of column names", found));
    }
    Ok(record.iter().map(str::to_owned).collect())
}

fn label_column(
    path: &Path,
    names: &[String],
    label: Option<&str>,
    group: Option<usize>,
) -> Result<usize, DataError> {
    let last = names.len() - 1;
    let Some(label) = label else { return Ok(if group == Some(last) { last - 1 } else { last }) };
    if group.is_some_and(|group| names[group] == label) {
        let found = "the group column of the same name";
        return Err(DataError::malformed(path, "line 1", format!("the label column {label:?}"), found));
    }
    names.iter().position(|name| name == label).ok_or_else(|| {
        let found = format!("the columns {names:?}");
        DataError::malformed(path, "line 1", format!("the label column {label:?}"), found)
    })
}

fn check_length(path: &Path, line: u64, row: &StringRecord, columns: usize) -> Result<(), DataError> {
    if row.len() == columns {
        return Ok(());
    }
    let expected = format!("{columns} columns, as in the header");
    Err(DataError::malformed(path, format!("line {line}"), expected, row.len().to_string()))
}

fn number(path: &Path, line: u64, column: &str, text: &str) -> Result<f64, DataError> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(cell(path, line, column, "a finite number", text)),
    }
}

fn non_empty(path: &Path, line: u64, column: &str, expected: &str, text: &str) -> Result<String, DataError> {
    if text.is_empty() { Err(cell(path, line, column, expected, text)) } else { Ok(text.to_owned()) }
}

fn cell(path: &Path, line: u64, column: &str, expected: &str, text: &str) -> DataError {
    DataError::malformed(path, format!("line {line}, column {column:?}"), expected, format!("{text:?}"))
}

/// Integers stay as they are, other numbers become regression targets, and anything else a class id
/// in the sorted order of the names.
fn parse_labels(texts: Vec<String>) -> (Labels, Option<Vec<String>>) {
    if let Ok(integers) = texts.iter().map(|text| text.parse()).collect() {
        return (Labels::Integer(integers), None);
    }
    let reals: Result<Vec<f64>, _> = texts.iter().map(|text| text.parse()).collect();
    if let Ok(reals) = reals.as_ref()
        && reals.iter().all(|value| value.is_finite())
    {
        return (Labels::Real(reals.clone()), None);
    }
    let names: BTreeSet<&String> = texts.iter().collect();
    let ids: BTreeMap<&String, i64> = names.iter().copied().zip(0..).collect();
    let labels = texts.iter().map(|text| ids[text]).collect();
    (Labels::Integer(labels), Some(names.into_iter().cloned().collect()))
}

fn unreadable(path: &Path, error: csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => DataError::io(path, "read")(source),
        other => DataError::malformed(path, format!("line {line}"), "UTF-8 text", format!("{other:?}")),
    }
}
