"""Checks of training: gradients, the first loss, the loss it returns, the tied head, and one batch learned by heart."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .basics import WRITES_INTO_INPUT, first_overflow
from .causality import ADD_POSITIONS
from .patient import (
    ROWS,
    ModelError,
    Patient,
    declared,
    find_loss,
    model_code,
    model_line,
    set_seed,
    tensors_in,
)
from .probes import (
    FAINT_LOGITS,
    FED_ZERO,
    IDLE_LOSS,
    KNOWN_BY_HEART,
    LARGE_FIRST_LOSS,
    LEARNED,
    LEARNED_ANYWAY,
    MANY_WITHOUT_GRADIENT,
    MASK_VALUES,
    MOSTLY_TRAINABLE,
    NARROW,
    RATE,
    RATE_WIDE,
    ROUTER_ROUNDING,
    SAME_LOSS,
    SCALED_LOSS,
    SMALL_CHANGES,
    SMOOTH,
    STEP_SECONDS,
    STEPS,
    TOKENS_OVERWRITTEN,
    TOO_FEW_STEPS,
    TOO_LARGE_FIRST_LOSS,
    UNUSED_SEEDS,
    WHOLE_MODULE,
    WIDE_HEAD,
    affects_logits,
    depends_on_context,
    fed_zero,
    has_module,
    largest_change,
    layer_stacks,
    logits_carry_gradient,
    loss_on_random_ids,
    once,
    other_inputs,
    perturbed,
    perturbed_tape,
    tolerance,
    undropped,
)
from .registry import FINITE, check
from .report import Cause, Reason, Verdict, failed, first_few, listed, number_of, passed, skipped, warned
from .tape import Stilled
from .values import MASKS, expert_lists, stated_padding

# ----- gradients

INFERENCE_ONLY = Cause("made for inference only", "remove it to train")
ALL_FROZEN = Cause("all parameters are frozen", "requires_grad_(True)")
ROUTER_ONLY_CHOOSES = Cause(
    "the router gets no gradient: it only chooses, and its scores weight nothing. Where one expert is chosen, a weight that is "
    "divided by the sum of all chosen is 1, whatever the router says",
    "weight each expert's output by its probability, and normalise the weights only where several experts are chosen",
)
NO_GRADIENT = Cause(
    "the computation graph is cut between the weights and the logits (torch.no_grad, detach, .data, argmax or .item())",
    "no detach() or no_grad() inside forward",
)
POSITIONS_UNUSED = Cause("the table of positions is created but never added to the residual stream", ADD_POSITIONS)
CUT_OFF = Cause("what they compute is cut off (detach) or multiplied by 0", "no detach() inside the model")


def used_without_gradient(names: Sequence[str]) -> Cause:
    return Cause(
        f"the logits depend on {first_few(names)}, and no gradient reaches that: it, or what it computes, is cut off (detach), "
        "read through .data, or under no_grad",
        "use the parameter itself in forward, outside of no_grad",
    )


ROUTER_OVERWRITES = Cause(
    "where a token has several experts, only the last one's output is kept: it is written over those of the experts before it "
    "(masked_scatter_, or an assignment by index)",
    "add them: out[chosen] += weight * expert(x[chosen]), or out.index_add_(0, rows, …)",
)


def token_never_learns(name: str, token: int) -> Cause:
    """The cause for a padding_idx that nothing else calls padding."""
    return Cause(
        f"token {token} has no vector that can learn: row {token} of {name} gets no gradient (padding_idx={token}). "
        "Right if that id is padding; wrong if it is a token of the text, the first character of a sorted vocabulary, say",
        "leave padding_idx out, or give padding an id of its own",
    )


def thrown_away(names: str) -> Cause:
    """The cause for modules, or a line of forward, whose result goes nowhere."""
    return Cause(
        f"{names}: called, and the result is not used, so it has no effect",
        "pass on what it returns, under the name that the next line reads: x = self.dropout(x)",
    )


def never_used(names: list[str]) -> Cause:
    """The cause for parameters that no operation takes, by their names without the layers'."""
    parts = [n.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2] for n in names]
    last = list(dict.fromkeys(parts))
    return Cause(
        f"{first_few(last)} {'is' if len(last) == 1 else 'are'} made and never used in forward",
        "use them in forward, or remove them",
    )


FROZEN = Cause("frozen: training does not change them", "requires_grad_(True), unless you fine-tune on purpose")
WAITING: tuple[str, ...] = (
    "encoder_attn",
    "cross",
    "vision",
    "visual",
    "image",
    "pixel",
    "audio",
    "speech",
    "multi_modal",
    "pooler",
)
WAITING += ("indexer",)  # of top-k attention: it is asked only where there are more tokens than it may choose
NOT_POSITIONS = ("pos", "wpe", "rotary", "pe.")  # in the names of tables that may be fixed


def graph_cut(first: str) -> Cause:
    return Cause(
        f"the computation graph is cut (detach, .data, no_grad): the gradient reaches {first} …, or layers are not called",
        "no detach() inside the model; call every layer",
    )


@check("gradients", needs=(FINITE, "lengths"))
def gradients(p: Patient) -> Verdict:
    """Every parameter has a part in the logits, and gets a gradient; what forward calls, it uses."""
    if not p.parameters:
        return skipped("it has no parameters")
    trainable = {name: x for name, x in p.parameters.items() if x.requires_grad}
    with torch.enable_grad(), perturbed(p), expert_rows(p) as rows:
        ids = p.ids(ROWS, p.T if p.mode == "prefixes" else p.interface.long)
        logits = p.logits(ids)
        if logits.is_inference():
            return warned(INFERENCE_ONLY, "forward runs under torch.inference_mode: it cannot be trained")
        if not logits.requires_grad:
            return failed(NO_GRADIENT if trainable else ALL_FROZEN, "the logits carry no gradient at all")
        loss = F.cross_entropy(logits.flatten(0, 1).nan_to_num(0), ids.roll(-1, 1).flatten())
        with model_code():
            grads = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    if overwritten := experts_overwritten(rows):
        return failed(ROUTER_OVERWRITES, overwritten)
    sizes: dict[str, float | None] = {
        n: None if grad is None else grad.abs().max().item() for n, grad in zip(trainable, grads, strict=True)
    }
    if not all(sizes.values()):
        for name, size in sizes_in_training(p, ids, trainable).items():
            sizes[name] = size if sizes[name] is None else max(sizes[name] or 0.0, size or 0.0)
    problem, unused = without_gradient(p, sizes), results_unused(p)
    if unused and (problem is None or any(n.startswith(f"{m}.") for m in unused for n, size in sizes.items() if not size)):
        drops = [n for n in unused if is_dropout(p, n)]
        names = first_few(drops or unused, 2)
        evidence = f"in training mode the logits do not depend on what {number_of(len(unused), 'call')} of forward return"
        verdict = failed if drops or problem else warned
        return dataclasses.replace(verdict(thrown_away(names), evidence), where=next(filter(None, unused.values()), ""))
    if problem:
        return problem
    frozen = [n for n, x in p.parameters.items() if n not in trainable and x.is_floating_point()]
    matrices = [n for n, x in p.parameters.items() if x.dim() >= 2]
    fixed = [n for n in frozen if n in matrices and not is_constant(p, n) and not has_adapter(p, n)]
    evidence = f"all {len(p.parameters) - len(frozen)} parameters get a gradient"
    if fixed and is_fine_tuned(p, frozen):
        evidence += f"; {number_of(len(fixed), 'matrix', 'matrices')} beside adapters are frozen, alike in all layers"
    elif fixed:
        verdict = warned if len(fixed) > len(matrices) / 2 or frozen_on_purpose(p, fixed) else failed
        return verdict(FROZEN, f"requires_grad=False in {number_of(len(fixed), 'matrix', 'matrices')}: {first_few(fixed)}")
    token = token_without_gradient(p)
    return passed(evidence) if token is None else warned(token_never_learns(p.interface.token_table, token), evidence)


