# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Golden models
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/08_golden_models.ipynb)
#
# **You will**
# 1. count a model before it exists, and hit seven known ones to the digit,
# 2. read a difference between two counts as a list of names, and find blocks that are secretly one,
# 3. measure how far two *right* models may differ, in four number formats,
# 4. find out *where* two models part, with hooks, in a dozen lines,
# 5. name every innermost faulty part at once, even where one fault hides the next,
# 6. say what equal outputs do not prove.
#
# **You need** lesson 05, in which you assembled a GPT. Lessons 06 and 07 explain the LayerNorms and biases that
# appear here.
#
# **Time** 45 minutes to read, a quarter of a minute to run.
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
import dataclasses

import matplotlib.pyplot as plt
import torch
from torch import nn

# %% tags=["setup"]
import picogpt
import picogpt_core as pc
from picogpt import draw

corpus = picogpt.load_corpus()

# %% [markdown]
# This lesson begins with two GPTs. The first is PicoGPT, as this course has trained it. The second was written by
# somebody else, after a well-known lecture: one matrix for each head, and names of its own. We have copied PicoGPT's
# weights into it, all of them. Its code is in the next four cells. Run them without reading (if your editor does not
# fold them, scroll past), because we want to find out from outside what is in there.

# %% tags=["setup"] jupyter={"source_hidden": true} cellView="form"
# @title A GPT by somebody else, its attention (run this cell, and do not look inside yet)
class Head(nn.Module):
    def __init__(self, C, hs):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(C, hs, bias=False) for _ in range(3))
        self.scale = C**-0.5

    def forward(self, x):  # (B, T, C) -> (B, T, hs)
        scores = self.query(x) @ self.key(x).mT * self.scale  # (B, T, T)
        future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)  # (T, T)
        return scores.masked_fill(future, float("-inf")).softmax(dim=2) @ self.value(x)


