"""Checks of caches: what is read in parts, from a cache, gets the logits of one pass over the whole."""

from __future__ import annotations

import bisect
import contextlib
import copy
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import explain_cached, long_prompt
from .patient import (
    BLOCKS,
    CACHES,
    CONFIGS,
    EMPTY_CACHE,
    POSITIONS_GIVEN,
    ModelError,
    Patient,
    attribute,
    find_loss,
    model_code,
    positions_for,
)
from .probes import (
    LONGEST_STEPPED,
    OTHER_KERNEL,
    SAME_STATE,
    SAME_STEP,
    STEPS_AT_THE_END,
    flat,
    largest_change,
    module_answers,
    named_module,
    parting,
    perturbed,
    tolerance,
    watch,
)
from .registry import check
from .report import Cause, Reason, Verdict, failed, first_few, passed, skipped, warned
from .tape import Tape
from .values import MASKS, PADDED, padding_arguments

CACHE_SHAPES = Cause(
    "the shapes of queries, keys and mask do not fit when keys come from the cache", "q_len is 1, k_len the whole length"
)
CACHE_ANSWER = Cause(
    "with a cache the answer to several rows has another shape: a tensor of the state lost its axis of time, and was broadcast",
    "state[:, None] where new tokens are (B, 1, C)",
)
CACHE_UNUSED = Cause(
    "the cache is not used: the step answers as if its token were the only one", "concatenate old and new keys"
)
CACHE_SEVERAL = Cause(
    "several new tokens see each other's future, or the wrong keys: the mask ignores the length of the cache. "
    "Reading a prompt in chunks, and speculative decoding, go wrong",
    "a mask of (T, past + T): new token t sees keys 0 … past + t",
)
CACHE_CHUNKS = Cause(
    "a text that is read a few tokens at a time gets other logits than in one pass; one at a time, or in two halves, it is "
    "right: what the cache keeps of a call depends on how many tokens came with it",
    "cat((state, new), dim=time)[-n:], also where fewer tokens come than the state holds",
)
CACHE_SEVERAL_FAILS = Cause(
    "several new tokens cannot follow those in the cache: the mask, or the positions, have the shape of the new ones only. "
    "Reading a prompt in chunks, and speculative decoding, fail",
    "a mask of (T, past + T); or refuse them with a message",
)
CACHE_DIFFERS = Cause(
    "the new query sees all keys, but keys, values or positions in the cache are not those of the whole pass",
    "compare keys and values with those of one pass over the whole",
    vague=True,
)
STATE_DIFFERS = Cause(
    "what is read from the state differs from one pass over the whole, and no part of the state stays as it was",
    "compare each part of the state after some tokens with that of one pass over them",
    vague=True,
)
CACHE_PADDING = Cause(
    "with a cache, padding on the left is seen by new tokens: the mask that comes with them is cut to their number, or not "
    "read, and in one pass it is right",
    "the mask has a column for each key, those in the cache, too: attention_mask[:, : past + T]",
)
CACHE_PADDING_MOVES = Cause(
    "with a cache, padding on the left moves the positions of new tokens: they are counted from the length of the cache, and "
    "in one pass by the mask",
    "position = attention_mask.sum(-1) - 1 for a new token, or position_ids given along",
)
CACHE_PADDING_ROWS = Cause(
    "with a cache, rows of different lengths, padded on the left, are read by the positions or the mask of one of them: new "
    "tokens of the others stand too far on, or see padding",
    "a position for each row, (B, 1): attention_mask.sum(-1, keepdim=True) - 1, and the mask of each row",
)
PREFILL_UNMASKED = Cause(
    "with a fresh cache the tokens of the prompt see the future, and that stays in the cache: the causal mask is missing "
    "there, or counts from the end of the buffer, not from what is filled",
    "the same mask with a cache as without: new token t sees keys 0 … past + t",
)


def tokens_apart(where: str) -> Cause:
    """The cause for tokens of one call that do not see each other, by the first module that answers otherwise."""
    what = f"; {where} looks at the state of earlier calls and at one token only" if where else ""
    return Cause(
        f"several tokens that are read in one call with a cache do not see each other, and one at a time is right{what}",
        "put the new inputs behind those in the state, and let each look back over both: cat((state, x), dim=time)",
    )


def prefill_differs(where: str) -> Cause:
    """The cause for a prompt that is read otherwise with a fresh cache, by the first module that answers otherwise."""
    what = f": {where} gets the same and computes something else" if where else ": its mask, or its positions"
    return Cause(
        f"with a fresh cache the prompt is read differently than without{what}",
        "an empty cache must change nothing: look what is done only where a cache is given, or twice there",
        vague=not where,
    )


def turned_in_prompt(where: str, how: str) -> Cause:
    twice = ": the rotary embedding is applied twice there" if "twice" in how else ""
    return Cause(
        f"with a fresh cache each key is turned {how}, where one pass turns it by those of its position{twice}"
        + (f" (in {where})" if where else ""),
        "turn queries and keys once, by positions = arange(past, past + T), whether a cache is given or not",
    )


