"""Examine a checkpoint: whether its numbers arrived in the model, whether the model is trained, and how it is used."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import Rows, gather
from .passes import Backward, Event, Forward
from .patient import ModelError, NotExaminable, Patient, declared, detect_interface, raised_at, random_numbers_kept
from .probes import AS_BLIND, FEWEST_POSITIONS, MOSTLY_THE_SAME, SAME_LENGTH, SAME_TOKEN, SMALL_VOCABULARY
from .registry import time_limit
from .report import (
    Cause,
    Finding,
    Reason,
    Report,
    Verdict,
    crashed,
    failed,
    first_few,
    number_of,
    one_line,
    passed,
    skipped,
    warned,
)
from .running import Run, callable_of, name_of
from .subject import Entry, findings_of, is_strict
from .training import TYING
from .watch import Watch, held_by

ROWS, LENGTH = 8, 64  # of the ids that a model is asked for without data


@dataclasses.dataclass(eq=False)
class Loaded(Event):
    """A call of load_state_dict."""

    module: nn.Module
    state: dict[str, Tensor]
    strict: bool
    fed: set[int]  # ids of the parameters that it names
    placed: set[str]  # its keys that the module has


class LoadWatch(Watch):
    """Also watches what is loaded, and lets save what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[dict[str, Tensor]] = []  # what torch.load and the like returned, as far as it holds tensors by name
        self.reads = 0  # calls of torch.load, whatever they returned: a whole model, say

    def _patch_all(self, patches: contextlib.ExitStack) -> None:
        save = torch.save
        super()._patch_all(patches)
        torch.save = save
        self.replace(patches, nn.Module, "load_state_dict", self._load_state_dict)
        self.replace(patches, torch, "load", self._load)

    def _load_state_dict(self, original: Callable) -> Callable:
        def load_state_dict(module, state_dict, strict=True, *args, **kwargs):
            state = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
            named = module.named_parameters(remove_duplicate=False)
            self.add(Loaded(module, state, strict, {id(p) for n, p in named if n in state}, names_of(module) & set(state)))
            return original(module, state_dict, strict, *args, **kwargs)

        return load_state_dict

    def _load(self, original: Callable) -> Callable:
        def load(*args, **kwargs):
            result = original(*args, **kwargs)
            self.reads += 1
            if (state := state_in(result)) is not None:
                self.files.append(state)
            return result

        return load


def state_in(value: Any, depth: int = 2) -> dict[str, Tensor] | None:
    """Return the largest dict of tensors by name in a checkpoint."""
    if not isinstance(value, Mapping):
        return None
    own = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    inner = [state_in(v, depth - 1) for v in value.values()] if depth else []
    return max((s for s in (own, *inner) if s), key=len, default=None)


@dataclasses.dataclass
class Checkpoint:
    """What was seen of a checkpoint."""

    run: Run
    model: nn.Module | None
    state: dict[str, Tensor] | None  # what the checkpoint holds
    given: bool  # whether the state was handed over
    data: list[Rows]
    patient: Patient | None = None

    @property
    def loads(self) -> list[Loaded]:
        return self.run.watch.of(Loaded)

    @property
    def unseen(self) -> bool:
        """Whether nothing was seen to be loaded, and nothing was given to compare with."""
        watch = self.run.watch
        return not self.loads and self.state is None and not (isinstance(watch, LoadWatch) and watch.reads)

    @property
    def used(self) -> list[Forward]:
        """Passes after the checkpoint was loaded that no training needed."""
        events = self.run.watch.events
        last = max((n for n, e in enumerate(events) if isinstance(e, Loaded)), default=-1)
        training = {id(f) for f in self.run.training}
        return [e for e in events[last + 1 :] if isinstance(e, Forward) and id(e) not in training]

    @property
    def trained_since(self) -> bool:
        """Whether it was trained after it was loaded."""
        kinds = [type(e) for e in self.run.watch.events]
        return Backward in kinds and (Loaded not in kinds or kinds[::-1].index(Backward) < kinds[::-1].index(Loaded))


def module_in(value: Any) -> nn.Module | None:
    """Return the first model in a result."""
    if isinstance(value, nn.Module):
        return value
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((v for v in values if isinstance(v, nn.Module)), None)


