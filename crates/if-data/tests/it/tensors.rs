use std::collections::BTreeMap;

use if_data::{Array, read_tensors, write_tensors};
use ndarray::{ArrayD, array};

use crate::support::{assert_error, file, folder};

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn what_is_written_is_read_back_the_same_bits_every_time() {
    let folder = folder();
    let path = folder.path().join("w.safetensors");
    let tensors = BTreeMap::from([
        ("fc.weight".to_owned(), Array::F32(array![[1.0, 2.0], [3.0, 4.5]].into_dyn())),
        ("fc.bias".to_owned(), Array::F64(array![0.1, -1e-300].into_dyn())),
        ("bn.num_batches_tracked".to_owned(), Array::I64(ArrayD::from_elem(vec![], 7))),
        ("mask".to_owned(), Array::U8(array![1, 0].into_dyn())),
    ]);
    write_tensors(&path, &tensors).unwrap();
    let first = std::fs::read(&path).unwrap();
    assert_eq!(read_tensors(&path).unwrap(), tensors);
    write_tensors(&path, &tensors).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
}

#[test]
fn half_precision_is_widened_exactly() {
    let folder = folder();
    let header = r#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    // 1.5 and -2 in either format.
    let data = [0x00, 0x3e, 0x00, 0xc0, 0xc0, 0x3f, 0x00, 0xc0];
    let tensors = read_tensors(&file(&folder, "h.safetensors", &safetensors(header, &data))).unwrap();
    for name in ["h", "b"] {
        assert_eq!(tensors[name], Array::F32(array![1.5, -2.0].into_dyn()), "{name}");
    }
}

#[test]
fn every_fault_is_named() {
    let folder = folder();
    let read = |bytes: &[u8]| read_tensors(&file(&folder, "w.safetensors", bytes));
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = safetensors(header, &[0; 8]);
    assert!(read(&whole).is_ok());
    for end in 0..whole.len() {
        assert_error(read(&whole[..end]), &["w.safetensors: header: expected a complete safetensors file"]);
    }
    assert_error(read(&[&whole[..], &[0]].concat()), &["expected a complete safetensors file"]);
    assert_error(read(&safetensors("\n{\n", &[])), &["expected a complete safetensors file"]);
    let huge = r#"{"w":{"dtype":"F32","shape":[1000000000000000000],"data_offsets":[0,8]}}"#;
    assert_error(read(&safetensors(huge, &[0; 8])), &["expected a complete safetensors file"]);
    let flat =
        r#"{"w":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}}"#;
    assert_error(read(&safetensors(flat, &[])), &["w.safetensors: "]);
    let boolean = r#"{"w":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#;
    assert_error(
        read(&safetensors(boolean, &[0; 2])),
        &["tensor \"w\": expected F64, F32, F16", "found BOOL"],
    );
    assert_error(read_tensors(&folder.path().join("none")), &["none: cannot read"]);
}
