"""Write data/bands.csv: for each loss that a lesson prints, the band in which other seeds and other machines end.

usage: bands.py            write the table from what is stored
       bands.py --check    write nothing; exit with status 1 if the stored table is not what the stored runs give
       bands.py live NN…   run these lessons (or all that train) with other seeds and as on another processor, and store what
                           they print in data/runs/live.csv, which replaces what is there of them

Three kinds of losses. A "live" one comes from a training that runs on the reader's machine: its lesson is run again with all
seeds moved by 1, 2 and 3, and once as on a processor with neither AVX-512 nor bfloat16. A "study" is read from data/runs/: its
band is for whoever trains the same again. A "computed" one comes from a shipped model or from counts, and differs by rounding
alone.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import runpy
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

import lessons
import picogpt
import picogpt_core as pc
from picogpt import verify
from picogpt.study import T_95, losses_by_seed

RUNS = picogpt.DATA / "runs"
LIVE = RUNS / "live.csv"
SHIFTS = (0, 1, 2, 3)  # 0: the lesson as it is
OTHER = "AVX2, float32"  # the processor that PyTorch is made to take this one for

# what a lesson trains while it runs, and prints: lesson, what it is, where it stands in the output
TRAINED = [
    ("00", "your GPT, training loss after 300 steps", r"^300 +([\d.]+)"),
    ("02", "bigram learned by gradient descent, validation", r"validation loss: learned ([\d.]+)"),
    ("05", "ten-line loop, training loss at step 400", r"^step +400 +([\d.]+)"),
    ("05", "ten-line loop, validation", r"on the validation text: ([\d.]+)"),
    ("06", "opening: Post-LN, training loss", r"^Post-LN ends at ([\d.]+)"),
    ("06", "opening: Pre-LN, training loss", r"^Pre-LN +ends at ([\d.]+)"),
    ("07", "small model with all biases, 5,000 validation characters", r"trained: validation loss ([\d.]+)"),
    ("09", "opening, training loss at step 150", r"^step 150 +loss ([\d.]+)"),
    ("13", "opening: solid line, validation", r"validation loss: solid line ([\d.]+)"),
    ("13", "opening: dashed line, validation", r"validation loss: .*dashed line ([\d.]+)"),
    ("14", "a new model after 32 steps, Shakespeare", r"a new model after 32 steps on Shakespeare: ([\d.]+)"),
    ("16", "opening: GPT-2's parts, training loss", r"^GPT-2's parts .*loss at the end ([\d.]+)"),
    ("16", "opening: rotary positions, training loss", r"^rotary positions .*loss at the end ([\d.]+)"),
    ("16", "opening: all five, training loss", r"^all five .*loss at the end ([\d.]+)"),
]

# what a lesson computes with a shipped model or from counts, and prints
COMPUTED = [
    ("00", "model A (honest), 10,000 characters", r"model A: ([\d.]+)"),
    ("00", "model B (unmasked), 10,000 characters", r"model B: ([\d.]+)"),
    ("02", "bigram counted, validation", r"counted ([\d.]+)"),
    ("02", "interpolated 5-gram, validation", r"interpolated: the best validation loss is ([\d.]+)"),
    ("02", "n-grams up to 7, tuned, validation", r"validation text ([\d.]+)"),
    ("02", "PicoGPT, all windows", r"PicoGPT +loss on all windows +([\d.]+)"),
    ("03", "honest, validation", r"--- honest, validation loss ([\d.]+)"),
    ("03", "unmasked, validation", r"--- unmasked, validation loss ([\d.]+)"),
    ("08", "PicoGPT, on the lesson's characters", r"^PicoGPT +.*loss ([\d.]+)"),
    ("09", "PicoGPT, as shipped", r"PicoGPT +loss ([\d.]+)"),
    ("10", "the shipped model on the validation text", r"validation text: ([\d.]+) at temperature 1"),
    ("14", "PicoGPT, nats per character", r"picogpt .* ([\d.]+) nats a character"),
]

# which lesson shows which study
SHOWN = {
    "03": ("growth",),
    "04": ("heads", "reshape"),
    "05": ("growth", "growth_gpt2"),
    "06": ("placement_long", "placement_picogpt", "architecture_adamw", "since_gpt2"),
    "07": ("biases", "biases_since_gpt2"),
    "08": ("architecture",),
    "09": ("best", "ingredients", "ingredients_long", "dropout", "split"),
    "11": ("since_gpt2",),
    "15": ("scaling",),
    "16": ("since_gpt2", "since_gpt2_long"),
}
FALLS_APART = 0.1  # nats of standard deviation between seeds, from which on their mean says nothing


class Finished(BaseException):
    """All that a lesson should print has been printed."""


# ----- live: the lessons, with other seeds


class Listening:
    """A stdout that keeps what is printed, and ends the lesson when all patterns have been seen."""

    def __init__(self, patterns: list[str]):
        self.text, self.patterns = "", patterns

    def write(self, text: str) -> int:
        self.text += text
        if text.endswith("\n") and all(re.search(p, self.text, re.MULTILINE) for p in self.patterns):
            raise Finished
        return len(text)

    def flush(self) -> None:
        pass


def run_lesson(number: str, shift: int) -> list[float]:
    """Run a lesson in this process with every seed moved by `shift`; return the losses of TRAINED that it prints.

    RuntimeError, with the lesson's own, if it stops before all are printed.
    """
    (script,) = lessons.named([number])
    patterns = [pattern for lesson, _, pattern in TRAINED if lesson == number]
    seed_all, out = torch.manual_seed, Listening(patterns)

    class Shifted(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + shift)

    torch.manual_seed = lambda seed: seed_all(seed + shift)  # type: ignore[assignment]
    torch.Generator = Shifted  # type: ignore[misc]
    kept, sys.stdout = sys.stdout, out  # type: ignore[assignment]
    failure = None
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Finished:
        pass
    except Exception as error:  # an assertion that holds for the lesson's own seed only, perhaps
        failure = error
    finally:
        sys.stdout = kept
    found = [re.search(pattern, out.text, re.MULTILINE) for pattern in patterns]
    if not all(found):
        raise RuntimeError(f"lesson {number}, seeds + {shift}, stopped before all losses were printed") from failure
    return [float(match[1]) for match in found if match]


def one_run(number: str, shift: int, processor: str) -> None:
    """In a process of its own: print a lesson's losses as JSON."""
    if processor == OTHER:  # the rest is in the environment
        sys.modules["picogpt.train"].has_fast_bfloat16 = lambda device: False  # type: ignore[attr-defined]
    print(json.dumps(run_lesson(number, shift)))


