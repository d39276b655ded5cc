"""The doctor must not fail open: a crash of its own, a check it skipped, a model that hangs: each is said, none is health."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from doctor_hosts import bend, fused, separate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from picogpt_doctor import Reason, basics, cli, diagnose, patient, registry, tape, training
from picogpt_doctor.report import Cause, failed, skipped, warned

HERE = Path(__file__).parent
PATHS = {"PYTHONPATH": str(HERE.parent)}


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test, unless the test asks for the report of it."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


@pytest.fixture
def broken(monkeypatch):
    """Replace the function of a check."""

    def replace(name, function):
        monkeypatch.setitem(registry.CHECKS, name, dataclasses.replace(registry.CHECKS[name], function=function))

    return replace


def snapshot(model):
    """Weights, which gradients there are, modes, and what is to be trained."""
    grads = [x.grad is None for x in model.parameters()]
    modes = [module.training for module in model.modules()]
    return {k: v.clone() for k, v in model.state_dict().items()}, grads, modes, [x.requires_grad for x in model.parameters()]


def crash(p):
    return {}["a bug of ours"]


def test_a_check_that_crashes_never_leaves_an_unmasked_model_healthy(broken):
    broken("causality", crash)
    report = diagnose(fused("no_mask"), strict=False)
    found = report["causality"]
    assert (found.status, report.healthy, report.exit_status) == ("error", False, 3), str(report)
    assert "KeyError: 'a bug of ours'" in found.evidence
    assert found.where.startswith("test_doctor_trust.py:"), found.where
    assert "A bug of the doctor: causality crashed." in report.conclusion
    assert json.loads(report.to_json())["exit_status"] == 3


def test_a_failure_outranks_a_crash(broken):
    broken("softmax", crash)
    report = diagnose(fused("no_mask"), strict=False)
    assert report["softmax"].status == "error"
    assert report.exit_status == 1, "what failed is certain: that is what a guard should stop for"
    assert "causality failed" in report.conclusion
    assert "softmax crashed" in report.conclusion


def test_a_crash_while_the_interface_is_found_is_the_doctors_fault(broken):
    broken("called", crash)
    report = diagnose(fused(), strict=False)
    assert (report.examined, report.exit_status) == (False, 3)


def test_strict_raises_a_crash(broken, monkeypatch):
    broken("softmax", crash)
    with pytest.raises(KeyError, match="a bug of ours"):
        diagnose(fused())
    monkeypatch.delenv("PICOGPT_DOCTOR_STRICT")
    assert diagnose(fused())["softmax"].status == "error"
    with pytest.raises(KeyError, match="a bug of ours"):
        diagnose(fused(), strict=True)


def test_an_exception_of_the_model_is_not_a_crash_of_the_doctor():
    """In training mode only, so that the checks which ask there cannot be answered."""

    def forward(self, old, *args):
        if self.training:
            return {}["a bug of theirs"]
        return old(*args)

    model = fused()
    bend(model, "forward", forward)
    report = diagnose(model)
    assert not report.of("error"), str(report)
    assert report["rows"].status == report["causality"].status == "skip", str(report)
    assert report["rows"].reason == "could not be asked"
    assert "KeyError: 'a bug of theirs'" in report["rows"].evidence
    assert report["learns"].status == "fail"
    assert not report.healthy


def raises_when(name, holds):
    """The host, whose `name` raises in this file where holds(self, ids)."""

    def method(self, old, ids, *rest, **more):
        return ids.of_theirs if holds(self, ids) else old(ids, *rest, **more)

    model = fused()
    bend(model, name, method)
    return model


@pytest.mark.parametrize(
    ("name", "holds", "check", "status"),
    [
        ("forward", lambda self, ids: True, "called", "fail"),
        ("forward", lambda self, ids: ids.shape[1] == 24, "lengths", "fail"),
        ("forward", lambda self, ids: self.training, "learns", "fail"),
        ("forward", lambda self, ids: self.training, "rows", "skip"),
        ("generate", lambda self, ids: True, "generate", "skip"),
    ],
)
def test_an_exception_of_the_models_is_shown_with_its_own_line(name, holds, check, status):
    report = diagnose(raises_when(name, holds))
    found = report[check]
    assert found.status == status, str(report)
    assert found.where.startswith("test_doctor_trust.py:"), found
    assert found.where.endswith("in method: return ids.of_theirs if holds(self, ids) else old(ids, *rest, **more)"), found
    assert f"where: {found.where}"[:60] in str(report)
    assert json.loads(report.to_json())["findings"][[f.check for f in report.findings].index(check)]["where"] == found.where


def test_the_line_of_an_exception_in_torch_is_the_models_and_a_crash_shows_the_doctors(broken):
    model = fused()
    bend(model, "forward", lambda self, old, ids, *rest: nn.functional.embedding(ids, torch.zeros(1, 1, 1)))
    assert "nn.functional.embedding(ids" in diagnose(model)["called"].where
    broken("softmax", crash)
    report = diagnose(fused(), strict=False)
    assert f"where: {report['softmax'].where}" in str(report)


class Stuck(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, grad):
        raise KeyError("a bug of theirs")


def test_an_exception_in_the_models_backward_is_the_models():
    model = fused()
    bend(model, "read", lambda self, old, x: Stuck.apply(old(x)))
    report = diagnose(model)
    assert not report.of("error"), str(report)
    assert report["causality"].status == "pass", "changed tokens answer it"
    assert report["gradients"].text == "could not be asked: KeyError: 'a bug of theirs'"
    assert report["learns"].evidence == "a training step fails: KeyError: 'a bug of theirs'"
    assert (report.healthy, report.exit_status) == (False, 1)


def test_an_exception_in_a_hook_of_the_doctors_is_the_doctors(broken):
    """It passes through the model's frames, and must not be taken for the model's."""

    def hooked(p):
        hook = p.model.lm_head.register_forward_hook(lambda module, args, output: {}["a bug of ours"])
        try:
            return p.logits(p.ids(1, 4))
        finally:
            hook.remove()

    # a function of the doctor's module, as far as a traceback shows
    hooked = type(hooked)(hooked.__code__, vars(registry), "hooked")
    broken("softmax", hooked)
    report = diagnose(fused(), strict=False)
    assert report["softmax"].status == "error", str(report)


ASSERTED = "out of (range|bounds|DATA bounds)|valid range|probabilit"  # what raises on a CPU, and ends the use of a GPU


class Gpu(TorchDispatchMode):
    """What a GPU does with an index that is out of range: no operation of this process can use it from then on."""

    def __init__(self):
        super().__init__()
        self.assertion = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            if not self.assertion:
                return func(*args, **(kwargs or {}))
        except (IndexError, RuntimeError) as error:
            if not re.search(ASSERTED, str(error)):
                raise
            self.assertion = str(error)
        raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize("make", [fused, separate])
@pytest.mark.parametrize("fault", [None, "loss_padding_counted"])
def test_a_gpu_survives_the_examination_and_the_report_is_the_same(make, fault, monkeypatch):
    expected = [(f.check, f.status, f.text) for f in diagnose(make(fault)).findings]
    monkeypatch.setattr(patient.Patient, "on_gpu", property(lambda self: True, lambda self, found: None), raising=False)
    with Gpu() as gpu:
        found = [(f.check, f.status, f.text) for f in diagnose(make(fault)).findings]
    assert not gpu.assertion
    assert found == expected


@pytest.mark.parametrize("others", [lambda B, T: B * T > 100, lambda B, T: B == 2])
def test_another_kernel_for_other_rows_is_no_leak(others):
    """On a GPU it rounds otherwise than the one for a single row: large scores (12,000) make that 5e-4 of the logits."""
    model = fused()

    def read(self, old, x):
        logits = old(x)
        return logits + 1e-3 * others(*x.shape[:2]) * torch.sin(9 * logits)

    bend(model, "read", read)
    report = diagnose(model)
    assert report["causality"].status == "pass", str(report)


def test_rows_that_mix_in_large_batches_only_are_found():
    model = fused()

    def read(self, old, x):
        logits = old(x)
        return logits + 0.1 * logits.mean(dim=0) if len(x) * x.shape[1] > 500 else logits

    bend(model, "read", read)
    found = diagnose(model)["causality"]
    assert (found.status, found.cause) == ("fail", basics.BATCH_MIXED.text), found


X, ONE = torch.zeros(3, 5), torch.tensor([[1]])
OUT_OF_RANGE = {
    "embedding": lambda: nn.functional.embedding(ONE * 3, X),
    "embedding, negative": lambda: nn.functional.embedding(-ONE, X),
    "target": lambda: nn.functional.cross_entropy(X, torch.tensor([4, 5, 0])),
    "target -1": lambda: nn.functional.cross_entropy(X, torch.tensor([-100, 4, -1])),
    "target of (B, V, T)": lambda: nn.functional.cross_entropy(X[None], torch.tensor([[0, 1, 2, 3, 4]])),
    "gather": lambda: X.gather(-1, ONE * 5),
    "scatter": lambda: X.scatter(0, ONE * 3, 1.0),
    "row": lambda: X[torch.tensor([0, 3])],
    "column": lambda: X[:, torch.tensor([0, -6])],
    "behind a mask": lambda: X[None][torch.ones(1, 3, dtype=torch.bool), torch.tensor([5])],
    "written": lambda: X.clone().index_put_((ONE[0] * 7,), torch.ones(())),
    "rows": lambda: X.index_select(1, ONE[0] * 5),
    "rows, negative": lambda: X.index_add(0, -ONE[0], torch.ones(1, 5)),
    "copied": lambda: X.index_copy(0, ONE[0] * 3, X[:1]),
    "filled": lambda: X.index_fill(1, ONE[0] * 5, 1.0),
    "bag": lambda: nn.functional.embedding_bag(ONE * 3, X),
    "drawn by nan": lambda: torch.full((1, 5), math.nan).multinomial(1),
    "drawn by nothing": lambda: X.multinomial(1),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_what_would_end_the_use_of_a_gpu_never_reaches_the_operation(name):
    with pytest.raises((IndexError, RuntimeError)) as bare:
        OUT_OF_RANGE[name]()
    with Gpu() as gpu, tape.InRange(), pytest.raises(bare.type, match=ASSERTED):
        OUT_OF_RANGE[name]()
    assert not gpu.assertion


def test_indices_in_range_are_let_through():
    with tape.InRange():
        assert nn.functional.embedding(ONE * 2, X).shape == (1, 1, 5)
        assert nn.functional.cross_entropy(X, torch.tensor([4, -100, 0])) > 0
        assert X[torch.ones(3, dtype=torch.bool), -1].shape == X.gather(1, torch.tensor([[4], [0], [1]]))[:, 0].shape == (3,)
        assert X[:, torch.tensor([], dtype=torch.long)].shape == (3, 0)
        assert torch.tensor(1.0)[None].index_select(0, ONE[0] * 0) == 1
        assert X.index_fill(1, -ONE[0], 1.0).sum() == 3
        assert torch.ones(2, 5).multinomial(2).shape == (2, 2)


def test_every_skip_states_its_kind():
    report = diagnose(fused("no_mask"))
    kinds = {f.check: f.reason for f in report.of("skip")}
    assert kinds["count"] == "does not apply"
    assert kinds["cache"] == "skipped"
    assert report["cache"].text == "skipped: causality failed. Fix that first"
    assert not [f for f in report.findings if (f.status == "skip") != bool(f.reason)]


def test_what_builds_on_a_skipped_check_is_skipped_and_the_root_is_named(broken):
    """learns builds on gradients, and that on lengths."""
    broken("lengths", lambda p: failed(Cause("a cause", "advice"), "a fault"))
    report = diagnose(fused())
    assert report["gradients"].text == report["learns"].text == "skipped: lengths failed. Fix that first", str(report)
    broken("lengths", crash)
    assert diagnose(fused(), strict=False)["learns"].text == "skipped: lengths crashed"


COMPARE_LOGITS = ("repeats", "rows", "causality", "residual", "memory", "positions", "softmax", "heads", "scale", "norms")
COMPARE_LOGITS += ("gradients", "first loss", "its own loss", "learns", "generate", "cache")


@pytest.mark.parametrize(
    ("name", "row", "value", "says"),
    [
        ("wte.weight", 30, math.nan, "wte.weight holds NaN in row 30 (of 50)"),
        ("wte.weight", slice(1, 7), math.nan, "wte.weight holds NaN in rows 1, 2, 3, 4 … (of 50)"),
        ("wpe.weight", 9, -math.inf, "wpe.weight holds infinity in row 9 (of 24)"),
        ("h.1.mlp.c_fc.bias", 2, math.nan, "h.1.mlp.c_fc.bias holds NaN in element 2 (of 128)"),
    ],
)
def test_weights_that_hold_nan_are_named_and_nothing_is_compared(name, row, value, says):
    model = fused()
    with torch.no_grad():
        dict(model.named_parameters())[name][row] = value
    report = diagnose(model)
    found = report["answers"]
    assert (found.status, found.evidence) == ("fail", says), str(report)
    assert "diverged" in found.cause
    assert [f.check for f in report.of("fail")] == ["answers"], str(report)
    assert {report[check].text for check in COMPARE_LOGITS} == {"skipped: answers failed. Fix that first"}, str(report)


def test_a_buffer_may_hold_infinity_and_not_nan():
    model = fused()
    model.register_buffer("mask", torch.full((24, 24), -math.inf).triu(1))
    assert diagnose(model).healthy
    model.mask[3] = math.nan
    assert diagnose(model)["answers"].evidence == "mask holds NaN in row 3 (of 24)"


def test_a_list_of_modules_may_leave_some_out():
    model = fused()
    model.norms = nn.ModuleList([nn.Identity(), None])  # before and after a branch, say
    assert diagnose(model).healthy, str(diagnose(model))


def test_a_token_whose_logits_are_nan_is_named():
    def forward(self, old, ids, *rest):
        logits, *more = old(ids, *rest)
        return logits.masked_fill((ids == 17)[:, -logits.shape[1] :, None], math.nan), *more

    model = fused()
    bend(model, "forward", forward)
    report = diagnose(model)
    assert "all positions that hold token 17" in report["answers"].evidence, str(report)
    assert [f.check for f in report.of("fail")] == ["answers"], str(report)


def test_what_was_skipped_for_slowness_is_no_clean_bill_of_health(broken):
    broken("causality", lambda p: skipped("not finished", Reason.TOO_SLOW))
    report = diagnose(fused())
    assert not report.of("fail")
    assert not report.of("error")
    assert (report.healthy, report.exit_status) == (False, 3)
    assert "Not answered: causality (too slow)." in str(report).replace("\n", " ")


def test_an_optional_check_without_an_answer_is_counted_and_leaves_it_healthy(broken):
    broken("generate", lambda p: skipped("it takes no prompt", Reason.NOT_ASKED))
    report = diagnose(fused())
    assert (report.healthy, report.exit_status) == (True, 0)
    assert report.conclusion.startswith("Healthy: nothing failed. Not answered: generate (could not be asked)")


class OwnLayout(nn.Module):
    """Attention over scores (Tq, Tk, B, H), which the tape does not follow; `mixer` may be a layer of another kind."""

    def __init__(self, mixer=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place, self.mixer = nn.Embedding(50, 32), nn.Embedding(24, 32), mixer
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 50)

    def forward(self, ids):
        B, T = ids.shape
        x = self.embed(ids) + self.place(torch.arange(T))
        if self.mixer:
            return self.head(x + self.out(self.mixer(x)[0]) + 0 * self.qkv(x)[..., :32])
        q, k, v = self.qkv(x).view(B, T, 3, 4, 8).unbind(2)  # (B, T, 4, 8) each
        scores = torch.stack([(q[:, i, None] * k / 8**0.5).sum(-1) for i in range(T)])  # (Tq, B, Tk, 4)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)[:, None, :, None]
        weights = scores.masked_fill(future, -torch.inf).softmax(2)
        y = (weights[..., None] * v).sum(2).transpose(0, 1)  # (Tq, B, 4, 8) -> (B, T, 4, 8)
        return self.head(x + self.out(y.reshape(B, T, 32)))


def test_an_attention_that_could_not_be_followed_is_said_and_a_recurrent_model_has_none():
    report = diagnose(OwnLayout())
    assert report["memory"].status == "pass", str(report)
    unseen = [f.check for f in report.findings if f.reason == "could not be asked"]
    assert unseen == ["residual", "softmax", "heads", "scale", "attention", "norms"], str(report)
    assert report["scale"].text == "could not be asked: the model attends in a way that could not be followed"
    start = "Nothing failed, but residual, softmax, heads, scale, attention and norms could not be looked at (the model attends"
    assert report.conclusion.startswith(start)
    assert "Not answered" not in report.conclusion
    assert report.exit_status == 0
    report = diagnose(OwnLayout(nn.LSTM(32, 32, batch_first=True)))
    assert {report[check].reason for check in ("softmax", "heads", "scale", "norms")} == {"does not apply"}, str(report)


def test_the_conclusion_names_the_warnings(broken):
    broken("its own loss", lambda p: warned(Cause("a cause", "advice"), "unusual"))
    report = diagnose(fused())
    assert (report.conclusion, report.exit_status) == ("Healthy, with 1 warning: its own loss.", 0)
    broken("tied head", lambda p: warned(Cause("a cause", "advice"), "unusual"))
    assert diagnose(fused()).conclusion == "Healthy, with 2 warnings: its own loss and tied head."


def test_a_llama_with_a_huge_limit_is_healthy_and_never_run_at_it():
    torch.manual_seed(0)
    shape = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=131072, bos_token_id=None, eos_token_id=None))
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append([*args, *kwargs.values()][0].shape[1]), with_kwargs=True
    )
    report = diagnose(model)
    assert report.healthy, str(report)
    assert max(seen) <= 256


def test_a_limit_too_large_to_try_is_not_tried_by_generate_either():
    class Own(nn.Module):
        """A generate of its own, a claimed limit of 131,072, and no table of positions that ends."""

        def __init__(self):
            super().__init__()
            self.inner, self.block_size = separate(), 131072

        def forward(self, ids):
            x = self.inner.embed(ids)
            for layer in self.inner.layers:
                x, _ = layer(x)
            return self.inner.read(x)

        @torch.no_grad()
        def generate(self, ids, max_new_tokens, do_sample=False):
            for _ in range(max_new_tokens):
                ids = torch.cat([ids, self(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
            return ids

    torch.manual_seed(0)
    model = Own()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    report = diagnose(model)
    assert report["generate"].status == "pass", str(report)
    assert max(seen) <= 256


def test_an_operation_that_could_not_be_recorded_is_counted(monkeypatch):
    """Attention that was not seen must not look like attention that is not there."""
    monkeypatch.setitem(tape.HANDLERS, "softmax", lambda *args: {}["a bug of ours"])
    report = diagnose(fused(), strict=False)
    (what, times), *rest = report.not_recorded.items()
    assert what == "aten._softmax: KeyError: 'a bug of ours'"
    assert times > 2
    assert not rest
    assert f"Not recorded: {times} operations (aten._softmax: KeyError: 'a bug of ours')." in report.conclusion
    assert json.loads(report.to_json())["not_recorded"] == report.not_recorded
    with pytest.raises(KeyError, match="a bug of ours"):
        diagnose(fused())


def test_a_crash_in_a_training_step_is_the_doctors(monkeypatch):
    def overfit(*args):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(training, "overfit", overfit)
    assert diagnose(fused(), strict=False)["learns"].status == "error"


# ----- no cause as certain that is not


@pytest.mark.parametrize("how", ["a comparison", "a short table"])
def test_one_token_less_than_stated_has_three_possible_causes(how):
    def forward(self, old, ids, *rest):
        if ids.shape[1] == 24:
            raise ValueError("too long")
        return old(ids, *rest)

    model = fused()
    if how == "a comparison":
        bend(model, "forward", forward)
    else:
        model.wpe = nn.Embedding(23, 32)
    found = diagnose(model)["lengths"]
    assert found.evidence.startswith("it takes at most 23 tokens, although config.block_size is 24: "), found
    assert "one row short, a comparison is < where <= is meant, or positions count from 1" in found.cause
    given = diagnose(fused() if how == "a short table" else model, block_size=24)["lengths"]
    assert ("although block_size=24 was given" in given.evidence) is (how == "a comparison"), given


@pytest.mark.parametrize(("off", "words"), [(-1, "are off by one (-1)"), (1, "are off by one (+1)"), (-99, "start again")])
def test_positions_of_a_cache_that_are_off_by_one_do_not_start_again(off, words):
    model = fused()
    bend(model, "place", lambda self, old, x, start: old(x, max(0, start + off) if start else 0))
    found = diagnose(model)["cache"]
    assert found.status == "fail"
    assert f"the positions {words}: with 6 tokens in the cache" in found.cause, found


# ----- a model that never returns


def hangs_when(model, holds, loop=lambda: time.sleep(0.01)):
    """The model, stuck where holds(self, ids)."""

    def forward(self, old, ids, *rest):
        while holds(self, ids):
            loop()
        return old(ids, *rest)

    bend(model, "forward", forward)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("holds", "stuck", "words", "later"),
    [
        (lambda self, ids: self.training, "rows", "forward on 13 tokens in training mode does not return", "causality"),
        (
            lambda self, ids: ids.shape[1] > 13,
            "repeats",
            "forward on 24 tokens in evaluation mode does not return",
            "lengths",
        ),
    ],
    ids=["in training", "beyond 13 tokens"],
)
def test_what_hangs_sometimes_is_found_once_and_left_as_it_was(holds, stuck, words, later):
    model = hangs_when(fused(), holds)
    before, random, began = snapshot(model), torch.get_rng_state(), time.perf_counter()
    report = diagnose(model, seconds=1)
    assert report[stuck].evidence == f"not finished after 1 s: {words}", str(report)
    assert report["answers"].status == report["softmax"].status == "pass", str(report)
    call = words.removesuffix(" does not return")
    assert report[later].text.startswith(f"too slow: {call}"), str(report)
    assert report[later].text.endswith(" did not return in an earlier check"), str(report)
    assert time.perf_counter() - began < 8, "a call that hung is not tried again in each check"
    assert torch.equal(torch.get_rng_state(), random)
    after = snapshot(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("again", [RuntimeError, None], ids=["raises its own", "swallows it once"])
def test_a_model_that_catches_the_alarm_is_stopped_and_remembered(again):
    def forward(self, old, *args):
        if self.training:
            try:
                time.sleep(1000)
            except BaseException as error:
                if again:
                    raise again("something went wrong") from error
        return old(*args)

    model, began = fused(), time.perf_counter()
    bend(model, "forward", forward)
    report = diagnose(model, seconds=1)
    assert time.perf_counter() - began < 8
    if again:
        assert report["rows"].status == "fail", str(report)
    assert "did not return in an earlier check" in report["causality"].evidence, str(report)
    assert not report.healthy


def test_generate_that_never_returns_is_named():
    model = fused()
    bend(model, "generate", lambda self, old, *args: [time.sleep(0.01) for _ in iter(int, 1)])
    report = diagnose(model, seconds=1)
    assert report["generate"].status == "fail"
    assert "generate on 8 tokens in evaluation mode with max_new_tokens does not return" in report["generate"].evidence
    assert len(report.of("fail")) == 1, str(report)


def test_outside_the_main_thread_a_loop_in_python_is_stopped_too():
    reports, model = [], hangs_when(fused(), lambda self, ids: self.training, loop=lambda: sum(range(100)))
    thread = threading.Thread(target=lambda: reports.append(diagnose(model, seconds=1)), daemon=True)
    thread.start()
    thread.join(30)
    assert reports, "the thread is stuck"
    assert reports[0]["rows"].status == "fail", str(reports[0])
    assert reports[0]["softmax"].status == "pass", str(reports[0])


PROFILED = """
import sys, threading
from picogpt_doctor import registry