# ----- loads

RAISES = Cause("loading raises", "read the error: it names the keys or sizes that do not fit")
NO_MODEL = Cause("no model was seen", "return the loaded model from the function")
NOTHING_LOADED = Cause(
    "no checkpoint was loaded: neither load_state_dict nor torch.load was called, and the model looks as new",
    "is the path right? Where os.path.exists() or try/except stands before the loading, a missing file is passed over silently",
)
NOTHING_SEEN = Cause(
    "no checkpoint was seen to be loaded: neither load_state_dict nor torch.load was called",
    "is the path right? If it is loaded in another way, give what it holds (state=), or its data (batch=, --batch)",
)


def nothing_in_it(held: str) -> Cause:
    return Cause(
        f"no {held} weight was loaded: what was saved holds none, and the model is as it was before",
        "look into the file (its keys, its size), and at what was saved: a state_dict that was replaced, or filtered twice?",
    )


def loads(c: Checkpoint) -> Verdict:
    """The function runs, and there is a model."""
    error = c.run.error
    if error is not None:
        return failed(prefix_cause(c) or RAISES, one_line(error), raised_at(error))
    if c.model is None:
        return failed(NO_MODEL, f"{c.run.name} returned no model, and called none")
    if empty := [load for load in c.loads if not load.state and any(True for _ in load.module.parameters())]:
        held = "adapter" if any("lora" in n.lower() or "adapter" in n.lower() for n in names_of(empty[0].module)) else "model"
        return failed(
            nothing_in_it(held),
            f"load_state_dict was given no tensor at all, and strict={empty[0].strict}, so nothing was said",
        )
    parameters = number_of(sum(1 for _ in c.model.parameters()), "parameter")
    if c.loads:
        return passed(f"{parameters}, {number_of(len(c.loads), 'load_state_dict')}")
    if not c.unseen:
        return passed(f"{parameters}, no load_state_dict{'' if c.given else ' after torch.load'}: see values")
    if not c.data and norms_as_new(c.model):  # its own data tell more
        return failed(NOTHING_LOADED, f"{parameters}; {AS_NEW_NORMS}")
    if not norms_learned(c.model):
        return warned(NOTHING_SEEN, f"{parameters}; {c.run.name} ran without loading anything that could be seen")
    return passed(f"{parameters}; nothing was seen to be loaded, but its norms have learned: the model is not new")


def prefix_cause(c: Checkpoint) -> Cause | None:
    """Return the cause if the keys differ from the model's by a prefix."""
    for load in c.loads:
        if prefix := prefix_of(set(load.state), names_of(load.module)):
            return prefixed(*prefix)
    return None


# ----- keys


def prefixed(extra: str, lacking: str) -> Cause:
    if extra:
        reason = {"_orig_mod.": ", which torch.compile adds", "module.": ", which DistributedDataParallel adds"}.get(extra, "")
        return Cause(
            f"the checkpoint's keys begin with {extra!r}{reason}: they match nothing",
            f"{{k.removeprefix({extra!r}): v for k, v in state.items()}}; save the model inside the wrapper; strict=True",
        )
    return Cause(
        f"the model's keys begin with {lacking!r}, the checkpoint's do not: they match nothing",
        f"load into the inner module, or {{{lacking!r} + k: v for k, v in state.items()}}; strict=True",
    )


OTHER_NAMES = Cause("no key of the checkpoint is one of the model's", "print both lists of keys side by side; strict=True")
MISSING = Cause(
    "parameters that the checkpoint does not hold: they are as they were initialised",
    "strict=True shows them; rename the keys, or build the model that was saved",
)
HEAD_MISSING = Cause(
    "the head is not in the checkpoint, because it was tied to the embedding when it was saved: here it is random",
    "tie the head first: model.lm_head.weight = model.wte.weight",
)
LAYERS_LOST = Cause(
    "the checkpoint has more layers than the model: they are dropped", "build the model with the settings that were saved"
)
NOT_USED = Cause("tensors of the checkpoint for which the model has no name: they are dropped", "are they meant to be?")
NOT_LOADED = "no load_state_dict and no torch.load was seen (state=)"
NO_TENSORS = "torch.load returned no tensors by name: a whole model, say"


