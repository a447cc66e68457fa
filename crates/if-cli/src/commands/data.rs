//! `influence data`: what there is, getting it, and looking at it.

use std::collections::BTreeMap;

use if_data::{DatasetInfo, FetchOptions, Location, datasets};
use if_linalg::HostArray;
use serde_json::{Value, json};

use crate::args::DataCommand;
use crate::error::Failure;
use crate::output::{Report, Table, short};
use crate::source::{Columns, Data, cache_dir, load_options};

/// Runs the command.
pub fn run(command: &DataCommand) -> Result<Report, Failure> {
    match command {
        DataCommand::List => Ok(list()),
        DataCommand::Fetch { name, mirror } => fetch(name, mirror.as_deref()),
        DataCommand::Verify { name } => verify(name.as_deref()),
        DataCommand::Show { source, label } => show(&Data::load(source, label.as_deref())?),
    }
}

fn report(text: String, json: Value) -> Report {
    Report { text, json, flagged: false }
}

fn list() -> Report {
    let options = load_options(Columns::default());
    let mut table = Table::new(&["<name", "<shape", "classes", "<splits", "<where", "<what"]);
    let mut entries = Vec::new();
    for info in datasets() {
        let location = place(&info.locate(&options));
        let splits: Vec<String> = info.splits.iter().map(|s| format!("{} {}", s.name, s.examples)).collect();
        let shape: Vec<String> = info.shape.iter().map(ToString::to_string).collect();
        table.row([
            info.name.to_owned(),
            shape.join("x"),
            info.classes.len().to_string(),
            splits.join(", "),
            location.clone(),
            info.summary.to_owned(),
        ]);
        let splits: Vec<Value> =
            info.splits.iter().map(|s| json!({ "name": s.name, "examples": s.examples })).collect();
        entries.push(json!({
            "name": info.name,
            "shape": info.shape,
            "classes": info.classes,
            "splits": splits,
            "location": location,
            "summary": info.summary,
            "licence": info.licence,
        }));
    }
    report(table.render(), json!({ "datasets": entries }))
}

fn place(location: &Location) -> String {
    match location {
        Location::Embedded => "in the program".into(),
        Location::Folder(folder) => folder.display().to_string(),
        Location::Missing => "not here".into(),
    }
}

fn fetch(name: &str, mirror: Option<&str>) -> Result<Report, Failure> {
    let cache_dir = cache_dir().ok_or_else(|| {
        Failure::input("there is no cache folder to put files in: neither XDG_CACHE_HOME nor HOME is set")
    })?;
    let options = FetchOptions { cache_dir, base_url: mirror.map(str::to_owned), proxy: proxy(mirror) };
    let paths = if_data::fetch(name, &options)?;
    let text = match paths.as_slice() {
        [] => format!("{name} is in the program; there is nothing to fetch\n"),
        paths => paths.iter().map(|path| format!("{}\n", path.display())).collect(),
    };
    Ok(report(text, json!({ "dataset": name, "files": paths })))
}

/// `$HTTPS_PROXY`, or `$HTTP_PROXY` alone for a mirror without encryption; in either case of letters.
fn proxy(mirror: Option<&str>) -> Option<String> {
    let plain = mirror.is_some_and(|url| url.starts_with("http:"));
    let names: &[&str] = if plain { &["HTTP_PROXY"] } else { &["HTTPS_PROXY", "HTTP_PROXY"] };
    let read = |name: String| std::env::var(name).ok().filter(|value| !value.is_empty());
    names.iter().find_map(|name| read((*name).to_owned()).or_else(|| read(name.to_lowercase())))
}

fn verify(name: Option<&str>) -> Result<Report, Failure> {
    let options = load_options(Columns::default());
    let named = |info: &&DatasetInfo| name.is_none_or(|name| name == info.name);
    let chosen: Vec<&DatasetInfo> = datasets().iter().filter(named).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = datasets().iter().map(|info| info.name).collect();
        let name = name.unwrap_or_default();
        return Err(Failure::input(format!(
            "unknown dataset {name:?}: the registry has {}",
            known.join(", ")
        )));
    }
    let mut table = Table::new(&["<name", "<checked"]);
    let mut entries = Vec::new();
    for info in chosen {
        let location = info.locate(&options);
        let result = match location {
            // Who asks for one dataset wants to hear what is missing.
            Location::Missing if name.is_none() => "not here".to_owned(),
            Location::Embedded => "in the program".to_owned(),
            _ => {
                info.verify(&options)?;
                format!("good: {}", place(&location))
            }
        };
        table.row([info.name.to_owned(), result.clone()]);
        entries.push(json!({ "name": info.name, "result": result }));
    }
    Ok(report(table.render(), json!({ "datasets": entries })))
}

fn show(data: &Data) -> Result<Report, Failure> {
    let features = data.set.features();
    let kind = match features {
        HostArray::U8(_) => "uint8, divided by 255 when used",
        HostArray::F32(_) => "float32",
        HostArray::F64(_) => "float64",
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    data.set.labels().iter().for_each(|label| *counts.entry(data.label_name(*label)).or_default() += 1);
    let (low, high) = range(features);
    let ids = data.set.ids();
    let mut text = format!(
        "{}: {} examples (rows {} to {}) of shape {:?}\nfeatures  {kind}, from {} to {}\nlabels    {}\n",
        data.source,
        ids.len(),
        ids[0],
        ids[ids.len() - 1],
        &features.shape()[1..],
        short(low),
        short(high),
        describe(&counts),
    );
    if let Some(picture) = crate::picture::Picture::of(features, 0) {
        text += &format!("row {}, {}:\n", ids[0], data.label_name(data.set.labels()[0]));
        picture.lines(false).iter().for_each(|line| text += &format!("  {}\n", line.trim_end()));
    }
    let json = json!({
        "source": data.source.to_string(),
        "examples": ids.len(),
        "first_row": ids[0],
        "shape": features.shape(),
        "features": kind,
        "range": [low, high],
        "labels": counts,
    });
    Ok(report(text, json))
}

fn describe(counts: &BTreeMap<String, usize>) -> String {
    let shown: Vec<String> = counts.iter().take(20).map(|(name, count)| format!("{name}: {count}")).collect();
    let more =
        if counts.len() > 20 { format!(", ... ({} different ones)", counts.len()) } else { String::new() };
    shown.join(", ") + &more
}

/// Smallest and largest feature, as used.
fn range(features: &HostArray) -> (f64, f64) {
    let mut row = vec![0.0; features.width()];
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for i in 0..features.rows() {
        features.read_row(i, &mut row);
        low = row.iter().copied().fold(low, f64::min);
        high = row.iter().copied().fold(high, f64::max);
    }
    (low, high)
}
