#!/usr/bin/env python3
"""How far are fast kernels from f32 activations: bonsai's, and llama.cpp's on the same file?

    pip install llama-cpp-python numpy safetensors
    python3 tools/interop/accuracy.py MODEL.gguf TEXT --bonsai target/release/bonsai

Windows of the text are read by `bonsai logits --exact` (f32 activations and cache), which is the reference, by the
fast kernels of bonsai and by llama.cpp, with f32 and f16 key/value caches, and bonsai's with int16. Mean KL divergence per
token, its 99th percentile, how often the best token is the same, and the perplexity of the text.
"""

import argparse

import common
import llama
import numpy as np


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Score:
    def __init__(self):
        self.kl, self.same, self.nll = [], [], []

    def add(self, exact, logits, tokens):
        p, q = log_softmax(exact), log_softmax(logits)
        self.kl.extend((np.exp(p) * (p - q)).sum(-1))
        self.same.extend(exact.argmax(-1) == logits.argmax(-1))
        self.nll.extend(-q[np.arange(len(tokens) - 1), tokens[1:]])

    def row(self, name):
        kl, same = np.array(self.kl), np.array(self.same)
        perplexity = np.exp(np.mean(self.nll))
        return f"| {name} | {kl.mean():.2e} | {np.quantile(kl, 0.99):.2e} | {100 * same.mean():.2f}% | {perplexity:.4f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--bonsai", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    caches = {"f32": 0, "f16": 1}  # ggml_type
    engines = {
        kind: llama.load(args.model, n_ctx=args.window, threads=args.threads, cache=type_id)
        for kind, type_id in caches.items()
    }
    first = next(iter(engines.values()))
    with open(args.text, encoding="utf-8") as file:
        ids = first.tokenize(file.read(40 * args.window * args.windows))
    scores = {}
    for start in range(0, args.window * args.windows, args.window):
        tokens = ids[start : start + args.window]
        assert len(tokens) == args.window, "the text is too short"
        exact = common.bonsai_logits(args.bonsai, args.model, tokens, exact=True)
        scores.setdefault("f32 activations (the reference)", Score()).add(exact, exact, tokens)
        for kind in [*caches, "int16"]:
            ours = common.bonsai_logits(args.bonsai, args.model, tokens, exact=False, cache=kind)
            scores.setdefault(f"bonsai, {kind} cache", Score()).add(exact, ours, tokens)
            if kind not in caches:
                continue
            engines[kind].reset()
            scores.setdefault(f"llama.cpp, {kind} cache", Score()).add(exact, engines[kind].eval(tokens), tokens)
    print(f"{first.name}; {args.windows} windows of {args.window} tokens; {args.model}\n")
    print("| | KL, nats per token | 99th percentile | same best token | perplexity |\n| --- | --- | --- | --- | --- |")
    for name, score in scores.items():
        print(score.row(name))


if __name__ == "__main__":
    main()
