# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · KV cache
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/11_kv_cache.ipynb)
#
# **You will**
# 1. count how much work a GPT repeats when it writes,
# 2. keep keys and values instead, first in one head, then in the whole model,
# 3. prove that the result is the same, position by position,
# 4. see four ways to do it almost right, each failing,
# 5. say how much memory a cache takes, and what happens when the window is full.
#
# **You need** lessons 04 (heads, masks), 08 (the whole model: wte, wpe, the blocks) and 10 (sampling).
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
import time
from unittest import mock

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()
model = picogpt.load_shipped("picogpt").model
block = model.config.block_size  # 256

# %% [markdown]
# ## What is repeated?
#
# To write a character, a GPT reads the whole text so far. To write the next one, it reads *the whole text and one
# character more*. But under the causal mask, nothing that it computed for the old positions can have changed: they do not
# see the new one. All of it is done again, for nothing. How much is that? Reading one character takes about two
# operations for each parameter.

# %%
each = pc.flops_per_token(model.config) / 3  # forward only: a third of what training takes
again = torch.arange(1, block + 1).cumsum(0) * each  # reads 1, then 2, then 3 … characters
once = torch.arange(1, block + 1) * each
print(f"{again[-1] / once[-1]:.0f} times the work, after {block} characters")

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(range(1, block + 1), again / 1e9, color="tab:orange", label="reading everything again")
ax.plot(range(1, block + 1), once / 1e9, color="tab:blue", label="reading each character once")
ax.set(xlabel="characters written", ylabel="GFLOPs so far", yscale="log")
ax.legend()
plt.show()

# %% [markdown]
# ## One head with a memory
#
# What does a new position need from the old ones? In attention: their **keys** and their **values**, nothing else. Their
# queries have been answered. So keep keys and values, the **KV cache**. A new position computes its own query, key and
# value, and puts key and value behind the others.

# %%
torch.manual_seed(0)
T, C, hs = 10, 32, 8
x = torch.randn(1, T, C)  # (B=1, T, C)
Wq, Wk, Wv = (torch.randn(C, hs) / math.sqrt(C) for _ in range(3))
whole = F.scaled_dot_product_attention(x @ Wq, x @ Wk, x @ Wv, is_causal=True)  # (B, T, hs)

# %%
keys, values = torch.zeros(1, 0, hs), torch.zeros(1, 0, hs)  # nothing yet
for t in range(T):
    new = x[:, [t]]  # (B, 1, C)
    keys = torch.cat([keys, new @ Wk], dim=1)  # (B, t + 1, hs)
    values = torch.cat([values, new @ Wv], dim=1)  # (B, t + 1, hs)
    y = F.scaled_dot_product_attention(new @ Wq, keys, values)  # (B, 1, hs)
    assert torch.allclose(y, whole[:, [t]], atol=1e-6), f"position {t} differs"

# %% [markdown]
# No mask: the one new position may see everything that is there. All else in a GPT (LayerNorm, MLP, head) works on each
# position by itself and needs no memory.
#
# ## The whole model
#
# `pc.KVCache` has room for the keys and values of all layers and heads. One calls the model with the new tokens only, and
# it appends them. First the prompt in one go, **prefill**; then one token at a time, **decode**. We compare the logits
# with those of the plain model, for prompts of every length, several rows at once.

# %%
ids = corpus.val[: 3 * 32].view(3, 32)  # (B=3, T=32)
with torch.no_grad():
    plain = model(ids)  # (B, T, V)
    for prompt in range(1, 33):
        cache = pc.KVCache(model.config, batch_size=3)
        logits = [model(ids[:, :prompt], cache=cache)]  # prefill
        logits += [model(ids[:, [t]], cache=cache) for t in range(prompt, 32)]  # decode
        off = (torch.cat(logits, dim=1) - plain).abs().max()
        assert off < 1e-4, f"prompt of {prompt}: off by {off}"

# %% [markdown]
# The same to rounding. Not to the last bit: sums of another length are added up in another order. So greedy text
# with and without a cache is the same unless the two likeliest characters are tied to the fifth digit.
#
# ## Almost right, four times
#
# The first two stood in the log's own cache (lesson 13, patient 3). All four have the right shapes. To build them, here is
# one step of the model by hand, with the position as an argument:

# %%
def step(ids, cache, position):
    """What model(ids, cache=cache) does, for tokens (B, T) at the given positions (T,)."""
    x = model.wte(ids) + model.wpe(position)  # (B, T, C)
    for part in model.h:
        x = part(x, cache)
    cache.length += ids.shape[1]
    return model.lm_head(model.ln_f(x))  # (B, T, V)


def filled(n):
    """A cache that has read the first n characters."""
    cache = pc.KVCache(model.config)
    model(ids[:1, :n], cache=cache)
    return cache


# %%
with torch.no_grad():
    right = step(ids[:1, [20]], filled(20), torch.tensor([20]))
    assert torch.allclose(right, plain[:1, [20]], atol=1e-4), "by hand, and right"

# %% [markdown]
# **1. The position starts at 0 again.** The new token is the only one in the call, and gets the first row of `wpe`:

