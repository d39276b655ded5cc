"""The model under examination: how it is called, what it answers, and the promise that it is left as it was.

Axes: B rows, T positions, V vocabulary, C width, nh heads, hs size of a head; Tq queries, Tk keys, N = B·nh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .report import Cause, listed, one_line
from .tape import InRange, Lookup, Stilled, Tape

# Parameter counts of published models and of the course picogpt, to compare with
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

# Names that parameters of forward, and fields of configurations, go by
TARGETS = ("targets", "target", "labels", "label", "lm_labels", "y", "t", "tgt", "target_ids", "next_ids", "next_tokens")
CACHES = (
    *("past_key_values", "past_key_value", "past", "layer_past", "cache", "kv_cache", "caches", "past_kvs", "kv_caches"),
    *("cache_params", "past_kv", "kv", "kvs", "layer_caches", "state", "states", "hidden", "hiddens", "past_state", "mems"),
    *("inference_params", "inference_context", "incremental_state", "incremental_states"),
)
EMPTY_CACHE = "the cache that generate begins with"  # in the memo
# arguments that say where the new tokens begin, as a number or as the position of each
POSITIONS_GIVEN = (
    *("start_pos", "offset", "input_pos", "cache_position", "position_ids", "positions", "pos", "start", "past_length"),
    *("pos_offset", "position_offset", "index_pos", "seqlen_offset", "cache_len", "cache_length"),
)
POSITION_OF_EACH = ("input_pos", "cache_position", "position_ids", "positions", "pos")
DOCUMENTS = ("document_ids", "doc_ids", "document_id", "doc_id", "docs", "seq_idx")  # arguments that number packed documents
BOUNDARIES = ("cu_seqlens", "cu_seq_lens", "cu_seqlen", "cu_seq_lens_q", "cu_seqlens_q", "cu_lens")  # or say where they end
VOCABS = ("vocab_size", "n_vocab", "padded_vocab_size", "num_tokens", "vocab_len", "ntoken", "d_vocab", "vocab")
BLOCKS = (
    *("block_size", "n_positions", "max_position_embeddings", "context_length", "n_ctx", "ctx_len", "max_seq_len"),
    *("max_seq_length", "seq_len", "seq_length", "sequence_len", "max_len", "max_length", "window_size"),
)
CONFIGS = ("config", "cfg", "args", "hparams", "params", "conf", "c")

FREQUENCIES = ("inv_freq", "inv_freqs", "freqs", "original_inv_freq")  # one for each pair of features
SPECIAL = ("_token_id", "_token_index", "_token_ids", "pad_id", "pad_idx", "padding_idx", "mask_index", "eos_id", "bos_id")
FEW_TOKENS = 8  # ordinary tokens, below which special ones are used too

ROWS = 3  # of the ids in most calls: an axis of 3 is rarely anything else
# of the first ids: no other axis is likely to be 13 long; then what takes multiples of a length only, or less
LENGTHS = (13, 24, 48, 96, 16, 64, 128, 256, 7, 4, 2, 1)
LINE_SHOWN = 120  # of a line of code: so many characters
LONG = 256  # long enough to see what only distant positions show, short enough to be quick
LONGEST_TRIED = 512  # where no block size is stated


class NotExaminable(Exception):
    """The model cannot be called with token ids alone; the message says how to adapt it."""


class TookTooLong(BaseException):
    """A check ran into the time limit. A BaseException, so that a model's own `except Exception` does not swallow it."""


class HungBefore(BaseException):
    """A call like this one did not return in an earlier check: it is not tried again."""


class ModelError(Exception):
    """The model's own code raised, or its answer cannot be used. Any other exception that leaves a check is the doctor's."""

    def __init__(self, error: BaseException | str):
        super().__init__(one_line(error) if isinstance(error, BaseException) else error)
        self.error = error if isinstance(error, BaseException) else None

    @property
    def where(self) -> str:
        """The line of the model's code that raised."""
        return raised_at(self.error) if self.error else ""


def raised_at(error: BaseException) -> str:
    """Return the innermost line that is neither PyTorch's nor the doctor's: "gpt.py:84 in forward: x = self.wte(ids)"."""
    if isinstance(error, SyntaxError) and error.filename:  # it is not in the traceback: it never ran
        return f"{Path(error.filename).name}:{error.lineno}: {(error.text or '').strip()[:LINE_SHOWN]}"
    return innermost_line(traceback.extract_tb(error.__traceback__))


