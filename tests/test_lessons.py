"""Each lesson: both files the same cells, outputs stored and clean."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import nbformat
import pytest

import lessons

LESSONS = lessons.scripts()
each_lesson = pytest.mark.parametrize("script", LESSONS, ids=[script.stem for script in LESSONS])


def test_there_are_lessons_and_every_notebook_has_its_script():
    assert LESSONS
    assert {nb.stem for nb in lessons.NOTEBOOKS.glob("*.ipynb")} == {script.stem for script in LESSONS}


# ----- the two files


@each_lesson
def test_both_files_hold_the_same_cells(script):
    stored = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert lessons.cells(lessons.from_script(script)) == lessons.cells(stored), "edit the .py, then: make lessons"


@each_lesson
def test_outputs_are_stored_without_anything_of_an_editor(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": lessons.KERNEL, "language_info": {"name": "python"}}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom, once"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "jupyter", "cellView"}
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            assert not any("widget" in kind for kind in output.get("data", {}))


@each_lesson
def test_a_lesson_keeps_to_the_template(script):
    notebook = lessons.from_script(script)
    text, code = ([c for c in notebook.cells if c.cell_type == kind] for kind in ("markdown", "code"))
    first = text[0].source
    assert first.startswith(f"# {script.stem[:2]} · ")
    assert f"colab.research.google.com/github/{lessons.address().split('github.com/')[1]}/blob/main/" in first
    assert f"{script.stem}.ipynb" in first
    assert all(word in first for word in ("**You will**", "**You need**", "**Time**"))
    assert code[0].source == lessons.from_script(LESSONS[0]).cells[1].source, "the bootstrap cell is the same everywhere"
    assert lessons.address() in code[0].source
    assert "Sources" in text[-1].source
    tags = [tag for cell in code for tag in cell.metadata.get("tags", [])]
    assert tags.count("exercise") == tags.count("solution") >= 2
    for cell in code:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.metadata.jupyter.source_hidden, "JupyterLab folds it"
            assert cell.metadata.cellView == "form", "Colab folds it"
    for cell in code[1:]:
        assert len(cell.source.splitlines()) <= 25, cell.source
        assert not any(line.startswith(("%", "!")) for line in cell.source.splitlines()), "no magics"
        assert max(map(len, cell.source.splitlines())) <= 100, "a longer line is cut in the browser"
    short = sum(len(cell.source.splitlines()) <= 8 for cell in code)
    assert short * 2 >= len(code), "half of the cells have at most 8 lines"


def links(text):
    return re.findall(r"(?<!!)\[([^]\[]*)\]\(([^)]+)\)", text)


@each_lesson
def test_the_next_lesson_is_linked_at_the_end(script):
    """By the name of its .ipynb in the same folder: that works on GitHub, in Jupyter and on the site."""
    following = LESSONS[LESSONS.index(script) + 1 :][:1]
    (end,) = re.findall(r"^Next: .*", lessons.from_script(script).cells[-1].source, re.MULTILINE)
    wanted = [(f"lesson {lesson.stem[:2]}", f"{lesson.stem}.ipynb") for lesson in following]
    assert links(end) == wanted, f"{script.name} should end with: Next: [lesson NN](NN_name.ipynb) and what it does"


@each_lesson
def test_what_a_lesson_points_to_is_there(script):
    text = "\n".join(cell.source for cell in lessons.from_script(script).cells if cell.cell_type == "markdown")
    gone = [link for _, link in links(text) if "://" not in link and not (lessons.NOTEBOOKS / link).exists()]
    assert not gone
    planned = re.findall(r"^# \| \**(\d\d) ", LESSONS[0].read_text(), re.MULTILINE)  # the map's rows
    assert len(planned) == 14
    assert set(re.findall(r"[Ll]esson (\d\d)\b", text)) <= set(planned), "a lesson that the map of lesson 00 does not know"


@each_lesson
def test_four_fifths_of_the_cells_are_compared_strictly(script):
    code = [cell for cell in lessons.from_script(script).cells if cell.cell_type == "code"]
    loose = [cell for cell in code if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(loose) <= len(code) / 5


# ----- the checks themselves


def test_a_hanging_cell_fails_the_notebook_run(tmp_path):
    """nbval alone ends well after a timed-out cell: without notebooks/conftest.py this test fails."""
    shutil.copy(lessons.NOTEBOOKS / "conftest.py", tmp_path)
    cells = [nbformat.v4.new_code_cell(source) for source in ("import time; time.sleep(60)", "1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "hang.ipynb")
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=2", "-p", "no:cacheprovider", "-c", os.devnull]
    line = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout


def test_the_pair_check_sees_a_drift(tmp_path):
    script = tmp_path / LESSONS[0].name
    script.write_text(LESSONS[0].read_text().replace("ln 65", "ln 64", 1))
    assert lessons.cells(lessons.from_script(script)) != lessons.cells(lessons.from_script(LESSONS[0]))


def test_storing_a_lesson_twice_gives_the_same_bytes_and_a_warning_is_refused(tmp_path):
    script = tmp_path / "90_x.py"
    seeded = "# %%\nimport torch\ntorch.manual_seed(0)\nprint(torch.randn(3))\n"
    clock = '# %% tags=["nbval-ignore-output"]\nimport time\nprint(time.time())\n'
    script.write_text(seeded + clock)
    lessons.store(script)
    first = script.with_suffix(".ipynb").read_bytes()
    lessons.store(script)
    assert script.with_suffix(".ipynb").read_bytes() == first
    script.write_text(seeded.replace("seed(0)", "seed(1)") + clock)
    lessons.store(script)
    assert script.with_suffix(".ipynb").read_bytes() != first, "another seed is another lesson"
    first = script.with_suffix(".ipynb").read_bytes()
    script.write_text(textwrap.dedent("# %%\nimport warnings\nwarnings.warn('careful')\n"))
    with pytest.raises(RuntimeError, match="cell 0 wrote to stderr: .*careful"):
        lessons.store(script)
    assert script.with_suffix(".ipynb").read_bytes() == first, "the stored lesson stays"
