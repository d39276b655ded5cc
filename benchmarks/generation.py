"""Speed of writing: 255 characters after one, one text at a time, beside peers of the same size, same machine, one run.

    python benchmarks/generation.py

Every contender runs in a process of its own, and they take turns. A row is the median over the rounds of the best of five
texts. Ours have the weights of data/checkpoints/, since the gain of a draft depends on them; those of transformers are
random. Recomputing everything for each character is what nanoGPT's `generate` does: here with our model.
"""

from __future__ import annotations

import statistics
import time

import torch

import harness
import picogpt
import picogpt_core as pc

ROUNDS, LENGTH = 3, 255
TABLE = picogpt.DATA / "runs" / "bench_generation.csv"
SETTINGS = pc.SampleConfig(LENGTH, temperature=0.8, seed=1)


def speed(write) -> float:
    """Characters/s: the best of five, after one to warm up."""
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        write()
        seconds.append(time.perf_counter() - began)
    return LENGTH / min(seconds[1:])


START = torch.zeros(1, 1, dtype=torch.long)  # (1, 1): a line break


def ours(name: str, use_cache: bool) -> float:
    model = picogpt.load_shipped(name).model
    return speed(lambda: pc.generate(model, START, SETTINGS, use_cache))


def speculative(name: str) -> float:
    target, draft = picogpt.load_shipped(name).model, picogpt.load_shipped("draft").model
    return speed(lambda: pc.generate_speculative(target, draft, START, SETTINGS, gamma=3))


def transformers(layers: int) -> float:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = dict(n_embd=256, n_layer=layers, n_head=8, n_positions=256, vocab_size=65, tie_word_embeddings=False)
    ends = dict(bos_token_id=0, eos_token_id=None, pad_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(**size, **ends, activation_function="gelu")).eval()
    settings = dict(max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=True, temperature=0.8, top_k=0)
    return speed(lambda: model.generate(START, attention_mask=torch.ones_like(START), **settings))


CONTENDERS = {
    "picogpt: ours, cache": lambda: ours("picogpt", True),
    "picogpt: ours, cache and draft": lambda: speculative("picogpt"),
    "picogpt: everything again each time": lambda: ours("picogpt", False),
    "picogpt: transformers, cache": lambda: transformers(3),
    "6 layers: ours, cache": lambda: ours("picogpt-6layer", True),
    "6 layers: ours, cache and draft": lambda: speculative("picogpt-6layer"),
    "6 layers: everything again each time": lambda: ours("picogpt-6layer", False),
    "6 layers: transformers, cache": lambda: transformers(6),
}


def main() -> None:
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name in CONTENDERS:
            speeds[name].append(harness.measure(__file__, name))
    print(picogpt.describe_machine())
    rows = []
    for name, values in speeds.items():
        peer = statistics.median(speeds[name.split(":")[0] + ": transformers, cache"])
        value = statistics.median(values)
        row = dict(what=name, characters_per_second=round(value), times_transformers=round(value / peer, 2))
        rows.append(row | dict(rounds=ROUNDS, machine=picogpt.describe_machine()))
        print(f"{name:40}{value:8,.0f} characters/s{value / peer:7.2f} x transformers")
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    harness.run(CONTENDERS, main)
