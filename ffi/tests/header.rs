//! The committed header is what cbindgen makes of the source, and the library exports what the header declares.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(path("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let sources = ["version", "status", "log", "pointers", "options", "model", "chat", "session", "text"];
    let with_sources = sources.iter().fold(builder, |b, name| b.with_src(path(&format!("src/{name}.rs"))));
    let mut header = Vec::new();
    with_sources.generate().unwrap().write(&mut header);
    // What Rust promises to itself is said at the head of the header, in C's words.
    let text = String::from_utf8(header).unwrap();
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let safety = line == " *" && lines.peek() == Some(&" * # Safety");
        if safety {
            while lines.next_if(|next| *next != " */").is_some() {}
        } else {
            kept += &format!("{line}\n");
        }
    }
    kept
}

#[test]
fn the_header_is_what_the_source_says() {
    let (file, header) = (path("include/libbonsai.h"), generated());
    if std::env::var_os("BONSAI_WRITE_HEADER").is_some() {
        std::fs::write(&file, &header).unwrap();
    }
    let hint = "run: BONSAI_WRITE_HEADER=1 cargo test --release -p bonsai-ffi --test header";
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == header,
        "{} is out of date; {hint}",
        file.display()
    );
}

/// The function that a line declares: it begins with the type that is returned.
fn declared_name(line: &str) -> Option<&str> {
    let line =
        Some(line).filter(|line| line.starts_with(char::is_alphabetic) && !line.starts_with("typedef"))?;
    line.split_once('(')?.0.rsplit([' ', '*']).next()
}

#[test]
fn the_list_of_symbols_is_what_the_header_declares() {
    let header = generated();
    let mut declared: Vec<&str> = header.lines().filter_map(declared_name).collect();
    declared.sort_unstable();
    let listed = std::fs::read_to_string(path("symbols.txt")).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), declared, "symbols.txt");
}
