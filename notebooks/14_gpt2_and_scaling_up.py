# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 · GPT-2's weights and scaling up
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/14_gpt2_and_scaling_up.ipynb)
#
# **You will**
# 1. put GPT-2's weights into the model of this course, name by name, and prove that it says the same,
# 2. shorten its window, train it further, and give it back to the library it came from,
# 3. compare losses of models that cut text differently: in bits per byte,
# 4. say what each size of GPT-2 costs in memory, arithmetic and hours, before paying for it,
# 5. train with two processes in five steps, and check their gradient against one process,
# 6. predict the loss of a larger model from smaller ones, and see whether the prediction holds.
#
# **You need** lesson 05 (the model), lesson 09 (training), and the library transformers: Colab has it, `make setup`
# installs it.
#
# **Time** 50 minutes to read, a minute to run.
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
import dataclasses
import math
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import transformers

import picogpt
import picogpt_core as pc

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
runs = picogpt.DATA / "runs"

# %% [markdown]
# ## A stranger's model
#
# OpenAI published GPT-2 in 2019, in four sizes. Today most people load it with Hugging Face's library **transformers**. The
# smallest has 124 million parameters and is a download of half a gigabyte. Here we take transformers' own GPT-2 in a tiny
# shape, with random weights: what must be done is the same, and it needs no network.

# %% tags=["setup"]
def gpt2_of_transformers(**changes):
    size = dict(vocab_size=512, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    ends = dict(bos_token_id=None, eos_token_id=None)  # GPT-2's own lie outside of 512 tokens
    torch.manual_seed(0)
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, **ends, **changes)).eval()
    for parameter in gpt2.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # biases and norms too: any mix-up must show
    return gpt2


theirs = gpt2_of_transformers()
mine = pc.GPT(
    pc.ModelConfig(
        512, 64, n_layer=2, n_head=4, n_embd=32,
        qkv_bias=True, head_bias=False, tied_head=True, activation="gelu_tanh",
    )
).eval()
print(f"theirs {theirs.num_parameters():,} parameters, mine {pc.count_parameters(mine):,}")

assert theirs.num_parameters() == pc.count_parameters(mine)

# %% [markdown]
# The golden-model order of lesson 08: count first. It agrees. Next: names and shapes. The course uses GPT-2's names from the
# start, so little is left to translate. Theirs stand behind `transformer.`.

# %%
a = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
b = mine.state_dict()

assert a.keys() == b.keys(), "the same names"
for name in a:
    if name.startswith(("w", "h.0", "ln_f")):
        shape, ours = tuple(a[name].shape), tuple(b[name].shape)
        print(f"{name:24}{shape!s:12}{ours!s:12}{'' if shape == ours else 'transposed'}")

# %% [markdown]
# Four names in each block are matrices. Three of them have their sides swapped. Why? Transformers keeps GPT-2's original
# layer, called `Conv1D`, which computes `x @ W + b` with W as (in, out). PyTorch's `Linear` computes `x @ Wᵀ + b` with W as
# (out, in). The same numbers, turned.

# %%
x = torch.randn(3, 32)  # (B=3, C)
layer = theirs.transformer.h[0].mlp.c_fc
by_hand = x @ layer.weight + layer.bias  # (3, 32) @ (32, 128) + (128,) -> (3, 128)

assert torch.allclose(layer(x), by_hand, atol=1e-5), "their Conv1D"
assert torch.allclose(F.linear(x, layer.weight.t(), layer.bias), by_hand, atol=1e-5), "our Linear"

# %% [markdown]
# And the fourth matrix, `attn.c_proj`? It is square, (C, C), so turning it does not show in its shape. This is the trap:
# forget it, and *nothing complains*. Let us fall into it.

# %%
shape_only = {}
for name, value in a.items():
    shape_only[name] = value if value.shape == b[name].shape else value.t()
mine.load_state_dict(shape_only)  # no error
ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(0))  # (B=2, T=64)
with torch.no_grad():
    wanted, forgotten = theirs(ids).logits, mine(ids)  # (B, T, V) each

assert (forgotten - wanted).abs().max() > 1, "loaded without a word, and wrong"

# %% [markdown]
# So the table must name all four, and only the outputs tell whether it is right.
#
# One more thing before copying. A parameter records what happens to it, for `backward`. Writing into one is refused, unless
# recording is off:

# %%
try:
    mine.wte.weight.copy_(a["wte.weight"])
except RuntimeError as error:
    print(error)

# %%
TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
with torch.no_grad():
    for name, parameter in mine.named_parameters():
        value = a[name]
        parameter.copy_(value.t() if name.endswith(TURNED) else value)
    right = mine(ids)

