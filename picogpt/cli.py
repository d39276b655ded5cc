"""The command line: `python -m picogpt --help`, or `picogpt --help`. The fields of the settings are its options."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
import tyro

from picogpt_core import (
    GPT,
    PRESETS,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    count_parameters,
    evaluate,
    parameter_table,
    preset,
    require,
)

from . import checkpoint as checkpoints
from . import data, gpt2, plot, tokenizer
from .compiled import CompiledGPT
from .judge import judge_spec
from .machine import describe_machine, rank_and_world_size
from .train import describe_run
from .train import train as train_model
from .verify import FORMATS, compare_with_bands, verify_machine

PEER_DIED = "error: another process of this run ended ({}). --resume continues from last.safetensors\n"


# ----- the commands. Their docstrings are the help.


def train(
    out: Path,
    preset: str = "picogpt",
    model: ModelConfig = PRESETS["picogpt"].config,
    recipe: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    seconds: float | None = None,
    text: Path | None = None,
    bpe: int | None = None,
    resume: bool = False,
) -> None:
    """Train a model and draw its loss curve.

    Args:
        out: folder for the checkpoints, the history and the plot
        preset: a named model to start from: picogpt, demo, tiny, gpt2 … (an unknown name lists all)
        model: the model's settings (vocab_size follows from the text)
        recipe: the training's settings
        seconds: instead of recipe.steps: train for about this long
        text: a text file; without it Tiny Shakespeare
        bpe: split the text into this many kinds of tokens, learned from its training part; without it, characters
        resume: continue the training in `out`
    """
    if resume:
        return continue_training(out, text, seconds, recipe, model, bpe)
    fixed = model.vocab_size == PRESETS[preset].config.vocab_size
    require(fixed, f"--model.vocab-size {model.vocab_size}: it follows from the text and its tokenizer (see --bpe)")
    whole = data.read_text(text)
    corpus = data.load_corpus(whole, None if bpe is None else tokenizer.learn_bpe(data.split(whole)[0], bpe))
    torch.manual_seed(recipe.seed)
    net = GPT(dataclasses.replace(model, vocab_size=corpus.tokenizer.vocab_size))
    train_and_report(net, corpus, recipe, out, False, seconds)


def finetune(
    out: Path,
    init_from: str = "gpt2",
    block_size: int | None = None,
    dropout: float = 0.0,
    recipe: TrainConfig = gpt2.FINETUNE,
    seconds: float | None = None,
    text: Path | None = None,
    resume: bool = False,
) -> None:
    """Train GPT-2's weights, or those of any model of its kind, further on a text.

    Args:
        out: folder for the checkpoints, the history and the plot
        init_from: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in transformers' format
        block_size: crop the window to this many tokens: less memory
        dropout: in training, of the embeddings and of each branch
        recipe: the training's settings; the default is nanoGPT's for Shakespeare
        seconds: instead of recipe.steps: train for about this long
        text: a text file; without it Tiny Shakespeare
        resume: continue the training in `out`
    """
    if resume:
        return continue_training(out, text, seconds, recipe if recipe != gpt2.FINETUNE else TrainConfig())
    net = gpt2.from_pretrained(init_from, embd_dropout=dropout, resid_dropout=dropout, attn_dropout=0.0)
    if block_size is not None:
        gpt2.crop_block_size(net, block_size)
    corpus = data.load_corpus(text, gpt2.pretrained_tokenizer(init_from))
    train_and_report(net, corpus, recipe, out, False, seconds)


def sample(
    checkpoint: Path,
    prompt: str = "\n",
    sample: SampleConfig = SampleConfig(),  # noqa: B008 (frozen)
    compile: bool = False,
) -> None:
    """Continue a prompt.

    Args:
        checkpoint: a checkpoint file or a training's folder
        prompt: at least one character
        sample: how the text is drawn
        compile: compile the model first, which takes some seconds, and write the same text faster, up to its block_size;
            needs a C++ compiler
    """
    saved = checkpoints.load_checkpoint(checkpoint)
    model = CompiledGPT(saved.model) if compile else saved.model
    print(tokenizer.generate_text(model, saved.tokenizer, prompt, sample))


def print_loss(checkpoint: Path, text: Path | None = None) -> None:
    """Print the loss on the whole validation text.

    Args:
        checkpoint: a checkpoint file or a training's folder
        text: the text file that it was trained on; without it Tiny Shakespeare
    """
    saved = checkpoints.load_checkpoint(checkpoint)
    corpus = data.load_corpus(text, saved.tokenizer)
    loss = evaluate(saved.model, corpus.val)
    bits = f"{data.bits_per_byte(loss, corpus):.3f} bits per byte"
    print(f"validation loss {loss:.4f} nats per {corpus.tokenizer.unit} (all {len(corpus.val):,}), {bits}")


def params(preset: str = "picogpt", model: ModelConfig = PRESETS["picogpt"].config) -> None:
    """Print the parameters of a model and their sum.

    Args:
        preset: a named model to start from
        model: the model's settings
    """
    with torch.device("meta"):
        print(parameter_table(GPT(model)))


def verify(
    device: str = "auto",
    dtype: Literal["both", "float32", "bfloat16"] = "both",
    quick: bool = False,
    lesson: str | None = None,
    loss: float | None = None,
    row: str | None = None,
    json: bool = False,
) -> int:
    """Is it me or my machine? Compare what this machine computes with stored results; or a loss with what others get.

    Args:
        device: cpu, cuda, cuda:1, mps; auto: the best one there is
        dtype: the number format of the matrix products
        quick: leave out the shipped PicoGPT, which reads the whole validation text
        lesson: a lesson's number: is --loss what others get there?
        loss: the loss that you got in that lesson
        row: which of that lesson's losses is meant, if not those that it trains itself: part of the name
        json: print the report as JSON, to paste into an issue
    """
    if lesson is not None or loss is not None or row is not None:
        if lesson is None or loss is None:
            raise ValueError("--lesson and --loss go together: picogpt verify --lesson 09 --loss 2.11")
        beside = compare_with_bands(lesson, loss, row)
        print(beside.to_json() if json else beside)
        return 0 if beside.agrees else 1
    report = verify_machine(device, FORMATS if dtype == "both" else (dtype,), not quick)
    print(report.to_json() if json else report)
    return 0 if report.agrees else 1


def judge(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py:FUNCTION")],
    text: Path | None = None,
    block_size: int | None = None,
    exact: bool = False,
    claim: float | None = None,
    json: bool = False,
) -> int:
    """Measure a loss that one can trust, of anybody's model, on the whole validation text.

    Args:
        model: FILE.py:FUNCTION, a function without arguments that returns the model (or model and tokenizer), or a checkpoint
        text: a text file; without it Tiny Shakespeare
        block_size: the longest window, if the model does not say
        exact: predict every token from its past alone as well: block_size / 2 times as slow
        claim: the loss that it is said to have: is it that good?
        json: print the report as JSON, to paste into an issue
    """
    judgement = judge_spec(model, text, block_size, exact, claim)
    print(judgement.to_json() if json else judgement)
    return 0 if judgement.trusted and not judgement.not_as_claimed else 1


COMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "finetune": finetune,
    "sample": sample,
    "eval": print_loss,
    "params": params,
    "verify": verify,
    "judge": judge,
}


# ----- what they share


def continue_training(
    out: Path,
    text: Path | None,
    seconds: float | None,
    recipe: TrainConfig,
    model: ModelConfig | None = None,
    bpe: int | None = None,
) -> None:
    """Continue the training in `out` with the settings and the tokenizer that it was started with.

    ValueError for an option that differs from its default and from the stored setting, and for a checkpoint that cannot be
    continued.
    """
    path = out / "last.safetensors"
    saved = checkpoints.load_checkpoint(path)
    try:
        config = TrainConfig(**saved.about["train"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold a training that this version can continue: {error}") from None
    other = conflicts("recipe", recipe, TrainConfig(), config)
    other += conflicts("model", model, ModelConfig(), saved.model.config) if model else []
    other += [f"--bpe {bpe} (stored: {saved.tokenizer.vocab_size})"] if bpe not in (None, saved.tokenizer.vocab_size) else []
    require(not other, f"--resume continues with the settings that {out} was started with: leave out {', '.join(other)}")
    if seconds is not None:
        print(f"--seconds chose {config.steps} steps when this training was started: it continues up to there")
    train_and_report(saved.model, data.load_corpus(text, saved.tokenizer), config, out, True, None)


def conflicts(group: str, given, default, stored) -> list[str]:
    """Return the options whose value is neither the default, as if not given, nor the one that is stored."""
    found = []
    for field in dataclasses.fields(given):
        value, kept = getattr(given, field.name), getattr(stored, field.name)
        if field.name != "vocab_size" and value not in (getattr(default, field.name), kept):
            found.append(f"--{group}.{field.name.replace('_', '-')} {value} (stored: {kept})")
    return found


def train_and_report(
    net: GPT, corpus: data.Corpus, config: TrainConfig, out: Path, resume: bool, seconds: float | None
) -> None:
    """Train, print what was reached and draw the loss curve."""
    rank, world_size = rank_and_world_size()
    require(seconds is None or world_size == 1, "--seconds measures one process: give --recipe.steps with torchrun")
    if seconds is not None:
        steps = steps_in(seconds, net, corpus, config)
        config = dataclasses.replace(config, steps=steps, eval_every=max(1, math.ceil(steps / 5)))
    if rank == 0:
        print(f"{count_parameters(net):,} parameters, {config.steps} steps, on {world_size} x {describe_machine()}")
        print(describe_run(config))
    run = train_model(net, corpus, config, out, resume)
    if rank > 0:
        return
    unit, last = corpus.tokenizer.unit, run.val_losses[-1][1]
    train_loss = evaluate(net, corpus.train[: len(corpus.val)])
    print(f"loss in nats per {unit}, no dropout: train {train_loss:.4f} (its first {len(corpus.val):,} {unit}s)")
    print(f"validation {last:.4f} (all {len(corpus.val):,}), {data.bits_per_byte(last, corpus):.3f} bits per byte")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    plot.plot_history(ax, run.history, unit=unit)
    fig.savefig(out / "loss.png", dpi=120)
    print(f"loss curve: {out / 'loss.png'}\nto sample from it: python -m picogpt sample --checkpoint {out}")


def steps_in(seconds: float, model: GPT, corpus: data.Corpus, config: TrainConfig) -> int:
    """Return the steps that fit into `seconds` here, measured on a few steps of copies that are thrown away.

    Other work on the machine makes steps slower, never faster, so the fastest of three rounds counts.
    """
    require(0 < seconds < math.inf, f"seconds={seconds!r} must be a number above 0")
    short = dataclasses.replace(config, steps=12, log_every=1, eval_every=12)
    per_step, used = math.inf, 0.0
    for _ in range(3):
        rows = train_model(copy.deepcopy(model), corpus._replace(val=corpus.val[:2]), short, progress=False).history
        ends = [row["seconds"] for row in rows[1:]]  # the first two steps warm up
        per_step = min(per_step, statistics.median(b - a for a, b in itertools.pairwise(ends)))
        used += ends[-1]
        if used > 0.15 * seconds:
            break
    return max(1, round(seconds / per_step))


# ----- the program


def main(argv: list[str] | None = None) -> int:
    """Run a command. Return the exit status: 0; 1 if verify or judge found a fault; 2 after an error; 130 after Ctrl-C."""
    try:
        commands = with_preset(argv)
        with process_group():
            return tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog="picogpt") or 0
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def with_preset(argv: list[str] | None) -> dict[str, Callable[..., int | None]]:
    """Return COMMANDS with the model of --preset as their default: it is read first, since other options change it."""
    finder = argparse.ArgumentParser("picogpt", usage="picogpt train --preset NAME", add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default="picogpt")
    chosen = finder.parse_known_args(argv)[0].preset
    model = preset(chosen)
    bind = functools.partial
    return COMMANDS | {name: bind(COMMANDS[name], preset=chosen, model=model) for name in ("train", "params")}


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end. Without torchrun, nothing happens."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return

    def peer_died(signum, frame):
        # not an exception: it could come while another one, of a broken connection, is being handled
        os.write(2, PEER_DIED.format("torchrun sent SIGTERM").encode())
        os._exit(2)

    # DDP, step 1: torchrun tells each process its rank in the environment
    signal.signal(signal.SIGTERM, peer_died)  # sent by torchrun to the others when one of them dies
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    except RuntimeError as error:
        if rank_and_world_size()[1] == 1:
            raise
        raise OSError(PEER_DIED.format(error).removeprefix("error: ").rstrip()) from None
    finally:
        dist.destroy_process_group()  # DDP, step 5


def run_and_exit() -> None:
    """Run `main` and end the process with its status.

    A process of torchrun skips C++ static destructors: about one in thirty aborted there (torch 2.13, gloo: "terminate
    called without an active exception"), when everything was done and saved, and torchrun took that for a failure.
    """
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
