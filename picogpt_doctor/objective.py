"""Checks of what a training step minimises: which token is compared with which, and how much each counts."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter

import torch

from .answers import across_documents, has_own_end, longer_than_one, rows_go_on, wrong_mask, wrong_start
from .batch import SOME_NEXT_TOKENS
from .passes import Backward, Clip, Comparison, Forward, Mark, Step
from .probes import (
    ENOUGH_ROWS,
    FEWEST_ROWS,
    MOST_NEXT,
    PADDED_ROWS,
    PADDING_RUN,
    SAME_END,
    SAME_LOSS,
    SAME_TIMES,
    SAME_WEIGHT,
    TAIL,
    UNEVEN_MICRO_BATCHES,
)
from .report import (
    Cause,
    Reason,
    Status,
    Verdict,
    failed,
    listed,
    number_of,
    passed,
    skipped,
    warned,
)
from .running import NO_OPTIMIZER, Iteration, Run, cut, is_the_same_with_other_weights, parts_of

# ----- targets

NOT_SHIFTED = Cause(
    "targets are not shifted: the logits at t are compared with the token at t, which the model sees: it learns to copy",
    "compare the logits at t with the token at t + 1, shifted once: in the batch, in the loss, or in the model",
)
SHIFTED_TWICE = Cause(
    "targets are shifted twice: the logits at t are compared with the token at t + 2",
    "shift once: in the batch or in the loss (or the model), not in both",
)
SHIFTED_BACK = Cause("targets are shifted the wrong way: the logits at t are compared with token t - 1", "targets = ids[:, 1:]")
SHIFTED_FAR = Cause("targets are three tokens ahead", "shift once")
OTHER_ORDER = Cause(
    "logits and targets are flattened in different orders: each position is compared with another one's target",
    "flatten both the same way: logits.reshape(-1, V) and targets.reshape(-1) of (B, T, V) and (B, T)",
)
NO_NEXT_TOKENS = Cause(
    "targets are not the next tokens of the input, by whatever shift", "targets must be the input, one token later"
)
END_UNLEARNED = Cause(
    "the token that ends each text is left out of the loss, though the one before it counts: the model never learns to stop",
    "let the end-of-text token count, and mask only the padding after it",
)
PADDING_LEARNED = Cause(
    "padding is not ignored: the loss counts it as if it were text, and the model learns to predict padding",
    "ignore_index, -100 in the targets of padding, or a mask; the first token after a text may count if it is its end",
)
FIRST_PADDING_LEARNED = Cause(
    "the first token of padding after each text counts in the loss, though another token ends the text: what is ignored begins "
    "one token too late",
    "mask the targets by the mask of the targets: attention_mask[:, 1:], not [:, :-1]",
)
NEXT_ROW = Cause(
    "the last token of each row is compared with the first one of the next row: logits and ids were flattened before they were "
    "shifted. Right only where each row goes on where the one before ends",
    "logits[:, :-1] and ids[:, 1:], then flatten",
)


def padding_weighs(times: float) -> Cause:
    return Cause(
        f"padding counts, and each token of it {times:.3g} times as much as one of the text: the mask of the loss holds other "
        "numbers than 0 there, ids for example",
        "pad the mask of the loss with 0, not with the id that pads the tokens",
    )


HEAD_SKIPS = Cause(
    "the targets of an extra head (multi-token prediction) are shifted once too often: one head is compared with the token at "
    "t + 1, the next one with t + 3, and none with t + 2",
    "head k takes the targets at t + k: shift them in the batch or in the model, not in both",
)
SHIFT_CAUSES = {0: NOT_SHIFTED, 2: SHIFTED_TWICE, -1: SHIFTED_BACK, 3: SHIFTED_FAR}
NOT_FOLLOWED_LOSS = "its loss could not be followed (compiled, fused, or not a cross-entropy)"


def targets(r: Run) -> Verdict:
    """The logits at position t are compared with the token at t + 1."""
    seen = [s for b in r.backwards for s in b.compared]
    if heads := [b.heads for b in r.backwards if b.heads]:
        ahead = sorted({shift for shift in heads[0] if shift is not None})
        tokens = f"of the tokens at {listed([f't + {shift}' for shift in ahead])}"
        if all({1, 3} <= set(shifts) and 2 not in shifts for shifts in heads):
            return failed(HEAD_SKIPS, f"{tokens}, in {number_of(len(heads), 'backward pass', 'backward passes')} looked at")
        if not seen and all(shift is not None and shift > 0 for shifts in heads for shift in shifts):
            return passed(f"{len(heads[0])} predictions of one pass, {tokens}")
    if not seen:
        return skipped(NOT_FOLLOWED_LOSS, Reason.INAPPLICABLE)
    if any(not s.order for s in seen):
        return failed(OTHER_ORDER, "targets in order are the next tokens, but logits come in another order")
    compared = [s for s in seen if s.compared]
    if not compared:
        return skipped("no token ids were found to compare its targets with")
    if any(s.rows == "" for s in compared) and all(s.shift is None for s in compared):
        return skipped("its targets fit no shift of its input, and its logits were not seen", Reason.NOT_ASKED)
    fitting = [s for s in compared if s.shift is not None]
    if len(fitting) * 2 < len(compared):
        share = sum(s.share for s in compared) / len(compared)
        if share > MOST_NEXT and all(s.near == 1 for s in compared):
            return warned(
                SOME_NEXT_TOKENS, f"{share:.0%} of {sum(s.compared for s in compared)} targets are the tokens at t + 1"
            )
        return warned(
            NO_NEXT_TOKENS, f"{share:.0%} of {sum(s.compared for s in compared)} targets fit the shift that fits best"
        )
    wrong = [s for s in fitting if s.shift != 1]
    evidence = f"{sum(s.compared for s in fitting)} targets compared with the ids"
    if len(wrong) * 2 > len(fitting) and wrong[0].shift is not None:
        return failed(SHIFT_CAUSES[wrong[0].shift], f"{evidence}: they are the tokens at t + {wrong[0].shift}")
    right = [s for s in fitting if s.shift == 1]
    if problem := of_next_rows(right):
        return problem
    chosen = wrong_preference(r) if any(b.both for b in r.backwards) else wrong_choice(r, right)  # PPO clips
    return chosen or passed(f"{evidence}: they are the tokens at t + 1")


def of_next_rows(seen: list[Comparison]) -> Verdict | None:
    """Return whether rows are compared with the first tokens of the next ones, as far as these are no mark, the same in all."""
    if not seen or not {s.next_row for s in seen} <= {"wraps", "left out"}:
        return None
    firsts = [token for s in seen if s.ids is not None for token in s.ids[1:, 0].tolist()]
    told = len(firsts) - max(Counter(firsts).values(), default=0)
    if told < ENOUGH_ROWS or rows_go_on([s.ids for s in seen if s.ids is not None]):
        return None
    wraps = all(s.next_row == "wraps" for s in seen)
    more = "is compared with the first token of the first row" if wraps else "has no target"
    return (failed if wraps else warned)(NEXT_ROW, f"in {number_of(len(firsts), 'row')}; the last token of the last row {more}")


def wrong_choice(r: Run, seen: list[Comparison]) -> Verdict | None:
    """Return what is wrong with the choice of the tokens that are learned: answers without prompts, texts without padding."""
    known = [(s.ids.tolist(), s.weights.abs().tolist()) for s in seen if s.ids is not None and s.weights is not None]
    batches = [[(i, [bool(w) for w in weights]) for i, weights in zip(*batch, strict=True)] for batch in known]
    weighted = [(i, weights) for batch in known for i, weights in zip(*batch, strict=True) if any(weights)]
    rows = [row for batch in batches for row in batch]
    if problem := wrong_start(rows, r.watch.parts.starts):
        return problem
    packed = [
        (s.ids, s.starts, s.weights > 0, s.told_by)
        for s in seen
        if s.ids is not None and s.starts is not None and s.weights is not None
    ]
    return across_documents(packed) or wrong_mask(batches) or wrong_end(weighted) or end_masked(seen)


def end_masked(seen: list[Comparison]) -> Verdict | None:
    """Return whether the last real token of each text, by the mask, is the id of padding, as which it is ignored."""
    unlearned, ended = [], 0
    for s in seen:
        if s.ids is None or s.weights is None or s.mask is None or len(s.ids[~s.mask].unique()) != 1:
            continue
        pad, learned = s.ids[~s.mask][0], s.weights > 0
        ends = torch.zeros_like(s.mask)
        ends[:, 1:-1] = s.mask[:, 1:-1] & ~s.mask[:, 2:] & (s.ids[:, 1:-1] == pad) & learned[:, :-2]
        ended += int(ends.sum())
        unlearned += [(s.ids[i].tolist(), learned[i].tolist(), n) for i, n in (ends & ~learned).nonzero().tolist()]
    if ended < FEWEST_ROWS or len(unlearned) < ended or has_own_end(unlearned) or not longer_than_one(unlearned):
        return None
    return warned(
        END_UNLEARNED,
        f"in all of {number_of(ended, 'row')}; its id is the padding's, but the attention mask says that it is text",
    )


def wrong_end(rows: list[tuple[list[int], list[float]]]) -> Verdict | None:
    """Return whether rows that are padded to their end learn the padding, or do not learn what ends the text before it."""
    lasts = Counter(ids[-1] for ids, _ in rows if ids[-2:-1] == ids[-1:])
    if not lasts:
        return None
    pad = lasts.most_common(1)[0][0]
    padded = []
    for ids, learned in rows:
        end = next((n for n in range(len(ids), 0, -1) if ids[n - 1] != pad), 0)  # tokens before the padding
        if 1 < end <= len(ids) - PADDING_RUN:
            padded.append((ids, learned, end))
    if len(padded) < max(FEWEST_ROWS, PADDED_ROWS * len(rows)) or len({end for *_, end in padded}) < FEWEST_ROWS:
        return None
    if all(all(learned[end:]) for _, learned, end in padded):
        texts = [(learned[-1], [w for w in learned[:end] if w]) for _, learned, end in padded]
        times = statistics.median([pads / statistics.median(text) for pads, text in texts if text] or [1.0])
        if times > 1 + SAME_WEIGHT:
            more = f", which is the padding's own id ({pad})" if close(times, pad) else ""
            return failed(padding_weighs(times), f"{len(padded)} of {number_of(len(rows), 'row')} end in token {pad}{more}")
        share = sum(len(ids) - end for ids, _, end in padded) / sum(sum(map(bool, learned)) for _, learned in rows)
        return warned(
            PADDING_LEARNED, f"{len(padded)} of {number_of(len(rows), 'row')} end in token {pad}, {share:.0%} of what counts"
        )
    marks = {ids[end - 1] for ids, _, end in padded}
    if len(marks) == 1 and all(all(learned[end - 1 : end + 1]) and not any(learned[end + 1 :]) for _, learned, end in padded):
        return warned(
            FIRST_PADDING_LEARNED,
            f"token {pad} counts once in {len(padded)} of {number_of(len(rows), 'row')}, after {marks.pop()}",
        )
    return end_left_out(padded, f"{len(padded)} of {number_of(len(rows), 'row')}")


def end_left_out(padded: list[tuple[list[int], list[float], int]], where: str) -> Verdict | None:
    """Return whether the same token, which is never learned, follows what is learned in all rows: (ids, weights, length)."""
    texts = []
    for ids, weights, end in padded:
        counts = [w != 0 for w in weights]
        last = max((n for n, w in enumerate(counts) if w), default=end)
        if not end - TAIL <= last + 1 < end:  # more text is behind it: a word, or a span, is learned
            return None
        texts.append((ids, counts, last + 1))
    mark, *others = {ids[n] for ids, _, n in texts}
    learned = sum((mark, True) in zip(ids, counts, strict=True) for ids, counts, _ in texts)
    if others or learned > (1 - SAME_END) * len(texts) or has_own_end(texts) or not longer_than_one(texts):
        return None
    return warned(END_UNLEARNED, f"token {mark} follows what counts in {where}, and does not count")


# ----- preferences


def counts_prompt(which: str) -> Cause:
    return Cause(
        f"in each pair, the prompt's tokens count in the log-probability of the {which} answer only, so they do not cancel, "
        "and the margin depends on the prompt",
        "one mask for both: 0 for prompt and padding, 1 for the answer",
    )


def averaged(which: str) -> Cause:
    return Cause(
        f"the log-probability of the {which} answer is a mean over its tokens, and that of the other one a sum: their "
        "difference mostly reflects the length of the answers",
        "sum both (DPO), or divide each by its own number of tokens (SimPO, ORPO)",
    )


PADDING_IN_PAIRS = Cause(
    "the log-probabilities of answers include their padding: how likely an answer is depends on how far it is padded",
    "(logs * mask).sum(-1), with a mask that is 0 for padding",
)


REFERENCE_SWAPPED = Cause(
    "the model and its reference are identical at the first step, yet the margin is not 0: the reference's log-ratio is added, "
    "or subtracted the other way round (chosen and rejected are swapped in one place)",
    "(chosen - rejected) - (reference_chosen - reference_rejected): DPO's sigmoid loss begins at ln 2 ≈ 0.693",
)
REFERENCE_LEFT_OUT = Cause(
    "the model and its reference are identical at the first step, yet the margin is not 0: the reference's log-ratio is not "
    "subtracted. Right if it is only watched, as beside a loss that needs no reference (CPO, SimPO)",
    "(chosen - rejected) - (reference_chosen - reference_rejected): DPO's sigmoid loss begins at ln 2 ≈ 0.693",
)
REFERENCE_UNSEEN = Cause(
    "the model and its reference are identical at the first step, yet the margin is not 0: the reference's log-ratio is "
    "swapped, or it is not subtracted (right if it is only watched, as beside CPO)",
    "(chosen - rejected) - (reference_chosen - reference_rejected)",
)
REFERENCE_FOLLOWS = Cause(
    "the reference is the trained model itself, not a frozen copy: the margins stay 0 although the weights have changed, and "
    "nothing holds the model near to where it began",
    "reference = copy.deepcopy(model).eval().requires_grad_(False) before training",
)
LIKELIER, LESS_LIKELY = "preferred", "rejected"


@dataclasses.dataclass
class Answer:
    """A row of ids of which the loss makes some tokens likelier, or less likely, all of them alike."""

    ids: list[int]
    weights: list[float]
    logs: float  # the log-probability of the tokens that count, together

    @property
    def counted(self) -> list[int]:
        return [t for t, w in enumerate(self.weights) if w]

    @property
    def size(self) -> float:
        """How much each token counts; 0 if not all count alike: a likelihood may be added to what is preferred."""
        sizes = [w for w in self.weights if w]
        return sizes[0] if sizes and close(min(sizes), sizes[0]) and close(max(sizes), sizes[0]) else 0.0


def pairs_of(b: Backward) -> list[tuple[Answer, Answer]]:
    """Return the pairs of a preferred and a rejected answer, in this order, that begin with the same prompt: rows of two
    passes, or of one, half and half or in turns. [] if the loss has none."""
    known = [(s.ids, s.weights, s.logs) for s in b.compared if s.ids is not None and s.weights is not None and s.shift == 1]
    rows = [
        [Answer(i, w, sum(z)) for i, w, z in zip(ids.tolist(), weights.tolist(), logs.tolist(), strict=True)]
        for ids, weights, logs in known
        if logs is not None
    ]
    if len(rows) == 2:
        ways = [rows]
    elif len(rows) == 1:
        half = len(rows[0]) // 2
        ways = [[rows[0][:half], rows[0][half:]], [rows[0][::2], rows[0][1::2]]]
    else:
        return []
    for one, other in ways:
        if not one or len(one) != len(other):
            continue
        pairs = [(x, y) if x.size > y.size else (y, x) for x, y in zip(one, other, strict=True)]
        if all(x.size > 0 > y.size and shared(x, y) > 1 for x, y in pairs):
            return pairs
    return []


def shared(x: Answer, y: Answer) -> int:
    """Return how many tokens two rows begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(x.ids, y.ids, strict=False)) if a != b), min(len(x.ids), len(y.ids)))


