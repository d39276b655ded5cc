"""The files that are handed out: the course for where nothing can be cloned, and the doctor as one program.

That a lesson runs from the first, without a network, is in test_anywhere.py.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

import archive


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small repository: what belongs into the course's archive, and what does not."""
    root = tmp_path / "tree"
    inside = ("LICENSE", "data/checkpoints/x.safetensors", "data/runs/x.csv", archive.TEXT, archive.PLAY, "picogpt/__init__.py")
    inside += ("picogpt/cli.py", "picogpt_doctor/__init__.py", "picogpt_core.py", "data/verify.csv")
    outside = ("README.md", "data/gpt2/model.safetensors", "notebooks/00.ipynb", "out/x", "tests/test_x.py")
    outside += ("picogpt/__pycache__/cli.pyc", "data/runs/.x.csv.7-7.tmp")
    for name in inside + outside:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setattr(archive, "ROOT", root)
    return root, inside


def test_the_course_is_what_a_lesson_needs_with_the_core_last(tree, tmp_path):
    _, inside = tree
    archive.write_course(tmp_path / "course.zip")
    with zipfile.ZipFile(tmp_path / "course.zip") as course:
        assert course.testzip() is None
        assert course.namelist() == [*sorted(set(inside) - {archive.CORE}), archive.CORE]
        assert all(course.read(name).decode() == name for name in inside)


def test_the_same_tree_gives_the_same_bytes(tree, tmp_path):
    root, _ = tree
    archive.write_course(tmp_path / "a.zip")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o700)
    archive.write_course(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    (root / "picogpt" / "cli.py").write_text("changed")
    archive.write_course(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "b.zip").read_bytes()


def test_the_command_fetches_the_text_or_says_that_it_is_not_in(tree, tmp_path, capsys, monkeypatch):
    root, _ = tree
    assert archive.main(["course", str(tmp_path / "course.zip")]) == 0
    assert "tinyshakespeare" not in capsys.readouterr().out
    (root / archive.TEXT).unlink()

    def unreachable():
        raise OSError("Tiny Shakespeare could not be fetched.\nTried: everything")

    monkeypatch.setattr(archive, "load_shakespeare", unreachable)
    assert archive.main(["course", str(tmp_path / "course.zip")]) == 0
    assert (
        f"without {archive.TEXT}, which a lesson will fetch: Tiny Shakespeare could not be fetched.\n"
        in capsys.readouterr().out
    )
    assert archive.main(["course", "a", "b"]) == archive.main([]) == 2


@pytest.mark.slow
def test_the_doctor_runs_from_one_file(tmp_path):
    program = tmp_path / "picogpt_doctor.pyz"
    line = [sys.executable, archive.ROOT / "tools" / "archive.py", "doctor", str(program)]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    options = dict(cwd=tmp_path, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-I", program, "--help"], **options)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    # the Python of the tests knows a doctor by itself: the one inside the file must come first
    ask = f"import sys; sys.path.insert(0, {str(program)!r}); import picogpt_doctor; print(picogpt_doctor.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", ask], **options)
    assert done.stdout.startswith(str(program)), done.stderr
    assert os.access(program, os.X_OK)
    with zipfile.ZipFile(program) as inside:
        assert not [name for name in inside.namelist() if "picogpt_doctor" not in name and name != "__main__.py"]


def test_the_exit_status_of_the_doctor_comes_through(tmp_path, monkeypatch):
    (tmp_path / "picogpt_doctor").mkdir()
    (tmp_path / "picogpt_doctor" / "__init__.py").write_text("")
    (tmp_path / "picogpt_doctor" / "__main__.py").write_text("import sys; from . import x; sys.exit(x.STATUS)")
    (tmp_path / "picogpt_doctor" / "x.py").write_text("STATUS = 7")
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    archive.write_doctor(tmp_path / "elsewhere" / "x.pyz")
    shutil.rmtree(tmp_path / "picogpt_doctor")
    assert subprocess.run([sys.executable, "-I", "x.pyz"], cwd=tmp_path / "elsewhere").returncode == 7
