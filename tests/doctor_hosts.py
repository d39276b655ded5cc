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

FAULTS: dict[str, str] = {  # name -> what was done wrong
    # attention
    "no_mask": "There is no causal mask in any layer.",
    "mask_last_layer_only": "Only the last layer has a causal mask.",
    "mask_one_head_missing": "The causal mask does not reach the first head.",
    "mask_polarity": "The causal mask is inverted: the past is hidden and the future kept.",
    "mask_off_by_one_future": "The mask is tril(1): each position also sees the next one.",
    "mask_excludes_self": "The mask is tril(-1): no position sees itself, and the first, left with nothing, averages over all.",
    "mask_finite": "The mask fills with -5, which lets a little of the future through.",
    "mask_zero": "The scores are multiplied by the mask, and a score of 0 excludes nothing.",
    "mask_after_softmax": "The weights are masked after the softmax and not normalised again.",
    "mask_only_in_eval": "The causal mask is missing in training mode.",
    "mask_only_in_train": "The causal mask is missing in evaluation mode.",
    "window": "Attention reaches only the last 3 positions.",
    "softmax_query_axis": "The softmax runs over the queries instead of the keys.",
    "softmax_heads_axis": "The softmax runs over the heads instead of the keys, so that a fill of -1e9 hides nothing.",
    "scale_missing": "The scores are not divided by the square root of the head's width.",
    "scale_n_embd": "The scores are divided by the square root of the model's width instead of the head's.",
    "scale_multiplied": "The scores are multiplied by the square root of the head's width instead of divided.",
    "keys_detached": "The keys are detached, as is right for a cache only: what makes them never learns.",
    "view_without_transpose_in": "The heads are split by a view to (B, H, T, D) without the transpose.",
    "view_without_transpose_out": "The heads are joined by a view to (B, T, C) without the transpose.",
    "batch_mixed": "Attention runs over the batch axis, so the rows of a batch see each other.",
    # blocks, norms and residuals
    "shared_blocks": "The blocks are [block] * n: one block, used n times.",
    "unregistered_blocks": "The blocks are in a plain Python list, so no optimiser sees their parameters.",
    "shared_mlp": "All blocks share one MLP.",
    "residual_missing_attention": "The attention's output replaces the stream instead of being added.",
    "residual_missing_mlp": "The MLP's output replaces the stream instead of being added.",
    "residual_twice": "The stream is added twice around the attention.",
    "activation_missing": "Nothing non-linear stands between the two linear layers of the MLP.",
    "no_layernorm": "There is no normalisation at all.",
    "layernorm_missing_mlp": "The MLP's input is not normalised.",
    "norm_without_root": "The normalisation divides by the variance instead of its root.",
    "layernorm_time_axis": "The normalisation runs over the positions instead of the features.",
    "batch_norm": "nn.BatchNorm1d stands where a LayerNorm belongs.",
    "detached": "x.detach() after the first block stops the gradient.",
    "frozen_block": "The first block was left with requires_grad = False.",
    "unused_parameter": "A layer is built and never called.",
    # positions and the stream
    "unused_positions": "The position table is never added.",
    "positions_constant": "Every position gets row 0 of the table.",
    "positions_reversed": "The positions count down from T - 1.",
    "positions_by_batch": "The position is taken from the batch axis: row b of the table for row b of the batch.",
    "position_off_by_one": "The positions count from 1, which runs off the table at T = block_size.",
    "positions_from_the_end": "The last token gets the last position: the others depend on the length of the text.",
    "positions_wrap": "Past block_size the positions silently start again at 0.",
    "crop_silently": "An input that is too long is cropped without a word, and fewer logits come back.",
    "dropout_in_eval": "F.dropout(x, 0.1) is called without training=self.training, so it also works in evaluation.",
    "noise_in_eval": "Noise is added to the embeddings, in evaluation too.",
    "mean_pool": "The mean over all positions, later ones included, is added to the stream.",
    "conv_peeks": "A convolution over time is padded on both sides, so it sees the next position.",
    "hidden_state": "A running state is kept from one call to the next.",
    "nan_at_one": "A variance over time is divided by T - 1, which is NaN for a single position.",
    "nan_at_block": "The last row of the position table holds inf.",
    "own_token_hidden": "The input is shifted right inside the model, so no position sees its own token.",
    "modifies_input": "The forward pass writes into the caller's tensor of tokens.",
    "modifies_input_in_training": "In training mode the forward pass writes into the caller's tensor of tokens.",
    "modifies_weights": "Every forward pass rescales the head's weight.",
    # head, logits and loss
    "init_too_large": "The head starts with a standard deviation of 1, so the first loss is far above ln V.",
    "head_copied": "The config promises a tied head, but the head's weight is a copy of the embedding.",
    "head_tied_unpromised": "The head is tied to the embedding, but the config says it is not.",
    "head_too_small": "The head has 5 classes fewer than the vocabulary.",
    "softmax_in_model": "The model returns probabilities, and the loss takes them for logits.",
    "returns_bvt": "The logits come back as (B, V, T).",
    "targets_fed_in": "The embedding of the token to predict is added to the stream when there are targets.",
    "loss_not_shifted": "The loss compares each position with its own token instead of the next.",
    "loss_shifted_twice": "The targets are shifted twice, so the model learns to predict two tokens ahead.",
    "loss_sum": "The loss is the sum over the positions.",
    "loss_last_only": "The loss is that of the last position only.",
    "loss_skips_token_0": "The loss leaves out token 0, which is no padding here.",
    "loss_padding_counted": "Ignored positions cost nothing but are counted in the mean.",
    "loss_wrong_axis": "The logits are viewed as (B * T, V) after a transpose, which mixes positions and classes.",
    # generation and cache
    "generate_ignores_prompt": "generate() starts from token 0 and pastes the result behind the prompt.",
    "generate_changes_prompt": "generate() returns a prompt whose first token is another.",
    "generate_drops_rows": "generate() returns the first row of the batch only.",
    "generate_first_logits": "generate() reads the logits of the first position.",
    "generate_no_crop": "generate() does not crop its context and fails past block_size.",
    "generate_crops_start": "generate() keeps the first block_size tokens of its context instead of the last.",
    "generate_random": "generate() samples even where greedy decoding was asked for.",
    "generate_last_token_only": "generate() feeds the last token only, without a cache.",
    "generate_leaves_train_mode": "generate() leaves the model in training mode.",
    "generate_one_short": "generate() returns one token fewer than asked.",
    "generate_keeps_state": "generate() goes on from what it wrote in the call before.",
    "generate_ignores_temperature": "generate() takes a temperature and does not use it.",
    "cache_unmasked_chunk": "Several tokens read on top of a cache see each other's future.",
    "cache_positions_restart": "A step with the cache counts its positions from 0 again.",
    "cache_overwrites": "The cache keeps the newest keys and values only.",
    "cache_is_causal_topleft": "With a cache the mask is aligned top left: the new query sees key 0 only.",
    # a model that takes the tool down
    "hangs": "forward never returns.",
    "exits": "forward ends the process with sys.exit.",
    "crashes": "forward raises a RuntimeError.",
}
ONLY: dict[str, str] = {  # the one host that can have it
    "head_copied": "separate",
    "head_tied_unpromised": "fused",
    "keys_detached": "separate",
    "generate_ignores_temperature": "fused",
}
PATCHES = {}  # name -> patch(model, parts), which puts the fault into a healthy model


