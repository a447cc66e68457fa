//! The examples of README.md: each is a file of its own, compiled and run here.

mod attribute {
    include!("readme/attribute.rs");

    #[test]
    fn runs() {
        main().unwrap();
    }
}

mod layer {
    include!("readme/layer.rs");
}

#[test]
fn the_readme_shows_these_files() {
    let readme = include_str!("../../README.md");
    for example in [include_str!("readme/attribute.rs"), include_str!("readme/layer.rs")] {
        assert!(readme.contains(&format!("```rust\n{example}```")), "README.md differs from:\n{example}");
    }
}
