# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Causal attention
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/03_causal_attention.ipynb)
#
# **You will**
# 1. follow one position through attention with every number in sight: score, softmax, mix,
# 2. do the same for all positions at once, and write it as a module that equals the course's own,
# 3. find out why attention needs to be told about order, and why scores are divided by √(head size),
# 4. leave out the mask on purpose, and watch a model reach a loss that no honest model can reach,
# 5. test any GPT, from outside, for whether it depends on future tokens.
#
# **You need** lesson 02: logits, softmax, loss, and training against validation.
#
# **Time** 60 minutes to read, half a minute to run.
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
import dataclasses
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()
shipped = picogpt.load_shipped("picogpt").model

# %% [markdown]
# Let us begin at the end, with a model that is already trained. PicoGPT reads a line of Shakespeare that it has
# never seen, and we stop it in the middle of a word. The picture shows one small part of the model, a single
# *attention head*, at the moment when it stands on the last character. Each curve leads to a character that the head
# looks at, and the thicker the curve, the more it takes from there.

# %%
line = "And where two rag"
ids = torch.tensor([corpus.tokenizer.encode(line)])  # (B=1, T=17)
heads = torch.cat(
    [weights[0] for weights in pc.attention_weights(shipped, ids)]
)  # (24 heads, T, T)

# %%
to_the_left = heads.diagonal(offset=-1, dim1=1, dim2=2).mean(dim=1)  # (24,): weight on t - 1
chosen, last = int(to_the_left.argmax()), len(line) - 1

fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
draw.look_back(ax, line, position=last, weights=heads[chosen, last], numbers=False)
plt.show()

# %% [markdown]
# It looks at its left neighbour, with practically all of its weight, and it does so on any line you give it. You can
# try that: change `line` above. Nobody programmed this. The head started as random numbers and found out, from
# nothing but a loss, that the previous character is worth knowing. One of the other 23 does the same with the
# character before that, and most of them spread their weight more widely.
#
# So a position in a GPT can fetch something from another position, and can learn *which* one. How does a handful of
# matrices manage that? That is the whole question of this lesson, and we take it in small steps.
#
# ## The mean of the past
#
# A bigram model, the one of lesson 02, sees one character and nothing else. We want every position to gather what
# the positions before it know. What would be the simplest way? Take the mean. Every position holds a vector, a few
# numbers that describe its character, and position *t* receives the average of the vectors 0 to *t*.
#
# Here are six characters, `the ki`, with four numbers each. Real models use hundreds of numbers, but four can be
# read.

# %%
text = "the ki"

# %%
torch.manual_seed(11)
x = torch.randn(len(text), 4).round(decimals=1)  # (T=6, C=4): one vector for each character
T, C = x.shape

by_loop = torch.stack([x[: t + 1].mean(dim=0) for t in range(T)])  # (T, C)
for t in range(T):
    vector, mean = ("  ".join(f"{number:+.1f}" for number in row) for row in (x[t], by_loop[t]))
    print(f"{text[t]!r:4} has  {vector}    mean of the past  {mean}")

# %% [markdown]
# The first row is its own mean, since position 0 has no past but itself. Further down, the numbers shrink on the
# whole: the more we average, the less is left of any single character. Keep that weakness in mind, for it is the one
# that attention will repair.
#
# A loop over positions is slow, so let us turn it into one product of matrices. A mean is a weighted sum with equal
# weights. If we write the weights that position *t* gives to every position *j* into row *t* of a matrix, then a
# single multiplication does all rows at once, and a zero stands wherever *j* lies in the future.

# %%
weights = torch.ones(T, T).tril()  # (T, T): 1 where j <= t, on and below the diagonal
weights = weights / weights.sum(dim=1, keepdim=True)  # each row now sums to 1
by_matrix = weights @ x  # (T, T) @ (T, C) -> (T, C)

fig, ax = plt.subplots(figsize=(5, 4.2), layout="constrained")
draw.grid(ax, weights, text, text, "row t: the weights that position t gives")
plt.show()
print(f"largest difference from the loop: {(by_matrix - by_loop).abs().max():.5f}")

# %% [markdown]
# The matrix does what the loop did. Now comes a third way of getting the same numbers, and at first sight it looks
# like a detour. We start from a **score** for each pair of positions, here simply 0 for all of them. We replace the
# scores of the future by −∞. Then we let a softmax turn each row into weights, exactly as lesson 02 let it turn
# logits into probabilities: take exp of every number, and divide by their sum. Since exp(−∞) is 0, the future
# receives the weight 0.

# %%
scores = torch.zeros(T, T)  # (T, T): every pair equally interesting
future = torch.ones(T, T, dtype=torch.bool).triu(1)  # (T, T): True where j > t
by_softmax = (
    scores.masked_fill(future, float("-inf")).softmax(dim=1) @ x
)  # (T, T) @ (T, C) -> (T, C)

assert torch.allclose(by_softmax, by_loop, atol=1e-6), "the softmax does what the loop did"
print(f"largest difference from the loop: {(by_softmax - by_loop).abs().max():.5f}")

# %% [markdown]
# All three give the same numbers, so why bother with a softmax? Because of what it accepts. Weights must be positive
# and sum to 1, but scores can be any numbers at all, and nothing says that they must be equal: raise one, and that
# position counts for more, lower it below zero, and it counts for less, while each row still sums to 1. (Do not
# confuse these weights with the weights that a model learns, which we call its *parameters*. Attention weights are
# computed anew for every text.) The only question left is where good scores come from.
#
# ## One position looks back
#
# Before any more matrices, let us watch a single position do its work. It stands on the last character of `the ki`,
# and to guess what follows *i* it would help to remember that the word began with *k*. So position 5 should fetch
# something from position 4, and it has to find out on its own that this is where to look.
#
# It asks a question, and it asks by making a second vector out of its own: the **query**. Every position, itself
# included, advertises what it has in a vector called the **key**. Think of a library: the query is what you type
# into the search box, the keys are the titles on the shelves. Two matrices, both learned, make queries and keys out
# of the vectors above.
#
# How well does a title fit a search? Multiply the two vectors number by number and add up. This **dot product** is
# large where both point the same way, near zero where they have nothing to do with each other, and negative where
# they disagree. It is the score we were looking for.
#
# (Why not do without matrices, and multiply the vectors x themselves? It can be done, but then the only question a
# position can ask is "who is like me?", and for most vectors the best answer is "I am". With two matrices, a vowel can
# ask for a consonant.)

# %%
torch.manual_seed(13)
# (C, C) each: learned in a real model, random here
W_query, W_key = torch.randn(C, C), torch.randn(C, C)
query = x[5] @ W_query  # (C,): what position 5 is looking for
keys = x @ W_key  # (T, C): what each position has to offer
scores = keys @ query / math.sqrt(C)  # (T,): one score for each position. Why divide? See below
weights = scores.softmax(dim=0)  # (T,): positive, and they sum to 1


def signs(numbers):
    return "  ".join(f"{number:+.2f}" for number in numbers)


