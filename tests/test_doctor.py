"""The doctor names every planted fault by its cause, in two hosts that share no code, and finds nothing in healthy models."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from doctor_hosts import FAULTS, bend, fused, separate
from doctor_loops import LM
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import picogpt
import picogpt_core as pc
from picogpt_doctor import diagnose
from picogpt_doctor.patient import Patient, detect_interface
from picogpt_doctor.registry import CHECKS

MAKERS = {"fused": fused, "separate": separate}

PLANTED = [(host, name) for name, fault in FAULTS.items() for host in fault.hosts if not fault.alone]


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("host", "name"), PLANTED, ids=[f"{host}-{name}" for host, name in PLANTED])
def test_a_planted_fault_is_named_by_its_cause(host, name):
    fault = FAULTS[name]
    report = diagnose(MAKERS[host](name))
    found = report[fault.check]
    assert found.status == ("warn" if host in fault.warned else "fail"), str(report)
    assert fault.words(host) in found.cause, str(report)


class Bare(pc.Block):
    """A block without residual connections."""

    def forward(self, x, cache=None):
        return self.mlp(self.ln_2(self.attn(self.ln_1(x), cache)))


@pytest.mark.slow
@pytest.mark.parametrize("n_layer", [1, 3, 6, 12])
def test_a_missing_residual_is_named_at_any_depth(n_layer):
    """The deeper, the less comes through: no other question may be answered in its place."""
    model = pc.GPT(pc.ModelConfig(block_size=32, n_layer=n_layer, n_head=4, n_embd=32))
    model.h = nn.ModuleList(Bare(model.config, layer) for layer in range(n_layer))
    failed = diagnose(model).of("fail")
    assert failed[0].check == "residual", failed
    assert "residual connection around attn and mlp is missing" in failed[0].cause
    assert {finding.check for finding in failed[1:]} <= {"learns"}, failed


@pytest.mark.parametrize("made_for_it", [False, True])
def test_attention_over_the_batch_is_distinguished_from_a_model_that_takes_time_first(made_for_it):
    class Attention(nn.MultiheadAttention):
        def forward(self, x, cache=None):
            future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
            return super().forward(x, x, x, attn_mask=future, need_weights=False)[0]

    class TimeFirst(pc.GPT):
        def forward(self, ids):  # (T, B)
            positions = torch.arange(len(ids))
            x = self.wte(ids) + self.wpe(positions[:, None] if made_for_it else torch.arange(ids.shape[1]))
            for block in self.h:
                x = block(x)
            return self.lm_head(self.ln_f(x))

    model = TimeFirst(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
    for block in model.h:
        block.attn = Attention(32, 4)
    report = diagnose(model)
    assert ("time first" in report["called"].evidence) is made_for_it
    assert report["rows"].status == ("pass" if made_for_it else "fail"), str(report)
    assert report.healthy is made_for_it, str(report)
    assert ("batch_first=True" in report["rows"].advice) is not made_for_it


class Rotary(pc.CausalSelfAttention):
    """Attention without a table of positions: queries and keys are turned, or a bias grows with distance."""

    def __init__(self, config, layer=0, turned="qk", pairs=("half", "half"), slope=0.0):
        super().__init__(config, layer)
        self.turned, self.pairs, self.slope = turned, pairs, slope

    def turn(self, x, pairs):
        T, hs = x.shape[2:]
        angle = torch.arange(T)[:, None] * 100.0 ** (-torch.arange(hs // 2) / (hs // 2))  # (T, hs / 2)
        a, b = x.chunk(2, -1) if pairs == "half" else (x[..., ::2], x[..., 1::2])  # (B, nh, T, hs / 2) each
        a, b = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.cat((a, b), -1) if pairs == "half" else torch.stack((a, b), -1).flatten(-2)  # (B, nh, T, hs)

    def forward(self, x, cache=None):
        B, T, C = x.shape
        nh = self.config.n_head
        q, k, v = (z.view(B, T, nh, C // nh).transpose(1, 2) for z in self.c_attn(x).split(C, dim=2))  # 3 x (B, nh, T, hs)
        q = self.turn(q, self.pairs[0]) if "q" in self.turned else q
        k = self.turn(k, self.pairs[1]) if "k" in self.turned else k
        scores = q @ k.mT / (C // nh) ** 0.5 - self.slope * (torch.arange(T)[:, None] - torch.arange(T))  # (B, nh, T, T)
        y = scores.masked_fill(~pc.causal_mask(T), -torch.inf).softmax(-1) @ v  # (B, nh, T, hs)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class RelativeGPT(pc.GPT):
    def __init__(self, **how):
        super().__init__(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
        del self.wpe
        for layer, block in enumerate(self.h):
            block.attn = Rotary(self.config, layer, **how)

    def forward(self, ids):
        x = self.wte(ids)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({}, "pass", ""),
        (dict(pairs=("neighbours", "neighbours")), "pass", ""),
        (dict(turned="q"), "warn", "not on how far apart they are"),
        (dict(turned="k"), "warn", "not on how far apart they are"),
        (dict(pairs=("neighbours", "half")), "warn", "not on how far apart they are"),
        (dict(turned="", slope=0.2), "pass", ""),
        (dict(turned="", slope=-0.2), "fail", "the farthest key counts most"),
        (dict(turned=""), "warn", "meant so (NoPE)"),
    ],
)
def test_relative_positions_depend_on_distance_and_near_keys_count_more(how, status, words):
    torch.manual_seed(0)
    report = diagnose(RelativeGPT(**how))
    found = report["positions"]
    assert (found.status, words in found.cause) == (status, True), str(report)
    assert not [f for f in report.of("fail") if f is not found], str(report)


class Functional(nn.Module):
    """A GPT without modules for its layers: numbered weights and a loop."""

    def __init__(self, residual=True):
        super().__init__()
        torch.manual_seed(0)
        shapes = {"embed": (50, 32), "place": (24, 32), "head": (50, 32)}
        layer = dict(qkv=(96, 32), out=(32, 32), up=(128, 32), down=(32, 64))
        shapes |= {f"{i}_{name}": shape for i in range(2) for name, shape in layer.items()}
        self.w = nn.ParameterDict({name: nn.Parameter(0.05 * torch.randn(shape)) for name, shape in shapes.items()})
        self.residual = residual

    def forward(self, ids):
        (B, T), w = ids.shape, self.w
        x = F.embedding(ids, w["embed"]) + w["place"][:T]
        for i in range(2):
            q, k, v = F.linear(F.rms_norm(x, (32,)), w[f"{i}_qkv"]).view(B, T, 3, 4, 8).permute(2, 0, 3, 1, 4)  # (B, 4, T, 8)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, 32)
            x = x + F.linear(y, w[f"{i}_out"])
            a, b = F.rms_norm(x, (32,)) @ w[f"{i}_up"].T[:, :64], F.rms_norm(x, (32,)) @ w[f"{i}_up"].T[:, 64:]  # (B, T, 64)
            x = x * self.residual + F.linear(F.silu(a) * b, w[f"{i}_down"])
        return F.linear(F.rms_norm(x, (32,)), w["head"])


def test_a_missing_residual_is_named_where_layers_are_not_modules():
    assert diagnose(Functional()).healthy
    found = diagnose(Functional(residual=False))["residual"]
    assert found.status == "fail"
    assert "w.0_down" in found.cause


def test_a_gate_that_only_adds_is_not_an_activation():
    class Gate(nn.Module):
        def __init__(self, C):
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
            self.join = torch.add

        def forward(self, x):
            return self.down(self.join(self.gate(x), self.up(x)))

    model = pc.GPT(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
    for block in model.h:
        block.mlp = Gate(32)
    assert diagnose(model)["activation"].status == "fail"
    for block in model.h:
        block.mlp.join = torch.mul
    assert diagnose(model)["activation"].status == "pass"


class StartPos(pc.GPT):
    """Llama's manner: a cache inside, and the caller says at which position it goes on."""

    def __init__(self, lost=0):
        super().__init__(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
        self.cache, self.lost = None, lost

    def forward(self, ids, start_pos):
        if torch.is_grad_enabled() or self.training:  # a cache is written in place
            return super().forward(ids)
        if start_pos == 0:
            self.cache = pc.KVCache(self.config, len(ids))
        self.cache.length = max(0, start_pos - self.lost)
        return super().forward(ids, cache=self.cache)


def test_a_cache_inside_that_goes_on_at_start_pos_is_examined():
    healthy, off = (diagnose(StartPos(lost)) for lost in (0, 1))
    assert healthy["cache"].status == "pass", str(healthy)
    assert off["cache"].status == "fail", str(off)


class Nucleus(pc.GPT):
    """Its generate has top_p; `scattered=False` forgets to put what is dropped back into the order of the tokens."""

    def __init__(self, scattered, crowded=False):
        super().__init__(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
        self.scattered, self.crowded, self.calls = scattered, crowded, 0

    @torch.no_grad()
    def generate(self, ids, max_length, do_sample=False, top_p=1.0):  # max_length: of what is new
        self.calls += 1
        if self.crowded and self.calls > 2:  # the first two find out what max_length counts
            raise IndexError("the cache is full")
        for _ in range(max_length):
            logits = self(ids[:, -32:])[:, -1]  # (B, V)
            ordered, order = logits.sort(descending=True)
            drop = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1) >= top_p
            drop = drop.scatter(-1, order, drop) if self.scattered else drop
            logits = logits.masked_fill(drop, -torch.inf)
            new = torch.multinomial(logits.softmax(-1), 1) if do_sample else logits.argmax(-1, keepdim=True)  # (B, 1)
            ids = torch.cat([ids, new], dim=1)
        return ids


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        (dict(scattered=True), "pass", ""),
        (dict(scattered=False), "fail", "top_p keeps the wrong tokens"),
        (dict(scattered=True, crowded=True), "fail", "keeps something between calls"),
    ],
)
def test_options_of_generate_are_tried_and_so_is_a_second_call(how, status, words):
    torch.manual_seed(0)
    report = diagnose(Nucleus(**how))
    found = report["generate"]
    assert (found.status, words in found.cause) == (status, True), str(report)


