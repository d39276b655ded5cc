"""A loss that one can trust: anybody's model, judged on the validation text.

    picogpt judge my_model.py:make_model          a function that returns the model
    picogpt judge out/demo                        a checkpoint, or a training's folder

Every character of the validation text is predicted once, in windows side by side, and the probabilities are made here, from the
model's logits. That loss is honest only if no prediction depends on what comes after it, so two things are tried first.
Characters are predicted from their past alone, with the input cut off behind them: the model must say then what it says in a
whole window. And in a window of full length the future is exchanged, from each position on: nothing before it may move.

What no test from outside can show is that a model has never seen the validation text. There is evidence, though: a model is at
home in its training text, and finds other text harder.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from picogpt_core import count_parameters, evaluation_mode, require

from .checkpoint import load_checkpoint
from .data import Corpus, bits_per_byte, load_corpus, read_text
from .machine import describe_machine
from .tokenizer import Tokenizer

NOTICEABLE = 1e-3  # nats: a log-probability that moves by less cannot move the loss by more
NOTICEABLE_IN_HALF = 0.05  # the same for weights in bfloat16 or float16, which round that much
SPOTS = 16  # lengths at which inputs are cut off, and windows for each
CUTS = 256  # positions from which on the future is exchanged; in windows up to this long, all
TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(41)]  # 0.5 to 2.5
BLOCKS = ("block_size", "n_positions", "max_position_embeddings", "context_length", "n_ctx", "max_seq_len", "seq_len")
# A model that predicts better than 5-grams (1.689, lesson 02) knows its training text better: the shipped ones by 0.23 (draft),
# 0.25 (honest) and 0.34 nats (picogpt). The longest run that they would recite is 23 characters, of the training text 38.
STRONG, USUAL_GAP, LONG_RUN = 1.689, 0.1, 50
WORSE_THAN_BLIND = 0.5  # nats above ln V: first weights that are too large give as much, other ids 6 (measured: 10.24)
AS_CLAIMED = 0.005  # nats: claims are rounded to two decimals


# ----- opening what is to be judged


def open_model(spec: str) -> tuple[nn.Module, Tokenizer | None]:
    """Return the model that FILE.py:FUNCTION makes, or that of a checkpoint, and its tokenizer if it has one of its own.

    The function takes no arguments and returns the model, or a pair of model and tokenizer. ValueError says what is wrong with
    the name, or on which line the file fails.
    """
    if Path(spec).suffix != ".py" and (":" not in spec or Path(spec).exists()):
        saved = load_checkpoint(spec)
        return saved.model, saved.tokenizer
    file, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    path = Path(file)
    require(bool(name), f"{spec!r} names a file, but no function: write {spec}:make_model")
    require(path.is_file(), f"there is no file {file} (in {spec!r})")
    title = f"judged_{path.stem}"  # not its own name, which may be that of a module already: random.py
    module_spec = importlib.util.spec_from_file_location(title, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"{file} does not end in .py")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[title] = module  # dataclasses look there
    sys.path.insert(0, str(path.resolve().parent))  # for what it imports itself
    try:
        module_spec.loader.exec_module(module)
        made: Any = getattr(module, name)() if hasattr(module, name) else None
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises
        words = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{spec} could not be made: {_where(error, path)}{type(error).__name__}: {words}") from error
    require(hasattr(module, name), f"{file} has no function {name}")
    model, tokenizer = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    require(isinstance(model, nn.Module), f"{spec} returned a {type(model).__name__}: return a torch.nn.Module")
    return model, tokenizer


def _where(error: BaseException, path: Path) -> str:
    """Return the last line of the stranger's file in a traceback, "" if there is none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.resolve()]
    lines = lines or [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    return f"{path.name}:{lines[-1]}: " if lines else ""


def block_size_of(model: nn.Module, given: int | None) -> int:
    """Return the longest window: given, or what the model or its configuration says. ValueError if nobody says."""
    if given is not None:
        require(given > 1, f"--block-size {given} must be at least 2")
        return given
    for holder in (getattr(model, "config", None), getattr(model, "cfg", None), model):
        for name in BLOCKS:
            value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
            if isinstance(value, int) and value > 1:
                return value
    raise ValueError("the model does not say how long its window is: give --block-size")


class Answering(NamedTuple):
    """A model, and how it is asked."""

    model: nn.Module
    vocab_size: int
    device: torch.device
    twice: bool = False  # nanoGPT's answers for all positions only when given targets: the ids again, which say nothing new

    def raw(self, ids: Tensor) -> Tensor:
        """Return what the model answers to ids (B, T), as (B, T, V) in float32. ValueError if that is no such thing."""
        given = [ids.clone().to(self.device) for _ in range(1 + self.twice)]  # clones: it may write into its input
        try:
            answer = self.model(*given)
        except Exception as error:  # whatever a stranger's model raises
            words = (str(error).splitlines() or [""])[0]
            raise ValueError(f"for ids {tuple(ids.shape)} the model raised {type(error).__name__}: {words}") from error
        if isinstance(answer, Mapping):
            answer = answer.get("logits")
        answer = getattr(answer, "logits", answer)
        if isinstance(answer, tuple | list):
            answer = next((x for x in answer if isinstance(x, Tensor) and x.dim() == 3), None)
        wanted = (*ids.shape, self.vocab_size)
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        other = isinstance(shape, tuple) and shape[:-1] == wanted[:-1]
        hint = (
            f". The text has {self.vocab_size} different tokens: if yours are others, return (model, tokenizer)"
            if other
            else ""
        )
        require(shape == wanted, f"for ids {tuple(ids.shape)} the model returned {shape}: logits {wanted} are needed{hint}")
        values = answer.float().cpu()
        require(bool((~values.isnan()).all()), "the model's answer holds NaN")
        return values

    def adapted(self, ids: Tensor) -> Answering:
        """Return the way of asking, out of two, that it answers to with ids (B, T). ValueError if there is none."""
        try:
            self.raw(ids)
        except ValueError as error:
            other = self._replace(twice=True)
            try:
                other.raw(ids)
            except ValueError:
                raise error from None
            return other
        return self

    def log_probs(self, ids: Tensor) -> Tensor:
        """Return normalised log-probabilities of the next token. (B, T) -> (B, T, V)"""
        return self.raw(ids).log_softmax(dim=-1)


# ----- what is measured


@dataclasses.dataclass
class Passage:
    """One pass over a text: the mean loss, and what else can be seen on the way. Nats per token."""

    loss: float
    entropy: float  # what the model expects its loss to be
    by_temperature: dict[float, float]  # the loss with logits divided by it
    longest_run: int  # tokens in a row that are the likeliest one each: what greedy decoding would recite
    losses: Tensor  # of each token but the first, (N - 1,)
    first: Tensor  # log-probabilities of the first windows, to ask again
    as_probabilities: tuple[float, float, float] | None  # if nothing is below 0: least and largest sum, and -ln of the target

    @property
    def best_temperature(self) -> float:
        return min(self.by_temperature, key=lambda t: self.by_temperature[t])


def windows_of(ids: Tensor, T: int, vocab_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut ids (N,) into windows side by side. Yield x and y, (B, T) each, and last what is left: each token but the first
    is in a y once."""
    rows = max(1, min(32, 2**24 // (T * vocab_size)))
    whole = (len(ids) - 1) // T * T
    x, y = ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)
    yield from zip(x.split(rows), y.split(rows), strict=True)
    if whole < len(ids) - 1:
        yield ids[whole:-1][None], ids[whole + 1 :][None]


def read_passage(ask: Answering, ids: Tensor, T: int) -> Passage:
    """Predict each token of ids (N,) but the first, once."""
    n = len(ids) - 1
    entropy = claimed = 0.0
    at = dict.fromkeys(TEMPERATURES, 0.0)
    losses: list[Tensor] = []
    longest, first, least, most = 0, None, math.inf, -math.inf
    positive = True
    for x, y in windows_of(ids, T, ask.vocab_size):
        raw = ask.raw(x)  # (B, T, V)
        log_p = raw.log_softmax(dim=-1)
        first = log_p if first is None else first
        losses.append(-log_p.gather(2, y[:, :, None]).flatten())  # (B·T,)
        entropy -= (log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum().item()  # a token of probability 0 adds nothing
        for t in at:
            scaled = (log_p / t).log_softmax(dim=-1)
            at[t] -= scaled.gather(2, y[:, :, None]).sum().item()
        right = log_p.argmax(dim=-1) == y  # (B, T)
        longest = max(longest, *map(longest_run, right))
        if positive := positive and bool((raw >= 0).all()):
            sums = raw.sum(dim=-1)  # (B, T)
            least, most = min(least, sums.min().item()), max(most, sums.max().item())
            claimed -= raw.gather(2, y[:, :, None]).log().sum().item()
    assert first is not None
    as_probabilities = (least, most, claimed / n) if positive else None
    each = torch.cat(losses)
    by_temperature = {t: total / n for t, total in at.items()}
    return Passage(each.double().mean().item(), entropy / n, by_temperature, longest, each, first, as_probabilities)


def longest_run(right: Tensor) -> int:
    """Return the length of the longest run of True in (T,)."""
    wrong = torch.cat([torch.tensor([-1]), (~right).nonzero().flatten(), torch.tensor([len(right)])])
    return int(wrong.diff().max()) - 1


class Spots(NamedTuple):
    """The same predictions twice: from the past alone, and in whole windows."""

    cut_off: Tensor  # the losses (n,) with the input cut off behind each position
    in_windows: Tensor  # the losses (n,) in whole windows
    moved: float  # the largest difference of the two

    @property
    def honest(self) -> tuple[float, float]:
        """The mean loss from the past alone, and its standard error."""
        return self.cut_off.mean().item(), self.cut_off.std().item() / math.sqrt(len(self.cut_off))


def past_alone(ask: Answering, windows: Tensor, lengths: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """For each length t return some rows (n,) of `windows` (N, T), and the log-probabilities (n, V) after their first t tokens,
    with nothing behind them."""
    generator = torch.Generator().manual_seed(0)
    rows = {t: torch.randperm(len(windows), generator=generator)[:SPOTS] for t in lengths}
    return {t: (rows[t], ask.log_probs(windows[rows[t], :t])[:, -1]) for t in lengths}


def spot_check(before: dict[int, tuple[Tensor, Tensor]], ids: Tensor, T: int, losses: Tensor) -> Spots:
    """Compare what `past_alone` predicted with the losses (N - 1,) of the same tokens of ids (N,) in whole windows."""
    alone, together = [], []
    for t, (rows, log_p) in before.items():
        place = rows * T + t - 1  # (n,): whose next token is predicted
        alone.append(-log_p.gather(1, ids[place + 1][:, None])[:, 0])
        together.append(losses[place])
    cut_off, in_windows = torch.cat(alone), torch.cat(together)
    return Spots(cut_off, in_windows, difference(-cut_off, -in_windows))


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of log-probabilities of which one at least is no rarity (above e^-20)."""
    seen = (a > -20) | (b > -20)
    return ((a - b).abs() * seen).nan_to_num(0.0, posinf=math.inf).max().item()


def future_exchanged(ask: Answering, window: Tensor) -> dict[int, float]:
    """Exchange the tokens of `window` (T,) from each position p on. Return how far anything before p moves, by p."""
    T = len(window)
    generator = torch.Generator().manual_seed(T)
    cuts = sorted((torch.randperm(T - 1, generator=generator)[:CUTS] + 1).tolist())
    moved = {}
    for part in torch.tensor(cuts).split(31):
        rows = window.repeat(len(part) + 1, 1)  # the window as it is, and one row for each cut
        for row, p in enumerate(part.tolist(), start=1):
            rows[row, p:] = (rows[row, p:] + torch.randint(1, ask.vocab_size, (T - p,), generator=generator)) % ask.vocab_size
        log_p = ask.log_probs(rows)  # (n + 1, T, V)
        for row, p in enumerate(part.tolist(), start=1):
            moved[p] = difference(log_p[0, :p], log_p[row, :p])
    return moved


# ----- the judgement


@dataclasses.dataclass
class Judgement:
    """What was found about one model. Prints as text; `as_dict()` for JSON."""

    name: str
    parameters: int
    block_size: int
    corpus: Corpus
    validation: Passage
    training: Passage
    spots: Spots
    moved: dict[int, float]  # by what exchanging the future from a position on moves what is before it
    repeats: bool
    allowed: float
    exact: float | None = None  # the loss of every character from its past alone, if that was asked for
    claim: float | None = None  # what the loss is said to be

    @property
    def reads_ahead(self) -> str:
        """How it depends on future tokens, or ""."""
        leaks = [p for p, moved in self.moved.items() if moved > self.allowed]
        if len(leaks) == len(self.moved):
            return f"exchanging the future moves what is before it, at each of {len(leaks)} positions"
        if leaks:
            free = [p for p in self.moved if p not in leaks]
            step = math.gcd(*free) if len(free) > 1 else 0
            inside = step > 1 and all(p % step == 0 for p in free) and len(free) >= len(self.moved) // (2 * step)
            where = f"only from inside blocks of {step}" if inside else f"at {len(leaks)} of {len(self.moved)} positions"
            return f"exchanging the future moves what is before it, {where}"
        if self.spots.moved > self.allowed:
            return (
                f"with the input cut off, predictions differ by up to {self.spots.moved:.2g} nats from those in whole windows"
            )
        return ""

    @property
    def suspicions(self) -> list[str]:
        """What speaks for the validation text having been learned."""
        if self.reads_ahead:  # then no loss says anything
            return []
        found, gap = [], self.validation.loss - self.training.loss
        if self.validation.loss < STRONG and gap < USUAL_GAP:
            words = "hardly harder than" if gap > 0 else "easier than"
            found.append(
                f"it finds the validation text {words} the training text ({self.validation.loss:.3f}, "
                f"{self.training.loss:.3f}): a model this good normally finds its training text "
                f"easier: it was probably trained on the validation text"
            )
        if self.validation.longest_run > LONG_RUN:
            found.append(
                f"it would recite {self.validation.longest_run} {self.corpus.tokenizer.unit}s of the validation text in a row"
            )
        return found

    @property
    def not_normalised(self) -> str:
        """What is wrong with answers that look like probabilities, or ""."""
        if self.validation.as_probabilities is None:
            return ""
        least, most, claimed = self.validation.as_probabilities
        if abs(least - 1) < 0.01 and abs(most - 1) < 0.01:
            return (
                f"it answers with probabilities, and not with logits: return their logarithm. As probabilities their loss is "
                f"{claimed:.3f}; a softmax of them flattens everything"
            )
        return (
            f"nothing in its answers is below 0, as in probabilities, but they add up to {least:.3g} … {most:.3g}. Taken for "
            f"probabilities they would claim a loss of {claimed:.3f}. Here a softmax makes them add up to 1"
        )

    @property
    def worse_than_blind(self) -> str:
        """Why the loss says nothing of the model, if it is worse than a blind guess, or ""."""
        blind = math.log(self.corpus.tokenizer.vocab_size)
        if self.validation.loss < blind + WORSE_THAN_BLIND:
            return ""
        return (
            f"{self.validation.loss:.4f} is worse than a blind guess (ln {self.corpus.tokenizer.vocab_size} = {blind:.3f}), so "
            "the model's ids probably stand for other characters. Return (model, tokenizer)"
        )

    @property
    def not_as_claimed(self) -> str:
        """How far the claim lies below what was measured, or ""."""
        measured = self.spots.honest[0] if self.reads_ahead and self.exact is None else self.exact or self.validation.loss
        if self.claim is None or measured <= self.claim + AS_CLAIMED:
            return ""
        return f"the claim of {self.claim:g} does not hold: measured {measured:.4f}, {measured - self.claim:.4f} higher"

    @property
    def trusted(self) -> bool:
        """Whether the loss can be trusted, as far as a test from outside can say."""
        return not (self.reads_ahead or self.suspicions or self.worse_than_blind) and self.repeats

    @property
    def conclusion(self) -> str:
        unit = self.corpus.tokenizer.unit
        if self.reads_ahead:
            mean, error = self.spots.honest
            honest = f"{self.exact:.4f}" if self.exact is not None else f"{mean:.2f} ± {error:.2f}"
            return (
                f"Not to be trusted: the model reads ahead. {self.validation.loss:.4f} is what it reaches with the text before "
                f"its eyes; from the past alone it is {honest} nats per {unit}."
            )
        if not self.repeats:
            return (
                "Not to be trusted: asked the same twice, the model answered differently. It is random, or learns on the way."
            )
        if self.suspicions:
            return (
                "The predictions are made from the past alone, but there are signs that the validation text was learned: ask "
                "how the model was trained."
            )
        if self.worse_than_blind:
            return f"Says nothing of the model: {self.worse_than_blind}."
        return (
            f"{self.validation.loss:.4f} nats per {unit}, from the past alone. Nothing suggests that the validation text was "
            "learned; from outside, that is all that can be said."
        )

    @property
    def remarks(self) -> list[str]:
        return [words for words in (self.reads_ahead, *self.suspicions, self.not_normalised, self.not_as_claimed) if words]

    def __str__(self) -> str:
        val, unit, spots = self.validation, self.corpus.tokenizer.unit, self.spots
        (mean, error), moved = spots.honest, max(self.moved.values())
        apart = val.loss - self.training.loss
        other = "higher" if apart > 0 else "lower"
        over, best = val.loss - val.entropy, val.best_temperature
        sure = f"overconfident by {over:.2f}" if over > 0 else f"underconfident by {-over:.2f}"
        sure = "as sure as it is right" if abs(over) < 0.01 else sure
        rows = [
            (
                "loss",
                None,
                f"{val.loss:.4f} nats per {unit}, all {len(self.corpus.val) - 1:,} of the validation text, each once",
            ),
            ("", None, f"{bits_per_byte(val.loss, self.corpus):.3f} bits per byte"),
            (
                "past alone",
                spots.moved <= self.allowed,
                f"{mean:.3f} ± {error:.3f} with the input cut off behind them, at {len(spots.cut_off)} positions",
            ),
            ("", None, f"{spots.in_windows.mean():.3f} there in whole windows; the largest difference: {spots.moved:.2g}"),
            (
                "causality",
                moved <= self.allowed,
                f"the future exchanged from each of {len(self.moved)} positions on, full window: the past moves by {moved:.2g}",
            ),
            (
                "repeats",
                self.repeats,
                f"the first windows, asked again at the end, give {'the same' if self.repeats else 'something else'}",
            ),
            (
                "training text",
                not self.suspicions,
                f"{self.training.loss:.4f} on a part as long as the validation text, whose loss is {abs(apart):.3f} {other}",
            ),
            ("", None, f"longest run recited: {val.longest_run} {unit}s, of the training text {self.training.longest_run}"),
            ("calibration", None, f"it expects a loss of {val.entropy:.3f}: {sure}"),
            ("", None, f"best at temperature {best:g}: {val.by_temperature[best]:.4f}"),
        ]
        if self.exact is not None:
            rows.insert(2, ("exact", None, f"{self.exact:.4f}, every {unit} from its past alone"))
        lines = [f"picogpt judge: {self.name}", f"{self.parameters:,} parameters, windows of {self.block_size} {unit}s", ""]
        lines += [f"{'  ' if good is None else '✓ ' if good else '✗ '}{title:14}{text}" for title, good, text in rows]
        lines += [f"! {words}" for words in self.remarks]
        return "\n".join([*lines, "", *textwrap.wrap(self.conclusion, 116), describe_machine()])

    def as_dict(self) -> dict[str, Any]:
        """Return the judgement as plain values."""
        mean, error = self.spots.honest
        passages = {
            name: dict(
                loss=passage.loss,
                entropy=passage.entropy,
                best_temperature=passage.best_temperature,
                loss_at_best_temperature=passage.by_temperature[passage.best_temperature],
                longest_run=passage.longest_run,
            )
            for name, passage in (("validation", self.validation), ("training", self.training))
        }
        return dict(
            name=self.name,
            machine=describe_machine(),
            parameters=self.parameters,
            block_size=self.block_size,
            unit=self.corpus.tokenizer.unit,
            trusted=self.trusted,
            conclusion=self.conclusion,
            **passages,
            bits_per_byte=bits_per_byte(self.validation.loss, self.corpus),
            past_alone=dict(loss=mean, standard_error=error, positions=len(self.spots.cut_off), moved=self.spots.moved),
            exact_loss=self.exact,
            causality=dict(positions=len(self.moved), moved=max(self.moved.values()), allowed=self.allowed),
            repeats=self.repeats,
            claim=self.claim,
            remarks=self.remarks,
        )

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1)


@torch.no_grad()
def judge(
    model: nn.Module, corpus: Corpus, name: str = "model", block_size: int | None = None, exact: bool = False
) -> Judgement:
    """Judge a model on a corpus. With `exact` every token is predicted from its past alone too, which takes block_size / 2
    times as long. The model's mode is left as it was. ValueError if it cannot be called, or the text is too short.
    """
    T = block_size_of(model, block_size)
    least = 2 * T + 1
    shorter = min(len(corpus.train), len(corpus.val))
    require(shorter >= least, f"training and validation text must have {least} tokens, two windows: one has {shorter}")
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    half = any(t.dtype in (torch.bfloat16, torch.float16) for t in tensors)
    allowed = NOTICEABLE_IN_HALF if half else NOTICEABLE
    ask, val = Answering(model, corpus.tokenizer.vocab_size, device), corpus.val
    whole = (len(val) - 1) // T * T
    windows, generator = val[:whole].view(-1, T), torch.Generator().manual_seed(0)
    lengths = sorted((torch.randperm(T, generator=generator)[:SPOTS] + 1).tolist())
    with evaluation_mode(model):
        ask = ask.adapted(windows[:1, :2])
        before = past_alone(ask, windows, lengths)  # first, while it has seen no whole window
        moved = future_exchanged(ask, windows[len(windows) // 2])
        validation = read_passage(ask, val, T)
        spots = spot_check(before, val, T, validation.losses)
        training = read_passage(ask, corpus.train[-len(val) :], T)
        again = next(windows_of(val, T, ask.vocab_size))[0]
        repeats = difference(validation.first, ask.log_probs(again)) <= allowed
        total = exact_loss(ask, val, T) if exact else None
    count = count_parameters(model)
    return Judgement(name, count, T, corpus, validation, training, spots, moved, repeats, allowed, total)


def exact_loss(ask: Answering, ids: Tensor, T: int) -> float:
    """Return the loss of ids (N,), each token predicted from the part of its window before it, and from nothing else."""
    whole = (len(ids) - 1) // T * T
    total = 0.0
    for x, y in ((ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)), (ids[whole:-1][None], ids[whole + 1 :][None])):
        for t in range(1, x.shape[1] + 1):
            for past, target in zip(x[:, :t].split(64), y[:, t - 1].split(64), strict=True):
                total -= ask.log_probs(past)[:, -1].gather(1, target[:, None]).sum().item()
    return total / (len(ids) - 1)


def judge_spec(
    spec: str, text: Path | None = None, block_size: int | None = None, exact: bool = False, claim: float | None = None
) -> Judgement:
    """Open what `spec` names and judge it on a text file, or on Tiny Shakespeare, beside the loss that it is said to have."""
    require(claim is None or (math.isfinite(claim) and claim > 0), f"--claim {claim} is not a loss: a number above 0")
    model, tokenizer = open_model(spec)
    found = judge(model, load_corpus(read_text(text), tokenizer), spec, block_size, exact)
    return dataclasses.replace(found, claim=claim)
