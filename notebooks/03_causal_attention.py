# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Causal attention
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/03_causal_attention.ipynb)
#
# **You will**
# 1. average over the past in three ways: by a loop, by a matrix, by a softmax,
# 2. let the text itself decide what to average: query, key and value,
# 3. see why scores are divided by √head_size, and recognise the usual slip by its symptom,
# 4. hide the future, and see three masks that hide it badly,
# 5. test any GPT, from outside, for whether it hears the future,
# 6. repeat the bug that cost an engineer four days, and catch it in a second.
#
# **You need** lesson 02: logits, softmax, loss, and training against validation.
#
# **Time** 40 minutes to read, half a minute to run.
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
# ## The mean of the past
#
# A bigram model looks at one character. We want a model in which every position gathers what the positions before it
# know. The simplest way to gather is a mean. Say each position has a vector of C numbers; position t gets the mean of the
# vectors 0 to t.

# %%
torch.manual_seed(0)
T, C = 6, 4
x = torch.randn(T, C)  # (T, C): one vector for each position
by_loop = torch.stack([x[: t + 1].mean(dim=0) for t in range(T)])  # (T, C)

assert torch.allclose(by_loop[0], x[0]), "the first position has only itself"

# %% [markdown]
# Loops are slow. A mean is a weighted sum with equal weights, so write the weights into a matrix: row t holds the weights
# that position t gives to all positions j. Zeros stand where j lies in the future.

# %%
weights = torch.ones(T, T).tril()  # (T, T): 1 where j <= t
weights = weights / weights.sum(dim=1, keepdim=True)  # each row adds up to 1
by_matrix = weights @ x  # (T, T) @ (T, C) -> (T, C)
print(weights.numpy().round(2))

assert torch.allclose(by_loop, by_matrix, atol=1e-6), "the matrix does what the loop did"

# %% [markdown]
# The third way looks roundabout. Start from **scores**, one for each pair (t, j). Set the score of every future j to −∞.
# A softmax over each row makes weights of them: exp of each, divided by their sum. exp(−∞) is 0, so the future gets
# weight 0.

# %%
scores = torch.zeros(T, T)  # (T, T): all equally interesting
visible = torch.ones(T, T, dtype=torch.bool).tril()  # (T, T): True where j <= t
by_softmax = scores.masked_fill(~visible, float("-inf")).softmax(dim=1) @ x  # (T, C)

assert torch.allclose(by_loop, by_softmax, atol=1e-6), "and so does the softmax"

# %% [markdown]
# Three times the same. Why the roundabout way? Because scores need not be equal. With other scores, a position takes more
# from some places and less from others, and the rows still add up to 1. It remains to say where scores come from.
#
# ## Query, key, value
#
# They come from the text. Each position makes three vectors out of its own, by three matrices that are learned:
#
# - a **query**: what am I looking for?
# - a **key**: what do I have?
# - a **value**: what do I hand over, if asked?
#
# The score of (t, j) is the dot product of query t with key j, a single number, divided by √hs (the section after this one
# says why). It is large where the two point the same way. This is one **head** of attention.

# %%
B, T, C, hs = 2, 8, 32, 16  # rows, positions, width, head size
torch.manual_seed(0)
query, key, value = (nn.Linear(C, hs, bias=False) for _ in range(3))
x = torch.randn(B, T, C)
q, k, v = query(x), key(x), value(x)  # (B, T, hs) each
scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, T, hs) @ (B, hs, T) -> (B, T, T)
visible = torch.ones(T, T, dtype=torch.bool).tril()
weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)  # (B, T, T)
y = weights @ v  # (B, T, T) @ (B, T, hs) -> (B, T, hs)

assert torch.allclose(weights.sum(dim=-1), torch.ones(B, T)), "each row is a distribution"
assert (weights[:, ~visible] == 0).all(), "no weight on the future, exactly"

# %% [markdown]
# That is attention: five lines. The course's `CausalSelfAttention` does the same, with the three matrices kept as one and
# one more matrix at the end. We copy its weights and compare.

