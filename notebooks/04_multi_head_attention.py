# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Multi-head attention
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/04_multi_head_attention.ipynb)
#
# **You will**
# 1. run several small heads side by side, first in a loop and then as one reshape, and write the result as a module,
# 2. see what the last matrix, `c_proj`, is for, and what 1, 2, 4 and 8 heads are worth,
# 3. recognise a reshape that has the right shape and the wrong content,
# 4. use PyTorch's two attentions, whose masks mean opposite things, and say why the fused one never stores the weights,
# 5. look through all 24 heads of a trained model: what each looks at, and what the loss says about it.
#
# **You need** lesson 03: query, key and value, the mask, and the probe.
#
# **Time** 45 minutes to read, half a minute to run. Words you do not know are in the [glossary](../docs/glossary.md).
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

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()
shipped = picogpt.load_shipped("picogpt").model


def gap(a, b):
    """How far two tensors lie apart at most, in words. Mere rounding differs between processors."""
    largest = (a - b).abs().max().item()
    return "below 1e-6" if largest < 1e-6 else f"{largest:.1e}"

# %% [markdown]
# Lesson 03 built one head that looks back. PicoGPT has 24 of them, eight in each of its three layers, and all
# of them read the same line. Here are three, at the moment when the model stands on the last character of *The thing
# that feeds th*. Each curve leads to a character that the head looks at, and is as thick as its weight.

# %%
line = "The thing that feeds th"
ids = torch.tensor([corpus.tokenizer.encode(line)])  # (B=1, T=23)
every = torch.cat([weights[0] for weights in pc.attention_weights(shipped, ids)])  # (24, T, T)
last = every[:, -1]  # (24, T): what each of the 24 heads does at the last position
h = torch.tensor([character == "h" for character in line[:-1]] + [False])  # (T,): at earlier h's
jobs = {"the character before": last[:, -2], "the one before that": last[:, -3]}  # (24,) each
jobs["earlier copies of the same character"] = last[:, h].sum(dim=1)  # (24,)

# %%
heights = dict(height_ratios=(2, 2, 5))  # the third looks further back
fig, axes = plt.subplots(3, 1, figsize=(7.2, 5), layout="constrained", **heights)
for ax, (what, share) in zip(axes, jobs.items()):
    best = int(share.argmax())  # of 24
    seen = last[best] * (last[best] >= 0.01)  # (T,): weights below 1 % are not drawn
    draw.look_back(ax, line, 22, seen, numbers=False)
    ax.set_title(f"layer {best // 8}, head {best % 8}: {share[best]:.0%} on {what}", fontsize=12)
plt.show()

# %% [markdown]
# One head fetches the *t*, and another the space before it, so that between them the model knows that it stands on
# the second letter of a word that begins with *th*. The third does something odder. It ignores its neighbours
# altogether and looks at every *h* it can find, wherever that may be. (What a head takes from its own position is
# not drawn.) Nobody gave them these jobs. All 24 began with random numbers and were trained together, and they have
# divided the work.
#
# (The first two do the same on any line. The third was picked for this one: it looks for copies of *h*, *m* and *y*
# only, and other heads have other letters. Most heads are harder to describe, and you will meet all of them at the
# end.)
#
# So how do several heads fit into one attention, and what becomes of their answers? That is this lesson.
#
# ## Why one head is not enough
#
# A head gives a position *one* set of weights, and these weights sum to 1. If it wants to know two things, it has to
# share itself out between them, and what it receives is a single mixture. Suppose the text ends in *th*, and suppose
# that a head takes half of each. We give the two characters the shortest values that can tell them apart.

# %%
value = {"t": torch.tensor([1.0, 0.0]), "h": torch.tensor([0.0, 1.0])}  # (2,) each
for first, second in ("th", "ht"):
    one_head = 0.5 * value[first] + 0.5 * value[second]  # (2,)
    two_heads = torch.cat([value[first], value[second]])  # (2,), (2,) -> (4,): each head all on one
    print(f"after {first}{second}:  one head {one_head.tolist()}   two heads {two_heads.tolist()}")

# %% [markdown]
# The single head receives the same numbers after *th* as after *ht*. It knows that there is a *t* and an *h*
# somewhere, but not which of them came first. Two heads, each with all of its weight on one character, keep the two
# apart, because their answers are not added up. They are put *side by side*.
#
# <details><summary>Could one head not take 0.7 of one and 0.3 of the other, and so keep them apart?</summary>
#
# Yes, with only two characters and exact numbers one could work it out. But look at what has been given up. The
# weights were meant to say how much something matters, and now they have to say where it stood as well. And both
# characters still pass through the same value matrix, whereas two heads may also take *different things* from what
# they look at.
# </details>
#
# ## Two heads, in a loop
#
# Let us take the six characters of the last lesson, with new vectors, of eight numbers each, and give them two heads.
# Every head has a query, a key and a value matrix of its own. They all read the full eight numbers, but each writes
# only four. This number, 8 / 2 = 4, is called the **head size**, and the width is, here and in GPT-2, always divided
# up like this. (Some newer models choose the head size freely.)

# %%
text = "the ki"
torch.manual_seed(44)
T, C, nh = len(text), 8, 2  # positions, width, heads
hs = C // nh  # 4, the head size
x = torch.randn(T, C)  # (T, C)
W_query, W_key, W_value = (torch.randn(C, C) / math.sqrt(C) for _ in range(3))  # (C, C) each
future = torch.ones(T, T, dtype=torch.bool).triu(1)  # (T, T): True where j > t

# %%
patterns, answers = [], []
for h in range(nh):
    own = slice(h * hs, (h + 1) * hs)  # columns 0 to 3 belong to head 0, columns 4 to 7 to head 1
    q, k, v = (x @ W[:, own] for W in (W_query, W_key, W_value))  # (T, C) @ (C, hs) -> (T, hs) each
    scores = q @ k.T / math.sqrt(hs)  # (T, hs) @ (hs, T) -> (T, T)
    patterns.append(scores.masked_fill(future, float("-inf")).softmax(dim=1))  # (T, T)
    answers.append(patterns[h] @ v)  # (T, T) @ (T, hs) -> (T, hs)
side_by_side = torch.cat(answers, dim=1)  # nh x (T, hs) -> (T, C)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 4), layout="constrained")
for h, ax in enumerate(axes):
    draw.grid(ax, patterns[h], text, text, f"head {h}: weights")
plt.show()
for h in range(nh):
    print(f"position 5, head {h} answers ", "  ".join(f"{number:+.2f}" for number in answers[h][5]))
print("side by side            ", "  ".join(f"{number:+.2f}" for number in side_by_side[5]))

# %% [markdown]
# Inside a head nothing is new: scores, mask, softmax, mix, as in lesson 03, only narrower. But compare the last rows
# of the two pictures. The heads read the same six vectors, and still the *i* looks mostly at the *e* in one of them
# and at the *t* in the other, because the two ask different questions. At the end every position holds eight numbers
# again, four from each head.
#
# It may surprise you that the second head costs nothing. The three matrices are (8, 8), exactly as they would be
# with one head, and we only gave the first four columns to one head and the last four to the other. Two heads of
# size 4 have as many parameters as one of size 8. What you pay for a second point of view is that each of them
# becomes narrower.
#
# ## Heads as a reshape
#
# A loop over heads is slow for the same reason as a loop over positions. Again the way out is to arrange the numbers
# so that one product does everything. A single `x @ W_query` already computes the queries of all heads, side by
# side. We only have to *look at* the C numbers of a position as nh groups of hs. Let us do that with numbers that
# can be followed by eye: three positions, with the numbers 0 to 7 at the first, 8 to 15 at the second, and 16 to 23
# at the third.