print("x of position 5    ", signs(x[5]), "\nits query          ", signs(query))
for character, key, score, weight in zip(text, keys, scores, weights):
    print(
        f"{character!r:4} has the key      {signs(key)}   score {score:+.2f}   weight {weight:.2f}"
    )

# %% [markdown]
# So that no step stays hidden, here is the first of the six in full.

# %%
terms = " + ".join(f"({q:.2f})({k:.2f})" for q, k in zip(query, keys[0]))
print(f"the first score: {terms} = {query @ keys[0]:.2f}")
print(f"divided by √4: {scores[0]:.2f}")
powers = scores.exp()  # (T,)
print(f"its weight: exp({scores[0]:.2f}) = {powers[0]:.2f}, of {powers.sum():.2f} in all", end="")
print(f": {weights[0]:.2f}")

# %%
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
draw.look_back(ax, text, position=5, weights=weights)
plt.show()

# %% [markdown]
# The thickest line shows where position 5 looks most, and it is the space, which is of no use for guessing what
# follows *ki*. But nothing here was trained, so there is no reason why it should look anywhere sensible, and with
# another seed it looks elsewhere. Training will move the two matrices until the lines lead to characters that help,
# as they do in the picture at the top. What matters now is the form of the computation: scores can be any numbers at
# all, and the softmax always turns them into shares of a whole. (There is no curve from *i* to itself, but it has a
# weight too.)
#
# <details><summary>Before you go on: if all six scores were equal, what would the weights be?</summary>
#
# One sixth each. Position 5 would average everything it can see, which is the mean of the past that we began with.
# Attention is that mean, with permission to be unequal.
# </details>
#
# What could two matrices look like that do lead somewhere sensible? For a toy, we can write them down. Give each
# character three numbers that say what it is, a vowel, a consonant or a space, with a 1 in the right place. A vowel
# shall ask for consonants, and every character shall offer just what it is.

# %%
kinds = torch.tensor([[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]).float()
wants = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # row "vowel": consonant!
asked = (kinds[5] @ wants) @ kinds.T / math.sqrt(3)  # (3,) @ (3, T=6) -> (T,); the keys are `kinds`

fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
draw.look_back(ax, text, position=5, weights=asked.softmax(dim=0))
plt.show()

# %% [markdown]
# Now the *i* of *ki* looks at *t*, *h* and *k*, and at little else. The matrices of a trained head hold such
# questions and answers too, only that nobody wrote them down, and that most of them cannot be put into words as
# easily as this.
#
# The last step is the easy one. Each position also offers a **value**, the content you get when you take the book from
# its shelf, made by a third learned matrix. Position 5 takes a little of each value, in proportion to the weights. So
# query and key decide *where* to look, the value *what* is fetched there, and a head learns the two apart from each
# other.

# %%
torch.manual_seed(14)
W_value = torch.randn(C, C)  # (C, C)
values = x @ W_value  # (T, C): what each position hands over
mix = weights @ values  # (T,) @ (T, C) -> (C,)

# %%
for character, weight, value in zip(text, weights, values):
    print(f"{weight:.2f} of {character!r:4} with the value {signs(value)}")
print("position 5 receives          ", signs(mix))

assert torch.allclose(mix, sum(w * v for w, v in zip(weights, values))), (
    "a weighted sum, and nothing more"
)

# %% [markdown]
# That is the whole of attention, for one position: *score, softmax, mix*. Its full name in the literature is **scaled
# dot-product self-attention**: scores are dot products, the division by a root scales them, and the text looks at
# itself. (In *cross-attention*, keys and values come from another text, say the one to be translated. The vectors x are
# called **embeddings**, one for each character.) Here it is as a drawing that you can reproduce on a whiteboard, with
# the shapes for all T positions at once.

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
places = {
    "x (T, C)": (0, 0),
    "queries\n(T, C)": (1.7, 1),
    "keys\n(T, C)": (1.7, 0),
    "values\n(T, C)": (1.7, -1),
}
places |= {
    "scores\n(T, T)": (3.4, 0.5),
    "mask,\nsoftmax": (4.8, 0.5),
    "weights\n(T, T)": (6.2, 0.5),
    "mix\n(T, C)": (7.6, -1),
}
arrows = [("x (T, C)", name) for name in ("queries\n(T, C)", "keys\n(T, C)", "values\n(T, C)")]
arrows += [("queries\n(T, C)", "scores\n(T, T)"), ("keys\n(T, C)", "scores\n(T, T)")]
arrows += [("scores\n(T, T)", "mask,\nsoftmax"), ("mask,\nsoftmax", "weights\n(T, T)")]
arrows += [("weights\n(T, T)", "mix\n(T, C)"), ("values\n(T, C)", "mix\n(T, C)")]
draw.boxes(ax, places, arrows, here=["x (T, C)", "mix\n(T, C)"])
plt.show()

# %% [markdown]
# One box in it is still without a reason, the mask. It is the rule that keeps a position from peeking at the very
# character that it is supposed to guess.
#
# ## All positions at once
#
# Position 5 stood at the end of the text, so everything it looked at was its past. But a GPT does not only guess at the
# end. To learn as much as possible from a window, it guesses at every position, so that a window of 128 characters
# makes 128 training examples for the price of one. And that is where it gets delicate. Position 2 is trained to guess
# what comes at position 3, and position 3 is right there in the text beside it: a model allowed to look would learn to
# copy the answer, everywhere but at the very last position. So every position may look at itself and at what came
# before, and at nothing later. An attention with this rule is called **causal**, and the −∞ from above is how it is
# enforced. (A model that need not guess what comes next, but only read, does without it: BERT, or the *encoder* of a
# translator.)
#
# With a query for every position, the scores become a matrix: row *t* holds the scores of query *t* with all keys.

# %%
queries = x @ W_query  # (T, C): row 5 is the query from above

# %%
all_scores = queries @ keys.T / math.sqrt(C)  # (T, C) @ (C, T) -> (T, T)
masked = all_scores.masked_fill(future, float("-inf"))  # (T, T)
all_weights = masked.softmax(dim=1)  # (T, T): each row sums to 1
y = all_weights @ values  # (T, T) @ (T, C) -> (T, C)

fig, axes = plt.subplots(2, 2, figsize=(7.4, 7), layout="constrained")
steps = [("1. scores: query t with key j", all_scores), ("2. the future is masked", masked)]
steps += [("3. softmax: row by row", all_weights), ("4. what each position receives", y)]
for ax, (title, numbers) in zip(axes.flat, steps):
    draw.grid(ax, numbers, text, text if numbers is not y else [""] * C, title)
plt.show()

assert torch.allclose(y[5], mix, atol=1e-6), "the last row is what position 5 received by itself"
assert (all_weights[future] == 0).all(), "not small: exactly 0"
print(f"every weight on the future is {all_weights[future].max():.2f}; the last row is as before")

# %% [markdown]
# <details><summary>Before you look closely: what must the first row of weights be, whatever the scores are?</summary>
#
# 1.0 for position 0 itself: there is nothing else that it may look at, and a softmax over one number is always 1.
# </details>
#
# Read the pictures row by row. The last row holds our old friend, position 5: the same scores, the same weights, the
# same mix. The further down a row, the more there is to choose from.
#
# Notice also what became of the masked cells. The softmax did not make the future's weight small, it made it exactly
# 0 (the assert in the code insists on it), and the past shares the whole of the weight. That is why the mask comes
# *before* the softmax. Set weights to 0 afterwards, and the rows no longer sum to 1, unless you divide each row by
# its sum once more, which some books do and which comes to the same.
#
# ### As a module
#
# Now we put it into a module, and let it take a batch of texts, (B, T, C), as all modules do. In the first version,
# every matrix has its own line. (`nn.Linear` without a bias is a learned matrix, and multiplies by it.)

# %%
class OneHead(nn.Module):
    """One head of causal attention, with every matrix under its own name."""

    def __init__(self, C):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(C, C, bias=False) for _ in range(3))

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        T, C = x.shape[1:]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(C)  # (B, T, T)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)  # (T, T)
        return scores.masked_fill(future, float("-inf")).softmax(dim=2) @ self.value(x)

