# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15 · Scaling up
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/15_scaling_up.ipynb)
#
# **You will**
# 1. guess how good a larger model will be, and find out whether four small ones could have told you,
# 2. say what each size of GPT-2 costs in memory and in hours, before paying for it,
# 3. solve the case of the graphics card that seemed 47 times too slow,
# 4. train with two processes in five steps, and prove that they do what one would do,
# 5. find the best size for a given amount of computing, and judge a prediction that was written down in advance.
#
# **You need** lesson 05 (the model), lesson 09 (training), and what lesson 14 says of GPT-2's sizes.
#
# **Time** 50 minutes to read, half a minute to run, half an hour for the exercises.
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
import contextlib
import copy
import dataclasses
import inspect
import math
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist

# %% tags=["setup"]
import picogpt
import picogpt_core as pc
from picogpt import draw

runs = picogpt.DATA / "runs"

# %% [markdown]
# Here are four small models of this course. They have two layers each and differ in their width, and each was trained
# on ten characters for each of its parameters, so the wide ones have read more. There are three seeds of each. The
# figure shows what they reached, over what it took to train them.

# %% tags=["setup"]
widths = (32, 48, 64, 96, 128)
ends = [row for row in picogpt.load_rows(runs / "scaling.csv") if row["val_loss"]]  # last rows


def of_width(width):
    """The runs of one width, and the FLOPs that each of them took."""
    mine = [row for row in ends if row["variant"] == f"width {width}"]
    config = pc.ModelConfig(n_layer=2, n_embd=width, n_head=width // 16, block_size=64)
    return mine, pc.flops_per_token(config) * mine[0]["tokens"]


flops = np.array([of_width(width)[1] for width in widths])  # (5,)
losses = np.array([[row["val_loss"] for row in of_width(width)[0]] for width in widths])  # (5, 3)

# %%
def four_sizes(ax, upto=4):
    """The sizes and their losses, and the n-gram tables beside them."""
    for n, (c, three) in enumerate(zip(flops[:upto], losses)):
        ax.plot([c] * 3, three, "o", color=draw.INK if n < 4 else draw.WARM, alpha=0.8, zorder=4)
    ax.set(xscale="log", xlabel="training compute (FLOPs)", xlim=(5e10, 3e13))
    ax.set_ylabel("validation loss (nats)")
    picogpt.plot_ngrams(ax, "left")
    ax.grid(alpha=0.3)

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
four_sizes(ax)
ax.axvline(flops[4], ls=":", color=draw.WARM, lw=2)
ax.text(flops[4] * 0.9, 2.1, "width 128: ?", color=draw.WARM, fontsize=12, ha="right")
ax.set(ylim=(1.35, 2.6))
plt.show()
print(f"the fifth costs {flops[4] / flops[3]:.1f} times as much as the fourth")

# %% [markdown]
# Now you are asked for money. A fifth model, three times as expensive as the fourth: what will it bring? At this size
# it is five minutes of a processor, but people ask the same question about models that cost millions. So put your
# guess into the next cell, before you read on.

# %%
my_guess = 1.60  # nats: put your own number here

# %% [markdown]
# We come back to it. To scale up means to answer two questions: what will it cost, and what will it bring? The second
# is the more interesting one, and the first is where most plans fail. So first the bill: memory, hours, machines.
#
# ## Does it fit?
#
# While a model is trained with AdamW, four numbers stand in memory for each parameter: the weight, its gradient, and
# the optimizer's two running means (lesson 09). At 4 bytes a number that makes 16 bytes. It is easy to compute, and
# often quoted as if it were the whole bill. But a fifth thing is needed. `backward` wants to know what went through
# each layer, so the forward pass keeps most of its intermediate results. They are called **activations**, and they
# grow with the batch.
#
# How many bytes is that? PyTorch can tell us, since it announces each tensor that it keeps. And it does not even need
# the memory: on the device `meta`, tensors have shapes and no numbers.

# %%
def kept(config, windows=1):
    """The tensors (shapes only) that a forward pass of full windows keeps for backward."""
    with torch.device("meta"):
        net = pc.GPT(dataclasses.replace(config, attention="manual"))
        ids = torch.zeros(windows, config.block_size, dtype=torch.long)  # (B, T)
    known, tensors = {p.untyped_storage()._cdata for p in net.parameters()}, []

    def note(tensor):
        place = tensor.untyped_storage()._cdata  # two views of one storage count once
        if place not in known:
            known.add(place)
            tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pc.cross_entropy(net(ids), ids)
    return tensors


# %%
def activations(config, windows=1):
    """Gigabytes (10⁹ bytes) of what is kept, by kind."""
    weights = windows * config.n_head * config.block_size**2  # attention: a number a pair and head
    amounts = dict.fromkeys(("attention weights", "logits", "the rest"), 0.0)
    for tensor in kept(config, windows):
        of_pairs = tensor.numel() == weights or tensor.dtype == torch.bool
        is_logits = tensor.shape[-1:] == (config.vocab_size,)
        kind = "attention weights" if of_pairs else "logits" if is_logits else "the rest"
        amounts[kind] += tensor.untyped_storage().nbytes() / 1e9
    return amounts


# %%
gpt2, L, C, T = pc.preset("gpt2"), 12, 768, 1024
for kind, gigabytes in activations(gpt2).items():
    print(f"GPT-2, one window of 1,024 tokens: {gigabytes:.2f} GB of {kind}")
rest = activations(gpt2)["the rest"]
print(f"the rest, numbers for each layer, token and unit of width: {rest / 4e-9 / L / T / C:.1f}")

# %% [markdown]
# Three kinds, and each has its own law.
#
# - *The rest* is what linear layers, LayerNorms and GELUs keep. It is close to 17 numbers for each layer, token and
#   unit of width, in all four sizes: a useful rule.
# - *Attention weights* are a number for each head and each pair of positions. They alone grow with the square of the
#   window. PyTorch's fused attention (lesson 04) computes them anew in the backward pass instead of keeping them, and
#   that saving is a reason why it exists. So count them only for attention by hand.
# - *Logits*: 50,257 numbers for each token. In a small model with a large vocabulary they are a good part of the
#   bill.
#
# What is kept is not yet the peak: for a moment in `backward`, there are also gradients of activations, the logits'
# among them. Take the sum for a lower limit.
#
# Now all four sizes, with 1 window and with the 12 that nanoGPT computes at a time, and two cards: a T4, which is
# Colab's free one and has 16 GB, and an A100 of 40 GB, the log's.

# %%
sizes = picogpt.budget(smoke=["gpt2"], quick=None, full=None)
sizes = sizes or ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
bills = {}
for name in sizes:
    N, one = pc.PRESETS[name].parameters, activations(pc.preset(name))
    for windows in (1, 12):
        bill = {"weights": 4 * N / 1e9, "gradients": 4 * N / 1e9, "AdamW's means": 8 * N / 1e9}
        bill |= {"activations": windows * one["the rest"], "logits": windows * one["logits"]}
        bill["attention weights, if by hand"] = windows * one["attention weights"]
        bills[name, windows] = bill

# %%
fig, axes = plt.subplots(2, 1, figsize=(7.4, 5.8), layout="constrained")
shades = (draw.INK, "#7f9db9", draw.PALE, draw.WARM, draw.HERE, "white")
for ax, windows in zip(axes, (1, 12)):
    left = np.zeros(len(sizes))
    for kind, shade in zip(bills["gpt2", 1], shades):
        part = np.array([bills[name, windows][kind] for name in sizes])  # (bars,)
        ax.barh(sizes, part, left=left, color=shade, label=kind, ec=draw.INK, lw=0.6)
        left += part
    for room, card in ((16, "T4"), (40, "A100")):
        ax.axvline(room, ls="--", color="black", lw=1)
        ax.text(room, -0.7, f" {card}: {room} GB", ha="left", va="center", fontsize=10)
    ax.set(xlim=(0, max(50, 1.02 * left.max())), ylim=(len(sizes) - 0.4, -1))
    ax.set_title(f"{windows} window{'s' if windows > 1 else ''} at a time", loc="left", fontsize=11)
axes[1].set(xlabel="gigabytes in training (float32)")
fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
plt.show()

# %%
for (name, windows), bill in bills.items():
    fused = sum(gb for kind, gb in bill.items() if "by hand" not in kind)
    print(f"{name:12}{windows:3}: {sum(bill.values()):6.1f} GB by hand, {fused:5.1f} fused", end="")
    for card, room in (("T4", 16), ("A100", 40)):
        verdict = "fits" if fused < 0.9 * room else "hardly" if fused < room else "no"
        print(f"   {card}: {verdict}", end="")
    print()

# %% [markdown]
# Look at the colours. With one window, the dark parts rule, the 16 bytes a parameter. With twelve it is the warm
# ones, and the rule of 16 bytes is off by several times. So what does one do if it does not fit? The list is short,
# and each item pulls at another part of the bar: fewer windows at a time with **gradient accumulation** (lesson 09),
# which costs nothing but patience; fused attention; **bfloat16**, which halves a good part of the activations;
# *activation checkpointing*, which keeps only a few of them and computes the others a second time; and, when the dark
# part alone is too large, more than one card. (*Hardly* means that less than a tenth is left: the card keeps
# something for itself.)
#
# Here is the same bill by the rule of 17, as a calculator. In a notebook there are sliders under it. (*Shared by* is
# for later, when several cards share the dark part.)

# %%
def bill_of(size="gpt2", windows=1, shared_by=1):
    """What a training needs on each card, in words: float32, AdamW, fused attention."""
    config, N = pc.PRESETS[size]
    fixed = 16 * N / shared_by / 1e9
    numbers = 17 * config.n_layer * config.n_embd + config.vocab_size  # kept for each token
    grows = 4 * numbers * windows * config.block_size / 1e9
    fits = [card for card, room in (("T4", 16), ("A100", 40)) if fixed + grows < 0.9 * room]
    sums = f"{fixed:.1f} + {grows:.1f} = {fixed + grows:.1f} GB"
    return f"{size}, {windows} windows, shared by {shared_by}: {sums}, fits {fits or 'neither'}"


for given in (("gpt2", 12, 1), ("gpt2-xl", 1, 1), ("gpt2-xl", 1, 8)):
    print(bill_of(*given))

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true} cellView="form"
# @title The sliders (run this cell)
def sliders():
    import ipywidgets as w

    size = w.Dropdown(options=[name for name in pc.PRESETS if name.startswith("gpt2")])
    windows, shared_by = w.IntSlider(12, min=1, max=64), w.IntSlider(1, min=1, max=16)
    answer = w.HTML()

    def update(change=None):
        answer.value = f"<b>{bill_of(size.value, windows.value, shared_by.value)}</b>"

    for control, words in ((size, "size"), (windows, "windows"), (shared_by, "shared by")):
        control.description = words
        control.observe(update, "value")
    update()
    return w.VBox([size, windows, shared_by, answer])


