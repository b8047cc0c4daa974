// Which of the WebAssembly modules this engine can run, and which is the fastest of them.
import { BonsaiError } from './errors.js';

/** The modules of this package, the fastest first. Literal paths, so that bundlers find the files. */
export const BUILDS = {
  'simd128-threads': new URL('./build/simd128-threads.wasm', import.meta.url),
  simd128: new URL('./build/simd128.wasm', import.meta.url),
  plain: new URL('./build/plain.wasm', import.meta.url),
};

/** A module with one exported function f: () -> i32, whose body (locals and code) is given. */
const probe = (body) => Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, // \0asm, version 1
  1, 5, 1, 96, 0, 1, 127, // type 0: () -> i32
  3, 2, 1, 0, // function 0 has it
  7, 5, 1, 1, 102, 0, 0, // and is exported as "f"
  10, body.length + 3, 1, body.length + 1, ...body, 11,
);
const splat = (byte) => [0x41, byte, 0xfd, 15]; // i32.const, i8x16.splat
const LANE = [0xfd, 27, 0]; // i32x4.extract_lane 0
const SIMD = probe([0, ...splat(1), ...LANE]);
const simd = () => WebAssembly.validate(SIMD);

/** Threads that pay off: processors are counted with two threads to a core, or with slow cores among them. */
function usefulThreads() {
  const processors = globalThis.navigator?.hardwareConcurrency ?? 1;
  return processors < 4 ? processors : Math.min(8, Math.floor(processors / 2));
}

/** Memory that threads share, as large as this device allows; nothing if it allows none. */
export function sharedMemory(pages) {
  for (let maximum = 65536; maximum >= 8192; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: pages, maximum, shared: true });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
}

/** The GPU in words (`is`), or why there is none, as the end of a sentence (`why`). `software`: also a program that plays one. */
async function findGpu(software) {
  if (!globalThis.navigator?.gpu) return { why: globalThis.isSecureContext ? 'this browser has no WebGPU' : 'pages get WebGPU over https only' };
  if (!simd()) return { why: 'this browser has no vector instructions (SIMD), which the build with WebGPU needs' };
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (!adapter) return { why: 'this browser has WebGPU, but no GPU that it would use' };
  const { vendor, architecture, device, isFallbackAdapter: fallback } = adapter.info ?? {};
  if (fallback && !software) return { why: 'WebGPU is a program on the CPU here' };
  const name = [vendor, architecture, device].filter(Boolean).join(' ') || 'a GPU without a name';
  return { is: `gpu, WebGPU, ${name}${fallback ? ' (a program on the CPU)' : ''}` };
}

/** The GPU in words, if one is wanted and there. */
async function gpu(device, build, reasons) {
  if (device === 'cpu' || (device === 'auto' && build)) return undefined;
  const { is, why } = build && build !== 'simd128' ? { why: 'WebGPU is in the build simd128' } : await findGpu(device === 'gpu');
  if (is) return is;
  if (device === 'gpu') throw new BonsaiError('unsupported', `${why}: use device "auto" or "cpu"`);
  reasons.push(`CPU, because ${why}.`);
  return undefined;
}

/**
 * The modules to try, the best first, how many threads for each, and why, as sentences; and the GPU to go to from there, in
 * words. `wanted` has what the caller asked for: `device`, `threads` and `build`.
 */
export async function choose({ device = 'auto', threads, build } = {}) {
  const reasons = [];
  if (!['auto', 'cpu', 'gpu'].includes(device)) throw new BonsaiError('argument', `device '${device}': expected auto, cpu or gpu`);
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    throw new BonsaiError('argument', `threads: ${threads}: expected a whole number from 1`);
  }
  if (build !== undefined && !(build in BUILDS)) {
    throw new BonsaiError('argument', `build '${build}': expected one of ${Object.keys(BUILDS).join(', ')}`);
  }
  const found = await gpu(device, build, reasons);
  const builds = instructionSets(reasons);
  const count = threadCount(builds, threads, reasons);
  const all = [
    ...builds.filter((name) => count > 1 && name !== 'plain').map((name) => ({ build: `${name}-threads`, threads: count })),
    ...builds.map((name) => ({ build: name, threads: 1 })),
  ];
  if (build === undefined) return { candidates: all, gpu: found, reasons };
  const asked = { build, threads: build.endsWith('-threads') ? count : 1 };
  return { candidates: [asked], gpu: found, reasons: [`${build}, because it was asked for.`] };
}

function instructionSets(reasons) {
  if (!simd()) {
    reasons.push('No vector instructions (SIMD): this browser is older than 2023, or they are turned off. Many times slower.');
    return ['plain'];
  }
  return ['simd128', 'plain'];
}

function threadCount([best], wanted, reasons) {
  const count = wanted ?? usefulThreads();
  if (count === 1) return 1;
  if (!globalThis.crossOriginIsolated) {
    reasons.push('One thread, because this page is not cross-origin isolated: its server has to send the headers '
      + 'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.');
    return 1;
  }
  if (best === 'plain') {
    reasons.push('One thread, because there is no build with threads for browsers without vector instructions.');
    return 1;
  }
  return count;
}