def wrong_preference(r: Run) -> Verdict | None:
    """Return what is wrong with the log-probabilities that a loss of preferences compares."""
    per_pass = [(b, pairs) for b in r.backwards if (pairs := pairs_of(b))]
    pairs = [pair for _, some in per_pass for pair in some]
    if len(pairs) < FEWEST_ROWS:
        return None
    begin = [({t for t in x.counted if t < n}, {t for t in y.counted if t < n}) for x, y in pairs for n in (shared(x, y),)]
    for which, more in ((LIKELIER, [len(a - b) for a, b in begin]), (LESS_LIKELY, [len(b - a) for a, b in begin])):
        if all(more):
            evidence = f"in {number_of(len(pairs), 'pair')}, {min(more)} to {max(more)} tokens that both begin with"
            return failed(counts_prompt(which), evidence)
    sizes = [(x.size, len(x.counted), -y.size, len(y.counted)) for x, y in pairs]
    if not any(close(a, b) or close(a * n, b * m) for a, n, b, m in sizes if n > 1 or m > 1):
        for which, fits in (
            (LIKELIER, [close(a * n, b) for a, n, b, _ in sizes]),
            (LESS_LIKELY, [close(b * m, a) for a, _, b, m in sizes]),
        ):
            if all(fits):
                a, n, b, m = sizes[0]
                return failed(averaged(which), f"{n} and {m} tokens count {a:.3g} and {-b:.3g} each, for example")
    for side in (0, 1):
        rows = [(pair[side].ids, [abs(w) for w in pair[side].weights]) for pair in pairs]
        if (found := wrong_end(rows)) and found.cause == PADDING_LEARNED:
            return failed(PADDING_IN_PAIRS, found.evidence)
    return reference_follows(r, per_pass) or reference_misused(r, *per_pass[0])


