# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Speculative decoding
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/12_speculative_decoding.ipynb)
#
# **You will**
# 1. see two models write one text, and find out why it is exactly the large one's,
# 2. accept and reject guesses with three letters and by hand, and write the rule, tested by χ²,
# 3. follow one round step by step, and write the loop with two caches that must forget,
# 4. predict what it is worth, measure it with error bars, and explain the difference,
# 5. see when it loses, and guess without a second model.
#
# **You need** lessons 10 (probabilities to text) and 11 (the cache).
#
# **Time** 60 minutes to read, half a minute to run, an hour for the exercises.
#
# Words you do not know are in the [glossary](../docs/glossary.md).
#
# The first cell finds the course's code. It is the same in every lesson: run it and go on.

# %% jupyter={"source_hidden": true} tags=["bootstrap"] cellView="form"
# @title Find the course's code (run this cell, then go on)
import importlib.util, os, subprocess, sys, zipfile
from pathlib import Path
REPO = os.environ.get("PICOGPT_REPO", "https://github.com/not_yet_published/picogpt")
lesson = globals().get("__vsc_ipynb_file__") or globals().get("__file__") or "none"  # VS Code
starts, course = [Path(lesson).resolve().parent, Path.cwd()], Path.cwd() / "picogpt-course"
folders = [folder for start in starts for folder in (start, *start.parents)]
home = next((f for f in (*folders, course) if (f / "picogpt_core.py").exists()), None)
if home is None and importlib.util.find_spec("picogpt_core") is None:  # only this file is here
    archive = next(filter(Path.exists, (start / "picogpt-course.zip" for start in starts)), None)
    try:
        if archive:
            zipfile.ZipFile(archive).extractall(course)
        else:
            clone = ["git", "clone", "--quiet", "--depth", "1", REPO, str(course)]
            env = os.environ | {"GIT_TERMINAL_PROMPT": "0"}  # git must not wait for a password
            subprocess.run(clone, check=True, capture_output=True, text=True, timeout=300, env=env)
        home = (course / "picogpt_core.py").resolve(strict=True).parent  # it holds the course?
    except Exception as error:
        what = f"{archive} is damaged" if archive else f"{REPO} could not be cloned"
        why = str(getattr(error, "stderr", None) or error).strip()
        advice = "Put picogpt-course.zip ('make zip' writes it) next to this notebook and try again"
        raise RuntimeError(f"{what} ({why}). {advice}") from None
if home is not None and str(home) not in sys.path:
    sys.path.insert(0, str(home))

# %% tags=["setup"]
import itertools
import time
from functools import partial
from unittest import mock

import matplotlib.pyplot as plt
import torch

# %% tags=["setup"]
import torch.nn.functional as F
from matplotlib.patches import Rectangle

import picogpt
import picogpt_core as pc
from picogpt import draw

# %% tags=["setup"]
corpus = picogpt.load_corpus()
tokenizer = corpus.tokenizer
target, draft = picogpt.load_shipped("picogpt-6layer").model, picogpt.load_shipped("draft").model
pc.keep_freed_memory()  # PyTorch asks the system for memory less often: steadier timings
prompt = torch.tensor([tokenizer.encode("ROMEO:\n")])  # (1, T=7)

# %% [markdown]
# Here are two models, one about twenty times as large as the other. We let them write a text together.

# %%
settings = pc.SampleConfig(180, temperature=0.8, seed=2)
text, rounds = pc.generate_speculative(target, draft, prompt, settings, gamma=4)
left = settings.max_new_tokens - sum(accepted + 1 for _, accepted in rounds)  # by the large one
for name, model in (("large", target), ("small", draft)):
    loss = pc.evaluate(model, corpus.val[:20_000])
    print(f"{name} model: {pc.count_parameters(model):9,} parameters, loss {loss:.2f}")
print(f"{settings.max_new_tokens} characters, {len(rounds) + left} calls of the large model")

# %% jupyter={"source_hidden": true} cellView="form"
# @title Who wrote which character? Part 1 (run this cell)
COLOURS = {"given": "white", "small": draw.PALE, "large instead": draw.WARM, "large": draw.HERE}


def owners(rounds, given, length):
    """For each character, who wrote it. A round is (guesses, accepted ones)."""
    names = ["given"] * given
    for guessed, accepted in rounds:
        names += ["small"] * accepted + ["large instead" if accepted < guessed else "large"]
    return names + ["large"] * (length - len(names))


# %% jupyter={"source_hidden": true} cellView="form"
# @title Who wrote which character? Part 2 (run this cell)
def draw_owners(text, names, columns=46):
    places, row, column = [], 0, 0
    for character in text:
        places.append((column, row))
        row, column = (row + 1, 0) if character == "\n" or column == columns else (row, column + 1)
    _, ax = plt.subplots(figsize=(7.4, 0.27 * (row + 1) + 0.4), layout="constrained")
    for (x, y), shown, name in zip(places, picogpt.visible_characters(text), names):
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 0.96, 0.92, fc=COLOURS[name]))
        style = dict(family="monospace", ha="center", va="center", fontsize=10)
        ax.text(x, y, shown, color="white" if name == "large instead" else "black", **style)
    ax.set(xlim=(-0.7, columns + 0.7), ylim=(row + 0.6, -0.6))
    handles = [Rectangle((0, 0), 1, 1, fc=colour, label=name) for name, colour in COLOURS.items()]
    ax.figure.legend(handles=handles[1:], loc="outside lower center", ncols=3)
    ax.axis("off")

# %%
names = owners(rounds, prompt.shape[1], text.shape[1])
draw_owners(tokenizer.decode(text[0]), names)
plt.show()

# %% [markdown]
# What stands on pale blue was written by the small model, and that is most of the text. At a dark orange character the
# small model had guessed something else, and the large one refused and wrote this one *instead*. The light orange ones
# the large model added of its own accord. So the large model was called far less than once for each character, and its
# calls are what takes most of the time. (The two losses are those of the first 20,000 characters of the validation
# text, which are easier than the rest. On all of it the two models have 1.47 and 1.56. PicoGPT, with half as many
# parameters as the large one, has 1.43: of those two, the larger is not the better.)
#
# You would expect to pay for that with quality, since a text that is mostly by a small model must be a small model's
# text. But it is not. Each text comes with **exactly** the probability that it would have if the large model had
# written it alone. Not a similar one, and not "without a visible loss". (Up to rounding: a pass over five characters
# adds up in another order than five passes, and in 16 bits a near tie can then fall the other way.) You could collect
# thousands of such texts, and no statistics would tell you that there had been a second model. The field calls this
# *lossless*.
#
# This is **speculative decoding**. It sounds too good to be true, so this lesson has three questions. Why can a model
# *check* a text so much faster than it writes one? How can it take over somebody else's guesses without taking over
# somebody else's opinions? And what is it worth, when, and when not?
#
# Imagine first a guesser who costs nothing and is always right: any text then takes one pass. Next, one who costs
# nothing and is sometimes wrong: a pass for each mistake. The rest of the lesson is about guessers who cost something,
# too.
#
# ## A pass over a text confirms it
#
# Start with text that is easy to predict: the large model's own greedy text, in which every character is the likeliest.
# Now show the finished text to the same model, all of it in one pass. At each position it answers what it thinks comes
# next.

# %%
def likeliest_after(ids):
    """For each position, the character that the target expects next. (1, T) -> (T,)"""
    with torch.no_grad():
        return target(ids)[0].argmax(dim=1)


own = pc.generate(target, prompt, pc.SampleConfig(33, temperature=0))  # (1, T=40), in 33 steps
said = likeliest_after(own)  # (T,), in one pass

# %%
at = prompt.shape[1]  # 7: what was given is not to be confirmed
print("written  ", repr(tokenizer.decode(own[0, at:])))
print("confirmed", repr(tokenizer.decode(said[at - 1 : -1])))

assert torch.equal(own[0, at:], said[at - 1 : -1]), "a pass gives its own greedy text back"

# %% [markdown]
# The 33 characters took 33 passes to write, because none of them could begin before the last one was known. To confirm
# them took one. `said[t]` is the model's guess for character t + 1. So `said` is read from `at − 1` on: mind this
# shift, it comes back.
#
# So if somebody hands us a guess, a single pass tells how much of it is what we would have written. Let us spoil one
# character in the middle.

# %%
spoilt = own.clone()
spoilt[0, 20] = tokenizer.encode("x")[0]
said = likeliest_after(spoilt)
agree = said[at - 1 : -1] == spoilt[0, at:]  # (33,)
print("guessed  ", repr(tokenizer.decode(spoilt[0, at:])))
print("the model", repr(tokenizer.decode(said[at - 1 : -1])))
first = int((~agree).nonzero()[0])
print(f"the first {first} agree")

# %% [markdown]
# Up to the spoilt character everything is confirmed, and in its place the model says what belongs there. What it says
# further to the right is no use any more: those answers are about a text with an `x` in it.
#
# That is the whole idea for greedy text. Let a small, fast model write a few characters. Let the large one read them in
# one pass, which is to *verify* them. Keep what agrees, put the large model's own character where the first
# disagreement is, and go on from there.
#
# ## How much does a pass cost?
#
# With the cache of lesson 11, a pass over five new characters computes about five times as much as one over one. Does
# it take five times as long? Times are noisy, so we take them with some care: all jobs **in turn**, again and again,
# so that a busy moment of the machine meets all of them alike, and of each job the shortest time. What disturbs a
# program can only make it slower. (That is true of a time. A quotient of two times can be moved either way, which we
# shall meet at the end.)

# %%
def in_turn(jobs, repeats):
    """Seconds that each job takes, (repeats, jobs): one after the other, again and again."""
    times = torch.zeros(repeats, len(jobs))
    for row in times:
        for i, job in enumerate(jobs):
            began = time.perf_counter()
            job()
            row[i] = time.perf_counter() - began
    return times


# %%
@torch.inference_mode()
def reader_of(model, k, B=1, past=100, times=1):
    """A job: read k characters after a text of `past`, in B rows."""
    ids, cache = corpus.val[: 140 * B].view(B, 140), pc.KVCache(model.config, B)
    model(ids[:, :past], cache=cache)

    @torch.inference_mode()
    def job():
        for _ in range(times):
            cache.length = past  # forget what was read last time
            model(ids[:, past : past + k], cache=cache)

    return job