# %%
z = torch.arange(24).view(1, 3, 8)  # (B=1, T=3, C=8)
print("as it comes (1, 3, 8)\n", z)
grouped = z.view(1, 3, 2, 4)  # (B, T, C) -> (B, T, nh, hs): rows of eight become two of four
print("\nview(1, 3, 2, 4)\n", grouped)
heads = grouped.transpose(1, 2)  # (B, T, nh, hs) -> (B, nh, T, hs): heads first
print("\nand transpose(1, 2), now (1, 2, 3, 4)\n", heads)

# %% [markdown]
# `view` moves nothing. It only draws the brackets differently: the eight numbers of a position have become two
# groups of four. But a matrix product `@` works on the *last two* axes and repeats itself over all axes before them,
# so the last two have to be positions and hs. That is what `transpose(1, 2)` is for. Now the heads are just one more
# axis of independent things, like the rows of a batch.
#
# There is a shorter way to the same shape. Why two steps, if `z.view(1, 2, 3, 4)` gives (B, nh, T, hs) at once? Let
# us draw both. The colour says which head a number belongs to, and each row says which position it comes from.

# %%
def blocks(ax, rows, title):
    """Draw rows of the numbers 0 to 23, coloured by the head that each belongs to."""
    for i, row in enumerate(rows.tolist()):
        for j, number in enumerate(row):
            colour = draw.HERE if number % 8 >= 4 else draw.PALE  # head 1, head 0
            ax.add_patch(plt.Rectangle((j, i), 1, 1, fc=colour, ec="white", lw=2))
            ax.text(j + 0.5, i + 0.5, number, ha="center", va="center", fontsize=12)
        ax.text(-0.2, i + 0.5, f"position {row[0] // 8}", ha="right", va="center", color=draw.WARM)
    ax.set(xlim=(-2.6, rows.shape[1]), ylim=(len(rows), 0), aspect="equal")
    ax.set_title(title, fontsize=12)
    ax.axis("off")


# %%
wrong = z.view(1, 2, 3, 4)  # (B, nh, T, hs) in one step
fig, axes = plt.subplot_mosaic([["z", "z"], ["right 0", "right 1"], ["wrong 0", "wrong 1"]],
                               figsize=(7, 6), layout="constrained")
blocks(axes["z"], z[0], "z: blue belongs to head 0, orange to head 1")
for h in range(2):
    blocks(axes[f"right {h}"], heads[0, h], f"view, transpose: head {h}")
    blocks(axes[f"wrong {h}"], wrong[0, h], f"view alone: head {h}")
plt.show()
assert wrong.shape == heads.shape and not torch.equal(wrong, heads), "the same shape, other content"

# %% [markdown]
# In the middle row, head 0 is all blue and head 1 all orange, and each has one row for every position. That is what
# we want. In the bottom row the shape is the same, (2, 3, 4), and yet everything is wrong. The 24 numbers lie in
# memory in the order 0, 1, 2, …, and `view` cuts them off in that order: the first twelve go to "head 0". So its
# first *two* rows both come from position 0, and what it takes for three positions is one and a half. No error
# appears, since the shapes fit. We will come back to what such a model does; first let us finish the right one.

# %%
def split_heads(z, nh):
    B, T, C = z.shape
    z = z.view(B, T, nh, C // nh)  # (B, T, C) -> (B, T, nh, hs)
    return z.transpose(1, 2)  # (B, T, nh, hs) -> (B, nh, T, hs)


def join_heads(y):
    B, nh, T, hs = y.shape
    y = y.transpose(1, 2)  # (B, nh, T, hs) -> (B, T, nh, hs)
    return y.reshape(B, T, nh * hs)  # (B, T, nh, hs) -> (B, T, C)

# %%
batch = x[None]  # (B=1, T, C)
q, k, v = (split_heads(batch @ W, nh) for W in (W_query, W_key, W_value))  # (B, nh, T, hs) each
scores = q @ k.transpose(2, 3) / math.sqrt(hs)  # (B, nh, T, hs) @ (B, nh, hs, T) -> (B, nh, T, T)
weights = scores.masked_fill(future, float("-inf")).softmax(dim=3)  # (B, nh, T, T)
joined = join_heads(weights @ v)  # (B, nh, T, T) @ (B, nh, T, hs), then (B, nh, T, hs) -> (B, T, C)

print(f"largest difference from the loop: {gap(joined[0], side_by_side)}")
assert torch.allclose(joined[0], side_by_side, atol=1e-6), "the reshape does what the loop did"

# %% [markdown]
# The same numbers, but for rounding. Notice how little has changed from lesson 03: the mask (T, T) and the softmax
# are the same lines, and the new axis runs along in front. The root in the division is that of the *head size*,
# because a score is now a sum of hs terms. (`reshape` instead of `view` on the way back, because after `transpose`
# the numbers no longer lie in memory in the order in which they are read, and `view` refuses to copy.)
#
# ## What `c_proj` is for
#
# One matrix is missing. After the heads, every attention has a last one, (C, C), which GPT-2 calls `c_proj`. Without
# it, head 0 could write only into the numbers 0 to 3 of what comes out, and head 1 only into 4 to 7, whatever they
# had found. `c_proj` lets every head write wherever it likes.
#
# You may read it in two ways. In the code it is one product with the joined answers. But a product of matrices is a
# sum, and the sum can be taken apart at the borders between the heads: head *h* meets only its own hs columns of
# `c_proj.weight`. (Columns, because `nn.Linear` stores its matrix as (output, input).)

# %%
torch.manual_seed(1)
c_proj = nn.Linear(C, C, bias=False)
with torch.no_grad():
    whole = side_by_side @ c_proj.weight.T  # (T, C) @ (C, C) -> (T, C), as c_proj(side_by_side)
    parts = []
    for h in range(nh):
        own = c_proj.weight[:, h * hs : (h + 1) * hs]  # (C, hs): the columns of head h
        parts.append(answers[h] @ own.T)  # (T, hs) @ (hs, C) -> (T, C)

# %%
rows = torch.stack([parts[0][5], parts[1][5], parts[0][5] + parts[1][5], whole[5]])  # (4, C)
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
names = ["head 0 writes", "head 1 writes", "their sum", "c_proj(joined)"]
draw.grid(ax, rows, names, "01234567", "what position 5 receives: eight numbers")
plt.show()
print(f"largest difference at any position: {gap(parts[0] + parts[1], whole)}")
assert torch.allclose(parts[0] + parts[1], whole, atol=1e-6), "one product is a sum over heads"

# %% [markdown]
# The last two rows are equal. So "put side by side and multiply" means the same as "every head writes its own
# contribution of C numbers, and the contributions are added up". The second way of reading is the more useful one
# when you want to understand a trained model: within a layer, heads do not hand their answers to one another, they
# all add to one common result, which the next layer reads. Does that take back what we said about *th* and *ht*? No,
# because each answer goes through its own columns first, so a *t* from head 0 and a *t* from head 1 arrive as
# different numbers. And if you want to know what a single head is worth, you can take its contribution out of the
# sum. At the end of this lesson we do that, 24 times. (Studies of trained models take this further. In each head two
# products of matrices do the work, W_q with W_k, which decides where to look, and W_v with the head's part of
# `c_proj`, which decides what that adds: Elhage and others call them the QK and the OV circuit.)
#
# Put together, this is the attention of the course's core. It should give the same numbers with the same weights:

# %%
core = pc.CausalSelfAttention(pc.ModelConfig(n_embd=C, n_head=nh, bias=False))
with torch.no_grad():
    three = torch.cat([W_query, W_key, W_value], dim=1)  # (C, 3C): one product instead of three
    core.c_attn.weight.copy_(three.T)  # (3C, C)
    core.c_proj.weight.copy_(c_proj.weight)
    from_core = core(batch)[0]  # (T, C)

print(f"largest difference from the core: {gap(from_core, whole)}")
assert torch.allclose(from_core, whole, atol=1e-6), "the core's attention is what we have built"

# %% [markdown]
# In exercise 1 you write it as a module of your own. It is the one piece of a GPT that everybody who works with them
# should have written once.
#
# ## How many heads?
#
# Since heads cost no parameters, how many should one take? More heads are more points of view, but narrower ones.
# The course has trained PicoGPT with 1, 2, 4 and 8 heads, 400 steps and three seeds each, and all of them have the
# same number of parameters.

# %%
study = picogpt.load_rows(picogpt.DATA / "runs" / "heads.csv")
variants = ["1 head", "2 heads", "4 heads", "8 heads"]
ends = picogpt.final_losses(picogpt.DATA / "runs" / "heads.csv")

fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.6), layout="constrained")
picogpt.plot_study(axes[0], study, {name: name for name in variants})
picogpt.plot_finals(axes[1], {name: ends[name] for name in variants})
axes[1].set_xlabel("validation loss at the end")
plt.show()

