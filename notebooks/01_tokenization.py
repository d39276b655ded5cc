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
# 2. write BPE yourself, its training and its use, equal, token for token, to Hugging Face's `tokenizers`,
# 3. see what tokens do to a model: why spelling and sums can be hard for it, and how a space can trip it up,
# 4. compare models with different tokens fairly, in bits per byte,
# 5. split a text so that the test cannot be won by remembering, and know what such a split really asks,
# 6. draw a training batch, and see why the targets are the inputs shifted by one.
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
# becomes a list of them. It is cut into pieces, called **tokens**, and each token has a number, its **id**. Here is one
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
# @title A helper that tokenizes a line in four ways (run this cell, then go on)
def label(piece):
    """A token as text: ␣ and ↵ for what is invisible, ⟨hex⟩ for a byte that is no character."""
    shown = re.sub(r"\\x(\w\w)", r"⟨\1⟩", piece.decode(errors="backslashreplace"))
    return shown.replace("⟩⟨", "·").replace(" ", "␣").replace("\n", "↵")


def four_ways(line):
    """The tokens of a line and their ids, in each vocabulary; None where a character has no id."""
    known, numbers = characters.chars, list(line.encode())
    tokens = {"65 characters": [label(char.encode()) for char in line]}
    tokens["256 bytes"] = [label(bytes([number])) for number in numbers]
    ids = {"65 characters": [known.index(c) if c in known else None for c in line]}
    ids["256 bytes"] = numbers
    for name, tokenizer in learned.items():
        ids[name] = tokenizer.encode(line)
        tokens[name] = [label(tokenizer.pieces[i]) for i in ids[name]]
    return tokens, ids

# %%
first_line = "My lord, we owe 1275 to the café in Αθήνα."
fig, ax = plt.subplots(figsize=(6.2, 8.2), layout="constrained")
draw.spans(ax, *four_ways(first_line), columns=48)
plt.show()

# %% [markdown]
# Each tile is one token, with its id below. Look at how differently the same sentence falls apart. The characters are
# easy to follow, but they cannot say *1275*, *é* or *Αθήνα* (Athens) at all: whatever was not in their text has no id.
# Bytes can say everything, at the price of the longest list. GPT-2 needs the fewest tokens, many of them whole words
# with the space before them attached (a space is drawn as ␣). And yet, of the five letters of Athens, it tears three
# apart into bytes, which are not even letters (the first of them with the space before it). Even stranger, it reads
# 1275 as *12* and *75*.
#
# (A byte that is only a part of a character is drawn in hexadecimal, like ⟨ce⟩. Its id is its value in the second row,
# but not in the last two: they number the bytes in GPT-2's own order, in which the space is 220.)
#
# None of this is the model's doing. It is decided before the model sees anything, it never changes afterwards, and the
# model has to live with it. So where do such tokens come from, and what do they do to a model? That is the question of
# this lesson.
#
# ## Try your own
#
# In a notebook there is a box below. Try your name, your language, a sum, a line of code. Hold the mouse over a piece
# to see its id.

# %% jupyter={"source_hidden": true} cellView="form"
# @title The box (run this cell, then go on)
def as_html(line):
    tokens, ids = four_ways(line)
    rows = []
    for name, row in tokens.items():
        spans = ""
        for t, (token, i) in enumerate(zip(row, ids[name])):
            colour = draw.WARM if i is None else draw.SPANS[t % 4]
            style = f"background:{colour}; color:black; padding:1px 2px"
            spans += f'<span title="{i}" style="{style}">{html.escape(token)}</span>'
        rows.append(f"<b>{name}</b>: {len(row)}<br><code>{spans}</code>")
    return "<br>".join(rows)


def as_text(line):
    tokens, _ = four_ways(line)
    return "\n".join(f"{name}: {len(row)}\n  {'|'.join(row)}" for name, row in tokens.items())

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
    print(as_text("To be, or not to be?"))

# %% [markdown]
# (Without a kernel there is no box; the picture above stands for it.)
#
# ## Which characters are there?
#
# We begin with the simplest way, one id for each different character, because it is the one that this course uses.
# Which characters are there in our text, and how often does each occur?

# %%
count = Counter(text)
chars = sorted(count)
print(f"{len(text):,} characters, {len(chars)} different ones:")
print(repr("".join(chars)))

# %%
common = count.most_common()
panels = {"The 12 most common": common[:12], "The 12 rarest": common[-12:]}
fig, axes = plt.subplots(1, 2, figsize=(5.9, 3.8), layout="constrained")
for ax, (title, some) in zip(axes, panels.items()):
    heights = [n for _, n in some]
    colours = [draw.WARM if c in "$&3" else draw.INK for c, _ in some]
    bars = ax.barh(range(12), heights, color=colours)
    ax.bar_label(bars, [f"{n:,}" for n in heights], padding=3, fontsize=10)
    ax.set_yticks(range(12), [label(c.encode()) for c, _ in some], fontsize=12, family="monospace")
    ax.set(xlim=(0, 1.4 * max(heights)), xticks=[], ylim=(11.6, -0.6))
    ax.set_title(title, fontsize=12)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
plt.show()

# %%
speaker = re.compile(r"(?:^|\n\n)([^\n:]+):\n")  # a name alone on a line, and a colon
names = "".join(speaker.findall(text))
capitals, in_names = sum(map(str.isupper, text)), sum(map(str.isupper, names))
at_start = len(re.findall(r"(?m)^[A-Z]", speaker.sub("\n", text)))  # of a line that is not a name
print(f"{capitals:,} capitals: {in_names / capitals:.0%} in names of speakers, ", end="")
print(f"{at_start / capitals:.0%} at the start of other lines")

# %% [markdown]
# (␣ is the space, and ↵ the end of a line.) Spaces and small letters lead, as in any English text. Of the capitals,
# most stand in the names of speakers, one before each speech, and a quarter begin a line, as verse does. But who are
# the three strangers in orange?

# %%
for char in "$&3":
    at = text.index(char)
    print(f"{count[char]:3} x {char!r}: {text[at - 30 : at + 16]!r}")

# %% [markdown]
# `$` is a misprint inside one word, *shall*. `&` comes from `&c`, the old way to write *et cetera*. And every `3`
# belongs to a page heading, *3 KING HENRY VI*, which somebody forgot to take out. So two of our 65 ids are noise, and
# a third is hardly there. A model will learn all of it, noise included, and no error message will ever tell you. Look
# at your data first.
#
# ## Characters to ids and back
#
# The list of all tokens is the **vocabulary**. Ours is the sorted list of the 65 characters, and the id of a character
# is its position in it. Two lines of Python do the rest.

