// Tokens a second of llama.cpp's Vulkan backend (npm: node-llama-cpp, @node-llama-cpp/linux-x64-vulkan) on a GGUF file:
//
//   node llama_vulkan.mjs FOLDER FILE [PROMPT=16] [GENERATED=4] [REPETITIONS=3]
//
// FOLDER has the packages in its node_modules. All layers lie on the GPU; GGML_VK_VISIBLE_DEVICES=0 with Mesa's lavapipe
// makes the processor one. Prints the median of a prompt of random tokens, of which the last gets logits, and of tokens
// one by one, each of which does.

import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, file, prompt = '16', generated = '4', repetitions = '3'] = process.argv.slice(2);
const entry = createRequire(join(resolve(folder), 'x.js')).resolve('node-llama-cpp');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry));
const llama = await getLlama({ gpu: 'vulkan', build: 'never', logLevel: LlamaLogLevel.error, vramPadding: 0 });
console.log(`${llama.gpu}: ${(await llama.getGpuDeviceNames()).join(', ')}, llama.cpp ${llama.llamaCppRelease.release}`);
const model = await llama.loadModel({ modelPath: file, gpuLayers: 'max', ignoreMemorySafetyChecks: true });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, ignoreMemorySafetyChecks: true });
const sequence = context.getSequence();
const random = () => 1000 + Math.floor(Math.random() * 1000);
const median = (x) => x.sort((a, b) => a - b)[x.length >> 1];

async function seconds(tokens, together) {
    await sequence.clearHistory();
    const start = performance.now();
    const last = (token) => [token, { generateNext: { token: true } }];
    if (together) await sequence.controlledEvaluate([...tokens.slice(0, -1), last(tokens.at(-1))]);
    else for (const token of tokens) await sequence.controlledEvaluate([last(token)]);
    return (performance.now() - start) / 1e3;
}

for (const [name, count, together] of [['pp', +prompt, true], ['tg', +generated, false]]) {
    const tokens = Array.from({ length: count }, random);
    await seconds(tokens, together); // warm-up
    const all = [];
    for (let i = 0; i < +repetitions; i++) all.push(count / (await seconds(tokens, together)));
    console.log(`${name}${count}: median ${median(all).toFixed(2)} tokens/s, ${model.gpuLayers} layers on the GPU`);
}
process.exit(0);
