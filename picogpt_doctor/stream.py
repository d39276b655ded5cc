"""Checks of the residual stream: residual connections, norms, and the activation inside each MLP."""

from __future__ import annotations

import contextlib
import itertools
import re

import torch
from torch import Tensor, nn

from .basics import BATCH_NORM
from .future import OVER_FEATURES
from .patient import ROWS, Patient
from .probes import (
    COPY,
    GROWN,
    LARGER_EMBEDDING,
    NARROWEST,
    NEGLIGIBLE,
    NEXT_TO_ZERO,
    NUMBERED_MATRICES,
    POWER_OF_WIDTH,
    block_stack,
    fed_zero,
    is_trained,
    largest_change,
    layer_stacks,
    no_attention,
    other_weights,
    perturbed,
    perturbed_tape,
    tolerance,
    zeroed,
)
from .registry import check
from .report import Cause, Reason, Status, Verdict, failed, first_few, listed, number_of, passed, skipped, warned

# ----- residual


def residual_again(times: int) -> Cause:
    """The cause for blocks that hand on their input this often."""
    often = {2: "twice: inside the branch and outside"}.get(times, f"{times} times: inside each branch and around them")
    return Cause(f"the residual is added {often}", "x + attention(norm(x)) + mlp(norm(x)): x once, in one place")


RESIDUAL_FROM_NORM = Cause(
    "the residual is taken from the normalised stream: y = norm(x); y + branch(y), so that it is neither Pre-LN nor Post-LN",
    "x = x + branch(norm(x)), with x itself outside",
)


def residual_missing(where: str) -> Cause:
    return Cause(f"the residual connection around {where} is missing", "x = x + branch(norm(x)), not x = branch(norm(x))")


@check("residual", needs=("answers", "side effects", "repeats"))
@torch.no_grad()
def residual(p: Patient) -> Verdict:
    """The residual stream bypasses every branch: the logits depend on the tokens even when all branches return 0."""
    _, layers = block_stack(p)
    if not layers:  # a model of one block
        single = [(n, list(m.children())) for n, m in p.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 1]
        layers = single[0][1] if single else []
    attentions = perturbed_tape(p).attentions
    if not layers and attentions:
        return residual_of_weights(p)
    if not layers or not attentions:
        return residual_again_without_attention(p) or no_attention(p, "no stack of attention blocks was found")
    lists = branch_lists(p, layers)
    together = [layer for _, some in lists for layer in some]
    with perturbed(p), branches_zeroed(p, together):
        holds, growth, normalised = depends_on_tokens(p), stream_growth(p, layers), stream_is_normalised(p, lists)
    if not holds:
        where = " and ".join(branches_without_residual(p, lists)) or "its branches together"
        evidence = f"with the weights of {where} at 0 the logits do not depend on the tokens any more: nothing bypasses them"
        return failed(residual_missing(where), evidence)
    if problem := grows(growth, len(layers)):
        return problem
    if normalised:
        larger = f"an embedding {LARGER_EMBEDDING:.0f} times as large"
        evidence = f"each block begins with a norm, and with its branches at 0 {larger} leaves the stream after it as it is"
        return warned(RESIDUAL_FROM_NORM, evidence)
    names = listed(name for name, _ in lists)
    return passed(f"with all branches of {names} at 0, the stream still carries the tokens to the logits")


def grows(growth: float | None, layers: int) -> Verdict | None:
    """Return the verdict on blocks that multiply the stream by a whole number above 1 where their branches are 0.

    Other factors are meant: a scale of the residual connection, learned or by depth.
    """
    if growth is None or abs(growth - round(growth)) >= COPY or round(growth) < 2:
        return None
    evidence = f"with its branches at 0 a block multiplies the stream by {growth:.2f}: {growth**layers:.3g} times in {layers}"
    return failed(residual_again(round(growth)), evidence)