# %%
to_id = {char: i for i, char in enumerate(chars)}
before = [to_id[char] for char in "Before we proceed"]
print(before)
print("".join(chars[i] for i in before))

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
# nothing else. Unicode has more than 150,000 characters, so giving each an id is not a pleasant way out either.
#
# ## Bytes: nothing is ever unknown
#
# There is a level below the characters. Whatever a file says, it consists of **bytes**, numbers from 0 to 255. The
# usual encoding, UTF-8, writes a plain English letter as one byte, `é` as two, most Chinese and Japanese characters as
# three and many emoji as four. If the bytes are our tokens, 256 ids are enough for every text that can be written.

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
# character. (In exercise 4 you write a program that waits for the other half.)
#
# The second thing is length. A model looks at a window of so many tokens, and as attention compares each position with
# each other one (lesson 03), a window twice as long costs more than twice as much. Bytes make long lists. What one
# would like is both, few tokens for a text and none unknown. The way to get it is to start from bytes, and to join what
# often stands together.
#
# GPT-2, GPT-4 and Llama 3 do just that. Llama 2 and Gemma, whose tokenizers come from the library **SentencePiece**,
# start from characters, and write a character that they do not know as its bytes (**byte fallback**). BERT's WordPiece
# and T5's Unigram choose their pieces by other rules.
#
# ## Byte pair encoding, by hand
#
# **Byte pair encoding**, or BPE, repeats one step. Count all pairs of neighbours. Take the most frequent pair, and make
# it one new token. That is all. We try it on a toy text of nine words, and to keep it readable we start from letters.
#
# Two small functions are needed. One counts the pairs, the other joins one pair wherever it occurs. A word is a tuple
# of tokens, and with each word we keep how often it occurs, so that *low*, three times in our toy, need not be
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
toy_words = {tuple(word): times for word, times in Counter(toy.split()).items()}
for word, times in toy_words.items():
    print(times, "x", " ".join(word))
print("the most frequent pairs:", count_pairs(toy_words).most_common(3))
print(merge(tuple("lower"), ("l", "o")), merge(tuple("aaa"), ("a", "a")))

# %% [markdown]
# The pair *l o* occurs five times: three times in *low*, once in *lower*, once in *lowest*. So does *o w*, for every
# *lo* is followed by a *w*, and of equals we take the one that was met first. The last line shows the join at work. In
# *aaa* the pair *a a* could be joined at two spots; we go from the left, and what is used up cannot be used again.
#
# Now repeat. The loop needs to remember one thing only, which pair it joined at each step.

# %%
def learn(words, n):
    """The first n merges, each the most frequent pair of its time, and how often each occurred."""
    merges, joined = [], []
    for _ in range(n):
        pairs = count_pairs(words)
        pair = max(pairs, key=pairs.get)  # of equals, the one met first
        words = {merge(word, pair): times for word, times in words.items()}
        merges.append(pair)
        joined.append(pairs[pair])
    return merges, joined

# %%
toy_merges, joined = learn(toy_words, 6)
print(", ".join(f"{a} + {b} {times} times" for (a, b), times in zip(toy_merges, joined)))

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
state = list(toy_words)
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
ax.tick_params(length=0)
ax.set_title("Six merges: the new token in orange", fontsize=12)
ax.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Read it from top to bottom. After two merges *low* has become a single token, and it serves in *lower* and *lowest*
# too. Two more make the ending *est*. Nobody told the procedure about stems and endings. It was told where words end,
# since we split the text at the spaces, but within a word it found by counting what a grammar would have said. (The toy
# was made for it, and at the third merge four pairs tie. On real text, tokens often ignore stems and endings.)
#
# ### A new word
#
# The list of merges *is* the tokenizer. To encode a word that was not in the text, start from its letters and apply the
# merges **in the order in which they were learned**. To decode, write the tokens one after another. Let us follow one
# word.

# %%
def encode_word(word, merges):
    """A word, given in its smallest pieces, with the merges applied in order."""
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
# order a merge comes before the one that makes its parts, and finds nothing to join.
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
# does without them, when nothing is split and any two neighbours may be joined.

# %%
def smallest(word):
    """A word as a tuple of single bytes."""
    return tuple(bytes([number]) for number in word.encode())


unsplit, _ = learn({smallest(train_text[:100_000]): 1}, 14)
print([(left + right).decode() for left, right in unsplit])

# %% [markdown]
# The very first token it makes is an *e* with the space after it, and before long there are tokens for a comma with a
# space, and for a colon with the end of its line. It is quite right, these are frequent pairs. But then *the* before a
# space and *the* before a comma become different tokens, and everything the model learns about *the* has to be learned
# several times over. So GPT-2 first splits the text into words, a step called **pre-tokenization**, and BPE joins only
# within a word. A **regular expression**, a pattern for searching in text, says what counts as a word. At each point of
# the text the parts of the pattern are tried from top to bottom, and the first that fits is taken. Here are five. (You
# need not know such patterns: read the second column of the table, and the example in the third.) A sixth, `\s+`, is
# the last resort for what they leave, such as a line end before a word.
#
# | part | what it matches | in the line below |
# |---|---|---|
# | `'s`, `'t`, `'re` … | the endings of English contractions | `'s` |
# | `[^\W\d_]+` | letters: none of `\W` (what no word has), `\d` (digits) and `_` | `␣gone` |
# | `\d+` | digits | `␣1275` |
# | `[^\s\w]+` | signs: neither `\s` (spaces and line ends) nor `\w` (what words have) | `,` |
# | `\s+(?!\S)` | spaces and line ends, but not the last before a word: `(?!\S)` says "now no `\S`" | `↵␣` |
#
# A ` ?` before the three in the middle is an optional space, which then goes with the word.

# %%
WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"
    r"| ?[^\W\d_]+"
    r"| ?\d+"
    r"| ?(?:[^\s\w]|_)+"  # to Python, words have _
    r"|\s+(?!\S)|\s+"  # a line end before a word, which no other part takes, stands alone
)
print(WORDS.findall("Thou'rt gone, and 1275 men;\n  that's all."))

