"""Writing faster on a CPU: the step that reads one token, compiled ahead of time for one model.

PyTorch's eager mode spends two thirds of such a step on going from one small operation to the next, not on computing. The
step is the same each time, so it can be exported once (`torch.export`) and compiled to C++ (AOTInductor): no Python, no
checks whether the compiled code still fits, the weights packed for this processor.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from picogpt_core import GPT, CausalSelfAttention, KVCache, evaluation_mode, join_heads, require


class OneTokenAttention(nn.Module):
    """CausalSelfAttention for one new position, in a form that can be exported: the position is a tensor, not an int."""

    def __init__(self, attn: CausalSelfAttention):
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor, cache: tuple[Tensor, tuple, tuple]) -> Tensor:  # (B, 1, C) -> (B, 1, C)
        """`cache`: position (1,), and each layer's keys and values, (B, kv heads, block_size, hs) each."""
        position, keys, values = cache
        q, k, v = self.attn.queries_keys_values(x, position)  # (B, nh, 1, hs), 2 x (B, kv heads, 1, hs)
        keys, values = keys[self.attn.layer], values[self.attn.layer]
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        group = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)  # 2 x (B, nh, ...)
        # sums of products instead of matrix products: the compiler fuses them with what stands around them
        scores = (q / math.sqrt(q.shape[3]) * keys).sum(dim=3)  # (B, nh, block_size)
        later = torch.arange(keys.shape[2], device=x.device) > position  # (block_size,)
        weights = scores.masked_fill(later, float("-inf")).softmax(dim=2)  # (B, nh, block_size)
        y = (weights[:, :, :, None] * values).sum(dim=2, keepdim=True)  # (B, nh, 1, hs)
        return self.attn.c_proj(join_heads(y))


class OneToken(nn.Module):
    """A GPT that reads one token, as a function of tensors alone."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        for block in self.model.h:
            block.attn = OneTokenAttention(cast(CausalSelfAttention, block.attn))

    def forward(self, ids: Tensor, position: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (B, 1, V) after ids (B, 1) at `position` (1,). Their keys and values join those of each layer."""
        x = self.model.wte(ids)  # (B, 1, C)
        if self.model.config.positions == "learned":
            x = x + self.model.wpe(position)  # (B, 1, C) + (1, C)
        for block in self.model.h:
            x = block(x, (position, keys, values))
        return self.model.lm_head(self.model.ln_f(x))  # (B, 1, V)


class CompiledGPT(nn.Module):
    """A GPT to write with: it takes the place of the model in `generate` and `generate_speculative`.

    A step that reads one token for each of `batch_size` rows runs compiled; everything else (a prompt, a window that slides)
    goes to the model itself. The weights are those of the moment of compiling: train on, and compile again.
    """

    def __init__(self, model: GPT, batch_size: int = 1):
        """Compile, in about 15 s. ValueError for a model that is not in float32 on a CPU, or not causal; RuntimeError if
        there is no C++ compiler."""
        super().__init__()
        weight = model.lm_head.weight
        require(
            weight.device.type == "cpu" and weight.dtype == torch.float32,
            f"the model is {str(weight.dtype).removeprefix('torch.')} on {weight.device}: only a float32 model on a CPU can be "
            f"compiled here. model.float().cpu() makes one",
        )
        require(model.config.causal, "causal=False: without a causal mask there are no steps of one token to compile")
        self.model, self.config, self.batch_size = model, model.config, batch_size
        self.positions = torch.arange(model.config.block_size).split(1)
        self.step = compile_step(model, batch_size)

    @property
    def wte(self) -> nn.Embedding:
        return self.model.wte

    @property
    def lm_head(self) -> nn.Linear:
        return self.model.lm_head

    def forward(self, ids: Tensor, last_only: bool = False, cache: KVCache | None = None) -> Tensor:
        """What GPT.forward returns, for the same arguments."""
        rows = (self.batch_size, 1)
        if cache is None or ids.shape != rows or cache.length >= self.config.block_size or self.training:
            return self.model(ids, last_only, cache)
        require(cache.k.shape[1] == len(ids), f"{len(ids)} rows of ids with a cache for {cache.k.shape[1]}")
        logits = self.step(ids, self.positions[cache.length], cache.k.unbind(), cache.v.unbind())  # (B, 1, V)
        cache.length += 1
        return logits


def compile_step(model: GPT, batch_size: int):
    """Return OneToken(model) as compiled code. RuntimeError if there is no C++ compiler."""
    cache = KVCache(model.config, batch_size)
    ids, position = torch.zeros(batch_size, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    # layer by layer: of one tensor with all layers, the compiled code would copy the whole at each step
    example = (ids, position, cache.k.unbind(), cache.v.unbind())
    settings = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "ATEN,CPP"}
    with evaluation_mode(model), torch.no_grad(), quiet(), tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(OneToken(model), example)
        path = str(Path(folder) / "step.pt2")
        try:
            torch._inductor.aoti_compile_and_package(exported, package_path=path, inductor_configs=settings)
        except Exception as error:
            if "InvalidCxxCompiler" in type(error).__name__ + str(error):
                advice = "install one (apt install g++, or xcode-select --install), or write without compiling, the same text"
                raise RuntimeError(f"PyTorch finds no C++ compiler on this machine: {advice}") from None
            raise
        return torch._inductor.aoti_load_package(path)


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
