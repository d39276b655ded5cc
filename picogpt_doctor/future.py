"""The check of causality: no position depends on later tokens. How it is tried, and what explains a leak."""

from __future__ import annotations

import contextlib
import math
import time

import torch
from torch import Tensor, nn

from .basics import BATCH_MIXED, BATCH_NORM
from .leaks import (
    ATTENTION,
    CHOICE,
    CONVOLUTION,
    FOURIER,
    MATRIX,
    NORM,
    ORDER,
    ROLL,
    RUNNING,
    SHIFT,
    Leak,
    first_leak,
)
from .patient import ROWS, ModelError, Patient, model_code
from .probes import (
    ATTENDS,
    CHANGED,
    CUTS_IN_HALF,
    CUTS_IN_TRAINING,
    DISTINCT_FILL,
    FEW_PAIRS,
    FILLED_WITH_ZERO,
    FORESEEN,
    FULL_SECONDS,
    FULL_TOKENS,
    FULL_WORK,
    HIDDEN_SCORE,
    LEAKING_GRADIENT,
    LEAKING_IN_HALF,
    LONGEST_FULL,
    MOST_PAIRS,
    OUT_OF_REACH,
    ROUNDING_GRADIENT,
    SAME_SCORE,
    STILLED,
    TOKENS_AT_ONCE,
    dependence,
    dependence_in_eval,
    flat,
    future,
    is_batch_norm,
    largest_change,
    loss_on_random_ids,
    once,
    perturbed,
    perturbed_tape,
    row_effects,
    tolerance,
    watch,
)
from .registry import check
from .report import Cause, Verdict, failed, first_few, listed, passed, warned
from .tape import Attention, Tape

# ----- causes

BEFORE_SOFTMAX = "fill the scores with -inf before the softmax"
OVER_KEYS = "softmax(dim=-1): over the keys, so that each row is a distribution"
OVER_FEATURES = "nn.LayerNorm(n_embd): over the features of one position"
SHIFT_RIGHT = "shift by padding on the left and cutting on the right"
COMPARE = "which operation mixes positions? Compare two texts that differ in their last token, line by line"

TARGETS_FED_IN = Cause("the targets reach the logits, and they are the future", "use targets for the loss only")
SEES_THE_ANSWER = Cause(
    "it sees the answer in a way that changes of single tokens do not show", "is the target part of its input?"
)
BACKWARDS = Cause(
    "time runs backwards: positions depend on later tokens and on none of the earlier ones (a loop or a scan from the end, a "
    "reversed input)",
    "go through the positions from 0 on",
)
BIDIRECTIONAL = Cause("a recurrent layer with bidirectional=True reads the text from the end as well", "bidirectional=False")


def cause_not_known(where: str) -> Cause:
    return Cause(
        f"not known; the future enters in {where}: the same input at early positions, and another output", COMPARE, vague=True
    )


OUTSIDE_THE_LAYERS = Cause(
    "not known; no layer shows it: something outside of them mixes positions (ids, a mask made of them, targets)",
    COMPARE,
    vague=True,
)


def fourier(where: str, points: int, T: int, inverse: bool) -> Cause:
    if not inverse:
        return Cause(
            f"in {where} a Fourier transform over time mixes all positions, later ones too (as in FNet, an encoder)",
            "causal attention, or a causal convolution",
        )
    if points < 2 * T - 1:
        return Cause(
            f"in {where} a filter over time by FFT is circular: with {points} points for {T} positions what is at the "
            "end wraps around to the start",
            "pad to twice the length before the transform: n = 2 * T",
        )
    return Cause(
        f"in {where} a filter over time by FFT is not causal: its response has weight at negative lags, "
        "which are later positions",
        "make the kernel in time, for lags 0, 1, 2 … only, and transform that",
    )


def pooled(where: str, what: str) -> Cause:
    return Cause(
        f"in {where} {what}: early positions get statistics over time that later ones are part of",
        "summarise what is complete before the position: a running mean, or the chunk before this one",
    )


def chosen(where: str, what: str) -> Cause:
    return Cause(
        f"in {where} {what}, over all positions: whether a token is taken depends on later tokens (as in expert choice)",
        "let each token decide for itself: top-k over the experts, or a threshold",
    )