# %%
most = picogpt.budget(smoke=3, quick=9, full=13)
repeats = picogpt.budget(smoke=3, quick=80, full=400)
jobs = [reader_of(target, k) for k in range(1, most + 1)] + [reader_of(draft, 1)]
times = in_turn(jobs, repeats)  # (repeats, most + 1)
shortest = times.amin(dim=0)  # (most + 1,)
*checking, c = (shortest / shortest[0]).tolist()  # reading k + 1 characters; one by the draft

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(range(1, most + 1), checking, "o-", color=draw.INK, label="measured")
ax.plot([1, most], [1, most], ":", color="grey", label="if each cost as much as one")
ax.set(xlabel="characters read in one pass", ylabel="time, in passes over one", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# The measured line rises, but more slowly than the dotted one. To read one character, all weights have to be fetched
# and well over a hundred operations to be started (lesson 11 counted them), and each weight is then used once. To read
# nine, the same weights are fetched and the same operations started, only with more rows in each. (Do not read much
# into the dents. From one character to two a mask joins in, and the code that multiplies matrices likes some numbers of
# rows better than others.) A pass that waits for its weights is called *memory-bound*. (The extreme is a model whose
# weights do not fit, and come from a slower memory for every pass. There reading five costs what reading one does, and
# each accepted guess saves a whole pass.) With a model as small as ours, starting the operations counts at least as
# much. (A pass of the small model was timed with the others. We shall need it for a prediction.)
#
# So reading is cheap and writing is expensive, because a writer does not know the next characters yet. A guess is as
# good as knowing, if it can be checked.
#
# ## Guess and check, with three letters
#
# For text that is *drawn*, agreement is not the point any more. If the large model gives 0.3 to `a` and the guess is
# `a`, should we take it? Sometimes. How often, and what do we write if not? From here on the small model is called the
# **draft**, and the large one the **target**. Three letters are enough to find out.

# %%
letters = "abc"
p_draft = torch.tensor([0.6, 0.3, 0.1])  # (V=3,)
p_target = torch.tensor([0.3, 0.4, 0.3])  # (V,)
both = torch.minimum(p_draft, p_target)  # (V,): where the two agree
missing = (p_target - p_draft).clamp(min=0)  # (V,): the residual: what the draft lacks
bars = torch.arange(3)

# %%
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.bar(bars - 0.2, p_draft, 0.36, color="lightgrey", label="draft")
ax.bar(bars + 0.2, both, 0.36, color=draw.INK, label="target: the draft has it too")
ax.bar(bars + 0.2, missing, 0.36, bottom=both, color=draw.WARM, label="target: the residual")
ax.set_xticks(bars, list(letters), fontsize=13)
ax.set(ylabel="probability", ylim=(0, 0.75))
ax.legend(fontsize=10)
plt.show()

# %% [markdown]
# The draft guesses `a` too often, 0.6 where 0.3 would be right. So we accept only half of its `a`s: the share that is
# right, 0.3 / 0.6. It guesses `b` and `c` too seldom, so we accept all of them. In one line: **a guess x is accepted
# with the probability min(1, p_target(x) / p_draft(x))**. What gets through is the dark part of the picture, the
# smaller of the two bars. What is still missing is the orange part, the target less the draft where that is positive.
# Divided by its sum it is called the *residual distribution*.

# %%
print("letter  draft  target  accepted with  gets through  missing")
for i, letter in enumerate(letters):
    accept = min(1.0, (p_target[i] / p_draft[i]).item())
    print(f"{letter:6} {p_draft[i]:6.1f} {p_target[i]:7.1f} {accept:14.2f}", end="")
    print(f" {p_draft[i] * accept:13.2f} {missing[i]:8.2f}")
print(f"{'sum':30} {both.sum():19.2f} {missing.sum():8.2f}")

# %% [markdown]
# Look at the sums. In 70 of 100 cases the guess gets through, and 0.3 is missing in the text. But in the other 30 of
# 100 cases, the guess was rejected, and we have to write *something*. So **after a rejection, draw from the residual
# distribution**. (If you know *rejection sampling*, you will recognise it, except that there one tries again.) The two
# amounts fit, and not by luck. Both distributions sum to 1 and share the dark part, so the rest of the draft's bars is
# as large as the rest of the target's.
#
# That is the proof, too. A letter x comes out in two ways: as a guess that gets through, with probability min(p_draft,
# p_target), or after a rejection, with max(0, p_target − p_draft). Dark plus orange is p_target(x), for every x and for
# *any* draft whatever.
#
# <details><summary>Before you run the next cell: after a rejection it would be simpler to draw from the whole of
# p_target. Which letter would come too often?</summary>
#
# A rejection happens only when the guess was `a`, and then some `a`s come back. So `a` comes too often, at the cost of
# the others: 0.3 + 0.3 · 0.3 = 0.39.
# </details>
#
# Nothing here has to be believed. We draw 100,000 letters in each of three ways. The first is the rule. The second
# draws from the whole target after a rejection. The third is the first thing that comes to mind for drawn text: let the
# target draw a letter of its own, and accept the guess if it is the same.

# %%
N, generator = 100_000, torch.Generator().manual_seed(0)


def draws(probs):
    return torch.multinomial(probs, N, replacement=True, generator=generator)  # (N,)


# %%
guess = draws(p_draft)
accepted = torch.rand(N, generator=generator) < (p_target / p_draft)[guess]
drawn = draws(p_target)
ways = {
    "the rule": (accepted, torch.where(accepted, guess, draws(missing / missing.sum()))),
    "redraw from the whole target": (accepted, torch.where(accepted, guess, drawn)),
    "draw and compare": (guess == drawn, drawn),
}

# %% tags=["check"]
def chi_square(counts, probs):
    """How far counts are from what probabilities lead one to expect."""
    expected = counts.sum() * probs
    return ((counts - expected) ** 2 / expected).sum().item()


# %%
print(f"{'target':29} {'   '.join(f'{p:.3f}' for p in p_target)}")
for way, (kept, out) in ways.items():
    counts = out.bincount(minlength=3)
    shares = "   ".join(f"{share:.3f}" for share in counts / N)
    print(f"{way:29} {shares}   accepted {kept.float().mean():.2f}", end="")
    print(f"   χ² {chi_square(counts, p_target):.1f}")

# %% [markdown]
# The last number is **χ²**, the sum of (counted − expected)² / expected over the letters. If the letters do come from
# the target, it is 2 on average for three letters, and above 13.8 in one case in a thousand. The rule passes. The
# second way does not, although its text would look entirely normal: it is another model's text.
#
# The third way passes as well! It has to, for it always writes the target's own draw. But see how often it accepts. Two
# models that agree in every probability would still often draw two different letters, and this way calls that a
# disagreement. The rule does not ask whether the guess is what the target would have drawn, only whether the target can
# *live with it*. That is where the speed comes from.
#
# The probability that a guess is accepted is the dark area, Σ min(p_draft, p_target), and is called the **acceptance
# rate α**. No rule that keeps the target's distribution and judges one guess at a time can accept more, as the picture
# shows: of `a` no more than 0.3 may come out, and of `b` no more than 0.3 is ever guessed.
#
# ## From one letter to a text
#
# The draft does not guess one character but several, γ of them (*gamma*, the name used in the literature), each from
# the text and its guesses so far. The target reads the last character of the text and all γ guesses at once, which
# gives γ + 1 rows of probabilities. Then the guesses are judged from left to right:
#
# - guess *i* (counted from 0) is judged by row *i* of the target, which is what the target expects *in its place*,
# - the first guess that is rejected is replaced by a draw from the residual distribution, and all guesses after it are
#   thrown away,
# - if none is rejected, the last row is still unused, and gives one more character for free, the *bonus token*.
#
# So each round gives between 1 and γ + 1 characters. Why is the whole text right, and not only a letter? Because every
# character that stays was made by the rule above, from the two models' probabilities *after the text in front of it*.
# Given that text, it has the target's distribution. This holds for the first character, hence for the second, and so
# on, which is all that "distributed as the target's text" means.
#
# ### Exercise 1 · Accept
#
# Write `accept(guesses, p_draft, p_target, generator)`, with the guesses (γ,), the probabilities that they were drawn
# from (γ, V), and the target's (γ + 1, V). Return how many guesses are accepted, and the character that follows them.
# Draw with `torch.rand((), generator=generator)` and `torch.multinomial(probs, 1, generator=generator)`. (15 minutes)
#
# The check lets a draft of three letters guess twice, thousands of times, and compares the first letter and all three
# with the target's by χ².

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: two models of three letters (run this cell)
DRAFT = torch.tensor([[0.2, 0.2, 0.6], [0.5, 0.4, 0.1], [0.0, 0.5, 0.5]])  # after a, b, c
TARGET = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])


def by_ratio(g, t, x):
    return (t[x] / g[x]).clamp(max=1)


rest_of = lambda g, t, x: (t - g).clamp(min=0)  # noqa: E731


def outcomes(chance=by_ratio, redraw=rest_of, shift=0, last=2, free=None, judged=2, extra=0):
    """How often each outcome should come: (first guess, second guess, accepted, what follows)."""
    table = torch.zeros(3, 3, 3, 3)
    for a, b in itertools.product(range(3), repeat=2):
        guess, truth = DRAFT[[0, a]], TARGET[[0, a, b]]  # (2, V), (3, V)
        reached = DRAFT[0, a] * DRAFT[a, b]
        for i, x in enumerate((a, b)[:judged]):
            row = guess[i], truth[i + shift], x
            p, instead = chance(*row), redraw(*row)  # (), (V,)
            table[a, b, i + extra] = reached * (1 - p) * instead / instead.sum()
            reached = reached * p
        table[a, b, 2] += reached * (free or torch.clone)(truth[last])
    return table


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2: the usual slips (run this cell)
def others(g, t, x):
    return t.index_fill(0, torch.tensor([x]), 0.0)  # the target without the guess


