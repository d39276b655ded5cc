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
# 1. train two models that differ in nothing but the place of their LayerNorms, and see one of them fail,
# 2. find out what a normalisation does to a vector, and what it does to a gradient,
# 3. see the block of the original Transformer and that of GPT-2 in two lines each, and write a third one of today's,
# 4. check a famous prediction about gradients in deep models,
# 5. answer the question "is Post-LN harder to train?" with a table of conditions, out of more than a hundred training runs.
#
# **You need** lesson 05: residual connections, a block, a first training.
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
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()

# %% [markdown]
# The log (the engineer's notes of lesson 00) says of the place of the LayerNorms that it *does not seem to change
# the results*, and that one of the two usual places is *easier to train*. Before we talk about it, let us see
# something happen.
#
# In the block of the original Transformer, each LayerNorm stands **after** an addition. This is called **Post-LN**.
# In the block of GPT-2, it stands **before** attention and MLP, as in lesson 05, and that is **Pre-LN**. Here are
# six layers of each. They start from the same random weights, those of the original Transformer, see the same text,
# and have the same optimizer with the same learning rate.

# %%
def train_six_layers(norm, init, warmup=0):
    """The training losses of a small model with six layers, every fifth step."""
    torch.manual_seed(0)
    shape = dict(n_layer=6, n_embd=64, n_head=4, block_size=64)
    net = pc.GPT(pc.ModelConfig(norm=norm, final_norm=norm == "pre", init=init, **shape))
    steps = picogpt.budget(smoke=10, quick=90, full=300)
    settings = dict(optimizer="adamw", learning_rate=0.01, warmup_steps=warmup, dtype="float32")
    settings |= dict(steps=steps, batch_size=16, eval_every=steps, log_every=5)
    text = corpus._replace(val=corpus.val[:2000])
    history = picogpt.train(net, text, pc.TrainConfig(**settings), progress=False).history
    return net, [row["train_loss"] for row in history]

# %%
shares = torch.bincount(corpus.train, minlength=65) / len(corpus.train)  # (65,)
unigram = -(shares * shares.log()).nansum().item()  # the loss of guessing by frequency

# %% tags=["nbval-ignore-output"]
nets, curves = {}, {}
for norm, name in (("post", "Post-LN"), ("pre", "Pre-LN")):
    nets[norm], curves[name] = train_six_layers(norm, "xavier")
    print(f"{name:7} ends at a training loss of {curves[name][-1]:.2f}")

# %% tags=["nbval-ignore-output"]
def plot_curves(curves, title):
    _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for name, losses in curves.items():
        ax.plot(range(5, 5 * len(losses) + 1, 5), losses, label=name)
    for loss, words in ((unigram, "guessing by frequency"), (2.482, "bigram")):
        ax.axhline(loss, ls="--", lw=1, color="grey")
        ax.text(ax.get_xlim()[1], loss, words, va="top", ha="right", fontsize=9, color="dimgrey")
    ax.set(ylim=(2.3, 4.2), xlabel="step", ylabel="training loss", title=title)
    ax.legend()
    plt.show()

# %% tags=["nbval-ignore-output"]
plot_curves(curves, "Six layers, one difference")

# %% [markdown]
# The upper curve hardly moves. Its loss comes down to about 3.3 within a few steps, and there it stays, on the line
# of a model that knows how frequent each character is and nothing else. The other one learns as a model should. So
# the place of the LayerNorm decides between a model that learns and one that does not?
#
# Before you write that down, look at a third and a fourth training run. Both are Post-LN again, and each of them
# changes *one* setting that has nothing to do with LayerNorms.

# %% tags=["nbval-ignore-output"]
_, curves["Post-LN, with warm-up"] = train_six_layers("post", "xavier", warmup=45)
_, curves["Post-LN, GPT-2's weights"] = train_six_layers("post", "gpt2")
plot_curves(curves, "The same failure, cured twice")

# %% [markdown]
# The third one begins with small steps and reaches the full learning rate only after a while, which is called
# **warm-up**. The fourth starts from other random numbers, those that GPT-2 was started from. Both learn. And what
# do these other numbers do to Pre-LN, which needed no cure?

# %% tags=["nbval-ignore-output"]
del curves["Post-LN, with warm-up"]
_, curves["Pre-LN, GPT-2's weights"] = train_six_layers("pre", "gpt2")
plot_curves(curves, "Both placements, from two kinds of weights")

# %% [markdown]
# They slow it down. With GPT-2's weights the order is reversed: Post-LN is now as good as anything here, and of the
# three that learn, Pre-LN is by far the last.
#
# So what is to be said about Post-LN? Whoever tried only the first setting would report that it does not train.
# Whoever tried only GPT-2's weights would report that it trains faster than Pre-LN. Both would have seen it with
# their own eyes. This lesson is about what lies behind it: what a LayerNorm does, why its place can matter, and how
# one finds out *when* it does.
#
# ## What a LayerNorm does to a vector
#
# It takes the C numbers of one position, subtracts their mean and divides by their standard deviation. Here are four
# numbers, step by step.

