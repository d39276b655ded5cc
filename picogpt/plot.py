"""Plots: each function draws on a matplotlib `ax` and returns it."""

from __future__ import annotations

from torch import Tensor

from .study import NGRAM_LOSSES, validation_curves

INK, WARM = "#33516b", "#c2571a"  # training and validation; the drawings' dark and orange, too


def visible_characters(text: str) -> list[str]:
    """Return each character as a label; a space and a line break get a sign that can be seen."""
    return [{"\n": "\\n", " ": "␣"}.get(char, char) for char in text]


def plot_attention(ax, weights: Tensor, text: str):
    """Draw the attention weights (T, T) of one head on the T characters of `text`.

    The darker, the more; the colour follows the square root of a weight, so that small ones show.
    """
    labels = visible_characters(text)
    ax.imshow(weights.sqrt(), cmap="Oranges", vmin=0, vmax=1)
    ax.set_xticks(range(len(text)), labels, family="monospace", fontsize=8)
    ax.set_yticks(range(len(text)), labels, family="monospace", fontsize=8)
    ax.set(xlabel="looks at", ylabel="position")
    return ax


def plot_finals(ax, finals: dict[str, list[float]]):
    """Draw the final losses (nats per character) of a study: a row of dots per variant, one per seed, a bar at their mean."""
    for y, losses in enumerate(finals.values()):
        ax.plot(losses, [y] * len(losses), "o", color="tab:blue", alpha=0.7)
        ax.plot([sum(losses) / len(losses)] * 2, [y - 0.3, y + 0.3], color="black")
    ax.set_yticks(range(len(finals)), list(finals))
    ax.invert_yaxis()
    ax.set(xlabel="validation loss (nats per character): dots are seeds, bars their mean")
    ax.grid(alpha=0.3, axis="x")
    return ax


def plot_history(ax, history: list[dict], label: str = "", unit: str = "character"):
    """Draw the training loss as a thin line and the full validation loss as dots, over steps, in nats per `unit`.

    Without a `label` training is dark and validation orange. With one, for several runs in a picture, both have its colour.
    """
    train, val = ([(row["step"], row[key]) for row in history if row[key] is not None] for key in ("train_loss", "val_loss"))
    dark, orange = (None, None) if label else (INK, WARM)
    if train:
        line = ax.plot(*zip(*train, strict=True), lw=1, alpha=0.7, color=dark, label=f"{label} train".strip())[0]
        orange = orange or line.get_color()
    if val:
        ax.plot(*zip(*val, strict=True), "o-", color=orange, label=f"{label} validation".strip())
    ax.set(xlabel="step", ylabel=f"loss (nats per {unit})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_study(ax, rows: list[dict], variants: dict[str, str], bars: bool = True):
    """Draw validation curves of a study (nats per character): the mean over the seeds, with a band from lowest to highest.

    `rows` are those of its CSV, `variants` maps names in it to labels. With `bars`, the n-gram losses of lesson 02 are drawn
    as the lines to beat.
    """
    for variant, label in variants.items():
        curve = validation_curves(rows, variant)
        means = [sum(losses) / len(losses) for losses in curve.values()]
        line = ax.plot(list(curve), means, "o-", ms=3, label=label)[0]
        low, high = ([pick(losses) for losses in curve.values()] for pick in (min, max))
        ax.fill_between(list(curve), low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="step", ylabel="validation loss (nats per character)")
    ax.grid(alpha=0.3)
    if bars:
        plot_ngrams(ax)
    ax.legend()
    return ax


def plot_ngrams(ax, side: str = "right"):
    """Draw the losses of the n-gram models of lesson 02 (nats per character) as dashed lines, labelled at this side."""
    lowest = min(NGRAM_LOSSES.values())
    for name, loss in NGRAM_LOSSES.items():
        ax.axhline(loss, ls="--", lw=1, color="grey")
        below = dict(ha=side, va="top" if loss == lowest else "bottom")  # two of them lie close together
        white = dict(boxstyle="square,pad=0.1", fc="white", ec="none", alpha=0.7)  # a curve may run behind the words
        at = (1 if side == "right" else 0, loss)
        ax.annotate(name, at, xycoords=("axes fraction", "data"), fontsize=9, color="dimgrey", bbox=white, **below)
    return ax
