# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · KV cache
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/11_kv_cache.ipynb)
#
# **You will**
# 1. see how much of its work a GPT repeats when it writes, and why it need not,
# 2. write a KV cache yourself: `append`, the mask for new positions, and the attention that uses both,
# 3. put it into the trained model and prove, position by position, that nothing has changed,
# 4. see four bugs that leave all shapes right, take a guess back, and see a full window that no cache survives,
# 5. find out where the time of a step goes, what a batch and a compiler do about it, and what grouped queries save,
# 6. compute how much memory a cache takes, and write several texts of different lengths at once.
#
# **You need** lessons 03 and 04 (the mask, the heads), 05 (the whole model) and 10 (sampling).
#
# **Time** 45 minutes to read, ten seconds to run, an hour for the exercises.
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
import math
import time
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

# %% tags=["setup"]
import picogpt
import picogpt_core as pc
from picogpt import draw

saved = picogpt.load_shipped("picogpt")
model, tokenizer = saved.model, saved.tokenizer
corpus = picogpt.load_corpus()
block = model.config.block_size  # 256

# %% [markdown]
# We let PicoGPT write the same few words twice. The first time as in lesson 10: for each character, the model reads
# the whole text so far. The second time with the thing that this lesson is about. A hook on the embedding (a function
# that is called whenever it has computed something) notes how many positions the model reads at each step.

# %%
prompt = "ROMEO:\n"
start = torch.tensor([tokenizer.encode(prompt)])  # (B=1, T=7)


def written(n, use_cache):
    """The likeliest n characters after the prompt, and how many positions each step has read."""
    read = []
    hook = model.wte.register_forward_hook(lambda module, args, out: read.append(out.shape[1]))
    ids = pc.generate(model, start, pc.SampleConfig(n, temperature=0), use_cache)
    hook.remove()
    return tokenizer.decode(ids[0]), read


# %%
names = {False: "reading everything again", True: "with a cache"}
results = {names[use_cache]: written(24, use_cache) for use_cache in (False, True)}
for name, (text, read) in results.items():
    print(f"{name:25} {text!r}, {sum(read)} positions read")

# %% [markdown]
# The same text, and a small part of the reading. Here is what was read, step by step.

# %% jupyter={"source_hidden": true} cellView="form"
# @title Draw what was read (run this cell)
def reading(ax, read, text, title):
    """A row for each step, a column for each position: what is read first, and what again."""
    cells = torch.full((len(read), len(text) - 1, 3), 1.0)  # white
    colours = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in (draw.INK, draw.HERE)]
    for step, count in enumerate(read):
        end = len(prompt) + step
        before = end - 1 if step else 0  # what earlier steps have read
        cells[step, end - count : end] = torch.tensor(colours[0])
        cells[step, end - count : max(before, end - count)] = torch.tensor(colours[1])
    ax.imshow(cells, aspect="auto")
    labels = picogpt.visible_characters(text[:-1])[::5]  # every fifth can be read on a phone, too
    ax.set_xticks(range(0, len(text) - 1, 5), labels, family="monospace", fontsize=12)
    ax.set_title(title, fontsize=12)


# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), layout="constrained", sharey=True)
for ax, (name, (text, read)) in zip(axes, results.items()):
    reading(ax, read, text, name)
axes[0].set(ylabel="step: one character each")
axes[0].text(2, 17, "read again", fontsize=12)
plt.show()

# %%
once, again = block - 1, sum(range(1, block))
print(f"From 1 to {block} characters: {again:,} positions read without a cache,", end=" ")
print(f"{once} with one, {again / once:.0f} times fewer")

# %% [markdown]
# Every row is one step, which gives one character. (Every fifth character is named.) Dark is what the model reads for
# the first time, and orange what it has read before. On the left the orange grows by one with every step, so that a
# text twice as long takes about four times the reading. On the right there is none. After the prompt, each step reads
# one position, the character that was just written.
#
# So two questions. Why is it allowed to leave out all of the orange, and still get the same text? And what has to be
# remembered for it?
#
# <details><summary>A guess to keep for later: the last line says how much less is read in a whole window. Will the
# writing be as many times faster?</summary>
#
# Not nearly. We shall measure it, and find two reasons. At our size it is mostly one of them, in a large model the
# other.
# </details>
#
# ## Why it may be kept
#
# When the text grows by a character, what changes at the positions that were there already? Let us ask two models.
# Both ship with the course; they were trained alike, except that one of them has no causal mask. We read 30
# characters, then the same 30 and one more, and compare the vectors at the first 30 positions.

# %%
@torch.no_grad()
def stream(net, ids):
    """The vectors after the embeddings and after each block, (1 + L, B, T, C)."""
    rows = [net.wte(ids) + net.wpe(torch.arange(ids.shape[1]))]  # (B, T, C)
    for part in net.h:
        rows.append(part(rows[-1]))
    return torch.stack(rows)


def gap(a, b):
    """How far two tensors lie apart at most, in words. Mere rounding differs between processors."""
    largest = (a - b).abs().max().item()
    return "below 1e-4" if largest < 1e-4 else f"{largest:.2f}"

# %%
ids = corpus.val[None, :31]  # (B=1, T=31)
for name in ("honest", "unmasked"):
    net = picogpt.load_shipped(name).model
    alone, longer = stream(net, ids[:, :30]), stream(net, ids)[:, :, :30]
    print(f"{name}: after the embeddings, and after each of the blocks")
    for a, b in zip(alone, longer):
        print(f"    the largest change {gap(a, b)}, of numbers of standard deviation {a.std():.1f}")

# %% [markdown]
# In the honest model, the one with the mask, the old positions do not notice that the text has gone on. How could
# they? Whatever position 5 computes in any layer depends on positions 0 to 5, and those are as they were. That is the
# causal mask of lesson 03, and this is its second reward: not only can a model learn at all positions at once, what it
# has computed about a text *stays true* as the text grows.
#
# In the model without a mask, everything changes as soon as it has passed one attention, and nothing of it can be kept.
# So a cache is not a trick that one adds to just any model. It rests on the mask.
#
# Now the second question. A new position needs something from the old ones, but what? Every part of a GPT except
# attention works on one position at a time: embeddings, LayerNorm, MLP and the head never look sideways. In attention,
# the query of the new position asks the **keys** of all positions up to and including its own, and takes from their
# **values**. That is all. The old queries have done their work in steps of their own, and are never needed again. So
# what must be remembered are the keys and values of each layer, the **KV cache**.
#
# ## One head, one row at a time
#
# As in lesson 03, a text that is short enough to print every number: five characters, a vector of four numbers each,
# and a head of width two with random matrices.

# %%
text, C, hs = "to be", 4, 2
torch.manual_seed(17)
x = torch.randn(len(text), C).round(decimals=1) + 0.0  # (T=5, C); + 0.0 makes a 0 of a -0
W_query, W_key, W_value = torch.randn(3, C, hs).round(decimals=1) + 0.0  # (C, hs) each


def signs(numbers, digits=2):
    return " ".join(f"{number:+.{digits}f}" for number in numbers.tolist())


for name, matrix in (("query", W_query), ("key", W_key), ("value", W_value)):
    print(f"the two columns of W_{name:6} {signs(matrix[:, 0], 1)}   and {signs(matrix[:, 1], 1)}")
terms = " + ".join(f"({a:.1f})({b:.1f})" for a, b in zip(x[0], W_key[:, 0]))
print(f"the first number of the first key: {terms} = {x[0] @ W_key[:, 0]:.2f}")

# %%
keys, values, rows = torch.zeros(0, hs), torch.zeros(0, hs), []  # nothing yet
for t, character in enumerate(text):
    keys = torch.cat([keys, x[[t]] @ W_key])  # (t + 1, hs)
    values = torch.cat([values, x[[t]] @ W_value])  # (t + 1, hs)
    weights = (keys @ (x[t] @ W_query) / math.sqrt(hs)).softmax(dim=0)  # (t + 1,)
    rows.append(weights)
    print(f"{character!r}  x {signs(x[t], 1)}   key {signs(keys[t])}   value {signs(values[t])}")
    print(f"     weights {signs(weights).replace('+', '')}   receives {signs(weights @ values)}")

# %% [markdown]
# Each step makes *one* key, *one* value and *one* query. The key and the value join the others; the query is used and
# forgotten. There is no mask in these lines, and none is needed. The newest position may look at everything that is
# there, since what is there is its past.
#
# Is it what lesson 03 computed, all at once and with a mask? We put the rows below each other.

# %%
scores = (x @ W_query) @ (x @ W_key).T / math.sqrt(hs)  # (T, hs) @ (hs, T) -> (T, T)
hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)  # (T, T)
whole = scores.masked_fill(hidden, float("-inf")).softmax(dim=1)  # (T, T): lesson 03
grown = torch.stack([F.pad(row, (0, 5 - len(row))) for row in rows])  # (T, T)
print("the largest difference from the masked matrix:", gap(whole, grown))
assert torch.allclose(whole, grown, atol=1e-6)

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.9), layout="constrained")
for ax, steps in zip(axes, (2, 3, 5)):
    shown = grown.masked_fill(hidden, float("nan"))[:steps]  # (steps, T)
    draw.grid(ax, shown, text[:steps], text, f"after {steps} steps")
    ax.set_ylim(len(text) - 0.5, -0.5)  # room for the rows to come
    frame = plt.Rectangle((-0.46, steps - 1.46), steps - 0.08, 0.92, fill=False, ec=draw.WARM, lw=3)
    ax.add_patch(frame)
