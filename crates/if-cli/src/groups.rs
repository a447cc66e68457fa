//! Groups of training examples: from a table, from a column, or drawn.

use std::collections::BTreeMap;
use std::path::Path;

use if_linalg::Backend;
use if_methods::{GroupDraw, Influence, MethodError, Tail};
use if_models::Inputs;

use crate::args::{DrawArgs, DrawName};
use crate::error::Failure;
use crate::output::Csv;
use crate::session::Session;
use crate::source::Data;

/// Groups with their names.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// One name for each.
    pub names: Vec<String>,
    /// Positions of training examples, in rising order.
    pub members: Vec<Vec<usize>>,
}

impl Groups {
    /// Reads a table with the columns `group` and `index`, or `index` alone for one group of the file's name. An index
    /// is a row of the source that `train` comes from.
    pub fn read(path: &Path, train: &Data) -> Result<Self, Failure> {
        let refuse = |line: u64, expected: &str, found: String| {
            Failure::input(format!("{}: line {line}: expected {expected}, found {found}", path.display()))
        };
        let open = |error: csv::Error| Failure::input(format!("{}: {error}", path.display()));
        let mut table =
            csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_path(path).map_err(open)?;
        let header: Vec<String> = table.headers().map_err(open)?.iter().map(str::to_owned).collect();
        let column = |name: &str| header.iter().position(|column| column == name);
        let (Some(index), group) = (column("index"), column("group")) else {
            return Err(refuse(1, "the header group,index", format!("{header:?}")));
        };
        if header.len() != 1 + usize::from(group.is_some()) {
            return Err(refuse(1, "the header group,index", format!("{header:?}")));
        }
        let alone = path.file_stem().map_or("group".into(), |stem| stem.to_string_lossy().into_owned());
        let rows: BTreeMap<usize, usize> = train.set.ids().iter().copied().zip(0..).collect();
        let mut groups = Self::default();
        let mut positions = BTreeMap::new();
        for record in table.records() {
            let record = record.map_err(open)?;
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() != header.len() {
                return Err(refuse(line, &format!("{} columns", header.len()), record.len().to_string()));
            }
            let name = group.map_or(alone.as_str(), |column| &record[column]).to_owned();
            let found = &record[index];
            let position = found.parse().ok().and_then(|row: usize| rows.get(&row).copied());
            let position = position.ok_or_else(|| {
                let [first, last] =
                    [rows.keys().next(), rows.keys().last()].map(|row| row.copied().unwrap_or(0));
                refuse(
                    line,
                    &format!("a row of {} from {first} to {last}", train.source),
                    format!("{found:?}"),
                )
            })?;
            let at = *positions.entry(name.clone()).or_insert_with(|| {
                groups.names.push(name.clone());
                groups.members.push(Vec::new());
                groups.names.len() - 1
            });
            if groups.members[at].contains(&position) {
                return Err(refuse(
                    line,
                    &format!("every row of group {name} once"),
                    format!("{found} again"),
                ));
            }
            groups.members[at].push(position);
        }
        if groups.names.is_empty() {
            return Err(refuse(2, "at least one row", "none".into()));
        }
        groups.sorted().checked(&path.display().to_string(), train)
    }

    /// One group for each value of the group column of `train`, in the order of the values.
    pub fn by_column(column: &str, train: &Data) -> Result<Self, Failure> {
        let Some(values) = &train.groups else {
            let found = match &train.features {
                Some(features) => format!("{} with the features {}", train.source, features.join(", ")),
                None => train.source.to_string(),
            };
            return Err(Failure::input(format!(
                "--group-by {column}: expected a csv table with that column or an npz file with that array, found {found}"
            )));
        };
        let mut groups: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        values.iter().enumerate().for_each(|(i, value)| groups.entry(value).or_default().push(i));
        let (names, members) = groups.into_iter().map(|(name, members)| (name.clone(), members)).unzip();
        Self { names, members }.checked(&format!("--group-by {column}"), train)
    }

    /// Draws groups as `args` say; the tails of influence are those on the first of `queries`.
    pub fn draw<B: Backend>(
        kind: DrawName,
        args: &DrawArgs,
        session: &Session<B>,
        (influence, queries): (&Influence<B>, &Inputs<B>),
    ) -> Result<Self, Failure> {
        let (network, theta) = (&session.network, &session.theta);
        let train = &session.problem.train;
        let n = train.set.len();
        let name = clap::ValueEnum::to_possible_value(&kind).expect("it can be asked for");
        let mut draw = GroupDraw::new(args.draw_seed.unwrap_or(0));
        let mut groups = Self::default();
        let tail = match kind {
            DrawName::PositiveTail => Some(Tail::Positive),
            DrawName::NegativeTail => Some(Tail::Negative),
            _ => None,
        };
        let scores = match tail {
            None => Vec::new(),
            Some(_) => {
                let mut first = Vec::new();
                influence.attribute(queries, &(), |rows| {
                    if rows.first == 0 {
                        first = rows.scores[..n].to_vec();
                    }
                    Ok::<(), MethodError>(())
                })?;
                first
            }
        };
        let size = |size: &f64| match *size {
            share if share < 1.0 => ((share * n as f64).round() as usize).max(1),
            size => size as usize,
        };
        let sizes: Vec<usize> = args.sizes().iter().map(size).collect();
        // Each once: names are made of them.
        for (_, &size) in sizes.iter().enumerate().filter(|(at, size)| !sizes[..*at].contains(size)) {
            if size >= n {
                return Err(Failure::input(format!("--draw-size {size}: expected less than {n} examples")));
            }
            for i in 0..args.count() {
                let members = match (kind, tail) {
                    (_, Some(tail)) => draw.influence_tail(&scores, tail, size),
                    (DrawName::SameClass, _) => {
                        draw.same_class(train.set.labels(), size).ok_or_else(|| {
                            Failure::input(format!(
                                "--draw-size {size}: expected no more than the largest class of {} has",
                                train.source
                            ))
                        })?
                    }
                    (DrawName::FeatureWindow, _) => draw.feature_window(&train.set, size),
                    (DrawName::FeatureCluster, _) => draw.feature_cluster(&train.set, size),
                    (DrawName::GradientCluster, _) => {
                        draw.gradient_cluster(network, (&session.train, theta), size)
                    }
                    _ => draw.random(n, size),
                };
                groups.names.push(format!("{}-{size}-{i}", name.get_name()));
                groups.members.push(members);
            }
        }
        Ok(groups)
    }

    /// Writes the table that [`read`](Self::read) reads.
    pub fn write(&self, mut table: Csv, train: &Data) -> Result<(), Failure> {
        table.row(&["group", "index"])?;
        for (name, members) in self.names.iter().zip(&self.members) {
            for &member in members {
                table.row(&[name, &train.set.ids()[member].to_string()])?;
            }
        }
        table.finish()
    }

    fn sorted(mut self) -> Self {
        self.members.iter_mut().for_each(|members| members.sort_unstable());
        self
    }

    /// Refuses groups that leave nothing to train on.
    fn checked(self, origin: &str, train: &Data) -> Result<Self, Failure> {
        let n = train.set.len();
        match self.members.iter().position(|members| members.len() == n) {
            Some(all) => Err(Failure::input(format!(
                "{origin}: group {} holds all {n} training examples: expected at least one to stay",
                self.names[all]
            ))),
            None => Ok(self),
        }
    }
}
