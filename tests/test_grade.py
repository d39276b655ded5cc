"""Grading by itself: what a teacher types, and learners' files of all kinds. That all lessons grade right: test_anywhere.py."""

import subprocess
import sys
import time

import jupytext
import nbformat
import pytest

import grade
import lessons
import picogpt

COURSE = """\
# %% [markdown]
# ## Your turn
#
# ### 1. Two
# %% tags=["check"]
def check(answer):
    print("not yet: put a number" if answer is ... else "✓ two" if answer == 2 else f"not yet: {answer} is not 2")
# %% tags=["exercise"]
check(...)
# %% tags=["solution"]
check(2)
# %% [markdown]
# ### 2. Three
# %% tags=["exercise"]
check(...)
# %% [markdown]
# ## What you can do now
"""


def lesson(text=COURSE):
    return jupytext.reads(text, fmt="py:percent")


@pytest.fixture
def course(tmp_path):
    """The folder of a course that has one lesson."""
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "00_x.py").write_text(COURSE)
    return tmp_path / "lessons"


@pytest.fixture
def learner(tmp_path):
    """Writes a learner's file in which one piece of text is replaced, and returns what its checks said."""

    def write(old, new, name="00_x.py"):
        assert old in COURSE
        (tmp_path / name).write_text(COURSE.replace(old, new, 1))
        return grade.verdicts(grade.run(tmp_path / name))

    return write


def test_the_exercises_are_named_by_their_headings():
    assert grade.exercises(lesson()) == ["1. Two", "2. Three"]


def test_an_answer_that_passes_counts_and_stays_within_its_exercise(learner):
    assert learner("(2)", "(2)") == {"1. Two": ["✓ two"], "2. Three": ["not yet: put a number"]}


def test_what_a_learner_tries_below_the_answer_costs_nothing(tmp_path):
    below = "check(2)\n# %% [markdown]\n# ### My thoughts\n# %%\ncheck(3)\n# %%\nnothing_of_the_kind"
    (tmp_path / "00_x.py").write_text(COURSE.replace("check(2)", below))
    said = grade.verdicts(grade.run(tmp_path / "00_x.py"), {"Your turn", "1. Two", "2. Three"})
    assert said == {"1. Two": ["✓ two"], "2. Three": ["not yet: put a number"]}


def test_a_crash_is_told_and_does_not_stop_the_rest(learner):
    said = learner("check(2)", "check(two)")
    assert said == {"1. Two": ["not yet: NameError: name 'two' is not defined"], "2. Three": ["not yet: put a number"]}


@pytest.mark.slow
def test_a_cell_without_end_is_stopped(learner, monkeypatch):
    monkeypatch.setattr(grade, "SECONDS", 2)
    said = learner("check(2)", "while True: pass")
    assert said["1. Two"] == ["not yet: the cell took too long, and was stopped: a loop without an end?"]
    assert said["2. Three"] == ["not yet: put a number"]