plt.show()

# %% [markdown]
# The attention matrix grows by one row with each step, and the frame marks the new one. What lies above it is never
# touched again. It need not even be stored: what we keep are not the rows but the columns, a key and a value for each.
# And here you see the mask from the other side. The grey corner, which lesson 03 had to cover, holds what does not
# exist yet when a row is computed.
#
# ## A place for all of them
#
# `torch.cat` is fine for five characters. But it makes a new tensor each time and copies everything that was there, so
# that the reading, which we got rid of, comes back as copying. (At our size you would not notice. For long texts and
# large models you would.)

# %%
per_position = 2 * model.config.n_layer * model.config.n_embd  # a key and a value in each layer
copied = sum(t * per_position * 4 for t in range(block))  # bytes
print(f"PicoGPT keeps {per_position:,} numbers for a position, {per_position * 4:,} bytes")
print(f"a full window: {block * per_position * 4 / 1e6:.1f} MB", end="")
print(f", and torch.cat copies {copied / 1e6:.0f} MB on the way there")

# %% [markdown]
# The usual way is to make room for the longest text once, and to count how many positions are filled. A new key is
# then written into the first free place. Nothing is copied, and taking back the last few positions is as simple as
# making the count smaller, because what lies beyond it will be overwritten. (Lesson 12 relies on that.)
#
# ### Exercise 1 · Append
#
# Write `append(store, length, new)`. The `store` (B, nh, room, hs) has its first `length` positions filled, and `new`
# (B, nh, m, hs) holds m more. Write them into the store, right after those, and return all that is filled now, (B, nh,
# length + m, hs). Two lines will do. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1: what all checks of this lesson share (run this cell)
def tried(function, *inputs):
    """What a function returns, or the error that it raised."""
    with torch.no_grad():
        try:
            return function(*inputs)
        except Exception as error:
            return error


def is_no(answer, shape):
    """Why an answer is not a tensor of this shape, in words; nothing if it is one."""
    if isinstance(answer, Exception):
        return f"your function stopped with {type(answer).__name__}: {answer}"
    if not isinstance(answer, torch.Tensor) or tuple(answer.shape) != shape:
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else repr(answer)[:40]
        return f"it returned {got}, wanted a tensor of shape {shape}"
    return ""


def same(a, b):
    return torch.allclose(a.float(), b.float(), atol=1e-4)


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def append_hint(store, length, new, answer):
    """What is off after one call, or nothing. The store had a 7 in each free place."""
    B, nh, m, hs = new.shape
    if isinstance(answer, torch.Tensor) and answer.shape == store.shape:
        return "return only what is filled, without the free places at the end"
    if isinstance(answer, torch.Tensor) and answer.shape == new.shape and length:
        return "return the old ones too: a query wants to ask all of them"
    if isinstance(answer, torch.Tensor) and answer.shape == (B, nh, store.shape[2] + m, hs):
        return "the store has room for them: nothing is put at its end. Write into it"
    if length and same(store[:, :, :m], new):
        return "the new ones stand at the beginning, where older ones were"
    if why := is_no(answer, (B, nh, length + m, hs)):
        return why
    if not same(store[:, :, length : length + m], new):
        return "they are not in the store: the next step will not find them"
    if not (store[:, :, length + m :] == 7).all():
        return "something was written beyond the new positions"
    return "" if same(answer, store[:, :, : length + m]) else "that is not what the store holds"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_append(append):
    torch.manual_seed(0)
    store, length = torch.full((2, 3, 9, 4), 7.0), 0  # (B=2, nh=3, room=9, hs=4)
    old = torch.zeros(2, 3, 0, 4)
    for m in (4, 1, 3):
        new = torch.randn(2, 3, m, 4)  # (B, nh, m, hs)
        answer = tried(append, store, length, new.clone())
        if hint := append_hint(store, length, new, answer):
            return print(f"not yet: for {m} after {length}, {hint}")
        old = torch.cat([old, new], dim=2)  # (B, nh, length + m, hs)
        if not same(answer, old):
            return print(f"not yet: for {m} after {length}, the older ones have changed")
        length += m
    print("✓ 4, 1 and 3 positions, each in its place")


# %% tags=["exercise"]
def append(store, length, new): ...  # your code


check_append(append)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def append(store, length, new):
    end = length + new.shape[2]
    store[:, :, length:end] = new  # (B, nh, m, hs)
    return store[:, :, :end]  # (B, nh, length + m, hs): a view, nothing is copied


check_append(append)

# %% [markdown]
# ## Several new positions: where does the triangle go?
#
# With one new position no mask was needed. But often there are several: a prompt, which is read in one go; a long
# prompt, read in pieces to save memory; the guesses of another model (lesson 12). Then the early ones among them must
# not see the later ones. There are m queries and n + m keys, so the mask has m rows and n + m columns, and it is wider
# than it is high. A triangle can be put into such a rectangle in two ways.
#
# Let us ask PyTorch. Its fused attention (SDPA, of lesson 04) returns no weights. But if the *values* are the rows of
# an identity matrix, then mixing them with weights gives the weights themselves. The cache holds *to b*, and three
# characters are new.

# %%
line, n, m = "to be o", 4, 3
torch.manual_seed(0)
q, k = torch.randn(1, 1, m, 8), torch.randn(1, 1, n + m, 8)  # (B=1, nh=1, m or n + m, hs=8)
weights_of = torch.eye(n + m).expand(1, 1, -1, -1)  # as values: (B, nh, n + m, n + m)
flag = F.scaled_dot_product_attention(q, k, weights_of, is_causal=True)[0, 0]  # (m, n + m)

# %%
new, old = torch.arange(n, n + m), torch.arange(n + m)  # positions of the queries, of the keys
sees = new[:, None] >= old  # (m, n + m): True where it may look
moved = F.scaled_dot_product_attention(q, k, weights_of, attn_mask=sees)[0, 0]  # (m, n + m)

# %%
fig, axes = plt.subplots(2, 1, figsize=(6.4, 5), layout="constrained")
titles = ("is_causal=True: the triangle is at the top left", "what is right: at the bottom right")
for ax, weights, title in zip(axes, (flag, moved), titles):
    shown = weights.masked_fill(weights == 0, float("nan"))  # exactly 0: not seen
    draw.grid(ax, shown, line[n:], line, title)
    ax.axvline(n - 0.5, color=draw.WARM, lw=3)
    ax.set_ylabel("new")
plt.show()

# %% [markdown]
# To the left of the line are the columns of the cache. Above, PyTorch has put the triangle into the top left corner, as
# if the three queries were the *first* three positions. The *e* of *be*, which is position 4, sees position 0 and
# nothing else, not even itself. That is documented, it raises no error, and all shapes are right. Below, each new
# position sees the whole cache and the new ones up to itself. The triangle stands at the bottom right, where the last
# query meets the last key.
#
# <details><summary>Before you go on: what does is_causal=True do with a single query after n keys?</summary>
#
# The triangle has one row then, and in it one cell, the first. So the query sees key 0 alone, whatever is in the
# cache, and its answer is the value of position 0. Remember this one: we shall see what text it makes.
# </details>
#
# ### Exercise 2 · The mask
#
# Write `mask(m, n)`, which returns booleans (m, n + m) for m new positions after n old ones, True where the row's
# position may look at the column's. It can be done in one line, by comparing positions, as above, or with `tril(k)`,
# where k moves the triangle to the right. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def mask_slips(m, n):
    """What people usually write instead, and what to say of it."""
    ones = torch.ones(m, n + m, dtype=torch.bool)
    return {
        "the triangle is at the top left. The first new position is n, not 0": ones.tril(),
        "True and False are exchanged: True means that it may look": ~ones.tril(n),
        "a new position may also look at itself": ones.tril(n - 1),
        "each row sees one position too many, the next one": ones.tril(n + 1),
        "everything is visible: the early ones see the later ones": ones,
        "the past is hidden: all old positions are visible": ones.tril(n).index_fill(
            1, torch.arange(n), False
        ),
    }


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_mask(mask):
    for m, n in ((3, 4), (1, 5), (4, 0), (2, 1)):
        answer = tried(mask, m, n)
        hint = is_no(answer, (m, n + m))
        if not hint and answer.dtype != torch.bool:
            hint = f"make it booleans, not {str(answer.dtype).removeprefix('torch.')}"
        if not hint and not torch.equal(answer, torch.ones(m, n + m, dtype=torch.bool).tril(n)):
            hints = [words for words, slip in mask_slips(m, n).items() if torch.equal(answer, slip)]
            hint = hints[0] if hints else f"row 0 is {answer[0].int().tolist()}: who sees what?"
        if hint:
            return print(f"not yet: for {m} after {n}, {hint}")
    print("✓ the triangle is where it belongs, and without a past it is the old one")


