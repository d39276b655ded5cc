"""What happens while a model is trained, as events; and what a backward pass compares with what.

The graph of a loss says which logits it compares with which targets, at the operation that picks the target's log-probability.
During the backward pass the gradient there is, with a minus, how much each token counts in what is minimised: 1 / N for a mean
of N tokens, 1 for a sum, 1 / (kN) for one of k micro-batches. So a loss is understood whoever wrote it, and however.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .answers import document_starts
from .patient import tensors_in
from .probes import COMPARED_ROWS, SAME_LOGITS, SAME_LOSS, SAME_POSITION, SAME_ROW, SAME_WEIGHT, SIGNATURE

ALL_PAIRS = 4_000_000  # of a loss's rows and a model's positions: of more, a sample is compared
GRAPH = 50_000  # nodes of a graph that are looked at
NEAR_TERM = 40  # of them, those of a term of the loss, before those of the model
NEAR_LOSS = 200  # of them, those of the loss itself: an activation of the model comes later
HEADS = 8  # predictions of one pass: more are parts of a loss that is computed piece by piece
SHIFTS = (1, 0, 2, -1, 3)  # of targets against the ids, the right one first


@dataclasses.dataclass(eq=False)
class Event:
    """Something that training code did."""

    call: int = dataclasses.field(default=0, init=False)  # which call of the code that was examined


@dataclasses.dataclass(eq=False)
class Mark(Event):
    """A call without details: unscale, scaler step, schedule."""

    kind: str


@dataclasses.dataclass(eq=False)
class Clip(Event):
    most: float  # the largest norm allowed
    with_gradient: int  # of the parameters that it was given
    norm: float  # of the model's gradients when it began
    clipped: set[int] = dataclasses.field(default_factory=set)  # ids of the parameters that it was given


@dataclasses.dataclass(eq=False)
class Step(Event):
    """An optimizer's step, as it began."""

    optimizer: torch.optim.Optimizer
    gradient: bool  # whether any of its parameters had one other than 0
    norm: float
    rates: tuple[float, ...]
    begun: bool  # whether it had a state before: moments, a count of steps
    counts: tuple[int, ...]  # last_epoch of its schedulers
    norms: dict[int, float] = dataclasses.field(default_factory=dict)  # as the last backward pass's, when it began
    wraps: bool = False  # whether it called another optimizer's step: look-ahead, one rule for matrices and one for the rest
    held: set[int] = dataclasses.field(default_factory=set)  # ids of the optimizer's parameters, which may be more later
    moved: set[int] = dataclasses.field(default_factory=set)  # ids of those that it left other than they were at the beginning
    still: list[tuple[Tensor, float]] = dataclasses.field(default_factory=list)  # parameters without one, and their norms
    with_gradient: set[int] = dataclasses.field(default_factory=set)  # ids of parameters with one other than 0
    idle: dict[int, float] = dataclasses.field(default_factory=dict)  # by id of those without one that it changed: the factor


