"""The doctor on models in other people's styles: where the future enters is named, with its line; twins are healthy."""

import csv
import importlib.util
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from doctor_hosts import bend, fused
from doctor_strangers import HEALTHY, LIMIT, MIXERS, WIDTH, Attends, Host, InPlace, host, time_first, unusual
from torch import nn

import picogpt
from picogpt_doctor import diagnose, future, leaks, patient, probes, report


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


def examined(model):
    """A patient of which the interface is known."""
    p = patient.Patient(model)
    model.eval()
    patient.detect_interface(p)
    return p


@pytest.mark.parametrize("name", MIXERS)
def test_where_the_future_enters_is_said_first(name):
    found = diagnose(host(name, good=False))
    first = found.of("fail")[0]
    assert (first.check, MIXERS[name][1] in first.cause) == ("causality", True), str(found)
    assert "the first layer that leaks: layers." in first.evidence, str(found)
    assert f"Likely cause: {first.cause}." in found.conclusion
    assert {f.cause for f in found.of("fail") if not f.vague} == {first.cause}, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_the_healthy_twin_is_healthy(name):
    found = diagnose(host(name, good=True))
    assert found.healthy, str(found)
    assert found["causality"].status == "pass", str(found)


def test_the_line_of_the_model_is_shown():
    where = diagnose(host("GlobalContext", good=False))["causality"].where
    assert where.startswith("doctor_strangers.py:"), where
    assert where.endswith("mean = x.cumsum(1) / counts if self.good else x.mean(1, keepdim=True)"), where


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_healthy_and_unusual_is_not_called_ill(name):
    found = diagnose(unusual(name))
    assert found.healthy, str(found)
    assert not found.of("warn"), str(found)


@pytest.mark.parametrize(("kind", "healthy"), [("lstm", True), ("masked", True), ("open", False)])
def test_a_model_that_takes_time_first_is_transposed_and_examined(kind, healthy):
    found = diagnose(time_first(kind))
    assert "time first" in found["called"].evidence, str(found)
    assert found.healthy is healthy, str(found)
    assert healthy or "no causal mask in every attention" in found["causality"].cause, str(found)


def test_a_scale_in_place_is_followed():
    torch.manual_seed(0)
    assert "multiplied where it should be divided" in diagnose(Host(InPlace, False))["scale"].cause


# ----- how far it was tried


def leaks_at(position, token, length=LIMIT):
    """A host of which one pair of the mask is open, in texts of at least `length` tokens."""

    class Hole(Attends):
        def allowed(self, T):
            mask = super().allowed(T)
            if length <= T:
                mask[position, token] = True
            return mask

    torch.manual_seed(0)
    return Host(Hole, True)


@pytest.mark.parametrize(("position", "token"), [(0, 63), (62, 63), (31, 32), (17, 50)])
def test_any_hole_of_a_mask_is_found_up_to_the_block_size(position, token):
    found = diagnose(leaks_at(position, token))["causality"]
    assert f"position {position} sees token {token}" in found.cause or "mask is off" in found.cause, found
    assert "at 64 tokens" in found.evidence, found


def test_a_pass_says_at_which_lengths_and_that_the_gradients_are_zero():
    found = diagnose(host("HoleInTheMask", good=True))["causality"].evidence
    assert "in evaluation and training mode, at 13 and 64 of 64 tokens; the gradients are exactly 0" in found, found


def test_a_long_text_is_tried_in_part_and_that_is_said():
    model = fused()
    model.wpe, model.config.block_size = nn.Embedding(400, 32), 400
    found = diagnose(model)["causality"].evidence
    assert re.search(r"at 13 and 400 of 400 \(after \d+ of its positions\) tokens", found), found


def test_a_leak_below_rounding_is_found_by_its_gradient():
    """A fill of -18 leaves a weight of 1e-8: no logit moves."""

    class Faint(Attends):
        fill = -18.0

    torch.manual_seed(0)
    found = diagnose(Host(Faint, True))["causality"]
    assert found.evidence.startswith("at 13 tokens the gradient of early logits by later tokens is"), found
    assert "fills with -18, not with -inf" in found.cause, found


