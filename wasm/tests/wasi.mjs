// Runs a program for wasm32-wasip1, for example one of `cargo test`:
// CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings wasm/tests/wasi.mjs"
import './engine.mjs';
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const [program] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: process.argv.slice(2), env: process.env, preopens: { '/': '/' } });
const { instance } = await WebAssembly.instantiate(readFileSync(program), wasi.getImportObject());
process.exitCode = wasi.start(instance);
