"""The study runner makes each run once, resumes a killed one and measures right; benchmarks run in processes apart."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import picogpt
import picogpt_core as pc

sys.path.insert(0, str(picogpt.ROOT / "benchmarks"))
import harness
import ngrams
import study

TINY = dict(n_layer=1, n_head=2, n_embd=16, block_size=16)
QUICK = dict(steps=6, batch_size=2, eval_every=3, log_every=3, dtype="float32", device="cpu")


@pytest.fixture
def little(tmp_path, monkeypatch, small):
    """A study of two variants and two seeds on a small text, in a folder of its own."""
    variants = {"narrow": (TINY, QUICK), "no mask": (TINY | dict(causal=False), QUICK)}
    variants = {
        name: (model | dict(vocab_size=small.tokenizer.vocab_size), recipe) for name, (model, recipe) in variants.items()
    }
    monkeypatch.setattr(study, "STUDIES", {"little": study.Study(variants, seeds=2)})
    monkeypatch.setattr(study, "RUNS", tmp_path)
    monkeypatch.setattr(picogpt, "ROOT", tmp_path)
    monkeypatch.setattr(picogpt, "load_corpus", lambda: small)
    return tmp_path / "little.csv"


def test_every_variant_and_seed_has_its_history(little):
    study.main("little")
    rows = picogpt.load_rows(little)
    assert {(row["variant"], row["seed"]) for row in rows} == {(v, s) for v in ("narrow", "no mask") for s in (1337, 1338)}
    assert {
        "study",
        "variant",
        "seed",
        "step",
        "tokens",
        "train_loss",
        "val_loss",
        "learning_rate",
        "grad_norm",
        "seconds",
    } <= set(rows[0])
    assert {"parameters", "torch", "machine"} <= set(rows[0])
    assert all(len(losses) == 2 for losses in picogpt.final_losses(little).values())


def test_only_missing_runs_are_made(little, monkeypatch):
    study.main("little")
    whole = little.read_text()
    rows = picogpt.load_rows(little)
    kept = [row for row in rows if (row["variant"], row["seed"]) != ("no mask", 1338)]
    picogpt.save_rows(little, kept)  # as if killed before it
    trained = []
    train = picogpt.train
    monkeypatch.setattr(picogpt, "train", lambda *args, **kwargs: trained.append(args[2].seed) or train(*args, **kwargs))
    study.main("little")
    assert trained == [1338], "only the missing one"
    losses = [row["train_loss"] for row in picogpt.load_rows(little)]
    assert losses == [row["train_loss"] for row in rows], "and it came out as before"
    trained.clear()
    study.main("little")
    assert trained == []
    assert len(little.read_text().splitlines()) == len(whole.splitlines())


def test_a_killed_run_is_resumed_from_its_checkpoint(little, monkeypatch):
    study.main("little")
    expected = [row["train_loss"] for row in picogpt.load_rows(little)]
    little.unlink()

    def stop(row, net):
        if row["step"] == 6:
            raise KeyboardInterrupt

    monkeypatch.setitem(study.STUDIES, "little", study.STUDIES["little"]._replace(look=lambda net, text: stop))
    with pytest.raises(KeyboardInterrupt):
        study.main("little")
    saved = picogpt.load_checkpoint(study.folder_of("little", "narrow", 1337) / "last.safetensors")
    assert saved.about["step"] == 3
    monkeypatch.setitem(study.STUDIES, "little", study.STUDIES["little"]._replace(look=None))
    study.main("little")
    assert [row["train_loss"] for row in picogpt.load_rows(little)] == expected


def test_a_diverging_run_is_a_result(little, monkeypatch):
    def broken(*args, **kwargs):
        raise FloatingPointError("the loss is not a number")

    monkeypatch.setattr(picogpt, "train", broken)
    study.main("little")
    assert all(losses == [float("inf")] * 2 for losses in picogpt.final_losses(little).values())


def test_an_unknown_study_is_refused_with_the_known_names():
    with pytest.raises(SystemExit, match="no study is called 'nosuch': .*best, "):
        study.main("nosuch")


def test_the_longest_copy_is_found():
    source = "my lord, the queen is dead. Speak, what noise"
    assert study.longest_copy("x the queen is not", source) == " the queen is "
    assert study.longest_copy("zzz", source) == ""
    assert study.longest_copy(source, source) == source


def test_loss_by_position_is_the_loss_of_each_eighth(small):
    torch.manual_seed(0)
    net = pc.GPT(pc.ModelConfig(vocab_size=small.tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16)).eval()
    ids = small.train[: 256 * 3 + 1]
    parts = study.loss_by_position(net, ids)
    x, y = ids[: 256 * 2].view(2, 256), ids[1 : 256 * 2 + 1].view(2, 256)
    with torch.no_grad():
        logits = net(x)
    for i, loss in enumerate(parts):
        part = slice(32 * i, 32 * (i + 1))
        assert loss == pytest.approx(pc.cross_entropy(logits[:, part], y[:, part]).item(), abs=1e-5)


BENCHMARK = """
import os, sys
sys.path.insert(0, "FOLDER")
import harness