def cut_by_sum(logits, top_p, crossing=True, guard=True):
    """By sorting and a cumulative sum: `crossing` keeps the token that crosses the limit, `guard` the first at least."""
    p, order = logits.softmax(-1).sort(descending=True)
    keep = (p.cumsum(-1) - p < top_p) if crossing else (p.cumsum(-1) <= top_p)
    keep[:, 0] |= guard
    return logits.masked_fill(~torch.zeros_like(keep).scatter(1, order, keep), -torch.inf)


def cut_from_below(logits, top_p):
    """As Hugging Face: what is unlikeliest, up to 1 - top_p, goes."""
    ordered, order = logits.sort()
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[:, -1] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -torch.inf)


def cut_below_likeliest(logits, min_p, relative=True):
    p = logits.softmax(-1)
    return logits.masked_fill(p < (min_p * p.amax(-1, keepdim=True) if relative else min_p), -torch.inf)


def softened(logits, top_k):
    p, order = logits.softmax(-1).topk(min(top_k, logits.shape[-1]))
    return logits if p.shape == logits.shape else torch.full_like(logits, -torch.inf).scatter(1, order, p)


def writes(option="", cut=None, draw=lambda logits: torch.multinomial(logits.softmax(-1), 1), ends=""):
    """Return a free generate with this option beside the temperature, or one that ends its rows in some way."""

    def more(model, ids, n, temperature, value, eos):
        ended = torch.zeros(len(ids), 1, dtype=torch.bool)
        for _ in range(n):
            logits = model(ids[:, -16:])[:, -1] / temperature  # (B, V)
            new = draw(logits if value is None else cut(logits, value))
            new = torch.where(ended, 0, new) if ends == "each" else new
            ids = torch.cat([ids, new], dim=1)
            ended = ended ^ (new == eos) if ends == "until it ends again" else ended | (new == eos)
            if ends not in ("", "never") and (ended.any() if ends == "all at once" else ended.all()):
                break
        return ids

    def generate_p(model, ids, max_new_tokens, temperature=1.0, top_p=None):
        return more(model, ids, max_new_tokens, temperature, top_p, None)

    def generate_min(model, ids, max_new_tokens, temperature=1.0, min_p=None):
        return more(model, ids, max_new_tokens, temperature, min_p, None)

    def generate_k(model, ids, max_new_tokens, temperature=1.0, top_k=None):
        return more(model, ids, max_new_tokens, temperature, top_k, None)

    def generate_to_end(model, ids, max_new_tokens, temperature=1.0, eos_token_id=2):
        return more(model, ids, max_new_tokens, temperature, None, eos_token_id)

    return {"top_p": generate_p, "min_p": generate_min, "top_k": generate_k, "": generate_to_end}[option]