def nothing_to_compare(c: Checkpoint) -> str:
    return NOT_LOADED if c.unseen else NO_TENSORS


def names_of(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters(remove_duplicate=False)} | {name for name, _ in module.named_buffers()}


def prefix_of(keys: set[str], names: set[str]) -> tuple[str, str] | None:
    """Return (prefix of the keys, "") or ("", prefix of the names) if one of the two makes most keys fit."""
    if not keys or not names or len(keys & names) * 2 > len(names):
        return None
    for one, other, key_side in ((keys, names, True), (names, keys, False)):
        counts: dict[str, int] = {}
        for key in one:
            for cut in (m.end() for m in re.finditer(r"\.", key)):
                if key[cut:] in other:
                    counts[key[:cut]] = counts.get(key[:cut], 0) + 1
        if counts and max(counts.values()) * 2 > min(len(keys), len(names)):
            prefix = max(counts, key=lambda p: counts[p])
            return (prefix, "") if key_side else ("", prefix)
    return None


def loaded_into(c: Checkpoint) -> tuple[nn.Module, set[str]] | None:
    """Return the module that the state went into, and the state's keys. Several loads into one module count together."""
    if c.given and c.model is not None and c.state is not None:
        return c.model, set(c.state)
    mine = [load for load in c.loads if c.model is None or same_model(load.module, c.model)]
    if mine:
        last = mine[-1].module
        return last, set().union(*(load.state for load in mine if load.module is last))
    return None


def same_model(a: nn.Module, b: nn.Module) -> bool:
    ids = {id(p) for p in b.parameters()}
    return any(id(p) in ids for p in a.parameters())


def keys(c: Checkpoint) -> Verdict:
    """Each parameter finds its numbers in the checkpoint, and each number a place."""
    found = loaded_into(c)
    if found is None:
        return skipped(
            nothing_to_compare(c)
            if c.state is None
            else "no load_state_dict was seen, whose keys could be compared: see values"
        )
    module, given = found
    named = dict(module.named_parameters(remove_duplicate=False))
    names = names_of(module)
    fed = {id(p) for n, p in named.items() if n in given}.union(*(load.fed for load in c.loads))  # under another name, too
    missing = [n for n, p in module.named_parameters() if id(p) not in fed]
    placed = (given & names).union(*(load.placed for load in c.loads))
    unused = sorted(given - placed)
    evidence = (
        f"{len(given & placed)} of {number_of(len(given), 'key')} match, {len(missing)} of {len(named)} parameters get none"
    )
    examples = f"{evidence}: {first_few(sorted(given), 2)}; the model has {first_few(sorted(named), 2)}"
    trained = {n for n, p in named.items() if p.requires_grad}
    if missing and given and given <= names and given & trained and not trained & set(missing):
        return passed(f"{evidence}: these are frozen, and the file is that of an adapter, or of a part")
    if missing and (prefix := prefix_of(given, names)):
        return failed(prefixed(*prefix), examples)
    if missing and not names & given:
        return failed(OTHER_NAMES, examples)
    if missing:
        heads = [n for n in missing if named[n].dim() == 2 and any(n != m and named[m].shape == named[n].shape for m in named)]
        tied = len(missing) == len(heads) == 1
        return failed(HEAD_MISSING if tied else MISSING, f"{evidence}: {first_few(missing)}")
    matrices = [k for k in unused if c.state is None or k not in c.state or c.state[k].dim() >= 1]
    if layers := [k for k in matrices if any(same_but_for_number(k, n) for n in named)]:
        return failed(LAYERS_LOST, f"{evidence}; not used: {first_few(layers)}")
    weights = [k for k in matrices if k.endswith((".weight", ".bias")) and not is_mask(c, k)]
    if weights:
        return warned(NOT_USED, f"{evidence}; not used: {first_few(weights)}")
    return passed(evidence)


def same_but_for_number(key: str, name: str) -> bool:
    numbers = re.sub(r"\d+", "#", key) == re.sub(r"\d+", "#", name)
    return numbers and key != name and bool(re.search(r"\.\d+\.", key))