# %% [markdown]
# That is complete, and it would train. In GPTs you will find it in a slightly different form, so here is the second
# version, with GPT-2's names and three changes. The three matrices stand one after the other in a single one,
# `c_attn`, because one large product is faster than three small ones; its result, (B, T, 3C), is split into three
# pieces of C. A fourth matrix, `c_proj`, takes what the head has gathered and writes it in the form that the rest of
# the model reads (PicoGPT gives it a bias, and the other three none; lesson 07 asks whether that matters). And the
# mask is made once and stored with the module, as a **buffer**.

# %%
class CausalAttention(nn.Module):
    """One head. Row t of the answer depends on rows 0 to t of x only."""

    def __init__(self, C, block_size):
        super().__init__()
        self.c_attn = nn.Linear(C, 3 * C, bias=False)  # query, key and value in one product
        self.c_proj = nn.Linear(C, C)
        future = torch.ones(block_size, block_size, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)  # for the longest text

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        _, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, 3C) -> (B, T, C) each
        scores = q @ k.transpose(1, 2) / math.sqrt(C)  # (B, T, C) @ (B, C, T) -> (B, T, T)
        weights = scores.masked_fill(self.future[:T, :T], float("-inf")).softmax(dim=2)  # (B, T, T)
        return self.c_proj(weights @ v)  # (B, T, T) @ (B, T, C) -> (B, T, C)

# %% [markdown]
# Do both versions compute the same? They must, if the large matrix is made of the three small ones and `c_proj`
# passes on what it gets.

# %%
torch.manual_seed(0)
first, second = OneHead(32), CausalAttention(32, block_size=64)
three = torch.cat([first.query.weight, first.key.weight, first.value.weight])  # (3C, C)
second.load_state_dict(
    {"c_attn.weight": three, "c_proj.weight": torch.eye(32), "c_proj.bias": torch.zeros(32)}
)
some = torch.randn(2, 10, 32)  # (B=2, T=10, C=32)
print(f"largest difference: {(first(some) - second(some)).abs().max():.5f}")

# %% [markdown]
# And the course has the same module in its core. If we give both the same parameters, they must give the same
# answers.

# %%
torch.manual_seed(0)
mine = CausalAttention(C=32, block_size=64)
core = pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=1))
core.load_state_dict(mine.state_dict())  # the same weights under the same names

# %%
batch = torch.randn(2, 10, 32)  # (B=2, T=10, C=32)

assert torch.allclose(mine(batch), core(batch), atol=1e-6), "the core does what ours does"
print(f"largest difference from the core: {(mine(batch) - core(batch)).abs().max():.5f}")

# %% [markdown]
# A screenful of code, and it computes what the core computes: `load_state_dict` would have refused names or shapes
# that do not fit, and the outputs agree to the last digits.
#
# What is a buffer good for? A mask is no parameter, for nothing about it is learned, and yet it has to go where the
# module goes. To see the difference, move two modules to another device. We use PyTorch's `meta` device, which
# computes shapes only and which every machine has.

# %%
class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.forgotten = torch.ones(2)  # a tensor like any other: PyTorch does not know of it

# %%
moved = Forgetful().to("meta")
print(f"the buffer is on {moved.kept.device}, the plain tensor still on {moved.forgotten.device}")
print("stored with the weights:", list(moved.state_dict()))
print("stored with the attention:", list(mine.state_dict()))

# %% [markdown]
# On a GPU, the plain tensor would have stayed behind, and the first `masked_fill` would have stopped with *expected
# self and mask to be on the same device*. With `persistent=False` the buffer travels with the module but is not
# written into checkpoints, since it can be made again at any time. In older code you will meet masks inside
# checkpoints: Hugging Face's file of the smallest GPT-2 has one in each of its 12 blocks, under the misleading name
# `attn.bias`, and nobody trained them. (The core needs no buffer. It leaves the masking to PyTorch's fused attention,
# one function for scores, mask and mix, for which see lesson 04, or makes the mask on the spot where it computes by
# hand.)
#
# ## Attention has no idea of order
#
# Something about the picture at the top should have made you suspicious. The head looks *one position to the left*.
# But where, in all those dot products, is there any "left"? A score compares the contents of two vectors. Nothing in
# it says where they stand.
#
# So let us shuffle the past. We keep the last character where it is, swap the five before it around, and look at
# what the last position receives.

# %%
shuffled = torch.tensor([3, 0, 4, 2, 1, 5])  # position 5 stays
print("".join(text[j] for j in shuffled).replace(" ", "␣"))
with torch.no_grad():
    one = CausalAttention(C=4, block_size=6)
    apart = (one(x[None])[0, 5] - one(x[shuffled][None])[0, 5]).abs().max()
print(f"the answer at position 5 moves by {apart:.5f}")

assert apart < 1e-6, "a sum does not care about the order of its terms"

# %% [markdown]
# `␣tkeh` instead of `the␣k`, and the answer does not move (but for rounding, since the same terms are added in
# another order). To a single attention, the past is a bag of characters. Yet order is most of what there is to know
# about a text.
#
# The cure is simple: put the order into the vectors. GPT-2, and PicoGPT, learn one more vector for each *position*
# and add it to that of the character, so that an *e* at position 2 is not the same as an *e* at position 4. Then a
# query can ask for a position as well as for a character, and in exercise 2 you will build the head of the first
# picture in just this way.

# %%
wpe = torch.randn(T, C)  # (T, C): one vector for each position, learned in a real model
with torch.no_grad():
    apart = (one((x + wpe)[None])[0, 5] - one((x[shuffled] + wpe)[None])[0, 5]).abs().max()
print(f"with positions, the answer moves by {apart:.2f}")

assert apart > 0.01, "now the order matters"

