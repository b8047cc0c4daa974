// The npm package bonsai-wasm beside wllama (llama.cpp in WebAssembly), in turns in one headless Chromium:
//
//   node wllama_speed.mjs FOLDER OURS.gguf THEIRS.gguf [THREADS=1] [ROUNDS=3]
//
// FOLDER has @wllama/wllama and playwright-core in its node_modules; wasm/build has been run. Both files hold the same
// shape with a tokenizer (`random_model 25m tq2_0 theirs.gguf tokenizer.json`). A round loads each engine in a new page,
// writes once to warm up, then three times: a prompt of about 128 tokens and 64 tokens after it. Prints a line of JSON for
// each round: medians in tokens/s, seconds until the model was loaded, and bytes of code that the page fetched.

import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { serve } from '../../wasm/demo/serve.mjs';

const [folder, ours, theirs, threads = '1', rounds = '3'] = process.argv.slice(2);
const modules = resolve(folder, 'node_modules');
const { chromium } = createRequire(join(modules, 'x.js'))('playwright-core');
const PROMPT = 'The old man went down to the sea and looked at the ships. '.repeat(9);
const TOKENS = 64;
const REPETITIONS = 3;

const engines = {
  async bonsai(model, threads, prompt, tokens, repetitions) {
    const { Model } = await import('/npm/index.js');
    const start = performance.now();
    const loaded = await Model.load(model, { threads, device: 'cpu', cache: false });
    const load = (performance.now() - start) / 1000;
    const session = loaded.session({ temperature: 0, context: 512 });
    const results = [];
    for (let n = 0; n <= repetitions; n++) {
      await session.reset();
      for await (const _ of session.generate(prompt, { maxTokens: tokens }));
      const { promptTokens, promptSeconds, tokens: written, seconds } = session.stats;
      // Of the tokens written, the first needs no pass of its own.
      results.push({ promptTokens, written, prompt: promptTokens / promptSeconds, decode: (written - 1) / seconds });
    }
    return { engine: loaded.backend.description, load, results: results.slice(1) };
  },

  async wllama(model, threads, prompt, tokens, repetitions) {
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
  },
};

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

async function measure(context, address, name, model) {
  const page = await context.newPage();
  page.on('pageerror', (error) => console.error(`${name}: ${error.message}`));
  let code = 0;
  page.on('response', async (response) => {
    if (/\.(js|wasm)$/.test(new URL(response.url()).pathname)) code += Number(response.headers()['content-length'] ?? 0);
  });
  await page.goto(`${address}/tests/browser/blank.html`);
  const run = `(${engines[name].toString().replace(/^async \w+/, 'async function')})(${[model, Number(threads), PROMPT, TOKENS, REPETITIONS].map((x) => JSON.stringify(x))})`;
  const { engine, load, results } = await page.evaluate(run);
  await page.close();
  const figure = (key) => Number(median(results.map((result) => result[key])).toPrecision(4));
  console.log(JSON.stringify({
    engine, model: basename(model), prompt: figure('prompt'), decode: figure('decode'), load: Number(load.toFixed(2)), code,
    promptTokens: results[0].promptTokens, written: results[0].written,
  }));
}

const mounts = { '/peer/': join(modules, '@wllama/wllama/esm'), '/ours/': dirname(resolve(ours)), '/theirs/': dirname(resolve(theirs)) };
const server = await serve({ mounts });
const profile = mkdtempSync(join(tmpdir(), 'bonsai-wllama-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const address = `http://localhost:${server.address().port}`;
for (let round = 0; round < Number(rounds); round++) {
  await measure(context, address, 'bonsai', `/ours/${basename(ours)}`);
  await measure(context, address, 'wllama', `/theirs/${basename(theirs)}`);
}
await context.close();
server.closeAllConnections();
server.close();
rmSync(profile, { recursive: true, force: true });