CACHE_LEAKS = Cause(
    "a call without a cache goes on from the cache of an earlier call: one request reads another's",
    "make a new cache for each request; keep none in the model",
)
GENERATE_STAYS = Cause(
    "what generate leaves in the model breaks the next call: a cache that stays there, for example",
    "make a new cache for each request, and leave nothing else of it in the model",
)
POSITIONS_NEEDED = Cause(
    "the positions start again with a cache unless the caller gives them",
    "position = arange(past, past + T), from the length of the cache",
)
CACHE_ROWS = Cause(
    "rows share what the cache holds: each row alone is right, several together are not",
    "a state of its own for each row, (B, …): no expand() that is written into, no mean over rows, no index [0]",
)
STATE_KEPT = Cause(
    "what comes back is not carried on: the state after a step is the one before it",
    "return the new state, after all new tokens",
)


def state_parts_kept(names: str) -> Cause:
    return Cause(
        f"part of the state is not carried on: {names}, the same after a token as before it",
        "put what each part has become after the new tokens into the state that is returned",
    )


def outputs_kept(name: str) -> Cause:
    return Cause(
        f"after a prompt the state of a convolution holds its outputs, not its inputs: {name}",
        "keep the last inputs (kernel - 1, or kernel, of them) before the convolution, which the next token's needs",
    )


def state_of_prompt(names: str, n: int) -> Cause:
    tokens = f"{n} token{'s' * (n > 1)}"
    return Cause(
        f"part of the state is another one after {tokens} that are read at once than after the same read one by one: {names}",
        "compute it in both ways, and look where the two formulas part: a decay, a scale, the last tokens of a chunk",
    )


def forms_differ(t: int, chunk: str) -> Cause:
    where = f", where a chunk begins ({chunk})" if chunk else ""
    return Cause(
        f"one pass and the recurrent steps agree up to position {t - 1} and differ from position {t} on{where}, although the "
        "first layer's state is the same: what one pass adds from before is weighed, scaled or masked otherwise",
        "write both forms down for two chunks of two tokens: decay and scale across chunks must be those of the steps",
    )


def cache_positions(first: int, name: str, rows: list[int], right: int) -> Cause:
    off = rows[0] - right
    how = "start again" if rows[0] == 0 else f"are off by {'one' if abs(off) == 1 else abs(off)} ({off:+})"
    return Cause(
        f"the positions {how}: with {first} tokens in the cache, row {first_few(rows, 2)} of {name} is looked up, not {right}",
        "position = arange(past, past + T)",
    )


def cache_cut(of: int) -> Cause:
    return Cause(
        f"the number of keys is not {of}: the cache is overwritten or cut, not appended to; or the positions start again",
        "concatenate old and new keys along time; positions continue from the length of the cache",
    )


def right_until(position: int) -> Cause:
    return Cause(
        f"it is right up to position {position - 1} and wrong from there on: the cache is overwritten or cut at a fixed size "
        "(a ring buffer of fewer slots than the window), or a sliding window is forgotten",
        "a ring needs at least as many slots as the window, and a mask by the position that each slot holds",
    )


NEW_CACHE = (
    "Say how to make an empty one: --new-cache file.py:f, in Python new_cache=f, with f(rows), f(model) or f(model, rows)"
)
MAKERS = ("empty", "init", "make", "new", "create", "get", "fresh", "zero", "initial")  # in names of what makes a cache
COUNTED_INSIDE = {"position_ids", "cache_position"}  # what Hugging Face's models count themselves where it is not given
CACHE_WORDS = ("cache", "state", "past", "kv", "memor", "incremental")  # in an argument's name
CHUNKS = (2, 3, 7)  # tokens at a time
ASKING = re.compile(r"^(return|output|get|with|need|needs|keep|give)_((new|next|final|last)_)?")
FLAGS = ("use_cache", "use_kv_cache", "use_past", "cached")


# ----- how a cache is used


@dataclasses.dataclass(frozen=True)
class Way:
    """How the model goes on from a cache."""

    name: str = ""  # of the argument that takes it; "" where it is kept inside
    flag: str = ""  # of the argument that turns it on
    starts: tuple[str, ...] = ()  # arguments that are told where the new tokens begin
    new: Callable[[int], Any] | None = None  # makes an empty one for so many rows; None: the first call does

    def __str__(self) -> str:
        return f"{self.name or 'a cache inside'}{f' and {first_few(self.starts)}' if self.starts else ''}"


def resets(p: Patient) -> list[Callable]:
    """Return methods that empty a cache which the model keeps inside."""
    if not any(flag in p.names for flag in FLAGS):
        return []
    return [getattr(p.model, name) for name in dir(type(p.model)) if "reset" in name and "cache" in name]


def maker(p: Patient) -> Callable[[int], Any] | None:
    """Return a method of the model that makes an empty cache for so many rows: init_cache(rows), new_state(), …"""
    for name in dir(type(p.model)):
        words = name.lower().strip("_").split("_")
        if not (any(w in MAKERS for w in words) and any(w.rstrip("s") in ("cache", "state", "hidden") for w in words)):
            continue
        method = getattr(p.model, name, None)
        try:
            required = [x for x in inspect.signature(method).parameters.values() if x.default is x.empty]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if callable(method) and len(required) <= 2 and not name.startswith("__"):
            return functools.partial(make_empty, p, method, len(required))
    return None


