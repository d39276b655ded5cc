"""Training speed of `picogpt` beside nanoGPT's own loop and transformers, like with like.

    NANOGPT=path/to/nanoGPT python benchmarks/training.py

The same size, batch (32 windows of 256), optimizer and number format, on one machine. nanoGPT is not part of this repository:
without NANOGPT it is cloned from GitHub into a temporary folder, and left out, with a message, where that fails.

Every contender runs in a process of its own, for the memory allocator's settings hold for a whole process. They take turns,
so that a machine that slows down slows down all. The table and its CSV hold medians over the rounds.

MFU is the part of the peak of its own number format, measured in the same process: picogpt.matmul_flops. The work is that of
PicoGPT (picogpt_core.flops_per_token) for all, since all compute the same matrix products.

A second table, profile_training.csv, holds where the time of our own step goes (AdamW, not compiled).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch

import harness
import picogpt
import picogpt_core as pc

ROUNDS, STEPS, BATCH, T = 3, 8, 32, 256
CONFIG = pc.ModelConfig()
TABLE = picogpt.DATA / "runs" / "bench_training.csv"
PROFILE = picogpt.DATA / "runs" / "profile_training.csv"
NANOGPT = "https://github.com/karpathy/nanoGPT"
Format = Literal["float32", "bfloat16"]
Result = dict[str, float]  # tokens_per_second, and the peak in FLOP/s


def result(seconds: list[float], dtype: Format) -> Result:
    """Return the speed of the median step, the first three left out, and the peak of this number format."""
    peak = picogpt.matmul_flops(getattr(torch, dtype), "cpu")
    return {"tokens_per_second": BATCH * T / statistics.median(seconds[3:]), "peak": peak}


def ours(dtype: Format, compiled: bool, optimizer: Literal["muon", "adamw"] = "adamw") -> Result:
    """The course's own `train`, evaluation and saving left out."""
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
    elapsed = [0.0, *(row["seconds"] for row in history)]
    return result([b - a for a, b in itertools.pairwise(elapsed)], dtype)


def loop(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor],
    dtype: Format,
    compiled: bool,
) -> Result:
    """nanoGPT's training loop, line for line, with the parts that do nothing here left out (GradScaler, DDP, logs)."""
    text = picogpt.load_corpus().train
    net = cast(torch.nn.Module, torch.compile(model)) if compiled else model
    # nanoGPT has autocast on GPUs only: on a CPU its --dtype changes nothing, so it is given what it lacks
    ctx = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def get_batch():
        ix = torch.randint(len(text) - T, (BATCH,)).tolist()
        return torch.stack([text[i : i + T] for i in ix]), torch.stack([text[i + 1 : i + 1 + T] for i in ix])

    seconds = []
    X, Y = get_batch()
    for _ in range(STEPS):
        began = time.perf_counter()
        with ctx:
            loss = loss_of(net, X, Y)
        X, Y = get_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    return result(seconds, dtype)


def nanogpt(dtype: Format, compiled: bool) -> Result:
    """nanoGPT's model and optimizer, from its model.py, in its loop."""
    sys.path.append(os.environ["NANOGPT"])
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    model = GPT(GPTConfig(block_size=T, vocab_size=65, n_layer=3, n_head=8, n_embd=256, dropout=0.0, bias=True))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cuda")  # "cuda": the fused AdamW, as in ours
    return loop(model, optimizer, lambda net, x, y: net(x, y)[1], dtype, compiled)