# %% [markdown]
# So a space belongs to the word that follows it, and where there are two, the second does. Notice the odd treatment of
# *Thou'rt*: the pattern knows *'t* and *'re*, from a list of modern contractions, and it does not know Shakespeare's.
# Such a choice looks like a detail, but every token that GPT-2 has ever read went through this line. (GPT-4's pattern
# also takes contractions in capitals, at most three digits together, and with a word any one sign before it.)
#
# Is ours the same as the library's? `tokenizers`, by Hugging Face, comes with many open models, and it has GPT-2's
# pattern built in, in a slightly different dialect. We compare the two on the whole text.

# %%
def library_split(line):
    found = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(line)
    return [line[start:end] for _, (start, end) in found]

# %%
text_words = WORDS.findall(text)

assert text_words == library_split(text), "the same words, all of them"
assert "".join(text_words) == text, "nothing is lost between two words"
print(f"{len(text_words):,} words, {len(set(text_words)):,} different ones, as in the library")
print("the most common:", Counter(text_words).most_common(7))
print("not always the same:", WORDS.findall("H₂O"), library_split("H₂O"))

# %% [markdown]
# On our text they agree. Elsewhere they can differ, as the last line shows: to the library, ₂ counts as a number.
#
# Now the loop, the same three functions as for the toy, with bytes in place of letters. The course's
# `picogpt.learn_bpe` lets the library do the same, much faster. Ours should find the same tokens, in the same order.
# (Among the first merges no two pairs are equally frequent. Exercise 1 says what the library does when they are.)
#
# <details><summary>Before you run the next cell: which word of three letters or more will be the first to become a
# single token?</summary>
#
# The most common English word, *the*, with the space before it. It takes a while, though: first its parts have to be
# joined.
# </details>

# %%
n = picogpt.budget(smoke=20, quick=100, full=130)  # 100, and more on a slower setting
train_words = Counter(WORDS.findall(train_text))
merges, joined = learn({smallest(word): times for word, times in train_words.items()}, n)
tokens = [left + right for left, right in merges]
library = picogpt.learn_bpe(train_text, 256 + n)  # 256 bytes and n merges

assert tokens == library.pieces[256:], "the library's tokens, in the library's order"
print(f"{n} merges, all equal to the library's. The first 50:")
print(" | ".join(map(label, tokens[:50])))
some = [i for i in (1, 2, 5, 10, 20, 50, 100) if i <= n]
print("Pairs joined:", ", ".join(f"{joined[i - 1]:,} by merge {i}" for i in some))
print("The longest of 1,024:", " | ".join(map(label, sorted(bpe.pieces, key=len)[-8:])))

# %% [markdown]
# `␣t` comes first, because so many English words begin with *t*. The eleventh token is `␣the`, and it was made of `␣t`
# and `he`. So far this could be any English book. What is Shakespeare's own comes later, when whole names are frequent
# enough: the last line shows the longest tokens among the 1,024 of the picture at the top. And look at how often each
# merge found its pair: no merge is used more often than the one before it. The later a token is learned, the fewer
# examples of it there are, which will matter when we ask how large a vocabulary should be.
#
# Next comes encoding. We take the whole validation text (the last tenth of Shakespeare, kept apart for testing, which
# no merge was learned from), split it into words, and apply the merges to each. (A token's id is then its position in
# one long list: first the 256 bytes, in GPT-2's order, then the merges as they were learned.) The same word always
# gives the same tokens, so each different word needs to be encoded only once.

# %%
once = {word: encode_word(smallest(word), merges) for word in set(WORDS.findall(val_text))}
val_tokens = [token for word in WORDS.findall(val_text) for token in once[word]]

assert val_tokens == [library.pieces[i] for i in library.encode(val_text)], "token by token"
assert b"".join(val_tokens).decode() == val_text, "and nothing is lost"
print(f"{len(val_text):,} characters to validate on: {len(val_tokens):,} tokens, all the library's")

# %% [markdown]
# So there is no secret left in the library, only speed. Some forty lines of Python have done what it does: count, join,
# remember, and apply in order. In exercises 1 and 2 you write it yourself, with ids, for all of the 768 merges that
# lead to a vocabulary of 1,024.
#
# ### GPT-2's tokenizer, from its merges
#
# Is that enough for a real model? GPT-2's merges are public, 50,000 pairs in the order in which they were learned. To
# go through all of them for each word would be slow, so we ask instead which of the word's own pairs was learned first,
# join that one, and look again. It gives the same tokens, because a merge can only enable later ones: each new pair
# contains the token just made, and so it was learned after it.

# %%
def encode_fast(line, merges):
    """The tokens of a text. In each word, again and again, join the pair that was learned first."""
    rank, done = {pair: i for i, pair in enumerate(merges)}, {}
    for word in set(WORDS.findall(line)):
        done[word] = smallest(word)
        while pairs := [pair for pair in itertools.pairwise(done[word]) if pair in rank]:
            done[word] = merge(done[word], min(pairs, key=rank.get))
    return [token for word in WORDS.findall(line) for token in done[word]]


assert encode_fast(val_text, merges) == val_tokens, "the same as merge after merge"

# %%
if gpt2:
    public = json.loads(gpt2.saved["bpe"])["model"]
    piece = {name: gpt2.pieces[i] for name, i in public["vocab"].items()}
    gpt2_merges = [(piece[left], piece[right]) for left, right in public["merges"]]
    for line in (first_line, val_text):
        ours = encode_fast(line, gpt2_merges)
        assert ours == [gpt2.pieces[i] for i in gpt2.encode(line)], "token by token"
        print(f"{len(ours):,} tokens, all GPT-2's:", " | ".join(map(label, ours[:20])))
else:
    print("this needs GPT-2's tokenizer")

# %% [markdown]
# These are GPT-2's own tokens, every one of them, and the first list is the last row of the picture at the top. A few
# lines that began with *low low low* are a real model's tokenizer, as soon as they are given its merges.
#
# ### One token that is not text
#
# GPT-2 was trained on millions of web pages, strung together into one long list of ids. How should it know where one
# page ends, and that the next one has nothing to do with it? By a **special token**, an id that no merge can produce,
# and which is put between two documents. It is written `<|endoftext|>`, but those thirteen characters are only its
# name.

# %%
line = "The end.<|endoftext|>Once upon"
for name, tokenizer in learned.items():
    print(f"{name:20}", " | ".join(label(tokenizer.pieces[i]) for i in tokenizer.encode(line)))
if gpt2:
    print("id of the special token in GPT-2:", gpt2.encode("<|endoftext|>"))