def fused(fault: str | None = None) -> nn.Module:
    """Host 1, healthy or with one fault."""
    return _host("fused", fault, FusedGPT, FusedConfig)


def separate(fault: str | None = None) -> nn.Module:
    """Host 2, healthy or with one fault."""
    return _host("separate", fault, SeparateGPT, SeparateConfig)


def _host(host, name, model_class, config_class):
    if ONLY.get(name, host) != host:
        raise ValueError(f"{name} makes no sense in {host}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not touched
        torch.manual_seed(0)
        model = model_class(config_class())
        if name is not None:
            PATCHES[name](model, parts(model))
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


def bent(where, method, name):
    """A fault that is one method, in place of the seam where = "attn.attend", for instance, wherever there is one."""
    kind, seam = where.split(".")
    PATCHES[name] = lambda model, p: [bend(module, seam, method) for module in getattr(p, kind)]


def seam(where):
    """Each function of the class below is a fault of that name, in place of one seam."""
    return lambda faults: [bent(where, method, name) for name, method in vars(faults).items() if inspect.isfunction(method)]


def patch(function):
    """The function puts the fault of its name into the model."""
    PATCHES[function.__name__] = function


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


for name, choose in {
    "no_mask": lambda q, k: dict(),
    "mask_polarity": lambda q, k: dict(keep=~lower(q, k), fill=-1e9),
    "mask_off_by_one_future": lambda q, k: dict(keep=lower(q, k, 1)),
    "mask_excludes_self": lambda q, k: dict(keep=lower(q, k, -1), fill=-1e9),
    "mask_finite": lambda q, k: dict(keep=lower(q, k), fill=-5.0),
    "mask_zero": lambda q, k: dict(keep=lower(q, k), fill=0.0),
    "window": lambda q, k: dict(keep=lower(q, k) & ~lower(q, k, -3)),
    "softmax_query_axis": lambda q, k: dict(keep=lower(q, k), axis=2),
    "softmax_heads_axis": lambda q, k: dict(keep=lower(q, k), fill=-1e9, axis=1),
    "scale_missing": lambda q, k: dict(keep=lower(q, k), scale=1.0),
    "scale_n_embd": lambda q, k: dict(keep=lower(q, k), scale=WIDTH**-0.5),
    "scale_multiplied": lambda q, k: dict(keep=lower(q, k), scale=q.size(3) ** 0.5),
    "cache_is_causal_topleft": lambda q, k: dict(keep=lower(q, k, q.size(2) - k.size(2))),
}.items():
    bent("attn.attend", lambda self, old, q, k, v, choose=choose: by_hand(q, k, v, **choose(q, k)), name)
bent("attn.attend", lambda self, old, q, k, v: (by_hand if self.training else old)(q, k, v), "mask_only_in_eval")
bent("attn.attend", lambda self, old, q, k, v: (old if self.training else by_hand)(q, k, v), "mask_only_in_train")
bent("attn.extend", lambda self, old, past, k, v: (k, v), "cache_overwrites")
bent("attn.extend", lambda self, old, past, k, v: old(past, k.detach(), v), "keys_detached")
bent("attn.attend", lambda self, old, q, k, v: (by_hand if q.size(2) < k.size(2) else old)(q, k, v), "cache_unmasked_chunk")
# (B, T, C) -> (B, H, T, D) and back, the wrong way
bent("attn.heads", lambda self, old, x: x.reshape(x.size(0), HEADS, x.size(1), -1), "view_without_transpose_in")
bent("attn.merge", lambda self, old, y: y.reshape(y.size(0), y.size(2), -1), "view_without_transpose_out")


@seam("attn.attend")
class _:
    def mask_one_head_missing(self, old, q, k, v):
        keep = lower(q, k).repeat(q.size(1), 1, 1)  # (T, S) -> (H, T, S)
        keep[0] = True
        return by_hand(q, k, v, keep)

    def mask_after_softmax(self, old, q, k, v):
        weights = (q @ k.transpose(2, 3) * q.size(3) ** -0.5).softmax(3)  # (B, H, T, S)
        return (weights * lower(q, k)) @ v  # (B, H, T, S) @ (B, H, S, D) -> (B, H, T, D)

    def batch_mixed(self, old, q, k, v):
        q, k, v = (x[:, :, -q.size(2) :].transpose(0, 2) for x in (q, k, v))  # 3 x (B, H, T, D) -> (T, H, B, D)
        return by_hand(q, k, v).transpose(0, 2)  # (T, H, B, D) -> (B, H, T, D)


@patch
def mask_last_layer_only(model, p):
    for attn in p.attn[:-1]:
        bend(attn, "attend", lambda self, old, q, k, v: by_hand(q, k, v))


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


PATCHES |= {
    "shared_blocks": lambda model, p: replace_blocks(model, p, type(getattr(model, p.stack))([p.block[0]] * LAYERS)),
    "unregistered_blocks": lambda model, p: replace_blocks(model, p, p.block),
    "shared_mlp": lambda model, p: [setattr(block, p.mlp, getattr(p.block[0], p.mlp)) for block in p.block],
    "no_layernorm": lambda model, p: replace_norms(p, nn.Identity),
    "layernorm_missing_mlp": lambda model, p: [setattr(block, p.norm2, nn.Identity()) for block in p.block],
    "norm_without_root": lambda model, p: replace_norms(p, SquareNorm),
    "layernorm_time_axis": lambda model, p: replace_norms(p, TimeNorm),
    "batch_norm": lambda model, p: replace_norms(p, lambda: BatchNorm(WIDTH)),
    "frozen_block": lambda model, p: p.block[0].requires_grad_(False),
    "unused_parameter": lambda model, p: model.add_module("adapter", nn.Linear(WIDTH, WIDTH)),
}


@patch
def detached(model, p):
    def forward(self, old, x, past):
        x, kept = old(x, past)
        return x.detach(), kept

    bend(p.block[0], "forward", forward)


@seam("block.forward")
class _:
    def residual_missing_attention(self, old, x, past):
        y, kept = self.mix(x, past)
        return y + self.think(y), kept

    def residual_missing_mlp(self, old, x, past):
        y, kept = self.mix(x, past)
        return self.think(x + y), kept

    def residual_twice(self, old, x, past):
        y, kept = self.mix(x, past)
        x = x + (x + y)
        return x + self.think(x), kept


@seam("block.think")
class _:
    def activation_missing(self, old, x):
        if isinstance(self, FusedBlock):
            return self.mlp.c_proj(self.mlp.c_fc(self.ln_2(x)))
        return self.feed_forward.down(self.feed_forward.up(self.norm_before_mlp(x)))


# ------------------------------------------------------------------------------------------------- positions and the stream

PATCHES["nan_at_block"] = lambda model, p: p.table.data[-1].fill_(math.inf)
bent("model.rows", lambda self, old, index: 0.0, "unused_positions")
bent("model.rows", lambda self, old, index: old(0 * index), "positions_constant")
bent("model.rows", lambda self, old, index: old(index.flip(0)), "positions_reversed")
bent("model.rows", lambda self, old, index: old(index + 1), "position_off_by_one")
bent("model.place", lambda self, old, x, start: old(x, 0), "cache_positions_restart")
bent("model.place", lambda self, old, x, start: F.dropout(old(x, start), 0.1), "dropout_in_eval")
bent("model.place", lambda self, old, x, start: old(x, start) + 0.01 * torch.randn_like(x), "noise_in_eval")


@seam("model.place")
class _:
    def positions_by_batch(self, old, x, start):
        old(x, start)  # which refuses what is too long
        return x + self.rows(torch.arange(x.size(0)))[:, None]  # (B, T, C) + (B, 1, C)

    def positions_from_the_end(self, old, x, start):
        old(x, start)
        return x + self.rows(torch.arange(LIMIT - x.size(1), LIMIT))  # (B, T, C) + (T, C)

    def positions_wrap(self, old, x, start):
        return x + self.rows(torch.arange(start, start + x.size(1)) % LIMIT)  # (B, T, C) + (T, C)

    def mean_pool(self, old, x, start):
        x = old(x, start)
        return x + x.mean(1, keepdim=True)

    def nan_at_one(self, old, x, start):
        x = old(x, start)
        variance = (x - x.mean(1, keepdim=True)).square().sum(1, keepdim=True) / (x.size(1) - 1)  # (B, 1, C)
        return x + 0 * variance.detach()  # without any other effect, which would be a look into the future


@patch
def conv_peeks(model, p):
    def place(self, old, x, start):
        x = old(x, start)
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)  # (B, T, C) -> (B, C, T) -> (B, T, C)

    model.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
    bend(model, "place", place)