# %%
print("parameters:", {row["parameters"] for row in study})
for name, difference in picogpt.compare(study, base="1 head").items():
    print(f"{name} less 1 head: {difference}")

# %% [markdown]
# Read the order of the means first: two heads end lowest, then four, then one, and the eight of PicoGPT are last. (In
# brackets stands where the true difference lies with 95 % confidence; lesson 07 shows how such an interval is made.)
# Against one head, though, every interval contains 0, so three seeds cannot tell these apart. Let us compare with
# eight as well.

# %%
for name, difference in picogpt.compare(study, base="8 heads").items():
    print(f"{name} less 8 heads: {difference}")

# %% [markdown]
# Against eight heads, the intervals of four and of two leave out 0. Four are ahead by two hundredths of a nat; the
# interval of two ends just short of 0, that of one just beyond. So PicoGPT's eight heads of 32 numbers each, which it
# has from the log, may well be too many for so short a training, and one head is surprisingly good. Does that
# contradict what we said about *th* and *ht*? Not quite. This model has three layers, with MLPs and with residual
# connections (what comes in is added to what comes out: lesson 05), which make up for much of what one head cannot
# do; at the end of the lesson you will see a model that has none of them. And the learning rates were not tuned for
# each number of heads.
#
# ## The right shape and the wrong content
#
# Back to the reshape that was too short. Would you notice it in a model? It runs and it trains. Let us ask the
# question of lesson 03, who depends on whom, by taking the gradient of every output with respect to every input. We
# use twelve positions and four heads, so that everything divides evenly, and put the bug once on the way in, and
# once on the way in *and* back.

# %%
def attend(z, split, join):
    q, k, v = (split(z @ W) for W in matrices)  # (B, nh, T, hs) each
    return join(F.scaled_dot_product_attention(q, k, v, is_causal=True))  # (B, T, C)


def view_alone(z):
    return z.view(1, 4, 12, 8)  # (B, T, C) -> (B, nh, T, hs): the bug


def view_back(y):
    return y.reshape(1, 12, 32)  # (B, nh, T, hs) -> (B, T, C): the same bug on the way back

# %%
torch.manual_seed(0)
matrices = [torch.randn(32, 32) / math.sqrt(32) for _ in range(3)]
twelve = torch.randn(1, 12, 32)  # (B=1, T=12, C=32)
ways = {"right": (lambda z: split_heads(z, 4), join_heads)}
ways["bug on the way in"] = view_alone, join_heads
ways["bug on both ways"] = view_alone, view_back


def dependence(split, join):
    """How strongly output t depends on input j: the norm of its gradient. (T, T)"""
    J = torch.autograd.functional.jacobian(lambda z: attend(z, split, join), twelve)
    return J[0, :, :, 0].norm(dim=(1, 3))  # (T, C, T, C) -> (T, T)


depends = {name: dependence(*way) for name, way in ways.items()}

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 3.2), layout="constrained", sharey=True)
for ax, (name, strength) in zip(axes, depends.items()):
    shown = torch.where(strength == 0, torch.nan, strength)  # exactly 0 stays white
    ax.imshow(shown, cmap="Oranges", vmin=-1, vmax=strength.max())
    ax.plot([-0.5, 11.5], [-0.5, 11.5], color=draw.INK, lw=1)
    ax.set_title(name, fontsize=12)
    ax.set(xlabel="input at position j", xticks=range(0, 12, 3), yticks=range(0, 12, 3))
axes[0].set_ylabel("output at position t")
note = dict(color=draw.INK, fontsize=11, arrowprops=dict(arrowstyle="->", color=draw.INK))
box = dict(fc="white", ec="none", pad=1)
axes[1].annotate("the future\nleaks in", (9, 2), (5.6, 6.6), bbox=box, **note)
axes[2].annotate("the past\nis lost", (1.5, 10.8), (-0.3, 8.2), **note)
plt.show()

# %%
hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)  # (T, T): the future
for name, strength in depends.items():
    leaks, lost = int((strength[hidden] > 0).sum()), int((strength[~hidden] == 0).sum())
    print(f"{name:20} depends on {leaks:2} of 66 future pairs, ignores {lost:2} of 78 past ones")

# %% [markdown]
# White is exactly zero, and the dark line is the diagonal. On the left is the triangle as it should be. In the
# middle stand four squashed triangles side by side, and three of them reach into the future. On the right nothing
# leaks at all, so the causality probe would be content; but most of the past is gone.
#
# Why blocks, and why four? You have seen it with the numbers 0 to 23. `view` deals out the numbers in the order of
# memory, so "head" 0 receives the first quarter of everything, and that is all four parts of positions 0, 1 and 2.
# "Head" 1 receives positions 3 to 5, and so on. Each takes its three positions for twelve rows. On both ways,
# therefore, we do not get four heads on one text. We get *one text cut into four short ones of three characters*,
# and none of them knows of the others. In the middle picture, the right way back then puts row *t* of all four
# pieces side by side, and three of those come from further on in the text.
#
# This is why a probe for causality has to ask both questions. Does the future stay out? And does *all* of the past
# come in? The second bug passes the first question, and raises no error, ever. What would its loss curve look like?
# The course has trained a small model, with a window of 64 characters, in each of the three ways.

