"""Small language models in other people's styles: each with a fault that public reports know, and its healthy twin.

MIXERS holds layers that mix positions, one fault each; `host(name, good)` puts one of them into a small model. What the doctor
is to say of the fault stands beside it. Shapes: B rows, T positions, C width, H heads, D = C / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, LIMIT, WIDTH, HEADS = 50, 64, 32, 4
MIXERS: dict[str, tuple[Callable[[bool], nn.Module], str]] = {}  # name: (make(good), words of the cause)


def mixer(says: str):
    """Register a class of layers, made with good=True or False, and words of the cause that the faulty one must be named by."""

    def register(kind):
        MIXERS[kind.__name__] = kind, says
        return kind

    return register


def split(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)


def join(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(-2)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Attends(nn.Module):
    """Attention by einsum, with a mask of its own: True where a query may look."""

    fill = -math.inf

    def __init__(self, good: bool):
        super().__init__()
        self.good, self.qkv, self.proj = good, nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def allowed(self, T: int) -> Tensor:
        return torch.ones(T, T, dtype=torch.bool).tril()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(part) for part in self.qkv(x).chunk(3, -1))
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~self.allowed(x.shape[1]), self.fill).softmax(-1)  # (B, H, T, T)
        return self.proj(join(torch.einsum("bhts,bhsd->bhtd", weights, v)))


@mixer("the mask has a hole: position 40 sees token 47")
class HoleInTheMask(Attends):
    """karpathy/nanochat #844's kind: one pair of the mask is open, far beyond the first tokens."""

    def allowed(self, T):
        mask = super().allowed(T)
        if not self.good and T > 47:
            mask[40, 47] = True
        return mask


@mixer("the mask is open inside chunks of 8")
class OpenChunks(Attends):
    """Attention by blocks of 8: the whole own block is seen, later tokens too."""

    def allowed(self, T):
        block = torch.arange(T) // 8
        inside = block[:, None] >= block[None]
        return inside & super().allowed(T) if self.good else inside


@mixer("the mask is missing in row 32, 33, 34, 35")
class MaskTooShort(Attends):
    """The mask was made for 32 tokens, and what lies beyond is filled up with "may be seen"."""

    def allowed(self, T):
        if self.good or T <= 32:
            return super().allowed(T)
        return super().allowed(T).index_fill(0, torch.arange(32, T), True)


@mixer("the mask fills with -10000, not with -inf")
class AddedTenThousand(nn.Module):
    """BERT's manner: (1 - mask) * -10000 is added to the scores; the weights are large, as after a training that blew up."""

    def __init__(self, good):
        super().__init__()
        self.good, self.q, self.k, self.v = good, *(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("mask", torch.tril(torch.ones(LIMIT, LIMIT)))
        with torch.no_grad():
            self.q.bias += 65.0
            self.k.bias -= 65.0

    def forward(self, x):
        T = x.shape[1]
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        mask = self.mask[:T, :T]
        if self.good:
            scores = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
        else:
            scores = scores * mask - 1e4 * (1 - mask)
        return join(F.softmax(scores, -1) @ v)


@mixer("the mask's polarity is inverted")
class PolarityOfMHA(nn.Module):
    """nn.MultiheadAttention, where True means blocked, is given a lower triangle of True."""

    def __init__(self, good):
        super().__init__()
        self.good, self.mha = good, nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        T = x.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool)
        return self.mha(x, x, x, attn_mask=mask.triu(1) if self.good else mask.tril(-1), need_weights=False)[0]