# %%
x = torch.tensor([1.0, 3.0, -2.0, 6.0])  # (C=4,): one position
centred = x - x.mean()
deviation = centred.square().mean().sqrt()  # the root of the mean square
normed = centred / deviation

print("x                  ", x.tolist(), f"   mean {x.mean():.1f}")
print("less the mean      ", centred.tolist(), f"   standard deviation {deviation:.2f}")
print("divided by that    ", [round(n, 2) for n in normed.tolist()])

# %% [markdown]
# Afterwards the mean is 0 and the standard deviation 1, whatever came in. (In the module, each feature is then
# multiplied by a learned weight and gets a learned bias, and a tiny number in the division guards against 0.) What
# is lost in this way? Let us put the same vector in three times: as it is, with 10 added, and fifty times as large.

# %%
ln = nn.LayerNorm(4, elementwise_affine=False)  # without weight and bias
inputs = {"x": x, "x + 10": x + 10, "50 x": 50 * x}

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.8), layout="constrained")
for (name, row), style in zip(inputs.items(), ("o-", "s--", "^:")):
    axes[0].plot(row, style, label=name)
    axes[1].plot(ln(row), style, alpha=0.7)
axes[0].set(title="before", ylabel="value", yscale="symlog")
axes[1].set(title="after")
for ax in axes:
    ax.set(xlabel="feature", xticks=range(4))
axes[0].legend(fontsize=10)
plt.show()

# %% [markdown]
# On the right the three lie on top of each other. The pattern of ups and downs stays, its height and its size are
# gone. Whatever reads behind a LayerNorm can never know how large the vector was, and that is the purpose: it always
# gets numbers of the size that it is made for.
#
# ## What it does to a gradient
#
# Now the other direction, and this little fact is the key to everything that follows. If the output does not change
# when the input becomes ten times as large, how does the output react to a small *step* of the input?

# %%
for size in (1, 10, 100):
    z = (size * x).requires_grad_()
    ln(z)[3].backward()  # how does the last number of the output react to the input?
    print(f"input {size:3} times as large: gradient", [f"{g:+.4f}" for g in z.grad.tolist()])

# %% [markdown]
# Ten times the input, a tenth of the gradient. It could not be otherwise, for a step of a given length is ten times
# less important to a vector that is ten times as long. So a LayerNorm **divides the gradient by the size of what
# came in**, measured by its standard deviation. Where large vectors come in, it weakens the gradient, and where tiny
# ones do, it amplifies it.
#
# ## One stream, and where to normalise
#
# Recall the residual stream of lesson 05: attention and MLP, the two *branches* of a block, read from it and add to
# it. Where can a LayerNorm stand? Here are three answers, and all are in use.

# %%
def draw_block(ax, kind):
    arrow = dict(arrowstyle="->", lw=3, color=draw.INK)
    ax.annotate("", (11.6, 0), (-0.6, 0), arrowprops=arrow)
    for start, name in ((0.5, "attention"), (6, "MLP")):
        ax.plot([start, start, start + 3.9, start + 3.9], [0, 1.2, 1.2, 0.2], color="grey", lw=1.5)
        places = {name: (start + 1.95, 1.2), "+": (start + 3.9, 0)}
        norms = {"pre": [(0.4, 1.2)], "post": [(4.8, 0)], "sandwich": [(0.4, 1.2), (3.5, 1.2)]}
        boxes = [(word, at, draw.PALE) for word, at in places.items()]
        boxes += [("LN", (start + x, y), draw.HERE) for x, y in norms[kind]]
        for word, at, colour in boxes:
            box = dict(boxstyle="round", fc="white" if word == "+" else colour, ec=draw.INK)
            ax.text(*at, word, ha="center", va="center", bbox=box)
    ax.set(xlim=(-0.8, 11.8), ylim=(-0.6, 1.8))
    ax.axis("off")

# %%
fig, axes = plt.subplots(3, 1, figsize=(7.4, 5.4), layout="constrained")
for ax, kind, title in zip(axes, ("post", "pre", "sandwich"), ("Post-LN", "Pre-LN", "Both sides")):
    draw_block(ax, kind)
    ax.set_title(title, loc="left", fontsize=12)
plt.show()

# %% [markdown]
# Follow the dark line, the stream, from left to right. In **Post-LN** you pass a LayerNorm after every addition: the
# stream itself is normalised. In **Pre-LN** you can walk through without meeting one, for only what a branch *reads*
# is normalised. (After the last block, the stream is normalised once, before the head.) The third form normalises
# what a branch reads and, once more, what it *writes*; Gemma 2 and 3 do so. OLMo 2 normalises only what a branch
# writes.
#
# As code, with the parts of one block of the core:

