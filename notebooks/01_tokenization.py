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
# 1. turn text into numbers and back in four ways: characters, bytes, learned pairs (BPE), and GPT-2's own tokens,
# 2. write BPE yourself, its training and its use, equal to the standard library on all of the validation text,
# 3. see what tokens do to a model: why spelling and sums are hard for it, and how a space can trip it up,
# 4. compare models with different tokens fairly, in bits per byte,
# 5. split a text so that the test cannot be won by remembering, and know what such a split really asks,
# 6. draw a training batch, and see why the targets are the inputs moved by one.
#
# **You need** Python, no more. Lesson 00 shows where this leads.
#
# **Time** 50 minutes to read, half a minute to run. Words you do not know are in the [glossary](../docs/glossary.md).
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
import itertools
import json
import math
import re
import statistics
from collections import Counter

import matplotlib.pyplot as plt
import torch
from tokenizers import pre_tokenizers

import picogpt
import picogpt_core as pc
from picogpt import draw

text = picogpt.load_shakespeare()
train_text, val_text = picogpt.split(text)  # the last tenth is for testing: more on that below
characters = picogpt.CharTokenizer(text)
bpe = picogpt.learn_bpe(train_text, 1024)

# %% [markdown]
# A language model computes with numbers, so before it can read a sentence, somebody has to decide how the sentence
# becomes a list of them. Each entry of that list is called a **token**, and its number the token's **id**. Here is one
# sentence as four models would get it: one that knows the 65 characters of Shakespeare, one that knows bytes, one with
# 1,024 pieces that were learned from Shakespeare, and GPT-2 with its 50,257.

# %%
try:
    gpt2 = picogpt.gpt2_tokenizer()
except OSError:  # two small files, fetched once
    gpt2 = None
    print("GPT-2's tokenizer could not be fetched. The lesson goes on without its rows.")
learned = {"BPE, 1,024 tokens": bpe} | ({"GPT-2, 50,257 tokens": gpt2} if gpt2 else {})

