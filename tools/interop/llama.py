"""llama.cpp through whichever Python binding is installed: logits of every position, greedy text.

Two bindings are known. `llama-cpp-python` (module llama_cpp, built from its sdist) is preferred;
`llama-cpp-py-sync` (module llama_cpp_py_sync, prebuilt) is driven through its cffi functions.
The key/value cache is f32 unless another is asked for, and flash attention off, so that what differs from bonsai is the kernels alone.
"""

import atexit

import numpy as np

F32 = 0  # ggml_type


class _LlamaCppPython:
    def __init__(self, path, n_ctx, threads, cache):
        import llama_cpp

        self.name = f"llama-cpp-python {llama_cpp.__version__}"
        self.llm = llama_cpp.Llama(
            path, n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, n_threads=threads, n_threads_batch=threads,
            n_gpu_layers=0, logits_all=True, flash_attn=False, type_k=cache, type_v=cache, verbose=False,
        )  # fmt: skip

    def tokenize(self, text):
        return list(self.llm.tokenize(text.encode(), add_bos=True, special=True))

    def reset(self):
        self.llm.reset()

    def eval(self, tokens):
        self.llm.eval(tokens)
        end = self.llm.n_tokens
        return np.array(self.llm.scores[end - len(tokens) : end], np.float64)

    def detokenize(self, tokens):
        return self.llm.detokenize(tokens).decode(errors="replace")


class _LlamaCppPySync:
    def __init__(self, path, n_ctx, threads, cache):
        import llama_cpp_py_sync as binding
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

        try:
            get_lib()
        except RuntimeError as e:  # the prebuilt library wants glibc 2.38 or later
            raise ImportError(e) from e
        self.lib, self.ffi = get_lib(), get_ffi()
        self.silent = self.ffi.callback("ggml_log_callback", lambda *_: None)  # kept: C holds on to it
        self.lib.llama_log_set(self.silent, self.ffi.NULL)
        self.name = f"llama-cpp-py-sync {binding.__version__} (llama.cpp {binding.__llama_cpp_tag__})"
        self.llm = binding.Llama(
            path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=threads, n_gpu_layers=0, flash_attn_type=0,
            type_k=cache, type_v=cache,
        )  # fmt: skip
        self.ctx = self.llm._ctx
        atexit.register(self._close)
        # The binding turns embeddings on in every context; in that mode logits are still written.
        self.lib.llama_set_embeddings(self.ctx, False)
        self.past = 0

    def _close(self):
        self.llm.close()
        self.lib.llama_log_set(self.ffi.NULL, self.ffi.NULL)  # C may log after Python is gone

    def tokenize(self, text):
        return self.llm.tokenize(text, add_special=True, parse_special=True)

    def reset(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)
        self.past = 0

    def eval(self, tokens):
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, self.past + i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            if status := self.lib.llama_decode(self.ctx, batch):
                raise RuntimeError(f"llama_decode returned {status}")
        finally:
            self.lib.llama_batch_free(batch)
        self.past += len(tokens)
        size = len(tokens) * self.llm.n_vocab
        raw = self.ffi.buffer(self.lib.llama_get_logits(self.ctx), size * 4)
        return np.frombuffer(raw, np.float32).reshape(len(tokens), -1).astype(np.float64)

    def detokenize(self, tokens):
        return self.llm.detokenize(tokens)


BINDINGS = {"llama-cpp-python": _LlamaCppPython, "llama-cpp-py-sync": _LlamaCppPySync}


def load(path, n_ctx, threads, binding=None, cache=F32):
    """The model in the named binding, or in the first that can be imported."""
    missing = []
    for name in [binding] if binding else BINDINGS:
        try:
            return BINDINGS[name](str(path), n_ctx, threads, cache)
        except ImportError as e:
            missing.append(f"{name}: {e}")
    raise SystemExit("no binding of llama.cpp: pip install llama-cpp-python. " + "; ".join(missing))


def greedy(llm, prompt, n):
    """n greedy tokens after the prompt, and the logits at every position but the last token's."""
    llm.reset()
    rows, tokens = [llm.eval(prompt)], []
    for _ in range(n):
        tokens.append(int(rows[-1][-1].argmax()))
        if len(tokens) < n:
            rows.append(llm.eval(tokens[-1:]))
    return tokens, np.concatenate(rows)
