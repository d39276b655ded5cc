"""A page element without a kernel: a text in which each character shows what every attention head takes from where.

It is one piece of HTML with its data and its script inside, so it works in a stored notebook, in Jupyter, VS Code and Colab,
and on the course's site, and it loads nothing. Where scripts are taken out, as on GitHub, one sentence stands in its place.
"""

from __future__ import annotations

import base64
import json

import torch
from torch import Tensor

from picogpt_core import require

from .draw import HERE, INK, PALE, WARM


def head_page(text: str, weights: Tensor, worth: list[float] | None = None) -> str:
    """Return the HTML of the element for the causal weights (heads, T, T) of eight heads a layer on the T characters of `text`.

    `worth` is a number for each head, written on it and shown as its colour. Weights are stored in steps of 1/255.
    """
    heads, T, _ = weights.shape
    require(len(text) == T, f"weights of {T} positions for {len(text)} characters: give one for each")
    require(worth is None or len(worth) == heads, f"{len(worth or [])} numbers for {heads} heads: give one for each")
    t, j = torch.tril_indices(T, T)
    below = weights[:, t, j]  # (heads, T (T + 1) / 2), row after row
    packed = base64.b64encode((below * 255).round().byte().numpy().tobytes()).decode()
    data = json.dumps({"text": text, "heads": heads, "worth": worth and [round(w, 3) for w in worth], "weights": packed})
    page = TEMPLATE
    for name, value in {"DATA": data.replace("<", "\\u003c"), "INK": INK, "PALE": PALE, "HERE": HERE, "WARM": WARM}.items():
        page = page.replace(f"@{name}@", value)
    return page


def show_heads(text: str, weights: Tensor, worth: list[float] | None = None) -> None:
    """Show the element below a cell. Without a notebook, print where it works."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is None:
        print("the page element needs a notebook: JupyterLab, VS Code or Colab, or the course's site")
    else:
        display(HTML(head_page(text, weights, worth)))


TEMPLATE = """\
<div class="picogpt-heads"><p><em>Here is a picture that answers to the mouse. It needs scripts, which have been taken out
of this page: run the cell, or open the lesson on the course's site.</em></p></div>
<style>
.picogpt-heads.on { background: #fff; color: #222; border: 1px solid #ccc; border-radius: 8px; padding: 10px; max-width: 740px;
  font: 14px/1.4 system-ui, sans-serif; box-sizing: border-box }
.picogpt-heads .text { font-family: ui-monospace, Menlo, Consolas, monospace; cursor: pointer; user-select: none;
  -webkit-user-select: none; touch-action: pan-y; outline-offset: 4px }