# %% [markdown]
# To GPT-2 the name is one token, the last of its 50,257: 256 bytes, 50,000 merges and this one. Our own tokenizer,
# which has never heard of it, spells out the name like any other text. How does one add such a token? Not by merges.
# One splits the text at the name first and encodes the rest as usual.

# %%
def encode_with_special(line, encode, special):
    """Encode a line in which the names of special tokens may stand. special: {name: id}."""
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", line)
    return [i for part in parts for i in ([special[part]] if part in special else encode(part))]

# %%
print(encode_with_special(line, bpe.encode, {"<|endoftext|>": 1024}))
if gpt2:
    ids = encode_with_special(line, gpt2.encode, {"<|endoftext|>": 50256})
    assert ids == gpt2.encode(line), "GPT-2's tokenizer does the same"
    print(ids)

# %% [markdown]
# A vocabulary of 1,024 now has 1,025 ids, and the model's two tables of vectors, of which more below, need one more
# row each. Chat models have a handful of such tokens, which mark where the user's turn ends and the assistant's
# begins. That makes for a security rule. What a *user* types must never be encoded with the special tokens switched
# on, or else whoever types `<|endoftext|>` into a form can end your document for you. (The `gpt2` of this lesson has
# them on, as you saw. Type the name into the box at the top.) Tiny Shakespeare has one play after another, with no
# marker between them. We leave it so, and do without special tokens.
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
    tokenizer = picogpt.learn_bpe(train_text, size)
    held.append(len(val_text) / len(tokenizer.encode(val_text)))  # characters per token
    seen = Counter(tokenizer.encode(train_text))
    often.append(statistics.median(seen.values()))  # of the tokens that occur at all
    print(f"{size:5} tokens, {len(seen):5} of which occur: ", end="")
    print(f"{held[-1]:.2f} characters each, {often[-1]:,.0f} occurrences (median)")

assert often == sorted(often, reverse=True), "larger vocabulary, rarer tokens"
assert held == sorted(held), "each merge can only shorten the text"

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
drawn_at = [65, *sizes[1:]]  # of the 256 bytes only 65 occur
axes[0].plot(drawn_at, held, "o-", color=draw.INK)
if gpt2:
    held_by_gpt2 = len(val_text) / len(gpt2.encode(val_text))
    axes[0].plot([50257], [held_by_gpt2], "D", color=draw.WARM)
    axes[0].text(42000, held_by_gpt2, "GPT-2", ha="right", va="top", color=draw.WARM, fontsize=11)
