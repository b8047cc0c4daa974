// The page's end of the line to the worker: calls and their answers, and the workers' lives.
import { BonsaiError, fromWire } from './errors.js';

const newWorker = () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });

export class Connection {
  #worker = newWorker();
  #threads = [];
  #calls = new Map();
  #number = 0;
  /** Why nothing can be asked any more. */
  #over;

  constructor() {
    this.#watch(this.#worker);
    this.#worker.onmessage = ({ data }) => this.#receive(data);
  }

  /** Asks the worker. `atOnce`: an abort is final at once, and not when the worker has seen it. */
  call(name, args, { signal, onProgress, atOnce } = {}) {
    signal?.throwIfAborted();
    if (this.#over) return Promise.reject(this.#over);
    const call = this.#number++;
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.#worker.postMessage({ abort: call });
        if (atOnce) this.#settle(call, () => reject(signal.reason));
      };
      const done = () => signal?.removeEventListener('abort', abort);
      const fail = (error) => reject(error.aborted ? signal.reason : error);
      signal?.addEventListener('abort', abort);
      this.#calls.set(call, { resolve, fail, done, onProgress });
      this.#worker.postMessage({ call, name, args });
    });
  }

  #settle(call, how) {
    const waiting = this.#calls.get(call);
    if (!waiting) return;
    this.#calls.delete(call);
    waiting.done();
    how(waiting);
  }

  #receive({ call, result, error, progress, threads, endThreads }) {
    if (threads) return this.#startThreads(threads);
    if (endThreads) return this.#endThreads();
    if (progress) return this.#calls.get(call)?.onProgress?.(progress);
    if (!error) return this.#settle(call, ({ resolve }) => resolve(result));
    this.#settle(call, ({ fail }) => fail(error.aborted ? error : fromWire(error)));
    if (error.fatal) this.#end(new BonsaiError('internal', error.message));
  }

  async #startThreads({ count, ...what }) {
    const start = () => new Promise((resolve, reject) => {
      const thread = newWorker();
      this.#threads.push(thread);
      thread.onmessage = resolve; // it is ready
      thread.onerror = (event) => reject(new Error(`a thread did not start: ${event.message ?? 'no reason given'}`));
      thread.postMessage({ serve: what });
    });
    try {
      await Promise.all(Array.from({ length: count }, start));
      this.#threads.forEach((thread) => this.#watch(thread));
      this.#worker.postMessage({ threadsStarted: undefined });
    } catch (error) {
      this.#endThreads();
      this.#worker.postMessage({ threadsStarted: error.message });
    }
  }

  #endThreads() {
    this.#threads.splice(0).forEach((thread) => thread.terminate());
  }

  /** A worker that dies takes everything with it: the others may wait for it for ever. */
  #watch(worker) {
    worker.onerror = (event) => {
      event.preventDefault();
      this.#end(new BonsaiError('internal', `the worker stopped: ${event.message ?? 'it could not be loaded'}`));
    };
  }

  #end(why) {
    this.#over ??= why;
    for (const call of [...this.#calls.keys()]) this.#settle(call, ({ fail }) => fail(why));
    this.#worker.terminate();
    this.#endThreads();
  }

  /** Ends the workers, which gives all memory back; after `grace` milliseconds. */
  close(grace = 0) {
    const end = () => this.#end(new BonsaiError('argument', 'this model was freed'));
    if (grace) setTimeout(end, grace);
    else end();
  }
}
