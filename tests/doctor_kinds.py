"""Faults of caches, of generation and of values, in styles that `doctor_hosts` does not have, each with its healthy twin.

`make(name)` returns the model that has the fault, `make(name, healthy=True)` the twin: the same class and weights, without it.
KINDS holds what the first line of a report should say. Shapes as in `doctor_hosts`; W window, P positions in a cache.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------ gpt-fast: positions and caches come from the caller


def turned(x, positions, base=1e4):
    """Rotary positions over neighbouring pairs: x (B, T, H, D), positions (T,)."""
    half = x.shape[-1] // 2
    angle = positions.float()[:, None] * base ** (-torch.arange(half, device=x.device) / half)  # (T, D / 2)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # (T, 1, D / 2): the same for all heads
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Ring:
    """A cache of the last `size` positions of one layer: keys and values are written round and round."""

    def __init__(self, rows, size, heads, width):
        self.k, self.v = torch.zeros(rows, heads, size, width), torch.zeros(rows, heads, size, width)
        self.at = torch.full((size,), -1)  # which position each slot holds

    def put(self, k, v, positions):
        slots = positions % len(self.at)
        self.k[:, :, slots], self.v[:, :, slots], self.at[slots] = k, v, positions
        return self.k, self.v, self.at


@dataclass
class FastArgs:
    vocab_size: int = 61
    block_size: int = 48
    dim: int = 32
    n_head: int = 4
    n_local_heads: int = 2
    n_layer: int = 2
    window: int = 0
    cache_size: int = 48


class FastLayer(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args, head = args, args.dim // args.n_head
        self.wqkv = nn.Linear(args.dim, args.dim + 2 * args.n_local_heads * head, bias=False)
        self.wo = nn.Linear(args.dim, args.dim, bias=False)
        self.w1, self.w3 = nn.Linear(args.dim, 96, bias=False), nn.Linear(args.dim, 96, bias=False)
        self.w2 = nn.Linear(96, args.dim, bias=False)
        self.attention_norm, self.ffn_norm = nn.RMSNorm(args.dim), nn.RMSNorm(args.dim)

    def mask(self, positions, at, fresh):
        keep = (at >= 0) & (at <= positions[:, None])  # (T, P)
        return keep & (at > positions[:, None] - self.args.window) if self.args.window else keep

    def rotate(self, x, positions):
        return turned(x, positions)

    def attend(self, x, positions, cache):
        (B, T, C), a = x.shape, self.args
        head = C // a.n_head
        q, k, v = self.wqkv(x).split([C, a.n_local_heads * head, a.n_local_heads * head], dim=-1)
        q, k = self.rotate(q.view(B, T, -1, head), positions), self.rotate(k.view(B, T, -1, head), positions)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.view(B, T, -1, head).transpose(1, 2)  # (B, H, T, D)
        at, fresh = positions, cache is None
        if cache is not None:
            k, v, at = cache.put(k, v, positions)
        groups = a.n_head // a.n_local_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(positions, at, fresh))
        return self.wo(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x, positions, cache):
        h = x + self.attend(self.attention_norm(x), positions, cache)
        y = self.ffn_norm(h)
        return h + self.w2(F.silu(self.w1(y)) * self.w3(y))


class Fast(nn.Module):
    def __init__(self, args=None, layer=FastLayer):
        super().__init__()
        self.config = args = args or FastArgs()
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(layer(args) for _ in range(args.n_layer))
        self.norm, self.output = nn.RMSNorm(args.dim), nn.Linear(args.dim, args.vocab_size, bias=False)
        self.apply(self.begin)

    @staticmethod
    def begin(module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)

    def empty_cache(self, rows):
        a = self.config
        return [Ring(rows, a.cache_size, a.n_local_heads, a.dim // a.n_head) for _ in self.layers]

    def positions(self, start, T):
        return torch.arange(start, start + T)

    def forward(self, idx, state=None, input_pos=None):
        positions = torch.arange(idx.shape[1]) if input_pos is None else input_pos
        x = self.tok_embeddings(idx)
        for i, layer in enumerate(self.layers):
            x = layer(x, positions, None if state is None else state[i])
        return self.output(self.norm(x))


class WindowForgotten(FastLayer):
    def mask(self, positions, at, fresh):
        keep = (at >= 0) & (at <= positions[:, None])
        return keep & (at > positions[:, None] - self.args.window) if fresh else keep


class PrefillUnmasked(FastLayer):
    def mask(self, positions, at, fresh):
        keep = super().mask(positions, at, fresh)
        return keep if fresh or len(positions) == 1 else (at >= 0).expand_as(keep)


class RopeOnHeads(FastLayer):
    def rotate(self, x, positions):
        heads = x.transpose(1, 2)  # (B, H, T, D): turned by the number of the head
        return turned(heads, torch.arange(heads.shape[1])).transpose(1, 2)


# ------------------------------------------------------------------ a recurrent model, whose cache is called state


class Recurrent(nn.Module):
    """An LSTM; forward(tokens, state) -> (logits, state)."""

    def __init__(self, vocab=57, dim=40, layers=2, keeps=True):
        super().__init__()
        self.keeps = keeps
        self.embed, self.rnn = nn.Embedding(vocab, dim), nn.LSTM(dim, dim, layers, batch_first=True)
        self.decode = nn.Linear(dim, vocab)

    def forward(self, tokens, state=None):
        y, new = self.rnn(self.embed(tokens), state)
        return self.decode(y), new if self.keeps or state is None else state


# ------------------------------------------------------------------ attention and feed-forward in lists of their own


class Attend(nn.Module):
    def __init__(self, dim, heads, half=False, uniform=False):
        super().__init__()
        self.heads, self.half, self.uniform = heads, half, uniform
        self.to_q, self.to_kv, self.to_out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        B, T, C = x.shape
        q, (k, v) = self.to_q(x), self.to_kv(x).chunk(2, -1)
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
        if self.half:
            q, k = q.half(), k.half()
        scores = (q @ k.mT).to(v.dtype) * (C // self.heads) ** -0.5
        if self.uniform:
            scores = scores * 0
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).reshape(B, T, C))


class ScaleNorm(nn.Module):
    """RMSNorm in the style of x / (‖x‖ / √C), or with the division forgotten."""

    def __init__(self, dim, wrong=False):
        super().__init__()
        self.gain, self.wrong = nn.Parameter(torch.ones(dim)), wrong

    def forward(self, x):
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return (x * size if self.wrong else x / (size + 1e-6)) * self.gain


class TwoLists(nn.Module):
    """lucidrains: the attentions in one list, the feed-forwards in another, pre-norms in a third and fourth."""

    def __init__(
        self, num_tokens=53, dim=32, depth=2, heads=4, max_seq_len=40, residual="x", norm=nn.LayerNorm, straight=False, **a
    ):
        super().__init__()
        self.max_seq_len, self.residual = max_seq_len, residual
        self.token_emb, self.pos_emb = nn.Embedding(num_tokens, dim), nn.Embedding(max_seq_len, dim)
        self.attns = nn.ModuleList(Attend(dim, heads, **a) for _ in range(depth))
        between = nn.Identity() if straight else nn.ReLU()
        self.ffs = nn.ModuleList(nn.Sequential(nn.Linear(dim, 3 * dim), between, nn.Linear(3 * dim, dim)) for _ in range(depth))
        self.norms_a, self.norms_f = (nn.ModuleList(norm(dim) for _ in range(depth)) for _ in range(2))
        self.final, self.to_logits = norm(dim), nn.Linear(dim, num_tokens)
        for table in (self.token_emb, self.pos_emb):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x):
        x = self.token_emb(x) + self.pos_emb(torch.arange(x.shape[1]))
        for attn, norm_a, ff, norm_f in zip(self.attns, self.norms_a, self.ffs, self.norms_f, strict=True):
            y = norm_a(x)
            x = {"x": x, "normed": y, "none": 0}.get(self.residual, x) + attn(y)
            y = norm_f(x)
            x = {"x": x, "normed": y, "no ff": 0}.get(self.residual, x) + ff(y)
        return self.to_logits(self.final(x))


class TwoLinears(nn.Module):
    """Low-rank projections: a block whose feed-forward ends in a linear layer and a next one that begins with one, no norm."""

    def __init__(self, between):
        super().__init__()
        self.emb, self.pos = nn.Embedding(53, 32), nn.Embedding(40, 32)
        self.attns = nn.ModuleList(Attend(32, 4) for _ in range(2))
        self.ups, self.downs = (nn.ModuleList(nn.Linear(*size) for _ in range(2)) for size in ((32, 32), (32, 32)))
        self.norms, self.last, self.head = (
            nn.ModuleList(nn.LayerNorm(32) for _ in range(4)),
            nn.LayerNorm(32),
            nn.Linear(32, 53),
        )
        self.between = between
        for table in (self.emb, self.pos):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids):
        x = self.emb(ids) + self.pos(torch.arange(ids.shape[1]))
        for i in range(2):
            x = x + self.attns[i](self.norms[2 * i](x))
            x = x + self.downs[i](self.between(self.ups[i](self.norms[2 * i + 1](x))))
        return self.head(self.last(x))


# ------------------------------------------------------------------ samplers


class Sampler(TwoLists):
    """Sampling in the style of lucidrains' AutoregressiveWrapper."""

    how = "right"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, return_loss=False):
        return self.dropout(super().forward(x)) if self.training else super().forward(x)

    def choose(self, logits, temperature, top_k, top_p):
        how = self.how
        logits = logits if how == "temperature after" else logits / temperature
        if top_k is not None:
            best, at = logits.topk(top_k)
            kept = torch.zeros_like(logits) if how == "fill" else torch.full_like(logits, -math.inf)
            logits = kept.scatter(-1, at, best)
        if top_p is not None:
            p, at = logits.softmax(-1).sort(descending=True)
            cut = p.cumsum(-1) - p > top_p  # the first is always kept
            if how == "nucleus not sorted back":
                logits = logits.masked_fill(cut, -math.inf)
            else:
                logits = logits.masked_fill(torch.zeros_like(cut).scatter(-1, at, cut), -math.inf)
        return torch.multinomial(logits.softmax(-1) / (temperature if how == "temperature after" else 1.0), 1)

    def generate(self, prompts, seq_len, temperature=1.0, top_k=None, top_p=None):
        was = self.training
        if self.how != "no eval":
            self.eval()
        with torch.set_grad_enabled(self.how == "graph"):
            out = prompts
            for _ in range(seq_len):
                context = out[:, -self.max_seq_len :]
                if self.how == "wrong context":  # a token too few, once there are many
                    context = out[:, -min(self.max_seq_len, 10) :]
                out = torch.cat((out, self.choose(self(context)[:, -1], temperature, top_k, top_p)), -1)
        self.train(was)
        return out[:, prompts.shape[1] :]


