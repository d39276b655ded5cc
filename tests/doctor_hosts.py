"""The catalogue of faults on which the diagnosis tool is tested: two small GPTs, each able to carry any one of them.

The two hosts share no code and differ in every convention a tool could lean on (names, fused or separate projections,
biases, norm, MLP, position table, tied head, who shifts the labels, tuple or dict, shape of the cache's interface).
They agree only on the names of a few small methods, the seams, where a fault is put into one healthy instance:

    model      rows(index) place(x, start) read(x) pair(logits, labels) cost(logits, labels) next_logits(ids) forward generate
    block      mix(x, past) think(x) forward
    attention  heads(x) merge(y) extend(past, k, v) attend(q, k, v)

Shapes: B batch, T new positions, S seen positions (T and those of the cache), C width, H heads, D = C / H, V vocabulary.
"""

import functools
import inspect
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, LIMIT, WIDTH, HEADS, LAYERS = 50, 24, 32, 4, 2


# ---------------------------------------------------------------------------------------------- host 1: GPT-2's conventions


@dataclass
class FusedConfig:
    vocab_size: int = VOCAB
    block_size: int = LIMIT
    n_layer: int = LAYERS
    n_head: int = HEADS
    n_embd: int = WIDTH
    tie_word_embeddings: bool = False


class FusedAttention(nn.Module):
    """Causal attention by hand, queries, keys and values from one projection."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def heads(self, x):
        b, t, c = x.shape
        return x.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)

    def merge(self, y):
        b, h, t, d = y.shape
        return y.transpose(1, 2).contiguous().view(b, t, h * d)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def extend(self, past, k, v):
        if past is None:
            return k, v
        return torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)  # 2 x (B, H, S, D)

    def attend(self, q, k, v):
        t, s = q.size(2), k.size(2)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (B, H, T, D) @ (B, H, D, S) -> (B, H, T, S)
        future = torch.ones(t, s, dtype=torch.bool, device=q.device).triu(s - t + 1)  # (T, S)
        return torch.softmax(scores.masked_fill(future, -math.inf), dim=3) @ v  # (B, H, T, S) @ (B, H, S, D) -> (B, H, T, D)

    def forward(self, x, past=None):
        q, k, v = (self.heads(part) for part in self.c_attn(x).chunk(3, dim=2))  # (B, T, 3C) -> 3 x (B, H, T, D)
        k, v = self.extend(past, k, v)
        return self.c_proj(self.merge(self.attend(q, k, v))), (k, v)


class FusedBlock(nn.Module):
    """Pre-LN: attention, then a GELU MLP."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = FusedAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        c_fc, c_proj = nn.Linear(config.n_embd, 4 * config.n_embd), nn.Linear(4 * config.n_embd, config.n_embd)
        self.mlp = nn.Sequential(OrderedDict(c_fc=c_fc, gelu=nn.GELU(), c_proj=c_proj))

    def mix(self, x, past):
        return self.attn(self.ln_1(x), past)

    def think(self, x):
        return self.mlp(self.ln_2(x))

    def forward(self, x, past=None):
        y, kept = self.mix(x, past)
        x = x + y
        return x + self.think(x), kept


