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
# 1. play against PicoGPT at guessing the next character, and see what a loss is made of,
# 2. build the bigram model twice, by counting and by gradient descent, and see that the two agree,
# 3. let longer n-grams show what overfitting is, with no network at all, and repair it by mixing,
# 4. choose settings without fooling yourself, and end with a bar that every later GPT has to beat,
# 5. measure how far a loss from a few random windows can be off, and compare two models fairly.
#
# **You need** lesson 01: characters as ids, the split, `get_batch`.
#
# **Time** 40 minutes to read, half a minute to run. Words you do not know are in the
# [glossary](../docs/glossary.md).
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
import html
import math
from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()
text = picogpt.load_shakespeare()
cut = len(corpus.train)  # the training text ends here, as in lesson 01
train, val = text[:cut], text[cut:]
chars = corpus.tokenizer.chars  # the 65 characters, in the order of their ids
shipped = picogpt.load_shipped("picogpt")

# %% [markdown]
# How predictable is English? Claude Shannon, who founded information theory, measured it with a game. Cover the end
# of a line, guess the next character, uncover it, guess on. We play it too, and against two machines: PicoGPT, which
# stands at the end of this course, and a table of pairs of characters, the *bigram model*, which this lesson builds.
#
# The rules are those of a bet. You name one character and say how sure you are. What you do not put on it goes to all
# the other characters, by how common they are. The machines do the same, only that they name a probability for every
# character. Then the true one is uncovered, and everybody pays **−ln p**, where p is what they had given to *that*
# character.

# %% jupyter={"source_hidden": true} cellView="form"
# @title The rules of the game, and the table of pairs (run this cell, read it later)
count = Counter(train)
share = {char: (count[char] + 1) / (len(train) + 65) for char in chars}  # how common each is
table = torch.ones(65, 65)  # (V, V): how often is the row followed by the column?
table.index_put_((corpus.train[:-1], corpus.train[1:]), torch.tensor(1.0), accumulate=True)
table = table / table.sum(dim=1, keepdim=True)  # (V, V): each row sums to 1


def your_price(guess, sure, came):
    """What you pay for the character that came, if you put the share `sure` on `guess`."""
    p = sure if guess == came else (1 - sure) * share[came] / (1 - share[guess])
    return -math.log(p)


@torch.no_grad()
def their_prices(ids):
    """What the table and PicoGPT pay for each of ids (T,) but the first. (2, T - 1)"""
    gpt = shipped.model(ids[None, :-1])[0].log_softmax(dim=1)  # (T - 1, V)
    both = torch.stack([table[ids[:-1]].log(), gpt])  # (2, T - 1, V)
    return -both.gather(2, ids[None, 1:, None].expand(2, -1, 1))[:, :, 0]  # (2, T - 1)

# %% jupyter={"source_hidden": true} cellView="form"
# @title The game (run this cell, read it later)
class Game:
    """A stretch of validation text, from `start` on. All see the 100 characters before it."""

    def __init__(self, start, length):
        start = max(start, 100)
        ids = corpus.val[start - 100 : start + min(length, 150)]  # PicoGPT reads 256 at most
        self.text, self.at, self.rows = corpus.tokenizer.decode(ids), 100, []
        self.theirs = their_prices(ids)  # (2, T - 1)

    def bet(self, guess, sure):
        came, prices = self.text[self.at], self.theirs[:, self.at - 1].tolist()
        self.rows.append((guess, sure, came, your_price(guess, sure, came), *prices))
        self.at += 1

    def means(self):
        return [sum(column) / len(self.rows) for column in list(zip(*self.rows))[3:]]

# %% [markdown]
# Here is a game already played. The line begins *And where two*, and the bets are written down in the cell, each a
# character and a confidence. (They are ours, and we knew the line. Your own game, below, will be an honest one.)

# %%
bets = [("h", 0.2), ("o", 0.2), ("c", 0.2), ("e", 0.5), ("n", 0.95), ("g", 0.95), (" ", 0.8)]
bets += [("s", 0.2), ("i", 0.5), ("r", 0.8), ("e", 0.95), ("s", 0.95), (" ", 0.8)]
bets += [("b", 0.2), ("e", 0.5), ("e", 0.95), ("t", 0.95)]
game = Game(start=4130, length=17)
for guess, sure in bets:
    game.bet(guess, sure)

# %%
print(" came   bet         you   table  PicoGPT")
for guess, sure, came, *prices in game.rows:
    you, pairs_table, gpt = prices
    print(f"  {came!r}    {guess!r} {sure:4.0%}  {you:6.2f}  {pairs_table:6.2f}  {gpt:6.2f}")
print(" mean           {:8.2f}  {:6.2f}  {:6.2f}".format(*game.means()))

# %% [markdown]
# Read it from the top. Nobody knows what *two* will be followed by, and everybody pays 3 or more. Then the word takes
# shape and gets cheap. And look at the *s* of *fires* and at the second *e* of *meet*: we know that *two* asks for a
# plural, and that when two fires *me…*, they will probably *meet*. Compare what we paid there with what the machines
# paid.
#
# Do not make too much of the last line. Seventeen characters are few (how few, we compute at the end), and with a
# probability for each character, instead of one bet, you would mostly pay less.
#
# Now it is your turn. If you run this lesson in a notebook, you have a box below. Choose how sure you are, then type
# a character: each one is played at once. A space is a space, and / stands for the end of a line. For another line,
# change `start`.

# %% jupyter={"source_hidden": true} cellView="form"
# @title What the game shows (run this cell)
def board(game):
    """The game as HTML: the text so far, the last bet, and what everybody has paid on average."""
    style = "white-space:pre-wrap;font-family:monospace;line-height:1.4"
    page = f"<div style='{style}'>{html.escape(game.text[: game.at])}▁</div>"
    if game.rows:
        guess, _, came, *prices = game.rows[-1]
        said, true = html.escape(repr(guess)), html.escape(repr(came))
        page += f"<p>It was <b>{true}</b>, you said {said}.</p>"
        page += "<table><tr><td></td><td>you</td><td>table</td><td>PicoGPT</td></tr>"
        for name, numbers in (("this one", prices), ("mean", game.means())):
            cells = "".join(f"<td>{number:.2f}</td>" for number in numbers)
            page += f"<tr><td>{name}</td>{cells}</tr>"
        page += "</table>"
    return page

# %% jupyter={"source_hidden": true} cellView="form"
# @title The box to type in (run this cell)
def guessing_game(start, length):
    import ipywidgets as w

    game, shown = Game(start, length), w.HTML()
    sure = w.ToggleButtons(options=[("20 %", 0.2), ("50 %", 0.5), ("80 %", 0.8), ("95 %", 0.95)])
    sure.style.button_width = "60px"
    box = w.Text(placeholder="type one character")

    def typed(change):
        guess = change["new"][-1:].replace("/", "\n")
        if guess in share and game.at < len(game.text):
            game.bet(guess, sure.value)
        box.value, box.disabled, shown.value = "", game.at == len(game.text), board(game)

    box.observe(typed, "value")
    shown.value = board(game)
    return w.VBox([w.HBox([sure, box]), shown])


# %% tags=["nbval-ignore-output"]
try:
    get_ipython()  # is there a kernel behind this?
    from IPython.display import display

    print("your game: the box below appears while a kernel runs")
    display(guessing_game(start=20_030, length=41))
except NameError:
    print("the game needs a notebook: JupyterLab, VS Code or Colab")

# %% [markdown]
# ## How surprised are you?
#
# What you paid has a name, which you may know from lesson 00. −ln p is the **surprise** at an outcome that had the
# probability p. Whoever had put everything on it pays nothing, and the smaller p was, the more it costs.

# %%
for p in (1, 0.95, 0.5, 0.2, 1 / 65, 0.001):
    print(f"p = {p:5.3f}   surprise {math.log(1 / p):.2f}")

# %% [markdown]
# Why a logarithm, and not simply 1 − p? Because we want to judge a whole text. The probability that a player gave to
# the whole line is the product of all the p, one for each character, and such a product is tiny. Its logarithm is a
# *sum*: the prices of the characters, added up. Divide by their number, so that the length of the text drops out.

# %%
p_of_gpt = [math.exp(-price) for *_, price in game.rows]  # what it gave to each character
product = math.prod(p_of_gpt)
print(f"PicoGPT gave the 17 characters together the probability {product:.1e}")
print(f"-ln of it, divided by 17: {-math.log(product) / 17:.2f}")