SLIPS = {
    "draw from max(0, target - draft), not from all of the target": dict(redraw=lambda g, t, x: t),
    "the ratio is upside down": dict(chance=lambda g, t, x: (g[x] / t[x]).clamp(max=1)),
    "accept with target / draft, not with target alone": dict(chance=lambda g, t, x: t[x]),
    "row i of the target judges guess i, not row i + 1": dict(shift=1),
    "leave it to chance: not a fixed bar": dict(chance=lambda g, t, x: (t[x] >= g[x]).float()),
    "every guess is accepted": dict(chance=lambda g, t, x: torch.tensor(1.0)),
    "here the draft draws again": dict(redraw=lambda g, t, x: g),
    "drawn, not the likeliest of them": dict(redraw=lambda g, t, x: (t - g >= max(t - g)).float()),
    "cut the difference off at 0": dict(redraw=lambda g, t, x: (t - g).abs()),
    "target - draft, not draft - target": dict(redraw=lambda g, t, x: (g - t).clamp(min=0)),
    "exact, but it accepts too few": dict(chance=lambda g, t, x: t[x], redraw=others),
    "if all are accepted, the last row gives one more": dict(last=1),
    "the letter after the last guess is drawn, too": dict(free=lambda t: (t >= t.max()).float()),
    "judge all guesses, not only the first": dict(judged=1),
    "count the accepted guesses only: i of them, not i + 1": dict(extra=1),
}
RIGHT, LAWS = outcomes(), {words: outcomes(**change) for words, change in SLIPS.items()}


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3: your function is asked thousands of times (run this cell)
def one_outcome(accept, a, b, generator):
    answer = accept(torch.tensor([a, b]), DRAFT[[0, a]], TARGET[[0, a, b]], generator)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise ValueError("return two things: how many are accepted, and the next letter")
    kept, token = int(answer[0]), int(answer[1])
    if not (0 <= kept <= 2 and 0 <= token <= 2):
        raise ValueError(f"of 2 guesses it accepted {kept}, and the next letter is {token}")
    return a, b, kept, token


def outcome_counts(accept, times=1500):
    """What came out, counted as in `outcomes`."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(3, 3, 3, 3)
    first = torch.multinomial(DRAFT[0], times, replacement=True, generator=generator)
    second = torch.multinomial(DRAFT[first], 1, generator=generator)[:, 0]
    for a, b in zip(first.tolist(), second.tolist()):
        counts[one_outcome(accept, a, b, generator)] += 1
    return counts


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4: three letters of each text (run this cell)
LAW = TARGET[0][:, None, None] * TARGET[:, :, None] * TARGET[None]  # (3, 3, 3), of three letters


def letters_from(counts):
    """The letters that the texts begin with, counted (3, 3, 3)."""
    texts, generator = torch.zeros(3, 3, 3), torch.Generator().manual_seed(1)
    for a, b, kept, token in itertools.product(range(3), repeat=4):
        n, begun = int(counts[a, b, kept, token]), (*(a, b)[:kept], token)
        if n:  # in the next round, the target goes on
            law = LAW[begun] / LAW[begun].sum()  # (3,) * (3 - letters)
            some = torch.multinomial(law.flatten(), n, replacement=True, generator=generator)
            texts[begun] += some.bincount(minlength=law.numel()).view(law.shape)
    return texts


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 5 (run this cell)
def check_accept(accept):
    try:
        counts = outcome_counts(accept)
    except Exception as error:
        return print(f"not yet: {type(error).__name__}: {error}")
    texts, n = letters_from(counts), counts.sum()  # (3, 3, 3)
    of_first = chi_square(texts.sum(dim=(1, 2)), TARGET[0])
    of_three = chi_square(texts.flatten(), LAW.flatten())
    fits = {words: (counts * (law + 1e-9).log()).sum() for words, law in LAWS.items()}
    likeliest = max(fits, key=fits.get)
    kept, wanted = (table.sum((0, 1, 3)) @ torch.arange(3.0) for table in (counts / n, RIGHT))
    found = f"χ² is {of_first:.1f} for the first letter (mean 2), {of_three:.1f} for all (mean 26)"
    if (counts * (RIGHT + 1e-9).log()).sum() < fits[likeliest]:
        print(f"not yet: {likeliest}. {found}")
    elif of_first > 13.8 or of_three > 54 or abs(kept - wanted) > 0.08:
        print(f"not yet: {found}; {kept:.2f} of 2 guesses accepted, and {wanted:.2f} can be")
    else:
        print(f"✓ {found}; {kept:.2f} of 2 guesses accepted")


# %% tags=["exercise"]
def accept(guesses, p_draft, p_target, generator): ...  # your code


check_accept(accept)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def accept(guesses, p_draft, p_target, generator):
    for i, x in enumerate(guesses.tolist()):
        if torch.rand((), generator=generator) >= p_target[i, x] / p_draft[i, x]:  # rejected
            rest = (p_target[i] - p_draft[i]).clamp(min=0)  # (V,)
            return i, torch.multinomial(rest / rest.sum(), 1, generator=generator)
    return len(guesses), torch.multinomial(p_target[-1], 1, generator=generator)


check_accept(accept)

# %% [markdown]
# ## One round, step by step
#
# Now with the real models, and slowly. Both have read all of the text but its last character, and keep what they read
# in their caches. (That the last one is unread is how every step of lesson 11 begins, too.)

# %%
gamma, start = 4, "ROMEO:\nThe "
ids = torch.tensor([tokenizer.encode(start)])  # (1, T)
T = ids.shape[1]
caches = {model: pc.KVCache(model.config) for model in (target, draft)}
with torch.no_grad():
    for model, cache in caches.items():
        model(ids[:, :-1], cache=cache)  # prefill
print(f"{T} characters of text, {caches[target].length} in each cache")

# %%
@torch.no_grad()
def next_probs(model, ids, last):
    """Reads what is not in the model's cache. For each of the last positions, what may follow."""
    cache = caches[model]
    logits = model(ids[:, cache.length :], cache=cache)  # (1, unread, V)
    return pc.next_token_probs(logits[0, -last:], pc.SampleConfig(temperature=0.8))  # (last, V)


# %% [markdown]
# **The draft writes.** Nothing new here, except that we keep each row of probabilities that it drew from.

# %%
generator, p_draft = torch.Generator().manual_seed(7), []
for _ in range(gamma):
    p_draft.append(next_probs(draft, ids, 1)[0])  # (V,)
    guess = torch.multinomial(p_draft[-1], 1, generator=generator)  # (1,)
    ids = torch.cat([ids, guess[None]], dim=1)  # (1, T + 1), (1, T + 2) …
p_draft, guesses = torch.stack(p_draft), ids[0, T:]  # (γ, V), (γ,)
print(f"the draft wrote {tokenizer.decode(guesses)!r} in {gamma} passes")

# %% [markdown]
# **The target reads.** One pass over everything that it has not read: the last character of the text, and the guesses.

# %%
read = ids.shape[1] - caches[target].length
p_target = next_probs(target, ids, gamma + 1)  # (γ + 1, V)
print(f"the target read {read} characters in 1 pass, which gave {len(p_target)} rows")
print("in the caches:", ", ".join(f"{cache.length}" for cache in caches.values()))

# %% [markdown]
# **The verdict.** Each guess is accepted with the probability target / draft. So we draw a random number u between 0
# and 1, and accept if it lies below.

# %%
chance, verdicts = torch.Generator().manual_seed(8), []
print("guess  draft  target  accepted with     u")
for i, x in enumerate(guesses.tolist()):
    p = min(1.0, (p_target[i, x] / p_draft[i, x]).item())
    u = torch.rand((), generator=chance).item()
    verdicts.append((u, p))
    print(f"{tokenizer.chars[x]!r:5} {p_draft[i, x]:6.2f} {p_target[i, x]:7.2f} {p:14.2f}", end="")
    print(f" {u:9.2f}  {'accepted' if u < p else 'rejected'}")
    if u >= p:
        break
accepted = sum(u < p for u, p in verdicts)

assert 0 < accepted < gamma, "the text below wants a round of both: take another seed"

# %% [markdown]
# The first guess that is rejected ends the round, since those after it were made for a text that will not be. In its
# place comes a draw from the residual distribution. Here are its largest shares.

# %%
rest = (p_target[accepted] - p_draft[accepted]).clamp(min=0)  # (V,)
rest = rest / rest.sum()
for x in rest.argsort(descending=True)[:4].tolist():
    print(f"{tokenizer.chars[x]!r:5} draft {p_draft[accepted, x]:.2f}  ", end="")
    print(f"target {p_target[accepted, x]:.2f}  drawn with {rest[x]:.2f}")
instead = torch.multinomial(rest, 1, generator=chance)  # (1,)
print(f"drawn: {tokenizer.chars[instead]!r}, which had {rest[instead].item():.2f}")

# %% [markdown]
# **And forget.** Both caches hold keys and values of guesses that are no longer part of the text, and every later
# character would attend to them. What is still true ends just before the new character, which nobody has read yet. So
# both are cut to the length of the text less one, if they are longer.

# %%
ids = torch.cat([ids[:, : T + accepted], instead[None]], dim=1)  # (1, T + accepted + 1)
before = [cache.length for cache in caches.values()]
for cache in caches.values():
    cache.length = min(cache.length, ids.shape[1] - 1)  # the new character has not been read
after = [cache.length for cache in caches.values()]
print(f"text: {ids.shape[1]} characters, {accepted + 1} more than before")
print(f"in the target's cache: {before[0]}, now {after[0]}")
print(f"in the draft's cache:  {before[1]}, now {after[1]}")

# %%
core = pc.accept_draft(guesses, p_draft, p_target, torch.Generator().manual_seed(8))
print("the core's accept_draft, with the same random numbers:", core[0], "accepted, then", end=" ")
print(repr(tokenizer.chars[core[1]]))

assert core[0] == accepted and core[1] == instead, "the same verdict"

# %% [markdown]
# Here is the whole round as a drawing, made from the numbers above. Time runs from top to bottom.

# %% jupyter={"source_hidden": true} cellView="form"
# @title The round as a drawing, part 1: rows of tiles (run this cell)
SHOWN = 4  # characters of the text before the guesses


def tiles(ax, y, words, colours, first=0, below=()):
    for x, (word, colour) in enumerate(zip(words, colours), start=first):
        box = dict(boxstyle="round,pad=0.35", fc=colour, ec=draw.INK)
        style = dict(ha="center", va="center", family="monospace", fontsize=13)
        ax.text(x, y, word, bbox=box, color="white" if colour == draw.WARM else "black", **style)
    for x, word in enumerate(below, start=first):
        ax.text(x, y - 0.62, word, ha="center", va="center", fontsize=11, color=draw.INK)


