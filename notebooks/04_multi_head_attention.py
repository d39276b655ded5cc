# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Multi-head attention
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/04_multi_head_attention.ipynb)
#
# **You will**
# 1. write multi-head attention, with the shape on every line,
# 2. see a wrong reshape that has the right shape, and catch it,
# 3. get the same numbers from PyTorch's two attentions, whose masks mean opposite things,
# 4. know what `bias`, `add_bias_kv`, `is_causal` and `need_weights` do,
# 5. solve the riddle of the 6.71 MB that sent the log's engineer the wrong way,
# 6. check an AI's review of an attention, line by line,
# 7. look through the 24 heads of a trained model.
#
# **You need** lesson 03: one head, the mask, the probe.
#
# **Time** 35 minutes to read, half a minute to run.
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
import torch.nn.functional as F
from torch import nn

import picogpt
import picogpt_core as pc

B, T, C, nh = 2, 10, 32, 4  # rows, positions, width, heads
hs = C // nh  # 8, the size of a head
torch.manual_seed(0)
x = torch.randn(B, T, C)
visible = torch.ones(T, T, dtype=torch.bool).tril()  # (T, T): True where row t may look

# %% [markdown]
# ## Why more than one head?
#
# A head gives each position one set of weights, so it can look for one thing at a time: the character before, or the last
# line break. **Multi-head attention** runs several small heads side by side and puts their answers next to each other.
# First the slow way: a loop over heads, each with its own part of the matrices.

# %%
torch.manual_seed(0)
Wq, Wk, Wv = (torch.randn(C, C) / math.sqrt(C) for _ in range(3))  # (C, C) each
answers = []
for h in range(nh):
    part = slice(h * hs, (h + 1) * hs)  # the columns of head h
    q, k, v = x @ Wq[:, part], x @ Wk[:, part], x @ Wv[:, part]  # (B, T, hs) each
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, T, T)
    answers.append(scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ v)  # (B, T, hs)
by_loop = torch.cat(answers, dim=-1)  # nh x (B, T, hs) -> (B, T, C)

assert by_loop.shape == (B, T, C)

# %% [markdown]
# ## Heads as a reshape
#
# The loop is not needed. The columns of all heads stand side by side in one matrix already. One product makes all
# queries; then we only *look at* the C numbers as nh groups of hs. `view` does that without moving anything. `@`
# multiplies the last two axes, which must be positions and hs. So `transpose` moves the heads in front of the positions.

# %%
def split_heads(z):
    B, T, _ = z.shape
    return z.view(B, T, nh, hs).transpose(1, 2)  # (B, T, C) -> (B, T, nh, hs) -> (B, nh, T, hs)


def join_heads(z):
    B, nh, T, hs = z.shape
    return z.transpose(1, 2).reshape(B, T, nh * hs)  # (B, nh, T, hs) -> (B, T, nh, hs) -> (B, T, C)


q, k, v = split_heads(x @ Wq), split_heads(x @ Wk), split_heads(x @ Wv)  # (B, nh, T, hs) each
scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, nh, T, hs) @ (B, nh, hs, T) -> (B, nh, T, T)
weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)  # (B, nh, T, T)
by_hand = join_heads(weights @ v)  # (B, nh, T, hs) -> (B, T, C)

assert torch.allclose(by_hand, by_loop, atol=1e-5), "the reshape does what the loop did"
assert torch.equal(join_heads(split_heads(x)), x), "splitting and joining loses nothing"

# %% [markdown]
# ### The right shape, the wrong numbers
#
# `z.view(B, nh, T, hs)` gives the same shape in one step, without `transpose`. It is wrong: it cuts the numbers of one
# position into pieces and deals them out as if they were positions. No error, and training will run. Let us write each
# slip into a copy of the attention, and draw with a gradient which output depends on which input, as in lesson 03.

# %%
def attend(x, split, join):
    q, k, v = split(x @ Wq), split(x @ Wk), split(x @ Wv)  # (B, nh, T, hs) each
    return join(F.scaled_dot_product_attention(q, k, v, is_causal=True))  # (B, T, C)


def only_view(z):
    return z.view(z.shape[0], nh, z.shape[1], hs)  # the slip


def only_view_back(z):
    return z.reshape(z.shape[0], z.shape[2], C)  # the same slip on the way back


slips = {"right": (split_heads, join_heads), "slip going in": (only_view, join_heads)}
slips["slip both ways"] = (only_view, only_view_back)