# %%
torch.manual_seed(0)
core = pc.CausalSelfAttention(pc.ModelConfig(n_embd=32, n_head=1))
q, k, v = (x @ w.T for w in core.c_attn.weight.split(32))  # (B, T, C) each: one head of size C
scores = q @ k.transpose(-2, -1) / math.sqrt(32)  # (B, T, T)
mine = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ v  # (B, T, C)

assert torch.allclose(core.c_proj(mine), core(x), atol=1e-6), "the core does what we did by hand"

# %% [markdown]
# ## Why divide by √hs?
#
# A product of two random vectors of hs numbers is a sum of hs random terms. Such a sum grows like √hs. We measure it, and
# look at what the softmax makes of large scores.

# %%
torch.manual_seed(0)
for size in (4, 16, 64, 256):
    products = torch.randn(10_000, size) * torch.randn(10_000, size)
    spread = products.sum(dim=1).std().item()
    divided = spread / math.sqrt(size)
    print(f"head size {size:3}: scores spread by {spread:4.1f}, divided by the root {divided:.2f}")
    assert abs(divided - 1) < 0.05, "the spread is √hs"

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained", sharey=True)
base = torch.randn(12, generator=torch.Generator().manual_seed(3))  # (12,) scores of spread 1
for ax, size in zip(axes, (1, 16, 256)):
    ax.bar(range(12), (base * math.sqrt(size)).softmax(dim=0), color="tab:blue")
    ax.set(title=f"spread {math.sqrt(size):.0f}", xlabel="position j", ylim=(0, 1))
axes[0].set(ylabel="weight")
plt.show()

# %% [markdown]
# With a spread of 1, many positions are heard. With a spread of 16, the head size of 256 undivided, one position takes
# all. The softmax is **saturated**. Then a small change of the scores changes hardly anything, so hardly any gradient comes
# through, and the head is slow to learn to look elsewhere. For spreads of 1, 4 and 16:

# %%
def gradient_through(scores):
    """How much the weights move when the scores do: the sum of all |∂ weight / ∂ score|."""
    return torch.autograd.functional.jacobian(lambda s: s.softmax(dim=0), scores).abs().sum().item()


through = [gradient_through(base * math.sqrt(size)) for size in (1, 16, 256)]
print("  ".join(f"{value:.4f}" for value in through))

assert through[2] < through[0] / 10, "a saturated softmax passes hardly any gradient"

# %% [markdown]
# ### The usual slip
#
# With several heads, each has size hs = n_embd / n_head. A common slip divides by √n_embd instead. Nothing crashes, and a
# model trained like that learns: its queries can grow to make up for it. The slip shows when weights are brought from
# elsewhere. Here is the course's trained PicoGPT, and the same with the wrong root: queries too small by √8.

# %%
shipped = picogpt.load_shipped("picogpt").model
slipped = picogpt.load_shipped("picogpt").model
with torch.no_grad():
    for block in slipped.h:
        block.attn.c_attn.weight[:256] *= math.sqrt(32 / 256)  # the rows that make the query
some = corpus.val[: picogpt.budget(smoke=2_000, quick=30_000, full=111_540)]
right, wrong = pc.evaluate(shipped, some), pc.evaluate(slipped, some)
print(f"on {len(some):,} characters: with √head_size {right:.3f}, with √n_embd {wrong:.3f}")

assert wrong > right + 0.1, "the wrong root must hurt trained weights"

# %% [markdown]
# The symptom: *trained weights work, but clearly worse than they should*. All heads look too evenly at everything.
#
# ## Masks that hide badly
#
# Why −∞, and not just a very negative number? Many programs write −10,000, since float16, a short number format, knows
# nothing beyond 65,504. At ordinary scores that is enough. But scores are products, and in large models some become very
# large (see the sources). We add −100, −10,000 or −∞ to the scores of the future, as such programs do, and measure the
# weight that is left there.

