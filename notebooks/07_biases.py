# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Biases
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/07_biases.ipynb)
#
# **You will**
# 1. replace the biases of a trained model by random numbers, one kind after the other, and see which kind nobody
#    misses,
# 2. prove that the bias of the keys does nothing, and find out where the proof fails,
# 3. fold one bias into another, with equal outputs,
# 4. test the claim "LayerNorm removes the bias",
# 5. read an ablation in pairs, with an interval, and find out why one of our own was wrong.
#
# **You need** lesson 05 (the whole GPT), and from lesson 06 the two places where a LayerNorm can stand.
#
# **Time** 35 minutes to read, half a minute to run.
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
import copy
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()

# %% [markdown]
# A **bias** is a number that a layer adds, whatever comes in. The attention of PicoGPT has none for its queries,
# keys and values, GPT-2's has them, and the engineer whose log this course follows switched them on and off for days
# while he looked for his bug. Are they worth the trouble?
#
# Let us begin with an experiment. We train a small model that has all of them, with AdamW, the optimizer of lesson
# 05's loop.

# %%
torch.manual_seed(0)
small = pc.GPT(pc.ModelConfig(block_size=64, n_layer=2, n_head=4, n_embd=64, qkv_bias=True))
steps = picogpt.budget(smoke=5, quick=200, full=1000)
settings = pc.TrainConfig(
    steps, batch_size=16, optimizer="adamw", dtype="float32", eval_every=steps
)
some = corpus.val[:5000]  # enough for a look
picogpt.train(small, corpus._replace(val=some), settings, progress=False)
small.cpu()  # train uses a GPU if there is one
loss = pc.evaluate(small, some)
print(f"trained: validation loss {loss:.2f}, on {len(some):,} characters", end=", ")
print("usually", picogpt.usual("07", "small model with all biases, 5,000 validation characters"))

# %% [markdown]
# Now we take this trained model and exchange, in both of its layers, the biases of the queries for random numbers.
# Then, in a fresh copy, those of the keys, and at last those of the values. How much worse does it get?

# %%
def randomised(net, kind):
    """A copy of the model whose biases of this kind (0 query, 1 key, 2 value) are random."""
    net, random = copy.deepcopy(net), torch.Generator().manual_seed(1)
    for block in net.h:
        block.attn.c_attn.bias.data.view(3, -1)[kind] = torch.randn(64, generator=random)
    return net

# %% tags=["nbval-ignore-output"]
losses = [pc.evaluate(small, some)]
print(f"as trained           {losses[0]:.6f}")
for kind, name in enumerate(("query", "key", "value")):
    losses.append(pc.evaluate(randomised(small, kind), some))
    print(f"random {name:5} biases  {losses[-1]:.6f}")

assert abs(losses[2] - losses[0]) < 1e-4, "random keys' biases change nothing"

# %% [markdown]
# Wrong biases for the queries hurt, and so do wrong ones for the values. But those of the keys can be anything. We
# have replaced 128 numbers of a trained model by noise, and the loss is the same to the last digits. How can a model
# have parameters that do nothing?
#
# ## Why the key bias cancels
#
# Recall what attention does with a key. It multiplies it with a query, and that is a score. The scores of one query,
# a row, go through a softmax. If every key gets the same bias b on top, the score of position *t* for position *j*
# becomes
#
# > q_t · (k_j + b) = q_t · k_j + q_t · b
#
# and the new part, q_t · b, has no *j* in it. It is the same number for the whole row. What does a softmax do with a
# row to which one number was added? Nothing, for exp(s + c) = exp(s) · exp(c), and the common factor exp(c) is
# divided out again. Here it is with numbers, for four positions.

# %%
torch.manual_seed(3)
q, k, b = torch.randn(4, 8), torch.randn(4, 8), torch.randn(8)  # (T=4, hs=8) twice, and a key bias
scores, added = q @ k.T, (q @ b)[:, None].expand(4, 4)  # (T, T) each

# %%
fig, axes = plt.subplots(2, 2, figsize=(7.2, 6), layout="constrained")
panels = [("scores q · k", scores), ("what a key bias adds: q · b", added)]
panels += [("softmax of the scores", scores.softmax(dim=1))]
panels += [("softmax of the sum", (scores + added).softmax(dim=1))]
for ax, (title, numbers) in zip(axes.flat, panels):
    draw.grid(ax, numbers, "tend", "tend", title)
plt.show()

# %%
assert torch.allclose(scores.softmax(dim=1), (scores + added).softmax(dim=1), atol=1e-6)