# %% jupyter={"source_hidden": true} cellView="form"
# @title A helper that cuts a line up in four ways (run this cell, then go on)
def label(piece):
    """A piece of text, or its bytes in hexadecimal where it is only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece.hex(" ")


def cut_up(line):
    """The pieces of a line, and their ids, in each way of reading it; None where there is no id."""
    known, numbers = characters.chars, list(line.encode())
    pieces = {"65 characters": list(line)}
    pieces["256 bytes"] = [label(bytes([number])) for number in numbers]
    ids = {"65 characters": [known.index(c) if c in known else None for c in line]}
    ids["256 bytes"] = numbers
    for name, reader in learned.items():
        ids[name] = reader.encode(line)
        pieces[name] = [label(reader.pieces[i]) for i in ids[name]]
    return pieces, ids

# %%
pieces, ids = cut_up("My lord, we owe 1275 to the café in Αθήνα.")
fig, ax = plt.subplots(figsize=(7.4, 6.6), layout="constrained")
draw.spans(ax, pieces, ids)
plt.show()

# %% [markdown]
# Each tile is one token, with its id below. Look at how differently the same sentence falls apart. The characters are
# easy to follow, but they cannot say *1275*, *é* or *Αθήνα* (Athens) at all: whatever was not in their text has no id.
# Bytes can say everything, at the price of the longest list. GPT-2 needs the fewest tokens, many of them whole words
# with the space before them attached (a space is drawn as ␣), and yet it tears Athens into pieces that are not even
# letters, shown by their bytes. Even stranger, it reads 1275 as *12* and *75*.
#
# None of this is the model's doing. It is decided before the model sees anything, it never changes afterwards, and the
# model has to live with it. So where do such tokens come from, and what do they do to a model? That is the question of
# this lesson.
#
# ## Try your own
#
# In a notebook there is a box below, in which you can type whatever you like. Try your name, your language, a sum, a
# line of code. Hold the mouse over a piece to see its id.

# %%
def as_html(line):
    """The line in each way of reading, as coloured spans."""
    pieces, ids = cut_up(line)
    rows = []
    for name, row in pieces.items():
        spans = ""
        for t, (piece, i) in enumerate(zip(row, ids[name])):
            colour = draw.WARM if i is None else draw.SPANS[t % 4]
            shown = html.escape("".join(picogpt.visible_characters(piece)))
            style = f"background:{colour}; color:black; padding:1px 2px"
            spans += f'<span title="{i}" style="{style}">{shown}</span>'
        rows.append(f"<b>{name}</b>: {len(row)}<br><code>{spans}</code>")
    return "<br>".join(rows)


def in_words(line):
    """The same as plain text."""
    pieces, _ = cut_up(line)
    return "\n".join(f"{name}: {len(row)}\n  {'|'.join(row)}" for name, row in pieces.items())

# %% tags=["nbval-ignore-output"]
try:
    get_ipython()  # is there a kernel behind this?
    import ipywidgets
    from IPython.display import display

    box = ipywidgets.Text("To be, or not to be?", layout={"width": "95%"})
    answer = ipywidgets.HTML(as_html(box.value))
    box.observe(lambda change: setattr(answer, "value", as_html(box.value)), "value")
    display(ipywidgets.VBox([box, answer]))
except (NameError, ImportError):
    print(in_words("To be, or not to be?"))

# %% [markdown]
# (Without a kernel, on GitHub for instance, there is no box. The picture above stands for it.)
#
# ## Which characters are there?
#
# We begin with the simplest way, one id for each different character, because it is the one that this course uses.
# Which characters are there in our text, and how often does each occur? It is a good habit to ask that before anything
# else.

# %%
count = Counter(text)
chars = sorted(count)
print(f"{len(text):,} characters, {len(chars)} different ones:")
print(repr("".join(chars)))

# %%
common = count.most_common()
kinds = [("small letters", str.islower, draw.INK), ("capitals", str.isupper, "#8fb0cf")]
kinds += [("others", lambda char: not char.isalpha() and char not in "$&3", draw.HERE)]
kinds += [("strangers", lambda char: char in "$&3", draw.WARM)]
fig, ax = plt.subplots(figsize=(7.4, 3), layout="constrained")
for name, belongs, colour in kinds:
    bars = [(x, n) for x, (char, n) in enumerate(common) if belongs(char)]
    ax.bar(*zip(*bars), color=colour, label=name)
names = ["↵" if char == "\n" else "␣" if char == " " else char for char, _ in common]
ax.set_xticks(range(65), names, fontsize=10, family="monospace")
ax.tick_params(axis="x", length=0, pad=1)
ax.set(yscale="log", xlim=(-1, 65), ylabel="times it occurs")
ax.set_title("The 65 characters of Tiny Shakespeare", fontsize=12)
ax.legend(fontsize=10)
plt.show()

# %% [markdown]
# The scale is logarithmic: between the bar at the left end and the one at the right end lies a factor of more than a
# hundred thousand. (␣ is the space, and ↵ the end of a line.) Spaces and small letters lead, as in any English text.
# The capitals are more common than in a novel, since every speech begins with the name of its speaker, mostly in
# capitals. But who are the three strangers at the right end?

# %%
for char in "$&3":
    at = text.index(char)
    print(f"{count[char]:3} x {char!r}: {text[at - 30 : at + 16]!r}")

# %% [markdown]
# `$` is a misprint inside one word, *shall*. `&` comes from `&c`, the old way to write *et cetera*. And every `3`
# belongs to a page heading, *3 KING HENRY VI*, which somebody forgot to take out. So two of our 65 ids are dirt, and a
# third is hardly there. A model will learn all of it, dirt included, and no loss will ever tell you. Look at your data
# first.
#
# ## Characters to ids and back
#
# The id of a character is its position in the sorted list. Two lines of Python do the rest.

# %%
to_id = {char: i for i, char in enumerate(chars)}
ids = [to_id[char] for char in "Before we proceed"]
print(ids)
print("".join(chars[i] for i in ids))

# %% [markdown]
# These two directions are all that a tokenizer has to offer. It can **encode** text into ids, and it can **decode** ids
# into text. Because nothing may be lost on the way, there is one property to insist on: encode, then decode, and you
# have the same text. We ask it of all 1.1 million characters, and of the course's `CharTokenizer`, which is these two
# lines with clear errors.

# %%
everything = characters.encode(text)

assert everything == [to_id[char] for char in text], "the course numbers the characters as we do"
assert characters.decode(everything) == text, "there and back must give the same text"
print(f"{len(everything):,} ids, there and back: the same text")

# %%
try:
    characters.encode("Café")
except ValueError as error:
    print(error)

# %% [markdown]
# The last line shows the weakness that you saw in the picture. A vocabulary of characters knows what it has seen and
# nothing else. Unicode has about 150,000 characters, so giving each an id is not a pleasant way out either.
#
# ## Bytes: nothing is ever unknown
#
# There is a level below the characters. Whatever a file says, it consists of **bytes**, numbers from 0 to 255. The
# usual encoding, UTF-8, writes a plain English letter as one byte, `é` as two, most Chinese and Japanese characters as
# three and an emoji as four. If the bytes are our tokens, 256 ids are enough for every text that can be written.

# %%
for word in ("Cafe", "Café", "本", "🙂"):
    print(f"{word:5} {list(word.encode())}")
    assert bytes(list(word.encode())).decode() == word, "there and back"

# %% [markdown]
# Two things are not as nice as they look. The first is the way back. Every text can be written in bytes, but not every
# list of bytes is a text: a model that writes byte after byte may stop in the middle of a character, or write something
# that is no character at all. Then `decode` has a choice, to fail or to put in the sign � for what it cannot read.

# %%
half = "本".encode()[:2]  # two bytes of three
try:
    print(half.decode())
except UnicodeDecodeError as error:
    print("strictly:", error)
print("with a substitute:", half.decode(errors="replace"))

# %% [markdown]
# Every tokenizer that goes down to bytes, GPT-2's included, has this problem, and it answers with the substitute. Keep
# it in mind when a model writes � in the middle of Japanese: the model is not broken, you are looking at half of a
# character.
#
# The second thing is length. A model looks at a window of so many tokens, and as attention compares each position with
# each other one (lesson 03), a window twice as long costs more than twice as much. Bytes make long lists. What one
# would like is both, few tokens for a text and none unknown. The way to get it, in GPT-2 and in most large language
# models since, is to start from bytes and to join what often stands together.
#
# ## Byte pair encoding, by hand
#
# **Byte pair encoding**, or BPE, repeats one step. Count all pairs of neighbours. Take the most frequent pair, and make
# it one new token. That is all. We try it on a toy text of nine words, and to keep it readable we start from letters.
#
# Two small functions are needed. One counts the pairs, the other joins one pair wherever it occurs. A word is a tuple
# of tokens, and with each word we keep how often it occurs, so that *low*, which stands there three times, need not be
# counted three times.

# %%
def count_pairs(words):
    """How often does each pair of neighbours occur? words: {tuple of tokens: how often}."""
    pairs = Counter()
    for word, times in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += times
    return pairs

# %%
def merge(word, pair):
    """The word with each occurrence of the pair, from the left, made one token."""
    out, i = [], 0
    while i < len(word):
        joined = word[i : i + 2] == pair
        out.append(pair[0] + pair[1] if joined else word[i])
        i += 2 if joined else 1
    return tuple(out)

# %%
toy = "low low low lower lowest new newer newest widest"
words = {tuple(word): times for word, times in Counter(toy.split()).items()}
for word, times in words.items():
    print(times, "x", " ".join(word))
print("the most frequent pairs:", count_pairs(words).most_common(3))
print(merge(tuple("lower"), ("l", "o")), merge(tuple("aaa"), ("a", "a")))

# %% [markdown]
# The pair *l o* occurs five times: three times in *low*, once in *lower*, once in *lowest*. So does *o w*, for every
# *lo* is followed by a *w*, and of equals we take the one that was met first. The last line shows the join at work. In
# *aaa* the pair *a a* could be joined at two spots; we go from the left, and what is used up cannot be used again.
#
# Now repeat. The loop needs to remember one thing only, which pair it joined at each step.

# %%
def learn(words, n):
    """The first n merges: each the most frequent pair of its time."""
    merges = []
    for _ in range(n):
        pairs = count_pairs(words)
        pair = max(pairs, key=pairs.get)  # of equals, the one met first
        words = {merge(word, pair): times for word, times in words.items()}
        merges.append(pair)
    return merges

# %%
toy_merges = learn(words, 6)
print(toy_merges)

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
state = list(words)
for row, pair in enumerate([None, *toy_merges]):
    state = [merge(word, pair) for word in state] if pair else state
    x = 0
    for word in state:
        for token in word:
            new = pair is not None and token == "".join(pair)
            colour = draw.HERE if new else draw.PALE
            ax.barh(row, len(token) - 0.12, left=x, height=0.72, color=colour)
            middle = x + len(token) / 2 - 0.06
            ax.text(middle, row, token, ha="center", va="center", family="monospace", fontsize=11)
            x += len(token)
        x += 1
ax.set_yticks(range(7), ["letters", *(f"join {a} + {b}" for a, b in toy_merges)], fontsize=11)
ax.invert_yaxis()
ax.set(xticks=[], xlim=(-0.4, x - 0.8))
ax.set_title("Six merges: the new token in orange", fontsize=12)
for spine in ax.spines.values():
    spine.set_visible(False)
plt.show()

# %% [markdown]
# Read it from top to bottom. After two merges *low* has become a single token, and it serves in *lower* and *lowest*
# too. Two more make the ending *est*. Nobody told the procedure about stems and endings. It was told where words end,
# since we cut the text at the spaces, but within a word it found by counting what a grammar would have said.
#
# ### A new word
#
# The list of merges *is* the tokenizer. To encode a word that was not in the text, start from its letters and apply the
# merges **in the order in which they were learned**. To decode, write the tokens one after another. Let us follow one
# word.

# %%
def encode_word(word, merges):
    """The word, cut into its smallest pieces, with the merges applied in order."""
    for pair in merges:
        word = merge(word, pair)
    return word

# %%
word = tuple("slowest")  # never seen
for pair in toy_merges:
    joined = merge(word, pair)
    note = "" if joined != word else "  (does not occur)"
    print(f"{pair[0]:>2} + {pair[1]:2}", " ".join(joined), note)
    word = joined

assert "".join(encode_word(tuple("slowest"), toy_merges)) == "slowest", "there and back"

# %% [markdown]
# <details><summary>Before you run the next cell: would it do any harm to apply the merges in another order, say the
# last one first?</summary>
#
# It would. *lo + w* can only be joined when there is a *lo*, which an earlier merge has to make first. In the wrong
# order the later merges find nothing to join.
# </details>

# %%
print("in order: ", " ".join(encode_word(tuple("slowest"), toy_merges)))
print("backwards:", " ".join(encode_word(tuple("slowest"), toy_merges[::-1])))

# %% [markdown]
# The letters are the same, so decoding gives the right text either way, and no round trip will ever reveal the mistake.
# But these are other tokens, with other ids, and a model that learned *low* and *est* would now read something that it
# has hardly ever met. That makes it one of the nasty bugs: nothing fails, and the model is merely worse than it should
# be.
#
# ## From the toy to Shakespeare
#
# Two things change when the text is a real one. The tokens start from bytes instead of letters, for the reason given
# above. And the question of what a *word* is becomes more interesting. Do we need words at all? Let us see what BPE
# does when the text is one single long word.

# %%
def smallest(word):
    """A word as a tuple of single bytes."""
    return tuple(bytes([number]) for number in word.encode())


uncut = learn({smallest(train_text[:100_000]): 1}, 14)
print([(left + right).decode() for left, right in uncut])

# %% [markdown]
# The very first token it makes is an *e* with the space after it, and before long there are tokens for a comma with a
# space, and for a colon with the end of its line. It is quite right, these are frequent pairs. But then *the* before a
# space and *the* before a comma become different tokens, and everything the model learns about *the* has to be learned
# several times over. So GPT-2 first cuts the text with a **regular expression**, a pattern for searching in text, and
# lets BPE join only within the cuts.

# %%
WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"  # the endings of English contractions
    r"| ?[^\W\d_]+"  # letters, with at most one space before them
    r"| ?\d+"  # digits, likewise
    r"| ?(?:[^\s\w]|_)+"  # what is neither letter, digit nor space: punctuation
    r"|\s+(?!\S)|\s+"  # spaces and line ends; the last space before a word is left to the word
)
print(WORDS.findall("Thou'rt gone, and 1275 men;\n  that's all."))

# %% [markdown]
# Notice where the spaces went. A space belongs to the word that follows it, so ` gone` is one piece, and where there
# are two of them, the second goes with the word. Notice the odd treatment of *Thou'rt*, too: the pattern knows *'t* and
# *'re*, from a list of modern contractions, and it does not know Shakespeare's. Such a choice looks like a detail, but
# every token that GPT-2 has ever read went through this line.
#
# Is it the same as the library's? `tokenizers`, by Hugging Face, comes with many open models. It has GPT-2's pattern
# built in, in a slightly different dialect. We compare the two on the whole text.

# %%
theirs = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
mine = WORDS.findall(text)

assert [text[start:end] for _, (start, end) in theirs] == mine, "the same words, all of them"
assert "".join(mine) == text, "nothing is lost between two words"
print(f"{len(mine):,} words, {len(set(mine)):,} different ones, cut exactly as by the library")
print("the most common:", Counter(mine).most_common(7))

# %% [markdown]
# Now the loop, the same three functions as for the toy, with bytes in place of letters. The course's
# `picogpt.learn_bpe` lets the library do the same, much faster. Ours shall find the same tokens, in the same order.
# (Among the first merges no two pairs are equally frequent. Exercise 1 says what the library does when they are.)
#
# <details><summary>Before you run the next cell: which word of three letters or more will be the first to become a
# single token?</summary>
#
# The most common English word, *the*, with the space before it. It takes a while, though: first its parts have to be
# joined.
# </details>

# %%
n = picogpt.budget(smoke=20, quick=100, full=130)
words = {smallest(word): times for word, times in Counter(WORDS.findall(train_text)).items()}
merges = learn(words, n)
tokens = [left + right for left, right in merges]
library = picogpt.learn_bpe(train_text, 256 + n)  # 256 bytes and n merges

assert tokens == library.pieces[256:], "the library's tokens, in the library's order"
print(f"{n} merges, all equal to the library's. The first 50:")
print(" | ".join(token.decode().replace(" ", "␣") for token in tokens[:50]))
longest = [token.decode().replace(" ", "␣") for token in sorted(bpe.pieces, key=len)[-8:]]
print("The longest of 1,024:", " | ".join(longest))

# %% [markdown]
# `␣t` comes first, because so many English words begin with *t*. The eleventh token is `␣the`, and it was made of `␣t`
# and `he`. So far this could be any English book. What is Shakespeare's own comes later, when whole names are frequent
# enough: the last line shows the longest tokens among the 1,024 of the picture at the top.
#
# Next comes encoding. We take the whole validation text, which no merge was learned from, cut it into words, and apply
# the merges to each. (A token's id is then its position in one long list: first the 256 bytes, in an order of GPT-2's
# own, then the merges as they were learned.) The same word always gives the same tokens, so each different word needs
# to be encoded only once.

# %%
once = {word: encode_word(smallest(word), merges) for word in set(WORDS.findall(val_text))}
mine = [token for word in WORDS.findall(val_text) for token in once[word]]
theirs = [library.pieces[i] for i in library.encode(val_text)]

assert mine == theirs, "token by token what the library says"
assert b"".join(mine).decode() == val_text, "and nothing is lost"
print(f"{len(val_text):,} characters of validation text: {len(mine):,} tokens, all the library's")

# %% [markdown]
# So there is no secret left in the library, only speed. Some forty lines of Python have done what it does: count, join,
# remember, and apply in order. In exercises 1 and 2 you write it yourself, with ids, for all of the 768 merges that
# lead to a vocabulary of 1,024.
#
# ### One token that is not text
#
# GPT-2 was trained on millions of web pages, strung together into one long list of ids. How should it know where one
# page ends, and that the next one has nothing to do with it? By a **special token**, an id that no merge can produce,
# and which is put between two documents. It is written `<|endoftext|>`, but those thirteen characters are only its
# name.

# %%
line = "The end.<|endoftext|>Once upon"
for name, reader in learned.items():
    shown = [label(reader.pieces[i]).replace(" ", "␣") for i in reader.encode(line)]
    print(f"{name:20}", " | ".join(shown))
if gpt2:
    print("id of the special token in GPT-2:", gpt2.encode("<|endoftext|>"))

# %% [markdown]
# To GPT-2 the name is one token, the last of its 50,257: 256 bytes, 50,000 merges and this one. Our own tokenizer,
# which has never heard of it, spells out the name like any other text. How does one add such a token? Not by merges.
# One cuts the text at the name first and encodes the rest as usual.

# %%
def encode_with_special(line, encode, special):
    """Encode a line in which the names of special tokens may stand. special: {name: id}."""
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", line)
    return [i for part in parts for i in ([special[part]] if part in special else encode(part))]

# %%
print(encode_with_special(line, bpe.encode, {"<|endoftext|>": 1024}))
if gpt2:
    ours = encode_with_special(line, gpt2.encode, {"<|endoftext|>": 50256})
    assert ours == gpt2.encode(line), "GPT-2's tokenizer does the same"
    print(ours)

# %% [markdown]
# A vocabulary of 1,024 now has 1,025 ids, and the model's two matrices need one more row each. Chat models have a
# handful of such tokens, which mark where the user's turn ends and the assistant's begins. That makes for a security
# rule. What a *user* types must never be encoded with the special tokens switched on, or else whoever types
# `<|endoftext|>` into a form can end your document for you. Tiny Shakespeare is a single document, so this course can
# do without.
#
# ## How large a vocabulary?
#
# The number of merges is ours to choose. Each one makes texts shorter, so why not go on for ever? Let us measure two
# things: how much text a token holds, and how often the model gets to see one. A token that occurs ten times in the
# training text has ten occasions to be learned.

# %%
few, many = [256, 1024], [256, 512, 1024, 2048, 4096, 8192]
sizes = picogpt.budget(smoke=few, quick=many, full=many)
held, often = [], []
for size in sizes:
    reader = picogpt.learn_bpe(train_text, size)
    held.append(len(val_text) / len(reader.encode(val_text)))  # characters per token
    seen = Counter(reader.encode(train_text))
    often.append(statistics.median(seen.values()))  # of the tokens that occur at all
    print(f"{size:5} tokens: {held[-1]:.2f} characters each, {often[-1]:,.0f} occurrences (median)")

assert held == sorted(held), "each merge can only shorten the text"

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
axes[0].plot(sizes, held, "o-", color=draw.INK)
if gpt2:
    held_by_gpt2 = len(val_text) / len(gpt2.encode(val_text))
    axes[0].plot([50257], [held_by_gpt2], "D", color=draw.WARM)
    axes[0].text(42000, held_by_gpt2, "GPT-2", ha="right", va="top", color=draw.WARM, fontsize=11)
axes[0].set_title("Larger vocabulary, shorter text:\ncharacters per token", fontsize=11)
axes[1].plot(sizes, often, "o-", color=draw.INK)
axes[1].set(yscale="log")
axes[1].set_title("… and fewer examples of each:\noccurrences in training (median)", fontsize=11)
for ax in axes:
    ax.set(xscale="log", xlabel="vocabulary size")
    ax.set_xticks([256, 1024, 8192], ["256", "1,024", "8,192"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
if gpt2:
    axes[0].set_xticks([256, 1024, 8192, 50257], ["256", "1,024", "8,192", "50,257"])
plt.show()

# %% [markdown]
# On the left, the first doubling brings 0.9 characters a token, and each later one only 0.3 to 0.4. On the right is the
# price, on a logarithmic scale: with every doubling, the typical token has far fewer occasions to be learned from. The
# orange mark is a small surprise. GPT-2's 50,257 tokens do not shorten Shakespeare quite as far as our 8,192 do,
# because they have to serve web pages of all kinds. A tokenizer fits the text that it was learned from.
#
# There is a second price. A token's id is cheap, but the vocabulary has to be paid for in the model: each token has a
# vector at the entrance (its *embedding*) and another one at the exit, where the model says how likely the token is to
# come next.

# %%
for V in (65, 1024, 4096, 50257):
    with torch.device("meta"):  # shapes without memory
        whole = pc.count_parameters(pc.GPT(pc.ModelConfig(vocab_size=V)))
    matrices = 2 * V * 256  # (V, C) at the entrance, (V, C) at the exit; PicoGPT's C is 256
    print(f"{V:6,} tokens: {matrices:11,} of {whole:11,} parameters, {matrices / whole:4.0%}")

# %% [markdown]
# With 4,096 tokens, nearly half of PicoGPT would be a dictionary, and with GPT-2's vocabulary more than nine tenths.
# (GPT-2 itself uses one matrix for both purposes, which is called *tying* them and halves the price, and it is a larger
# model.)
#
# So the choice is a trade between three things: short lists, enough examples of each token, and a model that is not all
# vocabulary. Large models, with large texts to learn from, have chosen anything from 32,000 tokens (Llama) to 256,000
# (Gemma). **This course stays with the 65 characters**, since our text is small and so is our model. And there is a
# last reason: with characters nothing is hidden. You see every single guess that the model makes.
#
# ## What tokens do to a model
#
# A model never sees your text. It sees ids, and anything that is not visible in the ids, it has to learn from examples,
# or it does not know it. Much of what is strange about language models becomes plain once you look at their tokens.
#
# **Spelling.** How many r's are there in *strawberry*?

# %%
def show(line, readers=learned):
    for name, reader in readers.items():
        shown = " | ".join(label(reader.pieces[i]).replace(" ", "␣") for i in reader.encode(line))
        print(f"  {name:22} {shown:34} {reader.encode(line)}")

# %%
for line in (" strawberry", "strawberry"):
    print(repr(line))
    show(line)

# %% [markdown]
# Inside a sentence, GPT-2 reads the whole word as one number, and no letter is to be seen in it. To count its r's, a
# model must have learned from somewhere how token 41236 is spelled. The same word at the beginning of a line is three
# other numbers, and nothing tells the model that they have anything to do with the first. What looks like a slip of
# reasoning is often a question about something that the model cannot see.
#
# **Capitals and spaces.** The same goes for every word. Here is a name in five disguises.

# %%
for line in (" Ralph", "Ralph", " ralph", "ralph", "RALPH"):
    print(repr(line))
    show(line)

# %% [markdown]
# Only ` Ralph`, with a space before it and a capital, is a token of its own to GPT-2. To us these are one name, but to
# the model they are five different lists of numbers, and that they belong together is one of the first things it has to
# find out.
#
# The space before a word has an unpleasant consequence, which you may meet yourself. Many people end a prompt with a
# space, as in `To be `, and expect *or not* to come next. But look at how that is cut, and at how often such a cut
# occurs in the training text.

# %%
read = {name: reader.encode(train_text) for name, reader in learned.items()}
for name, reader in learned.items():
    one, space, rest = (reader.pieces.index(piece) for piece in (b" or", b" ", b"or"))
    apart = sum(pair == (space, rest) for pair in itertools.pairwise(read[name]))
    show("To be ", {name: reader})
    print(f"     in training: {read[name].count(one)} times ␣or, and {apart} times ␣ | or")

# %% [markdown]
# In training, the space was always part of the token `␣or`. A space by itself, followed by `or`, is something the model
# has never seen, and so there is no telling what it will answer. The rule: with such tokenizers, do not end a prompt
# with a space. (Our character models do not mind.)
#
# **Indentation.** Spaces that stand in a row are worth a look, too, since Python is full of them.

# %%
show("        return x")

# %% [markdown]
# The last of the eight spaces goes with the word, as the pattern says. The other seven cost GPT-2 a token each, so
# indented code fills its window with spaces. Later models have tokens for a whole row of them.
#
# **Numbers.** We add from the right, digit under digit. Which digits does GPT-2 have under one another?

# %%
for number in (1275, 6773, 1275 + 6773):
    print(f"{number}")
    show(f" {number}")

# %% [markdown]
# *12* and *75*, then *6* and *773*: the hundreds of one number stand in its first token, those of the other in its
# second. Is that an unlucky example? Let us cut all numbers from 1000 to 9999.

# %%
if gpt2:
    ways = Counter(
        " + ".join(str(len(gpt2.pieces[i].strip())) for i in gpt2.encode(f" {number}"))
        for number in range(1000, 10_000)
    )
    for way, times in ways.most_common():
        print(f"{way:10} digits: {times:5,} of 9,000 numbers")
else:
    print("this needs GPT-2's tokenizer")

# %% [markdown]
# Five ways of cutting four digits, and which one it is depends on what happened to be frequent in the text that the
# merges were learned from. To add two numbers, a model has to know for each of them how it was cut. Later tokenizers
# cut numbers by rule instead, into single digits (Llama) or into groups of at most three (GPT-4).
#
# **Other scripts.** How much does it cost to say the same thing in another language? This is the first sentence of the
# Universal Declaration of Human Rights.

# %%
rights = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}
for language, line in rights.items():
    print(f"{language:9} {len(line):3} characters, {len(line.encode()):3} bytes", end="")
    for name, reader in learned.items():
        print(f", {name.split(',')[0]}: {len(reader.encode(line)):3} tokens", end="")
    print()

# %% [markdown]
# In Greek, GPT-2 needs more tokens than there are characters, and about seven times as many as in English. Where text
# is paid for by the token, the same sentence costs seven times as much, and a window that holds seven pages of English
# holds one of Greek. Our own tokenizer is even worse. It has seen nothing but English, so in Greek and Japanese it
# falls back to single bytes.
#
# **Tokens that nobody has trained.** A last oddity. Are all of our 1,024 tokens used?

# %%
seen = Counter(read["BPE, 1,024 tokens"])
unused = [bpe.pieces[i].decode().replace(" ", "␣") for i in range(256, 1024) if seen[i] == 0]
print(f"{len(unused)} of 768 learned tokens never occur in the text that they were learned from:")
print(" | ".join(unused))
show("ROM", {"BPE, 1,024 tokens": bpe})
if gpt2:
    show(" SolidGoldMagikarp", {"GPT-2, 50,257 tokens": gpt2})
    last = [piece.decode().replace(" ", "␣") for piece in gpt2.pieces[50251:50256]]
    print("the last merges of GPT-2:", " | ".join(last))

# %% [markdown]
# How can a token be learned and not occur? It was a step on the way. `ROM` was joined because *ROMEO* is frequent, then
# the whole name became a token, and now every `ROM` of the training text is inside it. So in training nobody ever looks
# up the vector that stands for `ROM`, and it stays as random as it began, until somebody types just these three
# letters.
#
# GPT-2's vocabulary contains whole words of this kind. The most famous is `␣SolidGoldMagikarp`, the name of a Reddit
# user. It was frequent enough where the merges were learned to become one token, and so rare where the models were
# trained that they were found to behave very strangely when they met it (Rumbelow and Watkins 2023). Such tokens are
# called *glitch tokens*. (The last line of the output shows where GPT-2's merges ended. The later a merge, the rarer
# its token.)
#
# **Half characters.** And what you know already: since tokens are bytes, a single one need not be text.

# %%
if gpt2:
    for i in gpt2.encode("Αθήνα"):
        print(f"id {i:5}   bytes {gpt2.pieces[i].hex(' '):8} decoded alone {gpt2.decode([i])!r}")
    print("decoded together:", gpt2.decode(gpt2.encode("Αθήνα")))
else:
    print("this needs GPT-2's tokenizer")

# %% [markdown]
# A program that prints each token of a model as it comes would show you � six times, where there should have been three
# letters. It has to wait until a character is complete. In exercise 4 you write that program.
#
# ## Are two losses comparable?
#
# You will soon train models, and compare them by their **loss**. That is the model's surprise at the next token, −ln p,
# averaged over all tokens, where p is the probability that the model gave to the token that really came. Its unit is
# the **nat** (lesson 02 goes into it). Now suppose that one model reads characters and another one reads BPE tokens.
# The second has fewer guesses to make for the same text, and each of them is harder, for it has to choose among more.
# So a loss *per token* of the one cannot be compared with a loss per token of the other.
#
# What can be compared is the surprise at the *same text*. Multiply the nats per token by the number of tokens, and you
# have the nats for the whole text. Divide by the number of its bytes, which does not depend on anybody's tokens, and
# you have nats per byte. By custom one then divides by ln 2 = 0.693, since a **bit** is a smaller unit than a nat, and
# so there are more of them. The result is called **bits per byte**.

# %%
def bits_per_byte(nats_per_token, tokens, line):
    nats = nats_per_token * tokens  # for the whole text
    return nats / len(line.encode()) / math.log(2)  # per byte, then in bits

# %% [markdown]
# For an example, take the dumbest model there is. It knows how often each token occurs in the training text, and at
# every position it predicts just that, whatever came before. Two of them, one for characters, one for BPE.

# %%
def loss_of_counting(train_ids, test_ids, vocab_size):
    """Nats per token of a model that always gives each token its frequency in training (plus 1)."""
    seen = Counter(train_ids)
    total = len(train_ids) + vocab_size
    return -sum(math.log((seen[i] + 1) / total) for i in test_ids) / len(test_ids)

# %%
for name, reader in (("characters", characters), ("BPE, 1,024", bpe)):
    corpus = picogpt.load_corpus(text, reader)  # the ids of both parts
    train_ids, test_ids = corpus.train.tolist(), corpus.val.tolist()
    loss = loss_of_counting(train_ids, test_ids, reader.vocab_size)
    nats, bits = loss * len(test_ids), bits_per_byte(loss, len(test_ids), val_text)
    print(f"{name}: {loss:.2f} nats x {len(test_ids):7,} tokens = {nats:7,.0f} nats", end="")
    print(f" for {len(val_text.encode()):,} bytes, {bits:.2f} bits per byte")
    assert math.isclose(bits, picogpt.bits_per_byte(loss, corpus)), "the course's own does the same"

# %% [markdown]
# Per token, the second looks far worse. For the whole text, it needs far fewer nats. Both know nothing but frequencies,
# yet one of them knows the frequencies of syllables and words, and that is worth a lot. Whenever you read two losses
# side by side, ask first what a token was in each.
#
# ## Training text, validation text
#
# A model has to be judged on text that it has not learned from, or else it could simply remember. So we keep a part of
# the text apart, the **validation text**: the last tenth, by `picogpt.split`.

# %%
data = torch.tensor(everything)  # (N=1115394,)
train, val = picogpt.split(data)  # (1003854,) and (111540,)
print(f"{len(train):,} characters to learn from, {len(val):,} to be judged by")

assert torch.equal(torch.cat([train, val]), data), "by position: first nine tenths, last tenth"

# %% [markdown]
# Why the last tenth, and not a tenth at random, as one does with pictures? Models read the text in windows, and windows
# overlap. Here are two of them, 16 characters apart. Suppose that the upper one is used for training, and the lower
# one, by the luck of the draw, for validation.

# %%
fig, ax = plt.subplots(figsize=(7.4, 1.5), layout="constrained")
for row, (start, name) in enumerate(((0, "training"), (16, "validation"))):
    ax.text(-0.8, row, name, ha="right", va="center", fontsize=11, color=draw.INK)
    for t, char in enumerate(text[start : start + 40].replace(" ", "␣").replace("\n", "↵"), start):
        shared = 16 <= t < 40
        colour = draw.HERE if shared else draw.PALE
        ax.add_patch(plt.Rectangle((t, row - 0.4), 0.94, 0.8, color=colour))
        ax.text(t + 0.47, row, char, ha="center", va="center", family="monospace", fontsize=10)
ax.set(xlim=(-10, 56.2), ylim=(1.6, -0.6))
ax.axis("off")
plt.show()

# %% [markdown]
# What is orange stands in both. So more than half of this "unseen" window has been seen, and its answers can be looked
# up. To show how much that is worth, here is a cheat that understands nothing at all. It keeps a book, in which it
# writes down which character followed after which 20 characters in the training windows, and in the test it looks them
# up.

# %%
def hits_of_the_cheat(train_windows, test_windows, n=20):
    """How often the book knows the next character: over all positions of the test windows."""
    book = {w[i : i + n]: w[i + n] for w in train_windows for i in range(len(w) - n)}
    pairs = [(w[i : i + n], w[i + n]) for w in test_windows for i in range(len(w) - n)]
    return sum(book.get(before) == after for before, after in pairs) / len(pairs)

# %%
windows = [text[i : i + 65] for i in range(0, 200_000, 16)]  # each overlaps its neighbours
order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0)).tolist()
shuffled, tenth = [windows[i] for i in order], len(windows) // 10
at_random = hits_of_the_cheat(shuffled[tenth:], shuffled[:tenth])
by_position = hits_of_the_cheat(windows[:-tenth], windows[-tenth:])
print(f"the cheat knows {at_random:.1%} in a random split, {by_position:.1%} in one by position")

assert at_random > 0.9 and by_position < 0.1, "a random split rewards memory, this one does not"

# %% [markdown]
# After a random split a book of quotations looks like a genius. After a split by position it knows next to nothing, and
# rightly so.
#
# ### What this split really asks
#
# So the split by position is the honest one. But it is worth looking at where the cut falls. Tiny Shakespeare consists
# of nine plays, one after another, and each speech begins with the name of its speaker. If we mark every speech, with
# its place in the text from left to right and its speaker from bottom to top, the plays become visible.

# %%
speeches = [(m.start(1), m[1]) for m in re.finditer(r"(?:^|\n\n)([^\n:]+):\n", text)]
speakers = list(dict.fromkeys(name for _, name in speeches))  # in the order of their first speech
cut = len(train_text)
plays = {"Coriolanus": "MENENIUS", "Richard III": "BUCKINGHAM", "Richard II": "HENRY BOLINGBROKE"}
plays |= {"Romeo and Juliet": "ROMEO", "3 Henry VI": "WARWICK", "The Winter's Tale": "LEONTES"}
plays |= {"Measure for Measure": "ISABELLA", "The Taming of the Shrew": "PETRUCHIO"}
plays |= {"The Tempest": "PROSPERO"}  # by somebody who speaks in it

# %%
fig, ax = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
spots = [(100 * at / len(text), speakers.index(who)) for at, who in speeches]
parts = (("training", draw.INK, 0, 90), ("validation", draw.WARM, 90, 100))
for name, colour, first, last in parts:
    part = [spot for spot in spots if first <= spot[0] < last]
    ax.plot(*zip(*part), ".", ms=3, color=colour, label=f"{name} text")
for play, who in plays.items():
    at, row = spots[[name for _, name in speeches].index(who)]
    ax.text(at - 1, row + 9, play, ha="right", fontsize=10, color=draw.INK)
ax.set(xlim=(-18, 101), ylim=(-12, 328))
ax.axvline(90, color=draw.WARM, lw=1)
ax.set(xlabel="position in the text (%)", ylabel="speakers, by first speech")
ax.set_title(f"{len(speeches):,} speeches by {len(speakers)} speakers", fontsize=12)
ax.legend(fontsize=10, markerscale=4, loc="lower right")
plt.show()

# %%
def share_known(start, end):
    """The share of the validation text's speeches whose speakers also speak in text[start:end]."""
    known = {who for at, who in speeches if start <= at < end}
    later = [who for at, who in speeches if at >= cut]
    return sum(who in known for who in later) / len(later)