# %% tags=["exercise"]
def mask(m, n): ...  # your code


check_mask(mask)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def mask(m, n):
    return torch.ones(m, n + m, dtype=torch.bool).tril(n)


check_mask(mask)

# %% [markdown]
# ### Exercise 3 · Attention with a cache
#
# Now put the two together. Write `cached_attention(q, k, v, k_store, v_store, length)`: the queries, keys and values
# of m new positions, (B, nh, m, hs) each, and two stores, (B, nh, room, hs), with `length` positions filled. Append,
# and let each query look at all that it may: score, mask, softmax, mix, as in lesson 04. Return (B, nh, m, hs). Your
# `append` and `mask` are there to be used. (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def by_hand(q, k, v, sees, divided=True, late=False):
    """Attention in the open, with the slips that are asked for."""
    scores = q @ k.mT / (math.sqrt(q.shape[-1]) if divided else 1)  # (B, nh, m, n + m)
    if late:
        return (scores.softmax(-1) * sees) @ v
    return scores.masked_fill(~sees, float("-inf")).softmax(-1) @ v  # (B, nh, m, hs)


def attention_slips(q, k, v, n, stores):
    m, room = q.shape[2], stores.shape[3]
    sees, ones = pc.causal_mask(m, past=n), torch.ones(m, n + m, dtype=torch.bool)
    free = "free places of the store are asked, too. Use what append returns"
    return {
        free: by_hand(q, *stores, torch.ones(m, room, dtype=torch.bool)),
        f"{free}, and a mask for it": by_hand(q, *stores, pc.causal_mask(m, past=room - m)),
        "the triangle is at the top left": by_hand(q, k, v, ones.tril()),
        "the new positions see their own future: mask it": by_hand(q, k, v, ones),
        "divide the scores by √hs": by_hand(q, k, v, sees, divided=False),
        "the mask comes before the softmax": by_hand(q, k, v, sees, late=True),
        "the past is left out: use what append returns": by_hand(
            q, k[:, :, n:], v[:, :, n:], pc.causal_mask(m)
        ),
    }


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_cached_attention(attention):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 8)  # (B=2, nh=4, T=10, hs=8) each
    right, n = pc.attend(q, k, v), 0  # (B, nh, T, hs): all at once
    stores = torch.full((2, 2, 4, 12, 8), 7.0)  # (keys and values, B, nh, room, hs)
    for m in (4, 1, 3, 2):
        new = [z[:, :, n : n + m].clone() for z in (q, k, v)]
        answer = tried(attention, *new, *stores, n)
        hint = is_no(answer, tuple(new[0].shape))
        if not hint and not same(answer, right[:, :, n : n + m]):
            slips = attention_slips(new[0], k[:, :, : n + m], v[:, :, : n + m], n, stores)
            hints = [words for words, slip in slips.items() if same(answer, slip)]
            hint = hints[0] if hints else "these are not the numbers of the whole text"
        if not hint and not all(same(s[:, :, n : n + m], z) for s, z in zip(stores, new[1:])):
            hint = "the new keys and values are not in the stores"
        if hint:
            return print(f"not yet: for {m} after {n}, {hint}")
        n += m
    print("✓ in pieces of 4, 1, 3 and 2, the same as all at once")


# %% tags=["exercise"]
def cached_attention(q, k, v, k_store, v_store, length): ...  # your code


check_cached_attention(cached_attention)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def cached_attention(q, k, v, k_store, v_store, length):
    k, v = append(k_store, length, k), append(v_store, length, v)  # (B, nh, n + m, hs) each
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, nh, m, hs) @ (B, nh, hs, n + m)
    scores = scores.masked_fill(~mask(q.shape[2], length), float("-inf"))  # (B, nh, m, n + m)
    return scores.softmax(dim=-1) @ v  # (B, nh, m, n + m) @ (B, nh, n + m, hs)


check_cached_attention(cached_attention)

# %% [markdown]
# ## The whole model
#
# The cache of a GPT is what you have just written, with one more axis: two stores for each layer, and one count for
# all. In the core it is `pc.KVCache`, whose stores `k` and `v` are (L, B, nh, block size, hs) and whose `append` you
# know. Here is a forward pass of PicoGPT around it, with nothing left out but dropout, which writing does not use. What
# differs from the plain one of lesson 05 is marked `NEW`. Besides the cache itself it is two things that have to know
# how many positions came before: which rows of `wpe` are added, and who sees whom. They are arguments here, so that we
# can get them wrong in a moment.

# %% tags=["setup"]
def after(n, m):
    """The positions of m new tokens after n. (m,)"""
    return torch.arange(n, n + m)


def lower_right(n, m):
    return after(n, m)[:, None] >= torch.arange(n + m)  # (m, n + m)


@torch.no_grad()
def read(model, ids, cache, position=after, sees=lower_right):
    """The logits (B, m, V) of m new tokens (B, m). They join the cache."""
    n, m = cache.length, ids.shape[1]
    x = model.wte(ids) + model.wpe(position(n, m))  # NEW: from n on. (B, m, C)
    for layer, part in enumerate(model.h):
        q, k, v = part.attn.queries_keys_values(part.ln_1(x))  # (B, nh, m, hs) each
        k, v = cache.append(layer, k, v)  # NEW: the whole cache. (B, nh, n + m, hs) each
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=sees(n, m))  # NEW. (B, nh, m, hs)
        x = x + part.attn.c_proj(pc.join_heads(y))  # (B, m, C)
        x = x + part.mlp(part.ln_2(x))  # each position by itself: no cache needed
    cache.length = n + m  # NEW
    return model.lm_head(model.ln_f(x))  # (B, m, V)

# %% [markdown]
# Writing has two phases now, which have names: the whole prompt is read in one go, the **prefill**, and then one token
# at a time, **decoding**. Is it exact? A sample of text would not tell, for a bug can hide in a text that looks fine.
# So we compare all logits at all positions with those of the plain model, for prompts of every length, three texts at
# once, and then for texts read in random pieces.

# %%
ids = corpus.val[: 3 * 24].view(3, 24)  # (B=3, T=24)
with torch.no_grad():
    plain = model(ids)  # (B, T, V)


def in_pieces(ids, lengths, cache, **how):
    """The logits at every position of ids (B, T), read in pieces of these lengths. (B, T, V)"""
    return torch.cat([read(model, piece, cache, **how) for piece in ids.split(lengths, 1)], 1)

# %%
splits = [[prompt] + [1] * (24 - prompt) for prompt in range(1, 25)]  # prefill, then decode
torch.manual_seed(0)
for _ in range(16):
    cuts = sorted(torch.randperm(23)[:5].add(1).tolist())
    splits.append([b - a for a, b in zip([0, *cuts], [*cuts, 24])])  # six pieces of any length

# %%
largest = torch.zeros(())
for lengths in splits:
    ours = in_pieces(ids, lengths, pc.KVCache(model.config, batch_size=3))
    largest = torch.maximum(largest, (ours - plain).abs().max())
print(f"{len(splits)} ways to cut the text, {len(splits) * plain.numel():,} logits compared")
print(f"largest difference {gap(largest, 0)}, of logits of standard deviation {plain.std():.1f}")
assert largest < 1e-4, "a cache changes nothing"

# %% [markdown]
# It is the same model, in every piece. Not to the last bit: sums of another length are added up in another order, so
# the last digits differ. (Greedy text is therefore the same unless two characters are tied to about the fifth digit.)
# The core has this built in: `model(ids, cache=cache)` does what `read` does, and `pc.generate` uses it.
#
# ### Exercise 4 · Write with a cache
#
# Write `greedy(model, ids, n)`: continue ids (1, T) by the n likeliest tokens. Read the prompt once and then one token
# at a time, with `pc.KVCache(model.config)` and `model(new_ids, cache=cache)`, which returns logits (1, m, V) for the
# m tokens it is given. The check compares the text, and counts what the model was given to read. (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def greedy_hint(mine, right, read, used):
    T = right.shape[1]
    if used:
        return "that is the core's loop. Write your own"
    if isinstance(mine, ValueError) and "in the cache" in str(mine):
        return f"the cache is full. Is what you read in the cache twice? {mine}"
    if hint := is_no(mine, tuple(right.shape)):
        return hint if isinstance(mine, Exception) else f"{hint}: the prompt and {T - 20} more"
    if not torch.equal(mine[:, :20], right[:, :20]):
        return "the prompt comes first, as it was"
    if not torch.equal(mine, right):
        at = int((mine != right)[0].nonzero()[0])
        alone = tried(lambda: model(mine[:, 20:-1].T)[:, -1].argmax(1))  # each token by itself
        if sum(read) == T - 1 and torch.equal(alone, mine[0, 21:]):
            return f"character {at} forgets all before it. Make one cache, before the loop"
        clue = " Is what you read in the cache twice?" if sum(read) > T - 1 else ""
        return f"character {at} of the text is not the likeliest.{clue}"
    if sum(read) > T:
        return f"the right text, but {sum(read)} tokens read. Each once makes {T - 1}"
    return ""


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_greedy(greedy):
    ids, read, used, core = corpus.val[None, :20], [], [], pc.generate
    for n in (30, 7):
        right = core(model, ids, pc.SampleConfig(n, temperature=0))
        read.clear()
        note = lambda module, args, out: read.append(out.shape[1])  # noqa: E731
        hook = model.wte.register_forward_hook(note)
        pc.generate = lambda *args, **how: used.append(True) or core(*args, **how)
        try:
            mine = tried(greedy, model, ids.clone(), n)
        finally:
            hook.remove()
            pc.generate = core
        if hint := greedy_hint(mine, right, list(read), used):
            return print(f"not yet: for n = {n}, {hint}")
    print("✓ the right text for n = 30 and for n = 7, and each token is read once")


