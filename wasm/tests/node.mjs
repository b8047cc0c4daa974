// node node.mjs BUILD FIXTURES BACKEND: the engine in folder BUILD (wasm-bindgen's target `web`) and the module `text`
// beside it give the ids, texts and bits of golden.json, which golden.rs beside this holds this machine to. FIXTURES has
// the models, BACKEND is the line that the engine must say of itself.
import assert from 'node:assert/strict';
import './engine.mjs';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [build, fixtures, backend] = process.argv.slice(2);
async function start(folder) {
  const module = await import(pathToFileURL(resolve(folder, 'bonsai_wasm.js')));
  module.initSync({ module: readFileSync(join(folder, 'bonsai_wasm_bg.wasm')) });
  return module;
}
const wasm = await start(build);
const words = await start(join(build, '../text'));
const textOf = (model) => new words.Text(model.header(), JSON.parse(model.info()).vocab);
const golden = JSON.parse(readFileSync(new URL('golden.json', import.meta.url)));
const file = (name) => new Uint8Array(readFileSync(join(fixtures, `${name}.gguf`)));

/** FNV-1a, 64 bits wide, of the bits of numbers. */
function hash(before, numbers) {
  let hash = before;
  for (const byte of new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash;
}

/** Generates as many ids as `expected` has, and holds everything to it. */
async function holds(model, session, expected, what) {
  const text = textOf(model);
  const stream = new words.TextStream(text);
  const ids = [];
  let [bits, streamed] = [0xcbf29ce484222325n, ''];
  await session.prompt(text.encode(golden.prompt));
  for (const wanted of expected.ids) {
    const id = await session.next();
    assert.equal(id, wanted, `${what}: token ${ids.length}`);
    bits = hash(bits, (await session.logits()));
    ids.push(id);
    streamed += stream.push(id);
  }
  streamed += stream.finish();
  assert.equal(bits.toString(16).padStart(16, '0'), expected.logits, `${what}: bits of the logits`);
  assert.equal(streamed, expected.text, `${what}: text of the stream`);
  assert.equal(text.decode(Uint32Array.from(ids)), expected.text, `${what}: text`);
  stream.free();
  text.free();
}

/** The code and the message of what `f` throws, or its promise. */
async function thrown(f) {
  try {
    await f();
  } catch (error) {
    assert(error instanceof Error && error.name === 'BonsaiError', `${error}`);
    return [error.code, error.message];
  }
  assert.fail('nothing was thrown');
}

const sampled = { temperature: 1.5, repeatPenalty: 1.1, seed: 8 };
for (const [name, { kv, greedy, sampled: drawn }] of Object.entries(golden.cases)) {
  const model = new wasm.Model(file(name));
  const session = model.session(JSON.stringify({ kv, sampling: { temperature: 0 } }));
  await holds(model, session, greedy, `${name}, greedy`);
  session.reset();
  session.sampling(JSON.stringify(sampled));
  await holds(model, session, drawn, `${name}, sampled`);
  session.reset(); // random numbers begin again
  model.free(); // the session goes on
  const again = new wasm.Model(file(name));
  await holds(again, session, drawn, `${name}, sampled again`);
  session.free();
  again.free();
}

// Facts.
const bytes = file('q2_0');
const model = new wasm.Model(bytes);
const info = JSON.parse(model.info());
assert.equal(info.backend, backend);
assert.deepEqual([info.name, info.vocab, info.context, info.bytes], ['tiny', 261, 512, bytes.length]);
const text = textOf(model);
assert.deepEqual([info.eos, text.hasTemplate, info.layers], [[256], true, 1]);
wasm.selfTest();
assert(info.parameters > 400_000 && /Q2_0/.test(info.description));

// Tokens: marks in a text of strangers stay text, characters come whole.
assert.deepEqual([...text.encode('he<|endoftext|>')].at(-1), 256);
assert(!text.encodePlain('he<|endoftext|>').includes(256));
const stream = new words.TextStream(text);
assert.deepEqual([...text.encode('\u{1f333}')].map((id) => stream.push(id)), ['', '', '', '\u{1f333}']);
stream.push(text.encode('\u{1f333}')[0]);
assert.deepEqual([stream.finish(), stream.finish()], ['\ufffd', '']);

// A conversation by the model's template, which here is the first message; what a template refuses is an error.
const messages = '[{"role": "user", "content": "\u{1f333}"}]';
assert.equal(text.chat(messages), '\u{1f333}');
assert.equal(text.chat(messages, '{"thinking": false, "tools": [{"name": "f"}], "addGenerationPrompt": false}'), '\u{1f333}');
assert.throws(() => text.chat('[]'), { name: 'BonsaiError', code: 'template' });
assert.throws(() => text.chat('[1]'), { name: 'BonsaiError', code: 'argument' });

// A file in pieces is the same model.
const loader = new wasm.Loader(bytes.length);
for (let at = 0; at < bytes.length; at += 10_007) loader.push(bytes.subarray(at, at + 10_007));
assert.equal(loader.sha256(), createHash('sha256').update(bytes).digest('hex'));
const pieces = loader.finish();
assert.equal(pieces.info(), model.info());
pieces.free();

// The answer ends at an end token, and the conversation goes on behind it.
const chat = model.session('{"context": 64}');
assert.deepEqual([chat.position, chat.context, (await chat.logits()).length], [0, 64, 0]);
await chat.prompt(text.encode('he'));
await chat.next();
await chat.prompt(text.encode('he'));
assert.deepEqual([chat.position, (await chat.logits()).length], [3, 261]);
// A prompt in pieces says the same as one in one go; a conversation told again is read from where it differs.
const told = model.session('{"context": 64}');
await told.prompt(text.encode('hehehe'));
assert.equal(told.keepCommon(text.encode('hehe')), 1);
chat.reset();
await chat.read(text.encode('he'));
await chat.prompt(text.encode('h'));
told.reset();
await told.prompt(text.encode('heh'));
assert.deepEqual((await chat.logits()), (await told.logits()));
await chat.read(text.encode('he'));
assert.equal((await thrown(() => wasm.threads(2)))[0], 'argument');

// Errors have codes: those of ErrorCode in runtime/src/error.rs.
assert.equal((await thrown(() => new wasm.Model(new Uint8Array(100))))[0], 'format');
assert.match((await thrown(() => new wasm.Model(bytes.subarray(0, 50_000))))[1], /^model.gguf: /);
assert.equal((await thrown(() => model.session('{"context": 1000000}')))[0], 'argument');
assert.match((await thrown(() => model.session('{"contxt": 10}')))[1], /contxt/);
assert.equal((await thrown(() => model.session('{"kv": "f17"}')))[0], 'argument');
assert.equal((await thrown(() => model.session().next()))[0], 'argument');
assert.equal((await thrown(() => chat.prompt(Uint32Array.of(261))))[0], 'token');
assert.equal((await thrown(() => chat.prompt(new Uint32Array(62))))[0], 'context-full');
assert.equal((await thrown(() => stream.push(1_000_000)))[0], 'token');
assert.equal((await thrown(() => new wasm.Loader(0xffff_ffff)))[0], 'memory');
assert.equal((await thrown(() => new wasm.Loader(10).finish()))[0], 'format');
assert.equal((await thrown(() => new wasm.Loader(10).push(new Uint8Array(11))))[0], 'argument');
assert.equal(chat.position, 3); // none of this did harm

console.log(`${backend}: ${Object.keys(golden.cases).length} models, ids, texts and logits to the bit`);
