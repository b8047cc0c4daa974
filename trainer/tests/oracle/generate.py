#!/usr/bin/env python3
"""Writes the oracle fixture beside this file: what PyTorch says a tiny ternary Qwen3 computes.

    pip install torch transformers safetensors
    python3 trainer/tests/oracle/generate.py            # rewrites tied/ and untied/

The model is `transformers`' own Qwen3ForCausalLM; every weight matrix (embedding and head included) is
replaced by its ternary projection in the forward pass (straight-through: the latent's gradient is the
projected weight's). README.md lists the tensors and the tolerances to expect.
"""

import argparse
import copy
import json
import math
import pathlib

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
import transformers
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

BATCH, SEQ, STEPS = 2, 16, 3
ROW_STRIDE = 17  # of gradients, codes and AdamW results every 17th row is kept: the fixture stays under 1 MB
VARIANTS = {
    # groups of 128, four query heads on one key/value head
    "tied": dict(group=128, hidden_size=128, num_attention_heads=4, num_key_value_heads=1, head_dim=32),
    # groups of 64, heads * head_dim = 128 is not hidden_size = 64
    "untied": dict(group=64, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32),
}
COMMON = dict(vocab_size=96, intermediate_size=128, num_hidden_layers=2, max_position_embeddings=256)
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
WEIGHT_DECAY = 0.1  # on matrices; norms get none
CLIP = 1.0


def scales_of(latent, group):
    """f16(mean |w|) of each group along the input dimension, as f32. Means are taken in f64."""
    return latent.unflatten(-1, (-1, group)).double().abs().mean(-1).float().half().float()


def codes_of(latent, group):
    """clamp(round(w / s), -1, 1), as {-1, 0, 1} in f32."""
    scale = scales_of(latent, group).repeat_interleave(group, -1)
    return torch.where(latent.abs() > 0.5 * scale, latent.sign(), torch.zeros_like(latent))


class Project(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, latent, group):
        return codes_of(latent, group) * scales_of(latent, group).repeat_interleave(group, -1)

    @staticmethod
    def backward(_ctx, grad):
        return grad, None


class Ternary(torch.nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, latent):
        return Project.apply(latent, self.group)


def build(tied, seed, group, **shape):
    """A model with spread-out weights and norms, so that no gradient is trivially small."""
    config = Qwen3Config(
        **COMMON,
        **shape,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        attention_bias=False,
        attention_dropout=0.0,
        use_sliding_window=False,
        use_cache=False,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config).train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * noise)
            elif "embed" in name or "lm_head" in name:
                p.copy_(0.08 * noise)
            else:
                row_gain = 0.5 + torch.rand(p.shape[0], 1)
                p.copy_(noise * row_gain / math.sqrt(p.shape[1]))
            if p.ndim == 2:
                nudge_off_ties(p, group)
            else:
                p.copy_(p.bfloat16())
    return model


def nudge_off_ties(latent, group):
    """Rounds to bf16 (half the file), then moves latents by a bf16 step until no order of summation
    can change a scale (mean near an f16 tie) or a code (|w| near s/2)."""
    latent.copy_(latent.bfloat16())
    for _ in range(100):
        groups = latent.unflatten(-1, (-1, group))  # a view
        mean = groups.double().abs().mean(-1)
        near_scale = (mean * (1 - 4e-6)).float().half() != (mean * (1 + 4e-6)).float().half()
        groups[..., 0] = torch.where(near_scale, groups[..., 0] * 1.02, groups[..., 0]).bfloat16()
        threshold = 0.5 * scales_of(latent, group).repeat_interleave(group, -1)
        near_code = (latent.abs() / threshold - 1).abs() < 1e-4
        latent.copy_(torch.where(near_code, latent * 1.01, latent).bfloat16())
        if not near_scale.any() and not near_code.any():
            return
    raise RuntimeError("a latent stayed near a rounding tie: take another seed")


def make_ternary(model, group):
    """Every use of a 2-D weight goes through the projection; a tied head and embedding share one latent."""
    for m in list(model.modules()):
        if isinstance(m, (torch.nn.Linear, torch.nn.Embedding)):
            parametrize.register_parametrization(m, "weight", Ternary(group), unsafe=True)


def some_rows(tensor):
    """Every ROW_STRIDE-th row of a matrix; a vector whole."""
    return (tensor[::ROW_STRIDE] if tensor.ndim == 2 else tensor).detach().clone()


def latents(model):
    """Parameters under their Hugging Face names, whether the projection is on or off."""
    return {n.replace("parametrizations.weight.original", "weight"): p for n, p in model.named_parameters()}


