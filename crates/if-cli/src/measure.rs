//! What is explained of a query, and what scores of it mean.

use if_linalg::Backend;
use if_models::{Loss, Network};

use crate::args::MeasureName;
use crate::error::Failure;

impl MeasureName {
    /// The loss whose gradient is taken, of a model trained on `training`.
    pub fn loss(self, training: Loss) -> Loss {
        match self {
            Self::Loss => training,
            Self::Margin => Loss::Margin,
            Self::Logit => Loss::Logit,
        }
    }

    /// `network` under that loss.
    pub fn network<B: Backend>(self, network: &Network<B>) -> Result<Network<B>, Failure> {
        let measured = network.measured_by(self.loss(network.loss()));
        measured.map_err(|error| Failure::input(format!("--measure {}: {error}", self.name())))
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Margin => "margin",
            Self::Logit => "logit",
        }
    }

    /// What [`loss`](Self::loss) is a multiple of: measurements enter with the opposite sign.
    pub fn sign(self) -> f64 {
        if self == Self::Loss { 1.0 } else { -1.0 }
    }

    /// What becomes of it without a proponent.
    pub fn without_proponent(self) -> &'static str {
        if self == Self::Loss { "rise" } else { "fall" }
    }

    /// What becomes of it without an opponent.
    pub fn without_opponent(self) -> &'static str {
        if self == Self::Loss { "fall" } else { "rise" }
    }

    /// What the sign of a score means, for who finds the file.
    pub fn sign_text(self) -> String {
        let verb = if self == Self::Loss { "raises" } else { "lowers" };
        format!("positive = proponent: removing the training example {verb} the {} of the query", self.name())
    }

    /// How the numbers of a file become changes of what is explained.
    pub fn formula_text(self) -> String {
        let score = "score = g_q^T (H + (l2 + damping) I)^-1 g_i, with H the curvature named here or what the solver takes for it";
        let measured = match self {
            Self::Loss => {
                return format!(
                    "{score}; predicted change of the query's loss when the example is removed = factor * score"
                );
            }
            Self::Margin => "margin, z_y - ln sum_(c != y) exp z_c (with one output y z)",
            Self::Logit => "logit, z_y (with one output y z)",
        };
        format!(
            "{score}, and g_q the gradient of minus the query's {measured}; predicted change of the query's {} when the example is removed = -factor * score",
            self.name()
        )
    }
}
