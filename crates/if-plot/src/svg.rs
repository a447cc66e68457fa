//! The SVG document: escaped text, wrapped lines, one width for all plots.

use std::fmt::Write;

/// Width of every plot in its own units; a screen of 360 pixels shows it at three quarters.
pub const WIDTH: f64 = 480.0;
/// Size of ordinary text.
pub const FONT: f64 = 14.0;
/// Distance of two lines of text.
pub const LINE: f64 = 18.0;
/// Left of the headings.
pub const MARGIN: f64 = 2.0;
/// Text that is not data.
pub const GREY: &str = "#555";
/// A generous mean width of a character, in units of the font size.
const CHARACTER: f64 = 0.56;

/// Where a text's position lies in it.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG document that grows.
#[derive(Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// Adds an element as it stands: `element` holds no text of a user.
    pub fn raw(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// Adds one line of text in `colour`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.raw(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#
        ));
    }

    /// Adds what `other` holds, `down` below its own place.
    pub fn append(&mut self, other: Self, down: f64) {
        self.raw(format_args!(r#"<g transform="translate(0 {down:.1})">"#));
        self.body.push_str(&other.body);
        self.raw(format_args!("</g>"));
    }

    /// Adds the title at the top, over as many lines as it needs, and returns where it ends.
    pub fn title(&mut self, title: &str) -> f64 {
        let mut y = 4.0;
        self.raw(format_args!(r#"<g font-weight="600">"#));
        for line in wrap(title, WIDTH - 2.0 * MARGIN) {
            y += LINE;
            self.text((MARGIN, y), Anchor::Start, "#111", &line);
        }
        self.raw(format_args!("</g>"));
        y + 6.0
    }

    /// The whole document, `height` high.
    pub fn finish(self, title: &str, height: f64) -> String {
        let (label, body) = (escape(title), self.body);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="100%" role="img" aria-label="{label}" font-family="system-ui, sans-serif" font-size="{FONT}">
<rect width="{WIDTH}" height="{height:.0}" fill="#fff"/>
{body}</svg>
"##
        )
    }
}

/// `text` with the characters replaced that mean something in XML; control characters, which XML
/// forbids, become spaces.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The width that `text` takes, roughly.
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * FONT * CHARACTER
}

/// Breaks `text` at newlines and between words so that each line fits into `width`; a longer word
/// keeps a line to itself.
pub fn wrap(text: &str, width: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && text_width(&line) + text_width(word) + text_width(" ") > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_everywhere() {
        let mut svg = Svg::default();
        svg.title("<script>");
        svg.text((0.0, 0.0), Anchor::End, GREY, "a & 'b'\u{0}");
        let document = svg.finish("\"quoted\"", 10.0);
        assert!(document.contains("&lt;script&gt;") && !document.contains("<script>"));
        assert!(document.contains("a &amp; &#39;b&#39; <"));
        assert!(document.contains(r#"aria-label="&quot;quoted&quot;""#));
    }

    #[test]
    fn wrapping_keeps_every_word() {
        let text =
            "predicted against actual change of the loss\nsecond unbreakablylongwordthatdoesnotfit end";
        let lines = wrap(text, 120.0);
        let joined: Vec<&str> = lines.iter().flat_map(|line| line.split(' ')).collect();
        assert_eq!(joined, text.split_whitespace().collect::<Vec<_>>());
        assert!(lines.iter().all(|line| text_width(line) <= 120.0 || !line.contains(' ')), "{lines:?}");
        assert!(wrap("", 100.0).is_empty());
    }
}