# %% [markdown]
# Look at the second picture first: each row holds one number four times. The numbers are large, in the first two rows
# larger in size than every score of the row, and yet the two pictures below are the same. (We left out the mask. It
# hides some cells of a row, and of those that remain the same is true.)
#
# <details><summary>Before you go on: the query bias is added to all queries. Does it cancel too?</summary>
#
# No. (q_t + b) · k_j = q_t · k_j + b · k_j, and this second part *does* depend on *j*. Keys that point along b get a
# higher score from everybody.
# </details>
#
# ### And yet it moves
#
# If a parameter has no effect on the loss, its gradient must be 0, since that is what a gradient says: how the loss
# reacts. So an optimizer should leave the key bias where it was, at 0. Did it?

# %%
x, y = pc.get_batch(corpus.train, 32, 64, torch.Generator().manual_seed(0))  # (B=32, T=64) each
small.zero_grad()
pc.cross_entropy(small(x), y).backward()

# %% tags=["nbval-ignore-output"]
biases = [block.attn.c_attn.bias for block in small.h]  # 2 x (192,)
slopes, values = (
    torch.stack([t.view(3, 64).norm(dim=1) for t in numbers]).norm(dim=0)  # (3,)
    for numbers in ([b.grad for b in biases], [b.detach() for b in biases])
)
for name, slope, value in zip(("query", "key", "value"), slopes, values):
    print(f"{name:5} bias: norm of the gradient {slope:.0e}, moved from 0 by {value:.3f}")

# %%
assert slopes[1] < 1e-4 * slopes[0] and values[1] > 0, "no gradient, and yet it has moved"

# %% [markdown]
# The gradient of the key bias is smaller than its neighbours' by many powers of ten, but it is not exactly 0:
# float32 rounds, and what you see is rounding error. And the bias has moved, a little. AdamW is to blame. It divides
# every gradient by its own usual size, so that parameters with small gradients learn too, and it cannot know that
# this small gradient is noise. (It would go much further, were it not for a constant of 1e-8 in the division.)
#
# So do not read meaning into a parameter because it has moved. This one drifted.
#
# ## A proof holds under its conditions
#
# The proof used that the same b is added to every key *and that the score is taken right after*. Many models since
# GPT-2 do something in between. **Rotary positions** turn query and key by an angle that grows with the position.
# **QK-norm** brings every query and key to the same length (and then multiplies each feature by a learned weight).
# We ask the core's attention once more, now in all three forms, in float64 so that rounding is out of the way.

# %%
x = torch.randn(2, 32, 64, dtype=torch.float64)  # (B=2, T=32, C=64)
kinds = {"learned positions": {}}
kinds |= {"rotary positions": dict(positions="rotary"), "QK-norm": dict(qk_norm=True)}

# %% tags=["nbval-ignore-output"]
moved = {}
for name, change in kinds.items():
    torch.manual_seed(0)
    config = pc.ModelConfig(n_embd=64, n_head=4, qkv_bias=True, **change)
    attention = pc.CausalSelfAttention(config).double()
    with torch.no_grad():
        before = attention(x)
        attention.c_attn.bias[64:128] = torch.randn(64)  # the key bias: the middle third
        moved[name] = (attention(x) - before).abs().max().item()
    print(f"{name:17} another key bias moves the output by up to {moved[name]:.0e}")

assert moved["learned positions"] < 1e-12 < 1e-3 < min(moved["rotary positions"], moved["QK-norm"])

# %% [markdown]
# In the first line stands a rounding error of float64. In the other two the key bias is alive. With rotary
# positions, key *j* is turned after the bias was added, by an angle that depends on *j*, and so what the bias adds
# to a score depends on *j* as well. With QK-norm, k + b is divided by its length, and that depends on *j* too.
#
# With rotary positions one can even say *what* such biases are good for. Suppose that the queries have a bias, too.
# Then one part of every score, b_q · b_k after turning, depends on nothing but the *distance* between the two
# positions. Here is that part, for two biases that point the same way.

# %%
b = torch.ones(1, 1, 1, 16)  # (B=1, nh=1, T=1, hs=16): one bias for queries and keys
turned = pc.rotate(b.expand(1, 1, 64, 16), torch.arange(64))  # (1, 1, T=64, hs)
by_distance = (turned[0, 0] @ turned[0, 0, 0]) / math.sqrt(16)  # (64,): with position 0

