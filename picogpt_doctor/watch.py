"""What training code does while it runs: forward and backward passes, optimizer steps, schedules, clipping. And all put back.

Nothing is asked of the code but that it trains: PyTorch's own functions (Module.__call__, backward, Optimizer.step and so on)
are replaced while it runs, and restored afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import math
import os
import sys
import sysconfig
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .passes import Backward, Clip, Event, Forward, Mark, Step, divided, margins_of, picks_of, terms_of
from .patient import TARGETS, random_numbers_kept, tensors_in
from .probes import LOOKED_AT_CLOSELY, SWAPPED_BACK

IDS = ("input_ids", "ids", "idx", "x", "tokens", "input", "inputs", "src")  # what a model's first argument goes by
FEW = 4  # parameters, the first and the last, that are compared with what a step left
LIBRARIES = (*(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")), os.path.dirname(__file__))
DROPOUT_P = {"p": 0.5, "dropout_p": 0.0}  # of F.dropout and F.scaled_dot_product_attention, unless it is given
WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)
LONGEST, PARTS = 4096, 8  # tokens of a sequence, and sequences that one function knows, to be looked at
MOST_CALLS = 1_000_000  # and returns, of functions, in which sequences are looked for: a second or so
DEPTH, MOST = 5, 20_000  # how deep, and how many objects, a step is searched for what it holds


class Enough(BaseException):
    """Enough was seen: ends the code that is watched. A BaseException, so that its own `except Exception` does not keep it."""


class Bug(BaseException):
    """The doctor's own code raised while it watched; the error is its cause. Not to be taken for one of the code's."""


@contextlib.contextmanager
def own_code() -> Iterator[None]:
    """Raise Bug for an exception in the block, which is the doctor's."""
    try:
        yield
    except Exception as error:
        raise Bug from error


# ----- what the code holds


def is_scheduler(value: Any) -> bool:
    return isinstance(value, torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau)


def is_state(value: Any) -> bool:
    return isinstance(value, nn.Module | torch.optim.Optimizer | torch.amp.GradScaler) or is_scheduler(value)


def held_by(*roots: Any) -> list[Any]:
    """Return the modules, optimizers, schedulers and scalers that these values hold: in arguments, attributes, closures, and
    in the globals of a function's file."""
    found: list[Any] = []
    seen: set[int] = set()
    queue = [(root, 0) for root in roots]
    while queue and len(seen) < MOST:
        value, depth = queue.pop(0)
        if (
            id(value) in seen
            or depth > DEPTH
            or isinstance(value, str | bytes | int | float | Tensor | type | types.ModuleType)
        ):
            continue
        seen.add(id(value))
        if is_state(value):
            found.append(value)
        queue += [(part, depth + 1) for part in parts_of(value)]
    return found


def parts_of(value: Any) -> list[Any]:
    """Return what a value holds directly."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell_is_full(cell)]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        names = {name for name in names_in(value.__code__) if name in value.__globals__}
        states = [v for v in list(value.__globals__.values()) if is_state(v)]
        return [*cells, *defaults, *(value.__globals__[name] for name in names), *states]
    if isinstance(value, Mapping):
        return list(value.values())[:1000] if len(value) < MOST else []
    if isinstance(value, list | tuple | set):
        return list(value)[:1000] if len(value) < MOST else []
    if isinstance(value, torch.optim.Optimizer) or not hasattr(value, "__dict__"):
        return []
    # a module is kept with all modules inside it
    return [part for name, part in vars(value).items() if name not in ("_modules", "_parameters", "_buffers")]


def cell_is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def names_in(code: types.CodeType) -> set[str]:
    """Return the global names that a function and the functions inside it use."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


class FileContent(dict):
    """A dict that torch.load returned; it notes which of its entries are read."""

    def __init__(self, content: dict):
        super().__init__(content)
        self.read: set[Any] = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)

    def pop(self, key, *default):
        self.read.add(key)
        return super().pop(key, *default)


