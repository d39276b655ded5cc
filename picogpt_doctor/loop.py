"""Examine a training step: what it trains, what it minimises, what the optimizer does, and what validation leaves behind."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from torch import nn

from .batch import CHECKS_OF_IDS
from .objective import accumulation, loss, targets
from .optimizing import clipping, gradients_cleared, optimizer_holds, parameters_move, rate, resumes
from .passes import Forward, Step
from .patient import raised_at
from .probes import (
    is_batch_norm,
)
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
from .running import Run, is_evaluation, mode_matters, run
from .subject import Entry, findings_of, is_strict


def examine_step(step: Any, *args: Any, seconds: float = 60.0, strict: bool | None = None, **kwargs: Any) -> Report:
    """Run a training step and report what is wrong with it. Models, optimizers and random numbers are left as they were.

    `step` is whatever trains when it is called: a function that takes one step, or a whole loop, or an object with a method
    train, fit, run or step. `args` and `kwargs` are what it is called with. A loop is stopped after 24 optimizer steps, or
    later if it has not validated twice by then; a function that takes one step is called a few times. If it returns a loss and
    calls no backward() itself, its loss is examined and the rest is not. A function that returns a step, or (step, arguments
    …), is taken for that step. While it runs, torch.save writes nothing.

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
NO_TARGETS = Cause(
    "the loss is not finite because it is a mean over no token: every target of a micro-batch is ignored (rows of nothing but "
    "padding, or of a prompt that fills them)",
    "leave such rows out, or cut texts so that each row has a target; divide by count.clamp(min=1)",
)
BY_OTHER_MEANS = "the weights change, and not by backward(): torch.autograd.grad, say, or no gradient could not be followed"
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
    if not backwards and not r.too_long and any(r.watch.kept.has_changed(p) for p in r.known_parameters):
        return skipped(BY_OTHER_MEANS, Reason.NOT_ASKED)
    if not backwards:
        return failed(NOTHING_YET if r.too_long else NOT_A_STEP, f"{seen}; {r.ended}")
    if bad := [b for b in backwards if not math.isfinite(b.loss)]:
        cause = NO_TARGETS if bad[0].empty else LOSS_IS_NAN
        return failed(cause, f"the loss of backward pass {backwards.index(bad[0]) + 1} is {bad[0].loss}")
    own = list(r.parameters.values())
    reached = [p for p in own if id(p) in r.reached] or own  # hooks may take the gradients away
    by_hand = not steps and not r.own_backward and 2 * sum(r.watch.kept.has_changed(p) for p in reached) > len(reached)
    if not steps and not by_hand and r.too_long:
        return skipped(f"no optimizer step was reached: {seen}; {r.ended}", Reason.TOO_SLOW)
    if not steps and not r.own_backward and not by_hand:
        return failed(NO_STEP, f"{seen}; {r.ended}")
    seen += "; the weights are changed by other code, which was not followed" if by_hand else ""
    evidence = f"{seen}; loss {backwards[0].loss:.4g} to {backwards[-1].loss:.4g}"
    if r.calls == 1 and len({f.key for f in r.training}) == 1 < len(r.training):
        evidence += "; all of them on the same ids"
    return passed(f"{evidence}; it returned its loss, and backward() was called for it" if r.own_backward else evidence)


# ----- mode

LEFT_IN_EVALUATION = Cause(
    "evaluation leaves the model in evaluation mode: from then on it is trained without dropout",
    "model.train() after evaluating",
)
NEVER_IN_TRAINING = Cause("it is trained in evaluation mode: without dropout", "model.train() before the loop")
DROPOUT_OFF = Cause("its dropout modules are in evaluation mode while it is trained", "model.train() before the loop")
DROPOUT_LOST = Cause(
    "an evaluation switches some dropout off for good: from then on the model is trained without it, although in training mode",
    "use a local variable (p = self.p if self.training else 0.0), and restore after an evaluation whatever was changed for it",
)
EVALUATED_IN_TRAINING = Cause(
    "it is evaluated, or sampled from, in training mode: dropout is on, so the loss comes out too high, and samples worse",
    "model.eval() before evaluating, model.train() after it",
)
STATISTICS = Cause(
    "it is evaluated in training mode: batch normalisation takes its statistics from validation data",
    "model.eval() before evaluating, model.train() after it",
)
SECOND_IN_TRAINING = Cause(
    "a second model that is given the same ids (a reference, a teacher) is in training mode: dropout makes its outputs random",
    "call reference.eval(), again after any model.train() that reaches it as a submodule",
)


