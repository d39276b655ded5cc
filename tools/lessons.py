"""Run the lessons and store them. A lesson is written as .py; its .ipynb, with outputs, is made from it.

usage: lessons.py run [--renew-timings] [NN ...]   run all lessons, or those with these numbers, and store their outputs
       lessons.py exercises [FOLDER]               write all lessons without solutions into FOLDER, or out/exercises
       lessons.py check                            compare the two files of each lesson
       lessons.py address URL                      change the repository's public address everywhere

A cell tagged "nbval-ignore-output" shows figures that differ from run to run, mostly timings. Its stored outputs stay for as
long as its source does, unless --renew-timings asks for new ones, which takes an idle machine. What such a cell shows may hang
on a shipped model, too: after a change of data/checkpoints/, `check` asks for all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TIMING = "nbval-ignore-output"  # the tag of a cell whose outputs differ from run to run
STORED_WITH = "checkpoints.json"  # beside the lessons: not in their files, where only what an editor reads has a place
IDLE = 0.3  # cores that other programs may keep busy while timings are taken; a desktop at rest needs about 0.1


def scripts() -> list[Path]:
    """Return the .py files of all lessons, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def named(names: list[str]) -> list[Path]:
    """Return the lessons whose names start with one of `names`, or all. Raise ValueError if one of them names no lesson."""
    for name in names:
        if not any(script.name.startswith(name) for script in scripts()):
            numbers = ", ".join(script.name[:2] for script in scripts())
            raise ValueError(f"there is no lesson {name!r}, only {numbers}")
    return [script for script in scripts() if not names or script.name.startswith(tuple(names))]


def from_script(script: Path) -> nbformat.NotebookNode:
    """Return a lesson as a notebook without outputs. A cell's id is its position, so that two builds are the same."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem[:2]}-{i:03}"
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's own
    return notebook


def cells(notebook: nbformat.NotebookNode) -> list[tuple]:
    """Return what the two files of a lesson must share: type, source and tags of every cell."""
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in notebook.cells]


def is_timing(cell: nbformat.NotebookNode) -> bool:
    return TIMING in cell.metadata.get("tags", ())


def run(script: Path) -> nbformat.NotebookNode:
    """Execute a lesson in a fresh kernel whose folder is notebooks/, and return what a reader should find stored.

    Raise RuntimeError if a cell wrote to stderr: a warning has no place in a stored lesson.
    """
    from nbclient import NotebookClient

    notebook = from_script(script)
    resources = {"metadata": {"path": NOTEBOOKS}}
    # coalesce_streams: what a cell prints arrives in pieces, cut by the clock
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources=resources, coalesce_streams=True)
    client.execute(env=os.environ | {"TQDM_DISABLE": "1"})  # progress bars contain timings
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{script.name}, cell {number} wrote to stderr: {output.text}")
        if "outputs" in cell:  # a stored widget is dead without the state of the kernel that made it
            cell.outputs = [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})]
    return notebook


def fingerprint() -> str:
    """Return a short hash of the shipped models."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "data" / "checkpoints").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def stored_with(folder: Path) -> dict[str, str]:
    """Return, for each lesson in a folder, the fingerprint of the models that its kept outputs were made with."""
    file = folder / STORED_WITH
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write_json(file: Path, content: dict) -> None:
    """Write JSON under a temporary name and rename it, so that an interrupted run leaves the old file."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(file)


def keep_timings(notebook: nbformat.NotebookNode, stored: nbformat.NotebookNode) -> None:
    """Give each timing cell of `notebook` its stored outputs back if its source has not changed.

    Cells are matched by source, so that one inserted above does not matter. A cell that was never run has nothing to keep.
    """
    outputs = defaultdict(list)  # of the cells with one source, in order
    for cell in stored.cells:
        if cell.cell_type == "code" and cell.execution_count is not None:
            outputs[cell.source].append(cell.outputs)
    for cell in notebook.cells:
        if cell.cell_type == "code" and outputs[cell.source]:
            kept = outputs[cell.source].pop(0)
            if is_timing(cell):
                cell.outputs = kept


def number_cells(notebook: nbformat.NotebookNode) -> None:
    """Count the code cells from 1, with their outputs: as after one run from top to bottom, whatever was kept."""
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count


def store(script: Path, renew_timings: bool = False) -> None:
    """Run a lesson and write its .ipynb. A second run writes the same bytes, unless it renews the timings."""
    notebook, target = run(script), script.with_suffix(".ipynb")
    known = stored_with(script.parent)
    made_with = fingerprint()
    if target.exists() and not renew_timings:
        stored = nbformat.read(target, as_version=4)
        keep_timings(notebook, stored)
        if any(map(is_timing, notebook.cells)):  # what was kept may come from other models
            made_with = known.get(script.stem, "")
    number_cells(notebook)
    write_json(target, notebook)
    write_json(script.parent / STORED_WITH, known | {script.stem: made_with})


def busy_cores(seconds: float = 2) -> tuple[float, int]:
    """Return how many cores all programs together keep busy, and how many there are.

    Measured over `seconds` where there is a /proc/stat; elsewhere it is the load average of the last minute.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        if not hasattr(os, "getloadavg"):
            raise ValueError("how busy the machine is cannot be measured here: renew timings on Linux or macOS")
        return os.getloadavg()[0], os.cpu_count() or 1

    def idle_and_total() -> tuple[int, int]:
        ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)  # waiting for a disk is idle; what a hypervisor took is busy

    cores = len(re.findall(r"^cpu\d", stat.read_text(), re.MULTILINE))
    idle, total = idle_and_total()
    time.sleep(seconds)
    idle, total = (after - before for after, before in zip(idle_and_total(), (idle, total), strict=True))
    return cores * (1 - idle / total), cores