assert (right - wanted).abs().max() < 1e-4, "the same logits"

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 3.3), layout="constrained", sharey=True)
titles = "three matrices transposed", "all four transposed"
for ax, logits, title in zip(axes, (forgotten, right), titles):
    ax.plot(wanted[0, ::8, ::8].flatten(), logits[0, ::8, ::8].flatten(), ".", ms=4)
    ax.set(xlabel="logit by transformers", title=title)
axes[0].set_ylabel("logit by mine")
plt.show()

# %% [markdown]
# Each dot is one logit. On the right they all lie on the diagonal. That is the whole of nanoGPT's `from_pretrained`: one
# table of four names. The head needed nothing: it is *tied*, the same matrix as the embedding, so it was copied with it.
#
# Equal logits should mean equal text. **Greedy** writing, the likeliest token each time, has no dice to hide behind:

# %%
start = ids[:, :4]  # (B=2, T=4)
by_mine = pc.generate(mine, start, pc.SampleConfig(40, temperature=0))  # (2, 44)
by_theirs = theirs.generate(start, max_new_tokens=40, do_sample=False, pad_token_id=0)

assert torch.equal(by_mine, by_theirs), "the same 40 tokens"

# %% [markdown]
# ### Which GELU?
#
# GPT-2 was trained with an approximation of GELU, by tanh. The exact one differs by less than 0.001 at any point. Does that
# matter after two layers?

# %%
z = torch.linspace(-6, 6, 10_001)
gap = (F.gelu(z) - F.gelu(z, approximate="tanh")).abs().max()
exact = pc.GPT(dataclasses.replace(mine.config, activation="gelu")).eval()
exact.load_state_dict(mine.state_dict())
with torch.no_grad():
    drift = (exact(ids) - mine(ids)).abs().max()

assert gap < 0.001, "the two GELUs nearly agree"
assert 1e-4 < drift < 0.1, "a small difference, and far more than rounding"

# %% [markdown]
# It is small, and it is another function. `gelu_tanh` is the right one for these weights.
#
# ### The same in one line
#
# `picogpt.from_pretrained` takes a model of transformers, a folder that transformers wrote, or a name on the Hugging Face hub:
# `"gpt2"`, `"gpt2-medium"`, `"gpt2-large"`, `"gpt2-xl"`. It reads the settings from the files and refuses, by name, what
# the course's model cannot be.

# %%
folder = tempfile.TemporaryDirectory()
theirs.save_pretrained(folder.name)  # config.json and model.safetensors, as on the hub
loaded = picogpt.from_pretrained(folder.name)
same = (torch.equal(p, q) for p, q in zip(mine.parameters(), loaded.parameters()))

assert all(same), "what we did by hand"
assert loaded.lm_head.weight is loaded.wte.weight, "tied: one matrix under two names"

# %%
try:
    picogpt.from_pretrained(gpt2_of_transformers(activation_function="silu"))
except ValueError as error:
    print(error)

# %% [markdown]
# Loading holds the weights twice at most: the mapped file and the model. Measured with 124 million random weights, in a
# process of its own (the run is stored):

# %%
for row in picogpt.load_rows(runs / "bench_gpt2_memory.csv"):
    print(f"{row['way']:36} at most {row['peak_mb']:5} MB, {row['peak_copies']} x the weights")

# %% [markdown]
# Transformers itself only maps the file, and reads a weight when it is first used. That is why it needs next to nothing
# before.
#
# **The real thing.** With a network, set `REAL = True`. It fetches half a gigabyte once.

# %% tags=["nbval-ignore-output"]
REAL = picogpt.budget(smoke=False, quick=False, full=True)
if REAL:
    try:
        gpt2, words_of_gpt2 = picogpt.from_pretrained("gpt2"), picogpt.pretrained_tokenizer("gpt2")
        settings = pc.SampleConfig(60, temperature=0.8, top_k=50, seed=1)
        print(picogpt.generate_text(gpt2, words_of_gpt2, "Before we proceed any further", settings))
    except OSError as error:
        print(error)

# %% [markdown]
# ## A shorter window
#
# GPT-2 sees 1,024 tokens. Memory for attention grows with the window, so for small experiments people crop it: throw away
# the rows of `wpe` behind the new end. What was learned for the positions before stays true.

# %%
with torch.no_grad():
    before = loaded(ids[:, :16])  # (B=2, T=16, V)
    picogpt.crop_block_size(loaded, 16)
    after = loaded(ids[:, :16])

assert torch.equal(before, after), "the same logits, to the last bit"
assert loaded.wpe.weight.shape == (16, 32), "the embedding of positions is all that depends on it"

