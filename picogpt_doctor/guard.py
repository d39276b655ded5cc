"""For tests and CI: which findings count, which are intended, which were there before; and what each check asks."""

from __future__ import annotations

import dataclasses
import difflib
import dis
import functools
import inspect
import json
import re
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import batch, checkpoint, loop
from .registry import CHECKS, ORDER, diagnose
from .report import ALLOWED, FIX_FIRST, KNOWN, Cause, Finding, Reason, Report, Status, Verdict, failed, first_few, joined

NUMBERS = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?")  # 46%, 0.028, -10, 2 in "head 2"; not the 0 of h.0.attn
NAMES = re.compile(r"\b[A-Za-z]\w*(?:[._]\w+)+\b")  # in evidence: h.0.attn, lm_head.weight, pos_embedding
SUBJECTS = {
    "step": loop.CHECKS_OF_A_STEP,
    "batch": batch.CHECKS_OF_A_BATCH,
    "checkpoint": checkpoint.CHECKS_OF_A_CHECKPOINT,
}


def all_checks() -> dict[str, tuple[str, Callable[[Any], Verdict]]]:
    """Return what each check examines (model, step, batch or checkpoint), and its function, by its name."""
    found: dict[str, tuple[str, Callable[[Any], Verdict]]] = {name: ("model", CHECKS[name].function) for name in ORDER}
    for kind, entries in SUBJECTS.items():
        found |= {entry.name: (kind, entry.function) for entry in entries}
    return found


def check_names(words: Collection[str]) -> list[str]:
    """Return the names of checks; first-loss is first loss. ValueError for one that there is not."""
    known, found = all_checks(), []
    for word in words:
        name = word.strip().replace("-", " ")
        if name not in known:
            like = difflib.get_close_matches(name, known, 1)
            hint = f"do you mean {like[0]}?" if like else "--explain all lists them"
            raise ValueError(f"there is no check {word.strip()!r}: {hint}")
        found.append(name)
    return found


# ----- which findings count


def chosen(report: Report, select: Collection[str] | None = None, ignore: Collection[str] = ()) -> Report:
    """Return a report with the findings of some checks only, or without those of some.

    What a chosen check was skipped for stays, and so does why the model could not be called: without them a report would be
    healthy without an answer. ValueError if nothing is left.
    """
    wanted = set(all_checks()) if select is None else set(check_names(select))
    wanted -= set(check_names(ignore))
    waiting = any(f.check in wanted and f.reason == Reason.DEPENDS for f in report.findings)
    broken = {f.check for f in report.findings if f.status in (Status.FAIL, Status.ERROR)} - set(check_names(ignore))
    kept = [f for f in report.findings if f.check in wanted or (f.check in broken and (waiting or not report.examined))]
    if report.findings and not kept:
        raise ValueError(f"no finding is left; the checks were {first_few((f.check for f in report.findings), 40)}")
    uncounted = [f.check for f in report.of(Status.FAIL) if f not in kept]
    of_checks = max(report.of_checks, len(report.findings))
    return without_advice(dataclasses.replace(report, findings=kept, of_checks=of_checks, uncounted=uncounted))


def without_advice(report: Report) -> Report:
    """Return a report that does not ask to fix what was allowed, or left out: other checks only wait for it."""
    passed_over = {f.check for f in report.findings if f.let_pass} | set(report.uncounted)

    def plain(f: Finding) -> Finding:
        waits_for = re.split(", | and ", f.evidence.partition(" failed")[0])
        alone = f.reason == Reason.DEPENDS and passed_over.issuperset(waits_for)
        return dataclasses.replace(f, evidence=f.evidence.removesuffix(FIX_FIRST)) if alone else f

    return dataclasses.replace(report, findings=[plain(f) for f in report.findings])


def key(finding: Finding) -> str:
    """Return what makes a finding the same one in another run: its check, its cause, and which modules and parameters it names.

    Percentages and magnitudes are dropped, since they change with the seed and the machine. Whole numbers of a cause stay: they
    say which layer, which head.
    """
    if finding.reason == Reason.DEPENDS:
        return f"{finding.check}: {finding.evidence.removesuffix(FIX_FIRST)}"
    cause = NUMBERS.sub(lambda number: number[0] if number[0].isdigit() else "#", finding.cause)
    named = sorted(set(NAMES.findall(finding.evidence)))
    return f"{finding.check}: {cause}" + (f" ({', '.join(named)})" if named else "")


def allowed(report: Report, names: Collection[str] = (), baseline: Collection[str] = ()) -> Report:
    """Return a report in which failures of some checks, or those of a baseline, are warnings.

    Where such a check got no answer, the report may be healthy without it; and without those that a baseline knows to wait.
    """
    intended = set(check_names(names))

    def judge(f: Finding) -> Finding:
        if f.check not in intended and key(f) not in baseline:
            return f
        if f.status == Status.FAIL:
            before = ALLOWED if f.check in intended else KNOWN
            return dataclasses.replace(f, status=Status.WARN, evidence=before + f.evidence)
        return dataclasses.replace(f, essential=f.essential and f.status != Status.SKIP)

    return without_advice(dataclasses.replace(report, findings=[judge(f) for f in report.findings]))


