"""Where the future enters: the first layer, and the operation in it, whose result at early positions changes with later tokens.

Two texts that agree up to a position are read, one after the other. A layer leaks if what goes into it is the same at these
early positions, and what comes out is not. An operation in it is to blame if the leak is gone as soon as its result is replaced
by the one of the other text: what is named was tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .patient import ModelError, Patient, model_line, tensors_in
from .probes import CHANGED, CHANGED_IN_DOUBLE, perturbed

# ----- which operations mix positions

ATTENTION, NORM, POOL = "an attention", "a norm over the axis of time", "over the axis of time"
CONVOLUTION, FOURIER, CHOICE = "a convolution over time", "a Fourier transform over time", "a choice over time"
SHIFT, ORDER, MATRIX, RUNNING = "a shift in time", "another order of time", "a matrix over time", "a running sum over time"

ROLL = "torch.roll"

MEANS: tuple[str, ...] = ("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "prod", "any", "all", "median", "argmax")
MEANS += ("var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm")
POOLS = ("avg_pool1d", "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "adaptive_max_pool2d")
RESIZES = ("upsample_linear1d", "upsample_nearest1d", "upsample_bilinear2d", "upsample_nearest2d", "unfold", "im2col")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear")
WORDS = {"mean": "a mean", "sum": "a sum", "amax": "a maximum", "max": "a maximum", "amin": "a minimum", "min": "a minimum"}
WORDS |= dict.fromkeys(POOLS, "a pooling") | {"logsumexp": "a logsumexp", "unfold": "windows", "im2col": "windows"}
CHUNKS = (0.5, 2.0)  # a text that was cut or padded to whole chunks is at least half, at most twice as long


def over_time(name: str, args: Sequence, kwargs: dict, T: int) -> str:
    """Return in words how an operation mixes the T positions, "" if it does not."""
    x = next((a for a in args if isinstance(a, Tensor)), None)
    if x is None:
        return ""
    shape, given = tuple(x.shape), [kwargs.get("dim"), *[a for a in args[1:] if not isinstance(a, Tensor)]]
    dims = next((a for a in given if isinstance(a, int | list | tuple) and not isinstance(a, bool)), None)
    if name.startswith("_scaled_dot_product") or (name in ("_softmax", "_safe_softmax") and shape.count(T) > 1):
        return ATTENTION
    if name in ("_softmax", "_safe_softmax"):
        return f"a softmax {POOL}" if shape[dims if isinstance(dims, int) else -1] == T else ""
    if name in PRODUCTS:
        a, b = [t for t in args if isinstance(t, Tensor)][-2:]
        if a.dim() < 2 or a.shape[-1] != T:  # what is summed over
            return ""
        if a.shape[-2] == T and name in ("bmm", "baddbmm"):
            return ATTENTION
        return MATRIX if b.shape[-1] == T else f"a sum {POOL}"
    if name in MEANS:
        return reduced(name, shape, dims, T)
    if name in ("_fft_r2c", "_fft_c2c", "_fft_c2r"):
        return FOURIER
    if name in POOLS or name in RESIZES:
        low, high = (factor * T for factor in CHUNKS)
        return f"{WORDS.get(name, 'a stretching')} {POOL}" if low < shape[-1] < high else ""
    if name in ("topk", "sort", "argsort", "kthvalue"):
        dim = dims if isinstance(dims, int) and name != "topk" else next((a for a in args[2:3] if isinstance(a, int)), -1)
        return f"{CHOICE} ({name})" if shape and shape[dim] == T else ""
    if name in ("cumsum", "cumprod", "logcumsumexp", "cummax"):
        return RUNNING if shape[dims if isinstance(dims, int) else -1] == T else ""
    return moved_in_time(name, args, shape, T)


def moved_in_time(name: str, args: Sequence, shape: tuple[int, ...], T: int) -> str:
    """Return what else an operation does with the T positions: norms, convolutions, shifts and orders."""
    if name in ("native_layer_norm", "_fused_rms_norm", "native_batch_norm", "native_group_norm"):
        normed = shape[-len(args[1]) :] if name in ("native_layer_norm", "_fused_rms_norm") else shape
        return NORM if T in normed else ""
    if name == "convolution" and args[1].dim() == 3:
        kernel, stride = args[1].shape[-1], args[3][0]
        how = f" with stride {stride}" if stride > 1 else ""
        return f"{CONVOLUTION} (kernel {kernel}){how}" if shape[-1] + kernel >= T else ""
    if name == "roll" and any(T <= n < CHUNKS[1] * T for n in shape):  # padded to whole groups
        return f"{ORDER} ({ROLL})"
    if name == "flip" and T in shape:
        return f"{ORDER} (torch.{name})"
    if name == "slice" and len(args) > 3 and shape[args[1]] == T and 0 < args[2] < T <= args[3]:
        return f"{SHIFT} by {args[2]}"
    if name == "constant_pad_nd" and T in shape and min(args[1]) < 0:
        return f"{SHIFT} by {-min(args[1])}"
    return ""


def reduced(name: str, shape: tuple[int, ...], dims, T: int) -> str:
    """Return in words how a mean, sum, maximum or the like mixes positions: over all of them, or over those of a chunk."""
    axes = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = [axis % max(len(shape), 1) for axis in axes]
    if any(shape[axis] == T for axis in axes):
        return f"{WORDS.get(name, 'statistics')} {POOL}"
    low, high = (factor * T for factor in CHUNKS)
    for axis in axes:
        for first, second in ((axis - 1, axis), (axis, axis + 1)):
            chunked = first >= 0 and second < len(shape) and low < shape[first] * shape[second] < high
            if chunked and T not in shape and shape[axis] > 1 and len(shape) > 2:
                return f"{WORDS.get(name, 'statistics')} {POOL}, in chunks of {shape[axis]}"
    return ""


# ----- reading a text


@dataclasses.dataclass
class Step:
    """An operation that may mix positions."""

    what: str
    layer: str  # the innermost module that is running
    results: list[Tensor]
    starts: list[Tensor]  # of its arguments: the early positions
    ends: list[Tensor]  # of its results: the early positions
    line: str  # of the model's code
    points: int = 0  # of a Fourier transform
    inverse: bool = False  # of a Fourier transform


@dataclasses.dataclass
class LayerCall:
    """A call of a module."""

    name: str
    module: nn.Module
    given: list[Tensor]  # what goes into it, at the early positions
    answer: list[Tensor]  # what comes out, at the early positions


class Reading(TorchDispatchMode):
    """What the layers, and the operations over time, make of a text of T tokens, whose first `early` are the other text's too.

    The results of the steps `replaced` are those of another reading.
    """

    def __init__(self, T: int, early: int, other: Reading | None = None, replaced: frozenset[int] = frozenset()):
        super().__init__()
        self.T, self.early, self.other, self.replaced = T, early, other, replaced
        self.steps: list[Step] = []
        self.calls: list[LayerCall] = []
        self.running: list[str] = []
        self.given: list[list[Tensor]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def starts(self, tensors: Sequence) -> list[Tensor]:
        """Return tensors at the early positions, as far as one axis, and only one, is that of time."""
        found = []
        for x in tensors:
            axes = [axis for axis, n in enumerate(x.shape) if n == self.T] if isinstance(x, Tensor) else []
            if len(axes) == 1:
                found.append(x.detach().narrow(axes[0], 0, self.early).clone())
        return found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        what = over_time(name.rstrip("_"), args, kwargs, self.T) if not name.endswith("_") else ""
        starts = self.starts([a for a in args if isinstance(a, Tensor)]) if what else []
        out = func(*args, **kwargs)
        if not what:
            return out
        several = isinstance(out, tuple | list)
        results = [x for x in (out if several else [out]) if isinstance(x, Tensor)]
        step = Step(
            what,
            self.running[-1] if self.running else "",
            [x.detach().clone() for x in results],
            starts,
            self.starts(results),
            model_line(),
        )
        if what == FOURIER:
            dim = args[1][-1]
            step.inverse = name == "_fft_c2r" or (name == "_fft_c2c" and not args[3])
            step.points = out.shape[dim] if step.inverse else args[0].shape[dim]
        number = len(self.steps)
        self.steps.append(step)
        if number in self.replaced and self.other is not None and number < len(self.other.steps):
            theirs = self.other.steps[number].results
            if [x.shape for x in theirs] == [x.shape for x in results]:
                return type(out)([x.clone() for x in theirs]) if several else theirs[0].clone()
        return out

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Note in the block what goes into each module, and what comes out."""
        hooks = []

        def before(name: str) -> Callable:
            def note(module, args, kwargs):
                self.running.append(name)
                self.given.append(self.starts(tensors_in([*args, *kwargs.values()])))

            return note

        def after(name: str) -> Callable:
            def note(module, args, kwargs, output):
                if self.running and self.running[-1] == name:
                    self.running.pop()
                    self.calls.append(LayerCall(name, module, self.given.pop(), self.starts(tensors_in(output))))

            return note

        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            hooks.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(after(name), with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def differ(one: list[Tensor], two: list[Tensor], relative: float) -> bool:
    """Whether any of some tensors is another in the second list, by more than rounding."""
    for x, y in zip(one, two, strict=False):
        if x.shape == y.shape and x.is_floating_point() and x.numel():
            a, b = x.double().nan_to_num(), y.double().nan_to_num()
            if (a - b).abs().max() > relative * max(a.abs().max().item(), 1e-30):
                return True
        elif x.shape == y.shape and not torch.equal(x, y):
            return True
    return False


# ----- the first leak


@dataclasses.dataclass(frozen=True)
class Leak:
    """Where the future enters."""

    layer: str  # the name of the first module that leaks, "" if it is the model itself
    module: nn.Module
    what: str = ""  # what is to blame in it, in words; "" if that was not found
    line: str = ""  # of the model's code, where it is
    points: int = 0  # of a Fourier transform
    inverse: bool = False  # whether it is followed by an inverse one

    @property
    def place(self) -> str:
        """The layer in words."""
        kind = type(self.module).__name__
        return f"{self.layer} ({kind})" if self.layer else f"{kind}.forward, outside of its layers"


def read(p: Patient, ids: Tensor, early: int, other: Reading | None = None, replaced: frozenset[int] = frozenset()) -> Reading:
    """Return the reading of a text, ids (1, T)."""
    reading = Reading(ids.shape[1], early, other, replaced)
    with reading.hooked(p.model), reading, torch.no_grad():
        p.logits(ids)
    return reading


def first_leak(p: Patient, one: Tensor, two: Tensor, training: bool = False, exact: bool = False) -> Leak | None:
    """Return where the future enters, by two texts (1, T) that differ in later tokens only; None if no layer shows it.

    `exact`: in double precision, for leaks that are as small as rounding.
    """
    early = int((one != two).any(dim=0).nonzero()[0])  # so many tokens are the same
    relative = CHANGED_IN_DOUBLE if exact else CHANGED
    try:
        with perturbed(p), p.asked_in(training), p.in_double() if exact else contextlib.nullcontext():
            a, b = read(p, one, early), read(p, two, early)
            number = next((i for i, pair in enumerate(zip(a.calls, b.calls, strict=False)) if leaks(*pair, relative)), None)
            if number is None:
                return None
            name, module = b.calls[number].name, b.calls[number].module
            inside = [
                i for i, s in enumerate(a.steps[: len(b.steps)]) if s.what == b.steps[i].what and is_inside(s.layer, name)
            ]
            starts_here = [i for i in inside if may_begin(a.steps[i], b.steps[i], relative)]
            for what in dict.fromkeys(a.steps[i].what for i in starts_here):
                group = [i for i in starts_here if a.steps[i].what == what]
                if replaced := restoring(p, two, a, number, [i for i in inside if a.steps[i].what == what], group, relative):
                    first, inverse = a.steps[replaced[0]], any(a.steps[i].inverse for i in inside)
                    return Leak(name, module, what, first.line, first.points, inverse)
            return Leak(name, module)
    except ModelError:
        return None


def restoring(
    p: Patient, two: Tensor, a: Reading, number: int, inside: list[int], group: list[int], relative: float
) -> list[int]:
    """Return the steps whose results, taken from the first text's reading `a`, close the leak of the layer's call; or none.

    One of a kind may hide another: a mean, and the variance around it.
    """
    while group:
        again = read(p, two, a.early, a, frozenset(group))
        if number < len(again.calls) and not differ(a.calls[number].answer, again.calls[number].answer, relative):
            return group
        known = [i for i in inside if i < len(again.steps) and i not in group]
        more = [i for i in known if may_begin(a.steps[i], again.steps[i], relative)]
        group = sorted(group + more) if more else []
    return []


def may_begin(one: Step, two: Step, relative: float) -> bool:
    """Whether a leak may begin in a step: its arguments are the same at the early positions, and its result is not, as far as
    their axes of time are known."""
    same_result = bool(one.ends) and not differ(one.ends, two.ends, relative)
    return not same_result and not differ(one.starts, two.starts, relative)


def leaks(one: LayerCall, two: LayerCall, relative: float) -> bool:
    """Whether a layer's answer at the early positions differs, and what went into it does not."""
    same = one.name == two.name and not differ(one.given, two.given, relative)
    return same and differ(one.answer, two.answer, relative)


def is_inside(layer: str, name: str) -> bool:
    return not name or layer == name or layer.startswith(f"{name}.")
