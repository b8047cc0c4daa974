// The worker: one model, its sessions, and calls from index.js, one after the other. The same file is what its further
// threads run.
import { Conversation } from './conversation.js';
import { receive } from './download.js';
import { serve, startEngine, startGpu, startText } from './engine.js';
import { BonsaiError, toWire } from './errors.js';

let engine;
let textApi;
let model;
let info;
let text;
let noText;
const sessions = new Map();

/** Addresses have 32 bits. */
const LARGEST = 2 ** 32 - 1;

/** The engine's memory as the place where a file goes. */
const sink = {
  begin(bytes) {
    this.loader?.free();
    this.loader = undefined;
    if (bytes > LARGEST) throw new BonsaiError('memory', `the model has ${bytes} bytes, and WebAssembly's memory holds less than ${LARGEST + 1}`);
    this.loader = new engine.api.Loader(bytes);
  },
  push(piece) {
    this.loader.push(piece);
  },
  fill(size, read) {
    const at = this.loader.room(size) >>> 0;
    read(new Uint8Array(engine.memory.buffer, at, size));
    this.loader.filled();
  },
  sha256() {
    return this.loader.sha256();
  },
  finish() {
    const { loader } = this;
    this.loader = undefined; // finish() takes it
    return loader.finish();
  },
};

/** Further threads: the page starts and ends them. */
const threads = {
  start: (module, memory, count) => new Promise((resolve, reject) => {
    threadsStarted = (error) => (error ? reject(new BonsaiError('internal', error)) : resolve());
    postMessage({ threads: { module, memory, count } });
  }),
  end: () => postMessage({ endThreads: true }),
};
let threadsStarted;

const calls = {
  async load({ source, wanted, cache, sha256 }, signal, progress) {
    [engine, textApi] = await Promise.all([startEngine(wanted, threads), startText()]);
    signal.throwIfAborted();
    const file = await receive(source, { cache, sha256, signal, progress }, sink);
    progress({ phase: 'open', loaded: 0 });
    await open(file);
    const cached = await file.keep(true); // whatever a GPU makes of it, it is a model
    if (engine.gpu) await toGpu(wanted.device === 'gpu');
    return facts(file, cached);
  },
  encode: ({ text: words, plain }) => (plain ? needText().encodePlain(words) : needText().encode(words)),
  decode: ({ ids }) => needText().decode(ids),
  template: ({ messages, options }) => template(messages, options),
  session({ id, options }) {
    sessions.set(id, new Conversation(model, needText(), textApi, options));
  },
  async generate({ id, prompt, options }, signal) {
    const ids = typeof prompt === 'string' ? needText().encode(prompt) : Uint32Array.from(prompt);
    await sessions.get(id).begin(ids, options, signal);
  },
  async chat({ id, messages, template: style, options }, signal) {
    await sessions.get(id).continue(needText().encode(template(messages, style)), options, signal);
  },
  next: ({ id }) => sessions.get(id).next(),
  position: ({ id }) => sessions.get(id).position,
  reset: ({ id }) => sessions.get(id).reset(),
  freeSession({ id }) {
    sessions.get(id)?.free();
    sessions.delete(id);
  },
};

/** Opens what arrived. What is no model for this version does not stay in the cache; where memory ran out, it does. */
async function open(file) {
  try {
    model = sink.finish();
    info = JSON.parse(model.info());
    try {
      text = new textApi.Text(model.header(), info.vocab);
    } catch (error) {
      if (error.code !== 'unsupported') throw error; // without a tokenizer there is still model.info
      noText = toWire(error);
    }
  } catch (error) {
    await file.keep(['format', 'unsupported'].includes(error.code) ? false : undefined);
    throw error;
  }
}

/**
 * Takes the model to the GPU, tensor by tensor, out of the memory of the engine that received it: that engine then ends, and
 * the browser gets the memory back. If the GPU is no good, it stays where it is, unless the GPU was asked for by name.
 */
async function toGpu(byName) {
  let gpu;
  try {
    gpu = await startGpu();
    const [{ memory }, at] = [engine, model.address() >>> 0];
    const read = (from, to) => new Uint8Array(memory.buffer, at + from, to - from);
    const onGpu = await gpu.api.GpuModel.open(model.header(), info.bytes, read, model.testLogits(), byName);
    model.free();
    engine.end();
    const reasons = [byName ? 'GPU, because it was asked for.' : 'GPU, because it finds what the CPU finds.'];
    engine = { ...gpu, backend: { device: 'gpu', build: 'simd128', threads: 1, description: engine.gpu, reasons } };
    model = onGpu;
  } catch (error) {
    gpu?.end();
    if (byName) throw error;
    engine.backend.reasons.unshift(`Not on a GPU: ${error.message}.`);
  }
}

function facts({ from, resumed, sha256, notes }, cached) {
  const { backend: description, ...about } = info;
  return {
    info: { ...about, tokenizer: text !== undefined, chatTemplate: text?.hasTemplate ?? false },
    backend: { ...engine.backend, description: engine.backend.description ?? description },
    source: { from, resumed: resumed ?? false, sha256, cached, notes },
  };
}

function needText() {
  if (!text) throw new BonsaiError(noText.code, noText.message);
  return text;
}

const template = (messages, options = {}) => needText().chat(JSON.stringify(messages), JSON.stringify(options));

const running = new Map(); // controllers by the number of the call
let queue = Promise.resolve();

async function answer({ call, name, args }, controller) {
  try {
    controller.signal.throwIfAborted();
    const result = await calls[name](args, controller.signal, (progress) => postMessage({ call, progress }));
    postMessage({ call, result });
  } catch (error) {
    postMessage({ call, error: controller.signal.aborted ? { aborted: true } : toWire(error) });
  } finally {
    running.delete(call);
  }
}

onmessage = ({ data }) => {
  if (data.serve) return serve(data.serve, () => postMessage({ ready: true }));
  if ('threadsStarted' in data) return threadsStarted(data.threadsStarted);
  if ('abort' in data) return running.get(data.abort)?.abort();
  const controller = new AbortController();
  running.set(data.call, controller);
  queue = queue.then(() => answer(data, controller));
};
