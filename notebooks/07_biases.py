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
# 1. find every bias of a GPT, and count them,
# 2. prove that the bias of the keys does nothing, and measure it,
# 3. fold the bias of the values into another one, with equal outputs,
# 4. see what is left: the bias of the queries,
# 5. test the claim "LayerNorm removes the bias", and find where it is true,
# 6. read an ablation with three seeds, and say how sure it makes you.
#
# **You need** lessons 04 (attention) and 06 (LayerNorm).
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
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()

# %% [markdown]
# ## Where are they?
#
# A **bias** is a number that a layer adds, whatever comes in. A linear layer from a to b has b of them, a LayerNorm has
# C. The log (the engineer's notes of lesson 00) switched some of them on and off while it looked for its bug. Here are all
# that a PicoGPT can have.

# %%
full = pc.GPT(pc.ModelConfig(qkv_bias=True))
parts = {"attn.c_attn": "query, key, value", "attn.c_proj": "attention's c_proj", "mlp.": "MLP"}
parts |= {"ln_": "LayerNorm", "lm_head": "head"}
kinds = dict.fromkeys(parts.values(), 0)
for name, parameter in full.named_parameters():
    if name.endswith("bias"):
        kinds[next(kind for part, kind in parts.items() if part in name)] += parameter.numel()

assert kinds["query, key, value"] == 3 * 3 * 256, "3 layers, 3 biases of 256 each"

# %%
total, whole = sum(kinds.values()), pc.count_parameters(full)
for kind, n in kinds.items():
    print(f"{kind:20}{n:6,}")
print(f"{'together':20}{total:6,} of {whole:,}: {total / whole:.2%}")

# %% [markdown]
# A third of a percent. Their number is no reason for or against them. What do they do?
#
# ## The key bias does nothing
#
# The score of position t for position j is q · k, query of t with key of j. Give all keys a bias b: the score becomes q ·
# (k + b) = q · k + q · b. The second part does not depend on j: it is *the same number for the whole row*. And softmax
# does not care for a number added to a whole row, since exp(s + c) = exp(s) exp(c), and exp(c) is divided out again.
#
# So the key bias cancels, exactly, in every row. We do not have to believe it:

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
attention = pc.CausalSelfAttention(pc.ModelConfig(qkv_bias=True)).double()
x = torch.randn(2, 32, 256, dtype=torch.float64)  # (B=2, T=32, C); float64 rounds little
query, key, value = slice(0, 256), slice(256, 512), slice(512, 768)  # the parts of c_attn.bias
with torch.no_grad():
    before = attention(x)
    change = {}
    for name, part in (("query", query), ("key", key), ("value", value)):
        kept = attention.c_attn.bias[part].clone()
        attention.c_attn.bias[part] = torch.randn(256, dtype=torch.float64)
        change[name] = (attention(x) - before).abs().max().item()
        attention.c_attn.bias[part] = kept
        print(f"another {name:5} bias moves the output by {change[name]:.1e}")

assert change["key"] < 1e-12, "the key bias changes nothing"
assert min(change["query"], change["value"]) > 1e-3, "the other two do"

# %% [markdown]
# Then its gradient must be 0 too, for a gradient is nothing but *how much the loss moves*. In the short digits of float32
# it is not exactly 0: what is left is rounding. We train a small model with all biases for some steps, so that it is no
# longer a newborn, and measure.

# %%
torch.manual_seed(0)
small = pc.GPT(pc.ModelConfig(block_size=64, n_layer=2, n_head=4, n_embd=64, qkv_bias=True))
steps = picogpt.budget(smoke=5, quick=150, full=1000)
settings = pc.TrainConfig(
    steps, batch_size=16, optimizer="adamw", dtype="float32", eval_every=steps
)
picogpt.train(small, corpus._replace(val=corpus.val[:5000]), settings, progress=False)
x, y = pc.get_batch(corpus.train, 32, 64, torch.Generator().manual_seed(0))  # (B=32, T=64) each
pc.cross_entropy(small(x), y).backward()
parts = [block.attn.c_attn.bias.grad.view(3, 64).norm(dim=1) for block in small.h]  # 2 x (3,)
norms = dict(zip(("query", "key", "value"), torch.stack(parts).norm(dim=0).tolist()))

