"""Examine a batch, or whole data: ids that cannot be or wrapped round, targets, one id everywhere, leaks into validation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .answers import across_documents, document_starts, has_own_end, longer_than_one, rows_go_on, wrong_mask, wrong_start
from .passes import SHIFTS, best_shift
from .patient import BOUNDARIES, DOCUMENTS, TARGETS, VOCABS, ModelError, TookTooLong, declared, model_code, random_numbers_kept
from .probes import (
    COMMONEST,
    ENDING,
    ENOUGH_FOR_A_MARK,
    ENOUGH_ROWS,
    ENOUGH_TOKENS,
    FEW_WINDOWS,
    FEWEST_ROWS,
    HALF_CUT,
    JUST_BELOW,
    LARGE_SHARE,
    MISSING,
    MOST_NEXT,
    MOSTLY_WHOLE,
    OFTEN,
    OVERLAP,
    PADDED_ROWS,
    PADDING_INSIDE,
    PADDING_RUN,
    SAME_END,
    SAME_ROW,
    SMALL_VOCABULARY,
    WINDOW,
)
from .registry import time_limit
from .report import Cause, Reason, Report, Verdict, failed, first_few, number_of, passed, skipped, warned
from .subject import Entry, findings_of, is_strict
from .watch import Parts

IDS = ("input_ids", "ids", "idx", "x", "tokens", "input", "inputs", "src")
TRAIN, VALIDATION = ("train", "training"), ("val", "valid", "validation", "dev", "test", "eval")
ASKED, BATCHES, MOST_TOKENS = 16, 64, 2_000_000  # of a function, of a loader, of all
SEEN_BY_MODEL = "ids"  # in place of a storage type: what a model was given, whatever it had been stored in
IGNORED = (-100, -1)  # what targets hold where nothing is to be learned


class NotABatch(ValueError):
    """What was handed over holds no token ids; the message says what is needed."""


@dataclasses.dataclass
class Rows:
    """Ids (B, T), with their targets (B, T) and a mask of padding if there are any. A text is one row."""

    ids: Tensor
    targets: Tensor | None = None
    mask: Tensor | None = None
    named: bool = False  # whether the targets are called labels, which many models shift themselves
    starts: Tensor | None = None  # (B, T), where packed documents begin inside a row
    told_by: str = ""  # what says so


@dataclasses.dataclass
class Data:
    """What was handed over, in one form."""

    rows: list[Rows]
    validation: list[Rows]
    kinds: set[str]  # of the numbers as they were stored
    vocab: int | None
    eos: int | None = None
    parts: Parts | None = None  # what the rows were joined of, if that was seen

    @property
    def ids(self) -> Tensor:
        """All ids in a row, without padding."""
        return torch.cat([without_padding(r) for r in self.rows])


def without_padding(r: Rows) -> Tensor:
    """Return the ids of some rows without what a mask hides, or without one id repeated at the ends of rows."""
    return r.ids[no_padding(r)]


def no_padding(r: Rows) -> Tensor:
    """(B, T), whether each token is no padding: by the mask, or else by one id that is repeated at the ends of rows."""
    if r.mask is not None and r.mask.shape == r.ids.shape:
        return r.mask.bool()
    if len(r.ids) < 2 or r.ids.shape[1] < 2:
        return torch.ones_like(r.ids, dtype=torch.bool)
    keep = torch.ones_like(r.ids, dtype=torch.bool)
    for end in (-1, 0):  # padding on the right, or on the left
        pad = r.ids[:, end].mode().values
        run = (r.ids == pad) if end == 0 else (r.ids == pad).flip(1)
        length = run.cumprod(1).sum(1)  # (B,)
        if int((length > 1).sum()) and bool((length < r.ids.shape[1]).any()):
            inside = torch.arange(r.ids.shape[1]) < length[:, None]
            keep &= ~(inside if end == 0 else inside.flip(1)) | (length[:, None] < 2)
    return keep


# ----- taking it apart


def as_ids(value: Any) -> tuple[Tensor, str] | None:
    """Return (ids, how they were stored) of a tensor, an array, or a list of whole numbers; None if it is none of these."""
    if isinstance(value, Tensor):
        return (value.detach().cpu(), str(value.dtype).removeprefix("torch.")) if value.dtype != torch.bool else None
    if hasattr(value, "__array__") and hasattr(value, "astype"):
        kind = str(value.dtype)
        part = value[:MOST_TOKENS] if value.ndim == 1 else value
        return (torch.as_tensor(part.astype("int64")) if kind[0] in "iu" else torch.as_tensor(part), kind)
    if isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value[:100]):
        return torch.tensor(value[:MOST_TOKENS]), "int"
    return None


def rows_of(value: Any, kinds: set[str]) -> list[Rows]:
    """Return the rows that a value holds: ids, (ids, targets), a dict of them, or several of these."""
    if (found := as_ids(value)) is not None:
        ids, kind = found
        kinds.add(kind)
        if ids.is_floating_point() or ids.dim() not in (1, 2):
            raise NotABatch(f"ids must be whole numbers (B, T) or (T,), not {kind} {tuple(ids.shape)}")
        if not ids.numel():
            raise NotABatch(f"there is no token in ids of shape {tuple(ids.shape)}: is the data set empty?")
        return [Rows(ids.reshape(-1, ids.shape[-1]).long())]
    if isinstance(value, Mapping) or hasattr(value, "input_ids"):
        return rows_of_mapping(value if isinstance(value, Mapping) else vars(value), kinds)
    if isinstance(value, tuple | list) and len(value) >= 2 and same_shape(value[0], value[1]) and not is_list_of_rows(value):
        return [Rows(rows_of(value[0], kinds)[0].ids, rows_of(value[1], kinds)[0].ids)]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        found_rows: list[Rows] = []
        for part in itertools.islice(value, BATCHES):
            found_rows += rows_of(part, kinds)
        if found_rows:
            return found_rows
    raise NotABatch(
        f"no token ids in a {type(value).__name__}: give a tensor or array of ids, (ids, targets), a dict with input_ids and "
        "labels, a loader of these, or a function that returns one"
    )


def same_shape(a: Any, b: Any) -> bool:
    first, second = as_ids(a), as_ids(b)
    return first is not None and second is not None and first[0].shape == second[0].shape


def is_list_of_rows(value: Any) -> bool:
    """Whether it is a list of many texts of one length, not a pair of ids and targets."""
    return isinstance(value, list) and len(value) > 2


def rows_of_mapping(value: Mapping, kinds: set[str]) -> list[Rows]:
    name = next((n for n in IDS if n in value), None)
    if name is None:
        raise NotABatch(f"a dict without any of {', '.join(IDS)}: it holds {first_few(value)}")
    label = next((n for n in (*TARGETS, "labels") if n in value and n != name), None)
    [ids] = rows_of(value[name], kinds)
    if label and value[label] is not None:
        ids.targets, ids.named = rows_of(value[label], kinds)[0].ids, label in ("labels", "label")
    counts = as_ids(value["loss_mask"]) if "loss_mask" in value else None
    if ids.targets is not None and counts is not None and counts[0].numel() == ids.targets.numel():
        ids.targets = ids.targets.masked_fill(counts[0].reshape(ids.targets.shape) == 0, IGNORED[0])
    given = value.get("attention_mask")
    given = given.long() if isinstance(given, Tensor) else given  # of truth values, often
    if given is not None and (mask := as_ids(given)) is not None and mask[0].numel() == ids.ids.numel():
        ids.mask = mask[0].reshape(ids.ids.shape)
    beside = {n: found[0] for n in ("position_ids", *DOCUMENTS, *BOUNDARIES) if (found := as_ids(value.get(n))) is not None}
    ids.starts, ids.told_by = document_starts(beside | {"attention_mask": value.get("attention_mask")}, ids.ids)
    return [ids]


def split_of(value: Mapping, names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if name in value), None)


def gather(batch: Any, args: tuple, validation: Any) -> tuple[list[Rows], list[Rows], set[str]]:
    """Return the rows for training and for validation, and how they were stored."""
    kinds: set[str] = set()
    if isinstance(batch, Mapping) and split_of(batch, TRAIN) is not None:
        batch, validation = split_of(batch, TRAIN), validation if validation is not None else split_of(batch, VALIDATION)
    if not callable(batch) or isinstance(batch, Mapping) or as_ids(batch) is not None or hasattr(batch, "__iter__"):
        return rows_of(batch, kinds), rows_if_any(validation, kinds), kinds
    if not args and (name := split_parameter(batch)):  # get_batch(split="train")
        rows, held_out = called(functools.partial(batch, **{name: "train"}), (), kinds), rows_if_any(validation, kinds)
        with contextlib.suppress(ModelError, NotABatch):  # it may know no "val"
            held_out = held_out or called(functools.partial(batch, **{name: "val"}), (), kinds)
        return rows, held_out, kinds
    needed = required(batch)[len(args) :]
    if len(needed) > 1:
        names = ", ".join(p.name for p in needed)
        raise NotABatch(
            f"{name_of(batch)} needs {names}: give a function without arguments, or one that takes 'train' or 'val'"
        )
    if needed:  # get_batch(split)
        rows = called(batch, (*args, "train"), kinds)
        return rows, called(batch, (*args, "val"), kinds), kinds
    result = call(batch, args)
    if isinstance(result, Mapping) and split_of(result, TRAIN) is not None:
        return gather(result, (), validation)
    if callable(result) and as_ids(result) is None and not hasattr(result, "__iter__"):  # it made get_batch
        return gather(result, (), validation)
    rows = rows_of(result, kinds)
    if sum(r.ids.numel() for r in rows) < ENOUGH_FOR_A_MARK:
        rows += called(batch, args, kinds)
    return rows, rows_if_any(validation, kinds), kinds


def rows_if_any(validation: Any, kinds: set[str]) -> list[Rows]:
    """Return the rows of validation data, or of what a function returns as such; none if nothing was given."""
    return [] if validation is None else rows_of(validation() if callable(validation) else validation, kinds)


def split_parameter(function: Callable) -> str:
    """Return the name of an argument that chooses between training and validation and has a default, "" if there is none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ""
    return next((p.name for p in parameters if isinstance(p.default, str) and p.default in TRAIN), "")


