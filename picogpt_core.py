"""PicoGPT: everything that is a GPT, in one file that is read from top to bottom and can be copied alone.

    import torch
    from picogpt_core import GPT, ModelConfig, SampleConfig, generate

    model = GPT(ModelConfig())                                     # 2,466,369 parameters
    ids = generate(model, torch.zeros(1, 1, dtype=torch.long), SampleConfig(max_new_tokens=50))

Sections
    1. Settings        ModelConfig, TrainConfig, SampleConfig, how they are checked, PRESETS
    2. Model           causal_mask, attend, KVCache, CausalSelfAttention, MLP, Block, GPT, the loss, counts
    3. Training        windows, backward, Muon, optimizers, learning rate, evaluate
    4. Sampling        logits -> probabilities -> one token -> generate -> generate_speculative
    5. Faster on a CPU, the same mathematics

It needs torch and nothing else from this project. What surrounds a GPT is in the package picogpt/: the text and its
tokenizers, checkpoints, the training loop, GPT-2's files, plots, the command line.

Axes, in the comments on shapes
    B  rows of a batch          T   positions in a window (at most block_size)
    C  n_embd, the width        nh  n_head, the number of heads
    V  vocab_size               hs  C / nh, the width of a head
    L  n_layer                  N   length of a text in tokens

Sources
    Attention: Vaswani et al. 2017, arXiv 1706.03762
    GPT-2 (names, initialisation, Pre-LN): Radford et al. 2019, https://github.com/openai/gpt-2
    nanoGPT (the training script that this course measures itself against): https://github.com/karpathy/nanoGPT
    AdamW: Loshchilov and Hutter 2017, arXiv 1711.05101
    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    Nucleus (top-p) sampling: Holtzman et al. 2019, arXiv 1904.09751
    Speculative decoding: Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318
    Since GPT-2: RMSNorm, Zhang and Sennrich 2019, arXiv 1910.07467; rotary positions, Su et al. 2021, arXiv 2104.09864;
        SwiGLU, Shazeer 2020, arXiv 2002.05202; grouped queries, Ainslie et al. 2023, arXiv 2305.13245; QK-norm, Henry et
        al. 2020, arXiv 2010.04245; norms on the output, OLMo 2 2025, arXiv 2501.00656, and Gemma 2 2024, arXiv 2408.00118

Importing this file prints nothing, downloads nothing and seeds nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import difflib
import functools
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---------------------------------------------------------------------------------------------------------------------
# 1. Settings: what the model is, how it is trained, how it is sampled. Three things, kept apart.
# ---------------------------------------------------------------------------------------------------------------------


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds: for everything a caller can get wrong."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ModelConfig:
    """What the model is. Every ablation of the course is a field here. The default is PicoGPT."""

    vocab_size: Count = 65  # different tokens; 65 characters occur in Tiny Shakespeare
    block_size: Count = 256  # the longest window the model can see, in tokens
    n_layer: Count = 3  # blocks
    n_head: Count = 8  # attention heads in each block
    n_embd: Count = 256  # width: numbers per position in the residual stream
    # a norm before each branch (GPT-2), after each sum (Vaswani 2017), on each branch's output (OLMo 2), before the branch
    # and on its output (Gemma 2), or nowhere
    norm: Literal["pre", "post", "output", "sandwich", "none"] = "pre"
    norm_kind: Literal["layernorm", "rmsnorm"] = "layernorm"
    final_norm: bool = True  # one more norm before the head
    qkv_bias: bool = False  # biases of query, key and value
    bias: bool = True  # the other biases inside the blocks, and those of the LayerNorms
    head_bias: bool = True  # bias of the last linear layer
    activation: Literal["gelu", "gelu_tanh", "relu", "swiglu"] = "gelu"  # swiglu: a gated MLP of as many parameters
    positions: Literal["learned", "rotary"] = "learned"  # added to the embedding, or a rotation of queries and keys
    n_kv_head: Count | None = None  # heads of keys and values, each shared by a group of queries; None: n_head
    qk_norm: bool = False  # RMSNorm on every query and key, head by head
    init: Literal["gpt2", "gpt2-flat", "xavier"] = "gpt2"  # see GPT
    tied_head: bool = False  # the head uses the token embedding's matrix
    causal: bool = True  # False lets every position depend on future tokens: the bug that this course grew from
    attention: Literal["sdpa", "manual"] = "sdpa"  # PyTorch's fused attention, or the same by hand
    embd_dropout: DropoutRate = 0.0  # on the sum of the embeddings
    resid_dropout: DropoutRate = 0.0  # on the output of each branch
    attn_dropout: DropoutRate = 0.0  # on the attention weights

    def __post_init__(self):
        validate(self)
        require(
            self.n_embd % self.n_head == 0,
            f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}: make it a multiple",
        )
        kv = self.n_kv_head
        require(
            kv is None or (kv <= self.n_head and self.n_head % kv == 0),
            f"n_kv_head={kv} cannot serve n_head={self.n_head} query heads in equal groups: make it a divisor",
        )
        require(
            self.positions == "learned" or self.n_embd // self.n_head % 2 == 0,
            f"positions='rotary' turns pairs of numbers: n_embd / n_head = {self.n_embd // self.n_head} must be even",
        )
        require(
            not (self.tied_head and self.head_bias),
            "tied_head=True with head_bias=True: the embedding has no bias to share. Set head_bias=False",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: its recipe. Counts are optimizer steps unless it says otherwise."""

    steps: Count = 1000
    batch_size: Count = 32  # windows per step, over all micro-batches and processes
    seq_len: Count | None = None  # length of a training window in tokens; None: the model's block_size
    grad_accum: Count = 1  # split each batch into this many micro-batches: less memory, the same step
    optimizer: Literal["muon", "adamw"] = "muon"  # "muon": Muon for the blocks' matrices, AdamW for the rest
    learning_rate: Rate = 3e-3  # AdamW's, at its peak
    muon_learning_rate: Rate = 0.02  # Muon's, at its peak
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: CountOrZero = 20  # the learning rate rises to its peak over these; a shorter training is all warm-up
    decay_fraction: Fraction = 1.0  # the learning rate falls over this last fraction of the steps (1: from warm-up on)
    final_lr_fraction: Fraction = 0.05  # where it ends, as a fraction of its peak
    weight_decay: Rate = 0.05  # see decay
    decay: Literal["matrices", "all"] = "matrices"  # what weight decay pulls on; "all": biases, norms, embeddings too
    label_smoothing: Fraction = 0.0  # this share of every target is spread evenly over the vocabulary
    beta1: Beta = 0.9  # AdamW's averages of the gradient
    beta2: Beta = 0.99  # and of its square
    grad_clip: AtLeastZero = 1.0  # largest gradient norm allowed; 0: any
    eval_every: Count = 250  # full validation loss and checkpoint; also at the last step
    log_every: Count = 10  # a row of the history
    seed: CountOrZero = 1337  # of windows and dropout; a model's first weights are drawn before, when it is built
    device: str = "auto"  # "cpu", "cuda", "cuda:1", "mps"; auto: the best one there is
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware multiplies it
    compile: bool = False  # torch.compile the model: slow to start, then faster on a GPU

    def __post_init__(self):
        validate(self)
        require(
            self.batch_size % self.grad_accum == 0,
            f"batch_size={self.batch_size} cannot be split into grad_accum={self.grad_accum} equal micro-batches",
        )


