"""The command line: the model is made and examined in a process of its own, which is killed when it does not answer."""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import io
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from .patient import GOLDEN, TookTooLong, raised_at
from .registry import CHECKS, ORDER, diagnose, time_limit
from .report import (
    BUG_OF_THE_DOCTOR,
    NO_CAUSE,
    STOPPED,
    Cause,
    Finding,
    Reason,
    Report,
    Status,
    Verdict,
    failed,
    first_few,
    one_line,
    skipped,
)

PROGRAM = "picogpt_doctor"
MADE = "made"  # in source of a check's name, while the model is made
OFFERED = 8  # names of what a file defines, when one is not found
GRACE, STARTUP = 5.0, 60.0  # seconds: for a check to report that it was stopped, and for Python and torch to start
USAGE = """python -m picogpt_doctor file.py:make_model n_layer=3 n_embd=64
       python -m picogpt_doctor package.module:GPT --golden picogpt --json"""
EXIT_STATUS = (
    "exit status: 0 healthy, with or without warnings; 1 something failed, even if a check crashed as well; 2 the model could "
    "not be examined, or the command line is wrong; 3 nothing failed, but the report cannot be trusted: a check crashed, or an "
    "essential one was too slow or could not be asked, or the doctor itself crashed; 130 stopped by Ctrl-C. "
    "It ends after TOTAL_SECONDS + 3 x SECONDS + 10 s after torch was imported, at the latest, whatever the model does."
)
CALL_BY_HAND = "call it by hand"
MODEL_HANGS = Cause("the model hangs", CALL_BY_HAND)
NOT_MADE = Cause("an error while the model was made", CALL_BY_HAND)
NATIVE_CRASH = Cause("a crash in native code", CALL_BY_HAND)


class UsageError(Exception):
    """The command line names something that does not exist or cannot be: one line on stderr, exit status 2."""


def split(spec: str) -> tuple[str, str]:
    """Return the source and the name in `file.py:name` or `module:name`; the name is "" if it is missing."""
    source, _, name = (spec, "", "") if spec.endswith(".py") else spec.rpartition(":") if ":" in spec else (spec, "", "")
    if not source:
        raise UsageError(f"{spec!r} is not of the form file.py:name or module:name")
    if source.endswith(".py") and not Path(source).is_file():
        raise UsageError(f"there is no file {source}")
    return source, name