# %%
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
ax.plot(by_distance, color=draw.INK)
ax.set(xlabel="distance between the two positions", ylabel="added to the score")
ax.set_title("Two biases and rotary positions: a bonus that depends on the distance", fontsize=12)
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Whatever the two characters are, their score gets a bonus that depends on the distance alone. It is largest at
# distance 0, falls unevenly until about 28 and then rises again: the 16 numbers are turned in eight pairs, each at a
# speed of its own (lesson 16), and eight waves of different lengths do not add up to a curve that only falls. A head
# that wants to look at its surroundings can have that from two biases, without spending anything on it in its matrices.
# In 2023 Su Jianlin reported that such biases help a model with texts longer than those it was trained on, and the
# first Qwen report gives this as the reason for keeping the biases of query, key and value when many others had dropped
# them. (Su later added that the result was not stable.)
#
# Take the form of this story with you rather than the fact. "The key bias does nothing" is a theorem, it stands in
# papers, and it would not hold in most models of today. A proof is as good as its conditions.
#
# ## The value bias can live elsewhere
#
# Back to PicoGPT. Position *t* receives a mean of the values, with weights that sum to 1. Add b to all values, and
# every mean is shifted by exactly b: Σ w (v + b) = Σ w v + b. Then comes `c_proj`, a linear layer W with a bias of
# its own, and it turns that b into W b, the same vector at every position. Two constants in a row can be made into
# one. We **fold** the first into the second:

# %%
torch.manual_seed(0)
attention = pc.CausalSelfAttention(pc.ModelConfig(n_embd=64, n_head=4, qkv_bias=True))
x = torch.randn(2, 32, 64)  # (B=2, T=32, C=64)

# %%
with torch.no_grad():
    nn.init.normal_(attention.c_attn.bias)
    before, value_bias = attention(x), attention.c_attn.bias[128:].clone()
    attention.c_proj.bias += attention.c_proj.weight @ value_bias  # (C, C) @ (C,) -> (C,)
    attention.c_attn.bias[128:] = 0
    apart = (attention(x) - before).abs().max()
print(f"without the value bias, folded: the output moves by {apart:.5f}")

# %% [markdown]
# So where `c_proj` has a bias, a value bias adds nothing that the model could not do without it. (With dropout on the
# attention weights, which sets some of them to 0 (lesson 09), they do not quite sum to 1 during training, and the
# folding is exact only afterwards.)
#
# ## The query bias is the one that counts
#
# That leaves the queries. As the question above showed, their bias gives some keys a higher score from everybody,
# whatever is asked. A head can say: *look at line ends, always.* Of the three, it is the only one that gives an
# attention layer a new ability.
#
# In a Pre-LN block even this one can live elsewhere. In front of the attention stands a LayerNorm, which ends by adding
# a bias of its own. Call its output n, and let us add a vector d to that bias. The three matrices now get n + d, and so
#
# - the queries become W_q n + **W_q d**, which is a query bias, if we choose d so that W_q d is what we want,
# - the keys become W_k n + **W_k d**, which is a key bias and cancels,
# - the values become W_v n + **W_v d**, which is a value bias, and `c_proj` can take it back.

# %%
torch.manual_seed(0)
ln = nn.LayerNorm(64).double()
attention = pc.CausalSelfAttention(pc.ModelConfig(n_embd=64, n_head=4, qkv_bias=True)).double()
W_q, _, W_v = attention.c_attn.weight.chunk(3)  # (C, C) each
x = torch.randn(2, 32, 64, dtype=torch.float64)  # (B=2, T=32, C)

# %%
with torch.no_grad():
    nn.init.normal_(attention.c_attn.bias[:64])
    before = attention(ln(x))
    d = torch.linalg.solve(W_q, attention.c_attn.bias[:64])  # (C,): W_q d is the query bias
    ln.bias += d
    attention.c_attn.bias[:64] = 0
    attention.c_proj.bias -= attention.c_proj.weight @ W_v @ d  # (C, C) @ (C, C) @ (C,) -> (C,)
    apart = (attention(ln(x)) - before).abs().max()
print(f"without the query bias, moved into the LayerNorm: the output moves by {apart:.5f}")

# %% [markdown]
# With a LayerNorm's bias in front and a bias in `c_proj` behind, and as long as W_q has an inverse, there is nothing
# that a model with biases for query, key and value could do and PicoGPT could not. That settles what it *can* do,
# but it does not settle how well it *learns*, for an optimizer may find one form more easily than the other. We come
# to that.
#
# How many numbers are we talking about, by the way?

# %%
full = pc.GPT(pc.ModelConfig(qkv_bias=True))
ends = {"query, key, value": "attn.c_attn.bias", "attention's c_proj": "attn.c_proj.bias"}
ends |= {"MLP": ("mlp.c_fc.bias", "mlp.c_proj.bias"), "head": "lm_head.bias"}
ends |= {"LayerNorm": ("ln_1.bias", "ln_2.bias", "ln_f.bias")}

# %%
counts = {}
for kind, end in ends.items():
    counts[kind] = sum(p.numel() for name, p in full.named_parameters() if name.endswith(end))
    print(f"{kind:20}{counts[kind]:6,}")
total, whole = sum(counts.values()), pc.count_parameters(full)
print(f"{'together':20}{total:6,} of {whole:,} parameters: {total / whole:.2%}")

