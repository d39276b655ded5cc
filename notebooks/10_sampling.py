# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Sampling
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/10_sampling.ipynb)
#
# **You will**
# 1. turn logits into a character, one small step at a time: temperature, top-k, top-p, a draw,
# 2. play with all of them at once, with sliders,
# 3. see what greedy text does, and why,
# 4. know the limits: temperature 0, temperature without end, ties in top-k,
# 5. measure how entropy and repetition change with temperature.
#
# **You need** lesson 02: logits, softmax, loss.
#
# **Time** 25 minutes to read, half a minute to run, longer to play.
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
import asyncio
import html

import matplotlib.pyplot as plt
import torch

import picogpt
import picogpt_core as pc

saved = picogpt.load_shipped("picogpt")
model, tokenizer = saved.model, saved.tokenizer
names = picogpt.visible_characters(tokenizer.chars)

# %% [markdown]
# ## From logits to a character
#
# The model gives 65 logits for the next character: numbers of any size, negative ones too. A softmax makes
# probabilities of them. Then a die is thrown. What comes after *ROMEO:* and a line break?

# %%
def next_logits(text):
    """The logits (V,) for what follows a text."""
    with torch.no_grad():
        return model(torch.tensor([tokenizer.encode(text)]), last_only=True)[0, -1]  # (1, 1, V)


logits = next_logits("ROMEO:\n")
probs = logits.softmax(dim=0)  # (V,)
best = probs.topk(5).indices.tolist()
print(", ".join(f"{names[i]} {probs[i]:.2f}" for i in best))

# %%
def bars(ax, probs, title):
    order = next_logits("ROMEO:\n").argsort(descending=True)[:20]
    ax.bar(range(20), probs[order], color="tab:blue")
    ax.set_xticks(range(20), [names[i] for i in order], family="monospace", fontsize=8)
    ax.set(title=title, ylim=(0, 0.5), xlabel="next character")


# %%
fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars(ax, probs, "The 20 likeliest characters after ROMEO: and a line break")
ax.set(ylabel="probability")
plt.show()

# %% [markdown]
# ## Temperature
#
# Divide the logits by a number, the **temperature**, before the softmax. Below 1 the large ones stand out more. Above 1
# all come closer together. The order never changes.

# %%
def with_temperature(logits, temperature):
    return (logits / temperature).softmax(dim=-1)  # (V,)


fig, axes = plt.subplots(1, 3, figsize=(11, 2.6), layout="constrained", sharey=True)
for ax, temperature in zip(axes, (0.5, 1.0, 2.0)):
    bars(ax, with_temperature(logits, temperature), f"temperature {temperature}")
axes[0].set(ylabel="probability")
plt.show()

# %% [markdown]
# Two limits. Towards 0, all goes to the largest: **greedy**. Division by 0 itself is not possible, so the core treats 0
# as greedy. Towards infinity, all 65 become equal.

# %%
cold, hot = with_temperature(logits, 0.001), with_temperature(logits, 1e6)
greedy = pc.next_token_probs(logits, pc.SampleConfig(temperature=0))

assert torch.allclose(cold, greedy, atol=1e-5), "nearly 0 is nearly greedy"
assert torch.allclose(hot, torch.full((65,), 1 / 65), atol=1e-4), "very hot: all the same"

# %% [markdown]
# ## Top-k: only the k best
#
# The rare characters have little probability each, but there are many of them. Now and then one is drawn, and the text
# goes off the road. **Top-k** keeps the k largest logits and sets the others to −∞.

# %%
def top_k(logits, k):
    kth = logits.topk(k).values[-1]
    return logits.masked_fill(logits < kth, float("-inf"))


kept = top_k(logits, 5).softmax(dim=0)

assert (kept > 0).sum() == 5, "five characters can still be drawn"
assert torch.allclose(top_k(logits, 5), pc.keep_top_k(logits, 5)), "the core does the same"

