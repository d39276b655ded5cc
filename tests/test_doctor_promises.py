"""What a model promises by its configuration, its mode and published formulas: one healthy program, and a fault at a time."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from picogpt_doctor import diagnose

C, HEADS, LAYERS = 48, 6, 2


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


@dataclasses.dataclass
class Config:
    fault: str = ""
    vocab_size: int = 53
    block_size: int = 32
    num_heads: int = HEADS
    num_experts: int = 4
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = True


class Adapted(nn.Linear):
    """A frozen matrix with a low-rank one beside it, which eval() merges."""

    def __init__(self, fault):
        super().__init__(C, C, bias=False)
        self.weight.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(4, C) / 7), nn.Parameter(torch.randn(C, 4) / 700)
        self.merged, self.fault = False, fault

    @torch.no_grad()
    def train(self, mode=True):
        if mode == self.merged:
            self.weight += (self.up @ self.down) * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        beside = 0 if self.merged and self.fault != "merged" else F.linear(F.linear(x, self.down), self.up)
        return F.linear(x, self.weight) + beside


class Expert(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.both, self.out, self.fault = nn.Linear(C, 4 * C, bias=False), nn.Linear(2 * C, C, bias=False), fault

    def forward(self, x):
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.out(F.gelu(gate * up) if self.fault == "gate" else F.gelu(gate) * up)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.fault = config, config.fault
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(2))
        self.q, self.kv, self.o = Adapted(self.fault), nn.Linear(C, 2 * C), nn.Linear(C, C)
        self.router = nn.Linear(C, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(self.fault) for _ in range(config.num_experts))
        self.rates = nn.Parameter(torch.arange(1, 9).float().log().repeat(C, 1))  # (C, 8), the same rows on purpose
        slopes = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]  # the paper's for six heads
        if self.fault == "slopes":
            slopes = [2 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)]
        self.register_buffer("alibi_slopes", torch.tensor(slopes), persistent=False)

    def attend(self, x):
        B, T, _ = x.shape
        q, k, v = (y.view(B, T, HEADS, -1).transpose(1, 2) for y in (self.q(x), *self.kv(x).chunk(2, dim=-1)))
        distance = torch.arange(T)[:, None] - torch.arange(T)
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // HEADS) - self.alibi_slopes[:, None, None] * distance
        if self.fault == "swallowed":
            scores = scores + torch.where(distance < 0, -math.inf, -1e9)
        y = scores.masked_fill(distance < 0, -math.inf).softmax(dim=-1) @ v
        return self.o(y.transpose(1, 2).reshape(B, T, C) * torch.exp(-self.rates.exp()).sum(dim=-1))

    def mix(self, x):
        weights, chosen = self.router(x).softmax(dim=-1).topk(self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob and self.fault != "undivided":
            weights = weights / weights.sum(dim=-1, keepdim=True)
        parts = [((chosen == e) * weights).sum(dim=-1, keepdim=True) * f(x) for e, f in enumerate(self.experts)]
        return sum(parts) * (0.5 if self.fault == "halved" and self.training else 1)

    def forward(self, x):
        x = x + self.attend(self.norms[0](x))
        return x + self.mix(self.norms[1](x))


class Model(nn.Module):
    def __init__(self, fault=""):
        super().__init__()
        self.config = config = Config(fault)
        self.table = nn.Embedding(config.vocab_size, C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        scaled = "both" if fault == "scaled" else "out"
        for name, x in self.named_parameters():
            if name.endswith(f"{scaled}.weight"):
                nn.init.normal_(x, std=0.02 / math.sqrt(2 * LAYERS))

    def forward(self, ids):
        return self.compute(ids)

    @torch.no_grad()
    def generate(self, ids, max_new_tokens):
        """By a way of its own, past forward."""
        for _ in range(max_new_tokens):
            logits = self.compute(ids[:, -self.config.block_size :], 1.1 if self.config.fault == "apart" else 1)[:, -1]
            ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=-1), 1)], dim=1)
        return ids

    def compute(self, ids, size=1):
        x = self.table(ids) * size
        for block in self.blocks:
            x = block(x)
        if self.config.fault == "overflow":
            x = (x * 6000).exp().log1p()
        return self.head(self.norm(x))


FAULTS = {
    "merged": ("modes", r"blocks\.0\.q \(Adapted\) answers otherwise in training.*added a second time"),
    "halved": ("modes", r"blocks\.0 \(Block\) answers otherwise in training"),
    "gate": ("activation", r"gelu is applied to the product of both halves of blocks\.0\.experts\.\d\.both"),
    "slopes": ("positions", r"slopes of the bias of distance \(ALiBi\) are others than the published ones"),
    "undivided": ("configuration", r"norm_topk_prob = True, and the model has weights .* not divided by their sum"),
    "scaled": ("weights", r"experts\.0\.both begins 1/√4 times as large as the others, .* experts\.0\.out does"),
    "swallowed": ("attention", r"the mask adds -1e\+09 to the scores that it allows"),
    "apart": ("generate", r"generate does not call forward: .* gets others than forward from the first new token on"),
    "overflow": ("answers", r"numbers overflow in the model: exp of numbers up to .* is infinite"),
}


def findings(report):
    return [f for status in ("error", "fail", "warn") for f in report.of(status)]


def make(fault=""):
    torch.manual_seed(0)
    return Model(fault)


def test_what_keeps_its_promises_is_healthy():
    """Merged adapters and their frozen matrices, equal rows that are rates, six heads of ALiBi, divided weights."""
    assert not findings(report := diagnose(make())), str(report)
    assert "rates" in report["weights"].evidence
    assert "norm_topk_prob" in report["configuration"].evidence


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_promise_is_named_first(fault):
    check, words = FAULTS[fault]
    first = findings(report := diagnose(make(fault)))[0]
    assert first.check == check, str(report)
    assert re.search(words, first.cause), str(report)