def mode(r: Run) -> Verdict:
    """It is trained in training mode, and evaluated in evaluation mode."""
    training, evaluation = r.training, r.evaluation
    off = [f for f in training if not f.training]
    if off and r.watch.without_training and mode_matters(*r.watch.without_training):
        events = [id(e) for e in r.watch.events]
        before = events[: events.index(id(off[0]))]
        was_on = any(f.training for f in training if id(f) in before)
        cause = LEFT_IN_EVALUATION if was_on or any(id(f) in before for f in evaluation) else NEVER_IN_TRAINING
        return failed(cause, f"{len(off)} of {number_of(len(training), 'training pass', 'training passes')} in evaluation mode")
    if names := dropout_off(training):
        return failed(DROPOUT_OFF, f"training=False in {number_of(len(names), 'dropout module')}: {first_few(names)}")
    if problem := dropout_lost(r):
        return failed(DROPOUT_LOST, problem)
    own = {id(e) for f, before in trained_after(r) for e in before if e.key == f.key}  # its own batch: a training accuracy
    noisy = [f for f in evaluation if f.training and f.rng_before != f.rng_after and id(f) not in own]
    if noisy:
        passes = number_of(len(evaluation), "pass", "passes")
        return failed(
            EVALUATED_IN_TRAINING, f"{len(noisy)} of {passes} outside of training drew random numbers in training mode"
        )
    if any(f.training and any(is_batch_norm(m) for m in f.module.modules()) for f in evaluation):
        return failed(STATISTICS, f"{number_of(len(evaluation), 'pass', 'passes')} outside of training")
    mine, keys = {id(f.module) for f in training}, {f.key for f in training if f.key}
    others = [f for f in r.watch.of(Forward) if not f.graph and f.key in keys and id(f.module) not in mine]
    if drew := [f for f in others if f.training and f.rng_before != f.rng_after]:
        passes = number_of(len(others), "pass", "passes")
        return warned(SECOND_IN_TRAINING, f"{len(drew)} of {passes} of {type(drew[0].module).__name__} drew random numbers")
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


def dropout_lost(r: Run) -> str:
    """Return evidence that what dropped something in training passes does so no longer after the first evaluation, because a
    module was left in evaluation mode, or a number of its attributes at 0; "" if not. A rate that the loop itself changes,
    between two training passes or before an evaluation ends, is a choice."""
    if not r.evaluation:
        return ""
    events, first = r.watch.events, r.evaluation[0]
    passes = [f for f in r.training if f.module is first.module and f.call == first.call and f.training]
    before = [f for f in passes if events.index(f) < events.index(first)]
    after = passes[len(before) :]
    if not after:
        return ""
    name_of = {id(m): name for name, m in first.module.named_modules()}
    dropped = {id(f): {name_of[i]: sum(p > 0 for p in each) for i, each in f.drops.items() if i in name_of} for f in passes}
    were = before[-1].numbers_after if before else first.numbers_before
    later = [first.numbers_after, *(f.numbers_before for f in after)]
    zeroed = {n.rpartition(".")[::2]: was for n, was in were.items() if 0 < was < 1 and all(x.get(n) == 0 for x in later)}
    owners = {owner for owner, _ in zeroed}
    lost = []
    for name in dropped[id(after[0])]:
        counts = {dropped[id(f)].get(name, 0) for f in before}
        now = max(dropped[id(f)].get(name, 0) for f in after)
        left = bool(before) and before[-1].modes.get(name, False) and not any(f.modes.get(name, True) for f in after)
        gone = now == 0 and (not before or (len(counts) == 1 and max(counts) > 0))
        if gone and (left or name in owners or name.rpartition(".")[0] in owners):
            lost.append(name)
    if not lost:
        return ""
    seen = f"after the first evaluation {first_few(lost)} {'drops' if len(lost) == 1 else 'drop'} nothing "
    seen += f"({number_of(len(after), 'training pass', 'training passes')} seen)"
    some = next(((f"{o}.{key}".removeprefix("."), was) for (o, key), was in zeroed.items()), None)
    return f"{seen}; {some[0]} was {some[1]:g}, and is 0 since" if some else f"{seen}, left in evaluation mode"


# ----- validation