class FusedGPT(nn.Module):
    """forward(idx, targets) -> (logits, loss), with targets already shifted by the caller and -1 where there is none."""

    ignore = -1

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList([FusedBlock(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def rows(self, index):
        return self.wpe(index)  # (T,) -> (T, C)

    def place(self, x, start):
        end = start + x.size(1)
        if end > self.config.block_size:
            raise ValueError(f"{end} positions, but block_size is {self.config.block_size}")
        return x + self.rows(torch.arange(start, end, device=x.device))  # (B, T, C) + (T, C)

    def read(self, x):
        return self.lm_head(self.ln_f(x))  # (B, T, C) -> (B, T, V)

    def pair(self, logits, targets):
        return logits, targets

    def cost(self, logits, targets):
        logits, targets = self.pair(logits, targets)
        flat = logits.reshape(-1, logits.size(2))  # (B, T, V) -> (B * T, V)
        return F.cross_entropy(flat, targets.reshape(-1), ignore_index=self.ignore)  # (B, T) -> (B * T,)

    def forward(self, idx, targets=None, past=None, use_cache=False):
        x = self.place(self.wte(idx), past[0][0].size(2) if past else 0)
        present = []
        for i, block in enumerate(self.h):
            x, kept = block(x, past[i] if past else None)
            present.append(kept)
        logits = self.read(x)
        loss = None if targets is None else self.cost(logits, targets)
        return (logits, loss, present) if use_cache else (logits, loss)

    def next_logits(self, idx):
        return self(idx[:, -self.config.block_size :])[0][:, -1]  # (B, T, V) -> (B, V)

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        """Sample max_new_tokens; top_k=1 is greedy."""
        for _ in range(max_new_tokens):
            logits = self.next_logits(idx) / temperature
            if top_k is not None:
                least = logits.topk(min(top_k, logits.size(1))).values[:, -1:]  # (B, k) -> (B, 1)
                logits = logits.masked_fill(logits < least, -math.inf)
            idx = torch.cat((idx, torch.multinomial(logits.softmax(1), 1)), dim=1)
        return idx


# ------------------------------------------------------------------- host 2: Llama's layers, Hugging Face's calling conventions


@dataclass
class SeparateConfig:
    vocab_size: int = VOCAB
    max_position_embeddings: int = LIMIT
    num_hidden_layers: int = LAYERS
    num_attention_heads: int = HEADS
    hidden_size: int = WIDTH
    tie_word_embeddings: bool = True


class RootMeanSquareNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.scale * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class SeparateAttention(nn.Module):
    """Causal attention by F.scaled_dot_product_attention, from four projections without bias."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.split = (n_heads, width // n_heads)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def heads(self, x):
        return x.unflatten(-1, self.split).movedim(-2, -3)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)

    def merge(self, y):
        return y.movedim(-3, -2).flatten(-2)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def extend(self, past, k, v):
        return (k, v) if past is None else tuple(torch.cat(both, dim=-2) for both in zip(past, (k, v), strict=True))

    def attend(self, q, k, v):
        new, seen = q.shape[-2], k.shape[-2]
        if new == seen:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        allowed = torch.arange(seen, device=q.device) <= torch.arange(seen - new, seen, device=q.device)[:, None]  # (T, S)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)

    def forward(self, x, past=None):
        k, v = self.extend(past, self.heads(self.key(x)), self.heads(self.value(x)))
        return self.out(self.merge(self.attend(self.heads(self.query(x)), k, v))), (k, v)


class GatedMLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class SeparateLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm_before_attention = RootMeanSquareNorm(config.hidden_size)
        self.attention = SeparateAttention(config.hidden_size, config.num_attention_heads)
        self.norm_before_mlp = RootMeanSquareNorm(config.hidden_size)
        self.feed_forward = GatedMLP(config.hidden_size, 2 * config.hidden_size)

    def mix(self, x, past):
        return self.attention(self.norm_before_attention(x), past)

    def think(self, x):
        return self.feed_forward(self.norm_before_mlp(x))

    def forward(self, x, past=None):
        attended, cache = self.mix(x, past)
        x = x + attended
        return x + self.think(x), cache


class Stack(nn.Module):
    """A list of layers that registers them."""

    def __init__(self, layers):
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(f"layer{i}", layer)

    def __iter__(self):
        return iter(self._modules.values())


class SeparateGPT(nn.Module):
    """forward(input_ids, labels) -> dict, with labels = input_ids: they are shifted inside, and -100 is ignored."""

    ignore = -100

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.table = nn.Parameter(torch.zeros(1, config.max_position_embeddings, config.hidden_size))
        self.layers = Stack(SeparateLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RootMeanSquareNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def rows(self, index):
        return self.table[0, index]  # (T,) -> (T, C)

    def place(self, x, start):
        if start + x.shape[1] > self.table.shape[1]:
            raise ValueError(f"the position table ends at {self.table.shape[1]}")
        return x + self.rows(start + torch.arange(x.shape[1], device=x.device))  # (B, T, C) + (T, C)

    def read(self, x):
        return self.head(self.norm(x))  # (B, T, C) -> (B, T, V)

    def pair(self, logits, labels):
        return logits[:, :-1], labels[:, 1:]  # (B, T - 1, V), (B, T - 1)

    def cost(self, logits, labels):
        logits, labels = self.pair(logits, labels)
        return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=self.ignore)  # (B, T - 1, V) -> (B, V, T - 1)

    def forward(self, input_ids, labels=None, past_key_values=None, use_cache=False):
        caches = past_key_values or [None] * self.config.num_hidden_layers
        x = self.place(self.embed(input_ids), past_key_values[0][0].shape[-2] if past_key_values else 0)
        new_caches = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, cache = layer(x, cache)
            new_caches.append(cache)
        logits = self.read(x)
        answer = dict(logits=logits, loss=self.cost(logits, labels) if labels is not None else None)
        return answer | dict(past_key_values=tuple(new_caches)) if use_cache else answer

    def next_logits(self, input_ids):
        window = input_ids[:, -self.config.max_position_embeddings :]
        return self(window)["logits"][:, -1]  # (B, T, V) -> (B, V)

    @torch.no_grad()
    def generate(self, input_ids, max_new_tokens, do_sample=False):
        """Greedy, unless do_sample."""
        for _ in range(max_new_tokens):
            logits = self.next_logits(input_ids)
            new = torch.multinomial(logits.softmax(-1), 1) if do_sample else logits.argmax(-1, keepdim=True)  # (B, 1)
            input_ids = torch.cat([input_ids, new], dim=1)
        return input_ids


# --------------------------------------------------------------------------------------------------------- the catalogue


@dataclass(frozen=True)
class Fault:
    """One way to get a GPT wrong, and what the doctor must say about it."""

    name: str
    wrong: str  # what was done wrong
    put: Callable  # put(model, parts) puts it into a healthy model
    check: str  # the check that must fail
    says: str | dict[str, str]  # words of the cause it must name, or by host
    warned: tuple[str, ...]  # hosts in which it is a warning: good models do so on purpose
    hosts: tuple[str, ...]  # that can have it
    alone: bool  # it takes the process down: to be tried in one of its own

    def words(self, host: str) -> str:
        """Return words of the cause that must be named in this host."""
        return self.says if isinstance(self.says, str) else self.says[host]


HOSTS = ("fused", "separate")
FAULTS: dict[str, Fault] = {}


def fault(seam=None, *, check, says, warned=(), hosts=HOSTS, alone=False):
    """Register a function as the fault of its name; its docstring states what was done wrong.

    With seam = "attn.attend", for instance, it replaces that method in every such module, and is given (self, old, every
    argument by position), old being the method it replaces. Without, it is given (model, parts) and puts the fault in itself.
    """

    def register(function):
        def bend_all(model, p):
            kind, method = seam.split(".")
            for module in getattr(p, kind):
                bend(module, method, function)

        put = bend_all if seam else function
        name = function.__name__
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, function.__doc__, put, check, says, tuple(warned), tuple(hosts), alone)
        return function

    return register


def fused(name: str | None = None) -> nn.Module:
    """Host 1, healthy or with one fault."""
    return _host("fused", name, FusedGPT, FusedConfig)


def separate(name: str | None = None) -> nn.Module:
    """Host 2, healthy or with one fault."""
    return _host("separate", name, SeparateGPT, SeparateConfig)


def _host(host, name, model_class, config_class):
    if name is not None and host not in FAULTS[name].hosts:
        raise ValueError(f"{name} makes no sense in {host}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not touched
        torch.manual_seed(0)
        model = model_class(config_class())
        if name is not None:
            FAULTS[name].put(model, parts(model))
    return model


def parts(model):
    """What the two hosts call differently; model, block and attn are the lists of modules with seams."""
    if isinstance(model, FusedGPT):
        stack, names, norm, table = "h", ("ln_1", "attn", "ln_2", "mlp"), "ln_f", model.wpe.weight
        embed, head = model.wte, model.lm_head
    else:
        stack, names = "layers", ("norm_before_attention", "attention", "norm_before_mlp", "feed_forward")
        embed, head, norm, table = model.embed, model.head, "norm", model.table[0]  # (1, block, C) -> (block, C)
    block = list(getattr(model, stack))
    norms = [(b, name) for b in block for name in names[::2]] + [(model, norm)]
    found = dict(model=[model], block=block, attn=[getattr(b, names[1]) for b in block], norms=norms, norm2=names[2])
    return SimpleNamespace(**found, mlp=names[3], stack=stack, embed=embed, head=head, table=table)


def bend(module, seam, method):
    """Override one method of one instance, by a subclass of its own, so that a deep copy of the model keeps the fault.

    method gets (self, old, every argument by position), old being the method that it replaces.
    """
    base = type(module)
    original = getattr(base, seam)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def override(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        return method(self, functools.partial(original, self), *bound.args[1:])

    module.__class__ = type(base.__name__, (base,), {seam: override, "__module__": base.__module__})


# ------------------------------------------------------------------------------------------------------------ attention


def lower(q, k, diagonal=0):
    """(T, S): True where a query may look; the last query is at the last key, diagonal moves the edge to the right."""
    t, s = q.size(2), k.size(2)
    return torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t + diagonal)


def by_hand(q, k, v, keep=None, fill=-math.inf, scale=None, axis=3):
    """Attention with everything to choose: who is kept, what fills the rest, the scale and the softmax's axis."""
    scores = q @ k.transpose(2, 3) * (q.size(3) ** -0.5 if scale is None else scale)  # (B, H, T, S)
    if keep is not None:
        scores = scores.masked_fill(~keep, fill)
    return scores.softmax(axis) @ v  # (B, H, T, S) @ (B, H, S, D) -> (B, H, T, D)


@fault("attn.attend", check="causality", says="no causal mask in every attention")
def no_mask(self, old, q, k, v):
    """There is no causal mask in any layer."""
    return by_hand(q, k, v)


@fault(check="causality", says="no causal mask in attention 0 of 2")
def mask_last_layer_only(model, p):
    """Only the last layer has a causal mask."""
    for attn in p.attn[:-1]:
        bend(attn, "attend", no_mask)


@fault("attn.attend", check="causality", says="head 0 has no causal mask, in every attention")
def mask_one_head_missing(self, old, q, k, v):
    """The causal mask does not reach the first head."""
    keep = lower(q, k).repeat(q.size(1), 1, 1)  # (T, S) -> (H, T, S)
    keep[0] = True
    return by_hand(q, k, v, keep)


@fault("attn.attend", check="causality", says="the mask's polarity is inverted")
def mask_polarity(self, old, q, k, v):
    """The causal mask is inverted: the past is hidden and the future kept."""
    return by_hand(q, k, v, ~lower(q, k), fill=-1e9)


@fault("attn.attend", check="causality", says="the mask is off by one")
def mask_off_by_one_future(self, old, q, k, v):
    """The mask is tril(1): each position also sees the next one."""
    return by_hand(q, k, v, lower(q, k, 1))


@fault("attn.attend", check="causality", says="excludes the position itself")
def mask_excludes_self(self, old, q, k, v):
    """The mask is tril(-1): no position sees itself, and the first, left with nothing, averages over all."""
    return by_hand(q, k, v, lower(q, k, -1), fill=-1e9)


@fault("attn.attend", check="causality", says="fills with -5, not with -inf")
def mask_finite(self, old, q, k, v):
    """The mask fills with -5, which lets a little of the future through."""
    return by_hand(q, k, v, lower(q, k), fill=-5.0)


@fault("attn.attend", check="causality", says="multiplies the scores")
def mask_zero(self, old, q, k, v):
    """The scores are multiplied by the mask, and a score of 0 excludes nothing."""
    return by_hand(q, k, v, lower(q, k), fill=0.0)


@fault("attn.attend", check="causality", says="the mask comes after the softmax")
def mask_after_softmax(self, old, q, k, v):
    """The weights are masked after the softmax and not normalised again."""
    weights = (q @ k.transpose(2, 3) * q.size(3) ** -0.5).softmax(3)  # (B, H, T, S)
    return (weights * lower(q, k)) @ v  # (B, H, T, S) @ (B, H, S, D) -> (B, H, T, D)


@fault("attn.attend", check="causality", says="in training mode only: no causal mask")
def mask_only_in_eval(self, old, q, k, v):
    """The causal mask is missing in training mode."""
    return (by_hand if self.training else old)(q, k, v)


@fault("attn.attend", check="causality", says="no causal mask in every attention")
def mask_only_in_train(self, old, q, k, v):
    """The causal mask is missing in evaluation mode."""
    return (old if self.training else by_hand)(q, k, v)


@fault("attn.attend", check="memory", says="reaches back 2 positions only")
def window(self, old, q, k, v):
    """Attention reaches only the last 3 positions."""
    return by_hand(q, k, v, lower(q, k) & ~lower(q, k, -3))


@fault("attn.attend", check="softmax", says="over the queries")
def softmax_query_axis(self, old, q, k, v):
    """The softmax runs over the queries instead of the keys."""
    return by_hand(q, k, v, lower(q, k), axis=2)


@fault("attn.attend", check="softmax", says="over the heads")
def softmax_heads_axis(self, old, q, k, v):
    """The softmax runs over the heads instead of the keys, so that a fill of -1e9 hides nothing."""
    return by_hand(q, k, v, lower(q, k), fill=-1e9, axis=1)


@fault("attn.attend", check="scale", says="the scale is missing")
def scale_missing(self, old, q, k, v):
    """The scores are not divided by the square root of the head's width."""
    return by_hand(q, k, v, lower(q, k), scale=1.0)


@fault("attn.attend", check="scale", says="√32, the width")
def scale_n_embd(self, old, q, k, v):
    """The scores are divided by the square root of the model's width instead of the head's."""
    return by_hand(q, k, v, lower(q, k), scale=WIDTH**-0.5)


@fault("attn.attend", check="scale", says="multiplied where it should be divided")
def scale_multiplied(self, old, q, k, v):
    """The scores are multiplied by the square root of the head's width instead of divided."""
    return by_hand(q, k, v, lower(q, k), scale=q.size(3) ** 0.5)


@fault("attn.extend", check="gradients", says="cut off (detach)", hosts=["separate"])
def keys_detached(self, old, past, k, v):
    """The keys are detached, as is right for a cache only: what makes them never learns."""
    return old(past, k.detach(), v)


@fault("attn.heads", check="heads", says="on the way in")
def view_without_transpose_in(self, old, x):
    """The heads are split by a view to (B, H, T, D) without the transpose."""
    return x.reshape(x.size(0), HEADS, x.size(1), -1)  # (B, T, C) -> (B, H, T, D), the wrong way


@fault("attn.merge", check="heads", says="on the way out")
def view_without_transpose_out(self, old, y):
    """The heads are joined by a view to (B, T, C) without the transpose."""
    return y.reshape(y.size(0), y.size(2), -1)  # (B, H, T, D) -> (B, T, C), the wrong way


@fault("attn.attend", check="rows", says="mixes the axis of the batch")
def batch_mixed(self, old, q, k, v):
    """Attention runs over the batch axis, so the rows of a batch see each other."""
    q, k, v = (x[:, :, -q.size(2) :].transpose(0, 2) for x in (q, k, v))  # 3 x (B, H, T, D) -> (T, H, B, D)
    return by_hand(q, k, v).transpose(0, 2)  # (T, H, B, D) -> (B, H, T, D)


# -------------------------------------------------------------------------------------------- blocks, norms and residuals


class BatchNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # (B, T, C) -> (B, C, T) -> (B, T, C)


class TimeNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        return self.gain * x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()


class SquareNorm(TimeNorm):
    def forward(self, x):
        return self.gain * x / (x.square().mean(-1, keepdim=True) + 1e-5)


def replace_blocks(model, p, blocks):
    delattr(model, p.stack)  # or a plain list would be refused
    setattr(model, p.stack, blocks)


def replace_norms(p, make):
    for owner, name in p.norms:
        setattr(owner, name, make())


@fault(check="shared layers", says="* n repeats one block")
def shared_blocks(model, p):
    """The blocks are [block] * n: one block, used n times."""
    replace_blocks(model, p, type(getattr(model, p.stack))([p.block[0]] * LAYERS))


@fault(check="registered", says="plain Python list")
def unregistered_blocks(model, p):
    """The blocks are in a plain Python list, so no optimiser sees their parameters."""
    replace_blocks(model, p, p.block)


@fault(check="shared layers", says="made once, outside the loop")
def shared_mlp(model, p):
    """All blocks share one MLP."""
    for block in p.block:
        setattr(block, p.mlp, getattr(p.block[0], p.mlp))


@fault("block.forward", check="residual", says={"fused": "connection around attn is", "separate": "around attention is"})
def residual_missing_attention(self, old, x, past):
    """The attention's output replaces the stream instead of being added."""
    y, kept = self.mix(x, past)
    return y + self.think(y), kept


@fault("block.forward", check="residual", says={"fused": "connection around mlp is", "separate": "around feed_forward is"})
def residual_missing_mlp(self, old, x, past):
    """The MLP's output replaces the stream instead of being added."""
    y, kept = self.mix(x, past)
    return self.think(x + y), kept


@fault("block.forward", check="residual", says="added twice")
def residual_twice(self, old, x, past):
    """The stream is added twice around the attention."""
    y, kept = self.mix(x, past)
    x = x + (x + y)
    return x + self.think(x), kept


@fault("block.think", check="activation", says="nothing non-linear between")
def activation_missing(self, old, x):
    """Nothing non-linear stands between the two linear layers of the MLP."""
    if isinstance(self, FusedBlock):
        return self.mlp.c_proj(self.mlp.c_fc(self.ln_2(x)))
    return self.feed_forward.down(self.feed_forward.up(self.norm_before_mlp(x)))


@fault(check="norms", says="no LayerNorm")
def no_layernorm(model, p):
    """There is no normalisation at all."""
    replace_norms(p, nn.Identity)


@fault(check="norms", says={"fused": "LayerNorm before h.0.mlp", "separate": "LayerNorm before layers.layer0.feed_forward"})
def layernorm_missing_mlp(model, p):
    """The MLP's input is not normalised."""
    for block in p.block:
        setattr(block, p.norm2, nn.Identity())


@fault(check="norms", says="not by its root")
def norm_without_root(model, p):
    """The normalisation divides by the variance instead of its root."""
    replace_norms(p, SquareNorm)


@fault(check="norms", says="statistics over time")
def layernorm_time_axis(model, p):
    """The normalisation runs over the positions instead of the features."""
    replace_norms(p, TimeNorm)


@fault(check="rows", says="BatchNorm takes its statistics")
def batch_norm(model, p):
    """nn.BatchNorm1d stands where a LayerNorm belongs."""
    replace_norms(p, lambda: BatchNorm(WIDTH))


@fault(check="gradients", says="the computation graph is cut")
def detached(model, p):
    """x.detach() after the first block stops the gradient."""

    def forward(self, old, x, past):
        x, kept = old(x, past)
        return x.detach(), kept

    bend(p.block[0], "forward", forward)


@fault(check="gradients", says="frozen")
def frozen_block(model, p):
    """The first block was left with requires_grad = False."""
    p.block[0].requires_grad_(False)


@fault(check="gradients", says="never used")
def unused_parameter(model, p):
    """A layer is built and never called."""
    model.add_module("adapter", nn.Linear(WIDTH, WIDTH))


# ------------------------------------------------------------------------------------------------- positions and the stream


@fault("model.rows", check="gradients", says="the table of positions is created but never added")
def unused_positions(self, old, index):
    """The position table is never added."""
    return 0.0


@fault("model.rows", check="positions", says="all positions get the same row")
def positions_constant(self, old, index):
    """Every position gets row 0 of the table."""
    return old(0 * index)


@fault("model.rows", check="positions", says="run backwards")
def positions_reversed(self, old, index):
    """The positions count down from T - 1."""
    return old(index.flip(0))


@fault("model.rows", check="positions", says="off by one")
def position_off_by_one(self, old, index):
    """The positions count from 1, which runs off the table at T = block_size."""
    return old(index + 1)


@fault("model.place", check="rows", says="index of the row")
def positions_by_batch(self, old, x, start):
    """The position is taken from the batch axis: row b of the table for row b of the batch."""
    old(x, start)  # which refuses what is too long
    return x + self.rows(torch.arange(x.size(0)))[:, None]  # (B, T, C) + (B, 1, C)


@fault("model.place", check="positions", says="counted from the end")
def positions_from_the_end(self, old, x, start):
    """The last token gets the last position: the others depend on the length of the text."""
    old(x, start)
    return x + self.rows(torch.arange(LIMIT - x.size(1), LIMIT))  # (B, T, C) + (T, C)


@fault("model.place", check="lengths", says="wrap around")
def positions_wrap(self, old, x, start):
    """Past block_size the positions silently start again at 0."""
    return x + self.rows(torch.arange(start, start + x.size(1)) % LIMIT)  # (B, T, C) + (T, C)


@fault("model.forward", check="lengths", says="cut to the block size", warned=HOSTS)
def crop_silently(self, old, ids, labels, *rest):
    """An input that is too long is cropped without a word, and fewer logits come back."""
    return old(ids[:, -LIMIT:], None if labels is None else labels[:, -LIMIT:], *rest)


@fault("model.place", check="repeats", says="dropout is active in evaluation mode: F.dropout(x, 0.1)")
def dropout_in_eval(self, old, x, start):
    """F.dropout(x, 0.1) is called without training=self.training, so it also works in evaluation."""
    return F.dropout(old(x, start), 0.1)


@fault("model.place", check="repeats", says="dropout or noise is active")
def noise_in_eval(self, old, x, start):
    """Noise is added to the embeddings, in evaluation too."""
    return old(x, start) + 0.01 * torch.randn_like(x)


@fault("model.place", check="causality", says="over the axis of time")
def mean_pool(self, old, x, start):
    """The mean over all positions, later ones included, is added to the stream."""
    x = old(x, start)
    return x + x.mean(1, keepdim=True)


@fault(check="causality", says="padded on both sides")
def conv_peeks(model, p):
    """A convolution over time is padded on both sides, so it sees the next position."""

    def place(self, old, x, start):
        x = old(x, start)
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)  # (B, T, C) -> (B, C, T) -> (B, T, C)

    model.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
    bend(model, "place", place)


@fault(check="repeats", says="keeps something between calls")
def hidden_state(model, p):
    """A running state is kept from one call to the next."""

    def place(self, old, x, start):
        x = old(x, start) + self.state
        self.state = x.detach().mean((0, 1))  # (B, T, C) -> (C,)
        return x

    model.state = torch.zeros(WIDTH)
    bend(model, "place", place)


@fault("model.place", check="lengths", says="statistics of a single position")
def nan_at_one(self, old, x, start):
    """A variance over time is divided by T - 1, which is NaN for a single position."""
    x = old(x, start)
    variance = (x - x.mean(1, keepdim=True)).square().sum(1, keepdim=True) / (x.size(1) - 1)  # (B, 1, C)
    return x + 0 * variance.detach()  # without any other effect, which would be a look into the future


@fault(check="lengths", says="bad last row")
def nan_at_block(model, p):
    """The last row of the position table holds inf."""
    p.table.data[-1].fill_(math.inf)


@fault("model.forward", check="memory", says="shifted right")
def own_token_hidden(self, old, ids, *rest):
    """The input is shifted right inside the model, so no position sees its own token."""
    return old(F.pad(ids, (1, 0))[:, :-1], *rest)  # (B, T) -> (B, T + 1) -> (B, T)


@fault("model.forward", check="side effects", says="writes into its input")
def modifies_input(self, old, ids, labels, *rest):
    """The forward pass writes into the caller's tensor of tokens."""
    answer = old(ids.clone(), None if labels is None else labels.clone(), *rest)
    ids[:, 0] = (ids[:, 0] + 1) % VOCAB
    return answer


@fault("model.forward", check="learns", says="writes into its input")
def modifies_input_in_training(self, old, ids, *rest):
    """In training mode the forward pass writes into the caller's tensor of tokens."""
    answer = old(ids.clone(), *rest)
    if self.training:
        ids[:, 0] = (ids[:, 0] + 1) % VOCAB
    return answer


@fault("model.forward", check="side effects", says="changes its own weights")
def modifies_weights(self, old, *args):
    """Every forward pass rescales the head's weight."""
    parts(self).head.weight.data.mul_(1.01)
    return old(*args)


# --------------------------------------------------------------------------------------------------- head, logits and loss


def each_loss(model, logits, labels, view=lambda x: x):
    """The loss of each position, (B * T,), 0 where it is to be ignored."""
    logits, labels = model.pair(logits, labels)
    flat = view(logits).reshape(-1, logits.size(2))  # (B, T, V) -> (B * T, V)
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=model.ignore, reduction="none")  # (B, T) -> (B * T,)


@fault(check="first loss", says="weights are too large")
def init_too_large(model, p):
    """The head starts with a standard deviation of 1, so the first loss is far above ln V."""
    nn.init.normal_(p.head.weight, std=1.0)


@fault(check="tied head", says="the weights were copied", hosts=["separate"])
def head_copied(model, p):
    """The config promises a tied head, but the head's weight is a copy of the embedding."""
    p.head.weight = nn.Parameter(p.embed.weight.detach().clone())


@fault(check="tied head", says="not asked for", hosts=["fused"])
def head_tied_unpromised(model, p):
    """The head is tied to the embedding, but the config says it is not."""
    p.head.weight = p.embed.weight


@fault("model.read", check="answers", says="the head is too small")
def head_too_small(self, old, x):
    """The head has 5 classes fewer than the vocabulary."""
    return old(x)[..., : VOCAB - 5]


@fault("model.read", check="answers", says="a softmax inside the model")
def softmax_in_model(self, old, x):
    """The model returns probabilities, and the loss takes them for logits."""
    return old(x).softmax(2)


@fault("model.forward", check="answers", says="axes are transposed")
def returns_bvt(self, old, *args):
    """The logits come back as (B, V, T)."""
    answer = old(*args)
    if isinstance(answer, dict):
        return answer | dict(logits=answer["logits"].transpose(1, 2))  # (B, T, V) -> (B, V, T)
    return answer[0].transpose(1, 2), *answer[1:]  # (B, T, V) -> (B, V, T)


@fault(check="causality", says="the targets reach the logits")
def targets_fed_in(model, p):
    """The embedding of the token to predict is added to the stream when there are targets."""

    def forward(self, old, ids, labels, *rest):
        shifted = labels is None or isinstance(self, FusedGPT)
        self.answers = labels if shifted else F.pad(labels[:, 1:], (0, 1))  # (B, T) -> (B, T - 1) -> (B, T)
        return old(ids, labels, *rest)

    def place(self, old, x, start):
        return old(x, start) + (0 if self.answers is None else parts(self).embed(self.answers.clamp(min=0)))  # (B, T, C)

    bend(model, "forward", forward)
    bend(model, "place", place)


@fault(
    check="its own loss",
    says={"fused": "compared with the input", "separate": "learns to copy"},
    warned=["separate"],  # whose labels may be the next tokens already
)
def loss_not_shifted(model, p):
    """The loss compares each position with its own token instead of the next."""
    if isinstance(model, FusedGPT):  # whose caller shifts
        bend(model, "forward", lambda self, old, ids, targets, *rest: old(ids, None if targets is None else ids, *rest))
    else:
        bend(model, "pair", lambda self, old, logits, labels: (logits, labels))


@fault("model.pair", check="its own loss", says={"fused": "shifts them once more", "separate": "shifted twice"})
def loss_shifted_twice(self, old, logits, labels):
    """The targets are shifted twice, so the model learns to predict two tokens ahead."""
    logits, labels = old(logits, labels)
    return logits[:, :-1], labels[:, 1:]


@fault("model.cost", check="its own loss", says="summed, not averaged")
def loss_sum(self, old, logits, labels):
    """The loss is the sum over the positions."""
    return each_loss(self, logits, labels).sum()


@fault("model.pair", check="its own loss", says="last position only")
def loss_last_only(self, old, logits, labels):
    """The loss is that of the last position only."""
    logits, labels = old(logits, labels)
    return logits[:, -1:], labels[:, -1:]


@fault("model.pair", check="its own loss", says="token 0 is left out")
def loss_skips_token_0(self, old, logits, labels):
    """The loss leaves out token 0, which is no padding here."""
    logits, labels = old(logits, labels)
    return logits, labels.masked_fill(labels == 0, self.ignore)


@fault("model.cost", check="its own loss", says="ignored targets count in the mean")
def loss_padding_counted(self, old, logits, labels):
    """Ignored positions cost nothing but are counted in the mean."""
    return each_loss(self, logits, labels).mean()


@fault("model.cost", check="its own loss", says="a view")
def loss_wrong_axis(self, old, logits, labels):
    """The logits are viewed as (B * T, V) after a transpose, which mixes positions and classes."""
    each = each_loss(self, logits, labels, view=lambda x: x.transpose(1, 2))  # (B, T, V) -> (B, V, T)
    return each.sum() / (self.pair(logits, labels)[1] != self.ignore).sum()


# ---------------------------------------------------------------------------------------------------------------- generation


def logits_of(model, ids):
    answer = model(ids)
    return answer["logits"] if isinstance(answer, dict) else answer[0]


@fault("model.generate", check="generate", says="ignores the prompt")
def generate_ignores_prompt(self, old, ids, *rest):
    """generate() starts from token 0 and pastes the result behind the prompt."""
    return torch.cat((ids, old(0 * ids[:, :1], *rest)[:, 1:]), dim=1)  # (B, T) and (B, new) -> (B, T + new)


@fault("model.generate", check="generate", says="changes the prompt")
def generate_changes_prompt(self, old, ids, *rest):
    """generate() returns a prompt whose first token is another."""
    out = old(ids, *rest).clone()
    out[:, 0] = (out[:, 0] + 1) % VOCAB
    return out


@fault("model.generate", check="generate", says="drops rows")
def generate_drops_rows(self, old, ids, *rest):
    """generate() returns the first row of the batch only."""
    return old(ids[:1], *rest)


@fault("model.next_logits", check="generate", says="the first position, not of the last")
def generate_first_logits(self, old, ids):
    """generate() reads the logits of the first position."""
    return logits_of(self, ids[:, -LIMIT:])[:, 0]


@fault("model.next_logits", check="generate", says="does not crop", warned=HOSTS)
def generate_no_crop(self, old, ids):
    """generate() does not crop its context and fails past block_size."""
    return logits_of(self, ids)[:, -1]


@fault("model.next_logits", check="generate", says="cropped at its end")
def generate_crops_start(self, old, ids):
    """generate() keeps the first block_size tokens of its context instead of the last."""
    return old(ids[:, :LIMIT])


@fault("model.generate", check="generate", says={"fused": "top_k change nothing", "separate": "draws although"})
def generate_random(self, old, ids, n, *rest):
    """generate() samples even where greedy decoding was asked for."""
    return old(ids, n) if isinstance(self, FusedGPT) else old(ids, n, True)


@fault("model.next_logits", check="generate", says="only the last token")
def generate_last_token_only(self, old, ids):
    """generate() feeds the last token only, without a cache."""
    return old(ids[:, -1:])


@fault("model.generate", check="generate", says="calls train()")
def generate_leaves_train_mode(self, old, *args):
    """generate() leaves the model in training mode."""
    out = old(*args)
    self.train()
    return out


@fault("model.generate", check="generate", says="too few or too many")
def generate_one_short(self, old, ids, n, *rest):
    """generate() returns one token fewer than asked."""
    return old(ids, n - 1, *rest)


@fault("model.generate", check="generate", says="keeps something between calls")
def generate_keeps_state(self, old, ids, *rest):
    """generate() goes on from what it wrote in the call before."""
    before = getattr(self, "before", ids[:, :0])
    text = old(torch.cat((before, ids), dim=1), *rest)  # (B, 5 + T + new)
    self.before = text[:, -5:]
    return text[:, before.size(1) :]


@fault("model.generate", check="generate", says="the temperature changes nothing", hosts=["fused"])
def generate_ignores_temperature(self, old, ids, n, temperature, *rest):
    """generate() takes a temperature and does not use it."""
    return old(ids, n, 1.0, *rest)


# --------------------------------------------------------------------------------------------------------------------- cache


@fault("attn.attend", check="cache", says="several new tokens see each other's future", warned=HOSTS)
def cache_unmasked_chunk(self, old, q, k, v):
    """Several tokens read on top of a cache see each other's future."""
    return (by_hand if q.size(2) < k.size(2) else old)(q, k, v)


@fault("model.place", check="cache", says="positions start again")
def cache_positions_restart(self, old, x, start):
    """A step with the cache counts its positions from 0 again."""
    return old(x, 0)


@fault("attn.extend", check="cache", says="overwritten")
def cache_overwrites(self, old, past, k, v):
    """The cache keeps the newest keys and values only."""
    return k, v


@fault("attn.attend", check="cache", says="aligned at the top left")
def cache_is_causal_topleft(self, old, q, k, v):
    """With a cache the mask is aligned top left: the new query sees key 0 only."""
    return by_hand(q, k, v, lower(q, k, q.size(2) - k.size(2)))


# ------------------------------------------------------------------------------------------- a model that takes the tool down


@fault("model.forward", check="called", says="an error in its forward")
def crashes(self, old, *args):
    """forward raises a RuntimeError."""
    raise RuntimeError("planted: the forward pass fails")


@fault("model.forward", check="called", says="the model hangs", alone=True)
def hangs(self, old, *args):
    """forward never returns."""
    while True:
        time.sleep(0.01)


@fault("model.forward", check="called", says="sys.exit in its code", alone=True)
def exits(self, old, *args):
    """forward ends the process with sys.exit."""
    sys.exit(0)
