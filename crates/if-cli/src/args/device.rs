//! Where a command computes and how precisely, as it is written.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// `--device`.
#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// Where to compute: cpu, cuda or cuda:1 (an NVIDIA GPU), or auto: a GPU where there is one
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
    /// The first GPU, or the processor.
    Auto,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbered = || text.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda);
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "auto" => Ok(Self::Auto),
            _ => numbered().ok_or("expected cpu, cuda, cuda:1 or auto".into()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Single
    F32,
    /// Double
    F64,
    /// On a GPU: single, with factors of matrix products rounded to TF32
    Tf32,
    /// On a GPU: single, with factors of matrix products rounded to bfloat16 and sums in single
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("it can be asked for");
        f.write_str(value.get_name())
    }
}