# %%
print("the cut:", repr(text[cut - 66 : cut] + " ✂ " + text[cut : cut + 40]))
print("of all speeches in the validation text, these belong to speakers who also speak")
print(f"  in the last tenth of the training text:      {share_known(0.9 * cut, cut):5.1%}")
print(f"  in the nine tenths of it that come before:   {share_known(0, 0.9 * cut):5.1%}")

# %% [markdown]
# Every block is a play, and nearly every play has its own people. (The exception is *3 Henry VI*, where you can see
# some of *Richard III* again.) The cut, the vertical line, goes right through *The Taming of the Shrew*, in the middle
# of a sentence. So more than half of the speeches we validate on belong to people whom the model met on the pages just
# before. If we looked for the same people in all that comes earlier, we would find practically none.
#
# That does not make the split dishonest, for the two parts do not overlap. But it says what the question is. Our
# validation loss asks, for a good half, how well a model continues a play whose beginning it has read. It does not ask
# how well the model would do with an author, or even with a play, that is new to it. nanoGPT cuts the text at the same
# position, and we keep the cut, so that losses can be compared.
#
# ## A batch
#
# One thing is left to do before a model can learn: to cut the ids into pieces that it can digest. Training shows it
# many windows at once, a **batch** of B windows with T ids each. And the question at each position is always the same
# one: what comes next? So the answers are the same text, moved by one.

