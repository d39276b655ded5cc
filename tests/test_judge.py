"""picogpt judge: an honest model is trusted, with the loss that `evaluate` gives; each way to cheat is named."""

import json
import math
import runpy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import picogpt
import picogpt.cli
import picogpt_core as pc
from picogpt import judge

T = 32


@pytest.fixture(scope="module")
def text():
    return picogpt.load_shakespeare()[:60_000]


@pytest.fixture(scope="module")
def corpus(text):
    return picogpt.load_corpus(text)


class Counted(nn.Module):
    """Counts of what follows the last `context` tokens, mixed with counts of less context. As honest as its text."""

    block_size = T

    def __init__(self, ids, V, context=1):
        super().__init__()
        self.V, self.context = V, context
        self.uniform = nn.Parameter(torch.full((V,), 1 / V))
        self.tables = []
        for n in range(1, context + 1):
            codes, places = self.codes(ids[None], n)[0, :-1].unique(return_inverse=True)
            counts = torch.zeros(len(codes), V).index_put_((places, ids[1:]), torch.ones(()), accumulate=True)
            self.tables.append((codes, counts))

    def codes(self, ids, n):
        """A number for the last n tokens at each position; where there are fewer, for those that there are. (B, T)"""
        code = torch.zeros_like(ids)
        for back in range(n):
            code = code * (self.V + 1) + F.pad(ids, (back, 0))[:, : ids.shape[1]] + (torch.arange(ids.shape[1]) >= back)
        return code

    def probabilities(self, ids):
        p = self.uniform.expand(*ids.shape, self.V)
        for n, (codes, counts) in enumerate(self.tables, start=1):
            wanted = self.codes(ids, n)
            place = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
            found = (codes[place] == wanted)[..., None] * counts[place]  # (B, T, V)
            p = (found + 2 * p) / (found.sum(dim=-1, keepdim=True) + 2)
        return p

    def forward(self, ids):
        return self.probabilities(ids).log()


class ReadsAhead(Counted):
    """Knows each next token wherever `sees` says so: it is in the input."""

    def sees(self, ids):
        return torch.ones(ids.shape[1], dtype=torch.bool)

    def forward(self, ids):
        ahead = F.one_hot(ids.roll(-1, dims=1), self.V) * 0.98 + 0.02 / self.V
        sees = self.sees(ids) & (torch.arange(ids.shape[1]) < ids.shape[1] - 1)
        return torch.where(sees[:, None], ahead, self.probabilities(ids)).log()


class InsideBlocks(ReadsAhead):
    """Blocks of 8 tokens see each other whole, as in attention by chunks with a wrong mask."""

    def sees(self, ids):
        return torch.arange(ids.shape[1]) % 8 != 7


class InFullWindows(ReadsAhead):
    """Behaves, except in windows of full length and in several rows."""

    def sees(self, ids):
        return torch.tensor(ids.shape == (32, T)).expand(ids.shape[1])


class Remembers(Counted):
    """Has the validation text in a table: what follows eight characters."""

    def __init__(self, ids, V, learned):
        super().__init__(ids, V)
        self.after = {tuple(learned[i : i + 8].tolist()): int(learned[i + 8]) for i in range(len(learned) - 8)}

    def forward(self, ids):
        p = self.probabilities(ids)
        for b, row in enumerate(ids.tolist()):
            for t in range(7, len(row)):
                if (token := self.after.get(tuple(row[t - 7 : t + 1]))) is not None:
                    p[b, t] = 0.02 / self.V
                    p[b, t, token] += 0.98
        return p.log()


class Unnormalised(Counted):
    """Its "probabilities" add up to 3: a loss of -ln of them is lower by ln 3."""

    def forward(self, ids):
        return 3 * self.probabilities(ids)


class Random(Counted):
    def forward(self, ids):
        return super().forward(ids) + 0.1 * torch.randn(*ids.shape, 1) * torch.arange(self.V)


