//! 6d: Guo et al. 2021, the picture of influence interactions: which queries lean on which training examples, in clusters.
//!
//! Deviations:
//! 1. HANS is regenerated, and the model is that of experiment 6b.
//! 2. All scores stand in a matrix whose rows and columns are put in order by spectral co-clustering, whatever the paper's
//!    own way of drawing: of it only a figure is known here.

use std::collections::BTreeMap;

use if_methods::{CoClusters, arranged, by_largest};
use if_models::Dataset;

use crate::number::short;
use crate::result::{Metric, Table};
use crate::support::{OverSeeds, PAIRS_DAMPING, PairModel, PairSplits, each_seed, pair_influence};
use crate::{Context, Experiment, Figure, Outcome};
use if_plot::HeatMap;

/// Of each subcase.
const QUERIES: usize = 2;
const TRAIN: usize = 6;
const CLUSTERS: usize = 4;

/// `6d`.
pub struct Interactions;

impl Experiment for Interactions {
    fn id(&self) -> &str {
        "6d"
    }
    fn paper(&self) -> &str {
        "Guo et al. 2021"
    }
    fn title(&self) -> &str {
        "Influence interactions of queries and training examples, clustered, HANS (regenerated)"
    }
    fn claim(&self) -> &str {
        "Queries and training examples fall into groups that act on each other alike."
    }
    fn needs(&self) -> &[&str] {
        &["hans-regenerated"]
    }

    fn run(&self, context: &Context) -> anyhow::Result<Outcome> {
        let seeds = context.seeds(if context.full { 20 } else { 5 });
        let trials = each_seed(context, &seeds, |seed| trial(context, seed))?;
        let mut outcome = Outcome { metrics: judge(&trials), seeds, ..Outcome::default() };
        outcome.plots = trials[0].figures();
        outcome.tables.push(trials[0].table());
        describe(&mut outcome);
        Ok(outcome)
    }
}

/// Scores of some queries against some training examples, each query's by its largest.
struct Trial {
    scores: Vec<f64>,
    clusters: CoClusters,
    /// Kinds of the queries and of the training examples.
    subcases: [Vec<String>; 2],
}

fn trial(context: &Context, seed: u64) -> anyhow::Result<Trial> {
    let (splits, subcases) = PairSplits::hans(context, seed)?;
    let model = PairModel::train(context, (&splits.train, splits.classes), seed)?;
    let train = model.inputs(&splits.train)?;
    let shown = some_of_each(&splits.train, &subcases, TRAIN);
    let queried = splits.held_out.select(&some_of_each(&splits.held_out, &subcases, QUERIES));
    let queries = model.inputs(&queried)?;
    let all = pair_influence(context, (&model.network, &model.theta), (&train, &queries))?;
    let mut scores = Vec::with_capacity(queried.len() * shown.len());
    for q in 0..queried.len() {
        scores.extend(shown.iter().map(|&i| all.row(q)[i]));
    }
    by_largest(&mut scores, shown.len());
    let clusters = CoClusters::new(&scores, shown.len(), CLUSTERS, seed, context)?;
    let kinds = |data: &Dataset| data.ids().iter().map(|&id| subcases[id].clone()).collect();
    let subcases = [kinds(&queried), kinds(&splits.train.select(&shown))];
    Ok(Trial { scores, clusters, subcases })
}

/// The first `count` examples of every subcase, in the order of `data`.
fn some_of_each(data: &Dataset, subcases: &[String], count: usize) -> Vec<usize> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let wanted = |i: &usize| {
        let of_kind = taken.entry(&subcases[data.ids()[*i]]).or_default();
        *of_kind += 1;
        *of_kind <= count
    };
    (0..data.len()).filter(wanted).collect()
}

impl Trial {
    fn figures(&self) -> Vec<Figure> {
        let CoClusters { queries, train, .. } = &self.clusters;
        let plain = [queries, train].map(|side| (0..side.len()).collect::<Vec<_>>());
        let ordered = [queries, train].map(|side| CoClusters::order(side));
        let lines = [queries, train].map(|side| CoClusters::borders(side));
        let limit = HeatMap::full_from(&self.scores);
        let draw = |title: &str, order: &[Vec<usize>; 2], lines: [&[usize]; 2]| {
            let values = arranged(&self.scores, train.len(), [&order[0], &order[1]]);
            HeatMap {
                title,
                row_label: "queries",
                column_label: "training examples",
                values: &values,
                columns: train.len(),
                limit,
                row_lines: lines[0],
                column_lines: lines[1],
            }
            .svg()
        };
        let figure =
            |name: &str, caption: &str, svg| Figure { name: name.into(), caption: caption.into(), svg };
        vec![
            figure(
                "clustered",
                "Blue: proponents, orange: opponents; each query’s scores by its largest. Clusters stand in the order of the table, from the top and from the left; one may lack a side.",
                draw("Interactions, clustered", &ordered, [&lines[0], &lines[1]]),
            ),
            figure(
                "by-subcase",
                "The same numbers in the order of the subcases’ names, those of entailment before the others within each heuristic.",
                draw("Interactions, by subcase", &plain, [&[], &[]]),
            ),
        ]
    }

