"""How long to nanoGPT's documented CPU result? Its recipe replayed, and ours, in turns on one machine.

    python benchmarks/time_to_loss.py

nanoGPT's README gives a recipe for a laptop CPU: 4 layers of 128, 4 heads, window 64, batch 12, 2000 steps, no dropout. It is
replayed here in plain eager PyTorch, without this course's training loop, allocator settings or linear layers: AdamW 1e-3 with
100 steps of warm-up and a cosine to 1e-4, beta2 0.99, clipping at 1, decay 0.1 on all matrices, a tied head and no biases (its
defaults). Ours may have any shape up to 2.47M parameters. Seconds are of training alone; losses are over the whole validation
text.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time

import torch

import harness
import picogpt
import picogpt_core as pc

SEEDS = (1337, 1338, 1339)
GOAL = 1.885  # where nanoGPT's recipe ends at best
TABLE = picogpt.DATA / "runs" / "bench_time_to_loss.csv"

OURS = pc.ModelConfig(block_size=64, n_layer=1, n_head=4, n_embd=128)
RECIPE = pc.TrainConfig(300, batch_size=32, learning_rate=8e-3, muon_learning_rate=0.04, log_every=50, eval_every=300)


@torch.no_grad()
def scatter(model: pc.GPT, ids: torch.Tensor, draws: int = 240) -> float:
    """Standard deviation of nanoGPT's estimate of the loss: the mean over 20 x 12 random windows, in nats a character."""
    T = model.config.block_size
    x, y = pc.get_batch(ids, 2000, T, torch.Generator().manual_seed(0))  # (2000, T) each
    logp = torch.cat([model(piece) for piece in x.split(100)]).log_softmax(dim=-1)  # (2000, T, V)
    return logp.gather(2, y[:, :, None]).mean(dim=(1, 2)).std().item() / math.sqrt(draws)


def nanogpt_recipe(seed: int) -> dict:
    pc.ONEDNN = False  # nanoGPT has nn.Linear
    text = picogpt.load_corpus()
    torch.manual_seed(seed)
    shape = dataclasses.replace(OURS, n_layer=4, bias=False, head_bias=False, tied_head=True)
    model = pc.GPT(shape)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    began = time.perf_counter()
    for step in range(2000):
        fall = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1) / 101 if step < 100 else fall
        x, y = pc.get_batch(text.train, 12, 64)
        loss = pc.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # it logs every step
    seconds = time.perf_counter() - began
    return dict(seconds=seconds, val_loss=pc.evaluate(model, text.val), estimate_scatter=scatter(model, text.val))


def ours(seed: int) -> dict:
    text = picogpt.load_corpus()
    torch.manual_seed(seed)
    model = pc.GPT(OURS)
    run = picogpt.train(model, text, dataclasses.replace(RECIPE, seed=seed), progress=False)
    about = dict(seconds=run.history[-1]["seconds"], val_loss=run.val_losses[-1][1])
    return about | dict(estimate_scatter=scatter(model, text.val))


CONTENDERS = {"nanoGPT's CPU recipe": nanogpt_recipe, "ours": ours}


def main() -> None:
    rows = []
    for seed in SEEDS:
        for name in CONTENDERS:
            result = harness.measure(__file__, name, seed)
            rows.append(dict(what=name, seed=seed, **result, machine=picogpt.describe_machine()))
            print(f"{name:22} seed {seed}: {result['seconds']:6.1f} s, validation loss {result['val_loss']:.4f}", flush=True)
    pairs = zip(*([row["seconds"] for row in rows if row["what"] == name] for name in CONTENDERS), strict=True)
    print(f"nanoGPT's time over ours, pair by pair: median {statistics.median(a / b for a, b in pairs):.1f}")
    worst = max(row["val_loss"] for row in rows if row["what"] == "ours")
    print(f"our worst validation loss {worst:.4f}: {'at' if worst <= GOAL else 'NOT at'} the goal of {GOAL}")
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    harness.run(CONTENDERS, main)
