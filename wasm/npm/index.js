// bonsai-wasm: ternary language models in a web page. Types and words about each name are in index.d.ts.
import { cache } from './cache.js';
import { BonsaiError } from './errors.js';
import { Connection } from './connection.js';

export { BonsaiError, cache };

const SAMPLING = ['temperature', 'topK', 'topP', 'minP', 'repeatPenalty', 'repeatLastN', 'seed'];

/** Parts options: those of sampling, if there are any, and the rest. */
function part(options) {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  const isSampling = ([name]) => SAMPLING.includes(name);
  const sampling = entries.some(isSampling) ? Object.fromEntries(entries.filter(isSampling)) : undefined;
  return [sampling, Object.fromEntries(entries.filter((entry) => !isSampling(entry)))];
}

function sourceOf(source) {
  if (source instanceof Blob) return { blob: source }; // a File is one
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return { blob: new Blob([source]) };
  if (typeof source !== 'string' && !(source instanceof URL)) {
    throw new BonsaiError('argument', 'a model comes from a URL, a File, a Blob or bytes');
  }
  return { url: `${new URL(source, globalThis.document?.baseURI ?? location.href)}` };
}

export class Model {
  #connection;
  #sessions = 0;
  info;
  backend;
  source;

  static async load(source, { signal, onProgress, cache: caching, sha256, ...wanted } = {}) {
    signal?.throwIfAborted();
    const args = { source: sourceOf(source), wanted, cache: caching, sha256 };
    const connection = new Connection();
    try {
      return new Model(connection, await connection.call('load', args, { signal, onProgress, atOnce: true }));
    } catch (error) {
      connection.close(error === signal?.reason ? 1000 : 0); // time to close the files of the cache
      throw error;
    }
  }

  constructor(connection, { info, backend, source }) {
    this.#connection = connection;
    Object.assign(this, { info, backend, source });
  }

  session(options = {}) {
    const [sampling, rest] = part(options);
    return new Session(this.#connection, this.#sessions++, sampling ? { ...rest, sampling } : rest);
  }

  encode(text, { plain = false } = {}) {
    return this.#connection.call('encode', { text, plain });
  }

  decode(ids) {
    return this.#connection.call('decode', { ids: Uint32Array.from(ids) });
  }

  template(messages, options) {
    return this.#connection.call('template', { messages, options });
  }

  free() {
    this.#connection.close();
  }

  [Symbol.dispose ?? Symbol.for('Symbol.dispose')]() {
    this.free();
  }
}

class Session {
  #connection;
  #id;
  #made;
  #busy = false;
  stats;

  constructor(connection, id, options) {
    this.#connection = connection;
    this.#id = id;
    this.#made = connection.call('session', { id, options });
    this.#made.catch(() => {}); // whoever uses it hears of it
  }

  generate(prompt, { signal, maxTokens, ...options } = {}) {
    return this.#run('generate', { prompt }, options, { signal, maxTokens });
  }

  chat(messages, { signal, maxTokens, thinking, tools, plain, ...options } = {}) {
    return this.#run('chat', { messages, template: { thinking, tools, plain } }, options, { signal, maxTokens });
  }

  async *#run(name, args, options, { signal, maxTokens }) {
    const [sampling, unknown] = part(options);
    if (Object.keys(unknown).length) throw new BonsaiError('argument', `unknown option '${Object.keys(unknown)[0]}'`);
    if (this.#busy) throw new BonsaiError('argument', 'this session is at work already: end the other loop first');
    this.#busy = true;
    this.stats = undefined;
    const id = this.#id;
    try {
      await this.#made;
      await this.#connection.call(name, { id, ...args, options: { maxTokens, sampling } }, { signal });
      for (;;) {
        const { piece, stats } = await this.#connection.call('next', { id }, { signal });
        this.stats = stats;
        if (piece) yield piece;
        if (stats.stop) return stats;
      }
    } finally {
      this.#busy = false;
    }
  }

  async position() {
    await this.#made;
    return this.#connection.call('position', { id: this.#id });
  }

  async reset() {
    await this.#made;
    return this.#connection.call('reset', { id: this.#id });
  }

  free() {
    this.#connection.call('freeSession', { id: this.#id }).catch(() => {});
  }
}
