use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};

use if_data::{Array, LoadOptions, load, read_npz, read_npz_array, write_npz};
use ndarray::{ArrayD, array};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::npy::npy;
use crate::support::{assert_error, data_dir, file, folder, load_spec};

fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn bytes(shape: &str, data: &[u8]) -> Vec<u8> {
    npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n"), data)
}

#[test]
fn an_array_can_say_where_examples_belong() {
    let folder = folder();
    let path = folder.path().join("g.npz");
    let array = |values: Vec<i64>| Array::I64(ndarray::Array1::from(values).into_dyn());
    let x = Array::F64(ndarray::array![[1.0], [2.0], [3.0]].into_dyn());
    let (y, source, short) = (array(vec![0, 1, 0]), array(vec![7, 7, -1]), array(vec![1]));
    write_npz(&path, [("x", &x), ("y", &y), ("source", &source), ("short", &short)]).unwrap();
    let grouped = |group: &str| {
        let options = LoadOptions { group_column: Some(group.into()), ..LoadOptions::default() };
        load(&path.to_str().unwrap().parse().unwrap(), &options)
    };
    assert_eq!(grouped("source").unwrap().groups.unwrap(), ["7", "7", "-1"]);
    assert_eq!(grouped("nowhere").unwrap().groups, None);
    assert_error(grouped("short"), &["g.npz: array short: expected 3 groups, one per example, found 1"]);
}

#[test]
fn what_is_written_is_read_back() {
    let folder = folder();
    let path = folder.path().join("a.npz");
    let arrays = BTreeMap::from([
        ("x".to_owned(), Array::F32(array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].into_dyn())),
        ("y".to_owned(), Array::I64(array![0, -1, 1].into_dyn())),
        ("weights".to_owned(), Array::F64(array![0.5].into_dyn())),
        ("pixels".to_owned(), Array::U8(ArrayD::zeros(vec![300, 28, 28]))),
    ]);
    write_npz(&path, arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
    assert_eq!(read_npz(&path).unwrap(), arrays);

    let examples = load_spec(&format!("{}[1..]", path.display())).unwrap();
    assert_eq!(examples.x.shape(), [2, 2]);
    assert_eq!(examples.y.to_integers(), Some(vec![-1, 1]));
    assert_eq!(examples.ids, [1, 2]);
}

#[test]
fn stored_and_deflated_archives_are_read() {
    let folder = folder();
    let (x, y) = (bytes("(2, 1)", &[3, 4]), bytes("(2,)", &[0, 1]));
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = file(&folder, "a.npz", &archive(&[("x.npy", &x), ("y.npy", &y)], method));
        assert_eq!(load_spec(path.to_str().unwrap()).unwrap().len(), 2);
    }
}

#[test]
fn an_array_that_nobody_asks_for_may_be_anything() {
    let folder = folder();
    let (x, y) = (bytes("(2, 1)", &[3, 4]), bytes("(2,)", &[0, 1]));
    let entries: [(&str, &[u8]); 4] =
        [("x.npy", &x), ("y.npy", &y), ("names.npy", b"?"), ("notes.txt", b"?")];
    let path = file(&folder, "a.npz", &archive(&entries, CompressionMethod::Stored));
    assert_eq!(load_spec(path.to_str().unwrap()).unwrap().len(), 2);
    assert_error(read_npz(&path), &["a.npz: entry names.npy, byte 0: expected 6 bytes of npy magic"]);
}

#[test]
fn a_missing_array_is_named_beside_those_there_are() {
    let folder = folder();
    let (x, y) = (bytes("(2, 1)", &[3, 4]), bytes("(2,)", &[0, 1]));
    let only_x = archive(&[("x.npy", &x), ("z.npy", &y)], CompressionMethod::Stored);
    let path = file(&folder, "a.npz", &only_x);
    assert_error(
        load_spec(path.to_str().unwrap()),
        &["a.npz: archive: expected an array \"y\", found the arrays [\"x\", \"z\"]"],
    );
    let path = file(&folder, "b.npz", &archive(&[("y.npy", &y)], CompressionMethod::Stored));
    assert_error(load_spec(path.to_str().unwrap()), &["expected an array \"x\""]);
}

#[test]
fn labels_must_be_as_many_as_examples() {
    let folder = folder();
    let (x, y) = (bytes("(2, 1)", &[3, 4]), bytes("(3,)", &[0, 1, 2]));
    let path = file(&folder, "a.npz", &archive(&[("x.npy", &x), ("y.npy", &y)], CompressionMethod::Stored));
    assert_error(load_spec(path.to_str().unwrap()), &["expected 2 labels, one per example, found 3"]);
}

#[test]
fn no_file_is_too_broken_for_an_error() {
    let folder = folder();
    let x = bytes("(100, 100)", &[7; 10_000]);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let whole = archive(&[("x.npy", &x), ("y.npy", &x)], method);
        for end in (0..whole.len()).step_by(1 + whole.len() / 50) {
            assert_error(read_npz(&file(&folder, "cut.npz", &whole[..end])), &["cut.npz: "]);
        }
        // A flipped bit in the data is found by the checksum of the archive.
        let mut flipped = whole.clone();
        flipped[120] ^= 0x10;
        assert_error(read_npz(&file(&folder, "flip.npz", &flipped)), &["flip.npz: "]);
    }
    assert_error(read_npz(&file(&folder, "text.npz", b"not an archive")), &["a complete npz (zip) archive"]);
    assert_error(
        read_npz(&file(&folder, "empty.npz", b"")),
        &["a complete npz (zip) archive, found 0 bytes"],
    );
}

#[test]
fn a_bomb_does_not_go_off() {
    let folder = folder();
    // An entry of 40 bytes that declares, in both its headers, 4 GB and whose npy header claims as much.
    let x = bytes("(4000000000,)", &[0; 8]);
    let mut whole = archive(&[("x.npy", &x)], CompressionMethod::Stored);
    let length = u32::try_from(x.len()).unwrap().to_le_bytes();
    let claim = 4_000_000_000_u32.to_le_bytes();
    for at in 0..whole.len() - 3 {
        if whole[at..at + 4] == length && whole[at - 4..at] == length {
            whole[at..at + 4].copy_from_slice(&claim);
        }
    }
    let path = file(&folder, "bomb.npz", &whole);
    assert_error(read_npz(&path), &["bomb.npz: entry x.npy, byte ", "4000000000 bytes", "at most "]);
    // One that really expands: 10 MB of zeros in 10 kB, under a header that asks for 12 bytes.
    let zeros = bytes("(3, 4)", &vec![0; 10_000_000]);
    let path = file(&folder, "zeros.npz", &archive(&[("x.npy", &zeros)], CompressionMethod::Deflated));
    assert!(fs::metadata(&path).unwrap().len() < 20_000);
    assert_error(read_npz(&path), &["expected the end of the data"]);
}

#[test]
fn a_file_that_numpy_wrote_is_read_beside_arrays_that_are_no_numbers() {
    let Some(data) = data_dir() else { return };
    let golden = data.join("../golden/logreg17.npz");
    if golden.exists() {
        assert_eq!(read_npz_array(&golden, "lam0.1_score").unwrap().shape(), [100, 2000]);
        assert_error(
            read_npz(&golden),
            &["entry group_names.npy, byte ", "expected an element type", "<U14"],
        );
    }
}