def is_mask(c: Checkpoint, key: str) -> bool:
    """Whether a tensor is a buffer such as GPT-2's attn.bias: a triangle of ones, not weights."""
    value = None if c.state is None else c.state.get(key)
    return value is not None and value.numel() > 0 and bool(((value == 0) | (value == 1) | (value <= -1e4)).all())


# ----- values

OVERWRITTEN = Cause(
    "the model no longer holds the checkpoint's numbers: it was initialised, or changed, after loading",
    "load last: after init_weights, resizing and tying",
)
CHANGED = Cause(
    "some of the checkpoint's numbers were changed a little after loading: an adapter was merged, or something went wrong",
    "if nothing was merged, load last",
)
ROWS_APART = Cause(
    "the rows of keys are in another order than those of queries, which their products do not allow: the conversion permuted "
    "them with the wrong number of heads (of grouped queries, keys have fewer), or one of them only",
    "permute keys by the number of their own heads: rows.view(n_kv_head, 2, head_size // 2, -1)",
)
NOTHING_ARRIVED = Cause(
    "nothing of the checkpoint is in the model: its numbers were never put there, or all of them were overwritten",
    "model.load_state_dict(state), strict, on this very model, after everything that initialises",
)


def values(c: Checkpoint) -> Verdict:
    """The model holds the checkpoint's numbers."""
    if c.state is None or c.model is None:
        return skipped(nothing_to_compare(c))
    if c.trained_since:
        return skipped("the model was trained after it was loaded")
    by_shape: dict[tuple, list[Tensor]] = {}
    for value in c.state.values():
        by_shape.setdefault(tuple(sorted(value.shape)), []).append(value)
    named = {n: p for n, p in c.model.named_parameters() if p.numel() > 1 and p.is_floating_point()}
    there, possible = {}, {}
    for name, p in named.items():
        candidates = by_shape.get(tuple(sorted(p.shape)), [])
        if candidates:
            possible[name] = p
            if any(equal(p.detach(), value) for value in candidates):
                there[name] = p
    evidence = f"{len(there)} of {number_of(len(named), 'parameter')} hold numbers of the checkpoint"
    if problem := rows_apart(c):
        return failed(ROWS_APART, f"{problem}; {evidence}")
    other = [n for n in possible if n not in there]
    told = [n for n in other if not is_constant(possible[n])]  # gains of a new model, all 1, are near to learned ones
    if other and all(is_constant(p) for p in there.values()) and not any(is_near_some(n, possible[n], c.state) for n in told):
        evidence += ", which hold one number each, as in any new model" if there else ""
        return failed(NOTHING_ARRIVED if not c.loads else OVERWRITTEN, evidence)
    if other:
        absent = [n for n in other if not any(same_name(n, key) for key in c.state)]
        if len(absent) < len(other):
            not_so = [n for n in other if n not in absent]
            near = all(is_near_some(n, named[n], c.state) for n in not_so)
            verdict, cause = (warned, CHANGED) if near else (failed, OVERWRITTEN)
            return verdict(cause, f"{evidence}; not: {first_few(not_so)}")
        tied = len(absent) == 1 and any(named[absent[0]].shape == p.shape for n, p in there.items())
        named_so = f"{first_few(absent)} {'is' if len(absent) == 1 else 'are'} not in the file"
        return failed(HEAD_MISSING if tied and named[absent[0]].dim() == 2 else MISSING, f"{evidence}; {named_so}")
    return passed(evidence)


QUERIES_AND_KEYS = (("query", "key"), *((f"{a}q{b}", f"{a}k{b}") for a, b in (("", "_proj"), ("w", ""), ("attn_", ""))))
QUERIES_AND_KEYS += (("to_q", "to_k"), ("q_lin", "k_lin"), (".q.", ".k."))