def residual_again_without_attention(p: Patient) -> Verdict | None:
    """Return whether each block of a model without attention (a state, a convolution) adds its input more than once.

    That nothing bypasses its branches is no fault there: layers of an LSTM have no residual connection.
    """
    _, layers = block_stack(p)
    if len(layers) < 2:
        return None
    with perturbed(p), branches_zeroed(p, layers):
        return grows(stream_growth(p, layers), len(layers))


def branch_lists(p: Patient, layers: list[nn.Module]) -> list[tuple[str, list[nn.Module]]]:
    """Return the lists of modules that make up the blocks: one of blocks, or several side by side (attentions, MLPs)."""
    name, _ = block_stack(p)
    found = [
        (n, list(m))
        for n, m in p.model.named_modules()
        if isinstance(m, nn.ModuleList)
        and len(m) == len(layers)
        and any(x.dim() >= 2 for x in m.parameters())
        and all(x is not None for x in m)
    ]
    inner = {id(x) for n, some in found for layer in some for x in layer.modules()}
    found = [(n, some) for n, some in found if not any(id(p.model.get_submodule(n)) in inner for _ in some[:1])]
    table = p.parameters.get(p.interface.token_table)
    found = [(n, some) for n, some in found if not any(x is table for layer in some for x in layer.parameters())]
    holds_stack = any(all(any(layer is x for x in some) for layer in layers) for _, some in found)
    return found if len(found) > 1 and (holds_stack or name == "the model") else [(name, layers)]


def stream_is_normalised(p: Patient, lists: list[tuple[str, list[nn.Module]]]) -> bool:
    """Whether, with all branches at 0, blocks that begin with a norm hand on what it returns.

    In a Post-LN block the first norm comes after the first linear layer.
    """
    if p.interface.token_table not in p.parameters:
        return False
    blocks = {id(x) for _, some in lists for layer in some for x in layer.modules()}
    beside = {id(x) for m in p.model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 for x in m.modules()}
    calls: list[tuple[nn.Module, float]] = []

    def note(module, args):
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            calls.append((module, args[0].float().square().mean().sqrt().item()))

    norms = [m for m in p.model.modules() if "norm" in type(m).__name__.lower() and p.T > 1]
    linear = [m for m in p.model.modules() if sum(x.dim() == 2 for x in m.parameters(recurse=False)) and id(m) in blocks]
    hooks = [m.register_forward_pre_hook(note) for m in (*norms, *linear)]
    sizes, table = [], p.interface.token_table
    noisy = {n: x.detach().clone() for n, x in p.trainable_tensors().items()}  # perturbed, and the branches 0
    try:
        for factor in (1.0, LARGER_EMBEDDING):
            calls.clear()
            with other_weights(p, {n: factor * x if n == table else x for n, x in noisy.items()}):
                p.logits(p.ids(2, p.T))
            sizes.append(list(calls))
    finally:
        for hook in hooks:
            hook.remove()
    small, large = sizes
    if len(small) != len(large) or len(small) < 3 or not any(small[0][0] is m for m in norms):
        return False
    last = max((i for i, (m, _) in enumerate(small) if any(m is n for n in norms)), default=0)
    own_first = id(small[0][0]) in blocks | beside
    grows = large[0][1] > GROWN * small[0][1]
    return own_first and grows and last > 0 and large[last][1] < GROWN * small[last][1]


def branches_without_residual(p: Patient, lists: list[tuple[str, list[nn.Module]]]) -> list[str]:
    """Return the names of the branches that cut the tokens off when they alone return 0."""
    branches: dict[str, list[nn.Module]] = {}
    for name, layers in lists:
        if len(lists) > 1:
            branches[name] = layers
            continue
        for layer in layers:
            for child, module in layer.named_children():
                if any(x.dim() >= 2 for x in module.parameters()):
                    label = f"{child} ({type(module).__name__})" if child.isdigit() else child
                    branches.setdefault(label, []).append(module)
    found = []
    for child, parts in branches.items():
        with perturbed(p), branches_zeroed(p, parts):
            found += [] if depends_on_tokens(p) else [child]
    return found


