# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · The whole GPT
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/05_the_whole_gpt.ipynb)
#
# **You will**
# 1. see what attention alone cannot do, and add the part that can: the MLP,
# 2. stack blocks, watch the gradient vanish on its way down, and let residual connections carry it,
# 3. normalise a vector by hand, and say what LayerNorm is for,
# 4. assemble a GPT, your own, and get the logits of the course's GPT out of it, digit for digit,
# 5. train it with a loop of ten lines, and read what it writes on the way.
#
# **You need** lessons 03 and 04: attention, and its heads.
#
# **Time** 45 minutes to read, half a minute to run. Words you do not know are in the [glossary](../docs/glossary.md).
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

# %% tags=["setup"]
import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()

# %% [markdown]
# We have a table of pairs, we have positions, and we have heads that look back. Is that a GPT yet? Let the numbers
# answer. The course has grown a model part by part and trained it anew after each, always for the same 400 steps,
# from two kinds of initial weights: *Xavier's*, as large as keeps numbers at one scale on their way through a layer,
# and *GPT-2's*, several times smaller. Here is where the validation loss ends.

# %%
stages = ["bigram", "+ positions", "+ one head", "+ 8 heads", "+ MLP"]
stages += ["+ residual and LayerNorm", "+ depth"]
ends = {}
for weights, file in (("Xavier's", "growth"), ("GPT-2's", "growth_gpt2")):
    rows = picogpt.load_rows(picogpt.DATA / "runs" / f"{file}.csv")
    for stage in stages:
        ends[weights, stage] = [row for row in rows if row["variant"] == stage and row["sample"]]
means = {key: sum(row["val_loss"] for row in rows) / len(rows) for key, rows in ends.items()}

# %%
fig, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
for weights, colour in (("Xavier's", draw.INK), ("GPT-2's", draw.WARM)):
    ax.plot([means[weights, stage] for stage in stages], stages, "-", color=colour, lw=1, alpha=0.5)
    for stage in stages:
        dots = [row["val_loss"] for row in ends[weights, stage]]
        ax.plot(dots, [stage] * len(dots), "o", color=colour, alpha=0.6)
    ax.plot([], [], "o-", color=colour, label=f"from {weights} weights")
for name, bar in picogpt.study.NGRAM_LOSSES.items():
    ax.axvline(bar, ls="--", lw=1, color="grey")
    ax.text(bar, 6.3, f"{name} ", rotation=90, ha="right", va="bottom", fontsize=9, color="dimgrey")
ax.invert_yaxis()
ax.set(xlabel="validation loss (nats per character), a dot for each seed", xlim=(1.5, 2.65))
ax.grid(alpha=0.3, axis="x")
ax.legend()
plt.show()

# %% [markdown]
# Do not worry about the names yet; read the dark line from the top. Positions alone bring nothing, they even cost a
# little. One head brings a little, eight heads bring three tenths of a nat, and an MLP behind them another two
# tenths. Residual connections and LayerNorm bring nothing yet to a single block, and two more blocks do.
#
# The orange line tells another story. From GPT-2's small weights, heads and MLP alone are worse than the bigram. But
# as soon as residual connections and LayerNorm are there, it is far ahead, because such small weights were made for
# exactly this. So where a model starts from decides what an added part is worth, and lesson 06 will make much of
# that. (The two come as a package here; this picture cannot tell which of them does it.) The last model is the one
# that this course is named after. After 400 steps it is still a tenth of a nat above the best n-gram table of lesson
# 02.
#
# So this lesson is about the lower half of the picture: an MLP, residual connections, LayerNorm, and depth. None of
# them lets a position see anything new. What they do is make something of what the heads have fetched, and make it
# possible to do so many times over.
#
# ## What attention cannot do
#
# A head makes one kind of decision: where to look. On what it has fetched, it cannot decide. Once the weights are
# settled, all that is left is a weighted mean of values, and a value is a matrix times a vector. Suppose one number
# of such a vector says "I am in a name", another says "a line has just ended", and the answer should be *yes* when
# exactly one of the two holds. No weighted sum of the two numbers can say that, whatever its weights, and a sum of
# sums is only another sum. Let us try.

