"""Examine a training step: run it, watch what PyTorch is asked to do, and put everything back."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .batch import CHECKS_OF_IDS, Data, Rows, vocabulary
from .entrance import Entry, findings_of, is_strict
from .passes import Backward, Clip, Event, Forward, Mark, Step
from .patient import TookTooLong, find_loss, raised_at, set_seed, tensors_in
from .probes import (
    CALLS,
    MANY_WITHOUT_GRADIENT,
    MOST_STEPS,
    SAME_WEIGHT,
    STEPS_WANTED,
    STEPS_WATCHED,
    UNEVEN_MICRO_BATCHES,
    WATCH_SECONDS,
    is_batch_norm,
)
from .registry import time_limit
from .report import (
    Cause,
    Finding,
    Reason,
    Report,
    Verdict,
    crashed,
    failed,
    first_few,
    listed,
    number_of,
    one_line,
    passed,
    skipped,
    warned,
)
from .watch import Bug, Enough, Watch, held_by, is_scheduler

METHODS = ("train", "fit", "run", "training_step", "train_step", "train_one_step", "step")  # of an object that trains


class NotAStep(ValueError):
    """What was handed over cannot be run; the message says what is needed."""


# ----- running it


@dataclasses.dataclass
class Iteration:
    """What happened up to an optimizer step, or several optimizers' steps."""

    before: list[Event]  # after the previous step and before the first backward pass
    backwards: list[Backward]
    between: list[Event]  # from the first backward pass to the step, backward passes included
    steps: list[Step]


@dataclasses.dataclass
class Run:
    """What was seen of a training step."""

    name: str
    watch: Watch
    calls: int = 0
    error: BaseException | None = None
    bug: BaseException | None = None  # an error of the doctor's own
    ended: str = "it returned"
    too_long: bool = False
    own_backward: bool = False  # it returned a loss, and the doctor called backward()

    def end_with(self, error: BaseException, seconds: float) -> None:
        """Note what ended it: the doctor, the time limit, an error of its own, or a bug of the doctor's."""
        chain = list(causes_of(error))
        if bug := next((e for e in chain if isinstance(e, Bug)), None):
            self.bug = bug.__cause__
        elif any(isinstance(e, Enough) for e in chain):
            self.ended = "it was stopped after enough of them"
        elif any(isinstance(e, TookTooLong) for e in chain):
            self.ended, self.too_long = f"it was stopped after {seconds:g} s", True
        elif not (isinstance(error, StopIteration) and self.calls > 1):  # its batches came to an end
            self.error = error

    @property
    def backwards(self) -> list[Backward]:
        return self.watch.of(Backward)

    @property
    def modules(self) -> list[nn.Module]:
        """The outermost modules that were called with a graph, in the first call that trains."""
        calls = [b.call for b in self.backwards[:1]]  # a loop that is called again may make another model
        called = {id(f.module): f.module for f in self.watch.of(Forward) if f.graph and f.call in calls}
        if called:
            return list(called.values())
        held = {id(p) for o in self.watch.optimizers() for group in o.param_groups for p in group["params"]}
        known = [m for m in self.watch.kept.holders if isinstance(m, nn.Module)]
        return [m for m in known if any(id(p) in held for p in m.parameters())]  # compiled as a whole

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Their parameters that are to be trained, each once, by the names that the largest known module gives them."""
        mine = {id(p): p for m in self.modules for p in m.parameters() if p.requires_grad}
        names: dict[int, str] = {}
        known = [m for m in self.watch.kept.holders if isinstance(m, nn.Module)]
        for module in sorted(known, key=lambda m: sum(1 for _ in m.parameters())):
            names.update({id(p): plain_name(n) for n, p in module.named_parameters() if id(p) in mine})
        return {names[i] if list(names.values()).count(names[i]) == 1 else f"{names[i]} ({i})": p for i, p in mine.items()}

    @property
    def reached(self) -> set[int]:
        """The ids of parameters that had a gradient after some backward pass."""
        return set().union(*(b.reached for b in self.backwards))

    @property
    def iterations(self) -> list[Iteration]:
        """What happened, cut after each step of an optimizer, or group of steps."""
        found = []
        for _, events in itertools.groupby(self.watch.events, key=lambda e: e.call):
            found += list(cut(list(events)))
        return found

    @property
    def training(self) -> list[Forward]:
        """The forward passes that a backward pass followed."""
        return list({id(f): f for b in self.backwards for f in b.forwards}.values())

    @property
    def data(self) -> Data | None:
        """The ids that it was trained on."""
        rows = [Rows(f.ids.cpu().long()) for f in self.training if f.ids is not None]
        vocab = max((vocabulary(m) or 0 for m in self.modules), default=0)
        return Data(rows, [], {"ids"}, vocab or None) if rows else None

    @property
    def evaluation(self) -> list[Forward]:
        """Forward passes without a graph, or with one that no backward pass used, of what is trained."""
        training, last = {id(f) for f in self.training}, self.backwards[-1:]
        mine = {id(p) for p in self.parameters.values()}
        events = self.watch.events
        until = events.index(last[0]) if last else 0
        trained = {id(f.module) for f in self.training}
        passes = [e for e in events if isinstance(e, Forward) and not e.graph]
        passes += [e for e in events[:until] if isinstance(e, Forward) and e.graph and id(e.module) in trained]
        return [f for f in passes if id(f) not in training and any(id(p) in mine for p in f.module.parameters())]


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Return an exception and those that it came from: code may turn the doctor's into its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers put before it."""
    return name.removeprefix("module.").replace("_orig_mod.", "")


def cut(events: list[Event]) -> Iterator[Iteration]:
    """Return one call's events, cut after each step that a backward pass precedes."""
    now = Iteration([], [], [], [])
    for event in events:
        if now.steps and isinstance(event, Backward | Forward | Mark | Clip):
            yield without_trials(now)
            now = Iteration([], [], [], [])
        if isinstance(event, Step):
            now.steps.append(event)
        elif isinstance(event, Backward):
            now.backwards.append(event)
            now.between.append(event)
        else:
            (now.between if now.backwards else now.before).append(event)
    if now.steps:
        yield without_trials(now)


