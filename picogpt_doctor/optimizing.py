"""Checks of what the optimizer is given and does with it: parameters, gradients, learning rate, clipping."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .passes import Clip, Event, Mark, Step
from .probes import DROP, IDLE_SHRINKS, JUMP, LOW_RATE, MANY_WITHOUT_GRADIENT, MIRRORED, SAME_WEIGHT, STEPS_WANTED, WARMUP_RISES
from .report import (
    Cause,
    Reason,
    Verdict,
    failed,
    first_few,
    listed,
    number_of,
    passed,
    skipped,
    warned,
)
from .running import NO_OPTIMIZER, Iteration, Run, parts_of
from .watch import is_scheduler

# ----- optimizer

MADE_TOO_EARLY = Cause(
    "the optimizer was made before these parameters were: it still holds what they replaced",
    "make the optimizer after the model is complete (heads replaced, embeddings resized, moved, wrapped)",
)
LEFT_OUT = Cause(
    "some parameters get gradients, but no optimizer that steps holds them, so they stay as they were initialised",
    "give the optimizer all of model.parameters(); freeze what is not to be trained with requires_grad_(False)",
)
OTHER_MODEL = Cause(
    "the optimizer holds another model's parameters (a copy, or the one from before)", "torch.optim.AdamW(model.parameters())"
)
SECOND_MODEL = Cause(
    "the loss goes back into a second model, which no optimizer holds, on the ids of the first (a reference, a teacher): its "
    "pass has a graph, for nothing",
    "with torch.no_grad() around its pass, and requires_grad_(False)",
)
FOREIGN = Cause(
    "the optimizer holds parameters that are not the model's and never get a gradient",
    "make the optimizer after the model is complete",
)
TWICE_IN_GROUPS = Cause(
    "a parameter is in two groups or two optimizers: it is stepped twice", "put each parameter in one group"
)
NORMS_DECAY = Cause(
    "gains or biases of norms are in a group with weight decay, although a group without it was made: it does not catch them",
    "by shape, not by name: weight decay for p.dim() >= 2, none for the others",
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
    copied = {n for n, p in missing.items() if r.watch.kept.has_changed(p)}  # from float32 copies, say, which it holds
    missing = {n: p for n, p in missing.items() if n not in copied}
    modules = [m for m in r.watch.kept.holders if isinstance(m, nn.Module)]
    known = {id(p) for m in modules for p in m.parameters()}
    used = reached.union(*(s.with_gradient for s in r.watch.of(Step)))
    foreign = [p for p in held if id(p) not in known and id(p) not in used]
    if not missing and not copied:  # what an optimizer holds that has nothing of the model is no fault: a stand-in's
        mine = {id(p) for o in optimizers for g in o.param_groups for p in g["params"] if holds_any(o, own)}
        foreign = [p for p in foreign if id(p) in mine]
    evidence = f"{len(own) - len(missing)} of {number_of(len(own), 'parameter')} that get a gradient are in an optimizer"
    if missing:
        evidence += f", {len(missing)} are not: {first_few(missing)}"
    if foreign:
        evidence += f"; it holds {number_of(len(foreign), 'parameter')} that the model does not have"
    if missing and not foreign and {id(p) for p in missing.values()} <= second_models(r, ids):
        first = number_of(len(own) - len(missing), "parameter")
        return warned(SECOND_MODEL, f"{first} in an optimizer, {len(missing)} of a second model are not, and get a gradient")
    if missing and foreign:
        return failed(OTHER_MODEL if len(missing) == len(own) else MADE_TOO_EARLY, evidence)
    if missing:
        return failed(LEFT_OUT, evidence)
    if foreign:
        return failed(FOREIGN, evidence)
    if copied:
        evidence += f", {len(copied)} are not, and change all the same: {first_few(copied)}"
    for i in r.iterations:  # at once: another optimizer may follow, of a model that has grown, say
        within = {id(s.optimizer): s.optimizer for s in i.steps if not s.wraps}.values()
        entries = [id(p) for optimizer in within for group in optimizer.param_groups for p in group["params"]]
        if len(set(entries)) < len(entries):
            return failed(TWICE_IN_GROUPS, f"{len(entries)} entries for {number_of(len(set(entries)), 'parameter')}")
    if decayed := decayed_norms(r):
        return warned(
            NORMS_DECAY, f"{evidence}; weight decay on {number_of(len(decayed), 'parameter')} of norms: {first_few(decayed)}"
        )
    if frozen := r.frozen:
        evidence += f"; {number_of(len(frozen), 'parameter')} frozen (requires_grad=False): {first_few(frozen)}"
    return passed(evidence)


def second_models(r: Run, held: set[int]) -> set[int]:
    """Return the ids of the parameters of modules of which an optimizer holds none, made like one of which it holds some, and
    called on its ids."""
    own: dict[int, list[Tensor]] = {id(f.module): [p for p in f.module.parameters() if p.requires_grad] for f in r.training}
    keys = {i: {f.key for f in r.training if id(f.module) == i} for i in own}
    trained = [i for i, some in own.items() if any(id(p) in held for p in some)]
    second: set[int] = set()
    for i, some in own.items():
        shapes = [p.shape for p in some]
        if i not in trained and any(shapes == [p.shape for p in own[j]] and keys[i] & keys[j] for j in trained):
            second |= {id(p) for p in some}
    return second


def holds_any(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> bool:
    ids = {id(p) for p in parameters.values()}
    return any(id(p) in ids for group in optimizer.param_groups for p in group["params"])


def decayed_norms(r: Run) -> list[str]:
    """Return the vectors of norms that have weight decay, where the same optimizer has a group without it that holds biases,
    or some norms, or nothing. One group for all is a choice; so is a group without decay for a table alone, or for the
    parameters of a recurrence (A_log, D)."""
    norms = {
        id(p) for m in r.modules for n in m.modules() if "norm" in type(n).__name__.lower() for p in n.parameters(recurse=False)
    }
    meant = norms | {id(p) for name, p in r.parameters.items() if name.rpartition(".")[2] == "bias"}
    found: set[int] = set()
    for optimizer in {id(s.optimizer): s.optimizer for s in r.watch.of(Step)}.values():
        groups = [(bool(group.get("weight_decay")), group["params"]) for group in optimizer.param_groups]
        if any(not decays and (not params or any(id(p) in meant for p in params if p.dim() < 2)) for decays, params in groups):
            found |= {id(p) for decays, params in groups if decays for p in params if p.dim() < 2 and id(p) in norms}
    return [name for name, p in r.parameters.items() if id(p) in found]


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
ZERO_GRADIENT = Cause(
    "their gradient is exactly 0 in every step: a hook, a mask or a branch of zeros multiplies it away (weight decay alone may "
    "still move them)",
    "look for register_hook, for what multiplies the branch by 0, and for a branch that is clamped or saturated",
)
IDLE_DECAYS = Cause(
    "the optimizer changes parameters that got no gradient (grad is None): weight decay is applied to them all the same, and "
    "experts that no token chose shrink",
    "if p.grad is None: continue, before anything of p is changed",
)
IDLE_MOVES = Cause(
    "the optimizer changes parameters that got no gradient (grad is None): its momentum moves them on",
    "if p.grad is None: continue, before anything of p is changed",
)
NOT_STEPPED = Cause("the optimizer's step does not change them", "look at the optimizer's own code and settings")


def changed(parameter: Tensor, value: Tensor | None) -> bool:
    return value is None or parameter.shape != value.shape or not torch.equal(parameter.detach(), value)


def parameters_move(r: Run) -> Verdict:
    """Every parameter in the optimizer changes."""
    if not r.iterations:
        return skipped(NO_OPTIMIZER)
    steps = r.watch.of(Step)
    if not any(rate for step in steps for rate in step.rates) and not any(step.moved for step in steps):
        return failed(RATE_ZERO, f"learning rate 0 in {number_of(len(steps), 'step')}")
    held = set().union(*(s.held for s in steps))  # not what was added after the last of them
    own = {n: p for n, p in r.parameters.items() if id(p) in held}
    reached = set().union(*(s.with_gradient for s in steps))
    mine = {id(p) for p in own.values()}
    taken = sum(any(id(p) in mine for group in s.optimizer.param_groups for p in group["params"]) for s in steps)
    if taken < STEPS_WANTED:  # a branch that begins at 0 gives the weights before it a gradient of 0 at first
        own = {n: p for n, p in own.items() if id(p) in reached or id(p) not in r.reached}
    moved = set().union(*(s.moved for s in steps))  # adapters may be set back when they are merged
    still = {n: p for n, p in own.items() if not changed(p, r.watch.kept.values.get(id(p))) and id(p) not in moved}
    evidence = f"{len(own) - len(still)} of {number_of(len(own), 'parameter')} changed in {number_of(len(steps), 'step')}"
    factors = {id(p): [s.idle[id(p)] for s in steps if id(p) in s.idle] for p in own.values()}
    if idle := {n: factors[id(p)] for n, p in own.items() if factors[id(p)]}:
        every = [factor for several in idle.values() for factor in several]
        decays = all(IDLE_SHRINKS < factor < 1 for factor in every)
        how = f"norms times {min(every):.6g} to {max(every):.6g} in a step in which they had none"
        verdict = failed if decays else warned
        return verdict(IDLE_DECAYS if decays else IDLE_MOVES, f"{number_of(len(idle), 'parameter')}: {first_few(idle)}; {how}")
    if unreached := {n: p for n, p in own.items() if id(p) not in reached}:
        zero = all(id(p) in r.reached for p in unreached.values())
        whole, many = whole_layers(unreached, own), len(unreached) > MANY_WITHOUT_GRADIENT * len(own)
        chosen_by_none = all("expert" in n for n in unreached)
        if not zero and not whole and set(still) <= set(unreached) and never_ran(r, unreached):
            return passed(f"{evidence}; {len(unreached)} are of experts that no token chose: {first_few(unreached)}")
        verdict = failed if whole or (many and not chosen_by_none) else warned
        layers = f", all of {listed(whole)}" if whole else ""
        return verdict(
            ZERO_GRADIENT if zero else NOT_REACHED,
            f"{evidence}; {len(unreached)} never had a gradient other than 0: {first_few(unreached)}{layers}",
        )
    if not still:
        return passed(evidence)
    evidence += f"; not: {first_few(still)}"
    stopped = {id(p) for s in steps for g in s.optimizer.param_groups if not g.get("lr", 1) for p in g["params"]}
    if all(id(p) in stopped for p in still.values()):
        return warned(GROUP_RATE_ZERO, evidence)
    if all(p.dtype in (torch.bfloat16, torch.float16) for p in still.values()):
        return warned(ROUNDED_AWAY, evidence)
    return failed(NOT_STEPPED, evidence)


def never_ran(r: Run, names: Collection[str]) -> bool:
    """Whether all these parameters are of members of lists that never ran, beside others that did: experts, by their name, or
    because those that did ran more or less often than each other."""
    idle: set[int] = set()
    for module in (m for model in r.modules for m in model.modules() if isinstance(m, nn.ModuleList | nn.ModuleDict)):
        members = list(module.children())
        calls = {r.watch.ran[id(x)] for x in members} - {0}
        if len(calls) > 1 or (calls and all("expert" in n for n in names)):
            idle |= {id(p) for x in members if not r.watch.ran[id(x)] for p in x.parameters()}
    return all(id(p) in idle for n, p in r.parameters.items() if n in names)


def whole_layers(some: Collection[str], of: Collection[str]) -> list[str]:
    """Return the layers of which all parameters are among some names, if others of the same stack have some that are not:
    "h.2" beside "h.0" and "h.1". Experts are no layers: one may well be chosen by no token."""
    layers: dict[str, list[str]] = {}
    for name in of:
        if (match := re.match(r"(.*?\.\d+)\.", f".{name}")) and "expert" not in match[1]:
            layers.setdefault(match[1].removeprefix("."), []).append(name)
    silent = [layer for layer, names in layers.items() if all(name in some for name in names)]
    alive = {layer.rpartition(".")[0] for layer in layers if layer not in silent}
    return [layer for layer in silent if layer.rpartition(".")[0] in alive]


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
    # a step without any gradient, which makes an optimizer's state, changes nothing
    if idle := [i for i in r.iterations if has_double(i) or (not i.backwards and any(s.gradient for s in i.steps))]:
        return failed(STEPPED_TWICE, f"{len(idle)} of {number_of(len(r.iterations), 'optimizer step')} had no backward pass")
    if not any(s.gradient for i in iterations for s in i.steps):
        if not {id(p) for s in r.watch.of(Step) for g in s.optimizer.param_groups for p in g["params"]} & r.reached:
            return skipped("optimizer failed. Fix that first", Reason.DEPENDS)
        return failed(CLEARED_TOO_EARLY, f"no gradient was left in {number_of(len(iterations), 'optimizer step')}")
    later = iterations[1:]
    if stale := [i for i in later if i.backwards[0].added]:
        norms = f"; their norm grew from {iterations[0].steps[0].norm:.3g} to {iterations[-1].steps[0].norm:.3g}"
        return failed(
            NOT_CLEARED,
            f"gradients of the step before were still there in {len(stale)} of {number_of(len(later), 'step')}{norms}",
        )
    several = [i for i in iterations if len(i.backwards) > 1]
    # a micro-batch of padding alone, or whose answers are all masked, leaves a gradient of 0 that nobody cleared
    if lost := [i for i in several if len(parts_of(i)) == len(i.backwards) and is_of_last_alone(i)]:
        k = len(lost[0].backwards)
        return failed(CLEARED_BETWEEN, f"before each of {k} backward passes the gradients were 0 again")
    if not later:
        return skipped("only one optimizer step was seen", Reason.NOT_ASKED)
    return passed(f"no old gradients were left at the start of any of {len(iterations)} steps")


def is_of_last_alone(i: Iteration) -> bool:
    """Whether a step uses the gradient of its last backward pass, but for one factor: earlier ones, which were cleared, are not
    put together with it by hand, as for two tasks whose gradients are projected, or where each row's is clipped."""
    last = i.backwards[-1].norms
    factors = [norm / last[p] for s in i.steps for p, norm in s.norms.items() if norm and last.get(p)]
    return not factors or min(factors) * (1 + SAME_WEIGHT) > max(factors)


