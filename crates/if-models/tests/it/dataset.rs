//! Data sets: what is refused and in which words, ids, and the conversion of features.

use std::sync::Arc;

use crate::common::{cpu, dataset};
use if_linalg::Cpu;
use if_models::layer::{Dense, EmbeddingBag, Layer};
use if_models::{Dataset, HostArray, Inputs, Loss, ModelError, Network, Rows};
use ndarray::ArrayD;
use proptest::prelude::*;

fn labelled(labels: &[f64]) -> Dataset {
    dataset(1, vec![0.0; labels.len()], labels.to_vec())
}

fn refused(labels: &[f64], loss: Loss, outputs: usize) -> String {
    labelled(labels).targets(loss, outputs).unwrap_err().to_string()
}

#[test]
fn labels_become_targets() {
    let binary = [Loss::Logistic, Loss::Hinge, Loss::SmoothHinge { temperature: 0.1 }];
    let measurements = [Loss::Logit, Loss::Margin];
    for loss in binary.into_iter().chain(measurements) {
        assert_eq!(labelled(&[0.0, 1.0, 1.0]).targets(loss, 1).unwrap(), [-1.0, 1.0, 1.0]);
        assert_eq!(labelled(&[-1.0, 1.0, -1.0]).targets(loss, 1).unwrap(), [-1.0, 1.0, -1.0]);
        for label in [2.0, 0.5, -0.5, f64::NAN, f64::INFINITY] {
            let expected = format!("example 2 has label {label}, expected 0 or 1, or -1 or +1");
            assert_eq!(refused(&[1.0, 0.0, label], loss, 1), expected);
        }
    }
    let mixed = refused(&[1.0, 0.0, -1.0], Loss::Logistic, 1);
    assert_eq!(mixed, "example 1 has label 0, expected -1 or +1, like the others");
    let smoothed = Loss::LabelSmoothing { smoothing: 0.1 };
    for loss in [Loss::CrossEntropy, smoothed, Loss::Squared].into_iter().chain(measurements) {
        assert_eq!(labelled(&[0.0, 2.0, 1.0]).targets(loss, 3).unwrap(), [0.0, 2.0, 1.0]);
        for label in [3.0, -1.0, 0.5, f64::NAN] {
            let expected = format!("example 1 has label {label}, expected a class from 0 to 2");
            assert_eq!(refused(&[2.0, label], loss, 3), expected);
        }
    }
    assert_eq!(labelled(&[-2.5, 7.0]).targets(Loss::Squared, 1).unwrap(), [-2.5, 7.0]);
    assert_eq!(
        refused(&[f64::NEG_INFINITY], Loss::Squared, 1),
        "example 0 has label -inf, expected a finite number"
    );
}

/// The one-hot reading of several outputs would be silent nonsense for a margin.
#[test]
fn binary_losses_take_one_output() {
    let network = Network::linear(&cpu(), 1, 2, true, Loss::Logistic);
    let error = Inputs::new(&network, &labelled(&[0.0, 1.0]), usize::MAX).err().unwrap();
    assert_eq!(error.to_string(), "a binary loss takes one output, the model has 2");
}

#[test]
fn classes_are_counted() {
    assert_eq!(labelled(&[0.0, 3.0, 1.0]).classes(), Some(4));
    assert_eq!(labelled(&[0.0]).classes(), Some(1));
    for labels in [[-1.0, 1.0], [0.5, 1.0], [f64::NAN, 0.0], [f64::INFINITY, 0.0]] {
        assert_eq!(labelled(&labels).classes(), None);
    }
}

#[test]
fn bad_features_are_named() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut x = vec![0.0; 24];
        x[2 * 6 + 5] = bad;
        let x = ArrayD::from_shape_vec(vec![4, 2, 3], x).unwrap();
        for features in [HostArray::F64(x.clone()), HostArray::F32(x.mapv(|v| v as f32))] {
            let error = Dataset::new(features, vec![0.0; 4]).unwrap_err();
            assert_eq!(error, ModelError::NonFiniteFeature { example: 2, feature: 5 });
            assert_eq!(error.to_string(), "example 2 holds a number that is not finite (feature 5)");
        }
    }
}

