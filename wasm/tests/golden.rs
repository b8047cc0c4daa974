//! What `node.mjs` beside this compares WebAssembly with: small models of every packing are written to target/tmp/wasm,
//! and what this machine computes from them must be what golden.json says. So neither side can drift.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../runtime/tests/tiny/mod.rs"]
mod tiny;

use std::path::Path;

use bonsai_runtime::config::Config;
use bonsai_runtime::gguf::PackedFormat;
use bonsai_runtime::{KvFormat, Model, Sampler, SamplerOptions, SessionOptions};
use serde_json::{Value, json};

/// More tokens than kernels take at a time, than a tile of positions, and than a chunk of a prompt.
const PROMPT: &str = "the hero hears her; he heats the shed where the heron is, then he helps the others there: \
                      \u{1f333} caf\u{e9}, he said, and she heard the thunder. \"Whether the weather...\", he \
                      thought; then the rain came.";
const TOKENS: usize = 24;

/// A file each: the packing, and how its sessions keep keys and values.
const CASES: [(&str, KvFormat); 5] = [
    ("q2_0", KvFormat::Int16),
    ("q2_0_g64", KvFormat::Int8),
    ("tq2_0", KvFormat::F32),
    ("ptq1_0", KvFormat::F16),
    ("tq1_0", KvFormat::Int8),
];

/// Two query heads to each key, widths that all packings divide, and an odd number of rows.
fn config(packing: &str) -> Config {
    let wide = Config {
        hidden: 256,
        intermediate: 512,
        heads: 8,
        kv_heads: 4,
        vocab: 261,
        context: 512,
        ..tiny::config()
    };
    match packing {
        "q2_0_g64" => Config { hidden: 192, intermediate: 320, ..wide }, // rows end in half a group
        _ => wide,
    }
}

/// FNV-1a of the bits, 64 bits wide.
fn add(hash: &mut u64, logits: &[f32]) {
    for byte in logits.iter().flat_map(|x| x.to_le_bytes()) {
        *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
}

/// Ids, text and the hash of all logits on the way.
fn run(model: &Model, kv: KvFormat, options: SamplerOptions) -> Value {
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let mut session = model.session(SessionOptions { kv: Some(kv), ..Default::default() }).unwrap();
    let mut sampler = Sampler::new(options);
    let (mut hash, mut ids) = (0xcbf2_9ce4_8422_2325, Vec::new());
    let mut fed = tokenizer.encode(PROMPT).unwrap();
    assert!(fed.len() > 128, "{}: longer than a chunk", fed.len());
    fed.iter().for_each(|&id| sampler.accept(id));
    for _ in 0..TOKENS {
        let logits = session.prompt(&fed).unwrap();
        add(&mut hash, logits);
        fed = vec![sampler.sample(logits)];
        ids.extend(&fed);
    }
    json!({ "ids": ids, "text": tokenizer.decode(&ids).unwrap(), "logits": format!("{hash:016x}") })
}

#[test]
fn this_machine_computes_what_golden_json_says() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wasm");
    std::fs::create_dir_all(&folder).unwrap();
    let mut found = serde_json::Map::new();
    for (packing, kv) in CASES {
        let format: PackedFormat = packing.parse().unwrap();
        let bytes = tiny::gguf(&config(packing), format);
        std::fs::write(folder.join(format!("{packing}.gguf")), &bytes).unwrap();
        let model = Model::from_bytes(bytes).unwrap();
        let sampled = SamplerOptions { temperature: 1.5, repeat_penalty: 1.1, seed: 8, ..Default::default() };
        let case = json!({
            "kv": kv.name(),
            "greedy": run(&model, kv, SamplerOptions::greedy()),
            "sampled": run(&model, kv, sampled),
        });
        found.insert(packing.into(), case);
    }
    let found = json!({ "prompt": PROMPT, "cases": found });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let written = folder.join("found.json");
    std::fs::write(&written, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    assert!(found == golden, "golden.json and {} differ", written.display());
}