# %% [markdown]
# A third of a per cent, all of them together. Their number is no argument for or against them.
#
# ## "LayerNorm removes the bias"
#
# The log quotes this explanation of why attention often goes without biases, and strikes it out. It goes like this:
# a normalisation behind the layer makes the mean 0, so whatever was added before is removed. Let us see. We take 500
# vectors of 8 numbers, add a bias to each, and normalise in two ways. **BatchNorm** is the older normalisation,
# common with images, and no GPT uses it.

# %%
torch.manual_seed(0)
x, b = torch.randn(500, 8), torch.randn(8)  # 500 vectors of 8 numbers; a bias
layer, batch = nn.LayerNorm(8), nn.BatchNorm1d(8)
with torch.no_grad():
    print(f"BatchNorm: the bias moves the output by {(batch(x + b) - batch(x)).abs().max():.4f}")
    print(f"LayerNorm: the bias moves the output by {(layer(x + b) - layer(x)).abs().max():.4f}")
    even = (layer(x + 3.0) - layer(x)).abs().max()
    print(f"LayerNorm, a bias of 3 in every feature: {even:.4f}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.8), layout="constrained", sharey=True)
for ax, (title, rows) in zip(
    axes, {"x + b": x + b, "BatchNorm": batch(x + b), "LayerNorm": layer(x + b)}.items()
):
    ax.plot(rows[:60].detach().T, color=draw.INK, alpha=0.12)
    ax.plot(rows.detach().mean(dim=0), "o-", color=draw.WARM)
    ax.set_title(title, fontsize=12)
    ax.set(xlabel="feature")
axes[0].set(ylabel="value")
plt.show()

# %% [markdown]
# The pale lines are 60 of the 500 vectors. The orange one is the mean of all, and in the left picture it is nearly the
# bias. BatchNorm flattens it, and LayerNorm lets it through. Both subtract a mean, but not the same one. BatchNorm
# takes the mean of *one feature over many examples*: the bias of that feature is in all of them, so it disappears.
# LayerNorm takes the mean of *one vector over its features*, and the bias differs from feature to feature. Only a bias
# that is the same number in all features would go. The explanation is right, for another layer.
#
# ## Does it matter? An ablation
#
# Proofs say what can matter. What does matter, in a training like ours? We change one part, keep everything else, and
# train anew: that is an **ablation** too, but it asks another question than lesson 04's: how well does a model do
# that never had the part? The course has done so for six models of PicoGPT's size: LayerNorms before the branches
# (Pre-LN, PicoGPT's way) or behind the sums (Post-LN, the log's way), each without any biases, with all but those of
# query, key and value, and with all of them. Each was trained for 400 steps, with Muon (lesson 09). We begin with the
# first runs that we made, three seeds each.

# %%
def losses_of(name):  # variant -> seed -> validation loss
    return picogpt.study.losses_by_seed(picogpt.load_rows(picogpt.DATA / "runs" / f"{name}.csv"))


first = losses_of("architecture")
first["pre"] = first["picogpt (pre)"]
variants = {"none": ", no bias", "all but q, k, v": "", "all": ", qkv bias"}

# %%
def plot_lines(losses, title):
    fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.6), layout="constrained")
    for ax, (norm, name) in zip(axes, (("pre", "Pre-LN"), ("post", "Post-LN"))):
        for seed in sorted(losses[norm]):
            line = [losses[norm + end][seed] for end in variants.values()]
            ax.plot(line, "o-", ms=4, label=f"seed {seed}")
        ax.set_xticks(range(3), variants)
        ax.set_title(name, fontsize=12)
        ax.grid(alpha=0.3, axis="y")
    axes[0].set(ylabel="validation loss (nats per character)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    fig.suptitle(title)
    plt.show()


plot_lines(first, "The first runs")

# %% [markdown]
# Each line is one seed, with more and more biases from left to right. On the left the lines contradict each other.
# With one seed alone you could have "shown" that biases help, or that they hurt, and which of the two would have
# been up to the seed. On the right, for Post-LN, all three lines make a V: the lowest loss is that of the middle, all
# but those of query, key and value, in each seed.
#
# ### In pairs
#
# How does one tell an effect from luck? Here is the piece of statistics that this course uses most.
#
# Training with a seed is partly a matter of luck: which numbers the model starts from, and which windows it sees.
# But part of the luck is *shared*. With the same seed, two variants see the same windows in the same order. So we do
# not compare means with means. We take the *difference*, seed by seed: what the two had in common drops out.
#
# These differences have a mean, and they scatter around it. How far might the mean of *very many* seeds lie from the
# mean of these few? If they scatter with a standard deviation of s, the mean of n of them scatters with s / √n, which
# is the *standard error* of lesson 02. Go a few standard errors to both sides, and you have a **95 % interval**: a
# procedure that catches the true mean 19 times in 20. How many is "a few"? For large n it is 1.96. For five seeds it is
# 2.78, because s itself is not well known from five numbers, and for three it is 4.30, which is the price of saving on
# seeds. (The numbers are Student's t.)

# %%
def interval(losses, variant, base):
    d = torch.tensor([losses[variant][seed] - losses[base][seed] for seed in losses[base]])
    t = {3: 4.303, 5: 2.776}[len(d)]
    half = (t * d.std() / math.sqrt(len(d))).item()  # std divides by n − 1
    course = picogpt.paired_difference(losses[variant], losses[base])
    assert math.isclose(course.high, d.mean() + half, abs_tol=1e-5)
    return f"{d.mean():+.3f} ({d.mean() - half:+.3f} to {d.mean() + half:+.3f})"


for norm in ("pre", "post"):
    print(f"{norm:4} all less all but q, k, v: {interval(first, f'{norm}, qkv bias', norm)}")

# %% [markdown]
# For Pre-LN the interval contains 0: whether these biases help or hurt, we do not know. For Post-LN it does not contain
# 0. As in lesson 06, when this course says that a difference is **clear**, it means that the 95 % interval of the
# paired differences leaves out 0, and when it says *unclear*, it means this and not "none". So here is a finding: with
# Post-LN, the biases of query, key and value do harm, a small one, in all three seeds.
#
# An earlier draft of this lesson said so, and we **take it back**. Can you find the flaw? The rules were kept: one
# change, three seeds, pairs, an interval.
#
# ### The flaw
#
# Look at what a model starts from. Same seed, with these biases and without.

# %%
def new_model(seed=1337, **change):
    torch.manual_seed(seed)
    return pc.GPT(pc.ModelConfig(n_embd=64, n_head=4, **change))


for change in (dict(), dict(qkv_bias=True)):
    start = new_model(**change).wte.weight[0, :4]  # of (V, C): four numbers of the first row
    print("the embedding begins with", *(f"{n:+.4f}" for n in start.tolist()), change)

# %% [markdown]
# Other numbers, in a table that has nothing to do with biases, and so it goes on through all matrices. When PyTorch
# makes a linear layer it fills its bias with random numbers. We put zeros there afterwards, but the numbers are drawn
# by then, and each number that is drawn later is another one. The two models of a pair had the same windows and
# *different first weights*. In our differences, the luck of two starts was left in.
#
# The cure is to draw all matrices once more, in their order, after the same seed.

# %%
def equal_start(net, seed=1337):
    torch.manual_seed(seed)
    for name, parameter in net.named_parameters():
        if parameter.dim() == 2:  # every matrix, no bias
            net._initialise(name, parameter)
    return net


plain, biased = (equal_start(new_model(**c)).state_dict() for c in ({}, dict(qkv_bias=True)))
print("the matrices are equal:", all(torch.equal(plain[name], biased[name]) for name in plain))

# %% [markdown]
# So we trained all six again from equal matrices, and with five seeds.

# %%
losses = losses_of("biases")
plot_lines(losses, "From equal first matrices")

# %%
print(f"{'less all but q, k, v':22}{'first runs':27}equal matrices")
for norm in ("pre", "post"):
    for name in ("none", "all"):
        old, new = (interval(runs, norm + variants[name], norm) for runs in (first, losses))
        print(f"{norm + ', ' + name:22}{old:27}{new}")

# %% [markdown]
# The V is gone, and with it the harm: for Post-LN with all biases, zero now lies inside the interval, and the interval
# is a third as wide. (Five seeds instead of three would alone have halved it.) Was the first one wrong, then? Different
# starts do not push a difference to one side. They widen its scatter, and with three seeds an interval can miss. Even a
# good one misses the truth one time in twenty, and a course that computes dozens of them will print a few that miss.
# What we can do is to leave less to luck, and not to overlook where luck hides.
#
# It hid in two more places. Both sides of the V are measured from the *same three runs* in its middle. If these start
# luckily, all else looks worse, more biases and fewer: two findings, one piece of luck. And we had run the first
# experiment twice, and it said the same: 0.017, and 0.019, the number of that draft. But with the same three seeds a
# model gets the same start and the same windows again. That is not a second witness. (Strictly, the new runs differ in
# one more thing: they ran on a GPU, in numbers of 16 bits (*bfloat16*, lesson 09), both sides of every pair.)
#
# ### What stands
#
# One difference is clear now, and it points the other way: with Pre-LN, the biases of query, key and value *help*, by
# half a hundredth of a nat. (On the left every line falls from the middle to the right.) After this story, how far do
# you trust it? We looked at four differences at once, and if there were no effects at all, up to one such table in five
# would show a clear one. We would wait for more seeds.
#
# And two more models, those in which the key bias does *not* cancel: PicoGPT with rotary positions, and with QK-norm.
# Equal matrices again, three seeds.

# %%
newer = losses_of("biases_since_gpt2")
for base in ("rotary", "QK-norm"):
    print(f"{base:8} with the biases of q, k, v: {interval(newer, f'{base}, qkv bias', base)}")

# %% [markdown]
# With rotary positions the biases bring more than anywhere else, about two hundredths, and the interval just leaves
# out 0. That is where the theory above expects something of them. But it is three seeds, and we have just taken back a
# finding of that size. With QK-norm it is unclear.
#
# ### The log's two suggestions
#
# After days of trying, the log suggests two models: Pre-LN with all biases and a last LayerNorm, or Post-LN with
# none. With the same runs we can hold each of them to what it is compared with.

# %%
ends = {"Pre-LN, all biases, less Pre-LN as PicoGPT": ("pre, qkv bias", "pre")}
ends |= {"Post-LN, none, less Post-LN, all": ("post, no bias", "post, qkv bias")}
ends |= {"Post-LN, none, less Pre-LN as PicoGPT": ("post, no bias", "pre")}
for what, (variant, base) in ends.items():
    print(f"{what:44} {interval(losses, variant, base)}")

# %% [markdown]
# The first suggestion is as good as PicoGPT, or better by that half a hundredth. Of the second we cannot say whether
# leaving out the biases changes anything, and it stays a tenth of a nat behind Pre-LN, in this training: lesson 06 has
# shown how much that depends on where one starts from. Here, the place of the LayerNorm counts at least ten times as
# much as the biases of query, key and value.
#
# ### What may you claim?
#
# Say what you changed, in which model, in which training, over how many seeds, *what the two sides of a pair share*,
# and give the interval. "Biases of query, key and value made no clear difference for Post-LN at 2.47 million parameters
# after 400 steps with Muon, over five seeds from equal first matrices: −0.001 (−0.005 to +0.003)" is a finding. "Biases
# do not matter" is not.
#
# And if you want to know more exactly, how many seeds would it take? The interval shrinks with the root of their
# number, and it grows with the scatter of the differences. Equal starts should lower that scatter, and so save seeds.
# Here it fell in three of our four comparisons and doubled in the fourth: three or five seeds do not measure a scatter
# well. The cell takes one of the three. (It counts with 1.96, which is a little too few. With Student's t, two or three
# more seeds come out.)

# %%
for words, runs in (("other first matrices", first), ("equal first matrices", losses)):
    d = torch.tensor([runs["pre, qkv bias"][seed] - runs["pre"][seed] for seed in runs["pre"]])
    seeds = math.ceil((1.96 * d.std() / 0.002) ** 2)
    print(f"{words}: the differences scatter by {d.std():.4f}; for ± 0.002, {seeds} seeds")

# %% [markdown]
# That is why small differences are so rarely settled, and why papers that report one are worth a second look at
# their number of seeds.
#
# ## What others chose
#
# | model | biases |
# |---|---|
# | GPT-2 (2019) | in all linear layers of its blocks and in all LayerNorms, none in the head |
# | nanoGPT's training script | none anywhere; a comment in its model says *a bit better and faster* |
# | PaLM, 540 billion parameters (2022) | none; its report says that this made large models more stable |
# | Llama 1 to 3 | none |
# | Qwen 1 to 2.5 | query, key and value alone, with rotary positions |
# | Qwen 3 (2025) | none, and QK-norm instead |
# | gpt-oss (2025) | in every linear layer of its blocks, and one learned *sink* for each head in the softmax |
#
# Most have dropped them; gpt-oss has them again. The reasons differ, and stability at 540 billion parameters says as
# little about our 2.47 million as our ablation says about PaLM.
#
# ## Exercises
#
# ### 1. Fold the value bias
#
# Write `fold(attn)`, which changes an attention of the core in place, so that its value bias is 0 and the outputs
# stay the same. (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def folded_wrongly(attn, before, z, biases, own):
    """What is wrong with a folded attention, in words, or None."""
    if attn.c_attn.bias is None or attn.c_attn.bias.shape != (96,):
        return "keep c_attn.bias, with zeros in its last third"
    off = (attn(z) - before).abs().max().item()
    if attn.c_attn.bias[64:].abs().max() > 0:
        return "the value bias, the last third of c_attn.bias, is not 0"
    if not torch.equal(attn.c_attn.bias[:64], biases[:64]):
        return "leave the biases of query and key alone"
    W, b, new = attn.c_proj.weight, biases[64:], attn.c_proj.bias - own
    if off > 1e-4 and torch.equal(attn.c_proj.bias, own):
        return "c_proj's bias is as it was: add W @ b, and take b before you set it to 0"
    if off > 1e-4 and torch.allclose(new, b, atol=1e-5):
        return "what arrives behind c_proj is W @ b, not b"
    if off > 1e-4 and torch.allclose(new, b @ W, atol=1e-5):
        return "that is b @ W, but a linear layer computes W @ x: take W @ b"
    if off > 1e-4 and torch.allclose(attn.c_proj.bias, W @ b, atol=1e-5):
        return "c_proj has a bias of its own already: add to it"
    if not off <= 1e-4:  # nan is not small either
        return f"the output moved by {off:.2f}. c_proj's bias must take up W @ b"
    return None


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_fold(fold):
    torch.manual_seed(1)
    attn = pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=4, qkv_bias=True))
    z = torch.randn(2, 10, 32)  # (B=2, T=10, C=32)
    with torch.no_grad():
        nn.init.normal_(attn.c_attn.bias)
        nn.init.normal_(attn.c_proj.bias)
        before, biases, own = attn(z), attn.c_attn.bias.clone(), attn.c_proj.bias.clone()
        try:
            fold(attn)
            wrong = folded_wrongly(attn, before, z, biases, own)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
    print(f"not yet: {wrong}" if wrong else "✓ the value bias is gone, the outputs are the same")


