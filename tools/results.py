"""Write what was measured: docs/results.md, and parts of README.md and docs/doctor.md between markers, from the stored runs.

usage: results.py            write the files
       results.py --check    write nothing; name what differs from the stored runs, and exit with status 1 if anything does

Numbers of stored runs are never typed here. Where a sentence draws a conclusion from them, `holds` states its condition, so
that a new run which contradicts it stops this program instead of being published under the old words.
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import math
import re
import statistics
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import lessons
import picogpt
import picogpt_core as pc
from picogpt import Difference, paired_difference
from picogpt_doctor import guard

RUNS = picogpt.DATA / "runs"
CHECKPOINTS = picogpt.DATA / "checkpoints"
README = lessons.ROOT / "README.md"
DOCTOR = lessons.ROOT / "docs" / "doctor.md"
RESULTS = lessons.ROOT / "docs" / "results.md"
CORE_PATH = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
NANOGPT = 1.4697  # the validation loss that nanoGPT's README reports for its baby model
LOGS_LOSSES = (0.96, 0.84, 0.73, 0.54)  # the training losses that the log reports

# ----- reading


@functools.lru_cache
def rows_of(file: Path, changed: int) -> list[dict]:
    return picogpt.load_rows(file)


def read(name: str) -> list[dict]:
    """The rows of a table in data/runs/: parsed once, since several sections use the same."""
    file = RUNS / f"{name}.csv"
    return rows_of(file, file.stat().st_mtime_ns)


def settings(name: str) -> dict:
    return json.loads((RUNS / f"{name}.json").read_text())


def ends(name: str) -> dict[str, dict[int, dict]]:
    """The last evaluated row of each run of a study, by variant and seed."""
    found: dict[str, dict[int, dict]] = {}
    for row in read(name):
        if row["val_loss"]:
            found.setdefault(row["variant"], {})[row["seed"]] = row
    return found


def mean(runs: dict[int, dict], column: str = "val_loss") -> float:
    return statistics.mean(row[column] for row in runs.values())


def spread(runs: dict[int, dict]) -> float:
    losses = [row["val_loss"] for row in runs.values()]
    return max(losses) - min(losses)


def difference(runs: dict[int, dict], base: dict[int, dict]) -> Difference:
    """Return the validation loss of `runs` less that of `base`, in pairs of a seed."""
    losses, others = ({seed: row["val_loss"] for seed, row in side.items()} for side in (runs, base))
    return paired_difference(losses, others)


def with_interval(d: Difference) -> str:
    return f"{signed(d.mean)} ({signed(d.low)} to {signed(d.high)})"


def parameters(runs: dict[int, dict]) -> int:
    return next(iter(runs.values()))["parameters"]


def size_of(config: dict) -> int:
    """How many parameters a model of these settings has; nothing is allocated for it."""
    with torch.device("meta"):
        return pc.count_parameters(pc.GPT(pc.ModelConfig(**config)))


def val_loss_at(rows: list[dict], train_loss: float) -> float:
    """The validation loss where the training loss passes `train_loss`: a straight line between two evaluations."""
    for a, b in pairwise(rows):
        if b["train_loss"] <= train_loss <= a["train_loss"]:
            part = (a["train_loss"] - train_loss) / (a["train_loss"] - b["train_loss"])
            return a["val_loss"] + part * (b["val_loss"] - a["val_loss"])
    raise ValueError(f"no run passes a training loss of {train_loss}")


def memorising() -> tuple[list[dict], list[dict]]:
    """The evaluations of three and of six layers, trained on and on."""
    rows = [row for row in read("memorising") if row["val_loss"]]
    three, six = ([row for row in rows if row["variant"] == name] for name in ("3 layers", "6 layers"))
    return three, six


def races() -> dict[int, tuple[dict, dict]]:
    """nanoGPT's recipe for a laptop and ours, by seed."""
    rows = read("bench_time_to_loss")
    theirs, ours = ({row["seed"]: row for row in rows if row["what"] == what} for what in ("nanoGPT's CPU recipe", "ours"))
    holds(all(theirs[seed]["val_loss"] > ours[seed]["val_loss"] for seed in ours), "nanoGPT's recipe ends at a higher loss")
    return {seed: (theirs[seed], ours[seed]) for seed in ours}


def times_faster() -> float:
    return statistics.median(theirs["seconds"] / ours["seconds"] for theirs, ours in races().values())


def lesson_seconds() -> dict[str, dict[str, float]]:
    """How long each lesson ran, by lesson and budget."""
    found: dict[str, dict[str, float]] = {}
    for row in read("bench_lessons"):
        found.setdefault(row["lesson"], {})[row["budget"]] = row["seconds"]
    return found


# ----- writing


def holds(condition: bool, conclusion: str) -> None:
    """Raise ValueError unless the stored runs still bear out what the text says about them."""
    if not condition:
        raise ValueError(f"the stored runs no longer show that {conclusion}. Change the sentence in tools/results.py")


def wrapped(text: str) -> str:
    """Break prose into lines of 120 characters. Headings, tables, pictures and sources stay as they are."""
    fill = textwrap.TextWrapper(width=120, break_long_words=False, break_on_hyphens=False).fill
    paragraphs = re.split(r"\n{2,}", text.strip())
    return "\n\n".join(p if p.startswith(("#", "|", "!", "*Runs")) else fill(p) for p in paragraphs)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a column of numbers, other than the first, is aligned to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    numeric = [all(re.match(r"\**[+−]?\d|–", row[i]) for row in body) for i in range(len(body[0]))]
    rule = ["---:" if i and right else "---" for i, right in enumerate(numeric)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), rule, *body])


def signed(x: float) -> str:
    text = f"{x:+.3f}".replace("-", "−")
    return text if float(text[1:]) else text[1:]


