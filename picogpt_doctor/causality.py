"""Checks of what a position depends on: never on later tokens, always on itself and all earlier ones, in their order."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from .basics import BATCH_NORM
from .patient import ROWS, ModelError, Patient, declared, describe, model_code, unregistered_tensors
from .probes import (
    ATTENDS,
    CHANGED,
    DISTANT,
    EVEN_WEIGHTS,
    FILLED_WITH_ZERO,
    FLAT_SCORES,
    FORESEEN,
    HIDDEN_SCORE,
    LEAKING_GRADIENT,
    LONGEST_PAST_END,
    ONE_TOKEN_REPEATED,
    OTHER_KERNEL,
    RISING,
    SAME_DISTANCE,
    SAME_SCORE,
    UNEVEN_QUERIES,
    dependence,
    dependence_in_eval,
    depends_on_context,
    flat,
    future,
    has_module,
    is_batch_norm,
    largest_change,
    loss_on_random_ids,
    once,
    perturbed,
    perturbed_tape,
    perturbed_weights,
    tolerance,
    watch,
)
from .registry import check
from .report import Cause, Reason, Status, Verdict, failed, first_few, passed, skipped, warned
from .tape import Attention, Tape

# ----- causality: causes

BEFORE_SOFTMAX = "fill the scores with -inf before the softmax"
OVER_KEYS = "softmax(dim=-1): over the keys, so that each row is a distribution"
OVER_FEATURES = "nn.LayerNorm(n_embd): over the features of one position"
ARANGE = "torch.arange(T)"
ADD_POSITIONS = "x = wte(ids) + wpe(arange(T))"

LONGER_INPUT = Cause(
    "it answers for the last position only, and differently for a longer input", "look at where the input is cropped"
)
TARGETS_FED_IN = Cause("the targets reach the logits, and they are the future", "use targets for the loss only")
SEES_THE_ANSWER = Cause(
    "it sees the answer in a way that changes of single tokens do not show", "is the target part of its input?"
)
BIDIRECTIONAL = Cause("a recurrent layer with bidirectional=True reads the text from the end as well", "bidirectional=False")
OTHER_PATH = Cause(
    "the attention weights are causal: something else carries the future (a pooling or shift over time, targets, a wrong "
    "reshape after the attention)",
    "follow the residual stream: which operation after the embedding mixes positions?",
)
MIXES_POSITIONS = Cause("no attention was recorded: some operation mixes positions", "which operation mixes positions?")


def reordered_in_time(how: str) -> Cause:
    return Cause(how, "shift by padding on the left and cutting on the right")


def softmax_over_other_axis(layer: int) -> Cause:
    return Cause(f"attention {layer}: the softmax runs over the heads or the batch", OVER_KEYS)


def softmax_over_queries(layer: int, rows: Tensor) -> Cause:
    return Cause(
        f"attention {layer}: softmax over the queries (dim=-2): columns sum to 1, rows to {rows.min():.2f} … {rows.max():.2f}. "
        "The sum of a column includes the future",
        OVER_KEYS,
    )


def mask_after_softmax(layer: int) -> Cause:
    return Cause(
        f"attention {layer}: the mask comes after the softmax. The weights on the future are 0 in the end, but they were part "
        "of the sum that all weights are divided by",
        BEFORE_SOFTMAX,
    )


def mask_inverted(where: str) -> Cause:
    return Cause(
        f"the mask's polarity is inverted: in {where} each position sees the future only and none of the past",
        "True means blocked in nn.MultiheadAttention and masked_fill, attend in scaled_dot_product_attention: invert it",
    )


def mask_off_by_one(where: str) -> Cause:
    return Cause(
        f"the mask is off by one: in {where} each position also sees the one after it",
        "tril(diagonal=0): position t sees 0 … t",
    )


def mask_excludes_self(where: str, row: int) -> Cause:
    return Cause(
        f"in {where} row {row} of the mask blocks everything, and the softmax of equal numbers is uniform over all positions: "
        "the mask also excludes the position itself",
        "tril(diagonal=0), not -1: a position must see itself",
    )


def mask_multiplies(where: str) -> Cause:
    return Cause(f"in {where} the mask multiplies the scores: the future gets the score 0, and exp(0) = 1", BEFORE_SOFTMAX)


def mask_finite(where: str, value: float) -> Cause:
    return Cause(f"in {where} the mask fills with {value:.4g}, not with -inf: the future keeps some weight", BEFORE_SOFTMAX)


def no_mask(where: str, share: float, fused: str) -> Cause:
    return Cause(
        f"no causal mask in {where}: {share:.0%} of the attention goes to the future{f' ({fused} was given)' * bool(fused)}",
        "fill the scores of all tokens after t with -inf before the softmax, or is_causal=True in scaled_dot_product_attention",
    )


def norm_over_time(kind: str, shape: tuple, dims: tuple) -> Cause:
    return Cause(
        f"{kind} over the axis of time: statistics of a tensor {shape} over axes {dims} mix all positions", OVER_FEATURES
    )


def padded_convolution(kernel: int) -> Cause:
    return Cause(
        f"a convolution over time (kernel {kernel}) is padded on both sides and sees the next tokens",
        "pad on the left only: F.pad(x, (kernel - 1, 0))",
    )


def reshape_in(at: int, what: str, wrong: str) -> Cause:
    return Cause(
        f"a reshape mixes positions and heads on the way in: token {at} alone was changed, but the {what} of positions {wrong} "
        "changed in the first attention",
        "view(B, T, nh, hs) first, then transpose(1, 2): the view alone reads the memory in another order",
    )


def reshape_out(wrong: str) -> Cause:
    return Cause(
        f"a reshape mixes positions and heads on the way out: the weighted values of positions {wrong} did not change, but the "
        "input of the next layer there did",
        "transpose(1, 2) back to (B, T, nh, hs) before the heads are laid side by side",
    )


def in_training_only(cause: Cause) -> Cause:
    return Cause(f"in training mode only: {cause.text}", cause.advice)


# ----- causality


@check("causality", needs=("side effects", "repeats"), essential=True)
def causality(p: Patient) -> Verdict:
    """No position depends on later tokens: in evaluation, in training, with targets, and by gradient."""
    (effects, allowed), tape, mode = dependence_in_eval(p), perturbed_tape(p), "evaluation"
    later = future(p.T)
    if not (effects[later] > allowed).any() and p.mode != "prefixes":
        with p.in_mode(True), perturbed(p):
            targets = p.ids(1, p.T, 5) if p.interface.both else None
            effects_in_training, rounding = dependence(p, p.ids(1, p.T), targets, together=False)  # the same dropout for each
            if (effects_in_training[later] > rounding).any():
                effects, allowed, mode, tape = effects_in_training, rounding, "training", watch(p, p.ids(ROWS, p.T))
    if (change := effect_of_targets(p)) > 0:
        return failed(TARGETS_FED_IN, f"other targets move the logits by up to {change:.3g}")
    if leaks := ((effects > allowed) & later).nonzero().tolist():
        ahead = sorted({j - t for t, j in leaks})
        span = f"+{ahead[0]}" if len(ahead) == 1 else f"+{ahead[0]} to +{ahead[-1]}"
        cause = explain_leak(p, tape)
        positions = first_few(sorted({t for t, _ in leaks}))
        return failed(
            in_training_only(cause) if mode == "training" else cause,
            f"in {mode} mode positions {positions} depend on future tokens: their logits move by up to "
            f"{effects[later].max():.3g} when the token at offset {span} changes (rounding: {allowed:.1g})",
        )
    if (share := gradient_from_future(p)) > LEAKING_GRADIENT:
        evidence = f"the gradient of early logits by later tokens is {share:.2g} of that by earlier ones, not 0"
        return failed(explain_leak(p, tape), evidence)
    loss, blind = loss_on_random_ids(p), math.log(p.vocab)
    if loss is not None and p.interface.out_vocab > 4 and loss < blind - FORESEEN:
        evidence = f"on random ids, which nobody can predict, its loss is {loss:.2f}, below ln V = {blind:.2f}"
        return failed(SEES_THE_ANSWER, evidence)
    return passed(f"changing a token moved no position before it (rounding: {allowed:.1g}), in evaluation and training mode")


@torch.no_grad()
def effect_of_targets(p: Patient) -> float:
    """Return how far other targets move the logits, 0 within rounding."""
    if not p.interface.both:
        return 0.0
    ids = p.ids(2, p.T)
    with perturbed(p):
        one, two = (p.as_logits(p.call(ids, p.ids(2, p.T, seed)), 2, p.T) for seed in (1, 2))
    if one.shape != two.shape:
        return 0.0
    change = largest_change(one, two).max().item()
    return change if change > tolerance(p, one) else 0.0


def gradient_from_future(p: Patient) -> float:
    """Return how much gradient flows from logits of the first half back to tokens of the second, relative to the first's.

    The two halves use different tokens, and only logits of the first half's tokens are taken: then the rows of the second
    half's tokens in the table get a gradient through the future only, also where the head is tied to the table.
    """
    table = p.parameters.get(p.interface.token_table)
    if table is None or not table.requires_grad or p.vocab < 4 or p.mode == "prefixes":
        return 0.0
    half, cut = p.T // 2, p.vocab // 2
    ids = p.ids(1, p.T) % cut
    ids[0, half:] += cut
    with torch.enable_grad(), perturbed(p):
        logits = p.logits(ids)[0, :half, :cut]
        if not logits.requires_grad:
            return 0.0
        pull = torch.linspace(-1, 1, cut, device=logits.device)
        try:
            with model_code():
                (grad,) = torch.autograd.grad((logits.nan_to_num(0) * pull).sum(), table, allow_unused=True)
        except ModelError:  # changed tokens have shown what they can; this is the subject of gradients
            return 0.0
    if grad is None:
        return 0.0
    size = grad.float().nan_to_num(0).abs().amax(dim=1)  # (V, C) -> (V,)
    return (size[ids[0, half:]].max() / size[ids[0, :half]].max().clamp(min=1e-30)).item()


# ----- why does it depend on future tokens?


def explain_leak(p: Patient, tape: Tape) -> Cause:
    """Return the first cause that explains a leak, from what the attentions did."""
    if tape.reordered:
        return reordered_in_time(tape.reordered[0])
    if p.mode == "prefixes":
        return LONGER_INPUT
    mixing = None if tape.statistics_over_time() else mixing_heads(p)
    return mixing or explain_softmax(tape) or explain_mask(tape) or explain_other_path(p, tape)


def explain_softmax(tape: Tape) -> Cause | None:
    """Return whether a softmax runs over another axis than the keys, or before the mask."""
    later = future(tape.T, tape.ids.device)
    for layer, attention in enumerate(tape.attentions):
        if attention.axis == "another axis":
            return softmax_over_other_axis(layer)
        if attention.axis == "queries":
            return softmax_over_queries(layer, flat(attention.soft).sum(dim=-1))
        if attention.soft is not None:
            masked_in_the_end = (flat(attention.weights)[:, later] < ATTENDS).all()
            if masked_in_the_end and (flat(attention.soft)[:, later] > ATTENDS).any():
                return mask_after_softmax(layer)
    return None


def explain_mask(tape: Tape) -> Cause | None:
    """Return what is wrong with the mask of the first attention that attends to the future."""
    T, later = tape.T, future(tape.T, tape.ids.device)
    leaks = [(flat(a.weights)[:, later] > ATTENDS).any(dim=1) for a in tape.attentions]  # (N,) each
    open_ones = [i for i, heads in enumerate(leaks) if heads.any()]
    if not open_ones:
        return None
    attention, heads = tape.attentions[open_ones[0]], leaks[open_ones[0]]
    W = flat(attention.weights)[heads]  # (heads that leak, T, T)
    where = name_attentions(open_ones, heads, len(leaks))
    seen = [(t, j) for t, j in (W.amax(dim=0) * later > ATTENDS).nonzero().tolist()]
    rows = sorted({t for t, _ in seen})
    if W[:, :-1, :-1][:, later.T[:-1, :-1]].amax() < ATTENDS:  # an inverted mask blocks all of the last row
        return mask_inverted(where)
    if all(j - t == 1 for t, j in seen):
        return mask_off_by_one(where)
    if len(rows) == 1:
        return mask_excludes_self(where, rows[0])
    if attention.scores is not None:
        hidden = attention.scores.float().reshape(-1, T, T)[heads][:, later]
        if hidden.numel() and hidden.isfinite().all() and hidden.std() < SAME_SCORE * max(1.0, hidden.abs().max().item()):
            value = hidden.mean().item()
            return mask_multiplies(where) if abs(value) < FILLED_WITH_ZERO else mask_finite(where, value)
    return no_mask(where, ((W * later).sum() / W.sum()).item(), attention.fused)


def name_attentions(which: list[int], heads: Tensor, of: int) -> str:
    """Return some attentions in words, and the heads of the first: (N,) booleans for (row, head) pairs."""
    if len(which) == of:
        where = "every attention" if of > 1 else "its attention"
    else:
        where = f"attention {first_few(which)} of {of} (the others are masked)"
    if heads.all():
        return where
    each = heads.view(ROWS, -1).any(dim=0) if len(heads) % ROWS == 0 else heads  # (B·nh,) -> (nh,)
    numbers = ", ".join(str(i) for i in each.nonzero().flatten().tolist())
    return f"{where}, {'all heads' if each.all() else f'head {numbers}'} only"


def explain_other_path(p: Patient, tape: Tape) -> Cause:
    """Return what else carries the future, since the attention weights are causal."""
    if has_module(p, is_batch_norm):
        return BATCH_NORM
    for s in tape.statistics_over_time():
        return norm_over_time(s.kind, s.shape, s.dims)
    if has_module(p, lambda module: getattr(module, "bidirectional", False)):
        return BIDIRECTIONAL
    if tape.padded:
        return padded_convolution(tape.padded[0])
    return OTHER_PATH if tape.attentions else MIXES_POSITIONS


@once
@torch.no_grad()
def mixing_heads(p: Patient) -> Cause | None:
    """Return whether a reshape mixes positions on the way into the first attention, or out of it."""
    T, ids = p.T, p.ids(ROWS, p.T)
    other, at = ids.clone(), T - 1  # the last token: nothing may reach an earlier position
    other[:, at] = p.changed_tokens(other[:, at])
    with perturbed(p):
        one, two = watch(p, ids), watch(p, other)
    if not (one.attentions and two.attentions):
        return None
    a, b = one.attentions[0], two.attentions[0]
    early = torch.arange(T) != at
    if mixed_before(a, b, T, early):
        return None
    for what, x, y in (("queries", a.q, b.q), ("keys", a.k, b.k)):
        if x is not None and x.shape == y.shape and x.shape[-2] == T and (changed_positions(x, y) & early).any():
            return reshape_in(at, what, first_few((changed_positions(x, y) & early).nonzero().flatten().tolist()))
    if a.out is not None and a.after is not None and b.after is not None and a.after.shape == b.after.shape:
        unchanged = ~changed_positions(a.out, b.out)
        rows = changed_rows(a.after, b.after, T)
        if all((way & unchanged).any() for way in rows):
            return reshape_out(first_few((rows[0] & unchanged).nonzero().flatten().tolist()))
    return None


def mixed_before(a: Attention, b: Attention, T: int, early: Tensor) -> bool:
    """Whether the input of the queries' linear layer depends on the last token at an earlier position already."""
    if a.source is None or b.source is None or a.source.numel() % (ROWS * T):
        return False
    width = a.source.numel() // (ROWS * T)
    return all(way[early].any() for way in changed_rows(a.source.reshape(-1, width), b.source.reshape(-1, width), T))


