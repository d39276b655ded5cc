"""Grade learners' lessons: one file, or a class.

usage: grade.py FILE_OR_FOLDER [...] [--seconds 600] [--gigabytes 6] [--marks FILE.csv]

A copy of each file, .ipynb or .py, runs in a folder of its own. Folders are looked through with all that is in them; files
whose names have no lesson's name in them are left out, and listed at the end. An exercise passes if its check prints ✓;
otherwise the check's message is its verdict. A class ends in a table, which --marks also writes, with the messages.

A cell is stopped after 120 seconds. A file that takes longer than --seconds (and a minute more to be stopped in) or more memory
than --gigabytes, which works on Linux, loses what was not answered by then, and never another file's marks.

The checks are those in the learner's file, and a printed ✓ counts; it is said which of them were changed, defined anew or not
called. They are there to help, and are not an exam. What runs is the learner's code, with your permissions: grade only people
you trust, or in a container.

Exit status: 0, every exercise passed; 1, some did not; 2, it cannot be graded.
"""

import argparse
import ast
import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat

import lessons

SECONDS = 120  # that a cell may take; the text above says it, too
GRACE = 60  # seconds to interrupt a cell and end, before a file is stopped
AT_ONCE = max(1, (os.cpu_count() or 2) // 2)  # files
CHANGED = " (a check was changed, or not called)"  # of an exercise that passed
LINES, WIDTH = 5, 300  # of a learner's cell that a teacher's screen shows
DIED = "Python died here or in a cell above: too much memory, or a crash"
NOTHING = ["not yet: its check printed nothing. Are the heading and the call of the check still there?"]


def headings(cell: nbformat.NotebookNode) -> list[str]:
    return re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []


def with_headings(notebook: nbformat.NotebookNode, known: set[str] | None = None):
    """Yield each code cell with the heading above it; with `known`, a learner's own headings do not count."""
    heading = ""
    for cell in notebook.cells:
        heading = [heading, *(words for words in headings(cell) if known is None or words in known)][-1]
        if cell.cell_type == "code":
            yield heading, cell


def is_tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", ())


def exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the headings of the exercises."""
    return [heading for heading, cell in with_headings(notebook) if is_tagged(cell, "exercise")]


def run(
    file: Path, seconds: float = 600, after: Callable[[nbformat.NotebookNode], None] | None = None, **env: str
) -> nbformat.NotebookNode:
    """Run all cells of a lesson and return it; one that fails or never ends does not keep the others from running.

    A kernel that dies is the error of all cells behind it. `after` is called with the notebook after each cell.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    notebook = jupytext.read(file)
    end = time.monotonic() + seconds
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(file.resolve().parent)}},
        timeout_func=lambda cell: max(1, min(SECONDS, int(end - time.monotonic()))),
        interrupt_on_timeout=True,
        allow_errors=True,
        on_cell_complete=lambda cell, cell_index: after(notebook) if after else None,
    )
    try:
        client.execute(env={"PICOGPT_BUDGET": "smoke", "TQDM_DISABLE": "1"} | os.environ | env)
    except DeadKernelError:
        died = nbformat.v4.new_output("error", ename="DeadKernelError", evalue=DIED, traceback=[])
        for cell in notebook.cells:
            if cell.cell_type == "code" and "shell.execute_reply" not in cell.metadata.get("execution", {}):
                cell.outputs = [died]
    return notebook


def messages(cell: nbformat.NotebookNode) -> list[str]:
    """Return the lines that a check printed in this cell, or the error that stopped it: at most LINES of WIDTH characters."""
    plain = {
        "KeyboardInterrupt": "the cell took too long, and was stopped: a loop without an end?",
        "MemoryError": "MemoryError: it needs more memory than a file may take",
    }
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            value = re.sub(r"\d+\.py, (?=line)", "", output.evalue)  # IPython's name for the cell
            found.append(f"not yet: {plain.get(output.ename, f'{output.ename}: {value}')}")
        found += [line for line in output.get("text", "").splitlines() if line.startswith(("✓", "not yet"))]
    return ["".join(c if c.isprintable() else "?" for c in line[:WIDTH]) for line in found[:LINES]]


def verdicts(notebook: nbformat.NotebookNode, known: set[str] | None = None) -> dict[str, list[str]]:
    """Return, for each heading, the messages of the last cell under it that passes; if none does, of the last that has any.

    A learner may have tried other things below the right answer.
    """
    found: dict[str, list[str]] = {}
    for heading, cell in with_headings(notebook, known):
        said = messages(cell)
        if said and (passed(said) or not passed(found.get(heading, ["not yet"]))):
            found[heading] = said
    return found


def lesson_of(file: Path) -> Path:
    """Return the script of the lesson that a learner's file is of, named like "Copy of 03_causal_attention (1).ipynb"."""
    for script in lessons.scripts():
        if script.stem in file.name.lower():
            return script
    raise ValueError(f"{file}: its name should have a lesson's in it, for example 03_causal_attention")