def without_trials(i: Iteration) -> Iteration:
    """Return an iteration without what an optimizer tried out: LBFGS calls its closure several times in one step."""
    trials = [b for b in i.backwards if b.in_step][:-1]
    return dataclasses.replace(i, backwards=[b for b in i.backwards if b not in trials]) if trials else i


def enough_seen(began: float) -> Callable[[Watch], bool]:
    """Return whether a watch has seen enough: some steps, and validation between them if there is any soon."""

    def enough(watch: Watch) -> bool:
        if not watch.events or not isinstance(watch.events[-1], Step):
            return False
        steps = sum(isinstance(event, Step) for event in watch.events)
        if steps < STEPS_WATCHED:
            return False
        validations = [a for a, b in itertools.pairwise(watch.events) if isinstance(a, Step) and is_evaluation(b)]
        return len(validations) > 1 or steps >= MOST_STEPS or time.perf_counter() - began > WATCH_SECONDS

    return enough


def is_evaluation(event: Event) -> bool:
    return isinstance(event, Forward) and not event.graph


def name_of(step: Any) -> str:
    return getattr(step, "__qualname__", None) or type(step).__name__


def callable_of(step: Any, args: tuple, kwargs: dict) -> Callable:
    """Return what is to be called: the step itself, or the method of an object that trains. NotAStep if neither."""
    if isinstance(step, nn.Module):
        raise NotAStep(
            f"{type(step).__name__} is a model. Hand over what trains it: a function, a bound method such as trainer.fit, or "
            "an object with a method called train, fit, run or step"
        )
    if not callable(step):
        method = next((getattr(step, name) for name in METHODS if callable(getattr(step, name, None))), None)
        if method is None:
            raise NotAStep(f"a {type(step).__name__} cannot be called, and has no method {', '.join(METHODS)}")
        step = method
    try:
        inspect.signature(step).bind(*args, **kwargs)
    except TypeError:
        raise NotAStep(what_is_missing(step, args, kwargs)) from None
    except ValueError:  # it has no signature
        pass
    return step


def what_is_missing(step: Callable, args: tuple, kwargs: dict) -> str:
    """Return in words what a step needs that was not given."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needs = [p for p in inspect.signature(step).parameters.values() if p.default is p.empty and p.kind in kinds]
    missing = [p.name for p in needs[len(args) :] if p.name not in kwargs]
    name = getattr(step, "__name__", type(step).__name__)
    if not missing:
        return f"{name}{inspect.signature(step)} cannot be called with what was given"
    return (
        f"{name} needs {listed(missing)}. In Python give them along: examine_step({name}, {', '.join(p.name for p in needs)}). "
        f"On the command line name a function without arguments that makes them and calls {name} a few times"
    )


@contextlib.contextmanager
def run(step: Any, args: tuple, kwargs: dict, seconds: float) -> Iterator[Run]:
    """Run a step under watch. In the block everything is as the step left it, after the block as it was before."""
    function = callable_of(step, args, kwargs)
    began = time.perf_counter()
    found = Run(name_of(step), Watch(enough_seen(began)))
    watch = found.watch
    with watch.unharmed():
        for value in held_by(function, args, kwargs):
            watch.kept.keep(value)
        with watch.on():
            try:
                with time_limit(seconds):
                    call_repeatedly(found, function, args, kwargs, began)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                found.end_with(error, seconds)
        yield found


def changed(parameter: Tensor, value: Tensor | None) -> bool:
    return value is None or parameter.shape != value.shape or not torch.equal(parameter.detach(), value)


def call_repeatedly(found: Run, function: Callable, args: tuple, kwargs: dict, began: float) -> None:
    """Call it until there are a few steps; go through what it yields; call what it returns if it only made the step."""
    watch = found.watch
    with torch.enable_grad():
        while found.calls < CALLS:
            found.calls += 1
            watch.call = found.calls
            result = function(*args, **kwargs)
            if inspect.isgenerator(result):
                for _ in result:
                    pass
            if not watch.of(Backward):
                made = made_step(result)
                if made is not None and found.calls == 1:
                    function, args, kwargs = *made, {}
                    for value in held_by(function, args):
                        watch.kept.keep(value)
                    found.name = name_of(function)
                    continue
            loss = find_loss(result) if not inspect.isgenerator(result) else None
            if loss is not None and loss.requires_grad and loss.grad_fn and not watch.of(Step) and not backward_called(watch):
                found.own_backward = True
                loss.backward()
            steps = len(watch.of(Step))
            if steps >= STEPS_WANTED or (not steps and not found.own_backward) or time.perf_counter() - began > WATCH_SECONDS:
                return


def backward_called(watch: Watch) -> bool:
    return any(event.call == watch.call for event in watch.of(Backward))


def made_step(result: Any) -> tuple[Callable, tuple] | None:
    """Return (function, arguments) if a result is a step, or a tuple that begins with one."""
    first, rest = (result[0], tuple(result[1:])) if isinstance(result, tuple) and result else (result, ())
    if isinstance(first, nn.Module | Tensor | type) or first is None:
        return None
    try:
        return callable_of(first, rest, {}), rest
    except NotAStep:
        if rest:
            try:
                return callable_of(first, (), {}), ()
            except NotAStep:
                return None
        return None


@torch.no_grad()
def mode_matters(module: nn.Module, inputs: tuple[tuple, dict]) -> bool:
    """Whether a module's answers are random in training mode."""
    args, kwargs = inputs
    module.train()
    try:
        answers = []
        for seed in (0, 1):
            set_seed(seed)
            answers.append([t for t in tensors_in(module(*args, **kwargs)) if t.is_floating_point()])
        return any(not torch.equal(a, b) for a, b in zip(*answers, strict=False))
    except Exception:
        return False