def make_empty(p: Patient, method: Callable, n: int, rows: int) -> Any:
    """Return what a method of the model's, which takes n arguments, makes for so many rows."""
    return method(*(rows, p.block)[:n])


def ways(p: Patient) -> list[Way]:
    """Return the ways to go on from a cache that the signature shows, the simplest first."""
    name = next((n for n in p.names if n in CACHES), "")
    if not name and p.new_cache is not None:  # its owner knows that there is one
        others = [n for n in p.names[1:] if n not in (*FLAGS, *POSITIONS_GIVEN)]
        name = next((n for n in others if any(word in n.lower() for word in CACHE_WORDS)), "")
    starts = tuple(n for n in p.names if n in POSITIONS_GIVEN)
    flag = next((n for n in p.names if n in FLAGS), "") or asks_for_cache(p, name)
    if not name:
        if "start_pos" in starts:
            return [Way(starts=("start_pos",))]
        return [Way(flag=flag)] if resets(p) else []
    made: list[Callable[[int], Any] | None] = [p.new_cache]
    if p.new_cache is None and (by_model := maker(p)):
        made.append(by_model)
    if (empty := p.memo.get(EMPTY_CACHE)) is not None and p.new_cache is None:
        made.append(lambda rows: with_room(empty, rows, p.block))
    required = tuple(n for n in starts if n in p.extra)
    plain = [] if required else [Way(name, flag, (), new) for new in made]
    return [*plain, *(Way(name, flag, (start,), new) for new in made for start in starts[:2])]


def asks_for_cache(p: Patient, name: str) -> str:
    """Return the name of an argument, False by default, without which forward keeps the cache that it made to itself:
    return_state, where `name`, of the argument that takes one, is "state"; "" if there is none."""
    off = [q.name for q in p.signature if q.default is False]
    kinds = {name.rstrip("s"), *(n.rstrip("s") for n in CACHES if "hidden" not in n)}  # return_hidden gives other things
    return next((n for n in off if name and ASKING.sub("", n) != n and ASKING.sub("", n).rstrip("s") in kinds), "")


class Reader:
    """Reads a text in parts, each from the cache that the parts before it left."""

    def __init__(self, p: Patient, way: Way):
        """Begin with an empty cache. ModelError if the model's own code raises."""
        self.p, self.way, self.length = p, way, 0
        self.cache: Any = None
        if not way.name and not way.starts:
            with model_code():
                resets(p)[0]()

    @property
    def untried(self) -> list[str]:
        """Arguments that are off by default, one of which may have forward give its cache back."""
        return [q.name for q in self.p.signature if q.default is False and q.name != self.way.flag]

    def __call__(self, ids: Tensor, **given: Any) -> Tensor:
        """Return the logits of the next ids, (B, T), with arguments `given` along. ModelError if the model raises, or returns
        no cache."""
        p, way = self.p, self.way
        more: dict[str, Any] = {way.flag: True} if way.flag else {}
        more |= {start: positions_for(p, start, self.length, *ids.shape) for start in way.starts}
        if way.name and self.length == 0 and way.new is not None:
            with model_code():  # or its owner's
                self.cache = way.new(len(ids))
        if self.cache is not None:
            more[way.name] = self.cache
        owners = way.new is not None and way.new is p.new_cache
        before = named_tensors(self.cache) if way.name and way.new is not None else {}
        answer = p.call_as_is(ids, **p.extra | more | given)
        self.length += ids.shape[1]
        if way.name:
            given = cache_in(p, answer, way.name, ids.shape)
            if given is None and way.new is None:
                raise ModelError("forward takes a cache but returns none")
            # its owner's may be written into, whatever else the answer holds; else the one that is returned goes on
            if given is None and not owners and before and same_tensors(before, named_tensors(self.cache)) and self.untried:
                raise ModelError(
                    f"forward neither returns a cache nor writes into it, with {first_few(self.untried)} as by default"
                )
            count_on(self.cache if given is None else given, self.length - ids.shape[1], self.length)
            written = owners and not same_tensors(before, named_tensors(self.cache))
            self.cache = self.cache if given is None or written else given
        return p.as_logits(answer, *ids.shape)


def cache_in(p: Patient, answer, name: str, shape: tuple[int, ...]):
    """Return the cache in an answer to ids of a shape: by name, or whatever in it is neither logits nor loss."""
    for key in (name, *CACHES, "present", "presents", "past_kv"):
        found = answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)
        if found is not None:
            return found
    if isinstance(answer, tuple | list):
        known = (p.find_logits(answer, *shape), find_loss(answer))
        parts = [part for part in answer if part is not None and not any(part is x for x in known)]
        return next((part for part in parts if not isinstance(part, Tensor)), parts[0] if parts else None)
    return None


# ----- the check


