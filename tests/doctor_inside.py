"""Kinds of faults inside the model, each in styles other than that of the report that brought it, with its healthy twin.

The table is as in `doctor_kinds`. Shapes: B rows, T new positions, P in a cache, C width, H heads, D = C / H, E experts.
"""

import math

import torch
import torch.nn.functional as F
from doctor_kinds import NEW_CACHE, Fast, FastArgs, FastLayer, turned
from doctor_reports import LIMIT, C, E, Small, V, seeded, small
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
            elif how == "one row":
                positions = positions[:1].expand_as(positions)
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


class Balanced(nn.Module):
    """Experts chosen by probabilities and a bias that balances them, which may be in their weights; `top_k` may not be read."""

    def __init__(self, how):
        super().__init__()
        self.how, self.top_k, self.router = how, 2, nn.Linear(C, E, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(C, 24), nn.GELU(), nn.Linear(24, C)) for _ in range(E))
        self.register_buffer("expert_bias", torch.linspace(-0.1, 0.1, E))

    def forward(self, x):
        scores = self.router(x).sigmoid()  # (B, T, E)
        chosen = (scores + self.expert_bias).topk(3 if self.how == "three" else self.top_k, dim=-1).indices
        weights = torch.zeros_like(scores).scatter(
            -1, chosen, (scores + self.expert_bias * (self.how == "weighs")).gather(-1, chosen)
        )
        return sum(expert(x) * weights[..., i, None] for i, expert in enumerate(self.experts))


class Lossy(Small):
    """forward(idx, targets) -> (logits, loss), with a loss of the routers: of counts alone, or of counts and probabilities."""

    def forward(self, idx, targets=None):
        logits, balance = super().forward(idx), 0.0
        if targets is None:
            return logits, None
        for mlp in self.mlps:
            probabilities = mlp.router(logits.new_ones(1, C) * logits.flatten(0, 1)[:, :C]).softmax(-1)  # (B·T, E)
            share = F.one_hot(probabilities.argmax(-1), E).float().mean(0)
            balance = balance + E * (share * (share if self.how.penalty else probabilities.mean(0))).sum()
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + 0.01 * balance


class Gain(nn.Module):
    """An MLP whose result is multiplied by a number, in a buffer that was emptied."""

    def __init__(self, gain):
        super().__init__()
        self.up, self.down = nn.Linear(C, 64), nn.Linear(64, C)
        self.register_buffer("gain", torch.full((1,), gain), persistent=False)

    def forward(self, x):
        return self.gain * self.down(F.gelu(self.up(x)))


class Stated(Small):
    """A configuration states a rate of dropout; what is built after the class may use it."""

    def __init__(self, uses):
        super().__init__()
        self.config = dict(resid_pdrop=0.2, vocab_size=V)
        if uses:
            self.mlps[1].append(nn.Dropout(0.2))


class ByDepth(Small):
    """All matrices of two layers are scaled by depth, or those that write into the stream."""

    def __init__(self, everywhere):
        super().__init__()
        for mlp, attention in zip(self.mlps, self.attentions, strict=True):
            for layer, scaled in ((mlp[0], everywhere), (mlp[2], True), (attention.qkv, everywhere), (attention.out, True)):
                nn.init.normal_(layer.weight, std=0.02 / 2**scaled)


class TwiceCached(FastLayer):
    """With a cache queries and keys are turned again, pair by pair."""

    def attend(self, x, positions, cache):
        self.again = cache is not None
        return super().attend(x, positions, cache)

    def rotate(self, x, positions):
        return turned(turned(x, positions), positions) if self.again else turned(x, positions)