def limited():
    with registry.time_limit(100):
        pass


(thread := threading.Thread(target=limited)).start()
thread.join()
sys.setprofile(lambda *args: None)
limited()
sys.setprofile(None)
"""


def test_what_is_profiled_after_a_limit_in_a_thread_goes_on():
    """In CPython 3.11 an asynchronous exception that was taken back stops the next call under a profile, for ever."""
    subprocess.run([sys.executable, "-c", PROFILED], env=os.environ | PATHS, check=True, timeout=60)


def test_an_alarm_of_the_callers_own_still_rings():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *args: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with registry.time_limit(60):
            pass
        with pytest.raises(registry.TookTooLong), registry.time_limit(0.1):
            time.sleep(5)
        assert not rung
        time.sleep(1.2)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_whole_examination_has_a_limit():
    model = fused()
    bend(model, "forward", lambda self, old, *args: (time.sleep(0.02), old(*args))[1])
    began = time.perf_counter()
    report = diagnose(model, seconds=10, total_seconds=1)
    assert time.perf_counter() - began < 4
    assert report["generate"].text == "too slow: the time for the whole examination was used up"
    assert not report.of("fail"), str(report)
    assert (report.healthy, report.exit_status) == (False, 3)


# Nothing inside the process can stop these: only the command line, which kills it
STUBBORN = """
import itertools, sys, time
sys.path.insert(0, {tests!r})
from doctor_hosts import bend, fused