def innermost_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """Return the last of these lines that is neither PyTorch's nor the doctor's, "" if there is none."""
    foreign = (*(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__)), "<frozen ")
    others = [f for f in frames if not f.filename.startswith(foreign)]
    if not others:
        return ""
    last = others[-1]
    line = f": {last.line.strip()[:LINE_SHOWN]}" if last.line else ""
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}{line}"


def model_line() -> str:
    """Return the innermost line of the model's code that is running."""
    frame: FrameType | None = sys._getframe(1)
    frames = []
    while frame is not None:
        frames.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, lookup_line=False))
        frame = frame.f_back
    return innermost_line(reversed(frames))


@contextlib.contextmanager
def model_code() -> Iterator[None]:
    """Raise ModelError for an exception of the model's code in the block; one of a hook of the doctor's stays as it is."""
    try:
        yield
    except (ModelError, TookTooLong, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if raised_in_hook(error):
            raise
        raise ModelError(error) from error


def was_stopped(error: BaseException | None) -> bool:
    """Whether the model turned TookTooLong into an exception of its own."""
    while error is not None and not isinstance(error, TookTooLong):
        error = error.__cause__ or error.__context__
    return error is not None


RUN_FOR_THE_MODEL = ("__torch_dispatch__", "__torch_function__")  # the model's own operations pass through these


def raised_in_hook(error: BaseException) -> bool:
    """Whether the traceback enters the doctor's code again below the model's, where a hook of the doctor's runs."""
    trace, foreign = error.__traceback__, False
    while trace is not None:
        ours = trace.tb_frame.f_globals.get("__package__") == __package__
        if ours and foreign and trace.tb_frame.f_code.co_name not in RUN_FOR_THE_MODEL:
            return True
        foreign, trace = foreign or not ours, trace.tb_next
    return False


def how_to_adapt(what: str) -> str:
    """Return what to do for a model that needs more than ids."""
    return (
        "give diagnose() a module that takes ids alone: class Adapted(nn.Module): __init__ keeps the model as self.model, and "
        f"forward(self, ids) makes {what} from ids and returns self.model(ids, …)"
    )


def set_seed(number: int) -> None:
    """Seed PyTorch and Python; torch.manual_seed also searches for a GPU, which takes longer than a small model's answer."""
    torch.default_generator.manual_seed(number)
    random.seed(number)  # whole layers are dropped by it
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products and convolutions of float32 in float32 inside the block, not in TF32 or bfloat16, whatever the caller has set.

    Those keep 10 bits or fewer: two ways to the same logits would differ by more than what is allowed for rounding.
    """
    try:
        kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    except RuntimeError:  # the caller uses PyTorch's newer settings, which may not be mixed with these
        kept = None
    try:
        yield
    finally:
        if kept is not None:
            torch.set_float32_matmul_precision(kept[0])
            torch.backends.cudnn.allow_tf32 = kept[1]


@contextlib.contextmanager
def random_numbers_kept() -> Iterator[None]:
    """The random numbers of torch, Python and NumPy go on after the block as if it had not been."""
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        if numpy:
            numpy.random.set_state(numpy_state)


def attribute(holder, name: str):
    """Return an attribute, None if there is none or a property of the model's raises."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def declared(model: nn.Module, names: tuple[str, ...], kind=int) -> list[tuple[str, Any]]:
    """Return what the model's configuration, or a module itself, holds under one of `names`: numbers above 0, or booleans."""
    found = []
    for module in model.modules():
        for where in (*CONFIGS, ""):
            holder = attribute(module, where) if where else module
            for name in names:
                value = holder.get(name) if isinstance(holder, Mapping) else attribute(holder, name)
                if isinstance(value, kind) and (kind in (bool, str) or (not isinstance(value, bool) and value > 0)):
                    found.append((f"{where}.{name}".strip("."), value))
        if found:
            break  # the outermost one that states it
    return found


def positions_for(p: Patient, name: str, start: int, B: int, T: int) -> int | Tensor:
    """Return what an argument of POSITIONS_GIVEN is told for T new tokens after `start`: their positions, or the first one."""
    default = next((q.default for q in p.signature if q.name == name), None)
    if name not in POSITION_OF_EACH or isinstance(default, int):
        return start
    positions = torch.arange(start, start + T, device=p.device)
    return positions.expand(B, T) if name == "position_ids" else positions


def tensors_in(value, depth: int = 3) -> list[Tensor]:
    """Return the tensors of a tuple, list, dict, or object with attributes, in order. Logits by name come first."""
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
    return tensors_in(vars(value), depth - 1) if hasattr(value, "__dict__") else []


def batch_first(x: Tensor, B: int, T: int) -> Tensor:
    """(T, B, V), (1, B, V) or (T·B, V) -> (B, T, V) or (B, 1, V); other tensors as they are."""
    if x.dim() == 3 and tuple(x.shape[:2]) in ((T, B), (1, B)):
        return x.transpose(0, 1)
    return x.view(T, B, -1).transpose(0, 1) if x.dim() == 2 and len(x) == T * B and T > 1 else x


def describe(answer) -> str:
    """Return an answer in a few words: its type and the shapes in it."""
    found = [tuple(t.shape) for t in tensors_in(answer)]
    kind = type(answer).__name__
    return f"{kind} with tensors {', '.join(map(str, found[:4]))}" if found else f"{kind} without any tensor"


def find_loss(answer) -> Tensor | None:
    """Return the loss in an answer: a single number."""
    named = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
    found = [named] if isinstance(named, Tensor) else tensors_in(answer)
    return next((t for t in found if t.is_floating_point() and t.numel() == 1), None)


def is_plain_object(value) -> bool:
    """Whether a value is an instance of somebody's own class, which may hold tensors."""
    kind = type(value)
    library = kind.__module__.partition(".")[0] in (*sys.stdlib_module_names, "torch", "numpy", "transformers", "tokenizers")
    others = isinstance(value, type | Tensor | nn.Module) or inspect.isroutine(value)
    return hasattr(value, "__dict__") and not library and not others


def unregistered_tensors(model: nn.Module, objects: bool = True) -> dict[str, Tensor]:
    """Return tensors that a module holds in plain lists, dicts or attributes, where PyTorch does not see them; and, with
    `objects`, in instances of classes that are no modules."""
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
        elif depth and objects and id(value) not in known and is_plain_object(value):
            known.add(id(value))
            for key, item in vars(value).items():
                look(item, f"{name}.{key}", depth - 1)

    def inside(module: nn.Module, name: str, depth: int) -> None:
        for key, value in list(vars(module).items()):
            if key not in ("_parameters", "_buffers", "_modules") and not key.endswith("_hooks"):
                look(value, f"{name}.{key}".lstrip("."), depth)

    for name, module in model.named_modules():
        inside(module, name, 3)
    return found


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the model, as far as it matters for whether it returns."""

    what: str  # forward or generate
    T: int
    mode: str
    options: frozenset[str]

    def includes(self, other: Call) -> bool:
        """Whether it is the other one, or the other one with more options."""
        return (self.what, self.T, self.mode) == (other.what, other.T, other.mode) and self.options >= other.options

    def __str__(self) -> str:
        more = f" with {listed(sorted(self.options))}" if self.options else ""
        return f"{self.what} on {self.T} tokens in {self.mode} mode{more}"


@dataclasses.dataclass(frozen=True)
class Interface:
    """How a model is called, and its sizes."""

    mode: str = "plain"  # or "targets": given along, for all positions to be answered; or "prefixes": one call for each length
    axes: str = "BTV"  # of its logits, or "BVT"
    time_first: bool = False  # whether it takes ids (T, B), and answers so: both are transposed here
    T: int = 0  # length of the ids in most calls
    long: int = 0  # length of the longest ids
    step: int = 1  # lengths are multiples of it
    vocab: int = 2  # ids below this exist: 2 surely do, until more is known
    claimed_vocab: int | None = None  # given, or stated by its configuration
    in_vocab: int | None = None  # rows of its table of tokens
    out_vocab: int = 0  # logits at a position
    block: int = 0  # the longest window
    block_from: str = ""  # where that was found
    last_position: int | None = None  # where a table of learned positions ends
    token_table: str = ""
    positions: tuple[Lookup, ...] = ()  # in tables of positions: rows that do not depend on the ids
    tables: tuple[tuple[str, int], ...] = ()  # name and length of what was cut to T positions
    special: tuple[int, ...] = ()  # ids with a meaning of their own: padding, images
    both: bool = False  # whether it answers with logits and loss; some answer with the loss alone


def forward_parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward; of its class's where a wrapper on the instance takes (*args, **kwargs)."""
    for holder, skip in ((model, 0), (type(model), 1)):
        try:
            found = list(inspect.signature(holder.forward).parameters.values())[skip:]  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError):  # a scripted model has none
            continue
        if any(q.kind not in (q.VAR_POSITIONAL, q.VAR_KEYWORD) for q in found):
            return found
    return []


