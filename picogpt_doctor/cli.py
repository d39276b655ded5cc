"""The command line: the model is made and examined in a process of its own, which is killed when it does not answer."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import io
import math
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from .batch import NotABatch, examine_batch
from .checkpoint import examine_checkpoint
from .formats import crash_report, to_issue, to_sarif
from .guard import allowed, check_names, chosen, explain, list_of_checks, read_baseline, write_baseline
from .loop import NOT_A_STEP, examine_step
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
    number_of,
    one_line,
    skipped,
)
from .running import NotAStep

PROGRAM = "picogpt_doctor"
MADE = "made"  # in source of a check's name, while the model is made
OFFERED = 8  # names of what a file defines, when one is not found
GRACE, STARTUP = 5.0, 60.0  # seconds: for a check to report that it was stopped, and for Python and torch to start
USAGE = """python -m picogpt_doctor file.py:make_model n_layer=3 n_embd=64
       python -m picogpt_doctor package.module:GPT --golden picogpt --json
       python -m picogpt_doctor --step file.py:train
       python -m picogpt_doctor --step script.py -- --its-own-option=3
       python -m picogpt_doctor --batch file.py:get_batch --vocab-size 50257
       python -m picogpt_doctor --checkpoint file.py:load_model --batch file.py:get_batch
       python -m picogpt_doctor --explain causality"""
FIRST = {"step": "trains", "batch": "ids", "checkpoint": "loads"}  # the first check of each, which says whether it could be run
EXIT_STATUS = (
    "exit status: 0 healthy, with or without warnings; 1 something failed, even if a check crashed as well; 2 the model, or "
    "one of several things, could not be examined, or the command line is wrong; 3 nothing failed, but the report cannot be "
    "trusted: a check crashed, or an essential one was too slow or could not be asked, or the doctor itself crashed; 130 "
    "stopped by Ctrl-C. It ends after TOTAL_SECONDS + 3 x SECONDS + 10 s after torch was imported, at the latest, whatever the "
    "model does; a step, a batch and a checkpoint add 3 x SECONDS each."
)
CALL_BY_HAND = "call it by hand"
MODEL_HANGS = Cause("the model hangs", CALL_BY_HAND)
NOT_MADE = Cause("an error while the model was made", CALL_BY_HAND)
SLOW_TO_MAKE = Cause("the model takes too long to make", "a smaller one, or more --seconds")
EXPLAIN_MADE = """made (on the command line)

file.py:name is called with the arguments that were given, and returns a model. This is no check of the model, and cannot be
chosen: it is reported only where it fails."""
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


def defined_in(module: ModuleType | types.SimpleNamespace, like: str) -> str:
    """Return what could be meant: the functions, classes and models that a module defines, those like a name first."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__))
    ]
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, like.lower(), name.lower()).ratio() if like else 0)
    return f"it defines {first_few(names, OFFERED)}" if names else "it defines no function, class or model"


def find(spec: str, role: str) -> Any:
    """Return what `file.py:name` or `module:name` names. UsageError with what is wrong."""
    source, name = split(spec)
    module = import_source(source)
    if not name:
        raise UsageError(f"say what in {source} {role}, as {source}:name: {defined_in(module, name)}")
    if not hasattr(module, name):
        raise UsageError(f"{source} has no {name!r}: {defined_in(module, name)}")
    return getattr(module, name)


def load(spec: str, arguments: dict) -> nn.Module:
    """Return the model that `file.py:name` or `module:name` makes. UsageError with what is wrong."""
    made = find(spec, "makes the model")
    name = split(spec)[1]
    if not isinstance(made, nn.Module) and not callable(made):
        module = sys.modules[Path(split(spec)[0]).stem if split(spec)[0].endswith(".py") else split(spec)[0]]
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


