#!/usr/bin/env python3
"""Does llama.cpp read our GGUF, and does it say what bonsai says?

    pip install llama-cpp-python numpy safetensors
    python3 tools/interop/check_gguf.py MODEL.gguf --prompt "Once upon a time" -n 64 --bonsai target/release/bonsai

llama.cpp writes n greedy tokens; bonsai computes the logits of the very same tokens, so up to the first
difference this is bonsai's own greedy text. A difference passes only if it is a near-tie: the two programs
disagree by less than their logits differ anyway. Without --bonsai only llama.cpp runs.
"""

import argparse
import json
import sys

import common
import llama


def top2(row):
    first, second = row.argsort()[::-1][:2]
    return f"{first} ({row[first]:.4f}) then {second} ({row[second]:.4f}), gap {row[first] - row[second]:.5f}"


def near_tie(at, ours, theirs):
    """Explains the first difference: is it smaller than the noise between the two programs?"""
    a, b = int(ours.argmax()), int(theirs.argmax())
    wanted = (ours[a] - ours[b]) + (theirs[b] - theirs[a])  # how far the two must move to agree
    noise = float((ours - theirs).std()) * 2**0.5  # of the difference of two logits
    print(f"first difference: generated token {at}\n  bonsai     {top2(ours)}\n  llama.cpp  {top2(theirs)}")
    print(f"  to agree they must move by {wanted:.5f}; logits of this position differ by {noise:.5f} (rms of pairs)")
    return wanted < 4 * noise


def own_run(binary, model, prompt, n, expected):
    """`bonsai run` must write the tokens that `bonsai logits` finds best."""
    command = ("run", "-m", model, "-p", prompt, "-n", n, "--temp", "0", "--json")
    stdout = common.bonsai(binary, *command, optional=True)
    if stdout is None:
        print("note: this bonsai has no `run --json`; judged by `bonsai logits` alone")
        return True
    answer = json.loads(stdout)  # {"text": str, "tokens": [ids that it wrote], ...}
    tokens = answer["tokens"]
    print(f"bonsai run: {answer['text']!r}")
    ok = tokens[: len(expected)] == expected[: len(tokens)]
    if not ok:
        print(f"FAILED  bonsai run wrote {tokens[: len(expected)]}\n        bonsai logits prefers {expected}")
    elif len(tokens) < len(expected):
        print(f"note: bonsai run ended after {len(tokens)} of {n} tokens")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--bonsai", help="the program; without it only llama.cpp is asked")
    parser.add_argument("--ctx", type=int, default=512, help="room for prompt and answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binding", choices=list(llama.BINDINGS))
    parser.add_argument("--nmse", type=float, default=1e-3, help="limit for the logits of the prompt")
    args = parser.parse_args()

    llm = llama.load(args.model, n_ctx=args.ctx, threads=args.threads, binding=args.binding)
    prompt = llm.tokenize(args.prompt)
    tokens, theirs = llama.greedy(llm, prompt, args.n)
    print(f"{llm.name}: loaded {args.model}; prompt of {len(prompt)} tokens {prompt}")
    print(f"llama.cpp:  {llm.detokenize(tokens)!r}")
    if not args.bonsai:
        return 0

    whole = prompt + tokens[:-1]
    ours = common.bonsai_logits(args.bonsai, args.model, whole, exact=False)
    exact = common.bonsai_logits(args.bonsai, args.model, whole, exact=True)
    if ours.shape != theirs.shape:
        sys.exit(f"FAILED  logits of bonsai {ours.shape}, of llama.cpp {theirs.shape}")

    of_prompt = common.nmse(ours[: len(prompt)], theirs[: len(prompt)])
    ok = of_prompt < args.nmse
    print(
        f"{'ok    ' if ok else 'FAILED'}  prompt logits, bonsai against llama.cpp: NMSE {of_prompt:.2e} (limit {args.nmse:.0e})"
    )
    for name, logits in (("bonsai", ours), ("llama.cpp", theirs)):
        kl, nmse = common.kl(exact, logits), common.nmse(logits, exact)
        print(f"        {name} against bonsai --exact, all positions: NMSE {nmse:.2e}, KL {kl:.2e} nats")

    best = ours[len(prompt) - 1 :].argmax(-1).tolist()
    at = next((i for i in range(args.n) if best[i] != tokens[i]), args.n)
    ok &= own_run(args.bonsai, args.model, args.prompt, args.n, best[: at + 1])
    if at == args.n:
        print(f"ok      greedy text agrees for {args.n} tokens")
    else:
        tie = near_tie(at, ours[len(prompt) - 1 + at], theirs[len(prompt) - 1 + at])
        print("ok      a near-tie explains it" if tie else "FAILED  no near-tie")
        ok &= tie
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