ROWS_NAMED = ("rows", "B", "batch", "batch_size", "bsz", "max_batch_size")  # what a maker of caches calls them, with a default


def cache_maker(function: Callable, model: nn.Module) -> Callable[[int], Any]:
    """Return `new_cache(rows)` from a function of the rows, the `model` (by this name), both, or nothing, and of what has
    defaults."""
    try:
        asked = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function in C
        return function
    asked = [q for q in asked if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD)]
    wanted = [q.name for q in asked if q.default is q.empty] or [q.name for q in asked[:1]]
    wanted = wanted[: 2 if "model" in wanted[:2] else 1]
    if wanted == ["model"]:
        wanted += [q.name for q in asked if q.name in ROWS_NAMED][:1]

    def make(rows: int):
        return function(*(model if name == "model" else rows for name in wanted))

    return make


class Patient:
    """The model under examination: a way to call it, its interface, and the promise that it is left as it was."""

    def __init__(
        self, model: nn.Module, vocab_size=None, block_size=None, new_cache=None, golden=None, strict=False, generate=None
    ):
        new_cache = new_cache and cache_maker(new_cache, model)
        self.model, self.new_cache, self.golden, self.generate = model, new_cache, golden, generate
        self.came_in_training = model.training
        self.was_half = any(t.dtype in (torch.float16, torch.bfloat16) for t in model.parameters())
        self.handed_over: dict[Tensor, Tensor] = {}  # tensors of half precision that are float32 now: their data as it was
        self.half_angles = ""  # in which half precision the angles of rotary positions are computed, or kept
        self.given_vocab, self.given_block = vocab_size, block_size
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.parameters = dict(model.named_parameters())
        self.unregistered = unregistered_tensors(model)
        self.on_gpu = any(t.device.type not in ("cpu", "meta") for t in (*tensors, *self.unregistered.values()))
        self.signature = forward_parameters(model)
        self.names = [parameter.name for parameter in self.signature]
        self.targets_name = next((name for name in self.names[1:] if name in TARGETS), None)
        self.extra: dict[str, Any] = {name: True for name in ("get_logits", "return_logits") if name in self.names}
        if any(p.name == "use_cache" and p.default in (None, False) for p in self.signature):
            self.extra["use_cache"] = False
        for given in (q for q in self.signature if q.name in POSITIONS_GIVEN and q.default is q.empty):  # Llama's, gpt-fast's
            self.extra[given.name] = functools.partial(self.from_the_start, given.name)
        for given in (q for q in self.signature if q.name in CACHES and q.default is q.empty and new_cache is not None):
            self.extra[given.name] = lambda ids: new_cache(len(ids))
        self.interface = Interface()  # until detect_interface() knows more
        self._tokens: tuple[Interface, Tensor] | None = None
        self.known_leak: Cause | None = None  # what `causality` found, for checks that see the same
        self.memo: dict = {}  # of probes that several checks need
        self.stilled = False  # whether random numbers of training were seen to differ with the tokens: see asked_in()
        self.finite = True  # False: `answers` found NaN that no mask explains, and logits cannot be compared
        self.strict = strict
        self.not_recorded: Counter[str] = Counter()  # "aten.foo: TypeError: …": how often
        self.called_at, self.patience = 0.0, math.inf  # when it was last called, and the seconds that the check may take
        self.deadline = math.inf  # when the alarm of the present check rings
        self.has_written = False  # whether generate has been called, and has returned
        self.hung: list[Call] = []  # calls that did not return

    # the sizes that every check needs
    T = property(lambda self: self.interface.T)
    vocab = property(lambda self: self.interface.vocab)
    block = property(lambda self: self.interface.block)
    mode = property(lambda self: self.interface.mode)

    # ----- calling

    def ids(self, B: int, T: int, seed: int = 0) -> Tensor:
        """Return random ids, (B, T)."""
        draw = torch.Generator().manual_seed(1000 + seed)
        return self.tokens[torch.randint(len(self.tokens), (B, T), generator=draw)].to(self.device)

    def changed_tokens(self, ids: Tensor, by: int = 1) -> Tensor:
        """Return another token for each of these."""
        tokens = self.tokens.to(ids.device)
        return tokens[(torch.searchsorted(tokens, ids.contiguous()) + by) % len(tokens)]

    @property
    def tokens(self) -> Tensor:
        """The ids that texts are made of: all but special ones (padding, images), where enough are left."""
        if self._tokens is None or self._tokens[0] != self.interface:
            special = set(self.interface.special)
            plain = [token for token in range(self.vocab) if token not in special] if special else []
            few = len(plain) < min(self.vocab, FEW_TOKENS)
            self._tokens = (self.interface, torch.arange(self.vocab) if few else torch.tensor(plain))
        return self._tokens[1]

    def call(self, ids: Tensor, targets: Tensor | None = None, **more):
        """Return the model's own answer to a copy of ids (B, T). The random numbers are the same at each call, so that noise
        does not look like an effect. ModelError if forward raises."""
        set_seed(0)
        given = {self.targets_name: self.copy(targets)} if targets is not None and self.targets_name else {}
        return self.call_as_is(self.copy(ids), **self.extra | given | more)

    def copy(self, ids: Tensor) -> Tensor:
        """Return a copy of ids (B, T), contiguous in the model's own layout."""
        contiguous = functools.partial(torch.clone, memory_format=torch.contiguous_format)
        return contiguous(ids.t()).t() if self.interface.time_first else contiguous(ids)

    def call_as_is(self, ids: Tensor, **given):
        """Return the model's own answer to these very ids, whatever the random numbers are. ModelError if forward raises."""
        if self.interface.time_first:
            given = {name: x.t() if name == self.targets_name and isinstance(x, Tensor) else x for name, x in given.items()}
        with self.calling("forward", ids.shape[1], given):
            more = {name: value(ids) if callable(value) else value for name, value in given.items()}
            return self.model(ids.t() if self.interface.time_first else ids, **more)

    def from_the_start(self, name: str, ids: Tensor) -> int | Tensor:
        """Return what a required argument of POSITIONS_GIVEN is told when nothing came before these ids."""
        return positions_for(self, name, 0, *ids.shape)

    @contextlib.contextmanager
    def calling(self, what: str, T: int, given: dict) -> Iterator[None]:
        """Time a call of the model in the block; its exceptions are ModelErrors. HungBefore if such a call did not return
        before, or one with fewer of the options that are given now."""
        options = frozenset(name for name in given if given[name] is not False)
        call = Call(what, T, "training" if self.model.training else "evaluation", options)
        if any(call.includes(hung) for hung in self.hung):
            raise HungBefore(call)
        self.called_at = began = time.perf_counter()
        stopped = False
        try:
            with model_code(), InRange() if self.on_gpu else contextlib.nullcontext():
                yield
        except TookTooLong:
            stopped = True
            raise
        except ModelError as error:
            if stopped := was_stopped(error):
                raise TookTooLong from error
            raise
        finally:
            now = time.perf_counter()
            swallowed = now >= self.deadline  # the alarm rang, and the call went on
            if (stopped or swallowed) and now - began >= self.patience / 2:
                self.hung.append(call)

    def needed_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the targets as a keyword argument if forward needs them, and nothing otherwise."""
        return {self.targets_name: targets} if self.targets_name and self.mode == "targets" else {}

    def logits(self, ids: Tensor, targets: Tensor | None = None, **more) -> Tensor:
        """(B, T) -> (B, T, V) in float32, for every position, by whatever way the model offers."""
        B, T = ids.shape
        if self.mode == "prefixes":
            prefixes = (ids[:, : t + 1] for t in range(T))
            return torch.stack([self.as_logits(self.call(x, **more), *x.shape)[:, -1] for x in prefixes], dim=1)
        if self.mode == "targets" and targets is None:
            targets = ids.roll(-1, dims=1)
        return self.as_logits(self.call(ids, targets, **more), B, T)

    def find_logits(self, answer, B: int, T: int) -> Tensor | None:
        """Return the logits in an answer, whatever their form: (B, T, V), (B·T, V), (B, 1, V), (B, V), (B, V, T)."""
        best, score = None, 0.0
        for tensor in filter(Tensor.is_floating_point, tensors_in(answer)):
            tensor = batch_first(tensor, B, T) if self.interface.time_first else tensor
            shape, fits = tuple(tensor.shape), 0.0
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

    def as_logits(self, answer, B: int, T: int) -> Tensor:
        """Return the logits in an answer as (B, T, V), or (B, 1, V), in float32. ModelError if there are none."""
        found = self.find_logits(answer, B, T)
        if found is None:
            raise ModelError(f"no logits for {B} rows of {T} tokens in its answer: {describe(answer)}")
        if found.dim() == 2:
            found = found.view(B, T, -1) if len(found) == B * T else found[:, None]  # (B·T, V) or (B, V) -> (B, T or 1, V)
        return found.transpose(1, 2).float() if self.interface.axes == "BVT" else found.float()  # (B, V, T) -> (B, T, V)

    def accepts(self, T: int) -> bool:
        """Whether it answers to T tokens."""
        with torch.no_grad(), contextlib.suppress(ModelError):
            self.logits(torch.zeros(1, T, dtype=torch.long, device=self.device))
            return True
        return False

    @contextlib.contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """Training or evaluation mode inside the block, evaluation mode after it."""
        with model_code():
            self.model.train(training)
        try:
            yield
        finally:
            with model_code():
                self.model.eval()

    @contextlib.contextmanager
    def asked_in(self, training: bool) -> Iterator[None]:
        """`in_mode`, to ask what depends on what: with random numbers at their means once they were seen to differ with the
        tokens."""
        with self.in_mode(training), Stilled() if training and self.stilled else contextlib.nullcontext():
            yield

    def tape(self, ids: Tensor, start: int = 0) -> Tape:
        """Return a tape for one call on ids (B, T), with `start` positions in a cache."""
        names = {t.data_ptr(): name for name, t in self.all_tensors().items() if t.numel()}
        return Tape(names, ids, start, self.not_recorded, self.strict)

    def has_padding(self, name: str) -> bool:
        """Whether a table has a padding row, after which positions begin (RoBERTa)."""
        table = next((m for n, m in self.model.named_modules() if f"{n}.weight" == name), None)
        return getattr(table, "padding_idx", None) is not None

    def table_module(self) -> nn.Module | None:
        """Return the module that holds the table of tokens; None if it is the model itself, or cannot take hooks (scripted)."""
        holder = self.interface.token_table.rpartition(".")[0]
        module = dict(self.model.named_modules()).get(holder) if holder else None
        return None if isinstance(module, torch.jit.ScriptModule) else module

    # ----- leaving it as it was

    def all_tensors(self) -> dict[str, Tensor]:
        """Return all its tensors that can be found: parameters, buffers, and those that are not registered."""
        return self.parameters | dict(self.model.named_buffers()) | self.unregistered

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Restore weights, gradients, modes, attributes and random numbers, whatever happens in the block."""
        self._tensors = [(t, t.data, t.detach().clone(), t.requires_grad, t.grad) for t in self.all_tensors().values()]
        self._attributes = [(module, dict(vars(module)), module.training) for module in self.model.modules()]
        # a buffer that forward registers anew goes into the same dict
        self._buffers = [(b, dict(b)) for _, kept, _ in self._attributes if isinstance(b := kept.get("_buffers"), dict)]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, in which nothing can be recorded
        try:
            with random_numbers_kept(), exact_products():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for tensor, memory, *_ in self._tensors:
                tensor.data = memory
            self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Restore values, gradients, modes and attributes: at the end, and after a check that was interrupted."""
        for module, attributes, training in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
            module.training = training
        for buffers, kept in self._buffers:
            buffers.clear()
            buffers.update(kept)
        for tensor, _, value, requires_grad, grad in self._tensors:
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)
            if tensor.is_leaf and tensor.is_floating_point():
                tensor.requires_grad_(requires_grad)
            tensor.grad = grad

    @contextlib.contextmanager
    def in_double(self) -> Iterator[None]:
        """Weights and buffers in double precision inside the block."""
        kept = [(t, t.data) for t in self.all_tensors().values() if t.is_floating_point()]
        try:
            for tensor, memory in kept:
                tensor.data = memory.double()
            yield
        finally:
            for tensor, memory in kept:
                tensor.data = memory

    @contextlib.contextmanager
    def in_half(self) -> Iterator[None]:
        """Weights and buffers in the half precision that they were handed over in, inside the block."""
        kept = {tensor: tensor.data for tensor in self.handed_over}
        try:
            for tensor, half in self.handed_over.items():
                tensor.data = half
            yield
        finally:
            for tensor, memory in kept.items():
                tensor.data = memory

    def trainable_tensors(self) -> dict[str, Tensor]:
        """Return what should be trained, registered or not."""
        return self.parameters | {name: t for name, t in self.unregistered.items() if t.requires_grad}

    @contextlib.contextmanager
    def weights(self, change: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
        """Other weights inside the block: `change(name, value)` returns the new value, None to keep it."""
        trainable = self.trainable_tensors()
        kept = {name: t.detach().clone() for name, t in trainable.items()}
        try:
            with torch.no_grad():
                for name, tensor in trainable.items():
                    if (new := change(name, kept[name])) is not None:
                        tensor.data.copy_(new)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in trainable.items():
                    tensor.data.copy_(kept[name])


# ----- finding out how it is called


def detect_interface(p: Patient) -> Interface:
    """Find out how the model is called, and its sizes. NotExaminable with what to do; ModelError if it raises.

    Each step calls the model by what is known already, so p.interface is replaced on the way.
    """

    def learned(**facts) -> None:
        p.interface = dataclasses.replace(p.interface, **facts)

    required = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needs = [q.name for q in p.signature[1:] if q.default is q.empty and q.kind in required and q.name not in p.extra]
    if others := [name for name in needs if name != p.targets_name]:
        what = " and ".join(others)
        raise NotExaminable(f"its forward also needs {what}: {how_to_adapt(what)}")
    sizes = declared(p.model, VOCABS)
    learned(
        mode="targets" if p.targets_name in needs else "plain",
        claimed_vocab=p.given_vocab or (sizes[0][1] if sizes else None),
    )
    T, (tape, answer), (other, _) = first_calls(p)
    found = p.find_logits(answer, ROWS, T)
    if found is None and tensors_in(answer) and p.targets_name and p.mode != "targets":
        learned(mode="targets")
        T, (tape, answer), (other, _) = first_calls(p)
        found = p.find_logits(answer, ROWS, T)
    if found is None:
        raise NotExaminable(
            f"for ids ({ROWS}, {T}) it returned {describe(answer)}: no logits (B, T, V) in it. Return them alone, in a tuple, "
            "in a dict or as .logits"
        )
    learned(**form_of_logits(p, tuple(found.shape), T))
    p.half_angles = tape.half_angles or rounded_frequencies(p)
    switch_to_float32(p, T)
    learned(**tables_of(tape, other, T))
    face = p.interface
    learned(vocab=min(v for v in (p.given_vocab, face.in_vocab, face.out_vocab, face.claimed_vocab) if v))
    learned(special=special_tokens(p))
    learned(**find_block(p, tape))
    step = length_step(p, T)
    learned(T=min(T, p.block), step=step, long=max(step, min(p.block, LONG) // step * step))
    ids = p.ids(ROWS, p.T)
    with torch.no_grad(), contextlib.suppress(ModelError):
        learned(both=p.targets_name is not None and p.find_logits(p.call(ids, ids), ROWS, p.T) is not None)
    return p.interface


def first_calls(p: Patient) -> tuple[int, tuple[Tape, object], tuple[Tape, object]]:
    """Return the first of LENGTHS that it takes, and the tapes and answers of two calls with different ids."""
    errors = []
    for T in LENGTHS:
        try:
            return T, first_call(p, T), first_call(p, T, shift=1)
        except ModelError as error:
            errors.append(error)
    raise errors[0]


def first_call(p: Patient, T: int, shift: int = 0) -> tuple[Tape, object]:
    """Return the tape of one call and its answer."""
    low = 5 if (p.interface.claimed_vocab or 0) > 8 else 0  # the first ids may be special: padding, start
    ids = low + (torch.arange(ROWS * T, device=p.device).view(ROWS, T) * 7 % 3 + shift) % 2  # (3, T) of two ids
    with torch.no_grad(), p.tape(ids) as tape:
        answer = p.call(ids, ids if p.mode == "targets" else None)
    return tape, answer


def form_of_logits(p: Patient, shape: tuple[int, ...], T: int) -> dict:
    """Return the order of the axes, the number of logits, and the mode in which all positions are answered."""
    transposed = shape != (ROWS, T, shape[-1]) and len(shape) == 3 and shape[2] == T and shape[1] > 1
    found = dict(axes="BVT" if transposed else "BTV", out_vocab=shape[1] if transposed else shape[-1])
    if T > 1 and ((len(shape) == 2 and shape[0] == ROWS) or shape[1] == 1):  # only the last position
        logits = None
        if p.targets_name:
            ids = torch.zeros(ROWS, T, dtype=torch.long, device=p.device)
            with torch.no_grad():
                logits = p.find_logits(p.call(ids, ids), ROWS, T)
        everywhere = logits is not None and (logits.shape[:2] == (ROWS, T) or logits.shape[0] == ROWS * T)
        found["mode"] = "targets" if everywhere else "prefixes"
    return found


def tables_of(tape: Tape, other: Tape, T: int) -> dict:
    """Return which tables hold tokens and which positions: rows that are looked up whatever the ids are."""
    tokens = next((e for e in tape.embeddings if tape.is_ids(e.rows)), Lookup("", 0, tape.ids))
    pairs = list(zip(tape.embeddings, other.embeddings, strict=False))
    words = {a.name for a, b in pairs if not torch.equal(a.rows, b.rows)}
    positions = (a for a, _ in pairs if a.rows.numel() in (T, ROWS * T) and a.name not in words and a.length >= T)
    return dict(token_table=tokens.name, in_vocab=tokens.length or None, positions=tuple(positions), tables=tuple(tape.tables))


def rounded_frequencies(p: Patient) -> str:
    """Return in which half precision the frequencies of a rotary embedding are kept, "" if they are not."""
    halves = {n: x for n, x in p.all_tensors().items() if x.dtype in (torch.float16, torch.bfloat16) and x.dim() == 1}
    return next((str(x.dtype).removeprefix("torch.") for n, x in halves.items() if n.rpartition(".")[2] in FREQUENCIES), "")


def switch_to_float32(p: Patient, T: int) -> None:
    """Make the weights float32, if the model can be called so: half precision rounds too much to see small effects."""
    halves = {t: t.data for t in p.all_tensors().values() if t.dtype in (torch.float16, torch.bfloat16)}
    for tensor, half in halves.items():
        tensor.data = half.float()
    try:
        first_call(p, T)
        p.handed_over = halves
    except ModelError:
        for tensor, half in halves.items():
            tensor.data = half


def find_block(p: Patient, tape: Tape) -> dict:
    """Return the longest window: given, from the configuration, from a table of positions, or by trying."""
    claims, face = declared(p.model, BLOCKS), p.interface
    lengths = [(x.length, x.name) for x in face.positions] + [(length, name) for name, length in face.tables]
    if p.given_block:
        block, source = p.given_block, "given"
    elif claims:
        source, block = claims[0]
    else:
        block, source = min(lengths) if lengths else (longest_accepted(p), "by trying")
    if 1 < block < tape.T:
        block, source = tape.T, f"it accepts {tape.T}, although {source} is {block}"
    for x in face.positions:
        if p.has_padding(x.name):
            block = min(block, x.length - int(x.rows.min()))
    # where learned positions end; other tables can be computed anew
    ends = [x.length for x in face.positions] + [length for name, length in face.tables if name in p.parameters]
    return dict(block=block, block_from=source, last_position=min(ends, default=None))


def special_tokens(p: Patient) -> tuple[int, ...]:
    """Return the ids that a configuration, or the table of tokens, names as special: of padding, of images, of the end."""
    found: set[int] = set()
    for module in (p.model, *p.model.children()):
        for holder in (attribute(module, where) for where in CONFIGS):
            fields = dict(holder) if isinstance(holder, Mapping) else dict(getattr(holder, "__dict__", None) or {})
            for name, value in fields.items():
                if isinstance(name, str) and name.endswith(SPECIAL):
                    found |= {x for x in (value if isinstance(value, list | tuple) else [value]) if type(x) is int}
    padding = getattr(p.table_module(), "padding_idx", None)
    return tuple(sorted(found | ({padding} if isinstance(padding, int) else set())))


def length_step(p: Patient, T: int) -> int:
    """Return what lengths must be multiples of: 1, unless the first of LENGTHS was refused and a longer one is taken."""
    if LENGTHS[0] >= T:
        return 1
    return next((step for step in range(2, T) if T % step == 0 and p.accepts(step) and not p.accepts(T - step + 1)), T)


def longest_accepted(p: Patient) -> int:
    """Return the longest input that it accepts, up to LONGEST_TRIED: doubled, then by bisection."""
    block = 1
    while block < LONGEST_TRIED and p.accepts(2 * block):
        block *= 2
    step = block // 2
    while step:
        if block < LONGEST_TRIED and p.accepts(block + step):
            block += step
        step //= 2
    return block
