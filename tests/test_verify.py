"""picogpt verify: this machine agrees with the stored results, and each planted fault is named."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

import bands
import picogpt
import picogpt.cli
import picogpt_core as pc
import references
from picogpt import verify


@pytest.mark.parametrize("number_format", verify.FORMATS)
def test_this_machine_agrees(number_format):
    result = verify.verify_in(number_format, "cpu", shipped_too=False)
    assert result.agrees, str(result)
    assert [line.kind for line in result.lines] == [kind for kind in verify.TITLES if kind != "shipped"]


@pytest.mark.slow
def test_the_core_in_float64_gives_the_stored_results():
    """An edit of the core that changes what is computed fails here, however small the change."""
    stored = verify.references()
    for key, values in references.measured().items():
        assert values == pytest.approx(stored[key].values, rel=1e-10, abs=1e-12), key


def test_weights_are_exact_in_every_format_and_need_no_random_numbers():
    torch.manual_seed(1)
    one = verify.reference_model().state_dict()
    torch.manual_seed(2)
    for name, weight in verify.reference_model().state_dict().items():
        assert torch.equal(weight, weight.to(torch.bfloat16).float()), name
        assert torch.equal(weight, one[name]), name
        assert name.endswith("bias") or len(weight.unique()) > 8, name


# ----- planted faults


def transposed_weight(patch):
    real = verify.reference_model

    def make():
        model = real()
        weight = model.h[1].attn.c_proj.weight
        weight.data = weight.data.T.contiguous()
        return model

    return dict(make=make)


def ten_bits(x):
    """What TF32 keeps of a float32: 10 bits of the mantissa."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def tf32(patch):
    real = F.linear
    patch.setattr(F, "linear", lambda x, w, b=None: real(ten_bits(x.contiguous()), ten_bits(w.contiguous()), b))


def tanh_gelu(patch):
    patch.setitem(pc.ACTIVATIONS, "gelu", pc.ACTIVATIONS["gelu_tanh"])


def dropout_left_on(patch):
    patch.setattr(pc.Dropout, "forward", lambda self, x: F.dropout(x, self.p, training=True))


def dropout_on_attention(patch):
    real = pc.fused_attend
    patch.setattr(pc, "fused_attend", lambda q, k, v, causal=True, dropout=0.0: real(q, k, v, causal, 0.1))


def cache_off_by_one(patch):
    real = pc.KVCache.append
    patch.setattr(pc.KVCache, "append", lambda self, layer, k, v: tuple(x[:, :, 1:] for x in real(self, layer, k, v)))


def window_turned_round(patch):
    real = pc.GPT.forward

    def forward(self, ids, last_only=False, cache=None):
        if last_only and cache is None:  # generate, without a cache or past the block
            ids = ids.flip(1)
        return real(self, ids, last_only, cache)

    patch.setattr(pc.GPT, "forward", forward)


def a_longer_step_of_muon(patch):
    real = pc.orthogonal
    patch.setattr(pc, "orthogonal", lambda x: 1.01 * real(x))


def gradients_not_cleared(patch):
    real = verify.optimizer_step

    def step(optimizers, lr_fraction, bf16=False):
        kept = [p.grad.clone() for p in optimizers[0].param_groups[0]["params"]]
        real(optimizers, lr_fraction, bf16)
        for p, grad in zip(optimizers[0].param_groups[0]["params"], kept, strict=True):
            p.grad = grad

    patch.setattr(verify, "optimizer_step", step)


def another_loss(patch):
    real = pc.cross_entropy
    patch.setattr(pc, "cross_entropy", lambda z, y, s=0.0: real(z, y, 0.01))


