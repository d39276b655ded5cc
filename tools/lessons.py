"""Run the lessons and store them. A lesson is written as .py; its .ipynb, with outputs, is made from it.

usage: lessons.py run [LESSON ...]     run lessons (all, or those whose names start so) and store the outputs
       lessons.py exercises [FOLDER]   write all lessons without their solutions into FOLDER, or out/exercises
       lessons.py check                compare both files of each lesson
       lessons.py address URL          change the repository's public address everywhere
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """The .py files of all lessons, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def from_script(script: Path) -> nbformat.NotebookNode:
    """The notebook of a lesson without outputs. Cells are named by their place, so that two builds are the same."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem[:2]}-{i:03}"
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's own
    return notebook


def cells(notebook: nbformat.NotebookNode) -> list[tuple]:
    """What the two files of a lesson must share: type, source and tags of every cell."""
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in notebook.cells]


def run(script: Path) -> nbformat.NotebookNode:
    """Execute a lesson in a fresh kernel whose folder is notebooks/, and keep what a reader should find stored.

    RuntimeError if a cell wrote to stderr: a warning has no place in a stored lesson.
    """
    from nbclient import NotebookClient

    notebook = from_script(script)
    os.environ["TQDM_DISABLE"] = "1"  # progress bars hold timings, which differ each time
    place = {"metadata": {"path": NOTEBOOKS}}
    # coalesce_streams: what a cell prints arrives in pieces, cut by the clock
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources=place, coalesce_streams=True)
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{script.name}, cell {number} wrote to stderr: {output.text}")
        if "outputs" in cell:  # a stored widget is dead without the state of the kernel that made it
            cell.outputs = [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})]
    return notebook


def told(notebook: nbformat.NotebookNode) -> list[dict]:
    """All cells, without the outputs that are tagged as differing each time: timings."""
    loose = "nbval-ignore-output"
    return [cell | {"outputs": None} if loose in cell.metadata.get("tags", ()) else dict(cell) for cell in notebook.cells]


def store(script: Path) -> None:
    """Run a lesson and write its .ipynb: beside, then renamed, so that an interrupted run leaves the old one.

    If the new run tells the same as the stored one but for timings, the stored one stays: a second run gives no diff. To
    renew timings and samples, delete the .ipynb first.
    """
    notebook, target = run(script), script.with_suffix(".ipynb")
    if target.exists() and told(nbformat.read(target, as_version=4)) == told(notebook):
        return
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    beside = target.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(target)


def without_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same lesson for a learner who is to solve it."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", ())]
    return notebook


def write_exercises(folder: Path) -> list[Path]:
    """Every lesson without solutions and outputs, both files. Returns those that were there: they may hold answers and stay."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(NOTEBOOKS / "jupytext.toml", folder)
    old = []
    for script in scripts():
        for file in (folder / script.name, folder / script.with_suffix(".ipynb").name):
            if file.exists():
                old.append(file)
            else:
                jupytext.write(without_solutions(from_script(script)), file, config=load_jupytext_config(str(script)))
    return old


def drifted() -> list[Path]:
    """The lessons whose two files do not hold the same cells."""
    stored = {script: nbformat.read(script.with_suffix(".ipynb"), as_version=4) for script in scripts()}
    return [script for script in stored if cells(from_script(script)) != cells(stored[script])]


def address() -> str:
    """The repository's public address, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def with_address() -> list[Path]:
    """Every file that names the public address."""
    return [
        *(ROOT / name for name in ("pyproject.toml", "README.md", "CITATION.cff")),
        *scripts(),
        *NOTEBOOKS.glob("[0-9]*.ipynb"),
    ]


def move(new: str) -> None:
    """Put another public address in place of the present one. ValueError if it is no GitHub address."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise ValueError(f"{new!r} is not of the form https://github.com/owner/name")
    old = address()
    for file in with_address():
        text = file.read_text(encoding="utf-8")
        # badges name owner/name without the host
        file.write_text(text.replace(old.split("github.com/")[1], new.split("github.com/")[1]), encoding="utf-8")


def main(words: list[str]) -> int:
    match words:
        case ["run", *names]:
            for script in scripts():
                if not names or any(script.name.startswith(name) for name in names):
                    print(script.name, flush=True)
                    store(script)
        case ["exercises", *names]:
            folder = Path(*names) if names else ROOT / "out" / "exercises"
            for file in write_exercises(folder):
                print(f"kept as it was, with any answers in it: {file}")
            print(folder)
        case ["check"]:
            for script in drifted():
                print(f"error: {script.name} and its .ipynb differ. Edit the .py, then: make lessons", file=sys.stderr)
            return bool(drifted())
        case ["address", new]:
            try:
                move(new)
            except ValueError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
