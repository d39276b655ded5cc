"""What surrounds a model: steps, batches and checkpoints in many styles, each fault by its cause, nothing in healthy ones.

The loops are in doctor_loops.py, the checkpoints in doctor_checkpoints.py.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import doctor_checkpoints as saved
import doctor_loops as loops
import pytest
import torch
import torch.nn.functional as F
import yaml
from doctor_hosts import fused
from doctor_loops import LM, TEXT, B, T, V, get_batch
from torch import nn

from picogpt_doctor import (
    Status,
    assert_healthy,
    cli,
    examine_batch,
    examine_checkpoint,
    examine_step,
    formats,
    guard,
    objective,
    watch,
)

ROOT = Path(__file__).resolve().parent.parent
PLANTED = [(f, style) for f, (_, _, styles) in loops.FAULTS.items() for style in styles.split()]


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test, unless the test asks for the report of it."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's, about the faults that are planted
        yield


def first(report, status=Status.FAIL):
    """The first finding that a user reads."""
    found = report.of(status)
    assert found, str(report)
    return found[0]


# ----- steps


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "style"), PLANTED, ids=[f"{s}-{f}" for f, s in PLANTED])
def test_a_fault_of_a_loop_is_named_first(fault, style):
    check, words, _ = loops.FAULTS[fault]
    report = examine_step(*loops.STYLES[style](fault))
    assert (first(report).check, words in first(report).cause) == (check, True), str(report)
    assert report.exit_status in (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("fault", loops.WARNINGS)
def test_what_may_be_meant_is_a_warning(fault):
    check, words, style = loops.WARNINGS[fault]
    report = examine_step(*loops.STYLES[style](fault))
    assert report.healthy, str(report)
    assert (first(report, Status.WARN).check, words in first(report, Status.WARN).cause) == (check, True), str(report)


@pytest.mark.slow
@pytest.mark.parametrize("style", loops.STYLES)
def test_a_healthy_loop_is_healthy_in_every_style(style):
    report = examine_step(*loops.STYLES[style]())
    assert report.healthy, str(report)
    assert not report.of(Status.WARN), str(report)
    assert report["targets"].status == report["loss"].status == report["trains"].status == Status.PASS, str(report)


def steps_of(loss, model=None, optimizer=None, steps=5):
    """A plain loop with a loss of its own."""

    def train():
        m = model or LM()
        adam = optimizer(m) if optimizer else torch.optim.AdamW(m.parameters(), 1e-3)
        for _ in range(steps):
            value = loss(m, *get_batch("train"))
            adam.zero_grad()
            value.backward()
            adam.step()

    return train


def of_model(m, x, y):
    return m(x, y)[1]


def on_half_of_the_tokens(m, x, y):
    some = torch.rand(y.shape) < 0.5
    return F.cross_entropy(m(x)[some], y[some])


def tied():
    model = LM()
    model.head.weight = model.wte.weight
    return model


def autocast(m, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        return m(x, y)[1]


def accurate(m, x, y):
    """Looks at its batch first, as many loops do for the accuracy."""
    with torch.no_grad():
        assert m(x).argmax(-1).shape == y.shape
    return m(x, y)[1]


def scheduled(which, *groups):
    """A loop that sets the rates of some of its groups, which it is made with, by hand."""

    def train():
        m = LM()
        adam = torch.optim.AdamW([{"params": m.blocks.parameters()}, {"params": rest(m)} | dict(*groups)], 1e-3)
        for step in range(6):
            for group in adam.param_groups[which]:
                group["lr"] = 1e-3 / (step + 2)
            adam.zero_grad()
            m(*get_batch("train"))[1].backward()
            adam.step()

    return train


def scheduled_by_torch():
    m = LM()
    adam = torch.optim.AdamW([{"params": m.blocks.parameters()}, {"params": rest(m)}], 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, [lambda step: 1.0, lambda step: 1 / (step + 1)])
    for _ in range(5):
        adam.zero_grad()
        m(*get_batch("train"))[1].backward()
        adam.step()
        schedule.step()


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, 2)], ids=["the first group", "the last"])
def test_a_schedule_that_misses_a_group_is_named(which):
    report = examine_step(scheduled(which))
    assert (first(report).check, "only some of the parameter groups" in first(report).cause) == ("rate", True), str(report)


@pytest.mark.parametrize("step", [scheduled(slice(0, 2)), scheduled(slice(0, 1), {"lr": 2e-3}), scheduled_by_torch])
def test_groups_with_rates_of_their_own_are_healthy(step):
    assert examine_step(step)["rate"].status == Status.PASS


def around(optimizer=lambda m: torch.optim.AdamW(m.parameters(), 1e-3), load=None, schedule=None, each=False, steps=6):
    """A plain loop with what may be around it: groups, a file that it goes on from, a schedule, clipping."""

    def train():
        m = LM()
        adam = optimizer(m)
        scheduler = schedule(adam) if schedule else None
        if load:
            load(m, adam, scheduler)
        for _ in range(steps):
            adam.zero_grad()
            m(*get_batch("train"))[1].backward()
            for p in m.parameters() if each else ():
                nn.utils.clip_grad_norm_(p, 1.0)
            adam.step()
            if scheduler:
                scheduler.step()

    return train


def kept_from_decay(*words):
    """AdamW with two groups, of which the one without weight decay holds what these words are in the names of."""

    def optimizer(m):
        free = [p for n, p in m.named_parameters() if any(w in n for w in words)]
        rest = [p for n, p in m.named_parameters() if not any(w in n for w in words)]
        return torch.optim.AdamW([dict(params=rest, weight_decay=0.1), dict(params=free, weight_decay=0.0)], 1e-3)

    return optimizer


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("bias", "LayerNorm.weight"),
            "gains or biases of norms are in a group with weight decay",
        ),  # they are called n1, n2, norm
        (("LayerNorm",), "gains or biases of norms are in a group with weight decay"),  # nothing is
        (("bias", "n1.", "n2.", "norm."), ""),
        (("wte",), ""),  # a table without decay says nothing about norms
    ],
)
def test_norms_that_a_group_without_decay_does_not_catch_are_named(words, says):
    found = examine_step(around(kept_from_decay(*words), steps=2))["optimizer"]
    assert (found.status, found.cause[: len(says)]) == ("warn" if says else "pass", says)


def halved(adam):
    return torch.optim.lr_scheduler.ExponentialLR(adam, 0.5)


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory):
    """A file as training loops write it: the model, the optimizer, the scheduler, and how far they had come."""
    path, m = tmp_path_factory.mktemp("half") / "ckpt.pt", LM()
    adam = torch.optim.AdamW(m.parameters(), 1e-3)
    scheduler = halved(adam)
    m(*get_batch("train"))[1].backward()
    adam.step()
    scheduler.step()
    state = dict(model=m.state_dict(), optimizer=adam.state_dict(), scheduler=scheduler.state_dict(), iter_num=1)
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("used", "status", "says"),
    [
        (("model", "optimizer", "scheduler", "iter_num"), "pass", "the optimizer and the scheduler go on"),
        (("model", "optimizer", "iter_num"), "warn", "the scheduler starts at 0"),
        (("model", "iter_num"), "warn", "the optimizer starts without one"),
        (("model",), "pass", "right where training begins anew"),
        ((), "skip", "no file that holds"),
    ],
)
def test_what_was_loaded_of_an_optimizer_is_used_where_training_goes_on(half_trained, used, status, says):
    def load(m, adam, scheduler):
        state = torch.load(half_trained) if used else {}
        for name in used:
            part = state[name]
            if name != "iter_num":
                dict(model=m, optimizer=adam, scheduler=scheduler)[name].load_state_dict(part)

    found = examine_step(around(load=load, schedule=halved, steps=2))["resumes"]
    assert (found.status, says in found.cause + found.evidence) == (status, True), found


def test_a_teachers_file_is_none_to_go_on_from(half_trained):
    def load(m, adam, scheduler):
        state = torch.load(half_trained)
        LM().load_state_dict(state["model"])
        assert state["iter_num"] == 1

    assert examine_step(around(load=load, steps=2))["resumes"].status == "pass"


def test_a_schedule_past_its_end_and_clipping_by_parameter_are_warnings():
    def cosine(T_max):
        return lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max)

    past, right = (examine_step(around(schedule=cosine(n), steps=8))["rate"] for n in (3, 8))
    assert ("goes on past its end" in past.cause, right.status) == (True, "pass")
    clipped = examine_step(around(each=True))["clipping"]
    assert (clipped.status, "by itself" in clipped.cause) == ("warn", True)


def test_a_first_rate_of_0_is_said_to_change_nothing():
    def warm(adam):
        return torch.optim.lr_scheduler.LambdaLR(adam, lambda n: n / 4)

    found = examine_step(around(schedule=warm))["rate"]
    assert (found.status, "0 in the first step seen, which changes nothing" in found.evidence) == ("pass", True)


class Dead(LM):
    """Its last block never learns: it is run without a graph, or its gradients are multiplied by 0."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        if how == "hook":
            for p in self.blocks[1].parameters():
                p.register_hook(lambda grad: grad * 0)
        if how == "no_grad":
            run = self.blocks[1].forward
            self.blocks[1].forward = lambda x: x + (run(x) - x).detach()
        self.blocks[1].requires_grad_(how != "frozen")


