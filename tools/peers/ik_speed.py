"""Tokens a second of ik_llama.cpp (PyPI ik-llama-cpp-python) on a GGUF file, as llama-bench counts them.

ik_speed.py FILE [-p 512] [-n 64] [-t 2] [-r 3]

Prints the median and best of -r repetitions of a prompt of -p random tokens in one batch, and of -n tokens one by one.
Its fastest ternary type, IQ2_BN, has one scale a row, so it cannot hold our models: random_f16.py says how to make
a file for this.
"""

import argparse
import statistics
import time

import ik_llama_cpp._ctypes_api as api
import numpy as np
from ik_llama_cpp import IkLlama


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    for flag, default in (("p", 512), ("n", 64), ("t", 2), ("r", 3)):
        parser.add_argument(f"-{flag}", type=int, default=default)
    parser.add_argument("--vocab", type=int, default=151936)
    args = parser.parse_args()
    model = IkLlama(args.file, n_ctx=args.p + args.n + 64, n_threads=args.t, verbose=False)
    random = np.random.default_rng(0)
    batch = api.llama_batch_init(max(args.p, 1), 0, 1)

    def feed(ids, first):
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i + 1 == len(ids)
        if api.llama_decode(model.ctx, batch):
            raise SystemExit("llama_decode failed")

    def timed(ids, at_once):
        api.llama_kv_cache_clear(model.ctx)
        start = time.perf_counter()
        for first, piece in [(0, ids)] if at_once else enumerate([i] for i in ids):
            feed(piece, first)
        return len(ids) / (time.perf_counter() - start)

    for name, count, at_once in ((f"pp{args.p}", args.p, True), (f"tg{args.n}", args.n, False)):
        if count:
            ids = [int(i) for i in random.integers(0, args.vocab, count)]
            timed(ids[: max(1, count // 8)], at_once)
            speeds = [timed(ids, at_once) for _ in range(args.r)]
            print(f"{name}: median {statistics.median(speeds):.2f} best {max(speeds):.2f} tokens/s")


if __name__ == "__main__":
    main()
