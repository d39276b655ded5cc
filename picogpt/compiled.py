"""Writing faster on a CPU: the step that reads the next token, compiled ahead of time for one model.

PyTorch's eager mode spends most of such a step on going from one small operation to the next, not on computing. The
step is the same each time, so it can be exported once (`torch.export`) and compiled to C++ (AOTInductor): no Python, no
checks whether the compiled code still fits, the weights packed for this processor.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, cast
from unittest import mock

import torch
from torch import Tensor, nn

from picogpt_core import GPT, CausalSelfAttention, KVCache, join_heads, require

# freezing: the weights become constants. Of all kernels for matrix products those that inductor writes itself: at one token a
# step they are faster than oneDNN's, and with one choice there is nothing to time and print. One thread: at this size a
# second one costs more than it brings.
SETTINGS = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP", "cpp.threads": 1}


class Past(NamedTuple):
    """What a step finds: the number of positions before it, and each layer's keys and values."""

    positions: Tensor  # past, ..., past + T - 1, those of the tokens of this step: (T,)
    keys: tuple[Tensor, ...]  # (B, kv heads, block_size, hs) each
    values: tuple[Tensor, ...]
    n: int  # how many positions are filled at the end of the step, past + T


class StepAttention(nn.Module):
    """CausalSelfAttention of a step with a cache, in a form that can be exported."""

    def __init__(self, attn: CausalSelfAttention):
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor, past: Past) -> Tensor:  # (B, T, C) -> (B, T, C)
        q, k, v = self.attn.queries_keys_values(x, past.positions[:1])  # (B, nh, T, hs), 2 x (B, kv heads, T, hs)
        keys, values = past.keys[self.attn.layer], past.values[self.attn.layer]
        keys.index_copy_(2, past.positions, k)
        values.index_copy_(2, past.positions, v)
        keys = keys[:, :, None, None, : past.n]  # (B, kv heads, 1, 1, n, hs)
        values = values[:, :, None, None, : past.n]
        q = q.unflatten(1, (k.shape[1], -1))[:, :, :, :, None]  # (B, nh, T, hs) -> (B, kv heads, group, T, 1, hs)
        # sums of products instead of matrix products: the compiler fuses them with what stands around them
        scores = (q * keys).sum(dim=5) / math.sqrt(q.shape[5])  # (B, kv heads, group, T, n)
        later = torch.arange(past.n, device=x.device) > past.positions[:, None]  # (T, n)
        scores = scores.masked_fill(later, float("-inf"))
        # softmax, but divided at the end: there are fewer sums of values than weights
        weights = (scores - scores.amax(dim=4, keepdim=True)).exp()  # (B, kv heads, group, T, n)
        y = (weights[..., None] * values).sum(dim=4) / weights.sum(dim=4, keepdim=True)  # (B, kv heads, group, T, hs)
        return self.attn.c_proj(join_heads(y.flatten(1, 2)))  # (B, nh, T, hs) -> (B, T, C)


class Step(nn.Module):
    """A GPT that reads the next T tokens, as a function of tensors alone."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        for block in self.model.h:
            block.attn = StepAttention(cast(CausalSelfAttention, block.attn))

    def forward(self, ids: Tensor, past: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (B, T, V) of ids (B, T) after `past` (1,) positions. Their keys and values join the others."""
        T, config = ids.shape[1], self.model.config
        n = cast(int, past.item()) + T  # a number that the compiler does not know: it must be told the limits
        torch._check(n >= T)
        torch._check(n <= config.block_size)
        positions = past + torch.arange(T, device=ids.device)  # (T,)
        x = self.model.wte(ids)  # (B, T, C)
        if config.positions == "learned":
            x = x + self.model.wpe(positions)  # (B, T, C) + (T, C)
        for block in self.model.h:
            x = block(x, Past(positions, keys, values, n))
        return self.model.lm_head(self.model.ln_f(x))  # (B, T, V)