@patch
def hidden_state(model, p):
    def place(self, old, x, start):
        x = old(x, start) + self.state
        self.state = x.detach().mean((0, 1))  # (B, T, C) -> (C,)
        return x

    model.state = torch.zeros(WIDTH)
    bend(model, "place", place)


# --------------------------------------------------------------------------------------------------- head, logits and loss


def each_loss(model, logits, labels, view=lambda x: x):
    """The loss of each position, (B * T,), 0 where it is to be ignored."""
    logits, labels = model.pair(logits, labels)
    flat = view(logits).reshape(-1, logits.size(2))  # (B, T, V) -> (B * T, V)
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=model.ignore, reduction="none")  # (B, T) -> (B * T,)


PATCHES["init_too_large"] = lambda model, p: nn.init.normal_(p.head.weight, std=1.0)
PATCHES["head_copied"] = lambda model, p: setattr(p.head, "weight", nn.Parameter(p.embed.weight.detach().clone()))
PATCHES["head_tied_unpromised"] = lambda model, p: setattr(p.head, "weight", p.embed.weight)
bent("model.read", lambda self, old, x: old(x)[..., : VOCAB - 5], "head_too_small")
bent("model.read", lambda self, old, x: old(x).softmax(2), "softmax_in_model")
bent("model.cost", lambda self, old, logits, labels: each_loss(self, logits, labels).sum(), "loss_sum")
bent("model.cost", lambda self, old, logits, labels: each_loss(self, logits, labels).mean(), "loss_padding_counted")


