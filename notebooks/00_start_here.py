# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Start here
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/00_start_here.ipynb)
#
# **You will**
# 1. let a small GPT write on from your own words, and see how sure it is of every character,
# 2. follow a text through a whole GPT, in six lines of code and one drawing,
# 3. train a GPT that knows nothing, and watch its text improve,
# 4. keep three kinds of settings apart,
# 5. put three questions to a GPT that looks better than it is.
#
# **You need** Python, and to have met a neural network. No GPU.
#
# **Time** 30 minutes to read, half a minute to run. Words you do not know are in the [glossary](../docs/glossary.md).
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
import math

import matplotlib.pyplot as plt
import torch

import picogpt
import picogpt_core as pc
from picogpt import draw

shipped = picogpt.load_shipped("picogpt")  # a trained model comes with the course
pico, tokenizer = shipped.model, shipped.tokenizer
names = picogpt.visible_characters(tokenizer.chars)  # of all 65 characters; a space is shown as ␣

# %% [markdown]
# Meet PicoGPT, a GPT small enough for a laptop. It has read a million characters of Shakespeare's plays, many times
# over, and nothing else. Give it the beginning of a letter that Shakespeare could not have written, and it goes on
# in the only voice it knows.

# %%
prompt = "Dear computer, I must s"  # change me, and run the cell again
settings = pc.SampleConfig(max_new_tokens=250, temperature=0.8, seed=1)
print(picogpt.generate_text(pico, tokenizer, prompt, settings))

# %% [markdown]
# The words are English, or nearly, the lines are about as long as verse, and every speech has the name of its speaker
# above it. Yet nobody told it what a word is, or a line, or a play. It does only one thing: it reads a text and says,
# for each of the 65 characters it knows, how likely that one is to come next. Here is its answer for the text in
# `prompt`.

# %%
@torch.no_grad()
def next_probs(model, text):
    """How likely the model finds each character as the next one after `text`. (65,)"""
    ids = torch.tensor([tokenizer.encode(text)])  # (B=1, T): a number for each character
    ids = ids[:, -128:]  # the last 128 characters: some models of this lesson read no more
    return model(ids)[0, -1].softmax(dim=0)  # (V=65,): the answer at the last position


def plot_bars(ax, probs, title, shown=8):
    values, ids = (column.tolist() for column in probs.topk(shown))  # the likeliest, in order
    bars = ax.barh(range(shown), values, color=draw.WARM)
    ax.bar_label(bars, [f"{p:.1%}" if p > 5e-4 else "<0.1%" for p in values], padding=4)
    ax.set_yticks(range(shown), [names[i] for i in ids], family="monospace")
    ax.set(xlim=(0, 1.12), xticks=[], title=title)
    ax.invert_yaxis()
    ax.spines[["top", "right", "bottom"]].set_visible(False)


fig, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
plot_bars(ax, next_probs(pico, prompt), f"after …{prompt[-12:]}".replace("\n", "\\n"))
plt.show()

# %% [markdown]
# Several words could go on from there, *stay* and *say* and *see* among them, so several characters share the
# probability, and most of the others get next to nothing.
#
# One character is then **drawn** at random, each being as likely as the model says, and appended to the text. (The
# text above was drawn a little more carefully, at a *temperature* of 0.8: lesson 10.) After that the same question is
# asked again, about a text that is one character longer. There is nothing more to writing than this loop. Let us run
# it twelve times and look at the three likeliest characters each time.

# %%
torch.manual_seed(3)
text = prompt
for _ in range(12):
    probs = next_probs(pico, text)  # (V,)
    guesses = "   ".join(f"{names[i]} {probs[i]:4.0%}" for i in probs.topk(3).indices.tolist())
    drawn = int(torch.multinomial(probs, 1))  # an id, as likely as the model says
    end = "".join(picogpt.visible_characters(text[-10:]))
    print(f"{end:>12}    {guesses}    drawn: {names[drawn]}")
    text += tokenizer.decode([drawn])

# %% [markdown]
# Read down the columns. Once a word has taken shape, as in the last rows, the model is nearly certain, for little else
# would make a word there. At the beginning of a word, after a space (`␣`), the probability is spread over many letters,
# because many words could follow. And sometimes the character that is drawn is not the likeliest one, which is how the
# same prompt leads to a different text with every *seed*, the number that the random numbers start from.
#
# Now with your own words: type into the box and press Enter. (The box needs a running notebook. Without one, take the
# course's [playground](../web/playground.html): once `make playground` has packed the models for it, it needs a browser
# and nothing else.)
#
# <!-- playground: write -->

