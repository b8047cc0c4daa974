// Models kept in the browser's private file system (OPFS). A model is two files: KEY.gguf with what has arrived of it, and
// KEY.json with what is known about it. It is whole when the latter has a `sha256`.
import { BonsaiError } from './errors.js';

const FOLDER = 'bonsai-models';

async function folder(create) {
  if (!globalThis.navigator?.storage?.getDirectory) throw new BonsaiError('unsupported', 'this browser has no private file system here (pages need https for it)');
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(FOLDER, { create });
}

async function keyOf(url) {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url));
  return [...new Uint8Array(hash).subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function readJson(directory, name) {
  try {
    return JSON.parse(await (await (await directory.getFileHandle(name)).getFile()).text());
  } catch {
    return undefined; // missing, or cut off while it was written: as if nothing were there
  }
}

const sizeOf = async (directory, name) => (await (await directory.getFileHandle(name)).getFile()).size;

const forget = (directory, name) => directory.removeEntry(name).catch((error) => {
  if (error.name === 'NotFoundError') return;
  const why = error.name === 'NoModificationAllowedError' ? 'it is in use, perhaps by another tab' : error.message;
  throw new BonsaiError('io', `cannot delete the cached model: ${why}`);
});

async function withFolder(work, otherwise) {
  try {
    return await work(await folder(false));
  } catch (error) {
    if (error.name === 'NotFoundError') return otherwise;
    throw error;
  }
}

/** The cache, as pages and workers see it. */
export const cache = {
  /** Every model in it, whole or not. */
  list: () => withFolder(async (directory) => {
    const models = [];
    for await (const name of directory.keys()) {
      const about = name.endsWith('.json') && await readJson(directory, name);
      if (!about) continue;
      const stored = await sizeOf(directory, name.replace(/json$/, 'gguf')).catch(() => 0);
      models.push({ ...about, stored, complete: about.sha256 !== undefined && stored === about.bytes });
    }
    return models.sort((a, b) => a.url.localeCompare(b.url));
  }, []),

  /** Deletes the model of this address; false if there was none. */
  remove: (url) => withFolder(async (directory) => {
    const key = await keyOf(`${new URL(url, globalThis.document?.baseURI ?? location.href)}`);
    const there = await readJson(directory, `${key}.json`) !== undefined;
    await forget(directory, `${key}.gguf`); // first: it may refuse
    await forget(directory, `${key}.json`);
    return there;
  }, false),

  /** Deletes all models. */
  async clear() {
    for (const { url } of await cache.list()) await cache.remove(url);
  },

  /** Bytes in use and allowed for all of this site, and whether the browser promised not to delete them. */
  async usage() {
    const { usage = 0, quota = 0 } = await navigator.storage.estimate();
    return { usage, quota, persisted: await navigator.storage.persisted?.() ?? false };
  },

  /** Asks the browser not to delete models when space runs short. Some ask the user. Only pages can call it. */
  persist: async () => await navigator.storage.persist?.() ?? false,
};

/** A place for one model, in a worker. */
export class Place {
  #directory;
  #key;
  #file;
  about;

  static async open(url) {
    const place = new Place();
    place.#directory = await folder(true);
    place.#key = await keyOf(url);
    place.about = await readJson(place.#directory, `${place.#key}.json`);
    const handle = await place.#directory.getFileHandle(`${place.#key}.gguf`, { create: true });
    place.#file = await handle.createSyncAccessHandle();
    if (!place.about) place.truncate(0);
    return place;
  }

  get bytes() {
    return this.#file.getSize();
  }

  get complete() {
    return this.about?.sha256 !== undefined && this.bytes === this.about.bytes;
  }

  read(into, at) {
    const count = this.#file.read(into, { at });
    if (count !== into.length) throw new BonsaiError('io', 'the cached model cannot be read');
  }

  append(piece) {
    const at = this.bytes;
    const count = this.#file.write(piece, { at });
    if (count === piece.length) return;
    this.#file.truncate(at); // so that what is there is a beginning of the model
    throw new DOMException('the cache is full', 'QuotaExceededError');
  }

  truncate(bytes) {
    this.#file.truncate(bytes);
  }

  async describe(about) {
    this.about = about;
    const handle = await this.#directory.getFileHandle(`${this.#key}.json`, { create: true });
    const file = await handle.createSyncAccessHandle();
    file.truncate(0);
    file.write(new TextEncoder().encode(JSON.stringify(about)), { at: 0 });
    file.close();
  }

  close() {
    this.#file.flush();
    this.#file.close();
  }

  async remove() {
    this.#file.close();
    await forget(this.#directory, `${this.#key}.gguf`);
    await forget(this.#directory, `${this.#key}.json`);
  }
}