def cache_bar(ax, y, before, after, name):
    """The cells of a cache, from the position of the first tile on: kept, forgotten."""
    for x in range(before - (T - SHOWN)):
        kept = x < after - (T - SHOWN)
        style = dict(fc=draw.PALE, ec=draw.INK) if kept else dict(fc="white", ec=draw.WARM, ls="--")
        ax.add_patch(Rectangle((x - 0.42, y - 0.25), 0.84, 0.5, **style))
        if not kept:
            ax.text(x, y, "×", ha="center", va="center", color=draw.WARM, fontsize=13)
    ax.text(-0.5, y + 0.55, name, va="center", fontsize=11)

# %% jupyter={"source_hidden": true} cellView="form"
# @title The round as a drawing, part 2: draft and target (run this cell)
def draw_round(ax):
    def label(y, words):
        ax.text(-0.5, y, words, va="center", fontsize=11)

    seen = picogpt.visible_characters(start[-SHOWN:])
    drafted = picogpt.visible_characters(tokenizer.decode(guesses))
    shares = [f"{p[x]:.2f}" for p, x in zip(p_draft, guesses)]
    label(0.75, "the text, and what the draft writes, one pass each (below: its probability)")
    tiles(ax, 0, seen, [draw.PALE] * SHOWN)
    tiles(ax, 0, drafted, ["white"] * gamma, SHOWN, shares)
    label(-1.35, "the target reads all of these in one pass, and says how likely each of them is")
    box = dict(fc="none", ec=draw.WARM, lw=2)
    ax.add_patch(Rectangle((SHOWN - 1.48, -2.5), gamma + 0.96, 0.8, **box))
    tiles(ax, -2.1, seen[-1:] + drafted, [draw.PALE] + ["white"] * gamma, SHOWN - 1)
    for i, x in enumerate(guesses.tolist()):
        ax.text(SHOWN + i, -2.95, f"{p_target[i, x]:.2f}", ha="center", va="center", fontsize=11)
    for i in range(gamma + 1):  # row i is the answer at the character to the left
        arrow = dict(arrowstyle="->", color=draw.WARM)
        ends = dict(xy=(SHOWN + i - 0.28, -2.88), xytext=(SHOWN - 1 + i, -2.5))
        ax.annotate("", arrowprops=arrow, **ends)
    ax.text(SHOWN + gamma - 0.2, -2.95, "(bonus)", va="center", fontsize=11)


# %% jupyter={"source_hidden": true} cellView="form"
# @title The round as a drawing, part 3: verdict, text and caches (run this cell)
def draw_verdict(ax):
    def label(y, words):
        ax.text(-0.5, y, words, va="center", fontsize=11)

    label(-3.45, "the verdict: is the random number below target / draft?")
    for i, (u, p) in enumerate(verdicts):
        sign = f"{u:.2f}\n< {p:.2f}\naccepted" if u < p else f"{u:.2f}\n≥ {p:.2f}\nrejected"
        ax.text(SHOWN + i, -4.2, sign, ha="center", va="center", fontsize=10)
    label(-5.1, "the text after the round")
    new = picogpt.visible_characters(tokenizer.decode(instead))
    colours = [draw.PALE] * (SHOWN + accepted) + [draw.WARM]
    kept = picogpt.visible_characters(start[-SHOWN:] + tokenizer.decode(guesses[:accepted]))
    tiles(ax, -5.75, kept + new, colours)
    cache_bar(ax, -7.3, before[0], after[0], "the target's cache: kept, and forgotten")
    cache_bar(ax, -8.5, before[1], after[1], "the draft's cache")

# %%
fig, ax = plt.subplots(figsize=(7.4, 7.2), layout="constrained")
draw_round(ax)
draw_verdict(ax)
ax.set(xlim=(-0.7, SHOWN + gamma + 0.4), ylim=(-9, 1.1))
ax.axis("off")
plt.show()

# %% [markdown]
# Two things are easy to get wrong, and both can be seen here. The number under a guess comes from the target's answer
# at the character *to its left*: that is the shift from the beginning. And the two caches differ in length. The target
# has read every guess, while the draft never reads its last one, because nothing came after it that it had to write.
#
# <details><summary>What must the draft read in the next round if all γ guesses were accepted?</summary>
#
# Two characters. The text has then grown by γ + 1. The draft has read all guesses but the last, so both that one and
# the free character are new to it. With `ids[:, cache.length :]` this comes by itself. A program that always feeds the
# draft the last character only has a bug here, which gpt-fast prevents with an extra pass. We shall see what it does.
# </details>
#
# ### Exercise 2 · The loop
#
# Write `speculate(target, draft, ids, n, gamma, settings, generator)`: continue ids (1, T) by n characters and return
# them all, (1, T + n). Both models get a cache of their own, and nothing that was accepted is read twice. The last
# round must not give more than is left. With r characters to go, guess at most r − 1, since the round adds one more.
# For the verdict take `pc.accept_draft(guesses, p_draft, p_target, generator)`, which is your `accept`. (30 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: what is read, and by whom (run this cell)
def readings(function, *models):
    """What a function returns, and how many characters each call of the models had to read."""
    calls, hooks = [[] for _ in models], []
    for model, log in zip(models, calls):
        note = lambda part, args, out, log=log: log.append(args[0].shape[1])  # noqa: E731
        hooks.append(model.wte.register_forward_hook(note))
    try:
        return function(), *calls
    finally:
        for hook in hooks:
            hook.remove()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2: your loop on its own (run this cell)
def forbidden(*args, **kwargs):
    raise RuntimeError("write the loop yourself, without the core's generate functions")