TRAINS_ON_VALIDATION = Cause(
    "after an evaluation it trains on the batch that was evaluated last: both loops use the same variables or buffers",
    "give the evaluation names (buffers) of its own",
)
EVALUATED_FIRST = Cause(
    "now and then a batch is evaluated and trained on right after: the training batch itself is looked at (harmless), or "
    "validation and training share variables",
    "if it is validation data, give the evaluation names (buffers) of its own",
)
OTHER_WEIGHTS = Cause(
    "training continues with other weights after an evaluation: averaged (EMA) or best weights were loaded for it and not "
    "swapped back",
    "evaluate a copy, or put the training weights back",
)
SEED_RESET = Cause(
    "the random generator is reset during training, so the same dropout masks, or batches, come again",
    "set the seed once before the loop; in an evaluation use a torch.Generator, or torch.random.fork_rng()",
)
GRAPH_IN_EVALUATION = Cause(
    "evaluation builds an autograd graph that nobody uses, which costs memory and time",
    "with torch.no_grad(): around it",
)


def validation(r: Run) -> Verdict:
    """Validation leaves nothing behind: neither its batch nor its random numbers nor a graph."""
    passes = [(f.key, [e.key for e in before]) for f, before in trained_after(r)]
    if problem := trained_on_what_was_evaluated(passes):
        return problem
    if swapped := swapped_weights(r):
        return failed(OTHER_WEIGHTS, f"in {number_of(len(swapped), 'training pass', 'training passes')} after an evaluation")
    if places := repeated_randomness(r):
        return failed(SEED_RESET, f"training pass {places[1] + 1} began with the random numbers of pass {places[0] + 1}")
    if unused := [f for f in r.evaluation if f.graph]:
        return warned(GRAPH_IN_EVALUATION, f"{number_of(len(unused), 'pass', 'passes')} built one")
    if not r.evaluation:
        return skipped(f"no evaluation was seen in {number_of(len(r.iterations), 'optimizer step')}")
    looks = sum(set(keys) == {key} for key, keys in passes)
    own = f" (before {looks} of {number_of(len(passes), 'training pass', 'training passes')} its own batch is looked at)"
    evidence = f"{number_of(len(r.evaluation), 'evaluation pass', 'evaluation passes')}{own if looks else ''}"
    return passed(f"{evidence}: nothing left behind")


def trained_after(r: Run) -> list[tuple[Forward, list[Forward]]]:
    """Return each training pass on ids that are known, with what was evaluated since the one before."""
    training, mine = {id(f) for f in r.training}, {id(f) for f in r.evaluation}
    found: list[tuple[Forward, list[Forward]]] = []
    since: list[Forward] = []
    for event in (e for e in r.watch.events if isinstance(e, Forward)):
        if id(event) in mine:
            since.append(event)
        elif id(event) in training and event.key:
            found.append((event, since))
            since = []
    return found


def trained_on_what_was_evaluated(passes: list[tuple[int, list[int]]]) -> Verdict | None:
    """Return the verdict on training passes that have the very ids that were evaluated last, if that may be a fault.

    A step that looks at its own batch under no_grad first, for its accuracy, does the same as an evaluation of a single batch
    that is then trained on. So it counts as a fault only after an evaluation of several batches; where each step does it, it is
    not worth a word.
    """
    after = [(key, before) for key, before in passes if before]
    others = {key for key, before in passes if not before}
    again = [(key, before) for key, before in after if before[-1] == key]
    evaluated = {key for _, before in after for key in before}
    if not again or len(again) < len(after) or len({key for key, _ in passes}) < 2 or others & evaluated:
        return None
    evidence = f"{len(again)} of {number_of(len(after), 'training pass', 'training passes')} after an evaluation"
    evidence += " had the very ids that were evaluated last"
    looked = [key for key, before in again if set(before) == {key}]
    if not looked and (others or len(after) > 1):
        return failed(TRAINS_ON_VALIDATION, evidence)
    return warned(EVALUATED_FIRST, evidence) if others and len(after) > 1 else None


def swapped_weights(r: Run) -> list[Forward]:
    """Return the training passes before which an evaluation exchanged the weights, and did not put them back."""
    other = [f for f in r.training if f.other_weights]
    swapped = [f for f in other if evaluated_since_step(r, f)]
    if len(swapped) < len(other) or any(f.changes_weights for f in r.watch.of(Forward)):
        return []  # weights are normalised after each step, or by the model itself
    return swapped


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
    Entry("resumes", resumes),
    Entry("moves", parameters_move, needs=("trains", "optimizer", "cleared")),
)