#[test]
fn wrong_counts() {
    let array = |shape: &[usize]| HostArray::F64(ArrayD::zeros(shape));
    let error = Dataset::new(array(&[3, 2]), vec![0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "3 examples but 2 labels");
    assert_eq!(Dataset::new(array(&[0, 2]), vec![]).unwrap_err(), ModelError::Empty);
    assert_eq!(ModelError::Empty.to_string(), "the data set has no examples");
    let network = Network::linear(&cpu(), 4, 1, true, Loss::Squared);
    let data = Dataset::new(array(&[2, 5]), vec![0.0; 2]).unwrap();
    let error = Inputs::new(&network, &data, usize::MAX).err().unwrap();
    assert_eq!(error.to_string(), "the examples have 5 features, the model takes 4");
}

/// Example `i` has features `(i, 10 i)`, label `i`, and id `100 + i`.
fn numbered(n: usize) -> Dataset {
    let x = (0..n).flat_map(|i| [i as f64, 10.0 * i as f64]).collect();
    dataset(2, x, (0..n).map(|i| i as f64).collect()).with_ids((100..100 + n).collect())
}

/// Features, labels and ids still belong together.
fn check_numbered(data: &Dataset, ids: &[usize]) {
    assert_eq!(data.ids(), ids);
    assert_eq!((data.len(), data.features().rows()), (ids.len(), ids.len()));
    for (i, id) in ids.iter().enumerate() {
        let original = (id - 100) as f64;
        let mut row = [0.0; 2];
        data.features().read_row(i, &mut row);
        assert_eq!((row, data.labels()[i]), ([original, 10.0 * original], original));
    }
}

#[test]
fn ids_survive() {
    let data = numbered(6);
    assert_eq!(dataset(1, vec![0.0; 3], vec![0.0; 3]).ids(), [0, 1, 2]);
    check_numbered(&data, &[100, 101, 102, 103, 104, 105]);
    check_numbered(&data.slice(2, 5), &[102, 103, 104]);
    check_numbered(&data.select(&[5, 0, 0]), &[105, 100, 100]);
    check_numbered(&data.slice(1, 6).select(&[4, 1]).slice(1, 2), &[102]);
    let flipped = data.with_labels(vec![1.0; 6]);
    assert_eq!((flipped.labels(), flipped.ids()[5]), (&[1.0; 6][..], 105));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn shuffling_permutes(n in 1usize..40, seed: u64) {
        let data = numbered(n);
        let shuffled = data.shuffled(seed);
        check_numbered(&shuffled, shuffled.ids());
        let mut ids = shuffled.ids().to_vec();
        ids.sort_unstable();
        prop_assert_eq!(&ids, data.ids());
        prop_assert_eq!(shuffled, data.shuffled(seed));
    }
}

#[test]
fn seeds_shuffle_differently() {
    let data = numbered(30);
    assert_ne!(data.shuffled(1).ids(), data.ids());
    assert_ne!(data.shuffled(1).ids(), data.shuffled(2).ids());
}

/// u8 is divided by 255, floats are untouched, resident or streamed, in `f64` and `f32`.
#[test]
fn bytes_become_fractions() {
    let bytes = ArrayD::from_shape_vec(vec![3, 2], vec![0u8, 255, 51, 1, 254, 128]).unwrap();
    let labels = vec![0.0; 3];
    let expected = bytes.mapv(|v| f64::from(v) / 255.0);
    let cases = [
        (HostArray::U8(bytes.clone()), expected),
        (HostArray::F32(bytes.mapv(f32::from)), bytes.mapv(f64::from)),
        (HostArray::F64(bytes.mapv(f64::from)), bytes.mapv(f64::from)),
    ];
    for (features, expected) in cases {
        let data = Dataset::new(features, labels.clone()).unwrap();
        for budget in [0, usize::MAX] {
            check_batches(&data, &expected, budget);
        }
    }
}

fn check_batches(data: &Dataset, expected: &ArrayD<f64>, budget: usize) {
    use if_linalg::Backend;
    let network = Network::linear(&cpu(), 2, 1, true, Loss::Squared);
    let inputs = Inputs::new(&network, data, budget).unwrap();
    let single = Network::linear(&Cpu::<f32>::new(), 2, 1, true, Loss::Squared);
    let in_single = Inputs::new(&single, data, budget).unwrap();
    for rows in [Rows::Range(0, 3), Rows::Range(1, 2), Rows::Indices(&[2, 0])] {
        let chosen: Vec<usize> = match rows {
            Rows::Range(start, len) => (start..start + len).collect(),
            Rows::Indices(indices) => indices.to_vec(),
        };
        let expected: Vec<f64> =
            chosen.iter().flat_map(|&i| [expected[[i, 0]], expected[[i, 1]], 1.0]).collect();
        assert_eq!(cpu().download(inputs.batch(rows).x()), expected);
        let rounded: Vec<f32> = expected.iter().map(|v| *v as f32).collect();
        assert_eq!(Cpu::<f32>::new().download(in_single.batch(rows).x()), rounded);
    }
}

/// Ids from 0 to 4, whole, anything whole below 0; and never bytes, which would become fractions.
#[test]
fn token_ids_are_checked() {
    let bag = EmbeddingBag::new("emb", 5, 3);
    let network = Network::new(&cpu(), 2, vec![Arc::new(bag)], Loss::CrossEntropy);
    let inputs = |x: HostArray| Inputs::new(&network, &Dataset::new(x, vec![0.0; 2]).unwrap(), usize::MAX);
    let array = |ids: [f64; 4]| ArrayD::from_shape_vec(vec![2, 2], ids.to_vec()).unwrap();
    assert!(inputs(HostArray::F64(array([0.0, 4.0, -1.0, -7.0]))).is_ok());
    for found in [5.0, 1e300, 0.5, -0.5] {
        let x = array([0.0, 1.0, 2.0, found]);
        let expected = ModelError::TokenId { example: 1, position: 1, found, vocabulary: 5 };
        assert_eq!(inputs(HostArray::F64(x.clone())).err().unwrap(), expected);
        let single = x.mapv(|id| id as f32);
        if single[[1, 1]].is_finite() {
            assert_eq!(inputs(HostArray::F32(single)).err().unwrap(), expected);
        }
    }
    assert_eq!(
        inputs(HostArray::F64(array([0.0, 9.0, 0.0, 0.0]))).err().unwrap().to_string(),
        "example 0 has token id 9 at position 1, expected a whole number below the vocabulary size 5, negative for padding"
    );
    let bytes = inputs(HostArray::U8(ArrayD::zeros(vec![2, 2]))).err().unwrap().to_string();
    assert!(bytes.contains("divided by 255") && bytes.contains("float32"), "{bytes}");
}

#[test]
#[should_panic(expected = "token ids are what the first layer takes")]
fn token_ids_do_not_come_out_of_layers() {
    let layers: [Arc<dyn Layer<Cpu<f64>>>; 2] =
        [Arc::new(Dense::new("fc", 2, 2, true)), Arc::new(EmbeddingBag::new("emb", 5, 3))];
    Network::new(&cpu(), 2, layers.into(), Loss::CrossEntropy);
}
