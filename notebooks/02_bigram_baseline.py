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
# 1. play against PicoGPT at guessing the next character, and find out what your own loss is,
# 2. build the bigram model twice, by counting and by gradient descent, and see that the two agree,
# 3. let longer n-grams show what overfitting is, with no network at all, and repair it by mixing,
# 4. choose settings without fooling yourself, and end with a bar that every later GPT has to beat,
# 5. measure how far a loss from a few random windows can be off, for good models and bad ones.
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
from matplotlib.patches import Circle
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
# Here is a game already played. The line begins *And where two*, and the bets are written down in the cell: a
# character, and 2, 5, 8 or 9 for a confidence of 20, 50, 80 or 95 %. (They are ours, and we knew the line. Your own
# game, below, will be an honest one.)

# %%
SURE = {"2": 0.2, "5": 0.5, "8": 0.8, "9": 0.95}
bets = "h2 o2 c2 e5 n9 g9  8 s2 i5 r8 e9 s9  8 b2 e5 e9 t9"
game = Game(start=4130, length=17)
for i in range(17):
    game.bet(bets[3 * i], SURE[bets[3 * i + 1]])

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
# What you paid has a name. −ln p is the **surprise** at an outcome that had the probability p. Whoever had put
# everything on it pays nothing, and the smaller p was, the more it costs.

# %%
for p in (1, 0.95, 0.5, 0.2, 1 / 65, 0.001):
    print(f"p = {p:5.3f}   surprise {math.log(1 / p):.2f}")

# %% [markdown]
# Why a logarithm, and not simply 1 − p? Because we want to judge a whole text. The probability that a player gave to
# the whole line is the product of all the p, one for each character, and such a product is tiny. Its logarithm is a
# *sum*: the prices of the characters, added up. Divide by their number, and texts of any length can be compared.

# %%
p_of_gpt = [math.exp(-price) for *_, price in game.rows]  # what it gave to each character
product = math.prod(p_of_gpt)
print(f"PicoGPT gave the 17 characters together the probability {product:.1e}")
print(f"-ln of it, divided by 17: {-math.log(product) / 17:.2f}")

assert abs(-math.log(product) / 17 - game.means()[2]) < 1e-6, "the mean price from the table"

# %% [markdown]
# This mean surprise is the **loss** of a language model. Its unit is the **nat**, since we use the natural logarithm.
# It is also called *cross-entropy*, and maximum likelihood means nothing else than making it small: the text becomes
# as probable as the model can make it.
#
# The price has one property that you may have noticed while playing. Bragging does not pay, and neither does modesty:
# the least you can pay in the long run is by saying what you really believe. A player who is right half of the time
# and claims 95 % pays more than one who claims 50 %. And whoever claims 100 % and is wrong once pays infinitely much.
# A model must never say *never*.
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
    for _ in range(length):
        out += chars[torch.multinomial(next_probs(out), 1, generator=generator)]
    return out.strip().replace("\n", " / ")

# %%
shares = torch.tensor([share[char] for char in chars])  # (V,)
so_far = {"uniform": (uniform, write(lambda before: torch.ones(65)))}
so_far["unigram"] = (unigram, write(lambda before: shares))
for name, (loss, line) in so_far.items():
    print(f"{name:8} {loss:.3f}   {line}")

# %% [markdown]
# The rare characters are rare now, and here and there a space stands where a word might end. (A / is a line end.) You
# may have noticed the plus 1 in the counts. It stands for one imagined occurrence of each character. Without it, a
# character that never occurs in the training text would be given the probability 0, and the first time it comes the
# loss is infinite.
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
pairs.index_put_((corpus.train[:-1], corpus.train[1:]), torch.tensor(1.0), accumulate=True)
counted = (pairs + 1) / (pairs + 1).sum(dim=1, keepdim=True)  # (V, V), each row sums to 1

assert pairs.sum() == cut - 1, "each pair is counted once"
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
ax.set_title("How often each pair occurs: ten characters of 65", fontsize=12)
plt.show()

# %% [markdown]
# The numbers are counts, and the colour follows the probability within a row. The framed cell is `qu`: every one of
# the 563 *q* is followed by a *u*. Compare it with `th`, which is more than 36 times as frequent and yet paler, since
# a *t* has many other ways to go on. How well does the whole table predict, on the training text that was counted and
# on the validation text that was not?