# %% [markdown]
# In the original code the mask had the window's size too. Here the mask is made when it is needed.
#
# ## GPT-2's tokens
#
# GPT-2 reads 50,257 different tokens, made by byte pair encoding (lesson 01). Its tokenizer is two small files of OpenAI's.
# `picogpt.gpt2_tokenizer()` fetches and checks them. It has `encode`, `decode` and `vocab_size` like the tokenizer of
# characters, so everything in the course takes either.

# %%
gpt2_words = picogpt.gpt2_tokenizer()
line = "Before we proceed any further, hear me speak."
pieces = [gpt2_words.decode([i]) for i in gpt2_words.encode(line)]
print("|".join(pieces))

assert gpt2_words.decode(gpt2_words.encode(line)) == line, "there and back"
assert gpt2_words.vocab_size == 50257

# %% [markdown]
# How many bytes does a token stand for? In the validation text of Shakespeare:

# %%
text = picogpt.load_shakespeare()
validation = picogpt.split(text)[1]
in_tokens = len(gpt2_words.encode(validation))
shakespeare_bytes = len(validation.encode()) / in_tokens
print(f"{len(validation):,} bytes, {in_tokens:,} tokens: {shakespeare_bytes:.2f} bytes a token")

assert in_tokens == 36_059, "the number in nanoGPT's own notes"

# %% [markdown]
# And in the web text that GPT-2 knows best? OpenWebText is a public imitation of what it was trained on. Its size is on
# record: 39,769,491,688 bytes, cut by nanoGPT into 9,035,582,198 + 4,434,897 tokens. (Both count a little more than the
# text: marks between documents, well under one percent.)

# %%
web_bytes = 39_769_491_688 / (9_035_582_198 + 4_434_897)
print(f"{web_bytes:.2f} bytes a token")
for word in (" because", " thee", " doth", "\nMENENIUS:"):
    print([gpt2_words.decode([i]) for i in gpt2_words.encode(word)])

# %% [markdown]
# A token is what was frequent in web text. Shakespeare's names in capitals, his short lines and some of his words fall to
# pieces.
#
# ## Is 3.11 worse than 1.47?
#
# The log copies a table of baselines from nanoGPT's README: the four GPT-2, judged on OpenWebText. Below them it lists its
# own models with losses around 1. Such a table invites a wrong comparison. A loss is a surprise **per token**: GPT-2's
# tokens are 4.4 bytes long, ours one. Divide by the bytes, and by ln 2 to have bits:

# %%
baselines = {  # nats per token on OpenWebText, training part and validation part
    "gpt2": (3.11, 3.12),
    "gpt2-medium": (2.85, 2.84),
    "gpt2-large": (2.66, 2.67),
    "gpt2-xl": (2.56, 2.54),
}
bits = {}
for name, (_, val) in baselines.items():
    bits[name] = val / web_bytes / math.log(2)
    millions = pc.PRESETS[name].parameters / 1e6
    print(f"{name:12}{millions:6.0f}M  {val:.2f} nats per token  {bits[name]:.3f} bits per byte")

# %%
ours = picogpt.load_shipped("picogpt").about["val_loss"]  # nats per character: a byte each
bits["picogpt"] = ours / math.log(2)
print(f"picogpt       2.5M  {ours:.2f} nats per character  {bits['picogpt']:.3f} bits per byte")

assert bits["picogpt"] > 1.9 * bits["gpt2"], "a loss half as large, and twice the surprise"

# %%
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
colours = ["tab:blue"] * 4 + ["tab:orange"]
shown = ax.barh(list(bits), list(bits.values()), color=colours)
ax.bar_label(shown, fmt="%.2f", padding=3)
ax.set(xlabel="bits per byte (blue: web text, orange: Shakespeare)", title="Surprise, per byte")
ax.margins(x=0.12)
ax.invert_yaxis()
plt.show()

# %% [markdown]
# By its loss the small model looks twice as good. Per byte it is twice as surprised. Even that is not yet a fair contest,
# since the texts differ: web prose here, verse there. `picogpt.bits_per_byte` makes the units equal; only the same text makes
# the comparison fair.
#
# One more reading of that table. The two losses of each GPT-2 are alike. That says nothing about learning by heart: GPT-2
# was trained on another, unpublished text, so both parts of OpenWebText are new to it. Trained on it for a while, says the
# README, it falls from 3.11 to about 2.85. (The log also gives nanoGPT 1.22 on Shakespeare. Its own console line says
# 1.4640, and the README 1.4697.)
#
# ## Train it further
#
# **Fine-tuning** is training that starts from somebody's weights, with a lower rate, for a short time. On the command line:
#
# ```
# python -m picogpt finetune --init-from gpt2 --out out/gpt2
# python -m picogpt sample --checkpoint out/gpt2 --prompt "ROMEO:"
# ```
#
# The default recipe is nanoGPT's, 20 steps of 32 windows at a rate of 0.00003. Here is the same path with our tiny stranger:
# 512 tokens learned from the text, and a higher rate, since random weights have nothing to lose.

