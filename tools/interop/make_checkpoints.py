#!/usr/bin/env python3
"""Writes small random Qwen3 and Llama checkpoints with `transformers`, each with the logits it must give.

    pip install torch transformers safetensors
    python3 tools/interop/make_checkpoints.py OUT

Each OUT/<name>/ is what `save_pretrained` wrote plus reference.safetensors: input_ids i64 [tokens] and
logits f32 [tokens, vocab], computed in f32 from the weights as stored. check_checkpoints.py compares them.
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

BASE = dict(
    vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-6, hidden_act="silu",
    tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)  # fmt: skip


def rope(kind, **parameters):
    return dict(rope_parameters={"rope_type": kind, "rope_theta": 1e4, **parameters})


CASES = {  # name: (changes to BASE, dtype it is stored in, most bytes in one file)
    "tied": ({}, torch.float32, "1GB"),
    "untied": (dict(tie_word_embeddings=False), torch.float32, "1GB"),
    "head_dim": (dict(head_dim=64, num_key_value_heads=1), torch.float32, "1GB"),  # 4 x 64 is not 128
    "head_dim_untied": (
        dict(head_dim=64, hidden_size=256, num_attention_heads=6, tie_word_embeddings=False),
        torch.float32,
        "1GB",
    ),
    "bf16": ({}, torch.bfloat16, "1GB"),
    "f16": (dict(tie_word_embeddings=False), torch.float16, "1GB"),
    "sharded": (dict(num_hidden_layers=3), torch.float32, "300KB"),
    "sharded_bf16_untied": (dict(tie_word_embeddings=False), torch.bfloat16, "150KB"),
    "theta_1e4": (dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4}), torch.float32, "1GB"),
    "linear": (rope("linear", factor=2.5), torch.float32, "1GB"),
    "yarn": (rope("yarn", factor=4.0, original_max_position_embeddings=32), torch.float32, "1GB"),
    "llama": (dict(config=LlamaConfig), torch.float32, "1GB"),
    "llama3": (
        dict(
            config=LlamaConfig,
            **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        ),
        torch.float32,
        "1GB",
    ),
}
TOKENS = 24


def spread_out(model):
    """Weights large enough that every part of the network moves the logits; norms that are not all one."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(noise * (0.08 if "embed" in name or "lm_head" in name else p.shape[1] ** -0.5))


def make(folder, changes, dtype, shard, seed):
    torch.manual_seed(seed)
    config = changes.get("config", Qwen3Config)(**{**BASE, **{k: v for k, v in changes.items() if k != "config"}})
    model = AutoModelForCausalLM.from_config(config).eval()
    spread_out(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    ids = torch.randint(0, config.vocab_size, (TOKENS,))
    with torch.no_grad():
        stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        logits = stored(input_ids=ids[None]).logits[0]
    save_file(dict(input_ids=ids, logits=logits.contiguous()), folder / "reference.safetensors")
    files = sorted(f.name for f in folder.glob("model*.safetensors"))
    print(f"{folder.name}: {len(files)} file(s), {dtype}, logits within {logits.abs().max():.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    for seed, (name, (changes, dtype, shard)) in enumerate(CASES.items()):
        make(args.out / name, changes, dtype, shard, seed)


if __name__ == "__main__":
    main()