@mixer("over the axis of time, in chunks of 16")
class ChunkSummary(nn.Module):
    """karpathy/nanochat #844's kind, in another style: the maximum of the own chunk of 16, or of the one before."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention, self.gate = good, Attends(True), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        B, T, C = x.shape
        padded = F.pad(x, (0, 0, 0, -T % 16), value=-9.0)
        top = padded.reshape(B, -1, 16, C).amax(dim=2)  # (B, chunks, C)
        if self.good:
            top = F.pad(top, (0, 0, 1, 0))[:, :-1]
        return self.attention(x) + self.gate(top.repeat_interleave(16, dim=1)[:, :T])


@mixer("over the axis of time")
class PooledAndStretched(nn.Module):
    """avg_pool1d over 4 tokens, stretched again: a low-pass filter that looks ahead."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention, self.mix = good, Attends(True), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        T = x.shape[1]
        if self.good:
            low = F.avg_pool1d(F.pad(x.mT, (3, 0)), 4, stride=1)  # (B, C, T + 3) -> (B, C, T)
        else:
            low = F.avg_pool1d(F.pad(x.mT, (0, -T % 4)), 4)  # (B, C, T / 4)
            low = low.repeat_interleave(4, dim=-1)[..., :T]
        return self.attention(x) + self.mix(low.mT)


@mixer("over the axis of time")
class GlobalContext(nn.Module):
    """Squeeze and excite: every position is scaled by a gate that comes from the mean of all."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention, self.gate = (
            good,
            Attends(True),
            nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, WIDTH)),
        )

    def forward(self, x):
        counts = torch.arange(1, x.shape[1] + 1)[:, None]
        mean = x.cumsum(1) / counts if self.good else x.mean(1, keepdim=True)
        return self.attention(x) * torch.sigmoid(self.gate(mean))


@mixer("by FFT is circular")
class CircularConvolution(nn.Module):
    """A long convolution by FFT whose kernel is causal, without padding: the end wraps around to the start."""

    def __init__(self, good):
        super().__init__()
        self.good, self.kernel = good, nn.Parameter(torch.randn(LIMIT, WIDTH) * torch.exp(-torch.arange(LIMIT) / 16)[:, None])

    def forward(self, x):
        T = x.shape[1]
        n = 2 * T if self.good else T
        spectrum = torch.fft.fft(x, n=n, dim=1) * torch.fft.fft(self.kernel[:T], n=n, dim=0)
        return torch.fft.ifft(spectrum, dim=1).real[:, :T]


@mixer("a choice over time (topk)")
class MixtureOfDepths(nn.Module):
    """Mixture of depths: half of the tokens of a text, those with the largest router weight, go through the layer."""

    def __init__(self, good):
        super().__init__()
        self.good, self.router, self.inner = good, nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH)
        self.attention = Attends(True)

    def forward(self, x):
        weight = self.router(x)[..., 0]  # (B, T)
        if self.good:
            keep = weight > 0
        else:
            least = weight.topk(max(1, x.shape[1] // 2), dim=-1).values[:, -1:]
            keep = weight >= least
        return self.attention(x) + torch.where(keep[..., None], self.inner(x), 0.0) * weight[..., None]


@mixer("time runs backwards")
class BackwardScan(nn.Module):
    """A decaying sum, written as a loop, that runs from the end of the text."""

    def __init__(self, good):
        super().__init__()
        self.good, self.decay, self.out = good, nn.Parameter(torch.full((WIDTH,), 0.8)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        state, states = torch.zeros_like(x[:, 0]), {}
        for t in range(x.shape[1]) if self.good else reversed(range(x.shape[1])):
            state = self.decay * state + x[:, t]
            states[t] = state
        return self.out(torch.stack([states[t] for t in range(x.shape[1])], dim=1))


@mixer("another order of time (torch.flip)")
class SumFromTheEnd(nn.Module):
    """Linear attention whose running sums are flipped."""

    def __init__(self, good):
        super().__init__()
        self.good, self.q, self.k, self.v = good, *(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        q, k, v = F.softplus(self.q(x)), F.softplus(self.k(x)), self.v(x)
        if self.good:
            top, bottom = (k * v).cumsum(1), k.cumsum(1)
        else:
            top, bottom = (k * v).flip(1).cumsum(1).flip(1), k.flip(1).cumsum(1).flip(1)
        return q * top / (bottom + 1e-3)


@mixer("bidirectional=True")
class TwoWays(nn.Module):
    def __init__(self, good):
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH if good else WIDTH // 2, batch_first=True, bidirectional=not good)

    def forward(self, x):
        return self.gru(x)[0]


@mixer("a convolution over time (kernel 5)")
class SameConvolution(nn.Module):
    """Conv1d with padding="same", or padded on the left."""

    def __init__(self, good):
        super().__init__()
        self.good, self.conv = good, nn.Conv1d(WIDTH, WIDTH, 5, padding=0 if good else "same")

    def forward(self, x):
        x = F.pad(x, (0, 0, 4, 0)) if self.good else x
        return F.gelu(self.conv(x.mT)).mT


@mixer("a shift in time by 1")
class TokenShift(nn.Module):
    """RWKV's time shift, in the wrong direction."""

    def __init__(self, good):
        super().__init__()
        self.shift, self.attention = nn.ZeroPad2d((0, 0, 1, -1) if good else (0, 0, -1, 1)), Attends(True)
        self.share = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x):
        return self.attention(x * self.share + self.shift(x) * (1 - self.share))


