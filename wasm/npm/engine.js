// Starts the modules: the engine that fits, threads for it, and the module that knows text.
import { BUILDS, choose, sharedMemory } from './builds.js';
import { BonsaiError } from './errors.js';
import * as plain from './build/plain.js';
import { instance } from './build/simd128.js';
import * as shared from './build/simd128-threads.js';
import * as text from './build/text.js';

/** One with the model on the CPU and, where there is a GPU, one for it: a module has one memory. */
const [simd128, gpu] = [instance(), instance()];
const API = { plain, simd128, 'simd128-threads': shared };
const TEXT = new URL('./build/text.wasm', import.meta.url);
/** Pages that a module with threads begins with; see wasm/build. */
const FIRST_PAGES = 64;

async function compile(url) {
  const response = await fetch(url).catch((error) => {
    throw new BonsaiError('network', `${url}: ${error.message}`);
  });
  if (!response.ok) throw new BonsaiError('network', `${url}: the server answers ${response.status}. The .wasm files must lie beside the JavaScript of the package`);
  // Compiling while it arrives needs the right type, which not every server sends.
  if (response.headers.get('Content-Type')?.startsWith('application/wasm')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

/**
 * Starts the best engine that works. `others` starts more threads, `start(module, memory, count)`, and ends them, `end()`.
 * Returns `api` (its classes), `memory`, `end()`, which lets all of it go, `backend`, which says what was chosen and why, and
 * `gpu`: the one to try, in words. Whether it is any good shows with the model.
 */
export async function startEngine(wanted, others) {
  const { candidates, gpu: found, reasons } = await choose(wanted);
  let last;
  for (const { build, threads } of candidates) {
    try {
      const engine = await start(build, threads, others);
      return { ...engine, gpu: found, backend: { device: 'cpu', build, threads, reasons } };
    } catch (error) {
      if (error.code === 'network') throw error;
      API[build].forget();
      reasons.push(`Not ${build}: ${error.message}.`);
      last = error;
    }
  }
  throw new BonsaiError('unsupported', `no build of the engine works here: ${reasons.join(' ')}`, { cause: last });
}

/** Starts the engine for WebGPU: the module of simd128 once more, since that one may hold the model. */
export const startGpu = async () => single(gpu, await compile(BUILDS.simd128));

function single(api, module) {
  const { memory } = api.initSync({ module });
  api.selfTest();
  return { api, memory, end: api.forget };
}

async function start(build, threads, others) {
  const module = await compile(BUILDS[build]);
  if (!build.endsWith('-threads')) return single(API[build], module);
  const memory = sharedMemory(FIRST_PAGES);
  if (!memory) throw new BonsaiError('memory', 'no room for memory that threads share');
  shared.initSync({ module, memory });
  shared.selfTest();
  shared.threads(threads);
  await others.start(module, memory, threads - 1);
  const end = () => {
    others.end();
    shared.forget();
  };
  return { api: shared, memory, end };
}

/** What a thread does: it works for the engine, and never comes back. */
export function serve({ module, memory }, ready) {
  shared.initSync({ module, memory });
  ready();
  shared.serve();
}

export async function startText() {
  text.initSync({ module: await compile(TEXT) });
  return text;
}
