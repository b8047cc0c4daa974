#!/usr/bin/env python3
"""Does transformers read our `hf` export, and does it say what bonsai says?

    pip install torch transformers safetensors
    python3 tools/interop/check_hf.py EXPORT_DIR --bonsai target/release/bonsai [--gguf MODEL.gguf]

The export holds the ternary weights unpacked, so a plain dense program must give bonsai's exact logits:
for the folder itself and, with --gguf, for the packed file made from the same run.
"""

import argparse
import sys

import common
import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--bonsai", required=True)
    parser.add_argument("--gguf", help="the same model packed")
    parser.add_argument("--tokens", type=int, default=48, help="how many")
    parser.add_argument("--limit", type=float, default=1e-4, help="largest difference, as a share of the logits' range")
    args = parser.parse_args()

    model, info = AutoModelForCausalLM.from_pretrained(
        args.dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    ok = True
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := info.get(problem):
            print(f"FAILED  transformers reports {problem}: {sorted(map(str, keys))[:4]}")
            ok = False
    ids = common.some_tokens(args.tokens, model.config.vocab_size)
    with torch.no_grad():
        reference = model.eval()(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    print(f"transformers loaded {args.dir}: {type(model).__name__}, {model.num_parameters():,} parameters")
    for source in filter(None, (args.dir, args.gguf)):
        logits = common.bonsai_logits(args.bonsai, source, ids, exact=True)
        ok &= common.compare(f"bonsai --exact on {source}", logits, reference, args.limit)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