# %%
bugs = picogpt.load_rows(picogpt.DATA / "runs" / "reshape.csv")
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
picogpt.plot_study(ax, bugs, {name: name for name in ways})
plt.show()
in_sight = sum((t + 1) % 16 <= t // 4 for t in range(63))  # 4 heads, 64 positions
print(f"bug on the way in: the next character is in sight at {in_sight} of 63 positions")
for steps in (200, 500, 800):
    until = [row for row in bugs if row["step"] <= steps]
    difference = picogpt.compare(until, base="right")["bug on both ways"]
    print(f"after {steps} steps, bug on both ways less right: {difference}")

# %% [markdown]
# The orange curve is an old acquaintance. It dives below all the bars that we know, and lesson 03 taught us what to
# think of that: it sees its answer, if only at some positions, and copies it. You would catch this one by its loss.
#
# But look at the other two. The green model has four short texts of 16 characters where it should have four heads on
# one text of 64. And it is *ahead* for the first half of the training, at step 200 by more than a tenth of a nat! Only
# towards the end does the right one pull past it, and by no more than one seed differs from another. (Why it starts so
# well, [lesson 13](13_debugging_clinic.ipynb) tests on a smaller model: a healthy one with windows as short starts at
# least as well, since it has less to look through.)
#
# So a loss curve finds a leak, when you know what is too good. It does not find a hole. For that you need to ask who
# depends on whom.
#
# ## PyTorch has two of them
#
# You will rarely write the three lines in the middle yourself, because PyTorch has them as one function,
# `F.scaled_dot_product_attention`, or **SDPA** for short. It takes q, k and v of the shape (B, nh, T, hs). For the
# mask you have a choice: `is_causal=True`, or a boolean mask in which **True means: may look**.

# %%
visible = ~future  # (T, T): True on and below the diagonal
by_flag = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
by_mask = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
print(f"largest difference of flag and mask: {gap(by_flag, by_mask)}")
print(f"largest difference from our three lines: {gap(join_heads(by_flag), joined)}")
assert torch.allclose(by_flag, by_mask, atol=1e-6), "flag and mask mean the same"
assert torch.allclose(join_heads(by_flag), joined, atol=1e-6), "SDPA is our three lines"

# %% [markdown]
# ### Why it is fast
#
# The same numbers, so what is gained? Our three lines compute a (T, T) matrix of scores for every head, and store
# it, and then another one of weights. In GPT-2 a window has 1,024 positions and each layer 12 heads. The next
# cell defines a small observer, which watches every operation of PyTorch and remembers the largest tensor
# that any of them makes.

# %% tags=["setup"] jupyter={"source_hidden": true} cellView="form"
# @title An observer that remembers the largest tensor (run this cell)
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor made in a `with` block. Views do not count."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        memory = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in memory:
                self.numbers = max(self.numbers, made.numel())
        return result


# %%
long = torch.randn(3, 1, 12, 1024, 64)  # q, k and v: (B=1, nh=12, T=1024, hs=64) each, as in GPT-2
with torch.no_grad(), Largest() as by_hand:
    pc.attend(*long)  # scores, mask, softmax, mix: the core's own lines
with torch.no_grad(), Largest() as fused:
    F.scaled_dot_product_attention(*long, is_causal=True)
for name, seen in (("three lines", by_hand), ("SDPA", fused)):
    print(f"{name:12} largest tensor {seen.numbers:12,} numbers, {seen.numbers * 4 / 1e6:5.1f} MB")
assert fused.numbers == 12 * 1024 * 64 and by_hand.numbers == 12 * 1024 * 1024

# %% [markdown]
# Our lines make matrices of 12 × 1,024 × 1,024 numbers, for one text in one layer. The fused function makes nothing
# larger than its own answer, 12 × 1,024 × 64. The (T, T) matrix *is never stored*. (What we watch is what an operation
# returns. That it keeps no such matrix inside either is how this kind of function was designed: FlashAttention, Dao
# 2022, arXiv 2205.14135.) That matters more than the number of multiplications, which is much the same. A GPU
# multiplies far faster than it fetches from memory, so an attention that writes out millions of scores only to read
# them back spends its time waiting. It is also why long windows became affordable: the memory now grows with T, and no
# longer with T². (How much faster it is depends on the machine. Raschka has timed nine implementations, see the
# sources.)
#
# But does a softmax not need the whole row, to divide by its sum? It needs the sum, and a sum can be kept running
# while the keys pass by in pieces. That is the idea of FlashAttention, and in exercise 3 you build it for one query.
#
# ### The layer with the opposite mask
#
# The second of the two is `nn.MultiheadAttention`, the whole layer with all four matrices inside. The log's
# conclusion was not to use it, though a bracket adds that it will do, with a mask. Is it wrong? We copy our weights
# into it and see. The thing to know is that its boolean mask means the opposite of SDPA's: **True means: hidden.**

# %%
theirs = nn.MultiheadAttention(C, nh, bias=False, batch_first=True)
with torch.no_grad():
    theirs.in_proj_weight.copy_(core.c_attn.weight)  # (3C, C), as in c_attn
    theirs.out_proj.weight.copy_(core.c_proj.weight)

# %%
with torch.no_grad():
    right = theirs(batch, batch, batch, attn_mask=future)[0]  # (B, T, C)
    opposite = theirs(batch, batch, batch, attn_mask=visible)[0]  # the mask that SDPA wants

print(f"with True for hidden, largest difference from the core: {gap(right[0], from_core)}")
print("with True for visible, rows that are nan:", opposite[0].isnan().any(dim=1).int().tolist())
assert torch.allclose(right[0], from_core, atol=1e-6)
assert opposite[0, -1].isnan().all() and not opposite[0, :-1].isnan().any()

# %% [markdown]
# It is not wrong. Given the mask in its own meaning, it computes what we compute. Given the other one, it hides from
# each position itself and its past. The last position then has nothing left, and 0/0 is `nan`. All the others look
# at the future, and only at the future, and say nothing. Three of its switches are worth knowing as well.

# %%
try:
    theirs(batch, batch, batch, is_causal=True)
except RuntimeError as error:
    print("is_causal=True alone:", str(error).split(".")[0])
with torch.no_grad():
    inputs = dict(query=batch, key=batch, value=batch, attn_mask=future)
    mean = theirs(**inputs)[1]  # (B, T, T)
    each = theirs(**inputs, average_attn_weights=False)[1]  # (B, nh, T, T)
    none = theirs(**inputs, need_weights=False)[1]
print(f"by default {tuple(mean.shape)}, with average_attn_weights=False {tuple(each.shape)}")
print("with need_weights=False", none)
assert torch.allclose(mean, each.mean(dim=1), atol=1e-6), "by default it is the mean over the heads"

# %% [markdown]
# `is_causal=True`, which is all that SDPA needs, is an error here: for this layer it is only a *hint* that the mask
# you also pass is a causal one. The weights that come back are by default a *mean over the heads*, which hides
# exactly what we want to see in this lesson. And with `need_weights=False` it may use the fused function; as long as
# it has to return weights, it cannot.
#
# ### A key and a value that nobody said
#
# One more switch, `add_bias_kv=True`. The log says of it: purpose unknown. Its name is misleading, for it adds no
# bias to anything. It appends **one more key and one more value**, both learned, as if at the end of every text
# stood a position that everybody may look at, even under a causal mask. We can do the same by hand.

# %%
torch.manual_seed(0)
extra = nn.MultiheadAttention(C, nh, add_bias_kv=True, batch_first=True)
with torch.no_grad():
    out, w = extra(batch, batch, batch, attn_mask=future)  # (B, T, C), (B, T, T + 1)
    three = F.linear(batch, extra.in_proj_weight, extra.in_proj_bias)  # (B, T, C) -> (B, T, 3C)
    q, k, v = three.split(C, dim=2)  # (B, T, C) each
    k = torch.cat([k, extra.bias_k], dim=1)  # (B, T + 1, C): one more key
    v = torch.cat([v, extra.bias_v], dim=1)  # (B, T + 1, C): and one more value
    sees = F.pad(visible, (0, 1), value=True)  # (T, T + 1): everybody sees it
    q, k, v = (split_heads(z, nh) for z in (q, k, v))  # (B, nh, T, hs), and T + 1 for k and v
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)  # (B, nh, T, hs)
    same = extra.out_proj(join_heads(y))  # (B, T, C)

