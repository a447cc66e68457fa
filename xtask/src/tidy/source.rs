//! Rules for Rust source: `unsafe` in one crate and justified, silent libraries, short files.

use super::blank::{comments_and_literals, is_identifier, test_items};

/// The only crate with `unsafe`.
const UNSAFE_CRATE: &str = "crates/if-linalg/";
/// Crates that never print, exit or read the environment.
const LIBRARIES: [&str; 5] = [
    "crates/if-linalg/src/",
    "crates/if-models/src/",
    "crates/if-data/src/",
    "crates/if-methods/src/",
    "crates/if-plot/src/",
];
/// What the terminal and the environment are reached by.
const OUTSIDE: [&str; 9] = [
    "println!",
    "print!",
    "eprintln!",
    "eprint!",
    "dbg!",
    "process::exit",
    "process::abort",
    "env::var",
    "env::args",
];
/// A `SAFETY:` comment ends at most as many lines above its block.
const SAFETY_DISTANCE: usize = 6;
const LONGEST_FILE: usize = 600;

/// Checks the source file `path`, relative to the root.
pub fn check(path: &str, source: &str) -> Vec<String> {
    let code = comments_and_literals(source);
    let mut problems = check_unsafe(path, source, &code);
    if LIBRARIES.iter().any(|library| path.starts_with(library)) && !is_test_file(path) {
        problems.extend(check_silence(path, &test_items(&code)));
    }
    let lines = source.lines().count();
    if lines > LONGEST_FILE && (path.starts_with("src/") || path.contains("/src/")) {
        problems.push(format!("{path}: has {lines} lines, more than {LONGEST_FILE}"));
    }
    problems
}

fn check_unsafe(path: &str, source: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut problems = Vec::new();
    for at in words(code, "unsafe") {
        let line = code[..at].matches('\n').count();
        let place = format!("{path}:{}", line + 1);
        if !path.starts_with(UNSAFE_CRATE) {
            problems.push(format!("{place}: unsafe outside {UNSAFE_CRATE}"));
        } else if needs_reason(&code[at + "unsafe".len()..]) {
            let above = &lines[line.saturating_sub(SAFETY_DISTANCE)..=line];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                problems.push(format!("{place}: unsafe without a SAFETY: comment"));
            }
        }
    }
    problems
}

/// Blocks and implementations claim something; `unsafe fn` hands the claim on to its callers.
fn needs_reason(after: &str) -> bool {
    let after = after.trim_start();
    after.starts_with('{') || after.starts_with("impl")
}

fn check_silence(path: &str, code: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for word in OUTSIDE {
        for at in words(code, word.trim_end_matches('!')) {
            if code[at..].starts_with(word) {
                let line = code[..at].matches('\n').count() + 1;
                problems.push(format!("{path}:{line}: {word} in a library"));
            }
        }
    }
    problems
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Where `word` stands as a word of its own; its end may go on, as `env::var` does in `env::var_os`.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let open_end = word.contains("::");
        !before.is_some_and(is_identifier) && (open_end || !after.is_some_and(is_identifier))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINALG: &str = "crates/if-linalg/src/lib.rs";
    const MODELS: &str = "crates/if-models/src/lib.rs";

    #[test]
    fn unsafe_stays_in_one_crate() {
        assert_eq!(
            check(MODELS, "x;\nunsafe fn f() {}"),
            [format!("{MODELS}:2: unsafe outside {UNSAFE_CRATE}")]
        );
        assert_eq!(check("tests/tests/a.rs", "unsafe { f() }").len(), 1);
        assert!(check(MODELS, "#![deny(unsafe_code)] // unsafe\nlet a = \"unsafe\";").is_empty());
    }

    #[test]
    fn unsafe_blocks_carry_their_reason() {
        assert_eq!(
            check(LINALG, "unsafe { f() }"),
            [format!("{LINALG}:1: unsafe without a SAFETY: comment")]
        );
        assert_eq!(check(LINALG, "unsafe impl Send for A {}").len(), 1);
        assert!(check(LINALG, "// SAFETY: checked above.\nunsafe { f() }").is_empty());
        assert!(check(LINALG, "unsafe fn f() {}").is_empty());
        let far = format!("// SAFETY: too far.\n{}unsafe {{ f() }}", "x;\n".repeat(SAFETY_DISTANCE));
        assert_eq!(check(LINALG, &far).len(), 1);
    }

    #[test]
    fn libraries_are_silent() {
        assert_eq!(check(MODELS, "\nprintln!(\"\");"), [format!("{MODELS}:2: println! in a library")]);
        for line in [
            "eprint!(x);",
            "dbg!(x);",
            "std::process::exit(1);",
            "std::env::var_os(x);",
            "use std::env::vars;",
        ] {
            assert_eq!(check(MODELS, line).len(), 1, "{line}");
        }
        assert!(check("crates/if-cli/src/main.rs", "println!();").is_empty());
        assert!(check(MODELS, "blueprint!(); env!(\"X\"); // println!").is_empty());
        assert!(check(MODELS, "#[cfg(test)]\nmod tests { fn f() { println!(); } }").is_empty());
        assert!(check("crates/if-models/src/tests.rs", "println!();").is_empty());
    }

    #[test]
    fn long_files_are_found() {
        assert!(check(MODELS, &"\n".repeat(LONGEST_FILE)).is_empty());
        assert_eq!(check(MODELS, &"\n".repeat(LONGEST_FILE + 1)).len(), 1);
    }
}
