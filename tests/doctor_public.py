"""Kinds of faults that fresh public reports brought, in other styles than the reports', each with its healthy twin.

Shapes: B rows, T positions, C width, H heads, V vocabulary.
"""

import copy

import torch
import torch.nn.functional as F
from doctor_reports import LIMIT, C, H, Small, V
from torch import nn


class Layers(Small):
    """The blocks of `Small` without a cache; `positions` and `last` may be replaced."""

    def positions(self, T):
        return self.wpe(torch.arange(T))

    def last(self, x):
        return self.head(x)

    def forward(self, idx):
        T = idx.shape[1]
        x, hidden = self.wte(idx) + self.positions(T), ~torch.ones(T, T, dtype=torch.bool).tril()
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x), None, hidden)[0]
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.last(self.ln_f(x))


class Packed(Small):
    """Documents packed into rows are kept apart, by where position_ids begin again or by doc_ids; a fault is "first" (row for
    all), "late" (a boundary) or "flat" (rows laid end to end, where numbers begin again)."""

    def __init__(self, fault="", apart=True):
        super().__init__()
        self.fault, self.apart = fault, apart

    def forward(self, idx, position_ids=None):
        positions = torch.arange(idx.shape[1]).expand_as(idx) if position_ids is None else position_ids
        return self.read(idx, positions, (positions == 0).cumsum(-1))

    def read(self, idx, positions, documents):
        x = self.wte(idx) + self.wpe(positions)
        if self.fault == "first":
            documents = documents[:1]
        if self.fault == "late":
            documents = torch.cat((documents[:, :1], documents[:, :-1]), 1)
        if self.fault == "flat":
            x, documents = x.flatten(0, 1)[None], documents.flatten()[None]
        hidden = ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if self.apart:
            hidden = hidden | (documents[:, None, :, None] != documents[:, None, None])
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x), None, hidden)[0]
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.ln_f(x)).view(*idx.shape, V)


class Numbered(Packed):
    def forward(self, idx, doc_ids=None):
        rows = torch.arange(len(idx))[:, None].expand_as(idx)
        return self.read(idx, torch.arange(idx.shape[1]).expand_as(idx), rows if doc_ids is None else doc_ids)


class Placed(Packed):
    """Positions are given, and documents not kept apart: each row's, or those of the first."""

    def forward(self, idx, position_ids=None):
        positions = torch.arange(idx.shape[1])[None] if position_ids is None else position_ids
        return self.read(idx, positions[:1] if self.fault else positions, torch.zeros_like(idx))


class Continues(Small):
    """generate reads from a cache, and takes padding on the left; after the prompt it forgets the "mask", or counts positions
    from the "length", or for the "first" row."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, attention_mask=None):
        mask, cache, new = torch.ones_like(idx) if attention_mask is None else attention_mask, None, idx
        for n in range(max_new_tokens):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
            if n and self.fault == "length":
                positions = torch.full_like(positions, mask.shape[1] - 1)
            if n and self.fault == "first":
                positions = positions[:1].expand_as(positions)
            seen = torch.ones_like(mask) if n and self.fault == "mask" else mask
            logits, cache = self.step(new, cache, seen, positions)
            new = logits[:, -1].argmax(-1, keepdim=True)
            idx, mask = torch.cat((idx, new), 1), F.pad(mask, (0, 1), value=1)
        return idx

    def step(self, *given):
        return self(*given, use_cache=True)


class PastForward(Continues):
    """It calls forward by itself, where no hook hears it, and makes the mask of an id of padding."""

    def generate(self, idx, max_new_tokens, pad_token_id=None):
        return super().generate(idx, max_new_tokens, None if pad_token_id is None else (idx != pad_token_id).long())

    def step(self, *given):
        return self.forward(*given, use_cache=True)


class Adapted(Layers):
    """One MLP for all layers, and behind it a linear layer of each layer's own, as in Zamba."""

    def __init__(self):
        super().__init__()
        self.mlps = self.mlps[:1]
        self.own = nn.ModuleList(nn.Linear(C, C) for _ in self.attentions)

    def forward(self, idx):
        T = idx.shape[1]
        x, hidden = self.wte(idx) + self.positions(T), ~torch.ones(T, T, dtype=torch.bool).tril()
        for i, (attention, own) in enumerate(zip(self.attentions, self.own, strict=True)):
            x = x + attention(self.norms[2 * i](x), None, hidden)[0]
            x = x + own(self.mlps[0](self.norms[2 * i + 1](x)))
        return self.head(self.ln_f(x))