# ----- the report


def examine_step(step: Any, *args: Any, seconds: float = 60.0, strict: bool | None = None, **kwargs: Any) -> Report:
    """Run a training step and report what is wrong with it. Models, optimizers and random numbers are left as they were.

    `step` is whatever trains when it is called: a function that takes one step, or a whole loop, or an object with a method
    train, fit, run or step. `args` and `kwargs` are what it is called with. A loop is stopped after some 24 optimizer steps; a
    function that takes one step is called a few times. If it returns a loss and calls no backward() itself, its loss is
    examined and the rest is not. A function that returns a step, or (step, arguments …), is taken for that step. While it
    runs, torch.save writes nothing.

        examine_step(train_step, model, optimizer, batch)
        examine_step(trainer)                                # or trainer.fit, model, loader
        examine_step(lambda: train(model, loader, epochs=1))

    What cannot be put back: files it writes itself, and iterators it takes from.

    ValueError if `step` cannot be called with what was given: the message says what is missing.
    """
    began = time.perf_counter()
    with run(step, args, kwargs, seconds) as found:
        if found.bug is not None:
            if is_strict(strict):
                raise found.bug
            findings = [Finding.of("trains", crashed(found.bug), essential=True)]
        else:
            findings = findings_of(CHECKS_OF_A_STEP if found.backwards else CHECKS_OF_A_STEP[:1], found, is_strict(strict))
            if found.backwards and (data := found.data):
                findings += findings_of(CHECKS_OF_IDS, data, is_strict(strict))
    return Report(about_run(found), findings, time.perf_counter() - began, bool(found.backwards))


def about_run(r: Run) -> str:
    """Return what was examined, in a line."""
    models = listed(dict.fromkeys(type(getattr(m, "_orig_mod", m)).__name__ for m in r.modules)) or "no model"
    kinds = listed(dict.fromkeys(type(step.optimizer).__name__ for step in r.watch.of(Step))) or "no optimizer"
    backwards, steps = len(r.backwards), len(r.iterations)
    return (
        f"Training by {r.name}: {models}, {kinds}; {number_of(steps, 'optimizer step')} and "
        f"{number_of(backwards, 'backward pass', 'backward passes')} seen, then {r.ended}"
    )


# ----- trains

NOT_A_STEP = Cause(
    "no backward pass was seen: it does not train, or not by loss.backward()",
    "hand over what computes the loss, calls loss.backward() and optimizer.step()",
)
NOTHING_YET = Cause(
    "no backward pass was reached in time: it compiles, downloads or computes for long",
    "a smaller model, batch or evaluation, or more seconds",
)
RAISES = Cause("the step itself raises", "run it by hand, and read the error")
NO_GRAPH = Cause(
    "the loss has no graph: it was computed under no_grad, from .item() or .detach(), or gradients were left switched off",
    "compute the loss with gradients on, and call backward() on the tensor itself",
)
GRAPH_USED_TWICE = Cause(
    "a step uses a tensor of the step before: a state, a cache or a loss is carried over with its graph",
    "detach() what is carried from one step to the next; add loss.item() to a running mean",
)
LOSS_IS_NAN = Cause("the loss is not finite", "examine the model and the batch by themselves")
NO_STEP = Cause("gradients are computed, and no optimizer uses them", "call optimizer.step() after backward()")


def trains(r: Run) -> Verdict:
    """It runs forward and backward passes, and an optimizer's steps; the loss is finite."""
    if r.error is not None:
        text = one_line(r.error)
        cause = NO_GRAPH if "does not require grad" in text else RAISES
        cause = GRAPH_USED_TWICE if "backward through the graph a second time" in text else cause
        return failed(cause, f"call {r.calls} of {r.name}: {text}", raised_at(r.error))
    backwards, steps = r.backwards, len(r.iterations)
    seen = f"{number_of(len(r.watch.of(Forward)), 'forward pass', 'forward passes')}, {len(backwards)} backward, "
    seen += number_of(steps, "optimizer step")
    if not backwards:
        return failed(NOTHING_YET if r.too_long else NOT_A_STEP, f"{seen}; {r.ended}")
    if bad := [b for b in backwards if not math.isfinite(b.loss)]:
        return failed(LOSS_IS_NAN, f"the loss of backward pass {backwards.index(bad[0]) + 1} is {bad[0].loss}")
    if not steps and not r.own_backward:
        return failed(NO_STEP, f"{seen}; {r.ended}")
    evidence = f"{seen}; loss {backwards[0].loss:.4g} to {backwards[-1].loss:.4g}"
    return passed(f"{evidence}; it returned its loss, and backward() was called for it" if r.own_backward else evidence)


NO_OPTIMIZER = "no step of a torch.optim.Optimizer was seen"

# ----- optimizer

MADE_TOO_EARLY = Cause(
    "the optimizer was made before these parameters were: it still holds what they replaced",
    "make the optimizer after the model is complete (heads replaced, embeddings resized, moved, wrapped)",
)
LEFT_OUT = Cause(
    "they get gradients, but no optimizer that steps holds them: they stay as they were initialised",
    "give the optimizer all of model.parameters(); freeze what is not to be trained with requires_grad_(False)",
)
OTHER_MODEL = Cause(
    "the optimizer holds another model's parameters (a copy, or the one from before)", "torch.optim.AdamW(model.parameters())"
)
FOREIGN = Cause(
    "the optimizer holds parameters that are not the model's and never get a gradient",
    "make the optimizer after the model is complete",
)
TWICE_IN_GROUPS = Cause(
    "a parameter is in two groups or two optimizers: it is stepped twice", "put each parameter in one group"
)


