//! `bonsai-wasm-bindgen IN.wasm web|nodejs OUT`: writes OUT/bonsai_wasm.js, its types and OUT/bonsai_wasm_bg.wasm.
//!
//! Refuses a module with relaxed instructions other than the one whose operands make it exact.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;
use wasmparser::{Operator, Parser, Payload};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, target, out] = arguments.as_slice() else {
        eprintln!("usage: bonsai-wasm-bindgen IN.wasm web|nodejs OUT");
        return ExitCode::from(2);
    };
    match check(wasm).and_then(|()| bindgen(wasm, target, out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{wasm}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Relaxed instructions may give other results on other machines. The compiler takes some for ordinary code, as soon as
/// it may use them at all, but for the kernel's product of codes and activations there is a proof that all machines
/// agree (`simd128/dots.rs` in the runtime).
fn check(wasm: &str) -> Result<(), String> {
    let bytes = std::fs::read(wasm).map_err(|e| e.to_string())?;
    let found = relaxed(&bytes).map_err(|e| e.to_string())?;
    match found.first() {
        Some(first) => Err(format!("{} relaxed instructions that may differ: {first}", found.len())),
        None => Ok(()),
    }
}

/// Relaxed instructions that may not be there.
fn relaxed(wasm: &[u8]) -> wasmparser::Result<Vec<String>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload? else { continue };
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            let name = format!("{operator:?}");
            if name.contains("Relaxed") && !matches!(operator, Operator::I32x4RelaxedDotI8x16I7x16AddS) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

fn bindgen(wasm: &str, target: &str, out: &str) -> Result<(), String> {
    let mut bindgen = Bindgen::new();
    let chosen = match target {
        "web" => bindgen.web(true),
        "nodejs" => bindgen.nodejs(true),
        other => return Err(format!("unknown target '{other}': expected web or nodejs")),
    };
    let bindgen = chosen.map_err(|e| e.to_string())?;
    bindgen.input_path(wasm).out_name("bonsai_wasm").typescript(true);
    // Names of functions are for debugging, and a tenth of the file.
    bindgen.remove_name_section(true).remove_producers_section(true);
    bindgen.generate(out).map_err(|e| format!("{e:#}"))
}