def measure_live(numbers: list[str]) -> None:
    """Run lessons and store their losses, after each lesson."""
    for number in numbers or sorted({lesson for lesson, _, _ in TRAINED}):
        names = [what for lesson, what, _ in TRAINED if lesson == number]
        pc.require(bool(names), f"lesson {number!r} trains nothing whose loss it prints: see TRAINED in tools/bands.py")
        rows = []
        for shift, processor in [*((shift, "this") for shift in SHIFTS), (0, OTHER)]:
            other = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}
            more = {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "PICOGPT_BUDGET": "quick"} | (other if processor == OTHER else {})
            line = [sys.executable, __file__, "one", number, str(shift), processor]
            printed = subprocess.run(line, env=os.environ | more, check=True, capture_output=True, text=True).stdout
            losses = json.loads(printed.splitlines()[-1])
            print(f"lesson {number}, seeds + {shift}, {processor}: {losses}", flush=True)
            machine = picogpt.describe_machine()
            rows += [
                dict(lesson=number, what=what, shift=shift, processor=processor, loss=loss, machine=machine)
                for what, loss in zip(names, losses, strict=True)
            ]
        kept = [row for row in live_rows() if row["lesson"] != number]
        save(LIVE, sorted(kept + rows, key=lambda row: row["lesson"]))


def live_rows() -> list[dict[str, Any]]:
    rows = picogpt.load_rows(LIVE) if LIVE.exists() else []
    return [row | {"lesson": f"{row['lesson']:02}"} if isinstance(row["lesson"], int) else row for row in rows]


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    picogpt.save_rows(path, rows)


# ----- from runs to bands


class Band(NamedTuple):
    """Where a loss ends, over seeds and machines."""

    low: float
    high: float
    seeds: int
    note: str = ""


def band_of(losses: list[float], machine: float) -> Band:
    """Return the band for one more seed on some machine: Student's 95 % interval for a further run, and what machines add."""
    n = len(losses)
    mean = statistics.mean(losses)
    deviation = statistics.stdev(losses)
    if deviation > FALLS_APART:
        note = "the seeds lie far apart: this is their range"
        return Band(min(losses) - machine, max(losses) + machine, n, note)
    half = T_95[n - 2] * deviation * math.sqrt(1 + 1 / n)
    return Band(mean - half - machine, mean + half + machine, n)