# %%
def dependence(split, join):
    """(T, T): how strongly output t depends on input j."""
    def first_row(z):
        return attend(z, split, join)[0]  # (1, T, C) -> (T, C)

    J = torch.autograd.functional.jacobian(first_row, x[:1])  # (T, C, 1, T, C)
    return J[:, :, 0].norm(dim=(1, 3))  # (T, T)


tables = {name: dependence(*pair) for name, pair in slips.items()}
above = ~visible

assert (tables["right"][above] == 0).all(), "the right split lets nothing of the future in"
assert (tables["right"][visible] > 0).all(), "and depends on all of the past"
assert (tables["slip going in"][above] > 0).any(), "a slip on the way in lets the future leak"
assert (tables["slip both ways"][above] == 0).all(), "the slip both ways does not leak"
assert (tables["slip both ways"][visible] == 0).any(), "but loses a part of the past"

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (name, table) in zip(axes, tables.items()):
    ax.imshow(torch.where(table == 0, torch.nan, table), cmap="cividis", vmin=0)
    ax.plot([-0.5, T - 0.5], [-0.5, T - 0.5], color="tab:red", lw=1)
    ax.set(title=name, xlabel="input at position j", ylabel="output at position t")
plt.show()

# %% [markdown]
# White is exactly zero, bright is much. In the middle, the future leaks past the red diagonal: the probe of lesson 03 would
# shout. On the right nothing leaks, and the probe is content. But there are white holes in the past: position 9 cannot hear
# position 3. So ask both questions: *does the future stay out*, and *is all of the past heard*?
#
# ## All of it
#
# With one matrix for query, key and value together, and one more for the result, this is all of it. It is what the
# course's core does.

# %%
class MultiHeadAttention(nn.Module):
    def __init__(self, C, nh):
        super().__init__()
        self.nh = nh
        self.c_attn = nn.Linear(C, 3 * C)  # query, key, value in one product
        self.c_proj = nn.Linear(C, C)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # 3 x (B, T, C)
        q, k, v = (z.view(B, T, self.nh, -1).transpose(1, 2) for z in (q, k, v))  # (B, nh, T, hs)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, nh, T, T)
        hidden = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # (T, T)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)  # (B, nh, T, T)
        y = (weights @ v).transpose(1, 2).reshape(B, T, C)  # (B, nh, T, hs) -> (B, T, C)
        return self.c_proj(y)


# %%
torch.manual_seed(0)
mine = MultiHeadAttention(C, nh)
core = pc.CausalSelfAttention(pc.ModelConfig(n_embd=C, n_head=nh, qkv_bias=True))
core.load_state_dict(mine.state_dict())  # the names are the same

assert torch.allclose(mine(x), core(x), atol=1e-6), "the core gives the same numbers"

# %% [markdown]
# ## PyTorch has two of them
#
# `F.scaled_dot_product_attention`, **SDPA**, is the middle part: scores, mask, softmax, weighted sum, fused into one fast
# operation. It takes `is_causal=True`, or a mask in which **True means: may look**.

# %%
with torch.no_grad():
    q, k, v = (z.view(B, T, nh, hs).transpose(1, 2) for z in mine.c_attn(x).split(C, dim=2))
    by_flag = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
    by_mask = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    result = mine.c_proj(join_heads(by_flag))
    wanted = mine(x)

assert torch.allclose(by_flag, by_mask, atol=1e-6), "flag and mask agree"
assert torch.allclose(result, wanted, atol=1e-6), "SDPA is our three lines"

# %% [markdown]
# `nn.MultiheadAttention` is the whole layer, with the four matrices inside. The log says: do not use it. Is it wrong? We
# copy our weights into it. Its mask means the opposite: **True means: hidden**.

# %%
theirs = nn.MultiheadAttention(C, nh, batch_first=True)
with torch.no_grad():
    theirs.in_proj_weight.copy_(mine.c_attn.weight)  # (3C, C): query, key, value, like ours
    theirs.in_proj_bias.copy_(mine.c_attn.bias)
    theirs.out_proj.weight.copy_(mine.c_proj.weight)
    theirs.out_proj.bias.copy_(mine.c_proj.bias)
    from_theirs, their_weights = theirs(x, x, x, attn_mask=~visible)  # (B, T, C), (B, T, T)

assert torch.allclose(from_theirs, wanted, atol=1e-6), "the same, to a millionth"