def cut_too_low(logits, top_k):
    """The k-th goes too; with k = 1, all."""
    return logits.masked_fill(logits <= logits.topk(top_k).values[:, -1:], -torch.inf)


def asked(generate):
    """What the check says of a free generate."""
    torch.manual_seed(0)
    p = Patient(LM(p=0.0), generate=generate)
    with p.unharmed():
        p.model.eval()
        p.interface = detect_interface(p)
        return CHECKS["generate"].function(p)


def raced(logits):
    """As gpt-fast: the first of exponential races, whose rates are the probabilities."""
    p = logits.softmax(-1)
    return torch.argmax(p / torch.empty_like(p).exponential_(1), dim=-1, keepdim=True)


def again(logits):
    return torch.distributions.Categorical(logits=logits.softmax(-1)).sample()[:, None]


def test_an_end_of_text_that_fills_a_buffer_stays_as_it_is():
    @torch.no_grad()
    def generate(model, ids, max_new_tokens, eos_id=2):
        known = ids[:, -(16 - max_new_tokens) :]
        T, text = known.shape[1], torch.full((len(ids), 16), eos_id)
        text[:, :T] = known
        for t in range(T, T + max_new_tokens):
            text[:, t] = model(text)[:, t - 1].argmax(-1)
        return torch.cat([ids, text[:, T : T + max_new_tokens]], dim=1)

    assert asked(generate).status != "fail"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (dict(option="top_p", cut=cut_by_sum), "top_p as defined"),
        (dict(option="top_p", cut=cut_from_below), "top_p as defined"),
        (dict(option="top_p", cut=lambda z, p: cut_by_sum(z, p, crossing=False)), "drops the token that crosses the limit"),
        (dict(option="top_p", cut=lambda z, p: cut_by_sum(z, p, False, guard=False)), "drops the token that crosses the limit"),
        (dict(option="min_p", cut=cut_below_likeliest), "min_p as defined"),
        (dict(option="min_p", cut=lambda z, p: cut_below_likeliest(z, p, relative=False)), "min_p leaves no token"),
        (dict(option="min_p", cut=cut_below_likeliest, draw=raced), "min_p as defined"),
        (
            dict(option="top_p", cut=cut_by_sum, draw=lambda z: z.sub(torch.rand_like(z).log().neg().log()).argmax(-1, True)),
            "top_p as",
        ),
        (dict(option="top_p", cut=lambda z, p: cut_by_sum(z, p, crossing=False), draw=raced), "drops the token that crosses"),
        (dict(option="top_k", cut=cut_too_low), "an error inside generate"),
        (dict(option="top_k", cut=softened), "top_k keeps are drawn in other proportions"),
        (dict(option="top_k", cut=lambda z, k: z, draw=again), "softmax is taken twice"),
        (dict(ends="each"), "eos_token_id ends a row and not the other"),
        (dict(ends="until it ends again"), "goes on with other tokens after its end of text"),
        (dict(ends="all at once"), "ends the others too"),
        (dict(ends="never"), "eos_token_id ends nothing"),
    ],
)
def test_what_is_drawn_and_where_a_row_ends_is_compared_with_the_definition(how, words):
    found = asked(torch.no_grad()(writes(**how)))
    right = words.startswith(("top_p as", "min_p as", "eos_token_id ends a row"))
    assert (found.status == "pass", words in (found.evidence if right else found.cause.text)) == (right, True), found


