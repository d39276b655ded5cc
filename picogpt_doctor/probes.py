"""The thresholds of the doctor, and the probes that several checks share.

Elsewhere stand only how many ids or batches are asked for, and what rounding may do to numbers that should be equal.
All were tuned on the planted faults of the tests and on hundreds of models by other authors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .patient import ROWS, Patient, attribute, model_line
from .report import NOT_FOLLOWED, Cause, Reason, Verdict, number_of, skipped
from .tape import Tape

# fmt: off
# What rounding may do to a logit: `tolerance` is ROUNDING times machine epsilon times the largest logit, and these multiply it
ROUNDING = 60              # sums over a few hundred features in another order stay well below, effects far above
OTHER_KERNEL = 20          # the same numbers by another route: other shapes, a cache, fewer tokens
ONE_TOKEN_REPEATED = 3     # equal inputs at each position leave rounding in the softmax only
NEAR_TIE = 100             # two logits this close: argmax may choose either
DISTANT = 1 / 60           # an effect over hundreds of tokens is tiny, and rounding is the same in all rows of that comparison
# Attention weights and scores
ATTENDS = 1e-9             # a weight that counts as attending: softmax of -1e4 underflows to 0, one of -20 is 2e-9
SAME_SCORE = 1e-4          # relative spread of scores that one number was filled into
FILLED_WITH_ZERO = 1e-6    # the largest fill that is the 0 of a multiplied mask
HIDDEN_SCORE = -1e4        # below this a score is a mask's
DISTINCT_FILL = 2          # times the range of the visible scores: a mask lowers the others by more than they differ
CHANGED = 1e-6             # inputs of attention: exactly equal unless a token reaches them
CHANGED_IN_DOUBLE = 1e-12  # the same in double precision, for leaks as small as rounding
ROW_SUM = 0.01             # how far a row of softmax may sum from 1 in half precision
BROKEN_ROW_SUM = 0.05      # beyond this weights are no distribution any more
EVEN_WEIGHTS = 1e-4        # spread of weights that do not depend on the position
FLAT_SCORES = 1e-3         # range of scores over distance that is none: no relative position reaches them
UNEVEN_QUERIES = 1e-2      # range of scores over the queries that rounding does not explain
SAME_DISTANCE = 0.02       # part of the range by which scores at one distance may differ: rotary tables in half precision
RISING = 1e-4              # a step of score for each step of distance: a bias with the wrong sign
SAME_SCALE = 0.02          # relative: a scale rounded to bfloat16 is off by 0.4% at most
UNSCALED = 1e-3            # relative: a factor of exactly 1
SAME_LENGTH = 1e-3         # relative spread of the lengths of normalised queries
SAME_STEP = 1e-4           # relative: queries, keys and scores of one step, and the same of a pass over the whole
SAME_STATE = 1e-3          # relative: a state that two formulas sum up, in other orders; a wrong scale is off by far more
# Answers and causality
SOME_ZEROS = 0.1           # share of logits that are exactly 0: a ReLU makes half of them, chance none
ALL_TOKENS = 1024          # the largest vocabulary of which every token is tried
PROBABILITIES = 1e-3       # how far rounding may move a sum of V probabilities from 1
DROPS_TOO_MUCH = 0.6       # nobody drops more than half; a confused keep_prob of 0.9 does
LEAKING_GRADIENT = 1e-7    # of the largest, where double precision cannot be tried: filters by FFT round to less
ROUNDING_GRADIENT = 1e-12  # of the largest, in double precision
LONGEST_FULL = 1024        # block sizes above this are not filled to look for leaks
FULL_TOKENS = 16_384       # of the texts that look for leaks at full length: each position of 128 tokens, every fourth of 256
FULL_WORK = 2e10           # weights times tokens of these texts: about a second on two cores
FULL_SECONDS = 0.5         # of the processor for each of these questions; a recurrent loop costs more than its weights tell
TOKENS_AT_ONCE = 2048      # in one call: memory grows with them
CUTS_IN_HALF = 4           # texts in half precision; a position that sees the future sees it in most
LEAKING_IN_HALF = 0.03     # of what changed tokens do to logits where they may: rounding to 8 bits may do 0.004 in each layer
CUTS_IN_TRAINING = 8       # texts at full length in training mode, where each is a call of its own
OUT_OF_REACH = -3e4        # a fill that scores do not fall below: the reporter of minGPT #75 measured -15,000
MOST_PAIRS = 0.9           # share of pairs that are open where a pattern is meant: a fill that underflows closes a few
FEW_PAIRS = 0.05           # share of all pairs that are holes in a mask rather than another mask
FORESEEN = 0.2             # nats below ln V on 156 random tokens: more than chance gives
# The residual stream
COPY = 1e-3                # relative: a block whose branches are zero returns a multiple of its input
NEGLIGIBLE = 1e-4          # of the largest feature: what may be added to that multiple
NEXT_TO_ZERO = 1e-12      # what stands for 0 where a norm of weights is divided by: its square is no denormal number
LARGER_EMBEDDING = 1000.0  # how many times: no branch input without a norm stays below GROWN
GROWN = 30                 # times as large (or as small): half-way, in the logarithm, between 1 and 1000
POWER_OF_WIDTH = 0.1       # relative: the size of a norm's output on noise beside 1/C, 1/√C, √C, C; eps moves it by less
NARROWEST = 16             # features: of fewer, a power of the width is a common number, too
NUMBERED_MATRICES = 96     # one forward each: more take too long
# Gradients and training
MANY_WITHOUT_GRADIENT = 0.3  # share of parameters: a cut in the graph, not an unused layer
ROUTER_ROUNDING = 1e-5     # of the median gradient: w / (w + 1e-20) has one of rounding; a router's own is above 1e-3
TOKENS_OVERWRITTEN = 8     # tokens with several experts, of which only one counts: by a gate of 0, chance, one or two
WHOLE_MODULE = 4           # matrices of a module that is frozen as a whole, on purpose: more than an embedding or an MLP has
UNUSED_SEEDS = (0, 1, 2)   # of calls in training mode: a layer that one drops is used in another
MASK_VALUES = 3            # different numbers in a frozen matrix that is a mask; noise has as many as it has elements
FAINT_LOGITS = 0.01        # standard deviation of logits that a family scales down on purpose: 200 steps are too few for them
SMALL_CHANGES, SMOOTH = (1e-3, 1e-4), (3, 30)  # of weights that get no gradient: ten times as much has ten times the effect
WIDE_HEAD = 2.0            # times 1/√width: such a head makes logits of standard deviation 2 from a normalised stream
LARGE_FIRST_LOSS = 1.5     # nats above ln V: unusual, a warning
TOO_LARGE_FIRST_LOSS = 2.5 # nats above ln V: a head of standard deviation 1 gives 8 to 11 at a width of 32
SAME_LOSS = 3e-5           # two means of the same 39 losses in float32, in another order
IDLE_LOSS = 1e-4           # of an auxiliary loss: its largest gradient, by rounding 1e-6; a router's is above 1e-2
SCALED_LOSS = (0.5, 3.0)   # times the mean: outside, a loss was scaled rather than built from other tokens
MOSTLY_TRAINABLE = 0.7     # share of parameters without which a batch cannot be learned by heart
LEARNED = 0.7              # of the first loss: working models of the tests get below 0.1 in some 20 steps
LEARNED_ANYWAY = 0.5       # nats: a first loss that was small already
KNOWN_BY_HEART = 0.1       # of the first loss: stop there
STEPS, STEP_SECONDS, TOO_FEW_STEPS = 200, 8.0, 60  # of training on one batch; with fewer steps nothing is concluded
NARROW, RATE, RATE_WIDE = 64, 1e-2, 3e-3  # Adam's learning rate up to that width, and above
# Generation and length
SHARPER = 100              # times the head's weights: a sample is then the likeliest token, nearly always
PROMPTS = 32               # among which two are chosen that continue differently
TEXTS_COMPARED = 4         # of three tokens in two rows: of 65 equally likely ones, drawn four times, never the same by chance
TEXTS_DRAWN = 4            # with other random numbers, of one token each: a wrong order shows in most of them
UNLIKELY = 12.0            # nats: a sample this far below the likeliest comes once in 160,000
UNLIKELY_WHEN_COLD = 20    # times the temperature: once in 500 million
LONGEST_PAST_END = 4096    # block sizes above this are not exceeded: attention's memory grows with the square
LONGEST_GENERATED = 1024   # block sizes above this are not filled by generate
LONGEST_PROMPT = 16_384    # longer prompts are not given to it, even where forward reads only their ends
READ_OF_LONG = 8           # tokens that are read of a longer text where only what generate feeds is asked for
LONGEST_STEPPED = 64       # texts up to this length are read one by one to their end; each token is a forward
STEPS_AT_THE_END = 8       # of longer ones so many: what comes before is read at once
TRIED_TEMPERATURE, TRIED_K, TRIED_P = 0.5, 3, 0.5  # whose probabilities are compared: away from 1, from all, from one token
CLEAR_OF_LIMIT = 0.01      # of a sum of probabilities, or a ratio: rounding to bfloat16 is less, so it decides no token there
FEWEST_AFTER_END = 3       # tokens that follow an end of text: of fewer, a padding token may be taken for another word
LESS_LIKELY = 0.05         # nats: the best of as many beams may be another by rounding, not by as much
FIRST_STEPS = 3            # from a cache, in which its attentions are looked at
TRIED_PENALTY = 1.5        # of repetition: what is in the text must not gain by it
GRAPH_STEPS = 4            # tokens after which a graph that is kept holds as many times the tensors of one step
MOST_TOKENS = 0.5          # share of the vocabulary whose logits are others: a ban or a penalty changes those of a few
SAME_LOG = 0.02            # how far a difference of logarithms of probabilities may be from that of the logits, relatively
HALF_APART = 0.5           # of the size of a position's logits: bfloat16 keeps 8 bits, and 100 layers of it stay below 0.2
# Values
MOSTLY_CONSTANT = 0.5      # share of the norms' vectors that training has moved: a linear layer's first bias is random
BUILT_AGAIN = 20_000_000   # numbers: a second instance of a larger model takes seconds, and its memory
BUILT_FOR_EACH_FIELD = 2_000_000  # numbers: a model anew for each field of its configuration, in some hundredths of a second
OTHER_RATE = 0.5           # of dropout, or half of that: with one seed, any other rate drops other numbers
OTHER_EPSILON = 0.1        # of a norm: moves any logit, as variances are near 1, or below
OTHER_CAP = 100            # times smaller: caps are some 30, logits of a new model 0.3, and then tanh bends them
MOST_TURNED = 0.75         # share of the features meant to be turned: half of them is the number of pairs
FEW_UNITS = 0.02           # share of rows of 0 that may be meant: padding
SAME_SPREAD = 0.1          # of the logarithm of a standard deviation: two samples of one distribution, besides the
SAMPLING_ERROR = 6         # standard errors of 1 / √(2N) that a sample of N numbers has
SUM_OF_EXPERTS = 1e-3      # relative: weights that were divided by their sum, which may have a small number added
MOSTLY_DIVIDED = 0.5       # share of tokens whose weights sum alike: experts that are full leave a few tokens out
OTHER_SPREAD = 4           # times: some initialise by depth (2 or 3 times from first to last of ten layers)
MOSTLY_ADAPTED = 0.9       # share of features that an adapter's random weights move: all of a part that it is meant for
NEVER_WRITTEN = 1e-30      # below this a buffer holds what the memory held before: no model computes with such a number
LARGEST_USED = 1e20        # above this, too; a mask's fill is below 0
REVIVED = 0.1              # share of parameters: of queries and keys alone, two of nine matrices; a router's chance, fewer
SMALL_TABLE = 0.05         # standard deviation of embeddings by GPT-2's initialisation, 0.02; PyTorch's own is 1
# A training step, a batch, a checkpoint
LOOKED_AT_CLOSELY = 8      # backward passes whose logits are compared with the ids: mistakes of this kind are in every one
COMPARED_ROWS = 256        # of a batch: enough to tell a shift, little to compute
SIGNATURE = 9              # entries of a row of logits that identify it
SAME_LOGITS = 1e-2         # of their standard deviation: the same logits, in half precision or not
SAME_POSITION = 1e-4       # of their standard deviation: positions whose logits are the same but for rounding
SAME_ROW = 0.98            # share of targets that fit a shift: a few may be masked or replaced on purpose
MOST_NEXT = 0.5            # share of targets that are the next tokens, where the rest is noise: of other texts, far fewer fit
SAME_TIMES = 0.004         # relative: margins of preferences that are 1 or 2 times the log-ratios; a mean is 0.01 of a sum
SAME_WEIGHT = 0.02         # relative: what the tokens of a step count together, in half precision
SWAPPED_BACK = 8           # roundings: weights that an evaluation exchanged for averaged ones, and then changed back
SAME_LOSS = 1e-4           # relative: a loss and the mean that it is, in float32; a teacher's term may be as small as 1%
UNEVEN_MICRO_BATCHES = 1.2 # times as many tokens that count: their means may not weigh the same
STEPS_WATCHED, MOST_STEPS, WATCH_SECONDS = 24, 200, 10.0  # optimizer steps seen at least, and while validation is waited for
CALLS, STEPS_WANTED = 6, 4 # calls of a function that takes one step, to see what one leaves to the next, and what learns later
WARMUP_RISES = 3           # steps in a row by which the rate rises: a warm-up; of fewer, its shape is not known
JUMP = (1.5, 5)            # times the rate, and times the rises before: the rises of a linear or geometric warm-up stay below
LOW_RATE, MIRRORED = 0.2, 0.25  # of the peak: the end of a cosine, after which it rises as it fell, but for where a step fell
PAIRS_TURNED, SLOW_TURN = 3, 1e-3  # pairs of features, each turning by so much a position: fewer, or slower, fix no base
TURNED = 1e-6              # relative: rounding stays below, and a pair that turns by 1e-6 a position above, over some positions
OTHER_BASE, ROUND_BASE = 0.05, 0.005  # relative: a base is stated to two digits, and measured to three
PAPERS_BASE = 10_000       # of the sines and cosines of "Attention is all you need"
FIRST_ROWS, SAME_FREQUENCY = 8, 1e-3  # rows, over which sines of other frequencies go apart; half precision is off by more
SLOW_SINE = 0.05           # radians a position: of slower ones the cosine's second row, near 1, does not tell the frequency
SQUARE = (1.8, 2.2)        # power of the position by which a mixer grows on equal input: 0 if normalised, 1 if not
DROP = (0.05, 2)           # of the peak, and times the largest later fall: 1 / √t or 1 / t, after a warm-up, begin below twice
ENOUGH_ROWS = 8            # whose last target is their first token: by chance, with a third of the text one id, 1 in 6,000
ENDING = 16                # tokens at the end of a row: after so many the same token follows elsewhere, nearly always
ENOUGH_TOKENS = 20         # just below 2^k: none above by chance once in a million
JUST_BELOW = 1 / 32        # of 2^k: ids that were cut off reach that near; UTF-8 bytes end at 244 of 256, an alphabet anywhere
MISSING = (0.3, 0.51)      # share of the vocabulary from 2^k on, never seen: a third is no chance, more may be a small alphabet
COMMONEST = 0.9            # share of one id: no text and no tokenizer; padding at the ends of rows is not counted
LARGE_SHARE = 0.5          # share of one id: a space has 0.18, a comma 0.05
PADDED_ROWS, PADDING_RUN = 0.5, 3  # share of rows that end in as many equal ids: a text in windows has none of it
PADDING_INSIDE = 0.05      # share of the other tokens that are that id too: the indents of a program are no padding
TAIL = 2                   # tokens that may end a text behind what is learned: its mark, and a line end
SAME_END, HALF_CUT = 0.9, 0.5  # share of texts that end alike, in a mark of their own; where some may be cut off, unseen
ROLES = 4                  # tokens that may follow such a mark: user, assistant
FEWEST_ROWS = 3            # whose prompts, or ends, are known: fewer may be alike by chance
FEWEST_SPANS = 12          # answers whose begin is compared with marks: fewer may have one at the same distance by chance
CLOSE_TO_MARK = 2          # tokens from a mark where an answer may begin: it is learned itself, or a line's end follows it
MOST_SHIFTED = 64          # tokens: headers and system prompts in front of a conversation are shorter, as far as they are short
NOT_A_MARK = 0.5           # share of answers that begin at one token, above which it may be a mark
MARKED_TWICE = 1.2         # occurrences of a mark for each answer: one, and a few in texts that are cut off
LONGEST_MARK = 8           # tokens before an answer that are compared
IDLE_SHRINKS = 0.9         # what weight decay leaves of a weight in a step: more than this, whatever the rate
SMALL_VOCABULARY = 10      # ids: of fewer, one may well have half
WINDOW = 32                # tokens in a row that two texts share by quotation only; toy data are compared with themselves
OFTEN = 4                  # times as often as most windows recur in training: a prompt, a template, a pattern
FEW_WINDOWS = 1_000        # different ones in all of training: a text of few patterns, which any other of its kind has, too
MOSTLY_WHOLE = 0.75        # of the windows that both have: in runs that end where a row ends, not in the middle as phrases do
OVERLAP = 0.05             # share of validation windows that training has, too
ENOUGH_FOR_A_MARK = 5_000  # tokens: few documents are longer
MOSTLY_THE_SAME = 0.8      # cosine of a parameter and its numbers in a file: an adapter adds little, new random numbers have 0
SAME_TOKEN = 0.99          # share of positions that answer the same token: no trained model does so on varied ids
FEWEST_POSITIONS = 100     # of so few a model may well answer the same token by chance
AS_BLIND = 0.1             # nats below ln V: a trained model is better than this on its own data
# Perturbed weights
PERTURBATIONS = (1.0, 0.1) # sizes, tried in turn, of the noise: the second where the first gives infinite logits
HALF_A_SPREAD = 0.5        # of a matrix's own standard deviation, or of 1/√width where that is larger
VECTOR_NOISE = 0.1         # on biases and gains
WILD = 3                   # a standard deviation that saturates every softmax: scaled down to 1
# fmt: on


def once(probe: Callable) -> Callable:
    """Run a probe once for each patient and set of arguments."""

    @functools.wraps(probe)
    def remembered(p: Patient, *args):
        if (probe, args) not in p.memo:
            p.memo[probe, args] = probe(p, *args)
        return p.memo[probe, args]

    return remembered


# what a pass adds where dropout moved other positions or rows, and nothing else did
STILLED = " (in training with random numbers at their means: how many are drawn depends on the tokens)"


# ----- weights with noise


def perturbed_weight(value: Tensor, size: float) -> Tensor:
    """Return a weight with noise of about the size that a layer's weights have."""
    if not value.is_floating_point() or size == 0:
        return value.clone()
    draw = torch.Generator().manual_seed(value.numel())
    noise = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
    if value.dim() < 2:
        return value + VECTOR_NOISE * size * noise
    spread = value[value.isfinite()].float().std().nan_to_num(0.0).item() if value.numel() > 1 else 0.0
    if spread > WILD:
        value, spread = value / spread, 1.0
    return value + size * HALF_A_SPREAD * max(spread, 1 / math.sqrt(value.shape[-1])) * noise