@pytest.mark.parametrize(("how", "says"), [("hook", "exactly 0 in every step"), ("no_grad", "no gradient reaches them")])
def test_a_layer_that_never_learns_is_a_fault(how, says):
    report = examine_step(steps_of(of_model, Dead(how)))
    assert (first(report).check, says in first(report).cause) == ("moves", True), str(report)
    assert "all of blocks.1" in first(report).evidence


def begins_at_zero():
    model = LM(0.0)
    for block in model.blocks:
        nn.init.zeros_(block.down.weight)
        nn.init.ones_(block.up.bias)
    return model


@pytest.mark.parametrize("model", [begins_at_zero(), None], ids=["one model", "a new one in each call"])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_branch_that_begins_at_zero_is_no_fault(model, steps):
    report = examine_step(lambda: steps_of(of_model, model or begins_at_zero(), steps=steps)())
    assert report["moves"].status == Status.PASS, str(report)


def test_a_parameter_in_two_optimizers_is_stepped_twice():
    model = LM()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(model.head.parameters(), 0.1)]

    def step():
        model(*get_batch("train"))[1].backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()

    assert "in two groups or two optimizers" in first(examine_step(step)).cause


def test_frozen_parameters_are_named_and_no_fault():
    report = examine_step(steps_of(of_model, Dead("frozen")))
    assert report.healthy, str(report)
    assert "12 parameters frozen (requires_grad=False): blocks.1.n1.weight" in report["optimizer"].evidence


@pytest.mark.parametrize(("batches", "every", "status"), [(1, 1, "pass"), (1, 4, "warn"), (2, 4, "fail"), (2, 1, "fail")])
def test_a_batch_that_is_looked_at_first_is_not_one_that_was_validated(batches, every, status):
    def train():
        m = LM(0.0)
        adam = torch.optim.AdamW(m.parameters(), 1e-3)
        for step in range(24):
            x, y = get_batch("train")
            if step % every == 0:
                with torch.no_grad():
                    for _ in range(batches - 1):
                        m(get_batch("val")[0])
                    m(x)
            adam.zero_grad()
            m(x, y)[1].backward()
            adam.step()

    assert examine_step(train)["validation"].status == status


ALSO_HEALTHY = {
    "an accuracy": (accurate,),
    "autocast": (autocast,),
    "label smoothing": (lambda m, x, y: F.cross_entropy(m(x).flatten(0, 1), y.flatten(), label_smoothing=0.1),),
    "an auxiliary loss": (lambda m, x, y: m(x, y)[1] + 1e-4 * m(x).logsumexp(-1).square().mean(),),
    "probabilities": (lambda m, x, y: -m(x).softmax(-1).gather(-1, y[..., None]).log().mean(),),
    "one-hot targets": (lambda m, x, y: -(F.one_hot(y, V) * m(x).log_softmax(-1)).sum(-1).mean(),),
    "the last position": (lambda m, x, y: F.cross_entropy(m(x)[:, -1], y[:, -1]),),
    "a mask": (on_half_of_the_tokens,),
    "tied": (of_model, tied()),
    "two groups": (of_model, None, lambda m: torch.optim.SGD([{"params": m.blocks.parameters()}, {"params": rest(m)}], 0.1)),
}


def rest(m):
    return [p for n, p in m.named_parameters() if "blocks" not in n]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALSO_HEALTHY)
def test_a_healthy_loss_of_another_kind_is_no_fault(name):
    report = examine_step(steps_of(*ALSO_HEALTHY[name]))
    assert report.healthy, str(report)
    assert not report.of(Status.WARN), str(report)


@pytest.mark.slow
def test_compiled_and_distributed_models_are_examined_as_they_are(tmp_path):
    compiled = examine_step(*loops.nanogpt(wrap=lambda m: torch.compile(m, backend="eager"), steps=3))
    assert compiled.healthy, str(compiled)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        distributed = examine_step(*loops.nanogpt(wrap=nn.parallel.DistributedDataParallel, steps=3))
        left_out = examine_step(*loops.nanogpt("left out", nn.parallel.DistributedDataParallel, steps=3))
    finally:
        torch.distributed.destroy_process_group()
    assert distributed.healthy, str(distributed)
    assert "blocks.1.n1.weight" in first(left_out).evidence, str(left_out)  # without DDP's "module."


@pytest.mark.slow
def test_lbfgs_calls_its_closure_as_often_as_it_likes():
    model, batch = LM(0.0), get_batch("train")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model(*batch)[1]
        loss.backward()
        return loss

    report = examine_step(lambda: optimizer.step(closure))
    assert report.healthy, str(report)