# %%
two = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # (4, 2): all cases
answers = torch.tensor([0.0, 1.0, 1.0, 0.0])[:, None]  # (4, 1): yes if exactly one holds
torch.manual_seed(0)
sums = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 1))
bent = nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 1))

# %%
for name, net in (("sums of sums", sums), ("with a bend in between", bent)):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(300):
        loss = F.binary_cross_entropy_with_logits(net(two), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name:23} loss {loss.item():.3f}")

# %% [markdown]
# The first stops at ln 2 = 0.693, the loss of a coin. The second solves it. So it takes something between the sums
# that is not a straight line.

# %%
x = torch.linspace(-4, 4, 200)  # (200,)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3), layout="constrained", sharey=True)
for ax, (name, function) in zip(axes, (("ReLU", F.relu), ("GELU", F.gelu))):
    ax.plot(x, function(x), color=draw.WARM, lw=2.5)
    ax.plot(x, x, color="grey", lw=1, ls=":")
    ax.set(title=name, xlabel="number that goes in", ylim=(-1, 4))
    ax.grid(alpha=0.3)
axes[0].set_ylabel("number that comes out")
plt.show()

# %%
inputs = [-2.0, -0.5, 0.0, 0.5, 2.0]
for name, function in (("ReLU", F.relu), ("GELU", F.gelu)):
    print(
        name,
        "  ".join(f"{a:+.1f} -> {b:+.2f}" for a, b in zip(inputs, function(torch.tensor(inputs)))),
    )

# %% [markdown]
# Both functions let positive numbers pass (the dotted line is "out equals in") and hold back negative ones. **ReLU**
# does it with a sharp corner and sets everything below 0 to exactly 0. **GELU** rounds the corner off: it multiplies
# each number by the chance that a normally distributed random number is smaller. A slightly negative number still
# gets through a little, and comes out slightly negative itself, most of all near −0.75. So there is no hard border
# at which a number stops having any influence. GPT-2 uses GELU; the lecture model that this course compares with
# uses ReLU. What the choice is worth is measured in lesson 08.
#
# Such a function between two linear layers makes a **multi-layer perceptron**, MLP for short. In a GPT the first
# layer widens the vector to four times its length, and the second brings it back.

# %%
torch.manual_seed(0)
C = 4
expand, project = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
x = torch.tensor([[0.5, -1.0, 2.0, 0.1]])  # (1, C=4): one position
hidden = expand(x)  # (1, 4) -> (1, 16)
active = F.gelu(hidden)  # (1, 16)
y = project(active)  # (1, 16) -> (1, 4)

# %%
fig, axes = plt.subplots(4, 1, figsize=(7.4, 4.2), layout="constrained")
rows = [
    ("in: 4 numbers", x),
    ("widened to 16", hidden),
    ("after GELU: negative ones are held back", active),
    ("out: 4", y),
]
for ax, (title, numbers) in zip(axes, rows):
    draw.grid(ax, numbers.detach(), [""], [""] * numbers.shape[1], title, digits=1)
plt.show()

# %% [markdown]
# You can read each of the 16 numbers in the middle as a small question that the first layer asks of the vector ("are
# you a vowel after a consonant?"), and GELU lets those questions speak that were answered with yes. The second layer
# then writes something for each yes. In real models one finds such questions, though most are less tidy than this.
#
# Notice what is missing: nothing here knows about other positions. The MLP sees one position at a time, so if the
# positions change places, its answers change places with them and are otherwise the same.

# %%
mlp = pc.MLP(pc.ModelConfig(n_embd=32, n_head=4))
batch, order = torch.randn(1, 6, 32), torch.tensor([5, 2, 0, 3, 1, 4])  # (B=1, T=6, C=32)
difference = (mlp(batch)[:, order] - mlp(batch[:, order])).abs().max()
print(f"MLP of shuffled positions against shuffled MLP: largest difference {difference:.5f}")
print(f"{pc.count_parameters(mlp):,} parameters here; attention of this width has", end=" ")
print(f"{pc.count_parameters(pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=4))):,}")

# %% [markdown]
# So there is a division of labour. Attention moves things between positions and is (the softmax aside) linear in
# what it moves. The MLP does the thinking, alone, at each position, and it holds two thirds of a block's parameters.
#
# ## Many blocks, and a way through
#
# One look back and one thought are not enough for much. A head in a second layer can look for what the first layer
# has found, and so on. So we stack them: attention, MLP, attention, MLP, … Does it train? The question to ask of a
# deep network is whether the gradient, which starts at the loss, arrives at the first layer. Let us measure it, on
# twelve layers that were never trained. The second model differs in one plus sign: each part *adds* its output to
# what came in.