# %% [markdown]
# It is not wrong. It gives the same numbers, *if it is given the mask*, in its own meaning. Now with the meaning of SDPA:

# %%
with torch.no_grad():
    inverted = theirs(x, x, x, attn_mask=visible)[0]  # True for "may look", taken as "hidden"

assert inverted[:, -1].isnan().all(), "the last position sees nothing: NaN"
assert not inverted[:, 0].isnan().any(), "the first sees only the future, and does not complain"

# %% [markdown]
# ### Its switches
#
# `is_causal=True` looks like the answer. Alone it is an error, since for this layer it is only a hint that the mask is a
# causal one:

# %%
try:
    theirs(x, x, x, is_causal=True)
except RuntimeError as error:
    print(error)

# %% [markdown]
# `need_weights` says whether to return the weights too. By default it does, and as a **mean over the heads**, which hides
# what single heads do. `average_attn_weights=False` returns each. Without weights it can take the fused operation, which
# is faster.

# %%
with torch.no_grad():
    each = theirs(x, x, x, attn_mask=~visible, average_attn_weights=False)[1]  # (B, nh, T, T)
    none = theirs(x, x, x, attn_mask=~visible, need_weights=False)[1]

assert their_weights.shape == (B, T, T) and each.shape == (B, nh, T, T) and none is None
assert torch.allclose(each.mean(dim=1), their_weights, atol=1e-6), "by default: the mean over heads"

# %% [markdown]
# `bias=True` gives the four products their biases. Lesson 07 shows which of them matter.
#
# `add_bias_kv=True` is the one of which the log says: purpose unknown. It adds no bias to anything. It appends **one more
# key and one more value**, both learned, as if a position stood at the end that everybody may look at, even under a
# causal mask. Attention must always add up to 1; here is a place to put it when nothing is of interest. Such a place is
# called an **attention sink**. We do the same by hand.

# %%
torch.manual_seed(0)
extra = nn.MultiheadAttention(C, nh, add_bias_kv=True, batch_first=True)
with torch.no_grad():
    out, w = extra(x, x, x, attn_mask=~visible)  # (B, T, C), (B, T, T + 1)
    q, k, v = F.linear(x, extra.in_proj_weight, extra.in_proj_bias).split(C, dim=2)
    k = torch.cat([k, extra.bias_k.expand(B, 1, C)], dim=1)  # (B, T + 1, C)
    v = torch.cat([v, extra.bias_v.expand(B, 1, C)], dim=1)
    sees = torch.cat([visible, torch.ones(T, 1, dtype=torch.bool)], dim=1)  # (T, T + 1)
    q, k, v = split_heads(q), split_heads(k), split_heads(v)  # (B, nh, T or T + 1, hs)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)  # (B, nh, T, hs)
    by_hand = extra.out_proj(join_heads(y))

assert torch.allclose(out, by_hand, atol=1e-6), "one more key and value, and nothing else"
assert w.shape == (B, T, T + 1) and (w[:, :, -1] > 0).all(), "everybody sees it"
more = pc.count_parameters(extra) - pc.count_parameters(theirs)
assert more == 2 * C, "one key and one value of C numbers"

# %% [markdown]
# ## The riddle of the 6.71 MB
#
# The log's engineer built his GPT on `nn.MultiheadAttention`. A tool, torchinfo, printed 2,468,161 parameters, as it
# should, and a size of 6.71 MB. At 4 bytes each it should be 9.87. He concluded that the attention *was not there*. Here
# is that model: LayerNorm after each sum, ReLU, no last LayerNorm. (Lessons 06 and 08 take such a block apart. The words
# are in lesson 00.)

# %%
class OriginalBlock(nn.Module):
    def __init__(self, C, nh):
        super().__init__()
        self.attn = nn.MultiheadAttention(C, nh, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x):
        x = self.ln_1(x + self.attn(x, x, x)[0])  # no mask: the bug
        return self.ln_2(x + self.mlp(x))