# %% [markdown]
# What if two logits are equal, and only one of them has room? There is no good reason for either. `<` keeps both, so more
# than k can stay. Others throw one out at random, or by its place. It matters when a test wants exact numbers:

# %%
tied = torch.tensor([3.0, 1.0, 1.0, 0.0])

assert (top_k(tied, 2) > float("-inf")).sum() == 3, "two, and the one that ties with the second"

# %% [markdown]
# ## Top-p: as many as needed
#
# Five candidates are too many in the middle of a word and too few at the start of a line. **Top-p**, also called
# *nucleus*, keeps the fewest that together have at least the probability p.

# %%
def top_p(logits, p):
    ordered, order = logits.sort(descending=True)
    probs = ordered.softmax(dim=0)
    enough = probs.cumsum(dim=0) - probs >= p  # enough is there before this one
    # order.argsort() leads back from the sorted order to that of the vocabulary
    return logits.masked_fill(enough[order.argsort()], float("-inf"))


after_q = next_logits("What is the q")
for text, some in (("line start", logits), ("after a q", after_q)):
    print(f"{text}: {(top_p(some, 0.9) > float('-inf')).sum()} characters have 90 %")

assert torch.equal(top_p(logits, 0.9), pc.keep_top_p(logits, 0.9)), "the core does the same"

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 2.6), layout="constrained", sharey=True)
bars(axes[0], probs, "all")
bars(axes[1], top_k(logits, 5).softmax(dim=0), "top-k 5")
bars(axes[2], top_p(logits, 0.6).softmax(dim=0), "top-p 0.6")
axes[0].set(ylabel="probability")
plt.show()

# %% [markdown]
# ## The draw, and the loop
#
# `torch.multinomial` throws the die. Then the character joins the text, and the model reads on. That is the whole of
# generation. A **seed** makes the dice repeat: the same settings, the same text.

# %%
def write(prompt, n, temperature=1.0, seed=0):
    generator, text = torch.Generator().manual_seed(seed), prompt
    for _ in range(n):
        probs = with_temperature(next_logits(text[-256:]), temperature)
        text += tokenizer.chars[torch.multinomial(probs, 1, generator=generator)]
    return text


# %%
mine = write("ROMEO:\n", 40, 0.8, seed=3)
settings = pc.SampleConfig(40, temperature=0.8, seed=3)
core = picogpt.generate_text(model, tokenizer, "ROMEO:\n", settings)
print(mine)

assert mine == core, "the same seed, the same text"

# %% [markdown]
# ## Play
#
# Now all at once. Move the sliders: text and bars follow. Temperature 0 is greedy. A top-k of 0 and a top-p of 1 keep
# all.

# %%
def settings_of(temperature, top_k, top_p, length, seed):
    """Slider values as settings: 0 and 1 mean no limit."""
    limits = {"top_k": top_k or None, "top_p": top_p if top_p < 1 else None}
    return pc.SampleConfig(length, temperature=temperature, seed=seed, **limits)


def rows_of_bars(probs):
    """The ten likeliest characters as bars in HTML: drawn faster than a figure."""
    for p, i in zip(*(column.tolist() for column in probs.topk(10))):
        bar = f"<div style='background:#1f77b4;height:12px;width:{200 * p:.0f}px'></div>"
        cells = f"<td style='font-family:monospace'>{html.escape(names[i])}</td><td>{bar}</td>"
        yield f"<tr>{cells}<td>{p:.3f}</td></tr>"


# %%
def answer(prompt, **values):
    """Text and bars for the panel, or the reason why not, in words."""
    try:
        config = settings_of(**values)
        text = picogpt.generate_text(model, tokenizer, prompt, config)
        probs = pc.next_token_probs(next_logits(prompt[-256:]), config)
    except ValueError as error:
        return f"<p style='color:#b00'>{html.escape(str(error))}</p>", ""
    style = "white-space:pre-wrap;font-family:monospace;line-height:1.35"
    shown = f"<b>{html.escape(prompt)}</b>{html.escape(text[len(prompt) :])}"
    return f"<div style='{style}'>{shown}</div>", f"<table>{''.join(rows_of_bars(probs))}</table>"