# %%
def answer(prompt, seed):
    """The likeliest next characters and a text, as HTML; or what is wrong with the prompt."""
    settings = pc.SampleConfig(max_new_tokens=200, temperature=0.8, seed=seed)
    try:
        text = picogpt.generate_text(pico, tokenizer, prompt, settings)
    except ValueError as error:
        return f"<p style='color:#b00'>{html.escape(str(error))}</p>"
    rows = ""
    for p, i in zip(*(column.tolist() for column in next_probs(pico, prompt).topk(8))):
        bar = f"<div style='background:{draw.WARM};height:12px;width:{200 * p:.0f}px'></div>"
        name = f"<code>{html.escape(names[i])}</code>"
        rows += f"<tr><td>{name}</td><td>{bar}</td><td>{p:.1%}</td></tr>"
    written = f"<b>{html.escape(prompt)}</b>{html.escape(text[len(prompt) :])}"
    return f"<table>{rows}</table><pre style='white-space:pre-wrap'>{written}</pre>"


# %%
def prompt_box():
    import ipywidgets as w

    words = w.Text(prompt.replace("\n", " "), description="prompt", continuous_update=False)
    again, shown, seeds = w.Button(description="another text"), w.HTML(), itertools.count(1)

    def update(_=None):
        asked = words.value
        page = answer(asked, next(seeds))  # takes a moment, in which the prompt can change
        if words.value == asked:  # else this answer is out of date, and a newer one stays
            shown.value = page

    words.observe(update, "value")  # when the prompt changes
    again.on_click(update)  # and when the button is clicked
    update()
    return w.VBox([w.HBox([words, again]), shown])


# %% tags=["nbval-ignore-output"]
try:
    get_ipython()  # is there a kernel behind this?
    from IPython.display import display

    display(prompt_box())
except NameError:
    print("the box needs a notebook: JupyterLab, VS Code or Colab")

# %% [markdown]
# ## The whole machine
#
# What happens between the text and the bars? All of it fits into six lines. All of them come back in later lessons, so
# do not try to understand them now: see only that there are only six, that each hands its result to the next, and how
# the shapes in the comments change. *B* is the number of texts that are read side by side, here 1, *T* the length of a
# text, *C* the length of the vectors, *V* the number of different characters, 65.

# %%
text = "to be or"
with torch.no_grad():
    ids = torch.tensor([tokenizer.encode(text)])  # (B=1, T=8): a number for each character
    x = first = pico.wte(ids) + pico.wpe(torch.arange(8))  # (1, T, C=256): which, and where
    for block in pico.h:  # three of them
        x = block(x)  # (1, T, C): gather from earlier positions, then compute
    logits = pico.lm_head(pico.ln_f(x))[0, -1]  # (V=65,): a score for each possible next character
    probs = logits.softmax(dim=0)  # (V,): the scores as probabilities, which sum to 1

print("ids     ", ids[0].tolist())
start = "  ".join(f"{number:+.2f}" for number in first[0, 0, :5])
print("vector  ", start, " … and 251 more, for the t")
best = logits.argmax().item()
print(f"scores   the highest {logits[best]:.2f}, for {names[best]}; the lowest {logits.min():.2f}")

assert torch.allclose(probs, next_probs(pico, text), atol=1e-6), "six lines do what the model does"
print(f"probs    sum to {probs.sum():.3f}, and are those of the model itself")

# %%
torch.manual_seed(3)
drawn = int(torch.multinomial(probs, 1))
fig, ax = plt.subplots(figsize=(4.8, 9.6), layout="constrained")
draw.whole_gpt(ax, text, ids[0].tolist(), [first[0], x[0]], probs, names, drawn, layers=len(pico.h))
plt.show()