def residual_of_weights(p: Patient) -> Verdict:
    """Return, for layers that are not modules but numbered weights, whether something bypasses each matrix."""
    recurrent = {id(x) for m in p.model.modules() if isinstance(m, nn.RNNBase) for x in m.parameters()}
    numbered = [n for n, x in p.parameters.items() if x.dim() == 2 and re.search(r"\d", n) and id(x) not in recurrent]
    if not 0 < len(numbered) <= NUMBERED_MATRICES:
        return skipped(f"no stack of attention blocks was found, and {len(numbered)} numbered matrices")
    needed = []
    for name in numbered:
        with perturbed(p), zeroed(p, {name}):
            needed += [] if depends_on_tokens(p) else [name]
    if needed:
        where = first_few(needed, 2)
        evidence = f"with any one of {where} at 0 the logits do not depend on the tokens any more: nothing bypasses it"
        return failed(residual_missing(where), evidence)
    tried = number_of(len(numbered), "matrix", "matrices")
    return passed(f"with any one of {tried} at 0, the stream still carries the tokens to the logits")


def branches_zeroed(p: Patient, parts: list[nn.Module]):
    """The matrices of some modules, with their biases, 0 inside the block; norms stay."""
    own = [list(module.parameters(recurse=False)) for part in parts for module in part.modules()]
    ids = {id(x) for weights in own if any(x.dim() >= 2 for x in weights) for x in weights}
    names = {name for name, x in p.all_tensors().items() if id(x) in ids}
    with zeroed(p, names):
        divided = not p.logits(p.ids(1, p.T)).isfinite().all()
    if divided:  # by the norm of a matrix (DoRA, weight norm): next to 0 instead
        return p.weights(lambda name, value: value * NEXT_TO_ZERO if name in names else None)
    return zeroed(p, names)


def depends_on_tokens(p: Patient) -> bool:
    """Whether other tokens, at all positions, move the last logits."""
    ids = p.ids(1, p.T)
    logits = p.logits(torch.cat([ids, p.changed_tokens(ids)]))  # (2, T, V)
    return largest_change(logits[0, -1], logits[1, -1]).item() > tolerance(p, logits)