def required(function: Callable) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    return [p for p in parameters if p.default is p.empty and p.kind in kinds]


def name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def call(function: Callable, args: tuple) -> Any:
    with model_code():
        return function(*args)


def called(function: Callable, args: tuple, kinds: set[str]) -> list[Rows]:
    """Return the rows of several calls."""
    return [row for _ in range(ASKED) for row in rows_of(call(function, args), kinds)]


def vocabulary(model: nn.Module | None) -> int | None:
    """Return how many ids a model knows: stated by its configuration, or the rows of its largest embedding."""
    if model is None:
        return None
    if sizes := declared(model, VOCABS):
        return int(sizes[0][1])
    return max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)


# ----- ids

OUT_OF_RANGE = Cause(
    "ids that the vocabulary does not have", "the tokenizer's vocabulary and the model's must be the same; check special tokens"
)
NEGATIVE = Cause("negative ids in the input", "-100 and the like belong into the targets only")
NEGATIVE_WRAPPED = Cause(
    "negative ids: a vocabulary above 32,767 was stored as int16, and wrapped round", "store ids as uint16 (to 65,535) or int32"
)


def ids_exist(d: Data) -> Verdict:
    """Every id is a whole number from 0 to V - 1."""
    ids = torch.cat([r.ids.flatten() for r in d.rows])
    low, high = int(ids.min()), int(ids.max())
    evidence = f"{number_of(ids.numel(), 'id')} from {low} to {high}" + (f", V = {d.vocab:,}" if d.vocab else "")
    if low < 0:
        if "int8" in d.kinds:
            return failed(wrapped_round(7), f"{evidence}, stored as int8")
        wrapped = "int16" in d.kinds or (low < -1000 and low >= -(2**15))
        return failed(NEGATIVE_WRAPPED if wrapped else NEGATIVE, evidence)
    if d.vocab and high >= d.vocab:
        return failed(OUT_OF_RANGE, f"{evidence}: {int((ids >= d.vocab).sum())} of them")
    if d.vocab is None:
        return passed(f"{evidence}; whether the vocabulary has them was not asked (vocab_size)")
    return passed(evidence)