assert norms["key"] < 1e-4 * norms["query"], "the key bias should have no gradient"

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
bars = ax.barh(list(norms), list(norms.values()), color=["tab:blue", "tab:orange", "tab:blue"])
ax.bar_label(bars, fmt="%.1e", padding=3)
ax.set(xscale="log", xlabel="length of the gradient", title="Gradients of the three biases")
ax.margins(x=0.25)
ax.invert_yaxis()
plt.show()

# %% [markdown]
# Orders of magnitude below its neighbours: rounding.
#
# ### And yet it moves
#
# AdamW divides each gradient by its own usual size, so that small gradients count too. Rounding noise is a small
# gradient. Only a tiny number in the division, 1e-8, keeps it from being blown up to a full step. How far did the three
# go?

# %%
moved = dict.fromkeys(norms, 0.0)
for block in small.h:
    for name, part in zip(moved, block.attn.c_attn.bias.detach().view(3, 64)):
        moved[name] += part.square().sum().item()

assert moved["key"] > 0, "it started at 0"

# %% tags=["nbval-ignore-output"]
for name, squares in moved.items():
    print(f"after {steps} steps the {name:5} bias has length {math.sqrt(squares):.3f}")

# %% [markdown]
# The key bias went somewhere, a little. It does no harm, since it does nothing. But do not read meaning into a parameter
# because it has moved. A weight decay would pull it back to 0, and that would change nothing either (lesson 09 tells
# which parameters decay, and why biases do not).
#
# ## The value bias can live elsewhere
#
# Position t hands over a mean of the values, with weights that add up to 1. Add a bias to all values, and the mean is
# moved by exactly that bias, for every t: Σ w (v + b) = Σ w v + b. Then `c_proj`, a linear layer with a bias of its own,
# makes of it W b + its bias. Both are constants. So we can **fold** the one into the other:

# %%
torch.manual_seed(0)
attention = pc.CausalSelfAttention(pc.ModelConfig(qkv_bias=True))
x = torch.randn(2, 32, 256)  # (B=2, T=32, C)
with torch.no_grad():
    nn.init.normal_(attention.c_attn.bias)
    before = attention(x)
    attention.c_proj.bias += attention.c_proj.weight @ attention.c_attn.bias[value]  # (C, C) @ (C,)
    attention.c_attn.bias[value] = 0
    folded = attention(x)

assert torch.allclose(before, folded, atol=1e-5), "one bias does the work of both"

# %% [markdown]
# So with a bias in `c_proj`, a value bias adds nothing that the model could not do without it.
#
# ## The query bias is the one that counts
#
# q + b gives the score q · k + b · k. The second part *does* depend on j: keys that point along b get more attention from
# everybody, whatever is asked. A head can say: *look at line ends, always*. Of the 2,304 biases of query, key and value,
# the 768 of the queries are the only ones that give an attention layer a new ability.
#
# In a whole Pre-LN block even this one can live elsewhere. In front of the attention stands a LayerNorm with a bias d of its
# own, so the queries get W_q d already. Choose d such that W_q d is the query bias, as one can where W_q has an
# inverse. Its part in the keys cancels, and `c_proj` takes back its part in the values:

# %%
torch.manual_seed(0)
ln = nn.LayerNorm(256).double()
attention = pc.CausalSelfAttention(pc.ModelConfig(qkv_bias=True)).double()
x = torch.randn(2, 32, 256, dtype=torch.float64)  # (B=2, T=32, C)
w_q, _, w_v = attention.c_attn.weight.chunk(3)  # (C, C) each
with torch.no_grad():
    nn.init.normal_(attention.c_attn.bias[query])
    before = attention(ln(x))
    d = torch.linalg.solve(w_q, attention.c_attn.bias[query])  # (C,)
    ln.bias += d
    attention.c_attn.bias[query] = 0
    attention.c_proj.bias -= attention.c_proj.weight @ w_v @ d  # (C, C) @ (C, C) @ (C,)
    moved_in = attention(ln(x))

assert torch.allclose(before, moved_in, atol=1e-8), "the LayerNorm's bias does the work"