# %%
x, y = pc.get_batch(train, 3, 12, torch.Generator().manual_seed(8))  # (B=3, T=12) each

assert x.shape == y.shape == (3, 12)
assert torch.equal(x[:, 1:], y[:, :-1]), "the target at a position is the input at the next one"
print("x[0] =", x[0].tolist())
print("y[0] =", y[0].tolist())

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.2), layout="constrained")
for b in range(3):
    for row, ids, colour in ((0, x[b], draw.PALE), (0.9, y[b], draw.HERE)):
        for t, shown in enumerate(picogpt.visible_characters(characters.decode(ids))):
            ax.add_patch(plt.Rectangle((t, 2.4 * b + row), 0.94, 0.84, color=colour))
            middle = t + 0.47, 2.4 * b + row + 0.42
            ax.text(*middle, shown, ha="center", va="center", family="monospace", fontsize=12)
ax.set(xlim=(0, 12), ylim=(7, -0.2), xlabel="position t")
ax.set_xticks([t + 0.47 for t in range(12)], range(12))
ax.set_yticks([0.42, 1.32, 2.82, 3.72, 5.22, 6.12], ["x", "y"] * 3)
ax.tick_params(length=0)
ax.set_title("Three windows: y is x, one character later", fontsize=12)
for spine in ax.spines.values():
    spine.set_visible(False)
