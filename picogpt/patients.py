"""The patients of lesson 13, the debugging clinic. Reading this file before the lesson spoils it: every fault is named here.

Each patient is a piece of a training that runs without an error, and all but one are ill. `data`, `loop`, `use` and `model`
hand one over by its letter, or its healthy twin by the letter "healthy"; `training` makes a whole training of it; `judge`
compares a diagnosis with the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from picogpt_core import GPT, Block, CausalSelfAttention, ModelConfig, cross_entropy, evaluate, require

from .checkpoint import load_shipped
from .data import Corpus
from .tokenizer import Tokenizer, learn_bpe

SMALL = ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32)
ROWS, T = 16, SMALL.block_size  # of a batch

# What a reader can choose from, and what each would show: the hint when it was the wrong choice.
DIAGNOSES = {
    "targets not shifted": "the loss would fall to nearly 0, and the text would repeat its last character",
    "targets two ahead": "in a decoded batch, y would begin two characters after x",
    "validation text in the training text": "validation windows would share pieces with training windows",
    "ids wrap round": "some ids would never occur, and a decoded batch would not read like the text",
    "part not in the optimizer": "some parameters would be in the model and in no optimizer, and none the other way round",
    "optimizer holds what was replaced": "the optimizer would hold parameters that the model no longer has",
    "gradients never cleared": "the gradient norm would grow from step to step, while the loss stops falling",
    "micro-batches not divided": "the first logged loss would be a multiple of ln V",
    "schedule too fast": "the learning rate would reach its end long before the last step",
    "learning rate too high": "the loss would jump up and down, with the learning rate as planned and gradients cleared",
    "weights did not arrive": "the loss would be that of a new model, about ln V",
    "evaluated in training mode": "two evaluations would differ, and agree after model.eval()",
    "dropout that never stops": "two evaluations would differ, and still differ after model.eval()",
    "window cut at the wrong end": "the text would go wrong exactly when it outgrows the window",
    "positions wrong with a cache": "texts with and without the cache would differ from the second new character on",
    "temperature without effect": "texts at temperature 0.1 and 2 would look alike",
    "no causal mask": "a change at position 20 would move the logits before it",
    "heads cut across positions": "nothing would leak, but a position would not notice parts of its past",
    "softmax in the model": "the answers would lie between 0 and 1 and add up to 1",
    "no residual connections": "the answers would hardly depend on what the model reads",
    "one block under many names": "the number of parameters would not grow with the number of layers",
    "healthy": "every question would get the healthy answer",
}

RIGHT = {
    "A": {"targets two ahead"},
    "B": {"validation text in the training text"},
    "C": {"ids wrap round"},
    "D": {"optimizer holds what was replaced"},
    "E": {"gradients never cleared"},
    "F": {"micro-batches not divided", "schedule too fast"},
    "G": {"healthy"},
    "H": {"weights did not arrive"},
    "I": {"evaluated in training mode"},
    "J": {"window cut at the wrong end"},
    "K": {"heads cut across positions"},
    "L": {"softmax in the model"},
}


def judge(letter: str, diagnosis: Any) -> str:
    """Return "" if a diagnosis, or several in a list, is right for a patient, else a hint: what it would have shown."""
    if letter not in RIGHT:
        return f"{letter!r} is no patient: they are {', '.join(RIGHT)}"
    given = list(diagnosis) if isinstance(diagnosis, (list, tuple, set)) else [diagnosis]
    if not all(isinstance(one, str) for one in given) or not given:
        return f"commit to a diagnosis of {letter}"
    for one in sorted(given):
        if one not in DIAGNOSES:
            return f"{one[:40]!r} for {letter} is not on the list"
        if one not in RIGHT[letter]:
            return f"with {one!r} {DIAGNOSES[one]}. Is that what {letter} shows?"
    return "" if set(given) == RIGHT[letter] else f"{letter} has that, and one disease more: give a list of both"


def right(letters: Iterable[str]) -> dict[str, set[str]]:
    """Return the diagnoses of these patients."""
    return {letter: RIGHT[letter] for letter in letters}


def chosen(letter: str, kinds: Mapping[str, Callable]) -> Callable:
    require(letter in kinds, f"there is no patient {letter!r} here, only {', '.join(kinds)}")
    return kinds[letter]


# ----- the data. Each has a tokenizer and batch("train") or batch("val"), which returns x and y, (16, 32) each.


class Data:
    """The healthy twin: windows at random places of a text that was cut in two."""

    def __init__(self, corpus: Corpus):
        self.tokenizer: Tokenizer = corpus.tokenizer
        self.text = {"train": corpus.train, "val": corpus.val}  # (N,) each
        self.generator = torch.Generator().manual_seed(0)

    def batch(self, split: str = "train") -> tuple[Tensor, Tensor]:
        ids = self.text[split]
        start = torch.randint(len(ids) - T, (ROWS,), generator=self.generator)  # (B,)
        window = ids[start[:, None] + torch.arange(T + 1)].long()  # (B, T+1)
        return window[:, :-1], window[:, 1:]


class DataA(Data):
    def batch(self, split: str = "train") -> tuple[Tensor, Tensor]:
        ids = self.text[split]
        start = torch.randint(len(ids) - T - 1, (ROWS,), generator=self.generator)  # (B,)
        x = ids[start[:, None] + torch.arange(T)]  # (B, T)
        y = ids[start[:, None] + 1 + torch.arange(1, T + 1)]  # (B, T): + 1, and from 1 on: two ahead
        return x, y


class DataB(Data):
    def __init__(self, corpus: Corpus):
        super().__init__(corpus)
        windows = corpus.train[:6_000].unfold(0, T + 1, 1)  # (n, T+1): one at each character, so neighbours share 32 of 33
        windows = windows[torch.randperm(len(windows), generator=self.generator)]  # shuffled before they are split
        cut = int(0.9 * len(windows))
        self.windows = {"train": windows[:cut], "val": windows[cut:]}

    def batch(self, split: str = "train") -> tuple[Tensor, Tensor]:
        rows = self.windows[split]
        window = rows[torch.randint(len(rows), (ROWS,), generator=self.generator)]  # (B, T+1)
        return window[:, :-1], window[:, 1:]


class PiecesC(Data):
    """Pieces of words in place of characters, healthy."""

    stored = torch.int16

    def __init__(self, corpus: Corpus):
        super().__init__(corpus)
        texts = {split: corpus.tokenizer.decode(ids[:100_000]) for split, ids in self.text.items()}
        self.tokenizer = learn_bpe(texts["train"], 384)
        self.text = {split: torch.tensor(self.tokenizer.encode(text)).to(self.stored) for split, text in texts.items()}


class DataC(PiecesC):
    stored = torch.uint8  # 384 ids in a byte: those from 256 on become id - 256


def data(letter: str, corpus: Corpus) -> Data:
    """Return the data of patient A, B or C, "healthy", or "healthy pieces", C's healthy twin."""
    kinds = {"healthy": Data, "healthy pieces": PiecesC, "A": DataA, "B": DataB, "C": DataC}
    return chosen(letter, kinds)(corpus)


