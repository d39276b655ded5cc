"""Examine a GPT from outside, anybody's, and say what is wrong with it.

    python picogpt_doctor.py my_model.py:make_model n_layer=3 n_embd=64      # what to call, and with which arguments
    python picogpt_doctor.py my_package.my_module:GPT --golden picogpt --json

    from picogpt_doctor import diagnose
    diagnose(model)                                                          # in a notebook: a table

The model is any torch.nn.Module that takes token ids (B, T) and gives logits (B, T, V): alone, in a tuple, in a dict, as an
attribute `logits`, with or without a loss. Each check asks for something that must be true of every causal language model,
whoever wrote it. Most need the answers only: change a token and see which answers move. Where that does not tell the cause,
the operations that PyTorch carries out are watched: which softmax over which axis, which weights came out of it.

A finding is one of
    pass   what must be true is true
    fail   it is not: the evidence in numbers, the likely cause, where to look
    warn   unusual; some good models do so on purpose
    skip   not answered, and why: it does not apply, another check failed first, it is too slow, or the model could not be asked
    error  a check of the doctor's crashed: a bug of the doctor, not of the model

An error, or no answer from one of the checks in ESSENTIAL, leaves no report healthy.

Weights, gradients, modes, buffers and random numbers are put back. Nothing is written, nothing is fetched.

Sections
    1. Findings and the report
    2. Causes: all that it can name
    3. The patient: how it is called, what it answers, how it is left unharmed
    4. The tape: what PyTorch does while it answers
    5. Probes: who hears whom, and why
    6. Checks: one question each
    7. diagnose, and the command line

Axes: B rows, T positions, V vocabulary, C width, nh heads, hs size of a head; Tq queries, Tk keys, N = B·nh.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import dataclasses
import functools
import html
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# Parameter counts of published models and of this course's, to compare with
GOLDEN = {
    "picogpt": 2_466_369,
    "picogpt-6layer": 4_833_345,
    "picogpt-original": 2_468_161,
    "nanogpt-scaled": 2_466_369,
    "rasbt-scaled": 2_468_608,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}

# ---------------------------------------------------------------------------------------------------------------------
# 1. Findings and the report
# ---------------------------------------------------------------------------------------------------------------------

COLOURS = {  # in the order of the report
    "error": "#cc0000",
    "fail": "#d55e00",
    "warn": "#e69f00",
    "pass": "#009e73",
    "skip": "#888888",
}
# why a check was skipped
INAPPLICABLE = "does not apply"
DEPENDS = "skipped"
TOO_SLOW = "too slow"
NOT_ASKED = "could not be asked"
# without an answer from each of these no report is a clean bill of health
ESSENTIAL = ("called", "answers", "repeats", "rows", "causality", "memory", "lengths")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: str  # pass, fail, warn, skip, error
    evidence: str  # in numbers
    cause: str = ""  # the likely one
    advice: str = ""  # where to look, what to do
    reason: str = ""  # of a skip: INAPPLICABLE, DEPENDS, TOO_SLOW or NOT_ASKED
    where: str = ""  # of an error: file, line and function

    @property
    def text(self) -> str:
        """The evidence, after the reason if it was skipped."""
        return f"{self.reason}: {self.evidence}" if self.reason else self.evidence


@dataclasses.dataclass
class Report:
    """All findings about one model. Prints as text, shows as a table in a notebook, `to_json()` for machines."""

    about: str
    findings: list[Finding]
    seconds: float
    examined: bool = True  # False: it could not be called at all
    not_recorded: dict[str, int] = dataclasses.field(default_factory=dict)  # "aten.foo: TypeError: …" and how often

    def of(self, status: str) -> list[Finding]:
        """The findings of one status."""
        return [finding for finding in self.findings if finding.status == status]

    @property
    def unanswered(self) -> list[Finding]:
        """Checks that apply and gave no answer: too slow, or the model could not be asked."""
        return [finding for finding in self.findings if finding.reason in (TOO_SLOW, NOT_ASKED)]

    @property
    def trusted(self) -> bool:
        """Whether no check crashed and each essential one was answered."""
        return not self.of("error") and not any(finding.check in ESSENTIAL for finding in self.unanswered)

    @property
    def healthy(self) -> bool:
        """Whether it was examined, nothing failed, and the report can be trusted."""
        return self.examined and not self.of("fail") and self.trusted

    @property
    def exit_status(self) -> int:
        """0 healthy, 1 something failed, 2 it could not be examined, 3 nothing failed but the report cannot be trusted."""
        if not self.examined:
            return 3 if self.of("error") else 2
        return 1 if self.of("fail") else 0 if self.trusted else 3

    def __getitem__(self, check: str) -> Finding:
        """The finding of a check by its name. KeyError if there is none."""
        return {finding.check: finding for finding in self.findings}[check]

    def _in_order(self) -> list[Finding]:
        return [finding for status in COLOURS for finding in self.of(status)]

    def _sum(self) -> str:
        counts = ", ".join(f"{len(self.of(status))} {status}" for status in COLOURS)
        return f"{self.conclusion}\n{counts}, in {self.seconds:.1f} s"

    @property
    def conclusion(self) -> str:
        """The report in a sentence or two."""
        if not self.examined:
            says = "Not examined."
        elif failed := self.of("fail"):
            says = f"Not healthy: {listed(f.check for f in failed)} failed."
        elif self.trusted:
            says = "Healthy: nothing failed."
        else:
            says = "Nothing failed, but this report is no clean bill of health."
        if crashed := self.of("error"):
            says += f" A bug of the doctor: {listed(f.check for f in crashed)} crashed."
        if left := self.unanswered:
            says += f" Not answered: {listed(f'{f.check} ({f.reason})' for f in left)}."
        if self.not_recorded:
            first = next(iter(self.not_recorded))
            says += f" Not recorded: {sum(self.not_recorded.values())} operations ({first})."
        return says

    def __str__(self) -> str:
        lines = [self.about, ""]
        for f in self._in_order():
            parts = [f.text, f.cause and f"likely cause: {f.cause}", f.advice and f"try: {f.advice}"]
            text = [line for part in parts if part for line in (textwrap.wrap(part, 97) or [""])]
            lines += [f"{f.status:5}{f.check:14}{text[0]}", *(f"{'':19}{line}" for line in text[1:])]
        *sentences, counts = self._sum().split("\n")
        return "\n".join([*lines, "", *(line for text in sentences for line in textwrap.wrap(text, 116)), counts])

    def _repr_html_(self) -> str:
        rows = []
        for f in self._in_order():
            said = html.escape(f.text)
            said += f"<br><b>likely cause:</b> {html.escape(f.cause)}" if f.cause else ""
            said += f"<br><b>try:</b> {html.escape(f.advice)}" if f.advice else ""
            mark = f'<td style="color:{COLOURS[f.status]};font-weight:bold">{f.status}</td>'
            rows.append(f'<tr>{mark}<td>{html.escape(f.check)}</td><td style="text-align:left">{said}</td></tr>')
        head = "<br>".join(map(html.escape, [self.about, *self._sum().split("\n")]))
        return f"<p>{head}</p><table>{''.join(rows)}</table>"

    def to_json(self) -> str:
        """The report as JSON: about, healthy, examined, exit_status, conclusion, seconds, not_recorded, findings."""
        about = dict(about=self.about, healthy=self.healthy, examined=self.examined, exit_status=self.exit_status)
        about |= dict(conclusion=self.conclusion, seconds=round(self.seconds, 2), not_recorded=self.not_recorded)
        return json.dumps(about | {"findings": [dataclasses.asdict(f) for f in self.findings]}, indent=1)


def listed(words) -> str:
    """Some words as a list in a sentence: a, b and c."""
    words = list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


# ---------------------------------------------------------------------------------------------------------------------
# 2. Causes: all that it can name, with what to do about each
# ---------------------------------------------------------------------------------------------------------------------

TO_SOFTMAX = "fill the scores with -inf before the softmax"
TO_KEYS = "softmax(dim=-1): over the keys, so that each row is a distribution"
TO_NORM = "nn.LayerNorm(n_embd): over the features of one position"
TO_ONE_MEAN = "F.cross_entropy(logits.flatten(0, 1), targets.flatten()): the mean over all tokens"
TO_NEXT = "compare the logits at t with the token at t + 1, shifted once: in the batch or in forward"
BY_HAND = "call it by hand"

# fmt: off
CAUSES = {  # key: (what is wrong, what to do)
    # called
    "forward fails": ("an error in its forward", BY_HAND),
    "argument missing": ("its forward needs more than ids", "{adapt}"),
    "axis mistaken": ("an axis is taken for another: batch for time (batch_first=True?), or a mask of one fixed size", BY_HAND),
    "hangs": ("the model hangs, or is very slow", "call it by hand, on one token"),
    "exits": ("sys.exit in its code", "raise instead"),
    # answers
    "axes turned": ("the axes are turned", "transpose(1, 2): logits are (B, T, V)"),
    "head too small": ("the head is too small: some tokens can never be predicted", "give the last layer vocab_size outputs"),
    "embedding too small": ("the embedding is too small: the last tokens crash", "nn.Embedding(vocab_size, n_embd)"),
    "head too large": ("the head is larger than the embedding: it can predict tokens that crash when they are read",
        "give both vocab_size rows, padded alike if at all"),
    "batch of one": ("a batch of one loses its axis (squeeze without dim?)", "no squeeze() on a tensor with a batch axis"),
    "relu on logits": ("an activation (ReLU) on the logits: it cuts off all that is unlikely",
        "nothing behind the last linear layer"),
    "softmax inside": ("a softmax inside the model: cross_entropy applies another one, and the loss can hardly fall",
        "return the scores before the softmax"),
    "overflow": ("numbers overflow, or a row of an attention mask blocks everything", "look for the first NaN by layer"),
    "row blocked": ("the mask blocks all of row {rows}, and the softmax of nothing is NaN{more}",
        "a position may see itself and the past: tril(diagonal=0), and mind what True means"),
    # side effects
    "writes into input": ("forward writes into its input in place", "work on a copy: ids.clone()"),
    "changes weights": ("forward changes its own weights in place",
        "no in-place operation (+=, mul_, copy_) on a parameter in forward"),
    "switches mode": ("forward, or an overridden train(), switches the mode", "leave the mode to the caller"),
    "debugging left": ("left over from debugging", "remove it: memory, or the screen, fills up"),
    # repeats
    "hidden state": ("the model keeps something between calls (a cache, a counter, a running state) and forward reads it",
        "forward must depend on its inputs only; clear such state at the start"),
    "noise in eval": ("dropout or noise is active in evaluation mode{more}",
        "nn.Dropout as a registered module, or F.dropout(x, p, self.training)"),
    "drops too much": ("the probability to keep was given as the probability to drop", "nn.Dropout({p:.1g})"),
    # registered, shared layers
    "not registered": ("layers in a plain Python list or dict: no optimizer, .to(), eval() or state_dict() reaches them",
        "nn.ModuleList, nn.ModuleDict or nn.ParameterList instead of [] or {{}}"),
    "one layer repeated": ("[Block()] * n repeats one block n times", "[Block() for _ in range(n)]"),
    "weights shared": ("a module or parameter made once, outside the loop, is used in several layers",
        "make it inside each layer"),
    # rows
    "batch mixed": ("an operation mixes the axis of the batch: attention or a normalisation over axis 0 (batch_first?)",
        "keep axis 0 apart everywhere"),
    "batch norm": ("BatchNorm takes its statistics over the batch and over time", TO_NORM),
    "not batch first": ("nn.MultiheadAttention without batch_first=True takes axis 0 for time: it attends over the batch",
        "batch_first=True, as nn.Transformer needs too"),
    "row number": ("something depends on the number of the row: positions taken from the axis of the batch?",
        "positions are arange(T), the same for each row"),
    # causality
    "turned in time": ("{how}", "shift by padding on the left and cutting on the right"),
    "longer input": ("it answers for the last position only, and differently for a longer input",
        "look at what is cut off where"),
    "targets fed in": ("the targets are fed in: they reach the logits, and they are the future", "targets serve the loss only"),
    "sees the answer": ("it sees the answer by a way that changes of single tokens do not show", "is the target in its input?"),
    "softmax other axis": ("attention {layer}: the softmax runs over the heads or the batch", TO_KEYS),
    "softmax queries": (
        "attention {layer}: softmax over the queries (dim=-2): columns sum to 1, rows to {low:.2f} … {high:.2f}. The sum of a "
        "column runs over the future",
        TO_KEYS),
    "mask after softmax": (
        "attention {layer}: the mask comes after the softmax. The weights on the future are 0 in the end, but they took part "
        "in the sum that all are divided by",
        TO_SOFTMAX),
    "mask polarity": ("the mask's polarity is turned round: in {where} each position sees the future only and none of the past",
        "True means blocked in nn.MultiheadAttention and masked_fill, attend in scaled_dot_product_attention: invert it"),
    "mask off by one": ("the mask is off by one: in {where} each position also sees the one after it",
        "tril(diagonal=0): position t sees 0 … t"),
    "mask excludes self": (
        "in {where} row {row} of the mask blocks all, and the softmax of equal numbers is even over everything: the mask also "
        "excludes the position itself",
        "tril(diagonal=0), not -1: a position must see itself"),
    "mask multiplies": ("in {where} the mask multiplies the scores: the future gets the score 0, and exp(0) = 1", TO_SOFTMAX),
    "mask finite": ("in {where} the mask fills with {value:.4g}, not with -inf: the future keeps some weight", TO_SOFTMAX),
    "no mask": ("no causal mask in {where}: {share:.0%} of the attention goes to the future{how}",
        "cover what comes after t with -inf before the softmax, or is_causal=True in scaled_dot_product_attention"),
    "norm over time": ("{kind} over the axis of time: statistics of a tensor {shape} over axes {dims} mix all positions",
        TO_NORM),
    "bidirectional": ("a recurrent layer with bidirectional=True reads the text from its end too", "bidirectional=False"),
    "padded convolution": ("a convolution over time (kernel {kernel}) is padded on both sides and looks ahead",
        "pad on the left only: F.pad(x, (kernel - 1, 0))"),
    "other path": (
        "the attention weights are causal: another path carries the future (a pooling or shift over time, targets, a wrong "
        "reshape behind the attention)",
        "follow the stream: which operation after the embedding mixes positions?"),
    "mixes positions": ("no attention was seen: some operation mixes positions", "which operation mixes positions?"),
    "reshape in": (
        "a reshape mixes positions and heads on the way in: token {at} alone was changed, but the {what} of positions {wrong} "
        "changed in the first attention",
        "view(B, T, nh, hs) first, then transpose(1, 2): the view alone reads the memory in another order"),
    "reshape out": (
        "a reshape mixes positions and heads on the way out: the weighed values of positions {wrong} did not change, but the "
        "input of the next layer there did",
        "transpose(1, 2) back to (B, T, nh, hs) before the heads are laid side by side"),
    # memory
    "own token hidden": (
        "the input is shifted right inside the model, or the last token is cut off: position t answers for token t - 1",
        "logits at t are the guess for t + 1, from tokens 0 … t"),
    "attends over heads": (
        "a softmax was seen over {shape}, none over {T} x {T} positions: attention runs over another axis (the heads of one "
        "token?)",
        "transpose(1, 2) to (B, nh, T, hs) before attention"),
    "no attention": ("no attention was seen that could bring it there", "is the layer that mixes positions called at all?"),
    "past covered": ("the mask's polarity is turned round: the past is covered, not the future", "invert the mask"),
    "self only": ("the mask lets a position see itself only", "tril(): all positions up to the own one"),
    "window": ("the mask of the first attention reaches back {reach} positions only: a window",
        "tril() without a triu() on top"),
    "attention lost": ("the attention sees the past, but its result does not reach the logits",
        "is the output of the attention added to the stream?"),
    "short window": ("a window in the attention mask is narrower than the block size",
        "if that is meant, name it sliding_window in the configuration"),
    # positions
    "positions wrap": ("positions wrap round or are clamped before the end of the block", "torch.arange(T)"),
    "positions wrong": ("{how}positions must be 0, 1, 2 …", "torch.arange(T)"),
    "positions off by one": ("positions are off by one", "torch.arange(T): they start at 0"),
    "positions by length": (
        "positions are counted from the end, or something else depends on how long the text is",
        "torch.arange(T): the first token is at 0, however many follow"),
    "distance uneven": (
        "scores depend on where two tokens stand, not on how far apart they are: a rotary embedding on queries or keys alone, "
        "or with other pairs of numbers on each",
        "turn queries and keys alike, with one function"),
    "distance turned": ("the bias of distance has the wrong sign: the farthest key counts most",
        "scores - slope * (t - j), with slope above 0 (ALiBi)"),
    "positions ignored": ("positions are ignored: no position embedding reaches the stream", "x = wte(ids) + wpe(arange(T))"),
    "positions lost": ("positions do not reach the stream, though there is {name}", "x = wte(ids) + wpe(arange(T))"),
    "no positions": ("no positions but what the mask itself tells: forgotten, or meant so (NoPE)",
        "x = wte(ids) + wpe(arange(T)), unless it is meant so"),
    # lengths
    "length 1": ("an axis of length 1 is lost (squeeze?)", "try model(ids[:, :1]) by hand"),
    "length kept": ("{name} was made for the length of an earlier call and kept",
        "make it once for block_size, and cut it to (T, T) in forward"),
    "length claimed": ("it takes fewer tokens than it says", "try model(ids[:, :{T}]) by hand"),
    "length some": ("it takes some lengths only", "try model(ids[:, :{T}]) by hand"),
    "length off by one": ("positions are off by one: they count from 1", "torch.arange(T): they start at 0"),
    "nan everywhere": ("as at other lengths: see answers", "look for the first NaN by layer"),
    "nan at one": ("statistics of a single position (std over time with one element)", "no statistics over time"),
    "nan at end": ("overflow, or a bad last row", "look for the first NaN by layer"),
    "cut silently": ("the input is cut to the block size inside forward, silently",
        "raise a ValueError in forward; cut in generate()"),
    "wraps past end": ("positions wrap round or are clamped past the end (modulo, clamp), silently",
        "raise a ValueError for more than block_size tokens"),
    # softmax, scale
    "softmax axis": ("the softmax runs over {what}", TO_KEYS),
    "mask breaks rows": ("the mask comes after the softmax: what is left is not a distribution any more", TO_SOFTMAX),
    "scale missing": ("the scale is missing: scores grow with the head size, and the softmax saturates",
        "divide by math.sqrt(head_size)"),
    "scale of width": ("divided by √{wide}, the width (n_embd), not by the root of the head size",
        "divide by math.sqrt(head_size)"),
    "scale inverted": ("multiplied where it should be divided", "divide by math.sqrt(head_size)"),
    "scale without root": ("divided by the head size, not by its root (muP does so on purpose)",
        "divide by math.sqrt(head_size)"),
    "scale unusual": ("an unusual scale", "divide by math.sqrt(head_size)"),
    # residual, norms
    "residual missing": ("the residual connection round {where} is missing",
        "x = x + branch(norm(x)), not x = branch(norm(x))"),
    "residual twice": ("the residual is added twice: inside the branch and outside", "add x once"),
    "time statistics": ("statistics over time: a norm over the wrong axis, or a pooling over all positions", TO_NORM),
    "no norm": ("no LayerNorm (or RMSNorm) stands anywhere in the stream",
        "x = x + branch(norm(x)), and one more norm before the head"),
    "norm too strong": ("a norm divides by the mean square (the variance), not by its root",
        "x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)"),
    "norm missing": ("the LayerNorm before {name} is missing", "x = x + branch(norm(x)) for each branch"),
    # activation
    "no activation": ("nothing non-linear stands between {wide} and {narrow}: two linear layers in a row are one",
        "x = narrow(F.gelu(wide(x)))"),
    # gradients, first loss
    "inference only": ("made for inference only", "remove it to train"),
    "all frozen": ("all parameters are frozen", "requires_grad_(True)"),
    "no gradient": (
        "the way from the weights to the logits is cut (torch.no_grad, detach, .data, argmax or .item() on the way)",
        "no detach() or no_grad() inside forward"),
    "gradient cut": ("the gradient is cut on the way (detach, .data, no_grad): it reaches {first} …, or layers are not called",
        "no detach() inside the model; call every layer"),
    "positions unused": ("the table of positions is made but never added to the stream", "x = wte(ids) + wpe(arange(T))"),
    "never used": ("they are never used in forward", "call them in forward, or remove them"),
    "cut off": ("what they compute is cut off (detach) or multiplied by 0", "no detach() inside the model"),
    "frozen": ("frozen: no training changes them", "requires_grad_(True), unless you fine-tune on purpose"),
    "init too large": ("the first weights are too large: most often an embedding of spread 1 that is tied to the head",
        "nn.init.normal_(weight, std=0.02) for embeddings and linear layers"),
    # its own loss
    "loss is a number": ("it carries no gradient (.item())", "return the tensor"),
    "loss not averaged": ("it is not averaged (reduction='none')", "reduction='mean'"),
    "loss detached": ("it is detached, or computed under no_grad", "return it as it is"),
    "loss learns to copy": (
        "{name} are not shifted inside (as Hugging Face's models do): given the ids themselves, it learns to copy",
        "shift inside: logits[:, :-1] against labels[:, 1:]; or name them targets and give the next tokens"),
    "loss shifts again": ("shifted twice: {name} are the next tokens already, and forward shifts them once more",
        "shift once: in the batch or in forward, not in both"),
    "loss not shifted": ("the targets are not shifted: logits at t are compared with the input at t, which it can see",
        TO_NEXT),
    "loss shifted twice": ("the targets are shifted twice", TO_NEXT),
    "loss shifted back": ("the targets are shifted the wrong way: logits at t are compared with token t - 1", TO_NEXT),
    "loss summed": ("the loss is summed, not averaged: it grows with batch and window", "reduction='mean'"),
    "loss summed over window": ("the loss is summed over the window and averaged over the batch only", TO_ONE_MEAN),
    "loss wrong divisor": ("the loss is averaged over the wrong number", TO_ONE_MEAN),
    "loss last only": ("the loss looks at the last position only", "all positions learn at once: " + TO_ONE_MEAN),
    "loss skips token 0": ("token 0 is left out of the mean (ignore_index=0): that token is never learned",
        "ignore_index=-100, or none at all: is token 0 really padding?"),
    "loss first only": ("the loss looks at the first position only", "all positions learn at once: " + TO_ONE_MEAN),
    "loss first row": ("the loss looks at the first row only", "all rows learn at once: " + TO_ONE_MEAN),
    "loss sign": ("its sign is turned: it rises while the model learns", "return the loss as cross_entropy gives it"),
    "loss view": ("a view mixes the axes of the logits before the loss", TO_ONE_MEAN),
    "loss scaled": ("it is scaled or cut off: summed, clamped, or divided by the wrong number", TO_ONE_MEAN),
    "loss unknown": (
        "it is none of the readings of a cross-entropy that were tried: a view that mixes axes, weights, smoothing, or an "
        "auxiliary loss in it",
        TO_ONE_MEAN),
    "padding counted": ("ignored targets count in the mean: padding makes the loss look small",
        "F.cross_entropy(…, ignore_index={ignore}) divides by those that count"),
    "padding as token 0": ("ignored targets count as token 0", "F.cross_entropy(…, ignore_index={ignore})"),
    # tied head, learns
    "tied by data": ("tied by .data: the optimizer holds two moments for one matrix and steps twice",
        "assign the parameter itself: head.weight = embedding.weight"),
    "tied by copy": ("tied at the start only: the weights were copied, and training will drive them apart",
        "assign the parameter itself, not a copy"),
    "tying forgotten": ("the tying was forgotten, or undone by a later initialisation", "lm_head.weight = wte.weight"),
    "tying unasked": ("a tying that was not asked for", "remove it, or say so in the configuration"),
    "step fails": ("the gradient cannot flow", "loss.backward() by hand, and read on"),
    "loss not finite": ("the loss is not a number", "see answers and lengths"),
    "cannot learn": (
        "it cannot learn even one batch by heart: something between weights and loss is cut, saturated or not shifted",
        "see the other findings first"),
    # generate
    "generate fails": ("an error inside generate", "call it by hand on 8 tokens"),
    "generate writes": ("generate writes into its input", "copy it first"),
    "generate drops rows": ("generate drops rows of the batch", "keep the axis B throughout"),
    "generate miscounts": ("generate writes too few or too many tokens", "one token for each turn of the loop"),
    "generate prompt": ("generate changes the prompt", "append to it only"),
    "generate draws": ("generate draws although it is told to be greedy", "argmax"),
    "generate state": ("generate keeps something between calls: a cache that is not emptied, a counter",
        "empty the cache at the start of each call"),
    "generate hot": ("the temperature does not sharpen: it is multiplied, comes after the softmax, or is ignored",
        "(logits / temperature).softmax(-1)"),
    "generate option": ("{option} keeps the wrong tokens: its order was not undone, or its comparison is turned round",
        "keep the likeliest: all below the k-th become -inf; for top_p, sort, cut, and scatter back"),
    "generate mode": ("it calls train() at the end, whatever the mode was before", "restore the mode that was there"),
    "generate no crop": ("generate does not crop the context to the block size", "ids[:, -block_size:] before each call"),
    "generate crops start": ("the context is cropped at its end, so it never reads what it wrote",
        "ids[:, -block_size:], with the minus"),
    "generate unlike": ("generate {how}", "take logits[:, -1] of the whole context, argmax, append"),
    # cache, count
    "cache shapes": ("the shapes of queries, keys and mask do not fit when keys come from the cache",
        "q_len is 1, k_len the whole length"),
    "cache positions": (
        "the positions start again: with {first} tokens in the cache {name} is asked for row {asked}, not {right}",
        "position = arange(past, past + T)"),
    "cache unused": ("the cache is not used: the step answers as if its token stood alone", "concatenate old and new keys"),
    "cache mask": (
        "the new query sees key 0 only: a causal mask aligned at the top left (is_causal=True with one query and many keys)",
        "no mask for one new query: it may see all keys"),
    "cache several": (
        "several new tokens see each other's future, or the wrong keys: the mask does not reckon with what is in the cache. "
        "Reading the prompt in pieces and speculative decoding need that",
        "a mask of (T, past + T): new token t sees keys 0 … past + t"),
    "cache partly seen": ("the new query sees keys {seen} of {of} only", "a new query may see all keys of the past"),
    "cache differs": ("the new query sees all keys, but keys, values or positions in the cache are not those of the whole pass",
        "compare keys and values with those of one pass over the whole"),
    "cache cut": (
        "the number of keys is not {of}: the cache is overwritten or cut, not appended to; or the positions start again",
        "concatenate old and new keys along time; positions go on from the length of the cache"),
    "count differs": ("{how}", "list them by name beside the golden model's"),
}
# fmt: on
Why = tuple[str, str]  # a cause and what to do about it
Verdict = tuple[str, ...]  # what a check returns: status, evidence, and perhaps a Why and the reason of a skip


def why(key: str, **fill) -> Why:
    """A cause and its advice, filled in."""
    cause, advice = CAUSES[key]
    return cause.format(**fill), advice.format(**fill)


def fail(cause: str | Why, evidence: str, **fill) -> Verdict:
    """A failure, by a key of CAUSES or a cause that is filled in already."""
    return "fail", evidence, *(why(cause, **fill) if isinstance(cause, str) else cause)


def warn(cause: str | Why, evidence: str, **fill) -> Verdict:
    """What is unusual, but may be meant so."""
    return "warn", *fail(cause, evidence, **fill)[1:]


def passed(evidence: str) -> Verdict:
    return "pass", evidence


def skip(evidence: str, reason: str = INAPPLICABLE) -> Verdict:
    return "skip", evidence, "", "", reason


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__


def places(indices, most: int = 4) -> str:
    """[0, 1, 2, 3, 4, 5] as words: 0, 1, 2, 3 …"""
    listed = list(map(str, indices))
    return ", ".join(listed[:most]) + (" …" if len(listed) > most else "")


# ---------------------------------------------------------------------------------------------------------------------
# 3. The patient: how it is called, what it answers, how it is left unharmed
# ---------------------------------------------------------------------------------------------------------------------

TARGETS = ("targets", "target", "labels", "label", "y", "t", "tgt", "target_ids", "next_ids")
CACHES = ("past_key_values", "past_key_value", "past", "layer_past", "cache", "kv_cache", "caches", "past_kvs", "kv_caches")
VOCABS = ("vocab_size", "n_vocab", "padded_vocab_size", "num_tokens", "vocab_len", "ntoken", "d_vocab", "vocab")
BLOCKS = (
    *("block_size", "n_positions", "max_position_embeddings", "context_length", "n_ctx", "ctx_len", "max_seq_len"),
    *("max_seq_length", "seq_len", "seq_length", "sequence_len", "max_len", "max_length", "window_size"),
)
ADAPT = (
    "give diagnose() a module that takes ids alone: class Adapted(nn.Module): __init__ keeps the model as self.model, and "
    "forward(self, ids) makes {what} from ids and returns self.model(ids, …)"
)


class ModelError(Exception):
    """The model's own code raised, or its answer cannot be used. Any other exception that leaves a check is the doctor's."""

    def __init__(self, error: BaseException | str):
        super().__init__(said(error) if isinstance(error, BaseException) else error)
        self.error = error if isinstance(error, BaseException) else None


@contextlib.contextmanager
def models_own() -> Iterator[None]:
    """Mark an exception in the block as the model's own: ModelError. Unless it comes from a hook of the doctor's in it."""
    try:
        yield
    except (ModelError, TookTooLong, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if from_a_hook(error):
            raise
        raise ModelError(error) from error


def from_a_hook(error: BaseException) -> bool:
    """Whether the traceback enters the doctor's code again behind the model's, where a hook of the doctor's runs."""
    trace, foreign = error.__traceback__, False
    while trace is not None:
        ours = trace.tb_frame.f_globals is globals()
        if ours and foreign and trace.tb_frame.f_code.co_name != "__torch_dispatch__":  # which runs the model's operations
            return True
        foreign, trace = foreign or not ours, trace.tb_next
    return False