# ----- wraps


def wrapped_round(bits: int) -> Cause:
    return Cause(
        f"ids wrapped round: they were stored in {bits} bits, so those from {2**bits:,} on became small ones, and other tokens",
        f"store them as {'uint16 (to 65,535) or int32' if bits < 16 else 'int32'}",
    )


def no_wrap(d: Data) -> Verdict:
    """No id was cut off by the type that it was stored in."""
    if d.vocab is None:
        return skipped("the size of the vocabulary was not given (vocab_size)")
    sizes = {"uint8": 8, "int8": 7, "int16": 15, "uint16": 16}
    narrow = [k for k in d.kinds if k in sizes and 2 ** sizes[k] < d.vocab]
    ids = torch.cat([r.ids.flatten() for r in d.rows])
    high = int(ids.max())
    for bits in (7, 8, 15, 16):
        limit = 2**bits
        if limit >= d.vocab or (bits == 7 and "int8" not in d.kinds):  # 7 bits: ASCII has as many, and nobody else
            continue
        width = min(d.vocab - limit, limit // 2)
        below = int(((ids >= limit - width) & (ids < limit)).sum())
        above = int((ids >= limit).sum())
        evidence = f"{below} ids from {limit - width:,} to {limit - 1:,}, and {above} from {limit:,} to {d.vocab - 1:,}"
        missing = 1 - limit / d.vocab
        near = limit - high <= JUST_BELOW * limit or MISSING[0] <= missing <= MISSING[1]
        if above == 0 and below >= ENOUGH_TOKENS and near:
            return failed(wrapped_round(bits), evidence)
        if above == 0 and any(sizes[k] == bits for k in narrow):
            return failed(wrapped_round(bits), f"stored as {first_few(narrow)}, V = {d.vocab:,}; {evidence}")
    stored = "the storage type was not seen" if d.kinds == {SEEN_BY_MODEL} else f"stored as {first_few(sorted(d.kinds))}"
    return passed(f"{stored}; {len(ids.unique()):,} of {d.vocab:,} ids occur, the largest is {high:,}")


# ----- shift

SAME = Cause(
    "targets are the inputs, not shifted: a model that sees token t learns to copy it",
    "targets = ids[:, 1:], for inputs ids[:, :-1]",
)
TWICE = Cause(
    "targets are two tokens ahead: shifted twice",
    "shift once, in the batch or in the loss; a token put in front of the inputs only (BOS) is a shift too",
)
BACK = Cause("targets are the tokens before, not after: shifted the wrong way", "targets[t] = ids[t + 1]")
FAR = Cause("targets are three tokens ahead", "shift once")
UNRELATED = Cause("targets do not continue the inputs", "targets must be the same text, one token later")
SOME_NEXT_TOKENS = Cause(
    "most targets are the next tokens of the input, and some are not: tokens were replaced in the input (noise, a model's own "
    "guesses), or in the targets",
    "right if it is meant; else targets must be the input, one token later",
)
OTHER_ROWS = Cause("targets belong to other rows of the batch", "shuffle inputs and targets together")
EOS_IGNORED = Cause(
    "the end-of-text id is ignored in the targets (often because padding has the same id): it is left out of the loss, and "
    "generation does not stop",
    "labels.masked_fill(attention_mask == 0, -100), not labels == pad_id; or give padding an id of its own. A mask of answers "
    "has to include their end",
)
SHIFT = {0: SAME, 2: TWICE, -1: BACK, 3: FAR}
WRAPPED = Cause(
    "the last target of each row is the row's own first token, not the next one (wrapped round, as by roll)",
    "cut windows of T + 1 tokens: ids = w[:, :-1], targets = w[:, 1:]; or ignore the last target (-100)",
)
NEXT_ROW = Cause(
    "the last target of each row is the first token of the next row, which does not continue it: the batch was flattened "
    "before it was shifted",
    "shift along each row: ids[:, :-1] and ids[:, 1:], not of ids.view(-1)",
)


def shift(d: Data) -> Verdict:
    """Targets are the next tokens."""
    pairs = [r for r in d.rows if r.targets is not None and r.targets.shape == r.ids.shape]
    if not pairs:
        return skipped("there are no targets beside the ids")
    found, compared, near = [], 0, set()
    if problem := eos_ignored(pairs, d.eos):
        return failed(EOS_IGNORED, problem)
    for r in pairs[:BATCHES]:
        assert r.targets is not None
        B, T = r.ids.shape
        where = torch.stack(torch.meshgrid(torch.arange(B), torch.arange(T), indexing="ij"), dim=-1).reshape(-1, 2)
        counts = ~torch.isin(r.targets.flatten(), torch.tensor(IGNORED))
        if not counts.any():
            continue
        ends = last_of_text(r).flatten()
        if bool((counts & ~ends).any()):  # what ends a text is often among its targets only
            counts &= ~ends
        best = best_shift(r.ids, where, r.targets.flatten(), counts.nonzero().flatten(), down=False)
        if best is not None:
            found.append((best[0] if best[1] >= SAME_ROW else None, best[1]))
            near.add(best[0])
            compared += best[2]
            if best[1] < SAME_ROW and of_other_rows(r):
                return failed(
                    OTHER_ROWS, f"targets of one row continue another row of the same batch; in its own {best[1]:.0%} fit"
                )
    if not found:
        return skipped("windows are too short to compare", Reason.INAPPLICABLE)
    wrong = [s for s, _ in found if s != 1]
    if 2 * len(wrong) <= len(found):
        evidence = f"{number_of(compared, 'target')} compared: the tokens at t + 1"
        if rows := wrapped(pairs[:BATCHES]):
            return failed(WRAPPED, f"in all of {number_of(rows, 'row')}, targets[-1] is ids[0]; the other {evidence}")
        return of_next_rows(pairs) or across(pairs) or passed(evidence)
    if wrong[0] is None:
        if near == {1} and min(share for _, share in found) > MOST_NEXT:
            least = min(share for _, share in found)
            return warned(SOME_NEXT_TOKENS, f"{least:.0%} or more of {number_of(compared, 'target')} are the tokens at t + 1")
        if (token := stands_for_ignored(pairs[:BATCHES])) is not None:
            return warned(label_for_ignored(token), f"of the targets that are not the ids' own tokens, all are {token}")
        return failed(
            UNRELATED,
            f"{max(share for _, share in found):.0%} of {number_of(compared, 'target')} fit the best of shifts {SHIFTS}",
        )
    if wrong[0] == 0 and pairs[0].named:
        evidence = "labels are the ids themselves: the model must shift them, as those of transformers do"
        return across(pairs) or passed(evidence)
    return failed(SHIFT[wrong[0]], f"{number_of(compared, 'target')} compared: the tokens at t + {wrong[0]}")


def last_of_text(r: Rows) -> Tensor:
    """(B, T), whether a token is the last one before padding."""
    keep = no_padding(r)
    last = torch.zeros_like(keep)
    last[:, :-1] = keep[:, :-1] & ~keep[:, 1:]
    return last


def label_for_ignored(token: int) -> Cause:
    return Cause(
        f"what is to be ignored (the prompt, padding) has the label {token}, which is a token's id: unless the loss is told to "
        "ignore that one, it counts, and the model learns to predict it",
        "-100 there, which is cross_entropy's ignore_index",
    )


def stands_for_ignored(pairs: list[Rows]) -> int | None:
    """Return the one token that all targets are which are neither ignored nor the ids' own, in runs; None if there is none, or
    if few are. The others are the tokens at t, or all those at t + 1."""
    for shift in (0, 1):
        odd, own = [], 0
        for r in pairs:
            assert r.targets is not None
            ids, targets = (r.ids, r.targets) if not shift else (r.ids[:, 1:], r.targets[:, :-1])
            wrong = (targets != ids) & ~torch.isin(targets, torch.tensor(IGNORED))
            wrong &= ~last_of_text(r)[:, : wrong.shape[1]]
            odd.append(targets[wrong])
            own += int((targets == ids).sum())
        tokens = torch.cat(odd)
        if len(tokens.unique()) == 1 and own and len(tokens) * 20 > own:
            return int(tokens[0])
    return None


def wrapped(pairs: list[Rows]) -> int:
    """Return in how many rows that can tell the last target is the row's first token; 0 if it is not so in all, or if few can.

    Rows that begin with the commonest first token cannot: a mark may begin each text, and be next at its end. Neither can a
    text that repeats itself: a pattern within each row, or rows that are all made of the same tokens.
    """
    first = torch.cat([r.ids[:, 0] for r in pairs])
    mark = first.mode().values
    told, kinds = [], set()
    for r in pairs:
        assert r.targets is not None
        for ids, target in zip(r.ids, r.targets[:, -1], strict=True):
            if ids[0] == mark or target in IGNORED or len(ids) < 4:
                continue
            if any(torch.equal(ids[n:], ids[:-n]) for n in (ids[1:] == ids[0]).nonzero().flatten().add(1).tolist()):
                continue
            told.append(bool(target == ids[0]))
            kinds.add(tuple(ids.sort().values.tolist()))
            if not told[-1]:
                return 0
    return len(told) if len(told) >= ENOUGH_ROWS and len(kinds) > 1 else 0


def across(pairs: list[Rows]) -> Verdict | None:
    """Return whether the first tokens of packed documents are targets of the documents before them."""
    found = []
    for r in pairs:
        if r.starts is not None and r.targets is not None:
            learned = ~torch.isin(r.targets, torch.tensor(IGNORED))
            if not is_copied(r, learned):  # targets[t] is token t + 1
                learned = torch.cat((torch.zeros_like(learned[:, :1]), learned[:, :-1]), dim=1)
            found.append((r.ids, r.starts, learned, r.told_by))
    return across_documents(found)


def of_next_rows(pairs: list[Rows]) -> Verdict | None:
    """Return whether the last target of each row is the first token of the next row, though that does not continue it.

    That they do not is seen by what follows the same tokens elsewhere, or by the last row, whose target is the first row's.
    """
    pairs = [r for r in pairs if len(r.ids) > 1 and r.ids.shape[1] > ENDING + 1]
    if not pairs:
        return None
    marks = torch.cat([r.ids[:, 0] for r in pairs]).mode().values
    rows, last = 0, []
    for r in pairs:
        assert r.targets is not None
        rows += int(r.ids[1:, 0].ne(marks).sum())
        if not torch.equal(r.targets[:-1, -1], r.ids[1:, 0]):
            return None
        last.append(bool(r.targets[-1, -1] == r.ids[0, 0]))
    if rows < ENOUGH_ROWS:
        return None
    ends, inside = others_follow(pairs, 0), others_follow(pairs, 1)
    always = 4 * ends[0] < ends[1]  # what comes again is followed by the same
    if all(last) and not always and not rows_go_on([r.ids for r in pairs]):
        return failed(NEXT_ROW, f"in {number_of(rows, 'row')}; the last target of the last row is the first token of the first")
    if ends[0] >= ENOUGH_ROWS and 2 * ends[0] >= ends[1] and 4 * inside[0] <= inside[1]:
        evidence = (
            f"{ends[0]} of {number_of(ends[1], 'row')} whose last {ENDING} tokens come elsewhere, too, are followed by others"
        )
        return failed(NEXT_ROW, f"{evidence} there; of those one token before the end, {inside[0]} of {inside[1]}")
    return None


def others_follow(pairs: list[Rows], before: int) -> tuple[int, int]:
    """Return, of the ENDING tokens that end so many tokens `before` their row does, how many come elsewhere and are followed by
    another token there, and how many come elsewhere at all."""
    factors = torch.randint(-(2**62), 2**62, (ENDING,), generator=torch.Generator().manual_seed(0))
    numbers, following, asked = [], [], []
    for r in pairs:
        assert r.targets is not None
        W = r.ids.shape[1] - ENDING + 1
        windows = torch.stack([r.ids[:, i : i + W] * factors[i] for i in range(ENDING)]).sum(0)  # (B, W): a number for each
        at_end = torch.zeros_like(windows, dtype=torch.bool)
        at_end[:, W - 1 - before] = True
        following.append(r.targets[:, ENDING - 1 :].flatten())
        numbers.append(windows.flatten())
        asked.append(at_end.flatten())
    target = torch.cat(following)
    learned = ~torch.isin(target, torch.tensor(IGNORED))
    target, end = target[learned], torch.cat(asked)[learned]
    _, which, counts = torch.cat(numbers)[learned].unique(return_inverse=True, return_counts=True)
    least = torch.full_like(counts, 2**62).scatter_reduce(0, which, target, "amin")
    most = torch.full_like(counts, -1).scatter_reduce(0, which, target, "amax")
    several = counts[which[end]] > 1
    return int((several & (least != most)[which[end]]).sum()), int(several.sum())


def end_by_mask(r: Rows) -> int | None:
    """Return the id of padding, if real tokens before it, by the mask, are that id too: it ends texts; else None."""
    if r.mask is None or r.mask.shape != r.ids.shape:
        return None
    pads = r.ids[r.mask == 0].unique()
    ends = (r.mask[:, :-1] != 0) & (r.mask[:, 1:] == 0)
    if len(pads) != 1 or not ends.any() or bool((r.ids[:, :-1][ends] != pads[0]).any()):
        return None
    return int(pads[0])


def eos_ignored(pairs: list[Rows], given: int | None) -> str:
    """Return evidence that the end-of-text id, `given` or found, is ignored wherever it ends a text that counts; "" if not."""
    ends, texts, others, found = 0, [], False, given
    for r in pairs:
        assert r.targets is not None
        eos = end_by_mask(r) if given is None else given
        if eos is None:
            continue
        found = eos
        following, ignored = r.ids[:, 1:] == eos, torch.isin(r.targets, torch.tensor(IGNORED))
        first = following & (r.ids[:, :-1] != eos)  # the end of a text, not the padding after it
        if r.mask is not None and r.mask.shape == r.ids.shape:
            first &= r.mask[:, 1:] != 0  # by the mask: an answer that is cut off is followed by padding, too
        if r.starts is not None:
            first &= ~r.starts[:, 1:]  # it begins a document there
        counts = ~ignored[:, 1:] & ~following
        same = r.named and bool((r.targets[:, 1:] == r.ids[:, 1:])[counts].float().mean() > SAME_ROW)
        ignored = ignored[:, 1:] if same else ignored[:, :-1]
        first[:, 1:] &= ~ignored[:, :-1]  # of a text that counts, not of a prompt that is ignored
        if bool((first & ~ignored).any()):
            return ""
        others = others or not bool(ignored[~following].all())
        ends += int(first.sum())
        for ids, counted in zip(r.ids.tolist(), (~ignored).tolist(), strict=True):
            learned = [False, *counted]
            stops = [n for n in range(2, len(ids)) if learned[n - 1] and not learned[n]]
            texts += [(ids, learned, n) for n in stops if ids[n] == eos or n == stops[-1]]  # behind others, an image may come
    # without a mask an answer that is cut off looks like one whose end is ignored
    share = SAME_END if all(r.mask is not None and r.mask.shape == r.ids.shape for r in pairs) else HALF_CUT
    if ends < FEWEST_ROWS or not others or not longer_than_one(texts) or has_own_end(texts, share):
        return ""
    return f"id {found} ends {number_of(ends, 'text')}, and is ignored each time"


def of_other_rows(r: Rows) -> bool:
    """Whether each row of targets continues some row of the ids."""
    assert r.targets is not None
    return len(r.ids) > 1 and all(bool((row[:-1] == r.ids[:, 1:]).all(1).any()) for row in r.targets)


# ----- ignored

PADDING_LEARNED = Cause(
    "padding is not ignored in the labels: it counts in the loss, and the model learns to predict padding",
    "labels = input_ids.masked_fill(attention_mask == 0, -100): by the mask, not by the id, which may also end texts",
)
PADDING_SEEMS_LEARNED = Cause(
    "padding is not ignored in the targets: unless the loss leaves it out itself, the model learns to predict padding",
    "give the targets of padding the value that the loss ignores (-100), or multiply the loss of each token by the mask",
)
FIRST_PADDING_LEARNED = Cause(
    "the first token of padding counts in each row, and does not end a text: what is ignored begins one token too late, and "
    "the model learns to go on with padding",
    "mask the targets by the mask of the targets: attention_mask[:, 1:], not [:, :-1]",
)


def padding_ignored(d: Data) -> Verdict:
    """The targets of padding are ignored: -100, or -1."""
    pairs = [r for r in d.rows if r.targets is not None and r.targets.shape == r.ids.shape]
    if not pairs:
        return skipped("there are no targets beside the ids")
    padded = counted = tokens = rows = 0
    for r in pairs:
        assert r.targets is not None
        pads, learned = targets_of_padding(r), ~torch.isin(r.targets, torch.tensor(IGNORED))
        padded, counted, tokens = padded + int(pads.sum()), counted + int((pads & learned).sum()), tokens + int(learned.sum())
        rows += int(pads.any(1).sum())
    if not padded:
        return skipped("no padding was seen")
    if counted <= rows:  # one in a row may be the end of its text
        if counted and (problem := first_is_no_end(pairs, d.eos)):
            return warned(FIRST_PADDING_LEARNED, problem)
        return passed(f"{padded:,} targets of padding, {counted:,} of them count, in {number_of(rows, 'row')}")
    evidence = f"{counted:,} of {number_of(tokens, 'target')} that count are padding ({counted / tokens:.0%})"
    told = all(r.named and r.mask is not None for r in pairs)
    return failed(PADDING_LEARNED, evidence) if told else warned(PADDING_SEEMS_LEARNED, evidence)


def first_is_no_end(pairs: list[Rows], eos: int | None) -> str:
    """Return evidence that the one token of padding that counts in each row does not end its text; "" if it may.

    It does not where another id is known to, or where each text ends with the same one before it.
    """
    before, first = [], []
    for r in pairs:
        assert r.targets is not None
        learned = ~torch.isin(r.targets, torch.tensor(IGNORED))
        pads = r.mask == 0 if r.mask is not None and r.mask.shape == r.ids.shape else None
        if pads is None:
            return ""
        begins = torch.cat((torch.zeros_like(pads[:, :1]), pads[:, 1:] & ~pads[:, :-1]), dim=1)  # on the right
        if not is_copied(r, learned & ~pads):
            learned = torch.cat((torch.zeros_like(learned[:, :1]), learned[:, :-1]), dim=1)
        before.append(r.ids[:, :-1][(begins & learned)[:, 1:]])
        first.append(r.ids[begins & learned])
    ends, pad = torch.cat(before), torch.cat(first)
    if len(pad) < FEWEST_ROWS or len(pad.unique()) > 1:
        return ""
    mark = int(ends[0]) if len(ends.unique()) == 1 else None
    if mark == int(pad[0]) or (mark is None and eos in (None, int(pad[0]))):
        return ""
    end = f"the text before it ends with id {mark}" if mark is not None else f"texts end with id {eos}"
    return f"id {int(pad[0])} counts once in {number_of(len(pad), 'row')}, and {end}"


def targets_of_padding(r: Rows) -> Tensor:
    """(B, T), whether a target is padding: by the mask, or else at the ends of rows of which most end in a run of one id."""
    assert r.targets is not None
    pads = torch.zeros_like(r.ids, dtype=torch.bool)
    if r.mask is not None and r.mask.shape == r.ids.shape:
        pads = r.mask == 0
    elif len(r.ids) > 1 and len(r.ids.unique()) >= SMALL_VOCABULARY:
        last = r.ids == r.ids[:, -1].mode().values
        length = last.flip(1).cumprod(1).sum(1)  # (B,), of the run that ends a row
        inside = float(last.sum() - length.sum()) / max(r.ids.numel() - float(length.sum()), 1.0)
        if (
            inside < PADDING_INSIDE
            and float((length >= PADDING_RUN).float().mean()) >= PADDED_ROWS
            and len(length.unique()) > 1
        ):
            pads = torch.arange(r.ids.shape[1]) > (r.ids.shape[1] - length)[:, None]  # but the first, which may end the text
    learned = ~torch.isin(r.targets, torch.tensor(IGNORED))
    return pads if is_copied(r, learned & ~pads) else torch.cat((pads[:, 1:], pads[:, -1:]), dim=1)


def is_copied(r: Rows, where: Tensor) -> bool:
    """Whether targets are the ids themselves, where (B, T) is true: then the model, or the loss, shifts them."""
    return r.targets is not None and float(r.targets.eq(r.ids)[where].float().mean()) >= SAME_ROW


# ----- mask

MASK_HIDES_ALL = Cause(
    "the attention mask is 0 everywhere: all tokens are declared padding, and nothing attends to them",
    "attention_mask = (input_ids != pad_id).long(): 1 for real tokens, 0 for padding",
)
MASK_INVERTED = Cause(
    "the attention mask is inverted: it is 0 for the tokens of the text, and 1 for padding",
    "attention_mask = (input_ids != pad_id).long(): 1 for real tokens, 0 for padding",
)
MASK_HIDES_TEXT = Cause(
    "the attention mask is 0 at real tokens: it declares text to be padding",
    "attention_mask = (input_ids != pad_id).long(), of the very ids that the batch holds",
)


def mask_of_padding(d: Data) -> Verdict:
    """An attention mask is 1 for real tokens, and 0 for padding, which is one id."""
    masked = [r for r in d.rows if r.mask is not None and r.mask.shape == r.ids.shape]
    if not masked:
        return skipped("there is no attention_mask beside the ids")
    hidden = torch.cat([r.ids[r.mask == 0] for r in masked if r.mask is not None])
    kept = torch.cat([r.ids[r.mask != 0] for r in masked if r.mask is not None])
    if not hidden.numel():
        return passed(f"1 for all of {number_of(kept.numel(), 'token')}")
    kinds, of_kept = len(hidden.unique()), len(kept.unique())
    evidence = f"0 for {hidden.numel():,} of {number_of(hidden.numel() + kept.numel(), 'token')}, of {number_of(kinds, 'id')}"
    if kinds < SMALL_VOCABULARY:
        return passed(evidence)
    if not kept.numel():
        return failed(MASK_HIDES_ALL, evidence)
    evidence += f"; 1 for {kept.numel():,}, of {number_of(of_kept, 'id')}"
    return failed(MASK_INVERTED, evidence) if of_kept == 1 else warned(MASK_HIDES_TEXT, evidence)


# ----- labels

NO_TARGETS = Cause(
    "every target of a batch is ignored: the mean over no token is NaN",
    "leave out rows without an answer, or cut texts so that each row has a target",
)


def labels(d: Data) -> Verdict:
    """A mask of answers is not off by a token, not shared between texts, and the same when a text comes again."""
    pairs = [r for r in d.rows if r.targets is not None and r.targets.shape == r.ids.shape]
    if not pairs:
        return skipped("there are no targets beside the ids")
    batches, ignored, empty = [], 0, 0
    for r in pairs:
        assert r.targets is not None
        learned = ~torch.isin(r.targets, torch.tensor(IGNORED))
        ignored, empty = ignored + int((~learned).sum()), empty + int(not learned.any())
        pads = torch.zeros_like(learned)
        if r.mask is not None and r.mask.shape == r.ids.shape:
            pads = r.mask == 0
        if not is_copied(r, learned & ~pads):  # targets[t] is token t + 1
            learned = torch.cat((torch.zeros_like(learned[:, :1]), learned[:, :-1]), dim=1)
        batches.append(list(zip(r.ids.tolist(), learned.tolist(), strict=True)))
    if empty:
        return failed(NO_TARGETS, f"{empty} of {number_of(len(pairs), 'batch', 'batches')}")
    if not ignored:
        return passed("all targets count")
    rows = [row for batch in batches for row in batch]
    first = wrong_start(rows, d.parts.starts) if d.parts else None
    return first or wrong_mask(batches) or passed(f"{ignored:,} of {sum(r.ids.numel() for r in pairs):,} targets are ignored")


# ----- spread

ONE_ID = Cause(
    "nearly all of the text is one id: an unknown token, because text and vocabulary do not fit, or padding",
    "decode a batch and read it: does the tokenizer belong to this vocabulary?",
)
MUCH_OF_ONE_ID = Cause("one id makes up most of the text", "decode a batch and read it: padding, or an unknown token?")
EQUAL_ROWS = Cause("the rows of a batch are all the same", "draw a random start for each row")


def spread(d: Data) -> Verdict:
    """No id makes up most of the text, and rows differ."""
    ids = d.ids
    if not ids.numel():
        return skipped("nothing but padding")
    values, counts = ids.unique(return_counts=True)
    share, commonest = float(counts.max()) / ids.numel(), int(values[counts.argmax()])
    evidence = (
        f"the commonest of {number_of(len(values), 'id')} is {commonest}, {share:.1%} of {number_of(ids.numel(), 'token')}"
    )
    several = [r for r in d.rows if len(r.ids) > 1]
    if share >= COMMONEST and (d.vocab is None or d.vocab >= SMALL_VOCABULARY):
        return failed(ONE_ID, evidence)
    if several and all(bool((r.ids == r.ids[:1]).all()) for r in several):
        return failed(EQUAL_ROWS, f"{len(several[0].ids)} equal rows; {evidence}")
    if share >= LARGE_SHARE and max(len(values), d.vocab or 0) >= SMALL_VOCABULARY:
        return warned(MUCH_OF_ONE_ID, evidence)
    return passed(evidence)


# ----- overlap

LEAK = Cause(
    "validation text is in the training text: a low validation loss says nothing",
    "cut the text first, then make windows; look for documents that occur twice",
)


def overlap(d: Data) -> Verdict:
    """Validation and training share no text."""
    if not d.validation:
        return skipped(
            "no validation data were given: a function that takes 'val', {'train': …, 'val': …}, or validation= in Python"
        )
    shortest = min(r.ids.shape[1] for r in (*d.rows, *d.validation))
    n = min(WINDOW, max(shortest // 2, WINDOW // 2))
    if shortest < n:
        return skipped(f"windows of {shortest} tokens are too short to tell")
    train, held_out = Windows.of(d.rows, n), Windows.of(d.validation, n)
    if not len(train.numbers) or not len(held_out.numbers):
        return skipped(f"there are no {n} tokens in a row that are no padding")
    values, counts = train.numbers.unique(return_counts=True)
    among = torch.isin(held_out.numbers, values)
    usual = values[counts <= OFTEN * counts.median()]  # what recurs far more often than most is a prompt, or a template
    share = float(among.float().mean())
    own = float(counts[counts > 1].sum()) / len(train.numbers)  # of windows that recur in training
    whole = float((held_out.whole_runs(train, among) & torch.isin(held_out.numbers, usual)).float().mean())
    of_training = f"{len(train.numbers):,} of training"
    evidence = f"{share:.1%} of {len(held_out.numbers):,} windows of {n} validation tokens are among {of_training}"
    same = all(torch.equal(a.ids, b.ids) for a, b in zip(d.rows, d.validation, strict=False))  # in one order: the same data
    few = not same and len(train.numbers) > 2 * len(values) and len(values) <= FEW_WINDOWS
    leaks = whole > max(OVERLAP, share * MOSTLY_WHOLE) or share > max(OVERLAP, OFTEN * own)
    if leaks and not few and not repetitive(d.rows, train.numbers):
        return failed(LEAK, evidence)
    return passed(f"{evidence}, of which {own:.1%} recur there, too" if share > OVERLAP else evidence)


@dataclasses.dataclass
class Windows:
    """Windows of n tokens without padding, in order: a number for each, the same for equal ones."""

    numbers: Tensor  # (N,)
    first: Tensor  # (N,), whether it begins a row, or what of it is no padding
    last: Tensor  # (N,), whether it ends it

    @classmethod
    def of(cls, rows: list[Rows], n: int) -> Windows:
        factors = torch.randint(-(2**62), 2**62, (n,), generator=torch.Generator().manual_seed(0))
        parts = []
        for r in rows:
            B, T = r.ids.shape
            W, zero = T - n + 1, torch.zeros(1, dtype=torch.long)
            numbers = sum((r.ids[:, i : i + W] * factors[i] for i in range(n)), zero)  # (B, W)
            if B > 1 or r.mask is not None:
                padding = torch.cat((torch.zeros(B, 1, dtype=torch.long), (~no_padding(r)).cumsum(1)), dim=1)  # (B, T + 1)
                inside = padding[:, n:] == padding[:, :W]
            else:
                inside = torch.ones_like(numbers, dtype=torch.bool)
            edge = torch.zeros(B, 1, dtype=torch.bool)
            before = torch.cat((edge, inside[:, :-1]), dim=1)
            after = torch.cat((inside[:, 1:], edge), dim=1)
            parts.append(cls(numbers[inside], ~before[inside], ~after[inside]))
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)))

    def whole_runs(self, others: Windows, among: Tensor) -> Tensor:
        """(N,), whether each of those windows that are `among` others is in a run of them that has no end within both texts.

        Two pieces of one text agree until one of them ends; templates, and what is said often, begin and end in the middle.
        """
        begins = among & (self.first | ~torch.cat((among[:1] & False, among[:-1])))
        ends = among & (self.last | ~torch.cat((among[1:], among[:1] & False)))
        left = self.first | torch.isin(self.numbers, others.numbers[others.first])
        right = self.last | torch.isin(self.numbers, others.numbers[others.last])
        complete = left[begins] & right[ends]  # by run: each has one beginning and one end
        run = (begins.cumsum(0) - 1).clamp(min=0)
        return among & complete[run] if len(complete) else among


