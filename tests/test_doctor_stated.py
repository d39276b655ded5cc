"""What a part states or initialises itself, a norm's size, a residual once, and a mask that holds with
padding, with a cache and in half precision: one healthy program, and a fault at a time."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from picogpt_doctor import diagnose

C, H, V = 32, 2, 47


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


@dataclasses.dataclass
class Config:
    how: str = ""
    vocab_size: int = V
    block_size: int = 16
    rotary_pct: float = 0.5
    pos_encoding: str = "rotary"
    rope_theta: float = 100.0


class Norm(nn.Module):
    """By length, with one gain: √C makes it a root mean square's."""

    def __init__(self, how):
        super().__init__()
        self.g = nn.Parameter(torch.tensor({"norm": C**-0.5, "unit": 1.0}.get(how, C**0.5)))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.g


class Highway(nn.Module):
    """A gate that begins nearly closed: its bias is far below 0."""

    def __init__(self, width, hidden=64):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.constant_(self.gate.bias, -3)

    def forward(self, x):
        return torch.sigmoid(self.gate(x)) * self.down(F.gelu(self.up(x)))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.how, self.qkv, self.o = config.how, nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.turned, self.base = int(C // H * config.rotary_pct), config.rope_theta
        self.turned = {"all": C // H, "twice": self.turned // 2, "none": 0}.get(self.how, self.turned)

    def rotate(self, x, start):
        """(B, H, T, D): neighbours of the first features of each head are turned."""
        n = self.turned
        base = 1e4 if self.how == "base" else self.base
        where = torch.arange(start, start + x.shape[2])[:, None] * base ** (-torch.arange(0, n, 2) / max(n, 1))  # (T, n / 2)
        a, b = x[..., :n:2].float(), x[..., 1:n:2].float()
        pairs = torch.stack((a * where.cos() - b * where.sin(), a * where.sin() + b * where.cos()), -1).flatten(-2)
        return torch.cat((pairs.to(x.dtype), x[..., n:]), -1)

    def forward(self, x, keep, cache):
        (B, T, _), past = x.shape, 0 if cache is None or "k" not in cache else cache["k"].shape[2]
        q, k, v = (z.view(B, T, H, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        q, k = self.rotate(q, past), self.rotate(k, past)
        if cache is not None:
            k, v = (torch.cat((cache[n], z), 2) if past else z for n, z in (("k", k), ("v", v)))
            cache |= dict(k=k, v=v)
        seen = torch.ones(T, past + T, dtype=torch.bool).tril(past)
        if self.how == "apart" and cache is not None:
            seen = torch.cat((torch.ones(T, past), torch.eye(T)), 1) > 0
        if self.how == "stamps":  # a token every millisecond
            stamps = 1 + torch.arange(past + T) * torch.tensor(0.001, dtype=x.dtype)
            seen = stamps <= stamps[past:, None]
        bias = torch.zeros(T, past + T, dtype=x.dtype).masked_fill(~seen, -1e9)
        if keep is not None:  # (B, keys)
            hidden = (1 - keep[:, None, None].to(x.dtype)) * -1e9
            bias = hidden if self.how == "replaced" and T > 1 else (bias + hidden).clamp(min=-1e9)
        y = ((q @ k.transpose(-1, -2)) / math.sqrt(C // H) + bias).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.how, self.attention, self.highway = config.how, Attention(config), Highway(C)
        self.norms = nn.ModuleList(Norm(config.how) for _ in range(2))

    def forward(self, x, keep, cache):
        one, other = self.attention(self.norms[0](x), keep, cache), self.highway(self.norms[1](x))
        return x + (x + one) + (x + other) if self.how == "residual" else x + one + other


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.tokens, self.norm, self.head = config, nn.Embedding(V, C), Norm(config.how), nn.Linear(C, V)
        self.blocks = nn.ModuleList(Block(config) for _ in range(2))
        for name, x in self.named_parameters():
            if x.dim() > 1:
                nn.init.normal_(x, std=0.1)
            elif name.endswith("bias") and (config.how == "start" or "gate" not in name):
                nn.init.zeros_(x)

    def forward(self, ids, attention_mask=None, running_state=None):
        x = self.tokens(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, attention_mask, None if running_state is None else running_state.setdefault(i, {}))
        return self.head(self.norm(x))


FAULTS = {
    "norm": ("fail", "norms", rf"what comes out of Norm has size 1/{C} for each feature instead of 1"),
    "unit": ("warn", "norms", rf"what comes out of Norm has size 1/√{C}"),
    "start": ("fail", "weights", r"highway\.gate\.bias is 0 everywhere, where a new Highway has -3"),
    "all": ("fail", "configuration", r"rotary_pct = 0\.5 \(8 of the 16 features of a head\), .* rotary positions on all 16"),
    "twice": ("fail", "configuration", r"rotary_pct = 0\.5 \(8 of the 16 features of a head\), .* rotary positions on 4 of 16"),
    "base": ("fail", "configuration", r"states rope_theta = 100, and the rotary embedding turns with base 10000"),
    "none": ("fail", "positions", r"there are no positions, although the configuration states pos_encoding = 'rotary'"),
    "replaced": ("fail", "padding", r"with attention_mask given, also where it hides nothing, tokens see later ones"),
    "apart": ("fail", "cache", r"read in one call with a cache do not see each other, .*blocks\.0\.attention"),
    "residual": ("fail", "residual", r"added 3 times"),
    "stamps": ("fail", "causality", r"in bfloat16 every attention sees later tokens: what hides them is rounded away"),
}


def examined(how):
    torch.manual_seed(0)
    model = Model(Config(how))
    return diagnose(model.bfloat16() if how in ("stamps", "half") else model, new_cache=lambda rows: {})


def findings(report):
    return [f for status in ("error", "fail", "warn") for f in report.of(status)]


@pytest.mark.parametrize("how", ["", "half"])
def test_what_is_as_stated_is_healthy(how):
    report = examined(how)
    assert not findings(report), str(report)
    assert "rotary_pct" in report["configuration"].evidence
    assert how or "rope_theta" in report["configuration"].evidence
    assert report["cache"].status == "pass"


@pytest.mark.parametrize("how", FAULTS)
def test_what_is_not_as_stated_is_named_first(how):
    status, check, words = FAULTS[how]
    first = findings(report := examined(how))[0]
    assert (first.status, first.check) == (status, check), str(report)
    assert re.search(words, first.cause), str(report)