# %%
def sliders():
    import ipywidgets as w

    controls = {
        "prompt": w.Textarea("ROMEO:\n"),
        "temperature": w.FloatSlider(0.8, min=0, max=2, step=0.05),
        "top_k": w.IntSlider(0, min=0, max=65),
        "top_p": w.FloatSlider(1, min=0.05, max=1, step=0.05),
        "length": w.IntSlider(100, min=0, max=500),
        "seed": w.IntSlider(1, min=0, max=50),
    }
    for name, control in controls.items():
        control.description, control.style = name.replace("_", "-"), {"description_width": "90px"}
    return controls


# %%
def playground():
    import ipywidgets as w

    controls, text, chances, waiting = sliders(), w.HTML(), w.HTML(), []

    def update():
        values = {name: control.value for name, control in controls.items()}
        text.value, chances.value = answer(**values)

    def later(change):  # while a slider is dragged, only its last place counts
        while waiting:
            waiting.pop().cancel()
        waiting.append(asyncio.get_event_loop().call_later(0.03, update))

    for control in controls.values():
        control.observe(later, "value")
    update()
    return w.VBox([w.HBox([w.VBox(list(controls.values())), chances]), text])


# %% tags=["nbval-ignore-output"]
try:
    get_ipython()  # is there a kernel behind this?
    from IPython.display import display

    display(playground())
except NameError:
    print("the sliders need a notebook: JupyterLab, VS Code or Colab")

# %% [markdown]
# Without a kernel (on GitHub, or as a plain script) there are no sliders. So here are six corners of the room as a
# figure:

# %%
fig, axes = plt.subplots(2, 3, figsize=(10, 3.4), layout="constrained")
for row, k in zip(axes, (0, 5)):
    for ax, temperature in zip(row, (0, 0.8, 1.5)):
        config = settings_of(temperature, k, 1, 150, 1)
        text = picogpt.generate_text(model, tokenizer, "ROMEO:\n", config)
        ax.text(0, 1, text, va="top", family="monospace", fontsize=7, wrap=True)
        title = f"temperature {temperature}, " + (f"top-k {k}" if k else "all")
        ax.set_title(title, loc="left", fontsize=9)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## What greedy does
#
# Always the likeliest character: is that not the best text? Let it write on.

# %%
n = picogpt.budget(smoke=100, quick=400, full=400)
long = picogpt.generate_text(model, tokenizer, "ROMEO:\n", pc.SampleConfig(n, temperature=0))
print(long[:400])

# %% [markdown]
# It goes in circles. The likeliest line after a line is one that is much like it. No single step is wrong. But people do
# not write the likeliest text (Holtzman 2019). Greedy is good for something else: it has no dice, so a test can ask for
# the same text twice. When a model misbehaves, look at its greedy text first.
#
# ## Entropy and repetition
#
# **Entropy** is the mean surprise that the model expects of its own next character. **Repetition**: which part of all
# pieces of 12 characters has occurred before, in the same text? Both against temperature; the dashed line on the
# right is a piece of Shakespeare of the same length.

# %%
def repeated(text, n=12):
    pieces = [text[i : i + n] for i in range(len(text) - n)]
    return 1 - len(set(pieces)) / len(pieces)


# %%
def entropy(text, temperature):
    """Mean entropy of the model's own predictions along a text, at a temperature, in nats."""
    ids = torch.tensor([tokenizer.encode(text[:256])])
    config = pc.SampleConfig(temperature=temperature)
    with torch.no_grad():
        p = pc.next_token_probs(model(ids), config)  # (1, T, V)
    return -(p * p.clamp(min=1e-12).log()).sum(dim=-1).mean().item()


# %%
length = picogpt.budget(smoke=40, quick=250, full=2000)
heat = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2]
texts = {}
for t in heat:
    config = pc.SampleConfig(length, temperature=t, seed=1)
    texts[t] = picogpt.generate_text(model, tokenizer, "\n", config)
