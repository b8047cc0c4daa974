// The worker: one model, its sessions, and calls from index.js, one after the other. The same file is what its further
// threads run.
import { Conversation } from './conversation.js';
import { receive } from './download.js';
import { serve, startEngine, startText } from './engine.js';
import { BonsaiError, toWire } from './errors.js';

let engine;
let textApi;
let model;
let text;
const sessions = new Map();

/** The engine's memory as the place where a file goes. */
const sink = {
  begin(bytes) {
    this.loader?.free();
    this.loader = undefined;
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

const startThreads = (module, memory, count) => new Promise((resolve, reject) => {
  threadsStarted = (error) => (error ? reject(new BonsaiError('internal', error)) : resolve());
  postMessage({ threads: { module, memory, count } });
});
let threadsStarted;

const calls = {
  async load({ source, wanted, cache, sha256 }, signal, progress) {
    [engine, textApi] = await Promise.all([startEngine(wanted, startThreads), startText()]);
    signal.throwIfAborted();
    const file = await receive(source, { cache, sha256, signal, progress }, sink);
    progress({ phase: 'open', loaded: 0 });
    await open(file);
    const cached = await file.keep(true); // whatever a GPU makes of it, it is a model
    await openGpu(wanted);
    return facts(file, cached);
  },
  encode: ({ text: words, plain }) => (plain ? needText().encodePlain(words) : needText().encode(words)),
  decode: ({ ids }) => needText().decode(ids),
  template: ({ messages, options }) => template(messages, options),
  session({ id, options }) {
    const gpu = engine.backend.device === 'gpu';
    sessions.set(id, new Conversation(model, needText(), textApi, { ...options, gpu }));
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

/** Opens what arrived. What is no model does not stay in the cache. */
async function open(file) {
  try {
    model = sink.finish();
    const { vocab } = JSON.parse(model.info());
    try {
      text = new textApi.Text(model.header(), vocab);
    } catch (error) {
      if (error.code !== 3) throw error; // without a tokenizer there is still model.info
    }
  } catch (error) {
    await file.keep(false);
    throw error;
  }
}

/** Takes the model to the GPU, if the engine is the one for it. If that fails: the next best, unless it has to be the GPU. */
async function openGpu(wanted) {
  if (engine.backend.device !== 'gpu') return;
  const byName = wanted.device === 'gpu';
  try {
    await model.openGpu(byName);
  } catch (error) {
    if (byName) throw error;
    await leaveGpu(wanted, `Not on a GPU: ${error.message}.`);
  }
}

/** Copies the model into an engine for the CPU. */
async function leaveGpu(wanted, why) {
  const { bytes } = JSON.parse(model.info());
  const file = new Uint8Array(engine.memory.buffer, model.address() >>> 0, bytes).slice(); // the same module may start anew
  model.free();
  const onCpu = await startEngine({ ...wanted, device: 'cpu' }, startThreads);
  engine = { ...onCpu, backend: { ...onCpu.backend, reasons: [why, ...onCpu.backend.reasons] } };
  model = new engine.api.Model(file);
}

function facts({ from, resumed, sha256, notes }, cached) {
  const { backend: description, ...info } = JSON.parse(model.info());
  return {
    info: { ...info, tokenizer: text !== undefined, chatTemplate: text?.hasTemplate ?? false },
    backend: { ...engine.backend, description: engine.backend.description ?? description },
    source: { from, resumed: resumed ?? false, sha256, cached, notes },
  };
}

function needText() {
  if (!text) throw new BonsaiError('unsupported', 'this model has no tokenizer');
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