def is_dropout(p: Patient, name: str) -> bool:
    """Whether a name is that of a module that drops, or a line of forward that does."""
    module = dict(p.model.named_modules()).get(name)
    return module is None or "drop" in type(module).__name__.lower()


@once
def results_unused(p: Patient) -> dict[str, str]:
    """Return the innermost modules, and the lines of forward that drop something, whose results reach nothing that the model
    returns, with the line of each; the results of all calls, in training mode, whatever the random numbers are.

    First by the graph, which knows no way from them to the answer; then other numbers in their place must move no logit.
    """
    found: dict[str, str] | None = None
    for seed in UNUSED_SEEDS:  # whole layers may be dropped, and then their results are unused in one call
        seen = unused_in_a_call(p, seed)
        found = seen if found is None else {n: line for n, line in found.items() if n in seen}
        if not found:
            return {}
    assert found is not None
    modules = [n for n in found if n in dict(p.model.named_modules())]
    with torch.no_grad(), perturbed(p), p.in_mode(True):
        ids = p.ids(ROWS, p.T)
        logits = p.logits(ids)
        for name in modules:

            def other(module, args, out):  # in other directions at each position: what only chooses must choose otherwise
                if not (isinstance(out, Tensor) and out.is_floating_point()):
                    return out
                noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
                return out + (1 + out.abs().max()) * noise.to(out)

            hook = p.model.get_submodule(name).register_forward_hook(other)
            try:
                if largest_change(logits, p.logits(ids)).max() > 0:  # the same random numbers: nothing may move at all
                    del found[name]
            finally:
                hook.remove()
    return found


def unused_in_a_call(p: Patient, seed: int) -> dict[str, str]:
    """Return which results reach nothing in one call in training mode, with the line of each."""
    results: dict[str, list[Tensor]] = {}
    lines: dict[str, str] = {}

    def hook(name: str) -> Callable:
        def note(module, args, output):
            if isinstance(output, Tensor) and output.requires_grad:
                results.setdefault(name, []).append(output)
                lines.setdefault(name, model_line())

        return note

    inner = [(n, m) for n, m in p.model.named_modules() if n and not any(True for _ in m.children())]
    hooks = [m.register_forward_hook(hook(n)) for n, m in inner if not isinstance(m, torch.jit.ScriptModule)]
    drops = Drops()
    try:
        with torch.enable_grad(), p.in_mode(True), drops:
            ids = p.ids(ROWS, p.T)
            set_seed(seed)
            answer = p.call_as_is(p.copy(ids), **p.extra, **p.needed_targets(ids))
    except ModelError:
        return {}  # a question of modes
    finally:
        for handle in hooks:
            handle.remove()
    of_modules = {id(x) for outputs in results.values() for x in outputs}
    for line, output in drops.seen:
        if id(output) not in of_modules and line:
            results.setdefault(line, []).append(output)
            lines[line] = ""
    returned = [x for x in tensors_in(answer) if x.is_floating_point() and x.requires_grad]
    outputs = [(name, x) for name, several in results.items() for x in several]
    if not returned or not outputs:
        return {}
    with model_code():
        total = torch.stack([x.float().sum() for x in returned]).sum()
        grads = torch.autograd.grad(total, [x for _, x in outputs], allow_unused=True)
    used = {name for (name, _), grad in zip(outputs, grads, strict=True) if grad is not None}
    return {name: lines[name] for name in results if name not in used}


class Drops(TorchFunctionMode):
    """What F.dropout made in the block, with the line of the model's code that called it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") == "dropout" and isinstance(out, Tensor) and out.requires_grad:
            self.seen.append((model_line(), out))
        return out


def sizes_in_training(p: Patient, ids: Tensor, trainable: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Return the largest entry of each parameter's gradient in training mode, with nothing dropped: adapters that eval() merges
    into other weights get one only there. Empty if the model cannot be called so."""
    with contextlib.suppress(ModelError), torch.enable_grad(), undropped(p), perturbed(p), p.in_mode(True), Stilled():
        logits = p.logits(ids)
        if logits.requires_grad:
            loss = F.cross_entropy(logits.flatten(0, 1).nan_to_num(0), ids.roll(-1, 1).flatten())
            with model_code():
                grads = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            return {n: None if g is None else g.abs().max().item() for n, g in zip(trainable, grads, strict=True)}
    return {}


def token_without_gradient(p: Patient) -> int | None:
    """Return the padding_idx of the table of tokens if nothing else shows that this id is padding: no configuration, no mask
    that forward takes, no loss that leaves it out."""
    token, table = getattr(p.table_module(), "padding_idx", None), p.parameters.get(p.interface.token_table)
    if token is None or table is None or not table.requires_grad or not table.is_floating_point():
        return None
    stated = [value for holder in p.model.modules() for value in stated_padding(holder)]
    if token in stated or any(name in MASKS for name in p.names) or not 0 <= token < p.vocab:
        return None
    ids = p.ids(ROWS, p.T)
    ids[:, ::2] = token
    with torch.enable_grad():
        loss = F.cross_entropy(p.logits(ids, ids if p.mode == "targets" else None).flatten(0, 1), p.ids(ROWS, p.T, 1).flatten())
        with model_code():
            (grad,) = torch.autograd.grad(loss, [table], allow_unused=True)
        if grad is None or grad[token].any():  # a tied head gives it one
            return None
        if p.interface.both and loss_ignores(p, ids, token):
            return None
    return token