@dataclass(frozen=True)
class SampleConfig:
    """How text is drawn from a trained model."""

    max_new_tokens: CountOrZero = 500
    temperature: AtLeastZero = 1.0  # logits are divided by it; 0 takes the likeliest token (greedy)
    top_k: Count | None = None  # keep the k likeliest tokens (and any that tie with the k-th)
    top_p: Fraction | None = None  # keep the fewest likeliest tokens that together have at least this probability
    seed: CountOrZero | None = None  # None: another text each time

    def __post_init__(self):
        validate(self)
        require(self.top_p != 0, f"top_p={self.top_p!r} must be above 0 and at most 1")
        smallest = torch.finfo(torch.float32).tiny
        require(
            self.temperature == 0 or self.temperature >= smallest,
            f"temperature={self.temperature!r} is 0 in float32: give 0 for greedy, or at least {smallest:.2g}",
        )


# ----- checking settings. Nothing of a GPT is in here: on a first reading, skip to section 2.


class Range(NamedTuple):
    """The values that a number may take, both ends included."""

    low: float
    high: float = math.inf


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
AtLeastZero = Annotated[float, Range(0)]
Rate = Annotated[float, Range(0, 1000)]
Fraction = Annotated[float, Range(0, 1)]
DropoutRate = Annotated[float, Range(0, 0.99)]
Beta = Annotated[float, Range(0, 0.999999)]