# %%
def bigram_loss(ids):
    return -counted[ids[:-1], ids[1:]].log().mean().item()  # look up, then the mean

# %%
bigram = bigram_loss(corpus.val)
line = write(lambda before: counted[chars.index(before[-1])])
so_far["bigram"] = (bigram, line)
q, u = chars.index("q"), chars.index("u")
print(f"bigram: validation {bigram:.3f}, training {bigram_loss(corpus.train):.3f}")
print(line)
print(f"after q comes u: {counted[q, u]:.2f}")

assert bigram < unigram < uniform, "who knows more is less surprised"

# %% [markdown]
# From 3.347 to 2.482, and the line can nearly be pronounced. The two losses are close together, since 4,225 numbers
# counted from a million characters have little room to learn anything by heart. One number may surprise you. All 563
# *q* were followed by *u*, and the model says 0.90: the row has only 563 real pairs, and the 65 imagined ones, 64 of
# them for something else than *u*, take their share.
#
# ### A slip that the loss does not show
#
# Look at `keepdim=True` in the division. It keeps the row sums as a column, (65, 1). Without it they become (65,),
# which PyTorch lines up with the *columns*, and every column is divided by the sum of a row. Nothing crashes.
#
# <details><summary>Before you run it: will the loss go up, go down, or stay?</summary>
#
# Most people say up. It stays, to the last digit we print. A running text enters every character as often as it
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
# loss means nothing unless they do. (The slip is known from Karpathy's lecture, in the sources.)
#
# ## The same table, learned
#
# Now without counting. A network has to turn a character into 65 scores for the next one. How does a character get
# into a network? The textbook's answer is a **one-hot** vector: as long as the vocabulary, all zeros, with a single 1
# at the place of the character. Multiply it by a matrix and see what comes out. We take the small table from above.

# %%
o = F.one_hot(torch.tensor(few.index("o")), num_classes=7).float()  # (7,)
product = o @ small_counts  # (7,) @ (7, 7) -> (7,)
print("one-hot of 'o'   ", o.int().tolist())
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
# of logits as the logarithms of counts. We start with zeros everywhere and go down the gradient of the loss.

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
    loss = pc.cross_entropy(logits, y)  # the mean surprise at y, as defined above
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(loss.item())

by_hand = -logits.softmax(dim=2).gather(2, y[:, :, None]).log().mean()  # softmax, p of y, -ln, mean
print(f"the last batch: cross_entropy {curve[-1]:.4f}, by hand {by_hand:.4f}")

# %%
with torch.no_grad():
    learned_loss = pc.cross_entropy(network(corpus.val[None, :-1]), corpus.val[None, 1:]).item()
print(f"the first loss is {curve[0]:.3f}: uniform")
print(f"validation loss: learned {learned_loss:.3f}, counted {bigram:.3f}")

assert abs(by_hand.item() - curve[-1]) < 1e-5, "cross_entropy is softmax, -ln and mean"
assert abs(curve[0] - uniform) < 1e-4, "zeros everywhere: it guesses blindly"
assert abs(learned_loss - bigram) < 0.02 or steps < 100, "counting and learning should agree"

# %%
learned = network.weight.detach().softmax(dim=1)  # (V, V)
ticks = [chars.index(char) for char in " AIQUaehnquz"]
fig, axes = plt.subplots(1, 2, figsize=(7.4, 4.1), layout="constrained", sharey=True)
for ax, probs, title in ((axes[0], counted, "counted"), (axes[1], learned, "learned")):
    image = ax.imshow(probs.sqrt(), cmap="Oranges", vmin=0, vmax=1)
    ax.add_patch(Circle((u, q), 2.4, fill=False, ec=draw.INK, lw=2))
    ax.set_title(title, fontsize=12)
    ax.set_xlabel("next character")
    names = picogpt.visible_characters("".join(chars[i] for i in ticks))
    ax.set_xticks(ticks, names, fontsize=10, family="monospace")
    ax.set_yticks(ticks, names, fontsize=10, family="monospace")
axes[0].set_ylabel("character before")
bar = fig.colorbar(image, ax=axes, label="probability", shrink=0.8)
bar.set_ticks([0, 0.1**0.5, 0.5**0.5, 1])
bar.ax.set_yticklabels(["0", "0.1", "0.5", "1"])
plt.show()