# %%
def layers(plus, depth=12, C=64, T=32):
    """How far apart positions are behind each layer, and the norm of the gradient there."""
    torch.manual_seed(0)
    config = pc.ModelConfig(n_embd=C, n_head=4, block_size=T)
    parts = [(pc.CausalSelfAttention(config), pc.MLP(config)) for _ in range(depth)]
    x, streams = torch.randn(1, T, C, requires_grad=True), []  # (B=1, T, C)
    for attention, mlp in parts:
        x = x + attention(x) if plus else attention(x)
        x = x + mlp(x) if plus else mlp(x)
        x.retain_grad()  # keep the gradient that arrives here
        streams.append(x)
    F.mse_loss(x, torch.randn(1, T, C)).backward()
    apart = [x.std(dim=1).mean().item() for x in streams]  # (1, T, C): how far positions lie apart
    return apart, [x.grad.norm().item() for x in streams]


# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), layout="constrained")
for plus, label, colour in (
    (False, "without residual connections", draw.INK),
    (True, "with", draw.WARM),
):
    spread, gradient = layers(plus)
    axes[0].semilogy(range(1, 13), spread, "o-", color=colour, label=label)
    axes[1].semilogy(range(1, 13), gradient, "o-", color=colour, label=label)
    print(f"{label:29} gradient at layer 1: {gradient[0]:.0e}, at layer 12: {gradient[-1]:.0e}")
axes[0].set(title="what is left of the input", ylabel="std across positions", xlabel="layer")
axes[1].set(title="what arrives on the way back", ylabel="gradient norm", xlabel="layer")
axes[0].legend()
plt.show()

# %% [markdown]
# Look at the right picture first. Without the plus sign, the gradient loses a factor of about twenty at every layer
# on its way down, and at layer 1 practically nothing of it is left: the first layers of such a model do not learn.
# The left picture shows the same failure on the way forward. It measures how far the positions lie apart, and after
# a few layers they cannot be told apart any more: what went in at the bottom has been multiplied away. With the plus
# sign the positions stay apart, and the gradient arrives at every layer within a factor of about five.
#
# (These are PyTorch's own initial weights, random vectors as input, a random target, one seed, and no LayerNorm yet.
# One can rescue a plain stack, to some extent, by choosing its first weights for just this depth. The plus sign
# makes that unnecessary.)
#
# This plus sign is a **residual connection**, and it is the least conspicuous and most important idea in the whole
# stack (He et al. 2015 found it for images). With it, no part has to pass on what it does not understand. The vector
# at each position runs through the model like a river, the **residual stream**; every attention and every MLP reads
# it and adds its contribution. A part that has nothing to say adds something close to zero, and the gradient always
# finds the direct way down along the plus signs.
#
# ## LayerNorm: the same scale for everyone
#
# A stream that is added to tends to grow, and that raises another problem. Behind many additions the numbers are
# larger than at the start, and those of one position may be much larger than those of another, while every part
# wants to read numbers of a reliable size. **LayerNorm** provides them. It takes the vector of one position,
# subtracts its mean and divides by its standard deviation.

# %%
vector = torch.tensor([2.0, 4.0, 6.0, 8.0])  # (C=4,): one position

# %%
mean, deviation = vector.mean(), vector.std(correction=0)
by_hand = (vector - mean) / deviation
print(f"mean {mean:.1f}, standard deviation {deviation:.3f}")

# %%
for name, v in (("as it is", vector), ("ten times", 10 * vector), ("plus 100", vector + 100)):
    print(
        f"{name:10} {v.tolist()}  ->  ",
        "  ".join(f"{number:+.3f}" for number in F.layer_norm(v, (4,))),
    )

# %%
assert torch.allclose(by_hand, F.layer_norm(vector, (4,)), atol=1e-5), (
    "PyTorch's does what we did by hand"
)

