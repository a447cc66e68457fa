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
    assert!(error(spec(&[4], vec![LayerSpec::Flatten {}])).contains("found none"));
    assert!(error(spec(&[4, 0], vec![dense("0", 5)])).contains("found [4, 0]"));
    let image = |layers| error(spec(&[1, 5, 5], layers));
    let conv = |name: &str, kernel| LayerSpec::Conv2d {
        name: name.into(),
        out: 2,
        kernel,
        stride: 1,
        padding: 0,
        bias: true,
    };
    assert_eq!(
        image(vec![conv("c", 6)]),
        "layer 0: conv2d \"c\": no window of side 6 with stride 1 fits 5 x 5 with padding 0"
    );
    assert_eq!(
        image(vec![conv("c", 3), LayerSpec::Flatten {}, conv("d", 1)]),
        "layer 2: conv2d \"d\" takes an image (channels, height, width), found shape [18]"
    );
    let pool = LayerSpec::MaxPool { size: 2, stride: None, padding: 2 };
    assert_eq!(image(vec![pool]), "layer 0: max_pool: padding 2 is more than half of the window's side 2");
    let slope = LayerSpec::LeakyRelu { slope: f64::NAN };
    assert_eq!(error(spec(&[4], vec![slope])), "layer 0: leaky_relu takes a finite slope, found NaN");
}

#[test]
fn running_statistics_are_part_of_the_state() {
    let norm = LayerSpec::BatchNorm { name: "bn".into(), eps: 1e-5 };
    let spec = ModelSpec { input: vec![2], loss: Loss::CrossEntropy, layers: vec![norm] };
    let state = Tensors::from([
        ("bn.weight".into(), tensor(&[2], &[1.0, 2.0])),
        ("bn.bias".into(), tensor(&[2], &[3.0, 4.0])),
        ("bn.running_mean".into(), tensor(&[2], &[5.0, 6.0])),
        ("bn.running_var".into(), tensor(&[2], &[7.0, 8.0])),
    ]);
    let (network, theta) = spec.load(&Cpu::<f64>::new(), &state).unwrap();
    assert_eq!(theta.to_f64(), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(network.state(&theta), state);
    let untrained = spec.build(&Cpu::<f64>::new()).unwrap().parameters(&state).err().unwrap().to_string();
    assert_eq!(
        untrained,
        "tensor bn.running_mean differs from the statistics that the network was built with"
    );
    let mut missing = state.clone();
    missing.remove("bn.running_var");
    let error = spec.load(&Cpu::<f64>::new(), &missing).err().unwrap().to_string();
    assert!(error.starts_with("tensor bn.running_var of shape [2] is missing"), "{error}");
}

#[test]
fn residual_blocks_keep_their_shape_and_names_are_unique() {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let error = |layers| {
        let spec = ModelSpec { input: vec![4], loss: Loss::CrossEntropy, layers };
        spec.build(&Cpu::<f64>::new()).err().unwrap().to_string()
    };
    assert_eq!(
        error(vec![LayerSpec::Residual { layers: vec![dense("0", 3)] }]),
        "layer 0: the layers of a residual block keep their input's shape, found from [4] to [3] in 1 layers"
    );
    let inside = vec![dense("0", 4), dense("1", 0)];
    assert_eq!(error(vec![LayerSpec::Residual { layers: inside }]), "layer 0.1: dense \"1\" has no outputs");
    assert_eq!(error(vec![dense("0", 3), dense("0", 3)]), "layer 1: the name \"0\" is taken");
}

#[test]
fn losses_that_cannot_be_trained_on_are_refused() {
    let layers = vec![LayerSpec::Dense { name: "0".into(), out: 3, bias: true }];
    let build =
        |loss| ModelSpec { input: vec![4], loss, layers: layers.clone() }.build(&Cpu::<f64>::new()).map(drop);
    let error = |loss| build(loss).unwrap_err().to_string();
    for smoothing in [1.0, -0.1, f64::NAN] {
        let found = error(Loss::LabelSmoothing { smoothing });
        assert_eq!(found, format!("smoothing must be at least 0 and below 1, found {smoothing}"));
    }
    for temperature in [0.0, f64::INFINITY] {
        let found = error(Loss::SmoothHinge { temperature });
        assert_eq!(found, format!("temperature must be a number above 0, found {temperature}"));
    }
    for loss in [Loss::Logit, Loss::Margin] {
        let expected = "logit and margin measure queries and are no training losses; expected cross-entropy, label-smoothing, logistic, squared, hinge or smooth-hinge";
        assert_eq!(error(loss), expected);
    }
    for loss in [Loss::LabelSmoothing { smoothing: 0.0 }, Loss::SmoothHinge { temperature: 1e-3 }] {
        assert_eq!(build(loss), Ok(()));
    }
}

#[test]
fn an_embedding_bag_is_the_first_layer() {
    let dense = |name: &str, out| LayerSpec::Dense { name: name.into(), out, bias: true };
    let bag = |vocab, dim| LayerSpec::EmbeddingBag { name: "emb".into(), vocab, dim };
    let spec =
        |input: &[usize], layers| ModelSpec { input: input.to_vec(), loss: Loss::CrossEntropy, layers };
    let network = spec(&[7], vec![bag(3, 2), dense("fc", 2)]).build(&Cpu::<f64>::new()).unwrap();
    let names = network.tensors();
    assert_eq!((names[0].0.as_str(), names[0].1.as_slice()), ("emb.weight", &[3, 2][..]));
    let state = Tensors::from([
        ("emb.weight".into(), tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("fc.weight".into(), tensor(&[2, 2], &[0.1, 0.2, 0.3, 0.4])),
        ("fc.bias".into(), tensor(&[2], &[0.5, 0.6])),
    ]);
    let theta = network.parameters(&state).unwrap();
    assert_eq!(&theta.to_f64()[..7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.1]);
    assert_eq!(network.state(&theta), state);

    let error = |spec: ModelSpec| spec.build(&Cpu::<f64>::new()).err().unwrap().to_string();
    let first = "embedding_bag \"emb\" takes token ids: it can only be the first layer";
    assert_eq!(error(spec(&[4], vec![dense("fc", 4), bag(3, 2)])), format!("layer 1: {first}"));
    assert_eq!(error(spec(&[4], vec![LayerSpec::Relu {}, bag(3, 2)])), format!("layer 1: {first}"));
    assert_eq!(
        error(spec(&[4], vec![LayerSpec::Residual { layers: vec![bag(3, 4)] }])),
        "layer 0: an embedding_bag cannot stand in a residual block: nothing is added to token ids"
    );
    assert_eq!(
        error(spec(&[2, 4], vec![bag(3, 2)])),
        "layer 0: embedding_bag \"emb\" takes a row of ids, found shape [2, 4]"
    );
    assert_eq!(
        error(spec(&[4], vec![bag(1 << 25, 2)])),
        "layer 0: embedding_bag \"emb\" knows from 1 to 16777216 tokens, found vocab 33554432"
    );
    assert!(error(spec(&[4], vec![bag(0, 2)])).ends_with("found vocab 0"));
    assert!(error(spec(&[4], vec![bag(3, 0)])).ends_with("has no outputs"));
}
