"""Checks of generation: generate() continues its prompt with what the logits predict, and draws as its options say."""

from __future__ import annotations

import bisect
import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import explain_cached, long_prompt
from .caches import size_stated, sizes_stated
from .causality import length_problem
from .patient import BLOCKS, CACHES, EMPTY_CACHE, POSITIONS_GIVEN, ModelError, Patient, model_code, set_seed, tensors_in
from .probes import (
    CLEAR_OF_LIMIT,
    FEWEST_AFTER_END,
    FIRST_STEPS,
    GRAPH_STEPS,
    LESS_LIKELY,
    LONGEST_GENERATED,
    LONGEST_PROMPT,
    MOST_TOKENS,
    NEAR_TIE,
    OTHER_KERNEL,
    PROBABILITIES,
    PROMPTS,
    READ_OF_LONG,
    SAME_LOG,
    SHARPER,
    TEXTS_COMPARED,
    TEXTS_DRAWN,
    TRIED_K,
    TRIED_P,
    TRIED_PENALTY,
    TRIED_TEMPERATURE,
    UNLIKELY,
    UNLIKELY_WHEN_COLD,
    Answered,
    is_trained,
    largest_change,
    module_answers,
    named_module,
    parting,
    perturbed,
    tolerance,
    watch,
)
from .registry import check
from .report import Cause, Reason, Verdict, failed, listed, number_of, passed, skipped, warned
from .tape import Telling
from .values import MASKS, PADDED, PADDING_MOVES, PADDING_NAMES, PADDING_SEEN

# ----- how generate is called

FUNCTIONS = ("generate", "sample")
COUNTS = ("max_new_tokens", "n_new", "num_tokens", "steps", "n_tokens", "max_tokens", "max_steps", "n", "length")
TOTALS = ("max_length", "max_len")  # new tokens, or all of the text
TOLD = (*BLOCKS, "context_size")  # by which a free function is told the block size; the last is Raschka's
COUNT_WORDS = ("tok", "num", "len", "max", "new", "step")  # in the name of a second parameter that is a count
GREEDY = {"do_sample": False, "greedy": True, "top_k": 1, "temperature": 1e-6, "temp": 1e-6}  # the first that it takes is used
TEMPERATURES = ("temperature", "temp")
DRAWING = {"do_sample": True, "greedy": False}
NO_PENALTY = dict.fromkeys(("repetition_penalty", "rep_penalty"), 1.0)  # many have one by default
OPTIONS = {
    "temperature": 1e-3,
    "temp": 1e-3,
    "top_k": 1,
    "top_p": 1e-6,
    "min_p": 1 - 1e-6,  # float32 still tells it from 1, and keeps no second token of a new model, whose logits are near
}  # each leaves the likeliest token only, or nearly so
ENDS: tuple[str, ...] = (
    "eos_id",
    "eos_token_id",
    "eos_token",
    "eos",
    "eos_idx",
    "eot_id",
    "eot_token",
    "eot",
    "end_id",
    "end_token",
)
ENDS += ("end_token_id", "stop_id", "stop_token", "stop_token_id", "endoftext_id")  # what ends a text
NEUTRAL = "neutral"  # in a patient's memo: options that change nothing
NO_TOKEN = -1  # an end of text that never comes


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

    @property
    def unending(self) -> dict[str, Any]:
        """What keeps a text from ending before all its tokens are written."""
        return {name: value for name, value in self.more.items() if name in ENDS}

    def with_option(self, name: str, value: float) -> GenerateCall:
        """Return the call that draws, with one option instead of greedily."""
        more = {key: on for key, on in (DRAWING | NO_PENALTY).items() if key in self.names} | self.unending | {name: value}
        return dataclasses.replace(self, more=more, greedy=True, temperature=value if name in TEMPERATURES else 0.0)


def detect_generate(model: nn.Module, given: Callable | None = None, block: int = 0) -> GenerateCall | None:
    """Return how generate() of a model is called, by its signature; None if it has none that takes a number of tokens.

    A function `given` in its place takes the model first, then the ids; a required block size (Raschka's context_size) is told.
    """
    function = given or next((f for f in (getattr(model, name, None) for name in FUNCTIONS) if callable(f)), None)
    if function is None:
        return None
    try:
        told: dict[str, int] = {}
        if given is not None:
            whole = inspect.signature(given).parameters
            length = next((n for n in TOTALS if n in whole), "") if not any(n in whole for n in COUNTS) else ""
            unnamed = 2 if length or any(n in whole for n in COUNTS) else 3  # f(model, ids, seq_len): the third is the count
            told = {n: block for n in [*whole][unnamed:] if n in TOLD and n not in COUNTS and n != length}
            function = functools.partial(given, model, **{n: b for n, b in told.items() if whole[n].default is whole[n].empty})
        parameters = {name: x for name, x in inspect.signature(function).parameters.items() if name not in told}
    except (TypeError, ValueError):  # native code has none
        return None
    names, hugging_face = tuple(parameters), given is None and hasattr(model, "generation_config")
    takes_all = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
    more: dict[str, Any] = next(({name: value} for name, value in GREEDY.items() if name in names), {})
    more = {"do_sample": False} if takes_all and hugging_face else more
    greedy = bool(more)
    more |= {name: off for name, off in NO_PENALTY.items() if name in names}
    more |= {
        n: NO_TOKEN
        for n in ENDS
        if n in names and (parameters[n].default is inspect.Parameter.empty or is_id(parameters[n].default))
    }
    ends: tuple[int, ...] = ()
    if hugging_face:
        tokens = [getattr(model.generation_config, name, None) for name in ("eos_token_id", "forced_eos_token_id")]
        ends = tuple(token for token in tokens if isinstance(token, int))
        more |= dict(pad_token_id=0, eos_token_id=None, use_cache=False)
    count = next((name for name in COUNTS if name in names), "max_new_tokens" if takes_all else "")
    counts_prompt: bool | None = False
    if not count and (total := next((name for name in TOTALS if name in names), "")):
        count, counts_prompt = total, None
    second = names[1] if len(names) > 1 else ""
    if not count and not any(word in second for word in COUNT_WORDS) and not (given and second):  # f(model, ids, n)
        return None
    return GenerateCall(function, count, counts_prompt, more, greedy, ends, names, hugging_face)


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
        p.has_written = True
        left_training = p.model.training
    finally:
        with model_code():
            p.model.eval()
    found = (t for t in tensors_in(getattr(text, "sequences", text)) if not t.is_floating_point())
    return next(found, None), left_training


# ----- what happens inside


@dataclasses.dataclass(frozen=True)
class InnerCall:
    """A call of the model's forward that generate made."""

    ids: Tensor  # (B, T)
    starts: tuple[tuple[str, int], ...]  # of POSITIONS_GIVEN: what it was told, by name
    logits: Tensor  # (B, V), or (B, T, V) as it answered: those of the last position are the last
    graph: bool  # whether the logits carry a gradient
    training: bool  # whether a module was in training mode
    answers: list[Answered]  # of its modules


RANDOM = {"multinomial", "rand", "randn", "randint", "randperm", "exponential", "uniform", "normal", "bernoulli"}


# what tokens are drawn with where argmax takes the largest of p / e, or of logits + Gumbel noise, for which any number does
NOISE = {"exponential_": 1.0, "rand": 0.5, "rand_like": 0.5, "uniform_": 0.5}


class Heard(TorchFunctionMode):
    """What a model and torch.multinomial are asked, in the block."""

    def __init__(self, stilled: bool = False) -> None:
        super().__init__()
        self.stilled = stilled  # noise is at its mean, so that what the largest is taken of shows the probabilities
        self.calls: list[InnerCall] = []
        self.noisy = False  # whether it was stilled
        self.random = False  # whether random numbers were drawn
        self.draws: list[Tensor] = []  # (B, K): the probabilities that tokens were drawn with
        self.scores: list[Tensor] = []  # (B, V): what the largest was taken of, or the logarithms of these probabilities

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        given = args[0] if args else (kwargs or {}).get("input")
        self.random = self.random or name.strip("_").removesuffix("_like") in RANDOM
        if isinstance(given, Tensor) and given.is_floating_point() and name in ("multinomial", "argmax"):
            given = given[None] if given.dim() == 1 else given  # row by row
            if name == "multinomial":
                self.draws.append(given.detach().clone())
            elif self.noisy and given.dim() == 2:
                positive = bool((given >= 0).all())
                self.draws.append(given.detach().clone() if positive else given.detach().softmax(dim=-1))
            self.scores.append(given.detach().log() if name == "multinomial" else given.detach().clone())
        out = function(*args, **(kwargs or {}))
        if self.stilled and name in NOISE:
            self.noisy = True
            return out.fill_(NOISE[name])
        return out


@contextlib.contextmanager
def hearing(p: Patient, stilled: bool = False) -> Iterator[Heard]:
    """Record the calls of forward, and the draws, in the block."""
    heard = Heard(stilled)

    def note(module, args, named, answer) -> None:
        given = dict(zip(p.names, args, strict=False)) | named
        ids = next((x for x in given.values() if isinstance(x, Tensor) and not x.is_floating_point() and x.dim() == 2), None)
        if ids is None:
            return
        with contextlib.suppress(ModelError):
            logits = p.as_logits(answer, *ids.shape)
            starts = {name: given.get(name) for name in POSITIONS_GIVEN}
            known = tuple((n, int(x.flatten()[0]) if isinstance(x, Tensor) else x) for n, x in starts.items() if x is not None)
            training = any(m.training for m in p.model.modules() if drops(m))
            found = answers if len(heard.calls) == 0 else []  # those of the first call: the prompt
            heard.calls.append(
                InnerCall(ids.detach().clone(), known, logits.detach(), logits.requires_grad, training, [*found])
            )

    def keep_empty(module, args, named) -> None:
        """Keep a copy of the first cache that is passed: `cache` begins with it where only generate knows how one is made."""
        given = dict(zip(p.names, args, strict=False)) | named
        if EMPTY_CACHE not in p.memo:
            empty = next((x for name, x in given.items() if name in CACHES and x is not None), None)
            with contextlib.suppress(Exception):  # it may not be copied
                p.memo[EMPTY_CACHE] = copy.deepcopy(empty)

    hooks = []
    if not isinstance(p.model, torch.jit.ScriptModule):  # which takes no hooks
        hooks += [p.model.register_forward_pre_hook(keep_empty, with_kwargs=True)]
        hooks += [p.model.register_forward_hook(note, with_kwargs=True)]
    try:
        with module_answers(p) as answers, heard:
            yield heard
    finally:
        for hook in hooks:
            hook.remove()