def other_weights(p: Patient, values: dict[str, Tensor]):
    """These values for all weights inside the block."""
    return p.weights(lambda name, value: values[name])


@once
def perturbed_weights(p: Patient) -> dict[str, Tensor]:
    """Return weights with as much noise as leaves the logits finite. What is frozen may be a table of constants, or a mask: it
    gets none, unless all is frozen."""
    tensors = p.trainable_tensors()
    frozen = not any(t.requires_grad for t in tensors.values())
    for size in PERTURBATIONS:
        noisy = {name: perturbed_weight(t.detach(), size if t.requires_grad or frozen else 0) for name, t in tensors.items()}
        with other_weights(p, noisy), torch.no_grad():
            if p.logits(p.ids(ROWS, p.T)).isfinite().all():
                return noisy
    return {name: t.detach().clone() for name, t in p.trainable_tensors().items()}


def perturbed(p: Patient):
    """Noise on all weights inside the block, so that what is zero or tiny in a new model has an effect too. Which operation
    feeds which does not depend on the weights."""
    return other_weights(p, perturbed_weights(p))


@once
def fresh_weights(p: Patient) -> dict[str, Tensor]:
    """Return new random weights of the usual sizes, which saturate no softmax, whatever the model's own are."""
    found = {}
    for name, t in p.trainable_tensors().items():
        value, draw = t.detach(), torch.Generator().manual_seed(t.numel() + 1)
        if not value.is_floating_point() or not t.requires_grad:
            found[name] = value.clone()
        elif value.dim() < 2:
            found[name] = value / value.abs().max().clamp(min=1.0) if value.isfinite().all() else torch.zeros_like(value)
        else:
            noise = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
            found[name] = noise * HALF_A_SPREAD / math.sqrt(value.shape[-1])
    return found


