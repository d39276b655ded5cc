"""Kinds of faults that public reports brought, each in two styles and with its healthy twin; the table is as in `doctor_kinds`.

The first style is `Small`: pre-norm blocks, a cache of tuples, softmax by hand. The second is gpt-fast's, or one of its own.
Shapes: B rows, T new positions, P positions in a cache, C width, H heads, D = C / H, E experts, V vocabulary.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from doctor_kinds import NEW_CACHE, Fast, FastArgs, FastLayer, Ring
from torch import nn

V, LIMIT, C, H, E = 53, 40, 32, 4, 4


def rotate(x, start, pairs, layout, dtype=torch.float32, frequencies=None):
    """Rotary positions on x (B, H, T, D), from position `start` on. Pairs and layout are "halves" or "neighbours"."""
    D, T = x.shape[-1], x.shape[-2]
    if frequencies is None:
        frequencies = 100.0 ** (-torch.arange(0, D, 2, dtype=dtype) / D)
    freqs = torch.arange(start, start + T, dtype=dtype)[:, None] * frequencies.to(dtype)  # (T, D / 2)
    angles = torch.cat((freqs, freqs), -1) if layout == "halves" else freqs.repeat_interleave(2, -1)  # (T, D)
    if pairs == "halves":
        turned = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1)
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


class Attends(nn.Module):
    def __init__(self, how, linear):
        super().__init__()
        self.how, self.qkv, self.out = how, linear(C, 3 * C), linear(C, C)
        if how.bias == "table":
            self.near = nn.Parameter(0.3 * torch.randn(H, LIMIT))  # by distance
        if how.frequencies == "buffer":
            self.register_buffer("inv_freq", 100.0 ** (-torch.arange(0, C // H, 2) / (C // H)), persistent=False)

    def bias(self, T, past):
        """(H, T, past + T): what is added to the scores by distance, or, with the fault, by those of the new tokens alone."""
        past = 0 if self.how.new_only else past
        distance = (torch.arange(past, past + T)[:, None] - torch.arange(past + T)).clamp(min=0)
        if self.how.bias == "table":
            return self.near[:, distance]
        return -distance * 2.0 ** -torch.arange(1, H + 1)[:, None, None]

    def forward(self, x, cache, hidden):
        B, T, _ = x.shape
        past = 0 if cache is None else cache[0].shape[2]
        q, k, v = (z.view(B, T, H, C // H).transpose(1, 2) for z in self.qkv(x).split(C, -1))
        if self.how.rotary:
            dtype = x.dtype if self.how.frequencies == "as the weights" else torch.float32
            known = self.inv_freq if self.how.frequencies == "buffer" else None
            q, k = (rotate(z, past, *self.how.rotary, dtype, known) for z in (q, k))
        if cache is not None:
            k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
        scores = q @ k.mT / math.sqrt(C // H)
        if self.how.bias:
            scores = scores + self.bias(T, past).to(scores.dtype)
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C)), (k, v)


class TopOne(nn.Module):
    """One expert for each token, by topk: its weight is its probability, or that divided by its own sum."""

    def __init__(self, how):
        super().__init__()
        self.how, self.gate = how, nn.Linear(C, E, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(C, 48), nn.SiLU(), nn.Linear(48, C)) for _ in range(E))

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).topk(1, dim=-1)  # (B, T, 1) each
        if self.how == "own sum":
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        if self.how == "all tokens":
            weight = weight / weight.norm(p=1)
        each = torch.stack([expert(x) for expert in self.experts], dim=-2)  # (B, T, E, C)
        return weight * each.gather(-2, chosen[..., None].expand(*chosen.shape, C)).squeeze(-2)


class Switch(nn.Module):
    """One expert for each token, by max, over flattened tokens; its probability weights its output, or nothing does."""

    def __init__(self, how):
        super().__init__()
        self.how, self.router = how, nn.Linear(C, E)
        self.wide, self.narrow = nn.Parameter(0.2 * torch.randn(E, C, 48)), nn.Parameter(0.2 * torch.randn(E, 48, C))

    def forward(self, x):
        flat = x.reshape(-1, C)  # (B·T, C)
        weight, chosen = self.router(flat).softmax(-1).max(-1)  # (B·T,) each
        if self.how == "all tokens":
            weight = weight / torch.linalg.vector_norm(weight, ord=1, dim=-1, keepdim=True)
        y = F.gelu(torch.einsum("nc,ncd->nd", flat, self.wide[chosen]))
        y = torch.einsum("nd,ndc->nc", y, self.narrow[chosen])
        return (y if self.how == "unweighted" else weight[:, None] * y).view_as(x)


class BitLinear(nn.Linear):
    """BitNet's: it normalises its input itself."""

    def forward(self, x):
        return super().forward(F.layer_norm(x, x.shape[-1:]))


