"""Studies: variants times seeds, compared in pairs of the same seed; and other people's training logs.

The rows of a study's CSV are those of its runs' histories (see TrainingState), each with `variant` and `seed`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

from picogpt_core import require

from .files import load_rows

# What a study's losses are drawn beside (lesson 02): nats per character on the validation text
NGRAM_LOSSES = {"bigram": 2.482, "5-gram": 1.689, "n-grams up to 7, tuned": 1.585}

# Student's t, two-sided 95 %, for 1, 2, 3, … degrees of freedom; beyond the table 1.96 + 2.5 / df is within 0.005
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


class Difference(NamedTuple):
    """The mean of paired differences in nats, and the interval that holds the true one with 95 % confidence."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, {self.pairs} seeds)"


def losses_by_seed(rows: list[dict]) -> dict[str, dict[int, float]]:
    """Return the last validation loss of each run, by variant and seed."""
    ends: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["val_loss"] is not None:
            ends.setdefault(row["variant"], {})[row["seed"]] = row["val_loss"]
    return ends


def paired_difference(losses: dict[int, float], base: dict[int, float]) -> Difference:
    """Compare two variants over the seeds that both have: `losses` minus `base`.

    Runs of one seed see the same windows and, if they have the same parameters, start from the same weights, so that their
    difference usually scatters less than either loss. The interval is Student's t over the pairs. ValueError for fewer
    than two common seeds.
    """
    seeds = sorted(losses.keys() & base.keys())
    n = len(seeds)
    require(n >= 2, f"{n} seeds in common: an interval needs at least two")
    differences = [losses[seed] - base[seed] for seed in seeds]
    mean = sum(differences) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    t = T_95[n - 2] if n - 2 < len(T_95) else 1.96 + 2.5 / (n - 1)
    half = t * deviation / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def compare(study: Path | list[dict], base: str) -> dict[str, Difference]:
    """Return how far each variant of a study ends from the variant `base`, in pairs of the same seed.

    `study` is its CSV or its rows. ValueError for an unknown `base`.
    """
    ends = losses_by_seed(load_rows(study) if isinstance(study, Path) else study)
    require(base in ends, f"no variant is called {base!r}: {', '.join(ends)}")
    return {name: paired_difference(losses, ends[base]) for name, losses in ends.items() if name != base}


def final_losses(study: Path) -> dict[str, list[float]]:
    """Return the last validation loss of each run in a study's CSV, by variant: one number for each seed."""
    return {variant: list(losses.values()) for variant, losses in losses_by_seed(load_rows(study)).items()}


def summary_of(finals: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean final loss of each variant over its seeds."""
    return {variant: sum(losses) / len(losses) for variant, losses in finals.items()}


def validation_curves(rows: list[dict], variant: str) -> dict[int, list[float]]:
    """Return the validation losses of a variant's runs at each step where all of them have one, in the order of the seeds."""
    runs: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["variant"] == variant and row["val_loss"] is not None:
            runs.setdefault(row["seed"], {})[row["step"]] = row["val_loss"]
    require(bool(runs), f"no variant is called {variant!r} in these rows")
    steps = set.intersection(*(set(run) for run in runs.values()))
    return {step: [run[step] for run in runs.values()] for step in sorted(steps)}


def read_nanogpt_log(text: str) -> list[dict]:
    """Return what nanoGPT prints while it trains as rows for `plot_history`. ValueError if `text` has no such line.

    Its "iter" lines give the loss of one batch, its "step" lines two estimates from random windows: the validation
    loss, and the training loss without dropout, kept as train_estimate.
    """
    number = r"([\d.]+|nan|inf)"
    rows: list[dict] = []
    for line in text.splitlines():
        if found := re.search(rf"iter (\d+): loss {number}", line):
            rows.append(dict(step=int(found[1]), train_loss=float(found[2]), val_loss=None, train_estimate=None))
        elif found := re.search(rf"step (\d+): train loss {number}, val loss {number}", line):
            losses = dict(val_loss=float(found[3]), train_estimate=float(found[2]))
            rows.append(dict(step=int(found[1]), train_loss=None) | losses)
    require(bool(rows), "no line like 'iter 490: loss 1.2073, …' or 'step 500: train loss 1.0899, val loss 1.4640' found")
    return rows
