"""The checks in their order, each within a time limit, and `diagnose`, which runs them all."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from torch import nn

from .patient import GOLDEN, HungBefore, ModelError, NotExaminable, Patient, TookTooLong, model_code
from .report import Cause, Finding, Reason, Report, Status, Verdict, crashed, failed, listed, skipped

# The order in which they run; what a check builds on stands above it. The file that defines them is named beside.
ORDER = (
    *("called", "answers", "side effects"),  # basics
    *("modules", "weights"),  # values: what they name explains much of what follows
    *("repeats", "registered", "shared layers", "rows"),  # basics
    "causality",  # causality
    "modes",  # basics: a mask that is missing in one of the modes is said by causality
    "residual",  # stream: memory builds on it
    *("memory", "positions", "lengths"),  # causality
    *("softmax", "heads", "scale"),  # attention
    *("attention", "configuration", "precision", "padding"),  # values
    *("norms", "activation"),  # stream
    *("gradients", "first loss", "its own loss", "tied head", "learns"),  # training
    *("generate", "cache"),  # generation, caches
    "count",  # basics
)

FINITE = "finite logits"  # not a check, but what `answers` finds out: a need of those that compare logits

HANGS = Cause("the model hangs, or is very slow", "call it by hand, on one token")
EXITS = Cause("sys.exit in its code", "raise an exception instead")

CheckFunction = Callable[[Patient], Verdict]


@dataclasses.dataclass(frozen=True)
class Check:
    """A check: its question, the checks it builds on, and whether a report can be healthy without its answer."""

    name: str
    function: CheckFunction
    needs: tuple[str, ...]
    essential: bool


CHECKS: dict[str, Check] = {}


def check(name: str, needs: tuple[str, ...] = (), essential: bool = False) -> Callable[[CheckFunction], CheckFunction]:
    """Register a check of ORDER.

    It is skipped where one of those it `needs` has failed or crashed, or was skipped for that reason itself: what it compares
    would differ already.
    ValueError, at import, for a name or need that is not in ORDER, or a need that runs later.
    """
    if name not in ORDER or name in CHECKS:
        raise ValueError(f"check {name!r} {'is defined twice' if name in CHECKS else 'is not in ORDER'}")
    if wrong := [need for need in needs if need not in (FINITE, *ORDER[: ORDER.index(name)])]:
        raise ValueError(f"check {name!r} needs {listed(wrong)}, which must stand above it in ORDER")

    def register(function: CheckFunction) -> CheckFunction:
        CHECKS[name] = Check(name, function, needs, essential)
        return function

    return register


def require_all_checks() -> None:
    """RuntimeError if a check of ORDER is not defined."""
    if missing := [name for name in ORDER if name not in CHECKS]:
        raise RuntimeError(f"no file defines {listed(missing)}")


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after `seconds`, and again each second, should the block swallow it.

    By SIGALRM in the main thread, which also wakes sleep() and locks; by an asynchronous exception in other threads and on
    Windows, which arrives only between two lines of Python. Neither ends a single call of native code before it returns, nor
    a loop that catches BaseException and goes on.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        with thread_time_limit(seconds):
            yield
        return

    def ring(signum, frame):
        raise TookTooLong

    began, handler = time.perf_counter(), signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # of the caller's own timer, if any
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # once more: it may ring just before the line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.perf_counter() - began), 1e-3), interval)


@contextlib.contextmanager
def thread_time_limit(seconds: float) -> Iterator[None]:
    """`time_limit` for any thread, by an asynchronous exception (CPython)."""
    thread, over, lock = ctypes.c_ulong(threading.get_ident()), threading.Event(), threading.Lock()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def ring() -> None:
        wait = seconds
        while not over.wait(wait):
            with lock:
                if not over.is_set():
                    raise_in(thread, ctypes.py_object(TookTooLong))
            wait = 1.0

    threading.Thread(target=ring, daemon=True).start()
    try:
        try:
            yield
        finally:
            over.set()
    finally:
        with lock:  # once more: it may have been raised just before the line above
            over.set()
        # What was raised and has not arrived yet arrives in a loop, at the latest. It is not taken back by
        # raise_in(thread, None): CPython 3.11 keeps a flag after that, and the next call under a profile never begins.
        with contextlib.suppress(TookTooLong):
            for _ in range(2):
                pass


def attempt(p: Patient, function: CheckFunction, seconds: float, left: float = math.inf) -> Verdict:
    """Run one check, whatever the model does in it, in at most `seconds`, or the `left` ones of the whole examination.

    A crash of the check itself is an error, raised in strict mode.
    """
    if left <= 0:
        return skipped("the time for the whole examination was used up", Reason.TOO_SLOW)
    p.patience = min(seconds, left)
    p.called_at = time.perf_counter()
    p.deadline = p.called_at + p.patience
    try:
        with time_limit(p.patience):
            with model_code():
                p.model.eval()
            return function(p)
    except (NotExaminable, KeyboardInterrupt):
        raise
    except TookTooLong:
        waited = time.perf_counter() - p.called_at
        p.restore()  # the alarm may have rung while weights were put back
        if waited < p.patience / 2 or p.patience < seconds:  # many calls, none of them stuck; or little time was left
            return skipped(f"not finished after {p.patience:.3g} s", Reason.TOO_SLOW)
        return failed(HANGS, f"not finished after {seconds:g} s: {p.hung[-1] if p.hung else 'a call'} does not return")
    except HungBefore as call:
        p.restore()
        return skipped(f"{call} did not return in an earlier check", Reason.TOO_SLOW)
    except SystemExit as stop:
        return failed(EXITS, f"the model ended the program: sys.exit({stop.code!r})")
    except ModelError as error:
        return skipped(str(error), Reason.NOT_ASKED, error.where)
    except Exception as error:
        if p.strict:
            raise
        return crashed(error)


def roots(check: Check, found: dict[str, Finding], finite: bool) -> set[str]:
    """Return which checks failed or crashed that a check builds on, by itself or through those that were skipped for them."""
    names = {"answers"} if FINITE in check.needs and not finite else set()
    for finding in (found[need] for need in check.needs if need in found):
        if finding.status in (Status.FAIL, Status.ERROR):
            names.add(finding.check)
        elif finding.reason == Reason.DEPENDS:
            names |= roots(CHECKS[finding.check], found, finite)
    return names


def missing_ground(check: Check, findings: list[Finding], finite: bool) -> str:
    """Return why a check has to be skipped, "" if nothing that it builds on has failed or crashed."""
    names = roots(check, {f.check: f for f in findings}, finite)
    by_status = {s: [f.check for f in findings if f.check in names and f.status == s] for s in (Status.FAIL, Status.ERROR)}
    words = {Status.FAIL: "failed", Status.ERROR: "crashed"}
    parts = [f"{listed(by_status[status])} {words[status]}" for status in words if by_status[status]]
    return f"{listed(parts)}. Fix that first" if by_status[Status.FAIL] else listed(parts)


def refuse_wrong_arguments(model, vocab_size, block_size, golden) -> None:
    """ValueError for an argument that cannot be."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(model).__name__} is not a torch.nn.Module: give the model itself, not its class or its name")
    try:
        list(model.modules())
    except TypeError as error:
        raise ValueError(
            f"PyTorch cannot walk through the modules ({error}): a dataclass needs eq=False to be a module"
        ) from error
    for name, value in (("vocab_size", vocab_size), ("block_size", block_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if golden is not None and golden not in GOLDEN and not str(golden).isdigit():
        raise ValueError(f"golden={golden!r} is neither a number of parameters nor one of {', '.join(GOLDEN)}")
    if any(nn.parameter.is_lazy(x) for x in model.parameters()):
        raise ValueError("the model has lazy parameters without a size yet: call it once before diagnose()")


def diagnose(
    model: nn.Module,
    *,
    vocab_size: int | None = None,
    block_size: int | None = None,
    golden: str | int | None = None,
    new_cache: Callable | None = None,
    generate: Callable | None = None,
    seconds: float = 60.0,
    total_seconds: float | None = None,
    progress: Callable[[str, Finding | None], None] | None = None,
    strict: bool | None = None,
) -> Report:
    """Examine `model` and return the report. The model is left as it was.

    `vocab_size` and `block_size` are found from its configuration, its tables, or by trying; give them where that goes wrong.
    `golden` is a name of GOLDEN or a number of parameters. `new_cache`, a function of the rows, the `model`, or both, makes an
    empty cache, where forward wants one. `generate(model, ids, n)`, a free function, writes n more tokens. `progress(name,
    finding)` is called when a check begins (finding None) and when it ends. `strict` raises what is wrong in the doctor itself;
    without it that is part of the report (None: True if PICOGPT_DOCTOR_STRICT=1 is in the environment, for tests). A class
    whose arguments the model keeps (a configuration) is called once more, to see what a new model is like.

    A check is stopped after `seconds`, and all together after `total_seconds` (10 times as many by default): what is left is
    reported as too slow. A call that did not return is not tried again. What cannot be stopped inside this process: a single
    call of native code, until it returns, and a loop that catches BaseException and goes on. Outside the main thread, and on
    Windows, sleep() and locks cannot be interrupted either. The command line runs the model in a process of its own, which it
    kills: there every model is stopped.

    ValueError if `model` is not an nn.Module, or an argument cannot be. Errors of the model itself are findings.
    """
    refuse_wrong_arguments(model, vocab_size, block_size, golden)
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped: compiled code cannot be watched
    began, examined = time.perf_counter(), True
    findings: list[Finding] = []
    strict = os.environ.get("PICOGPT_DOCTOR_STRICT") == "1" if strict is None else strict
    p = Patient(model, vocab_size, block_size, new_cache, golden, strict, generate)
    end = began + (10 * seconds if total_seconds is None else total_seconds)
    with p.unharmed():
        for name in ORDER:
            if progress:
                progress(name, None)
            check = CHECKS[name]
            try:
                if missing := missing_ground(check, findings, p.finite):
                    verdict = skipped(missing, Reason.DEPENDS)
                else:
                    verdict = attempt(p, check.function, seconds, end - time.perf_counter())
                examined = name != "called" or verdict.status == Status.PASS
            except NotExaminable as stop:
                verdict, examined = Verdict(Status.FAIL, str(stop)), False
            findings.append(Finding.of(name, verdict, check.essential))
            if progress:
                progress(name, findings[-1])
            if not examined:
                break
    face = p.interface
    about = f"{type(model).__name__}, {sum(x.numel() for x in p.parameters.values()):,} parameters"
    about += f", V = {face.vocab}, block size {face.block} ({face.block_from})" if face.block_from else ""
    return Report(about, findings, time.perf_counter() - began, examined, dict(p.not_recorded))
