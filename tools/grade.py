"""Grade a learner's lesson, one test for each exercise.

usage: pytest tools/grade.py --lesson out/exercises/03_causal_attention.ipynb [--lesson FILE ...]

The file, .ipynb or .py, runs in a kernel whose folder is its own. An exercise passes if its check said ✓, and fails with the
check's words if not. The checks are those in the learner's file: they help whoever learns, and are no exam. What runs is the
learner's code, with your rights: grade only whom you trust, or in a container.
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
    """Each code cell, and the heading it stands under."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE)][-1]
        else:
            yield heading, cell


def exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """The headings over the exercises."""
    return [heading for heading, cell in with_headings(notebook) if "exercise" in cell.metadata.get("tags", ())]


def run(file: Path, **env: str) -> nbformat.NotebookNode:
    """A lesson after all its cells have run; a cell that fails or never ends does not keep the others from running."""
    from nbclient import NotebookClient

    notebook = jupytext.read(file)
    options = dict(allow_errors=True, interrupt_on_timeout=True, timeout=SECONDS, kernel_name="python3")
    client = NotebookClient(notebook, resources={"metadata": {"path": str(file.resolve().parent)}}, **options)
    client.execute(env={"PICOGPT_BUDGET": "smoke", "TQDM_DISABLE": "1"} | os.environ | env)
    return notebook


def words_of(cell: nbformat.NotebookNode) -> list[str]:
    """What a check printed in this cell, or the error that stopped it."""
    said = []
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            said.append(f"not yet: {output.ename}: {output.evalue}")
        said += [line for line in output.get("text", "").splitlines() if line.startswith(("✓", "not yet"))]
    return said


def verdicts(notebook: nbformat.NotebookNode) -> dict[str, list[str]]:
    """For each heading, what the last cell under it said in which a check spoke."""
    return {heading: said for heading, cell in with_headings(notebook) if (said := words_of(cell))}


@functools.cache
def graded(file: str) -> dict[str, list[str]]:
    return verdicts(run(Path(file)))


def lesson_of(file: str) -> Path:
    """The course's own script of a learner's file, whose name may have grown: 03_causal_attention_anna.ipynb."""
    if not Path(file).is_file():
        raise pytest.UsageError(f"{file} is not there")
    for script in lessons.scripts():
        if Path(file).name.startswith(script.stem):
            return script
    raise pytest.UsageError(f"{file}: the name of a lesson's file starts like 03_causal_attention")


def pytest_generate_tests(metafunc):
    files = metafunc.config.getoption("lesson")
    if not files:
        raise pytest.UsageError("name a learner's file: pytest tools/grade.py --lesson FILE [--lesson FILE ...]")
    cases = [(file, title) for file in files for title in exercises(lessons.from_script(lesson_of(file)))]
    metafunc.parametrize(("file", "title"), cases, ids=[f"{Path(file).name}, {title}" for file, title in cases])


def test_exercise(file, title):
    said = graded(file).get(title, ["not yet: its check said nothing. Is the heading still there, and the call of the check?"])
    if not all(line.startswith("✓") for line in said):
        pytest.fail("\n".join(said), pytrace=False)