@dataclasses.dataclass(eq=False)
class Forward(Event):
    """A forward pass of an outermost module."""

    module: nn.Module
    modes: dict[str, bool]  # whether each module inside it was in training mode
    graph: bool  # whether a graph was built
    ids: Tensor | None
    inputs: tuple | None  # arguments
    rng_before: int
    rng_after: int = 0
    other_weights: bool = False  # whether the weights are no longer those that the last optimizer step left
    used: bool = False  # whether torch.autograd.grad was called after it: its graph is not for nothing
    changes_weights: bool = False  # whether it changed them itself: a model that normalises its weights
    weights: tuple[float, ...] = ()  # the sums of a few, if there was a graph
    key: int = 0  # of the ids: equal for equal ones
    logits: Tensor | None = None  # (B, T, V), or whatever the module returned that may be them
    node: Any = None  # of the graph, where these are
    reached: Tensor | None = None  # (B, T), whether a gradient came back to them
    nodes: list[Any] = dataclasses.field(default_factory=list)  # of the graph, where its answers are
    drops: dict[int, list[float]] = dataclasses.field(
        default_factory=dict
    )  # by a module's id: p of each dropout, 0 if it is off
    numbers_before: dict[str, float] = dataclasses.field(default_factory=dict)  # among the attributes of its modules
    numbers_after: dict[str, float] = dataclasses.field(default_factory=dict)

    training = property(lambda self: self.modes[""])

    def see(self, answer: Any, rng_after: int) -> None:
        """Note the answer."""
        self.rng_after = rng_after
        if self.ids is not None:
            self.key = hash((tuple(self.ids.shape), bytes(str(self.ids.tolist()), "ascii")))
        found = [t for t in tensors_in(answer) if t.is_floating_point() and t.dim() in (2, 3)]
        self.graph = self.graph and any(t.requires_grad for t in tensors_in(answer))
        self.logits, self.node = (found[0].detach(), found[0].grad_fn) if found else (None, None)
        self.nodes = [t.grad_fn for t in tensors_in(answer) if t.grad_fn is not None]

    def watch_logits(self) -> None:
        """Note, in the backward pass, at which positions a gradient comes back to the logits."""
        shape = None if self.logits is None else self.logits.shape

        def note(gradients: tuple[Tensor | None, ...]) -> None:
            for gradient in gradients:
                if gradient is not None and gradient.shape == shape:
                    self.reached = (gradient != 0).any(dim=-1)

        if self.node is not None and shape is not None and len(shape) == 3:
            self.node.register_prehook(note)

    @property
    def given(self) -> dict[str, Any]:
        """Its arguments by name, as far as they are known."""
        args, kwargs = self.inputs or ((), {})
        try:
            return dict(inspect.signature(self.module.forward).bind_partial(*args, **kwargs).arguments) | kwargs
        except (TypeError, ValueError):
            return dict(kwargs)

    def forget(self) -> None:
        """Let go of large tensors."""
        self.logits = self.inputs = self.node = None
        self.nodes = []