def reference_follows(r: Run, per_pass: list[tuple[Backward, list[tuple[Answer, Answer]]]]) -> Verdict | None:
    """Return whether all margins are exactly 0 although weights have moved: the reference computes with the model's own.

    Where some of them are frozen, as under LoRA, an adapter may rightly be off, and its first steps too small to be seen.
    """
    margins = [m for b, pairs in per_pass for m in b.margins if m.numel() == len(pairs)]
    events = r.watch.events[: r.watch.events.index(per_pass[-1][0])]
    if len(margins) < max(FEWEST_ROWS, len(per_pass)) or any(bool(m.any()) for m in margins):
        return None
    moved = {p for e in events if isinstance(e, Step) for p in e.moved}
    for b, _ in per_pass[1:]:  # the same parameters, beside what is trained, on the same ids, without a graph
        if not all(p.requires_grad for f in b.forwards for p in f.module.parameters()):
            return None
        mine = moved & {id(p) for f in b.forwards for p in f.module.parameters()}
        beside = [e for e in events if isinstance(e, Forward) and not e.graph and e.key in {f.key for f in b.forwards}]
        if not any(mine & {id(p) for p in e.module.parameters()} for e in beside):
            return None
    return warned(REFERENCE_FOLLOWS, f"{number_of(len(margins), 'backward pass', 'backward passes')}, and all margins 0")