class NotExaminable(Exception):
    """The model cannot be called with token ids alone; the message says how to adapt it."""


def seed(number: int) -> None:
    """torch.manual_seed without its search for a GPU, which takes longer than a small model's answer."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


def promised(model: nn.Module, names: tuple[str, ...], kind=int) -> list[tuple[str, object]]:
    """What the model's configuration, or a module itself, holds under one of these names: numbers above 0, or booleans."""
    found = []
    for module in model.modules():
        for where in ("config", "cfg", "args", "hparams", "params", "conf", "c", ""):
            holder = getattr(module, where, None) if where else module
            for name in names:
                value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
                if isinstance(value, kind) and (kind is bool or (not isinstance(value, bool) and value > 0)):
                    found.append((f"{where}.{name}".strip("."), value))
        if found:
            break  # the outermost one that says so
    return found


def tensors_in(value, depth: int = 3) -> list[Tensor]:
    """The tensors of an answer in order: of a tuple, list, dict, or object with attributes. Logits by name come first."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or value is None or isinstance(value, str | bytes | int | float | nn.Module):
        return []
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: "logit" not in str(name))  # stable: the rest stays in order
        return [t for name in names for t in tensors_in(value[name], depth - 1)]
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors_in(item, depth - 1)]
    if isinstance(getattr(value, "logits", None), Tensor):
        return [value.logits] + ([value.loss] if isinstance(getattr(value, "loss", None), Tensor) else [])
    return tensors_in(vars(value), depth - 1) if hasattr(value, "__dict__") else []


def shapes(answer) -> str:
    """An answer in a few words."""
    found = [tuple(t.shape) for t in tensors_in(answer)]
    kind = type(answer).__name__
    return f"{kind} with tensors {', '.join(map(str, found[:4]))}" if found else f"{kind} without any tensor"


def loss_in(answer) -> Tensor | None:
    """The loss in an answer: a single number."""
    named = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
    found = [named] if isinstance(named, Tensor) else tensors_in(answer)
    return next((t for t in found if t.is_floating_point() and t.numel() == 1), None)


def unregistered(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that a module holds in plain lists, dicts or attributes, where PyTorch does not see them."""
    seen = {id(t) for t in itertools.chain(model.parameters(), model.buffers())}
    known, found = {id(m) for m in model.modules()}, {}

    def look(value, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                found[name] = value
        elif isinstance(value, nn.Module):
            if id(value) not in known:
                known.add(id(value))
                for inner, tensor in itertools.chain(value.named_parameters(), value.named_buffers()):
                    look(tensor, f"{name}.{inner}", depth)
                for inner, module in value.named_modules():
                    inside(module, f"{name}.{inner}".rstrip("."), depth)
        elif depth and isinstance(value, list | tuple | set):
            for i, item in enumerate(value):
                look(item, f"{name}[{i}]", depth - 1)
        elif depth and isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{name}[{key!r}]", depth - 1)

    def inside(module: nn.Module, name: str, depth: int) -> None:
        for key, value in list(vars(module).items()):
            if key not in ("_parameters", "_buffers", "_modules") and not key.endswith("_hooks"):
                look(value, f"{name}.{key}".lstrip("."), depth)

    for name, module in model.named_modules():
        inside(module, name, 3)
    return found


def shake(value: Tensor, size: float) -> Tensor:
    """A weight with noise of about the size that a layer's weights have."""
    if not value.is_floating_point() or size == 0:
        return value.clone()
    draw = torch.Generator().manual_seed(value.numel())
    noise = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
    if value.dim() < 2:
        return value + 0.1 * size * noise
    spread = value[value.isfinite()].float().std().nan_to_num(0.0).item() if value.numel() > 1 else 0.0
    if spread > 3:  # so that no softmax saturates
        value, spread = value / spread, 1.0
    return value + size * max(0.5 * spread, 0.5 / math.sqrt(value.shape[-1])) * noise


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the model, as far as it matters for whether it returns."""

    what: str  # forward or generate
    T: int
    mode: str
    options: frozenset[str]

    def includes(self, other: Call) -> bool:
        """Whether it is the other one, or the other one with more options."""
        return (self.what, self.T, self.mode) == (other.what, other.T, other.mode) and self.options >= other.options

    def __str__(self) -> str:
        more = f" with {listed(sorted(self.options))}" if self.options else ""
        return f"{self.what} on {self.T} tokens in {self.mode} mode{more}"


class Patient:
    """The model under examination: a way to call it, its sizes, and the promise that it leaves as it came."""

    def __init__(self, model: nn.Module, vocab_size=None, block_size=None, new_cache=None, golden=None, strict=False):
        self.model, self.new_cache, self.golden = model, new_cache, golden
        self.strict, self.not_recorded = strict, {}  # "aten.foo: TypeError: …": how often
        self.given_vocab, self.given_block = vocab_size, block_size
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.parameters = dict(model.named_parameters())
        self.unregistered = unregistered(model)
        try:
            self.signature = list(inspect.signature(model.forward).parameters.values())
        except ValueError:  # a scripted model does not tell
            self.signature = []
        self.names = [parameter.name for parameter in self.signature]
        self.targets_name = next((name for name in self.names[1:] if name in TARGETS), None)
        self.extra = {name: True for name in ("get_logits", "return_logits") if name in self.names}
        if any(p.name == "use_cache" and p.default in (None, False) for p in self.signature):
            self.extra["use_cache"] = False
        if any(p.name == "start_pos" and p.default is p.empty for p in self.signature):  # Llama's
            self.extra["start_pos"] = 0
        self.mode = "plain"  # or "targets": given along, for all positions to be answered; or "prefixes": one call each
        self.axes = "BTV"  # or "BVT"
        self.asked_at = 0.0  # when it was last called
        self.patience = math.inf  # seconds, of the check that is running
        self.hung: list[Call] = []  # those that did not return
        self.vocab, self.block, self.block_from = 0, 0, ""  # and more that meet() finds out
        self.memo: dict = {}  # of probes that several checks need
        # what one check has seen and another must know
        self.rows_apart = self.hears_context = self.trainable = True
        self.fits_block = False

    # ----- calling

    def ids(self, B: int, T: int, seed: int = 0) -> Tensor:
        """Random ids, (B, T)."""
        draw = torch.Generator().manual_seed(1000 + seed)
        return torch.randint(self.vocab, (B, T), generator=draw).to(self.device)

    def another(self, ids: Tensor) -> Tensor:
        """Other tokens than these."""
        return (ids + 1) % self.vocab

    def raw(self, ids: Tensor, targets: Tensor | None = None, **more):
        """The model's own answer. The same random numbers at each call, so that noise does not look like an effect."""
        seed(0)
        copy = functools.partial(torch.clone, memory_format=torch.contiguous_format)
        given = {self.targets_name: copy(targets)} if targets is not None and self.targets_name else {}
        return self.call(copy(ids), **self.extra | given | more)

    def call(self, ids: Tensor, **given):
        """Its answer as it is. ModelError if its forward raises."""
        with self.calling("forward", ids.shape[1], given):
            return self.model(ids, **given)

    @contextlib.contextmanager
    def calling(self, what: str, T: int, given: dict) -> Iterator[None]:
        """A call of the model in the block, timed; its exceptions are ModelErrors. HungBefore if it hung before, or did so with
        fewer of the options that are given now."""
        options = frozenset(name for name in given if given[name] is not False)
        call = Call(what, T, "training" if self.model.training else "evaluation", options)
        if any(call.includes(hung) for hung in self.hung):
            raise HungBefore(call)
        self.asked_at = began = time.perf_counter()
        try:
            with models_own():
                yield
        except TookTooLong:
            if time.perf_counter() - began >= self.patience / 2:
                self.hung.append(call)
            raise

    def logits(self, ids: Tensor, targets: Tensor | None = None, **more) -> Tensor:
        """(B, T) -> (B, T, V) in float32, for every position, by whatever way the model offers."""
        B, T = ids.shape
        if self.mode == "prefixes":
            return torch.stack([self.read(self.raw(ids[:, : t + 1], **more), B, t + 1)[:, -1] for t in range(T)], dim=1)
        if self.mode == "targets" and targets is None:
            targets = ids.roll(-1, dims=1)
        return self.read(self.raw(ids, targets, **more), B, T)

    def pick(self, answer, B: int, T: int) -> Tensor | None:
        """The logits in an answer, whatever their form: (B, T, V), (B·T, V), (B, 1, V), (B, V), (B, V, T)."""
        best, score = None, 0.0
        for tensor in filter(Tensor.is_floating_point, tensors_in(answer)):
            shape, fits = tuple(tensor.shape), 0.0
            if len(shape) == 3 and shape[:2] == (B, T):
                fits = 5
            elif len(shape) == 2 and shape[0] == B * T and T > 1:
                fits = 4
            elif len(shape) in (2, 3) and shape[0] == B and (len(shape) == 2 or shape[1] == 1):
                fits = 3
            elif len(shape) == 3 and shape[0] == B and shape[2] == T:
                fits = 2
            fits += 0.5 * (fits > 0 and self.vocab in shape)
            if fits > score:
                best, score = tensor, fits
        return best

    def read(self, answer, B: int, T: int) -> Tensor:
        """The logits in an answer as (B, T, V), or (B, 1, V), in float32. ModelError if there are none."""
        found = self.pick(answer, B, T)
        if found is None:
            raise ModelError(f"no logits for {B} rows of {T} tokens in its answer: {shapes(answer)}")
        if found.dim() == 2:
            found = (
                found.view(B, T, -1) if len(found) == B * T else found[:, None]
            )  # (B·T, V) -> (B, T, V), (B, V) -> (B, 1, V)
        return found.transpose(1, 2).float() if self.axes == "BVT" else found.float()  # (B, V, T) -> (B, T, V)

    @contextlib.contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """Training or evaluation mode inside the block, evaluation mode after it."""
        with models_own():
            self.model.train(training)
        try:
            yield
        finally:
            with models_own():
                self.model.eval()

    # ----- finding out

    def meet(self) -> None:
        """Find out how it is called and its sizes. NotExaminable with what to do; other errors are the model's own."""
        needed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        needs = [p.name for p in self.signature[1:] if p.default is p.empty and p.kind in needed and p.name not in self.extra]
        if others := [name for name in needs if name != self.targets_name]:
            what = " and ".join(others)
            raise NotExaminable(f"its forward also needs {what}: {ADAPT.format(what=what)}")
        if self.targets_name in needs:
            self.mode = "targets"
        sizes = promised(self.model, VOCABS)
        self.claimed_vocab = self.given_vocab or (sizes[0][1] if sizes else None)
        self.vocab = 2  # ids that surely exist, until more is known
        T, (tape, answer), (other, _) = self._first_calls()
        found = self.pick(answer, 3, T)
        if found is None and tensors_in(answer) and self.targets_name and self.mode != "targets":
            self.mode = "targets"
            T, (tape, answer), (other, _) = self._first_calls()
            found = self.pick(answer, 3, T)
        if found is None:
            raise NotExaminable(
                f"for ids (3, {T}) it returned {shapes(answer)}: no logits (B, T, V) in it. Return them alone, in a tuple, "
                "in a dict or as .logits"
            )
        self._read_form(tuple(found.shape), T)
        self._in_float32(T)
        self._read_tables(tape, other, T)
        self.vocab = min(v for v in (self.given_vocab, self.in_vocab, self.out_vocab, self.claimed_vocab) if v)
        self._find_block(tape)
        self.T = min(T, self.block)
        self.long = min(self.block, 256)  # long enough to see what only far positions show, short enough to be quick
        ids, self.both = self.ids(3, self.T), False  # both: logits and loss. Some answer with the loss alone
        with torch.no_grad(), contextlib.suppress(ModelError):
            self.both = self.targets_name is not None and self.pick(self.raw(ids, ids), 3, self.T) is not None

    def _first_calls(self):
        """The longest length that it takes, and two calls with other ids."""
        errors = []
        for T in (13, 7, 4, 2, 1):  # 13: no other axis is likely to be as long
            try:
                return T, self._first_call(T), self._first_call(T, 1)
            except ModelError as error:
                errors.append(error)
        raise errors[0]

    def _first_call(self, T: int, shift: int = 0):
        low = 5 if (self.claimed_vocab or 0) > 8 else 0  # the first ids may be special: padding, start
        ids = low + (torch.arange(3 * T, device=self.device).view(3, T) * 7 % 3 + shift) % 2  # (3, T) of two ids
        with torch.no_grad(), Tape(self, ids) as tape:
            answer = self.raw(ids, ids if self.mode == "targets" else None)
        return tape, answer

    def _read_form(self, shape: tuple, T: int) -> None:
        """The order of the axes, and whether all positions are answered."""
        if shape != (3, T, shape[-1]) and len(shape) == 3 and shape[2] == T and shape[1] > 1:
            self.axes = "BVT"
        self.out_vocab = shape[1] if self.axes == "BVT" else shape[-1]
        if T > 1 and ((len(shape) == 2 and shape[0] == 3) or shape[1] == 1):  # only the last position
            found = None
            if self.targets_name:
                ids = torch.zeros(3, T, dtype=torch.long, device=self.device)
                with torch.no_grad():
                    found = self.pick(self.raw(ids, ids), 3, T)
            everywhere = found is not None and (found.shape[:2] == (3, T) or found.shape[0] == 3 * T)
            self.mode = "targets" if everywhere else "prefixes"

    def _read_tables(self, tape: Tape, other: Tape, T: int) -> None:
        """Which tables hold tokens and which positions: rows that were asked for and do not depend on the ids."""
        self.token_table, self.in_vocab, _ = next((e for e in tape.embeddings if tape.is_ids(e[2])), ("", None, None))
        pairs = list(zip(tape.embeddings, other.embeddings, strict=False))
        words = {a[0] for a, b in pairs if not torch.equal(a[2], b[2])}
        self.positions = [a for a, b in pairs if a[2].numel() in (T, 3 * T) and a[0] not in words and a[1] >= T]
        self.tables = tape.tables

    def _in_float32(self, T: int) -> None:
        """Half precision rounds too much to tell an effect from none: ask in float32, if the model can."""
        halves = {t: t.data for t in self.everything().values() if t.dtype in (torch.float16, torch.bfloat16)}
        for tensor, half in halves.items():
            tensor.data = half.float()
        try:
            self._first_call(T)
        except ModelError:
            for tensor, half in halves.items():
                tensor.data = half

    def _find_block(self, tape: Tape) -> None:
        """The longest window: given, from the configuration, from a table of positions, or by trying."""
        claims = promised(self.model, BLOCKS)
        lengths = [(length, name) for name, length, _ in self.positions] + [(length, name) for name, length in self.tables]
        if self.given_block:
            self.block, self.block_from = self.given_block, "given"
        elif claims:
            self.block_from, self.block = claims[0]
        else:
            self.block, self.block_from = min(lengths) if lengths else (self._longest(), "by trying")
        if 1 < self.block < tape.T:
            self.block, self.block_from = tape.T, f"it accepts {tape.T}, though {self.block_from} says {self.block}"
        for name, length, rows in self.positions:
            if self.has_padding(name):
                self.block = min(self.block, length - int(rows.min()))
        # where learned positions end; other tables can be made anew
        ends = [length for _, length, _ in self.positions] + [n for name, n in self.tables if name in self.parameters]
        self.limit = min(ends, default=None)

    def _longest(self, most: int = 512) -> int:
        """The longest input that it accepts, up to 512 or so: doubled, then halved in."""
        block = 1
        while block < most and self.accepts(2 * block):
            block *= 2
        step = block // 2
        while step:
            if block < most and self.accepts(block + step):
                block += step
            step //= 2
        return block

    def accepts(self, T: int) -> bool:
        """Whether it answers to T tokens."""
        with torch.no_grad(), contextlib.suppress(ModelError):
            self.logits(torch.zeros(1, T, dtype=torch.long, device=self.device))
            return True
        return False

    def has_padding(self, name: str) -> bool:
        """Whether a table has a padding row, behind which positions begin (RoBERTa)."""
        table = next((m for n, m in self.model.named_modules() if f"{n}.weight" == name), None)
        return getattr(table, "padding_idx", None) is not None

    # ----- leaving it as it came

    def everything(self) -> dict[str, Tensor]:
        """All its tensors that can be found: parameters, buffers, and those that are not registered."""
        return self.parameters | dict(self.model.named_buffers()) | self.unregistered

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Put back weights, gradients, modes, attributes, random numbers, whatever happens in the block."""
        self._tensors = [(t, t.data, t.detach().clone(), t.requires_grad, t.grad) for t in self.everything().values()]
        self._attributes = [(module, dict(vars(module)), module.training) for module in self.model.modules()]
        torch_state, python_state = torch.get_rng_state(), random.getstate()
        cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        numpy = sys.modules.get("numpy")
        numpy_state = numpy.random.get_state() if numpy else None
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, at which nothing can be watched
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for tensor, memory, *_ in self._tensors:
                tensor.data = memory
            self.put_back()
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            if cuda_states:
                torch.cuda.set_rng_state_all(cuda_states)
            if numpy:
                numpy.random.set_state(numpy_state)

    @torch.no_grad()
    def put_back(self) -> None:
        """Values, gradients, modes and attributes as they were: at the end, and after a check that was interrupted."""
        for module, was, training in self._attributes:
            vars(module).clear()
            vars(module).update(was)
            module.training = training
        for tensor, _, value, wants, grad in self._tensors:
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)
            if tensor.is_leaf and tensor.is_floating_point():
                tensor.requires_grad_(wants)
            tensor.grad = grad

    def trained(self) -> dict[str, Tensor]:
        """What should be trained, registered or not."""
        return self.parameters | {name: t for name, t in self.unregistered.items() if t.requires_grad}

    @contextlib.contextmanager
    def weights(self, change: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
        """Other weights inside the block: `change(name, value)` gives the new value, None keeps it."""
        trained = self.trained()
        kept = {name: t.detach().clone() for name, t in trained.items()}
        try:
            with torch.no_grad():
                for name, tensor in trained.items():
                    if (new := change(name, kept[name])) is not None:
                        tensor.data.copy_(new)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in trained.items():
                    tensor.data.copy_(kept[name])

    def shaken(self):
        """Noise on all weights, so that what happens to be zero or tiny in a new model speaks too. What is wired to what does
        not depend on the weights."""
        noisy = shaken_weights(self)
        return self.weights(lambda name, value: noisy[name])


def once(probe: Callable) -> Callable:
    """A probe that is asked once for each patient."""

    @functools.wraps(probe)
    def remembered(p: Patient):
        if probe not in p.memo:
            p.memo[probe] = probe(p)
        return p.memo[probe]

    return remembered


@once
def shaken_weights(p: Patient) -> dict[str, Tensor]:
    """Weights with as much noise as leaves the logits finite."""
    for size in (1.0, 0.1):
        noisy = {name: shake(t.detach(), size) for name, t in p.trained().items()}
        with p.weights(lambda name, value, noisy=noisy: noisy[name]), torch.no_grad():
            if p.logits(p.ids(3, p.T)).isfinite().all():
                return noisy
    return {name: t.detach().clone() for name, t in p.trained().items()}


# ---------------------------------------------------------------------------------------------------------------------
# 4. The tape: what PyTorch does while the model answers
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Attention:
    """One attention that was watched. N is B·nh or (B, nh), as the model has it."""

    weights: Tensor  # (N, Tq, Tk): what the values are weighed with in the end
    soft: Tensor | None = None  # (N, Tq, Tk): what the softmax gave, if one was seen
    scores: Tensor | None = None  # (N, Tq, Tk): what went into it
    axis: str = "keys"  # what the softmax ran over: keys, queries, or another axis
    hs: int | None = None  # what queries and keys have in common
    factor: float | None = None  # what their products were multiplied with; None: not known
    q: Tensor | None = None  # (N, Tq, hs)
    k: Tensor | None = None  # (N, Tk, hs)
    out: Tensor | None = None  # (N, Tq, hs): the weighed values
    source: Tensor | None = None  # what the linear layer of the queries read
    after: Tensor | None = None  # the input of the next linear layer
    fused: str = ""  # of scaled_dot_product_attention: how its mask was given


class Tape(TorchDispatchMode):
    """Records attentions, embeddings, normalisations and random numbers of one call on ids (B, T).

    T is chosen so that no other axis is as long: two axes of length T are queries and keys. `start` positions may be in a
    cache already; then there are T queries and start + T keys.
    """

    FRESH = ("mm", "addmm", "linear", "embedding", "native_layer_norm", "convolution", "_softmax")  # forget what came in
    SAME = ("view", "_unsafe_view", "t", "transpose", "permute", "clone", "expand", "squeeze", "unsqueeze", "_to_copy")

    def __init__(self, patient: Patient, ids: Tensor, start: int = 0):
        super().__init__()
        self.ids, self.T, self.keys = ids, ids.shape[1], start + ids.shape[1]
        self.owned = {t.data_ptr(): name for name, t in patient.everything().items() if t.numel()}
        self.attentions: list[Attention] = []
        self.embeddings: list[tuple[str, int, Tensor]] = []  # name and length of a table, and the rows that were asked for
        self.tables: list[tuple[str, int]] = []  # name and length of what was cut to T positions
        self.norms: list[tuple[str, tuple, tuple]] = []  # operation, shape, axes that it ran over
        self.random = False  # whether random numbers were drawn
        self.patient, self.failures = patient, []  # what could not be recorded, with its exception
        self.padded: list[int] = []  # kernel sizes of convolutions that look to both sides
        self.turned: list[str] = []  # roll and flip along time
        self.softmaxes: list[tuple] = []  # the shapes of all of them
        self.scores: list[Tensor] = []  # (…, Tq, Tk): what went into each softmax over keys
        self.narrowed = 0  # how many linear layers give half as many numbers as they take, or fewer
        self.straight: list[tuple[str, str]] = []  # a layer that widens, and the next one, which narrows what it gave
        self.kept: list = []  # tensors of the call must stay, or their ids would be used again
        self.known: dict[int, dict] = {}  # of a tensor by its id: the fields of Attention that are known so far

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call would import the compiler, for seconds

    def about(self, tensor) -> dict:
        return self.known.get(id(tensor), {}) if isinstance(tensor, Tensor) else {}

    def is_ids(self, rows: Tensor) -> bool:
        """Whether these are the ids themselves."""
        return rows.numel() == self.ids.numel() and torch.equal(rows.flatten(), self.ids.flatten())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        try:
            self.note(func.overloadpacket.__name__, args, kwargs or {}, out)
        except Exception as error:  # a form that was not foreseen: the model goes on, and the report counts it
            self.failures.append((f"{func.overloadpacket}: {said(error)}", error))
        return out

    def __exit__(self, kind, value, trace):
        super().__exit__(kind, value, trace)
        for what, _ in self.failures:
            self.patient.not_recorded[what] = self.patient.not_recorded.get(what, 0) + 1
        if self.failures and self.patient.strict and kind is None:
            raise self.failures[0][1]

    def note(self, name: str, args: tuple, kwargs: dict, out) -> None:
        first = next((a for a in args if isinstance(a, Tensor)), None)
        result = out[0] if isinstance(out, tuple) and out and isinstance(out[0], Tensor) else out
        if not isinstance(result, Tensor):
            if isinstance(out, list | tuple) and first is not None:  # split, chunk, unbind: the parts are like the whole
                for part in out:
                    self.keep(part, dict(self.about(first)))
            return
        about = {} if name in self.FRESH else dict(self.about(first))
        linear = name == "add" and (any(map(self.name, args)) or all("wide" in self.about(a) for a in args))
        if name not in self.SAME and not linear:  # a bias may be added, or another such layer's
            about.pop("wide", None)
        if name in ("add", "sub", "masked_fill", "where", "minimum", "maximum"):
            about = next((dict(self.about(a)) for a in args if "q" in self.about(a)), about)
        if name in ("mul", "div") and len(args) > 1 and (by := self.number(args[1], args[0])) is not None:
            old = about.get("factor", 1.0)
            about["factor"] = None if old is None or math.isnan(by) else old * by if name == "mul" else old / by
        elif name in ("mul", "mul_") and about.get("soft") is None and self.about(args[1]).get("q") is not None:
            about = dict(self.about(args[1]))
        getattr(self, f"on_{name.strip('_')}", lambda *a: None)(args, kwargs, result, about)
        if name in ("bmm", "baddbmm", "mm", "addmm", "linear"):
            self.product(name, args, kwargs, result, about)
        elif name.startswith("_scaled_dot_product"):
            self.fused(args, kwargs, result, about)
        self.keep(result, about)

    def keep(self, tensor, about: dict) -> None:
        self.kept.append(tensor)
        if about or id(tensor) in self.known:  # known already: an operation in place
            self.known[id(tensor)] = about

    def name(self, tensor) -> str:
        """The name of a weight or buffer, "" of any other tensor."""
        return self.owned.get(tensor.data_ptr(), "") if isinstance(tensor, Tensor) else ""

    def number(self, by, what) -> float | None:
        """A factor that is the same for all, as a number; nan for a learned one; None for a tensor of many."""
        if isinstance(by, int | float):
            return float(by)
        if isinstance(by, Tensor) and by.numel() == 1:
            return math.nan if self.name(by) or by.requires_grad else float(by)
        if isinstance(what, Tensor) and what.numel() == 1 and isinstance(by, Tensor):
            return float(what)
        return None

    # ----- single operations, by PyTorch's names: on_…(args, kwargs, result, about); `about` may be changed

    def on_embedding(self, args, kwargs, out, about) -> None:
        self.embeddings.append((self.name(args[0]), args[0].shape[0], args[1].detach().clone()))

    def on_index(self, args, kwargs, out, about) -> None:
        rows = [i for i in args[1] if i is not None]
        if self.name(args[0]) and len(rows) == 1 and args[0].dim() == 2:
            self.on_embedding((args[0], rows[0]), {}, out, about)

    def on_slice(self, args, kwargs, out, about) -> None:
        cut = [n for n, m in zip(args[0].shape, out.shape, strict=True) if m == self.T and n > m]
        if cut and (name := self.name(args[0])):
            self.tables.append((name, cut[0]))

    def on_native_layer_norm(self, args, kwargs, out, about) -> None:
        shape = tuple(args[0].shape)
        self.norms.append(("LayerNorm", shape, tuple(range(len(shape) - len(args[1]), len(shape)))))

    on_fused_rms_norm = on_native_layer_norm

    def on_native_batch_norm(self, args, kwargs, out, about) -> None:
        self.norms.append(("BatchNorm", tuple(args[0].shape), (0,)))

    def statistics(self, args, kwargs, out, about) -> None:
        shape, dims = tuple(args[0].shape), kwargs.get("dim", args[1] if len(args) > 1 else None)
        if len(shape) > 1 and not isinstance(dims, bool):
            dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
            self.norms.append(("mean", shape, tuple(d % len(shape) for d in dims)))

    on_mean = on_var = on_var_mean = on_std = on_std_mean = on_amax = statistics

    def on_linalg_vector_norm(self, args, kwargs, out, about) -> None:
        self.statistics((args[0], args[2] if len(args) > 2 else None), kwargs, out, about)

    def on_convolution(self, args, kwargs, out, about) -> None:
        weight, padding = args[1], args[4]
        if weight.dim() == 3 and out.shape[-1] == args[0].shape[-1] == self.T and padding[0] > 0:
            self.padded.append(weight.shape[-1])

    def on_constant_pad_nd(self, args, kwargs, out, about) -> None:
        x, pad = args[:2]
        if len(pad) >= 2 and x.dim() == 3 and x.shape[-1] == self.T and pad[1] > 0:
            self.padded.append(pad[0] + pad[1] + 1)

    def on_roll(self, args, kwargs, out, about) -> None:
        if args[0].is_floating_point() and self.T in args[0].shape:
            self.turned.append("torch.roll carries the last tokens to the front")

    def on_flip(self, args, kwargs, out, about) -> None:
        if args[0].is_floating_point() and any(args[0].shape[d] == self.T for d in args[1]):
            self.turned.append("torch.flip turns the order of time")

    def chance(self, args, kwargs, out, about) -> None:
        self.random = True

    on_native_dropout = on_bernoulli = on_rand = on_randn = on_rand_like = on_randn_like = on_normal = on_uniform = chance
    on_multinomial = on_randint = on_normal_functional = chance

    # ----- attention

    def is_scores(self, tensor) -> bool:
        return isinstance(tensor, Tensor) and tensor.dim() >= 2 and tuple(tensor.shape[-2:]) == (self.T, self.keys)

    def product(self, name: str, args, kwargs, out: Tensor, about: dict) -> None:
        """A matrix product: queries by keys, weights by values, or a linear layer."""
        adds, batched = name in ("baddbmm", "addmm"), name in ("bmm", "baddbmm")
        a, b = args[1:3] if adds else args[:2]
        if batched and self.is_scores(out) and a.shape[-1] != self.keys:  # q @ k.T
            fa, fb = self.about(a).get("factor", 1.0), self.about(b).get("factor", 1.0)
            factor = None if fa is None or fb is None else fa * fb * float(kwargs.get("alpha", 1) if adds else 1)
            source = self.about(a).get("source")
            about.clear()
            about.update(q=a, k=b.transpose(-2, -1), hs=a.shape[-1], source=source, factor=factor)
            return
        if batched and self.is_scores(a) and out.shape[-1] != self.keys:  # weights @ v
            known = self.about(a)
            if "q" in known or "soft" in known:
                self.attentions.append(Attention(weights=a, out=out, **known))
            about.clear()
            return
        if not batched and (weight := self.name(b)):
            if out.shape[-1] >= 2 * a.shape[-1]:
                about["wide"] = weight
            elif a.shape[-1] >= 2 * out.shape[-1]:
                self.narrowed += 1
                self.straight += [(self.about(a)["wide"], weight)] if "wide" in self.about(a) else []
        if not batched and self.attentions and self.attentions[-1].after is None and len(a) == self.ids.numel():
            self.attentions[-1].after = a
        if not batched or (name == "bmm" and not about):
            about.pop("factor", None)
            about["source"] = a

    def on_softmax(self, args, kwargs, out, about) -> None:
        x, dim = args[0], args[1] % args[0].dim()
        self.softmaxes.append(tuple(x.shape))
        if self.is_scores(x) and sum(n in (self.T, self.keys) for n in x.shape) >= 2:
            axis = {x.dim() - 1: "keys", x.dim() - 2: "queries"}.get(dim, "another axis")
            about.update(self.about(x), scores=x, soft=out, axis=axis)
            self.scores += [x] if axis == "keys" and self.is_scores(x) else []

    on_safe_softmax = on_softmax

    def fused(self, args, kwargs, out: Tensor, about: dict) -> None:
        """scaled_dot_product_attention: its weights are reckoned from what it was given."""
        q, k = args[:2]  # (B, nh, Tq, hs), (B, nh, Tk, hs)
        self.softmaxes.append((*q.shape[:-1], k.shape[-2]))
        if (q.shape[-2], k.shape[-2]) != (self.T, self.keys):
            return
        causal = kwargs.get("is_causal", next((a for a in args[3:] if isinstance(a, bool)), False))
        mask, scale, hs = kwargs.get("attn_mask"), kwargs.get("scale"), q.shape[-1]
        if mask is None:
            mask = next((a for a in args[3:] if isinstance(a, Tensor)), None)
        scale = 1 / math.sqrt(hs) if scale is None else scale
        if k.shape[1] != q.shape[1]:  # several query heads to one key head
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q.float() @ k.float().transpose(-2, -1) * scale  # (B, nh, Tq, hs) @ (B, nh, hs, Tk) -> (B, nh, Tq, Tk)
        if causal:
            scores = scores.masked_fill(~torch.ones_like(scores[0, 0], dtype=torch.bool).tril(), -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        fq, fk = self.about(q).get("factor", 1.0), self.about(k).get("factor", 1.0)
        factor = None if fq is None or fk is None else fq * fk * scale
        soft = scores.softmax(dim=-1)
        how = "is_causal=True" if causal else "a mask" if mask is not None else "no mask"
        source = self.about(q).get("source")
        self.scores.append(scores)
        self.attentions.append(Attention(soft, soft, scores, "keys", hs, factor, q, k, out, source, fused=how))
        about.clear()


@torch.no_grad()
def watch(p: Patient, ids: Tensor) -> Tape:
    """The tape of one call."""
    with Tape(p, ids) as tape:
        if p.mode == "prefixes":
            p.raw(ids)
        else:
            p.logits(ids)
    return tape


# ---------------------------------------------------------------------------------------------------------------------
# 5. Probes: who hears whom, and why
# ---------------------------------------------------------------------------------------------------------------------


def tolerance(p: Patient, logits: Tensor) -> float:
    """How far rounding alone may move a logit."""
    dtypes = {t.dtype for t in p.parameters.values() if t.is_floating_point()}
    eps = max((torch.finfo(t).eps for t in dtypes), default=1e-7)
    return 60 * eps * max(logits[logits.isfinite()].abs().max().item() if logits.isfinite().any() else 1.0, 1e-3)


def moved(a: Tensor, b: Tensor) -> Tensor:
    """(…, V), (…, V) -> (…): the largest change of a logit; NaN on both sides is no change, on one side a large one."""
    return (a.nan_to_num(1e4) - b.nan_to_num(1e4)).abs().amax(dim=-1)


def future(T: int, device=None) -> Tensor:
    """(T, T): True where position t (row) would look at a later token j (column). Its transpose is the past."""
    return torch.ones(T, T, dtype=torch.bool, device=device).triu(1)


@torch.no_grad()
def dependence(p: Patient, ids: Tensor, targets: Tensor | None = None, together: bool = True) -> tuple[Tensor, float]:
    """Who hears whom: (T, T), how far the logits at t move when token j becomes another one, and what rounding may do."""
    T = ids.shape[1]
    far, allowed = torch.zeros(T, T), 0.0
    for shift in (1, p.vocab // 2 or 1):
        changed = ids[:1].repeat(T + 1, 1)  # (T + 1, T): row j has another token at j, the last row is as it was
        place = torch.arange(T, device=ids.device)
        changed[place, place] = (changed[place, place] + shift) % p.vocab
        given = None if targets is None else targets[:1].expand(T + 1, T)
        rows = 3 if together else 1  # rows that influence each other are asked one by one
        logits = torch.cat([p.logits(part, None if given is None else given[: len(part)]) for part in changed.split(rows)])
        far = torch.maximum(far, moved(logits[:T], logits[T:]).T.cpu())  # (T + 1, T, V) -> (j, t) -> (t, j)
        allowed = max(allowed, tolerance(p, logits))
    return far, allowed


@once
def listening(p: Patient) -> tuple[Tensor, float]:
    """`dependence` in evaluation mode with shaken weights."""
    with p.shaken():
        return dependence(p, p.ids(1, p.T), together=p.rows_apart)


@once
def tape_of(p: Patient) -> Tape:
    """The tape of a call with shaken weights."""
    with p.shaken():
        return watch(p, p.ids(3, p.T))


def flat(weights: Tensor) -> Tensor:
    """(N, Tq, Tk) or (B, nh, Tq, Tk) -> (N, Tq, Tk) in float32, NaN as 0."""
    return weights.float().nan_to_num(0.0).reshape(-1, *weights.shape[-2:])


def has_module(p: Patient, holds: Callable[[nn.Module], bool]) -> bool:
    return any(holds(module) for module in p.model.modules())


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


# ----- why does it hear the future?


def why_future(p: Patient, tape: Tape) -> Why:
    """The cause of a leak, from what the attentions did; the first that explains it."""
    if tape.turned:
        return why("turned in time", how=tape.turned[0])
    if p.mode == "prefixes":
        return why("longer input")
    if time_statistics(tape):
        return why_softmax(tape) or why_mask(tape) or why_other_path(p, tape)
    return mixing_heads(p) or why_softmax(tape) or why_mask(tape) or why_other_path(p, tape)


def why_softmax(tape: Tape) -> Why | None:
    """A softmax over another axis than the keys, or before the mask."""
    late = future(tape.T, tape.ids.device)
    for layer, attention in enumerate(tape.attentions):
        if attention.axis == "another axis":
            return why("softmax other axis", layer=layer)
        if attention.axis == "queries":
            rows = flat(attention.soft).sum(dim=-1)
            return why("softmax queries", layer=layer, low=rows.min().item(), high=rows.max().item())
        if attention.soft is not None:
            masked_in_the_end = (flat(attention.weights)[:, late] < 1e-9).all()
            if masked_in_the_end and (flat(attention.soft)[:, late] > 1e-9).any():
                return why("mask after softmax", layer=layer)
    return None


def why_mask(tape: Tape) -> Why | None:
    """What is wrong with the mask of the first attention that looks at the future."""
    T, late = tape.T, future(tape.T, tape.ids.device)
    leaks = [(flat(a.weights)[:, late] > 1e-9).any(dim=1) for a in tape.attentions]  # (N,) each
    open_ones = [i for i, heads in enumerate(leaks) if heads.any()]
    if not open_ones:
        return None
    attention, heads = tape.attentions[open_ones[0]], leaks[open_ones[0]]
    W = flat(attention.weights)[heads]  # (heads that leak, T, T)
    where = name_attentions(open_ones, heads, len(leaks))
    seen = [(t, j) for t, j in (W.amax(dim=0) * late > 1e-9).nonzero().tolist()]
    rows = sorted({t for t, _ in seen})
    if W[:, :-1, :-1][:, late.T[:-1, :-1]].amax() < 1e-9:  # the last row is blocked whole where the polarity is wrong
        return why("mask polarity", where=where)
    if all(j - t == 1 for t, j in seen):
        return why("mask off by one", where=where)
    if len(rows) == 1:
        return why("mask excludes self", where=where, row=rows[0])
    if attention.scores is not None:
        hidden = attention.scores.float().reshape(-1, T, T)[heads][:, late]
        if hidden.numel() and hidden.isfinite().all() and hidden.std() < 1e-4 * max(1.0, hidden.abs().max().item()):
            value = hidden.mean().item()
            return why("mask multiplies" if abs(value) < 1e-6 else "mask finite", where=where, value=value)
    share = (W * late).sum().item() / max(W.sum().item(), 1e-9)
    return why("no mask", where=where, share=share, how=f" ({attention.fused} was given)" if attention.fused else "")


def name_attentions(which: list[int], heads: Tensor, of: int, B: int = 3) -> str:
    """Some attentions in words, and the heads of the first: (N,) booleans for (row, head) pairs."""
    if len(which) == of:
        where = "every attention" if of > 1 else "its attention"
    else:
        where = f"attention {places(which)} of {of} (the others are masked)"
    if heads.all():
        return where
    each = heads.view(B, -1).any(dim=0) if len(heads) % B == 0 else heads  # (B·nh,) -> (nh,)
    numbers = ", ".join(str(i) for i in each.nonzero().flatten().tolist())
    return f"{where}, {'all heads' if each.all() else f'head {numbers}'} only"


def time_statistics(tape: Tape) -> list[tuple[str, tuple, tuple]]:
    """Operation, shape and axes of each normalisation over time."""
    return [
        (kind, shape, dims)
        for kind, shape, dims in tape.norms
        if len(shape) >= 3 and shape.count(tape.T) == 1 and any(shape[d] == tape.T for d in dims)
    ]


def why_other_path(p: Patient, tape: Tape) -> Why:
    """The attention weights are causal: what else brings the future?"""
    if has_module(p, is_batch_norm):
        return why("batch norm")
    for kind, shape, dims in time_statistics(tape):
        return why("norm over time", kind=kind, shape=shape, dims=dims)
    if has_module(p, lambda module: getattr(module, "bidirectional", False)):
        return why("bidirectional")
    if tape.padded:
        return why("padded convolution", kernel=tape.padded[0])
    return why("other path" if tape.attentions else "mixes positions")


@once
@torch.no_grad()
def mixing_heads(p: Patient) -> Why | None:
    """Whether a reshape mixes positions on the way into the first attention, or out of it."""
    T, ids = p.T, p.ids(3, p.T)
    other, at = ids.clone(), T - 1  # the last token: nothing may reach an earlier position
    other[:, at] = p.another(other[:, at])
    with p.shaken():
        one, two = watch(p, ids), watch(p, other)
    if not (one.attentions and two.attentions):
        return None
    a, b = one.attentions[0], two.attentions[0]
    early = torch.arange(T) != at

    def changed(x: Tensor, y: Tensor) -> Tensor:  # (…, T, width) -> (T,)
        return ((x - y).abs().amax(dim=-1) > 1e-6).reshape(-1, T).any(dim=0).cpu()

    def changed_rows(x: Tensor, y: Tensor) -> list[Tensor]:  # (B·T, width), or (T·B, width) with time first -> (T,) each
        rows = ((x - y).abs().amax(dim=-1) > 1e-6).flatten().cpu()
        return [rows.view(3, T).any(dim=0), rows.view(T, 3).any(dim=1)]

    if a.source is not None and b.source is not None and a.source.numel() % (3 * T) == 0:
        width = a.source.numel() // (3 * T)
        came = changed_rows(a.source.reshape(-1, width), b.source.reshape(-1, width))
        if all(way[early].any() for way in came):  # the linear layer of the queries has heard it already
            return None
    for what, x, y in (("queries", a.q, b.q), ("keys", a.k, b.k)):
        if x is not None and x.shape == y.shape and x.shape[-2] == T and (changed(x, y) & early).any():
            wrong = places((changed(x, y) & early).nonzero().flatten().tolist())
            return why("reshape in", at=at, what=what, wrong=wrong)
    if a.out is not None and a.after is not None and b.after is not None and a.after.shape == b.after.shape:
        deaf = ~changed(a.out, b.out)
        rows = changed_rows(a.after, b.after)
        if all((way & deaf).any() for way in rows):
            return why("reshape out", wrong=places((rows[0] & deaf).nonzero().flatten().tolist()))
    return None


# ---------------------------------------------------------------------------------------------------------------------
# 6. Checks: what must be true of a causal language model
# ---------------------------------------------------------------------------------------------------------------------

CHECKS: dict[str, tuple[Callable[[Patient], Verdict], tuple[str, ...]]] = {}


def check(name: str, needs: str = ""):
    """Register a check. It is not asked where one of those it `needs` has failed: what it compares would differ for that
    reason already."""

    def register(function: Callable[[Patient], Verdict]) -> Callable[[Patient], Verdict]:
        CHECKS[name] = function, tuple(filter(None, needs.split(", ")))
        return function

    return register


@check("called")
def called(p: Patient) -> Verdict:
    """It takes ids and answers with logits."""
    try:
        p.meet()
    except NotExaminable:
        raise
    except ModelError as error:
        text, key = str(error.error), "forward fails"
        if "missing" in text and "argument" in text:
            key = "argument missing"
        elif ("mask" in text and "shape" in text) or "must match the size" in text:
            key = "axis mistaken"
        return fail(key, f"it fails on ids (3, 13): {error}", adapt=ADAPT.format(what="what is missing"))
    return passed("it takes ids (B, T) and answers")


@check("answers")
@torch.no_grad()
def answers(p: Patient) -> Verdict:
    """Finite logits of the right size."""
    logits = p.logits(p.ids(3, p.T))
    problems = [*wrong_sizes(p), *wrong_values(p, logits)]
    if problems:
        return "fail", *(" · ".join(dict.fromkeys(part)) for part in zip(*problems, strict=True))
    if p.in_vocab and p.in_vocab < p.out_vocab:
        return warn("head too large", f"{p.out_vocab} logits, but a table of {p.in_vocab} tokens")
    form = {"plain": "", "targets": " (all positions only when targets are given)", "prefixes": " (last position only)"}
    return passed(f"logits (3, {p.T}, {p.out_vocab}){form[p.mode]}, from {logits.min():.2f} to {logits.max():.2f}")


def wrong_sizes(p: Patient) -> Iterator[tuple[str, str, str]]:
    """Evidence, cause and advice of each problem with shapes."""
    need = p.claimed_vocab or 0  # a table may be padded, or hold a special token that is never predicted
    if p.axes == "BVT":
        yield f"the logits come as (B, V, T) = (3, {p.out_vocab}, {p.T})", *why("axes turned")
    if p.out_vocab < need:
        yield f"{p.out_vocab} logits for a vocabulary of {need}", *why("head too small")
    if p.in_vocab and p.in_vocab < need:
        yield f"a table of {p.in_vocab} rows for a vocabulary of {need}", *why("embedding too small")
    if p.in_vocab and not need and p.out_vocab < p.in_vocab:
        yield f"{p.out_vocab} logits for a table of {p.in_vocab} tokens", *why("head too small")
    one, three = (p.pick(p.raw(x, x if p.mode == "targets" else None), len(x), p.T) for x in (p.ids(1, p.T), p.ids(3, p.T)))
    if one is None or one.dim() != three.dim():
        shape = None if one is None else tuple(one.shape)
        yield f"one row gives logits {shape}, three rows {tuple(three.shape)}", *why("batch of one")


def wrong_values(p: Patient, logits: Tensor) -> Iterator[tuple[str, str, str]]:
    """Evidence, cause and advice of each problem with numbers."""
    zero = (logits == 0).float().mean()
    if zero > 0.1 and (logits >= 0).all() and logits.max() > 0:
        yield f"{zero:.0%} of the logits are exactly 0, and none is below", *why("relu on logits")
    if not logits.isfinite().all():
        rows = (~logits.isfinite()).any(dim=2).any(dim=0).nonzero().flatten().tolist()  # (B, T, V) -> (T,)
        cause, tape = why("overflow"), watch(p, p.ids(3, p.T))
        W = tape.attentions[0].weights.float().reshape(-1, p.T, p.T) if tape.attentions else torch.zeros(1, p.T, p.T)
        if W.isnan().any():
            rows = W.isnan().any(dim=0).any(dim=1).nonzero().flatten().tolist()
            strict = (W[:, 1:].nan_to_num(0).diagonal(offset=1, dim1=1, dim2=2) == 0).all()
            more = ": the position itself is excluded" if rows == [0] and strict else ""
            more += ": the mask's polarity is turned round" if rows == [p.T - 1] else ""
            cause = why("row blocked", rows=places(rows), more=more)
        yield f"NaN or infinity in the logits of positions {places(rows)}", *cause
    given = logits.nan_to_num(0)
    if p.out_vocab > 1 and given.min() >= 0 and given.max() <= 1 and (given.sum(dim=-1) - 1).abs().max() < 1e-3:
        yield "the logits of each position are probabilities: between 0 and 1, and they add up to 1", *why("softmax inside")


@check("side effects")
@torch.no_grad()
def side_effects(p: Patient) -> Verdict:
    """Answering changes neither the ids, nor the weights, nor the mode."""
    ids, heard = p.ids(2, p.T), io.StringIO()
    before = ids.clone()

    def listed() -> int:
        return sum(len(v) for m in p.model.modules() for v in vars(m).values() if isinstance(v, list))

    lists = listed()
    with p.shaken(), contextlib.redirect_stdout(heard):
        kept = {name: t.clone() for name, t in p.parameters.items()}
        p.call(ids, **p.extra, **({p.targets_name: before.clone()} if p.mode == "targets" else {}))
        other = [name for name, t in p.parameters.items() if not torch.equal(t.nan_to_num(0), kept[name].nan_to_num(0))]
    if not torch.equal(ids, before):
        row, t = (ids != before).nonzero()[0].tolist()
        return fail("writes into input", f"after the call the caller's ids are others, first at row {row}, position {t}")
    if other:
        return fail("changes weights", f"after one call in evaluation mode {len(other)} weights are others: {places(other)}")
    if awake := [name or "the model" for name, m in p.model.named_modules() if m.training]:
        return fail("switches mode", f"after model.eval() and one call, training mode is on in: {places(awake)}")
    if heard.getvalue():
        return warn("debugging left", f"each call prints {heard.getvalue().strip()[:40]!r}")
    if (grown := listed() - lists) > 0:
        return warn("debugging left", f"each call keeps {grown} more objects in a list")
    return passed("ids, weights and mode are as before")


@check("repeats")
@torch.no_grad()
def repeats(p: Patient) -> Verdict:
    """In evaluation mode the same ids get the same logits."""
    ids = p.ids(2, p.T)
    first, second = p.logits(ids), p.logits(ids)
    far = moved(first, second).max().item()
    if far > tolerance(p, first):
        return fail("hidden state", f"the same ids twice, with the same random numbers: logits differ by up to {far:.3g}")
    seed(1)  # raw() would take the same random numbers again
    given = {} if p.mode != "targets" else {p.targets_name: ids.roll(-1, dims=1)}
    third = p.read(p.call(ids, **p.extra, **given), 2, p.T)
    far = moved(first[:, -third.shape[1] :], third).max().item()
    dropouts = [(name, m) for name, m in p.model.named_modules() if isinstance(m, nn.Dropout)]
    if far > tolerance(p, first):
        more, awake = "", [name for name, m in dropouts if m.training and m.p > 0]
        if awake:
            more = f": {places(awake)} stayed in training mode (train() or eval() is overridden, or not called on it)"
        elif watch(p, ids).random:
            more = ": F.dropout(x, p) without training=self.training drops always; so does a Dropout in a plain list"
        return fail("noise in eval", f"the same ids twice in eval mode: logits differ by up to {far:.3g}", more=more)
    for name, m in dropouts:
        if m.p > 0.6:
            return warn("drops too much", f"{name} drops {m.p:.0%} in training", p=1 - m.p)
    return passed("the same ids, the same logits, in evaluation mode")


@check("registered")
def registered(p: Patient) -> Verdict:
    """All that should be trained is known to PyTorch."""
    lost = {name: t for name, t in p.unregistered.items() if t.requires_grad and t.is_leaf and t.is_floating_point()}
    if lost:
        size = sum(t.numel() for t in lost.values())
        return fail(
            "not registered", f"{len(lost)} weights ({size:,} numbers) are not among model.parameters(): {places(lost, 3)}"
        )
    return passed(f"{len(p.parameters)} parameters, {sum(t.numel() for t in p.parameters.values()):,} numbers; none is hidden")


def stacks(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Stacks of layers, with their names: modules of the same weights side by side, or in a plain list, or in a Sequential."""
    found = []
    for name, module in model.named_modules():
        children = [
            child for child in module._modules.values() if child is not None and next(child.parameters(), None) is not None
        ]
        forms = [tuple((n, x.shape) for n, x in child.named_parameters()) for child in children]
        lists = [[c for c, form in zip(children, forms, strict=True) if form == kind] for kind in set(forms) if len(kind) > 2]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            lists.append(children)
        for value in vars(module).values():
            if isinstance(value, list | tuple) and all(isinstance(v, nn.Module) for v in value):
                lists.append(list(value))
        found += [(name or "the model", layers) for layers in lists if len(layers) > 1]
    return found


def block_stack(p: Patient) -> tuple[str, list[nn.Module]]:
    """The stack of layers with the most weights: the blocks."""

    def size(stack: tuple[str, list[nn.Module]]) -> int:
        return sum(x.numel() for x in nn.ModuleList(set(stack[1])).parameters())

    return max(stacks(p.model), key=size, default=("", []))


@check("shared layers")
def shared_layers(p: Patient) -> Verdict:
    """Each layer of a stack has weights of its own."""
    for name, layers in stacks(p.model):
        distinct = len(set(map(id, layers)))
        if distinct < len(layers):
            return fail(
                "one layer repeated",
                f"{name} has {len(layers)} entries, but only {distinct} different: the count of parameters does not grow with "
                "the number of layers",
            )
        owners: dict[int, list[str]] = {}
        for i, layer in enumerate(layers):
            for inner, parameter in layer.named_parameters():
                if not (parameter.dim() == 2 and parameter.shape[0] in (p.in_vocab, p.out_vocab)):  # a tied head
                    owners.setdefault(id(parameter), []).append(f"{name}[{i}].{inner}")
        if twice := [names for names in owners.values() if len(names) > 1]:
            return fail("weights shared", f"layers of {name} share {len(twice)} of their weights: {' is '.join(twice[0][:3])}")
    return passed("no two layers of a list share weights" if stacks(p.model) else "no list of layers")


@check("rows", needs="side effects, repeats")
@torch.no_grad()
def rows_apart(p: Patient) -> Verdict:
    """Rows of a batch do not influence each other, in evaluation and in training."""
    for training in (False, True):
        mode, ids, far = "training" if training else "evaluation", p.ids(3, p.T), 0.0
        with p.shaken(), p.in_mode(training):
            base = p.logits(ids)
            for row in range(3):
                other = ids.clone()
                other[row] = p.another(other[row])
                rest = [r for r in range(3) if r != row]
                far = max(far, moved(base, p.logits(other))[rest].max().item())
            alike = base[:1] if training else p.logits(ids[:1].expand(3, -1))
            differs = moved(alike, alike[:1].expand_as(alike)).max().item()
        allowed = tolerance(p, base)
        p.rows_apart = far <= allowed and differs <= allowed
        if far > allowed:
            if reads_time_first(p):
                raise NotExaminable(
                    f"it reads (T, B), time first: {ADAPT.format(what='ids.t()')}, turned back with transpose(0, 1)"
                )
            key = "batch mixed"
            if has_module(p, is_batch_norm):
                key = "batch norm"
            elif has_module(p, lambda m: isinstance(m, nn.MultiheadAttention) and not m.batch_first):
                key = "not batch first"
            return fail(key, f"in {mode} mode, other tokens in one row moved the logits of another by up to {far:.3g}")
        if differs > allowed:
            return fail("row number", f"three equal rows in a batch get different logits, by up to {differs:.3g}")
    return passed("other tokens in other rows move nothing; equal rows get equal logits")


def reads_time_first(p: Patient) -> bool:
    """Whether the model takes (T, B): then rows are positions, and columns are independent and causal the other way round."""
    ids, half = p.ids(p.T, 3), p.T // 2  # (T, B) for such a model
    with contextlib.suppress(ModelError), p.shaken():
        base, other = p.logits(ids), ids.clone()
        other[half:, 0] = p.another(other[half:, 0])
        far = moved(base, p.logits(other))  # (T, B)
        quiet = tolerance(p, base)
        alike = p.logits(ids[:, :1].expand(-1, 3))  # equal columns: so are their logits, or columns are positions after all
        columns = moved(alike, alike[:, :1].expand_as(alike)).max()
        heard = far[:, 1:].max() <= quiet and far[:half].max() <= quiet and far[half:, 0].min() > quiet
        return bool(heard and columns <= quiet)
    return False


@check("causality", needs="side effects, repeats")
def causality(p: Patient) -> Verdict:
    """No position hears what comes after it: in evaluation, in training, with targets, and by gradient."""
    (far, allowed), tape, mode = listening(p), tape_of(p), "evaluation"
    late = future(p.T)
    if not (far[late] > allowed).any() and p.mode != "prefixes":
        with p.in_mode(True), p.shaken():
            targets = p.ids(1, p.T, 5) if p.both else None
            trained, quiet = dependence(p, p.ids(1, p.T), targets, together=False)  # the same dropout for each
            if (trained[late] > quiet).any():
                far, allowed, mode, tape = trained, quiet, "training", watch(p, p.ids(3, p.T))
    if p.both:
        with torch.no_grad(), p.shaken():
            one, two = (p.read(p.raw(p.ids(2, p.T), p.ids(2, p.T, seed)), 2, p.T) for seed in (1, 2))
        if one.shape == two.shape and moved(one, two).max() > tolerance(p, one):
            return fail("targets fed in", f"other targets move the logits by up to {moved(one, two).max():.3g}")
    leaks = ((far > allowed) & late).nonzero().tolist()
    if leaks:
        ahead = sorted({j - t for t, j in leaks})
        span = f"+{ahead[0]}" if len(ahead) == 1 else f"+{ahead[0]} to +{ahead[-1]}"
        cause, advice = why_future(p, tape)
        return fail(
            (f"in training mode only: {cause}" if mode == "training" else cause, advice),
            f"in {mode} mode positions {places(sorted({t for t, _ in leaks}))} hear the future: their logits move by up to "
            f"{far[late].max():.3g} when the token at offset {span} changes (rounding: {allowed:.1g})",
        )
    heard = gradient_from_future(p)
    if heard > 1e-7:
        evidence = f"a gradient of {heard:.2g} (of the largest) flows back from the past to the future"
        return fail(why_future(p, tape), evidence)
    known, blind = random_text(p), math.log(p.vocab)
    if known is not None and p.out_vocab > 4 and known < blind - 0.2:
        evidence = f"on random ids, which nobody can predict, its loss is {known:.2f}, below ln V = {blind:.2f}"
        return fail("sees the answer", evidence)
    return passed(f"changing a token moved no position before it (rounding: {allowed:.1g}), in evaluation and training mode")


def gradient_from_future(p: Patient) -> float:
    """How much gradient flows from the logits of the first half back to the tokens of the second, beside that to the first.

    The two halves use different tokens, and only logits of the first half's tokens are taken: then the rows of the second
    half's tokens in the table get a gradient by way of the future only, also where the head is tied to the table.
    """
    table = p.parameters.get(p.token_table)
    if table is None or not table.requires_grad or p.vocab < 4 or p.mode == "prefixes":
        return 0.0
    half, cut = p.T // 2, p.vocab // 2
    ids = p.ids(1, p.T) % cut
    ids[0, half:] += cut
    with torch.enable_grad(), p.shaken():
        logits = p.logits(ids)[0, :half, :cut]
        if not logits.requires_grad:
            return 0.0
        pull = torch.linspace(-1, 1, cut, device=logits.device)
        with models_own():
            (grad,) = torch.autograd.grad((logits.nan_to_num(0) * pull).sum(), table, allow_unused=True)
    if grad is None:
        return 0.0
    size = grad.float().nan_to_num(0).abs().amax(dim=1)  # (V, C) -> (V,)
    return (size[ids[0, half:]].max() / size[ids[0, :half]].max().clamp(min=1e-30)).item()


@torch.no_grad()
def random_text(p: Patient) -> float | None:
    """Loss on random ids with random targets, by our own arithmetic. None if it is not a number."""
    ids = p.ids(12, p.T + 1, seed=7)
    logits = torch.cat([p.logits(part[:, :-1], part[:, 1:] if p.mode == "targets" else None) for part in ids.split(3)])
    loss = F.cross_entropy(logits[..., : p.vocab].flatten(0, 1), ids[:, 1:].flatten()).item()
    return loss if math.isfinite(loss) else None


@check("residual", needs="answers, side effects, repeats")
@torch.no_grad()
def residual(p: Patient) -> Verdict:
    """The stream passes every branch: the tokens are heard even when all branches are silent."""
    name, layers = block_stack(p)
    if not layers:  # a model of one block
        single = [(n, list(m)) for n, m in p.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 1]
        name, layers = single[0] if single else ("", [])
    if not layers and tape_of(p).attentions:
        return residual_of_weights(p)
    if not layers or not tape_of(p).attentions:
        return skip("no stack of attention blocks was found")
    with p.shaken(), silent(p, layers):
        holds, growth = hears_tokens(p), stream_growth(p, layers)
    if not holds:
        branches: dict[str, list[nn.Module]] = {}
        for layer in layers:
            for child, module in layer.named_children():
                if any(x.dim() >= 2 for x in module.parameters()):
                    branches.setdefault(child, []).append(module)
        guilty = []
        for child, parts in branches.items():
            with p.shaken(), silent(p, parts):
                guilty += [] if hears_tokens(p) else [child]
        where = " and ".join(guilty) or "its branches together"
        return fail(
            "residual missing",
            f"with the weights of {where} set to 0 the logits do not depend on the tokens any more: nothing passes beside them",
            where=where,
        )
    if growth is not None and abs(growth - round(growth)) < 1e-3 and round(growth) > 1:
        return fail("residual twice", f"with silent branches a block multiplies the stream by {growth:.2f}")
    return passed(f"with all branches of {name} silent, the stream still carries the tokens to the logits")


def residual_of_weights(p: Patient) -> Verdict:
    """Of a model whose layers are no modules but numbered weights: whether something passes beside each matrix."""
    recurrent = {id(x) for m in p.model.modules() if isinstance(m, nn.RNNBase) for x in m.parameters()}
    numbered = [n for n, x in p.parameters.items() if x.dim() == 2 and re.search(r"\d", n) and id(x) not in recurrent]
    if not 0 < len(numbered) <= 96:
        return skip(f"no stack of attention blocks was found, and {len(numbered)} numbered matrices")
    guilty = []
    for name in numbered:
        with p.shaken(), p.weights(lambda n, value, name=name: torch.zeros_like(value) if n == name else None):
            guilty += [] if hears_tokens(p) else [name]
    if guilty:
        where = places(guilty, 2)
        evidence = f"with {where} at 0 the logits do not depend on the tokens any more: nothing passes beside it"
        return fail("residual missing", evidence, where=where)
    return passed(f"with any one of {len(numbered)} matrices at 0, the stream still carries the tokens to the logits")


def silent(p: Patient, parts: list[nn.Module]):
    """Zero the weights of matrices in some modules, with the biases beside them; norms stay."""
    own = [list(module.parameters(recurse=False)) for part in parts for module in part.modules()]
    quiet = {id(x) for weights in own if any(x.dim() >= 2 for x in weights) for x in weights}
    names = {name for name, x in p.everything().items() if id(x) in quiet}
    return p.weights(lambda name, value: torch.zeros_like(value) if name in names else None)


def hears_tokens(p: Patient) -> bool:
    """Whether other tokens, at all positions, move the last logits."""
    ids = p.ids(1, p.T)
    logits = p.logits(torch.cat([ids, p.another(ids)]))  # (2, T, V)
    return moved(logits[0, -1], logits[1, -1]).item() > tolerance(p, logits)


def stream_growth(p: Patient, layers: list[nn.Module]) -> float | None:
    """How much larger the stream leaves a block than it came in, with silent branches. None where blocks normalise it."""
    ratios: list[float] = []

    def compare(module, args, output):
        came = args[0] if args and isinstance(args[0], Tensor) else None
        left = output[0] if isinstance(output, tuple) and output else output
        if came is not None and isinstance(left, Tensor) and came.shape == left.shape and came.is_floating_point():
            ratio = (left * came).sum() / came.square().sum().clamp(min=1e-30)
            if torch.allclose(left, ratio * came, atol=1e-4 * left.abs().max().item(), rtol=1e-3):
                ratios.append(ratio.item())

    hooks = [layer.register_forward_hook(compare) for layer in set(layers)]
    try:
        p.logits(p.ids(2, p.T))
    finally:
        for hook in hooks:
            hook.remove()
    return ratios[0] if ratios and max(ratios) - min(ratios) < 1e-3 else None


@check("memory", needs="answers, side effects, repeats, rows, residual")
def memory(p: Patient) -> Verdict:
    """Every position hears all of its past, and itself."""
    if p.T < 2:
        return skip("a window of one token has no past")
    far, allowed = listening(p)
    own, early = far.diagonal(), future(p.T).T
    if (own <= allowed).all():
        return fail("own token hidden", "no position's logits depend on its own token")
    if (own <= allowed).any():
        deaf = (own <= allowed).nonzero().flatten().tolist()
        return fail(why_deaf(p), f"the logits of positions {places(deaf)} do not depend on their own token")
    missing = (far <= allowed) & early
    windows = promised(p.model, ("sliding_window", "attention_window", "local_window_size", "window"))
    window = windows[0][1] if windows else None
    if (missing == early).all():
        p.hears_context = False
        say = fail if tape_of(p).softmaxes or tape_of(p).attentions else warn
        evidence = "the logits depend on the position's own token only: the context is ignored"
        return say(mixing_heads(p) or why_deaf(p), evidence)
    if missing.any() and not (window and window < p.T):
        t, j = missing.nonzero()[-1].tolist()
        back = sorted({t - j for t, j in missing.nonzero().tolist()})
        evidence = f"position {t} does not hear position {j}; unheard offsets: -{back[0]} to -{back[-1]}"
        return fail(mixing_heads(p) or why_deaf(p), evidence)
    hears = "every position hears itself and all before it"
    if window:
        return passed(f"{hears} (within its sliding window of {window})")
    unheard = unheard_from_afar(p) if p.mode != "prefixes" and p.long > p.T else []
    if isinstance(unheard, str):
        return passed(f"{hears}, over {p.T} tokens ({unheard})")
    if unheard and tape_of(p).attentions:
        return fail("short window", f"position {p.long - 1} does not hear position {places(unheard)}")
    return passed(f"{hears}, over {p.T} tokens (a recurrent model forgets further)" if unheard else hears)


@torch.no_grad()
def unheard_from_afar(p: Patient) -> list[int] | str:
    """Which of three far tokens the last position of a long text does not hear; or why that cannot be told."""
    spots = [0, p.long // 4, p.long // 2]
    changed = p.ids(1, p.long).repeat(len(spots) + 1, 1)  # one row for each spot, and the last as it was
    for row, spot in enumerate(spots):
        changed[row, spot] = p.another(changed[row, spot])
    with p.shaken():
        try:
            logits = torch.cat([p.logits(part) for part in changed.split(1)])
        except ModelError:
            return "not tried on more: it fails"
    if not logits.isfinite().all():
        return f"not finite on {p.long}"
    heard = moved(logits[:-1, -1], logits[-1:, -1]).tolist()
    return [spot for spot, far in zip(spots, heard, strict=True) if far <= tolerance(p, logits) / 60]


def why_deaf(p: Patient) -> Why:
    """Why a position does not hear some of the past."""
    tape = tape_of(p)
    if not tape.attentions and tape.softmaxes:
        return why("attends over heads", shape=tape.softmaxes[0], T=tape.T)
    if not tape.attentions:
        return why("no attention")
    early = future(tape.T, p.device).T
    W = flat(tape.attentions[0].weights).amax(dim=0)  # (N, T, T) -> (T, T)
    if (W[early] < 1e-9).all():
        return why("past covered" if (W[early.T] > 1e-9).any() else "self only")
    if (W[early] < 1e-9).any():
        return why("window", reach=max(t - j for t, j in ((W > 1e-9) & early).nonzero().tolist()))
    return why("attention lost")


@check("positions", needs="side effects, repeats, rows")
@torch.no_grad()
def positions(p: Patient) -> Verdict:
    """The order of the past matters, and positions count 0, 1, 2 …"""
    if p.T < 4:
        return skip("the window is too short")
    if problem := wrong_rows(p):
        return problem
    order = order_ignored(p)
    return order if order[0] == "fail" else depends_on_length(p) or wrong_distance(p) or order


def depends_on_length(p: Patient) -> Verdict | None:
    """Whether a text's answers change when it goes on, though no position hears a later token."""
    heard, quiet = listening(p)
    if p.mode == "prefixes" or heard[future(p.T)].max() > quiet or mixing_heads(p):
        return None
    ids, T = p.ids(2, p.T), p.T // 2
    with p.shaken():
        whole, part = p.logits(ids)[:, :T], p.logits(ids[:, :T])
    far = moved(whole, part).max().item()
    if far <= 20 * tolerance(p, whole):
        return None
    return fail(
        "positions by length", f"the first {T} of {p.T} tokens get other logits alone than with the rest: up to {far:.3g}"
    )


def wrong_distance(p: Patient) -> Verdict | None:
    """Of a model that answers one token repeated alike at every place (its positions are relative): whether scores depend on
    how far away a key is, and near ones count more."""
    ids, noisy = torch.full_like(p.ids(1, p.T), p.vocab - 1), shaken_weights(p)
    with p.weights(lambda name, value: noisy[name] if value.dim() > 1 else None):  # gains behind a rotation stay equal
        tape, logits = watch(p, ids), p.logits(ids)
    if not tape.scores or moved(logits[:, 1:], logits[:, :1]).max() > 3 * tolerance(p, logits):
        return None
    scores = tape.scores[0].float().reshape(-1, p.T, p.T)  # (N, T, T)
    scores = scores.masked_fill(future(p.T, scores.device) | (scores < -1e4), math.nan)
    own = scores.diagonal(dim1=1, dim2=2)  # (N, T): of each token with itself
    scores = scores - own[..., None]  # (N, T, T) - (N, T, 1): beside the own token's
    size = scores.nan_to_num(0).abs().max().item()
    if size < 1e-3:
        wide = (own.amax(dim=1) - own.amin(dim=1)).nan_to_num(0).max().item()
        evidence = f"one token repeated: a query likes all keys alike, however far away, but queries differ by up to {wide:.2g}"
        return warn("distance uneven", evidence) if wide > 1e-2 else None
    along = (scores[:, 1:, 1:] - scores[:, :-1, :-1]).nan_to_num(0).abs().max().item()  # one step down, one to the right
    if along > 0.02 * size:
        evidence = f"one token repeated: scores of keys equally far away differ by up to {along:.2g}, of a range of {size:.2g}"
        return warn("distance uneven", evidence)
    last = scores[:, -1].flip(-1)  # (N, T): by distance 0, 1, 2 …
    steps = last.diff(dim=-1)
    if steps.isfinite().all() and (steps > 1e-4).all() and (steps.diff(dim=-1).abs() < 0.02 * steps.mean()).all():
        return fail("distance turned", f"one token repeated: each step further away raises a key's score by {steps.mean():.2g}")
    return None


def wrong_rows(p: Patient) -> Verdict | None:
    """Whether a table of positions is asked for other rows than 0, 1, 2 …"""
    asked = {}
    with contextlib.suppress(ModelError):  # whether it takes so many is a question of lengths
        asked = {name: rows for name, _, rows in watch(p, p.ids(1, p.long)).embeddings}
    for name, length, rows in p.positions:
        seen, far = rows.flatten().tolist(), asked.get(name, rows).flatten().tolist()
        if len(set(far)) < min(p.long, len(far)) and len(set(seen)) == p.T:
            at = next(i for i in range(1, len(far)) if far[i] in far[:i])
            return fail("positions wrap", f"{name}: position {at} of {p.long} gets row {far[at]}, which an earlier one had")
        seen = seen[: len(seen) // (3 if len(seen) > p.T else 1)]  # the same for each row of the batch
        first, table = seen[0], name or "the table of positions"
        if seen != list(range(first, first + p.T)):
            how = "the rows run backwards: " if seen[-1] < first else ""
            how = "all positions get the same row: " if len(set(seen)) == 1 else how
            return fail("positions wrong", f"{table} is asked for rows {places(seen, 6)}", how=how)
        if 1 <= first <= 2 and length <= p.block + first - 1 and not p.has_padding(name):
            return fail(
                "positions off by one",
                f"{table} has {length} rows and is asked for rows {first} to {first + p.T - 1}: row 0 is never used, and the "
                "last position has none",
            )
    return None


def order_ignored(p: Patient) -> Verdict:
    """Whether swapped tokens, or one token repeated, show that positions do not reach the stream."""
    ids = p.ids(1, p.T)
    ids[0, 0], ids[0, 1] = 0, 1 % p.vocab
    swapped = ids.clone()
    swapped[0, :2] = ids[0, :2].flip(0)
    constant = torch.full_like(p.ids(3, p.T), p.vocab - 1)
    with p.shaken():
        both = p.logits(torch.cat([ids, swapped]))  # (2, T, V)
        same = p.logits(constant[:1])
    far, quiet = moved(both[0, -1], both[1, -1]).item(), tolerance(p, both)
    if far <= quiet and listening(p)[0][-1, :2].min() > quiet:
        say = fail if any(a.q is not None for a in tape_of(p).attentions) else warn
        evidence = f"swapping tokens 0 and 1 moves the last logits by {far:.1g}: the order of the past does not matter"
        return say("positions ignored", evidence)
    if moved(same[0, 1:], same[0, :1]).max() <= 3 * quiet and tape_of(p).attentions:
        with p.shaken():
            W = flat(watch(p, constant).attentions[0].weights)[:, -1]  # (N, T): of the last query
        W = W[:, W.amax(dim=0) > 0]
        if W.numel() and (W.amax(dim=1) - W.amin(dim=1)).max() < 1e-4:
            evidence = "one token repeated gets the same logits at every position, and even attention weights"
            if named := [n for n in p.parameters if any(w in n.lower().replace("post", "") for w in ("pos", "wpe"))]:
                return fail("positions lost", evidence, name=named[0])
            return warn("no positions", evidence)
    return passed(f"swapping tokens 0 and 1 moves the last logits by {far:.2g}")


@check("lengths")
@torch.no_grad()
def lengths(p: Patient) -> Verdict:
    """Finite logits from 1 token to block_size, and no silence past it."""
    for T in dict.fromkeys((1, 2, p.long if p.block > 256 else p.block)):
        if p.block >= T and (problem := wrong_at_length(p, T)):
            return problem
    p.fits_block = True
    wide, fine = p.block + 1, f"finite at 1, 2 and {p.long} tokens"
    if p.block > 4096 or (p.limit is None and p.block_from == "by trying"):
        return passed(f"{fine}; no limit was found up to {p.long}")
    try:
        answer = p.raw(p.ids(1, wide), p.ids(1, wide) if p.mode == "targets" else None)
    except ModelError as error:
        return passed(f"{fine}; {wide} are refused: {error}")
    found = p.pick(answer, 1, wide)
    if found is None or (found.dim() == 3 and p.mode != "prefixes" and wide not in found.shape):
        return warn("cut silently", f"{wide} tokens give {shapes(answer)}: fewer answers than tokens, and no error")
    if p.limit is not None and p.limit < wide:
        evidence = f"{wide} tokens are taken without an error, but there are only {p.limit} positions ({p.block_from})"
        return fail("wraps past end", evidence)
    return passed(f"{fine}; more than {p.block} are taken too, and no table of positions ends there")


def wrong_at_length(p: Patient, T: int) -> Verdict | None:
    """What goes wrong with T tokens."""
    torch.backends.mha.set_fastpath_enabled(True)  # as it is outside: it reads masks that the slow way ignores
    try:
        logits = p.read(p.raw(p.ids(2, T)), 2, T) if p.mode == "prefixes" else p.logits(p.ids(2, T))
    except ModelError as error:
        if T == 1 < p.block and isinstance(error.error, AssertionError) and str(error.error):
            return None  # it refuses in words
        kept = [name for name, x in unregistered(p.model).items() if x.dim() > 1 and T != x.shape[-1] == x.shape[-2]]
        key = "length 1" if T == 1 else "length claimed" if p.block == T else "length some"
        key = "length off by one" if T == p.block > 2 and p.accepts(T - 1) else key
        key = "length kept" if set(kept) - set(p.unregistered) else key
        evidence = f"with {T} of {p.block} tokens ({p.block_from}) it fails: {error}"
        return fail(key, evidence, T=T, name=places(kept, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(False)
    if logits.isfinite().all():
        return None
    everywhere = not p.logits(p.ids(2, p.T)).isfinite().all()
    key = "nan everywhere" if everywhere else "nan at one" if T == 1 else "nan at end"
    return fail(key, f"NaN or infinity in the logits for {T} tokens")


@check("softmax")
def softmax_axis(p: Patient) -> Verdict:
    """Attention weights are a distribution over the keys."""
    tape, broken = tape_of(p), None
    seen = [a for a in tape.attentions if a.soft is not None]
    for layer, a in enumerate(seen):
        sums = flat(a.weights).sum(dim=-1)
        evidence = f"attention {layer}: rows of weights sum to {sums.min():.2f} … {sums.max():.2f}, not to 1"
        if a.axis != "keys":
            what = {"queries": "the queries (dim=-2)", "another axis": "the heads or the batch"}[a.axis]
            return fail("softmax axis", evidence, what=what)
        even = (flat(a.soft).sum(dim=-1) - 1).abs().max() < 0.01
        peeks = (flat(a.soft)[:, future(tape.T, sums.device)] > 1e-9).any()
        if (sums - 1).abs().max() > 0.05 and even and peeks:
            broken = broken or fail("mask breaks rows", evidence)
    if not seen:
        return skip("no softmax over T x T scores was seen")
    return broken or passed(f"{len(seen)} attentions: every row of weights sums to 1")


@check("heads", needs="answers, side effects, repeats")
def heads(p: Patient) -> Verdict:
    """Splitting into heads and joining them keeps positions apart."""
    if not tape_of(p).attentions:
        return skip("no attention was seen")
    if time_statistics(tape_of(p)):
        return skip("statistics over time mix the positions: see norms")
    if mixed := mixing_heads(p):
        return fail(mixed, "changing one token reaches other positions by a reshape, not by attention")
    return passed("before and after the first attention each position holds its own token only")


UNSCALED = ("GPTNeo", "T5")  # published without a scale, which their first weights make up for
SCALES = ("query_pre_attn_scalar", "attention_multiplier", "softmax_scale", "attn_scale", "scale_attn", "mup_scale")


@check("scale")
def scale(p: Patient) -> Verdict:
    """Scores are divided by the root of the head size."""
    attention = next((a for a in tape_of(p).attentions if a.hs and a.factor and a.soft is not None), None)
    if attention is None:
        return skip("no product of queries and keys was seen, or its factor is learned")
    hs, factor = attention.hs, attention.factor
    if equal_lengths(p):
        return skip("queries and keys are normalised to one length: another scale belongs there")
    if abs(factor * math.sqrt(hs) - 1) < 0.02:
        return passed(f"scores are divided by {1 / factor:.3g} = √{hs}, the root of the head size")
    if has_module(p, lambda module: any(name in type(module).__name__ for name in UNSCALED)):
        return passed(f"scores are multiplied by {factor:.3g}: so it was published")
    declared = [value for _, value in promised(p.model, SCALES, int | float)]
    if any(math.isclose(value**e, factor, rel_tol=0.02) for value in declared for e in (1, -1, -0.5)):
        return passed(f"scores are multiplied by {factor:.3g}, as its configuration says")
    widths = sorted({x.shape[-1] for x in p.parameters.values() if x.dim() == 2})
    wide = next((w for w in widths if math.isclose(factor, w**-0.5, rel_tol=0.02)), None)
    evidence = (
        f"the products of queries and keys are multiplied by {factor:.4g}; the head size is {hs}, 1/√{hs} = {hs**-0.5:.4g}"
    )
    if math.isclose(factor, 1, rel_tol=1e-3):
        return fail("scale missing", evidence)
    if wide or factor > 1:
        return fail("scale of width" if wide else "scale inverted", evidence, wide=wide)
    return warn("scale without root" if math.isclose(factor, 1 / hs, rel_tol=0.02) else "scale unusual", evidence)


def equal_lengths(p: Patient) -> bool:
    """Whether all queries have one length, and all keys, with the weights as they are."""
    seen = watch(p, p.ids(3, p.T)).attentions
    norms = [flat(x).norm(dim=-1) for x in (seen[0].q, seen[0].k) if x is not None] if seen else []
    return bool(norms) and all(n.std() < 1e-3 * n.mean() for n in norms)


@check("norms", needs="repeats")
@torch.no_grad()
def norms(p: Patient) -> Verdict:
    """Every branch reads a normalised stream, and normalisation runs over the features of one position."""
    tape = tape_of(p)
    if not any(a.q is not None for a in tape.attentions):
        return skip("no attention with queries and keys was seen")
    for kind, shape, dims in time_statistics(tape):
        return fail("time statistics", f"{kind} over axes {dims} of a tensor {shape}: the axis of length {p.T} is time")
    for kind, shape, _ in tape.norms:
        if kind == "BatchNorm":
            return fail("batch norm", f"BatchNorm of a tensor {shape}")
    if p.token_table not in p.parameters:
        return skip("no table of tokens that could be made larger")
    small, large = input_sizes(p, 1.0), input_sizes(p, 1000.0)
    order = list(small)
    if not order:
        return skip("no linear layer was seen")
    grown = [name for name in order if large.get(name, 0) > 30 * max(small[name], 1e-12)]
    if shrunk := [name for name in order if large.get(name, 0) < small[name] / 30]:
        return fail(
            "norm too strong",
            f"an embedding 1000 times as large makes the input of {places(shrunk, 2)} smaller, "
            f"{small[shrunk[0]] / large[shrunk[0]]:.3g} times",
        )
    over_features = sum(shape[-1] > 1 and dims == (len(shape) - 1,) for _, shape, dims in tape.norms)
    if grown and len(grown) >= len(order) - 1 and len(order) > 2:
        if over_features >= 2 * len(tape.attentions):
            return passed(f"{over_features} normalisations, of what the branches give rather than of what they read")
        return fail(
            "no norm",
            f"an embedding 1000 times as large makes the input of {len(grown)} of {len(order)} linear layers grow with it",
        )
    first = list(itertools.takewhile(lambda name: name in grown, order))  # in a Post-LN model they read the embedding itself
    head, late = order[-1], [name for name in grown if name not in first]
    if inside := [name for name in late if name != head]:
        return fail(
            "norm missing",
            f"an embedding 1000 times as large makes the input of {places(inside)} grow with it: nothing normalises what it "
            "reads",
            name=inside[0],
        )
    if late:
        return passed(f"all but the head ({head}) read a normalised stream: there is no last LayerNorm")
    return passed(f"the inputs of {len(order)} linear layers keep their size when the embedding grows 1000 times")


def input_sizes(p: Patient, factor: float) -> dict[str, float]:
    """The size of what each linear layer reads, in the order of the calls, with the embedding so many times as large."""
    C = p.parameters[p.token_table].shape[1]
    tables = [(p.token_table, p.in_vocab), *(table[:2] for table in p.positions), *p.tables]
    added = {n for n, length in tables if n in p.parameters and p.parameters[n].shape[-2:] == (length, C)}
    found: dict[str, float] = {}

    def hook(name: str):
        def measure(module, args):
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                found.setdefault(name, args[0].float().square().mean().sqrt().item())

        return measure

    hooks = []
    for name, module in p.model.named_modules():
        if sum(x.dim() == 2 for x in module.parameters(recurse=False)) == 1 and not isinstance(module, nn.Embedding):
            hooks.append(module.register_forward_pre_hook(hook(name)))
    try:
        with p.shaken(), p.weights(lambda name, value: factor * value if name in added else None):
            p.logits(p.ids(2, p.T))
    finally:
        for handle in hooks:
            handle.remove()
    return found


@check("activation")
def activation(p: Patient) -> Verdict:
    """Between the two linear layers of an MLP stands something that is not linear."""
    tape = tape_of(p)
    if tape.straight:
        wide, narrow = tape.straight[0]
        more = f" ({len(tape.straight)} such pairs)" if len(tape.straight) > 1 else ""
        return fail("no activation", f"what {wide} gives reaches {narrow} as it is{more}", wide=wide, narrow=narrow)
    if not tape.narrowed:
        return skip("no linear layer was seen that narrows a wider one's output")
    return passed(f"{tape.narrowed} linear layers narrow what they read; none reads a wider layer's output as it is")


@check("gradients", needs="lengths")
def gradients(p: Patient) -> Verdict:
    """Every parameter takes part, and gets a gradient."""
    if not p.parameters:
        return skip("it has no parameters")
    wants = {name: x.requires_grad for name, x in p.parameters.items()}
    with torch.enable_grad(), p.shaken():
        ids = p.ids(3, p.T if p.mode == "prefixes" else p.long)
        logits = p.logits(ids)
        p.trainable = logits.requires_grad
        if logits.is_inference():
            return warn("inference only", "forward runs under torch.inference_mode: it cannot be trained")
        if not logits.requires_grad:
            return fail("no gradient" if any(wants.values()) else "all frozen", "the logits carry no gradient at all")
        loss = F.cross_entropy(logits.flatten(0, 1).nan_to_num(0), ids.roll(-1, 1).flatten())
        wanted = [x for x in p.parameters.values() if x.requires_grad]
        with models_own():
            grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    size = {id(x): None if grad is None else grad.abs().max().item() for x, grad in zip(wanted, grads, strict=True)}
    sizes = {name: size.get(id(x)) for name, x in p.parameters.items()}
    frozen = [n for n, x in p.parameters.items() if not wants[n] and x.is_floating_point()]
    # what reads an encoder waits for one that is not there; softmax cancels a bias of keys
    none = [
        n for n, g in sizes.items() if g is None and n not in frozen and "encoder_attn" not in n and "cross" not in n.lower()
    ]
    zero = [n for n, g in sizes.items() if g == 0.0 and p.parameters[n].numel() > 1 and not is_key_bias(p, n)]
    if none or zero:
        evidence = f"{len(none)} parameters get no gradient, {len(zero)} a gradient of exactly 0: {places(none + zero)}"
        if len(none) > 0.3 * len(sizes):
            return fail("gradient cut", evidence, first=next((n for n, g in sizes.items() if g), "none"))
        unused = any(is_position_table(p, name) for name in none)
        heard = none and not unused and speak(p, none)
        return fail("positions unused" if unused else "never used" if none and not heard else "cut off", evidence)
    matrices = [n for n, x in p.parameters.items() if x.dim() >= 2]
    fixed = [n for n in frozen if n in matrices and not any(w in n.lower() for w in ("pos", "wpe", "rotary", "pe."))]
    if fixed:
        say = warn if len(fixed) > len(matrices) / 2 else fail
        return say("frozen", f"{len(fixed)} matrices have requires_grad=False: {places(fixed)}")
    return passed(f"all {len(sizes) - len(frozen)} parameters get a gradient")


@torch.no_grad()
def speak(p: Patient, names: list[str]) -> bool:
    """Whether these weights move the logits."""
    ids = p.ids(3, p.T)
    with p.shaken():
        logits = p.logits(ids)
        with p.weights(lambda name, value: torch.zeros_like(value) if name in names else None):
            return moved(logits, p.logits(ids)).max().item() > 20 * tolerance(p, logits)


def is_position_table(p: Patient, name: str) -> bool:
    """Whether a parameter looks like one: by its name, or with block_size rows and no linear layer's."""
    linear = isinstance(p.model.get_submodule(name.rpartition(".")[0]), nn.Linear)
    named = any(word in name.lower().replace("post", "") for word in ("pos", "wpe"))
    return named or (p.block in p.parameters[name].shape[:-1] and not linear)


def is_key_bias(p: Patient, name: str) -> bool:
    return p.parameters[name].dim() == 1 and "k" in name.lower().rsplit(".bias", 1)[0].rsplit(".", 1)[-1]


@check("first loss")
@torch.no_grad()
def first_loss(p: Patient) -> Verdict:
    """A new model guesses blindly: its loss on random ids is about ln V."""
    gains = [getattr(m, "weight", None) for m in p.model.modules() if "norm" in type(m).__name__.lower()]
    gains = [gain for gain in gains if isinstance(gain, Tensor)]
    loss, blind = random_text(p), math.log(p.vocab)
    if loss is None:
        return skip("the loss is not a number: see answers")
    if any((gain != 1).any() and (gain != 0).any() for gain in gains):
        return skip(f"the norms' weights are no longer 1: a trained model, which random ids surprise (loss {loss:.2f})")
    if p.vocab < 3:
        return skip(f"a vocabulary of {p.vocab}")
    evidence = f"loss {loss:.2f} on random ids, ln V = {blind:.2f}"
    if loss > blind + 1.5:
        spread = p.logits(p.ids(3, p.T)).std().item()
        say = fail if loss > blind + 2.5 or not gains else warn
        return say("init too large", f"{evidence}; logits have a standard deviation of {spread:.1f}")
    return passed(evidence)


@check("its own loss", needs="side effects, repeats, answers")
@torch.no_grad()
def own_loss(p: Patient) -> Verdict:
    """The loss that it returns is the mean cross-entropy of what comes next."""
    if not p.both:
        return skip("its forward takes no targets, or answers with the loss alone")
    ids, targets = p.ids(3, p.T, 1), p.ids(3, p.T, 2)
    with p.shaken():
        with torch.enable_grad():
            answer = p.raw(ids, targets)
        logits, loss = p.read(answer, 3, p.T).detach(), loss_in(answer)
        if problem := wrong_form(p, answer, loss, targets):
            return problem
        if logits.shape[1] != p.T:
            return skip(f"no loss came back when {p.targets_name} was given")
        counted = wrong_padding(p, ids, targets)
    return judge_loss(p, loss.item(), readings(logits, ids, targets), counted)


def wrong_form(p: Patient, answer, loss: Tensor | None, targets: Tensor) -> Verdict | None:
    """Whether the loss is no single number with a gradient."""
    parts = list(answer.values()) if isinstance(answer, Mapping) else answer if isinstance(answer, tuple | list) else []
    if loss is None and any(isinstance(part, float) for part in parts):
        return fail("loss is a number", "the loss comes back as a Python number")
    if loss is None and any(t.numel() == targets.numel() and t.is_floating_point() for t in tensors_in(answer)):
        return fail("loss not averaged", "a loss comes back for each token")
    if loss is None:
        return skip(f"no loss came back when {p.targets_name} was given")
    if not loss.requires_grad and any(x.requires_grad for x in p.parameters.values()) and p.trainable:
        return fail("loss detached", "the loss carries no gradient")
    return None


def readings(z: Tensor, ids: Tensor, y: Tensor) -> list[tuple[str, Tensor]]:
    """What a loss may be, by the key of its cause: the right ones first. Logits z (B, T, V), ids and targets y (B, T)."""

    def each(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.transpose(1, 2), y, reduction="none")  # (B, V, T), (B, T) -> (B, T)

    def mixed(z: Tensor) -> Tensor:
        return z.transpose(1, 2).reshape(z.shape)  # (B, T, V) -> (B, V, T), read as (B, T, V)

    B, T = y.shape
    plain, inside, copied = each(z, y), each(z[:, :-1], y[:, 1:]), each(z, ids)
    return [
        ("plain", plain.mean()),
        ("inside", inside.mean()),
        ("logs", F.nll_loss(z.transpose(1, 2), y)),  # (B, V, T), (B, T)
        ("own", each(z[:, :-1], ids[:, 1:]).mean()),
        ("loss not shifted", copied.mean()),
        ("loss not shifted", copied[:, 1:].mean()),
        ("loss shifted twice", each(z[:, :-2], y[:, 2:]).mean()),
        ("loss shifted back", each(z[:, 1:], y[:, :-1]).mean()),
        *(("loss summed", some.sum()) for some in (plain, inside)),
        *(("loss summed over window", some.sum() / B) for some in (plain, inside)),
        ("loss wrong divisor", plain.mean() * T / B),
        *(("loss last only", some[:, -1].mean()) for some in (plain, inside)),
        ("loss first only", plain[:, 0].mean()),
        *(("loss skips token 0", some[right > 0].mean()) for some, right in ((plain, y), (inside, y[:, 1:]))),
        ("loss first row", plain[0].mean()),
        *(("loss sign", -some.mean()) for some in (plain, inside)),
        ("loss view", each(mixed(z), y).mean()),
        ("loss view", each(mixed(z[:, :-1]), y[:, 1:]).mean()),
    ]


def judge_loss(p: Patient, loss: float, known: list[tuple[str, Tensor]], counted: Verdict | None) -> Verdict:
    """Which reading the loss is; `counted` is the verdict on ignored targets."""
    plain, inside = known[0][1].item(), known[1][1].item()
    fitting = [key for key, value in known if math.isclose(loss, value.item(), rel_tol=3e-5, abs_tol=3e-5)]
    name, like_hf = p.targets_name, p.targets_name in ("labels", "label")
    if "own" in fitting:
        return passed(f"the mean over all tokens of its input's own next tokens (it does not look at {name})")
    if {"plain", "inside", "logs"} & set(fitting):
        shifted = "inside" in fitting and "plain" not in fitting
        if counted:
            return counted
        if like_hf and not shifted:
            return warn("loss learns to copy", f"loss {loss:.4f} compares the logits at t with {name} at t", name=name)
        if shifted and not like_hf:
            return fail("loss shifts again", f"loss {loss:.4f} compares the logits at t with {name} at t + 1", name=name)
        how = "it shifts them itself" if shifted else "it takes them as the tokens that follow"
        return passed(f"loss {loss:.4f} is the mean over all tokens of {name}: {how}")
    evidence = f"loss {loss:.4f}; the mean cross-entropy of the next tokens is {plain:.4f} ({inside:.4f} if it shifts)"
    if fitting:
        return fail(fitting[0], evidence)
    experts = has_module(p, lambda m: any(word in type(m).__name__.lower() for word in ("moe", "router", "expert")))
    say = warn if experts else fail  # a mixture of experts adds a loss of its own
    return say("loss scaled" if loss > 3 * plain or loss < 0.5 * plain else "loss unknown", evidence)


def wrong_padding(p: Patient, ids: Tensor, targets: Tensor) -> Verdict | None:
    """Whether ignored targets are counted in the mean."""
    logits = p.read(p.raw(ids, targets), 3, p.T)
    for ignore in (-100, -1):
        some = targets.clone()
        some[:, p.T // 2 :] = ignore
        try:
            loss = loss_in(p.raw(ids, some))
        except ModelError:
            continue
        if loss is None:
            continue
        loss = loss.item()
        means: dict[str, list[float]] = {"rest": [], "padding counted": [], "padding as token 0": []}
        for z, y in ((logits, some), (logits[:, :-1], some[:, 1:])):  # as they are, or shifted inside
            z = z.transpose(1, 2)  # (B, V, T)
            each = F.cross_entropy(z, y, ignore_index=ignore, reduction="none")  # (B, T), 0 where it is ignored
            means["rest"].append((each.sum() / (y != ignore).sum()).item())
            means["padding counted"].append(each.mean().item())
            means["padding as token 0"].append(F.cross_entropy(z, y.clamp(min=0)).item())
        for key, values in means.items():
            if any(math.isclose(loss, value, rel_tol=3e-5) for value in values):
                right = means["rest"][0]
                evidence = f"with half of the targets at {ignore} (to be ignored) the loss is {loss:.4f}, not {right:.4f}"
                return None if key == "rest" else fail(key, evidence, ignore=ignore)
    return None


@check("tied head")
def tied_head(p: Patient) -> Verdict:
    """Embedding and head share one matrix if that is promised, wholly or not at all."""
    table = p.parameters.get(p.token_table)
    if table is None:
        return skip("no table of tokens was found")
    alike = {name: x for name, x in p.parameters.items() if x.shape == table.shape}
    for (a, x), (b, y) in itertools.combinations(alike.items(), 2):
        if x.data_ptr() == y.data_ptr():
            return fail("tied by data", f"{a} and {b} are two parameters in the same memory")
        if torch.equal(x, y) and x.std() > 0:
            return fail("tied by copy", f"{a} and {b} have equal numbers, but are two parameters")
    names: dict[int, list[str]] = {}
    for name, x in p.model.named_parameters(remove_duplicate=False):
        if x.shape == table.shape:
            names.setdefault(id(x), []).append(name)
    tied = next((group for group in names.values() if len(group) > 1), None)
    words = ("tie_word_embeddings", "tied_head", "tie_weights", "tied", "tie_embeddings", "weight_tying")
    promise = next((value for _, value in promised(p.model, words, bool)), None)
    if promise is True and not tied and len(alike) > 1:
        evidence = f"the configuration promises a tied head, but {places(alike)} are different parameters"
        return fail("tying forgotten", evidence)
    if promise is False and tied:
        evidence = f"{' and '.join(tied)} are one parameter, though the configuration says that they are not tied"
        return fail("tying unasked", evidence)
    so = "" if promise is None else ", as promised"
    return passed(f"{'one matrix for embedding and head' if tied else 'embedding and head are apart'}{so}")


@check("learns", needs="answers, gradients")
def learns(p: Patient) -> Verdict:
    """It can learn one small batch by heart, and leaves the batch as it was."""
    trainable, T = [x for x in p.parameters.values() if x.requires_grad], min(16, p.block)
    for holds, reason in (
        (not trainable, "nothing in it can be trained"),
        (p.mode == "prefixes", "it answers for the last position only"),
        (len(trainable) < 0.7 * len(p.parameters), "much of it is frozen"),
        (not p.hears_context, "it does not see the context that the answer depends on"),
        (not p.trainable, "no gradient reaches its weights"),
        (T < 2 or p.vocab < 2, "too small a task"),
    ):
        if holds:
            return skip(reason)
    try:
        if p.mode != "targets" and writes_while_training(p):
            return fail("writes into input", "in training mode, and there only, the caller's ids are others after the call")
        losses = overfit(p, p.ids(3, T + 1, seed=3), trainable)
    except ModelError as error:
        return fail("step fails", f"a training step fails: {error}")
    tail, steps = min(losses[-5:]), len(losses)
    evidence = f"one batch of 3 x {T} random tokens: loss {losses[0]:.2f} to {tail:.2f} in {steps} steps"
    if not math.isfinite(losses[-1]):
        return fail("loss not finite", evidence)
    if tail < 0.7 * losses[0] or tail < 0.5:
        return passed(evidence)
    return skip(evidence, TOO_SLOW) if steps <= 60 else fail("cannot learn", evidence)


@torch.no_grad()
def writes_while_training(p: Patient) -> bool:
    """Whether the ids that it was given are others after a few calls in training mode."""
    ids = p.ids(3, p.T)
    given = ids.clone()
    with p.in_mode(True), p.shaken():
        for number in range(3):  # it may not write every time
            seed(number)
            p.call(given, **p.extra)
    return not torch.equal(ids, given)


def overfit(p: Patient, ids: Tensor, trainable: list[Tensor], most: int = 200, seconds: float = 8.0) -> list[float]:
    """The losses of training on one batch, until it is known by heart. The weights are put back."""
    state = {name: t.detach().clone() for name, t in p.everything().items()}
    width = min((x.shape[-1] for x in trainable if x.dim() == 2), default=64)
    rate, began, losses = 1e-2 if width <= 64 else 3e-3, time.perf_counter(), []
    means = [(torch.zeros_like(x), torch.zeros_like(x)) for x in trainable]  # Adam by hand: torch.optim imports the compiler
    try:
        with p.in_mode(True), torch.enable_grad():
            for step in range(1, most + 1):
                logits = p.logits(ids[:, :-1], ids[:, 1:] if p.both else None)
                loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
                losses.append(loss.item())
                known = losses[-1] < 0.1 * losses[0]
                if known or not math.isfinite(losses[-1]) or time.perf_counter() - began > seconds:
                    break
                with models_own():
                    grads = torch.autograd.grad(loss, trainable, allow_unused=True)
                with torch.no_grad():
                    for x, grad, (first, second) in zip(trainable, grads, means, strict=True):
                        if grad is not None:
                            first.lerp_(grad, 0.1)
                            second.lerp_(grad.square(), 0.05)
                            unbiased = (1 - 0.95**step) ** 0.5 / (1 - 0.9**step)
                            x.sub_(rate * unbiased * first / (second.sqrt() + 1e-8))
    finally:
        with torch.no_grad():
            for name, tensor in p.everything().items():
                tensor.data.copy_(state[name])
                tensor.grad = None
    return losses


# ----- writing

COUNTS = ("max_new_tokens", "n_new", "num_tokens", "steps", "n_tokens", "max_tokens", "max_steps", "n", "length")


class Writer:
    """The model's generate(), asked for n more tokens as greedily as it can. TypeError if there is none that could be asked."""

    def __init__(self, p: Patient, option: dict | None = None):
        self.p, self.temperature = p, (option or {}).get("temperature", 0)
        self.function = getattr(p.model, "generate", None) or getattr(p.model, "sample", None)
        if not callable(self.function):
            raise TypeError
        self.names = names = inspect.signature(self.function).parameters
        takes_all = any(x.kind is x.VAR_KEYWORD for x in names.values())
        self.of_hf = hasattr(p.model, "generation_config")
        asks = dict(do_sample=False, greedy=True, top_k=1, temperature=1e-6)
        more = next(({name: value} for name, value in asks.items() if name in names), {})
        more = {"do_sample": False} if takes_all and self.of_hf else more
        if option:  # draw, with this one
            more = {name: asked for name, asked in dict(do_sample=True, greedy=False).items() if name in names} | option
        self.greedy, self.ends = bool(more), []
        if self.of_hf:
            ends = [getattr(p.model.generation_config, name, None) for name in ("eos_token_id", "forced_eos_token_id")]
            self.ends = [end for end in ends if isinstance(end, int)]
            more |= dict(pad_token_id=0, eos_token_id=None, use_cache=False)
        self.more, self.whole = more, False  # whole: its length counts the prompt too
        self.count = next((name for name in COUNTS if name in names), "max_new_tokens" if takes_all else "")
        if "max_length" in names and not self.count:
            self.count, self.whole = "max_length", True
        second = list(names)[1] if len(names) > 1 else ""
        if not self.count and not any(word in second for word in ("tok", "num", "len", "max", "new", "step")):
            raise TypeError

    def __call__(self, ids: Tensor, n: int, number: int = 0) -> Tensor | None:
        """The ids in its answer. `number` seeds the random numbers. `left_training` tells the mode that it left."""
        n = n + ids.shape[1] if self.whole else n
        seed(number)
        positional, named = ((), {self.count: n}) if self.count else ((n,), {})
        try:
            with self.p.calling("generate", ids.shape[1], named):
                text = self.function(ids, *positional, **named, **self.more)
            self.left_training = self.p.model.training
        finally:
            with models_own():
                self.p.model.eval()
        found = next((t for t in tensors_in(getattr(text, "sequences", text)) if not t.is_floating_point()), None)
        if self.whole and found is not None and found.dim() == 2 and found.shape[1] == n + ids.shape[1]:
            self.whole = False  # max_length counts the new tokens alone here
            return self(ids, n - ids.shape[1], number)
        return found


@check("generate", needs="side effects, repeats, rows, answers")
@torch.no_grad()
def generate(p: Patient) -> Verdict:
    """generate() continues its prompt, row by row, with what the logits say."""
    try:
        write = Writer(p)
    except TypeError:
        return skip("it has no generate(ids, max_new_tokens)")
    T = max(1, min(8, p.block - 7)) if p.block > 8 else 1
    n = max(6, min(12, p.block - T - 1))  # tokens: enough to meet one that another context would change
    heads = [name for name, x in p.parameters.items() if x.dim() == 2 and p.out_vocab in x.shape and name != p.token_table]
    sharp = [] if write.greedy else heads[-1:]  # logits 100 times as large: a sample is the likeliest, nearly always
    with p.shaken(), p.weights(lambda name, value: 100 * value if name in sharp else None):
        for number in range(4, 20):  # a prompt whose rows go on differently, and other than from its first position
            prompt = p.ids(2, T, seed=number).clamp(min=1)  # 0 is padding to Hugging Face's generate
            likeliest = p.logits(prompt).argmax(dim=-1)  # (B, T)
            if likeliest[0, -1] != likeliest[1, -1] and (T == 1 or not torch.equal(likeliest[:, 0], likeliest[:, -1])):
                break
        kept = prompt.clone()
        try:
            text = write(kept, n)
        except ModelError as error:
            if isinstance(error.error, TypeError | AttributeError | NotImplementedError):
                return skip(f"generate could not be called: {error}", NOT_ASKED)
            return fail("generate fails", f"generate fails: {error}")
        modes = write.left_training
        if text is None or text.dim() != 2:
            return skip("generate returns no ids (B, T)", NOT_ASKED)
        if problem := wrong_text(prompt, kept, text, n):
            return problem
        new, texts = text[:, -n:], []
        try:
            for number in (0, 1):  # with the same random numbers, and with others
                texts.append(write(prompt.clone(), n, number))
        except ModelError as error:
            return fail("generate state", f"called once more with the same prompt, it fails: {error}")
        again, other = (found is not None and torch.equal(new, found[:, -n:]) for found in texts)
        if write.greedy and not again:
            return fail("generate state", "two greedy calls, with the same random numbers too, give different texts")
        if write.greedy and not other:
            return fail("generate draws", "two greedy calls give different texts")
        if not sharp and not other:
            return passed(f"{n} tokens after a prompt of {T}, two rows (it has no greedy mode: the tokens are not compared)")
        if wrong := unlikely_token(p, prompt, new, write):
            return fail("generate unlike", wrong, how=explain_text(p, prompt, new, write(p.another(prompt), n)))
        if modes:
            return fail("generate mode", "generate leaves the model in training mode")
        if problem := wrong_crop(p, write) or wrong_option(p, write, prompt, n):
            return problem
        return passed(f"{n} greedy tokens, two rows: equal to taking the likeliest by hand")


def wrong_option(p: Patient, write: Writer, prompt: Tensor, n: int) -> Verdict | None:
    """Whether it draws unlikely tokens though one of its options leaves the likeliest one only, or nearly so."""
    for option, value in dict(temperature=1e-3, top_k=1, top_p=1e-6).items():
        if option not in write.names or option in write.more or write.of_hf:
            continue
        strict = Writer(p, {option: value})
        try:
            text = strict(prompt.clone(), n)
        except ModelError:  # it may not take such a value
            continue
        if text is None or text.shape[1] not in (n, prompt.shape[1] + n):
            continue
        if wrong := unlikely_token(p, prompt, text[:, -n:], strict):
            wrong = wrong.replace("its greedy text", f"its text with {option}={value}")
            return fail("generate hot" if option == "temperature" else "generate option", wrong, option=option)
    return None


def wrong_text(prompt: Tensor, kept: Tensor, text: Tensor, n: int) -> Verdict | None:
    """What is wrong with the form of a text, whatever its new tokens are. `kept` is the prompt that generate was given."""
    T = prompt.shape[1]
    if not torch.equal(kept, prompt):
        return fail("generate writes", "the caller's prompt is another after generate")
    if len(text) != 2:
        return fail("generate drops rows", f"2 rows in, {len(text)} out")
    counts_prompt = text.shape[1] == n and torch.equal(text[:, :T], prompt)
    if text.shape[1] not in (T + n, n) or counts_prompt:
        evidence = f"{n} new tokens were asked for; it returned {text.shape[1]} for a prompt of {T}"
        return fail("generate miscounts", evidence)
    if text.shape[1] == T + n and not torch.equal(text[:, :T], prompt):
        return fail("generate prompt", "what it returns does not begin with the prompt")
    return None


def unlikely_token(p: Patient, prompt: Tensor, new: Tensor, write: Writer) -> str:
    """Where greedy text differs from the argmax of the logits by more than a near-tie; "" if nowhere."""
    for row in range(len(prompt)):
        text = prompt[row : row + 1]
        for i in range(new.shape[1]):
            if text.shape[1] > p.block:
                return ""
            logits, mine = p.logits(text)[0, -1], int(new[row, i])
            if mine < p.vocab:  # a vocabulary may be padded, and what is padding cut off here
                logits = logits[: p.vocab]
            best = int(logits.argmax())
            if mine in write.ends:
                break
            tie = 100 * tolerance(p, logits) if write.greedy else 12  # a sample is by 12 less likely once in 160,000
            tie = 20 * write.temperature or tie
            if mine >= len(logits) or logits[best] - logits[mine] > tie:
                return f"row {row}: token {i} of its greedy text is {mine}, the likeliest by its logits is {best}"
            text = torch.cat([text, new[row : row + 1, i : i + 1]], dim=1)
    return ""


def explain_text(p: Patient, prompt: Tensor, new: Tensor, of_other_prompt: Tensor | None) -> str:
    """Which wrong context would give the text that generate wrote?"""
    logits, first, n = p.logits(prompt), new[:, 0], new.shape[1]
    likeliest = logits.argmax(dim=-1)  # (B, T)
    before = torch.cat([prompt[:, -1:], new[:, :-1]], dim=1)  # (B, n): the token before each new one
    alone = p.logits(before.reshape(-1, 1)).argmax(dim=-1).view_as(new)  # (B·n, 1) -> (B, n)
    if torch.equal(new, likeliest[:, :1].expand(-1, n)):
        return "takes the logits of the first position, not of the last"
    if torch.equal(new, alone):
        return "feeds only the last token, without a cache: the context is lost"
    if of_other_prompt is not None and torch.equal(new, of_other_prompt[:, -n:]):
        return "ignores the prompt: another one gives the same text"
    if torch.equal(first, likeliest[:, -1]):
        return "sees another context than its text from the second new token on (a cache, or what it appends)"
    if likeliest[0, -1] != likeliest[1, -1] and first[0] == first[1] and first[0] in likeliest[:, -1]:
        return "gives every row the token of one row: its argmax runs over the batch too"
    if torch.equal(first, logits[:, -1].argmin(dim=-1)):
        return "takes the least likely token: a sign is wrong"
    if prompt.shape[1] > 1 and torch.equal(first, likeliest[:, -2]):
        return "takes the logits of the position before the last"
    return "does not take the likeliest token of the last position"


def wrong_crop(p: Patient, write: Writer) -> Verdict | None:
    """Whether a prompt of block_size tokens is too long for it, or what it reads after that is not the end of the text."""
    if write.of_hf or p.block > 1024 or not p.fits_block:  # asked first: nobody runs 131,073 tokens to find out the rest
        return None
    refuses = p.limit is None and p.block > 1 and not p.accepts(p.block + 1)
    if not (p.limit or refuses):
        return None
    prompt, read = p.ids(1, p.block, seed=4), []
    table = p.model.get_submodule(p.token_table.rpartition(".")[0])
    hook = table.register_forward_pre_hook(lambda module, args: read.extend(x.detach().clone() for x in args[:1]))
    try:
        text = write(prompt.clone(), 3)
    except ModelError as error:
        if refuses and isinstance(error.error, AssertionError | ValueError):
            return None  # on purpose
        return fail("generate no crop", f"from a prompt of block_size = {p.block} tokens it fails: {error}")
    finally:
        hook.remove()
    text = torch.cat([prompt, text[:, -3:]], dim=1)  # (1, block + 3)
    for new, window in enumerate(read if len(read) == 3 else []):
        T, end = window.shape[-1], p.block + new
        if new and T > 1 and torch.equal(window, text[:, :T]) and not torch.equal(window, text[:, end - T : end]):
            return fail("generate crops start", f"after {end} tokens it reads tokens 0 to {T - 1}, not the last {T}")
    return None


# ----- the cache


def resets(p: Patient) -> list[Callable]:
    """Methods that empty a cache which the model keeps inside."""
    if "use_cache" not in p.names:
        return []
    return [getattr(p.model, name) for name in dir(type(p.model)) if "reset" in name and "cache" in name]


def cached_reader(p: Patient) -> Callable[[Tensor], Tensor]:
    """A function that reads the next tokens, going on from a cache."""
    name = next((n for n in p.names if n in CACHES), None)
    state: dict = {}
    if name is None and "start_pos" in p.names:  # Llama's: one inside, which begins again where that is 0

        def go_on(ids: Tensor) -> Tensor:
            start = state.get("length", 0)
            state["length"] = start + ids.shape[1]
            return p.read(p.call(ids, **p.extra | {"start_pos": start}), *ids.shape)

        return go_on
    if name is None:  # some keep it inside
        with models_own():
            resets(p)[0]()
        return lambda ids: p.read(p.call(ids, **p.extra | {"use_cache": True}), *ids.shape)

    def read(ids: Tensor) -> Tensor:
        more = {"use_cache": True} if "use_cache" in p.names else {}
        if "cache" not in state and p.new_cache is not None:
            with models_own():  # or its owner's
                state["cache"] = p.new_cache(len(ids))
        if "cache" in state:
            more[name] = state["cache"]
        answer = p.call(ids, **p.extra | more)
        if p.new_cache is None:
            state["cache"] = cache_in(answer, name)
            if state["cache"] is None:
                raise ModelError("its answer holds none")
        return p.read(answer, *ids.shape)

    return read


def cache_in(answer, name: str):
    """The cache in an answer: by name, or whatever in it is neither logits nor loss."""
    for key in (name, *CACHES, "present", "presents", "past_kv"):
        found = answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)
        if found is not None:
            return found
    if isinstance(answer, tuple | list):
        return next((part for part in answer if part is not None and not isinstance(part, Tensor)), None)
    return None


@check("cache", needs="side effects, repeats, rows, causality, memory, lengths")
@torch.no_grad()
def cache(p: Patient) -> Verdict:
    """Read token by token from a cache, it answers as it does to the whole."""
    T, first = p.T, p.T // 2
    if not any(n in (*CACHES, "start_pos") for n in p.names) and not resets(p):
        return skip("its forward takes no cache")
    if T < 4:
        return skip("the window is too short")
    ids = p.ids(2, T)
    with p.shaken():
        whole, read = p.logits(ids), cached_reader(p)
        try:
            parts = [read(ids[:, :first])[:, -1:]]
        except ModelError as error:
            hint = "" if p.new_cache else ": tell diagnose() how to make an empty one, new_cache=lambda rows: …"
            return skip(f"its cache could not be used: {error}{hint}", NOT_ASKED)
        tape = Tape(p, ids[:, first : first + 1], start=first)
        for t in range(first, T):
            try:
                with tape if t == first else contextlib.nullcontext():
                    parts.append(read(ids[:, t : t + 1])[:, -1:])
            except ModelError as error:
                return fail("cache shapes", f"with {t} tokens in the cache, reading one more fails: {error}")
        stepped = torch.cat(parts, dim=1)  # (B, T - first + 1, V)
        far, allowed = moved(whole[:, first - 1 :], stepped).amax(dim=0), 20 * tolerance(p, whole)  # (T - first + 1,)
        if far.max() <= allowed:
            fine = f"{T - first} tokens read one by one from the cache: logits equal to {far.max():.1g}"
            return several_at_once(p, ids, whole, allowed) or passed(fine)
        at = int((far > allowed).nonzero()[0]) + first - 1
        evidence = f"read one by one from the cache, the logits at position {at} differ by {far.max():.3g}"
        return fail(why_cache(p, tape, ids, stepped[:, 1]), evidence)


def several_at_once(p: Patient, ids: Tensor, whole: Tensor, allowed: float) -> Verdict | None:
    """What goes wrong when several tokens at once follow those in the cache; to refuse them is no fault."""
    first = ids.shape[1] // 2
    try:
        read = cached_reader(p)
        read(ids[:, :first])
        rest = read(ids[:, first:])  # (B, T - first, V)
    except ModelError:
        return None
    if rest.shape[1] != ids.shape[1] - first:  # it answers for the last one only
        return None
    far = moved(whole[:, first:], rest).amax(dim=0)  # (T - first,)
    if far.max() <= allowed:
        return None
    at = int((far > allowed).nonzero()[0]) + first
    evidence = (
        f"{len(far)} tokens read at once after {first} in the cache: the logits at position {at} differ by {far.max():.3g}"
    )
    return warn("cache several", f"{evidence}; one by one they are right")


def why_cache(p: Patient, tape: Tape, ids: Tensor, step: Tensor) -> Why:
    """What the first step from the cache did; its logits are `step`, (B, V)."""
    first = tape.keys - 1
    starts = {name: rows.flatten()[0].item() for name, _, rows in p.positions}
    for name, _, rows in tape.embeddings:
        asked = rows.flatten().tolist()
        if name in starts and set(asked) != {starts[name] + first}:
            table = name or "the table of positions"
            return why("cache positions", first=first, name=table, asked=places(asked, 2), right=starts[name] + first)
    alone = p.logits(ids[:, first : first + 1])[:, -1]
    if moved(alone, step).max() <= 20 * tolerance(p, alone):
        return why("cache unused")
    if not tape.attentions:
        return why("cache cut", of=first + 1)
    W = flat(tape.attentions[0].weights)[:, -1].amax(dim=0)  # (N, 1, keys) -> (keys,)
    seen = (W > 1e-9).nonzero().flatten().tolist()
    if seen == [0]:
        return why("cache mask")
    return why("cache partly seen" if len(seen) <= first else "cache differs", seen=places(seen), of=first + 1)


# ----- the count


@check("count")
def count(p: Patient) -> Verdict:
    """The number of parameters is that of the golden model."""
    have = sum(x.numel() for x in p.parameters.values())
    if p.golden is None:
        return skip(f"{have:,} parameters; name a golden model to compare with: {', '.join(GOLDEN)}")
    want = GOLDEN.get(p.golden) or int(p.golden)
    if have == want:
        return passed(f"{have:,} parameters, as {p.golden} has")
    evidence = f"{have:,} parameters; {p.golden} has {want:,}: {have - want:+,}"
    return fail("count differs", evidence, how=explain_difference(p, have - want))


def explain_difference(p: Patient, difference: int) -> str:
    """A difference in counts as a sum of parts that GPTs differ in, the fewest first."""
    C = p.in_vocab and next((x.shape[1] for x in p.parameters.values() if x.dim() == 2 and x.shape[0] == p.in_vocab), 0)
    if not C:
        return "no embedding was found to reckon with"
    _, layers = block_stack(p)
    L, V = max(len(layers), 1), p.out_vocab
    block = sum(x.numel() for x in layers[0].parameters()) if layers else 0
    parts = {
        "the biases of query, key and value": 3 * C * L,
        "a last LayerNorm": 2 * C,
        "the head's bias": V,
        "a head of its own (or tied)": V * C,
        "one position": C,
        "biases of attention output and MLP": L * (C + 4 * C + C),
        "biases of the LayerNorms": C * 2 * L,
        "LayerNorms in all blocks": 4 * C * L,
        "one block": block,
        "all blocks but one": block * (L - 1),
    }
    for size in (1, 2, 3):
        for chosen in itertools.combinations(parts.items(), size):
            for signs in itertools.product((1, -1), repeat=size):
                if sum(sign * n for sign, (_, n) in zip(signs, chosen, strict=True)) == difference:
                    words = {1: "too many", -1: "missing"}
                    return "; ".join(f"{words[s]}: {name} ({n:,})" for s, (name, n) in zip(signs, chosen, strict=True))
    whole, rest = divmod(abs(difference), C)
    return f"{whole} x {C} (the width)" if rest == 0 else "no sum of the usual parts: look for a layer of another size"


# ---------------------------------------------------------------------------------------------------------------------
# 7. diagnose, and the command line
# ---------------------------------------------------------------------------------------------------------------------


class TookTooLong(BaseException):
    """A check ran into the time limit. A BaseException, so that a model's own `except Exception` does not swallow it."""


class HungBefore(BaseException):
    """A call like this one did not return in an earlier check: it is not tried again."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after `seconds`, and again each second, should the block swallow it.

    By SIGALRM in the main thread, which also wakes sleep() and locks; by an asynchronous exception in other threads and on
    Windows, which arrives only between two lines of Python. Neither ends a single call of native code before it returns, nor
    a loop that catches BaseException and goes on.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        with thread_time_limit(seconds):
            yield
        return

    def ring(signum, frame):
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, should the first be swallowed
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # once more: it may ring just before the line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def thread_time_limit(seconds: float) -> Iterator[None]:
    """`time_limit` for any thread, by an asynchronous exception (CPython)."""
    thread, over, lock = ctypes.c_ulong(threading.get_ident()), threading.Event(), threading.Lock()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with lock:
                if not over.is_set():
                    raise_in(thread, ctypes.py_object(TookTooLong))
            wait = 1.0

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            over.set()
    finally:
        with lock:  # once more: it may have been raised just before the line above
            over.set()
        raise_in(thread, None)  # what was raised and has not arrived yet


REPORT_BUG = "report it, with the model if you can; the other findings stand"


def attempt(p: Patient, work: Callable[[Patient], Verdict], seconds: float, left: float = math.inf) -> Verdict:
    """One check, whatever the model does in it, in at most `seconds`, or in the `left` ones of the whole examination. A crash
    of the check itself is an error, raised in strict mode."""
    if left <= 0:
        return skip("the time for the whole examination was used up", TOO_SLOW)
    p.patience = min(seconds, left)
    p.asked_at = time.perf_counter()
    try:
        with time_limit(p.patience):
            with models_own():
                p.model.eval()
            return work(p)
    except (NotExaminable, KeyboardInterrupt):
        raise
    except TookTooLong:
        p.put_back()  # the alarm may have rung while weights were put back
        waited = time.perf_counter() - p.asked_at
        if waited < p.patience / 2 or p.patience < seconds:  # many calls, none of them stuck; or the rest of the time was short
            return skip(f"not finished after {p.patience:.3g} s", TOO_SLOW)
        return fail("hangs", f"not finished after {seconds:g} s: {p.hung[-1] if p.hung else 'a call'} does not return")
    except HungBefore as call:
        p.put_back()
        return skip(f"{call} did not return in an earlier check", DEPENDS)
    except SystemExit as stop:
        return fail("exits", f"the model ended the program: sys.exit({stop.code!r})")
    except ModelError as error:
        return skip(str(error), NOT_ASKED)
    except Exception as error:
        if p.strict:
            raise
        *_, last = traceback.extract_tb(error.__traceback__)
        place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
        return "error", f"this check crashed: {said(error)}", "a bug of the doctor, not of the model", REPORT_BUG, "", place


def waits_for(ill: list[Finding]) -> str:
    """Why a check is not asked: others, that it needs, failed or crashed."""
    failed, crashed = ([f.check for f in ill if f.status == status] for status in ("fail", "error"))
    parts = [f"{listed(names)} {what}" for names, what in ((failed, "failed"), (crashed, "crashed")) if names]
    return f"{listed(parts)}. Fix that first" if failed else f"{listed(parts)}"


def refuse_wrong_arguments(model, vocab_size, block_size, golden) -> None:
    """ValueError with what cannot be."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(model).__name__} is not a torch.nn.Module: give the model itself, not its class or its name")
    for name, value in (("vocab_size", vocab_size), ("block_size", block_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if golden is not None and golden not in GOLDEN and not str(golden).isdigit():
        raise ValueError(f"golden={golden!r} is neither a number of parameters nor one of {', '.join(GOLDEN)}")
    if any(nn.parameter.is_lazy(x) for x in model.parameters()):
        raise ValueError("the model has lazy parameters without a size yet: call it once before diagnose()")


def diagnose(
    model: nn.Module,
    *,
    vocab_size: int | None = None,
    block_size: int | None = None,
    golden: str | int | None = None,
    new_cache: Callable | None = None,
    seconds: float = 60.0,
    total_seconds: float | None = None,
    tell: Callable[[str, Finding | None], None] | None = None,
    strict: bool | None = None,
) -> Report:
    """Examine `model` and return the report. The model is left as it was.

    `vocab_size` and `block_size` are found from its configuration, its tables, or by trying; give them where that goes wrong.
    `golden` is a name of GOLDEN or a number of parameters. `new_cache(rows)` makes an empty cache, for a model whose forward
    wants one. `tell(name, finding)` is called when a check begins (finding None) and when it ends. `strict` raises what is
    wrong in the doctor itself: a check that crashes, an operation that could not be recorded; without it they are part of the
    report. None: as PICOGPT_DOCTOR_STRICT=1 in the environment says, which is for tests.

    A check is stopped after `seconds`, and all together after `total_seconds` (10 times as many by default): what is left is
    reported as too slow. A call that did not return is not tried again. What cannot be stopped inside this process: a single
    call of native code, until it returns, and a loop that catches BaseException and goes on. Outside the main thread, and on
    Windows, sleep() and locks cannot be interrupted either. The command line runs the model in a process of its own, which it
    kills: there every model is stopped.

    ValueError if `model` is not an nn.Module, or an argument cannot be. Errors of the model itself are findings.
    """
    refuse_wrong_arguments(model, vocab_size, block_size, golden)
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped: compiled code cannot be watched
    began, findings, examined = time.perf_counter(), [], True
    strict = os.environ.get("PICOGPT_DOCTOR_STRICT") == "1" if strict is None else strict
    p = Patient(model, vocab_size, block_size, new_cache, golden, strict)
    tell = tell or (lambda name, finding: None)
    end = began + (10 * seconds if total_seconds is None else total_seconds)
    with p.unharmed():
        for name, (question, needs) in CHECKS.items():
            tell(name, None)
            ill = [other for other in findings if other.status in ("fail", "error") and other.check in needs]
            try:
                verdict = skip(waits_for(ill), DEPENDS) if ill else attempt(p, question, seconds, end - time.perf_counter())
                examined = name != "called" or verdict[0] == "pass"
            except NotExaminable as stop:
                verdict, examined = ("fail", str(stop)), False
            findings.append(Finding(name, *verdict))
            tell(name, findings[-1])
            if not examined:
                break
    about = f"{type(model).__name__}, {sum(x.numel() for x in p.parameters.values()):,} parameters"
    about += f", V = {p.vocab}, block size {p.block} ({p.block_from})" if p.block_from else ""
    return Report(about, findings, time.perf_counter() - began, examined, p.not_recorded)


def load(spec: str, arguments: dict):
    """The model that `file.py:name` or `module:name` makes. ValueError with what is wrong."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{spec!r} is not of the form file.py:name or module:name")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        sys.path.insert(0, str(path.parent))
        found = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(place)
    if not hasattr(module, name):
        raise ValueError(f"{place} has no {name!r}: it has {', '.join(n for n in vars(module) if not n.startswith('_'))}")
    made = getattr(module, name)
    model = made if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} gave a {type(model).__name__}, which is not a torch.nn.Module")
    return model


def _child(channel, spec: str, arguments: dict, options: dict) -> None:
    """In a process of its own, so that whatever the model does, the caller lives to report it."""

    def tell(name: str, finding: Finding | None) -> None:
        channel.send(("begin", name) if finding is None else ("end", finding))

    os.dup2(2, 1)  # what the model prints must not stand in the report
    channel.send(("begin", MADE))
    try:
        with time_limit(options["seconds"]):
            model = load(spec, arguments)
        channel.send(("begin", "called"))
        channel.send(("done", diagnose(model, tell=tell, **options)))
    except TookTooLong:
        channel.send(("refused", f"not finished after {options['seconds']:g} s"))
    except (ValueError, SystemExit) as error:
        channel.send(("refused", said(error)))
    except BaseException as error:
        channel.send(("raised", said(error)))


MADE = "made"  # in place of a check's name, while the model is made
GRACE, STARTUP = 5.0, 60.0  # seconds: for a check to report that it was stopped, and for Python and torch to start


def examine_apart(spec: str, arguments: dict, options: dict, seconds: float, total_seconds: float) -> Report:
    """`diagnose` in another process. What hangs or crashes there is a finding."""
    context, patience = multiprocessing.get_context("spawn"), 1.5 * seconds + GRACE
    here, there = context.Pipe()
    options = options | {"seconds": seconds, "total_seconds": total_seconds}
    child = context.Process(target=_child, args=(there, spec, arguments, options), daemon=True)
    child.start()
    there.close()
    began, doing, findings, began_check = time.perf_counter(), MADE, [], False
    broken = "fail", f"no answer for {patience:.3g} s, and it could not be interrupted", "the model hangs", BY_HAND
    try:
        while here.poll(patience if began_check else patience + STARTUP):
            began_check, (kind, what) = True, here.recv()
            if kind == "begin":
                doing = what
            elif kind == "end":
                findings.append(what)
            elif kind == "done":
                return what
            elif kind == "refused" or doing == MADE:
                broken = "fail", what, "an error while the model was made" if doing == MADE else "", BY_HAND
                break
            else:
                broken = "error", f"the examination crashed: {what}", "a bug of the doctor, not of the model", REPORT_BUG
                break
    except EOFError:
        child.join()
        broken = "fail", f"the process died (exit code {child.exitcode})", "a crash in native code", BY_HAND
    finally:
        child.kill()
    examined = any(finding.check == "called" and finding.status == "pass" for finding in findings)
    findings.append(Finding(doing, *broken))
    if examined:
        reached = {finding.check for finding in findings}
        findings += [
            Finding(name, *skip(f"the examination ended at {doing}", DEPENDS)) for name in CHECKS if name not in reached
        ]
    return Report(spec, findings, time.perf_counter() - began, examined)


EXIT_STATUS = (
    "exit status: 0 healthy; 1 something failed, whatever else happened; 2 the model could not be examined; 3 nothing failed, "
    "but a check crashed, or an essential one got no answer: the report cannot be trusted. "
    "It ends after TOTAL_SECONDS + 3 x SECONDS + 10 s after torch was imported, at the latest, whatever the model does."
)


def main(words: list[str] | None = None) -> int:
    """Return the exit status of the report, EXIT_STATUS."""
    parser = argparse.ArgumentParser(
        prog="picogpt_doctor.py",
        description="Examine a GPT from outside, and say what is wrong with it.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("model", help="file.py:name or module:name of a function, a class or a model")
    parser.add_argument("arguments", nargs="*", help="what to call it with: n_layer=3 bias=False")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--golden", help=f"a number of parameters, or one of {', '.join(GOLDEN)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that one check may take (60)")
    parser.add_argument("--total-seconds", type=float, help="the most that all checks may take (10 times --seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    arguments = {}
    for word in given.arguments:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            parser.error(f"{word!r} is not of the form name=value")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value  # a string without quotes
    options = dict(vocab_size=given.vocab_size, block_size=given.block_size, golden=given.golden)
    total = 10 * given.seconds if given.total_seconds is None else given.total_seconds
    report = examine_apart(given.model, arguments, options, given.seconds, total)
    print(report.to_json() if given.json else report)
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
