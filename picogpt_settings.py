"""Settings of a GPT: what the model is, how it is trained, how it is sampled. Three things, kept apart, and models by name.

picogpt_core.py imports all of it, so that a lesson finds it there. A recipe is a TrainConfig, an ablation a field here.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from picogpt.machine import require, require_between, require_choice, require_whole


@dataclass(frozen=True)
class ModelConfig:
    """What the model is. Every ablation of the course is a field here. The default is PicoGPT."""

    vocab_size: int = 65
    block_size: int = 256  # the longest window the model can see, in tokens
    n_layer: int = 3
    n_head: int = 8
    n_embd: int = 256
    norm: Literal["pre", "post"] = "pre"  # LayerNorm before each branch (GPT-2) or after each sum (Vaswani 2017)
    final_norm: bool = True  # one more LayerNorm before the head
    qkv_bias: bool = False  # biases of query, key and value
    bias: bool = True  # the other biases inside the blocks, and those of the LayerNorms
    head_bias: bool = True  # bias of the last linear layer
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    tied_head: bool = False  # the head uses the token embedding's matrix
    causal: bool = True  # False lets every position read the future: the bug that this course grew from
    attention: Literal["sdpa", "manual"] = "sdpa"  # PyTorch's fused attention, or the same by hand
    embd_dropout: float = 0.0
    resid_dropout: float = 0.0
    attn_dropout: float = 0.0

    def __post_init__(self):
        require_whole(self, dict.fromkeys(("vocab_size", "block_size", "n_layer", "n_head", "n_embd"), 1))
        require_between(self, dict.fromkeys(("embd_dropout", "resid_dropout", "attn_dropout"), (0.0, 0.99)))
        switches = ("final_norm", "qkv_bias", "bias", "head_bias", "tied_head", "causal")
        require_choice(self, dict.fromkeys(switches, (False, True)))
        require_choice(
            self, {"norm": ("pre", "post"), "attention": ("sdpa", "manual"), "activation": ("gelu", "gelu_tanh", "relu")}
        )
        require(
            self.n_embd % self.n_head == 0,
            f"n_embd={self.n_embd} cannot be shared equally by n_head={self.n_head} heads: make it a multiple",
        )
        require(
            not (self.tied_head and self.head_bias),
            "tied_head=True with head_bias=True: the embedding has no bias to share. Set head_bias=False",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. A recipe is one of these. Counts are optimizer steps unless it says otherwise."""

    steps: int = 1000
    batch_size: int = 32  # windows per step, all pieces and processes together
    seq_len: int | None = None  # length of a training window in tokens; None: the model's block_size
    grad_accum: int = 1  # compute the batch in so many pieces: less memory, the same step
    optimizer: Literal["muon", "adamw"] = "muon"  # "muon": Muon for the blocks' matrices, AdamW for the rest
    learning_rate: float = 3e-3  # AdamW's, at its highest
    muon_learning_rate: float = 0.02
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 20
    decay_part: float = 1.0  # the last part of the steps in which the learning rate falls (1: from warm-up on)
    final_lr: float = 0.05  # where it ends, as a part of the highest
    weight_decay: float = 0.05  # on matrices only: no biases, norms or embeddings
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0  # longest gradient allowed; 0: any
    eval_every: int = 250  # full validation loss and checkpoint; also at the last step
    log_every: int = 10  # a row of the history
    seed: int = 1337
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware multiplies it
    compile: bool = False

    def __post_init__(self):
        require_whole(self, {"steps": 1, "batch_size": 1, "grad_accum": 1, "warmup_steps": 0, "eval_every": 1})
        require_whole(self, {"log_every": 1, "seed": 0} | ({} if self.seq_len is None else {"seq_len": 1}))
        require_between(self, dict.fromkeys(("learning_rate", "muon_learning_rate", "weight_decay"), (0.0, 1e3)))
        require_between(self, dict.fromkeys(("decay_part", "final_lr"), (0.0, 1.0)) | {"grad_clip": (0.0, math.inf)})
        require_between(self, dict.fromkeys(("beta1", "beta2"), (0.0, 0.999999)))
        require_choice(self, {"optimizer": ("adamw", "muon"), "schedule": ("cosine", "linear", "constant")})
        require_choice(self, {"dtype": ("auto", "float32", "bfloat16"), "compile": (False, True)})
        require(isinstance(self.device, str), f"device={self.device!r} must be a name like 'cpu', 'cuda' or 'auto'")
        require(
            self.batch_size % self.grad_accum == 0,
            f"batch_size={self.batch_size} cannot be cut into grad_accum={self.grad_accum} equal pieces",
        )