axes[0].set_title("Larger vocabulary, shorter text:\ncharacters per token", fontsize=11)
axes[1].plot(drawn_at, often, "o-", color=draw.INK)
axes[1].set(yscale="log")
axes[1].set_title("… and fewer examples of each:\noccurrences in training (median)", fontsize=11)
for ax in axes:
    ax.set(xscale="log", xlabel="vocabulary size")
    ax.set_xticks([65, 1024, 8192], ["65", "1,024", "8,192"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
if gpt2:
    axes[0].set_xticks([65, 1024, 8192, 50257], ["65", "1,024", "8,192", "50,257"])
plt.show()

# %% [markdown]
# The first point stands at 65, for that many of the 256 bytes occur. On the left, the first 256 merges bring 0.9
# characters a token, and each doubling from there on only 0.3 to 0.4. On the right is the price, on a logarithmic
# scale: with every doubling, the typical token has far fewer occasions to be learned from. The orange mark is a small
# surprise. GPT-2's 50,257 tokens do not shorten Shakespeare quite as far as our 8,192 do, because they have to serve
# web pages of all kinds. A tokenizer fits the text that it was learned from.
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
# vocabulary. Large models, with large texts to learn from, have chosen anything from 32,000 tokens (Llama 2) over
# 128,000 (Llama 3) to 256,000 (Gemma). **This course stays with the 65 characters**, since our text is small and so is
# our model. And there is a last reason: with characters nothing is hidden. You see every single guess that the model
# makes.
#
# ## What tokens do to a model
#
# Why does a model miscount the letters of a word? Why can a space at the end of a prompt confuse it? Why are sums hard,
# why does a text in Greek cost more than in English, and how can a single name throw a model off its track? These
# questions have one thing in common. A model never sees your text. It sees ids, and anything that is not visible in the
# ids, it has to learn from examples, or it does not know it.
#
# **Spelling.** How many r's are there in *strawberry*?

# %%
def show(line, tokenizers=learned):
    for name, tokenizer in tokenizers.items():
        ids = tokenizer.encode(line)
        print(f"  {name:22} {' | '.join(label(tokenizer.pieces[i]) for i in ids):34} {ids}")

# %%
for line in (" strawberry", "strawberry", "STRAWBERRY"):
    print(repr(line))
    show(line)

# %% [markdown]
# Inside a sentence, GPT-2 reads the whole word as one number, and no letter is to be seen in it. To count its r's, a
# model must have learned from somewhere how token 41236 is spelled. The same word at the beginning of a line, or in
# capitals, is a list of other numbers, and nothing in the ids tells that it is the same word. What looks like a slip of
# reasoning can be a question about something that the model cannot see.
#
# **Spaces.** The space before a word has an unpleasant consequence, which you may meet yourself. Many people end a
# prompt with a space, as in `To be `, and expect *or not* to come next. But look at the tokens of that, and at how
# often they occur in our training text.

# %%
encoded = {name: tokenizer.encode(train_text) for name, tokenizer in learned.items()}
for name, tokenizer in learned.items():
    one, space, rest = (tokenizer.pieces.index(piece) for piece in (b" or", b" ", b"or"))
    after = Counter(b for a, b in itertools.pairwise(encoded[name]) if a == space)
    show("To be ", {name: tokenizer})
    print(f"     in our training text: ␣or {encoded[name].count(one)} times,", end="")
    print(f" ␣ | or {after[rest]} times")
    first = [f"{label(tokenizer.pieces[i])} ({times})" for i, times in after.most_common(5)]
    print(f"     ␣ as a token of its own {after.total()} times, before", ", ".join(first))

# %% [markdown]
# A space followed by `or` never occurs, since the two are one token, `␣or`, wherever they meet in a text. (That holds
# for any text, also for those that GPT-2 was trained on.) So after a lone space a model expects anything but `or`: our
# tokenizer reads one before *What* and *But*, which have no token with a space attached. The rule: with such
# tokenizers, do not end a prompt with a space. (Our character models do not mind.)
#
# **Indentation.** Python is full of rows of spaces. What becomes of eight of them?

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
# second. Is that an unlucky example? Let us tokenize all numbers from 1000 to 9999.

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
# Five ways to split four digits, and which one it is depends on what happened to be frequent in the text that the
# merges were learned from. To add two numbers, a model has to know for each of them how it was split. Later tokenizers
# split numbers by rule instead, into single digits (Llama 2, Gemma) or groups of at most three (GPT-4, Llama 3).
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
    for name, tokenizer in learned.items():
        print(f", {name.split(',')[0]}: {len(tokenizer.encode(line)):3} tokens", end="")
    print()

# %% [markdown]
# In Greek and in Japanese, GPT-2 needs more tokens than there are characters, and in Greek about seven times as many as
# in English. Where text is paid for by the token, the same sentence costs seven times as much, and a window that holds
# seven pages of English holds one of Greek. Our own tokenizer is even worse. It has seen nothing but English, so in
# Greek and Japanese it falls back to single bytes.
#
# **Tokens that nobody has trained.** A last oddity. Are all of our 1,024 tokens used?

# %%
seen = Counter(encoded["BPE, 1,024 tokens"])
unused = [label(bpe.pieces[i]) for i in range(256, 1024) if seen[i] == 0]
print(f"{len(unused)} of 768 learned tokens never occur in the text that they were learned from:")
print(" | ".join(unused))
show("ROM", {"BPE, 1,024 tokens": bpe})
if gpt2:
    show(" SolidGoldMagikarp", {"GPT-2, 50,257 tokens": gpt2})

# %% [markdown]
# How can a token be learned and not occur? It was a step on the way. `ROM` was joined because *ROMEO* is frequent,
# then the whole name became a token, and now every `ROM` of the training text is inside it. (`IOLAN` and `NTES` are
# neither stems nor endings.) So in training nobody ever looks up the vector that stands for `ROM` at the model's
# entrance. In PicoGPT it would stay as random as it began, and whoever types just these three letters makes the model
# read it. Were it tied to the vector at the exit, as in GPT-2, it would be trained, but only as the wrong answer.
#
# GPT-2's vocabulary contains whole words of this kind. The most famous is `␣SolidGoldMagikarp`, the name of a Reddit
# user. It was frequent enough where the merges were learned to become one token, and so rare where the models were
# trained that they were found to behave very strangely when they met it (Rumbelow and Watkins 2023). Such tokens are
# called *glitch tokens*.
#
# ## Are two losses comparable?
#
# You will soon train models, and compare them by their **loss**. That is the model's surprise at the next token, −ln p,
# averaged over all tokens, where p is the probability that the model gave to the token that really came. Its unit is
# the **nat** (lesson 02 goes into it). Now suppose that one model reads characters and another one reads BPE tokens.
# The second has fewer guesses to make for the same text, and each of them is harder, for each stands for more text. So
# a loss *per token* of the one cannot be compared with a loss per token of the other.
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
# For an example, take a model that only counts. It knows how often each token occurs in the training text, and at
# every position it predicts just that, whatever came before (lesson 02 calls it a *unigram* model). Two of them, one
# for characters, one for BPE.

# %%
def loss_of_counting(train_ids, test_ids, vocab_size):
    """Nats per token of a model that always gives each token its frequency in training.

    Each is counted once more than it occurs, so that no token has probability 0.
    """
    seen = Counter(train_ids)
    total = len(train_ids) + vocab_size
    return -sum(math.log((seen[i] + 1) / total) for i in test_ids) / len(test_ids)

# %%
for name, tokenizer in (("characters", characters), ("BPE, 1,024", bpe)):
    corpus = picogpt.load_corpus(text, tokenizer)  # the ids of both parts
    train_ids, test_ids = corpus.train.tolist(), corpus.val.tolist()
    loss = loss_of_counting(train_ids, test_ids, tokenizer.vocab_size)
    nats, bits = loss * len(test_ids), bits_per_byte(loss, len(test_ids), val_text)
    print(f"{name}: {loss:.2f} nats x {len(test_ids):7,} tokens = {nats:7,.0f} nats", end="")
    print(f" for {len(val_text.encode()):,} bytes, {bits:.2f} bits per byte")
    assert math.isclose(bits, picogpt.bits_per_byte(loss, corpus)), "the course's own does the same"

# %% [markdown]
# Per token, the second looks far worse. For the whole text, it needs a quarter fewer nats. Both know nothing but
# frequencies, yet one of them knows the frequencies of syllables and words, and that is worth a lot. Whenever you
# read two losses side by side, ask first what a token was in each.
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
# Why the last tenth, and not a tenth at random, as one does with pictures? A model reads the text in windows, and these
# usually overlap. Here are two, 16 characters apart. Suppose that the upper one is used for training, and the lower
# one, by the luck of the draw, for validation.

# %%
fig, ax = plt.subplots(figsize=(5.6, 1.6), layout="constrained")
for row, (start, name) in enumerate(((0, "training"), (16, "validation"))):
    ax.text(-0.8, row, name, ha="right", va="center", fontsize=11, color=draw.INK)
    for t, char in enumerate(label(text[start : start + 40].encode()), start):
        shared = 16 <= t < 40
        colour = draw.HERE if shared else draw.PALE
        ax.add_patch(plt.Rectangle((t, row - 0.4), 0.94, 0.8, color=colour))
        ax.text(t + 0.47, row, char, ha="center", va="center", family="monospace", fontsize=10)
ax.set(xlim=(-10, 57), ylim=(1.6, -0.6))
ax.axis("off")
plt.show()

# %% [markdown]
# What is orange stands in both. More than half of this "unseen" window has been seen, so its answers can simply be
# looked up. That is **data leakage**: something of the test has found its way into the training. How much is it worth?
# Let us take a model that understands nothing at all, a lookup table. For any 20 characters in a row it remembers the
# character that came next in training.

# %%
def table_hits(train_windows, test_windows, n=20):
    """How often a lookup table knows the next character, over all positions of the test windows."""
    table = {w[i : i + n]: w[i + n] for w in train_windows for i in range(len(w) - n)}
    pairs = [(w[i : i + n], w[i + n]) for w in test_windows for i in range(len(w) - n)]
    return sum(table.get(before) == after for before, after in pairs) / len(pairs)

# %%
def shuffled(windows):
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return [windows[i] for i in order.tolist()]

# %%
overlapping = [text[i : i + 65] for i in range(0, 200_000, 16)]
separate = [text[i : i + 65] for i in range(0, 200_000, 65)]
hits = []
for what, windows in (
    ("overlapping windows, a tenth of them at random", shuffled(overlapping)),
    ("separate windows,    a tenth of them at random", shuffled(separate)),
    ("overlapping windows, the last tenth of them   ", overlapping),
):
    tenth = len(windows) // 10
    hits.append(table_hits(windows[:-tenth], windows[-tenth:]))
    print(f"{what}: the table knows {hits[-1]:5.1%}")

assert hits[0] > 0.9 and max(hits[1:]) < 0.02, "the leak is in the overlap, not in the chance"

# %% [markdown]
# In the first line the table looks like a genius. But the second line shows that chance is not to blame: where windows
# share no text, the table knows next to nothing of a tenth drawn at random. The leak comes from windows that overlap.
# So split the text *before* you make windows of it, and the last tenth is the simplest such split.
#
# ### What this split really asks
#
# No answer leaks through our split. But it is worth looking at where it falls. Tiny Shakespeare has eight plays, one
# after another, and the opening of a ninth, which breaks off in mid-scene. Each speech begins with the name of
# its speaker. If we mark every speech, with its position in the text from top to bottom and its speaker from left to
# right, the plays become visible.

# %%
speeches = [(m.start(1), m[1]) for m in speaker.finditer(text)]
speakers = list(dict.fromkeys(name for _, name in speeches))  # in the order of their first speech
split_at = len(train_text)
plays = {"Coriolanus": "First Citizen", "Richard III": "GLOUCESTER"}  # who speaks first
plays |= {"Richard II": "KING RICHARD II", "Romeo and Juliet": "SAMPSON"}
plays |= {"3 Henry VI": "WARWICK", "The Winter's Tale": "ARCHIDAMUS"}
plays |= {"Measure for Measure": "DUKE VINCENTIO", "Taming of the Shrew": "SLY"}
plays |= {"The Tempest": "Master"}
begins = [next(at for at, name in speeches if name == who) for who in plays.values()]
play_ends = [*begins[1:], len(text)]

# %%
fig, ax = plt.subplots(figsize=(6.4, 5.4), layout="constrained")
for i, (begin, end) in enumerate(zip(begins, play_ends)):
    colour = draw.SPANS[1] if begin > split_at else (draw.PALE, "white")[i % 2]
    ax.axhspan(begin, end, color=colour, lw=0)
for name, colour, late in (("training", draw.INK, False), ("validation", draw.WARM, True)):
    part = [(speakers.index(who), at) for at, who in speeches if (at >= split_at) == late]
    ax.plot(*zip(*part), ".", ms=3, color=colour, label=f"{name} text")
ax.axhline(split_at, color=draw.WARM, lw=1)
ax.set(xlim=(-5, 308), ylim=(len(text), 0), xlabel="speakers, by first speech")
ax.set_yticks([(begin + end) / 2 for begin, end in zip(begins, play_ends)], plays, fontsize=11)
ax.tick_params(axis="y", length=0)
ax.set_title(f"{len(speeches):,} speeches by {len(speakers)} speakers", fontsize=12)
ax.legend(fontsize=11, markerscale=4, loc="upper right")
plt.show()

# %%
print("the training text ends:    ", repr(train_text[-66:]))
print("the validation text begins:", repr(val_text[:40]))
print("and the file ends:         ", repr(text[-57:]))
known = {who for at, who in speeches if at < split_at}
for play, begin, end in zip(list(plays)[-2:], (split_at, begins[-1]), play_ends[-2:]):
    whose = [who for at, who in speeches if begin <= at < end]
    met = sum(who in known for who in whose) / len(whose)
    print(f"{play:20} {(end - begin) / len(val_text):.0%} of the validation text, ", end="")
    print(f"{len(whose)} speeches, {met:.0%} of them by speakers of the training text")

# %% [markdown]
# Every band is a play, and nearly every play has its own people. (The exception is *3 Henry VI*, where you can see some
# of *Richard III* again.) The split, the orange line, goes right through *The Taming of the Shrew*, in the middle of a
# sentence. The pale orange band at the bottom is *The Tempest*.
#
# So our validation loss asks two questions at once. By length, 69% of the validation text continues a play that the
# model has begun to read, and most of its speeches belong to people whom the model has met. The other 31%, the opening
# of *The Tempest*, is a play that it has never seen, with not one familiar speaker, though by the same author. It is
# never a new author. nanoGPT splits the text at the same position, and we keep to it, so that losses can be compared.
#
# ## A batch
#
# One thing is left to do before a model can learn: to take from the ids pieces that it can digest. Training shows it
# many windows at once, a **batch** of B windows with T ids each. And the question at each position is always the same
# one: what comes next? So the answers are the same text, shifted by one.

# %%
x, y = pc.get_batch(train, 3, 12, torch.Generator().manual_seed(8))  # (B=3, T=12) each

assert x.shape == y.shape == (3, 12)
assert torch.equal(x[:, 1:], y[:, :-1]), "the target at a position is the input at the next one"
print("x[0] =", x[0].tolist())
print("y[0] =", y[0].tolist())
for t in range(4):  # of the twelve questions of a window, the first four
    asked, answer = characters.decode(x[0, : t + 1]), characters.decode(y[0, t : t + 1])
    print(f"after {asked!r} comes {answer!r}")

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.2), layout="constrained")
for b in range(3):
    for row, window, colour in ((0, x[b], draw.PALE), (0.9, y[b], draw.HERE)):
        for t, shown in enumerate(label(characters.decode(window).encode())):
            ax.add_patch(plt.Rectangle((t, 2.4 * b + row), 0.94, 0.84, color=colour))
            middle = t + 0.47, 2.4 * b + row + 0.42
            ax.text(*middle, shown, ha="center", va="center", family="monospace", fontsize=12)