def changed_positions(x: Tensor, y: Tensor) -> Tensor:
    """(…, T, width), twice -> (T,): the positions at which they differ."""
    return ((x - y).abs().amax(dim=-1) > CHANGED).reshape(-1, x.shape[-2]).any(dim=0).cpu()


def changed_rows(x: Tensor, y: Tensor, T: int) -> list[Tensor]:
    """(B·T, width), twice -> two of (T,): the positions at which they differ, if the rows are (B, T) and if they are (T, B)."""
    rows = ((x - y).abs().amax(dim=-1) > CHANGED).flatten().cpu()
    return [rows.view(ROWS, T).any(dim=0), rows.view(T, ROWS).any(dim=1)]


# ----- memory

OWN_TOKEN_HIDDEN = Cause(
    "the input is shifted right inside the model, or the last token is cut off: position t answers for token t - 1",
    "logits at t predict token t + 1, from tokens 0 … t",
)
NO_ATTENTION = Cause("no attention was recorded that could bring it there", "is the layer that mixes positions called at all?")
PAST_MASKED = Cause("the mask's polarity is inverted: the past is masked, not the future", "invert the mask")
SELF_ONLY = Cause("the mask lets a position see itself only", "tril(): all positions up to and including its own")
ATTENTION_LOST = Cause(
    "the attention sees the past, but its result does not reach the logits",
    "is the output of the attention added to the residual stream?",
)
SHORT_WINDOW = Cause(
    "a window in the attention mask is narrower than the block size",
    "if that is intended, name it sliding_window in the configuration",
)


