// node serve.mjs [PORT]: serves the demo page, and the package beside it, with the headers that threads need.
// With --plain it leaves these headers out. For tests, /slow/PATH sends PATH slowly, and /cut/PATH hangs up after 200 kB.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url)); // demo/ and npm/
const TYPES = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css',
  '.wasm': 'application/wasm', '.json': 'application/json', '.svg': 'image/svg+xml', '.gguf': 'application/octet-stream',
};
const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

/** The bytes that a Range header asks for, as [first, last]; nothing if it does not or cannot have them. */
function range(header, size) {
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(header ?? '') ?? [];
  if (first === undefined || Number(first) >= size) return undefined;
  return [Number(first), last ? Math.min(Number(last), size - 1) : size - 1];
}

/** Sends in the manner of a bad connection: `slow` or `cut`. */
async function badly(manner, stream, response) {
  let sent = 0;
  for await (const piece of stream) {
    response.write(piece);
    sent += piece.length;
    await new Promise((resolve) => setTimeout(resolve, manner === 'slow' ? 100 : 10));
    if (manner === 'cut' && sent >= 200_000) return response.destroy();
  }
  response.end();
}

/** Starts a server; port 0 takes a free one, `mounts` are folders from elsewhere by their paths. Returns it when it listens. */
export function serve({ port = 0, isolated = true, mounts = {} } = {}) {
  const server = createServer(async (request, response) => {
    let path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const [, manner] = /^\/(slow|cut)\//.exec(path) ?? [];
    if (manner) path = path.slice(manner.length + 1);
    if (path === '/') return response.writeHead(302, { Location: '/demo/' }).end();
    if (path.endsWith('/')) path += 'index.html';
    path = normalize(path); // no way out by ..
    const mount = Object.keys(mounts).find((name) => path.startsWith(name));
    const file = mount ? join(mounts[mount], path.slice(mount.length)) : join(ROOT, path);
    const about = await stat(file).catch(() => undefined);
    if (!about?.isFile()) return response.writeHead(404).end('not found');
    const wanted = range(request.headers.range, about.size);
    const [first, last] = wanted ?? [0, about.size - 1];
    response.writeHead(wanted ? 206 : 200, {
      ...(isolated ? ISOLATED : {}),
      'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream',
      'Content-Length': last - first + 1,
      'Cache-Control': 'no-cache',
      ETag: `"${about.size}-${about.mtimeMs}"`,
      ...(wanted ? { 'Content-Range': `bytes ${first}-${last}/${about.size}` } : {}),
    });
    const stream = createReadStream(file, { start: first, end: last });
    if (manner) badly(manner, stream, response).catch(() => {});
    else stream.pipe(response);
  });
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv.find((word) => /^\d+$/.test(word)) ?? 8080);
  await serve({ port, isolated: !process.argv.includes('--plain') });
  console.log(`http://localhost:${port}/`);
}