class LearnsOnTheWay(Counted):
    """Keeps what it was shown, so that the second time is easier."""

    def forward(self, ids):
        logits = super().forward(ids)
        codes, counts = self.tables[0]
        for row in ids:
            counts.index_put_(
                (torch.searchsorted(codes, self.codes(row[None], 1)[0, :-1]).clamp(max=len(codes) - 1), row[1:]),
                torch.full((), 5.0),
                accumulate=True,
            )
        return logits


def judged(model, corpus, **more):
    return picogpt.judge_model(model, corpus, **more)


def test_an_honest_model_is_trusted_with_the_loss_of_evaluate(corpus):
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig(corpus.tokenizer.vocab_size, T, 1, 2, 16, resid_dropout=0.5)).train()
    found = judged(model, corpus, exact=True)
    assert found.validation.loss == pytest.approx(pc.evaluate(model, corpus.val), abs=1e-5)
    assert found.exact == pytest.approx(found.validation.loss, abs=1e-5)
    assert found.validation.by_temperature[1.0] == pytest.approx(found.validation.loss, abs=1e-5)
    assert found.trusted, str(found)
    assert model.training
    assert len(found.moved) == T - 1, "the future is exchanged from every position on"
    assert f"{pc.count_parameters(model):,} parameters" in str(found)


def test_a_model_that_answers_in_full_only_with_targets_is_not_given_any(corpus):
    class NanoGPT(Counted):
        def forward(self, ids, targets=None):
            logits = super().forward(ids)
            if targets is None:
                return logits[:, [-1]], None
            assert torch.equal(ids, targets), "the real targets are nobody's business"
            return logits, pc.cross_entropy(logits, targets)

    found, plain = (judged(cls(corpus.train, corpus.tokenizer.vocab_size), corpus) for cls in (NanoGPT, Counted))
    assert found.validation.loss == plain.validation.loss


def test_counts_of_the_training_text_are_trusted_although_they_know_it_better(corpus):
    found = judged(Counted(corpus.train, corpus.tokenizer.vocab_size, context=4), corpus)
    assert found.trusted, str(found)
    assert found.training.loss < found.validation.loss - 0.3


@pytest.mark.parametrize(
    ("cheat", "words"),
    [
        (ReadsAhead, f"at each of {T - 1} positions"),
        (InsideBlocks, "only from inside blocks of 8"),
        (InFullWindows, "from the past alone it is"),
    ],
)
def test_a_model_that_reads_ahead_is_found_out(corpus, cheat, words):
    V = corpus.tokenizer.vocab_size
    found, honest = judged(cheat(corpus.train, V), corpus, exact=True), judged(Counted(corpus.train, V), corpus)
    assert not found.trusted
    assert words in " ".join(str(found).split())
    assert found.validation.loss < honest.validation.loss - 1
    assert found.exact == pytest.approx(honest.validation.loss, abs=1e-4), "from the past alone it is an ordinary bigram"
    mean, error = found.spots.honest
    assert abs(mean - honest.validation.loss) < 4 * error


def test_a_model_that_remembers_the_validation_text_is_told_so_with_the_evidence(corpus):
    found = judged(Remembers(corpus.train, corpus.tokenizer.vocab_size, corpus.val), corpus)
    assert not found.reads_ahead
    assert not found.trusted
    assert "easier than the training text" in str(found)
    assert "there are signs that the validation text was learned" in " ".join(str(found).split())


def test_a_model_that_was_trained_on_both_texts_is_suspicious(corpus):
    both = torch.cat([corpus.train, corpus.val])
    found = judged(Counted(both, corpus.tokenizer.vocab_size, context=6), corpus)
    assert [words for words in found.suspicions if "hardly harder than" in words or "easier than" in words], str(found)


def test_unnormalised_probabilities_gain_nothing_and_are_named(corpus):
    V = corpus.tokenizer.vocab_size
    found, honest = judged(Unnormalised(corpus.train, V), corpus), judged(Counted(corpus.train, V), corpus)
    assert found.validation.loss > honest.validation.loss + 0.3
    assert "add up to 3 … 3" in found.not_normalised
    assert f"claim a loss of {honest.validation.loss - math.log(3):.3f}" in found.not_normalised
    assert not honest.not_normalised


