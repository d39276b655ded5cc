"""Train variants x seeds alike and keep every history.

    python benchmarks/study.py NAME [SEED ...]

Rows go to data/runs/NAME.csv, settings to data/runs/NAME.json. A run that is there is not repeated; one that was killed
continues from its last checkpoint in out/studies/. Delete the CSV to measure again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import picogpt
import picogpt_core as pc
from picogpt.train import describe_run, device_and_precision

SEEDS = (1337, 1338, 1339, 1340, 1341)
RUNS = picogpt.DATA / "runs"

# ----- what else is measured, beside the losses: each is made for one run, and adds to its rows


def averaged(net: pc.GPT, text: picogpt.Corpus) -> Callable[[dict, pc.GPT], None]:
    """The validation loss of the mean of the weights of about the last ten rows."""
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def look(row: dict, net: pc.GPT) -> None:
        average.update_parameters(net)
        row["val_loss_of_average"] = row["val_loss"] and pc.evaluate(cast(pc.GPT, average.module), text.val)

    return look


PARTS = 8  # of the window


@torch.no_grad()
def loss_by_position(net: pc.GPT, ids: torch.Tensor) -> list[float]:
    """Mean loss in each eighth of the window, over windows of 256 side by side, in nats a character."""
    n, T = len(ids) // 256 - 1, 256
    x, y = ids[: n * T].view(n, T), ids[1 : n * T + 1].view(n, T)  # (n, T) each
    logp = torch.cat(
        [net(part).log_softmax(dim=-1).gather(2, z[:, :, None]) for part, z in zip(x.split(64), y.split(64), strict=True)]
    )
    return (-logp).view(n, PARTS, T // PARTS).mean(dim=(0, 2)).tolist()  # (n, T, 1) -> (PARTS,)


def positions(net: pc.GPT, text: picogpt.Corpus) -> Callable[[dict, pc.GPT], None]:
    """The validation loss by position, at each evaluation."""

    def look(row: dict, net: pc.GPT) -> None:
        net.eval()
        losses = loss_by_position(net, text.val) if row["val_loss"] else [None] * PARTS
        net.train()
        row |= {f"loss_part_{i}": loss for i, loss in enumerate(losses)}

    return look


def longest_copy(sample: str, source: str) -> str:
    """The longest piece of `sample` that stands in `source` word for word."""
    longest = ""
    for i in range(len(sample)):
        while sample[i : i + len(longest) + 1] in source and i + len(longest) < len(sample):
            longest = sample[i : i + len(longest) + 1]
    return longest


def copying(net: pc.GPT, text: picogpt.Corpus) -> Callable[[dict, pc.GPT], None]:
    """What a sample of 1,000 characters at temperature 0.8 copies from the training text, at each evaluation."""
    source = text.tokenizer.decode(text.train)

    def look(row: dict, net: pc.GPT) -> None:
        row |= dict(copied_characters=None, copied_text=None)
        if row["val_loss"]:
            random = torch.get_rng_state()  # the training must not notice
            settings = pc.SampleConfig(1000, temperature=0.8, seed=1)
            copy = longest_copy(picogpt.generate_text(net, text.tokenizer, "\n", settings)[1:], source)
            torch.set_rng_state(random)
            row |= dict(copied_characters=len(copy), copied_text=copy.replace("\n", " / "))

    return look


PREFIXES, PREFIX, CONTINUATION = 100, 50, 50  # passages of each text, characters read, characters to be continued


@torch.no_grad()
def characters_recited(net: pc.GPT, ids: torch.Tensor) -> list[int]:
    """How many characters in a row the greedy continuation shares with the text, for PREFIXES passages spread over ids (N,)."""
    starts = torch.linspace(0, len(ids) - PREFIX - CONTINUATION, PREFIXES).long().tolist()
    passages = torch.stack([ids[i : i + PREFIX + CONTINUATION] for i in starts])  # (PREFIXES, 100)
    written = pc.generate(net, passages[:, :PREFIX], pc.SampleConfig(CONTINUATION, temperature=0.0))  # (PREFIXES, 100)
    same = written[:, PREFIX:].cpu() == passages[:, PREFIX:]  # (PREFIXES, CONTINUATION)
    return same.int().cumprod(dim=1).sum(dim=1).tolist()


def reciting(net: pc.GPT, text: picogpt.Corpus) -> Callable[[dict, pc.GPT], None]:
    """Characters recited after passages of the training text, and of the validation text, at each evaluation.

    A model that has memorised goes on word for word (Carlini et al. 2023, arXiv 2202.07646). What it also manages on
    text that it has never seen is no memory: those are endings that anyone would guess.
    """

    def look(row: dict, net: pc.GPT) -> None:
        counts = [characters_recited(net, ids) if row["val_loss"] else [] for ids in (text.train, text.val)]
        for part, recited in zip(("train", "val"), counts, strict=True):
            row[f"recited_{part}"] = sum(recited) / len(recited) if recited else None
            row[f"recited_in_full_{part}"] = recited.count(CONTINUATION) if recited else None

    return look


def calibrated(net: pc.GPT, text: picogpt.Corpus) -> dict:
    """The temperature at which the loss on the text's second part is lowest, and that loss."""
    temperature = pc.calibration_temperature(net, text.val)
    return dict(temperature=temperature, calibrated_loss=pc.evaluate(net, text.val, temperature=temperature))


