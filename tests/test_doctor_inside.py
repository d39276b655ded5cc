"""Faults inside a model that public reports describe, in small: named by the first finding, and their twins are healthy."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from doctor_inside import Balanced, Gain, adapted
from doctor_reports import small
from torch import nn
from torch.nn import functional as F

from picogpt_doctor import diagnose

V, C, NH, T = 48, 32, 4, 32


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    torch.manual_seed(0)


def findings(report):
    return [f for status in ("error", "fail", "warn") for f in report.of(status)]


def rotate(x, start):
    """(B, T, nh, hs) -> the same, each pair of features turned by its position."""
    angles = torch.outer(torch.arange(start, start + x.shape[1]).float(), 1e4 ** -torch.arange(0, 1, 2 / x.shape[-1]))
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # (B, T, nh, hs / 2)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(3)


class Layers(nn.Module):
    """A stack of mixers and MLPs; `mix(i, x, state, start)` returns what mixer i adds, and its new state."""

    def __init__(self, healthy):
        super().__init__()
        self.healthy, self.vocab_size, self.block_size = healthy, V, T
        self.embed, self.head = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        self.into, self.out = (nn.ModuleList(nn.Linear(C, n * C, bias=False) for _ in range(2)) for n in (3, 1))
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(5))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)) for _ in range(2))
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, ids, past_key_values=None, use_cache=False):
        start, states = (0, [None, None]) if past_key_values is None else past_key_values
        x, new = self.embed(ids), []
        self.ids = ids
        for i, state in enumerate(states):
            y, state = self.mix(i, self.norms[2 * i](x), state, start)
            x = x + self.out[i](y)
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
            new.append(state)
        return SimpleNamespace(
            logits=self.head(self.norms[4](x)), past_key_values=(start + ids.shape[1], new) if use_cache else None
        )


class SharedKeys(Layers):
    """The second layer reads the first one's keys (B, T, nh, hs); the faulty one turns them once more."""

    def mix(self, i, x, state, start):
        q, k, v = (part.unflatten(-1, (NH, -1)) for part in self.into[i](x).chunk(3, dim=-1))
        if i == 0 or not self.healthy:
            k = rotate(k if i == 0 else self.shared, start)
            self.shared = k
        k = self.shared
        if state is not None:
            k, v = torch.cat([state[0], k], dim=1), torch.cat([state[1], v], dim=1)
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(start)
        scores = torch.einsum("btnh,bsnh->btns", rotate(q, start), k) / math.sqrt(C // NH)  # queries before heads
        weights = scores.masked_fill(~mask[:, None], -math.inf).softmax(dim=-1)
        return torch.einsum("btns,bsnh->btnh", weights, v).flatten(2), (k, v)


class PaddedByIds(Layers):
    """A mask of padding made of the ids; the faulty one hides rows of padding, not keys."""

    def mix(self, i, x, state, start):
        q, k, v = (part.unflatten(-1, (NH, -1)) for part in self.into[i](x).chunk(3, dim=-1))
        q, k, v = rotate(q, 0).transpose(1, 2), rotate(k, 0).transpose(1, 2), v.transpose(1, 2)
        real = (self.ids != 0)[:, None, None, :] if self.healthy else (self.ids != 0)[:, None, :, None]
        n = x.shape[1]
        mask = real & torch.ones(n, n, dtype=torch.bool).tril() | torch.eye(n, dtype=torch.bool)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(C // NH)).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2), None

    def forward(self, ids):
        return super().forward(ids + 0)


class Chunked(Layers):
    """Linear attention with decay in chunks of 8; the faulty one forgets the decay of what comes from earlier chunks."""

    chunk_size = 8

    def mix(self, i, x, state, start):
        q, k, v = (part.unflatten(-1, (NH, -1)).transpose(1, 2) for part in self.into[i](x).chunk(3, dim=-1))
        state = torch.zeros(len(x), NH, C // NH, C // NH) if state is None else state
        parts, size = [], 1 if x.shape[1] == 1 else self.chunk_size
        for a, b, c in zip(*(z.split(size, dim=2) for z in (q, k, v)), strict=True):
            t = torch.arange(a.shape[2])
            decay = 0.9 ** (t[:, None] - t).clamp(min=0) * torch.ones(len(t), len(t)).tril()
            carried = 0.9 ** (t + 1)[:, None] if self.healthy or size == 1 else 1.0
            parts.append((a @ b.transpose(-2, -1) * decay) @ c + carried * a @ state)
            state = 0.9 ** len(t) * state + (0.9 ** (len(t) - 1 - t)[:, None] * b).transpose(-2, -1) @ c
        return torch.cat(parts, dim=2).transpose(1, 2).flatten(2), state


class Convolved(Layers):
    """A short convolution; after a prompt the faulty one keeps the last outputs, where the next token needs inputs."""

    def __init__(self, healthy):
        super().__init__(healthy)
        self.kernels = nn.ParameterList(torch.randn(C, 1, 4) for _ in range(2))

    def mix(self, i, x, state, start):
        value, gate, _ = self.into[i](x).transpose(1, 2).chunk(3, dim=1)  # (B, C, T) each
        whole = torch.cat([value.new_zeros(len(x), C, 3) if state is None else state, value], dim=-1)
        y = F.conv1d(whole, self.kernels[i], groups=C)
        kept = whole if self.healthy or state is not None else F.pad(y, (3, 0))
        return (y * gate.sigmoid()).transpose(1, 2), kept[..., -3:]


FAULTS = {
    SharedKeys: ("positions", "in layer 1 a rotary embedding turns a key twice"),
    PaddedByIds: ("padding", r"the mask of padding \(id 0\).* on the queries' axis"),
    Chunked: ("cache", r"agree up to position 7 .* where a chunk begins \(chunk_size = 8\)"),
    Convolved: ("cache", "the state of a convolution holds its outputs"),
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_reported_fault_is_named_and_its_twin_is_healthy(kind):
    name, words = FAULTS[kind]
    first = findings(report := diagnose(kind(healthy=False)))[0]
    assert first.check == name, str(report)
    assert re.search(words, first.cause), str(report)
    assert not findings(report := diagnose(kind(healthy=True))), str(report)


def test_a_cache_that_is_returned_rather_than_written_into_is_carried_on():
    model = SharedKeys(healthy=True)

    def empty(rows):
        return 0, [(torch.zeros(rows, 0, NH, C // NH),) * 2] * 2

    report = diagnose(model, new_cache=empty)
    assert report["cache"].status == "pass", str(report)


def test_a_base_frozen_in_all_layers_beside_adapters_is_meant_and_one_layer_alone_is_not():
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(C, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    model = SharedKeys(healthy=True)
    model.requires_grad_(False)
    for i in range(2):
        model.into[i] = Adapted(model.into[i])
    assert diagnose(model)["gradients"].status == "pass"
    model.into[1].requires_grad_(False)
    assert "frozen" in diagnose(model)["gradients"].cause


@pytest.mark.parametrize("garbage", [1e35, 1e-40])
def test_a_buffer_that_holds_what_the_memory_held_is_named(garbage):
    model = small(experts=(lambda: Gain(0.7), lambda: Gain(garbage)))()[1]
    first = findings(report := diagnose(model))[0]
    assert "the buffer mlps.0.gain (like 1 other) is" in first.cause, str(report)


WRONG = {  # whose twins stand among the kinds of doctor_inside
    "contain mlps.0.expert_bias": lambda: small(experts=lambda: Balanced("weighs"))()[0],
    "wqkv.scaling.*never used": adapted(interleaved=False, scaled=False),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_experts_weigh_and_what_scales_an_adapter_is_asked(words):
    first = findings(report := diagnose(WRONG[words]()))[0]
    assert first.check == "configuration", str(report)
    assert re.search(words, first.cause), str(report)