# %%
torch.manual_seed(0)
shape = dict(n_embd=32, n_head=4)
post = pc.Block(pc.ModelConfig(norm="post", **shape))
pre = pc.Block(pc.ModelConfig(norm="pre", **shape))
x = torch.randn(2, 10, 32)  # (B=2, T=10, C=32)

# %%
y = post.ln_1(x + post.attn(x))
y = post.ln_2(y + post.mlp(y))
assert torch.equal(y, post(x)), "Post-LN: normalise the sum"

# %%
y = x + pre.attn(pre.ln_1(x))
y = y + pre.mlp(pre.ln_2(y))
assert torch.equal(y, pre(x)), "Pre-LN: normalise what the branch reads"

# %% [markdown]
# Two lines each, and the same parameters in both, so neither a count nor a list of names can tell one from the
# other. (Exercise 2 lets you tell them apart from outside.) The sandwich is yours to write, in exercise 3.
#
# ## How large is the stream?
#
# In Pre-LN every branch adds something to the stream, and nothing ever takes it away, so it should grow. In Post-LN
# it is brought back to 1 each time. We follow it through new models with 12 layers, and we do so twice: with the
# initial weights of GPT-2, normal with a standard deviation of 0.02 (and less in the `c_proj` matrices, the more
# layers the less), and with **Xavier's**, which the original Transformer used. Those are several times larger, and
# the embeddings have a standard deviation of 1.

# %%
def new_model(norm, init, layers=12):
    torch.manual_seed(0)
    shape = dict(n_layer=layers, n_embd=64, n_head=4, block_size=64)
    return pc.GPT(pc.ModelConfig(norm=norm, final_norm=norm == "pre", init=init, **shape))


ids, targets = pc.get_batch(corpus.train, 8, 64, torch.Generator().manual_seed(0))  # (B=8, T=64)

# %%
@torch.no_grad()
def stream(net):
    """The standard deviation of the stream after the embedding and after each block."""
    x = net.wte(ids) + net.wpe(torch.arange(64))  # (B, T, C)
    sizes = [x.std().item()]
    for block in net.h:
        x = block(x)
        sizes.append(x.std().item())
    return sizes

# %%
def two_panels(measure, start, label):
    """The measure of each layer, for both placements and both kinds of initial weights."""
    _, axes = plt.subplots(1, 2, figsize=(7.4, 3), layout="constrained", sharey=True)
    for ax, init, title in zip(axes, ("xavier", "gpt2"), ("Xavier's weights", "GPT-2's weights")):
        for norm, colour in (("pre", draw.INK), ("post", draw.WARM)):
            values = measure(new_model(norm, init))
            name = f"{norm.title()}-LN"
            ax.plot(range(start, 13), values, "o-", ms=4, color=colour, label=name)
        ax.set(yscale="log", xlabel="layer", title=title, xticks=range(start, 13, 3))
        ax.grid(alpha=0.3)
    axes[0].set(ylabel=label)
    axes[0].legend()
    plt.show()

# %%
two_panels(stream, 0, "standard deviation of the stream")

# %% [markdown]
# As expected, Post-LN's stream is at 1 from the first block on, and Pre-LN's grows. But see *from where* it grows.
# With Xavier's weights it starts above 1. With GPT-2's, it starts at about 0.03 and stays far below 1 in all twelve
# layers.
#
# Now put that together with the key fact. In Pre-LN, every branch reads through a LayerNorm, and between the last
# branch and the loss stands one more, the final one. Each divides the gradient by the size of the stream. A stream
# of 0.03 does not weaken the gradient, it amplifies it thirty times.
#
# <details><summary>Before you run the next cell: with which initial weights do you expect Pre-LN to have the
# larger gradients?</summary>
#
# With GPT-2's. There Pre-LN's small stream makes the gradients large. With Xavier's weights the stream of Pre-LN is
# larger than 1 and grows, so towards the end its gradients are weakened, and Post-LN has the larger ones.
# </details>

# %%
def gradients(net):
    """The norm of the gradient of each layer's mlp.c_proj, before the first step."""
    pc.cross_entropy(net(ids), targets).backward()
    return [block.mlp.c_proj.weight.grad.norm().item() for block in net.h]


two_panels(gradients, 1, "norm of the gradient")

# %% [markdown]
# On the left, Post-LN has the larger gradients at the output end, by a factor of about three, and on the right the
# smaller ones, by a factor of about thirty. Same architecture, same text: the initial weights have turned the
# picture round.
#
# The left picture is famous. Xiong and others computed it in 2020, for Xavier's weights, and they predicted *how
# much* larger Post-LN's gradient is in the last layer: by the root of the number of layers. Let us hold them to it.

