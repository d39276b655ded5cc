"""Checks of generation: generate() continues its prompt with what the logits predict, and a cache changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .causality import length_problem
from .patient import CACHES, ModelError, Patient, model_code, set_seed, tensors_in
from .probes import (
    ATTENDS,
    LONGEST_GENERATED,
    NEAR_TIE,
    OTHER_KERNEL,
    SHARPER,
    UNLIKELY,
    UNLIKELY_WHEN_COLD,
    flat,
    largest_change,
    perturbed,
    tolerance,
)
from .registry import check
from .report import Cause, Reason, Verdict, failed, first_few, passed, skipped, warned
from .tape import Tape

# ----- how generate is called

FUNCTIONS = ("generate", "sample")
COUNTS = ("max_new_tokens", "n_new", "num_tokens", "steps", "n_tokens", "max_tokens", "max_steps", "n", "length")
COUNT_WORDS = ("tok", "num", "len", "max", "new", "step")  # in the name of a second parameter that is a count
GREEDY = {"do_sample": False, "greedy": True, "top_k": 1, "temperature": 1e-6}  # the first that it takes is used
DRAWING = {"do_sample": True, "greedy": False}
OPTIONS = {"temperature": 1e-3, "top_k": 1, "top_p": 1e-6}  # each leaves the likeliest token only, or nearly so


@dataclasses.dataclass(frozen=True)
class GenerateCall:
    """How a model's generate() is called for more tokens, as greedily as it can."""

    function: Callable
    count: str  # the name of the number of tokens, "" if it is the second positional argument
    counts_prompt: bool | None  # whether that number includes the prompt; None: not known before a call
    more: Mapping  # further keyword arguments
    greedy: bool  # whether `more` makes it greedy
    ends: tuple[int, ...] = ()  # tokens that end a text
    names: tuple[str, ...] = ()  # of its parameters
    hugging_face: bool = False
    temperature: float = 0.0  # of an option that is tried

    def with_option(self, name: str, value: float) -> GenerateCall:
        """Return the call that draws, with one option instead of greedily."""
        more = {key: on for key, on in DRAWING.items() if key in self.names} | {name: value}
        return dataclasses.replace(self, more=more, greedy=True, temperature=value if name == "temperature" else 0.0)


def detect_generate(model: nn.Module) -> GenerateCall | None:
    """Return how generate() of a model is called, by its signature; None if it has none that takes a number of tokens."""
    function = next((f for f in (getattr(model, name, None) for name in FUNCTIONS) if callable(f)), None)
    if function is None:
        return None
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # native code has none
        return None
    names, hugging_face = tuple(parameters), hasattr(model, "generation_config")
    takes_all = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
    more: dict[str, Any] = next(({name: value} for name, value in GREEDY.items() if name in names), {})
    more = {"do_sample": False} if takes_all and hugging_face else more
    greedy = bool(more)
    ends: tuple[int, ...] = ()
    if hugging_face:
        tokens = [getattr(model.generation_config, name, None) for name in ("eos_token_id", "forced_eos_token_id")]
        ends = tuple(token for token in tokens if isinstance(token, int))
        more |= dict(pad_token_id=0, eos_token_id=None, use_cache=False)
    count = next((name for name in COUNTS if name in names), "max_new_tokens" if takes_all else "")
    counts_prompt: bool | None = False
    if "max_length" in names and not count:
        count, counts_prompt = "max_length", None
    second = names[1] if len(names) > 1 else ""
    if not count and not any(word in second for word in COUNT_WORDS):
        return None
    return GenerateCall(function, count, counts_prompt, more, greedy, ends, names, hugging_face)


def with_known_count(p: Patient, call: GenerateCall) -> GenerateCall:
    """Return the call with `counts_prompt` known, by trying where the signature does not show it. ModelError if it raises."""
    if call.counts_prompt is not None:
        return call
    call = dataclasses.replace(call, counts_prompt=True)
    text, _ = write(p, call, p.ids(1, 2), 2)
    longer = text is not None and text.dim() == 2 and text.shape[1] == 2 + (2 + 2)
    return dataclasses.replace(call, counts_prompt=not longer)