def convolved(where: str, what: str) -> Cause:
    return Cause(
        f"in {where} {what} is padded on both sides, or on the right, and sees the next tokens",
        "pad on the left only: F.pad(x, (kernel - 1, 0))",
    )


def strided(where: str, what: str) -> Cause:
    return Cause(
        f"in {where} {what} summarises several positions, and the early ones of them get the summary too",
        "give a position summaries of what is complete before it: shift them by one",
    )


def rolled(where: str) -> Cause:
    return Cause(
        f"in {where} torch.roll shifts the positions in a circle: the last ones come to lie beside the first, in one group or "
        "window with them, and these see the future",
        "pad, and cut off, instead of roll: F.pad(x, (0, 0, n, 0)); or mask what has come round from the other end",
    )


def moved(where: str, what: str) -> Cause:
    return Cause(f"in {where} {what} brings later tokens to earlier positions", SHIFT_RIGHT)


def matrix_over_time(where: str) -> Cause:
    return Cause(
        f"in {where} a matrix over time (a linear layer from positions to positions) has weight above its diagonal",
        "make it causal: weight.tril()",
    )


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


def mask_off_by(where: str, steps: int) -> Cause:
    seen = "the one after it" if steps == 1 else f"the {steps} after it"
    return Cause(
        f"the mask is off by {'one' if steps == 1 else steps}: in {where} each position also sees {seen}",
        "tril(diagonal=0): position t sees 0 … t",
    )


def mask_open_in_chunks(where: str, chunk: int) -> Cause:
    return Cause(
        f"in {where} the mask is open inside chunks of {chunk}: a position sees the later ones of its own chunk",
        "a mask of chunks must be causal too: chunk_mask & tril()",
    )


def mask_open_prefix(where: str, n: int) -> Cause:
    return Cause(
        f"in {where} the first {n} positions see each other in both directions (a prefix mask)",
        "right for a prompt that is given, wrong where each token is to be predicted: tril()",
    )


def mask_open_rows(where: str, rows: list[int]) -> Cause:
    return Cause(
        f"in {where} the mask is missing in row {first_few(rows)}: it sees all positions", "tril(): each row has its mask"
    )


def mask_has_holes(where: str, pairs: list[tuple[int, int]]) -> Cause:
    holes = ", ".join(f"position {t} sees token {j}" for t, j in pairs[:3]) + (" …" if len(pairs) > 3 else "")
    return Cause(f"in {where} the mask has {'a hole' if len(pairs) == 1 else 'holes'}: {holes}", "tril(), made in one step")


def mask_excludes_self(where: str, row: int) -> Cause:
    return Cause(
        f"in {where} row {row} of the mask blocks everything, and the softmax of equal numbers is uniform over all positions: "
        "the mask also excludes the position itself",
        "tril(diagonal=0), not -1: a position must see itself",
    )


def mask_multiplies(where: str) -> Cause:
    return Cause(f"in {where} the mask multiplies the scores: the future gets the score 0, and exp(0) = 1", BEFORE_SOFTMAX)


def mask_finite(where: str, value: float, lowest: float) -> Cause:
    below = f", and scores of the past lie below it (down to {lowest:.5g})" if lowest < value else ""
    return Cause(
        f"in {where} the mask fills with {value:.5g}, not with -inf: the future keeps some weight{below}", BEFORE_SOFTMAX
    )


def mask_undone(where: str, value: float, how: str) -> Cause:
    """The cause for a mask of -inf that something after it makes finite."""
    return Cause(
        f"{where}{how} comes after the mask and turns its -inf into {value:.5g}: the future keeps some weight",
        "cap, clamp or clean the scores first, then fill those of the future with -inf",
    )


def mask_within_reach(value: float) -> Cause:
    return Cause(
        f"the mask fills with {value:.5g}, not with -inf: scores can fall below that in training, and then the future is open "
        "(minGPT #75, transformers #17121)",
        "fill with -inf, or torch.finfo(scores.dtype).min",
    )


def no_mask(where: str, share: float, fused: str) -> Cause:
    place, head, rest = where.partition(", head ")  # of name_attentions
    subject = f"head {rest.removesuffix(' only')} has no causal mask, in {place}" if head else f"no causal mask in {where}"
    return Cause(
        f"{subject}: {share:.0%} of the attention goes to the future{f' ({fused} was given)' * bool(fused)}",
        "fill the scores of all tokens after t with -inf before the softmax, or is_causal=True in scaled_dot_product_attention",
    )


