"""Time each lesson from its first cell to its last, as a plain script, at the budget that PICOGPT_BUDGET names (quick).

    python benchmarks/lessons.py

A row a lesson in data/runs/bench_lessons.csv; rows of other budgets stay.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import picogpt_core as pc

TABLE = pc.DATA / "runs" / "bench_lessons.csv"


def seconds(script) -> float:
    """How long one lesson takes, with the start of Python. CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, script], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"MPLBACKEND": "Agg"})
    return time.perf_counter() - began


if __name__ == "__main__":
    budget = pc.budget(**{name: name for name in ("smoke", "quick", "full")})
    rows = [row for row in (pc.load_rows(TABLE) if TABLE.exists() else []) if row["budget"] != budget]
    for script in sorted((pc.ROOT / "notebooks").glob("[0-9]*.py")):
        took = seconds(script)
        rows.append(dict(lesson=script.stem, budget=budget, seconds=round(took, 1), machine=pc.machine()))
        print(f"{script.stem}: {took:.1f} s", flush=True)
        pc.save_rows(TABLE, rows)