@torch.no_grad()
def theirs(speculate, target, draft, ids, n, gamma, settings, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with mock.patch.multiple(pc, generate=forbidden, generate_speculative=forbidden):
        answer = speculate(target, draft, ids.clone(), n, gamma, settings, generator)
    if not isinstance(answer, torch.Tensor) or answer.shape != (1, ids.shape[1] + n):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else repr(answer)[:40]
        raise ValueError(f"for ids (1, {ids.shape[1]}) and n = {n} it returned {got}")
    return answer


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3: greedy text (run this cell)
def why_greedy_text_is_wrong(speculate):
    """What is wrong with greedy text of the real models, in words; or None."""
    n, settings = 40, pc.SampleConfig(40, temperature=0)
    right, rounds = pc.generate_speculative(target, draft, prompt, settings, gamma=3)
    calls = len(rounds) + 2  # a prefill of its own is fine, and a last round without a guess
    enough = len(prompt[0]) + sum(guessed + 1 for guessed, _ in rounds) + 1
    drafts = len(prompt[0]) + sum(guessed + (guessed == kept) for guessed, kept in rounds) + 2
    mine = partial(theirs, speculate, target, draft, prompt, n, 3, settings)
    answer, by_target, by_draft = readings(mine, target, draft)
    if not torch.equal(answer, right):
        at = int((answer != right)[0].nonzero()[0]) - len(prompt[0])
        return f"character {at} is not the target's. Which row judges which guess? What is cached?"
    if len(by_target) >= n:
        return f"the right text, but {len(by_target)} calls of the target for {n} characters"
    if len(by_target) > calls:
        return f"{len(by_target)} rounds, and {calls} are enough. Is the draft's cache right?"
    if sum(by_target) > enough:
        return f"the target read {sum(by_target)} characters, and {enough} are enough"
    if sum(by_draft) > drafts:
        return f"the draft read {sum(by_draft)} characters, and {drafts} are enough"
    return None


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4: drawn text, by χ² (run this cell)
def small_models():
    """Two GPTs of three letters, that differ from each other."""
    with torch.random.fork_rng():
        for seed in (21, 22):
            torch.manual_seed(seed)
            shape = dict(vocab_size=3, block_size=8, n_layer=1, n_head=1, n_embd=8)
            model = pc.GPT(pc.ModelConfig(**shape)).eval()
            model.lm_head.weight.data *= 6
            yield model


@torch.no_grad()
def triples_off(speculate, times=350):
    """χ² of the first three letters that the small models write; all three can be guesses."""
    (big, small), settings = small_models(), pc.SampleConfig(4, temperature=0.5)
    ids, triples = torch.zeros(1, 2, dtype=torch.long), torch.zeros(3, 3, 3)
    texts = torch.tensor([[0, 0, a, b] for a in range(3) for b in range(3)])  # (9, T=4)
    p = pc.next_token_probs(big(texts), settings).view(3, 3, 4, 3)  # of letter a, b, position, next
    for seed in range(times):
        a, b, c = theirs(speculate, big, small, ids, 4, 3, settings, seed)[0, 2:5].tolist()
        triples[a, b, c] += 1
    law = p[0, 0, 1][:, None, None] * p[:, 0, 2][:, :, None] * p[:, :, 3]  # (3, 3, 3)
    return chi_square(triples.flatten(), law.flatten())


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 5 (run this cell)
def check_speculate(speculate):
    try:
        wrong = why_greedy_text_is_wrong(speculate)
        off = 0.0 if wrong else triples_off(speculate)
    except Exception as error:
        return print(f"not yet: {type(error).__name__}: {error}")
    if wrong:
        print(f"not yet: {wrong}")
    elif not off < 54:
        print(f"not yet: greedy text is right, but triples have χ² {off:.0f} (mean 26)", end=". ")
        print("Is row i of p_draft what guess i was drawn from?")
    else:
        print(f"✓ the target's text: greedy, and drawn (χ² of triples is {off:.1f}, mean 26)")


# %% tags=["exercise"]
def speculate(target, draft, ids, n, gamma, settings, generator): ...  # your code


check_speculate(speculate)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def speculate(target, draft, ids, n, gamma, settings, generator):
    caches = {model: pc.KVCache(model.config) for model in (target, draft)}
    end = ids.shape[1] + n

    def probs(model, last):  # (last, V)
        unread = ids[:, caches[model].length :]
        return pc.next_token_probs(model(unread, cache=caches[model])[0, -last:], settings)

    while (here := ids.shape[1]) < end:
        p_draft = torch.zeros(0, target.config.vocab_size)  # (guesses, V)
        for _ in range(min(gamma, end - here - 1)):
            p_draft = torch.cat([p_draft, probs(draft, 1)])
            ids = torch.cat([ids, torch.multinomial(p_draft[-1:], 1, generator=generator)], dim=1)
        p_target = probs(target, len(p_draft) + 1)  # (guesses + 1, V)
        accepted, token = pc.accept_draft(ids[0, here:], p_draft, p_target, generator)
        ids = torch.cat([ids[:, : here + accepted], token.view(1, 1)], dim=1)
        for cache in caches.values():
            cache.length = min(cache.length, ids.shape[1] - 1)
    return ids


check_speculate(speculate)

# %% [markdown]
# ## A loop for any guesser
#
# In your loop the target does not care where the guesses come from. It sees guesses, and the probabilities that they
# were drawn from. So let us write it once more, with the guesser as an argument, for then we can exchange it. The draft
# with its cache becomes one guesser among others.

# %%
@torch.inference_mode()
def write(target, guess, n, settings, gamma=4, ids=prompt):
    """Continue ids (1, T) by n characters. The text, and (guesses, accepted) of each round."""
    generator = torch.Generator().manual_seed(settings.seed)
    cache, end, rounds = pc.KVCache(target.config), ids.shape[1] + n, []
    while (here := ids.shape[1]) < end:
        guesses, p_draft = guess(ids, min(gamma, end - here - 1), generator)  # (m,), (m, V)
        ids = torch.cat([ids, guesses[None]], dim=1)  # (1, here + m)
        logits = target(ids[:, cache.length :], cache=cache)[0, -len(guesses) - 1 :]  # (m + 1, V)
        p_target = pc.next_token_probs(logits, settings)  # (m + 1, V)
        accepted, token = pc.accept_draft(guesses, p_draft, p_target, generator)
        ids = torch.cat([ids[:, : here + accepted], token], dim=1)  # (1, here + accepted + 1)
        cache.length = here + accepted
        rounds.append((len(guesses), accepted))
    return ids, rounds


# %%
def drafted_by(draft, settings):
    """A guesser: a model with a cache of its own."""
    cache = pc.KVCache(draft.config)

    def guess(ids, m, generator):
        here, p_draft = ids.shape[1], torch.zeros(0, draft.config.vocab_size)  # (guesses, V)
        cache.length = min(cache.length, here - 1)  # what was rejected is not in ids any more
        for _ in range(m):
            logits = draft(ids[:, cache.length :], cache=cache)[0, -1:]  # (1, V)
            p_draft = torch.cat([p_draft, pc.next_token_probs(logits, settings)])
            ids = torch.cat([ids, pc.sample_token(p_draft[-1:], generator)], dim=1)
        return ids[0, here:], p_draft  # (m,), (m, V)

    return guess


# %%
n = picogpt.budget(smoke=20, quick=100, full=240)
for temperature in (0, 0.8):
    settings = pc.SampleConfig(n, temperature=temperature, seed=2)
    mine, _ = write(target, drafted_by(draft, settings), n, settings)
    core = pc.generate_speculative(target, draft, prompt, settings, gamma=4)
    agree = (mine == core.ids)[0, : prompt.shape[1] + n - 1]
    print(f"temperature {temperature}: {int(agree.sum())} of {len(agree)} characters as the core's")
    assert agree.all(), "the same random numbers, the same text"

# %% [markdown]
# These are the texts of `pc.generate_speculative`. (The very last character is left out: if a single one is to go, the
# core lets the target write it, with a new seed.) The core can do one thing more. When the window of 256 is full, every
# position shifts with each new character, and no cache is right any more (lesson 11), so from there on it lets the
# target go on alone. Greedy text shows that nothing changes at the seam:

# %%
greedy = pc.SampleConfig(picogpt.budget(smoke=30, quick=270, full=600), temperature=0)
alone = pc.generate(target, prompt, greedy)
together = pc.generate_speculative(target, draft, prompt, greedy, gamma=4)
print(f"{int((together.ids == alone).sum())} of {alone.shape[1]} characters the same")

assert torch.equal(together.ids, alone), "the target's own text"


# %% [markdown]
# ## What goes wrong
#
# Here are two bugs with the caches that are easily made. In both, a program decides for itself what is to be read,
# instead of asking the cache. In the first, the **target's cache keeps** the rejected guesses. In the second, the
# **draft misses a guess**: it always reads the last character only, which is one too few after a round in which all
# were accepted (the draft then owes two: its own last guess and the free character). And for comparison, we take a
# draft that was never trained.

# %%
def keeps_everything(model):
    """The model, with a cache that nobody shortens."""
    own = pc.KVCache(model.config)

    def read(ids, cache):
        cache.length += ids.shape[1]  # what the loop believes
        return model(ids, cache=own)

    read.config = model.config
    return read


def misses_a_guess(model):
    """The model, which after its prompt reads the last character only, whatever it is given."""

    def read(ids, cache):
        return model(ids[:, -1:] if cache.length else ids, cache=cache)

    read.config = model.config
    return read


# %%
torch.manual_seed(0)
untrained = pc.GPT(draft.config).eval()
n, settings = 40, pc.SampleConfig(40, temperature=0, seed=0)
greedy_text = pc.generate(target, prompt, settings)
cases = {
    "as it should be": (target, drafted_by(draft, settings)),
    "the target's cache keeps": (keeps_everything(target), drafted_by(draft, settings)),
    "the draft misses a guess": (target, drafted_by(misses_a_guess(draft), settings)),
    "a draft never trained": (target, drafted_by(untrained, settings)),
}

# %%
for name, (reader, guess) in cases.items():
    ids, rounds = write(reader, guess, n, settings)
    same = "the target's own text" if torch.equal(ids, greedy_text) else "ANOTHER TEXT         "
    print(f"{name:25} {same}  {n / len(rounds):.2f} characters a round")

# %% [markdown]
# The lines teach a rule for debugging. **A mistake on the target's side changes the text. A bad guess cannot**, however
# it came about, since it is judged like any other. It only costs speed, and so nobody notices. The third line is the
# treacherous one: no error, no wrong character, only fewer of them a round. If your speculation is slower than it
# should be, look at the draft's cache. (There is one thing that the draft must not get wrong. The probabilities which
# it hands over must be those that it drew from.)
#
# <details><summary>Which bug would this greedy test never find?</summary>
#
# A redraw from the whole target after a rejection, or a p_draft that is not what the guesses were drawn from. In greedy
# text all probability is on one character. If the guess is another one, then max(0, target − draft) *is* the target, so
# the slip changes nothing. Greedy text tests the plumbing. The rule itself is tested by drawing, and by χ²: see
# exercise 1, and `tests/test_cache.py`, which does it with the core's function.
# </details>
#
# A good place for a break. You have the rule and the loop, and both are exact. What follows asks what they are worth.
#
# ## How often is a guess accepted?
#
# In the three letters, α was the dark area. A real model has another pair of distributions at each position, so we take
# the area at every position of a text and average it. Of which text? Of the target's own, since that is what is
# written. We let the target write sixteen texts, and take validation text beside it.

# %%
length = picogpt.budget(smoke=20, quick=240, full=240)
lines = torch.tensor([tokenizer.encode("\n")] * 16)  # (B=16, 1)
own = pc.generate(target, lines, pc.SampleConfig(length, temperature=0.8, seed=1))  # (B, T + 1)
count = picogpt.budget(smoke=4, quick=32, full=200)
places = torch.linspace(0, len(corpus.val) - 257, count).long().tolist()
real = torch.stack([corpus.val[place : place + 256] for place in places])  # (B, T=256)

# %%
@torch.no_grad()
def probs_of(model, ids, temperature=0.8):
    return pc.next_token_probs(model(ids), pc.SampleConfig(temperature=temperature))  # (B, T, V)


def areas(ids):
    """The probability that a guess is accepted, at each position. (B, T)"""
    return torch.minimum(probs_of(target, ids), probs_of(draft, ids)).sum(dim=2)


alpha, area = areas(own).mean().item(), areas(real)  # (), (B, T)
print(f"α = {alpha:.2f} on the target's own text, {area.mean():.2f} on validation text")

# %%
for share in (0.05, 0.25, 0.5, 0.75):
    print(f"{share:4.0%} of the positions have an area below {area.flatten().quantile(share):.2f}")

# %%
is_letter = torch.tensor([c.isalpha() for c in tokenizer.chars])[real]  # (B, T)
now, then = is_letter[:, :-1], is_letter[:, 1:]  # (B, T - 1) each
kinds = {"the first letter of a word": then & ~now, "a later letter": then & now}
following = real[:, 1:]  # (B, T - 1)
kinds["a space"], kinds["a line break"] = (following == tokenizer.encode(c)[0] for c in " \n")
kinds["any other mark"] = ~then & ~kinds["a space"] & ~kinds["a line break"]
for kind, where in kinds.items():
    print(f"{kind}: {area[:, :-1][where].mean():.2f}")

# %% [markdown]
# The mean hides how different positions are. At a quarter of them the two models agree almost perfectly. At more than
# one in twenty a guess is more likely to be rejected than not. You might think that the easy characters are those
# inside of words, and that the target is needed where a word begins and there is something to decide. But look at the
# kinds of character: the first letter of a word and the later ones hardly differ, and in the coloured text at the top,
# too, dark orange stands in the middle of words as well. The difference is elsewhere. Spaces and line breaks agree best
# and marks worst: the draft knows where a word ends, and not which mark follows.
#
# And does it depend on the temperature? It is often said that speculation works best at low ones. Let us see, with both
# models at the same temperature each time. The text that counts is again the target's own, and it is another one at
# each temperature, so the target goes on with the beginnings of some validation texts. Beside the rule we put two
# others: the draft does not draw, but always guesses its likeliest character (which is then guessed with probability
# 1); and "draw and compare" from above.

# %%
def with_interval(numbers):
    """The mean and half of its 95 % interval (lesson 07)."""
    numbers = torch.tensor(numbers)
    t = picogpt.study.T_95[len(numbers) - 2]
    return numbers.mean().item(), t * numbers.std().item() / len(numbers) ** 0.5


def three_rules(p_target, p_draft):
    """How many guesses each rule accepts, in each text. (B, T, V) twice -> three of (B,)"""
    sure = F.one_hot(p_draft.argmax(dim=2), 65)  # (B, T, V)
    tables = torch.minimum(p_target, p_draft), torch.minimum(p_target, sure), p_target * p_draft
    return [table.sum(dim=2).mean(dim=1) for table in tables]


# %%
heat = [0, 0.5, 0.8, 1.0, 1.3]
more, rates = picogpt.budget(smoke=4, quick=100, full=200), []
for temperature in heat:
    setting = pc.SampleConfig(more, temperature=temperature, seed=1)
    texts = pc.generate(target, real[:16, :20], setting)  # (B, T=20 + more)
    p_target, p_draft = (
        probs_of(m, texts[:, :-1], temperature)[:, 19:] for m in (target, draft)  # (B, more, V)
    )
    rates.append([with_interval(rule.tolist()) for rule in three_rules(p_target, p_draft)])

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
names = ["the rule: α", "the draft's likeliest, always", "draw and compare"]
for name, row, style in zip(names, zip(*rates), ("o-", "s--", "^:")):
    means, halves = zip(*row)
    colour = draw.INK if style == "o-" else draw.WARM
    ax.errorbar(heat, means, halves, fmt=style, label=name, color=colour, capsize=4)
ax.set(xlabel="temperature of both models", ylabel="guesses accepted", ylim=(0, 1))
ax.legend(loc="lower left")
plt.show()
for (mean, half), heated in zip((row[0] for row in rates), heat):
    print(f"the rule at temperature {heated}: {mean:.2f} ± {half:.2f}")

# %% [markdown]
# At temperature 0 all three are the same, for nobody draws. From there on the two orange lines fall, as folklore has
# it. But the α of the rule does not: from 0.5 to 1.3 it hardly moves, and at 0, where folklore has its best, it is
# lower. That is not a law: the translation models of Leviathan and others, who found the rule (T5, with the small one
# as the draft), go from 0.75 at temperature 0 to 0.62 at 1. But ask first which rule is used. Hugging Face's first
# version of it, *assisted generation*, did what our dashed line does (the draft never draws), and so found low
# temperatures better. (Give both models the same temperature for this, and the same top-k and top-p. The text is
# right with *any* setting of the draft, as we know by now. It is α that suffers.)
#
# ## How many characters does a round give?
#
# Suppose that each guess is accepted with probability α, whatever happened to those before it. One character a round
# has in any case, since the target adds one of its own. For a second character one guess must be accepted, which has
# the probability α, for a third one two in a row, α², and for the last one all γ. So on average a round has
#
# $$1 + \alpha + \alpha^2 + \cdots + \alpha^\gamma = \frac{1 - \alpha^{\gamma + 1}}{1 - \alpha}$$
#
# That is Leviathan's formula for the characters in a round. For α = 0.8 and γ = 4 it is 1 + 0.8 + 0.64 + 0.512 + 0.4096
# = 3.36. No γ gets it above 1 / (1 − α), which is 5 here.
#
# Is it allowed to treat guesses as independent? Some positions are hard and others easy, as we saw, and hard ones may
# well come together. So let us count. The runs below write the same number of characters with each γ, over several
# seeds, and are timed while they are at it, all in turn. (γ = 0 stands for the target alone.)

# %% jupyter={"source_hidden": true} cellView="form"
# @title Time the calls of a function or a model (run this cell)
class Timed:
    """A function, or a model, and the seconds that its calls have taken."""

    def __init__(self, function):
        self.function, self.seconds = function, 0.0
        self.config = getattr(function, "config", None)

    def __call__(self, *args, **kwargs):
        began = time.perf_counter()
        result = self.function(*args, **kwargs)
        self.seconds += time.perf_counter() - began
        return result


# %% jupyter={"source_hidden": true} cellView="form"
# @title One text, timed (run this cell)
def timed_run(gamma, n, seed):
    """The rounds of one text, and the seconds that it took: all, of the draft, of the target."""
    settings = pc.SampleConfig(n, temperature=0.8, seed=seed)
    guess, read, rounds = Timed(drafted_by(draft, settings)), Timed(target), []
    began = time.perf_counter()
    if gamma:
        rounds = write(read, guess, n, settings, gamma)[1]
    else:
        pc.generate(target, prompt, settings)
    total = time.perf_counter() - began
    return dict(rounds=rounds, total=total, draft=guess.seconds, check=read.seconds)


# %%
gammas = picogpt.budget(smoke=[1, 2], quick=[1, 2, 3, 4, 6, 8], full=list(range(1, 13)))
n, seeds = picogpt.budget(smoke=(10, 2), quick=(160, 6), full=(240, 16))
timed_run(gammas[0], 10, 0)  # the first run is always slow, and does not count
runs = {gamma: [] for gamma in (0, *gammas)}
for seed in range(seeds):
    for gamma in runs:
        runs[gamma].append(timed_run(gamma, n, seed))

# %%
def by_formula(alpha, gamma):
    return sum(alpha**k for k in range(gamma + 1))


# %%
def whole(rounds, gamma):  # the last rounds of a text have room for fewer guesses
    return [accepted + 1 for guessed, accepted in rounds if guessed == gamma]


counted = {gamma: [whole(run["rounds"], gamma) for run in runs[gamma]] for gamma in gammas}
per_round = {gamma: with_interval([sum(c) / len(c) for c in counted[gamma]]) for gamma in gammas}

# %%
shown = 4 if 4 in gammas else gammas[-1]
lengths = torch.tensor(sum(counted[shown], []))  # of all rounds that guessed so many
shares = lengths.bincount(minlength=shown + 2)[1:] / len(lengths)  # (γ + 1,)
law = [alpha**k * (1 - alpha) for k in range(shown)] + [alpha**shown]

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), layout="constrained")
means, halves = zip(*per_round.values())
axes[0].errorbar(gammas, means, halves, fmt="o", color=draw.INK, capsize=4, label="counted")
formula = [by_formula(alpha, g) for g in gammas]
axes[0].plot(gammas, formula, "--", color=draw.WARM, label="formula")
axes[0].set(xlabel="γ", title="characters a round", ylim=(1, None), xticks=gammas)
places = range(1, shown + 2)
axes[1].bar(places, shares, 0.8, color=draw.PALE, ec=draw.INK, label="counted")
axes[1].plot(places, law, "o--", color=draw.WARM, label="formula")
axes[1].set(xlabel="characters", title=f"rounds with γ = {shown}", xticks=places)
for ax in axes:
    ax.legend()
