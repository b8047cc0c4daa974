import { Model } from 'bonsai-wasm';

const out = document.getElementById('out');
const model = await Model.load('/demo/stories.gguf');
const session = model.session({ temperature: 0 });
for await (const piece of session.generate('Once upon a time', { maxTokens: 120 })) out.append(piece);
document.title = `done: ${model.backend.description}`;