@seam("model.cost")
class _:
    def loss_wrong_axis(self, old, logits, labels):
        each = each_loss(self, logits, labels, view=lambda x: x.transpose(1, 2))  # (B, T, V) -> (B, V, T)
        return each.sum() / (self.pair(logits, labels)[1] != self.ignore).sum()


@seam("model.pair")
class _:
    def loss_shifted_twice(self, old, logits, labels):
        logits, labels = old(logits, labels)
        return logits[:, :-1], labels[:, 1:]

    def loss_skips_token_0(self, old, logits, labels):
        logits, labels = old(logits, labels)
        return logits, labels.masked_fill(labels == 0, self.ignore)

    def loss_last_only(self, old, logits, labels):
        logits, labels = old(logits, labels)
        return logits[:, -1:], labels[:, -1:]


@patch
def loss_not_shifted(model, p):
    if isinstance(model, FusedGPT):  # whose caller shifts
        bend(model, "forward", lambda self, old, ids, targets, *rest: old(ids, None if targets is None else ids, *rest))
    else:
        bend(model, "pair", lambda self, old, logits, labels: (logits, labels))


@patch
def targets_fed_in(model, p):
    def forward(self, old, ids, labels, *rest):
        shifted = labels is None or isinstance(self, FusedGPT)
        self.answers = labels if shifted else F.pad(labels[:, 1:], (0, 1))  # (B, T) -> (B, T - 1) -> (B, T)
        return old(ids, labels, *rest)

    def place(self, old, x, start):
        return old(x, start) + (0 if self.answers is None else parts(self).embed(self.answers.clamp(min=0)))  # (B, T, C)

    bend(model, "forward", forward)
    bend(model, "place", place)


