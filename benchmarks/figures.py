"""Draw the README's pictures from the stored runs: python benchmarks/figures.py"""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt

import picogpt

FIGURES = picogpt.ROOT / "figures"
DOWN = json.loads((picogpt.DATA / "runs" / "best.json").read_text())["picogpt"]["train"]["decay_fraction"]


def demo() -> None:
    """The loss of `make demo`, with the blind guess it starts from."""
    history = picogpt.load_rows(picogpt.DATA / "runs" / "demo.csv")
    fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    picogpt.plot_history(ax, history)
    ax.axhline(math.log(65), color="grey", ls=":", lw=1)
    ax.text(history[-1]["step"], math.log(65) - 0.05, "guessing blindly: ln 65", ha="right", va="top", color="grey")
    ax.set_title(f"make demo: {history[-1]['seconds']:.0f} seconds of training")
    fig.savefig(FIGURES / "demo_loss.png", dpi=110)


def best() -> None:
    """Validation loss of PicoGPT's best recipe, each seed, beside nanoGPT's published figure."""
    rows = [row for row in picogpt.load_rows(picogpt.DATA / "runs" / "best.csv") if row["val_loss"]]
    fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for seed, colour in zip(sorted({row["seed"] for row in rows}), ("tab:blue", "tab:orange", "tab:grey"), strict=True):
        steps, losses = zip(*((row["step"], row["val_loss"]) for row in rows if row["seed"] == seed), strict=True)
        ax.plot(steps, losses, "o-", ms=4, color=colour, label=f"PicoGPT, seed {seed}")
    ax.axhline(1.4697, color="grey", ls=":", lw=1)
    ax.text(250, 1.466, "nanoGPT's baby model, 10.65M: 1.4697", color="grey", va="top")
    fall = round((1 - DOWN) * rows[-1]["step"])
    ax.axvline(fall, color="grey", lw=0.8)
    ax.text(fall - 60, 1.74, "from here on the rate falls", color="grey", ha="right", va="top")
    ax.set(xlabel="steps of 32 windows", ylabel="validation loss (nats per character)", ylim=(None, 1.75))
    ax.set_title("PicoGPT, 2,466,369 parameters")
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.95))
    ax.grid(alpha=0.3)
    fig.savefig(FIGURES / "picogpt_best.png", dpi=110)


if __name__ == "__main__":
    plt.switch_backend("Agg")
    demo()
    best()
