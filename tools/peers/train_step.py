#!/usr/bin/env python3
"""Times training steps of PyTorch on the model that bonsai-trainer is timed on: eager f32, ternary by
straight-through estimator (absmean, groups of 128, embedding and head included), fused AdamW, clip 1.0.

    pip install torch transformers
    python3 tools/peers/train_step.py --model A --batch 16 --seq 256 --threads 2 --steps 4

stdout: one JSON object. stderr: progress.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", choices=["A", "0.6b"], default="A")
parser.add_argument("--batch", type=int, help="default: 16 for A, 1 for 0.6b")
parser.add_argument("--seq", type=int, help="default: 256 for A, 128 for 0.6b")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--steps", type=int, default=4, help="timed steps, after one that is not")
parser.add_argument("--dense", action="store_true", help="no projection: the same model in f32")
parser.add_argument("--compile", action="store_true", help="torch.compile")
args = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported
    os.environ[variable] = str(args.threads)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

GROUP = 128


def peak_rss_gib():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)  # Linux counts in KiB


RSS_OF_IMPORTS = peak_rss_gib()  # a CUDA build of torch weighs more than a CPU build before it does anything
SHAPES = {  # hidden, layers, heads, kv heads, head_dim, intermediate, vocabulary, default batch, default seq
    "A": (512, 6, 8, 4, 64, 1536, 4096, 16, 256),
    "0.6b": (1024, 28, 16, 8, 128, 3072, 151936, 1, 128),
}


class Project(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, latent):
        groups = latent.unflatten(-1, (-1, GROUP))
        size = groups.abs()
        scale = size.mean(-1, keepdim=True).half().float()
        ternary = torch.where(size > 0.5 * scale, torch.copysign(scale, groups), 0.0)
        return ternary.flatten(-2)

    @staticmethod
    def backward(_ctx, grad):
        return grad


class TernaryLinear(torch.nn.Linear):
    def forward(self, x):
        return F.linear(x, Project.apply(self.weight), self.bias)


class TernaryEmbedding(torch.nn.Embedding):
    def forward(self, ids):
        return F.embedding(ids, Project.apply(self.weight))


def build(hidden, layers, heads, kv_heads, head_dim, intermediate, vocab):
    config = transformers.Qwen3Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=True,
        max_position_embeddings=2048, use_cache=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config).train()
    if not args.dense:
        swap = {torch.nn.Linear: TernaryLinear, torch.nn.Embedding: TernaryEmbedding}
        for module in model.modules():
            module.__class__ = swap.get(type(module), type(module))
    return model


def main():
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    *shape, batch, seq = SHAPES[args.model]
    vocab, batch, seq = shape[-1], args.batch or batch, args.seq or seq
    model = build(*shape)
    params = list(model.parameters())
    opt = torch.optim.AdamW(
        [
            dict(params=[p for p in params if p.ndim == 2], weight_decay=0.1),
            dict(params=[p for p in params if p.ndim == 1], weight_decay=0.0),
        ],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip

    def loss_of(x, y):
        return F.cross_entropy(model(input_ids=x).logits.flatten(0, 1), y.flatten())

    loss_fn = torch.compile(loss_of) if args.compile else loss_of
    seconds, losses = [], []
    for step in range(args.steps + 1):
        tokens = torch.randint(0, vocab, (batch, seq + 1))
        start = time.perf_counter()
        loss = loss_fn(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
        print(f"step {step}: {seconds[-1]:.3f} s, loss {losses[-1]:.4f}", file=sys.stderr)

    median = statistics.median(seconds[1:])
    result = dict(
        model=args.model, params=sum(p.numel() for p in params), mode="dense" if args.dense else "ternary",
        compiled=args.compile, batch=batch, seq=seq, threads=args.threads,
        first_step_s=round(seconds[0], 4), step_s=[round(s, 4) for s in seconds[1:]], median_step_s=round(median, 4),
        best_step_s=round(min(seconds[1:]), 4), tokens_per_s=round(batch * seq / median, 1),
        peak_rss_gib=peak_rss_gib(), rss_of_imports_gib=RSS_OF_IMPORTS,
        losses=[round(l, 5) for l in losses], torch=torch.__version__, transformers=transformers.__version__,
    )  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
