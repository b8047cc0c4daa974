#!/usr/bin/env python3
"""Writes the GGUF files of runtime/tests/gguf, with what other people's programs make of them.

    pip install gguf==0.19.0 llama-cpp-python numpy
    tools/interop/make_gguf.py runtime/tests/gguf

blocks.gguf  random blocks of each quantised type that is read, and beside each what gguf.dequantize gives for them
llama.gguf   a random model of architecture llama, rows of q and k sorted as convert_hf_to_gguf.py does
llama.json   llama.cpp's ids of some texts, and its logits
llama3.gguf, llama3.json   the same with Llama 3's tokenizer and its table of RoPE factors, and a longer prompt
"""
import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

COLS, ROWS = 512, 2
WITH_MINIMA = Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS = 64, 2, 1, 32, 64, 1
THETA = 1e5
MERGES = ["1 2", "Ġ 1", "h e", "he r", "Ġ t", "Ġt he", "! !"]
TEXTS = ["there, 12 herd", "in 2024: the 123rd!!", "x12 12x", " the\n\n 1", "<|im_start|>the<|im_end|>", "½ Ⅻ ٣٤ é"]


def blocks(rng, kind):
    """Random rows of `kind`: any bytes will do, but where a scale lies there is a finite f16."""
    group, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (ROWS * COLS // group, size), dtype=np.uint8)
    scales = [208] if kind == Type.Q6_K else [0, 2] if kind in WITH_MINIMA else [0]
    for at in scales:
        half = rng.normal(0, 0.01, len(data)).astype(np.float16)
        data[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return data.reshape(ROWS, -1)


def write_blocks(path):
    writer = gguf.GGUFWriter(path, "blocks")
    rng = np.random.default_rng(1)
    for kind in (Type.Q4_0, Type.Q4_1, Type.Q8_0, Type.Q6_K, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K):
        data = blocks(rng, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.f32", gguf.dequantize(data, kind))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def spelling():
    """GPT-2's character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + other.index(b)) for b in range(256)]


def permute(weights, heads):
    """`LlamaModel.permute` of convert_hf_to_gguf.py."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def llama3_factors():
    """`rope_freqs.weight` as convert_hf_to_gguf.py makes it for Llama 3.2: factor 32, bounds 1 and 4, 8192 tokens before."""
    turns = 8192 * THETA ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM) / (2 * np.pi)
    keep = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - keep) / 32 + keep)).astype(np.float32)


def write_model(path, context, pre, factors):
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *spelling(), *(m.replace(" ", "") for m in MERGES)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if factors is None:
        writer.add_add_bos_token(False)
    rng = np.random.default_rng(2)

    def add(name, *shape, heads=None):
        values = rng.normal(0, 0.2, shape) if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)
        values = values.astype(np.float32)
        writer.add_tensor(f"{name}.weight", values if heads is None else permute(values, heads))

    add("token_embd", len(tokens), HIDDEN)
    for n in range(LAYERS):
        add(f"blk.{n}.attn_norm", HIDDEN)
        add(f"blk.{n}.attn_q", HEADS * HEAD_DIM, HIDDEN, heads=HEADS)
        add(f"blk.{n}.attn_k", KV_HEADS * HEAD_DIM, HIDDEN, heads=KV_HEADS)
        add(f"blk.{n}.attn_v", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{n}.attn_output", HIDDEN, HEADS * HEAD_DIM)
        add(f"blk.{n}.ffn_norm", HIDDEN)
        add(f"blk.{n}.ffn_gate", FFN, HIDDEN)
        add(f"blk.{n}.ffn_up", FFN, HIDDEN)
        add(f"blk.{n}.ffn_down", HIDDEN, FFN)
    add("output_norm", HIDDEN)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    finish(writer)


def ask_llama_cpp(path, context, prompt_text):
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, type_k=0, type_v=0, verbose=False, n_threads=1)
    ids = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
    prompt = ids(prompt_text)
    model.eval(prompt)
    last = model.scores[len(prompt) - 1]
    return {
        "llama_cpp_python": llama_cpp.__version__,
        "texts": [{"text": text, "ids": ids(text)} for text in TEXTS],
        "prompt": prompt,
        "last_logits": [float(f"{x:.7g}") for x in last],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_blocks(out / "blocks.gguf")
    for name, context, pre, factors, prompt in [
        ("llama", 64, "smollm", None, TEXTS[1]),
        ("llama3", 512, "llama-bpe", llama3_factors(), 8 * TEXTS[1]),
    ]:
        write_model(out / f"{name}.gguf", context, pre, factors)
        answers = ask_llama_cpp(out / f"{name}.gguf", context, prompt)
        (out / f"{name}.json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