def find_step(spec: str, words: list[str]) -> Any:
    """Return what a step's `file.py:name` names, or, for a file alone, what runs it as a script with these words."""
    source, name = split(spec)
    if name or not source.endswith(".py"):
        return find(spec, "trains")

    def script() -> None:
        sys.path.insert(0, str(Path(source).resolve().parent))
        sys.argv = [source, *words]
        vars(script)["defined"] = types.SimpleNamespace(**runpy.run_path(source, run_name="__main__"))

    script.__qualname__ = source
    return script


def naming_what_trains(report: Report, step: Any) -> Report:
    """Return the report on a step; where a script only defines what trains, it says what there is to name."""
    defined = getattr(step, "defined", None)
    if report.examined or not isinstance(defined, types.SimpleNamespace):
        return report
    advice = f"{defined_in(defined, 'train')}; name what trains: --step {step.__qualname__}:name"
    findings = [dataclasses.replace(f, advice=advice) if f.cause == NOT_A_STEP.text else f for f in report.findings]
    return dataclasses.replace(report, findings=findings)


def examine_surroundings(
    channel, subjects: dict[str, str], model: nn.Module | None, arguments: dict, options: dict
) -> list[Report]:
    """Return the reports on a step, a batch and a checkpoint, as far as they are given."""
    reports, more = [], {} if model is not None else arguments
    if "step" in subjects:
        step = find_step(subjects["step"], options["words"])
        channel.send(("begin", FIRST["step"]))
        reports.append(naming_what_trains(examine_step(step, seconds=options["seconds"], **more), step))
    data = find(subjects["batch"], "makes a batch") if "batch" in subjects else None
    if "checkpoint" in subjects:
        load_it = find(subjects["checkpoint"], "loads the checkpoint")
        channel.send(("begin", FIRST["checkpoint"]))
        reports.append(examine_checkpoint(load_it, batch=data, seconds=options["seconds"], **more))
    if data is not None:
        channel.send(("begin", FIRST["batch"]))
        given = functools.partial(data, **more) if more and callable(data) and "checkpoint" not in subjects else data
        sizes = dict(vocab_size=options["vocab_size"], eos=options["eos"], model=model)
        reports.append(examine_batch(given, seconds=options["seconds"], **sizes))
    return reports


def together(reports: list[Report]) -> Report:
    """Return several reports as one."""
    if len(reports) == 1:
        return reports[0]
    findings = [finding for report in reports for finding in report.findings]
    not_recorded = {name: n for report in reports for name, n in report.not_recorded.items()}
    return Report(
        "\n".join(report.about for report in reports),
        findings,
        sum(report.seconds for report in reports),
        all(report.examined for report in reports),
        not_recorded,
    )


def examine_here(channel, spec: str, arguments: dict, options: dict, subjects: dict[str, str]) -> None:
    """Make and examine, in the child process. Each step is sent to the parent, which lives to report it."""

    def progress(name: str, finding: Finding | None) -> None:
        channel.send(("begin", name) if finding is None else ("end", finding))

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which reports what was found and kills this process
    os.dup2(2, 1)  # what the model prints must not be part of the report
    with contextlib.suppress(AttributeError):  # line by line: this process is killed once its report is there
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    channel.send(("begin", MADE))
    try:
        model, reports = None, []
        if spec:
            with time_limit(options["seconds"]):
                model = load(spec, arguments)
                if new_cache := options["new_cache"]:
                    options["new_cache"] = load_function(new_cache)
                if generate := options["generate"]:
                    options["generate"] = load_function(generate)
            channel.send(("begin", ORDER[0]))
            of_model = {name: value for name, value in options.items() if name not in ("eos", "words")}
            reports.append(diagnose(model, progress=progress, **of_model))
        reports += examine_surroundings(channel, subjects, model, arguments, options)
        channel.send(("done", together(reports)))
    except TookTooLong:
        channel.send(("slow", (f"not finished after {options['seconds']:g} s", "")))
    except (UsageError, NotAStep, NotABatch) as error:
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