def fresh(p: Patient):
    """Weights inside the block that saturate nothing."""
    return other_weights(p, fresh_weights(p))


def zeroed(p: Patient, names: set[str]):
    """Some weights 0 inside the block."""
    return p.weights(lambda name, value: torch.zeros_like(value) if name in names else None)


# ----- what depends on what


def tolerance(p: Patient, logits: Tensor) -> float:
    """Return how far rounding alone may move a logit."""
    dtypes = {t.dtype for t in p.parameters.values() if t.is_floating_point()}
    eps = max((torch.finfo(t).eps for t in dtypes), default=1e-7)
    return ROUNDING * eps * max(logits[logits.isfinite()].abs().max().item() if logits.isfinite().any() else 1.0, 1e-3)


def largest_change(a: Tensor, b: Tensor) -> Tensor:
    """(…, V), (…, V) -> (…): the largest change of a logit; NaN on both sides is no change, on one side a large one."""
    return (a.nan_to_num(1e4) - b.nan_to_num(1e4)).abs().amax(dim=-1)


def future(T: int, device=None) -> Tensor:
    """(T, T): True where token j (column) comes after position t (row). Its transpose is the past."""
    return torch.ones(T, T, dtype=torch.bool, device=device).triu(1)


@torch.no_grad()
def dependence(p: Patient, ids: Tensor, targets: Tensor | None = None, together: bool = True) -> tuple[Tensor, float]:
    """Return (T, T), how far the logits at t move when token j becomes another one, and what rounding may do.

    Rows are asked `together`, or one by one where they may influence each other.
    """
    T = ids.shape[1]
    effects, allowed = torch.zeros(T, T), 0.0
    for shift in (1, len(p.tokens) // 2 or 1):
        changed = ids[:1].repeat(T + 1, 1)  # (T + 1, T): row j has another token at j, the last row is as it was
        position = torch.arange(T, device=ids.device)
        changed[position, position] = p.changed_tokens(changed[position, position], shift)
        given = None if targets is None else targets[:1].expand(T + 1, T)
        parts = changed.split(ROWS if together else 1)
        logits = torch.cat([p.logits(part, None if given is None else given[: len(part)]) for part in parts])  # (T + 1, T, V)
        effects = torch.maximum(effects, largest_change(logits[:T], logits[T:]).T.cpu())  # (j, t) -> (t, j)
        allowed = max(allowed, tolerance(p, logits))
    return effects, allowed


@once
def row_effects(p: Patient, training: bool) -> tuple[float, float, float]:
    """Return how far logits move when other rows of the batch change, how far those of equal rows differ, and what rounding
    may do. Equal rows are compared in evaluation mode only: dropout differs between them."""
    return effects_of_rows(p, training)


@torch.no_grad()
def effects_of_rows(p: Patient, training: bool) -> tuple[float, float, float]:
    """`row_effects`, measured now."""
    ids, effect = p.ids(ROWS, p.T), 0.0
    with perturbed(p), p.asked_in(training):
        base = p.logits(ids)
        for row in range(ROWS):
            other = ids.clone()
            other[row] = p.changed_tokens(other[row])
            rest = [r for r in range(ROWS) if r != row]
            effect = max(effect, largest_change(base, p.logits(other))[rest].max().item())
        equal = base[:1] if training else p.logits(ids[:1].expand(ROWS, -1))
        difference = largest_change(equal, equal[:1].expand_as(equal)).max().item()
    if training and effect > tolerance(p, base) and not p.stilled:
        p.stilled = True  # it may be dropout: see Stilled
        return effects_of_rows(p, training)
    return effect, difference, tolerance(p, base)


@once
def dependence_in_eval(p: Patient) -> tuple[Tensor, float]:
    """`dependence` in evaluation mode with perturbed weights."""
    effect, difference, allowed = row_effects(p, False)
    with perturbed(p):
        return dependence(p, p.ids(1, p.T), together=max(effect, difference) <= allowed)


@once
def depends_on_context(p: Patient) -> bool:
    """Whether the logits at any position depend on an earlier token."""
    effect, difference, allowed = row_effects(p, False)
    if p.T < 2 or max(effect, difference) > allowed:  # rows that influence each other are context, too
        return True
    effects, allowed = dependence_in_eval(p)
    return bool((effects[future(p.T).T] > allowed).any())


@once
def logits_carry_gradient(p: Patient) -> bool:
    """Whether gradients can flow back from the logits."""
    with torch.enable_grad(), perturbed(p):
        return p.logits(p.ids(ROWS, p.T)).requires_grad


def other_inputs(p: Patient) -> set[str]:
    """Return tables of which one row is looked up at all positions, beside a table of positions: of another input, left out."""
    rows = {x.name: x.rows.flatten().unique() for x in p.interface.positions}
    return {name for name, seen in rows.items() if len(seen) == 1 < max(map(len, rows.values()))}


@torch.no_grad()
def affects_logits(p: Patient, names: list[str]) -> bool:
    """Whether these weights move the logits."""
    ids = p.ids(1, p.interface.long)
    with perturbed(p):
        logits = p.logits(ids)
        with zeroed(p, set(names)):
            return largest_change(logits, p.logits(ids)).max().item() > OTHER_KERNEL * tolerance(p, logits)


@once
@torch.no_grad()
def loss_on_random_ids(p: Patient) -> float | None:
    """Return the mean cross-entropy on random ids with random targets, by our own arithmetic. None if it is not finite."""
    ids = p.ids(12, p.T + 1, seed=7)
    logits = torch.cat([p.logits(x[:, :-1], x[:, 1:] if p.mode == "targets" else None) for x in ids.split(ROWS)])  # (12, T, V)
    loss = F.cross_entropy(logits[..., : p.vocab].flatten(0, 1), ids[:, 1:].flatten()).item()
    return loss if math.isfinite(loss) else None


# ----- what PyTorch does


@torch.no_grad()
def watch(p: Patient, ids: Tensor) -> Tape:
    """Return the tape of one call."""
    with p.tape(ids) as tape:
        if p.mode == "prefixes":
            p.call(ids)
        else:
            p.logits(ids)
    return tape


@once
def perturbed_tape(p: Patient) -> Tape:
    """Return the tape of a call with perturbed weights."""
    with perturbed(p):
        return watch(p, p.ids(ROWS, p.T))


def no_attention(p: Patient, what: str) -> Verdict:
    """Return the skip of a check that needs a recorded attention: there is none, or it could not be followed.

    One that could not shows by a softmax over scores in whatever layout, with T among their axes twice, or by a module's name.
    """
    tape = perturbed_tape(p)
    scores = any(shape.count(p.T) > 1 for shape in tape.softmaxes)
    if not tape.attentions and (scores or has_module(p, is_named_attention)):
        return skipped(NOT_FOLLOWED, Reason.NOT_ASKED)
    return skipped(what)


def flat(weights: Tensor) -> Tensor:
    """(N, Tq, Tk) or (B, nh, Tq, Tk) -> (N, Tq, Tk) in float32, NaN as 0."""
    return weights.float().nan_to_num(0.0).reshape(-1, *weights.shape[-2:])


# ----- what modules answer


HALVES = (torch.float16, torch.bfloat16)
NAMED_SO = {"to_copy": "a conversion", "mm": "a matrix product", "bmm": "a matrix product", "addmm": "a matrix product"}


class Overflows(TorchDispatchMode):
    """The first operation, in some precisions, that makes infinity or NaN of finite numbers, in the block."""

    def __init__(self, dtypes: Collection[torch.dtype]) -> None:
        super().__init__()
        self.dtypes = dtypes
        self.first = ""
        self.line = ""
        self.module = ""  # that was running
        self.running: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @contextlib.contextmanager
    def inside(self, p: Patient) -> Iterator[None]:
        """Watch the block, and which module runs."""
        modules = [(n, m) for n, m in p.model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
        hooks = [m.register_forward_pre_hook(lambda *_, n=n: self.running.append(n)) for n, m in modules]
        hooks += [m.register_forward_hook(lambda *_: self.running.__delitem__(-1)) for _, m in modules]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        spoiled = (
            isinstance(out, Tensor) and out.dtype in self.dtypes and not self.first and (out.isposinf() | out.isnan()).any()
        )
        if spoiled:
            name = func.overloadpacket.__name__.strip("_")
            numbers = [a for a in args if isinstance(a, float | int)]
            given = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
            if given and all(map(math.isfinite, numbers)) and all(bool(a.isfinite().all()) for a in given):
                largest = max(a.abs().max().item() for a in given if a.numel())
                what = "infinite" if out.isposinf().any() else "NaN"
                self.first, self.line = f"{NAMED_SO.get(name, name)} of numbers up to {largest:.3g} is {what}", model_line()
                self.module = self.running[-1] if self.running else ""
        return out


def first_tensor(answer) -> Tensor | None:
    """Return the first tensor of numbers in an answer."""
    if isinstance(answer, Tensor):
        return answer if answer.is_floating_point() else None
    logits = attribute(answer, "logits")
    if isinstance(logits, Tensor):
        return logits
    if isinstance(answer, tuple | list):
        return next((x for part in answer if (x := first_tensor(part)) is not None), None)
    if isinstance(answer, dict):
        return next((x for part in answer.values() if (x := first_tensor(part)) is not None), None)
    return None


@dataclasses.dataclass(frozen=True)
class Answered:
    """A call of a module: the first tensor of numbers, or of ids, that it was given, and the first one that it answered."""

    name: str
    given: Tensor | None
    answer: Tensor


@contextlib.contextmanager
def module_answers(p: Patient) -> Iterator[list[Answered]]:
    """Record in the block what each module is given and answers, inner ones first."""
    seen: list[Answered] = []

    def hook(name: str):
        def note(module, args, named, output):
            given = next((x for x in (*args, *named.values()) if isinstance(x, Tensor)), None)
            if (answer := first_tensor(output)) is not None:
                seen.append(Answered(name, None if given is None else given.detach().clone(), answer.detach().clone()))

        return note

    modules = [(n, m) for n, m in p.model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    hooks = [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in modules]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


def parting(one: list[Answered], other: list[Answered], without: Collection[str] = (), at: Tensor | None = None) -> str:
    """Return the first module, the innermost, that was given the same in two calls and answered otherwise; "" if none did.

    `at` (T,) is True at the positions that count, along whichever axis is T long; else all count.
    """

    def numbered(calls: list[Answered]) -> dict[tuple[str, int], Answered]:
        counts: Counter[str] = Counter()
        found = {}
        for call in calls:
            found[call.name, counts[call.name]] = call
            counts[call.name] += 1
        return found

    def alike(x: Tensor | None, y: Tensor | None) -> bool:
        if x is None or y is None or x.shape != y.shape:
            return x is y
        if at is not None and len(at) in x.shape:
            dim = x.shape.index(len(at))
            x, y = (z.index_select(dim, at.nonzero().flatten()) for z in (x, y))
        x, y = x.double().nan_to_num(0), y.double().nan_to_num(0)
        return not x.numel() or bool((x - y).abs().max() <= SAME_STEP * y.abs().max())

    others = numbered(other)
    for key, a in numbered(one).items():
        b = others.get(key)
        if b is not None and a.name and a.name not in without and alike(a.given, b.given) and not alike(a.answer, b.answer):
            return a.name
    return ""


def named_module(p: Patient, name: str) -> str:
    """Return a module's name with its class: "layers.0.mixer (Mamba2Mixer)"."""
    return f"{name} ({type(p.model.get_submodule(name)).__name__})"


@contextlib.contextmanager
def undropped(p: Patient) -> Iterator[None]:
    """Each rate of dropout that a module keeps is 0 in the block; what is drawn otherwise is Stilled's."""
    kept = []
    for module in p.model.modules():
        drops = "drop" in type(module).__name__.lower()
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name.lower() or (drops and name == "p")):
                kept.append((module, name, value))
    try:
        for module, name, _ in kept:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


# ----- what the model consists of


def has_module(p: Patient, holds: Callable[[nn.Module], bool]) -> bool:
    return any(holds(module) for module in p.model.modules())


def is_named_attention(module: nn.Module) -> bool:
    return any(word in type(module).__name__.lower() for word in ("attention", "attn"))


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


@once
def is_trained(p: Patient) -> bool:
    """Whether the weights have been trained: the gains of a new model's norms, and their biases, hold one number each.

    Where there are none, other vectors are asked; a model without vectors counts as new. To be asked first where weights are
    not perturbed.
    """
    norms = [m for m in p.model.modules() if "norm" in type(m).__name__.lower()]
    of_norms = [x for m in norms for x in m.parameters(recurse=False)]
    vectors = [x for x in of_norms or p.parameters.values() if x.dim() == 1 and x.numel() > 1 and x.is_floating_point()]
    return sum(bool((x != x[0]).any()) for x in vectors) > MOSTLY_CONSTANT * len(vectors)


def layer_stacks(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Return stacks of layers with their names: modules of the same weights side by side, in a plain list, or a Sequential."""
    found = []
    for name, module in model.named_modules():
        children = [x for x in module._modules.values() if x is not None and next(x.parameters(), None) is not None]
        forms = [tuple((n, x.shape) for n, x in child.named_parameters()) for child in children]
        lists = [[c for c, form in zip(children, forms, strict=True) if form == kind] for kind in set(forms) if len(kind) > 2]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            lists.append(children)
        for value in vars(module).values():
            if isinstance(value, list | tuple) and all(isinstance(v, nn.Module) for v in value):
                lists.append(list(value))
        found += [(name or "the model", layers) for layers in lists if len(layers) > 1]
    return found


FED_ZERO = Cause(
    "the branches of the blocks are fed exactly 0: what their input is multiplied by is 0",
    "print each factor before them: a norm's weight, a scale, a buffer (lost by to_empty() after meta)",
)


@once
@torch.no_grad()
def fed_zero(p: Patient) -> str:
    """Return how many of the linear layers get an input of exactly 0 whatever the tokens, if all in the blocks do; else ""."""
    names = {id(m): n for n, m in p.model.named_modules()}
    blocks = tuple(f"{names[id(x)]}." for x in block_stack(p)[1] if id(x) in names)
    largest: dict[str, float] = {}

    def measure(name: str):
        def hook(module, args):
            if args and isinstance(args[0], Tensor) and args[0].numel():
                largest[name] = max(largest.get(name, 0.0), args[0].abs().max().item())

        return hook

    hooks = [m.register_forward_pre_hook(measure(n)) for n, m in p.model.named_modules() if isinstance(m, nn.Linear)]
    try:
        with perturbed(p):  # gains may begin at 0
            p.logits(p.ids(ROWS, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    zero = sum(x == 0 for x in largest.values())
    layers = [block for block in blocks if any(n.startswith(block) for n in largest)]
    fed = all(next(x for n, x in largest.items() if n.startswith(block)) == 0 for block in layers)
    return f"the inputs of {zero} of {number_of(len(largest), 'linear layer')} are exactly 0" if layers and fed else ""


def block_stack(p: Patient) -> tuple[str, list[nn.Module]]:
    """Return the stack of layers with the most weights: the blocks. "" and [] if there is none."""

    def size(stack: tuple[str, list[nn.Module]]) -> int:
        return sum(x.numel() for x in nn.ModuleList(set(stack[1])).parameters())

    return max(layer_stacks(p.model), key=size, default=("", []))
