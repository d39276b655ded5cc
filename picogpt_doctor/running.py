"""Run a training step under watch, and keep what was seen of it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .batch import SEEN_BY_MODEL, Data, Rows, vocabulary
from .passes import Backward, Event, Forward, Mark, Step
from .patient import TookTooLong, find_loss, set_seed, tensors_in
from .probes import (
    CALLS,
    MOST_STEPS,
    STEPS_WANTED,
    STEPS_WATCHED,
    WATCH_SECONDS,
)
from .registry import time_limit
from .report import (
    listed,
)
from .watch import Bug, Enough, Watch, held_by

METHODS = ("train", "fit", "run", "training_step", "train_step", "train_one_step", "step")  # of an object that trains
NO_OPTIMIZER = "no step of a torch.optim.Optimizer was seen"


class NotAStep(ValueError):
    """What was handed over cannot be run; the message says what is needed."""


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
    def known_parameters(self) -> list[Tensor]:
        """Those of all modules that were seen."""
        return [p for m in self.watch.kept.holders if isinstance(m, nn.Module) for p in m.parameters()]

    @property
    def frozen(self) -> list[str]:
        """The names of the parameters of what is trained that take no gradient."""
        return [plain_name(n) for m in self.modules for n, p in m.named_parameters() if not p.requires_grad]

    @property
    def reached(self) -> set[int]:
        """The ids of parameters that had a gradient after some backward pass."""
        return set().union(*(b.reached for b in self.backwards))

    @property
    def iterations(self) -> list[Iteration]:
        """What happened, cut after each step of an optimizer, or group of steps."""
        found: list[Iteration] = []
        for _, events in itertools.groupby(self.watch.events, key=lambda e: e.call):
            found += list(cut(list(events)))
        sizes = Counter(len(i.backwards) for i in found if i.backwards)
        usual = sizes.most_common(1)[0][0] if sizes else 0
        return [without_asides(i, usual) for i in found]

    @property
    def training(self) -> list[Forward]:
        """The forward passes that a backward pass followed."""
        return list({id(f): f for b in self.backwards for f in b.forwards}.values())

    @property
    def data(self) -> Data | None:
        """The ids that it was trained on."""
        rows = [Rows(f.ids.cpu().long()) for f in self.training if f.ids is not None]
        vocab = max((vocabulary(m) or 0 for m in self.modules), default=0)
        return Data(rows, [], {SEEN_BY_MODEL}, vocab or None) if rows else None

    @property
    def evaluation(self) -> list[Forward]:
        """Forward passes without a graph, or with one that no backward pass used, of what is trained."""
        training, last = {id(f) for f in self.training}, self.backwards[-1:]
        mine = {id(p) for p in self.parameters.values()}
        events = self.watch.events
        until = events.index(last[0]) if last else 0
        trained = {id(f.module) for f in self.training}
        passes = [e for e in events if isinstance(e, Forward) and not e.graph]
        passes += [e for e in events[:until] if isinstance(e, Forward) and e.graph and not e.used and id(e.module) in trained]
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
    since: list[Event] = []  # the last step: another optimizer may follow, after its own clip, or the first one's schedule
    carried: list[Event] = []
    for event in events:
        if isinstance(event, Step) and since and all(event.optimizer is not s.optimizer for s in now.steps):
            carried += [e for e in since if isinstance(e, Forward) or is_schedule(e)]
            now.between += [e for e in since if e not in carried]
            since = []
        elif now.steps and (isinstance(event, Backward) or (isinstance(event, Step) and since)):
            yield without_trials(now)
            now = Iteration([*carried, *since], [], [], [])
            since, carried = [], []
        if isinstance(event, Step):
            now.steps.append(event)
        elif now.steps:
            since.append(event)
        elif isinstance(event, Backward):
            now.backwards.append(event)
            now.between.append(event)
        else:
            (now.between if now.backwards else now.before).append(event)
    if now.steps:
        yield without_trials(now)


def is_schedule(event: Event) -> bool:
    return isinstance(event, Mark) and event.kind == "schedule"


def without_trials(i: Iteration) -> Iteration:
    """Return an iteration without what was tried out: LBFGS calls its closure several times in one step, and sharpness-aware
    minimisation computes the gradient again on the same rows, with the weights moved uphill."""
    trials = [b for b in i.backwards if b.in_step][:-1]
    trials += [a for a, b in itertools.pairwise(i.backwards) if not b.before and is_the_same_with_other_weights(a, b)]
    return dataclasses.replace(i, backwards=[b for b in i.backwards if b not in trials]) if trials else i


def parts_of(i: Iteration) -> list[list[Backward]]:
    """Return an iteration's backward passes, cut where the gradients of those before were cleared."""
    parts: list[list[Backward]] = []
    for b in i.backwards:
        if parts and (b.before or not parts[-1][-1].norm):
            parts[-1].append(b)
        else:
            parts.append([b])
    return parts


def without_asides(i: Iteration, usual: int) -> Iteration:
    """Return an iteration without backward passes that few steps have, and whose gradients were cleared: those of a step that
    was not taken, as its loss or its gradient was too large, or of an estimate of the curvature (Sophia)."""
    last = parts_of(i)[-1] if i.backwards else []
    return dataclasses.replace(i, backwards=last) if len(last) == usual < len(i.backwards) else i


def is_the_same_with_other_weights(a: Backward, b: Backward) -> bool:
    first, second = ([f for f in x.forwards if f.ids is not None and f.weights] for x in (a, b))
    same = bool(first) and [f.key for f in first] == [f.key for f in second]
    return same and all(f.weights != g.weights for f, g in zip(first, second, strict=True))


def enough_seen(began: float) -> Callable[[Watch], bool]:
    """Return whether a watch has seen enough: some steps, and validation between them if there is any soon."""

    def enough(watch: Watch) -> bool:
        if not watch.events or not isinstance(watch.events[-1], Step):
            return False
        steps = groups_of_steps(watch)
        if steps < STEPS_WATCHED:
            return False
        validations = [a for a, b in itertools.pairwise(watch.events) if isinstance(a, Step) and is_evaluation(b)]
        return len(validations) > 1 or steps >= MOST_STEPS or time.perf_counter() - began > WATCH_SECONDS

    return enough


def groups_of_steps(watch: Watch) -> int:
    """Return how often an optimizer, or several at once, have stepped: one for each parameter, say."""
    pairs = itertools.pairwise([None, *watch.events])
    return sum(isinstance(event, Step) and not isinstance(before, Step) for before, event in pairs)


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
            steps = groups_of_steps(watch)
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
