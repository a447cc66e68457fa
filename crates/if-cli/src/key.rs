//! What kept results depend on: a result is taken up again only under the key that it was begun with.

use std::collections::BTreeSet;

use if_data::checksum;
use serde_json::{Value, json};

use crate::args::Precision;
use crate::model::Kind;
use crate::source::Data;

/// What everything depends on that is computed for a model from training examples.
pub fn common(kind: &Kind, train: &Data, device: &str, precision: Precision) -> Value {
    json!({
        "program": env!("CARGO_PKG_VERSION"),
        "model": format!("{kind:?}"),
        "training set": of_examples(train),
        "device": device,
        "precision": precision,
    })
}

/// Of features and labels.
pub fn of_examples(data: &Data) -> String {
    checksum(data.set.features(), data.set.labels())
}

/// Longer values, such as checksums, tell a reader nothing.
const LONGEST: usize = 60;

/// The first field in which two keys differ, with both values where they are short.
pub fn difference(there: &Value, here: &Value) -> Option<String> {
    fn within(path: &str, there: &Value, here: &Value) -> Option<String> {
        if let (Value::Object(fields), Value::Object(others)) = (there, here) {
            // What only one of them has, such as a setting of another solver, comes last.
            let one_sided = |name: &String| there[name].is_null() || here[name].is_null();
            let names: BTreeSet<(bool, &String)> =
                fields.keys().chain(others.keys()).map(|name| (one_sided(name), name)).collect();
            return names
                .into_iter()
                .find_map(|(_, name)| within(&format!("{path}.{name}"), &there[name], &here[name]));
        }
        let path = path.trim_start_matches('.');
        let [old, new] = [there, here].map(Value::to_string);
        (there != here).then(|| match old.len().max(new.len()) {
            ..=LONGEST => format!("expected {path} {old}, found {new}"),
            _ => format!("expected the same {path}, found something else"),
        })
    }
    within("", there, here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let key = json!({ "a": 1, "b": { "c": [1], "rank": 8 }, "hash": "x".repeat(64) });
        assert_eq!(difference(&key, &key), None);
        let mut other = key.clone();
        other["hash"] = json!("y".repeat(64));
        let hash = "expected the same hash, found something else";
        assert_eq!(difference(&key, &other).unwrap(), hash);
        other["b"] = json!({ "c": [2] });
        assert_eq!(difference(&key, &other).unwrap(), "expected b.c [1], found [2]");
        other["b"] = json!({ "c": [1] });
        assert_eq!(difference(&key, &other).unwrap(), "expected b.rank 8, found null");
        assert_eq!(difference(&other, &key).unwrap(), "expected b.rank null, found 8");
        other["c"] = json!(2);
        other["hash"] = json!("z");
        assert!(difference(&key, &other).unwrap().starts_with("expected b.rank 8"), "in order");
        other["b"] = json!(null);
        assert_eq!(difference(&key, &other).unwrap(), hash);
    }
}
