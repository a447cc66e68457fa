//! Diabetes 130-US hospitals: 101,766 stays in hospital, some followed by another within 30 days.
//!
//! The features of Koh and Liang 2017, in the order of the authors' code: eight numbers as they are, then one column
//! for each value of 31 attributes, values in the order of their bytes; an attribute of two values has one column, for
//! the second. They are 127. After them comes one column for each of 73 medical specialties, which the authors leave
//! out: where a stay came from, for those who ask for effects by source.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use flate2::bufread::GzDecoder;
use if_linalg::HostArray;
use ndarray::ArrayD;

use super::info::DatasetInfo;
use crate::{DataError, Examples, Labels, LoadOptions};

/// 127 features and 73 specialties.
pub(super) const COLUMNS: usize = 200;

const NUMBERS: [&str; 8] = [
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
];

const ATTRIBUTES: [&str; 32] = [
    "gender",
    "race",
    "age",
    "discharge_disposition_id",
    "max_glu_serum",
    "A1Cresult",
    "metformin",
    "repaglinide",
    "nateglinide",
    "chlorpropamide",
    "glimepiride",
    "acetohexamide",
    "glipizide",
    "glyburide",
    "tolbutamide",
    "pioglitazone",
    "rosiglitazone",
    "acarbose",
    "miglitol",
    "troglitazone",
    "tolazamide",
    "examide",
    "citoglipton",
    "insulin",
    "glyburide-metformin",
    "glipizide-metformin",
    "glimepiride-pioglitazone",
    "metformin-rosiglitazone",
    "metformin-pioglitazone",
    "change",
    "diabetesMed",
    "medical_specialty",
];

const LABEL: &str = "readmitted";
/// Readmitted within 30 days; later, or not at all, counts as not.
const POSITIVE: &str = "<30";

/// All stays in the order of the file, `f32`. Features are named like `age=[0-10)`.
pub(super) fn load(info: &DatasetInfo, options: &LoadOptions) -> Result<Examples, DataError> {
    let path = info.verified(&info.files[0], options)?;
    let file = File::open(&path).map_err(DataError::io(&path, "open"))?;
    read(GzDecoder::new(BufReader::new(file)), &path)
}

fn read(table: impl Read, path: &Path) -> Result<Examples, DataError> {
    let malformed =
        |e: csv::Error| DataError::malformed(path, "table", "comma-separated rows", e.to_string());
    let mut reader = ReaderBuilder::new().from_reader(table);
    let header = reader.headers().map_err(malformed)?.clone();
    let rows: Vec<StringRecord> = reader.records().collect::<Result<_, _>>().map_err(malformed)?;
    let column = |name: &str| {
        let place = header.iter().position(|column| column == name);
        place.ok_or_else(|| DataError::malformed(path, "line 1", format!("a column {name:?}"), "none"))
    };

    // Columns of features, each a function of a row.
    let mut names = Vec::new();
    let mut columns: Vec<Vec<f32>> = Vec::new();
    for name in NUMBERS {
        let at = column(name)?;
        let number = |(i, row): (usize, &StringRecord)| {
            let found = || DataError::malformed(path, format!("line {}", i + 2), "a number", &row[at]);
            row[at].parse().map_err(|_| found())
        };
        columns.push(rows.iter().enumerate().map(number).collect::<Result<_, _>>()?);
        names.push(name.to_owned());
    }
    for name in ATTRIBUTES {
        let at = column(name)?;
        let values: BTreeSet<&str> = rows.iter().map(|row| &row[at]).collect();
        let skipped = usize::from(values.len() == 2);
        for value in values.into_iter().skip(skipped) {
            columns.push(rows.iter().map(|row| f32::from(u8::from(&row[at] == value))).collect());
            names.push(format!("{name}={value}"));
        }
    }
    let label = column(LABEL)?;
    let y = rows.iter().map(|row| i64::from(&row[label] == POSITIVE)).collect();

    let x = ArrayD::from_shape_fn(vec![rows.len(), columns.len()], |at| columns[at[1]][at[0]]);
    let mut examples = Examples::new(HostArray::F32(x), Labels::Integer(y), path)?;
    examples.feature_names = Some(names);
    Ok(examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two stays; everything that is not named is `No`, and has one value.
    fn table(columns: &[&str], rows: [&[&str]; 2]) -> String {
        let header: Vec<&str> = NUMBERS.into_iter().chain(ATTRIBUTES).chain([LABEL]).collect();
        let line = |row: &[&str]| {
            let cell = |name: &&str| match columns.iter().position(|column| column == name) {
                Some(at) => row[at].to_owned(),
                None if NUMBERS.contains(name) => "7".to_owned(),
                None => "No".to_owned(),
            };
            header.iter().map(cell).collect::<Vec<_>>().join(",")
        };
        format!("{}\n{}\n{}\n", header.join(","), line(rows[0]), line(rows[1]))
    }

    #[test]
    fn values_become_columns_and_two_values_become_one() {
        let columns = ["num_procedures", "gender", LABEL];
        let text = table(&columns, [&["3", "Male", "<30"], &["0", "Female", ">30"]]);
        let examples = read(text.as_bytes(), Path::new("test")).unwrap();
        let names = examples.feature_names.clone().unwrap();
        assert_eq!((names.len(), names[8].as_str(), names[9].as_str()), (40, "gender=Male", "race=No"));
        let HostArray::F32(x) = &examples.x else { panic!("f32") };
        assert_eq!((x[[0, 2]], x[[0, 8]], x[[0, 9]]), (3.0, 1.0, 1.0));
        assert_eq!((x[[1, 2]], x[[1, 8]], x[[1, 9]]), (0.0, 0.0, 1.0));
        assert_eq!(examples.y, Labels::Integer(vec![1, 0]));
    }

    #[test]
    fn what_is_missing_or_no_number_is_said() {
        let text = table(&["num_procedures"], [&["3"], &["?"]]);
        let message = read(text.as_bytes(), Path::new("test")).unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains('?'), "{message}");
        let message = read("a,b\n1,2\n".as_bytes(), Path::new("test")).unwrap_err().to_string();
        assert!(message.contains("time_in_hospital"), "{message}");
    }
}