# %% tags=["nbval-ignore-output"]
bpe = picogpt.learn_bpe(text[:100_000], 512)
words = picogpt.load_corpus(text[:120_000], bpe)
tuned = picogpt.from_pretrained(folder.name, embd_dropout=0.0, resid_dropout=0.0, attn_dropout=0.0)
start_loss = pc.evaluate(tuned, words.val)
changes = dict(steps=picogpt.budget(smoke=2, quick=20, full=200), learning_rate=1e-2, grad_accum=4)
settings = dataclasses.replace(picogpt.FINETUNE, **changes)
print(picogpt.describe_run(settings))  # where, in which numbers
run = picogpt.train(tuned, words, settings, progress=False)
print(f"nats per token: {start_loss:.2f} before, {run.val_losses[-1][1]:.2f} after")

# %%
assert run.val_losses[-1][1] < start_loss - 1 or settings.steps < 20, "training lowers it"

# %% [markdown]
# `picogpt.describe_run` says which device it found. With a GPU, as in Colab after *Runtime, Change runtime type*,
# `picogpt.train` uses it in every lesson.
#
# The result can go back to where it came from: `picogpt.save_pretrained` writes a folder that transformers opens, with the
# tokenizer.

# %%
given_back = tempfile.TemporaryDirectory()
picogpt.save_pretrained(tuned, given_back.name, bpe)
opened = transformers.GPT2LMHeadModel.from_pretrained(given_back.name).eval()
ids = torch.tensor([bpe.encode(line)])  # (1, T)
with torch.no_grad():
    difference = (opened(ids).logits.cpu() - tuned(ids).cpu()).abs().max()

assert difference < 1e-3, "their model, our weights"
assert picogpt.pretrained_tokenizer(given_back.name).decode(ids[0]) == line

# %% [markdown]
# Not every model of this course fits into their format. Missing biases do, as zeros. A bias of the head does not:

# %%
try:
    picogpt.save_pretrained(picogpt.load_shipped("picogpt").model, given_back.name)
except ValueError as error:
    print(error)

# %% [markdown]
# ## What each size costs
#
# All of it can be computed before anything is downloaded. Memory for training: weights, gradients and AdamW's two averages,
# four numbers of 4 bytes for each parameter (activations come on top). Arithmetic: about 6 FLOPs for each parameter and
# token (lesson 09), and some for attention.

# %%
sizes = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
print("               parameters   GFLOPs a token: 6N, with attention   GB: weights, training")
for name in sizes:
    config, N = pc.PRESETS[name]
    flops = f"{6 * N / 1e9:19.2f}{pc.flops_per_token(config) / 1e9:9.2f}"
    print(f"{name:11}{N:14,}{flops}{4 * N / 1e9:21.1f}{16 * N / 1e9:10.1f}")

# %% [markdown]
# A T4, Colab's free card, has 16 GB. The two larger sizes do not train there this way: `gpt2-large` would have room for
# little else than its 12 GB.
#
# ### Hours
#
# Hours are FLOPs divided by FLOPs a second. A chip's data sheet promises a number; a training gets a part of it, the **MFU**
# (lesson 09). A T4 multiplies float32 at 8.1 TFLOP/s and has no bfloat16, so the course trains in float32 there. We
# *assume* an MFU of 40 %. For two CPU cores we take what the course measured with PicoGPT.

# %%
bench = {row["what"]: row for row in picogpt.load_rows(runs / "bench_training.csv")}
single = bench["ours, AdamW, float32"]
measured = single["tokens_per_second"] * pc.flops_per_token(pc.preset("picogpt"))
speeds = {"T4": 0.4 * 8.1e12, "2 cores": measured}
tuning = picogpt.FINETUNE.steps * picogpt.FINETUNE.batch_size * 1024  # tokens
print(f"{tuning:,} tokens; 2 cores: {measured / 1e9:.0f} GFLOP/s")
for name in sizes:
    work = tuning * pc.flops_per_token(pc.preset(name))
    minutes = [f"{where} {work / speed / 60:7.1f} min" for where, speed in speeds.items()]
    note = "" if 16 * pc.PRESETS[name].parameters < 10e9 else " (too large for a T4)"
    print(f"{name:12} fine-tuning: {', '.join(minutes)}{note}")

