"""The machine: devices and number formats, several processes, Ctrl-C, and budgets of time."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from picogpt_core import require

BUDGETS = ("smoke", "quick", "full")
T = TypeVar("T")


def budget(**values: T) -> T:
    """Return the value for the budget that PICOGPT_BUDGET names: budget(smoke=2, quick=200, full=2000). Default: quick."""
    name = os.environ.get("PICOGPT_BUDGET", "quick")
    require(name in BUDGETS, f"PICOGPT_BUDGET={name!r} is none of {', '.join(BUDGETS)}")
    return values[name]


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called `name`; for "auto" a CUDA GPU, else Apple's, else the CPU. ValueError if it is not there.

    Of several processes started by torchrun each takes the GPU of its own number; ValueError if there is none for it.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(kind for kind, there in has.items() if there) if name == "auto" else str(name)
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not has.get(kind) or (number and not (number.isdigit() and int(number) < count)):
        there = ", ".join(kind for kind, there in has.items() if there)
        raise ValueError(f"device {name!r} is not on this machine, which has: {there}")
    if name != "cuda":
        return torch.device(name)
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    require(
        local_rank < count,
        f"LOCAL_RANK={local_rank} has no GPU of its own: this machine has {count}. Start at most {count} processes here "
        f"(torchrun --nproc-per-node={count}), or hide the GPUs to train on the CPU (CUDA_VISIBLE_DEVICES=)",
    )
    return torch.device("cuda", local_rank)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware itself multiplies bfloat16; other machines emulate it slowly.

    Newer GPUs do, and processors with AMX (Intel) or AVX512-BF16 (also AMD).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_info().get("flags", "").split())


@functools.cache
def _cpu_info() -> dict[str, str]:
    """Return what Linux knows about the first processor; nothing elsewhere."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        return dict(line.replace("\t", "").split(": ", 1) for line in first.splitlines() if ": " in line)
    return {}


def describe_machine() -> str:
    """Return one line on what a measurement ran on: processor, threads, GPU if any, torch version."""
    name = _cpu_info().get("model name") or platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def matmul_flops(dtype: torch.dtype = torch.float32, device: str = "auto", n: int = 2048) -> float:
    """Return the floating-point operations per second of this machine at its best: the fastest of ten n x n products."""
    where = pick_device(device)
    a, b = (torch.randn(n, n, device=where).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(10):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # .item() waits for a GPU to finish
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def rank_and_world_size() -> tuple[int, int]:
    """Return the number of this process among those that train together, and how many there are: (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@contextlib.contextmanager
def defer_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of stopping in the middle of an optimizer step. A second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(signum, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
