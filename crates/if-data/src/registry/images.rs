//! Datasets of pictures.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use if_linalg::HostArray;
use ndarray::ArrayD;
use tar::Archive;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use super::info::{DatasetInfo, SplitInfo};
use crate::load::read_pair;
use crate::{DataError, Examples, Labels, LoadOptions};

/// MNIST and its likes: shape `(n, 28, 28)`, `u8`.
pub(super) fn mnist(
    info: &DatasetInfo,
    split: &SplitInfo,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    let first = if split.name == "train" { 0 } else { 2 };
    let images = info.verified(&info.files[first], options)?;
    let labels = info.verified(&info.files[first + 1], options)?;
    read_pair(&images, &labels)
}

/// CIFAR-10: shape `(n, 3, 32, 32)`, `u8`, the batches in order.
pub(super) fn cifar10(
    info: &DatasetInfo,
    split: &SplitInfo,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    let path = info.verified(&info.files[0], options)?;
    let file = File::open(&path).map_err(DataError::io(&path, "open"))?;
    let batches: &[&str] = match split.name {
        "train" => &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        _ => &["test_batch.bin"],
    };
    let records = cifar_records(GzDecoder::new(BufReader::new(file)), batches, split.examples)
        .map_err(DataError::io(&path, "read"))?;
    cifar_examples(&records, &path)
}

/// The same pictures after JPEG: members `IIIII_L.jpg`, position in the batch and label.
pub(super) fn cifar10_jpeg(
    info: &DatasetInfo,
    split: &SplitInfo,
    options: &LoadOptions,
) -> Result<Examples, DataError> {
    let files = if split.name == "train" { &info.files[..2] } else { &info.files[2..] };
    let paths = files.iter().map(|file| info.verified(file, options)).collect::<Result<Vec<_>, _>>()?;
    let mut records = Vec::new();
    for path in &paths {
        let file = File::open(path).map_err(DataError::io(path, "open"))?;
        let batch = jpeg_records(GzDecoder::new(BufReader::new(file)), split.examples / files.len());
        records.extend(batch.map_err(DataError::io(path, "read"))?);
    }
    cifar_examples(&records, &paths[0])
}

/// The members as CIFAR records, each at its position.
fn jpeg_records(tar: impl Read, examples: usize) -> io::Result<Vec<u8>> {
    let bad = |path: &Path, text: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text}", path.display()))
    };
    let mut records = vec![0; examples * CIFAR_RECORD];
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let name = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.split_once('_'));
        let name = name.and_then(|(at, label)| Some((at.parse::<usize>().ok()?, label.parse::<u8>().ok()?)));
        let Some((at, label)) = name.filter(|(at, label)| *at < examples && *label < 10) else {
            return Err(bad(&path, &"expected a name such as 00000_6.jpg"));
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
        let pixels = decoder.decode().map_err(|error| bad(&path, &error))?;
        if pixels.len() != CIFAR_RECORD - 1 {
            return Err(bad(
                &path,
                &format!("expected 32 x 32 pixels of three colours, found {} numbers", pixels.len()),
            ));
        }
        let record = &mut records[at * CIFAR_RECORD..][..CIFAR_RECORD];
        record[0] = label;
        for (colour, plane) in record[1..].chunks_exact_mut(32 * 32).enumerate() {
            plane.iter_mut().zip(pixels.chunks_exact(3)).for_each(|(own, rgb)| *own = rgb[colour]);
        }
    }
    Ok(records)
}

/// One byte of label, then 1,024 bytes each of red, green and blue.
const CIFAR_RECORD: usize = 1 + 3 * 32 * 32;

/// The records of the named members, in the order of the names, whatever the order in the archive.
fn cifar_records(tar: impl Read, batches: &[&str], examples: usize) -> std::io::Result<Vec<u8>> {
    let batch_bytes = examples / batches.len() * CIFAR_RECORD;
    let mut records = vec![0; examples * CIFAR_RECORD];
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let batch = batches.iter().position(|&name| entry.path().is_ok_and(|path| path.ends_with(name)));
        if let Some(batch) = batch {
            entry.read_exact(&mut records[batch * batch_bytes..][..batch_bytes])?;
        }
    }
    Ok(records)
}

fn cifar_examples(records: &[u8], path: &Path) -> Result<Examples, DataError> {
    let rows = records.chunks_exact(CIFAR_RECORD);
    let y = rows.clone().map(|row| i64::from(row[0])).collect();
    let mut pixels = Vec::with_capacity(rows.len() * (CIFAR_RECORD - 1));
    rows.clone().for_each(|row| pixels.extend_from_slice(&row[1..]));
    let x = ArrayD::from_shape_vec(vec![rows.len(), 3, 32, 32], pixels).expect("3,072 pixels a row");
    Examples::new(HostArray::U8(x), Labels::Integer(y), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cifar_batches_are_read_in_the_order_of_their_names() {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, label) in [("b.bin", 2_u8), ("other.txt", 9), ("a.bin", 1)] {
            let mut record = vec![label; CIFAR_RECORD];
            record[1..].fill(10 * label);
            let mut header = tar::Header::new_gnu();
            header.set_size(record.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("cifar-10-batches-bin/{name}"), record.as_slice()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let records = cifar_records(tar.as_slice(), &["a.bin", "b.bin"], 2).unwrap();
        let examples = cifar_examples(&records, Path::new("test")).unwrap();
        assert_eq!(examples.y, Labels::Integer(vec![1, 2]));
        assert_eq!(examples.x.shape(), [2, 3, 32, 32]);
        let HostArray::U8(x) = &examples.x else { panic!("u8") };
        assert_eq!((x[[0, 0, 0, 0]], x[[1, 2, 31, 31]]), (10, 20));
    }
}