class CompiledGPT(GPT):
    """A GPT to write with: it takes the place of the model in `generate` and `generate_speculative`.

    A step that reads one token (or any other number in `lengths`) for each of `batch_size` rows runs compiled, on one thread.
    Everything else runs as before: a prompt, another number of rows, a window that slides. The text is the same, and only its
    speed tells which way it went. The weights are those of the moment of compiling: train on, and compile again.
    """

    def __init__(self, model: GPT, batch_size: int = 1, lengths: tuple[int, ...] = (1,)):
        """Compile, which takes some seconds for each of `lengths`.

        ValueError for a model that is not in float32 on a CPU, or not causal; OSError if there is no C++ compiler.
        """
        nn.Module.__init__(self)  # and not GPT's, which draws weights
        weight, block_size = model.lm_head.weight, model.config.block_size
        require(
            weight.device.type == "cpu" and weight.dtype == torch.float32,
            f"the model is {str(weight.dtype).removeprefix('torch.')} on {weight.device}: only a float32 model on a CPU can be "
            f"compiled here. model.float().cpu() makes one",
        )
        require(model.config.causal, "causal=False: without a causal mask no step can use a cache, so there is none to compile")
        whole = all(isinstance(number, int) for number in (batch_size, *lengths))
        require(whole and batch_size >= 1, f"batch_size={batch_size!r} must be a whole number of at least 1")
        fits = whole and all(1 <= length <= block_size for length in lengths)
        require(fits, f"lengths={lengths!r} must be whole numbers from 1 to block_size={block_size}")
        self.model, self.config, self.batch_size = copy.deepcopy(model), model.config, batch_size
        self.wte, self.lm_head = self.model.wte, self.model.lm_head  # callers ask them for the device and the number format
        self.past = torch.arange(block_size).split(1)  # a tensor (1,) for each number of positions
        self.shape = KVCache(model.config, batch_size).k.shape
        self.cache: KVCache | None = None  # the one of the last step, and its layers
        self.layers: list[Tensor] = []
        self.steps = {length: compile_step(model, batch_size, length) for length in lengths}
        self.eval()

    def forward(self, ids: Tensor, last_only: bool = False, cache: KVCache | None = None) -> Tensor:
        """What GPT.forward returns, for the same arguments."""
        B, T = ids.shape
        known = cache is not None and T in self.steps and self.batch_size == B and cache.k.shape == self.shape
        if cache is None or not known or cache.length + T > self.config.block_size or self.training:
            return self.model(ids, last_only, cache)
        if cache is not self.cache:  # to take it apart for every token costs 3 % of the time
            self.cache, self.layers = cache, [*cache.k.unbind(), *cache.v.unbind()]
        ids = ids.long().contiguous()  # compiled code looks neither at the number format nor at strides
        logits = self.steps[T]([ids, self.past[cache.length], *self.layers])[0]  # (B, T, V)
        cache.length += T
        return logits[:, [-1]] if last_only and T > 1 else logits


def compile_step(model: GPT, batch_size: int, length: int) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return Step(model) as compiled code, a function of its arguments in one list. OSError if there is no C++ compiler."""
    cache = KVCache(model.config, batch_size)
    ids, past = torch.zeros(batch_size, length, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    # layer by layer: of one tensor with all layers, the compiled code would copy the whole at each step
    example = (ids, past, cache.k.unbind(), cache.v.unbind())
    with torch.no_grad(), quiet(), temporary_cache() as folder:
        exported = torch.export.export(Step(model), example)
        path = str(Path(folder) / "step.pt2")
        try:
            torch._inductor.aoti_compile_and_package(exported, package_path=path, inductor_configs=SETTINGS)
        except Exception as error:
            if "InvalidCxxCompiler" in type(error).__name__ + str(error):
                advice = "install one (apt install g++, or xcode-select --install), or write without compiling, the same text"
                raise OSError(f"PyTorch finds no C++ compiler on this machine: {advice}") from None
            raise
        # .loader.run: calling the model itself would parse a description of its arguments each time
        return torch._inductor.aoti_load_package(path, run_single_threaded=True).loader.run


@contextlib.contextmanager
def temporary_cache() -> Iterator[str]:
    """A folder for all that inductor writes, which would otherwise stay, tens of megabytes for each model."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
        yield folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the compiler's log and its warnings about itself to itself."""
    log = logging.getLogger("torch._inductor")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