plt.show()

# %%
for (gamma, (mean, half)), expected in zip(per_round.items(), formula):
    print(f"γ = {gamma}: {mean:.2f} ± {half:.2f} characters a round, formula {expected:.2f}")

# %% [markdown]
# The formula is a good one, as the left panel shows: its line runs through the intervals or close by. On the right the
# rounds are sorted by the characters that they gave. The last bar is the highest, since it holds all rounds in which
# nothing was rejected.
#
# Still, the dots do not lie on the line. Is that luck, or the assumption? We can do without it. A guess x comes with
# the probability p_draft(x) and is accepted with min(1, p_target(x) / p_draft(x)), which gives the smaller of the
# two. So all of the first k guesses are accepted with the probability Σ Π min(p_target, p_draft): a sum over all
# texts of k characters, and for each a product over its characters. With the three letters from above and k = 2 there
# are nine texts, and the smaller of the two was 0.3 for *a*, 0.3 for *b* and 0.1 for *c*:
#
# > aa 0.3 · 0.3 + ab 0.3 · 0.3 + ac 0.3 · 0.1 + ba 0.3 · 0.3 + … + cc 0.1 · 0.1 = 0.49
#
# That is 0.7 · 0.7, or α², because the second letter had the same probabilities whatever the first one was. In a real
# text it has others after each first letter, so the sum need not be α². No computer adds up all texts of k
# characters. But min(p_target, p_draft) is the same as p_target · min(1, p_draft / p_target), so the sum is a *mean*,
# over texts that come with the target's probabilities, of Π min(1, p_draft / p_target). Such texts we have: the
# target wrote them.

# %%
p_target, p_draft = (probs_of(m, own[:, :-1]) for m in (target, draft))  # (B, T, V) each
came = own[:, 1:, None]  # (B, T, 1)
ratio = (p_draft.gather(2, came) / p_target.gather(2, came)).clamp(max=1)[:, :, 0]  # (B, T)
total, product = 1.0, torch.ones(16, length + 1)
for k in range(gammas[-1]):
    product = product[:, :-1] * ratio[:, k:]  # (B, T - k): of k + 1 characters in a row
    total += product.mean().item()
    if k + 1 in gammas:
        print(f"γ = {k + 1}: formula {by_formula(alpha, k + 1):.2f}, without it {total:.2f}")

# %% [markdown]
# The assumption costs next to nothing. For long rounds it promises a little too little, because easy positions stand
# together, and hard ones too. So the formula may stay, and how far the dots lie above or below it is mostly luck, as
# their intervals say.
#
# ## What does a round cost?
#
# Now the other half. Leviathan counts a pass of the target as 1, whatever it reads, and a pass of the draft as c. So a
# round costs γc + 1, and the speed-up is the characters divided by that. But we have seen that reading γ + 1 characters
# costs more than reading one, and the loop itself takes time too. The stopwatch knows all of it. Here is where the time
# of a round goes, in units of what the target alone needs for a character.

# %%
alone = torch.tensor([run["total"] / n for run in runs[0]])  # (seeds,): seconds a character


def costs(gamma):
    """Draft, target and the rest of a round, in characters of the target alone."""
    parts = []
    for run, unit in zip(runs[gamma], alone.tolist()):
        spent = run["draft"], run["check"], run["total"] - run["draft"] - run["check"]
        parts.append([seconds / len(run["rounds"]) / unit for seconds in spent])
    return torch.tensor(parts).mean(dim=0).tolist()


# %%
def tries(rounds):
    return sum(guessed for guessed, _ in rounds)


cost = {gamma: costs(gamma) for gamma in gammas}
a_guess = {}  # what one guess costs
for gamma in gammas:
    guesses, rounds = (sum(f(run["rounds"]) for run in runs[gamma]) for f in (tries, len))
    a_guess[gamma] = cost[gamma][0] * rounds / guesses

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
bottom = torch.zeros(len(gammas))
names = ("the draft writes γ", "the target reads γ + 1", "everything else")
for name, part, colour in zip(names, zip(*cost.values()), (draw.PALE, draw.INK, "lightgrey")):
    ax.bar(gammas, part, 0.7, bottom=bottom, color=colour, ec="white", label=name)
    bottom += torch.tensor(part)
