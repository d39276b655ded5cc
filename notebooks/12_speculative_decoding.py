# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Speculative decoding
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/not_yet_published/picogpt/blob/main/notebooks/12_speculative_decoding.ipynb)
#
# **You will**
# 1. see why a large model can check several characters much faster than it writes them,
# 2. let a small model guess and a large one check, with three letters and by hand,
# 3. prove that the result is distributed *exactly* as the large model's own text, and break the proof with a slip,
# 4. see on real text which guesses pass,
# 5. predict the gain with a formula, measure it, and say when there is none.
#
# **You need** lessons 10 (probabilities to text) and 11 (the cache).
#
# **Time** 30 minutes to read, half a minute to run.
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
import time

import matplotlib.pyplot as plt
import torch

import picogpt
import picogpt_core as pc

corpus = picogpt.load_corpus()
target, draft = picogpt.load_shipped("picogpt-6layer").model, picogpt.load_shipped("draft").model
print(f"target {pc.count_parameters(target):,} parameters, draft {pc.count_parameters(draft):,}")

# %% [markdown]
# ## Checking is cheaper than writing
#
# With a cache, a step for one character is short of work: it fetches all weights and uses each once. Give it five
# characters, and it fetches the weights once for all five. So *reading* five known characters takes far less time
# than five steps. The trouble with writing is that the next characters are not known yet. What if somebody guessed them?

# %%
def step_seconds(model, T):
    """The shortest of many steps that read T characters behind a text of 100."""
    ids, times = corpus.val[None, : 100 + T], []
    with torch.inference_mode():
        cache = pc.KVCache(model.config)
        model(ids[:, :100], cache=cache)
        for _ in range(picogpt.budget(smoke=3, quick=60, full=300)):
            cache.length = 100
            began = time.perf_counter()
            model(ids[:, 100:], cache=cache)
            times.append(time.perf_counter() - began)
    return min(times)


pc.keep_freed_memory()
checking = [step_seconds(target, T) for T in range(1, 10)]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(range(1, 10), [s / checking[0] for s in checking], "o-", label="a step of the target")
ax.plot(range(1, 10), range(1, 10), ":", color="grey", label="if each cost as much as one")
ax.set(xlabel="characters read in one step", ylabel="time, in steps of one")
ax.legend()
plt.show()

# %% [markdown]
# ## Guess and check, with three letters
#
# The small model, the **draft**, guesses. The large one, the **target**, looks at the guess and says yes or no. If it
# says no, it writes its own. The art is to say yes and no such that the text is *as if the target had written alone*. Not
# similar: the same distribution.
#
# An alphabet of three letters. Draft and target give them these probabilities:

# %%
p_draft = torch.tensor([0.6, 0.3, 0.1])
p_target = torch.tensor([0.3, 0.4, 0.3])
both = torch.minimum(p_draft, p_target)  # where the two agree
left = (p_target - p_draft).clamp(min=0)  # what the draft gives too little of

fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.bar([-0.2, 0.8, 1.8], p_draft, 0.35, color="lightgrey", label="draft")
ax.bar([0.2, 1.2, 2.2], both, 0.35, color="tab:blue", label="target: guesses that pass")
ax.bar([0.2, 1.2, 2.2], left, 0.35, bottom=both, color="tab:orange", label="target: must be added")
ax.set_xticks(range(3), ["a", "b", "c"])
ax.set(xlabel="letter", ylabel="probability")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# The draft says `a` too often: 0.6 instead of 0.3. So let only half of its `a` pass. It says `b` and `c` too seldom: let
# all of these pass. In general, a guess x passes with probability min(1, p_target(x) / p_draft(x)). What passes is the
# blue part. The orange part is missing, and it is just as large as what was rejected. So after a rejection, draw from the
# orange part. Blue plus orange is the target.

# %%
alpha = both.sum().item()
print(f"a guess passes with probability {alpha:.2f}")

assert torch.allclose(both + left, p_target), "blue and orange make the target"
assert abs((1 - alpha) - left.sum().item()) < 1e-6, "what is rejected is what is missing"

# %% [markdown]
# Now with dice, a hundred thousand times. Beside it a slip that looks natural: after a rejection, draw from the whole
# target.

# %%
N, generator = 100_000, torch.Generator().manual_seed(0)
guess = torch.multinomial(p_draft, N, replacement=True, generator=generator)  # (N,)
passes = torch.rand(N, generator=generator) < (p_target / p_draft)[guess]
again = torch.multinomial(left / left.sum(), N, replacement=True, generator=generator)
naive = torch.multinomial(p_target, N, replacement=True, generator=generator)
shares = {
    "exact": torch.where(passes, guess, again).bincount() / N,
    "with the slip": torch.where(passes, guess, naive).bincount() / N,
}
for name, share in shares.items():
    print(f"{name:14}", " ".join(f"{s:.3f}" for s in share), "  target", p_target.numpy())