class Small(nn.Module):
    """forward(ids) -> logits, or (logits, cache) with use_cache; generate(ids, max_new_tokens)."""

    def __init__(self, experts=None, linear=nn.Linear, norm=nn.LayerNorm, head_std=0.02, tied=False, mask=False, **how):
        super().__init__()
        known = dict(rotary=(), bias="", new_only=False, frequencies="", time_first=False, count="mask", penalty="")
        self.how = SimpleNamespace(**known | how)
        self.block_size, self.vocab_size = LIMIT, V
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(LIMIT, C)
        self.attentions = nn.ModuleList(Attends(self.how, linear) for _ in range(2))
        plain = lambda: nn.Sequential(linear(C, 64), nn.GELU(), linear(64, C))  # noqa: E731
        self.mlps = nn.ModuleList(plain() if experts is None else experts() for _ in range(2))
        self.norms = nn.ModuleList(norm(C) for _ in range(4))
        self.ln_f, self.head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)
        for x in (self.wte.weight, self.wpe.weight):
            nn.init.normal_(x, std=0.02)
        nn.init.normal_(self.head.weight, std=head_std)
        if tied:
            self.wte.weight = self.head.weight
        if self.how.rotary or self.how.bias:
            del self.wpe

    def forward(self, idx, past_key_values=None, attention_mask=None, position_ids=None, use_cache=False):
        T, past = idx.shape[1], 0 if past_key_values is None else past_key_values[0][0].shape[2]
        hidden = ~torch.ones(T, past + T, dtype=torch.bool).tril(past)
        x = self.wte(idx)
        positions = torch.arange(past, past + T) if position_ids is None else position_ids
        if attention_mask is not None:
            hidden = hidden | (attention_mask == 0)[:, None, None]
            if self.how.count == "mask" and position_ids is None:
                positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -T:]
        if hasattr(self, "wpe"):
            x = x + self.wpe(positions)
        caches = []
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            y, kv = attention(self.norms[2 * i](x), None if past_key_values is None else past_key_values[i], hidden)
            caches.append(kv)
            x = x + y
            z = self.norms[2 * i + 1](x)
            x = x + (mlp(z.transpose(0, 1).contiguous()).transpose(0, 1) if self.how.time_first else mlp(z))
        logits = self.head(self.ln_f(x))
        return (logits, caches) if use_cache else logits


class Padded(Small):
    """Its generate takes a mask of padding."""

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, attention_mask=None):
        mask = torch.ones_like(idx) if attention_mask is None else attention_mask
        for _ in range(max_new_tokens):
            logits = self(idx[:, -LIMIT:], attention_mask=mask[:, -LIMIT:])[:, -1]
            idx = torch.cat((idx, logits.argmax(-1, keepdim=True)), 1)
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        return idx


def complete_padded(model, prompt, steps, pad_mask=None):
    """A free function; pad_mask is True where there is a token."""
    keep = torch.ones_like(prompt) if pad_mask is None else pad_mask.long()
    with torch.no_grad():
        for _ in range(steps):
            new = model(prompt[:, -LIMIT:], attention_mask=keep[:, -LIMIT:])[:, -1].argmax(-1)
            prompt, keep = torch.cat((prompt, new[:, None]), 1), F.pad(keep, (0, 1), value=1)
    return prompt


@torch.no_grad()
def penalised(model, input_ids, max_length, repetition_penalty=1.2):
    """CTRL's penalty as it first was in transformers: every logit of a token that was there is divided."""
    for _ in range(max_length):
        z = model(input_ids[:, -LIMIT:])[:, -1].clone()
        for row, ids in enumerate(input_ids.tolist()):
            for token in set(ids):
                z[row, token] /= repetition_penalty
        input_ids = torch.cat((input_ids, z.argmax(-1, keepdim=True)), 1)
    return input_ids


@torch.no_grad()
def penalised_rightly(model, input_ids, max_length, repetition_penalty=1.2):
    for _ in range(max_length):
        z = model(input_ids[:, -LIMIT:])[:, -1]
        there = z.gather(1, input_ids)
        there = torch.where(there > 0, there / repetition_penalty, there * repetition_penalty)
        input_ids = torch.cat((input_ids, z.scatter(1, input_ids, there).argmax(-1, keepdim=True)), 1)
    return input_ids


class Draws(Small):
    """A method that draws, with a penalty that is subtracted from, or added to, the logits of what was there."""

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, rep_penalty=1.2):
        for _ in range(max_new_tokens):
            z = self(idx[:, -LIMIT:])[:, -1] / temperature
            change = math.log(rep_penalty) * (1 if self.how.penalty == "added" else -1)
            z = z.scatter_add(1, idx, torch.full(idx.shape, change))
            idx = torch.cat((idx, torch.multinomial(z.softmax(-1), 1)), 1)
        return idx