TEMPERATURE = 1.286  # of the best recipe on held-out training text, mean of two seeds (study "lengths": 1.285 and 1.287)


def at_the_temperature(net: pc.GPT, text: picogpt.Corpus) -> dict:
    """The validation loss at a temperature that was chosen without the validation text."""
    return dict(temperature=TEMPERATURE, calibrated_loss=pc.evaluate(net, text.val, temperature=TEMPERATURE))


def write_a_line(net: pc.GPT, text: picogpt.Corpus) -> dict:
    """A fixed sample: 200 characters at temperature 0.8."""
    settings = pc.SampleConfig(200, temperature=0.8, seed=1)
    return dict(sample=picogpt.generate_text(net, text.tokenizer, "\n", settings)[1:].replace("\n", " / "))


# ----- a GPT that grows: what is not there yet is left out of the model


class Nothing(nn.Module):
    """Stands where a part is missing: adds nothing."""

    def forward(self, x: torch.Tensor, *_) -> float:
        return 0.0


class Chain(nn.Module):
    """A block without residual connections and LayerNorms: each part reads only what the one before it wrote."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor, cache: pc.KVCache | None = None) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        for part in self.parts:
            x = part(x, cache) if isinstance(part, pc.CausalSelfAttention) else part(x)
        return x


GROWTH = ("bigram", "+ positions", "+ one head", "+ 8 heads", "+ MLP", "+ residual and LayerNorm", "+ depth")
DEPTH_ALONE = "depth without residual and LayerNorm"  # beside the last two: what happens if a chain gets longer


def equal_first_weights(variant: str, config: pc.ModelConfig) -> pc.GPT:
    """The model whose matrices are those of every other variant of this seed.

    PyTorch draws a bias when a layer is made, which shifts all that is drawn after it, although the core then sets it to 0.
    """
    net = pc.GPT(config)
    torch.manual_seed(torch.initial_seed())
    for name, parameter in net.named_parameters():
        if parameter.dim() == 2:
            net._initialise(name, parameter)
    return net


def grown(variant: str, config: pc.ModelConfig) -> pc.GPT:
    """The model at one stage of GROWTH, or DEPTH_ALONE."""
    net: Any = pc.GPT(config)
    stage = GROWTH.index("+ MLP" if variant == DEPTH_ALONE else variant)
    if stage < 1:
        net.wpe = Nothing()
    if stage < 2:
        net.h = nn.ModuleList()
    elif stage < 5:
        net.h = nn.ModuleList(Chain(block.attn, *([block.mlp] if stage == 4 else [])) for block in net.h)
    if stage < 5:
        net.ln_f = nn.Identity()
    return net


# ----- the studies


class Study(NamedTuple):
    variants: dict[str, tuple[dict, dict]]  # name: changes to PicoGPT, changes to the default training
    seeds: int = 3
    look: Callable | None = None  # (net, text) -> what is called with each row, and adds to it
    finish: Callable | None = None  # (net, text) -> what is added to the last row
    build: Callable[[str, pc.ModelConfig], pc.GPT] = lambda variant, config: pc.GPT(config)
    text_of: Callable[[str, picogpt.Corpus], picogpt.Corpus] = lambda variant, text: text  # what is read, and judged on
    keep: bool = False  # the checkpoints in out/studies/


def nine_tenths(text: picogpt.Corpus) -> picogpt.Corpus:
    """Without the last tenth of the training text, whose end is the middle of a play that the validation text goes on with."""
    return text._replace(train=text.train[: len(text.train) * 9 // 10])


def held_out(text: picogpt.Corpus) -> picogpt.Corpus:
    """Judged on the last tenth of the training text, and trained on the others: choices are made here."""
    train = nine_tenths(text).train
    return text._replace(train=train, val=text.train[len(train) :])


# The best of the settings tried on the first 90 % of the training text and judged on its last 10 %
BEST = dict(resid_dropout=0.2, embd_dropout=0.3)
MORE_DROPOUT = dict(resid_dropout=0.3, embd_dropout=0.3)
RECIPE = dict(steps=3000, batch_size=32, weight_decay=0.1, eval_every=250)
DOWN = dict[str, Any](decay_fraction=0.3)  # a constant rate, then down
BEST_LENGTH = DOWN | dict(steps=5000)
TEN_MINUTES = dict(steps=3000, batch_size=16, eval_every=750)

# One thing changed, at PicoGPT's size. No dropout: 1.6 million characters are too few to overfit
EQUAL = dict(steps=400, batch_size=16, eval_every=200)
BEST_ADAMW, BEST_MUON = 4e-3, 0.04  # of those tried in the study "rates"
SOME_DROPOUT = dict[str, Any](resid_dropout=0.1, embd_dropout=0.1)
LONGER = EQUAL | dict(steps=2000, eval_every=500, log_every=50)
ADAMW_LONG = dict[str, Any](optimizer="adamw", warmup_steps=100)
ADAMW = EQUAL | dict(optimizer="adamw", learning_rate=1e-3, warmup_steps=100)
POST = dict(norm="post", final_norm=False)
PLACEMENTS: dict[str, dict[str, Any]] = {"pre": {}, "post": POST, "none": dict(norm="none")}
BIASES: dict[str, dict[str, Any]] = {"": {}, ", qkv bias": dict(qkv_bias=True), ", no bias": dict(bias=False, head_bias=False)}
MODERN = dict(norm_kind="rmsnorm", positions="rotary", activation="swiglu", n_kv_head=2, qk_norm=True)
SINCE_GPT2: dict[str, dict[str, Any]] = {
    "picogpt": {},
    "RMSNorm": dict(norm_kind="rmsnorm"),
    "rotary positions": dict(positions="rotary"),
    "SwiGLU": dict(activation="swiglu"),
    "2 heads of keys and values": dict(n_kv_head=2),
    "QK-norm": dict(qk_norm=True),
    "norm on the output": dict(norm="output"),
    "norms on both sides": dict(norm="sandwich"),
    "no norm": dict(norm="none"),
    "all together": MODERN,
}

# the preset "demo"
SMALLER = dict(n_layer=3, n_head=4, n_embd=128, block_size=128)
PAIR = dict(steps=2500, batch_size=16, eval_every=500)

# Small ones for wide sweeps: 64 wide, window 64
SMALL = dict(n_embd=64, n_head=4, block_size=64)
SWEEP = dict(steps=300, batch_size=32, optimizer="adamw", eval_every=300, log_every=50)


def of_width(width: int) -> dict[str, Any]:
    """A model of two layers that reads 64 characters."""
    return dict(n_layer=2, n_embd=width, n_head=max(1, width // 16), block_size=64)


def scaled(width: int) -> tuple[dict, dict]:
    """A model of this width, and a recipe that shows it ten characters for each parameter.

    Ten, not the twenty of Hoffmann et al. 2022: the widest then reads the text about four times, and up to there a
    repeated text is worth almost as much as a new one (Muennighoff et al. 2023, arXiv 2305.16264).
    """
    with torch.device("meta"):  # shapes without memory
        steps = round(10 * pc.count_parameters(pc.GPT(pc.ModelConfig(**of_width(width)))) / (16 * 64))
    return of_width(width), dict(steps=steps, batch_size=16, eval_every=steps, log_every=max(1, steps // 20))


def isoflop(budgets: dict[float, tuple[int, ...]]) -> dict[str, tuple[dict, dict]]:
    """For each budget in FLOPs, models of several widths, trained until it is spent (Hoffmann et al. 2022, figure 3)."""

    def recipe(width: int, flops: float) -> dict:
        steps = round(flops / (pc.flops_per_token(pc.ModelConfig(**of_width(width))) * 16 * 64))
        return dict(steps=steps, batch_size=16, eval_every=steps, log_every=max(1, steps // 20))

    return {
        f"{flops:g} FLOPs, width {width}": (of_width(width), recipe(width, flops))
        for flops, widths in budgets.items()
        for width in widths
    }


def growing(init: str) -> dict[str, tuple[dict, dict]]:
    """From a table of pairs to PicoGPT, one part at a time.

    GPT-2's small initialisation is made for models with residual connections; Xavier's also suits those without.
    """

    def config(stage: str) -> dict:
        return dict(n_head=1 if stage == "+ one head" else 8, n_layer=3 if "depth" in stage else 1, init=init)

    return {stage: (config(stage), EQUAL) for stage in (*GROWTH, DEPTH_ALONE)}


LONG = RECIPE | dict(steps=2500, eval_every=500)

STUDIES: dict[str, Study] = {
    # where the best recipe comes from: tried on nine tenths of the training text, judged on the last tenth
    "recipes": Study(
        {
            "smoothing 0.1": (BEST, LONG | dict(label_smoothing=0.1)),
            "dropout 0.3": (MORE_DROPOUT, LONG),
        },
        seeds=1,
        look=averaged,
        finish=calibrated,
        text_of=lambda variant, text: held_out(text),
    ),
    # longer: one setting at a time, then the better ones together, on the same texts
    "lengths": Study(
        {
            name: (MORE_DROPOUT | model, RECIPE | dict(steps=5000, log_every=50) | recipe)
            for name, model, recipe in [
                ("dropout 0.3", dict[str, Any](), dict[str, Any]()),
                ("dropout 0.2", BEST, {}),
                ("dropout 0.4", dict(resid_dropout=0.4, embd_dropout=0.4), {}),
                ("attention dropout 0.1", dict(attn_dropout=0.1), {}),
                ("smoothing 0.03", {}, dict(label_smoothing=0.03)),
                ("weight decay 0.2", {}, dict(weight_decay=0.2)),
                ("constant, then down", {}, DOWN),
                ("Muon 0.04", {}, dict(muon_learning_rate=BEST_MUON)),
                ("down, dropout 0.2", BEST, DOWN),
                ("down, dropout 0.2, embeddings 0.2", dict(resid_dropout=0.2, embd_dropout=0.2), DOWN),
                ("down, dropout 0.25", dict(resid_dropout=0.25), DOWN),
                ("down, dropout 0.2, embeddings 0.4", dict(resid_dropout=0.2, embd_dropout=0.4), DOWN),
                ("down, dropout 0.2, attention 0.1", BEST | dict(attn_dropout=0.1), DOWN),
                ("down, attention dropout 0.1", dict(attn_dropout=0.1), DOWN),
                ("down in the last half, dropout 0.2", BEST, dict(decay_fraction=0.5)),
                ("down in the last sixth, dropout 0.2", BEST, dict(decay_fraction=1 / 6)),
                ("down to zero, dropout 0.2", BEST, DOWN | dict(final_lr_fraction=0.0)),
                ("down, smoothing 0.03", {}, DOWN | dict(label_smoothing=0.03)),
                ("down, dropout 0.2, smoothing 0.02", BEST, DOWN | dict(label_smoothing=0.02)),
                ("down, weight decay 0.05", {}, DOWN | dict(weight_decay=0.05)),
                ("down, two thirds of the rates", {}, DOWN | dict(learning_rate=2e-3, muon_learning_rate=0.0133)),
            ]
        },
        seeds=1,
        finish=calibrated,
        text_of=lambda variant, text: held_out(text),
    ),
    "best": Study({"picogpt": (BEST, RECIPE | BEST_LENGTH)}, keep=True, finish=at_the_temperature),
    # once more on two cores, where it takes half an hour; and what they reach in ten minutes, with less dropout for less text
    "best_cpu": Study({"picogpt": (BEST, RECIPE | BEST_LENGTH)}, seeds=1, finish=at_the_temperature),
    "ten_minutes": Study({"picogpt": (dict(embd_dropout=0.2, resid_dropout=0.1), RECIPE | DOWN | TEN_MINUTES)}),
    # what each ingredient of training brings: one is changed at a time, tokens are equal; without dropout, which a training
    # this short does not need
    "ingredients": Study(
        {
            "the recipe": ({}, EQUAL),
            "no warm-up": ({}, EQUAL | dict(warmup_steps=0)),
            "no clipping": ({}, EQUAL | dict(grad_clip=0.0)),
            "decay on everything": ({}, EQUAL | dict(decay="all")),
            "no weight decay": ({}, EQUAL | dict(weight_decay=0.0)),
            "cosine": ({}, EQUAL | dict(schedule="cosine")),
            "constant rate": ({}, EQUAL | dict(schedule="constant")),
            "constant, then down": ({}, EQUAL | dict(decay_fraction=0.3)),
            "batch 8": ({}, EQUAL | dict(batch_size=8, steps=800, eval_every=400)),
            "batch 32": ({}, EQUAL | dict(batch_size=32, steps=200, eval_every=100)),
            "dropout 0.1": (dict(resid_dropout=0.1, embd_dropout=0.1), EQUAL),
            "Muon at its best rate": ({}, EQUAL | dict(muon_learning_rate=BEST_MUON)),
            "AdamW at its best rate": ({}, EQUAL | dict(optimizer="adamw", learning_rate=BEST_ADAMW)),
            "AdamW, warm-up of 100": ({}, EQUAL | dict(optimizer="adamw", learning_rate=BEST_ADAMW, warmup_steps=100)),
        },
        look=averaged,
    ),
    # the same questions at five times the length, with some dropout, and AdamW at three rates with the longer warm-up
    "ingredients_long": Study(
        {
            name: (SOME_DROPOUT, LONGER | recipe)
            for name, recipe in {
                "the recipe": dict[str, Any](),
                "no warm-up": dict(warmup_steps=0),
                "no clipping": dict(grad_clip=0.0),
                "no weight decay": dict(weight_decay=0.0),
                "cosine": dict(schedule="cosine"),
                "constant rate": dict(schedule="constant"),
                "constant, then down": DOWN,
                "batch 8": dict(batch_size=8, steps=4000, eval_every=1000),
                "batch 32": dict(batch_size=32, steps=1000, eval_every=250),
                "Muon at its best rate": dict(muon_learning_rate=BEST_MUON),
                "AdamW, rate 0.002": ADAMW_LONG | dict(learning_rate=2e-3),
                "AdamW, rate 0.004": ADAMW_LONG | dict(learning_rate=4e-3),
                "AdamW, rate 0.008": ADAMW_LONG | dict(learning_rate=8e-3),
            }.items()
        },
    ),
    # the rates that the two optimizers are compared at, one seed
    "rates": Study(
        {
            f"AdamW {rate:g}": ({}, EQUAL | dict(optimizer="adamw", learning_rate=rate))
            for rate in (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
        }
        | {f"Muon {rate:g}": ({}, EQUAL | dict(muon_learning_rate=rate)) for rate in (0.005, 0.01, 0.02, 0.04, 0.08)},
        seeds=1,
    ),
    "checkpoints": Study(
        {
            "picogpt-6layer": (BEST | dict(n_layer=6), RECIPE | DOWN | dict(steps=1200)),
            "draft": (dict(n_layer=1, n_head=4, n_embd=128), RECIPE | DOWN | dict(steps=2500)),
        },
        seeds=1,
        keep=True,
    ),
    # two small models that differ in the mask alone, to be set side by side when they write
    "pair": Study(
        {name: (SMALLER | dict(causal=name == "honest"), PAIR) for name in ("honest", "unmasked")},
        seeds=1,
        keep=True,
    ),
    "architecture": Study(
        {
            "picogpt (pre)": ({}, EQUAL),
            "post, final norm": (dict(norm="post"), EQUAL),
            "post": (POST, EQUAL),
            "pre, qkv bias": (dict(qkv_bias=True), EQUAL),
            "post, qkv bias": (POST | dict(qkv_bias=True), EQUAL),
            "post, no bias": (POST | dict(bias=False, head_bias=False), EQUAL),
            "pre, no bias": (dict(bias=False, head_bias=False), EQUAL),
            "ReLU": (dict(activation="relu"), EQUAL),
            "6 layers": (dict(n_layer=6), EQUAL),
            "block 300": (dict(block_size=300), EQUAL),
            "trained on 64": ({}, EQUAL | dict(seq_len=64, batch_size=64)),
            "no mask": (dict(causal=False), EQUAL),
            # the three models that the log compares; its nanoGPT is "ReLU"
            "log's original": (POST | dict(qkv_bias=True, activation="relu"), EQUAL),
            "rasbt-scaled": (dict(qkv_bias=True, head_bias=False), EQUAL),
        },
        look=positions,
    ),
    # what came since GPT-2, one thing at a time and all together, at (about) equal numbers of parameters
    "since_gpt2": Study({name: (fields, EQUAL) for name, fields in SINCE_GPT2.items()}),
    # again at five times the length, with some dropout
    "since_gpt2_long": Study({name: (SOME_DROPOUT | fields, LONGER) for name, fields in SINCE_GPT2.items()}),
    "growth": Study(growing("xavier"), finish=write_a_line, build=grown),
    "growth_gpt2": Study(growing("gpt2"), finish=write_a_line, build=grown),
    "heads": Study({f"{n} heads" if n > 1 else "1 head": (dict(n_head=n), EQUAL) for n in (1, 2, 4, 8)}),
    "biases": Study(
        {f"{norm}{bias}": (PLACEMENTS[norm] | BIASES[bias], EQUAL) for norm in ("pre", "post") for bias in BIASES},
        seeds=5,
        build=equal_first_weights,
    ),
    # where the bias of the keys does not cancel
    "biases_since_gpt2": Study(
        {
            f"{name}{bias}": (model | BIASES[bias], EQUAL)
            for name, model in [("rotary", dict[str, Any](positions="rotary")), ("QK-norm", dict[str, Any](qk_norm=True))]
            for bias in ("", ", qkv bias")
        },
        build=equal_first_weights,
    ),
    # where a LayerNorm stands, from which weights one starts, warm-up and depth: one seed, rates until the best lies inside
    "initialisation": Study(
        {
            f"{init}, {norm}, {layers} layers, rate {rate:g}, warm-up {warm}": (
                SMALL | PLACEMENTS[norm] | dict(init=init, n_layer=layers),
                SWEEP | dict(learning_rate=rate, warmup_steps=warm),
            )
            for layers, inits, norms, rates in [
                (6, ("gpt2", "xavier", "gpt2-flat"), PLACEMENTS, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
                (24, ("gpt2", "xavier"), PLACEMENTS, (3e-4, 1e-3, 3e-3, 1e-2)),
                (24, ("gpt2", "xavier"), ("pre",), (3e-2,)),  # where the best lay at the edge
                (24, ("gpt2", "xavier"), ("post",), (1e-4,)),
            ]
            for init in inits
            for norm in norms
            for warm in (0, 100)
            for rate in rates
        },
        seeds=1,
    ),
    # what decides in that grid, five times as long and with three seeds
    "placement_long": Study(
        {
            f"{init}, {norm}, warm-up {warm}": (
                SMALL | PLACEMENTS[norm] | dict(init=init, n_layer=6),
                SWEEP | dict(learning_rate=1e-2, warmup_steps=warm, steps=1500, log_every=50),
            )
            for init in ("gpt2", "xavier")
            for norm in PLACEMENTS
            for warm in (0, 100)
        }
    ),
    # and at PicoGPT's size, long enough to leave the 5-gram behind, at the rate that was best for Pre-LN with GPT-2's weights
    "placement_picogpt": Study(
        {
            f"{init}, {norm}": (
                PLACEMENTS[norm] | dict(init=init),
                EQUAL | ADAMW_LONG | dict(learning_rate=BEST_ADAMW, steps=1200, eval_every=200, log_every=50),
            )
            for init in ("gpt2", "xavier")
            for norm in ("pre", "post")
        }
    ),
    "architecture_adamw": Study({"pre": ({}, ADAMW), "post": (POST, ADAMW)}),
    # lesson 15 fits a line to the first four and predicts the last
    "scaling": Study({f"width {width}": scaled(width) for width in (32, 48, 64, 96, 128)}),
    # which size is best for a given amount of computing? The last budget is predicted from the others before it is spent
    "isoflop": Study(
        isoflop({1e11: (16, 24, 32, 48, 64), 4e11: (24, 32, 48, 64, 96), 1.6e12: (32, 48, 64, 96, 128)}),
    ),
    "isoflop_held_out": Study(isoflop({6.4e12: (48, 64, 96, 128)})),
    # the same training with and without the last tenth of the training text, judged on the validation text
    "split": Study(
        {f"{name}, {steps} steps": ({}, EQUAL | dict(steps=steps)) for steps in (400, 1200) for name in ("all", "nine tenths")},
        text_of=lambda variant, text: nine_tenths(text) if variant.startswith("nine tenths") else text,
    ),
    # with and without dropout, at three lengths, each with its whole schedule
    "dropout": Study(
        {
            f"{'dropout' if model else 'no dropout'}, {steps} steps": (
                model,
                EQUAL | dict(steps=steps, eval_every=400, log_every=50),
            )
            for steps in (400, 1200, 3600)
            for model in (dict[str, Any](), BEST)
        },
    ),
    # does it go on word for word after a passage that it was trained on? Without dropout, until it would
    "reciting": Study(
        {"3 layers": ({}, EQUAL | dict(steps=3000, batch_size=32, eval_every=250, log_every=50))},
        look=reciting,
    ),
    # on and on, down to the training losses of the log: 0.96, 0.84, 0.73 and, with six layers, 0.54
    "memorising": Study(
        {
            "3 layers": ({}, EQUAL | dict(steps=2400, batch_size=32, eval_every=150)),
            "6 layers": (dict(n_layer=6), EQUAL | dict(steps=1900, batch_size=32, eval_every=100)),
        },
        seeds=1,
        look=copying,
    ),
}


def finished(path) -> list[dict]:
    return picogpt.load_rows(path) if path.exists() else []


def changed_since_measured(table: Path, settings: dict[str, dict]) -> list[str]:
    """Return the variants with finished runs whose stored settings are not those of now. New fields count as their defaults."""
    file = table.with_suffix(".json")
    measured = {row["variant"] for row in finished(table)}
    stored = json.loads(file.read_text()) if file.exists() else {}

    def complete(of: dict) -> tuple[pc.ModelConfig, pc.TrainConfig]:
        return pc.ModelConfig(**of["model"]), pc.TrainConfig(**of["train"])

    both = measured & stored.keys() & settings.keys()
    return sorted(name for name in both if complete(stored[name]) != complete(settings[name]))


def folder_of(study: str, variant: str, seed: int) -> Path:
    """Where a run keeps its checkpoints while it is trained."""
    return picogpt.ROOT / "out" / "studies" / study / f"{variant}-{seed}"


def train_one(study: str, variant: str, model: pc.ModelConfig, recipe: pc.TrainConfig, text: picogpt.Corpus) -> list[dict]:
    """The rows of one run, each with what it belongs to."""
    torch.manual_seed(recipe.seed)
    net, look, finish = STUDIES[study].build(variant, model), STUDIES[study].look, STUDIES[study].finish
    out: Path | None = folder_of(study, variant, recipe.seed)
    look = look and look(net, text)
    if STUDIES[study].look is averaged:  # the average is not in a checkpoint: such a run starts again from its first step
        out = None
    resume = out is not None and (out / "last.safetensors").exists()
    try:
        history = picogpt.train(net, text, recipe, out, resume, on_row=look).history
    except FloatingPointError:  # a result too
        keys = ("step", "tokens", "train_loss", "val_loss", "learning_rate", "grad_norm", "seconds")
        history = [dict.fromkeys(keys) | dict(step=recipe.steps, val_loss=math.inf)]
    if finish:
        end = finish(net.eval(), text)
        history = [row | dict.fromkeys(end) for row in history[:-1]] + [history[-1] | end]
    about = dict(study=study, variant=variant, seed=recipe.seed)
    machine, on_cpu = picogpt.describe_machine(), device_and_precision(recipe)[0].type == "cpu"
    machine = machine if on_cpu else f"{machine}, {describe_run(recipe)}"  # a CPU's number format follows from its name
    where = dict(parameters=pc.count_parameters(net), torch=torch.__version__, machine=machine)
    return [about | row | where for row in history]


def main(name: str, *seeds: str) -> None:
    if name not in STUDIES:
        sys.exit(f"error: {f'no study is called {name!r}' if name else 'which study'}: {', '.join(STUDIES)}")
    study, table = STUDIES[name], RUNS / f"{name}.csv"
    whole = picogpt.load_corpus()
    settings = {
        variant: {"model": dataclasses.asdict(pc.ModelConfig(**model)), "train": dataclasses.asdict(pc.TrainConfig(**recipe))}
        for variant, (model, recipe) in study.variants.items()
    }
    if changed := changed_since_measured(table, settings):
        sys.exit(f"error: {table} holds runs of {', '.join(changed)} with other settings: delete it to measure again")
    with picogpt.atomic_write(table.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(settings, indent=1) + "\n")
    for seed in map(int, seeds or SEEDS[: study.seeds]):  # seed by seed: an early stop leaves all with as many
        for variant, (model_changes, train_changes) in study.variants.items():
            if any(row["variant"] == variant and row["seed"] == seed for row in finished(table)):
                continue
            model, recipe = pc.ModelConfig(**model_changes), pc.TrainConfig(seed=seed, **train_changes)
            rows = train_one(name, variant, model, recipe, study.text_of(variant, whole))
            picogpt.save_rows(table, finished(table) + rows)  # read again: another process may have added a seed
            print(f"{variant}, seed {seed}: {rows[-1]['val_loss']:.4f}", flush=True)
            if not study.keep:
                shutil.rmtree(folder_of(name, variant, seed), ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
