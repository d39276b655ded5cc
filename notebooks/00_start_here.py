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
# 1. train a small GPT in under a minute and let it write a play,
# 2. ask a GPT three questions that can show that it is wrong,
# 3. catch a GPT that cheats, as the engineer could not whose log this course grew from,
# 4. know what the course holds, and where to find it.
#
# **You need** Python, and to have met a neural network. No GPU.
#
# **Time** 15 minutes to read, a minute to run.
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

import picogpt
import picogpt_core as pc

# %% [markdown]
# ## What is there to learn?
#
# Tiny Shakespeare: about a million characters of plays. The model reads characters and guesses the next one. That is all it
# ever does.

# %%
text = picogpt.load_shakespeare()
print(f"{len(text):,} characters, {len(set(text))} different ones\n")
print(text[:148])

# %% [markdown]
# ## A GPT that knows nothing
#
# A new model has random weights. We let it go on from a line of the play. Each character is a throw of dice, loaded by the
# model; it has no reason yet to prefer one.

# %%
corpus = picogpt.load_corpus(text)  # as numbers (lesson 01); corpus.val is never trained on
torch.manual_seed(1337)
model = pc.GPT(pc.preset("demo"))
settings = pc.SampleConfig(max_new_tokens=120, seed=1)
print(picogpt.generate_text(model, corpus.tokenizer, "Before we proceed any further", settings))

# %% [markdown]
# How wrong is it? The **loss** is the model's surprise at the true next character, on average: −ln p, where p is the
# probability that it gave. With 65 characters and no idea, p is 1/65, and the surprise is ln 65.

# %%
before = pc.evaluate(model, corpus.val)
print(f"loss before training {before:.1f}, ln 65 = {math.log(65):.1f}")

assert abs(before - math.log(65)) < 0.3, "a new model should guess blindly"

# %% [markdown]
# ## One minute of training
#
# Show it windows of text, ask for the next character at every place, and turn every weight a little towards less surprise.
# A few hundred times. Lesson 09 takes this line apart.

