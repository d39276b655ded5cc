"""PicoGPT: a small GPT, its training and its sampling, in one file to be read from top to bottom.

    python picogpt_core.py train  --preset picogpt --out out/first --seconds 90
    python picogpt_core.py finetune --init-from gpt2 --out out/gpt2
    python picogpt_core.py sample --checkpoint out/first --prompt "Before we proceed any further"
    python picogpt_core.py eval   --checkpoint out/first
    python picogpt_core.py params --preset picogpt
    torchrun --standalone --nproc-per-node=2 picogpt_core.py train --out out/two      # several processes or GPUs (DDP)

Sections
    1. Model           KVCache, CausalSelfAttention, MLP, Block, GPT
    2. Training        evaluate, checkpoints, train
    3. Sampling        logits -> probabilities -> one token -> generate -> generate_speculative
    4. GPT-2           from_pretrained, save_pretrained, crop_block_size
    5. Pictures        attention, loss curves
Under it: picogpt.machine.py (machine, files), picogpt_settings.py (ModelConfig, TrainConfig, SampleConfig, PRESETS),
picogpt.tokenizer.py (the text's download, tokenizers, windows), picogpt_optim.py (Muon, parameter groups, learning rate),
picogpt.gpt2.py (GPT-2's files). Over it: picogpt.cli.py (the command line).

Axes, in the comments on shapes
    B  rows of a batch          T   positions in a window (at most block_size)
    C  n_embd, the width        nh  n_head, the number of heads
    V  vocab_size               hs  C / nh, the width of a head

Sources
    GPT-2 (names, initialisation, Pre-LN): Radford et al. 2019, https://github.com/openai/gpt-2
    nanoGPT (a training script to be measured against): https://github.com/karpathy/nanoGPT
    Attention: Vaswani et al. 2017, arXiv 1706.03762
    Nucleus (top-p) sampling: Holtzman et al. 2019, arXiv 1904.09751
    Speculative decoding: Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318

Importing this file prints nothing, downloads nothing and seeds nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from picogpt.gpt2 import pretrained_tokenizer, read_pretrained, write_pretrained  # noqa: F401
from picogpt.machine import (  # noqa: F401 (some are for the lessons, which find everything here)
    DATA,
    ROOT,
    budget,
    check_writable,
    final_losses,
    has_fast_bfloat16,
    hold_interrupt,
    keep_freed_memory,
    load_rows,
    machine,
    matmul_flops,
    pick_device,
    read_nanogpt_log,
    require,
    save_rows,
    write_beside,
)
from picogpt.tokenizer import (  # noqa: F401
    SHAKESPEARE,
    SHAKESPEARE_SHA256,
    BpeTokenizer,
    CharTokenizer,
    Corpus,
    Tokenizer,
    bits_per_byte,
    corpus,
    get_batch,
    gpt2_tokenizer,
    learn_bpe,
    load_shakespeare,
    require_window,
    split,
    tokenizer_from,
)
from picogpt_optim import Muon, learning_rate_at, make_optimizers, orthogonal  # noqa: F401
from picogpt_settings import FINETUNE, PRESETS, ModelConfig, SampleConfig, TrainConfig, preset  # noqa: F401

# ---------------------------------------------------------------------------------------------------------------------
# 1. Model, from leaf to root. Names are GPT-2's, so that published weights load by name.
# ---------------------------------------------------------------------------------------------------------------------


# "gelu" is exact, "gelu_tanh" the approximation that GPT-2's weights were trained with
ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": functools.partial(F.gelu, approximate="tanh"), "relu": F.relu}


def causal_mask(T: int, device=None, past: int = 0) -> Tensor:
    """(T, past + T) booleans, True where the row's position may look at the column's: itself and what came before."""
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past)


class Dropout(nn.Dropout):
    """nn.Dropout, which on a CPU draws its mask from random bytes, eight to a random number.

    PyTorch draws a number for every element, one after the other: that was a fifth of a training step. A byte has 256
    values, so p is rounded to the nearest 1/256.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        drop = round(256 * self.p)
        words = torch.empty(math.ceil(x.numel() / 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= drop
        return x * (keep * (256 / (256 - drop)))


class KVCache:
    """Keys and values of the positions a model has read, so that it need not compute them again: (L, B, nh, block_size, hs).

    `length` positions are there. To forget the last ones, make it smaller: what lies behind is overwritten.
    """

    def __init__(self, config: ModelConfig, batch_size: int = 1, like: Tensor | None = None):
        hs = config.n_embd // config.n_head
        shape = (config.n_layer, batch_size, config.n_head, config.block_size, hs)
        kind = {} if like is None else dict(device=like.device, dtype=like.dtype)
        self.k, self.v, self.length = torch.zeros(shape, **kind), torch.zeros(shape, **kind), 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put k, v (B, nh, T, hs) behind what is there; returns all of it, (B, nh, length + T, hs) each."""
        end = self.length + k.shape[2]
        self.k[layer, :, :, self.length : end] = k
        self.v[layer, :, :, self.length : end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


class CausalSelfAttention(nn.Module):
    """Every position gathers from the positions before it: softmax(Q Kᵀ / √hs) V, in nh heads side by side."""

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.config, self.layer = config, layer
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)  # query, key, value in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = Dropout(config.resid_dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        nh, hs = self.config.n_head, C // self.config.n_head
        q, k, v = self.c_attn(x).split(C, dim=2)  # 3 x (B, T, C)
        q, k, v = (z.view(B, T, nh, hs).transpose(1, 2) for z in (q, k, v))  # 3 x (B, nh, T, hs)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # 2 x (B, nh, past + T, hs)
            mask = None if T == 1 else causal_mask(T, x.device, past=cache.length)  # one new position may see all
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, nh, T, hs)
            return self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        dropout = self.config.attn_dropout if self.training else 0.0
        slow = x.device.type == "cpu" and q.dtype == torch.bfloat16  # there the fused one's backward pass is the slower
        if self.config.attention == "sdpa" and not slow:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.config.causal)
        else:
            scores = q / math.sqrt(hs) @ k.transpose(-2, -1)  # (B, nh, T, hs) @ (B, nh, hs, T) -> (B, nh, T, T)
            if self.config.causal:  # exp(-inf) is 0: no weight on the future
                scores = scores + torch.zeros_like(scores[0, 0]).masked_fill(~causal_mask(T, x.device), float("-inf"))
            with torch.autocast(x.device.type, enabled=False):  # or it would make float32 of all (B, nh, T, T) weights
                weights = F.dropout(scores.softmax(dim=-1), dropout)
            y = weights @ v  # (B, nh, T, T) @ (B, nh, T, hs) -> (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Every position by itself: widen four times, bend, narrow."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.resid_dropout = Dropout(config.resid_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.resid_dropout(self.c_proj(self.activation(self.c_fc(x))))  # (B, T, 4C) inside


class Block(nn.Module):
    """Attention, then MLP, each added to what came in (the residual stream)."""

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.pre = config.norm == "pre"
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        if self.pre:
            x = x + self.attn(self.ln_1(x), cache)
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x, cache))
        return self.ln_2(x + self.mlp(x))


class GPT(nn.Module):
    """Token ids to logits for the next token.

    Initialisation (GPT-2's)
        linear and embedding weights   normal, σ = 0.02
        c_proj weights                 normal, σ = 0.02 / √(2 n_layer): 2 n_layer branches add up in the stream
        biases                         0
        LayerNorm weights              1
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.embd_dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias) if config.final_norm else nn.Identity()
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, idx: Tensor, last_only: bool = False, cache: KVCache | None = None) -> Tensor:
        """idx (B, T) of ids -> logits (B, T, V), or (B, 1, V) with `last_only`: all that generation needs.

        With a `cache`, idx are the T tokens that follow those in the cache, and join them.
        """
        T, past = idx.shape[1], 0 if cache is None else cache.length
        after = f" after {past} in the cache" if past else ""
        require(
            1 <= T <= self.config.block_size - past,
            f"a window of {T} tokens{after}: this model takes 1 to block_size={self.config.block_size}",
        )
        require(
            cache is None or (self.config.causal and not self.training),
            "a cache serves a causal model in evaluation mode: call model.eval()",
        )
        idx = idx.to(self.wte.weight.device)  # after a training on a GPU the model is there, and the text is not
        position = torch.arange(past, past + T, device=idx.device)  # (T,)
        x = self.drop(self.wte(idx) + self.wpe(position))  # (B, T, C) + (T, C) -> (B, T, C)
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += T
        x = self.ln_f(x)
        if last_only:
            x = x[:, [-1], :]  # (B, 1, C): a list as index keeps the axis
        return self.lm_head(x)  # (B, T, V)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log p(target), in nats a token. logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().to(logits.device))  # (B·T, V), (B·T,)


def count_parameters(model: nn.Module) -> int:
    """Numbers the model learns. A tied matrix counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(config: ModelConfig, T: int | None = None) -> int:
    """Floating-point operations to train on one token, forward and backward, in windows of T (None: block_size).

    6 for each parameter (2 forward, 4 backward; positions are only added, so they do not count), and 12 n_layer C T for
    the attention of each token. Chowdhery et al. 2022, arXiv 2204.02311, appendix B, as nanoGPT counts.
    """
    with torch.device("meta"):  # shapes without memory
        counted = count_parameters(GPT(config)) - config.block_size * config.n_embd
    return 6 * counted + 12 * config.n_layer * config.n_embd * (T or config.block_size)


def parameter_table(model: nn.Module) -> str:
    """A line for every parameter: name, shape, size; and the sum."""
    rows = [(name, " x ".join(map(str, p.shape)), f"{p.numel():,}") for name, p in model.named_parameters()]
    rows.append(("sum", "", f"{count_parameters(model):,}"))
    return "\n".join(f"{name:24}{shape:>14}{size:>14}" for name, shape, size in rows)


# ---------------------------------------------------------------------------------------------------------------------
# 2. Training
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor, batch_size: int | None = None) -> float:
    """Mean loss over the whole of `ids`, in nats a token: windows of block_size side by side, no sampling, no dropout.

    Every token but the first is predicted once. The model's mode is left as it was. Without a `batch_size`, 64 windows at a
    time, or fewer, so that their logits stay below 2^26 numbers: one window of GPT-2 has 51 million.
    """
    T = model.config.block_size
    batch_size = batch_size or max(1, min(64, 2**26 // (T * model.config.vocab_size)))
    require(len(ids) > 1, f"a text of {len(ids)} tokens has nothing to predict")
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    whole = (len(ids) - 1) // T * T
    x, y = ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)  # (n, T) each
    pieces = list(zip(x.split(batch_size), y.split(batch_size), strict=True)) if whole else []
    if whole < len(ids) - 1:  # the rest, shorter than a window
        pieces.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    total = 0.0
    for x, y in pieces:
        total += cross_entropy(model(x.to(device)), y.to(device)).item() * y.numel()
    model.train(was_training)
    return total / (len(ids) - 1)


@dataclass
class Run:
    """A training: its settings and what was measured on the way.

    A row of the history: step, tokens (so far), train_loss (mean since the row before, in nats a token, with dropout),
    val_loss (the whole validation set; None where it was not measured), learning_rate, grad_norm (before clipping),
    seconds (training alone, without evaluation and saving).
    """

    model: ModelConfig
    train: TrainConfig
    history: list[dict] = field(default_factory=list)
    machine: str = field(default_factory=machine)

    @property
    def val_losses(self) -> list[tuple[int, float]]:
        """(step, full validation loss) where it was measured."""
        return [(row["step"], row["val_loss"]) for row in self.history if row["val_loss"] is not None]

    def save(self, path: Path) -> None:
        """The history as `path` (.csv) and the settings beside it (.json)."""
        save_rows(path, self.history)
        settings = {"machine": self.machine, "model": dataclasses.asdict(self.model)}
        with write_beside(path.with_suffix(".json")) as beside:
            beside.write_text(json.dumps(settings | {"train": dataclasses.asdict(self.train)}, indent=1) + "\n")


def save_checkpoint(path: Path, model: GPT, tokenizer: Tokenizer, tensors: dict[str, Tensor] | None = None, **about) -> None:
    """Weights, tokenizer and `about` (anything JSON can hold) in one safetensors file. OSError if the disk is full.

    No pickle: opening such a file runs nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tied_head:
        del weights["model.lm_head.weight"]  # the same memory as wte
    header = {"model": dataclasses.asdict(model.config), **tokenizer.saved, **about}
    try:
        with write_beside(path) as beside:
            save_file(weights | (tensors or {}), beside, metadata={"picogpt": json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}. What was there before is untouched") from None


class Checkpoint(NamedTuple):
    """A trained model as it was saved."""

    model: GPT
    tokenizer: Tokenizer
    about: dict  # step, val_loss, train (settings), history …
    tensors: dict[str, Tensor]  # what resuming needs beside the weights


def load_checkpoint(path: Path | str, device: str = "cpu") -> Checkpoint:
    """Open a checkpoint file, or the best one of a training folder. The model comes in eval mode, in float32.

    ValueError if the file is missing, cut short, or no PicoGPT checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        path = next(
            (p for p in (path / "best.safetensors", path / "last.safetensors") if p.exists()), path / "best.safetensors"
        )
    require(path.is_file(), f"there is no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("picogpt")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: it is cut short or something else ({error})") from None
    require(header is not None, f"{path} is a safetensors file, but not one of PicoGPT's: it has no 'picogpt' header")
    try:
        about = json.loads(header)
        model = GPT(ModelConfig(**about.pop("model")))
        tokenizer = tokenizer_from(about)
        weights = {name[6:]: tensors.pop(name).float() for name in list(tensors) if name.startswith("model.")}
        if model.config.tied_head:
            weights["lm_head.weight"] = weights["wte.weight"]
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: header and weights do not make a PicoGPT model: {error}") from None
    known, V = tokenizer.vocab_size, model.config.vocab_size
    require(known == V, f"{path}: its tokenizer knows {known} {tokenizer.unit}s, its model {V}")
    return Checkpoint(model.to(pick_device(device)).eval(), tokenizer, about, tensors)


def shipped(name: str) -> Checkpoint:
    """A trained model of data/checkpoints: "picogpt", "picogpt-6layer" or "draft"."""
    return load_checkpoint(DATA / "checkpoints" / f"{name}.safetensors")


def world() -> tuple[int, int]:
    """(rank, number) of the processes that train together: (0, 1) unless torchrun started several."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gradients(net: nn.Module, x: Tensor, y: Tensor, pieces: int = 1, bf16: bool = False) -> Tensor:
    """Backward through a batch x, y (B, T), in `pieces` to save memory. Returns the mean loss; the gradients add up in net.

    With several processes each takes its share of every piece; DDP averages their gradients in the last piece only.
    """
    (rank, number), device = world(), x.device.type
    rows, loss = len(x) // (pieces * number), torch.zeros((), device=x.device)
    for piece in range(pieces):
        mine = slice((piece * number + rank) * rows, (piece * number + rank + 1) * rows)
        last = piece == pieces - 1
        with contextlib.nullcontext() if number == 1 or last else net.no_sync():  # DDP, step 4: talk once a step
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                logits = net(x[mine])
            part = cross_entropy(logits, y[mine]) / pieces  # so that the sum is the batch's mean
            part.backward()
        loss += part.detach()
    return loss


def placement(config: TrainConfig) -> tuple[torch.device, bool]:
    """Where `train` computes, and whether its matrix products are in bfloat16."""
    device = pick_device(config.device)
    return device, config.dtype == "bfloat16" or (config.dtype == "auto" and has_fast_bfloat16(device))


def how_it_trains(config: TrainConfig) -> str:
    """Device, number format and compilation in a few words, like "cuda:0, bfloat16, not compiled"."""
    device, bf16 = placement(config)
    return f"{device}, {'bfloat16' if bf16 else 'float32'}, {'' if config.compile else 'not '}compiled"


def train(
    model: GPT,
    text: Corpus,
    config: TrainConfig,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
    on_row: Callable[[dict, GPT], None] | None = None,
) -> Run:
    """Train `model` in place on `text` and return what was measured.

    With a folder `out`: last.safetensors (everything, to continue from) and best.safetensors (lowest validation loss)
    at every evaluation, and history.csv. `resume=True` continues the run in `out` as if it had never stopped, bit by
    bit: weights, optimizer, random numbers and history are all restored. `on_row(row, model)` is called with each new
    row of the history: to log it elsewhere, or to look at the model.

    ValueError before any work for settings that cannot be; FloatingPointError if the loss stops being a number;
    KeyboardInterrupt after Ctrl-C, when all is saved.
    """
    keep_freed_memory()
    T = config.seq_len or model.config.block_size
    require(model.config.block_size >= T, f"seq_len={T} is longer than the model's block_size={model.config.block_size}")
    require(
        text.tokenizer.vocab_size == model.config.vocab_size,
        f"the text has {text.tokenizer.vocab_size} different tokens, the model vocab_size={model.config.vocab_size}",
    )
    require_window(text.train, T, "training")
    require(len(text.val) > 1, f"the validation text has {len(text.val)} tokens: nothing to predict")
    device, bf16 = placement(config)
    rank, number = world()
    require(
        config.batch_size % (config.grad_accum * number) == 0,
        f"batch_size={config.batch_size} cannot be shared by {number} processes in grad_accum={config.grad_accum} pieces",
    )
    folder = None if out is None else Path(out)
    if folder:
        check_writable(folder)
        there = (folder / "last.safetensors").exists()
        require(resume or not there, f"{folder} holds a training: resume it (--resume) or choose another folder")
        require(there or not resume, f"nothing to resume: there is no {folder / 'last.safetensors'}")
    require(folder is not None or not resume, "resume=True needs the folder `out` of the run to continue")

    model.to(device).train()
    torch.manual_seed(config.seed + rank)  # dropout differs between processes
    draw = torch.Generator().manual_seed(config.seed)  # places of the windows: the same in all processes
    optimizers = make_optimizers(model, config)
    run = Run(model.config, config)
    data = hashlib.sha256(text.train.numpy().tobytes()).hexdigest()[:16]
    pending: list[Tensor] = []  # losses since the last row of the history
    start, seconds = 0, 0.0
    if resume:
        start, seconds = _restore(folder, model, optimizers, draw, run, pending, data)

    def save(step: int, name: str, everything: bool) -> None:
        about = dict(step=step, seconds=seconds, train=dataclasses.asdict(config), history=run.history, data=data)
        about["val_loss"] = run.val_losses[-1][1] if run.val_losses else None
        state = _snapshot(optimizers, draw, pending) if everything else None
        save_checkpoint(folder / name, model, text.tokenizer, state, machine=run.machine, **about)

    from tqdm.auto import tqdm

    net = torch.compile(model) if config.compile else model
    if number > 1:
        net = nn.parallel.DistributedDataParallel(net)  # DDP, step 2: wrap. Step 3: `model` stays the bare one, to save
    hidden = rank > 0 or not progress or bool(os.environ.get("TQDM_DISABLE"))  # tqdm heeds it in terminals only
    bar = tqdm(
        total=config.steps * config.batch_size * T,
        initial=start * config.batch_size * T,
        disable=hidden,
        desc=how_it_trains(config),
        unit=" tokens",
        unit_scale=True,
    )
    with bar, hold_interrupt() as interrupted:
        for step in range(start, config.steps):
            began = time.perf_counter()
            x, y = get_batch(text.train, config.batch_size, T, draw)  # (B, T) each
            x, y = x.to(device), y.to(device)
            pending.append(gradients(net, x, y, config.grad_accum, bf16))
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            scale = learning_rate_at(step, config)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["highest_lr"] * scale
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):  # Muon's matrix products
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done, last = step + 1, step + 1 == config.steps
            evaluates = done % config.eval_every == 0 or last
            if done % config.log_every == 0 or evaluates or interrupted.is_set():
                _require_numbers(pending, done, run, config)
            seconds += time.perf_counter() - began
            if done % config.log_every == 0 or evaluates:
                losses = torch.stack(pending)
                if number > 1:
                    dist.all_reduce(losses)
                row = dict(step=done, tokens=done * config.batch_size * T, train_loss=losses.mean().item() / number)
                row["val_loss"] = evaluate(model, text.val) if evaluates and rank == 0 else None
                row |= dict(learning_rate=config.learning_rate * scale, grad_norm=grad_norm.item(), seconds=seconds)
                run.history.append(row)
                pending.clear()
                if on_row and rank == 0:
                    on_row(row, model)
                shown = f"loss {row['train_loss']:.3f}" + (
                    f", validation {run.val_losses[-1][1]:.3f}" if run.val_losses else ""
                )
                bar.set_postfix_str(shown, refresh=False)
            bar.update(config.batch_size * T)
            if folder and evaluates and rank == 0:
                if run.val_losses[-1][1] == min(value for _, value in run.val_losses):
                    save(done, "best.safetensors", everything=False)
                save(done, "last.safetensors", everything=True)
                run.save(folder / "history.csv")
            if interrupted.is_set() and not last:
                if folder and rank == 0:
                    save(done, "last.safetensors", everything=True)
                where = f"; saved in {folder}, continue with --resume" if folder else ""
                raise KeyboardInterrupt(f"stopped after step {done} of {config.steps}{where}")
    model.eval()
    return run


def _require_numbers(losses: list[Tensor], done: int, run: Run, config: TrainConfig) -> None:
    finite = torch.stack(losses).isfinite()
    if finite.all():
        return
    step = done - len(losses) + int((~finite).nonzero()[0]) + 1
    if step == 1:
        cause = "before any update: the weights it started from already hold inf or NaN"
    else:
        norm = f"the gradient norm was {run.history[-1]['grad_norm']:.3g}" if run.history else "it was a young run"
        cause = (
            f"{norm} before; most likely learning_rate={config.learning_rate:g} is too high for "
            f"warmup_steps={config.warmup_steps} and grad_clip={config.grad_clip:g}"
        )
    raise FloatingPointError(f"the loss is not a number at step {step}: {cause}")


def _snapshot(optimizers, draw: torch.Generator, pending: list[Tensor]) -> dict[str, Tensor]:
    """All that the next step depends on, beside the weights, as named tensors."""
    state = {"random.torch": torch.get_rng_state(), "random.draw": draw.get_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    if pending:
        state["pending"] = torch.stack(pending)
    for i, optimizer in enumerate(optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{j}.{key}": value.clone() for key, value in values.items()}
    return state


def _restore(folder: Path, model: GPT, optimizers, draw, run: Run, pending: list[Tensor], data: str) -> tuple[int, float]:
    """Put back what `_snapshot` and `save_checkpoint` wrote. Returns the steps done and their seconds."""
    saved = load_checkpoint(folder / "last.safetensors")
    for what, ours, theirs in (
        ("model", dataclasses.asdict(model.config), dataclasses.asdict(saved.model.config)),
        ("training", dataclasses.asdict(run.train), saved.about["train"]),
        ("text", {"sha256": data}, {"sha256": saved.about["data"]}),
    ):
        other = [f"{key}={theirs.get(key)!r} (now {ours[key]!r})" for key in ours if ours[key] != theirs.get(key)]
        require(not other, f"the run in {folder} was started with another {what}: {', '.join(other)}")
    model.load_state_dict(saved.model.state_dict())
    tensors = saved.tensors
    torch.set_rng_state(tensors["random.torch"])
    draw.set_state(tensors["random.draw"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    pending.extend(tensors.get("pending", torch.zeros(0)).to(next(model.parameters()).device))
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, key = name.split(".", 3)
                state.setdefault(int(j), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    run.history = saved.about["history"]
    return saved.about["step"], saved.about["seconds"]


# ---------------------------------------------------------------------------------------------------------------------
# 3. Sampling: a ladder of small functions
# ---------------------------------------------------------------------------------------------------------------------


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k highest logits become -inf. What ties with the k-th stays. (..., V) -> (..., V)"""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., [-1]]  # (..., 1)
    return logits.masked_fill(logits < kth, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach p together. (..., V) -> (..., V)"""
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    drop = probs.cumsum(dim=-1) - probs >= p  # enough is there already before this one; the first always stays
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


def next_token_probs(logits: Tensor, config: SampleConfig) -> Tensor:
    """Logits (..., V) of one position to probabilities (..., V): temperature, top-k, top-p, softmax, in this order."""
    if config.temperature == 0:  # greedy: all on the likeliest, the first of equals
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / config.temperature  # at most 0: no overflow when tiny
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    return logits.softmax(dim=-1)


def sample_token(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one id a row. (B, V) -> (B, 1)"""
    return torch.multinomial(probs, 1, generator=generator)


def _require_prompt(model: GPT, idx: Tensor) -> None:
    require(idx.dim() == 2 and idx.shape[1] > 0, f"idx has shape {tuple(idx.shape)}: give (B, T) with T of at least 1")
    V = model.config.vocab_size
    outside = idx[(idx < 0) | (idx >= V)]
    require(outside.numel() == 0, f"id {outside[:1].tolist()} is not between 0 and {V - 1}")


@contextlib.contextmanager
def _writing(*models: GPT):
    """Evaluation mode without gradients; each model's mode is put back."""
    keep_freed_memory()
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def generate(model: GPT, idx: Tensor, config: SampleConfig, use_cache: bool = True) -> Tensor:
    """Continue each row of idx (B, T) by max_new_tokens. Returns (B, T + max_new_tokens).

    The model sees at most the last block_size tokens. Keys and values are kept as long as all fits into the block. After
    that the window slides: every token gets another position, nothing in the cache is true any more, and each step
    computes its window anew. The model's mode is left as it was.
    """
    _require_prompt(model, idx)
    block, weight = model.config.block_size, model.lm_head.weight
    generator = None if config.seed is None else torch.Generator(weight.device).manual_seed(config.seed)
    idx = idx.to(weight.device)
    with _writing(model):
        use_cache = use_cache and model.config.causal
        cache = KVCache(model.config, len(idx), weight) if use_cache else None
        for _ in range(config.max_new_tokens):
            if cache and idx.shape[1] <= block:
                logits = model(idx[:, cache.length :], last_only=True, cache=cache)[:, -1]  # (B, V)
            else:
                logits = model(idx[:, -block:], last_only=True)[:, -1]  # (B, V)
            idx = torch.cat([idx, sample_token(next_token_probs(logits, config), generator)], dim=1)
    return idx.clone()  # a plain tensor, no inference tensor


def accept(drafted: Tensor, guess: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> tuple[int, Tensor]:
    """How many of the drafted tokens (n,) pass, and the token (1, 1) that follows them.

    `guess` (n, V) are the draft's probabilities, `truth` (n + 1, V) the target's. A token x passes with probability
    min(1, truth(x) / guess(x)). The first that does not is drawn again from what the draft left over, max(0, truth - guess);
    if all pass, one more comes from the target. So each token is distributed as the target's (Leviathan 2022, appendix A.1).
    """
    for i, token in enumerate(drafted.tolist()):
        if torch.rand((), generator=generator, device=guess.device) * guess[i, token] >= truth[i, token]:
            rest = (truth[i] - guess[i]).clamp(min=0)  # (V,)
            rest = rest if rest.any() else truth[i]  # the two are equal but for rounding
            return i, sample_token(rest[None] / rest.sum(), generator)
    return len(drafted), sample_token(truth[-1:], generator)


class Speculation(NamedTuple):
    """What generate_speculative did: the ids (1, T + max_new_tokens) and, for each round, drafted and accepted tokens."""

    idx: Tensor
    rounds: list[tuple[int, int]]


def generate_speculative(target: GPT, draft: GPT, idx: Tensor, config: SampleConfig, gamma: int = 4) -> Speculation:
    """Continue idx (1, T) exactly as `target` would, with fewer of its steps: `draft` guesses, `target` checks.

    Each round the draft writes up to `gamma` tokens, and the target looks at all of them in one step; `accept` says how many
    stay. The result is distributed as the target's own samples; greedy, it is the same text. When the text outgrows the block
    of either model, every position shifts with each token, several cannot be checked at once, and the target goes on alone.
    """
    _require_prompt(target, idx)
    require(len(idx) == 1, f"idx has {len(idx)} rows: speculative decoding here takes one, for rows would get out of step")
    require(isinstance(gamma, int) and gamma >= 1, f"gamma={gamma!r} must be a whole number of at least 1")
    same = draft.config.vocab_size == target.config.vocab_size
    require(same, f"draft and target have vocab_size={draft.config.vocab_size} and {target.config.vocab_size}")
    require(target.config.causal and draft.config.causal, "both models must be causal")
    device, block = target.lm_head.weight.device, min(target.config.block_size, draft.config.block_size)
    generator = None if config.seed is None else torch.Generator(device).manual_seed(config.seed)
    idx, end, rounds = idx.to(device), idx.shape[1] + config.max_new_tokens, []
    known, guessed = (KVCache(model.config, 1, model.lm_head.weight) for model in (target, draft))

    def probs(model: GPT, cache: KVCache, idx: Tensor, last: int) -> Tensor:
        """The model's probabilities for what follows each of the last positions, (last, V)."""
        return next_token_probs(model(idx[:, cache.length :], cache=cache)[0, -last:], config)

    with _writing(target, draft):
        while idx.shape[1] < end:
            here = idx.shape[1]
            n = min(gamma, end - here - 1, block - here)  # the target must be able to read all of it
            if n < 1:
                break
            guesses = []  # of the draft's probabilities, (V,) each
            for _ in range(n):
                guesses.append(probs(draft, guessed, idx, 1)[0])
                idx = torch.cat([idx, sample_token(guesses[-1][None], generator)], dim=1)
            truth = probs(target, known, idx, n + 1)  # (n + 1, V): at each drafted token, and after the last
            i, token = accept(idx[0, here:], torch.stack(guesses), truth, generator)
            idx = torch.cat([idx[:, : here + i], token], dim=1)
            for cache in (known, guessed):
                cache.length = min(cache.length, here + i)  # forget the rejected ones
            rounds.append((n, i))
    left = dataclasses.replace(config, max_new_tokens=end - idx.shape[1])
    if left.max_new_tokens:
        if config.seed is not None:  # another stream than the one used up to here
            left = dataclasses.replace(left, seed=(config.seed + 1) * 1_000_003 % 2**63)
        idx = generate(target, idx, left)
    return Speculation(idx.clone(), rounds)


def generate_text(model: GPT, tokenizer: Tokenizer, prompt: str, config: SampleConfig) -> str:
    """`prompt` and its continuation as text. ValueError for an empty prompt or a character the model does not know."""
    require(len(prompt) > 0, "the prompt is empty: the model needs at least one character to start from, like '\\n'")
    idx = torch.tensor([tokenizer.encode(prompt)])  # (1, T)
    return tokenizer.decode(generate(model, idx, config)[0])


# ---------------------------------------------------------------------------------------------------------------------
# 4. GPT-2's weights
# ---------------------------------------------------------------------------------------------------------------------


def from_pretrained(source, **dropout: float) -> GPT:
    """GPT-2's weights in our model, as float32, in evaluation mode.

    `source` is a name on the Hugging Face hub ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl" or another GPT-2), a folder
    written by transformers, or a transformers model. The three dropouts are the file's unless given, like resid_dropout=0.0.
    OSError if the source cannot be had, ValueError if it is no GPT-2 that ours can be.
    """
    config, weights = read_pretrained(source)
    with torch.device("meta"):  # shapes without memory: the weights are put in place, not copied
        model = GPT(dataclasses.replace(config, **dropout))
    if config.tied_head and "wte.weight" in weights:
        weights["lm_head.weight"] = weights["wte.weight"]
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights are not those that its config.json tells: {error}") from None
    if config.tied_head:
        model.lm_head.weight = model.wte.weight  # one parameter again, not two with the same numbers
    return model.eval()


def save_pretrained(model: GPT, folder: Path | str, tokenizer: Tokenizer | None = None) -> None:
    """The model as a folder that transformers' GPT2LMHeadModel.from_pretrained opens, and a BPE tokenizer with it.

    Biases that ours has not are written as zeros. ValueError for what transformers' GPT-2 has no place for.
    """
    write_pretrained(Path(folder), model.config, model.state_dict(), tokenizer)


def crop_block_size(model: GPT, block_size: int) -> GPT:
    """Let the model see at most `block_size` tokens, fewer than before: less memory, and the same answers for them."""
    most = model.config.block_size
    require(1 <= block_size <= most, f"block_size={block_size} must be from 1 to this model's {most}: it can only be cropped")
    model.config = dataclasses.replace(model.config, block_size=block_size)
    for block in model.h:
        block.attn.config = model.config
    model.wpe = nn.Embedding.from_pretrained(model.wpe.weight.data[:block_size].clone(), freeze=False)  # (block_size, C)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# 5. Looking inside, and pictures: each draws on an `ax` and returns it
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def attention_weights(model: GPT, idx: Tensor) -> list[Tensor]:
    """Who looks where: for each layer the weights (B, nh, T, T) on idx (B, T); row t says how much of each j it takes."""
    seen: list[Tensor] = []  # of each layer: query, key and value, (B, T, 3C)
    hooks = [block.attn.c_attn.register_forward_hook(lambda _, __, out: seen.append(out)) for block in model.h]
    model(idx)
    for hook in hooks:
        hook.remove()
    B, T, nh = *idx.shape, model.config.n_head
    weights = []
    for qkv in seen:
        q, k = (z.view(B, T, nh, -1).transpose(1, 2) for z in qkv.chunk(3, dim=2)[:2])  # (B, nh, T, hs) each
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, nh, T, T)
        if model.config.causal:
            scores = scores.masked_fill(~causal_mask(T, idx.device), float("-inf"))
        weights.append(scores.softmax(dim=-1))
    return weights


def labels(text) -> list[str]:
    """Each character as a label: what cannot be seen gets a sign."""
    return [{"\n": "\\n", " ": "␣"}.get(char, char) for char in text]


def plot_attention(ax, weights: Tensor, text: str):
    """One head's weights (T, T) on the T characters of `text`. A root is drawn, so that small weights show."""
    ax.imshow(weights.sqrt(), cmap="cividis", vmin=0, vmax=1)
    ax.set_xticks(range(len(text)), labels(text), family="monospace", fontsize=8)
    ax.set_yticks(range(len(text)), labels(text), family="monospace", fontsize=8)
    ax.set(xlabel="looks at", ylabel="position")
    return ax


def plot_finals(ax, finals: dict[str, list[float]]):
    """Each variant of a study as a line of dots, one for each seed, and a bar at their mean."""
    for y, losses in enumerate(finals.values()):
        ax.plot(losses, [y] * len(losses), "o", color="tab:blue", alpha=0.7)
        ax.plot([sum(losses) / len(losses)] * 2, [y - 0.3, y + 0.3], color="black")
    ax.set_yticks(range(len(finals)), list(finals))
    ax.invert_yaxis()
    ax.set(xlabel="validation loss (nats per character): dots are seeds, bars their mean")
    ax.grid(alpha=0.3, axis="x")
    return ax


def plot_history(ax, history: list[dict], label: str = "", unit: str = "character"):
    """Training loss as a thin line, full validation loss as dots, over steps."""
    seen, val = ([(row["step"], row[key]) for row in history if row[key] is not None] for key in ("train_loss", "val_loss"))
    line = ax.plot(*zip(*seen, strict=True), lw=1, alpha=0.7, label=f"{label} train".strip())[0]
    ax.plot(*zip(*val, strict=True), "o-", color=line.get_color(), label=f"{label} validation".strip())
    ax.set(xlabel="step", ylabel=f"loss (nats per {unit})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


if __name__ == "__main__":
    from picogpt.cli import main_and_leave

    main_and_leave()