# %% [markdown]
# (One qualification, because you may read otherwise elsewhere. A causal mask is itself a hint about order, since
# position 1 sees two characters and position 5 sees six. A single attention takes a mean, so from the mask it can tell
# at most in which proportions characters came before; and where the first character is one that occurs nowhere else,
# its share, 1 in t + 1, also tells how many there were. To tell their order takes a second attention on top. With
# several of them, causal models without positions do nearly as well as others: Haviv 2022, in the sources.)
#
# ## The model so far
#
# From here on, the course grows a model, part by part, and trains it again after each, for 400 steps, from Xavier's
# initial weights (lesson 05) and with three seeds. The first stage is the bigram of lesson 02, with a vector for each
# character and a linear layer that turns it into logits. The second adds positions. The third adds the head that you
# have just built. Here are the mean of the validation losses, and a line that one of the three models wrote (with /
# for the end of a line).

# %%
growth = picogpt.load_rows(picogpt.DATA / "runs" / "growth.csv")
for stage in ("bigram", "+ positions", "+ one head"):
    ends = [row for row in growth if row["variant"] == stage and row["sample"]]
    losses = [row["val_loss"] for row in ends]
    print(f"{stage:12} {sum(losses) / len(losses):.3f}   {ends[0]['sample'][:64]}")

# %% [markdown]
# Positions alone bring nothing, they even cost a little: a table of pairs has no use for knowing that this is
# character 17 of the window. (How much they cost depends on the size of the first weights: from GPT-2's smaller ones
# it is a tenth of that.) The head is the first part that lets the model see more than one character, and the loss
# falls below the bigram's. It is a small step, and a plausible reason is that a single head, by itself, has to give
# something up for it: what comes out is a mixture of the past, in which the last character, the one that a bigram
# lives on, is only one among many. (It takes a suitable start to be a step at all. From GPT-2's smaller initial
# weights, the same head ended between 2.56 and 2.58 in all three seeds, *above* the bigram.) Lessons 04 and 05 repair
# that, and you will see this table grow.
#
# ## Why divide by √(head size)?
#
# One step has been waiting for its reason. We divided every score by √C. More exactly, it is the root of the **head
# size**, the length of a query and a key, which so far was C and from the next lesson on is a fraction of it. A dot
# product is a sum with as many terms as the vectors are long. If the terms are random, a sum of 64 of them is not 64
# times as large as one, since many cancel, but about √64 = 8 times. Let us see.

# %%
torch.manual_seed(0)
for size in (4, 64, 1024):
    q, k = torch.randn(5000, size), torch.randn(5000, size)  # (5000, size) each
    score = (q * k).sum(dim=1)  # (5000,): a dot product each
    print(f"head size {size:4}: standard deviation of q · k {score.std():5.1f}", end="")
    print(f", divided by the root {(score / math.sqrt(size)).std():.2f}")

# %% [markdown]
# The division takes exactly this growth out again. Does it matter? The softmax is sensitive to the size of its
# inputs, not only to their order. Multiply all scores by eight, and a choice becomes a decision. The softmax is then
# said to be **saturated**.

# %%
for factor in (1, 8):
    scores = factor * torch.tensor([1.0, 2.0, 3.0])
    print(f"scores {scores.tolist()}  weights {signs(scores.softmax(dim=0))}")

# %% [markdown]
# A saturated softmax is a problem for training, for the gradient reaches the query through it: if the weights
# do not react when the query moves, the query cannot learn. So let us give random queries 32 random keys each, and
# look at two things. How large is the largest of the 32 weights? And how many queries are *stuck*? Let us call a
# query stuck if what it receives reacts to it less than a tenth as much as it does for a typical query with the
# division.

# %%
def one_query(size, divisor):
    """The largest of 32 weights, and how much the mix reacts to the query."""
    q, keys, values = torch.randn(size), torch.randn(32, size), torch.randn(32, size)
    w = (keys @ q / divisor).softmax(dim=0)  # (32,)
    through_softmax = torch.diag(w) - w[:, None] * w[None]  # (32, 32): ∂ weights / ∂ scores
    return w.max().item(), (values.T @ through_softmax @ keys).norm().item() / divisor


def many_queries(size, divisor, draws=1000):
    """Two tensors (draws,): largest weights and reactions."""
    torch.manual_seed(0)
    return torch.tensor([one_query(size, divisor) for _ in range(draws)]).unbind(dim=1)

# %%
print("             divided by the root       not divided")
print("head size    largest weight  stuck     largest weight  stuck")
for size in (16, 32, 64, 256):
    (top, normal), (raw_top, raw) = many_queries(size, math.sqrt(size)), many_queries(size, 1)
    few, many = ((r < normal.median() / 10).float().mean() for r in (normal, raw))
    line = f"{size:9}    {top.median():14.2f}  {few:5.0%}"
    print(line + f"     {raw_top.median():14.2f}  {many:5.0%}")

# %% [markdown]
# Divided, every head size starts alike: the query looks around, with about 0.14 as its largest weight, and none is
# stuck. Not divided, a typical query has put most of its weight on one key before anything was learned, the more so
# the larger the head, and more and more queries are stuck. That is the usual argument for the root, and you see that
# at PicoGPT's own head size, 32, it concerns few queries; it becomes serious for larger heads.
#
# Real models do not start with random numbers of size 1, though. The next cell measures the scores of PicoGPT, new
# and trained. (Its code uses parts of lessons 04 and 05: run it without reading it.)

# %% jupyter={"source_hidden": true} cellView="form"
# @title How far the scores of a real model spread (run this cell)
@torch.no_grad()
def score_spread(model):
    """Standard deviation of each head's scores (without the future), on 256 characters. (24,)"""
    x = model.wte(corpus.val[None, :256]) + model.wpe(torch.arange(256))  # (1, T, C)
    spreads = []
    for block in model.h:
        q, k, _ = block.attn.queries_keys_values(block.ln_1(x))  # (1, 8 heads, T, 32) each
        scores = q @ k.transpose(2, 3) / math.sqrt(32)  # (1, 8, T, T)
        spreads.append(scores[0, :, pc.causal_mask(256)].std(dim=1))  # (8,)
        x = block(x)
    return torch.cat(spreads)


torch.manual_seed(0)
for name, model in (("new", pc.GPT(pc.ModelConfig())), ("trained", shipped)):
    spread = score_spread(model)
    print(f"{name:8} standard deviation of a head's scores: ", end="")
    print(f"{spread.min():.2f} to {spread.max():.2f}, of the head at the top {spread[chosen]:.2f}")

# %% [markdown]
# A new PicoGPT starts with such small numbers that its softmax would be far from saturated either way. And some of
# the trained heads have moved to scores that spread widely, the head at the top among them: to be decided is what
# they learned. So the honest summary is this. The root makes the start the same for every head size, provided that
# queries and keys start as independent numbers of about size 1, and in large heads it keeps many queries from being
# stuck.
#
# ### A common bug
#
# With several heads (next lesson), each has the size C divided by their number, in the core's names `n_embd /
# n_head`, and a common bug divides by √n_embd instead. Nothing crashes, and a model trained like that can learn,
# because its queries can grow to make up for it. The bug shows when trained parameters come from elsewhere. Here is
# PicoGPT, as it was shipped with this course, with its own root and with the wrong one, which makes all queries too
# small by √8.