def test_a_file_is_matched_to_its_lesson_by_its_name(tmp_path, capsys):
    file = tmp_path / "03_causal_attention_anna.ipynb"
    assert grade.main([str(file)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert grade.lesson_of(file).name == "03_causal_attention.py"
    assert grade.main([str(tmp_path)]) == 2
    assert "has no .ipynb and no .py with a lesson's name" in capsys.readouterr().err
    assert grade.lesson_of(tmp_path / "Kopie von 07_Biases (2).ipynb").name == "07_biases.py"
    (tmp_path / "homework.py").write_text("")
    assert grade.main([str(tmp_path / "homework.py")]) == 2
    assert "should have a lesson's in it, for example 03_causal_attention" in capsys.readouterr().err
    file.write_text("")
    assert grade.files_of([tmp_path]) == ([file], [tmp_path / "homework.py"])
    assert grade.main([str(tmp_path), "--marks", str(tmp_path / "none" / "marks.csv")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert grade.main([str(tmp_path), "--seconds", "-1"]) == 2
    assert "both limits must be above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_class_is_graded_in_one_table_and_no_file_costs_another_its_marks(course, tmp_path, capsys, monkeypatch):
    """Half right by a changed check, too much memory, too many lines, no notebook."""
    monkeypatch.setattr(lessons, "NOTEBOOKS", course)
    monkeypatch.setattr(grade, "AT_ONCE", 2)  # most of the time is the start of each file's process
    hungry, second = "bytearray(3_000_000_000)", "check(...)\n# %% [markdown]\n# ## What"
    flood = r"print('not yet: \x1b[2K' + 'x' * 999, *['not yet'] * 99, sep='\n')"
    answers = {
        "00_x_a_half.py": COURSE.replace('print("not yet: put a number" if answer is ... else', "print("),
        "00_x_b_memory.py": COURSE.replace("check(2)", hungry).replace(second, second.replace("...", "3 - 1")),
        "00_x_c_writes.py": COURSE.replace(
            "check(2)", "import pathlib\n[x.write_text('') for x in pathlib.Path().iterdir()]\n" + flood
        ),
        "anna/00_x.ipynb": "{",
    }
    folder = tmp_path / "class"
    (folder / "anna").mkdir(parents=True)
    for name, text in answers.items():
        assert text != COURSE
        (folder / name).write_text(text)
    (folder / "plan.py").write_text("the teacher's own")
    assert grade.main([str(folder), "--gigabytes", "1", "--marks", str(tmp_path / "marks.csv")]) == 1
    out = capsys.readouterr().out
    head = "00_x_a_half.py, 1 of 4 (a check was changed, or not called)\n"
    assert head + "  ✓ 1. Two (changed: check)\n  – 2. Three (changed: check)\n      not begun\n" in out
    assert "  – 1. Two\n      not yet: MemoryError: it needs more memory than a file may take\n  ✓ 2. Three" in out
    assert "the file cannot be run: nbformat.reader.NotJSONError" in out
    assert f"not yet: ?[2K{'x' * (grade.WIDTH - 13)}\n" + "      not yet\n" * (grade.LINES - 1) + "  –" in out
    *table, last = out.split("\nmarks\n")[1].splitlines()
    assert [line.split()[0] for line in table] == list(answers), "names from the folder of the class on, in their order"
    ends = ["1 of 2 (a check was changed, or not called)", "1 of 2", "0 of 2", "0 of 2"]
    assert [line.split(maxsplit=3)[3] for line in table] == ends
    assert last == f"left out: {folder / 'plan.py'}, whose name has no lesson's in it, such as 03_causal_attention"
    rows = picogpt.load_rows(tmp_path / "marks.csv")
    assert [row["passed"] for row in rows] == [1, 0, 0, 1, 0, 0, 0, 0]
    assert [row["changed"] or "" for row in rows] == ["changed: check"] * 2 + [""] * 6
    assert [row["says"] for row in rows[1:4:2]] == ["not begun", "✓ two"]
    assert all((folder / name).read_text() == text for name, text in answers.items())


@pytest.mark.slow
def test_a_cell_that_cannot_be_stopped_costs_nothing_that_was_answered_before(course, tmp_path, monkeypatch):
    began, limits = tmp_path / "began", []

    class Hurried(subprocess.Popen):
        """Lets the time of the file be over as soon as its last cell began, however long that takes on this machine."""

        def communicate(self, input=None, timeout=None):
            limits.append(timeout)
            end = time.monotonic() + 120
            while not began.exists() and self.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            return super().communicate(input, timeout=1)

    monkeypatch.setattr(lessons, "NOTEBOOKS", course)
    monkeypatch.setattr(subprocess, "Popen", Hurried)
    stubborn = f"import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nopen({str(began)!r}, 'w')\ntime.sleep(600)"
    (file := tmp_path / "00_x.py").write_text(
        COURSE.replace("check(...)\n# %% [markdown]\n# ## What", stubborn + "\n# %% [markdown]\n# ## What")
    )
    stopped = ["not yet: stopped after 300 s, here or in a cell above that cannot be interrupted"]
    assert grade.graded(file, 300, 1) == {"1. Two": ["✓ two"], "2. Three": stopped}
    assert limits == [300 + grade.GRACE]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("check(2)", ""),
        ("print('✓ two')", "not called: check"),
        ('def check(answer):\n    print("✓ two")\ncheck(2)', "defined anew: check"),
        ('check = lambda answer: print("✓ two")\ncheck(2)', "defined anew: check"),
    ],
)
def test_a_check_that_is_not_the_lessons_is_named(course, tmp_path, monkeypatch, answer, said):
    monkeypatch.setattr(lessons, "NOTEBOOKS", course)
    (file := tmp_path / "00_x_eve.py").write_text(COURSE.replace("check(...)", answer, 1))
    beside = grade.beside_lesson(file)
    assert beside.changes["1. Two"] == said
    assert beside.untouched == {"2. Three"}


@pytest.mark.slow
def test_a_teacher_gets_one_verdict_an_exercise_in_the_words_of_its_check(tmp_path):
    script = next(script for script in lessons.scripts() if script.stem.startswith("07"))
    notebook = lessons.from_script(script)
    first, second, third = grade.exercises(notebook)
    solution = iter([cell.source for cell in notebook.cells if "solution" in cell.metadata.get("tags", ())])
    for cell in lessons.without_solutions(notebook).cells:
        if "exercise" in cell.metadata.get("tags", ()):
            cell.source = next(solution).replace("linear.weight *= ln.weight", "")  # the second forgets ln.weight
    nbformat.write(notebook, tmp_path / script.with_suffix(".ipynb").name)
    line = [sys.executable, "tools/grade.py", str(tmp_path / script.with_suffix(".ipynb").name)]
    done = subprocess.run(line, cwd=picogpt.ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    hint = "not yet: the weight of the linear layer must take up ln.weight"
    assert f"  ✓ {first}\n  – {second}\n      {hint}\n  ✓ {third}\n" in done.stdout


def test_exercises_are_both_files_without_solutions_and_answers_stay(tmp_path):
    assert lessons.write_exercises(tmp_path) == []
    answer = tmp_path / lessons.scripts()[0].name
    answer.write_text("mine")
    assert answer in lessons.write_exercises(tmp_path)
    assert answer.read_text() == "mine"
    for script in lessons.scripts():
        copy = nbformat.read(tmp_path / f"{script.stem}.ipynb", as_version=4)
        assert not any(cell.get("outputs") for cell in copy.cells)
        assert not any("solution" in cell.metadata.get("tags", ()) for cell in copy.cells)
        assert grade.exercises(copy) == grade.exercises(lessons.from_script(script))
        if script.name != answer.name:
            assert lessons.cells(lessons.from_script(tmp_path / script.name)) == lessons.cells(copy)