# %% [markdown]
# The numbers in this drawing are PicoGPT's own, for the text `to be or`. Follow it from top to bottom.
#
# - Every character becomes a number, its **id** (lesson 01), and every id a **vector** of 256 numbers that
#   training has found. A second vector is added to it that says where the character stands, and that is why the
#   two *o* do not look alike. The first five numbers of the sum are shown as colours, orange above zero and blue
#   below.
# - Then come three **blocks**. In each, **attention** lets every position gather something from itself and from earlier
#   positions, never from later ones: look at the lines, which only ever run down or to the right (in orange, those into
#   the last position; lessons 03 and 04). They are drawn alike, but a position takes much along some of them and next
#   to nothing along others (lesson 03 shows how it chooses). What was gathered is worked on in the **MLP**, a small
#   network that treats each position by itself (lesson 05).
# - After the last block, each position holds an answer: what comes after *me*? To go on writing, only the last one is
#   needed. It becomes 65 scores, called **logits**, and the scores become the probabilities that you have seen as bars.
#
# That is a GPT. Larger ones have more of everything, and tokens of several characters in place of single ones, but
# the plan is the same.
#
# ## A model that knows nothing
#
# How did those numbers come to be right? To see it from the start, we build a second model, a quarter of the size,
# and leave it as it is: its matrices are filled with random numbers. It is to learn from the same text, all but the
# last tenth. On that tenth, which no model of this course trains on, we can later test what it has learned.

# %% tags=["setup"]
corpus = picogpt.load_corpus()  # Tiny Shakespeare as ids: corpus.train, and for testing corpus.val
torch.manual_seed(1337)
model = pc.GPT(pc.preset("demo"))

# %%
print(f"{len(corpus.train):,} characters to learn from, {len(corpus.val):,} to test on:")
print(tokenizer.decode(corpus.train[:75]))
print("--- the new model")
settings = pc.SampleConfig(max_new_tokens=120, seed=1)
print(picogpt.generate_text(model, tokenizer, "ROMEO:\n", settings))

# %%
fig, axes = plt.subplots(2, 1, figsize=(5, 4.6), layout="constrained")
for ax, (name, some_model) in zip(axes, {"PicoGPT": pico, "the new model": model}.items()):
    probs = next_probs(some_model, "ROMEO:\nO, she doth teach the torches to burn br")  # (V,)
    plot_bars(ax, probs, name, shown=6)
plt.show()

# %% [markdown]
# Both were asked what comes after `burn br`. PicoGPT has its favourites. The bars of the new model are nearly even:
# it has no reason yet to prefer one character to another, so each gets about 1/65, which is 1.5 %, give or take what
# the random numbers happen to add.
#
# How wrong is that? We measure it by the model's **surprise** at the character that really comes next: −ln *p*,
# where *p* is the probability it gave to that character. If it was certain, and right, the surprise is 0.

# %%
for p in (1, 1 / 2, 1 / 10, 1 / 65, 1 / 1000):
    print(f"it gave p = {p:6.2%} to what came: surprise {abs(math.log(p)):.2f}")

# %% [markdown]
# The **loss** of a model is its surprise on average, over all characters of a text. Its unit is the **nat**.
# (Elsewhere you will find it as *cross-entropy* or *negative log-likelihood*.) So we know what a new model must score
# before we run it: with *p* = 1/65 everywhere, the surprise is ln 65 everywhere.

# %%
some = corpus.val[:10_000]
loss_before = pc.evaluate(model, some)
print(f"the new model {loss_before:.3f}, guessing evenly: ln 65 = {math.log(65):.3f}")
print(f"PicoGPT       {pc.evaluate(pico, some):.3f}")

assert abs(loss_before - math.log(65)) < 0.1, "a new model should guess evenly"

# %% [markdown]
# It is a little above ln 65, because random scores are not quite even, and a preference without a reason costs more
# than it gains. PicoGPT stands far lower, on text that it has not seen either. (These are the first 10,000
# characters of the last tenth, which is enough for a first look. They happen to be easier than the rest, so compare
# losses on the same text only.)
#
# ## Three kinds of settings
#
# Before we train, one thing that saves confusion. A GPT has many settings, and it is tempting to put them all into
# one big dictionary. But they answer three different questions, at three different times.
#
# | | the question | for instance | when you may change it |
# |---|---|---|---|
# | `ModelConfig` | what *is* the model? | blocks, width, the longest text (*window*) it reads | its shape, not after training |
# | `TrainConfig` | how does it learn? | steps, learning rate (size of a step), windows a step (*batch*) | with every training |
# | `SampleConfig` | how does it write? | temperature, length, seed | with every text |
#
# The engineer whose notes, **the log**, this course keeps coming back to, put this first among the things he had
# learned. A checkpoint, the file of a trained model's numbers, belongs to the `ModelConfig` that it was trained with:
# with another one it does not load or, worse, it loads and computes something else. But you may write with any
# temperature you like. Kept in three classes, a setting in the wrong place is an error at once, rather than a value
# that nobody reads.

# %%
recipe = pc.TrainConfig(
    steps=picogpt.budget(smoke=2, quick=300, full=2000),  # changes of all parameters; here the 300
    batch_size=16,  # windows of text in each step
    eval_every=picogpt.budget(smoke=2, quick=150, full=500),  # steps between two tests
)