ax.set(xlim=(0, 12), ylim=(7, -0.2), xlabel="position t")
ax.set_xticks([t + 0.47 for t in range(12)], range(12))
ax.set_yticks([0.42, 1.32, 2.82, 3.72, 5.22, 6.12], ["x", "y"] * 3)
ax.tick_params(length=0)
ax.set_title("Three windows: y is x, one character later", fontsize=12)
ax.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Put your finger on any blue tile but the last of its row: the orange one below it is the right answer, and it is
# also the next blue tile to the right. A window of 12 characters asks 12 questions at once: what follows after one
# character, after two, and so on up to twelve. That is what makes training efficient. It is also why a model must
# never see the tiles to its right, for the answers stand there in plain sight. Lesson 03 is about just that.
#
# ## Exercises
#
# ### 1. Train it
#
# Write BPE's training from a text to a list of merges: `train_bpe(text, n)`, without looking up. A merge is a pair of
# ids. The bytes have the ids 0 to 255 in the library's own order, which is given as `BYTES`: `BYTES.index(b"t")` is the
# id of *t*. The first merge makes the id 256, the second 257, and so on. Split the text with `WORDS.findall(text)`.
# When several pairs are equally frequent, take the smallest pair of ids, as the library does.
#
# The check tries a short text first, and then asks for 768 merges of the whole training text, which take a simple
# solution up to half a minute.
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
PRACTICE = train_text[:3000] + 40 * " ahahah"  # has a word in which a pair occurs more than once


