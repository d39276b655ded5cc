# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · LayerNorm placement
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/06_layernorm_placement.ipynb)
#
# **You will**
# 1. do a LayerNorm by hand, and see what it keeps of a vector and what it throws away,
# 2. see a GPT as a stream, and two places where LayerNorms can stand: before the branches, or after the sums,
# 3. write both kinds of block, equal to the core's,
# 4. measure the gradient of each layer in a new model, in both,
# 5. read four studies, three of them over three seeds: placement, optimizer, learning rate and warm-up, depth,
# 6. answer the claim of the log (the engineer's notes of lesson 00) that one of the two *is easier to train*, and say how
#    sure you are.
#
# **You need** lesson 04 (attention). A *block* is an attention and an MLP: lesson 00 has the words, lesson 08 the code.
#
# **Time** 30 minutes to read, half a minute to run.
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
# ## What does LayerNorm do?
#
# It takes the C numbers of one position, subtracts their mean, and divides by their standard deviation. Afterwards the
# mean is 0 and the spread is 1, whatever came in. Then each number gets a weight and a bias that are learned. A tiny
# number in the division guards against 0.

# %%
def layer_norm(x, weight, bias):  # (..., C) -> (..., C)
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * weight + bias


torch.manual_seed(0)
x = torch.randn(3, 16) * 5 + 2  # 3 vectors of C = 16
theirs = nn.LayerNorm(16)

by_hand = layer_norm(x, theirs.weight, theirs.bias)
assert torch.allclose(by_hand, theirs(x), atol=1e-6), "PyTorch's LayerNorm does the same"

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
for ax, rows, title in ((axes[0], x, "before"), (axes[1], theirs(x).detach(), "after")):
    for k, (row, colour) in enumerate(zip(rows, ("tab:blue", "tab:orange", "tab:grey"))):
        label = f"vector {k}: spread {row.std(correction=0):.1f}"
        ax.plot(row, "o-", ms=3, color=colour, label=label)
    ax.set(title=title, xlabel="feature", ylabel="value")
    ax.legend(fontsize=7)
plt.show()

# %% [markdown]
# The ups and downs stay. Height and size are gone. So a layer behind a LayerNorm cannot know how large a vector was:

# %%
assert torch.allclose(theirs(x), theirs(100 * x), atol=1e-4), "a hundred times as large: the same"
assert torch.allclose(theirs(x), theirs(x + 7), atol=1e-4), "seven added to all features: the same"

# %% [markdown]
# ## The stream, and two places
#
# A block adds to what came in: x + attention, then x + MLP. So a GPT is a **stream** that runs from the embedding to the
# head, and each branch reads from it and adds to it. Where do LayerNorms stand?
#
# - **Post-LN** (Vaswani 2017; the log's model): after each sum, *in* the stream.
# - **Pre-LN** (GPT-2, nanoGPT, PicoGPT): before each branch, *beside* the stream. At the end of the stream stands one
#   more.

# %%
def draw_block(ax, pre):
    arrow = {"arrowstyle": "->", "lw": 3, "color": "tab:blue"}
    ax.annotate("", (10.6, 0), (-0.6, 0), arrowprops=arrow)
    for start, name in ((0.6, "attention"), (5.6, "MLP")):
        places = {"LN": (start + 0.3, 1.2) if pre else (start + 4, 0), name: (start + 1.8, 1.2)}
        ax.plot([start, start, start + 3, start + 3], [0, 1.2, 1.2, 0.2], color="grey", lw=1.5)
        places["+"] = (start + 3, 0)
        for what, place in places.items():
            colour = {"LN": "navajowhite", "+": "white"}.get(what, "lightsteelblue")
            box = {"boxstyle": "round", "fc": colour}
            ax.text(*place, what, ha="center", va="center", bbox=box)
    ax.set(xlim=(-0.8, 10.8), ylim=(-0.6, 1.8))
    ax.axis("off")