# %%
print("layers   sqrt   measured")
for L in (2, 4, 8, 16, 32):
    last = {norm: gradients(new_model(norm, "xavier", L))[-1] for norm in ("pre", "post")}
    print(f"{L:6}   {math.sqrt(L):4.2f}   {last['post'] / last['pre']:.2f}")

# %% [markdown]
# It grows all the way, but more slowly than the root: four times as many layers make about 1.6 times as much, where
# the root says 2. (The theorem gives an order of growth, under assumptions such as uniform attention.) From there,
# the usual argument goes on: large gradients at the output end make the first steps dangerous, hence the warm-up.
#
# There is a gap in that argument, and you can see it if you remember lesson 05. AdamW *divides the gradient by its
# own size*. A gradient three times as large makes no larger step. So the size of the gradient alone cannot be what
# made our first model fail. What else differs between Xavier's weights and GPT-2's?
#
# ### How much depends on a branch
#
# In Post-LN the stream has size 1 when a branch reads it. How much does the branch add?

# %%
@torch.no_grad()
def share(norm, init):
    """Standard deviation of what the first attention adds, over that of the stream."""
    net = new_model(norm, init)
    x = net.wte(ids) + net.wpe(torch.arange(64))  # (B, T, C)
    if norm == "post":
        x = net.h[0](x)  # the stream as it is from the first block on
        return (net.h[1].attn(x).std() / x.std()).item()
    return (net.h[0].attn(net.h[0].ln_1(x)).std() / x.std()).item()

# %%
for init in ("xavier", "gpt2"):
    for norm in ("post", "pre"):
        print(f"{init:6} {norm:4}: the branch adds {share(norm, init):.1%} of the stream")

# %% [markdown]
# In this small model with Xavier's weights, the branch of Post-LN adds more than a quarter of what the stream holds.
# With GPT-2's weights it adds two thousandths. Such a model is, at the start, close to a straight line from the
# embedding to the head. What its branches do, right or wrong, hardly shows at first, and they grow into their role.
# With Xavier's weights every branch counts from the first step on, and a step that is too large in all of them
# changes everything that is built on them.
#
# Liu and others (2020) made this argument in full: what makes Post-LN fragile is not the size of its gradients but
# how much it depends on its branches. There are several recipes that cure it, and all of them start the branches
# small (they are in the sources). GPT-2's initialisation, made for another reason, is one of them.
#
# ## What a model looks like that does not learn
#
# We still have the model that failed, so let us look inside. A model that guesses by frequency says the same at
# every position. Where does it lose the difference? At each block we measure how much the stream differs from
# position to position. And since something must have taken the place of these differences, we also measure how large
# the part is that is *the same* at every position.

# %%
@torch.no_grad()
def autopsy(net):
    """After each block: how much the stream varies with the position, and its constant part."""
    x, rows = net.wte(ids) + net.wpe(torch.arange(64)), []  # (B, T, C)
    for block in [nn.Identity(), *net.h]:
        x = block(x)
        everywhere = x.flatten(0, 1)  # (B·T, C)
        varies, constant = everywhere.std(dim=0).mean(), everywhere.mean(dim=0).std()
        rows.append((varies / x.std(), constant / x.std()))
    return rows

# %% tags=["nbval-ignore-output"]
for norm, name in (("post", "the failed model"), ("pre", "the other one")):
    varies, constant = zip(*autopsy(nets[norm].cpu().eval()))
    print(f"{name:17} varies with the position ", " ".join(f"{v:.2f}" for v in varies))
    print(f"{'':17} the same at every one    ", " ".join(f"{c:.2f}" for c in constant))

# %% [markdown]
# In the healthy model, more than half of the stream depends on the position, from the embedding to the end. In the
# failed one it is gone after two blocks. From there on every position holds *the same vector*, whatever stands in
# the text, and all the head can do with it is to learn one set of predictions, the frequencies.
#
# We looked at the end only, but the numbers suggest how it happens. The branches have learned the easiest thing
# there is, to write one constant vector, the same at every position. In Post-LN, this constant is added to the
# stream and then the *sum* is divided by its size. The larger the constant, the smaller what is left of the
# differences, and after a few such divisions nothing is. The gradient goes the same way back and is divided just as
# often, so that nothing tells the lower layers what to do. The model is stuck. In Pre-LN the stream itself is never
# divided on its way. Only copies of it are, for the branches and the head to read.
#
# That is the danger of a LayerNorm in the stream, and it would also explain why warm-up and small branches help:
# both keep the branches from writing much before they have learned something.
#
# ## Is Post-LN harder to train?
#
# A handful of training runs proves little. So the course has trained this small model many times: three placements
# (before the branches, behind the sums, and no LayerNorm at all), two kinds of initial weights, with and without 100
# steps of warm-up, at four learning rates each. All of them are AdamW, 300 steps of 32 windows, one seed. Here are
# the final losses over the learning rate.

