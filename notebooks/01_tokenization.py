# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Tokenization
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/01_tokenization.ipynb)
#
# **You will**
# 1. turn text into numbers and back, with 65 characters, with 256 bytes, and with pairs that are learned (BPE),
# 2. see what the characters tell about a text, before any model does,
# 3. compare models with different tokens fairly: bits per byte,
# 4. split a text so that the test cannot be won by remembering,
# 5. draw a training batch, and see why the targets are the inputs moved by one.
#
# **You need** Python. Lesson 00 shows where this leads.
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
import itertools
import json
import math
from collections import Counter

import matplotlib.pyplot as plt
import torch

import picogpt
import picogpt_core as pc

text = picogpt.load_shakespeare()

# %% [markdown]
# ## Which characters are there?
#
# A model computes with numbers, and a text has none. The simplest way: give each different character a number, its
# **id**. So first we look which characters occur, and how often.

# %%
count = Counter(text)
chars = sorted(count)
print(f"{len(text):,} characters, {len(chars)} different ones:")
print(repr("".join(chars)))

# %%
common = count.most_common()
names = picogpt.visible_characters(char for char, _ in common)
fig, ax = plt.subplots(figsize=(10, 3), layout="constrained")
ax.bar(range(65), [n for _, n in common], color="tab:blue")
ax.set_xticks(range(65), names, fontsize=7)
ax.set(yscale="log", xlim=(-1, 65), xlabel="character", ylabel="times it occurs")
ax.set_title("The 65 characters of Tiny Shakespeare")
plt.show()

# %% [markdown]
# Spaces, vowels, line ends: English in short lines. The capitals are common for a book, since most speakers are announced
# in capitals. At the right end stand the strangers. Who are they?

# %%
for char in "$&3":
    at = text.index(char)
    print(f"{count[char]:3} x {char!r}: {text[at - 30 : at + 16]!r}")

# %% [markdown]
# `$` is a printing error in one word, `shall`. `&` is from `&c`, the old *et cetera*. And every `3` belongs to a page
# heading, *3 KING HENRY VI*, that somebody forgot to take out. Two of our 65 ids are dirt, and a third is hardly there.
# Look at your data first: a model will learn all of it, dirt included.
#
# ## Characters to ids and back
#
# The id of a character is its place in the sorted list.

# %%
to_id = {char: i for i, char in enumerate(chars)}
ids = [to_id[char] for char in "Before we proceed"]
print(ids)

# %%
print("".join(chars[i] for i in ids))

# %% [markdown]
# That is all a tokenizer must do: **encode** text into ids, **decode** ids into text. One property says that nothing is
# lost: there and back is the same. We ask it of the whole text. The course's `CharTokenizer` is these two lines, with
# clear errors.

# %%
tokenizer = picogpt.CharTokenizer(text)
everything = tokenizer.encode(text)

assert everything == [to_id[char] for char in text], "the core numbers the characters as we do"
assert tokenizer.decode(everything) == text, "there and back must give the same text"

# %% [markdown]
# ## And é?

# %%
try:
    tokenizer.encode("Café")
except ValueError as error:
    print(error)

# %% [markdown]
# A vocabulary of characters knows only what it has seen. Other tokenizers start one level lower: a file is a list of
# **bytes**, numbers from 0 to 255, whatever it says. In UTF-8, the usual encoding, plain English letters are one byte,
# `é` is two, an emoji four. With 256 ids, nothing is ever unknown.

# %%
for word in ("Cafe", "Café", "本", "🙂"):
    print(f"{word}: {list(word.encode())}")
    assert bytes(list(word.encode())).decode() == word, "there and back"

# %% [markdown]
# The price is length. Ids are cheap; places in a window are not, since attention compares each with each (lesson 03). So
# one wants few ids for a text, and none unknown. The answer of GPT-2 and nearly all models since: start from bytes, and
# join what often stands together.
#
# ## Byte pair encoding, by hand
#
# **BPE** repeats one step. Count all neighbouring pairs. Take the most frequent, and make it one new token. We start with
# single letters, on a toy text.

# %%
def count_pairs(words):
    """How often does each pair of neighbours occur? words: {tuple of tokens: how often}."""
    pairs = Counter()
    for word, n in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += n
    return pairs


def merge(word, pair):
    """The word with each occurrence of the pair, from the left, made one token."""
    out, i = [], 0
    while i < len(word):
        joined = word[i : i + 2] == pair
        out.append(pair[0] + pair[1] if joined else word[i])
        i += 2 if joined else 1
    return tuple(out)


assert merge(("a", "a", "a"), ("a", "a")) == ("aa", "a"), "from the left, without overlap"

