"""Write data/verify.csv: what `picogpt verify` compares with, in float64, and how far rounding alone may move it.

usage: references.py            write the table (about two minutes)
       references.py --check    write nothing; exit with status 1 if float64 gives another result than is stored

Tolerances are measured, not guessed. The float64 computation is repeated; each time, every number that goes into or comes out
of an operation (forward, backward and in the optimizer) is rounded to the format, up or down at random. The largest distance
from the exact result, times MARGIN, is what rounding may do. The margin covers what is not simulated: a sum of many products
is rounded on the way too, in an order that differs between machines.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import picogpt
import picogpt_core as pc
from picogpt import verify

TRIALS, MARGIN = 16, 5.0
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9}  # the largest relative error of one rounding

# what autocast computes in bfloat16, or in what it left in bfloat16: forward and backward
IN_BFLOAT16 = ("mm", "addmm", "bmm", "baddbmm", "gelu", "gelu_backward", "_softmax", "_softmax_backward_data")


class Rounded(TorchDispatchMode):
    """In the block, what goes into and comes out of operations on float64 is rounded to a format, up or down at random.

    In bfloat16 that concerns the operations that autocast computes in it; the others are rounded to float32.
    """

    def __init__(self, number_format: torch.dtype, seed: int):
        super().__init__()
        self.format, self.generator = number_format, torch.Generator().manual_seed(seed)

    def rounded(self, x: Any, to: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float64 or x.is_meta:
            return x
        noise = torch.rand(x.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return (x * (1 + UNIT[to] * noise)).to(to).double()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.is_view or func.overloadpacket.__name__ in ("detach", "_unsafe_view", "clone", "copy_", "zeros_like"):
            return func(*args, **kwargs)
        coarse = func.overloadpacket.__name__ in IN_BFLOAT16
        to = self.format if coarse else torch.float32
        written = [bool(a.alias_info and a.alias_info.is_write) for a in func._schema.arguments]
        given = [
            x if is_written else tree_map(lambda t: self.rounded(t, to), x)
            for x, is_written in zip(args, written[: len(args)], strict=True)
        ]
        answer = func(*given, **kwargs)
        if any(written):
            for x, is_written in zip(args, written[: len(args)], strict=True):
                if is_written:
                    tree_map(lambda t: t.copy_(self.rounded(t, to)) if isinstance(t, Tensor) else t, x)
            return answer
        return tree_map(lambda t: self.rounded(t, to), answer)


def exact_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The core computes the loss in float32 whatever comes in; a reference must not."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Nothing in the block makes a float32 of a float64."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(pc, "cross_entropy", exact_cross_entropy):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


REFERENCE = verify.reference_model("manual").double()  # its attention is written out, so that what is inside is rounded too


def in_double() -> pc.GPT:
    """A copy of the small model in float64: a copy, since its weights are exact in every format."""
    return copy.deepcopy(REFERENCE)


def measured() -> dict[verify.Key, list[float]]:
    """Everything that verify compares, with no more rounding than the present context adds."""
    with exactly():
        return {key: value for key, value in verify.measure(in_double).items() if key[0] not in verify.SAME_AS}


def spread(exact: dict, number_format: torch.dtype, again: Callable[[], dict], trials: int) -> dict[verify.Key, float]:
    """Return the largest distance from the exact values over some trials."""
    largest = dict.fromkeys(exact, 0.0)
    for seed in range(trials):
        with Rounded(number_format, seed):
            rounded = again()
        for key, values in rounded.items():
            off = max(abs(a - b) for a, b in zip(values, exact[key], strict=True))
            largest[key] = max(largest[key], off)
    return largest


def shipped_loss() -> dict[verify.Key, list[float]]:
    """The loss of the shipped model on the first 8 windows: of more, the errors would average out better."""
    saved = picogpt.load_shipped("picogpt")
    config = saved.model.config
    model = pc.GPT(dataclasses.replace(config, attention="manual"))
    model.load_state_dict(saved.model.state_dict())
    ids = picogpt.load_corpus(None, saved.tokenizer).val[: 8 * config.block_size + 1]
    with exactly():
        return {("shipped", "picogpt"): [pc.evaluate(model.double(), ids)]}


def greedy_margins() -> list[float]:
    """How far the likeliest token leads, in nats, at each step of the greedy text."""
    model, (x, _) = in_double(), verify.batch(0)
    ids = pc.generate(model, x[:1, : verify.PROMPT], pc.SampleConfig(verify.WRITTEN, temperature=0))
    margins = []
    with torch.no_grad():
        for t in range(verify.PROMPT, ids.shape[1]):
            first, second = model(ids[:, max(0, t - verify.CONFIG.block_size) : t])[0, -1].topk(2).values.tolist()
            margins.append(first - second)
    return margins


def rows() -> list[dict[str, Any]]:
    """The table. ValueError if the greedy text has a step that rounding could turn."""
    exact, loss = measured(), shipped_loss()
    spreads = {}
    for name in verify.FORMATS:
        number_format = getattr(torch, name)
        spreads[name] = spread(exact, number_format, measured, TRIALS)
        spreads[name] |= spread(loss, number_format, shipped_loss, 4)
    table = []
    for (kind, name), values in (exact | {("shipped", "picogpt"): [0.0]}).items():
        # a token is the same or it is not
        allowed = {f: 0.5 if kind == "greedy" else MARGIN * spreads[f][kind, name] for f in verify.FORMATS}
        padded = [f"{value:.17g}" for value in values] + [None] * (3 - len(values))
        table.append(
            dict(kind=kind, name=name) | dict(zip("abc", padded, strict=True)) | {f: f"{a:.3g}" for f, a in allowed.items()}
        )
    lead, noise = min(greedy_margins()), MARGIN * spreads["bfloat16"]["forward", "lm_head"]
    pc.require(lead > noise, f"the greedy text is decided by {lead:.3g} nats, and bfloat16 may move logits by {noise:.3g}")
    return table


def main(words: list[str]) -> int:
    if words not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    if words:
        stored, moved = verify.references(), 0.0
        for key, values in measured().items():
            off = max(abs(a - b) for a, b in zip(values, stored[key].values, strict=True))
            moved = max(moved, off / (stored[key].allowed["float32"] or math.inf))
        print(f"the core in float64 differs from the stored results by {moved:.1g} of what float32 may do")
        return 0 if moved < 0.01 else 1
    table = rows()
    picogpt.save_rows(verify.REFERENCES, table)
    print(f"{verify.REFERENCES}: {len(table)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
