"""The models that ship with the course: small, intact, and with the loss that their headers state."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

import picogpt
import picogpt_core as pc

SHIPPED = sorted((picogpt.DATA / "checkpoints").glob("*.safetensors"))
each_model = pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])


def test_the_shipped_models_are_there_and_small():
    assert {path.stem for path in SHIPPED} == {"picogpt", "picogpt-6layer", "draft", "honest", "unmasked"}
    assert sum(path.stat().st_size for path in SHIPPED) <= 20e6
    assert picogpt.load_checkpoint(picogpt.DATA / "checkpoints" / "picogpt.safetensors").model.config == pc.ModelConfig(
        resid_dropout=0.2, embd_dropout=0.3
    ), "picogpt has the golden architecture"


@pytest.mark.slow
@each_model
def test_the_header_states_settings_origin_and_the_measured_loss(path):
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["picogpt"])
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    assert {"model", "train", "machine", "seconds", "step", "made_by"} <= set(header)
    saved = picogpt.load_checkpoint(path)
    assert pc.evaluate(saved.model, picogpt.load_corpus().val) == pytest.approx(header["val_loss"], abs=1e-4)


def test_the_shipped_model_is_the_best_of_the_stored_study():
    rows = [row for row in picogpt.load_rows(picogpt.DATA / "runs" / "best.csv") if row["seed"] == 1337 and row["val_loss"]]
    shipped = picogpt.load_checkpoint(picogpt.DATA / "checkpoints" / "picogpt.safetensors").about
    assert shipped["val_loss"] == pytest.approx(min(row["val_loss"] for row in rows), abs=1e-3), (
        "rounding costs next to nothing"
    )


def test_the_honest_and_the_unmasked_model_differ_in_the_mask_alone():
    honest, unmasked = (picogpt.load_shipped(name) for name in ("honest", "unmasked"))
    assert dataclasses.replace(unmasked.model.config, causal=True) == honest.model.config
    assert honest.about["train"] == unmasked.about["train"]
    ids = picogpt.load_corpus().val[None, :128]
    assert pc.moved_by_the_future(honest.model, ids, 100)[:100].max() == 0
    assert pc.moved_by_the_future(unmasked.model, ids, 100)[:100].min() > 0
    assert unmasked.about["val_loss"] < 0.05 < 1.4 < honest.about["val_loss"]