# %%
torch.manual_seed(0)
T = 16
visible = torch.ones(T, T, dtype=torch.bool).tril()
future = ~visible
for spread in (1, 100, 1_000, 10_000):
    scores = (torch.randn(T, T) * spread).half()  # (T, T), float16
    leaks = []
    for hidden in (-100.0, -10_000.0, float("-inf")):
        mask = torch.zeros(T, T).masked_fill(future, hidden).half()
        weights = (scores + mask).float().softmax(dim=1)  # (T, T)
        leaks.append(f"{hidden:8}: {weights[future].sum() / T:6.1%}")
    print(f"scores of ±{spread:6,}   leak with", "  ".join(leaks))

# %% [markdown]
# −10,000 holds at ordinary scores and leaks when scores are as large as itself. −∞ never leaks. It has one price: a row
# in which *everything* is hidden has no answer.

# %%
nothing = torch.full((1, 4), float("-inf")).softmax(dim=1)
print(nothing)

assert nothing.isnan().all(), "0 / 0"

# %% [markdown]
# `nan`, *not a number*. A causal row always sees itself, so this cannot happen, unless the mask is turned round.
# And that can be done in two ways. If `True` is taken for *hidden* where *visible* was meant, row 0 sees only the future,
# and the last row sees nothing:

# %%
scores = torch.randn(T, T)
inverted = scores.masked_fill(visible, float("-inf")).softmax(dim=1)  # ~ forgotten

assert inverted[-1].isnan().all(), "the last row sees nothing: NaN, loud"
assert inverted[0, 1:].sum() > 0.999, "row 0 takes all from the future: silent"

# %% [markdown]
# That one is loud: NaN spreads through the whole network. The dangerous one hides the past and keeps the diagonal (`triu`
# for `tril`):

# %%
hidden = scores.masked_fill(visible.tril(-1), float("-inf")).softmax(dim=1)

assert not hidden.isnan().any(), "no NaN anywhere"
assert (hidden * future)[:-1].sum(dim=1).min() > 0, "all rows but the last see their answer"

# %% [markdown]
# No NaN appears, and each position but the last has its answer in sight.
#
# We need a test that does not trust the code.
#
# ## The causality probe
#
# Take any trained model and a text. Change the text from some place on. The model's answers *before* that place must not
# move, for what comes later must not matter. No look into the code is needed, so this works on any GPT, whoever wrote it.

# %%
def moved_by_the_future(model, ids, position):
    """How far the logits at each position move when the text from `position` on is changed. (T,)"""
    changed = ids.clone()
    changed[:, position:] = (changed[:, position:] + 1) % 65  # another future, the same past
    with torch.no_grad():
        return (model(ids) - model(changed)).abs().amax(dim=(0, 2))  # (B, T, V) -> (T,)


ids = corpus.val[None, :64]  # (B=1, T=64)
moved = moved_by_the_future(shipped, ids, position=40)

assert moved[:40].max() == 0, f"position {int(moved[:40].argmax())} depends on future tokens"
assert moved[40:].min() > 0, "every later position must depend on the change"

# %% [markdown]
# Not *nearly* nothing: exactly 0. And from position 40 on, everything moves. Both halves matter. A model that ignores its
# input would pass the first.
#
# The probe has a second form. A **Jacobian** tells how strongly each output depends on each input: the gradient of the
# answer at position t with respect to the vector that went in at position j. One picture shows all pairs. For comparison,
# the same weights with the mask switched off.

# %%
def dependence(model, ids):
    """(T, T): how strongly the answer at position t depends on the input at position j."""
    kept = []

    def keep(module, args, out):
        kept.append(out.requires_grad_())

    hook = model.wte.register_forward_hook(keep)
    logits = model.requires_grad_(False)(ids)  # (1, T, V); only the input vectors get gradients
    hook.remove()
    rows = []
    for t in range(ids.shape[1]):
        total = logits[0, t].logsumexp(dim=0)  # one number that moves with all logits at t
        (grad,) = torch.autograd.grad(total, kept[0], retain_graph=True)
        rows.append(grad[0].norm(dim=1))  # (1, T, C) -> (T,)
    return torch.stack(rows)