def require_idle() -> None:
    """Raise ValueError if other programs use more of this machine than timings can bear."""
    busy, cores = busy_cores()
    if busy > IDLE:
        raise ValueError(
            f"{busy:.1f} of {cores} cores are busy, and timings need an idle machine (at most {IDLE} busy). "
            "Try again later, or run the lesson without renewing its timings"
        )


def without_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the lesson for a learner who is to solve it: links lead to the repository, and no badge to the whole lesson."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^\[!\[Open in Colab\]\(.*\n\n?", "", cell.source, flags=re.MULTILINE)
            text = re.sub(r"(!\[[^]]*\])\(\.\./", rf"\1({address()}/raw/main/", text)
            cell.source = text.replace("](../", f"]({address()}/blob/main/")
    return notebook


def write_exercises(folder: Path) -> list[Path]:
    """Write both files of every lesson, without solutions and outputs, into `folder`.

    Files that are there already may hold answers: they stay, and are returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(NOTEBOOKS / "jupytext.toml", folder)
    kept = []
    for script in scripts():
        for file in (folder / script.name, folder / script.with_suffix(".ipynb").name):
            if file.exists():
                kept.append(file)
            else:
                jupytext.write(without_solutions(from_script(script)), file, config=load_jupytext_config(str(script)))
    return kept


def drifted() -> list[Path]:
    """Return the lessons whose two files do not hold the same cells."""
    stored = {script: nbformat.read(script.with_suffix(".ipynb"), as_version=4) for script in scripts()}
    return [script for script in stored if cells(from_script(script)) != cells(stored[script])]


def outdated() -> list[Path]:
    """Return the lessons with kept outputs that were made with other shipped models than the present ones."""
    now = fingerprint()
    return [script for script in scripts() if stored_with(script.parent).get(script.stem) != now]


def address() -> str:
    """Return the repository's public address, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def files_with_address() -> list[Path]:
    """Return every file that contains the public address."""
    return [
        *(ROOT / name for name in ("pyproject.toml", "README.md", "CITATION.cff")),
        *(ROOT / name for name in ("docs/doctor.md", "picogpt_doctor/formats.py")),
        *scripts(),
        *NOTEBOOKS.glob("[0-9]*.ipynb"),
    ]


def change_address(new: str) -> None:
    """Replace the public address by another one. Raise ValueError if that is not a GitHub address."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise ValueError(f"{new!r} is not of the form https://github.com/owner/name")
    old = address()
    for file in files_with_address():
        text = file.read_text(encoding="utf-8")
        # badges name owner/name without the host
        file.write_text(text.replace(old.split("github.com/")[1], new.split("github.com/")[1]), encoding="utf-8")


def main(words: list[str]) -> int:
    """Obey the command line and return the exit status: 1 if a lesson is at fault, 2 if the command is."""
    try:
        match words:
            case ["run", *names]:
                renew = "--renew-timings" in names
                chosen = named([name for name in names if name != "--renew-timings"])
                if renew:
                    require_idle()
                for script in chosen:
                    print(script.name, flush=True)
                    store(script, renew)
            case ["exercises", *names]:
                folder = Path(*names) if names else ROOT / "out" / "exercises"
                for file in write_exercises(folder):
                    print(f"kept as it was, with any answers in it: {file}")
                print(folder)
            case ["check", *pairs] if pairs in ([], ["--pairs"]):
                for script in (faulty := drifted()):
                    again = f"make lesson NN={script.name[:2]}"
                    print(f"error: {script.name} and its .ipynb differ. Edit the .py, then: {again}", file=sys.stderr)
                for script in (old := [] if pairs else outdated()):
                    again = f"make lesson NN={script.name[:2]} TIMINGS=1, on an idle machine"
                    print(f"error: {script.name} shows what other checkpoints gave: {again}", file=sys.stderr)
                return bool(faulty or old)
            case ["address", new]:
                change_address(new)
            case _:
                print(__doc__)
                return 2
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
