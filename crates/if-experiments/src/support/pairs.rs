//! Models of sentence pairs that the training examples mislead, and the examples to set them right with: FastIF's setting.

use anyhow::{Context as _, ensure};
use if_data::LoadOptions;
use if_linalg::{Block, BlockCg, Prepared, Solver};
use if_methods::{Checkpoint, Influence, Scores, TracIn, random_order};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, Inputs, LayerSpec, Loss, ModelSpec, Network, Optimizer, RiskSettings,
    Schedule, Training,
};

use super::{F64, dense, load, predict, train_with_checkpoints};
use crate::Context;

/// Ids of tokens, and tokens of a pair: those of the registry's sentence pairs.
const BUCKETS: usize = 4096;
const LENGTH: usize = 128;
const EPOCHS: usize = 12;
/// Epochs between checkpoints, the last of which is the end.
const EVERY: usize = 3;
pub const PAIRS_L2: f64 = 1e-4;
/// Of the Gauss-Newton matrix.
pub const PAIRS_DAMPING: f64 = 0.01;
const EXACT: BlockCg = BlockCg { tolerance: 1e-6, max_iterations: 2000 };
/// Layers whose parameters count; as in the paper, what lies below stays as it was trained.
const TOP: [&str; 2] = ["1", "3"];

/// Sentence pairs for every purpose; none is in two parts.
pub struct PairSplits {
    pub train: Dataset,
    /// Drawn as `train` is, and not trained on.
    pub unseen: Dataset,
    /// Where errors are looked for that are to be corrected.
    pub anchors: Dataset,
    /// Where it is seen what correction did.
    pub held_out: Dataset,
    pub classes: usize,
}

/// Examples of each subcase of HANS in `train` and `unseen` (where the hypothesis follows, and where it does not), and in
/// `anchors` and `held_out`.
const DRAWN: [usize; 2] = [180, 20];
const JUDGED: [usize; 2] = [100, 200];

impl PairSplits {
    /// HANS (regenerated): in `train` nine of ten hypotheses follow from their premises, so that overlap of words misleads
    /// as it does in MultiNLI; `anchors` and `held_out` are balanced. Returns the subcases too, by the examples' ids.
    pub fn hans(context: &Context, seed: u64) -> anyhow::Result<(Self, Vec<String>)> {
        let options = LoadOptions {
            data_dir: context.data_dir().map(Into::into),
            group_column: Some("subcase".into()),
            ..LoadOptions::default()
        };
        let examples = if_data::load(&"hans-regenerated".parse()?, &options)?;
        let subcases = examples.groups.context("HANS has subcases")?;
        let all = Dataset::new(examples.x, examples.y.to_f64())?;
        let mut names: Vec<&String> = subcases.iter().collect();
        names.sort_unstable();
        names.dedup();
        let order = random_order(all.len(), seed);
        let mut parts: [Vec<usize>; 4] = Default::default();
        for name in names {
            let mut members = order.iter().copied().filter(|&i| subcases[i] == *name).peekable();
            let class = all.labels()[*members.peek().context("a subcase with pairs")?] as usize;
            for (part, count) in parts.iter_mut().zip([DRAWN[class], DRAWN[class], JUDGED[0], JUDGED[1]]) {
                part.extend(members.by_ref().take(count));
            }
        }
        let [train, unseen, anchors, held_out] = parts.map(|part| all.select(&part));
        Ok((Self { train, unseen, anchors, held_out, classes: 2 }, subcases))
    }

    /// Trained on `cad-snli:train`, corrected on a half of ANLI's development pairs (all rounds), judged on the other.
    pub fn anli(context: &Context, seed: u64) -> anyhow::Result<Self> {
        let joined = |sources: &[&str]| -> anyhow::Result<Dataset> {
            let parts =
                sources.iter().map(|source| load(context, source)).collect::<anyhow::Result<Vec<_>>>()?;
            joined(&parts)
        };
        let anli = joined(&["anli-dev:r1", "anli-dev:r2", "anli-dev:r3"])?.shuffled(seed);
        let half = anli.len() / 2;
        Ok(Self {
            train: load(context, "cad-snli:train")?,
            unseen: joined(&["cad-snli:dev", "cad-snli:test"])?,
            anchors: anli.slice(0, half),
            held_out: anli.slice(half, anli.len()),
            classes: 3,
        })
    }
}

/// The examples of `parts`, one part after another.
fn joined(parts: &[Dataset]) -> anyhow::Result<Dataset> {
    let width = parts[0].width();
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let mut row = vec![0.0f64; width];
    for part in parts {
        for i in 0..part.len() {
            part.features().read_row(i, &mut row);
            rows.extend_from_slice(&row);
        }
        labels.extend_from_slice(part.labels());
    }
    let features = ndarray::ArrayD::from_shape_vec(vec![labels.len(), width], rows)?;
    Ok(Dataset::new(if_linalg::HostArray::F64(features), labels)?)
}

/// A network for sentence pairs, trained.
pub struct PairModel {
    /// With the parameters of the dense layers; the embedding is part of it.
    pub network: Network<F64>,
    /// Where training ended.
    pub theta: Block<F64>,
    /// Of all parameters, along the training.
    checkpoints: Vec<Checkpoint<F64>>,
}