def loss_ignores(p: Patient, ids: Tensor, token: int) -> bool:
    """Whether the loss that forward returns for ids (B, T) leaves a token out of its mean."""
    targets = p.ids(ROWS, p.T, 2)
    targets = targets.where(targets != token, (targets + 1) % p.vocab)  # nowhere else
    targets[:, 1::2] = token
    loss, logits = find_loss(p.call(ids, targets)), p.logits(ids)
    for z, y in ((logits, targets), (logits[:, :-1], targets[:, 1:])):  # as they are, or shifted inside
        each = F.cross_entropy(z.transpose(1, 2), y, reduction="none")  # (B, V, T), (B, T) -> (B, T)
        if loss is not None and math.isclose(loss.item(), each[y != token].mean().item(), rel_tol=SAME_LOSS):
            return True
    return False


# ----- experts


@dataclasses.dataclass
class ExpertRows:
    """The rows that an expert was given, and which of its output's rows get a gradient."""

    given: Tensor  # (n, C)
    counts: Tensor | None = None  # (n,), after the backward pass


@contextlib.contextmanager
def expert_rows(p: Patient) -> Iterator[dict[str, list[ExpertRows]]]:
    """Record in the block, for each list of modules, the calls on some rows of the batch, (n, C) -> (n, C)."""
    found: dict[str, list[ExpertRows]] = {}

    def note(name: str) -> Callable:
        def hook(module, args, output):
            x = args[0] if args else None
            if not (
                isinstance(x, Tensor) and isinstance(output, Tensor) and x.dim() == output.dim() == 2 and len(x) == len(output)
            ):
                return
            rows = ExpertRows(x.detach())
            found.setdefault(name, []).append(rows)
            if output.requires_grad:
                output.register_hook(lambda grad: setattr(rows, "counts", (grad != 0).any(dim=1)))

        return hook

    lists = [(n, m) for n, m in p.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    hooks = [
        expert.register_forward_hook(note(n))
        for n, m in lists
        for expert in m
        if expert is not None and not isinstance(expert, torch.jit.ScriptModule)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def experts_overwritten(found: Mapping[str, list[ExpertRows]]) -> str:
    """Return evidence that of several experts of a token only one has an effect, for every such token; "" if not.

    Rows of one token are equal in what its experts are given.
    """
    for name, calls in found.items():
        calls = [c for c in calls if len(c.given)]
        if len(calls) < 2 or len({c.given.shape[1] for c in calls}) > 1:
            continue
        given = torch.cat([c.given for c in calls])
        counts = torch.cat(
            [torch.zeros(len(c.given), dtype=torch.bool, device=given.device) if c.counts is None else c.counts for c in calls]
        )
        rows, token = torch.unique(given, dim=0, return_inverse=True)
        of_each = torch.bincount(token, minlength=len(rows))
        effects = torch.bincount(token, weights=counts.double(), minlength=len(rows))
        several = of_each > 1
        every = len({len(c.given) for c in calls}) == 1 and bool((of_each == len(calls)).all())  # all experts see all tokens
        if several.sum() >= TOKENS_OVERWRITTEN and not every and bool((effects[several] == 1).all()):
            n = int(several.sum())
            return (
                f"{name}: {n:,} of {len(rows):,} tokens were given to several experts; of each only one expert's output counts"
            )
    return ""


def without_gradient(p: Patient, sizes: Mapping[str, float | None]) -> Verdict | None:
    """Return whether parameters get no gradient or one of 0; `sizes` are the largest entries of each trainable one's."""
    usual = statistics.median(g or 0.0 for g in sizes.values())
    faint = [n for n, g in sizes.items() if (g or 0.0) < ROUTER_ROUNDING * usual]
    if routers := [n for n in faint if chooses_one_of_its_own(p, n)]:
        evidence = f"the gradient is 0, or rounding, in {number_of(len(routers), 'router')}: {first_few(routers)}"
        return warned(ROUTER_ONLY_CHOOSES, evidence)
    # softmax cancels a bias of keys
    none = [n for n, g in sizes.items() if g is None and not is_waiting(n) and n not in other_inputs(p)]
    zero = [
        n
        for n, g in sizes.items()
        if g == 0.0 and not is_waiting(n) and n not in other_inputs(p) and p.parameters[n].numel() > 1 and not is_key_bias(p, n)
    ]
    if len(none) > MANY_WITHOUT_GRADIENT * len(p.parameters):
        many = f"no gradient reaches {number_of(len(none), 'parameter')}: {first_few(none)}"
        return failed(graph_cut(next((n for n, g in sizes.items() if g), "none")), many)
    experts = tuple(f"{n}." for n, _ in expert_lists(p))

    def of_expert(name: str) -> bool:
        return "expert" in name.lower() or name.startswith(experts)

    if any(g and of_expert(n) for n, g in sizes.items()):  # others were not chosen by any token
        none, zero = ([n for n in names if not of_expert(n)] for names in (none, zero))
    suspects = none + zero
    if suspects and not moves_logits(p, suspects):  # whatever only chooses has no gradient, and none is missing
        called = called_modules(p)
        rest = [n for n in suspects if n.rpartition(".")[0] in called]
        suspects = [n for n in suspects if n not in rest or not affects_logits(p, rest)]
    none, zero = [n for n in none if n in suspects], [n for n in zero if n in suspects]
    if not none and not zero:
        return None
    parts = [f"no gradient reaches {number_of(len(none), 'parameter')}"] if none else []
    parts += [f"the gradient is exactly 0 in {number_of(len(zero), 'parameter')}"] if zero else []
    evidence = f"{listed(parts)}: {first_few(none + zero)}"
    unused = [name for name in none if not affects_logits(p, [name])]
    if any(is_position_table(p, name) for name in unused):
        return failed(POSITIONS_UNUSED, evidence)
    if used := [name for name in none if name not in unused and name in p.parameters]:
        return failed(used_without_gradient(used), evidence)
    if not unused and (zeros := fed_zero(p)):
        return failed(FED_ZERO, f"{zeros}; {evidence}")
    return failed(never_used(unused) if unused else CUT_OFF, evidence)


def chooses_one_of_its_own(p: Patient, name: str) -> bool:
    """Whether a matrix (E, C) gives scores for E experts, of which the largest are chosen: a router."""
    x = p.parameters[name]
    if x.dim() != 2 or x.shape[0] == x.shape[1]:
        return False
    return any(shape[-1] == x.shape[0] for shape in perturbed_tape(p).choices)


def has_adapter(p: Patient, name: str) -> bool:
    """Whether a matrix (out, in) stands beside two that are trained and whose product has its shape: (out, r) and (r, in)."""
    inner = name.rpartition(".")[0]
    size = set(p.parameters[name].shape)
    for holder in {inner, inner.rpartition(".")[0]} - {""}:
        beside = [x for n, x in p.parameters.items() if n.startswith(f"{holder}.") and x.requires_grad and x.dim() == 2]
        if any(
            set(a.shape) | set(b.shape) == size | {r}
            for r in (min(x.shape) for x in beside)
            if r < min(size)
            for a, b in itertools.combinations(beside, 2)
            if r in a.shape and r in b.shape
        ):
            return True
    return False


def is_fine_tuned(p: Patient, frozen: list[str]) -> bool:
    """Whether the frozen parameters are a base that adapters train: some stand beside one of low rank, or most numbers are
    frozen and what is trained has such pairs; and no layer of a stack freezes what another one trains."""
    base = set(frozen)
    for _, layers in layer_stacks(p.model):
        kept: dict[str, set[bool]] = {}
        for layer in layers:
            for name, x in layer.named_parameters():
                kept.setdefault(name, set()).add(x.requires_grad)
        if any(len(kinds) > 1 for kinds in kept.values()):
            return False
    matrices = [n for n in frozen if p.parameters[n].dim() == 2]
    if any(has_adapter(p, n) for n in matrices):
        return True
    sizes = {n: x.numel() for n, x in p.parameters.items()}
    return 2 * sum(sizes[n] for n in base) > sum(sizes.values()) and has_bottleneck(p)


def has_bottleneck(p: Patient) -> bool:
    """Whether two trained matrices of one module, in a row, narrow to fewer features than either side: (r, in), (out, r)."""
    for module in p.model.modules():
        mine = [x for n, x in module.named_parameters() if n.count(".") <= 1 and x.dim() == 2 and x.requires_grad]
        if any(a.shape[0] == b.shape[1] < min(a.shape[1], b.shape[0]) for a, b in itertools.permutations(mine, 2)):
            return True
    return False


def frozen_on_purpose(p: Patient, fixed: list[str]) -> bool:
    """Whether frozen matrices are the table of tokens, or all those of whole modules (an encoder, a patcher), none of them one
    block among others."""
    blocks = {id(layer) for _, layers in layer_stacks(p.model) for layer in layers}
    left = set(fixed) - {p.interface.token_table}
    for name, module in p.model.named_modules():
        own = {f"{name}.{inner}" for inner, x in module.named_parameters() if x.dim() >= 2}
        if name and len(own) >= WHOLE_MODULE and own <= set(fixed) and id(module) not in blocks:
            left -= own
    return not left


def is_constant(p: Patient, name: str) -> bool:
    """Whether a frozen matrix is no weight: a table of positions, or a mask, which holds few different numbers."""
    tables = {x.name for x in p.interface.positions} | {table for table, _ in p.interface.tables}
    named = any(word in name.lower() for word in NOT_POSITIONS)
    return named or name in tables or len(p.parameters[name].unique()) <= MASK_VALUES


def is_waiting(name: str) -> bool:
    """Whether a parameter waits, by its name, for what a text alone does not bring: an encoder's output, an image, a sound."""
    return any(word in name.lower() for word in WAITING)


def scaled(names: Sequence[str], factor: float, name: str, value: Tensor) -> Tensor | None:
    """Return a weight times a factor if it is one of `names`, None for others."""
    return value * factor if name in names and value.is_floating_point() else None


@torch.no_grad()
def moves_logits(p: Patient, names: list[str]) -> bool:
    """Whether small changes of these weights move the logits smoothly: then a gradient is missing. A choice (top-k) moves
    nothing, or jumps."""
    ids, effects = p.ids(1, p.interface.long), []
    with perturbed(p):
        before = p.logits(ids)
        for size in SMALL_CHANGES:
            with p.weights(functools.partial(scaled, names, 1 + size)):
                effects.append((before - p.logits(ids)).nan_to_num(0).abs().mean().item())
    large, small = effects
    low, high = SMOOTH
    return large > tolerance(p, before) and low * small < large < high * small


def called_modules(p: Patient) -> set[str]:
    """Return the names of the modules that run in a call."""
    seen: set[str] = set()
    hooks = [module.register_forward_hook(lambda *args, name=name: seen.add(name)) for name, module in p.model.named_modules()]
    try:
        with torch.no_grad():
            p.logits(p.ids(1, p.interface.long))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def is_position_table(p: Patient, name: str) -> bool:
    """Whether a parameter looks like one: by its name, or with block_size rows and not a linear layer's."""
    linear = isinstance(p.model.get_submodule(name.rpartition(".")[0]), nn.Linear)
    named = any(word in name.lower().replace("post", "") for word in ("pos", "wpe"))
    return named or (p.block in p.parameters[name].shape[:-1] and not linear)


def is_key_bias(p: Patient, name: str) -> bool:
    return p.parameters[name].dim() == 1 and "k" in name.lower().rsplit(".bias", 1)[0].rsplit(".", 1)[-1]


# ----- first loss

INIT_TOO_LARGE = Cause(
    "the first weights are too large: most often an embedding of standard deviation 1 that is tied to the head",
    "nn.init.normal_(weight, std=0.02) for embeddings and linear layers",
)


@check("first loss", needs=(FINITE,))
@torch.no_grad()
def first_loss(p: Patient) -> Verdict:
    """A new model predicts uniformly: its loss on random ids is about ln V."""
    weights = [getattr(m, "weight", None) for m in p.model.modules() if "norm" in type(m).__name__.lower()]
    gains = [weight for weight in weights if isinstance(weight, Tensor)]
    loss, blind = loss_on_random_ids(p), math.log(p.vocab)
    if loss is None:
        return skipped("the loss is not finite: see answers")
    if any(bool((gain != 1).any() and (gain != 0).any()) for gain in gains):
        return skipped(
            f"the norms' weights are no longer 1: a trained model, for which random ids are unlikely (loss {loss:.2f})"
        )
    if p.vocab < 3:
        return skipped(f"a vocabulary of {p.vocab}")
    evidence = f"loss {loss:.2f} on random ids, ln V = {blind:.2f}"
    if loss > blind + LARGE_FIRST_LOSS:
        spread = p.logits(p.ids(ROWS, p.T)).std().item()
        verdict = failed if loss > blind + TOO_LARGE_FIRST_LOSS or not gains else warned
        return verdict(too_large(p), f"{evidence}; logits have a standard deviation of {spread:.1f}")
    return passed(evidence)


def too_large(p: Patient) -> Cause:
    """Return which weights make the first logits large: an embedding that is tied to the head, a head of its own, or others."""
    face, table = p.interface, p.parameters.get(p.interface.token_table)
    heads = {n: x for n, x in p.parameters.items() if x.dim() == 2 and x.shape[0] == face.out_vocab and x is not table}
    name, head = next(reversed(heads.items()), (face.token_table, table))
    if head is None:
        return INIT_TOO_LARGE
    size, width = head.detach().float().std().item(), head.shape[1]
    if size * math.sqrt(width) < WIDE_HEAD:
        return Cause(
            f"the stream that the head reads is too large, not the head ({name} has a standard deviation of {size:.2g})",
            "one more norm before the head, and branches that begin small",
        )
    tied = "" if heads else ", and it is tied to the embedding"
    return Cause(
        f"the head's weights are too large: {name} has a standard deviation of {size:.2g}{tied}",
        f"nn.init.normal_({name}, std=0.02), or 1/√{width} = {width**-0.5:.2g}",
    )


# ----- its own loss

ONE_MEAN = "F.cross_entropy(logits.flatten(0, 1), targets.flatten()): the mean over all tokens"
ALL_POSITIONS = f"all positions learn at once: {ONE_MEAN}"
SHIFT_ONCE = "compare the logits at t with the token at t + 1, shifted once: in the batch or in forward"
LOSS_IS_A_NUMBER = Cause("it carries no gradient (.item())", "return the tensor")
LOSS_NOT_AVERAGED = Cause("it is not averaged (reduction='none')", "reduction='mean'")
LOSS_DETACHED = Cause("it is detached, or computed under no_grad", "return it as it is")
LOSS_NOT_SHIFTED = Cause("the targets are not shifted: logits at t are compared with the input at t, which it sees", SHIFT_ONCE)
LOSS_SHIFTED_TWICE = Cause("the targets are shifted twice", SHIFT_ONCE)
LOSS_SHIFTED_BACK = Cause("the targets are shifted the wrong way: logits at t are compared with token t - 1", SHIFT_ONCE)
LOSS_SUMMED = Cause("the loss is summed, not averaged: it grows with batch and window", "reduction='mean'")
LOSS_SUMMED_OVER_WINDOW = Cause("the loss is summed over the window and averaged over the batch only", ONE_MEAN)
LOSS_WRONG_DIVISOR = Cause("the loss is divided by the wrong number", ONE_MEAN)
LOSS_LAST_ONLY = Cause("the loss covers the last position only", ALL_POSITIONS)
LOSS_SKIPS_TOKEN_0 = Cause(
    "token 0 is left out of the mean (ignore_index=0): that token is never learned",
    "ignore_index=-100, or none at all: is token 0 really padding?",
)
LOSS_ROLLED_BATCH = Cause(
    "the last position of each row is compared with the first token of the next row: the shift runs over the flattened batch "
    "(torch.roll, or [:-1] and [1:] after the rows were joined)",
    "shift each row before joining them: logits[:, :-1] against labels[:, 1:], or -100 at the end of each row",
)
LOSS_ROLLED_ROW = Cause(
    "the last position of each row is compared with the row's own first token (torch.roll along the row, without ignoring what "
    "comes round)",
    "logits[:, :-1] against labels[:, 1:], or -100 at the end of each row",
)
LOSS_END_FILLED = Cause(
    "the last position of each row is compared with token 0, which fills the place that shifting has left",
    "fill it with -100 (ignore_index), or leave the last position out: logits[:, :-1] against labels[:, 1:]",
)
LOSS_SKIPS_END = "the end of a text is never learned, and generation never stops"
LOSS_FIRST_ONLY = Cause("the loss covers the first position only", ALL_POSITIONS)
LOSS_FIRST_ROW = Cause("the loss covers the first row only", f"all rows learn at once: {ONE_MEAN}")
LOSS_SIGN = Cause("its sign is inverted: it rises while the model learns", "return the loss as cross_entropy gives it")
LOSS_VIEW = Cause("a view mixes the axes of the logits before the loss", ONE_MEAN)
LOSS_SCALED = Cause("it is scaled or cut off: summed, clamped, or divided by the wrong number", ONE_MEAN)
LOSS_IDLE = Cause(
    "the auxiliary loss in it is a constant: the routers get no gradient from it, nor does anything else (a detached number, "
    "counts of what was chosen, or probabilities that are averaged until they are the same whatever the router says)",
    "tokens_per_expert · mean(softmax over all experts), each of length E: the second has the gradient (Switch Transformer)",
)
LOSS_UNKNOWN = Cause(
    "it is none of the variants of a cross-entropy that were tried: a view that mixes axes, weights, smoothing, or an "
    "auxiliary loss in it",
    ONE_MEAN,
)


def loss_skips(token: int, ends: bool) -> Cause:
    what = (
        f"the end-of-text token {token} is left out of the mean, as if it were padding: {LOSS_SKIPS_END}"
        if ends
        else (f"token {token} is left out of the mean (ignore_index={token}): that token is never learned")
    )
    return Cause(what, "a padding id of its own, or targets of -100 where there is padding")


def loss_takes_next(name: str) -> Cause:
    """The cause for labels that are compared as they come: which of two conventions is meant, only the caller knows."""
    return Cause(
        f"{name} are not shifted inside: right where the batch gives the next tokens (as Megatron and GPT-NeoX do); where it "
        "gives the ids themselves (as Hugging Face's models expect), it learns to copy",
        f"look at the batch: next tokens in {name} are right; with the ids compare logits[:, :-1] with {name}[:, 1:]",
    )


def loss_shifts_again(name: str) -> Cause:
    return Cause(
        f"shifted twice: {name} are the next tokens already, and forward shifts them once more",
        "shift once: in the batch or in forward, not in both",
    )


def padding_counted(ignore: int) -> Cause:
    return Cause(
        "ignored targets count in the mean: padding makes the loss look small",
        f"F.cross_entropy(…, ignore_index={ignore}) divides by those that count",
    )


def padding_as_token_0(ignore: int) -> Cause:
    return Cause("ignored targets count as token 0", f"F.cross_entropy(…, ignore_index={ignore})")


@check("its own loss", needs=("side effects", "repeats", "answers"))
@torch.no_grad()
def own_loss(p: Patient) -> Verdict:
    """The loss that it returns is the mean cross-entropy of the next tokens."""
    if p.targets_name is None or (p.mode != "plain" and not p.interface.both):
        return skipped("its forward takes no targets")
    ids, targets = p.ids(ROWS, p.T, 1), p.ids(ROWS, p.T, 2)
    with perturbed(p):
        with torch.enable_grad():
            answer = p.call(ids, targets)
        given = answer if p.interface.both else p.call(ids)  # some answer with the loss alone
        logits, loss = p.as_logits(given, ROWS, p.T).detach(), find_loss(answer)
        if problem := wrong_form(p, answer, loss, targets):
            return problem
        if loss is None or logits.shape[1] != p.T:
            return skipped(f"it returned no loss for {p.targets_name}")
        padding = wrong_padding(p, ids, targets, logits) or skipped_token(p, ids, logits)
        variants, added = loss_variants(logits, ids, targets), 0.0
        if not any(is_same_loss(loss.item(), v.value.item()) for v in variants):
            added = added_to_loss(p, ids, logits)
            if added and (problem := idle_addition(p, ids, targets, added)):
                return problem
    return judge_loss(p, loss.item(), added, variants, padding)


def is_same_loss(loss: float, other: float) -> bool:
    return math.isclose(loss, other, rel_tol=SAME_LOSS, abs_tol=SAME_LOSS)


def added_to_loss(p: Patient, ids: Tensor, logits: Tensor) -> float:
    """Return what the loss adds to a variant of the cross-entropy whatever the targets are, as the auxiliary loss of a mixture
    of experts does: the same for three sets of targets. 0 if there is none. Logits (B, T, V) are those of ids (B, T)."""
    losses, rests = [], []
    for seed in (2, 3, 4):
        targets = p.ids(ROWS, p.T, seed)
        loss = find_loss(p.call(ids, targets))
        if loss is None:
            return 0.0
        losses.append(loss.item())
        rests.append([loss.item() - v.value.item() for v in loss_variants(logits, ids, targets)])
    if is_same_loss(min(losses), max(losses)):
        return 0.0  # it does not depend on the targets: nothing can be told apart
    return next((rest[0] for rest in zip(*rests, strict=True) if is_same_loss(min(rest), max(rest))), 0.0)


def idle_addition(p: Patient, ids: Tensor, targets: Tensor, added: float) -> Verdict | None:
    """Return whether what the loss adds to a variant of the cross-entropy is a number without a gradient. Ids and targets are
    (B, T)."""
    trained, routed = [x for x in p.parameters.values() if x.requires_grad], bool(perturbed_tape(p).choices)
    if not trained:
        return None
    with torch.enable_grad(), p.in_double(), contextlib.suppress(ModelError):
        answer = p.call(ids, targets)
        loss = find_loss(answer)
        if loss is None or not loss.requires_grad:
            return None
        logits = p.as_logits(answer if p.interface.both else p.call(ids), *ids.shape)
        rests = [loss - v.value for v in loss_variants(logits.double(), ids, targets)]
        rest = min(rests, key=lambda x: abs(x.item() - added))
        gradients = torch.autograd.grad(rest, trained, allow_unused=True)
        steepest = max((g.abs().max().item() for g in gradients if g is not None and g.numel()), default=0.0)
        if steepest <= IDLE_LOSS * abs(added):
            evidence = f"{added:.4g} of the loss does not depend on the targets, and its largest gradient is {steepest:.2g}"
            return (failed if routed else warned)(LOSS_IDLE, evidence)
    return None


def special_tokens(p: Patient) -> dict[int, str]:
    """Return the tokens that the model names, or that are often special: {id: "eos", "pad" or ""}."""
    found = {token: "" for token in (0, 1, 2, p.vocab - 1) if token < p.vocab}
    for words in ("pad", "eos"):  # what is both is an end of text
        names = (
            f"{words}_token_id",
            f"{words}_id",
            f"{words}_idx",
            f"{words}_token",
            *(("padding_idx",) if words == "pad" else ()),
        )
        found |= {x: words for _, x in declared(p.model, (*names, "eot_token", "endoftext_id") if words == "eos" else names)}
    padding = getattr(p.table_module(), "padding_idx", None)
    found |= {} if padding is None else {padding: "pad"}
    return {token: word for token, word in found.items() if token < p.vocab}


def skipped_token(p: Patient, ids: Tensor, logits: Tensor) -> Verdict | None:
    """Return whether the loss leaves a token out of its mean that is no padding. Logits (B, T, V) are those of ids (B, T)."""
    for token, word in special_tokens(p).items():
        some = p.ids(ROWS, p.T, 2)
        some = some.where(some != token, (some + 1) % p.vocab)  # nowhere else
        some[:, 1::2] = token
        loss = find_loss(p.call(ids, some))
        if loss is None:
            return None
        for z, y in ((logits, some), (logits[:, :-1], some[:, 1:])):  # as they are, or shifted inside
            each = F.cross_entropy(z.transpose(1, 2), y, reduction="none")  # (B, V, T), (B, T) -> (B, T)
            right, without = each.mean().item(), each[y != token].mean().item()
            if math.isclose(loss.item(), right, rel_tol=SAME_LOSS):
                break
            if math.isclose(loss.item(), without, rel_tol=SAME_LOSS) and word != "pad":
                evidence = f"with every second target token {token}, the loss is {loss:.4f}; with them it would be {right:.4f}"
                return failed(LOSS_SKIPS_TOKEN_0 if token == 0 and not word else loss_skips(token, word == "eos"), evidence)
    return None


def wrong_form(p: Patient, answer, loss: Tensor | None, targets: Tensor) -> Verdict | None:
    """Return whether the loss is not a single number with a gradient."""
    parts = list(answer.values()) if isinstance(answer, Mapping) else answer if isinstance(answer, tuple | list) else []
    if loss is None and any(isinstance(part, float) for part in parts):
        return failed(LOSS_IS_A_NUMBER, "the loss comes back as a Python number")
    if loss is None and any(t.numel() == targets.numel() and t.is_floating_point() for t in tensors_in(answer)):
        return failed(LOSS_NOT_AVERAGED, "a loss comes back for each token")
    if (
        loss is not None
        and not loss.requires_grad
        and any(x.requires_grad for x in p.parameters.values())
        and logits_carry_gradient(p)
    ):
        return failed(LOSS_DETACHED, "the loss carries no gradient")
    return None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A number that a loss may be: a right one by its `name`, or a wrong one by its cause."""

    value: Tensor
    name: str = ""  # plain, shifted inside, of log-probabilities, or of the input's own next tokens
    cause: Cause | None = None


def loss_variants(z: Tensor, ids: Tensor, y: Tensor) -> list[Variant]:
    """Return what a loss may be, the right ones first. Logits z (B, T, V), ids and targets y (B, T)."""

    def each(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.transpose(1, 2), y, reduction="none")  # (B, V, T), (B, T) -> (B, T)

    def mixed(z: Tensor) -> Tensor:
        return z.transpose(1, 2).reshape(z.shape)  # (B, T, V) -> (B, V, T), read as (B, T, V)

    def rolled(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.flatten(0, 1), y.flatten().roll(-1), reduction="none")  # (B·T, V), (B·T,)

    def joined(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.flatten(0, 1)[:-1], y.flatten()[1:], reduction="none")

    B, T = y.shape
    plain, inside, copied = each(z, y), each(z[:, :-1], y[:, 1:]), each(z, ids)
    right = {
        "plain": plain.mean(),
        "inside": inside.mean(),
        "logs": F.nll_loss(z.transpose(1, 2), y),  # (B, V, T), (B, T)
        "own": each(z[:, :-1], ids[:, 1:]).mean(),
    }
    wrong = [
        (LOSS_NOT_SHIFTED, copied.mean()),
        (LOSS_NOT_SHIFTED, copied[:, 1:].mean()),
        (LOSS_SHIFTED_TWICE, each(z[:, :-2], y[:, 2:]).mean()),
        (LOSS_SHIFTED_TWICE, joined(z[:, :-1], y[:, 1:]).mean()),  # JetMoE: in each row, then over the flattened batch
        (LOSS_SHIFTED_BACK, each(z[:, 1:], y[:, :-1]).mean()),
        *((LOSS_SUMMED, some.sum()) for some in (plain, inside)),
        *((LOSS_SUMMED_OVER_WINDOW, some.sum() / B) for some in (plain, inside)),
        (LOSS_WRONG_DIVISOR, plain.mean() * T / B),
        *((LOSS_LAST_ONLY, some[:, -1].mean()) for some in (plain, inside)),
        (LOSS_FIRST_ONLY, plain[:, 0].mean()),
        *((LOSS_SKIPS_TOKEN_0, some[token > 0].mean()) for some, token in ((plain, y), (inside, y[:, 1:]))),
        (LOSS_FIRST_ROW, plain[0].mean()),
        *((LOSS_SIGN, -some.mean()) for some in (plain, inside)),
        *((LOSS_ROLLED_BATCH, each_of(z, goal).mean()) for goal in (y, ids) for each_of in (rolled, joined)),
        *((LOSS_ROLLED_ROW, each(z, goal.roll(-1, 1)).mean()) for goal in (y, ids)),
        *((LOSS_END_FILLED, each(z, F.pad(goal[:, 1:], (0, 1))).mean()) for goal in (y, ids)),
        (LOSS_VIEW, each(mixed(z), y).mean()),
        (LOSS_VIEW, each(mixed(z[:, :-1]), y[:, 1:]).mean()),
    ]
    return [Variant(x, name) for name, x in right.items()] + [Variant(x, cause=cause) for cause, x in wrong]


def judge_loss(p: Patient, whole: float, added: float, variants: list[Variant], padding: Verdict | None) -> Verdict:
    """Return which variant the whole loss is, less what is added whatever the targets are; `padding` is the verdict on ignored
    targets."""
    plain, inside, loss = variants[0].value.item(), variants[1].value.item(), whole - added
    fitting = [v for v in variants if is_same_loss(loss, v.value.item())]
    names = {v.name for v in fitting}
    if "own" not in names and fitting and abs(plain - inside) < SAME_LOSS * max(1.0, abs(plain)):
        return skipped(f"loss {loss:.4f}; the logits are so alike that it would be the same however the targets are shifted")
    name = p.targets_name or "targets"
    named_so = name in ("labels", "label", "lm_labels")
    if "own" in names:
        return passed(f"the mean over all tokens of its input's own next tokens (it does not use {name})")
    if {"plain", "inside", "logs"} & names:
        shifted = "inside" in names and "plain" not in names
        if padding:
            return padding
        if named_so and not shifted:
            return warned(loss_takes_next(name), f"loss {loss:.4f} compares the logits at t with {name} at t")
        if shifted and not named_so:
            return failed(loss_shifts_again(name), f"loss {loss:.4f} compares the logits at t with {name} at t + 1")
        how = "it shifts them itself" if shifted else "it takes them as the next tokens"
        beside = f", with {added:.4g} more that does not depend on them (an auxiliary loss)" if added else ""
        return passed(f"loss {loss:.4f} is the mean over all tokens of {name}: {how}{beside}")
    if padding:
        return padding
    evidence = f"loss {loss:.4f}; the mean cross-entropy of the next tokens is {plain:.4f} ({inside:.4f} if it shifts)"
    evidence += f"; {added:.4g} more does not depend on them" if added else ""
    if fitting and fitting[0].cause:
        return failed(fitting[0].cause, evidence)
    experts = has_module(p, lambda m: any(word in type(m).__name__.lower() for word in ("moe", "router", "expert")))
    verdict = warned if experts else failed  # a mixture of experts adds a loss of its own
    low, high = SCALED_LOSS
    return verdict(LOSS_UNKNOWN if low * plain <= loss <= high * plain else LOSS_SCALED, evidence)


def wrong_padding(p: Patient, ids: Tensor, targets: Tensor, logits: Tensor) -> Verdict | None:
    """Return whether ignored targets count in the mean; `logits` are those of ids."""
    for ignore in (-100, -1):
        some = targets.clone()
        some[:, p.T // 2 :] = ignore
        try:
            loss = find_loss(p.call(ids, some))
        except ModelError:
            continue
        if loss is None:
            continue
        means: dict[str, list[float]] = {"right": [], "counted": [], "token 0": []}
        for z, y in ((logits, some), (logits[:, :-1], some[:, 1:])):  # as they are, or shifted inside
            z = z.transpose(1, 2)  # (B, V, T)
            each = F.cross_entropy(z, y, ignore_index=ignore, reduction="none")  # (B, T), 0 where it is ignored
            means["right"].append((each.sum() / (y != ignore).sum()).item())
            means["counted"].append(each.mean().item())
            means["token 0"].append(F.cross_entropy(z, y.clamp(min=0)).item())
        for kind, values in means.items():
            if any(math.isclose(loss.item(), value, rel_tol=SAME_LOSS) for value in values):
                causes = {"counted": padding_counted, "token 0": padding_as_token_0}
                evidence = (
                    f"with half of the targets {ignore} (to be ignored) the loss is {loss:.4f}, not {means['right'][0]:.4f}"
                )
                return failed(causes[kind](ignore), evidence) if kind in causes else None
    return None


# ----- tied head

TIED_BY_DATA = Cause(
    "tied by .data: the optimizer holds two moments for one matrix and steps twice",
    "assign the parameter itself: head.weight = embedding.weight",
)
TIED_BY_COPY = Cause(
    "tied at the start only: the weights were copied, and training will drive them apart",
    "assign the parameter itself, not a copy",
)
TYING_FORGOTTEN = Cause("the tying was forgotten, or undone by a later initialisation", "lm_head.weight = wte.weight")
TYING_UNASKED = Cause("a tying that was not asked for", "remove it, or state it in the configuration")
TYING = ("tie_word_embeddings", "tied_head", "tie_weights", "tied", "tie_embeddings", "weight_tying")


@check("tied head")
def tied_head(p: Patient) -> Verdict:
    """Embedding and head share one matrix if the configuration states it, wholly or not at all."""
    table = p.parameters.get(p.interface.token_table)
    if table is None:
        return skipped("no table of tokens was found")
    alike = {name: x for name, x in p.parameters.items() if x.shape == table.shape}
    a, x = p.interface.token_table, table
    for b, y in ((b, y) for b, y in alike.items() if b != a):
        if x.data_ptr() == y.data_ptr():
            return failed(TIED_BY_DATA, f"{a} and {b} are two parameters in the same memory")
        if torch.equal(x, y) and x.std() > 0:
            return failed(TIED_BY_COPY, f"{a} and {b} have equal numbers, but are two parameters")
    names: dict[int, list[str]] = {}
    for name, x in p.model.named_parameters(remove_duplicate=False):
        if x.shape == table.shape:
            names.setdefault(id(x), []).append(name)
    tied = next((group for group in names.values() if len(group) > 1), None)
    stated = next((value for _, value in declared(p.model, TYING, bool)), None)
    if stated is True and not tied and len(alike) > 1:
        evidence = f"the configuration states a tied head, but {first_few(alike)} are different parameters"
        return failed(TYING_FORGOTTEN, evidence)
    if stated is False and tied:
        evidence = f"{' and '.join(tied)} are one parameter, although the configuration states that they are not tied"
        return failed(TYING_UNASKED, evidence)
    as_stated = "" if stated is None else ", as the configuration states"
    return passed(f"{'one matrix for embedding and head' if tied else 'embedding and head are separate'}{as_stated}")


# ----- learns

STEP_FAILS = Cause("the gradient cannot flow", "call loss.backward() by hand, and read the error")
LOSS_NOT_FINITE = Cause(
    "the loss is not finite: cause not known", "see answers and lengths; a smaller learning rate", vague=True
)
CANNOT_LEARN = Cause(
    "it cannot learn even one batch by heart: something between weights and loss is cut, saturated or not shifted",
    "see the other findings first",
    vague=True,
)


@check("learns", needs=("answers", "gradients"))
def learns(p: Patient) -> Verdict:
    """It can overfit one small batch, and leaves the batch unchanged."""
    trainable, T = [x for x in p.parameters.values() if x.requires_grad], min(16, p.block)
    if reason := cannot_be_trained(p, trainable, T):
        return skipped(reason)
    try:
        if p.mode != "targets" and writes_while_training(p):
            return failed(WRITES_INTO_INPUT, "in training mode, and only there, the call changes the caller's ids")
        losses = overfit(p, p.ids(ROWS, T + 1, seed=3), trainable)
    except ModelError as error:
        return failed(STEP_FAILS, f"a training step fails: {error}", error.where)
    lowest, steps = min(losses[-5:]), len(losses)
    evidence = f"one batch of {ROWS} x {T} random tokens: loss {losses[0]:.2f} to {lowest:.2f} in {steps} steps"
    if not math.isfinite(losses[-1]):
        with torch.no_grad(), p.in_mode(True):  # with the weights that it began with: it may have grown large since
            cause, line = first_overflow(p, p.ids(ROWS, T + 1, seed=3)[:, :-1]) or (LOSS_NOT_FINITE, "")
        return failed(cause, evidence, line)
    if lowest < LEARNED * losses[0] or lowest < LEARNED_ANYWAY:
        return passed(evidence)
    if steps <= TOO_FEW_STEPS:
        return skipped(evidence, Reason.TOO_SLOW)
    spread = logits_spread(p)
    if spread < FAINT_LOGITS:
        return skipped(f"{evidence}; its logits are scaled down (standard deviation {spread:.2g}): it would take more steps")
    return failed(CANNOT_LEARN, evidence)


@torch.no_grad()
def logits_spread(p: Patient) -> float:
    """Return the standard deviation of the logits, with perturbed weights."""
    with perturbed(p):
        return p.logits(p.ids(ROWS, p.T)).std().item()


def cannot_be_trained(p: Patient, trainable: Sequence[Tensor], T: int) -> str:
    """Return why training on one batch would show nothing, "" if it would."""
    if not trainable:
        return "nothing in it can be trained"
    if p.mode == "prefixes":
        return "it answers for the last position only"
    if len(trainable) < MOSTLY_TRAINABLE * len(p.parameters):
        return "much of it is frozen"
    if T < 2 or p.vocab < 2:
        return "too small a task"
    if not depends_on_context(p):
        return "it does not see the context that the next token depends on"
    return "" if logits_carry_gradient(p) else "no gradient reaches its weights"


@torch.no_grad()
def writes_while_training(p: Patient) -> bool:
    """Whether a few calls in training mode change the ids they were given."""
    ids = p.ids(ROWS, p.T)
    given = ids.clone()
    with p.in_mode(True), perturbed(p):
        for number in range(3):  # it may not write every time
            set_seed(number)
            p.call_as_is(given, **p.extra)
    return not torch.equal(ids, given)


def overfit(p: Patient, ids: Tensor, trainable: Sequence[Tensor]) -> list[float]:
    """Return the losses of training on one batch (B, T + 1), until it is known by heart. The weights are put back."""
    state = [(t, t.detach().clone()) for t in p.all_tensors().values()]
    width = min((x.shape[-1] for x in trainable if x.dim() == 2), default=NARROW)
    adam, began, losses = Adam(trainable, RATE if width <= NARROW else RATE_WIDE), time.perf_counter(), []
    try:
        with p.in_mode(True), torch.enable_grad():
            for _ in range(STEPS):
                logits = p.logits(ids[:, :-1], ids[:, 1:] if p.interface.both else None)
                loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
                losses.append(loss.item())
                known = losses[-1] < KNOWN_BY_HEART * losses[0]
                if known or not math.isfinite(losses[-1]) or time.perf_counter() - began > STEP_SECONDS:
                    break
                with model_code():
                    grads = torch.autograd.grad(loss, trainable, allow_unused=True)
                adam.step(grads)
    finally:
        with torch.no_grad():
            for tensor, value in state:  # forward may have put others in the place of some
                tensor.data.copy_(value)
                tensor.grad = None
    return losses


class Adam:
    """Adam with betas of 0.9 and 0.95; torch.optim would import the compiler, for seconds."""

    def __init__(self, weights: Sequence[Tensor], rate: float):
        self.weights, self.rate, self.steps = weights, rate, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in weights]

    @torch.no_grad()
    def step(self, grads: tuple[Tensor | None, ...]) -> None:
        self.steps += 1
        unbiased = (1 - 0.95**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for x, grad, (first, second) in zip(self.weights, grads, self.moments, strict=True):
            if grad is not None:
                first.lerp_(grad, 0.1)
                second.lerp_(grad.square(), 0.05)
                x.sub_(self.rate * unbiased * first / (second.sqrt() + 1e-8))