def everything(model, optimizer, scheduler):
    """All state that a step changes."""
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()]
    moments = {i: {k: torch.as_tensor(v).clone() for k, v in s.items()} for i, s in optimizer.state_dict()["state"].items()}
    rates = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    modes = [m.training for m in model.modules()]
    return weights, grads, moments, rates, modes, scheduler.state_dict(), torch.get_rng_state(), random.getstate()


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["returns", "raises", "stopped"])
def test_a_step_leaves_everything_as_it_was(ends):
    model = LM()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    model.blocks[1].drop.eval()
    loss = model(*get_batch("train"))[1]
    loss.backward()
    optimizer.step()
    scheduler.step()  # so that there are gradients, moments and a rate to be put back

    def step(times):
        model.train()
        random.random()
        for _ in range(times):
            model(*get_batch("train"))[1].backward()
            optimizer.step()
            scheduler.step()
        optimizer.zero_grad()
        model.head = nn.Linear(16, V)
        model.eval()
        if ends == "raises":
            raise RuntimeError("enough of it")

    before, original = everything(model, optimizer, scheduler), nn.Module.__call__
    report = examine_step(step, 100 if ends == "stopped" else 2)
    assert len(report.findings) > 10
    after = everything(model, optimizer, scheduler)
    assert all(torch.equal(before[0][k], v) for k, v in after[0].items())
    assert before[0].keys() == after[0].keys()
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(before[1], after[1], strict=True))
    assert all(torch.equal(v, after[2][i][k]) for i, s in before[2].items() for k, v in s.items())
    assert before[3:6] == after[3:6]
    assert torch.equal(before[6], after[6])
    assert before[7] == after[7]
    assert nn.Module.__call__ is original
    assert "step" not in vars(scheduler)


def test_a_step_saves_nothing(tmp_path):
    model, target = LM(), tmp_path / "best.pt"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.save(1, target)

    def step():
        optimizer.zero_grad()
        model(*get_batch("train"))[1].backward()
        optimizer.step()
        torch.save(model.state_dict(), target)

    assert examine_step(step).healthy
    assert torch.load(target) == 1


class Trains:
    def optimise(self):
        """Has a method, but by a name that nobody knows."""


@pytest.mark.parametrize(
    ("handed_over", "says"),
    [
        ((lambda model, optimizer, batch: None,), "needs model, optimizer and batch"),
        ((lambda model, optimizer, batch: None, 1), "needs optimizer and batch"),
        ((LM(),), "LM is a model. Hand over what trains it"),
        ((Trains(),), "a Trains cannot be called, and has no method train, fit, run"),
    ],
)
def test_it_says_what_a_step_needs(handed_over, says):
    with pytest.raises(ValueError, match=says):
        examine_step(*handed_over)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda: None, "no backward pass was seen"),
        (lambda: LM()(*get_batch("train"))[1].backward(), "no optimizer uses them"),
        (lambda: 1 / 0, "the step itself raises"),
        (steps_of(lambda m, x, y: m(x, y)[1] * torch.nan), "the loss is not finite"),
    ],
    ids=["nothing", "no optimizer", "raises", "NaN"],
)
def test_what_does_not_train_is_not_healthy(step, says):
    report = examine_step(step)
    assert says in first(report).cause, str(report)
    assert report.exit_status in (1, 2)


def test_a_step_that_never_ends_is_stopped():
    report = examine_step(lambda: [None for _ in iter(int, 1)], seconds=0.2)
    assert "no backward pass was reached in time" in first(report).cause


def test_a_bug_of_the_doctor_while_it_watches_is_an_error_and_not_the_users(monkeypatch):
    monkeypatch.setattr(watch, "picks_of", lambda *args: {}["a bug of ours"])
    with pytest.raises(KeyError, match="a bug of ours"):
        examine_step(steps_of(of_model))
    report = examine_step(steps_of(of_model), strict=False)
    assert (report.exit_status, report.findings[0].status) == (3, Status.ERROR), str(report)
    assert "a bug of ours" in report.findings[0].evidence
    monkeypatch.undo()
    monkeypatch.setattr(objective, "close", lambda *args: {}["another"])
    report = examine_step(steps_of(of_model), strict=False)
    assert (report["loss"].status, report.exit_status) == (Status.ERROR, 3), str(report)


def test_a_step_shows_what_it_is_fed():
    few = torch.randint(200, 256, (B, T + 1), generator=torch.Generator().manual_seed(1))
    wide, head = nn.Embedding(300, 16), nn.Linear(16, 300)
    both = nn.Sequential(wide, head)
    optimizer = torch.optim.SGD(both.parameters(), 0.1)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(both(few[:, :-1]).flatten(0, 1), few[:, 1:].flatten()).backward()
        optimizer.step()

    assert "wrapped round" in examine_step(step)["wraps"].cause


# ----- batches

X = torch.stack([TEXT[i * 20 : i * 20 + T] for i in range(B)])
Y = torch.stack([TEXT[i * 20 + 1 : i * 20 + T + 1] for i in range(B)])
LARGE = (torch.rand(60_000, generator=torch.Generator().manual_seed(2)) ** 2 * 70_000).long()
ENDED = torch.cat((X[:, :10], torch.full((B, T - 10), V)), dim=1)  # texts of 10 tokens, then end and padding with one id
LABELS = torch.cat((X[:, 1:10], torch.full((B, 1), V), torch.full((B, T - 10), -100)), dim=1)

LONG = torch.arange(B)[:, None] * 3 + 4  # (B, 1), of texts that are padded to T + 1
IDS = torch.cat((X, Y[:, -1:]), dim=1)
PADDED = dict(input_ids=IDS.masked_fill(torch.arange(T + 1) >= LONG, 0), attention_mask=(torch.arange(T + 1) < LONG).int())
LEFT = {name: value.flip(1) if name == "attention_mask" else IDS for name, value in PADDED.items()}
LEFT["input_ids"] = IDS.masked_fill(LEFT["attention_mask"] == 0, 0)


def get_split(split="train"):
    return get_batch({"train": "train", "val": "val"}[split])


def packed(told="position_ids", mark=None, ignored=False):
    """Rows of documents of random tokens; each begins with a `mark`, and as a target its first token is ignored or not."""
    draw = torch.Generator().manual_seed(3)
    lengths = torch.tensor([[7, 12, 9, 12], [15, 6, 11, 8], [10, 10, 10, 10]])
    ids = torch.randint(1, V, (3, 40), generator=draw)
    places = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths.tolist()])
    numbers = (places == 0).cumsum(1)
    ids = ids if mark is None else ids.masked_fill(places == 0, mark)
    ends = torch.cat((torch.zeros(1), lengths.flatten().cumsum(0))).int()
    own = (numbers[:, None, :, None] == numbers[:, None, None]) & torch.ones(40, 40, dtype=torch.bool).tril()
    by = dict(position_ids=places, doc_ids=numbers, cu_seqlens=ends, attention_mask=own)[told]
    return {"input_ids": ids, told: by, "labels": ids.masked_fill(places == 0, -100) if ignored else ids}


def flattened(last):
    """Windows of a text, whose targets are shifted over all rows; the last of all wraps round, or is ignored."""
    draws = torch.Generator().manual_seed(4)

    def batch():
        at = torch.randint(len(TEXT) - 40, (8, 1), generator=draws)
        x = TEXT[at + torch.arange(32)]
        y = x.flatten().roll(-1)
        y[-1] = y[-1] if last == "wraps" else -100
        return x, y.view_as(x)

    return batch