# %%
wrong_root = picogpt.load_shipped("picogpt").model

# %%
with torch.no_grad():
    for block in wrong_root.h:
        block.attn.c_attn.weight[:256] *= math.sqrt(32 / 256)  # the rows that make the query
some = corpus.val[: picogpt.budget(smoke=2_000, quick=30_000, full=111_540)]  # not all of it
right, wrong = pc.evaluate(shipped, some), pc.evaluate(wrong_root, some)
print(f"on {len(some):,} characters: with √head_size {right:.3f}, with √n_embd {wrong:.3f}")

assert wrong > right + 0.1, "the wrong root must hurt trained weights"

# %% [markdown]
# The symptom to remember: *trained parameters work, but clearly worse than they should*, because all heads look too
# evenly at everything. (If you remember PicoGPT's validation loss from lesson 02 and wonder why this one is lower:
# these are the first 30,000 characters, and the beginning of the validation text is easier than the rest of it.)
#
# ## What if we leave out the mask?
#
# You know the engineer of lesson 00, whose GPT still wrote garbage after four days. It looked complete, and had no
# mask. To see why that is so hard to find, let us make the same mistake.
#
# The course has trained two models for this, and you have met them: they are A and B of lesson 00, three layers of
# width 128. They are alike in every setting, see the same windows in the same order, and differ in one thing: one has
# the mask and the other does not. (Three layers are three attentions in a row, with other parts between them; lesson
# 05 puts them together.)

# %%
pair = picogpt.load_rows(picogpt.DATA / "runs" / "pair.csv")
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
for name, label in (("honest", "with the mask,"), ("unmasked", "without the mask,")):
    picogpt.plot_history(ax, [row for row in pair if row["variant"] == name], label)
picogpt.plot_ngrams(ax, side="left")
ax.set(ylim=(0, 3.5), xscale="log", xlim=(10, None), title="Which of the two would you ship?")
plt.show()

# %% [markdown]
# Look at the orange curve. At first the two models learn alike, and then, between step 60 and step 90, the loss of
# the model without a mask falls off a cliff, close to zero. It has found something. Your first thought may be
# overfitting, so look at the dots, which come from text it has never seen: they lie just as low. By everything the
# last lesson taught us this is a triumph, and yet no model should be able to predict Shakespeare that well. When a
# result is too good, the next question is not how to publish it but where the answer leaked in. In machine learning
# this is called **label leakage**: the model can read the answer in its input.
#
# <details><summary>Before you run the next cell: both models will continue the same words. What do you expect from the
# one with the lower loss?</summary>
#
# If a loss measured the quality of the writing, it should write like Shakespeare himself. Run it.
# </details>

# %%
models = {name: picogpt.load_shipped(name).model for name in ("honest", "unmasked")}
settings, prompt = (
    pc.SampleConfig(picogpt.budget(smoke=30, quick=270, full=270), temperature=0.8, seed=1),
    "Before we proceed any further",
)

# %%
for name, model in models.items():
    loss = pc.evaluate(model, corpus.val[: picogpt.budget(smoke=2_000, quick=30_000, full=111_540)])
    print(f"--- {name}, validation loss {loss:.3f}")
    written = picogpt.generate_text(model, corpus.tokenizer, prompt, settings)
    print(f"{written[:128]}\n[from character 128 on] {written[128:]}\n")

# %% [markdown]
# The honest one, whose loss is about eighty times as high (both losses are of the first 30,000 characters), writes
# something that could pass for a bad play from across the room. The other one begins with plain noise. Then something
# odd happens: from character 128 on, the noise turns into almost-words, with almost the right spaces between them.
# Keep that number in mind.
#
# Why does it write like that? Somewhere in each model there is a head that puts most of its weight on one neighbour.
# Here are both, on the same line of validation text. Row *t* shows what position *t* looks at, so the arc of the
# first picture is one dark cell here.

# %%
piece = corpus.val[None, 4116:4132]  # (B=1, T=16)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 5.2), layout="constrained")
for ax, (name, neighbour) in zip(axes, (("honest", -1), ("unmasked", 1))):
    every = torch.cat(
        [weights[0] for weights in pc.attention_weights(models[name], piece)]
    )  # (12, T, T)
    share = every.diagonal(offset=neighbour, dim1=1, dim2=2).mean(
        dim=1
    )  # (12,): weight on t - 1, or t + 1
    best = int(share.argmax())
    picogpt.plot_attention(ax, every[best], corpus.tokenizer.decode(piece[0]))
    side = "before" if neighbour < 0 else "after"
    ax.set_title(
        f"{name}: layer {best // 4}, head {best % 4},\n{share[best]:.0%} on the character {side}",
        fontsize=12,
    )
plt.show()

# %% [markdown]
# On the left, the dark line lies just *below* the diagonal: every character looks at the one before it, and we
# know this kind of head. On the right it lies just *above* the diagonal, and that one picture tells the whole story.
# Every position looks at the very character that it is asked to guess. The model does not predict, it **copies**,
# and it is nearly perfect at that. Only the very last row is different, since nothing stands to its right. It looks
# at a few characters further left.
#
# In training, and in validation too, the next character stands in the window, at every position but the last, so
# copying works nearly always. When the model writes, nothing stands there yet. To see how it does then, ask the
# question that writing asks: only the last position of a window, with nothing behind it, for windows of three
# lengths.

# %%
n = picogpt.budget(smoke=20, quick=400, full=400)
windows = corpus.val[: 129 * n].view(n, 129)  # (n, 129)

# %%
for name, model in models.items():
    print(f"{name:10} loss at the last position of windows", end="")
    for T in (64, 100, 128):
        with torch.no_grad():
            logits = model(windows[:, :T], last_only=True)  # (n, 1, V)
        last = pc.cross_entropy(
            logits, windows[:, [T]]
        ).item()  # against the character that follows
        print(f"   of {T}: {last:.2f}", end="")
    print()
print(
    f"guessing evenly among 65 characters: {math.log(65):.2f};  {last:.2f} / 128 = {last / 128:.4f}"
)

