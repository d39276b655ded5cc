"""Which tokens count in the loss, row by row: the answers, all of them and nothing else, and the same whenever a text comes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .patient import BOUNDARIES, DOCUMENTS
from .probes import (
    CLOSE_TO_MARK,
    FEWEST_ROWS,
    FEWEST_SPANS,
    LONGEST_MARK,
    MARKED_TWICE,
    MOST_SHIFTED,
    NOT_A_MARK,
    ROLES,
    SAME_END,
    SAME_ROW,
)
from .report import Cause, Verdict, failed, number_of, warned

Row = tuple[list[int], list[bool]]  # ids (T,), and whether each of them is a target that counts

MASK_SHIFTED = Cause(
    "the loss mask is shifted by a constant number of tokens: it does not begin at the mark of an answer, but always as far "
    "from one (a header, or a first token, was not counted), so parts of prompts count in the loss and parts of answers do not",
    "count from the first token of the row, header and all: start = len(header) + …; print the tokens that count, decoded",
)
ONLY_LAST = Cause(
    "in conversations with several turns only the last answer counts in the loss: the answers before it are ignored. Right "
    "where those are examples, or a history that is not to be learned",
    "let each answer count, not what follows the last prompt alone",
)
ONLY_FIRST = Cause(
    "in conversations with several turns only the first answer counts in the loss: those after it are ignored",
    "let each answer count, in a loop over all turns",
)
MASK_SHARED = Cause(
    "more and more text is left out of the loss: one mask (or row of labels) is shared by all texts and changed in place, so "
    "what was masked as padding in one text stays masked in every later one",
    "mask = cached_mask.clone() before anything is written into it",
)
CHANGED_MEANWHILE = Cause(
    "fewer tokens of a text count in the loss when it comes again: its mask, or its labels, were changed in place meanwhile",
    "clone() what the data set keeps before anything is written into it",
)
ACROSS_DOCUMENTS = Cause(
    "the last token of a packed document is compared with the first one of the next, which cannot be predicted from it: "
    "position ids, or the attention mask, restart there",
    "ignore the first token of each document as a target: labels[position_ids == 0] = -100, before anything is shifted",
)


FIRST_UNLEARNED = Cause(
    "the first token of each answer is left out of the loss: the loss mask begins one token too late (the logits at the "
    "prompt's last token predict the answer's first token)",
    "with targets = ids[:, 1:] the mask of these targets begins at prompt_length - 1; with a mask of ids, shift it as the ids",
)
PROMPT_LEARNED = Cause(
    "the last token of each prompt counts in the loss with the answer: the loss mask begins one token too early",
    "with targets = ids[:, 1:] the mask of these targets begins at prompt_length - 1",
)


def wrong_mask(batches: Sequence[Sequence[Row]]) -> Verdict | None:
    """Return what is wrong with the tokens that are learned, in batches of rows in the order in which they came."""
    rows = [row for batch in batches for row in batch]
    return mask_shared(batches) or changed_meanwhile(rows) or mask_shifted(rows) or not_all_answers(rows)


def wrong_start(rows: Sequence[Row], starts_at: Callable[[list[int]], int | None]) -> Verdict | None:
    """Return whether what is learned begins a token after the answer does, or before it; `starts_at` tells where that is."""
    learning = [(ids, learned.index(True)) for ids, learned in rows if any(learned)]
    starts = [(ids, first, start) for ids, first in learning if (start := starts_at(ids))]
    for by, cause, verdict in ((1, FIRST_UNLEARNED, failed), (-1, PROMPT_LEARNED, warned)):
        off = [(ids, start) for ids, first, start in starts if first - start == by]
        between = {ids[min(first, start)] for ids, first, start in starts}  # where it is always the same, it is a mark
        if (
            len(off) >= FEWEST_ROWS
            and len(off) >= SAME_ROW * len(starts)
            and len(between) > 1
            and (by > 0 or more_learned(off))
        ):
            where = "after its first token" if by > 0 else "one token before it"
            return verdict(cause, f"in {len(off)} of {number_of(len(starts), 'row')} the tokens that count begin {where}")
    return None


def more_learned(off: list[tuple[list[int], int]]) -> bool:
    """Whether more than one token comes before what is learned, which so leaves most of the prompt out."""
    return all(start > 2 for _, start in off)


def starts_of(learned: Sequence[bool]) -> list[int]:
    """Return where what is learned begins, but for the row's first token."""
    return [n for n in range(1, len(learned)) if learned[n] and not learned[n - 1]]