# %%
try:
    pc.TrainConfig(temperature=0.8)
except TypeError as error:
    print(error)

# %% [markdown]
# ## Learning
#
# Training is a loop of three moves: show the model a batch of windows, measure its surprise at every next character,
# and change each of its 627,009 numbers, its **parameters**, a little, in the direction that would have made the
# surprise smaller. (Lesson 09 takes this loop apart.) After steps 20, 60, 150 and 300 we stop for a moment and let it
# write one line, always with the same seed, so that the random numbers are the same each time.

# %% tags=["nbval-ignore-output"]
def line_of(model):
    settings = pc.SampleConfig(max_new_tokens=54, temperature=0.8, seed=1)
    return picogpt.generate_text(model, tokenizer, "ROMEO:\n", settings)[7:].replace("\n", " / ")


def look(row, model):  # called with every row of the history: here, every ten steps
    if row["step"] in (20, 60, 150, 300):
        lines[row["step"]] = (row["train_loss"], line_of(model))


lines = {0: (loss_before, line_of(model))}
run = picogpt.train(model, corpus, recipe, on_row=look)
print("step, training loss (at step 0: on validation text), and a line")
for step, (loss, line) in lines.items():
    print(f"{step:3}   {loss:.2f}   {line}")
ends = picogpt.usual("00", "your GPT, training loss after 300 steps")
print(f"with other seeds, and on other machines, it ends at {ends}")

# %% [markdown]
# Watch the text, not the numbers. At step 0 any character may follow any other, so that capitals and commas stand
# everywhere. After 20 steps the model has found out which characters are frequent, small letters and a space now and
# then, and has begun to see which follow which. After 60 there are short words among the pieces, after 150 there are
# more of them, and at the end most of a line is English, even if it means nothing. Nobody told it what a word is. It
# was only ever asked for the next character, and words are what helps with that. (Your lines may differ a little from
# the stored ones, because processors round differently. The last line says how far the loss at step 300 can differ. The
# course prints such a range for the main trainings of its lessons.)

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
picogpt.plot_history(ax, run.history)  # training dark, validation orange
picogpt.plot_ngrams(ax, side="left")
for label in ax.texts:
    label.set_fontsize(10)
ax.axhline(math.log(65), color=draw.INK, ls=":", lw=1)
blind = dict(ha="right", va="bottom", color=draw.INK)
ax.text(recipe.steps, math.log(65), "guessing evenly: ln 65", **blind)
ax.set(title="The loss while the model learns", ylim=(1.3, 4.5))
plt.show()

# %% [markdown]
# The thin dark line is the **training loss**, measured on the windows that the model is just learning from. The
# orange dots are the **validation loss**, measured on all of the last tenth, from which it never learns, and so they
# are the ones to believe. The three dashed lines are bars to beat: models that merely count what follows what, the
# subject of lesson 02. Yours has passed the first of them, and is on its way to the others.
#
# ## A riddle
#
# The course has trained two more models, which we shall call A and B (no relation to the *B* in the shapes). A is
# built exactly like yours, and B differs from it in one setting. Both have learned for longer than yours, each from
# the same windows in the same order. We ask for their loss on the 10,000 characters from before, which neither has
# ever seen.

# %%
A, B = (picogpt.load_shipped(name).model for name in ("honest", "unmasked"))
for name, some_model in (("A", A), ("B", B)):
    print(f"model {name}: {pc.evaluate(some_model, some):.3f}")

# %% [markdown]
# <details><summary>Before you run the next cell: which of the two will write better, and by how much?</summary>
#
# By all you have seen so far, B must be a wonder. Its surprise is so small that it gave nearly the whole probability
# to the right character, again and again, on text that was new to it. Run it and see.
# </details>

# %%
start, settings = "The king is dead, long live the ", pc.SampleConfig(90, temperature=0.8, seed=1)
for name, some_model in (("A", A), ("B", B)):
    print(f"--- model {name}")
    print(picogpt.generate_text(some_model, tokenizer, start, settings))