def in_words(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[number] if number < len(words) else str(number)


def seeds_of(runs: dict[int, dict]) -> str:
    return f"{in_words(len(runs))} seed{'s' if len(runs) > 1 else ''}"


def listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def machines(rows: list[dict]) -> str:
    """The machines that ran these rows, in words."""
    names = dict.fromkeys(re.sub(r"\(R\)| Processor", "", row["machine"]) for row in rows)
    return listed(name.replace("1 threads", "one thread") for name in names)


def source(name: str, command: str, machine: str = "") -> str:
    """The line under a table: where its numbers come from, and how to measure them again."""
    beside = (
        f"settings: [{name}.json](../data/runs/{name}.json)" if (RUNS / f"{name}.json").exists() else "settings: in the script"
    )
    where = machine or machines(read(name))
    return f"*Runs: [{name}.csv](../data/runs/{name}.csv); {beside}; command: `{command}`; machine: {where}.*"


def link(number: str, folder: str = "notebooks") -> str:
    (script,) = lessons.NOTEBOOKS.glob(f"{number}_*.py")
    return f"[{number}]({folder}/{script.stem}.ipynb)"


# ----- docs/results.md, section by section


def introduction() -> str:
    once, again = ends("ingredients_long")["the recipe"], ends("since_gpt2_long")["picogpt"]  # the same settings
    apart = max(abs(once[seed]["val_loss"] - row["val_loss"]) for seed, row in again.items())
    return f"""
# Results

Everything the course claims with a number was measured, and the runs are stored in [`data/runs/`](../data/runs). This page
is written from them by [`tools/results.py`](../tools/results.py), and a test compares the two. After a new measurement,
`make results` writes the page again.

Unless a table says otherwise, a loss is the **validation loss over the whole validation text of Tiny Shakespeare, in nats
per character, after the last step**. Nothing is estimated from random windows, so the same weights always give the same figure.
[data/README.md](../data/README.md) describes the files and their columns.

On one CPU, with as many threads, a training with the same seed gives the same losses again, to the last digit. On a GPU some
sums are added in an order that varies: three trainings of 2,000 steps, made twice on one card, ended up to {apart:.3f} apart,
seed by seed. So much of a difference between two models is chance there, even with equal seeds."""


def best() -> str:
    runs, history = ends("best")["picogpt"], read("best")
    rows = []
    for seed, row in runs.items():
        mine = [r for r in history if r["seed"] == seed and r["val_loss"]]
        reached = next((f"{r['step']:,}" for r in mine if r["val_loss"] <= NANOGPT), "never")
        rows.append((seed, f"{row['val_loss']:.4f}", f"{row['calibrated_loss']:.4f}", f"{row['seconds']:.0f} s", reached))
    (temperature,) = {row["temperature"] for row in runs.values()}
    train = settings("best")["picogpt"]["train"]
    on_cpu, quick, short = ends("best_cpu")["picogpt"][1337], ends("ten_minutes")["picogpt"], settings("ten_minutes")["picogpt"]
    quick, timed = dict(sorted(quick.items())), quick[1337]
    holds(max(row["val_loss"] for row in quick.values()) < NANOGPT, "each seed is below nanoGPT's figure in ten minutes")
    holds(timed["seconds"] < 600, "two cores train so long in less than ten minutes")
    shipped = []
    for name in ("picogpt", "picogpt-6layer", "draft", "honest", "unmasked"):
        saved = picogpt.load_checkpoint(CHECKPOINTS / f"{name}.safetensors")
        shipped.append((f"`{name}`", f"{pc.count_parameters(saved.model):,}", f"{saved.about['val_loss']:.4f}"))
    megabytes = sum(file.stat().st_size for file in CHECKPOINTS.glob("*.safetensors")) / 1e6
    return f"""
## What PicoGPT reaches

PicoGPT, {parameters(runs):,} parameters, trained with our best recipe: {train["steps"]:,} steps of {train["batch_size"]}
windows on a GPU. The mean of the {seeds_of(runs)} is **{mean(runs):.4f}**, and {mean(runs, "calibrated_loss"):.4f} at a
temperature of {temperature}. Two cores of a CPU trained the first seed in {on_cpu["seconds"] / 60:.0f} minutes, and it ended at
{on_cpu["val_loss"]:.4f}.

{table(("seed", "validation loss", "at the temperature", "training", f"steps until {NANOGPT}"), rows)}

{source("best", "python benchmarks/study.py best")}

{source("best_cpu", "python benchmarks/study.py best_cpu")}

nanoGPT's README reports {NANOGPT} for its baby model of 10.65M parameters, after about 3 minutes on an A100: the best of its
estimates from random windows. The best published figure for a model of that size that we trust is 1.4603 (Lu et al. 2024,
[arXiv 2408.06292](https://arxiv.org/abs/2408.06292)). Neither is calibrated, so compare them with the column *validation
loss*. Our
settings were chosen on a held-out part of the training text, and so was the temperature.

**Ten minutes on two cores are enough for less than {NANOGPT}**: {short["train"]["steps"]:,} steps of
{short["train"]["batch_size"]} windows, with less dropout ({short["model"]["resid_dropout"]} on the branches,
{short["model"]["embd_dropout"]} on the embeddings), end at {listed(f"{row['val_loss']:.4f}" for row in quick.values())}. The
first took {timed["seconds"] / 60:.1f} minutes of an otherwise idle machine, the others, on one thread beside other
work, longer.

{source("ten_minutes", "python benchmarks/study.py ten_minutes")}

![Validation loss over steps of training, for each seed](../figures/picogpt_best.png)

{in_words(len(shipped)).capitalize()} trained models ship in [`data/checkpoints/`](../data/checkpoints) as float16, together
{megabytes:.1f} MB: the first seed above, one with six layers, a small one for speculative decoding, and two small ones that
differ in the causal mask alone (the loss of the one without it is that of copying its answers). All losses were measured
after the rounding; `make checkpoints` trains them again.

{table(("checkpoint", "parameters", "validation loss"), shipped)}"""


def lengths() -> str:
    """What the best recipe was chosen from."""
    runs, chosen = ends("lengths"), "down, dropout 0.2"
    both = runs[chosen].values()
    for column in ("val_loss", "calibrated_loss"):
        of_chosen = [row[column] for row in both]
        lowest = min(row[column] for seeds in runs.values() for row in seeds.values())
        apart = max(of_chosen) - min(of_chosen)
        holds(min(of_chosen) - lowest < apart, f"no {column} is lower than the chosen recipe's by more than its seeds differ")
    rows = [
        (name, seed, f"{row['val_loss']:.4f}", f"{row['calibrated_loss']:.4f}", f"{row['temperature']:.3f}")
        for name, seeds in sorted(runs.items(), key=lambda item: min(row["val_loss"] for row in item[1].values()))
        for seed, row in seeds.items()
    ]
    return f"""
## What the best recipe was chosen from

{len(runs)} recipes of the same length, trained on nine tenths of the training text and judged on its last tenth, with the
temperature that suits each. Unless the name says otherwise: a rate that falls from the start, and dropout of 0.3. *Down* is a
constant rate that comes down over the last 30 %; a dropout in the name is that on the branches (0.4: on the embeddings,
too). The chosen one is *{chosen}*. Some are lower in one column, by less than its own two seeds differ.

{table(("recipe", "seed", "loss on the held-out text", "calibrated", "temperature"), rows)}

{source("lengths", "python benchmarks/study.py lengths")}"""


def trained_alike() -> str:
    runs, train = ends("architecture"), settings("architecture")["picogpt (pre)"]["train"]
    base = runs["picogpt (pre)"]
    rows = []
    for variant, seeds in runs.items():
        apart = "" if seeds is base else with_interval(difference(seeds, base))
        rows.append((variant, f"{parameters(seeds):,}", f"{mean(seeds):.3f}", f"{spread(seeds):.3f}", apart))
    more = runs["block 300"][1337]["tokens"] / base[1337]["tokens"] - 1
    adamw = ends("architecture_adamw")
    d = difference(adamw["post"], adamw["pre"])
    holds(d.high < 0, "with AdamW Post-LN ends clearly lower")
    every = [row["machine"] for seeds in runs.values() for row in seeds.values()]
    elsewhere = sum(machine != base[1337]["machine"] for machine in every)
    again = ends("ingredients")["the recipe"]  # the same settings, on the other kind of processor
    moved = max(abs(again[seed]["val_loss"] - row["val_loss"]) for seed, row in base.items())
    return f"""
## One thing changed at a time

PicoGPT and {len(runs) - 1} variants of it, each trained for {train["steps"]} steps of {train["batch_size"]} windows of 256
characters with Muon, without dropout, for {seeds_of(base)}. So short a training compares models; it does not show what they
can reach. {elsewhere} of the {len(every)} runs stand on another kind of processor than PicoGPT's own three, which ended up to
{moved:.3f} apart, seed by seed, when they were made on both: a difference that is not well above that is not shown here.
Differences are paired by seed, because two runs with the same seed see the same batches; in brackets stands the
interval that holds the true difference with 95 % confidence (Student's t over three pairs, without a correction for the
number of comparisons). An interval across 0 means: not shown.

{table(("variant", "parameters", "mean loss", "largest − smallest", "difference from PicoGPT"), rows)}

The model without a mask has by far the lowest loss because it can see the character that it is asked for. The model trained
on windows of 64 is judged on windows of 256. Windows of 300 hold more text, so that variant reads {more:.0%} more characters
than the others.

{source("architecture", "python benchmarks/study.py architecture")}

With **AdamW** in place of Muon, Pre-LN ends at {mean(adamw["pre"]):.3f} and Post-LN at {mean(adamw["post"]):.3f}. The
difference is {with_interval(d)}. All these models
start from GPT-2's initialisation; lesson 06 looks at another one.

{source("architecture_adamw", "python benchmarks/study.py architecture_adamw")}"""


def against(runs: dict[str, dict[int, dict]], base: str) -> str:
    """A table of a study's variants: parameters, mean loss, and the paired difference from `base` with its interval."""
    rows = []
    for variant, seeds in runs.items():
        apart = "" if variant == base else with_interval(difference(seeds, runs[base]))
        rows.append((variant, f"{parameters(seeds):,}", f"{mean(seeds):.3f}", apart))
    return table(("variant", "parameters", "mean loss", f"difference from {base}"), rows)


def since_gpt2() -> str:
    short, long = ends("since_gpt2"), ends("since_gpt2_long")
    train, longer = (settings(name)["picogpt"]["train"] for name in ("since_gpt2", "since_gpt2_long"))
    dropout = settings("since_gpt2_long")["picogpt"]["model"]["resid_dropout"]
    rows, apart = [], {}
    for variant, seeds in short.items():
        pair = (seeds, long[variant])
        means = [f"{mean(runs):.3f}" for runs in pair]
        if variant == "picogpt":
            rows.append((variant, f"{parameters(seeds):,}", means[0], "", means[1], ""))
            continue
        apart[variant] = [difference(runs, study["picogpt"]) for runs, study in zip(pair, (short, long), strict=True)]
        differences = [with_interval(d) for d in apart[variant]]
        rows.append((variant, f"{parameters(seeds):,}", means[0], differences[0], means[1], differences[1]))
    ahead = [[variant for variant, ds in apart.items() if ds[i].high < 0] for i in (0, 1)]
    behind = [[variant for variant, ds in apart.items() if ds[i].low > 0] for i in (0, 1)]
    holds(ahead == [["rotary positions", "all together"], []], "a clear gain after the short training, and none after the long")
    left = apart["no norm"][1].mean / apart["no norm"][0].mean
    holds(left < 1 / 3, "most of what no norm costs is gone after the long training")
    lengths = [f"{settings_['steps']:,} steps" for settings_ in (train, longer)]
    columns = [words for length in lengths for words in (length, "difference from picogpt")]
    return f"""
## What came since GPT-2

**Rotary positions, and all five changes together, learn faster at first and end no better at
{in_words(longer["steps"] // train["steps"])} times the length.** After {lengths[0]} both are clearly ahead of PicoGPT, by
{-apart["rotary positions"][0].mean:.3f} and {-apart["all together"][0].mean:.3f}; after {lengths[1]} no variant is.

The same training as above ({train["steps"]} steps of {train["batch_size"]} windows, Muon, {seeds_of(short["picogpt"])}), and
one of {longer["steps"]:,} steps with dropout {dropout} on a GPU, with what newer models do differently: one thing at a time,
then RMSNorm, rotary positions, SwiGLU, two heads of keys and values and QK-norm all together. Length is not all that differs
between the two, so each is compared within itself.

{table(("variant", "parameters", *columns), rows)}

Clearly higher after {lengths[0]} end {listed(behind[0])}; after {lengths[1]}, {listed(behind[1])}. Of what no norm costs at
first, {left:.0%} is left. RMSNorm and grouped queries are not meant to lower the loss: the first is the simpler
norm, the second saves memory in the cache. Not tested: rates of their own for each variant (all have PicoGPT's, and the model
without any norm starts from GPT-2's small weights), another size, or a text that is not read over and over.

{source("since_gpt2", "python benchmarks/study.py since_gpt2")}

{source("since_gpt2_long", "python benchmarks/study.py since_gpt2_long")}"""


SAME_QUESTION = {"AdamW, warm-up of 100": "AdamW, rate 0.004"}  # a variant of `ingredients`, and its name in the longer study


def ingredients() -> str:
    runs, longer = ends("ingredients"), ends("ingredients_long")
    base, train = runs["the recipe"], settings("ingredients")["the recipe"]["train"]
    more = settings("ingredients_long")["the recipe"]
    apart, later = (
        {name: difference(seeds, study["the recipe"]) for name, seeds in study.items() if name != "the recipe"}
        for study in (runs, longer)
    )
    for variant in ("no warm-up", "no clipping", "decay on everything", "no weight decay"):
        holds(not apart[variant].clear, f"{variant} makes no clear difference")
    for variant in ("constant rate", "batch 32", "dropout 0.1", "AdamW at its best rate", "AdamW, warm-up of 100"):
        holds(apart[variant].low > 0, f"{variant} ends clearly higher")
    for variant in ("no warm-up", "no clipping", "cosine", "constant, then down", "batch 32", "Muon at its best rate"):
        holds(not later[variant].clear, f"after the longer training {variant} makes no clear difference")
    for variant in ("no weight decay", "constant rate"):
        holds(later[variant].low > 0, f"after the longer training {variant} ends clearly higher")
    holds(later["AdamW, rate 0.004"].high < apart["AdamW, warm-up of 100"].low / 2, "AdamW's distance shrinks")
    adamw = {rate: later[f"AdamW, rate {rate}"] for rate in (0.002, 0.004, 0.008)}
    holds(min(adamw, key=lambda rate: adamw[rate].mean) == 0.002 and adamw[0.002].low > 0, "AdamW's lowest rate is its best")
    warm = difference(runs["AdamW, warm-up of 100"], runs["AdamW at its best rate"])
    holds(not warm.clear, "a longer warm-up makes no clear difference to AdamW")
    average = {v: mean(runs[v], "val_loss_of_average") - mean(runs[v]) for v in ("the recipe", "constant rate")}
    holds(
        average["constant rate"] < 0 < average["the recipe"],
        "averaging helps where the rate does not come down, and only there",
    )
    rows = []
    for name in [*runs, *(name for name in longer if name not in {*runs, *SAME_QUESTION.values()})]:
        cells: list[str] = []
        for study, of, key in ((runs, apart, name), (longer, later, SAME_QUESTION.get(name, name))):
            cells += [f"{mean(study[key]):.3f}" if key in study else "", with_interval(of[key]) if key in of else ""]
        rows.append((name, *cells))
    short, long = (f"{steps:,} steps" for steps in (train["steps"], more["train"]["steps"]))
    return f"""
## What each ingredient of training brings

PicoGPT with Muon, {short} of {train["batch_size"]} windows without dropout, and the same with one thing changed; then the same
questions over {long}, with a dropout of {more["model"]["resid_dropout"]} against memorising. {seeds_of(base).capitalize()},
differences from the recipe paired by seed. Batches of 8 and 32 take twice and half as many steps, so that all read the same
text. AdamW and Muon *at their best rates* have the best of five rates each, found with one seed, with the recipe's 20 steps of
warm-up, on the validation text. *AdamW, warm-up of 100* has the rate 0.004 in both studies; AdamW's other rates have 100 steps
of it, too.

{table(("variant", short, "difference", long, "difference"), rows)}

What is clear after {short} is mostly speed. At {long} batches of 8 and 32 end close to 16, the three schedules that come down
cannot be told apart, and of AdamW's distance a quarter is left, or less: its lowest rate is its best, so that a still lower one
may be better. A constant rate costs the same in both. Weight decay is worth something only in the longer training. Warm-up and
clipping make no difference that {seeds_of(base)} can show in either; another recipe can need them: see below for what AdamW
does without warm-up. Whether 100 steps of it help AdamW here is not clear: {with_interval(warm)}. The two studies also differ
in dropout, processor and number format.

In the shorter study, the mean of the weights over about the last hundred steps, instead of the last ones, changes the loss by
{signed(average["constant rate"])} if the rate stays constant, and by {signed(average["the recipe"])} if it has come down.

{source("ingredients", "python benchmarks/study.py ingredients")}

{source("ingredients_long", "python benchmarks/study.py ingredients_long")}"""


def dropout() -> str:
    runs, rows, apart = ends("dropout"), [], {}
    for steps in (400, 1200, 3600):
        without, with_it = (runs[f"{name}, {steps} steps"] for name in ("no dropout", "dropout"))
        apart[steps] = difference(with_it, without)
        rows.append((f"{steps:,}", f"{mean(without):.3f}", f"{mean(with_it):.3f}", with_interval(apart[steps])))
    holds(apart[400].low > apart[1200].high and apart[1200].low > 0 > apart[3600].high, "dropout pays in the longest only")
    model = settings("dropout")["dropout, 400 steps"]["model"]
    return f"""
## When dropout pays

PicoGPT with and without dropout ({model["resid_dropout"]} on the branches, {model["embd_dropout"]} on the embeddings), three
lengths, each with its whole schedule, {seeds_of(runs["dropout, 400 steps"])}. It costs while the text is still new, and pays
once it has been read often enough to be memorised.

{table(("steps", "without", "with", "difference"), rows)}

{source("dropout", "python benchmarks/study.py dropout")}"""


def split() -> str:
    runs, rows = ends("split"), []
    for steps in (400, 1200):
        whole, less = (runs[f"{name}, {steps} steps"] for name in ("all", "nine tenths"))
        holds(difference(less, whole).low > 0, "the last tenth of the training text matters")
        rows.append((f"{steps:,}", f"{mean(whole):.3f}", f"{mean(less):.3f}", with_interval(difference(less, whole))))
    return f"""
## Where the text is split

The cut between training and validation text falls in the middle of a play. Trained with and without the last tenth of the
training text, and judged on the validation text, {seeds_of(whole)}. Having less to read
is a part of it that was not told apart.

{table(("steps", "whole training text", "without its last tenth", "difference"), rows)}

{source("split", "python benchmarks/study.py split")}"""


def reciting() -> str:
    seeds, rows = {row["seed"] for row in read("reciting")}, []
    for step in (250, 1000, 2000, 3000):
        at = [row for row in read("reciting") if row["step"] == step]
        columns = ("train_loss", "val_loss", "recited_train", "recited_val")
        means = [statistics.mean(row[column] for row in at) for column in columns]
        rows.append((f"{step:,}", *(f"{x:.2f}" for x in means), ", ".join(f"{row['recited_in_full_train']:.0f}" for row in at)))
    holds(not any(row["recited_in_full_train"] for row in read("reciting") if row["step"] == 2000), "none is whole at 2,000")
    holds(not any(row["recited_in_full_val"] for row in read("reciting")), "no passage of the validation text is recited")
    return f"""
## When does a model recite?

PicoGPT on and on without dropout, {in_words(len(seeds))} seeds: after 50 characters of the text, how many of the next 50 it
writes word for word when it takes the likeliest each time, mean of 100 passages, and how many passages in full. The validation
loss turns long before the text is recited.

{
        table(
            (
                "step",
                "training loss",
                "validation loss",
                "recited of the training text",
                "of the validation text",
                "in full, by seed",
            ),
            rows,
        )
    }

{source("reciting", "python benchmarks/study.py reciting")}"""


def biases() -> str:
    runs, newer = ends("biases"), ends("biases_since_gpt2")
    parts = {norm: {name: seeds for name, seeds in runs.items() if name.startswith(norm)} for norm in ("pre", "post")}
    holds(
        difference(runs["pre, qkv bias"], runs["pre"]).high < 0, "with Pre-LN the biases of query, key and value help a little"
    )
    for variant in ("pre, no bias", "post, qkv bias", "post, no bias"):
        holds(not difference(runs[variant], runs[variant.split(",")[0]]).clear, f"{variant}: no clear difference")
    alive = {base: difference(newer[f"{base}, qkv bias"], newer[base]) for base in ("rotary", "QK-norm")}
    holds(alive["rotary"].high < 0 and not alive["QK-norm"].clear, "these biases help with rotary positions alone")
    return f"""
## Biases

PicoGPT without biases in query, key and value (*pre*), with them, and without any; and the same with Post-LN (*post*).
Trained like those above, for {seeds_of(runs["pre"])}, from **equal first matrices**: PyTorch draws random numbers for a bias,
so two models with the same seed, one of them with more biases, otherwise start from different weights.

{against(parts["pre"], "pre")}

{against(parts["post"], "post")}

One difference of the four is clear: with Pre-LN, the biases of query, key and value bring half a hundredth of a nat. Among
four differences one may be clear by chance. An earlier draft said that with Post-LN these biases cost 0.019 (three seeds,
first matrices that differed); that is withdrawn. Lesson 07 tells how it came about. The rows *qkv bias* and *no bias* of
"One thing changed at a time" still come from different first matrices.

{source("biases", "python benchmarks/study.py biases")}

Rotary positions and QK-norm keep the bias of the keys from cancelling. With the biases of query, key and value, PicoGPT with
rotary positions changes by {with_interval(alive["rotary"])}, with QK-norm by {with_interval(alive["QK-norm"])}, in
{seeds_of(newer["rotary"])}.

{source("biases_since_gpt2", "python benchmarks/study.py biases_since_gpt2")}"""


def placement() -> str:
    """The grid of small models, and its decisive cells five times as long."""
    runs, rows = ends("initialisation"), []
    pattern = re.compile(r"([\w-]+), (\w+), (\d+) layers, rate ([\d.e-]+), warm-up (\d+)")
    grid: dict[tuple[str, ...], dict[float, float]] = {}  # losses by rate, for each row and warm-up
    for name, seeds in runs.items():
        init, norm, layers, rate, warm = pattern.fullmatch(name).groups()  # type: ignore[union-attr]
        grid.setdefault((layers, init, norm, warm), {})[float(rate)] = mean(seeds)

    def said(loss: float) -> str:
        return "diverges" if loss == math.inf else "stuck" if loss > 3.3 else f"{loss:.3f}"

    def best(losses: dict[float, float]) -> str:
        rate = min(losses, key=lambda rate: losses[rate])
        edge = " (edge)" if rate in (min(losses), max(losses)) else ""
        return said(losses[rate]) + (f" at {rate:g}{edge}" if losses[rate] < 3.3 else "")

    for layers, init, norm in sorted({key[:3] for key in grid}, key=lambda key: (int(key[0]), key[1], key[2])):
        with_and_without = [grid[layers, init, norm, warm] for warm in ("100", "0")]
        rows.append((layers, init, norm, *map(best, with_and_without), *(said(losses[0.01]) for losses in with_and_without)))
    long = ends("placement_long")
    longer = [
        (init, norm, warm, *(f"{row['val_loss']:.3f}" for _, row in sorted(seeds.items())))
        for (init, norm, warm), seeds in ((name.replace("warm-up ", "").split(", "), seeds) for name, seeds in long.items())
    ]
    pre, post = long["gpt2, pre, warm-up 100"], long["gpt2, post, warm-up 100"]
    holds(difference(post, pre).high < 0, "from GPT-2's weights, with AdamW at 0.01, Post-LN ends lower")
    holds(min(row["val_loss"] for row in long["xavier, post, warm-up 0"].values()) > 3.3, "Post-LN fails without warm-up")
    stuck = [row for row in long["gpt2, post, warm-up 0"].values() if row["val_loss"] > 3.3]
    holds(len(stuck) == 1, "from GPT-2's weights one seed of Post-LN gets stuck without warm-up")
    large, train = ends("placement_picogpt"), settings("placement_picogpt")["gpt2, pre"]["train"]
    apart = {init: difference(large[f"{init}, post"], large[f"{init}, pre"]) for init in ("gpt2", "xavier")}
    holds(not apart["gpt2"].clear, "at PicoGPT's size the two placements end alike from GPT-2's weights")
    holds(apart["xavier"].high < 0, "at PicoGPT's size Post-LN ends lower from Xavier's weights")
    last = [(*name.split(", "), f"{mean(seeds):.3f}", f"{spread(seeds):.3f}") for name, seeds in large.items()]
    return f"""
## Where the LayerNorms stand, from which weights, with how much warm-up

Small models ({settings("initialisation")[next(iter(runs))]["model"]["n_embd"]} wide, windows of 64), AdamW, 300 steps of 32
windows, one seed. For each initialisation and placement: the lowest validation loss over the learning rates, with 100 steps
of warm-up and with none, and the rate where it stands; then the loss at the rate 0.01. *Stuck* is a model that stays at
the frequencies of the characters (3.35).

{table(("layers", "weights", "norm", "best, warm-up 100", "best, none", "at 0.01, warm-up 100", "at 0.01, none"), rows)}

{source("initialisation", "python benchmarks/study.py initialisation")}

Six layers again, five times as long, at the rate 0.01, three seeds:

{table(("weights", "norm", "warm-up", "1337", "1338", "1339"), longer)}

{source("placement_long", "python benchmarks/study.py placement_long")}

And PicoGPT itself, AdamW at {train["learning_rate"]} with {train["warmup_steps"]} steps of warm-up, {train["steps"]:,} steps of
{train["batch_size"]} windows, {seeds_of(large["gpt2, pre"])}:

{table(("weights", "norm", "mean loss", "largest − smallest"), last)}

Post-LN less Pre-LN, in pairs: from GPT-2's weights {with_interval(apart["gpt2"])}, from Xavier's
{with_interval(apart["xavier"])}. The rate is the best of those tried with Pre-LN from GPT-2's weights.

{source("placement_picogpt", "python benchmarks/study.py placement_picogpt")}"""


def memorisation() -> str:
    three, six = memorising()
    rows = []
    for loss in LOGS_LOSSES:
        reached = loss >= min(row["train_loss"] for row in three)
        rows.append((loss, f"{val_loss_at(three, loss):.2f}" if reached else "–", f"{val_loss_at(six, loss):.2f}"))
    lowest = [min(row["val_loss"] for row in rows) for rows in (three, six)]
    return f"""
## What a low training loss is worth

The log reports training losses of {listed(map(str, LOGS_LOSSES))} and takes the lowest for the best. Here three and six
layers are trained on and on without dropout, one seed each, and the validation loss is read off where the training loss
passes those values (– where it never does).

{table(("training loss", "validation loss, 3 layers", "validation loss, 6 layers"), rows)}

The lowest validation loss on the way was {lowest[0]:.2f} with three layers and {lowest[1]:.2f} with six. Whatever the
training loss gains after that point is memorisation.

{source("memorising", "python benchmarks/study.py memorising")}"""


Law = Callable[[np.ndarray], np.ndarray]


def power_law(flops: np.ndarray, losses: np.ndarray, floor: float = 0.0) -> Law:
    """The function floor + a · compute^b that fits best, as in lesson 15."""
    slope, start = np.polyfit(np.log(flops), np.log(losses - floor), 1)
    return lambda c: floor + np.exp(start + slope * np.log(c))


def with_floor(flops: np.ndarray, losses: np.ndarray) -> Law:
    """The same, with the floor whose curve comes nearest."""
    laws = [power_law(flops, losses, floor) for floor in np.arange(0, min(losses), 0.005)]
    return min(laws, key=lambda law: ((law(flops) - losses) ** 2).sum())


def scaling() -> str:
    runs, configs = ends("scaling"), settings("scaling")
    rows, flops, losses = [], [], []
    for variant, seeds in runs.items():
        (tokens,) = {row["tokens"] for row in seeds.values()}
        flops.append(pc.flops_per_token(pc.ModelConfig(**configs[variant]["model"])) * tokens)
        losses.append([row["val_loss"] for _, row in sorted(seeds.items())])
        shown = ", ".join(f"{loss:.4f}" for loss in losses[-1])
        rows.append((variant.removeprefix("width "), f"{parameters(seeds):,}", f"{tokens:,}", shown))
    x, y = np.array(flops), np.array(losses)
    mean_loss = y.mean(axis=1)
    straight = power_law(x[:-1], mean_loss[:-1])(x[-1])
    curved = with_floor(x[:-1], mean_loss[:-1])(x[-1])
    missed = max(abs(with_floor(x[:-1], seed[:-1])(x[-1]) - seed[-1]) for seed in y.T)
    holds(abs(curved - mean_loss[-1]) < abs(straight - mean_loss[-1]), "a power law above a floor predicts better")
    return f"""
## Can the loss of the next size be predicted?

Two layers, five widths, ten characters of training text for each parameter.

{table(("width", "parameters", "characters read", f"validation loss, {in_words(y.shape[1])} seeds"), rows)}

From the means of the first four, a power law in the compute predicts {straight:.3f} for the fifth, and a power law above a
floor predicts {curved:.3f}. The mean turned out to be {mean_loss[-1]:.3f}, so the floor makes the better prediction. That is
luck in part: fitted to a single seed, it misses by up to {missed:.3f}. Lesson 15 draws this.

{source("scaling", "python benchmarks/study.py scaling")}"""


def cheapest(losses: dict[int, list[float]]) -> tuple[float, float]:
    """The size at which the parabola through the lowest loss and its two neighbours is lowest, and its loss (lesson 15)."""
    sizes = sorted(losses)
    means = [statistics.mean(losses[size]) for size in sizes]
    at = min(max(means.index(min(means)), 1), len(sizes) - 2)
    a, b, c = np.polyfit(np.log(np.array(sizes[at - 1 : at + 2]) / sizes[at]), means[at - 1 : at + 2], 2)
    return sizes[at] * math.exp(-b / (2 * a)), c - b * b / (4 * a)


def isoflop() -> str:
    """The best size at each budget, and what came of the prediction for the last."""
    losses: dict[float, dict[int, list[float]]] = {}
    for variant, seeds in [*ends("isoflop").items(), *ends("isoflop_held_out").items()]:
        budget = float(variant.split(" FLOPs")[0])
        losses.setdefault(budget, {})[parameters(seeds)] = [row["val_loss"] for row in seeds.values()]
    counts = {len(seeds) for of in losses.values() for seeds in of.values()}
    holds(len(counts) == 1 and len(losses[max(losses)]) == len(settings("isoflop_held_out")), "all runs are in")
    sizes = sorted({size for of in losses.values() for size in of})
    rows = [
        (f"{size:,}", *(f"{sum(of[size]) / len(of[size]):.3f}" if size in of else "" for of in losses.values()))
        for size in sizes
    ]
    best = [cheapest(of) for of in losses.values()]
    slope = np.polyfit(np.log(list(losses)), np.log([size for size, _ in best]), 1)[0]
    promised = {row["what"]: row for row in read("isoflop_prediction")}
    size, loss = promised.values()
    held = {what: row["low"] <= value <= row["high"] for (what, row), value in zip(promised.items(), best[-1], strict=True)}
    holds(held == {"parameters": True, "val_loss": False}, "the size lies inside what was predicted, the loss outside")
    holds(best[-1][1] > loss["high"], "the prediction promised too low a loss")
    inner = [math.sqrt(one * other) for one, other in pairwise(sorted(losses[loss["flops"]]))]
    holds(size["low"] < inner[0] * 1.2 and inner[-1] < size["high"], "the size could hardly have missed")
    return f"""
## Which size is best for a given amount of computing?

Two layers, several widths, each trained until a budget is spent; mean validation loss of {in_words(counts.pop())} seeds.

{table(("parameters", *(f"{budget:.1e} FLOPs" for budget in losses)), rows)}

The last budget was predicted from the others before it was spent. The size held: best at {size["predicted"]:,.0f} parameters
({size["low"]:,.0f} to {size["high"]:,.0f}), measured {best[-1][0]:,.0f}. The loss did not: {loss["predicted"]:.3f}
({loss["low"]:.3f} to {loss["high"]:.3f}), measured {best[-1][1]:.3f}, outside by {best[-1][1] - loss["high"]:.3f}. With the
widths that were tried, the size could hardly have missed: a lowest point at an inner one lies between {inner[0]:,.0f} and
{inner[-1]:,.0f}. Over the {in_words(len(losses))} budgets the best size grows like the compute to the power of {slope:.2f}.
Lesson 15 draws this.

{source("isoflop", "python benchmarks/study.py isoflop")}

{source("isoflop_held_out", "python benchmarks/study.py isoflop_held_out")}"""


def training_speed() -> str:
    rows = {row["what"]: row for row in read("bench_training")}
    ours, theirs = ({kind: rows[f"{who}, {kind}"] for kind in ("float32", "bfloat16")} for who in ("ours, AdamW", "nanoGPT"))
    least, shown = min(row["rounds"] for row in rows.values()), []
    for what, row in rows.items():
        times = row["tokens_per_second"] / theirs[row["dtype"]]["tokens_per_second"]
        shown.append((what, f"{row['tokens_per_second']:,}", f"{times:.2f}", f"{row['mfu']:.0%}"))
    times = {kind: row["tokens_per_second"] / theirs[kind]["tokens_per_second"] for kind, row in ours.items()}
    holds(min(times.values()) > 1, "our step is faster than nanoGPT's in both number formats")
    holds(ours["float32"]["mfu"] > 1, "our float32 step exceeds the peak of PyTorch's matrix product")
    profile = {row["operation"]: row for row in read("profile_training")}
    config = pc.ModelConfig()
    of_the_work = 12 * config.n_layer * config.n_embd * config.block_size / pc.flops_per_token(config)
    attention = {kind: profile["attention"][kind] for kind in ours}
    holds(min(attention.values()) > 1.5 * of_the_work, "attention takes far more of a step than its part of the FLOPs")
    parts = [(name, f"{row['float32']:.1%}", f"{row['bfloat16']:.1%}") for name, row in profile.items()]
    peak = {kind: ours[kind][f"{kind}_peak_gflops"] for kind in ours}
    return f"""
## Speed of training

PicoGPT's size, 32 windows of 256 characters a step, median of {in_words(least)} or more rounds. The contenders take turns,
each in a process of its own. All but the two rows of Muon have the same fused AdamW. nanoGPT is its own model, optimizer and
loop, with one addition: its autocast works on a GPU only, so in bfloat16 it was given one for the CPU. MFU is the work of the
model as a part of the peak of the same number format, as PyTorch's matrix product reaches it in the same process:
{peak["float32"]:,} GFLOP/s in float32 and {peak["bfloat16"]:,} in bfloat16.

{table(("", "tokens/s", "× nanoGPT in the same number format", "MFU"), shown)}

Like with like, ours makes {times["float32"]:.2f} times nanoGPT's tokens in float32 and {times["bfloat16"]:.2f} times in
bfloat16. More than 100% of a peak is no mistake here. PyTorch gives a float32 matrix product to MKL, which on this AMD
processor leaves half of each vector register unused; PicoGPT's linear layers train as convolutions of width 1, which go to
oneDNN and use all of it.

{source("bench_training", "make bench")}

Where the time of our step goes, with AdamW and not compiled:

{table(("operation", "float32", "bfloat16"), parts)}

In bfloat16 our MFU is {ours["bfloat16"]["mfu"]:.0%}. Attention keeps it from being higher: it is {of_the_work:.0%} of the
FLOPs and {attention["bfloat16"]:.0%} of the time ({attention["float32"]:.0%} in float32). Heads of width 32 make its products
small, and between them the scores pass through memory.

{source("profile_training", "make bench")}"""


def time_to_loss() -> str:
    rows = [(seed, *(f"{row['seconds']:.1f} s, {row['val_loss']:.4f}" for row in pair)) for seed, pair in races().items()]
    log = picogpt.read_nanogpt_log((RUNS / "nanogpt_cpu.log").read_text())
    estimate = next(row["val_loss"] for row in reversed(log) if row["val_loss"])
    ours = size_of(dict(block_size=64, n_layer=1, n_head=4, n_embd=128))
    return f"""
## Time to nanoGPT's documented CPU result

nanoGPT's README has a recipe for a laptop: 4 layers of width 128, windows of 64, 2000 steps of 12 windows. Run by nanoGPT's
own code on our machine, it ended at an estimated validation loss of {estimate:.4f}
([its log](../data/runs/nanogpt_cpu.log)). Here the recipe is replayed in plain PyTorch, in turns with a model of ours of one
layer ({ours:,} parameters). Seconds are of training alone, losses over the whole validation text.

{table(("seed", "nanoGPT's recipe", "ours"), rows)}

nanoGPT's recipe took {times_faster():.1f} times as long as ours (median of the pairs), and ended at a higher loss each time.

{source("bench_time_to_loss", "make bench")}"""


def writing_speed() -> str:
    rows = read("bench_generation")
    shown = [(row["what"], f"{row['characters_per_second']:,}", f"{row['times_transformers']:.2f}") for row in rows]
    speeds = {row["what"]: row["characters_per_second"] for row in rows}
    compiled, onnx, c = (speeds[f"picogpt: {who}"] for who in ("ours, compiled", "ONNX Runtime, its own loop", "gpt.c"))
    return f"""
## Speed of writing

255 characters after one, on one thread, with the shipped weights; transformers has random weights of the same size. Of several
texts at once, all characters count. Median of {rows[0]["rounds"]} rounds.

{table(("", "characters/s", "× transformers"), shown)}

*Everything again each time* means without a cache, as in nanoGPT's `generate`. *Compiled* is `picogpt.CompiledGPT`, which
takes about 15 seconds before the first character. ONNX Runtime has the same step, written with its own operators, and keeps
the cache in place. [gpt.c](../benchmarks/gpt.c) is a program for this architecture alone, and the bar: compiled, ours reaches
{compiled / c:.0%} of its speed, and {compiled / onnx:.0%} of ONNX Runtime's. All of them compute the same logits, which is a
test ([test_compiled.py](../tests/test_compiled.py), [test_peers.py](../tests/test_peers.py)).

The draft model is `draft`, and proposes three characters at a time. It pays if the characters that it gets accepted outweigh
its own steps:

{draft_table(rows, speeds)}

*Expected* is what a round yields, (1 + 3 · accepted), over what it costs, (1 + 3 · cost), with the cost of a draft's step in
steps of the target that read four characters; the rest is what a round does besides, and that four characters cost the target
more than one.

{source("bench_generation", "make bench")}"""


def draft_table(rows: list[dict], speeds: dict[str, int]) -> str:
    """How much of what the draft proposes is accepted, what that should bring, and what it brings."""
    shown = []
    for row in rows:
        if row["accepted"]:
            alone = re.sub("(, and| and) draft", "", row["what"])
            gain = (1 + 3 * row["accepted"]) / (1 + 3 * row["cost_ratio"])
            measured = row["characters_per_second"] / speeds[alone]
            shown.append((alone, f"{row['accepted']:.0%}", f"{row['cost_ratio']:.2f}", f"{gain:.2f}", f"{measured:.2f}"))
    return table(("", "accepted", "cost of a step", "expected gain", "measured gain"), shown)


def gpt2() -> str:
    rows = read("bench_gpt2_memory")
    shown = [(row["way"], row["peak_mb"], row["kept_mb"], f"{row['peak_copies']:.2f}") for row in rows]
    ours = rows[0]
    most = max(row["peak_copies"] for row in rows if row["way"].startswith("ours"))
    return f"""
## GPT-2's weights

On random weights of four shapes, our logits equal those of transformers within 0.0001 and the greedy text is the same: that
is a test ([test_gpt2.py](../tests/test_gpt2.py)). It also compares the published weights where the hub can be reached; from
our machines it could not.

Opening a model of GPT-2's size ({ours["weights_mb"]} MB of weights) takes at most {most:.2f} times their
memory, the mapped file included:

{table(("way", "peak (MB)", "kept at the end (MB)", "peak, × the weights"), shown)}

{source("bench_gpt2_memory", "python benchmarks/gpt2_memory.py", f"torch {ours['torch']}, the processor was not recorded")}"""


def lesson_times() -> str:
    took = {script: lesson_seconds().get(script.stem, {}) for script in lessons.scripts()}
    rows = [
        (link(script.stem[:2], "../notebooks"), title(script), *(f"{t[b]:.0f} s" if b in t else "–" for b in ("quick", "full")))
        for script, t in took.items()
    ]
    total = sum(times.get("quick", 0) for times in took.values())
    return f"""
## How long the lessons run

As plain scripts, from the start of Python to its end. At the budget `quick` all of them together take {total / 60:.1f} minutes.

{table(("", "lesson", "`quick`", "`full`"), rows)}

{source("bench_lessons", "python benchmarks/lesson_times.py")}"""


def verified() -> str:
    checks = read("verified")
    keys = dict.fromkeys((row["machine"], row["python"], row["device"], row["number_format"]) for row in checks)
    rows = []
    for key in keys:
        mine = [row for row in checks if (row["machine"], row["python"], row["device"], row["number_format"]) == key]
        most = max((row for row in mine if row["percent_of_rounding"]), key=lambda row: row["percent_of_rounding"])
        agree = sum(str(row["agrees"]) == "True" for row in mine)
        rows.append((*key, f"{agree} of {len(mine)}", f"{most['percent_of_rounding']:.0f} % ({most['check']})"))
    return f"""
## The same model on other machines

What [`picogpt verify`](../picogpt/verify.py) said where we could run it: how many of its checks agree with the stored float64
results, and how far the furthest of them strays, as a share of what rounding alone may do.

{table(("machine", "Python", "device", "numbers", "checks that agree", "furthest"), rows)}

*Runs: [verified.csv](../data/runs/verified.csv), copied from its reports; command: `python -m picogpt verify`.*"""


def doctor() -> str:
    return f"""
## The doctor, tried on models by others

The scripts in [benchmarks/doctor](../benchmarks/doctor) try the [doctor](doctor.md) on code that was not written for it: on
every causal language model of a released library, on releases before and after a public fix, and on another team's benchmark
of faults. A fourth shows it the faults of our own tests.

{tried("doctor_sweep", doctor_sweep)}

{tried("doctor_wild", doctor_wild)}

{tried("doctor_default_bench", doctor_default_bench)}

{tried("doctor_planted", doctor_planted)}"""


DOCTOR_TRIALS = {
    "doctor_sweep": ("Every causal language model of transformers", "sweep.py"),
    "doctor_wild": ("Releases before and after a fix", "wild.py FOLDER"),
    "doctor_default_bench": ("DEFault-bench's faults", "default_bench.py CLONE"),
    "doctor_planted": ("The faults of our own tests", "planted.py FOLDER --examine"),
}


def tried(name: str, section: Callable[[], str]) -> str:
    """One of the doctor's trials under its heading; without a stored run, what would make one."""
    heading, command = DOCTOR_TRIALS[name]
    there = (RUNS / f"{name}.csv").exists()
    missing = f"No run of the present code is stored yet; `python benchmarks/doctor/{command}` makes one."
    return f"### {heading}\n\n{section().strip() if there else missing}"


def sweep_by_kind() -> dict[str, dict[str, dict[str, str]]]:
    """The sweep's architectures: those with a fault, with what is meant, and the sound ones; of each the checks that fail, with
    our judgement of them."""
    rows = read("doctor_sweep")
    judged = {(row["model"], row["check"]): row["judged"] for row in judgements()}
    examined = [row for row in rows if row["parameters"]]
    found = {row["model"]: {check: judged.get((row["model"], check), "") for check in cells(row["failed"])} for row in examined}
    unknown = [model for model, checks in found.items() if "" in checks.values()]
    holds(not unknown, f"each failure is judged in benchmarks/doctor/transformers.tsv: {unknown} are not")
    faulty = [model for model, checks in found.items() if "fault" in checks.values()]
    unasked = [row["model"] for row in examined if row["exit_status"] == 2]  # the doctor could not examine them
    meant = [m for m, checks in found.items() if checks and set(checks.values()) == {"meant"} and m not in unasked]
    sound = [model for model in found if model not in faulty + meant + unasked]
    holds(len(faulty) + len(meant) + len(sound) + len(unasked) == len(found), "each architecture is counted once")
    kinds = dict(made=list(found), faulty=faulty, meant=meant, sound=sound, unasked=unasked)
    return {kind: {model: found[model] for model in models} for kind, models in kinds.items()}


def alarms(sound: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The sound architectures that the doctor calls ill."""
    return [model for model, checks in sound.items() if "false alarm" in checks.values()]


def doctor_sweep() -> str:
    rows, kinds = read("doctor_sweep"), sweep_by_kind()
    examined = [row for row in rows if row["parameters"]]
    faulty, meant, sound = kinds["faulty"], kinds["meant"], kinds["sound"]
    false = alarms(sound)
    share = len(false) / len(sound)
    holds(share <= 0.02, "at most 2 % of the healthy architectures are called ill")
    holds(not any(row["note"] for row in examined), "no check crashes")
    why = {(row["model"], row["check"]): row["why"] for row in judgements()}
    shown = [(m, check, why[m, check]) for m, checks in faulty.items() for check, word in checks.items() if word == "fault"]
    seconds = sorted(row["seconds"] for row in examined)
    return f"""
Of {len(rows)} architectures in transformers {rows[0]["transformers"]}, {len(kinds["made"])} could be made tiny, with random
weights, and {len(kinds["made"]) - len(kinds["unasked"])} examined ({listed(list(kinds["unasked"]))} take four rows of ids for a
text). {len(faulty)} of them have
a fault of their own, which the table names; each was looked into by hand, and
[docs/upstream](upstream) has reports of most. {in_words(len(meant)).capitalize()} more do on purpose what a causal language
model should not do (CPM-Ant reads its context in both directions). Of the {len(sound)} others the doctor calls {len(false)}
ill ({share:.1%}): {listed(false)}. One examination takes {statistics.median(seconds):.1f} s of the processor in the median, and
{seconds[-1]:.1f} s at most.

{table(("model", "check that fails", "the fault"), shown)}

{source("doctor_sweep", "python benchmarks/doctor/sweep.py")}"""


def cells(text: object) -> list[str]:
    """The parts of a stored cell that holds several."""
    return str(text).split("; ") if text else []


def judgements() -> list[dict]:
    with (lessons.ROOT / "benchmarks" / "doctor" / "transformers.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def doctor_wild() -> str:
    rows = read("doctor_wild")
    pairs = list(zip(rows[::2], rows[1::2], strict=True))

    def said(row: dict) -> str:
        return f"{row['version']}: {'not to be had' if row['missing'] else row['status']}"

    apart = [pair for pair in pairs if pair[0]["status"] == "fail" and pair[1]["status"] in ("pass", "warn")]
    shown = [(b["model"], b["wrong"], b["report"], b["check"], said(b), said(a)) for b, a in pairs]
    holds([b["model"] for b, a in pairs if (b, a) not in apart] == ["lightning"], "Lightning's demo is the one not told apart")
    return f"""
Faults, most of them reported in public, in a release before the fix and in one after it. The doctor
tells {len(apart)} of {len(pairs)} pairs apart: the check named here fails before the fix, and passes after it. It fails
Lightning's demo after the fix, too, and is right: the fix makes a mask for the source and passes it to nothing, and the decoder
reads the targets, which is what the doctor names ([report](upstream/lightning.md)).

{table(("model", "fault", "report", "check", "before", "after"), shown)}

{source("doctor_wild", "python benchmarks/doctor/wild.py FOLDER")}"""


CHOSEN = "only warned of: weights that are larger or smaller in all layers alike may be trained, or set so on purpose"
UNSEEN = {  # operators of DEFault-bench of which something does not fail the model, and why
    "ESW": "rows of a random embedding that changed places are a random embedding",
    **dict.fromkeys(("FSW", "FWI", "ORI"), CHOSEN),
    "QSW": "a random query matrix and a random key matrix that changed places are two random matrices",
}


def doctor_default_bench() -> str:
    rows = read("doctor_default_bench")
    healthy = [row for row in rows if row["kind"] == "healthy"]
    faults = [row for row in rows if row["kind"] != "healthy"]
    effective = [row for row in faults if row["effective"]]
    false = sum(row["found"] for row in healthy)
    shown = []
    for kind in ("wiring", "values", "all"):
        some = [row for row in effective if kind in ("all", row["kind"])]
        found = sum(row["found"] for row in some)
        precision, f1 = found / (found + false), 2 * found / (found + len(some) + false)
        only = sum(row["warned"] for row in some)
        shown.append((kind, len(some), found, only, f"{found / len(some):.3f}", f"{precision:.3f}", f"{f1:.3f}"))
    holds(f1 >= 0.8 and precision >= 0.98, "F1 is at least 0.80 at a precision of 0.98")
    missed: dict[str, int] = {}
    for row in effective:
        if not row["found"]:
            missed[row["operator"]] = missed.get(row["operator"], 0) + 1
    holds(set(missed) <= set(UNSEEN), f"UNSEEN says of each operator that is missed why: {missed}")
    lines = {why: [f"{name} (in {n} cells)" for name, n in missed.items() if UNSEEN[name] == why] for why in UNSEEN.values()}
    unseen = "\n\n".join(f"- {listed(some)}: {why}" for why, some in lines.items() if some) or "Nothing was missed."
    return f"""
[DEFault-bench](https://github.com/SigmaJahan/DEFaultplusplus-Transformer-Debugging) (arXiv 2604.28118) puts faults into
transformers by operators. Those that apply to a decoder, with each value of their grids, were put into tiny GPT-2s and
GPT-Neos of random configurations: {len(faults)} cells, of which {len(faults) - len(effective)} change neither an answer nor
a gradient, so that nothing is there to be found. Of {len(healthy)} healthy models {false} were called ill.

{table(("faults of", "cells", "found", "only warned of", "recall", "precision", "F1"), shown)}

{unseen}

Published figures on the same operators come from another protocol (fine-tuned models, and their training traces), and may stand
beside these but not be compared: DEFault++ 0.909, DeepFD 0.655, AutoTrainer 0.427.

{source("doctor_default_bench", "python benchmarks/doctor/default_bench.py CLONE")}"""


PLANTED = {
    "doctor_hosts": "two GPTs that share no code",
    "doctor_strangers": "layers that mix positions",
    "doctor_kinds": "caches, generation, values",
    "doctor_reports": "what further public reports brought",
    "doctor_loops": "training steps",
    "doctor_checkpoints": "checkpoints",
}


def doctor_planted() -> str:
    rows, shown = read("doctor_planted"), []
    for group, words in PLANTED.items():
        faulty, healthy = ([r for r in rows if r["group"] == group and r["label"] == label] for label in ("faulty", "healthy"))
        counts = (sum(row[column] for row in faulty) for column in ("noticed", "named"))
        shown.append((words, len(faulty), *counts, len(healthy), sum(row["exit_status"] != 0 for row in healthy)))
    return f"""
{len(rows)} labelled programs, which `python benchmarks/doctor/planted.py FOLDER` writes for any tool to be tried on: models,
training steps and checkpoints, faulty and healthy. The doctor's checks were written with these faults in view, so the table
shows what it can name, and not how it does on the next report.

{table(("programs", "faulty", "noticed", "named by the first finding", "healthy", "called ill"), shown)}

{source("doctor_planted", "python benchmarks/doctor/planted.py FOLDER --examine")}"""


SECTIONS = (
    introduction,
    best,
    lengths,
    trained_alike,
    since_gpt2,
    ingredients,
    dropout,
    split,
    biases,
    placement,
    memorisation,
    reciting,
    scaling,
    isoflop,
    training_speed,
    time_to_loss,
    writing_speed,
    gpt2,
    lesson_times,
    verified,
    doctor,
)

# ----- README.md, between its markers


def demo() -> str:
    stored, last = settings("demo"), read("demo")[-1]
    return f"""
This is what `make demo` wrote on our machine ({machines([stored])}) after {last["seconds"]:.0f} seconds of training: a model of
{size_of(stored["model"]):,} parameters with a validation loss of {last["val_loss"]:.2f}. Yours will differ in detail, because
the number of steps is chosen to fit the time on your machine ([history](data/runs/demo.csv),
[settings](data/runs/demo.json), [loss curve](figures/demo_loss.png))."""


def reaches() -> str:
    runs = ends("best")["picogpt"]
    losses = [row["val_loss"] for row in runs.values()]
    lowest, highest = min(losses), max(losses)
    minutes = max(row["seconds"] for row in runs.values()) / 60
    on_cpu = ends("best_cpu")["picogpt"]
    cpu_minutes = on_cpu[1337]["seconds"] / 60
    quick = mean(ends("ten_minutes")["picogpt"])
    timed = ends("ten_minutes")["picogpt"][1337]["seconds"] / 60
    return f"""
With {parameters(runs):,} parameters PicoGPT reaches a validation loss of **{mean(runs):.4f}** nats per character over the
whole validation text ({seeds_of(runs)}: {lowest:.3f} to {highest:.3f}), and {mean(runs, "calibrated_loss"):.4f} at a
temperature that was chosen on held-out training text. Training took {minutes:.0f} minutes on a GPU that it shared and
{cpu_minutes:.0f} on two cores of a CPU ({seeds_of(on_cpu)}, {mean(on_cpu):.3f}), where a recipe that was timed at {timed:.0f}
minutes ends at {quick:.3f} (three seeds).
nanoGPT's README reports {NANOGPT} for its model of 10.65M parameters, after about 3 minutes on an A100; that is the best of
its estimates from random windows, so the two are not strictly comparable. nanoGPT's recipe for a laptop takes
{times_faster():.1f} times as long as a small model of ours, and ends at a higher loss. Every table, with its machine, its
settings and the command behind it, is in [docs/results.md](docs/results.md)."""


# What the log says, what we measured, how sure that is, in which lessons it is shown
CLAIMS = (
    (
        "without the mask: loss 0.0153, and garbage",
        "validation loss {no_mask} without a mask, {pico} with it. Both curves look healthy; only a sample of text, or the "
        "causality probe, shows the fault",
        "{seeds}",
        "03 13",
    ),
    (
        "6.71 MB instead of 9.87: the attention is not there",
        "it was there: torchinfo 1.8.0 leaves parameters of `nn.MultiheadAttention` out of that sum",
        "computed",
        "04",
    ),
    ("do not use `nn.MultiheadAttention`", "with a mask it gives the same output as ours", "a test", "04"),
    (
        "`add_bias_kv`: purpose unknown",
        "it appends one learned key and value, which a position can attend to when nothing else is of use",
        "computed",
        "04",
    ),
    (
        "Pre-LN or Post-LN: no change",
        "it depends. With Muon, Pre-LN {pico} and Post-LN {post} (lesson 07's newer runs, {bias_seeds}: {pre_plain} and "
        "{post_plain}). With AdamW and three times the steps, from GPT-2's weights "
        "{large_pre} and {large_post} (no difference shown), from Xavier's {large_xavier_pre} and {large_xavier_post}",
        "{seeds} each",
        "06",
    ),
    (
        "Post-LN is easier to train",
        "not here: it ends lower in places, and fails more often. Small models, AdamW at 0.01: from GPT-2's weights, Post-LN "
        "{long_post} and Pre-LN "
        "{long_pre} with warm-up, and without it one seed of three learns nothing; from Xavier's, those of the original "
        "Transformer, Post-LN without warm-up learns nothing ({stuck}), and "
        "with it ends at {long_xavier_post}, Pre-LN at {long_xavier_pre} ([table](docs/results.md#where-the-layernorms-stand-"
        "from-which-weights-with-how-much-warm-up))",
        "{seeds}",
        "06",
    ),
    (
        "biases of query, key and value: not important",
        "the key's bias cancels exactly. From equal first matrices, they change Pre-LN by {pre_qkv} and Post-LN, the log's "
        "placement, by {post_qkv} (95 %)",
        "proof; {bias_seeds}",
        "07",
    ),
    ("LayerNorm removes the bias (withdrawn)", "it does not: a counter-example", "proof", "07"),
    (
        "best: Pre-LN with all biases, or Post-LN with none",
        "{pre_all} and {post_none}; PicoGPT {pre_plain}",
        "{bias_seeds}",
        "07",
    ),
    (
        "training losses: nanoGPT 1.7, Raschka's model 1.1, the log's own 0.96",
        "trained alike, validation: the lecture model that the log calls nanoGPT {nanogpt} (*ReLU* among [all variants]"
        "(docs/results.md#one-thing-changed-at-a-time)), Raschka's {book} (*rasbt-scaled*), PicoGPT {pico}, the log's first "
        "model {first}",
        "{seeds}",
        "08",
    ),
    (
        "six layers are better: 0.54",
        "trained alike {six_layers} against {pico}, for {work:.1f} times the compute. Its 0.54 is "
        "memorisation: see the next row",
        "{seeds}",
        "09",
    ),
    (
        "0.96, 0.84, 0.73, 0.54: lower and lower",
        "at these training losses six layers have validation losses of {six_at}: past their best, {six_best}, and memorising "
        "(three layers at the first three: {three_at}, after {three_best})",
        "one seed each",
        "09",
    ),
    (
        "block 300: 2.78M parameters, 0.73",
        "{block_300_size}M; trained alike {block_300} against {pico} with 256, for more text read: no difference shown",
        "{seeds}",
        "08",
    ),
    (
        "train with the full window",
        "yes: trained on windows of 64, the last eighth of a window of 256 has a loss of {last_of_64} instead of {last_of_256}",
        "{seeds}",
        "09",
    ),
    (
        "`[Block()] * n`: the number of parameters does not grow",
        "it is one block, used n times; the doctor names it",
        "a test",
        "08",
    ),
    (
        "PicoGPT's validation loss: “?”",
        "{best}, the mean of {best_seeds} with our best recipe",
        "[results](docs/results.md#what-picogpt-reaches)",
        "09",
    ),
    ("next: KV cache, speculative decoding", "both work, and are exact", "tests", "11 12"),
)


def figures() -> dict[str, object]:
    """The numbers in CLAIMS, each from the stored runs; their conclusions are checked on the way."""
    runs, configs = ends("architecture"), settings("architecture")
    long, with_biases = ends("placement_long"), ends("biases")
    pico = runs["picogpt (pre)"]
    holds(difference(runs["post"], pico).low > 0, "with Muon Post-LN ends higher")
    large = ends("placement_picogpt")
    holds(
        not difference(large["gpt2, post"], large["gpt2, pre"]).clear,
        "with AdamW, from GPT-2's weights, no difference is shown",
    )
    holds(
        difference(large["xavier, post"], large["xavier, pre"]).high < 0,
        "with AdamW, from Xavier's weights, Post-LN ends lower",
    )
    holds(difference(runs["6 layers"], pico).high < 0, "trained alike, six layers are better")
    flops = {name: pc.flops_per_token(pc.ModelConfig(**config["model"])) for name, config in configs.items()}
    best_runs = ends("best")["picogpt"]
    names = dict(
        pico="picogpt (pre)",
        no_mask="no mask",
        post="post",
        nanogpt="ReLU",
        book="rasbt-scaled",
        first="log's original",
        six_layers="6 layers",
        block_300="block 300",
    )
    return memorised() | {
        **{short: f"{mean(runs[name]):.3f}" for short, name in names.items()},
        "seeds": seeds_of(pico),
        "large_pre": f"{mean(large['gpt2, pre']):.3f}",
        "large_post": f"{mean(large['gpt2, post']):.3f}",
        "large_xavier_pre": f"{mean(large['xavier, pre']):.3f}",
        "large_xavier_post": f"{mean(large['xavier, post']):.3f}",
        "long_post": f"{mean(long['gpt2, post, warm-up 100']):.3f}",
        "long_pre": f"{mean(long['gpt2, pre, warm-up 100']):.3f}",
        "stuck": f"{mean(long['xavier, post, warm-up 0']):.2f}",
        "long_xavier_post": f"{mean(long['xavier, post, warm-up 100']):.3f}",
        "long_xavier_pre": f"{mean(long['xavier, pre, warm-up 100']):.3f}",
        "bias_seeds": seeds_of(with_biases["post"]),
        "pre_qkv": with_interval(difference(with_biases["pre, qkv bias"], with_biases["pre"])),
        "post_qkv": with_interval(difference(with_biases["post, qkv bias"], with_biases["post"])),
        "pre_all": f"{mean(with_biases['pre, qkv bias']):.3f}",
        "post_none": f"{mean(with_biases['post, no bias']):.3f}",
        "pre_plain": f"{mean(with_biases['pre']):.3f}",
        "post_plain": f"{mean(with_biases['post']):.3f}",
        "work": flops["6 layers"] / flops["picogpt (pre)"],
        "block_300_size": f"{parameters(runs['block 300']) / 1e6:.2f}",
        "last_of_64": f"{mean(runs['trained on 64'], 'loss_part_7'):.2f}",
        "last_of_256": f"{mean(pico, 'loss_part_7'):.2f}",
        "best": f"{mean(best_runs):.4f}",
        "best_seeds": seeds_of(best_runs),
    }


def memorised() -> dict[str, object]:
    """Validation losses where a long training passes the log's training losses, and the lowest before."""
    three, six = memorising()
    at_six = [val_loss_at(six, loss) for loss in LOGS_LOSSES]
    lowest = min(row["val_loss"] for row in six)
    holds(lowest < min(at_six) and at_six == sorted(at_six), "six layers are past their best, and getting worse")
    return dict(
        six_at=listed(f"{loss:.2f}" for loss in at_six),
        six_best=f"{lowest:.2f}",
        three_at=listed(f"{val_loss_at(three, loss):.2f}" for loss in LOGS_LOSSES[:3]),
        three_best=f"{min(row['val_loss'] for row in three):.2f}",
    )


def claims() -> str:
    shown, runs = figures(), ends("architecture")
    train = settings("architecture")["picogpt (pre)"]["train"]
    apart = max(spread(seeds) for name, seeds in runs.items() if name != "trained on 64")
    rows = [
        (log, measured.format(**shown), sure.format(**shown), ", ".join(map(link, numbers.split())))
        for log, measured, sure, numbers in CLAIMS
    ]
    return f"""
A loss is over the whole validation text, in nats per character. “Trained alike” means {train["steps"]} steps of
{train["batch_size"]} windows of 256 characters with {shown["seeds"]}; the seeds of one model differ by up to {apart:.2f},
except where it is judged on longer windows than it was trained on
([all variants](docs/results.md#one-thing-changed-at-a-time)).

{table(("the log", "measured", "how sure", "lesson"), rows)}"""


def in_lesson(script: Path, pattern: str, what: str) -> str:
    """What the pattern finds in a lesson. ValueError if it finds nothing."""
    found = re.search(pattern, script.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"{script.name} should say {what}")
    return found[1]


def title(script: Path) -> str:
    return in_lesson(script, r"^# # \d\d · (.+)$", "its number and title: # 03 · Causal attention")


def lesson_table() -> str:
    """The lessons in two tables: title and minutes from each lesson, what it builds from the map of lesson 00."""
    map_rows = re.findall(r"^# \| \**(\d\d) [^|]*\| ([^|]*) \| ([^|]*) \|", lessons.scripts()[0].read_text(), re.MULTILINE)
    builds = {number: (build, tell) for number, build, tell in map_rows}
    owner = lessons.address().split("github.com/")[1]

    def row(script: Path) -> tuple[str, ...]:
        number, build = script.stem[:2], builds.get(script.stem[:2], ("", ""))
        minutes = in_lesson(script, r"\*\*Time\*\* (\d+) minutes to read", "how long it takes: **Time** 40 minutes to read")
        quick = lesson_seconds().get(script.stem, {}).get("quick")
        colab = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{script.stem}.ipynb"
        time = f"{minutes}\u00a0min,\u00a0" + ("–" if quick is None else f"{quick:.0f}\u00a0s")
        return link(number), f"**{title(script)}**: {build[0]}", time, f"[open]({colab})", build[1]

    header = ("", "lesson, and what you build", "read, run", "Colab", "what you can tell afterwards")
    core = table(header, [row(script) for script in lessons.scripts() if script.stem[:2] in CORE_PATH])
    later = table(header, [row(script) for script in lessons.scripts() if script.stem[:2] not in CORE_PATH])
    return f"""**The core path**, in order:

{core}

**For later**, once the core path is behind you:

{later}

Running times are those of a whole lesson as a script, at the budget `quick`, on {machines(read("bench_lessons"))}. What a
lesson says of itself is longer and rounded: it leaves room for a notebook and for a slower machine."""


# ----- docs/doctor.md, between its markers


def doctor_checks() -> str:
    """The checks of a model, from the doctor's own registry."""
    rows = []
    for name, (kind, function) in guard.all_checks().items():
        if kind == "model":
            facts, question = guard.facts_of(name), inspect.cleandoc(function.__doc__ or "").splitlines()[0]
            rows.append((name, question, "yes" if facts.essential else "", len(facts.causes)))
    return table(("check", "what must be true", "essential", "causes"), rows)


def doctor_trust() -> str:
    """What the labelled programs say of false alarms, and which faults are not named."""
    rows = read("doctor_planted")
    healthy, faulty = ([row for row in rows if row["label"] == label] for label in ("healthy", "faulty"))
    ill, named = sum(row["exit_status"] != 0 for row in healthy), sum(row["named"] for row in faulty)
    unnamed = Counter(row["fault"][0].lower() + row["fault"][1:] for row in faulty if not row["named"])
    of_each = "; ".join(f"{fault} ({in_words(programs)})" for fault, programs in unnamed.items())
    steps = [row for row in healthy if row["subject"] == "step"]
    softly = sum(row["noticed"] and row["exit_status"] == 0 for row in faulty)
    sound = sweep_by_kind()["sound"]
    faults = [row for row in read("doctor_default_bench") if row["kind"] != "healthy" and row["effective"]]
    found, only = (sum(row[key] for row in faults) for key in ("found", "warned"))
    return f"""
Of the {len(faulty)} faulty programs of our own tests {sum(row["noticed"] for row in faulty)} are noticed ({softly} only by a
warning, which leaves the exit status 0), and {named} named by the first finding; of the {len(healthy)} healthy ones {ill} are
reported as faulty. The checks were written with these programs in view, so neither number is an estimate for yours; only
{len(steps)} of the healthy ones are training steps. Of {in_words(unnamed.total())} programs the first finding says less than it
could: {of_each}.

On code by others: of the {len(sound)} architectures of transformers in which we know of no fault, it fails
{len(alarms(sound))}; of the {len(faults)} faults of DEFault-bench that change anything, it fails {found}, only warns of {only},
and misses {len(faults) - found - only}. Some of its exceptions were learned from these very collections, so this is no
estimate for yours either. [results.md](results.md#the-doctor-tried-on-models-by-others) has the tables."""


PARTS = {"demo": demo, "claims": claims, "lessons": lesson_table, "reaches": reaches}
DOCTOR_PARTS = {"checks": doctor_checks, "trust": doctor_trust}


def filled(text: str, parts: Mapping[str, Callable[[], str]] = PARTS, file: str = "README.md") -> str:
    """A page's text with the parts between its markers written anew. ValueError if a marker is missing or there twice."""
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin (tools/results.py) -->", f"<!-- {name}: end -->"
        found = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"{file} should hold once: {begin} … {end}")
        text = text.replace(found[0], f"{begin}\n\n{wrapped(part())}\n\n{end}")
    return text


def written(section: Callable[[], str]) -> str:
    """The text of a section; an error says which one it is from."""
    try:
        return wrapped(section())
    except (KeyError, ValueError) as error:
        error.add_note(f"in the section {section.__name__!r} of docs/results.md: is each run that it reads in data/runs/?")
        raise


def pages() -> dict[Path, str]:
    """What the files should hold."""
    results = "\n\n".join(map(written, SECTIONS)) + "\n"
    doctor_page = filled(DOCTOR.read_text(encoding="utf-8"), DOCTOR_PARTS, DOCTOR.name)
    return {RESULTS: results, README: filled(README.read_text(encoding="utf-8")), DOCTOR: doctor_page}


def stale() -> list[Path]:
    """The files that do not say what the stored runs say."""
    return [file for file, text in pages().items() if not file.exists() or file.read_text(encoding="utf-8") != text]


def main(words: list[str]) -> int:
    if words == ["--check"]:
        for file in (differing := stale()):
            print(f"error: {file.name} does not say what the stored runs say. Try: make results", file=sys.stderr)
        return bool(differing)
    if words:
        print(__doc__)
        return 2
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