# %% [markdown]
# The three vectors differ by a factor of ten and a shift of a hundred, and behind the LayerNorm nobody can tell.
# That is its purpose: whatever piles up in the stream, each part reads the *pattern* of the vector and not its size.
# Two learned vectors of C numbers, a scale and a shift, are applied afterwards, so that a model which needs another
# size can have it. They start as ones and zeros.
#
# Where should it stand? In GPT-2, and in PicoGPT, before each part, *inside* the branch, so that the stream itself
# is never touched, and once more at the very end. The original Transformer put it after the sum. Which is better is
# a question with a long history, and lesson 06 is about it.

# %%
fig, ax = plt.subplots(figsize=(7.4, 2.4), layout="constrained")
places = {"in": (0, 0), "LayerNorm ": (1.3, 1), "attention": (3.2, 1), "+": (4.4, 0)}
places |= {" LayerNorm": (5.7, 1), "MLP": (7.3, 1), " + ": (8.3, 0), "out": (9.6, 0)}
arrows = [
    ("in", "+"),
    ("in", "LayerNorm "),
    ("LayerNorm ", "attention"),
    ("attention", "+"),
    ("+", " + "),
]
arrows += [("+", " LayerNorm"), (" LayerNorm", "MLP"), ("MLP", " + "), (" + ", "out")]
draw.boxes(ax, places, arrows, here=["+", " + "])
ax.set_title("one block", fontsize=12)
plt.show()

# %% [markdown]
# The lower line is the stream, and nothing stands in its way. The two detours above it are the branches. Follow a
# gradient backwards from *out*: at each plus sign it is copied. The whole of it goes straight on, the same whole
# goes through the branch, and where the two meet again they add up.
#
# ## From the last vector to a character
#
# Twelve blocks or three, in the end there is a vector of C numbers at each position, and we need a score for each of
# the V = 65 characters. One more linear layer does it, the **head** (not to be confused with a head of attention).
#
# When the model trains, it answers at all T positions at once, T predictions for the price of one pass. When it
# writes, only the last position matters, so the others need not go through the head. In nanoGPT, and here, you will
# meet a piece of notation that looks like a typing error.

# %%
x = torch.randn(2, 5, 4)  # (B=2, T=5, C=4)
print("x[:, -1, :]  ", tuple(x[:, -1, :].shape), "the axis of positions is gone")
print("x[:, [-1], :]", tuple(x[:, [-1], :].shape), "a list of one position: the axis stays")

# %% [markdown]
# With the list, the result still has the three axes (B, T, C), with T = 1, so that whatever follows can be written
# for three axes. The core's `last_only=True` does this; the short `write` below takes the plain way.
#
# ## Assemble it
#
# That is every part there is. It is time to put them together, and you will do it. The parts are given, with the
# names that they have in GPT-2; what is missing is how data flows through them, eight lines in all.
#
# ### Exercise 1 · Write the two `forward` methods
#
# `Block.forward` takes the stream x (B, T, C) and returns it with both contributions added, as in the drawing.
# `MyGPT.forward` takes ids (B, T) and returns logits (B, T, V): look up the embeddings, add those of the positions,
# pass through the blocks, normalise once more, apply the head. The check copies the weights of the course's GPT into
# yours and compares.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The parts (run this cell)
class Parts(nn.Module):
    """What a block consists of."""

    def __init__(self, config):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd), pc.CausalSelfAttention(config)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd), pc.MLP(config)