def write(p: Patient, call: GenerateCall, ids: Tensor, n: int, seed: int = 0) -> tuple[Tensor | None, bool]:
    """Return the ids that generate() returns for a prompt and n more tokens, and whether it leaves training mode on."""
    n = n + ids.shape[1] if call.counts_prompt else n
    positional, named = ((), {call.count: n}) if call.count else ((n,), {})
    set_seed(seed)
    try:
        with p.calling("generate", ids.shape[1], named):
            text = call.function(ids, *positional, **named, **call.more)
        left_training = p.model.training
    finally:
        with model_code():
            p.model.eval()
    found = (t for t in tensors_in(getattr(text, "sequences", text)) if not t.is_floating_point())
    return next(found, None), left_training


# ----- generate

GENERATE_FAILS = Cause("an error inside generate", "call it by hand on 8 tokens")
WRITES_INTO_PROMPT = Cause("generate writes into its input", "copy it first")
DROPS_ROWS = Cause("generate drops rows of the batch", "keep the axis B throughout")
MISCOUNTS = Cause("generate writes too few or too many tokens", "one token for each step of the loop")
CHANGES_PROMPT = Cause("generate changes the prompt", "append to it only")
DRAWS = Cause("generate draws although it was asked to be greedy", "argmax")
KEEPS_STATE = Cause(
    "generate keeps something between calls: a cache that is not emptied, a counter",
    "empty the cache at the start of each call",
)
TEMPERATURE_IGNORED = Cause(
    "the temperature does not sharpen: it is multiplied, applied after the softmax, or ignored",
    "(logits / temperature).softmax(-1)",
)
LEAVES_TRAINING = Cause("it calls train() at the end, whatever the mode was before", "restore the mode that was set before")
NO_CROP = Cause("generate does not crop the context to the block size", "ids[:, -block_size:] before each call")
CROPS_START = Cause(
    "the context is cropped at its end, so the model never sees the tokens it generated",
    "ids[:, -block_size:], with the minus",
)


def option_keeps_wrong_tokens(option: str) -> Cause:
    return Cause(
        f"{option} keeps the wrong tokens: its sorting was not undone, or its comparison is inverted",
        "keep the likeliest: all below the k-th become -inf; for top_p, sort, cut, and scatter back",
    )