assert abs(-math.log(product) / 17 - game.means()[2]) < 1e-6, "the mean price from the table"

# %% [markdown]
# This mean surprise is the **loss** of a language model. Its unit is the **nat**, since we use the natural logarithm.
# It is also called *cross-entropy*. Making it small makes the text as probable as possible, which is what statisticians
# call *maximum likelihood*.
#
# The price has one property that you may have noticed while playing. Bragging does not pay, and neither does modesty:
# in the long run you pay least by naming the true chances. What remains even then is the **entropy** of the text, the
# part of it that nobody can foresee; in the long run no model's loss is below it. And whoever claims 100 % and is
# wrong once pays infinitely much. A model must never say *never*.
#
# The dumbest player knows the 65 characters and nothing else, and gives 1/65 to each.

# %%
uniform = -math.log(1 / 65)
print(f"uniform: {uniform:.3f}")

# %% [markdown]
# Remember 4.174. A new GPT should start close to it (lesson 00 checked it). One that starts much higher is sure of
# nonsense.
#
# ## Count single letters
#
# Can one do better with next to no effort? A space is far more common than a *z*, so the next model, the **unigram**
# model, knows how often each character occurs in the training text. We already have these numbers: they are the
# `share` that took the rest of your bets. We ask for its loss on the **validation** text, which was not counted, and
# let it write a line.

# %%
unigram = sum(-math.log(share[char]) for char in val) / len(val)
print(f"unigram: {unigram:.3f}")

assert abs(sum(share.values()) - 1) < 1e-9, "probabilities sum to 1"

# %%
def write(next_probs, length=60, seed=1):
    """Draw a text, one character after the other: `next_probs` gives the 65 for what comes next."""
    generator, out = torch.Generator().manual_seed(seed), "\n"
    for _ in range(length):  # multinomial draws one id, each as often as its probability says
        out += chars[torch.multinomial(next_probs(out), 1, generator=generator)]
    return out.strip().replace("\n", " / ")

# %%
shares = torch.tensor([share[char] for char in chars])  # (V,)
so_far = {"uniform": (uniform, write(lambda before: torch.ones(65)))}
so_far["unigram"] = (unigram, write(lambda before: shares))
for name, (loss, line) in so_far.items():
    print(f"{name:8} {loss:.3f}   {line}")

# %% [markdown]
# The rare characters are rare now, and here and there a space stands where a word might end. (A / is a line end.)
#
# One detail was in the cell called *The rules of the game*: `share` has a *plus 1* in every count, one imagined
# occurrence of each character. Without it, a character that never occurs in the training text would get the probability
# 0, and the first time it comes the loss is infinite. Taking a little from what was seen, for what was not, is called
# **smoothing**, and this kind of it *add-one*, or *Laplace*, smoothing.
#
# ## Count pairs: the bigram model
#
# What comes next depends on what stands there. After `q` comes `u`. So we count pairs. Before we do that with a
# million characters, let us take a line that can be counted by hand, *to be or not to be*. Row and column are
# characters; in row *o*, column *t*, stands how often an *o* was followed by a *t*.

# %%
small = "to be or not to be"
few = "".join(sorted(set(small)))  # " benort": 7 characters
small_ids = torch.tensor([few.index(char) for char in small])  # (N=18,)
small_counts = torch.zeros(7, 7)
for before, after in pairwise(small_ids):
    small_counts[before, after] += 1

# %%
fig, ax = plt.subplots(figsize=(4.6, 3.9), layout="constrained")
draw.grid(ax, small_counts, few, few, "row: character before, column: the next", digits=0)
plt.show()

# %% [markdown]
# Take the row of *o*. An *o* occurs four times: a space follows twice, once an *r*, once a *t*. So after an *o*, this
# tiny model expects a space with probability 2/4, *r* and *t* with 1/4 each, and it will never write *oo*. The row of
# *r* holds a single number, since there was a single *r* to learn from, and from one example the model concludes that
# a space *must* follow. We will come back to such rows.
#
# Now the whole training text: 65 rows, 65 columns. This is the table that you played against.

# %%
pairs = torch.zeros(65, 65)  # (V, V): row is the character before, column the one after
# add 1 at every (before, after). pairs[before, after] += 1 would count a repeated pair once
pairs.index_put_((corpus.train[:-1], corpus.train[1:]), torch.tensor(1.0), accumulate=True)
counted = (pairs + 1) / (pairs + 1).sum(dim=1, keepdim=True)  # (V, V), each row sums to 1

assert torch.allclose(counted.sum(dim=1), torch.ones(65)), "each row sums to 1"
assert torch.equal(counted, table), "the table from the game"
print(f"{int((pairs > 0).sum()):,} of the {65 * 65:,} pairs occur at all")

# %%
some = " aehinoqtu"
part = [chars.index(char) for char in some]
rows = counted[part][:, part]  # (10, 10)
fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
ax.imshow(rows.sqrt(), cmap="Oranges", vmin=0, vmax=1.2, aspect="auto")
for i, before in enumerate(part):
    for j, after in enumerate(part):
        number = f"{int(pairs[before, after]):,}"
        ax.text(j, i, number, ha="center", va="center", fontsize=11, color="black")
ax.set_xticks(range(10), picogpt.visible_characters(some), family="monospace", fontsize=12)
ax.set_yticks(range(10), picogpt.visible_characters(some), family="monospace", fontsize=12)
ring = dict(xy=(some.index("u") - 0.5, some.index("q") - 0.5), width=1, height=1)
ax.add_patch(plt.Rectangle(**ring, fill=False, ec=draw.INK, lw=2.5))
ax.set(xlabel="next character", ylabel="character before")
ax.set_title("Number: how often the pair occurs. Colour: its probability", fontsize=12)
plt.show()

# %% [markdown]
# Ten characters of 65; the colour follows the probability within a row. The framed cell is `qu`: every one of
# the 563 *q* is followed by a *u*. Compare it with `th`, which is more than 36 times as frequent and yet paler, since
# a *t* has many other ways to go on. How well does the whole table predict, on the training text that was counted and
# on the validation text that was not?

# %%
def bigram_loss(ids):
    return -counted[ids[:-1], ids[1:]].log().mean().item()  # look up, then the mean

# %%
bigram = bigram_loss(corpus.val)
so_far["bigram"] = (bigram, write(lambda before: counted[chars.index(before[-1])]))
q, u = chars.index("q"), chars.index("u")
print(f"bigram: validation {bigram:.3f}, training {bigram_loss(corpus.train):.3f}")
print(so_far["bigram"][1])
print(f"after q comes u: {counted[q, u]:.2f}")

assert bigram < unigram < uniform, "who knows more is less surprised"

# %%
before, generator = "\n", torch.Generator().manual_seed(1)
for _ in range(9):  # the line once more, draw by draw
    row = counted[chars.index(before)]  # (V,): what may come after this character
    likely = ", ".join(f"{chars[i]!r} {row[i]:.0%}" for i in row.topk(3).indices.tolist())
    drawn = chars[torch.multinomial(row, 1, generator=generator)]
    print(f"after {before!r:4} likely {likely:27} drawn: {drawn!r} {row[chars.index(drawn)]:.1%}")
    before = drawn

# %% [markdown]
# From 3.347 to 2.482, and the line can nearly be pronounced. Below it you see how it came about: look up the row of
# the last character, draw from it, and what was drawn names the next row. All that came earlier is forgotten.
#
# The two losses are close together, since 4,225 numbers counted from a million characters have little room to learn
# anything by heart. One number may surprise you. All 563 *q* were followed by *u*, and the model says 0.90: the row has
# only 563 real pairs, and the 65 imagined ones, 64 of them for something else than *u*, take their share.
#
# ### A bug that the loss does not show
#
# Look at `keepdim=True` in the division. It keeps the row sums as a column, (65, 1). Without it they become (65,),
# which PyTorch lines up with the *columns*, and every column is divided by the sum of a row. Nothing crashes.
#
# <details><summary>Before you run it: will the loss go up, go down, or stay?</summary>
#
# Up, one might think. It stays, to the last digit we print. A running text enters every character as often as it
# leaves it (but for its two ends), so over the whole text the wrong divisors are the right ones in another order, and
# the mean of their logarithms is the same.
# </details>

# %%
slipped = (pairs + 1) / (pairs + 1).sum(dim=1)  # (V, V) / (V,): the wrong way round
loss = -slipped[corpus.val[:-1], corpus.val[1:]].log().mean()
sums = slipped.sum(dim=1)  # (V,)
print(f"loss {loss:.3f}, and rows that sum to {sums.min():.2f} … {sums.max():.2f}")