# %% tags=["exercise"]
def greedy(model, ids, n): ...  # your code


check_greedy(greedy)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def greedy(model, ids, n):
    cache, new = pc.KVCache(model.config), ids  # (1, T)
    for _ in range(n):
        new = model(new, cache=cache)[:, -1].argmax(dim=1, keepdim=True)  # (1, V) -> (1, 1)
        ids = torch.cat([ids, new], dim=1)  # (1, T + 1)
    return ids


check_greedy(greedy)

# %% [markdown]
# ## Almost right, four times
#
# Now we get it wrong, four times, as people do. The first three are one argument of `read` each.
#
# 1. **Positions start again.** The new token is the only one in its call, and gets row 0 of `wpe`.
# 2. **The triangle is at the top left**, as with `is_causal=True`.
# 3. **No mask at all.** "One new position may see everything" is right, and the prompt has more than one.
# 4. **No rollback.** A guess was read and rejected, but `cache.length` was not lowered: the next token follows one that
#    is not in the text.

# %%
slips = {
    "right": {},
    "1 positions": dict(position=lambda n, m: torch.arange(m)),
    "2 top left": dict(sees=lambda n, m: lower_right(0, n + m)[:m]),  # (m, n + m)
    "3 no mask": dict(sees=lambda n, m: torch.ones(m, n + m, dtype=torch.bool)),
    "4 no rollback": {},
}

# %% [markdown]
# For each we read 20 characters as a prompt and 20 more one by one, and look at the logits of all forty positions, in
# twelve pieces of the play, because one piece may be a lucky one. How far off are they? A difference of logits says
# little. Let us measure what it does to the probabilities: the **Kullback-Leibler divergence** is how many nats the
# wrong probabilities lose on average, if the right ones are the truth. It is 0 only if the two are the same.

# %%
def divergence(right, wrong):
    """Nats lost by believing the wrong logits. (..., V) and (..., V) -> (...)"""
    right, wrong = right.log_softmax(-1), wrong.log_softmax(-1)
    return (right.exp() * (right - wrong)).sum(-1).clamp(min=0)

# %%
pieces = corpus.val[1000 : 1000 + 12 * 40].view(12, 40)  # (B=12, T=40)
with torch.no_grad():
    truth = model(pieces)  # (B, T, V)

# %%
off = {}
for name, how in slips.items():
    cache = pc.KVCache(model.config, batch_size=12)
    first = read(model, pieces[:, :20], cache, **how)  # (B, 20, V)
    if name.startswith("4"):
        read(model, pieces[:, [0]], cache)  # a guess, rejected, but still in the cache
    then = in_pieces(pieces[:, 20:], 1, cache, **how)  # (B, 20, V)
    off[name] = divergence(truth, torch.cat([first, then], dim=1))  # (B, T)

# %%
fig, ax = plt.subplots(figsize=(7.4, 2.6), layout="constrained")
table = torch.stack([nats.mean(dim=0) for nats in off.values()])  # (slips, T)
shown = table.masked_fill(table < 1e-6, float("nan"))
image = ax.imshow(shown, cmap="Oranges", norm="log", vmin=1e-4, vmax=10, aspect="auto")
ax.axvline(19.5, color=draw.INK, lw=2)
ax.set_yticks(range(len(off)), list(off), fontsize=11)
ax.set_xticks(range(0, 40, 5))
ax.set_xlabel("position")
ax.set_title("read with a cache: how wrong are the probabilities?", fontsize=12)
fig.colorbar(image, label="nats lost")
plt.show()

# %%
print("nats lost on average, and in the best and the worst of the twelve pieces")
for name, nats in off.items():
    each = nats[:, 20:].mean(dim=1)  # (B,): after the prompt
    print(f"{name:14} {nats[:, :20].mean():.3f} in the prompt, {each.mean():.3f} after it", end="")
    print(f" ({each.min():.3f} to {each.max():.3f})")

# %% [markdown]
# White is right, up to rounding, and the dark line is the end of the prompt. The first two bugs leave the whole prompt
# alone and strike with the first character after it, so a test that only reads a text in one go would pass them. The
# third is the other way round. In the prompt nearly everything is off, because the characters see what follows. But of
# the prompt only the last position is used, and that one may see everything anyway, so who would notice? Yet neither it
# nor anything after it is right. The first layer's keys and values are as they should be, but those of the *second* are
# made from vectors that have seen their future, and whatever comes later attends to them. That costs the least of the
# four, which makes it the easiest to miss. The fourth is off from its token onwards, for the rejected token stays in
# sight, and all positions are one too high. How much that costs differs between the pieces: compare the best with the
# worst.
#
# And what does one see in the text? Each writes 50 characters, always the likeliest, and we measure how far the
# probabilities were off while it wrote.

# %%
def write_with(n, name):
    """The likeliest n characters with one of the bugs, and the nats lost on the way."""
    ids, cache = torch.tensor([tokenizer.encode("GREMIO:\nGood morrow")]), pc.KVCache(model.config)
    new, used = ids, []
    for step in range(n):
        used.append(read(model, new, cache, **slips[name])[:, -1])  # (1, V)
        if name.startswith("4") and step == 0:
            read(model, new[:, :1], cache)  # bug 4, once, after the prompt
        new = used[-1].argmax(dim=1, keepdim=True)  # (1, 1)
        ids = torch.cat([ids, new], dim=1)
    with torch.no_grad():
        right = model(ids)[0, -n - 1 : -1]  # (n, V)
    return tokenizer.decode(ids[0, -n:]), divergence(right, torch.cat(used)).mean()


# %%
written_by = {name: write_with(50, name) for name in slips}
for name, (text, nats) in written_by.items():
    same_text = "the right text" if text == written_by["right"][0] else "another text"
    print(f"{name:14} {nats:.3f} nats off, {same_text}: {text!r}")

# %% [markdown]
# The first two are garbage. (The second, as we said, sees key 0 and nothing else: its next character depends on the
# last one, on that one's position and on the first of the text. The position evidently hardly counts, and so it soon
# goes round in a circle.) And since the loss of the model is fine (there is no cache in training), one looks for the
# reason everywhere but here. The other two are worse in a way. A hundredth of a nat, or less, was enough to send them
# on to another text, and it reads like that of a decent model. With another prompt, the whole text may even stay as it
# was, while the probabilities are wrong all along. (With the third bug it did in one of twelve prompts that we tried.)
# Nobody who only reads the text will look for a bug at all.
#
# All four pass a review that looks at shapes. Does the comparison from above find them, every position for several
# lengths of the prompt? And what if we read a guess after each piece, take it back, and go on?

# %%
def worst(name, guess):
    """The largest error of a logit, with a guess read and rejected after each piece, or none."""
    errors = []
    for lengths in splits[3:24:5]:
        cache, logits = pc.KVCache(model.config, batch_size=3), []
        for part in ids.split(lengths, dim=1):  # (B, at most 24)
            logits.append(read(model, part, cache, **slips[name]))
            if guess:
                read(model, ids[:, :1], cache, **slips[name])
                cache.length -= 0 if name.startswith("4") else 1
        errors.append((torch.cat(logits, dim=1) - plain).abs().max())
    return gap(max(errors), 0)


# %%
print(f"{'largest error of a logit:':26} {'only read':12} a guess taken back each time")
for name in slips:
    print(f"{name:26} {worst(name, False):12} {worst(name, True)}")