def reference_misused(r: Run, b: Backward, pairs: list[tuple[Answer, Answer]]) -> Verdict | None:
    """Return whether the margins of the first backward pass are not 0, where the reference is a copy of the model and nothing
    is dropped; `pairs` are its answers."""
    margins = next((m.flatten().tolist() for m in b.margins if m.numel() == len(pairs)), None)
    trained, keys = {id(f.module) for f in b.forwards}, {f.key for f in b.forwards}
    before = r.watch.events[: r.watch.events.index(b)]
    copies = [f for f in before if isinstance(f, Forward) and f.key in keys and id(f.module) not in trained]
    if margins is None or len(pairs) < 2 or b is not r.backwards[0] or {f.key for f in copies} != keys:
        return None
    if any(f.rng_before != f.rng_after for f in (*copies, *b.forwards)):
        return None
    values = r.watch.kept.values
    for f in copies:
        mine, theirs = ([values.get(id(p)) for p in m.parameters()] for m in (b.forwards[0].module, f.module))
        if len(mine) != len(theirs) or not all(
            x is not None and y is not None and x.shape == y.shape and torch.equal(x, y)
            for x, y in zip(mine, theirs, strict=True)
        ):
            return None
    if max(map(abs, margins)) < SAME_LOSS * max(1.0, *(abs(x.logs) for x, _ in pairs)):
        return None
    sums = [(x.logs - y.logs, 1) for x, y in pairs]
    means = [(x.logs / len(x.counted) - y.logs / len(y.counted), len(y.counted)) for x, y in pairs]
    softplus = sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins)
    for logs in (sums, means):
        # beta times what the loss divides by, as the rejected answers' gradients tell: a likelihood may be added to the others
        betas = [-y.size * n * (1 + math.exp(min(m, 100.0))) for m, (_, y), (_, n) in zip(margins, pairs, logs, strict=True)]
        times = [m / (beta * d) if d else 0.0 for m, beta, (d, _) in zip(margins, betas, logs, strict=True)]
        if times[0] <= 0 or not all(math.isclose(x, times[0], rel_tol=SAME_TIMES) for x in times):
            continue
        evidence = f"margins {margins[0]:.3g}, {margins[1]:.3g} … at the first step,"
        # the loss is softplus over that, if nothing is added to it, whether by micro-batches, a GradScaler or as a sum
        factor = times[0] * b.loss / softplus if softplus else 0.0
        if math.isclose(factor, 2, rel_tol=SAME_TIMES):
            return failed(REFERENCE_SWAPPED, f"{evidence} twice as much as the model's log-ratios alone give")
        if all(d <= 0 for d, _ in logs):  # HyPO subtracts no reference below 0
            return None
        if math.isclose(factor, 1, rel_tol=SAME_TIMES):
            return warned(REFERENCE_LEFT_OUT, f"{evidence} as much as the model's log-ratios alone give")
        if len(pairs) >= FEWEST_ROWS:  # something is added to the loss
            return warned(REFERENCE_UNSEEN, f"{evidence} always in the same proportion to the model's log-ratios")
    return None


