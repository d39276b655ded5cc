# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · The bigram baseline, and what a loss means
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/02_bigram_baseline.ipynb)
#
# **You will**
# 1. say what a loss of 1.45 means, and what 4.17, 3.3 and 2.5 mean,
# 2. build the bigram model twice, by counting and by gradient descent, and see that the two agree,
# 3. let longer n-grams show what overfitting is, with no network at all,
# 4. measure how noisy a loss from a few random windows is, and why a lone one should not be trusted,
# 5. have a floor: numbers to hold every later GPT against.
#
# **You need** lesson 01: characters as ids, the split, `get_batch`.
#
# **Time** 25 minutes to read, half a minute to run.
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
import math
from collections import Counter

import matplotlib.pyplot as plt
import torch
from torch import nn

import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()
text = picogpt.load_shakespeare()
train, val = text[: len(corpus.train)], text[len(corpus.train) :]
chars = corpus.tokenizer.chars

assert corpus.tokenizer.decode(corpus.val) == val, "the same split, once as text and once as ids"

# %% [markdown]
# ## How surprised are you?
#
# A language model gives each possible next character a probability. Then the next character comes, and we look at the
# probability p that it had been given. The **surprise** is −ln p. If p was 1, the surprise is 0. The smaller p was, the
# larger the surprise.

# %%
for p in (1, 0.5, 0.1, 1 / 65, 0.001):
    print(f"p = {p:6.4f}   surprise {math.log(1 / p):.2f}")

# %% [markdown]
# The **loss** of a model is its mean surprise over a text. Its unit is the **nat**, since we use the natural logarithm.
# Why a logarithm? The probability of a whole text is a product of many numbers. The logarithm makes a sum of it. Divided by
# the number of characters, it compares texts of any length.
#
# The dumbest model knows the 65 characters and nothing else. Each gets 1/65.

# %%
uniform = -math.log(1 / 65)
print(f"uniform: {uniform:.3f}")

# %% [markdown]
# Remember 4.174. A new GPT must start there (lesson 00 checked it). A model that starts much higher is sure of nonsense.
#
# ## Count single letters
#
# The next better model counts how often each character occurs in the training text. Then we ask for its loss on the
# **validation** text, which it has not counted.

# %%
count = Counter(train)
share = {char: (count[char] + 1) / (len(train) + 65) for char in chars}  # plus 1: never exactly 0
unigram = sum(-math.log(share[char]) for char in val) / len(val)
print(f"unigram: {unigram:.3f}")

assert abs(sum(share.values()) - 1) < 1e-9, "probabilities add up to 1"

# %% [markdown]
# Why plus 1? A character that occurs in the validation text but was never counted would get probability 0, and its
# surprise would be infinite. One such place ruins the mean. A model must not say *never*.
#
# ## Count pairs: the bigram model
#
# What comes next depends on what stands there. After `q` comes `u`. So we count pairs: a table with one row for each
# character, and in it a column for each that can follow.

# %%
pairs = torch.zeros(65, 65)  # (V, V): row is the character before, column the one after
ones = torch.ones(len(corpus.train) - 1)
pairs.index_put_((corpus.train[:-1], corpus.train[1:]), ones, accumulate=True)
counted = (pairs + 1) / (pairs + 1).sum(dim=1, keepdim=True)  # (V, V), each row adds up to 1
q, u = corpus.tokenizer.encode("qu")
print(f"after q comes u: {counted[q, u]:.2f}")

assert pairs.sum() == len(corpus.train) - 1, "each pair is counted once"

# %%
bigram = -counted[corpus.val[:-1], corpus.val[1:]].log().mean().item()
print(f"bigram: {bigram:.3f}")

assert bigram < unigram < uniform, "who knows more is less surprised"

# %% [markdown]
# After `q` comes `u`, and only 90 % because of the plus 1: it is a rare row, and 65 imagined pairs weigh much in it.
#
# ## The same table, learned
#
# Now without counting. Start from a table of zeros, one row for each character. Read a row as scores, called **logits**.
# The softmax turns them into probabilities: exp of each, divided by their sum. Then lower the loss by gradient descent.
# In PyTorch such a table is an `nn.Embedding`: give it ids, it returns their rows.

