//! Files that appear whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
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
    /// Whether the temporary file is left where it is: it has its name, or is worth going on with.
    stays: bool,
}

/// Tells the temporary files of one process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl AtomicFile {
    /// Opens a temporary file beside `target`; a symbolic link is followed, so that it stays one.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written, or `target` is something other than a file.
    pub fn create(target: &Path) -> Result<Self, DataError> {
        let target = place(target)?;
        loop {
            let temporary = temporary_name(&target)?;
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self::new(file, temporary, target)),
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DataError::io(&target, "create")(e)),
            }
        }
    }

    /// Opens `NAME.part` beside `target` at its start, with what an earlier process may have left in it. It is locked
    /// until it is closed, and removed where it is dropped unfinished before [`stay`](Self::stay).
    ///
    /// # Errors
    /// As [`create`](Self::create), and where another process has it open.
    pub(crate) fn part(target: &Path) -> Result<Self, DataError> {
        let target = place(target)?;
        let mut name = file_name(&target)?.to_owned();
        name.push(".part");
        let temporary = target.with_file_name(name);
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&temporary);
            let file = file.map_err(DataError::io(&target, "create"))?;
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                let expected = "a file that no other process writes";
                return Err(DataError::malformed(
                    &temporary,
                    "output",
                    expected,
                    "one that is being written",
                ));
            }
            // Whoever had locked it may have given it its final name since it was opened here.
            if temporary.exists() {
                return Ok(Self::new(file, temporary, target));
            }
        }
    }

    fn new(file: File, temporary: PathBuf, target: PathBuf) -> Self {
        Self { writer: BufWriter::with_capacity(1 << 18, file), temporary, target, stays: false }
    }

    /// The file under its temporary name, to read from.
    pub(crate) fn file(&self) -> &File {
        self.writer.get_ref()
    }

    /// Forgets all after the first `bytes`, and goes on there.
    pub(crate) fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.writer.get_ref().set_len(bytes)?;
        self.writer.seek(SeekFrom::Start(bytes)).map(drop)
    }

    /// Lets the temporary file stay where it is dropped unfinished.
    pub(crate) fn stay(&mut self) {
        self.stays = true;
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
        self.stays = true;
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
        if !self.stays {
            // Nothing can be done about a failure here, and the target is untouched either way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The file that is written to in the end: behind links, and of a kind that can be replaced.
fn place(target: &Path) -> Result<PathBuf, DataError> {
    // `file_name` would pass over the separator, and the rename fail after the long run.
    if target.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
        return Err(DataError::malformed(target, "output", "the name of a file", "that of a folder"));
    }
    let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    if target.exists() && !target.is_file() {
        let found = if target.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(DataError::malformed(&target, "output", "a file to write", found));
    }
    Ok(target)
}

fn file_name(target: &Path) -> Result<&OsStr, DataError> {
    target.file_name().ok_or_else(|| DataError::malformed(target, "output", "the name of a file", "none"))
}

fn temporary_name(target: &Path) -> Result<PathBuf, DataError> {
    let name = file_name(target)?;
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