@check("cache", needs=("side effects", "repeats", "rows", "causality", "memory", "lengths"))
@torch.no_grad()
def cache(p: Patient) -> Verdict:
    """Read in parts through a cache, a text gets the same logits as in one pass."""
    if not (possible := ways(p)):
        return skipped("its forward takes no cache")
    if p.T < 4:
        return skipped("the window is too short")
    with perturbed(p):
        tried: list[tuple[Way, Verdict]] = []
        for way in possible:
            verdict = judge(p, way, begun=bool(tried))
            if verdict.status in ("pass", "warn"):
                first = tried[0][1] if tried else verdict
                if COUNTED_INSIDE & {*way.starts} and first.status == "fail":
                    return warned(POSITIONS_NEEDED, f"{first.evidence}; with {first_few(way.starts)} given they are right")
                return verdict
            tried.append((way, verdict))
            if verdict.cause in (CACHE_LEAKS, GENERATE_STAYS):
                return verdict
    failures = [(way, v) for way, v in tried if v.status == "fail"]
    as_asked = [v for way, v in failures if not COUNTED_INSIDE & {*way.starts}]  # the last was told where the tokens begin
    return as_asked[-1] if as_asked else failures[0][1] if failures else tried[0][1]


def judge(p: Patient, way: Way, begun: bool) -> Verdict:
    """Return the verdict on one way to go on from a cache: over T tokens, then up to the end of a long text. Where another way
    was tried before, caches were read already."""
    T, first = p.T, p.T // 2
    ids = p.ids(2, T)
    try:
        whole, read = p.logits(ids), Reader(p, way)
    except ModelError as error:
        if begun:
            return failed(CACHE_LEAKS, f"after reading from a cache, a call without one fails: {error}", error.where)
        if not p.has_written:
            raise
        return failed(GENERATE_STAYS, f"after generate, a call without a cache fails: {error}", error.where)
    try:
        start = read(ids[:, :first])
    except ModelError as error:
        hint = "" if way.new else f". {NEW_CACHE}"
        return skipped(f"its cache could not be used: {error}{hint}", Reason.NOT_ASKED, error.where)
    if problem := wrong_prompt(p, way, ids[:, :first], whole, start):
        return problem
    allowed = OTHER_KERNEL * tolerance(p, whole)
    if problem := leaks_into_the_next(p, ids, whole, allowed) or wrong_steps(p, way, ids, whole, first):
        return problem
    tried = f"{T - first} tokens read one by one after {first}"
    long = min(p.interface.long, p.block)
    if long > T and p.mode != "prefixes":
        after = T if long <= LONGEST_STEPPED else long - STEPS_AT_THE_END
        ids_long = p.ids(2, long, seed=5)
        whole_long = p.logits(ids_long)
        if problem := wrong_long_prompt(p, way, ids_long, whole_long) or wrong_steps(p, way, ids_long, whole_long, after):
            return problem
        tried += f", and {long - after} after {after} up to {long}"
    fine = passed(f"{tried} tokens, from {way}: the logits of one pass, in two rows")
    return padded_steps(p, way) or several_at_once(p, way, ids, whole, allowed) or fine