# ----- loss

SUMMED = Cause("the loss is summed, not averaged: gradients grow with batch and window", "the mean over all tokens that count")
SUMMED_OVER_WINDOW = Cause(
    "the loss is summed over the window and averaged over the batch only", "the mean over all tokens that count"
)
BROADCAST = Cause(
    "two shapes were broadcast silently: the loss sums over far more numbers than there are tokens",
    "give losses and masks the same shape, for example (B, T) and (B, T), not (B, T, 1) or (N,) and (N, 1)",
)
NOTHING_COUNTS = Cause(
    "no token counts in the loss: the step teaches nothing", "print the targets, and which of them are not ignored, or masked"
)
MASKED_MEAN = Cause(
    "the masked loss is divided by the number of all tokens, masked ones (padding, a prompt) included: the more of them, the "
    "smaller the loss and its gradients",
    "(each * mask).sum() / mask.sum(), or ignore_index with reduction='mean'",
)
DIVISOR_COUNTS_MORE = Cause(
    "the masked sum is divided by too many tokens: they were counted before some rows (truncated completions, say) were masked "
    "out. The more such rows, the smaller the loss and its gradients",
    "count after the last change of the mask: (each * mask).sum() / mask.sum()",
)
SIGN = Cause("the sign of the loss is inverted: the step makes the targets less likely", "minimise the negative log-likelihood")
DOUBLE_SOFTMAX = Cause(
    "softmax is taken twice: cross_entropy takes logits, and was given probabilities (or log-probabilities of them)",
    "F.cross_entropy(logits, targets), without a softmax before",
)
NO_LOG = Cause("nll_loss was given logits or probabilities, not log-probabilities", "F.cross_entropy(logits, targets)")
MIXED_AXES = Cause(
    "a view mixes the axes of the logits before the loss", "logits.transpose(1, 2) for (B, V, T), reshape only for (B·T, V)"
)
STEPPED_EACH = Cause(
    "the loss is divided as if there were several micro-batches, and the optimizer steps after each one",
    "step once for all micro-batches, or do not divide",
)
COUNTS_OTHERWISE = Cause(
    "the loss is scaled by a factor of its own",
    "remove the factor, unless it is meant: in a mean, the weights of the tokens add up to 1",
)