# %%
fig, axes = plt.subplots(2, 1, figsize=(8, 4), layout="constrained")
for ax, pre, title in ((axes[0], True, "Pre-LN"), (axes[1], False, "Post-LN")):
    draw_block(ax, pre)
    ax.set_title(title, loc="left")
plt.show()

# %% [markdown]
# In the upper picture you can walk the blue line from end to end without meeting a LayerNorm. In the lower one you pass
# one after every sum. Both as code, with the parts of one block of the core:

# %%
torch.manual_seed(0)
shape = dict(n_embd=32, n_head=4)
pre = pc.Block(pc.ModelConfig(norm="pre", **shape))
post = pc.Block(pc.ModelConfig(norm="post", **shape))
x = torch.randn(2, 10, 32)  # (B, T, C)

# %%
by_hand = x + pre.attn(pre.ln_1(x))
by_hand = by_hand + pre.mlp(pre.ln_2(by_hand))
assert torch.equal(by_hand, pre(x)), "Pre-LN: normalise what the branch reads"

# %%
by_hand = post.ln_1(x + post.attn(x))
by_hand = post.ln_2(by_hand + post.mlp(by_hand))
assert torch.equal(by_hand, post(x)), "Post-LN: normalise the sum"
assert pc.count_parameters(pre) == pc.count_parameters(post), "the count cannot tell them apart"

# %% [markdown]
# ## How does the stream look inside?
#
# We follow the size of the stream through a new model of 12 layers. With Pre-LN every branch adds something, and nothing
# takes it away. With Post-LN it is brought back to 1 each time.

# %%
def new_model(norm, layers=12):
    torch.manual_seed(0)
    return pc.GPT(pc.ModelConfig(norm=norm, final_norm=norm == "pre", n_layer=layers))


ids, targets = pc.get_batch(corpus.train, 4, 128, torch.Generator().manual_seed(0))  # (B=4, T=128)
spread = {}
for norm in ("pre", "post"):
    model = new_model(norm)
    with torch.no_grad():
        stream, spread[norm] = model.wte(ids) + model.wpe(torch.arange(128)), []  # (B, T, C)
        for block in model.h:
            stream = block(stream)
            spread[norm].append(stream.std().item())

assert spread["pre"][-1] > spread["pre"][0], "Pre-LN: it grows"
assert all(abs(s - 1) < 0.01 for s in spread["post"]), "Post-LN: always 1"

# %% [markdown]
# ## Who gets how much gradient?
#
# The gradient flows back through the same stream. Each LayerNorm in its way divides it by the size of what came in. We
# measure the gradient of each layer's MLP in a new model, before the first step. This is the measurement behind the
# advice that Post-LN *needs a warm-up*: small steps first (Xiong 2020; lesson 09).
#
# We do it twice: with GPT-2's small first weights, of spread 0.02 and less, and with **Xavier's**, of 0.04 to 0.06 here,
# which Xiong used.

# %%
def gradients(norm, xavier):
    """Length of the gradient of each layer's mlp.c_proj in a new model."""
    model = new_model(norm)
    for name, parameter in model.named_parameters():
        if xavier and parameter.dim() == 2 and name.startswith("h."):
            nn.init.xavier_uniform_(parameter)  # larger first weights, as in Xiong 2020
        elif xavier and name.startswith("w"):
            nn.init.normal_(parameter)  # embeddings of spread 1
    pc.cross_entropy(model(ids), targets).backward()
    return [block.mlp.c_proj.weight.grad.norm().item() for block in model.h]


lengths = {(norm, xavier): gradients(norm, xavier) for xavier in (True, False) for norm in spread}

# %%
colours = {"pre": "tab:blue", "post": "tab:orange"}
fig, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for norm, colour in colours.items():
    axes[0].plot(range(1, 13), spread[norm], "o-", color=colour, label=f"{norm.capitalize()}-LN")
    for ax, xavier in ((axes[1], True), (axes[2], False)):
        ax.plot(range(1, 13), lengths[norm, xavier], "o-", color=colour)
