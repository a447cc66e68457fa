//! Axes with round ticks, and the frame that two of them span.

use super::svg::{Anchor, FONT, GREY, LINE, MARGIN, Svg, WIDTH, wrap};

/// Magnitudes above are treated as infinite and those below as zero, so that no span overflows.
const HUGE: f64 = 1e300;
const TINY: f64 = 1e-300;
/// About as many steps from end to end of an axis.
const STEPS: f64 = 5.0;
/// Room for tick labels, and for half a label at the right end.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 20.0;

/// Whether a value has a place on an axis.
pub fn plottable(value: f64) -> bool {
    value.abs() <= HUGE
}

/// A range whose ends are round, with ticks at round numbers.
pub struct Axis {
    pub low: f64,
    pub high: f64,
    step: f64,
}

impl Axis {
    /// The smallest round range around the plottable `values`; 0 to 1 where there are none.
    pub fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|&value| plottable(value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self { low: 0.0, high: 1.0, step: 0.2 };
        }
        let magnitude = low.abs().max(high.abs());
        // Equal but for rounding: widen, so that the points lie in the middle.
        let pad = match magnitude {
            m if m < TINY => 1.0,
            m if high - low < 1e-10 * m => 0.1 * m,
            _ => 0.0,
        };
        let (low, high) = (low - pad, high + pad);
        let step = round_step((high - low) / STEPS);
        // A hair of tolerance: an end that is a tick but for rounding gets no further step.
        Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.step).round();
        let count = ((self.high - self.low) / self.step).round() as usize;
        let step = self.step;
        (0..=count).map(move |i| (first + i as f64) * step)
    }

    /// The power of ten that is taken out of the tick labels: 0 unless they would be long.
    fn exponent(&self) -> i32 {
        let exponent = self.low.abs().max(self.high.abs()).log10().floor() as i32;
        if (-2..5).contains(&exponent) { 0 } else { exponent }
    }

    fn tick_label(&self, tick: f64) -> String {
        let unit = 10f64.powi(self.exponent());
        // The tolerance: log10(0.001) may fall a hair short of -3.
        let decimals = (-(self.step / unit).log10() - 1e-9).ceil().max(0.0) as usize;
        format!("{:.*}", decimals, tick / unit).replace('-', "−")
    }

    /// `label` with the power of ten that the tick labels leave out.
    fn label(&self, label: &str) -> String {
        match self.exponent() {
            0 => label.to_string(),
            exponent => format!("{label} ({})", power_of_ten(exponent)),
        }
    }

    fn fraction(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// `×10⁻⁵` for -5.
fn power_of_ten(exponent: i32) -> String {
    let superscript = |c: char| match c.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    };
    let raised: String = exponent.to_string().chars().map(superscript).collect();
    format!("×10{raised}")
}

/// The nearest of 1, 2, 5, 10 times a power of ten.
fn round_step(about: f64) -> f64 {
    let power = 10f64.powf(about.log10().floor());
    let round = match about / power {
        ..1.5 => 1.0,
        ..3.0 => 2.0,
        ..7.0 => 5.0,
        _ => 10.0,
    };
    round * power
}

/// The plotting area: two axes and where they lie in the document.
pub struct Frame {
    pub x: Axis,
    pub y: Axis,
    top: f64,
    height: f64,
}

impl Frame {
    /// A frame below `top`, of full width; `height` is that of the plotting area, square if `None`.
    pub fn draw(svg: &mut Svg, x: Axis, y: Axis, labels: [&str; 2], top: f64, height: Option<f64>) -> Self {
        let y_label = y.label(labels[1]);
        let mut top = top;
        // Above the axis and upright: a turned label is hard to read on a phone.
        for line in wrap(&y_label, WIDTH - 2.0 * MARGIN) {
            top += LINE;
            svg.text((MARGIN, top - 4.0), Anchor::Start, GREY, &line);
        }
        let frame = Self { x, y, top: top + 8.0, height: height.unwrap_or(WIDTH - LEFT - RIGHT) };
        frame.draw_ticks(svg);
        frame
    }

    /// The position of a data point.
    pub fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let width = WIDTH - LEFT - RIGHT;
        (LEFT + width * self.x.fraction(x), self.bottom() - self.height * self.y.fraction(y))
    }

    /// The corner opposite to where the diagonal runs.
    pub fn top_left(&self) -> (f64, f64) {
        (LEFT, self.top)
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    fn draw_ticks(&self, svg: &mut Svg) {
        let (right, bottom) = (WIDTH - RIGHT, self.bottom());
        for tick in self.y.ticks() {
            let (_, y) = self.place((self.x.low, tick));
            svg.raw(format_args!(r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#e4e4e4"/>"##));
            svg.text((LEFT - 7.0, y + 0.35 * FONT), Anchor::End, GREY, &self.y.tick_label(tick));
        }
        for tick in self.x.ticks() {
            let (x, _) = self.place((tick, self.y.low));
            svg.raw(format_args!(r##"<path d="M{x:.1} {:.1}V{bottom:.1}" stroke="#e4e4e4"/>"##, self.top));
            svg.text((x, bottom + LINE), Anchor::Middle, GREY, &self.x.tick_label(tick));
        }
        svg.raw(format_args!(
            r##"<path d="M{LEFT} {:.1}V{bottom:.1}H{right}" stroke="#888" fill="none"/>"##,
            self.top
        ));
    }

    /// Writes the label of the x axis and returns the height of the document.
    pub fn draw_x_label(&self, svg: &mut Svg, label: &str) -> f64 {
        let mut y = self.bottom() + LINE + 4.0;
        for line in wrap(&self.x.label(label), WIDTH - LEFT - RIGHT) {
            y += LINE;
            svg.text(((LEFT + WIDTH - RIGHT) / 2.0, y), Anchor::Middle, GREY, &line);
        }
        y + 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64]) -> Vec<String> {
        let axis = Axis::around(values.iter().copied());
        axis.ticks().map(|tick| axis.tick_label(tick)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&[0.0, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[-0.03, 0.021]), ["−0.03", "−0.02", "−0.01", "0.00", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(&[3.0, 97.0]), ["0", "20", "40", "60", "80", "100"]);
    }

    #[test]
    fn long_labels_give_their_power_of_ten_to_the_axis() {
        let axis = Axis::around([-1.2e-5, 4.1e-5].into_iter());
        assert_eq!(axis.label("loss"), "loss (×10⁻⁵)");
        assert_eq!(axis.tick_label(2e-5), "2");
        assert_eq!(power_of_ten(-12), "×10⁻¹²");
        assert_eq!(labels(&[0.0, 5.5e6]), ["0", "1", "2", "3", "4", "5", "6"]);
    }

    #[test]
    fn odd_data_give_a_sane_axis() {
        let tiny = f64::MIN_POSITIVE / 2.0;
        let cases: [&[f64]; 9] = [
            &[],
            &[f64::NAN, f64::INFINITY],
            &[0.0],
            &[7.5, 7.5],
            &[-1e-9],
            &[tiny],
            &[1e16, 1e16 + 2.0],
            &[f64::MAX, -f64::MAX],
            &[-1e300, 1e300],
        ];
        for values in cases {
            let axis = Axis::around(values.iter().copied());
            let count = axis.ticks().count();
            assert!((3..=10).contains(&count), "{values:?} has {count} ticks");
            assert!(axis.low < axis.high, "{values:?}");
            for &value in values.iter().filter(|&&value| plottable(value)) {
                let fraction = axis.fraction(value);
                assert!((-1e-6..=1.0 + 1e-6).contains(&fraction), "{values:?}: {fraction}");
            }
        }
    }
}