def rows_apart(c: Checkpoint) -> str:
    """Return evidence that the conversion of a file put the rows of keys in another order than those of queries, "" if not.

    Scores are products of the two, number by number: within a head both need the same order, whatever the layout is.
    """
    watch = c.run.watch
    files = [value for f in watch.files for value in f.values()] if isinstance(watch, LoadWatch) else []
    if not files or c.model is None:
        return ""
    named = {n: p.detach().cpu() for n, p in c.model.named_parameters() if p.dim() == 2}
    wanted = {named[n].shape for n in named if any(part in n for pair in QUERIES_AND_KEYS for part in pair)}
    known = [(value.detach().cpu(), sums_of_rows(value.detach().cpu())) for value in files if value.shape in wanted]
    pairs = [(n, n.replace(q, k)) for n in named for q, k in QUERIES_AND_KEYS if q in n and n.replace(q, k) in named]
    apart, example = 0, ""
    for q, k in pairs:
        orders = [order_of_rows(named[name], known) for name in (q, k)]
        if any(order is None for order in orders):
            continue
        of_q, of_k = (block_of(order) for order in orders if order is not None)
        if of_q != of_k and len(of_q) < len(named[q]) and len(of_k) <= len(named[k]):
            apart += 1
            example = example or f"{q} {in_words(of_q)}, {k} {in_words(of_k)}"
    return f"{example}; so in {apart} of {number_of(len(pairs), 'pair')}" if apart else ""


def in_words(block: list[int]) -> str:
    return "has the rows of the file as they are" if len(block) == 1 else f"has them in another order in blocks of {len(block)}"


def sums_of_rows(x: Tensor) -> Tensor:
    """(R, C) -> (R,): a number for each row, the same for equal ones."""
    return x.double() @ torch.linspace(1, 2, x.shape[1], dtype=torch.float64)


def order_of_rows(p: Tensor, known: list[tuple[Tensor, Tensor]]) -> list[int] | None:
    """Return which row of one of several matrices, known with their sums, each row of a matrix is; None if of none."""
    sums = sums_of_rows(p)
    order, places = torch.empty(len(p), dtype=torch.long), sums.argsort()
    for value, others in known:
        if value.shape == p.shape and torch.allclose(sums[places], others.sort().values, rtol=SAME_LENGTH):
            order[places] = others.argsort()
            if torch.equal(p, value.to(p.dtype)[order]):
                return order.tolist()
    return None


def block_of(order: list[int]) -> list[int]:
    """Return the order within one block, if it is the same in blocks that follow each other; all of it otherwise."""
    n = len(order)
    for size in (d for d in range(1, n + 1) if n % d == 0):
        if all(order[i] == order[i % size] + i - i % size for i in range(n)) and max(order[:size]) < size:
            return order[:size]
    return order


def same_name(name: str, key: str) -> bool:
    """Whether a parameter and a tensor of the checkpoint go by one name, but for what stands before it."""
    return name == key or name.endswith(f".{key}") or key.endswith(f".{name}")


def is_constant(p: Tensor) -> bool:
    """Whether a parameter is one number, as the gains and biases of new norms are: that it agrees says nothing."""
    return bool((p == p.flatten()[0]).all())


def is_near_some(name: str, p: Tensor, state: Mapping[str, Tensor]) -> bool:
    return any(same_name(name, key) and is_near(p, value) for key, value in state.items())


def is_near(p: Tensor, value: Tensor) -> bool:
    """Whether a parameter is mostly a tensor of the checkpoint, with something added: one initialised anew is unlike it."""
    if p.shape != value.shape:
        return False
    a, b = p.detach().float().flatten(), value.detach().float().flatten().to(p.device)
    return float(F.cosine_similarity(a, b, dim=0)) > MOSTLY_THE_SAME


def equal(p: Tensor, value: Tensor) -> bool:
    """Whether a parameter is a tensor of the checkpoint, in its own precision, or transposed."""
    value = value.detach().to(p.device)
    same = [v for v in (value, value.mT if value.dim() == 2 else value) if v.shape == p.shape]
    return any(torch.equal(p, v.to(p.dtype)) or torch.equal(p.to(v.dtype), v) for v in same)


# ----- ties

TIE_LOST = Cause(
    "embedding and head were one matrix when they were saved, and are two now: further training drives them apart",
    "tie again after loading: model.lm_head.weight = model.wte.weight",
)
TYING_FORGOTTEN = Cause(
    "the configuration states a tied head, and the model has none", "model.lm_head.weight = model.wte.weight"
)


