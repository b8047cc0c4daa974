export default {
  // The package finds its worker and modules beside itself, so it must stay where it is while developing.
  optimizeDeps: { exclude: ['bonsai-wasm'] },
  worker: { format: 'es' },
  // Threads; the server of the finished page has to send the same.
  server: { headers: { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' } },
};
