// A model file on its way into the engine's memory: from the network, the cache, or a file of the user. Each piece is
// copied there as it comes; nobody ever holds the whole file besides.
import { Place } from './cache.js';
import { BonsaiError } from './errors.js';

const PIECE = 4 << 20;
const ATTEMPTS = 5;

/** More arrived than was announced. */
class Overrun extends Error {}

/** Lets messages in, so that an abort is seen. */
export const breathe = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    resolve();
  };
  port2.postMessage(0);
});

/**
 * Receives a file. `to` is where it goes: `begin(bytes)`, `push(piece)`, `fill(bytes, read)`, `sha256()`. `source` has
 * `blob` or `url`. Returns where it came from, `keep(ok)` to be called when it is known whether it is a model (undefined if
 * that did not come out), and `notes` for people if something did not work out.
 */
export async function receive(source, { cache = true, sha256, signal, progress }, to) {
  const transfer = new Transfer({ cache, signal, progress }, to);
  const found = source.blob ? await transfer.file(source.blob) : await transfer.url(source.url, sha256);
  const actual = to.sha256();
  if (sha256 && actual !== sha256.toLowerCase()) {
    await transfer.keep(false);
    throw new BonsaiError('check', `this is not the file that was asked for: its SHA-256 is ${actual}, expected ${sha256}`);
  }
  return { ...found, sha256: actual, notes: transfer.notes, keep: (ok) => transfer.keep(ok, actual) };
}

class Transfer {
  notes = [];
  place;
  #to;
  #options;
  #received = 0;
  #total;

  constructor(options, to) {
    this.#options = options;
    this.#to = to;
  }

  /** Settles what stays in the cache: a whole model (true), nothing (false), or what there is (undefined). */
  async keep(ok, sha256) {
    const { place } = this;
    if (!place) return false;
    try {
      if (ok && !place.complete) await place.describe({ ...place.about, sha256, saved: new Date().toISOString() });
      if (ok === false) await place.remove();
      else place.close();
    } catch (error) {
      await this.#forgo(error.message);
      return false;
    } finally {
      this.place = undefined;
    }
    return ok === true;
  }

  async file(blob) {
    this.#begin(blob.size);
    await this.#drain(blob.stream(), 'file');
    return { from: 'file' };
  }

  async url(url, sha256) {
    await this.#openPlace(url);
    try {
      if (this.place?.complete && this.#options.cache !== 'reload') {
        const expected = this.place.about.sha256;
        if (!sha256 || sha256.toLowerCase() === expected) {
          await this.#stored('cache', this.place.bytes);
          if (this.#to.sha256() === expected) return { from: 'cache' };
          this.notes.push('The cached copy was damaged, so it was downloaded again.');
        }
      }
      return await this.#network(url);
    } catch (error) {
      this.place?.close(); // what has arrived stays for the next attempt
      this.place = undefined;
      throw error;
    }
  }

  async #openPlace(url) {
    if (this.#options.cache === false) return;
    try {
      this.place = await Place.open(url);
    } catch (error) {
      const busy = error.name === 'NoModificationAllowedError';
      this.#uncached(busy ? 'another tab is using this model' : error.message);
    }
  }

  #uncached(why) {
    this.notes.push(`Not cached: ${why}.`);
  }