class Whole(nn.Module):
    """What a GPT consists of."""

    def __init__(self, config, block):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # a vector for each token
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # a vector for each position
        self.h = nn.ModuleList(block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
SLIPS = {  # what is missing, by hint
    "the positions are missing: add wpe(0, 1, …, T − 1) to the embeddings": ["wpe"],
    "the last LayerNorm, ln_f, is missing before the head": ["ln_f"],
    "ln_1 is missing: attention reads the stream as it is": ["h.0.ln_1", "h.1.ln_1"],
    "ln_2 is missing: the MLP reads the stream as it is": ["h.0.ln_2", "h.1.ln_2"],
    "only the first block is used": ["h.1"],
    "the attention's contribution is missing": ["h.0.attn", "h.1.attn"],
    "the MLP's contribution is missing": ["h.0.mlp", "h.1.mlp"],
}


def logits_without(core, ids, names):
    """Those of the core when some parts pass on what they get, or add nothing. (B, T, V)"""
    passes = names[0].endswith(("ln_1", "ln_2", "ln_f", "h.1"))

    def instead(module, args, output):
        return args[0] if passes else torch.zeros_like(output)

    hooks = [core.get_submodule(name).register_forward_hook(instead) for name in names]
    logits = core(ids)
    for hook in hooks:
        hook.remove()
    return logits


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
WIRED = {  # all parts are there, but the data flows another way, by hint
    "the LayerNorms stand behind the additions (Post-LN), not before attention and MLP": (
        lambda b, x: b.ln_2((h := b.ln_1(x + b.attn(x))) + b.mlp(h))
    ),
    "attention and MLP read the same stream: the MLP must read what attention has added to": (
        lambda b, x: x + b.attn(b.ln_1(x)) + b.mlp(b.ln_2(x))
    ),
    "nothing is added to the stream: x = x + …, twice": (
        lambda b, x: b.mlp(b.ln_2(b.attn(b.ln_1(x))))
    ),
    "the MLP comes before attention": lambda b, x: (h := x + b.mlp(b.ln_2(x))) + b.attn(b.ln_1(h)),
}


def logits_wired(core, ids, wiring):
    """Those of the core's parts when the data flows through its blocks another way. (B, T, V)"""
    x = core.wte(ids) + core.wpe(torch.arange(ids.shape[1]))  # (B, T, C) + (T, C)
    for block in core.h:
        x = wiring(block, x)
    return core.lm_head(core.ln_f(x))


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def logits_of(block, gpt, core, ids):
    """What your GPT answers with the weights of the course's, or None after saying why nothing."""
    try:
        yours = gpt(core.config, block)
        yours.load_state_dict(core.state_dict())
        with torch.no_grad():
            answer = yours.eval()(ids)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return None
    shape, wanted = tuple(getattr(answer, "shape", ())), (*ids.shape, 65)
    if shape != wanted:
        print(f"not yet: logits of the shape {shape}, wanted (B, T, V) = {wanted}")
        return None
    return answer


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4 (run this cell)
@torch.no_grad()
def difference_at(block, gpt, layers, T):
    """Says in words how your logits differ from those of one core. None if there are none"""
    torch.manual_seed(0)
    config = pc.ModelConfig(n_layer=layers, n_head=2, n_embd=16, block_size=12)
    core, ids = pc.GPT(config).eval(), torch.randint(65, (2, T))  # (B=2, T)
    for parameter in core.parameters():  # larger weights than the initial ones: a slip shows
        parameter.add_(0.3 * torch.randn_like(parameter))
    if (answer := logits_of(block, gpt, core, ids)) is None:
        return None
    off = (answer - core(ids)).abs().max().item()
    without = {words: logits_without(core, ids, names) for words, names in SLIPS.items()}
    without |= {words: logits_wired(core, ids, wiring) for words, wiring in WIRED.items()}
    without["these are probabilities: leave the softmax out"] = core(ids).softmax(dim=-1)
    found = [w for w, logits in without.items() if torch.allclose(answer, logits, atol=1e-4)]
    if off > 1e-4:
        much = f"the logits differ by up to {off:.1f}. Compare with the drawing once more"
        print(f"not yet: {found[0] if found else much}")
    return off


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 5 (run this cell)
def check_gpt(block, gpt):
    """True if your logits are those of the course's GPT, for two sizes; says what is off."""
    for layers, T in ((2, 10), (3, 7)):
        off = difference_at(block, gpt, layers, T)
        if off is None or off > 1e-4:
            return False
    print(f"✓ your GPT, at two sizes: largest difference from the course's {off:.5f}")
    return True


# %% tags=["exercise"]
class Block(Parts):  # has self.ln_1, self.attn, self.ln_2, self.mlp
    def forward(self, x):  # (B, T, C) -> (B, T, C)
        ...  # your code


class MyGPT(Whole):  # has self.wte, self.wpe, self.h (the blocks), self.ln_f, self.lm_head
    def forward(self, ids):  # (B, T) -> (B, T, V)
        ...  # your code


right = check_gpt(Block, MyGPT)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution (the rest of the lesson uses it)
class Block(Parts):
    def forward(self, x):  # (B, T, C) -> (B, T, C)
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class MyGPT(Whole):
    def forward(self, ids):  # (B, T) -> (B, T, V)
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))  # (B, T, C) + (T, C)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))  # (B, T, V)


