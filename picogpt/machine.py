"""What stands under the GPT and has nothing of a GPT: the machine, its memory, and files that are never half written.

picogpt_core.py imports all of it, so that a lesson finds it there. Importing this file prints, downloads and seeds nothing.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import functools
import math
import os
import platform
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

import torch


def require(holds: bool, message: str) -> None:
    """ValueError with `message` unless `holds`: for what a caller can get wrong."""
    if not holds:
        raise ValueError(message)


def require_whole(config, least: dict[str, int]) -> None:
    """Each named field of `config` is a whole number of at least so much."""
    for name, smallest in least.items():
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = whole and smallest <= value < 2**63
        require(fits, f"{name}={value!r} must be a whole number of at least {smallest} and less than 2^63")


def require_between(config, limits: dict[str, tuple[float, float]]) -> None:
    """Each named field of `config` is a number between two."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(number and low <= value <= high, f"{name}={value!r} must be a number from {low:g} to {high:g}")


def require_choice(config, choices: dict[str, tuple]) -> None:
    """Each named field of `config` is one of a few values."""
    for name, allowed in choices.items():
        value = getattr(config, name)
        require(value in allowed, f"{name}={value!r} is none of {', '.join(map(repr, allowed))}")


# ---------------------------------------------------------------------------------------------------------------------
# The machine
# ---------------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


BUDGETS = ("smoke", "quick", "full")


def budget(**values):
    """The value for the budget that PICOGPT_BUDGET names: budget(smoke=2, quick=200, full=2000). Without it, quick."""
    name = os.environ.get("PICOGPT_BUDGET", "quick")
    require(name in BUDGETS, f"PICOGPT_BUDGET={name!r} is none of {', '.join(BUDGETS)}")
    return values[name]


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; for "auto" a CUDA GPU, else Apple's, else the CPU. ValueError if it is not there.

    Of several processes started by torchrun each takes the GPU of its own number.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in has.items() if there)
    kind = name.split(":")[0]
    if not has.get(kind):
        there = ", ".join(kind for kind, there in has.items() if there)
        raise ValueError(f"device {name!r} is not on this machine, which has: {there}")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself: newer GPUs, and processors with AMX (Intel) or AVX512-BF16 (also AMD).
    Others emulate it slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_info().get("flags", "").split())


@functools.cache
def _cpu_info() -> dict[str, str]:
    """What Linux tells about the first processor; nothing elsewhere."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        return dict(line.replace("\t", "").split(": ", 1) for line in first.splitlines() if ": " in line)
    return {}


def machine() -> str:
    """One line that says what a measurement ran on: processor, threads, GPU if any, torch version."""
    name = _cpu_info().get("model name") or platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def matmul_flops(dtype: torch.dtype = torch.float32, device: str = "auto", n: int = 2048) -> float:
    """Floating-point operations a second of this machine in its best moment: the fastest of ten n x n products."""
    where = pick_device(device)
    a, b = (torch.randn(n, n, device=where).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(10):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # .item() waits for a GPU to finish
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep the memory that tensors give back, so that the next step finds it warm. True if it agreed.

    A training step on a CPU allocates and frees the same few hundred megabytes each time. By default glibc returns
    every large block to the kernel and asks for it again, and the kernel clears each page on its first touch: a
    large part of a step goes into page faults. Three settings stop that: never serve a large block by mmap, never
    shrink the heap, grow it in large pieces. Only Linux with glibc has them; elsewhere nothing happens.
    The numbers are from malloc.h: M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_MAX -4.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 2**20)))


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def write_beside(path: Path):
    """Give a temporary name next to `path`; rename it to `path` only when the block ended well.

    A crash, a full disk or a Ctrl-C in the middle leaves the old file as it was. Readers see the old or the new file,
    never half of one, also when several processes write at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield beside
        with open(beside, "rb+") as file:  # the bytes must be on the disk before the name points at them
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """ValueError now, rather than after an hour of training, if nothing can be written in `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}. Choose another folder with --out") from None


def save_rows(path: Path, rows: list[dict]) -> None:
    """Rows with the same keys as a CSV file."""
    with write_beside(path) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_rows(path: Path) -> list[dict]:
    """A CSV file as rows; numbers are numbers, an empty cell is None."""

    def value(cell: str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(cell)
        return cell or None

    with open(path, newline="") as file:
        return [{key: value(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def final_losses(study: Path) -> dict[str, list[float]]:
    """The last validation loss of each run in a study's CSV, by variant: one number for each seed."""
    ends = {(row["variant"], row["seed"]): row["val_loss"] for row in load_rows(study)}
    variants = dict.fromkeys(variant for variant, _ in ends)
    return {variant: [loss for (name, _), loss in ends.items() if name == variant] for variant in variants}


def read_nanogpt_log(text: str) -> list[dict]:
    """What nanoGPT prints while it trains, as rows for `plot_history`. ValueError if there is no such line in `text`.

    Its "iter" lines give the loss of one batch, its "step" lines two estimates from random windows: the validation
    loss, and the training loss without dropout, kept as train_estimate.
    """
    number, rows = r"([\d.]+|nan|inf)", []
    for line in text.splitlines():
        if found := re.search(rf"iter (\d+): loss {number}", line):
            rows.append(dict(step=int(found[1]), train_loss=float(found[2]), val_loss=None, train_estimate=None))
        elif found := re.search(rf"step (\d+): train loss {number}, val loss {number}", line):
            losses = dict(val_loss=float(found[3]), train_estimate=float(found[2]))
            rows.append(dict(step=int(found[1]), train_loss=None) | losses)
    require(bool(rows), "no line like 'iter 490: loss 1.2073, …' or 'step 500: train loss 1.0899, val loss 1.4640' found")
    return rows


@contextlib.contextmanager
def hold_interrupt():
    """Ctrl-C raises a flag instead of stopping in the middle of an optimizer step. A second one stops at once."""
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
