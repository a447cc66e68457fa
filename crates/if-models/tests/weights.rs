//! Parameters by PyTorch's names, and networks from descriptions.

use if_linalg::testing::random;
use if_linalg::{Block, Cpu, Loss};
use if_models::{LayerSpec, ModelError, ModelSpec, Network, Tensors};
use ndarray::ArrayD;

fn network(bias: bool) -> Network<Cpu<f64>> {
    Network::linear(&Cpu::new(), 3, 2, bias, Loss::CrossEntropy)
}

fn tensor(shape: &[usize], values: &[f64]) -> ArrayD<f64> {
    ArrayD::from_shape_vec(shape.to_vec(), values.to_vec()).unwrap()
}

fn tensors() -> Tensors {
    Tensors::from([
        ("fc.weight".into(), tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("fc.bias".into(), tensor(&[2], &[7.0, 8.0])),
    ])
}

#[test]
fn bias_is_the_last_column() {
    let theta = network(true).parameters(&tensors()).unwrap();
    assert_eq!(theta.to_f64(), [1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0]);
    assert_eq!(network(true).state(&theta), tensors());
}

#[test]
fn state_and_parameters_are_inverses() {
    for bias in [true, false] {
        let network = network(bias);
        let values = random(network.layout().dim(), 1);
        let theta = Block::from_f64(network.backend(), network.layout(), &values);
        let state = network.state(&theta);
        assert_eq!(state.len(), if bias { 2 } else { 1 });
        assert_eq!(network.parameters(&state).unwrap().to_f64(), values);
    }
}

#[test]
fn batch_counts_are_ignored_and_everything_else_is_named() {
    let mut counted = tensors();
    counted.insert("bn.num_batches_tracked".into(), tensor(&[], &[5.0]));
    assert!(network(true).parameters(&counted).is_ok());

    let error = |tensors: &Tensors, bias| network(bias).parameters(tensors).err().unwrap();
    let extra = error(&tensors(), false).to_string();
    assert_eq!(extra, "tensor fc.bias belongs to no layer of the model; its tensors are: fc.weight");

    let mut missing = tensors();
    missing.remove("fc.bias");
    let text = error(&missing, true).to_string();
    assert_eq!(text, "tensor fc.bias of shape [2] is missing; there are: fc.weight");

    let mut transposed = tensors();
    transposed.insert("fc.weight".into(), tensor(&[3, 2], &[0.0; 6]));
    assert_eq!(error(&transposed, true).to_string(), "tensor fc.weight has shape [3, 2], expected [2, 3]");

    let mut infinite = tensors();
    infinite.insert("fc.bias".into(), tensor(&[2], &[0.0, f64::INFINITY]));
    let expected = ModelError::NonFiniteWeight { name: "fc.bias".into(), position: 1 };
    assert_eq!(error(&infinite, true), expected);
}

#[test]
fn descriptions_are_checked_layer_by_layer() {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let spec =
        |input: &[usize], layers| ModelSpec { input: input.to_vec(), loss: Loss::CrossEntropy, layers };
    let built = spec(&[4], vec![dense("0", 5), dense("1", 3)]).build(&Cpu::<f64>::new()).unwrap();
    let names: Vec<String> = built.tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["0.weight", "0.bias", "1.weight", "1.bias"]);

    let error = |spec: ModelSpec| spec.build(&Cpu::<f64>::new()).err().unwrap().to_string();
    assert_eq!(
        error(spec(&[1, 2, 2], vec![dense("0", 5)])),
        "layer 0: dense \"0\" takes a flat input, found shape [1, 2, 2]"
    );
    assert_eq!(error(spec(&[4], vec![dense("0", 0)])), "layer 0: dense \"0\" has no outputs");
    assert!(error(spec(&[4], vec![LayerSpec::Flatten])).contains("found none"));
    assert!(error(spec(&[4, 0], vec![dense("0", 5)])).contains("found [4, 0]"));
    let image = |layers| error(spec(&[1, 5, 5], layers));
    let conv =
        |kernel| LayerSpec::Conv2d { name: "c".into(), out: 2, kernel, stride: 1, padding: 0, bias: true };
    assert_eq!(
        image(vec![conv(6)]),
        "layer 0: conv2d \"c\": no window of side 6 with stride 1 fits 5 x 5 with padding 0"
    );
    assert_eq!(
        image(vec![conv(3), LayerSpec::Flatten, conv(1)]),
        "layer 2: conv2d \"c\" takes an image (channels, height, width), found shape [18]"
    );
    let pool = LayerSpec::MaxPool { size: 2, stride: None, padding: 2 };
    assert_eq!(image(vec![pool]), "layer 0: max_pool: padding 2 is more than half of the window's side 2");
    let slope = LayerSpec::LeakyRelu { slope: f64::NAN };
    assert_eq!(error(spec(&[4], vec![slope])), "layer 0: leaky_relu takes a finite slope, found NaN");
}