def drops(module: nn.Module) -> bool:
    """Whether a module drops something in training mode."""
    p = getattr(module, "dropout", None) if isinstance(module, nn.MultiheadAttention) else getattr(module, "p", None)
    named = isinstance(module, nn.MultiheadAttention) or "drop" in type(module).__name__.lower()
    return named and isinstance(p, float) and p > 0


# ----- generate

GENERATE_FAILS = Cause("an error inside generate", "call it by hand on 8 tokens")
WRITES_INTO_PROMPT = Cause("generate writes into its input", "copy it first")
DROPS_ROWS = Cause("generate drops rows of the batch", "keep the axis B throughout")
MISCOUNTS = Cause("generate writes too few or too many tokens", "one token for each step of the loop")
CHANGES_PROMPT = Cause("generate changes the prompt", "append to it only")
SEES_FUTURE = "and its tokens see the future: its mask is missing, inverted, or counts from the end of a cache"
DRAWS = Cause(
    "generate draws although it was asked to be greedy: what should make it so has no effect",
    "does the softmax that is drawn from get the scores after temperature and top_k? argmax, where greedy is a mode of its own",
)
KEEPS_PREVIOUS = Cause(
    "generate goes on from the text before: what the model keeps (a recurrent state, a cache, tokens) is not reset between "
    "calls",
    "begin each call with a state of its own: self.state = None, or an empty cache, before the prompt is read",
)
KEEPS_OF_ROW = Cause(
    "rows are written one after the other, and each goes on from what the row before it left: a recurrent state or a cache is "
    "not reset between rows, and the first row only is right",
    "begin each row with a state of its own, before its prompt is read",
)
KEEPS_STATE = Cause(
    "generate keeps something between calls: a cache that is not emptied, a counter",
    "empty the cache at the start of each call",
)
TEMPERATURE_CANCELS = Cause(
    "the temperature changes nothing: it divides the probabilities, and cancels when they are normalised, or is never used",
    "(logits / temperature).softmax(-1)",
)
TEMPERATURE_TWICE = Cause("the temperature divides the logits twice", "divide once: (logits / temperature).softmax(-1)")
TEMPERATURE_OTHERWISE = Cause(
    "the temperature changes the probabilities otherwise than by dividing the logits", "(logits / temperature).softmax(-1)"
)
TEMPERATURE_MULTIPLIED = Cause("the temperature is multiplied, not divided: a low one makes it wilder", "logits / temperature")
BUILDS_GRAPH = Cause(
    "generate runs without torch.no_grad(): each step builds a graph that nobody needs", "@torch.no_grad() on generate"
)
KEEPS_GRAPH = Cause(
    "generate runs without torch.no_grad(), and keeps what holds the graph of each step (logits in a list): memory grows with "
    "every token",
    "@torch.no_grad() on generate",
)
DROPS_WHILE_GENERATING = Cause(
    "the model is in training mode, and generate does not call eval(): dropout is on while it writes",
    "model.eval() before generate, or inside it, and the former mode afterwards",
)
DECODING_SEES_PADDING = Cause(
    "padding on the left is hidden while the prompt is read, and seen by the tokens that are generated after the first: from "
    "then on the mask is not passed on, or not the whole of it",
    "append a 1 to the mask for each new token, and pass all of it: a column for each key, those in the cache, too",
)
DECODING_COUNTS_PADDING = Cause(
    "padding on the left does not count while the prompt is read, and counts from the second new token on: positions go on "
    "from the padded length, or the mask does not go on as the text does",
    "position = attention_mask.sum(-1, keepdim=True) - 1 for a new token of each row, whose mask is 1",
)
PADDING_OF_ANOTHER = Cause(
    "from the second new token on, rows of different lengths are read by the positions or the mask of one of them: padded "
    "alone each is right",
    "a position for each row, (B, 1): attention_mask.sum(-1, keepdim=True) - 1, and the mask of each row",
)
PENALTY_INVERTED = Cause(
    "the repetition penalty makes tokens likelier that are there already: it divides negative logits, which raises them",
    "divide a logit above 0 by the penalty, and multiply one below 0 by it, as transformers does",
)
TEMPERATURE_IGNORED = Cause(
    "the temperature does not sharpen: it is multiplied, applied after the softmax, or ignored",
    "(logits / temperature).softmax(-1)",
)
ENDS_ALL = Cause(
    "one row's end of text ends the others too: they are cut off where it ends",
    "note for each row whether it has ended, and stop when all have: ended |= next == eos; if ended.all(): break",
)
ENDED_MOVES = Cause(
    "a row that has ended moves the others: they go on with other tokens than they would alone",
    "an ended row stays in the batch, or leaves it together with its part of the cache",
)
GOES_ON = Cause(
    "a row goes on with other tokens after its end of text while others are still written: right only where the caller cuts "
    "each row there",
    "next = torch.where(ended, eos, next); ended = ended | (next == eos); stop when ended.all()",
)
LEAVES_TRAINING = Cause("it calls train() at the end, whatever the mode was before", "restore the mode that was set before")
NO_CROP = Cause(
    "generate does not crop the context to the block size: longer texts end with an error",
    "ids[:, -block_size:] before each call; with a cache, stop there or begin a new one",
)
CROPS_START = Cause(
    "the context is cropped at its end, so the model never sees the tokens it generated",
    "ids[:, -block_size:], with the minus",
)


def end_ignored(name: str) -> Cause:
    return Cause(f"{name} ends nothing: the text goes on after it", "stop where the token is the end of text")


def option_keeps_wrong_tokens(option: str) -> Cause:
    return Cause(
        f"{option} keeps the wrong tokens: its sorting was not undone, or its comparison is inverted",
        "keep the likeliest: all below the k-th become -inf; for top_p, sort, cut, and scatter back",
    )


def removes_likeliest(option: str) -> Cause:
    return Cause(
        f"{option} removes the likeliest tokens instead of the others: its comparison is inverted",
        "logits[logits < kth] = -inf: what is below the k-th goes, not what is above it",
    )


def options_unused(options: Sequence[str]) -> Cause:
    return Cause(
        f"{listed(options)} change nothing: what they make of the logits is not what tokens are drawn by",
        "probs = scores.softmax(-1) of the scores that the options have changed, not of the logits before",
    )


PENALTY_TO_THE_POWER = Cause(
    "the repetition penalty is applied once for each time that a token occurs: one that is there n times is divided n times",
    "once for each token that is there: for id in set(ids), or gather and scatter the scores at ids",
)


def other_row(option: str) -> Cause:
    return Cause(
        f"rows that are drawn together get other tokens than alone: what was drawn with {option} among sorted probabilities is "
        "looked up in the order of the first row",
        "each row in its own order: indices.gather(-1, drawn), not indices[0][drawn]",
    )


SOFTMAX_TWICE = Cause(
    "softmax is taken twice before a token is drawn: all of them become nearly equally likely",
    "torch.multinomial(logits.softmax(-1), 1), with logits, not probabilities, in the softmax",
)
CROSSING_DROPPED = Cause(
    "top_p drops the token that crosses the limit: what is kept has less than top_p",
    "keep the tokens before which the sum is below top_p: cumsum - p < top_p",
)


def keeps_none(option: str) -> Cause:
    keep = {
        "top_p": "keep the tokens before which the sum is below top_p: cumsum - p < top_p, which is true of the first",
        "min_p": "keep what has at least min_p times the probability of the likeliest",
    }.get(option, "keep what is not below the k-th: logits[logits < kth] = -inf")
    return Cause(f"{option} leaves no token to draw: it drops the likeliest too", keep)


def none_left_together(first: str, then: str) -> Cause:
    return Cause(
        f"{first} and {then} together leave no token to draw: {then} sums up what {first} has left, most of it taken away, "
        "and which no longer sum to 1",
        f"{then} before {first}, or a new softmax (log_softmax) of what {first} leaves",
    )


NONE_LEFT = Cause(
    "no token is left to draw: every logit is -inf or NaN, and the largest of them is id 0",
    "let each filter keep the likeliest token, whatever its limit is",
)
BEAMS_APART = Cause(
    "beam search does not reorder the cache: a beam goes on with the keys and values of another, and what it returns is not "
    "what its scores are of",
    "after each step the cache's rows are taken by beam_idx, as the ids' rows are: index_select(0, beam_idx), whatever "
    "the cache is called",
)
BEAMS_OTHERWISE = Cause(
    "beam search goes on with another text than it returns: ids and scores are not reordered alike",
    "ids = ids[beam_idx], then append the new tokens; the same beam_idx for all that belongs to a beam",
)
BEAMS_WORSE = Cause(
    "beam search returns a less likely text than its number of beams would find: scores are not summed, not sorted, or another "
    "beam is returned than the best",
    "scores of a beam = its sum of log_softmax so far + that of the next token; the best of all beams and tokens go on",
)


def other_proportions(option: str) -> Cause:
    return Cause(
        f"the tokens that {option} keeps are drawn in other proportions than their probabilities: a second softmax, say",
        f"one softmax, after {option} has set the other logits to -inf; or divide what is kept by its sum",
    )


def fills(option: str, value: float) -> Cause:
    return Cause(
        f"what {option} drops gets the logit {value:.3g}, not -inf: those tokens are still drawn",
        'logits[logits < kth] = -float("inf")',
    )


def keeps_too_many(option: str, kept: int, right: int) -> Cause:
    how = "is ignored" if kept > 4 * right else "keeps another number of tokens"
    return Cause(f"{option} {how}: {kept} tokens can be drawn, not {right}", "what it drops becomes -inf, before the softmax")


def told_positions(name: str, told: int, right: int) -> Cause:
    return Cause(
        f"generate tells forward the wrong position: {name}={told} where {right} tokens came before",
        f"{name} grows by the number of tokens that were just fed",
    )


