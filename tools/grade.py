"""Grade a learner's lesson, one test for each exercise.

usage: pytest tools/grade.py --lesson out/exercises/03_causal_attention.ipynb [--lesson FILE ...]

The file, .ipynb or .py, runs in a kernel whose folder is its own. An exercise passes if its check prints ✓, and otherwise
fails with the check's message. The checks are those in the learner's file: they are there to help, and are not an exam. What
runs is the learner's code, with your permissions: grade only people you trust, or in a container.
"""

import functools
import os
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

import lessons

SECONDS = 120  # that a cell may take


def with_headings(notebook: nbformat.NotebookNode):
    """Yield each code cell with the heading above it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE)][-1]
        else:
            yield heading, cell


def exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the headings of the exercises."""
    return [heading for heading, cell in with_headings(notebook) if "exercise" in cell.metadata.get("tags", ())]


def run(file: Path, **env: str) -> nbformat.NotebookNode:
    """Run all cells of a lesson and return it; one that fails or never ends does not keep the others from running."""
    from nbclient import NotebookClient

    notebook = jupytext.read(file)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(file.resolve().parent)}},
        timeout=SECONDS,
        interrupt_on_timeout=True,
        allow_errors=True,
    )
    client.execute(env={"PICOGPT_BUDGET": "smoke", "TQDM_DISABLE": "1"} | os.environ | env)
    return notebook


def messages(cell: nbformat.NotebookNode) -> list[str]:
    """Return the lines that a check printed in this cell, or the error that stopped it."""
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            found.append(f"not yet: {output.ename}: {output.evalue}")
        found += [line for line in output.get("text", "").splitlines() if line.startswith(("✓", "not yet"))]
    return found


def verdicts(notebook: nbformat.NotebookNode) -> dict[str, list[str]]:
    """Return, for each heading, the messages of the last cell under it that has any."""
    return {heading: found for heading, cell in with_headings(notebook) if (found := messages(cell))}


@functools.cache
def graded(file: str) -> dict[str, list[str]]:
    return verdicts(run(Path(file)))


def lesson_of(file: str) -> Path:
    """Return the script of the lesson that a learner's file is of; its name may be longer: 03_causal_attention_anna.ipynb."""
    if not Path(file).is_file():
        raise pytest.UsageError(f"{file} does not exist")
    for script in lessons.scripts():
        if Path(file).name.startswith(script.stem):
            return script
    raise pytest.UsageError(f"{file}: its name should start with a lesson's, for example 03_causal_attention")


def pytest_generate_tests(metafunc):
    files = metafunc.config.getoption("lesson")
    if not files:
        raise pytest.UsageError("name a learner's file: pytest tools/grade.py --lesson FILE [--lesson FILE ...]")
    cases = [(file, title) for file in files for title in exercises(lessons.from_script(lesson_of(file)))]
    metafunc.parametrize(("file", "title"), cases, ids=[f"{Path(file).name}, {title}" for file, title in cases])


def test_exercise(file, title):
    nothing = ["not yet: its check printed nothing. Are the heading and the call of the check still there?"]
    found = graded(file).get(title, nothing)
    if not all(line.startswith("✓") for line in found):
        pytest.fail("\n".join(found), pytrace=False)