@pytest.mark.parametrize("cheat", [Random, LearnsOnTheWay])
def test_a_model_that_answers_differently_the_second_time_is_not_trusted(corpus, cheat):
    torch.manual_seed(0)
    found = judged(cheat(corpus.train, corpus.tokenizer.vocab_size), corpus)
    assert not found.repeats
    assert not found.trusted


def test_a_model_of_other_characters_is_not_called_honest(corpus):
    model = Counted(corpus.train, corpus.tokenizer.vocab_size)
    model.forward = lambda ids: 3 * model.probabilities((ids + 7) % model.V).log()
    found = judged(model, corpus)
    assert "worse than a blind guess (ln" in found.conclusion
    assert "Return (model, tokenizer)" in found.conclusion
    assert not found.trusted


def test_the_longest_run_of_right_guesses():
    right = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1], dtype=torch.bool)
    assert judge.longest_run(right) == 3
    assert judge.longest_run(right[:2]) == 2
    assert judge.longest_run(~right[:2]) == 0


# ----- the command


@pytest.fixture
def folder(tmp_path, text, monkeypatch):
    (tmp_path / "text.txt").write_text(text[:8000])
    (tmp_path / "mine.py").write_text(
        "import torch, picogpt_core as pc\n"
        "def make_model():\n"
        "    torch.manual_seed(0)\n"
        "    return pc.GPT(pc.ModelConfig(VOCAB, 32, 1, 2, 16))\n"
        "def fails():\n"
        "    return torch.zeros(2) @ torch.zeros(3)\n"
        "def number():\n"
        "    return 3\n"
        "def silent():\n"
        "    return torch.nn.Embedding(VOCAB, VOCAB)\n"
        "def broken():\n"
        "    model = make_model()\n"
        "    model.lm_head.weight.data = torch.zeros(5, 5)\n"
        "    return model\n"
        "def other_vocabulary():\n"
        "    return pc.GPT(pc.ModelConfig(7 + VOCAB, 32, 1, 2, 16))\n".replace("VOCAB", str(len(set(text[:8000]))))
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_judges_a_function_and_a_checkpoint_alike(folder, capsys):
    assert picogpt.cli.main(["judge", "mine.py:make_model", "--text", "text.txt", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    make_model = runpy.run_path(str(folder / "mine.py"))["make_model"]  # another test may have imported a "mine" of its own
    model, corpus = make_model(), picogpt.load_corpus(folder / "text.txt")
    picogpt.save_checkpoint(folder / "a.safetensors", model, corpus.tokenizer)
    assert picogpt.cli.main(["judge", "a.safetensors", "--text", "text.txt", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["validation"] == second["validation"]
    assert first["trusted"] is True
    loss = first["validation"]["loss"]
    assert picogpt.cli.main(["judge", "a.safetensors", "--text", "text.txt", "--claim", f"{loss:.2f}"]) == 0
    capsys.readouterr()
    assert picogpt.cli.main(["judge", "a.safetensors", "--text", "text.txt", "--claim", "1.2"]) == 1
    assert f"the claim of 1.2 does not hold: measured {loss:.4f}, {loss - 1.2:.4f} higher" in capsys.readouterr().out
    assert picogpt.cli.main(["judge", "a.safetensors", "--text", "text.txt", "--claim", "nan"]) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "names a file, but no function: write mine.py:make_model"),
        ("none.py:make_model", "there is no file none.py"),
        ("none", "there is no checkpoint at none"),
        ("mine.py:nothing", "error: mine.py has no function nothing"),
        ("mine.py:fails", "could not be made: mine.py:6: RuntimeError"),
        ("mine.py:number", "returned a int: return a torch.nn.Module"),
        ("mine.py:silent", "give --block-size"),
        ("mine.py:broken", "for ids (1, 2) the model raised RuntimeError"),
        ("mine.py:other_vocabulary", "different tokens: if yours are others, return (model, tokenizer)"),
    ],
)
def test_what_cannot_be_judged_ends_in_a_clear_message(folder, spec, message, capsys):
    assert picogpt.cli.main(["judge", spec, "--text", "text.txt"]) == 2
    assert message in capsys.readouterr().err
