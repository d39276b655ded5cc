"""Fixed tables of positions, norms that branches share, linear attentions, branches fed 0: faults and healthy twins."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from picogpt_doctor import diagnose

C, H, V, L = 32, 4, 47, 24


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    torch.manual_seed(0)


class Mixer(nn.Module):
    """Attention, or a linear one: "linear" is normalised, "running sum" is not, "multiplied" the wrong way round."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.query, self.key, self.value, self.proj = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (f(x).view(B, T, H, -1).transpose(1, 2) for f in (self.query, self.key, self.value))  # (B, H, T, C / H)
        if self.how == "softmax":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            q, k = F.elu(q) + 1, F.elu(k) + 1
            state = (k[..., :, None] * v[..., None, :]).cumsum(2)  # (B, H, T, C / H, C / H)
            y, total = torch.einsum("bhti,bhtij->bhtj", q, state), (q * k.cumsum(2)).sum(-1, keepdim=True)
            y = {"linear": y / total, "multiplied": y * total, "running sum": y}[self.how]
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, mixer, one_norm, scale):
        super().__init__()
        self.mixer, self.mlp = Mixer(mixer), nn.Sequential(nn.Linear(C, 64), nn.GELU(), nn.Linear(64, C))
        self.input_norm = nn.LayerNorm(C)
        self.mlp_norm = self.input_norm if one_norm else nn.LayerNorm(C)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x):
        x = x + self.mixer(self.input_norm(x) * self.scale)
        return x + self.mlp(self.mlp_norm(x) * self.scale)


class Model(nn.Module):
    def __init__(self, mixer="softmax", one_norm=False, table=None, scale=1.0):
        super().__init__()
        self.block_size, self.tokens, self.positions = L, nn.Embedding(V, C), nn.Embedding(L, C)
        self.layers = nn.ModuleList(Block(mixer, one_norm, scale) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)
        for x in (self.tokens.weight, self.positions.weight, self.head.weight):
            nn.init.normal_(x, std=0.02)
        if table is not None:
            del self.positions
            self.register_buffer("positions", table)

    def forward(self, ids):
        T = ids.shape[1]
        x = self.tokens(ids) + (self.positions[:T] if isinstance(self.positions, torch.Tensor) else self.positions.weight[:T])
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def waves(sines, cosines, halves=False):
    """(L, C): sines and cosines of these exponents of 10000, in turn or one after the other."""
    at = torch.arange(L)[:, None]
    s, c = (at * 1e4**-exponents for exponents in (sines, cosines))
    return torch.cat((s.sin(), c.cos()), 1) if halves else torch.stack((s.sin(), c.cos()), -1).flatten(1)


HALF = torch.arange(C // 2) * 2 / C
APART, TWICE = "different frequencies", "fall twice as fast"
CASES = {
    "the paper's": (dict(table=waves(HALF, HALF)), "positions", ""),
    "halves, to 1 / base": (dict(table=0.1 * waves(HALF * C / (C - 2), HALF * C / (C - 2), True)), "positions", ""),
    "another base": (dict(table=waves(HALF / 2, HALF / 2)), "positions", ""),
    "2 i twice": (dict(table=waves(2 * HALF, 2 * HALF + 2 / C)), "positions", APART),
    "by the feature, in halves": (dict(table=waves(HALF, HALF + 1 / C, True)), "positions", APART),
    "both twice as fast": (dict(table=waves(2 * HALF, 2 * HALF)), "positions", TWICE),
    "a norm for each branch": ({}, "shared layers", ""),
    "one norm": (dict(one_norm=True), "shared layers", "layers.0.input_norm is shared by two branches"),
    "linear": (dict(mixer="linear"), "softmax", ""),
    "a running sum": (dict(mixer="running sum"), "softmax", ""),
    "multiplied": (dict(mixer="multiplied"), "softmax", "multiplied by its normaliser instead of divided"),
    "never written": (dict(scale=-2.9e35), "answers", "layers.0.scale (like 1 other) is -2.9e+35: it was not filled"),
    "fed 0": (dict(scale=0.0), "memory", "fed exactly 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_norms_and_mixers(name):
    how, check, words = CASES[name]
    report = diagnose(Model(**how))
    found = [f for status in ("error", "fail", "warn") for f in report.of(status)]
    if not words:
        assert not found, str(report)
    else:
        assert words in report[check].cause, str(report)
        assert check in ("memory", found[0].check), str(report)
    if name == "fed 0":
        assert (report["norms"].status, "fed exactly 0" in report["gradients"].cause) == ("skip", True), str(report)
