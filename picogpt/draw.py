"""Schematics: drawings of a mechanism, made from its own numbers. Each function draws on a matplotlib `ax` and returns it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from picogpt_core import require

from .plot import visible_characters

# one palette for all drawings: ink for lines and letters, pale for what stands there, warm for what the drawing is about
INK, PALE, HERE, WARM, HIDDEN = "#33516b", "#dce6f2", "#f6c98b", "#c2571a", "#eceff1"
SPANS = (PALE, "#f8e2c2", "#d9ead3", "#eadcf0")  # one after the other, for pieces of text side by side


def characters(ax, text: str, here: int | Sequence[int] = (), below: Sequence[str] = ()):
    """Draw characters as a row of tiles. The positions in `here` are marked; `below` holds a line under each tile."""
    marked = {here} if isinstance(here, int) else set(here)
    for t, character in enumerate(visible_characters(text)):
        tile = dict(boxstyle="round,pad=0.4", fc=HERE if t in marked else PALE, ec=INK)
        ax.text(t, 0, character, ha="center", va="center", family="monospace", fontsize=14, bbox=tile, zorder=3)
    for t, words in enumerate(below):
        ax.text(t, -0.55, words, ha="center", va="center", color=WARM, fontsize=11)
    ax.set(xlim=(-0.6, len(text) - 0.4), ylim=(-0.9, 0.6))
    ax.axis("off")
    return ax


def look_back(ax, text: str, position: int, weights: Tensor, numbers: bool = True):
    """Draw characters in a row, and from `position` a curve to each that it looks at, as thick as its weight (T,)."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    require(len(weights) == len(text), f"{len(weights)} weights for {len(text)} characters: give one for each")
    shares = weights.tolist()
    characters(ax, text, position, [f"{share:.2f}" for share in shares] if numbers else ())
    top = 0.0
    for t, share in enumerate(shares):
        if t == position or share == 0:
            continue
        height = 1.1 + 0.45 * abs(position - t)  # of the control point: the curve reaches half of it
        corners = [(position, 0.32), ((t + position) / 2, height), (t, 0.32)]
        curve = Path(corners, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        ax.add_patch(PathPatch(curve, fc="none", ec=WARM, lw=0.5 + 9 * share, alpha=0.3 + 0.65 * share))
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
    """Draw a matrix (rows, columns) as coloured cells with their numbers. -inf and nan are drawn as grey cells.

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
            words = f"{number:.{digits}f}" if finite[i, j] else {float("-inf"): "−∞"}.get(number, "nan")
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
        edges = dict(patchA=drawn[start].get_bbox_patch(), patchB=drawn[end].get_bbox_patch())
        ax.annotate("", places[end], places[start], arrowprops=dict(arrowstyle="-|>", color=INK, lw=1.5, **edges), zorder=2)
    across, up = zip(*places.values(), strict=True)
    ax.set(xlim=(min(across) - 0.8, max(across) + 0.8), ylim=(min(up) - 0.6, max(up) + 0.6))
    ax.axis("off")
    return ax