# %% [markdown]
# The comparison finds the first three. It is blind for the fourth, and cannot be otherwise: it never takes anything
# back, and bug 4 is not in the attention but in the code around the cache. So a cache needs a second test: read a
# token, take it back, go on, and compare again. Now the fourth stands out as the first two do. Reading guesses and
# taking some of them back is what lesson 12 does at every step, so let us get it right here. (The doctor of lesson 13
# makes the first of the two comparisons on other people's models.)
#
# ### Exercise 5 · Take it back
#
# Write `keep_first(model, cache, guesses, kept)`. The `cache` holds some text, and `guesses` (1, m) are m tokens that
# may follow it. Read them all in one call, return their logits (1, m, V), and leave the cache as if only the first
# `kept` of them had ever been read. Three lines will do. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def kept_hint(answer, right, length, n, m, kept):
    """What is off with the logits returned, or with the length of the cache; or nothing."""
    if hint := is_no(answer, tuple(right.shape)):
        return hint
    if not torch.allclose(answer, right, atol=1e-3):
        return "the logits are not those of the guesses after this text"
    slips = {
        n + m: "the rejected ones are still in the cache. What does cache.length say?",
        n: "the accepted ones are gone too: only the last m - kept are rejected",
        kept: "that forgets the text before the guesses: the cache was not empty",
        n + m - kept: "as many are left as were rejected. Keep the first `kept`",
        n - kept: "the text itself got shorter. The call has made cache.length larger by m",
    }
    if length == n + kept:
        return ""
    return slips.get(length, f"cache.length is {length!r:.40}, wanted {n + kept}: {n} and {kept}")


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_keep_first(keep_first):
    ids = corpus.val[None, :30]  # (1, T=30)
    for n, m, kept in ((7, 5, 2), (9, 4, 4), (8, 3, 0), (8, 4, 1)):
        cache, guesses = pc.KVCache(model.config), ids[:, 25 - m : 25]  # (1, m)
        with torch.no_grad():
            model(ids[:, :n], cache=cache)
            right = model(torch.cat([ids[:, :n], guesses], 1))[:, n:]  # (1, m, V)
        answer = tried(keep_first, model, cache, guesses.clone(), kept)
        hint = kept_hint(answer, right, cache.length, n, m, kept)
        if not hint:  # go on with two more tokens, and compare
            text = torch.cat([ids[:, :n], guesses[:, :kept], ids[:, 28:]], 1)  # (1, n + kept + 2)
            with torch.no_grad():
                then, right = model(ids[:, 28:], cache=cache), model(text)[:, -2:]  # (1, 2, V)
            hint = "" if torch.allclose(then, right, atol=1e-3) else "what follows is not right"
        if hint:
            return print(f"not yet: for {kept} of {m} guesses after {n} tokens, {hint}")
    print("✓ what was rejected leaves no trace, and what was kept stays")


# %% tags=["exercise"]
def keep_first(model, cache, guesses, kept): ...  # your code


check_keep_first(keep_first)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def keep_first(model, cache, guesses, kept):
    logits = model(guesses, cache=cache)  # (1, m, V); cache.length is now larger by m
    cache.length -= guesses.shape[1] - kept  # what lies behind it will be overwritten
    return logits


check_keep_first(keep_first)

# %% [markdown]
# A smaller `length` has one more use, and today it may be the most common one. An assistant begins every conversation
# with the same long instructions. Read them once, and for each conversation set the count back to their end. That is
# *prefix caching*.

# %%
shared, cache = corpus.val[None, :200], pc.KVCache(model.config)  # (1, T=200)
with torch.no_grad():
    model(shared, cache=cache)  # once
    for question in ("ROMEO:\nI", "To be, or"):
        asked = torch.tensor([tokenizer.encode(question)])  # (1, m)
        cache.length = 200  # forget the last conversation
        ours, whole = model(asked, cache=cache), model(torch.cat([shared, asked], 1))[:, 200:]
        print(f"{question!r}: {asked.shape[1]} positions read, not {200 + asked.shape[1]}", end="")
        print(f", largest difference {gap(ours, whole)}")

# %% [markdown]
# A good place for a break. You have a cache, it is exact, and you know how to test one. What follows is about its
# limits: a full window, the time, and the memory.
#
# ## When the window is full
#
# PicoGPT has 256 positions. To write the 257th character, the window moves on by one: what was at position 1 is now at
# position 0. What becomes of the cache? It seems a pity to throw away 255 keys and values because of one. So let us
# drop the oldest and keep the rest, which is a common tip for saving memory too.

