use std::fs;
use std::path::PathBuf;

use if_data::{DatasetInfo, Labels, LoadOptions, Location, Source, datasets, load, load_texts};
use if_linalg::HostArray;

use crate::support::{assert_error, data_dir, folder, load_spec};

fn real_data() -> Option<LoadOptions> {
    data_dir().map(|folder| LoadOptions { data_dir: Some(folder), ..LoadOptions::default() })
}

fn info(name: &str) -> &'static DatasetInfo {
    datasets().iter().find(|info| info.name == name).unwrap()
}

fn source(spec: &str) -> Source {
    spec.parse().unwrap()
}

fn count(labels: &Labels, class: i64) -> usize {
    labels.to_integers().unwrap().iter().filter(|&&label| label == class).count()
}

#[test]
fn embedded_datasets_are_what_the_registry_says() {
    for info in datasets().iter().filter(|info| info.files.is_empty()) {
        for split in info.splits {
            let examples = load_spec(&format!("{}:{}", info.name, split.name)).unwrap();
            assert_eq!(examples.x.shape()[1..], *info.shape);
            assert_eq!(examples.len(), split.examples);
            assert_eq!(examples.ids, (0..split.examples).collect::<Vec<_>>());
            assert_eq!(examples.x.first_non_finite(), None);
            assert_eq!(examples.class_names.unwrap(), info.classes);
        }
        assert_eq!(load_spec(info.name).unwrap().len(), info.splits[0].examples);
        assert_eq!(info.locate(&LoadOptions::default()), Location::Embedded);
    }
}

#[test]
fn digits_are_those_of_scikit_learn() {
    let digits = load_spec("digits").unwrap();
    let HostArray::F32(x) = &digits.x else { panic!("f32") };
    // The first row of the first picture is 0 0 5 13 9 1 0 0, a zero.
    assert_eq!((x[[0, 0, 2]], x[[0, 0, 3]], x[[0, 0, 4]]), (5.0 / 16.0, 13.0 / 16.0, 9.0 / 16.0));
    assert_eq!(x.iter().fold(0.0_f32, |max, &v| max.max(v)), 1.0);
    let counts: Vec<usize> = (0..10).map(|class| count(&digits.y, class)).collect();
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    let test = load_spec("digits:test[0]").unwrap();
    assert_eq!(test.x, digits.x.slice(1437, 1438));
}

#[test]
fn iris_is_split_evenly() {
    for (split, each) in [("train", 40), ("test", 10)] {
        let iris = load_spec(&format!("iris:{split}")).unwrap();
        assert_eq!([0, 1, 2].map(|class| count(&iris.y, class)), [each; 3]);
        assert_eq!(iris.feature_names.unwrap()[3], "petal_width_cm");
    }
}

#[test]
fn unknown_names_and_missing_files_say_what_to_do() {
    assert_error(
        load_spec("minst"),
        &[
            "unknown dataset \"minst\"",
            "digits, iris, mnist, fashion-mnist, cifar10, cifar10-jpeg, enron1-spam, diabetes130-hospital, hans-regenerated, cad-snli, anli-dev",
        ],
    );
    assert_error(load_spec("digits:valid"), &["digits has no split \"valid\": it has all, train, test"]);
    assert_error(
        load_spec("mnist:test"),
        &["`influence data fetch mnist`", "no data or cache folder is set"],
    );
    assert_error(load_spec("digits:test[400]"), &["digits:test", "[400..401]", "[0..360]"]);
    let folder = folder();
    let options = LoadOptions { cache_dir: Some(folder.path().to_owned()), ..LoadOptions::default() };
    assert_error(
        load(&source("cifar10"), &options),
        &["cifar10/cifar-10-binary.tar.gz is not in", folder.path().to_str().unwrap()],
    );
    assert_eq!(info("mnist").locate(&options), Location::Missing);
}

#[test]
fn a_file_with_another_checksum_is_refused() {
    let folder = folder();
    fs::create_dir(folder.path().join("mnist")).unwrap();
    for file in info("mnist").files {
        fs::write(folder.path().join("mnist").join(file.name), b"something else").unwrap();
    }
    let options = LoadOptions { data_dir: Some(folder.path().to_owned()), ..LoadOptions::default() };
    assert_error(
        load(&source("mnist:test"), &options),
        &["t10k-images-idx3-ubyte.gz: sha256: expected 8d422c7b", "found "],
    );
}

#[test]
fn mnist_loads_from_the_data_folder() {
    let Some(options) = real_data() else { return };
    let test = load(&source("mnist:test"), &options).unwrap();
    assert_eq!(test.x.shape(), [10_000, 28, 28]);
    assert!(matches!(test.x, HostArray::U8(_)));
    assert_eq!(test.y.to_integers().unwrap()[..5], [7, 2, 1, 0, 4]);
    let some = load(&source("mnist:train[5..9]"), &options).unwrap();
    assert_eq!((some.ids.as_slice(), some.y), (&[5, 6, 7, 8][..], Labels::Integer(vec![2, 1, 3, 1])));
    let folder: PathBuf = options.data_dir.clone().unwrap().join("mnist");
    assert_eq!(info("mnist").locate(&options), Location::Folder(folder));
}

