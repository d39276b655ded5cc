"""Faulty and healthy language models, training steps and checkpoints as labelled programs, for any tool to be tried on.

    python benchmarks/doctor/planted.py out/planted             # writes the programs, about 400
    python benchmarks/doctor/planted.py out/planted --examine   # and shows each to the doctor: about ten minutes on one core

The folder stands alone and needs torch only (steps in the style `hugging_face` need transformers too). labels.tsv has a line
for each program: `program`; `subject` (model, step or checkpoint); `group`, the source that it comes from; `style`, in whose
manner it is written; `label` (faulty or healthy); `fault`, in words; and `says`, a regular expression that fits the true cause
as the doctor words it. A program is a file of a few lines beside the sources that it imports, which are those of our own
tests. It defines one of

    make_model()        returns the model; where they exist, make_cache(rows) makes an empty cache for it, and
                        generate(model, ids, n) writes n more tokens
    make_step()         returns (function, arguments …): what trains when it is called
    use_checkpoint()    loads model.pt, which lies beside it, and returns the model or uses it

All of these faults were known while the doctor's checks were written: its figures here show what it can name, not how it
does on the next report. With --examine a row for each program goes to data/runs/doctor_planted.csv.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

import picogpt
from picogpt_doctor import Report, Status, diagnose, examine_checkpoint, examine_step

ROOT = Path(__file__).resolve().parents[2]
TESTS, TABLE = ROOT / "tests", picogpt.DATA / "runs" / "doctor_planted.csv"
SOURCES = ("doctor_hosts", "doctor_strangers", "doctor_kinds", "doctor_reports", "doctor_loops", "doctor_checkpoints")
SECONDS, PATIENCE = 180.0, 3.0  # for one program, and for one check of it: some hang
LABELS = ("program", "subject", "group", "style", "label", "fault", "says")


@dataclasses.dataclass(frozen=True)
class Program:
    """A line of labels.tsv, and the lines of the program. `fault` is empty in a healthy one."""

    program: str
    subject: str
    group: str
    style: str
    fault: str
    says: str
    code: str

    @property
    def label(self) -> str:
        return "faulty" if self.fault else "healthy"


def first_line(text: str | None) -> str:
    """Return the first line of a docstring."""
    return " ".join((text or "").strip().partition("\n")[0].split()).rstrip(".")


def file_name(*words: str) -> str:
    """Return the name of a program: the words, in letters, digits and underscores."""
    return "_".join(filter(None, (re.sub(r"\W+", "_", word).strip("_").lower() for word in words))) + ".py"


def makes_model(imports: str, call: str) -> str:
    return f"from {imports}\n\n\ndef make_model():\n    return {call}\n"


def of_hosts() -> Iterator[Program]:
    """Two GPTs that share no code, and every fault that each can have."""
    source = importlib.import_module("doctor_hosts")
    for host in source.HOSTS:
        code = makes_model(f"doctor_hosts import {host}", f"{host}()")
        yield Program(file_name(host, "healthy"), "model", "doctor_hosts", host, "", "", code)
        for name, fault in source.FAULTS.items():
            if host in fault.hosts:
                code = makes_model(f"doctor_hosts import {host}", f'{host}("{name}")')
                says = re.escape(fault.words(host))
                yield Program(file_name(host, name), "model", "doctor_hosts", host, first_line(fault.wrong), says, code)


def of_strangers() -> Iterator[Program]:
    """Layers that mix positions, each with a twin, and healthy models that are unusual."""
    source = importlib.import_module("doctor_strangers")
    for name, (make, says) in source.MIXERS.items():
        for good in (False, True):
            code = makes_model("doctor_strangers import host", f'host("{name}", good={good})')
            fault = "" if good else first_line(make.__doc__) or says
            file = file_name("mixer", name, "healthy" if good else "")
            yield Program(file, "model", "doctor_strangers", name, fault, "" if good else re.escape(says), code)
    for name in source.HEALTHY:
        code = makes_model("doctor_strangers import unusual", f'unusual("{name}")')
        yield Program(file_name("unusual", name, "healthy"), "model", "doctor_strangers", name, "", "", code)
    for kind, fault in (("lstm", ""), ("masked", ""), ("open", "an encoder without a mask, in (T, B)")):
        code = makes_model("doctor_strangers import time_first", f'time_first("{kind}")')
        file = file_name("time_first", kind, "" if fault else "healthy")
        yield Program(file, "model", "doctor_strangers", "time first", fault, "no causal mask" if fault else "", code)


def of_kinds(module: str) -> Iterator[Program]:
    """Caches, generation and values, and what further public reports brought, each with a twin."""
    source = importlib.import_module(module)
    for name, (_, _, says, _) in source.KINDS.items():
        for healthy in (False, True):
            model, options = source.make(name, healthy=healthy)
            code = f"from {module} import make\n\nmodel, options = make({name!r}, healthy={healthy})\n"
            names = {"new_cache": "make_cache", "generate": "generate"}
            code += "".join(f'{names[option]} = options["{option}"]\n' for option in options)
            code += "\n\ndef make_model():\n    return model\n"
            file = file_name("kind", name, "healthy" if healthy else "")
            fault, words = ("", "") if healthy else (name, says)
            yield Program(file, "model", module, type(model).__name__, fault, words, code)


def of_loops() -> Iterator[Program]:
    """Training loops in many styles."""
    source = importlib.import_module("doctor_loops")
    for style in source.STYLES:
        code = f'from doctor_loops import STYLES\n\n\ndef make_step():\n    return STYLES["{style}"]({{}})\n'
        yield Program(file_name("step", style, "healthy"), "step", "doctor_loops", style, "", "", code.format(""))
        for fault, (_, says, styles) in (source.FAULTS | source.WARNINGS).items():
            if style in styles.split():
                file = file_name("step", style, fault)
                yield Program(file, "step", "doctor_loops", style, fault, re.escape(says), code.format(repr(fault)))


def of_checkpoints() -> Iterator[Program]:
    """Functions that load a checkpoint, evaluate or generate."""
    source = importlib.import_module("doctor_checkpoints")
    planted = source.FAULTS | source.WARNINGS
    for function in source.HEALTHY:
        style = function.__name__
        code = f"from pathlib import Path\n\nfrom doctor_checkpoints import {style}\n\n\ndef use_checkpoint():\n"
        code += f'    return {style}(Path(__file__).parent / "model.pt", fault={{}})\n'
        file = file_name("checkpoint", style, "healthy")
        yield Program(file, "checkpoint", "doctor_checkpoints", style, "", "", code.format(None))
        for fault, (_, says, functions) in planted.items():
            if function in functions:
                file = file_name("checkpoint", style, fault)
                lines = code.format(repr(fault))
                yield Program(file, "checkpoint", "doctor_checkpoints", style, fault, re.escape(says), lines)


def write(folder: Path) -> list[Program]:
    """Write the programs, what they import, the checkpoint, and labels.tsv."""
    sys.path.insert(0, str(TESTS))
    kinds = (of_kinds("doctor_kinds"), of_kinds("doctor_reports"))
    programs = [p for group in (of_hosts(), of_strangers(), *kinds, of_loops(), of_checkpoints()) for p in group]
    names = [p.program for p in programs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two programs have the name {', '.join(sorted(twice))}")
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        shutil.copy(TESTS / f"{source}.py", folder)
    trained = importlib.import_module("doctor_checkpoints").trained_model().state_dict()
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in trained.items()}, "step": 40}, folder / "model.pt")
    for p in programs:
        (folder / p.program).write_text(f'"""{p.label.capitalize()}: {p.fault or p.style}."""\n\n{p.code}')
    with (folder / "labels.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([LABELS, *([getattr(p, name) for name in LABELS] for p in programs)])
    return programs


def examine(file: Path) -> Report:
    """Return the doctor's report on a program."""
    program = importlib.import_module(file.stem)
    if hasattr(program, "make_model"):
        options = dict(new_cache="make_cache", generate="generate")
        given = {option: getattr(program, name) for option, name in options.items() if hasattr(program, name)}
        return diagnose(program.make_model(), seconds=PATIENCE, **given)
    if hasattr(program, "make_step"):
        return examine_step(*program.make_step())
    return examine_checkpoint(program.use_checkpoint)