def join_ids(ids, pair, new, often=1_000_000):
    out = []
    for i in ids:
        out.append(i)
        if tuple(out[-2:]) == pair and often > 0:
            out[-2:], often = [new], often - 1
    return tuple(out)


def borrowed(function, *names):
    """Which of these names a function uses: it shall not call what it is to write."""
    used = getattr(getattr(function, "__code__", None), "co_names", ())
    return next((f"write it yourself, without {name}" for name in names if name in used), None)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second part: BPE, with a fault if need be (run this cell)
def bpe_with(text, n, split=None, weigh=True, best=min, ids=BYTES, often=1_000_000):
    cutter, merges = pre_tokenizers.ByteLevel(add_prefix_space=False), []
    split = split or (lambda text: [text[a:b] for _, (a, b) in cutter.pre_tokenize_str(text)])
    words = Counter(tuple(ids.index(bytes([b])) for b in word.encode()) for word in split(text))
    for new in range(256, 256 + n):
        pairs = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times if weigh else 1
        most = max(pairs.values())
        merges.append(best([pair for pair in pairs if pairs[pair] == most]))
        joined = {word: join_ids(word, merges[-1], new, often) for word in words}
        words = {joined[word]: times for word, times in words.items()}
    return merges

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, third part: what can be wrong (run this cell)
IN_ORDER = [bytes([byte]) for byte in range(256)]
FAULTS = {
    "a token reaches over a space: split with WORDS.findall": dict(split=lambda text: [text]),
    "the spaces are missing: split with WORDS.findall": dict(split=str.split),
    "a word that occurs ten times has to count ten times": dict(weigh=False),
    "of equally frequent pairs take the smallest, not the largest": dict(best=max),
    "of equally frequent pairs take the smallest, not the one met first": dict(best=lambda p: p[0]),
    "join a pair wherever it occurs in a word, not just once": dict(often=1),
    "your ids are the values of the bytes. Take BYTES.index": dict(ids=IN_ORDER),
}


def wrong_merges(answer, wanted):
    """What is wrong with a list of pairs, in words; "" if nothing is."""
    if any(isinstance(one, (bytes, str)) for pair in answer for one in pair):
        return "these are pairs of pieces of text. Wanted are their ids"
    answer, n = [(int(left), int(right)) for left, right in answer], len(wanted)
    if answer == [(left + (left > 255), right + (right > 255)) for left, right in wanted]:
        return "the first new id is 256, not 257"
    if answer and answer != wanted and max(map(max, answer)) < 256 and len(answer) == n:
        return "no pair has a new id in it: join the pair in all words, then count again"
    at = next((i for i, pair in enumerate(wanted) if answer[i : i + 1] != [pair]), n)
    got = f"merge {at} of {n} should be {wanted[at : at + 1]}, yours is {answer[at : at + 1]}"
    return "" if answer == wanted else got

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, last part (run this cell)
def check_train(yours):
    if borrowing := borrowed(yours, "bpe_with", "MERGES", "learn_bpe", "bpe"):
        return print("not yet:", borrowing)
    n = 25
    try:
        for text, wanted in ((PRACTICE, bpe_with(PRACTICE, n)), (train_text, MERGES)):
            answer = yours(text, len(wanted))
            if answer is None or answer is ...:
                return print("not yet: it returned nothing")
            if wrong := wrong_merges(answer, wanted):
                known = {hint: bpe_with(PRACTICE, n, **fault) for hint, fault in FAULTS.items()}
                hints = [hint for hint, merges in known.items() if merges == answer]
                return print("not yet:", hints[0] if hints else wrong)
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
# @title The check, first part: ways to encode that are not BPE (run this cell)
RANK = {pair: rank for rank, pair in enumerate(MERGES)}


def leftmost(line):
    """Joins whatever pair it can join, from the left."""
    ids = [BYTES.index(bytes([byte])) for byte in line.encode()]
    while spots := [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) in RANK]:
        ids[spots[0] : spots[0] + 2] = [256 + RANK[ids[spots[0]], ids[spots[0] + 1]]]
    return ids


def backwards(line):
    """Applies the merges from the last to the first."""
    ids = tuple(BYTES.index(bytes([byte])) for byte in line.encode())
    for pair in reversed(MERGES):
        ids = join_ids(ids, pair, 256 + RANK[pair])
    return list(ids)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second part: one more (run this cell)
