// Engines timed in turns in one headless Chromium: what wllama_speed.mjs and transformers_speed.mjs share.
//
// An engine is a function that runs in a page: async (model, threads, prompt, tokens, repetitions) => ({ engine, load,
// results }), with `results` of each repetition: promptTokens, written, prompt and decode (tokens/s). It writes once to warm
// up, which is no result. Round by round, each engine loads its model in a new page. Prints a line of JSON for each: medians
// in tokens/s, seconds until the model was loaded, and bytes of code that the page fetched.

import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { serve } from '../../wasm/demo/serve.mjs';

const PROMPT = 'The old man went down to the sea and looked at the ships. '.repeat(9);
const TOKENS = 64;
const REPETITIONS = 3;

/** The npm package bonsai-wasm. */
export async function bonsai(model, threads, prompt, tokens, repetitions) {
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
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

async function measure(context, address, engine, model, threads) {
  const page = await context.newPage();
  page.on('pageerror', (error) => console.error(`${engine.name}: ${error.message}`));
  let code = 0;
  page.on('response', async (response) => {
    if (/\.(m?js|wasm)$/.test(new URL(response.url()).pathname)) code += Number(response.headers()['content-length'] ?? 0);
  });
  await page.goto(`${address}/tests/browser/blank.html`);
  const values = [model, threads, PROMPT, TOKENS, REPETITIONS].map((value) => JSON.stringify(value));
  const { engine: name, load, results } = await page.evaluate(`(${engine})(${values})`);
  await page.close();
  const figure = (key) => Number(median(results.map((result) => result[key])).toPrecision(4));
  console.log(JSON.stringify({
    engine: name, model: basename(model), prompt: figure('prompt'), decode: figure('decode'), load: Number(load.toFixed(2)), code,
    promptTokens: results[0].promptTokens, written: results[0].written,
  }));
}

/** Measures `[engine, address of its model]` pairs in turns; `mounts` are folders that the page sees, by their paths. */
export async function takeTurns(engines, { mounts, threads, rounds, chromium }) {
  const server = await serve({ mounts });
  const profile = mkdtempSync(join(tmpdir(), 'bonsai-speed-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const address = `http://localhost:${server.address().port}`;
  for (let round = 0; round < rounds; round++) {
    for (const [engine, model] of engines) await measure(context, address, engine, model, threads);
  }
  await context.close();
  server.closeAllConnections();
  server.close();
  rmSync(profile, { recursive: true, force: true });
}

/** Playwright's Chromium out of a folder of modules. */
export const chromiumOf = (modules) => createRequire(join(modules, 'x.js'))('playwright-core').chromium;
