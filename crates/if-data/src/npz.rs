//! `.npz`, NumPy's zip archive of named arrays.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::input::{Input, MAX_DEFLATE_RATIO};
use crate::{Array, AtomicFile, DataError, Examples, Labels, npy};

/// Reads every array of an `.npz` file, stored or compressed, by name (without `.npy`).
///
/// # Errors
/// If the file is not a readable zip archive, or an array in it is not readable by
/// [`read_npy`](crate::read_npy).
pub fn read_npz(path: &Path) -> Result<BTreeMap<String, Array>, DataError> {
    let mut archive = Archive::open(path)?;
    archive.names().into_iter().map(|name| Ok((name.clone(), archive.read(&name)?))).collect()
}

/// Reads one array of an `.npz` file by name (without `.npy`), whatever the others hold.
///
/// # Errors
/// As [`read_npz`]; if there is no such array, the error lists those there are.
pub fn read_npz_array(path: &Path, name: &str) -> Result<Array, DataError> {
    Archive::open(path)?.read(name)
}

/// Reads the arrays `x` (features) and `y` (labels), and numbers of groups where the array `group` is there; others are
/// not looked at.
pub(crate) fn read_examples(path: &Path, group: Option<&str>) -> Result<Examples, DataError> {
    let mut archive = Archive::open(path)?;
    let x = archive.read("x")?.into_features(path, "array x")?;
    let y = archive.read("y")?.into_labels(path, "array y")?;
    let mut examples = Examples::new(x, y, path)?;
    if let Some(group) = group.filter(|group| archive.names().iter().any(|name| name == group)) {
        let groups = match archive.read(group)?.into_labels(path, &format!("array {group}"))? {
            Labels::Integer(values) => values.iter().map(i64::to_string).collect::<Vec<_>>(),
            Labels::Real(values) => values.iter().map(f64::to_string).collect(),
        };
        if groups.len() != examples.len() {
            let expected = format!("{} groups, one per example", examples.len());
            let found = groups.len().to_string();
            return Err(DataError::malformed(path, format!("array {group}"), expected, found));
        }
        examples.groups = Some(groups);
    }
    Ok(examples)
}

/// Writes named arrays as a compressed `.npz` file that appears whole or not at all.
///
/// ```
/// # fn main() -> Result<(), if_data::DataError> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("digits.npz");
/// use if_data::{Array, LoadOptions, load, write_npz};
///
/// let digits = load(&"digits[0..10]".parse()?, &LoadOptions::default())?;
/// write_npz(&path, [("x", &Array::from(digits.x)), ("y", &Array::from(digits.y))])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the file cannot be written.
pub fn write_npz<'a>(
    path: &Path,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> Result<(), DataError> {
    let mut file = AtomicFile::create(path)?;
    write_entries(&mut file, arrays).map_err(DataError::io(path, "write"))?;
    file.finish()
}

fn write_entries<'a>(
    file: &mut AtomicFile,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> io::Result<()> {
    let mut zip = ZipWriter::new(file);
    // Large files need 20 more bytes an entry, which is nothing beside not knowing the size.
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(true);
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), options)?;
        match array {
            Array::U8(a) => npy::write_to(&mut zip, a.view()),
            Array::I64(a) => npy::write_to(&mut zip, a.view()),
            Array::F32(a) => npy::write_to(&mut zip, a.view()),
            Array::F64(a) => npy::write_to(&mut zip, a.view()),
        }?;
    }
    zip.finish()?;
    Ok(())
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    path: PathBuf,
    bytes: u64,
}

impl Archive {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path, "open"))?;
        let bytes = file.metadata().map_err(DataError::io(path, "open"))?.len();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| match e {
            ZipError::Io(source) => DataError::io(path, "read")(source),
            other => {
                let found = format!("{bytes} bytes that are not one ({other})");
                DataError::malformed(path, "archive", "a complete npz (zip) archive", found)
            }
        })?;
        Ok(Self { zip, path: path.to_owned(), bytes })
    }

    /// Names of the arrays, without `.npy`, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.zip.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect();
        names.sort();
        names
    }

    fn read(&mut self, name: &str) -> Result<Array, DataError> {
        let entry = format!("{name}.npy");
        let Some(index) = self.zip.index_for_name(&entry) else {
            let found = format!("the arrays {:?}", self.names());
            return Err(DataError::malformed(&self.path, "archive", format!("an array {name:?}"), found));
        };
        let file = self.zip.by_index(index).map_err(|e| match e {
            ZipError::Io(source) => DataError::io(&self.path, "read")(source),
            other => DataError::malformed(
                &self.path,
                format!("entry {entry}"),
                "a stored or deflated array",
                other.to_string(),
            ),
        })?;
        // The declared size may lie as well; what the archive's own bytes can expand to does not.
        let limit = file.size().min(self.bytes.saturating_mul(MAX_DEFLATE_RATIO));
        npy::read_from(&mut Input::new(file, &self.path, &entry, limit))
    }
}
