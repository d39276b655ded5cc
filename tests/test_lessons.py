"""Each lesson: both files the same cells, outputs stored and clean."""

import os
import re
import shutil
import subprocess
import sys

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
            if not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])):
                said = output.get("text", "") + output.get("data", {}).get("text/plain", "")
                assert not re.search(r"0x[0-9a-f]{6}|(differ|moves).*\de-(0[7-9]|1\d)\b", said), (
                    f"another machine prints another: {said}"
                )


@each_lesson
def test_a_lesson_keeps_to_the_template(script):
    notebook = lessons.from_script(script)
    text, code = ([c for c in notebook.cells if c.cell_type == kind] for kind in ("markdown", "code"))
    first = text[0].source
    assert first.startswith(f"# {script.stem[:2]} · ")
    assert f"colab.research.google.com/github/{lessons.address().split('github.com/')[1]}/blob/main/" in first
    assert f"{script.stem}.ipynb" in first
    assert all(word in first for word in ("**You will**", "**You need**", "**Time**"))
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


@each_lesson
def test_the_first_code_cell_finds_the_course_and_is_folded(script):
    """The bootstrap cell, the same everywhere: test_anywhere.py tries the one of the first lesson in odd places."""
    notebook = lessons.from_script(script)
    bootstrap = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert [cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", ())] == [bootstrap]
    assert bootstrap.source == lessons.from_script(LESSONS[0]).cells[1].source
    named = [cell for cell in notebook.cells if "__vsc_ipynb_file__" in cell.source]
    assert named == [bootstrap], "no other cell can tell VS Code, where only this one is tried"
    assert bootstrap.metadata.jupyter.source_hidden, "JupyterLab folds it"
    assert bootstrap.metadata.cellView == "form", "Colab folds it"
    lines = bootstrap.source.splitlines()
    assert lines[0].startswith("# @title "), "what Colab shows of a folded cell"
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    assert lessons.address() in bootstrap.source


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
    assert script.stem[:2] in planned
    assert set(re.findall(r"[Ll]esson (\d\d)\b", text)) <= set(planned), "a lesson that the map of lesson 00 does not know"


@each_lesson
def test_four_fifths_of_the_cells_are_compared_strictly(script):
    code = [cell for cell in lessons.from_script(script).cells if cell.cell_type == "code"]
    loose = [cell for cell in code if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(loose) <= len(code) / 5


# ----- the checks themselves


@pytest.mark.slow
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


def test_no_output_was_kept_from_other_checkpoints():
    assert lessons.outdated() == [], "make lesson NN=… TIMINGS=1, on an idle machine"


def test_the_pair_check_sees_a_drift(tmp_path):
    script = tmp_path / LESSONS[0].name
    script.write_text(LESSONS[0].read_text().replace("ln 65", "ln 64", 1))
    assert lessons.cells(lessons.from_script(script)) != lessons.cells(lessons.from_script(LESSONS[0]))


SEEDED = "# %%\nimport random\nrandom.seed(0)\n# %%\nprint(random.random())\n"
TIMINGS = """\
# %% tags=["nbval-ignore-output"]
import time
time.time_ns()
# %% tags=["nbval-ignore-output"]
print(time.time_ns())
"""


@pytest.fixture
def stored(tmp_path):
    """Write a lesson, run and store it, and return the bytes of its .ipynb and its code cells."""

    def write(text, **options):
        script = tmp_path / "90_x.py"
        script.write_text(text)
        lessons.store(script, **options)
        notebook = script.with_suffix(".ipynb")
        return notebook.read_bytes(), nbformat.read(notebook, as_version=4).cells

    return write


@pytest.mark.slow
def test_storing_a_lesson_twice_gives_the_same_bytes(stored):
    first, _ = stored(SEEDED + TIMINGS)
    assert stored(SEEDED + TIMINGS)[0] == first
    assert stored(SEEDED.replace("seed(0)", "seed(1)") + TIMINGS)[0] != first, "another seed is another lesson"


@pytest.mark.slow
def test_a_timing_stays_until_its_own_cell_changes(stored):
    _, (_, number, value, printed) = stored(SEEDED + TIMINGS)
    inserted = "# %%\nx = 1\n"
    _, cells = stored(inserted + SEEDED.replace("seed(0)", "seed(1)") + TIMINGS.replace("print(", "print('ns', "))
    assert cells[2].outputs[0].text != number.outputs[0].text, "all other cells show what this run gave"
    assert cells[3].outputs[0].data == value.outputs[0].data, "whatever else changed, and wherever the cell has moved"
    assert cells[4].outputs[0].text.startswith("ns "), "a cell whose source changed is new"
    assert printed.outputs[0].text not in cells[4].outputs[0].text
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, 5]
    assert cells[3].outputs[0].execution_count == 4, "a kept output carries its cell's new number"


@pytest.mark.slow
def test_timings_are_renewed_on_request(stored):
    _, (*seeded, value, printed) = stored(SEEDED + TIMINGS)
    _, (*seeded_again, value_again, printed_again) = stored(SEEDED + TIMINGS, renew_timings=True)
    assert seeded_again == seeded
    assert value_again.outputs[0].data != value.outputs[0].data
    assert printed_again.outputs[0].text != printed.outputs[0].text


@pytest.mark.slow
def test_outputs_that_were_kept_tell_from_which_checkpoints(stored, tmp_path, monkeypatch):
    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    model = tmp_path / "data" / "checkpoints" / "small.safetensors"
    model.write_bytes(b"old")
    monkeypatch.setattr(lessons, "ROOT", tmp_path)
    monkeypatch.setattr(lessons, "scripts", lambda: [tmp_path / "90_x.py"])
    stored(TIMINGS)
    assert not lessons.outdated()
    model.write_bytes(b"new")
    stored(TIMINGS)
    assert lessons.outdated(), "the timings are those of the old model"
    stored(TIMINGS, renew_timings=True)
    assert not lessons.outdated()


def test_a_cell_that_was_never_run_has_no_timing_to_keep(stored, tmp_path):
    notebook = tmp_path / "90_x.ipynb"
    (tmp_path / "90_x.py").write_text(TIMINGS)
    nbformat.write(lessons.from_script(tmp_path / "90_x.py"), notebook)
    _, cells = stored(TIMINGS)
    assert all(cell.outputs for cell in cells)


@pytest.mark.slow
def test_of_equal_cells_each_keeps_its_own_timing(stored):
    twice = TIMINGS + "# %%\nprint('between')\n" + TIMINGS
    first, cells = stored(twice)
    assert cells[1].outputs != cells[4].outputs
    assert stored(twice)[0] == first


@pytest.mark.slow
def test_a_warning_is_refused_and_the_stored_lesson_stays(stored, tmp_path):
    first, _ = stored(SEEDED)
    with pytest.raises(RuntimeError, match="cell 0 wrote to stderr: .*careful"):
        stored("# %%\nimport warnings\nwarnings.warn('careful')\n")
    assert (tmp_path / "90_x.ipynb").read_bytes() == first


# ----- the command


@pytest.fixture
def command(monkeypatch, capsys):
    """Give words to lessons.main, without running a lesson: what is stored is listed."""
    done = []
    monkeypatch.setattr(lessons, "store", lambda script, renew: done.append((script.name[:2], renew)))

    def call(*words):
        done.clear()
        return lessons.main(list(words)), done, capsys.readouterr().err

    return call


def test_one_lesson_some_or_all_are_run(command):
    assert command("run", "03")[:2] == (0, [("03", False)])
    assert command("run", "04", "01_tok")[:2] == (0, [("01", False), ("04", False)])
    assert [number for number, _ in command("run")[1]] == [script.name[:2] for script in LESSONS]


def test_a_number_that_names_no_lesson_is_an_error_in_words_before_any_work(command):
    status, done, error = command("run", "03", "77")
    assert (status, done) == (2, [])
    assert error.startswith("error: there is no lesson '77', only 00, 01, 02")
    assert error.count("\n") == 1


def test_timings_are_renewed_on_an_idle_machine_only(command, monkeypatch):
    monkeypatch.setattr(lessons, "busy_cores", lambda: (1.04, 2))
    status, done, error = command("run", "--renew-timings", "03")
    assert (status, done) == (2, []), "refused before any work"
    assert error.startswith("error: 1.0 of 2 cores are busy, and timings need an idle machine (at most 0.3 busy)")
    assert error.count("\n") == 1
    assert command("run", "03")[:2] == (0, [("03", False)]), "a run that keeps the timings may share the machine"
    monkeypatch.setattr(lessons, "busy_cores", lambda: (0.1, 2))
    assert command("run", "--renew-timings", "03")[:2] == (0, [("03", True)])


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="elsewhere it is the load average, which lags")
def test_a_busy_core_is_counted():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            busy, cores = lessons.busy_cores(1)
        finally:
            spinning.kill()
    assert 0.8 < busy <= cores


def test_the_command_works_from_any_folder(tmp_path):
    line = [sys.executable, str(lessons.ROOT / "tools" / "lessons.py"), "check"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