class Kept:
    """The state of modules, optimizers, schedulers and scalers as it was when they were first seen."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.holders: list[Any] = []  # so that no id is used twice
        self.undo: list[Callable[[], None]] = []
        self.values: dict[int, Tensor] = {}  # of each parameter, by id

    def keep(self, value: Any) -> None:
        """Keep the state of a module, an optimizer, a scheduler or a scaler, unless it is kept already."""
        if id(value) in self.known:
            return
        self.known.add(id(value))
        self.holders.append(value)
        if isinstance(value, nn.Module):
            for module in value.modules():
                self._attributes(module, ("_parameters", "_buffers", "_modules"))
            for tensor in [*value.parameters(), *value.buffers()]:
                self._tensor(tensor)
        elif isinstance(value, torch.optim.Optimizer):
            self._optimizer(value)
        else:
            self._attributes(value)

    def has_changed(self, parameter: Tensor) -> bool:
        """Whether a parameter is not what it was when it was first seen; False if it was not."""
        value = self.values.get(id(parameter))
        return value is not None and (parameter.shape != value.shape or not torch.equal(parameter.detach(), value))

    def _attributes(self, holder: Any, dicts: tuple[str, ...] = ()) -> None:
        before = {k: copy.copy(v) if isinstance(v, list | dict) and k not in dicts else v for k, v in vars(holder).items()}
        inside = {name: dict(vars(holder)[name]) for name in dicts}
        tensors = [(v, v.detach().clone()) for v in before.values() if isinstance(v, Tensor) and not v.requires_grad]

        def undo() -> None:
            vars(holder).clear()
            vars(holder).update(before)
            for name, content in inside.items():
                vars(holder)[name].clear()
                vars(holder)[name].update(content)
            for tensor, value in tensors:
                tensor.copy_(value)

        self.undo.append(undo)

    def _tensor(self, tensor: Tensor) -> None:
        if id(tensor) in self.values:
            return
        memory, value, needs, grad = tensor.data, tensor.detach().clone(), tensor.requires_grad, tensor.grad
        grad_value = None if grad is None else grad.detach().clone()
        self.values[id(tensor)] = value
        self.holders.append(tensor)

        def undo() -> None:
            tensor.data = memory
            tensor.data.copy_(value)
            if tensor.is_leaf and tensor.is_floating_point():
                tensor.requires_grad_(needs)
            tensor.grad = grad
            if grad is not None and grad_value is not None:
                grad.data.copy_(grad_value)

        self.undo.append(undo)

    def _optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        state = {p: dict(entry) if isinstance(entry, dict) else entry for p, entry in optimizer.state.items()}
        tensors = [t for entry in state.values() for t in tensors_in(entry)]
        copies = [(t, t.detach().clone()) for t in tensors]
        groups = [(group, dict(group), list(group["params"])) for group in optimizer.param_groups]
        for p in (p for _, _, params in groups for p in params):
            self._tensor(p)

        def undo() -> None:
            optimizer.state.clear()
            optimizer.state.update(state)
            for tensor, value in copies:
                tensor.copy_(value)
            optimizer.param_groups[:] = [group for group, _, _ in groups]
            for group, settings, params in groups:
                group.clear()
                group.update(settings | {"params": params})

        self.undo.append(undo)

    @torch.no_grad()
    def restore(self) -> None:
        for undo in reversed(self.undo):
            undo()


# ----- watching


def rng() -> int:
    """Return a number that stands for the state of the random numbers, which dropout and random batches change."""
    state = hash(bytes(torch.get_rng_state().tolist()))
    return hash((state, *(bytes(s.tolist()) for s in torch.cuda.get_rng_state_all()))) if torch.cuda.is_available() else state


def ids_in(args: tuple, kwargs: Mapping) -> Tensor | None:
    """Return the token ids among a module's arguments: whole numbers with two axes (one is made a row)."""
    named = [kwargs[name] for name in IDS if name in kwargs]
    rest = [value for name, value in kwargs.items() if name not in (*TARGETS, "attention_mask", "position_ids")]
    for tensor in (t for value in (*named, *args, *rest) for t in tensors_in(value)):
        if not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.dim() in (1, 2) and tensor.numel() > 1:
            return tensor.detach().reshape(-1, tensor.shape[-1]).clone()
    return None