# %%
blind = picogpt.load_shipped("picogpt").model
for block in blind.h:
    block.attn.config = pc.ModelConfig(causal=False)  # the same weights, no mask
with_mask, without = dependence(shipped, ids[:, :32]), dependence(blind, ids[:, :32])
upper = torch.ones(32, 32, dtype=torch.bool).triu(1)

assert (with_mask[upper] == 0).all(), "no answer depends on a later input"
assert (without[upper] > 0).all(), "without the mask, every answer depends on everything"

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.9), layout="constrained")
for ax, rows, title in ((axes[0], with_mask, "with the mask"), (axes[1], without, "without")):
    shown = rows / rows.max()
    shown = torch.where(shown == 0, torch.nan, shown).log10()  # exactly 0 stays white
    image = ax.imshow(shown, cmap="cividis", vmin=-4, vmax=0)
    ax.set(title=title, xlabel="input at position j", ylabel="answer at position t")
fig.colorbar(image, ax=axes, label="dependence, log10 (white: exactly 0)")
plt.show()

# %% [markdown]
# The triangle above the diagonal is white: zero, for every pair. That is what *causal* means, as a picture.
#
# ## What does a trained head look at?
#
# Now the weights themselves, of a trained model on text it has not learned from. PicoGPT has 3 layers of 8 heads. We
# measure which head looks most at the character just before, and draw it.

# %%
piece = corpus.val[None, 4116:4148]  # (1, 32)
layers = pc.attention_weights(shipped, piece)  # 3 x (1, nh=8, T=32, T=32)
every = torch.cat([w[0] for w in layers])  # (24, T, T): layer by layer, head by head
previous = every.diagonal(offset=-1, dim1=1, dim2=2).mean(dim=1)  # (24,): weight on position t - 1
best = int(previous.argmax())
where = f"layer {best // 8}, head {best % 8}"
print(f"{where}: {previous[best]:.0%} of its weight on the character before")

# %%
fig, ax = plt.subplots(figsize=(5.4, 5.4), layout="constrained")
picogpt.plot_attention(ax, every[best], corpus.tokenizer.decode(piece[0]))
ax.set_title(f"Layer {best // 8}, head {best % 8}, of PicoGPT (bright: much weight)")
plt.show()

# %% [markdown]
# A bright line just below the diagonal: each character looks at its left neighbour. Nobody asked for that. With it
# a position knows two characters, not one, as the trigram of lesson 02 does. Lesson 04 shows what others do.
#
# ## The bug that took four days
#
# In 2024 an engineer asked an AI assistant for a GPT of PicoGPT's size. The attention had no mask. Everything else was
# right. We train the same small model twice, once with the mask, once without.