class Heads(nn.Module):
    def __init__(self, C, nh):
        super().__init__()
        self.heads = nn.ModuleList(Head(C, C // nh) for _ in range(nh))
        self.proj = nn.Linear(C, C)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.proj(torch.cat([head(x) for head in self.heads], dim=2))


# %% tags=["setup"] jupyter={"source_hidden": true} cellView="form"
# @title A GPT by somebody else, its blocks (run this cell too)
class FeedForward(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.net(x)


class Block(nn.Module):
    def __init__(self, C, nh):
        super().__init__()
        self.sa, self.ffwd = Heads(C, nh), FeedForward(C)
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


# %% tags=["setup"] jupyter={"source_hidden": true} cellView="form"
# @title A GPT by somebody else, the whole (run this cell too)
class LectureGPT(nn.Module):
    def __init__(self, V=65, T=256, C=256, L=3, nh=8):
        super().__init__()
        self.token_embedding_table = nn.Embedding(V, C)
        self.position_embedding_table = nn.Embedding(T, C)
        self.blocks = nn.Sequential(*(Block(C, nh) for _ in range(L)))
        self.ln_f, self.lm_head = nn.LayerNorm(C), nn.Linear(C, V)

    def forward(self, ids):  # (B, T) -> (B, T, V)
        x = self.token_embedding_table(ids) + self.position_embedding_table(
            torch.arange(ids.shape[1])
        )
        return self.lm_head(self.ln_f(self.blocks(x)))


# %% tags=["setup"] jupyter={"source_hidden": true} cellView="form"
# @title PicoGPT's weights under the other model's names (run this cell too)
LECTURE = {"wte.": "token_embedding_table.", "wpe.": "position_embedding_table.", "h.": "blocks."}
LECTURE |= {"ln_1": "ln1", "ln_2": "ln2", "attn.c_proj": "sa.proj"}
LECTURE |= {"mlp.c_fc": "ffwd.net.0", "mlp.c_proj": "ffwd.net.2"}


def translated(state, nh=8):
    """The same weights, renamed, and c_attn cut into a matrix for each head."""
    renamed = {}
    for name, weight in state.items():
        for ours, theirs in LECTURE.items():
            name = name.replace(ours, theirs)
        if "attn.c_attn" not in name:
            renamed[name] = weight
            continue
        for kind, rows in zip(("query", "key", "value"), weight.chunk(3)):  # (3C, C) -> 3 x (C, C)
            for i, head in enumerate(rows.chunk(nh)):  # (C, C) -> nh x (hs, C)
                renamed[name.replace("attn.c_attn", f"sa.heads.{i}.{kind}")] = head
    return renamed


# %% tags=["setup"]
pico = picogpt.load_shipped("picogpt").model
port = LectureGPT().eval()
print(port.load_state_dict(translated(pico.state_dict())))

# %%
def write(model, prompt, n=160):
    """Draw n characters, one after the other, from what the model predicts."""
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])  # (B=1, T)
    generator = torch.Generator().manual_seed(1)
    for _ in range(picogpt.budget(smoke=n // 8, quick=n, full=n)):
        with torch.no_grad():
            probs = (model(ids)[:, -1, :] / 0.8).softmax(dim=1)  # (1, T, V) -> (1, V)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], dim=1)
    return corpus.tokenizer.decode(ids[0])


# %%
for name, model in (("the first", pico), ("the second", port)):
    print(f"--- {name}: {pc.count_parameters(model):,} parameters\n{write(model, 'ROMEO:')}\n")

# %% [markdown]
# They have the same number of parameters, to the digit, and PyTorch says that all keys matched. Both write something
# that looks like a play, the second perhaps a little worse. And yet the two texts soon part, although both models
# hold the same weights and were given the same random numbers. That is a suspicion, not a proof: rounding alone can
# flip one drawn character, and then all that follows. Hence the logits, below.
#
# Would you have noticed, without the first beside it? A model that is known to be right, to compare another one with,
# is called a **golden model**, and a program carried over into other code is a **port**. We call the second one by
# that name from here on. A golden model is the strongest test there is for code that you ported, rewrote, sped up or
# had written for you. The comparison goes in a fixed order, the cheapest question first:
#
# 0. **ids**: do both read the same ids? (Ours share a tokenizer. One that differs fakes every fault below.)
# 1. **count**: do both have as many parameters?
# 2. **names and shapes**: and the same ones?
# 3. **values**: is the same number in each?
# 4. **outputs**: do they compute the same from it?
# 5. **where**: and if not, which part is the first to differ?
#
# (Why is PicoGPT golden? Because the same code, given the weights of Hugging Face's GPT-2 class, gives the logits
# that this class gives. Lesson 14 does that comparison. This lesson is about the method.)
#
# ## Count
#
# A count needs no model, only a pencil. Let us take a GPT so small that we can see all of its numbers at once: five
# tokens, windows of six positions, vectors of C = 4, and one block.

# %%
tiny = pc.GPT(pc.ModelConfig(vocab_size=5, block_size=6, n_embd=4, n_head=2, n_layer=1))
print(pc.parameter_table(tiny))

# %%
ROWS = ["wte", "wpe", "h.0.ln_1", "h.0.attn.c_attn", "h.0.attn.c_proj"]
ROWS = [ROWS, ["h.0.ln_2", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "ln_f", "lm_head"]]
ratios = dict(height_ratios=(14, 18))
fig, axes = plt.subplots(2, 1, figsize=(7.4, 5.2), layout="constrained", gridspec_kw=ratios)
for ax, names, lowest in zip(axes, ROWS, (12, 16)):
    left = 0
    for name in names:
        start = left
        for kind, numbers in tiny.get_submodule(name).named_parameters():
            tall, wide = numbers.shape if numbers.dim() == 2 else (len(numbers), 1)
            look = dict(fc=draw.PALE if kind == "weight" else draw.HERE, ec=draw.INK, lw=0.5)
            for i in range(tall * wide):
                corner = (left + i % wide, i // wide)
                ax.add_patch(plt.Rectangle(corner, 0.88, 0.88, **look))
            left += wide
        ax.text((start + left) / 2, -0.6, name.replace("h.0.", ""), ha="center", fontsize=11)
        left += 4
    ax.set(aspect="equal", xlim=(-2, 49), ylim=(lowest, -2))
    ax.axis("off")
plt.show()

# %% [markdown]
# Each little square is one number that training changes; biases are orange. The large blocks are the four matrices of
# attention and MLP (`c_attn` holds query, key and value one above the other, so it has 12 rows of 4). In general: an
# embedding of n rows has n · C numbers, a linear layer from a to b has a · b and b biases, and a LayerNorm has 2C. You
# added these up in lesson 05. Known models differ in four options: biases for query, key and value, a last LayerNorm, a
# bias in the head, and whether the head uses the embedding's matrix once more (*tied*). Each is one term more, or one
# less.

# %% tags=["setup"]
def count(V=65, T=256, C=256, L=3, qkv_bias=False, final_norm=True, head_bias=True, tied=False):
    attention = 3 * C * C + C * C + C + (3 * C if qkv_bias else 0)
    mlp = C * 4 * C + 4 * C + 4 * C * C + C
    block = attention + mlp + 2 * 2 * C  # two LayerNorms
    head = (0 if tied else V * C) + (V if head_bias else 0)
    return V * C + T * C + L * block + (2 * C if final_norm else 0) + head


# %%
print(f"tiny: {count(V=5, T=6, C=4, L=1)}, PicoGPT: {count():,}")

# %% [markdown]
# The next table has seven models: GPT-2, and six from the engineer's log of 2024, which this course grew from. Two of
# the six are the log's own versions of published ones. What it calls nanoGPT is the model of Karpathy's *lecture*
# (with ReLU), and not the one in the repository of that name. To the model of Raschka's book it gave biases for query,
# key and value, and the exact GELU in place of its tanh approximation. On the right is what the core's models really
# hold, built on PyTorch's `meta` device, which knows shapes and needs no memory.

# %%
models = {
    "picogpt": {},
    "picogpt-6layer": dict(L=6),
    "nanogpt-scaled": {},
    "rasbt-scaled": dict(qkv_bias=True, head_bias=False),
    "picogpt-original": dict(qkv_bias=True, final_norm=False),
    "picogpt-original-block300": dict(T=300, qkv_bias=True, final_norm=False),
    "gpt2": dict(V=50257, T=1024, C=768, L=12, qkv_bias=True, head_bias=False, tied=True),
}
titles = ["PicoGPT", "PicoGPT, 6 layers", "the lecture's, scaled"]
titles += ["the log's version of the book's", "the log's first model"]
titles += ["the same, block size 300", "GPT-2"]

# %%
for title, (name, options) in zip(titles, models.items()):
    with torch.device("meta"):
        built = pc.count_parameters(pc.GPT(pc.preset(name)))
    print(f"{title:32} by formula {count(**options):11,}   built {built:11,}")
    assert count(**options) == built, name

# %% [markdown]
# Seven of seven, to the digit. Two more things can be read off this table. The log gives 2.78M parameters for its model
# with the block size 300, and the formula says 2.48M, so one digit slipped. And a longer window costs nearly nothing:
# 44 more positions of 256 numbers.
#
# <details><summary>GPT-2 <i>medium</i> has C = 1024, 24 layers and 16 heads; all else is as in GPT-2. Before you try
# it: how many parameters?</summary>
#
# `count(V=50257, T=1024, C=1024, L=24, qkv_bias=True, head_bias=False, tied=True)` gives 354,823,168. If you got
# 51,463,168 more, you counted the head, which is tied to the token embedding. The number of heads does not matter.
# </details>
#
# That last sentence is the weak spot. Heads only cut C into groups, so their number does not occur in the formula,
# and neither does much else:

# %%
changes = [{}, dict(n_head=1), dict(causal=False), dict(activation="relu"), dict(norm="post")]
for change in changes:
    print(f"{pc.count_parameters(pc.GPT(pc.ModelConfig(**change))):,}   {change or 'PicoGPT'}")

# %% [markdown]
# One head or eight, with a mask or without, with LayerNorms here or there: always the same count. **A count tells
# what is there, not what it does.** That is why the log's first model, which had no mask, passed this test.
#
# ## Names
#
# If two counts differ, the difference is a number, and it has an explanation: a list of names. The log's first model
# has 1,792 parameters more than the lecture's. Which ones?

# %%
def compare(mine, golden):
    """Say in words how two models differ in names and shapes."""
    a, b = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (mine, golden))
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name, 'missing')}, golden {b.get(name, 'has none')}"


# %%
first, lecture = (pc.GPT(pc.preset(name)) for name in ("picogpt-original", "nanogpt-scaled"))
print("\n".join(compare(first, lecture)))
print(f"3 · 768 - 2 · 256 = {3 * 768 - 2 * 256:,}")

# %% [markdown]
# There are three biases too many, of 3 · 256 numbers each, for query, key and value, and one LayerNorm is missing at
# the end. The count alone, 1,792, could have come from many things, but the names leave no doubt.
#
# They help even where two programmers chose different ones. The port has names of its own. Here is one block of each,
# and beside it what the translation had to do.

# %%
for name, weight in pico.state_dict().items():
    if name.startswith("h.0."):
        new = list(translated({name: weight}))
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        print(f"{name:22} {tuple(weight.shape)!s:12} -> {new[0]}{more}")

# %% [markdown]
# Most lines are a change of name and no more, but one is different: the matrix `c_attn`, 768 rows high, becomes 24
# matrices of 32 rows. Which rows go where has to be right: query first, then key, then value, and inside each of the
# three one head after the other. Had we cut by heads first, every shape would fit as well, and every head would read
# nonsense. A square matrix fits even when it is transposed, as the last line of the next cell's output shows. So after
# the names come the **values**: pick a few by hand, and then compare them all.

# %%
theirs, ours = port.blocks[0].sa.heads[1], pico.h[0].attn.c_attn.weight  # ours: (3C, C)
print("query of head 1 is rows 32 to 63:  ", torch.equal(theirs.query.weight, ours[32:64]))
print("key of head 1, 256 rows below:     ", torch.equal(theirs.key.weight, ours[288:320]))
same = [torch.equal(port.state_dict()[n], w) for n, w in translated(pico.state_dict()).items()]
print(f"tensors with the same values: {sum(same)} of {len(same)}")
transposed, state = copy.deepcopy(pico), pico.state_dict()
state["h.0.attn.c_proj.weight"] = state["h.0.attn.c_proj.weight"].T  # (C, C), and still (C, C)
print("h.0.attn.c_proj.weight transposed:", transposed.load_state_dict(state))

# %% [markdown]
# `load_state_dict` is a good guard, as long as you let it be one: it refuses any name and any shape that does not
# fit. Many a port silences half of it with `strict=False`: a shape still raises, but a name no longer does. Here is
# what happens if we use that instead of a translation.

# %%
careless = LectureGPT()
missing, unexpected = careless.load_state_dict(pico.state_dict(), strict=False)
total = len(careless.state_dict())
print(f"loaded {total - len(missing)} of {total} tensors; {len(unexpected)} had no place to go")

# %% [markdown]
# Four tensors happened to have the same names in both, the last LayerNorm and the head. All others kept their random
# numbers, and no error was raised. If you ever need `strict=False`, print what it returns.
#
# ### Blocks that are secretly one
#
# Sometimes it is the names that deceive, and the count that tells. The log found this line in the code it had copied:
# `[TransformerBlock(config)] * n_layer`. In Python it makes a list of three entries that are all *the same object*.
# The model runs, trains, and its loss goes down.

# %% tags=["setup"]
def with_shared_blocks(n_layer):
    model = pc.GPT(pc.ModelConfig(n_layer=1))
    model.h = nn.ModuleList([model.h[0]] * n_layer)
    return model


# %%
for n in (1, 3, 6):
    two = {"right": pc.GPT(pc.ModelConfig(n_layer=n)), "shared": with_shared_blocks(n)}
    for name, model in two.items():
        print(f"{n} layers, {name:6} {pc.count_parameters(model):9,} parameters,", end=" ")
        print(f"{len(model.state_dict())} tensors in the checkpoint")

# %% [markdown]
# The count gives it away, because it does not grow with the depth: `parameters()` counts every object once. The
# checkpoint does not. `state_dict()` lists all the names, three times the same tensor, and looks complete. So you can
# load such a file into a right model without any complaint, and get three equal blocks.
#
# Sharing can also be meant. GPT-2 uses one matrix as embedding and as head, which saves it 39 million parameters. One
# calls the two **tied**. The test is the same for both cases: is it one object under two names?
#
# ### Exercise 1 · Find shared blocks
#
# Write `shared(model)`: True if any two entries of `model.h` use the same parameters, in any way: the same block, or
# different blocks that share one matrix.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def with_shared(i, j, part, kind="weight"):
    """Three blocks, of which block i uses one tensor of block j."""
    model = pc.GPT(pc.ModelConfig())
    parts = [model.h[n].get_submodule(part) for n in (i, j)]
    setattr(parts[0], kind, getattr(parts[1], kind))
    return model


def cases_of_sharing():
    """Models, what `shared` should say of each, what the model is, and a hint."""
    right, two, twins = (pc.GPT(pc.ModelConfig(n_layer=n)) for n in (3, 2, 2))
    twins.h[1].load_state_dict(twins.h[0].state_dict())
    tied = pc.GPT(pc.ModelConfig(tied_head=True, head_bias=False))
    yield right, False, "a right model", "Equal is not the same: compare id()"
    yield two, False, "a right one, two layers", ""
    yield twins, False, "two blocks with equal numbers", "Equal is not the same: compare id()"
    yield tied, False, "a tied head", "Only the blocks are asked for"
    yield with_shared_blocks(3), True, "one block, thrice", ""


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def cases_of_sharing_in_part():
    every = "Look at every parameter: matrices, biases and LayerNorms"
    for i, j, part in ((2, 0, "mlp.c_fc"), (1, 0, "attn.c_proj"), (1, 0, "ln_2")):
        yield with_shared(i, j, part), True, f"two blocks that share the weight of {part}", every
    yield with_shared(1, 0, "mlp.c_proj", "bias"), True, "two blocks that share a bias", every
    what = "blocks 1 and 2 that share a matrix"
    yield with_shared(2, 1, "attn.c_attn"), True, what, "Compare all blocks, not only with block 0"


def check_shared(shared):
    for model, wanted, what, hint in (*cases_of_sharing(), *cases_of_sharing_in_part()):
        try:
            answer = shared(model)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer is not wanted:
            hint = "" if answer is None or isinstance(answer, str) else hint
            print(f"not yet: for {what} it gave {answer}, wanted {wanted}. {hint}".strip())
            return
    print("✓ blocks, matrices and single vectors")


# %% tags=["exercise"]
def shared(model): ...  # your code


check_shared(shared)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
def shared(model):
    names = model.h.named_parameters(remove_duplicate=False)
    parameters = [parameter for _, parameter in names]
    return len({id(parameter) for parameter in parameters}) < len(parameters)


check_shared(shared)

# %% [markdown]
# ## Outputs
#
# Count, names, values: for our port all three agree. Now give both the same text, and compare the logits.

# %%
ids = corpus.val[: 4 * 64].view(4, 64)  # (B=4, T=64)
B = picogpt.budget(smoke=2, quick=32, full=32)
x, y = (corpus.val[start : start + 256 * B].view(B, 256) for start in (0, 1))  # (B, T=256) each
with torch.no_grad():
    logits, losses = pico(ids), []
    for name, model in (("PicoGPT", pico), ("the port", port), ("transposed", transposed)):
        off = (model(ids) - logits).abs().max().item()
        losses.append(pc.cross_entropy(model(x), y).item())
        print(f"{name:10} largest difference of a logit {off:4.1f}, loss {losses[-1]:.3f}")
largest = logits.abs().max().item()
print(f"largest logit {largest:.0f}")

# %% [markdown]
# The port is far off, and its loss is worse too. But it is not absurd, and somebody who has only that second number
# will think that the model was trained badly. The one transposed matrix, of which PyTorch said that all keys matched,
# does much more harm. (On these first 8,192 characters PicoGPT's loss is 1.266; on the whole validation text it is
# 1.434.)
#
# Here the verdict is easy. In general it is not, because two right models do not give the same digits either. A
# computer rounds after every operation, so the order of the operations matters, and `(a + b) + c` is not always
# `a + (b + c)`. How far apart may two *right* models be, then? And how small a difference can a *wrong* one make?
# Instead of asserting a limit, let us measure both. We make six copies of PicoGPT. Three compute the very same
# function in another way, and three compute another one.

# %%
order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))  # (4C,)


