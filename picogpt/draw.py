"""Schematics: drawings of a mechanism, made from its own numbers. Each function draws on a matplotlib `ax` and returns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from picogpt_core import require

from .plot import INK, WARM, visible_characters

# one palette for all drawings: ink for lines and letters, pale for what stands there, warm for what the drawing is about
PALE, HERE, HIDDEN = "#dce6f2", "#f6c98b", "#eceff1"
SPANS = (PALE, "#f8e2c2", "#d9ead3", "#eadcf0")  # one after the other, for pieces of text side by side


def characters(
    ax, text: str, here: int | Sequence[int] = (), below: Sequence[str] = (), amounts: Tensor | None = None, y: float = 0
):
    """Draw characters as a row of tiles at height `y`. The positions in `here` are marked; `below` holds a line under each.

    With `amounts` (T,), at least 0 each, a tile is white where its amount is exactly 0, and the warmer the larger it is.
    """
    marked = {here} if isinstance(here, int) else set(here)
    colours = [HERE if t in marked else PALE for t in range(len(text))]
    if amounts is not None:
        require(len(amounts) == len(text), f"{len(amounts)} amounts for {len(text)} characters: give one for each")
        colours = [warmth(amount / (amounts.max().item() or 1)) for amount in amounts.tolist()]
    for t, character in enumerate(visible_characters(text)):
        tile = dict(boxstyle="round,pad=0.4", fc=colours[t], ec=INK)
        ax.text(t, y, character, ha="center", va="center", family="monospace", fontsize=14, bbox=tile, zorder=3)
    for t, words in enumerate(below):
        ax.text(t, y - 0.55, words, ha="center", va="center", color=WARM, fontsize=11)
    ax.set(xlim=(-0.6, len(text) - 0.4), ylim=(-0.9, 0.6))
    ax.axis("off")
    return ax


def warmth(share: float):
    """Return white for exactly 0, else a colour from light orange to WARM as `share` goes to 1: nothing small looks like 0."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("warmth", ["#fde9d3", HERE, WARM])
    return "white" if share == 0 else colours(share**0.5)