# ----- the loop. Each has a model, an optimizer, and step(), which makes one optimizer step and returns the logged loss.


class Loop:
    """The healthy twin: AdamW, 16 windows a step in two micro-batches, a learning rate that falls in a straight line to 0."""

    seed, micro_batches, highest = 0, 2, 5e-3

    def __init__(self, data: Data, steps: int, model: nn.Module | None = None):
        torch.manual_seed(self.seed)
        self.data, self.steps, self.done = data, steps, 0
        self.model = GPT(SMALL) if model is None else model
        self.prepare()

    def prepare(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.highest)

    def lower_rate(self) -> None:
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.highest * max(0.0, 1 - self.done / self.steps)

    def step(self) -> float:
        logged = 0.0
        for x, y in zip(*(ids.chunk(self.micro_batches) for ids in self.data.batch()), strict=True):
            loss = cross_entropy(self.model(x), y) / self.micro_batches
            loss.backward()
            logged += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lower_rate()
        return logged


class LoopZero(Loop):
    """Patient zero, of the lesson's opening."""

    def prepare(self) -> None:
        trained = [p for name, p in self.model.named_parameters() if not name.startswith("h.1")]  # one block is left out
        self.optimizer = torch.optim.AdamW(trained, lr=self.highest)


class LoopD(Loop):
    def prepare(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.highest)
        self.model.lm_head = nn.Linear(SMALL.n_embd, SMALL.vocab_size)  # a fresh head, after the optimizer was made


class LoopE(Loop):
    def step(self) -> float:
        logged = 0.0
        for x, y in zip(*(ids.chunk(self.micro_batches) for ids in self.data.batch()), strict=True):
            loss = cross_entropy(self.model(x), y) / self.micro_batches
            loss.backward()
            logged += loss.item()
        self.optimizer.step()  # and no zero_grad()
        self.lower_rate()
        return logged


class LoopF(Loop):
    """Two diseases: one is seen in the first number, the other one is not."""

    def step(self) -> float:
        logged = 0.0
        for x, y in zip(*(ids.chunk(self.micro_batches) for ids in self.data.batch()), strict=True):
            loss = cross_entropy(self.model(x), y)  # not divided by the number of micro-batches
            loss.backward()
            logged += loss.item()
            self.lower_rate()  # with each micro-batch, not with each optimizer step
        self.optimizer.step()
        self.optimizer.zero_grad()
        return logged