# %% tags=["exercise"]
def fold(attn): ...  # your code, inside torch.no_grad(); attn.c_attn.bias is (3C,)


check_fold(fold)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def fold(attn):
    C = attn.c_proj.weight.shape[0]
    with torch.no_grad():
        attn.c_proj.bias += attn.c_proj.weight @ attn.c_attn.bias[2 * C :]  # (C, C) @ (C,)
        attn.c_attn.bias[2 * C :] = 0


check_fold(fold)

# %% [markdown]
# ### 2. Fold a LayerNorm
#
# The same trick goes further, and people who look inside of models use it every day. A LayerNorm ends with
# `normalised * weight + bias`, and the linear layer behind it computes `W @ x + c`. Write `fold_norm(ln, linear)`,
# which moves both into the linear layer: afterwards `ln.weight` is 1 and `ln.bias` is 0, and the two layers together
# give the same outputs. (15 minutes)
#
# <details><summary>A hint</summary>
#
# Write W (γ x + β) + c without the brackets. γ x multiplies each feature by its own number, so what does W (γ x) do
# to the columns of W? And mind the order of your two assignments.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def norm_folded_wrongly(ln, linear, W, c, gamma, beta):
    """What is wrong with the folded pair, in words, or None. W (2n, n), c (2n,)."""
    if not ((ln.weight == 1).all() and (ln.bias == 0).all()):
        return "afterwards, ln.weight must be 1 and ln.bias 0 everywhere"
    if torch.allclose(linear.weight, W, atol=1e-6):
        return "the weight of the linear layer must take up ln.weight"
    if not torch.allclose(linear.weight, W * gamma, atol=1e-5):
        return "each COLUMN of W belongs to one feature: multiply it by that feature's number"
    if torch.allclose(linear.bias, c + W * gamma @ beta, atol=1e-5):
        return "the bias was made with the new weight. ln.bias is not multiplied by ln.weight"
    if torch.allclose(linear.bias, c, atol=1e-6):
        return "ln.bias is lost. Its part in the output is W @ ln.bias"
    if not torch.allclose(linear.bias, c + W @ beta, atol=1e-5):
        return "the bias should be the old one plus W @ ln.bias, with the old W"
    return None


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_fold_norm(fold_norm):
    torch.manual_seed(2)
    ln, linear, z = nn.LayerNorm(6), nn.Linear(6, 12), torch.randn(20, 6)
    with torch.no_grad():
        nn.init.uniform_(ln.weight, 0.5, 2)
        nn.init.normal_(ln.bias)
        before = linear(ln(z))  # (20, 12)
        old = [t.clone() for t in (linear.weight, linear.bias, ln.weight, ln.bias)]
        try:
            fold_norm(ln, linear)
            wrong = norm_folded_wrongly(ln, linear, *old)
            apart = (linear(ln(z)) - before).abs().max()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
    print(f"not yet: {wrong}" if wrong else f"✓ folded: the output moves by {apart:.5f}")


