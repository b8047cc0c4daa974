//! Metrics become a picture that shows what they say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use bonsai_trainer::plot::{label, plot};
use tempfile::TempDir;

fn ours(directory: &TempDir) -> PathBuf {
    let mut text = String::from("{\"config\": {\"steps\": 400}}\n");
    for step in (10..=400).step_by(10) {
        let loss = 3.0 + 5.0 / f64::from(step) + f64::from(step * 7 % 30) / 100.0;
        let lr = 2e-3 * (1.0 - f64::from(step) / 500.0);
        text += &format!(
            "{{\"step\":{step},\"loss\":{loss},\"lr\":{lr},\"grad_norm\":1.0,\"tokens_per_second\":9e3}}\n"
        );
        if step % 100 == 0 {
            let zeros = 0.3 + f64::from(step) * 1e-4;
            text += &format!(
                "{{\"step\":{step},\"valid_loss\":{loss},\"zero_fraction\":{zeros},\"flip_rate\":1e-3}}\n"
            );
        }
    }
    text += "{\"step\":410,\"lo"; // the run is still writing
    let path = directory.path().join("metrics.jsonl");
    fs::write(&path, text).unwrap();
    path
}

fn twin(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("twin.jsonl");
    let lines = [
        "{\"step\": 0, \"held\": 5.1}",
        "{\"step\": 100, \"train\": 4.0, \"lr\": 1e-3}",
        "{\"step\": 200, \"held\": 3.5}",
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn runs(directory: &TempDir) -> Vec<(String, PathBuf)> {
    vec![("ours <1>".into(), ours(directory)), ("PyTorch".into(), twin(directory))]
}

#[test]
fn svg_is_well_formed_and_shows_all_series() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("plot.svg");
    plot(&runs(&directory), &out).unwrap();
    let svg = fs::read_to_string(&out).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    well_formed(&svg);
    for text in [
        "loss (nats per token)",
        "learning rate",
        "codes changed (%)",
        "zero weights (%)",
        "PyTorch",
        "ours &lt;1&gt;",
    ] {
        assert!(svg.contains(text), "{text} is missing");
    }
    for color in ["#0072B2", "#D55E00"] {
        assert!(svg.contains(color), "{color} is missing");
    }
    // 4 + 2 validation points and 2 in the legend; each point has a white rim, the legend has none.
    assert_eq!(svg.matches("<circle").count(), 2 * 6 + 2);
    // Loss thin and smoothed, learning rate, flips, zeros; those of the twin with two points or more: none.
    assert!(svg.matches("<polyline").count() >= 5);
}

#[test]
fn missing_panels_are_left_out() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("plot.svg");
    plot(&[("twin".into(), twin(&directory))], &out).unwrap();
    let svg = fs::read_to_string(&out).unwrap();
    assert!(svg.contains("learning rate") && !svg.contains("zero weights"));
}

#[test]
fn png_has_a_picture_with_letters() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("plot.png");
    ours(&directory);
    plot(&[("a run directory".into(), directory.path().to_path_buf())], &out).unwrap();
    let png = fs::read(&out).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{} bytes", png.len());
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let svg = directory.path().join("plot.svg");
    let says = |path: PathBuf, out: &Path, text: &str| {
        let error = plot(&[("run".into(), path)], out).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    says(write("broken.jsonl", "{\"step\": 1, \"loss\": 2}\noops\n{}\n"), &svg, "line 2");
    says(write("empty.jsonl", "{\"step\": 1}\n"), &svg, "no line with a step and a loss");
    says(directory.path().join("missing.jsonl"), &svg, "missing.jsonl");
    says(ours(&directory), &directory.path().join("plot.jpg"), ".svg or .png");
    assert!(plot(&[], &svg).is_err());
}

/// Tags close in the order in which they were opened, and no bare "&" is left.
fn well_formed(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (inside, text) = tag.split_once('>').unwrap();
        assert!(!text.contains('>'), "{text}");
        assert!(text.split('&').skip(1).all(|entity| entity.contains(';')), "{text}");
        let name = inside.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if inside.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !inside.ends_with('/') && !inside.starts_with(['?', '!']) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_run_is_called_by_its_directory() {
    let place = TempDir::new().unwrap();
    let run = place.path().join("lr=0.001_group=64-seed0");
    fs::create_dir(&run).unwrap();
    for (path, name) in [
        (run.clone(), "lr=0.001_group=64-seed0"),
        (run.join("metrics.jsonl"), "lr=0.001_group=64-seed0"),
        (place.path().join("twin.jsonl"), "twin"),
    ] {
        assert_eq!(label(&path), name);
    }
}