# %%
with torch.no_grad():
    wrong = step(ids[:1, [20]], filled(20), torch.tensor([0]))
off = (wrong - plain[:1, [20]]).abs().max().item()
print(f"logits off by {off:.1f}")

assert off > 0.5, "the wrong row of wpe"

# %% [markdown]
# **2. `is_causal=True` with one query.** SDPA lays its triangle into the top left corner. With one query and many keys,
# the query sees key 0 only. In the head from above:

# %%
wrong = F.scaled_dot_product_attention(x[:, [9]] @ Wq, keys, values, is_causal=True)

assert torch.allclose(wrong, values[:, [0]], atol=1e-6), "it returned the value of position 0"

# %% [markdown]
# **3. No mask in the prefill.** *No mask is needed* holds for one new position. With several, the early ones see the
# later ones. Their own outputs are not used, so nobody notices. But in the next layer their keys and values are:

# %%
sdpa = F.scaled_dot_product_attention
no_mask = mock.patch.object(  # replaces it inside "with no_mask", and puts it back
    F, "scaled_dot_product_attention", lambda q, k, v, **_: sdpa(q, k, v)
)
with no_mask, torch.no_grad():
    cache = pc.KVCache(model.config)
    last = model(ids[:1, :20], cache=cache)[:, -1]  # the last position may see all anyhow
off = (last - plain[:1, 19]).abs().max().item()
print(f"logits of the last position off by {off:.1f}")

assert off > 0.1, "layer 2 read keys that depend on future tokens"

# %% [markdown]
# **4. Not forgetting.** Somebody tries a token, takes it back, and tries another. The key and value of the first are
# still there. In the core one shortens the cache: `cache.length`.

# %%
with torch.no_grad():
    cache = filled(20)
    model(ids[1:2, [20]], cache=cache)  # a guess, taken back
    kept = model(ids[:1, [20]], cache=cache)  # forgotten to forget
    cache.length = 20
    back = model(ids[:1, [20]], cache=cache)

assert (kept - plain[:1, [20]]).abs().max() > 0.1, "the guess still speaks"
assert torch.allclose(back, plain[:1, [20]], atol=1e-4), "forgotten, and right"

# %% [markdown]
# Shapes were right all four times, and nothing crashed. What does the text look like? We put the first three into
# `pc.generate` and let it write, always the likeliest character.

# %%
wpe = model.wpe.weight
slips = {
    "right": torch.no_grad(),
    "slip 1": mock.patch.object(model.wpe, "forward", lambda t: F.embedding(t - t[0], wpe)),
    "slip 2": mock.patch.object(
        F, "scaled_dot_product_attention", lambda q, k, v, **_: sdpa(q, k, v, is_causal=True)
    ),
    "slip 3": no_mask,
}

# %%
texts, greedy = {}, pc.SampleConfig(60, temperature=0)
for name, slip in slips.items():
    with slip:
        texts[name] = picogpt.generate_text(model, corpus.tokenizer, "GREMIO:\nGood morrow", greedy)
    print(f"{name}: {texts[name][19:]!r}")

assert len(set(texts.values())) == 4, "every slip changes the text"

# %% [markdown]
# With slips 1 and 2 the text is garbage, and one looks for the reason everywhere else. With slip 3 it looks fine, and is
# not what this model writes. What finds such slips is the comparison with the plain model, at every position.
#
# ## When the window is full
#
# PicoGPT sees 256 characters. For the 257th, the window moves by one: what was at position 1 is now at position 0, and
# gets another row of `wpe`. **Every** key and value in the cache is wrong now. How wrong? We keep the stale ones of
# positions 1 to 255 and compare.

# %%
long = corpus.val[None, : block + 1]  # (1, 257)
with torch.no_grad():
    truth = model(long[:, 1:], last_only=True)  # the window, moved by one
    cache = pc.KVCache(model.config)
    model(long[:, :block], cache=cache)
    for part in (cache.k, cache.v):  # (L, B, nh, T, hs): forget the first, move all up
        part[:, :, :, :-1] = part[:, :, :, 1:].clone()
    cache.length = block - 1
    stale = model(long[:, [block]], cache=cache)
off = (stale - truth).abs().max().item()
print(f"logits off by {off:.1f}")

assert off > 0.1, "the keys and values are of other positions"

# %% [markdown]
# So beyond the block the core computes each window anew, and writes what the model without a cache writes. Models with
# *relative* positions (rotary embeddings, for one) can keep their caches. Learned absolute positions cannot.
#
# ## How fast?

# %%
def seconds_per_character(use_cache, n):
    """Time of each step, (n,): the shortest of some runs, for other programs only slow us down."""
    start, runs = corpus.val[None, :1], []
    for _ in range(picogpt.budget(smoke=1, quick=3, full=10)):
        times = []
        settings = pc.SampleConfig(1, temperature=0)
        cache, ids = pc.KVCache(model.config) if use_cache else None, start
        for _ in range(n):
            began = time.perf_counter()
            with torch.inference_mode():
                fresh = ids[:, cache.length :] if use_cache else ids
                logits = model(fresh, last_only=True, cache=cache)[:, -1]
                likeliest = pc.next_token_probs(logits, settings).argmax(1, keepdim=True)
                ids = torch.cat([ids, likeliest], 1)
            times.append(time.perf_counter() - began)
        runs.append(times)
    return torch.tensor(runs).amin(dim=0)