try:
    get_ipython()  # is there a kernel behind this?
    from IPython.display import display

    display(sliders())
except NameError:
    print("the sliders need a notebook: JupyterLab, VS Code or Colab")

# %% [markdown]
# ## How long?
#
# Hours are FLOPs divided by FLOPs a second. The work is about 6 FLOPs for each parameter and token, and some for
# attention (lesson 09). The speed is what the data sheet promises, times the part of it that a training gets, the
# **MFU** (model FLOPs utilisation). A T4 multiplies float32 at 8.1 TFLOP/s. We *assume* an MFU of 40 % there; for two
# CPU cores we take what the course measured with PicoGPT.

# %%
bench = {row["what"]: row for row in picogpt.load_rows(runs / "bench_training.csv")}
single = bench["ours, AdamW, float32"]
cpu = single["tokens_per_second"] * pc.flops_per_token(pc.preset("picogpt"))
speeds = {"T4": 0.4 * 8.1e12, "2 cores": cpu}
tuning = picogpt.FINETUNE.steps * picogpt.FINETUNE.batch_size * 1024  # tokens
print(f"2 cores: {cpu / 1e9:.0f} GFLOP/s; fine-tuning reads {tuning:,} tokens")

# %%
for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
    config, N = pc.PRESETS[name]
    each = pc.flops_per_token(config)
    minutes = [f"{where} {tuning * each / speed / 60:5.0f} min" for where, speed in speeds.items()]
    print(f"{name:12}GFLOPs a token: 6N = {6 * N / 1e9:.2f}, all {each / 1e9:5.2f}; ", end="")
    print(f"fine-tuning: {', '.join(minutes)}")