axes[0].set(ylabel="spread", title="Forward: the stream")
axes[1].set(ylabel="length of the gradient", title="Backward, Xavier's first weights")
axes[2].set(ylabel="length of the gradient", title="Backward, GPT-2's first weights")
for ax in axes:
    ax.set(yscale="log", xlabel="layer", xticks=range(2, 13, 2))
    ax.grid(alpha=0.3)
axes[0].legend()
plt.show()

# %%
for (norm, xavier), values in lengths.items():
    name = "Xavier's" if xavier else "GPT-2's"
    print(f"{norm:4}, {name:8} weights: first layer {values[0]:.2f}, last layer {values[-1]:.2f}")

assert lengths["post", True][-1] > 2 * lengths["pre", True][-1], "Xiong's case"
assert lengths["pre", False][-1] > 10 * lengths["post", False][-1], "ours: the other way round"

# %% [markdown]
# Xiong and others computed the middle picture: at the output end, Post-LN has the larger gradients, so large first steps
# are dangerous, and a warm-up helps. We see it too: about three times as large.
#
# But with GPT-2's small first weights, which this course uses, it is the other way round. The stream of Pre-LN starts
# tiny, each LayerNorm that reads it blows it up, and the gradient with it. **A statement about gradients at the start is
# a statement about the first weights too.** AdamW and Muon (lesson 09), besides, do not care how long a gradient is,
# only how it compares with the last ones. So the gradients alone do not decide.
#
# ## Which trains better? Four studies
#
# The log says two things: the place does not change the results, and Post-LN is the easier one to train. The literature
# says: Pre-LN is the easier one (Xiong 2020), and at up to six layers Post-LN can end as
# good or better (Takase 2022). We measure. All runs are stored with their settings and seeds.
#
# **First, PicoGPT itself**: 3 layers, 400 steps of 16 windows of 256 characters with the optimizer Muon and without dropout
# (lesson 09 has both), three seeds.

# %%
study = picogpt.final_losses(picogpt.DATA / "runs" / "architecture.csv")
names = {"picogpt (pre)": "Pre-LN", "post": "Post-LN", "post, final norm": "Post-LN + final norm"}
at_three = {title: study[name] for name, title in names.items()}
fig, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
picogpt.plot_finals(ax, at_three)
ax.set_title("3 layers, 2.47M parameters")
plt.show()

# %%
mean = {name: sum(losses) / len(losses) for name, losses in at_three.items()}
for name, losses in at_three.items():
    print(f"{name:20} {mean[name]:.3f}, seeds differ by {max(losses) - min(losses):.3f}")

assert mean["Post-LN"] - mean["Pre-LN"] > 0.05, "a gap that is larger than seeds explain"

# %% [markdown]
# Pre-LN is ahead by 0.09, about ten times what the seeds of one variant differ by. A last LayerNorm does nothing for
# Post-LN: its stream has been normalised already. So with this recipe the place *does* change the result.
#
# **Second, the same with another optimizer**: AdamW alone, at a rate of 0.001 with 100 steps of warm-up. Model, text, steps
# and seeds are as before.

# %%
with_adamw = picogpt.final_losses(picogpt.DATA / "runs" / "architecture_adamw.csv")
for name, losses in with_adamw.items():
    print(f"{name:4} {sum(losses) / 3:.3f}, seeds differ by {max(losses) - min(losses):.3f}")

assert max(with_adamw["post"]) < min(with_adamw["pre"]) - 0.02, "every seed of Post-LN is ahead"

# %% [markdown]
# Now it is Post-LN that is ahead, by 0.04, in every seed. (Both are far behind Muon: 400 steps are few for AdamW.) Only the
# optimizer and its schedule changed: the first study had 20 steps of warm-up. So "Pre-LN is better" was a statement about
# Pre-LN *with that recipe*.
#
# **Third, learning rate and warm-up.** A small model of 6 layers (64 wide, window 64, 300 steps with AdamW), at four
# rates and three lengths of warm-up. One seed, so look at the large differences only. Brighter is better.