right = check_gpt(Block, MyGPT)

# %% [markdown]
# Equal logits for equal weights: what you wrote *is* the course's GPT, and with GPT-2's sizes and vocabulary, a GELU
# approximation, biases in the right places and the token table used again as the head, it would be GPT-2, as lesson
# 14 will show with the real weights.
#
# <details><summary>Before you go on: your model has no mask anywhere in its code. Is it causal?</summary>
#
# Yes, because the mask lives in the attention, and nothing else in a GPT lets one position see another. The MLP, the
# LayerNorms and the head all work on each position by itself. That is why a single forgotten line in the attention
# decides it for the whole model, and why the probe of lesson 03, which looks at the whole model from outside, is
# enough to test it.
# </details>

# %%
config = pc.ModelConfig(n_layer=2, n_head=4, n_embd=64, block_size=64)
torch.manual_seed(0)
net = MyGPT(config, Block) if right else pc.GPT(config)  # the course's, if yours is not finished
moved = pc.moved_by_the_future(net, corpus.val[None, :64], position=40)
print(f"{int((moved[:40] > 0).sum())} of 40 earlier positions depend on the future")
print(f"{pc.count_parameters(net):,} parameters")

# %% [markdown]
# ## Train it, in ten lines
#
# A training step asks one question: in which direction should each parameter move, so that the loss on this batch
# falls? The gradient answers it, for all parameters at once. What is left is to decide how far to go, and that is
# the optimizer's business. We use **AdamW**, the one that most GPTs are trained with. For each parameter, it keeps a
# running mean of the last gradients, so as not to follow every whim of a single batch (the *momentum*), and the
# typical size of those gradients, and it divides the one by the other. As a result no parameter moves by much more
# than the learning rate in a step, whether its gradients are large or small. Where they agree from batch to batch it
# moves nearly that far, and where they contradict each other, a fraction of it. (The division has a floor of 1e-8,
# so gradients like those at the bottom of the plain stack still count as nothing.) The W stands for weight decay:
# each step also shrinks the weights a little.
#
# All of that is one line. Here is the whole loop, with a line for what it writes on the way.

# %%
def write(net, prompt="\n", n=60):
    """Draw n characters, one after the other, from what the model predicts."""
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])  # (B=1, T)
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        probs = net(ids[:, -64:])[:, -1, :].softmax(dim=1)  # (1, T, V) -> (1, V): what comes next
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], dim=1)
    return corpus.tokenizer.decode(ids[0, len(prompt) :]).replace("\n", " / ")


# %%
steps, seen = picogpt.budget(smoke=3, quick=400, full=3000), []
windows, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(net.parameters(), lr=3e-3)

# %% tags=["nbval-ignore-output"]
for step in range(steps + 1):
    x, y = pc.get_batch(corpus.train, 16, 64, windows)  # (B=16, T=64) each: y comes one later
    loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())  # (B·T, V) and (B·T,)
    if step in (0, 20, 60, 150, steps):
        print(f"step {step:4}  loss {loss.item():.2f}  {write(net)}")
    optimizer.zero_grad()  # or this step's gradients would be added to the last one's
    loss.backward()  # how the loss depends on every parameter
    optimizer.step()  # move them all a little
    seen.append(loss.item())

