//! `influence clusters`: queries and training examples that act on each other, in common clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use if_data::{AtomicFile, Source, read_npy};
use if_methods::{CoClusters, MethodError, arranged, by_largest, descending};
use if_plot::HeatMap;
use serde_json::{Value, json};

use super::{certificates_beside, need_extension};
use crate::args::ClustersArgs;
use crate::console::Console;
use crate::error::Failure;
use crate::output::{Report, Table, document, short};
use crate::source::{Data, keep_inputs};

/// Labels of a cluster that are named in the table.
const SHOWN: usize = 4;

/// Scores in a picture, at most: more are not told apart, and browsers choke on them.
const DRAWN: usize = 1_000_000;

/// Runs the command.
pub fn run(args: &ClustersArgs, console: &Console) -> Result<Report, Failure> {
    let beside = certificates_beside(&args.scores, "--scores", "npy")?;
    need_extension(Some(&args.out), "--out", "json")?;
    need_extension(args.plot.as_deref(), "--plot", "svg")?;
    if args.out == beside {
        return Err(Failure::input(format!(
            "--out {}: expected another name, this is that of the record of {}",
            beside.display(),
            args.scores.display()
        )));
    }
    let outputs: Vec<&Path> = std::iter::once(&*args.out).chain(args.plot.as_deref()).collect();
    let sources: Vec<&Source> = args.train.iter().chain(&args.query).collect();
    keep_inputs(&outputs, &sources, &[&args.scores, &beside])?;
    let mut matrix = Matrix::read(args, beside)?;
    if let Some(top) = args.top {
        matrix.keep_strongest(top);
    }
    if args.plot.is_some() && matrix.scores.len() > DRAWN {
        let (queries, train) = (matrix.queries.ids.len(), matrix.train.ids.len());
        return Err(Failure::input(format!(
            "--plot: expected at most {DRAWN} scores, found {queries} x {train}"
        ))
        .hint("--top N with a small N leaves the training examples of the largest scores; or take fewer queries"));
    }
    let (out, plot) =
        (AtomicFile::create(&args.out)?, args.plot.as_deref().map(AtomicFile::create).transpose()?);
    let train = matrix.train.ids.len();
    by_largest(&mut matrix.scores, train);
    let clusters = CoClusters::new(&matrix.scores, train, args.clusters, args.seed, console).map_err(
        |error| match error {
            MethodError::Setting { .. } => Failure::input(format!("--{error}")),
            other => other.into(),
        },
    )?;
    if clusters.count() < args.clusters {
        console.note(&format!("{} of {} clusters have members", clusters.count(), args.clusters));
    }
    let found = Found { args, matrix, clusters };
    let json = found.record();
    let text = format!("{:#}\n", document("clusters", json.clone()));
    if let Some(file) = plot {
        file.finish_with(found.picture().as_bytes()).map_err(Failure::output)?;
    }
    out.finish_with(text.as_bytes()).map_err(Failure::output)?;
    Ok(Report { text: found.text(), json, flagged: false })
}

/// Queries, or training examples.
struct Side {
    /// Rows of their source.
    ids: Vec<usize>,
    /// Where the source was given.
    labels: Option<Vec<String>>,
}

struct Matrix {
    /// Row-major.
    scores: Vec<f64>,
    queries: Side,
    train: Side,
}