# %% [markdown]
# So nanoGPT's fine-tuning of the smallest GPT-2 should take about three minutes on a T4 and forty minutes on two cores
# like ours, and some more for the evaluations. These are estimates. We have no T4, and could not fetch the weights.
#
# ### From scratch: 38 hours?
#
# The log quotes nanoGPT: GPT-2 124M, trained in 38 hours on eight A100. Three weeks later the README said "about 4 days".
# Both can be checked. The training file of the first day took 12 windows of 1,024 on each of 8 cards, and at most 600,000
# steps. Later it accumulated 5 times as much before each step, and the loss went from about 3.1 to about 2.85. If each
# training went to its last step:

# %%
each = pc.flops_per_token(pc.preset("gpt2"))
peak = 8 * 312e12  # eight A100, bfloat16, from the data sheet
stories = {"38 hours": (12 * 1024 * 8 * 600_000, 38), "4 days": (5 * 12 * 1024 * 8 * 600_000, 96)}
for name, (tokens, hours) in stories.items():
    mfu = tokens * each / (hours * 3600) / peak
    at_40 = tokens * each / (0.4 * peak) / 3600
    billions = f"{tokens / 1e9:.0f} billion tokens"
    print(f"{name}: {billions}, so an MFU of {mfu:.0%}; at 40 %: {at_40:.0f} hours")

# %% [markdown]
# The two numbers do not contradict each other. They are two trainings: the longer one read five times the tokens, and used
# the cards twice as efficiently. And on the two machines of the table above:

# %%
tokens = stories["4 days"][0]
for where, speed in speeds.items():
    years = tokens * each / speed / 3600 / 24 / 365
    print(f"{where:8} {years:6.1f} years for {tokens / 1e9:.0f} billion tokens")

# %% [markdown]
# ### Half the bits, how much faster?
#
# The log trains on a GTX 1080 in float32 and guesses why an A100 is so much faster: bfloat16 "2×", PyTorch 2 "1.5×", the
# chip "20×". (Lesson 09 shows that its run did 40 times the work in each step.) The data sheets:

# %%
sheets = {  # TFLOP/s of float32 and of 16 bits, GB/s of memory
    "GTX 1080": (8.9, None, 320),
    "T4": (8.1, 65, 300),
    "A100": (19.5, 312, 1555),
}
for name, (full, short, memory) in sheets.items():
    gain = f"16 bits {short} ({short / full:.0f} x)" if short else "no fast 16 bits"
    print(f"{name:9} float32 {full:5} TFLOP/s, {gain}, {memory} GB/s")

# %% [markdown]
# On paper bfloat16 brings an A100 16 times, not 2: it has units for it that multiply whole small matrices. The T4's units
# know float16 only. That number format has a narrow range, and small gradients become 0 in it, so people multiply the loss
# by a large number first (a *gradient scaler*). bfloat16 has float32's range and needs none. This course supports float32
# and bfloat16.
#
# A training gets less than the paper says, since only the matrix products speed up. Our CPU has such units too. Stored:

# %%
half = bench["ours, AdamW, bfloat16"]
paper = single["bfloat16_peak_gflops"] / single["float32_peak_gflops"]
real = half["tokens_per_second"] / single["tokens_per_second"]
print(f"{single['machine']}")
print(f"bfloat16: {paper:.1f} x in matrix products, {real:.1f} x in training")

assert 1 < real < paper

# %% tags=["nbval-ignore-output"]
here = picogpt.pick_device()
fast = picogpt.has_fast_bfloat16(here)
print(f"{picogpt.describe_machine()}, {here}: {'fast bfloat16' if fast else 'no fast bfloat16'}")
kinds = (torch.float32, torch.bfloat16) if fast else (torch.float32,)
for kind in kinds:
    print(f"{kind!s:15} {picogpt.matmul_flops(kind, n=1024) / 1e9:7,.0f} GFLOP/s here")

# %% [markdown]
# In code, mixed precision is one `with`: lesson 09 takes it apart.
#
# ## Many at once
#
# Eight cards train one model like this. Each has a copy. Each computes the gradient of its share of the batch. Then they
# exchange gradients and take the mean, and all make the same step. PyTorch calls it **DDP**, distributed data parallel. It
# takes five steps, the same on eight GPUs and on two CPU processes. We write them as a script:

# %%
five_steps = """
import contextlib, os, sys, torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
sys.path.insert(0, sys.argv[1])
import picogpt
import picogpt_core as pc

dist.init_process_group("gloo")  # STEP 1: torchrun said in the environment who each one is
rank, number = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
net = torch.nn.parallel.DistributedDataParallel(pc.GPT(pc.preset("tiny")))  # STEP 2: wrap
bare = net.module  # STEP 3: the model itself, to save it, is inside
exchanges = []

def count(state, bucket):
    exchanges.append(1)
    return allreduce_hook(None, bucket)

net.register_comm_hook(None, count)
"""

