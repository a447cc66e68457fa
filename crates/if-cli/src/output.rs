//! What goes to stdout: a text with aligned tables, or one JSON document.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use if_data::{AtomicFile, DataError};

use serde_json::{Value, json};

use crate::error::Failure;

/// What a command has to say.
pub struct Report {
    /// For people.
    pub text: String,
    /// For programs: the same and more.
    pub json: Value,
    /// Whether some result carries a flag.
    pub flagged: bool,
}

/// Prints to stdout. A reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The document that `--json` prints: `body` with the program's name and version.
pub fn document(command: &str, mut body: Value) -> Value {
    body["program"] = json!(concat!("influence ", env!("CARGO_PKG_VERSION")));
    body["command"] = json!(command);
    body
}

/// A csv table that appears whole or not at all.
pub struct Csv {
    table: csv::Writer<AtomicFile>,
    path: PathBuf,
}

impl Csv {
    /// A table in a new file.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        Ok(Self::new(AtomicFile::create(path)?, path))
    }

    /// A table in `file`, which errors call `path`.
    pub fn new(file: AtomicFile, path: &Path) -> Self {
        Self { table: csv::Writer::from_writer(file), path: path.to_owned() }
    }

    /// Adds a row.
    pub fn row<S: AsRef<[u8]>>(&mut self, cells: &[S]) -> Result<(), Failure> {
        self.table.write_record(cells).map_err(|error| failed(&self.path, error))
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<(), Failure> {
        let path = self.path;
        let file = self.table.into_inner().map_err(|error| failed(&path, error.into_error().into()))?;
        file.finish().map_err(Failure::output)
    }
}

fn failed(path: &Path, error: csv::Error) -> Failure {
    let source = io::Error::other(error.to_string());
    Failure::output(DataError::Io { path: path.to_owned(), action: "write", source })
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a heading.
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns: a heading that starts with `<` is for words, any other for numbers.
    pub fn new(headings: &[&str]) -> Self {
        let column = |heading: &&str| match heading.strip_prefix('<') {
            Some(words) => (words.to_owned(), Align::Left),
            None => ((*heading).to_owned(), Align::Right),
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, every line indented by two.
    pub fn render(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| heading.clone()).collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| all().map(|row| row[c].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in all() {
            let cells =
                row.iter().zip(&widths).zip(&self.columns).map(|((cell, &width), (_, align))| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            let line = cells.collect::<Vec<_>>().join("  ");
            text += &format!("  {}\n", line.trim_end());
        }
        text
    }
}

/// All digits, with an exponent where zeros would follow the point.
pub fn exact(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-4 { format!("{value:e}") } else { value.to_string() }
}

/// Four significant digits, with an exponent where it is shorter.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        format!("{value}")
    } else if (1e-3..1e5).contains(&size) {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// Four significant digits of a change, always with its sign.
pub fn signed(value: f64) -> String {
    format!("{value:+.3e}")
}

/// A duration for people.
pub fn seconds(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["id", "<class", "score"]);
        table.row(["7", "ankle boot", "-1.5"].map(String::from));
        table.row(["1024", "bag", "10.25"].map(String::from));
        assert_eq!(
            table.render(),
            "    id  class       score\n     7  ankle boot   -1.5\n  1024  bag         10.25\n"
        );
    }

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 1.23456, 0.0012345, 12345.6, 1e-9, -2.5e7, f64::NAN].map(short);
        assert_eq!(shown, ["0", "1.235", "0.001234", "12346", "1.000e-9", "-2.500e7", "NaN"]);
        assert_eq!(signed(-0.00123), "-1.230e-3");
    }
}