# %%
grid = picogpt.study.losses_by_seed(
    picogpt.load_rows(picogpt.DATA / "runs" / "initialisation.csv")
)
kinds = {"pre": ("Pre-LN", draw.INK), "post": ("Post-LN", draw.WARM), "none": ("none", "grey")}

# %%
def over_rates(init, norm, layers, warm):
    """Learning rates, and the validation loss at each; the worst that is drawn is 3.45."""
    start, end = f"{init}, {norm}, {layers} layers, rate ", f", warm-up {warm}"
    found = {
        float(name.removeprefix(start).removesuffix(end)): min(seeds[1337], 3.45)
        for name, seeds in grid.items()
        if name.startswith(start) and name.endswith(end)
    }
    return zip(*sorted(found.items()))

# %%
def plot_grid(layers):
    fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.8), layout="constrained", sharey=True)
    for ax, init, title in zip(axes, ("xavier", "gpt2"), ("Xavier's weights", "GPT-2's weights")):
        for norm, (name, colour) in kinds.items():
            for warm, style in ((100, "o-"), (0, "o:")):
                rates, losses = over_rates(init, norm, layers, warm)
                ax.plot(rates, losses, style, ms=4, color=colour, label=name if warm else None)
        ax.axhline(unigram, ls="--", lw=1, color="grey")
        ax.set(xscale="log", xlabel="learning rate", title=title)
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="validation loss")
    axes[0].text(1e-3 if layers == 6 else 3e-4, unigram, "frequencies", va="top", fontsize=9)
    axes[0].legend(fontsize=10)
    fig.suptitle(f"{layers} layers; dotted: without warm-up")
    plt.show()

# %%
plot_grid(6)

# %% [markdown]
# Begin on the right, with GPT-2's weights. For Post-LN, the dotted and the solid line are nearly the same, as if it
# did not care about warm-up. Pre-LN does. Without warm-up it gets worse from 0.003 to 0.01, where Post-LN is at its
# best. That is the reverse of what the textbooks say. But look at the right end: at a rate of 0.03 Post-LN is stuck
# at the frequencies, with warm-up or without, and Pre-LN still learns.
#
# On the left, with Xavier's weights, the textbooks are right. Post-LN without warm-up is stuck at 0.01, the failure
# of our opening, and warm-up rescues it. Pre-LN with warm-up does well even at 0.03, where Post-LN is stuck in any
# case.
#
# And did you expect the grey line? A model *without any LayerNorm* is as good as the best of the others at 0.01, if
# it starts from Xavier's weights. One step further to the right its loss overflows (and is drawn at the top). So
# with these weights, six layers can learn without a LayerNorm, and what it buys is room for mistakes in the learning
# rate. From GPT-2's weights, which are made for models with LayerNorms, the grey line is the worst.
#
# Now 24 layers, where the difference should be larger.

# %%
plot_grid(24)

# %% [markdown]
# On the left is what the papers report. From Xavier's weights, Post-LN without warm-up learns at *none* of the four
# rates, and with warm-up only at the smallest of them. Without any LayerNorm every run overflows. Pre-LN learns at
# every rate, with warm-up or without. That is what a place beside the stream is worth when the stream is long.
#
# On the right, from GPT-2's weights, all three learn up to a rate of 0.003, and there Post-LN is the best of them.
# At 0.01 it is stuck without warm-up. GPT-2's initialisation makes the branches smaller the more layers there are,
# so that even a model with 48 branches starts as a nearly straight line.
#
# ### Longer, and with seeds
#
# A run of 300 steps is short. All these models are still learning which characters follow each other, and none of
# them is near the 5-gram's 1.689. So we train what seems to decide five times as long, at the rate 0.01, with three
# seeds.

# %%
long = picogpt.load_rows(picogpt.DATA / "runs" / "placement_long.csv")
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.8), layout="constrained", sharey=True)
for ax, init, title in zip(axes, ("xavier", "gpt2"), ("Xavier's weights", "GPT-2's weights")):
    for norm, (name, colour) in kinds.items():
        for warm, style in ((100, "o-"), (0, "o:")):
            curves = picogpt.study.validation_curves(long, f"{init}, {norm}, warm-up {warm}")
            for i in range(3):  # each seed, thin; the mean, thick
                seed = [min(losses[i], 3.45) for losses in curves.values()]
                ax.plot(list(curves), seed, style[1:], lw=0.8, alpha=0.5, color=colour)
            means = [min(sum(losses) / len(losses), 3.45) for losses in curves.values()]
            ax.plot(list(curves), means, style, ms=4, color=colour, label=name if warm else None)
    ax.axhline(unigram, ls="--", lw=1, color="grey")
    ax.set(xlabel="step", title=title)
    ax.grid(alpha=0.3)