def longest(line):
    """Takes the longest token that fits, from the left."""
    number, rest, ids = {piece: i for i, piece in enumerate(bpe.pieces)}, line.encode(), []
    while rest:
        size = next(size for size in range(len(rest), 0, -1) if rest[:size] in number)
        ids.append(number[rest[:size]])
        rest = rest[size:]
    return ids

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, third part (run this cell)
def wrong_ids(line, answer):
    """What is wrong with a list of ids, in words; "" if nothing is."""
    answer, wanted = list(answer), bpe.encode(line)
    if answer == wanted:
        return ""
    if len(answer) == len(line.encode()):
        return "these are single bytes: no merge was applied"
    if len(line) < 100 and answer == leftmost(line):
        return "of a word's pairs, join first the one learned first"
    if len(line) < 100 and answer == backwards(line):
        return "the merges are applied backwards. Begin with the first"
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
# @title The check, last part (run this cell)
def check_tokenizer(encode, decode):
    for function in (encode, decode):
        if borrowing := borrowed(function, "bpe", "library"):
            return print("not yet:", borrowing)
    lines = [" forsooth", " wherefore art thou", "Café, 日本?", val_text]
    try:
        for line in lines:
            answer = encode(line, list(MERGES))
            if answer is None or answer is ...:
                return print("not yet: encode returned nothing")
            if wrong := wrong_ids(line, answer):
                return print("not yet:", wrong)
        for ids in (*map(bpe.encode, lines), bpe.encode("日")[:2]):
            if wrong := wrong_text(ids, decode(list(ids), list(MERGES))):
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
# Suppose two models are judged on the same German text: 120,000 characters, 123,400 bytes. Model A reads characters,
# and its loss is 1.30 nats per token. Model B reads BPE tokens, 38,000 of them in this text, and its loss is 4.05 nats
# per token. How many bits per byte has each, to two decimals? And which is the better one, `"A"` or `"B"`?

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_bits(a, b, better):
    for name, mine, loss, tokens in (("A", a, 1.30, 120_000), ("B", b, 4.05, 38_000)):
        nats, ln2 = loss * tokens, math.log(2)
        wanted = nats / 123_400 / ln2
        hints = {
            f"✓ {name}: {wanted:.2f} bits per byte": wanted,
            f"not yet: {name}'s bits are per token. Go by the whole text": loss / ln2,
            f"not yet: you divided by characters. {name} is wanted per byte": nats / 120_000 / ln2,
            f"not yet: {name} is still in nats. A nat is 1 / ln 2 = 1.44 bits": nats / 123_400,
            f"not yet: for {name}, divide by ln 2, do not multiply": nats / 123_400 * ln2,
        }
        try:
            found = [hint for hint, number in hints.items() if abs(float(mine) - number) < 0.006]
            close = abs(float(mine) - wanted) < 0.06
        except Exception:
            print(f"not yet: put a number for {name} in place of the three dots")
            continue
        closer = f"not yet: {name} is close. Give two decimals"
        otherwise = f"not yet: {name} has nats per token x tokens / bytes / ln 2"
        print(found[0] if found else closer if close else otherwise)
    check_better(better)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second part (run this cell)
def check_better(better):
    answers = {
        "B": "✓ B, by a little: fewer bits for the same text, for all its loss per token",
        "A": "not yet: A has the lower loss per token, but it needs more tokens. Compare the bits",
    }
    known = isinstance(better, str) and better in answers
    print(answers[better] if known else 'not yet: which is better, "A" or "B"?')


# %% tags=["exercise"]
bits_a = ...  # a number
bits_b = ...  # a number
better = ...  # "A" or "B"

check_bits(bits_a, bits_b, better)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
bits_a = 1.30 * 120_000 / 123_400 / math.log(2)
bits_b = 4.05 * 38_000 / 123_400 / math.log(2)

check_bits(bits_a, bits_b, "A" if bits_a < bits_b else "B")

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
        ([b"a\xff"], ["a�"], "ff at the end is wrong at once, so it is shown at once"),
        ([b"\xc3", b"x"], ["", "�x"], "x shows that c3 will never be complete"),
        (["�".encode(), b"!"], ["�", "!"], "� is a character, too: somebody may have written it"),
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
# 2. write BPE: count the pairs, join the most frequent, remember the merges, apply them in order, GPT-2's too,
# 3. look at a model's tokens first when it fails at spelling, at sums, or at a stray space,
# 4. turn a loss per token into bits per byte before you compare two models,
# 5. split the text before you make windows, since windows overlap, and say what Tiny Shakespeare's split asks,
# 6. draw a batch with `pc.get_batch`: y is x, shifted by one.
#
# Three questions for a whiteboard:
#
# <details><summary>Take the words <i>hug</i>, <i>pug</i> and <i>hugs</i>, and do three merges by hand.</summary>
#
# *u g* occurs three times, more than any other pair, so it becomes *ug*. Next comes *h ug*, twice: *hug*. Now *p ug*
# and *hug s* occur once each; with the rule "the one met first" it is *pug*.
# </details>
#
# <details><summary>Why do the same letters give different tokens when the merges are applied in another
# order?</summary>
#
# A merge can only join tokens that are already there, so before *lo* exists, *lo w* does nothing. And merges compete:
# if *o w* comes first, no *o* is left for *l o*.
# </details>
#
# <details><summary>Model A has 1.5 nats per character and model B 3 nats per token: what do you need to know before you
# can say which is better?</summary>
#
# Whether both were judged on the same text, and how many characters a token of B has there: with more than two, B is
# better.
# </details>
#
# Next: [lesson 02](02_bigram_baseline.ipynb) builds the simplest model that learns, and asks what a loss means.
#
# ## Sources
#
# - Text: Tiny Shakespeare, from Andrej Karpathy's [char-rnn](https://github.com/karpathy/char-rnn).
# - BPE for text: Sennrich, Haddow and Birch 2015, [arXiv 1508.07909](https://arxiv.org/abs/1508.07909). On bytes, with
#   the pattern that splits words: Radford et al. 2019 (GPT-2),
#   [code](https://github.com/openai/gpt-2/blob/master/src/encoder.py).
# - A tokenizer written from scratch, up to GPT-4's: Karpathy, [minbpe](https://github.com/karpathy/minbpe). The
#   library: [tokenizers](https://huggingface.co/docs/tokenizers).
# - SentencePiece: Kudo and Richardson 2018, [arXiv 1808.06226](https://arxiv.org/abs/1808.06226); Unigram: Kudo 2018,
#   [arXiv 1804.10959](https://arxiv.org/abs/1804.10959); WordPiece as in BERT: Devlin et al. 2018,
#   [arXiv 1810.04805](https://arxiv.org/abs/1810.04805).
# - Vocabularies: Llama 2, [arXiv 2307.09288](https://arxiv.org/abs/2307.09288); Llama 3,
#   [arXiv 2407.21783](https://arxiv.org/abs/2407.21783); Gemma, [arXiv 2403.08295](https://arxiv.org/abs/2403.08295).
# - Digits: Nogueira et al. 2021, [arXiv 2102.13019](https://arxiv.org/abs/2102.13019); groups of three, and GPT-4's
#   pattern: [tiktoken](https://github.com/openai/tiktoken).
# - What tokens cost in other languages: Petrov et al. 2023, [arXiv 2305.15425](https://arxiv.org/abs/2305.15425).
# - Glitch tokens: Rumbelow and Watkins 2023,
#   [SolidGoldMagikarp](https://www.lesswrong.com/posts/aPeJE8bSo6rAFoLqg/solidgoldmagikarp-plus-prompt-generation);
#   Land and Bartolo 2024, [arXiv 2405.05417](https://arxiv.org/abs/2405.05417).
# - UTF-8: [RFC 3629](https://www.rfc-editor.org/rfc/rfc3629).