class Original(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(65, 256), nn.Embedding(256, 256)
        self.h = nn.ModuleList(OriginalBlock(256, 8) for _ in range(3))
        self.lm_head = nn.Linear(256, 65)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(x)


# %%
original = Original()
parameters = pc.count_parameters(original)
ids = torch.zeros(1, 256, dtype=torch.long)
print(f"{parameters:,} parameters, {parameters * 4 / 1e6:.2f} MB")

assert parameters == 2_468_161, "the log's number"

# %%
try:
    from torchinfo import summary  # not on Colab: pip install torchinfo

    report = summary(original, input_data=ids, verbose=0)
    print(f"torchinfo: {report.total_params:,} parameters, {report.total_param_bytes / 1e6:.2f} MB")
except ImportError:
    print("torchinfo is not installed here. It prints 2,468,161 parameters and 6.71 MB")

# %% [markdown]
# There it is, 6.71. Now the arithmetic. What if the three attentions were left out?

# %%
attention = pc.count_parameters(original.h[0].attn)
rest = parameters - 3 * attention
print(f"{parameters:,} - 3 x {attention:,} = {rest:,} parameters, {rest * 4 / 1e6:.2f} MB")

assert f"{rest * 4 / 1e6:.2f}" == "6.71"

# %% [markdown]
# Exactly the attentions. torchinfo adds up the sizes of the submodules whose `forward` it sees run.
# `nn.MultiheadAttention` does not call its submodules: it hands their weights to a function. So the size column passes
# over them, and the parameter count does not (a bug of torchinfo 1.8.0, mended later). The attention was there all along.
# One line proves it: change a weight of it, and the output moves.

# %%
with torch.no_grad():
    before = original(ids)
    original.h[0].attn.in_proj_weight.mul_(2)
    after = original(ids)

assert (before - after).abs().max() > 1e-3, "it is there, and it works"

# %% [markdown]
# The lesson: a tool's number is a reason to look, not a finding. And when a rewrite helps, ask what *else* it changed.
# The new attention had the mask.
#
# ## A review, reviewed
#
# At the end of the log, an AI reviews an AI's attention, one with a cache for generation: keys and values of the past are
# kept, and a new position is computed against them (lesson 11 builds it). We check its remarks by running them. The
# first two: the past is put in front, and the mask is an upper triangle. Both sound right. When one new position comes
# after four cached ones, there is 1 query and there are 5 keys:

# %%
hidden = torch.ones(1, 5, dtype=torch.bool).triu(1)  # (1 query, 5 keys), as the review has it
print("hidden:", hidden.int().tolist())

assert hidden.sum() == 4, "the new position sees key 0 and nothing else"
right = torch.ones(1, 5, dtype=torch.bool).triu(1 + 4)  # shifted by the 4 cached positions
assert not right.any(), "all five belong to its past and itself"

# %% [markdown]
# The triangle starts at the top left, and must be moved by the length of the past. SDPA's flag has the same trap:

# %%
q = torch.randn(1, 1, 1, 8)  # (B, nh, T=1, hs)
k, v = torch.randn(2, 1, 1, 5, 8)  # (B, nh, T=5, hs) each
flag = F.scaled_dot_product_attention(q, k, v, is_causal=True)

assert torch.allclose(flag, v[:, :, :1], atol=1e-6), "it returned the value of key 0"

# %% [markdown]
# Next remark: the call of `nn.MultiheadAttention` is right as long as the shapes are. Shapes were right above too, with NaN
# and leaks in them. Next: one call lacks the mask, and it may be needed where the length is not fixed. We ask the model
# from above, whose length is fixed:

# %%
original.eval()
ids = torch.randint(0, 65, (1, 256), generator=torch.Generator().manual_seed(0))
changed = ids.clone()
changed[0, 200:] = (changed[0, 200:] + 1) % 65
with torch.no_grad():
    moved = (original(ids) - original(changed)).abs().amax(dim=-1)[0]  # (T,)

assert (moved[:200] > 0).all(), "a fixed length, and every position depends on the future"

# %% [markdown]
# | the review's remark | holds? |
# |---|---|
# | query, key and value come from the same input | yes: that is self-attention |
# | the past is concatenated along the positions | yes, but as inputs: `nn.MultiheadAttention` makes their keys anew |
# | an upper triangle as mask, if none is given | only without a past: it must be moved by the past's length |
# | the call is correct if the shapes are | no: a mask turned round or missing has the right shape too |
# | the mask may be needed if the length is not fixed | no: it is needed always. This was the bug |
# | the cache must be passed on through each call | yes, and so must the position: the past's length, not 0 (lesson 11) |
# | print the shapes to debug | shapes are not the question: the probe is |
#
# Three of seven. A review that reads well is no test.
#
# ## What do 24 heads look at?
#
# PicoGPT, trained, on a piece of text it has not learned from. All heads at once, the brighter
# the more weight:

# %% tags=["setup"]
shipped = picogpt.load_shipped("picogpt").model
corpus = picogpt.load_corpus()
piece = corpus.val[None, 4115:4179]  # (1, T=64)
layers = pc.attention_weights(shipped, piece)  # 3 x (1, nh=8, T, T)
fig, axes = plt.subplots(3, 8, figsize=(11, 4.6), layout="constrained")
for layer in range(3):
    for head in range(8):
        axes[layer, head].imshow(layers[layer][0, head].sqrt(), cmap="cividis", vmin=0, vmax=1)
        axes[layer, head].set(xticks=[], yticks=[])
        axes[layer, head].set_title(f"layer {layer}, head {head}", fontsize=8)
fig.supxlabel("looks at position j")
fig.supylabel("position t")
plt.show()

# %% [markdown]
# They differ. To say how, we do not trust the eye: we define what a head could do, and measure it over 64 windows of 64
# characters.

# %%
windows = corpus.val[: 64 * 64].view(64, 64)  # (B=64, T=64)
heads = torch.cat(pc.attention_weights(shipped, windows), dim=1)  # (B, 24, T, T)
back = torch.arange(64)[:, None] - torch.arange(64)  # (T, T): how far back j lies from t
blank = torch.isin(windows, torch.tensor(corpus.tokenizer.encode(" \n")))  # (B, T)
places = {
    "the character before": (back == 1)[None],
    "two before": (back == 2)[None],
    "three before": (back == 3)[None],
    "itself": (back == 0)[None],
    "more than 8 back": (back > 8)[None],
    "spaces and line ends": blank[:, None, :],
    "the same character, earlier": (windows[:, :, None] == windows[:, None, :]) & (back > 0),
}
shares = {what: (heads * where[:, None]).sum(-1).mean(dim=(0, 2)) for what, where in places.items()}

# %%
even = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]  # (T, T): equal weights on the past
for what, share in shares.items():
    best = int(share.argmax())
    chance = (even * places[what]).sum(-1).mean().item()
    where = f"layer {best // 8}, head {best % 8}"
    print(f"{what:28} {where}: {share[best]:4.0%}   (equal weights: {chance:3.0%})")