def look_back(ax, text: str, position: int, weights: Tensor, numbers: bool = True):
    """Draw characters in a row, and from `position` a curve to each that it looks at, as thick as its weight (T,).

    Weights below 0.01 have no curve, and neither has that of `position` itself.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    require(len(weights) == len(text), f"{len(weights)} weights for {len(text)} characters: give one for each")
    shares = weights.tolist()
    characters(ax, text, position, [f"{share:.2f}" for share in shares] if numbers else ())
    top = 0.0
    for t, share in enumerate(shares):
        if t == position or share < 0.01:
            continue
        height = 1.1 + 0.45 * abs(position - t)  # of the control point: the curve reaches half of it
        corners = [(position, 0.32), ((t + position) / 2, height), (t, 0.32)]
        curve = Path(corners, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        ax.add_patch(PathPatch(curve, fc="none", ec=WARM, lw=0.5 + 13 * share, alpha=0.3 + 0.65 * share))
        top = max(top, height / 2 + 0.25)
    ax.set_ylim(-0.9, max(0.6, top + 0.2))
    return ax


def spans(ax, rows: dict[str, Sequence[str]], ids: dict[str, Sequence[int | None]] | None = None, columns: int = 58):
    """Draw texts cut into pieces: each entry of `rows` is a heading and its pieces, as coloured tiles in lines of `columns`.

    `ids` writes a number under each piece; a piece whose id is None is drawn as unknown, with a question mark. A line holds
    as many characters as fit at a figure width of 7.4 inches. Characters that the font lacks are drawn as □.
    """
    from matplotlib import font_manager
    from matplotlib.patches import Rectangle

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans Mono")).get_charmap()
    height, y = (1.0 if ids is None else 1.75), 0.0
    for heading, pieces in rows.items():
        numbers = [""] * len(pieces) if ids is None else ["?" if i is None else str(i) for i in ids[heading]]
        require(len(numbers) == len(pieces), f"{heading}: {len(numbers)} ids for {len(pieces)} pieces: give one for each")
        ax.text(0, y, heading, ha="left", va="center", fontsize=11, color=INK, weight="bold")
        x, y = 0.0, y + 0.75
        for t, (piece, number) in enumerate(zip(pieces, numbers, strict=True)):
            label = "".join(char if ord(char) in known else "□" for char in "".join(visible_characters(piece)))
            wide = max(len(label), len(number)) + 0.7
            if x and x + wide > columns:
                x, y = 0.0, y + height + 0.15
            tile, letters, digits = (WARM, "white", "white") if number == "?" else (SPANS[t % len(SPANS)], "black", INK)
            ax.add_patch(Rectangle((x, y), wide - 0.12, height, fc=tile, ec="none"))
            middle = dict(x=x + wide / 2 - 0.06, ha="center", va="center")
            ax.text(y=y + 0.5, s=label, family="monospace", fontsize=11, color=letters, **middle)
            if number:
                ax.text(y=y + 1.3, s=number, fontsize=10, color=digits, **middle)
            x += wide
        y += height + 0.9
    ax.set(xlim=(-0.2, columns + 0.2), ylim=(y - 0.5, -0.6))
    ax.axis("off")
    return ax


def grid(
    ax, numbers: Tensor, rows: str | Sequence[str] = "", columns: str | Sequence[str] = "", title: str = "", digits: int = 2
):
    """Draw a matrix (rows, columns) as coloured cells with their numbers. -inf and nan are grey cells, nan without a word.

    `rows` and `columns` label them: a string gives one character to each. Negative numbers are blue, positive ones orange.
    """
    from matplotlib.colors import LinearSegmentedColormap

    require(numbers.dim() == 2, f"numbers have shape {tuple(numbers.shape)}: give a matrix (rows, columns)")
    finite = numbers.isfinite()
    largest = numbers[finite].abs().max().item() if finite.any() else 1.0
    colours = LinearSegmentedColormap.from_list("picogpt", ["#5b8db8", "white", "#e8964f"]).with_extremes(bad=HIDDEN)
    ax.imshow(numbers.masked_fill(~finite, float("nan")).numpy(), cmap=colours, vmin=-largest or -1, vmax=largest or 1)
    for i, row in enumerate(numbers.tolist()):
        for j, number in enumerate(row):
            words = f"{number:.{digits}f}" if finite[i, j] else {float("-inf"): "−∞"}.get(number, "")
            ax.text(j, i, words.replace("-", "−"), ha="center", va="center", fontsize=10, color=INK)
    for labels, set_ticks in ((rows, ax.set_yticks), (columns, ax.set_xticks)):
        names = visible_characters(labels) if isinstance(labels, str) else list(labels)
        set_ticks(range(len(names)), names, family="monospace", fontsize=12)
    ax.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    ax.set_xticks([x - 0.5 for x in range(1, numbers.shape[1])], minor=True)
    ax.set_yticks([y - 0.5 for y in range(1, numbers.shape[0])], minor=True)
    ax.grid(which="minor", color="white", lw=2)
    ax.tick_params(which="minor", length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title, fontsize=12)
    return ax


def boxes(ax, places: dict[str, tuple[float, float]], arrows: Sequence[tuple[str, str]] = (), here: Sequence[str] = ()):
    """Draw named boxes at (x, y), one unit apart at least, and arrows from box to box. Those in `here` are marked."""
    drawn = {}
    for name, (x, y) in places.items():
        box = dict(boxstyle="round,pad=0.5", fc=HERE if name in here else PALE, ec=INK)
        drawn[name] = ax.text(x, y, name, ha="center", va="center", fontsize=11, color="black", bbox=box, zorder=3)
    for start, end in arrows:
        for name in (start, end):
            require(name in places, f"an arrow from {start!r} to {end!r}: no box is called {name!r}")
        edge = dict(patchB=drawn[end].get_bbox_patch())  # the start lies under its box, which is drawn later
        ax.annotate("", places[end], places[start], arrowprops=dict(arrowstyle="-|>", color=INK, lw=1.5, **edge), zorder=2)
    across, up = zip(*places.values(), strict=True)
    ax.set(xlim=(min(across) - 0.8, max(across) + 0.8), ylim=(min(up) - 0.6, max(up) + 0.6))
    ax.axis("off")
    return ax


def whole_gpt(
    ax, text: str, ids: Sequence[int], vectors: Sequence[Tensor], probs: Tensor, names: Sequence[str], drawn: int, layers: int
):
    """Draw a whole GPT from top to bottom: text, ids, vectors, blocks, vectors, probabilities, the drawn token.

    `vectors` are two tables (T, C), before the first block and after the last; their first numbers are shown as colours, blue
    below 0 and orange above. `probs` (V,) are those of the next token, `names` the label of each token, `drawn` the id that
    came out.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import FancyBboxPatch, Rectangle

    T, shown = len(text), 5
    C, V = vectors[0].shape[-1], len(probs)
    require(len(ids) == T, f"{len(ids)} ids for {T} characters: give one for each")
    require(all(table.shape == (T, C) for table in vectors), f"vectors must be two tables of the shape ({T}, C)")
    colours = LinearSegmentedColormap.from_list("picogpt", ["#5b8db8", "white", "#e8964f"])

    def caption(y: float, words: str, shape: str = ""):
        ax.text(-0.5, y, words, ha="left", va="center", fontsize=12, color="black")
        ax.text(T - 0.5, y, shape, ha="right", va="center", fontsize=12, color=WARM, family="monospace")

    def down(top: float, bottom: float, columns=range(T), color=INK):
        for t in columns:
            ax.annotate("", (t, bottom), (t, top), arrowprops=dict(arrowstyle="-|>", color=color, lw=1.2, shrinkA=0, shrinkB=0))

    def table(top: float, numbers: Tensor):
        largest = numbers[:, :shown].abs().max().item() or 1.0
        for t, column in enumerate(numbers[:, :shown].tolist()):
            for i, number in enumerate(column):
                shade = colours(0.5 + 0.5 * number / largest)
                ax.add_patch(Rectangle((t - 0.3, top - 0.3 * (i + 1)), 0.6, 0.3, fc=shade, ec="white", lw=1))
            ax.text(t, top - 0.3 * shown - 0.12, "…", ha="center", va="center", fontsize=11, color=INK)

    caption(0.95, "the text", f"T = {T}")
    characters(ax, text)
    down(-0.4, -1.1)
    caption(-1.4, "a number for each character", "(T,)")
    for t, number in enumerate(ids):
        ax.text(t, -1.95, str(number), ha="center", va="center", fontsize=13, family="monospace", color=INK)
    down(-2.25, -2.8)
    caption(-3.1, "a vector: which character, and where", f"(T, {C})")
    table(-3.45, vectors[0])
    down(-5.2, -5.85)

    frame: dict[str, Any] = dict(boxstyle="round,pad=0.1", fc=PALE, ec=INK, zorder=1)
    ax.add_patch(FancyBboxPatch((-0.5, -10.3), T, 4.4, **frame))
    ax.text(-0.35, -6.35, "attention: gather from earlier positions", fontsize=12, va="center", zorder=4)
    for t in range(T):  # a line to each position from itself and from every earlier one: what a causal mask leaves
        line = dict(color=WARM, lw=1.6) if t == T - 1 else dict(color=INK, lw=0.7, alpha=0.5)
        for j in range(t + 1):
            ax.plot([j, t], [-6.85, -8.35], zorder=2, **line)
        ax.plot([t, t], [-6.85, -8.35], "o", color=INK, ms=5, zorder=3)
        ax.plot([t, t], [-8.35, -8.9], color=INK, lw=1.2, zorder=2)
        ax.add_patch(Rectangle((t - 0.3, -9.5), 0.6, 0.6, fc="white", ec=INK, zorder=3))
    ax.text(-0.35, -9.95, "MLP: each position alone", fontsize=12, va="center", zorder=4)
    ax.text(T - 0.65, -9.95, f"{layers} such blocks", fontsize=12, ha="right", va="center", color=WARM, zorder=4)
    down(-10.45, -11.1)
    caption(-11.4, "the vectors, after all blocks", f"(T, {C})")
    table(-11.75, vectors[1])
    down(-13.55, -14.2, [T - 1], WARM)
    caption(-14.5, "from the last one: what comes next?", f"({V},)")

    order = probs.argsort(descending=True)[:shown].tolist()
    order = order if drawn in order else [*order[:-1], drawn]
    for row, token in enumerate(order):
        y, p = -15.1 - 0.6 * row, probs[token].item()
        ax.text(0.4, y, names[token], ha="right", va="center", fontsize=13, family="monospace")
        ax.add_patch(
            Rectangle((0.7, y - 0.2), max((T - 3) * p, 0.02), 0.4, fc=WARM if token == drawn else "#8fb0cc", ec="none")
        )
        ax.text(0.85 + (T - 3) * p, y, f"{p:.0%}" if p >= 0.005 else "<1%", ha="left", va="center", fontsize=12)
    bottom = -15.1 - 0.6 * len(order)
    caption(bottom - 0.2, "drawn by chance:")
    tile = dict(boxstyle="round,pad=0.4", fc=HERE, ec=INK)
    ax.text(T / 2 + 0.3, bottom - 0.2, names[drawn], ha="center", va="center", family="monospace", fontsize=14, bbox=tile)
    caption(bottom - 1.0, "append it to the text, and begin again at the top")
    ax.set(xlim=(-0.75, T - 0.25), ylim=(bottom - 1.4, 1.3))
    ax.axis("off")
    return ax