@pytest.mark.parametrize("cut", [True, False])
def test_generate_may_cut_off_or_keep_what_pads_the_vocabulary(cut):
    class Padded(pc.GPT):
        def __init__(self):
            super().__init__(pc.ModelConfig(vocab_size=96, block_size=32, n_layer=2, n_head=4, n_embd=32))
            self.n_vocab = 10  # so few that the likeliest of all 96 is mostly padding

        @torch.no_grad()
        def generate(self, ids, max_new_tokens, do_sample=False):
            for _ in range(max_new_tokens):
                logits = self(ids[:, -32:])[:, -1, : self.n_vocab if cut else None]  # (B, V)
                ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            return ids

    torch.manual_seed(0)
    report = diagnose(Padded(), vocab_size=10)
    assert report["generate"].status == "pass", str(report)


def small(model_class, config_class, **changes):
    torch.manual_seed(0)
    shape = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48)
    return model_class(config_class(**shape | changes, bos_token_id=None, eos_token_id=None))


class EncoderGPT(nn.Module):
    """A GPT of PyTorch's own layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(50, 32), nn.Embedding(24, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 50)

    def forward(self, ids):
        T = ids.shape[1]
        x = self.embed(ids) + self.place(torch.arange(T))
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        return self.head(self.stack(x, mask=mask, is_causal=True))


llama = dict(intermediate_size=64, num_key_value_heads=2)
HEALTHY = {
    "fused": fused,
    "separate": separate,
    "nn.TransformerEncoder": EncoderGPT,
    "HF GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=96, n_positions=48, n_embd=32, n_layer=2, n_head=4)),
    "HF GPT-NeoX": lambda: small(GPTNeoXForCausalLM, GPTNeoXConfig, intermediate_size=64),
    "HF Llama": lambda: small(LlamaForCausalLM, LlamaConfig, **llama),
    "HF Mistral, sliding window": lambda: small(MistralForCausalLM, MistralConfig, **llama, sliding_window=5),
    **{f"preset {name}": lambda name=name: pc.GPT(pc.preset(name)) for name in pc.PRESETS if not name.startswith("gpt2")},
    "bfloat16": lambda: pc.GPT(pc.preset("tiny")).bfloat16(),
    "manual attention, dropout": lambda: pc.GPT(
        pc.ModelConfig(n_layer=2, attention="manual", attn_dropout=0.1, resid_dropout=0.1)
    ),
    "trained": lambda: picogpt.load_shipped("draft").model,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_no_false_alarm_on_a_healthy_model(name):
    model = HEALTHY[name]()
    cache = {"new_cache": lambda rows: pc.KVCache(model.config, rows)} if isinstance(model, pc.GPT) else {}
    report = diagnose(model, **cache)
    assert report.healthy, str(report)
    assert not report.of("warn"), str(report)
    assert len(report.of("pass")) >= 19, str(report)


def test_the_golden_count_is_compared_and_a_difference_taken_apart():
    assert diagnose(pc.GPT(pc.preset("picogpt")), golden="picogpt")["count"].status == "pass"
    found = diagnose(pc.GPT(pc.preset("picogpt-original")), golden="picogpt")["count"]
    assert found.status == "fail"
    assert "+1,792" in found.evidence
    assert "too many: the biases of query, key and value (2,304)" in found.cause
    assert "missing: a last LayerNorm (512)" in found.cause


def snapshot(model):
    grads = [x.grad is None for x in model.parameters()]
    modes = [module.training for module in model.modules()]
    return {k: v.clone() for k, v in model.state_dict().items()}, grads, modes, [x.requires_grad for x in model.parameters()]


@pytest.mark.parametrize("fault", [None, "modifies_weights", "dropout_in_eval", "crashes", "generate_leaves_train_mode"])
def test_the_model_and_the_random_numbers_are_left_as_they_were(fault):
    model = fused(fault)
    model.train()
    model.h[0].eval()
    next(model.parameters()).requires_grad_(False)
    before, random = snapshot(model), torch.get_rng_state()
    diagnose(model)
    after = snapshot(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


def test_a_model_of_half_precision_keeps_it():
    model = pc.GPT(pc.preset("tiny")).bfloat16()
    before = [x.data_ptr() for x in model.parameters()]
    diagnose(model)
    assert all(x.dtype == torch.bfloat16 for x in model.parameters())
    assert [x.data_ptr() for x in model.parameters()] == before


@pytest.mark.slow
def test_picogpt_takes_less_than_20_seconds():
    began = time.process_time()
    assert diagnose(pc.GPT(pc.preset("picogpt"))).healthy
    assert time.process_time() - began < 20, "processor seconds, so that other work on the machine does not count"


class NeedsMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = fused()

    def forward(self, ids, mask):
        return self.inner(ids)


def test_a_model_that_needs_more_than_ids_gets_told_how():
    report = diagnose(NeedsMask())
    assert not report.examined
    assert not report.healthy
    assert "also needs mask" in report["called"].evidence
    assert "class Adapted(nn.Module)" in report["called"].evidence


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: diagnose(fused), "is not a torch.nn.Module"),
        (lambda: diagnose(fused(), vocab_size=0), "vocab_size=0 must be a whole number"),
        (lambda: diagnose(fused(), golden="gtp2"), "neither a number of parameters nor one of"),
        (lambda: diagnose(nn.LazyLinear(3)), "lazy"),
    ],
)
def test_arguments_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_the_report_that_the_pages_show_is_what_the_doctor_says():
    """But for its numbers."""

    def words(text):
        return re.sub(r"[\d.]+", "#", " ".join(text.split()))

    report = words(str(diagnose(pc.GPT(pc.ModelConfig(causal=False)))))
    for page in ("README.md", "docs/doctor.md"):
        [shown] = re.findall(r"```text\n(fail  causality .*?)```", (picogpt.ROOT / page).read_text(), re.DOTALL)
        assert words(shown) in report, page


def test_the_report_as_text_table_and_json():
    report = diagnose(fused("no_mask"))
    assert "likely cause: no causal mask" in " ".join(str(report).split())
    assert "<table>" in report._repr_html_()
    read = json.loads(report.to_json())
    assert read["healthy"] is False
    assert {f["check"]: f["status"] for f in read["findings"]}["causality"] == "fail"


@pytest.mark.slow
def test_what_is_slow_but_not_stuck_is_not_called_a_fault():
    model = fused()
    bend(model, "forward", lambda self, old, *args: (time.sleep(0.06), old(*args))[1])
    report = diagnose(model, seconds=2)
    assert report["causality"].text == "too slow: not finished after 2 s", str(report)
    assert not report.of("fail"), str(report)
    assert not report.healthy, "nobody knows whether it is causal"


@pytest.mark.slow
def test_a_compiled_or_scripted_model_is_examined():
    report = diagnose(torch.compile(fused("no_mask")))
    assert "no causal mask in every attention" in report["causality"].cause, str(report)
    report = diagnose(torch.jit.script(nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 50))))
    assert report.examined, str(report)


def test_a_head_larger_than_the_embedding_is_unusual():
    model = separate()
    model.embed, model.config.vocab_size = nn.Embedding(49, 32), None
    assert "larger than the embedding" in diagnose(model)["answers"].cause


def test_without_a_greedy_option_generate_is_compared_all_the_same():
    def sampled(sign):
        @torch.no_grad()
        def generate(self, idx, max_new_tokens):
            for _ in range(max_new_tokens):
                chances = (sign * self.next_logits(idx)).softmax(1)
                idx = torch.cat((idx, torch.multinomial(chances, 1)), dim=1)
            return idx

        model = fused()
        model.generate = generate.__get__(model)
        return diagnose(model)["generate"]

    assert sampled(1).status == "pass"
    assert "takes the least likely token" in sampled(-1).cause


# ----- the command line

MODEL = """
import sys
sys.path.insert(0, {tests!r})
from doctor_hosts import fused, separate, FusedGPT


