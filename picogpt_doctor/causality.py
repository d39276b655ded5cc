"""Checks of what a position depends on besides: on itself and all earlier tokens, in their order, at every length."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .basics import before_longer, changed_by_longer
from .future import BACKWARDS, explain_mask, mixing_heads, runs_backwards
from .patient import CONFIGS, ROWS, ModelError, Patient, attribute, declared, describe, unregistered_tensors
from .probes import (
    ATTENDS,
    DISTANT,
    EVEN_WEIGHTS,
    FED_ZERO,
    FIRST_ROWS,
    FLAT_SCORES,
    HIDDEN_SCORE,
    LONGEST_PAST_END,
    ONE_TOKEN_REPEATED,
    OTHER_BASE,
    OTHER_KERNEL,
    PAPERS_BASE,
    RISING,
    SAME_DISTANCE,
    SAME_FREQUENCY,
    SAME_SCALE,
    SLOW_SINE,
    UNEVEN_QUERIES,
    dependence,
    dependence_in_eval,
    depends_on_context,
    fed_zero,
    flat,
    fresh,
    future,
    largest_change,
    once,
    other_inputs,
    perturbed,
    perturbed_tape,
    perturbed_weights,
    tolerance,
    watch,
)
from .registry import check
from .report import Cause, Reason, Status, Verdict, failed, first_few, passed, skipped, warned
from .tape import Tape

ARANGE = "torch.arange(T)"
ADD_POSITIONS = "x = wte(ids) + wpe(arange(T))"

# ----- memory

OWN_TOKEN_HIDDEN = Cause(
    "the input is shifted right inside the model, or the last token is cut off: position t answers for token t - 1",
    "logits at t predict token t + 1, from tokens 0 … t",
)
NO_ATTENTION = Cause("no attention was recorded that could bring it there", "is the layer that mixes positions called at all?")
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
    """Every position depends on its own token and on all earlier ones: every pair in a short text, a sample in a long one."""
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
    if not depends_on_context(p):
        verdict = failed if perturbed_tape(p).softmaxes or perturbed_tape(p).attentions else warned
        evidence = "the logits depend on the position's own token only: the context is ignored"
        if zeros := fed_zero(p):
            return failed(FED_ZERO, f"{zeros}; {evidence}")
        return verdict(mixing_heads(p) or explain_missing_context(p), evidence)
    stated = stated_window(p)
    missing, how = (effects <= allowed) & early, ""
    if missing.any() and not (stated and stated < p.T):
        missing, how = missing & missing_with_fresh_weights(p), " (tried with fresh weights too: its own saturate the softmax)"
    everything = f"at {p.T} tokens every position depends on its own token and all earlier ones"
    if missing.any() and not (stated and stated < p.T):
        t, j = missing.nonzero()[-1].tolist()
        back = sorted({t - j for t, j in missing.nonzero().tolist()})
        evidence = f"position {t} does not depend on token {j}; without effect are offsets -{back[0]} to -{back[-1]}"
        if not (perturbed_tape(p).attentions or perturbed_tape(p).softmaxes):
            return passed(
                f"at {p.T} tokens a position reaches back {back[0] - 1}: there is no attention (a convolution's window)"
            )
        return failed(mixing_heads(p) or explain_missing_context(p), evidence)
    if stated:
        return passed(f"{everything} (within its sliding window of {stated})")
    return memory_of_distant_tokens(p, f"{everything}{how}")


def stated_window(p: Patient) -> int | None:
    """Return the length of a sliding window that the configuration states."""
    found = declared(p.model, ("sliding_window", "attention_window", "local_window_size", "window"))
    return found[0][1] if found else None


@torch.no_grad()
def missing_with_fresh_weights(p: Patient) -> Tensor:
    """Return (T, T): True where a position depends on no token so far back, with weights that saturate nothing."""
    with fresh(p):
        effects, allowed = dependence(p, p.ids(1, p.T), together=False)
    return effects <= allowed


def memory_of_distant_tokens(p: Patient, so_far: str) -> Verdict:
    """Return whether the last position of a long text depends on distant tokens too; `so_far` is true of p.T tokens."""
    long = p.interface.long
    if p.mode == "prefixes" or long <= p.T:
        return passed(so_far)
    lost = unreachable_distant_tokens(p, perturbed)
    if isinstance(lost, str):
        return passed(f"{so_far}; {lost}")
    attends = bool(perturbed_tape(p).attentions)
    if lost and attends and isinstance(again := unreachable_distant_tokens(p, fresh), list):
        lost = [spot for spot in lost if spot in again]
    if lost and attends:
        return failed(SHORT_WINDOW, f"at {long} tokens position {long - 1} does not depend on token {first_few(lost)}")
    if lost:
        return passed(
            f"{so_far}; at {long} the last one does not on token {first_few(lost)} (without attention, texts are forgotten)"
        )
    return passed(f"{so_far}; so does the last of {long} tokens on the first")


@torch.no_grad()
def unreachable_distant_tokens(p: Patient, weights: Callable) -> list[int] | str:
    """Return which of three distant tokens the last position of a long text does not depend on; or why that is not known."""
    long = p.interface.long
    spots = [0, long // 4, long // 2]
    changed = p.ids(1, long).repeat(len(spots) + 1, 1)  # one row for each spot, and the last as it was
    for row, spot in enumerate(spots):
        changed[row, spot] = p.changed_tokens(changed[row, spot])
    with weights(p):
        try:
            logits = torch.cat([p.logits(part)[:, -1:] for part in changed.split(1)])  # (spots + 1, 1, V)
        except ModelError:
            return f"not tried at {long}: it fails there"
    if not logits.isfinite().all():
        return f"not finite at {long}"
    effects = largest_change(logits[:-1, -1], logits[-1:, -1]).tolist()
    return [spot for spot, effect in zip(spots, effects, strict=True) if effect <= DISTANT * tolerance(p, logits)]


def explain_missing_context(p: Patient) -> Cause:
    """Return why a position does not depend on some earlier tokens."""
    tape = perturbed_tape(p)
    if not tape.attentions and tape.softmaxes:
        return attends_over_heads(tape.softmaxes[0], tape.T)
    if runs_backwards(p):
        return p.known_leak or BACKWARDS
    if not tape.attentions:
        return NO_ATTENTION
    if (cause := explain_mask(tape)) is not None:
        return cause
    early = future(tape.T, p.device).T
    W = flat(tape.attentions[0].weights).amax(dim=0)  # (N, T, T) -> (T, T)
    if (W[early] < ATTENDS).all():
        return SELF_ONLY
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
REPEATED = "one token repeated: "
MOST_LAYERS = 3  # of which the evidence is shown
# by how many times its position a query, and a key, may be turned where each should be turned once; (0, 1): keys alone
TURNS = ((1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (1, 0), (0, 1), (1, -1), (2, 3), (3, 2))


def turned_otherwise(layer: int, queries: int, keys: int) -> Cause:
    """The cause for a layer whose rotary embedding turns queries and keys by different multiples of their positions."""
    times = {-1: "backwards", 0: "not at all", 1: "once", 2: "twice"}
    many = [times.get(n, f"{n} times") for n in (keys, queries)]
    again = max(queries, keys) > 1
    return Cause(
        f"in layer {layer} a rotary embedding turns a key {many[0]} and a query {many[1]}: scores depend on where "
        f"two tokens are, not on how far apart they are{'; what is rotated already is rotated again' if again else ''}",
        "rotate shared or cached keys where they are made, and nowhere else"
        if again
        else "rotate queries and keys alike, with one function",
    )


def distance_uneven(layer: int) -> Cause:
    where = f"in layer {layer} " if layer else ""
    return dataclasses.replace(DISTANCE_UNEVEN, text=where + DISTANCE_UNEVEN.text)


ANGLES_DIFFER = Cause(
    "a rotary embedding turns the two features of a pair by different angles: frequencies are laid out for neighbouring pairs "
    "(0 0 1 1 …) and the rotation is by halves (0 1 … 0 1 …), or the reverse",
    "torch.cat((freqs, freqs), -1) for a rotation by halves, freqs.repeat_interleave(2, -1) for neighbouring pairs",
)
SCALED_BY_POSITION = Cause(
    "queries and keys are scaled by where they stand, and the scales do not cancel: scores grow or shrink along the text "
    "(xPos with the same scale on both, a temperature by position)",
    "xPos scales a query by its position and a key by the inverse: only their distance is left",
)
DISTANCE_INVERTED = Cause(
    "the bias of distance has the wrong sign: the farthest key counts most",
    "scores - slope * (t - j), with slope above 0 (ALiBi)",
)
POSITIONS_IGNORED = Cause("positions are ignored: no position embedding reaches the residual stream", ADD_POSITIONS)
NO_POSITIONS = Cause(
    "no positions but those that the mask implies: forgotten, or meant so (NoPE)", f"{ADD_POSITIONS}, unless it is meant so"
)


# what is missing where a configuration names a kind of positions; learned and absolute ones are many a configuration's default
KINDS_OF_POSITIONS = {
    "alibi": "no bias of distance reaches the scores",
    "rope": "nothing turns the queries and keys",
    "rotary": "nothing turns the queries and keys",
    "relative": "no bias of distance reaches the scores",
}


def positions_stated(field: str, value, kind: str) -> Cause:
    return Cause(
        f"there are no positions, although the configuration states {field} = {value!r}: {KINDS_OF_POSITIONS[kind]}",
        "hand what is made of it on to where scores are computed (slopes, angles), and look which layer is built instead",
    )


def stated_kind(p: Patient) -> tuple[str, Any, str] | None:
    """Return the field of a configuration that names a kind of positions or turns one on, its value, and the kind."""
    for module in p.model.modules():
        for config in (c for where in CONFIGS if (c := attribute(module, where)) is not None):
            for field, value in (config if isinstance(config, Mapping) else getattr(config, "__dict__", {})).items():
                name = str(field).lower()
                said = value.lower() if isinstance(value, str) and "pos" in name else name if value is True else ""
                words = said.replace("-", "_").split("_")
                negated = {"no", "not", "without", "scale", "scaling", "interleaved", "disable"} & {*words}
                kind = next((k for k in KINDS_OF_POSITIONS if any(w.startswith(k) for w in words)), "")
                if kind and not negated and (isinstance(value, str) or kind != "relative"):
                    return str(field), value, kind
    return None


def rotary_elsewhere(shape: tuple, heads: int, T: int) -> Cause:
    where = f"the heads (an axis of {heads})" if heads in shape[:-1] and T not in shape else "another axis"
    return Cause(
        f"there is a rotary embedding, and it turns queries and keys along {where}, not along the {T} positions",
        "angles by position: x is (B, nh, T, hs) when the table is (T, hs / 2), or the table is (T, 1, hs / 2)",
    )


def positions_wrong(how: str) -> Cause:
    return Cause(f"{how}positions must be 0, 1, 2 …", ARANGE)


def pairs_apart(name: str) -> Cause:
    return Cause(
        f"{name} is a table of sines and cosines, and the two of a pair have different frequencies: a shift by n positions is "
        "no rotation of them any more (the exponent takes the index of the feature, not of the pair)",
        "frequencies 10000 ** (-2 * i / C) for i = 0 … C / 2 - 1: sin at 2 i, cos at 2 i + 1, both of the same one",
    )


def twice_as_fast(name: str) -> Cause:
    return Cause(
        f"{name} is a table of sines and cosines whose frequencies fall twice as fast as the paper's, to 1 / 10000² instead of "
        "1 / 10000 (the factor 2 counts twice: the index steps by 2 already)",
        "for i in range(0, C, 2): 10000 ** (-i / C); or for i in range(C // 2): 10000 ** (-2 * i / C)",
    )


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
    if order.status != Status.FAIL and (problem := depends_on_length(p) or wrong_distance(p)):
        return problem
    known = stated_kind(p) if order.cause is NO_POSITIONS else None
    if known:
        return failed(positions_stated(*known), order.evidence)
    return (wrong_sinusoids(p) or order) if order.status == Status.PASS else order


def wrong_sinusoids(p: Patient) -> Verdict | None:
    """Return whether a fixed table of sines and cosines is not that of "Attention is all you need" (section 3.5).

    Its first row is 0 for each sine and 1 for each cosine, in any order; the k-th sine and the k-th cosine are a pair. Another
    base than 10000 is a choice, and so is whether the last frequency is 1 / base or just above.
    """
    fixed = {n: x for n, x in p.parameters.items() if not x.requires_grad} | dict(p.model.named_buffers())
    for name, x in fixed.items():
        table = x.detach().squeeze()
        if not x.is_floating_point() or table.dim() != 2 or min(table.shape) < FIRST_ROWS:
            continue
        if (found := sinusoids(table)) is None:
            continue
        sines, cosines = found  # frequencies, the fast ones
        n = min(len(sines), len(cosines))
        told = f"{name}: sines of {first_few([f'{x:.3g}' for x in sines], 3)} a position, cosines of "
        told += first_few([f"{x:.3g}" for x in cosines], 3)
        if all(abs(x / y - 1) > OTHER_BASE for x, y in zip(sines[:n], cosines[:n], strict=True)):
            return warned(pairs_apart(name), told)
        falls = [math.log(x / y) for x, y in itertools.pairwise(sines)]
        twice = 2 * math.log(PAPERS_BASE) / (table.shape[-1] // 2)
        if abs(sines[0] - 1) < OTHER_BASE and all(abs(x / twice - 1) < OTHER_BASE / 10 for x in falls):
            return warned(twice_as_fast(name), told)
    return None


def sinusoids(table: Tensor) -> tuple[list[float], list[float]] | None:
    """Return the frequencies of the fast sines and of the fast cosines in a table (L, C), each in the order of its columns;
    None if it is no such table."""
    size = table[0].abs().max()
    if not size or not table.isfinite().all() or table.abs().max() > size * (1 + SAME_FREQUENCY):
        return None
    x = table.double() / size  # (L, C)
    starts_at_0, starts_at_1 = x[0].abs() < SAME_FREQUENCY, (x[0] - 1).abs() < SAME_FREQUENCY
    C = table.shape[-1]
    if int(starts_at_0.sum()) != C // 2 or int(starts_at_1.sum()) != C - C // 2:
        return None
    at, found = torch.arange(len(x), dtype=x.dtype, device=x.device)[:, None], []
    for columns, wave, of in ((x[:, starts_at_0], torch.sin, torch.asin), (x[:, starts_at_1], torch.cos, torch.acos)):
        rates = of(columns[1].clamp(-1, 1))
        fast = rates > SLOW_SINE
        near = slice(0, FIRST_ROWS)
        if int(fast.sum()) < 2 or (wave(at[near] * rates[fast]) - columns[near, fast]).abs().max() > SAME_FREQUENCY:
            return None
        found.append(rates[fast].tolist())
    return found[0], found[1]


def depends_on_length(p: Patient) -> Verdict | None:
    """Return whether a text's logits change when it goes on, although no position depends on a later token."""
    effects, allowed = dependence_in_eval(p)
    if p.mode == "prefixes" or effects[future(p.T)].max() > allowed or mixing_heads(p):
        return None
    ids, T = p.ids(2, p.T), max(1, p.T // 2 // p.interface.step) * p.interface.step
    if T == p.T:
        return None
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
    ids, noisy = torch.full_like(p.ids(1, p.T), int(p.tokens[-1])), perturbed_weights(p)
    with p.weights(lambda name, value: noisy[name] if value.dim() > 1 else None):  # gains after a rotation stay equal
        tape, logits = watch(p, ids), p.logits(ids)
    if not tape.scores or largest_change(logits[:, 1:], logits[:, :1]).max() > ONE_TOKEN_REPEATED * tolerance(p, logits):
        return None
    layers = [x.float().reshape(-1, p.T, p.T) for x in tape.scores if x.shape[-2:] == (p.T, p.T)]  # (N, T, T) each
    layers = [x.masked_fill(future(p.T, x.device) | (x < HIDDEN_SCORE), math.nan) for x in layers]
    uneven = [verdict for i, scores in enumerate(layers) if (verdict := uneven_scores(scores, tape, i))]
    if not uneven:
        return wrong_bias(p, layers[0], tape) if layers else None
    others = "".join(f"; {verdict.evidence.removeprefix(REPEATED)}" for verdict in uneven[1:MOST_LAYERS])
    return dataclasses.replace(uneven[0], evidence=uneven[0].evidence + others)


def uneven_scores(scores: Tensor, tape: Tape, layer: int) -> Verdict | None:
    """Return whether scores (N, T, T) of one token repeated, NaN where they are hidden, depend on more than the distance."""
    T, where = scores.shape[-1], f"{REPEATED}layer {layer}"
    raw, own = scores, scores.diagonal(dim1=1, dim2=2)  # (N, T): of each token with itself
    scores = scores - own[..., None]  # (N, T, T) - (N, T, 1): relative to the own token's
    size = scores.nan_to_num(0).abs().max().item()
    if size < FLAT_SCORES:
        wide = (own.amax(dim=1) - own.amin(dim=1)).nan_to_num(0).max().item()
        evidence = f"{where}: a query scores all keys alike at any distance, but queries differ by up to {wide:.2g}"
        return warned(DISTANCE_UNEVEN, evidence) if wide > UNEVEN_QUERIES else None
    if step_change(scores, 1, 1) <= SAME_DISTANCE * size:
        return None
    change = changed_lengths(tape, T, layer)
    if change > SAME_DISTANCE:
        cause = SCALED_BY_POSITION if changed_steadily(tape, T, layer) else ANGLES_DIFFER
        evidence = f"{where}: the length of its query changes by up to {change:.0%} from position to position, although"
        return failed(cause, f"{evidence} a rotation keeps lengths")
    evidence = (
        f"{where}: scores of keys at equal distance differ by up to {step_change(scores, 1, 1):.2g}, of a range of {size:.2g}"
    )
    fits = [turns for turns in TURNS if step_change(raw, turns[1], turns[0]) <= SAME_DISTANCE * size]
    if len(fits) == 1:
        queries, keys = fits[0]
        of = f"{queries} i {'-' if keys > 0 else '+'} {abs(keys)} j" if queries and keys else "j" if keys else "i"
        verdict = failed if queries and keys else warned
        return verdict(
            turned_otherwise(layer, queries, keys), f"{evidence}; those of query i and key j are equal where {of} is"
        )
    return warned(distance_uneven(layer), evidence)


def step_change(scores: Tensor, down: int, right: int) -> float:
    """Return how much a score of (N, T, T) changes at most, from a query and a key to those so many positions on."""
    T = scores.shape[-1]
    down, right = (down, right) if down >= 0 else (-down, -right)
    here = scores[:, : T - down, max(0, -right) : T - max(0, right)]
    there = scores[:, down:, max(0, right) : T + min(0, right)]
    return (there - here).nan_to_num(0).abs().max().item()


def wrong_bias(p: Patient, scores: Tensor, tape: Tape) -> Verdict | None:
    """Return whether far keys count more than near ones in scores (N, T, T) of one token repeated, or by other slopes."""
    scores = scores - scores.diagonal(dim1=1, dim2=2)[..., None]
    last = scores[:, -1].flip(-1)  # (N, T): by distance 0, 1, 2 …
    steps = last.diff(dim=-1)
    if steps.isfinite().all() and (steps > RISING).all() and (steps.diff(dim=-1).abs() < SAME_DISTANCE * steps.mean()).all():
        evidence = f"{REPEATED}each step further away raises a key's score by {steps.mean():.2g}"
        return failed(DISTANCE_INVERTED, evidence)
    return wrong_slopes(p, steps, tape) if steps.isfinite().all() else None


def published_slopes(n: int, largest: float = 8.0) -> list[float]:
    """Return ALiBi's slopes for n heads, the steepest first: 2^(-8 h / n) for h = 1 … n; where n is no power of two, those of
    the power below, and of the next one every second, from the first (Press et al. 2022, and its code)."""
    below = 2 ** int(math.log2(n))
    slopes = [2 ** (-largest * (h + 1) / below) for h in range(below)]
    return sorted(slopes + [2 ** (-largest * (h + 1) / (2 * below)) for h in range(0, 2 * (n - below), 2)], reverse=True)


def wrong_slopes(p: Patient, steps: Tensor, tape: Tape) -> Verdict | None:
    """Return whether scores fall with distance in straight lines, as ALiBi's, by other slopes; steps (N, T - 1) are those of
    the scores, by distance."""
    have = -steps.mean(dim=-1)  # (N,)
    straight = (steps.diff(dim=-1).abs() < SAME_DISTANCE * have[:, None].abs() + RISING).all()
    learned = any("slope" in n.lower() or "alibi" in n.lower() for n, x in p.parameters.items() if x.requires_grad)
    some = have[have.abs() > RISING].sort(descending=True).values.tolist()  # some heads may have no bias
    if not straight or learned or len(some) < 2 or some[-1] <= 0 or not claims_alibi(p):
        return None
    largest = next((float(x) for _, x in declared(p.model, ("alibi_bias_max",), int | float)), 8.0)
    right = published_slopes(len(some), largest)
    ratios = [a / b for a, b in zip(some, right, strict=True) if b > RISING]
    attention = tape.attentions[0] if tape.attentions else None
    scales = (1.0, *((attention.hs**-0.5,) if attention is not None and attention.hs else ()))  # Falcon scales the bias, too
    if any(all(math.isclose(ratio, scale, rel_tol=SAME_SCALE) for ratio in ratios) for scale in scales):
        return None
    evidence = f"scores fall by {first_few(f'{x:.3g}' for x in some)} for each step of distance, in the heads"
    return warned(other_slopes(ratios), f"{evidence}; ALiBi's are {first_few(f'{x:.3g}' for x in right)}")


def claims_alibi(p: Patient) -> bool:
    """Whether a class, or what a module or a configuration holds, is named after ALiBi: other biases have other slopes."""
    for module in p.model.modules():
        configs = [c for where in CONFIGS if (c := attribute(module, where)) is not None]
        names = [type(module).__name__, *vars(module), *module._buffers, *module._modules]
        names += [n for c in configs for n in (c if isinstance(c, Mapping) else getattr(c, "__dict__", {}))]
        if any("alibi" in str(name).lower() for name in names):
            return True
    return False


def other_slopes(ratios: list[float]) -> Cause:
    one = all(math.isclose(x, ratios[0], rel_tol=SAME_SCALE) for x in ratios)
    how = f"{ratios[0]:.3g} times as steep as published" if one else "others than the published ones"
    return Cause(
        f"the slopes of the bias of distance (ALiBi) are {how}, for this number of heads",
        "2 ** (-8 * (h + 1) / n) for head h of n, from h = 0: the first of 8 heads has 1/2",
    )


def changed_lengths(tape: Tape, T: int, layer: int = 0) -> float:
    """Return by how much the lengths of an attention's queries differ over the positions, relatively; 0 if not known."""
    q = tape.attentions[layer].q if len(tape.attentions) > layer else None
    if q is None or q.shape[-2] != T:
        return 0.0
    lengths = q.float().reshape(-1, T, q.shape[-1]).norm(dim=-1)  # (N, T)
    return ((lengths.amax(dim=1) - lengths.amin(dim=1)) / lengths.mean(dim=1).clamp(min=1e-12)).max().item()


def changed_steadily(tape: Tape, T: int, layer: int) -> bool:
    """Whether the queries of an attention become longer and longer along the text, or shorter and shorter, in all heads."""
    q = tape.attentions[layer].q if len(tape.attentions) > layer else None
    if q is None or q.shape[-2] != T:
        return False
    steps = q.float().reshape(-1, T, q.shape[-1]).norm(dim=-1).diff(dim=-1)  # (N, T - 1)
    return bool(((steps > 0).all(dim=1) | (steps < 0).all(dim=1)).all())


def wrong_rows(p: Patient) -> Verdict | None:
    """Return whether other rows of a table of positions are looked up than 0, 1, 2 …"""
    looked_up, long = {}, p.interface.long
    with contextlib.suppress(ModelError):  # whether it accepts them is the subject of lengths
        looked_up = {lookup.name: lookup.rows for lookup in watch(p, p.ids(1, long)).embeddings}
    for lookup in (x for x in p.interface.positions if x.name not in other_inputs(p)):
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
    ids[0, 0], ids[0, 1] = p.tokens[0], p.tokens[1 % len(p.tokens)]
    swapped = ids.clone()
    swapped[0, :2] = ids[0, :2].flip(0)
    constant = torch.full_like(p.ids(ROWS, p.T), int(p.tokens[-1]))
    with perturbed(p):
        both = p.logits(torch.cat([ids, swapped]))  # (2, T, V)
        same = p.logits(constant[:1])
    change, allowed = largest_change(both[0, -1], both[1, -1]).item(), tolerance(p, both)
    if change <= allowed and dependence_in_eval(p)[0][-1, :2].min() > allowed:
        with fresh(p):  # its own weights may saturate the softmax
            both = p.logits(torch.cat([ids, swapped]))
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
    if change <= allowed:
        return skipped(f"the last of {p.T} positions depends neither on token 0 nor on token 1: see memory and causality")
    return passed(f"swapping tokens 0 and 1 moves the last of {p.T} logits by {change:.2g}")


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
    """Logits are finite at 1, 2 and up to 256 tokens, and past block_size a text is refused or read rightly, not cropped."""
    if problem := length_problem(p):
        return problem
    face = p.interface
    if face.step > 1:
        return passed(f"it takes multiples of {face.step} tokens only; finite at {face.step} and {face.long}")
    wide, fine = p.block + 1, f"finite at 1, 2 and {face.long} tokens"
    if p.block > LONGEST_PAST_END or (face.last_position is None and face.block_from == "by trying"):
        return passed(f"{fine}; no limit was found up to {face.long}")
    before = before_longer(p)
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
    if problem := changed_by_longer(p, before, wide):
        return problem
    return passed(f"{fine}; more than {p.block} are accepted too, and no table of positions ends there")


@once
@torch.no_grad()
def length_problem(p: Patient) -> Verdict | None:
    """Return what goes wrong with 1 or 2 tokens, or with block_size of them (at most interface.long)."""
    for T in dict.fromkeys((1, 2, p.interface.long) if p.interface.step == 1 else (p.interface.step, p.interface.long)):
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