def ties(c: Checkpoint) -> Verdict:
    """What was one matrix is still one."""
    if c.model is None:
        return skipped(NOT_LOADED)
    named = {n: p for n, p in c.model.named_parameters() if p.dim() == 2}
    alike = [(a, b) for a, b in itertools.combinations(named, 2) if named[a].shape == named[b].shape]
    for a, b in alike:
        if torch.equal(named[a], named[b]) and float(named[a].detach().float().std()) > 0:
            return failed(TIE_LOST, f"{a} and {b} have equal numbers, but are two parameters")
    stated = next((value for _, value in declared(c.model, TYING, bool)), None)
    shared: dict[int, list[str]] = {}
    for n, p in c.model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(p), []).append(n)
    tied = [names for names in shared.values() if len(names) > 1]
    if stated is True and not tied and any("emb" in a or "wte" in a or "head" in b for a, b in alike):
        return failed(TYING_FORGOTTEN, f"different parameters: {first_few(alike[0])}")
    return passed(f"one matrix: {' and '.join(tied[0])}" if tied else "no matrix occurs twice")


# ----- dtype

ROUNDED = Cause(
    "the checkpoint's numbers were rounded to fewer digits", "build the model in the checkpoint's precision, or mean it"
)
MIXED = Cause("parameters of several precisions in one model", "model.to(dtype) once, after loading")


def dtype(c: Checkpoint) -> Verdict:
    """The model has the checkpoint's precision."""
    if c.model is None:
        return skipped(NOT_LOADED)
    mine = {n: p.dtype for n, p in c.model.named_parameters() if p.is_floating_point()}
    kinds = sorted({str(t).removeprefix("torch.") for t in mine.values()})
    if c.state is not None:
        theirs = {t.dtype for t in c.state.values() if t.is_floating_point()}
        finest = min((torch.finfo(t).eps for t in theirs), default=math.inf)
        if mine and finest < min(torch.finfo(t).eps for t in mine.values()) and not c.trained_since:
            return warned(
                ROUNDED, f"{first_few(sorted(str(t).removeprefix('torch.') for t in theirs))} became {first_few(kinds)}"
            )
    if len(kinds) > 1:
        return warned(MIXED, first_few(kinds))
    return passed(first_few(kinds) or "no parameters")


# ----- mode and graph

USED_IN_TRAINING = Cause(
    "it is evaluated, or sampled from, in training mode: dropout is on", "model.eval() after loading, and before evaluating"
)
NOT_USED_YET = "it was only loaded: let the function evaluate or generate as well"
RETURNED_IN_TRAINING = Cause("it comes back in training mode: its dropout is on", "model.eval() before evaluating or sampling")
GRAPH = Cause(
    "evaluation or generation builds a graph that nobody uses: memory grows with each token",
    "with torch.no_grad(), or torch.inference_mode(), around it",
)


def mode(c: Checkpoint) -> Verdict:
    """It is used in evaluation mode."""
    used, noisy = c.used, [f for f in c.used if f.training and f.rng_before != f.rng_after]
    if noisy:
        return failed(USED_IN_TRAINING, f"{len(noisy)} of {number_of(len(used), 'pass', 'passes')} in training mode, at random")
    if c.model is not None and c.loads and not used and c.model.training and not c.run.training and has_dropout(c.model):
        return warned(RETURNED_IN_TRAINING, "training mode, with dropout")
    if not used:
        return skipped(NOT_USED_YET)
    return passed(f"{number_of(len(used), 'pass', 'passes')}, none with random numbers of the model's")


def has_dropout(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())


def graph(c: Checkpoint) -> Verdict:
    """Evaluation and generation build no graph."""
    built = [f for f in c.used if f.graph]
    if not c.used:
        return skipped(NOT_USED_YET)
    if built:
        return failed(GRAPH, f"{len(built)} of {number_of(len(c.used), 'pass', 'passes')} built one")
    return passed(f"none in {number_of(len(c.used), 'pass', 'passes')}")


# ----- trained