def loss_of(model, batch, s):
    logits = model(input_ids=batch[f"input_ids.{s}"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[f"targets.{s}"].flatten()), logits


def forward_backward(model, batch, mode, out, facts):
    loss, logits = loss_of(model, batch, 0)
    loss.backward()
    out[f"{mode}.logits"] = logits.detach().clone()
    facts[f"{mode}.loss"] = loss.item()
    squares = 0.0
    for name, p in latents(model).items():
        out[f"{mode}.grad.{name}"] = some_rows(p.grad)
        squares += p.grad.double().square().sum().item()
        p.grad = None
    facts[f"{mode}.grad_norm"] = math.sqrt(squares)


def train(model, batch, out, facts):
    """Three AdamW steps with clipping: step k on batch k-1. Latents after steps 1 and 3 go to `out`."""
    params = latents(model)
    opt = torch.optim.AdamW(
        [
            dict(params=[p for p in params.values() if p.ndim == 2], weight_decay=WEIGHT_DECAY),
            dict(params=[p for p in params.values() if p.ndim == 1], weight_decay=0.0),
        ],
        foreach=False,
        **ADAMW,
    )
    losses, norms = [], []
    for s in range(STEPS):
        loss, _ = loss_of(model, batch, s)
        loss.backward()
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in params.values()))
        for p in params.values():
            p.grad.mul_(min(1.0, CLIP / (norm + 1e-6)))
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
        norms.append(norm)
        if s + 1 in (1, STEPS) and out is not None:
            out.update({f"adamw.clip1.step{s + 1}.{n}": some_rows(p) for n, p in params.items()})
    with torch.no_grad():
        after = loss_of(model, batch, 0)[0].item()
    facts["adamw"] = dict(
        lr=ADAMW["lr"], betas=list(ADAMW["betas"]), eps=ADAMW["eps"],
        weight_decay_2d=WEIGHT_DECAY, weight_decay_1d=0.0, bias_correction=True,
        clip1=dict(
            clip="g *= min(1, 1.0/(norm+1e-6)), norm over all parameters",
            losses_before_each_step=losses, grad_norms=norms, loss_batch0_after_3_steps=after,
        ),
    )  # fmt: skip


def make(folder, tied, seed, group, **shape):
    folder.mkdir(parents=True, exist_ok=True)
    model = build(tied, seed, group, **shape)
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    tokens = torch.randint(0, COMMON["vocab_size"], (STEPS, BATCH, SEQ + 1))
    batch = {}
    for s in range(STEPS):
        batch[f"input_ids.{s}"] = tokens[s, :, :-1].contiguous()
        batch[f"targets.{s}"] = tokens[s, :, 1:].contiguous()

    facts = dict(tied=tied, seed=seed, batch=BATCH, seq=SEQ, steps=STEPS, group=group, row_stride=ROW_STRIDE)
    out = dict(batch)
    forward_backward(model, batch, "dense", out, facts)
    make_ternary(model, group)
    forward_backward(model, batch, "ternary", out, facts)
    for name, p in latents(model).items():
        if p.ndim == 2:
            out[f"ternary.codes.{name}"] = some_rows(codes_of(p, group)).to(torch.int8)
            out[f"ternary.scales.{name}"] = scales_of(p, group).detach().half()
    train(model, batch, out if tied else None, facts)

    facts["versions"] = dict(torch=torch.__version__, transformers=transformers.__version__)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "oracle.safetensors")
    (folder / "oracle.json").write_text(json.dumps(facts, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(
        f"{folder.name}: {size / 1000:.0f} kB, loss dense {facts['dense.loss']:.5f}, ternary {facts['ternary.loss']:.5f}"
    )


def distillation(path):
    """Loss and gradients of a head that learns from another one; the third token does not count."""
    torch.manual_seed(7)
    temperature, kl_weight, ce_weight, scale = 2.0, 0.7, 0.3, 0.25
    h, w = torch.randn(6, 16).requires_grad_(), torch.randn(23, 16).requires_grad_()
    teacher_h, teacher_w = torch.randn(6, 8), torch.randn(23, 8)
    targets = torch.tensor([3, 0, -100, 22, 9, 9])
    counts = targets >= 0
    z, y = (h @ w.T)[counts], (teacher_h @ teacher_w.T)[counts]
    kl = F.kl_div(
        F.log_softmax(z / temperature, -1), F.log_softmax(y / temperature, -1), reduction="sum", log_target=True
    )
    ce = F.cross_entropy(z, targets[counts], reduction="sum")
    (scale * (kl_weight * temperature**2 * kl + ce_weight * ce)).backward()
    numbers = torch.tensor([temperature, kl_weight, ce_weight, scale, kl.item(), ce.item()])
    out = dict(h=h, w=w, teacher_h=teacher_h, teacher_w=teacher_w, targets=targets, dh=h.grad, dw=w.grad, numbers=numbers)
    save_file({k: v.detach().contiguous() for k, v in out.items()}, path)


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=here)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed, (name, shape) in enumerate(VARIANTS.items(), start=11):
        make(args.out / name, tied=name == "tied", seed=seed, **shape)
    distillation(args.out / "distillation.safetensors")


if __name__ == "__main__":
    main()