def has_own_end(texts: Sequence[tuple[list[int], list[bool], int]], share: float = SAME_END) -> bool:
    """Whether texts, (ids, learned, n), whose end ids[n] is ignored have learned another end before it.

    At least `share` have the same token last, or the same two, and wherever else these stand, in prompts too, one of a few
    tokens follows (<|im_end|>, and a role), not whatever comes next, as after a full stop.
    """
    rows = {id(ids): ids for ids, _, _ in texts}
    ends = {(id(ids), n) for ids, _, n in texts}
    for length in (1, 2):
        lasts = Counter(tuple(ids[n - length : n]) for ids, _, n in texts if n >= length)
        if not lasts or max(lasts.values()) < share * len(texts):
            continue
        mark = lasts.most_common(1)[0][0]
        follows = Counter(
            ids[n]
            for row, ids in rows.items()
            for n in range(length, len(ids))
            if ids[n - 1] == mark[-1] and tuple(ids[n - length : n]) == mark and (row, n) not in ends
        )
        if len(follows) <= max(1, min(ROLES, follows.total() // ROLES)):
            return True
    return False


def longer_than_one(texts: Sequence[tuple[list[int], list[bool], int]]) -> bool:
    """Whether any of the texts, as above, is more than one token: after a single one nobody has to stop."""
    return any(n > 1 and learned[n - 2] for _, learned, n in texts)


def padding_of(rows: Sequence[Row]) -> int | None:
    """Return the token that most rows end in, twice or more; None if no row does."""
    lasts = Counter(ids[-1] for ids, _ in rows if ids[-2:-1] == ids[-1:])
    return lasts.most_common(1)[0][0] if lasts else None


def mask_shared(batches: Sequence[Sequence[Row]]) -> Verdict | None:
    """Return whether all texts are learned as far as the shortest one that has come yet, however long they are."""
    pad = padding_of([row for batch in batches for row in batch])
    if pad is None:
        return None
    ends: list[int] = []  # of all texts that came
    cut, total, reached = 0, 0, set()
    for batch in batches:
        here = [next((n for n in range(len(ids), 0, -1) if ids[n - 1] != pad), 0) for ids, _ in batch]
        ends += here
        last = {next((n for n in range(len(learned), 0, -1) if learned[n - 1]), 0) for _, learned in batch}
        if len(last) != 1 or not 0 <= (until := last.pop()) - min(ends) <= 1:  # the first token of padding may end the text
            return None
        reached.add(until)
        cut, total = cut + sum(end > until + 1 for end in here), total + len(here)
    if len(set(ends)) < FEWEST_ROWS or total < 2 * FEWEST_ROWS or 2 * cut < total:
        return None
    where = f"tokens {max(reached)} to {min(reached)}" if len(reached) > 1 else f"token {max(reached)}"
    return failed(
        MASK_SHARED, f"{cut} of {number_of(total, 'text')} go on after the last token that counts; in all of them it is {where}"
    )


def changed_meanwhile(rows: Sequence[Row]) -> Verdict | None:
    """Return whether texts that come again are learned in fewer places each time."""
    first: dict[tuple[int, ...], list[bool]] = {}
    again = fewer = 0
    for ids, learned in rows:
        before = first.setdefault(tuple(ids), learned)
        again += before is not learned
        if before != learned:
            if any(now and not then for now, then in zip(learned, before, strict=True)):
                return None  # drawn anew each time
            fewer += 1
    if fewer < FEWEST_ROWS:
        return None
    return failed(CHANGED_MEANWHILE, f"{fewer} of {number_of(again, 'text')} that came again")


def mask_shifted(rows: Sequence[Row]) -> Verdict | None:
    """Return whether what is learned begins at no mark, and always as far from one that comes once for each answer."""
    places = [(ids, start) for ids, learned in rows for start in starts_of(learned)]
    lengths = {next((n for n in range(s, len(w)) if not w[n]), len(w)) - s for _, w in rows for s in starts_of(w)}
    if len(places) < FEWEST_SPANS or min(len({s for _, s in places}), len(lengths)) < FEWEST_ROWS:
        return None
    counts = Counter(token for ids, _ in rows for token in ids)

    def at(offset: int) -> tuple[int, float]:
        """The commonest token so far from where what is learned begins, and its share."""
        tokens = Counter(ids[s + offset] for ids, s in places if 0 <= s + offset < len(ids))
        token, count = tokens.most_common(1)[0] if tokens else (-1, 0)
        return token, count / len(places)

    if any(at(offset)[1] > NOT_A_MARK for offset in range(-CLOSE_TO_MARK, CLOSE_TO_MARK)):
        return None
    for far in range(CLOSE_TO_MARK, MOST_SHIFTED):
        for offset in (far, -far - 1):
            token, share = at(offset)
            if share >= SAME_ROW and counts[token] <= MARKED_TWICE * len(places):
                where = f"{abs(offset)} tokens {'after' if offset > 0 else 'before'} the first one that counts"
                return failed(
                    MASK_SHIFTED,
                    f"token {token}, once for each answer, comes {where}, in {share:.0%} of {number_of(len(places), 'place')}",
                )
    return None


def not_all_answers(rows: Sequence[Row]) -> Verdict | None:
    """Return whether what begins an answer comes several times in a row, and what follows is learned only once."""
    learnt = [(ids, learned, starts_of(learned)) for ids, learned in rows]
    places = [(ids, start) for ids, _, starts in learnt for start in starts]
    if len(places) < FEWEST_ROWS or any(len(starts) > 1 for *_, starts in learnt):
        return None
    mark: tuple[int, ...] = ()
    for length in range(1, LONGEST_MARK + 1):  # as long as it is the same before all answers
        marks = Counter(tuple(ids[s - length : s]) for ids, s in places if s >= length)
        longer, count = marks.most_common(1)[0] if marks else ((), 0)
        if count < SAME_ROW * len(places):
            break
        mark = longer
    if len(set(mark)) < 2 or len({s for _, s in places}) < FEWEST_ROWS:  # a single token may be a colon, or padding
        return None
    several, answers = [], 0
    for ids, learned, starts in learnt:
        marked = [n for n in range(len(mark), len(ids)) if tuple(ids[n - len(mark) : n]) == mark]
        if len(marked) > 1 and starts and starts[0] in marked:
            several.append((marked.index(starts[0]), len(marked)))
            answers += sum(not learned[n] for n in marked)
    if len(several) < FEWEST_ROWS:
        return None
    evidence = (
        f"{number_of(answers, 'answer')} after the same {len(mark)} tokens are ignored, in {number_of(len(several), 'row')}"
    )
    if all(n == of - 1 for n, of in several):
        return warned(ONLY_LAST, evidence)
    return warned(ONLY_FIRST, evidence) if all(n == 0 for n, _ in several) else None


# ----- documents that are packed into rows


def document_starts(given: Mapping[str, Any], ids: Tensor) -> tuple[Tensor | None, str]:
    """Return where packed documents begin inside rows of ids, (B, T), and what says so; None if nothing that is `given` does.

    Padding is no document: neither what a mask hides, nor one id, nor positions that do not go on.
    """
    B, T = ids.shape
    mask = given.get("attention_mask")
    mask = mask.cpu() if isinstance(mask, Tensor) else None
    open_ = torch.ones_like(ids, dtype=torch.bool)
    starts, name = torch.zeros_like(open_), ""

    def of_tokens(value: Any) -> bool:
        return isinstance(value, Tensor) and value.numel() == ids.numel() and not value.is_floating_point()

    numbers = next((n for n in DOCUMENTS if of_tokens(given.get(n))), "")
    if mask is not None and mask.numel() == ids.numel():
        open_ = mask.reshape(B, T) != 0
        if not mask.is_floating_point() and mask.dtype != torch.bool and int(mask.max()) > 1:  # 1, 1, 2, 2, 2, 0
            numbers = "attention_mask"
    if mask is not None and mask.dim() == 4 and mask.shape[0] in (1, B) and mask.shape[-2:] == (T, T):
        seen = mask[:, 0] > -1 if mask.is_floating_point() else mask[:, 0] != 0  # (B, T, T)
        own, before = seen.diagonal(dim1=1, dim2=2)[:, 1:], seen.diagonal(-1, 1, 2)
        starts[:, 1:], name = own & ~before, "attention_mask"
    elif of_tokens(given.get("position_ids")):
        positions = given["position_ids"].cpu().reshape(B, T)
        starts[:, 1:-1] = (positions[:, 1:-1] == 0) & (positions[:, :-2] > 0) & (positions[:, 2:] == 1)
        name = "position_ids"
    elif numbers:
        number = given[numbers].cpu().reshape(B, T)
        starts[:, 1:], name = number[:, 1:] != number[:, :-1], numbers
    elif bounds := next((n for n in BOUNDARIES if isinstance(given.get(n), Tensor)), ""):
        at = given[bounds].cpu().flatten().long()
        if len(at) > 1 and int(at[-1]) == ids.numel() and bool((at.diff() >= 0).all()):
            starts.view(-1)[at[(at > 0) & (at < ids.numel())]] = True
            starts[:, 0], name = False, bounds
    run = (ids == ids[:, -1:]).flip(1).cumprod(1).flip(1).bool()  # one id to the end of the row: padding
    starts[:, 1:] &= open_[:, 1:] & open_[:, :-1] & ~run[:, 1:]
    starts[:, 0] = False
    return (starts, name) if starts.any() else (None, name)


def across_documents(found: Sequence[tuple[Tensor, Tensor, Tensor, str]]) -> Verdict | None:
    """Return whether the first tokens of packed documents are learned, in (ids, starts, learned) of (B, T) each, and a name.

    Where each begins with the same mark, that is what comes next. Where each ends with one, little is lost.
    """
    firsts = torch.cat([ids[starts] for ids, starts, _, _ in found]) if found else torch.zeros(0)
    counted = torch.cat([learned[starts] for _, starts, learned, _ in found]) if found else torch.zeros(0)
    if len(firsts) < FEWEST_ROWS or int(counted.sum()) < SAME_ROW * len(firsts) or len(firsts.unique()) == 1:
        return None
    lasts = torch.cat([ids[:, :-1][starts[:, 1:]] for ids, starts, _, _ in found])
    ended = len(lasts.unique()) == 1
    evidence = f"{int(counted.sum())} of {number_of(len(firsts), 'document')} that begin inside a row, by {found[0][3]}"
    return (
        warned(ACROSS_DOCUMENTS, f"{evidence}; each ends with id {int(lasts[0])}")
        if ended
        else failed(ACROSS_DOCUMENTS, evidence)
    )


def rows_go_on(batches: Sequence[Tensor]) -> bool:
    """Whether the first token of a row mostly follows the last two of the row before inside of rows, too, as in a pattern."""
    inside = {key for ids in batches for row in ids.tolist() for key in zip(row, row[1:], row[2:], strict=False)}
    across = [(*a[-2:], b[0]) for ids in batches for a, b in itertools.pairwise(ids.tolist())]
    return 2 * sum(key in inside for key in across) >= len(across)