.picogpt-heads .text i { display: inline-block; width: .62em; line-height: 1.75; text-align: center; font-style: normal }
.picogpt-heads .text i.later { opacity: .35 }
.picogpt-heads .text i.here { background: @INK@ !important; color: #fff }
.picogpt-heads .said { min-height: 2.9em; margin: 8px 0 }
.picogpt-heads .all { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 5px }
.picogpt-heads.small .all { grid-template-columns: repeat(4, minmax(0, 1fr)) }
.picogpt-heads button { border: 2px solid #ddd; border-radius: 5px; padding: 2px; margin: 0; background: #fff; color: #222;
  font: 11px/1.3 system-ui, sans-serif; cursor: pointer; text-align: left; min-width: 0; overflow: hidden }
.picogpt-heads button.on { border-color: @INK@ }
.picogpt-heads button b { display: flex; justify-content: space-between; font-weight: normal; padding: 0 3px;
  border-radius: 3px }
.picogpt-heads canvas { display: block; width: 100%; height: 34px; image-rendering: pixelated; margin-top: 2px }
</style>
<script>
(function () {
  const data = @DATA@;
  function start(tries) {
    const root = document.querySelector(".picogpt-heads:not(.on)");
    if (!root) { if (tries) setTimeout(start, 100, tries - 1); return; }  // Jupyter runs a script before its element is there
    root.className += " on";
    const text = Array.from(data.text), T = text.length, size = T * (T + 1) / 2;
    const bytes = Uint8Array.from(atob(data.weights), c => c.charCodeAt(0));
    const weight = (head, t, j) => j > t ? 0 : bytes[head * size + t * (t + 1) / 2 + j] / 255;
    const lines = [[]];
    text.forEach((c, t) => {
      if (lines[lines.length - 1].length >= 50) lines.push([]);
      lines[lines.length - 1].push(t);
      if (c === "\\n" && t < T - 1) lines.push([]);
    });
    const columns = Math.max(...lines.map(line => line.length));
    const shown = c => ({"\\n": "↵", " ": "␣"})[c] || c;
    const make = (kind, parent, name) => {
      const element = document.createElement(kind);
      if (name) element.className = name;
      return parent.appendChild(element);
    };
    root.textContent = "";
    const box = make("div", root, "text"), said = make("div", root, "said"), all = make("div", root, "all");
    box.tabIndex = 0;
    said.setAttribute("aria-live", "polite");
    const tiles = [], letters = [];
    lines.forEach(line => {
      const row = make("div", box);
      line.forEach(t => {
        letters[t] = make("i", row);
        letters[t].textContent = text[t] === " " ? "\\u00a0" : shown(text[t]);
        letters[t].dataset.t = t;
      });
    });
    const most = data.worth ? Math.max(...data.worth) : 1;
    for (let h = 0; h < data.heads; h++) {
      const tile = make("button", all), label = make("b", tile), canvas = make("canvas", tile);
      make("span", label).textContent = Math.floor(h / 8) + "." + h % 8;
      if (data.worth) {
        make("span", label).textContent = (data.worth[h] < 0 ? "−" : "+") + Math.abs(data.worth[h]).toFixed(2);
        label.style.background = "rgba(232, 150, 79, " + Math.sqrt(Math.max(0, data.worth[h]) / most) + ")";
      }
      canvas.width = columns * 4; canvas.height = lines.length * 10;
      tile.title = "layer " + Math.floor(h / 8) + ", head " + h % 8;
      tile.onclick = () => { chosen = h; draw(); };
      tiles.push(tile);
    }
    let here = Math.min(T - 1, lines[0].length + 8), held = false;
    let chosen = data.worth ? data.worth.indexOf(most) : 0;
    function draw() {
      const name = "layer " + Math.floor(chosen / 8) + ", head " + chosen % 8;
      const order = [...Array(here + 1).keys()].sort((a, b) => weight(chosen, here, b) - weight(chosen, here, a));
      const from = order.slice(0, 3).filter(j => weight(chosen, here, j) >= 0.01).map(j =>
        Math.round(100 * weight(chosen, here, j)) + " % from “" + shown(text[j]) + "”, " +
        (j === here ? "itself" : here - j + " before"));
      said.textContent = "At “" + shown(text[here]) + "”, " + name + " takes " + from.join("; ") + ".";
      letters.forEach((letter, j) => {
        letter.className = j === here ? "here" : j > here ? "later" : "";
        letter.style.background = "rgba(194, 87, 26, " + weight(chosen, here, j) * 0.85 + ")";
      });
      tiles.forEach((tile, h) => {
        tile.className = h === chosen ? "on" : "";
        const pen = tile.lastChild.getContext("2d");
        pen.clearRect(0, 0, columns * 4, lines.length * 10);
        lines.forEach((line, y) => line.forEach((t, x) => {
          const w = Math.sqrt(weight(h, here, t));
          pen.fillStyle = t === here ? "@INK@" : t > here ? "#f3f3f3" : "@PALE@";
          pen.fillRect(4 * x, 10 * y, 3.4, 9);
          pen.fillStyle = "rgba(194, 87, 26, " + w + ")";
          if (w && t === here) pen.fillRect(4 * x, 10 * y + 5, 3.4, 4);  // itself: half of the cell
          else if (w) pen.fillRect(4 * x, 10 * y, 3.4, 9);
        }));
      });
    }
    const at = event => {
      const under = document.elementFromPoint(event.clientX, event.clientY);
      return under && box.contains(under) && under.dataset.t !== undefined ? +under.dataset.t : -1;
    };
    box.addEventListener("pointermove", event => {
      const t = at(event);
      if (t >= 0 && t !== here && (!held || event.pointerType === "touch")) { here = t; draw(); }
    });
    box.addEventListener("click", event => {
      const t = at(event);
      if (t >= 0) { held = !(held && t === here); here = t; draw(); }
    });
    box.addEventListener("keydown", event => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (step) { here = Math.min(T - 1, Math.max(0, here + step)); held = true; draw(); event.preventDefault(); }
    });
    function fit() {
      const width = root.clientWidth - 20;
      if (width > 0) {
        box.style.fontSize = Math.min(18, width / columns / 0.62) + "px";
        root.classList.toggle("small", width < 520);
      }
    }
    if (window.ResizeObserver) new ResizeObserver(fit).observe(root);
    fit();
    draw();
  }
  start(100);
})();
</script>
"""