@dataclasses.dataclass(eq=False)
class Backward(Event):
    loss: float
    forwards: list[Forward]  # since the backward pass before
    rates: tuple[float, ...]
    scale: float  # of a GradScaler
    picks: list[Pick] = dataclasses.field(default_factory=list)
    parameters: list[Tensor] = dataclasses.field(default_factory=list)
    closely: bool = True  # whether to find out which positions are compared
    reached: set[int] = dataclasses.field(default_factory=set)  # ids of parameters that have a gradient afterwards
    before: bool = False  # whether a gradient other than 0 was there already
    added: bool = False  # whether it added to such a gradient: another model's may be there
    old: list[tuple[Tensor, Tensor, int]] = dataclasses.field(default_factory=list)  # these gradients, while it runs
    norm: float = 0.0  # of all gradients, afterwards
    norms: dict[int, float] = dataclasses.field(default_factory=dict)  # of a few, by their parameters' ids
    weight: float | None = None  # what all tokens together count in what is minimised, without the GradScaler's factor
    counted: int = 0  # tokens that count
    rows: int = 0  # tokens that the loss was computed for
    weighted: int = 0  # of these, those that count more than 0
    alone: bool = False  # whether there is nothing in the loss but these tokens
    both: bool = False  # whether some tokens are to become likelier, and some less likely: advantages, pairs
    empty: bool = False  # whether it is a mean over no token at all
    width: int = 0  # of the rows of (log-)probabilities that it picks from: the vocabulary, or a classifier's classes
    divided: Divided | None = None  # what a masked sum is divided by
    in_step: bool = False  # whether it was called by the optimizer's step, in a closure
    seen: Comparison | None = None  # of its one pick
    heads: list[int | None] = dataclasses.field(default_factory=list)  # the shift of each of several picks of one pass
    compared: list[Comparison] = dataclasses.field(default_factory=list)  # of each pick, where each has a pass of its own
    terms: list[Term] = dataclasses.field(default_factory=list)  # sums and means that the loss is a sum of
    margins: list[Tensor] = dataclasses.field(default_factory=list)  # (N,) what a log-sigmoid on the way to the loss was given

    def look(self) -> None:
        """Find out how the loss was made, while logits and graph are there; then let go of them."""
        picks = [pick for pick in self.picks if pick.weights is not None]
        if picks:
            self.width = widest = max(pick.rows.shape[-1] for pick in picks)
            picks = [pick for pick in picks if pick.rows.shape[-1] == widest]  # others pick among experts, positions and so on
            self.weight = sum(float(pick.of_logs().sum()) for pick in picks) / self.scale
            self.counted = sum(int(pick.counts.sum()) for pick in picks)
            signs = [w.sign().unique() for pick in picks if len(w := pick.of_logs())]
            self.both = bool(signs) and {-1.0, 1.0} <= set(torch.cat(signs).tolist())
            finite = all(bool(pick.rows.isfinite().all()) for pick in picks)
            nothing = not self.counted or all(bool(pick.of_logs().isnan().all()) for pick in picks)  # 0 / 0
            self.empty = not math.isfinite(self.loss) and finite and nothing
            if len(picks) == 1 and self.forwards and self.closely:
                fed = next((f for f in reversed(self.forwards) if f.ids is not None), None)
                ids = None if fed is None else fed.ids
                logits = next((f.logits for f in reversed(self.forwards) if f.logits is not None), None)
                self.seen = compare(picks[0], ids, logits)
                self.compared = [self.seen]
                if fed is not None and self.seen.ids is not None:
                    given, ids = fed.given, self.seen.ids
                    self.seen.starts, self.seen.told_by = document_starts(given, ids)
                    mask = given.get("attention_mask")
                    if isinstance(mask, Tensor) and mask.numel() == ids.numel():
                        self.seen.mask = mask.cpu().reshape(ids.shape) != 0
                self.rows, self.weighted = len(picks[0].rows), int(picks[0].of_logs().count_nonzero())
                mean = picks[0].weighted_mean()
                exact = picks[0].rows.dtype in (torch.float32, torch.float64)
                self.alone = math.isclose(self.loss / self.scale, mean, rel_tol=SAME_LOSS if exact else SAME_WEIGHT)
            elif self.closely and picks and all(len(pick.forwards) < 2 for pick in picks):
                inside = self.forwards[0] if len(self.forwards) == 1 else None  # the model itself computes its loss
                known = [pick.forwards[0] if pick.forwards else inside for pick in picks]
                passes = [f for f in known if f is not None]  # several predictions of one pass may be of other tokens
                if len(passes) < len(picks):
                    return self._let_go()
                if len({id(f) for f in passes}) == len(passes):
                    self.compared = [compare(pick, f.ids, f.logits) for pick, f in zip(picks, passes, strict=True)]
                elif len({id(f) for f in passes}) == 1 and len(picks) <= HEADS:
                    self.heads = [compare(pick, passes[0].ids, passes[0].logits).shift for pick in picks]
        self._let_go()

    def _let_go(self) -> None:
        self.picks, self.parameters = [], []
        for forward in self.forwards:
            forward.nodes, forward.node = [], None


@dataclasses.dataclass
class Divided:
    """A sum over tokens that a mask of zeros and ones chooses from, divided by one number."""

    by: float
    chosen: float  # ones in the mask
    of: int  # numbers in it
    emptied: int  # rows of it that are all 0


def divided(loss: Tensor) -> Divided | None:
    """Return what a loss, (each * mask).sum() / n, is divided by, beside its mask; None if it is made otherwise."""
    node, by = loss.grad_fn, 1.0
    while node is not None and not node.name().startswith("SumBackward"):
        name, other = node.name(), getattr(node, "_saved_other", None)
        if name not in ("DivBackward0", "MulBackward0", "NegBackward0") or (name != "NegBackward0" and not is_number(other)):
            return None
        by *= 1.0 if other is None else float(other) if name == "DivBackward0" else 1 / (float(other) or math.inf)
        node = next((child for child, _ in node.next_functions if child is not None), None)
    node = node.next_functions[0][0] if node is not None else None
    if node is None or node.name() != "MulBackward0" or not math.isfinite(by):
        return None
    for mask in (getattr(node, "_saved_other", None), getattr(node, "_saved_self", None)):
        if isinstance(mask, Tensor) and mask.dim() == 2 and not mask.requires_grad and bool(((mask == 0) | (mask == 1)).all()):
            return Divided(by, float(mask.sum()), mask.numel(), int((mask == 0).all(dim=1).sum()))
    return None