def examine_apart(
    spec: str, arguments: dict, options: dict, seconds: float, total_seconds: float, subjects: dict[str, str]
) -> Report:
    """Return the report of `diagnose` and of the subjects in another process. What hangs or crashes there is a finding.

    UsageError if one of them names nothing.
    """
    for named in (spec, *subjects.values()):
        if named:
            split(named)  # before a process is started
    context, patience = multiprocessing.get_context("spawn"), 1.5 * seconds + GRACE
    here, there = context.Pipe()
    options = options | {"seconds": seconds, "total_seconds": total_seconds}
    child = context.Process(
        target=examine_here, args=(there, spec, arguments, options, subjects)
    )  # no daemon: loaders start processes
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
                    ending = verdict_on_exception(kind, text, where, doing, arguments)
                    break
        except EOFError:
            child.join()
            ending = failed(NATIVE_CRASH, f"the process died (exit code {child.exitcode})")
        except KeyboardInterrupt:
            about = spec or " ".join(subjects.values())
            return Report(about, findings, time.perf_counter() - began, is_examined(findings), stopped=doing)
    return cut_short(" ".join(filter(None, (spec, *subjects.values()))), findings, doing, ending, time.perf_counter() - began)


def verdict_on_exception(kind: str, text: str, where: str, doing: str, arguments: Mapping[str, Any]) -> Verdict:
    """Return the verdict on an exception in the child: of the model's making, of a wrong argument, or of the doctor's."""
    if doing == MADE:
        unexpected = next((name for name in arguments if f"unexpected keyword argument '{name}'" in text), "")
        misspelt = Cause(NOT_MADE.text, f"is {unexpected}=… on the command line spelt right, and meant for it?")
        return failed(misspelt if unexpected else SLOW_TO_MAKE if kind == "slow" else NOT_MADE, text, where)
    if kind in ("refused", "slow"):
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
    except BrokenPipeError:  # nobody reads on (| head): Python would flush once more at exit, and fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED
    except Exception as error:
        print(f"{PROGRAM} crashed: {one_line(error)}", file=sys.stderr)
        if not isinstance(error, OSError):  # a full disk is not a bug
            print(crash_report("".join(traceback.format_exception(error))), file=sys.stderr)
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
    add_arguments(parser)
    line = sys.argv[1:] if words is None else words
    end = line.index("--") if "--" in line else len(line)  # what follows is for the code that is examined
    given = parser.parse_intermixed_args(line[:end])
    if given.explain:
        try:
            texts = {"all": list_of_checks, MADE: lambda: EXPLAIN_MADE}
            print(texts[given.explain]() if given.explain in texts else explain(given.explain))
        except ValueError as error:
            parser.error(str(error))
        return 0
    script = bool(given.step) and given.step.endswith(".py")
    if given.model and "=" in given.model:  # the model was left out
        given.model, given.arguments = None, [given.model, *given.arguments]
    words = line[end + 1 :]
    if not script:
        given.arguments += words
    elif given.arguments and not (given.model or given.batch or given.checkpoint):
        parser.error(f"the words of a script stand after --: --step {given.step} -- {' '.join(given.arguments + words)}")
    subjects = {kind: value for kind in FIRST if (value := getattr(given, kind))}
    if not given.model and not subjects:
        parser.error("say what to examine: file.py:make_model, --step, --batch or --checkpoint file.py:function")
    arguments = parse_arguments(parser, given.arguments)
    options = dict(vocab_size=given.vocab_size, block_size=given.block_size, golden=given.golden, eos=given.eos)
    options["words"] = words
    options |= dict(new_cache=given.new_cache, generate=given.generate)
    total = 10 * given.seconds if given.total_seconds is None else given.total_seconds
    try:
        known = chosen_well(given)
        report = examine_apart(given.model or "", arguments, options, given.seconds, total, subjects)
        report = count_only(report, given, known)
    except UsageError as error:
        parser.error(str(error))
    print_report(report, given, line)
    if given.write_baseline and report.examined and not report.of(Status.ERROR):
        print(
            f"{number_of(write_baseline(given.write_baseline, report), 'failure')} written to {given.write_baseline}",
            file=sys.stderr,
        )
        return 0
    return report.exit_status