@torch.no_grad()
def complete(model, ids, max_new_tokens, feed=None):
    """Generation by a free function with the cache of Fast."""
    state = model.empty_cache(len(ids))
    positions, new = torch.arange(ids.shape[1]), ids
    for _ in range(max_new_tokens):
        logits = model(new, state, positions)
        new = logits[:, -1:].argmax(-1)
        ids, positions = torch.cat((ids, new), 1), positions[-1:] + 1
    return ids


@torch.no_grad()
def complete_without_context(model, ids, max_new_tokens):
    """The cache is made anew at each step."""
    new, positions = ids, torch.arange(ids.shape[1])
    for _ in range(max_new_tokens):
        new = model(new, model.empty_cache(len(ids)), positions)[:, -1:].argmax(-1)
        ids, positions = torch.cat((ids, new), 1), positions[-1:] + 1
    return ids


# ------------------------------------------------------------------ values, stated in a configuration and held by modules

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}


class Stated(nn.Module):
    """A model of keywords, each of which its configuration states."""

    def __init__(self, vocab_size=67, n_ctx=40, n_embd=48, n_head=6, n_layer=2, layer_norm_eps=1e-5, hidden_act="silu", **over):
        super().__init__()
        self.cfg = SimpleNamespace(
            vocab_size=vocab_size, n_ctx=n_ctx, n_embd=n_embd, n_head=n_head, n_layer=n_layer,
            layer_norm_eps=layer_norm_eps, hidden_act=hidden_act, pad_token_id=over.get("pad"), eos_token_id=over.get("eos"),
        )  # fmt: skip
        real = dict(heads=n_head, eps=layer_norm_eps, act=hidden_act, ignore=-100) | over
        self.real, C = real, n_embd
        self.wte, self.wpe = nn.Embedding(vocab_size, C), nn.Embedding(n_ctx, C)
        self.blocks = nn.ModuleList()
        for _ in range(n_layer):
            parts = dict(ln1=nn.LayerNorm(C, eps=real["eps"]), qkv=nn.Linear(C, 3 * C), proj=nn.Linear(C, C))
            parts |= dict(ln2=nn.LayerNorm(C, eps=real["eps"]), fc=nn.Linear(C, 4 * C), out=nn.Linear(4 * C, C))
            self.blocks.append(nn.ModuleDict(parts))
        self.ln_f, self.head = nn.LayerNorm(C, eps=real["eps"]), nn.Linear(C, vocab_size, bias=False)
        for name, x in self.named_parameters():
            if x.dim() == 2:
                nn.init.normal_(x, std=0.02)
            elif "bias" in name:
                nn.init.zeros_(x)

    def forward(self, ids, labels=None, attention_mask=None):
        B, T = ids.shape
        keep = torch.ones(T, T, dtype=torch.bool).tril().expand(B, 1, T, T)
        places = torch.arange(T).expand(B, T)
        if attention_mask is not None:
            keep = keep & attention_mask[:, None, None, :].bool() | torch.eye(T, dtype=torch.bool)
            places = (attention_mask.cumsum(-1) - 1).clamp(min=0) if self.real.get("places", True) else places
        x = self.wte(ids) + self.wpe(places)
        for block in self.blocks:
            q, k, v = (t.view(B, T, self.real["heads"], -1).transpose(1, 2) for t in block["qkv"](block["ln1"](x)).chunk(3, -1))
            if self.real.get("mask", True) is False:
                keep = torch.ones(T, T, dtype=torch.bool).tril().expand(B, 1, T, T)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
            x = x + block["proj"](y.transpose(1, 2).reshape(B, T, -1))
            x = x + block["out"](ACTIVATIONS[self.real["act"]](block["fc"](block["ln2"](x))))
        logits = self.head(self.ln_f(x)) * self.real.get("times", 1.0)
        if labels is None:
            return SimpleNamespace(logits=logits, loss=None)
        z, y = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return SimpleNamespace(logits=logits, loss=F.cross_entropy(z, y, ignore_index=self.real["ignore"]))