FROM_CACHE = "reads from its cache what one pass over the text does not give: keys, values or positions in it are wrong"
APART = Cause(
    "generate does not call forward: it computes the logits by code of its own (a step of the recurrence, a cache), and gets "
    "others than forward from the first new token on, so one of the two is wrong",
    "read one text by both, token by token: compare the state of the first layer after each (a parallel scan against its loop)",
)
OTHER_CONTEXT = "uses another context than its text from the second new token on (a cache, or what it appends)"


def unlike_logits(how: str) -> Cause:
    advice = "take logits[:, -1] of the whole context, argmax, append"
    if "with a fresh cache" in how:
        advice = "an empty cache must change nothing: look what is done only where a cache is given, or twice there"
    if how == FROM_CACHE:
        advice = "compare what the cache holds after the prompt with the keys and values (or states) of one pass over it"
    return Cause(f"generate {how}", advice, vague=how in (FROM_CACHE, OTHER_CONTEXT))


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
    sharpened: bool  # it draws, and for want of a greedy mode the logits were multiplied
    heard: Heard
    telling: Telling
    answered: list[str]  # what else was asked and found right
    loud: list[Verdict]  # what ends with an error, and is told where nothing silent was found

    @property
    def new(self) -> Tensor:
        """(2, n): the new tokens."""
        return self.text[:, -self.n :]


@check("generate", needs=("side effects", "repeats", "rows", "answers"))
@torch.no_grad()
def generate(p: Patient) -> Verdict:
    """generate() continues its prompt, row by row, with what the logits predict."""
    call = detect_generate(p.model, p.generate, p.block)
    if call is None:
        if p.generate is not None:
            return skipped(
                "the given function does not show how many tokens it writes: name it max_new_tokens", Reason.NOT_ASKED
            )
        where = "give a free function as generate=…, or --generate file.py:function"
        return skipped(f"it has no generate(ids, max_new_tokens): {where}")
    is_trained(p)  # of the weights as they are
    if call.unending:  # its default, where what never comes does not do: a buffer that is filled with it, say
        try:
            write(p, call, p.ids(2, 1), 2)
        except ModelError:
            call = dataclasses.replace(call, more={name: value for name, value in call.more.items() if name not in ENDS})
    try:
        call = with_known_count(p, call)
        call = dataclasses.replace(call, greedy=True) if call.greedy or never_draws(p, call) else call
    except ModelError as error:
        return cannot_be_called(error)
    T = max(1, min(8, p.block - 7)) if p.block > 8 else 1
    n = max(6, min(12, p.block - T - 1))  # tokens: enough to find one that another context would change
    table, V = p.interface.token_table, p.interface.out_vocab
    heads = [name for name, x in p.parameters.items() if x.dim() == 2 and V in x.shape and name != table]
    head = p.parameters.get(heads[-1] if heads else table)
    with perturbed(p), Telling(head, V) as telling:
        p.logits(p.ids(PROMPTS, T, seed=4))
        sharpened = telling.begin(1.0 if call.greedy else SHARPER) and not call.greedy
        prompt = telling_prompt(p, T)
        given = prompt.clone()
        try:
            with hearing(p) as heard:
                text, left_training = write(p, call, given, n)
        except ModelError as error:
            return cannot_be_called(error)
        if text is None or text.dim() != 2:
            return skipped("generate returns no ids (B, T)", Reason.NOT_ASKED)
        sample = Sample(p, call, prompt, given, text, left_training, n, sharpened, heard, telling, [], [])
        return next(verdict for question in QUESTIONS if (verdict := question(sample)))


def cannot_be_called(error: ModelError) -> Verdict:
    """Return the verdict on a generate that raises."""
    if isinstance(error.error, TypeError | AttributeError | NotImplementedError):
        return skipped(f"generate could not be called: {error}", Reason.NOT_ASKED, error.where)
    return failed(GENERATE_FAILS, f"generate fails: {error}", error.where)


def never_draws(p: Patient, call: GenerateCall) -> bool:
    """Whether a generate without a greedy mode takes one token after the other without drawing: with other random numbers it
    writes the same, and reads no more rows than it was given (beams)."""
    prompt, texts = p.ids(1, max(1, min(8, p.block - 7)), seed=6), []  # of two rows, the two beams of one look like both
    with perturbed(p):
        for seed in range(TEXTS_COMPARED):
            with hearing(p) as heard:
                texts.append(write(p, call, prompt.clone(), FIRST_STEPS, seed)[0])
            if heard.random or texts[-1] is None or any(len(c.ids) > len(prompt) for c in heard.calls):
                return False
    return len({str(text.tolist()) for text in texts if text is not None}) == 1


def telling_prompt(p: Patient, T: int) -> Tensor:
    """Return a prompt (2, T) whose rows continue differently, and differently than from their first position, or the one before
    the last, as far as one is found."""
    prompts = p.ids(PROMPTS, T, seed=5).clamp(min=1)  # 0 is padding to Hugging Face's generate
    likeliest = p.logits(prompts).argmax(dim=-1)  # (PROMPTS, T)
    last = likeliest[:, -1]
    telling = (likeliest[:, 0] != last).int() + (likeliest[:, max(T - 2, 0)] != last).int()  # (PROMPTS,)
    both = (telling[:, None] + telling) * (last[:, None] != last) + (last[:, None] != last)  # (PROMPTS, PROMPTS)
    one, two = divmod(int(both.argmax()), PROMPTS)
    return prompts[[one, two if two != one else (one + 1) % PROMPTS]]


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


def wrong_positions_told(s: Sample) -> Verdict | None:
    """Return whether generate tells forward positions that are not those of the tokens it feeds."""
    seen = 0
    for i, call in enumerate(s.heard.calls):
        if i and call.ids.shape[1] > 1:
            return None  # no cache
        for name, told in call.starts:
            if isinstance(told, int) and told != seen:
                evidence = f"call {i} of forward inside generate: {call.ids.shape[1]} tokens after {seen}, told {name}={told}"
                return failed(told_positions(name, told, seen), evidence)
        seen += call.ids.shape[1]
    return None


def wrong_inside(s: Sample) -> Verdict | None:
    """Return whether the logits inside generate are those of forward on the same text."""
    if s.prompt.shape[1] + s.n > s.p.block:
        return None
    apart = by_row(s.heard.calls, len(s.prompt), s.n)
    for row, calls in enumerate(apart):
        own = s if len(apart) == 1 else dataclasses.replace(s, prompt=s.prompt[row : row + 1], text=s.text[row : row + 1])
        if problem := logits_differ(own, calls):
            return (goes_on_from_row(own, row, problem) if row else None) or problem
    return None


def by_row(calls: list[InnerCall], rows: int, n: int) -> list[list[InnerCall]]:
    """Return the calls of forward that wrote n tokens to so many rows: one list where they were read together, one for each
    row where they were read one after the other, none where neither fits."""
    if len(calls) in (n, n + 1) and all(len(c.logits) == rows for c in calls):
        return [calls]
    each = len(calls) // rows
    if each not in (n, n + 1) or len(calls) != each * rows or any(len(c.logits) != 1 for c in calls):
        return []
    return [calls[row * each : (row + 1) * each] for row in range(rows)]


def goes_on_from_row(s: Sample, row: int, problem: Verdict) -> Verdict | None:
    """Return whether a row, the only one of `s`, that was written after others and got wrong logits is right alone."""
    with contextlib.suppress(ModelError):
        with hearing(s.p) as heard:
            text, _ = write(s.p, s.call, s.prompt.clone(), s.n)
        if text is not None and len(text) == 1 and by_row(heard.calls, 1, s.n):
            alone = dataclasses.replace(s, text=text, heard=heard)
            return (
                None if logits_differ(alone, heard.calls) else failed(KEEPS_OF_ROW, f"row {row}: {problem.evidence}; alone not")
            )
    return None


def logits_differ(s: Sample, calls: list[InnerCall]) -> Verdict | None:
    """Return whether the logits of calls of forward, one for each new token, are those of one pass over the same text."""
    p, T = s.p, s.prompt.shape[1]
    text = torch.cat([s.prompt, s.new], dim=1)
    with contextlib.suppress(ModelError):
        for i, call in enumerate(calls[: s.n]):
            got, right = last_logits(call, text[:, : T + i]), p.logits(text[:, : T + i])[:, -1]  # alone: it may see the future
            if got.shape != right.shape:
                return None
            change = largest_change(got, right).max().item()
            if change <= OTHER_KERNEL * tolerance(p, right):
                continue
            evidence = f"the logits that it computes for new token {i} differ from forward's on the same text by {change:.3g}"
            other, _ = write(p, s.call, p.changed_tokens(s.prompt), s.n)
            cause = unlike_logits(explain_inside(p, s, call, i, got, other))
            return failed(wrong_step(s) or cause if cause.vague else cause, evidence)
    return None


def wrong_after_long_prompt(s: Sample) -> Verdict | None:
    """Return whether generate, which is right after a short prompt, gets other logits from its cache after a long one: longer
    than a window, or than the cache. To refuse it is no silent fault."""
    p, n = s.p, FIRST_STEPS
    cached = any(c.ids.shape[1] < s.prompt.shape[1] for c in s.heard.calls)
    if not cached or s.call.hugging_face or p.mode == "prefixes" or is_beam_search(s):
        return None
    longest = min(p.block, LONGEST_GENERATED) - n
    lengths = {min(p.interface.long - n, longest)}
    lengths |= {w + 1 for _, w in sizes_stated(p, "window") if w < longest}
    off: dict[int, tuple[int, float]] = {}  # by the length of a prompt: the first new token with other logits, and how far

    def wrong(length: int) -> bool:
        with contextlib.suppress(ModelError):
            prompt = p.ids(len(s.prompt), length, seed=6)
            with hearing(p) as heard:
                text, _ = write(p, s.call, prompt.clone(), n)
            if text is None or text.dim() != 2 or text.shape[1] not in (n, length + n) or len(text) != len(prompt):
                return False
            whole = torch.cat([prompt, text[:, -n:]], dim=1)
            apart = by_row(heard.calls, len(prompt), n)
            for i, (row, calls) in itertools.product(range(n), enumerate(apart)):
                upto = (whole if len(apart) == 1 else whole[row : row + 1])[:, : length + i]
                got, right = last_logits(calls[i], upto), p.logits(upto)[:, -1]
                if got.shape != right.shape:
                    return False
                if (change := largest_change(got, right).max().item()) > OTHER_KERNEL * tolerance(p, right):
                    off[length] = (i, change)
                    return True
        return False

    T = s.prompt.shape[1]
    length = next((length for length in sorted(lengths) if length > T and wrong(length)), None)
    if length is None:
        return None
    fits = bisect.bisect_left(range(length), True, T, length - 1, key=lambda m: wrong(m + 1))
    token, change = off[fits + 1]
    evidence = (
        f"after a prompt of {fits + 1} tokens the logits that it computes for new token {token} differ from forward's on the "
    )
    evidence += f"same text by {change:.3g}; after {fits} they do not"
    return failed(long_prompt(fits, size_stated(p, fits), steps=token > 0), evidence)