# %% [markdown]
# So nanoGPT's fine-tuning of the smallest GPT-2 (lesson 14) should take a few minutes on a T4 and about half an hour
# on two cores like ours, and somewhat more for the evaluations. These are estimates, since we have no T4, and for the
# larger sizes they presume that the thing fits.
#
# ### From scratch: 38 hours, or 4 days?
#
# The log quotes nanoGPT: GPT-2 124M from scratch, in 38 hours on eight A100. Three weeks later the README said *about
# 4 days*. One can check such things. The training file of the first day takes 12 windows of 1,024 tokens on each of 8
# cards, for at most 600,000 steps; the README of the same commit speaks of *about 500,000 iterations (about 1 day)*.
# Later the file accumulated five times as much before each step.

# %%
each = pc.flops_per_token(pc.preset("gpt2"))
peak = 8 * 312e12  # eight A100 in bfloat16, from the data sheet
stories = {"38 hours, 600,000 steps": (600_000, 1, 38), "1 day, 500,000 steps": (500_000, 1, 24)}
stories["4 days, 600,000 steps of 5"] = (600_000, 5, 96)
for name, (steps, accumulated, hours) in stories.items():
    tokens = 12 * 1024 * 8 * steps * accumulated
    mfu = tokens * each / (hours * 3600) / peak
    print(f"{name:28} {tokens / 1e9:4.0f} billion tokens: an MFU of {mfu:.0%}")
for where, speed in speeds.items():
    print(f"the last one on {where}: {tokens * each / speed / 3600 / 24 / 365:.0f} years")

# %% [markdown]
# The figures do not contradict each other; they are different trainings. The two early accounts of one commit do not
# quite agree, so read them as *15 to 20 % of the peak*. The later run read five times as many tokens in about four
# days, so it used its cards better. And it is no project for a T4.
#
# ### The case of the slow card
#
# The log trains nanoGPT's 10.65M parameters on a GTX 1080. It reports `iter 490: … time 17068.56ms, mfu 0.85%`, or
# 2.4 hours for 500 steps, and asks why nanoGPT's README needs 3 minutes on an A100. Is the card so slow? nanoGPT
# states its MFU as a share of an A100's 312 TFLOP/s. So that line tells the card's speed twice, and the two must
# agree.

# %%
nano = pc.ModelConfig(65, 256, 6, 6, 384, bias=False, head_bias=False, tied_head=True)
batch = 64 * 256 * pc.flops_per_token(nano)  # FLOPs of one batch: 64 windows of 256
by_time, by_mfu = batch / 17.06856, 0.0085 * 312e12
print(f"by its time {by_time / 1e12:.2f} TFLOP/s, by its MFU {by_mfu / 1e12:.2f}", end=" ")
print(f"or {by_mfu / by_time:.0f} times as much")
assert 36 < by_mfu / by_time < 42

# %% [markdown]
# They differ by a factor of 39. That is the first clue. nanoGPT's general default is to accumulate `5 * 8` = 40
# micro-batches in a step, and only since April 2023 does its file for Shakespeare set that to 1. So the log's run
# must have kept the 40: each of its steps did the work of forty, and the card was not slow at all.
#
# The second clue is on the other side. The A100's 3 minutes hold more than 5,000 training steps: every 250 steps,
# from the first on, nanoGPT estimates both losses from 200 batches each. An evaluation has no backward pass, so a
# batch costs a third.

# %%
steps_there = 5000 + 21 * 2 * 200 / 3  # training steps, and evaluations counted in training steps
card, a100 = by_mfu, steps_there * batch / 180
print(f"GTX 1080: {card / 1e12:4.1f} TFLOP/s, {card / 8.9e12:3.0%} of its 8.9 in float32")
print(f"A100:     {a100 / 1e12:4.1f} TFLOP/s, {a100 / 312e12:3.0%} of its 312 in bfloat16")
print(f"the A100 is {a100 / card:.0f} x as fast; {5000 * batch / 180 / card:.0f} x", end=" ")
print(f"without its evaluations; {a100 * 180 / 120 / card:.0f} x if a minute was compiling")
print(f"2.37 hours against 3 minutes: {500 * 17.06856 / 180:.0f} x; on paper {312 / 8.9:.0f} x")

# %% [markdown]
# So for the same arithmetic the A100 was about 19 times as fast, and not 47. On paper it is 35 times. It does not get
# there, since so small a model keeps an A100 waiting for memory and for the next operation to be started. (Whether a
# minute of its three went into `torch.compile` is not known. The log's number format is not known either; float32 is
# a guess that fits its card.) The moral is a cheap one: before you explain why something is slow, check that it does
# the same work.
#
# ### Half the bits, how much faster?
#
# For the gap that it saw, the log has three guesses: bfloat16 "2×", PyTorch 2 "1.5×", the chip "20×". What do the
# data sheets say of the first?

# %%
sheets = {  # TFLOP/s of float32, of TF32 and of 16 bits; GB/s of memory
    "GTX 1080": (8.9, None, None, 320),
    "T4": (8.1, None, 65, 300),
    "A100": (19.5, 156, 312, 1555),
}
for name, (full, tf32, short, memory) in sheets.items():
    gains = [f"float32 {full}"] + ([f"TF32 {tf32}"] if tf32 else [])
    gains += [f"16 bits {short}"] if short else []
    print(f"{name:9} {', '.join(gains)} TFLOP/s; memory {memory} GB/s")

# %% [markdown]
# Compare the A100's three numbers. From float32 to 16 bits it is 16 times, which would make the log's 2 look far too
# small. But that is not the comparison that nanoGPT makes. It switches on **TF32** (`allow_tf32 = True`), in which
# the tensor cores read float32 numbers and drop 13 of their 23 digits before they multiply. Against *that*, bfloat16
# is exactly 2 times as fast on paper, as the log says. (The T4's 65 are for float16, whose range is so narrow that
# small gradients become 0; people multiply the loss by a large number first, with a *gradient scaler*. bfloat16 has
# float32's range and needs none.)
#
# A training gets less than the paper says, since only matrix products speed up. Our CPU has such units too. Stored:

# %%
half = bench["ours, AdamW, bfloat16"]
paper = single["bfloat16_peak_gflops"] / single["float32_peak_gflops"]
real = half["tokens_per_second"] / single["tokens_per_second"]
print(f"{single['machine']}")
print(f"bfloat16: {paper:.1f} x in matrix products, {real:.1f} x in training")
assert 1 < real < paper

# %% [markdown]
# ## Many at once
#
# Eight cards can train one model like this. Each has a copy of it, and each computes the gradient of its own share of
# the batch. Then they exchange their gradients and take the mean, so that all of them make the same step and stay
# equal. PyTorch calls it **DDP**, distributed data parallel. A process for each card does the work, and its number
# among all of them is its **rank**.

