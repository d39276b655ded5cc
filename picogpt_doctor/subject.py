"""A step, a batch or a checkpoint that is handed over: how its checks are asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from .report import Finding, Reason, Status, Verdict, crashed, listed, skipped


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line in the table of checks of a step, a batch or a checkpoint; its question is the docstring of its function."""

    name: str
    function: Callable[[Any], Verdict]
    needs: tuple[str, ...] = ()  # where one of these failed, it says nothing new
    essential: bool = False  # without an answer no report is healthy


def findings_of(checks: Sequence[Entry], subject: Any, strict: bool) -> list[Finding]:
    """Return what checks find. A crash of a check is an error, or raised if strict."""
    found: list[Finding] = []
    for entry in checks:
        broken = [f.check for f in found if f.check in entry.needs and f.status in (Status.FAIL, Status.ERROR)]
        try:
            verdict = skipped(f"{listed(broken)} failed. Fix that first", Reason.DEPENDS) if broken else entry.function(subject)
        except Exception as error:
            if strict:
                raise
            verdict = crashed(error)
        found.append(Finding.of(entry.name, verdict, entry.essential))
    return found


def is_strict(strict: bool | None) -> bool:
    """Whether bugs of the doctor are raised: as given, or as the environment says."""
    return os.environ.get("PICOGPT_DOCTOR_STRICT") == "1" if strict is None else strict
