"""Checks of the frame: it can be called, answers in the right form, changes nothing, repeats itself, keeps rows apart."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .patient import (
    CONFIGS,
    GOLDEN,
    ROWS,
    Interface,
    ModelError,
    Patient,
    attribute,
    detect_interface,
    how_to_adapt,
    model_code,
    set_seed,
    unregistered_tensors,
)
from .probes import (
    ALL_TOKENS,
    DROPS_TOO_MUCH,
    LARGEST_USED,
    OTHER_KERNEL,
    PROBABILITIES,
    SOME_ZEROS,
    STILLED,
    Overflows,
    block_stack,
    has_module,
    is_batch_norm,
    largest_change,
    layer_stacks,
    module_answers,
    named_module,
    other_weights,
    parting,
    perturbed,
    perturbed_tape,
    perturbed_weights,
    row_effects,
    tolerance,
    undropped,
    watch,
)
from .registry import FINITE, check
from .report import Cause, Verdict, failed, first_few, joined, number_of, passed, skipped, warned
from .tape import Stilled

# ----- called

FORWARD_FAILS = Cause("an error in its forward", "call it by hand")
ARGUMENT_MISSING = Cause("its forward needs more than ids", how_to_adapt("what is missing"))
AXIS_MISTAKEN = Cause(
    "one axis is mistaken for another: batch for time (batch_first=True?), or a mask of one fixed size", "call it by hand"
)


@check("called", essential=True)
def called(p: Patient) -> Verdict:
    """It takes ids and returns logits."""
    try:
        detect_interface(p)
        if reads_time_first(p):
            p.interface = Interface(time_first=True)
            p.memo.clear()
            detect_interface(p)
    except ModelError as error:
        text, cause = str(error.error), FORWARD_FAILS
        if "missing" in text and "argument" in text:
            cause = ARGUMENT_MISSING
        elif ("mask" in text and "shape" in text) or "must match the size" in text:
            cause = AXIS_MISTAKEN
        return failed(cause, f"it fails on ids (3, 13): {error}", error.where)
    if p.interface.time_first:
        return passed("it takes ids (T, B), time first, and returns logits (T, B, V): both are transposed here")
    return passed("it takes ids (B, T) and returns logits")


# ----- answers

NAMED = 3  # weights that hold NaN are named, the first few

AXES_TRANSPOSED = Cause("the axes are transposed", "transpose(1, 2): logits are (B, T, V)")
HEAD_TOO_SMALL = Cause("the head is too small: some tokens can never be predicted", "give the last layer vocab_size outputs")
EMBEDDING_TOO_SMALL = Cause("the embedding is too small: the last tokens crash", "nn.Embedding(vocab_size, n_embd)")
HEAD_TOO_LARGE = Cause(
    "the head is larger than the embedding: it can predict tokens that crash as input",
    "give both vocab_size rows, padded alike if at all",
)
BATCH_OF_ONE = Cause("a batch of one loses its axis (squeeze without dim?)", "no squeeze() on a tensor with a batch axis")
RELU_ON_LOGITS = Cause(
    "an activation (ReLU) on the logits: it cuts off whatever is unlikely", "no activation after the last linear layer"
)
SOFTMAX_INSIDE = Cause(
    "a softmax inside the model: cross_entropy applies another one, and the loss can hardly fall",
    "return the scores before the softmax",
)
WEIGHTS_NOT_FINITE = Cause("a training that diverged, or a broken checkpoint", "load an earlier checkpoint")


def unfilled_buffer(name: str, what: str, more: int) -> Cause:
    others = f" (like {number_of(more, 'other')})" if more else ""
    return Cause(
        f"the buffer {name}{others} is {what}: it was not filled after the model was built on meta, or emptied (to_empty), as "
        "no initialisation of weights reaches it",
        "fill it where weights are initialised (reset_parameters), or keep a number, not a tensor",
    )


LOGITS_CONSTANT = Cause(
    "all logits are the same number, whatever the tokens and the weights: they are multiplied by 0, or overwritten",
    "return what the head computes",
)
OVERFLOW = Cause("numbers overflow, or a row of an attention mask blocks everything", "find the first layer that returns NaN")


def overflows_at(where: str, how: str) -> Cause:
    exp = how.startswith("exp")
    return Cause(
        f"numbers overflow in {where}: {how}" if "infinite" in how else f"{where} makes NaN of finite numbers: {how}",
        "take the largest exponent out before exp (log-sum-exp), in a running sum too, with the maximum so far"
        if exp
        else "keep what is squared, multiplied or divided by in the range of its precision, and away from 0",
    )


def token_not_finite(token: int) -> Cause:
    return Cause(
        f"what forward computes for token {token} overflows, or divides by 0",
        f"call it on ids that hold {token} alone, and find the first layer that returns NaN",
    )


def row_blocked(rows: list[int], more: str) -> Cause:
    return Cause(
        f"the mask blocks all of row {first_few(rows)}, and the softmax of nothing is NaN{more}",
        "a position may attend to itself and the past: tril(diagonal=0), and check what True means",
    )


@check("answers", essential=True)
@torch.no_grad()
def answers(p: Patient) -> Verdict:
    """Logits are finite and of the right size."""
    if spoiled := weights_not_finite(p):  # first: it costs no call, and needs no token that happens to be drawn
        p.finite = False
        names = [name for name, x in p.model.named_buffers() if x.is_floating_point() and x.isnan().any()]
        trained = all(x.isfinite().all() for x in p.trainable_tensors().values())
        cause = unfilled_buffer(names[0], "NaN", len(names) - 1) if names and trained else WEIGHTS_NOT_FINITE
        return joined([failed(cause, spoiled), *wrong_sizes(p)])
    logits, face = p.logits(p.ids(ROWS, p.T)), p.interface
    if problems := [*wrong_sizes(p), *wrong_values(p, logits)]:
        return joined(problems)
    if face.in_vocab and face.in_vocab < face.out_vocab:
        return warned(HEAD_TOO_LARGE, f"{face.out_vocab} logits, but a table of {face.in_vocab} tokens")
    form = {"plain": "", "targets": " (all positions only when targets are given)", "prefixes": " (last position only)"}
    shape = f"({ROWS}, {p.T}, {face.out_vocab})"
    return passed(f"logits {shape}{form[p.mode]}, from {logits.min():.2f} to {logits.max():.2f}")


def wrong_sizes(p: Patient) -> Iterator[Verdict]:
    """Yield each problem with shapes."""
    face = p.interface
    need = face.claimed_vocab or 0  # a table may be padded, or hold a special token that is never predicted
    if face.axes == "BVT":
        yield failed(AXES_TRANSPOSED, f"the logits come as (B, V, T) = ({ROWS}, {face.out_vocab}, {p.T})")
    if face.out_vocab < need:
        yield failed(HEAD_TOO_SMALL, f"{face.out_vocab} logits for a vocabulary of {need}")
    if face.in_vocab and face.in_vocab < need:
        yield failed(EMBEDDING_TOO_SMALL, f"a table of {face.in_vocab} rows for a vocabulary of {need}")
    if face.in_vocab and not need and face.out_vocab < face.in_vocab:
        yield failed(HEAD_TOO_SMALL, f"{face.out_vocab} logits for a table of {face.in_vocab} tokens")
    one, three = (
        p.find_logits(p.call(x, x if p.mode == "targets" else None), len(x), p.T) for x in (p.ids(1, p.T), p.ids(ROWS, p.T))
    )
    if one is None or three is None or one.dim() != three.dim():
        shapes = [None if x is None else tuple(x.shape) for x in (one, three)]
        yield failed(BATCH_OF_ONE, f"one row gives logits {shapes[0]}, three rows {shapes[1]}")


def wrong_values(p: Patient, logits: Tensor) -> Iterator[Verdict]:
    """Yield each problem with numbers; logits are (B, T, V)."""
    zero = (logits == 0).float().mean()
    if zero > SOME_ZEROS and (logits >= 0).all() and logits.max() > 0:
        yield failed(RELU_ON_LOGITS, f"{zero:.0%} of the logits are exactly 0, and none is negative")
    if not logits.isfinite().all():
        yield not_finite(p, p.ids(ROWS, p.T), logits)
    elif p.vocab <= ALL_TOKENS and not (others := p.logits(every := all_tokens(p))).isfinite().all():
        yield not_finite(p, every, others)
    if p.interface.out_vocab > 1 and logits.min() == logits.max():  # a head that begins at 0 is meant
        with perturbed(p):
            noisy = p.logits(p.ids(ROWS, p.T))
        if noisy.min() == noisy.max():
            p.finite = False
            yield failed(LOGITS_CONSTANT, f"with other weights too, every logit is {noisy.max():g}")
    given = logits.nan_to_num(0)
    sums_to_one = (given.sum(dim=-1) - 1).abs().max() < PROBABILITIES
    if p.interface.out_vocab > 1 and given.min() >= 0 and given.max() <= 1 and sums_to_one:
        yield failed(SOFTMAX_INSIDE, "the logits of each position are probabilities: between 0 and 1, with a sum of 1")


def weights_not_finite(p: Patient) -> str:
    """Return which weights hold NaN or infinity, "" if none does. Infinity in a buffer or a frozen weight is a mask's."""
    found = []
    for name, x in (p.trainable_tensors() | dict(p.model.named_buffers())).items():
        if x.is_floating_point() and not x.isfinite().all():
            nan = x.isnan()
            bad = ~x.isfinite() if x.requires_grad else nan
            rows = bad.reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist() if x.dim() else []
            if bad.any():
                what, noun = "NaN" if nan.any() else "infinity", "row" if x.dim() > 1 else "element"
                where = f" in {noun if len(rows) == 1 else noun + 's'} {first_few(rows)} (of {len(x)})" if rows else ""
                found.append(f"{name} holds {what}{where}")
    return "; ".join(found[:NAMED]) + (f"; and {number_of(len(found) - NAMED, 'more weight')}" if len(found) > NAMED else "")