# %%
places = {"batch": (0, 1), "rank 0: rows 0, 2, 4, 6": (2.4, 2), "rank 1: rows 1, 3, 5, 7": (2.4, 0)}
places |= {"gradient 0": (4.9, 2), "gradient 1": (4.9, 0), "mean": (6.4, 1)}
places |= {"step 0": (7.8, 2), "step 1": (7.8, 0)}
arrows = []
for rank, rows in ((0, "rank 0: rows 0, 2, 4, 6"), (1, "rank 1: rows 1, 3, 5, 7")):
    arrows += [("batch", rows), (rows, f"gradient {rank}"), (f"gradient {rank}", "mean")]
    arrows += [("mean", f"step {rank}")]
fig, ax = plt.subplots(figsize=(7.4, 2.8), layout="constrained")
draw.boxes(ax, places, arrows, here=["mean"])
plt.show()

# %% [markdown]
# It takes five steps to turn a training into this: start, wrap, remember that the model itself is inside, exchange
# only once a batch, and finish. We write them as functions, and the same functions run on eight GPUs or on two
# processes of a CPU. Here are steps 1 and 2.

# %%
def start():
    """Steps 1 and 2: find the others, take a device of one's own, wrap the model."""
    local, number = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count() >= number  # one for each process of this machine?
    if gpus:
        torch.cuda.set_device(local)  # before anything is put there
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    dist.init_process_group("nccl" if gpus else "gloo")  # STEP 1: torchrun said where to meet
    torch.manual_seed(0)
    bare = pc.GPT(pc.preset("tiny")).to(device)
    own = [local] if gpus else None
    return device, torch.nn.parallel.DistributedDataParallel(bare, device_ids=own)  # STEP 2


# %% [markdown]
# `gloo` is the exchange for CPUs, `nccl` the one for GPUs. The line to remember is `set_device`, for without it every
# process goes to card 0. Recent versions of nccl notice that and stop (*Duplicate GPU detected*). Other exchanges do
# not: then all processes run on one card, the loss falls, seven cards are idle, and nobody is told. And the number
# must be the *local* rank, the one on this machine. On the second machine of two with eight cards each, rank 11 needs
# card 3.
#
# Step 4 is about accumulation. A batch that is computed in micro-batches needs *one* exchange, after the last of
# them, because the sums before it are not finished. `net.no_sync()` keeps it quiet. nanoGPT sets the switch behind it
# by hand, `require_backward_grad_sync`. We try all three ways.

# %%
def backward_in_two(net, x, y, way):
    """The gradient of this process's rows, in two micro-batches of half of them."""
    half = len(x) // 2
    for rows in (slice(0, half), slice(half, None)):
        last = rows.start > 0
        net.require_backward_grad_sync = last or way != "switch"
        quiet = net.no_sync() if way == "no_sync" and not last else contextlib.nullcontext()
        with quiet:  # STEP 4: exchange after the last micro-batch only
            (pc.cross_entropy(net(x[rows]), y[rows]) / 2).backward()


# %%
def work(folder):
    """One process of several."""
    device, net = start()
    rank, number, exchanges = dist.get_rank(), dist.get_world_size(), []

    def counted(state, bucket):  # called for each packet of gradients, 25 MB at most
        exchanges.append(bucket.index())
        mean = dist.all_reduce(bucket.buffer().div_(number), async_op=True).get_future()
        return mean.then(lambda done: done.value()[0])

    net.register_comm_hook(None, counted)
    x, y = pc.get_batch(picogpt.load_corpus().train, 8, 32, torch.Generator().manual_seed(0))
    x, y = (rows[rank::number].to(device) for rows in (x, y))  # my share, (8 / number, T=32)
    for way in ("always", "no_sync", "switch"):
        net.zero_grad()
        exchanges.clear()
        backward_in_two(net, x, y, way)
        if rank == 0:
            print(f"{way:8} {len(exchanges)} exchanges, on {device.type}", flush=True)
            inside = net.module  # STEP 3: the model itself, to save it
            torch.save([p.grad.cpu() for p in inside.parameters()], f"{folder}/{way}.pt")
    dist.barrier()
    dist.destroy_process_group()  # STEP 5


# %% [markdown]
# A process cannot be started from a notebook's cell, so we write the three functions into a file, with the imports
# they need, and let **torchrun** start two processes from it. It gives each its rank in environment variables. The
# function `counted` does what DDP would do anyway, the mean of all, and keeps count; PyTorch calls such a function a
# *hook*. (The last line of the file leaves at once, without Python's tidying up. On our machine, one process in
# thirty crashed there with gloo, when all was done. It is not one of the five steps.)

# %%
shared = tempfile.TemporaryDirectory()
parts = ["import contextlib, os, sys, torch", "import torch.distributed as dist"]
parts += [f"sys.path.insert(0, {str(picogpt.ROOT)!r})"]
parts += ["import picogpt", "import picogpt_core as pc"]
parts += [inspect.getsource(function) for function in (start, backward_in_two, work)]
parts += [f"work({shared.name!r})", "os._exit(0)"]
script = Path(shared.name, "five_steps.py")
characters = script.write_text("\n\n".join(parts), encoding="utf-8")

# %%
torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
one_thread = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, env=one_thread)
assert done.returncode == 0, done.stderr[-2000:]
print(done.stdout)

# %% [markdown]
# Half the exchanges, with two micro-batches; a fifth of them with the five that nanoGPT computes on each card. (Our
# model's gradients fit into one packet. A larger one has several, and the count is a multiple.) And the gradients?
# One process, without any of this, computes the whole batch in one go:

# %%
torch.manual_seed(0)
alone = pc.GPT(pc.preset("tiny"))
x, y = pc.get_batch(picogpt.load_corpus().train, 8, 32, torch.Generator().manual_seed(0))
pc.cross_entropy(alone(x), y).backward()
for way in ("always", "no_sync", "switch"):
    gradients = torch.load(f"{shared.name}/{way}.pt")
    off = max((p.grad - g).abs().max().item() for p, g in zip(alone.parameters(), gradients))
    print(f"{way:8} largest difference from one process: {'below 1e-6' if off < 1e-6 else off}")
    assert off < 1e-6