def import_source(source: str) -> ModuleType:
    """Return the module in a file, or of that name. UsageError if there is none."""
    if not source.endswith(".py"):
        sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name and f"{source}.".startswith(f"{error.name}."):
                raise UsageError(f"there is no module {source}") from error
            raise
    path = Path(source).resolve()
    sys.path.insert(0, str(path.parent))
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise UsageError(f"{source} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return module


def defined_in(module: ModuleType, like: str) -> str:
    """Return what could be meant: the functions, classes and models that a module defines, those like a name first."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__))
    ]
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, like.lower(), name.lower()).ratio() if like else 0)
    return f"it defines {first_few(names, OFFERED)}" if names else "it defines no function, class or model"


def load(spec: str, arguments: dict) -> nn.Module:
    """Return the model that `file.py:name` or `module:name` makes. UsageError with what is wrong."""
    source, name = split(spec)
    module = import_source(source)
    if not name:
        raise UsageError(f"say what in {source} makes the model, as {source}:name: {defined_in(module, name)}")
    if not hasattr(module, name):
        raise UsageError(f"{source} has no {name!r}: {defined_in(module, name)}")
    made = getattr(module, name)
    if not isinstance(made, nn.Module) and not callable(made):
        raise UsageError(f"{spec} is of type {type(made).__name__}, neither a model nor a function: {defined_in(module, name)}")
    if isinstance(made, nn.Module):
        return made
    with contextlib.suppress(ValueError):  # it has no signature
        signature = inspect.signature(made)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UsageError(f"{name}{signature} cannot be called so: {error}") from error
    model = made(**arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} returned a {type(model).__name__}, which is not a torch.nn.Module")
    return model


def load_function(spec: str) -> Callable:
    """Return the function that `file.py:name` or `module:name` names. UsageError with what is wrong."""
    source, name = split(spec)
    module = import_source(source)
    found = getattr(module, name, None) if name else None
    if not callable(found):
        raise UsageError(f"{source} has no function {name!r}: {defined_in(module, name)}")
    return found


def cache_maker(function: Callable, model: nn.Module) -> Callable[[int], Any]:
    """Return `new_cache(rows)` from a function of the command line, which may take the model, the rows, or both, or nothing."""
    given = {"model": model}
    names = list(inspect.signature(function).parameters)

    def make(rows: int):
        return function(*(given.get(name, rows) for name in names[:2]))

    return make


def examine_here(channel, spec: str, arguments: dict, options: dict) -> None:
    """Make and examine the model, in the child process. Each step is sent to the parent, which lives to report it."""

    def progress(name: str, finding: Finding | None) -> None:
        channel.send(("begin", name) if finding is None else ("end", finding))

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which reports what was found and kills this process
    os.dup2(2, 1)  # what the model prints must not be part of the report
    channel.send(("begin", MADE))
    try:
        with time_limit(options["seconds"]):
            model = load(spec, arguments)
            if new_cache := options["new_cache"]:
                options["new_cache"] = cache_maker(load_function(new_cache), model)
            if generate := options["generate"]:
                options["generate"] = load_function(generate)
        channel.send(("begin", ORDER[0]))
        channel.send(("done", diagnose(model, progress=progress, **options)))
    except TookTooLong:
        channel.send(("refused", (f"not finished after {options['seconds']:g} s", "")))
    except UsageError as error:
        channel.send(("usage", str(error)))
    except (ValueError, SystemExit) as error:
        channel.send(("refused", (one_line(error), raised_at(error))))
    except BaseException as error:
        channel.send(("raised", (one_line(error), raised_at(error))))


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, however that ended."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """In the block SIGTERM raises SystemExit, so that the child is killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def kill(child: BaseProcess) -> None:
    """Kill a process, if it was started."""
    if child.pid is not None:
        child.kill()


def start(child: BaseProcess) -> None:
    """Start a process that ignores Ctrl-C from its first moment, while Python itself starts."""
    if threading.current_thread() is not threading.main_thread():
        child.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited
    try:
        child.start()
    finally:
        signal.signal(signal.SIGINT, before)


def examine_apart(spec: str, arguments: dict, options: dict, seconds: float, total_seconds: float) -> Report:
    """Return the report of `diagnose` in another process. What hangs or crashes there is a finding.

    UsageError if `spec` names nothing.
    """
    split(spec)  # before a process is started
    context, patience = multiprocessing.get_context("spawn"), 1.5 * seconds + GRACE
    here, there = context.Pipe()
    options = options | {"seconds": seconds, "total_seconds": total_seconds}
    child = context.Process(target=examine_here, args=(there, spec, arguments, options), daemon=True)
    began, doing, findings, started = time.perf_counter(), MADE, [], False
    ending = failed(MODEL_HANGS, f"no answer for {patience:.3g} s, and it could not be interrupted")
    with ends_on_sigterm(), contextlib.ExitStack() as at_end:
        at_end.callback(kill, child)
        try:
            start(child)
            there.close()
            while here.poll(patience if started else patience + STARTUP):
                started, (kind, what) = True, here.recv()
                if kind == "begin":
                    doing = what
                elif kind == "end":
                    findings.append(what)
                elif kind == "done":
                    return what
                elif kind == "usage":
                    raise UsageError(what)
                else:
                    text, where = what
                    ending = verdict_on_exception(kind, text, where, doing)
                    break
        except EOFError:
            child.join()
            ending = failed(NATIVE_CRASH, f"the process died (exit code {child.exitcode})")
        except KeyboardInterrupt:
            return Report(spec, findings, time.perf_counter() - began, is_examined(findings), stopped=doing)
    return cut_short(spec, findings, doing, ending, time.perf_counter() - began)


def verdict_on_exception(kind: str, text: str, where: str, doing: str) -> Verdict:
    """Return the verdict on an exception in the child: of the model's making, of a wrong argument, or of the doctor's."""
    if doing == MADE:
        return failed(NOT_MADE, text, where)
    if kind == "refused":
        return failed(NO_CAUSE, text, where)
    return Verdict(Status.ERROR, f"the examination crashed: {text}", BUG_OF_THE_DOCTOR, where=where)


def is_examined(findings: list[Finding]) -> bool:
    """Whether the model could be called, as far as the findings go."""
    return any(finding.check == ORDER[0] and finding.status == Status.PASS for finding in findings)


def cut_short(spec: str, findings: list[Finding], doing: str, ending: Verdict, seconds: float) -> Report:
    """Return the report of an examination that ended at `doing`: the findings so far, its end, and what was not reached."""
    examined = is_examined(findings)
    findings = [*findings, Finding.of(doing, ending, doing in CHECKS and CHECKS[doing].essential)]
    if examined:
        rest = skipped(f"the examination ended at {doing}", Reason.DEPENDS)
        reached = {finding.check for finding in findings}
        findings += [Finding.of(name, rest) for name in ORDER if name not in reached]
    return Report(spec, findings, seconds, examined)


class Parser(argparse.ArgumentParser):
    """What is wrong with the command line, in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help says more)\n")


def positive(word: str) -> float:
    """Return a number of seconds: above 0, and finite."""
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is not a number of seconds above 0")
    return value


def size(word: str) -> int:
    """Return a whole number of at least 1."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number of at least 1")
    return value