# %% [markdown]
# With windows of 64 or 100, the unmasked model does far worse than blind guessing. It is not merely ignorant, it is
# *sure* of what it cannot see, and most of its bets are wrong. The honest model does about as well as its loss says,
# whatever the length.
#
# Windows of 128 are the exception, and they solve the last riddle of this story. Why is the unmasked model's loss
# not simply 0? In training, all windows were 128 characters long, and in each of them there was a single position
# with nothing to copy from, the last one. So at this position, and only there, the model had to learn to guess, and
# it does so a little better than a bigram. One position in 128 costs it that much and the others practically
# nothing: divide, as the last line does, and you have the loss that was printed above. It also explains the odd
# change in its writing. As long as the text is shorter than the window, the model stands on positions at which it
# never learned to guess. From character 128 on, it always stands on the last one.
#
# Now the engineer's four days make sense. His model ended at a loss of 0.0153, with windows of 256, which leaves at
# most 0.0153 · 256 = 3.9 for the last position: little better than guessing evenly, at 4.17. The parameter count was
# right, since a mask has no parameters. The training loss was small; the log has no validation loss, which would have
# been small too. Taking the likeliest character or drawing one made no difference. LayerNorms were moved, biases were
# changed, and in the end the attention was exchanged, for a wrong reason (lesson 04), and the new one had a mask.
#
# ## One test, from outside
#
# Everything we used so far to find the missing mask took a trained model, and patience. The test of lesson 00 takes
# neither, and does not even look into the code. Change the text from some position on, and see which answers move.
# What comes later must not matter for what came before, so *before* that position nothing may move at all.

# %%
def moved_by_the_future(model, ids, position):
    """How far the logits at each position move when the text from `position` on is changed. (T,)"""
    model.eval()  # dropout, random zeros (lesson 09), would move all, in healthy models too
    with torch.no_grad():
        logits = model(ids)  # (B, T, V)
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % logits.shape[
            2
        ]  # another future, the same past
        return (logits - model(changed)).abs().amax(dim=(0, 2))  # (B, T, V) -> (T,)


ids = corpus.val[None, :64]  # (B=1, T=64)

# %%
for name, model in models.items():
    moved = moved_by_the_future(model, ids, position=40)
    past, rest = moved[:40], moved[40:]
    before, later = int((past > 0).sum()), int((rest > 0).sum())
    print(f"{name:10} {before} of 40 earlier positions move, {later} of 24 later ones")
    assert torch.equal(moved, pc.moved_by_the_future(model, ids, position=40)), (
        "the core has the same probe"
    )

# %% [markdown]
# For the honest model, the largest change before position 40 is exactly zero, not merely small, because its mask
# stands before the softmax and the future's weight is 0 from then on. (A change of 1e-5 or less would be rounding, as
# in a model that masks later and divides again. A leak is larger.) From position 40 on every answer moves, the second
# half of the test, as in lesson 00. The unmasked model fails at all 40 positions.
#
# It takes milliseconds and no training: a new model can be asked before its first step, unless its output matrices
# start at zero, as in some recipes. Then nothing that attention fetches gets through yet, and you have to ask after
# a few steps. And a passed probe is evidence, not proof: it tried one text and one change. Repeat it with every
# position as the one that changes, and you get the full picture of who depends on whom.

# %%
T = 16
others = ids[:, :T].repeat(T, 1)  # (T, T): T copies of the text
others.diagonal().copy_((others.diagonal() + 1) % 65)  # copy j differs at position j only
fig, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, (name, model) in zip(axes, models.items()):
    with torch.no_grad():
        apart = (model(ids[:, :T].repeat(T, 1)) - model(others)).abs()  # (copies, T, V)
    moved = apart.amax(dim=2).T  # (copies, answers) -> (answers, copies)
    shown = torch.where(moved == 0, torch.nan, moved.log10())  # exactly 0 stays white
    image = ax.imshow(shown, cmap="cividis", vmin=-2.5, vmax=1)
    ax.set(title=name, xlabel="changed: position j", ylabel="answer at position t")
fig.colorbar(image, ax=axes, label="change of a logit, log10", shrink=0.8)
plt.show()

# %% [markdown]
# White means exactly zero. On the left, the triangle above the diagonal is white, every pair of it. That is what
# *causal* means, as a picture. On the right it is full. You can also see what each model relies on: the bright cells
# of the honest one lie on the diagonal, and fade over the five or so positions before it; those of the unmasked one
# lie one step to the right of the diagonal, on the answer.
#
# Keep one rule from this story. **A validation loss far below what others reach on the same text is a bug until
# proven otherwise.** For Tiny Shakespeare, read character by character and learned from its training text alone, we
# know of no credible loss below 1.39 on the whole validation text (the PicoGPT that comes with the course has 1.434,
# and 1.397 at a temperature that was chosen on training text; the README has the means of three seeds, 1.434 and
# 1.395). Parts of the text are easier, as you saw above, so compare on the same text.
#
# Both models are also in the course's [playground](../web/playground.html) (`make playground` packs them for it; then
# it needs a browser and nothing else). Paste a text of your own, take the mask out, and watch which predictions move
# when you change a character.
#
# <!-- playground: mask -->
#
# ## When the mask is there and does not work
#
# Leaving it out is the simplest way to lose a mask. Here are four more ways. Three of them show, in the loss and in
# the probe; the fourth does not, yet.

# %%
def with_bug(name, scores, future):
    """Weights (…, T, T) of an attention with this bug. `future` is True where j > t."""
    if name == "masked with 0 after the softmax":
        return scores.softmax(dim=-1).masked_fill(future, 0.0)
    if name == "−10,000 for −∞":
        return scores.masked_fill(future, -10_000.0).softmax(dim=-1)
    hide = {"True taken for visible": ~future, "transposed: j < t is hidden": future.T}.get(
        name, future
    )
    return scores.masked_fill(hide, float("-inf")).softmax(dim=-1)

# %%
names = ["right", "True taken for visible", "transposed: j < t is hidden"]
names += ["masked with 0 after the softmax", "−10,000 for −∞"]
honest = picogpt.load_shipped("honest").model
for block in honest.h:
    block.attn.config = dataclasses.replace(honest.config, attention="manual")

# %%
def attend_with(name):
    """A function in place of the core's `attend`: (B, nh, T, hs) -> (B, nh, T, hs)

    nh is the number of heads, hs the size of one: lesson 04.
    """

    def attend(q, k, v, causal, dropout):
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, nh, T, T)
        return with_bug(name, scores, ~pc.causal_mask(q.shape[2])) @ v

    return attend

# %%
original, line_of_text = pc.attend, corpus.val[None, :129]
for name in names:
    pc.attend = attend_with(name)  # we exchange one function of the core, and put it back below
    with torch.no_grad():
        loss = pc.cross_entropy(honest(line_of_text[:, :-1]), line_of_text[:, 1:]).item()
    moved = pc.moved_by_the_future(honest, line_of_text[:, :64], position=40)
    still, nan = int((moved[:40] == 0).sum()), int(moved.isnan().sum())
    print(f"{name:32} loss {loss:5.2f}   {still:2} of 40 earlier positions stay still", end="")
    print(f", {nan} are nan" if nan else "")
pc.attend = original