def wrong_scores(s: Sample) -> Verdict | None:
    """Return whether generate, where it goes past forward, draws by other numbers than forward's: a cache of its own, say."""
    if s.heard.calls or s.call.hugging_face:
        return None
    factor, s.telling.factor = s.telling.factor, 1.0  # of sharpened logits most probabilities are 0
    try:
        return scores_differ(s)
    finally:
        s.telling.factor = factor


def scores_differ(s: Sample) -> Verdict | None:
    """`wrong_scores`, with logits of their own size."""
    p, T = s.p, s.prompt.shape[1]
    try:
        with hearing(p) as heard:
            text, _ = write(p, dataclasses.replace(s.call, more=neutral(s), greedy=False), s.prompt.clone(), s.n)
    except ModelError:  # it may not take such values
        return None
    scores = [x.float() for x in heard.scores if x.shape == (len(s.prompt), p.interface.out_vocab)]
    if text is None or text.shape[1] not in (s.n, T + s.n) or len(scores) < s.n or not torch.stack(scores).isfinite().all():
        return None
    text = torch.cat([s.prompt, text[:, -s.n :]], dim=1)
    if problem := computed_apart(s, scores[0]):
        return problem
    for i, score in enumerate(scores[: s.n]):
        right = p.logits(text[:, : T + i])[:, -1]
        change = (score.log_softmax(dim=-1) - right.log_softmax(dim=-1)).abs().max().item()
        if change <= OTHER_KERNEL * tolerance(p, right):
            continue
        evidence = f"it draws new token {i} by logarithms of probabilities that differ from forward's by {change:.3g}"
        if (cause := wrong_step(s)) or i:  # the first may be changed on purpose, by what its options do not show
            return failed(cause or unlike_logits(OTHER_CONTEXT), evidence)
        return None
    return None


def last_logits(call: InnerCall, text: Tensor) -> Tensor:
    """Return the logits (B, V) after a text (B, T): at the last position, unless forward was fed a buffer that goes on."""
    T, fed = text.shape[1], call.ids.shape[1]
    filled = call.logits.shape[1] == fed > T and torch.equal(call.ids[:, :T], text)
    return call.logits[:, T - 1 if filled else -1]


def computed_apart(s: Sample, score: Tensor) -> Verdict | None:
    """Return whether the first token is drawn by numbers (B, V) that a way past forward computes, and all of them are others.

    What generate changes on purpose leaves most of them (banned tokens, a penalty), or scales all (a temperature).
    """
    right = s.p.logits(s.prompt)[:, -1]
    allowed = OTHER_KERNEL * tolerance(s.p, right)
    score, right = score.log_softmax(dim=-1), right.log_softmax(dim=-1)
    x, y = (z - z.median(dim=-1, keepdim=True).values for z in (score, right))
    slope = (x * y).sum(dim=-1, keepdim=True) / y.square().sum(dim=-1, keepdim=True).clamp(min=1e-30)
    others = ((x - slope * y).abs() > allowed).float().mean(dim=-1)  # (B,)
    if others.min() < MOST_TOKENS:
        return None
    change = (score - right).abs().max().item()
    evidence = f"it draws new token 0 by logarithms of probabilities that differ from forward's by {change:.3g}"
    return failed(wrong_step(s) or APART, f"{evidence}, at {others.min():.0%} of the tokens")


def explain_inside(p: Patient, s: Sample, call: InnerCall, i: int, got: Tensor, other: Tensor | None) -> str:
    """Return why the logits `got` (B, V) of the i-th call inside generate are not those of forward."""
    T, fed = s.prompt.shape[1], call.ids.shape[1]
    text = torch.cat([s.prompt, s.new], dim=1)[:, : T + i]
    as_fed = largest_change(p.logits(call.ids)[:, -1], got).max().item() <= OTHER_KERNEL * tolerance(p, got)
    if as_fed and fed == 1 and T + i > 1 and torch.equal(call.ids, text[:, -1:]):
        return "feeds only the last token, without a cache: the context is lost"
    if as_fed and fed < T + i and torch.equal(call.ids, text[:, -fed:]):
        return f"sees the last {fed} tokens of {T + i} only: its context is cut below the block size of {p.block}"
    if call.starts and torch.equal(call.ids, text):
        name, told = call.starts[0]
        return f"tells forward other positions than it counts by itself: {name} from {told} on"
    if i == 0 and fed == T and torch.equal(call.ids, text) and call.logits.shape[1] == T and p.T > 1:
        with hearing(p) as heard:
            write(p, s.call, torch.cat([s.prompt[:, :-1], p.changed_tokens(s.prompt[:, -1:])], dim=1), 1)
        moved = heard.calls and largest_change(call.logits[:, 0], heard.calls[0].logits[:, 0]).max() > tolerance(p, got)
        how = SEES_FUTURE if moved else "otherwise than forward does without one"
        with module_answers(p) as answers:
            p.logits(call.ids)
        where = "" if moved else parting(answers, call.answers)
        more = f": {named_module(p, where)} gets the same and computes something else" if where else ""
        return f"reads the prompt, with a fresh cache, {how}{more}"
    if other is not None and torch.equal(s.new, other[:, -s.n :]):
        return "ignores the prompt: another one gives the same text"
    if fed == 1 and i:
        return FROM_CACHE
    return OTHER_CONTEXT if i else "feeds another context than the prompt"


def wrong_step(s: Sample) -> Cause | None:
    """Return what attention inside generate, at its first steps from a cache, does otherwise than in one pass; None: unseen."""
    p, T = s.p, s.prompt.shape[1]
    text = torch.cat([s.prompt, s.new], dim=1)
    for t in range(T, min(T + FIRST_STEPS, text.shape[1], p.block)):
        tape = p.tape(text[:, t : t + 1], start=t)
        with contextlib.suppress(ModelError):
            with tape:
                write(p, s.call, s.prompt.clone(), s.n)
            whole = watch(p, text[:, : t + 1])
            layers = len(whole.attentions)
            tape.attentions = tape.attentions[:layers]
            if cause := explain_cached(tape, whole, t, p, text[:, : t + 1], t - T):
                return cause
    return None


def wrong_probabilities(s: Sample) -> Verdict | None:
    """Return whether tokens are drawn with other probabilities than the logits and an option give."""
    options = [name for name in OPTIONS if name in s.call.names]
    if s.call.hugging_face:
        return None
    if (seen := one_draw(s)) is None:
        s.answered.extend([f"with what probabilities it draws, by {listed(options)}, was not seen"] if options else [])
        return None
    z, drawn = seen
    if not same_odds(z.softmax(dim=-1), drawn):
        if same_odds(z.softmax(dim=-1).softmax(dim=-1), drawn):
            return failed(
                SOFTMAX_TWICE, f"the likeliest token has {z.softmax(-1).max():.3g}, and is drawn with {drawn.max():.3g}"
            )
        s.answered.extend(
            [f"{listed(options)} not compared: what it draws by is not the softmax of its logits"] if options else []
        )
        return None  # by other logits, or with an option that its parameters do not show
    compared: list[str] = []  # options whose draws were seen
    found = [verdict for name in options if (verdict := wrong_draw(s, name, z, compared))]
    without_effect = [v for v in found if v.cause is TEMPERATURE_CANCELS or "is ignored" in v.cause.text]
    if len(without_effect) == len(options) > 1:  # each alone gives the softmax of the logits, as if it were not there
        return failed(options_unused(options), "; ".join(v.evidence for v in without_effect))
    if not found and (verdict := wrong_together(s, z)):
        return verdict
    if not found:
        s.answered.append(f"drawn by the softmax of the logits{f', and by {listed(compared)} as defined' if compared else ''}")
    return found[0] if found else None


def wrong_together(s: Sample, z: Tensor) -> Verdict | None:
    """Return whether top_k and top_p, which keep the right tokens alone, keep others together. The logits are z (B, V).

    Both orders are right: top_p of all probabilities, or of what top_k leaves, which sums to 1 again.
    """
    if not {"top_k", "top_p"} <= set(s.call.names):
        return None
    k, p = min(TRIED_K, z.shape[-1]), TRIED_P
    if (seen := one_draw(s, top_k=k, top_p=p)) is None:
        call = dataclasses.replace(s.call, more=neutral(s) | {"top_k": k, "top_p": p}, greedy=False)
        with contextlib.suppress(ModelError):
            write(s.p, call, s.prompt.clone(), 1)
            return None
        return failed(none_left_together("top_k", "top_p"), f"top_k={k} with top_p={p}: nothing can be drawn")
    z, drawn = seen
    ordered = z.softmax(dim=-1).sort(dim=-1, descending=True).values
    best = ordered[:, :k] / ordered[:, :k].sum(dim=-1, keepdim=True)  # (B, k)
    for row in range(len(z)):
        n = int((drawn[row] > 0).sum())
        if not n or not drawn[row].isfinite().all():
            return failed(none_left_together("top_k", "top_p"), f"row {row}: top_k={k} with top_p={p}: nothing can be drawn")
        of_all, of_best = ((x[row].cumsum(0) - x[row] < p).sum().item() for x in (ordered, best))
        if n < min(k, of_all, of_best) and n != of_best:
            return failed(
                none_left_together("top_k", "top_p"),
                f"row {row}: top_k={k} with top_p={p}: {n} tokens can be drawn, not {min(k, of_all, of_best)}",
            )
    return None