def read_baseline(path: str | Path) -> list[str]:
    """Return the findings of a baseline. ValueError if the file is not one."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        known = data["known"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a baseline: {error}. Write one with --write-baseline {path}") from error
    if not isinstance(known, list) or not all(isinstance(k, str) for k in known):
        raise ValueError(f'{path} is not a baseline: "known" must be a list of strings')
    return known


def write_baseline(path: str | Path, report: Report) -> int:
    """Write the failures of a report as a baseline, and what waits for them, and return how many failures there are."""
    failures = {key(f) for f in report.of(Status.FAIL)}
    known = sorted(failures | {key(f) for f in report.findings if f.reason == Reason.DEPENDS and f.essential})
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(json.dumps({"known": known}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(target)
    return len(failures)


def assert_healthy(
    model: nn.Module | Report,
    *,
    select: Collection[str] | None = None,
    ignore: Collection[str] = (),
    allow: Collection[str] = (),
    baseline: str | Path | None = None,
    **options: Any,
) -> Report:
    """Examine a model, and raise AssertionError with the report unless it is healthy. Return the report.

    `model` may also be the report of examine_step, examine_batch or examine_checkpoint. `select` and `ignore` are names of
    checks, `allow` those whose failure is intended, `baseline` the path of a file that --write-baseline wrote. `options` go to
    `diagnose`.

    ValueError for a name that is not a check's, or a file that is not a baseline.
    """
    known = read_baseline(baseline) if baseline is not None else []
    check_names([*(select or ()), *ignore, *allow])
    report = model if isinstance(model, Report) else diagnose(model, **options)
    report = allowed(chosen(report, select, ignore), allow, known)
    if not report.healthy:
        raise AssertionError(f"\n{report}")
    return report


# ----- what a check asks


class Some(float):
    """A number that a text leaves open."""

    def __format__(self, how: str) -> str:
        return "…"


EXAMPLES: dict[str, Any] = {  # for the causes that say which layer, how many bits …
    "int": 8,
    "float": Some(0.25),
    "str": "…",
    "bool": True,
    "tuple": (8, 8),
    "list[int]": [0, 1],
    "list[str]": ["…"],
    "Tensor": torch.tensor([0.5, 2.0]),
}


def explain(name: str) -> str:
    """Return what a check asks, how much depends on it, and the causes that it can name, each with what to do."""
    [name] = check_names([name])
    kind, function = all_checks()[name]
    found = facts_of(name)
    lines = [f"{name} (of a {kind})", "", inspect.cleandoc(inspect.unwrap(function).__doc__ or "")]
    if found.essential:
        lines += ["Essential: without its answer no report is healthy."]
    if not found.fails:
        lines += ["It can only warn: the report stays healthy."]
    lines += ["", "What it can name:"]
    lines += [f"  {cause.text}\n      try: {cause.advice}" for cause in found.causes]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What can be said of a check before it is asked."""

    essential: bool
    fails: bool  # whether it can end in a failure, and not in a warning at most
    causes: list[Cause]  # that it can name; those with parameters as an example


@functools.cache
def facts_of(name: str) -> Facts:
    """Return what the code of a check, and of the functions that it uses, says of it."""
    _, function = all_checks()[name]
    entries = [entry for kind in SUBJECTS.values() for entry in kind if entry.name == name]
    essential = CHECKS[name].essential if name in CHECKS else entries[0].essential
    causes: dict[str, Cause] = {}
    fails = False
    seen: set[Callable] = set()
    queue: list[Callable] = [function]
    while queue:
        here = inspect.unwrap(queue.pop(0))
        if here in seen:
            continue
        seen.add(here)
        for word in globals_in(here.__code__):
            value = here.__globals__.get(word)
            fails = fails or value in (failed, joined)
            if isinstance(value, types.FunctionType) and value.__annotations__.get("return") == "Cause":
                causes |= {word: cause} if (cause := example_of(value)) else {}
            for number, part in enumerate(parts_of(value)):
                if isinstance(part, Cause):
                    causes[f"{word} {number}"] = part
                elif isinstance(part, types.FunctionType) and part.__module__.startswith(__package__):
                    queue.append(part)
    return Facts(essential, fails, list({cause.text: cause for cause in causes.values() if cause.text}.values()))


def parts_of(value: Any) -> list[Any]:
    """Return what a global value holds, or the value itself."""
    return [*value.values()] if isinstance(value, dict) else [*value] if isinstance(value, tuple | list) else [value]


def example_of(function: types.FunctionType) -> Cause | None:
    """Return a cause that takes parameters, for some of them; None for a function that finds out which cause it is."""
    kinds = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    return function(*(EXAMPLES[kind] for kind in kinds)) if set(kinds) <= set(EXAMPLES) else None


def globals_in(code: types.CodeType) -> list[str]:
    """Return the names of the global values that a function uses, and those of the functions inside it."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in globals_in(c)]
    return [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"] + inner


def list_of_checks() -> str:
    """Return all checks, a line each."""
    lines = []
    for name, (kind, function) in all_checks().items():
        question = inspect.cleandoc(function.__doc__ or "").splitlines()[0]
        lines.append(f"{name:15}{kind:12}{question}")
    return "\n".join(lines)