#[test]
fn enron_texts_are_split_as_documented() {
    let Some(options) = real_data() else { return };
    let all = load_texts(&source("enron1-spam:all"), &options).unwrap();
    assert_eq!((all.len(), all.y.iter().sum::<i64>()), (5172, 1500));
    assert_eq!(all.texts[0], "Subject: christmas tree farm pictures\r\n");
    // Counted with another program.
    let train = load_texts(&source("enron1-spam:train"), &options).unwrap();
    let test = load_texts(&source("enron1-spam:test[1000..]"), &options).unwrap();
    assert_eq!((train.len(), train.y.iter().sum::<i64>()), (4137, 1198));
    assert_eq!((test.len(), test.ids[0]), (35, 1000));
    assert_error(load_texts(&source("digits"), &options), &["expected a dataset of texts: enron1-spam"]);
}

#[test]
fn enron_words_are_those_of_the_token_pattern() {
    let Some(options) = real_data() else { return };
    let test = load(&source("enron1-spam:test"), &options).unwrap();
    assert_eq!((test.len(), count(&test.y, 1)), (1035, 302));
    let words = test.feature_names.unwrap();
    assert_eq!(words.len(), info("enron1-spam").shape[0]);
    assert_eq!((words[0].as_str(), words[7153].as_str()), ("00", "zyban"));
    // Counted with another program: Python's re with (?u)\b\w\w+\b on the lowercased texts.
    let HostArray::F32(x) = &test.x else { panic!("f32") };
    assert_eq!(x.iter().map(|&v| f64::from(v)).sum::<f64>(), 138_363.0);
}

#[test]
fn cifar10_jpeg_is_decoded() {
    let Some(options) = real_data() else { return };
    let labels = |name: &str| fs::read(options.data_dir.as_ref().unwrap().join("cifar10/labels").join(name));
    for (split, n, file) in
        [("train", 20_000, "train_labels_50000.u8"), ("test", 10_000, "test_labels_10000.u8")]
    {
        let examples = load(&source(&format!("cifar10-jpeg:{split}")), &options).unwrap();
        assert_eq!(examples.x.shape(), [n, 3, 32, 32]);
        let expected: Vec<i64> = labels(file).unwrap()[..n].iter().map(|&label| i64::from(label)).collect();
        assert_eq!(examples.y, Labels::Integer(expected));
    }
    // A frog, by libjpeg: decoders differ by a rounding or two.
    let one = load(&source("cifar10-jpeg:train[0]"), &options).unwrap();
    let HostArray::U8(x) = &one.x else { panic!("u8") };
    let pixels =
        [([0, 0, 0], 61_u8), ([1, 5, 20], 65), ([2, 31, 31], 67), ([0, 16, 7], 105), ([2, 10, 3], 63)];
    for (at, expected) in pixels {
        let found = x[[0, at[0], at[1], at[2]]];
        assert!(found.abs_diff(expected) <= 3, "{at:?}: {found}");
    }
}

#[test]
fn hospital_has_the_features_of_the_authors() {
    let Some(options) = real_data() else { return };
    let all = load(&source("diabetes130-hospital"), &options).unwrap();
    assert_eq!(all.x.shape(), [101_766, info("diabetes130-hospital").shape[0]]);
    assert_eq!(count(&all.y, 1), 11_357);
    let names = all.feature_names.unwrap();
    let named = [0, 8, 17, 126, 127].map(|column: usize| names[column].as_str());
    let expected =
        ["time_in_hospital", "gender=Female", "age=[0-10)", "diabetesMed=Yes", "medical_specialty=?"];
    assert_eq!(named, expected);
    // Counted with another program; every stay has one specialty.
    let HostArray::F32(x) = &all.x else { panic!("f32") };
    assert_eq!(x.iter().map(|&v| f64::from(v)).sum::<f64>(), 9_849_634.0 + 101_766.0);
}

#[test]
fn pairs_of_sentences_have_the_labels_of_their_files() {
    let Some(options) = real_data() else { return };
    let grouped = LoadOptions { group_column: Some("subcase".into()), ..options.clone() };
    let hans = load(&source("hans-regenerated"), &grouped).unwrap();
    assert_eq!((hans.len(), count(&hans.y, 0), count(&hans.y, 1)), (30_000, 15_000, 15_000));
    let subcases = hans.groups.unwrap();
    assert_eq!(subcases[0], "ln_subject/object_swap");
    assert_eq!(subcases.iter().filter(|subcase| *subcase == "cn_adverb").count(), 1000);
    // Counted with another program.
    for (spec, classes) in [
        ("cad-snli:train", [2770, 2778, 2782]),
        ("cad-snli:test", [654, 677, 669]),
        ("anli-dev:r1", [334, 333, 333]),
        ("anli-dev:r3", [402, 400, 396]),
    ] {
        let examples = load(&source(spec), &options).unwrap();
        assert_eq!([0, 1, 2].map(|class| count(&examples.y, class)), classes, "{spec}");
    }
    assert_error(
        load(&source("anli-dev:r4"), &options),
        &["anli-dev has no split \"r4\": it has r1, r2, r3"],
    );
    let unknown = LoadOptions { group_column: Some("colour".into()), ..options };
    assert_error(load(&source("hans-regenerated"), &unknown), &["line 1: expected a column \"colour\""]);
}
