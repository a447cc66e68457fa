//! Where data comes from, as a user writes it: `mnist:test[0..100]`, `train.npz`, `x.npy,y.npy[7]`.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::DataError;

/// A registry dataset or files, and the rows to take.
///
/// | text | meaning |
/// |---|---|
/// | `NAME`, `NAME:SPLIT` | a dataset of the registry; without a split its first one |
/// | `T.npz` | the arrays `x` and `y` |
/// | `X.npy,Y.npy` | a pair, features first; idx files (`...ubyte`, `....idx`, plain or `.gz`) alike |
/// | `T.csv` | a table |
/// | any of them`[a..b]` | the rows `a` to `b - 1`, counted from 0; either end may be left out |
/// | any of them`[i]` | the row `i` |
///
/// A name with one of these extensions is always a file.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// use if_data::{Origin, Source};
///
/// let source: Source = "mnist:test[7]".parse()?;
/// assert_eq!(source.origin, Origin::Dataset { name: "mnist".into(), split: Some("test".into()) });
/// assert_eq!((source.rows.start, source.rows.end), (7, Some(8)));
/// assert_eq!(source.to_string(), "mnist:test[7]");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// What to open.
    pub origin: Origin,
    /// What to take from it.
    pub rows: Rows,
}

/// A dataset of the registry, or files.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A dataset of the registry, and one of its splits (`None`: its first).
    Dataset {
        /// Its name in the registry.
        name: String,
        /// The split as it was given.
        split: Option<String>,
    },
    /// An `.npz` file with `x` and `y`.
    Npz(PathBuf),
    /// Two `.npy` or idx files.
    Pair {
        /// The features.
        x: PathBuf,
        /// The labels.
        y: PathBuf,
    },
    /// A `.csv` file.
    Csv(PathBuf),
}

/// Rows `start..end`; the default is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rows {
    /// First row, counted from 0.
    pub start: usize,
    /// One past the last row; `None` for all that follow.
    pub end: Option<usize>,
}

impl FromStr for Source {
    type Err = DataError;

    fn from_str(spec: &str) -> Result<Self, DataError> {
        let bad = |reason: &str| DataError::BadSource { spec: spec.to_owned(), reason: reason.to_owned() };
        let (origin, rows) = match spec.strip_suffix(']') {
            None => (spec, Rows::default()),
            Some(text) => {
                let (origin, range) = text.rsplit_once('[').ok_or_else(|| bad("`]` without `[`"))?;
                (
                    origin,
                    parse_rows(range).ok_or_else(|| bad("rows are written [i], [a..b], [a..] or [..b]"))?,
                )
            }
        };
        Ok(Self { origin: parse_origin(origin).map_err(bad)?, rows })
    }
}

fn parse_rows(text: &str) -> Option<Rows> {
    let Some((start, end)) = text.split_once("..") else {
        let row: usize = text.trim().parse().ok()?;
        return Some(Rows { start: row, end: Some(row.checked_add(1)?) });
    };
    let bound = |text: &str| match text.trim() {
        "" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    Some(Rows { start: bound(start)?.unwrap_or(0), end: bound(end)? })
}

fn parse_origin(text: &str) -> Result<Origin, &'static str> {
    if let Some((x, y)) = text.split_once(',') {
        if is_array(x) && is_array(y) && !y.contains(',') {
            return Ok(Origin::Pair { x: x.into(), y: y.into() });
        }
        return Err("a pair is two .npy or idx files, features first: X.npy,Y.npy");
    }
    match Path::new(text).extension().and_then(|extension| extension.to_str()) {
        Some("npz") => return Ok(Origin::Npz(text.into())),
        Some("csv") => return Ok(Origin::Csv(text.into())),
        _ if is_array(text) => return Err("features alone; labels come second: X.npy,Y.npy"),
        _ => {}
    }
    let (name, split) = match text.split_once(':') {
        Some((name, split)) => (name, Some(split)),
        None => (text, None),
    };
    let is_word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if is_word(name) && split.is_none_or(is_word) {
        return Ok(Origin::Dataset { name: name.to_owned(), split: split.map(str::to_owned) });
    }
    Err("expected a dataset (NAME or NAME:SPLIT), T.npz, T.csv, or a pair X.npy,Y.npy or of idx files")
}

/// Whether the name says that the file holds one array.
fn is_array(name: &str) -> bool {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    name.ends_with(".npy") || plain.ends_with(".idx") || plain.ends_with("ubyte")
}

impl Rows {
    /// The rows as a range below `len`; `source` is what an error calls the data.
    pub(crate) fn resolve(self, len: usize, source: &Source) -> Result<Range<usize>, DataError> {
        let (start, end) = (self.start, self.end.unwrap_or(len));
        if start < end && end <= len {
            return Ok(start..end);
        }
        Err(DataError::RowsOutOfRange { source_name: source.origin.to_string(), start, end, len })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)?;
        match self.rows {
            Rows { start: 0, end: None } => Ok(()),
            Rows { start, end: None } => write!(f, "[{start}..]"),
            Rows { start, end: Some(end) } if start.checked_add(1) == Some(end) => write!(f, "[{start}]"),
            Rows { start, end: Some(end) } => write!(f, "[{start}..{end}]"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset { name, split: None } => f.write_str(name),
            Self::Dataset { name, split: Some(split) } => write!(f, "{name}:{split}"),
            Self::Npz(path) | Self::Csv(path) => path.display().fmt(f),
            Self::Pair { x, y } => write!(f, "{},{}", x.display(), y.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_as_it_was_written() {
        for spec in [
            "digits",
            "mnist:test",
            "mnist:train[0..5500]",
            "mnist:test[7]",
            "enron1-spam:train[3..]",
            "T.npz",
            "dir/data[1].npz",
            "some dir/T.npz[0..2]",
            "x.npy,y.npy[5..9]",
            "t.csv[4]",
            "train-images-idx3-ubyte.gz,train-labels-idx1-ubyte.gz",
            "C:\\data\\t.npz",
        ] {
            assert_eq!(spec.parse::<Source>().unwrap().to_string(), spec);
        }
        let open: Source = "digits[..5]".parse().unwrap();
        assert_eq!(open.rows, Rows { start: 0, end: Some(5) });
        let all: Source = "digits[..]".parse().unwrap();
        assert_eq!(all.rows, Rows::default());
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        for (spec, reason) in [
            ("", "expected a dataset"),
            ("digits[", "expected a dataset"),
            ("digits]", "`]` without `[`"),
            ("digits[]", "rows are written"),
            ("digits[-1]", "rows are written"),
            ("digits[1..2..3]", "rows are written"),
            ("digits[18446744073709551615]", "rows are written"),
            ("x.npy", "features alone"),
            ("train-images-idx3-ubyte.gz", "features alone"),
            ("x.npy,y.csv", "a pair is two"),
            ("x.npy,y.npy,z.npy", "a pair is two"),
            ("data.parquet", "expected a dataset"),
            ("mnist:", "expected a dataset"),
        ] {
            let message = spec.parse::<Source>().unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn rows_out_of_range_say_the_length() {
        let source: Source = "mnist:test[7..12]".parse().unwrap();
        assert_eq!(source.rows.resolve(12, &source).unwrap(), 7..12);
        let message = source.rows.resolve(10, &source).unwrap_err().to_string();
        assert_eq!(message, "mnist:test: rows [7..12] asked for, but it has the rows [0..10]");
        let empty: Source = "mnist:test[5..5]".parse().unwrap();
        assert!(empty.rows.resolve(10, &empty).is_err());
    }
}