def ours(seed, name="x"):
    print("what a library prints")
    return dict(seed=seed, name=name, process=os.getpid())

harness.run({"ours": ours, "theirs": lambda: 1 / 0}, lambda: print("main"))
"""


@pytest.fixture
def benchmark(tmp_path):
    script = tmp_path / "benchmark.py"
    script.write_text(BENCHMARK.replace("FOLDER", str(Path(harness.__file__).parent)))
    return str(script)


def test_a_contender_is_measured_in_a_process_of_its_own(benchmark):
    one, two = (harness.measure(benchmark, "ours", 1337, "a b") for _ in range(2))
    assert (one["seed"], one["name"]) == (1337, "a b")
    assert len({one["process"], two["process"], os.getpid()}) == 3
    assert subprocess.check_output([sys.executable, benchmark], text=True) == "main\n"


def test_a_contender_that_fails_or_is_unknown_ends_the_benchmark(benchmark, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        harness.measure(benchmark, "theirs")
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(subprocess.CalledProcessError):
        harness.measure(benchmark, "nobody")
    assert "no contender is called 'nobody': ours, theirs" in capfd.readouterr().err


def test_runs_with_other_settings_are_not_mixed_with_new_ones(little, monkeypatch):
    study.main("little")
    whole, settings = little.read_text(), little.with_suffix(".json").read_text()
    variants = study.STUDIES["little"].variants
    model, recipe = variants["narrow"]
    wider = variants | {"narrow": (model | dict(n_embd=32), recipe)}
    monkeypatch.setitem(study.STUDIES, "little", study.STUDIES["little"]._replace(variants=wider))
    with pytest.raises(SystemExit, match="holds runs of narrow with other settings: delete it to measure again"):
        study.main("little", "1339")
    assert (little.read_text(), little.with_suffix(".json").read_text()) == (whole, settings)


def test_the_stages_of_growth_add_parts_one_by_one(monkeypatch):
    ids = torch.arange(20)[None]
    sizes, moved = [], {}
    for stage, (changes, _) in study.STUDIES["growth"].variants.items():
        torch.manual_seed(0)
        net = study.grown(stage, pc.ModelConfig(**changes)).eval()
        sizes.append(pc.count_parameters(net))
        other = ids.clone()
        other[0, 0] = 30  # the first of twenty characters
        moved[stage] = (net(ids) - net(other)).abs().amax(dim=2)[0, 5:].max().item() > 0
        text = pc.generate(net, ids, pc.SampleConfig(3, temperature=0))
        assert torch.equal(text, pc.generate(net, ids, pc.SampleConfig(3, temperature=0), use_cache=False)), stage
    assert sizes[:-1] == sorted(sizes[:-1])
    assert (sizes[0], sizes[-2]) == (2 * 65 * 256 + 65, 2_466_369)
    assert 0 < sizes[-2] - sizes[-1] == 7 * 2 * 256  # seven LayerNorms
    assert list(moved.values()) == [False, False] + 6 * [True]  # attention alone carries anything onwards


def test_a_recipe_is_chosen_without_the_validation_text():
    whole = picogpt.load_corpus()
    tried = study.STUDIES["recipes"].text_of("smoothing 0.03", whole)
    assert torch.equal(torch.cat([tried.train, tried.val]), whole.train)
    assert len(tried.val) == pytest.approx(len(whole.train) / 10, abs=1)
    assert study.STUDIES["best"].text_of("picogpt", whole) is whole


def test_the_split_study_leaves_out_the_end_of_the_training_text():
    whole, text_of = picogpt.load_corpus(), study.STUDIES["split"].text_of
    less = text_of("nine tenths, 400 steps", whole)
    assert less.val is whole.val
    assert torch.equal(less.train, whole.train[: len(less.train)])
    assert len(less.train) == pytest.approx(0.9 * len(whole.train), abs=1)
    assert text_of("all, 400 steps", whole) is whole


def test_what_is_recited_is_counted_until_the_first_difference():
    ids = torch.arange(400) % 7  # 0 1 2 3 4 5 6 0 1 2 …

    class Counter(pc.GPT):
        """Counts on, and from 5 to 0: at most five characters are right."""

        def forward(self, ids, cache=None, last_only=False):
            return torch.nn.functional.one_hot((ids + 1) % 7 * (ids != 5), 7).float()  # (B, T, V=7)

    net = Counter(pc.ModelConfig(vocab_size=7, n_layer=1, n_head=1, n_embd=8, block_size=128))
    counts = study.characters_recited(net, ids)
    assert len(counts) == study.PREFIXES
    starts = torch.linspace(0, 300, study.PREFIXES).long()
    assert counts == [(5 - (int(start) + 49) % 7) % 7 for start in starts]


def test_what_is_measured_at_the_end_stands_in_the_last_row(little, monkeypatch):
    variants = study.STUDIES["little"].variants
    finish = study.calibrated
    monkeypatch.setattr(study, "STUDIES", {"little": study.Study(variants, seeds=1, finish=finish)})
    study.main("little")
    rows = picogpt.load_rows(little)
    assert [row["temperature"] is not None for row in rows] == [False, True] * 2
    assert rows[-1]["calibrated_loss"] <= rows[-1]["val_loss"]


def test_kneser_ney_gives_probabilities_and_prefers_what_stands_after_many():
    text = "san francisco, san francisco, a tea, my tea, the tea."
    model = ngrams.KneserNey(text, n=3, discount=0.8)
    for context in ("sa", "o,", "qq"):  # known, known, unknown
        assert sum(model.probability(context + char) for char in sorted(set(text))) == pytest.approx(1)
    # after something unknown: e has been seen behind two different characters, f behind one
    assert model.probability("qqe") > model.probability("qqf")
    assert model.loss(text, 10) < math.log(len(set(text)))


@pytest.mark.parametrize("name", ["biases", "biases_since_gpt2"])
def test_models_with_and_without_biases_start_from_the_same_matrices(name):
    matrices = {}
    for variant, (changes, _) in study.STUDIES[name].variants.items():
        torch.manual_seed(7)
        net = study.STUDIES[name].build(variant, pc.ModelConfig(**changes | TINY))
        matrices[variant] = {key: weight for key, weight in net.named_parameters() if weight.dim() == 2}
    pairs = [(matrices[variant], matrices[variant.split(",")[0]]) for variant in matrices if "bias" in variant]
    assert len(pairs) >= 2
    assert all(torch.equal(one[key], other[key]) for one, other in pairs for key in one.keys() | other.keys())


def test_models_of_one_budget_cost_the_same():
    for variant, (model, recipe) in study.STUDIES["isoflop"].variants.items():
        cost = pc.flops_per_token(pc.ModelConfig(**model)) * recipe["steps"] * recipe["batch_size"] * model["block_size"]
        assert cost == pytest.approx(float(variant.split()[0]), rel=0.01)