def attends_over_heads(shape: tuple, T: int) -> Cause:
    return Cause(
        f"a softmax ran over {shape}, none over {T} x {T} positions: attention over another axis (the heads of one token?)",
        "transpose(1, 2) to (B, nh, T, hs) before attention",
    )


def window(reach: int) -> Cause:
    return Cause(
        f"the mask of the first attention reaches back {reach} positions only: a window", "tril() without another triu()"
    )


@check("memory", needs=("answers", "side effects", "repeats", "rows", "residual"), essential=True)
def memory(p: Patient) -> Verdict:
    """Every position depends on all earlier tokens, and on its own."""
    if p.T < 2:
        return skipped("a window of one token has no past")
    effects, allowed = dependence_in_eval(p)
    own, early = effects.diagonal(), future(p.T).T
    if (own <= allowed).all():
        return failed(OWN_TOKEN_HIDDEN, "no position's logits depend on its own token")
    if (own <= allowed).any():
        without = (own <= allowed).nonzero().flatten().tolist()
        evidence = f"the logits of positions {first_few(without)} do not depend on their own token"
        return failed(explain_missing_context(p), evidence)
    missing = (effects <= allowed) & early
    windows = declared(p.model, ("sliding_window", "attention_window", "local_window_size", "window"))
    stated = windows[0][1] if windows else None
    if not depends_on_context(p):
        verdict = failed if perturbed_tape(p).softmaxes or perturbed_tape(p).attentions else warned
        evidence = "the logits depend on the position's own token only: the context is ignored"
        return verdict(mixing_heads(p) or explain_missing_context(p), evidence)
    if missing.any() and not (stated and stated < p.T):
        t, j = missing.nonzero()[-1].tolist()
        back = sorted({t - j for t, j in missing.nonzero().tolist()})
        evidence = f"position {t} does not depend on token {j}; without effect are offsets -{back[0]} to -{back[-1]}"
        return failed(mixing_heads(p) or explain_missing_context(p), evidence)
    everything = "every position depends on its own token and all earlier ones"
    if stated:
        return passed(f"{everything} (within its sliding window of {stated})")
    return memory_of_distant_tokens(p, everything)


