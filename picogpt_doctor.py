"""Examine a GPT from outside, anybody's, and say what is wrong with it.

    python picogpt_doctor.py my_model.py:make_model n_layer=3 n_embd=64      # what to call, and with which arguments
    python picogpt_doctor.py my_package.my_module:GPT --golden picogpt --json

    from picogpt_doctor import diagnose
    diagnose(model)                                                          # in a notebook: a table

The model is any torch.nn.Module that takes token ids (B, T) and gives logits (B, T, V): alone, in a tuple, in a dict, as an
attribute `logits`, with or without a loss. Each check asks for something that must be true of every causal language model,
whoever wrote it. Most need the answers only: change a token and see which answers move. Where that does not tell the cause,
the operations that PyTorch carries out are watched: which softmax over which axis, which weights came out of it.

A finding is one of
    pass   what must be true is true
    fail   it is not: the evidence in numbers, the likely cause, where to look
    warn   unusual; some good models do so on purpose
    n/a    the question does not apply to this model, or could not be asked

Weights, gradients, modes, buffers and random numbers are put back. Nothing is written, nothing is fetched.

Sections
    1. Findings and the report
    2. The patient: how it is called, what it answers
    3. The tape: what PyTorch does while it answers
    4. Probes
    5. Checks
    6. diagnose, and the command line
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import html
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# Parameter counts of published models and of this course's, to compare with
GOLDEN = {
    "picogpt": 2_466_369,
    "picogpt-6layer": 4_833_345,
    "picogpt-original": 2_468_161,
    "nanogpt-scaled": 2_466_369,
    "rasbt-scaled": 2_468_608,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}

# ---------------------------------------------------------------------------------------------------------------------
# 1. Findings and the report
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: str  # pass, fail, warn, n/a
    evidence: str  # in numbers
    cause: str = ""  # the likely one
    advice: str = ""  # where to look, what to do


@dataclasses.dataclass
class Report:
    """All findings about one model. Prints as text, shows as a table in a notebook, `to_json()` for machines."""

    about: str
    findings: list[Finding]
    seconds: float
    examined: bool = True  # False: it could not be called at all

    def of(self, status: str) -> list[Finding]:
        """The findings of one status."""
        return [finding for finding in self.findings if finding.status == status]

    @property
    def healthy(self) -> bool:
        """Whether it was examined and nothing failed."""
        return self.examined and not self.of("fail")

    def __getitem__(self, check: str) -> Finding:
        """The finding of a check by its name. KeyError if there is none."""
        return {finding.check: finding for finding in self.findings}[check]

    def _sum(self) -> str:
        counts = ", ".join(f"{len(self.of(s))} {s}" for s in ("fail", "warn", "pass", "n/a"))
        return f"{counts}, in {self.seconds:.1f} s"

    def __str__(self) -> str:
        lines = [self.about, ""]
        for finding in sorted(self.findings, key=lambda f: ("fail", "warn", "pass", "n/a").index(f.status)):
            parts = [finding.evidence]
            parts += [f"likely cause: {finding.cause}"] * bool(finding.cause) + [f"try: {finding.advice}"] * bool(
                finding.advice
            )
            for i, part in enumerate(parts):
                head = f"{finding.status:5}{finding.check:14}" if i == 0 else ""
                lines += textwrap.wrap(part, 116, initial_indent=f"{head:19}", subsequent_indent=" " * 19) or [head]
        return "\n".join([*lines, "", self._sum()])

    def _repr_html_(self) -> str:
        colours = {"fail": "#d55e00", "warn": "#e69f00", "pass": "#009e73", "n/a": "#888888"}
        rows = []
        for f in sorted(self.findings, key=lambda f: list(colours).index(f.status)):
            said = html.escape(f.evidence)
            said += f"<br><b>likely cause:</b> {html.escape(f.cause)}" if f.cause else ""
            said += f"<br><b>try:</b> {html.escape(f.advice)}" if f.advice else ""
            mark = f'<td style="color:{colours[f.status]};font-weight:bold">{f.status}</td>'
            rows.append(f'<tr>{mark}<td>{html.escape(f.check)}</td><td style="text-align:left">{said}</td></tr>')
        return f"<p>{html.escape(self.about)}<br>{self._sum()}</p><table>{''.join(rows)}</table>"

    def to_json(self) -> str:
        """The report as JSON: about, healthy, examined, seconds, findings."""
        about = dict(about=self.about, healthy=self.healthy, examined=self.examined, seconds=round(self.seconds, 2))
        return json.dumps(about | {"findings": [dataclasses.asdict(f) for f in self.findings]}, indent=1)


def seed(number: int) -> None:
    """torch.manual_seed without its search for a GPU, which takes longer than a small model's answer."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


class NotExaminable(Exception):
    """The model cannot be called with token ids alone; the message says how to adapt it."""


class TookTooLong(BaseException):
    """A check ran into the time limit. A BaseException, so that a model's own `except Exception` does not swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TookTooLong in the block after so many seconds. Only in the main thread, and not on Windows: there it has no effect."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum, frame):
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, should the first be swallowed
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # it may ring just before the line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------------------------------------
# 2. The patient: how it is called, what it answers
# ---------------------------------------------------------------------------------------------------------------------

TARGETS = ("targets", "target", "labels", "label", "y", "t", "tgt", "target_ids", "next_ids")
CACHES = ("past_key_values", "past_key_value", "past", "layer_past", "cache", "kv_cache", "caches", "past_kvs", "kv_caches")
BLOCKS = (
    "block_size",
    "n_positions",
    "max_position_embeddings",
    "context_length",
    "n_ctx",
    "ctx_len",
    "max_seq_len",
    "max_seq_length",
    "seq_len",
    "seq_length",
    "sequence_len",
    "max_len",
    "max_length",
    "window_size",
)
ADAPT = (
    "give diagnose() a module that takes ids alone: class Adapted(nn.Module): __init__ keeps the model as self.model, and "
    "forward(self, ids) makes {what} from ids and returns self.model(ids, …)"
)


def promised(model: nn.Module, names: tuple[str, ...], kind=int) -> list[tuple[str, object]]:
    """What the model's configuration, or a module itself, holds under one of these names: numbers above 0, or booleans."""
    found = []
    for module in model.modules():
        for where in ("config", "cfg", "args", "hparams", "params", "conf", "c", ""):
            holder = getattr(module, where, None) if where else module
            for name in names:
                value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
                if isinstance(value, kind) and (kind is bool or (not isinstance(value, bool) and value > 0)):
                    found.append((f"{where}.{name}".strip("."), value))
        if found:
            break  # the outermost one that says so
    return found