@dataclasses.dataclass
class Term:
    """A sum or mean, other than that of the tokens' log-probabilities, that is added to a loss."""

    shape: tuple[int, ...]  # of what is summed
    by: float  # what the sum is divided by
    times: float  # what it is multiplied by
    expected: bool  # whether it sums over a distribution: numbers times probabilities, as in an entropy or a divergence


def terms_of(loss: Tensor, forwards: list[Forward]) -> list[Term]:
    """Return the terms of a loss that are sums or means, times numbers, of something made of the logits of forward passes."""
    found: list[Term] = []
    queue: list[tuple[Any, float, float, tuple[int, ...]]] = [(loss.grad_fn, 1.0, 1.0, ())]
    logits = {f.node for f in forwards if f.node is not None}
    for _ in range(NEAR_LOSS):
        if not queue:
            break
        node, by, times, shape = queue.pop()
        name = node.name() if node is not None else ""
        other: Any = getattr(node, "_saved_other", None)
        inner = [child for child, _ in getattr(node, "next_functions", ()) if child is not None]
        if name.startswith(("SumBackward", "MeanBackward")):
            sizes = tuple(node._saved_self_sym_sizes)
            dims = [signed(d) for d in getattr(node, "_saved_dim", None) or range(len(sizes))]
            by *= math.prod(sizes[d] for d in dims) if name.startswith("Mean") else 1
            queue += [(child, by, times, sizes) for child in inner]
        elif name in ("AddBackward0", "SubBackward0", "NegBackward0") and (not shape or name == "NegBackward0"):
            queue += [(child, by, times * signed(getattr(node, "_saved_alpha", 1)), shape) for child in inner]
        elif name == "DivBackward0" and is_number(other):
            queue += [(child, by * float(other), times, shape) for child in inner]
        elif name == "MulBackward0" and is_number(other):
            queue += [(child, by, times * float(other), shape) for child in inner]
        elif shape and by and math.isfinite(by):
            behind = list(near(node, NEAR_TERM))
            if logits & set(behind) and not any(pick_at(n) for n in behind):
                found.append(Term(shape, by, times, is_expectation(node)))
    return found


def near(node: Any, most: int = NEAR_LOSS) -> Iterator[Any]:
    """Yield the nodes that a node of a graph goes back to, the nearest ones first."""
    queue, known = [node], {node}
    for _ in range(most):
        if not queue:
            return
        node = queue.pop(0)
        yield node
        more = [child for child, _ in node.next_functions if child is not None and child not in known]
        known.update(more)
        queue += more


def is_expectation(node: Any) -> bool:
    """Whether what a sum is given is numbers times probabilities, at most by way of a difference: of an entropy, of a
    divergence."""
    for inner in near(node, 4):
        for factor in (getattr(inner, "_saved_other", None), getattr(inner, "_saved_self", None)):
            if inner.name() == "MulBackward0" and isinstance(factor, Tensor) and factor.dim() > 1 and factor.numel():
                sums = factor.detach().float().sum(-1)
                if factor.shape[-1] > 1 and bool(factor.min() >= 0) and bool((sums - 1).abs().max() < SAME_WEIGHT):
                    return True
    return False


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


# ----- what a loss picks


