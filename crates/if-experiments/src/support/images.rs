//! MNIST cut to what an experiment needs: some digits, some of their examples, fewer pixels.

use if_linalg::HostArray;
use if_methods::random_order;
use if_models::{Dataset, LayerSpec};
use ndarray::ArrayD;

/// `count` examples, drawn by `seed`, of those that `label` gives a label, with that label.
pub fn draw(data: &Dataset, label: impl Fn(f64) -> Option<f64>, count: usize, seed: u64) -> Dataset {
    let wanted = |i: &usize| label(data.labels()[*i]).is_some();
    let rows: Vec<usize> = random_order(data.len(), seed).into_iter().filter(wanted).take(count).collect();
    let drawn = data.select(&rows);
    let labels = drawn.labels().iter().map(|&digit| label(digit).expect("filtered")).collect();
    drawn.with_labels(labels)
}

/// Label 1 for a 9, 0 for a 4, none for the others.
pub fn nine(digit: f64) -> Option<f64> {
    [4.0, 9.0].contains(&digit).then(|| f64::from(u8::from(digit == 9.0)))
}

/// The features of example `row`, such as pixels from 0 to 1.
pub fn pixels_of(data: &Dataset, row: usize) -> Vec<f64> {
    let mut pixels = vec![0.0; data.width()];
    data.features().read_row(row, &mut pixels);
    pixels
}

/// Square greyscale images at `side x side` pixels, each the mean over its share of the original area: where the
/// sides divide, the mean under a window.
pub fn resampled(data: &Dataset, side: usize) -> Dataset {
    let from = data.width().isqrt();
    let shares = overlaps(from, side);
    let mut pixels = Vec::with_capacity(data.len() * side * side);
    for i in 0..data.len() {
        let lines: Vec<f64> =
            pixels_of(data, i).chunks(from).flat_map(|row| weighted(&shares, row)).collect();
        let pixel = |p: usize| (0..from).map(|y| shares[p / side][y] * lines[y * side + p % side]).sum();
        pixels.extend((0..side * side).map(pixel).collect::<Vec<f64>>());
    }
    let pixels = ArrayD::from_shape_vec(vec![data.len(), 1, side, side], pixels).expect("one image a row");
    let resampled = Dataset::new(HostArray::F64(pixels), data.labels().to_vec());
    resampled.expect("means of finite pixels").with_ids(data.ids().to_vec())
}

/// For each of `to` pixels the part of it that every one of `from` covers.
fn overlaps(from: usize, to: usize) -> Vec<Vec<f64>> {
    let length = from as f64 / to as f64;
    let part = |t: usize, s: usize| {
        let (start, end) = (t as f64 * length, (t + 1) as f64 * length);
        (end.min((s + 1) as f64) - start.max(s as f64)).max(0.0) / length
    };
    (0..to).map(|t| (0..from).map(|s| part(t, s)).collect()).collect()
}

fn weighted(shares: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    shares.iter().map(|share| share.iter().zip(values).map(|(s, v)| s * v).sum()).collect()
}

/// A dense layer with biases.
pub fn dense(name: &str, out: usize) -> LayerSpec {
    LayerSpec::Dense { name: name.into(), out, bias: true }
}

/// A convolution with biases and without padding.
pub fn conv(name: &str, out: usize, kernel: usize, stride: usize) -> LayerSpec {
    LayerSpec::Conv2d { name: name.into(), out, kernel, stride, padding: 0, bias: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_averaged() {
        let image = ArrayD::from_shape_vec(vec![1, 4, 4], (0..16).map(f64::from).collect()).unwrap();
        let data = Dataset::new(HostArray::F64(image), vec![7.0]).unwrap().with_ids(vec![3]);
        let halved = resampled(&data, 2);
        assert_eq!(pixels_of(&halved, 0), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!((halved.ids(), halved.labels()), (&[3][..], &[7.0][..]));
        // 4 pixels on 3: the first takes a whole one and a third of the next.
        let third = pixels_of(&resampled(&data, 3), 0);
        assert!((third[0] - 1.25).abs() < 1e-12 && (third.iter().sum::<f64>() / 9.0 - 7.5).abs() < 1e-12);
    }

    #[test]
    fn examples_are_drawn_by_label() {
        let images = ArrayD::zeros(vec![6, 1]);
        let data = Dataset::new(HostArray::F64(images), vec![4.0, 9.0, 1.0, 4.0, 9.0, 4.0]).unwrap();
        let drawn = draw(&data, nine, 4, 0);
        assert_eq!(drawn.len(), 4);
        for (id, label) in drawn.ids().iter().zip(drawn.labels()) {
            assert_eq!(*label, nine(data.labels()[*id]).unwrap());
        }
        assert_eq!(draw(&data, nine, 4, 0), drawn);
        assert_ne!(draw(&data, nine, 4, 1).ids(), drawn.ids());
    }
}