# %% [markdown]
# The same gradient, whoever computes it. That is the test for any distributed code: it must change the time and
# nothing else. `picogpt.train` is built in this way, and takes a GPU of its own for each process. One command starts
# it: `torchrun --standalone --nproc-per-node=2 -m picogpt train --out out/two`. On a machine with two GPUs, take away
# the `CUDA_VISIBLE_DEVICES` of the cell above, and the same three functions use them. (We had no such machine, so
# that branch is as the documentation wants it, and has not been run. `on cpu` in the output tells which branch ran.)
#
# DDP makes training faster, but it does not make room. Each card holds a whole copy of weights, gradients and means,
# the dark part of the bars. When that part is too large, the copies have to go. **FSDP** (fully sharded data
# parallel) gives each card a share of all three and fetches a layer's weights from the others just before they are
# used; the idea is that of *ZeRO*. In numbers, for GPT-2 XL:

# %%
N = pc.PRESETS["gpt2-xl"].parameters
for cards in (2, 4, 8):
    ddp, fsdp = 16 * N / 1e9, 16 * N / cards / 1e9
    print(f"{cards} cards: DDP {ddp:.1f} GB on each, FSDP {fsdp:.1f}; activations on top in both")

# %% [markdown]
# The price is more traffic, for now weights travel as well as gradients. This course does not build it. In PyTorch it
# is `torch.distributed.fsdp.fully_shard`.
#
# ## What will it bring?
#
# So much for the bill. **Scaling laws** (Kaplan 2020, Hoffmann 2022) say that the loss falls regularly with the
# compute, over many powers of ten. Do they hold in our small world? The first idea is a straight line through the
# logarithms of both, loss = a · computeᵇ. The second has a floor under it, loss = floor + a · computeᵇ, because no
# model can be sure of everything that Shakespeare wrote next.

# %%
def power_law(flops, loss, floor=0.0):
    """The power law through the points, above a floor: a function of compute."""
    slope, begin = np.polyfit(np.log(flops), np.log(np.array(loss) - floor), 1)
    return lambda c: floor + np.exp(begin + slope * np.log(c))


def with_floor(flops, loss):
    """The same, with the floor that fits best."""
    floors = np.arange(0, min(loss), 0.005)
    errors = [((power_law(flops, loss, floor)(flops) - loss) ** 2).sum() for floor in floors]
    best = floors[np.argmin(errors)]
    return power_law(flops, loss, best), best


# %%
mean = losses.mean(axis=1)  # (5,)
line = power_law(flops[:4], mean[:4])
curve, floor = with_floor(flops[:4], mean[:4])
print(f"width 128: {line(flops[4]):.3f} by the line, {curve(flops[4]):.3f} with a floor")
print(f"measured:  {mean[4]:.3f}, the seeds from {losses[4].min():.3f} to {losses[4].max():.3f}")
print(f"your guess: {my_guess}, off by {abs(my_guess - mean[4]):.3f}")

# %%
fig, ax = plt.subplots(figsize=(7.2, 4), layout="constrained")
four_sizes(ax, upto=5)
grid = np.geomspace(flops[0], 3 * flops[4], 100)
ax.plot(grid, line(grid), "--", color="grey", label="a straight line through four sizes")
alone = [with_floor(flops[:4], losses[:4, seed])[0](grid) for seed in range(3)]
band = (np.min(alone, axis=0), np.max(alone, axis=0))  # (100,) each
ax.fill_between(grid, *band, color=draw.HERE, alpha=0.6, label="each seed")
ax.plot(grid, curve(grid), color=draw.INK, label="with a floor, the mean of the seeds")
ax.axvline(flops[3] * 1.5, color="black", lw=0.8, ls=":")
ax.legend(fontsize=10, loc="upper right")
plt.show()

# %% [markdown]
# The lines have seen only what lies left of the dotted one. The straight line promises too much: it is off by a tenth
# of a nat, where seeds differ by a hundredth. With a floor, the prediction hits. So has the law been proved?
#
# That would be a lot to ask of one point. Let us look for reasons to doubt it. The band already shows one: with the
# seeds taken one by one, the predictions differ several times as much as the measurements do. And here are three more
# recipes that a reasonable person might have chosen, before the fifth size was known.

# %%
log_c, next_one = np.log(flops), math.log(flops[4])
trained = [[row["train_loss"] for row in of_width(width)[0]] for width in widths]
trained = np.array(trained).mean(axis=1)  # (5,)

# %%
bent = np.exp(np.polyval(np.polyfit(log_c[:4], np.log(mean[:4]), 2), next_one))
two = np.exp(np.polyval(np.polyfit(log_c[2:4], np.log(mean[2:4]), 1), next_one))
on_training = with_floor(flops[:4], trained[:4])[0](flops[4])
print(f"a parabola in the logarithms           {bent:.3f}, measured {mean[4]:.3f}")
print(f"a line through the last two points     {two:.3f}, measured {mean[4]:.3f}")
fifth = [row["train_loss"] for row in of_width(128)[0]]
print(f"the floor, fitted to training losses   {on_training:.3f},", end="")
print(f" measured {trained[4]:.3f} ({min(fifth):.3f} to {max(fifth):.3f})")

# %% [markdown]
# The parabola is off by 0.015, which many would call a hit, though it must turn upwards in the end, and that no one
# believes. So a hit does not tell us that *our* formula is the true one. The last line is the same formula, fitted to
# the training losses of the same runs. If it were a law of how models learn, it should hold there as well. It is off
# by 0.03, about as much as the three seeds differ: no hit, and no clear miss.
#
# So what bends the validation curve? Look at both losses, and at how often each model has read the text.

