"""Checks of values, not only of wiring: weights of a new model, modules that answer otherwise than their class, what the
configuration states against what runs, half precision inside, padding, and attention that is the same whatever the tokens."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import io
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .basics import all_tokens, unfilled_buffer
from .patient import BOUNDARIES, CONFIGS, DOCUMENTS, ROWS, ModelError, Patient, attribute, declared, model_code, set_seed
from .probes import (
    ALL_TOKENS,
    ATTENDS,
    BUILT_AGAIN,
    BUILT_FOR_EACH_FIELD,
    CHANGED,
    FEW_UNITS,
    HALF_APART,
    HALVES,
    HIDDEN_SCORE,
    MOST_TURNED,
    MOSTLY_ADAPTED,
    MOSTLY_DIVIDED,
    NEVER_WRITTEN,
    OTHER_BASE,
    OTHER_CAP,
    OTHER_EPSILON,
    OTHER_KERNEL,
    OTHER_RATE,
    OTHER_SPREAD,
    PAIRS_TURNED,
    REVIVED,
    ROUND_BASE,
    SAME_SPREAD,
    SAME_STEP,
    SAMPLING_ERROR,
    SLOW_TURN,
    SMALL_TABLE,
    SUM_OF_EXPERTS,
    TURNED,
    UNUSED_SEEDS,
    Overflows,
    affects_logits,
    block_stack,
    dependence_in_eval,
    first_tensor,
    flat,
    fresh,
    future,
    is_trained,
    largest_change,
    layer_stacks,
    module_answers,
    named_module,
    no_attention,
    once,
    parting,
    perturbed,
    perturbed_tape,
    perturbed_weights,
    tolerance,
    watch,
)
from .registry import FINITE, check
from .report import Cause, Reason, Verdict, failed, first_few, number_of, passed, skipped, warned

# ----- a second instance of the model's class: what its weights and modules are by its own promise


@once
def built_again(p: Patient) -> nn.Module | None:
    """Return a new instance of the model's class, made from the configuration that the model keeps; None if that cannot be.

    Its weights are other random numbers; what it promises is their distribution. It is only made where each argument of the
    constructor is known, and where it has the same parameters.
    """
    if sum(x.numel() for x in p.parameters.values()) > BUILT_AGAIN:
        return None
    given = constructor_arguments(p.model)
    if given is None:
        return None
    set_seed(0)
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        again = type(p.model)(**given)
        shapes = {name: x.shape for name, x in again.named_parameters()}
        if shapes == {name: x.shape for name, x in p.parameters.items()}:
            return again.eval()
    return None


def constructor_arguments(model: nn.Module) -> dict | None:
    """Return the arguments that made a model, by what it keeps under their names; None if one of them is not known."""
    try:
        parameters = list(inspect.signature(type(model).__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    holders = [holder for name in CONFIGS if (holder := attribute(model, name)) is not None]
    given = {}
    for q in parameters:
        if q.kind in (q.VAR_POSITIONAL, q.VAR_KEYWORD):
            continue
        if q.name in CONFIGS and holders:
            given[q.name] = holders[0]
            continue
        found = [holder[q.name] for holder in holders if isinstance(holder, dict) and q.name in holder]
        found += [vars(holder)[q.name] for holder in (*holders, model) if q.name in getattr(holder, "__dict__", {})]
        if not found or isinstance(found[0], nn.Module | Tensor):
            return None
        given[q.name] = found[0]
    return given or None


@contextlib.contextmanager
def nothing_uninitialised() -> Iterator[None]:
    """What torch.empty returns in the block is NaN, and nothing is printed: numbers that no initialisation wrote are known."""
    kept = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switch = torch._C._set_deterministic_algorithms  # use_deterministic_algorithms imports the compiler: a second and more
    switch(True, warn_only=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        switch(kept[0], warn_only=kept[1])


def part_built_again(p: Patient, part: nn.Module) -> nn.Module | None:
    """Return a new instance of the class of a part of the model, with parameters of the same shapes; None if none can be made.

    A width that its constructor needs, and the part does not keep, is tried among the sizes of its parameters.
    """
    shapes = {name: x.shape for name, x in part.named_parameters()}
    configs = {n: c for n in CONFIGS if (c := attribute(part, n) or attribute(p.model, n)) is not None}
    try:
        wanted = list(inspect.signature(type(part).__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    known = {q.name: vars(part)[q.name] for q in wanted if q.name in vars(part)} | {
        q.name: configs[q.name] for q in wanted if q.name in configs
    }
    unknown = [
        q.name
        for q in wanted
        if q.name not in known and q.default is q.empty and q.kind in (q.POSITIONAL_OR_KEYWORD, q.KEYWORD_ONLY)
    ]
    sizes = sorted({n for shape in shapes.values() for n in shape if n > 1})
    if len(unknown) > 1 or any(q.kind is q.POSITIONAL_ONLY for q in wanted):
        return None
    for guess in [{unknown[0]: n} for n in sizes] if unknown else [{}]:
        with contextlib.suppress(Exception), nothing_uninitialised():
            set_seed(0)
            again = type(part)(**known | guess)
            if {name: x.shape for name, x in again.named_parameters()} == shapes:
                return again
    return None


# ----- weights

SYMMETRIC = "units that begin equal stay equal: they get the same gradient"


def weights_hold(what: str, name: str) -> Cause:
    return Cause(f"{name} holds {what}", "initialise it as the others: nn.init.normal_(weight, std=0.02)")


def dead_units(name: str, what: str) -> Cause:
    return Cause(f"part of {name} is 0: {what}", "initialise the whole matrix; no mask, and no loop over a part of it")


def equal_units(name: str, what: str) -> Cause:
    return Cause(f"{what} of {name} are the same: {SYMMETRIC}", "random numbers for each of them")


def equal_layers(stack: str, which: str, names: int) -> Cause:
    """The cause for layers of a stack that begin as copies of each other."""
    return Cause(
        f"layers {which} of {stack} begin with equal numbers, in {number_of(names, 'matrix', 'matrices')}: copies (deepcopy) "
        "of one layer, which was initialised once",
        f"make each layer anew: nn.ModuleList(Layer() for _ in range(n)); or initialise {stack} again after copying",
    )


def wrong_gain(name: str, value: float, promised: float) -> Cause:
    what = "gain" if promised else "bias"
    return Cause(
        f"the {what} {name} is {value:g} everywhere, where a new one is {promised:g}",
        "a norm's weight begins at 1, a bias at 0",
    )


def overwritten(name: str, kind: str, span: str) -> Cause:
    """The cause for a bias of 0, where its part of the model, built alone, begins otherwise."""
    return Cause(
        f"{name} is 0 everywhere, where a new {kind} has {span}: its own initialisation was overwritten by one that "
        "goes over all modules",
        "apply(_init_weights) must leave out what a part initialises itself: if not getattr(bias, '_no_reinit', False)",
    )


def wrong_spread(name: str, ratio: float, how: str) -> Cause:
    size = f"{ratio:.3g} times as large as" if ratio > 1 else f"{1 / ratio:.3g} times smaller than"
    return Cause(
        f"the numbers of {name} are {size} {how}: trained, loaded or set by hand, or else scaled by mistake",
        "if nobody meant it, look for what scales or initialises it again",
        vague=True,
    )


@check("weights", needs=("answers",))
@torch.no_grad()
def weights(p: Patient) -> Verdict:
    """The weights of a new model are what its class promises: no part is 0, constant, repeated or of another size."""
    matrices = {n: x for n, x in p.parameters.items() if x.dim() >= 2 and x.is_floating_point() and x.numel() > 1}
    if problem := empty_buffers(p):
        return problem
    again = built_again(p)
    if looks_trained(p, again):
        return skipped("its norms' weights have moved: a trained model, whose weights may be anything")
    promised = promises(p, again) if again is not None else {}
    if problem := next(itertools.chain(wrong_vectors(p, promised), wrong_matrices(p, matrices, promised)), None):
        return problem
    if problem := copied_layers(p) or start_overwritten(p):
        return problem
    vectors = [x for x in p.parameters.values() if x.dim() == 1 and x.numel() > 1]
    if not any(bool((x == x[0]).all()) for x in vectors):  # nothing shows that it is new: training changes sizes
        return passed(f"{number_of(len(matrices), 'matrix', 'matrices')}: {none_is(p, matrices)}")
    if problem := wrong_sizes(p, matrices, promised) if promised else unlike_other_layers(p):
        return problem
    if problem := scaled_elsewhere(p):
        return problem
    how = "with those of a second instance of its class" if promised else "with each other"
    seen = f"{number_of(len(matrices), 'matrix', 'matrices')} of a new model, compared {how}"
    return passed(f"{seen}: their numbers have the expected size, and {none_is(p, matrices)}")


def empty_buffers(p: Patient) -> Verdict | None:
    """Return whether buffers are 0, or nearly so (memory that was never written), and cut parameters off: with 1 in them,
    parameters get a gradient that is exactly 0 else."""
    zero = {n: x for n, x in p.model.named_buffers() if x.is_floating_point() and x.numel() and x.abs().max() < NEVER_WRITTEN}
    if not zero or p.mode == "prefixes":
        return None
    with torch.enable_grad(), perturbed(p):
        before = without_gradient(p)
        if not before:
            return None
        alike: dict[str, list[str]] = {}
        for name in zero:
            alike.setdefault(name.rpartition(".")[2], []).append(name)
        kept = {name: x.detach().clone() for name, x in zero.items()}
        for names in (*alike.values(), list(zero)):
            try:
                for name in names:
                    zero[name].data.fill_(1.0)
                revived = before - without_gradient(p)
            finally:
                for name in names:
                    zero[name].data.copy_(kept[name])
            if len(revived) >= REVIVED * len(p.parameters):
                few = first_few(sorted(revived), 2)
                evidence = f"with 1 in {names[0]}, {number_of(len(revived), 'parameter')} whose gradient is 0 get one: {few}"
                what = "0, so that what it multiplies has no effect"
                return failed(unfilled_buffer(names[0], what, len(names) - 1), evidence)
    return None


def without_gradient(p: Patient) -> set[str]:
    """Return the parameters that could have a gradient of the logits, and have none, or one of 0."""
    trained = {name: x for name, x in p.parameters.items() if x.requires_grad}
    logits = p.logits(p.ids(ROWS, p.T)).float()
    if not logits.requires_grad:
        return set()
    gradients = torch.autograd.grad(logits.square().sum(), list(trained.values()), allow_unused=True)
    return {name for name, g in zip(trained, gradients, strict=True) if g is None or g.abs().max() < NEVER_WRITTEN}


def copied_by_pytorch(p: Patient, stack: str) -> bool:
    """Whether a stack of layers is that of PyTorch's own encoder or decoder, which copies one layer."""
    return stack != "the model" and isinstance(p.model.get_submodule(stack.rpartition(".")[0]), COPIED_BY_PYTORCH)


def none_is(p: Patient, matrices: Mapping[str, Tensor]) -> str:
    """Return in words that no matrix is 0, constant or a copy, except for those that were let pass."""
    stacks = dict.fromkeys(n for n, _ in layer_stacks(p.model) if copied_by_pytorch(p, n))
    found = [f"the layers of {n}, which PyTorch makes as copies of one" for n in stacks]
    found += [f"{name} ({kind[2]}), which may be on purpose" for name, x in matrices.items() if (kind := pattern(x))]
    return f"none is 0, constant or a copy{f', except {first_few(found)}' if found else ''}"


COPIED_BY_PYTORCH = (nn.TransformerEncoder, nn.TransformerDecoder)  # whose documentation says so


def copied_layers(p: Patient) -> Verdict | None:
    """Return whether layers of a stack begin with equal random numbers, in all matrices that are random."""
    for stack, layers in layer_stacks(p.model):
        if len(set(map(id, layers))) < len(layers) or copied_by_pytorch(p, stack):
            continue  # the same layer, not a copy: that is the question of shared layers
        forms = [dict(layer.named_parameters()) for layer in layers]
        random = [n for n, x in forms[0].items() if x.dim() >= 2 and x.is_floating_point() and pattern(x) is None]
        equal = [
            i
            for i, form in enumerate(forms[1:], start=1)
            if random and all(n in form and form[n] is not forms[0][n] and torch.equal(form[n], forms[0][n]) for n in random)
        ]
        if equal:
            name = random[0]
            evidence = f"{stack}: {name} of layers {first_few([0, *equal])} is the same {tuple(forms[0][name].shape)} numbers"
            return failed(equal_layers(stack, first_few([0, *equal]), len(random)), evidence)
    return None


