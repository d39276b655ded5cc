"""The command line of picogpt_core.py: `python picogpt_core.py --help`. The settings' fields are its options."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import tyro

import picogpt_core as pc

OTHERS_ENDED = "error: another process of this run ended ({}). --resume goes on from last.safetensors\n"


def steps_in(seconds: float, model: pc.GPT, text: pc.Corpus, config: pc.TrainConfig) -> int:
    """How many steps fit into so many seconds here: measured on a few steps of a copy that is thrown away."""
    pc.require(0 < seconds < math.inf, f"seconds={seconds!r} must be a number above 0")
    short = dataclasses.replace(config, steps=12, log_every=1, eval_every=12)
    rows = pc.train(copy.deepcopy(model), text._replace(val=text.val[:2]), short, progress=False).history
    per_step = (rows[-1]["seconds"] - rows[1]["seconds"]) / (len(rows) - 2)  # the first two warm up
    return max(1, round(seconds / per_step))


def main(argv: list[str] | None = None) -> int:
    """`python picogpt_core.py --help` tells. Returns the exit status: 0, or 2 after an error, or 130 after Ctrl-C."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default="picogpt")
    chosen = finder.parse_known_args(argv)[0].preset  # first of all, for it sets the defaults of the model's options

    start_model = pc.PRESETS[chosen].config if chosen in pc.PRESETS else pc.ModelConfig()
    start_recipe, start_sample = pc.TrainConfig(), pc.SampleConfig()

    def read(path: Path | None) -> str:
        return pc.load_shakespeare() if path is None else path.read_text(encoding="utf-8")

    def run(net: pc.GPT, words: pc.Corpus, config: pc.TrainConfig, out: Path, resume: bool, seconds: float | None) -> None:
        """Train, tell and draw."""
        pc.require(not seconds or pc.world()[1] == 1, "--seconds measures one process: give --recipe.steps with torchrun")
        if seconds and not resume:
            steps = steps_in(seconds, net, words, config)
            config = dataclasses.replace(config, steps=steps, eval_every=max(1, math.ceil(steps / 5)))
        if pc.world()[0] == 0:
            print(f"{pc.count_parameters(net):,} parameters, {config.steps} steps, on {pc.world()[1]} x {pc.machine()}")
            print(f"{pc.how_it_trains(config)}")
        history = pc.train(net, words, config, out, resume)
        if pc.world()[0] > 0:
            return
        unit, last = words.tokenizer.unit, history.val_losses[-1][1]
        seen = pc.evaluate(net, words.train[: len(words.val)])
        print(f"loss in nats per {unit}, no dropout: train {seen:.4f} (its first {len(words.val):,} {unit}s)")
        print(f"validation {last:.4f} (all {len(words.val):,}), {pc.bits_per_byte(last, words):.3f} bits a byte")
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        pc.plot_history(ax, history.history, unit=unit)
        fig.savefig(out / "loss.png", dpi=120)
        print(f"loss curve: {out / 'loss.png'}\nto sample from it: --checkpoint {out}")

    def go_on(out: Path, text: Path | None, seconds: float | None) -> None:
        """Continue the training in `out` with the settings and the tokenizer that it was started with."""
        saved = pc.load_checkpoint(out / "last.safetensors")
        run(saved.model, pc.corpus(read(text), saved.tokenizer), pc.TrainConfig(**saved.about["train"]), out, True, seconds)

    def train_command(
        out: Path,
        preset: str = chosen,
        model: pc.ModelConfig = start_model,
        recipe: pc.TrainConfig = start_recipe,
        seconds: float | None = None,
        text: Path | None = None,
        bpe: int | None = None,
        resume: bool = False,
    ) -> None:
        """Train a model and draw its loss curve.

        Args:
            out: folder for the checkpoints, the history and the picture
            preset: a named model to start from
            model: the model's settings (vocab_size follows from the text)
            recipe: the training's settings
            seconds: instead of recipe.steps: train for about so long
            text: a text file; without it Tiny Shakespeare
            bpe: cut the text into so many kinds of tokens, learned from its training part; without it, characters
            resume: continue the training in `out`
        """
        if resume:
            return go_on(out, text, seconds)
        whole = read(text)
        words = pc.corpus(whole, None if bpe is None else pc.learn_bpe(pc.split(whole)[0], bpe))
        torch.manual_seed(recipe.seed)
        net = pc.GPT(dataclasses.replace(model, vocab_size=words.tokenizer.vocab_size))
        run(net, words, recipe, out, False, seconds)

    def finetune_command(
        out: Path,
        init_from: str = "gpt2",
        block_size: int | None = None,
        dropout: float = 0.0,
        recipe: pc.TrainConfig = pc.FINETUNE,
        seconds: float | None = None,
        text: Path | None = None,
        resume: bool = False,
    ) -> None:
        """Train GPT-2's weights, or any of its kind, further on a text.

        Args:
            out: folder for the checkpoints, the history and the picture
            init_from: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in transformers' format
            block_size: crop the window to so many tokens: less memory
            dropout: in training, of the embeddings and of each branch
            recipe: the training's settings; the default is nanoGPT's for Shakespeare
            seconds: instead of recipe.steps: train for about so long
            text: a text file; without it Tiny Shakespeare
            resume: continue the training in `out`
        """
        if resume:
            return go_on(out, text, seconds)
        net = pc.from_pretrained(init_from, embd_dropout=dropout, resid_dropout=dropout, attn_dropout=0.0)
        if block_size is not None:
            pc.crop_block_size(net, block_size)
        run(net, pc.corpus(read(text), pc.pretrained_tokenizer(init_from)), recipe, out, False, seconds)

    def sample_command(checkpoint: Path, prompt: str = "\n", sample: pc.SampleConfig = start_sample) -> None:
        """Continue a prompt.

        Args:
            checkpoint: a checkpoint file or a training's folder
            prompt: at least one character
        """
        saved = pc.load_checkpoint(checkpoint)
        print(pc.generate_text(saved.model, saved.tokenizer, prompt, sample))

    def eval_command(checkpoint: Path, text: Path | None = None) -> None:
        """Print the loss on the whole validation text.

        Args:
            checkpoint: a checkpoint file or a training's folder
            text: the text file that it was trained on; without it Tiny Shakespeare
        """
        saved = pc.load_checkpoint(checkpoint)
        words = pc.corpus(read(text), saved.tokenizer if isinstance(saved.tokenizer, pc.BpeTokenizer) else None)
        known = words.tokenizer.saved == saved.tokenizer.saved
        pc.require(known, f"{checkpoint} was trained on a text with other characters: {saved.tokenizer.saved}")
        loss = pc.evaluate(saved.model, words.val)
        bits = f"{pc.bits_per_byte(loss, words):.3f} bits a byte"
        print(f"validation loss {loss:.4f} nats per {words.tokenizer.unit} (all {len(words.val):,}), {bits}")

    def params_command(preset: str = chosen, model: pc.ModelConfig = start_model) -> None:
        """Print the parameters of a model and their sum."""
        with torch.device("meta"):
            print(pc.parameter_table(pc.GPT(model)))

    def ended(signum, frame):
        # no exception: it could come while another one, of a broken connection, is being handled
        os.write(2, OTHERS_ENDED.format("torchrun says so").encode())
        os._exit(2)

    try:
        pc.preset(chosen)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # DDP, step 1: torchrun tells each process its rank in the environment
            signal.signal(signal.SIGTERM, ended)  # sent by torchrun to the others when one of them dies
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        commands = {"train": train_command, "finetune": finetune_command, "sample": sample_command}
        commands |= {"eval": eval_command, "params": params_command}
        tyro.extras.subcommand_cli_from_dict(commands, args=argv)
    except KeyboardInterrupt as stop:
        print(stop or "stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if pc.world()[1] == 1:
            raise
        print(OTHERS_ENDED.format(error), end="", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # DDP, step 5
    return 0


def main_and_leave() -> None:
    """`main`, then the end of the process.

    A process of torchrun leaves without C++'s farewell: about one in thirty aborted there (torch 2.13, gloo: "terminate
    called without an active exception"), when all was done and saved, and torchrun took that for a failure.
    """
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main_and_leave()
