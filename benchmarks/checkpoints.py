"""Train the models that ship with the course, and store them small: data/checkpoints/*.safetensors.

    python benchmarks/checkpoints.py [name ...]

They are the first seed of two studies (study.py has the settings). A training that out/studies/ still holds is not repeated,
one that was killed goes on. Weights are rounded to float16 on disk, and the validation loss in the header is measured after
the rounding.
"""

from __future__ import annotations

import sys

import torch

import picogpt
import picogpt_core as pc
import study

FOLDER = picogpt.DATA / "checkpoints"
# each checkpoint and the study that trained it
SHIPPED = {"draft": "checkpoints", "picogpt": "best", "picogpt-6layer": "checkpoints", "honest": "pair", "unmasked": "pair"}


def trained(name: str) -> picogpt.Checkpoint:
    """The best checkpoint of the first seed of a study's variant, from its folder or trained now."""
    model, recipe = study.STUDIES[SHIPPED[name]].variants[name]
    recipe = pc.TrainConfig(seed=study.SEEDS[0], **recipe)
    folder = study.folder_of(SHIPPED[name], name, recipe.seed)
    last = folder / "last.safetensors"
    if not last.exists() or picogpt.load_checkpoint(last).about["step"] < recipe.steps:
        torch.manual_seed(recipe.seed)
        picogpt.train(pc.GPT(pc.ModelConfig(**model)), picogpt.load_corpus(), recipe, folder, resume=last.exists())
    return picogpt.load_checkpoint(folder / "best.safetensors")


def ship(name: str) -> None:
    """Round a training's best checkpoint to float16, measure it again, and write it into data/checkpoints/."""
    saved = trained(name)
    rounded = saved.model.half().float()
    about = {key: saved.about[key] for key in ("step", "seconds", "machine", "train")}
    text = picogpt.load_corpus()
    about |= dict(val_loss=pc.evaluate(rounded, text.val), made_by="python benchmarks/checkpoints.py")
    if name == "picogpt":  # the weights stay as they are: who wants calibrated probabilities divides the logits by it
        about |= study.at_the_temperature(rounded, text)
    picogpt.save_checkpoint(FOLDER / f"{name}.safetensors", rounded.half(), saved.tokenizer, **about)
    print(f"{name}: {about['val_loss']:.4f} (before rounding {saved.about['val_loss']:.4f})", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or SHIPPED:
        ship(name)
