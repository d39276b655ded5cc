"""The command line: the model is made and examined in a process of its own, which is killed when it does not answer."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import io
import multiprocessing
import os
import sys
import time
from pathlib import Path

from torch import nn

from .patient import GOLDEN, TookTooLong, raised_at
from .registry import CHECKS, ORDER, diagnose, time_limit
from .report import BUG_OF_THE_DOCTOR, NO_CAUSE, Cause, Finding, Reason, Report, Status, Verdict, failed, one_line, skipped

PROGRAM = "picogpt_doctor"
MADE = "made"  # in source of a check's name, while the model is made
GRACE, STARTUP = 5.0, 60.0  # seconds: for a check to report that it was stopped, and for Python and torch to start
USAGE = """python -m picogpt_doctor file.py:make_model n_layer=3 n_embd=64
       python -m picogpt_doctor package.module:GPT --golden picogpt --json"""
EXIT_STATUS = (
    "exit status: 0 healthy; 1 something failed, whatever else happened; 2 the model could not be examined; 3 nothing failed, "
    "but a check crashed, or an essential one got no answer: the report cannot be trusted. "
    "It ends after TOTAL_SECONDS + 3 x SECONDS + 10 s after torch was imported, at the latest, whatever the model does."
)
CALL_BY_HAND = "call it by hand"
MODEL_HANGS = Cause("the model hangs", CALL_BY_HAND)
NOT_MADE = Cause("an error while the model was made", CALL_BY_HAND)
NATIVE_CRASH = Cause("a crash in native code", CALL_BY_HAND)


def load(spec: str, arguments: dict) -> nn.Module:
    """Return the model that `file.py:name` or `module:name` makes. ValueError with what is wrong."""
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name:
        raise ValueError(f"{spec!r} is not of the form file.py:name or module:name")
    if source.endswith(".py"):
        path = Path(source).resolve()
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        sys.path.insert(0, str(path.parent))
        found = importlib.util.spec_from_file_location(path.stem, path)
        if found is None or found.loader is None:
            raise ValueError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(source)
    if not hasattr(module, name):
        raise ValueError(f"{source} has no {name!r}: it has {', '.join(n for n in vars(module) if not n.startswith('_'))}")
    made = getattr(module, name)
    model = made if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} returned a {type(model).__name__}, which is not a torch.nn.Module")
    return model


def examine_here(channel, spec: str, arguments: dict, options: dict) -> None:
    """Make and examine the model, in the child process. Each step is sent to the parent, which lives to report it."""

    def progress(name: str, finding: Finding | None) -> None:
        channel.send(("begin", name) if finding is None else ("end", finding))

    os.dup2(2, 1)  # what the model prints must not be part of the report
    channel.send(("begin", MADE))
    try:
        with time_limit(options["seconds"]):
            model = load(spec, arguments)
        channel.send(("begin", ORDER[0]))
        channel.send(("done", diagnose(model, progress=progress, **options)))
    except TookTooLong:
        channel.send(("refused", (f"not finished after {options['seconds']:g} s", "")))
    except (ValueError, SystemExit) as error:
        channel.send(("refused", (one_line(error), raised_at(error))))
    except BaseException as error:
        channel.send(("raised", (one_line(error), raised_at(error))))


def examine_apart(spec: str, arguments: dict, options: dict, seconds: float, total_seconds: float) -> Report:
    """Return the report of `diagnose` in another process. What hangs or crashes there is a finding."""
    context, patience = multiprocessing.get_context("spawn"), 1.5 * seconds + GRACE
    here, there = context.Pipe()
    options = options | {"seconds": seconds, "total_seconds": total_seconds}
    child = context.Process(target=examine_here, args=(there, spec, arguments, options), daemon=True)
    child.start()
    there.close()
    began, doing, findings, started = time.perf_counter(), MADE, [], False
    ending = failed(MODEL_HANGS, f"no answer for {patience:.3g} s, and it could not be interrupted")
    try:
        while here.poll(patience if started else patience + STARTUP):
            started, (kind, what) = True, here.recv()
            if kind == "begin":
                doing = what
            elif kind == "end":
                findings.append(what)
            elif kind == "done":
                return what
            else:
                ending = verdict_on_exception(kind, *what, doing)
                break
    except EOFError:
        child.join()
        ending = failed(NATIVE_CRASH, f"the process died (exit code {child.exitcode})")
    finally:
        child.kill()
    return cut_short(spec, findings, doing, ending, time.perf_counter() - began)


def verdict_on_exception(kind: str, text: str, where: str, doing: str) -> Verdict:
    """Return the verdict on an exception in the child: of the model's making, of a wrong argument, or of the doctor's."""
    if doing == MADE:
        return failed(NOT_MADE, text, where)
    if kind == "refused":
        return failed(NO_CAUSE, text, where)
    return Verdict(Status.ERROR, f"the examination crashed: {text}", BUG_OF_THE_DOCTOR, where=where)


def cut_short(spec: str, findings: list[Finding], doing: str, ending: Verdict, seconds: float) -> Report:
    """Return the report of an examination that ended at `doing`: the findings so far, its end, and what was not reached."""
    examined = any(finding.check == ORDER[0] and finding.status == Status.PASS for finding in findings)
    findings = [*findings, Finding.of(doing, ending, doing in CHECKS and CHECKS[doing].essential)]
    if examined:
        rest = skipped(f"the examination ended at {doing}", Reason.DEPENDS)
        reached = {finding.check for finding in findings}
        findings += [Finding.of(name, rest) for name in ORDER if name not in reached]
    return Report(spec, findings, seconds, examined)


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
    except Exception as error:
        print(f"{PROGRAM} crashed: {one_line(error)}", file=sys.stderr)
        if isinstance(error, BrokenPipeError):  # nobody reads on (| head): Python would flush once more at exit, and fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    return status


def examine_and_print(words: list[str] | None) -> int:
    """Do what `main` promises, with Python's own exceptions for what goes wrong in the doctor."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{USAGE}",
        description="Examine a GPT from outside, and say what is wrong with it.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("model", help="file.py:name or module:name of a function, a class or a model")
    parser.add_argument("arguments", nargs="*", help="what to call it with: n_layer=3 bias=False")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--golden", help=f"a number of parameters, or one of {', '.join(GOLDEN)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that one check may take (60)")
    parser.add_argument("--total-seconds", type=float, help="the most that all checks may take (10 times --seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    arguments = parse_arguments(parser, given.arguments)
    options = dict(vocab_size=given.vocab_size, block_size=given.block_size, golden=given.golden)
    total = 10 * given.seconds if given.total_seconds is None else given.total_seconds
    report = examine_apart(given.model, arguments, options, given.seconds, total)
    print(report.to_json() if given.json else report)
    return report.exit_status


def run_and_exit() -> None:
    """End the process with the exit status of `main`."""
    sys.exit(main())