# nanoGPT's for GPT-2 on Tiny Shakespeare (config/finetune_shakespeare.py): 32 windows a step, one at a time, at a low rate
FINETUNE = TrainConfig(
    steps=20,
    batch_size=32,
    grad_accum=32,
    optimizer="adamw",
    learning_rate=3e-5,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.1,
    beta2=0.95,
    eval_every=5,
    log_every=1,
)


@dataclass(frozen=True)
class SampleConfig:
    """How text is drawn from a trained model."""

    max_new_tokens: int = 500
    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest token each time (greedy)
    top_k: int | None = None  # keep the k likeliest tokens (and any that tie with the k-th)
    top_p: float | None = None  # keep the fewest likeliest tokens that together have at least this probability
    seed: int | None = None  # None: another text each time

    def __post_init__(self):
        require_whole(self, {"max_new_tokens": 0})
        finite = isinstance(self.temperature, int | float) and math.isfinite(self.temperature)
        require(
            finite and self.temperature >= 0,
            f"temperature={self.temperature!r} must be a finite number of at least 0 (0 is greedy)",
        )
        if self.top_k is not None:
            require_whole(self, {"top_k": 1})
        if self.top_p is not None:
            number = isinstance(self.top_p, int | float) and not isinstance(self.top_p, bool)
            require(number and 0 < self.top_p <= 1, f"top_p={self.top_p!r} must be above 0 and at most 1")
        if self.seed is not None:
            require_whole(self, {"seed": 0})


class Preset(NamedTuple):
    """A named model and the number of parameters it must have (a test adds them up)."""

    config: ModelConfig
    parameters: int


_ORIGINAL = ModelConfig(norm="post", final_norm=False, qkv_bias=True, activation="relu")
_GPT2 = ModelConfig(50257, 1024, 12, 12, 768, qkv_bias=True, head_bias=False, activation="gelu_tanh", tied_head=True)

PRESETS = {
    "picogpt": Preset(ModelConfig(), 2_466_369),
    "picogpt-6layer": Preset(ModelConfig(n_layer=6), 4_833_345),
    "picogpt-original": Preset(_ORIGINAL, 2_468_161),
    "picogpt-original-block300": Preset(dataclasses.replace(_ORIGINAL, block_size=300), 2_479_425),
    "nanogpt-scaled": Preset(ModelConfig(activation="relu"), 2_466_369),
    "rasbt-scaled": Preset(ModelConfig(qkv_bias=True, head_bias=False), 2_468_608),
    # the log's two suggestions
    "preln-all-bias": Preset(ModelConfig(qkv_bias=True), 2_468_673),
    "postln-no-bias": Preset(ModelConfig(norm="post", final_norm=False, bias=False, head_bias=False), 2_459_648),
    "gpt2": Preset(_GPT2, 124_439_808),
    "gpt2-medium": Preset(dataclasses.replace(_GPT2, n_layer=24, n_head=16, n_embd=1024), 354_823_168),
    "gpt2-large": Preset(dataclasses.replace(_GPT2, n_layer=36, n_head=20, n_embd=1280), 774_030_080),
    "gpt2-xl": Preset(dataclasses.replace(_GPT2, n_layer=48, n_head=25, n_embd=1600), 1_557_611_200),
    # two for a short time: the first learns to write in a minute, the second is for tests
    "demo": Preset(ModelConfig(block_size=128, n_head=4, n_embd=128), 627_009),
    "tiny": Preset(ModelConfig(block_size=32, n_layer=2, n_head=2, n_embd=32), 30_529),
}


def preset(name: str) -> ModelConfig:
    """The settings of a named model. ValueError with the nearest name if there is none."""
    if name in PRESETS:
        return PRESETS[name].config
    near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
    raise ValueError(f"no preset is called {name!r}: did you mean {near!r}? All of them: {', '.join(PRESETS)}")