# %% tags=["exercise"]
def fold_norm(ln, linear): ...  # your code, inside torch.no_grad()


check_fold_norm(fold_norm)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def fold_norm(ln, linear):
    with torch.no_grad():
        linear.bias += linear.weight @ ln.bias  # first, with the old weight: (out, in) @ (in,)
        linear.weight *= ln.weight  # (out, in) * (in,): column by column
        ln.weight.fill_(1)
        ln.bias.zero_()


check_fold_norm(fold_norm)

# %% [markdown]
# ### 3. Is it clear?
#
# A colleague has trained a change of yours and the model without it, with the same three seeds. Write
# `verdict(changed, base)`. Both are lists of three losses, in the order of the seeds. Return `"better"`, `"worse"`
# or `"unclear"`, where *unclear* means that the 95 % interval of the paired differences contains 0. For three
# differences, t is 4.303. (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
TRIALS = [  # losses with the change, losses without, the right answer, what else one may have done
    ([1.5, 1.6, 1.7], [1.52, 1.62, 1.72], "better", "Pair them: take the difference by seed"),
    ([1.55, 1.631, 1.729], [1.53, 1.61, 1.71], "worse", "A higher loss is worse"),
    ([1.6, 1.6, 1.6], [1.611, 1.621, 1.631], "unclear", "t · s / √n: t is 4.303, s is over n − 1"),
    ([1.6, 1.6, 1.6], [1.6135, 1.62, 1.63], "better", "s / √n, not s: it is the mean you ask for"),
    ([1.6, 1.61, 1.62], [1.6, 1.61, 1.62], "unclear", "No difference at all is unclear"),
]


