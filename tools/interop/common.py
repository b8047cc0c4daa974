"""What the interop checks share: calling `bonsai`, and comparing logits."""

import os
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file


USAGE = 2  # exit code of bonsai when it does not know a command or an option


def bonsai(binary, *args, optional=False):
    """Runs `bonsai ARGS` and returns its stdout; ends the check with bonsai's own words if it fails.

    With `optional`, a bonsai that has no such command or option gives None."""
    command = [str(binary), *map(str, args)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if optional and done.returncode == USAGE:
        return None
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def bonsai_logits(binary, model, tokens, exact, cache=None):
    """Logits of every position, f64 [tokens, vocab]: f32 activations if `exact`, else the fast kernels.

    `cache` is the type of the key/value cache; without it bonsai chooses."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits.safetensors")
        ids = ",".join(str(int(t)) for t in tokens)
        bonsai(binary, "logits", "-m", model, "--tokens", ids, "-o", out, *(["--exact"] if exact else []), *(["--kv", cache] if cache else []))
        return load_file(out)["logits"].astype(np.float64)


def nmse(a, reference):
    """Normalised mean square error: |a - reference|^2 / |reference|^2."""
    return float(np.square(a - reference).sum() / np.square(reference).sum())


def kl(reference, a):
    """Mean over positions of KL(softmax(reference) || softmax(a)), in nats."""

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(a)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def compare(what, a, reference, limit):
    """Prints how far `a` is from `reference`; True when the largest difference is within limit * range."""
    if a.shape != reference.shape:
        print(f"FAILED  {what}: shape {a.shape}, expected {reference.shape}")
        return False
    largest, span = float(np.abs(a - reference).max()), float(reference.max() - reference.min())
    ok = bool(largest <= limit * span)  # false for NaN
    same = int((a.argmax(-1) == reference.argmax(-1)).sum())
    print(
        f"{'ok    ' if ok else 'FAILED'}  {what}: largest difference {largest:.2e} "
        f"({largest / span:.1e} of the range, limit {limit:.0e}), NMSE {nmse(a, reference):.1e}, "
        f"best token equal at {same} of {len(a)} positions"
    )
    return ok


def some_tokens(n, vocab):
    """n ids spread over the vocabulary, the same each time."""
    return [(i * 7919 + 13) % vocab for i in range(n)]
