"""From logits to text: each step by itself, its limits, and all together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import picogpt
import picogpt_core as pc

LOGITS = hnp.arrays("float32", st.integers(2, 12), elements=st.floats(-30, 30, width=32)).map(torch.from_numpy)
CONFIGS = st.builds(
    pc.SampleConfig,
    temperature=st.one_of(st.just(0.0), st.floats(1e-6, 100)),
    top_k=st.one_of(st.none(), st.integers(1, 20)),
    top_p=st.one_of(st.none(), st.floats(0.01, 1)),
)


@given(LOGITS, CONFIGS)
@settings(max_examples=500, deadline=None)
def test_any_settings_give_probabilities_that_keep_the_order(logits, config):
    probs = pc.next_token_probs(logits, config)
    assert probs.sum().item() == pytest.approx(1, abs=1e-4)
    assert (probs >= 0).all()
    higher = logits[:, None] > logits + 1e-6  # (V, V); kernels differ in the last digits, and in numbers below 1e-38
    assert (probs[:, None] >= probs * (1 - 1e-5))[higher].all(), "a higher logit never becomes less likely"


def test_temperature_divides_the_logits_and_its_limits_are_greedy_and_uniform():
    logits = torch.tensor([2.0, 1.0, 0.0])
    at = lambda t: pc.next_token_probs(logits, pc.SampleConfig(temperature=t))  # noqa: E731
    assert torch.allclose(at(1), logits.softmax(0))
    assert torch.allclose(at(0.5), (2 * logits).softmax(0))
    assert torch.equal(at(0), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(at(1e-30), at(0)), "a tiny temperature does not overflow"
    assert torch.allclose(at(1e6), torch.full((3,), 1 / 3), atol=1e-5)


def test_top_k_keeps_k_and_what_ties_with_the_last():
    logits = torch.tensor([3.0, 1.0, 2.0, 1.0])
    kept = lambda k: pc.keep_top_k(logits, k).isfinite().tolist()  # noqa: E731
    assert kept(1) == [True, False, False, False]
    assert kept(2) == [True, False, True, False]
    assert kept(3) == [True, True, True, True]
    assert kept(99) == [True] * 4


def test_top_p_keeps_the_fewest_that_reach_p():
    logits = torch.tensor([0.5, 0.2, 0.3]).log()
    kept = lambda p: pc.keep_top_p(logits, p).isfinite().tolist()  # noqa: E731
    assert kept(0.01) == [True, False, False], "at least one always stays"
    assert kept(0.49) == [True, False, False]
    assert kept(0.7) == [True, False, True]
    assert kept(0.9) == [True, True, True]
    assert kept(1.0) == [True, True, True]


def test_draws_follow_the_probabilities():
    probs = torch.tensor([[0.1, 0.6, 0.0, 0.3]]).expand(20_000, 4)
    drawn = pc.sample_token(probs, torch.Generator().manual_seed(0))
    share = drawn.flatten().bincount(minlength=4) / 20_000
    assert torch.allclose(share, probs[0], atol=0.015)
    assert share[2] == 0


def test_generate_keeps_the_prompt_and_adds_the_given_number_of_tokens(make_model):
    model = make_model()
    prompt = torch.randint(0, model.config.vocab_size, (3, 5))
    for n in (0, 1, 40):
        out = pc.generate(model, prompt, pc.SampleConfig(n, seed=0))
        assert out.shape == (3, 5 + n)
        assert torch.equal(out[:, :5], prompt)


def test_greedy_text_takes_the_likeliest_token_also_past_the_block(make_model):
    model = make_model().eval()
    out = pc.generate(model, torch.tensor([[1, 2]]), pc.SampleConfig(40, temperature=0))[0]
    for t in range(2, 42):
        window = out[max(0, t - 16) : t]  # at most block_size
        assert out[t] == model(window[None])[0, -1].argmax()


def test_a_prompt_longer_than_the_block_is_cropped_to_its_end(make_model):
    model = make_model()
    long = torch.randint(0, model.config.vocab_size, (1, 50))
    config = pc.SampleConfig(10, seed=3)
    assert torch.equal(pc.generate(model, long, config)[:, 50:], pc.generate(model, long[:, -16:], config)[:, 16:])


def test_a_seed_repeats_another_differs_and_the_global_random_state_stays(make_model):
    model, prompt = make_model(), torch.tensor([[1]])
    before = torch.get_rng_state()
    one, again, two = (pc.generate(model, prompt, pc.SampleConfig(50, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(make_model, training):
    model = make_model(resid_dropout=0.5).train(training)
    prompt = torch.tensor([[1]])
    first = pc.generate(model, prompt, pc.SampleConfig(30, temperature=0))
    assert torch.equal(first, pc.generate(model, prompt, pc.SampleConfig(30, temperature=0)))
    assert model.training is training


@pytest.mark.parametrize("ids", [torch.zeros(1, 0, dtype=torch.long), torch.zeros(3, dtype=torch.long)])
def test_a_prompt_of_no_tokens_or_no_rows_is_refused(make_model, ids):
    with pytest.raises(ValueError, match=r"give \(B, T\) with T of at least 1"):
        pc.generate(make_model(), ids, pc.SampleConfig(1))


@pytest.mark.parametrize("bad", [-1, 65])
def test_an_id_the_model_does_not_know_is_refused(make_model, bad):
    with pytest.raises(ValueError, match=rf"id {bad} is not between 0 and"):
        pc.generate(make_model(vocab_size=65), torch.tensor([[1, bad]]), pc.SampleConfig(1))


def test_text_prompts(make_model, small):
    model = make_model()
    out = picogpt.generate_text(model, small.tokenizer, "Shall", pc.SampleConfig(7))
    assert out.startswith("Shall")
    assert len(out) == 5 + 7
    with pytest.raises(ValueError, match="the prompt is empty"):
        picogpt.generate_text(model, small.tokenizer, "", pc.SampleConfig(7))
    with pytest.raises(ValueError, match="'Z' .* at position 1"):
        picogpt.generate_text(model, small.tokenizer, "SZ", pc.SampleConfig(7))


@given(st.text(alphabet="Shal Icompre", min_size=1, max_size=40), CONFIGS, st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_any_prompt_and_settings_give_text(sonnet, prompt, config, n):
    corpus = picogpt.load_corpus(sonnet)
    model = pc.GPT(pc.ModelConfig(corpus.tokenizer.vocab_size, 16, 1, 2, 8))
    config = pc.SampleConfig(n, config.temperature, config.top_k, config.top_p, 0)
    out = picogpt.generate_text(model, corpus.tokenizer, prompt, config)
    assert out.startswith(prompt)
    assert len(out) == len(prompt) + n


def test_top_p_keeps_the_likeliest_however_small_p_and_everything_at_1():
    logits = torch.randn(3, 50_257)
    tiny = pc.next_token_probs(logits, pc.SampleConfig(top_p=1e-46))
    assert torch.equal(tiny.argmax(-1), logits.argmax(-1))
    assert ((tiny > 0).sum(-1) == 1).all()
    assert torch.equal(pc.next_token_probs(logits, pc.SampleConfig(top_p=1.0)), logits.softmax(-1))


def test_a_temperature_that_float32_does_not_know_is_refused():
    with pytest.raises(ValueError, match="temperature=1e-300 is 0 in float32: give 0 for greedy"):
        pc.SampleConfig(temperature=1e-300)
    probs = pc.next_token_probs(torch.tensor([1.0, 2.0, 2.0]), pc.SampleConfig(temperature=2e-38))
    assert probs.tolist() == [0.0, 0.5, 0.5]


def test_ids_in_a_list_are_named(make_model):
    with pytest.raises(ValueError, match="ids are a list: give a tensor"):
        pc.generate(make_model(), [1, 2], pc.SampleConfig(3))