def tensors_in(value, depth: int = 3) -> list[Tensor]:
    """The tensors of an answer in order: of a tuple, list, dict, or object with attributes. Logits by name come first."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or value is None or isinstance(value, str | bytes | int | float | nn.Module):
        return []
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: "logit" not in str(name))  # stable: the rest stays in order
        return [t for name in names for t in tensors_in(value[name], depth - 1)]
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors_in(item, depth - 1)]
    if isinstance(getattr(value, "logits", None), Tensor):
        return [value.logits] + ([value.loss] if isinstance(getattr(value, "loss", None), Tensor) else [])
    if hasattr(value, "__dict__"):
        return tensors_in(vars(value), depth - 1)
    return []


class Patient:
    """The model under examination: a way to call it, its sizes, and the promise that it leaves as it came."""

    def __init__(self, model: nn.Module, vocab_size: int | None, block_size: int | None, new_cache: Callable | None):
        self.model, self.new_cache = model, new_cache
        self.noise = random.Random(0)
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.parameters = dict(model.named_parameters())
        self.unregistered = unregistered(model)
        try:
            self.signature = list(inspect.signature(model.forward).parameters.values())
        except ValueError:  # a scripted model does not tell
            self.signature = []
        self.names = [parameter.name for parameter in self.signature]
        self.targets_name = next((name for name in self.names[1:] if name in TARGETS), None)
        asks = {"get_logits": True, "return_logits": True}
        self.extra = {name: value for name, value in asks.items() if name in self.names}
        if any(p.name == "use_cache" and p.default in (None, False) for p in self.signature):
            self.extra["use_cache"] = False
        self.mode = "plain"  # or "targets": given along, for all positions to be answered; or "prefixes": one call each
        self.given_vocab, self.given_block = vocab_size, block_size
        self.vocab, self.block, self.block_from = 0, 0, ""
        self.axes = "BTV"  # or "BVT"
        self.memo: dict = {}  # what several checks need

    # ----- calling

    def ids(self, B: int, T: int, seed: int = 0) -> Tensor:
        """Random ids, (B, T)."""
        draw = torch.Generator().manual_seed(1000 + seed)
        return torch.randint(self.vocab, (B, T), generator=draw).to(self.device)

    def raw(self, ids: Tensor, targets: Tensor | None = None, **more):
        """The model's own answer. The same random numbers at each call, so that noise does not look like an effect."""
        seed(0)
        given = (
            {self.targets_name: targets.clone(memory_format=torch.contiguous_format)}
            if targets is not None and self.targets_name
            else {}
        )
        return self.model(ids.clone(memory_format=torch.contiguous_format), **self.extra | given | more)

    def pick(self, answer, B: int, T: int) -> Tensor | None:
        """The logits in an answer, whatever their form: (B, T, V), (B·T, V), (B, 1, V), (B, V), (B, V, T)."""
        best, score = None, 0.0
        for tensor in tensors_in(answer):
            shape, fits = tuple(tensor.shape), 0.0
            if not tensor.is_floating_point():
                continue
            if len(shape) == 3 and shape[:2] == (B, T):
                fits = 5
            elif len(shape) == 2 and shape[0] == B * T and T > 1:
                fits = 4
            elif len(shape) in (2, 3) and shape[0] == B and (len(shape) == 2 or shape[1] == 1):
                fits = 3
            elif len(shape) == 3 and shape[0] == B and shape[2] == T:
                fits = 2
            fits += 0.5 * (fits > 0 and self.vocab in shape)
            if fits > score:
                best, score = tensor, fits
        return best

    def logits(self, ids: Tensor, targets: Tensor | None = None, **more) -> Tensor:
        """(B, T) -> (B, T, V) in float32, for every position, by whatever way the model offers."""
        B, T = ids.shape
        if self.mode == "prefixes":
            return torch.stack([self._read(self.raw(ids[:, : t + 1], **more), B, t + 1)[:, -1] for t in range(T)], dim=1)
        if self.mode == "targets" and targets is None:
            targets = ids.roll(-1, dims=1)
        return self._read(self.raw(ids, targets, **more), B, T)

    def _read(self, answer, B: int, T: int) -> Tensor:
        found = self.pick(answer, B, T)
        if found is None:
            raise ValueError(f"no logits for {B} rows of {T} tokens in its answer: {shapes(answer)}")
        if found.dim() == 2 and found.shape[0] == B * T:
            found = found.view(B, T, -1)  # (B·T, V) -> (B, T, V)
        elif found.dim() == 2:
            found = found[:, None]  # (B, V) -> (B, 1, V)
        if self.axes == "BVT":
            found = found.transpose(1, 2)  # (B, V, T) -> (B, T, V)
        return found.float()

    def loss_in(self, answer) -> Tensor | None:
        """The loss in an answer: a single number."""
        named = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
        found = [named] if isinstance(named, Tensor) else tensors_in(answer)
        return next((t for t in found if t.is_floating_point() and t.numel() == 1), None)

    # ----- finding out

    def meet(self) -> None:
        """Find out how it is called and its sizes. NotExaminable with what to do; other errors are the model's own."""
        more = [
            p.name for p in self.signature[1:] if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        self.needs_targets = self.targets_name in more
        others = [name for name in more if name != self.targets_name]
        if others:
            what = " and ".join(others)
            raise NotExaminable(f"its forward also needs {what}: {ADAPT.format(what=what)}")
        sizes = promised(self.model, ("vocab_size", "n_vocab", "padded_vocab_size", "num_tokens", "vocab_len", "ntoken"))
        self.claimed_vocab = self.given_vocab or (sizes[0][1] if sizes else None)
        self.vocab = 2  # ids that surely exist, until more is known
        errors = []
        for T in (13, 7, 4, 2, 1):  # 13: no other axis is likely to be as long
            try:
                (tape, answer), (other, _) = self._first_call(T), self._first_call(T, 1)
                break
            except Exception as error:
                errors.append(error)
        else:
            raise errors[0]
        found = self.pick(answer, 3, T)
        if found is None and tensors_in(answer) and self.targets_name and not self.needs_targets:
            self.mode = "targets"
            (tape, answer), (other, _) = self._first_call(T), self._first_call(T, 1)
            found = self.pick(answer, 3, T)
        if found is None:
            raise NotExaminable(
                f"for ids (3, {T}) it returned {shapes(answer)}: no logits (B, T, V) in it. Return them alone, in a tuple, "
                "in a dict or as .logits"
            )
        shape = tuple(found.shape)
        if shape != (3, T, shape[-1]) and len(shape) == 3 and shape[2] == T and shape[1] > 1:
            self.axes = "BVT"
        if T > 1 and ((len(shape) == 2 and shape[0] == 3) or shape[1] == 1):  # only the last position
            self.mode = "targets" if self.targets_name and self._answers_all_with_targets(T) else "prefixes"
        self.out_vocab = found.shape[1] if self.axes == "BVT" else shape[-1]
        self._in_float32(T)
        self.T, self.token_table = T, next((e for e in tape.embeddings if tape.is_ids(e[2])), ("", None, None))
        self.in_vocab = self.token_table[1]
        # rows that were asked for and do not depend on the ids are positions
        pairs = zip(tape.embeddings, other.embeddings, strict=False)
        pairs = list(pairs)
        words = {a[0] for a, b in pairs if not torch.equal(a[2], b[2])}
        self.positions = [a for a, b in pairs if a[2].numel() in (T, 3 * T) and a[0] not in words and a[1] >= T]
        known = [v for v in (self.given_vocab, self.in_vocab, self.out_vocab, self.claimed_vocab) if v]
        self.vocab = min(known)
        self._find_block(tape)
        self.T = min(T, self.block)
        ids = self.ids(3, self.T)
        self.both = False  # some answer with the loss alone
        with torch.no_grad(), contextlib.suppress(Exception):
            self.both = self.targets_name is not None and self.pick(self.raw(ids, ids), 3, self.T) is not None

    def _first_call(self, T: int, shift: int = 0):
        low = 5 if (self.claimed_vocab or 0) > 8 else 0  # the first ids may be special: padding, start
        ids = low + (torch.arange(3 * T, device=self.device).view(3, T) * 7 % 3 + shift) % 2  # (3, T) of two ids
        given = ids if self.mode == "targets" or self.needs_targets else None
        if self.needs_targets:
            self.mode = "targets"
        with torch.no_grad(), Tape(self, ids) as tape:
            answer = self.raw(ids, given)
        return tape, answer

    def _in_float32(self, T: int) -> None:
        """Half precision rounds too much to tell an effect from none: ask in float32, if the model can."""
        halves = {t: t.data for t in self.everything().values() if t.dtype in (torch.float16, torch.bfloat16)}
        for tensor, half in halves.items():
            tensor.data = half.float()
        try:
            self._first_call(T)
        except Exception:
            for tensor, half in halves.items():
                tensor.data = half

    def _answers_all_with_targets(self, T: int) -> bool:
        ids = torch.zeros(3, T, dtype=torch.long, device=self.device)
        with torch.no_grad():
            found = self.pick(self.raw(ids, ids), 3, T)
        return found is not None and (found.shape[:2] == (3, T) or found.shape[0] == 3 * T)

    def _find_block(self, tape: Tape) -> None:
        """The longest window: given, from the configuration, from a table of positions, or by trying."""
        claims = promised(self.model, BLOCKS)
        if self.given_block:
            self.block, self.block_from = self.given_block, "given"
        elif claims:
            self.block, self.block_from = claims[0][1], claims[0][0]
        elif self.positions or tape.tables:
            found = [(length, name) for name, length, _ in self.positions] + [(length, name) for name, length in tape.tables]
            self.block, self.block_from = min(found)
        else:
            self.block, self.block_from = 1, "by trying"
            while self.block < 512 and self._accepts(2 * self.block):
                self.block *= 2
            step = self.block // 2
            while step:
                if self.block < 512 and self._accepts(self.block + step):
                    self.block += step
                step //= 2
        if self.block > 1 and self.block < tape.T:
            self.block, self.block_from = tape.T, f"it accepts {tape.T}, though {self.block_from} says {self.block}"
        for name, length, rows in self.positions:
            if self.padded(name):
                self.block = min(self.block, length - int(rows.min()))
        self.tables = tape.tables
        # where learned positions end; other tables can be made anew
        ends = [length for _, length, _ in self.positions] + [n for name, n in tape.tables if name in self.parameters]
        self.limit = min(ends, default=None)
        self.long = min(self.block, 256)  # long enough to see what only far positions show, short enough to be quick

    def padded(self, name: str) -> bool:
        """Whether a table has a padding row, behind which positions begin (RoBERTa)."""
        table = next((m for n, m in self.model.named_modules() if f"{n}.weight" == name), None)
        return getattr(table, "padding_idx", None) is not None

    def _accepts(self, T: int) -> bool:
        try:
            with torch.no_grad():
                self.logits(torch.zeros(1, T, dtype=torch.long, device=self.device))
        except Exception:
            return False
        return True

    # ----- leaving it as it came

    def everything(self) -> dict[str, Tensor]:
        """All its tensors that can be found: parameters, buffers, and those that are not registered."""
        return self.parameters | dict(self.model.named_buffers()) | self.unregistered

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Put back weights, gradients, modes, attributes, random numbers, whatever happens in the block."""
        kept = {name: (t, t.data, t.detach().clone(), t.requires_grad, t.grad) for name, t in self.everything().items()}
        attributes = [(module, dict(vars(module)), module.training) for module in self.model.modules()]
        torch_state, python_state = torch.get_rng_state(), random.getstate()
        cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        numpy = sys.modules.get("numpy")
        numpy_state = numpy.random.get_state() if numpy else None
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, at which nothing can be watched
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, was, training in attributes:
                vars(module).clear()
                vars(module).update(was)
                module.training = training
            with torch.no_grad():
                for tensor, memory, value, wants, grad in kept.values():
                    tensor.data = memory
                    if not torch.equal(tensor, value):
                        tensor.data.copy_(value)
                    if tensor.is_leaf and tensor.is_floating_point():
                        tensor.requires_grad_(wants)
                    tensor.grad = grad
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            if cuda_states:
                torch.cuda.set_rng_state_all(cuda_states)
            if numpy:
                numpy.random.set_state(numpy_state)

    @contextlib.contextmanager
    def weights(self, change: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
        """Other weights inside the block: `change(name, value)` gives the new value, None keeps it."""
        trained = {**self.parameters, **{n: t for n, t in self.unregistered.items() if t.requires_grad}}
        kept = {name: t.detach().clone() for name, t in trained.items()}
        try:
            with torch.no_grad():
                for name, tensor in trained.items():
                    if (new := change(name, kept[name])) is not None:
                        tensor.data.copy_(new)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in trained.items():
                    tensor.data.copy_(kept[name])

    def shaken(self):
        """Noise on all weights, so that what happens to be zero or tiny in a new model speaks too. What is wired to what does
        not depend on the weights."""
        size = self.memo.setdefault("shake", self._how_much())
        return self.weights(lambda name, value: shake(value, size))

    def _how_much(self) -> float:
        for size in (1.0, 0.1):
            with self.weights(lambda name, value, size=size: shake(value, size)), torch.no_grad():
                if self.logits(self.ids(3, self.T)).isfinite().all():
                    return size
        return 0.0


def shake(value: Tensor, size: float) -> Tensor | None:
    """A weight with noise of about the size that a layer's weights have."""
    if not value.is_floating_point() or size == 0:
        return None
    draw = torch.Generator().manual_seed(value.numel())
    noise = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
    if value.dim() < 2:
        return value + 0.1 * size * noise
    spread = value[value.isfinite()].float().std().nan_to_num(0.0).item() if value.numel() > 1 else 0.0
    if spread > 3:  # so that no softmax saturates
        value, spread = value / spread, 1.0
    return value + size * max(0.5 * spread, 0.5 / math.sqrt(value.shape[-1])) * noise


def shapes(answer) -> str:
    """An answer in a few words."""
    found = [tuple(t.shape) for t in tensors_in(answer)]
    kind = type(answer).__name__
    return f"{kind} with tensors {', '.join(map(str, found[:4]))}" if found else f"{kind} without any tensor"


def unregistered(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that a module holds in plain lists, dicts or attributes, where PyTorch does not see them."""
    seen = {id(t) for t in itertools.chain(model.parameters(), model.buffers())}
    known, found = {id(m) for m in model.modules()}, {}

    def look(value, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                found[name] = value
        elif isinstance(value, nn.Module):
            if id(value) not in known:
                known.add(id(value))
                for inner, tensor in itertools.chain(value.named_parameters(), value.named_buffers()):
                    look(tensor, f"{name}.{inner}", depth)
                for inner, module in value.named_modules():
                    inside(module, f"{name}.{inner}".rstrip("."), depth)
        elif depth and isinstance(value, list | tuple | set):
            for i, item in enumerate(value):
                look(item, f"{name}[{i}]", depth - 1)
        elif depth and isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{name}[{key!r}]", depth - 1)

    def inside(module: nn.Module, name: str, depth: int) -> None:
        for key, value in list(vars(module).items()):
            if key not in ("_parameters", "_buffers", "_modules") and not key.endswith("_hooks"):
                look(value, f"{name}.{key}".lstrip("."), depth)

    for name, module in model.named_modules():
        inside(module, name, 3)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# 3. The tape: what PyTorch does while the model answers
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Attention:
    """One attention that was watched. N is B·nh or (B, nh), as the model has it."""

    weights: Tensor  # (N, Tq, Tk): what the values are weighed with in the end
    soft: Tensor | None = None  # (N, Tq, Tk): what the softmax gave, if one was seen
    scores: Tensor | None = None  # (N, Tq, Tk): what went into it
    axis: str = "keys"  # what the softmax ran over: keys, queries, or another axis
    hs: int | None = None  # what queries and keys have in common
    factor: float | None = None  # what their products were multiplied with; None: not known
    q: Tensor | None = None  # (N, Tq, hs)
    k: Tensor | None = None
    out: Tensor | None = None  # (N, Tq, hs): the weighed values
    source: Tensor | None = None  # what the linear layer of the queries read
    after: Tensor | None = None  # the input of the next linear layer
    fused: str = ""  # of scaled_dot_product_attention: how its mask was given


class Tape(TorchDispatchMode):
    """Records attentions, embeddings, normalisations and random numbers of one call on ids (B, T).

    T is chosen so that no other axis is as long: two axes of length T are queries and keys. `start` positions may be in a
    cache already; then there are T queries and start + T keys.
    """

    KEEPS = ("mm", "addmm", "linear", "embedding", "native_layer_norm", "convolution", "_softmax")  # a new factor begins

    def __init__(self, patient: Patient, ids: Tensor, start: int = 0):
        super().__init__()
        self.ids, self.T, self.keys = ids, ids.shape[1], start + ids.shape[1]
        self.owned = {t.data_ptr(): name for name, t in patient.everything().items() if t.numel()}
        self.attentions: list[Attention] = []
        self.embeddings: list[tuple[str, int, Tensor]] = []  # name and length of a table, and the rows that were asked for
        self.tables: list[tuple[str, int]] = []  # name and length of what was cut to T positions
        self.norms: list[tuple[str, tuple, tuple]] = []  # operation, shape, axes that it ran over
        self.random: list[str] = []
        self.padded: list[int] = []  # kernel sizes of convolutions that look to both sides
        self.turned: list[str] = []  # roll and flip along time
        self.softmaxes: list[tuple] = []  # the shapes of all of them
        self.kept: list = []  # tensors of the call must stay, or their ids would be used again
        self.of: dict[int, dict] = {}  # what is known of a tensor: factor, scores, soft …

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call would import the compiler, for seconds

    def about(self, tensor) -> dict:
        return self.of.get(id(tensor), {}) if isinstance(tensor, Tensor) else {}

    def is_ids(self, rows: Tensor) -> bool:
        """Whether these are the ids themselves."""
        return rows.numel() == self.ids.numel() and torch.equal(rows.flatten(), self.ids.flatten())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # an operation in a form that was not foreseen is not recorded, and the model goes on
        with contextlib.suppress(IndexError, TypeError, ValueError, AttributeError, RuntimeError):
            self.note(func.overloadpacket.__name__, args, kwargs or {}, out)
        return out

    def note(self, name: str, args: tuple, kwargs: dict, out) -> None:
        first = next((a for a in args if isinstance(a, Tensor)), None)
        result = out[0] if isinstance(out, tuple) and out and isinstance(out[0], Tensor) else out
        if not isinstance(result, Tensor):
            if isinstance(out, list | tuple) and first is not None:  # split, chunk, unbind: the parts are like the whole
                for part in out:
                    self.keep(part, dict(self.about(first)))
            return
        about = {} if name in self.KEEPS else dict(self.about(first))
        if name in ("add", "sub", "masked_fill", "where", "minimum", "maximum"):
            about = next((dict(self.about(a)) for a in args if "q" in self.about(a)), about)
        if name in ("mul", "div") and len(args) > 1 and (by := self.number(args[1], args[0])) is not None:
            old = about.get("factor", 1.0)
            about["factor"] = None if old is None or math.isnan(by) else old * by if name == "mul" else old / by
        elif name in ("mul", "mul_") and about.get("soft") is None and self.about(args[1]).get("q") is not None:
            about = dict(self.about(args[1]))
        getattr(self, f"on_{name.strip('_')}", lambda *a: None)(args, kwargs, result, about)
        if name in ("bmm", "baddbmm", "mm", "addmm", "linear") or name.startswith("_scaled_dot_product"):
            self.product(name, args, kwargs, result, about)
        self.keep(result, about)

    def keep(self, tensor, about: dict) -> None:
        self.kept.append(tensor)
        if about:
            self.of[id(tensor)] = about

    def number(self, by, what) -> float | None:
        """A factor that is the same for all, as a number; nan for a learned one; None for a tensor of many."""
        if isinstance(by, int | float):
            return float(by)
        if isinstance(by, Tensor) and by.numel() == 1:
            return math.nan if by.data_ptr() in self.owned or by.requires_grad else float(by)
        if isinstance(what, Tensor) and what.numel() == 1 and isinstance(by, Tensor):
            return float(what)
        return None

    # ----- single operations

    def on_embedding(self, args, kwargs, out, about) -> None:
        self.embeddings.append((self.owned.get(args[0].data_ptr(), ""), args[0].shape[0], args[1].detach().clone()))

    def on_index(self, args, kwargs, out, about) -> None:
        rows = [i for i in args[1] if i is not None]
        if args[0].data_ptr() in self.owned and len(rows) == 1 and args[0].dim() == 2:
            self.on_embedding((args[0], rows[0]), {}, out, about)

    def on_slice(self, args, kwargs, out, about) -> None:
        before, after = args[0].shape, out.shape
        cut = [n for n, m in zip(before, after, strict=True) if m == self.T and n > m]
        name = self.owned.get(args[0].data_ptr())
        if name is not None and cut:
            self.tables.append((name, cut[0]))

    def on_native_layer_norm(self, args, kwargs, out, about) -> None:
        shape = tuple(args[0].shape)
        self.norms.append(("LayerNorm", shape, tuple(range(len(shape) - len(args[1]), len(shape)))))

    def on_native_batch_norm(self, args, kwargs, out, about) -> None:
        self.norms.append(("BatchNorm", tuple(args[0].shape), (0,)))

    def statistics(self, args, kwargs, out, about) -> None:
        shape, dims = tuple(args[0].shape), kwargs.get("dim", args[1] if len(args) > 1 else None)
        if len(shape) > 1 and not isinstance(dims, bool):
            dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
            self.norms.append(("mean", shape, tuple(d % len(shape) for d in dims)))

    on_mean = on_var = on_var_mean = on_std = on_std_mean = on_amax = statistics

    def on_linalg_vector_norm(self, args, kwargs, out, about) -> None:
        self.statistics((args[0], args[2] if len(args) > 2 else None), kwargs, out, about)

    def on_fused_rms_norm(self, args, kwargs, out, about) -> None:
        self.on_native_layer_norm(args, kwargs, out, about)

    def on_convolution(self, args, kwargs, out, about) -> None:
        weight, padding = args[1], args[4]
        if weight.dim() == 3 and out.shape[-1] == args[0].shape[-1] == self.T and padding[0] > 0:
            self.padded.append(weight.shape[-1])

    def on_constant_pad_nd(self, args, kwargs, out, about) -> None:
        x, pad = args[0], args[1]
        if len(pad) >= 2 and x.dim() == 3 and x.shape[-1] == self.T and pad[1] > 0:
            self.padded.append(pad[0] + pad[1] + 1)

    def on_roll(self, args, kwargs, out, about) -> None:
        if args[0].is_floating_point() and self.T in args[0].shape:
            self.turned.append("torch.roll carries the last tokens to the front")

    def on_flip(self, args, kwargs, out, about) -> None:
        if args[0].is_floating_point() and any(args[0].shape[d] == self.T for d in args[1]):
            self.turned.append("torch.flip turns the order of time")

    def chance(self, args, kwargs, out, about) -> None:
        self.random.append("a random number")

    on_native_dropout = on_bernoulli = on_rand = on_randn = on_rand_like = on_randn_like = on_normal = on_uniform = chance
    on_multinomial = on_randint = on_normal_functional = chance

    # ----- attention

    def is_scores(self, tensor) -> bool:
        return isinstance(tensor, Tensor) and tensor.dim() >= 2 and tuple(tensor.shape[-2:]) == (self.T, self.keys)

    def product(self, name: str, args, kwargs, out: Tensor, about: dict) -> None:
        """A matrix product: queries by keys, weights by values, or the linear layer after them."""
        if name.startswith("_scaled_dot_product"):
            return self.fused(args, kwargs, out, about)
        add = name in ("baddbmm", "addmm")
        a, b = args[1:3] if add else args[:2]
        if self.is_scores(out) and name in ("bmm", "baddbmm") and a.shape[-1] != self.keys:
            fa, fb = self.about(a).get("factor", 1.0), self.about(b).get("factor", 1.0)
            sources = self.about(a).get("source")
            about.clear()
            about.update(q=a, k=b.transpose(-2, -1), hs=a.shape[-1], source=sources)
            about["factor"] = None if fa is None or fb is None else fa * fb * float(kwargs.get("alpha", 1) if add else 1)
        elif self.is_scores(a) and name in ("bmm", "baddbmm") and out.shape[-1] != self.keys:
            known = self.about(a)
            fields = ("soft", "scores", "axis", "hs", "factor", "q", "k", "source")
            done = Attention(weights=a, out=out, **{key: known[key] for key in fields if key in known})
            if "q" in known or "soft" in known:
                self.attentions.append(done)
            about.clear()
            about["attention"] = done
        elif name in ("mm", "addmm", "linear") and self.attentions and a.shape[0] == self.ids.numel():
            self.attentions[-1].after = a if self.attentions[-1].after is None else self.attentions[-1].after
        if name in ("mm", "addmm", "linear") or (name == "bmm" and not about):
            about.pop("factor", None)
            about["source"] = a
        return None

    def on_softmax(self, args, kwargs, out, about) -> None:
        x, dim = args[0], args[1] % args[0].dim()
        self.softmaxes.append(tuple(x.shape))
        sides = [d for d, n in enumerate(x.shape) if n in (self.T, self.keys)]
        if x.dim() < 2 or not self.is_scores(x) or len(sides) < 2:
            return
        known = self.about(x)
        axis = "keys" if dim == x.dim() - 1 else "queries" if dim == x.dim() - 2 else "another axis"
        about.update(known, scores=x, soft=out, axis=axis)

    on_safe_softmax = on_softmax

    def fused(self, args, kwargs, out: Tensor, about: dict) -> None:
        q, k = args[:2]
        self.softmaxes.append((*q.shape[:-1], k.shape[-2]))
        if (q.shape[-2], k.shape[-2]) != (self.T, self.keys):
            return
        causal = kwargs.get("is_causal", next((a for a in args[3:] if isinstance(a, bool)), False))
        mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
        if mask is None:
            mask = next((a for a in args[3:] if isinstance(a, Tensor)), None)
        hs = q.shape[-1]
        scale = 1 / math.sqrt(hs) if scale is None else scale
        if k.shape[1] != q.shape[1]:  # several query heads to one key head
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q.float() @ k.float().transpose(-2, -1) * scale
        if causal:
            scores = scores.masked_fill(~torch.ones_like(scores[0, 0], dtype=torch.bool).tril(), -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        fq, fk = self.about(q).get("factor", 1.0), self.about(k).get("factor", 1.0)
        factor = None if fq is None or fk is None else fq * fk * scale
        soft = scores.softmax(dim=-1)
        how = "is_causal=True" if causal else "a mask" if mask is not None else "no mask"
        done = Attention(soft, soft, scores, "keys", hs, factor, q, k, out, self.about(q).get("source"), fused=how)
        self.attentions.append(done)
        about.clear()
        about["attention"] = done


def watch(patient: Patient, ids: Tensor, targets: Tensor | None = None, **more) -> Tape:
    """The tape of one call."""
    with torch.no_grad(), Tape(patient, ids) as tape:
        if patient.mode == "prefixes":
            patient.raw(ids, **more)
        else:
            patient.logits(ids, targets, **more)
    return tape


# ---------------------------------------------------------------------------------------------------------------------
# 4. Probes
# ---------------------------------------------------------------------------------------------------------------------


def tolerance(patient: Patient, logits: Tensor) -> float:
    """How far rounding alone may move a logit."""
    dtypes = {t.dtype for t in patient.parameters.values() if t.is_floating_point()}
    eps = max((torch.finfo(t).eps for t in dtypes), default=1e-7)
    return 60 * eps * max(logits[logits.isfinite()].abs().max().item() if logits.isfinite().any() else 1.0, 1e-3)


def moved(a: Tensor, b: Tensor) -> Tensor:
    """(…, V), (…, V) -> (…): the largest change of a logit; NaN on both sides is no change, on one side a large one."""
    return (a.nan_to_num(1e4) - b.nan_to_num(1e4)).abs().amax(dim=-1)


@torch.no_grad()
def dependence(patient: Patient, ids: Tensor, targets: Tensor | None = None, together: bool = True) -> tuple[Tensor, float]:
    """Who hears whom: (T, T), how far the logits at t move when token j becomes another one, and what rounding may do."""
    T = ids.shape[1]
    far, allowed = torch.zeros(T, T), 0.0
    for shift in (1, patient.vocab // 2 or 1):
        changed = ids[:1].repeat(T + 1, 1)  # (T + 1, T): row j has another token at j, the last row is as it was
        place = torch.arange(T, device=ids.device)
        changed[place, place] = (changed[place, place] + shift) % patient.vocab
        given = None if targets is None else targets[:1].expand(T + 1, T)
        n = 3 if together else 1  # rows that influence each other are asked one by one
        parts = [patient.logits(part, None if given is None else given[: len(part)]) for part in changed.split(n)]
        logits = torch.cat(parts)  # (T + 1, T, V)
        far = torch.maximum(far, moved(logits[:T], logits[T:]).T.cpu())  # (j, t) -> (t, j)
        allowed = max(allowed, tolerance(patient, logits))
    return far, allowed


def listening(patient: Patient) -> tuple[Tensor, float]:
    """`dependence` in evaluation mode with shaken weights, once for all checks."""
    if "listening" not in patient.memo:
        with patient.shaken():
            rows = patient.memo.get("rows independent", True)
            patient.memo["listening"] = dependence(patient, patient.ids(1, patient.T), together=rows)
    return patient.memo["listening"]


def tape_of(patient: Patient) -> Tape:
    """The tape of a call with shaken weights, once for all checks."""
    if "tape" not in patient.memo:
        with patient.shaken():
            patient.memo["tape"] = watch(patient, patient.ids(3, patient.T))
    return patient.memo["tape"]


def flat(weights: Tensor) -> Tensor:
    """(N, Tq, Tk) or (B, nh, Tq, Tk) -> (N, Tq, Tk) in float32, NaN as 0."""
    return weights.float().nan_to_num(0.0).reshape(-1, *weights.shape[-2:])


def heads_that(holds: Tensor, patient: Patient, B: int = 3) -> str:
    """(N,) booleans for (row, head) pairs as words: all heads, or which."""
    N = holds.numel()
    heads = holds.view(B, N // B).any(dim=0) if N % B == 0 else holds  # (B·nh,) -> (nh,)
    if heads.all():
        return "all heads"
    return "head " + ", ".join(str(i) for i in heads.nonzero().flatten().tolist())


def places(indices, most: int = 4) -> str:
    """[0, 1, 2, 3, 4, 5] as words: 0, 1, 2, 3 …"""
    listed = list(map(str, indices))
    return ", ".join(listed[:most]) + (" …" if len(listed) > most else "")


# ----- why does it hear the future?


def why_future(patient: Patient, tape: Tape, far: Tensor, allowed: float) -> tuple[str, str]:
    """Cause and advice for a leak, from what the attentions did; the first that explains it."""
    T = tape.T
    if tape.turned:
        return tape.turned[0], "shift by padding on the left and cutting on the right"
    if patient.mode == "prefixes":
        return "it answers for the last position only, and differently for a longer input", "look at what is cut off where"
    mixed = mixing_heads(patient)
    if mixed:
        return mixed
    late = torch.ones(T, T, dtype=torch.bool, device=patient.device).triu(1)
    open_ones = []
    for layer, attention in enumerate(tape.attentions):
        W = flat(attention.weights)  # (N, T, T)
        future = W[:, late].amax(dim=1)  # (N,)
        if attention.axis == "another axis":
            return f"attention {layer}: the softmax runs over the heads or the batch", "softmax(dim=-1): over the keys"
        if attention.axis == "queries":
            rows = flat(attention.soft).sum(dim=-1)
            return (
                f"attention {layer}: softmax over the queries (dim=-2): columns sum to 1, rows to {rows.min():.2f} … "
                f"{rows.max():.2f}. The sum of a column runs over the future",
                "softmax(dim=-1): over the keys, so that each row is a distribution",
            )
        if attention.soft is not None and (flat(attention.soft)[:, late].amax(dim=1) > 1e-9).any() and (future < 1e-9).all():
            return (
                f"attention {layer}: the mask comes after the softmax. The weights on the future are 0 in the end, but they "
                "took part in the sum that all are divided by",
                "fill the scores with -inf before the softmax",
            )
        if (future > 1e-9).any():
            open_ones.append((layer, attention, W, future > 1e-9))
    if open_ones:
        layer, attention, W, bad = open_ones[0]
        where = f"attention {layer}"
        if len(open_ones) == len(tape.attentions):
            where = "every attention" if len(open_ones) > 1 else "its attention"
        elif len(open_ones) < len(tape.attentions):
            where = "attention " + places([i for i, *_ in open_ones]) + f" of {len(tape.attentions)} (the others are masked)"
        if not bad.all():
            where += f", {heads_that(bad, patient)} only"
        past = W[bad][:, :-1, :-1][:, late.T[:-1, :-1]].amax()  # the last row is blocked whole where the polarity is wrong
        ahead = [j - t for t, j in (W[bad].amax(dim=0) * late > 1e-9).nonzero().tolist()]
        rows = sorted({t for t, _ in (W[bad].amax(dim=0) * late > 1e-9).nonzero().tolist()})
        if past < 1e-9:
            return (
                f"the mask's polarity is turned round: in {where} each position sees the future only and none of the past",
                "invert it: True blocks in nn.MultiheadAttention and masked_fill, and attends in scaled_dot_product_attention",
            )
        if ahead and max(ahead) == 1:
            return (
                f"the mask is off by one: in {where} each position also sees the one after it",
                "tril(diagonal=0): position t sees 0 … t",
            )
        if rows == [0] or len(rows) == 1:
            return (
                f"in {where} row {rows[0]} of the mask blocks all, and the softmax of equal numbers is even over everything: "
                "the mask also excludes the position itself",
                "tril(diagonal=0), not -1: a position must see itself",
            )
        if attention.scores is not None:
            hidden = attention.scores.float().reshape(-1, T, T)[bad][:, late]
            if hidden.numel() and hidden.isfinite().all() and hidden.std() < 1e-4 * max(1.0, hidden.abs().max().item()):
                value = hidden.mean().item()
                say = (
                    f"in {where} the mask multiplies the scores: the future gets the score 0, and exp(0) = 1"
                    if abs(value) < 1e-6
                    else f"in {where} the mask fills with {value:.4g}, not with -inf: the future keeps some weight"
                )
                return say, "masked_fill(mask, float('-inf')) before the softmax"
        share = (W[bad] * late).sum().item() / max(W[bad].sum().item(), 1e-9)
        how = f" ({attention.fused} was given)" if attention.fused else ""
        return (
            f"no causal mask in {where}: {share:.0%} of the attention goes to the future{how}",
            "cover what comes after t with -inf before the softmax, or is_causal=True in scaled_dot_product_attention",
        )
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in patient.model.modules()):
        return "BatchNorm takes its statistics over the batch and over time", "nn.LayerNorm(n_embd)"
    for kind, shape, dims in tape.norms:
        if len(shape) >= 3 and any(shape[d] == T for d in dims) and shape.count(T) < 2:
            return (
                f"{kind} over the axis of time: statistics of a tensor {shape} over axes {dims} mix all positions",
                "normalise over the last axis (the features of one position) only",
            )
    if any(getattr(m, "bidirectional", False) for m in patient.model.modules()):
        return "a recurrent layer with bidirectional=True reads the text from its end too", "bidirectional=False"
    if tape.padded:
        return (
            f"a convolution over time (kernel {tape.padded[0]}) is padded on both sides and looks ahead",
            "pad on the left only: F.pad(x, (kernel - 1, 0))",
        )
    if tape.attentions:
        return (
            "the attention weights are causal: another path carries the future (a pooling or shift over time, targets, a wrong "
            "reshape behind the attention)",
            "follow the stream: which operation after the embedding mixes positions?",
        )
    return "no attention was seen: some operation mixes positions", "which operation mixes positions?"


@torch.no_grad()
def mixing_heads(patient: Patient) -> tuple[str, str] | None:
    """Whether a reshape mixes positions on the way into the first attention, or out of it."""
    if "mixing" in patient.memo:
        return patient.memo["mixing"]
    ids = patient.ids(3, patient.T)
    other, at = ids.clone(), patient.T - 1  # the last token: nothing may reach an earlier position
    other[:, at] = (other[:, at] + 1) % patient.vocab
    answer = None
    with patient.shaken():
        one, two = (watch(patient, x) for x in (ids, other))
    if one.attentions and two.attentions:
        a, b = one.attentions[0], two.attentions[0]
        alone = torch.arange(patient.T) == at
        if a.source is not None and b.source is not None and a.source.numel() % (3 * patient.T) == 0:
            # what went into the linear layer of the queries has heard the last token already: not the reshape's fault
            came = ((a.source - b.source).reshape(3, patient.T, -1).abs().amax(dim=-1) > 1e-6).any(dim=0).cpu()
            turned = ((a.source - b.source).reshape(patient.T, 3, -1).abs().amax(dim=-1) > 1e-6).any(dim=1).cpu()
            if came[:-1].any() and turned[:-1].any():
                patient.memo["mixing"] = None
                return None
        for what, x, y in (("query", a.q, b.q), ("key", a.k, b.k)):
            if x is None or x.shape != y.shape or x.shape[-2] != patient.T:
                continue
            rows = ((x - y).abs().amax(dim=-1) > 1e-6).reshape(-1, patient.T).any(dim=0).cpu()
            if rows[~alone].any() and answer is None:
                wrong = (rows & ~alone).nonzero().flatten().tolist()
                answer = (
                    f"a reshape mixes positions and heads on the way in: token {at} alone was changed, but the {what}s of "
                    f"positions {places(wrong)} changed in the first attention",
                    "view(B, T, nh, hs) first, then transpose(1, 2): the view alone reads the memory in another order",
                )
        if answer is None and a.after is not None and b.after is not None and a.after.shape == b.after.shape:
            heard = a.out is not None and ((a.out - b.out).abs().amax(dim=-1) > 1e-6).reshape(-1, patient.T).any(dim=0).cpu()
            rows = ((a.after - b.after).abs().amax(dim=-1) > 1e-6).flatten().cpu()  # (B·T,), or (T·B,) with time first
            rows = [rows.view(3, patient.T).any(dim=0), rows.view(patient.T, 3).any(dim=1)]  # (T,)
            if a.out is not None and all((way & ~heard).any() for way in rows):
                wrong = (rows[0] & ~heard).nonzero().flatten().tolist()
                answer = (
                    f"a reshape mixes positions and heads on the way out: the weighed values of positions {places(wrong)} did "
                    "not change, but the input of the next layer there did",
                    "transpose(1, 2) back to (B, T, nh, hs) before the heads are laid side by side",
                )
    patient.memo["mixing"] = answer
    return answer


# ---------------------------------------------------------------------------------------------------------------------
# 5. Checks: what must be true of a causal language model
# ---------------------------------------------------------------------------------------------------------------------

CHECKS: dict[str, tuple[Callable[[Patient], tuple], tuple[str, ...]]] = {}


def check(name: str, needs: str = ""):
    """Register a check. It returns (status, evidence, cause, advice); the last two may be missing.

    It is not asked where one of those it `needs` has failed: what it compares would differ for that reason already.
    """

    def register(function: Callable[[Patient], tuple]) -> Callable[[Patient], tuple]:
        CHECKS[name] = function, tuple(filter(None, needs.split(", ")))
        return function

    return register


@check("answers")
@torch.no_grad()
def answers(p: Patient) -> tuple:
    """Finite logits of the right size."""
    problems = []
    if p.axes == "BVT":
        shape = f"(B, V, T) = (3, {p.out_vocab}, {p.T})"
        problems.append((f"the logits come as {shape}", "the axes are turned", "transpose(1, 2): logits are (B, T, V)"))
    need = p.claimed_vocab or 0  # a table may be padded, or hold a special token that is never predicted
    if p.out_vocab < need:
        problems.append(
            (
                f"{p.out_vocab} logits for a vocabulary of {need}",
                "the head is too small: some tokens can never be predicted",
                "give the last layer vocab_size outputs",
            )
        )
    if p.in_vocab and need > p.in_vocab:
        problems.append(
            (
                f"a table of {p.in_vocab} rows for a vocabulary of {need}",
                "the embedding is too small: the last tokens crash",
                "nn.Embedding(vocab_size, n_embd)",
            )
        )
    if p.in_vocab and not need and p.out_vocab < p.in_vocab:
        problems.append(
            (
                f"{p.out_vocab} logits for a table of {p.in_vocab} tokens",
                "the head is too small: some tokens can never be predicted",
                "give the last layer as many outputs as there are tokens",
            )
        )
    one, three = (p.pick(p.raw(x, x if p.mode == "targets" else None), len(x), p.T) for x in (p.ids(1, p.T), p.ids(3, p.T)))
    if one is None or one.dim() != three.dim():
        problems.append(
            (
                f"one row gives logits {None if one is None else tuple(one.shape)}, three rows {tuple(three.shape)}",
                "a batch of one loses its axis (squeeze without dim?)",
                "no squeeze() on a tensor with a batch axis",
            )
        )
    logits = p.logits(p.ids(3, p.T))
    if (logits == 0).float().mean() > 0.1 and (logits >= 0).all() and logits.max() > 0:
        problems.append(
            (
                f"{(logits == 0).float().mean():.0%} of the logits are exactly 0, and none is below",
                "an activation (ReLU) on the logits: it cuts off all that is unlikely",
                "nothing behind the last linear layer",
            )
        )
    if not logits.isfinite().all():
        rows = (~logits.isfinite()).flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()  # (B, T, V) -> (T,)
        cause, advice = "numbers overflow, or a row of an attention mask blocks everything", "look for the first NaN by layer"
        tape = watch(p, p.ids(3, p.T))
        if tape.attentions and (W := tape.attentions[0].weights.float().reshape(-1, p.T, p.T)).isnan().any():
            rows = W.isnan().any(dim=0).any(dim=1).nonzero().flatten().tolist()
            strict = (W[:, 1:].nan_to_num(0).diagonal(offset=1, dim1=1, dim2=2) == 0).all()
            cause = f"the mask blocks all of row {places(rows)}, and the softmax of nothing is NaN"
            cause += ": the position itself is excluded" if rows == [0] and strict else ""
            cause += ": the mask's polarity is turned round" if rows == [p.T - 1] else ""
            advice = "a position may see itself and the past: tril(diagonal=0), and mind what True means"
        problems.append((f"NaN or infinity in the logits of positions {places(rows)}", cause, advice))
    low, high = logits.nan_to_num(0).min().item(), logits.nan_to_num(0).max().item()
    sums = logits.nan_to_num(0).sum(dim=-1)
    if p.out_vocab > 1 and low >= 0 and high <= 1 and (sums - 1).abs().max() < 1e-3:
        problems.append(
            (
                "the logits of each position are probabilities: between 0 and 1, and they add up to 1",
                "a softmax inside the model: cross_entropy applies another one, and the loss can hardly fall",
                "return the scores before the softmax",
            )
        )
    p.memo["finite"] = bool(logits.isfinite().all())
    if problems:
        return "fail", *(" · ".join(dict.fromkeys(part)) for part in zip(*problems, strict=True))
    if p.in_vocab and p.in_vocab < p.out_vocab:
        return (
            "warn",
            f"{p.out_vocab} logits, but a table of {p.in_vocab} tokens",
            "the head is larger than the embedding: it can predict tokens that crash when they are read",
            "give both vocab_size, padded alike if at all",
        )
    form = {"plain": "", "targets": " (all positions only when targets are given)", "prefixes": " (last position only)"}
    return "pass", f"logits (3, {p.T}, {p.out_vocab}){form[p.mode]}, from {low:.2f} to {high:.2f}"


@check("side effects")
@torch.no_grad()
def side_effects(p: Patient) -> tuple:
    """Answering changes neither the ids, nor the weights, nor the mode."""
    ids = p.ids(2, p.T)
    before, heard = ids.clone(), io.StringIO()
    lists = sum(len(v) for m in p.model.modules() for v in vars(m).values() if isinstance(v, list))
    with p.shaken(), contextlib.redirect_stdout(heard):
        kept = {name: t.clone() for name, t in p.parameters.items()}
        p.model(ids, **p.extra, **({p.targets_name: before.clone()} if p.mode == "targets" else {}))
        other = [name for name, t in p.parameters.items() if not torch.equal(t.nan_to_num(0), kept[name].nan_to_num(0))]
    if not torch.equal(ids, before):
        where = (ids != before).nonzero()[0].tolist()
        return (
            "fail",
            f"after the call the caller's ids are others, first at row {where[0]}, position {where[1]}",
            "forward writes into its input in place",
            "work on a copy: ids.clone()",
        )
    if other:
        return (
            "fail",
            f"after one call in evaluation mode {len(other)} weights are others: {places(other)}",
            "forward changes its own weights in place",
            "no in-place operation (+=, mul_, copy_) on a parameter in forward",
        )
    training = [name or "the model" for name, m in p.model.named_modules() if m.training]
    if training:
        return (
            "fail",
            f"after model.eval() and one call, training mode is on in: {places(training)}",
            "forward, or an overridden train(), switches the mode",
            "leave the mode to the caller",
        )
    grown = sum(len(v) for m in p.model.modules() for v in vars(m).values() if isinstance(v, list)) - lists
    if grown > 0 or heard.getvalue():
        what = f"prints {heard.getvalue().strip()[:40]!r}" if heard.getvalue() else f"keeps {grown} more objects in a list"
        return "warn", f"each call {what}", "left over from debugging", "remove it: memory, or the screen, fills up"
    return "pass", "ids, weights and mode are as before"


@check("repeats")
@torch.no_grad()
def repeats(p: Patient) -> tuple:
    """In evaluation mode the same ids get the same logits."""
    ids = p.ids(2, p.T)
    first, second = p.logits(ids), p.logits(ids)
    if moved(first, second).max() > tolerance(p, first):
        far = moved(first, second).max().item()
        return (
            "fail",
            f"the same ids twice, with the same random numbers: logits differ by up to {far:.3g}",
            "the model keeps something between calls (a cache, a counter, a running state) and forward reads it",
            "forward must depend on its inputs only; clear such state at the start",
        )
    seed(1)
    given = {} if p.mode != "targets" else {p.targets_name: ids.roll(-1, dims=1)}
    third = p._read(p.model(ids, **p.extra, **given), 2, p.T)
    last = first[:, -third.shape[1] :]
    if moved(last, third).max() > tolerance(p, first):
        hidden = [n for n, m in p.model.named_modules() if isinstance(m, nn.Dropout) and m.training and m.p > 0]
        seen = watch(p, ids).random
        cause = "dropout or noise is active in evaluation mode"
        if hidden:
            cause += f": {places(hidden)} stayed in training mode (train() or eval() is overridden, or not called on it)"
        elif seen:
            cause += ": F.dropout(x, p) without training=self.training drops always; so does a Dropout in a plain list"
        return (
            "fail",
            f"the same ids twice in eval mode: logits differ by up to {moved(last, third).max():.3g}",
            cause,
            "nn.Dropout as a registered module, or F.dropout(x, p, self.training)",
        )
    high = [(n, m.p) for n, m in p.model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0.6]
    if high:
        return (
            "warn",
            f"{high[0][0]} drops {high[0][1]:.0%} in training",
            "the probability to keep was given as the probability to drop",
            f"nn.Dropout({1 - high[0][1]:.1g})",
        )
    return "pass", "the same ids, the same logits, in evaluation mode"


@check("registered")
def registered(p: Patient) -> tuple:
    """All that should be trained is known to PyTorch."""
    lost = {name: t for name, t in p.unregistered.items() if t.requires_grad and t.is_leaf and t.is_floating_point()}
    if lost:
        size = sum(t.numel() for t in lost.values())
        return (
            "fail",
            f"{len(lost)} weights ({size:,} numbers) are not among model.parameters(): {places(lost, 3)}",
            "layers in a plain Python list or dict: no optimizer, .to(), eval() or state_dict() reaches them",
            "nn.ModuleList, nn.ModuleDict or nn.ParameterList instead of [] or {}",
        )
    return "pass", f"{len(p.parameters)} parameters, {sum(t.numel() for t in p.parameters.values()):,} numbers; none is hidden"


def containers(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Stacks of layers, with their names: modules of the same weights side by side, or in a plain list, or in a Sequential."""
    found = []
    for name, module in model.named_modules():
        children = [child for child in module._modules.values() if child is not None and any(True for _ in child.parameters())]
        shapes_of = [tuple((n, x.shape) for n, x in child.named_parameters()) for child in children]
        stacks = [
            [c for c, s in zip(children, shapes_of, strict=True) if s == kind] for kind in set(shapes_of) if len(kind) > 2
        ]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            stacks.append(children)
        for value in vars(module).values():
            if isinstance(value, list | tuple) and all(isinstance(v, nn.Module) for v in value):
                stacks.append(list(value))
        found += [(name or "the model", stack) for stack in stacks if len(stack) > 1]
    return found


@check("shared layers")
def shared_layers(p: Patient) -> tuple:
    """Each layer of a list has weights of its own."""
    for name, layers in containers(p.model):
        distinct = {id(layer) for layer in layers}
        if len(distinct) < len(layers):
            return (
                "fail",
                f"{name} has {len(layers)} entries, but only {len(distinct)} different: the count of parameters does not grow "
                "with the number of layers",
                "[Block()] * n repeats one block n times",
                "[Block() for _ in range(n)]",
            )
        owners: dict[int, list[str]] = {}
        for i, layer in enumerate(layers):
            for inner, parameter in layer.named_parameters():
                if parameter.dim() == 2 and parameter.shape[0] in (p.in_vocab, p.out_vocab):
                    continue  # a tied head
                owners.setdefault(id(parameter), []).append(f"{name}[{i}].{inner}")
        twice = [names for names in owners.values() if len(names) > 1]
        if twice:
            return (
                "fail",
                f"layers of {name} share {len(twice)} of their weights: {' is '.join(twice[0][:3])}",
                "a module or parameter made once, outside the loop, is used in several layers",
                "make it inside each layer",
            )
    return "pass", "no two layers of a list share weights" if containers(p.model) else "no list of layers"


@check("rows", needs="side effects, repeats")
@torch.no_grad()
def rows_apart(p: Patient) -> tuple:
    """Rows of a batch do not influence each other, in evaluation and in training."""
    for training in (False, True):
        mode = "training" if training else "evaluation"
        with p.shaken():
            p.model.train(training)
            try:
                ids, far = p.ids(3, p.T), 0.0
                base = p.logits(ids)
                for row in range(3):
                    other = ids.clone()
                    other[row] = (other[row] + 1) % p.vocab
                    rest = [r for r in range(3) if r != row]
                    far = max(far, moved(base, p.logits(other))[rest].max().item())
                alike = p.logits(ids[:1].expand(3, -1)) if not training else base[:1]
                differs = moved(alike, alike[:1].expand_as(alike)).max().item()
            finally:
                p.model.eval()
        allowed = tolerance(p, base)
        if far > allowed:
            p.memo["rows independent"] = False
            turned = time_first(p)
            if turned:
                raise NotExaminable(turned)
            cause = "an operation mixes the axis of the batch: attention or a normalisation over axis 0 (batch_first?)"
            if [n for n, m in p.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
                cause = "BatchNorm takes its statistics over the batch: use LayerNorm, which stays within one position"
            elif any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in p.model.modules()):
                cause = "nn.MultiheadAttention without batch_first=True takes axis 0 for time: it attends over the batch"
            return (
                "fail",
                f"in {mode} mode, other tokens in one row moved the logits of another by up to {far:.3g}",
                cause,
                "keep axis 0 apart everywhere; nn.MultiheadAttention and nn.Transformer need batch_first=True",
            )
        if differs > allowed:
            p.memo["rows independent"] = False
            return (
                "fail",
                f"three equal rows in a batch get different logits, by up to {differs:.3g}",
                "something depends on the number of the row: positions taken from the axis of the batch?",
                "positions are arange(T), the same for each row",
            )
    return "pass", "other tokens in other rows move nothing; equal rows get equal logits"


def time_first(p: Patient) -> str:
    """Whether the model takes (T, B): then rows are positions, and columns are independent and causal the other way round."""
    ids = p.ids(p.T, 3)  # (T, B) for such a model
    try:
        with p.shaken():
            base, other = p.logits(ids), ids.clone()
            other[p.T // 2 :, 0] = (other[p.T // 2 :, 0] + 1) % p.vocab
            far = moved(base, p.logits(other))  # (T, B)
    except Exception:
        return ""
    quiet = tolerance(p, base)
    if far[:, 1:].max() <= quiet and far[: p.T // 2].max() <= quiet and far[p.T // 2 :, 0].min() > quiet:
        return f"it reads (T, B), time first: {ADAPT.format(what='ids.t()')}, turned back with transpose(0, 1)"
    return ""


@check("causality", needs="side effects, repeats")
def causality(p: Patient) -> tuple:
    """No position hears what comes after it: in evaluation, in training, with targets, and by gradient."""
    far, allowed = listening(p)
    late = torch.ones(p.T, p.T, dtype=torch.bool).triu(1)
    tape, mode = tape_of(p), "evaluation"
    if not (far[late] > allowed).any() and p.mode != "prefixes":
        p.model.train()
        try:
            with p.shaken():
                targets = p.ids(1, p.T, 5) if p.both else None
                trained, quiet = dependence(p, p.ids(1, p.T), targets, together=False)  # the same dropout for each
                if (trained[late] > quiet).any():
                    far, allowed, mode, tape = trained, quiet, "training", watch(p, p.ids(3, p.T))
        finally:
            p.model.eval()
    if p.both:
        with torch.no_grad(), p.shaken():
            ids = p.ids(2, p.T)
            one, two = (p._read(p.raw(ids, p.ids(2, p.T, seed)), 2, p.T) for seed in (1, 2))
        if one.shape == two.shape and moved(one, two).max() > tolerance(p, one):
            return (
                "fail",
                f"other targets move the logits by up to {moved(one, two).max():.3g}",
                "the targets are fed in: they reach the logits, and they are the future",
                "targets serve the loss only",
            )
    leaks = (far > allowed) & late
    if leaks.any():
        ahead = sorted({j - t for t, j in leaks.nonzero().tolist()})
        deaf = [t for t in range(p.T) if leaks[t].any()]
        span = f"+{ahead[0]}" if len(ahead) == 1 else f"+{ahead[0]} to +{ahead[-1]}"
        evidence = (
            f"in {mode} mode positions {places(deaf)} hear the future: their logits move by up to {far[late].max():.3g} when "
            f"the token at offset {span} changes (rounding: {allowed:.1g})"
        )
        cause, advice = why_future(p, tape, far, allowed)
        if mode == "training":
            cause = f"in training mode only: {cause}"
        return "fail", evidence, cause, advice
    heard = gradient_from_future(p)
    if heard > 1e-7:
        cause, advice = why_future(p, tape, far, allowed)
        return "fail", f"a gradient of {heard:.2g} (of the largest) flows back from the past to the future", cause, advice
    known = random_text(p)
    if known is not None and p.out_vocab > 4 and known < math.log(p.vocab) - 0.2:
        return (
            "fail",
            f"on random ids, which nobody can predict, its loss is {known:.2f}, below ln V = {math.log(p.vocab):.2f}",
            "it sees the answer by a way that changes of single tokens do not show",
            "is the target in its input?",
        )
    return "pass", f"changing a token moved no position before it (rounding: {allowed:.1g}), in evaluation and training mode"


def gradient_from_future(p: Patient) -> float:
    """How much gradient flows from the logits of the first half back to the tokens of the second, beside that to the first.

    The two halves use different tokens, and only logits of the first half's tokens are taken: then the rows of the second
    half's tokens in the table get a gradient by way of the future only, also where the head is tied to the table.
    """
    table = p.parameters.get(p.token_table[0])
    if table is None or not table.requires_grad or p.vocab < 4 or p.mode == "prefixes":
        return 0.0
    half, cut = p.T // 2, p.vocab // 2
    ids = p.ids(1, p.T) % cut
    ids[0, half:] += cut
    with torch.enable_grad(), p.shaken():
        logits = p.logits(ids)[0, :half, :cut]
        if not logits.requires_grad:
            return 0.0
        (sizes,) = torch.autograd.grad((logits.nan_to_num(0) * torch.linspace(-1, 1, cut)).sum(), table, allow_unused=True)
    if sizes is None:
        return 0.0
    sizes = sizes.float().nan_to_num(0).abs().amax(dim=1)  # (V, C) -> (V,)
    future, past = (sizes[part].max() for part in (ids[0, half:], ids[0, :half]))
    return (future / past.clamp(min=1e-30)).item()


@torch.no_grad()
def random_text(p: Patient) -> float | None:
    """Loss on random ids with random targets, by our own arithmetic. None if it is not a number."""
    ids = p.ids(12, p.T + 1, seed=7)
    logits = torch.cat([p.logits(part[:, :-1], part[:, 1:] if p.mode == "targets" else None) for part in ids.split(3)])
    loss = F.cross_entropy(logits[..., : max(p.vocab, 1)].flatten(0, 1), ids[:, 1:].flatten()).item()
    return loss if math.isfinite(loss) else None


@check("memory", needs="answers, side effects, repeats, rows")
def memory(p: Patient) -> tuple:
    """Every position hears all of its past, and itself."""
    far, allowed = listening(p)
    if p.T < 2:
        return "n/a", "a window of one token has no past"
    own = far.diagonal()
    if (own <= allowed).all():
        return (
            "fail",
            "no position's logits depend on its own token",
            "the input is shifted right inside the model, or the last token is cut off: position t answers for token t - 1",
            "logits at t are the guess for t + 1, from tokens 0 … t",
        )
    if (own <= allowed).any():
        deaf = (own <= allowed).nonzero().flatten().tolist()
        return "fail", f"the logits of positions {places(deaf)} do not depend on their own token", *quiet_cause(p)
    early = torch.ones(p.T, p.T, dtype=torch.bool).tril(-1)
    missing = (far <= allowed) & early
    reach = promised(p.model, ("sliding_window", "attention_window", "local_window_size", "window"))
    if (missing == early).all():
        p.memo["context"] = False
        return (
            "fail" if tape_of(p).attentions or tape_of(p).softmaxes else "warn",
            "the logits depend on the position's own token only: the context is ignored",
            *(quiet_cause(p) if not mixing_heads(p) else mixing_heads(p)),
        )
    if missing.any() and not (reach and reach[0][1] < p.T):
        t, j = missing.nonzero()[-1].tolist()
        back = sorted({t - j for t, j in missing.nonzero().tolist()})
        cause, advice = mixing_heads(p) or quiet_cause(p)
        return "fail", f"position {t} does not hear position {j}; unheard offsets: -{back[0]} to -{back[-1]}", cause, advice
    if not reach and p.mode != "prefixes" and p.long > p.T:
        with torch.no_grad(), p.shaken():
            ids = p.ids(1, p.long)
            spots = [0, p.long // 4, p.long // 2]
            changed = ids.repeat(len(spots) + 1, 1)
            for row, spot in enumerate(spots):
                changed[row, spot] = (changed[row, spot] + 1) % p.vocab
            try:
                logits = torch.cat([p.logits(part) for part in changed.split(2)])
            except Exception:
                return "pass", f"every position hears itself and all before it, over {p.T} tokens (not tried on more: it fails)"
            if not logits.isfinite().all():
                return "pass", f"every position hears itself and all before it, over {p.T} tokens (not finite on {p.long})"
            heard = moved(logits[:-1, -1], logits[-1:, -1])
        unheard = [spot for spot, far in zip(spots, heard.tolist(), strict=True) if far <= tolerance(p, logits) / 60]
        if unheard:
            kind = "recurrent" if not tape_of(p).attentions else ""
            if kind:
                return (
                    "pass",
                    f"every position hears itself and all before it, over {p.T} tokens (a recurrent model forgets further)",
                )
            return (
                "fail",
                f"position {p.long - 1} does not hear position {places(unheard)}",
                "a window in the attention mask is narrower than the block size",
                "if that is meant, name it sliding_window in the configuration",
            )
    window = f" (within its sliding window of {reach[0][1]})" if reach else ""
    return "pass", f"every position hears itself and all before it{window}"


def quiet_cause(p: Patient) -> tuple[str, str]:
    """Why a position does not hear some of the past."""
    tape = tape_of(p)
    if not tape.attentions and tape.softmaxes:
        return (
            f"a softmax was seen over {tape.softmaxes[0]}, none over {tape.T} x {tape.T} positions: attention runs over "
            "another axis (the heads of one token?)",
            "transpose(1, 2) to (B, nh, T, hs) before attention",
        )
    if not tape.attentions:
        return "no attention was seen that could bring it there", "is the layer that mixes positions called at all?"
    early = torch.ones(tape.T, tape.T, dtype=torch.bool, device=p.device).tril(-1)
    W = flat(tape.attentions[0].weights).amax(dim=0)
    if (W[early] < 1e-9).all():
        late = W[early.T]
        if (late > 1e-9).any():
            return "the mask's polarity is turned round: the past is covered, not the future", "invert the mask"
        return "the mask lets a position see itself only", "tril(): all positions up to the own one"
    if (W[early] < 1e-9).any():
        reach = max(t - j for t, j in ((W > 1e-9) & early).nonzero().tolist())
        return (
            f"the mask of the first attention reaches back {reach} positions only: a window",
            "tril() without a triu() on top",
        )
    return (
        "the attention sees the past, but its result does not reach the logits",
        "is the output of the attention added to the stream?",
    )


@check("positions", needs="side effects, repeats, rows")
@torch.no_grad()
def positions(p: Patient) -> tuple:
    """The order of the past matters, and positions count 0, 1, 2 …"""
    if p.T < 4:
        return "n/a", "the window is too short"
    tape = tape_of(p)
    asked = {}
    with contextlib.suppress(Exception):  # whether it takes so many is a question of lengths
        asked = {name: rows for name, _, rows in watch(p, p.ids(1, p.long)).embeddings}
    for name, length, rows in p.positions:
        far = asked.get(name, rows).flatten().tolist()
        if len(set(far)) < min(p.long, len(far)) and len(set(rows.flatten().tolist())) == p.T:
            at = next(i for i in range(1, len(far)) if far[i] in far[:i])
            return (
                "fail",
                f"{name}: position {at} of {p.long} gets row {far[at]}, which an earlier one had",
                "positions wrap round or are clamped before the end of the block",
                "torch.arange(T)",
            )
        seen = rows.flatten().tolist()[: len(rows.flatten()) // (3 if rows.numel() > p.T else 1)]
        first = seen[0]
        name = name or "the table of positions"
        if seen != list(range(first, first + p.T)):
            what = (
                "all positions get the same row"
                if len(set(seen)) == 1
                else "the rows run backwards"
                if seen[-1] < first
                else ""
            )
            say = f"{what}: " if what else ""
            return (
                "fail",
                f"{name} is asked for rows {places(seen, 6)}",
                f"{say}positions must be 0, 1, 2 …",
                "torch.arange(T)",
            )
        if first and length <= p.block + first - 1 and not p.padded(name):
            return (
                "fail",
                f"{name} has {length} rows and is asked for rows {first} to {first + p.T - 1}: row 0 is never used, and the "
                "last position has none",
                "positions are off by one",
                "torch.arange(T): they start at 0",
            )
    ids = p.ids(1, p.T)
    ids[0, 0], ids[0, 1] = 0, 1 % p.vocab
    swapped = ids.clone()
    swapped[0, 0], swapped[0, 1] = ids[0, 1], ids[0, 0]
    with p.shaken():
        both = p.logits(torch.cat([ids, swapped]))  # (2, T, V)
        same = p.logits(torch.full_like(ids, p.vocab - 1))  # one token T times
    far, quiet = moved(both[0, -1], both[1, -1]).item(), tolerance(p, both)
    even = moved(same[0, 1:], same[0, :1]).max().item() <= 3 * quiet
    if far <= quiet and listening(p)[0][-1, :2].min() > quiet:
        return (
            "fail" if any(a.q is not None for a in tape.attentions) else "warn",
            f"swapping tokens 0 and 1 moves the last logits by {far:.1g}: the order of the past does not matter",
            "positions are ignored: no position embedding reaches the stream",
            "x = wte(ids) + wpe(arange(T))",
        )
    if even and tape.attentions:
        with p.shaken():
            constant = watch(p, torch.full_like(p.ids(3, p.T), p.vocab - 1))
        W = flat(constant.attentions[0].weights)[:, -1]
        W = W[:, W.amax(dim=0) > 0]
        if W.numel() and (W.amax(dim=1) - W.amin(dim=1)).max() < 1e-4:
            named = [n for n in p.parameters if any(word in n.lower() for word in ("pos", "wpe"))]
            return (
                "fail" if named else "warn",
                "one token repeated gets the same logits at every position, and even attention weights",
                f"positions do not reach the stream, though there is {named[0]}"
                if named
                else "no positions but what the mask itself tells: forgotten, or meant so (NoPE)",
                "x = wte(ids) + wpe(arange(T)), unless it is meant so",
            )
    return "pass", f"swapping tokens 0 and 1 moves the last logits by {far:.2g}"


@check("lengths")
@torch.no_grad()
def lengths(p: Patient) -> tuple:
    """Finite logits from 1 token to block_size, and no silence past it."""
    for T in dict.fromkeys((1, 2, p.long if p.block > 256 else p.block)):
        if p.block < T:
            continue
        try:
            torch.backends.mha.set_fastpath_enabled(True)  # as it is outside: it looks at masks that the slow one ignores
            logits = p.logits(p.ids(2, T)) if p.mode != "prefixes" else p._read(p.raw(p.ids(2, T)), 2, T)
        except Exception as error:
            if T == 1 < p.block and isinstance(error, AssertionError) and str(error):
                continue  # it refuses in words
            cause = "an axis of length 1 is lost (squeeze?)" if T == 1 else "it takes fewer tokens than it says"
            if T == p.block > 2 and p._accepts(T - 1):
                cause = "positions are off by one: they count from 1"
            if kept := [name for name, x in unregistered(p.model).items() if x.dim() > 1 and T != x.shape[-1] == x.shape[-2]]:
                return (
                    "fail",
                    f"with {T} of {p.block} tokens ({p.block_from}) it fails: {said(error)}",
                    f"{kept[0]} was made for the length of an earlier call and kept",
                    "make the mask for block_size once, and cut it to T, T in forward",
                )
            return (
                "fail",
                f"with {T} of {p.block} tokens ({p.block_from}) it fails: {said(error)}",
                cause if T in (1, p.block) else "it takes some lengths only",
                f"try model(ids[:, :{T}]) by hand",
            )
        finally:
            torch.backends.mha.set_fastpath_enabled(False)
        if not logits.isfinite().all():
            known = (~p.logits(p.ids(2, p.T)).isfinite()).any()
            cause = (
                "statistics of a single position (std over time with one element)" if T == 1 else "overflow, or a bad last row"
            )
            cause = "as at other lengths: see answers" if known else cause
            return "fail", f"NaN or infinity in the logits for {T} tokens", cause, "look for the first NaN by layer"
    p.memo["fits"] = True
    wide = p.block + 1
    if p.block > 4096 or (p.limit is None and p.block_from == "by trying"):
        return "pass", f"finite at 1, 2 and {p.long} tokens; no limit was found up to {p.long}"
    try:
        answer = p.raw(p.ids(1, wide), p.ids(1, wide) if p.mode == "targets" else None)
    except Exception as error:
        return "pass", f"finite at 1, 2 and {p.long} tokens; {wide} are refused: {said(error)}"
    found = p.pick(answer, 1, wide)
    if found is None or (found.dim() == 3 and p.mode != "prefixes" and wide not in found.shape[:2] and found.shape[-1] != wide):
        return (
            "fail",
            f"{wide} tokens give {shapes(answer)}: fewer answers than tokens, and no error",
            "the input is cut to the block size inside forward, silently",
            "raise a ValueError in forward; cut in generate()",
        )
    if p.limit is not None and p.limit < wide:
        return (
            "fail",
            f"{wide} tokens are taken without an error, but there are only {p.limit} positions ({p.block_from})",
            "positions wrap round or are clamped past the end (modulo, clamp), silently",
            "raise a ValueError for more than block_size tokens",
        )
    return (
        "pass",
        f"finite at 1, 2 and {p.long} tokens; more than {p.block} are taken too, and no table of positions ends there",
    )


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__


@check("softmax")
def softmax_axis(p: Patient) -> tuple:
    """Attention weights are a distribution over the keys."""
    tape = tape_of(p)
    seen = [a for a in tape.attentions if a.soft is not None]
    for layer, a in enumerate(seen):
        sums = flat(a.weights).sum(dim=-1)
        if a.axis != "keys":
            what = {"queries": "the queries (dim=-2)", "another axis": "the heads or the batch"}[a.axis]
            return (
                "fail",
                f"attention {layer}: rows of weights sum to {sums.min():.2f} … {sums.max():.2f}, not to 1",
                f"the softmax runs over {what}",
                "softmax(dim=-1): over the keys",
            )
    for layer, a in enumerate(seen):
        sums = flat(a.weights).sum(dim=-1)
        if (sums - 1).abs().max() > 0.05 and (flat(a.soft).sum(dim=-1) - 1).abs().max() < 0.01:
            late = torch.ones(tape.T, tape.T, dtype=torch.bool, device=sums.device).triu(1)
            if (flat(a.soft)[:, late] > 1e-9).any():
                return (
                    "fail",
                    f"attention {layer}: rows of weights sum to {sums.min():.2f} … {sums.max():.2f}, not to 1",
                    "the mask comes after the softmax: what is left is not a distribution any more",
                    "fill the scores with -inf before the softmax",
                )
    if not seen:
        return "n/a", "no softmax over T x T scores was seen"
    return "pass", f"{len(seen)} attentions: every row of weights sums to 1"


@check("heads", needs="answers, side effects, repeats")
def heads(p: Patient) -> tuple:
    """Splitting into heads and joining them keeps positions apart."""
    if not tape_of(p).attentions:
        return "n/a", "no attention was seen"
    mixed = mixing_heads(p)
    if mixed:
        return "fail", "changing one token reaches other positions by a reshape, not by attention", *mixed
    return "pass", "before and after the first attention each position holds its own token only"


UNSCALED = ("GPTNeo", "T5")  # published without a scale, which their first weights make up for


@check("scale")
def scale(p: Patient) -> tuple:
    """Scores are divided by the root of the head size."""
    known = [a for a in tape_of(p).attentions if a.hs and a.factor and a.soft is not None]
    if not known:
        return "n/a", "no product of queries and keys was seen, or its factor is learned"
    a = known[0]
    hs, c = a.hs, a.factor
    new = watch(p, p.ids(3, p.T)).attentions  # with the weights as they are
    norms = [flat(x).norm(dim=-1) for x in (new[0].q, new[0].k) if x is not None] if new else []
    if norms and all(n.std() < 1e-3 * n.mean() for n in norms):
        return "n/a", "queries and keys are normalised to one length: another scale belongs there"
    if abs(c * math.sqrt(hs) - 1) < 0.02:
        return "pass", f"scores are divided by {1 / c:.3g} = √{hs}, the root of the head size"
    if any(name in type(m).__name__ for m in p.model.modules() for name in UNSCALED):
        return "pass", f"scores are multiplied by {c:.3g}: so it was published"
    names = ("query_pre_attn_scalar", "attention_multiplier", "softmax_scale", "attn_scale", "scale_attn", "mup_scale")
    declared = [value for _, value in promised(p.model, names, int | float)]
    if any(math.isclose(value**e, c, rel_tol=0.02) for value in declared for e in (1, -1, -0.5)):
        return "pass", f"scores are multiplied by {c:.3g}, as its configuration says"
    widths = {x.shape[-1] for x in p.parameters.values() if x.dim() == 2}
    evidence = f"the products of queries and keys are multiplied by {c:.4g}; the head size is {hs}, 1/√{hs} = {hs**-0.5:.4g}"
    advice = "divide by math.sqrt(head_size)"
    if math.isclose(c, 1, rel_tol=1e-3):
        return "fail", evidence, "the scale is missing: scores grow with the head size, and the softmax saturates", advice
    wide = next((w for w in sorted(widths) if math.isclose(c, w**-0.5, rel_tol=0.02)), None)
    if wide:
        return "fail", evidence, f"divided by √{wide}, the width (n_embd), not by the root of the head size", advice
    if c > 1:
        return "fail", evidence, "multiplied where it should be divided", advice
    if math.isclose(c, 1 / hs, rel_tol=0.02):
        return "warn", evidence, "divided by the head size, not by its root (muP does so on purpose)", advice
    return "warn", evidence, "an unusual scale", advice


def block_list(p: Patient) -> tuple[str, list[nn.Module]]:
    """The list of layers with the most weights: the stack of blocks."""
    size = lambda found: sum(x.numel() for x in nn.ModuleList(set(found[1])).parameters())  # noqa: E731
    return max(containers(p.model), key=size, default=("", []))


@check("residual", needs="side effects, repeats, memory")
def residual(p: Patient) -> tuple:
    """The stream passes every branch: a token is heard at its own position even when all branches are silent."""
    name, layers = block_list(p)
    if not layers:
        single = [(n, list(m)) for n, m in p.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 1]
        name, layers = single[0] if single else ("", [])
    if not layers or not tape_of(p).attentions:
        return "n/a", "no stack of attention blocks was found"

    def silent(parts: list[nn.Module]):
        matrices = {id(x) for part in parts for x in part.parameters() if x.dim() >= 2}
        matrices |= {
            id(x)
            for part in parts
            for module in part.modules()
            if list(module.parameters(recurse=False)) and any(y.dim() >= 2 for y in module.parameters(recurse=False))
            for x in module.parameters(recurse=False)
        }
        names = {n for n, x in p.everything().items() if id(x) in matrices}
        return p.weights(lambda n, value: torch.zeros_like(value) if n in names else None)

    @torch.no_grad()
    def passes() -> bool:
        ids = p.ids(1, p.T)
        other = ids.clone()
        other[0, -1] = (other[0, -1] + 1) % p.vocab
        both = p.logits(torch.cat([ids, other]))
        return moved(both[0, -1], both[1, -1]).item() > tolerance(p, both)

    with p.shaken(), silent(layers):
        holds, growth = passes(), stream_growth(p, layers)
    if not holds:
        branches: dict[str, list[nn.Module]] = {}
        for layer in layers:
            for child, module in layer.named_children():
                if any(x.dim() >= 2 for x in module.parameters()):
                    branches.setdefault(child, []).append(module)
        guilty = []
        for child, parts in branches.items():
            with p.shaken(), silent(parts):
                if not passes():
                    guilty.append(child)
        where = " and ".join(guilty) if guilty else "its branches together"
        return (
            "fail",
            f"with the weights of {where} set to 0 the logits do not depend on the token any more: nothing passes beside them",
            f"the residual connection round {where} is missing",
            "x = x + branch(norm(x)), not x = branch(norm(x))",
        )
    if growth is not None and abs(growth - round(growth)) < 1e-3 and round(growth) > 1:
        return (
            "fail",
            f"with silent branches a block multiplies the stream by {growth:.2f}",
            "the residual is added twice: inside the branch and outside",
            "add x once",
        )
    return "pass", f"with all branches of {name} silent, the stream still carries each token to its logits"


@torch.no_grad()
def stream_growth(p: Patient, layers: list[nn.Module]) -> float | None:
    """How much larger the stream leaves a block than it came in, with silent branches. None where blocks normalise it."""
    ratios: list[float] = []

    def compare(module, args, output):
        came = args[0] if args and isinstance(args[0], Tensor) else None
        left = output[0] if isinstance(output, tuple) and output else output
        if came is not None and isinstance(left, Tensor) and came.shape == left.shape and came.is_floating_point():
            scale = (left * came).sum() / came.square().sum().clamp(min=1e-30)
            if torch.allclose(left, scale * came, atol=1e-4 * left.abs().max().item(), rtol=1e-3):
                ratios.append(scale.item())

    hooks = [layer.register_forward_hook(compare) for layer in set(layers)]
    try:
        p.logits(p.ids(2, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    return ratios[0] if ratios and max(ratios) - min(ratios) < 1e-3 else None


@check("norms", needs="repeats")
@torch.no_grad()
def norms(p: Patient) -> tuple:
    """Every branch reads a normalised stream, and normalisation runs over the features of one position."""
    tape = tape_of(p)
    if not any(a.q is not None for a in tape.attentions):
        return "n/a", "no attention with queries and keys was seen"
    for kind, shape, dims in tape.norms:
        if len(shape) >= 3 and shape.count(p.T) == 1 and any(shape[d] == p.T for d in dims):
            return (
                "fail",
                f"{kind} over axes {dims} of a tensor {shape}: the axis of length {p.T} is time",
                "statistics over time: a norm over the wrong axis, or a pooling over all positions",
                "nn.LayerNorm(n_embd): over the features of one position",
            )
        if kind == "BatchNorm":
            return (
                "fail",
                f"BatchNorm of a tensor {shape}",
                "BatchNorm takes its statistics over the batch and over time",
                "nn.LayerNorm(n_embd): over the features of one position",
            )
    if p.token_table[0] not in p.parameters:
        return "n/a", "no table of tokens that could be made larger"
    C = p.parameters[p.token_table[0]].shape[1]  # other tables that are cut to T are not added to the stream
    tables = [p.token_table[:2], *(table[:2] for table in p.positions), *p.tables]
    tables = {n for n, length in tables if n in p.parameters and p.parameters[n].shape[-2:] == (length, C)}
    linear = {n: m for n, m in p.model.named_modules() if len([x for x in m.parameters(recurse=False) if x.dim() == 2]) == 1}
    linear = {n: m for n, m in linear.items() if not isinstance(m, nn.Embedding)}
    size: dict[float, dict[str, float]] = {}  # of what each linear layer reads, in the order of the calls

    def measure(name):
        def hook(module, args):
            if size and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                size[factor].setdefault(name, args[0].float().square().mean().sqrt().item())

        return hook

    hooks = [m.register_forward_pre_hook(measure(n)) for n, m in linear.items()]
    try:
        with p.shaken():
            for factor in (1.0, 1000.0):
                with p.weights(lambda name, value, factor=factor: factor * value if name in tables else None):
                    size[factor] = {}
                    p.logits(p.ids(2, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    order = list(size[1.0])
    grown = [n for n in order if size[1000.0].get(n, 0) > 30 * max(size[1.0][n], 1e-12)]
    # in a Post-LN model the first attention reads the embedding as it is
    first = list(itertools.takewhile(lambda n: n in grown, order))
    late = [n for n in grown if n not in first]
    seen = sum(shape[-1] > 1 and dims == (len(shape) - 1,) for _, shape, dims in tape.norms)
    if grown and len(grown) >= len(order) - 1 and len(order) > 2:
        if seen >= 2 * len(tape.attentions):
            return "pass", f"{seen} normalisations, of what the branches give rather than of what they read"
        return (
            "fail",
            f"an embedding 1000 times as large makes the input of {len(grown)} of {len(order)} linear layers grow with it",
            "no LayerNorm (or RMSNorm) stands anywhere in the stream",
            "x = x + branch(norm(x)), and one more norm before the head",
        )
    head = order[-1] if order else ""
    inside = [n for n in late if n != head]
    if inside:
        return (
            "fail",
            f"an embedding 1000 times as large makes the input of {places(inside)} grow with it: nothing normalises it",
            f"the LayerNorm before {inside[0]} is missing",
            "x = x + branch(norm(x)) for each branch",
        )
    if late:
        return "pass", f"all but the head ({head}) read a normalised stream: there is no last LayerNorm"
    return "pass", f"the inputs of {len(order)} linear layers keep their size when the embedding grows 1000 times"


@check("gradients", needs="lengths")
def gradients(p: Patient) -> tuple:
    """Every parameter takes part, and gets a gradient."""
    if not p.parameters:
        return "n/a", "it has no parameters"
    ids = p.ids(3, p.long if p.mode != "prefixes" else p.T)
    with torch.enable_grad(), p.shaken():
        wants = {name: x.requires_grad for name, x in p.parameters.items()}
        for x in p.parameters.values():
            x.grad = None
            if x.is_floating_point():
                x.requires_grad_(wants[name_of(p, x)])
        logits = p.logits(ids)
        p.memo["trainable"] = logits.requires_grad
        if logits.is_inference():
            return (
                "warn",
                "forward runs under torch.inference_mode: it cannot be trained",
                "made for inference only",
                "remove it to train",
            )
        if not logits.requires_grad:
            cut = "all parameters are frozen" if not any(wants.values()) else "the way from the weights to the logits is cut"
            return (
                "fail",
                "the logits carry no gradient at all",
                f"{cut} (torch.no_grad, detach, .data, argmax or .item() on the way)",
                "no detach() or no_grad() inside forward",
            )
        F.cross_entropy(logits.flatten(0, 1).nan_to_num(0), ids.roll(-1, 1).flatten()).backward()
        grads = {name: None if x.grad is None else x.grad.abs().max().item() for name, x in p.parameters.items()}
        for x in p.parameters.values():
            x.grad = None
    frozen = [n for n, wanted in wants.items() if not wanted and p.parameters[n].is_floating_point()]
    fixed = [
        n for n in frozen if p.parameters[n].dim() >= 2 and not any(w in n.lower() for w in ("pos", "wpe", "rotary", "pe."))
    ]
    apart = [n for n in grads if "encoder_attn" in n or "cross" in n.lower()]  # waits for an encoder that is not there
    none = [n for n, g in grads.items() if g is None and n not in frozen and n not in apart]
    zero = [n for n, g in grads.items() if g == 0.0 and p.parameters[n].numel() > 1 and not key_bias(p, n)]
    if none or zero:
        reached = [n for n, g in grads.items() if g]
        tables = [
            n for n in none if "pos" in n.lower() or "wpe" in n or (p.block in p.parameters[n].shape[:-1] and not linear(p, n))
        ]
        cause = "they are never used in forward" if none else "what they compute is cut off (detach) or multiplied by 0"
        if none and len(none) > 0.3 * len(grads):
            first = reached[0] if reached else "none"
            cause = f"the gradient is cut on the way (detach, .data, no_grad): it reaches {first} …, or layers are not called"
        elif tables:
            cause = "the table of positions is made but never added to the stream"
        return (
            "fail",
            f"{len(none)} parameters get no gradient, {len(zero)} a gradient of exactly 0: {places(none + zero)}",
            cause,
            "call them in forward, or remove them; no detach() inside the model",
        )
    if fixed:
        return (
            "warn" if len(fixed) > sum(x.dim() >= 2 for x in p.parameters.values()) / 2 else "fail",
            f"{len(fixed)} matrices have requires_grad=False: {places(fixed)}",
            "frozen: no training changes them",
            "requires_grad_(True), unless you fine-tune on purpose",
        )
    return "pass", f"all {len(grads) - len(frozen)} parameters get a gradient"


def name_of(p: Patient, parameter: Tensor) -> str:
    return next(name for name, x in p.parameters.items() if x is parameter)


def linear(p: Patient, name: str) -> bool:
    """Whether a parameter is a linear layer's."""
    return isinstance(p.model.get_submodule(name.rpartition(".")[0]), nn.Linear)


def key_bias(p: Patient, name: str) -> bool:
    """A bias of keys: softmax cancels it, so its gradient is 0 up to rounding."""
    return p.parameters[name].dim() == 1 and "k" in name.lower().rsplit(".bias", 1)[0].rsplit(".", 1)[-1]


@check("first loss")
def first_loss(p: Patient) -> tuple:
    """A new model guesses blindly: its loss on random ids is about ln V."""
    scales = [
        m.weight
        for m in p.model.modules()
        if "norm" in type(m).__name__.lower() and isinstance(getattr(m, "weight", None), Tensor)
    ]
    trained = any((w != 1).any() and (w != 0).any() for w in scales)
    loss, blind = random_text(p), math.log(p.vocab)
    if loss is None:
        return "n/a", "the loss is not a number: see answers"
    if trained:
        return "n/a", f"the norms' weights are no longer 1: a trained model, which random ids surprise (loss {loss:.2f})"
    if p.vocab < 3:
        return "n/a", f"a vocabulary of {p.vocab}"
    if loss > blind + 1.5:
        spread = p.logits(p.ids(3, p.T)).detach().std().item()
        return (
            "fail" if loss > blind + 2.5 or not scales else "warn",
            f"loss {loss:.2f} on random ids, ln V = {blind:.2f}; logits have a standard deviation of {spread:.1f}",
            "the first weights are too large: most often an embedding of spread 1 that is tied to the head",
            "nn.init.normal_(weight, std=0.02) for embeddings and linear layers",
        )
    return "pass", f"loss {loss:.2f} on random ids, ln V = {blind:.2f}"


@check("its own loss", needs="side effects, repeats, answers")
@torch.no_grad()
def own_loss(p: Patient) -> tuple:
    """The loss that it returns is the mean cross-entropy of what comes next."""
    if not p.both:
        return "n/a", "its forward takes no targets, or answers with the loss alone"
    ids, targets = p.ids(3, p.T, 1), p.ids(3, p.T, 2)
    with p.shaken():
        with torch.enable_grad():
            answer = p.raw(ids, targets)
        logits, loss = p._read(answer, 3, p.T).detach(), p.loss_in(answer)
        parts = list(answer.values()) if isinstance(answer, Mapping) else answer if isinstance(answer, tuple | list) else []
        if loss is None and any(isinstance(part, float) for part in parts):
            return "fail", "the loss comes back as a Python number", "it carries no gradient (.item())", "return the tensor"
        if loss is None and any(t.numel() == targets.numel() and t.is_floating_point() for t in tensors_in(answer)):
            return "fail", "a loss comes back for each token", "it is not averaged (reduction='none')", "reduction='mean'"
        if loss is None or logits.shape[1] != p.T:
            return "n/a", f"no loss came back when {p.targets_name} was given"
        if not loss.requires_grad and any(x.requires_grad for x in p.parameters.values()) and p.memo.get("trainable", True):
            return "fail", "the loss carries no gradient", "it is detached, or computed under no_grad", "return it as it is"
        loss = loss.item()
        each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (B, V, T), (B, T) -> (B, T)
        inside = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets[:, 1:], reduction="none")
        copied = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        twice = F.cross_entropy(logits[:, :-2].transpose(1, 2), targets[:, 2:], reduction="none")
        back = F.cross_entropy(logits[:, 1:].transpose(1, 2), targets[:, :-1], reduction="none")
        ahead = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        logs = F.nll_loss(logits.transpose(1, 2), targets, reduction="none")
        padded = padding(p, ids, targets)
    near = lambda value: math.isclose(loss, value.item(), rel_tol=3e-5, abs_tol=3e-5)  # noqa: E731
    hf = p.targets_name in ("labels", "label")
    if near(inside.mean()) or near(each.mean()) or near(logs.mean()) or near(ahead.mean()):
        shifted = near(inside.mean()) and not near(each.mean())
        how = "it shifts them itself" if shifted else "it takes them as the tokens that follow"
        if near(ahead.mean()):
            return "pass", f"the mean over all tokens of its input's own next tokens (it does not look at {p.targets_name})"
        if padded:
            return padded
        if hf and not shifted:
            return (
                "warn",
                f"loss {loss:.4f} compares the logits at t with {p.targets_name} at t",
                f"{p.targets_name} are not shifted inside, as Hugging Face's models do: given the ids, it learns to copy",
                "shift inside: logits[:, :-1] against labels[:, 1:]; or name them targets and give the next tokens",
            )
        if shifted and not hf:
            return (
                "fail",
                f"loss {loss:.4f} compares the logits at t with {p.targets_name} at t + 1",
                f"shifted twice: {p.targets_name} are the next tokens already, and forward shifts them once more",
                "shift once: in the batch or in forward, not in both",
            )
        return "pass", f"loss {loss:.4f} is the mean over all tokens of {p.targets_name}: {how}"
    for value, cause, advice in (
        (
            copied.mean(),
            "the targets are not shifted: logits at t are compared with the input at t, which it can see",
            "next tokens",
        ),
        (copied[:, 1:].mean(), "the targets are not shifted: logits at t are compared with the input at t", "next tokens"),
        (twice.mean(), "the targets are shifted twice", "shift once"),
        (twice.mean() * 1.0, "the targets are shifted by two", "shift once"),
        (back.mean(), "the targets are shifted the wrong way: logits at t are compared with token t - 1", "next tokens"),
        (each.sum(), "the loss is summed, not averaged: it grows with batch and window", "reduction='mean'"),
        (inside.sum(), "the loss is summed, not averaged: it grows with batch and window", "reduction='mean'"),
        (each.sum() / 3, "the loss is summed over the window and averaged over the batch only", "a mean over all tokens"),
        (inside.sum() / 3, "the loss is summed over the window and averaged over the batch only", "a mean over all tokens"),
        (each.mean() * p.T / 3, "the loss is averaged over the wrong number", "a mean over all tokens"),
        (each[:, -1].mean(), "the loss looks at the last position only", "logits.view(B * T, V), targets.view(B * T)"),
        (inside[:, -1].mean(), "the loss looks at the last position only", "all positions learn at once"),
        (each[:, 0].mean(), "the loss looks at the first position only", "all positions learn at once"),
        (each[0].mean(), "the loss looks at the first row only", "all rows learn at once"),
    ):
        if near(value):
            return "fail", f"loss {loss:.4f}; the mean cross-entropy of the next tokens is {each.mean():.4f}", cause, advice
    wrong = logits.transpose(1, 2).reshape(-1, logits.shape[-1])
    cause = "it is none of the readings of a cross-entropy that were tried"
    if math.isclose(F.cross_entropy(wrong, targets.flatten()).item(), loss, rel_tol=2e-4):
        cause = "a view mixes the axes of the logits before the loss"
    elif near(-each.mean()) or near(-inside.mean()):
        cause = "its sign is turned: it rises while the model learns"
    elif loss > 3 * each.mean() or loss < 0.5 * each.mean():
        cause = "it is scaled: summed, or divided by the wrong number"
    else:
        cause += ": a view that mixes axes, weights, smoothing, or an auxiliary loss in it"
    status = "warn" if has_auxiliary(p) else "fail"
    return (
        status,
        f"loss {loss:.4f}; the mean cross-entropy is {each.mean():.4f} ({inside.mean():.4f} if it shifts)",
        cause,
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
    )


def has_auxiliary(p: Patient) -> bool:
    """A mixture of experts adds a loss of its own."""
    return any(word in type(m).__name__.lower() for m in p.model.modules() for word in ("moe", "router", "expert"))


def padding(p: Patient, ids: Tensor, targets: Tensor) -> tuple | None:
    """A finding if ignored targets are counted in the mean."""
    for ignore in (-100, -1):
        some = targets.clone()
        some[:, p.T // 2 :] = ignore
        try:
            loss, logits = p.loss_in(p.raw(ids, some)).item(), p._read(p.raw(ids, targets), 3, p.T)
        except Exception:
            continue
        means = {"rest": [], "all": [], "zero": []}
        for z, y in ((logits, some), (logits[:, :-1], some[:, 1:])):  # as they are, or shifted inside
            each = F.cross_entropy(z.transpose(1, 2), y, ignore_index=ignore, reduction="none")
            means["rest"].append((each.sum() / (y != ignore).sum()).item())
            means["all"].append(each.mean().item())
            means["zero"].append(F.cross_entropy(z.transpose(1, 2), y.clamp(min=0)).item())
        if any(math.isclose(loss, mean, rel_tol=3e-5) for mean in means["rest"]):
            return None
        for kind, cause in (
            ("all", "ignored targets count in the mean: padding makes the loss look small"),
            ("zero", "ignored targets count as token 0"),
        ):
            if any(math.isclose(loss, mean, rel_tol=3e-5) for mean in means[kind]):
                evidence = (
                    f"with half of the targets at {ignore} (to be ignored) the loss is {loss:.4f}, not {means['rest'][0]:.4f}"
                )
                return "fail", evidence, cause, f"F.cross_entropy(…, ignore_index={ignore}) divides by those that count"
    return None


@check("tied head")
def tied_head(p: Patient) -> tuple:
    """Embedding and head share one matrix if that is promised, wholly or not at all."""
    table = p.parameters.get(p.token_table[0])
    if table is None:
        return "n/a", "no table of tokens was found"
    tables = {n: x for n, x in p.parameters.items() if x.shape == table.shape}
    words = ("tie_word_embeddings", "tied_head", "tie_weights", "tied", "tie_embeddings", "weight_tying")
    said_so = next((value for _, value in promised(p.model, words, bool)), None)
    names: dict[int, list[str]] = {}
    for n, x in p.model.named_parameters(remove_duplicate=False):
        if n in tables or any(x is t for t in tables.values()):
            names.setdefault(id(x), []).append(n)
    tied = [group for group in names.values() if len(group) > 1]
    for (a, x), (b, y) in itertools.combinations(tables.items(), 2):
        if x.data_ptr() == y.data_ptr():
            return (
                "fail",
                f"{a} and {b} are two parameters in the same memory",
                "tied by .data: the optimizer holds two moments for one matrix and steps twice",
                f"{b.rsplit('.', 1)[0]}.weight = {a.rsplit('.', 1)[0]}.weight",
            )
        if x.shape == y.shape and torch.equal(x, y) and x.std() > 0:
            return (
                "fail",
                f"{a} and {b} have equal numbers, but are two parameters",
                "tied at the start only: the weights were copied, and training will drive them apart",
                "assign the parameter itself, not a copy",
            )
    if said_so is True and not tied and len(tables) > 1:
        return (
            "fail",
            f"the configuration promises a tied head, but {places(tables)} are different parameters",
            "the tying was forgotten, or undone by a later initialisation",
            "lm_head.weight = wte.weight",
        )
    if said_so is False and tied:
        return (
            "fail",
            f"{' and '.join(tied[0])} are one parameter, though the configuration says that they are not tied",
            "a tying that was not asked for",
            "remove it, or say so in the configuration",
        )
    so = "" if said_so is None else ", as promised"
    return "pass", f"{'one matrix for embedding and head' if tied else 'embedding and head are apart'}{so}"


@check("learns", needs="answers, gradients")
def learns(p: Patient) -> tuple:
    """It can learn one small batch by heart."""
    trainable = [x for x in p.parameters.values() if x.requires_grad]
    if not trainable:
        return "n/a", "nothing in it can be trained"
    if p.mode == "prefixes":
        return "n/a", "it answers for the last position only"
    if len(trainable) < 0.7 * len(p.parameters):
        return "n/a", "much of it is frozen"
    if not p.memo.get("context", True):
        return "n/a", "it does not see the context that the answer depends on"
    if not p.memo.get("trainable", True):
        return "n/a", "no gradient reaches its weights"
    T = min(16, p.block)
    ids = p.ids(3, T + 1, seed=3)
    if T < 2 or p.vocab < 2:
        return "n/a", "too small a task"
    state = {name: t.detach().clone() for name, t in p.everything().items()}
    seed(0)
    width = min((x.shape[-1] for x in trainable if x.dim() == 2), default=64)
    rate = 1e-2 if width <= 64 else 3e-3
    means = [(torch.zeros_like(x), torch.zeros_like(x)) for x in trainable]  # Adam by hand: torch.optim imports the compiler
    began, losses, step = time.perf_counter(), [], 0
    p.model.train()
    try:
        for step in range(200):
            loss = F.cross_entropy(p.logits(ids[:, :-1], ids[:, 1:] if p.both else None).flatten(0, 1), ids[:, 1:].flatten())
            losses.append(loss.item())
            if losses[-1] < 0.1 * losses[0] or not math.isfinite(losses[-1]) or time.perf_counter() - began > 8:
                break
            grads = torch.autograd.grad(loss, trainable, allow_unused=True)
            with torch.no_grad():
                for x, grad, (first, second) in zip(trainable, grads, means, strict=True):
                    if grad is not None:
                        first.lerp_(grad, 0.1)
                        second.lerp_(grad.square(), 0.05)
                        unbiased = (1 - 0.95 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
                        x.sub_(rate * unbiased * first / (second.sqrt() + 1e-8))
    except RuntimeError as error:
        return (
            "fail",
            f"a training step fails: {said(error)}",
            "the gradient cannot flow",
            "loss.backward() by hand, and read on",
        )
    finally:
        p.model.eval()
        with torch.no_grad():
            for name, tensor in p.everything().items():
                tensor.data.copy_(state[name])
                tensor.grad = None
    tail, start = min(losses[-5:]), losses[0]
    evidence = f"one batch of 3 x {T} random tokens: loss {start:.2f} to {tail:.2f} in {step + 1} steps"
    if not math.isfinite(losses[-1]):
        return "fail", evidence, "the loss is not a number", "see answers and lengths"
    if tail < 0.7 * start or tail < 0.5:
        return "pass", evidence
    if step < 60:
        return "n/a", evidence + ": too slow here to judge"
    return (
        "fail",
        evidence,
        "it cannot learn even one batch by heart: something between weights and loss is cut, saturated or not shifted",
        "see the other findings first",
    )


# ----- writing


def generate_call(p: Patient) -> Callable[[Tensor, int], Tensor] | None:
    """How to ask its generate() for n more tokens, as greedily as it can; None if it has none."""
    function = getattr(p.model, "generate", None)
    if not callable(function) or function.__class__.__name__ == "Tensor":
        return None
    names = inspect.signature(function).parameters
    takes_all = any(x.kind is x.VAR_KEYWORD for x in names.values())
    more: dict = {}
    if "do_sample" in names or (takes_all and hasattr(p.model, "generation_config")):
        more["do_sample"] = False
    elif "greedy" in names:
        more["greedy"] = True
    elif "top_k" in names:
        more["top_k"] = 1
    elif "temperature" in names:
        more["temperature"] = 1e-4
    p.memo["greedy"] = bool(more)
    if hasattr(p.model, "generation_config"):
        ends = [getattr(p.model.generation_config, name, None) for name in ("eos_token_id", "forced_eos_token_id")]
        p.memo["ends"] = [end for end in ends if isinstance(end, int)]
        more |= dict(pad_token_id=0, eos_token_id=None, use_cache=False)
    count = next(
        (
            n
            for n in ("max_new_tokens", "n_new", "num_tokens", "steps", "n_tokens", "max_tokens", "max_steps", "n", "length")
            if n in names
        ),
        None,
    )
    if "max_length" in names and count is None and not takes_all:
        return lambda ids, n, number=0: function(ids, max_length=ids.shape[1] + n, **more)
    if count is None and takes_all:
        count = "max_new_tokens"
    second = list(names)[1] if len(names) > 1 else ""
    if count is None and not any(word in second for word in ("tok", "num", "len", "max", "new", "step")):
        return None

    def call(ids: Tensor, n: int, number: int = 0):
        seed(number)
        return function(ids, **{count: n}, **more) if count else function(ids, n, **more)

    return call


@check("generate", needs="side effects, repeats, rows, answers")
@torch.no_grad()
def generate(p: Patient) -> tuple:
    """generate() continues its prompt, row by row, with what the logits say."""
    call = generate_call(p)
    if call is None:
        return "n/a", "it has no generate(ids, max_new_tokens)"
    n, T = 6, max(1, min(8, p.block - 7)) if p.block > 8 else 1
    greedy = p.memo["greedy"]
    head = [n for n, x in p.parameters.items() if x.dim() == 2 and p.out_vocab in x.shape and n != p.token_table[0]][-1:]
    sharp = {} if greedy else dict.fromkeys(head, 100)  # then a sample is the likeliest, nearly always
    with p.shaken(), p.weights(lambda name, value: value * sharp[name] if name in sharp else None):
        for number in range(4, 12):  # a prompt whose rows go on differently
            prompt = p.ids(2, T, seed=number)
            one, two = p.logits(prompt)[:, -1].argmax(dim=-1).tolist()
            if one != two:
                break
        try:
            kept = prompt.clone()
            text = call(kept, n)
        except (TypeError, AttributeError, NotImplementedError) as error:
            return "n/a", f"generate could not be called: {said(error)}"
        except Exception as error:
            return "fail", f"generate fails: {said(error)}", "an error inside generate", "call it by hand on 8 tokens"
        modes = p.model.training
        p.model.eval()
        text = next((t for t in tensors_in(getattr(text, "sequences", text)) if not t.is_floating_point()), None)
        if text is None or text.dim() != 2:
            return "n/a", "generate returns no ids (B, T)"
        if not torch.equal(kept, prompt):
            return "fail", "the caller's prompt is another after generate", "generate writes into its input", "copy it first"
        if len(text) != 2:
            return "fail", f"2 rows in, {len(text)} out", "generate drops rows of the batch", "keep the axis B throughout"
        whole = text.shape[1] == T + n
        if text.shape[1] not in (T + n, n):
            return (
                "fail",
                f"{n} new tokens were asked for; it returned {text.shape[1]} for a prompt of {T}",
                "generate writes too few or too many tokens",
                "one token for each turn of the loop",
            )
        if whole and not torch.equal(text[:, :T], prompt):
            return "fail", "what it returns does not begin with the prompt", "generate changes the prompt", "append to it only"
        new = text[:, -n:]
        again = call(prompt.clone(), n, 1)
        again = next((t for t in tensors_in(getattr(again, "sequences", again)) if not t.is_floating_point()), text)
        again = again[:, -n:]
        p.model.eval()
        if not sharp and not greedy and not torch.equal(new, again):
            return "pass", f"{n} tokens after a prompt of {T}, two rows (it has no greedy mode: the tokens are not compared)"
        if greedy and not torch.equal(new, again):
            return "fail", "two greedy calls give different texts", "generate draws although it is told to be greedy", "argmax"
        wrong = greedy_mismatch(p, prompt, new, near=0 if greedy else 12)
        if wrong:
            other = prompt.clone()
            other[:] = (other + 1) % p.vocab
            different = next((t for t in tensors_in(call(other, n)) if not t.is_floating_point()), text)[:, -n:]
            p.model.eval()
            cause = explain_generate(p, prompt, new, different)
            return "fail", wrong, cause, "take logits[:, -1] of the whole context, argmax, append"
        if modes:
            return (
                "fail",
                "generate leaves the model in training mode",
                "it calls train() at the end, whatever the mode was before",
                "restore the mode that was there",
            )
        if p.limit and not hasattr(p.model, "generation_config") and p.block <= 1024 and p.memo.get("fits", False):
            full = p.ids(1, p.block, seed=4)
            try:
                call(full, 2)
            except Exception as error:
                return (
                    "fail",
                    f"from a prompt of block_size = {p.block} tokens it fails: {said(error)}",
                    "generate does not crop the context to the block size",
                    "ids[:, -block_size:] before each call",
                )
            finally:
                p.model.eval()
    return "pass", f"{n} greedy tokens, two rows: equal to taking the likeliest by hand"


def greedy_mismatch(p: Patient, prompt: Tensor, new: Tensor, near: float = 0) -> str:
    """Where greedy text differs from the argmax of the logits by more than a near-tie; "" if nowhere."""
    for row in range(len(prompt)):
        text = prompt[row : row + 1]
        for i in range(new.shape[1]):
            if text.shape[1] > p.block:
                return ""
            logits = p.logits(text)[0, -1]
            best, mine = logits.argmax(), int(new[row, i])
            if mine in p.memo.get("ends", ()):
                break
            if mine >= len(logits) or logits[best] - logits[mine] > max(near, 100 * tolerance(p, logits)):
                return f"row {row}: token {i} of its greedy text is {mine}, the likeliest by its logits is {int(best)}"
            text = torch.cat([text, new[row : row + 1, i : i + 1]], dim=1)
    return ""


def explain_generate(p: Patient, prompt: Tensor, new: Tensor, of_other_prompt: Tensor) -> str:
    """Which wrong context would give the text that generate wrote?"""
    logits = p.logits(prompt)
    alone = p.logits(prompt[:, -1:])[:, -1].argmax(dim=-1)
    if torch.equal(new[:, 0], logits[:, 0].argmax(dim=-1)):
        return "generate takes the logits of the first position, not of the last"
    if torch.equal(new, of_other_prompt):
        return "generate ignores the prompt: another one gives the same text"
    if torch.equal(new[:, 0], alone):
        return "generate feeds only the last token, without a cache: the context is lost"
    if torch.equal(new[:, 0], logits[:, -1].argmin(dim=-1)):
        return "generate takes the least likely token: a sign is wrong"
    if prompt.shape[1] > 1 and torch.equal(new[:, 0], logits[:, -2].argmax(dim=-1)):
        return "generate takes the logits of the position before the last"
    if not torch.equal(new[:, 0], logits[:, -1].argmax(dim=-1)):
        return "generate does not take the likeliest token of the last position"
    return "from the second new token on, generate sees another context than its text (a cache, or what it appends)"


def resets(p: Patient) -> list[Callable]:
    """Methods that empty a cache which the model keeps inside."""
    if "use_cache" not in p.names:
        return []
    return [getattr(p.model, name) for name in dir(type(p.model)) if "reset" in name and "cache" in name]


def cache_call(p: Patient) -> Callable | None:
    """How to go on from a cache: a function that reads the next tokens, or None if the model offers no cache."""
    name = next((n for n in p.names if n in CACHES), None)
    state: dict = {}
    if name is None:  # some keep it inside
        resets(p)[0]()
        return lambda ids: p._read(p.model(ids, **p.extra | {"use_cache": True}), *ids.shape)

    def read(ids: Tensor) -> Tensor:
        more = {"use_cache": True} if "use_cache" in p.names else {}
        if "cache" not in state and p.new_cache is not None:
            state["cache"] = p.new_cache(len(ids))
        if "cache" in state:
            more[name] = state["cache"]
        answer = p.model(ids, **{k: v for k, v in p.extra.items() if k not in more} | more)
        if p.new_cache is None:
            state["cache"] = cache_in(answer, name)
            if state["cache"] is None:
                raise LookupError("its answer holds none")
        return p._read(answer, *ids.shape)

    return read


def cache_in(answer, name: str):
    """The cache in an answer: by name, or whatever in it is neither logits nor loss."""
    for key in (name, *CACHES, "present", "presents", "past_kv"):
        found = answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)
        if found is not None:
            return found
    if isinstance(answer, tuple | list):
        return next((part for part in answer if part is not None and not isinstance(part, Tensor)), None)
    return None


@check("cache", needs="side effects, repeats, rows, causality, memory, lengths")
@torch.no_grad()
def cache(p: Patient) -> tuple:
    """Read token by token from a cache, it answers as it does to the whole."""
    T = min(p.T, p.block)
    if not any(n in CACHES for n in p.names) and not resets(p):
        return "n/a", "its forward takes no cache"
    if T < 4:
        return "n/a", "the window is too short"
    ids = p.ids(2, T)
    with p.shaken():
        whole = p.logits(ids)
        read, first, parts = cache_call(p), T // 2, []
        try:
            parts.append(read(ids[:, :first])[:, -1:])
        except Exception as error:
            why = "" if p.new_cache else ": tell diagnose() how to make an empty one, new_cache=lambda rows: …"
            return "n/a", f"its cache could not be used: {said(error)}{why}"
        tape = None
        for t in range(first, T):
            try:
                if tape is None:
                    with Tape(p, ids[:, t : t + 1], start=t) as tape:
                        parts.append(read(ids[:, t : t + 1])[:, -1:])
                else:
                    parts.append(read(ids[:, t : t + 1])[:, -1:])
            except Exception as error:
                return (
                    "fail",
                    f"with {t} tokens in the cache, reading one more fails: {said(error)}",
                    "the shapes of queries, keys and mask do not fit when keys come from the cache",
                    "q_len is 1, k_len the whole length",
                )
        stepped = torch.cat(parts, dim=1)  # (B, T - first + 1, V)
        far = moved(whole[:, first - 1 :], stepped).amax(dim=0)  # (T - first + 1,)
        if far.max() <= 20 * tolerance(p, whole):
            return "pass", f"{T - first} tokens read one by one from the cache: logits equal to {far.max():.1g}"
        at = int((far > 20 * tolerance(p, whole)).nonzero()[0]) + first - 1
        evidence = f"read one by one from the cache, the logits at position {at} differ by {far.max():.3g}"
        return "fail", evidence, *why_cache(p, tape, ids, first, stepped)


def why_cache(p: Patient, tape: Tape, ids: Tensor, first: int, stepped: Tensor) -> tuple[str, str]:
    """What the first step from the cache did."""
    starts = {name: rows.flatten()[0].item() for name, _, rows in p.positions}
    for name, _, rows in tape.embeddings:
        asked = rows.flatten().tolist()
        if name in starts and set(asked) != {starts[name] + first}:
            return (
                f"the positions start again: with {first} tokens in the cache {name or 'the table of positions'} is asked for "
                f"row {places(asked, 2)}, not {starts[name] + first}",
                "position = arange(past, past + T)",
            )
    alone = p.logits(ids[:, first : first + 1])[:, -1]
    if moved(alone, stepped[:, 1]).max() <= 20 * tolerance(p, alone):
        return "the cache is not used: the step answers as if its token stood alone", "concatenate old and new keys"
    if tape.attentions:
        W = flat(tape.attentions[0].weights)[:, -1].amax(dim=0)  # (keys,)
        seen = (W > 1e-9).nonzero().flatten().tolist()
        if seen == [0]:
            return (
                "the new query sees key 0 only: a causal mask aligned at the top left (is_causal=True, one query, many keys)",
                "no mask for one new query: it may see all keys",
            )
        if len(seen) < first + 1:
            return f"the new query sees keys {places(seen)} of {first + 1} only", "a new query may see all keys of the past"
        return (
            "the new query sees all keys, but keys, values or positions in the cache are not those of the whole pass",
            "compare keys and values with those of one pass over the whole",
        )
    return (
        f"the number of keys is not {first + 1}: the cache is overwritten or cut, not appended to, or positions start again",
        "concatenate old and new keys along time; positions go on from the length of the cache",
    )


@check("count")
def count(p: Patient) -> tuple:
    """The number of parameters is that of the golden model."""
    golden = p.memo.get("golden")
    have = sum(x.numel() for x in p.parameters.values())
    if golden is None:
        return "n/a", f"{have:,} parameters; name a golden model to compare with: {', '.join(GOLDEN)}"
    want = GOLDEN.get(golden) or int(golden)
    if have == want:
        return "pass", f"{have:,} parameters, as {golden} has"
    return (
        "fail",
        f"{have:,} parameters; {golden} has {want:,}: {have - want:+,}",
        explain_difference(p, have - want),
        "list them by name beside the golden model's",
    )


def explain_difference(p: Patient, difference: int) -> str:
    """A difference in counts as a sum of parts that GPTs differ in, the fewest first."""
    C = p.in_vocab and next((x.shape[1] for x in p.parameters.values() if x.dim() == 2 and x.shape[0] == p.in_vocab), 0)
    _, layers = block_list(p)
    L, V = max(len(layers), 1), p.out_vocab
    if not C:
        return "no embedding was found to reckon with"
    per_block = sum(x.numel() for x in layers[0].parameters()) if layers else 0
    parts = {
        "the biases of query, key and value": 3 * C * L,
        "a last LayerNorm": 2 * C,
        "the head's bias": V,
        "a head of its own (or tied)": V * C,
        "one position": C,
        "biases of attention output and MLP": L * (C + 4 * C + C),
        "biases of the LayerNorms": C * 2 * L,
        "LayerNorms in all blocks": 4 * C * L,
        "one block": per_block,
        "all blocks but one": per_block * (L - 1),
    }
    for size in (1, 2, 3):
        for chosen in itertools.combinations(parts.items(), size):
            for signs in itertools.product((1, -1), repeat=size):
                if sum(sign * n for sign, (_, n) in zip(signs, chosen, strict=True)) == difference:
                    words = {1: "too many", -1: "missing"}
                    return "; ".join(f"{words[s]}: {name} ({n:,})" for s, (name, n) in zip(signs, chosen, strict=True))
    whole, rest = divmod(abs(difference), C)
    return f"{whole} x {C} (the width)" if rest == 0 else "no sum of the usual parts: look for a layer of another size"


# ---------------------------------------------------------------------------------------------------------------------
# 6. diagnose, and the command line
# ---------------------------------------------------------------------------------------------------------------------


def diagnose(
    model: nn.Module,
    *,
    vocab_size: int | None = None,
    block_size: int | None = None,
    golden: str | int | None = None,
    new_cache: Callable | None = None,
    seconds: float = 60.0,
    tell: Callable[[str, Finding | None], None] | None = None,
) -> Report:
    """Examine `model` and return the report. The model is left as it was.

    `vocab_size` and `block_size` are found from its configuration, its tables, or by trying; give them where that goes wrong.
    `golden` is a name of GOLDEN or a number of parameters. `new_cache(rows)` makes an empty cache, for a model whose forward
    wants one. A check that takes longer than `seconds` is stopped and reported. `tell(name, finding)` hears of each check
    when it begins (finding None) and ends.

    ValueError if `model` is no nn.Module, or an argument cannot be. Errors of the model itself are findings.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(model).__name__} is no torch.nn.Module: give the model itself, not its class or its name")
    for name, value in (("vocab_size", vocab_size), ("block_size", block_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if golden is not None and golden not in GOLDEN and not str(golden).isdigit():
        raise ValueError(f"golden={golden!r} is neither a number of parameters nor one of {', '.join(GOLDEN)}")
    if any(nn.parameter.is_lazy(x) for x in model.parameters()):
        raise ValueError("the model has lazy parameters without a size yet: call it once before diagnose()")
    began, findings = time.perf_counter(), []
    patient = Patient(model, vocab_size, block_size, new_cache)
    patient.memo["golden"] = golden
    tell = tell or (lambda name, finding: None)
    size = sum(x.numel() for x in patient.parameters.values())
    about = f"{type(model).__name__}, {size:,} parameters"

    def note(finding: Finding) -> None:
        findings.append(finding)
        tell(finding.check, finding)

    with patient.unharmed():
        tell("called", None)
        patient.model.eval()
        met = attempt("called", lambda: patient.meet() or ("pass", "it takes ids (B, T) and answers"), seconds)
        note(met)
        if met.status != "pass":
            return Report(about, findings, time.perf_counter() - began, examined=False)
        about += f", V = {patient.vocab}, block size {patient.block} ({patient.block_from})"
        for name, (examine, needs) in CHECKS.items():
            tell(name, None)
            patient.model.eval()
            ill = [other.check for other in findings if other.status == "fail" and other.check in needs]
            if ill:
                note(Finding(name, "n/a", f"not asked, for {' and '.join(ill)} failed: mend that first"))
                continue
            done = attempt(name, lambda examine=examine: examine(patient), seconds)
            note(done)
            if done.status == "adapt":
                return Report(about, [*findings[:-1], dataclasses.replace(done, status="fail")], 0.0, examined=False)
    return Report(about, findings, time.perf_counter() - began)


def attempt(name: str, work: Callable[[], tuple], seconds: float) -> Finding:
    """One check, whatever the model does in it."""
    try:
        with time_limit(seconds):
            return Finding(name, *work())
    except NotExaminable as stop:
        return Finding(name, "fail" if name == "called" else "adapt", str(stop))
    except TookTooLong:
        return Finding(
            name,
            "fail",
            f"not finished after {seconds:g} s",
            "the model hangs, or is very slow",
            "call it by hand, on one token",
        )
    except KeyboardInterrupt:
        raise
    except SystemExit as stop:
        return Finding(
            name, "fail", f"the model ended the program: sys.exit({stop.code!r})", "sys.exit in its code", "raise instead"
        )
    except BaseException as error:
        hint = batch_hint(error) if name == "called" else ""
        status = "fail" if name == "called" else "n/a"
        if name == "called":
            return Finding(
                name, status, f"it fails on ids (3, 13): {said(error)}", hint or "an error in its forward", "call it by hand"
            )
        return Finding(name, status, f"could not be asked: {said(error)}")


def batch_hint(error: BaseException) -> str:
    """What the message of a first call's error tells."""
    text = str(error)
    if "missing" in text and "argument" in text:
        return ADAPT.format(what="what is missing")
    if ("mask" in text and "shape" in text) or "must match the size" in text:
        return "an axis is taken for another: batch for time (batch_first=True?), or a mask of one fixed size"
    return ""


def load(spec: str, arguments: dict):
    """The model that `file.py:name` or `module:name` makes. ValueError with what is wrong."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{spec!r} is not of the form file.py:name or module:name")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        sys.path.insert(0, str(path.parent))
        found = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(place)
    if not hasattr(module, name):
        raise ValueError(f"{place} has no {name!r}: it has {', '.join(n for n in vars(module) if not n.startswith('_'))}")
    made = getattr(module, name)
    model = made if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} gave {type(model).__name__}, no torch.nn.Module")
    return model


def _child(channel, spec: str, arguments: dict, options: dict) -> None:
    """In a process of its own, so that whatever the model does, the caller lives to tell."""
    try:
        channel.send(("begin", "made"))
        model = load(spec, arguments)
        tell = lambda name, finding: channel.send(("begin", name) if finding is None else ("end", finding))  # noqa: E731
        channel.send(("done", diagnose(model, tell=tell, **options)))
    except BaseException as error:
        channel.send(("error", said(error)))


def examine_apart(spec: str, arguments: dict, options: dict, seconds: float) -> Report:
    """`diagnose` in another process. What hangs or crashes there is a finding."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(there, spec, arguments, options | {"seconds": seconds}), daemon=True)
    child.start()
    there.close()
    began, doing, findings = time.perf_counter(), "made", []
    try:
        while here.poll(1.5 * seconds + 15):
            kind, what = here.recv()
            if kind == "begin":
                doing = what
            elif kind == "end":
                findings.append(what)
            elif kind == "done":
                return what
            else:
                findings.append(Finding(doing, "fail", what, "an error while the model was made", "call it by hand"))
                break
        else:
            findings.append(Finding(doing, "fail", f"no answer for {1.5 * seconds + 15:.0f} s", "the model hangs", "by hand"))
    except EOFError:
        child.join()
        findings.append(
            Finding(doing, "fail", f"the process died (exit code {child.exitcode})", "a crash in native code", "by hand")
        )
    finally:
        child.kill()
    return Report(spec, findings, time.perf_counter() - began, examined=False)


def main(words: list[str] | None = None) -> int:
    """Returns the exit status: 0 healthy, 1 something failed, 2 it could not be examined."""
    parser = argparse.ArgumentParser(
        prog="picogpt_doctor.py",
        description="Examine a GPT from outside, and say what is wrong with it.",
        epilog="exit status: 0 healthy, 1 something failed, 2 it could not be examined",
    )
    parser.add_argument("model", help="file.py:name or module:name of a function, a class or a model")
    parser.add_argument("arguments", nargs="*", help="what to call it with: n_layer=3 bias=False")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--golden", help=f"a number of parameters, or one of {', '.join(GOLDEN)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that one check may take")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    arguments = {}
    for word in given.arguments:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            parser.error(f"{word!r} is not of the form name=value")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value  # a string without quotes
    options = dict(vocab_size=given.vocab_size, block_size=given.block_size, golden=given.golden)
    report = examine_apart(given.model, arguments, options, given.seconds)
    print(report.to_json() if given.json else report)
    return 2 if not report.examined else 0 if report.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