class LoopG(Loop):
    """Healthy, with other first weights."""

    seed = 1


def loop(letter: str, data: Data, steps: int, model: nn.Module | None = None) -> Loop:
    """Return the training loop of patient D, E, F or G, "zero" or "healthy". Its model is new, or the one that is given."""
    kinds = {"healthy": Loop, "zero": LoopZero, "D": LoopD, "E": LoopE, "F": LoopF, "G": LoopG}
    return chosen(letter, kinds)(data, steps, model)


def training(letter: str, corpus: Corpus, steps: int) -> Loop:
    """Return a training of A to G, K, L, "zero" or a healthy one: the patient's own part, and healthy ones around it."""
    own = data(letter if letter in ("healthy pieces", *"ABC") else "healthy", corpus)
    kind = letter if letter in ("zero", *"DEFG") else "healthy"
    config = replace(SMALL, vocab_size=own.tokenizer.vocab_size)
    net = model(letter if letter in "KL" else "healthy", config) if letter not in "DEFG" else None
    return loop(kind, own, steps, net)


# ----- trained models, and how they are used. The weights are those of "draft", a checkpoint of the course.


class Use:
    """The healthy twin. `state` is what the file holds."""

    def __init__(self) -> None:
        shipped = load_shipped("draft").model
        self.config = ModelConfig(**{**shipped.config.__dict__, "resid_dropout": 0.1})
        self.state = shipped.state_dict()
        self.model = self.load()

    def load(self) -> GPT:
        torch.manual_seed(0)
        model = GPT(self.config)
        model.load_state_dict(self.state)
        return model

    def evaluate(self, ids: Tensor) -> float:
        """Return the loss on a text (N,)."""
        return evaluate(self.model, ids)

    @torch.no_grad()
    def write(self, ids: Tensor, n: int) -> Tensor:
        """Continue ids (1, N) by the n likeliest characters."""
        self.model.eval()
        for _ in range(n):
            window = ids[:, -self.config.block_size :]  # (1, T)
            likeliest = self.model(window)[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
            ids = torch.cat([ids, likeliest], dim=1)
        return ids


class UseH(Use):
    def load(self) -> GPT:
        self.state = {f"_orig_mod.{name}": value for name, value in self.state.items()}  # as a compiled model is saved
        torch.manual_seed(0)
        model = GPT(self.config)
        model.load_state_dict(self.state, strict=False)  # "there was an error about keys, so ..."
        return model


class UseI(Use):
    @torch.no_grad()
    def evaluate(self, ids: Tensor) -> float:  # nobody calls model.eval(), and a model comes out of training in training mode
        whole = (len(ids) - 1) // 256 * 256
        x, y = ids[:whole].view(-1, 256), ids[1 : whole + 1].view(-1, 256)  # (B, T) each
        return cross_entropy(self.model(x), y).item()


class UseJ(Use):
    @torch.no_grad()
    def write(self, ids: Tensor, n: int) -> Tensor:
        self.model.eval()
        for _ in range(n):
            window = ids[:, : self.config.block_size]  # (1, T): the first ones, not the last
            likeliest = self.model(window)[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
            ids = torch.cat([ids, likeliest], dim=1)
        return ids


def use(letter: str) -> Use:
    """Return patient H, I or J, or "healthy": a model, what its file held, evaluate() and write()."""
    return chosen(letter, {"healthy": Use, "H": UseH, "I": UseI, "J": UseJ})()


# ----- models


class AttentionK(CausalSelfAttention):
    def forward(self, x: Tensor, cache=None) -> Tensor:  # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        nh = self.config.n_head
        q, k, v = (
            z.reshape(B, nh, T, C // nh) for z in self.c_attn(x).chunk(3, dim=2)
        )  # the shape (B, nh, T, hs), dealt out wrongly
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
        return self.c_proj(y.reshape(B, T, C))


class GPTK(GPT):
    def __init__(self, config: ModelConfig):
        super().__init__(config)
        for block in cast(list[Block], self.h):
            attention = AttentionK(config, block.attn.layer)
            attention.load_state_dict(block.attn.state_dict())
            block.attn = attention


class GPTL(GPT):
    def forward(self, ids: Tensor, last_only: bool = False, cache=None) -> Tensor:
        return super().forward(ids, last_only, cache).softmax(dim=-1)  # (B, T, V): the loss makes a softmax of its own


def model(letter: str, config: ModelConfig = SMALL) -> GPT:
    """Return a new model: patient K or L, or "healthy". The same first weights in each."""
    torch.manual_seed(0)
    return chosen(letter, {"healthy": GPT, "K": GPTK, "L": GPTL})(config)