impl Matrix {
    fn read(args: &ClustersArgs, beside: PathBuf) -> Result<Self, Failure> {
        let array = read_npy(&args.scores)?.to_f64();
        let name = args.scores.display();
        let [queries, train] = *array.shape() else {
            return Err(Failure::input(format!(
                "{name}: expected scores, queries x training examples, found an array of shape {:?}",
                array.shape()
            )));
        };
        if array.is_empty() {
            return Err(Failure::input(format!("{name}: expected scores, found none ({queries} x {train})")));
        }
        let scores = array.into_raw_vec_and_offset().0;
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Failure::input(format!(
                "{name}: row {}, column {}: expected a finite score, found {}",
                at / train,
                at % train,
                scores[at]
            ))
            .hint("rows of queries whose solve failed are NaN: repair these, or leave the queries out"));
        }
        let records = Records::read(beside)?;
        let label = args.label.as_deref();
        let trained = args.train.as_ref().map(|source| Data::load(source, label)).transpose()?;
        let queried = args
            .query
            .as_ref()
            .map(|source| match &trained {
                Some(train) => Data::load_like(source, label, train),
                None => Data::load(source, label),
            })
            .transpose()?;
        Ok(Self {
            scores,
            queries: Side::new(queried, records.queries(queries)?, ("rows", queries), args)?,
            train: Side::new(trained, records.train(train), ("columns", train), args)?,
        })
    }

    /// Leaves the training examples that are among the `top` with the largest scores of some query.
    fn keep_strongest(&mut self, top: usize) {
        let width = self.train.ids.len();
        let strongest = |row: &[f64]| {
            let sizes: Vec<f64> = row.iter().map(|score| score.abs()).collect();
            descending(&sizes).into_iter().take(top).collect::<Vec<_>>()
        };
        let kept: BTreeSet<usize> = self.scores.chunks_exact(width).flat_map(strongest).collect();
        let kept: Vec<usize> = kept.into_iter().collect();
        let rows: Vec<usize> = (0..self.queries.ids.len()).collect();
        self.scores = arranged(&self.scores, width, [&rows, &kept]);
        self.train.ids = kept.iter().map(|&i| self.train.ids[i]).collect();
        if let Some(labels) = &mut self.train.labels {
            *labels = kept.iter().map(|&i| labels[i].clone()).collect();
        }
    }
}

impl Side {
    /// `recorded` are ids from a file beside the scores.
    fn new(
        data: Option<Data>,
        recorded: Option<Vec<usize>>,
        (axis, length): (&str, usize),
        args: &ClustersArgs,
    ) -> Result<Self, Failure> {
        let Some(data) = data else {
            return Ok(Self { ids: recorded.unwrap_or_else(|| (0..length).collect()), labels: None });
        };
        let ids = data.set.ids();
        let scores = args.scores.display();
        if ids.len() != length {
            return Err(Failure::input(format!(
                "{}: expected as many examples as {scores} has {axis}, {length}, found {}",
                data.source,
                ids.len()
            )));
        }
        if let Some(at) = recorded.iter().flatten().zip(ids).position(|(recorded, id)| recorded != id) {
            return Err(Failure::input(format!(
                "{}: expected the examples that {scores} is of, found example {} in place of {}",
                data.source,
                ids[at],
                recorded.unwrap_or_default()[at]
            )));
        }
        let labels = data.set.labels().iter().map(|&label| data.label_name(label)).collect();
        Ok(Self { ids: ids.to_vec(), labels: Some(labels) })
    }
}

/// The record beside the scores; none where there is no such file.
struct Records {
    path: PathBuf,
    json: Value,
}

impl Records {
    fn read(path: PathBuf) -> Result<Self, Failure> {
        let json = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Failure::input(format!("{}: expected JSON: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(Failure::input(format!("{}: cannot read: {error}", path.display()))),
        };
        Ok(Self { path, json })
    }

    /// Numbers of the queries: plain, or each with its certificate.
    fn queries(&self, rows: usize) -> Result<Option<Vec<usize>>, Failure> {
        let Some(entries) = self.json["queries"].as_array() else { return Ok(None) };
        if entries.len() != rows {
            return Err(Failure::input(format!(
                "{}: expected a query for each of {rows} rows of scores, found {}",
                self.path.display(),
                entries.len()
            )));
        }
        let id = |entry: &Value| entry.get("query").unwrap_or(entry).as_u64().map(|id| id as usize);
        Ok(entries.iter().map(id).collect())
    }

    /// Numbers of the training examples, which are consecutive rows of their source.
    fn train(&self, columns: usize) -> Option<Vec<usize>> {
        let first = self.json["first_train_row"].as_u64()? as usize;
        Some((first..).take(columns).collect())
    }
}

struct Found<'a> {
    args: &'a ClustersArgs,
    /// Every row by its largest.
    matrix: Matrix,
    clusters: CoClusters,
}

