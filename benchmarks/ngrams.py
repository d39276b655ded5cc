"""The best table of counts that we know of: interpolated Kneser-Ney, its settings chosen on held-out training text.

    python benchmarks/ngrams.py

Each order and discount is tried with the counts of the first nine tenths of the training text, on its last tenth. The best
pair, with the counts of the whole training text, then meets the validation text once. The rows go to data/runs/ngrams.csv.
Source: Chen and Goodman 1999, *An empirical study of smoothing techniques for language modeling*, section 3.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import picogpt

ORDERS, DISCOUNTS = (5, 6, 7, 8), (0.8, 0.9, 0.95)


class KneserNey:
    """Probabilities of characters after the n − 1 before them, by counts of `text`."""

    def __init__(self, text: str, n: int, discount: float):
        self.n, self.discount, self.vocabulary = n, discount, len(set(text))
        self.counts = {n: Counter(text[i : i + n] for i in range(len(text) - n + 1))}
        for m in range(1, n):  # below the highest order: how many different characters come before a piece?
            self.counts[m] = Counter(piece[1:] for piece in {text[i : i + m + 1] for i in range(len(text) - m)})
        self.total: dict[str, int] = Counter()  # of each context: counts, and different characters that follow
        self.kinds: dict[str, int] = Counter()
        for piece, count in itertools.chain.from_iterable(counts.items() for counts in self.counts.values()):
            self.total[piece[:-1]] += count
            self.kinds[piece[:-1]] += 1

    def probability(self, piece: str) -> float:
        """Of the last character of a piece, after those before it."""
        p = 1 / self.vocabulary
        for m in range(1, self.n + 1):
            end = piece[-m:]
            if total := self.total.get(end[:-1]):
                kept = max(self.counts[m].get(end, 0) - self.discount, 0)
                p = (kept + self.discount * self.kinds[end[:-1]] * p) / total
        return p

    def loss(self, text: str, start: int) -> float:
        """Nats per character of text[start:]; what stands before is context only."""
        pieces = Counter(text[i - self.n + 1 : i + 1] for i in range(start, len(text)))
        return -sum(count * math.log(self.probability(piece)) for piece, count in pieces.items()) / (len(text) - start)


def main() -> None:
    text = picogpt.load_shakespeare()
    cut = len(picogpt.split(text)[0])
    held_out = cut * 9 // 10
    tried = {
        (n, discount): KneserNey(text[:held_out], n, discount).loss(text[:cut], held_out)
        for n, discount in itertools.product(ORDERS, DISCOUNTS)
    }
    n, discount = min(tried, key=lambda pair: tried[pair])
    found = KneserNey(text[:cut], n, discount).loss(text, cut)
    rows = [dict(n=n, discount=d, judged_on="held-out training text", loss=loss) for (n, d), loss in tried.items()]
    rows.append(dict(n=n, discount=discount, judged_on="validation text", loss=found))
    picogpt.save_rows(picogpt.DATA / "runs" / "ngrams.csv", rows)
    for row in rows:
        print(f"n = {row['n']}, discount {row['discount']}: {row['loss']:.4f} on the {row['judged_on']}")


if __name__ == "__main__":
    main()