def optimizer_holds(r: Run) -> Verdict:
    """Every parameter that gets a gradient is in an optimizer, and nothing else is."""
    if not r.iterations:
        return skipped(NO_OPTIMIZER)
    optimizers = list({id(s.optimizer): s.optimizer for s in r.watch.of(Step)}.values())
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    ids, own = {id(p) for p in held}, r.parameters
    reached = r.reached
    missing = {n: p for n, p in own.items() if id(p) not in ids and id(p) in reached}
    modules = [m for m in r.watch.kept.holders if isinstance(m, nn.Module)]
    known = {id(p) for m in modules for p in m.parameters()}
    used = reached.union(*(s.with_gradient for s in r.watch.of(Step)))
    foreign = [p for p in held if id(p) not in known and id(p) not in used]
    evidence = f"{len(own) - len(missing)} of {number_of(len(own), 'parameter')} that get a gradient are in an optimizer"
    if missing:
        evidence += f", {len(missing)} are not: {first_few(missing)}"
    if foreign:
        evidence += f"; it holds {number_of(len(foreign), 'parameter')} that the model does not have"
    if missing and foreign:
        return failed(OTHER_MODEL if len(missing) == len(own) else MADE_TOO_EARLY, evidence)
    if missing:
        return failed(LEFT_OUT, evidence)
    if foreign:
        return failed(FOREIGN, evidence)
    if len(ids) < len(held):
        return failed(TWICE_IN_GROUPS, f"{len(held)} entries for {number_of(len(ids), 'parameter')}")
    return passed(evidence)


# ----- moves

RATE_ZERO = Cause("the learning rate is 0 in every step", "check the schedule: total steps, warm-up, units of steps or epochs")
GROUP_RATE_ZERO = Cause("the learning rate of their group is 0", "give the group a rate, or freeze them")
NOT_REACHED = Cause(
    "no gradient reaches them: part of the forward pass runs under no_grad or on a detached tensor",
    "let the whole forward pass build the graph, or freeze them",
)
ROUNDED_AWAY = Cause(
    "the step is smaller than half precision can add to the weights",
    "keep the weights in float32, and use autocast for speed",
)
NOT_STEPPED = Cause("the optimizer's step does not change them", "look at the optimizer's own code and settings")


def parameters_move(r: Run) -> Verdict:
    """Every parameter in the optimizer changes."""
    if not r.iterations:
        return skipped(NO_OPTIMIZER)
    steps = r.watch.of(Step)
    if not any(rate for step in steps for rate in step.rates):
        return failed(RATE_ZERO, f"learning rate 0 in {number_of(len(steps), 'step')}")
    held = {id(p) for s in steps for group in s.optimizer.param_groups for p in group["params"]}
    own = {n: p for n, p in r.parameters.items() if id(p) in held}
    still = {n: p for n, p in own.items() if not changed(p, r.watch.kept.values.get(id(p)))}
    reached = set().union(*(s.with_gradient for s in steps))
    evidence = f"{len(own) - len(still)} of {number_of(len(own), 'parameter')} changed in {number_of(len(steps), 'step')}"
    if not still:
        return passed(evidence)
    evidence += f"; not: {first_few(still)}"
    if unreached := {n for n, p in still.items() if id(p) not in reached}:
        verdict = failed if len(unreached) > MANY_WITHOUT_GRADIENT * len(own) else warned
        return verdict(NOT_REACHED, evidence)
    stopped = {id(p) for s in steps for g in s.optimizer.param_groups if not g.get("lr", 1) for p in g["params"]}
    if all(id(p) in stopped for p in still.values()):
        return warned(GROUP_RATE_ZERO, evidence)
    if all(p.dtype in (torch.bfloat16, torch.float16) for p in still.values()):
        return warned(ROUNDED_AWAY, evidence)
    return failed(NOT_STEPPED, evidence)


# ----- cleared

NOT_CLEARED = Cause(
    "gradients are not cleared between optimizer steps: each step uses the sum of all gradients so far",
    "optimizer.zero_grad() once for each optimizer step, after it or before the next backward()",
)
CLEARED_TOO_EARLY = Cause(
    "gradients are cleared between backward() and step(): the step has nothing to use",
    "zero_grad() before backward(), or after step()",
)
CLEARED_BETWEEN = Cause(
    "gradients are cleared for each micro-batch: only the last one counts",
    "zero_grad() once for each optimizer step, not for each backward pass",
)
STEPPED_TWICE = Cause(
    "the optimizer steps twice for one backward pass", "step once: scaler.step(optimizer) calls optimizer.step() itself"
)


def gradients_cleared(r: Run) -> Verdict:
    """Each optimizer step uses the gradients of its own micro-batches, all of them, once."""
    iterations = [i for i in r.iterations if i.backwards]
    if not iterations:
        return skipped(NO_OPTIMIZER)
    if idle := [i for i in r.iterations if not i.backwards or has_double(i.steps)]:
        return failed(STEPPED_TWICE, f"{len(idle)} of {number_of(len(r.iterations), 'optimizer step')} had no backward pass")
    if not any(s.gradient for i in iterations for s in i.steps):
        if not {id(p) for s in r.watch.of(Step) for g in s.optimizer.param_groups for p in g["params"]} & r.reached:
            return skipped("optimizer failed. Fix that first", Reason.DEPENDS)
        return failed(CLEARED_TOO_EARLY, f"no gradient was left in {number_of(len(iterations), 'optimizer step')}")
    later = iterations[1:]
    if stale := [i for i in later if i.backwards[0].before]:
        norms = f"; their norm grew from {iterations[0].steps[0].norm:.3g} to {iterations[-1].steps[0].norm:.3g}"
        return failed(
            NOT_CLEARED,
            f"gradients of the step before were still there in {len(stale)} of {number_of(len(later), 'step')}{norms}",
        )
    several = [i for i in iterations if len(i.backwards) > 1]
    if lost := [i for i in several if not any(b.before for b in i.backwards[1:])]:
        k = len(lost[0].backwards)
        return failed(CLEARED_BETWEEN, f"before each of {k} backward passes the gradients were 0 again")
    if not later:
        return skipped("only one optimizer step was seen", Reason.NOT_ASKED)
    return passed(f"before the first backward pass of each of {len(iterations)} steps there were none")


