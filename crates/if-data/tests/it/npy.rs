use std::fs;

use if_data::{Array, NpyMatrix, NpyWriter, read_npy, write_npy};
use ndarray::{ArrayD, array};

use crate::support::{assert_error, file, folder, gzip, load_spec};

/// An npy file of version 1 with any header text and data.
pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn plain(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
}

#[test]
fn what_is_written_is_read_back() {
    let folder = folder();
    let path = folder.path().join("a.npy");
    let matrix = array![[1.5_f64, -2.0, 3.25], [f64::MIN_POSITIVE, 0.0, 1e300]];
    write_npy(&path, matrix.view()).unwrap();
    assert_eq!(read_npy(&path).unwrap(), Array::F64(matrix.clone().into_dyn()));
    // A view that is not contiguous.
    write_npy(&path, matrix.t()).unwrap();
    assert_eq!(read_npy(&path).unwrap(), Array::F64(matrix.t().as_standard_layout().into_owned().into_dyn()));
    let large = ArrayD::from_shape_fn(vec![100_000], |i| i[0] as f32);
    write_npy(&path, large.view()).unwrap();
    assert_eq!(read_npy(&path).unwrap(), Array::F32(large));
}

#[test]
fn every_supported_type_and_version_is_read() {
    let folder = folder();
    for (descr, data, expected) in [
        ("|i1", vec![0xff, 2], vec![-1_i64, 2]),
        ("<i2", vec![0xff, 0xff, 2, 0], vec![-1, 2]),
        ("<i4", vec![1, 0, 0, 0, 2, 0, 0, 0], vec![1, 2]),
        ("<u2", vec![0xff, 0xff, 2, 0], vec![65_535, 2]),
        ("<u4", vec![0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0], vec![4_294_967_295, 2]),
        ("<i8", vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], vec![1, 2]),
    ] {
        let path = file(&folder, "a.npy", &plain(descr, "(2,)", &data));
        let expected = ArrayD::from_shape_vec(vec![2], expected).unwrap();
        assert_eq!(read_npy(&path).unwrap(), Array::I64(expected), "{descr}");
    }
    let mut second = plain("|u1", "(2,)", &[7, 8]);
    second.splice(6..10, [2, 0, second[8], second[9], 0, 0]);
    let path = file(&folder, "v2.npy", &second);
    assert_eq!(read_npy(&path).unwrap(), Array::U8(array![7, 8].into_dyn()));
}

#[test]
fn column_major_becomes_row_major() {
    let folder = folder();
    let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
    let path = file(&folder, "f.npy", &npy(header, &[1, 4, 2, 5, 3, 6]));
    let Array::U8(a) = read_npy(&path).unwrap() else { panic!("u8") };
    assert!(a.is_standard_layout());
    assert_eq!(a, array![[1, 2, 3], [4, 5, 6]].into_dyn());
}

#[test]
fn a_header_is_not_believed() {
    let folder = folder();
    let claim = |shape: &str| file(&folder, "a.npy", &plain("<f8", shape, &[0; 24]));
    let huge = claim("(1000000000000000000,)");
    assert_error(
        read_npy(&huge),
        &["a.npy: byte ", "8000000000000000000 bytes for the shape [1000000000000000000]", "at most 24"],
    );
    assert_error(read_npy(&claim("(4294967296, 4294967296)")), &["more than 2^64 bytes"]);
    assert_error(read_npy(&claim("(9223372036854775807,)")), &["more than 2^64 bytes"]);
    assert_error(read_npy(&claim("(0, 9223372036854775807, 4)")), &["a shape that fits memory"]);
    assert_error(read_npy(&claim("(100000000000000000000000000,)")), &["expected a header with descr"]);
    // A header that claims to be 4 GiB long.
    let long = file(&folder, "l.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}");
    assert_error(read_npy(&long), &["a header of at most 4096 bytes, found a claim of 4294967295"]);
}

