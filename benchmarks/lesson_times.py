"""Time each lesson from its first cell to its last, as a plain script, at the budget that PICOGPT_BUDGET names (quick).

    python benchmarks/lesson_times.py            # all
    python benchmarks/lesson_times.py 12 13      # those

A row a lesson and budget in data/runs/bench_lessons.csv; the other rows stay.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import picogpt

TABLE = picogpt.DATA / "runs" / "bench_lessons.csv"
QUIET = {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}


def seconds(script) -> float:
    """How long one lesson takes, with the start of Python. CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, script], check=True, stdout=subprocess.DEVNULL, env=os.environ | QUIET)
    return time.perf_counter() - began


if __name__ == "__main__":
    budget = picogpt.budget(**{name: name for name in ("smoke", "quick", "full")})
    rows = picogpt.load_rows(TABLE) if TABLE.exists() else []
    for script in sorted((picogpt.ROOT / "notebooks").glob("[0-9]*.py")):
        if sys.argv[1:] and script.stem[:2] not in sys.argv[1:]:
            continue
        took = seconds(script)
        rows = [row for row in rows if (row["lesson"], row["budget"]) != (script.stem, budget)]
        rows.append(dict(lesson=script.stem, budget=budget, seconds=round(took, 1), machine=picogpt.describe_machine()))
        print(f"{script.stem}: {took:.1f} s", flush=True)
        picogpt.save_rows(TABLE, sorted(rows, key=lambda row: (row["budget"], row["lesson"])))