def transformers(dtype: Format, compiled: bool) -> Result:
    """GPT2LMHeadModel of transformers in the same loop."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = dict(n_embd=256, n_layer=3, n_head=8, n_positions=256, vocab_size=65, tie_word_embeddings=False)
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**size, **none, activation_function="gelu", use_cache=False)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    return loop(model, optimizer, lambda net, x, y: net(input_ids=x, labels=x).loss, dtype, compiled)  # it shifts by itself


# the first group that fits an operation, by a part of its name; what has an input of four axes is attention's too
GROUPS = {
    "linear layers": ("addmm", "aten::mm", "convolution"),
    "attention": ("scaled_dot_product", "bmm", "aten::_softmax", "tril", "bitwise_not"),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "cross-entropy": ("log_softmax", "nll_loss"),
    "AdamW and clipping": ("adamw", "norm", "clamp", "mul_"),
    "copies, sums and number formats": ("copy_", "aten::add", "aten::sum", "cat", "fill_"),
}


def profile(dtype: Format) -> dict[str, float]:
    """Return the part of our step, eager and with AdamW, that each group of operations takes, and how long it took in s.

    A profiler that watches several steps keeps its notes between their tensors, and page faults come back. So it watches one
    step at a time, and the median of seven counts.
    """
    torch.manual_seed(0)
    pc.keep_freed_memory()
    text, model = picogpt.load_corpus().train, pc.GPT(CONFIG).train()
    optimizers = pc.make_optimizers(model, pc.TrainConfig(optimizer="adamw"))

    def step():
        x, y = pc.get_batch(text, BATCH, T)
        pc.backward(model, x, y, bf16=dtype == "bfloat16")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        pc.optimizer_step(optimizers, 0.1, dtype == "bfloat16")

    steps = []
    for _ in range(7):
        step()
        with torch.profiler.profile(record_shapes=True) as profiler:
            step()
        seconds = dict.fromkeys([*GROUPS, "everything else"], 0.0)
        for event in profiler.key_averages(group_by_input_shape=True):
            fits = (name for name, parts in GROUPS.items() if any(part in event.key for part in parts))
            group = next(fits, "everything else")
            if group.startswith("copies") and any(len(shape) == 4 for shape in event.input_shapes if isinstance(shape, list)):
                group = "attention"
            seconds[group] += event.self_cpu_time_total / 1e6
        steps.append(seconds)
    median = sorted(steps, key=lambda seconds: sum(seconds.values()))[len(steps) // 2]
    total = sum(median.values())
    return {name: part / total for name, part in median.items()} | {"seconds": total}


WHO: dict[str, Callable[[Format, bool], Result]] = {"ours, AdamW": ours, "nanoGPT": nanogpt, "transformers": transformers}
FORMATS: tuple[Format, ...] = ("float32", "bfloat16")
CONTENDERS: dict[str, Callable[[], Result]] = {}
for dtype in FORMATS:
    for compiled, (who, train) in itertools.product((False, True), WHO.items()):
        CONTENDERS[f"{who}, {dtype}{', compiled' if compiled else ''}"] = partial(train, dtype, compiled)
    CONTENDERS[f"ours, Muon, {dtype}"] = partial(ours, dtype, False, "muon")


PROFILES = {f"profile, {dtype}": partial(profile, dtype) for dtype in FORMATS}


def find_nanogpt(folder: str) -> bool:
    """Say where nanoGPT is, in NANOGPT: there already, or cloned into `folder`. Return whether it could be had."""
    os.environ.setdefault("NANOGPT", folder)
    if not (Path(os.environ["NANOGPT"]) / "model.py").exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", NANOGPT, os.environ["NANOGPT"]], check=False)
    return (Path(os.environ["NANOGPT"]) / "model.py").exists()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        there = find_nanogpt(folder)
        if not there:
            print(f"nanoGPT is left out: {NANOGPT} could not be cloned. Clone it elsewhere and set NANOGPT to the folder")
        names = [name for name in CONTENDERS if there or not name.startswith("nanoGPT")]
        results: dict[str, list[Result]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            for name in names:
                results[name].append(harness.measure(__file__, name))
        profiles = {dtype: harness.measure(__file__, f"profile, {dtype}") for dtype in FORMATS}
    rows = table(results)
    print(f"{picogpt.describe_machine()}, medians of {ROUNDS} rounds")
    for row in rows:
        print(f"{row['what']:36}{row['tokens_per_second']:9,} tokens/s{row['mfu']:8.1%} of its peak")
    picogpt.save_rows(TABLE, rows)
    picogpt.save_rows(PROFILE, profile_rows(profiles))


def profile_rows(profiles: dict[Format, dict[str, float]]) -> list[dict]:
    """Return a row for each group of operations, with its part of the step in both number formats."""
    names = sorted([*GROUPS, "everything else"], key=lambda name: -profiles["float32"][name])
    parts = [{dtype: round(profiles[dtype][name], 4) for dtype in FORMATS} for name in names]
    return [
        dict(operation=name) | row | dict(machine=picogpt.describe_machine()) for name, row in zip(names, parts, strict=True)
    ]


def table(results: dict[str, list[Result]]) -> list[dict]:
    """Return the rows of the table: medians over the rounds, and the two peaks over all of them."""
    kinds = {name: next(dtype for dtype in FORMATS if dtype in name) for name in results}
    peaks = {
        f"{dtype}_peak_gflops": round(
            statistics.median(run["peak"] for name in results if kinds[name] == dtype for run in results[name]) / 1e9
        )
        for dtype in FORMATS
    }
    rows, transformers_speed = [], statistics.median(run["tokens_per_second"] for run in results["transformers, float32"])
    for name, runs in results.items():
        tokens = statistics.median(run["tokens_per_second"] for run in runs)
        mfu = statistics.median(run["tokens_per_second"] * pc.flops_per_token(CONFIG) / run["peak"] for run in runs)
        row = dict(what=name, dtype=kinds[name], tokens_per_second=round(tokens), mfu=round(mfu, 3))
        row |= dict(times_transformers=round(tokens / transformers_speed, 2))  # in float32, not compiled
        rows.append(row | peaks | dict(rounds=len(runs), machine=picogpt.describe_machine()))
    return rows


if __name__ == "__main__":
    harness.run({**CONTENDERS, **PROFILES}, main)