def has_lesson(file: Path) -> bool:
    try:
        return bool(lesson_of(file))
    except ValueError:
        return False


def files_of(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return what to grade: the files named, and those in the folders named, by name; and what else lies in the folders.

    ValueError if something that is named cannot be graded.
    """
    found: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            every = (file for file in path.rglob("*") if ".ipynb_checkpoints" not in file.parts)
            inside = sorted(file for file in every if file.suffix in (".ipynb", ".py"))
            if not any(map(has_lesson, inside)):
                raise ValueError(
                    f"{path} has no .ipynb and no .py with a lesson's name in its own, such as 03_causal_attention"
                )
            found += filter(has_lesson, inside)
            others += [file for file in inside if not has_lesson(file)]
        elif path.is_file():
            lesson_of(path)
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist")
    return found, others


def names_in(sources: Iterable[str]) -> set[str]:
    """Return the names of the functions and values that some cells define; those that are not Python define none."""
    found = set()
    for source in sources:
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(source).body:
                found |= {node.name} if isinstance(node, ast.FunctionDef) else set()
                found |= {x.id for x in node.targets if isinstance(x, ast.Name)} if isinstance(node, ast.Assign) else set()
    return found


def calls_in(sources: Iterable[str]) -> set[str]:
    return set(re.findall(r"\w+(?=\()", "\n".join(sources)))


def work_in(notebook: nbformat.NotebookNode, known: set[str], solutions: set[str]) -> dict[str, list[str]]:
    """Return, for each heading, the code below it that is a learner's to write: no check, and no solution as it was given."""
    found: dict[str, list[str]] = {}
    for heading, cell in with_headings(notebook, known):
        if not is_tagged(cell, "check") and not (is_tagged(cell, "solution") and cell.source.strip() in solutions):
            found.setdefault(heading, []).append(cell.source.strip())
    return found


class Beside(NamedTuple):
    """A learner's file beside its lesson."""

    untouched: set[str]  # exercises under which nothing stands but the lesson's own code
    changes: dict[str, str]  # by exercise: "changed: check_attention; not called: check_neighbour_head"


def beside_lesson(file: Path) -> Beside:
    """Compare a learner's file with its lesson.

    A check belongs to the exercise under whose heading it stands and to those that call it; if there is none, to all.
    """
    lesson = lessons.from_script(lesson_of(file))
    titles, known = exercises(lesson), {words for cell in lesson.cells for words in headings(cell)}
    try:
        theirs = jupytext.read(file)
    except Exception:  # no notebook at all, which its verdicts say
        return Beside(set(), {})
    solutions = {cell.source.strip() for cell in lesson.cells if is_tagged(cell, "solution")}
    before, after = (work_in(notebook, known, solutions) for notebook in (lesson, theirs))
    anew = names_in(itertools.chain(*after.values())) - names_in(itertools.chain(*before.values()))
    kept = {cell.source.strip() for cell in theirs.cells if is_tagged(cell, "check")}
    called, calls = ({title: calls_in(work.get(title, ())) for title in titles} for work in (before, after))
    found: dict[str, dict[str, set[str]]] = {title: {} for title in titles}
    for heading, cell in with_headings(lesson):
        if is_tagged(cell, "check"):
            names, same = names_in([cell.source]), cell.source.strip() in kept
            for title in [title for title in titles if title == heading or names & called[title]] or titles:
                for what, which in (
                    ("changed", set() if same else names or {"what a check uses"}),
                    ("defined anew", names & anew),
                    ("not called", names & called[title] - calls[title]),
                ):
                    found[title].setdefault(what, set()).update(which)
    said = {
        title: "; ".join(f"{what}: {', '.join(sorted(which))}" for what, which in whats.items() if which)
        for title, whats in found.items()
    }
    return Beside({title for title in titles if title in after and set(after[title]) <= set(before[title])}, said)


def alone(file: Path, known: list[str], seconds: float, gigabytes: float) -> None:
    """Print the verdicts of one file as JSON: what the process for a single file does."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        size = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))  # the kernel inherits it

    def say(notebook: nbformat.NotebookNode) -> None:
        # after each cell: a later one that cannot be stopped costs nothing before it
        print(json.dumps(verdicts(notebook, set(known))), flush=True)

    say(run(file, seconds, after=say))


def graded(file: Path, seconds: float, gigabytes: float) -> dict[str, list[str]]:
    """Grade one file in a process of its own: the verdicts by exercise, each a list of lines."""
    with tempfile.TemporaryDirectory() as folder:  # what it writes beside itself is nobody else's
        return graded_copy(Path(shutil.copy(file, folder)), lessons.from_script(lesson_of(file)), seconds, gigabytes)


def graded_copy(file: Path, lesson: nbformat.NotebookNode, seconds: float, gigabytes: float) -> dict[str, list[str]]:
    titles, known = exercises(lesson), json.dumps([words for cell in lesson.cells for words in headings(cell)])
    command = [sys.executable, __file__, str(file), "--alone", known, "--seconds", str(seconds), "--gigabytes", str(gigabytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, instead = {}, NOTHING
    try:
        out, err = process.communicate(timeout=seconds + GRACE)
        said = last_said(out)
        if process.returncode:
            instead = [f"not yet: the file cannot be run: {(err.strip().splitlines() or ['no reason given'])[-1]}"]
    except subprocess.TimeoutExpired as late:  # what it had said by then; to read on could wait for its kernel without end
        instead = [f"not yet: stopped after {seconds:g} s, here or in a cell above that cannot be interrupted"]
        said = last_said((late.output or b"").decode())  # bytes, whatever the mode
    finally:
        process.kill()  # a kernel ends with the process that started it
        process.wait()
    return {title: said.get(title, instead) for title in titles}


def last_said(out: str) -> dict[str, list[str]]:
    """Return the last verdicts in what a file's process printed: a line for each cell, of which the last may be cut off."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return {}


def passed(lines: list[str]) -> bool:
    return all(line.startswith("✓") for line in lines)


def main(words: list[str]) -> int:
    what, usage, more = __doc__.split("\n\n", 2)
    parser = argparse.ArgumentParser(
        description=what,
        usage=usage.removeprefix("usage: "),
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, help="learners' files, or folders of them")
    parser.add_argument("--seconds", type=float, default=600, help="that a file may take (600)")
    parser.add_argument("--gigabytes", type=float, default=6, help="of memory for a file, on Linux (6)")
    parser.add_argument("--marks", type=Path, help="a CSV file to write, one row for each file and exercise")
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)  # the headings of its lesson
    asked = parser.parse_args(words)
    if asked.alone:
        alone(asked.paths[0], asked.alone, asked.seconds, asked.gigabytes)
        return 0
    try:
        if not (asked.seconds > 0 and asked.gigabytes > 0):
            raise ValueError(f"{asked.seconds:g} s and {asked.gigabytes:g} GB: both limits must be above 0")
        files, others = files_of(asked.paths)
        if asked.marks:
            with asked.marks.open("a"):  # better now than after an hour
                pass
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[dict] = []
    try:
        grade_all(files, asked, rows)
    finally:  # after a Ctrl-C, what there is by then
        write_marks(files, asked, rows)
        for file in others:
            print(f"left out: {file}, whose name has no lesson's in it, such as 03_causal_attention")
    return 0 if all(row["passed"] for row in rows) else 1


