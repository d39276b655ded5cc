"""Each lesson: both files the same cells, outputs stored and clean, and it starts wherever a reader may open it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import picogpt_core as pc

ROOT = Path(pc.__file__).parent
sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

LESSONS = build.lessons()
SMOKE = {"PICOGPT_BUDGET": "smoke", "TQDM_DISABLE": "1"}
each_lesson = pytest.mark.parametrize("script", LESSONS, ids=[script.stem for script in LESSONS])


def test_there_are_lessons_and_every_notebook_has_its_script():
    assert LESSONS
    assert {nb.stem for nb in build.NOTEBOOKS.glob("*.ipynb")} == {script.stem for script in LESSONS}


# ----- the two files


@each_lesson
def test_both_files_hold_the_same_cells(script):
    stored = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert build.cells(build.from_script(script)) == build.cells(stored), "edit the .py, then: make lessons"


@each_lesson
def test_outputs_are_stored_without_anything_of_an_editor(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": build.KERNEL, "language_info": {"name": "python"}}
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
    notebook = build.from_script(script)
    text, code = ([c for c in notebook.cells if c.cell_type == kind] for kind in ("markdown", "code"))
    first = text[0].source
    assert first.startswith(f"# {script.stem[:2]} · ")
    assert f"colab.research.google.com/github/{build.address().split('github.com/')[1]}/blob/main/" in first
    assert f"{script.stem}.ipynb" in first
    assert all(word in first for word in ("**You will**", "**You need**", "**Time**"))
    assert code[0].source == build.from_script(LESSONS[0]).cells[1].source, "the bootstrap cell is the same everywhere"
    assert build.address() in code[0].source
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
def test_four_fifths_of_the_cells_are_compared_strictly(script):
    code = [cell for cell in build.from_script(script).cells if cell.cell_type == "code"]
    loose = [cell for cell in code if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(loose) <= len(code) / 5


# ----- wherever a reader opens it


@each_lesson
def test_it_runs_as_a_plain_script_from_the_root_of_the_disk(script):
    done = subprocess.run(
        [sys.executable, script], cwd="/", env=os.environ | SMOKE | {"MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def execute(notebook, folder, kernel="python3", env=()):
    client = NotebookClient(notebook, kernel_name=kernel, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | SMOKE | dict(env))


@each_lesson
def test_it_runs_in_a_kernel_whose_folder_is_elsewhere(script, tmp_path):
    execute(build.from_script(script), tmp_path)


BARE = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Python with the libraries but without this course: what Colab, or VS Code with any interpreter, has.

    Its ipywidgets is Colab's, and there is a google.colab module. Returns the interpreter.
    """
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    old = ["ipywidgets==7.7.1", "ipython_genutils==0.2.0"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *old]
    subprocess.run(pip, check=True, timeout=300)
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").write_text("")
    # a path in a .pth file brings packages, but not the editable install of this course, which is a .pth file itself
    libraries = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    (site / "libraries.pth").write_text(libraries + "\n")
    ask = "import google.colab, importlib.util as u, ipywidgets as w; print(u.find_spec('picogpt_core'), w.__version__)"
    seen = subprocess.check_output([python, "-c", ask], text=True, cwd="/", env=os.environ | BARE).strip()
    assert seen == "None 7.7.1"
    return python


@pytest.fixture
def strange_kernel(stranger, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "strange"
    spec.mkdir(parents=True)
    line = [str(stranger), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": line, "display_name": "strange", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return "strange"


@pytest.fixture(scope="module")
def address_of_a_clone(tmp_path_factory):
    """This working tree as a git repository that can be cloned by URL."""
    folder = tmp_path_factory.mktemp("origin") / "picogpt"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "tree"]):
        subprocess.run([*git, *words], check=True)
    return folder.as_uri()


@each_lesson
def test_it_runs_on_a_machine_like_colab_with_only_the_notebook(script, strange_kernel, address_of_a_clone, tmp_path):
    content = tmp_path / "content"
    content.mkdir()
    shutil.copy(script.with_suffix(".ipynb"), content)
    notebook = nbformat.read(content / script.with_suffix(".ipynb").name, as_version=4)
    execute(notebook, content, strange_kernel, BARE | {"PICOGPT_REPO": address_of_a_clone})
    text = (content / "picogpt" / "data" / "tinyshakespeare.txt").read_bytes()
    assert hashlib.sha256(text).hexdigest() == pc.SHAKESPEARE_SHA256, "the clone fetched the text by itself"


@pytest.mark.parametrize("where", [ROOT, build.NOTEBOOKS, Path("/")], ids=["workspace", "file folder", "elsewhere"])
@each_lesson
def test_the_bootstrap_finds_the_core_in_vs_code(script, where, strange_kernel):
    """VS Code names the notebook in __vsc_ipynb_file__, whatever the kernel's folder."""
    notebook = build.from_script(script)
    notebook.cells = [
        nbformat.v4.new_code_cell(f"__vsc_ipynb_file__ = {str(script.with_suffix('.ipynb'))!r}"),
        next(cell for cell in notebook.cells if cell.cell_type == "code"),
        nbformat.v4.new_code_cell(f"import picogpt_core as pc; assert pc.__file__ == {pc.__file__!r}, pc.__file__"),
    ]
    execute(notebook, where, strange_kernel, BARE | {"PICOGPT_REPO": "file:///nowhere"})


# ----- the checks themselves


def test_a_hanging_cell_fails_the_notebook_run(tmp_path):
    """nbval alone ends well after a timed-out cell: without notebooks/conftest.py this test fails."""
    shutil.copy(build.NOTEBOOKS / "conftest.py", tmp_path)
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
    assert build.cells(build.from_script(script)) != build.cells(build.from_script(LESSONS[0]))


def test_storing_a_lesson_twice_gives_the_same_bytes_and_a_warning_is_refused(tmp_path):
    script = tmp_path / "90_x.py"
    script.write_text("# %%\nimport torch\ntorch.manual_seed(0)\nprint(torch.randn(3))\n")
    build.store(script)
    first = script.with_suffix(".ipynb").read_bytes()
    build.store(script)
    assert script.with_suffix(".ipynb").read_bytes() == first
    script.write_text(textwrap.dedent("# %%\nimport warnings\nwarnings.warn('careful')\n"))
    with pytest.raises(RuntimeError, match="cell 0 wrote to stderr: .*careful"):
        build.store(script)
    assert script.with_suffix(".ipynb").read_bytes() == first, "the stored lesson stays"