def by_hand(block):  # softmax(Q Kᵀ / √hs) V in steps, in place of PyTorch's fused attention
    block.attn.config = dataclasses.replace(block.attn.config, attention="manual")


# %%
def shuffled(block):  # the hidden numbers of the MLP in another order: the same sum
    fc, proj = block.mlp.c_fc, block.mlp.c_proj
    fc.weight.data, fc.bias.data = fc.weight.data[order], fc.bias.data[order]  # (4C, C), (4C,)
    proj.weight.data = proj.weight.data[:, order]  # (C, 4C)


# %%
def both(block):
    by_hand(block)
    shuffled(block)


right = {"attention by hand": by_hand, "MLP in another order": shuffled, "both": both}

# %%
def relu(block):
    block.mlp.activation = torch.relu


def tanh(block):  # GPT-2's approximation of GELU
    block.mlp.activation = pc.ACTIVATIONS["gelu_tanh"]


# %%
def epsilon(block):  # what LayerNorm adds before it divides: 1e-6, not 1e-5
    block.ln_1.eps = block.ln_2.eps = 1e-6


wrong = {"ReLU for GELU": relu, "tanh for exact GELU": tanh, "LayerNorm's eps": epsilon}

# %% [markdown]
# The three faults are real ones. The lecture has ReLU and GPT-2 has GELU; GPT-2 takes the tanh approximation and
# PicoGPT the exact function; PyTorch's LayerNorm has 1e-5 for `eps` where Flax's has 1e-6. Each of them leaves count,
# names and values as they are. We run all six in four number formats, and compare with the unchanged model *in the
# same format*.