def overflow(patch):
    def make():
        model = verify.reference_model()
        model.h[0].ln_2.weight.data[3] = math.inf
        return model

    return dict(make=make)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "kind", "first", "advice"),
    [
        (transposed_weight, "forward", "h.1.attn.c_proj", "another weight, a transposed one"),
        (tf32, "forward", "h.0.attn.c_attn", "switches TF32 off"),
        (tanh_gelu, "forward", "h.0.mlp.gelu", "another activation"),
        (dropout_left_on, "forward", "drop", "dropout is on in evaluation mode"),
        (dropout_on_attention, "forward", "h.0.attn.attend", "a dropout on its weights"),
        (cache_off_by_one, "cache", "lm_head", "without a cache it agrees"),
        (window_turned_round, "greedy", "token 15", "the logits agree and the tokens do not"),
        (another_loss, "loss", "loss", "the loss does not"),
        (a_longer_step_of_muon, "step of Muon", "h.0.attn.c_attn.weight", "gradients agree and the step does not"),
        (gradients_not_cleared, "20 steps of AdamW", "step 3", "gradients not cleared"),
        (overflow, "forward", "h.0.ln_2", "not a number"),
    ],
)
def test_a_planted_fault_is_named_where_it_begins(plant, kind, first, advice, monkeypatch):
    more = plant(monkeypatch) or {}
    result = verify.verify_in("float32", "cpu", shipped_too=False, **more)
    line = result.first_off
    assert line is not None, str(result)
    assert (line.kind, line.first_off.name) == (kind, first), str(result)
    assert advice in str(result)
    assert f"first at {first}" in str(result) or f"from {first} on" in str(result)


@pytest.mark.slow
def test_faults_are_named_in_bfloat16_too(monkeypatch):
    result = verify.verify_in("bfloat16", "cpu", shipped_too=False, **transposed_weight(monkeypatch))
    assert result.first_off.first_off.name == "h.1.attn.c_proj"


# ----- the report


@pytest.fixture
def quick(monkeypatch):
    """Results as they would be, without computing them: of each kind the first, exactly right."""
    stored = verify.references()
    kinds = {"forward again": "forward", "cache": "forward"}
    found = {}
    for (kind, name), reference in stored.items():
        if kind != "shipped":
            found[kind, name] = list(reference.values)
    found |= {(new, name): found[old, name] for new, old in kinds.items() for kind, name in list(found) if kind == old}
    monkeypatch.setattr(verify, "measure", lambda make, bf16=False: found)
    return found


def run(capsys, *words):
    status = picogpt.cli.main(["verify", *words])
    return status, capsys.readouterr().out


def test_the_report_as_text_and_as_json(quick, capsys):
    status, text = run(capsys, "--quick", "--device", "cpu")
    assert status == 0
    assert "This machine computes what the course expects" in text
    assert torch.__version__ in text
    status, text = run(capsys, "--quick", "--device", "cpu", "--dtype", "float32", "--json")
    whole = json.loads(text)
    assert (status, whole["agrees"], [r["format"] for r in whole["results"]]) == (0, True, ["float32"])

    quick["gradient", "wpe.weight"][0] += 1
    status, text = run(capsys, "--quick", "--device", "cpu", "--dtype", "float32", "--json")
    (line,) = (line for line in json.loads(text)["results"][0]["lines"] if not line["agrees"])
    assert (status, line["first_off"]) == (1, "wpe.weight")
    assert "backward" in line["look_at"]


@pytest.mark.slow
def test_the_shipped_model_is_held_to_the_loss_in_its_own_file(quick, capsys, monkeypatch, shakespeare):
    """On three windows, as if its file told their loss; tests/test_checkpoints.py reads the whole text."""
    saved = picogpt.load_shipped("picogpt")
    few = shakespeare._replace(val=shakespeare.val[: 3 * 256 + 1])
    saved.about["val_loss"] = pc.evaluate(saved.model, few.val)
    monkeypatch.setattr(verify, "load_corpus", lambda text, tokenizer: few)
    monkeypatch.setattr(verify, "load_shipped", lambda name: saved)
    status, text = run(capsys, "--device", "cpu", "--dtype", "float32")
    assert status == 0
    assert "✓ PicoGPT, as shipped" in text
    saved.model.lm_head.weight.data[5] += 1e-4
    status, text = run(capsys, "--device", "cpu", "--dtype", "float32")
    assert status == 1
    assert "first at picogpt: off by" in text


