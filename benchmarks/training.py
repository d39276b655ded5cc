"""Training speed of `picogpt` beside its peers: same size, same batch (32 windows of 256), same machine, one run.

    python benchmarks/training.py

Every contender runs in a process of its own, for the memory allocator's settings hold for a whole process. They take turns,
so that a machine that slows down slows down all. The table and its CSV hold medians over the rounds.

Model FLOPs are counted by picogpt_core.flops_per_token.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Literal

import torch

import harness
import picogpt
import picogpt_core as pc

ROUNDS, STEPS, BATCH, T = 3, 8, 32, 256
CONFIG = pc.ModelConfig()
TABLE = picogpt.DATA / "runs" / "bench_training.csv"


def ours(dtype: Literal["float32", "bfloat16"], optimizer: Literal["muon", "adamw"], compiled: bool = False) -> float:
    """Tokens/s of the course's own `train`: median step, evaluation and saving left out."""
    torch.manual_seed(0)
    text = picogpt.load_corpus()
    recipe = pc.TrainConfig(
        steps=STEPS,
        batch_size=BATCH,
        dtype=dtype,
        optimizer=optimizer,
        compile=compiled,
        log_every=1,
        eval_every=STEPS,
        device="cpu",
    )
    history = picogpt.train(pc.GPT(CONFIG), text._replace(val=text.val[:2]), recipe, progress=False).history
    seconds = [row["seconds"] for row in history]
    return BATCH * T / statistics.median(b - a for a, b in itertools.pairwise(seconds[2:]))


def plain_loop(model, loss_of) -> float:
    """Tokens/s of the loop that everybody writes first: eager, float32, AdamW, glibc's allocator as it comes."""
    text = picogpt.load_corpus()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        x, y = pc.get_batch(text.train, BATCH, T)
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return BATCH * T / statistics.median(seconds[2:])


def plain_ours() -> float:
    return plain_loop(pc.GPT(CONFIG), lambda model, x, y: pc.cross_entropy(model(x), y))


def plain_transformers() -> float:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = dict(n_embd=256, n_layer=3, n_head=8, n_positions=256, vocab_size=65, tie_word_embeddings=False)
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**size, **none, activation_function="gelu", use_cache=False))
    return plain_loop(model, lambda model, x, y: model(input_ids=x, labels=x).loss)  # it shifts by itself


CONTENDERS = {
    "ours, AdamW, bfloat16": lambda: ours("bfloat16", "adamw"),
    "ours, AdamW, float32": lambda: ours("float32", "adamw"),
    "ours, Muon, bfloat16": lambda: ours("bfloat16", "muon"),
    "ours, Muon, float32": lambda: ours("float32", "muon"),
    "ours, AdamW, bfloat16, torch.compile": lambda: ours("bfloat16", "adamw", True),
    "the same model, plain loop": plain_ours,
    "transformers GPT2LMHeadModel, plain loop": plain_transformers,
}


def main() -> None:
    peak: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    speed: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, values in peak.items():
            values.append(picogpt.matmul_flops(getattr(torch, name), "cpu"))
        for name in CONTENDERS:
            speed[name].append(harness.measure(__file__, name))
    float32 = statistics.median(peak["float32"])
    hf = statistics.median(speed["transformers GPT2LMHeadModel, plain loop"])
    print(f"{picogpt.describe_machine()}\nmatmul peak, 2048 x 2048: ", end="")
    print(", ".join(f"{name} {statistics.median(values) / 1e9:.0f} GFLOP/s" for name, values in peak.items()))
    rows = []
    for name, values in speed.items():
        tokens = statistics.median(values)
        share = tokens * pc.flops_per_token(CONFIG) / float32
        row = dict(what=name, tokens_per_second=round(tokens), times_transformers=round(tokens / hf, 2))
        row |= dict(share_of_float32_peak=round(share, 3))
        row |= {f"{kind}_peak_gflops": round(statistics.median(values) / 1e9) for kind, values in peak.items()}
        rows.append(row | dict(rounds=ROUNDS, machine=picogpt.describe_machine()))
        print(f"{name:42}{tokens:9,.0f} tokens/s{tokens / hf:7.2f} x transformers{share:8.0%} of the float32 peak")
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    harness.run(CONTENDERS, main)