def test_rounding_of_a_causal_filter_is_no_leak_and_that_is_decided_in_double_precision(monkeypatch):
    p = examined(host("CircularConvolution", good=True))
    with p.unharmed():
        share, how = future.gradient_from_future(p, LIMIT, future.cuts_of(p, LIMIT))
    assert (share, how) == (0.0, "; the gradients are 0 within rounding")
    monkeypatch.setattr(future, "ROUNDING_GRADIENT", 0.0)
    p.memo.clear()
    with p.unharmed():
        assert 0 < future.gradient_from_future(p, LIMIT, future.cuts_of(p, LIMIT))[0] < 1e-12


def test_cuts_are_all_positions_of_a_short_text_and_some_of_a_long_one():
    p = examined(fused())
    assert sorted(future.cuts_of(p, 24)) == list(range(23))
    some = future.cuts_of(p, 1000)
    assert len(some) == len(set(some)) == probes.FULL_TOKENS // 1000
    assert {0, 998} <= set(some) <= set(range(999))


# ----- what an operation does with time


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: x.mean(1), "a mean over the axis of time"),
        (lambda x: x.mean(2), ""),
        (lambda x: x[:, :12].reshape(1, 3, 4, 8).amax(2), "a maximum over the axis of time, in chunks of 4"),
        (lambda x: x.reshape(1, 13, 2, 4).amax(2), ""),
        (lambda x: torch.fft.rfft(x, dim=1), leaks.FOURIER),
        (lambda x: x[..., 0].topk(3).values, f"{leaks.CHOICE} (topk)"),
        (lambda x: x.topk(3).values, ""),
        (lambda x: x.flip(1), f"{leaks.ORDER} (torch.flip)"),
        (lambda x: x[:, 2:], f"{leaks.SHIFT} by 2"),
        (lambda x: x[:, :-2], ""),
        (lambda x: F.conv1d(x.mT, torch.ones(8, 1, 3), padding=1, groups=8), f"{leaks.CONVOLUTION} (kernel 3)"),
        (lambda x: x.mT @ torch.ones(13, 13), leaks.MATRIX),
        (lambda x: x @ torch.ones(8, 8), ""),
        (lambda x: F.layer_norm(x.mT, (13,)), leaks.NORM),
        (lambda x: F.layer_norm(x, (8,)), ""),
    ],
)
def test_operations_over_time_are_told_from_others(operation, words):
    reading = leaks.Reading(13, 6)
    with reading:
        operation(torch.randn(1, 13, 8))
    assert [step.what for step in reading.steps] == ([words] if words else [])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (lambda t, j: j == t + 1, "the mask is off by one"),
        (lambda t, j: j <= t + 3, "the mask is off by 3"),
        (lambda t, j: t // 4 == j // 4, "open inside chunks of 4"),
        (lambda t, j: j < 6, "the first 6 positions see each other"),
        (lambda t, j: t in (5, 9), "the mask is missing in row 5, 9"),
        (lambda t, j: (t, j) == (3, 10), "the mask has a hole: position 3 sees token 10"),
        (lambda t, j: (t, j) in ((3, 10), (5, 6)), "the mask has holes: position 3 sees token 10, position 5 sees token 6"),
    ],
)
def test_patterns_of_an_open_mask_are_told_apart(pairs, words):
    seen = torch.tensor([[j > t and pairs(t, j) for j in range(13)] for t in range(13)])
    assert words in future.explain_pattern(seen, "its attention").text


# ----- one cause is said once


def finding(check, cause, vague=False, evidence="seen"):
    return report.Finding.of(check, report.failed(report.Cause(cause, "mend it", vague), evidence))


def test_one_cause_is_said_once_and_what_names_a_fault_comes_first():
    made = report.Report(
        "a model", [finding("rows", "something", True), finding("a", "x"), finding("b", "y"), finding("c", "x")], 1.0
    )
    text = str(made)
    assert [f.check for f in made.of("fail")] == ["a", "b", "c", "rows"]
    assert text.count("likely cause: x") == 1
    assert "also seen by c: seen" in text
    assert text.index("likely cause: x") < text.index("likely cause: y") < text.index("likely cause: something")
    assert made.conclusion == "Not healthy: a, b and rows failed. Likely cause: x."
    assert made._repr_html_().count("<b>likely cause:</b> x") == 1