def swallows():
    while True:
        try:
            time.sleep(0.05)
        except BaseException:
            continue


def native():
    any(itertools.repeat(False))  # never leaves C, and C looks at no signal


def make(loop, always=False):
    model, loop = fused(), globals()[loop]
    bend(model, "forward", lambda self, old, *args: loop() if always or self.training else old(*args))
    return model


def never():
    swallows()


def asleep():
    time.sleep(1000)
"""


@pytest.mark.slow
def test_the_command_line_always_ends(tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN.format(tests=str(HERE)))
    stuck = "no answer for 6.5 s, and it could not be interrupted"
    expected = {
        "make loop=swallows": (1, "rows", stuck),
        "make loop=native": (1, "rows", stuck),
        "make loop=native always=True": (2, "called", stuck),
        "never": (2, "made", stuck),
        "asleep": (2, "made", "not finished after 1 s"),
    }
    start = [sys.executable, "-m", "picogpt_doctor", "--seconds", "1"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | PATHS)
    began = time.perf_counter()
    running = {words: subprocess.Popen([*start, *f"stubborn.py:{words}".split()], cwd=tmp_path, **pipes) for words in expected}
    for words, process in running.items():  # all wait at the same time
        out, err = process.communicate(timeout=120)
        status, check, says = expected[words]
        assert process.returncode == status, out + err
        first = " ".join(out.split("pass ")[0].split())
        assert f"fail {check} likely cause: " in first, out + err
        assert f" {says} try: " in first, out + err
        assert status == 2 or "skip causality skipped: the examination ended at rows" in " ".join(out.split()), out
    assert time.perf_counter() - began < 90


# ----- the command line


OWNED = """
import sys, time
sys.path.insert(0, {tests!r})
from doctor_hosts import bend, fused

