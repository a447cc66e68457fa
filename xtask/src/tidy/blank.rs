//! Rust source with everything blanked that is not code: comments, strings, test modules. Lines stay
//! where they are, so that what is found can be named by its line.

/// `source` with spaces in the place of comments and of the contents of literals.
pub fn comments_and_literals(source: &str) -> String {
    let mut rest = source;
    let mut code = String::with_capacity(source.len());
    while let Some(c) = rest.chars().next() {
        let after_identifier = code.chars().next_back().is_some_and(is_identifier);
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, '"'),
            'r' if !after_identifier || code.ends_with('b') => raw_string(rest).unwrap_or(0),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (skipped, next) = rest.split_at(length);
            code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = next;
        }
    }
    code
}

/// `code`, already without comments and literals, with the items under `#[cfg(test)]` blanked.
pub fn test_items(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let Some(start) = code.find(MARK) else { return code.to_string() };
    let length = item_length(&code[start + MARK.len()..]);
    let (item, rest) = code[start..].split_at(MARK.len() + length);
    let lines = "\n".repeat(item.matches('\n').count());
    format!("{}{lines}{}", &code[..start], test_items(rest))
}

pub fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Up to the semicolon or the closing brace that ends the item.
fn item_length(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ';' || c == '}') {
            return at + 1;
        }
    }
    code.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a literal that starts and ends with `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `r"..."` or `r#"..."#`; not of a raw identifier.
fn raw_string(text: &str) -> Option<usize> {
    let body = text[1..].trim_start_matches('#');
    let hashes = text.len() - 1 - body.len();
    let content = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - content.len();
    Some(content.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// Length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut after = text.chars().skip(1);
    let (first, second) = (after.next()?, after.next()?);
    (first == '\\' || second == '\'').then(|| quoted(text, '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let cases = [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("un\"safe", x)"#, "f(          , x)"),
            (r###"f(r#"a"b"#, x)"###, "f(        , x)"),
            ("r#type + br\"x\"", "r#type + b    "),
            ("'\"' + '\\'' + c", "    +      + c"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ];
        for (source, expected) in cases {
            assert_eq!(comments_and_literals(source), expected);
        }
    }

    #[test]
    fn test_items_keep_their_lines() {
        let code = "a;\n#[cfg(test)]\nmod tests {\n fn f() { x(); }\n}\nb;\n#[cfg(test)]\nuse c;\nd";
        assert_eq!(test_items(code), "a;\n\n\n\n\nb;\n\n\nd");
    }

    #[test]
    fn unfinished_source_is_no_error() {
        for source in ["\"abc", "/* /*", "r#\"abc", "'\\", "'", "#[cfg(test)]", "é // é"] {
            test_items(&comments_and_literals(source));
        }
    }
}