assert (shares["exact"] - p_target).abs().max() < 0.006, "they scatter by 0.0016"
assert (shares["with the slip"] - p_target).abs().max() > 0.05, "the slip can be seen"

# %% [markdown]
# With the slip the text would look fine. It would be another model's text. A test of the course draws 100,000 times with
# `pc.accept_draft`, the core's version of these lines, compares the shares of letters and of pairs (χ²), and fails with the
# slip.
#
# ## With real models
#
# A round: the draft writes γ characters, one by one. The target reads them all in *one* step, which gives its
# probabilities at each place. Guesses are checked from left to right. The first that fails is replaced, and the rest is
# thrown away. If all pass, the target's last probabilities give one more character for free. So each round yields between
# 1 and γ + 1 characters, for one step of the target.
#
# Greedy text is the easiest proof. It must be the target's, character for character, also where the window of 256 is
# full.

# %%
prompt = torch.tensor([corpus.tokenizer.encode("ROMEO:")])  # (1, T=6)
greedy = pc.SampleConfig(picogpt.budget(smoke=30, quick=270, full=600), temperature=0)
alone = pc.generate(target, prompt, greedy)
together = pc.generate_speculative(target, draft, prompt, greedy, gamma=4)

assert torch.equal(together.ids, alone), "the same text"

# %%
settings = pc.SampleConfig(180, temperature=0.8, seed=2)
done = pc.generate_speculative(target, draft, prompt, settings, gamma=4)
drafted, passed = (sum(column) for column in zip(*done.rounds))
rounds = len(done.rounds)
print(f"{passed + rounds} characters in {rounds} rounds, one step of the target each")
print(f"{passed} of {drafted} guesses passed")

# %% [markdown]
# Guesses behind the first one that failed are thrown away unread. They count as not passed here.
#
# Which ones passed? Blue did. At orange the guess failed, and the target wrote this character instead. Grey is the free one
# after a whole round that passed.

# %%
colours = ["white"] * prompt.shape[1]
for drafted, passed in done.rounds:
    colours += ["lightsteelblue"] * passed + ["orange" if passed < drafted else "lightgrey"]
colours += ["white"] * (done.ids.shape[1] - len(colours))  # what was left for the target alone
fig, ax = plt.subplots(figsize=(10, 3.6), layout="constrained")
row = column = 0
style = {"family": "monospace", "ha": "center", "fontsize": 9}
for shown, colour in zip(picogpt.visible_characters(corpus.tokenizer.decode(done.ids[0])), colours):
    ax.text(column, -row, shown, backgroundcolor=colour, **style)
    row, column = (row + 1, 0) if shown == "\\n" or column > 58 else (row, column + 1)
ax.set(xlim=(-1, 61), ylim=(-row - 1, 1))
ax.axis("off")
plt.show()

# %% [markdown]
# The easy characters are written by the small model, and the large one is needed where there is something to decide.
#
# ## What does it gain?
#
# Two numbers tell. **α** is the probability that a guess passes: the blue part, Σ min(p_target, p_draft), averaged over
# text. **c** is what a step of the draft costs, in steps of the target. If passes were independent of each other, a round
# would yield (1 − α^(γ+1)) / (1 − α) characters and cost γc + 1 steps (Leviathan 2022).

# %%
windows = corpus.val[: 32 * 256].view(32, 256)  # (B=32, T=256)
settings = pc.SampleConfig(temperature=0.8)
with torch.no_grad():
    pair = [pc.next_token_probs(model(windows), settings) for model in (target, draft)]  # (B, T, V)
alpha = torch.minimum(*pair).sum(dim=-1).mean().item()
print(f"alpha = {alpha:.2f}")

# %% [markdown]
# Where does a guess fail? Behind a sign or a space, the first letter of a word is to be guessed, and that is the hardest.

# %%
letters = torch.tensor([c.isalpha() for c in corpus.tokenizer.chars])
is_letter = letters[windows]  # (B, T)
passing = torch.minimum(*pair).sum(dim=-1)[:, :-1]  # (B, T - 1), of the character that comes next
now, after = is_letter[:, :-1], is_letter[:, 1:]  # (B, T - 1) each
places = {"the first letter": after & ~now, "a later letter": after & now}
places["a sign or a space"] = ~after
for what, where in places.items():
    print(f"{what} passes with probability {passing[where].mean():.2f}")

hardest = min(places, key=lambda what: passing[places[what]].mean())
assert hardest == "the first letter", hardest

# %% tags=["nbval-ignore-output"]
c = step_seconds(draft, 1) / checking[0]
print(f"c = {c:.2f}")


def predicted(gamma, alpha, c):
    return (1 - alpha ** (gamma + 1)) / (1 - alpha) / (gamma * c + 1)


# %%
def seconds(write):
    """The mean time of some runs, each with another seed."""
    times = []
    for seed in range(picogpt.budget(smoke=1, quick=3, full=20)):
        began = time.perf_counter()
        n = picogpt.budget(smoke=10, quick=200, full=200)
        write(pc.SampleConfig(n, temperature=0.8, seed=seed))
        times.append(time.perf_counter() - began)
    return sum(times) / len(times)