# %% [markdown]
# The same loss, from numbers that are no probabilities at all. That is why the lesson asserts that rows sum to 1: a
# loss means nothing unless they do. (The bug is known from Karpathy's lecture, in the sources.)
#
# ## The same table, learned
#
# Now without counting. A network has to turn a character into 65 scores for the next one. How does a character get
# into a network? The textbook's answer is a **one-hot** vector: as long as the vocabulary, all zeros, with a single 1
# at the character's id. Multiply it by a matrix and see what comes out. We take the small table from above.

# %%
one_hot = F.one_hot(torch.tensor(few.index("o")), num_classes=7).float()  # (7,)
product = one_hot @ small_counts  # (7,) @ (7, 7) -> (7,)
print("one-hot of 'o'   ", one_hot.int().tolist())
print("times the matrix ", product.int().tolist())
print("row 'o' of it    ", small_counts[few.index("o")].int().tolist())

assert torch.equal(product, small_counts[few.index("o")]), "the product is a row look-up"

# %% [markdown]
# All the zeros strike out their rows, and the single 1 lets its own row through. So **one-hot times matrix is a row
# look-up**, and nobody has to carry out the multiplication. PyTorch calls the look-up `nn.Embedding`: give it ids, it
# returns rows of its `weight`. A bigram model is a one-layer network, and its weight matrix is the table.
#
# What stands in the rows are scores, called **logits**, which may be any numbers. The softmax turns them into
# probabilities: exp of each, divided by their sum. Counts went the same way, only without the exp, so you can think
# of logits as the logarithms of counts. We start with zeros and go down the gradient of the loss, in small first.

# %%
before, after = small_ids[:-1], small_ids[1:]  # (N=17,) each
W = torch.zeros(7, 7, requires_grad=True)  # (V, V): a row of logits for each character


def small_loss():
    logits = F.one_hot(before, num_classes=7).float() @ W  # (N, V) @ (V, V) -> (N, V)
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # (N, V): the softmax
    return -p[range(17), after].log().mean()

# %%
loss = small_loss()
loss.backward()  # now W.grad (V, V) says how the loss changes with each number of W
o = few.index("o")
shares_of_o = small_counts[o] / small_counts[o].sum()  # (V,): of what follows an o
rows = {"predicted": torch.full((7,), 1 / 7), "counted": shares_of_o, "gradient": W.grad[o]}
rows["(predicted - counted) 4/17"] = (1 / 7 - shares_of_o) * 4 / 17
print(f"loss {loss:.3f}, row 'o' of W:" + " " * 6, *(f"{char!r:>6}" for char in few))
for name, row in rows.items():
    print(f"{name:27}", *(f"{number:6.2f}" for number in row))

assert torch.allclose(W.grad[o], rows["(predicted - counted) 4/17"], atol=1e-6)

# %%
for _ in range(200):
    W.data -= 5 * W.grad  # a step against the gradient, by 5 times its length
    W.grad = None  # or the next one is added to it
    loss = small_loss()
    loss.backward()
print(f"after 200 steps: loss {loss:.3f}; after an 'o'", end=" ")
print(*(f"{char!r} {p:.2f}" for char, p in zip(few, W[o].softmax(dim=0))))

# %% [markdown]
# The last two lines of the table are the same, and not by accident. For a row of logits the gradient is *what the
# model predicts, minus the counted share*, times how often the row is used, here 4 times in 17. At the space it is
# negative, so going against it raises that score, and it is zero only where prediction and count agree. After two
# hundred steps they do: 2/4, 1/4 and 1/4.
#
# Now the whole text, with three conveniences: the look-up instead of the product, random batches instead of all pairs
# at once, and the optimizer Adam, which chooses the length of each step for each weight.

# %%
network = nn.Embedding(65, 65)  # (V, V): a row of logits for each character
nn.init.zeros_(network.weight)
optimizer = torch.optim.Adam(network.parameters(), lr=0.3)
generator = torch.Generator().manual_seed(0)
curve, steps = [], picogpt.budget(smoke=20, quick=200, full=1000)
for step in range(steps):
    optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)  # smaller and smaller steps
    x, y = pc.get_batch(corpus.train, 32, 256, generator)  # (B=32, T=256) each
    logits = network(x)  # (B, T) -> (B, T, V)
    loss = pc.cross_entropy(logits, y)  # softmax, then the mean of -ln p: as in small_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(loss.item())

# %%
with torch.no_grad():
    learned_loss = pc.cross_entropy(network(corpus.val[None, :-1]), corpus.val[None, 1:]).item()
print(f"the first loss is {curve[0]:.3f}: uniform")
print(f"validation loss: learned {learned_loss:.3f}, counted {bigram:.3f}")
print(f"learned, usually {picogpt.usual('02', 'bigram learned by gradient descent, validation')}")

assert abs(curve[0] - uniform) < 1e-4, "zeros everywhere: it guesses blindly"
assert abs(learned_loss - bigram) < 0.02 or steps < 100, "counting and learning should agree"

