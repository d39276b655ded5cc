"""Build what is handed out, and try each of it where nothing else of the course is.

usage: release.py [FOLDER]    into FOLDER, or out/release

The wheel, the doctor as one file, the course's zip, the site, and the exercises. Each is then used once as a reader would, in a
new environment that holds what the wheel asks for and no more, and in a folder outside of the repository. What fails is said,
with what the program printed.

Exit status: 0, all of it works; 1, something does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import archive
import lessons
import pages
from picogpt import ROOT

MODEL = """import torch
from torch import nn

class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(65, 32), nn.Embedding(16, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 65)

    def forward(self, ids):  # (B, T) -> (B, T, 65)
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        return self.head(x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])

def make_model():
    return GPT()
"""
WRITES = "import picogpt_core as pc; print(pc.count_parameters(pc.GPT(pc.preset('tiny'))))"
TRAINS = ("train", "--preset", "tiny", "--text", "text.txt", "--recipe.steps", "20", "--out", "run")
LESSON, LESSONS = "03_causal_attention", [script.stem for script in lessons.scripts()]


def command(*words: str | Path, folder: Path, fine: tuple[int, ...] = (0,), env: dict[str, str] | None = None) -> str:
    """Run a command in a folder and return what it printed. RuntimeError with its last lines if its status is not fine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PICOGPT"))}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=clean | (env or {}), capture_output=True, text=True)
    if done.returncode not in fine:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RuntimeError(f"{' '.join(map(str, words))}: status {done.returncode}\n{last}")
    return done.stdout + done.stderr


def build(folder: Path) -> Path:
    """Write everything into the folder. Return the wheel."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
    with tempfile.TemporaryDirectory() as copy:  # setuptools leaves a folder "build" beside what it builds
        kept = shutil.ignore_patterns("out", ".*", "notebooks", "data", "web", "__pycache__", "build", "*.egg-info")
        source = shutil.copytree(ROOT, Path(copy) / "source", ignore=kept)
        command(*pip, source, folder=source)
    archive.write_doctor(folder / "picogpt_doctor.pyz")
    archive.write_course(folder / "picogpt-course.zip")
    with tempfile.TemporaryDirectory() as made:
        pages.write(Path(made) / "site")
        lessons.write_exercises(Path(made) / "exercises")
        for what in ("site", "exercises"):
            shutil.make_archive(str(folder / f"picogpt-{what}"), "zip", made, what)
    (wheel,) = folder.glob("*.whl")
    return wheel


def tries(folder: Path, wheel: Path, place: Path) -> Iterator[tuple[str, str]]:
    """Use each once in `place`, and yield its name with the last line that it printed."""
    command(sys.executable, "-m", "venv", place / "env", folder=place)
    python = place / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = ("--constraint", ROOT / "constraints.txt")
    command(python, "-m", "pip", "install", "--quiet", *constraints, wheel, folder=place)
    (place / "model.py").write_text(MODEL)
    (place / "text.txt").write_text("Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n" * 60)
    yield "the wheel", command(python, "-c", WRITES, folder=place)
    yield "the wheel trains", command(python, "-m", "picogpt", *TRAINS, folder=place, env={"TQDM_DISABLE": "1"})
    command(python, "-m", "pip", "uninstall", "--quiet", "--yes", "picogpt", folder=place)  # the others stand alone
    yield "the doctor", command(python, folder / "picogpt_doctor.pyz", "model.py:make_model", folder=place)
    shutil.copy(folder / "picogpt-course.zip", place)
    shutil.copy(ROOT / "notebooks" / f"{LESSON}.py", place)
    smoke = dict(PICOGPT_BUDGET="smoke", MPLBACKEND="Agg", TQDM_DISABLE="1")
    yield "a lesson beside the course's zip", command(python, f"{LESSON}.py", folder=place, env=smoke)
    for what in ("site", "exercises"):
        shutil.unpack_archive(folder / f"picogpt-{what}.zip", place)
    missing = [name for name in LESSONS if not (place / "site" / f"{name}.html").exists()]
    if missing or not (place / "site" / "index.html").exists():
        raise RuntimeError(f"the site lacks its first page, or lessons: {', '.join(missing)}")
    yield "the site", f"{len(LESSONS)} lessons"
    exercise = place / "exercises" / f"{LESSON}.ipynb"
    graded = command(sys.executable, ROOT / "tools" / "grade.py", exercise, folder=place, fine=(1,), env=smoke)
    if "✓" in graded:
        raise RuntimeError(f"a file without answers passes an exercise:\n{graded}")
    yield "the exercises, graded without answers", graded


def main(words: list[str]) -> int:
    if len(words) > 1 or words[:1] == ["--help"]:
        print(__doc__)
        return 2
    folder = Path(*words).resolve() if words else ROOT / "out" / "release"
    if folder.exists() and any(folder.iterdir()):
        print(f"error: {folder} is not empty: delete it, or name another", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wheel = build(folder)
        with tempfile.TemporaryDirectory() as place:
            for name, printed in tries(folder, wheel, Path(place)):
                print(f"{name:40} {[line for line in printed.splitlines() if line.strip()][-1].strip()[:100]}", flush=True)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size / 1e6:6.1f} MB  {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