# %% [markdown]
# We have put each bug into the honest model, which was trained without it. The first is loud. The last row may look
# nowhere, 0/0 is `nan` (not a number), and `nan` spreads to every position in the next block. The second stops
# nothing, and all rows but the last have their answer in sight (trained with the right mask, the model never learned
# to copy, hence the high loss). The third gives no weight to the future, and yet it is wrong: its rows no longer sum
# to 1, and how much is missing tells each position something about the future that it must not know, because the
# masked scores still stand in the softmax's denominator.
#
# The fourth passes, and the reason is worth a thought. If the future's scores are replaced by −10,000, their weight is
# exp(−10,000) next to ordinary scores, which float32 rounds to exactly 0. But a model that *learns* with such a mask
# can find a way round it: push the scores of the past below −10,000, and the future is visible again. That has
# happened, in Hugging Face's GPT-2 ([#17121](https://github.com/huggingface/transformers/issues/17121)): a loss of
# almost 0 in training and validation, and very bad answers whenever it had to go on by itself. With −∞ there is no way
# round; it only demands that every row can see at least one position, and a causal row can: itself.
#
# ## Exercises
#
# ### 1. Write it for a whole text
#
# Write `attention(x, W_query, W_key, W_value)`. `x` has the shape (T, C), and so has the answer. Row *t* may use
# positions 0 to *t* only. Four lines are enough, but a loop over positions is a fine start. Try it without looking
# back. (15 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def mixed(scores, v, hide, dim=1):
    return scores.masked_fill(hide, float("-inf")).softmax(dim=dim) @ v


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2: usual bugs with the mask (run this cell)
def mask_bugs(scores, v):
    """What an attention answers with a wrong mask, by hint. Scores (T, T), divided; v (T, C)"""
    T = len(scores)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return {
        "positions see their own future. Cover what comes after t before the softmax": (
            scores.softmax(dim=1) @ v
        ),
        "the mask comes after the softmax, so that the rows no longer sum to 1": (
            scores.softmax(dim=1).masked_fill(future, 0) @ v
        ),
        "your mask hides the past and shows the future. Hide where j > t": mixed(
            scores, v, future.T
        ),
        "your mask is the wrong way round: True must mean hidden, j > t": mixed(scores, v, ~future),
        "position t can see t + 1, its answer. Hide all of j > t: triu(1), not triu(2)": (
            mixed(scores, v, future.triu(2))
        ),
        "the scores of the future are 0, and exp(0) is 1. Make them −∞": (
            scores.tril().softmax(dim=1) @ v
        ),
        "a position cannot see itself. Hide what comes after t, not t": mixed(scores, v, ~future.T),
    }


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3: other bugs (run this cell)
def score_bugs(x, q, k, v):
    """What an attention answers with wrong scores or values, by hint. (T, C) each"""
    (T, C), scores = x.shape, q @ k.T
    future, root = torch.ones(T, T, dtype=torch.bool).triu(1), math.sqrt(C)
    return {
        "the scores are not divided by √C": mixed(scores, v, future),
        "the scores are divided by C, wanted √C": mixed(scores / C, v, future),
        "the scores are divided by √T, wanted √C, the length of a query": (
            mixed(scores / math.sqrt(T), v, future)
        ),
        "neither mask nor division by √C": scores.softmax(dim=1) @ v,
        "query and key have changed places": mixed(scores.T / root, v, future),
        "keys and values have changed places": mixed(q @ v.T / root, k, future),
        "the keys are compared with keys: use the queries": mixed(k @ k.T / root, v, future),
        "it is x that is mixed. Mix the values, x @ W_value": mixed(scores / root, x, future),
        "the softmax runs over the wrong dimension: each row must sum to 1": (
            mixed(scores / root, v, future, dim=0)
        ),
    }


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4 (run this cell)
def tried(yours, *inputs, shape):
    """Return the answer, or None after saying why there is none."""
    try:
        answer = yours(*(tensor.clone() for tensor in inputs))
    except Exception as error:
        print(f"not yet: your function stopped with {type(error).__name__}: {error}")
        return None
    if not isinstance(answer, torch.Tensor) or answer.shape != shape:
        got = getattr(answer, "shape", answer)
        print(f"not yet: for x {shape} it returned {got}, wanted a tensor {shape}")
        return None
    return answer.detach().float()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 5 (run this cell)
def check_attention(yours):
    """Tries your function on a text of 7 positions, and says in words what is off."""
    torch.manual_seed(0)
    x, *W = torch.randn(7, 5), torch.randn(5, 5), torch.randn(5, 5), torch.randn(5, 5)
    q, k, v = (x @ matrix for matrix in W)  # (T=7, C=5) each
    if (answer := tried(yours, x, *W, shape=(7, 5))) is None:
        return
    scores = q @ k.T / math.sqrt(5)  # (T, T)
    right = mixed(scores, v, torch.ones(7, 7, dtype=torch.bool).triu(1))
    bugs = mask_bugs(scores, v) | score_bugs(x, q, k, v)
    off = ~torch.isclose(answer, right, atol=1e-5).all(dim=1)  # (T,)
    same = [
        w for w, bug in bugs.items() if torch.allclose(answer, bug, atol=1e-5, equal_nan=True)
    ]
    if not off.any():
        print("✓ that is causal attention")
    elif same:
        print(f"not yet: {same[0]}")
    else:
        row = int(off.int().argmax())
        rows = [[round(n, 4) for n in numbers[row].tolist()] for numbers in (right, answer)]
        print(
            f"not yet: row {row} is the first that differs: {rows[0]} is right, yours is {rows[1]}"
        )


# %% tags=["exercise"]
def attention(x, W_query, W_key, W_value): ...  # your code


check_attention(attention)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def attention(x, W_query, W_key, W_value):
    T, C = x.shape
    scores = (x @ W_query) @ (x @ W_key).T / math.sqrt(C)  # (T, C) @ (C, T) -> (T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)  # (T, T): True where j > t
    return scores.masked_fill(future, float("-inf")).softmax(dim=1) @ (
        x @ W_value
    )  # (T, T) @ (T, C) -> (T, C)


check_attention(attention)

# %% [markdown]
# ### 2. Build a head by hand
#
# Training found a head that looks at its left neighbour. Can you build one without training? Suppose the vectors
# hold nothing but the position: row *t* of `x` is all zeros with a single 1 at position *t*, so `x = torch.eye(8)`.
# Write `neighbour_head()`, which returns two matrices, `W_query` and `W_key`, (8, 8) each, such that every position
# but the first puts at least 99 % of its weight on the position before it. (10 minutes)
#
# <details><summary>A hint</summary>
#
# With such an `x`, the query of position *t* is simply row *t* of `W_query`, and the key of position *j* is row *j*
# of `W_key`. Their dot product should be large for *j = t − 1* and nothing otherwise. How large must it be? It is
# divided by √8, and there are up to 7 others, each with exp(0) = 1.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def scores_by_hand(build):
    """The scores (8, 8) of a head, or None after saying why there are none."""
    try:
        matrices = build()
        if any(matrix is ... for matrix in matrices):
            print("not yet: put two matrices in place of the dots")
            return None
        W_query, W_key = (torch.as_tensor(matrix).float() for matrix in matrices)
        shapes = tuple(W_query.shape), tuple(W_key.shape)
        assert shapes == ((8, 8), (8, 8)), f"matrices of the shapes {shapes}, wanted (8, 8) twice"
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return None
    return W_query @ W_key.T / math.sqrt(8)  # x is the unit matrix, so these rows are q and k


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_neighbour_head(build):
    if (scores := scores_by_hand(build)) is None:
        return
    hidden = torch.ones(8, 8, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=1)
    before, itself = weights.diagonal(-1), weights.diagonal()[1:]
    share = f"{before.min():.0%}"
    if not weights.isfinite().all():
        print("not yet: some weights are nan: are there infinite numbers in your matrices?")
    elif before.min() >= 0.99:
        print(f"✓ every position puts at least {before.min():.2%} on the one before it")
    elif itself.min() > 0.9:
        print("not yet: every position looks at itself. Move the keys, or the queries, by one")
    elif scores.diagonal(1).min() > scores.diagonal(-1).max():
        print(
            "not yet: they look for the position after them, which is hidden. Swap the two matrices"
        )
    elif (before > 1.5 * itself).all():
        print(f"not yet: the right place, but a weight of {share}: make the scores larger")
    else:
        print(
            f"not yet: position 7 gives {before[-1]:.0%} to position 6, {itself[-1]:.0%} to itself"
        )


