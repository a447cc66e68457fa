//! Numbers for people.

/// Four significant digits; scientific where plain digits would be mostly zeros.
pub fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return "not finite".into();
    }
    // Of the rounded value: 9.9999 has as many digits before the point as 10.
    let scientific = format!("{value:.3e}");
    let exponent: i32 = scientific.rsplit('e').next().and_then(|e| e.parse().ok()).unwrap_or(0);
    let digits = if (-3..6).contains(&exponent) {
        format!("{value:.*}", (3 - exponent).max(0) as usize)
    } else {
        scientific
    };
    digits.replace('-', "−")
}

/// A duration: `0.42 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.2} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keeps_four_digits() {
        let cases = [
            (0.0, "0"),
            (0.99934, "0.9993"),
            (9.99999, "10.00"),
            (-12.3456, "−12.35"),
            (55000.0, "55000"),
            (1.5e-7, "1.500e−7"),
            (2e9, "2.000e9"),
            (f64::NAN, "not finite"),
            (f64::INFINITY, "not finite"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration(0.4), "0.40 s");
        assert_eq!(duration(9.97), "10 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 5 min");
    }
}