# %% [markdown]
# The same picture twice, with `qu` in the ring. You can even see how the alphabet is built: lower-case letters follow
# lower-case letters (the block at the lower right), capitals follow capitals (the names of speakers, in the middle),
# and the column at the left edge is the space, which may follow nearly everything.
#
# Where do the two differ? In rows that hardly occur, like those of `$` and `&`. There the counted table shows a pale
# stripe, the imagined pairs, and the learned one does not have them. (What it makes of the three `&` depends on which
# of them its random batches held, and how often.)

# %%
for char in "qQ&":
    i = chars.index(char)
    j = int(pairs[i].argmax())
    seen, times = int(pairs[i].sum()), int(pairs[i, j])
    print(f"{char!r} seen {seen} times, {times} times before {chars[j]!r}", end=": ")
    print(f"counted {counted[i, j]:.2f}, without the + 1 {times / seen:.2f}", end=", ")
    print(f"learned {learned[i, j]:.2f}")

# %% [markdown]
# That both ways agree is no accident. Of all tables, the one with the counted shares, without the + 1, has the lowest
# loss on the training text, and gradient descent goes where the loss is lowest. So **training a network with this
# loss is counting by other means**. Imagined counts have their counterpart too: whatever pulls the logits towards
# zero, weight decay for instance, makes the rows more even, just as they do. What the network will give us, later, is
# a way to do this for contexts that are too long to be counted.
#
# ## Why not count longer pieces?
#
# How long is too long? If two characters are better than one, let us take seven. A model that looks at the last n − 1
# characters is an **n-gram** model; with n = 2 it is the bigram, with n = 3 people say *trigram*. We count all pieces
# of up to 7 characters. To keep what follows short, one function looks up a list of *endings*, each of them some text
# and the character that came next.

# %%
longest = picogpt.budget(smoke=3, quick=7, full=9)


def count_pieces(sample):
    counts = {0: Counter({"": len(sample)})}
    for n in range(1, longest + 1):
        counts[n] = Counter(sample[i : i + n] for i in range(len(sample) - n + 1))
    return counts


def look_up(counts, endings):
    """Counts of the last n characters of each ending, and without the very last. (n, N) each"""
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
# was hardly ever seen, or not at all? As before, we imagine a few counts. Let us call their number EXTRA. The
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
    for where, style, color in (("training", "s--", draw.WARM), ("validation", "o-", draw.INK)):
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
# Look at the left picture first. Both losses fall together, as long as the pieces are short. At n = 5 they part: the
# training loss falls a little further, the validation loss turns and rises. Long pieces of the training text hardly
# occur anywhere else, so knowing them does not help with another text, and the evenly spread EXTRA is all that is
# left there. That is **overfitting**, and no network was needed.
#
# But why does the dashed line come to rest near 1.3? Should a model that has seen every piece of this text not know
# it by heart, and reach 0? One number explains it.

# %%
once = (1 + 4 / 65) / (1 + 4)  # a context seen once, and what followed it then: plain, EXTRA = 4
print(f"it gets p = {once:.2f}, surprise {-math.log(once):.2f}")
pieces, contexts = found["training"]
modest, sure = (losses("training", extra, interpolate=False) for extra in (4, 0.001))
for n in range(4, longest + 1):
    rare = (contexts[n - 1] <= 4).float().mean()
    print(f"n = {n}: {rare:3.0%} of the contexts were seen 4 times at most", end=", ")
    print(f"training loss {modest[n - 1]:.3f}, with hardly any EXTRA {sure[n - 1]:.3f}")

# %% [markdown]
# A context that occurs a single time in the training text has one real count, and four imagined ones beside it. So
# even on its own text, the model pays 1.55 nats for the only continuation that it has ever seen. The longer the
# pieces, the more of their contexts are so rare that the imagined counts outvote the real ones, and the training loss
# is held up by a modesty that we built in. The last column takes it out. With hardly any EXTRA the training loss
# keeps falling, and the model does come to know its text by heart.
#
# The lesson is one for the whole course: where a text is read many times, or counted as here, *a training loss says
# nothing about how well a model does on another text*. (The largest models read nearly everything once. To them each
# batch is new when it comes, and their training loss is as good as a validation loss.)
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
# end, what we have got.