def golden_model(word: str) -> str:
    """Return a number of parameters, or a name of GOLDEN."""
    if word not in GOLDEN and not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word} is neither a number of parameters nor one of {', '.join(GOLDEN)}")
    return word


def parse_arguments(parser: argparse.ArgumentParser, words: list[str]) -> dict:
    """Return {"n_layer": 3} for ["n_layer=3"]: Python's literals, or a string without quotes."""
    arguments = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            parser.error(f"{word!r} is not of the form name=value")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def main(words: list[str] | None = None) -> int:
    """Examine the model that the command line names, print the report, and return its exit status.

    3 for a crash here: 1 would be taken for a fault of the model's.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know no √: what cannot be encoded is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        status = examine_and_print(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return STOPPED
    except Exception as error:
        print(f"{PROGRAM} crashed: {one_line(error)}", file=sys.stderr)
        if isinstance(error, BrokenPipeError):  # nobody reads on (| head): Python would flush once more at exit, and fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    return status


def examine_and_print(words: list[str] | None) -> int:
    """Do what `main` promises, with Python's own exceptions for what goes wrong in the doctor."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{USAGE}",
        description="Examine a GPT from outside, and say what is wrong with it.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("model", help="file.py:name or module:name of a function, a class or a model")
    parser.add_argument("arguments", nargs="*", default=[], help="what to call it with: n_layer=3 bias=False")
    parser.add_argument("--vocab-size", type=size)
    parser.add_argument("--block-size", type=size)
    parser.add_argument("--golden", type=golden_model, help=f"a number of parameters, or one of {', '.join(GOLDEN)}")
    parser.add_argument("--new-cache", help="file.py:name of a function that makes an empty cache: f(rows), f(model, rows)")
    parser.add_argument("--generate", help="file.py:name of a function outside the model that writes text: f(model, ids, n)")
    parser.add_argument("--seconds", type=positive, default=60.0, help="the most that one check may take (60)")
    parser.add_argument("--total-seconds", type=positive, help="the most that all checks may take (10 times --seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    arguments = parse_arguments(parser, given.arguments)
    options = dict(vocab_size=given.vocab_size, block_size=given.block_size, golden=given.golden)
    options |= dict(new_cache=given.new_cache, generate=given.generate)
    total = 10 * given.seconds if given.total_seconds is None else given.total_seconds
    try:
        report = examine_apart(given.model, arguments, options, given.seconds, total)
    except UsageError as error:
        parser.error(str(error))
    print(report.to_json() if given.json else report)
    return report.exit_status


def run_and_exit() -> None:
    """End the process with the exit status of `main`."""
    sys.exit(main())
