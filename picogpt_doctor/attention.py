"""Checks of attention itself: a distribution over the keys, heads kept apart, scores on the right scale; and what is wrong with
one step from a cache, for the checks that read from one."""

from __future__ import annotations

import itertools
import math
import re

import torch
from torch import Tensor

from .future import BEFORE_SOFTMAX, OVER_KEYS, mixing_heads
from .patient import ROWS, Patient, declared, unregistered_tensors
from .probes import (
    ATTENDS,
    BROKEN_ROW_SUM,
    HIDDEN_SCORE,
    ROW_SUM,
    SAME_LENGTH,
    SAME_SCALE,
    SAME_STEP,
    SQUARE,
    UNSCALED,
    flat,
    future,
    has_module,
    no_attention,
    perturbed_tape,
    watch,
)
from .registry import FINITE, check
from .report import Cause, Verdict, failed, first_few, number_of, passed, skipped, warned
from .tape import Attention, Tape

# ----- softmax

OUTPUTS = re.compile(r"(to_|w_|fc_)?(o|out|output|proj)(_?proj(ection)?|_?lin(ear)?)?|c_proj|wo", re.I)

MASK_BREAKS_ROWS = Cause("the mask comes after the softmax: what is left is not a distribution any more", BEFORE_SOFTMAX)


def sum_over_heads(shape: tuple[int, ...], dim: int, T: int) -> Cause:
    return Cause(
        f"a running sum goes along axis {dim} of a tensor {shape}, the heads or features, not along the {T} positions: what "
        "normalises a linear attention is then not the sum of its weights",
        f"cumsum(dim={shape.index(T)}), over the positions, for the normaliser as for the state",
    )


MULTIPLIED_BY_SUM = Cause(
    "a linear attention is multiplied by its normaliser instead of divided by it: its weights sum to the square of what they "
    "should be divided by, not to 1",
    "out = (q · Σ k v) / (q · Σ k): 1 / is missing",
)