# %%
n = picogpt.budget(smoke=10, quick=block, full=block)
pc.keep_freed_memory()
slow, fast = seconds_per_character(False, n), seconds_per_character(True, n)

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(slow * 1000, color="tab:orange", label="reading everything again")
ax.plot(fast * 1000, color="tab:blue", label="with the cache")
ax.set(xlabel="position", ylabel="milliseconds for a character", ylim=(0, None))
ax.legend()
plt.show()
print(f"all {n}: {slow.sum() / fast.sum():.1f} x as fast with the cache")

# %% [markdown]
# The upper line grows with the position. The lower one is flat. But the gain is nowhere near the hundred-fold saving in
# arithmetic: a step for one character has little to compute and must still fetch every weight from memory and start
# dozens of operations, one after the other.
#
# ## What does it cost?
#
# A key and a value for each layer and position: 2 · layers · C numbers a position.

# %%
for name, T, number in (("picogpt", 256, 4), ("gpt2", 1024, 2)):
    config = pc.preset(name)
    size = 2 * config.n_layer * config.n_embd * T * number
    print(f"{name}: {size / 1e6:5.1f} MB for one text of {T} tokens, {number} bytes a number")

cache = pc.KVCache(model.config)
assert (cache.k.numel() + cache.v.numel()) * 4 == 2 * 3 * 256 * 256 * 4

# %% [markdown]
# For long texts the cache can be larger than the model. That is what many tricks of large models are about:
# fewer key heads, shorter numbers.
#
# ## Your turn
#
# ### 1. How much memory?
#
# A model has 32 layers and C = 4096, keys and values in 2 bytes each. How many gigabytes (10⁹ bytes) is the cache for a
# text of 100,000 tokens?

# %% tags=["check"]
def check_memory(number):
    right = 2 * 32 * 4096 * 100_000 * 2 / 1e9
    if not isinstance(number, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(number / right - 1) < 0.02:
        print("✓ 52 GB, for one text")
    elif abs(number / right - 0.5) < 0.01:
        print("not yet: half. Keys *and* values; and 2 bytes each")
    else:
        print(f"not yet: {number:,.1f}. 2 · layers · C · tokens · bytes / 10⁹")


# %% tags=["exercise"]
number = ...  # gigabytes

check_memory(number)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_memory(2 * 32 * 4096 * 100_000 * 2 / 1e9)

# %% [markdown]
# ### 2. Write with a cache
#
# Write `greedy(model, ids, n)`: continue ids (1, T) by the n likeliest tokens, with a cache: the prompt once, then one
# token at a time. The check compares the text, and counts what the model was given to read.

# %% tags=["check"]
def check_greedy(greedy):
    ids, read = corpus.val[None, :20], []
    hook = model.wte.register_forward_hook(lambda module, args, out: read.append(args[0].shape[1]))
    try:
        with torch.no_grad():
            mine = greedy(model, ids, 30)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    finally:
        hook.remove()
    right = pc.generate(model, ids, pc.SampleConfig(30, temperature=0))
    if not isinstance(mine, torch.Tensor) or mine.shape != right.shape:
        print("not yet: return the prompt and 30 more, as a tensor (1, 50)")
    elif not torch.equal(mine, right):
        at = int((mine != right)[0].nonzero()[0])
        print(f"not yet: token {at} is another than the model's likeliest")
    elif sum(read) > 50:
        print(f"not yet: the right text, but {sum(read)} tokens read. Once each is 49")
    else:
        print(f"✓ the right text, and {sum(read)} tokens read")


# %% tags=["exercise"]
def greedy(model, ids, n):
    ...  # your code


check_greedy(greedy)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def greedy(model, ids, n):
    cache = pc.KVCache(model.config)
    for _ in range(n):
        logits = model(ids[:, cache.length :], cache=cache)[:, -1]  # (1, V)
        ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
    return ids


check_greedy(greedy)

# %% [markdown]
# ## What you can do now
#
# 1. Say what is repeated without a cache: everything, for every character.
# 2. Keep keys and values, and nothing else.
# 3. Prove it: the same logits at every position, for every length of prompt.
# 4. Name four slips: the position, the triangle's corner, the prefill's mask, what must be forgotten.
# 5. Compute a cache's memory, and say why a full window makes this one stale.
#
# Next: [lesson 12](12_speculative_decoding.ipynb) lets a small model guess, so that the large one takes fewer steps.
#
# ## Sources
#
# - Keeping keys and values: described by Pope et al. 2022, [arXiv 2211.05102](https://arxiv.org/abs/2211.05102).
# - SDPA's triangle: [PyTorch's
#   documentation](https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html).
# - Rotary positions: Su et al. 2021, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864). Fewer key heads: Shazeer 2019,
#   [arXiv 1911.02150](https://arxiv.org/abs/1911.02150).
