//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DataError;

/// A file written under a temporary name in the folder of its target.
///
/// [`create`](Self::create) fails where the target could not be written, so call it before a long
/// run. [`finish`](Self::finish) flushes to the disk and renames; dropped unfinished, the temporary
/// file is removed and an older target stays as it was. Writing is buffered.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("scores.csv");
/// use std::io::Write;
///
/// let mut file = if_data::AtomicFile::create(&path)?;
/// writeln!(file, "query,train,score")?;
/// assert!(!path.exists());
/// file.finish()?;
/// assert!(path.exists());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    finished: bool,
}

/// Tells the temporary files of one process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl AtomicFile {
    /// Opens a temporary file beside `target`; a symbolic link is followed, so that it stays one.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written, or `target` is something other than a file.
    pub fn create(target: &Path) -> Result<Self, DataError> {
        // `file_name` would pass over the separator, and the rename fail after the long run.
        if target.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
            return Err(DataError::malformed(target, "output", "the name of a file", "that of a folder"));
        }
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        if target.exists() && !target.is_file() {
            let found = if target.is_dir() { "a folder" } else { "a device or pipe" };
            return Err(DataError::malformed(&target, "output", "a file to write", found));
        }
        loop {
            let temporary = temporary_name(&target)?;
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    let writer = BufWriter::with_capacity(1 << 18, file);
                    return Ok(Self { writer, temporary, target, finished: false });
                }
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DataError::io(&target, "create")(e)),
            }
        }
    }

    /// The name that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes everything to the disk and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or the rename is refused; the target is then as it was before.
    pub fn finish(mut self) -> Result<(), DataError> {
        self.commit().map_err(DataError::io(&self.target, "write"))?;
        self.finished = true;
        Ok(())
    }

    /// [`finish`](Self::finish) after `bytes`.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_with(mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.write_all(bytes).map_err(DataError::io(&self.target, "write"))?;
        self.finish()
    }

    fn commit(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        sync_folder(&self.target)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.writer.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here, and the target is untouched either way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn temporary_name(target: &Path) -> Result<PathBuf, DataError> {
    let name = target
        .file_name()
        .ok_or_else(|| DataError::malformed(target, "output", "the name of a file", "none"))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{number}.part", std::process::id()));
    Ok(target.with_file_name(temporary))
}

/// A rename survives a power failure only when the folder is on the disk too.
#[cfg(unix)]
fn sync_folder(target: &Path) -> io::Result<()> {
    match target.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(not(unix))]
fn sync_folder(_target: &Path) -> io::Result<()> {
    Ok(())
}