def repetitive(rows: list[Rows], windows: Tensor) -> bool:
    """Whether a text of few ids repeats itself so much that equal windows mean nothing."""
    counts = torch.cat([r.ids.flatten() for r in rows]).unique(return_counts=True)[1].float()
    shares = counts / counts.sum()
    return len(windows) > 2 * len(windows.unique()) and float(-(shares * shares.log()).sum()) < math.log(SMALL_VOCABULARY)


# ----- marks

OTHER_MARK = Cause(
    "texts end in another token than the end-of-text id: generation has to stop at that one",
    "give that id to generate (or both, where it takes a list), and to this check as eos",
)
NO_MARK = Cause(
    "documents are joined without a mark, or end without one: the model learns that one goes on in the next, and never to stop",
    "put the end-of-text id after each document",
)


def learned_of(r: Rows) -> Tensor:
    """Which of its ids (B, T) are targets that count."""
    if r.targets is None or r.targets.shape != r.ids.shape:
        return torch.zeros_like(r.ids) > 0
    counts = ~torch.isin(r.targets, torch.tensor(IGNORED))
    return counts if is_copied(r, counts) else nn.functional.pad(counts, (1, 0))[:, :-1]


def marks(d: Data) -> Verdict:
    """Documents are separated by the end-of-text id."""
    if d.eos is None:
        return skipped("the end-of-text id was not given (eos)")
    real = [r.mask != 0 if r.mask is not None and r.mask.shape == r.ids.shape else torch.ones_like(r.ids) > 0 for r in d.rows]
    # padding may have the same id; a mask that was made by the id hides an end, too, but the targets do not
    found = [(r.ids == d.eos) & (text | learned_of(r)) for r, text in zip(d.rows, real, strict=True)]
    count, tokens = (sum(int(x.sum()) for x in some) for some in (found, real))
    evidence = f"id {d.eos} {count} times in {number_of(tokens, 'token')}"
    if count:
        ends = sum(int(x[:, :1].sum() + (x[:, 1:] & ~x[:, :-1]).sum()) for x in found)
        share = f"; it fills {count / max(tokens, 1):.0%} of the tokens: padding with the same id" if count > 2 * ends else ""
        return passed(f"{evidence}, in {number_of(ends, 'place')}{share}")
    if tokens < ENOUGH_FOR_A_MARK:
        return skipped(f"{evidence}: too few to tell", Reason.NOT_ASKED)
    if any(r.targets is None and bool((r.ids == d.eos).any()) for r in d.rows):
        return skipped(f"{evidence} that are not padding, which has the same id: targets would tell what ends a text")
    texts = [
        (ids, text, len(text) - text[::-1].index(True))
        for r, x in zip(d.rows, real, strict=True)
        if not x.all()
        for ids, text in zip(r.ids.tolist(), x.tolist(), strict=True)
        if any(text)
    ]
    if len(texts) >= FEWEST_ROWS and has_own_end(texts):
        last = statistics.mode(ids[n - 1] for ids, _, n in texts)
        return warned(OTHER_MARK, f"{evidence}; most texts end in id {last}")
    return failed(NO_MARK, evidence)


