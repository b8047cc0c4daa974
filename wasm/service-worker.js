// The demo's service worker, above demo/ and npm/ so that it serves both: what was fetched once is there without a network.
// Models are not its business: the package keeps them itself.
const CACHE = 'bonsai-demo-1';
const DEMO = ['demo/', 'demo/app.js', 'demo/history.js', 'demo/missing.js', 'demo/style.css', 'demo/tree.svg'];
const MODULES = ['text', 'plain', 'simd128', 'simd128-threads'];
const PACKAGE = ['index', 'cache', 'connection', 'errors', 'worker', 'builds', 'conversation', 'download', 'engine', ...MODULES.map((name) => `build/${name}`)];
const FILES = [...DEMO, ...PACKAGE.map((name) => `npm/${name}.js`), ...MODULES.map((name) => `npm/build/${name}.wasm`)];

oninstall = (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => skipWaiting()));
onactivate = (event) => event.waitUntil(clients.claim());

/** The network's answer, which is newer; without a network, what it was the last time. */
async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.status === 200) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const stored = await cache.match(request);
    if (stored) return stored;
    throw error;
  }
}

onfetch = (event) => {
  const { url, method } = event.request;
  const ours = url.startsWith(registration.scope) && method === 'GET';
  if (ours && !/\.gguf$/.test(new URL(url).pathname)) event.respondWith(answer(event.request));
};