# %% [markdown]
# A writes as one would expect of a model that has trained for a few minutes. B, whose loss is by far the lower one,
# cannot write at all. It did not learn its text by heart either: the loss above comes from text that was kept apart.
#
# This happened. In 2024 an engineer asked an AI assistant for a GPT. The code looked right, and it trained to a loss
# of 0.0153. But its text was garbage, and after four days of work it still was. His notes are the log, which the
# later lessons quote, and much of this course grew out of one question: *what could he have asked on the first day?*
#
# ## Three questions
#
# Here are three that can be put to any GPT from outside, without understanding its code: one needs its settings, one
# its code to build it again, and one nothing but the finished model. Let us put them to B.
#
# **1. Does it have the right number of parameters?** This one needs the settings. From them you can work out what
# each part must have, and compare the sum with what is there.

# %%
c = B.config
V, T, C, L = c.vocab_size, c.block_size, c.n_embd, c.n_layer  # T: the longest it reads
attention = C * 3 * C + (C * C + C)  # query, key and value; and the way out
mlp = (C * 4 * C + 4 * C) + (4 * C * C + C)
block = 2 * C + attention + 2 * C + mlp  # each with a LayerNorm before it
promised = V * C + T * C + L * block + 2 * C + (C * V + V)
print(f"{V * C:,} + {T * C:,} + {L} × {block:,} + {2 * C} + {C * V + V:,} = {promised:,}")
print(f"in B there are {pc.count_parameters(B):,}, in A {pc.count_parameters(A):,}")

assert promised == pc.count_parameters(B), "a layer is missing, shared or there twice"

# %% [markdown]
# Characters, positions, three blocks, the last LayerNorm (it brings numbers to one scale) and the layer that gives
# the scores: the total is what it should be. B passes. (What each of the terms is comes with its lesson. Lesson 08
# counts seven other models in this way.)
#
# **2. Does a new one guess evenly?** For this we need the code, to build a copy of the model with fresh random
# numbers. Its loss must be near ln 65, as that of your model was. Beside the new A and the new B stands a third copy,
# with a bug in its last layer, whose first numbers are twenty times too large.

# %%
torch.manual_seed(0)
copies = {"a new A": pc.GPT(A.config), "a new B": pc.GPT(B.config), "a bug": pc.GPT(A.config)}
copies["a bug"].lm_head.weight.data *= 20  # somebody forgot to make them small
for name, copy in copies.items():
    print(f"{name:8} {pc.evaluate(copy, some):.2f}   (ln 65 = {math.log(65):.2f})")

# %% [markdown]
# The question does catch something: numbers that are too large make a new model sure of nonsense, and then it starts
# far above ln 65. But a new B starts where it should, so B passes again. Its loss shows nothing before it has
# learned.
#
# **3. Does an answer depend on what comes later?** This is the only one of the three for which nothing but the
# finished model is needed. The model is asked at every position what comes next, and it should answer from what it
# has read up to there. So let us change the end of a text. Before the change, nothing may move.

# %%
text, position = "the king is he", 9
ids = torch.tensor([tokenizer.encode(text)])  # (B=1, T=14)
moved = {name: pc.moved_by_the_future(m, ids, position) for name, m in {"A": A, "B": B}.items()}
for name, amounts in moved.items():  # (T,): the largest change of a logit at each position
    before, after = amounts[:position].tolist(), amounts[position:].tolist()
    print(f"model {name}, before the change:", *(f"{amount:.2g}" for amount in before))
    print("         from the change on:", *(f"{amount:.1f}" for amount in after))

assert moved["A"][:position].max() == 0 and moved["A"][position:].min() > 0
assert moved["B"][:position].min() > 0, "in B all of the past moves"

# %%
changed = ids[0].clone()
changed[position:] = (changed[position:] + 1) % 65  # another id from there on
rows = {"the text": None, "its end changed": None, "A": moved["A"], "B": moved["B"]}
fig, axes = plt.subplots(4, 1, figsize=(5.6, 4.6), layout="constrained")
for ax, (name, amounts) in zip(axes, rows.items()):
    shown = tokenizer.decode(changed) if "changed" in name else text
    draw.characters(ax, shown, here=range(position, 14) if amounts is None else (), amounts=amounts)
    title = name if amounts is None else f"how far the answers of {name} move (white: not at all)"
    ax.set_title(title, loc="left", fontsize=12)
    ax.set_ylim(-0.6, 0.6)
plt.show()