def test_a_mask_that_hides_the_past_is_one_fault():
    found = diagnose(host("PolarityOfMHA", good=False))
    assert found["memory"].status == "fail", str(found)
    assert found["memory"].cause == found["causality"].cause, str(found)
    assert str(found).count("polarity is inverted") == 2, "with its cause, and in the conclusion"


def test_golden_models_are_not_listed_unless_asked_for():
    assert "gpt2" not in diagnose(fused())["count"].text


def test_a_module_that_cannot_be_hashed_is_refused_in_words():
    class Equal(nn.Linear):
        def __eq__(self, other):
            return self is other

    model = fused()
    model.add_module("equal", Equal(WIDTH, WIDTH))
    with pytest.raises(ValueError, match="eq=False"):
        diagnose(model)


def test_special_tokens_are_not_drawn():
    model = fused()
    model.config.pad_token_id, model.config.image_token_id = 0, 7
    p = examined(model)
    assert p.interface.special == (0, 7)
    assert not {0, 7} & set(p.ids(9, 24).flatten().tolist())
    assert not {0, 7} & set(p.changed_tokens(p.ids(9, 24)).flatten().tolist())
    assert (p.changed_tokens(p.ids(9, 24), 20) != p.ids(9, 24)).all()


def test_a_model_without_a_leak_is_left_as_it_was_by_the_reading_of_its_layers():
    model = host("GlobalContext", good=False)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert not diagnose(model).healthy
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_leak_in_training_mode_only_names_its_layer():
    model = fused()
    bend(model.h[1], "think", lambda self, old, x: old(x) + (x.mean(1, keepdim=True) if self.training else 0))
    found = diagnose(model)["causality"]
    assert found.cause.startswith("in training mode only: in h.1 (FusedBlock) a mean over the axis of time"), found


# ----- the scripts of benchmarks/doctor


def script(name):
    spec = importlib.util.spec_from_file_location(name, picogpt.ROOT / "benchmarks" / "doctor" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_the_sweep_prints_what_is_new_and_what_is_gone():
    s = script("sweep")
    expected = {("llama", "cache"): ("fail", "fault"), ("mamba", "memory"): ("fail", "false alarm")}
    assert s.compare("llama", {"cache": "fail"}, expected) == []
    assert s.compare("llama", {"heads": "fail"}, expected) == ["new: heads fail", "gone: cache fail"]
    assert {judged for _, judged in s.read_expected().values()} <= set(s.JUDGEMENTS)


@pytest.mark.slow
def test_the_sweep_examines_what_is_as_expected():
    """In a process of its own: it forks, and what is forked from one that uses a GPU may not use it."""
    line = [sys.executable, picogpt.ROOT / "benchmarks" / "doctor" / "sweep.py", "llama", "prophetnet", "gpt_oss"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 causal LMs, 3 examined, 0 crashes" in done.stdout


@pytest.mark.slow
def test_the_planted_programs_are_labelled_and_one_is_named(tmp_path):
    planted = script("planted")
    programs = {p.program: p for p in planted.write(tmp_path)}
    labels = list(csv.DictReader((tmp_path / "labels.tsv").open(newline=""), delimiter="\t"))
    sources = {f"{name}.py" for name in planted.SOURCES}
    assert {row["program"] for row in labels} == {path.name for path in tmp_path.glob("*.py")} - sources
    assert {bool(row["fault"]) == (row["label"] == "faulty") for row in labels} == {True}
    assert {row["subject"] for row in labels} == {"model", "step", "checkpoint"}
    for name, noticed in (("fused_no_mask.py", 1), ("fused_healthy.py", 0)):
        row = planted.row(programs[name], *planted.examine_apart(tmp_path / name))
        assert (row["noticed"], row["named"]) == (noticed, noticed), row