def check_verdict(verdict):
    for changed, base, right, hint in TRIALS:
        try:
            answer = verdict(list(changed), list(base))
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if answer != right:
            print(f"not yet: {changed} against {base} is {right}, you say {answer!r}. {hint}")
            return
    print("✓ that is what may be claimed, and no more")


# %% tags=["exercise"]
def verdict(changed, base): ...  # your code


check_verdict(verdict)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def verdict(changed, base):
    d = torch.tensor(changed, dtype=torch.float64) - torch.tensor(base, dtype=torch.float64)  # (3,)
    half = 4.303 * d.std() / math.sqrt(3)
    if abs(d.mean()) <= half:
        return "unclear"
    return "better" if d.mean() < 0 else "worse"


check_verdict(verdict)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. say which biases a GPT has, and that all of them together would be a third of a per cent of PicoGPT,
# 2. prove that the key bias cancels in the softmax, and name two kinds of model in which it does not,
# 3. fold a value bias into `c_proj`, and a LayerNorm into the layer behind it,
# 4. name the bias that gives an attention layer a new ability, and where a block can keep it instead,
# 5. say which normalisation removes a bias: BatchNorm, not LayerNorm,
# 6. compare two variants in pairs that share their start, with an interval, before you believe in a difference.
#
# Three questions for a whiteboard: Why is there no *j* in what the key bias adds, and what brings it back? Where
# does the value bias go when it is folded, and what about dropout? You have three seeds and a difference of 0.01:
# what do you need to know to say whether it is clear, and what must the two sides share?
#
# <details><summary>Answers</summary>
#
# q_t · (k_j + b) = q_t · k_j + q_t · b. Rotary positions turn b by an angle that depends on *j*, and QK-norm divides
# by a length that does. It goes through the mean unchanged, becomes W b in `c_proj`, and with attention dropout the
# weights do not sum to 1 in training. How far the three paired differences scatter: the interval is their mean ±
# 4.30 s / √3. The windows and the first weights; otherwise the luck of two starts is in every difference.
# </details>
#
# Next: [lesson 08](08_golden_models.ipynb) counts a whole GPT, and compares it with golden ones. It can wait:
# the core path goes on with [lesson 09](09_training.ipynb), which takes the training apart, line by line.
#
# ## Sources
#
# - The key bias cancels: Namazifar, Hazarika and Hakkani-Tur 2023, [arXiv 2302.08626](https://arxiv.org/abs/2302.08626);
#   Cordonnier, Loukas and Jaggi 2020, [arXiv 2006.16362](https://arxiv.org/abs/2006.16362).
# - What biases do under rotary positions: Su Jianlin, *Bias + RoPE*,
#   [kexue.fm/archives/9577](https://kexue.fm/archives/9577) (in Chinese, 2023). Qwen's reason: Bai et al. 2023, *Qwen
#   Technical Report*, [arXiv 2309.16609](https://arxiv.org/abs/2309.16609).
# - LayerNorm: Ba, Kiros and Hinton 2016, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450). BatchNorm: Ioffe and
#   Szegedy 2015, [arXiv 1502.03167](https://arxiv.org/abs/1502.03167).
# - The explanation about normalisation that the log strikes out: [AI Stack Exchange
#   40252](https://ai.stackexchange.com/questions/40252/why-are-biases-typically-not-used-in-attention-mechanism).
# - PaLM: Chowdhery et al. 2022, section 2, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311). nanoGPT: the comment at
#   `bias` in [model.py](https://github.com/karpathy/nanoGPT/blob/master/model.py), and its switch in
#   [train.py](https://github.com/karpathy/nanoGPT/blob/master/train.py). Llama, Qwen and gpt-oss: their classes in
#   transformers 5.23.