def test_without_the_text_the_shipped_model_is_left_out_and_that_is_said(quick, capsys, monkeypatch, unreachable):
    monkeypatch.setattr(verify, "load_corpus", unreachable)
    status, text = run(capsys, "--device", "cpu", "--dtype", "float32")
    assert status == 0
    assert "not compared: no route to host" in text


# ----- bands


def test_the_stored_bands_are_those_of_the_stored_runs():
    made = [verify.Band(**row | {"note": row["note"] or None}) for row in bands.rows()]
    assert made == verify.load_bands()
    assert {band.lesson for band in made} >= {"00", "02", "03", "05", "06", "07", "09"}


def test_a_band_holds_the_seeds_it_was_made_from_and_is_wider_for_fewer():
    losses = [1.66, 1.67, 1.68]
    low, high, *_ = bands.band_of(losses, 0.01)
    assert low + 0.01 < min(losses) < max(losses) < high - 0.01
    more = bands.band_of(losses * 3, 0.01)
    assert more.high - more.low < high - low
    apart = bands.band_of([1.64, 1.67, 3.33], 0.01)
    assert apart[:2] == pytest.approx((1.63, 3.34))
    assert apart.note


def test_a_run_behind_a_figure_does_not_make_a_loss_right(capsys):
    status, text = run(capsys, "--lesson", "05", "--loss", "2.35")
    assert status == 1
    assert text.index("outside  ten-line loop") < text.index("growth: depth without residual and LayerNorm")
    assert "above the nearest (ten-line loop" in " ".join(text.split())
    assert "Nothing is wrong" not in text
    assert run(capsys, "--lesson", "05", "--loss", "2.21")[0] == 0
    status, text = run(capsys, "--lesson", "05", "--loss", "2.35", "--row", "Depth without")
    assert (status, "inside   growth: depth without" in text) == (0, True)
    assert run(capsys, "--lesson", "04", "--loss", "1.65")[0] == 0, "a lesson that trains nothing itself shows its figures"


def test_every_loss_that_a_lesson_prints_lies_in_its_own_band():
    for band in verify.load_bands():
        inside = verify.compare_with_bands(band.lesson, band.printed)
        assert band in inside.inside


def test_a_lesson_prints_where_its_loss_usually_ends(monkeypatch):
    monkeypatch.setenv("PICOGPT_BUDGET", "quick")
    band = next(band for band in verify.load_bands() if band.what == "ten-line loop, validation")
    assert picogpt.usual("05", band.what) == f"{band.low:.3f} to {band.high:.3f}"
    monkeypatch.setenv("PICOGPT_BUDGET", "full")
    assert picogpt.usual("05", band.what).endswith("at the budget quick")
    with pytest.raises(ValueError, match="lesson 05 has no band called 'loss'"):
        picogpt.usual("05", "loss")


def test_a_loss_outside_is_told_what_to_look_at(capsys):
    assert run(capsys, "--lesson", "09", "--loss", "1.43")[0] == 0
    status, text = run(capsys, "--lesson", "9", "--loss", "4.17")
    assert status == 1
    assert "a blind guess" in " ".join(text.split())
    assert "above the nearest" in " ".join(text.split())
    between = run(capsys, "--lesson", "09", "--loss", "1.8")[1]
    assert "below the nearest (opening" in " ".join(between.split()), "it is not below all: PicoGPT as shipped is lower"
    status, text = run(capsys, "--lesson", "09", "--loss", "0.9", "--json")
    assert status == 1
    assert "reads ahead" in json.loads(text)["advice"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lesson", "09"], "--lesson and --loss go together"),
        (["--lesson", "05", "--loss", "2", "--row", "none"], "lesson 05 has only ten-line loop"),
        (["--lesson", "77", "--loss", "2"], "no losses of such a lesson are stored, only of 00, "),
        (["--lesson", "09", "--loss", "nan"], "--loss nan is not a finite number: the training has diverged"),
        (["--lesson", "09", "--loss", "-1"], "--loss -1.0 is below 0"),
        (["--device", "tpu"], "device 'tpu' is not on this machine"),
    ],
)
def test_bad_words_end_in_a_clear_message(words, message, capsys):
    assert picogpt.cli.main(["verify", *words]) == 2
    assert message in capsys.readouterr().err
