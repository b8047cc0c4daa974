// node test.mjs CLI-TEXT: the package in Chromium. CLI-TEXT is a file with what `bonsai run --temp 0` wrote for PROMPT
// with the demo's model: every build has to write the same. PLAYWRIGHT names the folder of playwright-core, VITE what Vite
// made of samples/vite, GPU_OPS where the module of examples/gpu_ops.rs lies. SCREENSHOTS names a folder for pictures of the
// demo page, ONLY a part of the names of the tests to run.
import assert from 'node:assert/strict';
import { readFileSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serve } from '../../demo/serve.mjs';

const require = createRequire(join(process.env.PLAYWRIGHT ?? process.cwd(), 'x.js'));
const { chromium } = require('playwright-core');
const axe = require.resolve('axe-core');
const PROMPT = 'Once upon a time';
const expected = readFileSync(process.argv[2], 'utf8').replace(/\n$/, '');
const folder = mkdtempSync(join(tmpdir(), 'bonsai-browser-'));
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const args = ['--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--js-flags=--expose-gc', '--enable-blink-features=ForceEagerMeasureMemory'];
const WEBGPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader']; // a program that plays a GPU
const context = await chromium.launchPersistentContext(folder, { executablePath, args: [...args, ...WEBGPU] });
const PATIENCE = 120_000; // milliseconds: the machine may have much else to do
context.setDefaultTimeout(PATIENCE);

/** A page in a browser that has no GPU to offer, and what closes it. */
async function withoutGpu(server) {
  const browser = await chromium.launch({ executablePath, args });
  const without = await browser.newContext();
  without.setDefaultTimeout(PATIENCE);
  return [await open(server, without), () => browser.close()];
}

/** A page that is empty but for the package, as `bonsai`, and what tests need. */
async function open(server, browser = context) {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error('page:', error.message));
  page.on('console', (message) => message.type() === 'error' && console.error('console:', message.text()));
  await page.goto(`http://localhost:${server.address().port}/tests/browser/blank.html`);
  await page.evaluate(async () => {
    window.bonsai = await import('/npm/index.js');
    window.write = async (model, prompt, options) => {
      const session = model.session({ temperature: 0 });
      let text = '';
      for await (const piece of session.generate(prompt, options)) text += piece;
      return { text, stats: session.stats };
    };
    /** Loads the demo's model, writes with it, and tells where it came from. */
    window.story = async (prompt) => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { device: 'cpu' });
      const { text } = await write(model, prompt, { maxTokens: 120 });
      model.free();
      await new Promise((resolve) => setTimeout(resolve, 100)); // its worker lets go of the file
      return { ...model.source, text };
    };
    window.failure = (promise) => promise.then(() => 'nothing', (error) => `${error.name} ${error.code}: ${error.message}`);
  });
  return page;
}

/** Runs JavaScript at the start of every worker from now on, until the route is taken away. */
const patchWorker = (code) => context.route('**/npm/worker.js', async (route) => {
  const response = await route.fetch();
  await route.fulfill({ response, body: code + await response.text() });
});

/** The last text of the demo page, without the name above it. */
const written = (page) => page.evaluate(() => [...document.querySelector('#log p:last-child').childNodes].slice(1).map((node) => node.textContent).join(''));

/** What axe finds wrong with a page for people who see or hear it otherwise, contrast included. */
async function barriers(page) {
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
}