plain = seconds(lambda settings: pc.generate(target, prompt, settings))
gammas = picogpt.budget(smoke=[1, 2], quick=range(1, 9), full=range(1, 9))
measured = [
    plain / seconds(lambda s, g=g: pc.generate_speculative(target, draft, prompt, s, g))
    for g in gammas
]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(gammas, [predicted(g, alpha, c) for g in gammas], "o--", color="grey", label="predicted")
ax.plot(gammas, measured, "s-", color="tab:blue", label="measured")
ax.axhline(1, color="tab:red", lw=1)
ax.text(max(gammas), 1.03, "the target alone", color="tab:red", ha="right", va="bottom")
ax.set(xlabel="γ: guesses in a round", ylabel="times as fast", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# The measured line lies below the predicted one. The formula forgets that a step which checks γ + 1 characters costs more
# than one of a single character, as the first picture shows, and that drawing and comparing take time too. At the size of
# a large model both hardly count. At ours they do. And with γ too large, guesses are made that nobody will look at.
#
# **When does it lose?** When the draft is not much cheaper, so c is large, or guesses badly, so α is small. By the
# formula some γ helps only if α is larger than c. Let the target guess for itself: every guess passes, α is 1, but c is 1
# too, and nothing is gained.

# %%
myself = pc.generate_speculative(target, target, prompt, pc.SampleConfig(40, seed=1), gamma=4)

assert all(passed == drafted for drafted, passed in myself.rounds), "it agrees with itself"
always = [predicted(g, alpha=0.3, c=0.4) for g in range(1, 9)]
assert max(always) < 1, "α below c: slower, whatever γ"
assert predicted(1, alpha=0.5, c=0.4) > 1, "α above c: γ = 1 helps"

# %% [markdown]
# ## Your turn
#
# ### 1. How often does a guess pass?
#
# Write `pass_rate(p_draft, p_target)` for two tensors of probabilities (V,).

# %% tags=["check"]
def check_pass_rate(rate):
    a, b = torch.tensor([0.5, 0.3, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    c, d = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.5])
    for p, q, right in ((a, b, 0.5), (a, a, 1.0), (c, d, 0.0)):
        try:
            answer = rate(p, q)
            mine = None if answer is None else float(answer)
        except Exception as error:
            print(f"not yet: {type(error).__name__}: {error}")
            return
        if mine is None:
            print("not yet: it returned nothing")
            return
        if not abs(mine - right) < 1e-5:
            print(f"not yet: {mine:.2f} for {p.tolist()} and {q.tolist()}, wanted {right}")
            return
    print("✓ the blue part")


# %% tags=["exercise"]
def pass_rate(p_draft, p_target):
    ...  # your code


check_pass_rate(pass_rate)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
def pass_rate(p_draft, p_target):
    return torch.minimum(p_draft, p_target).sum()


check_pass_rate(pass_rate)

# %% [markdown]
# ### 2. What is it worth?
#
# α = 0.8, c = 0.1, γ = 4. How many times as fast, by the formula?

# %% tags=["check"]
def check_gain(number):
    right = (1 - 0.8**5) / (1 - 0.8) / (4 * 0.1 + 1)
    if not isinstance(number, int | float):
        print("not yet: put a number in place of the three dots")
    elif abs(number - right) < 0.02:
        print(f"✓ {right:.2f}")
    elif abs(number - right * 1.4) < 0.02:
        print("not yet: these are characters in a round. Divide by what the round costs")
    elif abs(number - (1 - 0.8**4) / 0.2 / 1.4) < 0.02:
        print("not yet: the exponent is γ + 1, for the free one at the end")
    else:
        print(f"not yet: {number:.2f}. (1 - α^(γ+1)) / (1 - α), divided by γc + 1")


# %% tags=["exercise"]
number = ...  # a number

check_gain(number)

# %% tags=["solution"] jupyter={"source_hidden": true} cellView="form"
check_gain((1 - 0.8**5) / (1 - 0.8) / (4 * 0.1 + 1))

# %% [markdown]
# ## What you can do now
#
# 1. Explain why checking several characters costs much less than writing them one by one.
# 2. Accept with min(1, p_target / p_draft), and after a rejection draw from max(0, p_target − p_draft).
# 3. Show that the target's distribution comes out, and that a small slip spoils it.
# 4. Measure α and c, predict the gain, and measure it.
# 5. Say when speculation loses.
#
# Next: [lesson 13](13_debugging_clinic.ipynb) turns all proofs of this course into a clinic for other people's GPTs.
#
# ## Sources
#
# - Leviathan, Kalman and Matias 2022, [arXiv 2211.17192](https://arxiv.org/abs/2211.17192). Chen et al. 2023, [arXiv
#   2302.01318](https://arxiv.org/abs/2302.01318): the same idea with p and q exchanged, so this course writes p_target
#   and p_draft.