ax.plot(gammas, [g * c + 1 for g in gammas], "o--", color=draw.WARM, label="γc + 1")
ax.set(xticks=gammas, xlabel="γ", ylabel="cost of a round")
ax.set_title("in characters of the target alone")
ax.set_ylim(0, 1.4 * max(bottom))  # room for the legend
ax.legend()
plt.show()
print(f"c = {c:.2f} by the stopwatch of bare passes; in the runs, with the drawing, a guess cost")
print("   ".join(f"{a_guess[g]:.2f} with γ = {g}" for g in gammas))

# %% [markdown]
# The dashed line is the formula's cost. The bars are what a round really cost. Compare the dark part with 1: what it
# has more is the term that the formula leaves out. (A reading of one character more may well be cheaper. That is one of
# the dents again.) And a guess is not always c, as the last line says: in a short round each guess costs more.
# "Everything else" is the work of the loop, which judges, draws and joins. It is the same for a large model, where it
# would hardly be seen.
#
# ## What is it worth?
#
# Both halves together give a prediction, and we hold it against the measured speed. It comes in two versions, γc + 1
# and, with what reading γ + 1 characters costs, γc + reading. Everything in them was measured before: α on the target's
# own text, c and the reading with bare passes. The dotted line is not a prediction but *accounting*. It divides the
# formula's characters by all that the very same runs have cost. Each dot is the mean over the seeds of *time of the
# target alone / time with the draft*, with its 95 % interval.

# %%
speed = {
    gamma: with_interval([a["total"] / b["total"] for a, b in zip(runs[0], runs[gamma])])
    for gamma in gammas
}
simple = {g: by_formula(alpha, g) / (g * c + 1) for g in gammas}
reading = {g: by_formula(alpha, g) / (g * c + checking[g]) for g in gammas}
accounted = {g: by_formula(alpha, g) / sum(cost[g]) for g in gammas}

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
means, halves = zip(*speed.values())
ax.plot(gammas, list(simple.values()), "--", color=draw.WARM, label="predicted: γc + 1")
ax.plot(gammas, list(reading.values()), "-", color=draw.INK, label="predicted: γc + reading")
ax.plot(gammas, list(accounted.values()), ":", color="grey", label="accounting: all of the cost")
ax.errorbar(gammas, means, halves, fmt="o", color=draw.INK, capsize=4, label="measured")
ax.axhline(1, color="grey", lw=1)
ax.text(gammas[0], 0.97, "the target alone", color="dimgrey", va="top")
ax.set(xlabel="γ: guesses in a round", ylabel="times as fast", ylim=(0, None), xticks=gammas)
ax.legend(loc="lower right")
plt.show()

# %% tags=["nbval-ignore-output"]
for g in gammas:
    mean, half = speed[g]
    print(f"γ = {g}: measured {mean:.2f} ± {half:.2f}", end="")
    print(f"   predicted {simple[g]:.2f}, with reading {reading[g]:.2f}", end="")
    print(f"   accounting {accounted[g]:.2f}")

# %% [markdown]
# How well were the dots predicted? Take the columns one by one.
#
# - *Predicted*, with γc + 1, leaves out the price of reading. So it promises too much, most clearly for small γ.
# - *With reading* knows that price, but not the loop. "Everything else" of the bars weighs most in a round that gives
#   few characters, so for small γ it still promises more than *accounting* does (the dots' intervals are too wide to
#   show it).
# - For large γ the same column has an error of the other sign: a guess right after another is cheaper than one by
#   itself, as the line under the bars says, perhaps because the draft's weights are still at hand. The column counts
#   each guess at c.
# - The reading, too, may be cheaper in the runs than it was alone, and that works in the same direction.
# - *Accounting* takes the cost that the runs really had. It comes close to the dots, so the formula's characters are
#   not to blame.
#
# Errors of different signs can cancel, and where they do, a good fit proves nothing. Even the simple prediction, which
# knows least, may fit best at some γ.
#
# Look also at how little the exact γ matters. From a certain number on, a longer round gives few more characters and
# costs more, and so the curve is flat around its best. (Some programs let γ adapt itself. The first version of
# Hugging Face's added 2 after a round in which all guesses were accepted, and took 1 off after any other.)
# Differences between neighbouring dots that are smaller than their intervals mean nothing, and we have drawn the
# intervals so that neither of us is tempted to explain them.
#
# And now the height of the dots, how far above 1 they lie. **How many times as fast it is says as much about the
# machine as about the two models.** The figures above are those of the machine, and of the hour, in which this
# notebook was stored. On yours they will be others, even if it is of the same kind, because the times (not the text,
# and not the counts of characters) depend on PyTorch, on the processor, on the number of threads (these cells take as
# many as PyTorch does unasked) and on whatever else is running.
#
# The last of these matters more than one would think, and in the direction that one would not think. On one thread of
# an idle machine, `make bench` finds that this very pair with γ = 3 gains next to nothing
# ([results](../docs/results.md), under *Speed of writing*). Beside other programs, we have seen the same pair write
# about twice as fast as the target alone. The draft did not get better: the target got worse. The likely reason is
# memory. The target has 19 MB of weights. As long as they stay in the processor's own cache, a single pass over one
# character is quick, so that reading four is expensive in comparison, and there is little to be saved. If other
# programs drive them out, each pass has to fetch them again, whether it reads one character or four. So what decides,
# besides α and c, is the price of reading γ + 1 characters, in passes over one. The less that is, the more each guess
# is worth; the large models for which the method was invented do not fit into any cache. Measure it where you want to
# use it, with nothing else running.
#
# ## When does it lose?
#
# The simple formula already knows two cases. If the guesses are bad, α is small, and if the draft is slow, c is large.
# By that formula some γ helps only if **α is larger than c**. (With γ = 1 a round gives 1 + α characters and costs
# 1 + c. With a larger γ it gives at most 1 + γα characters and costs 1 + γc, so that does not help either.)
# Which γ is best follows from α and c alone:

# %%
alphas = torch.linspace(0.2, 0.9, 71).tolist()
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for price, colour in ((0.05, draw.INK), (0.12, draw.WARM), (0.5, "grey")):
    worth = [[by_formula(a, g) / (1 + g * price) for g in range(31)] for a in alphas]
    best = [max(range(31), key=row.__getitem__) for row in worth]
    ax.step(alphas, best, color=colour, label=f"c = {price}")
