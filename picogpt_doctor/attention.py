"""Checks of attention itself: a distribution over the keys, heads kept apart, scores on the right scale."""

from __future__ import annotations

import math

from .future import BEFORE_SOFTMAX, OVER_KEYS, mixing_heads
from .patient import ROWS, Patient, declared
from .probes import (
    ATTENDS,
    BROKEN_ROW_SUM,
    ROW_SUM,
    SAME_LENGTH,
    SAME_SCALE,
    UNSCALED,
    flat,
    future,
    has_module,
    no_attention,
    perturbed_tape,
    watch,
)
from .registry import FINITE, check
from .report import Cause, Verdict, failed, number_of, passed, skipped, warned

# ----- softmax

MASK_BREAKS_ROWS = Cause("the mask comes after the softmax: what is left is not a distribution any more", BEFORE_SOFTMAX)


def softmax_axis(what: str) -> Cause:
    return Cause(f"the softmax runs over {what}", OVER_KEYS)


@check("softmax", needs=(FINITE,))
def softmax_over_keys(p: Patient) -> Verdict:
    """Attention weights are a distribution over the keys."""
    tape, broken = perturbed_tape(p), None
    seen = [a for a in tape.attentions if a.soft is not None]
    for layer, a in enumerate(seen):
        sums = flat(a.weights).sum(dim=-1)
        evidence = f"attention {layer}: rows of weights sum to {sums.min():.2f} … {sums.max():.2f}, not to 1"
        if a.axis != "keys":
            what = {"queries": "the queries (dim=-2)", "another axis": "the heads or the batch"}[a.axis]
            return failed(softmax_axis(what), evidence)
        even = (flat(a.soft).sum(dim=-1) - 1).abs().max() < ROW_SUM
        to_future = (flat(a.soft)[:, future(tape.T, sums.device)] > ATTENDS).any()
        if (sums - 1).abs().max() > BROKEN_ROW_SUM and even and to_future:
            broken = broken or failed(MASK_BREAKS_ROWS, evidence)
    if not seen:
        return no_attention(p, "no softmax over T x T scores was recorded")
    return broken or passed(f"{number_of(len(seen), 'attention')}: every row of weights sums to 1")


# ----- heads


@check("heads", needs=("answers", "side effects", "repeats"))
def heads(p: Patient) -> Verdict:
    """Splitting into heads and joining them keeps positions apart."""
    tape = perturbed_tape(p)
    if not tape.attentions:
        return no_attention(p, "no attention was recorded")
    if tape.statistics_over_time():
        return skipped("statistics over time mix the positions: see norms")
    if mixing := mixing_heads(p):
        return failed(
            p.known_leak or mixing, "changing one token reaches other positions before, or after, the first attention"
        )
    return passed(
        f"another last token of {p.T} reaches no earlier query or key of the first attention, nor what is made of its output"
    )


# ----- scale

BY_ROOT = "divide by math.sqrt(head_size)"
SCALE_MISSING = Cause("the scale is missing: scores grow with the head size, and the softmax saturates", BY_ROOT)
SCALE_INVERTED = Cause("multiplied where it should be divided", BY_ROOT)
SCALE_WITHOUT_ROOT = Cause("divided by the head size, not by its root (muP does so on purpose)", BY_ROOT)
SCALE_UNUSUAL = Cause("an unusual scale", BY_ROOT)


def scale_of_width(wide: int) -> Cause:
    return Cause(f"divided by √{wide}, the width (n_embd), not by the root of the head size", BY_ROOT)


PUBLISHED_SO = ("GPTNeo", "T5", "Zamba")  # without a scale, which their initialisation makes up for; by half the head size
SCALES = ("query_pre_attn_scalar", "attention_multiplier", "softmax_scale", "attn_scale", "scale_attn", "mup_scale")


@check("scale", needs=(FINITE,))
def scale(p: Patient) -> Verdict:
    """Scores are divided by the root of the head size."""
    attention = next((a for a in perturbed_tape(p).attentions if a.hs and a.factor and a.soft is not None), None)
    if not perturbed_tape(p).attentions:
        return no_attention(p, "no attention was recorded")
    if attention is None:
        return skipped("no product of queries and keys was recorded, or its factor is learned")
    hs, factor = attention.hs, attention.factor
    if equal_lengths(p):
        return skipped("queries and keys are normalised to one length, which calls for another scale")
    if abs(factor * math.sqrt(hs) - 1) < SAME_SCALE:
        return passed(f"scores are divided by {1 / factor:.3g} = √{hs}, the root of the head size")
    if has_module(p, lambda module: any(name in type(module).__name__ for name in PUBLISHED_SO)):
        return passed(f"scores are multiplied by {factor:.3g}: it was published so")
    stated = [value for _, value in declared(p.model, SCALES, int | float)]
    if any(math.isclose(value**e, factor, rel_tol=SAME_SCALE) for value in stated for e in (1, -1, -0.5)):
        return passed(f"scores are multiplied by {factor:.3g}, as its configuration states")
    evidence = f"scores are multiplied by {factor:.4g}; the head size is {hs}, 1/√{hs} = {hs**-0.5:.4g}"
    if math.isclose(factor, 1, rel_tol=UNSCALED):
        return failed(SCALE_MISSING, evidence)
    table = p.parameters.get(p.interface.token_table)
    widths = [table.shape[-1]] if table is not None else sorted({x.shape[-1] for x in p.parameters.values() if x.dim() == 2})
    if wide := next((w for w in widths if math.isclose(factor, w**-0.5, rel_tol=SAME_SCALE)), None):
        return failed(scale_of_width(wide), evidence)
    if factor > 1:
        return failed(SCALE_INVERTED, evidence)
    return warned(SCALE_WITHOUT_ROOT if math.isclose(factor, 1 / hs, rel_tol=SAME_SCALE) else SCALE_UNUSUAL, evidence)


def equal_lengths(p: Patient) -> bool:
    """Whether all queries have one length, and all keys, with the weights as they are."""
    seen = watch(p, p.ids(ROWS, p.T)).attentions
    norms = [flat(x).norm(dim=-1) for x in (seen[0].q, seen[0].k) if x is not None] if seen else []
    return bool(norms) and all(n.std() < SAME_LENGTH * n.mean() for n in norms)