#[test]
fn every_other_fault_is_named() {
    let folder = folder();
    let read = |bytes: &[u8]| read_npy(&file(&folder, "a.npy", bytes));
    assert_error(
        read(b""),
        &["a.npy: byte 0: expected 6 bytes of npy magic, found the end of the data after 0"],
    );
    assert_error(read(b"PK\x03\x04\nxyz"), &["expected the npy magic", "PK"]);
    assert_error(read(b"\x93NUMPY\x07\x00  "), &["expected npy version 1, 2 or 3, found 7.0"]);
    assert_error(read(&plain("<f8", "(3,)", &[0; 24])[..40]), &["bytes of npy header"]);
    assert_error(
        read(&plain("<f8", "(3,)", &[0; 23])),
        &["expected 24 bytes for the shape [3]", "at most 23"],
    );
    assert_error(read(&plain("<f8", "(3,)", &[0; 25])), &["expected the end of the data, found more bytes"]);
    assert_error(read(&plain(">f8", "(3,)", &[0; 24])), &["\">f8\" (big-endian)"]);
    assert_error(read(&plain("|b1", "(3,)", &[0; 3])), &["expected an element type", "\"|b1\""]);
    assert_error(read(&npy("{'descr': [('a', '<f8')]}\n", &[])), &["expected a header with descr"]);
    assert_error(read_npy(&folder.path().join("none.npy")), &["none.npy: cannot open: "]);
    assert_error(read_npy(folder.path()), &["cannot "]);
}

#[test]
fn a_pair_must_agree() {
    let folder = folder();
    let x = file(&folder, "x.npy", &plain("<f4", "(3, 1)", &[0; 12]));
    let pair =
        |labels: &[u8]| load_spec(&format!("{},{}", x.display(), file(&folder, "y.npy", labels).display()));
    let examples = pair(&plain("|u1", "(3,)", &[0, 1, 2])).unwrap();
    assert_eq!(examples.y.to_integers(), Some(vec![0, 1, 2]));
    assert_error(
        pair(&plain("|u1", "(2,)", &[0, 1])),
        &["y.npy: labels: expected 3 labels, one per example, found 2"],
    );
    assert_error(pair(&plain("|u1", "(3, 1)", &[0; 3])), &["labels of shape [n]", "[3, 1]"]);
    let nan = [f32::NAN.to_le_bytes(), [0; 4], [0; 4]].concat();
    assert_error(pair(&plain("<f4", "(3,)", &nan)), &["row 0: expected a finite label"]);
    let integers = file(&folder, "i.npy", &plain("<i4", "(1, 1)", &[0; 4]));
    assert_error(
        load_spec(&format!("{},{}", integers.display(), integers.display())),
        &["i.npy: array: expected features of type float32, float64 or uint8"],
    );
    let none = file(&folder, "n.npy", &plain("|u1", "(0,)", &[]));
    assert_error(load_spec(&format!("{},{}", none.display(), none.display())), &["at least one number"]);
}