@torch.no_grad()
def multiplied_by_sum(p: Patient) -> Verdict | None:
    """Return whether a mixer without a softmax, given the same at every position, grows with the square of the position.

    One that is normalised then returns the same everywhere; one that is not, a running sum, grows with the position at most.
    """
    found: dict[type, list[list[float]]] = {}
    for module in list(p.model.modules()):
        outs = [m for n, m in module.named_children() if isinstance(m, torch.nn.Linear) and OUTPUTS.fullmatch(n)]
        if len(outs) == 1:
            found.setdefault(type(module), []).append(sizes_of_equal_input(p, module, outs[0]))
    for kind, several in found.items():
        powers = [math.log(x[-1] / x[0]) / math.log(len(x)) if x and min(x) > 0 else 0.0 for x in several]
        if p.T >= 8 and SQUARE[0] < min(powers) and max(powers) < SQUARE[1]:
            first, half, last = several[0][0], several[0][p.T // 2], several[0][-1]
            return failed(
                MULTIPLIED_BY_SUM,
                f"with the same input at {p.T} positions, what {kind.__name__} adds up is {half / first:.3g} times as large at "
                f"position {p.T // 2} as at 0, and {last / first:.3g} times at {p.T - 1}: the square of their number",
            )
    return None


def sizes_of_equal_input(p: Patient, module: torch.nn.Module, out: torch.nn.Linear) -> list[float]:
    """Return how large what `out` is given is at each position, if its module gets the first position's input at all of them;
    [] if it is not called on a stream (B, T, C)."""
    got: list[Tensor] = []

    def equal(module, args):
        if args and isinstance(args[0], Tensor) and args[0].dim() == 3 and args[0].shape[1] == p.T:
            return (args[0][:, :1].expand_as(args[0]).contiguous(), *args[1:])
        return None

    hooks = [module.register_forward_pre_hook(equal), out.register_forward_pre_hook(lambda m, args: got.append(args[0]))]
    try:
        p.logits(p.ids(ROWS, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    if len(got) != 1 or got[0].dim() != 3 or got[0].shape[1] != p.T:
        return []
    return got[0].float().square().mean(dim=(0, 2)).sqrt().tolist()


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
    if not seen and tape.sums_aside:
        shape, dim = tape.sums_aside[0]
        evidence = f"no softmax, and {number_of(len(tape.sums_aside), 'running sum')} along another axis than time"
        return warned(sum_over_heads(shape, dim, tape.T), evidence)
    if not seen and (problem := multiplied_by_sum(p)):
        return problem
    if not seen:
        return no_attention(p, "no softmax over T x T scores was recorded")
    return broken or passed(f"{number_of(len(seen), 'attention')}: every row of weights sums to 1")


# ----- heads

ALL_HEADS_THE_SAME = Cause(
    "all heads of an attention compute the same: one projection (or one head) serves all of them, so they have the same "
    "queries, keys and values, and are one head",
    "a projection for each head: nn.Linear(C, C), split into heads, or nn.ModuleList(Head() for _ in range(n_head))",
)


def same_in_all_heads(p: Patient) -> str:
    """Return evidence that the heads of each row have the same queries, keys and values, "" if not; heads of one attention, or
    one attention for each head. Of shared keys and values alone (one head of them for several of queries) nothing is said."""
    tape = perturbed_tape(p)
    seen = [[flat(x) for x in (a.q, a.k, a.v) if x is not None] for a in tape.attentions]
    if not seen or any(len(x) < 3 or len(x[0]) % ROWS for x in seen):
        return ""
    inside = [len(q) // ROWS for q, k, v in seen if all(len(x.unique(dim=0)) <= ROWS for x in (q, k, v))]
    if len(inside) == len(seen) and min(inside) > 1:
        return f"{first_few(dict.fromkeys(inside))} heads have the same queries, keys and values, in each attention"
    first = [n for n in range(len(seen)) if not n or not all(map(torch.equal, seen[n], seen[n - 1]))]
    runs = [b - a for a, b in itertools.pairwise([*first, len(seen)])]
    if len(set(runs)) > 1 or runs[0] == 1:
        return ""
    return f"{number_of(len(seen), 'attention')}, {runs[0]} in a row with the same queries, keys and values"


@check("heads", needs=("answers", "side effects", "repeats"))
def heads(p: Patient) -> Verdict:
    """Splitting into heads and joining them keeps positions apart, and each head computes something of its own."""
    tape = perturbed_tape(p)
    if not tape.attentions:
        return no_attention(p, "no attention was recorded")
    if tape.statistics_over_time():
        return skipped("statistics over time mix the positions: see norms")
    if mixing := mixing_heads(p):
        return failed(
            p.known_leak or mixing, "changing one token reaches other positions before, or after, the first attention"
        )
    if same := same_in_all_heads(p):
        return failed(ALL_HEADS_THE_SAME, same)
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
        if problem := other_scale(p, hs):
            return problem
        return passed(f"scores are divided by {1 / factor:.3g} = √{hs}, the root of the head size")
    if has_module(p, lambda module: any(name in type(module).__name__ for name in PUBLISHED_SO)):
        return passed(f"scores are multiplied by {factor:.3g}: it was published so")
    if math.isclose(factor, math.sqrt(hs), rel_tol=SAME_SCALE):  # whatever is stated: 1/√hs divided by is stated, too
        evidence = f"scores are multiplied by {factor:.3g} = √{hs}, the root of the head size, instead of divided by it"
        return failed(SCALE_INVERTED, evidence)
    stated = [value for _, value in declared(p.model, SCALES, int | float)]
    # the reciprocal of a number below 1 would enlarge the scores: nobody states that
    powers = [(value, e) for value in stated for e in (1, -1, -0.5) if e > 0 or value > 1]
    if any(math.isclose(value**e, factor, rel_tol=SAME_SCALE) for value, e in powers):
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


def scaled_otherwise(which: str, by: str, hs: int) -> Cause:
    return Cause(
        f"the scores {which} are {by}, where those beside them are divided by √{hs}, the root of the head size",
        f"{BY_ROOT}, in each of the attentions",
    )


def other_scale(p: Patient, hs: int) -> Verdict | None:
    """Return whether an attention has a known wrong scale where the first one has the right one, 1 / √hs: in another layer, or
    over keys that are not those of the positions (an adapter's prompt)."""
    tape = perturbed_tape(p)
    table = p.parameters.get(p.interface.token_table)
    width = table.shape[-1] if table is not None else 0
    wrong = {1.0: "not divided", math.sqrt(hs): f"multiplied by √{hs}", 1 / hs: f"divided by {hs}, the head size itself"}
    if width and width != hs:
        wrong[width**-0.5] = f"divided by √{width}, the width (n_embd)"
    seen = [(f"of attention {i}", a.hs, a.factor) for i, a in enumerate(tape.attentions) if a.hs and a.soft is not None]
    seen += [(f"over {keys} other keys (a prompt, or a memory)", size, factor) for size, keys, factor in tape.beside]
    for which, size, factor in seen:
        by = next((how for x, how in wrong.items() if factor and math.isclose(factor, x, rel_tol=SAME_SCALE)), "")
        if size == hs and by:
            evidence = f"the scores {which} are multiplied by {factor:.4g}; the head size is {hs}, 1/√{hs} = {hs**-0.5:.4g}"
            return (failed if "width" in by else warned)(scaled_otherwise(which, by, hs), evidence)
    return None


def equal_lengths(p: Patient) -> bool:
    """Whether all queries have one length, and all keys, with the weights as they are."""
    seen = watch(p, p.ids(ROWS, p.T)).attentions
    norms = [flat(x).norm(dim=-1) for x in (seen[0].q, seen[0].k) if x is not None] if seen else []
    return bool(norms) and all(n.std() < SAME_LENGTH * n.mean() for n in norms)


# ----- one step from a cache

CACHE_MASK = Cause(
    "the new query sees key 0 only: a causal mask aligned at the top left (is_causal=True with one query and many keys)",
    "no mask for one new query: it may see all keys",
)
CACHE_SCORES = Cause(
    "the new query and the keys are those of one pass, and its scores are not: what is added to them by distance (ALiBi, a "
    "relative bias), or the scale, is made for the new tokens alone",
    "build the bias for past + T keys, and take the rows of the new queries",
)
CACHE_VALUES = Cause(
    "the values in the cache are not those of one pass: keys and weights are right", "store the values as they are used"
)
CACHE_INPUT = Cause(
    "the new token's query, key and value are all not those of one pass: what they are made of differs, a convolution's state "
    "or the token's own embedding, not the angles of its position",
    "compare what comes before the attention with that of one pass: the state of a convolution holds its inputs",
    vague=True,
)
CACHE_QUERY = Cause(
    "the new query is not that of one pass: its position (rotary, or embedded), or what was added to its token",
    "position = arange(past, past + T), from the length of the cache",
)


def window_forgotten(whole: str, step: str, layer: int) -> Cause:
    return Cause(
        f"with a cache the sliding window is forgotten: in layer {layer} one pass sees keys {whole}, the step keys {step}",
        "mask the keys of the cache that lie outside the window, for one new query too",
    )


CACHE_NOT_ITSELF = Cause(
    "the new query sees all keys of the past, and not its own: the mask is one key short", "key j is seen where j <= position"
)


def cache_partly_seen(seen: str, of: int) -> Cause:
    return Cause(f"the new query sees keys {seen} of {of} only", "a new query may see all keys of the past")


def keys_never_written(which: str) -> Cause:
    return Cause(
        f"the cache holds nothing at position {which}: that key is all 0, and the new query attends to it",
        "write the keys and values of every token, the first one too, before the cache is read",
    )


def keys_differ(which: str, new: bool, some: str = "") -> Cause:
    where = "the new token's key" if new else f"the keys of positions {which} in the cache"
    if some:
        return Cause(
            f"{where} {'is' if new else 'are'} not what one pass computes in {some}: what turns or writes them reaches a part",
            "apply the rotary embedding, and the write, to all rows and heads: look for an axis that is taken for another one",
        )
    return Cause(
        f"{where} are not those of one pass: turned by other positions (rotary), or overwritten".replace(
            "key are not those", "key is not that"
        ),
        "turn each key once, by its own position, before it goes into the cache",
    )


def keys_turned(by: int, t: int, kept: str) -> Cause:
    """The cause for the key of position t that is turned as if it stood at another position."""
    how = f"the new token's key, at position {t}, is turned by the angles of position {by}"
    if kept:
        return Cause(
            f"{how}: they were kept from an earlier call, in {kept}, and are found again by their length alone",
            "where angles begin is part of what they are looked up by: key them by (length, offset), or slice one table",
        )
    return Cause(
        f"{how}: positions start again with the cache, or stand still", "offset = length of the cache, for queries and keys"
    )


@torch.no_grad()
def turned_by(p: Patient, key: Tensor, ids: Tensor) -> int | None:
    """Return the position whose angles turned the key (N, hs) of the last of ids (B, t + 1) in the first attention; None if
    none does. The same tokens are put at each position, in one pass."""
    t = ids.shape[1] - 1
    found = set(range(t + 1))
    for row in range(len(ids)):
        texts = ids[row].repeat(t + 1, 1)  # (t + 1, t + 1): row j has the last token at j
        texts.fill_diagonal_(int(ids[row, -1]))
        attentions = watch(p, texts).attentions
        k = flat(attentions[0].k) if attentions and attentions[0].k is not None else torch.empty(0)
        heads = len(key) // len(ids)
        if k.shape[:2] != ((t + 1) * heads, t + 1):
            return None
        mine = key.view(len(ids), heads, -1)[row]  # (heads, hs)
        at = [k.view(t + 1, heads, t + 1, -1)[j, :, j] for j in range(t + 1)]
        found &= {j for j, right in enumerate(at) if not differs(mine, right)}
    return min(found) if len(found) == 1 else None


def long_prompt(fits: int, size: str, steps: bool) -> Cause:
    """The cause for prompts that are read rightly with a cache up to `fits` tokens, which the model states as `size`, and
    wrongly beyond; with `steps` the prompt itself is right, and what follows is wrong."""
    what = f"what follows a prompt of more than {fits} tokens is" if steps else f"a prompt of more than {fits} tokens is"
    if size:
        return Cause(
            f"with a cache {what} read wrongly, and a shorter one rightly: a prompt longer than the window ({size}) overwrites "
            "its own keys in the cache before its queries have seen them, or the mask takes slots of the cache for positions",
            "let the prompt attend to its own keys, under the mask of the window, and keep the last ones of them in the cache",
        )
    return Cause(
        f"with a cache {what} read wrongly, and a shorter one rightly: keys are overwritten or cut at a fixed size, or the "
        "mask or the positions are made for that many",
        f"compare keys, mask and positions of prompts of {fits} and {fits + 1} tokens with those of one pass without a cache",
    )


def cache_shorter(layer: int, seen: str, held: int, window: int) -> Cause:
    """The cause for a cache that holds fewer keys than one pass sees; `window` is how many that are at most, 0 for all."""
    where = f"in layer {layer} a position sees keys {seen} in one pass, and the cache holds {held}"
    if window:
        return Cause(
            f"{where}: the mask's window is {window} tokens, the cache's {held}; one of them is off by {abs(window - held)}",
            "t - j < window lets a position see `window` keys, its own among them, and t - j <= window one more",
        )
    return Cause(f"{where}: old keys are dropped", "keep every key, or mask in one pass what the cache has dropped")


@torch.no_grad()
def widest(p: Patient, layer: int) -> int:
    """Return how many keys the last position of a long text sees in a layer; 0 for all of them."""
    seen = watch(p, p.ids(1, p.interface.long)).attentions
    n = int((flat(seen[layer].weights)[:, -1].amax(dim=0) > ATTENDS).sum()) if len(seen) > layer else 0
    return 0 if n == p.interface.long else n


def shorter_cache(tape: Tape, whole: Tape, t: int, p: Patient, steps_before: int) -> Cause | None:
    """Return whether layers of a step hold fewer keys than one pass sees: those of a rotating cache are not recorded."""
    layers = len(whole.attentions)
    held = [shape[-1] for shape in tape.softmaxes if len(shape) > 2 and shape[-2] == 1]  # one for each layer and step
    for layer, (n, b) in enumerate(zip(held[steps_before * layers :], whole.attentions, strict=False)):
        right = (flat(b.weights)[:, t].amax(dim=0) > ATTENDS).nonzero().flatten().tolist()
        if n < len(right):
            return cache_shorter(layer, span(right), n, widest(p, layer))
    return None


def explain_cached(
    tape: Tape, whole: Tape, t: int, p: Patient | None = None, ids: Tensor | None = None, steps_before: int = 0
) -> Cause | None:
    """Return what the step at position t, read from a cache, does otherwise than one pass over the text; None: nothing seen.
    With the patient, and the text (B, t + 1), by which position a key was turned is tried. The tape may hold `steps_before`.

    First the keys that it sees, then what queries, keys, scores and values are.
    """
    if len(tape.attentions) < len(whole.attentions):  # those that are left may be of other layers
        return None if p is None else shorter_cache(tape, whole, t, p, steps_before)
    for layer, (a, b) in enumerate(zip(tape.attentions, whole.attentions, strict=False)):
        step, row = (flat(x.weights)[:, -1, : t + 1].amax(dim=0) for x in (a, b))  # (keys,) each, over rows and heads
        seen, right = ((x > ATTENDS).nonzero().flatten().tolist() for x in (step, row))
        if seen == [0] and len(right) > 1:
            return CACHE_MASK
        if len(seen) > len(right) > 0 and min(right) > 0:
            return window_forgotten(span(right), span(seen), layer)
        if len(seen) < len(right):
            if right == [*seen, t]:
                return CACHE_NOT_ITSELF
            return cache_partly_seen(first_few(seen), t + 1)
        if cause := other_parts(a, b, t):
            if cause.text.startswith("the new token's key") and p is not None and ids is not None and layer == 0:
                by = turned_by(p, flat(a.k)[:, t], ids)
                widths = (a.k.shape[-1], a.k.shape[-1] // 2)
                new = {n: x for n, x in unregistered_tensors(p.model).items() if n not in p.unregistered}
                kept = [n.partition("[")[0] for n, x in new.items() if x.dim() and x.shape[-1] in widths]
                return cause if by is None or by == t else keys_turned(by, t, first_few(kept, 1))
            return cause
    return None


def span(keys: list[int]) -> str:
    return f"{keys[0]} to {keys[-1]}" if len(keys) > 2 else first_few(keys)


def other_parts(a: Attention, b: Attention, t: int) -> Cause | None:
    """Return which part of an attention differs: `a` is of the new query alone, `b` of one pass."""
    if a.q is None or b.q is None or a.k is None or b.k is None:
        return None
    q, k, out = flat(a.q), flat(a.k)[:, : t + 1], flat(a.out)  # (N, 1, hs), (N, t + 1, hs), (N, 1, hs)
    right_q, right_k, right_out = (flat(x) for x in (b.q, b.k, b.out))  # (N, T, hs) each
    if q.shape != right_q[:, :1].shape or k.shape != right_k[:, : t + 1].shape:
        return None
    empty = (k == 0).all(dim=-1).all(dim=0) & ~(right_k[:, : t + 1] == 0).all(dim=-1).all(dim=0)  # (t + 1,)
    if empty.any():
        return keys_never_written(first_few(empty.nonzero().flatten().tolist()))
    other_keys = [i for i in range(t + 1) if differs(k[:, i], right_k[:, i])]
    if other_keys:
        wrong = [i for i in range(len(k)) if differs(k[i, other_keys], right_k[i, other_keys])]
        if other_keys == [t] and other_values(a, b, t) and differs(q[:, 0], right_q[:, t]):
            return CACHE_INPUT
        some = f"{len(wrong)} of {len(k)} heads and rows, the {'others are' if len(k) - len(wrong) > 1 else 'other is'} right"
        return keys_differ(first_few(other_keys), new=other_keys == [t], some=some if len(wrong) < len(k) else "")
    if differs(q[:, 0], right_q[:, t]):
        return CACHE_QUERY
    if a.scores is not None and b.scores is not None:
        scores, right = (flat(x).clamp(min=HIDDEN_SCORE)[:, i, : t + 1] for x, i in ((a.scores, 0), (b.scores, t)))
        if scores.shape == right.shape and differs(scores, right):
            return CACHE_SCORES
    return CACHE_VALUES if differs(out[:, 0], right_out[:, t]) else None


def other_values(a: Attention, b: Attention, t: int) -> bool:
    """Whether the new token's value is another one in the step `a` than in one pass `b`."""
    if a.v is None or b.v is None or a.v.shape[-1] != b.v.shape[-1]:
        return False
    v, right = flat(a.v)[:, t], flat(b.v)[:, t]
    return v.shape == right.shape and differs(v, right)


def differs(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of a shape are different numbers, beyond rounding."""
    return bool((x - y).abs().max() > SAME_STEP * max(y.abs().max().item(), 1e-12))