# %% [markdown]
# The upper two rows show the text, before and after it was changed. (Such a question, which changes something and sees
# what moves, is called a **probe**.) The lower two show how far the answer at each position has moved. In A, the nine
# answers before the change stay where they were: the largest change is not merely small, it is exactly zero. From the
# change on every answer moves, and that matters too, because a model that ignores its text altogether would also pass
# the first half.
#
# In B, *every* answer moves. One of those before the change even moves about as far as those after it: find it. B's
# past depends on its future, and it took milliseconds to see what four days of work had not shown.
#
# But it has not told us *why*. How does a model get such a loss on unseen text out of this, and why can it not
# write? You have all the clues: the drawing, in which the lines run only one way, and the position that moves most.
# **Lesson 03 solves the riddle**, by making the mistake again.
#
# ## Your turn
#
# An exercise has a cell to fill in and a check that answers in words. A solution is folded away below, unless your
# teacher took it out. (VS Code shows it open: there, look away until you have tried.) Nothing breaks if you leave one
# open.
#
# ### 1. The loss of a good guesser
#
# A model has found out that only 8 of the 65 characters can come next, and finds these 8 equally likely. It is right
# each time. What is its loss?

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_loss(guess):
    try:
        number = float(guess)  # a tensor with one number will do too
    except Exception:
        print("not yet: put a number in place of the three dots")
        return
    known = {
        math.log(8): "✓ right: p is 1/8, and -ln(1/8) = ln 8 = 2.08",
        3: "not yet: 3 is the answer in bits (log2 8). The course counts in nats: take math.log",
        8: "not yet: 8 is the number of choices. The loss is -ln of the probability of one",
        1 / 8: "not yet: that is the probability p. The loss is the surprise, -ln p",
        math.log(65): "not yet: that is the loss of a model which hesitates among all 65",
        -math.log(8): "not yet: a surprise is never below 0. ln p is negative, the loss is -ln p",
    }
    for value, words in known.items():
        if abs(number - value) < 0.01:
            print(words)
            return
    print(f"not yet: {number:.2f}. Take -ln of the probability it gives to the true one")


# %% tags=["exercise"]
loss_of_the_guesser = ...  # your number

check_loss(loss_of_the_guesser)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
check_loss(-math.log(1 / 8))

# %% [markdown]
# ### 2. A better recipe
#
# The check trains a tiny GPT of 30,529 parameters by your recipe, with at most 150 steps of at most 16 windows. Begin
# with `pc.TrainConfig(steps=150, batch_size=16)`, and you will find that it loses against a very simple model, a
# table of which character follows which (the bigram of lesson 02, with a loss of 2.482). Change the recipe until your
# GPT wins. The check keeps the seed, for another seed would only be luck. All settings and their defaults are shown
# by `print(pc.TrainConfig())`.
#
# <details><summary>A hint</summary>
#
# In 150 steps a model does not get far if each step is small. Three settings say how large the steps are:
# `learning_rate`, `muon_learning_rate` and `warmup_steps`. (The matrices inside the blocks follow a rule called Muon,
# with a rate of its own, and over the first `warmup_steps` both rates rise from 0: lesson 09.) Change one at a time.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_recipe(recipe):
    if not isinstance(recipe, pc.TrainConfig):
        print(f"not yet: give a pc.TrainConfig. This is of the type {type(recipe).__name__}")
        return
    if recipe.steps > 150 or recipe.batch_size > 16:
        print("not yet: at most 150 steps of at most 16 windows, or everybody could win by waiting")
        return
    kept = dict(seed=1337, device="cpu", dtype="float32", compile=False, eval_every=recipe.steps)
    recipe, bar = pc.TrainConfig(**vars(recipe) | kept), picogpt.study.NGRAM_LOSSES["bigram"]
    try:
        torch.manual_seed(1337)
        run = picogpt.train(pc.GPT(pc.preset("tiny")), corpus, recipe, progress=False)
        loss = run.val_losses[-1][1]
    except Exception as error:
        print(f"not yet: the training stopped with {type(error).__name__}: {error}")
        return
    hints = {
        "You may use 150 steps of 16 windows": recipe.steps * recipe.batch_size < 150 * 16,
        "Steps that are too large jump over the goal": loss > 2.8,
        "Change one setting at a time, and keep what helps": True,
    }
    hint = next(words for words, fits in hints.items() if fits)
    won = f"✓ {loss:.3f}: your GPT beats the table ({bar})"
    print(won if loss < bar else f"not yet: {loss:.3f}, and the table has {bar}. {hint}")


# %% tags=["exercise"]
my_recipe = ...  # your recipe: begin with pc.TrainConfig(steps=150, batch_size=16)

check_recipe(my_recipe)

# %% tags=["solution", "nbval-ignore-output"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
check_recipe(pc.TrainConfig(steps=150, batch_size=16, learning_rate=0.02, muon_learning_rate=0.05))

