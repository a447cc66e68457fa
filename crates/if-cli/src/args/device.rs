//! Where a command computes and how precisely, as it is written.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// `--device`.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// Where to compute: cpu; cuda, cuda:1, or cuda:0,1 and cuda:all (NVIDIA GPUs, of which several share the repeats of
    /// LiSSA and the scores of attribute); or auto: the first GPU where there is one and its
    /// memory suffices
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
}

/// A device by name.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The GPUs of these numbers, at least one.
    Cuda(Vec<usize>),
    /// All GPUs.
    AllCuda,
    /// The first GPU, or the processor.
    Auto,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbered = || -> Option<Vec<usize>> {
            text.strip_prefix("cuda:")?.split(',').map(|number| number.parse().ok()).collect()
        };
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(vec![0])),
            "cuda:all" => Ok(Self::AllCuda),
            "auto" => Ok(Self::Auto),
            _ => numbered()
                .map(Self::Cuda)
                .ok_or("expected cpu, cuda, cuda:1, cuda:0,1, cuda:all or auto".into()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
            Self::AllCuda => f.write_str("cuda:all"),
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
