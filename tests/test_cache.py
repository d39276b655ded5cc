"""With a cache, and with a draft model, generation gives what the model alone gives: logits, text and distribution."""

import dataclasses

import pytest
import torch

import picogpt_core as pc

SHAPES = [
    {},
    dict(norm="post", final_norm=False),
    dict(bias=False, qkv_bias=True, n_layer=1),
    dict(tied_head=True, head_bias=False),
]
BLOCK = 16


def greedy(n, **changes):
    return pc.SampleConfig(n, temperature=0, **changes)


# ----- the cache


@pytest.mark.parametrize("changes", SHAPES)
def test_logits_with_and_without_a_cache_are_equal_at_every_position(make_model, changes):
    model = make_model(**changes).eval()
    ids = torch.randint(model.config.vocab_size, (3, BLOCK), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids)
        for prompt in range(1, BLOCK + 1):
            cache = pc.KVCache(model.config, 3)
            parts = [model(ids[:, :prompt], cache=cache)]
            parts += [model(ids[:, t : t + 1], cache=cache) for t in range(prompt, BLOCK)]
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
            assert cache.length == BLOCK


def test_several_tokens_can_follow_a_cache_and_the_last_ones_can_be_removed(make_model):
    model = make_model().eval()
    ids = torch.randint(model.config.vocab_size, (2, BLOCK), generator=torch.Generator().manual_seed(0))
    other = (ids + 1) % model.config.vocab_size
    with torch.no_grad():
        whole, cache = model(ids), pc.KVCache(model.config, 2)
        model(ids[:, :5], cache=cache)
        model(other[:, 5:9], cache=cache)  # a wrong guess
        cache.length = 5
        torch.testing.assert_close(model(ids[:, 5:12], cache=cache), whole[:, 5:12], atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
@pytest.mark.parametrize("prompt", [1, 7, BLOCK - 1, BLOCK, BLOCK + 3])
def test_text_with_a_cache_is_the_text_without_across_the_block(make_model, prompt, length):
    model = make_model(seed=3)
    ids = torch.randint(model.config.vocab_size, (2, prompt), generator=torch.Generator().manual_seed(1))
    for config in (greedy(length), pc.SampleConfig(length, temperature=0.8, top_k=5, seed=7)):
        assert torch.equal(pc.generate(model, ids, config), pc.generate(model, ids, config, use_cache=False))


def test_a_cache_is_refused_where_its_result_would_be_wrong(make_model):
    model, ids = make_model().eval(), torch.zeros(1, 10, dtype=torch.long)
    cache = pc.KVCache(model.config)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match="a window of 10 tokens after 10 in the cache: there is room for 6 more"):
        model(ids, cache=cache)
    assert cache.length == 10
    refused = {"in evaluation mode only": make_model().train(), "with a causal model only": make_model(causal=False).eval()}
    for words, wrong in refused.items():
        with pytest.raises(ValueError, match=words):
            wrong(ids, cache=pc.KVCache(model.config))


def test_a_model_without_a_mask_reads_everything_again_for_each_token(make_model):
    model = make_model(causal=False).eval()
    out = pc.generate(model, torch.zeros(1, 3, dtype=torch.long), greedy(20))[0]
    for t in range(3, 23):
        assert out[t] == model(out[None, max(0, t - BLOCK) : t])[0, -1].argmax()


# ----- speculation