class Memory(FastLayer):
    """Attention to four keys beside those of the positions, in the second layer; their scale is a root of the width."""

    wide = False

    def __init__(self, args):
        super().__init__(args)
        self.memory = nn.Parameter(0.3 * torch.randn(2, args.n_head, 5, C // args.n_head))

    def attend(self, x, positions, cache):
        y, a = super().attend(x, positions, cache), self.args
        (B, T, _), head = x.shape, C // a.n_head
        q = self.wqkv(x)[..., :C].view(B, T, a.n_head, head).transpose(1, 2)  # (B, H, T, D)
        weights = (q @ self.memory[0].mT * (C if self.wide else head) ** -0.5).softmax(-1)  # (B, H, T, 5)
        return y + (weights @ self.memory[1]).transpose(1, 2).reshape(B, T, C)


class Circular(FastLayer):
    """Beside plain attention, windows of eight that are shifted by four: in a circle, or padded."""

    circle = False

    def attend(self, x, positions, cache):
        (B, T, _), a, n = x.shape, self.args, 8
        head = C // a.n_head
        q, k, v = self.wqkv(x).split([C, a.n_local_heads * head, a.n_local_heads * head], dim=-1)
        q, k, v = (z.view(B, T, -1, head).transpose(1, 2) for z in (q, k, v))
        q, k, v = (
            z.repeat_interleave(a.n_head // z.shape[1], 1) for z in (turned(q.transpose(1, 2), positions).transpose(1, 2), k, v)
        )
        q, k, v = (F.pad(z, (0, 0, 0, -T % n)) for z in (q, k, v))
        q, k, v = (z.roll(-4, 2) if self.circle else F.pad(z, (0, 0, 4, 4)) for z in (q, k, v))
        q, k, v = (z.unflatten(2, (-1, n)) for z in (q, k, v))  # (B, H, T / 8, 8, D)
        scores = (q @ k.mT / math.sqrt(head)).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -1e9)
        y = (scores.softmax(-1) @ v).flatten(2, 3)
        y = (y.roll(4, 2) if self.circle else y[:, :, 4:])[:, :, :T]
        return super().attend(x, positions, cache) + self.wo(y.transpose(1, 2).reshape(B, T, C))


class Fused(nn.Linear):
    """LoRA on the q | k | v of a fused projection; its rows are put where they lie, or where an interleaved one has them."""

    def __init__(self, args, interleaved, scaled=True):
        kv = C // args.n_head * args.n_local_heads
        super().__init__(C, C + 2 * kv, bias=False)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(2, C) / 8), nn.Parameter(torch.zeros(C + kv, 2))
        rows, n = torch.arange(C + 2 * kv), C // args.n_head
        keys = (rows // n) % 4 == 2 if interleaved else (rows >= C) & (rows < C + kv)
        self.register_buffer("rows", rows[~keys], persistent=False)
        self.scaling, self.scaled = 2.0, scaled

    def forward(self, x):
        y = super().forward(x)
        return y.index_add(-1, self.rows, x @ self.lora_a.T @ self.lora_b.T * (self.scaling if self.scaled else 1))


def adapted(interleaved, scaled=True):
    def build():
        model = NoCache(FastArgs())
        for layer in model.layers:
            layer.wqkv = Fused(model.config, interleaved, scaled)
        model.lora_query, model.lora_key, model.lora_value = True, False, True
        return model

    return build


def layers(kind, **both):
    return seeded([lambda how=how: NoCache(FastArgs(), type("So", (kind,), how)) for how in (both, {})])


KINDS = {
    "more experts than stated": (
        small(experts=(lambda: Balanced("three"), lambda: Balanced(""))), "configuration", r"top_k = 2, and 3 of 4", {},
    ),
    "an auxiliary loss of counts": (
        small(Lossy, experts=lambda: Routed("softmax", True), penalty=("counts", "")), "its own loss", r"constant", {},
    ),
    "an emptied buffer": (
        small(experts=(lambda: Gain(0.0), lambda: Gain(0.7))), "weights", r"buffer mlps.0.gain .like 1 other. is 0", {},
    ),
    "a rate of dropout that nothing uses": (
        seeded([lambda: Stated(False), lambda: Stated(True)]), "configuration", r"resid_pdrop is never used", {},
    ),
    "every matrix scaled by depth": (
        seeded([lambda: ByDepth(True), lambda: ByDepth(False)]), "weights", r"all linear layers begin 1/√4", {},
    ),
    "turned twice with a cache": (
        seeded([lambda: Fast(FastArgs(), TwiceCached), lambda: Fast()]), "cache", r"twice the angles", NEW_CACHE,
    ),
    "a memory's scores by the width": (layers(Memory, wide=True), "scale", r"over 5 other keys.*√32, the width", {}),
    "shifted windows in a circle": (layers(Circular, circle=True), "causality", r"in a circle", {}),
    "LoRA's rows interleaved by mistake": (
        seeded([adapted(True), adapted(False)]), "configuration", r"lora_key is False.*of the keys", {},
    ),
    "padding mask cut with a cache": (small(Masked, cached=("cut", "")), "cache", r"padding on the left is seen", {}),
    "positions of one row with padding and a cache": (
        small(Masked, cached=("one row", "")), "cache", r"rows of different lengths.* of one of them", {},
    ),
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
    build, _, _, more = KINDS[name]
    model = build()[healthy]
    return model, more["options"](model) if more else {}