# %% tags=["nbval-ignore-output"]
print(f"on the validation text: {pc.evaluate(net, corpus.val):.2f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(seen, color=draw.INK, lw=1)
ax.axhline(math.log(65), color=draw.WARM, ls=":")
ax.text(len(seen), math.log(65), "knows nothing: ln 65", ha="right", va="bottom", color=draw.WARM)
picogpt.plot_ngrams(ax)
ax.set(
    xlabel="step", ylabel="training loss (nats per character)", ylim=(1.4, None), title="your GPT"
)
plt.show()

# %% [markdown]
# Yours started from PyTorch's own initial weights, by the way, a third kind. The first loss lies a little above ln
# 65 = 4.17, as it should for a model that knows nothing and is slightly and randomly wrong about it. Then the curve
# falls steeply for a hundred steps, to the bigram's line. Everything up to there can be learned from one character:
# which letters are frequent, and which follow each other. Look at the text at step 150: it has spaces, line breaks
# and colons in plausible places. Only after that does the model begin to use what its heads can fetch, and learning
# gets slow. It is far from the lower lines yet. A larger model, more steps and a better optimizer will take it
# there, which is what lesson 09 is about.
#
# The number printed after the training is the loss on the validation text, which the model never saw. It lies about
# where the training loss ends, and that is no surprise: 400 steps of 16 windows of 64 characters are 409,600
# characters, less than half of the text, once. Nothing was read often enough to be learned by heart.
#
# ## The model so far
#
# In the beginning of this lesson you saw the losses. Here is what the same models write, all of them after 400
# steps, from the same random numbers, and each from the initial weights with which it did better. The first two
# lines agree because their predictions nearly do.

# %%
for stage in stages:
    weights = min(("Xavier's", "GPT-2's"), key=lambda name: means[name, stage])
    sample = ends[weights, stage][0]["sample"]
    print(f"{stage:25} {means[weights, stage]:.3f}   {sample[:66]}")

# %%
chain = picogpt.load_rows(picogpt.DATA / "runs" / "growth.csv")
chain = [
    row["val_loss"] for row in chain if row["variant"].startswith("depth without") and row["sample"]
]
print(f"\ndepth without residual and LayerNorm: {sum(chain) / len(chain):.3f}")

# %% [markdown]
# Nobody would mistake the last line for Shakespeare, but compare it with the first. And look at the number below the
# table. It belongs to a model that no stage of the table has: three blocks, one after the other, *without* residual
# connections and LayerNorm. It ends worse than a single such block (*+ MLP*), in each of three seeds. In this
# training, depth without a way through did harm.
#
# ## Exercises
#
# ### 2. Count it
#
# Write `count(C, V, T, L)`, the number of parameters of a PicoGPT of width C, with V tokens, a block size of T and L
# blocks. Attention has no biases for query, key and value; all other linear layers have them, the head too.
#
# <details><summary>A hint</summary>
#
# A linear layer from n to m numbers has n·m weights and m biases, a LayerNorm 2C. A block has two LayerNorms, the
# matrices 3C × C and C × C, and an MLP that goes from C to 4C and back.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def hint_for_block(off, C=256):
    """What is wrong with the count of a block that is off by this many."""
    slips = {
        3 * C: "the biases of query, key and value are counted, which PicoGPT does not have",
        -C: "a bias of C numbers is missing in each block: that of a c_proj",
        -4 * C: "the MLP's first bias, of 4C numbers, is missing in each block",
        -6 * C: "all biases of the block's linear layers are missing",
        -2 * C: "one LayerNorm is missing in each block, or two biases",
        -5 * C: "the biases of the MLP are missing",
    }
    return slips.get(off, "Go through its parts once more")


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def hint_for_rest(off, C=256):
    """What is wrong with a whole count whose blocks are right and that is off by this many."""
    slips = {-2 * C: "the last LayerNorm", -65: "the bias of the head"}
    slips[-256 * C] = "the embeddings of the positions"
    return f"{slips[off]} is missing" if off in slips else f"what is around them is off by {off:,}"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_count(count):
    try:
        three, four, other = count(256, 65, 256, 3), count(256, 65, 256, 4), count(64, 100, 32, 2)
        block, three, other = int(four - three), int(three), int(other)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    wanted = 2 * (12 * 64**2 + 10 * 64) + 100 * 64 + 32 * 64 + 2 * 64 + 100 * 64 + 100
    if (three, other) == (2_466_369, wanted):
        print("✓ 2,466,369 for PicoGPT, and right for another one too")
    elif block != 12 * 256**2 + 10 * 256:
        hint = hint_for_block(block - 12 * 256**2 - 10 * 256)
        print(f"not yet: one block more adds {block:,}. {hint}")
    elif three == 2_466_369:
        sizes = "C = 64, V = 100, T = 32, L = 2"
        print(f"not yet: right for PicoGPT, but not for {sizes}. Is a number fixed?")
    else:
        print(f"not yet: the blocks are right, and {hint_for_rest(three - 2_466_369)}")


# %% tags=["exercise"]
def count(C, V, T, L): ...  # your code


check_count(count)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def count(C, V, T, L):
    attention = 3 * C * C + (C * C + C)  # c_attn has no bias
    mlp = (4 * C * C + 4 * C) + (4 * C * C + C)
    block = attention + mlp + 2 * 2 * C  # and two LayerNorms
    return V * C + T * C + L * block + 2 * C + (V * C + V)


check_count(count)

# %% [markdown]
# ### 3. What is each part worth?
#
# A stretch. Every part of a trained model adds something to the stream, so we can ask what it is worth by leaving
# its contribution out. Write `without(model, layer, part)`, which returns a function from ids to logits, like
# `model` but with the contribution of `part`, `"attn"` or `"mlp"`, of one layer left out. The model itself must be
# the same afterwards. (`copy.deepcopy` is one way, a forward hook that returns zeros is another.)

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def problem_with(without, model, ids, layer, part):
    """What is wrong with the answer for one part, in words, or None."""
    before, proj = model(ids), getattr(model.h[layer], part).c_proj  # (1, T, V)
    kept = {name: parameter.clone() for name, parameter in proj.named_parameters()}
    for parameter in proj.parameters():
        parameter.zero_()
    wanted = model(ids)
    proj.load_state_dict(kept)
    try:
        answer = without(model, layer, part)(ids)
        close = torch.allclose(answer, wanted, atol=1e-3)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not torch.equal(model(ids), before):
        return "the model itself has changed. Take your hook away, or use a copy"
    if torch.equal(answer, before):
        return "the logits are those of the whole model"
    return None if close else f"wrong for layer {layer}, {part!r}. Is only that part left out?"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
@torch.no_grad()
def check_without(without):
    model, ids = picogpt.load_shipped("picogpt").model, corpus.val[None, :128]  # (B=1, T=128)
    for layer, part in ((0, "mlp"), (2, "attn")):
        if problem := problem_with(without, model, ids, layer, part):
            print(f"not yet: {problem}")
            return
    print("✓ and here is what each part is worth, in nats, on 2,048 characters:")
    text = corpus.val[:2049]
    for layer in range(3):
        for part in ("attn", "mlp"):
            logits = without(model, layer, part)(text[:-1].view(8, 256))  # (8, T=256, V)
            rise = F.cross_entropy(logits.flatten(0, 1), text[1:]).item() - pc.evaluate(model, text)
            print(f"   layer {layer}, {part:4} {rise:+.2f}")


# %% tags=["exercise"]
def without(model, layer, part): ...  # your code


check_without(without)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def without(model, layer, part):
    def run(ids):
        module = getattr(model.h[layer], part)
        hook = module.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        try:
            return model(ids)
        finally:
            hook.remove()

    return run


check_without(without)

# %% [markdown]
# ## Recap
#
# You can now
#
# 1. say what an MLP can do that attention cannot: decide, at each position by itself,
# 2. explain the plus sign: a direct way for the stream forwards, and for the gradient back,
# 3. normalise a vector, and say what a part gains from reading it normalised,
# 4. write a GPT from its parts, and prove that it is one: equal weights, equal logits,
# 5. train it: a batch, a loss, a gradient, a step.
#
# Three questions for a whiteboard: Draw one block, with the stream as a straight line. Where in a GPT does
# information pass from one position to another, and where does it not? Which parts hold the parameters, and how many
# does a block have in terms of C?
#
# Next: [lesson 06](06_layernorm_placement.ipynb) moves the LayerNorm to another place, and finds out when that
# matters.
#
# ## Sources
#
# - GPT-2: Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*, [code](https://github.com/openai/gpt-2).
# - Residual connections: He et al. 2015, [arXiv 1512.03385](https://arxiv.org/abs/1512.03385).
# - LayerNorm: Ba et al. 2016, [arXiv 1607.06450](https://arxiv.org/abs/1607.06450).
# - GELU: Hendrycks and Gimpel 2016, [arXiv 1606.08415](https://arxiv.org/abs/1606.08415).
# - AdamW: Loshchilov and Hutter 2017, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101).
# - A model that grows part by part: Karpathy's lecture [Let's build GPT](https://www.youtube.com/watch?v=kCc8FmEb1nY).
# - An MLP as a memory that is asked questions: Geva et al. 2020, [arXiv 2012.14913](https://arxiv.org/abs/2012.14913).
