// node bench.mjs MODEL PROMPT TOKENS ROUNDS BUILD...: tokens/s of a prompt of PROMPT tokens and of TOKENS more one by
// one. BUILDs are folders of wasm-bindgen's target `web`; they take turns, and a cell is the median of ROUNDS.
import './tests/engine.mjs';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [path, prompt, tokens, rounds] = process.argv.slice(2, 6).map((word, n) => (n ? Number(word) : word));
const file = readFileSync(path);

async function load(folder) {
  const wasm = await import(pathToFileURL(resolve(folder, 'bonsai_wasm.js')));
  wasm.initSync({ module: readFileSync(join(folder, 'bonsai_wasm_bg.wasm')) });
  const model = new wasm.Model(file);
  const session = model.session(JSON.stringify({ context: prompt + tokens, sampling: { temperature: 0 } }));
  return { backend: JSON.parse(model.info()).backend, session, prompts: [], singles: [] };
}

async function seconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const speed = (values) => median(values).toPrecision(3);

const builds = [];
for (const folder of process.argv.slice(6)) builds.push(await load(folder));
const ids = Uint32Array.from({ length: prompt }, (_, n) => n + 1);
const one = (session) => async () => { for (let n = 0; n < tokens; n++) await session.next(); };
for (let round = -1; round < rounds; round++) {
  for (const { session, prompts, singles } of builds) {
    session.reset();
    const [first, rest] = [await seconds(() => session.prompt(ids)), await seconds(one(session))];
    if (round < 0) continue; // the engine compiles while it warms up
    prompts.push(prompt / first);
    // The first of them needs no pass.
    singles.push((tokens - 1) / rest);
  }
}
console.log('| build | prompt | one by one |\n| --- | --- | --- |');
for (const { backend, prompts, singles } of builds) {
  console.log(`| ${backend} | ${speed(prompts)} | ${speed(singles)} |`);
}