# %%
learned = network.weight.detach().softmax(dim=1)  # (V, V)
some = "\n .,&abcdefghijklmnopqrstuvwxyz"
part = [chars.index(char) for char in some]
fig, axes = plt.subplots(1, 2, figsize=(7.4, 5.8), layout="constrained", sharey=True)
for ax, probs, title in ((axes[0], counted, "counted"), (axes[1], learned, "learned")):
    image = ax.imshow(probs[part][:, part].sqrt(), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    ring = dict(xy=(some.index("u") - 1, some.index("q") - 1), width=2, height=2)
    ax.add_patch(plt.Rectangle(**ring, fill=False, ec=draw.INK, lw=2))
    ax.set_title(title, fontsize=12)
    ax.set_xlabel("next character")
    names = ["↵", *picogpt.visible_characters(some[1:])]  # \n is too wide here
    ax.set_xticks(range(len(some)), names, fontsize=10, family="monospace")
    ax.set_yticks(range(len(some)), names, fontsize=10, family="monospace")
axes[0].set_ylabel("character before")
bar = fig.colorbar(image, ax=axes, label="probability", location="bottom", aspect=40)
bar.set_ticks([0, 0.1**0.5, 0.5**0.5, 1], labels=["0", "0.1", "0.5", "1"])
plt.show()

# %% [markdown]
# The same picture twice, with `qu` in the frame. The two columns at the left are line end (↵) and space: they come
# after punctuation, and the space after most small letters too, though hardly after *b*, *c*, *i*, *j*, *q*, *v* or
# *z*. Where do the two differ? In the left picture the row of `&` has a pale stripe, the imagined pairs, and in the
# right one hardly any. (What the network makes of the three `&` depends on its random batches.) But it need not be a
# rare row:

# %%
for char in "qQ&":
    i = chars.index(char)
    j = int(pairs[i].argmax())
    seen, times = int(pairs[i].sum()), int(pairs[i, j])
    print(f"{char!r} seen {seen} times, {times} times before {chars[j]!r}", end=": ")
    print(f"counted {counted[i, j]:.2f}, without the + 1 {times / seen:.2f}", end=", ")
    print(f"learned {learned[i, j]:.2f}")

# %%
never = (pairs[corpus.val[:-1], corpus.val[1:]] == 0).sum()
print(f"{never} of the {len(val) - 1:,} pairs of the validation text never occur in training")

# %% [markdown]
# In the rows of *q* and *Q*, the learned number is the one without the + 1. It has to be, since the gradient pulls
# each row towards its counted shares. At the very minimum, though, a pair that was never seen has the probability 0,
# and the last line says that the validation text holds such pairs: its loss would be infinite. What saved us is that
# we started from zeros and stopped early. Imagined counts have a counterpart too: whatever pulls the logits towards
# zero, weight decay for instance (each step also shrinks the weights a little), makes the rows more even.
#
# So as long as each context has a row of its own, **training with this loss is counting by other means**. In a larger
# network all contexts share the same parameters, so that no row can be set by itself. That is its strength: what it
# learns from one context, it can use in another that was never counted.
#
# ## Why not count longer pieces?
#
# How long is too long? If two characters are better than one, let us take seven. A run of n characters is an
# **n-gram**, and a model that looks at the last n − 1 characters is an n-gram model; with n = 2 it is the bigram, with
# n = 3 people say *trigram*. We count all n-grams, or pieces, of up to 7 characters. To keep what follows short, one
# function looks up a list of *endings*, each of them some text and the character that came next.

# %%
longest = picogpt.budget(smoke=3, quick=7, full=9)


def count_pieces(sample):
    counts = {0: Counter({"": len(sample)})}
    for n in range(1, longest + 1):
        counts[n] = Counter(sample[i : i + n] for i in range(len(sample) - n + 1))
    return counts


def look_up(counts, endings):
    """How often the last n characters of each ending occur, and how often the first n - 1 of them.

    Both (longest, N), for n = 1, 2, … and N endings.
    """
    sizes = range(1, longest + 1)
    pieces = [[counts[n][end[-n:]] for end in endings] for n in sizes]
    contexts = [[counts[n - 1][end[-n:-1]] for end in endings] for n in sizes]
    return torch.tensor(pieces), torch.tensor(contexts)

# %%
counts = count_pieces(train)
for n in range(1, longest + 1):
    once = sum(times == 1 for times in counts[n].values()) / len(counts[n])
    print(f"n = {n}: {len(counts[n]):7,} different pieces, {once:.0%} of them seen once")

# %% [markdown]
# Most of the long pieces were seen a single time, and most that are possible never. So what to do with a context that
# was hardly ever seen, or not at all? We smooth, as before: we imagine a few counts. How many is the strength of the
# smoothing, a *hyperparameter* (a number that we choose and the text does not give), and we call it EXTRA. The
# **plain** n-gram spreads them evenly over all 65 characters. Cleverer is to spread them as the next shorter n-gram
# would, which has seen its context more often: what `blu` leaves open, `lu` may know. This is called
# **interpolation**, since every probability becomes a mixture of a long and a short context. (There is another way,
# back-off, which asks the shorter context *only* where the longer one was never seen. Ours always mixes.)
#
# One context, worked by hand. What follows `blu`? We take EXTRA = 4 and go from short to long.

# %%
extra, p = 4, dict.fromkeys("sner", 1 / 65)
for context in ("", "u", "lu", "blu"):
    seen = counts[len(context)][context] if len(context) < longest else train.count(context)
    print(f"after {context!r:5} seen {seen:9,} times", end="")
    for char in p:
        times = train.count(context + char)
        p[char] = (times + extra * p[char]) / (seen + extra)  # real counts, and 4 imagined ones
        print(f"   {char}: {times:6,} -> {p[char]:.3f}", end="")
    print()

# %% [markdown]
# Follow the *s* in the last row. `blu` was seen 28 times, 19 times before an *s*, as in *blush*. The shorter context,
# one row up, gives *s* the probability 0.249, so of the 4 imagined counts 0.249 · 4 = 1.00 are for *s*, and the
# mixture is (19 + 1.00) / (28 + 4) = 0.625. Now the *r*, as in *blur*. It was never seen after `blu`, so that
# counting alone would rule it out. But it does follow `lu`, if rarely, and a share of that it keeps.
#
# The same for all n and many endings at once takes one line in a loop.

# %%
def probabilities(pieces, contexts, extra, interpolate=True):
    """The probability of each ending's last character, by n-gram models for n = 1, 2, … (n, N)"""
    p, found = torch.full(pieces.shape[1:], 1 / 65, dtype=torch.float64), []  # (N,)
    for piece, context in zip(pieces, contexts):
        shorter = p if interpolate else 1 / 65
        p = (piece + extra * shorter) / (context + extra)  # (N,)
        found.append(p)
    return torch.stack(found)

# %%
after_blu = probabilities(*look_up(counts, ["blu" + char for char in chars]), extra=4)  # (n, V)
row = after_blu[:4, chars.index("s")]  # (4,): after '', 'u', 'lu' and 'blu', as above
print("for the s:", *(f"{p:.3f}" for p in row))

assert (after_blu.sum(dim=1) - 1).abs().max() < 1e-4, "the 65 probabilities sum to 1"

# %% [markdown]
# Now the experiment: the loss of every n-gram up to 7, plain and interpolated, on a piece of the training text and on
# the validation text.

# %%
def endings(start, stop):
    """Each character of the text from `start` to `stop`, with the ones before it."""
    return [text[i - longest : i + 1] for i in range(start, stop)]

# %%
size = picogpt.budget(smoke=2_000, quick=len(val), full=len(val))
found = {"training": look_up(counts, endings(longest, longest + size))}
found["validation"] = look_up(counts, endings(cut, cut + size))  # (n, N), twice


def losses(where, extra, interpolate=True):
    return (-probabilities(*found[where], extra, interpolate).log().mean(dim=1)).tolist()  # (n,)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), layout="constrained", sharey=True)
for ax, interpolate, title in ((axes[0], False, "plain"), (axes[1], True, "interpolated")):
    for where, style, color in (("training", "s--", draw.INK), ("validation", "o-", draw.WARM)):
        row = losses(where, 4, interpolate)  # (n,)
        ax.plot(range(1, longest + 1), row, style, color=color, label=where)
    loss, n = min((loss, n) for n, loss in enumerate(row, 1))
    print(f"{title}: the best validation loss is {loss:.3f}, at n = {n}")
    ax.set(xlabel="n: characters in a piece", ylim=(0, None))
    ax.set_title(f"{title}, EXTRA = 4", fontsize=12)
    ax.grid(alpha=0.3)
axes[0].set_ylabel("loss (nats per character)")
axes[0].legend()
plt.show()

# %% [markdown]
# Look at the left picture first. At n = 1 and 2 the two losses are the same, within a few hundredths. They part from
# n = 3 on, and after n = 5 the validation loss rises fast while the training loss hardly moves. That is
# **overfitting**, and no network was needed. Where does it come from? And why does the dashed line rest near 1.3?
# Should a model that has seen every piece of this text not reach 0?

# %%
pieces = found["validation"][0]  # (n, N)
smoothed, bare = (losses("training", extra, interpolate=False) for extra in (4, 0.001))
for n in range(4, longest + 1):
    known = (pieces[n - 1] > 0).double().mean()
    print(f"n = {n}: {known:.0%} of the validation text's pieces occur in training", end="; ")
    print(f"training loss {smoothed[n - 1]:.3f}, with hardly any EXTRA {bare[n - 1]:.3f}")
once = (1 + 4 / 65) / (1 + 4)  # a context seen once, and what followed it then: plain, EXTRA = 4
print(f"what followed a context seen once gets p = {once:.2f}, surprise {-math.log(once):.2f}")

# %% [markdown]
# A third of the validation text's 7-character pieces never occurred in training. There the plain model has nothing but
# its evenly spread EXTRA, and often real counts for something else.
#
# The dashed line has two reasons. The first is our smoothing. A context that was seen a single time has one real
# count, and four imagined ones beside it, so even on its own text the model pays 1.55 nats for the only continuation
# that it has ever seen. The last column takes the smoothing out, and now the training loss keeps falling, to 0.76 at n
# = 7. The rest is the second reason: six characters do not fix the seventh, not even in a text that one has read.
#
# The lesson is one for the whole course: where a text is read many times, or counted as here, *a training loss cannot
# tell you how well a model does on another text*. (The largest models read most of their text only once. To them a
# batch is new when it comes, and their training loss is nearly as good as a validation loss.)
#
# On the right, interpolation repairs much of it: 1.689 instead of 1.763 at its best. But the curve still turns at n =
# 5. Is that as good as counting gets?
#
# ## Choosing without fooling yourself
#
# EXTRA = 4 was a number out of thin air, and n is ours to choose too. The obvious way is to try several and keep what
# does best on the validation text. But then the validation text has helped to *build* the model, and its loss is no
# longer that of text that the model has never met. Take the best of enough variants, and some of what you report is
# luck.
#
# So we choose on text that we can spare: the last tenth of the *training* text. Pieces are counted in the other nine
# tenths, all choices are made on the tenth held out, and the validation text has no vote: it only tells us, in the
# end, what we have got. (Textbooks choose on a *validation* or *development* set and measure on a *test* set. Our
# held-out tenth is the first, our validation text the second.)

# %%
held = cut - cut // 10  # the last tenth of the training text begins here
nine_tenths = count_pieces(text[:held])
found["held-out"] = look_up(nine_tenths, endings(held, min(held + size, cut)))
grid = [0.001, 1, 2, 4, 8, 16, 32, 64, 128]
tried = {extra: losses("held-out", extra) for extra in grid}
print("EXTRA ", *(f" n = {n}" for n in range(2, longest + 1)), f"  training n = {longest}")
for extra, row in tried.items():
    on_its_own = losses("training", extra)[-1]
    print(f"{extra:5} " + "".join(f"{loss:7.3f}" for loss in row[1:]) + f" {on_its_own:15.3f}")

choices = [(loss, extra, n) for extra, row in tried.items() for n, loss in enumerate(row, 1)]
_, EXTRA, best_n = min(choices)
print(f"the best on held-out training text: EXTRA = {EXTRA}, n = {best_n}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
colours = {4: "grey", 5: draw.WARM, 6: "#5b8db8", 7: draw.INK}
for n in range(min(4, longest), longest + 1):
    row = [tried[extra][n - 1] for extra in grid[1:]]
    line = ax.plot(grid[1:], row, "o-", color=colours.get(n, "black"))[0]
    ax.text(140, row[-1], f"n = {n}", color=line.get_color(), va="center", fontsize=12)
ax.plot(EXTRA, tried[EXTRA][best_n - 1], "o", ms=15, mfc="none", mec="black", mew=1.5)
ax.set_xscale("log", base=2)
ax.set_xticks(grid[1:], grid[1:])
ax.set(xlabel="EXTRA", ylabel="loss on held-out text (nats)", xlim=(0.9, 230))
if longest > 3:
    ax.set_ylim(1.5, 1.9)
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Two things to see. The last column of the table is the loss on text that was counted too. It only ever rises with
# EXTRA, so whoever chose by it would take EXTRA as small and n as large as possible: the end of the first row, which
# on other text is worse than guessing blindly. And the lines of the picture cross. With EXTRA = 4 the best n is 5, as
# above. But a longer context is worth having, if it is smoothed enough: at EXTRA = 32 n = 7 is best, and clearly
# better. Choosing n alone had given us the wrong n.

# %%
best_count = losses("validation", EXTRA)[best_n - 1]
print(f"held-out training text {tried[EXTRA][best_n - 1]:.3f}, validation text {best_count:.3f}")
print(f"with EXTRA = 4, n = 5 it would be {losses('validation', 4)[min(5, longest) - 1]:.3f}")
letters = losses("validation", EXTRA)[0]
print(f"single letters: held-out {tried[EXTRA][0]:.3f}, validation {letters:.3f}")

# %%
def by_counting(n):
    def next_probs(before):
        after = look_up(counts, [before[-longest:] + char for char in chars])  # (n, V), twice
        return probabilities(*after, EXTRA)[n - 1]

    return next_probs

# %%
for n in range(3, best_n + 1, 2):
    so_far[f"n = {n}, EXTRA {EXTRA}"] = (losses("validation", EXTRA)[n - 1], write(by_counting(n)))

# %% [markdown]
# Here the pieces are counted in the whole training text again. The choice made elsewhere gives 1.585 on the validation
# text, better by a tenth of a nat than what we had. It is not as good as on the held-out text. Did we fool ourselves
# after all? Look at the last line: single letters, for which nothing was chosen, cost more on the validation text as
# well. It is simply the harder of the two, and a loss compares models on the same text only. (The `full` budget tries
# pieces of up to 9 and gets a little further.)
#
# This is our **bar to beat**. Where later lessons draw losses and the picture has room for it, you will see a dashed
# line at this height, or at the bigram's 2.482, or at the 1.689 of the 5-gram that we had before we took care. A GPT
# that does not get below 1.585 has learned less than a table of counts. It is not an easy bar: nanoGPT's quick recipe
# for a CPU trains a GPT of 0.80M parameters, and `data/runs/nanogpt_cpu.log` is its log.

# %%
log = picogpt.read_nanogpt_log((picogpt.DATA / "runs" / "nanogpt_cpu.log").read_text())
ends = [row["val_loss"] for row in log if row["val_loss"]][-1]
print(f"nanoGPT's quick CPU recipe ends at {ends:.3f}, by its own estimate from random windows")
print(f"counting pieces of up to {best_n} characters: {best_count:.3f}")

# %%
five = losses("validation", 4)[min(5, longest) - 1]
ours = [round(loss, 3) for loss in (bigram, five, best_count)]
bars = list(picogpt.study.NGRAM_LOSSES.values())
assert longest != 7 or ours == bars, "later lessons draw these"

# %% [markdown]
# After a few minutes of training, nanoGPT's small GPT loses to counting by a wide margin (nanoGPT's own README says
# "only 1.88"). Lesson 09 trains a GPT for longer, by a better recipe. Nor is 1.585 the last word in counting. A
# better smoothing, interpolated **Kneser-Ney**, takes a little off every count, and counts a shorter piece by how
# many *different* characters stand before it. With its two settings chosen as above, on held-out training text
# (`benchmarks/ngrams.py`), it comes to 1.52 on the validation text.
#
# ## The models so far
#
# Some prefer to read a loss as a number of choices. The **perplexity** is exp(loss): a loss of ln 65 means as unsure
# as with 65 equally likely characters. Here is all that we have, with a line of text from each, and PicoGPT below for
# comparison.

# %%
sampled = picogpt.generate_text(shipped.model, corpus.tokenizer, "\n", pc.SampleConfig(60, seed=1))
models = so_far | {"PicoGPT": (shipped.about["val_loss"], sampled.strip().replace("\n", " / "))}
for name, (loss, line) in models.items():
    print(f"{name:15} {loss:.3f}  perplexity {math.exp(loss):4.1f}   {line}")

# %% [markdown]
# Letters; then pairs that can be spoken; then syllables; then words that hang together for a moment. What none of the
# tables has is a memory of more than six characters: they do not know who is speaking, or that *two* came two words
# before. What a GPT makes of a longer memory is the subject of the lessons to come.
#
# So where does PicoGPT gain over the table, and where do both fail? We return to the line of the game, and draw what
# they pay for every character of it. The dots are the bets from the top of this lesson.

# %%
start, length = 4115, 64
line = corpus.val[start - 100 : start + length]
# beside the dots, the machines have read 15 characters more than in the game
two, gpt = their_prices(line)[:, 99:]  # (2, T - 1) -> (64,) each
shown = picogpt.visible_characters(corpus.tokenizer.decode(line[100:]))
fig, axes = plt.subplots(2, 1, figsize=(7.4, 5), layout="constrained", sharey=True)
for ax, first in zip(axes, (0, 32)):
    span = range(first, first + 32)
    ax.bar(span, two[first : first + 32], color="lightgrey", label="bigram")
    ax.bar(span, gpt[first : first + 32], width=0.45, color=draw.INK, label="PicoGPT")
    ax.set_xticks(span, shown[first : first + 32], family="monospace", fontsize=12)
    ax.set_ylabel("surprise (nats)")
axes[0].plot(range(15, 32), [row[3] for row in game.rows], "o", color=draw.WARM, label="the bets")
axes[0].set_ylim(0, 7.6)
axes[0].legend(ncols=3, fontsize=10)
axes[0].set_title("Surprise at each character, validation text", fontsize=12)
plt.show()

# %% [markdown]
# Everybody is surprised where a word could go on in many ways, at the *w* of *two* and at the *g* of *together*. But
# once PicoGPT has *tog*, the rest costs it next to nothing, while the table pays for every letter. A mean loss hides
# this: many characters are nearly free, and a quarter of them makes up most of the sum.

# %%
where = "".join(corpus.tokenizer.decode(line[100:])).index("together")
rest, by_table = gpt[where + 3 : where + 8], two[where + 3 : where + 8]  # "ether"
top = gpt.sort(descending=True).values[:16].sum() / gpt.sum()
print(f"'ether' after 'tog': PicoGPT {rest.sum():.2f}, table {by_table.sum():.2f} nats")
print(f"the 16 most expensive of the 64 characters make {top:.0%} of what PicoGPT pays")

assert rest.sum() < 1 < gpt[where + 2], "the g is a surprise, the rest is not"
assert top > 0.5, "a quarter of the characters, most of the sum"

# %% [markdown]
# ## How sure is a loss?
#
# Many training scripts estimate the validation loss from a few random windows, to save time. nanoGPT's CPU settings
# take 20 batches of 12 windows of 64 characters. How far off can that be? We compute the loss on all windows of 64,
# side by side, then play the estimator a thousand times and look at the standard deviation of its answers, **σ**:
# about two thirds of them lie within one σ of the mean.

# %%
n = len(corpus.val[: picogpt.budget(smoke=20_000, quick=111_540, full=111_540)]) // 64
x, y = corpus.val[: n * 64].view(n, 64), corpus.val[1 : n * 64 + 1].view(n, 64)  # (n, T=64) each
with torch.no_grad():
    logits = torch.cat([shipped.model(piece) for piece in x.split(64)])  # (n, T, V)
surprises = {"unigram": -shares.log()[y], "bigram": -counted[x, y].log()}  # (n, T) each
by_n = -probabilities(*look_up(counts, endings(cut + 1, cut + n * 64 + 1)), EXTRA).log()
for size in sorted({min(5, longest), best_n}):  # they may look back beyond the window
    surprises[f"n = {size}"] = by_n[size - 1].view(n, 64)
surprises["PicoGPT"] = -logits.log_softmax(dim=2).gather(2, y[:, :, None])[:, :, 0]
per_window = {name: parts.double().mean(dim=1) for name, parts in surprises.items()}  # (n,) each

# %%
generator = torch.Generator().manual_seed(0)
picked = torch.randint(n, (1000, 240), generator=generator)  # a thousand times 20 x 12 windows
estimates = {name: windows[picked].mean(dim=1) for name, windows in per_window.items()}  # (1000,)
print(f"{n:,} windows, 240 of them drawn:           σ   if neighbours were independent")
for name, windows in per_window.items():
    alone = surprises[name].std() / math.sqrt(240 * 64)
    print(f"{name:8} loss on all windows {windows.mean():.3f}", end="")
    print(f"{estimates[name].std():12.3f} {alone:12.3f}")

# %% [markdown]
# Such an estimate is right on average, and off by about σ each time. It is the scatter of single windows, divided by
# √240, so four times as many windows would halve it. Read the column σ downwards. It seems to grow as the models get
# better, but the unigram, the worst of all, breaks the order. What decides is not how good a model is but how unevenly
# its cost is spread. The last column is what σ would be if neighbouring characters had nothing to do with one another.
# For all but the bigram the true σ is larger by about half or more, because expensive characters come in clusters. For
# the unigram these are the names of the speakers, in capitals; for PicoGPT names explain only a part of it.
#
# Now compare two models, each by an estimate. Nothing keeps us from giving both the *same* windows. Each dot below is
# such a pair of estimates.

# %%
two = [f"n = {min(5, longest)}", f"n = {best_n}"]
a, b = (estimates[name] for name in two)  # (1000,) each
fig, ax = plt.subplots(figsize=(4.8, 4.2), layout="constrained")
ax.plot(a, b, "o", ms=4, alpha=0.4, color=draw.INK)
ax.axline((1.6, 1.6), slope=1, color=draw.WARM, label="equally good")
ax.set(xlabel=f"{two[0]}: loss on 240 windows", ylabel=f"{two[1]}: the same windows")
ax.legend(fontsize=11)
plt.show()
print(f"difference {(a - b).mean():.3f}: with the same windows σ = {(a - b).std():.3f}", end=", ")
print(f"with windows of their own {(a - b.flip(0)).std():.3f}")

# %% [markdown]
# Windows that are hard for one model are hard for the other, and all dots lie below the line: n = 7 wins every time.
# The difference scatters seven times less than with windows of their own. This is called **pairing**, and the course
# compares models so wherever it can. A few more numbers:

# %%
best = estimates["PicoGPT"].view(50, 20).min(dim=1).values.mean()  # the best of twenty, fifty times
print(f"PicoGPT: the best of twenty estimates is {best:.3f} on average")
windows, by_position = per_window["PicoGPT"], surprises["PicoGPT"].mean(dim=0)  # (n,), (T=64,)
error = windows.std() / math.sqrt(n)
first = by_position[:16].mean()
print(f"all windows of 64: {windows.mean():.3f} ± {error:.3f}", end="; ")
print(f"their first 16 characters {first:.2f}; windows of 256: {shipped.about['val_loss']:.3f}")
paid = torch.tensor([row[3:] for row in game.rows])  # (17, 3)
for name, prices in zip(("you", "table", "PicoGPT"), paid.T):
    print(f"the game, {name}: {prices.mean():.2f} ± {prices.std() / math.sqrt(17):.2f}")

# %% [markdown]
# Whoever evaluates twenty times and quotes the lowest reports luck: nothing was trained in between. So `pc.evaluate`
# goes over the **whole** validation text, the same each time. Even that is a sample of Shakespeare, and the ± beside
# it is the *standard error*, the σ of a mean of so many windows (a little too small, as neighbouring windows are
# alike). And the window counts: each starts with an empty memory, its first characters cost more, and longer windows
# have fewer starts. So a table of losses should say which text, which windows, and how many. As for the game, over 17
# characters the standard error is so large that the means do not tell whether we or PicoGPT play better. (Besides, we
# knew the line.)
#
# ## Exercises
#
# ### 1. Write the bigram
#
# Write `bigram_of(train_ids, val_ids, V)`: count the pairs in `train_ids`, add 1 to every count, make probabilities,
# and return the loss on `val_ids`, in nats per character. Both are 1-D tensors of ids below V. Loops are fine.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def count_pairs(ids, V):
    zeros, one = torch.zeros(V, V), torch.tensor(1.0)
    return zeros.index_put((ids[:-1], ids[1:]), one, accumulate=True)


def bigram_table(counts):
    return counts / counts.sum(dim=1, keepdim=True)  # (V, V)


def wrong_tables(train_ids, val_ids, V):
    """Tables with one of the usual slips, each with its hint."""
    pairs = count_pairs(train_ids, V)
    added, seen = pairs + 1, pairs.sum(dim=1, keepdim=True)  # (V, V), (V, 1)
    yield "your rows do not sum to 1. Is there a keepdim=True?", added / added.sum(dim=1)
    yield "these are shares of columns: sum each row, dim=1", added / added.sum(dim=0)
    yield "pairs[x, y] += 1 counts repeats once: use a loop", bigram_table((pairs > 0) + 1.0)
    yield "add 1 to every count, not only to zeros", bigram_table(pairs.clamp(min=1))
    yield "an uncounted pair costs infinitely much. Add 1", pairs / seen
    yield "the + 1 belongs into the row sums too", added / seen
    yield "a row has V imagined counts: its sum grows by V, not by 1", added / (seen + 1)
    counted_there = bigram_table(count_pairs(val_ids, V) + 1)
    yield "these pairs were counted in the validation text", counted_there


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def bigram_answers(train_ids, val_ids, V):
    """The right answer, and the usual wrong ones, each with its hint."""
    x, y = val_ids[:-1], val_ids[1:]
    p = bigram_table(count_pairs(train_ids, V) + 1)
    loss = -p[x, y].log().mean()
    yield "that is the bigram model", loss
    yield "a surprise is positive. Mind the sign of the logarithm", -loss
    yield "this is the sum. The loss is the mean", loss * len(x)
    yield "the mean is over the pairs, one fewer than characters", loss * len(x) / len(val_ids)
    yield "these are bits. Take the natural logarithm", loss / math.log(2)
    yield "this is the perplexity, exp of the loss", loss.exp()
    yield "this is -ln of the mean p. First the logarithm, then the mean", -p[x, y].mean().log()
    yield "the row is the character before, the column the next", -p[y, x].log().mean()
    on_training = -p[train_ids[:-1], train_ids[1:]].log().mean()
    yield "this is the loss on the training text", on_training
    for words, table in wrong_tables(train_ids, val_ids, V):
        yield words, -table[x, y].log().mean()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, the rest (run this cell)
def check_bigram(yours):
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(5, generator=generator) + 0.3
    train_ids = torch.multinomial(weights, 60, replacement=True, generator=generator)  # (60,)
    val_ids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 3, 0, 2, 4, 1, 3, 1, 4, 0, 2])  # (20,)
    try:
        answer = yours(train_ids.clone(), val_ids.clone(), 5)
        number = math.nan if answer is None else float(answer)
    except Exception as error:
        print(f"not yet: it stopped, or gave no number: {type(error).__name__}: {error}")
        return
    answers = [(words, value.item()) for words, value in bigram_answers(train_ids, val_ids, 5)]
    (right, wanted), *wrong = answers
    hints = [words for words, value in wrong if abs(number - value) < 1e-4 or number == value]
    if abs(number - wanted) < 1e-4:
        print("✓", right)
    elif answer is None:
        print("not yet: it returned nothing")
    else:
        other = f"on a small text it gave {number:.4f}, wanted {wanted:.4f}"
        print("not yet:", hints[0] if hints else other)