plt.show()

# %% [markdown]
# Put your finger on any blue tile: the orange one below it is the right answer, and it is also the next blue tile to
# the right. A window of 12 characters asks 12 questions at once: what follows after one character, after two, and so on
# up to twelve. That is what makes training efficient. It is also why a model must never see the tiles to its right, for
# the answers stand there in plain sight. Lesson 03 is about just that.
#
# ## Exercises
#
# ### 1. Train it
#
# Write BPE's training from a text to a list of merges: `train_bpe(text, n)`, without looking up. A merge is a pair of
# ids. The bytes have the ids 0 to 255 in the library's own order, which is given as `BYTES`: `BYTES.index(b"t")` is the
# id of *t*. The first merge makes the id 256, the second 257, and so on. Cut the text with `WORDS.findall(text)`. When
# several pairs are equally frequent, take the smallest pair of ids, as the library does.
#
# The check tries a short text first, and then asks for 768 merges of the whole training text, which take a simple
# solution up to half a minute. All 768 have to be the library's.
#
# <details><summary>A hint, if it should be faster</summary>
#
# After a merge, only those words have changed that contain the pair. Keep the counts, subtract what these words
# contributed, join, and add what they contribute now. A dictionary from each pair to the words that contain it finds
# them at once.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, first part: the library's merges (run this cell)
BYTES = bpe.pieces[:256]
saved = json.loads(bpe.saved["bpe"])["model"]
MERGES = [(saved["vocab"][left], saved["vocab"][right]) for left, right in saved["merges"]]