# %% [markdown]
# `gloo` is the exchange for CPUs, `nccl` the one for GPUs. The hook only counts.
#
# Step 4 is about accumulation. A batch that is computed in pieces (lesson 09) needs *one* exchange, after the last piece:
# earlier sums are not finished. `net.no_sync()` keeps it quiet. nanoGPT sets the switch behind it by hand,
# `require_backward_grad_sync`. We try all three ways.

# %%
five_steps += """
ids = picogpt.load_corpus().train
x, y = pc.get_batch(ids, 8, 32, torch.Generator().manual_seed(0))  # (B=8, T=32)
x, y = x[rank::number], y[rank::number]  # my share: (4, 32)
for way in ("always", "no_sync", "switch"):
    net.zero_grad()
    exchanges.clear()
    for piece in (0, 1):  # STEP 4: exchange after the last piece only
        last, rows = piece == 1, slice(2 * piece, 2 * piece + 2)
        net.require_backward_grad_sync = last or way != "switch"
        quiet = net.no_sync() if way == "no_sync" and not last else contextlib.nullcontext()
        with quiet:
            (pc.cross_entropy(net(x[rows]), y[rows]) / 2).backward()
    if rank == 0:
        print(f"{way}: {len(exchanges)} exchanges", flush=True)
        torch.save([p.grad for p in bare.parameters()], f"{sys.argv[2]}/{way}.pt")
dist.destroy_process_group()  # STEP 5
os._exit(0)  # at once: with gloo, one farewell in thirty crashed on our machine
"""

# %% [markdown]
# **torchrun** starts the processes, two here, and tells each its rank.

# %%
shared = tempfile.TemporaryDirectory()
script = Path(shared.name, "five_steps.py")
script.write_text(five_steps)
torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
command = [*torchrun, str(script), str(picogpt.ROOT), shared.name]
one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
done = subprocess.run(command, capture_output=True, text=True, env=one_thread)

assert done.returncode == 0, done.stderr
print(done.stdout)

# %% [markdown]
# Half the exchanges with two pieces, a fifth with the five that nanoGPT computes on each card. And the gradients? One
# process computes the whole batch in one go:

# %%
torch.manual_seed(0)
alone = pc.GPT(pc.preset("tiny"))
x, y = pc.get_batch(picogpt.load_corpus().train, 8, 32, torch.Generator().manual_seed(0))
pc.cross_entropy(alone(x), y).backward()
for way in ("always", "no_sync", "switch"):
    gradients = torch.load(f"{shared.name}/{way}.pt")
    same = (torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(alone.parameters(), gradients))
    assert all(same), f"{way}: another gradient than one process has"

# %% [markdown]
# The same gradient, whoever computes it. That is the test for any distributed code: it must change the time and nothing
# else. `picogpt.train` is built this way, and one command starts it: `torchrun --standalone --nproc-per-node=2 -m picogpt
# train --out out/two`.
#
# ## Will a larger model be better?
#
# Before you pay for the large one, train small ones and draw a line. **Scaling laws** (Kaplan 2020, Hoffmann 2022) say that
# the loss falls regularly with the compute, over many powers of ten. Does it hold in our small world? The stored study has
# five widths, two layers each, three seeds. Each reads ten characters for each of its parameters: the wide ones read more,
# as they should. (Ten and not Hoffmann's twenty, so that the widest reads the text only four times.)