# %%
@torch.no_grad()
def moved(change, dtype):
    """How far the logits move when every block is changed, in one number format."""
    model = copy.deepcopy(pico).to(dtype)
    before = model(ids)  # (B, T, V)
    for block in model.h:
        change(block)
    return (model(ids) - before).abs().max().item()


# %%
formats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
measured = {name: [moved(f, dtype) for dtype in formats] for name, f in (right | wrong).items()}

# %% tags=["nbval-ignore-output"]
unit = [torch.finfo(dtype).eps * largest for dtype in formats]
print(f"{'':29}" + "".join(f"{str(dtype)[6:]:>10}" for dtype in formats))
for name, numbers in measured.items():
    kind = "right" if name in right else "wrong"
    print(f"{kind}: {name:22}" + "".join(f"{number:10.0e}" for number in numbers))
print(f"{'machine ε · largest logit':29}" + "".join(f"{number:10.0e}" for number in unit))

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
for kind, colour, marker, lower in ((right, draw.INK, "o", -0.17), (wrong, draw.WARM, "X", 0.17)):
    for row in range(4):
        dots = [measured[name][row] for name in kind]
        ax.plot(dots, [row + lower] * 3, marker, ms=10, alpha=0.75, color=colour)
    ax.plot([], [], marker, color=colour, label="right models" if kind is right else "wrong ones")
for row in range(4):
    ax.plot([10 * unit[row]] * 2, [row - 0.38, row + 0.38], color="black")
ax.plot([], [], color="black", label="10 ε x largest logit")
ax.set_yticks(range(4), [str(dtype)[6:] for dtype in formats], fontsize=11)
ax.set(xscale="log", xlabel="largest difference of a logit from the unchanged model")
ax.invert_yaxis()
ax.grid(alpha=0.3, axis="x")
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# In float64, a gulf lies between the two kinds: rounding moves the logits in the fourteenth decimal place, and even
# the mildest fault moves them more than a billion times as far. In float32 the gulf is narrower, but still wide. In
# the formats of 16 bits it is gone. A right model in bfloat16 may be a tenth of a logit off, and two of the three
# faults move the logits by no more than that. There, no tolerance passes all right models and stops all wrong ones.
#
# How large the rounding is can be foreseen. A format has a step from 1 to the next number, its machine epsilon, or ε,
# and a number between 16 and 32 is stored in steps of 16 ε. (In float16 that is 0.0156: a difference of 2e-02 in such
# a number is exactly one step.) The last line of the table is ε times the largest logit, and every right model lies
# within a few times of it. So here is a rule for a tolerance, the black lines in the picture: *ten times ε times the
# largest number that you compare*. It is a rule of thumb, measured on three layers, so allow a deep model more.
# PyTorch has a rule of its own: `torch.testing.assert_close(mine, golden)` picks tolerances by the dtype, and by the
# size of each number.
#
# <details><summary>Before you go on: your weights come as bfloat16, as most do today. Does that mean you have to
# compare in bfloat16?</summary>
#
# No. The format in which a number is *stored* is not the one in which you must *compute*. PicoGPT's file holds
# float16, and every such number is also a float64, exactly. Turn both models to float64 (`model.double()`), and the
# rounding of the file is the same on both sides. It costs twice the memory of float32, which is nothing for our model
# and 56 GB for one of 7 billion parameters. A large model you compare block by block, with golden inputs (see below).
# </details>
#
# Two warnings. Hugging Face's guide for porting models asks for outputs that agree to 0.001. Compare that with the
# table: in float32 it lies far above the rounding, and it would let a wrong `eps` through, even one in every block. No
# one limit fits every model and format. The other warning is for GPUs, which we did not measure on: with TF32 switched
# on (a shortcut of some GPUs, lesson 15), "float32" products round their inputs to ten bits after the leading one, as
# float16 does.
#
# And what about the loss? It is no substitute. Here are the same three faults once more, in one block only, the
# middle one.

# %%
print(f"{'PicoGPT':22} loss {losses[0]:.3f}")
for name, change in wrong.items():
    model = copy.deepcopy(pico)
    change(model.h[1])
    with torch.no_grad():
        loss, off = pc.cross_entropy(model(x), y), (model(ids) - pico(ids)).abs().max()
    print(f"{name:22} loss {loss:.3f}   largest difference {off:.4f}")

# %% [markdown]
# Not one of them shows in three digits of the loss, not even ReLU, which moves a logit by more than one. And where a
# fault does show, do not even trust the direction: a model that is too sure of itself (lesson 10) can *gain* from a
# fault that makes it less sure of everything. The logits show all three.
#
# ## Where?
#
# We know *that* the port is wrong. The way to find the culprit is to listen in between: run both models on the same
# text, and compare what comes out of each part. PyTorch lets you do that without touching the code of either, with a
# **hook**: a function that you attach to a module and that is called each time the module has computed something.
# Here are four, two in each model.

# %%
heard = []
parts = [pico.h[0].ln_1, port.blocks[0].ln1, pico.h[0].attn, port.blocks[0].sa]
hooks = [part.register_forward_hook(lambda part, args, out: heard.append(out)) for part in parts]
with torch.no_grad():
    pico(ids), port(ids)
