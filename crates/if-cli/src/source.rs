//! Examples from a source, with what people want to read about them.

use std::path::{Path, PathBuf};

use if_data::{LoadOptions, Origin, Source};
use if_models::{Dataset, ModelError};

use crate::args::QueryArgs;
use crate::error::Failure;

/// The examples of a source.
pub struct Data {
    /// What it is called in messages.
    pub source: Source,
    /// The examples; their ids are rows of the file or split.
    pub set: Dataset,
    /// Name of class `c` at position `c`, where the source has names.
    pub classes: Option<Vec<String>>,
    /// What every example has in the group column, where one was asked for and is there.
    pub groups: Option<Vec<String>>,
    /// Name of every feature, where the source has names.
    pub features: Option<Vec<String>>,
}

/// Columns of csv tables that are no features.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns<'a> {
    /// The labels; the last column where there is nothing.
    pub label: Option<&'a str>,
    /// The groups.
    pub group: Option<&'a str>,
}

impl<'a> From<Option<&'a str>> for Columns<'a> {
    fn from(label: Option<&'a str>) -> Self {
        Self { label, group: None }
    }
}

impl Data {
    /// Loads `source` from its files, `$INFLUENCE_DATA` or the cache folder.
    pub fn load<'a>(source: &Source, columns: impl Into<Columns<'a>>) -> Result<Self, Failure> {
        let examples = if_data::load(source, &load_options(columns.into()))?;
        let ids = examples.ids;
        let set = Dataset::new(examples.x, examples.y.to_f64())
            .map_err(|error| located(&source.origin, &ids, error))?;
        Ok(Self {
            source: source.clone(),
            set: set.with_ids(ids),
            classes: examples.class_names,
            groups: examples.groups,
            features: examples.feature_names,
        })
    }

    /// Loads queries, their labels numbered like those of `train`: two csv tables may hold different
    /// classes, and each numbers its own.
    pub fn load_like<'a>(
        source: &Source,
        columns: impl Into<Columns<'a>>,
        train: &Self,
    ) -> Result<Self, Failure> {
        let mut data = Self::load(source, columns)?;
        if let (Some(own), Some(wanted)) = (&data.features, &train.features)
            && own.len() == wanted.len()
            && let Some(at) = (0..own.len()).find(|&at| own[at] != wanted[at])
        {
            return Err(Failure::input(format!(
                "{}: expected the features of {} in their order, found {:?} in place of {:?}",
                data.source.origin, train.source.origin, own[at], wanted[at]
            )));
        }
        let (Some(own), Some(wanted)) = (&data.classes, &train.classes) else { return Ok(data) };
        if own != wanted {
            let labels: Result<Vec<f64>, Failure> = data
                .set
                .labels()
                .iter()
                .map(|&class| {
                    let name = &own[class as usize];
                    let position = wanted.iter().position(|other| other == name);
                    position.map(|p| p as f64).ok_or_else(|| {
                        let known = wanted.join(", ");
                        Failure::input(format!(
                            "{}: expected the classes of {} ({known}), found {name:?}",
                            data.source.origin, train.source.origin
                        ))
                    })
                })
                .collect();
            data.set = data.set.with_labels(labels?);
            data.classes = Some(wanted.clone());
        }
        Ok(data)
    }

    /// Example `i` alone.
    pub fn only(&self, i: usize) -> Self {
        self.select(&[i])
    }

    /// The examples from position `first` on.
    pub fn rest(&self, first: usize) -> Self {
        self.select(&(first..self.set.len()).collect::<Vec<_>>())
    }

    /// The examples at these positions.
    pub fn select(&self, positions: &[usize]) -> Self {
        Self {
            source: self.source.clone(),
            set: self.set.select(positions),
            classes: self.classes.clone(),
            groups: None,
            features: self.features.clone(),
        }
    }

    /// Positions of the examples of these rows, `option` being where they are named.
    pub fn positions(&self, rows: &[usize], option: &str) -> Result<Vec<usize>, Failure> {
        let ids = self.set.ids();
        let find = |row: &usize| {
            ids.iter().position(|id| id == row).ok_or_else(|| {
                let [first, last] = [ids[0], ids[ids.len() - 1]];
                Failure::input(format!(
                    "{option}: expected rows of {} from {first} to {last}, found {row}",
                    self.source
                ))
            })
        };
        let positions: Vec<usize> = rows.iter().map(find).collect::<Result<_, Failure>>()?;
        match (0..rows.len()).find(|&i| rows[..i].contains(&rows[i])) {
            Some(twice) => Err(Failure::input(format!("{option}: row {} stands there twice", rows[twice]))),
            None => Ok(positions),
        }
    }

    /// An error about these examples: names the source, and examples by their row in it.
    pub fn failure(&self, error: ModelError) -> Failure {
        located(&self.source.origin, self.set.ids(), error)
    }

    /// A label for people: the class name, else the number.
    pub fn label_name(&self, label: f64) -> String {
        let known =
            || self.classes.as_ref()?.get(label as usize).filter(|_| label >= 0.0 && label.fract() == 0.0);
        known().cloned().unwrap_or_else(|| label.to_string())
    }

    /// Number of classes: those with a name, else one more than the largest label.
    pub fn class_count(&self) -> Result<usize, Failure> {
        let n = self.set.len();
        let largest = self.set.classes().ok_or_else(|| {
            let position = self.set.labels().iter().position(|y| *y < 0.0 || y.fract() != 0.0).unwrap_or(0);
            self.failure(ModelError::Label {
                example: position,
                label: self.set.labels()[position],
                expected: "a class: 0, 1, 2, ...".into(),
            })
        })?;
        // One absurd label must not allocate a weight matrix of its size.
        if largest > n.max(1000) {
            let label = largest - 1;
            let origin = &self.source.origin;
            return Err(Failure::input(format!(
                "{origin}: {n} examples, expected fewer classes than that, found label {label}"
            )));
        }
        Ok(self.classes.as_ref().map_or(largest, |names| names.len().max(largest)))
    }
}

