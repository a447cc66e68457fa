//! The datasets inside the crate; `data/SOURCE.md` says where they come from.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use if_linalg::HostArray;
use ndarray::ArrayD;

use super::info::SplitInfo;
use crate::{DataError, Examples, Labels, LoadOptions, csv};

/// 1,797 rows of 64 pixels (0 to 16) and a label, one byte each.
const DIGITS: &[u8] = include_bytes!("../../data/digits.u8.gz");
const IRIS: &[u8] = include_bytes!("../../data/iris.csv");

/// Shape `(n, 8, 8)`, `f32`, pixels divided by 16 (exactly). Train is the first 1,437 rows, test the
/// other 360.
pub(super) fn digits(split: &SplitInfo) -> Result<Examples, DataError> {
    let path = Path::new("(embedded) digits.u8.gz");
    let mut rows = Vec::new();
    GzDecoder::new(DIGITS).read_to_end(&mut rows).map_err(DataError::io(path, "read"))?;
    let rows: Vec<&[u8]> = rows.chunks_exact(65).collect();
    let rows = match split.name {
        "train" => &rows[..1437],
        "test" => &rows[1437..],
        _ => &rows[..],
    };
    let pixels = rows.iter().flat_map(|row| &row[..64]).map(|&pixel| f32::from(pixel) / 16.0).collect();
    let x = ArrayD::from_shape_vec(vec![rows.len(), 8, 8], pixels).expect("64 pixels a row");
    let y = rows.iter().map(|row| i64::from(row[64])).collect();
    Examples::new(HostArray::F32(x), Labels::Integer(y), path)
}

/// Shape `(n, 4)`, `f64`, centimetres. Test is every fifth row (4, 9, 14, ...), 10 of each species.
pub(super) fn iris(split: &SplitInfo) -> Result<Examples, DataError> {
    let all = csv::read_examples(IRIS, Path::new("(embedded) iris.csv"), &LoadOptions::default())?;
    let wanted = |row: &usize| match split.name {
        "train" => row % 5 != 4,
        "test" => row % 5 == 4,
        _ => true,
    };
    let rows: Vec<usize> = (0..all.len()).filter(wanted).collect();
    Ok(all.select(&rows))
}