    /// What lies in the clusters.
    fn table(&self) -> Table {
        let row = |c: usize| {
            let kinds = |side: usize, clusters: &[usize]| {
                let members = clusters.iter().zip(&self.subcases[side]).filter(|(own, _)| **own == c);
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                members.for_each(|(_, kind)| *counts.entry(kind).or_default() += 1);
                let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
                counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                let total: usize = counts.iter().map(|(_, count)| count).sum();
                // The second letter of a subcase says whether the hypothesis follows.
                let follows = counts.iter().filter(|(kind, _)| kind.as_bytes()[1] == b'e');
                let follows: usize = follows.map(|(_, count)| count).sum();
                let first: Vec<&str> = counts.iter().take(4).map(|(kind, _)| *kind).collect();
                [total.to_string(), format!("{follows} of {total}"), first.join(", ")]
            };
            let [_, queries, query_kinds] = kinds(0, &self.clusters.queries);
            let [_, train, train_kinds] = kinds(1, &self.clusters.train);
            vec![(c + 1).to_string(), queries, query_kinds, train, train_kinds]
        };
        let columns = [
            "cluster",
            "queries that follow",
            "most frequent subcases",
            "training examples that follow",
            "most frequent subcases",
        ];
        Table {
            title: "What the clusters of the first seed hold".into(),
            columns: columns.map(String::from).to_vec(),
            rows: (0..self.clusters.count()).map(row).collect(),
        }
    }
}

fn judge(trials: &[Trial]) -> Vec<Metric> {
    let [within, between] = [0, 1]
        .map(|side| OverSeeds::over(trials, |trial| trial.clusters.within_and_between(&trial.scores)[side]));
    let value = |j: usize| OverSeeds::over(trials, |trial| trial.clusters.singular_values[j]).mean;
    vec![
        Metric::new("mean score within clusters, by each query’s largest", within.mean),
        Metric::new("mean score between clusters", between.mean),
        Metric::new("largest singular value of the scaled scores", value(0)),
        Metric::new("second singular value", value(1)),
    ]
}

fn describe(outcome: &mut Outcome) {
    outcome.setting("data and model", "as in 6b, HANS (regenerated); nine of ten training pairs follow");
    outcome.setting("queries", format!("{QUERIES} pairs held out of each of 30 subcases"));
    outcome.setting("train", format!("scores with {TRAIN} training pairs of each subcase are shown"));
    outcome.setting(
        "influence",
        format!("dense layers, Gauss-Newton, damping {PAIRS_DAMPING}; block conjugate gradients to 1e-6"),
    );
    outcome.setting("clusters", format!("{CLUSTERS}, by spectral co-clustering of signed scores"));
    outcome.notes = vec![
        "The paper has a figure and no number, and the target is a picture that is made and looked at. What it shows: clusters whose queries have proponents of the same label, and that mix heuristics; a cluster may have training examples alone.".into(),
        "HANS here is regenerated by its authors’ templates; its sentences are not the published ones.".into(),
        format!("Colours are full from the {} % quantile of the absolute scores on.", short(100.0 * HeatMap::FULL)),
        "The clusters are made from the scores, so that more within than between is their doing; what is found is in the table: which kinds of pairs they put together.".into(),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::dataset;

    #[test]
    fn some_of_each_kind_are_taken_in_their_order() {
        let data = dataset(1, vec![0.0; 6], vec![0.0; 6]).unwrap().with_ids(vec![5, 4, 3, 2, 1, 0]);
        let kinds = ["a", "b", "a", "a", "b", "a"].map(String::from);
        assert_eq!(some_of_each(&data, &kinds, 2), [0, 1, 2, 4]);
    }

    #[test]
    fn the_table_says_what_clusters_hold() {
        let clusters = CoClusters { queries: vec![1, 0], train: vec![0, 1, 0], singular_values: vec![1.0] };
        let scores = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let subcases = [vec!["le_x", "ln_x"], vec!["se_x", "sn_x", "se_y"]];
        let subcases = subcases.map(|kinds| kinds.into_iter().map(String::from).collect());
        let trial = Trial { scores, clusters, subcases };
        let table = trial.table();
        assert_eq!(table.rows[0], ["1", "0 of 1", "ln_x", "2 of 2", "se_x, se_y"]);
        assert_eq!(table.rows[1][1..4], ["1 of 1", "le_x", "0 of 1"]);
    }
}