def loss(r: Run) -> Verdict:
    """What is minimised is the mean cross-entropy of the tokens that count."""
    seen = [b.seen for b in r.backwards if b.seen is not None]
    kinds = {"mixed": MIXED_AXES, "doubled": DOUBLE_SOFTMAX, "not logs": NO_LOG}
    for kind, cause in kinds.items():
        if seen and all(s.rows == kind for s in seen):
            return failed(cause, f"in {number_of(len(seen), 'backward pass', 'backward passes')} looked at")
    if any(s.tokens and s.summed > s.tokens + s.ignored and s.summed % (s.tokens + s.ignored) == 0 for s in seen):
        worst = max(seen, key=lambda s: s.summed)
        return failed(BROADCAST, f"a sum over {worst.summed:,} numbers for {number_of(worst.tokens + worst.ignored, 'token')}")
    if problem := divisor_counts_more(r):
        return warned(DIVISOR_COUNTS_MORE, problem)
    followed = [b for b in r.backwards if b.weight is not None]
    if not followed:
        return skipped(NOT_FOLLOWED_LOSS)
    if r.too_long and not r.iterations:
        return skipped("no optimizer step was reached: how many backward passes belong to one is not known", Reason.TOO_SLOW)
    weights = weights_of(r)
    i, total, factor = weights[0] if weights else (None, followed[0].weight or 0.0, 1.0)
    parts = i.backwards if i else next((p for p in map(followed_of, r.iterations) if p), followed[:1])
    if not i:  # others go with them, from what the logits were computed of
        total = sum(b.weight or 0.0 for b in parts)
    k, first = len(parts), parts[0]
    alone = bool(followed[0].rows) and all(
        b.alone for b in followed if b.rows
    )  # a teacher that begins as the student's copy adds nothing at first
    verdict = judge_weight(first, total, factor, k, any(b.both for b in followed), alone)
    return (wrong_term(r) if verdict.status == Status.PASS else None) or verdict


def beside_rows(rows: int) -> Cause:
    return Cause(
        f"a term added to the cross-entropy is summed over the tokens and divided by the number of rows ({rows}): it weighs as "
        "many times more as a row has tokens, for the cross-entropy is a mean over tokens",
        "the mean over the tokens that count; F.kl_div with reduction='batchmean' divides by the first axis: use (B·T, V)",
    )


BESIDE_SUMMED = Cause(
    "a term added to the cross-entropy is a sum over tokens, and the cross-entropy a mean: the more tokens a batch has, the "
    "more that term weighs",
    "the mean over the tokens that count, for both",
)
BESIDE_VOCABULARY = Cause(
    "a term added to the cross-entropy (an entropy, a KL divergence) is divided by the size of the vocabulary, too: it is a "
    "mean over tokens and vocabulary, where it should be summed over the latter",
    "sum over the vocabulary, then the mean over tokens: .sum(-1).mean(), or reduction='batchmean' on (B·T, V)",
)
BESIDE_PADDING = Cause(
    "a term added to the cross-entropy counts padding, which the cross-entropy ignores: the model is trained on what comes "
    "after the end of a text",
    "the same mask for both: (each * mask).sum() / mask.sum()",
)


def wrong_term(r: Run) -> Verdict | None:
    """Return what is wrong with how a term beside a mean cross-entropy is averaged. Its coefficient is a choice: only divisors
    that stand in the graph are judged, and sums whose coefficient stays the same however many tokens there are."""
    found: dict[str, list[str]] = {}
    sums: dict[int, list[tuple[float, int]]] = {}
    followed = [b for b in r.backwards if b.seen is not None and b.weight is not None and b.forwards]
    for b in followed:
        ids = next((f.ids for f in reversed(b.forwards) if f.ids is not None), None)
        if ids is None or b.both or b.weight is None or not 0 < b.weight <= 1 + SAME_WEIGHT:  # NaN where no token counts
            continue
        (B, T), n, V = ids.shape, b.counted, b.width
        k = round(1 / b.weight) if close(b.weight * round(1 / b.weight), 1) else 1
        for number, term in enumerate(b.terms):
            wide = len(term.shape) > 1 and term.shape[-1] == V
            tokens = math.prod(term.shape[:-1] if wide else term.shape)
            by = term.by / k if term.by % k == 0 else term.by
            if tokens not in (B * T, B * (T - 1)) or tokens in (B, 1):
                continue
            if by == B:
                found.setdefault("rows", []).append(f"{tokens} tokens of {B} rows")
            elif by == 1:
                sums.setdefault(number, []).append((term.times, n))
            elif wide and term.expected and by == tokens * V:
                found.setdefault("vocabulary", []).append(f"{tokens} tokens, a vocabulary of {V:,}")
    for which, cause in (("rows", None), ("vocabulary", BESIDE_VOCABULARY)):
        if len(some := found.get(which, [])) > len(followed) / 2:
            evidence = f"in {number_of(len(some), 'backward pass', 'backward passes')}, of {some[0]}"
            return warned(cause or beside_rows(int(some[0].split()[-2])), evidence)
    for seen in sums.values():
        times, counts = {x for x, _ in seen}, {n for _, n in seen}
        if len(seen) > len(followed) / 2 and len(times) == 1 and (len(counts) >= FEWEST_ROWS or abs(next(iter(times))) == 1):
            return warned(BESIDE_SUMMED, f"times {next(iter(times)):.3g}, of {min(counts)} to {max(counts)} tokens that count")
    return padding_beside(followed)


