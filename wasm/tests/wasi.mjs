// Runs a program for wasm32-wasip1, for example one of `cargo test`:
// CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings wasm/tests/wasi.mjs"
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { WASI } from 'node:wasi';

setFlagsFromString('--experimental-wasm-relaxed-simd'); // Node 20 has it behind this flag
setFlagsFromString('--no-turbo-fast-api-calls'); // Node 20 crashes with them: it loses `wasi` while a program runs

const [program] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: process.argv.slice(2), env: process.env, preopens: { '/': '/' } });
const { instance } = await WebAssembly.instantiate(readFileSync(program), wasi.getImportObject());
process.exitCode = wasi.start(instance);
