// bonsai-wasm: ternary language models in a web page.

/** What went wrong: see `code`. A stopped call throws its signal's reason instead. */
export class BonsaiError extends Error {
  readonly name: 'BonsaiError';
  readonly code: ErrorCode;
}

/**
 * - `network`, `io`: the server, or the browser's storage, refused
 * - `format`: not a model file, or a damaged one; `check`: not the file with this SHA-256
 * - `unsupported`, `tokenizer`, `template`: a model, or a wish, that this package cannot serve
 * - `argument`, `token`: an option or a token id that makes no sense
 * - `context-full`: the prompt does not fit; `memory`: the model does not
 * - `gpu`: the GPU stopped, or computes something wrong; load the model again, perhaps with `device: 'cpu'`
 * - `internal`: the engine stopped; load the model again
 */
export type ErrorCode =
  | 'network' | 'io' | 'format' | 'check' | 'unsupported' | 'tokenizer' | 'template' | 'argument' | 'token'
  | 'context-full' | 'memory' | 'cancelled' | 'gpu' | 'internal';

export type Build = 'simd128-threads' | 'simd128' | 'plain';

export interface Progress {
  /** `download`: from the network; `cache`: from this browser; `file`: from a Blob; `open`: all is here. */
  phase: 'download' | 'cache' | 'file' | 'open';
  /** Bytes so far. */
  loaded: number;
  /** Bytes of the whole file. */
  total?: number;
}

export interface LoadOptions {
  /**
   * `auto` takes the best there is and says why in `model.backend`; a device by name is that or an error. `gpu` is WebGPU,
   * also where a program on the CPU plays it, which `auto` leaves alone. A GPU computes with f32 activations: nearly the
   * same numbers as the CPU, not the same bits. Default: auto.
   */
  device?: 'auto' | 'cpu' | 'gpu';
  /** Threads, the worker's own included. More than one need a cross-origin isolated page. Never changes a result. */
  threads?: number;
  /** This build or an error, for tests. */
  build?: Build;
  /** Stops loading at once. What has arrived stays in the cache, and the next load goes on from there. */
  signal?: AbortSignal;
  onProgress?(progress: Progress): void;
  /** Whether models from a URL are kept in the browser; `reload` downloads anew. Default: true. */
  cache?: boolean | 'reload';
  /** SHA-256 that the file must have, in hex. A cached file is always checked against what was downloaded. */
  sha256?: string;
}

export interface ModelInfo {
  name: string | null;
  /** One sentence about the file. */
  description: string;
  parameters: number;
  bytes: number;
  layers: number;
  vocab: number;
  /** Tokens that the model was made for. */
  context: number;
  /** Ids that end a text. */
  eos: number[];
  tokenizer: boolean;
  chatTemplate: boolean;
}

export interface Backend {
  device: 'cpu' | 'gpu';
  build: Build;
  threads: number;
  /** For people: `cpu, wasm simd128, 4 threads`, or the name of the GPU. */
  description: string;
  /** Sentences: why this, and why nothing better. */
  reasons: string[];
}

export interface Source {
  from: 'network' | 'cache' | 'file';
  /** Whether a download went on where an earlier one had stopped. */
  resumed: boolean;
  cached: boolean;
  /** Of the whole file, in hex. */
  sha256: string;
  /** Sentences about what did not work out, such as a full cache. */
  notes: string[];
}

/** What is left out stays as it was; giving any of them begins the random numbers again. */
export interface Sampling {
  /** 0 always takes the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repeatPenalty?: number;
  repeatLastN?: number;
  seed?: number;
}

export interface SessionOptions extends Sampling {
  /** Most tokens of prompt and answer together. Default: the model's, at most 4096. */
  context?: number;
  /** f32 activations: several times slower. */
  exact?: boolean;
  /** How keys and values are kept: on a GPU as f16 or int8. Default: int16, on a GPU f16. */
  kv?: 'f32' | 'f16' | 'int16' | 'int8' | 'int4';
}

export interface GenerateOptions extends Sampling {
  /** Stops between pieces of the prompt (about 200 ms at most) and between tokens. The session can be used on. */
  signal?: AbortSignal;
  /** Default: until the model ends, or the context is full. */
  maxTokens?: number;
}

export interface ChatOptions extends GenerateOptions {
  /** Left out, the template decides. */
  thinking?: boolean;
  /** JSON schemas of functions. */
  tools?: object[];
  /** A plain format where the model has no template, which otherwise is an error. */
  plain?: boolean;
}

export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  content: string;
}

export interface Stats {
  promptTokens: number;
  promptSeconds: number;
  tokens: number;
  seconds: number;
  /** Why it ended, once it has: the model did, `maxTokens` came, or the context is full. */
  stop?: 'end' | 'length' | 'context';
}

/** A model in a worker of its own. */
export class Model implements Disposable {
  private constructor();
  /** Loads a GGUF file from an address (relative to the page), a File or Blob of the user, or bytes. */
  static load(source: string | URL | Blob | ArrayBuffer | ArrayBufferView<ArrayBuffer>, options?: LoadOptions): Promise<Model>;
  readonly info: ModelInfo;
  readonly backend: Backend;
  readonly source: Source;
  /** Starts a conversation. What is wrong with the options shows when it is first used. */
  session(options?: SessionOptions): Session;
  /** Ids of a text. `plain`: special tokens written in it stay plain text. */
  encode(text: string, options?: { plain?: boolean }): Promise<Uint32Array>;
  decode(ids: Iterable<number>): Promise<string>;
  /** A conversation as the model sees it. */
  template(messages: Message[], options?: Pick<ChatOptions, 'thinking' | 'tools' | 'plain'> & { addGenerationPrompt?: boolean }): Promise<string>;
  /** Ends its workers, which gives all memory back. May be called again. */
  free(): void;
  [Symbol.dispose](): void;
}

/** One conversation. */
export interface Session {
  /** Feeds a prompt (text or ids) behind what is there, and gives the text that follows, piece by piece. */
  generate(prompt: string | Iterable<number>, options?: GenerateOptions): AsyncGenerator<string, Stats, void>;
  /** Answers a conversation that is told from its beginning. What the session has seen of it is not read again. */
  chat(messages: Message[], options?: ChatOptions): AsyncGenerator<string, Stats, void>;
  /** Of the loop that runs, or ran last. */
  readonly stats: Stats | undefined;
  /** Tokens fed so far. */
  position(): Promise<number>;
  /** Forgets everything. */
  reset(): Promise<void>;
  free(): void;
}

export interface CachedModel {
  url: string;
  name: string;
  /** Of the whole file. */
  bytes: number;
  /** Bytes that are here. */
  stored: number;
  complete: boolean;
  sha256?: string;
  /** When it was complete, as ISO 8601. */
  saved?: string;
}

/** The models that this browser keeps for this site. */
export const cache: {
  list(): Promise<CachedModel[]>;
  /** False if there was none. */
  remove(url: string | URL): Promise<boolean>;
  clear(): Promise<void>;
  usage(): Promise<{ usage: number; quota: number; persisted: boolean }>;
  /** Asks the browser never to delete models by itself. Some ask the user; only pages can call it. */
  persist(): Promise<boolean>;
};
