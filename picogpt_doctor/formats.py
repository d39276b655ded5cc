"""A report for other programs, and for an issue: SARIF 2.1.0, and Markdown."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .guard import all_checks, key
from .report import Finding, Report, Status

ADDRESS = "https://github.com/not_yet_published/picogpt"
HELP = f"{ADDRESS}/blob/main/docs/doctor.md"
LEVELS = {Status.FAIL: "error", Status.ERROR: "error", Status.WARN: "warning", Status.PASS: "none", Status.SKIP: "none"}
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def rule_id(check: str) -> str:
    return check.replace(" ", "-")


def place_of(spec: str) -> dict[str, Any] | None:
    """Return where `file.py:name` or `module:name` is, as a location of SARIF; None for a module elsewhere."""
    if (source := file_of(spec)) is None:
        return None
    name, line = "" if spec.endswith(".py") else spec.rpartition(":")[2], 1
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and node.name == name:
            line = node.lineno
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            line = node.lineno
    return location(source, line)


def file_of(spec: str) -> Path | None:
    """Return the file of `file.py:name`, or of `module:name` where that lies below the working folder; else None."""
    source = spec if spec.endswith(".py") else spec.rpartition(":")[0]
    named = "/".join(source.split("."))
    files = [source] if source.endswith(".py") else [f"{named}.py", f"{named}/__init__.py"]
    return next((Path(file) for file in files if Path(file).is_file()), None)


def location(path: Path, line: int) -> dict[str, Any]:
    """Return a line of a file as a location of SARIF."""
    uri = (path.resolve().relative_to(Path.cwd()) if path.resolve().is_relative_to(Path.cwd()) else path).as_posix()
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}}


def place_of_finding(f: Finding, specs: Sequence[str]) -> dict[str, Any] | None:
    """Return where a finding was raised, "gpt.py:28 in forward: …", as a location of SARIF; None if it does not say, or if the
    file is not beside one of those that were examined."""
    match = re.match(r"([^\s/\\:]+\.py):(\d+)\b", f.where)
    if match is None:
        return None
    folders = dict.fromkeys(file.parent for spec in specs if (file := file_of(spec)))
    files = [path for folder in folders if (path := folder / match[1]).is_file()]
    return location(files[0], int(match[2])) if files else None


def to_sarif(report: Report, specs: Sequence[str]) -> str:
    """Return the failures, crashes and warnings of a report as SARIF 2.1.0. `specs` are the file.py:name that were examined."""
    places = [place for spec in specs if (place := place_of(spec))]
    known = all_checks()
    found = [f for f in report.findings if f.status in (Status.FAIL, Status.ERROR, Status.WARN)]
    rules = []
    for name in dict.fromkeys(f.check for f in found):
        question = inspect.cleandoc(known[name][1].__doc__ or name) if name in known else name
        rules.append({"id": rule_id(name), "shortDescription": {"text": question.splitlines()[0]}, "helpUri": HELP})
    run = {
        "tool": {"driver": {"name": "picogpt_doctor", "informationUri": ADDRESS, "rules": rules}},
        "results": [result_of(f, [place_of_finding(f, specs) or places[0]] if places else []) for f in found],
        "invocations": [{"executionSuccessful": report.exit_status in (0, 1), "exitCode": report.exit_status}],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def result_of(f: Finding, places: list[dict]) -> dict[str, Any]:
    """Return one finding as a result of SARIF."""
    parts = [f.cause or f.text, f.cause and f.text, f.where and f"where: {f.where}", f.advice and f"try: {f.advice}"]
    result: dict[str, Any] = {
        "ruleId": rule_id(f.check),
        "level": LEVELS[f.status],
        "message": {"text": ". ".join(part for part in parts if part)},
        "partialFingerprints": {"checkAndCause/v1": hashlib.sha256(key(f).encode()).hexdigest()},
    }
    if places:
        result["locations"] = places
    if f.let_pass:
        result["suppressions"] = [{"kind": "external"}]
    return result


def versions() -> str:
    """Return what a report of a bug must say about the machine."""
    cuda = f", CUDA {torch.version.cuda}" if torch.cuda.is_available() else ""
    return f"Python {platform.python_version()}, torch {torch.__version__}{cuda}, {platform.platform()}"


def to_issue(report: Report, words: Sequence[str]) -> str:
    """Return a report as Markdown, to be pasted into an issue."""
    lines = [f"**picogpt_doctor:** {report.conclusion}", ""]
    for f in (f for s in (Status.ERROR, Status.FAIL, Status.WARN) for f in report.of(s)):
        lines.append(f"- **{f.status} · {f.check}**: {f.cause or f.text}")
        lines += [
            f"  - {part}" for part in (f.cause and f.text, f.where and f"`{f.where}`", f.advice and f"try: {f.advice}") if part
        ]
    lines += ["", "<details><summary>The whole report</summary>", "", "```text", str(report), "```", "", "</details>", ""]
    lines += [f"`{shlex.join(['python', '-m', 'picogpt_doctor', *words])}`", "", versions()]
    if report.of(Status.ERROR):
        lines += [
            "",
            f"A check crashed: this is a bug of the doctor. Please send this, and the model if you can, to {ADDRESS}/issues",
        ]
    return "\n".join(lines)


def crash_report(trace: str) -> str:
    """Return what to send us when the doctor itself crashed."""
    return (
        f"This is a bug of the doctor, not of your model. Please send these lines to {ADDRESS}/issues, with the model if you "
        f"can:\n  picogpt_doctor {' '.join(sys.argv[1:])}\n  {versions()}\n{trace}"
    )