for hook in hooks:
    hook.remove()  # or it would go on listening

# %%
names = ["golden LayerNorm", "golden attention", "port LayerNorm", "port attention"]
for name, out in zip(names, heard):
    for t in (0, 5):
        numbers = "  ".join(f"{number:+.3f}" for number in out[0, t, :5])
        print(f"{name:18} position {t}  {numbers}  …")

# %% [markdown]
# You see the first five of 256 numbers, at two of 64 positions. Before the attention, both models agree. Behind it,
# they still agree at position 0, but no longer at position 5. That the first position is right may look like luck,
# but it is a clue, and we shall come back to it.
#
# Comparing by eye is tedious, so let the computer do it, for all parts, all positions and all numbers. That is the
# tool which this lesson is about, and you write it.
#
# ### Exercise 2 · The first part that differs
#
# Write `first_difference(mine, golden, ids, pairs)`. `pairs` is a list of names, `(name in mine, name in golden)`, in
# the order in which data passes through them: `[("blocks.0", "h.0"), …]`. Run both models on `ids` and return the
# name in *mine* of the first pair whose outputs differ, or None if none does. A difference up to 1e-4 is rounding here
# (ten ε times our largest number would be stricter; this is generous on purpose), and anything else is not. Switch
# dropout off, and leave no hook behind. A dozen lines or so are enough.
#
# <details><summary>A hint</summary>
#
# `model.get_submodule("blocks.0")` gives the module of that name. Let every hook write into a dictionary under its
# own name, and mind the trap of Python's lambdas in a loop: write `lambda part, args, out, name=name: …`, or all of
# them will use the last name.
# </details>

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
def pair_of_models(**options):
    """A small GPT with weights large enough for a fault to show, its exact copy, and some ids."""
    torch.manual_seed(0)
    small = dict(n_layer=4, n_head=2, n_embd=16, block_size=12) | options
    golden = pc.GPT(pc.ModelConfig(**small)).eval()
    with torch.no_grad():
        for parameter in golden.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return copy.deepcopy(golden), golden, torch.randint(65, (3, 12))  # ids: (B=3, T=12)


def hooks_on(*models):
    return sum(len(part._forward_hooks) for model in models for part in model.modules())


ADDED = {"one number of one position": 1, "one number too small": -1}
ADDED |= {"one number off by 0.0005": 5e-4, "a NaN": float("nan"), "two numbers exchanged": 0}


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def spoils(what):
    """A hook that puts a fault at one position of one row."""

    def hook(part, args, out):
        out = out.clone()
        out[1, 5, 3] += ADDED[what]
        if what == "two numbers exchanged":
            out[1, 5, [3, 4]] = out[1, 5, [4, 3]]
        return out

    return hook


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def planted(what):
    """Two models that differ in what is asked for, ids, pairs of names, and the right answer."""
    mine, golden, ids = pair_of_models(resid_dropout=0.2 if "dropout" in what else 0.0)
    pairs, answer = [(f"h.{i}", f"h.{i}") for i in range(4)], "h.1"
    if what == "equal but for rounding":
        for block in mine.h:
            block.attn.config = dataclasses.replace(block.attn.config, attention="manual")
        answer = None
    elif what in ADDED:
        mine.h[1].register_forward_hook(spoils(what))
    elif what == "other names":
        mine = LectureGPT(T=12, C=16, L=4, nh=2)
        mine.load_state_dict(translated(golden.state_dict(), nh=2))
        pairs = [("token_embedding_table", "wte"), ("blocks.0.ln1", "h.0.ln_1")]
        pairs += [("blocks.0.sa", "h.0.attn"), ("blocks.0", "h.0")]
        answer = "blocks.0.sa"
    else:
        mine.h[1].mlp.activation = torch.relu
    return mine.train("dropout" in what), golden.train("dropout" in what), ids, pairs, answer


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4 (run this cell)
def check_first(yours):
    """True if your function finds every planted fault; says in words what it misses."""
    cases = ["ReLU in block 1", "equal but for rounding", *ADDED]
    for what in [*cases, "ReLU in block 1, models with dropout", "other names"]:
        mine, golden, ids, pairs, answer = planted(what)
        before = hooks_on(mine, golden)
        try:
            said = yours(mine, golden, ids, pairs)
            said = said if said is None else str(said)
        except Exception as error:
            print(f"not yet: for {what} it stopped with {type(error).__name__}: {error}")
            return False
        left = hooks_on(mine, golden) - before
        if said != answer or left:
            hint = f"wanted {answer!r}. {hint_for_first(what, said, pairs)}"
            hint = hint if said != answer else f"which is right, but {left} hooks are left behind"
            print(f"not yet: for {what} it gave {said!r}, {hint}")
            return False
    print("✓ it finds the part, keeps quiet about rounding, and leaves nothing behind")
    return True


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 5 (run this cell)
WHY = {"one number of one position": "Compare all rows and all positions, and abs() first"}
WHY["one number too small"] = "A difference can be negative: abs() before max()"
WHY["one number off by 0.0005"] = "Take the largest difference, no mean or norm; the limit is 1e-4"
WHY["a NaN"] = "`NaN > 1e-4` is False. Ask whether the difference is small, not whether it is large"
WHY["two numbers exchanged"] = "Compare number by number: a sum or a norm does not see it"


def hint_for_first(what, said, pairs):
    if what in WHY:
        return WHY[what]
    if said is None:
        return "Is the name returned?"
    if "rounding" in what:
        return "Allow for rounding: 1e-4"
    if "dropout" in what and said == "h.0":
        return "Call eval() on both models first"
    if said in [its for _, its in pairs] and said not in [name for name, _ in pairs]:
        return "That is the name in the golden model"
    if said == pairs[-1][0]:
        return "That is the last one. Does every hook write under the last name?"
    return "The first in the order of `pairs` is wanted"


# %% tags=["exercise"]
def first_difference(mine, golden, ids, pairs): ...  # your code


passed = check_first(first_difference)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
@torch.no_grad()
def listen(model, names, ids):
    seen = {}
    hooks = [
        model.get_submodule(n).register_forward_hook(lambda _, i, out, n=n: seen.update({n: out}))
        for n in names
    ]
    model.eval()(ids)
    for hook in hooks:
        hook.remove()
    return [seen[n] for n in names]


def first_difference(mine, golden, ids, pairs):
    names, its_names = zip(*pairs)
    for name, a, b in zip(names, listen(mine, names, ids), listen(golden, its_names, ids)):
        if not (a - b).abs().max() <= 1e-4:
            return name


passed = check_first(first_difference)

# %% [markdown]
# Ask whether the difference is *small*, never whether it is large: NaN is neither. (A mask with `triu(0)`, which hides
# a position even from itself, makes a NaN.)
#
# Now point it at the port. First the list of pairs: the two embeddings, then for each block its four parts and the
# block itself, and last what follows.

