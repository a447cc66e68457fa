//! Which package may depend on which, in any kind of dependency: development ones count too.

use serde_json::Value;

/// Every package of the project that others may be built from, with those it may be built from itself.
const LAYERS: [(&str, &[&str]); 8] = [
    ("if-linalg", &[]),
    ("if-models", &["if-linalg"]),
    ("if-data", &["if-linalg"]),
    ("if-methods", &["if-linalg", "if-models"]),
    ("if-plot", &[]),
    ("if-cli", &["if-linalg", "if-models", "if-data", "if-methods", "if-plot"]),
    ("if-experiments", &["if-linalg", "if-models", "if-data", "if-methods", "if-plot"]),
    // Light: it compiles in seconds.
    ("xtask", &[]),
];

/// Members at the top that test and time the layers, and may use them all.
const UNLAYERED: [&str; 2] = ["if-benches", "if-tests"];

/// Dependencies that only some packages may name.
const RESERVED: [(&str, &[&str]); 4] = [
    ("cudarc", &["if-linalg"]),
    ("clap", &["if-cli", "if-experiments"]),
    ("indicatif", &["if-cli", "if-experiments"]),
    ("anyhow", &["if-cli", "if-experiments", "if-benches", "if-tests", "xtask"]),
];

/// Checks the output of `cargo metadata --no-deps`.
pub fn check(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    if packages.is_empty() {
        return vec!["cargo metadata names no package".into()];
    }
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let allowed = LAYERS.iter().find(|(layer, _)| *layer == name).map(|(_, below)| *below);
    if allowed.is_none() && !UNLAYERED.contains(&name) {
        return vec![format!("{name}: has no place among the layers (xtask/src/tidy/layers.rs)")];
    }
    let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    dependencies
        .iter()
        .filter_map(|dependency| {
            let on = dependency["name"].as_str().unwrap_or_default();
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let forbidden = forbidden_layer(allowed, on) || is_reserved(name, on);
            forbidden.then(|| format!("{name}: must not depend on {on} ({kind} dependency)"))
        })
        .collect()
}

fn forbidden_layer(allowed: Option<&[&str]>, on: &str) -> bool {
    on.starts_with("if-") && allowed.is_some_and(|below| !below.contains(&on))
}

fn is_reserved(name: &str, on: &str) -> bool {
    RESERVED.iter().any(|(reserved, packages)| *reserved == on && !packages.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn depends(name: &str, on: &str, kind: Option<&str>) -> Vec<String> {
        check(&json!({"packages": [{"name": name, "dependencies": [{"name": on, "kind": kind}]}]}))
    }

    #[test]
    fn downward_is_allowed() {
        for (name, on) in [("if-methods", "if-models"), ("if-cli", "if-plot"), ("if-tests", "if-cli")] {
            assert!(depends(name, on, None).is_empty(), "{name} on {on}");
        }
    }

    #[test]
    fn upward_and_sideways_are_not() {
        let forbidden = [
            ("if-linalg", "if-models"),
            ("if-models", "if-data"),
            ("if-data", "if-models"),
            ("if-methods", "if-data"),
            ("if-cli", "if-experiments"),
            ("if-experiments", "if-cli"),
            ("if-plot", "if-linalg"),
            ("if-methods", "if-plot"),
            ("xtask", "if-linalg"),
        ];
        for (name, on) in forbidden {
            assert_eq!(depends(name, on, None).len(), 1, "{name} on {on}");
        }
        let message = depends("if-linalg", "if-models", Some("dev"));
        assert_eq!(message, ["if-linalg: must not depend on if-models (dev dependency)"]);
    }

    #[test]
    fn reserved_dependencies() {
        for (name, on) in [("if-models", "cudarc"), ("if-methods", "clap"), ("if-data", "anyhow")] {
            assert_eq!(depends(name, on, None).len(), 1, "{name} on {on}");
        }
        assert!(depends("if-linalg", "cudarc", None).is_empty());
        assert!(depends("xtask", "anyhow", None).is_empty());
    }

    #[test]
    fn an_unknown_package_and_empty_metadata_are_found() {
        assert_eq!(depends("if-new", "serde", None).len(), 1);
        assert_eq!(check(&json!({})).len(), 1);
    }
}