# %% tags=["exercise"]
def bigram_of(train_ids, val_ids, V):
    ...  # your code


check_bigram(bigram_of)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def bigram_of(train_ids, val_ids, V):
    pairs = torch.ones(V, V)  # the + 1
    for before, after in pairwise(train_ids):
        pairs[before, after] += 1
    p = pairs / pairs.sum(dim=1, keepdim=True)  # (V, V)
    return -p[val_ids[:-1], val_ids[1:]].log().mean()


check_bigram(bigram_of)

# %% [markdown]
# ### 2. The trigram as a network
#
# A trigram looks at two characters. As a network it is a table with a row of logits for every *pair*: `weight` has
# the shape (V, V, V), the first two numbers for the two characters in their order, the last for the next one. Write
# `trigram_step(weight, ids, rate)`, one step of training on `ids` (B, T). Look up the logits for every character that
# has two before it, compute the mean loss and its gradient; then change `weight` in place, against the gradient and by
# `rate` times its length, and return the loss. If it is right, the check trains it for you, from zeros.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def trigram_answers(weight, ids):
    """The right loss, and the usual wrong ones, each with its hint."""
    a, b, after = ids[:, :-2], ids[:, 1:-1], ids[:, 2:]  # (B, T - 2) each

    def loss(logits, y=after):
        return pc.cross_entropy(logits, y)

    yield "", loss(weight[a, b])
    yield "the two characters have changed places: the first one comes first", loss(weight[b, a])
    yield "this looks at the second character only, twice", loss(weight[b, b])
    yield "this looks at the first character only, twice", loss(weight[a, a])
    yield "this looks at the second character only", loss(weight.mean(dim=0)[b])
    yield "this looks at the first character only", loss(weight.mean(dim=1)[a])
    yield "cross_entropy takes logits: leave the softmax to it", loss(weight[a, b].softmax(dim=-1))
    yield "guess the character after the two, not the second of them", loss(weight[a, b], b)
    yield "this is the sum. The loss is the mean", loss(weight[a, b]) * after.numel()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def train_trigram(step):
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(65, 65, 65, requires_grad=True)
    for _ in range(picogpt.budget(smoke=5, quick=300, full=1000)):
        x, y = pc.get_batch(corpus.train, 32, 256, generator)
        step(weight, torch.cat([x, y[:, -1:]], dim=1), 400)
    with torch.no_grad():
        return next(trigram_answers(weight, corpus.val[None]))[1].item()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued again (run this cell)