/// Training examples and queries; `group` is a column of groups.
pub fn load(args: &QueryArgs, group: Option<&str>) -> Result<(Data, Data), Failure> {
    let columns = Columns { label: args.model.label.as_deref(), group };
    if group.is_some() && group == columns.label {
        return Err(Failure::input("--group-by: expected another column than --label"));
    }
    let train = Data::load(&args.model.train, columns)?;
    let query = Data::load_like(&args.query, columns, &train)?;
    Ok((train, query))
}

/// Refuses outputs that would overwrite an input: a file of `sources`, or one of `files`.
pub fn keep_inputs(outputs: &[&Path], sources: &[&Source], files: &[&Path]) -> Result<(), Failure> {
    let of_sources = sources.iter().flat_map(|source| match &source.origin {
        Origin::Npz(path) | Origin::Csv(path) => vec![&**path],
        Origin::Pair { x, y } => vec![&**x, &**y],
        Origin::Dataset { .. } => Vec::new(),
    });
    let inputs: Vec<&Path> = of_sources.chain(files.iter().copied()).collect();
    for (i, output) in outputs.iter().enumerate() {
        if outputs[..i].iter().any(|other| place(other) == place(output)) {
            let name = output.display();
            return Err(Failure::input(format!("{name}: expected a file for each output, found it twice")));
        }
    }
    for output in outputs {
        let Ok(target) = output.canonicalize() else { continue };
        if inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == target)) {
            let name = output.display();
            return Err(Failure::input(format!(
                "{name}: expected an output apart from the inputs, found one of them"
            )));
        }
    }
    Ok(())
}

/// Where a file that may not be there yet will be.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn located(origin: &Origin, ids: &[usize], mut error: ModelError) -> Failure {
    if let ModelError::Label { example, .. }
    | ModelError::NonFiniteFeature { example, .. }
    | ModelError::TokenId { example, .. }
    | ModelError::Diverged { example, .. } = &mut error
    {
        *example = ids[*example];
    }
    Failure::input(format!("{origin}: {error}"))
}

/// Where data is looked for: `$INFLUENCE_DATA`, then the cache folder.
pub fn load_options(columns: Columns) -> LoadOptions {
    LoadOptions {
        data_dir: std::env::var_os("INFLUENCE_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        cache_dir: cache_dir(),
        label_column: columns.label.map(str::to_owned),
        group_column: columns.group.map(str::to_owned),
    }
}

/// `$XDG_CACHE_HOME/influence` or `~/.cache/influence`.
pub fn cache_dir() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("influence"))
}
