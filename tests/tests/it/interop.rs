//! A `state_dict()` and a `model.toml` give what PyTorch gives (`interop/README.md`), tensor by tensor.

use std::collections::BTreeMap;

use if_data::Array;
use if_linalg::{Block, Cpu, LinearOperator, Real};
use if_models::{
    Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, ModelSpec, Network, RiskSettings, Tensors,
};
use if_tests::{files, relative_error};

#[test]
fn mlp() {
    check("mlp");
}

#[test]
fn cnn() {
    check("cnn");
}

#[test]
fn residual() {
    check("residual");
}

fn check(name: &str) {
    let reference = Reference::read(name);
    reference.check::<f64>(1e-9);
    reference.check::<f32>(1e-4);
}

/// One folder of `interop`.
struct Reference {
    spec: ModelSpec,
    weights: Tensors,
    dump: BTreeMap<String, Array>,
}

impl Reference {
    fn read(name: &str) -> Self {
        let folder = files("interop").join(name);
        let tensors = |file: &str| if_data::read_tensors(&folder.join(file)).unwrap();
        Self {
            spec: toml::from_str(&std::fs::read_to_string(folder.join("model.toml")).unwrap()).unwrap(),
            weights: tensors("weights.safetensors").into_iter().map(|(k, a)| (k, a.to_f64())).collect(),
            dump: tensors("dump.safetensors"),
        }
    }

    fn values(&self, name: &str) -> Vec<f64> {
        self.dump[name].to_f64().into_iter().collect()
    }

    /// The tensors of one kind by name.
    fn part(&self, part: &str) -> Tensors {
        let own = |(name, array): (&String, &Array)| {
            Some((name.strip_prefix(part)?.strip_prefix('.')?.to_owned(), array.to_f64()))
        };
        self.dump.iter().filter_map(own).collect()
    }

    fn check<T: Real>(&self, tolerance: f64) {
        let (network, theta) = self.spec.load(&Cpu::<T>::new(), &self.weights).unwrap();
        let Array::F32(x) = &self.dump["x"] else { panic!("inputs are single") };
        let data = Dataset::new(HostArray::F32(x.clone()), self.values("y")).unwrap();
        let inputs = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &inputs, RiskSettings::mean(0.0)).unwrap();
        let compare = |name: &str, found: &[f64]| {
            let error = relative_error(found, &self.values(name));
            assert!(error < tolerance, "{name} in {} is off by {error:e}", T::NAME);
        };
        compare("logits", &network.example_outputs(&inputs, &theta));
        compare("losses", &network.example_losses(&inputs, &theta));
        let compare_all = |part: &str, found: &Block<Cpu<T>>| {
            let (found, expected) = (network.state(found), self.part(part));
            assert_eq!(expected.len(), network.tensors().len());
            for name in expected.keys() {
                compare(&format!("{part}.{name}"), &found[name].iter().copied().collect::<Vec<_>>());
            }
        };
        compare_all("gradient", &risk.gradient(&theta).1);
        let v = self.direction(&network);
        for (curvature, part) in [(Curvature::Hessian, "hessian"), (Curvature::GaussNewton, "ggn")] {
            let mut product = Block::zeros(network.backend(), network.layout(), 1);
            risk.operator(&theta, curvature, 0.0, usize::MAX).apply(&v, &mut product);
            compare_all(part, &product);
        }
    }

    fn direction<T: Real>(&self, network: &Network<Cpu<T>>) -> Block<Cpu<T>> {
        // Running statistics stay those of the network.
        let mut tensors = self.weights.clone();
        tensors.extend(self.part("direction"));
        network.parameters(&tensors).unwrap()
    }
}