# %%
print("width   parameters  epochs   training  validation    gap")
for width, on_train, on_val in zip(widths, trained, mean):
    row = of_width(width)[0][0]
    epochs = row["tokens"] / len(picogpt.load_corpus().train)
    print(f"{width:5} {row['parameters']:12,} {epochs:7.2f}", end="")
    print(f" {on_train:10.3f} {on_val:11.3f} {on_val - on_train:6.3f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.fill_between(flops, trained, mean, color=draw.HERE, alpha=0.7, label="the gap")
ax.plot(flops, mean, "o-", color=draw.WARM, label="validation")
ax.plot(flops, trained, "o-", color=draw.INK, label="training")
ax.set(xscale="log", xlabel="training compute (FLOPs)", ylabel="loss (nats)")
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %% [markdown]
# The gap grows with the size. There are two reasons for it, and they cannot be told apart here. The validation text
# is mostly from other plays, so whatever a larger model learns of names and habits of the first nine tenths helps it
# less there. And the larger ones read more: the last two go through the same million characters more than twice and
# more than four times, so a part of what they learn is this text itself. What we fitted as a floor contains that gap.
# It is not "the entropy of English", and not even that of Shakespeare.
#
# (And one thing was never adjusted. All five have the same rates, the same batch of 16 windows and the same 20 steps
# of warm-up, while their steps go from 308 to 4,111. Lesson 09 says that a rate has to be found for each size before
# one compares.)
#
# So a prediction for three times the compute was good to about 0.03 here, and the hit of the mean was luck in part.
# That is less than the plots of scaling laws promise, and it is still worth having. The straight line is off by more.
#
# ## Large and short, or small and long?
#
# In that study we tied the text to the size, ten characters for each parameter. But why ten? For a given amount of
# compute you may train a large model for a short time, or a small one for long. This is the question that Hoffmann
# and others asked in 2022, with the answer that most large models of the day had been too large and had read too
# little. Their method is simple. Fix the budget, try several sizes, each for as long as the budget lasts, and see
# where the loss is lowest: an **IsoFLOP** curve. Here are three budgets, each four times the one before, three seeds
# each.

# %%
def by_budget(study):
    """{budget in FLOPs: {parameters: [loss of each seed]}}"""
    budgets = {}
    for row in picogpt.load_rows(runs / f"{study}.csv"):
        if row["val_loss"]:
            of_budget = budgets.setdefault(float(row["variant"].split(" FLOPs")[0]), {})
            of_budget.setdefault(row["parameters"], []).append((row["val_loss"], row["tokens"]))
    return budgets


isoflop = by_budget("isoflop")
for budget, sizes_of in isoflop.items():
    print(f"{budget:.1e} FLOPs:")
    for N, seeds in sizes_of.items():
        loss, tokens = np.mean([loss for loss, _ in seeds]), seeds[0][1]
        print(f"   {N:7,} parameters, {tokens:9,} characters, ", end="")
        print(f"{tokens / N:5.1f} for each parameter: {loss:.3f}")

# %% [markdown]
# Each budget has a best size, and it is neither the smallest nor the largest. To find where the lowest point lies,
# put a parabola through the lowest loss and its two neighbours, over the logarithm of the size.

# %%
def lowest(sizes, losses):
    """The size at which the parabola through the lowest loss and its neighbours is lowest; it."""
    at = min(max(int(np.argmin(losses)), 1), len(sizes) - 2)
    x, y = np.log10(sizes[at - 1 : at + 2]), losses[at - 1 : at + 2]  # (3,) each
    bend = np.poly1d(np.polyfit(x - x[1], y, 2))  # centred, so that rounding does no harm
    best = -bend[1] / (2 * bend[2])
    return 10 ** (best + x[1]), bend(best)


best = {}
for budget, sizes_of in isoflop.items():
    means = np.array([np.mean([loss for loss, _ in seeds]) for seeds in sizes_of.values()])
    best[budget] = lowest(np.array(list(sizes_of)), means)
    print(f"{budget:.1e} FLOPs: best at {best[budget][0]:7,.0f} parameters, {best[budget][1]:.3f}")
slope = np.polyfit(np.log(list(best)), np.log([size for size, _ in best.values()]), 1)[0]
print(f"the best size grows like compute to the power of {slope:.2f}")

# %% [markdown]
# With four times the compute, the best model has two to three times the parameters, and the rest of the compute goes
# into more text. Hoffmann and others find exponents near 0.5, an equal share for both. Ours is larger, and one reason
# may be that a million characters is all there is. At the largest budget the smallest model reads them seven times,
# and what is read for the seventh time teaches less. That punishes small models here, and would not with a text
# without end. (The other reservation is the one from before: the same rates for all.)
#
# ### A prediction, written down first
#
# After the fifth width it was easy to be wise. So this time the order was different. From these three budgets a
# fourth was predicted, four times the largest: where its best size will lie, and how low the loss will be there. The
# numbers were committed, with their intervals, before that budget was spent (`benchmarks/isoflop.py`; `git log
# data/runs/isoflop_prediction.csv` has the date).

# %%
predicted = {row["what"]: row for row in picogpt.load_rows(runs / "isoflop_prediction.csv")}
spent = (runs / "isoflop_held_out.csv").exists()
for what, row in predicted.items():
    digits = ",.0f" if what == "parameters" else ".3f"
    low, middle, high = (format(row[key], digits) for key in ("low", "predicted", "high"))
    print(f"at {row['flops']:.1e} FLOPs, {what}: {middle}, between {low} and {high}")
print("the budget has been spent" if spent else "the budget has not been spent yet: no verdict")

# %%
held_out = by_budget("isoflop_held_out") if spent else {}
fig, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
shades = ("#7f9db9", draw.INK, "black", draw.WARM)
for (budget, sizes_of), shade in zip((isoflop | held_out).items(), shades):
    sizes, means = list(sizes_of), [np.mean([s[0] for s in seeds]) for seeds in sizes_of.values()]
    ax.plot(sizes, means, "o-", color=shade, label=f"{budget:.1e} FLOPs")
    ax.plot(*lowest(np.array(sizes), np.array(means)), "*", ms=14, color=shade)
corner = (predicted["parameters"]["low"], predicted["val_loss"]["low"])
wide, tall = (row["high"] - row["low"] for row in predicted.values())
ax.add_patch(plt.Rectangle(corner, wide, tall, fc=draw.HERE, ec=draw.WARM, label="predicted"))
ax.set(xscale="log", xlabel="parameters", ylabel="validation loss (nats)")
ax.grid(alpha=0.3)
ax.legend(fontsize=10)
plt.show()

# %%
for sizes_of in held_out.values():
    sizes = np.array(list(sizes_of))
    means = np.array([np.mean([loss for loss, _ in seeds]) for seeds in sizes_of.values()])
    for what, value in zip(("parameters", "val_loss"), lowest(sizes, means)):
        inside = predicted[what]["low"] <= value <= predicted[what]["high"]
        shown = f"{value:,.0f}" if what == "parameters" else f"{value:.3f}"
        print(f"{what}: measured {shown}, {'inside' if inside else 'OUTSIDE'} the interval")

# %% [markdown]
# The stars mark the lowest points of the parabolas, and the box is the prediction: its width is the interval for the
# size, its height the one for the loss. (The first star lies below both of its neighbours. Through points so far
# apart, a parabola claims more than was measured.) Mind how large the box is. Three seeds, three budgets and one step
# of four leave the best size open by a factor of five, from end to end. The curves are flat near their lowest points:
# at the third budget, two sizes that differ by a factor of 1.7 have the same loss, but for 0.003. That is a comfort
# for whoever has to choose a size, and it is also why the best one is so hard to pin down. Whether the prediction was
# right, the cells above say as soon as the file of that budget is there.

# %% [markdown]
# ## Exercises
#
# ### 1. Does it fit?
#
# You want to train GPT-2 medium (354,823,168 parameters, 24 layers, width 1,024) with AdamW in float32, with 2
# windows of 1,024 tokens at a time and fused attention. How many gigabytes (10⁹ bytes) does that need at least? Count
# weights, gradients, the optimizer's means, 17 numbers of activations for each layer, token and unit of width, and
# the logits of 50,257 tokens, once. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_gigabytes(gigabytes):
    N, tokens = 354_823_168, 2 * 1024
    per_token, logits = 17 * 24 * 1024 * 4 / 1e9, 50_257 * 4 / 1e9
    fixed, all_of_it = 16 * N / 1e9, 16 * N / 1e9 + tokens * (per_token + logits)
    slips = {
        "the weights alone": 4 * N / 1e9,
        "activations and logits are missing: these are the 16 bytes a parameter": fixed,
        "these are the activations; the 16 bytes a parameter come on top": all_of_it - fixed,
        "the logits are missing": fixed + tokens * per_token,
        "the activations of the layers are missing": fixed + tokens * logits,
        "that is one window; there are two at a time": fixed + tokens / 2 * (per_token + logits),
        "AdamW keeps two means for each parameter": all_of_it - 8 * N / 1e9,
        "numbers, not bytes: float32 has 4 bytes": all_of_it / 4,
    }
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(gigabytes / all_of_it - 1) < 0.02:
        print(f"✓ {all_of_it:.1f} GB at least: it goes on a T4 of 16 GB, with room for the peak")
    else:
        near = [words for words, value in slips.items() if abs(gigabytes / value - 1) < 0.02]
        print(f"not yet: {near[0] if near else f'{gigabytes:,} GB is not the sum of the five'}")


# %% tags=["exercise"]
gigabytes = ...  # a number

check_gigabytes(gigabytes)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
fixed = 4 * 4 * 354_823_168
kept_numbers = 2 * 1024 * (17 * 24 * 1024 + 50_257)
check_gigabytes((fixed + 4 * kept_numbers) / 1e9)

# %% [markdown]
# ### 2. Whose card is it?
#
# Write `device_of(environment, gpus)`: given torchrun's environment variables (strings, among them `RANK`,
# `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `WORLD_SIZE`) and the number of GPUs in this machine, return the name of the
# device for this process, such as `"cuda:1"`, or `"cpu"` if there are fewer GPUs than processes here. Machines may
# have different numbers of cards. (5 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_device_of(device_of):
    # rank, local rank, processes on this machine, in all, GPUs of this machine, the right device
    cases = [(0, 0, 2, 2, 2, "cuda:0"), (1, 1, 2, 2, 2, "cuda:1"), (11, 3, 8, 16, 8, "cuda:3")]
    cases += [(3, 0, 2, 5, 2, "cuda:0"), (1, 1, 2, 2, 1, "cpu"), (4, 1, 2, 5, 0, "cpu")]
    for rank, local, here, everywhere, gpus, right in cases:
        given = {"RANK": str(rank), "LOCAL_RANK": str(local)}
        given |= {"LOCAL_WORLD_SIZE": str(here), "WORLD_SIZE": str(everywhere)}
        try:
            answer = str(device_of(dict(given), gpus))
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}. The variables are strings")
            return
        if answer != right:
            story = f"rank {rank}, number {local} of {here} processes here, {gpus} GPUs: {answer}"
            why = {
                "None": "return the name of a device",
                "cuda": "that is card 0 for everybody: which one is this process's?",
                f"cuda:{rank}": "the rank counts over all machines; cards are counted in each",
                f"cuda:{rank % gpus if gpus else 0}": "not every machine has as many cards as this",
            }
            hint = "not a card for each" if right == "cpu" else why.get(answer, "")
            print(f"not yet: {story}; {hint or f'wanted {right}'}")
            return
    print("✓ a card of its own for each, whatever the machines")