def all_tokens(p: Patient) -> Tensor:
    """Return ids (B, T) that hold every token."""
    B = -(-p.vocab // p.T)
    return (torch.arange(B * p.T, device=p.device) % p.vocab).view(B, p.T)


def not_finite(p: Patient, ids: Tensor, logits: Tensor) -> Verdict:
    """Return where logits (B, T, V) of ids (B, T) are NaN or infinite, and whether a token or an attention mask is to blame."""
    bad = (~logits.isfinite()).any(dim=2)  # (B, T)
    rows, spoiled = bad.any(dim=0).nonzero().flatten().tolist(), bad.any(dim=1)
    tokens = ids.gather(1, bad.int().argmax(dim=1, keepdim=True))[spoiled].unique().tolist()  # where each row begins to be
    if len(tokens) == 1 and p.vocab > 2 and torch.equal((ids == tokens[0]).cumsum(1) > 0, bad.cumsum(1) > 0):
        p.finite = False
        alone = torch.equal(ids == tokens[0], bad)
        where = f"of all positions that hold token {tokens[0]}" if alone else f"from each token {tokens[0]} on"
        return failed(token_not_finite(tokens[0]), f"NaN or infinity in the logits {where}")
    if problem := garbage_in_buffers(p, ids):
        p.finite = False
        return problem
    cause, tape = OVERFLOW, watch(p, ids)
    W = tape.attentions[0].weights.float().reshape(-1, p.T, p.T) if tape.attentions else torch.zeros(1, p.T, p.T)
    if W.isnan().any():
        rows = W.isnan().any(dim=0).any(dim=1).nonzero().flatten().tolist()
        excludes_self = (W[:, 1:].nan_to_num(0).diagonal(offset=1, dim1=1, dim2=2) == 0).all()
        more = ": the position itself is excluded" if rows == [0] and excludes_self else ""
        more += ": the mask's polarity is inverted" if rows == [p.T - 1] else ""
        cause = row_blocked(rows, more)
    else:
        p.finite = False
        if found := first_overflow(p, ids):
            return failed(found[0], f"NaN or infinity in the logits of positions {first_few(rows)}", found[1])
    return failed(cause, f"NaN or infinity in the logits of positions {first_few(rows)}")


def garbage_in_buffers(p: Patient, ids: Tensor) -> Verdict | None:
    """Return whether buffers hold numbers that no model computes with, and with 1 in them the logits of ids (B, T) are
    finite. Large numbers below 0 are a mask's, unless it is a single one, and not the lowest of its kind."""
    buffers = {n: x for n, x in p.model.named_buffers() if x.is_floating_point() and x.numel()}
    large = {
        n: x
        for n, x in buffers.items()
        if x.max() > LARGEST_USED or (x.numel() == 1 and torch.finfo(x.dtype).min < x.min() < -LARGEST_USED)
    }
    kept = {name: x.detach().clone() for name, x in large.items()}
    try:
        for x in large.values():
            x.data.fill_(1.0)
        if not large or not p.logits(ids).isfinite().all():
            return None
    finally:
        for name, x in large.items():
            x.data.copy_(kept[name])
    name, x = next(iter(kept.items()))
    evidence = f"the logits are not finite, and with 1 in {number_of(len(large), 'buffer')} they are"
    return failed(unfilled_buffer(name, f"{'up to ' if x.numel() > 1 else ''}{x.max():.2g}", len(large) - 1), evidence)


def first_overflow(p: Patient, ids: Tensor) -> tuple[Cause, str] | None:
    """Return, for ids (B, T), which operation of which module first makes infinity or NaN of finite numbers, and its line."""
    overflow = Overflows({x.dtype for x in p.parameters.values()})
    with overflow.inside(p):
        p.logits(ids)
    where = named_module(p, overflow.module) if overflow.module else "the model"
    return (overflows_at(where, overflow.first), overflow.line) if overflow.first else None


# ----- side effects

WRITES_INTO_INPUT = Cause("forward writes into its input in place", "work on a copy: ids.clone()")
CHANGES_WEIGHTS = Cause(
    "forward changes its own weights in place", "no in-place operation (+=, mul_, copy_) on a parameter in forward"
)
SWITCHES_MODE = Cause("forward, or an overridden train(), switches the mode", "leave the mode to the caller")
DEBUGGING_LEFT = Cause("left over from debugging", "remove it: it fills up memory, or the screen")


@check("side effects")
@torch.no_grad()
def side_effects(p: Patient) -> Verdict:
    """A call changes neither the ids, nor the weights, nor the mode."""
    ids, printed = p.ids(2, p.T), io.StringIO()
    before = ids.clone()

    def items_in_lists() -> int:
        return sum(len(v) for m in p.model.modules() for v in vars(m).values() if isinstance(v, list))

    items = items_in_lists()
    with perturbed(p), contextlib.redirect_stdout(printed):
        kept = {name: t.clone() for name, t in p.parameters.items()}
        p.call_as_is(ids, **p.extra, **p.needed_targets(before.clone()))
        other = [name for name, t in p.parameters.items() if not torch.equal(t.nan_to_num(0), kept[name].nan_to_num(0))]
    if not torch.equal(ids, before):
        row, t = (ids != before).nonzero()[0].tolist()
        return failed(WRITES_INTO_INPUT, f"the call changed the caller's ids, first at row {row}, position {t}")
    if other:
        return failed(
            CHANGES_WEIGHTS, f"one call in evaluation mode changed {number_of(len(other), 'weight')}: {first_few(other)}"
        )
    if training := [name or "the model" for name, m in p.model.named_modules() if m.training]:
        return failed(SWITCHES_MODE, f"after model.eval() and one call, training mode is on in: {first_few(training)}")
    if printed.getvalue():
        return warned(DEBUGGING_LEFT, f"each call prints {printed.getvalue().strip()[:40]!r}")
    if (more := items_in_lists() - items) > 0:
        return warned(DEBUGGING_LEFT, f"each call appends {number_of(more, 'object')} to a list")
    return passed("ids, weights and mode are unchanged")


# ----- repeats

HIDDEN_STATE = Cause(
    "the model keeps something between calls (a cache, a counter, a running state) and forward reads it",
    "forward must depend on its inputs only; clear such state at the start",
)


def noise_in_eval(more: str) -> Cause:
    return Cause(
        f"dropout or noise is active in evaluation mode{more}",
        "nn.Dropout as a registered module, or F.dropout(x, p, self.training)",
    )


def longer_stays(names: str) -> Cause:
    """The cause for a state that a longer text leaves; `names` of what holds it, "" if that was not found."""
    what = f": {names} {'were' if ',' in names or ' and ' in names else 'was'} replaced by it, and stayed so" if names else ""
    return Cause(
        f"a longer text changes what later, shorter ones get{what}",
        "what depends on the length is computed anew in each call, or put back once the text is short again",
    )


@dataclasses.dataclass(frozen=True)
class Before:
    """What the model answered, and what it kept, before a longer text."""

    ids: Tensor  # (2, T)
    logits: Tensor  # (2, T, V)
    kept: dict[str, Tensor]  # buffers, and tensors in plain attributes


def kept_tensors(p: Patient) -> dict[str, Tensor]:
    """Return what the model keeps that is no parameter: buffers, and tensors in plain attributes, as they are now."""
    return dict(p.model.named_buffers()) | unregistered_tensors(p.model)


def before_longer(p: Patient) -> Before:
    """Return what to compare with after a longer text."""
    ids = p.ids(2, p.T)
    return Before(ids, p.logits(ids), {name: x.detach().clone() for name, x in kept_tensors(p).items()})


def changed_by_longer(p: Patient, before: Before, length: int) -> Verdict | None:
    """Return whether the logits are others than `before`, now that the model was called on `length` tokens."""
    change = largest_change(before.logits, p.logits(before.ids)).max().item()
    if change <= tolerance(p, before.logits) or longer_stays in p.memo:  # it is said once
        return None
    p.memo[longer_stays] = True
    now = {name: x for name, x in kept_tensors(p).items() if x.is_floating_point()}
    names = [n for n, x in now.items() if n in before.kept and not torch.equal(x, before.kept[n])]
    short, text = before.ids.shape[1], f"after one call of {length} tokens"
    evidence = f"{text} the same {short} tokens get other logits than before it, by up to {change:.3g}"
    return failed(longer_stays(first_few(names, 2)), evidence)


class Droppings(TorchFunctionMode):
    """Which functions of PyTorch drop something, in the block, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, given = getattr(function, "__name__", ""), kwargs or {}
        if name == "scaled_dot_product_attention":
            p = given.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if p > 0:
                how = "the function does not know the mode of the model"
                self.found[f"scaled_dot_product_attention(dropout_p={p:g}) always drops: {how}"] = (
                    "dropout_p=self.dropout if self.training else 0.0"
                )
        elif name in ("dropout", "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d"):
            p, training = (given.get(k, args[i] if len(args) > i else d) for k, i, d in (("p", 1, 0.5), ("training", 2, True)))
            if training and p > 0:
                how = "without training=self.training it always drops; so does a Dropout that eval() does not reach"
                self.found[f"F.dropout(x, {p:g}): {how}"] = (
                    "F.dropout(x, p, self.training), or nn.Dropout as a registered module"
                )
        return function(*args, **given)


def drops_too_much(p: float) -> Cause:
    return Cause("the probability to keep was given as the probability to drop", f"nn.Dropout({1 - p:.1g})")


@check("repeats", needs=(FINITE,), essential=True)
@torch.no_grad()
def repeats(p: Patient) -> Verdict:
    """In evaluation mode the same ids get the same logits, after a longer text, too."""
    ids = p.ids(2, p.T)
    first, second = p.logits(ids), p.logits(ids)
    change = largest_change(first, second).max().item()
    if change > tolerance(p, first):
        return failed(HIDDEN_STATE, f"the same ids twice, with the same random numbers: logits differ by up to {change:.3g}")
    set_seed(1)  # p.call() would draw the same random numbers again
    third = p.as_logits(p.call_as_is(ids, **p.extra, **p.needed_targets(ids.roll(-1, dims=1))), 2, p.T)
    change = largest_change(first[:, -third.shape[1] :], third).max().item()
    dropouts = [(name, m) for name, m in p.model.named_modules() if isinstance(m, nn.Dropout)]
    if change > tolerance(p, first):
        more, active = "", [name for name, m in dropouts if m.training and m.p > 0]
        if active:
            more = f": {first_few(active)} stayed in training mode (train() or eval() is overridden, or not called on it)"
        evidence = f"the same ids twice in evaluation mode: logits differ by up to {change:.3g}"
        with Droppings() as droppings:
            p.logits(ids)
        if droppings.found and not active:
            how, advice = next(iter(droppings.found.items()))
            return failed(Cause(f"dropout is active in evaluation mode: {how}", advice), evidence)
        if not active and watch(p, ids).random:
            more = ": random numbers are drawn (randn, bernoulli) whatever the mode is"
        return failed(noise_in_eval(more), evidence)
    if p.interface.long > p.T and p.mode != "prefixes":
        before = before_longer(p)
        with contextlib.suppress(ModelError):  # a length that is refused is a question of lengths
            p.call(p.ids(1, p.interface.long), p.ids(1, p.interface.long) if p.mode == "targets" else None)
        if problem := changed_by_longer(p, before, p.interface.long):
            return problem
    for name, m in dropouts:
        if m.p > DROPS_TOO_MUCH:
            return warned(drops_too_much(m.p), f"{name} drops {m.p:.0%} in training")
    return passed(f"2 rows of {p.T} tokens, called three times in evaluation mode: the same logits")


# ----- modes


def other_in_training(where: str, merged: str) -> Cause:
    if merged:
        return Cause(
            f"{where} answers otherwise in training than in evaluation mode, with nothing dropped, and eval() changes {merged}"
            ": what is merged into the weights there is added a second time, or not taken out again",
            "where it is merged, forward uses the merged weights alone; train() takes out what eval() put in",
        )
    return Cause(
        f"{where} answers otherwise in training than in evaluation mode, with nothing dropped",
        "only dropout, noise and the statistics of a BatchNorm may depend on the mode: look where it asks for self.training",
    )


def merged_wrongly(names: str) -> Cause:
    return Cause(
        f"eval() merges into {names} something else than forward adds in training: another scale, a sign, a transposition",
        "one function for both: forward adds x @ delta.T * scale, eval() delta * scale to the weights, train() takes it out",
    )


@check("modes", needs=("side effects", "repeats", "causality"))
@torch.no_grad()
def modes(p: Patient) -> Verdict:
    """With dropout switched off, training mode gives the logits of evaluation mode."""
    if has_module(p, is_batch_norm):
        return skipped("a BatchNorm takes other statistics in training mode")
    ids, noisy = p.ids(2, p.T), perturbed_weights(p)
    with undropped(p), p.in_mode(True), other_weights(p, noisy):  # from training mode: eval() may merge these weights
        with Stilled():
            first = p.logits(ids)
        with model_code():
            p.model.eval()
        before = {name: x.detach().clone() for name, x in p.parameters.items()}
        with module_answers(p) as quiet:
            still = p.logits(ids)
        with model_code():
            p.model.train()
        changed = [name for name, x in p.parameters.items() if not torch.equal(x.nan_to_num(0), before[name].nan_to_num(0))]
        with Stilled() as stilled, module_answers(p) as busy:
            trained = p.logits(ids)
        with Stilled():
            set_seed(1)  # p.call() would draw the same random numbers again
            again = p.as_logits(p.call_as_is(ids, **p.extra, **p.needed_targets(ids.roll(-1, dims=1))), 2, p.T)
    if largest_change(trained[:, -again.shape[1] :], again).max() > tolerance(p, still):
        return skipped("in training mode it draws random numbers that could not be held at their means")
    change = largest_change(still, trained).max().item()
    if change <= OTHER_KERNEL * tolerance(p, still):
        change = largest_change(first, trained).max().item()
        if change > OTHER_KERNEL * tolerance(p, still) and changed:
            evidence = f"after eval() and train() the logits of training mode differ from those before by up to {change:.3g}"
            return failed(merged_wrongly(first_few(changed, 1)), evidence)
        return passed(f"2 rows of {p.T} tokens in training mode, nothing dropped: the logits of evaluation mode")
    owners = {n: n.rpartition(".")[0] for n in changed}  # of weights that eval() merges into
    plain = {x for x in owners.values() if type(p.model.get_submodule(x)).__module__.startswith("torch.")}
    if stilled.drawn:
        return skipped("in training mode it draws random numbers by code of its own, and their means do not stand for them")
    name = parting(quiet, busy, plain)  # these answer otherwise as they should: whoever holds them makes up for it
    changed = [n for n, x in owners.items() if name in (x, x.rpartition(".")[0] if x in plain else x)]
    # a router may choose, and experts be filled, otherwise in training on purpose
    verdict = warned if perturbed_tape(p).choices else failed
    cause = other_in_training(named_module(p, name) if name else "the model", first_few(changed, 1))
    given = ", given the same" if name else ""
    return verdict(cause, f"the logits of 2 rows differ by up to {change:.3g}{f'; first {name}{given}' if name else ''}")


# ----- registered, shared layers

NOT_REGISTERED = Cause(
    "layers in a plain Python list or dict: no optimizer, .to(), eval() or state_dict() reaches them",
    "nn.ModuleList, nn.ModuleDict or nn.ParameterList instead of [] or {}",
)
NOT_A_PARAMETER = Cause(
    "a plain tensor is used as a weight: no optimizer, .to() or state_dict() reaches it",
    "self.weight = nn.Parameter(…), in a module",
)


def not_a_module(holder: str, names: str) -> Cause:
    return Cause(
        f"{holder} is not an nn.Module, and forward uses its weights ({names}): no optimizer, .to() or state_dict() reaches "
        "them",
        "class …(nn.Module), with super().__init__() first, and forward instead of __call__",
    )


def one_repeated(kind: str, blocks: bool) -> Cause:
    """The cause for a list that holds one module several times: the blocks, or whatever else is made of this class."""
    kind, what = ("Block", "block") if blocks else (kind, "module")
    return Cause(
        f"[{kind}()] * n repeats one {what} n times{'' if blocks else ': where they are heads, all compute the same'}",
        f"[{kind}() for _ in range(n)]",
    )


SHARING = ("share", "hidden_group", "mem_block", "recurren", "repeat", "loop", "cycle", "unroll", "layer_ids", "per_stack")
WEIGHTS_SHARED = Cause(
    "a module or parameter made once, outside the loop, is used in several layers", "create it inside each layer"
)


@check("registered")
def registered(p: Patient) -> Verdict:
    """Everything that should be trained is known to PyTorch."""
    lost = {name: t for name, t in p.unregistered.items() if t.requires_grad and t.is_leaf and t.is_floating_point()}
    in_lists = unregistered_tensors(p.model, objects=False)
    used = leaves_used(p)
    in_objects = {name: t for name, t in lost.items() if name not in in_lists}
    lost = {name: t for name, t in lost.items() if name in in_lists}
    if in_objects and not lost and (hidden_in := [name for name, t in in_objects.items() if id(t) in used]):
        size = sum(in_objects[name].numel() for name in hidden_in)
        few = first_few(hidden_in, 3)
        evidence = f"not among model.parameters(): {number_of(len(hidden_in), 'weight')} of {size:,} numbers: {few}"
        return failed(not_a_module(holder(p.model, hidden_in[0]), few), evidence)
    known = {id(t) for t in (*p.parameters.values(), *p.unregistered.values())}
    if not lost and (hidden := [t for key, t in used.items() if key not in known]):
        shapes = first_few(f"one of shape {tuple(t.shape)}" for t in hidden)
        evidence = f"forward uses {number_of(len(hidden), 'tensor')} with requires_grad that is no part of the model: {shapes}"
        return failed(NOT_A_PARAMETER, evidence)
    if lost and all(holder(p.model, name) == name for name in lost):
        return failed(NOT_A_PARAMETER, f"not among model.parameters(): {first_few(lost, 3)}")
    if lost:
        size = sum(t.numel() for t in lost.values())
        names = first_few(lost, 3)
        return failed(
            NOT_REGISTERED, f"not among model.parameters(): {number_of(len(lost), 'weight')} of {size:,} numbers: {names}"
        )
    size = sum(t.numel() for t in p.parameters.values())
    return passed(f"{number_of(len(p.parameters), 'parameter')}, {size:,} numbers; none is hidden from PyTorch")


def holder(model: nn.Module, name: str) -> str:
    """Return the first part of a tensor's name that is no registered module: an object, a list, or the tensor itself."""
    parts, known = name.split("."), dict(model.named_modules())
    starts = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return next((start for start in starts if start not in known), name)


def leaves_used(p: Patient) -> dict[int, Tensor]:
    """Return the tensors that a gradient of the logits would reach, by id: whatever forward uses as a weight."""
    found: dict[int, Tensor] = {}
    with torch.enable_grad(), contextlib.suppress(ModelError):
        logits = p.logits(p.ids(1, p.T))  # kept: in torch 2.11 a Function's node does not outlive what it made
        queue, seen = [logits.grad_fn], set()
        while queue:
            node = queue.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if (leaf := getattr(node, "variable", None)) is not None:  # an AccumulateGrad
                found[id(leaf)] = leaf
            queue += [child for child, _ in node.next_functions]
    return found


def norm_called_twice(name: str) -> Cause:
    return Cause(
        f"{name} is shared by two branches of its block (attention and MLP): both get one gain and one bias",
        "a norm for each branch: norm_1 before attention, norm_2 before the MLP, unless it is meant so",
    )


@check("shared layers")
def shared_layers(p: Patient) -> Verdict:
    """Each layer of a stack has weights of its own."""
    stacks, face, meant = layer_stacks(p.model), p.interface, shared_by_nature(p.model)
    for name, layers in stacks:
        distinct = len(set(map(id, layers)))
        if distinct < len(layers) and (stated := stated_sharing(p)):
            return passed(
                f"{name} has {len(layers)} entries and {distinct} different ones: {stated} states that layers are shared"
            )
        if distinct < len(layers):
            evidence = f"{name} has {len(layers)} entries, but only {distinct} different ones: more layers, no more parameters"
            return failed(one_repeated(type(layers[0]).__name__, layers == block_stack(p)[1]), evidence)
        owners: dict[int, list[str]] = {}
        for i, layer in enumerate(layers):
            for inner, parameter in layer.named_parameters():
                tied = parameter.dim() == 2 and parameter.shape[0] in (face.in_vocab, face.out_vocab)  # a tied head
                if not tied and id(parameter) not in meant:
                    owners.setdefault(id(parameter), []).append(f"{name}[{i}].{inner}")
        twice = [names for names in owners.values() if len(names) > 1]
        if twice and (all("share" in names[0].lower() for names in twice) or stated_sharing(p)):
            return passed(f"layers of {name} share {len(twice)} of their weights, as their names or the configuration state")
        if twice:
            evidence = f"layers of {name} share {len(twice)} of their weights: {' is '.join(twice[0][:3])}"
            return failed(WEIGHTS_SHARED, evidence)
    return norms_shared(p) or passed("no two layers of a list share weights" if stacks else "no list of layers")


def shared_by_nature(model: nn.Module) -> set[int]:
    """Return the ids of parameters that layers may share whatever they learn: those that no gradient changes while others are
    trained, and the frequencies of a rotary embedding."""
    frozen = {id(x) for x in model.parameters() if not x.requires_grad}
    if len(frozen) == len({id(x) for x in model.parameters()}):  # all are, for inference: that says nothing about any of them
        frozen = set()
    kinds = ((type(module).__name__.lower(), module) for module in model.modules())
    turning = [m for kind, m in kinds if "rotary" in kind or "rope" in kind]
    return frozen | {id(x) for m in turning for n, x in m.named_parameters(recurse=False) if "freq" in n or "theta" in n}


def norms_shared(p: Patient) -> Verdict | None:
    """Return whether each block calls a norm that it holds itself twice on the stream, at different values of it.

    Not asked where layers are shared on purpose, as their names or the configuration state, or where a block itself runs twice;
    one norm for queries and for keys is of the width of a head, and one for branches side by side gets the same input.
    """
    names = {id(module): name for name, module in p.model.named_modules()}
    blocks = [names[id(x)] for x in block_stack(p)[1] if id(x) in names]
    norms = {
        name: m
        for name, m in p.model.named_modules()
        if "norm" in type(m).__name__.lower() and "share" not in name and next(m.parameters(recurse=False), None) is not None
    }
    norms = {n: m for n, m in norms.items() if n.rpartition(".")[0] in blocks}
    table = p.parameters.get(p.interface.token_table)
    if not norms or table is None or stated_sharing(p):
        return None
    ids, calls = p.ids(2, p.T), Counter[str]()
    seen: dict[str, list[Tensor]] = {}

    def note(name: str):
        def hook(module, args):
            calls[name] += 1
            if name in norms and args and isinstance(args[0], Tensor) and args[0].shape == (*ids.shape, table.shape[-1]):
                seen.setdefault(name, []).append(args[0].detach().clone())

        return hook

    watched = norms | {name: p.model.get_submodule(name) for name in blocks}
    hooks = [m.register_forward_pre_hook(note(name)) for name, m in watched.items()]
    try:
        with torch.no_grad():
            p.logits(ids)
    finally:
        for hook in hooks:
            hook.remove()
    twice = {n: x for n, x in seen.items() if len(x) == calls[n] == 2 and not torch.equal(*x)}
    of = {block: [n for n in twice if n.rpartition(".")[0] == block] for block in blocks}
    if any(not found or calls[block] > 1 for block, found in of.items()):
        return None
    name = next(iter(of.values()))[0]
    evidence = f"{name} is called twice in one pass, on two states of the stream; so is one in each of {len(blocks)} blocks"
    return warned(norm_called_twice(name), evidence)


def stated_sharing(p: Patient) -> str:
    """Return the field of a configuration that states that layers are shared, "" if none does."""
    for where in CONFIGS:
        holder = attribute(p.model, where)
        fields = dict(holder) if isinstance(holder, Mapping) else dict(getattr(holder, "__dict__", None) or {})
        for name, value in fields.items():
            if isinstance(name, str) and value and any(word in name.lower() for word in SHARING):
                return f"{where}.{name}"
    return ""


# ----- rows

BATCH_MIXED = Cause(
    "an operation mixes the axis of the batch: attention or a normalisation over axis 0 (batch_first?)",
    "no operation may run over axis 0",
    vague=True,
)
BATCH_NORM = Cause(
    "BatchNorm takes its statistics over the batch and over time", "nn.LayerNorm(n_embd): over the features of one position"
)
NOT_BATCH_FIRST = Cause(
    "nn.MultiheadAttention without batch_first=True takes axis 0 for time: it attends over the batch",
    "batch_first=True, as nn.Transformer needs too",
)
HEADS_BEFORE_BATCH = Cause(
    "batch and heads have changed places in a view: attention's result is (B·nh, T, hs), and is read as (nh, B, …)",
    "y.view(B, nh, T, hs).transpose(1, 2).reshape(B, T, C), with the batch first as it was when the heads were split",
)
HEADS_BEFORE_BATCH_IN = Cause(
    "batch and heads have changed places in a view, before attention: rows of queries or keys are another row's",
    "x.view(B, T, nh, hs).transpose(1, 2) -> (B, nh, T, hs)",
)
ROW_NUMBER = Cause(
    "something depends on the index of the row: positions taken from the axis of the batch?",
    "positions are arange(T), the same for each row",
)


@check("rows", needs=("side effects", "repeats"), essential=True)
def rows_apart(p: Patient) -> Verdict:
    """Rows of a batch do not influence each other, in evaluation and in training."""
    for training in (False, True):
        effect, difference, allowed = row_effects(p, training)
        if effect > allowed:
            cause = view_mixes_rows(p) or BATCH_MIXED
            if has_module(p, is_batch_norm):
                cause = BATCH_NORM
            elif has_module(p, lambda m: isinstance(m, nn.MultiheadAttention) and not m.batch_first):
                cause = NOT_BATCH_FIRST
            mode = "training" if training else "evaluation"
            return failed(cause, f"in {mode} mode, other tokens in one row move the logits of another by up to {effect:.3g}")
        if difference > allowed:
            return failed(ROW_NUMBER, f"three equal rows in a batch get different logits, by up to {difference:.3g}")
    evidence = f"{ROWS} rows of {p.T} tokens: other tokens in other rows move nothing; equal rows get equal logits"
    return passed(evidence + STILLED * p.stilled)


@torch.no_grad()
def view_mixes_rows(p: Patient) -> Cause | None:
    """Return whether a view mixes rows before or after the first attention: not the attention itself, nor a norm."""
    ids = p.ids(ROWS, p.T)
    other = ids.clone()
    other[1] = p.changed_tokens(other[1])
    with perturbed(p):
        a, b = (next(iter(watch(p, x).attentions), None) for x in (ids, other))
    if a is None or b is None:
        return None

    def moved(x: Tensor | None, y: Tensor | None) -> float:
        """The share of rows that moved, of a tensor whose first axes are B·nh, (B, nh), B, B·T or T·B."""
        if x is None or y is None or x.shape != y.shape or x.numel() % (ROWS * p.T):
            return -1.0
        n = len(x) if x.dim() == 3 else math.prod(x.shape[:2]) if x.dim() == 4 else ROWS
        changed = (x - y).abs()
        shares = [changed.reshape(n, -1).amax(dim=1).gt(0).float().mean().item()]
        if x.dim() == 2:  # inside, some models have time before the batch
            shares.append(changed.reshape(p.T, ROWS, -1).amax(dim=(0, 2)).gt(0).float().mean().item())
        return min(shares)

    one_row = 1 / ROWS + 1e-6
    if 0 < moved(a.source, b.source) <= one_row < moved(a.q, b.q):
        return HEADS_BEFORE_BATCH_IN
    if 0 < moved(a.out, b.out) <= one_row < moved(a.after, b.after):
        return HEADS_BEFORE_BATCH
    return None


@torch.no_grad()
def reads_time_first(p: Patient) -> bool:
    """Whether the model takes (T, B): then rows are positions, and columns are independent of each other and alike.

    Attention over the batch by mistake looks the same but for positions, which are the columns', or for no order among rows.
    """
    if p.mode != "plain":
        return False
    with contextlib.suppress(ModelError):
        effect, _, allowed = row_effects(p, False)
        if effect <= allowed:
            return False
        ids, half = p.ids(p.T, 3), p.T // 2  # (T, B) for such a model
        with perturbed(p):
            base, other = p.logits(ids), ids.clone()
            other[half, 0] = p.changed_tokens(other[half, 0])
            change = largest_change(base, p.logits(other))  # (T, B)
            allowed = tolerance(p, base)
            equal = p.logits(ids[:, :1].expand(-1, 3))  # equal columns have equal logits, or columns are positions after all
            difference = largest_change(equal, equal[:, :1].expand_as(equal)).max()
            swapped = ids.clone()
            swapped[:2] = ids[:2].flip(0)
            order = largest_change(base[2:], p.logits(swapped)[2:]).max()
            ordered = change[:half].max() <= allowed or order > allowed  # causal, or with positions
            return bool(change[:, 1:].max() <= allowed and difference <= allowed and ordered)
    return False


# ----- count


def count_differs(how: str) -> Cause:
    return Cause(how, "list them by name beside the golden model's")


@check("count")
def count(p: Patient) -> Verdict:
    """The number of parameters is that of the golden model."""
    have = sum(x.numel() for x in p.parameters.values())
    if p.golden is None:
        return skipped(f"{have:,} parameters; no number was given to compare them with")
    want = GOLDEN.get(p.golden) or int(p.golden)
    if have == want:
        return passed(f"{have:,} parameters, the same as {p.golden}")
    evidence = f"{have:,} parameters; {p.golden} has {want:,}: {have - want:+,}"
    return failed(count_differs(explain_difference(p, have - want)), evidence)


def explain_difference(p: Patient, difference: int) -> str:
    """Return a difference in counts as a sum of parts that GPTs differ in, the fewest first."""
    rows, V = p.interface.in_vocab, p.interface.out_vocab
    C = rows and next((x.shape[1] for x in p.parameters.values() if x.dim() == 2 and x.shape[0] == rows), 0)
    if not C:
        return "no embedding was found to derive it from"
    _, layers = block_stack(p)
    L = max(len(layers), 1)
    block = sum(x.numel() for x in layers[0].parameters()) if layers else 0
    parts = {
        "the biases of query, key and value": 3 * C * L,
        "a last LayerNorm": 2 * C,
        "the head's bias": V,
        "a separate head (or a tied one)": V * C,
        "one position": C,
        "biases of attention output and MLP": L * (C + 4 * C + C),
        "biases of the LayerNorms": C * 2 * L,
        "LayerNorms in all blocks": 4 * C * L,
        "one block": block,
        "all blocks but one": block * (L - 1),
    }
    for size in (1, 2, 3):
        for chosen in itertools.combinations(parts.items(), size):
            for signs in itertools.product((1, -1), repeat=size):
                if sum(sign * n for sign, (_, n) in zip(signs, chosen, strict=True)) == difference:
                    words = {1: "too many", -1: "missing"}
                    return "; ".join(f"{words[s]}: {name} ({n:,})" for s, (name, n) in zip(signs, chosen, strict=True))
    whole, rest = divmod(abs(difference), C)
    return f"{whole} x {C} (the width)" if rest == 0 else "no sum of the usual parts: look for a layer of another size"
