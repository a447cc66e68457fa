//! Rules for the text of every file.

/// What ties a file to the place where it was written. Split, so that this file does not break its own rule.
const FORBIDDEN: [(&str, &str); 6] = [
    (concat!("/wo", "rk/"), "an absolute path of a workplace"),
    (concat!("index.crates", ".io"), "a package registry's host"),
    (concat!("static.crates", ".io"), "a package registry's host"),
    (concat!("pypi", ".org"), "a package registry's host"),
    (concat!("files.python", "hosted.org"), "a package registry's host"),
    (concat!("registry.npm", "js.org"), "a package registry's host"),
];

/// The only source of packages that a lock file may name.
const PUBLIC_INDEX: &str = concat!("registry+https://github.com/rust-lang/crates", ".io-index");

/// Checks the file `path`, relative to the root.
pub fn check(path: &str, content: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, line) in content.lines().enumerate() {
        let place = format!("{path}:{}", i + 1);
        for (word, what) in FORBIDDEN {
            if names(line, word) {
                problems.push(format!("{place}: names {what}"));
            }
        }
        if path.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains(PUBLIC_INDEX) {
            problems.push(format!("{place}: names a source that is not the public index"));
        }
    }
    problems
}

/// Whether `word` occurs, and not as the tail of something longer such as `home/work/`.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '-' || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workplaces_and_registries_are_found() {
        let path = format!("fine\nsee {}shared", FORBIDDEN[0].0);
        assert_eq!(check("README.md", &path), ["README.md:2: names an absolute path of a workplace"]);
        assert_eq!(check("a.toml", &format!("https://{}/x", FORBIDDEN[1].0)).len(), 1);
        assert!(check("a.md", &format!("at ho{}x", &FORBIDDEN[0].0.replacen('/', "me/", 1))).is_empty());
    }

    #[test]
    fn a_lock_file_names_the_public_index_only() {
        assert!(check("Cargo.lock", &format!("source = \"{PUBLIC_INDEX}\"")).is_empty());
        assert_eq!(check("Cargo.lock", "source = \"registry+https://mirror.example/index\"").len(), 1);
    }
}