CONSTANT = 3


def make(fault=None):
    return fused(fault)


def slow(seconds=0.5):
    model = fused()
    bend(model, "forward", lambda self, old, *args: (time.sleep(seconds), old(*args))[1])
    return model
"""


@pytest.fixture
def owned(tmp_path):
    """A folder with a model of somebody's."""
    (tmp_path / "owned.py").write_text(OWNED.format(tests=str(HERE)))
    return tmp_path


def command(folder, *words, **env):
    """The doctor's command line, run to its end."""
    line = [sys.executable, "-m", "picogpt_doctor", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, timeout=120, env=os.environ | PATHS | env)


@pytest.mark.slow
def test_a_terminal_that_cannot_encode_a_root_sign_sees_a_healthy_model_too(owned):
    done = command(owned, "owned.py:make", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert b"= \\u221a8" in done.stdout
    assert not done.stderr


def test_a_crash_of_the_command_line_itself_is_no_fault_of_the_model(monkeypatch, capsys):
    def crash(*args):
        raise KeyError("a bug of ours")

    monkeypatch.setattr(cli, "examine_apart", crash)
    assert cli.main([f"{__file__}:fused"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("picogpt_doctor crashed: KeyError: 'a bug of ours'\nThis is a bug of the doctor, not of your model.")
    assert f"torch {torch.__version__}" in said
    assert "in crash" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what to examine: file.py:make_model, --step, --batch or --checkpoint file.py:function"),
        (["nowhere.py:make"], "there is no file nowhere.py"),
        (["nowhere.py"], "there is no file nowhere.py"),
        ([":make"], "':make' is not of the form file.py:name or module:name"),
        (["owned.py:make", "3"], "'3' is not of the form name=value"),
        (["owned.py:make", "--golden", "gpt3"], "gpt3 is neither a number of parameters nor one of picogpt, "),
        (["owned.py:make", "--seconds", "0"], "0 is not a number of seconds above 0"),
        (["owned.py:make", "--seconds", "nan"], "nan is not a number of seconds above 0"),
        (["owned.py:make", "--total-seconds", "inf"], "inf is not a number of seconds above 0"),
        (["owned.py:make", "--total-seconds", "-1"], "-1 is not a number of seconds above 0"),
        (["--step", "nowhere.py:train"], "there is no file nowhere.py"),
        (["owned.py:make", "--select", "casuality"], "there is no check 'casuality': do you mean causality?"),
        (["owned.py:make", "--baseline", "owned.py"], "owned.py is not a baseline"),
        (["--explain", "cash"], "there is no check 'cash': do you mean cache?"),
        (["owned.py:make", "--block-size", "0"], "0 is not a whole number of at least 1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_starts_nothing(owned, monkeypatch, capsys, words, says):
    monkeypatch.chdir(owned)
    monkeypatch.setattr(cli.multiprocessing, "get_context", crash)
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("spec", "arguments", "says"),
    [
        ("owned.py", {}, "say what in owned.py makes the model, as owned.py:name: it defines make, slow"),
        ("owned", {}, "it defines make, slow"),
        ("owned.py:slo", {}, "owned.py has no 'slo': it defines slow, make"),
        ("owned.py:CONSTANT", {}, "owned.py:CONSTANT is of type int, neither a model nor a function: it defines make, slow"),
        ("owned.py:make", {"n": 1}, "make(fault=None) cannot be called so: got an unexpected keyword argument 'n'"),
        ("nowhere_at_all:make", {}, "there is no module nowhere_at_all"),
    ],
)
def test_what_the_command_line_names_wrongly_is_named_rightly(owned, monkeypatch, spec, arguments, says):
    monkeypatch.chdir(owned)
    monkeypatch.syspath_prepend(str(owned))
    monkeypatch.delitem(sys.modules, "owned", raising=False)
    with pytest.raises(cli.UsageError) as caught:
        cli.load(spec, arguments)
    assert says in str(caught.value)


@pytest.mark.slow
def test_a_missing_function_ends_the_command_line_in_one_line(owned):
    done = command(owned, "owned.py:mak", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == "picogpt_doctor: owned.py has no 'mak': it defines make, slow (--help says more)\n"


def started(folder, *words):
    """The command line as a process that examines a model which is stuck, and the id of the model's process."""
    line = [sys.executable, "-m", "picogpt_doctor", *words]
    settings: dict = dict(
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | PATHS, start_new_session=True
    )
    # a shell's background job ignores Ctrl-C, and so would all that it starts
    parent = subprocess.Popen(line, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **settings)
    ready, end = folder / "ready", time.monotonic() + 60
    while not ready.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert ready.exists(), parent.communicate()
    time.sleep(1)
    return parent, int(ready.read_text())


def is_gone(pid):
    """Whether a process ends within 5 seconds. A zombie has ended."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


SLOW = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from doctor_hosts import bend, fused


def make():
    model = fused()

    def forward(self, old, *args):
        if self.training:
            Path("ready").write_text(str(os.getpid()))
            time.sleep(100)
        return old(*args)

    bend(model, "forward", forward)
    return model
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_command_line_and_the_process_of_the_model(tmp_path, number):
    (tmp_path / "slow.py").write_text(SLOW.format(tests=str(HERE)))
    parent, child = started(tmp_path, "slow.py:make")
    if number == signal.SIGINT:  # a terminal's goes to both
        os.kill(child, number)
    parent.send_signal(number)
    said, complaint = parent.communicate(timeout=10)
    assert is_gone(child)
    assert not complaint
    assert parent.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    if number == signal.SIGINT:
        assert "Stopped at rows." in said.decode()
        assert "pass  repeats" in said.decode()
