"""What a check found, and the report on one model."""

from __future__ import annotations

import dataclasses
import enum
import html
import json
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path


class Status(enum.StrEnum):
    """What a check can end with, in the order of the report."""

    ERROR = "error"  # the check itself crashed: a bug of the doctor, not of the model
    FAIL = "fail"  # something that must be true of every causal language model is not
    WARN = "warn"  # unusual; some good models do so on purpose
    PASS = "pass"
    SKIP = "skip"  # not answered, for a Reason


class Reason(enum.StrEnum):
    """Why a check was skipped."""

    INAPPLICABLE = "does not apply"
    DEPENDS = "skipped"  # another check failed or crashed, and this one builds on it
    TOO_SLOW = "too slow"
    NOT_ASKED = "could not be asked"  # the model raised, or its answer could not be used


ALLOWED, KNOWN = "allowed: ", "in the baseline: "  # before the evidence of a failure that counts as a warning
FIX_FIRST = ". Fix that first"  # after what a check was skipped for
NOT_FOLLOWED = "the model attends in a way that could not be followed"
COLOURS = {
    Status.ERROR: "#cc0000",
    Status.FAIL: "#d55e00",
    Status.WARN: "#e69f00",
    Status.PASS: "#009e73",
    Status.SKIP: "#888888",
}
STOPPED = 130  # the exit status that a shell gives to what Ctrl-C ended; here of what nobody reads to its end (| head), too
TEXT_COLUMN, LINE = 20, 116  # of the report as text: where the evidence begins, and the longest line


@dataclasses.dataclass(frozen=True)
class Cause:
    """What is probably wrong, and what to do about it."""

    text: str
    advice: str
    vague: bool = False  # it names no single fault: one that does is said before it