axes[0].set(ylabel="validation loss (thin: each seed)")
axes[0].legend(fontsize=10)
plt.show()

# %%
ends = picogpt.study.losses_by_seed(long)
for init in ("xavier", "gpt2"):
    for norm in kinds:
        for warm in (100, 0):
            losses = sorted(ends[f"{init}, {norm}, warm-up {warm}"].values())
            print(f"{init:6} {norm:4} warm-up {warm:3}:", *(f"{loss:.3f}" for loss in losses))

# %% [markdown]
# First the failure. From Xavier's weights and without warm-up, Post-LN learns nothing in each of the three seeds,
# however long it is trained. Everything else on the left ends close together, and the model without any
# normalisation cannot be told from the best.
#
# Now look for one number in the list of the right picture: *gpt2 post warm-up 0*. One of its seeds is as good as
# those with warm-up, one a little worse. The third is stuck. With one seed we would have told you that Post-LN does
# not need a warm-up if it starts from GPT-2's weights. The grid above, with its six layers, suggested just that. It
# gets through more often than not, which is another thing. (That seed is the thin line on the frequencies, and it
# pulls the mean, the thick dotted line, far up.)
#
# With warm-up, Post-LN wins on the right, in each seed. And compare Pre-LN on the left with Pre-LN on the right: it
# is the same architecture, at the same rate, and the initial weights alone make the difference.
#
# ## The answer, with its conditions
#
# Now we can answer the log. Here are six comparisons with three seeds each, the small models from above and PicoGPT
# itself. The differences are paired, seed by seed, with a 95 % interval (lesson 07 tells how it is made). A minus
# means that Post-LN is better.

# %%
def compared(study, post, pre):
    """The paired difference, and the mean losses of both."""
    runs = picogpt.study.losses_by_seed(picogpt.load_rows(picogpt.DATA / "runs" / f"{study}.csv"))
    means = [sum(runs[variant].values()) / len(runs[variant]) for variant in (post, pre)]
    return picogpt.paired_difference(runs[post], runs[pre]), *means

# %%
conditions = {}
for init, name in (("xavier", "Xavier's"), ("gpt2", "GPT-2's")):
    for warm in (100, 0):
        cells = (f"{init}, {norm}, warm-up {warm}" for norm in ("post", "pre"))
        words = f"small, {name} weights, AdamW 0.01, warm-up {warm}"
        conditions[words] = compared("placement_long", *cells)
conditions["PicoGPT, GPT-2's weights, AdamW 0.001, warm-up 100"] = compared(
    "architecture_adamw", "post", "pre"
)
conditions["PicoGPT, GPT-2's weights, Muon 0.02, warm-up 20"] = compared("biases", "post", "pre")

# %%
print(f"{'':51} Post   Pre   difference  95 % interval")
for words, (d, post, pre) in conditions.items():
    print(f"{words:51} {post:.2f}  {pre:.2f}  {d.mean:+10.3f}  ({d.low:+.3f} to {d.high:+.3f})")

# %%
for variant in ("norms on both sides", "norm on the output", "no norm"):
    d, other, pre = compared("since_gpt2", variant, "picogpt")
    print(f"PicoGPT, {variant:20} {other:.2f}  Pre {pre:.2f}  {d.mean:+.3f} ", end="")
    print(f"({d.low:+.3f} to {d.high:+.3f})")

# %% [markdown]
# Read them one by one. With Xavier's weights and warm-up we cannot tell the two apart. Without warm-up Post-LN
# learns nothing. From GPT-2's weights, with warm-up, it is clearly better. Without warm-up the interval is absurdly
# wide, and that is what one failure among three seeds looks like. At PicoGPT's size the sign turns round between the
# last two lines. There optimizer, rate and warm-up differ all at once, and that rate of AdamW's is too small for
# both (see their losses), so do not read it as a word on the optimizers.
#
# So *it does not seem to change the results* fits one line, and a Post-LN that ends lower two. Neither sentence of
# the log is simply false. Each of them fits somewhere, and the log's author could not know where, because everything
# that decides it, initial weights, rate, warm-up, optimizer, was whatever the code happened to contain.
#
# So what should you take? Most models of today use Pre-LN, some with a second norm on what a branch writes. Not
# because it ends lower, for as you have seen it often does not, but because it forgives: larger rates, many layers,
# initial weights that nobody thought about. (Even without warm-up it learned everywhere, if not well.) For a
# training run that costs millions, that is worth more than a few hundredths of a nat.
#
# The last three lines set the other blocks against Pre-LN, at PicoGPT's size, with Muon, from GPT-2's weights. With
# norms on both sides there is no clear difference. With a norm on the output alone it is about as far behind as
# Post-LN, although nothing in the stream is normalised.
#
# And when you read "X is better than Y", ask: from which initial weights, at which rate, with which optimizer, for
# how long, over how many seeds? And was the rate chosen for both, or only for X?
#
# ## Exercises
#
# ### 1. LayerNorm by hand
#
# Write `normalise(x)`, which brings each row of x (n, C) to mean 0 and standard deviation 1. Divide by C and not by
# C − 1, and forget weight, bias and the tiny number. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_normalise(normalise):
    z = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 0.0, -10.0, 4.0]])  # (n=2, C=4)
    right = nn.functional.layer_norm(z, (4,), eps=0)
    try:
        mine = normalise(z.clone())
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
        print(f"not yet: the first row has the deviation {mine[0].std(correction=0):.2f}, not 1")
    else:
        print("✓ LayerNorm")