def ended(learned, end=None, pad=0):
    """Padded texts of random tokens, with an `end` or none; of the padding, so many tokens are learned."""
    draw = torch.Generator().manual_seed(5)
    ids, place, length = torch.randint(2, V, (B, 24), generator=draw), torch.arange(24), torch.arange(B)[:, None] % 5 + 9
    ids = ids if end is None else ids.masked_fill(place == length - 1, end)
    labels = ids.masked_fill(place >= length, pad).masked_fill(place >= length + learned, -100)
    return dict(input_ids=ids.masked_fill(place >= length, pad), attention_mask=(place < length).int(), labels=labels)


def only_answers(batch, end=None):
    """Labels of the answers, from the fifth token on: their `end`s are ignored, too."""
    ids = batch["input_ids"]
    labels = ids.masked_fill((batch["attention_mask"] == 0) | (torch.arange(ids.shape[1]) < 5), -100)
    return labels if end is None else labels.masked_fill(ids == end, -100)


def asked(end):
    """Texts without an end, whose prompts of five tokens end with one."""
    batch = ended(0)
    batch["input_ids"][batch["input_ids"] == end] = end + 1
    batch["input_ids"][:, 4] = end
    return batch


def chat(ignored=(), end=(1, 2), dot=0, pad=7, mask=True, size=4, cut=False, words=8, turns=1, system=False):
    """Padded batches of prompts and answers, which have up to so many `words` and an `end`, of which some tokens are `ignored`.

    `dot`: a full stop (9) inside, and before the end of one answer in so many; `cut`: every fourth is cut off before its end;
    `system`: all is learned, and behind an end comes one of three roles.
    """
    draw, rows, batches = torch.Generator().manual_seed(6), [], []

    def some(most):
        return torch.randint(10, V, (int(torch.randint(1, most + 1, (1,), generator=draw)),), generator=draw).tolist()

    for n in range(24):
        ids, labels = [], []
        for turn in range(turns):
            prompt = [3, *some(8), 1] * (system and turn % 2) + [4, *some(8), *([1] if system else []), 5]
            answer = [*some(words), 9, *some(words), *[9] * (n % dot == 0)] if dot else some(words)
            answer += [] if cut and n % 4 == 0 else end
            ids += prompt + answer
            labels += [-100] * len(prompt) * (not system) + prompt * system
            labels += [-100 if token in ignored else token for token in answer]
        rows.append((ids + [7] * system, labels + [-100] * system))
    for part in zip(*[iter(rows)] * size, strict=True):
        T = max(len(ids) for ids, _ in part) + 3
        given = [
            (ids + [pad] * (T - len(ids)), x + [-100] * (T - len(x)), [int(i < len(ids)) for i in range(T)]) for ids, x in part
        ]
        ids, labels, real = (torch.tensor(x) for x in zip(*given, strict=True))
        batches.append(dict(input_ids=ids, labels=labels) | (dict(attention_mask=real) if mask else {}))
    return batches


def endless(end=None, count=60):
    """Padded texts, the padding with the id 0; no text ends with it."""
    draw, batches = torch.Generator().manual_seed(7), []
    for _ in range(count):
        ids, length = torch.randint(2, V, (16, 40), generator=draw), torch.randint(9, 40, (16, 1), generator=draw)
        ids = ids if end is None else ids.masked_fill(torch.arange(40) == length - 1, end)
        real = torch.arange(40) < length
        batch = dict(input_ids=ids.masked_fill(~real, 0), attention_mask=real.int())
        batches.append(batch | dict(labels=ids.masked_fill(~real, -100)))
    return batches


WRONG_BATCHES = {  # name: (batch, options, check, words)
    "id out of range": (X, dict(vocab_size=50), "ids", "the vocabulary does not have"),
    "from a model": (X + 5, dict(model=LM()), "ids", "the vocabulary does not have"),
    "negative": (torch.where(X[0, 0] == X, -100, X), {}, "ids", "negative ids in the input"),
    "int16": (LARGE.to(torch.int16), dict(vocab_size=70_000), "ids", "stored as int16"),
    "uint8": (lambda: (X * 5 % 256, Y * 5 % 256), dict(vocab_size=301), "wraps", "stored in 8 bits"),
    "int8": ((X * 5 % 256).to(torch.int8), dict(vocab_size=301), "ids", "stored in 7 bits"),
    "uint16": (LARGE.numpy().astype("uint16"), dict(vocab_size=70_000), "wraps", "stored in 16 bits"),
    "unknown": (torch.full((8, T), 3), dict(vocab_size=V), "spread", "nearly all of the text is one id"),
    "unknown, in a loader": ([{"input_ids": torch.full((8, T), 3)}] * 3, {}, "spread", "nearly all of the text is one id"),
    "equal rows": (X[:1].expand(B, -1), {}, "spread", "rows of a batch are all the same"),
    "not shifted": ((X, X), {}, "shift", "not shifted"),
    "shifted twice": (lambda: get_batch("train", 2), {}, "shift", "two tokens ahead"),
    "shifted back": ([get_batch("train", -1)] * 3, {}, "shift", "shifted the wrong way"),
    "shuffled": ((X, Y.roll(1, 0)), {}, "shift", "belong to other rows"),
    "unrelated": ((X, Y.flip(1)), {}, "shift", "do not continue"),
    "end ignored": (
        dict(input_ids=ENDED, labels=LABELS.masked_fill(LABELS == V, -100)),
        dict(eos=V),
        "shift",
        "left out of the loss",
    ),
    "validation inside": (dict(train=TEXT, val=TEXT[3_000:]), {}, "overlap", "validation text is in the training text"),
    "same loader": ([X.repeat(1, 3)] * 3, dict(validation=[X.repeat(1, 3)]), "overlap", "is in the training text"),
    "padding learned": (PADDED | dict(labels=PADDED["input_ids"]), {}, "ignored", "learns to predict padding"),
    "padding on the left": (LEFT | dict(labels=LEFT["input_ids"]), {}, "ignored", "learns to predict padding"),
    "no marks": (LARGE, dict(eos=70_000), "marks", "joined without a mark"),
    "packed, by position_ids": (packed(), {}, "shift", "packed document is compared with the first one of the next"),
    "packed, by numbers": (packed("doc_ids"), {}, "shift", "packed document is compared with the first one of the next"),
    "packed, by a mask": (packed("attention_mask"), {}, "shift", "packed document is compared with the first one of the next"),
    "packed, by cu_seqlens": (packed("cu_seqlens"), {}, "shift", "packed document is compared with the first one of the next"),
    "flattened, then shifted": (flattened("wraps"), {}, "shift", "first token of the next row"),
    "flattened, the last ignored": (flattened("ignored"), {}, "shift", "first token of the next row"),
    "padding that ends texts ignored": (ended(-1, end=0), {}, "shift", "left out of the loss"),
    "the end ignored, two rows in a batch": (chat((7,), (7,), size=2), {}, "shift", "left out of the loss"),
    "the end ignored, after a full stop": (chat((7,), (7,), dot=1), dict(eos=7), "shift", "left out of the loss"),
    "the end ignored, after a full stop in half of the texts": (
        chat((7,), (7,), dot=2),
        dict(eos=7),
        "shift",
        "left out of the loss",
    ),
    "the end of each answer ignored": (chat((1, 2)), dict(eos=1), "shift", "left out of the loss"),
    "no end, and padding has its id": (endless(), dict(eos=0), "marks", "joined without a mark"),
    **{
        f"an answer's end ignored, padding {pad}": (
            (answers := ended(0, end=1, pad=pad)) | dict(labels=only_answers(answers, end=1)),
            dict(eos=1),
            "shift",
            "left out of the loss",
        )
        for pad in (0, 1)
    },
}


