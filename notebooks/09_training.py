# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Training
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/09_training.ipynb)
#
# **You will**
# 1. write a training loop in ten lines, and let it learn one batch by heart before anything else,
# 2. add what real loops have, line by line, and see what each line buys,
# 3. read loss curves: where learning ends and learning by heart begins,
# 4. kill a training and resume it, bit for bit,
# 5. say how fast a machine trains, and how long a model would take on another.
#
# **You need** lesson 00, and to have seen a gradient. Lessons 01 to 08 build the model that is trained here.
#
# **Time** 55 minutes to read, a minute to run.
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
import itertools
import math
import tempfile
import time

import matplotlib.pyplot as plt
import torch

import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()
small = pc.ModelConfig(block_size=64, n_layer=2, n_head=4, n_embd=64)

# %% [markdown]
# The experiments here use a model of 112,193 parameters, small enough to train in seconds. The large results come from
# stored runs of PicoGPT, in `data/runs/`. Each names its settings and its machine.
#
# ## Can it learn one batch by heart?
#
# Before a long training, ask for the easiest thing there is: learn four windows of text by heart. A model with 112,193
# parameters can do that. If it cannot, then the model, the loss or the loop is wrong, and no patience will help.

# %%
torch.manual_seed(0)
model = pc.GPT(small)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x, y = pc.get_batch(corpus.train, 4, 64, torch.Generator().manual_seed(0))  # (B=4, T=64) each
losses = []
for _ in range(100):
    loss = pc.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

assert losses[0] > 4, "a new model guesses blindly: the loss starts at about ln 65 = 4.17"
assert losses[-1] < 0.1, "it cannot even learn four windows by heart: look for the mistake now"

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.semilogy(losses)
ax.set(xlabel="step", ylabel="loss (nats per character)", title="One batch, learned by heart")
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# From 4.2 to almost nothing. That is no success yet: it knows four windows and nothing else. It is proof that gradients
# arrive and that the optimizer uses them.
#
# ## The loop in ten lines
#
# Now the same with a fresh batch each time. This is all there is to training:

# %%
def plain_loop(model, steps, batch_size=16, T=64, lr=3e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        x, y = pc.get_batch(corpus.train, batch_size, T)  # (B, T) each
        loss = pc.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
torch.manual_seed(0)
model = pc.GPT(small)
losses = plain_loop(model, steps=picogpt.budget(smoke=5, quick=100, full=1000))

assert losses[-1] < losses[0] - 0.3, "a hundred steps on real text must lower the loss"

# %% [markdown]
# `zero_grad` empties the gradients, `backward` computes new ones, `step` moves the weights. **AdamW** divides each number's
# gradient, averaged over the last steps, by its own usual size, so that all weights move at a similar pace. Leave out
# `zero_grad`, and each step follows the sum of all gradients so far: a common mistake, and it does not crash.
#
# Everything that follows is a line added to this loop.
#
# ## Where does the time go? A detective story
#
# On a CPU under Linux, this loop has a hidden cost. The operating system hands out memory in **pages** of 4 kilobytes. A
# page is cleared when a program first touches it: a **page fault**. A training step allocates some hundred megabytes for
# its intermediate results and frees them. If the memory goes back to the system each time, each step pays for every page
# again. Let us count. The model: one layer of PicoGPT's width, at the batch it is trained with.

# %% tags=["nbval-ignore-output"]
if importlib.util.find_spec("resource"):  # Linux and macOS count page faults
    import resource


def faults_and_seconds(steps):
    """Page faults and seconds per step, after one step to warm up."""
    wide = pc.GPT(pc.ModelConfig(n_layer=1))
    plain_loop(wide, 1, 32, 256)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    plain_loop(wide, steps, 32, 256)
    after, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter() - began
    return (after - before) / steps, seconds / steps


if importlib.util.find_spec("resource"):
    steps = picogpt.budget(smoke=1, quick=3, full=3)
    as_it_comes = faults_and_seconds(steps)
    print(f"{as_it_comes[0]:,.0f} page faults and {as_it_comes[1]:.2f} s a step")

# %% [markdown]
# The C library's allocator can be told to keep what it has. `pc.keep_freed_memory()` does that with three settings, and
# `picogpt.train` calls it. It holds for the whole process, so from this cell on everything in this notebook profits.

# %% tags=["nbval-ignore-output"]
if pc.keep_freed_memory():
    kept = faults_and_seconds(steps)
    faster = as_it_comes[1] / kept[1]
    print(f"{kept[0]:,.0f} page faults and {kept[1]:.2f} s a step: {faster:.1f} x as fast")
else:
    print("this system has another allocator: nothing to set")

# %% [markdown]
# Most of the faults are gone. What that buys depends on the machine: a lot where a page fault is expensive, little on the
# one that made this page. The lesson is the method: when a program is slower than its arithmetic, count something.
#
# ## Which weights should decay?
#
# **Weight decay** pulls every weight a little towards 0 at each step. A matrix then stays only as large as the data keep
# it. Should biases, LayerNorms and embeddings decay too? Look at an embedding. A row gets a gradient only when its token
# occurs. We train with decay on everything, on a text in which `$` does not occur.

# %%
torch.manual_seed(0)
model = pc.GPT(small)
dollar, space = (corpus.tokenizer.encode(c)[0] for c in "$ ")
before = model.wte.weight.detach().norm(dim=1).clone()  # (V,): the length of each row
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
ids = corpus.train[corpus.train != dollar]
x, y = ids[:1024].view(16, 64), ids[1:1025].view(16, 64)  # (B=16, T=64) each
for _ in range(50):
    loss = pc.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
after = model.wte.weight.detach().norm(dim=1)  # (V,)

assert math.isclose(after[dollar] / before[dollar], (1 - 1e-2 * 0.1) ** 50, rel_tol=1e-3)
assert after[space] > before[space], "the space occurs all the time and learns"

# %% [markdown]
# The row of `$` shrank by exactly (1 − rate · decay) a step, 50 times. Nobody asked for that: a token is forgotten a little
# at each step in which it does not occur. A LayerNorm's scale pulled to 0 would switch its output off, and a bias is a
# single number that cannot overfit much. So the core lets only matrices decay, the embeddings left out:

# %%
settings = pc.TrainConfig(optimizer="adamw", weight_decay=0.1)
for group in pc.make_optimizers(pc.GPT(small), settings)[0].param_groups:
    numbers = sum(p.numel() for p in group["params"])
    print(f"decay {group['weight_decay']}: {len(group['params']):2} tensors, {numbers:7,} numbers")

# %% [markdown]
# ## How large a step, and when?
#
# The **learning rate** is the length of a step. Too small wastes time, too large overshoots. A quick way to find the
# range: start tiny, raise the rate at every step, and watch the loss. This is the **learning-rate finder** (Smith 2015).

# %%
torch.manual_seed(0)
model = pc.GPT(small)
optimizer = torch.optim.AdamW(model.parameters())
trials = picogpt.budget(smoke=10, quick=100, full=400)
rates = torch.logspace(-5, 0, trials).tolist()  # 0.00001 to 1
found = []
for rate in rates:
    optimizer.param_groups[0]["lr"] = rate
    x, y = pc.get_batch(corpus.train, 16, 64)  # (B=16, T=64) each
    loss = pc.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    found.append(loss.item())

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.semilogx(rates, found)
ax.axvline(3e-3, color="tab:orange", ls="--", lw=1, label="this course: 0.003")
ax.set(xlabel="learning rate", ylabel="loss (nats per character)", title="Learning-rate finder")
ax.set_ylim(2, 7)
ax.legend()
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Below 0.0001 nothing happens. Then the loss falls, and near the right end it explodes. Take a rate from the falling
# part, a good way left of the explosion.
#
# One rate does not fit all times. At the start AdamW knows little about the gradients' size: **warm-up** raises the rate
# from 0. At the end, large steps jump over what they look for: the rate **falls**. The cosine is GPT-3's and nanoGPT's
# custom; a straight line is as simple as it gets, and is what this course uses.

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
colours = {"cosine": "tab:blue", "linear": "tab:orange", "constant": "tab:grey"}
for schedule, colour in colours.items():
    settings = pc.TrainConfig(steps=500, warmup_steps=50, schedule=schedule)
    rates = [pc.learning_rate_at(step, settings) for step in range(500)]
    ax.plot(rates, color=colour, label=schedule)
ax.set(xlabel="step", ylabel="part of the highest rate", title="Three schedules, 50 warm-up steps")
ax.legend()
plt.show()

# %%
settings = pc.TrainConfig(steps=500, warmup_steps=50, schedule="cosine", final_lr_fraction=0.1)
by_hand = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (300 - 50) / (499 - 50)))

assert math.isclose(pc.learning_rate_at(300, settings), by_hand), "the core's cosine"
assert pc.learning_rate_at(0, settings) == 1 / 50, "warm-up: one fiftieth at the first step"

# %% [markdown]
# ## When one gradient is too long
#
# Some batches are odd, and their gradient is many times longer than usual. **Clipping** shortens it to a fixed length and
# keeps its direction.

# %%
torch.manual_seed(0)
model = pc.GPT(small)
(100 * pc.cross_entropy(model(x), y)).backward()  # a gradient a hundred times too long
before = torch.cat([p.grad.flatten() for p in model.parameters()])
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
after = torch.cat([p.grad.flatten() for p in model.parameters()])