# %%
toy = "low low low lower lowest new newer newest widest"
words = {tuple(word): n for word, n in Counter(toy.split()).items()}
steps = [(None, list(words))]
for _ in range(6):
    pair = max(pairs := count_pairs(words), key=pairs.get)  # of equals, the one met first
    words = {merge(word, pair): n for word, n in words.items()}
    steps.append((pair, list(words)))

assert ("low",) in words, "a frequent word has become one token"

# %%
fig, ax = plt.subplots(figsize=(10, 3.6), layout="constrained")
for row, (pair, state) in enumerate(steps):
    x = 0
    for word in state:
        for token in word:
            new = pair is not None and token == "".join(pair)
            colour = "tab:orange" if new else "lightgrey"
            ax.barh(row, len(token) - 0.12, left=x, height=0.7, color=colour)
            middle = x + len(token) / 2 - 0.06
            ax.text(middle, row, token, ha="center", va="center", family="monospace")
            x += len(token)
        x += 1
ax.set_yticks(range(7), ["letters", *(f"join {a} + {b}" for (a, b), _ in steps[1:])])
ax.invert_yaxis()
ax.set(xticks=[], title="Six merges: the new token in orange")
plt.show()

# %% [markdown]
# Letters become syllables, endings and words, without anybody having said what those are. The list of merges *is* the
# tokenizer: to encode a new word, apply them in the same order.
#
# ## The same, on Shakespeare
#
# The `tokenizers` library does this in seconds. It starts from the 256 bytes, and first cuts the text into words, so that
# no token reaches over a space (as in GPT-2; the space before a word belongs to it and is written `Ġ`).

# %%
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

cut = int(0.9 * len(text))  # the part for training: the last tenth is for testing, see below
into_words = pre_tokenizers.ByteLevel(add_prefix_space=False)


def learn_bpe(vocab_size):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = into_words, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # 256 bytes, each as a visible character
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([text[:cut]], trainer)
    return bpe


# %%
bpe = learn_bpe(1024)
line = "Before we proceed any further, hear me speak. Café!"
print(" | ".join(bpe.encode(line).tokens).replace("Ġ", "␣"))

assert bpe.decode(bpe.encode(line).ids) == line, "é was never in the text, and comes back"

# %% [markdown]
# Frequent words are one token, rare ones several, and `é` is its two bytes. Are the library's merges ours? We run our own
# two functions on the same words and compare the first twenty.

# %%
words = Counter(word for word, _ in into_words.pre_tokenize_str(text[:cut]))
words = {tuple(word): n for word, n in words.items()}
mine = []
for _ in range(20):
    pair = max(pairs := count_pairs(words), key=pairs.get)
    words = {merge(word, pair): n for word, n in words.items()}
    mine.append(list(pair))
theirs = json.loads(bpe.to_str())["model"]["merges"][:20]
print(", ".join("".join(pair) for pair in mine).replace("Ġ", "␣"))

assert mine == theirs, "twenty merges, the same as the library's"

# %% [markdown]
# The very same. *the*, *nd* for *and*, *ou* for *thou* and *you*: the most frequent pairs of English, and of Shakespeare.
#
# ## How many tokens?
#
# A larger vocabulary makes the text shorter. But each token must be learned from the places where it occurs.

# %%
few, many = [256, 1024], [256, 300, 512, 1024, 2048, 4096, 8192]
sizes = picogpt.budget(smoke=few, quick=many, full=many)
lengths, rare = [], []
for size in sizes:
    bpe = learn_bpe(size)
    lengths.append(len(bpe.encode(text[cut:]).ids))
    seen = Counter(bpe.encode(text[:cut]).ids)
    rare.append(sum(seen[i] < 20 for i in range(size)) / size)