@pytest.mark.parametrize("gamma", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("prompt", [1, 6, BLOCK - 1, BLOCK, BLOCK + 2])
def test_greedy_speculation_is_the_targets_own_text_across_the_block(make_model, gamma, prompt):
    target, draft = make_model(seed=1), make_model(seed=2, n_layer=1, n_embd=8, block_size=24)
    ids = torch.randint(target.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    for guesser in (draft, target):
        done = pc.generate_speculative(target, guesser, ids, greedy(2 * BLOCK), gamma)
        assert torch.equal(done.ids, pc.generate(target, ids, greedy(2 * BLOCK)))
        assert all(0 <= passed <= drafted <= gamma for drafted, passed in done.rounds)
    assert all(passed == drafted for drafted, passed in done.rounds), "a target that drafts for itself rejects nothing"


def test_a_seed_repeats_and_modes_are_restored(make_model):
    target, draft = make_model(seed=1).train(), make_model(seed=2, n_layer=1).eval()
    ids, config = torch.zeros(1, 2, dtype=torch.long), pc.SampleConfig(30, seed=5)
    a, b = (pc.generate_speculative(target, draft, ids, config).ids for _ in range(2))
    assert torch.equal(a, b)
    assert (target.training, draft.training) == (True, False)
    other = dataclasses.replace(config, seed=6)
    assert not torch.equal(a, pc.generate_speculative(target, draft, ids, other).ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(ids=torch.zeros(2, 3, dtype=torch.long)), "ids has 2 rows"),
        (dict(gamma=0), "gamma=0 must be a whole number"),
        (dict(gamma=1.5), "gamma=1.5 must be a whole number"),
        (dict(ids=torch.zeros(1, 0, dtype=torch.long)), "give \\(B, T\\) with T of at least 1"),
        (dict(ids=torch.full((1, 2), 99)), "id 99 is not between"),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(make_model, changes, message):
    given = dict(ids=torch.zeros(1, 3, dtype=torch.long), gamma=4) | changes
    with pytest.raises(ValueError, match=message):
        pc.generate_speculative(make_model(), make_model(seed=1), given["ids"], greedy(5), given["gamma"])


def test_two_models_that_do_not_match_are_refused(make_model):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="vocab_size=9 and"):
        pc.generate_speculative(make_model(), make_model(vocab_size=9), ids, greedy(5))
    with pytest.raises(ValueError, match="both models must be causal"):
        pc.generate_speculative(make_model(), make_model(causal=False), ids, greedy(5))


# Three letters. The draft is far off, and both depend on the letter before: rows of next-letter probabilities.
TARGET = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
DRAFT = torch.tensor([[0.2, 0.2, 0.6], [0.5, 0.4, 0.1], [0.0, 0.5, 0.5]])
DRAWS = 100_000


def chi_square(accept, gamma: int, seed: int) -> tuple[float, float]:
    """χ² of the first letter (2 degrees of freedom) and of the first two (8) after letter 0, against the target's."""
    generator = torch.Generator().manual_seed(seed)
    rolls = torch.multinomial(DRAFT.repeat_interleave(DRAWS, 0), gamma, replacement=True, generator=generator)
    rolls = rolls.view(3, DRAWS, gamma).tolist()  # what the draft writes after each letter
    last = torch.multinomial(TARGET.repeat_interleave(DRAWS, 0), 1, generator=generator).view(3, DRAWS).tolist()
    counts = torch.zeros(3, 3)
    for n in range(DRAWS):
        letters, before = [], 0
        for g in range(gamma):  # the draft writes
            before = rolls[before][n][g]
            letters.append(before)
        rows = [0, *letters]
        passed, token = accept(torch.tensor(letters), DRAFT[rows[:-1]], TARGET[rows], generator)
        text = [*letters[:passed], int(token)]
        if len(text) == 1:  # the next round's first letter is the target's, as shown for one letter
            text.append(last[text[0]][n])
        counts[text[0], text[1]] += 1
    expected = DRAWS * TARGET[0][:, None] * TARGET  # (3, 3)
    first = ((counts.sum(1) - expected.sum(1)) ** 2 / expected.sum(1)).sum().item()
    return first, ((counts - expected) ** 2 / expected).sum().item()


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1, 3])
def test_accepted_tokens_have_the_targets_distribution(gamma):
    first, two = chi_square(pc.accept_draft, gamma, seed=gamma)
    assert first < 13.8, "χ² with 2 degrees of freedom exceeds this once in a thousand"
    assert two < 26.1, "with 8, likewise"


@pytest.mark.slow
def test_a_wrong_acceptance_rule_fails_the_chi_square_test():
    def always_redraws_from_the_target(drafted, guess, truth, generator):
        for i, token in enumerate(drafted.tolist()):
            if torch.rand((), generator=generator) * guess[i, token] >= truth[i, token]:
                return i, pc.sample_token(truth[i][None], generator)  # the slip: max(0, truth - guess) forgotten
        return len(drafted), pc.sample_token(truth[-1:], generator)

    assert chi_square(always_redraws_from_the_target, 1, seed=0)[0] > 100


def test_a_rejection_without_a_remainder_draws_from_the_target():
    """Rounding can make the target's probability the smaller one of two that are equal, with nothing to draw instead."""
    guess, truth = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.5, 0.0]])  # far coarser than rounding is
    rejected = [pc.accept_draft(torch.tensor([0]), guess, truth, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {passed for passed, _ in rejected} == {0, 1}
    assert all(token.item() == 0 for _, token in rejected)


@pytest.mark.slow
def test_generated_text_has_the_targets_distribution(make_model):
    """Two letters after a prompt, with settings that cut the distribution, over 4,000 seeds."""
    target, draft = make_model(seed=1), make_model(seed=2, n_layer=1, n_embd=8)
    with torch.no_grad():
        for model in (target, draft):
            model.lm_head.weight *= 12  # far from even, and from each other
    ids, config = torch.zeros(1, 3, dtype=torch.long), pc.SampleConfig(2, temperature=0.9, top_k=4)
    draws, counts = 4000, {}
    for seed in range(draws):
        done = pc.generate_speculative(target, draft, ids, dataclasses.replace(config, seed=seed), gamma=1)
        pair = tuple(done.ids[0, 3:].tolist())
        counts[pair] = counts.get(pair, 0) + 1
    target.eval()
    with torch.no_grad():
        first = pc.next_token_probs(target(ids)[0, -1], config)
        total, pairs = 0.0, 0
        for a in first.nonzero()[:, 0].tolist():
            then = pc.next_token_probs(target(torch.cat([ids, torch.tensor([[a]])], 1))[0, -1], config)
            for b in then.nonzero()[:, 0].tolist():
                expected = draws * (first[a] * then[b]).item()
                total += (counts.pop((a, b), 0) - expected) ** 2 / expected
                pairs += 1
    assert not counts, "nothing outside the target's top four"
    assert pairs == 16
    assert total < 37.7, "χ² with 15 degrees of freedom exceeds this once in a thousand"
