//! Sizes of memory, as people read them.

use std::fmt;

/// A number of bytes, shown in the largest binary unit that leaves at least 1 of it: `1.5 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(
    /// How many.
    pub usize,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        if value < 1024.0 {
            return write!(f, "{value} B");
        }
        for unit in ["KiB", "MiB", "GiB"] {
            value /= 1024.0;
            if value < 1024.0 {
                return write!(f, "{value:.1} {unit}");
            }
        }
        write!(f, "{:.1} TiB", value / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn sizes_have_units() {
        let shown = [17, 1023, 3 << 19, 2 << 30, 412 << 40].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["17 B", "1023 B", "1.5 MiB", "2.0 GiB", "412.0 TiB"]);
    }
}