def start_overwritten(p: Patient) -> Verdict | None:
    """Return whether biases of a linear layer or a convolution, or vectors of a class's own, are 0, and in a new one of the
    class that they are part of all on one side of 0, farther from it than PyTorch's own initialisation goes: it means them so.

    What an outer part, built alone, sets to 0 is meant, whatever an inner one does; so is a number that may have been given.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    tried: set[tuple] = set()
    meant: set[str] = set()
    for name, part in p.model.named_modules():
        zero = [n for n, x in part.named_parameters() if x.dim() == 1 and x.numel() > 1 and not x.any()]
        form = (type(part), *(x.shape for x in part.parameters()))
        plain = type(part).__module__.startswith("torch.") or part is p.model or isinstance(part, nn.ModuleList | nn.Sequential)
        if plain or not zero or form in tried or sum(x.numel() for x in part.parameters()) > BUILT_FOR_EACH_FIELD:
            continue
        tried.add(form)
        if (again := part_built_again(p, part)) is None:
            continue
        for n in zero:
            owner, new, full = again.get_submodule(n.rpartition(".")[0]), again.get_parameter(n).detach().float(), f"{name}.{n}"
            layer = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd)
            usual = 1 / math.sqrt(owner.get_parameter("weight")[0].numel()) if layer else 0.0
            given = bool((new == new[0]).all()) and (not layer or float(new[0]) in defaults_of(type(part)))
            if given or not (new.min() > 0 or new.max() < 0):  # NaN: nothing of its own was written there
                meant.add(full)
            elif full not in meant and bool((new.abs() > usual).all()):
                found[full] = (type(part).__name__, new)  # the innermost class
    if not found:
        return None
    name, (kind, new) = next(iter(found.items()))
    span = f"{new.min():.3g} to {new.max():.3g}" if new.min() < new.max() else f"{new[0]:.3g}"
    evidence = f"{name}: all {len(new)} numbers are 0; in {kind}, built alone, they are {span}"
    return failed(overwritten(name, kind, span), evidence)


def defaults_of(kind: type) -> set[float]:
    """Return the numbers that a constructor's arguments are by default."""
    with contextlib.suppress(TypeError, ValueError):
        return {float(q.default) for q in inspect.signature(kind).parameters.values() if isinstance(q.default, int | float)}
    return set()


def looks_trained(p: Patient, again: nn.Module | None) -> bool:
    """Whether the weights have been trained: most vectors that a new instance fills with one number have moved."""
    if again is None:
        return is_trained(p)
    constant = [n for n, x in promises(p, again).items() if x.dim() == 1 and x.numel() > 1 and bool((x == x[0]).all())]
    moved = [n for n in constant if bool((p.parameters[n] != p.parameters[n][0]).any())]
    return len(moved) > len(constant) / 2