def has_double(steps: list[Step]) -> bool:
    return len({id(s.optimizer) for s in steps}) < len(steps)


# ----- accumulation

NOT_DIVIDED = Cause(
    "the loss of a micro-batch is not divided by their number: gradients are that many times too large, and clipping bites",
    "(loss / micro_batches).backward()",
)
DIVIDED_TWICE = Cause(
    "the loss is divided by the number of micro-batches twice", "divide once: by hand, or leave it to the library, not both"
)
UNEVEN = Cause(
    "micro-batches with unequal numbers of tokens weigh the same: not what one large batch would give",
    "sum the losses and divide by the number of all tokens that count",
)


def close(value: float, to: float) -> bool:
    return math.isclose(value, to, rel_tol=SAME_WEIGHT)


def weights_of(r: Run) -> list[tuple[Iteration, float, float]]:
    """Return each iteration whose loss was followed, what its tokens count together, and what was done to the gradients after
    the last backward pass, as a factor."""
    found = []
    for iteration in r.iterations:
        weights = [b.weight for b in iteration.backwards]
        if weights and all(w is not None for w in weights):
            found.append((iteration, sum(w for w in weights if w is not None), factor_after(iteration)))
    return found


def factor_after(i: Iteration) -> float:
    """Return by how much gradients were multiplied between the last backward pass and clipping, or the step, but for a
    GradScaler."""
    last = i.backwards[-1]
    after = i.between[i.between.index(last) + 1 :]
    clip = next((e for e in after if isinstance(e, Clip)), None)
    scaled = any(isinstance(e, Mark) and e.kind != "schedule" for e in after[: after.index(clip) if clip else None])
    norm = clip.norm if clip else i.steps[0].norm
    return norm / last.norm * (last.scale if scaled else 1.0) if last.norm and len(i.steps) == 1 else 1.0


