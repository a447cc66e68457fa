//! What influence says of removal, against training this network again without halves of its examples; and how well two
//! such trainings agree that differ in their seed alone: no attribution can be expected to do better.

use if_methods::{DatamodelScore, GroupDraw, SeedNoise, pearson, random_order};
use if_models::Dataset;

use super::QUERIES;
use crate::Context;
use crate::result::{Metric, Table};
use crate::support::{PairModel, PairSplits, each_seed, pair_influence};

/// Halves of the training examples that are left out, one after another.
const GROUPS: usize = 12;

const PREDICTORS: [&str; 6] = [
    "influence, dense layers",
    "influence, all layers",
    "loss",
    "mean loss over checkpoints",
    "gradient norm",
    "random",
];

/// What one seed of training gives, groups x queries.
struct Trial {
    /// What was really changed by training without the group.
    effects: Vec<Vec<f64>>,
    /// What each of [`PREDICTORS`] says.
    predicted: Vec<Vec<Vec<f64>>>,
}

/// Metrics and a table of one data set, drawn by the first of `seeds`, and trainings by all of them.
pub fn compare(context: &Context, seeds: &[u64]) -> anyhow::Result<(Vec<Metric>, Table)> {
    let (splits, _) = PairSplits::hans(context, seeds[0])?;
    let drawn: Vec<usize> = random_order(splits.held_out.len(), seeds[0]).into_iter().take(QUERIES).collect();
    let queries = splits.held_out.select(&drawn);
    let mut draw = GroupDraw::new(seeds[0]);
    let n = splits.train.len();
    let groups: Vec<Vec<usize>> = (0..GROUPS).map(|_| draw.random(n, n / 2)).collect();
    let trials = each_seed(context, seeds, |seed| trial(context, (&splits.train, &queries), &groups, seed))?;

    Ok(shown(&trials, seeds))
}

/// How well seeds agree with each other, and each of [`PREDICTORS`] with their mean.
fn shown(trials: &[Trial], seeds: &[u64]) -> (Vec<Metric>, Table) {
    let m = seeds.len();
    let actual = mean_of(trials, |trial| &trial.effects);
    let noise =
        |q: usize| SeedNoise::new(&trials.iter().map(|trial| column(&trial.effects, q)).collect::<Vec<_>>());
    let between = over_queries(|q| noise(q).pearson);
    let ceiling = over_queries(|q| noise(q).ceiling(m));
    let mut metrics = vec![
        Metric::new("removal of halves: R of the effects under two seeds", between),
        Metric::new(format!("removal of halves, mean over {m} seeds: ceiling of R"), ceiling),
    ];
    let ranks = format!("{:.3}", over_queries(|q| noise(q).spearman));
    let mut rows = vec![vec!["another seed’s training".to_owned(), format!("{between:.3}"), ranks]];
    for (p, name) in PREDICTORS.into_iter().enumerate() {
        let predicted = mean_of(trials, |trial| &trial.predicted[p]);
        let found = over_queries(|q| pearson(&column(&predicted, q), &column(&actual, q)));
        let ranks = DatamodelScore::new(&predicted, &actual, seeds[0]);
        let [low, high] = ranks.interval;
        rows.push(vec![
            format!("{name}, mean over seeds, against mean effects"),
            format!("{found:.3}"),
            format!("{:.3} ({low:.3} to {high:.3})", ranks.mean),
        ]);
        metrics.push(Metric::new(format!("removal of halves, mean over {m} seeds: R of {name}"), found));
    }
    rows.push(vec![format!("ceiling with the mean of {m} seeds"), format!("{ceiling:.3}"), "–".into()]);
    let title = format!(
        "Effects of {GROUPS} random halves on the loss of {QUERIES} queries, by training without them under {m} seeds: correlation over halves, mean over queries"
    );
    let columns = ["compared", "Pearson", "Spearman (95 % interval)"].map(String::from).to_vec();
    (metrics, Table { title, columns, rows })
}

fn over_queries(value: impl Fn(usize) -> f64) -> f64 {
    (0..QUERIES).map(value).sum::<f64>() / QUERIES as f64
}

fn trial(
    context: &Context,
    (train, queried): (&Dataset, &Dataset),
    groups: &[Vec<usize>],
    seed: u64,
) -> anyhow::Result<Trial> {
    let losses = |data: &Dataset| -> anyhow::Result<(PairModel, Vec<f64>)> {
        let model = PairModel::train(context, (data, 2), seed)?;
        let losses = model.network.example_losses(&model.inputs(queried)?, &model.theta);
        Ok((model, losses))
    };
    let (model, before) = losses(train)?;
    let mut effects = Vec::with_capacity(groups.len());
    for group in groups {
        let mut left = vec![true; train.len()];
        group.iter().for_each(|&i| left[i] = false);
        let rest: Vec<usize> = (0..train.len()).filter(|&i| left[i]).collect();
        let (_, after) = losses(&train.select(&rest))?;
        effects.push(after.iter().zip(&before).map(|(after, before)| after - before).collect());
    }

    let (inputs, queries) = (model.inputs(train)?, model.inputs(queried)?);
    let mut predicted = Vec::with_capacity(PREDICTORS.len());
    for at in [(&model.network, &model.theta), model.whole()] {
        let scores = pair_influence(context, at, (&inputs, &queries))?;
        let change = |group: &[usize], q: usize| -> f64 {
            group.iter().map(|&i| scores.loss_change(q, i).expect("scores predict changes")).sum()
        };
        predicted.push(groups.iter().map(|group| (0..QUERIES).map(|q| change(group, q)).collect()).collect());
    }
    let random = random_order(train.len(), seed).into_iter().map(|rank| rank as f64).collect();
    // The same for all queries.
    for values in [
        model.network.example_losses(&inputs, &model.theta),
        model.mean_losses(&inputs)?,
        model.network.gradient_norms(&inputs, &model.theta),
        random,
    ] {
        predicted.push(groups.iter().map(|group| vec![sum(&values, group); QUERIES]).collect());
    }
    Ok(Trial { effects, predicted })
}

fn sum(values: &[f64], group: &[usize]) -> f64 {
    group.iter().map(|&i| values[i]).sum()
}

fn column(matrix: &[Vec<f64>], q: usize) -> Vec<f64> {
    matrix.iter().map(|row| row[q]).collect()
}

/// Mean over trials of one of their matrices.
fn mean_of(trials: &[Trial], matrix: impl Fn(&Trial) -> &Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let at = |g: usize, q: usize| {
        trials.iter().map(|trial| matrix(trial)[g][q]).sum::<f64>() / trials.len() as f64
    };
    (0..GROUPS).map(|g| (0..QUERIES).map(|q| at(g, q)).collect()).collect()
}
