"""The training loop. It knows nothing of what a GPT is: the parts of a step are in picogpt_core.py, section 3."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch import nn

from picogpt_core import (
    GPT,
    ModelConfig,
    TrainConfig,
    backward,
    evaluate,
    get_batch,
    keep_freed_memory,
    learning_rate_at,
    optimizer_step,
    require,
    require_window,
)

from .checkpoint import TrainingState
from .data import Corpus
from .files import atomic_write, require_writable, save_rows
from .machine import defer_interrupt, describe_machine, has_fast_bfloat16, pick_device, rank_and_world_size


@dataclass
class Run:
    """A finished training: its settings and what was measured on the way, in rows as TrainingState describes them."""

    model_config: ModelConfig
    train_config: TrainConfig
    history: list[dict] = field(default_factory=list)
    machine: str = field(default_factory=describe_machine)

    @property
    def val_losses(self) -> list[tuple[int, float]]:
        """(step, full validation loss in nats per token) where it was measured."""
        return val_losses(self.history)

    def save(self, path: Path) -> None:
        """Write the history as `path` (.csv) and the settings next to it (.json)."""
        save_rows(path, self.history)
        settings = {"machine": self.machine, "model": dataclasses.asdict(self.model_config)}
        with atomic_write(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(settings | {"train": dataclasses.asdict(self.train_config)}, indent=1) + "\n")


def device_and_precision(config: TrainConfig) -> tuple[torch.device, bool]:
    """Return where `train` computes, and whether its matrix products are in bfloat16."""
    device = pick_device(config.device)
    return device, config.dtype == "bfloat16" or (config.dtype == "auto" and has_fast_bfloat16(device))


def describe_run(config: TrainConfig) -> str:
    """Return device, number format and compilation in a few words, like "cuda:0, bfloat16, not compiled"."""
    device, bf16 = device_and_precision(config)
    return f"{device}, {'bfloat16' if bf16 else 'float32'}, {'' if config.compile else 'not '}compiled"


def train(
    model: GPT,
    corpus: Corpus,
    config: TrainConfig,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
    on_row: Callable[[dict, GPT], None] | None = None,
) -> Run:
    """Train `model` in place on `corpus` and return what was measured.

    With a folder `out`: last.safetensors (everything, to continue from) and best.safetensors (lowest validation loss)
    at every evaluation, and history.csv. `resume=True` continues the run in `out` as if it had never stopped, bit by
    bit: weights, optimizer, random numbers and history are all restored (of several processes only the first one's random
    numbers, so that with dropout they differ from then on). `on_row(row, model)` is called with each new row of the
    history: to log it elsewhere, or to look at the model.

    ValueError before any work for settings that cannot be; FloatingPointError if the loss, its gradient or the validation
    loss is not a finite number; KeyboardInterrupt after Ctrl-C, when everything is saved.
    """
    folder = None if out is None else Path(out)
    check_settings(model, corpus, config, folder, resume)
    keep_freed_memory()
    (device, bf16), (rank, world_size) = device_and_precision(config), rank_and_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where its random numbers are drawn
    T = config.seq_len or model.config.block_size
    state = TrainingState.start(model.to(device).train(), config, corpus, rank)
    if resume and folder:
        state.restore(folder / "last.safetensors", rank)
    net = parallel(cast(nn.Module, torch.compile(model)) if config.compile else model, world_size)
    run = Run(model.config, config, state.history)

    with progress_bar(state, T, hidden=rank > 0 or not progress) as bar, defer_interrupt() as interrupted:
        while state.step < config.steps:
            began = time.perf_counter()
            x, y = get_batch(corpus.train, config.batch_size, T, state.generator)  # (B, T) each
            x, y = (rows.chunk(world_size)[rank].to(device) for rows in (x, y))  # the rows of this process
            state.pending.append(backward(net, x, y, config.grad_accum, bf16, config.label_smoothing))
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            optimizer_step(state.optimizers, learning_rate_at(state.step, config), bf16)
            state.step += 1

            last = state.step == config.steps
            evaluates = last or state.step % config.eval_every == 0
            logs = evaluates or state.step % config.log_every == 0
            stops = any_process(interrupted.is_set(), device)
            if logs or stops:
                check_finite(state, grad_norm.item())
            state.seconds += time.perf_counter() - began
            if logs:
                row = record(state, grad_norm.item(), evaluates)
                if on_row and rank == 0:
                    on_row(row, model)
                bar.set_postfix_str(format_losses(state), refresh=False)
            bar.update(config.batch_size * T)
            if folder and rank == 0 and evaluates:
                save_best_and_last(state, folder)
                run.save(folder / "history.csv")
            if stops:
                stop(state, folder, rank)
    model.eval()
    return run


def check_settings(model: GPT, corpus: Corpus, config: TrainConfig, folder: Path | None, resume: bool) -> None:
    """Raise ValueError for everything that would stop a training later. Creates `folder` if it can be written."""
    T = config.seq_len or model.config.block_size
    require(model.config.block_size >= T, f"seq_len={T} is longer than the model's block_size={model.config.block_size}")
    known, V = corpus.tokenizer.vocab_size, model.config.vocab_size
    require(known == V, f"the text has {known} different tokens, the model vocab_size={V}")
    require_window(corpus.train, T, "training")
    require(len(corpus.val) > 1, f"the validation text has {len(corpus.val)} tokens: nothing to predict")
    pick_device(config.device)
    world_size = rank_and_world_size()[1]
    require(
        config.batch_size % (config.grad_accum * world_size) == 0,
        f"batch_size={config.batch_size} cannot be shared by {world_size} processes in "
        f"grad_accum={config.grad_accum} micro-batches each",
    )
    require(folder is not None or not resume, "resume=True needs the folder `out` of the run to continue")
    if folder:
        require_writable(folder)
        there = (folder / "last.safetensors").exists()
        require(resume or not there, f"{folder} holds a training: continue it (resume=True, or --resume) or choose another")
        require(there or not resume, f"nothing to resume: there is no {folder / 'last.safetensors'}")


def check_finite(state: TrainingState, grad_norm: float) -> None:
    """Raise FloatingPointError, with the step and the likely cause, if a loss or a gradient is not finite."""
    finite = torch.stack(state.pending).isfinite()
    if finite.all() and math.isfinite(grad_norm):
        return
    what, step = "the gradient", state.step
    if not finite.all():
        what, step = "the loss", state.step - len(state.pending) + int((~finite).nonzero()[0]) + 1
    if step == 1:
        cause = "before any update: the weights it started from hold inf, NaN or numbers that are too large"
    else:
        before = f"the gradient norm was {state.history[-1]['grad_norm']:.3g}" if state.history else "no loss was recorded yet"
        cause = (
            f"{before} before; most likely learning_rate={state.config.learning_rate:g} is too high for "
            f"warmup_steps={state.config.warmup_steps} and grad_clip={state.config.grad_clip:g}"
        )
    raise FloatingPointError(f"{what} is not a finite number at step {step}: {cause}")


def parallel(net: nn.Module, world_size: int) -> nn.Module:
    """Wrap `net` so that several processes share each step (DDP, step 2). Step 3: what is saved is the bare model."""
    return net if world_size == 1 else nn.parallel.DistributedDataParallel(net)


def record(state: TrainingState, grad_norm: float, evaluates: bool) -> dict:
    """Add a row to the history, with the validation loss if it is due, and return it."""
    config, (rank, world_size) = state.config, rank_and_world_size()
    losses = torch.stack(state.pending)  # (steps since the last row,)
    if world_size > 1:
        dist.all_reduce(losses)
    tokens = state.step * config.batch_size * (config.seq_len or state.model.config.block_size)
    row: dict[str, Any] = dict(step=state.step, tokens=tokens, train_loss=losses.mean().item() / world_size)
    row["val_loss"] = evaluate(state.model, state.corpus.val) if evaluates and rank == 0 else None
    if row["val_loss"] is not None and not math.isfinite(row["val_loss"]):
        raise FloatingPointError(f"the validation loss is not a finite number after step {state.step}")
    learning_rate = config.learning_rate * learning_rate_at(state.step - 1, config)  # of the step that was just made
    row |= dict(learning_rate=learning_rate, grad_norm=grad_norm, seconds=state.seconds)
    state.history.append(row)
    state.pending.clear()
    return row


def save_best_and_last(state: TrainingState, folder: Path) -> None:
    """Write last.safetensors, and best.safetensors if no validation loss so far was lower."""
    losses = [loss for _, loss in val_losses(state.history)]
    if losses[-1] == min(losses):
        state.save(folder / "best.safetensors", everything=False)
    state.save(folder / "last.safetensors", everything=True)


def stop(state: TrainingState, folder: Path | None, rank: int) -> NoReturn:
    """Save everything after Ctrl-C and raise KeyboardInterrupt that says how to continue."""
    state.model.eval()
    where = ""
    if folder and rank == 0:
        state.save(folder / "last.safetensors", everything=True)
        where = f"; saved in {folder}, continue with resume=True (--resume)"
    raise KeyboardInterrupt(f"stopped after step {state.step} of {state.config.steps}{where}")


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is set in any of the processes: they stop together, or the others would wait for ever."""
    if rank_and_world_size()[1] == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def val_losses(history: list[dict]) -> list[tuple[int, float]]:
    """Return (step, full validation loss) of the rows where it was measured."""
    return [(row["step"], row["val_loss"]) for row in history if row["val_loss"] is not None]


def format_losses(state: TrainingState) -> str:
    """Return the newest training and validation loss, as the progress bar shows them."""
    validation = [f"validation {loss:.3f}" for _, loss in val_losses(state.history)[-1:]]
    return ", ".join([f"loss {state.history[-1]['train_loss']:.3f}", *validation])


def progress_bar(state: TrainingState, T: int, hidden: bool):
    """Return a bar of the tokens of this training, those of a resumed one included. TQDM_DISABLE hides it everywhere."""
    from tqdm.auto import tqdm

    tokens = state.config.batch_size * T
    return tqdm(
        total=state.config.steps * tokens,
        initial=state.step * tokens,
        disable=hidden or bool(os.environ.get("TQDM_DISABLE")),  # tqdm itself obeys it in terminals only
        desc=describe_run(state.config),
        unit=" tokens",
        unit_scale=True,
    )
