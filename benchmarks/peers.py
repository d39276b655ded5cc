"""Two peers that write with our weights: gpt.c, and ONNX Runtime in a loop of its own.

ONNX Runtime is not a part of the course: pip install onnxruntime onnx
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import picogpt_core as pc

GCC = ["gcc", "-O3", "-march=native", "-ffast-math"]
TILE = 64  # as in gpt.c


# ----- gpt.c


def write_for_c(model: pc.GPT, file: Path) -> None:
    """Write the sizes and the weights as gpt.c reads them. ValueError for another architecture than that of "picogpt"."""
    c = model.config
    sizes = dict(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, vocab_size=c.vocab_size, block_size=c.block_size)
    dropout = dict(embd_dropout=c.embd_dropout, resid_dropout=c.resid_dropout, attn_dropout=c.attn_dropout)
    free: dict[str, Any] = sizes | dropout | dict(init=c.init, attention=c.attention)
    same = c == dataclasses.replace(pc.preset("picogpt"), **free)
    pc.require(same, f"gpt.c computes the preset picogpt in any size, not {c}")
    pc.require(c.n_embd % TILE == 0, f"n_embd={c.n_embd}: gpt.c needs a multiple of {TILE}")
    parts = [model.wte.weight, model.wpe.weight]
    block: Any
    for block in model.h:
        parts += [*norm(block.ln_1), *linear(block.attn.c_attn), *linear(block.attn.c_proj)]
        parts += [*norm(block.ln_2), *linear(block.mlp.c_fc), *linear(block.mlp.c_proj)]
    parts += [*norm(model.ln_f), *linear(model.lm_head)]
    with file.open("wb") as out:
        out.write(torch.tensor(list(sizes.values()), dtype=torch.int32).numpy().tobytes())
        for part in parts:
            out.write(part.detach().float().contiguous().numpy().tobytes())


def norm(module: Any) -> list[Tensor]:
    return [module.weight, module.bias]


def linear(module: Any) -> list[Tensor]:
    """The matrix in tiles, (outputs / 64, inputs, 64), the last one filled up with zeros, and the bias if there is one."""
    more = -module.out_features % TILE
    weight = F.pad(module.weight, (0, 0, 0, more))  # (outputs, inputs)
    tiles = weight.unflatten(0, (-1, TILE)).transpose(1, 2)  # (outputs / 64, 64, inputs) -> (outputs / 64, inputs, 64)
    return [tiles] if module.bias is None else [tiles, F.pad(module.bias, (0, more))]


def build_c(folder: Path) -> Path:
    """Compile gpt.c and return the program. OSError if there is no gcc."""
    if shutil.which(GCC[0]) is None:
        raise OSError("there is no gcc on this machine: gpt.c cannot be compiled")
    program = folder / "gpt"
    subprocess.run([*GCC, "-o", program, Path(__file__).with_name("gpt.c"), "-lm"], check=True)
    return program


# ----- ONNX Runtime


def onnx_step(model: pc.GPT) -> bytes:
    """The step that reads one token, as ONNX, with the operators that ONNX Runtime itself has for it.

    GroupQueryAttention writes keys and values into the buffer that it is given: nothing is copied as a text grows. For the
    architectures that gpt.c computes.
    """
    from onnx import TensorProto, helper, numpy_helper

    c = model.config
    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(tensor: Tensor) -> str:
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        return name

    def compute(operator: str, *inputs: str, outputs: tuple[str, ...] = (), domain: str = "", **attributes) -> str:
        outputs = outputs or (f"x{len(nodes)}",)
        nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def apply(layer: Any, x: str) -> str:
        y = compute("MatMul", x, constant(layer.weight.T))
        return y if layer.bias is None else compute("Add", y, constant(layer.bias))

    def normalise(layer: Any, x: str) -> str:
        return compute("LayerNormalization", x, constant(layer.weight), constant(layer.bias), axis=-1, epsilon=layer.eps)

    x = compute("Add", compute("Gather", constant(model.wte.weight), "id"), compute("Gather", constant(model.wpe.weight), "at"))
    block: Any
    for i, block in enumerate(model.h):
        qkv = apply(block.attn.c_attn, normalise(block.ln_1, x))  # (1, 1, 3C)
        kept, grown = (f"k{i}", f"v{i}"), (f"y{i}", f"new_k{i}", f"new_v{i}")
        heads = dict(num_heads=c.n_head, kv_num_heads=c.n_head)
        y = compute("GroupQueryAttention", qkv, "", "", *kept, "past", "length", outputs=grown, domain="com.microsoft", **heads)
        x = compute("Add", x, apply(block.attn.c_proj, y))
        hidden = compute("Gelu", apply(block.mlp.c_fc, normalise(block.ln_2, x)), domain="com.microsoft")
        x = compute("Add", x, apply(block.mlp.c_proj, hidden))
    compute("Identity", apply(model.lm_head, normalise(model.ln_f, x)), outputs=("logits",))

    cache = [1, c.n_head, c.block_size, c.n_embd // c.n_head]
    number, integer, integer32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
    inputs = [helper.make_tensor_value_info(name, integer, [1, 1]) for name in ("id", "at")]
    inputs += [helper.make_tensor_value_info("past", integer32, [1]), helper.make_tensor_value_info("length", integer32, [])]
    names = [f"{kind}{i}" for i in range(c.n_layer) for kind in "kv"]
    inputs += [helper.make_tensor_value_info(name, number, cache) for name in names]
    outputs = [helper.make_tensor_value_info("logits", number, [1, 1, c.vocab_size])]
    outputs += [helper.make_tensor_value_info(f"new_{name}", number, cache) for name in names]
    graph = helper.make_graph(nodes, "step", inputs, outputs, weights)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=9).SerializeToString()


class OnnxWriter:
    """A model in ONNX Runtime, one thread. All that goes in and out is bound once to arrays that stay where they are."""

    def __init__(self, model: pc.GPT):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx_step(model), options, providers=["CPUExecutionProvider"])
        c = model.config
        self.arrays: dict[str, np.ndarray] = {
            "id": np.zeros((1, 1), np.int64),
            "at": np.zeros((1, 1), np.int64),
            "past": np.zeros(1, np.int32),
        }
        self.arrays |= {"length": np.zeros((), np.int32), "logits": np.zeros((1, 1, c.vocab_size), np.float32)}
        for i in range(c.n_layer):
            for name in (f"k{i}", f"v{i}"):
                array = np.zeros((1, c.n_head, c.block_size, c.n_embd // c.n_head), np.float32)
                self.arrays |= {name: array, f"new_{name}": array}  # the same memory: the cache grows where it is
        self.binding = self.session.io_binding()
        for kind, nodes in (("input", self.session.get_inputs()), ("output", self.session.get_outputs())):
            for node in nodes:
                array = self.arrays[node.name]
                bind = getattr(self.binding, f"bind_{kind}")
                bind(node.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def logits(self, token: int, past: int) -> np.ndarray:
        """Read one token after `past` others. Return the logits (V,), in an array that the next call overwrites."""
        self.arrays["id"][...], self.arrays["at"][...], self.arrays["past"][...] = token, past, past
        self.arrays["length"][...] = past + 1
        self.session.run_with_iobinding(self.binding)
        return self.arrays["logits"][0, 0]

    def write(self, n: int, temperature: float, random: np.random.Generator) -> list[int]:
        """Draw n ids after id 0."""
        ids = [0]
        for past in range(n):
            logits = self.logits(ids[-1], past)
            sums = np.exp((logits - logits.max()) / temperature).cumsum()
            ids.append(int(sums.searchsorted(random.random() * sums[-1])))
        return ids
