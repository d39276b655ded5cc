"""Train variants x seeds alike and keep every history.

    python benchmarks/study.py NAME

Rows go to data/runs/NAME.csv, settings to data/runs/NAME.json. A run that is there is not repeated; one that was killed
goes on from its last checkpoint in out/studies/. Delete the CSV to measure anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import picogpt_core as pc

SEEDS = (1337, 1338, 1339)
RUNS = pc.DATA / "runs"

# The best of the settings tried on the first 90 % of the training text and judged on its last 10 %
BEST = dict(resid_dropout=0.2, embd_dropout=0.3)
RECIPE = dict(steps=3000, batch_size=32, weight_decay=0.1, eval_every=250)
SHORT = RECIPE | dict(steps=400, eval_every=100)

# study: variant -> (changes to PicoGPT, changes to the default training)
STUDIES: dict[str, dict[str, tuple[dict, dict]]] = {
    "best": {"picogpt": (BEST, RECIPE)},
    # what each ingredient of the best recipe brings: one is changed at a time, tokens are equal
    "ablation": {
        "the recipe": (BEST, SHORT),
        "AdamW alone": (BEST, SHORT | dict(optimizer="adamw")),
        "cosine": (BEST, SHORT | dict(schedule="cosine")),
        "constant rate": (BEST, SHORT | dict(schedule="constant")),
        "batch 8": (BEST, SHORT | dict(batch_size=8, steps=1600, eval_every=400)),
        "batch 64": (BEST, SHORT | dict(batch_size=64, steps=200, eval_every=50)),
        "no dropout": ({}, SHORT),
        "no weight decay": (BEST, SHORT | dict(weight_decay=0.0)),
    },
    "overfitting": {"no dropout": ({}, RECIPE | dict(steps=1500, eval_every=125))},
    "checkpoints": {
        "picogpt-6layer": (BEST | dict(n_layer=6), RECIPE | dict(steps=1200)),
        "draft": (dict(n_layer=1, n_head=4, n_embd=128), RECIPE | dict(steps=2500)),
    },
}
FIRST_SEED_ONLY = ("ablation", "overfitting", "checkpoints")
WITH_AVERAGE = ("ablation",)  # also measured: the mean of the weights of about the last 100 steps


def finished(path) -> list[dict]:
    return pc.load_rows(path) if path.exists() else []


def folder_of(study: str, variant: str, seed: int) -> Path:
    """Where a run keeps its checkpoints while it is trained."""
    return pc.ROOT / "out" / "studies" / study / f"{variant}-{seed}"


def train_one(study: str, variant: str, model: pc.ModelConfig, recipe: pc.TrainConfig, text: pc.Corpus) -> list[dict]:
    """The rows of one run, each with what it belongs to."""
    torch.manual_seed(recipe.seed)
    net, out = pc.GPT(model), folder_of(study, variant, recipe.seed)
    if study in WITH_AVERAGE:  # the average is not in a checkpoint: such a run starts again from its first step
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # of the last ten rows, about

        def look(row: dict, net: pc.GPT) -> None:
            average.update_parameters(net)
            row["val_loss_of_average"] = row["val_loss"] and pc.evaluate(average.module, text.val)

        run = pc.train(net, text, recipe, on_row=look)
    else:
        run = pc.train(net, text, recipe, out, resume=(out / "last.safetensors").exists())
    about = dict(study=study, variant=variant, seed=recipe.seed)
    where = dict(parameters=pc.count_parameters(net), torch=torch.__version__, machine=run.machine)
    return [about | row | where for row in run.history]


def main(name: str) -> None:
    if name not in STUDIES:
        sys.exit(f"error: no study is called {name!r}: {', '.join(STUDIES)}")
    table, text = RUNS / f"{name}.csv", pc.corpus()
    settings = {
        variant: {"model": dataclasses.asdict(pc.ModelConfig(**model)), "train": dataclasses.asdict(pc.TrainConfig(**recipe))}
        for variant, (model, recipe) in STUDIES[name].items()
    }
    with pc.write_beside(table.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(settings, indent=1) + "\n")
    for seed in SEEDS[: 1 if name in FIRST_SEED_ONLY else None]:  # seed by seed: an early stop leaves all with as many
        for variant, (model_changes, train_changes) in STUDIES[name].items():
            model = pc.ModelConfig(**model_changes)
            recipe = pc.TrainConfig(seed=seed, **train_changes)
            rows = finished(table)
            if not any(row["variant"] == variant and row["seed"] == seed for row in rows):
                rows += train_one(name, variant, model, recipe, text)
                pc.save_rows(table, rows)
                print(f"{variant}, seed {seed}: {rows[-1]['val_loss']:.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
