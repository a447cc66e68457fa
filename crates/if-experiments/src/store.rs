//! The folder of results: `ID/result.json`, `ID/*.svg`, `index.html`, all written at once or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;

use crate::harness::{Figure, Outcome};
use crate::result::{FigureFile, Record};

const RESULT: &str = "result.json";

/// A result with the plots that it names.
pub struct Stored {
    pub record: Record,
    folder: PathBuf,
}

impl Stored {
    /// The SVG text of a plot, if the file is still there, beside the result and nowhere else.
    pub fn svg(&self, figure: &FigureFile) -> Option<String> {
        let beside = Path::new(&figure.file).file_name().is_some_and(|name| name == figure.file.as_str());
        beside.then(|| fs::read_to_string(self.folder.join(&figure.file)).ok()).flatten()
    }
}

/// Makes sure, before hours of work, that the results of `ids` can be written.
pub fn prepare(out: &Path, ids: &[&str]) -> anyhow::Result<()> {
    let folders = ids.iter().map(|id| out.join(id));
    for folder in std::iter::once(out.to_path_buf()).chain(folders) {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let probe = folder.join(".probe.tmp");
        File::create(&probe).with_context(|| format!("cannot write into {}", folder.display()))?;
        fs::remove_file(probe)?;
    }
    Ok(())
}

/// Writes the figures of `outcome`, then `record`, which names them.
pub fn save(out: &Path, record: &Record, outcome: &Outcome) -> anyhow::Result<()> {
    let folder = out.join(&record.id);
    for figure in outcome.plots.iter().chain(&outcome.pictures) {
        write(&folder.join(file_name(figure)), &figure.svg)?;
    }
    write(&folder.join(RESULT), &(serde_json::to_string_pretty(record)? + "\n"))
}

/// The entry of a figure in its record.
pub fn figure_file(figure: &Figure) -> FigureFile {
    FigureFile { file: file_name(figure), caption: figure.caption.clone() }
}

fn file_name(figure: &Figure) -> String {
    format!("{}.svg", figure.name)
}

/// Writes under a temporary name, then renames: a reader sees the old file or the new one.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// All results in `out`, ordered by id. A file that is no result is left out and named.
pub fn load_all(out: &Path) -> anyhow::Result<(Vec<Stored>, Vec<String>)> {
    let (mut results, mut unreadable) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(out).with_context(|| format!("cannot read {}", out.display()))? {
        let folder = entry?.path();
        let path = folder.join(RESULT);
        if !path.is_file() {
            continue;
        }
        match load(&path) {
            Ok(record) => results.push(Stored { record, folder }),
            Err(error) => unreadable.push(format!("{error:#}")),
        }
    }
    results.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    Ok((results, unreadable))
}

/// The committed result of the experiment `id`, if there is one.
pub fn committed(folder: &Path, id: &str) -> anyhow::Result<Option<Record>> {
    let path = folder.join(format!("{id}.json"));
    path.is_file().then(|| load(&path)).transpose()
}

/// The result of the experiment `id` in `out`, if it is one and was written after `moment`.
pub fn written_since(out: &Path, id: &str, moment: SystemTime) -> Option<Record> {
    let path = out.join(id).join(RESULT);
    let written = fs::metadata(&path).and_then(|found| found.modified()).ok()?;
    if written > moment { load(&path).ok() } else { None }
}

fn load(path: &Path) -> anyhow::Result<Record> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a result", path.display()))
}
