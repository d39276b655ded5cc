"""Reading what studies and other people's trainings measured."""

from __future__ import annotations

import re
from pathlib import Path

from picogpt_core import require

from .files import load_rows


def final_losses(study: Path) -> dict[str, list[float]]:
    """Return the last validation loss of each run in a study's CSV, by variant: one number for each seed."""
    ends = {(row["variant"], row["seed"]): row["val_loss"] for row in load_rows(study)}
    variants = dict.fromkeys(variant for variant, _ in ends)
    return {variant: [loss for (name, _), loss in ends.items() if name == variant] for variant in variants}


def summary_of(finals: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean final loss of each variant over its seeds."""
    return {variant: sum(losses) / len(losses) for variant, losses in finals.items()}


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
