//! `model.toml`, and what is said about one that cannot be used.

use std::path::Path;

use if_linalg::Cpu;
use if_models::ModelSpec;

use crate::error::Failure;

/// Reads the description of a network, whose layers fit together.
pub fn read_spec(path: &Path) -> Result<ModelSpec, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("{shown}: cannot read: {error}")))?;
    let spec: ModelSpec = toml::from_str(&text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        // An error within a layer knows its layer; toml takes it to be on the line of the first one.
        let place = match error.span() {
            Some(span) if !message.starts_with("layer ") => {
                format!("line {}: ", 1 + text[..span.start].matches('\n').count())
            }
            _ => String::new(),
        };
        let (message, hint) = in_words(&message);
        let failure = Failure::input(format!("{shown}: {place}{message}"));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    // Layers are checked here, where an error can name this file.
    spec.build(&Cpu::<f64>::new()).map_err(|error| Failure::input(format!("{shown}: {error}")))?;
    Ok(spec)
}

/// serde's "unknown variant `lstm`, expected one of `dense`, `conv2d`" in words of a network, with a hint
/// for PyTorch's names.
fn in_words(message: &str) -> (String, Option<String>) {
    let Some((place, list)) = message.split_once("unknown variant ") else {
        let hint = message.ends_with("expected struct variant").then(|| {
            "these losses have a setting: loss = { label-smoothing = { smoothing = 0.1 } }, \
             loss = { smooth-hinge = { temperature = 0.1 } }"
                .to_owned()
        });
        let message =
            message.replace("unit variant, expected struct variant", "a name, expected a setting with it");
        return (message.replace('`', "\"").replace("expected usize", "expected a whole number"), hint);
    };
    let mut names = list.split('`').skip(1).step_by(2);
    let unknown = names.next().unwrap_or_default();
    // Measurements are losses of queries, not of a network.
    let known: Vec<&str> = names.filter(|name| !["logit", "margin"].contains(name)).collect();
    let what = if known.contains(&"dense") { "layer type" } else { "value" };
    let here = match stem(unknown).as_str() {
        "linear" => Some("dense"),
        "adaptiveavgpool" => Some("global_avg_pool"),
        stem_of_unknown => known.iter().copied().find(|name| stem(name) == stem_of_unknown),
    };
    let hint = here.filter(|name| known.contains(name));
    (
        format!("{place}unknown {what} {unknown:?}, supported: {}", known.join(", ")),
        hint.map(|name| format!("{unknown} is called {name} here")),
    )
}

/// What PyTorch's name of a layer and ours have in common: `BatchNorm2d` and `batch_norm`.
fn stem(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let stem = letters.strip_suffix("1d").or_else(|| letters.strip_suffix("2d"));
    stem.unwrap_or(&letters).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pytorch_are_translated() {
        let hint = |name: &str| {
            let known =
                "`dense`, `conv2d`, `max_pool`, `global_avg_pool`, `batch_norm`, `leaky_relu`, `dropout`";
            in_words(&format!("layer 0: unknown variant `{name}`, expected one of {known}")).1
        };
        for (name, ours) in [
            ("linear", "dense"),
            ("Linear", "dense"),
            ("Conv2d", "conv2d"),
            ("maxpool2d", "max_pool"),
            ("AdaptiveAvgPool2d", "global_avg_pool"),
            ("batch_norm2d", "batch_norm"),
            ("BatchNorm1d", "batch_norm"),
            ("LeakyReLU", "leaky_relu"),
        ] {
            assert_eq!(hint(name).unwrap(), format!("{name} is called {ours} here"));
        }
        assert_eq!(hint("lstm"), None);
    }
}