# %%
PAIRS = [("token_embedding_table", "wte"), ("position_embedding_table", "wpe")]
for i in range(3):
    PAIRS += [(f"blocks.{i}.ln1", f"h.{i}.ln_1"), (f"blocks.{i}.sa", f"h.{i}.attn")]
    PAIRS += [(f"blocks.{i}.ln2", f"h.{i}.ln_2"), (f"blocks.{i}.ffwd", f"h.{i}.mlp")]
    PAIRS += [(f"blocks.{i}", f"h.{i}")]
PAIRS += [("ln_f", "ln_f"), ("lm_head", "lm_head")]

# %%
said = first_difference(port, pico, ids, PAIRS) if passed else "(finish exercise 2 first)"
print("the first part that differs:", said)

# %% [markdown]
# With exercise 2 done, it says *attention, of the first block*. To see more than that, we keep everything: what each
# part was given, and what it gave back. Then a picture can show the whole run, a row for each part, a column for each
# position, and the colour for how far the two models are apart. We go to float64 for it, so that rounding and faults
# cannot be confused.

# %% tags=["setup"]
@torch.no_grad()
def recorded(model, ids):
    """What each part of a model was given and what it gave back, by name."""
    seen, hooks = {}, []
    for name, part in model.named_modules():

        def keep(part, args, out, name=name):
            seen[name] = args, out

        hooks.append(part.register_forward_hook(keep))
    model.eval()(ids)
    for hook in hooks:
        hook.remove()
    return seen


# %%
def apart(mine, golden, ids):
    """The largest difference of each part's output at each position. (parts, T)"""
    a, b, rows = recorded(mine, ids), recorded(golden, ids), []
    for name, its in PAIRS:
        off = (a[name][1] - b[its][1]).abs().amax(dim=-1)  # (B, T), or (T,) for the positions
        rows.append(off.view(-1, ids.shape[1]).amax(dim=0))  # (T,)
    return torch.stack(rows)


exact, suspect, few = copy.deepcopy(pico).double(), copy.deepcopy(port).double(), ids[:1, :24]
pictures = {"as it came": apart(suspect, exact, few)}

# %%
def show(axes, pictures):
    colours = plt.get_cmap("YlOrBr").with_extremes(under="silver", bad="black")
    for ax, (title, off) in zip(axes, pictures.items()):
        shown = torch.where(off == 0, -99, off.log10().clamp(min=-16))  # exactly 0: grey
        look = dict(cmap=colours, vmin=-16, vmax=1, aspect="auto", interpolation="none")
        image = ax.imshow(shown, **look)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("position", fontsize=10)
    names = [name.replace("_embedding_table", "s") for name, _ in PAIRS]
    axes[0].set_yticks(range(len(PAIRS)), names, fontsize=12)
    return image


# %%
fig, ax = plt.subplots(figsize=(6.4, 5), layout="constrained")
fig.colorbar(show([ax], pictures), ax=ax, extend="min", label="largest difference, log10")
plt.show()

# %% [markdown]
# Read it from the top, since the data flows downwards. Grey means exactly equal, pale means rounding, dark means a
# fault, and black would be NaN. The embeddings are grey, as is the first LayerNorm, but from `blocks.0.sa` on nearly
# everything is dark. Whatever comes behind a fault is wrong as well, which is why only the *first* difference is
# worth anything, and why no look at the logits could have told us where.
#
# Now the clue. In the row of the attention, position 0 is as pale as rounding, and all others are dark. What kind of
# fault spares the first position? Position 0 can look at nothing but itself, so its weight is 1 *whatever the scores
# are*. A wrong value or a wrong output matrix would have shown there, so both of these are right, and what is wrong
# must be in how the weights come about: in the scores, or in what is masked. (In the next row but one,
# `blocks.0.ffwd`, position 0 is dark as well. Remember that, too.)
#
# With this much known, it is time to read the first cell of the port. In `Head` stands
#
# `scores = self.query(x) @ self.key(x).mT * self.scale`, with `self.scale = C**-0.5`.
#
# The scores are divided by the root of the *width*, 256, and not of the head size, 32. It is the bug of lesson 03.
# We fix it and look again.

# %%
for block in suspect.blocks:
    for head in block.sa.heads:
        head.scale = 32**-0.5
pictures["the scale fixed"] = apart(suspect, exact, few)
said = first_difference(suspect, exact, few, PAIRS) if passed else "(finish exercise 2 first)"
print("now the first:", said)

# %% [markdown]
# There is a second fault, which the first one had hidden. It sits in the feed-forward part, it does not spare
# position 0, and the two linear layers were compared as values already. So what remains is what stands between them.

# %%
for block in suspect.blocks:
    block.ffwd.net[1] = nn.GELU()  # it was nn.ReLU()
pictures["both fixed"] = apart(suspect, exact, few)

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 5.2), layout="constrained", sharey=True)
fig.colorbar(show(axes, pictures), ax=axes, extend="min", label="largest difference, log10")
plt.show()
assert pictures["both fixed"].max() < 1e-10 < pictures["the scale fixed"].max()
same = write(suspect, "ROMEO:", n=80) == write(exact, "ROMEO:", n=80)
print("everywhere below 1e-10, and the same text:", same)

# %% [markdown]
# From left to right, the dark edge moves down and disappears. On the right, what is left is rounding alone, around
# the fourteenth decimal place, and it grows a little from top to bottom, as the errors of one part enter the next.
# And now both models write the same text, character by character.
#
# <details><summary>Before you go on: suppose that the fault were a missing mask in block 1. Which cells of the
# picture would be dark?</summary>
#
# Nothing in block 0. In the row `blocks.1.sa`, every position but the *last*, which may look at all others anyway.
# From the attention of block 2 on, the last one as well, because it attends to positions that are wrong by then. So a
# pale first column speaks for the scores, and a pale last column for the mask.
# </details>
#
# Neither fault is made up. Both stand in the lecture's file as it was first published, in January 2023, and in the
# lecture's own model neither broke anything: a model that is trained with the wrong root learns with it, and ReLU was
# a choice. (The root was corrected in the same month, in a commit called "scale by head size".) They became faults
# when weights from elsewhere came in, which is what makes such slips so long-lived: the tests of their author pass.
#
# ## Every part by itself
#
# Fix one, run again, find the next: with three faults it would have taken three rounds. There is a way to judge every
# part in one. The trouble was that a part behind a fault gets wrong *inputs*. Then let us not give it those, for the
# golden run has recorded what every part was given. Call each part alone, on the input that the golden part received,
# and compare what it returns with the golden output.

