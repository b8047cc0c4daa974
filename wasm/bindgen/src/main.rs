//! `bonsai-wasm-bindgen IN.wasm web|nodejs OUT`: writes OUT/bonsai_wasm.js, its types and OUT/bonsai_wasm_bg.wasm.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, target, out] = arguments.as_slice() else {
        eprintln!("usage: bonsai-wasm-bindgen IN.wasm web|nodejs OUT");
        return ExitCode::from(2);
    };
    match bindgen(wasm, target, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{wasm}: {error}");
            ExitCode::FAILURE
        }
    }
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
