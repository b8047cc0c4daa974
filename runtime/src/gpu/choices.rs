//! What was measured on a device, remembered: a file in the user's cache directory, or in `BONSAI_CACHE`.
//!
//! A choice belongs to an adapter, its driver, the version of wgpu that translated the kernels, and a shape. A file that
//! cannot be read, or lists what this device cannot do, counts as no file: the portable way is always right.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::device::Gpu;
use super::ways::{Shape, Way, Ways};
use crate::error::{Error, Result};

/// The version of wgpu, as Cargo.toml pins it.
pub const WGPU: &str = "30.0.1";

/// A choice, as the file has it.
#[derive(Serialize, Deserialize)]
struct Choice {
    shape: Shape,
    way: Way,
}

/// By device.
type Choices = BTreeMap<String, Vec<Choice>>;

/// What is known of a device; `halves`: whether it keeps them.
pub fn ways(gpu: &Gpu, halves: bool) -> Ways {
    let mut choices = read();
    let known = choices.remove(&key(gpu)).unwrap_or_default().into_iter();
    let possible = known.filter(|choice| choice.way.possible(gpu, halves));
    Ways { chosen: possible.map(|Choice { shape, way }| (shape, way)).collect(), ..Ways::untuned(halves) }
}

/// Remembers choices for a device in place of those for the same shapes, and returns the file.
pub fn remember(gpu: &Gpu, chosen: &[(Shape, Way)]) -> Result<PathBuf> {
    let path = path().ok_or_else(|| Error::Unsupported("no cache directory: set BONSAI_CACHE".into()))?;
    let mut choices = read();
    let of_device = choices.entry(key(gpu)).or_default();
    of_device.retain(|old| chosen.iter().all(|(shape, _)| *shape != old.shape));
    of_device.extend(chosen.iter().map(|&(shape, way)| Choice { shape, way }));
    let text = serde_json::to_string_pretty(&choices).map_err(|e| Error::Argument(e.to_string()))?;
    // Written aside and renamed, so that no reader finds half a file.
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| std::fs::write(&aside, text))
        .and_then(|()| std::fs::rename(&aside, &path));
    written.map_err(Error::io(&path))?;
    Ok(path)
}

/// What a choice holds for.
fn key(gpu: &Gpu) -> String {
    let adapter = gpu.adapter();
    let subgroups = adapter.subgroups.map_or("none".into(), |[least, most]| format!("{least}-{most}"));
    format!("{}, {}, {}, subgroups {subgroups}, wgpu {WGPU}", adapter.name, adapter.backend, adapter.driver)
}

fn read() -> Choices {
    let text = path().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The file: where systems keep what programs can make again.
fn path() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |below: &str| from("HOME").map(|home| home.join(below).join("bonsai"));
    let folder = from("BONSAI_CACHE").or_else(|| match std::env::consts::OS {
        "macos" | "ios" => home("Library/Caches"),
        "windows" => from("LOCALAPPDATA").map(|local| local.join("bonsai")),
        _ => from("XDG_CACHE_HOME").map(|cache| cache.join("bonsai")).or_else(|| home(".cache")),
    })?;
    Some(folder.join("gpu_kernels.json"))
}
