"""Speed of writing: 255 characters after one, beside peers of the same size, same machine, one run, one thread.

    python benchmarks/generation.py

Every contender runs in a process of its own, and they take turns. A row is the median over the rounds of the best of five
texts; of several texts at once, all characters count. Loading and compiling are not timed. Ours, those of gpt.c and those of
ONNX Runtime have the weights of data/checkpoints/, since the gain of a draft depends on them; those of transformers are random.
Recomputing everything for each character is what nanoGPT's `generate` does: here with our model.

It needs gcc, and ONNX Runtime, which is not a part of the course: pip install onnxruntime onnx
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import harness
import picogpt
import picogpt_core as pc

ROUNDS, LENGTH, TEXTS, GAMMA = 3, 255, 5, 3
TABLE = picogpt.DATA / "runs" / "bench_generation.csv"
SETTINGS = pc.SampleConfig(LENGTH, temperature=0.8, seed=1)
torch.set_num_threads(1)


def best(work: Callable[[], object], rounds: int = TEXTS) -> float:
    """Seconds: the least of several rounds, after one to warm up."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def speed(write: Callable[[], object], texts: int = 1, rounds: int = TEXTS) -> dict:
    return dict(characters_per_second=texts * LENGTH / best(write, rounds))


def start(texts: int = 1) -> torch.Tensor:
    return torch.zeros(texts, 1, dtype=torch.long)  # (texts, 1): a line break


def ours(name: str, use_cache: bool = True, compiled: bool = False, texts: int = 1) -> dict:
    model = picogpt.load_shipped(name).model
    writer = picogpt.CompiledGPT(model, texts) if compiled else model
    rounds = TEXTS if use_cache else 1  # without a cache a text takes seconds
    return speed(lambda: pc.generate(writer, start(texts), SETTINGS, use_cache), texts, rounds)


def speculative(name: str, compiled: bool = False) -> dict:
    """Also which share of the drafted characters is accepted, and what a step of the draft costs as a share of the target's."""
    target, draft = picogpt.load_shipped(name).model, picogpt.load_shipped("draft").model
    if compiled:  # the target reads its last character and what is drafted; the draft up to two, after all were accepted
        target, draft = picogpt.CompiledGPT(target, lengths=(GAMMA + 1,)), picogpt.CompiledGPT(draft, lengths=(1, 2))
    rounds = pc.generate_speculative(target, draft, start(), SETTINGS, GAMMA).rounds
    accepted = sum(passed for _, passed in rounds) / sum(drafted for drafted, _ in rounds)
    result = speed(lambda: pc.generate_speculative(target, draft, start(), SETTINGS, GAMMA))
    cost = step_seconds(draft, 1) / step_seconds(target, GAMMA + 1)
    return result | dict(accepted=round(accepted, 3), cost_ratio=round(cost, 3))


def step_seconds(model: pc.GPT, length: int) -> float:
    """Seconds of a step that reads `length` characters, half-way through the block, with what is drawn from it."""
    ids, cache = torch.zeros(1, length, dtype=torch.long), pc.KVCache(model.config)
    model.eval()

    def step() -> None:
        cache.length = model.config.block_size // 2
        pc.sample_token(pc.next_token_probs(model(ids, cache=cache)[0], SETTINGS))

    with torch.inference_mode():
        return best(step, rounds=200)


def transformers(layers: int, texts: int = 1) -> dict:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = dict(n_embd=256, n_layer=layers, n_head=8, n_positions=256, vocab_size=65, tie_word_embeddings=False)
    ends = dict(bos_token_id=0, eos_token_id=None, pad_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(**size, **ends, activation_function="gelu")).eval()
    settings = dict(max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=True, temperature=0.8, top_k=0)
    ids = start(texts)
    return speed(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **settings), texts)


def onnx_runtime(name: str) -> dict:
    import numpy as np

    import peers

    try:
        writer = peers.OnnxWriter(picogpt.load_shipped(name).model)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}. For this benchmark: pip install onnxruntime onnx")
    random = np.random.default_rng(1)
    return speed(lambda: writer.write(LENGTH, 0.8, random))


def in_c(name: str) -> dict:
    import subprocess

    import peers

    with tempfile.TemporaryDirectory() as folder:
        peers.write_for_c(picogpt.load_shipped(name).model, Path(folder) / "model")
        program = peers.build_c(Path(folder))
        printed = subprocess.check_output([program, Path(folder) / "model", "speed", str(LENGTH)], text=True)
    return dict(characters_per_second=float(printed))


CONTENDERS: dict[str, Callable[[], dict]] = {}
for group, name, layers in (("picogpt", "picogpt", 3), ("6 layers", "picogpt-6layer", 6)):
    CONTENDERS |= {
        f"{group}: ours, cache": partial(ours, name),
        f"{group}: ours, cache and draft": partial(speculative, name),
        f"{group}: ours, compiled": partial(ours, name, compiled=True),
        f"{group}: ours, compiled, and draft": partial(speculative, name, compiled=True),
        f"{group}: everything again each time": partial(ours, name, use_cache=False),
        f"{group}: transformers, cache": partial(transformers, layers),
        f"{group}: ONNX Runtime, its own loop": partial(onnx_runtime, name),
        f"{group}: gpt.c": partial(in_c, name),
    }
for texts in (8, 32):
    CONTENDERS |= {
        f"{texts} texts: ours, cache": partial(ours, "picogpt", texts=texts),
        f"{texts} texts: ours, compiled": partial(ours, "picogpt", compiled=True, texts=texts),
        f"{texts} texts: transformers, cache": partial(transformers, 3, texts),
    }


def main() -> None:
    results: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name in CONTENDERS:
            results[name].append(harness.measure(__file__, name))
    print(picogpt.describe_machine())
    save(results)


def save(results: dict[str, list[dict]]) -> None:
    """Print and store the table: the rounds of each contender, in one row."""
    middle = {name: statistics.median(round["characters_per_second"] for round in rounds) for name, rounds in results.items()}
    rows = []
    for name, value in middle.items():
        times = value / middle[name.split(":")[0] + ": transformers, cache"]
        row = dict(what=name, characters_per_second=round(value), times_transformers=round(times, 2))
        row |= {column: results[name][0].get(column) for column in ("accepted", "cost_ratio")}
        rows.append(row | dict(rounds=len(results[name]), machine=picogpt.describe_machine()))
        print(f"{name:40}{value:8,.0f} characters/s{times:7.2f} x transformers")
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    harness.run(CONTENDERS, main)
