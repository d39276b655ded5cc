"""Released libraries before and after a fix that a public report led to, each shown to the doctor.

    python benchmarks/doctor/wild.py ../wild              # installs what is missing into ../wild, examines, and stores
    python benchmarks/doctor/wild.py ../wild jetmoe       # some of the reports only

Each version of a library is installed by pip into a virtual environment of its own below the folder, together with the
release of PyTorch that runs this script: about 1.2 GB each. A version that pip does not find, or that does not run with this
PyTorch and Python, is said to be missing, in its row. The models are those that sweep.py makes: tiny, with random weights.

A fault is found if the check that the report is about fails before the fix, and passes after it. A row for each report and
version goes to data/runs/doctor_wild.csv.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 600.0  # for one model, in its environment


@dataclasses.dataclass(frozen=True)
class Report:
    """A public report: what was wrong in which model, and two releases, before and after the fix."""

    model: str
    where: str
    wrong: str
    check: str  # the doctor's, that must fail before and pass after
    package: str
    before: str
    after: str


BERTS = "huggingface/transformers #48745, fixed by #48760 and #48785"
REPORTS = (
    *(
        Report(model, BERTS, "with is_decoder=True it sees the future", "causality", "transformers", "5.12.0", "5.24.0")
        for model in ("roformer", "big_bird", "rembert", "megatron-bert")
    ),
    Report(
        *("doge", "huggingface/transformers #48748, fixed by #48821", "under SDPA it sees the future", "causality"),
        *("transformers", "5.12.0", "5.24.0"),
    ),
    *(
        Report(
            model,
            "no report known",
            "its chunked scan leaks inside later chunks",
            "causality",
            "transformers",
            "5.12.0",
            "5.24.0",
        )
        for model in ("nemotron_h", "zamba2")
    ),
    Report(
        *("moshi", "huggingface/transformers #36928", "labels are shifted twice", "its own loss"),
        *("transformers", "5.12.0", "5.24.0"),
    ),
    Report(
        *("jetmoe", "huggingface/transformers #37830", "labels are shifted twice", "its own loss"),
        *("transformers", "4.51.3", "5.24.0"),
    ),
    Report(
        *(
            "lightning",
            "Lightning-AI/pytorch-lightning #20920, fixed by #21033",
            "the demo's source is not masked",
            "causality",
        ),
        *("pytorch-lightning", "2.5.2", "2.5.3"),
    ),
)


# ----- inside an environment: torch, the library, and the doctor's folder


def tiny(model: str):
    """Return a function that makes the model, and options of the doctor's for it."""
    if model == "lightning":
        from pytorch_lightning.demos.transformer import Transformer  # type: ignore[import-not-found]

        return Transformer(vocab_size=96, ninp=32, nhead=4, nhid=64, nlayers=2)
    import sweep  # type: ignore[import-not-found]

    return sweep.make(model)


def examine(model: str) -> None:
    """Print the doctor's report on one model as JSON, in the last line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    from picogpt_doctor import diagnose

    print(json.dumps(json.loads(diagnose(tiny(model)).to_json())))


# ----- outside


def environment(folder: Path, package: str, version: str) -> tuple[Path, str]:
    """Return the Python of the environment that holds a version, made if it is missing; or why it cannot be had."""
    import torch

    home = folder / f"{package}-{version}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        pytorch = torch.__version__.partition("+")[0]
        command = [str(python), "-m", "pip", "install", "--quiet", f"torch=={pytorch}", f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return python, f"pip: {done.stderr.strip().splitlines()[-1][:200]}"
        (home / "complete").touch()
    return python, ""


def shown(folder: Path, report: Report, version: str) -> dict:
    """Return a row: what the doctor says of the model in a version."""
    row: dict = dict(model=report.model, report=report.where, wrong=report.wrong, check=report.check, package=report.package)
    row |= dict(version=version, fixed=int(version == report.after), status="", cause="", others="", missing="")
    python, missing = environment(folder, report.package, version)
    if missing:
        return row | dict(missing=missing)
    paths = os.pathsep.join((str(HERE), str(ROOT)))
    command = [str(python), str(Path(__file__).resolve()), "--inside", report.model]
    variables = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=SECONDS)
    if done.returncode:
        return row | dict(missing=f"it does not run: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}")
    findings = json.loads(done.stdout.strip().splitlines()[-1])["findings"]
    asked = next((f for f in findings if f["check"] == report.check), None)
    if asked is None:
        return row | dict(missing=f"the doctor could not examine it: {findings[-1]['evidence'][:200]}")
    others = [f["check"] for f in findings if f["status"] in ("fail", "error") and f["check"] != report.check]
    return row | dict(status=asked["status"], cause=asked["cause"], others="; ".join(others))


def verdicts(rows: list[dict]) -> Iterator[str]:
    """Yield a line for each report: both sides, and whether they are told apart."""
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        sides = [f"{r['version']}: {r['missing'] or r['status']}" for r in (before, after)]
        apart = before["status"] == "fail" and after["status"] in ("pass", "warn")
        yield f"{before['model']:15}{before['check']:14}{' | '.join(sides)}  {'found' if apart else 'NOT told apart'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where the environments are, or are made")
    parser.add_argument("models", nargs="*", help="some of the reports, by their model; all if none is named")
    parser.add_argument("--inside", metavar="MODEL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        examine(given.inside)
        return
    if given.folder is None:
        parser.error("name a folder for the environments")
    if unknown := set(given.models) - {r.model for r in REPORTS}:
        parser.error(f"no report is about {', '.join(sorted(unknown))}; there are {', '.join(r.model for r in REPORTS)}")
    import picogpt

    chosen = [r for r in REPORTS if r.model in given.models or not given.models]
    rows = [shown(given.folder.resolve(), r, version) for r in chosen for version in (r.before, r.after)]
    print("\n".join(verdicts(rows)))
    if not given.models:
        import torch

        also = dict(torch=torch.__version__, python=platform.python_version(), machine=picogpt.describe_machine())
        picogpt.files.save_rows(picogpt.DATA / "runs" / "doctor_wild.csv", [r | also for r in rows])


if __name__ == "__main__":
    main()