CHECKS_OF_IDS = (
    Entry("ids", ids_exist, essential=True),
    Entry("wraps", no_wrap, needs=("ids",)),
    Entry("spread", spread),
)
CHECKS_OF_A_BATCH = (
    *CHECKS_OF_IDS,
    Entry("shift", shift),
    Entry("mask", mask_of_padding),
    Entry("ignored", padding_ignored, needs=("shift", "mask")),
    Entry("labels", labels, needs=("shift",)),
    Entry("overlap", overlap),
    Entry("marks", marks),
)


def examine_batch(
    batch: Any,
    *args: Any,
    vocab_size: int | None = None,
    validation: Any = None,
    eos: int | None = None,
    model: nn.Module | None = None,
    seconds: float = 60.0,
    strict: bool | None = None,
) -> Report:
    """Examine a batch, or whole data, and report what is wrong with it.

    `batch` is ids (B, T) or (N,), a pair (ids, targets), a dict with input_ids and labels, a loader of these, a dict with the
    keys train and val, or a function that returns one of these; a function with one argument, or with one that is "train" by
    default, is called with "train" and "val".
    `args` are what it is called with. Arrays count by the type they are stored in, so hand over the file as it is. With
    `vocab_size` (or a `model` that knows it) ids out of range and ids that wrapped round are found, with `validation` data
    what is in both, with `eos`, the end-of-text id, documents that are joined without it, and ends that are not learned.

        examine_batch(get_batch, vocab_size=50257)                              # nanoGPT's get_batch(split)
        examine_batch(train_loader, vocab_size=50257, validation=val_loader)
        examine_batch({"train": np.memmap("train.bin", np.uint16), "val": np.memmap("val.bin", np.uint16)}, vocab_size=50257)

    Random numbers go on as if nothing had been; what a loader gave is gone.

    ValueError if there are no token ids in it: the message says what is needed.
    """
    began, parts = time.perf_counter(), Parts()
    with random_numbers_kept():
        try:
            with time_limit(seconds), parts.watched():
                rows, held_out, kinds = gather(batch, args, validation)
        except TookTooLong:
            raise NotABatch(f"{name_of(batch)} did not return {ASKED} batches in {seconds:g} s") from None
        except ModelError as error:
            raise NotABatch(f"{name_of(batch)} raises {error}{f' ({error.where})' if error.where else ''}") from error
    data = Data(rows, held_out, kinds, vocab_size or vocabulary(model), eos, parts)
    tokens = sum(r.ids.numel() for r in rows)
    about = f"Batches from {name_of(batch)}: {number_of(len(rows), 'batch', 'batches')}, {number_of(tokens, 'token')}"
    return Report(about, findings_of(CHECKS_OF_A_BATCH, data, is_strict(strict)), time.perf_counter() - began)