def fault_of_step(yours):
    """What is wrong with a step by 2.0 times the gradient, or None."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6, 6, generator=generator).requires_grad_()
    ids = torch.randint(6, (2, 9), generator=generator)  # (B=2, T=9)
    (_, loss), *wrong = trigram_answers(weight, ids)
    loss.backward()  # what an earlier step may have left behind
    old, grad, loss = weight.detach().clone(), weight.grad.clone(), loss.item()
    answer = yours(weight, ids.clone(), 2.0)
    number = math.nan if answer is None else float(torch.as_tensor(answer).detach())
    if not abs(number - loss) < 1e-4:
        hints = [words for words, value in wrong if abs(number - value.item()) < 1e-4]
        return (hints or [f"it returned {answer}, but the loss is {loss:.4f}"])[0]
    for words, times in (
        (None, -2),
        ("weight is as before: change it in place", 0),
        ("it goes uphill: subtract the gradient", 2),
        ("forget the last step's gradient first: they add up", -4),
        ("multiply the gradient by rate", -1),
    ):
        if torch.allclose(weight.detach() - old, times * grad, atol=1e-5):
            return words
    return "the loss is right, but weight moved to a wrong place"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, the rest (run this cell)
def check_trigram(yours):
    try:
        if fault := fault_of_step(yours):
            print("not yet:", fault)
        else:
            print(f"✓ trained from zeros by your steps, validation loss {train_trigram(yours):.2f}")
    except Exception as error:
        print(f"not yet: it stopped with {type(error).__name__}: {error}")


# %% tags=["exercise"]
def trigram_step(weight, ids, rate):
    ...  # your code


check_trigram(trigram_step)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def trigram_step(weight, ids, rate):
    logits = weight[ids[:, :-2], ids[:, 1:-1]]  # (B, T) -> (B, T - 2, V)
    loss = pc.cross_entropy(logits, ids[:, 2:])
    weight.grad = None
    loss.backward()
    weight.data -= rate * weight.grad
    return loss.item()


check_trigram(trigram_step)

# %% [markdown]
# ### 3. Mix long and short
#
# The core of this lesson, for one character. Write `mixed(counts, context, char, extra, V)`, the interpolated
# probability that `char` follows `context`: `counts` says how often each piece occurs, `counts[""]` is the length of
# the text, and below the shortest context, the empty one, all V characters are equally likely. The table for `blu` was
# made so.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def mixed_answers(counts, context, char, extra, V):
    """The right answer, and the usual wrong ones, each with its hint."""
    ends = [context[i:] for i in range(len(context), -1, -1)]  # "" first, the whole context last
    seen = next(end for end in reversed(ends) if counts[end + char])  # the longest with this char

    def climb(contexts, below=extra, shorter=None, p=1 / V):
        for piece in contexts:
            share = p if shorter is None else shorter
            p = (counts[piece + char] + extra * share) / (counts[piece] + below or math.nan)
        return p

    yield "that is interpolation", climb(ends)
    yield "divide by the context's count plus extra: the imagined ones count too", climb(ends, 0)
    yield "each context should pass down its own mixture, not 1 / V", climb(ends, shorter=1 / V)
    longest_alone = counts[seen + char] / counts[seen]
    yield "that is back-off: one context alone. Mix all of them", longest_alone
    yield "go from short to long: the whole context comes last", climb(ends[::-1])
    starts = [context[:i] for i in range(len(context) + 1)]
    yield "shorten from the left: what counts is the end of the context", climb(starts)
    yield "begin with the empty context, the single letters", climb(ends[1:])
    yield "below the empty context p is 1 / V, not 0", climb(ends, p=0)


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def check_mixed(yours):
    sample = "to be or not to be, that is the question"
    counts = Counter(sample[i : i + n] for n in range(1, 5) for i in range(len(sample) - n + 1))
    counts[""] = len(sample)
    try:
        for context, char in (("t ", "t"), ("ot ", "i"), ("qu t", "h"), ("", "e")):
            given = (context, char, 3, 20)
            (right, wanted), *wrong = mixed_answers(counts, *given)
            answer = yours(counts.copy(), *given)
            number = math.nan if answer is None else float(answer)
            if not abs(number - wanted) < 1e-6:
                hints = [words for words, p in wrong if abs(number - p) < 1e-6]
                got = f"{char!r} after {context!r}, extra 3, V 20: it gave {answer!r}"
                print("not yet:", *(hints[:1] or [f"{got}, wanted {wanted:.4f}"]))
                return
        print("✓", right)
    except Exception as error:
        print(f"not yet: it stopped with {type(error).__name__}: {error}")


# %% tags=["exercise"]
def mixed(counts, context, char, extra, V):
    ...  # your code


check_mixed(mixed)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def mixed(counts, context, char, extra, V):
    p = 1 / V
    for start in range(len(context), -1, -1):  # the empty context first
        piece = context[start:]
        p = (counts[piece + char] + extra * p) / (counts[piece] + extra)
    return p


check_mixed(mixed)

# %% [markdown]
# ### 4. Choose honestly
#
# A stretch. Write `choose_extra(sample, candidates, loss)`, which returns the best EXTRA among `candidates` for an
# interpolated 4-gram. You are given `sample`, some training text, and `loss(counted, scored, extra)`, which counts
# pieces in the text `counted` and returns the loss on the text `scored`. The check tries two samples, and watches what
# you count and what you score.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def four_gram_loss(counted, scored, extra):
    total, cache = 0.0, {}
    if not scored:
        return math.nan
    counts = [Counter(counted[i : i + n] for i in range(len(counted) - n + 1)) for n in range(5)]
    for i in range(len(scored)):
        end = scored[max(0, i - 3) : i + 1]
        if end not in cache:
            p = 1 / 65
            for n in range(1, len(end) + 1):
                before = counts[n - 1][end[-n:-1]] if n > 1 else len(counted)
                p = (counts[n][end[-n:]] + extra * p) / (before + extra)
            cache[end] = p
        total -= math.log(cache[end])
    return total / len(scored)


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def share_text(one, other):
    """Whether a stretch of `one`, tried at several places, occurs in `other`."""
    return any(one[i : i + 80] in other for i in range(0, max(1, len(one) - 80), 200))


def fault_of_texts(texts):
    """What is wrong with the pairs of a counted and a scored text, or None."""
    if not texts:
        return "it never asked for a loss. Which EXTRA is best must be measured"
    if any(not counted or not scored for counted, scored in texts):
        return "one of the two texts that you gave to loss is empty"
    if any(share_text(each, val) for both in texts for each in both):
        return "that is the validation text, which has no vote in a choice"
    if any(share_text(scored, counted) for counted, scored in texts):
        return "you scored text that was counted too, where the smallest EXTRA always wins"
    if any(len(scored) < 2000 for _, scored in texts):
        return "you chose on fewer than 2,000 characters, which leaves too much to luck"
    if any(len(counted) < len(scored) for counted, scored in texts):
        return "you count in the smaller part. Hold out a tenth, count in the rest"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, the rest (run this cell)
def verdict_on(yours, sample, candidates):
    """What is wrong with the choice for one sample, or None."""
    calls = {}

    def loss(counted, scored, extra):
        calls[counted, scored, extra] = four_gram_loss(counted, scored, extra)
        return calls[counted, scored, extra]

    answer = yours(sample, list(candidates), loss)
    if isinstance(answer, bool) or answer not in candidates:
        return f"it gave {answer!r}, wanted one of {candidates}"
    texts = {(counted, scored) for counted, scored, _ in calls}
    found = {extra: value for (_, _, extra), value in calls.items()}
    if fault := fault_of_texts(texts):
        return fault
    if len(texts) > 1 or set(found) != set(candidates):
        return "try every candidate, all on the same two texts"
    best = min(found, key=found.get)
    return None if answer == best else f"on your held-out text {best} was better than {answer}"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, its end (run this cell)
def check_choice(yours):
    order = torch.randperm(30_000, generator=torch.Generator().manual_seed(0)).tolist()
    samples = [train[:40_000], "".join(train[i] for i in order)]  # the second: letters in disorder
    try:
        for sample in samples:
            if fault := verdict_on(yours, sample, [0.1, 1, 10, 100, 1000]):
                print("not yet:", fault)
                return
        print("✓ both chosen on text that was not counted and is not reported on")
    except Exception as error:
        print(f"not yet: it stopped with {type(error).__name__}: {error}")


# %% tags=["exercise"]
def choose_extra(sample, candidates, loss):
    ...  # your code


check_choice(choose_extra)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def choose_extra(sample, candidates, loss):
    end = len(sample) - len(sample) // 10
    counted, held_out = sample[:end], sample[end:]
    return min(candidates, key=lambda extra: loss(counted, held_out, extra))


check_choice(choose_extra)

# %% [markdown]
# ### 5. The scatter of a difference
#
# `a` and `b` (n,) hold the losses of two models on the same n windows. We draw k of the windows at random, take both
# means over them, and subtract. Write `sigma_of_difference(a, b, k)`, the σ that this difference will have.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def sigma_answers(a, b, k):
    """The right answer, and the usual wrong ones, each with its hint."""
    difference, root = a - b, math.sqrt(k)
    yield "that is the paired σ", difference.std() / root
    own = (a.var() + b.var()).sqrt() / root
    yield "that is for windows of their own. Here both see the same: subtract first", own
    yield "subtract the losses, not their σ", (a.std() - b.std()).abs() / root
    yield "subtract the losses, do not add their σ", (a.std() + b.std()) / root
    yield "that is the σ of one window. The mean of k scatters less", difference.std()
    yield "divide by the square root of k", difference.std() / k
    yield "that is a variance. Take the root", difference.var() / k
    yield "the mean is over k windows, not over all n", difference.std() / math.sqrt(len(a))
    yield "that is the difference itself. How far does it scatter?", difference.mean()


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def check_sigma(yours):
    generator = torch.Generator().manual_seed(0)
    hard = 1.5 + 0.3 * torch.randn(900, generator=generator)  # (n,): what is hard for both
    a = hard + 0.06 * torch.randn(900, generator=generator)
    b = 1.1 * hard - 0.05 + 0.06 * torch.randn(900, generator=generator)
    try:
        answers = [(words, value.item()) for words, value in sigma_answers(a, b, 240)]
        (right, wanted), *wrong = answers
        answer = yours(a.clone(), b.clone(), 240)
        number = math.nan if answer is None else float(answer)
        hints = [words for words, value in wrong if abs(number - value) < 0.03 * abs(value)]
        other = f"it gave {answer!r}, wanted {wanted:.5f}"
        good = abs(number - wanted) < 0.08 * wanted  # so that an experiment passes too
        print(f"✓ {right}" if good else f"not yet: {(hints or [other])[0]}")
    except Exception as error:
        print(f"not yet: it stopped with {type(error).__name__}: {error}")


# %% tags=["exercise"]
def sigma_of_difference(a, b, k):
    ...  # your code


check_sigma(sigma_of_difference)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def sigma_of_difference(a, b, k):
    return (a - b).std() / math.sqrt(k)


check_sigma(sigma_of_difference)
predicted = sigma_of_difference(*(per_window[name] for name in two), 240)
print(f"{two[0]} against {two[1]}: predicted {predicted:.4f}, found above {(a - b).std():.4f}")

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. read a loss as what you pay for the next character on average: 4.17 is blind, 3.35 knows the letters, 2.48
#    knows pairs; exp of it is the perplexity,
# 2. count a bigram table, or learn it, and say why the two agree: a one-hot picks a row, and its gradient is what is
#    predicted minus what was counted,
# 3. recognise overfitting, and mix long contexts with short ones against it,
# 4. choose settings on text that you can spare, and hold every later model against 2.482, 1.689 and 1.585,
# 5. say how far a loss from 240 random windows is off, and why two models should be given the same ones.
#
# Three questions for a whiteboard: Draw the bigram model as a network for
# three characters, and show where the counts of *abac* go. Why can a training loss fall while the validation loss
# rises, and what did EXTRA have to do with it? Somebody reports 1.47 and somebody else 1.46: what do you ask them?
#
# <details><summary>Answers</summary>
#
# A one-hot (3,) times a matrix (3, 3) gives three logits, and the softmax three probabilities. *abac* has the pairs
# *ab*, *ba* and *ac*: row *a* holds a 1 in the columns *b* and *c*, row *b* a 1 in column *a*, and row *c* is empty. A
# model can learn by heart what followed in the training text, and other text goes on differently, above all after long
# contexts that were seen once. EXTRA says how little such a single sighting counts: a small one lowers the training
# loss, and, with n = 7, raises the other. Ask both: of which text, and per which token? Of all of it, or of random
# windows, how many, how long, and the same ones? (With 240 windows of 64, σ is 0.02.) And was anything chosen on that
# text?
# </details>
#
# Next: [lesson 03](03_causal_attention.ipynb) lets a model look at all that came before, and at nothing else.
#
# ## Sources
#
# - Surprise, and n-grams of English letters: Shannon 1948, [A Mathematical Theory of
#   Communication](https://people.math.harvard.edu/~ctm/home/text/others/shannon/entropy/entropy.pdf). The game:
#   Shannon 1951, *Prediction and Entropy of Printed English*, Bell System Technical Journal 30. With bets, as here,
#   and about 1.3 bits, or 0.9 nats, for people on an alphabet of 27: Cover and King 1978, [doi
#   10.1109/TIT.1978.1055912](https://doi.org/10.1109/TIT.1978.1055912).
# - The bigram model as a first network, one-hot vectors and the bug with `keepdim`: Karpathy, *The spelled-out
#   intro to language modeling: building makemore*,
#   [notebook](https://github.com/karpathy/nn-zero-to-hero/blob/master/lectures/makemore/makemore_part1_bigrams.ipynb).
# - Smoothing, interpolation and Kneser-Ney, with the field's words for them: Jurafsky and Martin, [Speech and Language
#   Processing](https://web.stanford.edu/~jurafsky/slp3/), chapter 3.
# - Imagined counts spread as a shorter context would: MacKay and Peto 1995, [A hierarchical Dirichlet language
#   model](https://doi.org/10.1017/S1351324900000218). Interpolation: Jelinek and Mercer 1980. Back-off, the other
#   way: Katz 1987.
# - nanoGPT's estimator: `eval_iters=20` and `batch_size=12` in its [README](https://github.com/karpathy/nanoGPT).
