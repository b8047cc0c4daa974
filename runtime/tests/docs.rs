//! The documents name only files that exist, and show only code that is compiled.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// A document without its fenced blocks.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2);
    outside.collect()
}

/// What stands between single backticks.
fn quoted(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// Targets of links within the repository.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

/// `a/b`, `a.rs` and the like; no commands, types, or files of a run (which have no slash).
fn looks_like_a_path(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let source = [".rs", ".md", ".py"].iter().any(|end| text.ends_with(end));
    text.chars().all(letters) && (source || text.contains('/')) && !text.starts_with(['.', '/'])
}

/// Quoted paths that are not there. A path begins at the root or, as in the lists of a folder's files, at the folder
/// (`a/b/`) that was named last.
fn missing(document: &str) -> Vec<String> {
    let root = root();
    let mut folder = root.clone();
    let mut missing = Vec::new();
    for path in quoted(document).filter(|text| looks_like_a_path(text)) {
        let found = [root.join(path), folder.join(path)].into_iter().find(|path| path.exists());
        match found {
            Some(found) if path.ends_with('/') => folder = found,
            Some(_) => {}
            None if path.starts_with("target/") => {} // is built
            None => missing.push(path.to_string()),
        }
    }
    missing
}

#[test]
fn every_path_in_the_documents_exists() {
    for name in ["README.md", "SECURITY.md", "CHANGELOG.md", "docs/architecture.md", "docs/formats.md"] {
        let document = prose(&read(name));
        assert!(quoted(&document).any(looks_like_a_path), "{name} names files");
        assert_eq!(missing(&document), [""; 0], "{name} names files that do not exist");
    }
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    for name in ["README.md", "docs/architecture.md", "docs/formats.md"] {
        let folder = root().join(name).parent().unwrap().to_path_buf();
        let document = prose(&read(name));
        let broken: Vec<&str> = links(&document).filter(|target| !folder.join(target).exists()).collect();
        assert_eq!(broken, [""; 0], "{name} has broken links");
    }
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let readme = read("README.md");
    let shown = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let example = read("runtime/examples/generate.rs");
    let code = example.split_once("\n\n").unwrap().1; // after its first line of documentation
    assert_eq!(shown, code, "README.md and runtime/examples/generate.rs differ");
}

#[test]
fn a_wrong_path_is_found() {
    let document =
        "`runtime/src/` holds `model.rs` and `nothing.rs`; see `runtim/src/model.rs`, `Config`, `--data`";
    assert_eq!(missing(document), ["nothing.rs", "runtim/src/model.rs"]);
}