def make(fault=None, loud=False):
    return fused(fault)


def crash():
    import os
    os._exit(7)
"""


def run(tmp_path, *words):
    (tmp_path / "my_model.py").write_text(MODEL.format(tests=str(picogpt.ROOT / "tests")))
    line, paths = [sys.executable, "-m", "picogpt_doctor", *words], {"PYTHONPATH": str(picogpt.ROOT)}
    return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=os.environ | paths)


@pytest.mark.slow
def test_the_command_line_exits_with_the_status_of_the_report(tmp_path):
    done = run(tmp_path, "my_model.py:make", "--golden", "29440")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FusedGPT, 29,440 parameters, V = 50, block size 24" in done.stdout
    done = run(tmp_path, "my_model:make", "fault=no_mask", "loud=True", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["healthy"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["my_model.py:make", "fault=hangs", "--seconds", "4"], 2, "not finished after 4 s"),
        (["my_model.py:make", "fault=exits"], 2, "the model ended the program"),
        (["my_model.py:crash"], 2, "exit code 7"),
        (["my_model.py:nothing"], 2, "has no 'nothing'"),
        (["missing.py:make"], 2, "there is no file"),
        (["my_model.py"], 2, "say what in my_model.py makes the model"),
        (["my_model.py:make", "what"], 2, "not of the form name=value"),
        (["my_model.py:make", "unknown=1"], 2, "unexpected keyword argument 'unknown'"),
    ],
)
def test_what_hangs_or_crashes_is_reported_not_propagated(tmp_path, words, status, said):
    done = run(tmp_path, *words)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