# %%
rows = picogpt.load_rows(runs / "scaling.csv")
rows = [row for row in rows if row["val_loss"]]  # each run's last
widths = (32, 48, 64, 96, 128)
compute, losses = [], []
for width in widths:
    of_width = [row for row in rows if row["variant"] == f"width {width}"]
    config = pc.ModelConfig(n_layer=2, n_embd=width, n_head=width // 16, block_size=64)
    compute.append(pc.flops_per_token(config) * of_width[0]["tokens"])
    losses.append([row["val_loss"] for row in of_width])
    row = of_width[0]
    size = f"{row['parameters']:7,} parameters, {row['tokens']:9,} characters"
    print(f"width {width:3}: {size}, {compute[-1]:.1e} FLOPs, loss {np.mean(losses[-1]):.3f}")

# %% [markdown]
# We now pretend not to know the last one. From the first four we predict it, in two ways. The first is a straight line
# through logarithms, loss = a · computeᵇ. The second adds a **floor**: loss = floor + a · computeᵇ. No model can be sure
# of everything that Shakespeare wrote next, so the loss cannot fall to 0.

# %%
def straight(flops, loss, floor=0.0):
    """The power law through the points, above a floor: a function of compute."""
    slope, start = np.polyfit(np.log(flops), np.log(np.array(loss) - floor), 1)
    return lambda c: floor + np.exp(start + slope * np.log(c))


def with_floor(flops, loss):
    """The same, with the floor that fits best."""
    floors = np.arange(0, min(loss), 0.005)
    errors = [((straight(flops, loss, floor)(flops) - loss) ** 2).sum() for floor in floors]
    return straight(flops, loss, floors[np.argmin(errors)]), floors[np.argmin(errors)]


# %%
flops, mean = np.array(compute), np.array(losses).mean(axis=1)  # (5,) each
line = straight(flops[:4], mean[:4])
curve, floor = with_floor(flops[:4], mean[:4])
next_one = flops[4]
print(f"width 128: {line(next_one):.3f} by the line, {curve(next_one):.3f} with a floor")
print(f"measured: {mean[4]:.3f}, seeds {min(losses[4]):.3f} to {max(losses[4]):.3f}")

assert abs(curve(flops[4]) - mean[4]) < 0.02 < abs(line(flops[4]) - mean[4])

# %%
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
for c, three in zip(flops, losses):
    ax.plot([c] * 3, three, "o", color="tab:grey" if c < flops[4] else "tab:red", alpha=0.7)
grid = np.geomspace(flops[0], 4 * flops[4], 100)
ax.plot(grid, line(grid), "--", color="tab:orange", label="straight line through four sizes")
ax.plot(grid, curve(grid), color="tab:blue", label=f"with a floor of {floor:.2f}, same four")
ax.plot([], [], "o", color="tab:grey", label="four sizes, three seeds each")
ax.plot([], [], "o", color="tab:red", label="the fifth size, not used for the lines")
ax.set(xscale="log", yscale="log", xlabel="training compute (FLOPs)")
ax.set_title("Predicting the fifth size from four")
ax.set_yticks([1.4, 1.6, 1.8, 2.0, 2.2], ["1.4", "1.6", "1.8", "2.0", "2.2"])
ax.minorticks_off()
ax.set_ylabel("validation loss (nats per character)")
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %% [markdown]
# The straight line promises too much: it is off by a tenth, where seeds differ by a hundredth. With a floor the
# prediction hits. How much of that is luck? Each seed by itself is a second, third and fourth try:

# %%
for seed in range(3):
    alone = [three[seed] for three in losses]
    guess, its_floor = with_floor(flops[:4], alone[:4])
    print(f"predicted {guess(flops[4]):.3f}, measured {alone[4]:.3f} (floor {its_floor:.2f})")

# %% [markdown]
# Predictions from one seed miss by up to 0.026, and their floors differ. So: a prediction for three times the compute is
# good to about 0.03 here, and the hit of their mean was luck in part. A floor read off such a fit is not worth much: four
# points and three numbers to find. It also belongs to this recipe and this small text, and is no property of English.
#
# That is the use of a scaling law. It says what the next size is worth *before* the money is spent. Whether it was right,
# one has to check.
#
# ## Your turn
#
# ### 1. And back
#
# Write `back(name, value)`: a name and weight of ours, to the name and weight that transformers wants.

# %% tags=["check"]
def check_back(back):
    theirs = gpt2_of_transformers()
    wanted = theirs.state_dict()
    for name, value in picogpt.from_pretrained(theirs).named_parameters():
        try:
            new, transposed = back(name, value.detach())
            shape = tuple(transposed.shape)
        except Exception as error:
            kind = type(error).__name__
            print(f"not yet: for {name} it gave no pair of a name and a tensor ({kind})")
            return
        if new not in wanted:
            print(f"not yet: transformers knows no {new!r}")
            return
        if shape != wanted[new].shape:
            print(f"not yet: {new} has shape {shape}, theirs {tuple(wanted[new].shape)}: turn it?")
            return
        if not torch.equal(transposed, wanted[new]):
            print(f"not yet: {new} has the right shape and other numbers: square ones turn too")
            return
    print("✓ every name, every number")


# %% tags=["exercise"]
def back(name, value):
    ...  # your code


check_back(back)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def back(name, value):
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return "transformer." + name, value.t() if name.endswith(matrices) else value


check_back(back)

# %% [markdown]
# ### 2. Does it fit?
#
# You want to train all of GPT-2 XL, 1,557,611,200 parameters, with AdamW in float32. How many gigabytes (10⁹ bytes) do
# weights, gradients and optimizer need, without any activations?

# %% tags=["check"]
def check_gigabytes(gigabytes):
    N = pc.PRESETS["gpt2-xl"].parameters
    if not isinstance(gigabytes, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(gigabytes / (16 * N / 1e9) - 1) < 0.03:
        print(f"✓ {16 * N / 1e9:.1f} GB: more than a T4 has, before anything is computed")
    elif abs(gigabytes / (4 * N / 1e9) - 1) < 0.03:
        print("not yet: these are the weights alone")
    elif abs(gigabytes / (8 * N / 1e9) - 1) < 0.03:
        print("not yet: weights and gradients. AdamW keeps two averages for each parameter")
    else:
        print(f"not yet: {gigabytes:,} GB. How many numbers of 4 bytes for each parameter?")


# %% tags=["exercise"]
gigabytes = ...  # a number

check_gigabytes(gigabytes)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_gigabytes(4 * 4 * 1_557_611_200 / 1e9)

# %% [markdown]
# ### 3. Whose window is it?
#
# A training has `batch_size=480` and `grad_accum=40`, and runs on 4 cards. `picogpt.train` counts a batch over all pieces and
# all processes. How many windows does one card compute at a time?

# %% tags=["check"]
def check_at_a_time(windows):
    if not isinstance(windows, int | float):
        print("not yet: put a number in place of the three dots")
    elif windows == 3:
        print("✓ 480 / 40 / 4: that is what must fit into the memory of a card")
    elif windows == 12:
        print("not yet: 12 is a piece of all cards together")
    elif windows == 120:
        print("not yet: 120 is a card's share of the batch, and it is computed in pieces")
    else:
        print(f"not yet: {windows}. Divide by the pieces, and by the cards")


# %% tags=["exercise"]
windows = ...  # a number

check_at_a_time(windows)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_at_a_time(480 // 40 // 4)

# %% [markdown]
# ## What you can do now
#
# 1. Load a stranger's weights: count, names, shapes, then outputs. Square matrices hide mistakes from shapes.
# 2. Crop, fine-tune, and give back: `picogpt.crop_block_size`, `finetune`, `picogpt.save_pretrained`.
# 3. Say why 3.11 and 1.47 do not compare, and what does: bits per byte, on the same text.
# 4. Compute memory, FLOPs and hours for a model you do not have, and name the MFU that you assumed.
# 5. Write DDP in five steps, exchange once a batch, and test it against one process.
# 6. Predict a loss from smaller runs, with a floor, and check the prediction.
#
# Next: a GPT of your own. When it misbehaves, you know where to look.
#
# ## Sources
#
# - GPT-2: Radford et al. 2019,
#   [paper](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf),
#   [code](https://github.com/openai/gpt-2). In transformers:
#   [documentation](https://huggingface.co/docs/transformers/model_doc/gpt2).
# - nanoGPT: [README](https://github.com/karpathy/nanoGPT) (baselines, 2.85, 1.4697); the 38 hours in [commit
#   df3b8a57](https://github.com/karpathy/nanoGPT/commit/df3b8a57) of January 2023, with its training file; the 4 days in
#   [d2705bd9](https://github.com/karpathy/nanoGPT/commit/d2705bd9);
#   [fine-tuning](https://github.com/karpathy/nanoGPT/blob/master/config/finetune_shakespeare.py); tokens of
#   [Shakespeare](https://github.com/karpathy/nanoGPT/blob/master/data/shakespeare/readme.md) and of
#   [OpenWebText](https://github.com/karpathy/nanoGPT/blob/master/data/openwebtext/readme.md).
# - Bytes of OpenWebText: its [card](https://huggingface.co/datasets/Skylion007/openwebtext).
# - Scaling laws: Kaplan et al. 2020, [arXiv 2001.08361](https://arxiv.org/abs/2001.08361); Hoffmann et al. 2022, [arXiv
#   2203.15556](https://arxiv.org/abs/2203.15556). Reading a text several times: Muennighoff et al. 2023, [arXiv
#   2305.16264](https://arxiv.org/abs/2305.16264).
# - FLOPs and MFU: Chowdhery et al. 2022, appendix B, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311).
# - Mixed precision and gradient scaling: Micikevicius et al. 2017, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740).
# - DDP: Li et al. 2020, [arXiv 2006.15704](https://arxiv.org/abs/2006.15704), and PyTorch's
#   [page](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html).
# - Data sheets: NVIDIA's [GTX 1080
#   whitepaper](https://international.download.nvidia.com/geforce-com/international/pdfs/GeForce_GTX_1080_Whitepaper_FINAL.pdf),
#   [T4](https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf),
#   [A100](https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