def chosen_well(given: argparse.Namespace) -> list[str]:
    """Return what is in the baseline, if there is one. UsageError if the file is not one, or for a name that no check has."""
    try:
        for names in (given.select or [], given.ignore, given.allow):
            check_names(names)
        return read_baseline(given.baseline) if given.baseline else []
    except ValueError as error:
        raise UsageError(str(error)) from error


def count_only(report: Report, given: argparse.Namespace, known: list[str]) -> Report:
    """Return a report in which only those findings count that are to. UsageError if none is left."""
    try:
        return allowed(chosen(report, given.select, given.ignore), given.allow, known)
    except ValueError as error:
        raise UsageError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("model", nargs="?", help="file.py:name or module:name of a function, a class or a model")
    parser.add_argument("arguments", nargs="*", default=[], help="what to call it with: n_layer=3 bias=False")
    subjects = parser.add_argument_group("what surrounds a model, each file.py:name or module:name")
    subjects.add_argument("--step", metavar="SPEC", help="what trains: a function, an object with train(), or a script")
    subjects.add_argument("--batch", metavar="SPEC", help="data: a function (also of 'train'), a loader, an array")
    subjects.add_argument("--checkpoint", metavar="SPEC", help="a function that loads a model, and may evaluate or generate")
    sizes = parser.add_argument_group("what is known of the model")
    sizes.add_argument("--vocab-size", type=size)
    sizes.add_argument("--block-size", type=size)
    sizes.add_argument("--eos", type=int, metavar="ID", help="the end-of-text id, for --batch")
    sizes.add_argument("--golden", type=golden_model, help=f"a number of parameters, or one of {', '.join(GOLDEN)}")
    own = parser.add_argument_group("code outside of the model, each file.py:name or module:name")
    own.add_argument(
        "--new-cache", metavar="SPEC", help="a function that makes an empty cache: f(rows), f(model) or f(model, rows)"
    )
    own.add_argument("--generate", metavar="SPEC", help="a function that writes text: f(model, ids, n)")
    parser.add_argument("--seconds", type=positive, default=60.0, help="the most that one check may take (60)")
    parser.add_argument("--total-seconds", type=positive, help="the most that all checks may take (10 times --seconds)")
    count = parser.add_argument_group("which findings count; CHECKS are names with commas between, first-loss for first loss")
    count.add_argument("--select", type=list_of_words, metavar="CHECKS", help="only these")
    count.add_argument("--ignore", type=list_of_words, metavar="CHECKS", default=[], help="all but these")
    count.add_argument("--allow", type=list_of_words, metavar="CHECKS", default=[], help="intended: a failure is a warning")
    count.add_argument("--baseline", metavar="FILE", help="what failed when FILE was written is a warning")
    count.add_argument(
        "--write-baseline", metavar="FILE", help="write what fails now into FILE, and exit with 0 if all could be examined"
    )
    count.add_argument("--explain", metavar="CHECK", help="say what a check asks and can name, and end; all: list the checks")
    form = parser.add_argument_group("the report")
    form.add_argument("--format", choices=("text", "json", "issue"), default="text", help="issue: Markdown to paste into one")
    form.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    form.add_argument("--sarif", metavar="FILE", help="also write the findings into FILE, as SARIF 2.1.0")


def list_of_words(text: str) -> list[str]:
    """Return the words between commas."""
    return [word for word in (part.strip() for part in text.split(",")) if word]


def print_report(report: Report, given: argparse.Namespace, line: list[str]) -> None:
    """Print a report in the form that was asked for, or write it."""
    specs = [spec for spec in (given.model, given.step, given.checkpoint, given.batch) if spec]
    if given.sarif:
        Path(given.sarif).write_text(to_sarif(report, specs) + "\n", encoding="utf-8")
    makers = {"json": report.to_json, "issue": lambda: to_issue(report, line)}
    print(makers[given.format]() if given.format in makers else report)


def run_and_exit() -> None:
    """End the process with the exit status of `main`."""
    sys.exit(main())