# %% [markdown]
# So with a LayerNorm's bias in front and a bias in `c_proj`, nothing that q, k and v add is new. It may still train better
# or worse. We come to that.
#
# ## "LayerNorm removes the bias"
#
# The log quotes this explanation, and strikes it out. It goes: a normalisation behind the layer makes the mean 0, so a
# bias before it is removed. Let us see. Take vectors, add a bias b, and normalise.

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
x, b = torch.randn(500, 8), torch.randn(8)  # 500 vectors of 8 numbers; a bias
layer, batch = nn.LayerNorm(8), nn.BatchNorm1d(8)
by_layer = (layer(x + b) - layer(x)).abs().max().item()
by_batch = (batch(x + b) - batch(x)).abs().max().item()
even = (layer(x + 3.0) - layer(x)).abs().max().item()
print(f"LayerNorm {by_layer:.2f}, BatchNorm {by_batch:.0e}, LayerNorm with equal biases {even:.0e}")

assert by_batch < 1e-5, "BatchNorm removes a bias"
assert by_layer > 0.5, "LayerNorm does not"
assert even < 1e-5, "except a bias that is the same number in all features"

# %% [markdown]
# Both subtract a mean, but not the same one. **BatchNorm** takes the mean of *one feature over many examples*. A bias of
# that feature is in all of them, so it goes away. **LayerNorm** takes the mean of *one vector over its features*. The
# bias differs from feature to feature, and stays. The explanation is right for BatchNorm, and was carried over to the
# wrong layer.

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained", sharey=True)
pictures = {"x + b": x + b, "BatchNorm": batch(x + b), "LayerNorm": layer(x + b)}
for ax, (title, rows) in zip(axes, pictures.items()):
    ax.plot(rows[:60].detach().T, color="tab:blue", alpha=0.15)
    ax.plot(rows.detach().mean(dim=0), "o-", color="tab:orange", label="mean of 500 vectors")
    ax.set(title=title, xlabel="feature")
axes[0].set(ylabel="value")
axes[0].legend()
plt.show()

# %% [markdown]
# The orange line is the bias. BatchNorm flattens it. LayerNorm lets it through, but for its mean and its scale.
#
# ## Does it matter? An ablation
#
# Words and proofs say what *can* matter. What *does* matter, at 2.47M parameters, on this text? An **ablation** changes one
# part, keeps all else, and measures what the part was worth. Stored runs: 400 steps of 16 windows of 256 characters with
# the optimizer Muon and without dropout (lesson 09), three seeds each, loss over the whole validation text. Only the biases
# differ.

# %%
study = picogpt.final_losses(picogpt.DATA / "runs" / "architecture.csv")
names = {"pre, no bias": "none", "picogpt (pre)": "all but q, k, v", "pre, qkv bias": "all"}
biases = {title: study[name] for name, title in names.items()}
fig, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
picogpt.plot_finals(ax, biases)
ax.set_title("Pre-LN, with more and more biases")
plt.show()

# %%
means = {name: sum(losses) / len(losses) for name, losses in biases.items()}
spreads = {name: max(losses) - min(losses) for name, losses in biases.items()}
for name in biases:
    print(f"{name:16} {means[name]:.4f}, seeds differ by {spreads[name]:.4f}")
largest = max(means.values()) - min(means.values())
print(f"largest difference of means: {largest:.4f}")

assert largest < min(spreads.values()), "means differ by less than the seeds of any variant"

# %% [markdown]
# The means differ by less than the seeds of any variant do. With one seed one could have "shown" that biases help, or that
# they hurt, whichever one liked. With three we can say: at this size, on this text, in runs this short, no difference of a
# hundredth of a nat is to be seen. The log's claim that these biases are not important holds here. That is less than
# *biases do not matter*, and it is what was measured.
#
# The log also has advice: Pre-LN with all biases, or Post-LN with none. The second half, from the same study:

# %%
for name in ("post, no bias", "post", "post, qkv bias"):
    losses = study[name]
    print(f"{name:16} {sum(losses) / 3:.3f}, seeds differ by {max(losses) - min(losses):.3f}")

# %% [markdown]
# For Post-LN *none* is no better than the usual ones, and Pre-LN is ahead of all three here (lesson 06).
#
# ## What others chose
#
# GPT-2 has all but the head's. nanoGPT switches all of them off in its training script, and calls that *a bit better and
# faster*. PaLM, with 540 billion parameters, has none, and reports that this made training *more stable*. Stability at 540
# billion is a good reason at 540 billion. It says little about 2.47 million, and our ablation says nothing about 540
# billion.
#
# ## Your turn
#
# ### 1. Fold it
#
# Write `fold(attn)`: change an attention of the core in place, so that the value bias is 0 and the outputs stay equal.