# %%
sweep = picogpt.final_losses(picogpt.DATA / "runs" / "placement.csv")
rates, warms = (0.0003, 0.001, 0.003, 0.01), (0, 30, 100)
table = {
    norm: torch.tensor(
        [[sweep[f"{norm}, rate {rate:g}, warm-up {warm}"][0] for rate in rates] for warm in warms]
    )
    for norm in ("pre", "post")
}
best = {norm: means.min().item() for norm, means in table.items()}
print(", ".join(f"best {norm}: {loss:.3f}" for norm, loss in best.items()))

assert best["post"] < best["pre"] - 0.05, "Post-LN has the better best"
assert (table["pre"][:, 0] < table["post"][:, 0]).all(), "at the smallest rate Pre-LN is ahead"
assert table["pre"][0, 3] > table["pre"][2, 3] + 0.2, "at the largest, Pre-LN wants a warm-up"

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
low, high = min(best.values()), 2.8
for ax, (norm, means) in zip(axes, table.items()):
    image = ax.imshow(means.clamp(max=high), cmap="cividis_r", vmin=low, vmax=high)
    for i in range(3):
        for j in range(4):
            ink = "white" if means[i, j] > 2.35 else "black"
            ax.text(j, i, f"{means[i, j]:.2f}", ha="center", va="center", color=ink)
    ax.set_xticks(range(4), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(3), warms)
    ax.set(xlabel="learning rate", ylabel="steps of warm-up", title=f"{norm.capitalize()}-LN")
fig.colorbar(image, ax=axes, label="validation loss (nats per character)")
plt.show()

# %% [markdown]
# At small rates Pre-LN is ahead, by 0.06 to 0.08. At large ones Post-LN is, and its best is better by 0.15. And it is
# Pre-LN that wants a warm-up: at a rate of 0.01 it loses 0.4 without one, while Post-LN does not care. That is the
# reverse of the literature's advice, and fits what we saw above: with GPT-2's first weights it is Pre-LN that starts with
# the large gradients. (Both are best at the largest rate tried, so the best rates may lie beyond.)
#
# **Fourth, depth.** The same small model with 3, 6, 12 and 24 layers, rate 0.003, 30 steps of warm-up, three seeds.

# %%
deep = picogpt.final_losses(picogpt.DATA / "runs" / "depth.csv")
layers = (3, 6, 12, 24)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for norm, style, colour in (("pre", "o-", "tab:blue"), ("post", "s--", "tab:orange")):
    losses = [deep[f"{norm}, {n} layers"] for n in layers]
    means = [sum(row) / len(row) for row in losses]
    ax.plot(layers, means, style, color=colour, label=f"{norm.capitalize()}-LN")
    for n, row in zip(layers, losses):
        ax.plot([n] * len(row), row, ".", color=colour, alpha=0.5)
ax.set(xscale="log", xlabel="layers", ylabel="validation loss (nats per character)")
ax.set_title("Small models of four depths, three seeds")
ax.set_xticks(layers, layers)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
gap = {}
for n in layers:
    means = [sum(deep[f"{norm}, {n} layers"]) / 3 for norm in ("pre", "post")]
    gap[n] = means[1] - means[0]
    print(f"{n:2} layers: Pre-LN {means[0]:.3f}, Post-LN {means[1]:.3f}, gap {gap[n]:+.3f}")

assert all(g < -0.02 for g in gap.values()), "here Post-LN is ahead at every depth"