def mask_wrong(where: str, share: float) -> Cause:
    return Cause(
        f"the mask in {where} lets some of the future through: {share:.0%} of the attention goes there",
        "print it: tril() is right",
    )


def norm_over_time(kind: str, shape: tuple, dims: tuple) -> Cause:
    return Cause(
        f"{kind} over the axis of time: statistics over time, of a tensor {shape} over axes {dims}, mix all positions",
        OVER_FEATURES,
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


# ----- the check


@check("causality", needs=("side effects", "repeats"), essential=True)
def causality(p: Patient) -> Verdict:
    """No position depends on later tokens: at 13 and at up to 1,024 tokens, in both modes, with targets, by gradient."""
    if (change := effect_of_targets(p)) > 0:
        return failed(TARGETS_FED_IN, f"other targets move the logits by up to {change:.3g}")
    if p.mode == "prefixes":
        return passed("it answers for the last position only, and is given nothing that comes later")
    full, tried, exact = full_length(p), [], ""
    for T in dict.fromkeys((p.T, full)):
        cuts, done = cuts_of(p, T), T - 1
        for training in (False, True):
            leak, n = (short_leak(p, training), T - 1) if T == p.T else full_leak(p, T, cuts, training)
            done = done if training else n
            if leak is not None:
                return leak
        share, exact = gradient_from_future(p, T, cuts)
        if share > 0:
            evidence = f"at {T} tokens the gradient of early logits by later tokens is {share:.2g} of the largest, not 0"
            cut = next((c for c in cuts if gradient_from_future(p, T, [c])[0] > 0), cuts[0])
            return explained(p, *suffixes(p, T, cut), False, evidence, exact=True)
        some = "" if done == T - 1 else f" (after {done} of its positions)"
        tried += [f"{T}{f' of {p.block:,}' if full == T else ''}{some}"] if done else []
    loss, blind = loss_on_random_ids(p), math.log(p.vocab)
    if loss is not None and p.interface.out_vocab > 4 and loss < blind - FORESEEN:
        evidence = f"on random ids, which nobody can predict, its loss is {loss:.2f}, below ln V = {blind:.2f}"
        return failed(SEES_THE_ANSWER, evidence)
    if p.handed_over and (leak := half_leak(p, full)):
        return leak
    evidence = f"other tokens moved no position before them, in evaluation and training mode, at {listed(tried)} tokens{exact}"
    evidence += STILLED * p.stilled
    fill = reachable_fill(perturbed_tape(p))
    if fill is None:
        return passed(evidence)
    value, how = fill
    return warned(mask_undone("", value, how) if how else mask_within_reach(value), evidence)


@torch.no_grad()
def half_leak(p: Patient, full: int) -> Verdict | None:
    """Return the verdict on a leak that is there in the half precision of its weights only: a decay, a fill or a position is
    rounded. All else is asked in float32, as rounding moves logits in half precision."""
    what = str(next(iter(p.handed_over.values())).dtype).removeprefix("torch.")
    for T in dict.fromkeys((p.T, full)):
        cuts = cuts_of(p, T)[:CUTS_IN_HALF]
        texts = torch.cat([torch.cat(suffixes(p, T, cut)) for cut in cuts])  # (2 * cuts, T): in pairs
        try:
            with p.in_half(), perturbed(p):
                logits = torch.cat([p.logits(pair) for pair in texts.split(2)])  # (2 * cuts, T, V)
        except ModelError:  # that it fails is the subject of precision
            return None
        effects = largest_change(logits[::2].float(), logits[1::2].float()).nan_to_num(0).cpu()  # (cuts, T)
        early = torch.arange(T)[None] <= torch.tensor(cuts)[:, None]  # (cuts, T)
        moved, usual = effects.masked_fill(~early, 0), effects.masked_fill(early, 0).amax()
        if not moved.any():
            continue
        with p.in_half(), perturbed(p):
            cause = open_in_half(what, watch(p, p.ids(ROWS, T)))
        if cause.vague and moved.max() <= LEAKING_IN_HALF * usual:  # too little to say so without weights that show it
            continue
        row = int(moved.amax(dim=1).argmax())
        at = int(moved[row].argmax())
        evidence = (
            f"in {what}, as it was handed over, position {at} of {T} depends on tokens after {cuts[row]}: its logits move by "
            f"{moved.max():.2g} (those of the later ones by up to {usual:.2g}); with the same weights in float32 it does not"
        )
        return failed(cause, evidence)
    return None


def open_in_half(what: str, tape: Tape) -> Cause:
    """The cause for a leak in half precision only: by the attentions and heads that see later tokens, if some were recorded."""
    later = future(tape.T, tape.ids.device)
    leaks = [(flat(a.weights).float()[:, later].abs() > ATTENDS).any(dim=1) for a in tape.attentions]  # (N,) each
    open_ones = [i for i, heads in enumerate(leaks) if heads.any()]
    where = name_attentions(open_ones, leaks[open_ones[0]], len(leaks)) if open_ones else ""
    where, _, heads = where.partition(", ")
    who = f"{heads.removesuffix(' only')} of {where}" if heads else where or "a position"
    return Cause(
        f"in {what} {who} sees later tokens: what hides them is rounded away (a decay of nearly 1 that becomes 1, a power or "
        "a sum that does not reach 0, positions above 256 that become equal)",
        "make masks of booleans, decays and positions in float32, and round what comes out; masked_fill hides in any precision",
        vague=not where,
    )


def affordable_tokens(p: Patient) -> float:
    """Return how many tokens this model reads for FULL_WORK."""
    return FULL_WORK / max(sum(x.numel() for x in p.parameters.values()), 1)


def full_length(p: Patient) -> int:
    """Return the length of the long texts: the block size, unless that is too much work for this model."""
    return p.block if p.block <= LONGEST_FULL and ROWS * p.block <= affordable_tokens(p) else p.interface.long


def cuts_of(p: Patient, T: int) -> list[int]:
    """Return positions after which all tokens are changed, coarse to fine: as many as are affordable, all of a short text."""
    most = max(2, int(min(FULL_TOKENS, affordable_tokens(p)) / max(T, 1)))
    order, step = [T - 2, 0], T - 1
    while step > 1 and len(order) < T - 1:
        step = (step + 1) // 2
        order += [c for c in range(step, T - 1, step) if c not in order]
    return [c for c in dict.fromkeys(order) if 0 <= c < T - 1][:most]


def short_leak(p: Patient, training: bool) -> Verdict | None:
    """Return the verdict on a leak between any two of p.T tokens."""
    if training:
        with p.asked_in(True), perturbed(p):
            targets = p.ids(1, p.T, 5) if p.interface.both else None
            effects, allowed = dependence(p, p.ids(1, p.T), targets, together=False)  # the same dropout for each
    else:
        effects, allowed = dependence_in_eval(p)
        if (effects * future(p.T) > allowed).any() and rows_are_apart(p):
            with perturbed(p):
                effects, allowed = dependence(p, p.ids(1, p.T), together=False)  # see full_leak
    effects = effects * future(p.T)
    pairs = (effects > allowed).nonzero().tolist()
    if not pairs:
        return None
    if training and not p.stilled:
        p.stilled = True  # it may be dropout: see Stilled
        return short_leak(p, training)
    evidence = what_depends(pairs, p.T, training, effects.max().item(), allowed)
    one = p.ids(1, p.T)
    two = one.clone()
    token = int(effects.max(dim=0).values.argmax())  # the later token with the largest effect
    two[:, token] = p.changed_tokens(two[:, token])
    return explained(p, one, two, training, evidence)


def full_leak(p: Patient, T: int, cuts: list[int], training: bool) -> tuple[Verdict | None, int]:
    """Return the verdict on a leak in a text of T tokens, all changed after a cut, and how many cuts were tried."""
    cuts = cuts[:CUTS_IN_TRAINING] if training else cuts
    together = not training and rows_are_apart(p)
    try:
        with p.asked_in(training), perturbed(p):
            effects, allowed = suffix_effects(p, T, cuts, together)
            tried, far = len(effects), (effects > allowed).any(dim=1).tolist()
            if together and any(far):  # the kernel for several rows may round otherwise than the one for a single row
                cuts = [cut for cut, found in zip(cuts, far, strict=False) if found]
                effects, allowed = suffix_effects(p, T, cuts, together=False)
                tried -= len(cuts) - len(effects)  # the time was up
                if not (effects > allowed).any() and (moved := moved_by_other_rows(p, T, len(far))) > allowed:
                    evidence = f"at {T} tokens, other tokens in the other rows move the logits of one by up to {moved:.3g}"
                    return failed(BATCH_MIXED, evidence), tried
    except ModelError:  # that it fails is the subject of lengths
        return None, 0
    if not (effects > allowed).any():
        return None, tried
    if training and not p.stilled:
        p.stilled = True
        return full_leak(p, T, cuts, training)
    row = int(effects.max(dim=1).values.argmax())
    positions = (effects[row] > allowed).nonzero().flatten().tolist()
    with p.asked_in(training), perturbed(p):
        ahead = [j for j in range(cuts[row] + 1, T) if single_effect(p, T, j, positions[0]) > allowed] or [cuts[row] + 1]
    pairs = [(positions[0], j) for j in ahead] + [(t, t + ahead[0] - positions[0]) for t in positions]
    evidence = what_depends(pairs, T, training, effects.max().item(), allowed)
    return explained(p, *telling_texts(p, T, cuts[row], training), training, evidence), tried


def what_depends(pairs: list, T: int, training: bool, size: float, allowed: float) -> str:
    """Return in words which positions depend on which later tokens."""
    ahead, positions = sorted({j - t for t, j in pairs}), sorted({t for t, _ in pairs})
    span = f"+{ahead[0]}" if len(ahead) == 1 else f"+{ahead[0]} to +{ahead[-1]}"
    subject = f"positions {first_few(positions)} depend" if len(positions) > 1 else f"position {positions[0]} depends"
    return (
        f"in {'training' if training else 'evaluation'} mode, at {T} tokens, {subject} on future tokens: the logits move by up "
        f"to {size:.3g} when the token at offset {span} changes (rounding: {allowed:.1g})"
    )


def rows_are_apart(p: Patient) -> bool:
    effect, difference, allowed = row_effects(p, False)
    return max(effect, difference) <= allowed


@torch.no_grad()
def moved_by_other_rows(p: Patient, T: int, rows: int) -> float:
    """Return how far the logits of a row of T tokens move when all other rows of its batch change."""
    ids = p.ids(1, T).repeat(min(rows, max(1, TOKENS_AT_ONCE // T)), 1)  # (rows, T)
    other = ids.clone()
    other[1:] = p.changed_tokens(other[1:])
    return largest_change(p.logits(ids), p.logits(other))[0].max().item()


@torch.no_grad()
def suffix_effects(p: Patient, T: int, cuts: list[int], together: bool) -> tuple[Tensor, float]:
    """Return (cuts, T): how far the logits at each position up to a cut move when all tokens after it change; and what rounding
    may do. It may be fewer cuts, where the model is slow."""
    base = p.ids(1, T)
    changed = base.repeat(len(cuts), 1)  # (cuts, T)
    for row, cut in enumerate(cuts):
        changed[row, cut + 1 :] = p.changed_tokens(changed[row, cut + 1 :])
    at_once = max(1, TOKENS_AT_ONCE // T) if together else 1
    effects, allowed, tried, began = torch.zeros(len(cuts), T), 0.0, 0, time.process_time()
    reference = p.logits(base)
    for first in range(0, len(cuts), at_once):
        rows = changed[first : first + at_once]
        logits = p.logits(rows)  # (rows, T, V)
        effects[first : first + len(rows)] = largest_change(logits, reference).cpu()
        allowed, tried = max(allowed, tolerance(p, logits)), first + len(rows)
        if time.process_time() - began > FULL_SECONDS:
            break
    early = torch.arange(T)[None] <= torch.tensor(cuts)[:, None]  # (cuts, T)
    return (effects * early)[:tried], allowed


@torch.no_grad()
def single_effect(p: Patient, T: int, token: int, position: int) -> float:
    """Return how far the logits at a position move when a single token changes."""
    base = p.ids(1, T)
    other = base.clone()
    other[:, token] = p.changed_tokens(other[:, token])
    return largest_change(p.logits(base)[:, position], p.logits(other)[:, position]).item()


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


def reachable_fill(tape: Tape) -> tuple[float, str] | None:
    """Return the number that a mask fills with where it is finite and scores can fall below it, and what made it finite.

    Only of scores that were masked: those above the diagonal are one number, or lie far below all others. A kernel that masks
    by itself, out of sight, leaves them as they are.
    """
    T = tape.T
    later = future(T, tape.ids.device)
    for attention in tape.attentions:
        if attention.scores is None or attention.axis != "keys" or T < 2:
            continue
        scores = attention.scores.float().reshape(-1, T, T)
        hidden, seen = scores[:, later], scores[:, ~later]
        if not hidden.isfinite().all() or hidden.max() <= OUT_OF_REACH:
            continue
        seen = seen[seen > HIDDEN_SCORE]
        one_number = hidden.numel() > 1 and hidden.std() < SAME_SCORE * max(1.0, hidden.abs().max().item())
        far_below = seen.numel() > 0 and seen.min() - hidden.max() > DISTINCT_FILL * (seen.max() - seen.min())
        if one_number or far_below:
            return hidden.max().item(), undone(attention)
    return None


def undone(attention: Attention) -> str:
    """Return in words what came after an attention's mask and made its -inf finite, "" if nothing did."""
    how, lowest = attention.facts.raised
    return how if lowest < HIDDEN_SCORE else ""


# ----- by gradient


def gradient_from_future(p: Patient, T: int, cuts: list[int]) -> tuple[float, str]:
    """Return the largest gradient that flows from logits up to a cut back to tokens after it, relative to that to earlier ones,
    0.0 if there is none but rounding; and in words whether it was exactly 0.

    Where nothing depends on a token the gradient by its embedding is exactly 0, whatever the weights: no tolerance is needed.
    The exception are filters by FFT, which round: in double precision that shrinks, and a leak does not.
    """
    if (module := p.table_module()) is None:
        return 0.0, ""
    try:
        with perturbed(p):
            share = embedding_gradients(p, module, T, cuts)
        if share is None:
            return 0.0, ""
        if share == 0:
            return 0.0, "; the gradients are exactly 0"
        with contextlib.suppress(ModelError), perturbed(p), p.in_double():
            exact = embedding_gradients(p, module, T, cuts)
            return (0.0 if exact is None or exact < ROUNDING_GRADIENT else exact), "; the gradients are 0 within rounding"
    except ModelError:  # changed tokens have shown what they can; this is the subject of gradients and lengths
        return 0.0, ""
    return (share, "") if share > LEAKING_GRADIENT else (0.0, "")


def embedding_gradients(p: Patient, module: nn.Module, T: int, cuts: list[int]) -> float | None:
    """Return the largest gradient of logits up to a cut by embeddings after it, as a share of the largest of all; None if no
    gradient reaches the embeddings."""
    share, at_once, answered, began = 0.0, max(1, TOKENS_AT_ONCE // (2 * T)), False, time.process_time()
    pull = torch.randn(T, generator=torch.Generator().manual_seed(1)).to(p.device)
    together = rows_are_apart(p)
    for first in range(0, len(cuts), at_once if together else 1):
        if time.process_time() - began > FULL_SECONDS:
            break
        some = torch.tensor(cuts[first : first + (at_once if together else 1)], device=p.device)
        leaves: list[Tensor] = []

        def replace(module, args, output, leaves=leaves):
            if isinstance(output, Tensor) and output.is_floating_point():
                leaves.append(output.detach().requires_grad_())
                return leaves[-1]
            return None

        hook = module.register_forward_hook(replace)
        try:
            with torch.enable_grad():
                logits = p.logits(p.ids(1, T).expand(len(some), -1))  # (rows, T, V)
                if not logits.requires_grad or not leaves:
                    return None
                early = torch.arange(T, device=p.device)[None] <= some[:, None]  # (rows, T)
                weights = torch.linspace(-1, 1, logits.shape[-1], device=p.device).to(logits.dtype)
                mean = (logits.nan_to_num(0, 0, 0) * weights).sum(-1) * pull.to(logits.dtype)  # (rows, T)
                with model_code():
                    grads = torch.autograd.grad((mean * early).sum(), leaves, allow_unused=True)
        finally:
            hook.remove()
        for grad in grads:
            size = by_position(grad, len(some), T)
            if size is not None:
                answered = True
                late = size.masked_fill(early, 0).max()
                share = max(share, (late / size.max().clamp(min=1e-30)).item())
    return share if answered else None


def by_position(grad: Tensor | None, rows: int, T: int) -> Tensor | None:
    """Return (rows, T), the size of a gradient (rows, T, C), (T, rows, C) or (rows * T, C); None of another."""
    if grad is None or grad.dim() < 2:
        return None
    size = grad.double().nan_to_num(0).abs().amax(dim=-1)
    if tuple(size.shape[:2]) == (rows, T):
        return size.reshape(rows, T, -1).amax(dim=-1)
    if tuple(size.shape[:2]) == (T, rows):
        return size.reshape(T, rows, -1).amax(dim=-1).T
    return size.view(rows, T) if size.dim() == 1 and len(size) == rows * T else None


# ----- why does it depend on future tokens?


def explained(p: Patient, one: Tensor, two: Tensor, training: bool, evidence: str, exact: bool = False) -> Verdict:
    """Return the failure for a leak that shows in two texts (1, T), with its cause, its layer and its line."""
    leak = first_leak(p, one, two, training, exact)
    with p.asked_in(training), perturbed(p):
        tape = watch(p, p.ids(ROWS, one.shape[1]))
    cause = explain_leak(p, tape, leak)
    if training:
        cause = Cause(f"in training mode only: {cause.text}", cause.advice, cause.vague)
    p.known_leak = None if cause.vague else cause
    if leak is not None:
        evidence += f"; the first layer that leaks: {leak.place}"
    return failed(cause, evidence, leak.line if leak else "")


def suffixes(p: Patient, T: int, cut: int) -> tuple[Tensor, Tensor]:
    """Return two texts (1, T) that differ in all tokens after a cut."""
    one = p.ids(1, T)
    two = one.clone()
    two[:, cut + 1 :] = p.changed_tokens(two[:, cut + 1 :])
    return one, two


def telling_texts(p: Patient, T: int, cut: int, training: bool) -> tuple[Tensor, Tensor]:
    """Return two texts in which the leak shows, if possible of a length that no other axis has: an axis so long is time's."""
    others = {n for x in p.all_tensors().values() for n in x.shape}
    primes = [n for n in range(T - 1, p.T, -1) if n not in others and all(n % d for d in range(2, int(n**0.5) + 1))]
    for length in primes[:4]:
        cuts = list(dict.fromkeys((min(cut, length - 2), *cuts_of(p, length)[:24])))
        with contextlib.suppress(ModelError), p.asked_in(training), perturbed(p):
            effects, allowed = suffix_effects(p, length, cuts, together=False)
            if (effects > allowed).any():
                return suffixes(p, length, cuts[int(effects.max(dim=1).values.argmax())])
    return suffixes(p, T, cut)


def explain_leak(p: Patient, tape: Tape, leak: Leak | None) -> Cause:
    """Return the cause of a leak: of the operation that was found to be to blame, of the attentions, or of a reshape."""
    what = leak.what if leak else ""
    if leak and getattr(leak.module, "bidirectional", False):
        return BIDIRECTIONAL
    if leak and is_batch_norm(leak.module):
        return BATCH_NORM
    if what in ("", ATTENTION) and (cause := explain_softmax(tape) or explain_mask(tape)):
        return cause
    if leak and what and what != ATTENTION:
        return explain_operation(leak, tape)
    if reshape := mixing_heads(p):
        return reshape
    if leak and what == ATTENTION:
        return matrix_over_time(leak.place)
    if runs_backwards(p):
        where = f"in {leak.place} " if leak else ""
        return Cause(f"{where}{BACKWARDS.text}", BACKWARDS.advice)
    return cause_not_known(leak.place) if leak else OUTSIDE_THE_LAYERS


def runs_backwards(p: Patient) -> bool:
    """Whether positions depend on all later tokens, and on none of the earlier ones."""
    effects, allowed = dependence_in_eval(p)
    later = future(p.T)
    return p.T > 2 and bool((effects[later] > allowed).all() and (effects[later.T] <= allowed).all())


def explain_operation(leak: Leak, tape: Tape) -> Cause:
    """Return the cause for an operation over time."""
    what, where = leak.what, leak.place
    if what == FOURIER:
        return fourier(where, leak.points, tape.T, leak.inverse)
    if what == NORM and (found := tape.statistics_over_time()):
        return norm_over_time(found[0].kind, found[0].shape, found[0].dims)
    if what.startswith(CHOICE):
        return chosen(where, what)
    if what.startswith(CONVOLUTION):
        return strided(where, what) if "stride" in what else convolved(where, what)
    if what == MATRIX:
        return matrix_over_time(where)
    if ROLL in what:
        return rolled(where)
    return moved(where, what) if what.startswith((SHIFT, ORDER, RUNNING)) else pooled(where, what)


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
    later = future(tape.T, tape.ids.device)
    leaks = [(flat(a.weights)[:, later] > ATTENDS).any(dim=1) for a in tape.attentions]  # (N,) each
    open_ones = [i for i, heads in enumerate(leaks) if heads.any()]
    if not open_ones:
        return None
    attention, heads = tape.attentions[open_ones[0]], leaks[open_ones[0]]
    W = flat(attention.weights)[heads]  # (heads that leak, T, T)
    where = name_attentions(open_ones, heads, len(leaks))
    if cause := explain_fill(attention, heads, W, where):
        return cause
    if W[:, :-1, :-1][:, later.T[:-1, :-1]].amax() < ATTENDS:  # an inverted mask blocks all of the last row
        return mask_inverted(where)
    share = ((W * later).sum() / W.sum()).item()
    return explain_pattern((W.amax(dim=0) > ATTENDS) & later, where) or (
        no_mask(where, share, attention.fused)
        if (W.amax(dim=0) > ATTENDS)[later].float().mean() > MOST_PAIRS
        else mask_wrong(where, share)
    )


def explain_fill(attention: Attention, heads: Tensor, W: Tensor, where: str) -> Cause | None:
    """Return what is wrong with the number that fills the scores of the future; heads (N,), W (heads that leak, T, T)."""
    T = W.shape[-1]
    later = future(T, W.device)
    rows = ((W.amax(dim=0) > ATTENDS) & later).any(dim=1).nonzero().flatten().tolist()
    if len(rows) == 1 and W[:, rows[0]].std() < ATTENDS:
        return mask_excludes_self(where, rows[0])
    if attention.scores is None:
        return None
    scores = attention.scores.float().reshape(-1, T, T)[heads]
    hidden = scores[:, later]
    if hidden.numel() and hidden.isfinite().all() and hidden.std() < SAME_SCORE * max(1.0, hidden.abs().max().item()):
        value, lowest = hidden.mean().item(), scores[:, later.T].min().item() if T > 1 else 0.0
        if how := undone(attention):
            return mask_undone(f"in {where} ", value, how)
        return mask_multiplies(where) if abs(value) < FILLED_WITH_ZERO else mask_finite(where, value, lowest)
    return None


def explain_pattern(seen: Tensor, where: str) -> Cause | None:
    """Return what (T, T) pairs of position and later token that are open have in common."""
    T, pairs = len(seen), seen.nonzero().tolist()
    if len(pairs) == 1:
        return mask_has_holes(where, [(pairs[0][0], pairs[0][1])])
    steps = max(j - t for t, j in pairs)
    everywhere = [sum(j - t == s for t, j in pairs) >= MOST_PAIRS * (T - s) for s in range(1, steps + 1)]
    if steps < T // 2 and all(everywhere):
        return mask_off_by(where, steps)
    for chunk in range(2, T):
        inside = (torch.arange(T)[:, None] // chunk == torch.arange(T)[None] // chunk).to(seen.device) & future(T, seen.device)
        if bool((inside == seen).all()):
            return mask_open_in_chunks(where, chunk)
    n = max(j for _, j in pairs) + 1
    if n < T and len(pairs) == n * (n - 1) // 2:
        return mask_open_prefix(where, n)
    rows = sorted({t for t, _ in pairs})
    if len(rows) < T // 2 and len(pairs) == sum(T - 1 - t for t in rows):
        return mask_open_rows(where, rows)
    return mask_has_holes(where, [(t, j) for t, j in pairs]) if len(pairs) <= max(1, FEW_PAIRS * T * T) else None


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