const tests = {
  async 'every build writes what the native program writes'({ isolated, plain }) {
    const cases = [[isolated, {}, 'simd128-threads', 2], [isolated, { threads: 1 }, 'simd128', 1], [plain, {}, 'simd128', 1], [isolated, { build: 'plain' }, 'plain', 1]];
    for (const [page, options, build, threads] of cases) {
      const got = await page.evaluate(async ([options, prompt]) => {
        const model = await bonsai.Model.load('/demo/stories.gguf', { ...options, cache: false });
        const { text, stats } = await write(model, prompt, { maxTokens: 120 });
        model.free();
        return { text, stats, backend: model.backend, source: model.source };
      }, [options, PROMPT]);
      assert.equal(got.text, expected, build);
      assert.deepEqual([got.backend.build, got.backend.threads], [build, threads]);
      assert.deepEqual([got.stats.tokens, got.stats.stop, got.source.from], [120, 'length', 'network']);
      console.log(`  ${got.backend.description}: ${Math.round(120 / got.stats.seconds)} tokens/s. ${got.backend.reasons.join(' ')}`);
    }
  },

  async 'WebGPU, when asked for, writes the same text'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { device: 'gpu', cache: false });
      const [first, second] = [await write(model, prompt, { maxTokens: 120 }), await write(model, prompt, { maxTokens: 20 })];
      const long = await write(model, 'the '.repeat(300), { maxTokens: 1 });
      const wrong = await failure(write({ session: () => model.session({ kv: 'f32' }) }, prompt));
      model.free();
      return { ...first, second: second.text, long: long.stats.promptTokens, wrong, backend: model.backend };
    }, PROMPT);
    assert.equal(got.text, expected);
    assert(expected.startsWith(got.second));
    assert(got.long > 256, 'a prompt of several passes');
    assert.match(got.wrong, /^BonsaiError unsupported: .*f16/);
    assert.deepEqual([got.backend.device, got.backend.build, got.backend.threads], ['gpu', 'simd128', 1]);
    assert.match(got.backend.description, /^gpu, WebGPU, google swiftshader \(a program on the CPU\)$/);
    console.log(`  ${got.backend.description}: ${Math.round(120 / got.stats.seconds)} tokens/s`);
  },

  async 'the memory that held the file is given back once the GPU has it'({ plain }) {
    await patchWorker(`self.memories = [];
      for (const name of ['Instance', 'Memory']) {
        const make = WebAssembly[name];
        WebAssembly[name] = new Proxy(make, { construct(_, given) {
          const made = new make(...given);
          const memory = made.exports?.memory ?? made;
          if (memory instanceof WebAssembly.Memory) memories.push(new WeakRef(memory));
          return made;
        } });
      }`);
    const page = plain; // of a module with threads the memory was still there in this test
    await page.evaluate(async () => { window.kept = await bonsai.Model.load('/demo/stories.gguf', { device: 'gpu', cache: false }); });
    // A thread that was ended is a moment behind the load that ended it.
    for (let n = 0; n < 100 && page.workers().length > 1; n++) await new Promise((resolve) => setTimeout(resolve, 50));
    const workers = page.workers();
    assert.equal(workers.length, 1, 'threads of the engine that held it are gone');
    const [made, alive] = await workers[0].evaluate(async () => {
      for (let n = 0; n < 5; n++) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        gc();
      }
      const still = memories.map((memory) => memory.deref()).filter(Boolean);
      return [memories.length, new Set(still).size];
    });
    assert.equal(alive, 2, 'text and GPU stay');
    assert(made > alive, 'and what held the file goes');
    await page.evaluate(() => kept.free());
    await context.unroute('**/npm/worker.js');
  },

  async 'a model that was freed ends its workers, and with them its memory'({ isolated }) {
    await isolated.evaluate(async (prompt) => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { device: 'cpu', cache: false });
      await write(model, prompt, { maxTokens: 4 });
      window.last = model;
    }, PROMPT);
    assert.equal(isolated.workers().length, 2, 'the engine and its second thread');
    await isolated.evaluate(() => window.last.free());
    // Ended workers are gone a moment later.
    for (let n = 0; n < 100 && isolated.workers().length > 0; n++) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(isolated.workers().length, 0);
  },

  async 'every GPU kernel against f64, at odd shapes'(_, servers) {
    const page = await open(servers.isolated);
    const names = await page.evaluate(async () => {
      window.cases = await import('/gpu-ops/bonsai_wasm.js');
      await cases.default({ module_or_path: '/gpu-ops/bonsai_wasm_bg.wasm' });
      return cases.names();
    });
    assert(names.length > 0);
    for (const name of names) {
      const worst = await page.evaluate((name) => {
        const broken = new Promise((_, reject) => addEventListener('error', (event) => reject(new Error(event.message))));
        return Promise.race([cases.run(name), broken]);
      }, name);
      console.log(`  ${name}: normalised mean square error ${worst ? `at most ${worst.toExponential(1)}` : 'none'}`);
    }
    await page.close();
  },

  async 'a GPU that computes something else is left for the CPU'({ isolated }) {
    // A program that plays a GPU is not taken unasked, so this one says that it is none.
    const patch = `Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });
      const make = GPUDevice.prototype.createShaderModule;
      GPUDevice.prototype.createShaderModule = function (module) {
        const code = module.code.replace('x / (1.0 + exp(', 'x / (2.0 + exp(');
        return make.call(this, { ...module, code });
      };`;
    await patchWorker(patch);
    const got = await isolated.evaluate(async (prompt) => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { cache: false });
      const { text } = await write(model, prompt, { maxTokens: 120 });
      model.free();
      return { text, backend: model.backend, named: await failure(bonsai.Model.load('/demo/stories.gguf', { device: 'gpu', cache: false })) };
    }, PROMPT);
    await context.unroute('**/npm/worker.js');
    assert.equal(got.text, expected);
    assert.deepEqual([got.backend.device, got.backend.build], ['cpu', 'simd128-threads']);
    assert.match(got.backend.reasons[0], /^Not on a GPU: .*computes something else than the CPU/);
    assert.match(got.named, /^BonsaiError gpu: .*computes something else/);
  },

  async 'a GPU that is lost while it writes is an error, not a hang'({ isolated }) {
    await patchWorker(`const request = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (...what) {
        const device = await request.apply(this, what);
        addEventListener('message', ({ data }) => data.name === 'generate' && setTimeout(() => device.destroy(), 500));
        return device;
      };`);
    const got = await isolated.evaluate(async (prompt) => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { device: 'gpu', cache: false });
      const lost = await failure(write(model, prompt, { maxTokens: 400 }));
      const after = await failure(write(model, prompt, { maxTokens: 4 }));
      model.free();
      return [lost, after];
    }, PROMPT);
    await context.unroute('**/npm/worker.js');
    for (const error of got) assert.match(error, /^BonsaiError gpu: /);
    console.log(`  ${got[0]}`);
  },

  async 'without WebGPU the CPU computes, and says why'(_, servers) {
    const [page, close] = await withoutGpu(servers.isolated);
    const got = await page.evaluate(async () => {
      const model = await bonsai.Model.load('/demo/stories.gguf', { cache: false });
      model.free();
      return { backend: model.backend, named: await failure(bonsai.Model.load('/demo/stories.gguf', { device: 'gpu' })) };
    });
    await close();
    assert.equal(got.backend.device, 'cpu');
    assert.match(got.backend.reasons[0], /^CPU, because this browser has/);
    assert.match(got.named, /^BonsaiError unsupported: .*WebGPU/);
  },

  async 'files, bytes and wrong files'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const bytes = await (await fetch('/demo/stories.gguf')).arrayBuffer();
      const results = [];
      for (const source of [new File([bytes], 'a.gguf'), new Uint8Array(bytes)]) {
        const model = await bonsai.Model.load(source);
        results.push((await write(model, prompt, { maxTokens: 120 })).text, model.source.from, await model.decode(await model.encode('the tree')));
        model.free();
        model.free();
      }
      results.push(await failure(bonsai.Model.load(new Uint8Array(100))));
      results.push(await failure(bonsai.Model.load('/nowhere.gguf')));
      results.push(await failure(bonsai.Model.load('/demo/serve.mjs')));
      results.push(await failure(bonsai.Model.load('/demo/stories.gguf', { device: 'tpu' })));
      results.push(await failure(bonsai.Model.load('/demo/stories.gguf', { sha256: '00' })));
      results.push((await bonsai.cache.list()).length);
      return results;
    }, PROMPT);
    assert.deepEqual(got.slice(0, 6), [expected, 'file', 'the tree', expected, 'file', 'the tree']);
    assert.match(got[6], /^BonsaiError format: /);
    assert.match(got[7], /^BonsaiError network: .* 404/);
    assert.match(got[8], /^BonsaiError format: /);
    assert.match(got[9], /^BonsaiError argument: .*tpu/);
    assert.match(got[10], /^BonsaiError check: /);
    assert.equal(got[11], 0, 'what is no model is not cached');
  },

  async 'aborts while it loads, reads and writes'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const results = [];
      const controller = new AbortController();
      const onProgress = ({ phase, loaded }) => phase === 'download' && loaded > 0 && controller.abort();
      results.push(await failure(bonsai.Model.load('/slow/demo/stories.gguf', { cache: false, signal: controller.signal, onProgress })));
      const model = await bonsai.Model.load('/demo/stories.gguf', { cache: false, threads: 1, build: 'plain' });
      const session = model.session({ temperature: 0, context: 512 });
      const reading = new AbortController();
      setTimeout(() => reading.abort(), 20);
      results.push(await failure((async () => { for await (const _ of session.generate('the '.repeat(400), { signal: reading.signal })); })()));
      await session.reset();
      const writing = new AbortController();
      let text = '';
      results.push(await failure((async () => {
        for await (const piece of session.generate(prompt, { signal: writing.signal })) if ((text += piece).length > 40) writing.abort();
      })()));
      await session.reset();
      let again = '';
      for await (const piece of session.generate(prompt, { maxTokens: 120 })) again += piece; // it still works
      for await (const piece of model.session({ temperature: 0 }).generate(prompt)) { results.push(piece.length > 0); break; }
      model.free();
      results.push(await failure((async () => model.encode('x'))()));
      return [...results, text, again];
    }, PROMPT);
    for (const n of [0, 1, 2]) assert.match(got[n], /^AbortError/);
    assert.equal(got[3], true);
    assert.match(got[4], /freed/);
    assert(expected.startsWith(got[5].slice(0, 40)) && got[5].length < expected.length);
    assert.equal(got[6], expected);
  },

  async 'a download goes on where it was stopped, and then comes from the cache, offline too'({ isolated }) {
    const load = (url, stop) => isolated.evaluate(async ([url, stop, prompt]) => {
      const controller = new AbortController();
      const onProgress = ({ phase, loaded }) => stop && phase === 'download' && loaded > 200_000 && controller.abort();
      try {
        const model = await bonsai.Model.load(url, { signal: controller.signal, onProgress });
        const { text } = await write(model, prompt, { maxTokens: 120 });
        model.free();
        return { ...model.source, text };
      } catch (error) {
        await new Promise((resolve) => setTimeout(resolve, 1500)); // the worker closes its files
        return { error: `${error}`, list: await bonsai.cache.list() };
      }
    }, [url, stop, PROMPT]);
    const stopped = await load('/slow/demo/stories.gguf', true);
    assert.match(stopped.error, /Abort/);
    assert(!stopped.list[0].complete && stopped.list[0].stored >= 200_000, JSON.stringify(stopped.list));
    const rest = await load('/slow/demo/stories.gguf', false);
    assert.deepEqual([rest.from, rest.resumed, rest.cached, rest.text], ['network', true, true, expected]);
    const again = await load('/slow/demo/stories.gguf', false);
    assert.deepEqual([again.from, again.cached, again.text, again.sha256], ['cache', true, expected, rest.sha256]);
    assert.equal(await isolated.evaluate(() => bonsai.cache.remove('/slow/demo/stories.gguf')), true);
    assert.deepEqual(await isolated.evaluate(() => bonsai.cache.list()), []);
  },

  async 'a connection that breaks is taken up again'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const sizes = [];
      const onProgress = ({ phase, loaded }) => phase === 'download' && sizes.push(loaded);
      const model = await bonsai.Model.load('/cut/demo/stories.gguf', { onProgress, device: 'cpu' });
      const { text } = await write(model, prompt, { maxTokens: 120 });
      model.free();
      await bonsai.cache.clear();
      return { text, forward: sizes.every((size, n) => n === 0 || size > sizes[n - 1]), ...model.source };
    }, PROMPT);
    assert.deepEqual([got.text, got.forward, got.from, got.cached], [expected, true, 'network', true]);
  },

  async 'a damaged copy in the cache is found by its hash, and downloaded anew'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const load = () => story(prompt);
      const first = await load();
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('bonsai-models');
      for await (const [name, handle] of folder.entries()) {
        if (!name.endsWith('.gguf')) continue;
        const file = await handle.createWritable({ keepExistingData: true });
        await file.write({ type: 'write', position: 400_000, data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) });
        await file.close();
      }
      const [damaged, again] = [await load(), await load()];
      await bonsai.cache.clear();
      return [first, damaged, again];
    }, PROMPT);
    assert.deepEqual(got.map(({ from }) => from), ['network', 'network', 'cache']);
    assert.match(got[1].notes.join(), /damaged/);
    for (const { text, sha256 } of got) assert.deepEqual([text, sha256], [expected, got[0].sha256]);
  },

  async 'what arrived whole before its tab ended is not downloaded again'({ isolated }) {
    const got = await isolated.evaluate(async (prompt) => {
      const load = () => story(prompt);
      const first = await load();
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('bonsai-models');
      for await (const [name, handle] of folder.entries()) {
        if (!name.endsWith('.json')) continue;
        const { sha256, saved, ...about } = JSON.parse(await (await handle.getFile()).text());
        const file = await handle.createWritable();
        await file.write(JSON.stringify(about));
        await file.close();
      }
      const rest = await load();
      const again = await load();
      await bonsai.cache.clear();
      return [first, rest, again];
    }, PROMPT);
    assert.deepEqual(got.map(({ from, resumed, cached }) => [from, resumed, cached]), [
      ['network', false, true], ['network', true, true], ['cache', false, true],
    ]);
    for (const { text, sha256 } of got) assert.deepEqual([text, sha256], [expected, got[0].sha256]);
  },

  async 'without space, or with a cache that fails, the model stays in memory'({ isolated }) {
    const space = /too little space, so the model stays in memory/;
    const late = (error) => `const write = FileSystemSyncAccessHandle.prototype.write;
      FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
        if (this.getSize() + bytes.byteLength > 200_000) throw ${error};
        return write.call(this, bytes, options);
      };`;
    const patches = {
      'too little from the start': ['StorageManager.prototype.estimate = async () => ({ usage: 0, quota: 1000 });', space],
      'used up on the way': [late(`new DOMException('full', 'QuotaExceededError')`), space],
      'nobody knows how much there is': [`StorageManager.prototype.estimate = async () => { throw new TypeError('no idea'); };`, /Not cached: no idea/],
      'broken on the way': [late(`new DOMException('gone', 'InvalidStateError')`), /Not cached: gone/],
    };
    for (const [name, [patch, why]] of Object.entries(patches)) {
      await patchWorker(patch);
      const got = await isolated.evaluate(async (prompt) => {
        const model = await bonsai.Model.load('/demo/stories.gguf', { device: 'cpu' });
        const { text } = await write(model, prompt, { maxTokens: 120 });
        model.free();
        return { ...model.source, text, list: await bonsai.cache.list() };
      }, PROMPT);
      await context.unroute('**/npm/worker.js');
      assert.deepEqual([got.text, got.cached, got.list], [expected, false, []], name);
      assert.match(got.notes.join(), why, name);
    }
  },

  async 'samples: bundled by Vite, and a script in a page'({ isolated }, servers) {
    for (const path of ['/vite/', '/samples/plain/']) {
      const page = await context.newPage();
      await page.goto(`http://localhost:${servers.isolated.address().port}${path}`);
      await page.waitForFunction(() => document.title.startsWith('done'));
      assert.equal(await page.textContent('#out'), expected);
      assert.match(await page.title(), /2 threads/);
      await page.close();
    }
    await isolated.evaluate(() => bonsai.cache.clear());
  },

  async 'the demo page: a dropped file, stop, earlier conversations, models kept, and words for what is missing'(_, servers) {
    const [page, close] = await withoutGpu(servers.plain);
    const text = (id) => page.textContent(id);
    await page.goto(`http://localhost:${servers.plain.address().port}/demo/`);
    await page.waitForSelector('#missing li');
    assert.match(await text('#missing'), /No graphics card is used: .*Only one core/s);
    assert.deepEqual(await barriers(page), []);
    if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, 'missing.png'), fullPage: true });
    await page.evaluate(async () => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([await (await fetch('stories.gguf')).blob()], 'dropped.gguf'));
      for (const type of ['dragover', 'drop']) document.dispatchEvent(new DragEvent(type, { dataTransfer, cancelable: true }));
    });
    await page.waitForFunction(() => /^Ready/.test(document.querySelector('#status').textContent));
    assert.match(await text('#info'), /a file of yours/);
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
    await page.fill('#maxTokens', '100000');
    await page.press('#prompt', 'Enter');
    // In the page: a story can end while a click is under way from here.
    await page.waitForFunction(() => document.querySelector('#log').textContent.length > 80 && (document.querySelector('#stop').click(), true));
    await page.waitForFunction(() => /^(Stopped\.|Done\.)$/.test(document.querySelector('#outcome').textContent));
    const before = await written(page);
    await page.click('#forget');
    assert.equal(await text('#log'), '');
    await page.click('#sample'); // from the network, and kept
    await page.waitForFunction(() => /downloaded, kept/.test(document.querySelector('#info').textContent));
    await page.reload();
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
    await page.click('#conversations button:text("Open")');
    assert.equal(await written(page), before);
    await page.click('#conversations button:text("Delete")');
    assert.equal(await page.isVisible('#earlier'), false);
    await page.click('#models button:text("Load")');
    await page.waitForFunction(() => /no download/.test(document.querySelector('#info').textContent));
    await page.click('#models button:text("Delete")');
    await page.waitForFunction(() => document.querySelector('#stored').hidden);
    await close();
  },

  async 'the demo page: by keyboard, offline after the first visit, light, dark and on a phone'(_, servers) {
    const page = await context.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.message));
    const address = `http://localhost:${servers.isolated.address().port}/demo/`;
    const write = async () => {
      await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
      await page.fill('#temperature', '0');
      await page.fill('#maxTokens', '120');
      await page.fill('#prompt', PROMPT);
      await page.press('#prompt', 'Enter');
      await page.waitForFunction(() => /Stopped at/.test(document.querySelector('#outcome').textContent));
      assert.equal(await written(page), PROMPT + expected);
      assert.match(await page.inputValue('#speed').catch(() => page.textContent('#speed')), /written: 120 tokens at \d+\/s/);
    };
    const load = async () => {
      await page.focus('#sample');
      await page.keyboard.press('Enter');
      await page.waitForFunction(() => /^Ready/.test(document.querySelector('#status').textContent));
      return page.textContent('#info');
    };
    const shots = process.env.SCREENSHOTS;
    const shot = (name) => shots && page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
    await page.goto(address);
    assert.match(await load(), /downloaded, kept.*2 threads/s);
    await write();
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.waitForFunction(() => caches.open('bonsai-demo-1').then((cache) => cache.keys()).then((keys) => keys.length > 15));
    await shot('light');
    assert.deepEqual(await barriers(page), []);
    await page.emulateMedia({ colorScheme: 'dark' });
    await shot('dark');
    assert.deepEqual(await barriers(page), []);
    await page.setViewportSize({ width: 360, height: 740 });
    await shot('phone');
    assert.deepEqual(await barriers(page), []);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert(wide <= 360, `no sideways scrolling on a phone: ${wide}`);
    await page.selectOption('#device', 'gpu');
    assert.match(await load(), /gpu, WebGPU, google swiftshader/);
    await page.selectOption('#device', 'auto');
    await context.setOffline(true);
    await new Promise((resolve) => servers.isolated.close(resolve) && servers.isolated.closeAllConnections());
    await page.reload();
    assert.match(await load(), /no download.*2 threads/s);
    await write();
    await context.setOffline(false);
    assert.deepEqual(errors, []);
  },
};

const servers = { isolated: await serve({ mounts: { '/vite/': process.env.VITE, '/gpu-ops/': process.env.GPU_OPS } }), plain: await serve({ isolated: false }) };
const pages = { isolated: await open(servers.isolated), plain: await open(servers.plain) };
let failed = 0;
for (const [name, test] of Object.entries(tests).filter(([name]) => name.includes(process.env.ONLY ?? ''))) {
  try {
    await test(pages, servers, context);
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await context.close();
Object.values(servers).forEach((server) => server.close());
rmSync(folder, { recursive: true, force: true });
process.exitCode = failed ? 1 : 0;
