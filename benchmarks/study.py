"""Train variants x seeds alike and keep every history.

    python benchmarks/study.py NAME

Rows go to data/runs/NAME.csv, settings to data/runs/NAME.json. A run that is there is not repeated; one that was killed
goes on from its last checkpoint in out/studies/. Delete the CSV to measure anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import torch

import picogpt_core as pc

SEEDS = (1337, 1338, 1339)
RUNS, OUT = pc.DATA / "runs", pc.ROOT / "out" / "studies"

# The best of the settings tried on a part of the training text; its seeds are still to be run
BEST = dict(resid_dropout=0.2, embd_dropout=0.2)
RECIPE = dict(steps=2500, batch_size=32, weight_decay=0.1, eval_every=250)

# study: variant -> (changes to PicoGPT, changes to the default training)
STUDIES: dict[str, dict[str, tuple[dict, dict]]] = {
    "best": {"picogpt": (BEST, RECIPE)},
}


def finished(path) -> list[dict]:
    return pc.load_rows(path) if path.exists() else []


def main(name: str) -> None:
    if name not in STUDIES:
        sys.exit(f"error: no study is called {name!r}: {', '.join(STUDIES)}")
    table, variants = RUNS / f"{name}.csv", STUDIES[name]
    settings = {}
    text = pc.corpus()
    for seed in SEEDS:  # seed by seed: an early stop leaves all variants with as many
        for variant, (model_changes, train_changes) in variants.items():
            model = pc.ModelConfig(**model_changes)
            recipe = pc.TrainConfig(seed=seed, **train_changes)
            settings[variant] = {"model": dataclasses.asdict(model), "train": dataclasses.asdict(recipe) | {"seed": "each"}}
            rows = finished(table)
            if any(row["variant"] == variant and row["seed"] == seed for row in rows):
                continue
            torch.manual_seed(seed)
            net, out = pc.GPT(model), OUT / name / f"{variant}-{seed}"
            run = pc.train(net, text, recipe, out, resume=(out / "last.safetensors").exists())
            about = dict(study=name, variant=variant, seed=seed)
            where = dict(parameters=pc.count_parameters(net), torch=torch.__version__, machine=run.machine)
            pc.save_rows(table, rows + [about | row | where for row in run.history])
            print(f"{variant}, seed {seed}: {run.val_losses[-1][1]:.4f}", flush=True)
    with pc.write_beside(table.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
