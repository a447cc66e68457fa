//! One network: trained, asked, and trained again without single examples.

use if_methods::{Fragility, FragilityTrial};
use if_models::{Dataset, LayerSpec, Lbfgs, Loss, ModelSpec, Network, RiskSettings};

use crate::Context;
use crate::support::F64;

/// Test points by the part of the test examples whose loss is higher.
pub const POINTS: [(&str, f64); 3] = [("highest loss", 0.0), ("upper tenth", 0.1), ("median", 0.5)];

/// Data, and how networks are trained on them.
pub struct Case {
    pub name: &'static str,
    pub train: Dataset,
    pub test: Dataset,
    /// Shape of an example.
    pub input: Vec<usize>,
    /// The layers but the last, which is dense.
    pub hidden: fn(&Setting) -> Vec<LayerSpec>,
    /// Where each axis stands while another is varied.
    pub base: Setting,
    pub grid: Vec<Setting>,
    /// Training examples left out: those of the highest loss.
    pub left_out: usize,
    pub lbfgs: Lbfgs,
    /// Whether networks are trained from the initial parameters too.
    pub cold: bool,
    /// Whether LiSSA predicts too.
    pub lissa: bool,
}

/// One kind of network, and how many examples it is trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    pub depth: usize,
    pub width: usize,
    /// Weight decay as l2.
    pub decay: f64,
    pub examples: usize,
}

impl Case {
    fn network(&self, setting: &Setting) -> anyhow::Result<Network<F64>> {
        let mut layers = (self.hidden)(setting);
        layers.push(LayerSpec::Dense {
            name: "last".into(),
            out: self.train.classes().unwrap_or(1),
            bias: true,
        });
        let spec = ModelSpec { input: self.input.clone(), loss: Loss::CrossEntropy, layers };
        Ok(spec.build(&F64::new())?)
    }

    /// Trains the network of `setting` from the parameters of `seed`, and without each of the examples left out.
    pub fn trial(&self, context: &Context, setting: &Setting, seed: u64) -> anyhow::Result<FragilityTrial> {
        let network = self.network(setting)?;
        let fragility = Fragility {
            lbfgs: self.lbfgs,
            left_out: self.left_out,
            points: POINTS.map(|(_, above)| above).to_vec(),
            cold: self.cold,
            lissa: self.lissa.then_some(Fragility::LISSA),
            memory_budget: 1 << 30,
        };
        let train = Fragility::drawn(&self.train, setting.examples, seed);
        let risk = RiskSettings::mean(setting.decay);
        let start = network.initial(seed);
        Ok(fragility.trial((&network, &start), risk, (&train, &self.test), context)?)
    }
}