def join_ids(ids, pair, new):
    out = []
    for i in ids:
        out.append(i)
        if tuple(out[-2:]) == pair:
            out[-2:] = [new]
    return tuple(out)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second part: BPE, with a fault if need be (run this cell)
def bpe_with(text, n, cut=True, weigh=True, best=min, ids=BYTES):
    cutter, merges = pre_tokenizers.ByteLevel(add_prefix_space=False), []
    words = [text[a:b] for _, (a, b) in cutter.pre_tokenize_str(text)] if cut else [text]
    words = Counter(tuple(ids.index(bytes([byte])) for byte in word.encode()) for word in words)
    for new in range(256, 256 + n):
        pairs = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times if weigh else 1
        most = max(pairs.values())
        merges.append(best([pair for pair in pairs if pairs[pair] == most]))
        words = {join_ids(word, merges[-1], new): times for word, times in words.items()}
    return merges


def met_first(pairs):
    return pairs[0]

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, third part (run this cell)
def check_train(yours):
    short, n, in_order = train_text[:3000], 25, [bytes([byte]) for byte in range(256)]
    faults = {
        "a token reaches over a space: cut the text with WORDS.findall": dict(cut=False),
        "a word that occurs ten times has to count ten times": dict(weigh=False),
        "of equally frequent pairs take the smallest, not the largest": dict(best=max),
        "of equally frequent pairs take the smallest, not the one met first": dict(best=met_first),
        "your ids are the values of the bytes. Take BYTES.index": dict(ids=in_order),
    }
    try:
        for text, wanted in ((short, bpe_with(short, n)), (train_text, MERGES)):
            answer = yours(text, len(wanted))
            if answer is None:
                return print("not yet: it returned nothing")
            answer = [(int(left), int(right)) for left, right in answer]
            if answer != wanted:
                hints = [h for h, fault in faults.items() if bpe_with(short, n, **fault) == answer]
                at = next((i for i, p in enumerate(wanted) if answer[i : i + 1] != [p]), n)
                got = f"{wanted[at : at + 1]}, yours is {answer[at : at + 1]}"
                return print("not yet:", *hints or [f"merge {at} of {len(wanted)} should be {got}"])
        print(f"✓ {len(MERGES)} merges, every one the library's")
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}. Wanted is a list of pairs of ids")


