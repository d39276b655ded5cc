"""What the reshape of lesson 04 that has the right shape and the wrong content does to a model that is trained with it.

    python benchmarks/reshape.py

Small models (2 layers of width 64, 4 heads, window 64), three seeds, go to data/runs/reshape.csv: right, with the slip on the
way into the heads, and with the slip on the way back as well. About five minutes with one thread.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

import picogpt
import picogpt_core as pc

TABLE = picogpt.DATA / "runs" / "reshape.csv"
MODEL: dict[str, Any] = dict(n_layer=2, n_embd=64, n_head=4, block_size=64)
TRAIN: dict[str, Any] = dict(steps=800, batch_size=16, eval_every=100, log_every=100)


def view_alone(x: Tensor, n_head: int) -> Tensor:
    """The slip: cut the numbers in the order of memory. (B, T, C) -> (B, nh, T, hs)"""
    B, T, C = x.shape
    return x.reshape(B, n_head, T, C // n_head)


def view_back(y: Tensor) -> Tensor:
    """The same slip on the way back. (B, nh, T, hs) -> (B, T, C)"""
    B, nh, T, hs = y.shape
    return y.reshape(B, T, nh * hs)


WAYS = {
    "right": (pc.split_heads, pc.join_heads),
    "bug on the way in": (view_alone, pc.join_heads),
    "bug on both ways": (view_alone, view_back),
}


def main() -> None:
    torch.set_num_threads(1)
    corpus, rows = picogpt.load_corpus(), []
    for seed in (1337, 1338, 1339):
        for variant, way in WAYS.items():
            pc.split_heads, pc.join_heads = way  # the core's attention looks them up when it runs
            torch.manual_seed(seed)
            net = pc.GPT(pc.ModelConfig(**MODEL))
            history = picogpt.train(net, corpus, pc.TrainConfig(seed=seed, **TRAIN)).history
            rows += [dict(study="reshape", variant=variant, seed=seed) | row for row in history]
            print(f"{variant}, seed {seed}: {rows[-1]['val_loss']:.4f}", flush=True)
    picogpt.save_rows(TABLE, [row | dict(machine=picogpt.describe_machine()) for row in rows])
    with picogpt.atomic_write(TABLE.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(dict(model=MODEL, train=TRAIN), indent=1) + "\n")


if __name__ == "__main__":
    main()