human = picogpt.load_shakespeare()[-length:]

assert repeated(texts[0]) > repeated(texts[1]) or length < 200, "greedy repeats itself"

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(heat, [entropy(text, t) for t, text in texts.items()], "o-")
axes[0].set(xlabel="temperature", ylabel="entropy (nats)", title="How open the next character is")
axes[1].plot(heat, [100 * repeated(text) for text in texts.values()], "o-")
axes[1].axhline(100 * repeated(human), color="grey", ls="--", label="Shakespeare")
axes[1].set(xlabel="temperature", ylabel="repeated pieces of 12 (%)", title="Repetition")
axes[1].legend()
for ax in axes:
    ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Cold text repeats, hot text invents words. In between, from about 0.7 to 1, lies the text one wants to read. There is no
# right temperature, only a taste, which is why there are sliders.
#
# ## Your turn
#
# ### 1. Temperature by hand
#
# Probabilities are 0.5, 0.3, 0.2 at temperature 1. Write `reheat(probs, temperature)`: what are they at another? (The
# logits are not known. But log p is as good: softmax forgets a constant.)

# %% tags=["check"]
def check_reheat(reheat):
    probs = torch.tensor([0.5, 0.3, 0.2])
    for temperature in (0.5, 2.0, 1.0):
        right = (probs.log() / temperature).softmax(dim=0)
        try:
            mine = reheat(probs.clone(), temperature)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if not isinstance(mine, torch.Tensor) or mine.shape != probs.shape:
            print("not yet: return a tensor of three probabilities")
        elif abs(mine.sum() - 1) > 1e-4:
            print(f"not yet: at temperature {temperature} they add up to {mine.sum():.2f}, not 1")
        elif torch.allclose(mine, (probs / temperature).softmax(dim=0), atol=1e-4):
            print("not yet: divide the logarithms, not the probabilities")
        elif not torch.allclose(mine, right, atol=1e-4):
            print(f"not yet: at {temperature} the first is {mine[0]:.3f}, wanted {right[0]:.3f}")
        else:
            continue
        return
    print("✓ reheated")


# %% tags=["exercise"]
def reheat(probs, temperature):
    ...  # your code


check_reheat(reheat)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def reheat(probs, temperature):
    return (probs.log() / temperature).softmax(dim=0)


check_reheat(reheat)

# %% [markdown]
# ### 2. Which order?
#
# The core divides by the temperature first and cuts by top-k or top-p after. Does the order matter? Which of these two
# cuts can keep a different set of characters when the order is changed: "top-k", "top-p", "both" or "neither"?

# %% tags=["check"]
def check_order(which):
    if which == "top-p":
        print("✓ temperature keeps the order, so the same k stay. Top-p looks at probabilities")
    elif which in ("top-k", "both"):
        print("not yet: dividing all logits by the same number does not change which k are largest")
    elif which == "neither":
        print("not yet: at a low temperature the first few have p together sooner")
    else:
        print('not yet: one of "top-k", "top-p", "both", "neither"')


# %% tags=["exercise"]
which = ...  # a word

check_order(which)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_order("top-p")

# %% [markdown]
# ## What you can do now
#
# 1. Write the way from logits to a character: temperature, top-k, top-p, softmax, draw.
# 2. Find your taste with sliders.
# 3. Use greedy text for tests, and dice with a seed for everything else.
# 4. Say what the limits do: 0, infinity, ties.
# 5. Measure entropy and repetition.
#
# Next: [lesson 11](11_kv_cache.ipynb) makes writing fast.
#
# ## Sources
#
# - Top-k: Fan, Lewis and Dauphin 2018, [arXiv 1805.04833](https://arxiv.org/abs/1805.04833).
# - Top-p, and greedy text that repeats: Holtzman et al. 2019, [arXiv 1904.09751](https://arxiv.org/abs/1904.09751).
# - Sliders: [ipywidgets](https://ipywidgets.readthedocs.io).
