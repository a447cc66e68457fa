//! The elementwise functions a kernel can evaluate, with two derivatives.

use serde::{Deserialize, Serialize};

use crate::{sigmoid, softplus};

/// An elementwise function `f(z)`. At a kink the derivative is that from the left, so `relu'(0) = 0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(0, z)`.
    Relu,
    /// `z` above 0, else `slope z`.
    LeakyRelu {
        /// The factor below 0.
        slope: f64,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-z))`.
    Sigmoid,
    /// `ln(1 + exp(z))`.
    Softplus,
    /// `z Phi(z)` with the normal distribution function by erf (Hendrycks & Gimpel 2016).
    Gelu,
    /// Its approximation `z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))`.
    GeluTanh,
    /// `lambda z` above 0, else `lambda alpha (exp(z) - 1)` (Klambauer et al. 2017).
    Selu,
}

/// The constants of selu, for which activations keep mean 0 and variance 1.
const SELU_LAMBDA: f64 = 1.0507009873554805;
const SELU_ALPHA: f64 = 1.6732632423543772;

impl Activation {
    /// Whether `f''` is zero wherever it exists.
    pub fn is_piecewise_linear(self) -> bool {
        matches!(self, Self::Relu | Self::LeakyRelu { .. })
    }

    /// `f(z)`, `f'(z)`, `f''(z)`.
    pub fn scalar(self, z: f64) -> [f64; 3] {
        match self {
            Self::Relu => piecewise(z, 0.0),
            Self::LeakyRelu { slope } => piecewise(z, slope),
            Self::Tanh => {
                let t = z.tanh();
                let d = 1.0 - t * t;
                [t, d, -2.0 * t * d]
            }
            Self::Sigmoid => {
                let s = sigmoid(z);
                let d = s * sigmoid(-z);
                [s, d, d * (1.0 - 2.0 * s)]
            }
            Self::Softplus => {
                let s = sigmoid(z);
                [softplus(z), s, s * sigmoid(-z)]
            }
            Self::Gelu => {
                let cdf = 0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2);
                let pdf = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
                [z * cdf, cdf + z * pdf, (2.0 - z * z) * pdf]
            }
            Self::GeluTanh => gelu_tanh(z),
            Self::Selu if z > 0.0 => [SELU_LAMBDA * z, SELU_LAMBDA, 0.0],
            Self::Selu => {
                let scale = SELU_LAMBDA * SELU_ALPHA;
                [scale * z.exp_m1(), scale * z.exp(), scale * z.exp()]
            }
        }
    }
}

fn piecewise(z: f64, slope: f64) -> [f64; 3] {
    if z > 0.0 { [z, 1.0, 0.0] } else { [slope * z, slope, 0.0] }
}

fn gelu_tanh(z: f64) -> [f64; 3] {
    let (c, a) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
    let t = (c * (z + a * z * z * z)).tanh();
    // u, its first and its second derivative, u = c (z + a z^3).
    let (u1, u2) = (c * (1.0 + 3.0 * a * z * z), 6.0 * c * a * z);
    let d = 1.0 - t * t;
    [0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * d * u1, d * u1 + 0.5 * z * d * (u2 - 2.0 * t * u1 * u1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ACTIVATIONS;

    #[test]
    fn derivatives_are_those_of_the_values() {
        for f in ACTIVATIONS {
            for z in [-3.1, -1.2, -0.3, 0.4, 1.7, 4.2] {
                let [_, first, second] = f.scalar(z);
                let h = 1e-5;
                let (ahead, behind) = (f.scalar(z + h), f.scalar(z - h));
                for (order, derivative) in [first, second].into_iter().enumerate() {
                    let difference = (ahead[order] - behind[order]) / (2.0 * h);
                    assert!(
                        (derivative - difference).abs() < 1e-9,
                        "{f:?} at {z}: {derivative} {difference}"
                    );
                }
            }
        }
    }

    /// Values of torch.nn.functional at 1 and -2, to its printed digits.
    #[test]
    fn values_are_the_usual_ones() {
        let expected = [
            (Activation::Gelu, 0.8413447460685429, -0.04550026389635842),
            (Activation::Selu, 1.0507009873554805, -1.5201664685956948),
            (Activation::Softplus, 1.3132616875182228, 0.1269280110429725),
            (Activation::LeakyRelu { slope: 0.01 }, 1.0, -0.02),
        ];
        for (f, one, minus_two) in expected {
            assert!((f.scalar(1.0)[0] - one).abs() < 1e-14 && (f.scalar(-2.0)[0] - minus_two).abs() < 1e-14);
        }
        assert!((Activation::GeluTanh.scalar(1.0)[0] - Activation::Gelu.scalar(1.0)[0]).abs() < 3e-4);
    }

    #[test]
    fn nothing_overflows_and_kinks_are_settled() {
        for f in ACTIVATIONS {
            for z in [-800.0, 0.0, 800.0] {
                assert!(f.scalar(z).iter().all(|v| v.is_finite()), "{f:?} at {z}");
            }
        }
        assert_eq!(Activation::Relu.scalar(0.0), [0.0; 3]);
    }
}