# %%
table = nn.Embedding(65, 65)  # (V, V)
nn.init.zeros_(table.weight)
optimizer = torch.optim.Adam(table.parameters(), lr=0.3)
draw = torch.Generator().manual_seed(0)
curve, steps = [], picogpt.budget(smoke=20, quick=200, full=1000)
for step in range(steps):
    optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)  # smaller and smaller steps
    x, y = pc.get_batch(corpus.train, 32, 256, draw)  # (B=32, T=256) each
    loss = pc.cross_entropy(table(x), y)  # logits (B, T, V)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(loss.item())

# %%
with torch.no_grad():
    learned_loss = pc.cross_entropy(table(corpus.val[:-1])[None], corpus.val[None, 1:]).item()
print(f"the first loss is {curve[0]:.3f}: uniform")
print(f"validation loss: learned {learned_loss:.2f}, counted {bigram:.2f}")

assert abs(curve[0] - uniform) < 1e-4, "a table of zeros guesses blindly"
assert abs(learned_loss - bigram) < 0.02 or steps < 100, "counting and learning should agree"

# %%
learned = table.weight.detach().softmax(dim=1)  # (V, V)
fig, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for ax, probs, title in ((axes[0], counted, "counted"), (axes[1], learned, "learned")):
    image = ax.imshow(probs.sqrt(), cmap="cividis", vmin=0, vmax=1)
    ax.set(title=title, xlabel="next character", ylabel="character before")
    labels = picogpt.visible_characters(chars)
    ax.set_xticks(range(0, 65, 2), labels[::2], fontsize=6)
    ax.set_yticks(range(0, 65, 2), labels[::2], fontsize=6)
bar = fig.colorbar(image, ax=axes, label="probability", ticks=[0, 0.1**0.5, 0.5**0.5, 1])
bar.ax.set_yticklabels(["0", "0.1", "0.5", "1"])
plt.show()

# %% [markdown]
# The same picture, up to the rows of rare characters: the 1 that was added to each count smears them, and the learned table
# has no such 1. The two ways reach the same loss.
# That is no accident: of all tables, the one with the counted shares has the lowest loss on the training text, and
# gradient descent goes where the loss is lowest. **Training a network with this loss is counting by other means**, for
# contexts too long to count.
#
# ## Why not count longer pieces?
#
# If two characters are better than one, take six. A model that looks at the last n − 1 characters is an **n-gram** model.
# We count all pieces of up to 7 characters.

# %%
longest = picogpt.budget(smoke=3, quick=7, full=9)
counts = {0: Counter({"": len(train)})}
for n in range(1, longest + 1):
    counts[n] = Counter(train[i : i + n] for i in range(len(train) - n + 1))
print(", ".join(f"{n}: {len(counts[n]):,}" for n in range(1, 4)), "different pieces")

# %% [markdown]
# Most long pieces never occur. We try two ways to deal with that, each adding a few imagined counts. **Plain** spreads
# them equally over all characters. **Back-off** spreads them as the next shorter n-gram model would: what `lov` leaves
# open, `ov` may know.

# %%
EXTRA = 4  # imagined counts in each row


def ladder(before, char, back_off=True):
    """The probabilities of `char` after the text `before`, by n-gram models for n = 1, 2, …"""
    p, found = 1 / 65, []
    for n in range(1, longest + 1):
        context = before[len(before) - (n - 1) :]  # the last n - 1 characters
        p = (counts[n][context + char] + EXTRA * p) / (counts[n - 1][context] + EXTRA)
        found.append(p)
        if not back_off:
            p = 1 / 65
    return found


total = sum(ladder("my lo", char)[-1] for char in chars)
assert abs(total - 1) < 1e-3, "the probabilities of all next characters add up to 1"

# %%
def losses(sample, back_off):
    """Mean surprise of each n-gram model on a text, in nats per character."""
    sums = [0.0] * longest
    for i in range(longest, len(sample)):
        for k, p in enumerate(ladder(sample[i - longest : i], sample[i], back_off)):
            sums[k] -= math.log(p)
    return [total / (len(sample) - longest) for total in sums]


