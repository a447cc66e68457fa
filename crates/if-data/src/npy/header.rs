//! The header of an `.npy` file: a Python dictionary in text.

use std::fmt::Write as _;

/// What the dictionary says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    /// NumPy's name of the element type, such as `<f8`.
    pub descr: String,
    /// Whether the numbers are in column-major order.
    pub fortran: bool,
    /// Length of every axis.
    pub shape: Vec<u64>,
}

impl Header {
    /// Parses `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }`; `None` if it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cursor = Cursor(text);
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        cursor.expect('{')?;
        while !cursor.eat('}') {
            let key = cursor.string()?;
            cursor.expect(':')?;
            match key {
                "descr" => descr = Some(cursor.string()?.to_owned()),
                "fortran_order" => fortran = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => return None,
            }
            if !cursor.eat(',') {
                cursor.expect('}')?;
                break;
            }
        }
        cursor.at_end().then_some(Self { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

/// The bytes before the data of a row-major array: magic, version 1.0, dictionary, padded to 64.
pub(super) fn encode(descr: &str, shape: &[usize]) -> Vec<u8> {
    let mut axes = String::new();
    for length in shape {
        // Writing to a String cannot fail.
        let _ = write!(axes, "{length},");
    }
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    let fixed = super::read::MAGIC.len() + 2 + 2;
    let total = (fixed + dictionary.len() + 1).next_multiple_of(64);
    let mut bytes = super::read::MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(u16::try_from(total - fixed).expect("a few axes make a short header").to_le_bytes());
    bytes.extend(dictionary.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The text that is still to be parsed.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn eat(&mut self, token: char) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> Option<()> {
        self.eat(token).then_some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = if self.eat('\'') { '\'' } else { self.expect('"').map(|()| '"')? };
        let (text, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        Some(text)
    }

    /// The letters and digits up to anything else.
    fn word(&mut self) -> &'a str {
        self.0 = self.0.trim_start();
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.word() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        let mut lengths = Vec::new();
        self.expect('(')?;
        while !self.eat(')') {
            lengths.push(self.word().parse().ok()?);
            if !self.eat(',') {
                self.expect(')')?;
                break;
            }
        }
        Some(lengths)
    }

    fn at_end(&self) -> bool {
        self.0.trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_numpy_writes() {
        let header = Header::parse("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }   \n");
        let expected = Header { descr: "<f8".into(), fortran: false, shape: vec![3, 4] };
        assert_eq!(header, Some(expected));
        let other = Header::parse(r#"{"shape":(5,),"fortran_order":True,"descr":"|u1"}"#);
        assert_eq!(other, Some(Header { descr: "|u1".into(), fortran: true, shape: vec![5] }));
        let scalar = Header::parse("{'descr': '<i8', 'fortran_order': False, 'shape': (), }");
        assert_eq!(scalar.unwrap().shape, Vec::<u64>::new());
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f8'}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
            "{'descr': '<f8', 'fortran_order': 0, 'shape': (3,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3 4), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), } and more",
            "{'descr': '<f8, 'fortran_order': False, 'shape': (3,), }",
        ] {
            assert_eq!(Header::parse(text), None, "{text}");
        }
    }

    #[test]
    fn encodes_what_it_parses() {
        for shape in [vec![], vec![7], vec![55_000, 28, 28]] {
            let bytes = encode("<f4", &shape);
            assert_eq!(bytes.len() % 64, 0);
            let header = Header::parse(std::str::from_utf8(&bytes[10..]).unwrap()).unwrap();
            assert_eq!(header.shape, shape.iter().map(|&l| l as u64).collect::<Vec<_>>());
        }
    }
}