def padding_beside(followed: list[Backward]) -> Verdict | None:
    """Return whether a gradient comes back to the logits at padding, whose next tokens the cross-entropy ignores."""
    rows, touched, positions = 0, 0, 0
    for b in followed:
        reached = next((f.reached for f in reversed(b.forwards) if f.reached is not None), None)
        s = b.seen
        if reached is None or s is None or s.ids is None or s.weights is None or s.shift != 1 or reached.shape != s.ids.shape:
            continue
        for ids, weights, at in zip(s.ids.tolist(), s.weights.tolist(), reached.tolist(), strict=True):
            end = next((n for n in range(len(ids), 0, -1) if ids[n - 1] != ids[-1]), 0)  # tokens before the padding
            if 1 < end <= len(ids) - PADDING_RUN and not any(weights[end + 1 :]):
                rows += 1
                touched += all(at[end:-1])
                positions += len(ids) - end
    if rows < FEWEST_ROWS or touched < rows:
        return None
    return warned(BESIDE_PADDING, f"{positions} positions of padding in {number_of(rows, 'row')} get a gradient all the same")


def followed_of(i: Iteration) -> list[Backward]:
    """Return an iteration's backward passes whose loss was followed."""
    return [b for b in i.backwards if b.weight is not None]


def divisor_counts_more(r: Run) -> str:
    """Return evidence that a masked sum is divided by a count of tokens that the mask leaves out in part, "" if not.

    Whole rows of the mask are 0 then: completions that were cut off, say, counted before they were taken out. A constant in
    place of a count is a choice.
    """
    more, exact, by = [], 0, set()
    for i in r.iterations:
        parts = [b.divided for b in i.backwards if b.divided is not None]
        if not parts or len(parts) < len(i.backwards):
            return ""
        chosen, k = max(1.0, sum(d.chosen for d in parts)), len(parts)
        by |= {d.by for d in parts}
        if all(any(close(d.by, x) for x in (chosen, max(1.0, d.chosen), k * max(1.0, d.chosen))) for d in parts):
            exact += 1
        elif all(chosen * (1 + SAME_WEIGHT) < d.by <= sum(x.of for x in parts) for d in parts) and any(
            d.emptied for d in parts
        ):
            more.append((parts[0].by, chosen))
        else:
            return ""
    if len(more) < FEWEST_ROWS or len(by) < FEWEST_ROWS:
        return ""
    share = sum(n for n, _ in more) / sum(chosen for _, chosen in more)
    return (
        f"divided by {more[0][0]:,.0f} where {more[0][1]:,.0f} count; by {share:.3g} times as many as count in {len(more)} of "
        f"{number_of(len(more) + exact, 'step')}"
    )


def judge_weight(first: Backward, total: float, factor: float, k: int, both: bool, alone: bool) -> Verdict:
    """Return what it means that the tokens of an optimizer step count `total` together, in k micro-batches; `both`: some with a
    minus, which only policy gradients and preferences have; `alone`: there is nothing else in the loss."""
    n, T = first.counted, first.seen.positions if first.seen else 0
    mean = f"for a mean: 1{f', or 1/{k}' if k > 1 else ''}"
    evidence = f"the weights of the {n:,} tokens of a backward pass add up to {total / k:.4g} ({mean})"
    if k == 1 and close(total, 1):
        return passed(f"it is the mean over the {number_of(n, 'token')} of a batch")
    if any(close(x, y) for x in (total, total * factor) for y in (1, k, 1 / k) if y >= 1 or k > 1):
        return passed(evidence)
    if T > 2 and abs(total - 1) < (1 + SAME_WEIGHT) / (T - 1):  # the first token counted, too: transformers' Trainer
        return passed(evidence)
    if 0 < first.weighted < first.rows and any(close(x * first.rows, first.weighted) for x in (total, total / k)):
        return failed(MASKED_MEAN, f"{evidence}, {first.weighted} of {first.rows} have a weight")
    if both:
        return passed(f"{evidence}; some are to become likelier, and some less likely")
    if total < 0:
        return failed(SIGN, evidence)
    for size in (total / k, total, total * factor):
        if n > 1 and close(size, n):
            return failed(SUMMED, evidence)
        if T > 2 and n > T and (close(size, T) or close(size, T - 1)):
            return failed(SUMMED_OVER_WINDOW, evidence)
    if not alone:
        return passed(f"{evidence}, beside other terms")
    if total == 0:
        return warned(NOTHING_COUNTS, evidence)
    if k == 1 and total < 1 and close(1 / total, round(1 / total)):
        return warned(STEPPED_EACH, evidence)
    return warned(COUNTS_OTHERWISE, evidence)


# ----- accumulation

NOT_DIVIDED = Cause(
    "the loss of a micro-batch is not divided by their number, so the gradient is that many times too large, and clipped more",
    "(loss / micro_batches).backward()",
)
DIVIDED_TWICE = Cause(
    "the loss is divided by the number of micro-batches twice", "divide once: by hand, or leave it to the library, not both"
)
THROWN_AWAY = Cause(
    "the last micro-batches of an epoch, too few for a step, are thrown away: their gradients are cleared before any step",
    "step after the last batch of an epoch, too (dividing by the micro-batches that there were), or make the loader drop them",
)
UNEVEN = Cause(
    "micro-batches with unequal numbers of tokens weigh the same: not what one large batch would give",
    "sum the losses and divide by the number of all tokens that count",
)


