//! What the registry knows about every dataset.

use crate::DataError;

/// A dataset of the registry.
#[derive(Debug)]
#[non_exhaustive]
pub struct DatasetInfo {
    /// What a source calls it.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// Its splits; the first is taken where none is named.
    pub splits: &'static [SplitInfo],
    /// Shape of one example.
    pub shape: &'static [usize],
    /// Name of class `c` at position `c`.
    pub classes: &'static [&'static str],
    /// The licence, or what its authors say.
    pub licence: &'static str,
    /// Its subfolder in the data folder and in the cache folder; empty where it is embedded.
    pub folder: &'static str,
    /// Its files; none where it is embedded.
    pub files: &'static [RemoteFile],
    pub(super) kind: Kind,
}

/// A named part of a dataset.
#[derive(Debug, PartialEq)]
pub struct SplitInfo {
    /// What a source calls it.
    pub name: &'static str,
    /// Number of examples.
    pub examples: usize,
}

/// A file of a dataset and where it is published.
#[derive(Clone, Copy, Debug)]
pub struct RemoteFile {
    /// Name in the dataset's folder.
    pub name: &'static str,
    /// Where it is downloaded from; empty where only a mirror has it.
    pub url: &'static str,
    /// Length.
    pub bytes: u64,
    /// Checksum, in lowercase hexadecimal digits.
    pub sha256: &'static str,
}

/// How a dataset is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Digits,
    Iris,
    Mnist,
    Cifar10,
    Cifar10Jpeg,
    Enron1,
    Hospital,
    Hans,
    CadSnli,
    Anli,
}

/// All datasets of the registry.
pub fn datasets() -> &'static [DatasetInfo] {
    DATASETS
}

impl DatasetInfo {
    pub(super) fn find(name: &str) -> Result<&'static Self, DataError> {
        DATASETS.iter().find(|info| info.name == name).ok_or_else(|| DataError::UnknownDataset {
            name: name.to_owned(),
            known: join(DATASETS.iter().map(|info| info.name)),
        })
    }

    pub(super) fn split(&self, name: Option<&str>) -> Result<&'static SplitInfo, DataError> {
        let Some(name) = name else { return Ok(&self.splits[0]) };
        self.splits.iter().find(|split| split.name == name).ok_or_else(|| DataError::UnknownSplit {
            name: self.name,
            split: name.to_owned(),
            known: join(self.splits.iter().map(|split| split.name)),
        })
    }
}