assert lengths == sorted(lengths, reverse=True), "each merge can only shorten the text"

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
axes[0].plot(sizes, [(len(text) - cut) / n for n in lengths], "o-")
axes[0].set(ylabel="characters per token", title="Larger vocabulary, shorter text")
axes[1].plot(sizes, [100 * part for part in rare], "o-", color="tab:orange")
axes[1].set(ylabel="tokens seen fewer than 20 times (%)", title="… and more tokens that are rare")
for ax in axes:
    ax.set(xscale="log", xlabel="vocabulary size")
    ax.set_xticks([256, 1024, 4096], ["256", "1,024", "4,096"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# On the left, the first doubling brings 0.9 characters a token, each later one only 0.3 to 0.4. On the right, the bytes that
# never occur in this text give a high start (a reader of all languages needs them, we do not). Then the rare tokens grow
# with the vocabulary.
#
# **This course stays with characters.** The text is small: a million characters would be only some 350,000 tokens of
# 4,096 kinds. The two matrices that grow with the vocabulary, at the model's entrance and exit, would be nearly as large as
# all the rest of PicoGPT, and with GPT-2's vocabulary ten times as large:

# %%
for V in (65, 4096, 50257):
    matrices = 2 * V * 256  # embedding and last layer, (V, C) each; PicoGPT's C = 256
    print(f"{V:6} tokens: {matrices:11,} parameters at entrance and exit")

# %% [markdown]
# PicoGPT has 2,466,369 parameters in all. GPT-2's 50,257 tokens are for a model fifty times as large, and for text of all
# kinds. And a last reason: with characters, nothing is hidden. You see each single guess.
#
# ## Are two losses comparable?
#
# A model's **loss** is its surprise at the next token, −ln p on average, in **nats** (lesson 02). A model on tokens has
# fewer guesses to make, and each is harder. So losses *per token* do not compare. What compares is the surprise for the
# same text, per byte, and by custom in **bits**: divide nats by ln 2.

# %%
def bits_per_byte(nats_per_token, tokens, text):
    return nats_per_token * tokens / len(text.encode()) / math.log(2)


# %% [markdown]
# An example with the dumbest possible model, which knows only how often each token occurs. Once it counts characters,
# once BPE tokens.

# %%
def loss_of_counting(train_ids, test_ids, vocab_size):
    """Nats per token of a model that always gives each token its frequency in training (plus 1)."""
    seen = Counter(train_ids)
    total = len(train_ids) + vocab_size
    return -sum(math.log((seen[i] + 1) / total) for i in test_ids) / len(test_ids)


test = text[cut:]
bpe = learn_bpe(4096)
ways = ("characters", tokenizer.encode, 65), ("BPE", lambda t: bpe.encode(t).ids, 4096)
for name, encode, V in ways:
    train_ids, test_ids = encode(text[:cut]), encode(test)
    loss = loss_of_counting(train_ids, test_ids, V)
    bits = bits_per_byte(loss, len(test_ids), test)
    print(f"{name:10} {loss:.2f} nats per token, {bits:.2f} bits per byte")

# %% [markdown]
# By its loss per token, the second looks far worse. By bits per byte it is far better: its tokens already know words.
# Whoever compares 1.47 of a character model with 3.11 of GPT-2 compares nothing (lesson 14 does it properly).
#
# ## Training text, validation text
#
# A model is judged on text it has not learned from. We keep the last tenth apart, the **validation text**: `picogpt.split`.

# %%
ids = torch.tensor(everything)  # (1115394,)
train, val = picogpt.split(ids)
print(f"{len(train):,} characters to learn from, {len(val):,} to be judged by")

assert torch.equal(torch.cat([train, val]), ids), "by position: first nine tenths, last tenth"

# %% [markdown]
# Why not take random windows from everywhere, as with pictures? Because windows overlap. Here is a cheat that understands
# nothing: it looks up the last 20 characters in the training windows, and says what followed there.

# %%
def hits_of_the_cheat(train_windows, test_windows, n=20):
    """How often the lookup knows the next character: over all positions of the test windows."""
    book = {w[i : i + n]: w[i + n] for w in train_windows for i in range(len(w) - n)}
    pairs = [(w[i : i + n], w[i + n]) for w in test_windows for i in range(len(w) - n)]
    return sum(book.get(before) == after for before, after in pairs) / len(pairs)


windows = [text[i : i + 65] for i in range(0, 200_000, 16)]  # each overlaps its neighbours
order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0)).tolist()
tenth = len(windows) // 10
shuffled = [windows[i] for i in order]
at_random = hits_of_the_cheat(shuffled[tenth:], shuffled[:tenth])
by_position = hits_of_the_cheat(windows[:-tenth], windows[-tenth:])
print(f"the cheat knows {at_random:.0%} after a random split, {by_position:.0%} by position")

assert at_random > 0.9 and by_position < 0.1, "a random split rewards memory, this one does not"

# %% [markdown]
# After a random split the cheat wins, since nearly every test window stands in the training text, moved by 16 characters.
# The score would measure memory. After a split by position it knows next to nothing.
#
# ## A batch
#
# Training shows the model many windows at once: a **batch** of B windows of T ids. The question at each place is: what
# comes next? So the answers are the same text, moved by one.

# %%
x, y = pc.get_batch(train, 3, 12, torch.Generator().manual_seed(8))  # (B=3, T=12) each

assert x.shape == y.shape == (3, 12)
assert torch.equal(x[:, 1:], y[:, :-1]), "the target at a position is the input at the next one"