@torch.no_grad()
def spoil(model, how):
    """Change weights of a new Stated in place."""
    block = model.blocks[1]
    if how == "dead units":
        block["fc"].weight[:60] = 0
        block["fc"].bias[:60] = 0
    elif how == "equal units":
        block["fc"].weight.copy_(block["fc"].weight[:1].expand_as(block["fc"].weight))
    elif how == "constant":
        block["out"].weight.fill_(0.01)
    elif how == "no queries":
        block["qkv"].weight[:48] = 0
    elif how == "dead features":
        model.wte.weight[:, :16] = 0
    elif how == "large":
        block["fc"].weight.mul_(6)
    elif how == "gain":
        for x in (block["ln1"].weight, block["ln2"].weight):
            x.fill_(0.5)
    elif how == "shift":
        block["ln2"].bias.fill_(1.0)
    elif how == "norm off":
        model.ln_f.weight.zero_()
    elif how == "replaced":
        old = block["out"].forward
        block["out"].forward = lambda x: 0.5 * old(x)


# ------------------------------------------------------------------ the table


def stated(**over):
    return Stated(**over), Stated(**{k: v for k, v in over.items() if k in ("pad", "eos", "layer_norm_eps", "hidden_act")})


def spoiled(how):
    model = Stated()
    torch.manual_seed(0)
    twin = Stated()
    spoil(model, how)
    return model, twin


