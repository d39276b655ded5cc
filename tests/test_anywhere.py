"""Each lesson runs wherever a reader may open it: as it is, untouched and solved. The last two here, at the smoke budget.

1. In a kernel whose folder is notebooks/, as JupyterLab starts one: nbval does that, with all stored outputs compared.
2. As a plain script, from another folder: a learner's copy as handed out. Each exercise must be open, in words.
3. On Colab: ipywidgets 7.7.1, a module google.colab, a Python that knows nothing of the course, and only the one .ipynb.
   Here all exercises are solved, and must pass. And there without a network, with picogpt-course.zip next to the notebook.
4. Cell by cell in VS Code, which names the notebook in __vsc_ipynb_file__. Only the first code cell can tell the difference
   (test_lessons.py), and it is the same in all lessons: it alone is tried, from three folders.

Kernels and interpreters are real, and Colab's ipywidgets comes from PyPI. Classes, because the tests of a class stay together
on one worker (--dist loadscope).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

import archive
import grade
import lessons
import picogpt
import picogpt_core as pc

SMOKE = {"PICOGPT_BUDGET": "smoke", "TQDM_DISABLE": "1"}
BARE = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
# A kernel without a network: in a network namespace of its own where the system allows that, else proxies that do not answer
OFFLINE = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all", "HTTP", "HTTPS", "ALL")}
NO_NETWORK = ["unshare", "--map-root-user", "--net"]
if shutil.which("unshare") is None or subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode:
    NO_NETWORK = []
MARK = "--- the next cell"  # what the script prints before each
each_lesson = pytest.mark.parametrize("script", lessons.scripts(), ids=[script.stem for script in lessons.scripts()])


def test_nbval_runs_every_stored_notebook_in_its_folder():
    options = tomllib.loads((picogpt.ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "notebooks" in options["testpaths"]
    assert options["addopts"].startswith("--nbval ")


@pytest.mark.lesson
class TestScript:
    @each_lesson
    def test_an_untouched_copy_says_for_each_exercise_what_is_missing(self, script, tmp_path):
        notebook = lessons.without_solutions(lessons.from_script(script))
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        marked = nbformat.v4.new_notebook(cells=[part for cell in code for part in (*code_cells(f"print({MARK!r})"), cell)])
        jupytext.write(marked, tmp_path / script.name, fmt="py:percent")
        line, env = [sys.executable, tmp_path / script.name], os.environ | SMOKE | {"MPLBACKEND": "Agg"}
        done = subprocess.run(line, cwd="/", env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"does a later cell need what only the solution defines? {done.stderr[-2000:]}"
        for cell, text in zip(code, done.stdout.split(f"{MARK}\n")[1:], strict=True):
            cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        said = grade.verdicts(notebook)
        for exercise in grade.exercises(notebook):
            assert said[exercise], exercise
            assert all(line.startswith("not yet: ") for line in said[exercise]), exercise

    def test_the_first_cell_finds_the_core_from_the_place_of_the_script(self):
        """By a Python that sees no installed package: neither the course's nor any other."""
        ask = "print(importlib.util.find_spec('picogpt_core').origin)"
        code = f"__file__ = {str(lessons.scripts()[0])!r}\n{bootstrap_cell().source}\n{ask}"
        env = os.environ | {"PICOGPT_REPO": "file:///nowhere"}
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd="/", env=env, capture_output=True, text=True)
        assert done.stdout == f"{pc.__file__}\n", done.stderr


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Python with the libraries but without this course: what Colab, or VS Code with any interpreter, has.

    Its ipywidgets is Colab's, and there is a google.colab module. Returns the name of its kernel; with "-offline" after it
    the kernel has no network.
    """
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    old = ["ipywidgets==7.7.1", "ipython_genutils==0.2.0"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "10", "--target", str(site), *old]
    subprocess.run(pip, check=True, timeout=300)
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").write_text("")
    # a path in a .pth file brings packages, but not the editable install of this course, which is a .pth file itself
    libraries = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    (site / "libraries.pth").write_text(libraries + "\n")
    ask = "import google.colab, importlib.util as u, ipywidgets as w; print(u.find_spec('picogpt_core'), w.__version__)"
    seen = subprocess.check_output([python, "-c", ask], text=True, cwd="/", env=os.environ | BARE).strip()
    assert seen == "None 7.7.1"
    line = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    for name, argv in {"strange": line, "strange-offline": NO_NETWORK + line}.items():
        spec = folder / "jupyter" / "kernels" / name
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        yield "strange"


@pytest.fixture(scope="class")
def address_of_a_clone(tmp_path_factory):
    """This working tree as a git repository that can be cloned by URL, with the text: no lesson has to fetch it."""
    folder = tmp_path_factory.mktemp("origin") / "picogpt"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=picogpt.ROOT, text=True)
    for name in filter(lambda name: (picogpt.ROOT / name).is_file(), listed.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picogpt.ROOT / name, folder / name)
    picogpt.load_shakespeare()
    shutil.copy(picogpt.SHAKESPEARE, folder / "data")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    quick = [["config", "core.compression", "0"], ["config", "pack.window", "0"]]  # cloned once for each lesson
    for words in (["init", "--quiet"], *quick, ["add", "--all", "--force"], ["commit", "--quiet", "--message", "tree"]):
        subprocess.run([*git, *words], check=True)
    return folder.as_uri()


def execute(notebook, folder, kernel, **env):
    with tempfile.TemporaryDirectory() as sockets:
        # in files rather than TCP: those reach into another network namespace
        config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        place = {"metadata": {"path": str(folder)}}
        # coalesce_streams: a kernel may send a line and its end apart, whenever its clock says so
        client = NotebookClient(
            notebook, kernel_name=kernel, timeout=300, resources=place, config=config, coalesce_streams=True
        )
        client.execute(env=os.environ | SMOKE | BARE | env)


def solved(notebook):
    """A lesson filled in: each solution in place of the cell that waits for one. Nothing is left of its stored outputs."""
    notebook.cells = [cell for cell in notebook.cells if "exercise" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    return notebook


def bootstrap_cell():
    """The first code cell. One lesson is enough: it is the same in all (see test_lessons.py)."""
    return next(cell for cell in lessons.from_script(lessons.scripts()[0]).cells if cell.cell_type == "code")


def code_cells(*sources):
    return [nbformat.v4.new_code_cell(source) for source in sources]


@pytest.mark.lesson
@pytest.mark.network
class TestColab:
    @each_lesson
    def test_it_runs_solved_on_a_machine_like_colab_with_only_the_notebook(
        self, script, stranger, address_of_a_clone, tmp_path
    ):
        shutil.copy(script.with_suffix(".ipynb"), tmp_path)
        notebook = solved(nbformat.read(tmp_path / script.with_suffix(".ipynb").name, as_version=4))
        notebook.cells += code_cells("import picogpt; print(picogpt.__file__)")
        (tmp_path / "picogpt").mkdir()  # a folder of this name in the working folder must not become the package
        execute(notebook, tmp_path, stranger, PICOGPT_REPO=address_of_a_clone)
        package = tmp_path.resolve() / "picogpt-course" / "picogpt" / "__init__.py"
        assert package.exists(), "the notebook has cloned the course"
        assert notebook.cells[-1].outputs[0].text == f"{package}\n"
        said = grade.verdicts(notebook)
        for exercise in grade.exercises(lessons.from_script(script)):
            assert said[exercise], exercise
            assert all(line.startswith("✓") for line in said[exercise]), exercise

    def test_a_clone_without_the_text_fetches_it(self, stranger, address_of_a_clone, tmp_path):
        fetch = code_cells("import picogpt; picogpt.SHAKESPEARE.unlink(); picogpt.load_shakespeare()")
        notebook = nbformat.v4.new_notebook(cells=[bootstrap_cell(), *fetch])
        execute(notebook, tmp_path, stranger, PICOGPT_REPO=address_of_a_clone)
        text = (tmp_path / "picogpt-course" / "data" / "tinyshakespeare.txt").read_bytes()
        assert hashlib.sha256(text).hexdigest() == picogpt.data.SHAKESPEARE_SHA256


PROBE = """
import urllib.request
try:
    urllib.request.urlopen("https://github.com", timeout=20)
