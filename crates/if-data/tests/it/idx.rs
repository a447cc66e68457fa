use if_data::{Array, read_idx};
use ndarray::array;

use crate::support::{assert_error, file, folder, gzip, load_spec};

fn idx(code: u8, shape: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, code, u8::try_from(shape.len()).unwrap()];
    bytes.extend(shape.iter().flat_map(|length| length.to_be_bytes()));
    bytes.extend(data);
    bytes
}

#[test]
fn every_type_is_read_plain_and_compressed() {
    let folder = folder();
    let images = idx(0x08, &[2, 1, 2], &[1, 2, 3, 4]);
    let expected = Array::U8(array![[[1, 2]], [[3, 4]]].into_dyn());
    assert_eq!(read_idx(&file(&folder, "plain", &images)).unwrap(), expected);
    assert_eq!(read_idx(&file(&folder, "compressed", &gzip(&images))).unwrap(), expected);
    for (code, data, expected) in [
        (0x09, vec![0xff], Array::I64(array![-1].into_dyn())),
        (0x0b, vec![1, 2], Array::I64(array![258].into_dyn())),
        (0x0c, vec![0, 0, 1, 2], Array::I64(array![258].into_dyn())),
        (0x0d, 1.5_f32.to_be_bytes().to_vec(), Array::F32(array![1.5].into_dyn())),
        (0x0e, (-2.5_f64).to_be_bytes().to_vec(), Array::F64(array![-2.5].into_dyn())),
    ] {
        assert_eq!(read_idx(&file(&folder, "a", &idx(code, &[1], &data))).unwrap(), expected);
    }
}

#[test]
fn a_pair_loads_with_a_slice() {
    let folder = folder();
    let x = file(&folder, "x-idx3-ubyte.gz", &gzip(&idx(0x08, &[3, 1, 1], &[7, 8, 9])));
    let y = file(&folder, "y-idx1-ubyte", &idx(0x08, &[3], &[0, 1, 2]));
    let examples = load_spec(&format!("{},{}[1..3]", x.display(), y.display())).unwrap();
    assert_eq!((examples.len(), examples.ids.as_slice()), (2, &[1, 2][..]));
    assert_eq!(examples.y.to_integers(), Some(vec![1, 2]));
    assert_error(
        load_spec(&format!("{},{}[3]", x.display(), y.display())),
        &["rows [3..4] asked for, but it has the rows [0..3]"],
    );
}

#[test]
fn every_fault_is_named() {
    let folder = folder();
    let good = idx(0x08, &[2, 2], &[1, 2, 3, 4]);
    let read = |bytes: &[u8]| read_idx(&file(&folder, "a.idx", bytes));
    assert_error(
        read(b""),
        &["a.idx: byte 0: expected 4 bytes of idx magic, found the end of the data after 0"],
    );
    assert_error(read(&good[..6]), &["byte 4: expected 4 bytes of idx axis"]);
    assert_error(
        read(&good[..15]),
        &["byte 12: expected 4 bytes for the shape [2, 2], found room for at most 3"],
    );
    assert_error(read(b"\x89PNG rest"), &["byte 0: expected the idx magic 00 00, found 89 50"]);
    assert_error(read(&idx(0x0a, &[1], &[1])), &["byte 2: expected an idx element type", "found 0a"]);
    assert_error(
        read(&[&good[..], &[5]].concat()),
        &["byte 16: expected the end of the data, found more bytes"],
    );
    let claim = idx(0x0e, &[u32::MAX, u32::MAX], &[0; 16]);
    assert_error(read(&claim), &["more than 2^64 bytes"]);
}

#[test]
fn compressed_faults_are_named() {
    let folder = folder();
    let read = |bytes: &[u8]| read_idx(&file(&folder, "a.gz", bytes));
    let whole = gzip(&idx(0x08, &[100, 10], &(0..1000).map(|i| (i * i % 251) as u8).collect::<Vec<_>>()));
    for end in 2..whole.len() {
        assert_error(read(&whole[..end]), &["a.gz: "]);
    }
    assert_error(
        read(&whole[..whole.len() / 2]),
        &["expected 1000 bytes of data, found the end of the data"],
    );
    assert_error(read(&[&whole[..], b"garbage"].concat()), &["a.gz: "]);
    // Deflate cannot expand this file to what the header claims, so nothing is allocated.
    let bomb = gzip(&idx(0x08, &[4_000_000_000], &[0; 100]));
    assert_error(read(&bomb), &["expected 4000000000 bytes for the shape [4000000000]", "at most "]);
}
