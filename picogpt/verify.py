"""Is it me or my machine? The same weights, on this device and in this number format, against stored float64 results.

    picogpt verify                              everything, in float32 and in bfloat16
    picogpt verify --lesson 09 --loss 2.11      is that what others get in this lesson?

What is compared: the output of each operation of a forward pass, the loss, the gradients, one step of each optimizer, twenty
training steps, a greedy text, the KV cache; and the shipped PicoGPT's loss on the validation text. The model behind all but
the last is small, and its weights come from a formula of integers: they need no file and no random numbers, and every format
holds them exactly, so that all differences arise on the way.

data/verify.csv holds the results, and how far rounding alone may move them: tools/references.py rounds what goes in and out of
every operation, up or down at random, many times, and measures how the results scatter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from picogpt_core import (
    GPT,
    KVCache,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    backward,
    evaluate,
    generate,
    learning_rate_at,
    make_optimizers,
    optimizer_step,
    require,
)

from .checkpoint import load_shipped
from .data import load_corpus
from .files import DATA, load_rows
from .machine import budget, describe_machine, has_fast_bfloat16, pick_device

REFERENCES = DATA / "verify.csv"
FORMATS = ("float32", "bfloat16")

# dropout that evaluation mode must switch off
CONFIG = ModelConfig(
    vocab_size=32, block_size=16, n_layer=2, n_head=2, n_embd=16, embd_dropout=0.1, resid_dropout=0.1, attn_dropout=0.1
)
STEPS = 20
RECIPES = {
    "AdamW": TrainConfig(STEPS, 4, optimizer="adamw", learning_rate=3e-3, warmup_steps=5),
    "Muon": TrainConfig(STEPS, 4, optimizer="muon", learning_rate=3e-3, muon_learning_rate=0.01, warmup_steps=5),
}
START = 3500000  # of the weights' numbers: chosen so that no token of the greedy text is a close call
PROMPT, WRITTEN = 4, 24  # tokens of the greedy text: with both, it outgrows the block of 16

Key = tuple[str, str]  # (kind, name), like ("gradient", "h.0.mlp.c_fc.weight")


# ----- the small model, from integers


def scattered(n: int, start: int = 0) -> Tensor:
    """Return the hashes of start, start + 1, …: n integers from 0 to 2^32 - 1, the same everywhere. (n,)"""
    x = torch.arange(start + 1, start + n + 1)
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return (x >> 16) ^ x


def reference_model(attention: Literal["sdpa", "manual"] = "sdpa", start: int = START) -> GPT:
    """Return the small model in evaluation mode. Each weight is a number from -31 to 31 over a power of two."""
    with torch.device("meta"):
        model = GPT(dataclasses.replace(CONFIG, attention=attention))
    model = model.to_empty(device="cpu").eval()
    for name, weight in model.named_parameters():
        steps = (scattered(weight.numel(), start) % 63 - 31).view(weight.shape)
        start += weight.numel()
        norm = name.endswith("weight") and weight.dim() == 1
        divisor = 32 if name.startswith(("wte", "wpe", "lm_head.weight")) else 128
        with torch.no_grad():
            weight.copy_(steps / divisor + (1 if norm else 0))
    return model


def text_ids() -> Tensor:
    """Return 600 ids that a model can learn something from: each follows from the one before it, in one of two ways."""
    choices, ids = scattered(600, 10**6) % 4, [1]
    for choice in choices.tolist()[1:]:
        ids.append((5 * ids[-1] + 3) % CONFIG.vocab_size if choice else (ids[-1] + 7) % CONFIG.vocab_size)
    return torch.tensor(ids)


def batch(step: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    """Return the windows of a training step and their targets, (rows, T) each."""
    T, ids = CONFIG.block_size, text_ids()
    start = torch.tensor([(131 * (rows * step + row)) % (len(ids) - T - 1) for row in range(rows)])
    window = ids[start[:, None] + torch.arange(T + 1)]  # (rows, T + 1)
    return window[:, :-1], window[:, 1:]


# ----- what is measured, alike on every device and for the references


def digest(x: Tensor) -> list[float]:
    """Return three numbers that stand for a tensor: its sum with signs from a formula, three times, divided by √n.

    Errors of rounding are as large in them as in the tensor, and so is any other difference that is spread over it; one
    in a single element of n is √n times smaller.
    """
    flat = x.detach().cpu().double().flatten()
    signs = torch.stack([scattered(len(flat), 7 * 10**6 * (i + 1)) % 2 * 2.0 - 1 for i in range(3)])  # (3, n)
    return (signs.double() @ flat / math.sqrt(len(flat))).tolist()


@contextlib.contextmanager
def watching(model: GPT) -> Iterator[dict[str, Tensor]]:
    """Collect the output of each operation of the forward passes in the block, by name, in the order of computation."""
    seen: dict[str, Tensor] = {}

    def output(name: str) -> Callable:
        return lambda module, args, result: seen.__setitem__(name, result)

    def what_it_reads(name: str) -> Callable:
        return lambda module, args: seen.__setitem__(name, args[0])

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith("c_proj"):  # functions, not modules, compute what comes before
            before = name.replace("attn.c_proj", "attn.attend").replace("mlp.c_proj", "mlp.gelu")
            hooks.append(module.register_forward_pre_hook(what_it_reads(before)))
        if not isinstance(module, nn.ModuleList | nn.Identity) and not name.endswith((".attn", ".mlp")) and name:
            hooks.append(module.register_forward_hook(output(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def measure(make: Callable[[], GPT], bf16: bool = False) -> dict[Key, list[float]]:
    """Return everything that is compared, as numbers by kind and name, for models from `make`, which is called several times.

    With `bf16` the matrix products run in bfloat16, as in training.
    """
    found: dict[Key, list[float]] = {}
    x, y = batch(0)
    model = make()
    device = model.wte.weight.device
    x, y = x.to(device), y.to(device)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    with torch.no_grad(), autocast():
        for kind in ("forward", "forward again"):
            with watching(model) as seen:
                model(x)
            found |= {(kind, name): digest(value) for name, value in seen.items()}
        cache = KVCache(CONFIG, len(x), device, model.lm_head.weight.dtype)
        steps = [model(x[:, t : t + 1], cache=cache) for t in range(x.shape[1])]  # T of (B, 1, V)
        found["cache", "lm_head"] = digest(torch.cat(steps, dim=1))
        greedy = SampleConfig(WRITTEN, temperature=0)
        for kind, use_cache in (("greedy", True), ("greedy, no cache", False)):
            text = generate(model, x[:1, :PROMPT], greedy, use_cache)[0, PROMPT:].tolist()
            found |= {(kind, f"token {i + 1}"): [float(token)] for i, token in enumerate(text)}

    with watching(model) as seen:  # once more with gradients: on a CPU other kernels compute it then
        loss = backward(model, x, y, bf16=bf16)
    found |= {("forward in training", name): digest(value) for name, value in seen.items()}
    found["loss", "loss"] = [loss.item()]
    for name, parameter in reversed(list(model.named_parameters())):  # in the order in which gradients arise, nearly
        assert parameter.grad is not None
        found["gradient", name] = digest(parameter.grad)

    for kind, recipe in RECIPES.items():
        model = make()
        optimizers, weights = make_optimizers(model, recipe), dict(model.named_parameters())
        before = {name: p.detach().clone() for name, p in weights.items()}
        for step in range(STEPS):
            loss = backward(model, *batch(step), bf16=bf16)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
            optimizer_step(optimizers, 1.0 if step == 0 else learning_rate_at(step, recipe), bf16)
            found[f"{STEPS} steps of {kind}", f"step {step + 1}"] = [loss.item()]
            if step == 0:
                found |= {(f"step of {kind}", name): digest(p - before[name]) for name, p in weights.items()}
    return found


# what has no row of its own in the table is compared with that of another kind
SAME_AS = {
    "forward again": "forward",
    "forward in training": "forward",
    "cache": "forward",
    "greedy, no cache": "greedy",
}
TITLES = {  # kind: what it is called in the report, and what its parts are
    "forward": ("forward pass", "operations"),
    "forward again": ("the same once more", "operations"),
    "cache": ("with a KV cache", "tensor"),
    "greedy": ("greedy text", "tokens"),
    "greedy, no cache": ("greedy text, no cache", "tokens"),
    "forward in training": ("forward, for gradients", "operations"),
    "loss": ("loss", "number"),
    "gradient": ("gradients", "tensors"),
    **{f"step of {kind}": (f"one step of {kind}", "tensors") for kind in RECIPES},
    **{f"{STEPS} steps of {kind}": (f"{STEPS} steps of {kind}", "losses") for kind in RECIPES},
    "shipped": ("PicoGPT, as shipped", "loss"),
}


# ----- compared with the references


class Reference(NamedTuple):
    """A row of the table: what float64 gives, and how far rounding moves it in each format."""

    values: list[float]
    allowed: dict[str, float]


def references() -> dict[Key, Reference]:
    """Return the stored table. ValueError if it is not there."""
    require(REFERENCES.is_file(), f"{REFERENCES} is missing: fetch it again (git checkout data/verify.csv)")
    found = {}
    for row in load_rows(REFERENCES):
        values = [row[column] for column in "abc" if row[column] is not None]
        found[row["kind"], row["name"]] = Reference(values, {name: row[name] for name in FORMATS})
    return found


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one result lies from its reference, and how far rounding may carry it."""

    name: str
    off: float
    allowed: float
    as_in_bfloat16: bool = False  # a rounding to 8 bits would explain it

    @property
    def agrees(self) -> bool:
        return self.off <= self.allowed  # False for NaN


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the report: all comparisons of a kind."""

    kind: str
    comparisons: tuple[Comparison, ...]

    @property
    def first_off(self) -> Comparison | None:
        """The first that strays, in the order of computation."""
        return next((c for c in self.comparisons if not c.agrees), None)

    @property
    def closest(self) -> Comparison:
        """The one that uses most of what rounding is allowed."""
        return max(self.comparisons, key=lambda c: c.off / c.allowed if c.allowed else c.off)


def compare_all(found: dict[Key, list[float]], stored: dict[Key, Reference], number_format: str) -> list[Line]:
    """Return the lines of the report: what others build on comes first. ValueError for what has no reference."""
    lines: dict[str, list[Comparison]] = {}
    for (kind, name), values in found.items():
        key = (SAME_AS.get(kind, kind), name)
        require(key in stored, f"{REFERENCES} has no row for {key}: it belongs to another version of the course")
        reference = stored[key]
        off = max(abs(a - b) for a, b in zip(values, reference.values, strict=True))
        off = off if all(map(math.isfinite, values)) else math.nan
        coarse = off <= reference.allowed["bfloat16"]
        lines.setdefault(kind, []).append(Comparison(name, off, reference.allowed[number_format], coarse))
    return [Line(kind, tuple(lines[kind])) for kind in TITLES if kind in lines]


def shipped(device: torch.device, bf16: bool) -> dict[Key, list[float]]:
    """Return how far the loss of the shipped PicoGPT on the validation text lies from the one stored in its file."""
    saved = load_shipped("picogpt")
    corpus = load_corpus(None, saved.tokenizer)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = evaluate(saved.model.to(device), corpus.val)
    return {("shipped", "picogpt"): [loss - saved.about["val_loss"]]}


# ----- what to look at

LOW_PRECISION = (
    "its size is that of numbers with fewer digits than float32: call torch.set_float32_matmul_precision('highest'), which "
    "switches TF32 off on an NVIDIA GPU, and look for an autocast around your code"
)
OTHER_WEIGHT = "what goes in agrees, and the difference is too large for rounding: another weight, a transposed one, or no bias"
DROPOUT_ON = "dropout is on in evaluation mode: call model.eval(), and look for F.dropout without training=self.training"
LOOK_AT = {  # by the end of the name of the first operation that strays
    "drop": DROPOUT_ON,
    "resid_dropout": DROPOUT_ON,
    "gelu": "another activation: PicoGPT's GELU is the exact one, F.gelu(x); approximate='tanh' is off by up to 0.0005",
    "attend": "attention: its mask, its scale 1/√hs, or a dropout on its weights that evaluation mode did not switch off",
    "ln_1": "LayerNorm: its eps (1e-5), weight or bias",
    "ln_2": "LayerNorm: its eps (1e-5), weight or bias",
    "ln_f": "LayerNorm: its eps (1e-5), weight or bias",
    "wte": "the table of tokens is another one",
    "wpe": "the positions, 0, 1, 2 …, or their table",
}
LOOK_BY_KIND = {
    "forward again": "the same ids gave another answer: something random is on in evaluation mode (a dropout?)",
    "cache": "without a cache it agrees: look at the positions of new tokens, and at the mask for several of them",
    "greedy": "the logits agree and the tokens do not: look at generate and next_token_probs",
    "greedy, no cache": "with the cache it agrees: look at how the window slides when the text outgrows the block",
    "loss": "the logits agree and the loss does not: look at cross_entropy, and at the targets (one token later)",
    "gradient": "forward passes agree, and something in backward does not: a kernel of this device, or one with fewer digits",
    "shipped": "if the lines above agree: fewer digits in large products only (torch.get_float32_matmul_precision() should be "
    "'highest'), or another checkpoint than the one that was shipped (git status)",
}


def look_at(line: Line, number_format: str) -> str:
    """Return what to look at, for the first result of a line that strays."""
    first = line.first_off
    assert first is not None
    if math.isnan(first.off):
        return "it is not a number: an overflow, or a division by 0"
    if line.kind.startswith("forward") and line.kind != "forward again":
        if not first.name.startswith("h.") and "." not in first.name and first.name in LOOK_AT:
            return LOOK_AT[first.name]
        last = first.name.rpartition(".")[2]
        if last in LOOK_AT:
            return LOOK_AT[last]
        if last.isdigit():
            return "the sum of a block's branches: the residual connections"
        return LOW_PRECISION if first.as_in_bfloat16 and number_format == "float32" else OTHER_WEIGHT
    for kind in RECIPES:
        if line.kind == f"step of {kind}":
            return f"gradients agree and the step does not: {kind}'s settings, or its kernel on this device"
        if line.kind == f"{STEPS} steps of {kind}":
            return "single steps agree and many do not: something is kept from one to the next (gradients not cleared?)"
    return LOOK_BY_KIND[line.kind]


# ----- the report


@dataclasses.dataclass
class Verification:
    """What one device gave in one number format. Prints as text; `as_dict()` for JSON."""

    device: str
    number_format: str
    lines: list[Line]
    not_compared: str = ""  # why the shipped model was left out, if it was

    @property
    def first_off(self) -> Line | None:
        """The first line on which something strays."""
        return next((line for line in self.lines if line.first_off), None)

    @property
    def agrees(self) -> bool:
        return self.first_off is None

    def __str__(self) -> str:
        out = [f"{self.device}, {self.number_format}"]
        for line in self.lines:
            title, parts = TITLES[line.kind]
            n, first, close = len(line.comparisons), line.first_off, line.closest
            count = f"{n} {parts}"
            where = f" ({close.name})" if n > 1 else ""
            if first is None and line.kind.startswith("greedy"):
                out.append(f"  ✓ {title:24}{count:15} all the same")
            elif first is None:
                part = close.off / close.allowed if close.allowed else 0.0
                out.append(f"  ✓ {title:24}{count:15} at most {part:4.0%} of what rounding may do{where}")
            elif line.kind.startswith("greedy"):
                out.append(f"  ✗ {title:24}{count:15} another text from {first.name} on")
            else:
                size = f"off by {first.off:.2g}, rounding explains {first.allowed:.2g}"
                out.append(f"  ✗ {title:24}{count:15} first at {first.name}: {size}")
        if self.not_compared:
            out.append(f"  - {TITLES['shipped'][0]:24}not compared: {self.not_compared}")
        if (first_line := self.first_off) is not None:
            out.append(f"  look at: {look_at(first_line, self.number_format)}")
        return "\n".join(out)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        lines = []
        for line in self.lines:
            first, close = line.first_off, line.closest
            row: dict[str, Any] = dict(what=TITLES[line.kind][0], agrees=first is None, compared=len(line.comparisons))
            shown = first or close
            off = shown.off if math.isfinite(shown.off) else None  # JSON has no NaN
            row |= {"first_off" if first else "closest": shown.name, "off": off, "allowed": shown.allowed}
            if first:
                row["look_at"] = look_at(line, self.number_format)
            lines.append(row)
        return dict(
            device=self.device,
            format=self.number_format,
            agrees=self.agrees,
            lines=lines,
            not_compared=self.not_compared,
        )


def machine_facts() -> dict[str, str]:
    """Return what a stranger must know of this machine to make sense of a difference."""
    return {
        "machine": describe_machine(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "float32 products": torch.get_float32_matmul_precision(),
        "cuda": str(torch.version.cuda or "no"),
        "settings": ", ".join(f"{name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ) or "none",
    }


# variables that change how PyTorch computes
ENVIRONMENT = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_ENABLE_MPS_FALLBACK"),
)


def verify_in(
    number_format: str,
    device: str = "auto",
    shipped_too: bool = True,
    make: Callable[[], GPT] = reference_model,
) -> Verification:
    """Compare this device, in "float32" or "bfloat16", with the stored results.

    `make` returns the small model, on the CPU. The shipped PicoGPT is left out, with the reason, where the text cannot be
    had, and in bfloat16 where the hardware does not multiply it. ValueError for a device that is not there.
    """
    where, bf16, stored = pick_device(device), number_format == "bfloat16", references()
    found, reason = measure(lambda: make().to(where), bf16), ""
    if not shipped_too:
        reason = "left out, as you asked"
    elif bf16 and not has_fast_bfloat16(where):
        reason = "this hardware does not multiply bfloat16: it would take minutes"
    else:
        try:
            found |= shipped(where, bf16)
        except OSError as error:
            reason = str(error).splitlines()[0]
    return Verification(str(where), number_format, compare_all(found, stored, number_format), reason)


@dataclasses.dataclass
class Report:
    """What this machine gave in one or several number formats. Prints as text; `to_json()` for machines."""

    verifications: list[Verification]

    @property
    def agrees(self) -> bool:
        return all(v.agrees for v in self.verifications)

    def __str__(self) -> str:
        facts = machine_facts()
        width = max(map(len, facts)) + 2
        head = ["picogpt verify: the same weights on this machine, against stored float64 results", ""]
        head += [f"{name + ':':{width}}{value}" for name, value in facts.items()]
        if self.agrees:
            end = (
                "This machine computes what the course expects. A loss that differs comes from the settings, the text or the "
                "seed:\npicogpt verify --lesson NN --loss X says whether it is one that others get too."
            )
        else:
            names = " and ".join(f"{v.device} in {v.number_format}" for v in self.verifications if not v.agrees)
            end = f"Not what the course expects: {names}. If the advice does not help, paste this report into an issue."
        return "\n\n".join(["\n".join(head), *map(str, self.verifications), end])

    def to_json(self) -> str:
        """Return the report as JSON: machine, agrees, results."""
        whole = {"machine": machine_facts(), "agrees": self.agrees}
        return json.dumps(whole | {"results": [v.as_dict() for v in self.verifications]}, indent=1)


def verify_machine(device: str = "auto", formats: tuple[str, ...] = FORMATS, shipped_too: bool = True) -> Report:
    """Compare this machine with the stored results, in each of these formats. ValueError for a device that is not there."""
    return Report([verify_in(name, device, shipped_too) for name in formats])


# ----- bands: is this loss what others get?

BANDS = DATA / "bands.csv"
KINDS = {"live": "trained by the lesson", "study": "stored runs", "computed": "computed, not trained"}
KNOWN = (  # losses that tell a story wherever they turn up: from, to, story (lesson 02 counts the last two)
    (4.13, 4.25, "about ln 65 = 4.17, a blind guess: the model has learned nothing. Is the optimizer given its parameters?"),
    (3.30, 3.36, "about 3.35, what letter frequencies give: it ignores its input, or attention and MLP pass nothing on."),
    (2.45, 2.50, "about 2.48, what pairs of characters give: it sees the last character only."),
)
HIGHER = (
    "Higher than others get. Was PICOGPT_BUDGET=smoke set, which trains for a few steps only? Were cells run out of order, so "
    "that the random numbers are others (restart, run all)? Is a dropout on while it is measured? Is it the loss of one batch?"
)
LOWER = (
    "Lower than others get. Was PICOGPT_BUDGET=full set, or a training cell run twice, so that it trained for longer? Is it "
    "the training loss, or the loss on a part of the text? (Its first 15,000 characters give PicoGPT 1.32, the whole 1.43.) "
    "If not: picogpt judge FILE:make_model looks for a model that reads ahead."
)


@dataclasses.dataclass(frozen=True)
class Band:
    """Where a loss that a lesson prints ends, over seeds and machines: a row of data/bands.csv."""

    lesson: str
    what: str
    kind: str  # live, study or computed
    printed: float
    low: float
    high: float
    seeds: int
    note: str | None

    def distance(self, loss: float) -> float:
        """Return how far a loss lies outside; 0 inside."""
        return max(self.low - loss, loss - self.high, 0.0)

    def __str__(self) -> str:
        seeds = f", {self.seeds} seeds" if self.seeds else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.what:58} {self.low:.3f} to {self.high:.3f}, ours {self.printed:.3f} ({KINDS[self.kind]}{seeds}{note})"


def load_bands() -> list[Band]:
    """Return the stored bands. ValueError if they are not there."""
    require(BANDS.is_file(), f"{BANDS} is missing: fetch it again (git checkout data/bands.csv)")
    return [Band(**row | {"lesson": f"{row['lesson']:02}"}) for row in load_rows(BANDS)]


def usual(lesson: str, what: str) -> str:
    """Return where a loss of a lesson usually ends, over seeds and machines: "2.191 to 2.244". `what` is its name in
    data/bands.csv. The losses of what a lesson trains are those at the budget quick; at another one that is said.

    ValueError for a loss that is not stored.
    """
    of_lesson = {band.what: band for band in load_bands() if band.lesson == lesson}
    require(what in of_lesson, f"lesson {lesson} has no band called {what!r}, only {'; '.join(of_lesson)}")
    band = of_lesson[what]
    elsewhere = "" if band.kind != "live" or budget(smoke=False, quick=True, full=False) else " at the budget quick"
    return f"{band.low:.3f} to {band.high:.3f}{elsewhere}"


@dataclasses.dataclass
class BandReport:
    """A loss, beside those of a lesson. Prints as text; `to_json()` for machines."""

    lesson: str
    loss: float
    bands: list[Band]  # of the lesson; first what the lesson computes itself, and of both kinds the nearest first

    @property
    def own(self) -> list[Band]:
        """What the lesson trains and computes itself, if it trains; or else all, of which it shows the figures."""
        trains = any(band.kind == "live" for band in self.bands)
        return [band for band in self.bands if band.kind != "study"] if trains else self.bands

    @property
    def inside(self) -> list[Band]:
        return [band for band in self.bands if not band.distance(self.loss)]

    @property
    def agrees(self) -> bool:
        """Whether it is a loss that the lesson itself prints: that of a run behind its figures may be inside by chance."""
        return any(band in self.own for band in self.inside)

    @property
    def nearest(self) -> Band:
        return min(self.own, key=lambda band: band.distance(self.loss))

    @property
    def advice(self) -> str:
        """What to look at, for a loss outside the lesson's own bands; "" inside."""
        if self.agrees:
            return ""
        nearest = self.nearest
        story = [words for low, high, words in KNOWN if low <= self.loss <= high]
        return " ".join([*(f"It is {words}" for words in story), HIGHER if self.loss > nearest.high else LOWER])

    def __str__(self) -> str:
        lines = [f"lesson {self.lesson}, loss {self.loss:g}", ""]
        shown = [band for band in self.own if band in self.inside] if self.agrees else self.own[:5]
        lines += [f"  {'inside ' if self.agrees else 'outside'}  {band}" for band in shown]
        others = [band.what for band in self.inside if band not in self.own]
        more = len(self.bands) - len(shown) - len(others)
        lines += (
            [f"           (and {more} more, of the runs behind this lesson's figures)"] if more > 0 and not self.agrees else []
        )
        lines += (
            textwrap.wrap(f"Runs behind its figures that end there: {'; '.join(others[:4])}{' …' * (len(others) > 4)}.", 116)
            if others
            else []
        )
        if self.agrees:
            last = "If that is the number you mean: seeds and processors make it differ by as much. Nothing is wrong."
            return "\n".join([*lines, "", last])
        nearest = self.nearest
        side = "below" if self.loss < nearest.low else "above"  # of several, it may lie between two
        where = f"Outside, {nearest.distance(self.loss):.3f} {side} the nearest ({nearest.what})."
        meant = f" Or is one of those runs the one you repeated? Then name it: --row '{others[0]}'." if others else ""
        lines += ["", *textwrap.wrap(f"{where}{meant} {self.advice}", 116)]
        return "\n".join([*lines, "Whether your machine computes as it should: picogpt verify"])

    def to_json(self) -> str:
        whole = {"lesson": self.lesson, "loss": self.loss, "inside": self.agrees, "advice": self.advice}
        return json.dumps(whole | {"bands": [dataclasses.asdict(b) for b in self.inside or self.bands]}, indent=1)