# %% tags=["exercise"]
def train_bpe(text, n):
    ...  # your code: a list of n pairs of ids


check_train(train_bpe)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def train_bpe(text, n):
    words = Counter(WORDS.findall(text))
    now = {word: tuple(BYTES.index(bytes([byte])) for byte in word.encode()) for word in words}
    pairs, holders, merges = Counter(), {}, []

    def count(word, sign):
        for pair in itertools.pairwise(now[word]):
            pairs[pair] += sign * words[word]
            holders.setdefault(pair, set()).add(word)

    for word in words:
        count(word, +1)
    for new in range(256, 256 + n):
        most = max(pairs.values())
        pair = min(pair for pair, times in pairs.items() if times == most)
        for word in list(holders[pair]):
            count(word, -1)
            now[word] = join_ids(now[word], pair, new)
            count(word, +1)
        merges.append(pair)
    return merges


check_train(train_bpe)

# %% [markdown]
# ### 2. Encode and decode
#
# Write the other half: `encode(text, merges)` gives a list of ids, `decode(ids, merges)` gives the text. The merges are
# pairs of ids as in exercise 1; the check brings the library's 768. Where bytes are no valid text, `decode` should put
# in �, as the library does. The check compares with the library on the whole validation text.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, first part: two ways to encode that are not BPE (run this cell)
RANK = {pair: rank for rank, pair in enumerate(MERGES)}


def leftmost(line):
    """Joins whatever pair it can join, from the left."""
    ids = [BYTES.index(bytes([byte])) for byte in line.encode()]
    while spots := [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) in RANK]:
        ids[spots[0] : spots[0] + 2] = [256 + RANK[ids[spots[0]], ids[spots[0] + 1]]]
    return ids


def longest(line):
    """Takes the longest token that fits, from the left."""
    number, rest, ids = {piece: i for i, piece in enumerate(bpe.pieces)}, line.encode(), []
    while rest:
        size = next(size for size in range(len(rest), 0, -1) if rest[:size] in number)
        ids.append(number[rest[:size]])
        rest = rest[size:]
    return ids

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second part (run this cell)
def wrong_ids(line, answer):
    """What is wrong with a list of ids, in words; "" if nothing is."""
    answer, wanted = list(answer), bpe.encode(line)
    if answer == wanted:
        return ""
    if len(answer) == len(line.encode()):
        return "these are single bytes: no merge was applied"
    if len(line) < 100 and answer == leftmost(line):
        return "of a word's pairs, join first the one learned first"
    if len(line) < 100 and answer == longest(line):
        return "the longest token that fits is not BPE. Merge in order"
    return f"encode({line[:30]!r}) gave {answer[:9]}, wanted {wanted[:9]}"


def wrong_text(ids, answer):
    """What is wrong with a decoded text."""
    wanted = bpe.decode(ids)
    if isinstance(answer, str) and "Caf��" in answer:
        return "é is two tokens. Put all bytes together, then decode once"
    got = f"decode({ids[:9]}) gave {str(answer)[:30]!r}, wanted {wanted[:30]!r}"
    return "" if answer == wanted else got

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, third part (run this cell)
def check_tokenizer(encode, decode):
    lines = [" forsooth", " wherefore art thou", "Café, 日本?", val_text]
    try:
        for line in lines:
            answer = encode(line, list(MERGES))
            wrong = "encode returned nothing" if answer is None else wrong_ids(line, answer)
            if wrong:
                return print("not yet:", wrong)
        for ids in (*map(bpe.encode, lines), bpe.encode("日")[:2]):
            wrong = wrong_text(ids, decode(list(ids), list(MERGES)))
            if wrong:
                return print("not yet:", wrong)
        print(f"✓ {len(val_text):,} characters, all their ids the library's, and back again")
    except UnicodeDecodeError:
        print("not yet: when bytes are no text, decode(errors='replace') puts in �")
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")


