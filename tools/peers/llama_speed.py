"""Tokens a second of llama.cpp (PyPI llama-cpp-python) on a GGUF file, as llama-bench counts them.

llama_speed.py FILE [-p 512] [-n 128] [-t 2] [-r 5]

Prints the median and best of -r repetitions of a prompt of -p random tokens, and of -n tokens one by one. Sampling
and detokenising are left out, as in `bonsai bench`; batches are 512 as in llama-bench.
"""

import argparse
import ctypes
import statistics
import time

import llama_cpp
import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    for flag, default in (("p", 512), ("n", 128), ("t", 2), ("r", 5)):
        parser.add_argument(f"-{flag}", type=int, default=default)
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    start = time.perf_counter()
    model = llama_cpp.llama_model_load_from_file(args.file.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp does not load {args.file}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = args.p + args.n + 64, 512, 512
    params.n_threads = params.n_threads_batch = args.t
    context = llama_cpp.llama_init_from_model(model, params)
    print(f"load {1e3 * (time.perf_counter() - start):.0f} ms; {llama_cpp.llama_print_system_info().decode()}")
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    random = np.random.default_rng(0)

    def feed(ids):
        tokens = (llama_cpp.llama_token * len(ids))(*ids)  # kept until decoded
        batch = llama_cpp.llama_batch_get_one(tokens, len(ids))
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(context)

    def timed(ids, at_once):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        for piece in [ids] if at_once else [[i] for i in ids]:
            feed(piece)
        return len(ids) / (time.perf_counter() - start)

    for name, count, at_once in ((f"pp{args.p}", args.p, True), (f"tg{args.n}", args.n, False)):
        if count:
            ids = [int(i) for i in random.integers(0, vocab, count)]
            timed(ids[: max(1, count // 8)], at_once)
            speeds = [timed(ids, at_once) for _ in range(args.r)]
            print(f"{name}: median {statistics.median(speeds):.2f} best {max(speeds):.2f} tokens/s")


main()