# %%
fig, ax = plt.subplots(figsize=(9, 3), layout="constrained")
for b in range(3):
    for row, line, colour in ((0, x[b], "lightsteelblue"), (0.9, y[b], "navajowhite")):
        for t, shown in enumerate(picogpt.visible_characters(tokenizer.decode(line))):
            ax.add_patch(plt.Rectangle((t, 2.4 * b + row), 0.94, 0.84, color=colour))
            ax.text(t + 0.47, 2.4 * b + row + 0.42, shown, ha="center", va="center")
ax.set(xlim=(0, 12), ylim=(7, -0.2), xticks=[t + 0.47 for t in range(12)], xticklabels=range(12))
ax.set_yticks([0.42, 1.32, 2.82, 3.72, 5.22, 6.12], ["x", "y"] * 3)
ax.set(xlabel="position t", title="Three windows: y is x, one character later")
plt.show()

# %% [markdown]
# One window of 12 characters asks 12 questions: after one character, after two, and so on to twelve. That is why a model
# must never see the later ones (lesson 03).
#
# ## Your turn
#
# ### 1. Join a pair
#
# Write BPE's one step for ids instead of letters: `join(ids, pair, new)` replaces each occurrence of the pair, from the
# left, by the id `new`.

# %% tags=["check"]
def check_join(join):
    cases = [
        ([1, 2, 3, 1, 2], (1, 2), 9, [9, 3, 9], "two occurrences"),
        ([1, 1, 1], (1, 1), 9, [9, 1], "overlapping pairs: take the left one, go on behind it"),
        ([5, 1], (1, 2), 9, [5, 1], "the last id has no neighbour"),
        ([], (1, 2), 9, [], "an empty list"),
    ]
    for ids, pair, new, wanted, what in cases:
        try:
            got = join(list(ids), pair, new)
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
        if got is None or got is ...:
            print("not yet: it returned nothing")
            return
        if got != wanted:
            print(f"not yet: join({ids}, {pair}, {new}) gave {got}, wanted {wanted} ({what})")
            return
    print("✓ the step that BPE repeats")


# %% tags=["exercise"]
def join(ids, pair, new):
    ...  # your code


check_join(join)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def join(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == tuple(pair):
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


check_join(join)

# %% [markdown]
# ### 2. Which model is better?
#
# Both read the same English text. Model A guesses characters: 1.47 nats per character. Model B guesses BPE tokens: 3.3
# nats per token, and a token has 4 characters on average. All characters are one byte. How many bits per byte has each?

# %% tags=["check"]
def check_bits(a, b):
    right = 1.47 / math.log(2), 3.3 / 4 / math.log(2)
    for name, mine, wanted, nats in (("A", a, right[0], 1.47), ("B", b, right[1], 3.3)):
        if not isinstance(mine, int | float):
            print(f"not yet: put a number for {name} in place of the three dots")
        elif abs(mine - wanted) < 0.02:
            print(f"✓ {name}: {wanted:.2f} bits per byte")
        elif abs(mine - nats / math.log(2)) < 0.02:
            print(f"not yet: {name}'s surprise is spread over 4 bytes")
        elif abs(mine - wanted * math.log(2)) < 0.02:
            print(f"not yet: {name} is still in nats. A nat is 1 / ln 2 = 1.44 bits")
        elif abs(mine - wanted * math.log(2) ** 2) < 0.02:
            print(f"not yet: for {name}, divide by ln 2: bits are smaller than nats")
        else:
            print(f"not yet: {name} has nats per token / bytes per token / ln 2")


# %% tags=["exercise"]
bits_a = ...  # a number
bits_b = ...  # a number

check_bits(bits_a, bits_b)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_bits(1.47 / math.log(2), 3.3 / 4 / math.log(2))

# %% [markdown]
# ## What you can do now
#
# 1. Encode and decode with characters, bytes and BPE, and check that each gives the same text back.
# 2. Count before you train: the strangers in a text are in its counts.
# 3. Turn a loss per token into bits per byte, before you compare two models.
# 4. Split by position, since windows overlap.
# 5. Draw a batch: `pc.get_batch`, y is x moved by one.
#
# Next: [lesson 02](02_bigram_baseline.ipynb) builds the simplest model that learns, and asks what a loss means.
#
# ## Sources
#
# - Text: Tiny Shakespeare, from Andrej Karpathy's [char-rnn](https://github.com/karpathy/char-rnn).
# - BPE for text: Sennrich, Haddow and Birch 2015, [arXiv 1508.07909](https://arxiv.org/abs/1508.07909). On bytes, with
#   words cut first: Radford et al. 2019 (GPT-2), [code](https://github.com/openai/gpt-2).
# - [tokenizers](https://huggingface.co/docs/tokenizers), the library.
# - UTF-8: [RFC 3629](https://www.rfc-editor.org/rfc/rfc3629).
