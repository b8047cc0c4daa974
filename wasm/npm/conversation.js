// Sessions, in the worker: a prompt in pieces short enough to be stopped between them, then tokens as text.
import { breathe } from './download.js';

/** Milliseconds that a piece of a prompt should take at most, and tokens that it has at most. */
const PATIENCE = 200;
const LONGEST = 128;
/** Milliseconds for which tokens are gathered before they are handed over. */
const GATHER = 4;

export class Conversation {
  #session;
  #stream;
  #text;
  #left = 0;
  #piece = 8;
  stats;

  constructor(model, text, api, options) {
    this.#session = model.session(JSON.stringify(options));
    this.#text = text;
    this.#stream = new api.TextStream(text);
  }

  /** Feeds a prompt (ids) behind what is there. */
  async begin(ids, { maxTokens = Infinity, sampling }, signal) {
    if (sampling) this.#session.sampling(JSON.stringify(sampling));
    this.stats = { promptTokens: ids.length, promptSeconds: 0, tokens: 0, seconds: 0, stop: undefined };
    this.#left = maxTokens;
    this.#stream.finish();
    const start = performance.now();
    await this.#feed(ids, signal);
    this.stats.promptSeconds = (performance.now() - start) / 1000;
  }

  /** Feeds what is new in a conversation that is told from its beginning. */
  async continue(ids, options, signal) {
    const left = this.#session.keepCommon(ids);
    await this.begin(ids.subarray(ids.length - left), options, signal);
  }

  async #feed(ids, signal) {
    let at = 0;
    while (ids.length - at > this.#piece) {
      const start = performance.now();
      await this.#session.read(ids.subarray(at, at + this.#piece));
      at += this.#piece;
      this.#adapt(performance.now() - start);
      await breathe();
      signal.throwIfAborted();
    }
    await this.#session.prompt(ids.subarray(at));
  }

  #adapt(milliseconds) {
    if (milliseconds > PATIENCE) this.#piece = Math.max(1, this.#piece >> 1);
    else if (milliseconds < PATIENCE / 3) this.#piece = Math.min(LONGEST, this.#piece << 1);
  }

  /** Some more text, empty only at the end. `stats.stop` then says why. */
  async next() {
    const start = performance.now();
    let piece = '';
    while (!this.stats.stop && (piece === '' || performance.now() - start < GATHER)) piece += await this.#token();
    this.stats.seconds += (performance.now() - start) / 1000;
    return { piece, stats: this.stats };
  }

  async #token() {
    if (this.#left <= 0) return this.#end('length');
    let id;
    try {
      id = await this.#session.next();
    } catch (error) {
      if (error.code !== 'context-full') throw error;
      return this.#end('context');
    }
    if (id === undefined) return this.#end('end');
    this.#left--;
    this.stats.tokens++;
    return this.#stream.push(id);
  }

  #end(why) {
    this.stats.stop = why;
    return this.#stream.finish();
  }

  reset() {
    this.#session.reset();
    this.#stream.finish();
  }

  get position() {
    return this.#session.position;
  }

  free() {
    this.#session.free();
    this.#stream.free();
  }
}
