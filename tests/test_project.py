"""What stands in several files must agree."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import lessons
import picogpt_core as pc

ROOT = Path(pc.__file__).parent
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "playwright": "playwright-python"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def ranges(lines):
    parsed = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(each.name, each.name): str(each.specifier) for each in parsed}


def test_conda_and_pip_ask_for_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = ranges(line for line in environment["dependencies"] if isinstance(line, str))
    assert conda.pop("python") == PROJECT["requires-python"]
    assert conda.pop("pip") == ""
    pip = ranges(PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), []))
    assert conda == pip


def test_the_constraints_lie_within_the_ranges():
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pinned = {pin.name.lower(): next(iter(pin.specifier)).version for pin in pins}
    for line in PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), []):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[wanted.name]), f"{wanted} is pinned to {pinned[wanted.name]}"


def test_the_text_is_not_in_git():
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    assert "tinyshakespeare" not in tracked


@pytest.mark.slow
def test_one_command_changes_the_address_everywhere(tmp_path):
    new = "someone-else/my.gpt"
    old = PROJECT["urls"]["Repository"].split("github.com/")[1]
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "notebooks", "tools", "docs", "picogpt_doctor"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    named = [file for file in tmp_path.rglob("*.*") if old in file.read_text(errors="ignore")]
    assert len(named) >= 4, "pyproject, README and both files of a lesson name it"
    line = [sys.executable, "tools/lessons.py", "address", f"https://github.com/{new}"]
    subprocess.run(line, cwd=tmp_path, check=True)
    assert not [file for file in tmp_path.rglob("*.*") if old in file.read_text(errors="ignore")]
    assert all(new in file.read_text() for file in named)


def test_an_invalid_address_is_refused(tmp_path):
    line = [sys.executable, ROOT / "tools" / "lessons.py", "address", "github.com/x"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not of the form https://github.com/owner/name" in done.stderr


def test_no_file_of_the_repository_is_empty():
    """Two logs of a helper were, beside the README."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    assert not [name for name in tracked if (ROOT / name).is_file() and not (ROOT / name).stat().st_size]


PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "docs/results.md", "docs/doctor.md")


@pytest.mark.parametrize("name", PAGES)
def test_every_file_and_heading_that_a_page_links_is_there(name):
    page = ROOT / name
    for path, heading in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), f"{name} links {path}"
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if heading else []
        anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
        assert not heading or heading in anchors, f"{name} links {path}#{heading}"


def test_the_readme_links_every_lesson():
    readme = (ROOT / "README.md").read_text()
    assert not [script.stem for script in lessons.scripts() if f"](notebooks/{script.stem}.ipynb)" not in readme]


def test_what_the_readme_shows_where_things_are_is_there():
    (tree,) = re.findall(r"^```\n(picogpt_core\.py .*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    names = re.findall(r"^(\S+)  ", tree, re.MULTILINE)
    assert len(names) >= 10
    assert not [name for name in names if not (ROOT / name).exists()]
    inside = re.findall(r"\w+\.(?:py|md)", tree)
    files = {file.name for pattern in ("*.py", "*/*.py", "*/*.md") for file in ROOT.glob(pattern)}
    assert set(inside) <= files


def test_the_changes_tell_of_this_version():
    """pyproject.toml is the one place of the version; the list of changes and the citation name it too."""
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


@pytest.mark.slow
def test_the_types_are_consistent():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_code_is_clean():
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_check_before_a_commit_sees_a_drifted_pair(tmp_path):
    for name in ("notebooks", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "data").symlink_to(ROOT / "data")  # the checkpoints
    line = [sys.executable, "tools/lessons.py", "check"]
    assert subprocess.run(line, cwd=tmp_path).returncode == 0
    lesson = tmp_path / "notebooks" / "06_layernorm_placement.py"
    lesson.write_text(lesson.read_text().replace("LayerNorm", "BatchNorm", 1))
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 06_layernorm_placement.py and its .ipynb differ")


# The layers: a module imports only modules before it in its list, and nothing of the other lists.
COURSE = [
    "picogpt_core",
    *(
        f"picogpt.{name}"
        for name in ("files", "machine", "download", "tokenizer", "data", "checkpoint", "compiled", "train", "gpt2")
    ),
    *(f"picogpt.{name}" for name in ("study", "verify", "judge", "plot", "draw", "head_page", "patients")),
    *(f"picogpt.{name}" for name in ("__init__", "cli", "__main__")),
]
DOCTOR = [
    *(f"picogpt_doctor.{name}" for name in ("report", "tape", "patient", "probes", "registry", "leaks", "basics", "future")),
    *(f"picogpt_doctor.{name}" for name in ("causality", "attention", "stream", "values", "training", "caches", "generation")),
    *(f"picogpt_doctor.{name}" for name in ("subject", "answers", "passes", "watch", "batch", "running", "objective")),
    *(f"picogpt_doctor.{name}" for name in ("optimizing", "loop", "checkpoint", "guard")),
    *(f"picogpt_doctor.{name}" for name in ("formats", "cli", "__init__", "__main__")),
]


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(file: Path) -> set[str]:
    """The modules of this repository that a file imports: packages by their __init__, relative imports resolved."""
    ours = {module_name(other) for other in [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")]}
    package, found = module_name(file).rpartition(".")[0], set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            inside = {f"{base}.{name.name}" for name in node.names}
            found |= inside & ours or {base}
    return {name if name in ours else f"{name}.__init__" for name in found} & ours


@pytest.mark.parametrize("layers", [COURSE, DOCTOR], ids=["the course", "the doctor"])
def test_a_module_imports_only_modules_before_it(layers):
    for i, name in enumerate(layers):
        assert imports(ROOT / f"{name.replace('.', '/')}.py") <= set(layers[:i]), name


def test_every_module_has_its_place_in_the_layers():
    there = {module_name(file) for pattern in ("*.py", "picogpt/*.py", "picogpt_doctor/*.py") for file in ROOT.glob(pattern)}
    assert there == {*COURSE, *DOCTOR}


def test_lessons_import_the_core_the_package_and_the_doctor_only():
    inside = {"picogpt.draw", "picogpt.patients"}
    public = {"picogpt_core", "picogpt.__init__", *inside, "picogpt_doctor", "picogpt_doctor.__init__"}
    for script in lessons.scripts():
        assert imports(script) <= public, script.name


def test_the_core_copied_alone_builds_picogpt_and_generates(tmp_path):
    shutil.copy(pc.__file__, tmp_path)
    code = (
        "import sys, torch, picogpt_core as pc\n"
        "model = pc.GPT(pc.ModelConfig())\n"
        "ids = pc.generate(model, torch.zeros(1, 1, dtype=torch.long), pc.SampleConfig(max_new_tokens=5))\n"
        "brought = [name for name in sys.modules if name.startswith('picogpt')]\n"
        "print(pc.count_parameters(model), tuple(ids.shape), brought, pc.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2466369 (1, 6) ['picogpt_core'] {tmp_path / 'picogpt_core.py'}\n"
