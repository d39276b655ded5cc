"""Memory for opening GPT-2's 124 million parameters, in three ways, each in a process of its own.

    python benchmarks/gpt2_memory.py

The weights are random: transformers writes them into a temporary folder first. `peak_mb` is the most memory that a process
had in use, less that of one which only imports the same libraries; pages of the file that are mapped count too. `kept_mb`
is what is in use of its own (anonymous memory) when the model is there.
"""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

import torch

import harness
import picogpt

TABLE = picogpt.DATA / "runs" / "bench_gpt2_memory.csv"


def ours(folder: str):
    return picogpt.from_pretrained(folder)


def theirs(folder: str):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def theirs_used(folder: str):
    model = theirs(folder)
    model(torch.zeros(1, 1, dtype=torch.long))
    return model


def through_theirs(folder: str):
    return picogpt.from_pretrained(theirs(folder))


WAYS = {
    "nothing": lambda folder: None,
    "ours, from the folder": ours,
    "transformers, from the folder": theirs,
    "transformers, after one token": theirs_used,
    "ours, out of a transformers model": through_theirs,
}


def measure(way: str, folder: str) -> dict[str, int]:
    """Return the most bytes that this process had in use, and those of its own at the end.

    They are read from /proc, so Linux only: ru_maxrss would begin with the parent's.
    """
    import huggingface_hub
    import safetensors
    from transformers import GPT2LMHeadModel

    _ = huggingface_hub, safetensors, GPT2LMHeadModel  # all ways import the same
    model = WAYS[way](folder)
    status = Path("/proc/self/status").read_text()
    del model
    kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", status))
    return {name: 1024 * int(kilobytes[name]) for name in ("VmHWM", "RssAnon")}


def main() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as folder:
        model = GPT2LMHeadModel(GPT2Config())
        size = 4 * model.num_parameters()
        model.save_pretrained(folder)
        del model
        base, rows = harness.measure(__file__, "nothing", folder), []
        for way in list(WAYS)[1:]:
            seen = harness.measure(__file__, way, folder)
            peak, kept = seen["VmHWM"] - base["VmHWM"], seen["RssAnon"] - base["RssAnon"]
            row = dict(way=way, weights_mb=round(size / 1e6), peak_mb=round(peak / 1e6), kept_mb=round(kept / 1e6))
            rows.append(row | dict(peak_copies=round(peak / size, 2), torch=torch.__version__))
            print(rows[-1])
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    harness.run({way: functools.partial(measure, way) for way in WAYS}, main)