# %%
starts = range(0, 24 * 4000, 4000)
windows = torch.stack([corpus.val[s : s + block + 2] for s in starts])  # (B=24, T + 2)
with torch.no_grad():
    right = model(windows[:, 1:-1], last_only=True)[:, -1]  # (B, V): moved by one and recomputed
    half = model(windows[:, -block // 2 - 1 : -1], last_only=True)[:, -1]  # (B, V): the last 128
    cache = pc.KVCache(model.config, batch_size=24)
    model(windows[:, :block], cache=cache)
    for store in (cache.k, cache.v):  # (L, B, nh, T, hs)
        store[:, :, :, :-1] = store[:, :, :, 1:].clone()  # forget the oldest, move up the others
    cache.length = block - 1
    stale = model(windows[:, [block]], cache=cache)[:, -1]  # (B, V)

# %%
answers = {"recomputed": right, "with the kept cache": stale, "the last 128 alone": half}
for name, logits in answers.items():
    nats = divergence(right, logits)  # (B,)
    loss = F.cross_entropy(logits, windows[:, -1])  # of the character that follows
    print(f"{name:20} loss {loss:.2f}, {nats.mean():.2f} nats off", end="")
    print(f" ({nats.min():.2f} to {nats.max():.2f})")

# %% [markdown]
# In most windows the kept cache is of no use, though in a lucky one it hardly hurts. Every key in it was made at a
# position that is now another one: the vector of position 1 had row 1 of `wpe` in it, and should have row 0. And the
# new character gets row 255, which its neighbour has used already. So from here on the core recomputes the whole
# window for each character, and what it writes is what the model without a cache would write. With learned positions
# there is no other way that is exact.
#
# There is one that is nearly as good. Look at the last line: a model that sees only the second half of the window
# hardly misses the first. (That its loss is even a little lower here is chance, for these are 24 characters.) So when
# the window is full, read its last 128 characters again, at positions 0 to 127, and go on with a cache that has room
# for 128 more. That is one long reading for 128 characters instead of 128 of them.
#
# With **rotary positions**, which most models use today, there seems to be an exact one. They add nothing to the
# embedding. Query and key are rotated by angles that depend on their positions, so that a score depends on the
# *distance* of the two only (the last lesson of the course shows how). Move the whole window by one, and all distances
# stay. So one reads that such models can drop the oldest entry and keep the others. Can they?
#
# Let us take the core's own cache, and let no query see more of it than the last few positions. What nobody sees any
# more might as well be gone. We read a hundred characters through it, one at a time, and recompute each window of 32
# beside it.

# %%
class Sliding(pc.KVCache):
    """A cache that shows the last `window` positions only, for tokens read one at a time."""

    def append(self, layer, k, v):
        k, v = super().append(layer, k, v)  # (B, nh, n + 1, hs) each
        return k[:, :, -self.window :], v[:, :, -self.window :]  # (B, nh, at most window, hs)


@torch.no_grad()
def slide(net, ids, window):
    """The logits (B, T, V) of ids (B, T), read one at a time through such a cache."""
    cache = Sliding(net.config, len(ids))
    cache.window = window
    return torch.cat([net(ids[:, [t]], cache=cache) for t in range(ids.shape[1])], dim=1)

# %%
def rotary(layers):
    torch.manual_seed(0)
    shape = dict(n_layer=layers, n_embd=64, n_head=4, block_size=128, init="xavier")
    return pc.GPT(pc.ModelConfig(positions="rotary", **shape)).eval()


text = corpus.val[None, :100]  # (1, T=100)
windows = text[0].unfold(0, 32, 1)  # (69, 32): every window of 32
for layers in (1, 2, 3):
    net = rotary(layers)
    with torch.no_grad():
        recomputed, kept = net(windows)[:, -1], slide(net, text, 32)[0, 31:]  # (69, V) each
    apart = (recomputed - kept).abs().amax(dim=1)  # (69,)
    print(f"{layers} layer{'s' * (layers > 1)}: largest difference in the first window", end=" ")
    print(f"{gap(apart[0], 0)}, in the later ones {gap(apart[1:], 0)}")
print(f"the logits have a standard deviation of {recomputed.std():.1f}")

# %% [markdown]
# With one layer, yes, to rounding. With two, no. (The weights are random here, which does not matter for a question of
# exactness.) The first window is right in all of them, since nothing has been dropped yet. What is wrong in the later
# ones?
#
# Not the positions. Think of the second layer. The key that it keeps for position 5 was made from the vector of
# position 5 after the first layer, and this vector had *attended to position 0*. Now position 0 leaves the window. A
# model that recomputes the window makes position 5 without it. The cache remembers it with. So there are two reasons
# for a cache to become wrong, the moved positions and the forgotten token, and rotary positions take away only the
# first.
#
# Here is the second one as a picture, for a window of 6. We exchange one character at a time for another, and see how
# far the last position's logits move.

# %%
words = torch.tensor(tokenizer.encode("now is the winter of"))  # (T=20,)


def depends(answer):
    """How far the last logits move if one character is exchanged, for each of them. (T,)"""
    ids = words.repeat(len(words) + 1, 1)  # (T + 1, T): the last row stays as it is
    ids.diagonal().add_(1)  # another character, at 0 in row 0, at 1 in row 1, and so on
    last = answer(ids)[:, -1].detach()  # (T + 1, V)
    moved = (last[:-1] - last[-1]).norm(dim=1)  # (T,)
    return moved * (moved > 1e-4)  # what is less is rounding

# %%
strips = {"recomputed": depends(lambda ids: rotary(3)(ids[:, -6:]))}  # (T,)
for layers in (1, 2, 3):
    through = partial(slide, rotary(layers), window=6)
    strips[f"kept, {layers} layer{'s' * (layers > 1)}"] = depends(through)

# %%
fig, axes = plt.subplots(4, 1, figsize=(7.4, 3.0), layout="constrained")
for ax, (name, amounts) in zip(axes, strips.items()):
    draw.characters(ax, tokenizer.decode(words), amounts=amounts)
    ax.text(-1, 0, name, ha="right", va="center", fontsize=11)
    ax.set(xlim=(-5.2, 19.6), ylim=(-0.6, 0.6))
    print(f"{name:15} depends on the last {int((amounts > 0).sum())} characters")
plt.show()

# %% [markdown]
# At a white character nothing moves. Recomputed, the last position depends on the six of its window. With one layer of
# kept keys and values, it does too. But with each further layer it reaches five characters further back, because what
# it looks at has looked back itself. The kept cache does not forget too much, it forgets too *little*.
#
# Is that bad? Not if it is what you want. It has a name of its own, *sliding-window attention*: in every layer each
# position sees the last few, so that the mask is a band instead of a triangle. For a model that was *trained* with such
# a band, as Mistral's first one was, the sliding cache is exact by definition. For one that was trained on whole
# windows, it is something new. Many keep much of their attention on the very first tokens (an *attention sink*, lesson
# 04), and when those drop out of the window, the text falls apart; StreamingLLM (Xiao 2023) found that keeping the
# first four forever was enough for the models that it tried.
#
# ## Where does the time go?
#
# Back to the guess of the beginning. We measure single steps at several positions of a window, the shortest of a few
# tries each, since other programs can only make a step slower. One thread, so that the parts can be compared later.

# %%
def fastest(work, tries=30):
    """The shortest time of some tries, in microseconds."""
    tries, best = picogpt.budget(smoke=1, quick=tries, full=4 * tries), math.inf
    with torch.inference_mode():
        for _ in range(tries):
            began = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - began)
    return best * 1e6


def step(cache, ids, n):
    """Read the one token that follows the first n in a cache."""
    cache.length = n
    return model(ids[:, [n]], last_only=True, cache=cache)

# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)
pc.keep_freed_memory()  # an allocator that does not return memory to the system at every step
window, cache = corpus.val[None, :block], pc.KVCache(model.config)
step(cache, window[:, :1], 0)
at = list(range(15, block, picogpt.budget(smoke=80, quick=16, full=16)))  # positions

# %% tags=["nbval-ignore-output"]
slow = [fastest(partial(model, window[:, : n + 1], last_only=True), 5) for n in at]
fast = [fastest(partial(step, cache, window, n)) for n in at]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(at, [t / 1000 for t in slow], "o-", ms=4, color=draw.WARM, label=names[False])
ax.plot(at, [t / 1000 for t in fast], "o-", ms=4, color=draw.INK, label=names[True])
ax.set(xlabel="position", ylabel="milliseconds for a character", ylim=(0, None))
ax.grid(alpha=0.3)
ax.legend()
plt.show()
print(f"the whole window {sum(slow) / sum(fast):.1f} times as fast", end="")
print(f", the last step alone {slow[-1] / fast[-1]:.1f} times")

# %% [markdown]
# The upper line rises with every position, and the lower one is flat. (At this size. The new query does have to look
# at every key in the cache, which costs little for 256 positions, and for 100,000 can cost more than all the rest.)
# But compare the factor with the one at the top of the lesson. There was over a hundred times less to read, and we
# gain far less than that. A step of one position must be slow for a reason that has nothing to do with arithmetic. Let
# us count what it does.

# %% jupyter={"source_hidden": true} cellView="form"
# @title Count PyTorch's operations (run this cell)
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the operations of PyTorch in a `with` block."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


# %%
with torch.no_grad(), Operations() as seen:
    step(cache, window, 100)
renaming = ("view", "_unsafe_view", "t", "transpose", "select", "slice", "detach")
renamed = sum(name in (*renaming, "split_with_sizes") for name in seen.names)
linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
fetched = sum(part.weight.numel() for part in linears) * 4  # bytes
print(f"{len(seen.names)} operations, {len(linears)} of them matrix products with the weights")
print(f"{renamed} only rename memory")
print(f"{fetched / 1e6:.1f} MB of weights fetched, and {2 * fetched / 4 / 1e6:.1f} million FLOPs")

# %% [markdown]
# Each weight is fetched from memory, takes part in *one* multiplication and one addition, and is put away again. So a
# step cannot be faster than the memory can deliver the weights. We measure that limit with a single product of a
# matrix of the same size and a vector. Then the same weights as the thirteen products of the model, and then the whole
# step, with the choice of the next character. What is left at the end is neither fetching nor multiplying.

# %%
weights = torch.cat([part.weight.flatten() for part in linears])
one, vector = weights.view(-1, 256), torch.randn(256)  # (9281, 256) and (256,)
inputs = [torch.randn(1, 1, part.in_features) for part in linears]  # (B=1, T=1, in)
logits = step(cache, window, 100)[:, -1].detach()  # (1, V)
warm = pc.SampleConfig(temperature=0.8)  # made once, as `generate` does


def choose():
    return pc.sample_token(pc.next_token_probs(logits, warm))


# %% tags=["nbval-ignore-output"]
parts = {
    "all weights, as one product": fastest(lambda: one @ vector, 60),
    "as thirteen products": fastest(lambda: [f(x) for f, x in zip(linears, inputs)], 60),
    "the whole step": fastest(lambda: step(cache, window, 100), 60),
    "choosing the next": fastest(choose, 60),
}
fetch, products, whole, choice = parts.values()
for name, t in parts.items():
    print(f"{name:28} {t:5.0f} microseconds")
print(f"as one product the weights come at {fetched / 1000 / fetch:.0f} GB/s")

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7.4, 1.7), layout="constrained")
left = 0.0
pieces = {"fetching the weights": fetch, "the rest of the products": products - fetch}
pieces |= {"all other operations": whole - products, "choosing": choice}
for (name, t), colour in zip(pieces.items(), (draw.WARM, draw.HERE, draw.INK, "grey")):
    ax.barh(0, t, left=left, color=colour, label=f"{name}, {t / (whole + choice):.0%}")
    left += t
ax.set(yticks=[], xlim=(0, left), xlabel="microseconds for a character")
fig.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
plt.show()

# %% [markdown]
# Look at the first piece. If a step did nothing but fetch the weights, it would still take that long. The light orange
# one is what thirteen products take longer than a single one of the same size. (It is the difference of two
# measurements, and the least certain of the four.) The dark one is everything else: LayerNorms, GELUs, sums, the cache,
# the attention, each of them next to nothing as arithmetic, and each with the cost of being called. PyTorch has to find
# the version that fits, to make a tensor for the result and, mostly, to return to Python, well over a hundred times a
# step, and about two thirds of these calls only rename memory (a view, a slice, a transpose). Grey is the choice of the
# next character.
#
# PicoGPT's weights are small enough to stay in the caches of many processors, which deliver several times faster than
# memory does. In a model of billions of weights they do not, and each product takes so long that the calls no longer
# matter. Then the first piece is nearly everything, which is the other of the two reasons from the beginning, and the
# time of a step is the size of the weights divided by the memory's *bandwidth*, the bytes that it delivers in a second.
# So gpt-fast, a well-known fast implementation, reports the bandwidth beside the speed. On an A100 (a graphics card for
# data centres, here the one with 80 GB), with the weights of Llama 2 7B in 16 bits, it writes 105 tokens a second and
# fetches 1,397 GB/s, where that card was seen to give about 1,700. With weights in 4 bits it writes 197, which is one
# reason to store them so.
#
# Some of the dark piece can be saved. A step is the same sequence of operations every time, so a *compiler* can
# translate it once, as a whole, into a program without Python that merges small operations with their neighbours. It
# wants tensors whose shapes do not change, and that is the second reason for a store of fixed size: gpt-fast gives its
# step the token's position as a tensor (`input_pos`), and a mask hides what is not filled yet. Here,
# `picogpt.CompiledGPT(model)` takes the model's place, and `make bench` measures what it gains on your machine. (On
# ours a text came three times as fast: [results](../docs/results.md), *Speed of writing*.)
#
# ### More for each fetch: a batch
#
# There is another way. If fetching a weight costs more than using it, use it more often. A step that writes *several*
# texts at once fetches each weight once and multiplies it with all of them. And the calls are as many as before.

# %%
def batch_step(rows):
    """A step for so many texts, of which 100 characters have been read."""
    ids = corpus.val[: rows * 101].view(rows, 101)  # (B, 101)
    cache = pc.KVCache(model.config, rows)
    with torch.inference_mode():
        model(ids[:, :100], cache=cache)
    return fastest(partial(step, cache, ids, 100), 20)