def nothing_left(s: Sample) -> Verdict | None:
    """Return whether options leave no token: argmax of -inf everywhere, or of NaN, is 0."""

    def emptied(scores: list[Tensor]) -> bool:
        fitting = [x for x in scores if x.shape == (len(s.prompt), s.p.interface.out_vocab)]
        return any(bool((~x.isfinite()).all(dim=-1).any()) for x in fitting)

    if s.call.hugging_face or not emptied(s.heard.scores):
        return None
    defaults = {name: x.default for name, x in inspect.signature(s.call.function).parameters.items() if name in OPTIONS}
    options = {name: value for name, value in (defaults | dict(s.call.more)).items() if name in OPTIONS}
    evidence = f"with {listed([f'{name}={value}' for name, value in options.items()])}" if options else "at its first tokens"
    evidence += ": every number that the next token is chosen by is -inf or NaN"
    asked = next((name for name in options if name in s.call.more), "")
    for name in (n for n in options if n != asked and asked):
        call = dataclasses.replace(s.call, more=dict(s.call.more) | {name: neutral(s)[name]})
        with contextlib.suppress(ModelError), hearing(s.p) as heard:
            write(s.p, call, s.prompt.clone(), 1)
            if not emptied(heard.scores):
                return failed(none_left_together(asked, name), evidence)
    return failed(NONE_LEFT, evidence)


def is_beam_search(s: Sample) -> bool:
    """Whether generate reads other numbers of rows than it was given, or says that it goes on with several beams."""
    words = (*s.call.names, getattr(getattr(s.call.function, "func", s.call.function), "__name__", ""))
    return any("beam" in word for word in words) or any(len(c.ids) > len(s.prompt) for c in s.heard.calls)


def wrong_beams(s: Sample) -> Verdict | None:
    """Return whether the text that a beam search returns is none that its beams went on with, or not the best of them."""
    if s.call.hugging_face or not is_beam_search(s):
        return None
    factor, s.telling.factor = s.telling.factor, 1.0  # sharpened, one beam is all that counts
    prompt, T = s.prompt[:1], s.prompt.shape[1]
    try:
        with hearing(s.p) as heard:
            text, _ = write(s.p, s.call, prompt.clone(), s.n)
        calls = heard.calls
        beams = max((len(c.ids) for c in calls), default=1)
        if text is None or text.shape[0] != 1 or text.shape[1] not in (s.n, T + s.n) or beams < 2 or len(calls) < s.n:
            return None
        if len(calls) > s.n + 1:  # several for each token: groups of beams, each by itself
            return None
        text = torch.cat([prompt, text[:, -s.n :]], dim=1)
        for i, call in enumerate(calls[: s.n]):
            so_far = text[:, : T + i]
            right, got = s.p.logits(so_far)[:, -1], last_logits(call, so_far.expand(len(call.ids), -1))
            if got.shape[-1] != right.shape[-1]:
                return None
            nearest = largest_change(got, right.expand_as(got)).min().item()
            if nearest > OTHER_KERNEL * tolerance(s.p, right):
                evidence = f"{beams} beams; for token {i} of what it returns no beam had the logits of that text: the nearest "
                evidence += f"differ by {nearest:.3g}"
                return failed(BEAMS_APART if call.ids.shape[1] == 1 and T + i > 1 else BEAMS_OTHERWISE, evidence)
        score, best = likelihood(s.p, text, s.n), best_of_beams(s.p, prompt, s.n, beams)
    except ModelError:
        return None
    finally:
        s.telling.factor = factor
    if score < best - LESS_LIKELY:
        return warned(
            BEAMS_WORSE, f"{s.n} tokens by {beams} beams: the sum of their log-probabilities is {score:.4g}, not {best:.4g}"
        )
    s.answered.append(f"{beams} beams, each with its own cache or text")
    return None


def likelihood(p: Patient, text: Tensor, n: int) -> float:
    """Return the sum of the log-probabilities of the last n tokens of a text (1, T)."""
    logs = p.logits(text[:, :-1])[0, -n:].float().log_softmax(dim=-1)  # (n, V)
    return logs.gather(-1, text[0, -n:, None]).sum().item()


def best_of_beams(p: Patient, prompt: Tensor, n: int, beams: int) -> float:
    """Return the sum of the log-probabilities of the best n tokens that a beam search finds after a prompt (1, T)."""
    texts, scores = prompt, torch.zeros(1, device=prompt.device)
    for _ in range(n):
        each = scores[:, None] + p.logits(texts)[:, -1].float().log_softmax(dim=-1)  # (beams, V)
        scores, chosen = each.flatten().topk(min(beams, each.numel()))
        rows, tokens = chosen // each.shape[1], chosen % each.shape[1]
        texts = torch.cat([texts[rows], tokens[:, None]], dim=1)
    return scores.max().item()


def neutral(s: Sample) -> dict[str, Any]:
    """Return the options of a call that draws from all tokens, by their logits as they are: some refuse a top_k of all."""
    if NEUTRAL not in s.p.memo:
        for top_k in (s.p.interface.out_vocab, 0, None) if "top_k" in s.call.names else ():
            s.p.memo[NEUTRAL] = {"top_k": top_k}
            with contextlib.suppress(ModelError):
                write(s.p, dataclasses.replace(s.call, more=neutral(s), greedy=False), s.prompt.clone(), 1)
                break
        else:
            s.p.memo[NEUTRAL] = {"top_k": s.p.interface.out_vocab}
    every = DRAWING | NO_PENALTY | dict.fromkeys(TEMPERATURES, 1.0) | dict(top_p=1.0, min_p=0.0) | s.p.memo[NEUTRAL]
    return {name: value for name, value in every.items() if name in s.call.names} | s.call.unending


def one_draw(s: Sample, **options: float) -> tuple[Tensor, Tensor] | None:
    """Return the last logits (B, V) and the probabilities (B, K) of the first draw; None if it was not seen."""
    factor, s.telling.factor = s.telling.factor, 1.0  # sharpened, all but one of the probabilities are 0
    try:
        call = dataclasses.replace(s.call, more=neutral(s) | options, greedy=False)  # it may have to try some
        with hearing(s.p, stilled=True) as heard:
            write(s.p, call, s.prompt.clone(), 1)
        z = last_logits(heard.calls[0], s.prompt) if heard.calls else s.p.logits(s.prompt)[:, -1]
        if len(z) < len(s.prompt):  # row by row
            rows = zip(heard.calls, s.prompt, strict=False)
            z = torch.cat([last_logits(call, row[None]) for call, row in rows])
        if len(z) != len(s.prompt):
            return None
    except ModelError:  # it may not take such a value
        return None
    finally:
        s.telling.factor = factor
    if (drawn := of_all_rows(heard.draws, len(s.prompt))) is None:
        return None
    drawn = drawn.float()
    return z.float(), drawn / drawn.sum(dim=-1, keepdim=True)


def of_all_rows(seen: list[Tensor], rows: int) -> Tensor | None:
    """Return the first of the numbers (B, K) that a token was chosen by, or those of all rows where it is done row by row."""
    if seen and seen[0].dim() == 2 and len(seen[0]) == rows:
        return seen[0]
    single = len(seen) == rows and len({x.shape for x in seen}) == 1 and seen[0].dim() == 2 and len(seen[0]) == 1
    return torch.cat(seen) if single else None


def same_odds(right: Tensor, drawn: Tensor) -> bool:
    """Whether probabilities, (B, V) and (B, K), are the same in whatever order, as far as both go."""
    right, drawn = (x.sort(dim=-1, descending=True).values for x in (right, drawn))
    return torch.allclose(right[:, : drawn.shape[-1]], drawn[:, : right.shape[-1]], rtol=SAME_LOG, atol=PROBABILITIES)


def wrong_draw(s: Sample, option: str, z: Tensor, compared: list[str]) -> Verdict | None:
    """Return whether one option, alone, gives other probabilities than it should; None too where no draw was seen, and where it
    was the option is among those `compared`. The logits z (B, V) are those of the draw without it."""
    value = tried_value(option, z)
    if (seen := one_draw(s, **{option: value})) is None:
        return leaves_none(s, option, value, z)
    compared.append(option)
    if option in TEMPERATURES:
        return judge_temperature(s, option, value, *seen)
    few = z.softmax(dim=-1).amax(dim=-1).min().item() / 2  # below what the likeliest token has
    return judge_cut(s, option, value, *seen) or (leaves_none(s, option, few, z) if option == "top_p" else None)


def tried_value(option: str, z: Tensor) -> float:
    """Return a value of an option by which, of the first row of logits z (B, V), a few tokens stay, and rounding moves none."""
    p = z[0].softmax(dim=-1).sort(descending=True).values
    kept = [k for k in (3, 2, 4, 5) if k < len(p)]
    if option == "top_p":  # the k-th token crosses it half-way
        return next(((p[: k - 1].sum() + p[k - 1] / 2).item() for k in kept if p[k - 1] > 2 * CLEAR_OF_LIMIT), TRIED_P)
    if option == "min_p":  # between the k-th token and the next
        return next(
            ((p[k - 1] + p[k]).item() / (2 * p[0].item()) for k in kept if p[k - 1] > (1 + 4 * CLEAR_OF_LIMIT) * p[k]), TRIED_P
        )
    return TRIED_TEMPERATURE if option in TEMPERATURES else min(TRIED_K, len(p))


def leaves_none(s: Sample, option: str, value: float, z: Tensor) -> Verdict | None:
    """Return whether an option with a value that it may well have leaves nothing to draw from."""
    call = dataclasses.replace(s.call, more=neutral(s) | {option: value}, greedy=False)
    try:
        write(s.p, call, s.prompt.clone(), 1)
    except ModelError as error:
        if isinstance(error.error, RuntimeError) and ("multinomial" in str(error.error) or "probability" in str(error.error)):
            likeliest = z.softmax(dim=-1).amax(dim=-1).min()
            return failed(
                keeps_none(option), f"{option}={value:.3g}, the likeliest token has {likeliest:.3g}: {error}", error.where
            )
    return None