@mixer("a matrix over time")
class SpatialGate(nn.Module):
    """gMLP: a linear layer from positions to positions, lower triangular or not."""

    def __init__(self, good):
        super().__init__()
        self.good, self.over_time = good, nn.Parameter(torch.randn(LIMIT, LIMIT) / 8)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        T = x.shape[1]
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        weight = self.over_time[:T, :T].tril() if self.good else self.over_time[:T, :T]
        return self.down(u * (F.linear(v.mT, weight).mT + 1))


@mixer("over the axis of time")
class GroupNormOverTime(nn.Module):
    """GroupNorm of (B, C, T) takes its statistics over time too."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention = good, Attends(True)
        self.norm = nn.LayerNorm(WIDTH) if good else nn.GroupNorm(4, WIDTH)

    def forward(self, x):
        return self.attention(self.norm(x) if self.good else self.norm(x.mT).mT)


@mixer("no causal mask in attention 1, 3 of 4 (the others are masked)")
class MemoryUnmasked(nn.Module):
    """nn.TransformerDecoderLayer with the text itself for a memory, whose mask was forgotten."""

    def __init__(self, good):
        super().__init__()
        self.good, self.layer = good, nn.TransformerDecoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.layer(x, x, tgt_mask=mask, memory_mask=mask if self.good else None)


@mixer("a sum over the axis of time")
class LinearAttention(nn.Module):
    """Linear attention that sums keys times values over the whole text, not up to the query."""

    def __init__(self, good):
        super().__init__()
        self.good, self.qkv = good, nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = (split(part) for part in self.qkv(x).chunk(3, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if self.good:
            return join(torch.einsum("bhtd,bhtde->bhte", q, torch.einsum("bhtd,bhte->bhtde", k, v).cumsum(2)))
        return join(torch.einsum("bhtd,bhde->bhte", q, torch.einsum("bhtd,bhte->bhde", k, v)))


@mixer("with stride 4")
class StridedSummary(nn.Module):
    """A convolution with stride 4 summarises 4 tokens, and each of the 4 gets the summary."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention, self.conv = good, Attends(True), nn.Conv1d(WIDTH, WIDTH, 4, stride=4)

    def forward(self, x):
        T = x.shape[1]
        summary = self.conv(F.pad(x.mT, (4, -T % 4) if self.good else (0, -T % 4)))  # (B, C, T / 4), or one more
        return self.attention(x) + summary.repeat_interleave(4, dim=-1)[..., :T].mT