@dataclasses.dataclass
class Pick:
    """The operation of a loss that picks, from each row of (log-)probabilities or logits, the one of the target."""

    kind: str  # nll, or gather
    rows: Tensor  # (N, V)
    targets: Tensor  # (N,)
    ignore: int | None
    largest_sum: int  # elements of the largest tensor that is summed on the way to the loss
    sign: int = 1  # -1 if it picked among -log_softmax(logits); the rows are the log-probabilities all the same
    weights: Tensor | None = None  # (N,), how much each counts; known after the backward pass
    forwards: list[Forward] = dataclasses.field(default_factory=list)  # that the rows come from, where there are several picks

    @property
    def counts(self) -> Tensor:
        """(N,), whether a target is not ignored."""
        return self.targets != self.ignore if self.ignore is not None else torch.ones_like(self.targets, dtype=torch.bool)

    def of_logs(self) -> Tensor:
        """(N,), how much the log-probability of each target counts: of probabilities p, p times as much as p itself does."""
        assert self.weights is not None
        if (
            self.kind == "gather"
            and bool(self.rows.min() >= 0)
            and bool((self.rows.float().sum(-1) - 1).abs().max() < SAME_WEIGHT)
        ):
            return self.weights * self.rows.float().gather(-1, self.targets[:, None]).squeeze(-1)
        return self.weights

    def weighted_mean(self) -> float:
        """Return what the loss is if it is made of nothing but the tokens' cross-entropies."""
        assert self.weights is not None
        targets = self.targets.clamp(min=0)[:, None]
        return -float((self.weights * self.rows.float().log_softmax(-1).gather(-1, targets).squeeze(-1)).sum())


def picks_of(loss: Tensor, forwards: list[Forward]) -> tuple[list[Pick], list[Forward]]:
    """Return the picks in a loss's graph, watched from now on, and the forward passes that the graph goes back to."""
    found, parents, queue, seen = [], {}, [loss.grad_fn], 0
    answers = {node: forward for forward in forwards for node in forward.nodes}
    reached: dict[int, Forward] = {}
    while queue and seen < GRAPH:
        node = queue.pop()
        if node is None:
            continue
        seen += 1
        if (pick := pick_at(node)) is not None:
            found.append((node, pick))
        if node in answers:
            reached[id(answers[node])] = answers[node]
        for child, _ in node.next_functions:
            if child is not None and child not in parents:
                parents[child] = node
                queue.append(child)
    outer = [(node, pick) for node, pick in found if not any(n in parents_of(node, parents) for n, _ in found)]
    for node, pick in outer:
        pick.largest_sum = largest_sum(node, parents)
        node.register_prehook(weigh(pick, node))
        if len(outer) > 1:
            pick.forwards = passes_behind(node, answers)
    return [pick for _, pick in outer], [f for f in forwards if id(f) in reached] or forwards


def passes_behind(node: Any, answers: Mapping[Any, Forward]) -> list[Forward]:
    """Return the forward passes whose answers are the first that a node of a graph goes back to."""
    found, queue, known = {}, [node], {node}
    while queue and len(known) < GRAPH:
        node = queue.pop()
        if node in answers:
            found[id(answers[node])] = answers[node]
            continue
        more = {child for child, _ in node.next_functions if child is not None} - known
        known |= more
        queue += more
    return list(found.values())


def margins_of(loss: Tensor) -> list[Tensor]:
    """Return what log-sigmoids (or softplus) on the way to a loss were given: the margins of preferences, of few numbers."""
    found = []
    for node in near(loss.grad_fn) if loss.grad_fn is not None else ():
        if node.name().startswith(("LogSigmoidBackward", "SoftplusBackward")):
            sign = 1 if node.name().startswith("LogSigmoid") else -1  # softplus(-x) is -logsigmoid(x)
            found.append(sign * node._saved_self.detach().clone())
    return found


def parents_of(node: Any, parents: Mapping[Any, Any]) -> set[Any]:
    """Return the nodes between a node and the loss."""
    above = set()
    while (node := parents.get(node)) is not None:
        above.add(node)
    return above


def pick_at(node: Any) -> Pick | None:
    """Return the pick that a node of a graph is, if it is one."""
    name = node.name()
    if name == "NllLossBackward0":
        rows, targets = node._saved_self, node._saved_target
        return Pick("nll", rows.detach().reshape(-1, rows.shape[-1]), targets.reshape(-1), signed(node._saved_ignore_index), 0)
    if name == "NllLoss2DBackward0":
        rows = node._saved_self.detach().movedim(1, -1)  # (B, V, 1, T) -> (B, 1, T, V)
        return Pick("nll", rows.flatten(0, -2), node._saved_target.flatten(), signed(node._saved_ignore_index), 0)
    if name == "GatherBackward0":
        rows, index, dim = node._saved_self, node._saved_index, signed(node._saved_dim)
        if index.dim() == rows.dim() and index.shape[dim] == 1 and rows.numel() // rows.shape[dim] == index.numel():
            rows = rows.detach().movedim(dim, -1).reshape(-1, rows.shape[dim])
            sign = -1 if are_negated_logs(rows) else 1
            return Pick("gather", sign * rows, index.reshape(-1), None, 0, sign)
    return None