# --------------------------------------------------------------------------------------------------------- the whole forward


@seam("model.forward")
class _:
    def crop_silently(self, old, ids, labels, *rest):
        return old(ids[:, -LIMIT:], None if labels is None else labels[:, -LIMIT:], *rest)

    def own_token_hidden(self, old, ids, *rest):
        return old(F.pad(ids, (1, 0))[:, :-1], *rest)  # (B, T) -> (B, T + 1) -> (B, T)

    def modifies_input(self, old, ids, labels, *rest):
        answer = old(ids.clone(), None if labels is None else labels.clone(), *rest)
        ids[:, 0] = (ids[:, 0] + 1) % VOCAB
        return answer

    def modifies_input_in_training(self, old, ids, *rest):
        answer = old(ids.clone(), *rest)
        if self.training:
            ids[:, 0] = (ids[:, 0] + 1) % VOCAB
        return answer

    def modifies_weights(self, old, *args):
        parts(self).head.weight.data.mul_(1.01)
        return old(*args)

    def returns_bvt(self, old, *args):
        answer = old(*args)
        if isinstance(answer, dict):
            return answer | dict(logits=answer["logits"].transpose(1, 2))  # (B, T, V) -> (B, V, T)
        return answer[0].transpose(1, 2), *answer[1:]  # (B, T, V) -> (B, V, T)

    def hangs(self, old, *args):
        while True:
            time.sleep(0.01)

    def exits(self, old, *args):
        sys.exit(0)

    def crashes(self, old, *args):
        raise RuntimeError("planted: the forward pass fails")


# ---------------------------------------------------------------------------------------------------------------- generation


def logits_of(model, ids):
    answer = model(ids)
    return answer["logits"] if isinstance(answer, dict) else answer[0]


bent("model.next_logits", lambda self, old, ids: logits_of(self, ids[:, -LIMIT:])[:, 0], "generate_first_logits")
bent("model.next_logits", lambda self, old, ids: logits_of(self, ids)[:, -1], "generate_no_crop")
bent("model.next_logits", lambda self, old, ids: old(ids[:, :LIMIT]), "generate_crops_start")
bent("model.next_logits", lambda self, old, ids: old(ids[:, -1:]), "generate_last_token_only")
bent("model.generate", lambda self, old, ids, *rest: old(ids[:1], *rest), "generate_drops_rows")
bent("model.generate", lambda self, old, ids, n, *rest: old(ids, n - 1, *rest), "generate_one_short")


@seam("model.generate")
class _:
    def generate_ignores_prompt(self, old, ids, *rest):
        return torch.cat((ids, old(0 * ids[:, :1], *rest)[:, 1:]), dim=1)  # (B, T) and (B, new) -> (B, T + new)

    def generate_changes_prompt(self, old, ids, *rest):
        out = old(ids, *rest).clone()
        out[:, 0] = (out[:, 0] + 1) % VOCAB
        return out

    def generate_keeps_state(self, old, ids, *rest):
        before = getattr(self, "before", ids[:, :0])
        text = old(torch.cat((before, ids), dim=1), *rest)  # (B, 5 + T + new)
        self.before = text[:, -5:]
        return text[:, before.size(1) :]

    def generate_ignores_temperature(self, old, ids, n, temperature, *rest):
        return old(ids, n, 1.0, *rest)

    def generate_random(self, old, ids, n, *rest):
        return old(ids, n) if isinstance(self, FusedGPT) else old(ids, n, True)

    def generate_leaves_train_mode(self, old, *args):
        out = old(*args)
        self.train()
        return out