class Parts:
    """Sequences of token ids that the code joins: a prompt and its answer, say, in the local variables of one of its functions,
    or answered to it by another. DataLoader's workers, being other processes, are not seen."""

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], set[tuple[int, ...]]] = {}  # what else the same function knew, by each sequence
        self.enough = False
        self._calls = 0  # and returns, of functions of Python and others
        self._own: dict[types.CodeType, bool] = {}
        self._answered: dict[int, list[Any]] = {}  # to a frame that still runs

    def own(self, frame: types.FrameType | None) -> bool:
        """Whether a frame is of code that is examined: no library's, and not the doctor's."""
        if frame is None:
            return False
        if frame.f_code not in self._own:
            name = frame.f_code.co_filename
            written = not name.startswith("<") or name.startswith(("<ipython", "<stdin"))  # not by namedtuple, say
            self._own[frame.f_code] = written and not any(place in name for place in LIBRARIES)
        return self._own[frame.f_code]

    def returned(self, frame: types.FrameType, event: str, answer: Any) -> None:
        """Note what a function knew when it returned; a function for sys.setprofile."""
        self._calls += 1
        if self.enough or self._calls > MOST_CALLS:  # each costs microseconds: a whole text may be prepared first
            self.enough = True
            sys.setprofile(None)
        if event != "return" or len(self.after) > MOST:
            return
        if self.own(frame.f_back) and may_be_ids(answer):
            self._answered.setdefault(id(frame.f_back), []).append(answer)
        if self.own(frame):
            known = [*self._answered.pop(id(frame), []), *(v for v in list(frame.f_locals.values()) if may_be_ids(v))]
            parts = list(dict.fromkeys(tuple(x for x in ids_of(value)) for value in known[:PARTS]))
            for one in parts:
                if len(one) > 1 and len(parts) > 1:
                    self.after.setdefault(one, set()).update(other for other in parts if other != one and len(other) > 1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the block, unless something else profiles it."""
        if sys.getprofile() is not None:
            yield
            return
        importlib.import_module("torch._dynamo")  # which optimizers import: watched, that takes seconds
        sys.setprofile(self.returned)
        try:
            yield
        finally:
            sys.setprofile(None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch in the block: a profile makes each call in it slower."""
        profile = sys.getprofile()
        if profile != self.returned:
            yield
            return
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(None if self.enough else profile)

    def starts(self, row: list[int]) -> int | None:
        """Return where the second of two sequences begins in a row of ids that holds both, one after the other; None if none
        does, or it is not known which. The row may begin with a token of its own, or with padding."""
        padding = next((n for n, token in enumerate(row) if token != row[0]), 0)
        found = set()
        for begin in {0, 1, padding}:
            for length in {len(one) for one in self.after}:
                end = begin + length
                one = tuple(row[begin:end])
                for other in self.after.get(one, ()):
                    other = other[length:] if other[:length] == one else other  # it is both: the prompt with its answer
                    n = min(len(other), len(row) - end)
                    if n > 1 and tuple(row[end : end + n]) == other[:n]:
                        found.add(end)
        return found.pop() if len(found) == 1 else None


def may_be_ids(value: Any) -> bool:
    """Whether a value may be a sequence of token ids, as far as that is seen at little cost."""
    if isinstance(value, Tensor):
        return type(value) is Tensor and value.dim() == 1 and 1 < len(value) <= LONGEST and value.dtype in WHOLE
    if isinstance(value, Mapping) and "input_ids" in value:
        return may_be_ids(value["input_ids"])
    return isinstance(value, list | tuple) and 1 < len(value) <= LONGEST and type(value[0]) is int and type(value[-1]) is int


def ids_of(value: Any) -> list[int]:
    """Return the ids that a value is, [] if some are none."""
    if isinstance(value, Mapping):
        value = value["input_ids"]
    ids = value.tolist() if isinstance(value, Tensor) else list(value)
    return ids if all(type(x) is int for x in ids) else []


class Watch:
    """Watches whatever runs in `with watch.on():`, inside `with watch.unharmed():`. Events are in `events`, in their order."""

    def __init__(self, enough: Callable[[Watch], bool] = lambda watch: False):
        self.events: list[Event] = []
        self.opened: list[FileContent] = []  # what was loaded
        self.ran: Counter[int] = Counter()  # calls of modules inside of others, by id
        self.filled: set[int] = set()  # ids of the parameters of modules that took a state
        self.kept, self.enough, self.call = Kept(), enough, 0
        self.parts = Parts()  # of rows of ids
        self._inside = self._in_backward = False
        self._numbers: dict[int, dict[str, float]] = {}  # of the attributes of a module, by its id
        self._running: list[nn.Module] = []  # modules whose forward runs, the innermost one last
        self._in_schedule = 0
        self._scale = 1.0
        self._stepping: list[Step] = []  # those that have begun: an optimizer may call another's step(), or its own class's
        self._within: list[Step] = []  # those in the backward pass that goes on: hooks step as soon as a gradient is there
        # a few parameters, their sums after the last optimizer step, and by how much rounding may change these
        self._left: list[tuple[Tensor, float, float]] = []
        self.without_training: tuple[nn.Module, tuple] | None = (
            None  # a module that was trained in evaluation mode, its arguments
        )

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def add(self, event: Event) -> None:
        event.call = self.call
        self.events.append(event)
        if self.enough(self):
            raise Enough

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Afterwards everything that was seen is as it was: weights, gradients, modes, optimizers, random numbers."""
        grad = torch.is_grad_enabled()
        with random_numbers_kept():
            try:
                yield
            finally:
                torch.set_grad_enabled(grad)
                self.kept.restore()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watch what runs in the block."""
        with contextlib.ExitStack() as patches:
            self._patch_all(patches)
            patches.enter_context(self.parts.watched())
            yield

    def replace(self, patches: contextlib.ExitStack, holder: Any, name: str, make: Callable[[Callable], Callable]) -> None:
        """Replace a function while the patches last."""
        original = vars(holder)[name] if isinstance(holder, type) else getattr(holder, name)
        replacement = make(original)
        with contextlib.suppress(AttributeError):  # a Callable without __name__
            functools.update_wrapper(replacement, original)
        setattr(holder, name, replacement)
        patches.callback(setattr, holder, name, original)

    def _patch_all(self, patches: contextlib.ExitStack) -> None:
        optim = torch.optim
        self.replace(patches, nn.Module, "__call__", self._forward)
        self.replace(patches, torch.autograd, "backward", self._backward)
        self.replace(patches, torch.autograd, "grad", self._grad)
        self.replace(patches, torch, "save", lambda original: lambda *args, **kwargs: None)
        self.replace(patches, torch, "load", self._opened)
        self.replace(patches, nn.Module, "load_state_dict", self._filled)
        for handle in (
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ):
            patches.callback(handle.remove)
        if hasattr(nn.utils.clip_grad, "_clip_grads_with_norm_"):
            self.replace(patches, nn.utils.clip_grad, "_clip_grads_with_norm_", self._clip)
        for name in ("clip_grad_value_", "clip_grads_with_norm_"):
            if hasattr(nn.utils, name):
                self.replace(patches, nn.utils, name, self._clip)
        self.replace(patches, torch.amp.GradScaler, "scale", self._scaled)
        self.replace(patches, torch.amp.GradScaler, "unscale_", self._marking("unscale"))
        self.replace(patches, torch.amp.GradScaler, "step", self._marking("scaler step"))
        base = optim.lr_scheduler.LRScheduler
        for kind in {base, *all_subclasses(base), optim.lr_scheduler.ReduceLROnPlateau}:
            if "step" in vars(kind):
                self.replace(patches, kind, "step", self._schedule)

    # each takes the original and returns its replacement

    def _forward(self, original: Callable) -> Callable:
        def call(module: nn.Module, *args, **kwargs):
            # not while it is compiled, not inside another module, not while checkpointed layers are run again
            if torch.compiler.is_compiling() or in_transform():
                return original(module, *args, **kwargs)
            if self._inside or self._in_backward:
                self.ran[id(module)] += 1
                self._running.append(module)
                try:
                    return original(module, *args, **kwargs)
                finally:
                    self._running.pop()
            parameters = next(module.parameters(), None)
            if parameters is None or torch.jit.is_tracing():  # a loss, an activation
                return original(module, *args, **kwargs)
            with self.parts.paused():
                with own_code():
                    event = self._begin_forward(module, args, kwargs)
                self._inside, self._running = True, [module]
                try:
                    with self._dropouts_noted(event):
                        answer = original(module, *args, **kwargs)
                finally:
                    self._inside, self._running = False, []
                with own_code():
                    event.see(answer, rng())
                    event.numbers_after = self.numbers_in(module)
                    event.changes_weights = not event.other_weights and self.has_other_weights()
                    for old in self.of(Forward)[:-LOOKED_AT_CLOSELY]:
                        old.forget()
                    if event.graph and not event.training and self.without_training is None and event.inputs:
                        self.without_training = module, event.inputs
                self.add(event)
            return answer

        return call

    @contextlib.contextmanager
    def _dropouts_noted(self, event: Forward) -> Iterator[None]:
        """Note with which probability each module drops something in the block."""

        def noting(original: Callable, place: int, name: str) -> Callable:
            def drops(*args, **kwargs):
                if not torch.compiler.is_compiling() and self._running:
                    p = kwargs.get(name, args[place] if len(args) > place else DROPOUT_P[name])
                    training = kwargs.get("training", args[2] if len(args) > 2 else True) if name == "p" else True
                    event.drops.setdefault(id(self._running[-1]), []).append(float(p) if training else 0.0)
                return original(*args, **kwargs)

            return drops

        with contextlib.ExitStack() as patches:  # in the block only: torch.jit.script compiles no replacement
            self.replace(patches, F, "dropout", lambda original: noting(original, 1, "p"))
            self.replace(patches, F, "scaled_dot_product_attention", lambda original: noting(original, 4, "dropout_p"))
            yield

    def _begin_forward(self, module: nn.Module, args: tuple, kwargs: dict) -> Forward:
        self.kept.keep(module)
        event = Forward(
            module,
            {name: m.training for name, m in module.named_modules()},
            torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
            ids_in(args, kwargs),
            (args, dict(kwargs)),
            rng(),
        )
        event.numbers_before = self.numbers_in(module)
        event.other_weights = self.has_other_weights()
        if event.graph:
            few = [p for p in module.parameters() if p.requires_grad]
            event.weights = tuple(float(p.detach().double().sum()) for p in (few[:FEW] + few[-FEW:]))
        return event

    def numbers_in(self, module: nn.Module) -> dict[str, float]:
        """Return the numbers among the attributes of a module and those inside it, by their names."""
        named = ((name, key, value) for name, m in module.named_modules() for key, value in vars(m).items())
        found = {f"{name}.{key}".removeprefix("."): value for name, key, value in named if type(value) in (int, float)}
        if self._numbers.get(id(module)) != found:
            self._numbers[id(module)] = found
        return self._numbers[id(module)]  # the same dict as long as they are the same

    def has_other_weights(self) -> bool:
        """Whether the weights are no longer those that the last optimizer step left."""
        return any(abs(float(p.detach().double().sum()) - total) > slack for p, total, slack in self._left)

    def _opened(self, original: Callable) -> Callable:
        def load(*args, **kwargs):
            content = original(*args, **kwargs)
            if type(content) is dict:
                content = FileContent(content)
                self.opened.append(content)
            return content

        return load

    def _filled(self, original: Callable) -> Callable:
        def load_state_dict(module, *args, **kwargs):
            answer = original(module, *args, **kwargs)
            self.filled |= {id(p) for p in module.parameters()}
            return answer

        return load_state_dict

    def _backward(self, original: Callable) -> Callable:
        def backward(tensors, *args, **kwargs):
            if self._in_backward:
                return original(tensors, *args, **kwargs)
            with self.parts.paused():
                with own_code():
                    event = self._begin_backward(tensors if isinstance(tensors, Tensor) else next(iter(tensors)))
                self._in_backward = True
                try:
                    result = original(tensors, *args, **kwargs)
                finally:
                    self._in_backward, self._scale = False, 1.0
                steps, self._within = self._within, []
                with own_code():
                    event.norm = math.hypot(gradient_norm(event.parameters), *(s.norm for s in steps))  # steps may clear theirs
                    event.reached = {id(p) for p in event.parameters if p.grad is not None}
                    event.added = any(p.grad is not grad or grad._version != version for p, grad, version in event.old)
                    event.old = []
                    event.norms = {id(p): gradient_norm([p]) for p in (event.parameters[:FEW] + event.parameters[-FEW:])}
                    event.reached |= set().union(*(s.with_gradient for s in steps))
                    event.look()
                self.parts.enough = not event.closely
                for each in (event, *steps):
                    self.add(each)
            return result

        return backward

    def _grad(self, original: Callable) -> Callable:
        def grad(*args, **kwargs):
            for event in self.latest_forwards():
                event.used = True
            return original(*args, **kwargs)

        return grad

    def _begin_backward(self, loss: Tensor) -> Backward:
        event = Backward(float(loss.detach().sum()), self.latest_forwards(), self.rates(), self._scale)
        event.parameters, event.in_step = self.trained(), bool(self._stepping)
        for step in self._stepping:
            step.still = []  # its closure computes the gradients
        held = {id(p) for optimizer in self.optimizers() for group in optimizer.param_groups for p in group["params"]}
        mine = [p for p in event.parameters if id(p) in held] or event.parameters
        event.old = [(p, p.grad, p.grad._version) for p in mine if p.grad is not None and has_gradient(p)]
        event.before = bool(event.old)
        event.picks, event.forwards = picks_of(loss, event.forwards)
        event.divided, event.margins, event.terms = divided(loss), margins_of(loss), terms_of(loss, event.forwards)
        event.closely = len(self.of(Backward)) < LOOKED_AT_CLOSELY
        for forward in event.forwards if event.closely else ():
            forward.watch_logits()
        return event

    def latest_forwards(self) -> list[Forward]:
        """Return the forward passes with a graph since the last backward pass."""
        found: list[Forward] = []
        for event in reversed(self.events):
            if isinstance(event, Backward):
                break
            if isinstance(event, Forward) and event.graph:
                found.insert(0, event)
        return found

    def trained(self) -> list[Tensor]:
        """Return the parameters of the modules whose forward passes in this call have a graph."""
        modules = {id(f.module): f.module for f in self.of(Forward) if f.graph and f.call == self.call}
        found = {id(p): p for m in modules.values() for p in m.parameters() if p.requires_grad}
        if not found:  # all of it is compiled: nothing was called by itself
            found = {id(p): p for o in self.optimizers() for group in o.param_groups for p in group["params"]}
        return list(found.values())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers that are known: held by the code, or seen to step."""
        steps = [event.optimizer for event in self.of(Step)]
        held = [value for value in self.kept.holders if isinstance(value, torch.optim.Optimizer)]
        return list({id(value): value for value in (*held, *steps)}.values())

    def rates(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for opt in self.optimizers() for group in opt.param_groups if "lr" in group)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        with own_code():
            if begun := [step for step in self._stepping if step.optimizer is optimizer]:  # its step() calls super().step()
                self._stepping.append(begun[0])
                return
            self.kept.keep(optimizer)
            params = [p for group in optimizer.param_groups for p in group["params"]]
            rates = tuple(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)
            mine = [h for h in self.kept.holders if is_scheduler(h) and h.optimizer.param_groups is optimizer.param_groups]
            counts = tuple(h.last_epoch for h in mine)
            step = Step(optimizer, some_gradient(params), gradient_norm(params), rates, any(optimizer.state.values()), counts)
            step.norms = self.norms_to_compare(params)
            if len(self.of(Step)) < LOOKED_AT_CLOSELY:
                step.still = [(p, float(p.detach().norm())) for p in params if p.grad is None]
            if self._stepping:
                self._stepping[-1].wraps = True
            self._stepping.append(step)

    def norms_to_compare(self, parameters: list[Tensor]) -> dict[int, float]:
        """Return the norms of those gradients whose norms after the last backward pass are known."""
        last = next((e.norms for e in reversed(self.events) if isinstance(e, Backward)), {})
        return {id(p): gradient_norm([p]) for p in parameters if id(p) in last}

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        step = self._stepping.pop()
        if any(step is begun for begun in self._stepping):  # the end of super().step()
            return
        with own_code():
            params = [p for group in optimizer.param_groups for p in group["params"]]
            step.gradient = step.gradient or some_gradient(params)  # a closure may have computed them during the step
            step.with_gradient = {id(p) for p in params if has_gradient(p)}
            still = [(p, was, float(p.detach().norm())) for p, was in step.still if p.grad is None]
            step.idle = {id(p): now / (was or 1.0) for p, was, now in still if now != was}
            step.still = []
            step.held = {id(p) for p in params}
            if any(b.in_step for b in self.of(Backward)[-1:]):  # its closure computed them
                step.norms = self.norms_to_compare(params)
            if len(self.of(Step)) < LOOKED_AT_CLOSELY:
                step.moved = {id(p) for p in params if self.kept.has_changed(p)}
            if self._in_backward:
                self._within.append(step)
                return
            self._left = [(p, *sum_and_slack(p.detach())) for p in (params[:FEW] + params[-FEW:])]
        self.add(step)

    def _clip(self, original: Callable) -> Callable:
        def clip(*args, **kwargs):
            given = inspect.signature(original).bind(*args, **kwargs)
            first, most = list(given.arguments)[:2]  # parameters; max_norm or clip_value
            parameters = given.arguments[first]
            parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            given.arguments[first] = parameters
            norm = gradient_norm(self.trained())
            event = Clip(float(given.arguments[most]), sum(p.grad is not None for p in parameters), norm)
            event.clipped = {id(p) for p in parameters}
            result = original(*given.args, **given.kwargs)
            self.add(event)
            return result

        return clip

    def _scaled(self, original: Callable) -> Callable:
        def scale(scaler, outputs):
            self.kept.keep(scaler)
            result = original(scaler, outputs)
            self._scale = float(scaler._scale) if scaler.is_enabled() else 1.0
            return result

        return scale

    def _marking(self, kind: str) -> Callable[[Callable], Callable]:
        def make(original: Callable) -> Callable:
            def marked(scaler, optimizer, *args, **kwargs):
                if scaler.is_enabled():
                    self.add(Mark(kind))
                return original(scaler, optimizer, *args, **kwargs)

            return marked

        return make

    def _schedule(self, original: Callable) -> Callable:
        def step(scheduler, *args, **kwargs):
            self.kept.keep(scheduler)
            self._in_schedule += 1
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    result = original(scheduler, *args, **kwargs)
            finally:
                self._in_schedule -= 1
            for warning in said:  # of the line that calls it, not of this one
                warnings.warn(warning.message, stacklevel=2)
            initial = vars(scheduler).get("_step_count", 2) <= 1  # the first call is the constructor's
            if not self._in_schedule and not initial:
                self.add(Mark("schedule"))
            return result

        return step


def in_transform() -> bool:
    """Whether this runs inside of torch.func's grad or vmap, where tensors stand for others, which cannot be kept."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def all_subclasses(kind: type) -> set[type]:
    direct: list[type] = kind.__subclasses__()
    return set(direct).union(*(all_subclasses(sub) for sub in direct))


def sum_and_slack(weights: Tensor) -> tuple[float, float]:
    """Return the sum of weights, and by how much it may differ if they were swapped for others and back by arithmetic."""
    exact = weights.double()
    return float(exact.sum()), SWAPPED_BACK * torch.finfo(weights.dtype).eps * float(exact.abs().sum())


def numbers_of(grad: Tensor) -> Tensor:
    """Return the numbers of a gradient; of a sparse one, those that it holds."""
    return grad.detach().coalesce().values() if grad.is_sparse else grad.detach()


def has_gradient(parameter: Tensor) -> bool:
    """Whether it has a gradient other than 0."""
    return parameter.grad is not None and bool(numbers_of(parameter.grad).count_nonzero())


def some_gradient(parameters: list[Tensor]) -> bool:
    """Whether any of these has a gradient other than 0."""
    return any(has_gradient(p) for p in parameters)


def gradient_norm(parameters: list[Tensor]) -> float:
    """Return the norm of all gradients, 0 if there is none."""
    return math.sqrt(sum(float(numbers_of(p.grad).float().square().sum()) for p in parameters if p.grad is not None))