# %% tags=["exercise"]
def device_of(environment, gpus):
    ...  # your code


check_device_of(device_of)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def device_of(environment, gpus):
    enough = gpus >= int(environment["LOCAL_WORLD_SIZE"])
    return f"cuda:{environment['LOCAL_RANK']}" if enough else "cpu"


check_device_of(device_of)

# %% [markdown]
# ### 3. DDP without processes
#
# Write what DDP computes, in one process: `as_ddp(net, x, y, number)` gives each of `number` processes its rows of x
# and y (B, T), computes the gradient of each share's mean loss, and returns what *every* process holds after the
# exchange: a list with one tensor for each parameter. The loss is `pc.cross_entropy(net(x), y)`, a mean over rows and
# positions, and B is a multiple of `number`. (10 minutes)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def gradients_of(net, x, y):
    """The gradient of the mean loss of these rows, and of nothing else: a list of tensors."""
    return list(torch.autograd.grad(pc.cross_entropy(net(x), y), list(net.parameters())))


def close(mine, right):
    return all(torch.allclose(m.to(r), r, atol=1e-6, rtol=1e-3) for m, r in zip(mine, right))


def slip_in(mine, net, x, y, number):
    """What to say of gradients that are not those of the whole batch."""
    whole = gradients_of(net, x, y)
    n = len(x) // number
    if close(mine, [number * g for g in whole]):
        return f"{number} times too large: the exchange takes the mean, not the sum"
    if close(mine, [g / number for g in whole]):
        return f"{number} times too small: the mean of the shares was divided once more"
    shares = (slice(0, n), slice(-n, None), slice(0, None, number), slice(number - 1, None, number))
    for rows in shares:
        if close(mine, gradients_of(net, x[rows], y[rows])):
            return "that is the gradient of one share alone: nothing was exchanged"
    return "not the gradient of the whole batch. Is each gradient cleared before the next share?"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def check_as_ddp(as_ddp):
    for number in (2, 4):
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        net = pc.GPT(pc.preset("tiny"))
        x, y = torch.randint(65, (2, 8, 32), generator=generator)  # (B=8, T=32) each
        try:
            mine = [g.detach() for g in as_ddp(copy.deepcopy(net), x.clone(), y.clone(), number)]
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}. Return a list of tensors")
            return
        right = gradients_of(net, x, y)
        if [tuple(g.shape) for g in mine] != [tuple(g.shape) for g in right]:
            print(f"not yet: wanted {len(right)} tensors, one shaped like each parameter")
            return
        if not close(mine, right):
            print(f"not yet: {slip_in(mine, net, x, y, number)}")
            return
    print("✓ whoever computes it, the same gradient")