def compare_with_bands(lesson: str, loss: float, row: str | None = None) -> BandReport:
    """Return where a loss stands among those that a lesson ("09", "9" or "09_training") prints; with `row`, among those alone
    whose name has that in it.

    ValueError for a lesson that prints none, for what is not a loss, and for a row that there is not.
    """
    bands = load_bands()
    number = f"{lesson.partition('_')[0]:0>2}"
    of_lesson = sorted(
        (b for b in bands if b.lesson == number), key=lambda b: (b.kind == "study", b.distance(loss), abs(loss - b.printed))
    )
    there = ", ".join(sorted({band.lesson for band in bands}))
    require(bool(of_lesson), f"--lesson {lesson}: no losses of such a lesson are stored, only of {there}")
    diverged = "the training has diverged. Look at the learning rate, and at the first step with such a loss (lesson 09)"
    require(math.isfinite(loss), f"--loss {loss} is not a finite number: {diverged}")
    require(loss >= 0, f"--loss {loss} is below 0, which no cross-entropy is: a sign, or logarithms of more than 1")
    if row is None:
        return BandReport(number, loss, of_lesson)
    named = [band for band in of_lesson if row.lower() in band.what.lower()]
    require(bool(named), f"--row {row!r}: lesson {number} has only {'; '.join(band.what for band in of_lesson)}")
    return BandReport(number, loss, named)
