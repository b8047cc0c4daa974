#!/usr/bin/env python3
"""Does bonsai read what transformers wrote? Compares it with the logits that make_checkpoints.py saved.

python3 tools/interop/make_checkpoints.py DIR
python3 tools/interop/check_checkpoints.py DIR --bonsai target/release/bonsai
"""

import argparse
import pathlib
import sys

import common
import numpy as np
from safetensors.numpy import load_file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--bonsai", required=True)
    parser.add_argument("--limit", type=float, default=1e-5, help="largest difference, as a share of the logits' range")
    args = parser.parse_args()
    references = sorted(args.dir.glob("*/reference.safetensors"))
    if not references:
        sys.exit(f"no checkpoints in {args.dir}: make_checkpoints.py writes them")
    ok = True
    for file in references:
        reference = load_file(file)
        logits = common.bonsai_logits(args.bonsai, file.parent, reference["input_ids"], exact=True)
        ok &= common.compare(file.parent.name, logits, reference["logits"].astype(np.float64), args.limit)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
