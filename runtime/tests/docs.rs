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

/// Targets of links within the repository: a file, nothing for the same one, and a heading in it.
fn links(prose: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = targets.filter(|target| !target.contains("://"));
    inside
        .map(|target| target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading))))
}

/// The headings of a document as links name them: letters, digits and hyphens, in lower case.
fn headings(document: &str) -> Vec<String> {
    let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
    let slug =
        |text: &str| text.to_lowercase().chars().filter(|&c| kept(c)).collect::<String>().replace(' ', "-");
    let lines = document.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| slug(line.trim_start_matches('#').trim())).collect()
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
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let tops =
        ["README.md", "CHANGELOG.md", "ffi/README.md", "wasm/npm/README.md"].map(|name| root().join(name));
    for page in pages.chain(tops) {
        let document = prose(&std::fs::read_to_string(&page).unwrap());
        let broken: Vec<_> = links(&document).filter(|&link| !leads_somewhere(&page, link)).collect();
        assert!(broken.is_empty(), "{} has broken links: {broken:?}", page.display());
    }
}

fn leads_somewhere(page: &Path, (file, heading): (&str, Option<&str>)) -> bool {
    let target = if file.is_empty() { page.to_path_buf() } else { page.with_file_name(file) };
    let found = |heading: &str| {
        let document = prose(&std::fs::read_to_string(&target).unwrap_or_default());
        headings(&document).iter().any(|name| name == heading)
    };
    target.exists() && heading.is_none_or(found)
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
    let found: Vec<_> =
        links("[a](#at-a-glance), [b](docs/training.md#defaults) [c](https://d.e#f)").collect();
    assert_eq!(found, [("", Some("at-a-glance")), ("docs/training.md", Some("defaults"))]);
    assert_eq!(headings("## `fit`, and: What else?"), ["fit-and-what-else"]);
    let page = root().join("README.md");
    let leads =
        [("docs/training.md", Some("defaults")), ("docs/training.md", Some("default")), ("no.md", None)];
    assert_eq!(leads.map(|link| leads_somewhere(&page, link)), [true, false, false]);
}
