"""Predict the best size for a budget before it is spent, from three smaller budgets: data/runs/isoflop_prediction.csv.

    python benchmarks/isoflop.py

At each budget and for each seed, a parabola through the lowest loss and its two neighbours, over the logarithm of the number
of parameters, gives the best size and its loss (Hoffmann et al. 2022, arXiv 2203.15556, their second approach, with three
points in place of all, since the losses of far too large models do not lie on a parabola). The sizes are continued on a
straight line in logarithms. The losses are continued twice, as a power law and as a power law above a floor, because three
budgets cannot decide between the two.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

import picogpt
from picogpt.study import T_95

RUNS = picogpt.ROOT / "data" / "runs"
HELD_OUT = 6.4e12  # FLOPs, four times the largest budget of the study "isoflop"


def ends_of(name: str) -> dict[tuple[float, int], dict[int, float]]:
    """The last validation losses of a study in data/runs: {(budget in FLOPs, seed): {parameters: loss in nats}}."""
    ends: dict[tuple[float, int], dict[int, float]] = {}
    for row in picogpt.load_rows(RUNS / f"{name}.csv"):
        if row["val_loss"]:
            budget = float(row["variant"].split(" FLOPs")[0])
            ends.setdefault((budget, row["seed"]), {})[row["parameters"]] = row["val_loss"]
    return ends


def lowest(losses: dict[int, float]) -> tuple[float, float]:
    """The number of parameters at which the parabola through the lowest loss and its neighbours is lowest, and its loss."""
    sizes = sorted(losses)
    at = min(max(sizes.index(min(sizes, key=losses.__getitem__)), 1), len(sizes) - 2)
    three = sizes[at - 1 : at + 2]
    centre = math.log10(three[1])
    a, b, c = np.polyfit([math.log10(n) - centre for n in three], [losses[n] for n in three], 2)
    return 10 ** (centre - b / (2 * a)), c - b * b / (4 * a)


def main() -> None:
    ends = ends_of("isoflop")
    budgets, seeds = sorted({b for b, _ in ends}), sorted({s for _, s in ends})
    x = [math.log10(b) for b in budgets]
    sizes, losses = [], []
    for seed in seeds:
        best = [lowest(ends[budget, seed]) for budget in budgets]
        slope, start = np.polyfit(x, [math.log10(n) for n, _ in best], 1)
        sizes.append(slope * math.log10(HELD_OUT) + start)
        first, second, third = (loss for _, loss in best)  # at equal steps of the logarithm
        losses.append(float(np.exp(np.polyval(np.polyfit(x, np.log([first, second, third]), 1), math.log10(HELD_OUT)))))
        floor = (first * third - second**2) / (first + third - 2 * second)
        losses.append(floor + (third - floor) ** 2 / (second - floor))
        print(f"seed {seed}: best sizes", *(f"{n:,.0f}" for n, _ in best), end=", ")
        print(f"exponent {slope:.2f}; loss {losses[-2]:.4f} as a power law, {losses[-1]:.4f} with a floor at {floor:.2f}")
    middle, n = statistics.mean(sizes), len(sizes)
    half = T_95[n - 2] * statistics.stdev(sizes) * math.sqrt(1 + 1 / n)  # for one more value, not for the mean
    rows = [
        dict(what="parameters", flops=HELD_OUT, low=10 ** (middle - half), predicted=10**middle, high=10 ** (middle + half)),
        dict(what="val_loss", flops=HELD_OUT, low=min(losses), predicted=statistics.mean(losses), high=max(losses)),
    ]
    picogpt.save_rows(RUNS / "isoflop_prediction.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
