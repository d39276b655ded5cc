"""Draw the README's pictures from the stored runs: python benchmarks/figures.py"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

import picogpt_core as pc

FIGURES = pc.ROOT / "figures"


def demo() -> None:
    """The loss of `make demo`, with the blind guess it starts from."""
    history = pc.load_rows(pc.DATA / "runs" / "demo.csv")
    fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    pc.plot_history(ax, history)
    ax.axhline(math.log(65), color="grey", ls=":", lw=1)
    ax.text(history[-1]["step"], math.log(65) - 0.05, "guessing blindly: ln 65", ha="right", va="top", color="grey")
    ax.set_title(f"make demo: {history[-1]['seconds']:.0f} seconds of training")
    fig.savefig(FIGURES / "demo_loss.png", dpi=110)


if __name__ == "__main__":
    plt.switch_backend("Agg")
    demo()
