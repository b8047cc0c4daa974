#!/usr/bin/env python3
"""A Qwen3 checkpoint as the ONNX model that transformers.js loads, in f32.

    pip install numpy safetensors onnx onnxruntime
    bonsai-trainer convert ours.gguf checkpoint
    qwen3_onnx.py checkpoint theirs --bonsai target/release/bonsai

The graph is the one that such models are published with: attention in one operation of ONNX Runtime, norms fused with
the sums before them. It has logits of the last token only, which is all that writing needs. With `--bonsai`, those of a
few tokens are compared with `bonsai logits --exact` on the checkpoint: both programs then do the same work.
"""
import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

MICROSOFT = "com.microsoft"
ROTATED = 4096  # most positions


class Graph:
    def __init__(self):
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []

    def constant(self, name, values):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind, inputs, outputs=None, domain="", **attributes):
        outputs = outputs or [f"value.{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def input(self, name, kind, shape):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name, shape):
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def model(self):
        graph = helper.make_graph(self.nodes, "qwen3", self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Network:
    """The graph of a checkpoint."""

    def __init__(self, config, tensors):
        self.g, self.config, self.tensors = Graph(), config, tensors
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config["head_dim"]

    def weight(self, name):
        return self.g.constant(name, self.tensors[name].astype(np.float32))

    def product(self, x, name):
        return self.g.node("MatMul", [x, self.g.constant(name, self.tensors[name].astype(np.float32).T)])

    def norm(self, x, name):
        eps = self.config["rms_norm_eps"]
        return self.g.node("SimplifiedLayerNormalization", [x, self.weight(name)], axis=-1, epsilon=eps, stash_type=1)

    def sum_and_norm(self, x, more, name):
        """The residual stream with `more` in it, and its norm."""
        n, eps = len(self.g.nodes), self.config["rms_norm_eps"]
        out = [f"norm.{n}", "", "", f"stream.{n}"]
        inputs = [x, more, self.weight(name)]
        self.g.node("SkipSimplifiedLayerNormalization", inputs, out, MICROSOFT, epsilon=eps)
        return out[3], out[0]

    def head_norm(self, x, name, heads):
        flat = self.g.node("Reshape", [x, "shape.heads"])
        return self.g.node("Reshape", [self.norm(flat, name), f"shape.{heads}"])

    def begin(self):
        """Inputs and what all layers share."""
        g, half = self.g, self.head_dim // 2
        theta = self.config.get("rope_theta") or self.config["rope_parameters"]["rope_theta"]
        angles = np.outer(np.arange(ROTATED), theta ** (-np.arange(half) / half))
        g.constant("cos", np.cos(angles).astype(np.float32))
        g.constant("sin", np.sin(angles).astype(np.float32))
        g.constant("shape.heads", np.array([0, -1, self.head_dim]))
        for heads in (self.heads, self.kv_heads):
            g.constant(f"shape.{heads}", np.array([0, -1, heads * self.head_dim]))
        g.constant("one", np.array(1))
        g.constant("axis", np.array([1]))
        ids = g.input("input_ids", TensorProto.INT64, ["batch_size", "tokens"])
        mask = g.input("attention_mask", TensorProto.INT64, ["batch_size", "total"])
        last = g.node("Sub", [g.node("ReduceSum", [mask, "axis"], keepdims=0), "one"])
        g.node("Cast", [last], ["last"], to=TensorProto.INT32)
        total = g.node("Gather", [g.node("Shape", [mask]), "one"], axis=0)
        g.node("Cast", [total], ["total"], to=TensorProto.INT32)
        return g.node("Gather", [self.weight("model.embed_tokens.weight"), ids])

    def attention(self, n, x):
        g, name = self.g, lambda part: f"model.layers.{n}.self_attn.{part}.weight"
        q = self.head_norm(self.product(x, name("q_proj")), name("q_norm"), self.heads)
        k = self.head_norm(self.product(x, name("k_proj")), name("k_norm"), self.kv_heads)
        v = self.product(x, name("v_proj"))
        shape = lambda length: ["batch_size", self.kv_heads, length, self.head_dim]
        past = [g.input(f"past_key_values.{n}.{part}", TensorProto.FLOAT, shape("past")) for part in ("key", "value")]
        present = [g.output(f"present.{n}.{part}", shape("total")) for part in ("key", "value")]
        inputs = [q, k, v, *past, "last", "total", "cos", "sin"]
        sizes = {"num_heads": self.heads, "kv_num_heads": self.kv_heads, "do_rotary": 1}
        found = g.node("GroupQueryAttention", inputs, [f"found.{n}", *present], MICROSOFT, **sizes)
        return self.product(found, name("o_proj"))

    def feed_forward(self, n, x):
        name = lambda part: f"model.layers.{n}.mlp.{part}_proj.weight"
        gate, up = self.product(x, name("gate")), self.product(x, name("up"))
        swish = self.g.node("Mul", [gate, self.g.node("Sigmoid", [gate])])
        return self.product(self.g.node("Mul", [swish, up]), name("down"))

    def head(self, x):
        g = self.g
        for name, value in (("minus one", [-1]), ("end", [2**62])):
            g.constant(name, np.array(value))
        last = g.node("Squeeze", [g.node("Slice", [x, "minus one", "end", "axis"]), "axis"])
        name = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else self.weight("lm_head.weight")
        logits = g.node("Gemm", [last, name], transB=1)
        g.node("Unsqueeze", [logits, "axis"], [g.output("logits", ["batch_size", 1, self.config["vocab_size"]])])

    def build(self):
        x = self.begin()
        normed = self.norm(x, "model.layers.0.input_layernorm.weight")
        for n in range(self.config["num_hidden_layers"]):
            after = f"model.layers.{n}.post_attention_layernorm.weight"
            x, normed = self.sum_and_norm(x, self.attention(n, normed), after)
            last = n + 1 == self.config["num_hidden_layers"]
            following = "model.norm.weight" if last else f"model.layers.{n + 1}.input_layernorm.weight"
            x, normed = self.sum_and_norm(x, self.feed_forward(n, normed), following)
        self.head(normed)
        return self.g.model()


def compare(folder, model, config, bonsai):
    """Logits of the last of a few tokens, by ONNX Runtime and by bonsai."""
    import onnxruntime

    ids = [5, 17, 3, 250, 99, 1, 42]
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as out:
        command = [bonsai, "logits", "-m", folder, "--tokens", ",".join(map(str, ids)), "-o", out.name, "--exact", "--quiet"]
        subprocess.run(command, check=True)
        expected = load_file(out.name)["logits"][-1]
    empty = np.zeros((1, config["num_key_value_heads"], 0, config["head_dim"]), np.float32)
    inputs = {f"past_key_values.{n}.{part}": empty for n in range(config["num_hidden_layers"]) for part in ("key", "value")}
    inputs |= {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    logits = onnxruntime.InferenceSession(model).run(["logits"], inputs)[0][0, 0]
    error = float(np.mean((logits - expected) ** 2) / np.mean(expected**2))
    print(f"normalised mean square error of the logits beside bonsai's exact ones: {error:.1e}")
    assert error < 1e-5, "they are not the same network"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="config.json, model.safetensors, tokenizer.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bonsai", help="the program, to compare with")
    args = parser.parse_args()
    config = json.loads((args.checkpoint / "config.json").read_text())
    network = Network(config, load_file(args.checkpoint / "model.safetensors")).build()
    (args.out / "onnx").mkdir(parents=True, exist_ok=True)
    model = args.out / "onnx" / "model.onnx"
    onnx.save(network, model)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(args.checkpoint / name, args.out / name)
    (args.out / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    if args.bonsai:
        compare(args.checkpoint, model, config, args.bonsai)


if __name__ == "__main__":
    main()