  #begin(total) {
    this.#total = total;
    this.#received = 0;
    this.#to.begin(total);
  }

  #count(bytes, phase) {
    this.#received += bytes;
    this.#options.progress?.({ phase, loaded: this.#received, total: this.#total });
  }

  /** The first `bytes` of the cached file. */
  async #stored(phase, bytes, total = bytes) {
    this.#begin(total);
    for (let at = 0; at < bytes; at += PIECE) {
      const size = Math.min(PIECE, bytes - at);
      this.#to.fill(size, (view) => this.place.read(view, at));
      this.#count(size, phase);
      await breathe();
      this.#options.signal.throwIfAborted();
    }
  }

  async #network(url) {
    const { place } = this;
    const about = this.#options.cache !== 'reload' && !place?.complete ? place?.about : undefined;
    // All of it may be there, unsealed, when a tab ended while the model was opened: its last byte brings the headers again.
    if (about && place.bytes >= about.bytes) place.truncate(about.bytes - 1);
    let first = about?.version && place.bytes ? place.bytes : 0;
    let response = await this.#request(url, first);
    if (first && !continues(response, first, about)) {
      if (response.status !== 200) response = await this.#request(url, 0);
      first = 0;
    }
    const total = first ? about.bytes : lengthOf(response);
    if (total === undefined) return this.#unknownLength(response);
    if (first) await this.#stored('cache', first, total);
    else this.#begin(total);
    await this.#prepare(url, first, response);
    const resumed = first > 0;
    for (let failures = 0; ; ) {
      const before = this.#received;
      try {
        await this.#drain(response.body, 'download');
        if (this.#received === total) return { from: 'network', resumed };
      } catch (error) {
        // The length was that of a compressed file, and other sites may hide the header that says so.
        if (error instanceof Overrun && !resumed) return this.#unknownLength(await this.#request(url, 0));
        if (error instanceof Overrun) throw new BonsaiError('network', `${url}: more arrived than the server had announced`);
        if (this.#options.signal.aborted || error instanceof BonsaiError || error.name === 'BonsaiError') throw error;
      }
      failures = this.#received > before ? 1 : failures + 1;
      response = await this.#again(url, failures, versionOf(response));
    }
  }

  /** Makes room in the cache, or decides to do without. */
  async #prepare(url, first, response) {
    const { place } = this;
    if (!place) return;
    try {
      const { usage = 0, quota = Infinity } = await navigator.storage.estimate();
      if (quota - usage + place.bytes < this.#total) return await this.#forgo(FULL);
      if (first > 0) return;
      place.truncate(0);
      await place.describe({ url, name: nameOf(url), bytes: this.#total, version: versionOf(response) });
    } catch (error) {
      await this.#forgo(error.message);
    }
  }

  /** Whatever goes wrong with the cache ends no load: it goes on without. */
  async #forgo(why) {
    const { place } = this;
    this.place = undefined;
    this.#uncached(why);
    await place.remove().catch(() => {}); // what failed before may fail again
  }

  async #drain(stream, phase) {
    const reader = stream.getReader();
    const { signal } = this.#options;
    const abort = () => reader.cancel(signal.reason).catch(() => {});
    signal.addEventListener('abort', abort);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        signal.throwIfAborted();
        if (done) return;
        if (this.#received + value.length > this.#total) throw new Overrun();
        this.#to.push(value);
        await this.#store(value);
        this.#count(value.length, phase);
      }
    } finally {
      signal.removeEventListener('abort', abort);
      reader.cancel().catch(() => {}); // nobody reads the rest
    }
  }

  async #store(piece) {
    try {
      this.place?.append(piece);
    } catch (error) {
      await this.#forgo(error.name === 'QuotaExceededError' ? FULL : error.message);
    }
  }

  /** Asks for the rest, behind what was received, after a pause. */
  async #again(url, failures, version) {
    for (let n = failures; ; n++) {
      if (n >= ATTEMPTS) throw new BonsaiError('network', `${url}: the connection broke ${n} times, last after ${this.#received} of ${this.#total} bytes`);
      await pause(250 * 2 ** n, this.#options.signal);
      const response = await this.#request(url, this.#received).catch((error) => {
        if (error.code !== 'network') throw error;
      });
      if (!response) continue;
      if (continues(response, this.#received, { bytes: this.#total, version })) return response;
      throw new BonsaiError('network', `${url}: the connection broke, and this server cannot continue a download`);
    }
  }

  async #request(url, first) {
    const { signal } = this.#options;
    const headers = first ? { Range: `bytes=${first}-` } : {};
    let response;
    try {
      response = await fetch(url, { headers, signal, cache: 'no-store' }); // large, and kept elsewhere
    } catch (error) {
      signal.throwIfAborted();
      throw new BonsaiError('network', `${url}: cannot be reached: no connection, or the server does not let other sites read it (CORS)`);
    }
    if (response.status === 416) return response; // what is there is longer than the file: begin again
    if (!response.ok) throw new BonsaiError('network', `${url}: the server answers ${response.status} ${response.statusText}`.trim());
    return response;
  }

  /** A server that does not say how long the file is. */
  async #unknownLength(response) {
    if (this.place) {
      this.#uncached('the server does not say how large the model is');
      await this.keep(false);
    }
    const blob = await response.blob();
    await this.file(blob);
    return { from: 'network', resumed: false };
  }
}

const FULL = 'the browser gives this site too little space, so the model stays in memory';

/** The last part of an address, for people. */
function nameOf(url) {
  const name = new URL(url).pathname.split('/').pop();
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // a percent sign that escapes nothing
  }
}

/** What tells one version of a file from another. */
const versionOf = (response) => response.headers.get('ETag') ?? response.headers.get('Last-Modified') ?? undefined;

function lengthOf(response) {
  const length = Number(response.headers.get('Content-Length') ?? NaN);
  return response.headers.has('Content-Encoding') || !Number.isSafeInteger(length) ? undefined : length;
}

/** Whether a response is the rest, from byte `first`, of the file that was begun. */
function continues(response, first, { bytes, version }) {
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '') ?? [];
  // Other sites may hide that header; a length that fits says the same.
  const fits = from === undefined ? lengthOf(response) === bytes - first : Number(from) === first && Number(total) === bytes;
  return response.status === 206 && fits && version !== undefined && versionOf(response) === version;
}

const pause = (milliseconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    reject(signal.reason);
  }, { once: true });
});