# %% tags=["exercise"]
def as_ddp(net, x, y, number):
    ...  # your code


check_as_ddp(as_ddp)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def as_ddp(net, x, y, number):
    shares = []
    for rank in range(number):
        net.zero_grad()
        pc.cross_entropy(net(x[rank::number]), y[rank::number]).backward()  # (B / number, T)
        shares.append([p.grad.clone() for p in net.parameters()])
    return [torch.stack(of_all).mean(dim=0) for of_all in zip(*shares)]


check_as_ddp(as_ddp)

# %% [markdown]
# ### 4. A prediction with an interval
#
# Write `predict(flops, losses, next_flops)`: from the compute of n sizes (n,) and the losses of three seeds each (n,
# 3), the `low` and the `high` end of an interval in which you expect the mean loss of the next size. The check hides
# a size twice: it gives you the first three of the study `scaling` and asks for the fourth, and then the first four.
# Each time the truth has to lie in your interval, and an interval wider than 0.4 nats is not worth writing down. (20
# minutes)
#
# <details><summary>A hint</summary>
#
# `power_law` and `with_floor` give a prediction each, for each seed. How far do they differ among themselves? Lesson
# 07 has Student's t. For the *next* value, and not for the mean, the half width is t · s · √(1 + 1/n).
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check (run this cell)
def check_predict(predict):
    for n in (3, 4):
        truth, name = losses[n].mean(), f"width {widths[n]}"
        try:
            ends = predict(flops[:n].copy(), losses[:n].copy(), flops[n])
            low, high = (float(end) for end in ends)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}. Return low and high")
            return
        shown = f"{name}: from {low:.3f} to {high:.3f}"
        if not low <= high:
            print(f"not yet: {shown}. The low end comes first")
        elif high - low > 0.4:
            print(f"not yet: {shown}. Wider than 0.4 nats, that says too little")
        elif not low <= truth <= high:
            side = "too low" if high < truth else "too high"
            print(f"not yet: {shown}, measured {truth:.3f}. {side.capitalize()}, or too narrow")
        else:
            print(f"{shown}, measured {truth:.3f}")
            continue
        return
    print("✓ two intervals, and both hold")


# %% tags=["exercise"]
def predict(flops, losses, next_flops):
    ...  # your code: low, high


check_predict(predict)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def predict(flops, losses, next_flops):
    guesses = [with_floor(flops, seed)[0](next_flops) for seed in losses.T]  # one for each seed
    half = 4.303 * np.std(guesses, ddof=1) * math.sqrt(1 + 1 / 3)  # Student's t, three values
    return np.mean(guesses) - half, np.mean(guesses) + half


check_predict(predict)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. compute the memory of a training: 16 bytes a parameter, about 17 numbers for each layer, token and unit of width,
#    and the logits; and say which of them batch, window, precision and cards change,
# 2. turn FLOPs into hours, name the MFU that you assumed, and check a claim such as 38 hours or 3 minutes,
# 3. write DDP in five steps, with a card for each process and one exchange a batch, and test it against one process,
# 4. predict a loss from smaller runs with an interval, and list what speaks against your prediction,
# 5. find the best size for a budget, and say why that question has to be asked before the text per parameter is
#    fixed.
#
# Three questions for a whiteboard: Draw the bar of GPT-2's memory for 1 window and for 12. Why is the gradient of two
# processes that of one? A curve through four sizes hits the fifth: name two reasons why this is weak evidence.
#
# <details><summary>Answers</summary>
#
# The bars stand in "Does it fit?". The loss is a mean over rows, the shares are equal, and the mean of the shares'
# means is the mean of all; gradients are linear. Other curves come as near, and each seed alone, or the training
# losses, predict less well than the mean did; with three numbers to fit and four points there is not much left that
# could fail.
# </details>
#
# Next: [lesson 16](16_since_gpt2.ipynb) exchanges GPT-2's parts for today's.
#
# ## Sources
#
# - Scaling laws: Kaplan et al. 2020, [arXiv 2001.08361](https://arxiv.org/abs/2001.08361); Hoffmann et al. 2022,
#   [arXiv 2203.15556](https://arxiv.org/abs/2203.15556). Reading a text several times: Muennighoff et al. 2023,
#   [arXiv 2305.16264](https://arxiv.org/abs/2305.16264).
# - The same questions in two notebooks of nanoGPT:
#   [`scaling_laws.ipynb`](https://github.com/karpathy/nanoGPT/blob/master/scaling_laws.ipynb), which works with the
# published curves up to Chinchilla, and
#   [`transformer_sizing.ipynb`](https://github.com/karpathy/nanoGPT/blob/master/transformer_sizing.ipynb). GPT-2 124M
#   from scratch, each speed-up timed in turn: [build-nanogpt](https://github.com/karpathy/build-nanogpt).
# - nanoGPT's 38 hours in [commit df3b8a57](https://github.com/karpathy/nanoGPT/commit/df3b8a57) of January 2023, with its
#   training file; the 4 days in [d2705bd9](https://github.com/karpathy/nanoGPT/commit/d2705bd9); the accumulation in
#   [commit 978d4fe](https://github.com/karpathy/nanoGPT/commit/978d4fe538611a95c985cf04293121cba9b9167c).
# - FLOPs and MFU: Chowdhery et al. 2022, appendix B, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311). Activations:
#   Korthikanti et al. 2022, [arXiv 2205.05198](https://arxiv.org/abs/2205.05198).
# - Mixed precision and gradient scaling: Micikevicius et al. 2017, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740).
# - DDP: Li et al. 2020, [arXiv 2006.15704](https://arxiv.org/abs/2006.15704), and PyTorch's
#   [page](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html). ZeRO: Rajbhandari et
#   al. 2019, [arXiv 1910.02054](https://arxiv.org/abs/1910.02054). FSDP: Zhao et al. 2023,
#   [arXiv 2304.11277](https://arxiv.org/abs/2304.11277).
# - Data sheets: NVIDIA's [GTX 1080
#   whitepaper](https://international.download.nvidia.com/geforce-com/international/pdfs/GeForce_GTX_1080_Whitepaper_FINAL.pdf),
#   [T4](https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf),
#   [A100](https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