def names_of(files: list[Path]) -> dict[Path, str]:
    """Return how the files are called: by their paths from the folder that holds them all."""
    whole = {file: file.resolve() for file in files}
    top = Path(os.path.commonpath([path.parent for path in whole.values()]))
    return {file: path.relative_to(top).as_posix() for file, path in whole.items()}


def grade_all(files: list[Path], asked: argparse.Namespace, rows: list[dict]) -> None:
    """Grade each file, print its verdicts, and add a row for each of its exercises."""
    names = names_of(files)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        every = pool.map(lambda file: graded(file, asked.seconds, asked.gigabytes), files)
        for nth, (file, said) in enumerate(zip(files, every, strict=True), 1):
            untouched, changes = beside_lesson(file)
            in_doubt = any(changes.get(title) and passed(lines) for title, lines in said.items())
            print(f"\n{names[file]}, {nth} of {len(files)}" + CHANGED * in_doubt)
            for title, lines in said.items():
                if title in untouched and not passed(lines):
                    lines = ["not begun"]
                changed = changes.get(title, "")
                print(f"  {'✓' if passed(lines) else '–'} {title}" + f" ({changed})" * bool(changed))
                print("".join(f"      {line}\n" for line in lines if not line.startswith("✓")), end="", flush=True)
                mark = dict(exercise=title, passed=int(passed(lines)), changed=changed, says=" / ".join(lines))
                rows.append(dict(file=names[file], lesson=lesson_of(file).stem) | mark)


def write_marks(files: list[Path], asked: argparse.Namespace, rows: list[dict]) -> None:
    """Print the table of a class, and write the CSV that was asked for."""
    if len(files) > 1:
        print("\nmarks")
        for name, exercises_of in itertools.groupby(rows, key=lambda row: row["file"]):
            marks, in_doubt = zip(
                *((row["passed"], bool(row["passed"] and row["changed"])) for row in exercises_of), strict=True
            )
            passes = f"{' '.join('–✓'[mark] for mark in marks):20} {sum(marks)} of {len(marks)}"
            print(f"  {name:50} {passes}" + CHANGED * any(in_doubt))
    if asked.marks and rows:
        from picogpt import atomic_write  # which brings torch: the process of a single file starts sooner without

        with atomic_write(asked.marks) as temporary, open(temporary, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))  # with the mark that a spreadsheet knows UTF-8 by
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
