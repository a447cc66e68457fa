//! Numbers and sizes as they stand on the command line.

use if_models::QueryRank;
use serde::{Serialize, Serializer};

use crate::args::IndexName;

/// A finite number.
fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("expected a number".to_owned()),
    }
}

/// A number of at least 0.
pub fn non_negative(text: &str) -> Result<f64, String> {
    number(text)
        .and_then(|v| if v >= 0.0 { Ok(v) } else { Err("expected a number of at least 0".to_owned()) })
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("expected a number above 0".to_owned()) })
}

/// `--index`: a name, or why this program does not know it.
pub fn index_name(text: &str) -> Result<IndexName, String> {
    match text {
        "exact" => Ok(IndexName::Exact),
        #[cfg(feature = "usearch")]
        "usearch" => Ok(IndexName::Usearch),
        #[cfg(not(feature = "usearch"))]
        "usearch" => {
            Err("this program is built without usearch: rebuild it with --features usearch".to_owned())
        }
        _ => Err("expected exact or usearch".to_owned()),
    }
}

/// `--damping`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damping {
    /// From the mean eigenvalue.
    Auto,
    /// In units of the curvature.
    Number(f64),
}

impl Serialize for Damping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Number(value) => serializer.serialize_f64(*value),
        }
    }
}

/// `auto`, or a number of at least 0.
pub fn damping(text: &str) -> Result<Damping, String> {
    match text {
        "auto" => Ok(Damping::Auto),
        _ => match non_negative(text) {
            Ok(value) => Ok(Damping::Number(value)),
            Err(_) => Err("expected auto or a number of at least 0".to_owned()),
        },
    }
}

/// `8`, a rank, or `0.01`, an error.
pub fn query_rank(text: &str) -> Result<QueryRank, String> {
    match (text.parse::<usize>(), fraction(text)) {
        (Ok(rank), _) if rank > 0 => Ok(QueryRank::Rank(rank)),
        (_, Ok(error)) => Ok(QueryRank::Tolerance(error)),
        _ => Err("expected a rank of at least 1, or a relative error between 0 and 1".to_owned()),
    }
}

/// A number above 0 and below 1.
pub fn fraction(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| {
        if v > 0.0 && v < 1.0 { Ok(v) } else { Err("expected a fraction between 0 and 1".to_owned()) }
    })
}

/// A number from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| {
        if (0.0..=1.0).contains(&v) { Ok(v) } else { Err("expected a share from 0 to 1".to_owned()) }
    })
}

/// A whole number above 0.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("expected a whole number above 0".to_owned()),
    }
}

/// Subsets: over fewer a correlation says nothing.
pub fn subsets(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value >= 5 => Ok(value),
        _ => Err("expected a whole number of at least 5".to_owned()),
    }
}

/// A size of groups: a number of examples, or a fraction of all.
pub fn group_sizes(text: &str) -> Result<f64, String> {
    match (count(text), fraction(text)) {
        (Ok(size), _) => Ok(size as f64),
        (_, Ok(fraction)) => Ok(fraction),
        _ => Err("expected numbers of examples such as 100, or fractions such as 0.1".to_owned()),
    }
}

/// Repeats: each holds vectors of its own for every query.
pub fn repeats(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if (1..=1000).contains(&value) => Ok(value),
        _ => Err("expected a whole number from 1 to 1000".to_owned()),
    }
}

/// A number of threads; far more than there are processors would only wait for each other.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if (1..=1024).contains(&value) => Ok(value),
        _ => Err("expected a whole number from 1 to 1024".to_owned()),
    }
}

/// Bytes: `2GiB`, `500MB`, `1.5 GB`, or a plain number of them.
pub fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || "expected bytes, such as 2GiB, 500MB or 1000000".to_owned();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (value, unit) = (text[..unit_at].trim(), text[unit_at..].to_ascii_lowercase());
    let unit: f64 = match unit.as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        "tib" => 1024f64.powi(4),
        _ => return Err(wrong()),
    };
    let value = positive(value).map_err(|_| wrong())?;
    Ok((value * unit) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let sizes = ["2GiB", "500MB", "1 kB", "1.5MiB", "17", "17B", "1mib"].map(|text| bytes(text).unwrap());
        assert_eq!(sizes, [2 << 30, 500_000_000, 1000, 3 << 19, 17, 17, 1 << 20]);
        for text in ["", "GiB", "-1GiB", "0", "2 XB", "nanMB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_ranges() {
        assert_eq!((non_negative("0"), positive("1e-8")), (Ok(0.0), Ok(1e-8)));
        assert!(non_negative("-1").is_err() && non_negative("nan").is_err() && positive("0").is_err());
        assert!(fraction("1").is_err() && fraction("0.1").is_ok() && count("0").is_err());
    }
}
