"""Checkpoints: trained models in one file each, and all that a training needs to go on bit by bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from picogpt_core import GPT, ModelConfig, TrainConfig, make_optimizers, require

from .data import Corpus
from .files import DATA, atomic_write
from .machine import describe_machine, pick_device
from .tokenizer import Tokenizer, tokenizer_from


class Checkpoint(NamedTuple):
    """A trained model as it was saved."""

    model: GPT
    tokenizer: Tokenizer
    about: dict  # step, val_loss, train (settings), history …
    tensors: dict[str, Tensor]  # what resuming needs beside the weights


def save_checkpoint(
    path: Path | str, model: GPT, tokenizer: Tokenizer, tensors: dict[str, Tensor] | None = None, **about
) -> None:
    """Write weights, tokenizer and `about` (anything JSON can hold) as one safetensors file. OSError if the disk is full.

    No pickle: opening such a file runs nothing.
    """
    require(isinstance(model, GPT), f"a {type(model).__name__} cannot be saved: give the GPT itself, not its wrapper")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tied_head:
        del weights["model.lm_head.weight"]  # the same memory as wte
    header = {"model": dataclasses.asdict(model.config), **tokenizer.saved, **about}
    try:
        with atomic_write(path) as temporary:
            save_file(weights | (tensors or {}), temporary, metadata={"picogpt": json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}. What was there before is untouched") from None


def load_checkpoint(path: Path | str, device: str = "cpu") -> Checkpoint:
    """Open a checkpoint file, or the best one of a training folder. The model comes in evaluation mode, in float32.

    ValueError if the file is missing, cut short, or not a PicoGPT checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        path = next(
            (p for p in (path / "best.safetensors", path / "last.safetensors") if p.exists()), path / "best.safetensors"
        )
    require(path.is_file(), f"there is no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("picogpt")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: it is cut short or something else ({error})") from None
    if header is None:
        raise ValueError(f"{path} is a safetensors file, but not one of PicoGPT's: it has no 'picogpt' header")
    try:
        about = json.loads(header)
        require(isinstance(about, dict), f"its header holds {about!r}")
        model = GPT(ModelConfig(**about.pop("model")))
        tokenizer = tokenizer_from(about)
        about = {key: value for key, value in about.items() if key not in tokenizer.saved}
        weights = {name[6:]: tensors.pop(name).float() for name in list(tensors) if name.startswith("model.")}
        if model.config.tied_head:
            weights["lm_head.weight"] = weights["wte.weight"]
        model.load_state_dict(weights)
    except KeyError as error:
        raise ValueError(f"{path}: its header lacks the entry {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: header and weights do not make a PicoGPT model: {error}") from None
    known, V = tokenizer.vocab_size, model.config.vocab_size
    require(known == V, f"{path}: its tokenizer knows {known} {tokenizer.unit}s, its model {V}")
    return Checkpoint(model.to(pick_device(device)).eval(), tokenizer, about, tensors)


def load_shipped(name: str) -> Checkpoint:
    """Open a trained model of data/checkpoints: "picogpt", "picogpt-6layer", "draft", "honest" or "unmasked"."""
    return load_checkpoint(DATA / "checkpoints" / f"{name}.safetensors")


@dataclass
class TrainingState:
    """Everything that the next step of a training depends on, and its history so far.

    A row of the history: step, tokens (so far), train_loss (mean since the row before, in nats per token, with dropout),
    val_loss (the whole validation set; None where it was not measured), learning_rate, grad_norm (before clipping),
    seconds (training alone, without evaluation and saving).
    """

    model: GPT
    config: TrainConfig
    corpus: Corpus
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # draws the positions of the windows: the same in all processes
    step: int = 0  # steps done
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)  # losses since the last row of the history, scalars

    @classmethod
    def start(cls, model: GPT, config: TrainConfig, corpus: Corpus, rank: int = 0) -> TrainingState:
        """Return the state before the first step, and seed PyTorch's random numbers (dropout) for this process."""
        torch.manual_seed(config.seed + rank)
        generator = torch.Generator().manual_seed(config.seed)
        return cls(model, config, corpus, make_optimizers(model, config), generator)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps beside the weights, by name."""
        tensors = {"random.torch": torch.get_rng_state(), "random.windows": self.generator.get_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        if self.pending:
            tensors["pending"] = torch.stack(self.pending)
        for i, optimizer in enumerate(self.optimizers):
            for j, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{key}": value.clone() for key, value in values.items()}
        return tensors

    def save(self, path: Path, everything: bool) -> None:
        """Write a checkpoint: the model alone, or `everything` that resuming needs. OSError if the disk is full."""
        about = dict(
            step=self.step,
            seconds=self.seconds,
            train=dataclasses.asdict(self.config),
            history=self.history,
            data=self._fingerprint(),
            val_loss=next((row["val_loss"] for row in reversed(self.history) if row["val_loss"] is not None), None),
            machine=describe_machine(),
        )
        save_checkpoint(path, self.model, self.corpus.tokenizer, self.tensors() if everything else None, **about)

    def restore(self, path: Path, rank: int = 0) -> None:
        """Continue where `save(path, everything=True)` stopped. ValueError if model, settings or text have changed since."""
        saved = load_checkpoint(path)
        whole = {"train", "data", "step", "seconds", "history"} <= saved.about.keys() and "random.torch" in saved.tensors
        require(whole, f"{path} holds a model, but not the state of its training: it cannot be continued")
        for what, now, then in (
            ("model", dataclasses.asdict(self.model.config), dataclasses.asdict(saved.model.config)),
            ("training", dataclasses.asdict(self.config), saved.about["train"]),
            ("text", {"sha256": self._fingerprint()}, {"sha256": saved.about["data"]}),
        ):
            other = [f"{key}={then.get(key)!r} (now {now[key]!r})" for key in now if now[key] != then.get(key)]
            require(not other, f"the run in {path.parent} was started with a different {what}: {', '.join(other)}")
        self.model.load_state_dict(saved.model.state_dict())
        if rank == 0:
            torch.set_rng_state(saved.tensors["random.torch"])
        else:  # that state is of process 0: the others draw new random numbers, each its own
            torch.manual_seed(self.config.seed + rank + 1_000_003 * saved.about["step"])
        self.generator.set_state(saved.tensors["random.windows"])
        if rank == 0 and "random.cuda" in saved.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.tensors["random.cuda"])
        device = next(self.model.parameters()).device
        self.pending = list(saved.tensors.get("pending", torch.zeros(0)).to(device))
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in saved.tensors.items():
                if name.startswith(f"optimizer.{i}."):
                    _, _, parameter, key = name.split(".", 3)
                    state.setdefault(int(parameter), {})[key] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step, self.seconds, self.history = saved.about["step"], saved.about["seconds"], saved.about["history"]

    def _fingerprint(self) -> str:
        """Return a short sha256 of the ids, to recognise the text."""
        ids = self.corpus.train.numpy().tobytes() + self.corpus.val.numpy().tobytes()
        return hashlib.sha256(ids).hexdigest()[:16]