except OSError:
    print("no network")
"""


@pytest.fixture(scope="class")
def course(tmp_path_factory):
    """What make zip writes, with the text."""
    picogpt.load_shakespeare()
    archive.write_course(target := tmp_path_factory.mktemp("archive") / "picogpt-course.zip")
    return target


@pytest.mark.lesson
@pytest.mark.network
class TestNothingCanBeCloned:
    def bootstrap(self, folder, kernel):
        execute(nbformat.v4.new_notebook(cells=[bootstrap_cell()]), folder, kernel, PICOGPT_REPO="file:///nowhere")

    def test_a_lesson_runs_without_a_network_from_the_archive_next_to_it(self, stranger, course, tmp_path):
        """The first lesson that needs the text and a trained model."""
        needs = ("picogpt.load_corpus()", "picogpt.load_shipped(")
        script = next(script for script in lessons.scripts() if all(need in script.read_text() for need in needs))
        for file in (script.with_suffix(".ipynb"), course):
            shutil.copy(file, tmp_path)
        notebook = nbformat.read(tmp_path / script.with_suffix(".ipynb").name, as_version=4)
        notebook.cells += code_cells(PROBE, "import picogpt; print(picogpt.SHAKESPEARE)")
        execute(notebook, tmp_path, f"{stranger}-offline", PICOGPT_REPO="file:///nowhere", **OFFLINE)
        assert notebook.cells[-2].outputs[0].text == "no network\n"
        text = tmp_path.resolve() / "picogpt-course" / "data" / "tinyshakespeare.txt"
        assert notebook.cells[-1].outputs[0].text == f"{text}\n"

    def test_an_address_that_cannot_be_cloned_is_named_with_what_to_do(self, stranger, tmp_path):
        with pytest.raises(CellExecutionError) as caught:
            self.bootstrap(tmp_path, stranger)
        assert caught.value.ename == "RuntimeError"
        assert caught.value.evalue.startswith("file:///nowhere could not be cloned (fatal: ")
        assert "Put picogpt-course.zip ('make zip' writes it) next to this notebook" in caught.value.evalue

    @pytest.mark.parametrize("damage", ["cut off", "one byte", "another archive"])
    def test_a_damaged_archive_is_named_and_a_whole_one_then_works(self, damage, stranger, course, tmp_path):
        here, whole = tmp_path / "picogpt-course.zip", course.read_bytes()
        if damage == "another archive":
            with zipfile.ZipFile(here, "w") as file:
                file.writestr("picogpt-main/picogpt_core.py", "")
        else:
            with zipfile.ZipFile(course) as file:
                data = file.getinfo("picogpt/train.py").header_offset + 30 + len("picogpt/train.py")
            broken = {"cut off": whole[:data], "one byte": whole[:data] + b"\xff" + whole[data + 1 :]}
            here.write_bytes(broken[damage])
        with pytest.raises(CellExecutionError) as caught:
            self.bootstrap(tmp_path, stranger)
        assert caught.value.ename == "RuntimeError"
        assert caught.value.evalue.startswith(f"{here.resolve()} is damaged (")
        assert "Put picogpt-course.zip" in caught.value.evalue
        core = tmp_path / "picogpt-course" / "picogpt_core.py"
        assert not core.exists(), "the next run would take what has been unpacked for the whole course"
        here.write_bytes(whole)
        self.bootstrap(tmp_path, stranger)
        assert core.exists()


@pytest.mark.lesson
@pytest.mark.network
class TestVSCode:
    @pytest.mark.parametrize(
        "where", [picogpt.ROOT, lessons.NOTEBOOKS, Path("/")], ids=["workspace", "file folder", "elsewhere"]
    )
    def test_the_bootstrap_finds_the_core_in_vs_code(self, stranger, where):
        """Whatever the kernel's folder."""
        script = lessons.scripts()[0]
        name = nbformat.v4.new_code_cell(f"__vsc_ipynb_file__ = {str(script.with_suffix('.ipynb'))!r}")
        ask = nbformat.v4.new_code_cell(
            f"found = importlib.util.find_spec('picogpt_core'); assert found.origin == {pc.__file__!r}"
        )
        execute(nbformat.v4.new_notebook(cells=[name, bootstrap_cell(), ask]), where, stranger, PICOGPT_REPO="file:///nowhere")