def optimizers_of(i: Iteration) -> list[torch.optim.Optimizer]:
    return list({id(s.optimizer): s.optimizer for s in i.steps}.values())


def has_double(i: Iteration) -> bool:
    return len(optimizers_of(i)) < len(i.steps)


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
OTHER_GROUPS_LEFT = Cause(
    "the schedule reaches only some of the parameter groups: the others keep the rate that the optimizer was made with",
    "for group in optimizer.param_groups: group['lr'] = lr, inside the loop, for each of them",
)
SCHEDULE_PAST_END = Cause(
    "the schedule goes on past its end, and the rate rises again: it was made for fewer steps, for epochs, say",
    "T_max = the number of scheduler.step() in all: optimizer steps, if it is stepped after each of them",
)
WARMUP_STARTS_ANEW = Cause(
    "warm-up starts anew: the rate rises, falls back at once to where it began, and rises again (it counts an epoch's steps, "
    "not all of them, or is made again in each)",
    "count all optimizer steps: step = epoch * steps_per_epoch + i, in warm-up too",
)
DECAY_MISSING = Cause(
    "the decay is missing: where warm-up ends, the rate falls to its minimum at once, and stays there (warm-up and a constant "
    "phase fill the whole training, or a default length was left in place)",
    "make the lengths of warm-up, constant phase and decay add up to the number of optimizer steps; plot the rates before "
    "training",
)
RATE_JUMPS = Cause(
    "the rate jumps where warm-up ends: it does not rise to the rate that comes next",
    "warm-up ends at the peak: lr = peak * step / warmup_steps, both counted in optimizer steps",
)
RATE_DROPS = Cause(
    "the rate loses more than half at once where warm-up ends: the decay does not begin at the peak that warm-up reaches",
    "the decay begins where warm-up ends: (step - warmup_steps) / (total_steps - warmup_steps), and has the same peak",
)
COUNTS_WARMUP = Cause(
    "the decay does not begin at the peak that warm-up reaches: the rate falls at once where warm-up ends, and slowly after "
    "that (the decay counts warm-up's steps, too)",
    "the decay begins where warm-up ends: (step - warmup_steps) / (total_steps - warmup_steps)",
)
COUNTS_MICRO_BATCHES = Cause(
    "the schedule's length is given in micro-batches, but the scheduler steps once per optimizer step: with k micro-batches a "
    "step, warm-up lasts k times too long, and training ends before the decay does",
    "total_steps = optimizer steps: epochs times batches, divided by the micro-batches of a step; warm-up likewise",
)
ENDS_AT_ZERO = Cause(
    "the rate reaches 0 before training ends: the last steps change nothing",
    "total_steps = all optimizer steps of the training: epochs times batches, divided by the micro-batches of a step",
)
RATE_BELOW_ZERO = Cause("a learning rate is negative: the step goes uphill", "check the schedule beyond its last step")