# %% tags=["nbval-ignore-output"]
steps = picogpt.budget(smoke=1, quick=300, full=2000)
recipe = pc.TrainConfig(steps=steps, batch_size=16, eval_every=max(1, steps // 5))
run = picogpt.train(model, corpus, recipe)

# %% tags=["nbval-ignore-output"]
settings = pc.SampleConfig(max_new_tokens=400, temperature=0.8, seed=1)
print(picogpt.generate_text(model, corpus.tokenizer, "Before we proceed any further", settings))

# %% [markdown]
# Lines of about the right length, words that are English or could be, now and then a speaker in capitals with a colon.
# Nobody told it what a word is. Run the cell again with another `seed`, or a `temperature` of 0.5 or 1.2. Lesson 10 makes
# sliders of them.

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
picogpt.plot_history(ax, run.history)
ax.axhline(math.log(65), color="grey", ls=":", lw=1)
ax.text(steps, math.log(65) - 0.05, "guessing blindly: ln 65", ha="right", va="top", color="grey")
ax.set_title("The loss while the model learns")
plt.show()

# %% [markdown]
# The thin line is measured on the windows it learns from. The dots are measured on the last tenth of the text, which it
# never learns from: the **validation loss**. It is the one to believe.

# %%
after = run.val_losses[-1][1]
assert after < before, "training must lower the loss on text the model has not seen"

# %% [markdown]
# ## Is it right? Three questions
#
# In 2024 an engineer asked an AI assistant for a GPT. The code looked right. It trained to a loss of 0.0153, far below
# anything that an honest model of this course reaches. Its text was garbage, and finding out why took four days. His notes
# are **the log** that the later lessons quote. Three questions take a minute, and the third would have told. They need
# nothing but the finished model, so they work on anybody's.
#
# **1. Has it the right number of parameters?** Count what the settings promise, and compare. The course's own model,
# PicoGPT, must have 2,466,369.

# %% tags=["setup"]
blank = pc.GPT(pc.preset("picogpt"))
print(f"{pc.count_parameters(blank):,}")

assert pc.count_parameters(blank) == 2_466_369, "a layer is missing, shared or doubled"

# %% [markdown]
# **2. Is a new one as surprised as it should be?** You saw that: about ln 65 = 4.2, before any training. Much higher: the
# first weights are too large. Much lower: it has seen the answer.
#
# **3. Can it hear the future?** The model guesses character *t + 1* from characters *0 … t*. If it could look further, it
# would not have to guess. So: change the characters from place 20 on, and see at which places the model's answer
# moves: its **logits**, one score for each possible next character.

# %% tags=["setup"]
def how_far_each_position_moves(model, T=32, changed_from=20):
    """(T,): how much the logits of each position change when later characters do."""
    torch.manual_seed(0)
    ids = torch.randint(0, 65, (1, T))  # (B=1, T)
    other = ids.clone()
    other[:, changed_from:] = (other[:, changed_from:] + 1) % 65  # another future, the same past
    with torch.no_grad():
        return (model.eval()(ids) - model.eval()(other)).abs().amax(dim=-1)[0]  # (T,)


moved = how_far_each_position_moves(blank)
assert moved[:20].max() == 0, "a position before 20 depends on later characters"
assert moved[20:].min() > 0, "a position from 20 on must depend on its own character"

# %% [markdown]
# ## A GPT that cheats
#
# Here is the engineer's mistake: one missing line, the causal mask. `causal=False` leaves it out. The count is perfect. The
# loss of a new model is perfect.

# %%
cheat = pc.GPT(pc.ModelConfig(causal=False))

assert pc.count_parameters(cheat) == pc.count_parameters(blank), "the mask has no parameters"
cheat_loss = pc.evaluate(cheat, corpus.val[:2000])
assert abs(cheat_loss - math.log(65)) < 0.3, "a new cheat guesses blindly too"

# %% [markdown]
# The third question tells at once.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout="constrained")
colours = ["tab:orange"] * 20 + ["tab:blue"] * 12
for ax, some_model in zip(axes, (blank, cheat), strict=True):
    ax.bar(range(32), how_far_each_position_moves(some_model) > 0, color=colours)
    ax.axvline(19.5, color="black", lw=1)
    ax.set(xlabel="position t (changed from 20 on)", yticks=[0, 1], yticklabels=["still", "moved"])
axes[0].set_title("PicoGPT")
axes[1].set_title("without the mask")
plt.show()

assert how_far_each_position_moves(cheat)[:20].min() > 0, "without the mask all of them move"

# %% [markdown]
# Orange places lie before the change. In PicoGPT they stay still. Without the mask all of them move: each had looked at
# what comes after it. Such a model gets a wonderful loss, in training *and* in validation, since there too the answer
# stands in the window. Only when it writes is there no future to look at, and then it is lost. Lesson 03 builds the mask,
# and measures this.

# %% [markdown]
# ## Your turn
#
# Exercises have a cell to fill in and a check that answers in words. A solution is folded away below, unless your teacher
# took it out. Nothing breaks if you leave one open.
#
# ### 1. The loss of a good guesser
#
# A model has found out that only 8 of the 65 characters can come next, and finds these 8 equally likely. It is right each
# time. What is its loss?

# %% tags=["check"]
def check_loss(guess):
    if not isinstance(guess, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(guess - math.log(8)) < 0.01:
        print("✓ right: p is 1/8, and -ln(1/8) = ln 8 = 2.08")
    elif abs(guess - 3) < 0.01:
        print("not yet: 3 is the answer in bits (log2 8). The course counts in nats: take math.log")
    elif guess < 0:
        print("not yet: a surprise is never below 0. ln p is negative, the loss is -ln p")
    else:
        print(f"not yet: {guess:.2f}. Take -ln of the probability it gives to the true one")


# %% tags=["exercise"]
loss_of_the_guesser = ...  # your number

check_loss(loss_of_the_guesser)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_loss(-math.log(1 / 8))

# %% [markdown]
# ### 2. Which one cheats?
#
# Three models, one of them without a mask. Find it with `how_far_each_position_moves`.

# %% tags=["check"]
names = ("Anton", "Berta", "Clara")
guilty = names[torch.randint(3, (1,), generator=torch.Generator().manual_seed(1)).item()]
suspects = {name: pc.GPT(pc.ModelConfig(n_layer=1, causal=name != guilty)) for name in names}


def check_suspect(name):
    if name is ...:
        print("not yet: put a name in place of the three dots")
    elif name not in suspects:
        print(f"not yet: {name!r} is not among {', '.join(suspects)}")
    elif (change := how_far_each_position_moves(suspects[name])[:20].max().item()) == 0:
        print(f"not yet: {name}'s positions before 20 stay still: this one is honest")
    else:
        print(f"✓ {name}: the past moved by up to {change:.1f} when the future changed")


# %% tags=["exercise"]
the_cheat = ...  # "Anton", "Berta" or "Clara"

check_suspect(the_cheat)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
for name, suspect in suspects.items():
    if how_far_each_position_moves(suspect)[:20].max() > 0:
        check_suspect(name)

# %% [markdown]
# ## The map
#
# | lesson | what you build | what you can tell afterwards |
# |---|---|---|
# | **00 start here** | a first GPT | whether a GPT depends on future tokens |
# | 01 tokenization | characters, bytes and pairs as numbers | how two models with different tokens compare |
# | 02 bigram baseline | the simplest model that learns | what a loss means, and how far to trust one |
# | 03 causal attention | one head, with its mask | why the engineer lost four days |
# | 04 multi-head attention | eight heads in one reshape | when `nn.MultiheadAttention` is right |
# | 06 LayerNorm placement | Pre-LN and Post-LN | which is better here, and how sure that is |
# | 07 biases | queries, keys and values with and without | which biases do nothing at all, and why |
# | 08 golden models | the whole GPT | whether a count is right, to the digit |
# | 09 training | the loop, line by line | what each line of it contributes |
# | 10 sampling | temperature, top-k, top-p, on sliders | why a sample looks as it does |
# | 11 KV cache | fast generation | whether a cache is exact |
# | 12 speculative decoding | faster still, with a second model | when it pays |
# | 13 debugging clinic | eight broken GPTs, fixed | what to ask of generated code |
# | 14 GPT-2 and scaling up | GPT-2's weights in your model | what a larger one costs |
#
# Each stands on its own, but the order is the easiest way.
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
# The `.py` and the `.ipynb` of a lesson are the same cells. The GPT of all lessons is one file, `picogpt_core.py`, to
# be read from top to bottom. What surrounds it (text, checkpoints, the training loop, plots) is in `picogpt/`.
#
# Experiments run at a **quick** budget, made for a laptop. Set the environment variable `PICOGPT_BUDGET=full` before you
# start, and they run long.

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | **token** | the unit a model reads and guesses: here, one character |
# | **vocabulary** | all tokens there are: here 65. Its size is V |
# | **id** | a token's number, from 0 to V − 1 |
# | **place, position** | where a token stands in its window, counted from 0: t, or j for one that is looked at |
# | **window** | a run of neighbouring tokens that the model sees at once. Its length is T |
# | **block size** | the longest window a model can see |
# | **batch** | several windows computed together: B of them |
# | **embedding** | a learned vector for each token, or for each place. Its length, the *width*, is C |
# | **logits** | the model's scores for the next token, one for each of the V, before they become probabilities |
# | **softmax** | turns scores into probabilities: exponentiate, divide by the sum |
# | **loss** | −ln of the probability that the model gave to the true next token, on average. In *nats* |
# | **nat, bit** | units of surprise: natural logarithm, logarithm to base 2. 1 nat = 1.44 bits |
# | **perplexity** | e to the power of the loss: among how many equal choices the model hesitates |
# | **parameter** | a number that training changes |
# | **training loss** | the loss on text that the model learns from |
# | **validation loss** | the loss on text that it does not learn from: here the last tenth |
# | **overfitting** | the training loss falls while the validation loss rises: learning by heart |
# | **attention** | each place gathers from other places, and learns from which |
# | **query, key, value** | what a place looks for, what it offers, what it hands over (lesson 03) |
# | **head** | one attention among several that run side by side |
# | **causal mask** | what keeps a place from attending to places after it |
# | **MLP** | two linear layers with an activation between them, at each place by itself |
# | **activation** | a function that is not linear: GELU, or ReLU, which sets what is below 0 to 0 |
# | **LayerNorm** | brings a vector to mean 0 and spread 1, then lets two learned vectors scale and shift it |
# | **residual stream** | the vector at each place, to which every attention and MLP adds its share |
# | **block** | an attention and an MLP. A GPT is a stack of them. Also called a layer |
# | **optimizer** | turns gradients into changes of the parameters: AdamW, Muon |
# | **learning rate** | how large these changes are |
# | **warm-up** | small changes first, in the first steps of a training |
# | **dropout** | in training, a random part of the numbers is set to 0, so that the model relies on no single one |
# | **step** | one change of all parameters, after one batch |
# | **sampling** | drawing the next token from the probabilities |
# | **temperature** | divides the logits before the softmax: below 1 safer, above 1 wilder; 0 always takes the likeliest |
# | **top-k, top-p** | draw only among the k likeliest; only among the likeliest that together have probability p |
# | **greedy** | always taking the likeliest token: no dice, the same text each time |
# | **KV cache** | keys and values of the places read so far, kept so that they need not be computed again |
# | **draft model** | a small model that guesses ahead, for a large one to check: speculative decoding |
# | **ablation** | one part changed, all else kept: what was the part worth? |
# | **golden model** | a model known to be right, to compare another one with |
# | **doctor** | `picogpt_doctor/`: examines anybody's GPT from outside |
# | **probe** | a question to a model that its answers settle: change something, see what moves |
# | **byte pair encoding, BPE** | tokens made of several characters: frequent neighbours are joined again and again |
# | **FLOP** | a floating-point operation: one addition or multiplication |
# | **float32, bfloat16** | numbers in 4 and in 2 bytes: the second is faster where the hardware has it, and rounds more |
# | **DDP** | several processes, or GPUs, train one model, each on its share of the batch |
# | **checkpoint** | a model's parameters in a file |
# | **the log** | the notes of an engineer whose GPT had no causal mask; this course measures what they claim |
# | **seed** | where a stream of random numbers starts. The same seed, the same numbers |

# %% [markdown]
# ## What you can do now
#
# 1. Train a small GPT and let it write: `picogpt.train`, `picogpt.generate_text`.
# 2. Ask a GPT three questions that can show that it is wrong: its count, its first loss, whether it hears the future.
# 3. Catch one that cheats, although its count and its loss look perfect.
# 4. Find your way: the map, the places it runs, the words.
#
# Next: [lesson 01](01_tokenization.ipynb) turns text into numbers, in three ways.
#
# ## Sources
#
# - Text: Tiny Shakespeare, from Andrej Karpathy's [char-rnn](https://github.com/karpathy/char-rnn).
# - The model: Radford et al. 2019, *Language Models are Unsupervised Multitask Learners* (GPT-2),
#   [code](https://github.com/openai/gpt-2). Vaswani et al. 2017, *Attention Is All You Need*,
#   [arXiv 1706.03762](https://arxiv.org/abs/1706.03762).
# - A training script to compare with: [nanoGPT](https://github.com/karpathy/nanoGPT).