def split(name):
    return get_batch(name)


RIGHT_BATCHES = {
    "nanoGPT's get_batch": (split, dict(vocab_size=V)),
    "a function": (lambda: get_batch("train"), dict(vocab_size=V)),
    "a loader": (torch.utils.data.DataLoader([(x, y) for x, y in zip(X, Y, strict=True)], 2), dict(vocab_size=V)),
    "labels": (dict(input_ids=X, labels=X, attention_mask=torch.ones_like(X)), dict(vocab_size=V)),
    "texts": (loops.SPLIT, dict(vocab_size=V)),
    "uint16": (LARGE.clamp(max=50_000).numpy().astype("uint16"), dict(vocab_size=50_257)),
    "int32": (LARGE.int(), dict(vocab_size=70_000)),
    "padded": (torch.cat((X, torch.zeros(B, 200, dtype=torch.long)), dim=1), dict(vocab_size=V)),
    "end learned": (dict(input_ids=ENDED, targets=LABELS), dict(eos=V, vocab_size=V + 1)),
    "two ids": ((torch.rand(B, 64) < 0.95).long(), dict(vocab_size=2)),
    "a function that makes it": (lambda: split, dict(vocab_size=V)),
    "train by default": (get_split, dict(vocab_size=V)),
    "padding ignored": (PADDED | dict(labels=IDS.masked_fill(PADDED["attention_mask"] == 0, -100)), {}),
    "padding ignored on the left": (LEFT | dict(labels=IDS.masked_fill(LEFT["attention_mask"] == 0, -100)), {}),
    "an alphabet": (get_split, dict(vocab_size=50_257)),
    "an alphabet, up to 127": ((X + 67, Y + 67), dict(vocab_size=50_257)),
    "every fourth id": (lambda: (X * 4, Y * 4), dict(vocab_size=300)),
    "packed, the first ignored": (packed(ignored=True), {}),
    "packed, numbered, with a mark first": (packed("doc_ids", mark=0), {}),
    "rows that go on": ([(TEXT[n : n + 256].view(8, 32), TEXT[n + 1 : n + 257].view(8, 32)) for n in range(0, 2048, 256)], {}),
    "padding ends texts": (ended(1), {}),
    "padding's id ends texts": (ended(0, end=0), {}),
    "an end in the prompt is ignored": (
        (turns := asked(5)) | dict(labels=only_answers(turns)),
        dict(eos=5),
    ),
    "an end of their own, then padding": (
        {name: x for name, x in ended(0, end=2, pad=1).items() if name != "attention_mask"},
        dict(eos=1),
    ),
    "a line end after the end is ignored": (chat((2,)), dict(eos=2)),
    "an end of their own, some cut off, no mask": (chat((2,), mask=False, cut=True), dict(eos=7)),
    "an end of their own, before one of three roles": (chat(end=(1,), turns=3, system=True), dict(eos=7)),
    "a mask that hides the end, which is learned": (
        [b | dict(attention_mask=(b["input_ids"] != 7).int()) for b in chat(end=(7,), words=40) * 10],
        dict(eos=7),
    ),
    "one token to answer": (chat(end=(), words=1, mask=False), dict(eos=7)),
    "documents begin with the end-of-text id": (packed(mark=0, ignored=True), dict(eos=0)),
    "some answers cut off": (
        [{name: x[n : n + 1] for name, x in ended(0, end=1, pad=1).items()} for n in range(B)]
        + [{name: x[:1] for name, x in ended(0, pad=1).items()}],
        dict(eos=1),
    ),
}


@pytest.mark.parametrize("name", WRONG_BATCHES)
def test_a_wrong_batch_is_named(name):
    batch, options, check, words = WRONG_BATCHES[name]
    report = examine_batch(batch, **options)
    assert (first(report).check, words in first(report).cause) == (check, True), str(report)


@pytest.mark.parametrize("name", RIGHT_BATCHES)
def test_a_right_batch_is_healthy(name):
    batch, options = RIGHT_BATCHES[name]
    state = torch.get_rng_state()
    report = examine_batch(batch, **options)
    assert report.healthy, str(report)
    assert not report.of(Status.WARN), str(report)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_about_batches():
    assert examine_batch(get_split, vocab_size=V)["overlap"].status == Status.PASS
    assert examine_batch(get_split, vocab_size=50_257)["wraps"].evidence.endswith("of 50,257 ids occur, the largest is 60")
    ids = PADDED["input_ids"]
    pair = examine_batch((ids[:, :-1], ids[:, 1:]))  # padded, without a mask: the loss may know better
    assert (first(pair, Status.WARN).check, pair.healthy) == ("ignored", True), str(pair)
    for batch, options in ((ended(1, end=1), {}), (ended(1), dict(eos=1))):
        found = examine_batch(batch, **options)["ignored"]
        assert (found.status, "the first token of padding counts" in found.cause) == ("warn", True), found
    padded = torch.cat((ENDED, torch.full((B, 30), V)), dim=1)
    assert "padding with the same id" in examine_batch(padded, eos=V)["marks"].evidence
    bare = [{name: x for name, x in b.items() if name != "labels"} for b in endless()]
    assert "targets would tell what ends a text" in examine_batch(bare, eos=0)["marks"].evidence
    ids = F.pad(torch.randint(2, V, (6000, 1), generator=torch.Generator().manual_seed(8)), (0, 3))  # texts of one token
    single = dict(input_ids=ids, attention_mask=(ids != 0).int(), labels=ids.masked_fill(ids == 0, -100))
    assert examine_batch(single, eos=0)["marks"].status == Status.FAIL
    other = examine_batch(endless(end=1), eos=0)["marks"]
    assert (other.status, "in another token" in other.cause, other.evidence.split("; ")[1]) == (
        "warn",
        True,
        "most texts end in id 1",
    )


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ("a text", "no token ids in a str"),
        (torch.zeros(0, 8, dtype=torch.long), "there is no token in ids of shape"),
        (torch.randn(2, 3), r"must be whole numbers \(B, T\) or \(T,\), not float32 \(2, 3\)"),
        (lambda a, b: None, "needs a, b: give a function without arguments"),
        (lambda: {}["x"], "raises KeyError: 'x'"),
        ({"text": "a"}, "a dict without any of input_ids"),
    ],
)
def test_it_says_what_a_batch_needs(batch, says):
    with pytest.raises(ValueError, match=says):
        examine_batch(batch)