# ----- gpt-fast's style


class Turned(FastLayer):
    pairs, layout = "neighbours", "neighbours"

    def rotate(self, x, positions):
        return rotate(x.transpose(1, 2), int(positions[0]), self.pairs, self.layout).transpose(1, 2)


class TurnedUnevenly(Turned):
    layout = "halves"


class FirstLost(Ring):
    """What is written to slot 0 is lost, once it was read."""

    def put(self, k, v, positions):
        k, v, at = super().put(k, v, positions)
        found = k.clone(), v.clone(), at
        self.k[:, :, 0], self.v[:, :, 0] = 0, 0
        return found


class LosesFirst(Fast):
    def empty_cache(self, rows):
        a = self.config
        return [FirstLost(rows, a.cache_size, a.n_local_heads, a.dim // a.n_head) for _ in self.layers]


class Steps(Small):
    """generate reads token by token into a table of its own, beside forward; with the fault it does not write the first one."""

    loses = False

    def step(self, token, table, at):
        x = self.wte(token) + self.wpe.weight[at]  # (B, 1, C)
        for i, attention in enumerate(self.attentions):
            q, k, v = (z.view(len(x), 1, H, C // H).transpose(1, 2) for z in attention.qkv(self.norms[2 * i](x)).split(C, -1))
            if at or not self.loses:
                table[i, 0][:, :, at : at + 1], table[i, 1][:, :, at : at + 1] = k, v
            k, v = (table[i, n][:, :, : at + 1] for n in (0, 1))
            y = F.scaled_dot_product_attention(q, k, v)
            x = x + attention.out(y.transpose(1, 2).reshape(len(x), 1, C))
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        return self.head(self.ln_f(x))[:, -1]

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0):
        table = torch.zeros(2, 2, len(idx), H, LIMIT, C // H)  # (layer, keys or values, B, H, P, D)
        for at in range(idx.shape[1]):
            logits = self.step(idx[:, at : at + 1], table, at)
        for _ in range(max_new_tokens):
            idx = torch.cat((idx, torch.multinomial((logits / temperature).softmax(-1), 1)), 1)
            logits = self.step(idx[:, -1:], table, idx.shape[1] - 1) if idx.shape[1] <= LIMIT else logits
        return idx


# ----- recurrent: a running sum, and the token before


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value, self.out = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
        self.mix = nn.Parameter(torch.full((C,), 0.5))

    def forward(self, x, last, total):
        """x (B, T, C), last (B, C), total (B, C) -> the same three."""
        before = torch.cat((last[:, None], x[:, :-1]), 1)
        v = self.value(torch.lerp(before, x, self.mix))
        sums = []
        for t in range(x.shape[1]):
            total = 0.9 * total + v[:, t]
            sums.append(total)
        return self.out(torch.sigmoid(self.gate(x)) * torch.stack(sums, 1)), x[:, -1], total


class Shifts(nn.Module):
    """Its state is a list of dicts, or a tuple of two tensors (layer, B, C)."""

    def __init__(self, form="dicts", kept=""):
        super().__init__()
        self.vocab_size, self.form, self.kept = V, form, kept
        self.emb, self.layers = nn.Embedding(V, C), nn.ModuleList(Mixes() for _ in range(2))
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(C) for _ in range(3)), nn.Linear(C, V)

    def init_state(self, rows):
        if self.form == "dicts":
            return [dict(last=torch.zeros(rows, C), total=torch.zeros(rows, C)) for _ in self.layers]
        return torch.zeros(2, rows, C), torch.zeros(2, rows, C)

    def forward(self, idx, state=None):
        state = self.init_state(len(idx)) if state is None else state
        parts = [(s["last"], s["total"]) for s in state] if self.form == "dicts" else list(zip(*state, strict=True))
        x, new = self.emb(idx), []
        for layer, norm, (last, total) in zip(self.layers, self.norms, parts, strict=False):
            y, last_now, total_now = layer(norm(x), last, total)
            new.append((last if self.kept == "last" else last_now, total if self.kept == "total" else total_now))
            x = x + y
        logits = self.head(self.norms[2](x))
        if self.form == "dicts":
            return logits, [dict(last=a, total=b) for a, b in new]
        return logits, (torch.stack([a for a, _ in new]), torch.stack([b for _, b in new]))


# ----- the table


def seeded(build):
    """Return two builders as a function that makes the faulty model and its twin, of the same weights."""

    def both(faulty, healthy):
        def pair():
            models = []
            for make in (faulty, healthy):
                torch.manual_seed(0)
                models.append(make())
            return tuple(models)

        return pair

    return both(*build)


def small(cls=Small, **fault_and_twin):
    """small(x=(wrong, right)) makes a model with x=wrong, and its twin; what is no tuple of two both have."""
    sides = [{k: v[i] if isinstance(v, tuple) and len(v) == 2 else v for k, v in fault_and_twin.items()} for i in (0, 1)]
    return seeded([lambda side=side: cls(**side) for side in sides])


def halved(**how):
    sides = [{k: v[i] if isinstance(v, tuple) and len(v) == 2 else v for k, v in how.items()} for i in (0, 1)]
    return seeded([lambda side=side: Small(rotary=["halves", "halves"], **side).bfloat16() for side in sides])


def losing():
    model = Steps()
    model.loses = True
    return model


EVEN, UNEVEN = ["halves", "halves"], ["halves", "neighbours"]
GIVEN = dict(generate=(penalised, penalised_rightly))
# as in doctor_kinds: a function that returns the faulty model and its twin, check, a regular expression in the cause of the
# first finding, further options of diagnose
KINDS = {
    "rotary pairs turned unevenly": (small(rotary=(UNEVEN, EVEN)), "positions", r"different angles", {}),
    "rotary pairs turned unevenly, gpt-fast": (
        seeded([lambda: Fast(FastArgs(), TurnedUnevenly), lambda: Fast(FastArgs(), Turned)]),
        "positions", r"different angles", {},
    ),
    "rotary angles in half precision": (
        halved(frequencies=("as the weights", "")), "precision", r"angles.*bfloat16.*256", {},
    ),
    "frequencies in half precision": (halved(frequencies=("buffer", "")), "precision", r"angles.*bfloat16.*256", {}),
    "router divided by its own sum": (
        small(experts=(lambda: TopOne("own sum"), lambda: TopOne(""))), "gradients", r"router.*only chooses", {},
    ),
    "router that weights nothing": (
        small(experts=(lambda: Switch("unweighted"), lambda: Switch(""))), "gradients", r"router.*only chooses", {},
    ),
    "router divided by all tokens": (
        small(experts=(lambda: TopOne("all tokens"), lambda: TopOne(""))), "causality", r"TopOne", {},
    ),
    "router divided by all tokens, time first": (
        small(experts=(lambda: Switch("all tokens"), lambda: Switch("")), time_first=True), "causality", r"Switch", {},
    ),
    "ALiBi of the new tokens alone": (small(bias="alibi", new_only=(True, False)), "cache", r"ALiBi.*new tokens alone", {}),
    "relative bias of the new tokens alone": (
        small(bias="table", new_only=(True, False)), "cache", r"relative bias.*new tokens alone", {},
    ),
    "first key never written, gpt-fast": (
        seeded([lambda: LosesFirst(FastArgs()), lambda: Fast(FastArgs())]), "cache", r"nothing at position 0", NEW_CACHE,
    ),
    "first key never written, in generate": (seeded([losing, Steps]), "generate", r"nothing at position 0", {}),
    "part of a state kept, dicts": (
        small(Shifts, kept=("last", "")), "cache", r"part of the state.*\[0\]\['last'\]", {},
    ),
    "part of a state kept, tensors": (
        small(Shifts, kept=("last", ""), form="tensors"), "cache", r"part of the state.*\[0\]", {},
    ),
    "left padding in generate": (small(Padded, count=("arange", "mask")), "generate", r"padding on the left", {}),
    "left padding in a free function": (
        small(count=("arange", "mask")), "generate", r"padding on the left", dict(generate=(complete_padded,) * 2),
    ),
    "repetition penalty divides": (small(), "generate", r"repetition penalty.*likelier", GIVEN),
    "repetition penalty is added": (small(Draws, penalty=("added", "")), "generate", r"repetition penalty.*likelier", {}),
    "head of standard deviation 1": (
        small(head_std=(1.0, 0.02)), "first loss", r"head.weight has a standard deviation of (1|0.99)", {},
    ),
    "tied head of standard deviation 1": (
        small(head_std=(1.0, 0.02), tied=True), "first loss", r"standard deviation of (1|0.99), and it is tied", {},
    ),
}  # fmt: skip
HEALTHY = {"layers that normalise inside": lambda: Small(linear=BitLinear, norm=lambda width: nn.Identity())}


def make(name, healthy=False):
    """Return a model and the options that diagnose() needs for it."""
    build, _, _, more = KINDS[name]
    model = build()[healthy]
    options = more["options"](model) if "options" in more else {}
    return model, options | ({"generate": more["generate"][healthy]} if "generate" in more else {})