@mixer("a choice over time (topk)")
class ExpertChoice(nn.Module):
    """Each expert takes the tokens of the batch that it likes best (expert choice), or each token its expert."""

    def __init__(self, good):
        super().__init__()
        self.good, self.attention, self.router = good, Attends(True), nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, WIDTH)) for _ in range(4))

    def forward(self, x):
        tokens = self.attention(x).flatten(0, 1)  # (B, T, C) -> (B * T, C)
        scores = self.router(tokens).softmax(-1)  # (B * T, 4)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            if self.good:
                rows = (scores.argmax(-1) == number).nonzero()[:, 0]
            else:
                rows = scores[:, number].topk(max(1, len(tokens) // 4)).indices
            out = out.index_add(0, rows, expert(tokens[rows]) * scores[rows, number, None])
        return tokens.view_as(x) + out.view_as(x)


class Host(nn.Module):
    """Two layers of a mixer and an MLP each. forward(tokens) -> logits."""

    def __init__(self, make: Callable[[bool], nn.Module], good: bool):
        super().__init__()
        self.context_length = LIMIT
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Parameter(0.3 * torch.randn(LIMIT, WIDTH))
        self.layers = nn.ModuleList(make(good) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 64), nn.SiLU(), nn.Linear(64, WIDTH)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(5))
        self.unembed = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places[: tokens.shape[1]]
        for i, (layer, mlp) in enumerate(zip(self.layers, self.mlps, strict=True)):
            x = x + layer(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.unembed(self.norms[4](x))


def host(name: str, good: bool) -> nn.Module:
    """A small model with a mixer, faulty or healthy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Host(MIXERS[name][0], good)


# ----- time first


class TimeFirst(nn.Module):
    """PyTorch's word language model: (T, B) in, (T, B, V) out, from an LSTM or from an encoder, with its mask or without."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.drop = kind, nn.Dropout(0.2)
        self.encoder, self.decoder = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.place = None if kind == "lstm" else nn.Embedding(LIMIT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.2)
        self.mixer = nn.LSTM(WIDTH, WIDTH, 2) if kind == "lstm" else nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, source: Tensor) -> Tensor:
        x, T = self.drop(self.encoder(source)), len(source)
        if self.kind == "lstm":
            return self.decoder(self.mixer(x)[0])
        x = x + self.place(torch.arange(T))[:, None]
        mask = nn.Transformer.generate_square_subsequent_mask(T) if self.kind == "masked" else None
        return self.decoder(self.mixer(x, mask=mask))


def time_first(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TimeFirst(kind)


# ----- healthy, and unusual: each was, or could be, taken for ill

HEALTHY: dict[str, Callable[[], nn.Module]] = {}


def healthy(kind):
    HEALTHY[kind.__name__] = kind
    return kind


class InPlace(Attends):
    """Scores are scaled and masked in place; good=False scales them by 1 / D instead of 1 / sqrt(D)."""

    def forward(self, x):
        q, k, v = (split(part) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.mT
        scores.mul_(q.shape[-1] ** (-0.5 if self.good else 0.5))
        scores.masked_fill_(~self.allowed(x.shape[1]), -math.inf)
        return self.proj(join(scores.softmax(-1) @ v))


class Sinks(Attends):
    """GPT-OSS's attention: each head has one more score, to nothing, that takes part in the softmax and is cut off after it."""

    def __init__(self, good):
        super().__init__(good)
        self.sinks = nn.Parameter(torch.zeros(HEADS))

    def forward(self, x):
        q, k, v = (split(part) for part in self.qkv(x).chunk(3, -1))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~self.allowed(x.shape[1]), -math.inf)
        sinks = self.sinks.view(1, -1, 1, 1).expand(len(x), -1, x.shape[1], 1)  # (H,) -> (B, H, T, 1)
        weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]  # (B, H, T, T + 1) -> (B, H, T, T)
        return self.proj(join(weights @ v))


class Chosen(nn.Module):
    """Attention to the 8 likeliest keys, by an indexer that only chooses: no gradient reaches it, and none is missing."""

    def __init__(self, good):
        super().__init__()
        self.attention, self.iq, self.ik = Attends(True), nn.Linear(WIDTH, 8, bias=False), nn.Linear(WIDTH, 8, bias=False)

    def forward(self, x):
        T = x.shape[1]
        index = (self.iq(x) @ self.ik(x).mT).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf)
        chosen = torch.zeros_like(index).scatter(-1, index.topk(min(8, T), dim=-1).indices, 1.0).bool()  # (B, T, T)
        a = self.attention
        q, k, v = (split(part) for part in a.qkv(x).chunk(3, -1))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~(chosen[:, None] & a.allowed(T)), -math.inf)
        return a.proj(join(scores.softmax(-1) @ v))