def close(value: float, to: float) -> bool:
    return math.isclose(value, to, rel_tol=SAME_WEIGHT)


def weights_of(r: Run) -> list[tuple[Iteration, float, float]]:
    """Return each iteration whose loss was followed, what its tokens count together, and what was done to the gradients after
    the last backward pass, as a factor."""
    found = []
    for iteration in r.iterations:
        weights = [b.weight for b in iteration.backwards]
        if weights and all(w is not None for w in weights):
            total = sum(w for w in weights if w is not None)
            found.append((iteration, -total if uphill(iteration) else total, factor_after(iteration)))
    return found


def uphill(i: Iteration) -> bool:
    """Whether its steps make the loss larger (maximize=True), as for a log-likelihood."""
    return all(group.get("maximize") for s in i.steps for group in s.optimizer.param_groups)


def factor_after(i: Iteration) -> float:
    """Return by how much gradients were multiplied between the last backward pass and clipping, or the step, but for a
    GradScaler."""
    last = i.backwards[-1]
    after = i.between[i.between.index(last) + 1 :]
    clip = next((e for e in after if isinstance(e, Clip)), None)
    scaled = any(isinstance(e, Mark) and e.kind != "schedule" for e in after[: after.index(clip) if clip else None])
    norm = clip.norm if clip else i.steps[0].norm
    return norm / last.norm * (last.scale if scaled else 1.0) if last.norm and len(i.steps) == 1 else 1.0


def accumulation(r: Run) -> Verdict:
    """Micro-batches together give the gradient of one large batch."""
    several = [x for x in weights_of(r) if len(x[0].backwards) > 1]
    if not several and any(len(i.backwards) > 1 for i in r.iterations):
        return skipped(NOT_FOLLOWED_LOSS, Reason.NOT_ASKED)
    several = [x for x in several if are_micro_batches(x[0])]
    if not several:
        if any(len(i.backwards) > 1 for i in r.iterations):
            return skipped("the backward passes of a step are not micro-batches of one loss")
        return skipped("one backward pass for each optimizer step" if r.iterations else NO_OPTIMIZER)
    i, total, factor = several[len(several) // 2]
    k = len(i.backwards)
    evidence = f"{k} micro-batches a step; the weights of all their tokens add up to {total:.4g} (for a mean: 1)"
    if close(total, 1) or close(total * factor, 1):
        if thrown := thrown_away(r):
            return warned(THROWN_AWAY, f"{evidence}; {thrown}")
        if uneven := uneven_micro_batches([x[0] for x in several]):
            return warned(UNEVEN, uneven)
        return passed(evidence)
    if close(total, k):
        return failed(NOT_DIVIDED, evidence)
    if close(total, 1 / k):
        return failed(DIVIDED_TWICE, evidence)
    return passed(evidence) if total > 0 else skipped(f"{evidence}: see loss", Reason.DEPENDS)


def thrown_away(r: Run) -> str:
    """Return evidence that windows of too few micro-batches are cleared before any step uses them, "" if not: always as many,
    as at the end of each epoch, and counted like those of a whole window. A step that is left out because of its loss, or an
    estimate of something else, is not of that kind."""
    cut_up = [
        parts
        for _, events in itertools.groupby(r.watch.events, key=lambda e: e.call)
        for i in cut(list(events))
        if (parts := parts_of(i))
    ]
    usual = Counter(len(parts[-1]) for parts in cut_up).most_common(1)[0][0]
    short = [parts for parts in cut_up if len(parts) > 1]
    lengths = {len(part) for parts in short for part in parts[:-1]}
    if len(short) < 2 or len(lengths) > 1 or max(lengths) >= usual or any(len(parts) > 2 for parts in short):
        return ""
    weights = [b.weight for parts in short for part in parts for b in part]
    if any(w is None or not close(w, weights[0] or 0.0) for w in weights):
        return ""
    n = lengths.pop()
    which = f"the gradients of {number_of(n, 'micro-batch', 'micro-batches')} were cleared before a step used them"
    return f"{len(short)} times {which}"


def are_micro_batches(i: Iteration) -> bool:
    """Whether an iteration's backward passes are parts of one large batch: not of other losses (a classifier's), none of whose
    gradients was cleared and put together by hand, none of the same rows with other weights (adversarial training)."""
    pairs = itertools.pairwise(i.backwards)
    same = len({b.width for b in i.backwards}) == 1 and len(parts_of(i)) == 1
    return same and not any(is_the_same_with_other_weights(a, b) for a, b in pairs)


def uneven_micro_batches(iterations: list[Iteration]) -> str:
    """Return evidence that means of unequal micro-batches count the same, "" if not."""
    for i in iterations:
        counts, weights = [b.counted for b in i.backwards], [b.weight or 0.0 for b in i.backwards]
        if max(counts) > UNEVEN_MICRO_BATCHES * max(min(counts), 1) and close(max(weights), min(weights)):
            return f"micro-batches with {min(counts)} and {max(counts)} tokens that count weigh {weights[0]:.3g} each"
    return ""