# %% tags=["nbval-ignore-output"]
sizes = [1, 4] if picogpt.budget(smoke=True, quick=False, full=False) else [1, 2, 4, 8, 16, 32]
times = [batch_step(rows) / 1000 for rows in sizes]  # milliseconds
torch.set_num_threads(threads)
for rows, t in zip(sizes, times):
    print(f"{rows:3} at once: {t:5.2f} ms a step, {rows / t * 1000:7,.0f} characters per second")

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3), layout="constrained")
speeds = [rows / t * 1000 for rows, t in zip(sizes, times)]
axes[0].loglog(sizes, times, "o-", color=draw.INK, label="a step")
axes[0].loglog(sizes, [times[0] * rows for rows in sizes], ":", color="grey", label="one by one")
axes[0].set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
axes[0].set(title="milliseconds")
axes[1].semilogx(sizes, speeds, "o-", color=draw.WARM)
axes[1].set(title="characters per second, all together", ylim=(0, None))
axes[0].legend(fontsize=11)
for ax in axes:
    ax.set_xticks(sizes, [str(rows) for rows in sizes])
    ax.minorticks_off()
    ax.set(xlabel="texts at once")
    ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Compare the dark line with the dotted one, which is what the texts would take one after the other. (Both axes on the
# left double from mark to mark.) Every text that joins adds its own arithmetic, but the calls and the fetching are
# paid for already. So at first a step for twice as many takes far less than twice as long. Later there is really
# something to compute, the lines run side by side, and the curve on the right bends, or even falls. That is how far a
# server goes. It collects the requests that come in, writes all texts together, one token each per step, and lets new
# ones join as others end.
#
# So what keeps a server from batches of thousands? Above all the caches. Every text needs its own.
#
# ## What does it cost?
#
# A key and a value, for each layer and position: 2 · layers · C numbers. That is a multiplication, so let us compare.
# Llama 3 has the shape that its paper gives, and Llama 2 that of the first LLaMA, which it kept. PicoGPT takes four
# bytes for a number, all others two; the last column is the number of positions, of all texts together, at which the
# caches have become as large as the weights.

# %%
def per_token(layers, heads, head_size, number):
    """Bytes of cache for one position: a key and a value in each layer."""
    return 2 * layers * heads * head_size * number


shapes = {  # bytes of cache for one position, bytes of weights
    "PicoGPT": (per_token(3, 8, 32, 4), pc.PRESETS["picogpt"].parameters * 4),
    "GPT-2": (per_token(12, 12, 64, 2), pc.PRESETS["gpt2"].parameters * 2),
    "GPT-2 XL": (per_token(48, 25, 64, 2), pc.PRESETS["gpt2-xl"].parameters * 2),
    "Llama 2 7B": (per_token(32, 32, 128, 2), 6.7e9 * 2),
    "Llama 3 8B": (per_token(32, 8, 128, 2), 8.0e9 * 2),
}

# %%
for name, (each, weights) in shapes.items():
    print(f"{name:11} {each / 1000:5.0f} kB a position, weights {weights / 1e9:6.2f} GB,", end=" ")
    print(f"as much at {weights / each:9,.0f} positions")

# %% [markdown]
# PicoGPT's own cache is small: 1.6 MB for a full window. But seven of them outweigh the model. For Llama 2 7B it
# takes about 26,000 positions, a little more than six of its windows of 4,096. And it is not only memory. A step
# reads the weights *once for all texts*, but every text's own cache as well, so what is fetched for one token is:

# %%
weights = shapes["Llama 3 8B"][1]  # bytes
print("bytes fetched for a token, texts of 8,000 tokens: (weights + texts · cache) / texts")
for texts in (1, 4, 16, 64):
    caches = [8000 * per_token(32, heads, 128, 2) for heads in (32, 8)]  # of one text
    many, few = ((weights + texts * cache) / texts / 1e9 for cache in caches)
    print(f"{texts:3} at once: {many:5.1f} GB with 32 heads of keys and values, {few:4.1f} with 8")

# %% [markdown]
# (The weights are taken as the same in both columns.) From one text to 64, the share of the weights shrinks from 16 GB
# to a quarter of one, and the cache remains. With 32 heads of keys and values, each token of a large batch fetches
# four gigabytes of cache, and no batch makes it less. With 8, it is one. Which brings us to what that 8 means.
#
# ### Grouped queries
#
# Must every head have keys and values of its own? In **grouped-query attention** several query heads share one head of
# keys and values. In the core it is one number, `n_kv_head`. With 8 query heads and 2 of keys and values, four queries
# ask the same keys, each its own question.

# %%
places = {f"q{i}": (i, 1.4) for i in range(8)} | {f"k,v {i}": (1.5 + 4 * i, 0) for i in range(2)}
fig, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
draw.boxes(ax, places, [(f"q{i}", f"k,v {i // 4}") for i in range(8)], here=["k,v 0", "k,v 1"])
plt.show()

# %% [markdown]
# The *cache* holds the two heads only, a quarter of the memory. (In the attention each of them is repeated for its four
# queries, and the rest is as before: the last lesson of the course writes it.) What does it do to the loss? The course
# has trained PicoGPT both ways.

# %%
runs = picogpt.load_rows(picogpt.DATA / "runs" / "since_gpt2.csv")
ends = picogpt.study.losses_by_seed(runs)
difference = picogpt.paired_difference(ends["2 heads of keys and values"], ends["picogpt"])
for kv in (8, 2):
    config = pc.ModelConfig(n_kv_head=kv)
    cache = pc.KVCache(config)
    size = (cache.k.numel() + cache.v.numel()) * 4
    parameters = pc.count_parameters(pc.GPT(config))
    print(f"{kv} heads: {parameters:,} parameters, {size / 1e6:.2f} MB of cache")
print(f"validation loss, 2 heads less 8: {difference}")

# %% [markdown]
# A quarter of the cache, and three seeds cannot tell the two apart, at this size and after so short a training. (For
# larger models, Ainslie and others found that a single head of keys and values for all costs quality, and that groups
# cost very little.) Two other ways to make caches smaller: store keys and values in one byte or less, or store them
# compressed, which DeepSeek's *latent attention* does.
#
# ### Exercise 6 · How much memory?
#
# Write `cache_bytes(config, texts, tokens, number)`: the bytes of a cache for so many texts of so many tokens each,
# for any `pc.ModelConfig`, with `number` bytes for a number. Mind `config.n_kv_head`, which is None if every head has
# its own. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def bytes_hint(answer, config, texts, tokens, number):
    """What is off with a number of bytes, or nothing."""
    heads, hs = config.n_kv_head or config.n_head, config.n_embd // config.n_head
    right, ratio = 2 * config.n_layer * heads * hs * texts * tokens * number, config.n_head / heads
    if isinstance(answer, Exception):
        return is_no(answer, ())
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"it returned {answer!r:.40}, wanted a number"
    slips = {
        "keys and values: that is one of the two": right / 2,
        "keys and values have n_kv_head heads, only queries have n_head": right * ratio,
        "each layer has keys and values of its own": right / config.n_layer,
        "each head has C / n_head numbers for a position": right * config.n_head,
        "that is a count of numbers: multiply by the bytes of each": right / number,
        "that is for one text": right / texts,
        "not a whole window: each text has so many tokens": right / tokens * config.block_size,
    }
    hints = [words for words, slip in slips.items() if abs(answer - slip) < 0.5 and slip != right]
    if abs(answer - right) < 0.5:
        return ""
    return hints[0] if hints else f"{answer:,}, wanted {right:,}"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_cache_bytes(cache_bytes):
    grouped = pc.ModelConfig(n_layer=32, n_head=32, n_embd=4096, n_kv_head=8)
    cases = {"PicoGPT": (model.config, 5, 256, 4), "Llama 3 8B": (grouped, 3, 100_000, 2)}
    for words, case in cases.items():
        if hint := bytes_hint(tried(cache_bytes, *case), *case):
            return print(f"not yet: for {words}, {hint}")
    print("✓ 39 GB for three long texts of Llama 3 8B; without grouped queries it would be 157")


# %% tags=["exercise"]
def cache_bytes(config, texts, tokens, number): ...  # your code


check_cache_bytes(cache_bytes)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def cache_bytes(config, texts, tokens, number):
    heads, hs = config.n_kv_head or config.n_head, config.n_embd // config.n_head
    return 2 * config.n_layer * heads * hs * texts * tokens * number


check_cache_bytes(cache_bytes)

# %% [markdown]
# ## Texts of different lengths
#
# One thing stands between us and a server. In a batch all rows are equally long, but prompts are not. The usual way
# out is to fill up the short ones **on the left**, with any token at all (*padding*), so that all of them end at the
# same place and the next tokens stand below each other.

# %%
prompts = ["To be, or not to be, that is the", "ROMEO:\nI", "Good morrow,"]
width = max(map(len, prompts))
padded = torch.tensor([tokenizer.encode(text.rjust(width)) for text in prompts])  # (B=3, 32)
pads = torch.tensor([width - len(text) for text in prompts])  # (B,)


def continued(ids, n, **how):
    """The likeliest n characters after each row of ids (B, T)."""
    cache, new = pc.KVCache(model.config, len(ids)), ids
    for _ in range(n):
        new = read(model, new, cache, **how)[:, -1].argmax(dim=1, keepdim=True)  # (B, 1)
        ids = torch.cat([ids, new], dim=1)
    return [tokenizer.decode(row[width:]) for row in ids]

# %%
alone, settings = [], pc.SampleConfig(30, temperature=0)
for text in prompts:
    whole_text = picogpt.generate_text(model, tokenizer, text, settings)
    alone.append(whole_text[len(text) :])
for text, a, b in zip(prompts, alone, continued(padded, 30)):
    print(f"{text!r}\n    alone           {a!r}\n    in a batch      {b!r}")

# %% [markdown]
# The first row, which has no padding, is right. The others have been given a text that begins with blanks, and at the
# wrong positions. Nothing about the texts looks broken; only the comparison tells. So two things are needed. Each row
# has to count its positions from its own first token, and no row may look at padding.
#
# That can all be said with the two arguments of `read`, if they have a row for each text: positions (B, m), and a mask
# (B, 1, m, n + m), where the 1 stands for the heads. In the exercise you write them for the prompt.
#
# ### Exercise 7 · Ragged prompts
#
# A stretch. (25 minutes) Write `ragged(pads, width)`, for prompts padded on the left to `width`, `pads` (B,) tokens
# each. It returns the positions (B, width), where each row's first real token has 0, and the mask (B, 1, width, width).
# What stands at the padding itself does not matter, with two exceptions: `wpe` has no row −1, and no position may see
# *nothing at all*. A softmax of nothing is `nan` if you write it by hand, as in exercise 3, and was in some fused
# kernels. (Today's gives zeros; do not rely on it.) Let padding see at least itself.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def ragged_shapes(answer, B, width):
    """Why an answer is not a pair of positions and mask, or nothing."""
    if isinstance(answer, Exception) or not isinstance(answer, tuple | list) or len(answer) != 2:
        return is_no(answer, ()) if isinstance(answer, Exception) else "return positions, and mask"
    position, sees = answer
    if hint := is_no(position, (B, width)):
        return f"positions: {hint}"
    if hint := is_no(sees, (B, 1, width, width)):
        return f"mask: {hint}"
    if sees.dtype != torch.bool or position.dtype not in (torch.int64, torch.int32):
        return "positions are whole numbers, and the mask is of booleans"
    if position.min() < 0 or position.max() >= block:
        worst = int(position.min() if position.min() < 0 else position.max())
        return f"wpe has no row {worst}: let padding be at position 0"
    if not sees.any(dim=-1).all():
        return "a row of the mask sees nothing: a softmax by hand gives nan. Let padding see itself"
    return ""


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def ragged_hint(position, sees, pads, width):
    """What is off with positions or mask, at the real tokens; or nothing."""
    t, position = torch.arange(width), position.long()
    real = t >= pads[:, None]  # (B, width)
    if not torch.equal(position[real], (t - pads[:, None])[real]):
        if torch.equal(position[real], t.expand(len(pads), -1)[real]):
            return "positions: each row counts from its own first token, where it is 0"
        row = position[1].tolist()
        return f"positions: row 1 has {row}, and its first {int(pads[1])} are padding"
    right = (t[:, None] >= t) & real[:, None, None, :]  # (B, 1, width, width)
    rows = real[:, None, :, None]
    if (sees & ~real[:, None, None, :] & rows).any():
        return "mask: a real token sees padding"
    if (sees & (t > t[:, None]) & rows).any():
        return "mask: a token sees its own future"
    if (right & ~sees & rows).any():
        return "mask: some token does not see all of its own past"
    return ""


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_ragged(ragged):
    pads, width = torch.tensor([0, 5, 2]), 9
    answer = tried(ragged, pads.clone(), width)
    hint = ragged_shapes(answer, 3, width) or ragged_hint(*answer, pads, width)
    if hint:
        return print("not yet:", hint)
    ids = corpus.val[:27].view(3, 9)  # (B=3, T=9)
    how = dict(position=lambda n, m: answer[0], sees=lambda n, m: answer[1])
    batch = read(model, ids, pc.KVCache(model.config, 3), **how)  # (B, T, V)
    with torch.no_grad():
        alone = [model(ids[[row], pad:])[0] for row, pad in enumerate(pads.tolist())]
    apart = max((batch[row, -len(a) :] - a).abs().max().item() for row, a in enumerate(alone))
    print("✓ each row as if it were alone: the largest difference", gap(torch.tensor(apart), 0))


# %% tags=["exercise"]
def ragged(pads, width): ...  # your code


check_ragged(ragged)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def ragged(pads, width):
    t, pads = torch.arange(width), pads[:, None]  # (width,), (B, 1)
    position = (t - pads).clamp(min=0)  # (B, width)
    real = (t >= pads)[:, None, None, :]  # (B, 1, 1, width): which columns may be seen at all
    causal = t[:, None] >= t  # (width, width)
    return position, (causal & real) | torch.eye(width, dtype=torch.bool)  # (B, 1, width, width)


check_ragged(ragged)

# %% [markdown]
# Here they are for a prompt and all that follows, m positions after n, so that the batch from above can be written.

# %%
def positions_of(n, m):
    return (after(n, m) - pads[:, None]).clamp(min=0)  # (B, m)


def sees_of(n, m):
    real = torch.arange(n + m) >= pads[:, None]  # (B, n + m)
    itself = after(n, m)[:, None] == torch.arange(n + m)  # (m, n + m)
    return (lower_right(n, m) & real[:, None, None, :]) | itself  # (B, 1, m, n + m)


together = continued(padded, 30, position=positions_of, sees=sees_of)
for text, a, b in zip(prompts, alone, together):
    print(f"{text!r}\n    alone           {a!r}\n    in a batch      {b!r}")
assert together == alone, "in a batch each row is as if it were alone"

# %% [markdown]
# Now each row is what it would be alone. (Padding costs room and work, so servers go further: vLLM, one of them, cuts
# the caches into pages of a few tokens, which are handed out as texts grow, as an operating system hands out memory.)
#
# ## Recap
#
# You can now
#
# 1. say why old keys and values stay true as a text grows: because of the causal mask, as long as
#    no position moves and no token is dropped,
# 2. write a cache: `append` into a store, the mask at the bottom right, the attention over the whole cache,
# 3. prove that it is exact, at every position, for every way to cut the text, and again after taking a token back,
# 4. name four bugs with the right shapes, and say which test finds which of them,
# 5. give two reasons why a full window makes a cache stale, and say which of them rotary positions remove,
# 6. say where the time of a step goes, and why a batch, a compiler and grouped queries help,
# 7. compute a cache's memory, and write texts of different lengths at once.
#
# Three questions for a whiteboard: Draw the mask for 2 new positions after 3, and what `is_causal=True` makes of it.
# Why does a sliding cache with rotary positions differ from a window recomputed, and from which layer on? A model has
# weights of 16 GB and a cache of 1 GB for each text: what is fetched per token, for 1 and for 16 texts at once?
#
# <details><summary>Answers</summary>
#
# Two rows of five: 1 1 1 1 0 and 1 1 1 1 1. The flag makes 1 0 0 0 0 and 1 1 0 0 0 of it. A key of the second layer
# was made from a vector that had attended, in the first layer, to a token that has left the window since; so from the
# second layer on. For one text 17 GB, and for 16 texts 16/16 + 1 = 2 GB.
# </details>
#
# Next: [lesson 12](12_speculative_decoding.ipynb) lets a small model guess, so that the large one takes fewer steps.
#
# ## Sources
#
# - Keys and values kept, and the cost of writing: Pope et al. 2022, [arXiv 2211.05102](https://arxiv.org/abs/2211.05102).
# - Where the triangle goes: PyTorch's
#   [SDPA](https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html) (top left) and
#   `torch.nn.attention.bias.causal_lower_right`; [FlashAttention](https://github.com/Dao-AILab/flash-attention) changed from
#   the first to the second in its version 2.1.
# - Rotary positions: Su et al. 2021, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864). A sliding window in every layer:
#   Mistral 7B, Jiang et al. 2023, [arXiv 2310.06825](https://arxiv.org/abs/2310.06825). The first four tokens: StreamingLLM,
#   Xiao et al. 2023, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453).
# - One head of keys and values for all: Shazeer 2019, [arXiv 1911.02150](https://arxiv.org/abs/1911.02150). Groups: Ainslie
#   et al. 2023, [arXiv 2305.13245](https://arxiv.org/abs/2305.13245). Compressed: DeepSeek-V2, 2024,
#   [arXiv 2405.04434](https://arxiv.org/abs/2405.04434).
# - The shapes of the Llamas: [arXiv 2302.13971](https://arxiv.org/abs/2302.13971), table 2, and
#   [arXiv 2407.21783](https://arxiv.org/abs/2407.21783), table 3. Llama 2's window:
#   [arXiv 2307.09288](https://arxiv.org/abs/2307.09288), table 1.
# - Pages of a cache: vLLM, Kwon et al. 2023, [arXiv 2309.06180](https://arxiv.org/abs/2309.06180). Rows that come and go:
#   Orca, Yu et al. 2022, [OSDI](https://www.usenix.org/conference/osdi22/presentation/yu).
# - Others on the subject: Raschka's [bonus chapter](https://github.com/rasbt/LLMs-from-scratch/tree/main/ch04/03_kv-cache);
#   Hugging Face, [Caching](https://huggingface.co/docs/transformers/cache_explanation);
#   [gpt-fast](https://github.com/pytorch-labs/gpt-fast).