@healthy
def in_place():
    return Host(InPlace, True)


@healthy
def sinks():
    return Host(Sinks, True)


@healthy
def only_chooses():
    return Host(Chosen, True)


@healthy
class FrozenMask(Host):
    """The mask and the sinusoids are parameters that are not trained."""

    def __init__(self):
        class Masked(Attends):
            def __init__(self, good):
                super().__init__(good)
                self.mask = nn.Parameter(torch.full((LIMIT, LIMIT), -1e9).triu(1), requires_grad=False)

            def forward(self, x):
                q, k, v = (split(part) for part in self.qkv(x).chunk(3, -1))
                scores = q @ k.mT / q.shape[-1] ** 0.5 + self.mask[: x.shape[1], : x.shape[1]]
                return self.proj(join(scores.softmax(-1) @ v))

        super().__init__(Masked, True)
        angle = torch.arange(LIMIT)[:, None] / 100 ** (torch.arange(WIDTH // 2) / (WIDTH // 2))
        self.places = nn.Parameter(torch.cat([angle.sin(), angle.cos()], dim=1), requires_grad=False)


@healthy
class PaddingMasked(Host):
    """Token 1 is padding: nobody attends to it, and positions are counted without it, from 2 on (RoBERTa)."""

    def __init__(self):
        super().__init__(Attends, True)
        self.config = {"pad_token_id": 1, "vocab_size": VOCAB, "max_position_embeddings": LIMIT}
        self.tokens = nn.Embedding(VOCAB, WIDTH, padding_idx=1)
        self.place = nn.Embedding(LIMIT + 2, WIDTH, padding_idx=1)
        del self.places

    def forward(self, tokens):
        real = tokens != 1
        x = self.tokens(tokens) + self.place(real.cumsum(1) * real + 1)
        T = tokens.shape[1]
        seen = torch.ones(T, T, dtype=torch.bool).tril() & real[:, None, :]  # (B, T, T)
        for i, (layer, mlp) in enumerate(zip(self.layers, self.mlps, strict=True)):
            layer.allowed = lambda T: seen[:, None] | torch.eye(T, dtype=torch.bool)  # (B, 1, T, T)
            x = x + layer(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
            del layer.allowed
        return self.unembed(self.norms[4](x))


@healthy
class WaitsForAnImage(Host):
    """A text model with a projector for images, which a text does not use."""

    def __init__(self):
        super().__init__(Attends, True)
        self.image_projector = nn.Linear(16, WIDTH)

    def forward(self, tokens, pixels=None):
        if pixels is not None:
            raise NotImplementedError(f"{self.image_projector} is not tried here")
        return super().forward(tokens)


@healthy
class SharedOnPurpose(Host):
    """ALBERT's and the Universal Transformer's manner: one layer, used twice, as the configuration states."""

    def __init__(self):
        super().__init__(Attends, True)
        self.config = {"vocab_size": VOCAB, "num_hidden_layers": 2, "num_hidden_groups": 1, "share_layers": True}
        self.layers = nn.ModuleList([self.layers[0]] * 2)
        self.mlps = nn.ModuleList([self.mlps[0]] * 2)


@healthy
class FaintLogits(Host):
    """Logits are divided by a large number, as the configuration of some families states: all losses are nearly ln V."""

    def __init__(self):
        super().__init__(Attends, True)

    def forward(self, input_ids, labels=None):
        logits = super().forward(input_ids) / 50000
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"logits": logits, "loss": loss}


@healthy
class ChunksOfEight(Host):
    """It takes multiples of 8 tokens only, as chunked attention does."""

    def __init__(self):
        super().__init__(Attends, True)

    def forward(self, tokens):
        if tokens.shape[1] % 8:
            raise ValueError(f"{tokens.shape[1]} tokens are no multiple of 8")
        return super().forward(tokens)


def unusual(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HEALTHY[name]()