# %%
held = cut - cut // 10  # the last tenth of the training text begins here
nine_tenths = count_pieces(text[:held])
found["held-out"] = look_up(nine_tenths, endings(held, min(held + size, cut)))
grid = [1, 2, 4, 8, 16, 32, 64, 128]
tried = {extra: losses("held-out", extra) for extra in grid}
print("EXTRA " + "".join(f"  n = {n}" for n in range(2, longest + 1)))
for extra, row in tried.items():
    print(f"{extra:5} " + "".join(f"{loss:7.3f}" for loss in row[1:]))

choices = [(loss, extra, n) for extra, row in tried.items() for n, loss in enumerate(row, 1)]
_, EXTRA, best_n = min(choices)
print(f"the best on held-out training text: EXTRA = {EXTRA}, n = {best_n}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for n in range(3, longest + 1):
    shade = plt.get_cmap("Blues")(0.12 * n + 0.05)
    ax.plot(grid, [tried[extra][n - 1] for extra in grid], "o-", color=shade, label=f"n = {n}")
on_its_own = [losses("training", extra)[best_n - 1] for extra in grid]
ax.plot(grid, on_its_own, "--", color=draw.WARM, label=f"n = {best_n}, training")
ax.plot(EXTRA, tried[EXTRA][best_n - 1], "o", ms=15, mfc="none", mec="black", mew=1.5)
ax.set_xscale("log", base=2)
ax.set_xticks(grid, grid)
ax.set(xlabel="EXTRA", ylabel="loss (nats per character)", ylim=(0.7, 2.2))
ax.legend(fontsize=10, ncols=2)
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Two things to see. The dashed line is the loss on text that was counted too: it only ever rises with EXTRA, so
# whoever chose by it would take EXTRA as small as possible and n as large as possible, the worst corner of all. And
# the solid lines show how the two choices depend on each other. With EXTRA = 4 the best n is 5, as above. But a
# longer context is worth having, if only one is modest enough about it: with 32 imagined counts n = 7 is best, and
# clearly better. Choosing n alone, at an EXTRA out of thin air, had given us the wrong n.

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


for n in range(3, best_n + 1, 2):
    so_far[f"n = {n}"] = (losses("validation", EXTRA)[n - 1], write(by_counting(n)))

# %% [markdown]
# On the validation text, the choice made elsewhere gives 1.585, better by a tenth of a nat than what we had. It is
# not as good as on the held-out text. Did we fool ourselves after all? Look at the last line: single letters, for
# which nothing was chosen, cost more on the validation text as well. It is simply the harder of the two, and a loss
# compares models on the same text only. (The `full` budget tries pieces of up to 9 and gets a little further.)
#
# This is our **bar to beat**, and you will see it as a dashed line wherever this course compares losses, together
# with the bigram's 2.482 and the 1.689 of the 5-gram that we had before we took care. A GPT that does not get below
# it has learned less than a table of counts. It is not an easy one. nanoGPT's recipe for a laptop trains a GPT of
# 0.80M parameters, and `data/runs/nanogpt_cpu.log` is its log.

# %%
log = picogpt.read_nanogpt_log((picogpt.DATA / "runs" / "nanogpt_cpu.log").read_text())
ends = [row["val_loss"] for row in log if row["val_loss"]][-1]
print(f"nanoGPT's small recipe ends at {ends:.3f}, by its own estimate from random windows")
print(f"counting pieces of up to {best_n} characters: {best_count:.3f}")

bars = picogpt.study.NGRAM_LOSSES.values()  # what later lessons draw
five = losses("validation", 4)[min(5, longest) - 1]
ours = [round(loss, 3) for loss in (bigram, five, best_count)]
assert longest != 7 or ours == list(bars), "they draw these"

# %% [markdown]
# A GPT, trained by a respected recipe, loses to counting by a wide margin. It needs more training than that to be
# worth its trouble, and in lesson 09 it gets it.
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
    print(f"{name:8} {loss:.3f}  perplexity {math.exp(loss):4.1f}   {line}")

# %% [markdown]
# Letters; then pairs that can be spoken; then syllables; then words that hang together for a moment. What none of the
# tables has is a memory of more than six characters: they do not know who is speaking, or that *two* came two words
# before. What a GPT makes of a longer memory is the subject of the lessons to come.
#
# So where does PicoGPT gain, and where does nobody? We return to the line of the game, and draw what the table of
# pairs and PicoGPT pay for every character of it. The dots are the bets from the top of this lesson.

# %%
start, length = 4115, 64
line = corpus.val[start - 100 : start + length]
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
# this: many characters are nearly free, and a quarter of them makes up most of the bill.

# %%
where = "".join(corpus.tokenizer.decode(line[100:])).index("together")
rest, by_table = gpt[where + 3 : where + 8], two[where + 3 : where + 8]  # "ether"
dear = gpt.sort(descending=True).values[:16].sum() / gpt.sum()
print(f"'ether' after 'tog': PicoGPT {rest.sum():.2f}, table {by_table.sum():.2f} nats")
print(f"the 16 dearest of the 64 characters make {dear:.0%} of PicoGPT's bill")

assert rest.sum() < 1 < gpt[where + 2], "the g is a surprise, the rest is not"
assert dear > 0.5, "most of the bill"

# %% [markdown]
# ## How sure is a loss?
#
# Many training scripts estimate the validation loss from a few random windows, to save time. nanoGPT's settings for a
# laptop take 20 batches of 12 windows of 64 characters. How far off can such an estimate be? We can find out, since
# we can afford the truth: we compute the loss on *every* window of 64 in the validation text, for eight models. Then
# we play the estimator a thousand times, and see how its answers scatter.

# %%
n = len(corpus.val[: picogpt.budget(smoke=20_000, quick=111_540, full=111_540)]) // 64
x, y = corpus.val[: n * 64].view(n, 64), corpus.val[1 : n * 64 + 1].view(n, 64)  # (n, T=64) each
with torch.no_grad():
    logits = torch.cat([shipped.model(piece) for piece in x.split(64)])  # (n, T, V)
surprises = {"unigram": -shares.log()[y], "bigram": -counted[x, y].log()}  # (n, T) each
looked_up = look_up(counts, endings(cut + 1, cut + n * 64 + 1))  # (n-grams, n · T), twice
by_n = -probabilities(*looked_up, EXTRA).log()  # (n-grams, n · T)
for k in sorted({min(k, longest) for k in (3, 4, 5, best_n)}):
    surprises[f"n = {k}"] = by_n[k - 1].view(n, 64)
surprises[f"n = {k}, EXTRA 4"] = -probabilities(*looked_up, 4).log()[k - 1].view(n, 64)
surprises["PicoGPT"] = -logits.log_softmax(dim=2).gather(2, y[:, :, None])[:, :, 0]
per_window = {name: parts.mean(dim=1) for name, parts in surprises.items()}  # (n,) each

# %%
generator = torch.Generator().manual_seed(0)
picked = torch.randint(n, (1000, 240), generator=generator)  # a thousand times 20 x 12 windows
scatter = {}
for name, windows in per_window.items():
    estimates = windows[picked].mean(dim=1)  # (1000, 240) -> (1000,)
    scatter[name] = estimates.std().item()  # σ, the standard deviation
    law = windows.std().item() / math.sqrt(240)
    print(f"{name:14} all {n:,} windows {windows.mean():.3f}", end="   ")
    print(f"240 windows scatter by σ = {scatter[name]:.4f}, predicted {law:.4f}")
    off = abs(estimates.mean() - windows.mean())
    assert off < 4 * scatter[name] / 1000**0.5, "right on average"

# %% [markdown]
# (The n-grams may look back beyond the beginning of a window. PicoGPT starts every window with an empty memory.)
#
# Such an estimate is right on average, and off by about σ each time, sometimes by two or three. The last column says
# where σ comes from: it is the scatter of single *windows*, divided by √240. A mean of many scatters less, but only
# with the root of how many.
#
# <details><summary>Before you look at the picture: do better models have a larger scatter, or a smaller one?</summary>
#
# Neither. There is no such law. (An earlier version of this lesson claimed one, read off two models.)
# </details>

# %%
fig, ax = plt.subplots(figsize=(7, 3.3), layout="constrained")
for name, windows in per_window.items():
    side, gap, color = ("left", 9, draw.INK) if name != "PicoGPT" else ("right", -9, draw.WARM)
    ax.plot(windows.mean(), scatter[name], "o", ms=8, color=color)
    words = dict(xytext=(gap, 0), textcoords="offset points", ha=side, va="center")
    ax.annotate(name, (windows.mean(), scatter[name]), **words)
ax.set(xlim=(1.1, 3.8), ylim=(0, 0.035))
ax.set(xlabel="loss on all windows (nats per character)", ylabel="σ of an estimate")
ax.set_title("Scatter of a loss from 240 windows", fontsize=12)
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# If you look at a few points only, you can believe in any law. From the bigram leftwards the scatter grows, as if it
# were the price of being good. But the unigram is worse than the bigram and scatters more, and the point at the very
# top is an n-gram that loses against several of those below it. What sets it apart? It is the same table as n = 7,
# only mixed with 4 imagined counts in place of 32, so it is much surer of itself. Let us see what that does to single
# characters.

# %%
for name in list(surprises)[-3:]:
    cheap, dear = ((surprises[name] < 0.1).double().mean(), (surprises[name] > 5).double().mean())
    print(f"{name:14} {cheap:.0%} of the characters cost less than 0.1, {dear:.1%} more than 5")

# %% [markdown]
# With 4 imagined counts, more characters are nearly free, and twice as many are a disaster. A window that happens to
# hold several disasters has a very large loss, and whether the 240 drawn contain such windows is a matter of luck. So
# what makes an estimate uncertain is how unevenly the cost is spread over the windows. That has little to do with how
# good a model is on the whole, and you have to measure it for each, as we did.
#
# Here are the thousand answers for PicoGPT.

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
estimates = per_window["PicoGPT"][picked].mean(dim=1)  # (1000,)
label = "1,000 estimates, each from 240 windows"
ax.hist(estimates, bins=40, color=draw.PALE, ec=draw.INK, label=label)
ax.axvline(per_window["PicoGPT"].mean(), color=draw.WARM, lw=2, label="all windows")
ax.set(xlabel="loss (nats per character)", ylabel="number of estimates", ylim=(0, 115))
ax.set_title("PicoGPT: one model, one text, a thousand validation losses", fontsize=12)
ax.legend(fontsize=10)
plt.show()

# %%
bench = picogpt.load_rows(picogpt.DATA / "runs" / "bench_time_to_loss.csv")
theirs = [row["estimate_scatter"] for row in bench if row["what"].startswith("nanoGPT")]
print(f"nanoGPT's recipe, replayed with three seeds (stored): σ = {sum(theirs) / len(theirs):.3f}")
lucky = estimates.view(50, 20).min(dim=1).values.mean()  # the best of twenty, fifty times
print(f"PicoGPT: all windows {per_window['PicoGPT'].mean():.3f}", end=", ")
print(f"the best of twenty estimates {lucky:.3f} on average")

# %% [markdown]
# One model, and a choice of validation losses. Two models whose true losses differ by 0.01 can come out in either
# order. And whoever evaluates twenty times during a training and quotes the lowest reports luck, as the last line
# shows: nothing was trained between those twenty. So `pc.evaluate` goes over the **whole** validation text, the same
# each time, and every loss in this course is measured like that unless it says otherwise.
#
# One more thing changes the number, and that is the window. With windows of 64, every sixty-fourth character has to
# be guessed from a single one. With windows of 256 there are fewer such starts, and the same model does better:

# %%
loss_64 = per_window["PicoGPT"].mean()
print(f"windows of 64: {loss_64:.3f}, windows of 256: {shipped.about['val_loss']:.3f}")

# %% [markdown]
# So a table of losses should say which text, which windows, and all of it or how many.
#
# ## Exercises
#
# ### 1. Write the bigram
#
# Write `bigram_of(train_ids, val_ids, V)`: count the pairs in `train_ids`, add 1 to every count, make probabilities,
# and return the loss on `val_ids`, in nats per character. Both are 1-D tensors of ids below V. Loops are fine.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def bigram_answers(train_ids, val_ids, V):
    """The right answer, and the usual wrong ones, each with its hint."""

    def count(ids):
        zeros, one = torch.zeros(V, V), torch.tensor(1.0)
        return zeros.index_put((ids[:-1], ids[1:]), one, accumulate=True)

    def loss(p, x=val_ids[:-1], y=val_ids[1:]):
        return -p[x, y].log().mean()

    pairs, others = count(train_ids), count(val_ids) + 1
    rows, seen = (pairs + 1).sum(dim=1, keepdim=True), pairs.sum(dim=1, keepdim=True)  # (V, 1)
    p = (pairs + 1) / rows  # (V, V)
    yield "that is the bigram model", loss(p)
    yield "a surprise is positive. Mind the sign of the logarithm", -loss(p)
    yield "this is the sum. The loss is the mean", loss(p) * (len(val_ids) - 1)
    yield "these are bits. Take the natural logarithm", loss(p) / math.log(2)
    yield "this is the perplexity, exp of the loss", loss(p).exp()
    yield "your rows do not sum to 1. Is there a keepdim=True?", loss((pairs + 1) / rows.T)
    yield "the row is the character before, the column the next", loss(p.T)
    yield "an uncounted pair costs infinitely much. Add 1", loss(pairs / seen)
    yield "the + 1 belongs into the row sums too", loss((pairs + 1) / seen)
    yield "this is the loss on the training text", loss(p, train_ids[:-1], train_ids[1:])
    yield "these pairs were counted in the validation text", loss(others / others.sum(1, True))


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
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
# `trigram_logits(weight, ids)`: for `ids` (B, T) return logits (B, T − 1, V), whose row *t* says what follows the
# characters *t* and *t* + 1. If it is right, the check trains it for you, from zeros, as we trained the bigram.
#
# <details><summary>Two one-hot vectors side by side have only 130 numbers. Would a matrix (130, 65) not do, in place of
# 4,225 rows?</summary>
#
# It would add two rows, one for each character, and what one of them says could not depend on the other. Such a model
# can say "rather an *h* after *t*" and "rather an *e* two after *t*", but nothing about `th` in particular. The check
# trains that one too, for comparison.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def train_trigram(weights, logits_of):
    """Train from zeros on the training text; return the validation loss."""
    steps = picogpt.budget(smoke=5, quick=150, full=500)
    optimizer, generator = torch.optim.Adam(weights, lr=0.3), torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)
        x, y = pc.get_batch(corpus.train, 32, 256, generator)
        loss = pc.cross_entropy(logits_of(x), y[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return pc.cross_entropy(logits_of(corpus.val[None, :-1]), corpus.val[None, 2:]).item()


def report_trigram(yours):
    pairs = torch.zeros(65, 65, 65, requires_grad=True)
    first, second = (torch.zeros(65, 65, requires_grad=True) for _ in range(2))
    print("✓ trained from zeros, validation loss:", end=" ")
    print(f"a row for each pair {train_trigram([pairs], lambda x: yours(pairs, x)):.2f}", end=", ")
    two_rows = train_trigram([first, second], lambda x: first[x[:, :-1]] + second[x[:, 1:]])
    print(f"a row for each character, added {two_rows:.2f}")


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, continued (run this cell)
def check_trigram(yours):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6, 6, generator=generator)
    ids = torch.randint(6, (2, 8), generator=generator)  # (B=2, T=8)
    a, b = ids[:, :-1], ids[:, 1:]
    wrong = {
        "not yet: the two characters have changed places: the first one comes first": weight[b, a],
        "not yet: this looks at one character only": weight.mean(dim=0)[b],
        "not yet: this looks at one character, twice": weight[b, b],
    }
    try:
        answer = yours(weight.clone(), ids.clone())
        if not isinstance(answer, torch.Tensor) or answer.shape != (2, 7, 6):
            got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else answer
            print(f"not yet: for ids (2, 8) and V = 6 it gave {got}, wanted a tensor (2, 7, 6)")
        elif torch.allclose(answer, weight[a, b]):
            report_trigram(yours)
        else:
            hints = [words for words, logits in wrong.items() if torch.allclose(answer, logits)]
            print(*(hints or ["not yet: row 0 should be weight[ids[:, 0], ids[:, 1]]"]))
    except Exception as error:
        print(f"not yet: it stopped with {type(error).__name__}: {error}")


# %% tags=["exercise"]
def trigram_logits(weight, ids):
    ...  # your code


check_trigram(trigram_logits)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def trigram_logits(weight, ids):
    return weight[ids[:, :-1], ids[:, 1:]]  # (B, T) -> (B, T - 1, V)


check_trigram(trigram_logits)

# %% [markdown]
# ### 3. Choose honestly
#
# A stretch. Write `choose_extra(sample, candidates, loss)`, which returns the best EXTRA among `candidates` for an
# interpolated 4-gram. You are given `sample`, some training text, and `loss(counted, scored, extra)`, which counts
# pieces in the text `counted` and returns the loss on the text `scored`. The check watches what you count and what
# you score.

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
def verdict_on(answer, candidates, calls):
    """What is to be said of a choice, from the losses that were asked for."""
    texts = {(counted, scored) for counted, scored, _ in calls}
    found = {extra: value for (_, _, extra), value in calls.items()}
    if not isinstance(answer, int | float) or answer not in candidates:
        return f"not yet: it gave {answer!r}, wanted one of {candidates}"
    if not texts:
        return "not yet: it never asked for a loss. Which EXTRA is best must be measured"
    if not all(counted and scored for counted, scored in texts):
        return "not yet: one of the two texts that you gave to loss is empty"
    if any(scored[:500] in val for _, scored in texts):
        return "not yet: that is the validation text, which has no vote in a choice"
    if any(scored[:500] in counted or counted[:500] in scored for counted, scored in texts):
        return "not yet: you scored text that was counted too, where the smallest EXTRA always wins"
    if len(texts) > 1 or set(found) != set(candidates):
        return "not yet: try every candidate, all on the same two texts"
    if any(len(counted) < len(scored) for counted, scored in texts):
        return "not yet: you count in the smaller part. Hold out a tenth, count in the rest"
    best = min(found, key=found.get)
    if answer != best:
        return f"not yet: on your held-out text {best} was better than {answer}"
    return f"✓ {answer}, chosen on text that was not counted and is not reported on"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, the rest (run this cell)
def check_choice(yours):
    candidates, calls = [0.1, 1, 10, 100, 1000], {}

    def loss(counted, scored, extra):
        calls[counted, scored, extra] = four_gram_loss(counted, scored, extra)
        return calls[counted, scored, extra]

    try:
        answer = yours(train[:40_000], list(candidates), loss)
        print(verdict_on(answer, candidates, calls))
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
# ### 4. How many windows?
#
# The scatter of a mean shrinks with the square root of how many numbers it is a mean of. Take PicoGPT's σ for 240
# windows from above. How many windows would an estimate need for σ = 0.001? (The validation text has 1,742 windows of
# 64.)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_windows(windows):
    """σ is about 0.02: anything between 0.018 and 0.027 counts as read off correctly."""
    if isinstance(windows, bool) or not isinstance(windows, int | float):
        print("not yet: put a number in place of the three dots")
    elif 240 * 18**2 <= windows <= 240 * 27**2:
        times = windows / 1742
        print(f"✓ {times:.0f} times the whole validation text: measuring all of it is cheaper")
    elif 240 * 18 <= windows <= 240 * 27:
        print("not yet: the square root. 4 times the windows halve the scatter")
    elif 18**2 <= windows <= 27**2:
        print("not yet: that is how many times as many. Times 240")
    else:
        print(f"not yet: {windows:,} windows. How many times smaller must σ become? Square that")


# %% tags=["exercise"]
windows = ...  # a number

check_windows(windows)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
check_windows(round(240 * (scatter["PicoGPT"] / 0.001) ** 2))

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. read a loss as what you pay for the next character on average: 4.17 is blind, 3.35 knows the letters, 2.48
#    knows pairs; exp of it is the perplexity,
# 2. count a bigram table, or learn it, and say why the two must agree: a one-hot picks a row, and the loss is
#    lowest at the counted shares,
# 3. recognise overfitting, and mix long contexts with short ones against it,
# 4. choose settings on text that you can spare, and hold every later model against 2.482, 1.689 and 1.585,
# 5. say how far a loss from 240 random windows is off, and that no law ties this to how good the model is.
#
# Three questions for a whiteboard, each answered with chalk and without notes: Draw the bigram model as a network for
# three characters, and show where the counts of *abac* go. Why can a training loss fall while the validation loss
# rises, and what did EXTRA have to do with it? Somebody reports 1.47 and somebody else 1.46: what do you ask them?
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
# - The bigram model as a first network, one-hot vectors and the slip with `keepdim`: Karpathy, *The spelled-out
#   intro to language modeling: building makemore*,
#   [notebook](https://github.com/karpathy/nn-zero-to-hero/blob/master/lectures/makemore/makemore_part1_bigrams.ipynb).
# - Imagined counts spread as a shorter context would: MacKay and Peto 1995, [A hierarchical Dirichlet language
#   model](https://doi.org/10.1017/S1351324900000218). Interpolation: Jelinek and Mercer 1980. Back-off, the other
#   way: Katz 1987.
# - nanoGPT's estimator: `eval_iters=20` and `batch_size=12` in its [README](https://github.com/karpathy/nanoGPT).