# %%
part = piece[:, :24]
now = torch.cat(pc.attention_weights(shipped, part), dim=1)[0]  # (24, T=24, T)
fig, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
three = "the character before", "spaces and line ends", "the same character, earlier"
for ax, what in zip(axes, three):
    best = int(shares[what].argmax())
    picogpt.plot_attention(ax, now[best], corpus.tokenizer.decode(part[0]))
    ax.set_title(f"most on {what}:\nlayer {best // 8}, head {best % 8}", fontsize=10)
plt.show()

# %% [markdown]
# Some heads have a plain job: in layer 0, three look at the character before, two before and three before. No head looks
# further back than equal weights would. Others spread their weight, and a name for what they do would be a guess. Beware of
# such names: a head can look somewhere and make no use of what it finds. To know whether it matters, switch it off and
# measure. Exercise 3 does that.
#
# ## Your turn
#
# ### 1. Split the heads
#
# Write `split(z, nh)`: (B, T, C) to (B, nh, T, C / nh), so that head h gets the h-th group of the C numbers of each
# position.

# %% tags=["check"]
def check_split(split):
    z = torch.arange(2 * 3 * 8).view(2, 3, 8)  # (B=2, T=3, C=8): each number another
    right = z.view(2, 3, 4, 2).transpose(1, 2)  # (B, nh=4, T, hs=2)
    try:
        mine = split(z, 4)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    if not isinstance(mine, torch.Tensor):
        print(f"not yet: it returned {type(mine).__name__}")
    elif mine.shape != right.shape:
        print(f"not yet: shape {tuple(mine.shape)}, wanted (B, nh, T, hs) = {tuple(right.shape)}")
    elif torch.equal(mine, z.view(2, 4, 3, 2)):
        print("not yet: the right shape, but mixed: view to (B, T, nh, hs) first")
    elif not torch.equal(mine, right):
        print("not yet: other numbers: head 0 must hold the first hs of each position")
    else:
        print("✓ heads apart, positions intact")


# %% tags=["exercise"]
def split(z, nh):
    ...  # your code