assert before.norm() > 10, "far too long"
assert abs(after.norm() - 1) < 1e-4, "no longer than 1"
assert torch.cosine_similarity(before, after, dim=0) > 0.9999, "the same direction"

# %% [markdown]
# How often does it happen? The stored run of PicoGPT kept the length of the gradient before clipping.

# %%
runs = picogpt.DATA / "runs"
best = [row for row in picogpt.load_rows(runs / "best.csv") if row["seed"] == 1337]
norms = [row["grad_norm"] for row in best]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot([row["step"] for row in best], norms, lw=1)
ax.axhline(1, color="tab:orange", ls="--", lw=1, label="longer than this is clipped")
ax.set(xlabel="step", ylabel="length of the gradient", title="PicoGPT's gradient while it learns")
ax.legend()
plt.show()
print(f"{sum(norm > 1 for norm in norms)} of {len(norms)} recorded steps were clipped")

# %% [markdown]
# Clipping works at the very start here, if at all. It is an insurance: it costs next to nothing, and saves a long run
# from one bad batch.
#
# ## A batch that does not fit
#
# A large batch needs much memory. **Accumulation** computes it in pieces and adds the gradients up. `backward` adds by
# itself, as long as nobody calls `zero_grad`. Only the mean needs care: each piece counts for its share.

# %%
x, y = pc.get_batch(corpus.train, 16, 64, torch.Generator().manual_seed(1))  # (B=16, T=64) each
model.zero_grad()
pc.cross_entropy(model(x), y).backward()
whole = [p.grad.clone() for p in model.parameters()]

model.zero_grad()
for piece in range(4):
    rows = slice(4 * piece, 4 * piece + 4)
    (pc.cross_entropy(model(x[rows]), y[rows]) / 4).backward()  # (B=4, T=64)

same = (torch.allclose(p.grad, w, atol=1e-6) for p, w in zip(model.parameters(), whole))
assert all(same), "four pieces give the gradient of the whole batch"

# %% [markdown]
# The same step, with a quarter of the intermediate results in memory. `pc.backward(model, x, y, micro_batches=4)` does this;
# `grad_accum=4` in a `TrainConfig` asks for it. With several processes (lesson 14), it also waits with the exchange until
# the last piece.
#
# ## Half the digits
#
# **bfloat16** keeps float32's range and throws 16 of its 24 digits (in base 2) away. Hardware made for it multiplies many
# times faster. But 8 digits are few:

# %%
one = torch.tensor(1.0, dtype=torch.bfloat16)

assert one + 0.001 == one, "a small update to a bfloat16 weight is lost"

# %% [markdown]
# Training moves weights by such small amounts, step after step. So weights, their gradients and the optimizer stay in
# float32, and **autocast** rounds only the inputs of matrix products. `contextlib.nullcontext()` is a `with` that does
# nothing: the usual way to switch autocast off where the hardware has no bfloat16, where it would cost time instead of
# saving it.

# %%
def forward_in(bf16):
    """The logits of a batch, and the loss, with or without autocast."""
    how = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with torch.no_grad(), how:
        logits = model(x)  # (B, T, V)
    return logits, pc.cross_entropy(logits, y)


half, full = forward_in(True), forward_in(False)

assert half[0].dtype == torch.bfloat16, "the head is a matrix product"
assert full[0].dtype == torch.float32, "nullcontext changes nothing"
assert all(p.dtype == torch.float32 for p in model.parameters()), "the weights stay whole"
assert abs(half[1] - full[1]) < 0.01, "the loss hardly notices"

# %% [markdown]
# `dtype="auto"` takes bfloat16 where the hardware multiplies it; `picogpt.has_fast_bfloat16(device)` says whether that is
# here.
#
# `torch.compile(model)` is the other promise of speed: PyTorch translates the model into fused machine code, which takes
# a while at the start, and a C++ compiler. What both brought on our machine, at PicoGPT's size, stands in the stored
# benchmark, as multiples of a plain loop around GPT-2 of Hugging Face's library `transformers`, at the same size in float32:

# %%
for row in picogpt.load_rows(runs / "bench_training.csv"):
    print(f"{row['what']:42}{row['times_transformers']:6.2f} x transformers")

# %% [markdown]
# On this CPU bfloat16 doubled the speed and compiling brought little or nothing. On a GPU both usually pay.
#
# ## A better step: Muon
#
# AdamW treats each number of a matrix by itself. **Muon** (Jordan 2024) looks at the matrix. A gradient of a weight
# matrix is mostly a few strong directions and many faint ones. Muon makes all directions equally strong. Here are the
# **singular values**, the strengths of the directions, of one real gradient, before and after.