print(f"largest difference from the one by hand: {gap(out, same)}")
print("weight on the extra key:", "  ".join(f"{number:.2f}" for number in w[0, :, -1]))
assert torch.allclose(out, same, atol=1e-6), "one more key and value, and nothing else"

# %% [markdown]
# What could it be good for? The weights of a row must sum to 1, so a head cannot say "nothing here interests me". It
# has to put its weight *somewhere*. The extra key gives it a place where that does no harm, which is called an
# **attention sink**. Large models without one tend to make one for themselves, mostly of the first position, which
# everybody can see (Xiao 2023). Whether PicoGPT has made itself one, we shall see below.
#
# ### The riddle of the 6.71 MB
#
# (A detour about a tool. If you want to see what the heads look at, go on to the next section.) There is a reason why
# the log's engineer turned away from this layer. A tool called torchinfo reported 2,468,161 parameters for his model,
# which is right, and a size of 6.71 MB. At four bytes each it should have been 9.87. The difference was exactly the
# size of the three attention layers, and he concluded that *the attention was not there*. Let us ask the tool about one
# such layer, and then about a module that has nothing to do with attention.

# %%
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.zeros(10_000))  # a parameter of the module itself
        self.child = nn.Linear(10, 10)  # 110 parameters, and it does run

    def forward(self, x):
        return self.child(x) + self.own.sum()


# %%
layer, z = nn.MultiheadAttention(256, 8, batch_first=True), torch.zeros(1, 16, 256)
reports = {"attention": (263_168, 0), "counter-example": (10_110, 440)}  # version 1.8.0's
try:
    from torchinfo import summary  # not on Colab: pip install torchinfo

    examples = {"attention": (layer, (z, z, z)), "counter-example": (Own(), z[0, :, :10])}
    for name, (module, given) in examples.items():
        report = summary(module, input_data=given, verbose=0)
        reports[name] = report.total_params, report.total_param_bytes
except ImportError:
    pass
for name, (total, size) in reports.items():
    print(f"{name:15} torchinfo: {total:7,} parameters, {size:3} bytes  true: {total * 4:9,} bytes")

# %% [markdown]
# The counter-example gives it away. torchinfo 1.8.0 adds up *bytes* only for modules that have no children and that
# it sees run. The 10,000 own parameters of a module with a child are counted, but not weighed. An
# `nn.MultiheadAttention` has a child, `out_proj`, and holds the matrices of query, key and value itself, so those
# are lost. And the child is never called, since the layer hands its weights to a function, so it is lost as well.
# Three layers of 263,168 parameters are the missing 3.16 MB:

# %%
original = pc.PRESETS["picogpt-original"].parameters  # the log's model
weighed = original - 3 * pc.count_parameters(layer)  # without the three attentions
print(f"all {original * 4 / 1e6:.2f} MB, without the attentions {weighed * 4 / 1e6:.2f} MB")
assert pc.count_parameters(layer) == 263_168 and f"{weighed * 4 / 1e6:.2f}" == "6.71"

# %% [markdown]
# The attention was there all along. (The fix was merged into torchinfo in May 2026, but at the time of writing no
# release has it.) The engineer took the 6.71 for proof that the attention was missing, put the one of Raschka's book
# in its place, and the text became readable. Why did that help? Because the new attention had a causal mask, and the
# old one had not. *A tool's number is a reason to look, not a finding. And when a rewrite helps, ask what else it
# changed.*
#
# ## What do the 24 heads look at?
#
# Now for the trained model. Here are all its heads on 64 characters of validation text that it has not learned from.
# Each small square is a matrix of weights like those above, row *t* for position *t*, and the more weight the darker.
# 1.3 is head 3 of layer 1, and both are counted from 0.

# %% tags=["setup"]
piece = corpus.val[None, 4116:4180]  # (B=1, T=64)
trained = torch.cat([weights[0] for weights in pc.attention_weights(shipped, piece)])  # (24, T, T)
table = picogpt.load_rows(picogpt.DATA / "runs" / "heads_worth.csv")  # from benchmarks/heads.py
measured = [row for row in table if row["layer"] is not None]  # a row for each head
(chance,) = [row for row in table if row["layer"] is None]  # and one for equal weights
worth = torch.tensor([row["rise"] for row in measured])  # (24,): what the loss rises by without it