ax.set(xlabel="α", ylabel="the best γ", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# (Leviathan's paper has such a figure.) The better the guesses and the cheaper the draft, the longer the round. Where a
# line is at 0, speculation does not pay at all.
#
# **A draft that is too slow.** Would a better draft not be worth its price? Here are three: the draft, PicoGPT with
# its three layers, and the target itself, with their α on validation text (the first half of the windows from above,
# so the draft has not quite the α that it had there).

# %%
some = real[: picogpt.budget(smoke=2, quick=16, full=100)]
three = picogpt.load_shipped("picogpt").model
models, rates = {"draft": draft, "PicoGPT": three, "the target itself": target}, {}
p_target = probs_of(target, some)  # (B, T, V)
for name, model in models.items():
    p = p_target if model is target else probs_of(model, some)  # (B, T, V)
    rates[name] = torch.minimum(p_target, p).sum(dim=2).mean().item()
    print(f"{name:18} {pc.count_parameters(model):9,} parameters, α = {rates[name]:.2f}")

# %% tags=["nbval-ignore-output"]
repeats = picogpt.budget(smoke=2, quick=60, full=300)
step = in_turn([reader_of(m, 1) for m in models.values()], repeats).amin(dim=0)  # the shortest
for name, c_other in zip(models, (step / step[-1]).tolist()):
    gains = [by_formula(rates[name], g) / (g * c_other + checking[g]) for g in range(1, most)]
    best = max(range(1, most), key=lambda g: gains[g - 1])
    print(f"{name:18} c = {c_other:.2f}, at best {gains[best - 1]:.2f} x as fast, with γ = {best}")

# %% [markdown]
# PicoGPT has ten times the draft's parameters, and its guesses are accepted only a little more often. But its passes
# cost so much more that it is the worse draft. The target as its own draft is always accepted, and still gains
# nothing, since every character is now paid for twice. (These are predictions, from the shortest of many bare passes,
# without drawing, and from the cost of reading at the beginning. The draft's c is measured again, and need not be the
# one from above: how long such a short pass takes depends on what ran just before it.) So a draft should be small, and
# trained on the same kind of text with the same tokenizer. Ours has one layer, and half the width.
#
# **Many texts at once.** Everything rested on one fact: a pass over one character leaves most of the machine's
# arithmetic idle, so that a few more characters cost little. A server that writes for many people at once has no such
# reserve. With B rows, a pass over one character of each is already a pass over B.

# %%
batches = picogpt.budget(smoke=[1, 2], quick=[1, 4, 16, 64], full=[1, 2, 4, 8, 16, 32, 64, 128])
kinds = [(past, B) for past in (4, 100) for B in batches]  # after a short text, and a longer one
jobs = [
    reader_of(model, k, B, past)
    for past, B in kinds
    for model, k in ((target, 1), (target, 5), (draft, 1))
]
repeats = picogpt.budget(smoke=2, quick=8, full=60)
shortest = in_turn(jobs, repeats).amin(dim=0).view(-1, 3)  # (kinds, 3)

# %% tags=["nbval-ignore-output"]
for (past, B), (one, five, guess) in zip(kinds, shortest.tolist()):
    gain = by_formula(alpha, 4) / (4 * guess / one + five / one)
    print(f"B = {B:3}, after {past:3} characters: reading 5 costs {five / one:.2f} times", end="")
    print(f" reading 1, so γ = 4 would make it {gain:.2f} times as fast")

# %% [markdown]
# Read each half downwards, from its second line on: the first ones promise too much. After 100 characters B = 1 is the
# case that we began with. There reading five cost about one and a half times as much as reading one, and here it comes
# out much cheaper. A part of that is the order of the jobs: the reading of one follows a job with 64 rows, which has
# driven the model's weights out of the processor's cache, and when five are read they are back. (Measured once more, on
# the two alone: 1.4 without such a job before the first, and 1.3 with it. The rest we have not explained.)
#
# With more rows, reading 5 costs more and more, and the gain melts away. And this is the
# friendly version: in a real batch each row accepts another number of guesses, and they get out of step. So
# speculation is made for *latency*, a single reader who is waiting. For *throughput*, a server has better use for its
# arithmetic.
#
# But compare the two halves as well. After a longer text it melts less, and the reason is the cache. All rows share
# the weights, so that a large batch makes good use of each. But every row has its own keys and values, and they have
# to be fetched for one new character as for five. That part leaves the arithmetic idle however many rows there are,
# and it grows with the text. (With very long texts, speculation is therefore of use in a large batch, too, as
# MagicDec has shown.)
#
# How much more arithmetic is it? With γ = 4 the target computes five positions for each round.

# %%
some_rounds = [r for run in runs[shown] for r in run["rounds"]]
computed = sum(guessed + 1 for guessed, _ in some_rounds)
written = sum(accepted + 1 for _, accepted in some_rounds)
print(f"γ = {shown}: the target computes {computed / written:.2f} positions for each character")

# %% [markdown]
# ## Guesses without a model
#
# The target does not care where guesses come from. So do we need a model at all? Texts repeat themselves: names,
# phrases, code. So **look up** the last few characters in the text so far, and guess that it goes on as it did then.
# This is called *prompt lookup* (Saxena 2023), costs next to nothing, and needs no second model.
#
# Such a guess is not drawn from anything. It is what it is, which means that p_draft is 1 for that character and 0 for
# all others. The rule needs no change: accepted with probability min(1, p_target / 1), and after a rejection drawn from
# the target without that character.
#
# ### Exercise 3 · Look it up
#
# Write `look_up(source, text, m)` for two strings. Take the last 8 characters of `text`, and find their *last*
# occurrence in `source` that is followed by something. Return what follows there, at most m characters. If there is
# none, try the last 7, and so on down to 3; and if there is still none, return `""`. For prompt lookup both strings are
# the same: the text's own end must then not be found. (10 minutes)
#
# <details><summary>A hint</summary>
#
# `source.rfind(piece, 0, len(source) - 1)` finds the last occurrence that ends before the last character of `source`,
# and −1 if there is none.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: texts to look up (run this cell)
LOOKED_UP = [  # source, text, m, what is right, what may be the matter if it is not
    ("to be or not to be", None, 4, " or ", "nothing follows the end of the text itself"),
    ("to be or not to be", None, 2, " o", "at most m characters"),
    (", the cat, the dog, the", None, 4, " dog", "the last occurrence, not the first"),
    ("abcdefghij. xefghi! abcdefghi", None, 2, "j.", "try the last 8 first, then fewer"),
    ("the king", "the queen, the ki", 3, "ng", "look in `source`, return what follows"),
    ("say no more", "no", 5, "", 'fewer than 3 are not enough: return ""'),
    ("abcdefg", "xyz", 3, "", 'where nothing is found, return ""'),
    ("aaaa", None, 3, "a", "try down to 3; what is found may overlap the end"),
]


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_look_up(look_up):
    for source, text, m, right, hint in LOOKED_UP:
        text = source if text is None else text
        try:
            answer = look_up(source, text, m)
        except Exception as error:
            return print(f"not yet: {type(error).__name__}: {error}")
        if not isinstance(answer, str):
            return print(f"not yet: it returned {answer!r}, wanted a string")
        if answer != right:
            hint = "at most m characters" if len(answer) > m else hint
            call = f"look_up({source!r}, {text!r}, {m})"
            return print(f"not yet: {call} gave {answer!r}, wanted {right!r}: {hint}")
    print(f"✓ {len(LOOKED_UP)} texts looked up")


# %% tags=["exercise"]
def look_up(source, text, m): ...  # your code


check_look_up(look_up)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def look_up(source, text, m):
    for size in range(min(8, len(text)), 2, -1):
        at = source.rfind(text[-size:], 0, len(source) - 1)
        if at >= 0:
            return source[at + size : at + size + m]
    return ""


check_look_up(look_up)

# %% [markdown]
# As a guesser for our loop it takes a few lines. We try it with two sources, the text so far, and the whole training
# text, which makes it a kind of n-gram model (lesson 02) without a table.

# %%
def last_seen(source, text, m, longest=8, shortest=3):
    for size in range(min(longest, len(text)), shortest - 1, -1):
        if (at := source.rfind(text[-size:], 0, len(source) - 1)) >= 0:
            return source[at + size : at + size + m]
    return ""


def looked_up(source=None):
    """A guesser without a model: from `source`, or from the text so far."""

    def guess(ids, m, generator):
        text = tokenizer.decode(ids[0])
        found = tokenizer.encode(last_seen(source or text, text, m))
        guesses = torch.tensor(found, dtype=torch.long)  # (k,), k of at most m
        return guesses, F.one_hot(guesses, 65).float()  # (k,), (k, V): sure of each

    return guess

# %%
plays = tokenizer.decode(corpus.train)
n = picogpt.budget(smoke=20, quick=240, full=240)
for temperature in (0, 0.8):
    settings = pc.SampleConfig(n, temperature=temperature, seed=1)
    ways = {"the text so far": looked_up(), "the training text": looked_up(plays)}
    ways["the draft"] = drafted_by(draft, settings)
    for way, guess in ways.items():
        ids, rounds = write(target, guess, n, settings)
        tried = sum(guessed > 0 for guessed, _ in rounds) / len(rounds)
        print(f"temperature {temperature}: {way:17} {n / len(rounds):.2f} characters", end="")
        print(f" a round, a guess in {tried:.0%} of them")

# %% [markdown]
# With the text so far, it depends on what is written. Greedy text goes round in circles (lesson 10), and is easily
# looked up. Drawn text repeats little within 240 characters, and most rounds have no guess at all, which costs nothing
# either. In the training text, something is nearly always found, and it is worth less than a draft that has learned.
# But what does a round's worth of guesses cost? We take the mean time of 20 searches, in 200 characters and in the
# million of the training text.

# %%
stories = [tokenizer.decode(corpus.val[k : k + 200]) for k in range(0, 100_000, 5000)]  # 20


def searches(source=None):
    for story in stories:
        last_seen(source or story, story, 4)


# %% tags=["nbval-ignore-output"]
jobs = [reader_of(target, 1), reader_of(draft, 1, times=4), searches, partial(searches, plays)]
repeats = picogpt.budget(smoke=2, quick=10, full=50)
one, four, few, many = in_turn(jobs, repeats).amin(dim=0).tolist()
print(f"four passes of the draft: {four / one:.4f} passes of the target")
print(f"a search in 200 characters: {few / len(stories) / one:.4f}")
print(f"a search in a million: {many / len(stories) / one:.4f}")

# %% [markdown]
# A search in the text so far costs nothing that one would notice. (In a million characters it does, and whoever does
# that in earnest keeps an index.) All that is left to be paid for is the reading.
#
# Our little model is a poor customer for prompt lookup. An assistant that summarises a document, or changes three lines
# in a file of code, copies long passages out of its own prompt. For such tasks Saxena reports texts that are written
# two to four times as fast.
#
# There are more ways. **Medusa** gives the target itself some extra heads that guess the characters after next.
# **EAGLE** trains a small layer on the target's own hidden vectors, which say more about what it is going to write than
# the text does. Both guess a *tree* of continuations, and the target checks all branches in one pass. What checks them
# is the same as here, one pass, and a rule that keeps the target's distribution. (Medusa's usual rule is an exception:
# it gives up exactness for speed.) In transformers a draft model is one argument, `model.generate(**inputs,
# assistant_model=draft)`, and prompt lookup another, `prompt_lookup_num_tokens=4`.
#
# ## Recap
#
# You can now
#
# 1. say why checking γ characters takes one pass, and why that pass is cheap,
# 2. write the rule, accept with min(1, p_target / p_draft) and else draw from max(0, p_target − p_draft), and prove it,
# 3. write the loop, with two caches that forget, and tell by the symptom on which side a bug is,
# 4. predict the characters of a round from α, its cost from a stopwatch, and the speed from both, with intervals,
# 5. say when it loses: a slow draft, bad guesses, a full batch; and guess without any model.
#
# Three questions for a whiteboard: Draw two bars each for three letters, and show what is accepted and what is drawn
# instead. Draw the two caches before and after a round in which one of three guesses was accepted, and after one in
# which all three were. Why does a batch of 64 rows take much of the gain away?
#
# <details><summary>Answers</summary>
#
# The bars stand under "Guess and check, with three letters": the smaller of each two is accepted, the rest of the
# target's is drawn instead. Say that the text has T characters, so that T − 1 were in both caches. The target reads 4
# more and has T + 3, the draft reads 3 and has T + 2. With one guess accepted the text has T + 2 characters, and both
# caches are cut to T + 1. With all three it has T + 4: the target keeps its T + 3, and the draft has T + 2, one fewer,
# so that it reads two characters next time. With 64 rows the machine is busy already, and reading five characters a row
# takes several times as long as reading one.
# </details>
#
# Next: [lesson 13](13_debugging_clinic.ipynb) turns all proofs of this course into a clinic for other people's GPTs.
#
# ## Sources
#
# - The rule, the formula and "only if α is larger than c": Leviathan, Kalman and Matias 2022,
#   [arXiv 2211.17192](https://arxiv.org/abs/2211.17192). Found independently: Chen et al. 2023,
#   [arXiv 2302.01318](https://arxiv.org/abs/2302.01318), with p and q exchanged, which is why we write p_target and
#   p_draft.
# - Judging a whole block of guesses at once accepts more: Sun et al. 2024,
#   [arXiv 2403.10444](https://arxiv.org/abs/2403.10444).
# - For greedy text: Stern, Shazeer and Uszkoreit 2018, [arXiv 1811.03115](https://arxiv.org/abs/1811.03115).
# - A pass confirms a text, and a γ that adapts itself: Gante, [Assisted
#   generation](https://huggingface.co/blog/assisted-generation).
# - A round in forty lines of PyTorch: [gpt-fast](https://github.com/pytorch-labs/gpt-fast/blob/main/generate.py).
# - Large batches and long texts: MagicDec, Sadhukhan et al. 2024, [arXiv 2408.11049](https://arxiv.org/abs/2408.11049).
# - Prompt lookup: Saxena 2023, [prompt-lookup-decoding](https://github.com/apoorvumang/prompt-lookup-decoding).
# - Medusa: Cai et al. 2024, [arXiv 2401.10774](https://arxiv.org/abs/2401.10774). EAGLE: Li et al. 2024,
#   [arXiv 2401.15077](https://arxiv.org/abs/2401.15077).
