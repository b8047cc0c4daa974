#!/usr/bin/env python3
"""Writes a random checkpoint in the shape of Qwen3-0.6B (596M parameters), one tensor at a time.

    pip install numpy
    python3 tools/interop/random_qwen3_0_6b.py OUT [--dtype bf16|f32] [--tokenizer tokenizer.json]

Weights are normal with standard deviation 0.02, norms are 1: the speed and memory of the real model, no sense.
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 28, 1024, 16, 8, 128, 3072, 151936
CONFIG = dict(
    architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False, attention_dropout=0.0,
    bos_token_id=151643, eos_token_id=151645, head_dim=HEAD_DIM, hidden_act="silu", hidden_size=HIDDEN,
    initializer_range=0.02, intermediate_size=FFN, max_position_embeddings=40960, max_window_layers=LAYERS,
    num_attention_heads=HEADS, num_hidden_layers=LAYERS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-6,
    rope_scaling=None, rope_theta=1000000, sliding_window=None, tie_word_embeddings=True, use_cache=True,
    use_sliding_window=False, vocab_size=VOCAB,
)  # fmt: skip
CHUNK = 1 << 22  # numbers made at a time


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (HIDDEN,)
        yield layer + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield layer + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield layer + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield layer + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield layer + "self_attn.q_norm.weight", (HEAD_DIM,)
        yield layer + "self_attn.k_norm.weight", (HEAD_DIM,)
        yield layer + "post_attention_layernorm.weight", (HIDDEN,)
        yield layer + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield layer + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield layer + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)


def stored(values, dtype):
    """f32 as it is, or bf16 by rounding to nearest even (as the upper half of the f32)."""
    if dtype == "f32":
        return values.astype("<f4").tobytes()
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write(path, dtype, seed):
    width = 4 if dtype == "f32" else 2
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors():
        start, end = end, end + int(np.prod(shape)) * width
        header[name] = dict(dtype=dtype.upper(), shape=shape, data_offsets=[start, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _name, shape in tensors():
            left = int(np.prod(shape))
            while left:
                n = min(left, CHUNK)
                ones = len(shape) == 1
                f.write(stored(np.ones(n, "f4") if ones else rng.standard_normal(n, "f4") * np.float32(0.02), dtype))
                left -= n
    return end // width


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a tokenizer.json to put beside the weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch_dtype = {"bf16": "bfloat16", "f32": "float32"}[args.dtype]
    (args.out / "config.json").write_text(json.dumps({**CONFIG, "torch_dtype": torch_dtype}, indent=2) + "\n")
    if args.tokenizer:
        shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    params = write(args.out / "model.safetensors", args.dtype, args.seed)
    print(f"{args.out}: {params:,} parameters, {args.dtype}")


if __name__ == "__main__":
    main()