# %% [markdown]
# As in the second study, with AdamW Post-LN is ahead, here at every depth and in every seed. It gains from depth up to 12
# layers (the step to 24 is less than seeds differ by), while Pre-LN does not. No Post-LN model failed to train, not even
# with 24 layers.
#
# ## So, is Post-LN easier to train?
#
# The log's two claims, measured:
#
# - *The place does not change the results*: **no**. The gap is 0.09 in the first study, and 0.04 to 0.13 the other way in
#   the second and the fourth: three to ten times what seeds differ by.
# - *Post-LN is easier to train*: **it depends on the optimizer, its rate and the model**. No with Muon at PicoGPT's size.
#   With AdamW at a rate of 0.001, yes at PicoGPT's size (second study), no in the small model (third). In the small model
#   yes from 0.003 on: there it reaches more, and needs no warm-up. That goes against the literature's rule. Our first
#   weights, which are GPT-2's and not Xiong's, are the likely reason; we did not test that. Be careful with it all the same:
#   the runs are short, and what leads after a few hundred steps need not lead at the end.
#
# Whoever says "X is better" should say: with which optimizer, for how long, from which first weights, and over how many
# seeds.
#
# ## Your turn
#
# ### 1. LayerNorm by hand
#
# Write `normalise(x)`: each row of x (n, C) to mean 0 and standard deviation 1 (divide by C, not by C − 1; no weight, no
# bias; forget the tiny number).

# %% tags=["check"]
def check_normalise(normalise):
    z = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 0.0, -10.0, 4.0]])
    right = nn.functional.layer_norm(z, (4,), eps=0)
    try:
        mine = normalise(z)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    if not isinstance(mine, torch.Tensor) or mine.shape != z.shape:
        print("not yet: return a tensor of the same shape, (n, C)")
        return
    mine = mine.to(z)
    if torch.allclose(mine, (z - z.mean(0)) / z.std(0, correction=0), atol=1e-4):
        print("not yet: that is each column (BatchNorm, lesson 07). LayerNorm is about each row")
    elif torch.allclose(mine, right * math.sqrt(3 / 4), atol=1e-4):
        print("not yet: .std() divides by C - 1. Use correction=0")
    elif mine.mean(dim=1).abs().max() > 1e-4:
        print("not yet: the rows' means are not 0")
    elif not torch.allclose(mine, right, atol=1e-4):
        print(f"not yet: the first row has spread {mine[0].std(correction=0):.2f}, not 1")
    else:
        print("✓ LayerNorm")


# %% tags=["exercise"]
def normalise(x):
    ...  # your code


check_normalise(normalise)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def normalise(x):
    return (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, correction=0, keepdim=True)


check_normalise(normalise)

# %% [markdown]
# ### 2. Pre or Post, from outside
#
# You get a block and may only call it: (B, T, C) to (B, T, C). Write `placement(block)`, which returns "pre" or "post".
# Think of what comes out when what goes in is very large.

# %% tags=["check"]
def check_placement(placement):
    for norm in ("pre", "post", "pre", "post"):
        block = pc.Block(pc.ModelConfig(norm=norm, n_embd=32, n_head=4))
        try:
            answer = placement(lambda x, block=block: block(x))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer != norm:
            print(f"not yet: for a {norm} block it said {answer}")
            return
    print("✓ told apart from outside")


# %% tags=["exercise"]
def placement(block):
    ...  # your code


check_placement(placement)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def placement(block):
    with torch.no_grad():
        out = block(1000 * torch.randn(1, 8, 32))  # (B=1, T=8, C)
    return "post" if out.std() < 10 else "pre"  # Post-LN brings everything back to 1


check_placement(placement)

# %% [markdown]
# ## What you can do now
#
# 1. Do a LayerNorm by hand: centre, divide by the spread, weigh, shift.
# 2. See the stream of a GPT, and the two places of a LayerNorm.
# 3. Write each kind of block in two lines.
# 4. Measure gradients by layer in a new model.
# 5. Read a study: means beside the differences between seeds.
# 6. Say what the place of the LayerNorm did here, and with which optimizer, rate and depth.
#
# Next: [lesson 07](07_biases.ipynb) asks the same of biases.
#
# ## Sources
#
# - LayerNorm: Ba, Kiros and Hinton 2016, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450).
# - Post-LN: Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762). Pre-LN: Radford et al. 2019
#   ([GPT-2](https://github.com/openai/gpt-2)).
# - Gradients at the start, and warm-up: Xiong et al. 2020, [arXiv 2002.04745](https://arxiv.org/abs/2002.04745).
# - Post-LN as good or better when shallow: Takase et al. 2022, [arXiv 2206.00330](https://arxiv.org/abs/2206.00330).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