# %% tags=["check"]
def check_fold(fold):
    torch.manual_seed(1)
    attn = pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=4, qkv_bias=True))
    z = torch.randn(2, 10, 32)  # (B, T, C)
    with torch.no_grad():
        nn.init.normal_(attn.c_attn.bias)
        before, biases = attn(z), attn.c_attn.bias.clone()
        try:
            fold(attn)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if attn.c_attn.bias is None:
            print("not yet: keep c_attn.bias, with zeros in its last third")
            return
        off = (attn(z) - before).abs().max().item()
    if attn.c_attn.bias[64:].abs().max() > 0:
        print("not yet: the value bias, the last third of c_attn.bias, is not 0")
    elif not torch.equal(attn.c_attn.bias[:64], biases[:64]):
        print("not yet: leave the biases of query and key alone")
    elif not off < 1e-4:
        print(f"not yet: the output moved by {off:.2f}. c_proj's bias must take up W @ b")
    else:
        print("✓ the value bias is gone, and nobody noticed")


# %% tags=["exercise"]
def fold(attn):
    ...  # your code: work inside torch.no_grad()


check_fold(fold)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def fold(attn):
    C = attn.c_proj.weight.shape[0]
    attn.c_proj.bias += attn.c_proj.weight @ attn.c_attn.bias[2 * C :]  # (C, C) @ (C,)
    attn.c_attn.bias[2 * C :] = 0


check_fold(fold)

# %% [markdown]
# ### 2. GPT-2's biases
#
# GPT-2 (C = 768, 12 layers) has biases in all linear layers of its blocks and in all LayerNorms, and none in the head.
# How many numbers is that?

# %% tags=["check"]
def check_number(number):
    C, layers = 768, 12
    right = layers * (3 * C + C + 4 * C + C + 2 * C) + C
    if not isinstance(number, int | float):
        print("not yet: put a number in place of the three dots")
    elif number == right:
        print(f"✓ {right:,}, less than a thousandth of 124 million")
    elif number == right - C:
        print("not yet: there is one more LayerNorm, after the last block")
    elif number == right - layers * 2 * C - C:
        print("not yet: the LayerNorms have biases too")
    else:
        print(f"not yet: {number:,}. A block has 4C in attention, 5C in the MLP, 2C in LayerNorms")


# %% tags=["exercise"]
number = ...  # a number

check_number(number)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_number(12 * 11 * 768 + 768)

# %% [markdown]
# ## What you can do now
#
# 1. List a GPT's biases, and say that they are a third of a percent.
# 2. Prove that the key bias cancels in the softmax, and measure that it hardly moves.
# 3. Fold the value bias into `c_proj`.
# 4. Name the one that gives an attention layer a new ability, the query bias, and where a block can keep it instead.
# 5. Say which normalisation removes a bias: BatchNorm, not LayerNorm.
# 6. Compare a difference of means with the differences between seeds, before believing in it.
#
# Next: [lesson 08](08_golden_models.ipynb) counts a whole GPT, and compares it with golden ones.
#
# ## Sources
#
# - The key bias cancels: Namazifar, Hazarika and Hakkani-Tur 2023, [arXiv 2302.08626](https://arxiv.org/abs/2302.08626);
#   Cordonnier, Loukas and Jaggi 2020, [arXiv 2006.16362](https://arxiv.org/abs/2006.16362).
# - LayerNorm: Ba, Kiros and Hinton 2016, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450). BatchNorm: Ioffe and
#   Szegedy 2015, [arXiv 1502.03167](https://arxiv.org/abs/1502.03167).
# - The explanation about normalisation that the log strikes out: [AI Stack Exchange
#   40252](https://ai.stackexchange.com/questions/40252/why-are-biases-typically-not-used-in-attention-mechanism).
# - PaLM: Chowdhery et al. 2022, section 2, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311). nanoGPT: the comment at
#   `bias` in [model.py](https://github.com/karpathy/nanoGPT/blob/master/model.py), and its switch in
#   [train.py](https://github.com/karpathy/nanoGPT/blob/master/train.py).
