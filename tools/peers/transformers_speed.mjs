// The npm package bonsai-wasm beside transformers.js (ONNX Runtime in WebAssembly, f32), in turns in one headless Chromium:
//
//   node transformers_speed.mjs FOLDER OURS.gguf THEIRS/ [THREADS=1] [ROUNDS=3]
//
// FOLDER has @huggingface/transformers and playwright-core in its node_modules (`npm install --ignore-scripts`: what it
// would fetch is for node only); wasm/build has been run. THEIRS is what qwen3_onnx.py made of OURS.gguf. What is printed:
// see in_browser.mjs.

import { basename, dirname, join, resolve } from 'node:path';
import { bonsai, chromiumOf, takeTurns } from './in_browser.mjs';

async function transformers(model, threads, prompt, tokens, repetitions) {
  const map = document.createElement('script');
  map.type = 'importmap';
  map.textContent = JSON.stringify({ imports: {
    'onnxruntime-web/webgpu': '/modules/onnxruntime-web/dist/ort.webgpu.min.mjs',
    'onnxruntime-common': '/modules/onnxruntime-common/dist/esm/index.js',
  } });
  document.head.append(map);
  const { AutoModelForCausalLM, AutoTokenizer, BaseStreamer, env } = await import('/modules/@huggingface/transformers/dist/transformers.web.min.js');
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/', useBrowserCache: false });
  Object.assign(env.backends.onnx.wasm, { numThreads: threads, wasmPaths: '/modules/onnxruntime-web/dist/' });
  const name = model.slice(1);
  const start = performance.now();
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const loaded = await AutoModelForCausalLM.from_pretrained(name, { dtype: 'fp32', device: 'wasm' });
  const load = (performance.now() - start) / 1000;
  class Clock extends BaseStreamer {
    times = [];
    put() { this.times.push(performance.now()); } // once with the prompt, then with each token
    end() {}
  }
  const inputs = tokenizer(prompt);
  const promptTokens = inputs.input_ids.dims[1];
  const results = [];
  for (let n = 0; n <= repetitions; n++) {
    const streamer = new Clock();
    await loaded.generate({ ...inputs, max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false, streamer });
    const [begin, first, ...more] = streamer.times;
    const rate = (count, from, to) => (1000 * count) / (to - from);
    results.push({ promptTokens, written: more.length + 1, prompt: rate(promptTokens, begin, first), decode: rate(more.length, first, more.at(-1)) });
  }
  return { engine: `transformers.js ${env.version}, fp32, ${env.backends.onnx.wasm.numThreads} threads`, load, results: results.slice(1) };
}

const [folder, ours, theirs, threads = '1', rounds = '3'] = process.argv.slice(2);
const modules = resolve(folder, 'node_modules');
await takeTurns([[bonsai, `/ours/${basename(ours)}`], [transformers, `/theirs/${basename(theirs)}`]], {
  mounts: { '/modules/': modules, '/ours/': dirname(resolve(ours)), '/theirs/': dirname(resolve(theirs)) },
  threads: Number(threads),
  rounds: Number(rounds),
  chromium: chromiumOf(modules),
});