def wrong_long_prompt(p: Patient, way: Way, ids: Tensor, whole: Tensor) -> Verdict | None:
    """Return whether a prompt of nearly all of ids (B, T), read at once with a fresh cache, gets other logits than in one pass,
    `whole`, where a short one did not: it may be longer than a window, or than the cache. To refuse it is no silent fault."""
    allowed = OTHER_KERNEL * tolerance(p, whole)

    def change(n: int) -> float:
        with contextlib.suppress(ModelError):
            return largest_change(whole[:, n - 1], Reader(p, way)(ids[:, :n])[:, -1]).max().item()
        return 0.0

    n = ids.shape[1] - STEPS_AT_THE_END
    if n <= p.T or (off := change(n)) <= allowed:
        return None
    alone = largest_change(p.logits(ids[:, :n])[:, -1], Reader(p, way)(ids[:, :n])[:, -1]).max()
    if alone <= allowed:  # one pass up to there agrees: ties are broken by the length of the text
        return None
    fits = bisect.bisect_left(range(n), True, p.T // 2, n - 1, key=lambda m: change(m + 1) > allowed)
    evidence = f"a prompt of {n} tokens read with a fresh cache: its last logits differ by {off:.3g}; of {fits} they do not"
    return failed(long_prompt(fits, size_stated(p, fits), steps=False), evidence)


def leaks_into_the_next(p: Patient, ids: Tensor, whole: Tensor, allowed: float) -> Verdict | None:
    """Return whether a call without a cache, after one that used it, still gets the logits `whole` of before."""
    try:
        change = largest_change(whole, p.logits(ids)).max().item()
    except ModelError as error:
        return failed(CACHE_LEAKS, f"after reading from a cache, a call without one fails: {error}", error.where)
    if change <= allowed:
        return None
    return failed(CACHE_LEAKS, f"after reading from a cache, a call without one gets other logits than before, by {change:.3g}")


def wrong_prompt(p: Patient, way: Way, ids: Tensor, whole: Tensor, start: Tensor) -> Verdict | None:
    """Return whether a prompt (B, first) that is read with a fresh cache gets other logits than without one."""
    first, got = ids.shape[1], start.shape[1]
    change = largest_change(whole[:, first - got : first], start).amax(dim=0)  # (got,)
    if change.max() <= OTHER_KERNEL * tolerance(p, whole):
        return None
    at = int((change > OTHER_KERNEL * tolerance(p, whole)).nonzero()[0]) + first - got
    evidence = f"a prompt of {first} tokens read with a fresh cache: the logits at position {at} differ by {change.max():.3g}"
    if got == first > 1:
        other = ids.clone()
        other[:, -1] = p.changed_tokens(other[:, -1])
        moved = largest_change(start, Reader(p, way)(other))[:, :-1].max()
        if moved > tolerance(p, whole):
            return failed(PREFILL_UNMASKED, evidence)
    with module_answers(p) as without:
        p.logits(ids)
    with module_answers(p) as fresh:
        Reader(p, way)(ids)
    where = parting(without, fresh)
    place = named_module(p, where) if where else ""
    if got == first > 1 and see_nothing_of_their_call(p, way, ids, start) and right_in_chunks(p, way, ids, 1, whole):
        return failed(tokens_apart(place), f"{evidence}; read one by one they are right")
    return failed(keys_turned_in_prompt(p, way, ids, place) or prefill_differs(place), evidence)


def see_nothing_of_their_call(p: Patient, way: Way, ids: Tensor, start: Tensor) -> bool:
    """Whether, of tokens (B, T) read in one call with a fresh cache, whose logits are `start`, the first moves no later one."""
    other = ids.clone()
    other[:, 0] = p.changed_tokens(other[:, 0])
    return bool(largest_change(start, Reader(p, way)(other))[:, 1:].max() <= tolerance(p, start))


def right_in_chunks(p: Patient, way: Way, ids: Tensor, size: int, whole: Tensor) -> bool | None:
    """Whether ids (B, T), read from a fresh cache `size` at a time, get the logits of one pass, `whole`; None where that is
    refused, or answered for the last of them only."""
    read = Reader(p, way)
    try:
        parts = torch.cat([read(part) for part in ids.split(size, dim=1)], dim=1)  # (B, T, V)
    except ModelError:
        return None
    whole = whole[:, : ids.shape[1]]
    if parts.shape != whole.shape:
        return None
    return bool(largest_change(whole, parts).max() <= OTHER_KERNEL * tolerance(p, whole))


def keys_turned_in_prompt(p: Patient, way: Way, ids: Tensor, where: str) -> Cause | None:
    """Return whether the keys of a prompt (B, T), read with a fresh cache, are turned by other positions than theirs in the
    first layer: twice as far, not at all, or a few positions on. Each token is also read at every position, without one."""
    T = ids.shape[1]
    read, fresh = Reader(p, way), p.tape(ids)
    with fresh, contextlib.suppress(ModelError):
        read(ids)
    held = {x.shape[-2] for x in named_tensors(read.cache).values() if x.dim() > 2}
    for size in sorted(n for n in held if n > T):  # made at its full size: the first T keys are the prompt's
        if not fresh.attentions:
            with (fresh := p.tape(ids, start=size - T)), contextlib.suppress(ModelError):
                Reader(p, way)(ids)
    if not fresh.attentions or fresh.attentions[0].k is None:
        return None
    got = flat(fresh.attentions[0].k).unflatten(0, (len(ids), -1))[0]  # (heads, T, hs), of the first row
    fitting: set[str] = set()
    for t in range(1, T):
        seen = watch(p, ids[:1, t : t + 1].expand(1, p.T)).attentions
        if not seen or seen[0].k is None or seen[0].k.shape[-1] != got.shape[-1]:
            return None
        right = flat(seen[0].k)  # (heads, p.T, hs): the token at each position
        if len(right) != len(got):
            return None
        at = {f"by twice the angles of position {t}": 2 * t, "by no angle": 0}
        at |= {f"as if it stood {n} later": t + n for n in range(1, p.T - t)}
        same = {how.replace(f" of position {t}", "") for how, j in at.items() if j < p.T and alike(got[:, t], right[:, j])}
        fitting = same if t == 1 else fitting & same
        if alike(got[:, t], right[:, t]) or not fitting:
            return None
    return turned_in_prompt(where, sorted(fitting, key=lambda how: "twice" not in how)[0])


def alike(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() <= SAME_STEP * y.abs().max())


def wrong_steps(p: Patient, way: Way, ids: Tensor, whole: Tensor, first: int) -> Verdict | None:
    """Return what is wrong with reading ids (B, T) one by one after `first` at once; `whole` are the logits of one pass."""
    read, T = Reader(p, way), ids.shape[1]
    try:
        parts = [read(ids[:, :first])[:, -1:]]
    except ModelError as error:
        return failed(CACHE_SHAPES, f"{first} tokens of {T} with a fresh cache: it fails: {error}", error.where)
    for t in range(first, T):
        try:
            parts.append(read(ids[:, t : t + 1])[:, -1:])
        except ModelError as error:
            cause = CACHE_SHAPES if error.error else CACHE_ANSWER
            return failed(cause, f"with {t} tokens in the cache, reading one more fails: {error}", error.where)
    stepped = torch.cat(parts, dim=1)  # (B, T - first + 1, V)
    change = largest_change(whole[:, first - 1 :], stepped).amax(dim=0)  # (T - first + 1,)
    allowed = OTHER_KERNEL * tolerance(p, whole)
    if change.max() <= allowed:
        return None
    at = int((change > allowed).nonzero()[0]) + first - 1
    upto = p.logits(ids[:, : at + 1])[:, -1]
    if at >= first and largest_change(upto, stepped[:, at - first + 1]).max() <= allowed:
        return None  # one pass up to there agrees: whoever attends to the k best keys breaks ties by the length of the text
    evidence = f"read one by one from the cache, the logits at position {at} differ by {change.max():.3g}"
    if at < first:
        return failed(prefill_differs(""), f"a prompt of {first} tokens read with a fresh cache: {evidence}")
    return failed(explain_step(p, way, ids[:, : at + 1], stepped[:, at - first + 1], first), evidence)


def padded_steps(p: Patient, way: Way) -> Verdict | None:
    """Return whether rows with padding on the left, masked, go on from a cache otherwise than the same rows without padding.

    Only asked where one pass hides the padding, and where the mask may have a column for each key of the cache.
    """
    name = next((n for n in p.names if n in MASKS), None)
    if name is None or p.mode != "plain" or p.T <= PADDED + 4:
        return None
    ids = p.ids(2, p.T)
    allowed = OTHER_KERNEL * tolerance(p, alone := p.logits(ids))  # (B, T, V)
    first = PADDED + 3

    def change(counts: tuple[int, int], convention: str, others: bool = False) -> float:
        """Return how far the logits of the steps are from those without padding, for so many tokens of it in the two rows;
        inf if it fails."""
        text, right = torch.zeros_like(ids), alone.clone()
        text = p.changed_tokens(text) if others else text
        for row, count in enumerate(counts):
            text[row, count:], right[row, count:] = ids[row, : p.T - count], alone[row, : p.T - count]
        keep = (torch.arange(p.T, device=p.device) >= torch.tensor(counts, device=p.device)[:, None]).to(text.dtype)  # (B, T)

        def given(start: int, end: int) -> dict[str, Tensor]:
            more = padding_arguments(p, name, keep[:, :end])
            more |= {name: more[name][:, start:]} if convention == "new tokens" else {}
            more |= {n: x[:, start:] for n, x in more.items() if n == "position_ids"}
            return {n: x for n, x in more.items() if not (n == name and start and convention == "none")}

        if largest_change(right, p.logits(text, **given(0, p.T)))[:, PADDED:].max() > allowed:
            return 0.0  # a question of padding, not of the cache
        try:
            read = Reader(p, way)
            parts = [read(text[:, :first], **given(0, first))[:, -1:]]
            parts += [read(text[:, t : t + 1], **given(t, t + 1))[:, -1:] for t in range(first, p.T)]
        except ModelError:
            return math.inf
        return largest_change(right[:, first - 1 :], torch.cat(parts, dim=1)).max().item()

    counts, same = (PADDED, 1), (PADDED, PADDED)
    found: list[float] = []
    with contextlib.suppress(ModelError):
        for convention in ("all keys", "new tokens", "none"):  # what the mask has columns for after the first call
            found.append(change(counts, convention))
            if found[-1] <= allowed:
                return None
        if math.isfinite(found[0]):
            steps = f"{p.T - first} tokens read one by one after {first}"
            evidence = f"{PADDED} tokens of padding on the left, 1 in the other row, masked, then {steps}: their logits are "
            evidence += f"others than without padding, by up to {found[0]:.3g}; in one pass they are not"
            if change(same, "all keys") <= allowed:
                return failed(CACHE_PADDING_ROWS, f"{evidence}. With as much of it in both rows they are right")
            seen = abs(change(counts, "all keys", others=True) - found[0]) > allowed
            return failed(CACHE_PADDING if seen else CACHE_PADDING_MOVES, evidence)
    return None


def several_at_once(p: Patient, way: Way, ids: Tensor, whole: Tensor, allowed: float) -> Verdict | None:
    """Return what goes wrong when several tokens at once follow those in the cache; to refuse them is not a fault."""
    first = ids.shape[1] // 2
    tokens = f"{ids.shape[1] - first} tokens read at once after {first} in the cache"
    try:
        read = Reader(p, way)
        read(ids[:, :first])
        rest = read(ids[:, first:])  # (B, T - first, V)
    except ModelError as error:
        if error.error is None or isinstance(error.error, AssertionError | ValueError | NotImplementedError):
            return None
        return dataclasses.replace(warned(CACHE_SEVERAL_FAILS, f"{tokens}: it fails: {error}"), where=error.where)
    if rest.shape[1] != ids.shape[1] - first:  # it answers for the last one only
        return None
    change = largest_change(whole[:, first:], rest).amax(dim=0)  # (T - first,)
    if change.max() <= allowed:
        wrong = [size for size in CHUNKS if size < len(ids[0]) and right_in_chunks(p, way, ids, size, whole) is False]
        if not wrong:
            return None
        return warned(
            CACHE_CHUNKS, f"{ids.shape[1]} tokens, {first_few(wrong)} at a time: the logits are not those of one pass"
        )
    at = int((change > allowed).nonzero()[0]) + first
    evidence = f"{tokens}: the logits at position {at} differ by {change.max():.3g}; one by one they are right"
    other = ids.clone()
    other[:, first] = p.changed_tokens(other[:, first])
    read = Reader(p, way)
    read(ids[:, :first])
    if largest_change(rest, read(other[:, first:]))[:, 1:].max() <= tolerance(p, rest):
        return warned(tokens_apart(""), evidence)
    return warned(CACHE_SEVERAL, evidence)


# ----- what is wrong


def explain_step(p: Patient, way: Way, ids: Tensor, step: Tensor, begun: int) -> Cause:
    """Return what is wrong with reading the last of ids (B, t + 1) from the cache; the logits of it are `step`, (B, V).

    Up to there all was right, after `begun` tokens that were read at once.
    """
    t = ids.shape[1] - 1
    with contextlib.suppress(ModelError):
        if t > begun and is_stuck(p, way, ids, begun):
            return STATE_KEPT
    tape = step_tape(p, way, ids)
    starts = {lookup.name: int(lookup.rows.flatten()[0]) for lookup in p.interface.positions}
    for lookup in tape.embeddings:
        name, rows = lookup.name, lookup.rows.flatten().tolist()
        if name in starts and set(rows) != {starts[name] + t}:
            return cache_positions(t, name or "the table of positions", rows, starts[name] + t)
    alone = p.logits(ids[:, -1:])[:, -1]
    if largest_change(alone, step).max() <= OTHER_KERNEL * tolerance(p, alone):
        return CACHE_UNUSED
    if kept := parts_kept(p, way, ids):
        return state_parts_kept(first_few(kept))
    if right_alone(p, way, ids, begun):
        return CACHE_ROWS
    whole = watch(p, ids)
    if cause := explain_state(p, way, ids[:, :-1]):
        return cause
    if not whole.attentions and t > begun:
        return forms_differ(t, chunk_at(p, t))
    if not tape.attentions:
        recurrent = STATE_DIFFERS if not whole.attentions else cache_cut(t + 1)
        return right_until(t) if t > begun else recurrent
    return explain_cached(tape, whole, t, p, ids) or (right_until(t) if t > begun else CACHE_DIFFERS)


def step_tape(p: Patient, way: Way, ids: Tensor) -> Tape:
    """Return the tape of reading the last of ids (B, t + 1) after all others were read at once.

    A cache that was made at its full size holds more keys than that, of which a mask hides the rest.
    """
    t = ids.shape[1] - 1
    tape, sizes = p.tape(ids[:, -1:], start=t), [t + 1]
    for keys in sizes:
        now = p.tape(ids[:, -1:], start=keys - 1)
        with contextlib.suppress(ModelError):
            read = Reader(p, way)
            read(ids[:, :-1])
            if keys == t + 1:
                held = {x.shape[-2] for x in named_tensors(read.cache).values() if x.dim() > 2}
                sizes += sorted(size for size in held if size > t + 1)
            with now:
                read(ids[:, -1:])
        if now.attentions or keys == t + 1:
            tape = now
        if now.attentions:
            break
    return tape


def right_alone(p: Patient, way: Way, ids: Tensor, begun: int) -> bool:
    """Whether each row of ids (B, t + 1), read alone, gets the logits of one pass from the cache."""
    for row in ids.split(1):
        right, read = p.logits(row)[:, -1], Reader(p, way)
        try:
            for part in (row[:, :begun], *row[:, begun:].split(1, dim=1)):
                last = read(part)[:, -1]
        except ModelError:
            return False
        if largest_change(right, last).max() > OTHER_KERNEL * tolerance(p, right):
            return False
    return True


def is_stuck(p: Patient, way: Way, ids: Tensor, begun: int) -> bool:
    """Whether a step from the cache depends on the tokens that were read at once and not on those that came one by one."""
    answers = []
    for changed in (slice(0), slice(0, begun), slice(begun, ids.shape[1] - 1)):
        text = ids.clone()
        text[:, changed] = p.changed_tokens(text[:, changed])
        read = Reader(p, way)
        read(text[:, :begun])
        for t in range(begun, ids.shape[1]):
            last = read(text[:, t : t + 1])[:, -1]
        answers.append(last)
    base, early, late = answers
    return bool(largest_change(base, early).max() > tolerance(p, base) >= largest_change(base, late).max())


@torch.no_grad()
def explain_state(p: Patient, way: Way, ids: Tensor) -> Cause | None:
    """Return what is wrong with the state that ids (B, t) leave, or None: a convolution's holds its outputs, or a part of fixed
    size is another one after the tokens at once than after one by one."""
    n = ids.shape[1]
    if n < 2 or not way.name:
        return None
    with contextlib.suppress(ModelError):
        at_once = Reader(p, way)
        with p.tape(ids) as tape:
            at_once(ids)
        parts = named_tensors(at_once.cache)
        if held := [name for name, x in parts.items() if holds_outputs(x, tape.convolved, n)]:
            return outputs_kept(first_few(held, 2))
        if n > LONGEST_STEPPED:
            return None
        single, attentive = Reader(p, way), bool(watch(p, ids).attentions)
        shapes: dict[str, torch.Size] = {}  # of the parts after one token: those that grow hold something of each token
        for t in range(n):
            single(ids[:, t : t + 1])
            both = Reader(p, way)
            both(ids[:, : t + 1])
            one, other = named_tensors(single.cache), named_tensors(both.cache)
            shapes = shapes or {name: x.shape for name, x in one.items()}
            kept = [x for x in one if x in other and x in parts and one[x].shape == other[x].shape == parts[x].shape]
            tables = [x for x in kept if attentive and max(one[x].shape, default=0) >= p.block]  # room for each token
            fixed = [x for x in kept if one[x].shape == shapes.get(x) and x not in tables]
            if t and (names := [x for x in fixed if parted(one[x], other[x])]):
                first_layer = min(map(layer_in, names)) == min(map(layer_in, fixed))
                return (
                    state_of_prompt(first_few(names, 2) or "all of it", t + 1)
                    if first_layer
                    else forms_differ(t, chunk_at(p, t))
                )
    return None


def layer_in(name: str) -> int:
    """Return the first number in the name of a part of a state, which is its layer; 0 if there is none."""
    return int(next(iter(re.findall(r"\d+", name)), 0))


def parted(x: Tensor, y: Tensor) -> bool:
    """Whether two parts of a state are different numbers, beyond rounding."""
    return bool((x - y).abs().max() > SAME_STATE * y.abs().max())


def holds_outputs(part: Tensor, convolved: list[tuple[Tensor, Tensor]], n: int) -> bool:
    """Whether a part of a state, (B, C, W) or (B, W, C), is the end of what a convolution gave for n tokens, and not of what
    it was given."""
    for state in (part, part.transpose(1, 2)) if part.dim() == 3 else ():
        for given, out in convolved:
            if given.dim() != 3 or given.shape[:2] != state.shape[:2] or out.shape[:2] != state.shape[:2]:
                continue
            width = min(n, state.shape[-1])
            end = state[..., -width:]
            padded = given.shape[-1] - n  # on the left, by hand
            ends = (x[..., :n][..., -width:] for x in (out, F.silu(out), given[..., max(0, padded) :]))
            kept = [x.shape == end.shape and not parted(x, end) for x in ends]
            if width > 1 and (kept[0] or kept[1]) and not kept[2]:
                return True
    return False


def chunk_at(p: Patient, t: int) -> str:
    """Return which size of chunks, as stated, begins one at position t: "config.chunk_size = 8"; "" if none does."""
    return next((how for how, value in sizes_stated(p, "chunk") if t % value == 0), "")


def size_stated(p: Patient, n: int) -> str:
    """Return which window, or size of a cache, is stated to be n: "config.sliding_window = 8"; "" if none is."""
    return next((how for word in ("window", "cache") for how, value in sizes_stated(p, word) if value == n), "")


def sizes_stated(p: Patient, word: str) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers above 1 in configurations, and in modules, whose names have a word in them: how they are stated,
    and what they are."""
    for module in p.model.modules():
        for where in (*CONFIGS, ""):
            holder = attribute(module, where) if where else module
            fields = holder if isinstance(holder, Mapping) else {**vars(type(holder)), **getattr(holder, "__dict__", {})}
            for name, value in fields.items():
                if word in str(name).lower() and type(value) is int and value > 1:
                    yield f"{where}.{name} = {value}".strip("."), value


def parts_kept(p: Patient, way: Way, ids: Tensor) -> list[str]:
    """Return the names of the parts of the state that the last of ids (B, t + 1) leaves as they were.

    They are 0 still, or depend on the tokens before: a part that never changes is a table.
    """
    found = []
    with contextlib.suppress(ModelError):
        states = []
        for text in (ids, p.changed_tokens(ids)):
            read = Reader(p, way)
            read(text[:, :-1])
            before = named_tensors(read.cache)
            read(text[:, -1:])
            states.append((before, named_tensors(read.cache)))
        (one, after), (other, _) = states
        kept = [name for name, x in one.items() if name in after and torch.equal(x, after[name])]
        if len(kept) < len(one):
            empty_or_read = (
                name for name in kept if not one[name].any() or not torch.equal(one[name], other.get(name, one[name]))
            )
            found = list(empty_or_read)
    return found


def count_on(cache: Any, before: int, now: int) -> None:
    """Move a count of tokens on that a cache leaves to its caller (seqlen_offset of mamba_ssm's InferenceParams)."""
    for name, value in list(getattr(cache, "__dict__", {}).items()):
        if name in (*POSITIONS_GIVEN, "sequence_len_offset") and type(value) is int and value == before:
            setattr(cache, name, now)


def with_room(cache: Any, rows: int, block: int) -> Any:
    """Return a copy of an empty cache that states for how many tokens and rows it is, made for so many."""
    made = copy.deepcopy(cache)
    for name, value in list(getattr(made, "__dict__", {}).items()):
        if type(value) is int and name in (*BLOCKS, "max_seqlen", "max_sequence_length"):
            setattr(made, name, max(value, block))
        elif type(value) is int and name == "max_batch_size":
            setattr(made, name, max(value, rows))
    return made


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


def named_tensors(value: Any, name: str = "", depth: int = 4) -> dict[str, Tensor]:
    """Return copies of the tensors of numbers in a cache, whatever holds them, by where they are: "[0]['att_shift']"."""
    if isinstance(value, Tensor):
        return {name: value.detach().clone()} if value.is_floating_point() and value.dim() > 1 else {}
    if depth == 0 or value is None or isinstance(value, str | bytes | int | float):
        return {}
    if isinstance(value, Mapping):
        parts = {f"{name}[{key!r}]": x for key, x in value.items()}
    elif isinstance(value, list | tuple):
        parts = {f"{name}[{i}]": x for i, x in enumerate(value)}
    else:
        parts = {f"{name}.{key}": x for key, x in getattr(value, "__dict__", {}).items()}
    return {n: t for part, x in parts.items() for n, t in named_tensors(x, part, depth - 1).items()}
