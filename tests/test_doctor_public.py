"""Kinds of faults from fresh public reports are named by the first finding, their twins healthy; and what was a false alarm."""

import re
import types

import pytest
import torch
from doctor_public import KINDS, Adapted, Experts, Loss, Widened, Writes
from doctor_reports import H, Small

from picogpt_doctor import diagnose, future, tape


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


def examined(make):
    torch.manual_seed(0)
    report = diagnose(make())
    return report, [f for status in ("error", "fail", "warn") for f in report.of(status)]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_named_first_and_its_twin_is_healthy(name):
    faulty, twin, check, words = KINDS[name]
    report, found = examined(faulty)
    assert found, str(report)
    assert (found[0].check, bool(re.search(words, found[0].cause))) == (check, True), str(report)
    report, found = examined(twin)
    assert not found, str(report)


def test_dropout_on_as_many_rows_as_the_tokens_have_it_is_no_leak_and_that_is_said():
    report, found = examined(lambda: Small(experts=lambda: Experts("")))
    assert not found, str(report)
    assert "random numbers at their means" in report["rows"].evidence


def test_labels_that_are_not_shifted_inside_are_a_warning_with_both_readings():
    class Next(Loss):
        def forward(self, idx, labels=None):
            z = super().forward(idx)
            return z if labels is None else torch.nn.functional.cross_entropy(z.mT, labels)

    _, found = examined(lambda: Next(""))
    assert [(f.check, f.status) for f in found] == [("its own loss", "warn")]
    assert re.search("right where the batch gives the next tokens.*learns to copy", found[0].cause)


def test_what_was_judged_by_a_tolerance_is_not_called_equal():
    drawn, greedy = (examined(lambda draws=draws: Writes(-1, draws))[0]["generate"].evidence for draws in (True, False))
    assert "it draws; with logits 100 times as large none is 12 nats less likely" in drawn
    assert "equal to taking the likeliest by hand" in greedy


T = 13


def recorded(kernel, *options, **named):
    """The tape of a fused kernel, by its schema, on queries, keys and values (1, 2, T, 8); its result is not needed."""
    q, k, v = torch.randn(3, 1, 2, T, 8).unbind()
    t = tape.Tape({}, torch.zeros(1, T, dtype=torch.long))
    t.fused_attention(tape.named_arguments(kernel, (q, k, v, *options), named), v)
    return t


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("_scaled_dot_product_efficient_attention", (None, False, 0.0, True)),
        ("_scaled_dot_product_cudnn_attention", (None, False, 0.0, True)),
        ("_scaled_dot_product_flash_attention", (0.0, True)),
        ("_scaled_dot_product_flash_attention_for_cpu", (0.0, True)),
        ("_scaled_dot_product_fused_attention_overrideable", (None, 0.0, True)),
    ],
)
def test_the_mask_of_a_fused_kernel_is_read_by_its_name(kernel, options):
    t = recorded(getattr(torch.ops.aten, kernel).default, *options)
    assert t.attentions[0].fused == "is_causal=True"
    assert future.reachable_fill(t) is None


def test_only_scores_that_were_masked_tell_what_a_mask_fills_with():
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert future.reachable_fill(recorded(flash)) is None, "nothing is masked: the scores above the diagonal are all different"
    above = torch.ones(T, T).triu(1)
    assert future.reachable_fill(recorded(flash, attn_mask=-500 * above))[0] == pytest.approx(-500, abs=10)


def test_products_are_exact_while_it_is_examined_and_as_before_afterwards():
    seen = []

    class Asks(Small):
        def forward(self, idx):
            seen.append(torch.get_float32_matmul_precision())
            return super().forward(idx)

    torch.set_float32_matmul_precision("high")
    try:
        examined(Asks)
        assert (set(seen), torch.get_float32_matmul_precision()) == ({"highest"}, "high")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("make", [Adapted, Widened])
def test_two_linear_layers_that_cannot_become_one_are_no_fault(make):
    report, found = examined(make)
    assert not found, str(report)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({}, "the configuration states n_head"),
        ({"decoder_attention_heads": H}, None),
        ({"activation": "silu"}, "the configuration states activation"),
    ],
)
def test_a_decoder_has_heads_of_its_own_in_the_configuration(other, problem):
    def make():
        model = Widened()
        model.config = types.SimpleNamespace(**({"n_head": H if "activation" in other else 2 * H} | other))
        return model

    report, found = examined(make)
    assert [f.cause.startswith(problem) for f in found] == [True] if problem else not found, str(report)


def test_a_part_may_state_the_activation_that_runs():
    def make():
        model = Widened()
        model.config = types.SimpleNamespace(activation="silu")
        model.mlp.config = types.SimpleNamespace(activation="gelu")
        return model

    report, found = examined(make)
    assert not found, str(report)
