// Compiled, not run: index.d.ts as a program uses it.
import { BonsaiError, cache, Model, type Stats } from 'bonsai-wasm';

const model = await Model.load(new File([], 'model.gguf'), { device: 'auto', threads: 2, onProgress: ({ phase, loaded }) => console.log(phase, loaded) });
const session = model.session({ temperature: 0, context: 512 });
for await (const piece of session.generate('Once', { signal: AbortSignal.timeout(1000), maxTokens: 10 })) console.log(piece.length);
for await (const piece of session.chat([{ role: 'user', content: 'Hello' }], { thinking: false, topK: 3 })) console.log(piece);
const stats: Stats | undefined = session.stats;
const threads: number = model.backend.threads;
const stored: number[] = (await cache.list()).map(({ bytes }) => bytes);
try {
  await Model.load(new Uint8Array(3));
} catch (error) {
  if (error instanceof BonsaiError && error.code === 'format') console.log(error.message, stats, threads, stored);
}
// @ts-expect-error: no such option
model.session({ temprature: 1 });
// @ts-expect-error: made by load() only
new Model();
