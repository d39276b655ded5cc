"""Train the models that ship with the course, and store them small: data/checkpoints/*.safetensors.

    python benchmarks/checkpoints.py

They are the first seed of two studies (study.py has the settings, and goes on where it was stopped). Weights are rounded to
float16 on disk, and the validation loss in the header is measured after the rounding.
"""

from __future__ import annotations

from pathlib import Path

import study

import picogpt_core as pc

FOLDER = pc.DATA / "checkpoints"
SHIPPED = {"picogpt": "best", "picogpt-6layer": "checkpoints", "draft": "checkpoints"}  # name: study


def ship(trained: Path, name: str) -> None:
    """Round a training's best checkpoint to float16, measure it anew, and write it into data/checkpoints/."""
    saved = pc.load_checkpoint(trained)
    rounded = saved.model.half().float()
    about = {key: saved.about[key] for key in ("step", "seconds", "machine", "train")}
    about |= dict(val_loss=pc.evaluate(rounded, pc.corpus().val), made_by="python benchmarks/checkpoints.py")
    pc.save_checkpoint(FOLDER / f"{name}.safetensors", rounded.half(), saved.tokenizer.chars, **about)
    print(f"{name}: {about['val_loss']:.4f} (before rounding {saved.about['val_loss']:.4f})")


if __name__ == "__main__":
    for name, source in SHIPPED.items():
        study.main(source)
        ship(study.OUT / source / f"{name}-{study.SEEDS[0]}", name)