AS_NEW = Cause(
    "the model is no better than one that knows nothing: it is not trained, or its weights did not arrive",
    "see keys and values; was the best checkpoint saved, of this very model?",
)
AS_NEW_NORMS = "all gains of its norms are exactly 1, and all their biases exactly 0"
NEVER_TRAINED = Cause(
    f"these weights look as new: {AS_NEW_NORMS}",
    "see keys and values; was the model saved that was trained?",
)
ONE_TOKEN = Cause(
    "it answers the same token whatever it is given: it was trained on that token (unknown, or padding), or has collapsed",
    "decode what it was trained on; see a batch of it with examine_batch",
)


def norms_as_new(model: nn.Module) -> bool:
    """Whether no norm has learned anything; only layer norms with biases in full precision can tell."""
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm) and m.weight is not None and m.bias is not None]
    full = [m for m in norms if m.weight.dtype == torch.float32]
    return bool(full) and all(bool((m.weight == 1).all()) and bool((m.bias == 0).all()) for m in full)


def norms_learned(model: nn.Module) -> bool:
    """Whether a norm of any kind holds more than one number."""
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    return any(x.dim() == 1 and x.numel() > 1 and not is_constant(x) for m in norms for x in m.parameters(recurse=False))


def trained(c: Checkpoint) -> Verdict:
    """On its own data a trained model is better than ln V, and its answers depend on what it is given."""
    if c.model is None:
        return skipped(NOT_LOADED)
    if not c.data and c.unseen and not c.run.training:
        return skipped("no checkpoint was seen to be loaded, and no data were given (batch=, --batch)")
    answers = seen_answers(c) or asked_answers(c)
    if isinstance(answers, Verdict):
        return answers
    ids, targets, logits, own = answers
    V = logits.shape[-1]
    most = logits.argmax(-1).flatten()
    share = float((most == most.mode().values).float().mean())
    blind = math.log(V)
    if own:
        flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100).item()
        evidence = f"loss {flat:.3f} on {number_of(int((targets >= 0).sum()), 'token')} of its data, ln V = {blind:.3f}"
        if flat > blind - AS_BLIND:
            return failed(NOTHING_LOADED if c.unseen and not c.run.training else AS_NEW, evidence)
    else:
        evidence = f"{number_of(most.numel(), 'random token')}; give its data (batch=) to ask for its loss"
        if norms_as_new(c.model):
            return failed(NEVER_TRAINED, evidence)
    several = len(ids.unique()) >= SMALL_VOCABULARY and V >= SMALL_VOCABULARY and most.numel() >= FEWEST_POSITIONS
    if several and share >= SAME_TOKEN:
        return failed(ONE_TOKEN, f"id {int(most.mode().values)} at {share:.1%} of {most.numel()} positions; {evidence}")
    return passed(f"{evidence}; {number_of(len(most.unique()), 'different answer')} at {most.numel()} positions")


def seen_answers(c: Checkpoint) -> tuple[Tensor, Tensor, Tensor, bool] | None:
    """Return ids, next tokens and logits of the passes in which it was evaluated, if there were any with enough tokens."""
    if c.data:
        return None
    pairs = [(f.ids, f.logits) for f in c.used if f.ids is not None and f.logits is not None]
    fitting = [
        (i, z) for i, z in pairs if z.shape[:-1] == i.shape == pairs[-1][0].shape and z.shape[-1] == pairs[-1][1].shape[-1]
    ]
    if sum(i.numel() for i, _ in fitting) >= FEWEST_POSITIONS:
        ids, logits = torch.cat([i for i, _ in fitting]), torch.cat([z for _, z in fitting])
        return ids, ids[:, 1:].long(), logits[:, :-1], True
    return None


@torch.no_grad()
def asked_answers(c: Checkpoint) -> tuple[Tensor, Tensor, Tensor, bool] | Verdict:
    """Return ids, next tokens and logits of the data, or of random ids; the verdict if the model cannot be asked."""
    assert c.model is not None
    p = Patient(getattr(c.model, "_orig_mod", c.model))
    try:
        with p.unharmed():
            p.model.eval()
            p.interface = detect_interface(p)
            if c.data:
                rows = c.data[0]
                ids = rows.ids[:ROWS, : p.block].to(p.device)
                own = rows.targets is None or rows.named
                targets = ids[:, 1:] if own or rows.targets is None else rows.targets[:ROWS, : p.block].to(p.device)
                logits = p.logits(ids)
                return ids, targets.masked_fill(targets < 0, -100), logits[:, : targets.shape[1]], True
            ids = p.ids(ROWS, min(p.block, LENGTH))
            return ids, ids[:, 1:], p.logits(ids)[:, :-1], False
    except (ModelError, NotExaminable) as error:
        return skipped(str(error), Reason.NOT_ASKED)