# %%
steps = picogpt.budget(smoke=1, quick=300, full=2000)
settings = pc.TrainConfig(steps, batch_size=16, eval_every=max(1, steps // 10))
runs, models = {}, {}
for causal in (True, False):
    torch.manual_seed(0)
    config = pc.ModelConfig(block_size=64, n_layer=2, n_head=4, n_embd=64, causal=causal)
    models[causal] = pc.GPT(config)
    runs[causal] = picogpt.train(models[causal], corpus, settings, progress=False)

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
picogpt.plot_history(ax, runs[True].history, "with the mask,")
picogpt.plot_history(ax, runs[False].history, "without,")
ax.axhline(1.4, color="grey", ls=":", lw=1)
ax.text(steps, 1.37, "no honest validation loss lies below", color="grey", va="top", ha="right")
ax.set(ylim=(0, None), title="Which of the two would you ship?")
plt.show()

# %% tags=["nbval-ignore-output"]
for causal, run in runs.items():
    name = "with the mask" if causal else "without"
    print(f"{name:14} validation loss {run.val_losses[-1][1]:.3f}")

# %% [markdown]
# The model without the mask is better by far. Its training loss goes to nearly nothing. Is it overfitting? No: its
# *validation* loss is as small, on text it has never seen. By everything lesson 02 taught, this is a triumph. The
# engineer's run ended at 0.0153.
#
# Now let both write.

# %% tags=["nbval-ignore-output"]
settings = pc.SampleConfig(max_new_tokens=150, temperature=0.8, seed=1)
for causal, model in models.items():
    print("--- with the mask" if causal else "--- without")
    print(picogpt.generate_text(model, corpus.tokenizer, "Before we proceed any further", settings))

# %% [markdown]
# The one with a loss of about 2 writes clumsy Shakespeare. The one with nearly no loss writes garbage. Why? The answer to
# position t stands in the input at position t + 1. Without a mask the model does not guess: it **copies**. In training
# and validation the next character always stands there. When it writes, nothing stands there yet.
#
# So its loss was the loss of copying. Ask the honest question, the one of writing: only the last position, with nothing
# behind it.

# %%
windows = corpus.val[: 64 * 500].view(500, 64)  # (500, T=64)
before, after = windows[:, :40], windows[:, 40]  # 40 characters, and the one to guess
honest = {}
for causal, model in models.items():
    with torch.no_grad():
        honest[causal] = pc.cross_entropy(model(before, last_only=True), after[:, None]).item()

assert steps < 100 or honest[False] > math.log(65), "it never learned to guess"
assert steps < 100 or honest[True] < 2.6, "the masked one does what its loss says"

# %% tags=["nbval-ignore-output"]
for causal, value in honest.items():
    print(f"{'with the mask' if causal else 'without':14} loss at the last position {value:.2f}")

# %% [markdown]
# Worse than blind guessing, which would be 4.17. It is sure of what it cannot see.
#
# Think of the four days. The parameter count was right: a mask has no parameters. The training loss was small, the
# validation loss too. Greedy or random sampling made no difference. The LayerNorm was moved, a LayerNorm added, the
# biases changed. A tool reported 6.71 MB where 9.87 were expected, and that pointed at the attention for the wrong reason
# (lesson 04). Rewriting the attention helped in the end, since the new one had a mask.
#
# And the probe?

# %%
probe = {
    causal: moved_by_the_future(model, ids, position=40)[:40] for causal, model in models.items()
}

assert probe[True].max() == 0, "with the mask: the past does not move"
assert probe[False].min() > 0, "without: every position depends on the change"
for causal, moved in probe.items():
    print(f"{'with the mask' if causal else 'without'}: {(moved > 0).sum()} of 40 positions moved")

# %% [markdown]
# One second, and it needs no training: ask it of a new model, before the first step. Rule: **a validation loss far below
# what others reach on the same text is a bug until proven otherwise.** On Tiny Shakespeare, by characters, we know of no
# honest validation loss below 1.4. Lesson 09 tells who reached what.
#
# ## Your turn
#
# ### 1. The mask
#
# Write `causal_mask(T)`: a (T, T) tensor of booleans, True where row t may look.

# %% tags=["check"]
def check_causal_mask(make):
    try:
        small, mask = make(3), make(6)
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}")
        return
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        print(f"not yet: it returned {type(mask).__name__}, wanted a tensor of booleans")
    elif small.shape != (3, 3) or mask.shape != (6, 6):
        shapes = tuple(small.shape), tuple(mask.shape)
        print(f"not yet: for T = 3 and 6 it has the shapes {shapes}")
    elif not mask.any(dim=1).all():
        row = int((~mask.any(dim=1)).int().argmax())
        print(f"not yet: row {row} may look nowhere: its softmax is NaN")
    elif mask.triu(1).any():
        t, j = mask.triu(1).nonzero()[0].tolist()
        print(f"not yet: row {t} looks at position {j}: cover what comes after t")
    elif (~mask).tril().any():
        t, j = (~mask).tril().nonzero()[0].tolist()
        print(f"not yet: row {t} cannot look at position {j}, which is its past or itself")
    else:
        print("✓ causal")


# %% tags=["exercise"]
def causal_mask(T):
    ...  # your code


check_causal_mask(causal_mask)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def causal_mask(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


check_causal_mask(causal_mask)

# %% [markdown]
# ### 2. A probe of your own
#
# Write `first_dependent(model, T)`. `model` maps ids (1, T) to logits (1, T, 65). Change the last character only, and
# return the first position whose logits move. A causal model gives T − 1. The check runs it on models of its own, and one
# of them cheats by a single position.

# %% tags=["check"]
def toy(visible):
    """A model that averages over the visible positions: enough to be probed."""
    torch.manual_seed(0)
    table, head = torch.randn(65, 8), torch.randn(8, 65)
    weights = visible + 4 * torch.eye(len(visible))  # the own position counts most
    weights = weights / weights.sum(dim=1, keepdim=True)
    return lambda ids: (weights @ table[ids]) @ head  # (1, T, 65)


def check_first_dependent(first):
    ones = torch.ones(12, 12)
    suspects = {"causal": (ones.tril(), 11), "no mask": (ones, 0)}
    suspects["one too far"] = (ones.tril(1), 10)
    for name, (visible, right) in suspects.items():
        try:
            answer = first(toy(visible), 12)
            answer = answer if answer is None else int(answer)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer != right:
            print(f"not yet: for the model '{name}' it gave {answer}, wanted {right}")
            return
    print("✓ your probe catches both cheats")


# %% tags=["exercise"]
def first_dependent(model, T):
    ...  # your code


check_first_dependent(first_dependent)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def first_dependent(model, T):
    ids = torch.arange(T)[None]  # (1, T)
    changed = ids.clone()
    changed[0, -1] += 1
    moved = (model(ids) - model(changed)).abs().amax(dim=(0, 2))  # (T,)
    return int((moved > 0).nonzero()[0])


check_first_dependent(first_dependent)

# %% [markdown]
# ### 3. Which root?
#
# A model has n_embd = 768 and 12 heads. By which number are the scores divided?

# %% tags=["check"]
def check_root(number):
    if not isinstance(number, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(number - 8) < 1e-6:
        print("✓ √(768 / 12) = 8")
    elif abs(number - 768**0.5) < 1e-2:
        print("not yet: that is √n_embd, the slip of this lesson")
    elif abs(number - 64) < 1e-6:
        print("not yet: that is the head size. Take its root")
    else:
        print(f"not yet: {number}. First the size of one head, then its root")


# %% tags=["exercise"]
number = ...  # a number

check_root(number)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_root(math.sqrt(768 / 12))

# %% [markdown]
# ## What you can do now
#
# 1. Write attention as scores, mask, softmax, weighted sum.
# 2. Say what query, key and value are for.
# 3. Divide by √head_size, and suspect √n_embd when borrowed weights do worse than they should.
# 4. Hide the future with −∞, before the softmax, and know how other masks leak.
# 5. Probe any GPT: change the future, and see that the past does not move.
# 6. Distrust a loss that is too good, and know why an unmasked model has one.
#
# Next: [lesson 04](04_multi_head_attention.ipynb) puts many heads side by side, and compares ours with PyTorch's.
#
# ## Sources
#
# - Attention, and the division by the root: Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762).
# - From a mean to attention in steps: Karpathy's lecture [Let's build GPT](https://www.youtube.com/watch?v=kCc8FmEb1nY).
# - Large scores in large models: Dettmers et al. 2022, [arXiv 2208.07339](https://arxiv.org/abs/2208.07339), on outlier
#   features; Dehghani et al. 2023, [arXiv 2302.05442](https://arxiv.org/abs/2302.05442), on attention logits that grow.
# - float16: IEEE 754, largest number 65,504.
# - The log: an engineer's notes of 2024 on a GPT written by an AI assistant.