def memory_of_distant_tokens(p: Patient, so_far: str) -> Verdict:
    """Return whether the last position of a long text depends on distant tokens too; `so_far` is true of p.T tokens."""
    long = p.interface.long
    lost = unreachable_distant_tokens(p) if p.mode != "prefixes" and long > p.T else []
    if isinstance(lost, str):
        return passed(f"{so_far}, over {p.T} tokens ({lost})")
    if lost and perturbed_tape(p).attentions:
        return failed(SHORT_WINDOW, f"position {long - 1} does not depend on token {first_few(lost)}")
    return passed(f"{so_far}, over {p.T} tokens (a recurrent model forgets what is further away)" if lost else so_far)


@torch.no_grad()
def unreachable_distant_tokens(p: Patient) -> list[int] | str:
    """Return which of three distant tokens the last position of a long text does not depend on; or why that is not known."""
    long = p.interface.long
    spots = [0, long // 4, long // 2]
    changed = p.ids(1, long).repeat(len(spots) + 1, 1)  # one row for each spot, and the last as it was
    for row, spot in enumerate(spots):
        changed[row, spot] = p.changed_tokens(changed[row, spot])
    with perturbed(p):
        try:
            logits = torch.cat([p.logits(part) for part in changed.split(1)])
        except ModelError:
            return "not tried on more: it fails"
    if not logits.isfinite().all():
        return f"not finite on {long}"
    effects = largest_change(logits[:-1, -1], logits[-1:, -1]).tolist()
    return [spot for spot, effect in zip(spots, effects, strict=True) if effect <= DISTANT * tolerance(p, logits)]


def explain_missing_context(p: Patient) -> Cause:
    """Return why a position does not depend on some earlier tokens."""
    tape = perturbed_tape(p)
    if not tape.attentions and tape.softmaxes:
        return attends_over_heads(tape.softmaxes[0], tape.T)
    if not tape.attentions:
        return NO_ATTENTION
    early = future(tape.T, p.device).T
    W = flat(tape.attentions[0].weights).amax(dim=0)  # (N, T, T) -> (T, T)
    if (W[early] < ATTENDS).all():
        return PAST_MASKED if (W[early.T] > ATTENDS).any() else SELF_ONLY
    if (W[early] < ATTENDS).any():
        return window(max(t - j for t, j in ((W > ATTENDS) & early).nonzero().tolist()))
    return ATTENTION_LOST


# ----- positions

POSITIONS_WRAP = Cause("positions wrap around or are clamped before the end of the block", ARANGE)
POSITIONS_OFF_BY_ONE = Cause("positions are off by one", f"{ARANGE}: they start at 0")
POSITIONS_BY_LENGTH = Cause(
    "positions are counted from the end, or something else depends on the length of the text",
    f"{ARANGE}: the first token is at 0, however many follow",
)
DISTANCE_UNEVEN = Cause(
    "scores depend on where two tokens are, not on how far apart they are: a rotary embedding on queries or keys alone, or "
    "with different pairs of features on each",
    "rotate queries and keys alike, with one function",
)
DISTANCE_INVERTED = Cause(
    "the bias of distance has the wrong sign: the farthest key counts most",
    "scores - slope * (t - j), with slope above 0 (ALiBi)",
)
POSITIONS_IGNORED = Cause("positions are ignored: no position embedding reaches the residual stream", ADD_POSITIONS)
NO_POSITIONS = Cause(
    "no positions but those that the mask implies: forgotten, or meant so (NoPE)", f"{ADD_POSITIONS}, unless it is meant so"
)


def rotary_elsewhere(shape: tuple, heads: int, T: int) -> Cause:
    where = f"the heads (an axis of {heads})" if heads in shape[:-1] and T not in shape else "another axis"
    return Cause(
        f"there is a rotary embedding, and it turns queries and keys along {where}, not along the {T} positions",
        "angles by position: x is (B, nh, T, hs) when the table is (T, hs / 2), or the table is (T, 1, hs / 2)",
    )


def positions_wrong(how: str) -> Cause:
    return Cause(f"{how}positions must be 0, 1, 2 …", ARANGE)


def positions_lost(name: str) -> Cause:
    return Cause(f"positions do not reach the residual stream, although there is {name}", ADD_POSITIONS)


@check("positions", needs=("side effects", "repeats", "rows"))
@torch.no_grad()
def positions(p: Patient) -> Verdict:
    """The order of earlier tokens matters, and positions count 0, 1, 2 …"""
    if p.T < 4:
        return skipped("the window is too short")
    if problem := wrong_rows(p):
        return problem
    order = order_ignored(p)
    return order if order.status == Status.FAIL else depends_on_length(p) or wrong_distance(p) or order


def depends_on_length(p: Patient) -> Verdict | None:
    """Return whether a text's logits change when it goes on, although no position depends on a later token."""
    effects, allowed = dependence_in_eval(p)
    if p.mode == "prefixes" or effects[future(p.T)].max() > allowed or mixing_heads(p):
        return None
    ids, T = p.ids(2, p.T), p.T // 2
    with perturbed(p):
        whole, part = p.logits(ids)[:, :T], p.logits(ids[:, :T])
    change = largest_change(whole, part).max().item()
    if change <= OTHER_KERNEL * tolerance(p, whole):
        return None
    evidence = f"the first {T} of {p.T} tokens get other logits alone than with the rest: up to {change:.3g}"
    return failed(POSITIONS_BY_LENGTH, evidence)


def wrong_distance(p: Patient) -> Verdict | None:
    """Return, for a model with relative positions, whether scores depend on how far away a key is, and near ones count more.

    Such a model gives one token repeated the same logits at every position.
    """
    ids, noisy = torch.full_like(p.ids(1, p.T), p.vocab - 1), perturbed_weights(p)
    with p.weights(lambda name, value: noisy[name] if value.dim() > 1 else None):  # gains after a rotation stay equal
        tape, logits = watch(p, ids), p.logits(ids)
    if not tape.scores or largest_change(logits[:, 1:], logits[:, :1]).max() > ONE_TOKEN_REPEATED * tolerance(p, logits):
        return None
    scores = tape.scores[0].float().reshape(-1, p.T, p.T)  # (N, T, T)
    scores = scores.masked_fill(future(p.T, scores.device) | (scores < HIDDEN_SCORE), math.nan)
    own = scores.diagonal(dim1=1, dim2=2)  # (N, T): of each token with itself
    scores = scores - own[..., None]  # (N, T, T) - (N, T, 1): relative to the own token's
    size = scores.nan_to_num(0).abs().max().item()
    if size < FLAT_SCORES:
        wide = (own.amax(dim=1) - own.amin(dim=1)).nan_to_num(0).max().item()
        evidence = f"one token repeated: a query scores all keys alike at any distance, but queries differ by up to {wide:.2g}"
        return warned(DISTANCE_UNEVEN, evidence) if wide > UNEVEN_QUERIES else None
    along = (scores[:, 1:, 1:] - scores[:, :-1, :-1]).nan_to_num(0).abs().max().item()  # one step down, one to the right
    if along > SAME_DISTANCE * size:
        evidence = f"one token repeated: scores of keys at equal distance differ by up to {along:.2g}, of a range of {size:.2g}"
        return warned(DISTANCE_UNEVEN, evidence)
    last = scores[:, -1].flip(-1)  # (N, T): by distance 0, 1, 2 …
    steps = last.diff(dim=-1)
    if steps.isfinite().all() and (steps > RISING).all() and (steps.diff(dim=-1).abs() < SAME_DISTANCE * steps.mean()).all():
        evidence = f"one token repeated: each step further away raises a key's score by {steps.mean():.2g}"
        return failed(DISTANCE_INVERTED, evidence)
    return None


def wrong_rows(p: Patient) -> Verdict | None:
    """Return whether other rows of a table of positions are looked up than 0, 1, 2 …"""
    looked_up, long = {}, p.interface.long
    with contextlib.suppress(ModelError):  # whether it accepts them is the subject of lengths
        looked_up = {lookup.name: lookup.rows for lookup in watch(p, p.ids(1, long)).embeddings}
    for lookup in p.interface.positions:
        name, seen = lookup.name, lookup.rows.flatten().tolist()
        distant = looked_up.get(name, lookup.rows).flatten().tolist()
        if len(set(distant)) < min(long, len(distant)) and len(set(seen)) == p.T:
            at = next(i for i in range(1, len(distant)) if distant[i] in distant[:i])
            evidence = f"{name}: position {at} of {long} gets row {distant[at]}, which an earlier one had"
            return failed(POSITIONS_WRAP, evidence)
        seen = seen[: len(seen) // (ROWS if len(seen) > p.T else 1)]  # the same for each row of the batch
        first, table = seen[0], name or "the table of positions"
        if seen != list(range(first, first + p.T)):
            how = "the rows run backwards: " if seen[-1] < first else ""
            how = "all positions get the same row: " if len(set(seen)) == 1 else how
            return failed(positions_wrong(how), f"rows {first_few(seen, 6)} of {table} are looked up")
        if 1 <= first <= 2 and lookup.length <= p.block + first - 1 and not p.has_padding(name):
            evidence = (
                f"{table} has {lookup.length} rows, and rows {first} to {first + p.T - 1} are looked up: row 0 is never used, "
                "and the last position has none"
            )
            return failed(POSITIONS_OFF_BY_ONE, evidence)
    return None


def order_ignored(p: Patient) -> Verdict:
    """Return whether swapped tokens, or one token repeated, show that positions do not reach the residual stream."""
    ids = p.ids(1, p.T)
    ids[0, 0], ids[0, 1] = 0, 1 % p.vocab
    swapped = ids.clone()
    swapped[0, :2] = ids[0, :2].flip(0)
    constant = torch.full_like(p.ids(ROWS, p.T), p.vocab - 1)
    with perturbed(p):
        both = p.logits(torch.cat([ids, swapped]))  # (2, T, V)
        same = p.logits(constant[:1])
    change, allowed = largest_change(both[0, -1], both[1, -1]).item(), tolerance(p, both)
    if change <= allowed and dependence_in_eval(p)[0][-1, :2].min() > allowed:
        verdict = failed if any(a.q is not None for a in perturbed_tape(p).attentions) else warned
        evidence = f"swapping tokens 0 and 1 moves the last logits by {change:.1g}: the order of earlier tokens does not matter"
        return verdict(POSITIONS_IGNORED, evidence)
    unmoved = largest_change(same[0, 1:], same[0, :1]).max() <= ONE_TOKEN_REPEATED * allowed
    if unmoved and perturbed_tape(p).attentions:
        with perturbed(p):
            W = flat(watch(p, constant).attentions[0].weights)[:, -1]  # (N, T): of the last query
        W = W[:, W.amax(dim=0) > 0]
        if W.numel() and (W.amax(dim=1) - W.amin(dim=1)).max() < EVEN_WEIGHTS:
            evidence = "one token repeated gets the same logits at every position, and uniform attention weights"
            if named := [n for n in p.parameters if any(w in n.lower().replace("post", "") for w in ("pos", "wpe"))]:
                return failed(positions_lost(named[0]), evidence)
            angles = perturbed_tape(p).angles
            if angles and not any(p.T in shape for shape in angles):
                elsewhere = angles[0]
                q = perturbed_tape(p).attentions[0].q
                heads = 0 if q is None else q.shape[1] if q.dim() == 4 else len(q) // ROWS
                return failed(rotary_elsewhere(elsewhere, heads, p.T), f"{evidence}; cosines of shape {elsewhere}")
            return warned(NO_POSITIONS, evidence)
    return passed(f"swapping tokens 0 and 1 moves the last logits by {change:.2g}")


# ----- lengths

NAN_LAYER = "find the first layer that returns NaN"
LENGTH_1 = Cause("an axis of length 1 is lost (squeeze?)", "call model(ids[:, :1]) by hand")
LENGTH_OFF_BY_ONE = Cause("positions are off by one: they count from 1", f"{ARANGE}: they start at 0")
LENGTH_ONE_SHORT = Cause(
    "the table of positions is one row short, a comparison is < where <= is meant, or positions count from 1",
    "block_size tokens need block_size rows, 0 to block_size - 1",
)
NAN_EVERYWHERE = Cause("as at other lengths: see answers", NAN_LAYER)
NAN_AT_ONE = Cause("statistics of a single position (std over time with one element)", "no statistics over time")
NAN_AT_END = Cause("overflow, or a bad last row", NAN_LAYER)
CROPPED_SILENTLY = Cause(
    "the input is cut to the block size inside forward, silently", "raise a ValueError in forward; crop in generate()"
)
WRAPS_PAST_END = Cause(
    "positions wrap around or are clamped past the end (modulo, clamp), silently",
    "raise a ValueError for more than block_size tokens",
)


def kept_from_earlier(name: str) -> Cause:
    return Cause(
        f"{name} was made for the length of an earlier call and kept",
        "make it once for block_size, and slice it to (T, T) in forward",
    )


def fewer_than_stated(T: int) -> Cause:
    return Cause("it takes fewer tokens than it states", f"call model(ids[:, :{T}]) by hand")


def some_lengths_only(T: int) -> Cause:
    return Cause("it takes some lengths only", f"call model(ids[:, :{T}]) by hand")


@check("lengths", essential=True)
@torch.no_grad()
def lengths(p: Patient) -> Verdict:
    """Logits are finite from 1 token to block_size, and what lies past it is refused."""
    if problem := length_problem(p):
        return problem
    face = p.interface
    wide, fine = p.block + 1, f"finite at 1, 2 and {face.long} tokens"
    if p.block > LONGEST_PAST_END or (face.last_position is None and face.block_from == "by trying"):
        return passed(f"{fine}; no limit was found up to {face.long}")
    try:
        answer = p.call(p.ids(1, wide), p.ids(1, wide) if p.mode == "targets" else None)
    except ModelError as error:
        return passed(f"{fine}; {wide} are refused: {error}")
    found = p.find_logits(answer, 1, wide)
    if found is None or (found.dim() == 3 and p.mode != "prefixes" and wide not in found.shape):
        return warned(CROPPED_SILENTLY, f"{wide} tokens give {describe(answer)}: fewer logits than tokens, and no error")
    if face.last_position is not None and face.last_position < wide:
        evidence = f"{wide} tokens raise no error, but there are only {face.last_position} positions ({face.block_from})"
        return failed(WRAPS_PAST_END, evidence)
    return passed(f"{fine}; more than {p.block} are accepted too, and no table of positions ends there")


@once
@torch.no_grad()
def length_problem(p: Patient) -> Verdict | None:
    """Return what goes wrong with 1 or 2 tokens, or with block_size of them (at most interface.long)."""
    for T in dict.fromkeys((1, 2, p.interface.long)):
        if p.block >= T and (problem := wrong_at_length(p, T)):
            return problem
    return None


def wrong_at_length(p: Patient, T: int) -> Verdict | None:
    """Return what goes wrong with T tokens."""
    torch.backends.mha.set_fastpath_enabled(True)  # as it is outside: it reads masks that the slow way ignores
    try:
        logits = p.as_logits(p.call(p.ids(2, T)), 2, T) if p.mode == "prefixes" else p.logits(p.ids(2, T))
    except ModelError as error:
        if T == 1 < p.block and isinstance(error.error, AssertionError) and str(error.error):
            return None  # it is refused with a message
        cause, evidence = explain_length(p, T), f"with {T} of {p.block} tokens ({p.interface.block_from}) it fails: {error}"
        if cause is LENGTH_ONE_SHORT:
            evidence = f"it takes at most {T - 1} tokens, although {stated_block(p)}: {error}"
        return failed(cause, evidence, error.where)
    finally:
        torch.backends.mha.set_fastpath_enabled(False)
    if logits.isfinite().all():
        return None
    everywhere = not p.logits(p.ids(2, p.T)).isfinite().all()
    if not p.finite and (everywhere or p.logits(torch.zeros_like(p.ids(2, T))).isfinite().all()):
        return skipped("answers failed. Fix that first", Reason.DEPENDS)  # it is of those tokens, not of this length
    cause = NAN_EVERYWHERE if everywhere else NAN_AT_ONE if T == 1 else NAN_AT_END
    return failed(cause, f"NaN or infinity in the logits for {T} tokens")


def stated_block(p: Patient) -> str:
    """Return where the block size is stated, as a clause."""
    source = p.interface.block_from
    if source == "given":
        return f"block_size={p.block} was given"
    return f"{source} has {p.block} rows" if source in p.all_tensors() else f"{source} is {p.block}"


def explain_length(p: Patient, T: int) -> Cause:
    """Return why it fails with T tokens."""
    kept = [name for name, x in unregistered_tensors(p.model).items() if x.dim() > 1 and T != x.shape[-1] == x.shape[-2]]
    if set(kept) - set(p.unregistered):
        return kept_from_earlier(kept[0])
    if T == p.block > 2 and p.accepts(T - 1):
        return LENGTH_OFF_BY_ONE if any(x.rows.min() == 1 for x in p.interface.positions) else LENGTH_ONE_SHORT
    return LENGTH_1 if T == 1 else fewer_than_stated(T) if p.block == T else some_lengths_only(T)
