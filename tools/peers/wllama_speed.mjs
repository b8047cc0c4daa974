// The npm package bonsai-wasm beside wllama (llama.cpp in WebAssembly), in turns in one headless Chromium:
//
//   node wllama_speed.mjs FOLDER OURS.gguf THEIRS.gguf [THREADS=1] [ROUNDS=3]
//
// FOLDER has @wllama/wllama and playwright-core in its node_modules; wasm/build has been run. Both files hold the same
// shape with a tokenizer (`random_model 25m tq2_0 theirs.gguf tokenizer.json`). What is printed: see in_browser.mjs.

import { basename, dirname, join, resolve } from 'node:path';
import { bonsai, chromiumOf, takeTurns } from './in_browser.mjs';

async function wllama(model, threads, prompt, tokens, repetitions) {
  const { Wllama } = await import('/peer/index.js');
  const wllama = new Wllama({ default: '/peer/wasm/wllama.wasm' }, { suppressNativeLog: true });
  const start = performance.now();
  await wllama.loadModelFromUrl(new URL(model, location).href, { n_threads: threads, n_ctx: 512, n_gpu_layers: 0, useCache: false });
  const load = (performance.now() - start) / 1000;
  const results = [];
  for (let n = 0; n <= repetitions; n++) {
    const { timings } = await wllama.createCompletion({ prompt, max_tokens: tokens, temperature: 0, cache_prompt: false });
    results.push({ promptTokens: timings.prompt_n, written: timings.predicted_n, prompt: timings.prompt_per_second, decode: timings.predicted_per_second });
  }
  return { engine: `wllama, ${wllama.getNumThreads()} threads`, load, results: results.slice(1) };
}

const [folder, ours, theirs, threads = '1', rounds = '3'] = process.argv.slice(2);
const modules = resolve(folder, 'node_modules');
await takeTurns([[bonsai, `/ours/${basename(ours)}`], [wllama, `/theirs/${basename(theirs)}`]], {
  mounts: { '/peer/': join(modules, '@wllama/wllama/esm'), '/ours/': dirname(resolve(ours)), '/theirs/': dirname(resolve(theirs)) },
  threads: Number(threads),
  rounds: Number(rounds),
  chromium: chromiumOf(modules),
});