# %%
given, suspect = recorded(exact, few), copy.deepcopy(port).double()  # once more as it came
together = apart(suspect, exact, few).amax(dim=1)  # (parts,)
print("part                        in the run   by itself")
with torch.no_grad():
    for (name, its), off in zip(PAIRS, together):
        args, out = given[its]
        alone = (suspect.get_submodule(name)(args[0]) - out).abs().max()
        print(f"{name:26} {'right' if off <= 1e-9 else 'wrong':>11}", end="")
        print(f" {'right' if alone <= 1e-9 else 'wrong':>11}")

# %% [markdown]
# The left column is the picture from above: right down to the first fault, and wrong ever after. The right column
# judges each part on its own. All LayerNorms are right, and so are `ln_f` and the head, though in the run nothing but
# rubbish reached them. All attentions and all feed-forward parts are wrong. The blocks are wrong too, but only
# because something inside them is.
#
# That gives a rule for blame. **A part is guilty if it answers wrongly to the golden input, although everything
# inside it answers rightly.** If every part of a block is right and the block is wrong, then the fault is in how it
# connects them, such as a LayerNorm after the sum in place of before it. And if it is the whole model that is wrong
# while all its parts are right, look at its own `forward`. The rule names every *innermost* faulty part. Repair those
# and run once more: a wrong part can hide the wrong connections around it.
#
# ### Exercise 3 · Who is guilty?
#
# A stretch. Write `guilty(mine, golden, ids)` for two models with the *same* names. It returns the set of the names
# of all guilty parts, by the rule above, and by the names of `named_modules()`, in which the whole model has the name
# `""`. Take 1e-4 as the limit again. Some parts take more than one argument: give each what the golden one was given.
# You may use `recorded`.

# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 1 (run this cell)
class Doubled(pc.GPT):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


def spoil(block, kind):
    """Put a fault into a block, and return the name of the guilty part in it."""
    if kind == "ReLU":
        block.mlp.activation = torch.relu
        return ".mlp"
    if kind == "no mask":
        block.attn.config = dataclasses.replace(block.attn.config, causal=False)
        return ".attn"
    if kind == "Post-LN":
        block.norm = "post"
        return ""
    block.mlp.c_fc.weight.data[2, 1] += float("nan") if "NaN" in kind else 1
    return ".mlp.c_fc"


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 2 (run this cell)
def corrupted(what):
    """A model with faults, the golden one, ids, and the names of the guilty parts."""
    mine, golden, ids = pair_of_models(n_layer=12 if "h.10" in what else 4)
    guilty = set()
    for fault in what.split(" and "):
        kind, _, layer = fault.partition(" in h.")
        if layer:
            guilty.add(f"h.{layer}{spoil(mine.h[int(layer)], kind)}")
    if "forward of the model" in what:
        mine.__class__, guilty = Doubled, {""}
    return mine, golden, ids, {g for g in guilty if not any(i.startswith(f"{g}.") for i in guilty)}


CORRUPTED = ["no fault", "ReLU in h.1", "Post-LN in h.0", "a wrong weight in h.3"]
CORRUPTED += ["ReLU in h.1 and no mask in h.2", "ReLU in h.1 and a wrong weight in h.3"]
CORRUPTED += ["a wrong forward of the model", "ReLU in h.1 and a wrong weight in h.1"]
CORRUPTED += ["Post-LN in h.1 and ReLU in h.10", "a NaN as weight in h.3"]


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 3 (run this cell)
def check_guilty(yours):
    for what in CORRUPTED:
        mine, golden, ids, guilty = corrupted(what)
        before = hooks_on(mine, golden)
        try:
            said = yours(mine, golden, ids)
            said = {said} if isinstance(said, str) else set(said)
        except Exception as error:
            print(f"not yet: for {what} it stopped with {type(error).__name__}: {error}")
            return
        if said != guilty:
            hint = hint_for_guilty(said, guilty, what)
            words = [sorted(map(str, names)) or "nobody" for names in (said, guilty)]
            print(f"not yet: for {what} it gave {words[0]}, wanted {words[1]}. {hint}")
            return
        if hooks_on(mine, golden) != before:
            print(f"not yet: {hooks_on(mine, golden) - before} hooks are left on the models")
            return
    print(f"✓ {len(CORRUPTED)} models: every faulty part, and no other")


# %% tags=["check"] jupyter={"source_hidden": true} cellView="form"
# @title The check, part 4 (run this cell)
def hint_for_guilty(said, guilty, what):
    if guilty < said and all(any(g.startswith(s) for g in guilty) for s in said):
        return "What contains a guilty part is not guilty itself"
    if guilty < said or {"ln_f", "lm_head"} & said:
        return "Does each part get the golden input? What follows a fault is not guilty"
    if "NaN" in what:
        return "`NaN > 1e-4` is False. Ask whether the difference is small, not whether it is large"
    if "h.10" in what and said < guilty:
        return "`h.10` is not inside `h.1`, although its name starts with it: mind the dot"
    if said < guilty:
        return "A part is missing. Does each part get the golden input? One fault hides another"
    return "Ask each part by itself, with what the golden part was given"


# %% tags=["exercise"]
def guilty(mine, golden, ids): ...  # your code


check_guilty(guilty)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
# @title One solution
@torch.no_grad()
def guilty(mine, golden, ids):
    wrong = set()
    for name, (args, out) in recorded(golden, ids).items():
        if not (mine.eval().get_submodule(name)(*args) - out).abs().max() <= 1e-4:
            wrong.add(name)
    inside = {name: [part for part in wrong if part.startswith(f"{name}.")] for name in wrong}
    if len(wrong) > 1:
        wrong.discard("")  # everything is inside the whole model
    return {name for name in wrong if not inside[name]}


check_guilty(guilty)

# %% [markdown]
# ## What equal outputs do not prove
#
# Say that the logits agree to the last digits of float64. Are we done? Not quite, because they agree *in the forward
# direction, on this text, before any training step, and in evaluation mode*. Behind each of these four a fault can
# hide. Here are three models, for the first three of them, that pass step 4 on our windows of 64 characters. Steps 1
# and 3 would have caught two of these; if somebody skipped them, the logits would not.

# %%
cut, short = copy.deepcopy(pico), copy.deepcopy(pico)
cut.h[1].register_forward_pre_hook(lambda part, args: (args[0].detach(), *args[1:]))
short.wpe.weight.data[128:] = 0  # as if a shorter table had been loaded
tied = pc.GPT(pc.ModelConfig(tied_head=True, head_bias=False))
untied = copy.deepcopy(tied)
untied.lm_head.weight = nn.Parameter(tied.wte.weight.detach().clone())  # equal numbers, two objects

# %%
def largest_difference(mine, golden, ids=ids):
    with torch.no_grad():
        return (mine(ids) - golden(ids)).abs().max().item()


pairs = {"gradient cut": (cut, pico), "short table": (short, pico)}
pairs["copied head"] = (untied, tied)
for name, (mine, its) in pairs.items():
    print(f"{name:13} on 4 windows of 64: largest difference {largest_difference(mine, its):.6f}")