def judge_temperature(s: Sample, option: str, value: float, z: Tensor, drawn: Tensor) -> Verdict | None:
    """Return whether logarithms of probabilities drawn (B, K) rise with logits z (B, V) as a temperature says: by 1 / value."""
    probs, logits = (x.sort(dim=-1, descending=True).values for x in (drawn, z))
    some = min(probs.shape[-1], 8)
    logs, steps = probs[:, :some].clamp(min=1e-30).log(), logits[:, :some]
    logs, steps = logs[:, :1] - logs[:, 1:], steps[:, :1] - steps[:, 1:]  # (B, some - 1): below the likeliest
    slopes = (logs / steps.clamp(min=1e-6))[(steps > SAME_LOG) & (logs < UNLIKELY)]
    if not slopes.numel():
        return None
    evidence = (
        f"{option}={value}: two logits that differ by 1 get probabilities that differ by a factor of exp({slopes.median():.3g})"
    )
    rules = ((1 / value, None), (1.0, TEMPERATURE_CANCELS), (value, TEMPERATURE_MULTIPLIED), (1 / value**2, TEMPERATURE_TWICE))
    for slope, cause in rules:
        if ((slopes - slope).abs() < SAME_LOG * slope).all():
            return failed(cause, f"{evidence}, not exp({1 / value:.3g})") if cause else None
    return warned(TEMPERATURE_OTHERWISE, f"{evidence} in the middle, {slopes.min():.3g} to {slopes.max():.3g} in all")


def judge_cut(s: Sample, option: str, value: float, z: Tensor, drawn: Tensor) -> Verdict | None:
    """Return whether probabilities drawn (B, K) keep those tokens of the logits z (B, V) that top_k, top_p or min_p says, and
    in their proportion."""
    order = z.sort(dim=-1, descending=True)
    p_sorted = order.values.softmax(dim=-1)
    before = p_sorted.cumsum(dim=-1) - p_sorted  # (B, V): of all likelier ones
    least = value * p_sorted[:, :1] if option == "min_p" else p_sorted
    right = {
        "top_k": torch.full((len(z),), int(value)),
        "top_p": (before < value).sum(dim=-1),  # the smallest set that sums to top_p: what crosses it is in
        "min_p": (p_sorted >= least).sum(dim=-1),
    }[option].tolist()
    limit = {"top_k": None, "top_p": (before + p_sorted - value, before - value), "min_p": (p_sorted / least - 1,)}[option]
    for row, keep in enumerate(right):
        kept = drawn[row] > 0
        n = int(kept.sum())
        evidence = f"row {row}: with {option}={value:.3g}, {n} of {z.shape[-1]} tokens can be drawn"
        best = order.indices[row, :n]
        full = drawn.shape[-1] == z.shape[-1] and not is_sorted(drawn)
        # where rounding may decide whether a token is beyond the limit, one more or less is right
        slack = int(limit is not None and min(x[row].abs().min().item() for x in limit) < CLEAR_OF_LIMIT)
        if n > keep + slack and full:
            outside = drawn[row, order.indices[row, keep + slack :]]
            fill = outside.log() - drawn[row, best[0]].log() + order.values[row, 0]  # the logit that gives such a probability
            if n == z.shape[-1] and (outside.log().amax() - outside.log().amin()) < SAME_LOG:
                return failed(fills(option, round(fill.median().item(), 3) + 0.0), evidence)
        by_logit = full and not torch.equal(kept.nonzero().flatten(), best.sort().values)
        if by_logit and n < z.shape[-1]:
            cause = removes_likeliest(option) if inverted(z[row], kept) else option_keeps_wrong_tokens(option)
            return failed(cause, f"{evidence}, and not the likeliest of them")
        if abs(n - keep) > slack:
            if option == "top_p" and n == keep - 1:
                sums = f"{p_sorted[row, :n].sum():.3g} together; with the next one it would be {p_sorted[row, :keep].sum():.3g}"
                return failed(CROSSING_DROPPED, f"{evidence}, which have {sums}")
            return failed(keeps_too_many(option, n, keep), evidence)
        if not same_odds(p_sorted[row : row + 1, :n] / p_sorted[row, :n].sum(), drawn[row : row + 1]):
            odds = [float(x[0] / x[-1]) for x in (p_sorted[row, :n], drawn[row].sort(descending=True).values[:n])]
            return failed(
                other_proportions(option),
                f"{evidence}; the likeliest {odds[1]:.3g} times as often as the last, not {odds[0]:.3g}",
            )
    return wrong_lookup(s, option, value, z, right) if drawn.shape[-1] < z.shape[-1] or is_sorted(drawn) else None


def is_sorted(drawn: Tensor) -> bool:
    """Whether probabilities (B, K) come in their order, up or down: then their places are no tokens yet."""
    steps = drawn.diff(dim=-1)
    return bool((steps >= 0).all() or (steps <= 0).all())


def wrong_lookup(s: Sample, option: str, value: float, z: Tensor, right: list[int]) -> Verdict | None:
    """Return whether tokens that were drawn among sorted probabilities are others than those that an option keeps, of which
    there are `right` many in each row of the logits z (B, V)."""
    call = dataclasses.replace(s.call, more=neutral(s) | {option: value}, greedy=False)
    factor, s.telling.factor = s.telling.factor, 1.0
    texts = []
    try:
        for seed in range(TEXTS_DRAWN):
            texts.append(write(s.p, call, s.prompt.clone(), 1, seed)[0])
    except ModelError:
        return None
    finally:
        s.telling.factor = factor
    new = [text[:, -1] for text in texts if text is not None and text.dim() == 2 and len(text) == len(z)]
    order = z.argsort(dim=-1, descending=True)
    kept = [set(order[row, : right[row] + 1].tolist()) for row in range(len(z))]  # one more, for rounding
    outside = [sum(int(tokens[row]) not in kept[row] for tokens in new) for row in range(len(z))]
    if not any(outside):
        return None
    row = next(row for row, n in enumerate(outside) if n)
    evidence = f"with {option}={value:.3g} row {row} gets a token outside of the {right[row]} likeliest in {outside[row]} of "
    evidence += f"{len(new)} draws"
    if outside[0]:
        return failed(option_keeps_wrong_tokens(option), evidence)
    of_first = sum(int(tokens[row]) in kept[0] for tokens in new)
    return failed(other_row(option), f"{evidence}, row 0 in none; {of_first} of them are among the likeliest of row 0")


def wrong_penalty(s: Sample) -> Verdict | None:
    """Return whether a repetition penalty makes a token that is there already likelier, or counts how often it is there."""
    option = next((name for name in NO_PENALTY if name in s.call.names), "")
    if not option or s.call.hugging_face:
        return None
    prompt, seen = s.prompt.clone(), []
    if prompt.shape[1] > 3:
        prompt[:, 2] = prompt[:, 0]  # a token that is there twice
    for value in (1.0, TRIED_PENALTY):
        try:
            with hearing(s.p) as heard:
                write(s.p, dataclasses.replace(s.call, more=neutral(s) | {option: value}), prompt.clone(), 1)
        except ModelError:  # it may not take such a value
            return None
        fitting = of_all_rows([x for x in heard.scores if x.shape[-1] == s.p.interface.out_vocab], len(prompt))
        if fitting is None:
            return None
        seen.append(fitting.float())
    plain, punished = seen
    if is_sorted(plain):  # by their place, not by token
        return None
    z = s.p.logits(prompt)[:, -1]
    for row, ids in enumerate(prompt):
        there = torch.zeros(plain.shape[1], dtype=torch.bool, device=plain.device)
        there[ids] = True
        known = plain[row].isfinite() & punished[row].isfinite()
        if not (known & ~there).any():
            return None
        change = punished[row] - plain[row]
        change = change - change[known & ~there].median()  # a distribution is normalised again
        raised = known & there & (change > SAME_LOG)
        if raised.any():
            token = int(change.masked_fill(~raised, 0).argmax())
            evidence = (
                f"{option}={TRIED_PENALTY:g}: token {token}, which is in the text, gains {change[token]:.2g} on the others"
            )
            return failed(PENALTY_INVERTED, f"{evidence}; its logit is {z[row, token]:.2g}")
        if problem := penalised_often(ids, z[row], change, known):
            return failed(PENALTY_TO_THE_POWER, f"{option}={TRIED_PENALTY:g}: {problem}")
    return None


def penalised_often(ids: Tensor, z: Tensor, change: Tensor, known: Tensor) -> str:
    """Return evidence that the logits z (V,) of tokens that are n times in ids (T,) change as if they were punished n times,
    and those of the others once, "" if they do not."""

    def lost(token: int, times: int) -> float:
        factor = float(TRIED_PENALTY) ** times
        return float(z[token] / factor - z[token] if z[token] > 0 else z[token] * factor - z[token])

    counts = {
        int(t): int(n) for t, n in zip(*ids.unique(return_counts=True), strict=True) if known[t] and z[t].abs() > SAME_LOG
    }
    once = [t for t, n in counts.items() if n == 1]
    several = [t for t, n in counts.items() if n > 1]

    def fits(token: int, times: int) -> bool:
        return abs(float(change[token]) - lost(token, times)) < SAME_LOG * abs(lost(token, times))

    if not several or not once or not all(fits(t, 1) for t in once) or not all(fits(t, counts[t]) for t in several):
        return ""
    token = several[0]
    return f"token {token}, {counts[token]} times in the text, loses {-change[token]:.3g}, not {-lost(token, 1):.3g}"