check_split(split)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def split(z, nh):
    B, T, C = z.shape
    return z.view(B, T, nh, C // nh).transpose(1, 2)  # (B, nh, T, hs)


check_split(split)

# %% [markdown]
# ### 2. The mask with a past
#
# Write `may_look(new, past)`: (new, past + new) booleans, True where a new position may look, when `past` positions are
# cached before it.

# %% tags=["check"]
def check_may_look(make):
    for new, past in ((1, 4), (3, 0), (2, 3)):
        right = torch.ones(new, past + new, dtype=torch.bool).tril(past)
        try:
            mine = make(new, past)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if not isinstance(mine, torch.Tensor) or mine.shape != right.shape:
            shape = tuple(right.shape)
            print(f"not yet: for new={new}, past={past} it must be a tensor of shape {shape}")
        elif mine.dtype != torch.bool:
            print("not yet: give booleans. SDPA would add other numbers to the scores")
        elif torch.equal(mine, torch.ones_like(right).tril()) and past:
            print("not yet: the triangle starts at the top left: move it by the past's length")
        elif torch.equal(mine, ~right):
            print("not yet: inverted: True must mean: may look")
        elif not torch.equal(mine, right):
            print(f"not yet: for new={new}, past={past}, row 0 must see {past + 1} positions")
        else:
            continue
        return
    print("✓ right with a past and without")


# %% tags=["exercise"]
def may_look(new, past):
    ...  # your code


check_may_look(may_look)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def may_look(new, past):
    return torch.ones(new, past + new, dtype=torch.bool).tril(past)


check_may_look(may_look)

# %% [markdown]
# ### 3. Which head matters?
#
# The heads' answers stand side by side before `c_proj`. So the columns of `c_proj.weight` (C, C) that belong to head h,
# hs of them, carry all that it says. Write `silence(model, layer, head)`, which sets them to 0. The check then measures
# the loss with each head of the first layer silenced.

# %% tags=["check"]
def check_silence(silence):
    some, whole, losses = corpus.val[:2_500], picogpt.load_shipped("picogpt").model, []
    before = pc.evaluate(whole, some)
    for layer, head in [(2, 5), *((0, head) for head in range(8))]:
        model = picogpt.load_shipped("picogpt").model
        try:
            with torch.no_grad():
                silence(model, layer, head)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        old, new = (m.h[layer].attn.c_proj.weight for m in (whole, model))  # (C, C) each
        columns, first = (new != old).any(dim=0).nonzero()[:, 0].tolist(), head * 32
        if columns != list(range(first, first + 32)) or new[:, columns].any():
            print(f"not yet: head {head} has columns {first} to {first + 31}: set only these to 0")
            return
        losses.append(pc.evaluate(model, some) - before)
    more = ", ".join(f"{head}: {loss:+.2f}" for head, loss in enumerate(losses[1:]))
    print(f"✓ what the loss (nats per character) gains without head {more}")


# %% tags=["exercise"]
def silence(model, layer, head):
    ...  # your code


check_silence(silence)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def silence(model, layer, head):
    model.h[layer].attn.c_proj.weight[:, head * 32 : (head + 1) * 32] = 0


check_silence(silence)

# %% [markdown]
# ## What you can do now
#
# 1. Write multi-head attention: one product, `view`, `transpose`, scores, mask, softmax, `transpose`, `reshape`, one
#    product.
# 2. Catch a reshape that mixes heads and positions: ask for leaks, and for holes.
# 3. Use SDPA (True: may look) and `nn.MultiheadAttention` (True: hidden), and get the same numbers.
# 4. Explain `add_bias_kv`: a learned key and value that everybody sees. `is_causal` alone is an error, `need_weights` gives
#    a mean over the heads, and `bias` waits for lesson 07.
# 5. Tell a tool's number from a finding: 6.71 MB was torchinfo's.
# 6. Check a review by running its claims.
# 7. Measure what a head looks at, and whether it matters.
#
# Next: [lesson 06](06_layernorm_placement.ipynb) asks where the LayerNorms should stand.
#
# ## Sources
#
# - Multi-head attention: Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762).
# - PyTorch's documentation:
#   [scaled_dot_product_attention](https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html),
#   [MultiheadAttention](https://pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html).
# - Attention sinks: Xiao et al. 2023, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453).
# - The size column: [TylerYep/torchinfo #366](https://github.com/TylerYep/torchinfo/issues/366).
# - Heads that can be taken away: Michel, Levy and Neubig 2019, [arXiv 1905.10650](https://arxiv.org/abs/1905.10650).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