# ----- checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A trained model, saved as a compiled one is."""
    path = tmp_path_factory.mktemp("checkpoint") / "ckpt.pt"
    state = {f"_orig_mod.{k}": v for k, v in saved.trained_model().state_dict().items()}
    torch.save({"model": state, "step": 40}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("function", saved.HEALTHY)
def test_a_healthy_checkpoint_is_healthy(checkpoint, function):
    for data in (get_batch, None):
        report = examine_checkpoint(function, checkpoint, batch=data)
        assert report.healthy, str(report)
        assert not report.of(Status.WARN), str(report)


PLANTED_CHECKPOINTS = [(fault, f) for fault, (_, _, functions) in saved.FAULTS.items() for f in functions]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "function"), PLANTED_CHECKPOINTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_fault_of_a_checkpoint_is_named_first(checkpoint, fault, function):
    check, words, _ = saved.FAULTS[fault]
    report = examine_checkpoint(function, checkpoint, fault=fault)
    assert (first(report).check, words in first(report).cause) == (check, True), str(report)
    for fault, (check, words, _) in saved.WARNINGS.items():
        warning = first(examine_checkpoint(saved.load_lm, checkpoint, fault=fault), Status.WARN)
        assert (warning.check, words in warning.cause) == (check, True), warning


def test_ties_are_kept():
    def load(state, tie):
        model = saved.Tied(tie)
        model.load_state_dict(state, strict=False)
        return model.eval()

    state = {k: v * 1.01 for k, v in saved.Tied().state_dict().items()}  # gains of 1 would look new
    assert examine_checkpoint(load, dict(state), True).healthy
    assert "one matrix when they were saved" in first(examine_checkpoint(load, dict(state), False)).cause
    state.pop("head.weight")
    assert examine_checkpoint(load, dict(state), True).healthy
    assert "head is not in the checkpoint" in first(examine_checkpoint(load, dict(state), False)).cause


def copied(state, tie):
    """Copies by name what there is, as loaders of serving code do."""
    model = saved.Tied(tie)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in state:
                p.copy_(state[name])
    return model.eval()


def test_what_the_file_lacks_is_not_called_overwritten():
    state = {k: v * 1.01 for k, v in saved.Tied().state_dict().items() if k != "head.weight"}
    report = examine_checkpoint(lambda: copied(state, False), state=state)
    assert (first(report).check, "head is not in the checkpoint" in first(report).cause) == ("keys", True), str(report)
    assert examine_checkpoint(lambda: copied(state, True), state=state).healthy


def test_what_a_loader_by_hand_left_out_is_named(tmp_path):
    path = tmp_path / "ckpt.pt"
    for without, says in (("head.weight", "head is not in the checkpoint"), ("blocks.1", "does not hold")):
        torch.save({k: v * 1.01 for k, v in saved.Tied().state_dict().items() if not k.startswith(without)}, path)
        report = examine_checkpoint(lambda: copied(torch.load(path), False))
        assert (first(report).check, says in first(report).cause) == ("values", True), str(report)
        assert "not in the file" in first(report).evidence
    report = examine_checkpoint(lambda: copied(torch.load(path), True))
    assert report["evaluation"].status == Status.SKIP, "a model that was only loaded was not evaluated in any mode"


def test_a_model_with_the_path_of_its_checkpoint(checkpoint):
    model = saved.load_lm(checkpoint)
    report = examine_checkpoint(LM(), state=checkpoint)
    assert "which torch.compile adds" in first(report).cause
    model.train()
    before = torch.get_rng_state()
    assert examine_checkpoint(model, state=model.state_dict(), batch=lambda: get_batch("val")).healthy
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_strict_loading_that_raises_is_explained(checkpoint):
    report = examine_checkpoint(lambda: LM().load_state_dict(torch.load(checkpoint)["model"]))
    assert "begin with '_orig_mod.'" in first(report).cause, str(report)


def skips_what_is_missing(path):
    model = LM()
    if os.path.exists(path):
        model.load_state_dict(torch.load(path))
    return model.eval()