# %% tags=["exercise"]
def encode(text, merges):
    ...  # your code: a list of ids


def decode(ids, merges):
    ...  # your code: a text


check_tokenizer(encode, decode)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def encode(text, merges):
    rank, known = {pair: i for i, pair in enumerate(merges)}, {}
    for word in set(WORDS.findall(text)):
        ids = tuple(BYTES.index(bytes([byte])) for byte in word.encode())
        while pairs := [pair for pair in itertools.pairwise(ids) if pair in rank]:
            pair = min(pairs, key=rank.get)  # of those that occur, the one learned first
            ids = join_ids(ids, pair, 256 + rank[pair])
        known[word] = ids
    return [i for word in WORDS.findall(text) for i in known[word]]


def decode(ids, merges):
    pieces = list(BYTES)
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    return b"".join(pieces[i] for i in ids).decode(errors="replace")


check_tokenizer(encode, decode)

# %% [markdown]
# ### 3. Which model is better?
#
# Both read the same English text. Model A guesses characters: 1.47 nats per character. Model B guesses BPE tokens: 3.3
# nats per token, and a token has 4 characters on average. All characters are one byte. How many bits per byte has each?

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_bits(a, b):
    for name, mine, nats, size in (("A", a, 1.47, 1), ("B", b, 3.3, 4)):
        wanted = nats / size / math.log(2)
        try:
            mine = float(mine)
        except Exception:
            print(f"not yet: put a number for {name} in place of the three dots")
            continue
        hints = {
            f"✓ {name}: {wanted:.2f} bits per byte": wanted,
            f"not yet: {name}'s surprise is spread over 4 bytes": nats / math.log(2),
            f"not yet: {name} is still in nats. A nat is 1 / ln 2 = 1.44 bits": nats / size,
            f"not yet: for {name}, divide by ln 2, do not multiply": nats / size * math.log(2),
        }
        found = next((hint for hint, number in hints.items() if abs(mine - number) < 0.02), None)
        print(found or f"not yet: {name} has nats per token / bytes per token / ln 2")


# %% tags=["exercise"]
bits_a = ...  # a number
bits_b = ...  # a number

check_bits(bits_a, bits_b)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
check_bits(1.47 / math.log(2), 3.3 / 4 / math.log(2))

# %% [markdown]
# ### 4. Print it as it comes
#
# A stretch, and something that every chat program needs. A model's tokens arrive one by one, as bytes. Write
# `stream(chunks)`, which gets a list of `bytes` and returns one string for each: whatever can be shown by then. Bytes
# that may still become a character have to wait (so a string may be empty), and bytes that never can are shown as �.
# What is still waiting at the end is left out.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_stream(yours):
    cases = [
        ([b"To ", b"be"], ["To ", "be"], "plain text can be shown at once"),
        ([b"caf", b"\xc3", b"\xa9!"], ["caf", "", "é!"], "the first byte of é has to wait"),
        ([b"\xf0\x9f", b"\x99", b"\x82"], ["", "", "🙂"], "four bytes in three chunks"),
        ([b"ok \xe6\x97"], ["ok "], "what is complete is shown, what is not waits"),
        ([b"a\xffb", b"c"], ["a�b", "c"], "ff is never a part of a character: do not wait for it"),
        ([b"\xc3", b"x"], ["", "�x"], "x shows that c3 will never be complete"),
        ([], [], "nothing gives nothing"),
    ]
    for chunks, wanted, why in cases:
        try:
            answer = yours(list(chunks))
            answer = answer if answer is None or answer is ... else list(answer)
        except Exception as error:
            return print(f"not yet: for {chunks} it stopped with {type(error).__name__}: {error}")
        if answer is None or answer is ...:
            return print("not yet: it returned nothing")
        if answer != wanted:
            return print(f"not yet: stream({chunks}) gave {answer}, wanted {wanted}: {why}")
    print("✓ nothing is shown too early, and nothing is lost")


# %% tags=["exercise"]
def stream(chunks):
    ...  # your code: a list of strings


check_stream(stream)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def stream(chunks):
    waiting, shown = b"", []
    for chunk in chunks:
        waiting, out = waiting + chunk, ""
        while waiting:
            try:
                out, waiting = out + waiting.decode(), b""
            except UnicodeDecodeError as error:
                out += waiting[: error.start].decode()
                waiting = waiting[error.start :]
                if error.reason == "unexpected end of data":
                    break  # the rest may still come
                out, waiting = out + "�", waiting[error.end - error.start :]
        shown.append(out)
    return shown  # Python has it built in: codecs.getincrementaldecoder("utf-8")(errors="replace")


check_stream(stream)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. encode and decode with characters, bytes and BPE, and say what each of them cannot do,
# 2. write BPE: count the pairs, join the most frequent, remember the merges, apply them in order,
# 3. look at a model's tokens first when it fails at spelling, at sums, or at a stray space,
# 4. turn a loss per token into bits per byte before you compare two models,
# 5. split by position, since windows overlap, and say what the validation text of Tiny Shakespeare asks,
# 6. draw a batch with `pc.get_batch`: y is x, moved by one.
#
# Three questions for a whiteboard, each answered with chalk and without notes: Take the words *hug*, *pug* and *hugs*,
# and do three merges by hand. Why do the same letters give different tokens when the merges are applied in another
# order? Model A has 1.5 nats per character and model B 3 nats per token: what do you need to know before you can say
# which is better?
#
# Next: [lesson 02](02_bigram_baseline.ipynb) builds the simplest model that learns, and asks what a loss means.
#
# ## Sources
#
# - Text: Tiny Shakespeare, from Andrej Karpathy's [char-rnn](https://github.com/karpathy/char-rnn).
# - BPE for text: Sennrich, Haddow and Birch 2015, [arXiv 1508.07909](https://arxiv.org/abs/1508.07909). On bytes, with
#   the pattern that cuts words: Radford et al. 2019 (GPT-2),
#   [code](https://github.com/openai/gpt-2/blob/master/src/encoder.py).
# - A tokenizer written from scratch, up to GPT-4's: Karpathy, [minbpe](https://github.com/karpathy/minbpe). The
#   library: [tokenizers](https://huggingface.co/docs/tokenizers).
# - Gemma's vocabulary: Gemma Team 2024, [arXiv 2403.08295](https://arxiv.org/abs/2403.08295).
# - Digits: Nogueira et al. 2021, [arXiv 2102.13019](https://arxiv.org/abs/2102.13019); single ones in Llama: Touvron et
#   al. 2023, [arXiv 2302.13971](https://arxiv.org/abs/2302.13971); groups of three:
#   [tiktoken](https://github.com/openai/tiktoken).
# - What tokens cost in other languages: Petrov et al. 2023, [arXiv 2305.15425](https://arxiv.org/abs/2305.15425).
# - Glitch tokens: Rumbelow and Watkins 2023,
#   [SolidGoldMagikarp](https://www.lesswrong.com/posts/aPeJE8bSo6rAFoLqg/solidgoldmagikarp-plus-prompt-generation);
#   Land and Bartolo 2024, [arXiv 2405.05417](https://arxiv.org/abs/2405.05417).
# - UTF-8: [RFC 3629](https://www.rfc-editor.org/rfc/rfc3629).