def unlike_logits(how: str) -> Cause:
    return Cause(f"generate {how}", "take logits[:, -1] of the whole context, argmax, append")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A text that generate() wrote, and what is needed to judge it."""

    p: Patient
    call: GenerateCall
    prompt: Tensor  # (2, T)
    given: Tensor  # (2, T): the tensor that generate was given
    text: Tensor  # (2, T + n) or (2, n)
    left_training: bool
    n: int
    sharpened: bool  # for want of a greedy mode the head's weights were multiplied

    @property
    def new(self) -> Tensor:
        """(2, n): the new tokens."""
        return self.text[:, -self.n :]


@check("generate", needs=("side effects", "repeats", "rows", "answers"))
@torch.no_grad()
def generate(p: Patient) -> Verdict:
    """generate() continues its prompt, row by row, with what the logits predict."""
    call = detect_generate(p.model)
    if call is None:
        return skipped("it has no generate(ids, max_new_tokens)")
    T = max(1, min(8, p.block - 7)) if p.block > 8 else 1
    n = max(6, min(12, p.block - T - 1))  # tokens: enough to find one that another context would change
    table, V = p.interface.token_table, p.interface.out_vocab
    heads = [name for name, x in p.parameters.items() if x.dim() == 2 and V in x.shape and name != table]
    sharp = [] if call.greedy else heads[-1:]
    with perturbed(p), p.weights(lambda name, value: SHARPER * value if name in sharp else None):
        prompt = telling_prompt(p, T)
        given = prompt.clone()
        try:
            call = with_known_count(p, call)
            text, left_training = write(p, call, given, n)
        except ModelError as error:
            if isinstance(error.error, TypeError | AttributeError | NotImplementedError):
                return skipped(f"generate could not be called: {error}", Reason.NOT_ASKED, error.where)
            return failed(GENERATE_FAILS, f"generate fails: {error}", error.where)
        if text is None or text.dim() != 2:
            return skipped("generate returns no ids (B, T)", Reason.NOT_ASKED)
        sample = Sample(p, call, prompt, given, text, left_training, n, bool(sharp))
        return next(verdict for question in QUESTIONS if (verdict := question(sample)))


def telling_prompt(p: Patient, T: int) -> Tensor:
    """Return a prompt (2, T) whose rows continue differently, and differently than from their first position."""
    for number in range(4, 20):
        prompt = p.ids(2, T, seed=number).clamp(min=1)  # 0 is padding to Hugging Face's generate
        likeliest = p.logits(prompt).argmax(dim=-1)  # (B, T)
        if likeliest[0, -1] != likeliest[1, -1] and (T == 1 or not torch.equal(likeliest[:, 0], likeliest[:, -1])):
            break
    return prompt


def wrong_form(s: Sample) -> Verdict | None:
    """Return what is wrong with the form of the text, whatever its new tokens are."""
    (rows, T), n, text = s.prompt.shape, s.n, s.text
    if not torch.equal(s.given, s.prompt):
        return failed(WRITES_INTO_PROMPT, "the caller's prompt is changed after generate")
    if len(text) != rows:
        return failed(DROPS_ROWS, f"{rows} rows in, {len(text)} out")
    counts_prompt = text.shape[1] == n and torch.equal(text[:, :T], s.prompt)
    if text.shape[1] not in (T + n, n) or counts_prompt:
        evidence = f"{n} new tokens were asked for; it returned {text.shape[1]} for a prompt of {T}"
        return failed(MISCOUNTS, evidence)
    if text.shape[1] == T + n and not torch.equal(text[:, :T], s.prompt):
        return failed(CHANGES_PROMPT, "what it returns does not begin with the prompt")
    return None


def not_repeatable(s: Sample) -> Verdict | None:
    """Return whether two more calls, with the same random numbers and with others, write other texts."""
    try:
        texts = [write(s.p, s.call, s.prompt.clone(), s.n, seed)[0] for seed in (0, 1)]
    except ModelError as error:
        return failed(KEEPS_STATE, f"called once more with the same prompt, it fails: {error}", error.where)
    again, other = (text is not None and torch.equal(s.new, text[:, -s.n :]) for text in texts)
    if s.call.greedy and not again:
        return failed(KEEPS_STATE, "two greedy calls, with the same random numbers too, give different texts")
    if s.call.greedy and not other:
        return failed(DRAWS, "two greedy calls give different texts")
    if not s.sharpened and not other:
        tokens = f"{s.n} tokens after a prompt of {s.prompt.shape[1]}, two rows"
        return passed(f"{tokens} (it has no greedy mode: the tokens are not compared)")
    return None


def not_likeliest(s: Sample) -> Verdict | None:
    """Return whether the text is another than the logits predict."""
    wrong = unlikely_token(s.p, s.prompt, s.new, s.call)
    if not wrong:
        return None
    other = None
    with contextlib.suppress(ModelError):
        other, _ = write(s.p, s.call, s.p.changed_tokens(s.prompt), s.n)
    return failed(unlike_logits(explain_text(s.p, s.prompt, s.new, other)), wrong)


def leaves_training_mode(s: Sample) -> Verdict | None:
    return failed(LEAVES_TRAINING, "generate leaves the model in training mode") if s.left_training else None


def wrong_crop(s: Sample) -> Verdict | None:
    """Return whether a prompt of block_size tokens is too long for it, or the context after that is not the end of the text."""
    p, last_position = s.p, s.p.interface.last_position
    # cheap questions first: block_size may be 131,072
    if s.call.hugging_face or p.block > LONGEST_GENERATED or length_problem(p):
        return None
    refuses = last_position is None and p.block > 1 and not p.accepts(p.block + 1)
    if not (last_position or refuses):
        return None
    prompt = p.ids(1, p.block, seed=4)
    contexts: list[Tensor] = []
    table = p.model.get_submodule(p.interface.token_table.rpartition(".")[0])
    hook = table.register_forward_pre_hook(lambda module, args: contexts.extend(x.detach().clone() for x in args[:1]))
    try:
        text, _ = write(p, s.call, prompt.clone(), 3)
    except ModelError as error:
        if refuses and isinstance(error.error, AssertionError | ValueError):
            return None  # on purpose
        return failed(NO_CROP, f"from a prompt of block_size = {p.block} tokens it fails: {error}", error.where)
    finally:
        hook.remove()
    if text is None or len(contexts) != 3:
        return None
    text = torch.cat([prompt, text[:, -3:]], dim=1)  # (1, block + 3)
    for new, context in enumerate(contexts):
        T, end = context.shape[-1], p.block + new
        if new and T > 1 and torch.equal(context, text[:, :T]) and not torch.equal(context, text[:, end - T : end]):
            return failed(CROPS_START, f"after {end} tokens its context is tokens 0 to {T - 1}, not the last {T}")
    return None


def wrong_option(s: Sample) -> Verdict | None:
    """Return whether it draws unlikely tokens with an option that leaves the likeliest one only, or nearly so."""
    T = s.prompt.shape[1]
    for option, value in OPTIONS.items():
        if option not in s.call.names or option in s.call.more or s.call.hugging_face:
            continue
        call = s.call.with_option(option, value)
        try:
            text, _ = write(s.p, call, s.prompt.clone(), s.n)
        except ModelError:  # it may not take such a value
            continue
        if text is None or text.shape[1] not in (s.n, T + s.n):
            continue
        if wrong := unlikely_token(s.p, s.prompt, text[:, -s.n :], call, f"its text with {option}={value}"):
            return failed(TEMPERATURE_IGNORED if option == "temperature" else option_keeps_wrong_tokens(option), wrong)
    return None


def all_well(s: Sample) -> Verdict:
    return passed(f"{s.n} greedy tokens, two rows: equal to taking the likeliest by hand")


# the first verdict counts
QUESTIONS = (wrong_form, not_repeatable, not_likeliest, leaves_training_mode, wrong_crop, wrong_option, all_well)


def unlikely_token(p: Patient, prompt: Tensor, new: Tensor, call: GenerateCall, of: str = "its greedy text") -> str:
    """Return where a text differs from the argmax of the logits by more than a near-tie; "" if nowhere."""
    for row in range(len(prompt)):
        text = prompt[row : row + 1]
        for i in range(new.shape[1]):
            if text.shape[1] > p.block:
                return ""
            logits, token = p.logits(text)[0, -1], int(new[row, i])
            if token < p.vocab:  # a vocabulary may be padded, and what is padding cut off here
                logits = logits[: p.vocab]
            best = int(logits.argmax())
            if token in call.ends:
                break
            tie = NEAR_TIE * tolerance(p, logits) if call.greedy else UNLIKELY
            tie = UNLIKELY_WHEN_COLD * call.temperature or tie
            if token >= len(logits) or logits[best] - logits[token] > tie:
                return f"row {row}: token {i} of {of} is {token}, the likeliest by its logits is {best}"
            text = torch.cat([text, new[row : row + 1, i : i + 1]], dim=1)
    return ""


def explain_text(p: Patient, prompt: Tensor, new: Tensor, of_other_prompt: Tensor | None) -> str:
    """Return which wrong context would give the new tokens (2, n) that generate wrote."""
    logits, first, n = p.logits(prompt), new[:, 0], new.shape[1]
    likeliest = logits.argmax(dim=-1)  # (B, T)
    before = torch.cat([prompt[:, -1:], new[:, :-1]], dim=1)  # (B, n): the token before each new one
    alone = p.logits(before.reshape(-1, 1)).argmax(dim=-1).view_as(new)  # (B·n, 1) -> (B, n)
    if torch.equal(new, likeliest[:, :1].expand(-1, n)):
        return "takes the logits of the first position, not of the last"
    if torch.equal(new, alone):
        return "feeds only the last token, without a cache: the context is lost"
    if of_other_prompt is not None and torch.equal(new, of_other_prompt[:, -n:]):
        return "ignores the prompt: another one gives the same text"
    if torch.equal(first, likeliest[:, -1]):
        return "uses another context than its text from the second new token on (a cache, or what it appends)"
    if likeliest[0, -1] != likeliest[1, -1] and first[0] == first[1] and first[0] in likeliest[:, -1]:
        return "gives every row the token of one row: its argmax runs over the batch too"
    if torch.equal(first, logits[:, -1].argmin(dim=-1)):
        return "takes the least likely token: a sign is wrong"
    if prompt.shape[1] > 1 and torch.equal(first, likeliest[:, -2]):
        return "takes the logits of the position before the last"
    return "does not take the likeliest token of the last position"


# ----- cache

CACHE_SHAPES = Cause(
    "the shapes of queries, keys and mask do not fit when keys come from the cache", "q_len is 1, k_len the whole length"
)
CACHE_UNUSED = Cause(
    "the cache is not used: the step answers as if its token were the only one", "concatenate old and new keys"
)
CACHE_MASK = Cause(
    "the new query sees key 0 only: a causal mask aligned at the top left (is_causal=True with one query and many keys)",
    "no mask for one new query: it may see all keys",
)
CACHE_SEVERAL = Cause(
    "several new tokens see each other's future, or the wrong keys: the mask ignores the length of the cache. "
    "Reading a prompt in chunks, and speculative decoding, go wrong",
    "a mask of (T, past + T): new token t sees keys 0 … past + t",
)
CACHE_DIFFERS = Cause(
    "the new query sees all keys, but keys, values or positions in the cache are not those of the whole pass",
    "compare keys and values with those of one pass over the whole",
)


def cache_positions(first: int, name: str, rows: list[int], right: int) -> Cause:
    off = rows[0] - right
    how = "start again" if rows[0] == 0 else f"are off by {'one' if abs(off) == 1 else abs(off)} ({off:+})"
    return Cause(
        f"the positions {how}: with {first} tokens in the cache, row {first_few(rows, 2)} of {name} is looked up, not {right}",
        "position = arange(past, past + T)",
    )


def cache_partly_seen(seen: str, of: int) -> Cause:
    return Cause(f"the new query sees keys {seen} of {of} only", "a new query may see all keys of the past")


def cache_cut(of: int) -> Cause:
    return Cause(
        f"the number of keys is not {of}: the cache is overwritten or cut, not appended to; or the positions start again",
        "concatenate old and new keys along time; positions continue from the length of the cache",
    )


NEW_CACHE = "give diagnose() a function that makes an empty one, new_cache=lambda rows: …"


def resets(p: Patient) -> list[Callable]:
    """Return methods that empty a cache which the model keeps inside."""
    if "use_cache" not in p.names:
        return []
    return [getattr(p.model, name) for name in dir(type(p.model)) if "reset" in name and "cache" in name]


def cached_reader(p: Patient) -> Callable[[Tensor], Tensor]:
    """Return a function from the next ids (B, T) to their logits, which continues from a cache. ModelError if that raises."""
    name = next((n for n in p.names if n in CACHES), None)
    state: dict = {}
    if name is None and "start_pos" in p.names:  # Llama's: one inside, which begins again where that is 0

        def from_start_pos(ids: Tensor) -> Tensor:
            start = state.get("length", 0)
            state["length"] = start + ids.shape[1]
            return p.as_logits(p.call_as_is(ids, **p.extra | {"start_pos": start}), *ids.shape)

        return from_start_pos
    if name is None:  # some keep it inside
        with model_code():
            resets(p)[0]()
        return lambda ids: p.as_logits(p.call_as_is(ids, **p.extra | {"use_cache": True}), *ids.shape)

    def from_cache(ids: Tensor) -> Tensor:
        more = {"use_cache": True} if "use_cache" in p.names else {}
        if "cache" not in state and p.new_cache is not None:
            with model_code():  # or its owner's
                state["cache"] = p.new_cache(len(ids))
        if "cache" in state:
            more[name] = state["cache"]
        answer = p.call_as_is(ids, **p.extra | more)
        if p.new_cache is None:
            state["cache"] = cache_in(answer, name)
            if state["cache"] is None:
                raise ModelError("its answer contains none")
        return p.as_logits(answer, *ids.shape)

    return from_cache


def cache_in(answer, name: str):
    """Return the cache in an answer: by name, or whatever in it is neither logits nor loss."""
    for key in (name, *CACHES, "present", "presents", "past_kv"):
        found = answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)
        if found is not None:
            return found
    if isinstance(answer, tuple | list):
        return next((part for part in answer if part is not None and not isinstance(part, Tensor)), None)
    return None


@check("cache", needs=("side effects", "repeats", "rows", "causality", "memory", "lengths"))
@torch.no_grad()
def cache(p: Patient) -> Verdict:
    """Token by token from a cache, the logits are those of one pass over the whole."""
    T, first = p.T, p.T // 2
    if not any(n in (*CACHES, "start_pos") for n in p.names) and not resets(p):
        return skipped("its forward takes no cache")
    if T < 4:
        return skipped("the window is too short")
    ids = p.ids(2, T)
    with perturbed(p):
        whole, read = p.logits(ids), cached_reader(p)
        try:
            parts = [read(ids[:, :first])[:, -1:]]
        except ModelError as error:
            hint = "" if p.new_cache else f": {NEW_CACHE}"
            return skipped(f"its cache could not be used: {error}{hint}", Reason.NOT_ASKED, error.where)
        tape = p.tape(ids[:, first : first + 1], start=first)
        for t in range(first, T):
            try:
                with tape if t == first else contextlib.nullcontext():
                    parts.append(read(ids[:, t : t + 1])[:, -1:])
            except ModelError as error:
                return failed(CACHE_SHAPES, f"with {t} tokens in the cache, reading one more fails: {error}", error.where)
        stepped = torch.cat(parts, dim=1)  # (B, T - first + 1, V)
        change = largest_change(whole[:, first - 1 :], stepped).amax(dim=0)  # (T - first + 1,)
        allowed = OTHER_KERNEL * tolerance(p, whole)
        if change.max() <= allowed:
            fine = f"{T - first} tokens read one by one from the cache: logits equal to {change.max():.1g}"
            return several_at_once(p, ids, whole, allowed) or passed(fine)
        at = int((change > allowed).nonzero()[0]) + first - 1
        evidence = f"read one by one from the cache, the logits at position {at} differ by {change.max():.3g}"
        return failed(explain_cache(p, tape, ids, stepped[:, 1]), evidence)


def several_at_once(p: Patient, ids: Tensor, whole: Tensor, allowed: float) -> Verdict | None:
    """Return what goes wrong when several tokens at once follow those in the cache; to refuse them is not a fault."""
    first = ids.shape[1] // 2
    try:
        read = cached_reader(p)
        read(ids[:, :first])
        rest = read(ids[:, first:])  # (B, T - first, V)
    except ModelError:
        return None
    if rest.shape[1] != ids.shape[1] - first:  # it answers for the last one only
        return None
    change = largest_change(whole[:, first:], rest).amax(dim=0)  # (T - first,)
    if change.max() <= allowed:
        return None
    at = int((change > allowed).nonzero()[0]) + first
    tokens = f"{len(change)} tokens read at once after {first} in the cache"
    evidence = f"{tokens}: the logits at position {at} differ by {change.max():.3g}; one by one they are right"
    return warned(CACHE_SEVERAL, evidence)


def explain_cache(p: Patient, tape: Tape, ids: Tensor, step: Tensor) -> Cause:
    """Return what is wrong with the first step from the cache; its logits are `step`, (B, V)."""
    first = tape.keys - 1
    starts = {lookup.name: int(lookup.rows.flatten()[0]) for lookup in p.interface.positions}
    for lookup in tape.embeddings:
        name, rows = lookup.name, lookup.rows.flatten().tolist()
        if name in starts and set(rows) != {starts[name] + first}:
            return cache_positions(first, name or "the table of positions", rows, starts[name] + first)
    alone = p.logits(ids[:, first : first + 1])[:, -1]
    if largest_change(alone, step).max() <= OTHER_KERNEL * tolerance(p, alone):
        return CACHE_UNUSED
    if not tape.attentions:
        return cache_cut(first + 1)
    W = flat(tape.attentions[0].weights)[:, -1].amax(dim=0)  # (N, 1, keys) -> (keys,)
    seen = (W > ATTENDS).nonzero().flatten().tolist()
    if seen == [0]:
        return CACHE_MASK
    return cache_partly_seen(first_few(seen), first + 1) if len(seen) <= first else CACHE_DIFFERS