# %% [markdown]
# Zero, three times.
#
# <details><summary>Before you read on: what would you do with each of the three to expose it?</summary>
#
# Compare the gradients of a batch, by name. Try the longest window that the model takes. Do one training step and
# compare again.
# </details>

# %%
targets = corpus.val[1 : 4 * 64 + 1].view(4, 64)  # (B=4, T=64): the next characters
for name, model in (("PicoGPT", pico), ("gradient cut", cut)):
    model.zero_grad()
    pc.cross_entropy(model(ids), targets).backward()
    grads = [parameter.grad for parameter in model.parameters()]
    print(f"{name:13} tensors without a gradient: {sum(grad is None for grad in grads)}")

# %%
full = corpus.val[None, :256]  # (B=1, T=256): as long as the model takes
off = largest_difference(short, pico, full)
print(f"short table   on a window of 256: largest difference {off:.1f}")
for model in (untied, tied):
    pc.cross_entropy(model(ids), targets).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
print(f"copied head   after one step: largest difference {largest_difference(untied, tied):.2f}")

# %% [markdown]
# The first model writes as well as PicoGPT, but both of its embeddings and the whole of its first block, 2 and 11
# tensors, would never train again. The second is right for the first half of the positions. In the third, a tied head
# was loaded as a copy, and it goes its own way at the first step (its gradients would have shown that before). So a
# full comparison asks four more times: with the gradients of one batch, with the longest window and several different
# rows, after one step, and, if you need it, in training mode with dropout at 0. The doctor of lesson 13 asks such
# questions of models for which there is no golden one.
#
# ## Which one should you copy?
#
# The log compared three models by their training losses of 0.96 (its own, fixed), 1.7 (the lecture's) and 1.1 (the
# book's), from runs of different lengths. Here they are *trained alike*: 400 steps with the course's optimizer (lesson
# 09), the whole validation text, three seeds each. The log's first model takes part *with a mask*. The log's six layers
# and its block size 300 are here too.

# %%
study = picogpt.DATA / "runs" / "architecture.csv"
variants = {"log's original": "the log's first, with a mask", "ReLU": "the lecture's (ReLU)"}
variants |= {"rasbt-scaled": "the log's version\nof the book's", "picogpt (pre)": "PicoGPT"}
variants |= {"post": "PicoGPT, Post-LN", "block 300": "PicoGPT, block size 300"}
variants |= {"6 layers": "PicoGPT, 6 layers"}
finals = picogpt.final_losses(study)

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.6), layout="constrained")
picogpt.plot_finals(ax, {title: finals[name] for name, title in variants.items()})
ax.axvline(picogpt.study.NGRAM_LOSSES["5-gram"], ls="--", lw=1, color="grey")
ax.text(picogpt.study.NGRAM_LOSSES["5-gram"], 6.45, " 5-gram", color="dimgrey", fontsize=10)
ax.set_xlabel("validation loss (nats per character): dots are seeds, bars their mean", fontsize=10)
plt.show()

# %%
for name, difference in picogpt.compare(study, base="picogpt (pre)").items():
    if name in variants:
        print(f"{variants[name].replace(chr(10), ' '):34} {difference}")

# %% [markdown]
# Each line is the difference from PicoGPT, paired by seed, with its 95 % interval (lesson 07; six of them, not
# corrected for that, and only ReLU and Post-LN share PicoGPT's first weights; seven of these runs were made on
# another kind of processor, which is worth up to 0.008 in itself). The lecture's model, with the corrected root, is
# two hundredths of a nat behind, and not seven tenths: that is what ReLU costs here. Three seeds cannot tell the
# log's version of the book's model from PicoGPT, nor a block size of 300 from 256. Six layers gain a little, for
# nearly twice the parameters. The log's first model is furthest behind, and the line *Post-LN* says why: most of it
# is the place of its LayerNorms. (Lessons 06 and 07 have newer runs of that pair, in five seeds and from equal first
# matrices: +0.099. With AdamW, at this size, Post-LN was not behind: lesson 06.)
#
# So copy whichever you like, and compare it with a golden model. (These are short trainings, none far from the
# 5-gram's line, at rates chosen for PicoGPT, and the block size 300 reads 17 % more characters and is judged in
# windows of its own length. Whether the log's 0.54 with six layers was worth having, lesson 09 answers.)
#
# ## Recap
#
# You can now
#
# 1. count a model before you build it, and say what the count cannot see,
# 2. turn a difference of counts into names, translate one model's names into another's, and spot blocks that are one,
# 3. say how far two right models may differ: about ten times ε times the largest number, and compare in float64,
# 4. find the first part that differs, and read from the positions what kind of fault it is,
# 5. find every innermost faulty part in one run, by giving each the golden input,
# 6. name what equal logits leave open: gradients, other lengths, the next step.
#
# Three questions for a whiteboard: Write down the order of the comparison, and for each step a fault that passes it.
# Why can a wrong attention be right at position 0? All parts of a block answer the golden input rightly, and the
# block does not: where do you look?
#
# <details><summary>Answers</summary>
#
# Ids, count, names and shapes, values, outputs, and then where. One head in place of eight passes the count, a
# transposed square matrix the names and shapes, ReLU the values, and a cut gradient the outputs. Position 0 sees only
# itself, so its weight is 1 whatever the scores are. In the block's own `forward`: what is left is how it connects its
# parts.
# </details>
#
# Next: [lesson 09](09_training.ipynb) trains the model that you can now trust. If you know lessons 09 and 10 already,
# [lesson 11](11_kv_cache.ipynb) makes the writing fast.
#
# ## Sources
#
# - The lecture: Karpathy, *Let's build GPT*, [code](https://github.com/karpathy/ng-video-lecture), and the commit
#   [scale by head size](https://github.com/karpathy/ng-video-lecture/commit/988848a).
# - Weights compared with the real ones: Karpathy,
#   [Let's reproduce GPT-2](https://www.youtube.com/watch?v=l8pRSuU81PU), and Raschka,
#   [Build a Large Language Model From Scratch](https://github.com/rasbt/LLMs-from-scratch), chapter 5; its model is
#   in chapter 4.
# - Porting by comparing layer after layer: Hugging Face,
#   [How to add a model](https://huggingface.co/docs/transformers/v4.46.0/en/add_new_model), and
#   [a tool for it](https://huggingface.co/docs/transformers/internal/model_debugging_utils),
#   `model_addition_debugger_context`. A port to C compared in logits, loss and gradients: Karpathy,
#   [test_gpt2.c](https://github.com/karpathy/llm.c/blob/master/test_gpt2.c).
# - Tied embeddings: Press and Wolf 2016, [arXiv 1608.05859](https://arxiv.org/abs/1608.05859).
# - Why sums depend on their order: Goldberg 1991, *What Every Computer Scientist Should Know About Floating-Point
#   Arithmetic*, [doi 10.1145/103162.103163](https://doi.org/10.1145/103162.103163).
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