CHECKS_OF_A_CHECKPOINT = (
    Entry("loads", loads, essential=True),
    Entry("keys", keys, needs=("loads",)),
    Entry("values", values, needs=("loads", "keys")),
    Entry("ties", ties, needs=("loads",)),
    Entry("dtype", dtype, needs=("loads",)),
    Entry("trained", trained, needs=("loads", "keys", "values")),
    Entry("evaluation", mode),
    Entry("graph", graph),
)


def examine_checkpoint(
    load: Any,
    *args: Any,
    state: Any = None,
    batch: Any = None,
    seconds: float = 60.0,
    strict: bool | None = None,
    **kwargs: Any,
) -> Report:
    """Load a checkpoint and report what is wrong with it, and with how it is used.

    `load` is a function that loads the checkpoint and returns the model, or the model itself; if it evaluates or generates
    as well, that is watched. `args` and `kwargs` are what it is called with. `state` is what the checkpoint holds, or its path
    (opened with weights_only=True), for a model that is loaded by something else than load_state_dict and torch.load. `batch`
    is some of its data, in any form that examine_batch takes: on it a trained model is better than ln V.

        examine_checkpoint(load_model, "out/ckpt.pt", batch=get_batch)
        examine_checkpoint(model, state="out/ckpt.pt")
        examine_checkpoint(lambda: sample(load_model("out/ckpt.pt"), "ROMEO:"))

    Models and random numbers are left as they were. ValueError if `load` cannot be called with what was given.
    """
    began = time.perf_counter()
    with random_numbers_kept():
        rows = gather(batch, (), None)[0] if batch is not None else []
    with load_and_watch(load, args, kwargs, seconds) as (run, result):
        if run.bug is not None:
            if is_strict(strict):
                raise run.bug
            return Report(
                f"Checkpoint by {run.name}", [Finding.of("loads", crashed(run.bug), True)], time.perf_counter() - began
            )
        watch = run.watch
        assert isinstance(watch, LoadWatch)
        given = state_in(
            torch.load(state, weights_only=True, map_location="cpu") if isinstance(state, str | os.PathLike) else state
        )
        last = [e.module for e in watch.events if isinstance(e, Loaded | Forward)]
        model = module_in(result) or (last[-1] if last else None)
        found = given or (watch.of(Loaded)[-1].state if watch.of(Loaded) else watch.files[-1] if watch.files else None)
        checkpoint = Checkpoint(run, model, found, given is not None, rows)
        findings = findings_of(CHECKS_OF_A_CHECKPOINT, checkpoint, is_strict(strict))
        about = f"Checkpoint by {run.name}: {type(model).__name__ if model is not None else 'no model'}"
        return Report(about, findings, time.perf_counter() - began, model is not None)


@contextlib.contextmanager
def load_and_watch(load: Any, args: tuple, kwargs: dict, seconds: float) -> Iterator[tuple[Run, Any]]:
    """Call what loads under watch. In the block models are as it left them, after the block as they were before."""
    function = (lambda: load) if isinstance(load, nn.Module) else callable_of(load, args, kwargs)
    run, result = Run(name_of(load), LoadWatch(), calls=1), None
    with run.watch.unharmed():
        for value in held_by(function, args, kwargs):
            run.watch.kept.keep(value)
        with run.watch.on():
            try:
                with time_limit(seconds), torch.enable_grad():
                    result = function(*args, **kwargs)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                run.end_with(error, seconds)
                if run.too_long:
                    run.error = TookTooLongToLoad(f"not finished after {seconds:g} s")
        yield run, result


class TookTooLongToLoad(Exception):
    """The function did not return in time."""