# %% tags=["exercise"]
def normalise(x): ...  # your code


check_normalise(normalise)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def normalise(x):
    return (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, correction=0, keepdim=True)


check_normalise(normalise)

# %% [markdown]
# ### 2. Pre or Post, from outside
#
# You get a block and may only call it, with x (B, T, C=32); it returns the same shape. Write `placement(block)`,
# which returns `"pre"` or `"post"`. (10 minutes)
#
# <details><summary>A hint</summary>
#
# What comes out of each if what goes in is very large?
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_placement(placement):
    for norm in ("pre", "post", "post", "pre", "pre", "pre", "post"):
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
def placement(block): ...  # your code


check_placement(placement)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def placement(block):
    with torch.no_grad():
        out = block(1000 * torch.randn(1, 8, 32))  # (B=1, T=8, C=32)
    return "post" if out.std() < 10 else "pre"  # Post-LN brings everything back to 1


check_placement(placement)

# %% [markdown]
# ### 3. The third block
#
# Write `sandwich(block, x)`, the forward pass of the third drawing: each branch reads through a LayerNorm and writes
# through another one. `block` has `ln_1`, `attn`, `ln_1_out`, `ln_2`, `mlp` and `ln_2_out`. Then write
# `only_output(block, x)`, in which a branch reads the stream as it is and only its output is normalised, as in OLMo
# 2 (it has no `ln_1` and `ln_2`). (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
class SixParts(nn.Module):
    """A block with every LayerNorm that one may want, and large weights, to tell them apart."""

    def __init__(self, C=16):
        super().__init__()
        config = pc.ModelConfig(n_embd=C, n_head=2)
        self.attn, self.mlp = pc.CausalSelfAttention(config), pc.MLP(config)
        for name in ("ln_1", "ln_1_out", "ln_2", "ln_2_out"):
            setattr(self, name, nn.LayerNorm(C))
        for parameter in self.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)


def wired(block, x, order):
    """x through both branches. order: letters for norms, i in, o out, s of the sum."""
    for read, branch, write in (
        (block.ln_1, block.attn, block.ln_1_out),
        (block.ln_2, block.mlp, block.ln_2_out),
    ):
        y = branch(read(x) if "i" in order else x)
        x = write(x + y) if "s" in order else x + (write(y) if "o" in order else y)
    return x


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
OTHERS = {
    "i": "that is Pre-LN: what a branch writes is not normalised",
    "o": "the branches must read through ln_1 and ln_2",
    "io": "the branches must read the stream as it is",
    "s": "the sum is normalised. That puts a LayerNorm into the stream",
    "is": "the sum is normalised. That puts a LayerNorm into the stream",
    "": "there is no LayerNorm in it",
}


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
@torch.no_grad()
def check_block(yours, order):
    torch.manual_seed(0)
    block, x = SixParts(), torch.randn(2, 5, 16)  # (B=2, T=5, C=16)
    try:
        answer = yours(block, x.clone())
        if not isinstance(answer, torch.Tensor) or answer.shape != x.shape:
            raise ValueError("return a tensor of the shape of x, (B, T, C)")
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    same = [o for o in OTHERS if torch.allclose(answer, wired(block, x, o), atol=1e-5)]
    if order in same:
        print("✓ that block is right")
    else:
        print("not yet:", OTHERS[same[0]] if same else "is every branch added?")


# %% tags=["exercise"]
def sandwich(block, x): ...  # your code: (B, T, C) -> (B, T, C)


def only_output(block, x): ...  # your code: (B, T, C) -> (B, T, C)


check_block(sandwich, "io")
check_block(only_output, "o")

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def sandwich(block, x):
    x = x + block.ln_1_out(block.attn(block.ln_1(x)))
    return x + block.ln_2_out(block.mlp(block.ln_2(x)))


def only_output(block, x):
    x = x + block.ln_1_out(block.attn(x))
    return x + block.ln_2_out(block.mlp(x))


check_block(sandwich, "io")
check_block(only_output, "o")