class Widened(nn.Module):
    """A narrow embedding, made wide by a linear layer whose output q, k and v read as it is (RemBERT). One Post-LN block."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe, self.into = nn.Embedding(V, C // 2), nn.Embedding(LIMIT, C // 2), nn.Linear(C // 2, C)
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        self.ln_1, self.ln_2, self.head = nn.LayerNorm(C), nn.LayerNorm(C), nn.Linear(C, V)

    def forward(self, idx):
        B, T = idx.shape
        x = self.into(self.wte(idx) + self.wpe(torch.arange(T)))
        q, k, v = (f(x).view(B, T, H, C // H).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, H, T, C/H) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = self.ln_1(x + self.out(y))
        return self.head(self.ln_2(x + self.mlp(x)))


class PositionsUnderNoGrad(Layers):
    def positions(self, T):
        with torch.no_grad():
            return super().positions(T)


class HeadDetached(Layers):
    def last(self, x):
        return F.linear(x, self.head.weight.detach())


class Padding(Layers):
    def __init__(self, padding_idx):
        super().__init__()
        self.wte = nn.Embedding(V, C, padding_idx=padding_idx)


class Loss(Layers):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, idx, labels=None):
        z = super().forward(idx)
        if labels is None:
            return z
        if self.form == "joined":
            return z, F.cross_entropy(z.flatten(0, 1)[:-1], labels.flatten()[1:])
        if self.form == "rolled":
            return z, F.cross_entropy(z.mT, labels.roll(-1, 1))
        return z, F.cross_entropy(z[:, :-1].mT, labels[:, 1:])


class Experts(nn.Module):
    """Two of four experts for each token, on its row alone; dropout on these rows, as the number of tokens has it."""

    def __init__(self, how):
        super().__init__()
        self.how, self.gate = how, nn.Linear(C, 4)
        make = lambda: nn.Sequential(nn.Linear(C, 48), nn.GELU(), nn.Linear(48, C), nn.Dropout(0.1))  # noqa: E731
        self.experts = nn.ModuleList(make() for _ in range(4))

    def forward(self, x):
        flat = x.reshape(-1, C)  # (B·T, C)
        weight, chosen = self.gate(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows, slot = (chosen == e).nonzero(as_tuple=True)
            y = weight[rows, slot, None] * expert(flat[rows])
            if self.how == "assigned":
                out[rows] = y
            elif self.how == "scattered":
                out = out.scatter(0, rows[:, None].expand(-1, C), y)
            else:
                out = out.index_add(0, rows, y)
        return out.view_as(x)


class Plain:
    """No module, and holds weights."""

    def __init__(self):
        self.wide, self.narrow = nn.Linear(C, 48), nn.Linear(48, C)

    def __call__(self, x):
        return self.narrow(F.gelu(self.wide(x)))


class Module(Plain, nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        Plain.__init__(self)

    forward = Plain.__call__
    __call__ = nn.Module.__call__


class Holds(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner()

    def forward(self, x):
        return self.inner(x)


class Gain(nn.Module):
    """A weight that is a plain tensor."""

    def __init__(self, wrap):
        super().__init__()
        self.wide, self.gain = nn.Linear(C, C), wrap(torch.ones(C))

    def forward(self, x):
        return F.gelu(self.wide(x) * self.gain)


class Squares(nn.Module):
    """A norm by hand, of large numbers."""

    def __init__(self, exact):
        super().__init__()
        self.exact, self.out = exact, nn.Linear(C, C)

    def forward(self, x):
        y = (60 * x).float() if self.exact else 60 * x
        return self.out((y / y.square().sum(-1, keepdim=True).sqrt()).to(x.dtype))


class MasksRows(Layers):
    """Attention with (B·H, T, T) masks: each row's for each of its heads, or in another order."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def forward(self, idx, attention_mask=None):
        (B, T), x = idx.shape, self.wte(idx)
        keep = torch.ones_like(idx) if attention_mask is None else attention_mask
        x = x + self.wpe((keep.cumsum(-1) - 1).clamp(min=0))
        hidden = ((keep == 0)[:, None] | ~torch.ones(T, T, dtype=torch.bool).tril()) & ~torch.eye(T, dtype=torch.bool)
        hidden = hidden.repeat_interleave(H, 0) if self.right else hidden.repeat(H, 1, 1)
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            parts = attention.qkv(self.norms[2 * i](x)).split(C, -1)
            q, k, v = (z.view(B, T, H, C // H).transpose(1, 2).reshape(B * H, T, -1) for z in parts)
            y = (q @ k.mT / (C // H) ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v
            x = x + attention.out(y.view(B, H, T, -1).transpose(1, 2).reshape(B, T, C))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.ln_f(x))


class Capped(nn.Module):
    """Attention whose scores are bounded from below: before the mask, or after it."""

    def __init__(self, how, after):
        super().__init__()
        self.how, self.after, self.qkv, self.out = how, after, nn.Linear(C, 3 * C), nn.Linear(C, C)

    def bounded(self, scores):
        return scores.clamp(min=-8) if self.how == "clamp" else 8 * torch.tanh(scores / 8)

    def forward(self, x, cache, hidden):
        B, T, _ = x.shape
        q, k, v = (z.view(B, T, H, -1).transpose(1, 2) for z in self.qkv(x).split(C, -1))
        scores = q @ k.mT / (C // H) ** 0.5
        scores = scores if self.after else self.bounded(scores)
        scores = scores.masked_fill(hidden, -torch.inf)
        scores = self.bounded(scores) if self.after else scores
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)), None


class Linear(nn.Module):
    """Linear attention, (B, H, T, D); its normaliser is summed over the positions, or over the heads."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.qkv, self.out = dim, nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x, cache, hidden):
        B, T, _ = x.shape
        q, k, v = (z.view(B, T, H, -1).transpose(1, 2) for z in self.qkv(x).split(C, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        y = (q[..., None, :] @ (k[..., None] * v[..., None, :]).cumsum(2)).squeeze(-2)
        y = y / (q * k.cumsum(self.dim)).sum(-1, keepdim=True)
        return self.out(y.transpose(1, 2).reshape(B, T, C)), None


class Heads(nn.Module):
    """Attention whose heads have projections of their own, or share what they should not, or drop less than they promise."""

    def __init__(self, how):
        super().__init__()
        self.how, self.out = how, nn.Linear(C, C)
        hs, few = C // H, how in ("one head called", "one head expanded")
        self.q = nn.Linear(C, hs if few else C)
        self.k, self.v = (nn.Linear(C, hs if few or how == "multi-query" else C) for _ in range(2))
        self.attn_drop, self.resid_drop = nn.Dropout(0.1), nn.Dropout(0.1)

    def head(self, q, k, v):
        """(B, T, C/H) each."""
        p = self.attn_drop.p if self.training and self.how != "no rate" else 0.0
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)

    def forward(self, x, cache, hidden):
        if self.how == "one head called":
            y = torch.cat([self.head(self.q(x), self.k(x), self.v(x)) for _ in range(H)], -1)
        else:
            parts = [z.unflatten(-1, (-1, C // H)).transpose(1, 2) for z in (self.q(x), self.k(x), self.v(x))]
            y = self.head(*(z.expand(-1, H, -1, -1) for z in parts)).transpose(1, 2).flatten(-2)
        y = self.out(y)
        if self.how == "dropped by a function":
            return F.dropout(y, 0.1, self.training), None
        return (y if self.how == "not called" else self.resid_drop(y)), None


class Writes(Layers):
    """generate() without a greedy mode, at the last position or another one."""

    def __init__(self, at, draws, tied=True):
        super().__init__(tied=tied)
        self.at, self.draws = at, draws

    @torch.no_grad()
    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            z = self(idx[:, -LIMIT:])[:, self.at]
            new = torch.multinomial(z.softmax(-1), 1) if self.draws else z.argmax(-1, keepdim=True)
            idx = torch.cat((idx, new), 1)
        return idx


def with_attention(make):
    model = Layers()
    model.attentions = nn.ModuleList(make() for _ in range(2))
    return model


def copied(again):
    model = Layers()
    model.mlps = nn.ModuleList(copy.deepcopy(model.mlps[0]) for _ in range(2))
    for x in model.mlps.parameters() if again else ():
        nn.init.normal_(x, std=0.02) if x.dim() > 1 else None
    return model


def plain_tensor(x):
    return x.requires_grad_()


# the faulty model, its twin, the check, a regular expression in the cause of the first finding
KINDS = {
    "positions under no_grad": (PositionsUnderNoGrad, Layers, "gradients", r"depend on wpe.weight.*no_grad"),
    "head detached": (HeadDetached, Layers, "gradients", r"depend on head.weight.*detach"),
    "padding_idx on a token": (lambda: Padding(V - 1), Layers, "gradients", r"token 52 has no vector that can learn"),
    "shift over joined rows": (lambda: Loss("joined"), lambda: Loss(""), "its own loss", r"first token of the next row"),
    "shift comes round": (lambda: Loss("rolled"), lambda: Loss(""), "its own loss", r"row's own first token"),
    "experts assigned": (
        lambda: Small(experts=lambda: Experts("assigned")), lambda: Small(experts=lambda: Experts("")),
        "gradients", r"only the last one's output is kept",
    ),
    "weights in an object": (
        lambda: Small(experts=lambda: Holds(Plain)), lambda: Small(experts=lambda: Holds(Module)),
        "registered", r"mlps.0.inner is not an nn.Module",
    ),
    "a plain tensor": (
        lambda: Small(experts=lambda: Gain(plain_tensor)), lambda: Small(experts=lambda: Gain(nn.Parameter)),
        "registered", r"a plain tensor is used as a weight",
    ),
    "squares overflow": (
        lambda: Small(experts=lambda: Squares(False)).half(), lambda: Small(experts=lambda: Squares(True)).half(),
        "precision", r"overflow in float16",
    ),
    "packed by the first row's positions": (
        lambda: Packed("first"), Packed, "padding", r"read with the position_ids of the first",
    ),
    "positions of the first row": (
        lambda: Placed("first", apart=False), lambda: Placed(apart=False), "padding", r"position_ids of the first",
    ),
    "packed rows laid end to end": (lambda: Numbered("flat"), Numbered, "padding", r"tokens see the row before theirs"),
    "numbered documents end late": (lambda: Numbered("late"), Numbered, "padding", r"boundary.* is one token late"),
    "mask forgotten while decoding": (lambda: Continues("mask"), Continues, "generate", r"hidden while the.*, and seen"),
    "positions of the padded length while decoding": (
        lambda: Continues("length"), Continues, "generate", r"counts from the second new token on",
    ),
    "positions of one row while decoding": (lambda: Continues("first"), Continues, "generate", r"positions or the mask of one"),
    "padding by id seen while decoding": (lambda: PastForward("mask"), PastForward, "generate", r"hidden while.*, and seen"),
    "masks of other rows": (lambda: MasksRows(False), lambda: MasksRows(True), "padding", r"padding of another row"),
    "clamped after the mask": (
        lambda: with_attention(lambda: Capped("clamp", True)), lambda: with_attention(lambda: Capped("clamp", False)),
        "causality", r"a clamp comes after the mask and turns its -inf into -8",
    ),
    "summed over heads": (
        lambda: with_attention(lambda: Linear(1)), lambda: with_attention(lambda: Linear(2)), "softmax", r"running sum.*axis 1",
    ),
    "one head called": (
        lambda: with_attention(lambda: Heads("one head called")), lambda: with_attention(lambda: Heads("multi-query")),
        "heads", r"all heads of an attention compute the same",
    ),
    "one head expanded": (
        lambda: with_attention(lambda: Heads("one head expanded")), lambda: with_attention(lambda: Heads("")),
        "heads", r"all heads of an attention compute the same",
    ),
    "dropout not called": (
        lambda: with_attention(lambda: Heads("not called")), lambda: with_attention(lambda: Heads("dropped by a function")),
        "configuration", r"resid_drop is created with p = 0.1 and never called",
    ),
    "dropout not passed on": (
        lambda: with_attention(lambda: Heads("no rate")), lambda: with_attention(lambda: Heads("")),
        "configuration", r"attn_drop is created with p = 0.1 and never called",
    ),
    "layers copied": (lambda: copied(False), lambda: copied(True), "weights", r"layers 0, 1 of mlps begin with equal numbers"),
    "first position": (lambda: Writes(0, False), lambda: Writes(-1, False), "generate", r"first position"),
    "position before": (lambda: Writes(-2, False), lambda: Writes(-1, False), "generate", r"position before the last"),
    "draws, first position": (lambda: Writes(0, True), lambda: Writes(-1, True), "generate", r"likeliest|first position"),
}  # fmt: skip