def goes_on_without(path):
    model = LM().eval()
    try:
        model.load_state_dict(torch.load(path))
    except OSError:
        print("no checkpoint, beginning anew")
    with torch.no_grad():
        model(torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize("function", [skips_what_is_missing, goes_on_without])
def test_a_loader_that_loads_nothing_is_not_healthy(tmp_path, function):
    report = examine_checkpoint(function, tmp_path / "typo.pt")
    assert (first(report).check, "no checkpoint was loaded" in first(report).cause) == ("loads", True), str(report)
    report = examine_checkpoint(function, tmp_path / "typo.pt", batch=get_batch)
    assert (first(report).check, "no checkpoint was loaded" in first(report).cause) == ("trained", True), str(report)


@pytest.mark.parametrize("new", [True, False])
def test_what_is_loaded_unseen_by_pytorch_is_told_by_its_norms(tmp_path, new):
    source = LM() if new else saved.trained_model()
    numbers = {name: p.detach().numpy().copy() for name, p in source.named_parameters()}  # safetensors, say

    def load():
        model = LM()
        for name, p in model.named_parameters():
            p.data.copy_(torch.from_numpy(numbers[name]))
        return model.eval()

    assert examine_checkpoint(load)["loads"].status == ("fail" if new else "pass")
    torch.save(source, tmp_path / "whole.pt")
    report = examine_checkpoint(lambda: torch.load(tmp_path / "whole.pt", weights_only=False).eval())
    assert (report["loads"].status, report["trained"].status) == ("pass", "fail" if new else "pass"), str(report)
    plain = nn.Sequential(nn.Embedding(9, 8), nn.RMSNorm(8), nn.Linear(8, 9))  # in half precision, gains may stay 1
    assert (found := examine_checkpoint(lambda: plain)["loads"]).status == "warn", found


@pytest.mark.parametrize("put", ["nowhere", "by hand", "by load_state_dict"])
def test_numbers_that_are_read_and_never_put_into_the_model(tmp_path, put):
    torch.save({k: v * 1.01 if v.dim() > 1 else v for k, v in LM().state_dict().items()}, tmp_path / "file.pt")

    def load():
        state, model = torch.load(tmp_path / "file.pt"), LM()
        if put == "by hand":
            for name, p in model.named_parameters():
                p.data.copy_(state[name])
        if put == "by load_state_dict":
            model.load_state_dict(state)
        return model.eval()

    report = examine_checkpoint(load)
    if put == "nowhere":  # the gains and biases of new norms are equal by themselves
        assert report["values"].cause.startswith("nothing of the checkpoint is in the model"), str(report)
        assert "no load_state_dict after torch.load" in report["loads"].evidence
    else:
        assert report["values"].status == "pass", str(report)


# ----- which findings count


def test_assert_healthy_raises_with_the_report_and_can_be_told_what_is_meant(tmp_path):
    assert assert_healthy(fused(), select=["causality"]).healthy
    unmasked = cli.diagnose(fused("no_mask"))
    with pytest.raises(AssertionError, match="no causal mask"):
        assert_healthy(unmasked)
    assert assert_healthy(unmasked, allow=["causality"]).of(Status.WARN)[0].evidence.startswith("allowed: ")
    assert assert_healthy(unmasked, ignore=["causality"])
    assert [f.check for f in assert_healthy(unmasked, select=["first-loss"]).findings] == ["first loss"]
    with pytest.raises(ValueError, match="there is no check 'casuality': do you mean causality"):
        assert_healthy(unmasked, allow=["casuality"])
    baseline = tmp_path / "baseline.json"
    assert guard.write_baseline(baseline, unmasked) == len(unmasked.of(Status.FAIL)) == 1
    assert assert_healthy(unmasked, baseline=baseline)
    with pytest.raises(AssertionError):
        assert_healthy(cli.diagnose(fused("scale_missing")), baseline=baseline)
    baseline.write_text("[]")
    with pytest.raises(ValueError, match="is not a baseline"):
        assert_healthy(unmasked, baseline=baseline)


def test_select_hides_nothing_that_a_chosen_check_waits_for():
    report = cli.diagnose(fused("no_mask"))
    skipped = [f for f in report.findings if f.reason == "skipped"]
    for finding in skipped:
        assert not guard.chosen(report, [finding.check]).healthy
    with pytest.raises(ValueError, match="no finding is left"):
        guard.chosen(report, ["trains"])
    not_examined = examine_step(lambda: None)
    assert not guard.chosen(not_examined, ["trains"]).healthy
    crashed = guard.dataclasses.replace(report, findings=[guard.dataclasses.replace(report["causality"], status=Status.ERROR)])
    assert guard.allowed(crashed, ["causality"], [guard.key(report["causality"])]).exit_status == 3


def test_a_report_takes_names_as_the_command_line_does():
    report = guard.Report("", [guard.Finding("first loss", Status.PASS, "")], 0.0)
    assert report["first-loss"] is report["first loss"]


def test_an_explanation_holds_no_number_of_an_example():
    assert "the mask adds … to the scores" in guard.explain("attention")
    assert "0.25" not in guard.explain("attention")


def waiting(essential):
    """A report in which one check failed, and another one, which may be essential, waits for it."""
    broken = guard.Finding("rows", Status.FAIL, "0.3 at row 1", "rows mix")
    waits = guard.Finding("memory", Status.SKIP, "rows failed. Fix that first", reason="skipped", essential=essential)
    return guard.Report("", [broken, waits], 1.0)


def test_what_waits_for_an_allowed_failure_is_not_answered(tmp_path):
    for essential, end in ((False, "Healthy"), (True, "Nothing except rows (allowed) failed, but this report is not")):
        report = guard.allowed(waiting(essential), ["rows"])
        assert report.conclusion.startswith(end), report.conclusion
        assert report.conclusion.endswith("Not answered, since rows failed: memory."), report.conclusion
        assert (report.healthy, report["memory"].text) == (not essential, "skipped: rows failed")
    assert guard.allowed(waiting(True), ["rows", "memory"]).conclusion.startswith("Healthy, with 1 warning: rows (allowed).")
    assert guard.allowed(waiting(True), ["memory"]).exit_status == 1
    assert waiting(True).conclusion == "Not healthy: rows failed. Likely cause: rows mix.", "what failed says it all"
    guard.write_baseline(tmp_path / "known.json", waiting(True))
    known = guard.allowed(waiting(True), (), guard.read_baseline(tmp_path / "known.json"))
    assert (known.healthy, known["rows"].text) == (True, "in the baseline: 0.3 at row 1")
    new = guard.allowed(waiting(True), ["rows"], ["memory: another check failed"])
    assert not new.healthy, "that it waits for this one was not known"


def test_what_waits_for_an_ignored_failure_is_not_answered():
    report = guard.chosen(waiting(False), ignore=["rows"])
    said = "Healthy as far as asked (1 of 2 checks): nothing except rows (not counted) failed."
    assert report.conclusion == f"{said} Not answered, since rows failed: memory."
    assert guard.chosen(waiting(True), ignore=["rows"]).exit_status == 3
    assert guard.chosen(waiting(True), select=["memory"]).exit_status == 1, "the failure that it waits for stays"
    assert "Fix that first" in guard.chosen(waiting(True), select=["memory"])["memory"].text


def test_a_baseline_does_not_depend_on_numbers_in_a_cause():
    def key(cause, evidence=""):
        return guard.key(guard.Finding("causality", Status.FAIL, evidence, cause))

    assert key("no mask: 44% to the future, filled with -10") == key("no mask: 45.5% to the future, filled with 0.9")
    assert key("", "up to 0.028 at 13 tokens, in h.0.attn") == key("", "up to 1e-05 at 12 tokens, in h.0.attn")


def test_a_baseline_lets_no_other_layer_head_or_parameter_pass():
    def key(cause, evidence=""):
        return guard.key(guard.Finding("causality", Status.FAIL, evidence, cause))

    assert key("no mask in attention 0, head 0 only") != key("no mask in attention 1, head 3 only")
    assert key("", "the first layer that leaks: h.0.attn") != key("", "the first layer that leaks: h.1.attn")
    assert key("", "no gradient: pos_embedding") != key("", "no gradient: pos_embedding, head.bias")


def test_a_selection_says_how_much_was_asked():
    report = guard.chosen(cli.diagnose(fused()), ["first-loss"])
    assert report.conclusion == f"Healthy as far as asked (1 of {len(guard.ORDER)} checks): nothing failed."


def test_every_check_can_be_explained():
    for name in guard.all_checks():
        assert len(guard.explain(name).splitlines()) > 2, name
    assert "gradients are not cleared" in guard.explain("cleared")
    assert len(guard.list_of_checks().splitlines()) == len(guard.all_checks())
    kinds = [{entry.name for entry in entries} for entries in guard.SUBJECTS.values()]
    assert len(set().union(*kinds)) == sum(map(len, kinds)), "a name means one check"
    for entries in guard.SUBJECTS.values():
        names = [entry.name for entry in entries]
        assert all(set(entry.needs) <= set(names[:n]) for n, entry in enumerate(entries)), "a need is asked before"


def test_a_reader_who_stops_reading_is_no_crash():
    line = [sys.executable, "-m", "picogpt_doctor", "--explain", "all"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (130, "")


def test_sarif_has_what_the_schema_requires(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gpt.py").write_text("import torch\n\n\ndef make():\n    pass\n")
    unmasked = cli.diagnose(fused("no_mask"))
    report = guard.allowed(unmasked, ["causality"])
    for examined in (report, unmasked):
        log = json.loads(formats.to_sarif(examined, ["gpt.py:make"]))
        assert log["version"] == "2.1.0"
        assert log["$schema"].endswith("sarif-2.1.0.json")
        [run] = log["runs"]
        assert run["tool"]["driver"]["name"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert len(set(rules)) == len(rules)
        for result in run["results"]:
            assert result["message"]["text"]
            assert result["ruleId"] in rules
            assert result["level"] in ("none", "note", "warning", "error")
            [location] = result["locations"]
            assert location["physicalLocation"]["artifactLocation"]["uri"] == "gpt.py"
            assert location["physicalLocation"]["region"]["startLine"] == 4
            assert all(isinstance(v, str) for v in result["partialFingerprints"].values())
    levels = [[r["level"] for r in json.loads(formats.to_sarif(x, []))["runs"][0]["results"]] for x in (report, examined)]
    assert levels == [["warning"], ["error"]]
    assert json.loads(formats.to_sarif(report, []))["runs"][0]["results"][0]["suppressions"] == [{"kind": "external"}]


def test_sarif_points_at_the_line_of_a_finding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    for name in ("gpt.py", "layers.py"):
        Path("src", name).write_text("\n" * 30 + "def make():\n    pass\n")
    places = [
        ("layers.py:28 in forward: a = q @ k", "src/layers.py", 28),
        ("gone.py:3 in f", "src/gpt.py", 31),
        ("", "src/gpt.py", 31),
    ]
    for spec, (where, uri, line) in itertools.product(("src/gpt.py:make", "src.gpt:make"), places):
        report = guard.Report("", [guard.Finding("causality", Status.FAIL, "", "no mask", where=where)], 0.0)
        [result] = json.loads(formats.to_sarif(report, ["nowhere", "gone.py:make", spec]))["runs"][0]["results"]
        place = result["locations"][0]["physicalLocation"]
        assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (uri, line)


def test_a_report_for_an_issue_says_what_we_need():
    text = formats.to_issue(cli.diagnose(fused("no_mask")), ["my model.py:make"])
    assert text.startswith("**picogpt_doctor:** Not healthy: causality failed.")
    assert "python -m picogpt_doctor 'my model.py:make'" in text
    assert f"torch {torch.__version__}" in text


# ----- the command line, the hook, the action

PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from doctor_loops import *
from doctor_checkpoints import *

def train(fault=None):
    print("noise")
    function, *given = raschka(fault)
    function(*given)

def load(fault=None):
    state = trained_model().state_dict()
    model = LM()
    model.load_state_dict({{("module." if fault else "") + k: v for k, v in state.items()}}, strict=False)
    return model.eval()

if __name__ == "__main__":
    assert sys.argv[1:] == ["--steps=3"], sys.argv
    train("not cleared")
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("their repository")
    (folder / "their.py").write_text(PROGRAM.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    return folder


class Channel:
    """Takes what the child process tells."""

    def send(self, what):
        pass


@pytest.mark.slow
def test_what_surrounds_a_model_by_name_and_a_script(program, monkeypatch):
    monkeypatch.chdir(program)
    options = dict(seconds=60.0, vocab_size=V, eos=None, words=["--steps=3"])
    specs = dict(step="their.py:train", batch="their.py:get_batch", checkpoint="their.py:load")
    report = cli.together(cli.examine_surroundings(Channel(), specs, None, {}, options))
    assert report.healthy, str(report)
    assert {f.check for f in report.findings} == {e.name for entries in guard.SUBJECTS.values() for e in entries}
    assert report["trained"].evidence.startswith("loss ")
    [report] = cli.examine_surroundings(Channel(), {"step": "their.py"}, None, {}, options)
    assert first(report).check == "cleared"
    [report] = cli.examine_surroundings(Channel(), {"checkpoint": "their.py:load"}, None, {"fault": "module."}, options)
    assert first(report).check == "keys"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("--step their.py -- --steps=3", ("", {}, ["--steps=3"], {"step": "their.py"})),
        (
            "--step their.py --checkpoint their.py:load path=a -- --n=3",
            ("", {"path": "a"}, ["--n=3"], {"step": "their.py", "checkpoint": "their.py:load"}),
        ),
        ("--step their.py:train n=2 --allow mode", ("", {"n": 2}, [], {"step": "their.py:train"})),
        ("their.py:LM --step their.py:train p=0.5", ("their.py:LM", {"p": 0.5}, [], {"step": "their.py:train"})),
        ("their.py:LM p=0.5 --step their.py -- --n=3", ("their.py:LM", {"p": 0.5}, ["--n=3"], {"step": "their.py"})),
        ("their:LM --step their.py", ("their:LM", {}, [], {"step": "their.py"})),
    ],
)
def test_whose_the_words_of_the_command_line_are(monkeypatch, line, seen):
    def note(spec, arguments, options, seconds, total_seconds, subjects):
        assert (spec, arguments, options["words"], subjects) == seen
        return guard.Report("", [guard.Finding("mode", Status.PASS, "seen")], 0.0)

    monkeypatch.setattr(cli, "examine_apart", note)
    assert cli.main(line.split()) == 0


def test_the_words_of_a_script_stand_after_two_dashes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--step", "their.py", "n=3"])
    assert "the words of a script stand after --: --step their.py -- n=3" in capsys.readouterr().err


@pytest.mark.slow
def test_the_steps_of_the_action_as_they_stand(program, tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    [step] = action["runs"]["steps"]
    given = {
        "inputs.arguments": "--step their.py:train fault=summed",
        "inputs.sarif": "out.sarif",
        "inputs.python": sys.executable,
    }
    values = given | {"github.action_path": str(ROOT)}
    env = {k: values[v.split("}}")[0].removeprefix("${{ ").strip()] + v.split("}}")[1] for k, v in step["env"].items()}
    env |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(
        line, cwd=program, env=os.environ | {"PYTHONPATH": ""} | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "the loss is summed" in (tmp_path / "summary").read_text()
    assert (tmp_path / "output").read_text() == "sarif=out.sarif\n"
    [run] = json.loads((program / "out.sarif").read_text())["runs"]
    location = run["results"][0]["locations"][0]["physicalLocation"]
    assert location == {"artifactLocation": {"uri": "their.py"}, "region": {"startLine": 7}}
    assert "noise" not in done.stdout


def test_the_hook_names_what_exists():
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language"} <= hook.keys()
    assert hook["entry"] == "python -m picogpt_doctor"
    assert not hook["pass_filenames"]


def test_a_script_that_only_defines_what_trains_is_asked_for_a_name(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("class Net: ...\ndef train(): ...\ndef evaluate(): ...\n")
    step = cli.find_step(str(script), [])
    report = cli.naming_what_trains(examine_step(step), step)
    assert report.conclusion == "Not examined: nothing was trained."
    assert report["trains"].advice == f"it defines train, Net, evaluate; name what trains: --step {script}:name"


def test_why_a_model_could_not_be_made_is_told_apart():
    def cause(kind, text, **arguments):
        verdict = cli.verdict_on_exception(kind, text, "", cli.MADE, arguments)
        return verdict.cause.text, verdict.cause.advice

    assert cause("slow", "not finished after 0.01 s")[0] == "the model takes too long to make"
    error = "TypeError: Config.__init__() got an unexpected keyword argument 'n_layers'"
    assert "is n_layers=… on the command line spelt right" in cause("raised", error, n_layers=3)[1]
    assert (
        cause("raised", error, n_head=3)
        == cause("raised", "ValueError")
        == ("an error while the model was made", "call it by hand")
    )


def test_made_is_explained(capsys):
    assert cli.main(["--explain", "made"]) == 0
    assert "no check of the model" in capsys.readouterr().out


def test_a_warning_of_a_scheduler_names_the_line_that_calls_it():
    model = LM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def step():
        loss = model(*get_batch("train"))[1]
        loss.backward()
        schedule.step()
        optimizer.step()
        optimizer.zero_grad()

    with pytest.warns(UserWarning, match="Detected call of `lr_scheduler.step") as said:
        examine_step(step)
    assert {Path(w.filename).name for w in said} == {Path(__file__).name}