def accumulation(r: Run) -> Verdict:
    """Micro-batches together give the gradient of one large batch."""
    several = [x for x in weights_of(r) if len(x[0].backwards) > 1]
    if not several:
        if any(len(i.backwards) > 1 for i in r.iterations):
            return skipped(NOT_FOLLOWED_LOSS, Reason.NOT_ASKED)
        return skipped("one backward pass for each optimizer step" if r.iterations else NO_OPTIMIZER)
    i, total, factor = several[len(several) // 2]
    k = len(i.backwards)
    evidence = f"{k} micro-batches a step; together they count {total:.4g} times a mean over their tokens"
    if close(total, 1) or close(total * factor, 1):
        if uneven := uneven_micro_batches([x[0] for x in several]):
            return warned(UNEVEN, uneven)
        return passed(evidence)
    if close(total, k):
        return failed(NOT_DIVIDED, evidence)
    if close(total, 1 / k):
        return failed(DIVIDED_TWICE, evidence)
    return passed(evidence) if total > 0 else skipped(f"{evidence}: see loss", Reason.DEPENDS)


def uneven_micro_batches(iterations: list[Iteration]) -> str:
    """Return evidence that means of unequal micro-batches count the same, "" if not."""
    for i in iterations:
        counts, weights = [b.counted for b in i.backwards], [b.weight or 0.0 for b in i.backwards]
        if max(counts) > UNEVEN_MICRO_BATCHES * max(min(counts), 1) and close(max(weights), min(weights)):
            return f"micro-batches with {min(counts)} and {max(counts)} tokens that count weigh {weights[0]:.3g} each"
    return ""


# ----- rate

SCHEDULED_TOO_OFTEN = Cause(
    "the scheduler steps for each micro-batch, not for each optimizer step: the rate falls too early",
    "scheduler.step() once, right after optimizer.step()",
)
SCHEDULED_SEVERAL_TIMES = Cause(
    "the scheduler steps more than once for each optimizer step: the rate falls too early",
    "scheduler.step() once, right after optimizer.step()",
)
SCHEDULED_FIRST = Cause(
    "the scheduler steps before the optimizer does: the first rate is skipped", "scheduler.step() after optimizer.step()"
)
OTHER_SCHEDULER = Cause(
    "the scheduler belongs to another optimizer than the one that steps: the rate does not follow it",
    "make the scheduler of the optimizer that is used, after that one",
)
RATE_BELOW_ZERO = Cause("a learning rate is negative: the step goes uphill", "check the schedule beyond its last step")


def rate(r: Run) -> Verdict:
    """The learning rate changes once for each optimizer step at most."""
    iterations = r.iterations
    if not iterations:
        return skipped(NO_OPTIMIZER)
    rates = [step.rates[0] for step in r.watch.of(Step) if step.rates]
    evidence = f"{rates[0]:.3g} in the first step seen, {rates[-1]:.3g} in the last" if rates else "no learning rate"
    if any(rate < 0 for rate in rates):
        return failed(RATE_BELOW_ZERO, evidence)
    several = [i for i in iterations if len(i.backwards) > 1]
    inside = [i for i in several if len({b.rates for b in i.backwards}) > 1]
    if several and len(inside) == len(several):
        return failed(SCHEDULED_TOO_OFTEN, f"the rate changes between the micro-batches of a step; {evidence}")
    stepped = {id(s.optimizer.param_groups) for s in r.watch.of(Step)}
    mine = [h.optimizer.param_groups for h in r.watch.kept.holders if is_scheduler(h)]
    if mine and sum(schedules(r)) and not any(id(groups) in stepped for groups in mine):
        return failed(OTHER_SCHEDULER, evidence)
    counts = schedules(r)
    tries = [max(1, sum(is_mark(e, "scaler step") for e in i.between)) for i in iterations]
    often = [n for n, most in zip(counts, tries[1:], strict=False) if n > most]
    if len(often) > len(iterations) / 2:
        k = round(sum(len(i.backwards) for i in iterations) / len(iterations))
        cause = SCHEDULED_TOO_OFTEN if k > 1 and often[0] == k else SCHEDULED_SEVERAL_TIMES
        return failed(cause, f"scheduler.step() {often[0]} times between two optimizer steps; {evidence}")
    first = iterations[0]
    if counts and any(is_mark(e, "schedule") for e in (*first.before, *first.between)):
        return warned(SCHEDULED_FIRST, f"scheduler.step() came before the first optimizer.step(); {evidence}")
    once = f"; scheduler.step() {sum(counts)} times" if sum(counts) else ""
    return passed(evidence + once)


def is_mark(event: Event, kind: str) -> bool:
    return isinstance(event, Mark) and event.kind == kind


def schedules(r: Run) -> list[int]:
    """Return how often schedulers were stepped between an optimizer step and the next, from the second step on; the number of
    schedulers counts once."""
    counts = []
    for i in r.iterations[1:]:
        counts.append(sum(is_mark(e, "schedule") for e in (*i.before, *i.between)))
    several = len([h for h in r.watch.kept.holders if type(h).__module__.endswith("lr_scheduler")])
    return [n // max(several, 1) if several > 1 else n for n in counts]


# ----- clipping

CLIPPED_TOO_LATE = Cause(
    "gradients are clipped where there is nothing to clip: before backward(), or after step()",
    "clip between the last backward() and optimizer.step()",
)
CLIPPED_SCALED = Cause(
    "gradients are clipped while they still carry the GradScaler's factor", "scaler.unscale_(optimizer) before clipping"
)
CLIPPED_PARTS = Cause(
    "the gradients of single micro-batches are clipped, not their sum", "clip once, after the last backward() of a step"
)
CLIPPED_NOTHING = Cause(
    "clipping was given parameters without gradients (another model's, or an iterator that was used up)",
    "clip_grad_norm_(model.parameters(), 1.0)",
)


def clipping(r: Run) -> Verdict:
    """Clipping sees the whole gradient, unscaled, before the step."""
    clips = r.watch.of(Clip)
    iterations = [i for i in r.iterations if i.backwards]
    if not clips or not iterations:
        return skipped("no torch.nn.utils.clip_grad_norm_ was seen" if iterations else NO_OPTIMIZER)
    empty = [e for i in iterations for e in i.between if isinstance(e, Clip) and not e.with_gradient]
    if len(empty) > len(clips) / 2:
        return failed(CLIPPED_NOTHING, f"{len(empty)} of {number_of(len(clips), 'clip')} were given no gradient")
    good = []
    for i in iterations:
        last = i.between.index(i.backwards[-1])
        good += [(i, n, e) for n, e in enumerate(i.between) if isinstance(e, Clip) and n > last]
    where = f"{number_of(len(clips), 'clip')} in {number_of(len(iterations), 'optimizer step')}"
    if not good:
        inside = any(isinstance(e, Clip) for i in iterations for e in i.between)
        return failed(CLIPPED_PARTS if inside else CLIPPED_TOO_LATE, f"{where}, none between the last backward() and the step")
    for i, n, clip in good:
        scale = i.backwards[-1].scale
        if scale != 1 and not any(is_mark(e, "unscale") for e in i.between[:n]):
            return failed(CLIPPED_SCALED, f"norm {clip.norm:.3g} at a scale of {scale:g}, clipped to {clip.most:g}")
    norms = [clip.norm for *_, clip in good]
    return passed(f"{where}; norms {min(norms):.3g} to {max(norms):.3g}, clipped to {good[0][2].most:g}")


# ----- targets

NOT_SHIFTED = Cause(
    "targets are not shifted: the logits at t are compared with the token at t, which the model sees: it learns to copy",
    "compare the logits at t with the token at t + 1, shifted once: in the batch, in the loss, or in the model",
)
SHIFTED_TWICE = Cause(
    "targets are shifted twice: the logits at t are compared with the token at t + 2",
    "shift once: in the batch or in the loss (or the model), not in both",
)
SHIFTED_BACK = Cause("targets are shifted the wrong way: the logits at t are compared with token t - 1", "targets = ids[:, 1:]")
SHIFTED_FAR = Cause("targets are three tokens ahead", "shift once")
OTHER_ORDER = Cause(
    "logits and targets are flattened in different orders: each position is compared with another one's target",
    "flatten both the same way: logits.reshape(-1, V) and targets.reshape(-1) of (B, T, V) and (B, T)",
)
NO_NEXT_TOKENS = Cause(
    "targets are not the next tokens of the input, by whatever shift", "targets must be the input, one token later"
)
SHIFT_CAUSES = {0: NOT_SHIFTED, 2: SHIFTED_TWICE, -1: SHIFTED_BACK, 3: SHIFTED_FAR}
NOT_FOLLOWED_LOSS = "its loss could not be followed (compiled, fused, or not a cross-entropy)"


def targets(r: Run) -> Verdict:
    """The logits at position t are compared with the token at t + 1."""
    seen = [b.seen for b in r.backwards if b.seen is not None]
    if not seen:
        return skipped(NOT_FOLLOWED_LOSS, Reason.INAPPLICABLE)
    if any(not s.order for s in seen):
        return failed(OTHER_ORDER, "targets in order are the next tokens, but logits come in another order")
    compared = [s for s in seen if s.compared]
    if not compared:
        return skipped("no token ids were found to compare its targets with")
    if any(s.rows == "" for s in compared) and all(s.shift is None for s in compared):
        return skipped("its targets fit no shift of its input, and its logits were not seen", Reason.NOT_ASKED)
    fitting = [s for s in compared if s.shift is not None]
    if len(fitting) * 2 < len(compared):
        share = sum(s.share for s in compared) / len(compared)
        return warned(
            NO_NEXT_TOKENS, f"{share:.0%} of {sum(s.compared for s in compared)} targets fit the shift that fits best"
        )
    wrong = [s for s in fitting if s.shift != 1]
    evidence = f"{sum(s.compared for s in fitting)} targets compared with the ids"
    if len(wrong) * 2 > len(fitting) and wrong[0].shift is not None:
        return failed(SHIFT_CAUSES[wrong[0].shift], f"{evidence}: they are the tokens at t + {wrong[0].shift}")
    return passed(f"{evidence}: they are the tokens at t + 1")


# ----- loss

SUMMED = Cause("the loss is summed, not averaged: gradients grow with batch and window", "the mean over all tokens that count")
SUMMED_OVER_WINDOW = Cause(
    "the loss is summed over the window and averaged over the batch only", "the mean over all tokens that count"
)
BROADCAST = Cause(
    "two shapes were broadcast silently: the loss sums over far more numbers than there are tokens",
    "give losses and masks the same shape, for example (B, T) and (B, T), not (B, T, 1) or (N,) and (N, 1)",
)
MASKED_MEAN = Cause(
    "tokens that do not count (padding, a prompt) count in the mean: the more of them, the smaller loss and gradients",
    "(each * mask).sum() / mask.sum(), or ignore_index with reduction='mean'",
)
SIGN = Cause("the sign of the loss is inverted: the step makes the targets less likely", "minimise the negative log-likelihood")
DOUBLE_SOFTMAX = Cause(
    "softmax is taken twice: cross_entropy takes logits, and was given probabilities (or log-probabilities of them)",
    "F.cross_entropy(logits, targets), without a softmax before",
)
NO_LOG = Cause("nll_loss was given logits or probabilities, not log-probabilities", "F.cross_entropy(logits, targets)")
MIXED_AXES = Cause(
    "a view mixes the axes of the logits before the loss", "logits.transpose(1, 2) for (B, V, T), reshape only for (B·T, V)"
)
STEPPED_EACH = Cause(
    "the loss is divided as if there were several micro-batches, and the optimizer steps after each one",
    "step once for all micro-batches, or do not divide",
)
COUNTS_OTHERWISE = Cause("the loss is scaled by a factor of its own", "on purpose? The mean over the tokens counts 1")


def loss(r: Run) -> Verdict:
    """What is minimised is the mean cross-entropy of the tokens that count."""
    seen = [b.seen for b in r.backwards if b.seen is not None]
    kinds = {"mixed": MIXED_AXES, "doubled": DOUBLE_SOFTMAX, "not logs": NO_LOG}
    for kind, cause in kinds.items():
        if seen and all(s.rows == kind for s in seen):
            return failed(cause, f"in {number_of(len(seen), 'backward pass', 'backward passes')} looked at")
    if any(s.tokens and s.summed > s.tokens + s.ignored and s.summed % (s.tokens + s.ignored) == 0 for s in seen):
        worst = max(seen, key=lambda s: s.summed)
        return failed(BROADCAST, f"a sum over {worst.summed:,} numbers for {number_of(worst.tokens + worst.ignored, 'token')}")
    followed = [b for b in r.backwards if b.weight is not None]
    if not followed:
        return skipped(NOT_FOLLOWED_LOSS)
    weights = weights_of(r)
    i, total, factor = weights[0] if weights else (None, followed[0].weight or 0.0, 1.0)
    k, first = len(i.backwards) if i else 1, i.backwards[0] if i else followed[0]
    return judge_weight(first, total, factor, k)


def judge_weight(first: Backward, total: float, factor: float, k: int) -> Verdict:
    """Return what it means that the tokens of an optimizer step count `total` together, in k micro-batches."""
    n, T = first.counted, first.seen.positions if first.seen else 0
    evidence = f"the {n:,} tokens of a backward pass count {total / k:.4g} together (a mean: 1{f', or 1/{k}' if k > 1 else ''})"
    if any(close(x, y) for x in (total, total * factor) for y in (1, k, 1 / k) if y >= 1 or k > 1):
        return passed(evidence)
    if T > 2 and abs(total - 1) < (1 + SAME_WEIGHT) / (T - 1):  # the first token counted, too: transformers' Trainer
        return passed(evidence)
    if 0 < first.weighted < first.rows and any(close(x * first.rows, first.weighted) for x in (total, total / k)):
        return failed(MASKED_MEAN, f"{evidence}, {first.weighted} of {first.rows} have a weight")
    if total < 0:
        return failed(SIGN, evidence)
    for size in (total / k, total, total * factor):
        if n > 1 and close(size, n):
            return failed(SUMMED, evidence)
        if T > 2 and n > T and (close(size, T) or close(size, T - 1)):
            return failed(SUMMED_OVER_WINDOW, evidence)
    if not first.alone:
        return passed(f"{evidence}, beside other terms")
    if k == 1 and total < 1 and close(1 / total, round(1 / total)):
        return warned(STEPPED_EACH, evidence)
    return warned(COUNTS_OTHERWISE, evidence)


# ----- mode

LEFT_IN_EVALUATION = Cause(
    "evaluation leaves the model in evaluation mode: from then on it is trained without dropout",
    "model.train() after evaluating",
)
NEVER_IN_TRAINING = Cause("it is trained in evaluation mode: without dropout", "model.train() before the loop")
DROPOUT_OFF = Cause("its dropout modules are in evaluation mode while it is trained", "model.train() before the loop")
EVALUATED_IN_TRAINING = Cause(
    "it is evaluated, or sampled from, in training mode: dropout is on, and the numbers are too bad",
    "model.eval() before evaluating, model.train() after it",
)
STATISTICS = Cause(
    "it is evaluated in training mode: batch normalisation takes its statistics from validation data",
    "model.eval() before evaluating, model.train() after it",
)


def mode(r: Run) -> Verdict:
    """It is trained in training mode, and evaluated in evaluation mode."""
    training, evaluation = r.training, r.evaluation
    off = [f for f in training if not f.training]
    if off and r.watch.without_training and mode_matters(*r.watch.without_training):
        on_before = any(f.training for f in training[: training.index(off[0])])
        cause = LEFT_IN_EVALUATION if on_before or evaluation else NEVER_IN_TRAINING
        return failed(cause, f"{len(off)} of {number_of(len(training), 'training pass', 'training passes')} in evaluation mode")
    if names := dropout_off(training):
        return failed(DROPOUT_OFF, f"training=False in {number_of(len(names), 'dropout module')}: {first_few(names)}")
    noisy = [f for f in evaluation if f.training and f.rng_before != f.rng_after]
    if noisy:
        passes = number_of(len(evaluation), "pass", "passes")
        return failed(
            EVALUATED_IN_TRAINING, f"{len(noisy)} of {passes} outside of training drew random numbers in training mode"
        )
    if any(f.training and any(is_batch_norm(m) for m in f.module.modules()) for f in evaluation):
        return failed(STATISTICS, f"{number_of(len(evaluation), 'pass', 'passes')} outside of training")
    words = [f"{len(training)} training passes{' in evaluation mode, which changes nothing in this model' if off else ''}"]
    words += [f"{len(evaluation)} of evaluation"] if evaluation else ["no evaluation was seen"]
    return passed(listed(words))


def dropout_off(training: list[Forward]) -> list[str]:
    """Return all dropout modules, if all are off in training passes of modules in training mode."""
    names: dict[str, bool] = {}
    for f in training:
        for name, module in f.module.named_modules():
            if f.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                names[name] = names.get(name, False) or f.modes.get(name, True)
    return list(names) if names and not any(names.values()) else []


# ----- validation

TRAINS_ON_VALIDATION = Cause(
    "after an evaluation it trains on the batch that was evaluated last: both loops use the same variables or buffers",
    "give the evaluation names (buffers) of its own",
)
OTHER_WEIGHTS = Cause(
    "after an evaluation it trains on with other weights: averaged (EMA) or best ones were put in, and not taken out again",
    "evaluate a copy, or put the training weights back",
)
SEED_RESET = Cause(
    "the random numbers are set back during training: the same dropout masks, or batches, come again",
    "set the seed once before the loop; in an evaluation use a torch.Generator, or torch.random.fork_rng()",
)
GRAPH_IN_EVALUATION = Cause("evaluation builds a graph that nobody uses: memory and time", "with torch.no_grad(): around it")


def validation(r: Run) -> Verdict:
    """Validation leaves nothing behind: neither its batch nor its random numbers nor a graph."""
    seen = [e for e in r.watch.events if isinstance(e, Forward | Backward)]
    after: list[tuple[Forward, Forward | None]] = []
    others: list[tuple[Forward, Forward | None]] = []
    last = None
    evaluated: set[int] = set()
    training = {id(f) for f in r.training}
    mine = {id(f) for f in r.evaluation}
    for event in seen:
        if id(event) in mine and isinstance(event, Forward):
            last = event
            evaluated.add(event.key)
        elif id(event) in training and isinstance(event, Forward) and event.key:
            (others if last is None else after).append((event, last))
            last = None
    again = [f for f, e in after if e is not None and e.key == f.key]
    distinct = len({f.key for f, _ in (*after, *others)})
    if again and len(again) == len(after) and distinct > 1 and not any(f.key in evaluated for f, _ in others):
        evidence = f"{len(again)} of {number_of(len(after), 'training pass', 'training passes')} after an evaluation"
        if others or len(after) > 1:
            return failed(TRAINS_ON_VALIDATION, f"{evidence} had the very ids that were evaluated last")
    if swapped := [f for f in r.training if f.other_weights and evaluated_since_step(r, f)]:
        return failed(OTHER_WEIGHTS, f"in {number_of(len(swapped), 'training pass', 'training passes')} after an evaluation")
    if places := repeated_randomness(r):
        return failed(SEED_RESET, f"training pass {places[1] + 1} began with the random numbers of pass {places[0] + 1}")
    if unused := [f for f in r.evaluation if f.graph]:
        return warned(GRAPH_IN_EVALUATION, f"{number_of(len(unused), 'pass', 'passes')} built one")
    if not r.evaluation:
        return skipped(f"no evaluation was seen in {number_of(len(r.iterations), 'optimizer step')}")
    return passed(f"{number_of(len(r.evaluation), 'evaluation pass', 'evaluation passes')}: nothing left behind")


def evaluated_since_step(r: Run, forward: Forward) -> bool:
    """Whether something was evaluated between the last optimizer step and a pass, in the same call."""
    events = r.watch.events
    for event in reversed(events[: events.index(forward)]):
        if isinstance(event, Step) or event.call != forward.call:
            return False
        if is_evaluation(event):
            return True
    return False


def repeated_randomness(r: Run) -> tuple[int, int] | None:
    """Return two training passes of one call that began with the same random numbers although some were used between."""
    for _, group in itertools.groupby(r.training, key=lambda f: f.call):
        passes = list(group)
        first: dict[int, int] = {}
        for n, f in enumerate(passes):
            if f.rng_before in first:
                since = passes[first[f.rng_before] : n]
                if any(p.rng_after != f.rng_before or p.rng_before != f.rng_before for p in since):
                    return first[f.rng_before], n
            first[f.rng_before] = n
    return None


CHECKS_OF_A_STEP = (
    Entry("trains", trains, essential=True),
    Entry("targets", targets),
    Entry("loss", loss),
    Entry("optimizer", optimizer_holds),
    Entry("mode", mode),
    Entry("validation", validation),
    Entry("cleared", gradients_cleared),
    Entry("accumulation", accumulation),
    Entry("rate", rate),
    Entry("clipping", clipping),
    Entry("moves", parameters_move, needs=("trains", "optimizer", "cleared")),
)