def evaluations(study: str) -> list[dict[str, Any]]:
    """Return where a study's runs were evaluated: variant, seed, step, val_loss, machine. Parsing all of it takes seconds."""
    with open(RUNS / f"{study}.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val_loss") and "variant" in row]
    return [row | {"seed": int(row["seed"]), "step": int(row["step"]), "val_loss": float(row["val_loss"])} for row in rows]


# models, first weights or texts of their own, which the settings do not tell
OF_THEIR_OWN = ("growth", "biases", "split", "lengths", "recipes")


def between_machines() -> tuple[float, int]:
    """Return the largest difference between two stored runs of one recipe and one seed, on another machine or with another
    number of threads, and how many pairs there are."""
    runs: dict[str, dict[str, float]] = defaultdict(dict)
    for file in sorted(RUNS.glob("*.json")):
        settings = json.loads(file.read_text())
        for row in evaluations(file.stem):
            recipe = settings.get(row["variant"])
            if recipe is None or row["step"] != recipe["train"]["steps"] or file.stem.startswith(OF_THEIR_OWN):
                continue  # no study; or not the end
            model = {k: v for k, v in recipe["model"].items() if v != getattr(pc.ModelConfig(), k)}
            train = {k: v for k, v in recipe["train"].items() if k not in ("seed", "eval_every", "log_every")}
            train = {k: v for k, v in train.items() if v != getattr(pc.TrainConfig(), k)}
            runs[json.dumps([model, train, row["seed"]], sort_keys=True)][row["machine"]] = row["val_loss"]
    spans = [max(of.values()) - min(of.values()) for of in runs.values() if len(of) > 1]
    return max(spans), len(spans)


def printed(number: str, pattern: str) -> float:
    """Return a loss that the stored outputs of a lesson show. ValueError if they do not."""
    (script,) = lessons.named([number])
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    text = "".join("".join(output.get("text", [])) for output in outputs)
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise ValueError(f"lesson {number} prints nothing like {pattern!r} any more: change tools/bands.py")
    return float(found[1])


def row_of(number: str, what: str, kind: str, shown: float, band: Band) -> dict[str, Any]:
    pc.require(band.low <= shown <= band.high, f"lesson {number} prints {shown} for {what!r}: outside of its own band {band}")
    low, high = math.floor(band.low * 1000) / 1000, math.ceil(band.high * 1000) / 1000
    return dict(
        lesson=number, what=what, kind=kind, printed=round(shown, 4), low=low, high=high, seeds=band.seeds, note=band.note
    )


def rows() -> list[dict[str, Any]]:
    """The table, by lesson."""
    machine, _ = between_machines()
    found = []
    stored = defaultdict(list)
    for row in live_rows():
        stored[row["lesson"], row["what"]].append(row)
    for number, what, pattern in TRAINED:
        runs = stored[number, what]
        pc.require(bool(runs), f"{LIVE} has nothing of lesson {number}, {what!r}: python tools/bands.py live {number}")
        (own,) = (row["loss"] for row in runs if row["shift"] == 0 and row["processor"] == "this")
        (other,) = (row["loss"] for row in runs if row["processor"] == OTHER)
        losses = [row["loss"] for row in runs if row["processor"] == "this"]
        found.append(row_of(number, what, "live", printed(number, pattern), band_of(losses, max(machine, abs(other - own)))))
    for number, studies in SHOWN.items():
        for study in studies:
            for variant, by_seed in losses_by_seed(evaluations(study)).items():
                losses = list(by_seed.values())
                if len(losses) > 2:
                    found.append(
                        row_of(number, f"{study}: {variant}", "study", statistics.mean(losses), band_of(losses, machine))
                    )
    for number, what, pattern in COMPUTED:
        value = printed(number, pattern)
        found.append(row_of(number, what, "computed", value, Band(value - 0.006, value + 0.006, 0)))
    return sorted(found, key=lambda row: row["lesson"])


def main(words: list[str]) -> int:
    if words[:1] == ["live"]:
        measure_live(words[1:])
    elif words[:1] == ["one"]:
        one_run(words[1], int(words[2]), words[3])
    elif words == ["--check"]:
        same = [verify.Band(**row | {"note": row["note"] or None}) for row in rows()] == verify.load_bands()
        print("the stored bands are those of the stored runs" if same else "the stored bands differ from the stored runs")
        return 0 if same else 1
    elif not words:
        table = rows()
        save(verify.BANDS, table)
        span, pairs = between_machines()
        print(f"{verify.BANDS}: {len(table)} losses; machines differ by up to {span:.4f} over {pairs} pairs of runs")
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