# %%
hidden = torch.ones(64, 64, dtype=torch.bool).triu(1)  # (T, T): stays white
fig, axes = plt.subplots(3, 8, figsize=(7.4, 3.5), layout="constrained")
for h, ax in enumerate(axes.flat):
    shown = trained[h].sqrt().masked_fill(hidden, torch.nan)  # the root: small ones show
    ax.imshow(shown, cmap="Oranges", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{h // 8}.{h % 8}", fontsize=10, pad=2)
fig.supxlabel("looks at position j", fontsize=11)
fig.supylabel("position t", fontsize=11)
plt.show()

# %% [markdown]
# A line just below the diagonal is a head that looks at the character before. A line further down looks further
# back, scattered dots are some kind of character, and vertical stripes are characters that everybody after them
# looks at. But a picture of 64 characters is an anecdote, so the course has measured every head on the *whole*
# validation text. For each thing that a head might look at, here is the head that does so most. "Chance" is what a
# head would put there if it gave the same weight to every position that it can see.

# %%
kinds = ["itself", "one_before", "two_before", "three_before", "further_back", "first_position"]
kinds += ["same_character_before", "after_same_character", "line_ends", "spaces"]
kinds += ["capitals", "vowels", "punctuation"]
for kind in kinds:
    best = max(measured, key=lambda row: row[kind])
    name = f"layer {best['layer']}, head {best['head']}"
    print(f"{kind.replace('_', ' '):22} {name}: {best[kind]:4.0%}, chance {chance[kind]:4.0%}")

# %% [markdown]
# Compare each share with its chance. Where the one is near 100 % and the other a few per cent, a head has one job and
# does nothing else. Where they are close, not even the best of 24 heads does that sort of thing. Three lines deserve
# a second look. *First position* answers the question about the sink: a head that rested there would keep a large
# part of its weight on it. *After same character* means a look at what followed the same character earlier on, which
# is how an *induction head* copies from the past (Olsson 2022). Large models have both kinds. Ours has neither: its
# best heads are at 5 % and 6 %. And *further back* means more than eight positions: there the best is no higher than
# chance, so no head has a preference for what lies that far back.
#
# ## What is a head worth?
#
# A head can look at something and make nothing of it. To know what it is *worth*, we take it out. You have seen above
# that a head adds its own contribution, through its own columns of `c_proj`. With these columns set to zero, the head
# is silent and everything else is as before. How much worse does the model become? Taking a part out, or changing it,
# and keeping all else, to see what it was worth, is called an **ablation**. (Here the model is a finished one. Lesson
# 07 trains a new one for each change, which is another question.) This one takes 24 evaluations on the 111,540
# characters of the validation text, too long for a lesson, so the numbers come from a table (`benchmarks/heads.py`
# makes it).

# %%
whole = measured[0]["val_loss"]  # of the checkpoint as it is
fig, ax = plt.subplots(figsize=(7.4, 2.9), layout="constrained")
draw.grid(ax, worth.view(3, 8), [f"layer {i}" for i in range(3)], [str(i) for i in range(8)],
          f"rise of the validation loss ({whole:.3f}) without this head", digits=3)
plt.show()

# %%
order = worth.argsort(descending=True)  # (24,)
for h in [*order[:4].tolist(), *order[-2:].tolist()]:
    row = measured[h]
    most = max(kinds, key=lambda kind: row[kind] - chance[kind])
    print(f"layer {h // 8}, head {h % 8}: without it {row['rise']:+.3f}", end=", ")
    print(f"at its mean {row['rise_at_mean']:+.3f}, {row[most]:.0%} on {most.replace('_', ' ')}")
print(f"without the first: {whole + worth.max():.3f}. A bigram table (lesson 02): 2.482")

# %% [markdown]
# The heads are sorted by what they are worth: the first four, then the last two. Look at how unevenly it is spread.
# The last line sets the loss of a model that has lost its *one* best head beside that of lesson 02's table of pairs.
# It does worse than the table, although the other 23 heads are still there, and so is everything else.
#
# The second number in each line answers a fair objection. A head that is ablated withholds not only its news but
# also its average, a constant on which the rest of the model may count. So in the second measurement it says its own
# average, at every position alike. Where the two numbers are close, it is the news that is missed.
#
# Two warnings belong to such a table. It measures what the finished model *relies on*, not what a model needs:
# trained without this head from the start, it might well have learned to do the same in another way. And one head at
# a time can mislead. Two heads that tell the same story, or part of it, can each look less important than they are,
# because the other one stands in (exercise 2).
#
# And why the whole text? Lesson 02 had a rule for this. A table from 2,500 characters costs about a forty-fifth of
# the time, so let us see how it would have ranked the heads, on four such pieces.

# %%
apart = (worth[:, None] - worth).sign()  # (24, 24): which of two heads is worth more
for i in range(4):
    rises = torch.tensor([row[f"rise_piece_{i}"] for row in measured])  # (24,)
    swapped = ((rises[:, None] - rises).sign() != apart).float().sum() / (24 * 23)
    print(f"piece {i}: {swapped:3.0%} of the pairs in another order, smallest {rises.min():+.4f}")

# %% [markdown]
# The heads that matter most are found in any piece, but many of the others change places, and the one that a piece
# calls useless, or worse, need not be the one that the whole text does. So rank on the whole text, and even there trust
# the few heads at the top, not the order, or the sign, of the many that are worth a hundredth of a nat or less.
#
# And now all of it together. The next picture answers to the mouse, or to your finger. Point at a character of the
# text. The 24 small panels show the same text in miniature, each with what *that* head takes from where, and the
# number in its title is what the head is worth. Click on a panel to see its head in the large text; click on a
# character to hold it. Nothing runs behind it, so it works in a stored notebook too. (Where scripts are taken out,
# as on GitHub, only a sentence stands here, and the two pictures above have to do.)

# %%
# NBVAL_IGNORE_OUTPUT
# (tests do not compare this page: other processors round a few of its 120,000 weights differently)
shown = corpus.val[4105:4206]  # (T=101,)
weights = torch.cat([w[0] for w in pc.attention_weights(shipped, shown[None])])  # (24, T, T)
picogpt.show_heads(corpus.tokenizer.decode(shown), weights, worth.tolist())

# %% [markdown]
# Try your own text: any line in the characters of Tiny Shakespeare will do in place of
# `corpus.tokenizer.decode(shown)`, with its ids in place of `shown`. And be careful with names. "The head that finds
# the same character" is a description of where it looks on this text, and no more. What it makes of that, and
# whether somebody downstream listens, are questions of their own.
#
# The [playground](../web/playground.html) has a box for your text, and does the same in a browser, without a kernel,
# once `make playground` has packed the models for it.
#
# <!-- playground: heads -->
#
# ## The model so far
#
# In lesson 03 the course's growing model got one head. Now it has eight of them. As before, it was trained anew for
# 400 steps, with three seeds, and everything else was kept.

# %%
growth = picogpt.load_rows(picogpt.DATA / "runs" / "growth.csv")
means = picogpt.summary_of(picogpt.final_losses(picogpt.DATA / "runs" / "growth.csv"))
for stage in ("bigram", "+ positions", "+ one head", "+ 8 heads"):
    sample = next(row["sample"] for row in growth if row["variant"] == stage and row["sample"])
    print(f"{stage:12} {means[stage]:.3f}   {sample[:64]}")
gain = means["+ one head"] - means["+ 8 heads"]
assert gain > means["+ positions"] - means["+ one head"], "eight heads are the largest step so far"

# %% [markdown]
# The step from one head to eight is the largest so far. Here is a likely reason, which we have not tested by itself.
# Apart from its embeddings and the last layer, this little model is one attention and nothing else, so whatever a
# position wants to know must come through a head, and that includes *its own character*. A single head has to choose:
# keep what stands here, or fetch what stands before. Eight heads need not choose. One can stay at home while others
# look one, two and three characters back. (In lesson 05 a residual connection will take over the staying at home.) As
# in lesson 03 it takes a suitable start: from GPT-2's smaller weights, eight heads end at 2.55, above the bigram. The
# text, though, is still far from English, and more heads are not what it lacks.
#
# ## Exercises
#
# ### 1. Write multi-head attention
#
# Write the class `MultiHeadAttention(C, nh, block_size)`: causal attention with `nh` heads on x (B, T, C), where T
# may be anything up to `block_size`. It has two linear layers, `c_attn` from C to 3C without a bias, and `c_proj`
# from C to C with one. The mask is a buffer that is not stored with the weights, as in lesson 03. The check loads
# the weights of the core's attention into it and compares the answers, to a millionth.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: attention with one bug at a time (run this cell)
def with_bug(core, x, bug=""):
    """What the core's attention gives, computed with a usual bug. (B, T, C) -> (B, T, C)"""
    (B, T, C), nh = x.shape, core.config.n_head
    q, k, v = core.c_attn(x).split(C, dim=2)
    if bug == "order":
        q, k = k, q
    cut = {"split": lambda z: z.reshape(B, nh, T, C // nh), "one head": lambda z: z[:, None]}
    cut["mixed"] = lambda z: z.view(B, T, C // nh, nh).permute(0, 3, 1, 2)  # (B, nh, T, hs)
    q, k, v = (cut.get(bug, lambda z: pc.split_heads(z, nh))(z) for z in (q, k, v))
    if bug == "packed":  # (B, T, 3C) -> (B, nh, T, 3hs), then (B, nh, T, hs) each
        q, k, v = pc.split_heads(core.c_attn(x), nh).chunk(3, dim=3)
    scores = q @ k.transpose(2, 3) / math.sqrt(C if bug == "root" else q.shape[3])
    if bug not in ("mask", "late"):
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
    weights = scores.softmax(dim=2 if bug == "softmax" else 3)
    if bug == "late":
        weights = weights * torch.ones(T, T).tril()
    y = weights @ v
    if bug == "mixed":
        y = y.permute(0, 2, 3, 1)  # (B, nh, T, hs) -> (B, T, hs, nh)
    y = y.reshape(B, T, C) if bug in ("join", "mixed") else pc.join_heads(y)
    return y if bug == "c_proj" else core.c_proj(y)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
BUGS = {
    "mask": "the future is not masked",
    "late": "the mask comes after the softmax, so that the rows no longer sum to 1",
    "split": "the right shape, the wrong content: view to (B, T, nh, hs), then transpose",
    "join": "on the way back, transpose before you reshape",
    "root": "divide by the root of the head size, not of C",
    "one head": "that is a single head of size C",
    "order": "c_attn gives query, key, value, in this order",
    "mixed": "the numbers of a head are neighbours: view to (B, T, nh, hs), in this order",
    "packed": "cut c_attn's answer into query, key and value first, and each of them into heads",
    "softmax": "each row must sum to 1",
    "c_proj": "c_proj is missing at the end",
}

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def answer_of(yours, core, x):
    """What your module answers with the core's weights. ValueError, in words, if it cannot."""
    module = yours(32, 4, 16)
    names, wanted = sorted(module.state_dict()), sorted(core.state_dict())
    if names != wanted:
        masks = set(dict(module.named_buffers())) & set(names)
        hint = ". A mask is not stored with the weights: persistent=False" if masks else ""
        found = ", ".join(names) or "none"
        raise ValueError(f"it has the weights {found}; wanted {', '.join(wanted)}{hint}")
    module.load_state_dict(core.state_dict())
    answer = module(x.clone())
    if not isinstance(answer, torch.Tensor) or answer.shape != x.shape:
        raise ValueError(f"for x {tuple(x.shape)} it returned {getattr(answer, 'shape', answer)}")
    return answer

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4 (run this cell)
@torch.no_grad()
def check_multi_head(yours):
    """Gives your module the core's weights, and 2 texts of 10 positions, fewer than block_size."""
    torch.manual_seed(0)
    core, x = pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=4)), torch.randn(2, 10, 32)
    try:
        answer = answer_of(yours, core, x)
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        print(f"not yet: {kind}{' '.join(str(error).split())[:300]}")
        if "(16)" in str(error):  # block_size
            print("Is the mask too large? A text may be shorter than block_size: future[:T, :T]")
        return
    if torch.allclose(answer, core(x), atol=1e-6):
        print("✓ that is multi-head attention, equal to the core's to a millionth")
        return
    found = [bug for bug in BUGS if torch.allclose(answer, with_bug(core, x, bug), atol=1e-6)]
    print("not yet:", BUGS[found[0]] if found else "other numbers than the core's")

# %% tags=["exercise"]
class MultiHeadAttention(nn.Module):
    def __init__(self, C, nh, block_size):
        super().__init__()
        # your code

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        ...  # your code


check_multi_head(MultiHeadAttention)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
class MultiHeadAttention(nn.Module):
    def __init__(self, C, nh, block_size):
        super().__init__()
        self.nh = nh
        self.c_attn = nn.Linear(C, 3 * C, bias=False)
        self.c_proj = nn.Linear(C, C)
        future = torch.ones(block_size, block_size, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, C) each
        q, k, v = (z.view(B, T, self.nh, -1).transpose(1, 2) for z in (q, k, v))  # (B, nh, T, hs)
        scores = q @ k.transpose(2, 3) / math.sqrt(C // self.nh)  # (B, nh, T, T)
        weights = scores.masked_fill(self.future[:T, :T], float("-inf")).softmax(dim=3)
        y = (weights @ v).transpose(1, 2).reshape(B, T, C)  # (B, nh, T, hs) -> (B, T, C)
        return self.c_proj(y)


check_multi_head(MultiHeadAttention)

# %% [markdown]
# ### 2. Ablate a head
#
# Write `ablate(model, layer, head)`, which takes one head's contribution out of `model`, and nothing else, by
# changing `model.h[layer].attn.c_proj.weight`. If it is right, the check uses it for an experiment of its own. It
# ablates two heads of one layer, first each alone and then both.
#
# <details><summary>What do you expect: do the two losses add up?</summary>
#
# Hardly ever, because what follows the heads is not linear. If both together cost more than the sum, each of them
# could partly stand in for the other, even if they look at different places. If they cost less, they were useful
# only as a pair, or the damage levels off.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: the experiment (run this cell)
def losses_without(ablate, *groups):
    """The loss on the first part of the validation text, with each group of heads ablated."""
    text = corpus.val[: picogpt.budget(smoke=1_000, quick=10_000, full=111_540)]
    losses = []
    for group in groups:
        model = picogpt.load_shipped("picogpt").model
        for layer, head in group:
            ablate(model, layer, head)
        losses.append(pc.evaluate(model, text))
    return losses


def experiment(ablate):
    """The two heads of one layer that are worth most: ablated each alone, and both."""
    layer = int(worth.argmax()) // 8
    one, other = ((layer, head) for head in worth.view(3, 8)[layer].topk(2).indices.tolist())
    whole, *losses = losses_without(ablate, [], [one], [other], [one, other])
    a, b, both = (loss - whole for loss in losses)
    print(f"✓ layer {layer}: without head {one[1]} {a:+.3f}, without {other[1]} {b:+.3f}", end="")
    print(f", which adds up to {a + b:+.3f}; without both {both:+.3f}")


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def wrong_change(ablate, layer, head):
    """What is wrong with the change that `ablate` makes to a fresh model, in words, or None."""
    model = picogpt.load_shipped("picogpt").model
    ablate(model, layer, head)
    old, new = shipped.state_dict(), model.state_dict()
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    where, first = f"h.{layer}.attn.c_proj.weight", head * 32
    if changed != [where]:
        return f"it changed {', '.join(changed) or 'nothing'}, and should change {where} only"
    columns = (old[where] != new[where]).any(dim=0).nonzero()[:, 0].tolist()
    if columns != list(range(first, first + 32)):
        return f"head {head} owns the columns {first} to {first + 31}: weight[:, first:last]"
    return "the right columns, but they are not 0" if new[where][:, columns].any() else None


@torch.no_grad()
def check_ablate(ablate):
    try:
        wrong = wrong_change(ablate, 0, 3) or wrong_change(ablate, 2, 5)
        print(f"not yet: {wrong}") if wrong else experiment(ablate)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")


# %% tags=["exercise"]
@torch.no_grad()
def ablate(model, layer, head):
    ...  # your code


check_ablate(ablate)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
@torch.no_grad()
def ablate(model, layer, head):
    model.h[layer].attn.c_proj.weight[:, head * 32 : (head + 1) * 32] = 0


check_ablate(ablate)

# %% [markdown]
# ### 3. Attention in pieces
#
# A stretch. Write `attend_in_pieces(query, keys, values, size)`, the attention of a single query (hs,) over T keys
# and values (T, hs) each, without a mask. It may look at only `size` keys at a time, and must never hold all T
# scores. The result is (hs,).
#
# <details><summary>A hint</summary>
#
# Go through `keys.split(size)` and `values.split(size)` together, and keep three things: the sum of exp(score) so
# far, the sum of exp(score) · value so far, and, because exp of a large number overflows, the largest score so far,
# which you subtract before exp. When a piece brings a larger one, what you have summed up is too large by a factor.
# By which?
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: answers with one bug at a time (run this cell)
def piecewise(query, keys, values, size, bug):
    """Attention over pieces with a usual bug."""
    root = 1 if bug == "root" else math.sqrt(len(query))
    pieces = [(k @ query / root, v) for k, v in zip(keys.split(size), values.split(size))]
    if bug == "mean":
        return torch.stack([scores.softmax(dim=0) @ v for scores, v in pieces]).mean(dim=0)
    if bug == "root":
        return torch.cat([scores for scores, _ in pieces]).softmax(dim=0) @ values
    total, mix, largest = 0, 0, torch.tensor(-math.inf)
    for scores, v in pieces:  # the sums so far are not scaled down when a larger score comes
        largest = torch.maximum(largest, scores.max())
        weights = (scores - largest).exp()
        total, mix = total + weights.sum(), mix + weights @ v
    return mix / total


IN_PIECES = {
    "mean": "a mean of each piece's own softmax: a piece with high scores must count for more",
    "root": "the scores are not divided by √hs",
    "rescale": "when a larger score comes, multiply the sums by exp(old largest − new largest)",
}

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def wrong_pieces(yours, scale):
    """What is wrong with an answer for 4,096 keys, 64 at a time, in words, or None."""
    torch.manual_seed(0)  # query, keys, values
    given = scale * torch.randn(8), torch.randn(4096, 8), torch.randn(4096, 8)
    with Largest() as made:
        answer = yours(*given, 64)
    if getattr(answer, "shape", None) != (8,):
        return f"it returned {getattr(answer, 'shape', answer)}, wanted a tensor (8,)"
    if not answer.isfinite().all():
        return "with large scores exp overflows: subtract the largest score so far"
    if not torch.allclose(answer, piecewise(*given, 4096, ""), atol=1e-4):
        found = [torch.allclose(answer, piecewise(*given, 64, s), atol=1e-4) for s in IN_PIECES]
        words = "other numbers. Try it with one piece first, size = T"
        return next((words for words, same in zip(IN_PIECES.values(), found) if same), words)
    return f"right, but with a tensor of {made.numbers:,} numbers" if made.numbers > 512 else None

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_in_pieces(yours):
    """Tries small scores first, then scores of several hundred."""
    try:
        wrong = wrong_pieces(yours, 1) or wrong_pieces(yours, 100)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    right = "✓ 4,096 keys, and never more than 64 scores: the idea of FlashAttention"
    print(f"not yet: {wrong}" if wrong else right)


# %% tags=["exercise"]
def attend_in_pieces(query, keys, values, size):
    ...  # your code


check_in_pieces(attend_in_pieces)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def attend_in_pieces(query, keys, values, size):
    total, mix, largest = 0, 0, torch.tensor(-math.inf)
    for k, v in zip(keys.split(size), values.split(size)):  # (size, hs) each
        scores = k @ query / math.sqrt(len(query))  # (size, hs) @ (hs,) -> (size,)
        new = torch.maximum(largest, scores.max())
        weights, shrink = (scores - new).exp(), (largest - new).exp()  # (size,), and one number
        total = total * shrink + weights.sum()
        mix = mix * shrink + weights @ v  # (size,) @ (size, hs) -> (hs,)
        largest = new
    return mix / total


check_in_pieces(attend_in_pieces)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. run several heads side by side: `view` to (B, T, nh, hs), `transpose` to (B, nh, T, hs), attend once, and back,
# 2. say what `c_proj` does: every head adds a contribution of its own to one sum,
# 3. recognise a wrong reshape by its blocks, and ask whether the future stays out *and* all of the past comes in,
# 4. use SDPA (True: may look) and `nn.MultiheadAttention` (True: hidden), and say what is never stored,
# 5. tell what a head looks at from what it is worth, and measure both on the whole text.
#
# Three questions for a whiteboard: Trace one position's eight numbers
# through two heads, from x to the result, with every shape. Why is `z.view(B, nh, T, hs)` wrong, and what does each
# "head" then get? How can a softmax be computed without ever holding its whole row?
#
# <details><summary>Answers</summary>
#
# x is (8,). Three matrices (8, 8) make query, key and value of it, (8,) each, and each is seen as two groups of four,
# (2, 4). In each head, the query (4,) meets the keys of all T positions up to this one: scores (T,), weights (T,), and
# a mix of the values, (4,). Two of them side by side are (8,), and `c_proj`, (8, 8), makes (8,) of that. The `view`
# alone cuts the numbers in the order of memory, so the text falls into nh pieces, one after the other, and each "head"
# gets all numbers of one of them. A softmax in pieces keeps the largest score so far, the sum of exp(score − largest),
# and the same sum with the values. When a larger score comes, both sums are multiplied by exp(old − new); in the end,
# divide the second by the first.
# </details>
#
# Next: [lesson 05](05_the_whole_gpt.ipynb) adds what is still missing, and puts the whole GPT together.
#
# ## Sources
#
# - Multi-head attention: Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.2.
# - Heads as a wrapper, then as a reshape: Raschka, *Build a Large Language Model (From Scratch)*, section 3.6;
#   nine implementations, timed: [mha-implementations](https://github.com/rasbt/LLMs-from-scratch/tree/main/ch03/02_bonus_efficient-multihead-attention).
# - Heads as a sum, and what trained ones do: Elhage et al. 2021,
#   [A mathematical framework for transformer circuits](https://transformer-circuits.pub/2021/framework/index.html);
#   as exercises: [ARENA 1.1](https://github.com/callummcdougall/ARENA_3.0).
# - In three dimensions, and alive: [bbycroft.net/llm](https://bbycroft.net/llm),
#   [transformer-explainer](https://poloclub.github.io/transformer-explainer/).
# - Attention that never stores its weights: Dao et al. 2022, [arXiv 2205.14135](https://arxiv.org/abs/2205.14135); the running
#   softmax: Milakov and Gimelshein 2018, [arXiv 1805.02867](https://arxiv.org/abs/1805.02867).
# - PyTorch's documentation:
#   [scaled_dot_product_attention](https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html),
#   [MultiheadAttention](https://pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html).
# - Attention sinks: Xiao et al. 2023, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453).
# - Induction heads: Olsson et al. 2022, [arXiv 2209.11895](https://arxiv.org/abs/2209.11895).
# - Heads that can be taken away: Michel, Levy and Neubig 2019, [arXiv 1905.10650](https://arxiv.org/abs/1905.10650).
# - The size column: [TylerYep/torchinfo #366](https://github.com/TylerYep/torchinfo/issues/366).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