size = picogpt.budget(smoke=2_000, quick=len(val), full=len(val))
results = {
    (where, back_off): losses(sample[:size], back_off)
    for where, sample in (("train", train), ("validation", val))
    for back_off in (False, True)
}

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for ax, back_off, title in ((axes[0], False, "plain"), (axes[1], True, "with back-off")):
    for where, style in (("train", "s--"), ("validation", "o-")):
        ax.plot(range(1, longest + 1), results[where, back_off], style, label=where)
    ax.set(xlabel="n: characters in a piece", title=title)
    ax.grid(alpha=0.3)
axes[0].set(ylabel="loss (nats per character)", ylim=(0, None))
axes[0].legend()
plt.show()

# %%
for back_off in (False, True):
    seen, unseen = results["train", back_off], results["validation", back_off]
    n = min(range(longest), key=unseen.__getitem__)
    name = "with back-off" if back_off else "plain"
    print(f"{name}: best at n = {n + 1}, validation {unseen[n]:.3f}; training {seen[n]:.3f}")

gap = results["validation", False][-1] - results["train", False][-1]
assert longest < 5 or gap > 0.5, "long pieces fit the training text only"

# %% [markdown]
# Look at the left picture. The training loss falls to 1.3 and stays there. The validation loss falls with it at first,
# turns at n = 5, and rises. Long pieces of the training text hardly occur anywhere else. The model knows its own text by
# heart and has nothing to say about another. That is **overfitting**, and no network was needed. The rule for the rest of
# the course: *a training loss says nothing about how well a model has learned English*.
#
# Back-off repairs much: the long piece is used where it is known, the short one elsewhere. Still the two curves part, and
# the validation loss turns. Its best validation loss is our floor. A GPT that does not beat it has learned less than a
# table of counts. It is no easy floor. nanoGPT's recipe for a laptop, a GPT of 0.80M parameters, ends above it:
# `data/runs/nanogpt_cpu.log` is its log.

# %%
log = picogpt.read_nanogpt_log((picogpt.DATA / "runs" / "nanogpt_cpu.log").read_text())
ends = [row["val_loss"] for row in log if row["val_loss"]][-1]
print(f"nanoGPT's small recipe ends at {ends:.3f}, by its own estimate from random windows")
print(f"counting pieces of up to {longest} characters: {min(results['validation', True]):.3f}")

# %% [markdown]
# A GPT needs more training than that to be worth its trouble. PicoGPT gets it in lesson 09.
#
# ## From loss to text
#
# Let the models write. Each draws the next character from its probabilities.

# %%
def write(n, length=90, seed=1):
    generator, out = torch.Generator().manual_seed(seed), "\n"
    for _ in range(length):
        probs = [ladder(out[-longest:].rjust(longest), char)[n - 1] for char in chars]
        out += chars[torch.multinomial(torch.tensor(probs), 1, generator=generator)]
    return out.strip().replace("\n", " / ")


for n in (1, 2, 3, longest):
    print(f"n = {n}: {write(n)}")

# %% [markdown]
# (A / is a line end.) Letters; then pairs that can be spoken; then syllables; then words that hang together for a moment.
# It never knows who is speaking, since its memory is six characters long.
#
# ## Perplexity
#
# Some prefer to read a loss as a number of choices. The **perplexity** is exp(loss). A loss of ln 65 means: as unsure as
# with 65 equally likely characters. Here are our models beside the course's PicoGPT, whose weights are in
# `data/checkpoints/` with the loss that was measured.

# %%
shipped = picogpt.load_shipped("picogpt")
best_count = min(results["validation", True])
rows = {"uniform": uniform, "unigram": unigram, "bigram": bigram, "n-grams, back-off": best_count}
for name, loss in (rows | {"PicoGPT": shipped.about["val_loss"]}).items():
    print(f"{name:18} loss {loss:.3f}   perplexity {math.exp(loss):5.1f}")