def rate(r: Run) -> Verdict:
    """The learning rate changes once for each optimizer step at most."""
    iterations = r.iterations
    if not iterations:
        return skipped(NO_OPTIMIZER)
    groups = [group for optimizer in r.watch.optimizers() for group in rates_of(r, optimizer)]
    ways = list(
        dict.fromkeys(
            f"{g[0]:.3g} in the first step seen{'' if g[0] else ', which changes nothing'}, {g[-1]:.3g} in the last"
            for g in groups
        )
    )
    evidence = ways[0] if len(ways) == 1 else f"by groups {' · '.join(ways)}" if ways else "no learning rate"
    if any(rate < 0 for group in groups for rate in group):
        return failed(RATE_BELOW_ZERO, evidence)
    if not sum(schedules(r)) and any(left_out_of_schedule(o, rates_of(r, o)) for o in r.watch.optimizers()):
        return failed(OTHER_GROUPS_LEFT, evidence)
    several = [i for i in iterations if len(i.backwards) > 1]
    micro = len(r.backwards) if len(several) > len(iterations) / 2 else 0
    ends = (
        {e for h in r.watch.kept.holders if is_scheduler(h) for e in [end_of(h, micro)] if e}
        if micro and is_whole(r)
        else set()
    )
    if ends == {micro} and sum(schedules(r)) > micro / 2:  # for each of them, and made for as many
        return passed(f"{evidence}; the scheduler steps for each micro-batch, and ends at the last of {micro}")
    inside = [i for i in several if len({b.rates for b in i.backwards}) > 1]
    if several and len(inside) == len(several):
        return failed(SCHEDULED_TOO_OFTEN, f"the rate changes between the micro-batches of a step; {evidence}")
    stepped = {id(s.optimizer.param_groups) for s in r.watch.of(Step)}
    mine = [h.optimizer.param_groups for h in r.watch.kept.holders if is_scheduler(h)]
    if mine and sum(schedules(r)) and not any(id(groups) in stepped for groups in mine):
        return failed(OTHER_SCHEDULER, evidence)
    counts = schedules(r)
    tries = [max(1, sum(is_mark(e, "scaler step") for e in i.between) // len(optimizers_of(i))) for i in iterations]
    often = [n for n, most in zip(counts, tries[1:], strict=False) if n > most]
    if len(often) > len(iterations) / 2:
        k = round(sum(len(i.backwards) for i in iterations) / len(iterations))
        cause = SCHEDULED_TOO_OFTEN if k > 1 and often[0] == k else SCHEDULED_SEVERAL_TIMES
        return failed(cause, f"scheduler.step() {often[0]} times between two optimizer steps; {evidence}")
    first = iterations[0]
    if counts and any(is_mark(e, "schedule") for e in (*first.before, *first.between)):
        return warned(SCHEDULED_FIRST, f"scheduler.step() came before the first optimizer.step(); {evidence}")
    cosines = [h for h in r.watch.kept.holders if type(h).__name__ == "CosineAnnealingLR"]
    if past := [h for h in cosines if h.last_epoch > h.T_max + 1 and any(a < b for g in groups for a, b in pairwise(g))]:
        evidence += f"; step {past[0].last_epoch} of a CosineAnnealingLR with T_max = {past[0].T_max}"
        return warned(SCHEDULE_PAST_END, evidence)
    if ends == {micro} and sum(schedules(r)) <= len(iterations):
        steps = number_of(len(iterations), "optimizer step")
        return warned(
            COUNTS_MICRO_BATCHES, f"it ends at step {micro}; training ends after {steps}, of {micro} micro-batches; {evidence}"
        )
    if problem := wrong_course(r, evidence):
        return problem
    once = f"; scheduler.step() {sum(counts)} times" if sum(counts) else ""
    return passed(evidence + once)


def is_whole(r: Run) -> bool:
    """Whether a whole training was seen, in one call, to its end."""
    return r.calls == 1 and r.ended == Run.ended


def end_of(scheduler: Any, micro: int) -> int | None:
    """Return the step at which a schedule has come down to its lowest rate; None if that is not known. It is looked for up to
    twice the number of micro-batches."""
    for name in ("T_max", "total_steps", "total_iters"):
        if isinstance(total := getattr(scheduler, name, None), int):
            return total
    course: list[float] = []
    with contextlib.suppress(Exception):
        course = [float(scheduler.lr_lambdas[0](n)) for n in range(2 * micro + 1)]
    later = course[course.index(max(course)) :] if course else []
    return len(course) - len(later) + later.index(min(later)) if later and min(later) < LOW_RATE * later[0] else None


def wrong_course(r: Run, evidence: str) -> Verdict | None:
    """Return what is wrong with how the rates run from step to step, whoever sets them. Cycles are meant."""
    if any("Cyc" in type(h).__name__ for h in r.watch.kept.holders if is_scheduler(h)):
        return None
    for course in courses(r):
        rates = [rate for rate, _ in groupby(course)]  # a rate may stay for an epoch
        if fallen := [n for n in rises(rates) if is_fallen_back(rates, n)]:
            n = fallen[0]
            peak, after = max(rates[: n + 1]), [rate for rate in rates[n + 1 :] if rate > max(rates[: n + 1])]
            more = f", and {after[0]:.3g} later" if after and len(fallen) > 1 else ""
            evidence = f"{number_of(len(fallen), 'time')} from {peak:.3g} back to {rates[n + 1]:.3g}{more}; {evidence}"
            return failed(WARMUP_STARTS_ANEW, evidence)
        for n in rises(rates):
            now, then, step = rates[n], rates[n + 1], max(b - a for a, b in pairwise(rates[n - WARMUP_RISES : n + 1]))
            if then > JUMP[0] * now and then - now > JUMP[1] * step and then > max(rates[: n + 1]):
                return warned(RATE_JUMPS, f"from {now:.3g} to {then:.3g} in one step, after steps of {step:.3g}; {evidence}")
            if then < now / 2 and now == max(rates) and not stays_at(course, rates, n):
                if len(rates) == n + 2 and course[-2] == then:
                    stays = f"from {now:.3g} to {then:.3g} in one step, and there it stays; {evidence}"
                    return warned(DECAY_MISSING, stays)
                return warned(RATE_DROPS, f"from {now:.3g} to {then:.3g} in one step; {evidence}")
            if now == max(rates) and begins_late(course, rates, n):
                last = next((k for k, rate in enumerate(reversed(course)) if rate != course[-1]), 0)
                stays = f", and {course[-1]:.3g} in all of the last {last} of {len(course)} steps" if last > 1 else ""
                return warned(COUNTS_WARMUP, f"from {now:.3g} to {then:.3g} in one step{stays}; {evidence}")
        low = rates.index(min(rates))
        turned = list(zip(rates[low::-1], rates[low:], strict=False))  # before the lowest, and after it
        n = next((n for n, (x, y) in enumerate(pairwise(turned), 1) if x[0] >= y[0] or x[1] >= y[1]), len(turned))
        turned = turned[:n]  # as long as both rise from it
        if n > WARMUP_RISES + 1 and rates[low] < LOW_RATE * max(rates) and mirrored(turned[WARMUP_RISES:]):
            return warned(
                SCHEDULE_PAST_END, f"it is {rates[low]:.3g} at the lowest, and {turned[-1][1]:.3g} after that; {evidence}"
            )
        zeros = len(course) - max((n for n, rate in enumerate(course, 1) if rate), default=len(course))
        if zeros > 1:
            return warned(ENDS_AT_ZERO, f"0 in the last {zeros} of {len(course)} steps; {evidence}")
    return None


def courses(r: Run) -> list[tuple[float, ...]]:
    """Return the learning rates, step by step, of each group of each optimizer: of one call, where a call takes several steps,
    as another call is another training."""
    found: dict[tuple, tuple[float, ...]] = {}
    steps = r.watch.of(Step)
    loops = len(steps) > len({(s.call, id(s.optimizer)) for s in steps})
    for optimizer in {id(s.optimizer): s.optimizer for s in steps}.values():
        for call in sorted({s.call for s in steps}) if loops else [None]:
            rates = [s.rates for s in steps if s.optimizer is optimizer and call in (None, s.call)]
            if rates and len({len(x) for x in rates}) == 1:
                found |= {course: course for course in zip(*rates, strict=True)}  # each course once
    return list(found.values())


def rises(rates: list[float]) -> list[int]:
    """Return where a rise of WARMUP_RISES or more ends, unless it is where the rates end."""
    up = [a < b for a, b in pairwise(rates)]
    return [n for n in range(WARMUP_RISES, len(up)) if all(up[n - WARMUP_RISES : n])]


def stays_at(course: tuple[float, ...], rates: list[float], n: int) -> bool:
    """Whether a rate stays where a rise ends, longer than it did in the rise: what follows is a phase of its own (a cliff)."""
    return course.count(rates[n]) > 2 * course.count(rates[n - 1])


def begins_late(course: tuple[float, ...], rates: list[float], n: int) -> bool:
    """Whether the rate falls from the end of a rise, where it did not stay, by far more than ever after: a smooth decay that is
    under way already."""
    later = [a - b for a, b in pairwise(rates[n + 1 :])]
    if len(later) < WARMUP_RISES or stays_at(course, rates, n) or min(later) < 0:
        return False
    return rates[n] - rates[n + 1] > max(DROP[0] * rates[n], DROP[1] * max(later))


def is_fallen_back(rates: list[float], n: int) -> bool:
    """Whether the rate falls, in one step, from the end of a rise to where the rise began, or below, and rises again."""
    begin = n
    while begin and rates[begin - 1] < rates[begin]:
        begin -= 1
    return rates[n + 1] <= rates[begin] * (1 + SAME_WEIGHT) < rates[n] and n + 2 < len(rates) and rates[n + 2] > rates[n + 1]


def mirrored(pairs: list[tuple[float, float]]) -> bool:
    """Whether rates rise as they fell before."""
    return all(math.isclose(a, b, rel_tol=MIRRORED) for a, b in pairs)


def rates_of(r: Run, optimizer: torch.optim.Optimizer) -> list[tuple[float, ...]]:
    """Return the learning rates of each parameter group of an optimizer, step by step; [] if groups were added meanwhile."""
    steps = [s.rates for s in r.watch.of(Step) if s.optimizer is optimizer]
    return list(zip(*steps, strict=True)) if len({len(rates) for rates in steps}) == 1 else []


def left_out_of_schedule(optimizer: torch.optim.Optimizer, groups: list[tuple[float, ...]]) -> bool:
    """Whether some groups' rates change, and others stay at what the optimizer was made with: a rate that is given to a group
    of its own may be meant to stay."""
    made_with = optimizer.defaults.get("lr")
    still = [group for group in groups if set(group) == {made_with}]
    return bool(still) and any(len(set(group)) > 1 for group in groups)


# ----- resumes

STARTS_ANEW = Cause(
    "what was loaded holds an optimizer's state, and the optimizer starts without one: only the model goes on where it was. "
    "Right where training begins anew",
    "optimizer.load_state_dict(checkpoint['optimizer']), once the optimizer is made; likewise of the scheduler and the scaler",
)
SCHEDULE_STARTS_ANEW = Cause(
    "what was loaded holds a scheduler's state, and the scheduler starts at 0: the rate begins again, with its warm-up",
    "scheduler.load_state_dict(checkpoint['scheduler'])",
)
PROGRESS = ("step", "epoch", "iter")  # in the keys of what says how far training had come


def resumes(r: Run) -> Verdict:
    """What was loaded of an optimizer and a scheduler is used, where training goes on."""
    steps = r.watch.of(Step)
    if not steps:
        return skipped(NO_OPTIMIZER)
    files = [
        (f, state_keys(f, ("state", "param_groups")), state_keys(f, ("last_epoch", "_step_count"))) for f in r.watch.opened
    ]
    moments = [(f, keys) for f, keys, _ in files if any(moments_in(f, key) for key in keys)]
    if not moments and not any(keys for _, _, keys in files):
        return skipped("no file that holds an optimizer's or a scheduler's state was loaded")
    first = list({id(s.optimizer): s for s in reversed(steps)}.values())  # of each optimizer
    if moments and not any(s.begun for s in first):
        content, keys = moments[-1]
        evidence = f"the file holds {listed([str(key) for key in content])[:200]}"
        goes_on = [k for k in content if k in content.read and (k in keys or any(w in str(k).lower() for w in PROGRESS))]
        others = bool(r.watch.filled) and not r.watch.filled & {id(p) for p in r.parameters.values()}  # a teacher's file
        if not goes_on or others:
            return passed(f"{evidence}; the optimizer's state in it is not used: right where training begins anew")
        was = content_at(content, keys[0])["param_groups"][0].get("lr", 0.0)
        return warned(
            STARTS_ANEW,
            f"{evidence}; read: {listed([str(k) for k in goes_on])}. The optimizer's first step has no state, and a rate "
            f"of {first[0].rates[0] if first[0].rates else 0:.3g} (saved: {float(was):.3g})",
        )
    last = [content_at(f, key)["last_epoch"] for f, _, keys in files for key in keys]
    anew = any(s.begun and s.counts and not any(s.counts) for s in first)
    if last and max(last) > 0 and anew:
        return warned(SCHEDULE_STARTS_ANEW, f"last_epoch was {max(last)} in the file, and is 0 before the first step")
    scheduled = last and any(s.counts for s in first)
    return passed(f"the optimizer{' and the scheduler go' if scheduled else ' goes'} on with what was loaded")


def state_keys(content: Mapping, names: tuple[str, ...]) -> list[Any]:
    """Return the keys of what a checkpoint holds that is a state with these names; None for the checkpoint itself."""
    keys = [None, *content.keys()]
    return [k for k in keys if isinstance(found := content_at(content, k), Mapping) and all(name in found for name in names)]


def content_at(content: Mapping, key: Any) -> Any:
    """Return what a checkpoint holds at a key, the first of several; itself at None. It does not count as read by that."""
    value = content if key is None else dict(content)[key]
    return value[0] if isinstance(value, list | tuple) and value else value


def moments_in(content: Mapping, key: Any) -> bool:
    return bool(content_at(content, key)["state"])


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
CLIPPED_EACH = Cause(
    "the gradient of each parameter is clipped by itself: the step's direction changes, and its norm may be √n times the limit",
    "clip_grad_norm_(model.parameters(), 1.0), once for all of them",
)
CLIPPED_NONE = Cause(
    "clipping was given no parameters, and clips nothing: a generator such as model.parameters() is empty once it was gone "
    "through (to compute the norm, say)",
    "give it list(model.parameters())",
)
CLIPPED_NOTHING = Cause(
    "clipping was given parameters without gradients (another model's, or an iterator that was used up)",
    "clip_grad_norm_(model.parameters(), 1.0)",
)


def clipped_before_all(i: Iteration) -> bool:
    """Whether gradients are clipped to which a later backward pass of the same step adds. Those of another model, which steps
    together with it, are not the same; nor are those that were cleared in between."""
    for n, clip in enumerate(i.between):
        if not isinstance(clip, Clip) or not clip.with_gradient:
            continue
        later = [b for b in i.backwards if b in i.between[n + 1 :]]
        later = later if later and later[0].before else []
        if any(id(p) in clip.clipped for b in later for f in b.forwards for p in f.module.parameters()):
            return True
    return False


def clipping(r: Run) -> Verdict:
    """Clipping sees the whole gradient, unscaled, before the step."""
    clips = r.watch.of(Clip)
    iterations = [i for i in r.iterations if i.backwards]
    if not clips or not iterations:
        return skipped("no torch.nn.utils.clip_grad_norm_ was seen" if iterations else NO_OPTIMIZER)
    if all(not e.clipped for e in clips):
        return failed(
            CLIPPED_NONE,
            f"{number_of(len(clips), 'clip')}, all of no parameter; norms {norms_of(clips)}, clipped to {clips[0].most:g}",
        )
    empty = [e for i in iterations for e in i.between if isinstance(e, Clip) and not e.with_gradient]
    if len(empty) > len(clips) / 2:
        return failed(CLIPPED_NOTHING, f"{len(empty)} of {number_of(len(clips), 'clip')} were given no gradient")
    several = [i for i in iterations if len(i.backwards) > 1]
    if early := [i for i in several if clipped_before_all(i)]:
        evidence = (
            f"in {len(early)} of {number_of(len(several), 'step')} of several backward passes, a clip is followed by another "
        )
        return failed(CLIPPED_PARTS, f"{evidence}backward pass into the same gradients; {number_of(len(clips), 'clip')} in all")
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
    alone = sum(clip.with_gradient == 1 for *_, clip in good)
    if alone == len(good) and len(good) > len(iterations):
        return warned(CLIPPED_EACH, f"{where}, each of a single parameter")
    return passed(f"{where}; norms {norms_of([clip for *_, clip in good])}, clipped to {good[0][2].most:g}")


def norms_of(clips: list[Clip]) -> str:
    norms = [clip.norm for clip in clips]
    return f"{min(norms):.3g} to {max(norms):.3g}"