# %% [markdown]
# ### 3. A verdict
#
# A stretch. We tried the probe at one position of one text. Somebody's model could be causal there and leak
# elsewhere. Write `is_causal(model, ids)`, which returns `True` if, wherever you change the text, no earlier answer
# moves and every answer from there on does, and otherwise `False`. Use `pc.moved_by_the_future(model, ids,
# position)`. The check tries it on six models.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
class OneLeak(torch.nn.Module):
    """Causal but for one pair: the answer at t knows a little of the token at t + 1."""

    def __init__(self, t):
        super().__init__()
        self.gpt, self.t = like(), t

    def forward(self, ids):
        logits = self.gpt(ids).clone()  # (B, T, V)
        if ids.shape[1] > self.t + 1:
            logits[:, self.t] += ids[:, self.t + 1, None] / 65
        return logits


def like(**changes):
    """A new, tiny GPT with these settings changed."""
    return pc.GPT(pc.ModelConfig(**vars(pc.preset("tiny")) | changes))


class Constant(torch.nn.Module):
    """Does not read its text at all."""

    def forward(self, ids):
        return torch.arange(65.0).expand(*ids.shape, 65)


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, second half (run this cell)
def check_is_causal(yours):
    torch.manual_seed(0)
    ids = torch.randint(65, (1, 12))  # (B=1, T=12)
    suspects = {
        "a healthy GPT": (like(), True),
        "a healthy GPT with dropout": (like(resid_dropout=0.2), True),
        "a model like B": (like(causal=False), False),
        "one whose answer at 2 depends on 3": (OneLeak(2), False),
        "one whose answer at 9 depends on 10": (OneLeak(9), False),
        "one that does not read its text": (Constant(), False),
    }
    for name, (model, wanted) in suspects.items():
        try:
            answer = yours(model, ids.clone())
            answer = answer.item() if isinstance(answer, torch.Tensor) else answer
        except Exception as error:
            return print(f"not yet: on {name} it stopped with {type(error).__name__}: {error}")
        if not isinstance(answer, bool):
            return print(f"not yet: on {name} it returned {answer!r}, wanted True or False")
        if answer != wanted:
            return print(f"not yet: of {name} it says {answer}")
    print("✓ right about all six, even those that leak at a single position")


# %% tags=["exercise"]
def is_causal(model, ids):
    ...  # your code


check_is_causal(is_causal)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def is_causal(model, ids):
    for position in range(ids.shape[1]):
        moved = pc.moved_by_the_future(model, ids, position)  # (T,)
        if moved[:position].any() or not moved[position:].all():
            return False
    return True


check_is_causal(is_causal)

# %% [markdown]
# ## The map
#
# The **core path** takes you from text to a GPT of your own that you can trust. Its lessons build on each other.
#
# | lesson | what you build | what you can tell afterwards |
# |---|---|---|
# | **00 start here** | a first GPT, and a picture of the whole | whether a GPT depends on future tokens |
# | 01 [tokens](01_tokenization.ipynb) | characters, bytes and pairs as numbers | how two models with different tokens compare |
# | 02 [the bigram](02_bigram_baseline.ipynb) | the simplest model that learns | what a loss means, and how far to trust one |
# | 03 [causal attention](03_causal_attention.ipynb) | one head, with its mask | why a loss can be too good |
# | 04 [several heads](04_multi_head_attention.ipynb) | eight heads in one reshape | when `nn.MultiheadAttention` is right |
# | 05 [the whole GPT](05_the_whole_gpt.ipynb) | all that is not attention, assembled | what each part of a GPT is worth |
# | 06 [LayerNorm placement](06_layernorm_placement.ipynb) | three kinds of block | when Post-LN trains, and when it does not |
# | 07 [biases](07_biases.ipynb) | one bias folded into another | which biases do nothing, and whether a difference is clear |
# | 09 [training](09_training.ipynb) | the loop, line by line | what each line of it contributes |
# | 10 [sampling](10_sampling.ipynb) | temperature, top-k, top-p, on sliders | why a sample looks as it does |
#
# **For later**, as you need them:
#
# | lesson | what you build | what you can tell afterwards |
# |---|---|---|
# | 08 [golden models](08_golden_models.ipynb) | a comparison, part by part | which of two models is wrong, and where |
# | 11 [KV cache](11_kv_cache.ipynb) | a cache, its mask, ragged batches | whether a cache is exact, and where time goes |
# | 12 [speculative decoding](12_speculative_decoding.ipynb) | guess and check, with a second model or none | when it pays |
# | 13 [debugging clinic](13_debugging_clinic.ipynb) | twelve diagnoses, a repaired program | what to ask of generated code |
# | 14 [GPT-2's weights](14_gpt2s_weights.ipynb) | a stranger's weights in your model | whether they were loaded right |
# | 15 [scaling up](15_scaling_up.ipynb) | a training shared by processes, a scaling law | what a larger one costs, and brings |
# | 16 [since GPT-2](16_since_gpt2.ipynb) | a Llama out of GPT-2's block | what each new part is for, and worth |
#
# ## What runs where
#
# | | how | what it needs |
# |---|---|---|
# | Colab | the badge at the top | a browser; everything needed is installed there |
# | JupyterLab | `make lab` | Python 3.11 or newer, make, git |
# | VS Code | open the `.ipynb`, or the `.py` and *Run Cell* | its Python and Jupyter extensions, `make setup` once |
# | plain Python | `.venv/bin/python notebooks/00_start_here.py` | `make setup`, once |
#
# The `.py` and the `.ipynb` of a lesson are the same cells. The GPT of all lessons is one file, `picogpt_core.py`,
# to be read from top to bottom. What surrounds it (text, checkpoints, the training loop, plots) is in `picogpt/`.
#
# Experiments run at a budget called *quick*, made for a laptop. Set the environment variable `PICOGPT_BUDGET` to
# `full` before you start, and they run long. (*smoke*, the third value you see in the code, is for the course's own
# tests.)

