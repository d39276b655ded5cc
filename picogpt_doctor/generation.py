"""Checks of generation: generate() continues its prompt with what the logits predict, and draws as its options say."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import explain_cached
from .causality import length_problem
from .patient import BLOCKS, CACHES, EMPTY_CACHE, POSITIONS_GIVEN, ModelError, Patient, model_code, set_seed, tensors_in
from .probes import (
    FIRST_STEPS,
    GRAPH_STEPS,
    LONGEST_GENERATED,
    MOST_TOKENS,
    NEAR_TIE,
    OTHER_KERNEL,
    PROBABILITIES,
    PROMPTS,
    SAME_LOG,
    SHARPER,
    TEXTS_COMPARED,
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
from .report import Cause, Reason, Verdict, failed, passed, skipped, warned
from .tape import Telling
from .values import MASKS, PADDED, PADDING_MOVES, PADDING_SEEN

# ----- how generate is called

FUNCTIONS = ("generate", "sample")
COUNTS = ("max_new_tokens", "n_new", "num_tokens", "steps", "n_tokens", "max_tokens", "max_steps", "n", "length")
TOTALS = ("max_length", "max_len")  # new tokens, or all of the text
TOLD = (*BLOCKS, "context_size")  # by which a free function is told the block size; the last is Raschka's
COUNT_WORDS = ("tok", "num", "len", "max", "new", "step")  # in the name of a second parameter that is a count
GREEDY = {"do_sample": False, "greedy": True, "top_k": 1, "temperature": 1e-6}  # the first that it takes is used
DRAWING = {"do_sample": True, "greedy": False}
NO_PENALTY = dict.fromkeys(("repetition_penalty", "rep_penalty"), 1.0)  # many have one by default
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
        more = {key: on for key, on in (DRAWING | NO_PENALTY).items() if key in self.names} | {name: value}
        return dataclasses.replace(self, more=more, greedy=True, temperature=value if name == "temperature" else 0.0)


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


class Heard(TorchFunctionMode):
    """What a model and torch.multinomial are asked, in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[InnerCall] = []
        self.random = False  # whether random numbers were drawn
        self.draws: list[Tensor] = []  # (B, K): the probabilities that tokens were drawn with
        self.scores: list[Tensor] = []  # (B, V): what the largest was taken of, or the logarithms of these probabilities

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        given = args[0] if args else (kwargs or {}).get("input")
        self.random = self.random or name.strip("_").removesuffix("_like") in RANDOM
        if isinstance(given, Tensor) and given.is_floating_point() and name in ("multinomial", "argmax"):
            if name == "multinomial":
                self.draws.append(given.detach().clone())
            self.scores.append(given.detach().log() if name == "multinomial" else given.detach().clone())
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def hearing(p: Patient) -> Iterator[Heard]:
    """Record the calls of forward, and the draws, in the block."""
    heard = Heard()

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
DRAWS = Cause("generate draws although it was asked to be greedy", "argmax")
KEEPS_STATE = Cause(
    "generate keeps something between calls: a cache that is not emptied, a counter",
    "empty the cache at the start of each call",
)
TEMPERATURE_CANCELS = Cause(
    "the temperature changes nothing: it divides the probabilities, and cancels when they are normalised, or is never used",
    "(logits / temperature).softmax(-1)",
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
PENALTY_INVERTED = Cause(
    "the repetition penalty makes tokens likelier that are there already: it divides negative logits, which raises them",
    "divide a logit above 0 by the penalty, and multiply one below 0 by it (CTRL)",
)
TEMPERATURE_IGNORED = Cause(
    "the temperature does not sharpen: it is multiplied, applied after the softmax, or ignored",
    "(logits / temperature).softmax(-1)",
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


def option_keeps_wrong_tokens(option: str) -> Cause:
    return Cause(
        f"{option} keeps the wrong tokens: its sorting was not undone, or its comparison is inverted",
        "keep the likeliest: all below the k-th become -inf; for top_p, sort, cut, and scatter back",
    )


def fills(option: str, value: float) -> Cause:
    return Cause(
        f"what {option} drops gets the logit {value:.3g}, not -inf: those tokens are still drawn",
        'logits[logits < kth] = -float("inf")',
    )


def keeps_too_many(option: str, kept: int, right: int) -> Cause:
    how = "is ignored" if kept > 4 * right else "keeps another number of tokens"
    return Cause(
        f"{option} {how}: {kept} tokens can be drawn, not {right}", "all below the k-th become -inf, before the softmax"
    )


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
        sample = Sample(p, call, prompt, given, text, left_training, n, sharpened, heard, telling)
        return next(verdict for question in QUESTIONS if (verdict := question(sample)))


def cannot_be_called(error: ModelError) -> Verdict:
    """Return the verdict on a generate that raises."""
    if isinstance(error.error, TypeError | AttributeError | NotImplementedError):
        return skipped(f"generate could not be called: {error}", Reason.NOT_ASKED, error.where)
    return failed(GENERATE_FAILS, f"generate fails: {error}", error.where)


def never_draws(p: Patient, call: GenerateCall) -> bool:
    """Whether a generate without a greedy mode takes one token after the other without drawing: with other random numbers it
    writes the same, and reads no more rows than it was given (beams)."""
    prompt, texts = p.ids(2, max(1, min(8, p.block - 7)), seed=6), []
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
    p, calls, T = s.p, s.heard.calls, s.prompt.shape[1]
    text = torch.cat([s.prompt, s.new], dim=1)
    if len(calls) not in (s.n, s.n + 1) or text.shape[1] > p.block or any(len(c.logits) != len(text) for c in calls):
        return None
    with contextlib.suppress(ModelError):
        for i, call in enumerate(calls[: s.n]):
            got, right = call.logits[:, -1], p.logits(text[:, : T + i])[:, -1]  # alone: it may see the future
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
        how = "without a causal mask: its tokens see the future" if moved else "otherwise than forward does without one"
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
    if not options or s.call.hugging_face or drawn_otherwise(s):
        return None
    found = [verdict for name in options if (verdict := wrong_draw(s, name))]
    without_effect = [v for v in found if v.cause is TEMPERATURE_CANCELS or "is ignored" in v.cause.text]
    if len(without_effect) == len(options) > 1:
        return None  # none of them reaches the draw: that is another question
    return found[0] if found else None


def neutral(s: Sample) -> dict[str, Any]:
    """Return the options of a call that draws from all tokens, by their logits as they are."""
    every = DRAWING | NO_PENALTY | dict(temperature=1.0, top_k=s.p.interface.out_vocab, top_p=1.0)
    return {name: value for name, value in every.items() if name in s.call.names}


def one_draw(s: Sample, **options: float) -> tuple[Tensor, Tensor] | None:
    """Return the last logits (B, V) and the probabilities (B, K) of the first draw; None if it was not seen."""
    try:
        with hearing(s.p) as heard:
            write(s.p, dataclasses.replace(s.call, more=neutral(s) | options, greedy=False), s.prompt.clone(), 1)
    except ModelError:  # it may not take such a value
        return None
    if not heard.draws or not heard.calls or heard.draws[0].dim() != 2 or len(heard.draws[0]) != len(s.prompt):
        return None
    drawn = heard.draws[0].float()
    return heard.calls[0].logits[:, -1], drawn / drawn.sum(dim=-1, keepdim=True)


def drawn_otherwise(s: Sample) -> bool:
    """Whether, with options that change nothing, tokens are not drawn by the softmax of the last logits: other logits, say."""
    if (seen := one_draw(s)) is None:
        return True  # it was not seen
    right, drawn = (x.sort(dim=-1, descending=True).values for x in (seen[0].softmax(dim=-1), seen[1]))
    return not torch.allclose(right[:, : drawn.shape[-1]], drawn[:, : right.shape[-1]], rtol=SAME_LOG, atol=PROBABILITIES)


def wrong_draw(s: Sample, option: str) -> Verdict | None:
    """Return whether one option, alone, gives other probabilities than it should; None too where no draw was seen."""
    value = {"temperature": TRIED_TEMPERATURE, "top_k": min(TRIED_K, s.p.interface.out_vocab), "top_p": TRIED_P}[option]
    if (seen := one_draw(s, **{option: value})) is None:
        return None
    return (judge_temperature if option == "temperature" else judge_cut)(s, option, value, *seen)


def judge_temperature(s: Sample, option: str, value: float, z: Tensor, drawn: Tensor) -> Verdict | None:
    """Return whether logarithms of probabilities drawn (B, K) rise with logits z (B, V) as a temperature says: by 1 / value."""
    probs, logits = (x.sort(dim=-1, descending=True).values for x in (drawn, z))
    some = min(probs.shape[-1], 8)
    logs, steps = probs[:, :some].clamp(min=1e-30).log(), logits[:, :some]
    logs, steps = logs[:, :1] - logs[:, 1:], steps[:, :1] - steps[:, 1:]  # (B, some - 1): below the likeliest
    if logs.max() > UNLIKELY or not logs.numel():
        return None
    slopes = (logs / steps.clamp(min=1e-6))[steps > SAME_LOG]
    evidence = (
        f"{option}={value}: two logits that differ by 1 get probabilities that differ by a factor of exp({slopes.median():.3g})"
    )
    for slope, cause in ((1 / value, None), (1.0, TEMPERATURE_CANCELS), (value, TEMPERATURE_MULTIPLIED)):
        if slopes.numel() and ((slopes - slope).abs() < SAME_LOG * slope).all():
            return failed(cause, f"{evidence}, not exp({1 / value:.3g})") if cause else None
    return None


def judge_cut(s: Sample, option: str, value: float, z: Tensor, drawn: Tensor) -> Verdict | None:
    """Return whether probabilities drawn (B, K) keep those tokens of the logits z (B, V) that top_k or top_p says."""
    order = z.sort(dim=-1, descending=True)
    p_sorted = order.values.softmax(dim=-1)
    right = [int(value)] * len(z) if option == "top_k" else [int((row.cumsum(0) - row <= value).sum()) for row in p_sorted]
    for row, keep in enumerate(right):
        kept = drawn[row] > 0
        n = int(kept.sum())
        evidence = f"row {row}: with {option}={value}, {n} of {z.shape[-1]} tokens can be drawn"
        best = order.indices[row, :n]
        full = drawn.shape[-1] == z.shape[-1]
        slack = 0 if option == "top_k" else 1  # whether the token that crosses the limit still counts
        if n > keep + slack and full:
            outside = drawn[row, order.indices[row, keep + slack :]]
            fill = outside.log() - drawn[row, best[0]].log() + order.values[row, 0]  # the logit that gives such a probability
            if n == z.shape[-1] and (outside.log().amax() - outside.log().amin()) < SAME_LOG:
                return failed(fills(option, round(fill.median().item(), 3) + 0.0), evidence)
        by_logit = full and not torch.equal(kept.nonzero().flatten(), best.sort().values)
        if by_logit and n < z.shape[-1]:
            return failed(option_keeps_wrong_tokens(option), f"{evidence}, and not the likeliest of them")
        if abs(n - keep) > slack:
            return failed(keeps_too_many(option, n, keep), evidence)
    return None


def wrong_penalty(s: Sample) -> Verdict | None:
    """Return whether a repetition penalty makes a token that is there already likelier."""
    option = next((name for name in NO_PENALTY if name in s.call.names), "")
    if not option or s.call.hugging_face:
        return None
    seen = []
    for value in (1.0, TRIED_PENALTY):
        try:
            with hearing(s.p) as heard:
                write(s.p, dataclasses.replace(s.call, more=neutral(s) | {option: value}), s.prompt.clone(), 1)
        except ModelError:  # it may not take such a value
            return None
        fitting = [x for x in heard.scores if x.shape == (len(s.prompt), s.p.interface.out_vocab)]
        if not fitting:
            return None
        seen.append(fitting[0].float())
    plain, punished = seen
    for row, ids in enumerate(s.prompt):
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
            return failed(PENALTY_INVERTED, f"{evidence}; its logit is {s.p.logits(s.prompt)[row, -1, token]:.2g}")
    return None


def wrong_padding(s: Sample) -> Verdict | None:
    """Return whether a prompt that is padded on the left, as its mask says, is continued otherwise than alone."""
    name = next((n for n in MASKS if n in s.call.names), "")
    if not name or s.call.hugging_face or s.p.block < s.prompt.shape[1] + PADDED + 1:
        return None
    alone, answers = s.p.logits(s.prompt)[:, -1], []
    for token in (0, 1):  # two kinds of padding: what is hidden may be anything
        pads = torch.full((len(s.prompt), PADDED), token, dtype=s.prompt.dtype, device=s.prompt.device)
        keep = torch.cat([torch.zeros_like(pads), torch.ones_like(s.prompt)], dim=1)
        call = dataclasses.replace(s.call, more=dict(s.call.more) | {name: keep if name == "attention_mask" else keep.bool()})
        try:
            with hearing(s.p) as heard:
                write(s.p, call, torch.cat([pads, s.prompt], dim=1), 1)
        except ModelError:  # it may take the mask in another form
            return None
        if not heard.calls or heard.calls[0].logits[:, -1].shape != alone.shape:
            return None
        answers.append(heard.calls[0].logits[:, -1])
    change = largest_change(alone, answers[0]).max().item()
    if change <= OTHER_KERNEL * tolerance(s.p, alone):
        return None
    seen = largest_change(*answers).max().item() > tolerance(s.p, alone)
    evidence = (
        f"a prompt with {PADDED} tokens of padding on the left, masked by {name}: its first logits differ by {change:.3g}"
    )
    return warned(PADDING_SEEN if seen else PADDING_MOVES, f"{evidence} from those of the prompt alone")


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
    if s.call.greedy and not again:
        return failed(KEEPS_STATE, "two greedy calls, with the same random numbers too, give different texts")
    if s.call.greedy and not other:
        return failed(DRAWS, "two greedy calls give different texts")
    if not s.sharpened and not other:
        tokens = f"{s.n} tokens after a prompt of {s.prompt.shape[1]}, two rows"
        return passed(f"{tokens}; it draws, and its logits could not be made larger: the tokens are not compared")
    return None


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
    inside = f"; {len(s.heard.calls)} calls of forward inside compared by logits" if s.heard.calls else ""
    if s.sharpened:
        how = f"it draws; with logits {SHARPER} times as large none is {UNLIKELY:g} nats less likely than the likeliest"
        return passed(f"{s.n} tokens, two rows: {how}{inside}")
    return passed(f"{s.n} greedy tokens, two rows: equal to taking the likeliest by hand{inside}")


# the first verdict counts
QUESTIONS = (
    *(wrong_form, wrong_positions_told, wrong_probabilities, wrong_penalty, not_repeatable, wrong_inside, wrong_scores),
    not_likeliest,
    *(leaves_training_mode, wrong_padding, wrong_crop, wrong_option, builds_graph, drops_while_generating, all_well),
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