impl PairModel {
    /// The mean of 16 numbers for each token, a hidden layer of 32, relu.
    fn untrained(classes: usize) -> anyhow::Result<Network<F64>> {
        let embedding = LayerSpec::EmbeddingBag { name: "0".into(), vocab: BUCKETS, dim: 16 };
        let layers = vec![embedding, dense(TOP[0], 32), LayerSpec::Relu {}, dense(TOP[1], classes)];
        Ok(ModelSpec { input: vec![LENGTH], loss: Loss::CrossEntropy, layers }.build(&F64::new())?)
    }

    /// Trains all layers on `data`, and keeps the dense ones as parameters.
    pub fn train(context: &Context, (data, classes): (&Dataset, usize), seed: u64) -> anyhow::Result<Self> {
        let network = Self::untrained(classes)?;
        let train = Inputs::new(&network, data, usize::MAX)?;
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(PAIRS_L2))?;
        let training = Training {
            optimizer: Optimizer::adam(),
            learning_rate: 3e-3,
            schedule: Schedule::Constant,
            epochs: EPOCHS,
            batch: 32,
            seed,
        };
        let (theta, checkpoints) = train_with_checkpoints(context, &training, &risk, EVERY)?;
        let (network, theta) = network.select(&theta, &TOP)?;
        Ok(Self { network, theta, checkpoints })
    }

    /// The same network with all its parameters.
    pub fn whole(&self) -> (&Network<F64>, &Block<F64>) {
        let end = self.checkpoints.last().expect("the last epoch has a checkpoint");
        (&end.network, &end.theta)
    }

    /// `data` as the network reads it.
    pub fn inputs(&self, data: &Dataset) -> anyhow::Result<Inputs<F64>> {
        Ok(Inputs::new(&self.network, data, usize::MAX)?)
    }

    /// What goes into the last layer, one vector for each example: in what examples are alike.
    pub fn features(&self, inputs: &Inputs<F64>, theta: &Block<F64>) -> anyhow::Result<Block<F64>> {
        Ok(self.network.layer_inputs(inputs, theta, TOP[1])?)
    }

    /// Loss of every example, averaged over the checkpoints of the training.
    pub fn mean_losses(&self, inputs: &Inputs<F64>) -> anyhow::Result<Vec<f64>> {
        Ok(TracIn::new(inputs, &self.checkpoints)?.mean_losses())
    }

    /// Whether each example of `data` is classified rightly.
    pub fn right(&self, data: &Dataset, inputs: &Inputs<F64>, theta: &Block<F64>) -> Vec<bool> {
        let predicted = predict(&self.network, inputs, theta);
        predicted.iter().zip(data.labels()).map(|(found, label)| found == label).collect()
    }
}

/// First-order influence of all of `train` on `queries` at the end of the training.
///
/// # Errors
/// A solve that did not converge.
pub fn pair_influence(
    context: &Context,
    (network, theta): (&Network<F64>, &Block<F64>),
    (train, queries): (&Inputs<F64>, &Inputs<F64>),
) -> anyhow::Result<Scores<f64>> {
    let risk = EmpiricalRisk::new(network, train, RiskSettings::mean(PAIRS_L2))?;
    let operator = risk.operator(theta, Curvature::GaussNewton, PAIRS_DAMPING, 1 << 30);
    let solver: Box<dyn Prepared<F64>> = EXACT.prepare(&operator)?;
    let scores = Influence::new(&risk, theta, &*solver).scores(queries, context)?;
    ensure!(scores.report.all_converged(), "{}", scores.report.summary());
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{dataset, pixels_of};

    #[test]
    fn parts_are_joined_in_their_order() {
        let one = dataset(2, vec![1.0, 2.0, 3.0, 4.0], vec![0.0, 1.0]).unwrap();
        let other = dataset(2, vec![5.0, 6.0], vec![2.0]).unwrap();
        let all = joined(&[one, other]).unwrap();
        assert_eq!((all.labels(), all.ids()), (&[0.0, 1.0, 2.0][..], &[0, 1, 2][..]));
        assert_eq!(pixels_of(&all, 2), [5.0, 6.0]);
    }

    /// A wrong end would pass as another network.
    #[test]
    fn the_whole_network_says_what_the_dense_layers_say() {
        let ids = ndarray::ArrayD::from_shape_fn(vec![40, LENGTH], |at| {
            if at[1] < 5 { ((at[0] * 7 + at[1] * 31) % 50) as f64 } else { -1.0 }
        });
        let labels = (0..40).map(|i| f64::from(i % 2)).collect();
        let data = Dataset::new(if_linalg::HostArray::F64(ids), labels).unwrap();
        let model = PairModel::train(&Context::new(None, false, 0), (&data, 2), 1).unwrap();
        let inputs = model.inputs(&data).unwrap();
        let (network, theta) = model.whole();
        let outputs = network.example_outputs(&inputs, theta);
        assert_eq!(outputs, model.network.example_outputs(&inputs, &model.theta));
        let right = model.right(&data, &inputs, &model.theta);
        let class = |i: usize| usize::from(outputs[2 * i + 1] > outputs[2 * i]);
        assert!((0..40).all(|i| right[i] == (class(i) == i % 2)));
    }
}
