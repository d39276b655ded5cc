"""What every head of the shipped PicoGPT looks at, and what it is worth, on the whole validation text.

    python benchmarks/heads.py

A row for each head goes to data/runs/heads_worth.csv, and one, without a layer, for a head that would look at everything
equally: chance. It takes about ten minutes with one thread. Run it again whenever the checkpoint is made anew: the columns
`checkpoint` (the beginning of its sha256) and `val_loss` say which one was measured.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

import picogpt
import picogpt_core as pc

TABLE = picogpt.DATA / "runs" / "heads_worth.csv"
CHECKPOINT = picogpt.DATA / "checkpoints" / "picogpt.safetensors"
PIECES, LENGTH = 4, 2500  # of the beginning of the text: would they have ranked the heads alike?


def places(ids: Tensor, tokenizer: picogpt.Tokenizer) -> dict[str, Tensor]:
    """Return where a head may look, by name, for windows (B, T): booleans (B, T, T), row t and column j."""
    T = ids.shape[1]
    back = torch.arange(T)[:, None] - torch.arange(T)  # (T, T): how far j lies before t

    def among(characters: str) -> Tensor:
        known = torch.tensor(tokenizer.encode("".join(c for c in characters if c in tokenizer.decode(range(65)))))
        return torch.isin(ids, known)[:, None, :].expand(-1, T, -1)

    before = ids.roll(1, dims=1)  # what stands before j
    before[:, 0] = -1
    near = {"itself": 0, "one_before": 1, "two_before": 2, "three_before": 3}
    found = {name: (back == distance).expand(len(ids), T, T) for name, distance in near.items()}
    found |= {
        "four_to_eight_before": ((back >= 4) & (back <= 8)).expand(len(ids), T, T),
        "further_back": (back > 8).expand(len(ids), T, T),
        "first_position": (torch.arange(T) == 0).expand(len(ids), T, T),
        "same_character_before": (ids[:, :, None] == ids[:, None, :]) & (back > 0),
        "after_same_character": (ids[:, :, None] == before[:, None, :]) & (back > 0),
        "spaces": among(" "),
        "line_ends": among("\n"),
        "capitals": among("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        "vowels": among("aeiouAEIOU"),
        "punctuation": among(".,:;!?-'"),
    }
    return found


@torch.no_grad()
def looks(model: pc.GPT, corpus: picogpt.Corpus) -> tuple[list[dict], Tensor]:
    """Return the shares of each head's weight, then those of equal weights; and each head's mean output (24, hs)."""
    heads, hs = model.config.n_layer * model.config.n_head, model.config.n_embd // model.config.n_head
    shares: dict[str, Tensor] = {}
    outputs, positions = torch.zeros(heads, hs), 0
    for ids, _ in pc.side_by_side(model, corpus.val, batch_size=8):
        B, T = ids.shape
        x, weights, answers = model.wte(ids) + model.wpe(torch.arange(T)), [], []  # (B, T, C)
        block: Any
        for block in model.h:
            q, k, v = block.attn.queries_keys_values(block.ln_1(x))  # (B, nh, T, hs) each
            weights.append(pc.attention_scores(q, k).softmax(dim=-1))  # (B, nh, T, T)
            answers.append(weights[-1] @ v)  # (B, nh, T, hs)
            x = block(x)
        even = pc.causal_mask(T) / torch.arange(1, T + 1)[:, None]  # (T, T)
        w = torch.cat([*weights, even.expand(B, 1, T, T)], dim=1)  # (B, 25, T, T)
        for name, where in places(ids, corpus.tokenizer).items():
            share = (w * where[:, None]).sum(dim=(0, 2, 3))  # (25,)
            shares[name] = shares.get(name, 0) + share
        back = torch.arange(T)[:, None] - torch.arange(T)  # (T, T)
        shares["mean_distance"] = shares.get("mean_distance", 0) + (w * back).sum(dim=(0, 2, 3))
        shares["largest_weight"] = shares.get("largest_weight", 0) + w.amax(dim=3).sum(dim=(0, 2))
        outputs += torch.cat(answers, dim=1).sum(dim=(0, 2))  # (24, hs)
        positions += B * T
    columns = {name: (total / positions).tolist() for name, total in shares.items()}
    return [{name: column[h] for name, column in columns.items()} for h in range(heads + 1)], outputs / positions


@torch.no_grad()
def without(layer: int, head: int, says: Tensor | None = None) -> pc.GPT:
    """Return the model with one head's output zeroed or, with `says` (hs,), the same at every position."""
    model = picogpt.load_checkpoint(CHECKPOINT).model
    block: Any = model.h[layer]
    proj, hs = block.attn.c_proj, model.config.n_embd // model.config.n_head
    columns = slice(head * hs, (head + 1) * hs)
    if says is not None:
        proj.bias += proj.weight[:, columns] @ says  # (C, hs) @ (hs,) -> (C,)
    proj.weight[:, columns] = 0
    return model


def losses(model: pc.GPT, corpus: picogpt.Corpus) -> list[float]:
    """Return the loss on each of the short pieces."""
    return [pc.evaluate(model, corpus.val[i * LENGTH : (i + 1) * LENGTH]) for i in range(PIECES)]


def main() -> None:
    torch.set_num_threads(1)
    corpus, model = picogpt.load_corpus(), picogpt.load_checkpoint(CHECKPOINT).model
    whole, nh, in_pieces = pc.evaluate(model, corpus.val), model.config.n_head, losses(model, corpus)
    about = dict(
        checkpoint=hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()[:12],
        val_loss=whole,
        machine=picogpt.describe_machine(),
    )
    shares, outputs = looks(model, corpus)
    rows = []
    for number, share in enumerate(shares):
        layer, head = divmod(number, nh)
        worth: dict = dict(layer=None, head=None, rise=None, rise_at_mean=None)
        pieces: dict = dict.fromkeys(f"rise_piece_{i}" for i in range(PIECES))
        if layer < model.config.n_layer:
            silent = without(layer, head)
            rise = pc.evaluate(silent, corpus.val) - whole
            at_mean = pc.evaluate(without(layer, head, outputs[number]), corpus.val) - whole
            worth = dict(layer=layer, head=head, rise=rise, rise_at_mean=at_mean)
            rises = [loss - before for loss, before in zip(losses(silent, corpus), in_pieces, strict=True)]
            pieces = dict(zip(pieces, rises, strict=True))
            print(f"layer {layer}, head {head}: {rise:+.4f} zeroed, {at_mean:+.4f} at its mean", flush=True)
        rows.append(worth | pieces | share | about)
    picogpt.save_rows(TABLE, rows)


if __name__ == "__main__":
    main()