def wrong_end(s: Sample) -> Verdict | None:
    """Return whether, told that one of its own tokens ends a text, generate ends other rows, or does not end that one.

    An ended row holds one token, whichever, to the end of the text; the others go on as if nothing had happened.
    """
    name, T, n = next((x for x in ENDS if x in s.call.names), ""), s.prompt.shape[1], s.n
    if not name or s.call.hugging_face or not s.call.greedy or (found := ending(s.new)) is None:
        return None
    token, ends, i, until = found
    call = dataclasses.replace(s.call, more=dict(s.call.more) | {name: token})
    whole = s.text.shape[1] == T + n  # whether it returns the prompt too

    def written(rows: Tensor) -> Tensor | None:
        """The new tokens (B, m) of a call with this end of text."""
        with contextlib.suppress(ModelError):  # it may take one row only, or end in another way
            text, _ = write(s.p, call, rows.clone(), n)
            if text is not None and text.dim() == 2 and len(text) == len(rows):
                return text[:, T:] if whole else text
        return None

    evidence = f"{name}={token}, which row {ends} writes as new token {i}"
    alone = written(s.prompt[ends : ends + 1])
    if alone is not None and torch.equal(alone[0], s.new[ends]):
        return warned(end_ignored(name), f"{evidence}: alone, it goes on to {n} tokens all the same")
    text = written(s.prompt)
    if text is None:
        return None
    other, m = s.new[1 - ends, :until], min(until, text.shape[1])
    differs = (text[1 - ends, :m] != other[:m]).nonzero().flatten()
    first = int(differs[0]) if len(differs) else m
    if first < until and len(text[1 - ends, first:].unique()) <= 1:
        return failed(ENDS_ALL, f"{evidence}: row {1 - ends}, which goes on to {until} tokens, is ended after {first}")
    if first < until:
        return failed(ENDED_MOVES, f"{evidence}: from new token {first} on row {1 - ends} is another than without it")
    rest = text[ends, i + 1 :]
    if len(rest) > 1 and len(rest.unique()) > 1:
        return warned(GOES_ON, f"{evidence}: it writes {len(rest.unique())} different tokens after that")
    s.answered.append(f"{name} ends a row and not the other")
    return None


def ending(new: Tensor) -> tuple[int, int, int, int] | None:
    """Return a token that ends one row of new (2, n) long before the other, that row, where, and where the other is ended (n if
    it is not); None if all tokens come again and again. What follows in that row would be other tokens."""
    best, n = None, new.shape[1]
    for row in (0, 1):
        for i in range(n - FEWEST_AFTER_END):
            token = int(new[row, i])
            until = next((j for j in range(n) if new[1 - row, j] == token), n)
            known = bool((new[row, :i] == token).any())
            if known or len(new[row, i + 1 : until].unique()) < 2 or until - i <= FEWEST_AFTER_END:
                continue
            if best is None or until - i > best[3] - best[2]:
                best = (token, row, i, until)
    return best


def wrong_padding(s: Sample) -> Verdict | None:
    """Return whether texts of different lengths, padded on the left, are continued otherwise together than each of them alone.

    Padding is told by a mask, or by its id. Where the id hides nothing while the prompt is read, it has another use.
    """
    p, T = s.p, s.prompt.shape[1]
    names = (*s.call.names, *(p.names if s.call.hugging_face else ()))
    mask = next((name for name in MASKS if name in names), "")
    by_id = "" if s.call.hugging_face else next((name for name in PADDING_NAMES if name in s.call.names), "")
    told = mask or by_id
    if not told or p.block < T + PADDED + FIRST_STEPS:
        return None
    texts = [s.prompt[0], torch.cat([p.ids(1, PADDED - 1, seed=3)[0].clamp(min=1), s.prompt[1]])]
    pads = [token for token in range(p.vocab) if mask or not any((x == token).any() for x in texts)][:2]
    plain, ways = steps_of(s, texts[:1], T, 0), (False, True) if mask else (None,)
    for inverted in ways if plain and len(pads) > 1 else ():  # what is hidden may be what the mask is 1 for
        steps = functools.partial(steps_of, s, name=told, inverted=inverted)
        alone = [found for text in texts if (found := steps([text], len(text), pads[0])) is not None]
        if plain and len(alone) == 2 and same_steps(p, plain, alone[0]):
            break
    else:
        return None
    together = steps(texts, T + PADDED, pads[0])
    if together is None:
        return None
    for i, row in itertools.product(range(FIRST_STEPS), (0, 1)):
        right, got = alone[row], together.row(row)
        if not torch.equal(right.new[:, :i], got.new[:, :i]) or (not mask and bool((got.new == pads[0]).any())):
            return None
        change = largest_change(right.logits[i], got.logits[i]).max().item()
        if change <= OTHER_KERNEL * tolerance(p, right.logits[i]):
            continue
        if i == 0 and (s.call.hugging_face or not mask):
            return None
        other, own = steps(texts, T + PADDED, pads[1]), steps([texts[row]], T + PADDED, pads[0])
        seen = other is not None and largest_change(got.logits[i], other.row(row).logits[i]).max() > tolerance(p, got.logits[i])
        evidence = f"prompts with {PADDED} and 1 tokens of padding on the left, told by {told}: the logits of new token"
        evidence += f" {i} of row {row} differ by {change:.3g} from those of the prompt alone"
        if i == 0:
            return warned(PADDING_SEEN if seen else PADDING_MOVES, evidence)
        fits = own is not None and largest_change(right.logits[i], own.logits[i]).max() <= OTHER_KERNEL * tolerance(
            p, got.logits[i]
        )
        cause = PADDING_OF_ANOTHER if fits else DECODING_SEES_PADDING if seen else DECODING_COUNTS_PADDING
        return failed(cause, f"{evidence}; those before are the same")
    s.answered.append("prompts of different lengths, padded on the left, are continued as each alone")
    return None


@dataclasses.dataclass(frozen=True)
class Steps:
    """What tokens were chosen by, and the new tokens (B, n)."""

    logits: list[Tensor]  # (B, V) for each
    new: Tensor

    def row(self, number: int) -> Steps:
        return Steps([x[number : number + 1] for x in self.logits], self.new[number : number + 1])


def steps_of(
    s: Sample, texts: list[Tensor], width: int, pad: int, name: str = "", inverted: bool | None = None
) -> Steps | None:
    """Return the first steps of generate on these texts, padded on the left with `pad` to a width, as an argument `name` says:
    a mask, in either sense, or, for None, the id. None if they were not seen."""
    n, ids = FIRST_STEPS, s.prompt.new_full((len(texts), width), pad)
    keep = torch.zeros_like(ids)
    for row, prompt in enumerate(texts):
        ids[row, width - len(prompt) :], keep[row, width - len(prompt) :] = prompt, 1
    keep = 1 - keep if inverted else keep
    told = pad if inverted is None else keep if name == "attention_mask" else keep.bool()
    more = dict(s.call.more) | ({name: told} if name else {}) | ({"use_cache": True} if s.call.hugging_face else {})
    try:
        with hearing(s.p) as heard:
            text, _ = write(s.p, dataclasses.replace(s.call, more=more), ids.clone(), n)
    except ModelError:
        return None
    if text is None or text.dim() != 2 or text.shape[0] != len(texts) or text.shape[1] not in (n, width + n):
        return None
    new = text[:, -n:]
    whole = torch.cat([ids, new], dim=1)
    logits: list[Tensor] = [x.float() for x in heard.scores]  # where it goes past forward
    if heard.calls:
        logits = [last_logits(call, whole[:, : width + i]) for i, call in enumerate(heard.calls[:n])]
    fine = len(heard.calls) in (0, n, n + 1) and len(logits) >= n and all(x.isfinite().all() for x in logits[:n])
    shape = (len(texts), s.p.interface.out_vocab)
    return Steps(logits[:n], new) if fine and all(x.shape == shape for x in logits[:n]) else None


def same_steps(p: Patient, one: Steps, other: Steps) -> bool:
    pairs = list(zip(one.logits, other.logits, strict=True))
    return all(bool(largest_change(a, b).max() <= OTHER_KERNEL * tolerance(p, a)) for a, b in pairs)


def builds_graph(s: Sample) -> Verdict | None:
    """Return whether generate builds a graph when nobody else forbids it, and whether it keeps that of each step."""
    if s.p.generate is not None or s.call.hugging_face:  # a free function may leave that to its caller
        return None
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()
    counts: list[int] = []  # of tensors that graphs hold, after each call of forward

    def keep(tensor: Tensor) -> Kept:
        alive.add(kept := Kept(tensor.detach()))  # or a graph would hold itself
        return kept

    if isinstance(s.p.model, torch.jit.ScriptModule):
        return None
    hook = s.p.model.register_forward_hook(lambda *_: counts.append(len(alive)))
    try:
        with torch.enable_grad(), contextlib.suppress(ModelError), torch.autograd.graph.saved_tensors_hooks(keep, Kept.get):
            write(s.p, s.call, s.prompt.clone(), GRAPH_STEPS)
    finally:
        hook.remove()
    if not counts or counts[0] == 0:
        return None
    if len(counts) == GRAPH_STEPS and counts[-1] > (GRAPH_STEPS - 1) * counts[0]:
        evidence = (
            f"{counts[0]:,} tensors are held by the graph after its first call of forward, {counts[-1]:,} after {len(counts)}"
        )
        return failed(KEEPS_GRAPH, evidence)
    return warned(BUILDS_GRAPH, f"called without torch.no_grad(), each of {len(counts)} calls of forward builds a graph")


class Kept:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def get(self) -> Tensor:
        return self.tensor


def drops_while_generating(s: Sample) -> Verdict | None:
    """Return whether generate drops, with a trained model that was handed over in training mode."""
    if not s.p.came_in_training or s.call.hugging_face or not is_trained(s.p):
        return None
    s.p.model.train()
    with contextlib.suppress(ModelError), hearing(s.p) as heard:
        write(s.p, s.call, s.prompt.clone(), 2)
    s.p.model.eval()
    if not any(call.training for call in heard.calls):
        return None
    rate = max(m.p for m in s.p.model.modules() if isinstance(m, nn.Dropout)) if has_dropout(s.p) else 0.0
    return warned(DROPS_WHILE_GENERATING, f"handed over in training mode, trained: generate runs with dropout ({rate:g})")


def has_dropout(p: Patient) -> bool:
    return any(isinstance(m, nn.Dropout) for m in p.model.modules())