NO_CAUSE = Cause("", "")
BUG_OF_THE_DOCTOR = Cause(
    "a bug of the doctor, not of the model", "report it, with the model if you can; the other findings stand"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check returns."""

    status: Status
    evidence: str  # in numbers
    cause: Cause = NO_CAUSE
    reason: Reason | None = None  # of a skip
    where: str = ""  # of an exception: file, line and function, and the line itself if it is the model's


def passed(evidence: str) -> Verdict:
    return Verdict(Status.PASS, evidence)


def failed(cause: Cause, evidence: str, where: str = "") -> Verdict:
    return Verdict(Status.FAIL, evidence, cause, where=where)


def warned(cause: Cause, evidence: str) -> Verdict:
    return Verdict(Status.WARN, evidence, cause)


def skipped(evidence: str, reason: Reason = Reason.INAPPLICABLE, where: str = "") -> Verdict:
    return Verdict(Status.SKIP, evidence, reason=reason, where=where)


def crashed(error: BaseException) -> Verdict:
    """Return the verdict on a check that raised `error` itself."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
    return Verdict(Status.ERROR, f"this check crashed: {one_line(error)}", BUG_OF_THE_DOCTOR, where=where)


def joined(verdicts: list[Verdict]) -> Verdict:
    """Return one failure with the evidence, causes and advice of several, each named once."""
    parts = zip(*((v.evidence, v.cause.text, v.cause.advice) for v in verdicts), strict=True)
    evidence, text, advice = (" · ".join(dict.fromkeys(part)) for part in parts)
    return failed(Cause(text, advice), evidence)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    evidence: str  # in numbers
    cause: str = ""  # the likely one
    advice: str = ""  # where to look, what to do
    reason: str = ""  # of a skip: a Reason
    where: str = ""  # of an exception: file, line and function, and the line itself if it is the model's
    essential: bool = False  # without an answer to this check no report is a clean bill of health
    vague: bool = False  # the cause names no single fault

    @classmethod
    def of(cls, check: str, verdict: Verdict, essential: bool = False) -> Finding:
        """Return the finding of a check, by its name and verdict."""
        v = verdict
        return cls(check, v.status, v.evidence, v.cause.text, v.cause.advice, v.reason or "", v.where, essential, v.cause.vague)

    @property
    def text(self) -> str:
        """The evidence, after the reason if the check was skipped."""
        return f"{self.reason}: {self.evidence}" if self.reason else self.evidence

    @property
    def let_pass(self) -> str:
        """Why a failure counts as a warning, "" if this is none."""
        return next((word.rstrip(": ") for word in (ALLOWED, KNOWN) if self.evidence.startswith(word)), "")

    @property
    def unanswered(self) -> bool:
        """Whether the check applies and gave no answer."""
        return self.reason in (Reason.TOO_SLOW, Reason.NOT_ASKED)


@dataclasses.dataclass
class Report:
    """All findings about one model. Prints as text, shows as a table in a notebook, `to_json()` for machines."""

    about: str
    findings: list[Finding]
    seconds: float
    examined: bool = True  # False: the model could not be called at all
    not_recorded: dict[str, int] = dataclasses.field(default_factory=dict)  # "aten.foo: TypeError: …": how often
    stopped: str = ""  # at which check somebody stopped it, if so
    of_checks: int = 0  # how many checks there were before some were chosen, 0 if none were left out
    uncounted: list[str] = dataclasses.field(default_factory=list)  # failed, and left out because others were chosen

    def of(self, status: str) -> list[Finding]:
        """Return the findings of one status; those that name a single fault come first."""
        return sorted((f for f in self.findings if f.status == status), key=lambda f: f.vague)

    def __getitem__(self, check: str) -> Finding:
        """Return the finding of a check by its name; first-loss is first loss. KeyError if there is none."""
        return {finding.check: finding for finding in self.findings}[check.replace("-", " ")]

    @property
    def unanswered(self) -> list[Finding]:
        """Checks that apply and gave no answer: too slow, or the model could not be asked; and those that wait for another one,
        if no failure or crash is left that says so (it was allowed, or left out)."""
        waiting = not self.of(Status.FAIL) and not self.of(Status.ERROR)
        return [f for f in self.findings if f.unanswered or (waiting and f.reason == Reason.DEPENDS)]

    @property
    def trusted(self) -> bool:
        """Whether no check crashed and each essential one was answered."""
        return not self.of(Status.ERROR) and not any(finding.essential for finding in self.unanswered)

    @property
    def healthy(self) -> bool:
        """Whether the model was examined, nothing failed, and the report can be trusted."""
        return self.exit_status == 0

    @property
    def exit_status(self) -> int:
        """0 healthy, 1 something failed, 2 could not be examined, 3 nothing failed but not to be trusted, 130 stopped."""
        if self.stopped:
            return STOPPED
        if not self.examined:
            return 3 if self.of(Status.ERROR) else 2
        return 1 if self.of(Status.FAIL) else 0 if self.trusted else 3

    @property
    def conclusion(self) -> str:
        """The report in a few sentences."""
        errors, unseen = self.of(Status.ERROR), [f for f in self.unanswered if f.evidence == NOT_FOLLOWED]
        sentences = [self._verdict(unseen)]
        if errors:
            sentences.append(f"A bug of the doctor: {listed(f.check for f in errors)} crashed.")
        waiting: dict[str, list[str]] = {}
        for f in (f for f in self.unanswered if f.reason == Reason.DEPENDS):
            waiting.setdefault(f.evidence.removesuffix(FIX_FIRST), []).append(f.check)
        sentences += [f"Not answered, since {why}: {listed(checks)}." for why, checks in waiting.items()]
        if others := [f for f in self.unanswered if f not in unseen and f.reason != Reason.DEPENDS]:
            sentences.append(f"Not answered: {listed(f'{f.check} ({f.reason})' for f in others)}.")
        if self.not_recorded:
            first = next(iter(self.not_recorded))
            sentences.append(f"Not recorded: {number_of(sum(self.not_recorded.values()), 'operation')} ({first}).")
        return " ".join(sentences)

    def _verdict(self, unseen: list[Finding]) -> str:
        """Return the conclusion's first sentence; what is unseen of attention leaves a model healthy, and is said here."""
        failures, warnings = self.of(Status.FAIL), self.of(Status.WARN)
        named = {f.check: f"{f.check} ({f.let_pass})" if f.let_pass else f.check for f in warnings}
        warned_of = f"{number_of(len(warnings), 'warning')}: {listed(named.values())}" if warnings else ""
        but = [named[f.check] for f in warnings if f.let_pass] + [f"{check} (not counted)" for check in self.uncounted]
        nothing = f"nothing except {listed(but)} failed" if but else "nothing failed"
        not_seen = f"{listed(f.check for f in unseen)} could not be looked at ({NOT_FOLLOWED})"
        if self.stopped:
            return f"Stopped at {self.stopped}." + (f" {listed(f.check for f in failures)} failed." if failures else "")
        if not self.examined:
            nothing_trained = any(f.check == "trains" for f in failures)
            return f"Not examined: {'nothing was trained' if nothing_trained else 'the model could not be made or called'}."
        if failures:
            groups = self._grouped(Status.FAIL)
            cause = f" Likely cause: {groups[0][0].cause}." if groups[0][0].cause else ""
            return f"Not healthy: {listed(group[0].check for group in groups)} failed.{cause}"
        if not self.trusted:
            return f"{nothing.capitalize()}, but this report is not a clean bill of health."
        if unseen:
            return f"{nothing.capitalize()}, but {not_seen}.{f' With {warned_of}.' if warnings else ''}"
        left_out = self.of_checks > len(self.findings)
        healthy = f"Healthy as far as asked ({len(self.findings)} of {self.of_checks} checks)" if left_out else "Healthy"
        if warnings and not self.uncounted:
            return f"{healthy}, with {warned_of}."
        return f"{healthy}, with {warned_of}; {nothing}." if warnings else f"{healthy}: {nothing}."

    @property
    def counts(self) -> str:
        """How many findings of each status, and the seconds it took."""
        return f"{', '.join(f'{len(self.of(status))} {status}' for status in Status)}, in {self.seconds:.1f} s"

    def _grouped(self, *statuses: str) -> list[list[Finding]]:
        """Return the findings, those of one cause together: it is said once, by the first of them."""
        groups: dict[tuple, list[Finding]] = {}
        for number, f in enumerate(f for status in statuses for f in self.of(status)):
            groups.setdefault((f.cause,) if f.cause else (number,), []).append(f)
        return list(groups.values())

    def _entries(self) -> Iterator[tuple[Finding, list[tuple[str, str]]]]:
        """Yield the first finding of each cause, and what is said of it: a label and a text each."""
        for f, *others in self._grouped(*Status):
            parts = [("likely cause", f.cause), ("", f.text), ("where", f.where), ("try", f.advice)]
            parts += [(f"also seen by {other.check}", other.text) for other in others]
            yield f, [(label, text) for label, text in parts if text]

    def __str__(self) -> str:
        lines = [self.about, ""]
        for f, parts in self._entries():
            said = [f"{label}: {text}" if label else text for label, text in parts] or [""]
            text = [line for part in said for line in (textwrap.wrap(part, LINE - TEXT_COLUMN) or [""])]
            lines += [f"{f.status:6}{f.check:14}{text[0]}", *(f"{'':{TEXT_COLUMN}}{line}" for line in text[1:])]
        return "\n".join([*lines, "", *textwrap.wrap(self.conclusion, LINE), self.counts])

    def _repr_html_(self) -> str:
        rows = []
        for f, parts in self._entries():
            text = "<br>".join(f"<b>{label}:</b> {html.escape(x)}" if label else html.escape(x) for label, x in parts)
            mark = f'<td style="color:{COLOURS[f.status]};font-weight:bold">{f.status}</td>'
            rows.append(f'<tr>{mark}<td>{html.escape(f.check)}</td><td style="text-align:left">{text}</td></tr>')
        head = "<br>".join(map(html.escape, (self.about, self.conclusion, self.counts)))
        return f"<p>{head}</p><table>{''.join(rows)}</table>"

    def to_json(self) -> str:
        """Return the report as JSON: about, healthy, examined, exit_status, conclusion, seconds, not_recorded, findings."""
        names = ("about", "healthy", "examined", "exit_status", "conclusion", "not_recorded")
        whole = {name: getattr(self, name) for name in names} | {"seconds": round(self.seconds, 2)}
        return json.dumps(whole | {"findings": [dataclasses.asdict(f) for f in self.findings]}, indent=1)


def listed(words: Iterable[str]) -> str:
    """Return some words as a list in a sentence: a, b and c."""
    *before, last = [*words] or [""]
    return f"{', '.join(before)} and {last}" if before else last


def number_of(n: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun: 1 parameter, 2,000 parameters, 3 matrices."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def first_few(values: Iterable, most: int = 4) -> str:
    """Return the first values as words: 0, 1, 2, 3 …"""
    words = list(map(str, values))
    return ", ".join(words[:most]) + (" …" if len(words) > most else "")


def one_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its message, at most 160 characters of it."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