def promises(p: Patient, again: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a new instance by name, without those of modules that were exchanged for another class's."""
    kinds = {name: type(module) for name, module in again.named_modules()}
    others = [f"{name}." for name, module in p.model.named_modules() if kinds.get(name) is not type(module)]
    return {name: x for name, x in again.named_parameters() if not name.startswith(tuple(others))}


def norm_vectors(p: Patient) -> Iterator[tuple[str, Tensor, float]]:
    """Yield name, value and promise of each gain and bias of PyTorch's own norms."""
    for name, module in p.model.named_modules():
        if type(module) in (nn.LayerNorm, nn.RMSNorm):
            for inner, x in module.named_parameters(recurse=False):
                yield f"{name}.{inner}".lstrip("."), x, float(inner == "weight")


def wrong_vectors(p: Patient, promised: Mapping[str, Tensor]) -> Iterator[Verdict]:
    """Yield vectors of one number where the class promises another; without a second instance those of PyTorch's norms."""
    constant: list[tuple[str, Tensor, float]]
    if promised:
        pairs = [
            (n, p.parameters[n], x) for n, x in promised.items() if x.dim() == 1 and x.numel() > 1 and x.is_floating_point()
        ]
        constant = [(n, x, float(y[0])) for n, x, y in pairs if bool((y == y[0]).all())]
    else:
        constant = list(norm_vectors(p))
    wrong = [(n, x[0].item(), y) for n, x, y in constant if x.numel() > 1 and bool((x == x[0]).all()) and x[0].item() != y]
    if wrong and (len(wrong) <= len(constant) / 2 or not promised or all_alike(wrong)):
        name, value, right = wrong[0]
        more = f"; {number_of(len(wrong), 'vector')} in all hold such a number" if len(wrong) > 1 else ""
        yield failed(wrong_gain(name, value, right), f"{name}: all {p.parameters[name].numel()} numbers are {value:g}{more}")


def all_alike(wrong: list[tuple[str, float, float]]) -> bool:
    return len({(value, right) for _, value, right in wrong}) <= 2


def wrong_matrices(p: Patient, matrices: Mapping[str, Tensor], promised: Mapping[str, Tensor]) -> Iterator[Verdict]:
    """Yield matrices that are 0 or constant, or have rows or columns that are 0 or equal, where a new one's are not."""
    for name, x in matrices.items():
        found = pattern(x)
        if not found or (name in promised and pattern(promised[name])):
            continue
        table = name == p.interface.token_table or (x.shape[0] in (p.interface.in_vocab, p.interface.out_vocab))
        kind, share, what = found
        if has_no_units(p, name):
            continue
        evidence = f"{name} {tuple(x.shape)}: {what}"
        known = name in promised
        if kind == "zero":  # on purpose in some: the last matrix of each branch, queries, the head (muP, nanochat)
            if known:
                yield failed(weights_hold("nothing but 0", name), evidence)
        elif kind == "constant":
            yield failed(weights_hold("one number everywhere", name), f"{evidence}: {SYMMETRIC}")
        elif kind in ("zero rows", "zero columns"):
            padding = table and kind == "zero rows" and not known
            if not padding and (known or share > FEW_UNITS):
                yield failed(dead_units(name, what), evidence)
        elif not table or known:
            yield failed(equal_units(name, kind.partition(" ")[2]), evidence)


# what is done with numbers that stand for themselves: rates of decay (Mamba's A_log, log 1 … N in every row), gates
ELEMENT_BY_ELEMENT = frozenset(
    {"exp", "exp2", "log", "neg", "mul", "add", "sub", "rsub", "div", "softplus", "sigmoid", "tanh", "relu", "clamp", "pow"}
)
ELEMENT_BY_ELEMENT |= {
    "view",
    "unsafe_view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "clone",
    "to_copy",
    "detach",
    "alias",
}


def has_no_units(p: Patient, name: str) -> bool:
    """Whether a parameter is a class's own, and is only taken element by element: its rows are no units that a matrix product
    makes alike, so they may be the same, or one number, on purpose."""
    layers = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    if isinstance(p.model.get_submodule(name.rpartition(".")[0]), layers) or name in {x.name for x in p.interface.positions}:
        return False
    done = perturbed_tape(p).done_with.get(name, set())
    return done <= ELEMENT_BY_ELEMENT if done else not affects_logits(p, [name])  # what is never used is said by gradients


def pattern(x: Tensor) -> tuple[str, float, str] | None:
    """Return what is not random about a matrix: (kind, share of it, in words). None if nothing is."""
    x = x.detach().float().flatten(1)
    if x.numel() < 4 or min(x.shape) < 2:
        return None
    if bool((x == x[0, 0]).all()):
        return ("zero", 1.0, "all of it is 0") if x[0, 0] == 0 else ("constant", 1.0, f"all of it is {x[0, 0].item():.3g}")
    for dim, axis in ((1, "rows"), (0, "columns")):
        zero = (x == 0).all(dim=dim)
        if n := int(zero.sum()):
            which = first_few(zero.nonzero().flatten().tolist())
            return f"zero {axis}", n / len(zero), f"{n} of {len(zero)} {axis} are 0 ({which})"
        lines = x if dim == 1 else x.T
        # equal lines have equal sums; few candidates are compared in full
        order = lines.double().sum(dim=1).argsort()
        equal = (lines[order][1:] == lines[order][:-1]).all(dim=1)
        if n := int(equal.sum()):
            return f"equal {axis}", n / len(lines), f"{n + 1} of {len(lines)} {axis} are the same"
    return None


def wrong_sizes(p: Patient, matrices: Mapping[str, Tensor], promised: Mapping[str, Tensor]) -> Verdict | None:
    """Return whether some matrices are larger or smaller than those of a new instance of the model's class."""
    off = {}
    matrices = {name: x for name, x in matrices.items() if name in promised}
    for name, x in matrices.items():
        right = promised[name].detach().float().std().item()
        have = x.detach().float().std().item()
        allowed = SAME_SPREAD + SAMPLING_ERROR / math.sqrt(2 * x.numel())
        if right > 0 and abs(math.log(max(have, 1e-30) / right)) > allowed:
            off[name] = have / right
    kinds = {n: type(p.model.get_submodule(n.rpartition(".")[0])) for n in matrices}
    untouched = {kinds[n] for n in matrices if n not in off}  # were all of one kind initialised anew, somebody meant it
    if not off or (len(off) > len(matrices) / 2 and not untouched & {kinds[n] for n in off}):
        return None
    name = next(iter(off))
    more = f", and {number_of(len(off) - 1, 'other')} differ too" if len(off) > 1 else ""
    have, right = (x[name].float().std().item() for x in (matrices, promised))
    evidence = f"{name} has a standard deviation of {have:.3g}, a new one {right:.3g}{more}"
    # what is trained, loaded or set by hand is so in all layers, or is what is not frozen; one layer alone is a mistake
    verdict = failed if any(in_one_layer(p, n, off) for n in off) else warned
    return verdict(wrong_spread(name, off[name], "those of a new instance of its class"), evidence)


def in_one_layer(p: Patient, name: str, off: Collection[str]) -> bool:
    """Whether a matrix is among `off`, and the same one of another layer of its list is not, though neither alone is frozen."""
    for stack, layers in layer_stacks(p.model):
        number, _, inner = name.removeprefix(f"{stack}.").partition(".")
        if not name.startswith(f"{stack}.") or not number.isdigit():
            continue
        same = {n: x for i in range(len(layers)) if (x := p.parameters.get(n := f"{stack}.{i}.{inner}")) is not None}
        others = [n for n in same if n not in off]
        if others and all(same[n].requires_grad == same[name].requires_grad for n in others):
            return True
    return False


def unlike_other_layers(p: Patient) -> Verdict | None:
    """Return whether one layer's matrix is of quite another size than the same one of the other layers of a list."""
    for layers in (list(m) for m in p.model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1):
        forms = [dict(layer.named_parameters()) for layer in layers if layer is not None] or [{}]
        for inner, first in forms[0].items():
            same = [
                f[inner].detach().float() for f in forms if inner in f and f[inner].shape == first.shape and first.dim() >= 2
            ]
            spreads = [x.std().item() for x in same]
            if len(spreads) > 1 and min(spreads) > 0 and max(spreads) > OTHER_SPREAD * min(spreads):
                at = spreads.index(max(spreads))
                cause = wrong_spread(f"{inner} in layer {at}", max(spreads) / min(spreads), "those of another layer")
                return failed(cause, f"standard deviations of {inner} by layer: {first_few(f'{s:.3g}' for s in spreads)}")
    return None


def small_elsewhere(small: str, writers: str, layers: int) -> Cause:
    other = f"; {writers} does, and is as large as the others" if writers else ""
    return Cause(
        f"{small} begins 1/√{2 * layers} times as large as the others, as what writes into the residual stream should, and "
        f"does not write into it{other}",
        f"scale {writers or 'the last matrix of each branch'}, not {small}: GPT-2 divides what writes into the stream by √(2L)",
    )


def scaled_elsewhere(p: Patient) -> Verdict | None:
    """Return whether the initialisation by depth, GPT-2's 1 / √(2L), is on a matrix that does not write into the stream.

    Only where all others of a block have one standard deviation, whatever their shapes; by width, it differs for other reasons.
    """
    _, layers = block_stack(p)
    L = len(layers)
    table = p.parameters.get(p.interface.token_table)
    if L < 2 or table is None or len(set(map(id, layers))) < L:
        return None
    C = table.shape[-1]
    linear = {n: m for n, m in layers[0].named_modules() if isinstance(m, nn.Linear) and m.weight.numel() > 1}
    spreads: dict[str, float] = {}
    for name in linear:
        weights = [w for x in layers if isinstance(w := attribute(dict(x.named_modules()).get(name), "weight"), Tensor)]
        spreads[name] = torch.cat([w.detach().float().flatten() for w in weights]).std().item()
    allowed = {n: SAME_SPREAD / 2 + SAMPLING_ERROR / math.sqrt(2 * L * m.weight.numel()) for n, m in linear.items()}

    def is_near(name: str, size: float) -> bool:
        return abs(math.log(max(spreads[name], 1e-30) / max(size, 1e-30))) < allowed[name]

    largest = max(spreads.values(), default=0.0)  # of the largest matrix among these, which is known best
    near = [n for n in linear if is_near(n, largest)]
    usual = spreads[max(near, key=lambda n: linear[n].weight.numel())] if near else 0.0
    if not usual:
        return None

    full = [n for n in linear if is_near(n, usual)]
    if problem := scaled_everywhere(p, L, usual, linear, full):
        return problem
    small = [n for n in linear if is_near(n, usual / math.sqrt(2 * L)) and n not in full]
    if not small or len(full) + len(small) < len(linear) or len({linear[n].weight.shape for n in full}) < 2:
        return None
    writers = [n for n in full if linear[n].out_features == C != linear[n].in_features]
    wrong = [n for n in small if linear[n].out_features != C]
    if not wrong:
        return None
    other = next(iter(writers), "")
    beside = f"{other} {spreads[other]:.3g}" if other else f"the others {usual:.3g}"
    sizes = f"standard deviations: {wrong[0]} {spreads[wrong[0]]:.3g}, {beside}"
    return warned(small_elsewhere(wrong[0], other, L), f"in each of {L} layers, {sizes}")


def all_small(layers: int) -> Cause:
    return Cause(
        f"all linear layers begin 1/√{2 * layers} times as large as the embeddings, as only those should that write into the "
        "residual stream (GPT-2's scale by depth)",
        "scale the last matrix of each branch alone: if name.endswith('c_proj.weight')",
    )


def scaled_everywhere(p: Patient, L: int, usual: float, linear: Mapping[str, nn.Linear], full: list[str]) -> Verdict | None:
    """Return whether all linear layers of L blocks, of standard deviation `usual` whatever their shapes, are scaled by depth:
    1 / √(2L) times as large as each table of embeddings, of GPT-2's usual size."""
    tables = [p.interface.token_table, *(x.name for x in p.interface.positions)]
    spreads = [p.parameters[n].detach().float().std().item() for n in tables if n in p.parameters]
    shapes = {linear[n].weight.shape for n in linear}
    if len(full) < len(linear) or len(shapes) < 2 or max(spreads) > SMALL_TABLE:
        return None
    if any(abs(math.log(max(s, 1e-30) / usual / math.sqrt(2 * L))) > SAME_SPREAD / 2 for s in spreads):
        return None
    evidence = f"standard deviations: {number_of(len(linear) * L, 'linear layer')} {usual:.3g}, embeddings {spreads[0]:.3g}"
    return warned(all_small(L), evidence)


# ----- modules


def replaced(name: str, kind: str, how: str) -> Cause:
    return Cause(
        f"forward of {name} was replaced on this instance, and answers otherwise than its class {kind}: {how}",
        "del module.forward puts the class's own back; what is meant belongs into a class of its own",
    )


@check("modules", needs=("side effects",))
@torch.no_grad()
def modules(p: Patient) -> Verdict:
    """Each module computes what its class does: its forward was not replaced by one that computes something else."""
    scripted = torch.jit.ScriptModule
    changed = [(n, m) for n, m in p.model.named_modules() if "forward" in vars(m) and not isinstance(m, scripted)]
    if not changed:
        return passed("every module runs its class's own forward")
    ids = p.ids(ROWS, p.T)
    for name, module in reversed(changed):  # innermost first
        calls: list[tuple] = []

        def note(module, args, named, calls=calls):
            calls.append((args, named))

        hook = module.register_forward_pre_hook(note, with_kwargs=True)
        try:
            p.logits(ids)
        finally:
            hook.remove()
        for args, named in calls[:1]:
            with contextlib.suppress(ModelError, AttributeError, TypeError):
                set_seed(0)
                with model_code():
                    mine = first_tensor(module.forward(*args, **named))
                set_seed(0)
                with model_code():
                    classes = first_tensor(type(module).forward(module, *args, **named))
                if mine is None or classes is None:
                    continue
                where = name or "the model"
                kind = type(module).__name__
                if mine.shape != classes.shape:
                    return failed(replaced(where, kind, "another shape"), f"{tuple(mine.shape)}, not {tuple(classes.shape)}")
                gap = (mine.float() - classes.float()).abs().max().item()
                if gap > 0 and not torch.allclose(mine.float(), classes.float(), rtol=1e-6, atol=0):
                    return failed(replaced(where, kind, difference(mine, classes)), f"its output differs by up to {gap:.3g}")
    return passed(f"{number_of(len(changed), 'module')} with a forward of their own answer as their classes do")


def difference(mine: Tensor, classes: Tensor) -> str:
    """Return in words how one tensor differs from another of its shape."""
    x, y = mine.float(), classes.float()
    if not x.any():
        return "nothing but 0"
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(y.to(dtype).float(), x):
            return f"rounded to {dtype}".replace("torch.", "")
    factor = ((x * y).sum() / y.square().sum().clamp(min=1e-30)).item()
    if torch.allclose(x, factor * y, rtol=1e-4, atol=1e-6):
        return f"{factor:.3g} times as large"
    if y.dim() and torch.equal(x.sort(dim=-1).values, y.sort(dim=-1).values):
        return "the same numbers in another order"
    if ((x == 0) & (y != 0)).any():
        return "part of it is 0"
    return "other numbers"


# ----- configuration

EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "norm_epsilon", "layernorm_epsilon", "ln_eps")
HEADS = ("n_head", "num_heads", "num_attention_heads", "n_heads", "heads", "nhead")
DECODER_HEADS = "decoder_attention_heads"  # where num_attention_heads is the encoder's
ACTIVATION_NAMES = ("hidden_act", "activation_function", "activation", "hidden_activation", "act", "act_fn", "afn", "ffn_act")
ROTARY_SHARES = (
    *("partial_rotary_factor", "rotary_pct", "rotary_percent", "rotary_percentage", "rope_pct", "rope_percentage"),
    *("rotary_fraction", "rope_fraction", "partial_rope_factor"),
)
ROTARY_BASES = ("rope_theta", "rope_base", "rotary_base", "rotary_emb_base", "rope_max_timescale", "theta")
STATED_BASES = (*ROTARY_BASES[:-1], "rope_freq_base", "rope_wavelength", "rope_max_wavelength", "rotary_embedding_base")
SCALED = ("scal", "yarn", "ntk", "longrope", "rope_type", "rope_parameters", "rope_factor", "interpolat")  # of angles
WINDOWS = ("sliding_window", "attention_window", "attn_window", "local_window", "window")
# what runs where a name is stated; by hand, tanh and erf are GELUs, and sigmoid a SiLU
RUNS_AS = {
    "relu": ("relu", "clamp_min", "threshold"),
    "relu2": ("relu", "clamp_min", "threshold"),
    "gelu": ("gelu", "erf", "tanh"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "gelu_tanh": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "quick_gelu": ("sigmoid", "silu"),
    "silu": ("silu", "sigmoid"),
    "swish": ("silu", "sigmoid"),
    "swiglu": ("silu", "sigmoid"),
    "geglu": ("gelu", "erf", "tanh"),
    "tanh": ("tanh",),
    "sigmoid": ("sigmoid",),
    "mish": ("mish", "tanh"),
    "elu": ("elu",),
    "leaky_relu": ("leaky_relu",),
}
NONLINEAR = {name for names in RUNS_AS.values() for name in names}


def not_as_stated(field: str, stated, has: str) -> Cause:
    return Cause(f"the configuration states {field} = {stated}, and the model has {has}", "pass the setting on to the module")


@check("configuration", needs=("repeats",))
@torch.no_grad()
def configuration(p: Patient) -> Verdict:
    """What the configuration states (activation, heads, rotary base, window, experts …) is computed; every dropout is used."""
    looked: list[str] = []
    values = (stated_epsilon, stated_heads, stated_share, stated_base, stated_activation, stated_window, stated_experts)
    of_experts, of_adapters = (raw_experts, chosen_experts, biased_weights), (adapted_parts, idle_scale)
    for question in (*values, other_modules, *of_experts, *of_adapters, idle_dropouts, without_effect, nothing_dropped):
        if problem := question(p, looked):
            return problem
    return passed(f"as stated: {', '.join(looked)}") if looked else skipped("no configuration that states any of it was found")


def stated(p: Patient, names: tuple[str, ...], kind) -> tuple[str, Any] | None:
    """Return the one field that the outermost configuration states; None if there is none, or several that differ."""
    found = [(f.rpartition(".")[2], x) for f, x in declared(p.model, names, kind)]
    return found[0] if found and len({x for _, x in found}) == 1 else None


def stated_by_parts(p: Patient, names: tuple[str, ...], kind) -> set:
    """Return all values that the configurations of the model and of its parts state: a decoder may have its own."""
    configs = {id(c): c for m in p.model.modules() for where in CONFIGS if (c := attribute(m, where)) is not None}
    found = [c.get(name) if isinstance(c, Mapping) else attribute(c, name) for c in configs.values() for name in names]
    return {x for x in found if isinstance(x, kind) and not isinstance(x, bool)}


def stated_epsilon(p: Patient, looked: list[str]) -> Verdict | None:
    if not (known := stated(p, EPSILONS, float)):
        return None
    field, value = known
    norms = {n: m for n, m in p.model.named_modules() if "norm" in type(m).__name__.lower()}
    have = {
        n: next((e for a in ("eps", "variance_epsilon", "epsilon") if isinstance(e := attribute(m, a), float)), None)
        for n, m in norms.items()
    }
    other = {n: e for n, e in have.items() if e is not None and e != value}
    if other and len(other) == sum(e is not None for e in have.values()):
        name, eps = next(iter(other.items()))
        return failed(not_as_stated(field, value, f"eps = {eps} in {name}"), f"all {len(other)} norms have eps = {eps}")
    looked.append(field)
    return None


def stated_heads(p: Patient, looked: list[str]) -> Verdict | None:
    known = stated(p, HEADS, int)
    attentions = perturbed_tape(p).attentions
    if not known or not attentions:
        return None
    field, value = known
    found = {heads_of(a.weights.shape) for a in attentions}
    if len(found) == 1 and (have := found.pop()) and have not in {value} | stated_by_parts(p, (*HEADS, DECODER_HEADS), int):
        return failed(
            not_as_stated(field, value, f"{have} heads"),
            f"attention runs with {have} heads in each of {len(attentions)} layers",
        )
    looked.append(field)
    return None


def heads_of(shape: torch.Size) -> int:
    """(B·nh, Tq, Tk) or (B, nh, Tq, Tk) -> nh; 0 where that cannot be."""
    n = math.prod(shape[:-2])
    return n // ROWS if n % ROWS == 0 else 0


def stated_share(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether as many features of each head are turned by the rotary embedding as the configuration states."""
    config = next((c for m in p.model.modules() for n in CONFIGS if (c := attribute(m, n)) is not None), None)
    fields = dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {}))
    if any(
        isinstance(x, int) and x > 0 for name, x in fields.items() if "rope_head_dim" in str(name)
    ):  # a part of its own (MLA)
        return None
    shares = {n: x for n in ROTARY_SHARES if isinstance(x := fields.get(n), float) and 0 < x <= 1}
    for nested in (fields.get(n) for n in ("rope_parameters", "rope_scaling") if not shares):
        shares |= {
            n: x for n in ROTARY_SHARES if isinstance(nested, Mapping) and isinstance(x := nested.get(n), float) and 0 < x <= 1
        }
    if len(set(shares.values())) != 1 or (found := turned_features(p)) is None:
        return None
    (field, share), (clearly, turned, of) = next(iter(shares.items())), found
    meant = int(of * share)
    if meant < 2 or (clearly <= meant + 1 and turned >= MOST_TURNED * meant) or not turned:
        looked.append(field)
        return None
    how = f"all {of}" if turned == of else f"{turned} of {of}"
    cause = not_as_stated(field, f"{share:g} ({meant} of the {of} features of a head)", f"rotary positions on {how}")
    return failed(cause, f"one token repeated: {how} features of the first attention's queries change with their position")


def other_base(field: str, base: float, turned: float) -> Cause:
    return Cause(
        f"the configuration states {field} = {base:g}, and the rotary embedding turns with base {turned:g}",
        f"pass {field} on to the rotary embedding: frequencies are base ** (-2 * i / features)",
    )


def stated_base(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether the rotary embedding turns by the base that the configuration states.

    Not asked where angles are scaled (linear, NTK, YaRN, Llama 3), or where the base that is found is stated, too, by the same
    configuration, or under the same name by that of a part: layers of a window have their own.
    """
    configs = [c for m in p.model.modules() for n in CONFIGS if (c := attribute(m, n)) is not None]
    fields = [dict(c) if isinstance(c, Mapping) else dict(getattr(c, "__dict__", {})) for c in configs]
    nested = next((x for f in fields if isinstance(x := f.get("rope_parameters"), Mapping) and x.get("rope_theta")), {})
    known = stated(p, STATED_BASES, (int, float)) or (("rope_theta", nested["rope_theta"]) if nested else None)
    if known is None or any(is_scaled(str(name), x) for f in fields for name, x in f.items()):
        return None
    field, base = known
    stating = next((f for f in fields if f.get(field) == base or f.get("rope_parameters") == nested), {})  # the outermost one
    others = {
        float(x) for f in fields if f is stating or {field, "rope_parameters"} & set(f) for x in numbers_in(f) if x != base
    }
    found = [x for q in queries_of_one_token(p) if (x := rates_of_turning(q))]
    bases = [turned for rates, width in found if (turned := base_of(rates, width, base)) is not None]
    if not bases:
        return None
    wrong = [x for x in bases if abs(x / base - 1) > OTHER_BASE]
    if len(wrong) == len(bases) and len({f"{x:.2g}" for x in bases}) == 1 and is_round(bases[0]):
        turned = float(f"{bases[0]:.2g}")
        if not any(abs(x / turned - 1) < OTHER_BASE for x in others):
            by = first_few([f"{x:.3g}" for x in found[0][0]], 4)
            evidence = f"one token repeated: from position to position the first pairs of features of a query turn by {by}"
            return failed(other_base(field, base, turned), evidence)
    looked.append(field)
    return None


def is_scaled(name: str, value: Any) -> bool:
    """Whether a field of a configuration says that angles of rotary positions are scaled, or differ between layers."""
    if not value or value in (1, "default") or not any(word in name.lower() for word in SCALED):
        return False
    if not isinstance(value, Mapping):
        return True
    kind = value.get("rope_type", value.get("type"))
    return kind not in (None, "default") or "factor" in value or any(isinstance(x, Mapping) for x in value.values())


def numbers_in(value: Any, depth: int = 3) -> Iterator[float]:
    """Yield the numbers above 1 that a configuration holds, and those in its lists and dicts."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 1:
        yield value
    elif isinstance(value, Mapping | list | tuple) and depth:
        for x in value.values() if isinstance(value, Mapping) else value:
            yield from numbers_in(x, depth - 1)


def queries_of_one_token(p: Patient) -> list[Tensor]:
    """Return the queries (N, T, hs) of the attentions on one token repeated whose values are the same at every position: then
    nothing but a rotary embedding makes them differ."""
    ids, found = torch.full_like(p.ids(ROWS, p.T), int(p.tokens[-1])), []
    with perturbed(p):
        for a in watch(p, ids).attentions:
            if a.q is None or a.v is None or not a.q.shape[-2] == a.v.shape[-2] == p.T:
                continue
            q, v = (x.float().reshape(-1, p.T, x.shape[-1]) for x in (a.q, a.v))
            if (v - v[:, :1]).abs().max() <= SAME_STEP * v.abs().max():
                found.append(q)
    return found


def rates_of_turning(q: Tensor) -> tuple[list[float], int] | None:
    """Return by what angle each pair of features of queries (N, T, hs) turns from one position to the next, and how many
    features turn; None if they do not turn in pairs (i, i + hs / 2) or (2 i, 2 i + 1), each by one angle."""
    change = (q - q[:, :1]).abs().amax(dim=(0, 1)) > TURNED * q.abs().max()  # (hs,)
    if not change.any():
        return None
    first, last, hs = int(change.nonzero()[0]), int(change.nonzero()[-1]), q.shape[-1]
    width = (last - first + 2) // 2 * 2
    if 16 * width >= 15 * hs:  # the slowest hardly turn
        first, width = 0, hs
    q = q[..., first : first + width]
    if q.shape[-1] != width or width < 2 * PAIRS_TURNED:
        return None
    for x, y in ((q[..., : width // 2], q[..., width // 2 :]), (q[..., ::2], q[..., 1::2])):
        z = torch.complex(x.double(), y.double())  # (N, T, width / 2)
        sizes = z.abs()
        if ((sizes - sizes[:, :1]).abs() > SAME_STEP * sizes.amax()).any():
            continue
        steps = (z[:, 1:] * z[:, :-1].conj()).sum(dim=0).angle().abs()  # (T - 1, width / 2)
        if ((steps - steps[:1]).abs() < SAME_STEP).all():
            return steps.mean(dim=0).tolist(), width
    return None


def base_of(rates: list[float], width: int, stated: float) -> float | None:
    """Return the base of which the rates are powers, base ** (-2 i / width), from 1 on; `stated` itself where they are its
    powers of some other form; None where they are of none."""
    seen = [x for x in rates if x > SLOW_TURN]
    if len(seen) < PAIRS_TURNED or abs(seen[0] - 1) > OTHER_BASE or sorted(seen, reverse=True) != seen:
        return None
    falls = [math.log(x / y) for x, y in itertools.pairwise(seen)]
    mean = sum(falls) / len(falls)
    if mean <= 0 or max(falls) - min(falls) > OTHER_BASE * mean:
        return None
    if abs(mean * (width - 2) / 2 / math.log(stated) - 1) < OTHER_BASE / 10:  # from 1 to 1 / base, both included
        return stated
    return math.exp(min(mean * width / 2, 700.0))


def is_round(base: float) -> bool:
    """Whether a number has two digits, but for what measuring it adds."""
    return abs(base / float(f"{base:.2g}") - 1) < ROUND_BASE


def turned_features(p: Patient) -> tuple[int, int, int] | None:
    """Return how many features of a head change with the position in the first attention, clearly and at all, and of how many;
    None where the positions are in the stream already, or nothing is known of the queries."""
    ids = torch.full_like(p.ids(ROWS, p.T), int(p.tokens[-1]))
    with perturbed(p):
        a = next(iter(watch(p, ids).attentions), None)
    if a is None or a.q is None or a.v is None or a.q.shape[-2] != p.T or a.v.shape[-2] != p.T:
        return None
    q, v = (x.float().reshape(-1, p.T, x.shape[-1]) for x in (a.q, a.v))  # (N, T, hs) each
    if (v - v[:, :1]).abs().max() > SAME_STEP * v.abs().max():
        return None
    change = (q - q[:, :1]).abs().amax(dim=(0, 1))  # (hs,)
    return int((change > SAME_STEP * q.abs().max()).sum()), int((change > 0).sum()), len(change)


def stated_activation(p: Patient, looked: list[str]) -> Verdict | None:
    known = stated(p, ACTIVATION_NAMES, str)
    if not known or known[1] not in RUNS_AS:
        return None
    ran = perturbed_tape(p).nonlinear & NONLINEAR
    meant = {known[1]} | stated_by_parts(p, ACTIVATION_NAMES, str)
    if ran and not ran & {name for act in meant for name in RUNS_AS.get(act, ())}:
        return failed(
            not_as_stated(*known, first_few(sorted(ran))), f"{first_few(sorted(ran))} was carried out, and {known[1]} was not"
        )
    looked.append(known[0])
    return None


def other_modules(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether an activation, or an epsilon, is another than in a new instance of the model's class.

    Modules with weights are exchanged on purpose (adapters, quantised layers), and compared by what they do elsewhere.
    """
    if (again := built_again(p)) is None:
        return None
    mine, new = dict(p.model.named_modules()), dict(again.named_modules())
    for name, module in mine.items():
        twin = new.get(name)
        if twin is None or any(True for _ in itertools.chain(twin.children(), module.children())):
            continue
        if type(module) is not type(twin):
            if not any(True for _ in itertools.chain(twin.parameters(), module.parameters())):
                verdict = failed if stated(p, ACTIVATION_NAMES, str) else warned
                return verdict(not_built_so(name, type(module).__name__, type(twin).__name__), f"{name} is {module}")
            continue
        for key in ("eps", "variance_epsilon", "epsilon"):
            have, right = attribute(module, key), attribute(twin, key)
            if isinstance(have, float) and isinstance(right, float) and have != right:
                return failed(not_built_so(f"{name}.{key}", f"{have:g}", f"{right:g}"), f"{name}.{key} = {have:g}")
    looked.append("activations and epsilons, beside a second instance of the class")
    return None


def not_built_so(name: str, have: str, new: str) -> Cause:
    return Cause(
        f"{name} is {have}, where a new instance of its class, of the same configuration, has {new}", "who changed it?"
    )


def stated_window(p: Patient, looked: list[str]) -> Verdict | None:
    known = stated(p, WINDOWS, int)
    if not known or not isinstance(known[1], int) or known[1] + 2 > p.interface.long or p.mode == "prefixes":
        return None
    field, value = known
    T = min(p.interface.long, 2 * value + 3)
    with perturbed(p):
        tape = watch(p, p.ids(1, T))
    reach = [(flat(a.weights)[:, -1].amax(dim=0) > ATTENDS).sum().item() for a in tape.attentions]
    if reach and min(reach) > value + 1:
        cause = not_as_stated(field, value, f"attention to {min(reach)} keys and more")
        return warned(cause, f"at {T} tokens the last one attends to at least {min(reach)} keys in each of {len(reach)} layers")
    own = f" (the token itself and {value} before it)" if reach and min(reach) == value + 1 else ""
    looked.append(f"{field}{own}")
    return None


# ----- fields without effect

CAPS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_softcapping", "softcap", "logit_cap", "logit_softcap")
MULTIPLIERS = (
    *("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "query_pre_attn_scalar"),
    *("attention_multiplier", "emb_scale", "embed_scale", "residual_scale"),
)
ELSEWHERE = ("classif", "summary", "pool", "vision", "audio", "encoder", "cross", "token_", "lora")  # in names of other parts'
ATTENTIONS = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}  # where each takes its dropout_p
NOT_OF_SCORES = ("resid", "proj", "emb", "mlp", "ffn", "ff_")  # in names of dropouts that are none of attention weights


SCALES_OF_ADAPTERS = ("scaling", "scale", "lora_scale", "lora_scaling")
ALPHAS = ("lora_alpha", "alpha")  # of an adapter's scale, alpha / r


def is_adapted(p: Patient) -> bool:
    """Whether some weights are LoRA's, by their names."""
    return any("lora" in name.lower() for name in p.parameters)


PARTS = {"q": ("to_query", "lora_query", "to_q"), "k": ("to_key", "lora_key", "to_k"), "v": ("to_value", "lora_value", "to_v")}
PART_NAMES = {"q": "queries", "k": "keys", "v": "values"}


def adapts_other_parts(field: str, value: bool, what: str) -> Cause:
    return Cause(
        f"{field} is {value}, and {what}: the adapter's rows are put where other parts of the fused projection lie "
        "(interleaved by group, or one after the other)",
        "place the rows as the model splits the projection: by query group, q … q k v, if it is split so",
    )


def adapted_parts(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether LoRA's weights change other parts of the first attention, its queries, keys and values, than the
    configuration states (litgpt's to_query, to_key, to_value)."""
    flags = {part: known for part, names in PARTS.items() if (known := stated(p, names, bool))}
    ups = {n: x for n, x in p.parameters.items() if "lora_b" in n.lower() or "lora_up" in n.lower()}
    if len(flags) < len(PARTS) or not ups or not perturbed_tape(p).attentions:
        return None
    ids = p.ids(ROWS, p.T)
    with perturbed(p):
        one = watch(p, ids).attentions[0]
        with p.weights(lambda name, value: torch.zeros_like(value) if name in ups else None):
            other = watch(p, ids).attentions[0]
    shares = {}
    for part in PARTS:  # (N, T, hs) each
        x, y = ((a.v if part == "v" else getattr(a, part)) for a in (one, other))
        if x is None or y is None or x.shape != y.shape:
            return None
        moved = (flat(x) - flat(y)).abs().amax(dim=1) > CHANGED * flat(y).abs().max()  # (N, hs)
        shares[part] = moved.float().mean().item()
    if not any(shares.values()):
        return None  # merged into what they adapt
    for part, (field, value) in sorted(flags.items(), key=lambda item: item[1][1]):
        if not value and shares[part] > 0:
            what = f"the adapter changes {shares[part]:.0%} of the {PART_NAMES[part]}"
        elif value and shares[part] < MOSTLY_ADAPTED:
            what = f"the adapter changes only {shares[part]:.0%} of the {PART_NAMES[part]}"
        else:
            continue
        evidence = ", ".join(f"{PART_NAMES[x]} {share:.0%}" for x, share in shares.items())
        return failed(
            adapts_other_parts(field, value, what), f"features of the first attention that LoRA's weights move: {evidence}"
        )
    looked.extend(field for field, _ in flags.values())
    return None


def adapting_modules(p: Patient) -> set[str]:
    """Return the names of the modules that hold LoRA's weights, or the layers that are."""
    return {n[: n.lower().index(".lora")] for n in p.parameters if ".lora" in n.lower()}


def scale_unused(name: str) -> Cause:
    return Cause(
        f"{name}, the adapter's scale alpha / r, is kept and never used: with another value the model computes the same",
        "result + scaling * lora_B(lora_A(x))",
    )


def idle_scale(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether LoRA's layers keep a scale, and twice as much in all of them changes nothing, whatever the weights."""
    adapters = adapting_modules(p)
    kept = [
        (name, module, key, x)
        for name, module in p.model.named_modules()
        for key, x in vars(module).items()
        if name in adapters and key in SCALES_OF_ADAPTERS and type(x) in (int, float) and x
    ]
    weights_of_lora = [n for n in p.parameters if "lora" in n.lower()]
    if not kept or p.mode == "prefixes" or not affects_logits(p, weights_of_lora):  # merged into what they adapt (loralib)
        return None
    ids = p.ids(ROWS, p.T)
    with perturbed(p):
        base = p.logits(ids)
        try:
            for _, module, key, x in kept:
                setattr(module, key, 2 * x)
            same = torch.equal(base, p.logits(ids))
        finally:
            for _, module, key, x in kept:
                setattr(module, key, x)
    if same:
        name, _, key, x = kept[0]
        return warned(scale_unused(f"{name}.{key}"), f"{number_of(len(kept), 'scale')} twice as large: logits are the same")
    return None


def never_called(names: list[str], rate: float) -> Cause:
    return Cause(
        f"{first_few(names)} {'is' if len(names) == 1 else 'are'} created with p = {rate:g} and never called: there is less "
        "dropout in training than the code suggests",
        "x = self.dropout(x) in forward, where it is meant; or remove it",
    )


def idle_dropouts(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether modules that drop are made, their owners run in training mode, and they do not; nor does anything read
    their rate, as with another one the logits are the same.

    Where a module drops by a function of PyTorch, that came in place of idle ones that it holds, or that the nearest module
    around it does: a fused attention's dropout_p in place of any but those whose names say that they stand elsewhere.
    """
    drops = {
        n: m
        for n, m in p.model.named_modules()
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 and not any(word in n.lower() for word in ELSEWHERE)
    }
    if not drops or p.mode == "prefixes":
        return None
    try:
        ran, by_function = ran_in_training(p)
    except ModelError:  # a question of modes
        return None
    idle = [n for n in drops if n not in ran and n.rpartition(".")[0] in ran]
    for where, how in by_function:
        owners = [where[:end] for end in (len(where), *(m.start() for m in re.finditer(r"\.", where)), 0)]
        owner = next((o for o in sorted(owners, key=len)[::-1] if any(n.rpartition(".")[0] == o for n in idle)), None)
        idle = [n for n in idle if n.rpartition(".")[0] != owner or (how == "attention" and is_elsewhere(n))]
    busy = {re.sub(r"\d+", "", n) for n in drops if n not in idle}
    idle = [n for n in idle if re.sub(r"\d+", "", n) not in busy]  # what one layer does and another does not is meant
    if idle and rates_matter(p, [drops[n] for n in idle]):
        idle = [n for n in idle if not rates_matter(p, [drops[n]])]
    if not idle:
        return None
    last = list(dict.fromkeys(n.rpartition(".")[2] for n in idle))
    evidence = f"in training mode {number_of(len(idle), 'dropout')} did not run, and another rate changes no logit: "
    return warned(never_called(last, drops[idle[0]].p), evidence + first_few(idle))


def is_elsewhere(name: str) -> bool:
    """Whether a dropout is, by its name, none of attention weights."""
    return any(word in name.rpartition(".")[2].lower() for word in NOT_OF_SCORES)


def ran_in_training(p: Patient) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the names of the modules that run in training mode, "" of the model itself, and which of them, other than modules
    that do nothing else, drop by a function: "dropout", or "attention" for a fused one."""
    ran: set[str] = set()
    running: list[str] = []
    found: set[tuple[str, str]] = set()

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name, given = getattr(function, "__name__", ""), kwargs or {}
            inner = running[-1] if running else ""
            if name in ATTENTIONS and given.get("dropout_p", args[at] if len(args) > (at := ATTENTIONS[name]) else 0.0):
                found.add((inner, "attention"))
            elif "dropout" in name and not isinstance(p.model.get_submodule(inner), nn.modules.dropout._DropoutNd):
                rate, on = (given.get(k, args[i] if len(args) > i else 1) for i, k in ((1, "p"), (2, "training")))
                if rate and on:
                    found.add((inner, "dropout"))
            return function(*args, **given)

    def begin(name: str):
        def hook(module, args):
            ran.add(name)
            running.append(name)

        return hook

    modules = [(n, m) for n, m in p.model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    hooks = [m.register_forward_pre_hook(begin(n)) for n, m in modules]
    hooks += [m.register_forward_hook(lambda *_: running.__delitem__(-1)) for _, m in modules]
    try:
        with torch.no_grad(), p.in_mode(True), Functions():
            for seed in UNUSED_SEEDS:  # a whole layer may be dropped
                set_seed(seed)
                ids = p.ids(ROWS, p.T)
                p.call_as_is(p.copy(ids), **p.extra, **p.needed_targets(ids))
                running.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return ran, found


def rates_matter(p: Patient, drops: list[Any]) -> bool:
    """Whether other rates of these modules move a logit in training mode."""
    ids, kept = p.ids(ROWS, p.T), [m.p for m in drops]
    with perturbed(p), p.in_mode(True):
        base = p.logits(ids)
        try:
            for m in drops:
                m.p = OTHER_RATE if m.p < OTHER_RATE else OTHER_RATE / 2
            return not torch.equal(base, p.logits(ids))
        finally:
            for m, rate in zip(drops, kept, strict=True):
                m.p = rate


def never_dropped(fields: list[str]) -> Cause:
    return Cause(
        f"{first_few(fields)} {'is' if len(fields) == 1 else 'are'} never used: there is no dropout in training mode",
        "nn.Dropout(rate) where it is meant; or remove the field from the configuration",
    )


def nothing_dropped(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether the configuration states rates of dropout, and training mode gives exactly the logits of evaluation mode,
    whatever the weights: of a model whose class cannot be called anew, as adapters were put into it since."""
    rates: dict[str, float] = {}
    for where in CONFIGS:
        holder = attribute(p.model, where)
        fields = holder if isinstance(holder, Mapping) else dict(getattr(holder, "__dict__", None) or {})
        rates |= {f"{where}.{n}": x for n, x in fields.items() if isinstance(n, str) and is_rate(n, x, is_adapted(p))}
    if not rates or p.mode == "prefixes":
        return None
    ids = p.ids(ROWS, p.T)
    with perturbed(p):
        quiet = p.logits(ids)
        with p.in_mode(True):
            busy = p.logits(ids)
    if not torch.equal(quiet, busy):
        return None
    stated_rates = first_few(f"{name} = {rate:g}" for name, rate in rates.items())
    evidence = f"{stated_rates}, and the logits of training mode are those of evaluation mode"
    return warned(never_dropped(list(rates)), evidence + scale_not_kept(p))


def scale_not_kept(p: Patient) -> str:
    """Return in words that nothing in the model keeps the scale that alpha of LoRA asks for; "" if something does."""
    if not is_adapted(p) or not (known := stated(p, ("lora_alpha",), int | float)):
        return ""
    alpha, ranks = known[1], {min(x.shape) for n, x in p.parameters.items() if "lora" in n.lower() and x.dim() == 2}
    scales = {alpha / r**power for r in ranks for power in (0, 0.5, 1)}
    adapters = adapting_modules(p)
    around = {name.rpartition(".")[0] for name in adapters}
    kept = {
        x
        for name, module in p.model.named_modules()
        for x in vars(module).values()
        if (name in adapters and type(x) in (int, float)) or (name in around and type(x) is float)
    }
    return "" if scales & kept else f"; no module keeps lora_alpha = {alpha:g}, or alpha / r, either"


def is_rate(field: str, value: Any, adapted: bool) -> bool:
    """Whether a field is a rate of dropout that concerns the logits."""
    others = [word for word in ELSEWHERE if not (adapted and word == "lora")]
    named = "dropout" in field or "pdrop" in field
    return named and isinstance(value, float) and 0 < value < 1 and not any(word in field for word in others)


def no_effect(field: str) -> Cause:
    return Cause(
        f"{field} has no effect: built with another value, the model computes the same",
        "pass the field on to what it is meant for; or remove it from the configuration",
    )


def another_value(field: str, value: Any, experts: int, adapted: bool) -> float | None:
    """Return another value of a field that must make a difference, far enough from this one; None if the field is not known to
    concern the logits, or its value asks for nothing: a dropout of 0, a multiplier of 1. The model has `experts` to choose of,
    0 for none, and whether it is `adapted` by LoRA tells what its fields mean."""
    others = [word for word in ELSEWHERE if not (adapted and word == "lora")]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or any(word in field for word in others):
        return None
    if field in CHOSEN:
        return 1 if 1 < value <= experts else None
    if adapted and field in ALPHAS:
        return 4 * value
    if "drop" in field:
        return OTHER_RATE if value < OTHER_RATE else OTHER_RATE / 2
    if field in EPSILONS:
        return OTHER_EPSILON
    if field in CAPS:
        return value / OTHER_CAP
    if field in ROTARY_BASES or (field in MULTIPLIERS and value != 1):
        return value / 4
    return None


def without_effect(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether a field of the configuration can be another one, and the logits are the same, whatever the weights.

    The model's class is called anew with each. What is only ever stated as 0, 1 or off asks for nothing, and counts as done.
    """
    given = constructor_arguments(p.model)
    where = next((name for name in given or {} if name in CONFIGS), "")
    size = sum(x.numel() for x in p.parameters.values())
    if given is None or not where or p.mode == "prefixes" or size > BUILT_FOR_EACH_FIELD:
        return None
    config = given[where]
    fields = dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {}))
    of, adapted = max((shape[-1] for shape in perturbed_tape(p).choices if shape), default=0), is_adapted(p)
    named = {name: x for name, x in fields.items() if isinstance(name, str)}
    others = {name: new for name, x in named.items() if (new := another_value(name, x, of, adapted)) is not None}
    if fields.get("rope_parameters"):  # made of rope_theta when the configuration was: what counts is there
        others = {name: new for name, new in others.items() if name not in ROTARY_BASES}
    usual: dict[bool, Tensor | None] = {}
    found = {}
    for field, new in others.items():
        training = "drop" in field
        if training not in usual:
            usual[training] = logits_of_another(p, given, training)
        base = usual[training]
        changed = logits_of_another(p, given | {where: with_field(config, field, new)}, training)
        if base is not None and changed is not None and torch.equal(base, changed):
            found[field] = new
    if found:
        field, new = next(iter(found.items()))
        more = f"; so do {first_few(list(found)[1:])}" if len(found) > 1 else ""
        evidence = f"with {field} = {new:g} instead of {fields[field]:g}, logits are the same{more}"
        return warned(no_effect(f"{where}.{field}"), evidence)
    return None


def with_field(config: Any, field: str, value: Any) -> Any:
    """Return a copy of a configuration with another value of one field; None if it cannot be made."""
    with contextlib.suppress(Exception):
        if isinstance(config, Mapping):
            return type(config)(config | {field: value})  # type: ignore[operator, call-arg]
        if dataclasses.is_dataclass(config) and not isinstance(config, type):
            return dataclasses.replace(config, **{field: value})
        other = copy.deepcopy(config)
        setattr(other, field, value)
        return other
    return None


def logits_of_another(p: Patient, given: dict, training: bool) -> Tensor | None:
    """Return the logits of a new instance of the model's class, with this one's perturbed weights; None if it has other ones,
    or cannot be made or called."""
    set_seed(0)
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = type(p.model)(**given).to(p.device)
        mine, noisy = dict(model.named_parameters()), perturbed_weights(p)
        if {n: x.shape for n, x in mine.items()} != {n: x.shape for n, x in p.parameters.items()}:
            return None
        for name, x in mine.items():
            x.data.copy_(noisy[name])
        other = Patient(model)
        other.interface = p.interface
        model.train(training)
        return other.logits(p.ids(ROWS, p.T))
    return None


# ----- experts

NORMALISED = (
    "norm_topk_prob",
    "norm_topk",
    "normalize_topk_prob",
    "normalize_expert_weights",
    "moe_renormalize",
    "renormalize",
)
CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "n_experts_per_tok",
    "moe_top_k",
    "top_k",
    "topk",
)
SCALED_BY = ("routed_scaling_factor", "router_scaling_factor", "moe_router_topk_scaling_factor")


def raw_scores(router: str) -> Cause:
    made = f"the raw outputs of {router}, the router" if router else "numbers that may be negative, as a router's raw scores"
    return Cause(
        f"the experts are weighed by {made}: a softmax, or a sigmoid, is missing before they weigh anything",
        "weights = router(x).softmax(dim=-1), of which the chosen are taken (and divided by their sum, if so stated)",
    )


def raw_experts(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether the weights of a token's experts are negative: the router's scores without a softmax or sigmoid."""
    if not perturbed_tape(p).choices:
        return None
    name, weights, experts = weights_of_experts(p)
    if not len(weights) or weights.min() >= -SUM_OF_EXPERTS:
        return None
    with perturbed(p), module_answers(p) as seen:
        p.logits(p.ids(ROWS, p.T))
    router = ""
    for call in seen:
        scores = call.answer.reshape(-1, call.answer.shape[-1]) if call.answer.dim() else call.answer
        if scores.dim() == 2 and scores.shape == (len(weights), experts):
            gap = (weights[:, :, None] - scores[:, None].float()).abs().amin(dim=-1)  # (N, k): from the nearest score
            router = router or (call.name if (gap[weights != 0] <= SUM_OF_EXPERTS * scores.abs().max()).all() else "")
    spread = f"from {weights.min():.3g} to {weights.max():.3g}"
    return failed(raw_scores(router), f"{name}: the weights of the experts of {number_of(len(weights), 'token')} go {spread}")


def stated_experts(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether the weights of a token's chosen experts sum to 1 where the configuration says that they do not, or the
    reverse."""
    known, chosen = stated(p, NORMALISED, bool), stated(p, CHOSEN, int)
    if not known or not perturbed_tape(p).choices:
        return None
    field, value = known
    name, weights, experts = weights_of_experts(p)
    sums = weights.sum(dim=-1)
    k = chosen[1] if chosen else 2
    if not len(sums) or not 1 < k < experts:
        return None
    factor = next((x for _, x in declared(p.model, SCALED_BY, float)), 1.0)
    evidence = f"{name}: the weights of {number_of(len(sums), 'token')} sum to {sums.min():.3g} … {sums.max():.3g} each"
    usual = sums.median()
    same = ((sums - usual).abs() < SUM_OF_EXPERTS * usual.abs()).float().mean()
    if chosen and same == 1 and math.isclose(usual, k, rel_tol=SUM_OF_EXPERTS) and not math.isclose(factor, k):
        return failed(not_as_stated(field, value, f"{k} experts for a token that count 1 each: they have no weights"), evidence)
    if value and same < MOSTLY_DIVIDED:
        return failed(not_as_stated(field, value, "weights of the chosen experts that are not divided by their sum"), evidence)
    if not value and same == 1 and any(math.isclose(usual, x, rel_tol=SUM_OF_EXPERTS) for x in (1.0, factor)):
        has = "weights of the chosen experts that sum to 1: a softmax over the chosen only, or a division by their sum"
        return failed(not_as_stated(field, value, has), evidence)
    looked.append(field)
    return None


def other_number(field: str, stated: int, runs: int, of: int) -> Cause:
    return Cause(
        f"the configuration states {field} = {stated}, and {runs} of {of} experts run for each token",
        "topk(k=…) with the number of the configuration",
    )


def chosen_experts(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether another number of experts weighs in for each token than the configuration states."""
    known = stated(p, CHOSEN, int)
    if not known or not perturbed_tape(p).choices:
        return None
    field, k = known
    name, weights, experts = weights_of_experts(p)
    if not len(weights) or not 0 < k < experts:
        return None
    counts = (weights.abs() > CHANGED * weights.abs().max()).sum(dim=-1)
    usual = int(counts.median())
    apart = weights.shape[-1] >= experts or weights.shape[-1] < k  # features for all experts, or a column for each chosen one
    if usual > k or (apart and 0 < int(counts.max()) < k):
        evidence = f"{name}: of {number_of(len(counts), 'token')}, most have {usual} experts whose weight is not 0"
        return failed(other_number(field, k, usual, experts), evidence)
    looked.append(field)
    return None


# what balances the experts between steps, without a gradient (DeepSeek-V3)
BALANCES = re.compile(r"(correction|expert|balanc|score|rout|gate).*bias")


def bias_weighs(name: str) -> Cause:
    return Cause(
        f"the experts' weights contain {name}, which may only choose them: what balances the experts changes what they count",
        "choose by scores + bias, and weigh by the scores alone: scores.gather(-1, chosen)",
    )


def biased_weights(p: Patient, looked: list[str]) -> Verdict | None:
    """Return whether a bias that balances experts is in their weights: as much more for each of them changes no choice, and so
    no logit may change."""
    of = {shape[-1] for shape in perturbed_tape(p).choices if shape}
    biases = {
        name: x
        for name, x in (dict(p.model.named_buffers()) | p.parameters).items()
        if x.is_floating_point()
        and x.numel() in of
        and BALANCES.search(name.lower())
        and (name not in p.parameters or not x.requires_grad or "correction" in name)
    }
    if not biases:
        return None
    ids, answers = p.ids(ROWS, p.T), []
    with perturbed(p):
        kept = {name: x.detach().clone() for name, x in biases.items()}
        try:
            for more in (1.0, 2.0):  # twice: a mask of 0 may choose otherwise among negative scores
                for name, x in biases.items():
                    x.data.copy_(kept[name] + more)
                answers.append(p.logits(ids))
        finally:
            for name, x in biases.items():
                x.data.copy_(kept[name])
    change = largest_change(*answers).max().item()
    if change > OTHER_KERNEL * tolerance(p, answers[0]):
        name = next(iter(biases))
        return failed(
            bias_weighs(name), f"1 more in {name} for each expert changes no choice, and moves the logits by {change:.3g}"
        )
    looked.append(next(iter(biases)).rpartition(".")[2])
    return None


def expert_lists(p: Patient) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists of modules that are as long as what the largest are chosen of, with their names."""
    of = {shape[-1] for shape in perturbed_tape(p).choices if len(shape) > 1}
    return [(n, m) for n, m in p.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) in of and len(m) > 1]


@once
def weights_told(p: Patient, ids: Tensor, most: int) -> list[tuple[str, Tensor]]:
    """Return the modules that are given numbers beside as many ids of fewer than `most` experts, and those numbers."""
    told: list[tuple[str, Tensor]] = []

    def listen(name: str):
        def note(module, args, named):
            tensors = [x for x in (*args, *named.values()) if isinstance(x, Tensor) and x.dim() >= 2]
            chosen = {x.shape for x in tensors if not x.is_floating_point() and x.shape[-1] > 1}
            told.extend((name, x) for x in tensors if x.is_floating_point() and x.shape in chosen and x.shape[-1] < most)

        return note

    hooks = [m.register_forward_pre_hook(listen(n), with_kwargs=True) for n, m in p.model.named_modules()]
    try:
        p.logits(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return told


def weights_of_experts(p: Patient) -> tuple[str, Tensor, int]:
    """Return, of the first mixture of experts, its name, the weights of each token's experts, (B·T, k) or (B·T, experts), and
    the number of experts. Empty if they cannot be found out.

    Each of a list of experts is made to answer 1 in a feature of its own, then 0: the difference is its weight, if twice as
    much makes twice the difference. A module of all experts is told the weights.
    """
    of = {shape[-1] for shape in perturbed_tape(p).choices}
    lists = [(n, m) for n, m in expert_lists(p) if "." in n]  # those of the whole model are layers, or norms
    answers: dict[str, list[Tensor | None]] = {}
    ids = p.ids(ROWS, p.T)

    def say(value: float, expert: int):
        def answer(module, args, out):
            if not isinstance(out, Tensor):
                return out
            said = torch.zeros_like(out)
            said[..., expert % out.shape[-1]] = value
            return said

        return answer

    with perturbed(p):
        if told := weights_told(p, ids, max(of, default=0)):
            return told[0][0], told[0][1].float().flatten(0, -2), max(of)
        for value in (1.0, 0.0, 2.0):
            hooks = [e.register_forward_hook(say(value, i)) for _, m in lists for i, e in enumerate(m) if e is not None]
            for holder in {n.rpartition(".")[0] for n, _ in lists}:
                module = p.model.get_submodule(holder)
                hooks.append(
                    module.register_forward_hook(
                        lambda m, a, out, n=holder: answers.setdefault(n, []).append(first_tensor(out))
                    )
                )
            try:
                p.logits(ids)
            finally:
                for hook in hooks:
                    hook.remove()
    for name, several in answers.items():
        three = [x for x in several if x is not None and x.numel()]
        if len(several) != 3 or len(three) != 3 or len({x.shape for x in three}) > 1:
            continue
        one, zero, two = three
        number = max(len(m) for n, m in lists if n.startswith(name))
        weights = (one - zero).float().flatten(0, -2)  # (B·T, C)
        if ((two - zero).float().flatten(0, -2) - 2 * weights).abs().max() <= SUM_OF_EXPERTS * weights.abs().max():
            return name, weights, number
    return "", torch.empty(0, 1), 0


# ----- precision


def halves(what: str) -> Cause:
    return Cause(
        f"numbers are rounded to {what} inside forward, although the weights are float32: near-equal scores become equal"
        + (", and large ones overflow" if what == "float16" else ""),
        "no .half() inside; torch.autocast around the call, which on a GPU keeps softmax and norms in float32",
    )


def overflows(what: str, how: str) -> Cause:
    return Cause(
        f"numbers overflow in {what}: {how}, and what is divided by that is 0",
        "compute squares, sums and exponentials in float32 (x.float()), and round the result",
    )


def half_differs(what: str) -> Cause:
    return Cause(
        f"in {what}, as it was handed over, the model answers otherwise than with the same weights in float32: something in it "
        "needs more precision (norms, softmax, long sums)",
        "compute it in float32 (x.float()), and round the result",
    )


def half_angles(what: str) -> Cause:
    last = 256 if what == "bfloat16" else 2048
    return Cause(
        f"the angles of the rotary positions are computed in {what}, which rounds positions above {last:,} to "
        "those beside them and turns near ones by wrong angles too",
        "arange and inv_freq in float32, whatever the weights are (register_buffer is cast by model.half()); round cos and sin",
    )


@check("precision", needs=("repeats",))
@torch.no_grad()
def precision(p: Patient) -> Verdict:
    """Nothing is rounded to half precision inside a float32 model, and the angles of rotary positions never are."""
    if p.half_angles:
        what = f"the weights are {p.half_angles}, and so are the angles, or their frequencies"
        return failed(half_angles(p.half_angles), what)
    if p.handed_over:
        return as_handed_over(p)
    if p.was_half:
        return skipped("its weights are of half precision, and it could not be called in float32 to compare")
    tape = perturbed_tape(p)
    if tape.halved:
        dtype, n = next(iter(tape.halved)), sum(tape.halved.values())
        return warned(halves(dtype), f"{number_of(n, 'tensor')} of a float32 call are made {dtype}")
    return passed("all numbers stay float32")


def as_handed_over(p: Patient) -> Verdict:
    """Return how a model of half precision, answers beside the same weights in float32, on every token."""
    what = str(next(iter(p.handed_over.values())).dtype).removeprefix("torch.")
    texts = [p.ids(ROWS, p.T), *all_tokens(p).split(ROWS)] if p.vocab <= ALL_TOKENS else [p.ids(ROWS, p.interface.long)]
    exact = torch.cat([p.logits(x) for x in texts])  # (B, T, V), in float32
    overflow = Overflows(HALVES)
    try:
        with p.in_half(), overflow.inside(p):
            rounded = torch.cat([p.logits(x) for x in texts])
    except ModelError as error:
        return skipped(f"its weights are {what}, in which it cannot be called here: {error}", Reason.NOT_ASKED, error.where)
    apart = (rounded - exact).float().norm(dim=-1) / (exact - exact.mean(dim=-1, keepdim=True)).norm(dim=-1).clamp(min=1e-12)
    wrong = int((~(apart <= HALF_APART)).sum())  # NaN counts
    if not exact.isfinite().all():
        return skipped("in float32, too, its logits are not finite: see answers", Reason.DEPENDS)
    evidence = f"as handed over, in {what}: the logits of {wrong} of {apart.numel()} positions are not those of float32"
    if overflow.first and wrong:
        return failed(overflows(what, overflow.first), evidence, overflow.line)
    chooses = bool(perturbed_tape(p).choices)
    if wrong and not chooses:
        return warned(half_differs(what), evidence)
    if overflow.first:
        return dataclasses.replace(warned(overflows(what, overflow.first), evidence), where=overflow.line)
    how = f"no number overflows, and logits differ from float32's by up to {apart.nan_to_num(9).max():.1%} of their size"
    return passed(f"as handed over, in {what}, on {apart.numel():,} positions: {how}; the other checks run in float32")


# ----- attention that does not look

CONSTANT_ATTENTION = Cause(
    "attention weights are the same whatever the tokens: queries or keys are lost, or the scores multiplied by 0",
    "the scores are q @ k.T / √hs of this very input",
)


def swallowed(fill: float) -> Cause:
    return Cause(
        f"the mask adds {fill:.2g} to the scores that it allows, too: nothing of them is left after rounding, and attention is "
        "even over whatever it sees. One mask is made by one convention (0 and -inf) and used by another (1 and 0)",
        "scores.masked_fill(mask == 0, -inf) for a mask of 1 and 0; scores + mask for one of 0 and -inf",
    )


@check("attention", needs=(FINITE, "repeats"))
@torch.no_grad()
def attention(p: Patient) -> Verdict:
    """Where attention looks depends on the tokens."""
    ids = p.ids(ROWS, p.T)
    with perturbed(p):
        one, other = watch(p, ids), watch(p, p.changed_tokens(ids.roll(1, dims=1)))
    pairs = list(zip(one.attentions, other.attentions, strict=False))
    if not pairs:
        return no_attention(p, "no attention was recorded")
    same = [i for i, (a, b) in enumerate(pairs) if a.weights.shape == b.weights.shape and torch.equal(a.weights, b.weights)]
    if same and p.T > 1:
        visible = [pairs[i][0].scores.float().amax(dim=-1) for i in same if pairs[i][0].scores is not None]  # (N, T) each
        if visible and all(bool((x < HIDDEN_SCORE).all() and x.isfinite().all()) for x in visible):
            evidence = (
                f"the largest score of each row is {visible[0].max():.3g} or lower, in {len(same)} of {len(pairs)} attentions"
            )
            return failed(swallowed(visible[0].median().item()), evidence)
        return failed(CONSTANT_ATTENTION, f"other tokens, equal weights in {len(same)} of {len(pairs)} attentions")
    return passed(f"other tokens, other weights, in {number_of(len(pairs), 'attention')}")


# ----- padding

MASKS = ("attention_mask", "padding_mask", "pad_mask", "key_padding_mask", "input_mask")
PADDING_NAMES = (
    *("pad_token_id", "pad_id", "pad_idx", "pad_token", "pad_index", "padding_id", "padding_token_id"),
    *("trg_pad_idx", "tgt_pad_idx", "src_pad_idx", "pad_tok", "pad"),
)
PADDED = 3  # tokens of padding that are tried

PADDING_SEEN = Cause(
    "padding is seen: the attention mask that forward takes does not hide it", "mask the keys where attention_mask is 0"
)


def padding_enters(where: str) -> Cause:
    return Cause(
        f"padding is seen in {where}: the attention mask that forward takes does not hide it there",
        "attention masks the keys where attention_mask is 0; a convolution, or a state, gets 0: x * attention_mask[..., None]",
    )


PADDING_MOVES = Cause(
    "padding on the left moves the positions: the first real token is not at position 0",
    "positions = (attention_mask.cumsum(-1) - 1).clamp(min=0), or position_ids given along",
)
PADDING_MIXED = Cause(
    "a row is masked by the padding of another row: the mask is repeated for the heads in another order than batch and heads "
    "have (repeat where repeat_interleave is meant), or its axes are mistaken",
    "(B, 1, T, T) is broadcast over the heads; for (B·nh, T, T) use mask.repeat_interleave(nh, dim=0)",
)


def mask_replaced(name: str, always: bool) -> Cause:
    """The cause for a mask of padding, the argument `name`, that puts the causal one away; `always`: hiding nothing, too."""
    when = f"with {name} given, also where it hides nothing," if always else f"as soon as {name} hides a token,"
    return Cause(
        f"{when} tokens see later ones: the mask of padding replaces the causal mask, where both must hold",
        "causal & keep[:, None, None, :] for masks of booleans, the sum of both for masks that are added; is_causal, too",
    )


PADDING_NAN = Cause("with padding on the left the logits are NaN: a row of the mask blocks everything", "finfo.min, not -inf")


def padding_on_queries(pad: int, ahead: bool) -> Cause:
    more = "; rows of padding see the future" if ahead else ""
    return Cause(
        f"the mask of padding (id {pad}), which the model makes of its ids, is on the queries' axis, not on the keys': real "
        f"tokens attend to padding{more}",
        "(ids != pad)[:, None, None, :], of (B, 1, 1, keys); a row without any key then sees itself",
    )


def padding_by_id_seen(pad: int) -> Cause:
    return Cause(
        f"the model makes a mask of its ids for padding (id {pad}), and real tokens attend to padding all the same",
        "(ids != pad)[:, None, None, :], of (B, 1, 1, keys), and combined with the causal mask: a key must pass both",
    )


def other_id_masked(pad: int, stated: int) -> Cause:
    return Cause(
        f"the model hides token {pad} as padding, and its configuration says that padding is {stated}: that is seen, and "
        f"token {pad} never",
        "compare the ids with the padding id of the configuration",
    )


@check("padding", needs=("answers", "repeats", "rows", "causality"))
@torch.no_grad()
def padding(p: Patient) -> Verdict:
    """Padding that is masked changes nothing, the causal mask holds beside it, and packed rows are read as each alone."""
    if problem := wrong_packing(p):
        return problem
    name = next((n for n in p.names if n in MASKS), None)
    if p.mode != "plain" or p.T <= PADDED + 2:
        return skipped("its forward takes no mask of padding")
    if name is None:
        return padding_by_id(p) or skipped("its forward takes no mask of padding, and makes none of its ids")
    T, ids = p.T - PADDED, p.ids(2, p.T - PADDED)
    pads = torch.zeros(2, PADDED, dtype=torch.long, device=p.device)
    sides = {"right": (torch.cat([ids, pads], 1), slice(0, T)), "left": (torch.cat([pads, ids], 1), slice(PADDED, None))}
    with perturbed(p), contextlib.suppress(ModelError):
        if problem := ahead_with_mask(p, name) or mixed_padding(p, name):
            return problem
        alone, tried = p.logits(ids), []
        for side, (text, real) in sides.items():
            keep = torch.zeros_like(text)
            keep[:, real] = 1
            more = padding_arguments(p, name, keep)
            got = p.logits(text, **more)[:, real]
            change = largest_change(alone, got).max().item()
            tried.append(side)
            if not got.isfinite().all():
                return warned(PADDING_NAN, f"{PADDED} tokens of padding on the {side}")
            if change <= OTHER_KERNEL * tolerance(p, alone):
                continue
            swapped = text.clone()
            swapped[keep == 0] = 1
            evidence = (
                f"{PADDED} tokens of padding on the {side}, masked: the logits of the {T} real ones move by up to {change:.3g}"
            )
            with module_answers(p) as one:
                p.logits(text, **more)
            with module_answers(p) as other:
                seen = largest_change(got, p.logits(swapped, **more)[:, real]).max() > tolerance(p, alone)
            if not seen:
                return warned(PADDING_MOVES, evidence)
            where = parting(one, other, at=keep[0] > 0)
            whole = more | {name: padding_arguments(p, name, torch.ones_like(keep))[name]}
            used = largest_change(got, p.logits(text, **whole)[:, real]).max() > tolerance(p, alone)
            verdict = failed if used else warned  # a mask that is taken for others' sake, and read nowhere, claims nothing
            return verdict(padding_enters(named_module(p, where)) if where else PADDING_SEEN, evidence)
        return passed(f"{PADDED} tokens of masked padding on the {' and on the '.join(tried)} change no logit of the others")
    return skipped(f"it could not be called with {name}")


def ahead_with_mask(p: Patient, name: str) -> Verdict | None:
    """Return whether tokens see later ones when a mask of padding is given, in either of the two senses that its ones may have.

    In the other sense everything is hidden, or all but the padding: then nothing is finite, or no token sees another.
    """
    ids, position = p.ids(1, p.T), torch.arange(p.T, device=p.device)
    keeps = {
        "nothing hidden": position >= 0,
        "padding on the right": position < p.T - PADDED,
        "padding on the left": position >= PADDED,
    }

    def leaks(inverted: bool) -> dict[str, float] | None:
        """Return by how much a later token moves the logits before it, by what is masked; None if the mask is not meant so."""
        found = {}
        for what, keep in keeps.items():
            first, last = int(keep.nonzero()[0]), int(keep.nonzero()[-1])
            texts = ids.repeat(3, 1)
            for row, at in ((1, last), (2, first)):
                texts[row, at] = p.changed_tokens(texts[row, at])
            more = padding_arguments(p, name, keep.long().expand(3, -1), inverted)
            logits = p.logits(texts, **more)[:, first : last + 1]
            allowed = tolerance(p, logits)
            if not logits.isfinite().all() or largest_change(logits[0, -1], logits[2, -1]) <= allowed:
                return None
            if (change := largest_change(logits[0, :-1], logits[1, :-1]).max().item()) > allowed:
                found[what] = change
        return found

    senses = []
    for inverted in (False, True):
        with contextlib.suppress(ModelError):
            if (found := leaks(inverted)) is not None:
                senses.append(found)
    if not senses or not all(senses):
        return None
    what, change = next(iter(senses[0].items()))
    evidence = f"{name} with {what}: when a later token changes, the logits before it move by up to {change:.3g}"
    return failed(mask_replaced(name, "nothing hidden" in senses[0]), f"{evidence}; without {name} they do not")


def stated_padding(module: nn.Module) -> list[int]:
    """Return the ids that a module, or its configuration, calls padding."""
    holders = [module, *(x for where in CONFIGS if (x := attribute(module, where)) is not None)]
    found = [h.get(n) if isinstance(h, Mapping) else attribute(h, n) for h in holders for n in PADDING_NAMES]
    return [x for x in found if isinstance(x, int) and not isinstance(x, bool)]


def padding_by_id(p: Patient) -> Verdict | None:
    """Return whether a mask that the model makes of its ids hides padding; None if none of its attentions tells an id from
    others. Ids that something names padding are tried, and 0."""
    stated = [pad for module in p.model.modules() for pad in stated_padding(module) if 0 <= pad < p.vocab]
    pads = torch.tensor(list(dict.fromkeys([*stated, 0])), device=p.device)
    plain = p.tokens.to(p.device)
    plain = plain[~torch.isin(plain, pads)]
    if len(plain) < 2:
        return None
    ids = plain[p.ids(2, p.T) % len(plain)]

    def open_pairs(text: Tensor) -> list[Tensor]:
        return [flat(a.weights) > ATTENDS for a in watch(p, text).attentions]  # (N, T, T) each

    with fresh(p), contextlib.suppress(ModelError):  # weights that saturate no softmax: what is closed, a mask closes
        without, other = open_pairs(ids), ids.clone()
        other[:, :PADDED] = plain[-1]
        control = open_pairs(other)
        if not without or len(control) != len(without) or not all(map(torch.equal, control, without)):
            return None  # which pairs are open depends on what the tokens say
        for pad in pads.tolist():
            text = ids.clone()
            text[:, :PADDED] = pad
            masked = open_pairs(text)
            if len(masked) != len(without) or all(map(torch.equal, masked, without)):
                continue
            if stated and pad not in stated:
                evidence = f"{PADDED} tokens of id {pad} close pairs of attention, as many of id {stated[0]} none"
                return failed(other_id_masked(pad, stated[0]), evidence)
            for layer, (now, before) in enumerate(zip(masked, without, strict=True)):  # (N, T, T) each
                real, rows = now[:, PADDED:, :PADDED], (now != before)[:, :PADDED].any()
                if not real.any():
                    continue
                evidence = (
                    f"{PADDED} tokens of id {pad} on the left, attention {layer}: the others see {real.float().mean():.0%} of"
                )
                ahead = bool(now[:, :PADDED][:, future(p.T, now.device)[:PADDED]].any())
                cause = padding_on_queries(pad, ahead) if rows else padding_by_id_seen(pad)
                return failed(cause, f"{evidence} them")
            return passed(f"{PADDED} tokens of id {pad} on the left are padding: no other token attends to them")
    return None


def padding_arguments(p: Patient, name: str, keep: Tensor, inverted: bool | None = None) -> dict[str, Tensor]:
    """Return the arguments that say which tokens are no padding, keep (B, T) of 0 and 1; `inverted`: in the sense of PyTorch's
    key_padding_mask, True where there is padding. None: in the sense that the model has."""
    meant = keep == 0 if (marks_padding(p) if inverted is None else inverted) else keep
    more = {name: meant.to(keep.dtype) if name == "attention_mask" or "input" in name else meant.bool()}
    return more | ({"position_ids": (keep.cumsum(-1) - 1).clamp(min=0)} if "position_ids" in p.names else {})


@once
@torch.no_grad()
def marks_padding(p: Patient) -> bool:
    """Whether the mask of padding is True where there is padding: it hides nothing, and answers as without it, where it is
    False everywhere, and not where it is True."""
    name = next((n for n in p.names if n in MASKS), "")
    if not name or name == "attention_mask":
        return False
    ids = p.ids(2, p.T)
    alone, same = p.logits(ids), []
    for inverted in (False, True):
        more = padding_arguments(p, name, torch.ones_like(ids), inverted)
        same.append(False)
        with contextlib.suppress(ModelError):
            same[-1] = bool(largest_change(alone, p.logits(ids, **more)).max() <= OTHER_KERNEL * tolerance(p, alone))
    return same == [False, True]


def mixed_padding(p: Patient, name: str) -> Verdict | None:
    """Return whether rows of one batch with different padding get other logits than each of them alone, with the same mask."""
    ids, position = p.ids(ROWS, p.T), torch.arange(p.T, device=p.device)
    pads = torch.arange(ROWS, device=p.device)[:, None] * PADDED // (ROWS - 1)  # (B, 1): 0, 1 and 3 tokens
    for side, keep in (("right", position < p.T - pads), ("left", position >= pads)):
        text = ids.masked_fill(~keep, 0)
        together = p.logits(text, **padding_arguments(p, name, keep.long()))
        for row in range(ROWS):
            own = keep[row : row + 1]
            alone = p.logits(text[row : row + 1], **padding_arguments(p, name, own.long()))
            change = (largest_change(together[row : row + 1], alone) * own).max().item()
            if change > OTHER_KERNEL * tolerance(p, alone):
                counts = first_few(pads.flatten().tolist())
                evidence = f"{ROWS} rows with {counts} tokens of padding on the {side}, masked: the logits of row {row} differ"
                return failed(PADDING_MIXED, f"{evidence} from those of the same row alone by up to {change:.3g}")
    return None


# ----- documents that are packed into rows

POSITION_IDS = "position_ids"
NUMBERS = (*DOCUMENTS, "segment_ids", "sequence_ids", "seq_ids")
ONE_PACK = 8  # tokens at least, of a row with three documents


def first_row_for_all(name: str) -> Cause:
    return Cause(
        f"every row is read with the {name} of the first one: packed documents begin elsewhere in each row, and only the first "
        "row of a batch is right",
        f"{name} is (B, T): {name}[:, None, :] in a mask or a table, never {name}[0] or {name}[:1]",
    )


def rows_run_on(name: str) -> Cause:
    return Cause(
        f"with {name} given, tokens see the row before theirs: rows are laid end to end, and a document of one row has the "
        "number of one in another, or the end of a row ends none",
        "a document ends where its row does: numbers that go on from row to row, or cu_seqlens with each row's end in it",
    )


def row_unlike_alone(name: str) -> Cause:
    return Cause(
        f"rows with {name} of their own get other logits in a batch than each of them alone",
        f"look for what is made of {name} once for the whole batch: a mask, a table of angles, the longest row",
        vague=True,
    )


BOUNDARY_LATE = Cause(
    "the boundary between packed documents is one token late: the first token of each still sees the document before, and no "
    "token of its own sees it",
    "count a document from its first token on: (position_ids == 0).cumsum(-1), or the number of separators before the token",
)
BOUNDARY_EARLY = Cause(
    "the boundary between packed documents is one token early: the last token of each is seen by the next document, and does "
    "not see its own",
    "a separator belongs to the document that it ends: count those before the token, not the token itself",
)


def packing(p: Patient, documents: list[list[int]]) -> dict[str, Any]:
    """Return the arguments that say where documents begin, for rows of documents of so many tokens: their positions, their
    numbers, or both, as far as forward takes them; boundaries, for one row."""
    lengths = [torch.tensor(row) for row in documents]
    numbers = torch.stack([torch.arange(len(row)).repeat_interleave(row) for row in lengths])  # (B, T)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row.tolist()]) for row in lengths])
    more = {POSITION_IDS: positions} if POSITION_IDS in p.names else {}
    if name := next((n for n in NUMBERS if n in p.names), ""):
        more[name] = numbers.int() if name == "seq_idx" else numbers
    if len(documents) == 1 and (name := next((n for n in BOUNDARIES if n in p.names), "")):
        more[name] = torch.cat((torch.zeros(1), lengths[0].cumsum(0))).int()
    return {name: x.to(p.device) for name, x in more.items()} | ({"use_cache": False} if "use_cache" in p.names else {})


def wrong_packing(p: Patient) -> Verdict | None:
    """Return whether rows of packed documents are read otherwise in a batch than alone, or are parted at the wrong token."""
    T = p.T
    if p.mode == "prefixes" or T < ONE_PACK or not any(n in p.names for n in (POSITION_IDS, *NUMBERS, *BOUNDARIES)):
        return None
    # where a document ends differs from row to row, and a row may end in one of a single token
    documents = [[T // 3, T - T // 3], [T - 4, 3, 1], [T // 2 + 1, T - T // 2 - 1]]
    with perturbed(p), contextlib.suppress(ModelError):
        return (rows_with_their_own(p, documents) or shifted_boundary(p)) if len(documents) == ROWS else None
    return None


def rows_with_their_own(p: Patient, documents: list[list[int]]) -> Verdict | None:
    """Return whether a row of packed documents gets other logits among rows of other documents than alone."""
    name = next((n for n in (*NUMBERS, POSITION_IDS) if n in p.names), "")
    if not name:
        return None
    ids = p.ids(ROWS, p.T)

    def read(rows: list[int], text: Tensor = ids, of: list[int] | None = None) -> Tensor:
        return p.logits(text[rows], **packing(p, [documents[row] for row in of or rows]))

    alone = torch.cat([read([row]) for row in range(ROWS)])
    allowed = OTHER_KERNEL * tolerance(p, alone)
    change = largest_change(alone, read([*range(ROWS)])).amax(dim=1)  # (B,)
    row = int(change.argmax())
    before = row - 1 if row else 1
    pair = sorted([before, row])  # an axis of as many heads, or of 3 kinds of positions, is not taken for that of the rows
    if change[row] <= allowed or largest_change(alone[pair], read(pair)).max() <= allowed:
        return None
    changed = ids.clone()
    changed[before] = p.changed_tokens(changed[before])
    evidence = f"row {row} of {ROWS}, documents of {first_few(documents[row])} tokens: its logits differ from those of the same"
    evidence += f" row alone by up to {change[row]:.3g}"
    if largest_change(read([before, row]), read([before, row], changed))[1].max() > tolerance(p, alone):
        return failed(rows_run_on(name), f"{evidence}, and other tokens in row {before} move them")
    if largest_change(alone[row], read([before, row], of=[row, row])[1]).max() <= allowed:
        return failed(
            first_row_for_all(name), f"{evidence}; where the first row has documents of the same lengths, they do not"
        )
    return failed(row_unlike_alone(name), evidence)


def shifted_boundary(p: Patient) -> Verdict | None:
    """Return whether packed documents are kept apart but for one token beside each boundary."""
    T = p.T
    third = T // 3
    lengths, ids = [third, third, T - 2 * third], p.ids(1, T)
    number = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    across = (number[:, None] > number) & (dependence_in_eval(p)[0] > dependence_in_eval(p)[1])  # (t, j), without packing
    more = packing(p, [lengths])
    base, seen = p.logits(ids, **more), torch.zeros(T, T, dtype=torch.bool)
    for j in range(2 * third):
        other = ids.clone()
        other[:, j] = p.changed_tokens(other[:, j])
        seen[:, j] = (largest_change(base, p.logits(other, **more))[0] > tolerance(p, base)).cpu()
    seen &= across
    firsts, lasts = torch.tensor([third, 2 * third]), torch.tensor([third - 1, 2 * third - 1])
    for cause, at, dim in ((BOUNDARY_LATE, firsts, 1), (BOUNDARY_EARLY, lasts, 0)):
        rest = torch.ones(T, dtype=torch.bool).index_fill(0, at, False)
        beside, elsewhere = seen.index_select(1 - dim, at), seen.index_select(1 - dim, rest.nonzero().flatten())
        possible = across.index_select(1 - dim, rest.nonzero().flatten())
        if beside.any(dim).all() and not elsewhere.any() and 2 * possible.sum() > across.sum():
            name = first_few([n for n in more if n != "use_cache"])
            return failed(
                cause,
                f"three documents of {first_few(lengths)} tokens, told by {name}: of {int(across.sum())} pairs "
                f"of tokens in different ones {int(seen.sum())} are seen, all at a boundary",
            )
    return None