#[test]
fn a_streamed_file_appears_when_it_is_finished() {
    let folder = folder();
    let path = folder.path().join("scores.npy");
    let mut writer = NpyWriter::<f32>::create(&path, &[2, 2]).unwrap();
    writer.append(&[1.0, 2.0, 3.0]).unwrap();
    assert!(!path.exists());
    writer.append(&[4.0]).unwrap();
    writer.finish().unwrap();
    assert_eq!(read_npy(&path).unwrap(), Array::F32(array![[1.0, 2.0], [3.0, 4.0]].into_dyn()));

    drop(NpyWriter::<f32>::create(&path, &[9]).unwrap());
    assert_eq!(read_npy(&path).unwrap().shape(), [2, 2]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_error(NpyWriter::<f64>::create(&folder.path().join("no/a.npy"), &[1]), &["a.npy: cannot create"]);
}

/// Blocks that an earlier writer left are taken over up to the first that is not whole.
#[test]
fn a_writer_goes_on_after_whole_blocks() {
    let folder = folder();
    let path = folder.path().join("scores.npy");
    let part = folder.path().join("scores.npy.part");
    let expected = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].into_dyn();
    let resume = |blocks: &[(usize, String)]| NpyWriter::<f64>::resume(&path, &[3, 2], blocks).unwrap();

    let (mut writer, kept) = resume(&[]);
    assert_eq!(kept, 0);
    assert_error(
        NpyWriter::<f64>::resume(&path, &[3, 2], &[]),
        &["scores.npy.part: output: expected a file that no other process writes"],
    );
    let blocks = [[1.0, 2.0], [3.0, 4.0]].map(|block| (2, writer.append_block(&block).unwrap()));
    assert_ne!(blocks[0].1, blocks[1].1);
    // What was appended is in the file, the writer dropped or killed.
    assert_eq!(fs::read(&part).unwrap().len(), 128 + 4 * 8);
    writer.append(&[5.5]).unwrap();
    drop(writer);
    let left = fs::read(&part).unwrap();

    let mut flipped = left.clone();
    flipped[128 + 16] ^= 1;
    for (bytes, whole) in [
        (left.clone(), 2),
        (left[..128 + 31].to_vec(), 1),
        (flipped, 1),
        (left[..100].to_vec(), 0),
        ([&left[..20], b"x", &left[21..]].concat(), 0),
    ] {
        fs::write(&part, &bytes).unwrap();
        let (mut writer, kept) = resume(&blocks);
        assert_eq!(kept, whole);
        writer.append(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][2 * whole..]).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_npy(&path).unwrap(), Array::F64(expected.clone()));
        assert!(!part.exists());
    }
    // Blocks of another shape are not these, and a writer without any leaves nothing.
    fs::write(&part, &left).unwrap();
    let (writer, kept) = NpyWriter::<f64>::resume(&path, &[2, 3], &blocks).unwrap();
    assert_eq!(kept, 0);
    drop(writer);
    assert!(!part.exists());
}

#[test]
fn a_mapped_matrix_is_what_was_written() {
    let folder = folder();
    let matrix = array![[1.5_f32, -0.0, f32::NAN], [f32::MIN_POSITIVE, 0.0, 1e30]];
    let path = folder.path().join("a.npy");
    write_npy(&path, matrix.view()).unwrap();
    let mapped = NpyMatrix::<f32>::open(&path).unwrap();
    assert_eq!(mapped.shape(), [2, 3]);
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(mapped.numbers()), bits(matrix.as_slice().unwrap()));
    // A file that takes its place by a rename changes nothing.
    write_npy(&path, array![[1.0_f32]].view()).unwrap();
    assert_eq!(bits(mapped.numbers()), bits(matrix.as_slice().unwrap()));

    let open = |bytes: &[u8]| NpyMatrix::<f64>::open(&file(&folder, "b.npy", bytes)).map(|m| m.shape());
    // 10 bytes before this header, which is as long as any that numpy writes.
    let header = |shape: &str| format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = |shape: &str, data: &[u8]| npy(&format!("{:118}", header(shape)), data);
    assert_eq!(open(&padded("(2, 1)", &[0; 16])).unwrap(), [2, 1]);
    assert_eq!(open(&padded("(2, 0)", &[])).unwrap(), [2, 0]);
    assert_error(open(&padded("(2, 1)", &[0; 15])), &["b.npy: byte 128: expected 16 bytes", "at most 15"]);
    assert_error(open(&padded("(2, 1)", &[0; 17])), &["expected the end of the data, found more bytes"]);
    assert_error(open(&padded("(2,)", &[0; 16])), &["a row-major matrix of <f8", "<f8 of shape [2]"]);
    assert_error(open(&plain("<f4", "(2, 1)", &[0; 8])), &["found <f4 of shape [2, 1]"]);
    let fortran = header("(2, 1)").replace("False", "True");
    assert_error(open(&npy(&fortran, &[0; 16])), &["found <f8 of shape [2, 1], column-major"]);
    assert_error(open(&padded("(4294967296, 4294967296)", &[0; 16])), &["more than 2^64"]);
    assert_error(open(&gzip(&padded("(2, 1)", &[0; 16]))), &["the npy magic"]);
    let askew = npy(&format!("{:119}", header("(2, 1)")), &[0; 16]);
    assert_error(open(&askew), &["cannot map", "a multiple of 8 bytes, found byte 129"]);
}