impl Found<'_> {
    /// Both sides with their clusters.
    fn sides(&self) -> [(&Side, &[usize]); 2] {
        [(&self.matrix.queries, &self.clusters.queries), (&self.matrix.train, &self.clusters.train)]
    }

    fn picture(&self) -> String {
        let [queries, train] = self.sides();
        let orders = [queries, train].map(|(_, clusters)| CoClusters::order(clusters));
        let columns = train.0.ids.len();
        let values = arranged(&self.matrix.scores, columns, [&orders[0], &orders[1]]);
        let [row_lines, column_lines] = [queries, train].map(|(_, clusters)| CoClusters::borders(clusters));
        let title = format!("Scores of {}, by clusters", self.args.scores.display());
        HeatMap {
            title: &title,
            row_label: &format!("{} queries, each by its largest score", queries.0.ids.len()),
            column_label: &format!("{columns} training examples; blue: proponents, orange: opponents"),
            values: &values,
            columns,
            limit: HeatMap::full_from(&values),
            row_lines: &row_lines,
            column_lines: &column_lines,
        }
        .svg()
    }

    fn record(&self) -> Value {
        let cluster = |c: usize| {
            let mut entry = json!({ "cluster": c + 1, "mean_score": self.mean_score(c) });
            for ((side, clusters), name) in self.sides().into_iter().zip(["queries", "train"]) {
                entry[name] = json!(members(clusters, c).map(|i| side.ids[i]).collect::<Vec<_>>());
                if let Some(counts) = side.counts(clusters, c) {
                    entry[format!("{name}_labels")] = counts.into_iter().collect();
                }
            }
            entry
        };
        let [within, between] = self.clusters.within_and_between(&self.matrix.scores);
        json!({
            "scores": self.args.scores,
            "train": self.args.train.as_ref().map(Source::to_string),
            "query": self.args.query.as_ref().map(Source::to_string),
            "top": self.args.top,
            "seed": self.args.seed,
            "singular_values": self.clusters.singular_values,
            "mean_score_within": within,
            "mean_score_between": between,
            "clusters": (0..self.clusters.count()).map(cluster).collect::<Vec<_>>(),
        })
    }

    /// Mean score of the queries of a cluster with its training examples, each query's by its largest; none where it
    /// lacks a side.
    fn mean_score(&self, c: usize) -> Option<f64> {
        let columns = self.clusters.train.len();
        let [queries, train]: [Vec<usize>; 2] =
            [&self.clusters.queries, &self.clusters.train].map(|side| members(side, c).collect());
        let inside = arranged(&self.matrix.scores, columns, [&queries, &train]);
        (!inside.is_empty()).then(|| inside.iter().sum::<f64>() / inside.len() as f64)
    }

    fn text(&self) -> String {
        let [(queries, _), (train, _)] = self.sides();
        let mut headings = vec!["cluster", "queries", "train", "mean score"];
        for ((side, _), heading) in self.sides().into_iter().zip(["<labels of queries", "<labels of train"]) {
            if side.labels.is_some() {
                headings.push(heading);
            }
        }
        let mut table = Table::new(&headings);
        for c in 0..self.clusters.count() {
            let count = |(_, clusters): &(&Side, &[usize])| members(clusters, c).count().to_string();
            let mut cells = vec![(c + 1).to_string()];
            cells.extend(self.sides().iter().map(count));
            cells.push(self.mean_score(c).map_or_else(String::new, short));
            cells.extend(
                self.sides()
                    .iter()
                    .filter_map(|(side, clusters)| side.counts(clusters, c).map(|counts| frequent(&counts))),
            );
            table.row(cells);
        }
        let [within, between] = self.clusters.within_and_between(&self.matrix.scores);
        format!(
            "{}: {} queries x {} training examples, clusters: {}; scores by each query's largest\n{}\n\
             mean score within clusters {}{}\n",
            self.args.out.display(),
            queries.ids.len(),
            train.ids.len(),
            self.clusters.count(),
            table.render(),
            short(within),
            if between.is_nan() { String::new() } else { format!(", between {}", short(between)) },
        )
    }
}

impl Side {
    /// How often each label is in a cluster.
    fn counts(&self, clusters: &[usize], c: usize) -> Option<BTreeMap<String, usize>> {
        let labels = self.labels.as_ref()?;
        let mut counts = BTreeMap::new();
        members(clusters, c).for_each(|i| *counts.entry(labels[i].clone()).or_default() += 1);
        Some(counts)
    }
}

/// Positions of the members of a cluster.
fn members(clusters: &[usize], c: usize) -> impl Iterator<Item = usize> {
    clusters.iter().enumerate().filter(move |(_, own)| **own == c).map(|(i, _)| i)
}

/// The most frequent labels with their counts.
fn frequent(counts: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<(&String, &usize)> = counts.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rest = if all.len() > SHOWN { ", ..." } else { "" };
    let shown = all.iter().take(SHOWN).map(|(label, count)| format!("{label}: {count}"));
    shown.collect::<Vec<_>>().join(", ") + rest
}