# %%
gradient = whole[[name for name, _ in model.named_parameters()].index("h.0.mlp.c_fc.weight")]
even = pc.orthogonal(gradient[None])[0]  # (256, 64) -> (1, 256, 64) -> (256, 64)
strength = torch.linalg.svdvals(gradient), torch.linalg.svdvals(even)  # (64,) each

assert strength[0][0] > 10 * strength[0][32], "a few directions dominate a gradient"
assert 0.6 < strength[1][:48].min() and strength[1].max() < 1.3, "Muon's step: about equal"

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(strength[0] / strength[0][0], "o-", ms=3, label="the gradient")
ax.plot(strength[1], "s-", ms=3, label="Muon's step")
ax.set(xlabel="direction, strongest first", ylabel="strength (singular value)")
ax.set_title("One gradient matrix, before and after")
ax.legend()
plt.show()

# %% [markdown]
# The very last direction is 0 before and after: LayerNorm gives vectors of mean 0, so one direction never occurs.
#
# Muon is for the matrices inside the blocks. Embeddings, head, biases and norms stay with AdamW. Does it pay? The same
# model, the same batches, the same number of steps:

# %%
steps = picogpt.budget(smoke=1, quick=200, full=2000)
trained = {}
for optimizer in ("adamw", "muon"):
    quarter = max(1, steps // 4)
    settings = pc.TrainConfig(steps, batch_size=16, optimizer=optimizer, eval_every=quarter)
    torch.manual_seed(0)
    trained[optimizer] = picogpt.train(pc.GPT(small), corpus, settings, progress=False)
ends = {name: run.val_losses[-1][1] for name, run in trained.items()}

assert ends["muon"] < ends["adamw"] or steps < 100, "Muon should be ahead after 200 steps"

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, run in trained.items():
    picogpt.plot_history(ax, run.history, name)
ax.set_title("The same model, data and steps: two optimizers")
plt.show()

# %% [markdown]
# Muon's matrix products cost time: in the benchmark above, an eighth of the speed. In memory it keeps less: one running
# average for each weight, where AdamW keeps two.
#
# ## Reading the curves
#
# `picogpt.train` is the ten lines with all that was added. Two curves come out of it: the loss on the windows it learns from,
# and, now and then, the loss on the **whole** validation text. Their distance tells the story. Here is a run
# of three layers without dropout once more.

# %%
long = [row for row in picogpt.load_rows(runs / "memorising.csv") if row["variant"] == "3 layers"]
best_row = min((row for row in long if row["val_loss"]), key=lambda row: row["val_loss"])
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
picogpt.plot_history(ax, long, "no dropout,")
ax.axvline(best_row["step"], color="grey", ls=":", lw=1)
ax.text(best_row["step"], 0.6, " from here on it learns by heart", color="grey")
ax.set(ylim=(0.5, 2.8), title="Overfitting")
plt.show()

# %%
last = long[-1]
print(f"lowest validation loss {best_row['val_loss']:.3f}, at step {best_row['step']}")
print(f"at the end {last['val_loss']:.3f}; the training loss fell to {last['train_loss']:.3f}")

assert last["train_loss"] < best_row["train_loss"], "the training loss falls on"
assert last["val_loss"] > best_row["val_loss"], "while the validation loss rises"

# %% [markdown]
# Left of the line both fall: it learns English. Right of it only the training loss falls: it learns this text by heart. A
# training loss alone cannot tell the two apart.
#
# **Dropout** delays that point: in training it sets a random part of the activations to 0, so that no single one can be
# relied on. It costs steps, and lowers the validation loss in the end. The stored best runs of PicoGPT use it on the
# embeddings and on each branch of the residual stream:

# %%
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
picogpt.plot_history(ax, long, "no dropout,")
picogpt.plot_history(ax, best, "with dropout,")
ax.set(ylim=(0.5, 2.8), title="The same model and text, with and without dropout")
plt.show()

# %% [markdown]
# With dropout the training loss lies *above* what the finished model would get, since it is measured with a part of the
# model switched off. (The run without dropout is a fifth shorter and has half the weight decay. It had
# turned long before its end.)
#
# ## Stop, kill, resume
#
# Long runs get interrupted. What must a checkpoint hold so that a resumed run is the same run? The weights, the
# optimizers' running averages, the step, and the state of both random streams: the one that draws windows and the one
# that draws dropout. `picogpt.train` saves all of it at every evaluation. Let us pull the plug in the middle, without any
# chance to clean up.

# %%
settings = pc.TrainConfig(12, batch_size=4, eval_every=4, log_every=1, dtype="float32")
shaky = pc.ModelConfig(block_size=32, n_layer=1, n_head=2, n_embd=32, resid_dropout=0.1)
words = corpus._replace(val=corpus.val[:500])  # a short validation, for speed


def new_model():
    torch.manual_seed(0)
    return pc.GPT(shaky)


uninterrupted = new_model()
straight = picogpt.train(uninterrupted, words, settings, progress=False)

# %% [markdown]
# A second process trains the same, and ends with `os._exit` after step 7: no exception, no farewell, like a power cut.

# %%
victim = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()
words = corpus._replace(val=corpus.val[:500])
settings = pc.TrainConfig(12, batch_size=4, eval_every=4, log_every=1, dtype="float32")
shaky = pc.ModelConfig(block_size=32, n_layer=1, n_head=2, n_embd=32, resid_dropout=0.1)
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[3]))
pull_the_plug = lambda row, model: os._exit(9) if row["step"] == 7 else None
picogpt.train(pc.GPT(shaky), words, settings, sys.argv[2], progress=False, on_row=pull_the_plug)
"""
folder = tempfile.TemporaryDirectory()
line = [sys.executable, "-c", victim, str(picogpt.ROOT), folder.name, str(torch.get_num_threads())]
died = subprocess.run(line)

assert died.returncode == 9
print(sorted(file.name for file in Path(folder.name).iterdir()))

# %% [markdown]
# It died at step 7. The last checkpoint is from step 4. We resume, and compare with the run that was never interrupted.

# %%
resumed = new_model()
run = picogpt.train(resumed, words, settings, folder.name, resume=True, progress=False)
same = (torch.equal(a, b) for a, b in zip(uninterrupted.parameters(), resumed.parameters()))

losses = [[row["train_loss"] for row in history] for history in (run.history, straight.history)]

assert all(same), "every weight, to the last bit"
assert losses[0] == losses[1], "and every loss"

# %% [markdown]
# Every weight and every loss is the same, to the last bit. The files were never half written, either: the core writes a
# new file beside the old one and renames it at the end. A test of the course kills 30 trainings at random moments.
#
# On the command line: `python -m picogpt train --out out/mine`, Ctrl-C, and again with `--resume`.
#
# ## What to write down
#
# A run without its record did not happen. `run.save(path)` writes the history as CSV and the settings beside it as JSON;
# with `out=` it happens by itself. Whoever uses TensorBoard (or Weights & Biases) hands `picogpt.train` a function that is
# called with each row:

# %%
log = None
if importlib.util.find_spec("tensorboard"):
    from torch.utils.tensorboard import SummaryWriter

    log = SummaryWriter(folder.name)


def to_tensorboard(row, model):
    if log:
        log.add_scalar("loss/train", row["train_loss"], row["step"])


rows = []


def each_row(row, model):
    rows.append(row)
    to_tensorboard(row, model)


picogpt.train(new_model(), words, settings, progress=False, on_row=each_row)
if log:
    log.close()

assert len(rows) == 12, "a row for each step, since log_every=1"

# %% [markdown]
# Runs of nanoGPT print their losses. `picogpt.read_nanogpt_log` reads that, so that any of them can be laid beside ours.
# Stored here: nanoGPT itself, with the recipe that its README gives for a laptop CPU (0.80M parameters), run on our
# machine.

# %%
log_text = (runs / "nanogpt_cpu.log").read_text()
theirs = picogpt.read_nanogpt_log(log_text)
print("\n".join(log_text.splitlines()[-3:]))

# %%
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
picogpt.plot_history(ax, theirs, "nanoGPT, 0.80M, 12 x 64,")
picogpt.plot_history(ax, best, "PicoGPT, 2.47M, 32 x 256,")
ax.set(ylim=(1.2, 3), title="A nanoGPT log beside a run of ours")
plt.show()

# %% [markdown]
# Steps are not equal work: one of ours reads 8,192 characters, one of theirs 768. And nanoGPT's validation loss is an
# estimate from random windows, which scatters; lesson 02 measures by how much. Compare with the whole validation text,
# and say which.
#
# ## How fast is this?
#
# Count arithmetic. A parameter is used in one multiplication and one addition for each token, forward; twice that
# backward. So training costs 6 operations for each parameter and token, plus the attention's products, which grow with
# the window. The unit is the **FLOP**, one floating-point operation. A machine's speed is counted in GFLOP/s or TFLOP/s: 10⁹
# or 10¹² of them a second.

# %%
config = pc.preset("picogpt")
N = 2_466_369 - 256 * 256  # parameters, without the positions: those are only added
L, C, T = config.n_layer, config.n_embd, config.block_size
print(f"{6 * N + 12 * L * C * T:,} FLOPs to train on one character")

assert 6 * N + 12 * L * C * T == pc.flops_per_token(config)

# %% [markdown]
# How many could the machine do? Its best moment is one large matrix product. The share of that which a training reaches
# is its **model FLOPs utilisation**, MFU.

# %% tags=["nbval-ignore-output"]
device = picogpt.pick_device()
dtype = torch.bfloat16 if picogpt.has_fast_bfloat16(device) else torch.float32
peak = picogpt.matmul_flops(dtype)
settings = pc.TrainConfig(picogpt.budget(smoke=2, quick=5, full=20), log_every=1, optimizer="adamw")
history = picogpt.train(pc.GPT(config), words, settings, progress=False).history
step = min(b["seconds"] - a["seconds"] for a, b in itertools.pairwise(history))
speed = 32 * 256 * pc.flops_per_token(config) / step  # a step is 32 windows of 256
print(f"{picogpt.describe_machine()}\n{peak / 1e9:,.0f} GFLOP/s in the best case, as {dtype}")
print(f"{32 * 256 / step:,.0f} characters/s, {speed / 1e9:,.0f} GFLOP/s: MFU {speed / peak:.0%}")

# %% [markdown]
# Matrix products are only a part of a step. Softmax, LayerNorm, GELU and the additions do little arithmetic on much data:
# they wait for **memory bandwidth**. The faster the products, the more the waiting shows, and the lower the MFU. That is
# why a chip with ten times the FLOPs is seldom ten times as fast.
#
# ### The log's graphics card
#
# The log trains nanoGPT's 10.65M parameters on a GTX 1080. It reports `iter 490: … time 17068.56ms, mfu 0.85%`, about
# three hours for 500 steps, and asks why an A100 needs 3 minutes: 60 times less. nanoGPT states its MFU as a share of an
# A100's 312 TFLOP/s. So two numbers of that line give the speed twice, and they must agree.

# %%
nano = pc.ModelConfig(65, 256, 6, 6, 384, bias=False, head_bias=False, tied_head=True)
batch = 64 * 256 * pc.flops_per_token(nano)  # FLOPs of one batch: 64 windows of 256
by_time = batch / 17.06856
by_mfu = 0.0085 * 312e12
print(f"by its time {by_time / 1e12:.2f} TFLOP/s, by its MFU {by_mfu / 1e12:.2f}")
print(f"{by_mfu / by_time:.0f} times as much")

assert 36 < by_mfu / by_time < 42

# %% [markdown]
# They differ by a factor of 39. nanoGPT's default is to accumulate `5 * 8` = 40 batches in a step, and the file for
# Shakespeare sets that to 1 since April 2023. The log's run must have kept the 40. So each of its steps did the work of
# 40, and the card was not slow at all:

# %%
card, a100 = by_mfu, 5000 * batch / 180  # the A100: 5000 steps of one batch in 3 minutes
print(f"GTX 1080: {card / 1e12:4.1f} TFLOP/s, {card / 8.9e12:3.0%} of its 8.9 in float32")
print(f"A100:     {a100 / 1e12:4.1f} TFLOP/s, {a100 / 312e12:3.0%} of its 312 in bfloat16")
print(f"the A100 is {a100 / card:.0f} x as fast, and did {5000 / (500 * 40):.2f} x the work")

# %% [markdown]
# Per FLOP the A100 was about 12 times as fast, not 60. On paper it is 35 times: bfloat16 units against float32. It did
# not get there, since so small a model keeps an A100 waiting: for memory, and for the next operation to be started.
# Bandwidth on paper: 1,555 GB/s against 320, five times.
#
# ### On my machine this takes …

# %%
def training_time(config, tokens, flops):
    """Hours to train on so many tokens at so many FLOPs a second."""
    return tokens * pc.flops_per_token(config) / flops / 3600


for name, tokens in (("picogpt", 20e6), ("gpt2", 300e9)):
    hours = training_time(pc.preset(name), tokens, card)
    print(f"{name:8} {tokens:.0e} tokens on the GTX 1080: {hours:10,.2f} h")
eight = training_time(pc.preset("gpt2"), 300e9, 8 * 0.4 * 312e12)
print(f"gpt2, on eight A100 at 40 % of their peak: {eight:,.0f} h")

# %% tags=["nbval-ignore-output"]
here = training_time(pc.preset("picogpt"), 20e6, speed)
print(f"picogpt, 20 million characters, here: {here * 60:.0f} minutes")

# %% [markdown]
# ## What does PicoGPT reach?
#
# nanoGPT's README reports 1.4697 for 10.65M parameters in 3 minutes on an A100, the best of its estimates on random
# windows. The best published figure of that size that we trust is 1.4603 (AI-Scientist, adaptive learning rate). Ours has
# 2,466,369 parameters, and is measured over the whole validation text.

# %%
every, ends = picogpt.load_rows(runs / "best.csv"), []
print(every[0]["machine"])
for seed in sorted({row["seed"] for row in every}):
    mine = [row for row in every if row["seed"] == seed]
    last = mine[-1]
    first = next((r["seconds"] / 60 for r in mine if (r["val_loss"] or 9) <= 1.4697), None)
    when = f"1.4697 after {first:.0f} min" if first else "1.4697 not reached"
    minutes = last["seconds"] / 60
    print(f"seed {seed}: {last['val_loss']:.4f}, {last['step']} steps, {minutes:.0f} min; {when}")
    ends.append(last["val_loss"])
print(f"mean of three seeds: {sum(ends) / 3:.4f}")
six = picogpt.load_shipped("picogpt-6layer").about
print(f"six layers, {six['step']} steps, one seed: {six['val_loss']:.4f}")

# %% [markdown]
# And what does each ingredient bring? One was changed at a time, in short runs: 3.3 million characters each, an eighth of
# the long run, one seed.

# %%
ablation = [row for row in picogpt.load_rows(runs / "ablation.csv") if row["val_loss"]]
finals = {row["variant"]: row["val_loss"] for row in ablation}  # the last row of each stays
base = finals.pop("the recipe")
averaged = [row["val_loss_of_average"] for row in ablation if row["variant"] == "the recipe"][-1]
finals["average of weights"] = averaged
finals = dict(sorted(finals.items(), key=lambda item: item[1]))
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
bars = ax.barh(list(finals), [value - base for value in finals.values()], color="tab:blue")
ax.bar_label(bars, fmt="%+.3f", padding=3)
ax.margins(x=0.2)
ax.axvline(0, color="black", lw=1)
ax.set(xlabel="validation loss, more than the recipe's (nats per character)")
ax.set_title(f"One thing changed; the recipe reaches {base:.3f} in these short runs")
plt.show()

# %%
smaller = max(finals[name] for name in ("cosine", "no weight decay", "average of weights"))
assert finals["AdamW alone"] > smaller + 0.1, "Muon brings more than these three"
assert finals["batch 8"] < base < finals["batch 64"], "more steps with smaller batches"
assert finals["average of weights"] > base, "an average lags behind weights that still move"
assert finals["no dropout"] < base, "in a short run dropout only costs"
lowest = min(row["val_loss"] or 9 for row in best)
assert best_row["val_loss"] > lowest, "best against best: in a long run it wins"

# %% [markdown]
# Of the recipe's parts Muon brings most. Small batches make more steps of the same text, and steps are what a short run
# lacks. An average of the weights over the last hundred steps or so makes it worse: the weights are still on their way.
# Weight decay hardly matters at this length; a cosine is 0.03 behind the straight line.
#
# And dropout? Here it *costs* 0.36: without it 400 short steps reach 1.55, which is why lessons 06 to 08 train without. In
# the picture before, over a longer run, it was what won. A rate that stays high is ahead here too. A short run tells what
# helps a short run. **An ablation answers for its own length**: the one measurement of the long recipe is the long run.
#
# ## Your turn
#
# ### 1. A schedule
#
# Write the learning rate of a step, counted from 0: up in a straight line to `highest` in the first `warmup` steps (the
# first step has `highest / warmup`), then down along half a cosine to `lowest` at the last step.

# %% tags=["check"]
def check_schedule(rate):
    settings = pc.TrainConfig(steps=100, warmup_steps=10, schedule="cosine", final_lr_fraction=0.1)
    for step in (0, 5, 10, 55, 99):
        try:
            answer = rate(step, steps=100, warmup=10, highest=2.0, lowest=0.2)
            mine = None if answer is None else float(answer)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if mine is None:
            print("not yet: it returned nothing")
            return
        wanted = 2 * pc.learning_rate_at(step, settings)
        if not abs(mine - wanted) < 1e-6:
            part = "the warm-up" if step < 10 else "the fall: (1 + cos(π · part done)) / 2"
            print(f"not yet: step {step} has {mine:.3f}, wanted {wanted:.3f}. Look at {part}")
            return
    print("✓ warm-up and cosine")


# %% tags=["exercise"]
def rate(step, steps, warmup, highest, lowest):
    ...  # your code


check_schedule(rate)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def rate(step, steps, warmup, highest, lowest):
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)  # 0 when the fall begins, 1 at the last step
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * done)) / 2


check_schedule(rate)

# %% [markdown]
# ### 2. Pieces of unequal size
#
# A batch of 16 windows is computed in pieces of 10, 4 and 2. By what must the mean loss of each piece be multiplied, so
# that the gradients add up to those of the whole batch?

# %% tags=["check"]
def check_shares(shares):
    try:
        shares = [float(share) for share in shares]
    except (TypeError, ValueError):
        print("not yet: give a list of three numbers, like [1, 1, 1]")
        return
    net = pc.GPT(small)
    ids, targets = pc.get_batch(corpus.train, 16, 64)  # (B=16, T=64) each
    ways = [16], [10, 4, 2]
    sums = []
    for sizes, weights in zip(ways, ([1.0], shares)):
        net.zero_grad()
        for x, y, share in zip(ids.split(sizes), targets.split(sizes), weights):
            (pc.cross_entropy(net(x), y) * share).backward()
        sums.append(net.wte.weight.grad.clone())
    off = ((sums[1] - sums[0]).norm() / sums[0].norm()).item()
    if len(shares) != 3:
        print(f"not yet: {len(shares)} numbers for three pieces")
    elif torch.allclose(*sums, atol=1e-6):
        print("✓ each window counts the same, whatever piece it is in")
    else:
        print(f"not yet: the gradient is off by {off:.0%}. A piece counts by its windows")


# %% tags=["exercise"]
shares = ...  # three numbers, for the pieces of 10, 4 and 2 windows

check_shares(shares)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_shares([10 / 16, 4 / 16, 2 / 16])

# %% [markdown]
# ### 3. How long would it take?
#
# Chinchilla's rule of thumb is 20 tokens for each parameter (Hoffmann 2022). A model of 1 billion parameters, then. How
# many hours on one A100 that runs at 40 % of its 312 TFLOP/s? Count 6 FLOPs for each parameter and token.

# %% tags=["check"]
def check_hours(hours):
    right = 6 * 1e9 * 20e9 / (0.4 * 312e12) / 3600
    if not isinstance(hours, int | float):
        print("not yet: put a number of hours in place of the three dots")
    elif abs(hours / right - 1) < 0.02:
        print(f"✓ {right:.0f} hours, or 11 days")
    elif abs(hours / right / 3600 - 1) < 0.02:
        print("not yet: these are seconds")
    elif abs(hours / right - 0.4) < 0.02:
        print("not yet: that is at 100 % of the peak, which nobody reaches")
    else:
        print(f"not yet: {hours:,.0f}. 6 · parameters · tokens / (FLOPs a second) / 3600")


# %% tags=["exercise"]
hours = ...  # a number

check_hours(hours)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_hours(6 * 1e9 * (20 * 1e9) / (0.4 * 312e12) / 3600)

# %% [markdown]
# ## What you can do now
#
# 1. Write a training loop in ten lines, and prove on one batch that it learns.
# 2. Say what decay groups, warm-up, a falling rate, clipping, accumulation, autocast, the allocator and Muon are for, and
#    what they brought here.
# 3. Find the step where learning by heart begins, in two curves.
# 4. Kill a training and resume it: `picogpt.train(…, out, resume=True)`.
# 5. Turn parameters and tokens into FLOPs, and FLOPs into hours.
#
# Next: [lesson 10](10_sampling.ipynb) lets the trained model write.
#
# ## Sources
#
# - AdamW and decay: Loshchilov and Hutter 2017, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101).
# - Learning-rate finder: Smith 2015, [arXiv 1506.01186](https://arxiv.org/abs/1506.01186).
# - Cosine schedule: Loshchilov and Hutter 2016, [arXiv 1608.03983](https://arxiv.org/abs/1608.03983).
# - Clipping: Pascanu et al. 2012, [arXiv 1211.5063](https://arxiv.org/abs/1211.5063).
# - Dropout: Srivastava et al. 2014, [JMLR 15](https://jmlr.org/papers/v15/srivastava14a.html).
# - Muon: [Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/).
# - FLOPs and MFU: Chowdhery et al. 2022, appendix B, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311). Chinchilla:
#   Hoffmann et al. 2022, [arXiv 2203.15556](https://arxiv.org/abs/2203.15556).
# - nanoGPT: [README](https://github.com/karpathy/nanoGPT) for 1.4697 and the CPU recipe; [commit
#   978d4fe](https://github.com/karpathy/nanoGPT/commit/978d4fe538611a95c985cf04293121cba9b9167c) for the accumulation.
# - 1.4603: Lu et al. 2024, *The AI Scientist*, [arXiv 2408.06292](https://arxiv.org/abs/2408.06292).
# - GTX 1080 and A100 on paper: NVIDIA's [GTX 1080
#   whitepaper](https://international.download.nvidia.com/geforce-com/international/pdfs/GeForce_GTX_1080_Whitepaper_FINAL.pdf)
#   (8.9 TFLOP/s, 320 GB/s) and [A100
#   datasheet](https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf)
#   (312 TFLOP/s, 1,555 GB/s).
# - glibc's allocator settings: [mallopt](https://man7.org/linux/man-pages/man3/mallopt.3.html).