# %% [markdown]
# PicoGPT hesitates, on average, as between a little more than four characters. How does that feel along a line of text?

# %%
line = corpus.val[4115:4179]  # 64 characters that neither model has seen
with torch.no_grad():
    guess = shipped.model(line[None, :-1]).log_softmax(dim=-1)[0]  # (T - 1, V)
gpt = -guess.gather(1, line[1:, None])[:, 0]  # (T - 1,)
two = -counted[line[:-1], line[1:]].log()  # (T - 1,)
fig, ax = plt.subplots(figsize=(10, 3), layout="constrained")
ax.bar(range(63), two, color="lightgrey", label="bigram")
ax.bar(range(63), gpt, width=0.45, color="tab:blue", label="PicoGPT")
shown = picogpt.visible_characters(corpus.tokenizer.decode(line[1:]))
ax.set_xticks(range(63), shown, family="monospace")
ax.set(xlabel="the character that came", ylabel="surprise (nats)")
ax.set_title("Surprise at each character, validation text")
ax.legend()
plt.show()

# %% [markdown]
# Both are surprised where a word could go on in many ways: at the *w* of *two*, at the *g* of *together*. But once PicoGPT
# has *tog*, the rest costs it nothing, while the bigram model pays for almost each letter.
#
# ## How sure is a loss?
#
# Many training scripts estimate the validation loss from a few random windows, to save time. nanoGPT's settings for a
# laptop take 20 batches of 12 windows of 64 characters. How far off can that be? We compute PicoGPT's loss on every
# window of 64 in the validation text, once. Then we play the estimator a thousand times, and look at how it scatters.

# %%
n = len(corpus.val[: picogpt.budget(smoke=20_000, quick=111_540, full=111_540)]) // 64
x, y = corpus.val[: n * 64].view(n, 64), corpus.val[1 : n * 64 + 1].view(n, 64)  # (n, T=64) each
with torch.no_grad():
    parts = [shipped.model(piece) for piece in x.split(64)]
logp = torch.cat(parts).log_softmax(dim=-1)  # (n, T, V)
per_window = {"PicoGPT": -logp.gather(2, y[:, :, None]).mean(dim=(1, 2))}  # (n,)
per_window["bigram"] = -counted[x, y].log().mean(dim=1)  # (n,)

# %%
draw = torch.Generator().manual_seed(0)
picked = torch.randint(n, (1000, 240), generator=draw)  # a thousand times 20 x 12 windows
spread = {}
for name, losses_of in per_window.items():
    estimates = losses_of[picked].mean(dim=1)  # (1000,)
    spread[name] = estimates.std().item()
    true = losses_of.mean().item()
    print(f"{name}: all windows {true:.3f}; estimates scatter by σ = {spread[name]:.3f}")
    assert abs(estimates.mean() - true) < 4 * spread[name] / 1000**0.5, "right on average"