# %% [markdown]
# ## When a number of yours differs
#
# It will. Processors add the same numbers in different orders, each sum is rounded a little differently, and a
# training lets such differences grow: the same lesson ends with a loss that is up to 0.01 higher or lower on another
# machine. (Another seed moves it further; the ranges that the course prints cover both.) So is a difference of that
# kind, or is something wrong with you or your machine? The next cell takes a few seconds to find out. It computes a
# small model on your machine, and compares every operation, every gradient, and twenty training steps with stored
# results, once in each of two number formats.

# %% tags=["nbval-ignore-output"]
print(picogpt.verify_machine(shipped_too=False))

# %% [markdown]
# Each line says how far your machine strays, as a share of what rounding alone may do: below 100 % all is well. If a
# line fails, it names the first operation that went astray, and what to look for.
#
# And your loss? In a terminal, `python -m picogpt verify --lesson 09 --loss 2.11` compares one of yours with what
# others got in that lesson.

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. let a GPT write, and say where its text comes from: ask for 65 probabilities, draw, append, ask again,
# 2. follow a text through a whole GPT: ids, vectors, blocks, logits, probabilities,
# 3. train one, and read its loss: −ln *p* on average, ln 65 for a model that knows nothing,
# 4. tell what a model is from how it learns and how it writes,
# 5. put three questions to it: its count, its first loss, and whether an answer depends on what comes later.
#
# Three questions for a whiteboard, each answered with a pen and without notes: Draw a GPT from the text to the drawn
# character, with the shape of everything. Where should the loss of a new GPT with 50,257 tokens begin, and why? A
# model has a wonderful loss and cannot write: what do you ask it first?
#
# <details><summary>Answers</summary>
#
# The text becomes ids, (T,), and the ids vectors, (T, C). Every block takes (T, C) and returns (T, C). The last
# position's vector, (C,), becomes logits, (V,), these become probabilities, (V,), and one id is drawn. The loss begins
# near ln 50,257 = 10.82, because a new model has no reason yet to prefer one token to another. Ask whether an answer
# depends on what comes later: change the end of a text, and see whether anything moves before the change.
# </details>
#
# Next: [lesson 01](01_tokenization.ipynb) turns text into numbers, in four ways.
#
# ## Sources
#
# - Text: Tiny Shakespeare, from Andrej Karpathy's [char-rnn](https://github.com/karpathy/char-rnn).
# - The model: Radford et al. 2019, *Language Models are Unsupervised Multitask Learners* (GPT-2),
#   [code](https://github.com/openai/gpt-2). Vaswani et al. 2017, *Attention Is All You Need*, [arXiv
#   1706.03762](https://arxiv.org/abs/1706.03762).
# - Openings that we learned from: [Transformer Explainer](https://poloclub.github.io/transformer-explainer/), which
#   runs GPT-2 on your own prompt and shows every number inside; Karpathy's lecture [Let's build
#   GPT](https://www.youtube.com/watch?v=kCc8FmEb1nY).
# - A training script to compare with: [nanoGPT](https://github.com/karpathy/nanoGPT).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