# %% tags=["exercise"]
def neighbour_head():
    W_query, W_key = ..., ...  # your code: (8, 8) each
    return W_query, W_key


check_neighbour_head(neighbour_head)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def neighbour_head():
    W_query = torch.eye(8)  # position t asks: "t?"
    W_key = 30 * torch.eye(8).roll(1, dims=1)  # position j says: "I come before j + 1"
    return W_query, W_key


check_neighbour_head(neighbour_head)

# %% [markdown]
# ### 3. Find the leak
#
# This one is harder. (20 minutes) Somebody's model is causal nearly everywhere. Write `find_leak(model, T)`, where
# `model` maps ids (1, T) to logits (1, T, 65). Return a pair `(t, j)` with *t < j*, such that the answer at *t*
# depends on the token at *j*, or `None` if you find none. The probe above changes the whole rest of the text, so it
# tells you *that* something leaks, but not *from where*. The check tries six models. One of them leaks at a single
# position only, and one is healthy although its rounding errors depend on everything.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
class Toy(nn.Module):
    """A model that averages over the visible positions (T, T): enough to be probed."""

    def __init__(self, visible, whole=False):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.whole = torch.randn(65, 8), torch.randn(8, 65), whole
        self.weights = visible / visible.sum(dim=1, keepdim=True)  # (T, T)

    def forward(self, ids):  # (B, T) -> (B, T, V)
        logits = (self.weights @ self.table[ids]) @ self.head
        small = 1 + self.table[ids].norm() / 1000  # of the whole text: a small leak
        return logits * small if self.whole else logits


class Rounding(Toy):
    """Healthy, but its sums run over all positions: the future, times 0, changes the rounding."""

    def forward(self, ids):  # (B, T) -> (B, T, V)
        logits = super().forward(ids)
        return logits + 1e-6 * self.table[ids].mean(dim=(1, 2))[:, None, None]


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def suspects(T):
    """Models, each with its leaks (T, T), or None."""
    ones = torch.ones(T, T)
    one_cell = ones.tril()
    one_cell[2, 9] = 1
    return {
        "causal": (Toy(ones.tril()), None),
        "without a mask": (Toy(ones), ones.triu(1)),
        "one position too far": (Toy(ones.tril(1)), ones.tril(1).triu(1)),
        "normalised over the whole text": (Toy(ones.tril(), whole=True), ones.triu(1)),
        "position 2 sees position 9": (Toy(one_cell), one_cell.triu(1)),
        "causal, with rounding errors": (Rounding(ones.tril()), None),
    }


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_find_leak(find, T=12):
    for name, (model, leaks) in suspects(T).items():
        try:
            answer = find(model, T)
            pair = None if answer is None else tuple(int(number) for number in answer)
            found = pair is not None and 0 <= pair[0] < pair[1] < T
            found = found and leaks is not None and bool(leaks[pair])
        except Exception as error:
            print(f"not yet: on the model '{name}' it stopped with {type(error).__name__}: {error}")
            return
        if found or (pair is None and leaks is None):
            continue
        where = "no leak" if leaks is None else f"a leak like {tuple(leaks.nonzero()[0].tolist())}"
        print(f"not yet: for the model '{name}' it gave {pair}, but there is {where}")
        if name.endswith("rounding errors"):
            print("A change of 1e-5 or less is rounding, not a leak")
        if name.startswith("position 2"):
            print("Change one token at a time, and try every position: the rest must stay as it is")
        return
    print("✓ you find every leak, and raise no false alarm")


# %% tags=["exercise"]
def find_leak(model, T): ...  # your code


check_find_leak(find_leak)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def find_leak(model, T):
    ids = torch.arange(T)[None] % 65  # (1, T)
    for j in range(T):
        changed = ids.clone()
        changed[0, j] = (changed[0, j] + 1) % 65
        moved = (model(ids) - model(changed)).abs().amax(dim=(0, 2))  # (1, T, V) -> (T,)
        if (moved[:j] > 1e-5).any():
            return int((moved[:j] > 1e-5).nonzero()[0]), j
    return None


check_find_leak(find_leak)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. follow a position through attention: its query meets every key, the softmax turns scores into shares, and the shares
#    mix the values,
# 2. do it for all positions with a few products of matrices, and keep the mask as a buffer,
# 3. say why attention needs positions, and what the root in the division is for,
# 4. recognise a model that copies its answer: a loss too good, a dark line above the diagonal, garbage when it writes,
# 5. test any GPT: change the future, and see that the past does not move.
#
# Three questions for a whiteboard: Draw one head for four positions, with the shape of
# everything. Where does −∞ go, and what breaks if it goes elsewhere? Why does a model without a mask have a tiny
# loss on text that it has never seen?
#
# <details><summary>Answers</summary>
#
# The drawing stands in "One position looks back": x is (4, C), queries, keys and values (4, C), scores and weights
# (4, 4), the mix (4, C). −∞ goes into the scores above the diagonal, before the softmax; after it, zeros would leave
# rows that do not sum to 1 and whose sums tell of the future. Without a mask every position but the last can copy
# its answer, and new text offers its answers as readily as old text.
# </details>
#
# Next: [lesson 04](04_multi_head_attention.ipynb) lets a position look at several places at once.
#
# ## Sources
#
# - Attention, and the division by the root ("we suspect that for large values …"): Vaswani et al. 2017,
#   [arXiv 1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.1.
# - From a mean to attention in steps: Karpathy's lecture [Let's build GPT](https://www.youtube.com/watch?v=kCc8FmEb1nY).
# - Query, key and value with numbers, for six words: Raschka, *Build a Large Language Model (From Scratch)*, chapter 3,
#   [code](https://github.com/rasbt/LLMs-from-scratch/tree/main/ch03).
# - Models without positions: Haviv et al. 2022, [arXiv 2203.16634](https://arxiv.org/abs/2203.16634).
# - A model that learned to get round −10,000: Hugging Face transformers, issue
#   [#17121](https://github.com/huggingface/transformers/issues/17121).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