fn join(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

const fn split(name: &'static str, examples: usize) -> SplitInfo {
    SplitInfo { name, examples }
}

const DIGIT_NAMES: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const CIFAR_NAMES: &[&str] =
    &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

static DATASETS: &[DatasetInfo] = &[
    DatasetInfo {
        name: "digits",
        summary: "handwritten digits, 8x8 pixels divided by 16; train is the first 80 %",
        splits: &[split("all", 1797), split("train", 1437), split("test", 360)],
        shape: &[8, 8],
        classes: DIGIT_NAMES,
        licence: "CC BY 4.0 (UCI)",
        folder: "",
        files: &[],
        kind: Kind::Digits,
    },
    DatasetInfo {
        name: "iris",
        summary: "four measurements of three species of iris; every fifth flower is in test",
        splits: &[split("all", 150), split("train", 120), split("test", 30)],
        shape: &[4],
        classes: &["Iris-setosa", "Iris-versicolor", "Iris-virginica"],
        licence: "CC BY 4.0 (UCI)",
        folder: "",
        files: &[],
        kind: Kind::Iris,
    },
    DatasetInfo {
        name: "mnist",
        summary: "handwritten digits, 28x28 pixels",
        splits: &[split("train", 60_000), split("test", 10_000)],
        shape: &[28, 28],
        classes: DIGIT_NAMES,
        licence: "none stated; commonly given as CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        folder: "mnist",
        files: MNIST,
        kind: Kind::Mnist,
    },
    DatasetInfo {
        name: "fashion-mnist",
        summary: "pictures of clothes, 28x28 pixels",
        splits: &[split("train", 60_000), split("test", 10_000)],
        shape: &[28, 28],
        classes: &[
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ],
        licence: "MIT (Zalando)",
        folder: "fashion_mnist",
        files: FASHION_MNIST,
        kind: Kind::Mnist,
    },
    DatasetInfo {
        name: "cifar10",
        summary: "colour photographs of ten kinds of things, 3x32x32 pixels",
        splits: &[split("train", 50_000), split("test", 10_000)],
        shape: &[3, 32, 32],
        classes: CIFAR_NAMES,
        licence: "none stated; its authors ask to cite Krizhevsky 2009",
        folder: "cifar10",
        files: CIFAR10,
        kind: Kind::Cifar10,
    },
    DatasetInfo {
        name: "cifar10-jpeg",
        summary: "the first 20,000 and all test photographs of cifar10 as JPEG of quality 75: not the original pixels",
        splits: &[split("train", 20_000), split("test", 10_000)],
        shape: &[3, 32, 32],
        classes: CIFAR_NAMES,
        licence: "none stated, as cifar10",
        folder: "cifar10",
        files: CIFAR10_JPEG,
        kind: Kind::Cifar10Jpeg,
    },
    DatasetInfo {
        name: "enron1-spam",
        summary: "e-mails, ham or spam, as counts of the words in at least 5 e-mails of train",
        splits: &[split("train", 4137), split("test", 1035), split("all", 5172)],
        shape: &[super::enron::VOCABULARY],
        classes: &["ham", "spam"],
        licence: "none stated; for research (Metsis, Androutsopoulos, Paliouras 2006)",
        folder: "enron1_spam",
        files: ENRON1,
        kind: Kind::Enron1,
    },
    DatasetInfo {
        name: "diabetes130-hospital",
        summary: "stays of diabetic patients in hospital, readmitted within 30 days or not; 127 features, 73 specialties",
        splits: &[split("all", 101_766)],
        shape: &[super::hospital::COLUMNS],
        classes: &["not readmitted", "readmitted"],
        licence: "CC BY 4.0 (UCI)",
        folder: "diabetes130_hospital",
        files: HOSPITAL,
        kind: Kind::Hospital,
    },
    DatasetInfo {
        name: "hans-regenerated",
        summary: "pairs of sentences from the templates of HANS, written anew: not the published sentences; ids of hashed tokens",
        splits: &[split("all", 30_000)],
        shape: &[super::nli::LENGTH],
        classes: &["entailment", "non-entailment"],
        licence: "MIT",
        folder: "nli",
        files: HANS,
        kind: Kind::Hans,
    },
    DatasetInfo {
        name: "cad-snli",
        summary: "pairs of sentences of SNLI with counterfactual revisions; ids of hashed tokens",
        splits: &[split("train", 8330), split("dev", 1000), split("test", 2000)],
        shape: &[super::nli::LENGTH],
        classes: &["entailment", "neutral", "contradiction"],
        licence: "Apache-2.0 (revisions); SNLI is commonly given as CC BY-SA 4.0",
        folder: "nli",
        files: CAD_SNLI,
        kind: Kind::CadSnli,
    },
    DatasetInfo {
        name: "anli-dev",
        summary: "development pairs of the three rounds of ANLI, written to mislead models; ids of hashed tokens",
        splits: &[split("r1", 1000), split("r2", 1000), split("r3", 1198)],
        shape: &[super::nli::LENGTH],
        classes: &["entailment", "neutral", "contradiction"],
        licence: "CC BY-NC 4.0",
        folder: "nli",
        files: ANLI_DEV,
        kind: Kind::Anli,
    },
];

/// In the order that the reader of idx datasets relies on: images and labels of train, then of test.
const MNIST: &[RemoteFile] = &[
    RemoteFile {
        name: "train-images-idx3-ubyte.gz",
        url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        bytes: 9_912_422,
        sha256: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    },
    RemoteFile {
        name: "train-labels-idx1-ubyte.gz",
        url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
        bytes: 28_881,
        sha256: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    },
    RemoteFile {
        name: "t10k-images-idx3-ubyte.gz",
        url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
        bytes: 1_648_877,
        sha256: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    },
    RemoteFile {
        name: "t10k-labels-idx1-ubyte.gz",
        url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
        bytes: 4_542,
        sha256: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
];

/// In the same order.
const FASHION_MNIST: &[RemoteFile] = &[
    RemoteFile {
        name: "train-images-idx3-ubyte.gz",
        url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        bytes: 26_421_880,
        sha256: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    },
    RemoteFile {
        name: "train-labels-idx1-ubyte.gz",
        url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
        bytes: 29_515,
        sha256: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    },
    RemoteFile {
        name: "t10k-images-idx3-ubyte.gz",
        url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
        bytes: 4_422_102,
        sha256: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    },
    RemoteFile {
        name: "t10k-labels-idx1-ubyte.gz",
        url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
        bytes: 5_148,
        sha256: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
];

const CIFAR10: &[RemoteFile] = &[RemoteFile {
    name: "cifar-10-binary.tar.gz",
    url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    bytes: 170_052_171,
    sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}];

/// Batches of 10,000: two of train, then test. No server has them so.
const CIFAR10_JPEG: &[RemoteFile] = &[
    RemoteFile {
        name: "jpeg_q75/data_batch_1.tar.gz",
        url: "",
        bytes: 3_216_631,
        sha256: "790b068857202f4af6a60f04438dd2f7c15d2baf297f7617cee5e5423c6fe4cb",
    },
    RemoteFile {
        name: "jpeg_q75/data_batch_2.tar.gz",
        url: "",
        bytes: 3_222_069,
        sha256: "a22c0b57130577dfdd676347b5203b9ae60edeebcdeebd5b327882ca02c142d7",
    },
    RemoteFile {
        name: "jpeg_q75/test_batch.tar.gz",
        url: "",
        bytes: 3_218_599,
        sha256: "9421e2a37088b77526f9da4e875c4fa4b71da79d11107b3c7c8c542f8b8bb130",
    },
];

const ENRON1: &[RemoteFile] = &[RemoteFile {
    name: "enron1.tar.gz",
    url: "https://raw.githubusercontent.com/ankancode/RNN-LSTM/462e6a8149f057ba7ebf17d4cb2f58db290dc3ea/enron1.tar.gz",
    bytes: 2_200_532,
    sha256: "fc85a8d3fa5e9845a7ee572de3e92ae057f7c2be06171818539ef0983da89ad8",
}];

/// The table of an archive, compressed by itself; no server has it so.
const HOSPITAL: &[RemoteFile] = &[RemoteFile {
    name: "diabetic_data.csv.gz",
    url: "",
    bytes: 3_031_652,
    sha256: "356486d63457b04802fd827134ba7234a8d58d96b2bf0c1448f2b52221b4d0a1",
}];

/// Made with seed 0 by the authors' generator; no server has it.
const HANS: &[RemoteFile] = &[RemoteFile {
    name: "hans/hans_regenerated_seed0.tsv.gz",
    url: "",
    bytes: 1_419_892,
    sha256: "274c0fd7fd288dc1892f125c8eea7fed7acbf5990f08c9f94ecd0d70ba703a8d",
}];

/// One file for each split, compressed by itself; no server has it so.
const CAD_SNLI: &[RemoteFile] = &[
    RemoteFile {
        name: "cad_snli/all_combined/train.tsv.gz",
        url: "",
        bytes: 146_482,
        sha256: "4ca4c57c4c95b631c8a51ecaedf7c90290b53adbaeb8cd3039717882fefb0d20",
    },
    RemoteFile {
        name: "cad_snli/all_combined/dev.tsv.gz",
        url: "",
        bytes: 18_394,
        sha256: "6bd1c53c5cc6a0533fbca12f8f79b0b90e287df18352d096a71f0bd645f50205",
    },
    RemoteFile {
        name: "cad_snli/all_combined/test.tsv.gz",
        url: "",
        bytes: 49_611,
        sha256: "aeb3cc1fede06be804adf1a3fb4938308c8013fd06e97663a80465ff720e6c69",
    },
];

/// One file for each split, with fewer columns than the published tables; no server has it so.
const ANLI_DEV: &[RemoteFile] = &[
    RemoteFile {
        name: "anli_dev/R1_dev.jsonl.gz",
        url: "",
        bytes: 230_217,
        sha256: "46dfca2523cef0b7e665fdce3798d39ca3d63b241937c31d45894a50dc234208",
    },
    RemoteFile {
        name: "anli_dev/R2_dev.jsonl.gz",
        url: "",
        bytes: 228_660,
        sha256: "4ccc24fa45f704835311ff24b1eb21f33b12a7be59d44313a3cfb531eafb81be",
    },
    RemoteFile {
        name: "anli_dev/R3_dev.jsonl.gz",
        url: "",
        bytes: 263_787,
        sha256: "4b24e6c759318e8a8ce81463ff4625f59d3d39d182625c403204735fe4080ffa",
    },
];