def validate(config: Any) -> None:
    """Check each field of a settings dataclass against its own type hint. Raise ValueError with name, value and reason."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if type(None) in get_args(hint):  # "Count | None"
            if value is None:
                continue
            (hint,) = (option for option in get_args(hint) if option is not type(None))
        _check(name, value, hint)


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless `value` is what one type hint allows: a Literal, a bool, a str, or a number in a Range."""
    if get_origin(hint) is Literal or hint is bool:
        allowed = (False, True) if hint is bool else get_args(hint)
        fits = isinstance(value, type(allowed[0])) and value in allowed
        require(fits, f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
    elif hint is str:
        require(isinstance(value, str), f"{name}={value!r} must be a string like 'cpu', 'cuda' or 'auto'")
    else:
        kind, (low, high) = get_args(hint)
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if kind is int:
            integer = f"{name}={value!r} must be an integer (a Python int) of at least {low} and less than 2^63"
            require(number and low <= value < min(high, 2**63), integer)
        elif math.isinf(high):
            require(number and low <= value < high, f"{name}={value!r} must be a finite number of at least {low:g}")
        else:
            require(number and low <= value <= high, f"{name}={value!r} must be a number from {low:g} to {high:g}")


class Preset(NamedTuple):
    """A named model and the number of parameters it must have (a test adds them up)."""

    config: ModelConfig
    parameters: int


_ORIGINAL = ModelConfig(norm="post", final_norm=False, qkv_bias=True, activation="relu")
_GPT2 = ModelConfig(
    vocab_size=50257,
    block_size=1024,
    n_layer=12,
    n_head=12,
    n_embd=768,
    qkv_bias=True,
    head_bias=False,
    activation="gelu_tanh",
    tied_head=True,
)

PRESETS = {
    "picogpt": Preset(ModelConfig(), 2_466_369),
    "picogpt-6layer": Preset(ModelConfig(n_layer=6), 4_833_345),
    "picogpt-original": Preset(_ORIGINAL, 2_468_161),
    "picogpt-original-block300": Preset(dataclasses.replace(_ORIGINAL, block_size=300), 2_479_425),
    "nanogpt-scaled": Preset(ModelConfig(activation="relu"), 2_466_369),
    "rasbt-scaled": Preset(ModelConfig(qkv_bias=True, head_bias=False), 2_468_608),
    # the two that the engineer's log suggests, from which this course grew
    "preln-all-bias": Preset(ModelConfig(qkv_bias=True), 2_468_673),
    "postln-no-bias": Preset(ModelConfig(norm="post", final_norm=False, bias=False, head_bias=False), 2_459_648),
    "gpt2": Preset(_GPT2, 124_439_808),
    "gpt2-medium": Preset(dataclasses.replace(_GPT2, n_layer=24, n_head=16, n_embd=1024), 354_823_168),
    "gpt2-large": Preset(dataclasses.replace(_GPT2, n_layer=36, n_head=20, n_embd=1280), 774_030_080),
    "gpt2-xl": Preset(dataclasses.replace(_GPT2, n_layer=48, n_head=25, n_embd=1600), 1_557_611_200),
    # two for a short time: the first learns to write in a minute, the second is for tests
    "demo": Preset(ModelConfig(block_size=128, n_head=4, n_embd=128), 627_009),
    "tiny": Preset(ModelConfig(block_size=32, n_layer=2, n_head=2, n_embd=32), 30_529),
}


def preset(name: str) -> ModelConfig:
    """Return the settings of a named model. Raise ValueError with the nearest name if there is none."""
    if name in PRESETS:
        return PRESETS[name].config
    near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
    raise ValueError(f"no preset is called {name!r}: did you mean {near!r}? All of them: {', '.join(PRESETS)}")


# ---------------------------------------------------------------------------------------------------------------------
# 2. Model, from leaf to root. Names are GPT-2's, so that published weights load by name.
# ---------------------------------------------------------------------------------------------------------------------


def causal_mask(T: int, device=None, past: int = 0) -> Tensor:
    """Return (T, past + T) booleans, True where the row's position may attend to the column's: itself and earlier ones."""
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Cut the features of each position into heads. (B, T, C) -> (B, nh, T, hs)"""
    B, T, C = x.shape
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)  # (B, T, C) -> (B, T, nh, hs) -> (B, nh, T, hs)


def join_heads(y: Tensor) -> Tensor:
    """Concatenate the heads of each position again. (B, nh, T, hs) -> (B, T, C)"""
    B, nh, T, hs = y.shape
    return y.transpose(1, 2).reshape(B, T, nh * hs)  # (B, nh, T, hs) -> (B, T, nh, hs) -> (B, T, C)


def attention_scores(q: Tensor, k: Tensor, causal: bool = True) -> Tensor:
    """Return Q Kᵀ / √hs, with -inf where a query may not attend.

    q (B, nh, T, hs), k (B, nh, past + T, hs) -> (B, nh, T, past + T)
    """
    T, past = q.shape[2], k.shape[2] - q.shape[2]
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)  # (B, nh, T, hs) @ (B, nh, hs, past + T)
    return scores.masked_fill(~causal_mask(T, q.device, past), float("-inf")) if causal else scores


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, dropout: float = 0.0) -> Tensor:
    """What attention is: every query takes a weighted average of the values, softmax(Q Kᵀ / √hs) V.

    q (B, nh, T, hs); k and v (B, nh, past + T, hs), where the first `past` positions come from a cache. -> (B, nh, T, hs)
    """
    weights = attention_scores(q, k, causal).softmax(dim=-1)  # each row sums to 1; exp(-inf) is 0: nothing from the future
    return F.dropout(weights, dropout) @ v  # (B, nh, T, past + T) @ (B, nh, past + T, hs) -> (B, nh, T, hs)


def fused_attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, dropout: float = 0.0) -> Tensor:
    """Compute `attend` with the fastest kernel for the job; the numbers differ by rounding only.

    Without dropout, PyTorch's fused attention never holds the weights (B, nh, T, past + T) in memory.
    """
    T, past = q.shape[2], k.shape[2] - q.shape[2]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return bfloat16_attend(q, k, v, causal, dropout)  # section 5
    if not causal or T == 1:  # one new position may attend to everything
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if past == 0:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    mask = causal_mask(T, q.device, past)  # is_causal=True would assume that there is no past
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, attn_mask=mask)


class KVCache:
    """Keys and values of the positions that a model has read, so that it need not compute them again.

    Both are (L, B, nh, block_size, hs), with nh the heads of keys and values. The first `length` positions are filled. To
    forget the last ones, make `length` smaller: what lies behind it is overwritten.
    """

    def __init__(self, config: ModelConfig, batch_size: int = 1, device=None, dtype: torch.dtype | None = None):
        heads, hs = config.n_kv_head or config.n_head, config.n_embd // config.n_head
        shape = (config.n_layer, batch_size, heads, config.block_size, hs)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, nh, T, hs) of new positions and return those of all positions, (B, nh, length + T, hs) each."""
        end = self.length + k.shape[2]
        self.k[layer, :, :, self.length : end] = k.detach()  # no gradient flows back through a cache
        self.v[layer, :, :, self.length : end] = v.detach()
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


def rotate(x: Tensor, position: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn pairs of numbers by angles that grow with the position: rotary positions. (B, nh, T, hs) -> the same

    Pair i of a head is its numbers i and i + hs/2; at `position` (T,) it is turned by position · base^(-2i / hs). The product
    of a turned query and a turned key then depends on the distance of their positions only (Su 2021).
    """
    half = x.shape[-1] // 2
    frequency = base ** -(torch.arange(half, device=x.device) / half)  # (hs/2,)
    angle = position[:, None] * frequency  # (T, hs/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.split(half, dim=-1)  # (B, nh, T, hs/2) each
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class CausalSelfAttention(nn.Module):
    """Every position gathers from itself and the positions before it, in nh heads side by side."""

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.config, self.layer = config, layer
        C, hs = config.n_embd, config.n_embd // config.n_head
        kv = hs * (config.n_kv_head or config.n_head)
        self.sizes = [C, kv, kv]  # of query, key and value, which c_attn computes in one
        self.c_attn = Linear(C, sum(self.sizes), bias=config.qkv_bias)  # nn.Linear, faster on a CPU: section 5
        self.c_proj = Linear(C, C, bias=config.bias)
        self.q_norm = nn.RMSNorm(hs, eps=1e-5) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(hs, eps=1e-5) if config.qk_norm else nn.Identity()
        self.resid_dropout = Dropout(config.resid_dropout)  # nn.Dropout, faster on a CPU: section 5

    def queries_keys_values(self, x: Tensor, past: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, nh, T, hs), k and v (B, kv heads, T, hs) for x (B, T, C), whose first position is `past`."""
        hs = x.shape[2] // self.config.n_head
        q, k, v = (split_heads(z, z.shape[2] // hs) for z in self.c_attn(x).split(self.sizes, dim=2))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.config.positions == "rotary":
            position = past + torch.arange(x.shape[1], device=x.device)  # (T,)
            q, k = rotate(q, position), rotate(k, position)
        return q, k, v

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        q, k, v = self.queries_keys_values(x, 0 if cache is None else cache.length)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # 2 x (B, kv heads, past + T, hs)
        if (group := q.shape[1] // k.shape[1]) > 1:  # grouped queries: each key and value serves several heads
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # 2 x (B, nh, past + T, hs)
        dropout = self.config.attn_dropout if self.training else 0.0
        compute = attend if self.config.attention == "manual" else fused_attend
        y = compute(q, k, v, self.config.causal, dropout)  # (B, nh, T, hs)
        return self.resid_dropout(self.c_proj(join_heads(y)))


# "gelu" is exact, "gelu_tanh" the approximation that GPT-2's weights were trained with
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class MLP(nn.Module):
    """Every position by itself: expand to 4C, apply the activation, project back.

    SwiGLU (Shazeer 2020) expands to a gate and a value of 8C/3 each, which are multiplied: as many parameters in all.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, self.gated = config.n_embd, config.activation == "swiglu"
        hidden = round(8 * C / 3) if self.gated else 4 * C
        self.c_fc = Linear(C, 2 * hidden if self.gated else hidden, bias=config.bias)
        self.c_proj = Linear(hidden, C, bias=config.bias)
        self.activation = F.silu if self.gated else ACTIVATIONS[config.activation]
        self.resid_dropout = Dropout(config.resid_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = self.c_fc(x)  # (B, T, 4C), or (B, T, 2 hidden)
        if self.gated:
            gate, value = x.chunk(2, dim=2)  # (B, T, hidden) each
            return self.resid_dropout(self.c_proj(self.activation(gate) * value))
        return self.resid_dropout(self.c_proj(self.activation(x)))


def make_norm(config: ModelConfig) -> nn.Module:
    """Return what normalises the C features of each position: LayerNorm, RMSNorm, which leaves the mean alone, or nothing."""
    if config.norm == "none":
        return nn.Identity()
    if config.norm_kind == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=1e-5)
    return nn.LayerNorm(config.n_embd, bias=config.bias)


class Block(nn.Module):
    """Attention, then MLP, each added to its own input (the residual connection)."""

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.norm = config.norm
        self.ln_1 = make_norm(config)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)
        if config.norm == "sandwich":
            self.ln_1_out, self.ln_2_out = make_norm(config), make_norm(config)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        if self.norm in ("pre", "none"):
            x = x + self.attn(self.ln_1(x), cache)
            return x + self.mlp(self.ln_2(x))
        if self.norm == "post":
            x = self.ln_1(x + self.attn(x, cache))
            return self.ln_2(x + self.mlp(x))
        if self.norm == "output":
            x = x + self.ln_1(self.attn(x, cache))
            return x + self.ln_2(self.mlp(x))
        x = x + self.ln_1_out(self.attn(self.ln_1(x), cache))  # "sandwich"
        return x + self.ln_2_out(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """Token ids to logits for the next token.

    Initialisation, by `init`
        gpt2        linear and embedding weights normal, σ = 0.02; c_proj weights σ = 0.02 / √(2 n_layer), since 2 n_layer
                    branches add up in the residual stream. So in nanoGPT and transformers; OpenAI's code has σ = 0.01 for
                    positions, and does not scale c_proj, though the paper does
        gpt2-flat   the same without the smaller c_proj
        xavier      linear weights uniform by fan-in and fan-out (Glorot 2010), embeddings normal, σ = 1, as Vaswani 2017
    Biases are 0, the weights of norms 1.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        require(isinstance(config, ModelConfig), f"GPT({config!r}): give a ModelConfig, or preset('picogpt') for one by name")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.embd_dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = make_norm(config) if config.final_norm else nn.Identity()
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                self._initialise(name, parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def _initialise(self, name: str, weight: Tensor) -> None:
        """Draw one matrix of first weights."""
        if self.config.init == "xavier":
            nn.init.normal_(weight) if name.startswith(("wte", "wpe")) else nn.init.xavier_uniform_(weight)
        elif self.config.init == "gpt2" and name.endswith("c_proj.weight"):
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.config.n_layer))
        else:
            nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Tensor, last_only: bool = False, cache: KVCache | None = None) -> Tensor:
        """Return the logits (B, T, V) for ids (B, T); with `last_only` (B, 1, V), all that generation needs.

        With a `cache`, ids are the T tokens that follow those in the cache, and join them. Raise ValueError for more than
        block_size tokens, and for a cache in training mode, of another batch size, or without a causal mask.
        """
        (B, T), past, most = ids.shape, 0 if cache is None else cache.length, self.config.block_size
        after = f" after {past} in the cache: there is room for {most - past} more," if past else ": this model takes 1 to"
        require(1 <= T <= most - past, f"a window of {T} tokens{after} block_size={most}")
        if cache is not None:
            require(self.config.causal, "a cache works with a causal model only: earlier positions would have to change")
            require(not self.training, "a cache works in evaluation mode only: call model.eval()")
            require(cache.k.shape[1] == B, f"{B} rows of ids with a cache for {cache.k.shape[1]}")
        ids = ids.to(self.wte.weight.device)  # after training on a GPU the model is there, and the corpus is not
        x = self.wte(ids)  # (B, T, C)
        if self.config.positions == "learned":
            x = x + self.wpe(torch.arange(past, past + T, device=ids.device))  # (B, T, C) + (T, C)
        x = self.drop(x)
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += T
        x = self.ln_f(x)
        if last_only:
            x = x[:, [-1], :]  # (B, 1, C): a list as index keeps the axis
        return self.lm_head(x)  # (B, T, V)


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of -log p(target) in nats per token. logits (B, T, V), targets (B, T).

    With `label_smoothing` s the target has the probability 1 - s + s/V and every other token s/V, so that the best a model
    can do is no longer to be certain (Szegedy 2015, arXiv 1512.00567).
    """
    targets = targets.flatten().to(logits.device).long()  # (B·T,)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets, label_smoothing=label_smoothing)  # (B·T, V), (B·T,)


def count_parameters(model: nn.Module) -> int:
    """Count the parameters of a model; a tied matrix counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(config: ModelConfig, T: int | None = None) -> int:
    """Return the floating-point operations to train on one token, forward and backward, in windows of T (None: block_size).

    6 for each parameter (2 forward, 4 backward; positions are only added, so they do not count), and 12 n_layer C T for
    the attention of each token. Chowdhery et al. 2022, arXiv 2204.02311, appendix B, as nanoGPT counts. A token embedding
    that is not tied to the head is only looked up, but counted too: 1 % of PicoGPT.
    """
    with torch.device("meta"):  # shapes without memory
        model = GPT(config)
    counted = count_parameters(model) - (model.wpe.weight.numel() if config.positions == "learned" else 0)
    return 6 * counted + 12 * config.n_layer * config.n_embd * (T or config.block_size)


def parameter_table(model: nn.Module) -> str:
    """Return a line for every parameter (name, shape, size) and the sum."""
    rows = [(name, " x ".join(map(str, p.shape)), f"{p.numel():,}") for name, p in model.named_parameters()]
    rows.append(("sum", "", f"{count_parameters(model):,}"))
    return "\n".join(f"{name:24}{shape:>14}{size:>14}" for name, shape, size in rows)


@torch.no_grad()
def attention_weights(model: GPT, ids: Tensor) -> list[Tensor]:
    """Return each layer's attention weights (B, nh, T, T) on ids (B, T), without dropout.

    Row t of a head says how much position t takes from each position.
    """
    inputs: list[tuple[CausalSelfAttention, Tensor]] = []  # each attention and what it reads, (B, T, C)
    attentions = [module for module in model.modules() if isinstance(module, CausalSelfAttention)]  # in order
    hooks = [attn.register_forward_pre_hook(lambda attn, args: inputs.append((attn, args[0]))) for attn in attentions]
    try:
        with evaluation_mode(model):
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    weights = []
    for attn, x in inputs:
        q, k, _ = attn.queries_keys_values(x)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, nh, T, hs), as q
        weights.append(attention_scores(q, k, model.config.causal).softmax(dim=-1))  # (B, nh, T, T)
    return weights


@torch.no_grad()
def moved_by_the_future(model: nn.Module, ids: Tensor, position: int) -> Tensor:
    """Return how far the logits at each of the T positions move when the tokens from `position` on are changed. (T,)

    The test of causality, from outside: before `position` nothing may move at all, from there on everything should. It works
    for any module that maps ids (B, T) to logits (B, T, V), and switches its dropout off meanwhile.
    """
    T = ids.shape[1]
    require(0 <= position < T, f"position={position} must lie in the text: 0 to {T - 1}")
    with evaluation_mode(model):
        before = model(ids)  # (B, T, V)
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % before.shape[2]  # another future, the same past
        return (before - model(changed)).abs().amax(dim=(0, 2))


@contextlib.contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode (no dropout), and at the end each of their modules back into the mode it had."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


# ---------------------------------------------------------------------------------------------------------------------
# 3. Training: the parts of a step. Put together, they are a loop (picogpt/train.py adds logs, checkpoints and resuming):
#
#     optimizers = make_optimizers(model, config)
#     for step in range(config.steps):
#         x, y = get_batch(ids, config.batch_size, model.config.block_size)
#         loss = backward(model, x, y)
#         nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
#         optimizer_step(optimizers, learning_rate_at(step, config))
# ---------------------------------------------------------------------------------------------------------------------


def require_window(ids: Tensor, length: int, which: str) -> None:
    """Raise ValueError unless ids (N,) hold a window of `length` tokens and the target of its last one."""
    require(
        len(ids) > length,
        f"the {which} text has {len(ids)} tokens: a window of {length} needs at least {length + 1} (its targets are "
        f"one further). Use a longer text or a smaller block_size",
    )


def get_batch(ids: Tensor, batch_size: int, seq_len: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Cut windows out of ids (N,) at random positions.

    Return x (B, T) and y (B, T), the same windows one token later: y[:, t] follows x[:, t].
    """
    require_window(ids, seq_len, "given")
    start = torch.randint(len(ids) - seq_len, (batch_size,), generator=generator)  # (B,)
    window = ids[start[:, None] + torch.arange(seq_len + 1)]  # (B, T+1)
    return window[:, :-1], window[:, 1:]


def backward(
    net: nn.Module, x: Tensor, y: Tensor, micro_batches: int = 1, bf16: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """Add the gradients of the batch x, y (B, T) to `net`, one micro-batch after the other. Return the mean loss in nats.

    With `bf16` the matrix products run in bfloat16. Under DistributedDataParallel, x and y are the rows of this process.
    ValueError if the rows cannot be split into equal micro-batches.
    """
    require(len(x) % micro_batches == 0, f"{len(x)} rows cannot be split into {micro_batches} equal micro-batches")
    device = next(net.parameters()).device
    x, y, loss = x.to(device), y.to(device), torch.zeros((), device=device)
    for i, (part_x, part_y) in enumerate(zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True)):
        last = i == micro_batches - 1
        # DDP, step 4: processes exchange gradients once a step, with the last micro-batch
        with contextlib.nullcontext() if last else getattr(net, "no_sync", contextlib.nullcontext)():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = net(part_x)  # (B / micro_batches, T, V)
            part = cross_entropy(logits, part_y, label_smoothing) / micro_batches  # so that the sum is the mean of the batch
            part.backward()
        loss += part.detach()
    return loss


def orthogonal(matrices: Tensor) -> Tensor:
    """Return about the nearest matrices whose singular values are all 1. (n, rows, columns) -> the same shape

    Five steps of a Newton-Schulz iteration: a polynomial in X Xᵀ brings each singular value that is not tiny (above about
    a hundredth of the norm) to between 0.7 and 1.2, with matrix products only; those near zero stay small. The three
    coefficients are Jordan's.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # now no singular value is above 1
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made nearly orthogonal: the large directions of a matrix move by about the same (Jordan 2024).

    For the matrices inside the blocks only. A group's `stack` is the number of matrices that one weight holds above each
    other (c_attn: query, key and value, 3). The averages stay in float32, and so do the products unless the caller asks for
    autocast; torch.optim.Muon always takes bfloat16, which is slow where the hardware does not multiply it.
    """

    def __init__(self, groups, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, stack=1))

    @torch.no_grad()
    def step(self, closure=None):
        require(closure is None, "Muon takes no closure: compute the gradients before step()")
        for group in self.param_groups:  # all weights of a group have one shape, so their products run in one call
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = []
            for weight in weights:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                updates.append(weight.grad.lerp(momentum, group["momentum"]))  # Nesterov: where the average is going
            rows, columns = weights[0].shape[0] // group["stack"], weights[0].shape[1]
            steps = orthogonal(torch.stack(updates).view(-1, rows, columns))  # (weights · stack, rows, columns)
            steps = steps * max(1, rows / columns) ** 0.5  # Jordan's scale: a tall matrix has fewer directions than rows
            for weight, step in zip(weights, steps.view(len(weights), *weights[0].shape), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])


def make_optimizers(model: GPT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return [AdamW] or [AdamW, Muon] for the parameters of `model`.

    Weight decay pulls on the matrices of linear layers only, unless config.decay is "all". A bias or a norm's scale has
    nothing to gain from being small; that embeddings are left alone too, tied to the head or not, is a choice: nanoGPT
    decays them.
    """
    named = dict(model.named_parameters())  # a tied head is in it once, as wte
    matrices = {name: p for name, p in named.items() if p.dim() == 2 and not name.startswith(("wte", "wpe"))}
    for_muon = {name: p for name, p in matrices.items() if name.startswith("h.") and config.optimizer == "muon"}
    others = config.weight_decay if config.decay == "all" else 0.0
    groups = [
        {"params": [p for name, p in matrices.items() if name not in for_muon], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named.items() if name not in matrices], "weight_decay": others},
    ]
    betas = (config.beta1, config.beta2)
    fused = model.wte.weight.device.type in ("cpu", "cuda")  # one kernel for all parameters
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], config.learning_rate, betas, fused=fused)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if for_muon:
        by_shape: dict[tuple, dict] = {}  # weights of one shape are computed together
        for name, p in for_muon.items():
            stack = stacked_matrices(name, p, model.config)
            by_shape.setdefault((p.shape, stack), {"params": [], "stack": stack})["params"].append(p)
        optimizers.append(Muon(list(by_shape.values()), config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def stacked_matrices(name: str, weight: Tensor, config: ModelConfig) -> int:
    """Return how many matrices of equal size a block's weight (rows, columns) holds above each other, for Muon."""
    if name.endswith("c_attn.weight"):  # query, key, value; with grouped queries the query is cut into groups
        return weight.shape[0] // (config.n_embd // config.n_head * (config.n_kv_head or config.n_head))
    return 2 if name.endswith("c_fc.weight") and config.activation == "swiglu" else 1


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0, 1, … as a fraction of its peak: warm-up, constant, then the decay."""
    if step < config.warmup_steps:  # 1. warm-up: the first step has a small rate, not none
        return (step + 1) / config.warmup_steps
    start = max(config.warmup_steps, round(config.steps * (1 - config.decay_fraction)))
    if config.schedule == "constant" or step < start:  # 2. the peak
        return 1.0
    done = min(1.0, (step - start) / max(1, config.steps - 1 - start))  # 3. decay: 0 at its first step, 1 at the last
    fall = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * fall


def optimizer_step(optimizers: list[torch.optim.Optimizer], lr_fraction: float, bf16: bool = False) -> None:
    """Update the parameters at this fraction of the peak learning rates, then clear the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_fraction
        device = optimizer.param_groups[0]["params"][0].device.type
        with torch.autocast(device, torch.bfloat16, enabled=bf16):  # Muon's matrix products
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def side_by_side(model: GPT, ids: Tensor, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut ids (N,) into windows of block_size, side by side. Yield x and y, (B, T) each: every token but the first is in a y.

    Without a `batch_size`, 64 windows at a time, or fewer, so that their logits stay below 2^26 numbers: one window of GPT-2
    has 51 million. The last batch is one window, of what is left. Raise ValueError if there is nothing to predict.
    """
    T, device = model.config.block_size, model.wte.weight.device
    batch_size = batch_size or max(1, min(64, 2**26 // (T * model.config.vocab_size)))
    require(len(ids) > 1, f"a text of {len(ids)} tokens has nothing to predict")
    whole = (len(ids) - 1) // T * T
    for x, y in zip(ids[:whole].split(batch_size * T), ids[1 : whole + 1].split(batch_size * T), strict=True):
        if len(x):
            yield x.view(-1, T).to(device), y.view(-1, T).to(device)
    if whole < len(ids) - 1:
        yield ids[whole:-1][None].to(device), ids[whole + 1 :][None].to(device)


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor, batch_size: int | None = None, temperature: float = 1.0) -> float:
    """Return the mean loss over the whole of ids (N,) in nats per token: windows side by side, no sampling, no dropout.

    With a `temperature` it is the loss of the logits divided by it. The model's mode is left as it was. Raise ValueError if
    there is nothing to predict.
    """
    with evaluation_mode(model):
        batches = side_by_side(model, ids, batch_size)
        total = sum(cross_entropy(model(x) / temperature, y).item() * y.numel() for x, y in batches)
    return total / (len(ids) - 1)


@torch.no_grad()
def calibration_temperature(model: GPT, ids: Tensor) -> float:
    """Return the temperature at which `evaluate` gives its lowest loss on ids (N,), to three digits.

    It is 1 for a model that is as sure as it is right; above 1, the model is overconfident (Guo 2017, arXiv 1706.04599). The
    ids must be text that it was not trained on. The loss is convex in 1 / temperature, so Newton's steps find the minimum:
    its slope is the mean of E[z] - z[target] over the positions, its curvature that of Var[z], with the logits z drawn by
    the model's own probabilities.
    """
    inverse = 1.0
    with evaluation_mode(model):
        for _ in range(5):
            slope = curvature = 0.0
            for x, y in side_by_side(model, ids):
                z = model(x).float()  # (B, T, V)
                p = (z * inverse).softmax(dim=-1)
                mean = (p * z).sum(dim=-1, keepdim=True)  # (B, T, 1)
                slope += (mean - z.gather(2, y[:, :, None])).sum().item()
                curvature += (p * (z - mean) ** 2).sum().item()
            require(curvature > 0, "the logits are all the same: no temperature changes the loss")
            inverse = min(max(inverse - slope / curvature, inverse / 2), inverse * 2)
    return round(1 / inverse, 3)


# ---------------------------------------------------------------------------------------------------------------------
# 4. Sampling: a ladder of small functions
# ---------------------------------------------------------------------------------------------------------------------


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k highest logits to -inf; ties with the k-th are kept. (..., V) -> (..., V)"""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., [-1]]  # (..., 1)
    return logits.masked_fill(logits < kth, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities add up to p; the rest becomes -inf. (..., V) -> (..., V)"""
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    drop = probs.cumsum(dim=-1) - probs >= p  # those before this one add up to p already
    drop[..., 0] = False  # the likeliest always stays
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


def next_token_probs(logits: Tensor, settings: SampleConfig) -> Tensor:
    """Turn logits into probabilities: temperature, top-k, top-p, softmax, in this order. (..., V) -> (..., V)"""
    logits = logits.float()  # sums of 50,000 probabilities need more digits than bfloat16 has
    if settings.temperature == 0:  # greedy: all on the likeliest, the first of equals
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / settings.temperature  # at most 0: no overflow when tiny
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    return logits.softmax(dim=-1)


def sample_token(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one id per row. (B, V) -> (B, 1)"""
    return torch.multinomial(probs, 1, generator=generator)


def require_prompt(model: GPT, ids: Tensor) -> None:
    """Raise ValueError unless ids are (B, T), not empty, and inside the model's vocabulary."""
    require(isinstance(ids, Tensor), f"ids are a {type(ids).__name__}: give a tensor (B, T), like torch.tensor([ids])")
    require(ids.dim() == 2 and ids.shape[1] > 0, f"ids has shape {tuple(ids.shape)}: give (B, T) with T of at least 1")
    V = model.config.vocab_size
    outside = ids[(ids < 0) | (ids >= V)]
    require(outside.numel() == 0, f"id {outside[0] if len(outside) else 0} is not between 0 and {V - 1}")


def generate(model: GPT, ids: Tensor, settings: SampleConfig, use_cache: bool = True) -> Tensor:
    """Continue each row of ids (B, T) by max_new_tokens. Return (B, T + max_new_tokens).

    The model sees at most the last block_size tokens. Keys and values are kept while everything fits into the block. After
    that the window slides: every token gets another position, nothing in the cache is right any more, and each step
    computes its whole window again. The model's mode is left as it was; the process keeps freed memory from then on (see
    keep_freed_memory). Raise ValueError for an empty prompt or an id outside the vocabulary.
    """
    require_prompt(model, ids)
    keep_freed_memory()
    block, weight = model.config.block_size, model.lm_head.weight
    generator = None if settings.seed is None else torch.Generator(weight.device).manual_seed(settings.seed)
    ids = ids.to(weight.device)
    with evaluation_mode(model), torch.inference_mode():
        use_cache = use_cache and model.config.causal
        cache = KVCache(model.config, len(ids), weight.device, weight.dtype) if use_cache else None
        for _ in range(settings.max_new_tokens):
            if cache is not None and ids.shape[1] <= block:  # read only what the cache does not hold
                logits = model(ids[:, cache.length :], last_only=True, cache=cache)[:, -1]  # (B, V)
            else:  # read the last block_size tokens
                logits = model(ids[:, -block:], last_only=True)[:, -1]  # (B, V)
            token = sample_token(next_token_probs(logits, settings), generator)  # (B, 1)
            ids = torch.cat([ids, token], dim=1)
    return ids.clone()  # an ordinary tensor, not one of inference mode


def accept_draft(
    tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator | None = None
) -> tuple[int, Tensor]:
    """Decide how many of the drafted tokens (n,) stay. Return that number and the token (1, 1) that follows them.

    draft_probs (n, V) and target_probs (n + 1, V) are what the two models gave at each drafted token, the target also after
    the last. Token x is accepted with probability min(1, target(x) / draft(x)). The first that is not is drawn again from
    max(0, target - draft); if all are accepted, one more comes from the target. So each token is distributed exactly as
    the target's own (Leviathan 2022, appendix A.1).
    """
    for i, token in enumerate(tokens.tolist()):
        if torch.rand((), generator=generator, device=draft_probs.device) * draft_probs[i, token] >= target_probs[i, token]:
            rest = (target_probs[i] - draft_probs[i]).clamp(min=0)  # (V,)
            rest = rest if rest.any() else target_probs[i]  # the two are equal but for rounding
            return i, sample_token(rest[None] / rest.sum(), generator)
    return len(tokens), sample_token(target_probs[-1:], generator)


class Speculation(NamedTuple):
    """What generate_speculative returns: ids (1, T + max_new_tokens) and, for each round, drafted and accepted tokens."""

    ids: Tensor
    rounds: list[tuple[int, int]]


def generate_speculative(target: GPT, draft: GPT, ids: Tensor, settings: SampleConfig, gamma: int = 4) -> Speculation:
    """Continue ids (1, T) with `target`'s own distribution, in fewer of its steps: `draft` proposes, `target` checks.

    Each round the draft writes up to `gamma` tokens, the target reads all of them in one step, and `accept_draft` decides how
    many stay. The result is distributed as the target's own samples; greedy, it is the same text. When the text outgrows the
    block of either model, every position shifts with each token, several cannot be checked at once, and the target goes on
    alone. Raise ValueError for more than one row, another vocabulary, or a model without a causal mask.
    """
    require_prompt(target, ids)
    keep_freed_memory()
    require(len(ids) == 1, f"ids has {len(ids)} rows: speculative decoding takes one here, since rows would get out of step")
    require(isinstance(gamma, int) and gamma >= 1, f"gamma={gamma!r} must be a whole number of at least 1")
    same = draft.config.vocab_size == target.config.vocab_size
    require(same, f"draft and target have vocab_size={draft.config.vocab_size} and {target.config.vocab_size}")
    require(target.config.causal and draft.config.causal, "both models must be causal")
    device, block = target.lm_head.weight.device, min(target.config.block_size, draft.config.block_size)
    generator = None if settings.seed is None else torch.Generator(device).manual_seed(settings.seed)
    ids, end, rounds = ids.to(device), ids.shape[1] + settings.max_new_tokens, []
    dtype = target.lm_head.weight.dtype
    target_cache, draft_cache = (KVCache(model.config, 1, device, dtype) for model in (target, draft))

    def probs(model: GPT, cache: KVCache, ids: Tensor, last: int) -> Tensor:
        """Return the model's probabilities for what follows each of the last positions, (last, V)."""
        return next_token_probs(model(ids[:, cache.length :], cache=cache)[0, -last:], settings)

    with evaluation_mode(target, draft), torch.inference_mode():
        while ids.shape[1] < end:
            here = ids.shape[1]
            n = min(gamma, end - here - 1, block - here)  # the target must be able to read all of them
            if n < 1:
                break
            draft_probs = []  # (V,) each
            for _ in range(n):
                draft_probs.append(probs(draft, draft_cache, ids, 1)[0])
                ids = torch.cat([ids, sample_token(draft_probs[-1][None], generator)], dim=1)
            target_probs = probs(target, target_cache, ids, n + 1)  # (n + 1, V): at each drafted token, and after the last
            accepted, token = accept_draft(ids[0, here:], torch.stack(draft_probs), target_probs, generator)
            ids = torch.cat([ids[:, : here + accepted], token], dim=1)
            for cache in (target_cache, draft_cache):
                cache.length = min(cache.length, here + accepted)  # forget the rejected ones
            rounds.append((n, accepted))
    left = dataclasses.replace(settings, max_new_tokens=end - ids.shape[1])
    if left.max_new_tokens:
        if settings.seed is not None:  # another stream of random numbers than the one used up to here
            left = dataclasses.replace(left, seed=(settings.seed + 1) * 1_000_003 % 2**63)
        ids = generate(target, ids, left)
    return Speculation(ids.clone(), rounds)


# ---------------------------------------------------------------------------------------------------------------------
# 5. Faster on a CPU, the same mathematics. Nothing here changes what a GPT is.
# ---------------------------------------------------------------------------------------------------------------------


ONEDNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")  # not on ARM: see Linear


class Linear(nn.Linear):
    """nn.Linear, which trains in float32 on an x86 CPU as a convolution whose kernel covers one position.

    That is the same sum of products, but PyTorch gives a convolution to oneDNN and a matrix product to MKL. On an AMD
    processor MKL leaves half of each vector register unused (AVX2 where there is AVX-512), and oneDNN does not. On ARM
    there is no MKL to go around, and a convolution may be slow: there it stays a matrix product.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, T, in) -> (B, T, out)
        training = ONEDNN and torch.is_grad_enabled() and x.dim() == 3 and x.is_cpu and x.dtype == torch.float32
        if not training or torch.is_autocast_enabled("cpu"):  # oneDNN multiplies bfloat16 anyway
            return super().forward(x)
        image = x[:, :, None].permute(0, 3, 1, 2)  # (B, in, T, 1): nothing moves, features stay next to each other
        y = F.conv2d(image, self.weight[:, :, None, None], self.bias)  # (B, out, T, 1)
        return y.permute(0, 2, 3, 1).squeeze(2)  # (B, T, out)


class Dropout(nn.Dropout):
    """nn.Dropout, which on a CPU draws its mask from random bytes, eight to a random number.

    PyTorch draws a number for every element, one after the other; here one number of 64 bits serves eight. A byte has 256
    values, so p is rounded to the nearest 1/256: below 1/512 nothing is dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        drop = round(256 * self.p)
        if drop == 256:
            return x * 0
        numbers = torch.empty(math.ceil(x.numel() / 8), dtype=torch.int64).random_(-(2**63), None)
        keep = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= drop
        return x * (keep * (256 / (256 - drop))).to(x.dtype)


def bfloat16_attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Compute `attend` in bfloat16 on a CPU, where the backward pass of the fused kernel is the slower one.

    q (B, nh, T, hs), k and v (B, nh, past + T, hs) -> (B, nh, T, hs). The mask is one (T, past + T) table that is added,
    which is cheaper than filling all (B, nh, T, past + T) scores.
    """
    T, past = q.shape[2], k.shape[2] - q.shape[2]
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)  # (B, nh, T, hs) @ (B, nh, hs, past + T)
    if causal:
        scores = scores + torch.zeros_like(scores[0, 0]).masked_fill(~causal_mask(T, q.device, past), float("-inf"))
    with torch.autocast(q.device.type, enabled=False):  # or it would make float32 of all (B, nh, T, past + T) weights
        weights = F.dropout(scores.softmax(dim=-1), dropout)
    return weights @ v  # (B, nh, T, past + T) @ (B, nh, past + T, hs) -> (B, nh, T, hs)


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep the memory that tensors give back, so that the next step finds it warm. Return whether it agreed.

    A training step on a CPU allocates and frees the same few hundred megabytes each time. By default glibc returns
    every large block to the kernel and asks for it again, and the kernel clears each page on its first touch: a
    large part of a step goes into page faults. Three settings stop that: never serve a large block by mmap, never
    shrink the heap, grow it in large pieces. Only Linux with glibc has them; elsewhere nothing happens.
    The numbers are from malloc.h: M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_MAX -4.

    Then two gigabytes are asked for, marked, and given back. They take no memory until something writes to them, and the
    mark lets the kernel hand them out in pages of 2 MB instead of 4 kB: the processor looks up 512 times fewer addresses.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    agreed = all(libc.mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, -1), (-2, 256 * 2**20)))
    size, huge_page, MADV_HUGEPAGE = 2**31, 2**21, 14
    libc.malloc.restype = ctypes.c_void_p
    if block := libc.malloc(ctypes.c_size_t(size)):  # None where so much is not allowed
        start = -(-block // huge_page) * huge_page  # the first page that begins in the block
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size - huge_page), MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(block))
    return agreed