def fast(layer=FastLayer, **args):
    def build(layer):
        torch.manual_seed(0)
        return Fast(FastArgs(**args), layer)

    return build(layer), build(FastLayer)


def sampler(how):
    def build(how):
        torch.manual_seed(0)
        model = Sampler()
        model.how = how
        return model

    return build(how), build("right")


def lists(**over):
    def build(**over):
        torch.manual_seed(0)
        return TwoLists(**over)

    return build(**over), build()


def two_linears(between):
    def build(between):
        torch.manual_seed(0)
        return TwoLinears(between)

    return build(between), build(nn.GELU())


def trained(pair):
    """Both as they come out of training, in training mode: here its trace is only that no gain is 1 any more."""
    for model in pair:
        for name, x in model.named_parameters():
            if "norm" in name or "final" in name:
                torch.nn.init.normal_(x, mean=float(name.endswith("weight")), std=0.1)
    return tuple(model.train() for model in pair)


def small_ring():
    """A ring of 8 slots for a window of 12."""
    torch.manual_seed(0)
    wrong = Fast(FastArgs(window=12, cache_size=8))
    torch.manual_seed(0)
    return wrong, Fast(FastArgs(window=12, cache_size=48))


NEW_CACHE = dict(options=lambda model: dict(new_cache=model.empty_cache))
# name: (a function that returns the faulty model and its twin, check, a regular expression in the cause of the first finding,
# further options of diagnose)
KINDS = {
    "window forgotten with a cache": (lambda: fast(WindowForgotten, window=9), "cache", r"window", NEW_CACHE),
    "prefill without a mask": (lambda: fast(PrefillUnmasked), "cache", r"prompt.*(mask|future)|future.*prompt", NEW_CACHE),
    "ring too small for the window": (small_ring, "cache", r"overwritten|ring|slots|keys", NEW_CACHE),
    "rotary along the heads": (lambda: fast(RopeOnHeads), "positions", r"head", {}),
    "state not carried on": (lambda: (Recurrent(keeps=False), Recurrent()), "cache", r"", {}),
    "residual missing, two lists": (lambda: lists(residual="none"), "residual", r"attn", {}),
    "feed-forward residual missing, two lists": (lambda: lists(residual="no ff"), "residual", r"ff", {}),
    "residual from the norm, two lists": (lambda: lists(residual="normed"), "residual", r"normalised", {}),
    "norm multiplies": (lambda: lists(norm=lambda dim: ScaleNorm(dim, True)), "norms", r"multipl", {}),
    "nothing between equal layers": (lambda: two_linears(nn.Identity()), "activation", r"two linear", {}),
    "attention constant": (lambda: lists(uniform=True), "", r"(attention|weights).*(constant|same|not depend|whatever)", {}),
    "half precision inside": (lambda: lists(half=True), "", r"float16|half", {}),
    "temperature after the softmax": (lambda: sampler("temperature after"), "generate", r"temperature", {}),
    "top-k filled with 0": (lambda: sampler("fill"), "generate", r"top_k.*(0|fill)", {}),
    "nucleus not sorted back": (lambda: sampler("nucleus not sorted back"), "generate", r"top_p.*sort", {}),
    "generate builds a graph": (lambda: sampler("graph"), "generate", r"no_grad|graph", {}),
    "generate without eval": (lambda: trained(sampler("no eval")), "generate", r"eval|training mode", {}),
    "generate sees 10 tokens": (lambda: sampler("wrong context"), "generate", r"context", {}),
    "free function loses the cache": (
        lambda: (fast()[0], fast()[0]), "generate", r"context", dict(generate=(complete_without_context, complete)),
    ),
    "eos left out of the loss": (lambda: stated(eos=66, ignore=66), "its own loss", r"66|end.of.text", {}),
    "configuration's heads ignored": (lambda: stated(heads=4), "", r"head", {}),
    "configuration's epsilon ignored": (lambda: stated(eps=1e-2), "", r"eps", {}),
    "configuration's activation ignored": (lambda: stated(act="relu"), "", r"relu.*silu|silu.*relu|activation", {}),
    "padding seen": (lambda: stated(mask=False, pad=0), "", r"padding|attention_mask", {}),
    "left padding moves positions": (lambda: stated(places=False, pad=0), "", r"padding|left", {}),
    "logits times 0": (lambda: stated(times=0.0), "", r"0", {}),
    **{f"values: {how}": (lambda how=how: spoiled(how), "", words, {}) for how, words in {
        "dead units": r"60 of 192 rows are 0", "equal units": r"stay equal", "constant": r"one number everywhere",
        "no queries": r"48 of 144 rows are 0", "dead features": r"16 of 48 columns are 0", "large": r"6.*times as large",
        "gain": r"gain blocks.1.ln1.weight is 0.5", "shift": r"bias blocks.1.ln2.bias is 1", "norm off": r"ln_f.weight is 0",
        "replaced": r"replaced.*0.5 times as large",
    }.items()},
}  # fmt: skip


def make(name, healthy=False):
    """Return a model and the options that diagnose() needs for it."""
    build, _, _, more = KINDS[name]
    torch.manual_seed(0)
    model = build()[healthy]
    options = more["options"](model) if "options" in more else {}
    return model, options | ({"generate": more["generate"][healthy]} if "generate" in more else {})