# %% [markdown]
# ### 4. Cure it with small branches
#
# We said that Post-LN from Xavier's weights fails because every branch counts from the first step on. That can be
# tried. Write `calm(net)`, which changes only the weights of the layers that write into the stream (each block's
# `attn.c_proj` and `mlp.c_proj`), before the first step, so that the model of our opening learns: at the same rate,
# and without warm-up. GPT-2 divides these weights by the root of twice the number of layers. Is that enough here?
# (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def fragile():
    torch.manual_seed(0)
    shape = dict(n_layer=6, n_embd=64, n_head=4, block_size=64)
    return pc.GPT(pc.ModelConfig(norm="post", final_norm=False, init="xavier", **shape))


def loss_after_60(net):
    """The training loss of steps 56 to 60, at the rate of the opening and without warm-up."""
    settings = dict(optimizer="adamw", learning_rate=0.01, warmup_steps=0, dtype="float32")
    settings |= dict(steps=60, batch_size=16, eval_every=60, log_every=5)
    text = corpus._replace(val=corpus.val[:2000])
    history = picogpt.train(net, text, pc.TrainConfig(**settings), progress=False).history
    return history[-1]["train_loss"]


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_calm(calm):
    net, before = fragile(), fragile().state_dict()
    try:
        calm(net)
        changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
        if not changed:
            print("not yet: no weight has changed. Write with p.mul_(…) under torch.no_grad()")
        elif others := sorted(k for k in changed if not k.endswith("c_proj.weight")):
            print(f"not yet: only the c_proj weights may change, and {others[0]} did too")
        elif len(changed) < 12:
            print(f"not yet: {len(changed)} matrices have changed; six blocks write with 12")
        elif (loss := loss_after_60(net)) > 2.95:
            print(f"not yet: the loss after 60 steps is {loss:.2f}. Smaller still?")
        else:
            print("✓ small branches, and Post-LN learns")
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")


# %% tags=["exercise"]
def calm(net): ...  # your code


check_calm(calm)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
@torch.no_grad()
def calm(net):
    for block in net.h:
        block.attn.c_proj.weight *= 0.03
        block.mlp.c_proj.weight *= 0.03


check_calm(calm)

# %% [markdown]
# Divided by √12, as in GPT-2, the branches are still too large for this rate: the loss stays at 3.3 with the seed of
# the check. GPT-2's other weights are several times smaller than Xavier's too. With a tenth the model learns, and
# with 0 it learns as well: a branch that writes nothing at first costs nothing, because the gradient of its `c_proj`
# does not depend on `c_proj` itself.
#
# ## Recap
#
# You can now
#
# 1. do a LayerNorm by hand: subtract the mean, divide by the standard deviation,
# 2. say what it does to a gradient: it divides it by the size of what came in,
# 3. draw a GPT's residual stream with its LayerNorms in three places, and write each block in two lines,
# 4. recognise a model in which all positions have become the same, and say how Post-LN gets there,
# 5. answer "is Post-LN harder to train?" with a question: from which initial weights, at which rate, with how much warm-up?
#
# Three questions for a whiteboard: Draw the three blocks. Why does ten times the input make a tenth of the gradient?
# Why can a constant that all branches write kill a Post-LN model and not a Pre-LN model?
#
# <details><summary>Answers</summary>
#
# The drawings stand in "One stream, and where to normalise". The output of a LayerNorm does not depend on the size
# of its input, so a step of a given length counts a tenth when the vector is ten times as long. In Post-LN the sum
# of stream and constant is divided by its size, again and again, until nothing is left of what differs between
# positions; in Pre-LN nothing divides the stream.
# </details>
#
# Next: [lesson 07](07_biases.ipynb) asks the same of biases.
#
# ## Sources
#
# - LayerNorm: Ba, Kiros and Hinton 2016, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450).
# - Post-LN: Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762). Pre-LN: Radford et al. 2019
#   ([GPT-2](https://github.com/openai/gpt-2)).
# - Gradients at the start, √L, and warm-up: Xiong et al. 2020, [arXiv 2002.04745](https://arxiv.org/abs/2002.04745).
# - It is the dependence on the branches, not the gradients: Liu et al. 2020,
#   [arXiv 2004.08249](https://arxiv.org/abs/2004.08249).
#   Other cures for deep Post-LN models: Zhang et al. 2019,
#   [arXiv 1908.11365](https://arxiv.org/abs/1908.11365); DeepNorm, Wang et al. 2022,
#   [arXiv 2203.00555](https://arxiv.org/abs/2203.00555).
# - Post-LN as good or better when shallow: Takase et al. 2022, [arXiv 2206.00330](https://arxiv.org/abs/2206.00330).
# - Norms on both sides: Gemma 2, [arXiv 2408.00118](https://arxiv.org/abs/2408.00118). On the output alone: OLMo 2,
#   [arXiv 2501.00656](https://arxiv.org/abs/2501.00656).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
