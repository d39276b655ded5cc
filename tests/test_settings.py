"""Invalid settings are refused with the reason; presets have as many parameters as they state."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import picogpt
import picogpt_core as pc
from picogpt_doctor import GOLDEN


def parameters_by_formula(c: pc.ModelConfig) -> int:
    """Added up from the architecture, without building it."""
    C, norm = c.n_embd, c.n_embd * (1 + c.bias)
    block = 12 * C * C + 3 * C * c.qkv_bias + (C + 4 * C + C) * c.bias + 2 * norm
    head = c.vocab_size * C * (not c.tied_head) + c.vocab_size * c.head_bias
    return (c.vocab_size + c.block_size) * C + c.n_layer * block + norm * c.final_norm + head


@pytest.mark.parametrize("name", pc.PRESETS)
def test_each_preset_has_as_many_parameters_as_it_states(name):
    config, promised = pc.PRESETS[name]
    with torch.device("meta"):
        built = pc.count_parameters(pc.GPT(config))
    assert built == promised == parameters_by_formula(config)


def test_the_golden_counts_of_the_log():
    """The log's own figures, and its arithmetic: 1,792 more by query, key and value biases, less the last LayerNorm."""
    counts = {name: preset.parameters for name, preset in pc.PRESETS.items()}
    assert counts["picogpt-original"] == 2_468_161
    assert counts["nanogpt-scaled"] == counts["picogpt"] == 2_466_369
    assert counts["rasbt-scaled"] == 2_468_608
    assert counts["picogpt-6layer"] == 4_833_345
    assert counts["picogpt-original-block300"] == 2_479_425
    assert counts["gpt2"] == 124_439_808
    assert counts["picogpt-original"] - counts["nanogpt-scaled"] == 3 * 8 * 3 * 32 - 512


def test_the_doctor_knows_the_same_golden_counts():
    """It repeats them, since it can be copied without the course."""
    assert {name: pc.PRESETS[name].parameters for name in GOLDEN} == GOLDEN
    assert {"picogpt", "picogpt-original", "nanogpt-scaled", "rasbt-scaled", "gpt2"} <= set(GOLDEN)


@given(
    st.builds(
        dict,
        vocab_size=st.integers(1, 70),
        block_size=st.integers(1, 40),
        n_layer=st.integers(1, 3),
        n_head=st.sampled_from([1, 2, 4]),
        n_embd=st.sampled_from([4, 8, 12]),
        norm=st.sampled_from(["pre", "post"]),
        final_norm=st.booleans(),
        qkv_bias=st.booleans(),
        bias=st.booleans(),
        head=st.sampled_from([(False, False), (True, False), (False, True)]),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_architecture_has_the_parameters_of_the_formula_and_runs(fields):
    head_bias, tied_head = fields.pop("head")
    config = pc.ModelConfig(**fields, head_bias=head_bias, tied_head=tied_head)
    model = pc.GPT(config)
    assert pc.count_parameters(model) == parameters_by_formula(config)
    ids = torch.zeros(2, config.block_size, dtype=torch.long)
    assert model(ids).shape == (2, config.block_size, config.vocab_size)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (pc.ModelConfig, dict(n_embd=100, n_head=8), "n_embd=100 is not divisible by n_head=8"),
        (pc.ModelConfig, dict(n_layer=0), "n_layer=0 must be an integer (a Python int) of at least 1"),
        (pc.ModelConfig, dict(n_layer=2.5), "n_layer=2.5 must be an integer (a Python int)"),
        (pc.ModelConfig, dict(n_head=True), "n_head=True must be an integer (a Python int)"),
        (pc.ModelConfig, dict(norm="middle"), "norm='middle' must be one of 'pre', 'post'"),
        (pc.ModelConfig, dict(activation="swish"), "activation='swish' must be one of"),
        (pc.ModelConfig, dict(resid_dropout=1.0), "resid_dropout=1.0 must be a number from 0 to 0.99"),
        (pc.ModelConfig, dict(resid_dropout=float("nan")), "resid_dropout=nan"),
        (pc.ModelConfig, dict(tied_head=True), "Set head_bias=False"),
        (pc.TrainConfig, dict(steps=0), "steps=0"),
        (pc.TrainConfig, dict(batch_size=10, grad_accum=4), "batch_size=10 cannot be split into grad_accum=4"),
        (pc.TrainConfig, dict(learning_rate=-1e-3), "learning_rate=-0.001"),
        (pc.TrainConfig, dict(learning_rate=float("nan")), "learning_rate=nan"),
        (pc.TrainConfig, dict(optimizer="sgd"), "optimizer='sgd' must be one of"),
        (pc.TrainConfig, dict(seq_len=0), "seq_len=0"),
        (pc.TrainConfig, dict(device=7), "device=7"),
        (pc.TrainConfig, dict(beta2=1.0), "beta2=1.0"),
        (pc.SampleConfig, dict(temperature=-0.1), "temperature=-0.1 must be a finite number"),
        (pc.SampleConfig, dict(temperature=float("nan")), "temperature=nan"),
        (pc.SampleConfig, dict(temperature=float("inf")), "temperature=inf"),
        (pc.SampleConfig, dict(temperature="hot"), "temperature='hot'"),
        (pc.SampleConfig, dict(top_k=0), "top_k=0 must be an integer (a Python int) of at least 1"),
        (pc.SampleConfig, dict(top_p=0.0), "top_p=0.0 must be above 0 and at most 1"),
        (pc.SampleConfig, dict(top_p=1.01), "top_p=1.01"),
        (pc.SampleConfig, dict(top_p=float("nan")), "top_p=nan"),
        (pc.SampleConfig, dict(max_new_tokens=-1), "max_new_tokens=-1 must be an integer (a Python int) of at least 0"),
        (pc.SampleConfig, dict(seed=-1), "seed=-1"),
        (pc.SampleConfig, dict(seed=2**64), "seed=18446744073709551616"),
    ],
)
def test_invalid_settings_are_refused_with_value_and_reason(kind, wrong, message):
    with pytest.raises(ValueError) as error:
        kind(**wrong)
    assert message in str(error.value)


def test_settings_cannot_change_after_validation():
    for config in (pc.ModelConfig(), pc.TrainConfig(), pc.SampleConfig()):
        for field in dataclasses.fields(config):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(config, field.name, getattr(config, field.name))


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'nanogpt-scaled'"):
        pc.preset("nanogpt_scaled")


@pytest.mark.parametrize("name", ["tpu", "cuda", "cuda:1"])
def test_a_missing_device_is_named_with_the_available_ones(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device '{name}' is not on this machine, which has: .*cpu"):
        picogpt.pick_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert picogpt.pick_device(name) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="LOCAL_RANK=1 has no GPU of its own: this machine has 1.* --nproc-per-node=1"):
        picogpt.pick_device(name)


def test_budget_follows_the_environment(monkeypatch):
    monkeypatch.delenv("PICOGPT_BUDGET", raising=False)
    assert picogpt.budget(smoke=1, quick=2, full=3) == 2
    monkeypatch.setenv("PICOGPT_BUDGET", "full")
    assert picogpt.budget(smoke=1, quick=2, full=3) == 3
    monkeypatch.setenv("PICOGPT_BUDGET", "huge")
    with pytest.raises(ValueError, match="PICOGPT_BUDGET='huge' is none of smoke, quick, full"):
        picogpt.budget(smoke=1, quick=2, full=3)