def are_negated_logs(rows: Tensor) -> bool:
    """Whether rows are log-probabilities with a minus: -log_softmax(logits), of which a loss picks and takes the mean."""
    if not rows.numel() or bool(rows.min() < 0):
        return False
    return bool((-rows.float()).logsumexp(-1).abs().max() < SAME_ROW / 10)


def signed(number: int) -> int:
    """Return a number that autograd shows without its sign."""
    return number - 2**64 if number >= 2**63 else number


def largest_sum(node: Any, parents: Mapping[Any, Any]) -> int:
    """Return how many elements the largest sum or mean between a node and the loss runs over."""
    largest = 0
    while node is not None:
        if node.name().startswith(("SumBackward", "MeanBackward")):
            largest = max(largest, math.prod(node._saved_self_sym_sizes))
        node = parents.get(node)
    return largest


def weigh(pick: Pick, node: Any):
    """Return a hook that notes how much each row counts."""
    reduction = getattr(node, "_saved_reduction", None)  # 0 none, 1 mean, 2 sum

    def hook(gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[0]
        if gradient is None:
            return
        gradient = gradient.detach().float()
        if pick.kind == "gather":
            pick.weights = -pick.sign * gradient.reshape(-1)
        elif reduction == 0:
            pick.weights = gradient.reshape(-1) * pick.counts
        else:
            count = pick.counts.sum().clamp(min=1) if reduction == 1 else 1
            pick.weights = gradient.reshape(()) / count * pick.counts

    return hook


# ----- what it compares


@dataclasses.dataclass
class Comparison:
    """Which logits a loss compares with which tokens of the model's input."""

    rows: str  # what its rows are: "logits", "probabilities", "mixed" axes, "doubled" softmax, "not logs"; "" if not known
    shift: int | None  # target of position t is token t + shift; None if none of SHIFTS fits
    share: float  # of the targets that fit that shift
    compared: int  # targets that could be compared
    near: int | None  # the shift that fits best, even if it fits in part only
    order: bool  # whether rows and targets come in the same order
    tokens: int  # rows that count
    summed: int  # elements of the largest sum on the way to the loss
    positions: int  # T
    ignored: int  # rows that do not count
    ids: Tensor | None = None  # (B, T)
    weights: Tensor | None = None  # (B, T), how much each token of the ids counts as a target; None if not known of all
    logs: Tensor | None = None  # (B, T), the log-probability of each of them, 0 where it does not count
    next_row: str = ""  # the last token of each row has the first of the next as its target, and that of the last row "wraps"
    # round to the first, is "left out", or is "another"
    starts: Tensor | None = None  # (B, T), where packed documents begin inside a row
    told_by: str = ""  # the argument that says so
    mask: Tensor | None = None  # (B, T), False where an attention mask says that there is padding


def compare(pick: Pick, ids: Tensor | None, logits: Tensor | None) -> Comparison:
    """Find out which positions the rows of a pick come from, and which tokens the targets are."""
    counts = pick.counts
    result = Comparison("", None, 0.0, 0, None, True, int(counts.sum()), pick.largest_sum, 0, int((~counts).sum()))
    if ids is None:
        return result
    B, T = ids.shape
    N = len(pick.rows)
    where, result.rows = positions_of(pick, logits, ids)
    canonical = standard_positions(N, B, T)
    result.positions = T
    weighted = counts & (pick.of_logs() != 0) if pick.weights is not None else counts  # where a mask is 0 any target may stand
    chosen = sample((weighted if weighted.any() else counts).nonzero().flatten())
    best = best_shift(ids, where, pick.targets, chosen) if where is not None else None
    if best is None or best[1] < SAME_ROW:
        straight = [best_shift(ids, places, pick.targets, chosen) for places in canonical]
        fitting = next((b for b in straight if b is not None and b[1] >= SAME_ROW), None)
        if fitting and where is not None and result.rows == "logits":
            result.order = False  # the targets are in order, and the rows are in another one
            return result
        if where is None:
            best = fitting or next((b for b in straight if b is not None), None)
        where = where if where is not None else next((w for w, b in zip(canonical, straight, strict=True) if b == best), None)
    if best is not None:
        result.shift, result.share, result.compared = best
        result.ids, result.weights, result.logs = ids.cpu(), *targets_among(ids, where, pick, best[0])
        result.next_row = of_next_row(ids, where, pick) if best[0] == 1 else ""
        result.near = best[0]
        if result.share < SAME_ROW:
            result.shift = None
    return result


def targets_among(ids: Tensor, where: Tensor | None, pick: Pick, shift: int) -> tuple[Tensor | None, Tensor | None]:
    """Return (B, T), how much each token of the ids counts as a target, and its log-probability, if the position (N, 2) of each
    row is known."""
    if where is None or bool((where < 0).any()):
        return None, None
    where = where.cpu() + torch.tensor([0, shift])
    counts = pick.counts.cpu() & (where[:, 1] >= 0) & (where[:, 1] < ids.shape[1])
    weights, logs = torch.zeros(ids.shape), torch.zeros(ids.shape)
    at = where[counts, 0], where[counts, 1]
    weights[at] = pick.of_logs().float().cpu()[counts]
    targets = pick.targets.clamp(min=0)[:, None]
    logs[at] = pick.rows.float().log_softmax(-1).gather(-1, targets).squeeze(-1).cpu()[counts]
    return weights, logs * (weights != 0)


def of_next_row(ids: Tensor, where: Tensor | None, pick: Pick) -> str:
    """Return Comparison.next_row, "" if the target of some row's last token is not the first of the next row."""
    if where is None or len(ids) < 2:
        return ""
    where, ids = where.cpu(), ids.cpu()
    last = (where[:, 1] == ids.shape[1] - 1) & (where[:, 0] >= 0) & pick.counts.cpu()
    rows, targets = where[last, 0].tolist(), pick.targets.cpu()[last].tolist()
    of_row = dict(zip(rows, targets, strict=True))
    if any(of_row.get(row) != int(ids[row + 1, 0]) for row in range(len(ids) - 1)):
        return ""
    final = of_row.get(len(ids) - 1)
    return "left out" if final is None else "wraps" if final == int(ids[0, 0]) else "another"


def sample(rows: Tensor) -> Tensor:
    """Return some of these rows, evenly spread."""
    return rows if len(rows) <= COMPARED_ROWS else rows[torch.linspace(0, len(rows) - 1, COMPARED_ROWS).long()]


def standard_positions(N: int, B: int, T: int) -> list[Tensor]:
    """Return the usual ways, (N, 2) each, in which N rows come from (B, T): all, but for the last or first, transposed, or all
    in a row but for the last."""
    grid = torch.stack(torch.meshgrid(torch.arange(B), torch.arange(T), indexing="ij"), dim=-1)  # (B, T, 2)
    ways = [grid, grid[:, :-1], grid[:, 1:], grid[:, -1:], grid.transpose(0, 1), grid[:-1], grid.transpose(0, 1)[:-1]]
    ways = [way.reshape(-1, 2) for way in ways]
    return [way for way in (*ways, ways[0][:-1]) if len(way) == N]


def signature(rows: Tensor) -> Tensor:
    """(N, V) -> (N, S): a few differences of entries, the same for logits and their log-probabilities."""
    V = rows.shape[-1]
    columns = torch.linspace(0, V - 1, min(V, SIGNATURE)).long().unique()
    picked = rows[:, columns.to(rows.device)].float()
    return picked - picked.mean(dim=1, keepdim=True)


def positions_of(pick: Pick, logits: Tensor | None, ids: Tensor) -> tuple[Tensor | None, str]:
    """Return (N, 2), the position in ids (B, T) of each row, and what the rows are. None if the logits do not tell.

    Of several positions with the same logits, rows that begin alike, say, it is one that the target follows.
    """
    (B, T), V = ids.shape, pick.rows.shape[-1]
    if logits is None or logits.numel() != B * T * V:
        return None, ""
    flat = logits.reshape(-1, V).float()
    if logits.dim() == 3 and logits.shape[1] == V and logits.shape[2] == T != V:  # (B, V, T)
        flat = logits.transpose(1, 2).reshape(-1, V).float()
    already = bool((flat.min() >= 0) and ((flat.sum(-1) - 1).abs().max() < SAME_ROW / 100))
    rows, N = pick.rows.float(), len(pick.rows)
    some = sample(torch.arange(N))
    mine = signature(rows[some])
    for kind, candidates in kinds_of_rows(flat, logits, V):
        theirs = signature(candidates)
        scale = float(theirs.std()) + 1e-12
        for way in standard_positions(N, B, T):
            index = (way[:, 0] * T + way[:, 1])[some]
            if float((theirs[index] - mine).abs().max()) < SAME_LOGITS * scale:
                return (None, kind) if kind == "mixed" else (way, judged(kind, already, pick, rows))
        if kind == "logits" and len(flat) >= N:  # a mask, or another order
            if N * len(flat) <= ALL_PAIRS:
                some, mine = torch.arange(N), signature(rows)
            distances = torch.cdist(mine, theirs)
            distance, index = distances.min(dim=1)
            if float(distance.max()) < SAME_LOGITS * scale:
                follows = F.pad(ids[:, 1:], (0, 1), value=-1).flatten() == pick.targets[some].to(ids.device)[:, None]
                fits = (distances <= 2 * distance[:, None] + SAME_POSITION * scale) & follows.to(distances.device)  # (N, B·T)
                index = torch.where(fits.any(1), fits.int().argmax(1), index)
                where = torch.full((N, 2), -1)
                where[some] = torch.stack((index // T, index % T), dim=1).cpu()
                return where, judged(kind, already, pick, rows)
    return None, ""


def kinds_of_rows(flat: Tensor, logits: Tensor, V: int) -> list[tuple[str, Tensor]]:
    """Return what the rows of a loss may be made of: logits, their probabilities, logits with axes mixed by a view."""
    found = [("logits", flat), ("probabilities", flat.softmax(-1))]
    if logits.dim() == 3:
        found.append(("mixed", logits.transpose(1, 2).reshape(-1, V).float()))  # (B, V, T) read as (B·T, V)
        found.append(("mixed", logits.transpose(0, 1).transpose(1, 2).reshape(-1, V).float()))
    return found


def judged(kind: str, already: bool, pick: Pick, rows: Tensor) -> str:
    """Return what rows are once it is known that they differ from logits, or from probabilities, by a constant only."""
    sums = rows.logsumexp(-1).abs().max() < SAME_ROW / 10  # log-probabilities
    if pick.kind == "nll" and not sums:
        return "not logs"
    if already:
        return "doubled"
    return "doubled" if kind == "probabilities" and sums else kind


def best_shift(ids: Tensor, where: Tensor, targets: Tensor, rows: Tensor, down: bool = True) -> tuple[int, float, int] | None:
    """Return (shift, share, compared): the shift along a row of ids for which most targets are the ids' tokens.

    Ids may also run `down` the columns (time first).
    """
    best = None
    where, targets, rows = where.to(ids.device), targets.to(ids.device), rows.to(ids.device)
    next_ones = int((where[rows, 1] + 1 < ids.shape[1]).sum())  # targets that could be found in the ids
    for axis in (1, 0) if down else (1,):
        for shift in SHIFTS:
            places = where[rows].clone()
            known = places[:, 0] >= 0
            places[:, axis] += shift
            inside = known & (places[:, axis] >= 0) & (places[:, axis] < ids.shape[axis])
            if 2 * int(inside.sum()) < len(rows):  # the few that are left may fit by chance
                continue
            tokens = ids[places[inside, 0], places[inside, 1]]
            share = float((tokens == targets[rows][inside]).float().mean())
            if best is None or share > best[1] + 1e-9:
                best = (shift, share, int(inside.sum()))
        if best is not None and best[1] >= SAME_ROW:
            break
    return None if best is not None and best[1] < SAME_ROW and 2 * next_ones < len(rows) else best