def stream_growth(p: Patient, layers: list[nn.Module]) -> float | None:
    """Return by how much a block multiplies the stream when its branches are 0. None where blocks normalise it."""
    ratios: list[float] = []

    def compare(module, args, output):
        x = args[0] if args and isinstance(args[0], Tensor) else None
        y = output[0] if isinstance(output, tuple) and output else output
        if x is not None and isinstance(y, Tensor) and x.shape == y.shape and x.is_floating_point() and y.isfinite().all():
            ratio = (y * x).sum() / x.square().sum().clamp(min=1e-30)
            if torch.allclose(y, ratio * x, atol=NEGLIGIBLE * y.abs().max().item(), rtol=COPY):
                ratios.append(ratio.item())

    hooks = [layer.register_forward_hook(compare) for layer in set(layers)]
    try:
        p.logits(p.ids(2, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    return ratios[0] if ratios and max(ratios) - min(ratios) < COPY else None


# ----- norms

TIME_STATISTICS = Cause("statistics over time: a norm over the wrong axis, or a pooling over all positions", OVER_FEATURES)
UNNORMALISED = ("per_layer_",)  # published so (Gemma 3n): its product is normalised before it is added
NO_NORM = Cause(
    "there is no LayerNorm (or RMSNorm) anywhere in the residual stream",
    "x = x + branch(norm(x)), and one more norm before the head",
)
NORM_MULTIPLIES = Cause(
    "a norm multiplies by the root mean square instead of dividing: what is large becomes larger still",
    "x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps), or x / x.square().mean(-1, keepdim=True).sqrt()",
)
NORM_WITHOUT_ROOT = Cause(
    "a norm divides by the mean square (the variance), not by its root",
    "x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)",
)


def norm_of_width(kind: str, size: str, C: int) -> Cause:
    return Cause(
        f"what comes out of {kind} has size {size} for each feature instead of 1: its gain begins at the wrong power of the "
        f"width, {C}, or a length is taken for a root mean square",
        "x / norm(x) * g with g = dim ** 0.5 (ScaleNorm), or x * rsqrt(mean(x²) + eps) * g with g = 1",
    )


def norm_missing(name: str) -> Cause:
    return Cause(f"the LayerNorm before {name} is missing", "x = x + branch(norm(x)) for each branch")


@check("norms", needs=("repeats",))
@torch.no_grad()
def norms(p: Patient) -> Verdict:
    """Every branch gets a normalised stream, of size 1, and normalisation runs over the features of one position."""
    if zeros := fed_zero(p):
        return skipped(f"{zeros}: their sizes say nothing of norms", Reason.NOT_ASKED)
    verdict = normalised(p)
    return wrong_norm_size(p) or verdict if verdict.status in (Status.PASS, Status.SKIP) else verdict


@torch.no_grad()
def wrong_norm_size(p: Patient) -> Verdict | None:
    """Return whether the norms of a new model that feed linear layers put out features of a size that is a power of the width:
    1 / √C for 1 is a sum of squares taken for their mean, or a gain that begins at the wrong power.

    Each is called alone, on noise of size 1. Other sizes are meant: gains that begin small, by depth, or at 0.
    """
    table = p.parameters.get(p.interface.token_table)
    if table is None or is_trained(p):
        return None
    sizes: dict[str, dict[str, float]] = {}  # by class
    widths = widths_of_norms(p)
    for name, C in widths.items():
        norm = p.model.get_submodule(name)
        noise = torch.randn(ROWS, p.T, C, generator=torch.Generator().manual_seed(0)).to(p.device, table.dtype)
        with contextlib.suppress(Exception):  # one that takes more than the stream
            sizes.setdefault(type(norm).__name__, {})[name] = norm(noise).float().square().mean().sqrt().item()
    for kind, found in sizes.items():
        name, size = next(iter(found.items()))
        C = widths[name]
        powers = {f"1/{C}": 1 / C, f"1/√{C}": C**-0.5, f"√{C}": C**0.5, str(C): float(C)}
        said = next((words for words, x in powers.items() if abs(size / x - 1) < POWER_OF_WIDTH), "")
        if said and C >= NARROWEST and max(found.values()) - min(found.values()) < POWER_OF_WIDTH * size:
            gains = [x for x in p.model.get_submodule(name).parameters() if x.numel() in (1, C)]
            gain = f"; its gain begins at {gains[0].flatten()[0]:.3g}" if gains else ""
            more = f" and {number_of(len(found) - 1, 'other')}" if len(found) > 1 else ""
            evidence = f"{name}{more}, called on noise of size 1, return {size:.3g} for each feature{gain}"
            return (warned if "√" in said else failed)(norm_of_width(kind, said, C), evidence)
    return None


def widths_of_norms(p: Patient) -> dict[str, int]:
    """Return the norms with a gain whose output is what some linear layer gets, by name, with how many features they give."""
    outputs: dict[int, tuple[Tensor, str]] = {}  # by id, and kept, so that no other gets it
    found: dict[str, int] = {}
    norms = {
        n: m for n, m in p.model.named_modules() if "norm" in type(m).__name__.lower() and any(True for _ in m.parameters())
    }

    def keep(name: str):
        def hook(module, args, output):
            if isinstance(output, Tensor):
                outputs[id(output)] = (output, name)

        return hook

    def note(module, args):
        if args and id(args[0]) in outputs:
            found[outputs[id(args[0])][1]] = args[0].shape[-1]

    hooks = [m.register_forward_hook(keep(n)) for n, m in norms.items()]
    hooks += [m.register_forward_pre_hook(note) for m in p.model.modules() if isinstance(m, nn.Linear)]
    try:
        p.logits(p.ids(ROWS, p.T))
    finally:
        for handle in hooks:
            handle.remove()
    return found


def normalised(p: Patient) -> Verdict:
    """Return the verdict on whether every branch gets a normalised stream."""
    tape = perturbed_tape(p)
    if not any(a.q is not None for a in tape.attentions):
        return no_attention(p, "no attention with queries and keys was recorded")
    for s in tape.statistics_over_time():
        evidence = f"{s.kind} over axes {s.dims} of a tensor {s.shape}: the axis of length {p.T} is time"
        return failed(p.known_leak or TIME_STATISTICS, evidence)
    for s in tape.statistics:
        if s.kind == "BatchNorm":
            return failed(BATCH_NORM, f"BatchNorm of a tensor {s.shape}")
    if p.interface.token_table not in p.parameters:
        return skipped("no table of tokens that could be made larger")
    small, large = input_sizes(p, 1.0), input_sizes(p, LARGER_EMBEDDING)
    if not small:
        return skipped("no linear layer was recorded")
    if shrunk := [name for name in small if large.get(name, 0) < small[name] / GROWN]:
        evidence = (
            f"an embedding {LARGER_EMBEDDING:.0f} times as large makes the input of {first_few(shrunk, 2)} smaller, "
            f"{small[shrunk[0]] / large[shrunk[0]]:.3g} times"
        )
        return failed(NORM_WITHOUT_ROOT, evidence)
    wild = next((name for name in small if large.get(name, 0) > GROWN * max(small[name], 1e-12)), "")
    if wild and large[wild] > LARGER_EMBEDDING * GROWN * small[wild]:
        by = large[wild] / small[wild]
        evidence = f"an embedding {LARGER_EMBEDDING:.0f} times as large makes the input of {wild} {by:.3g} times larger"
        return failed(NORM_MULTIPLIES, evidence)
    over_features = sum(s.shape[-1] > 1 and s.dims == (len(s.shape) - 1,) for s in tape.statistics)
    grown = [name for name in small if large.get(name, 0) > GROWN * max(small[name], 1e-12)]
    if grown and not len(grown) >= len(small) - 1:  # in some layers the branches' outputs are normalised instead
        steady = steady_layers(p)
        grown = [name for name in grown if not name.startswith(steady)]
    names = {id(module): f"{name}." for name, module in p.model.named_modules()}
    layers = tuple(names[id(layer)] for _, stack in layer_stacks(p.model) for layer in stack if id(layer) in names)
    return judge_growth(list(small), grown, over_features >= 2 * len(tape.attentions), over_features, layers)


def steady_layers(p: Patient) -> tuple[str, ...]:
    """Return the names, with a dot, of the layers that add no more to the stream when the embedding is larger."""
    names = {id(module): name for name, module in p.model.named_modules()}
    layers = [layer for layer in block_stack(p)[1] if id(layer) in names]
    added: dict[str, list[float]] = {}

    def measure(module, args, output):
        x, y = (args[0] if args else None), (output[0] if isinstance(output, tuple) and output else output)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.is_floating_point():
            added.setdefault(f"{names[id(module)]}.", []).append((y - x).float().square().mean().sqrt().item())

    hooks = [layer.register_forward_hook(measure) for layer in layers]
    try:
        for factor in (1.0, LARGER_EMBEDDING):
            input_sizes(p, factor)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(name for name, sizes in added.items() if len(sizes) == 2 and sizes[1] < GROWN * sizes[0])


def judge_growth(
    order: list[str], grown: list[str], after_branches: bool, over_features: int, layers: tuple[str, ...] = ()
) -> Verdict:
    """Return the verdict on which linear layers get a larger input from a larger embedding.

    `order` is all of them in the order of the calls, `grown` those whose input grows; `after_branches`: there are enough
    norms for one after each branch; `layers` are the names of the blocks, each with a dot.
    """
    larger = f"an embedding {LARGER_EMBEDDING:.0f} times as large"
    if grown and len(grown) >= len(order) - 1 and len(order) > 2:
        if after_branches:
            return passed(f"{over_features} normalisations, of the branches' outputs rather than of their inputs")
        return failed(NO_NORM, f"{larger} makes the input of {len(grown)} of {len(order)} linear layers grow with it")
    first = list(itertools.takewhile(lambda name: name in grown, order))  # a Post-LN model's read the embedding itself
    head, late = order[-1], [name for name in grown if name not in first and not any(word in name for word in UNNORMALISED)]
    if inside := [name for name in late if name != head and (not layers or name.startswith(layers))]:
        evidence = f"{larger} makes the input of {first_few(inside)} grow with it: nothing normalises it"
        return failed(norm_missing(inside[0]), evidence)
    if late == [head]:
        return passed(f"all but the head ({head}) get a normalised stream: there is no last LayerNorm")
    if late:
        return passed(f"all linear layers but {first_few(late)}, which stand outside of the blocks, get a normalised stream")
    return passed(f"the inputs of {len(order)} linear layers keep their size with {larger}")


def input_sizes(p: Patient, factor: float) -> dict[str, float]:
    """Return the root mean square of each linear layer's input, in the order of the calls, with the embedding multiplied.

    A layer whose class normalises inside (BitNet's) counts by its output.
    """
    face = p.interface
    C = p.parameters[face.token_table].shape[1]
    tables = [(face.token_table, face.in_vocab), *((x.name, x.length) for x in face.positions), *face.tables]
    added = {n for n, length in tables if n in p.parameters and p.parameters[n].shape[-2:] == (length, C)}
    found: dict[str, float] = {}

    def hook(name: str):
        def measure(module, args, output=None):
            x = output if output is not None else args[0] if args else None
            if isinstance(x, Tensor) and x.is_floating_point():
                found.setdefault(name, x.float().square().mean().sqrt().item())

        return measure

    hooks = []
    for name, module in p.model.named_modules():
        if sum(x.dim() == 2 for x in module.parameters(recurse=False)) == 1 and not isinstance(module, nn.Embedding):
            own = isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward
            hooks.append(module.register_forward_hook(hook(name)) if own else module.register_forward_pre_hook(hook(name)))
    try:
        with perturbed(p), p.weights(lambda name, value: factor * value if name in added else None):
            p.logits(p.ids(2, p.T))
    finally:
        for handle in hooks:
            handle.remove()
    return found


# ----- activation


def no_activation(wide: str, narrow: str) -> Cause:
    return Cause(
        f"there is nothing non-linear between {wide} and {narrow}: two linear layers in a row are one",
        "x = narrow(F.gelu(wide(x)))",
    )


def activated_product(kind: str, one: str, other: str) -> Cause:
    of = f"{one} and {other}" if one != other else f"both halves of {one}"
    return Cause(
        f"{kind} is applied to the product of {of}: a gate multiplies one projection by the activation of the other",
        f"F.{kind}(gate(x)) * up(x): look at the parentheses",
    )


@check("activation")
def activation(p: Patient) -> Verdict:
    """There is something non-linear between two linear layers, in an MLP or from one block to the next."""
    tape = perturbed_tape(p)
    if straight := [pair for pair in tape.straight if pair[0] not in tape.elsewhere]:
        wide, narrow = straight[0]
        more = f" ({len(straight)} such pairs)" if len(straight) > 1 else ""
        return failed(no_activation(wide, narrow), f"the output of {wide} reaches {narrow} unchanged{more}")
    if tape.gated:
        kind, one, other = tape.gated[0]
        return failed(
            activated_product(kind, one, other), f"{number_of(len(tape.gated), 'product')} of two projections of one input"
        )
    if not tape.narrowed:
        return skipped("no linear layer that narrows a wider one's output was recorded")
    return passed(f"{tape.narrowed} linear layers narrow their input; none takes another linear layer's unchanged output")
