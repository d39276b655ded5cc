"""Kinds of faults inside the model, each in styles other than that of the report that brought it, with its healthy twin.

The table is as in `doctor_kinds`. Shapes: B rows, T new positions, P in a cache, C width, H heads, D = C / H, E experts.
"""

import math

import torch
import torch.nn.functional as F
from doctor_kinds import Fast, FastArgs, FastLayer, turned
from doctor_reports import LIMIT, C, E, Small, seeded, small
from torch import nn


class Masked(Small):
    """With a cache its mask of padding is cut to the new tokens, or not read; or their positions are counted without it."""

    def forward(self, idx, past_key_values=None, attention_mask=None, use_cache=False):
        past, T, how = 0 if past_key_values is None else past_key_values[0][0].shape[2], idx.shape[1], self.how.cached
        positions = torch.arange(past, past + T)
        if attention_mask is not None and not (how == "positions" and past):
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -T:]
        if past and attention_mask is not None:
            if how == "cut":
                attention_mask = torch.cat((attention_mask.new_ones(len(idx), past), attention_mask[:, -T:]), 1)
            elif how == "first only":
                attention_mask = None
        return super().forward(idx, past_key_values, attention_mask, positions, use_cache)


class Scaled(FastLayer):
    """The scale is given to the fused kernel, or is on the queries before they are turned pair by pair."""

    how, power = "fused", -0.5

    def attend(self, x, positions, cache):
        (B, T, _), a = x.shape, self.args
        head = C // a.n_head
        q, k, v = self.wqkv(x).split([C, a.n_local_heads * head, a.n_local_heads * head], dim=-1)
        q, k, v = (z.view(B, T, -1, head) for z in (q, k, v))
        if self.how == "fused":
            q, k, scale = turned(q, positions), turned(k, positions), head**self.power
        else:
            q, k, scale = pairs(q * head**self.power, positions), pairs(k, positions), 1.0
        q, k, v = (z.transpose(1, 2).repeat_interleave(a.n_head // z.shape[2], 1) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.wo(y.transpose(1, 2).reshape(B, T, C))


def pairs(x, positions):
    """(B, T, H, D): neighbours turned, and put side by side again."""
    angles = positions[:, None, None] * 100.0 ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), -1).flatten(-2)


def scaled(how, power):
    return type("ScaledSo", (Scaled,), dict(how=how, power=power))


class NoCache(Fast):
    def forward(self, idx):
        return super().forward(idx)


class Routed(nn.Module):
    """All experts run on all tokens, in one product; their weights are made of the best scores."""

    def __init__(self, how, listed):
        super().__init__()
        self.how, self.listed, self.router = how, listed, nn.Linear(C, E, bias=False)
        if listed:
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(C, 24), nn.GELU(), nn.Linear(24, C)) for _ in range(E))
        else:
            self.experts = Together()

    def forward(self, x):
        scores, (B, T, _) = self.router(x), x.shape
        best, chosen = scores.topk(2, dim=-1)  # (B, T, 2) each
        weights = {"raw": best, "softmax": best.softmax(-1), "sigmoid": best.sigmoid()}[self.how]
        if not self.listed:
            return self.experts(x.flatten(0, 1), chosen.flatten(0, 1), weights.flatten(0, 1)).view(B, T, -1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y = y + expert(x) * (weights * (chosen == i)).sum(-1, keepdim=True)
        return y


class Together(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(E, C, 24) / 6), nn.Parameter(torch.randn(E, 24, C) / 5)

    def forward(self, x, chosen, weights):
        each = F.silu(torch.einsum("nc,eci->eni", x, self.up)) @ self.down  # (E, N, C)
        return (each[chosen, torch.arange(len(x))[:, None]] * weights[..., None]).sum(1)


class Branch(nn.Module):
    """An MLP in which the result of one call is kept, or thrown away."""

    def __init__(self, lost):
        super().__init__()
        self.lost, self.norm, self.act = lost, nn.LayerNorm(C), nn.GELU()
        self.up, self.down = nn.Linear(C, 64), nn.Linear(64, C)

    def forward(self, x):
        y = self.norm(x)
        h = self.act(self.up(x if self.lost == "norm" else y))
        dropped = F.dropout(h, 0.1, self.training)
        return self.down(h if self.lost == "dropout" else dropped)


class Grows(Small):
    """Long texts change what is kept: its frequencies in place, or a number."""

    def __init__(self, kept):
        super().__init__(rotary=["halves", "halves"], frequencies="buffer")
        self.kept, self.longest = kept, 1

    def forward(self, idx):
        T, limit = idx.shape[1], LIMIT // 2
        x = super().forward(idx)
        if self.kept == "in place" and limit < T:
            for attention in self.attentions:
                attention.inv_freq /= T / limit
        if self.kept == "number":
            self.longest = max(self.longest, T)
        return x * (1 + math.log(self.longest))


KINDS = {
    "padding mask cut with a cache": (small(Masked, cached=("cut", "")), "cache", r"padding on the left is seen", {}),
    "positions with padding and a cache": (
        small(Masked, cached=("positions", "")), "cache", r"padding on the left moves the positions", {},
    ),
    "scores times the root, fused": (
        seeded([lambda p=p: NoCache(FastArgs(), scaled("fused", p)) for p in (0.5, -0.5)]), "scale", r"multiplied where", {},
    ),
    "scores times the root, before rotary pairs": (
        seeded([lambda p=p: NoCache(FastArgs(), scaled("pairs", p)) for p in (0.5, -0.5)]), "scale", r"multiplied where", {},
    ),
    "raw router, experts in a list": (
        small(experts=(lambda: Routed("raw", True), lambda: Routed("softmax", True))),
        "configuration", r"raw outputs of mlps.0.router", {},
    ),
    "raw router, experts together": (
        small(experts=(lambda: Routed("raw", False), lambda: Routed("sigmoid", False))),
        "configuration", r"raw outputs of mlps.0.router", {},
    ),
    "result of F.dropout thrown away": (
        small(experts=(lambda: Branch("dropout"), lambda: Branch(""))), "gradients", r"dropped = F.dropout.*not used", {},
    ),
    "result of a norm thrown away": (
        small(experts=(lambda: Branch("norm"), lambda: Branch(""))), "gradients", r"mlps.0.norm.*not used", {},
    ),
    "frequencies changed in place by a long text": (
        seeded([lambda: Grows("in place"), lambda: Grows("")]), "repeats", r"longer text.*attentions.0.inv_freq", {},
    ),
    "a number that a long text leaves": (seeded([lambda: Grows("number"), lambda: Grows("")]), "repeats", r"longer text", {}),
}  # fmt: skip


def make(name, healthy=False):
    """Return a model and the options that diagnose() needs for it."""
    return KINDS[name][0]()[healthy], {}