def not_repeatable(s: Sample) -> Verdict | None:
    """Return whether two more calls, with the same random numbers and with others, write other texts."""
    try:
        texts = [write(s.p, s.call, s.prompt.clone(), s.n, seed)[0] for seed in (0, 1)]
    except ModelError as error:
        return failed(KEEPS_STATE, f"called once more with the same prompt, it fails: {error}", error.where)
    again, other = (text is not None and torch.equal(s.new, text[:, -s.n :]) for text in texts)
    if problem := goes_on_from_before(s):
        return problem
    if s.call.greedy and not again:
        return failed(KEEPS_STATE, "two greedy calls, with the same random numbers too, give different texts")
    if s.call.greedy and not other:
        if problem := likeliest_removed(s):
            return problem
        asked = listed([f"{name}={value!r}" for name, value in s.call.more.items()])
        return failed(DRAWS, f"two calls{f' with {asked}' if asked else ''} give different texts")
    if not s.sharpened and not other:
        tokens = f"{s.n} tokens after a prompt of {s.prompt.shape[1]}, two rows"
        return passed(f"{tokens}; it draws, and its logits could not be made larger: the tokens are not compared")
    return None


def goes_on_from_before(s: Sample) -> Verdict | None:
    """Return whether the same prompt, with the same random numbers, gets other logits after another text than after its own.

    Where other tokens are fed the second time (what is kept of a prefix is not read again) nothing is compared."""
    heard: list[Heard] = []
    try:
        for prompt in (s.prompt, s.p.changed_tokens(s.prompt), s.prompt):
            with hearing(s.p) as now:
                write(s.p, s.call, prompt.clone(), FIRST_STEPS)
            heard.append(now)
    except ModelError:
        return None
    own, _, other = heard
    pairs = [
        (a.logits[:, -1], b.logits[:, -1], torch.equal(a.ids, b.ids)) for a, b in zip(own.calls, other.calls, strict=False)
    ]
    if not own.calls and not other.calls:  # it goes past forward
        pairs = [(a, b, True) for a, b in zip(own.scores, other.scores, strict=False)]
    for i, (a, b, same_ids) in enumerate(pairs):
        if not same_ids or a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return None
        if (change := largest_change(a, b).max().item()) > OTHER_KERNEL * tolerance(s.p, a):
            evidence = (
                f"the same prompt, after itself and after another: the logits of call {i} of forward differ by {change:.3g}"
            )
            return failed(KEEPS_PREVIOUS, evidence)
    return None


def likeliest_removed(s: Sample) -> Verdict | None:
    """Return whether top_k removes the likeliest tokens; asked to keep one, it does nothing then, as none is above that one."""
    k = min(TRIED_K, s.p.interface.out_vocab)
    if "top_k" not in s.call.more or (seen := one_draw(s, top_k=k)) is None:
        return None
    z, drawn = seen
    if drawn.shape != z.shape or is_sorted(drawn):
        return None
    for row, kept in enumerate(drawn > 0):
        if n := inverted(z[row], kept):
            evidence = f"row {row}: with top_k={k}, {n} of {z.shape[-1]} tokens can be drawn, and not the likeliest of them"
            return failed(removes_likeliest("top_k"), evidence)
    return None


def inverted(z: Tensor, kept: Tensor) -> int:
    """Return how many tokens are kept if they are those with the lowest logits of z (V,), 0 if they are others."""
    n = int(kept.sum())
    return n if n < len(z) and torch.equal(kept.nonzero().flatten(), z.argsort()[:n].sort().values) else 0


def not_likeliest(s: Sample) -> Verdict | None:
    """Return whether the text is another than the logits predict."""
    of = f"its text, with logits {SHARPER} times as large," if s.sharpened else "its greedy text"
    wrong = unlikely_token(s.p, s.prompt, s.new, s.call, of)
    if not wrong:
        return None
    other = None
    with contextlib.suppress(ModelError):
        other, _ = write(s.p, s.call, s.p.changed_tokens(s.prompt), s.n)
    cause = unlike_logits(explain_text(s.p, s.prompt, s.new, other))
    return failed(wrong_step(s) or cause if cause.vague else cause, wrong)


def leaves_training_mode(s: Sample) -> Verdict | None:
    return failed(LEAVES_TRAINING, "generate leaves the model in training mode") if s.left_training else None


def wrong_crop(s: Sample) -> Verdict | None:
    """Return whether a prompt of block_size tokens is too long for it, or the context after that is not the end of the text."""
    p, last_position = s.p, s.p.interface.last_position
    long, jitted = p.block > LONGEST_GENERATED, isinstance(p.model, torch.jit.ScriptModule)
    not_followed = f"past {p.block:,} tokens, its block size, it was not followed"
    too_long = p.block > LONGEST_PROMPT  # what the sampler itself does with so many tokens may take long
    if s.call.hugging_face or jitted or too_long or is_beam_search(s) or (not long and length_problem(p)):
        s.answered.append(not_followed)
        return None
    accepts = last_position is None and not long and (p.block == 1 or p.accepts(p.block + 1))
    prompt = p.ids(1, p.block, seed=4)
    try:
        with fed(p) as lengths, reading_ends(p) if long or accepts else contexts_read(p) as contexts:
            text, _ = write(p, s.call, prompt.clone(), 3)
    except ModelError as error:
        if long or accepts or (last_position is None and isinstance(error.error, AssertionError | ValueError)):
            s.answered.append(not_followed)
            return None  # on purpose, or because of what was read of it
        read = lengths or [context.shape[-1] for context in contexts]  # it may go past forward's hooks
        if len(read) > 1 and read[-1] == 1 < read[0]:
            s.answered.append(f"past {p.block} tokens, where its cache has no more positions, it ends with {error}")
            return None  # a cache cannot be cropped: whoever reads from one stops there
        loud = f"from a prompt of block_size = {p.block} tokens it fails: {error}"
        s.loud.append(
            dataclasses.replace(warned(NO_CROP, loud), where=error.where)
        )  # nobody overlooks it: what is silent is first
        return None
    if text is None or len(contexts) != 3:
        s.answered.append(not_followed)
        return None
    text = torch.cat([prompt, text[:, -3:]], dim=1)  # (1, block + 3)
    for new, context in enumerate(contexts):
        T, end = context.shape[-1], p.block + new
        if new and 1 < T < end and torch.equal(context, text[:, :T]) and not torch.equal(context, text[:, end - T : end]):
            return failed(CROPS_START, f"after {end} tokens its context is tokens 0 to {T - 1}, not the last {T}")
    return None


@contextlib.contextmanager
def fed(p: Patient) -> Iterator[list[int]]:
    """Note how many tokens forward is given in the block, where it fails too."""
    lengths: list[int] = []

    def note(module, args, named) -> None:
        given = dict(zip(p.names, args, strict=False)) | named
        ids = next((x for x in given.values() if isinstance(x, Tensor) and not x.is_floating_point() and x.dim() == 2), None)
        lengths.extend([] if ids is None else [ids.shape[1]])

    hook = p.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        hook.remove()


@contextlib.contextmanager
def contexts_read(p: Patient) -> Iterator[list[Tensor]]:
    """Note what the token table is asked for in the block."""
    contexts: list[Tensor] = []
    table = p.model.get_submodule(p.interface.token_table.rpartition(".")[0])
    hook = table.register_forward_pre_hook(lambda module, args: contexts.extend(x.detach().clone() for x in args[:1]))
    try:
        yield contexts
    finally:
        hook.remove()


@contextlib.contextmanager
def reading_ends(p: Patient) -> Iterator[list[Tensor]]:
    """Note what forward is given in the block, and have it read only the last tokens of that: what it answers does not matter,
    and a long text takes no time. What goes past forward to the whole of it fails."""
    contexts: list[Tensor] = []

    def shorten(module, args, named):
        given = dict(zip(p.names, args, strict=False)) | named
        ids = next((x for x in given.values() if isinstance(x, Tensor) and not x.is_floating_point() and x.dim() == 2), None)
        if ids is None:
            return None
        contexts.append(ids.detach().clone())
        short = [ids[:, -READ_OF_LONG:] if x is ids else x for x in (*args, *named.values())]
        return tuple(short[: len(args)]), dict(zip(named, short[len(args) :], strict=True))

    def refuse(module, args):
        if any(isinstance(x, Tensor) and x.shape[-1] > READ_OF_LONG for x in args):
            raise ModelError("it goes past what was watched")

    table = p.model.get_submodule(p.interface.token_table.rpartition(".")[0])
    hooks = [p.model.register_forward_pre_hook(shorten, with_kwargs=True), table.register_forward_pre_hook(refuse)]
    try:
        yield contexts
    finally:
        for hook in hooks:
            hook.remove()


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
            return failed(TEMPERATURE_IGNORED if option in TEMPERATURES else option_keeps_wrong_tokens(option), wrong)
    return None


def all_well(s: Sample) -> Verdict:
    if s.loud:
        return s.loud[0]
    calls = number_of(len(s.heard.calls), "call")
    compared = s.prompt.shape[1] + s.n <= s.p.block and by_row(s.heard.calls, len(s.prompt), s.n)
    inside = f"; the logits of its {calls} of forward are right, too" if compared else ""
    inside += "".join(f"; {answer}" for answer in s.answered)
    if s.sharpened:
        how = f"it draws; with logits {SHARPER} times as large none is {UNLIKELY:g} nats less likely than the likeliest"
        return passed(f"{s.n} tokens, two rows: {how}{inside}")
    return passed(f"{s.n} greedy tokens, two rows: equal to taking the likeliest by hand{inside}")


# the first verdict counts
QUESTIONS = (
    *(
        wrong_form,
        wrong_positions_told,
        nothing_left,
        wrong_probabilities,
        wrong_penalty,
        wrong_beams,
        not_repeatable,
        wrong_inside,
        wrong_after_long_prompt,
        wrong_scores,
    ),
    not_likeliest,
    *(leaves_training_mode, wrong_padding, wrong_crop, wrong_option, wrong_end, builds_graph, drops_while_generating, all_well),
)


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
        return OTHER_CONTEXT
    if likeliest[0, -1] != likeliest[1, -1] and first[0] == first[1] and first[0] in likeliest[:, -1]:
        return "gives every row the token of one row: its argmax runs over the batch too"
    if torch.equal(first, logits[:, -1].argmin(dim=-1)):
        return "takes the least likely token: a sign is wrong"
    if prompt.shape[1] > 1 and torch.equal(first, likeliest[:, -2]):
        return "takes the logits of the position before the last"
    return "does not take the likeliest token of the last position"