# %%
bench = picogpt.load_rows(picogpt.DATA / "runs" / "bench_time_to_loss.csv")
theirs = [row["estimate_scatter"] for row in bench if row["what"].startswith("nanoGPT")]
print(f"nanoGPT's recipe, replayed with three seeds (stored): σ = {sum(theirs) / len(theirs):.3f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
estimates = per_window["PicoGPT"][picked].mean(dim=1)
ax.hist(estimates, bins=40, color="lightsteelblue", label="1,000 estimates from 240 random windows")
ax.axvline(per_window["PicoGPT"].mean(), color="tab:red", label="all windows")
ax.set(xlabel="loss (nats per character)", ylabel="number of estimates")
ax.set_title("PicoGPT: one model, one text, a thousand validation losses")
ax.set_ylim(0, 110)
ax.legend()
plt.show()

# %% [markdown]
# One model, and a choice of validation losses. The better a model, the wider the scatter: what is left of its surprise
# sits in few places, and some windows have many of them. Two models whose true losses differ by 0.01 can come out in
# either order. Whoever takes the best of twenty estimates reports luck. So `pc.evaluate` goes over the **whole**
# validation text, the same each time, and every loss in this course is measured like that unless it says otherwise. A
# table of results should say which it is.
#
# One more thing changes the number: the window. Here each window of 64 starts with no memory. With windows of 256 there
# are fewer starts, and the same model does better:

# %%
loss_64 = per_window["PicoGPT"].mean()
print(f"windows of 64: {loss_64:.3f}, windows of 256: {shipped.about['val_loss']:.3f}")

# %% [markdown]
# ## Your turn
#
# ### 1. The loss of a sequence
#
# A model gave these probabilities: a list with a row for each place, and in each row one number for each character. The
# ids that really came are `targets`. Return the loss.

# %% tags=["check"]
def check_loss(loss_of):
    cases = [([[0.7, 0.3], [0.9, 0.1]], [1, 0], "two positions")]
    cases.append(([[0.25] * 4] * 3, [0, 1, 2], "four equal choices: ln 4"))
    for probs, targets, what in cases:
        right = -sum(math.log(row[t]) for row, t in zip(probs, targets)) / len(targets)
        try:
            answer = loss_of(probs, targets)
            mine = math.nan if answer is None else float(answer)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer is None or isinstance(answer, str):
            print("not yet:", answer or "it returned nothing")
        elif abs(mine + right) < 1e-6:
            print("not yet: a surprise is positive. Mind the sign of the logarithm")
        elif abs(mine - right * len(targets)) < 1e-6:
            print("not yet: this is the sum. The loss is the mean")
        elif abs(mine - right / math.log(2)) < 1e-6:
            print("not yet: these are bits. Take the natural logarithm")
        elif not abs(mine - right) < 1e-6:
            print(f"not yet: {mine:.3f} instead of {right:.3f} for {what}")
        else:
            continue
        return
    print("✓ mean surprise, in nats")


# %% tags=["exercise"]
def loss_of(probs, targets):
    ...  # your code


check_loss(loss_of)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def loss_of(probs, targets):
    return sum(-math.log(row[target]) for row, target in zip(probs, targets)) / len(targets)


check_loss(loss_of)

# %% [markdown]
# ### 2. How many windows?
#
# The scatter of a mean shrinks with the square root of how many numbers it is a mean of. From 240 windows it was 0.02.
# How many windows would an estimate need for a scatter of 0.001? (The validation text has 1,742 windows of 64.)

# %% tags=["check"]
def check_windows(windows):
    right = 240 * 20**2
    if not isinstance(windows, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(windows / right - 1) < 0.05:
        print("✓ 55 times the whole validation text: measuring all of it is cheaper")
    elif abs(windows / (240 * 20) - 1) < 0.05:
        print("not yet: the square root. 4 times the windows halve the scatter")
    else:
        print(f"not yet: {windows:,}. The scatter must become 20 times smaller")


# %% tags=["exercise"]
windows = ...  # a number

check_windows(windows)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_windows(240 * (0.02 / 0.001) ** 2)

# %% [markdown]
# ## What you can do now
#
# 1. Read a loss as mean surprise: 4.17 is blind, 3.3 knows the letters, 2.5 knows pairs, 1.45 hesitates as between four
#    characters. exp of it is the perplexity.
# 2. Count a bigram table, or learn it: the same.
# 3. Recognise overfitting: training loss falls, validation loss rises.
# 4. Distrust a loss from a few random windows, by about 0.02 here.
# 5. Hold every later model against the floor of the n-grams.
#
# Next: [lesson 03](03_causal_attention.ipynb) lets a model look at all that came before, and at nothing else.
#
# ## Sources
#
# - Surprise, and n-grams of English letters: Shannon 1948, [A Mathematical Theory of
#   Communication](https://people.math.harvard.edu/~ctm/home/text/others/shannon/entropy/entropy.pdf).
# - The bigram model as a first network: Karpathy, [makemore](https://github.com/karpathy/makemore).
# - Back-off with imagined counts: MacKay and Peto 1995, [A hierarchical Dirichlet language
#   model](https://doi.org/10.1017/S1351324900000218).
# - nanoGPT's estimator: `eval_iters=20` and `batch_size=12` in its [README](https://github.com/karpathy/nanoGPT).