def send_report(channel, file: Path) -> None:
    """Send the findings, the exit status and the processor seconds, from a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(file.parent))
    os.chdir(file.parent)
    began = time.process_time()
    report = examine(file)
    found = [(f.check, f.cause) for status in (Status.ERROR, Status.FAIL, Status.WARN) for f in report.of(status)]
    channel.send((report.exit_status, found, round(time.process_time() - began, 2)))


def examine_apart(file: Path) -> tuple[int, list[tuple[str, str]], float | str]:
    """Return the exit status, the findings and the processor seconds. What takes its process down goes to the command line."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=send_report, args=(there, file), daemon=True)
    child.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return here.recv()
    except EOFError:
        pass
    finally:
        child.kill()
        child.join()
    command = [sys.executable, "-m", "picogpt_doctor", f"{file}:make_model", "--json", "--seconds", f"{PATIENCE:g}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(file.parent), str(ROOT)))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=SECONDS)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [(f["check"], f["cause"]) for f in findings if f["status"] in ("error", "fail", "warn")], ""


def row(p: Program, status: int, found: list[tuple[str, str]], seconds: float | str) -> dict:
    """Return what is stored of one program: whether it was noticed, and whether the first finding names the cause."""
    check, cause = found[0] if found else ("", "")
    cells = {name: getattr(p, name) for name in LABELS}
    named = int(bool(p.fault and found and re.search(p.says, cause)))
    also = dict(exit_status=status, noticed=int(bool(found)), named=named, check=check, cause=cause, seconds=seconds)
    return cells | also | dict(torch=torch.__version__)


def summary(rows: list[dict]) -> Iterator[str]:
    """Yield the figures of each group as a line."""
    for group in SOURCES:
        faulty, healthy = ([r for r in rows if r["group"] == group and r["label"] == x] for x in ("faulty", "healthy"))
        seen, named = (sum(r[column] for r in faulty) for column in ("noticed", "named"))
        ill, warned = sum(r["exit_status"] != 0 for r in healthy), sum(r["noticed"] for r in healthy)
        yield (
            f"{group:20} {len(faulty):4} faulty: {seen} noticed, {named} named by the first finding; "
            f"{len(healthy):3} healthy: {ill} called ill, {warned} with any finding"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the programs are written")
    parser.add_argument("--examine", action="store_true", help="show each to the doctor, and store what it says")
    given = parser.parse_args()
    folder = given.folder.resolve()
    programs = write(folder)
    print(f"{len(programs)} programs in {given.folder}; labels.tsv says what is wrong with which")
    if not given.examine:
        return
    rows = []
    for p in programs:
        rows.append(row(p, *examine_apart(folder / p.program)))
        last = rows[-1]
        if (p.fault and not last["named"]) or (not p.fault and last["noticed"]):
            print(f"{p.program}: {last['check'] or '-'}: {last['cause']}  (expected: {p.says or 'nothing'})", flush=True)
    picogpt.files.save_rows(TABLE, [r | dict(machine=picogpt.describe_machine()) for r in rows])
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
