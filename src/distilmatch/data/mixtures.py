"""Mixtures of two texts: virtual texts that no words spell, read as a mean of word embeddings, place by place.

A virtual text is written as the two texts and the share of the first, so that it can be kept, hashed and labelled as any
other; what it is to a model is the mean of the two texts' word embeddings. Both are laid over one another part by part
(special tokens, first text, second text), the shorter one with padding, so that a separator meets a separator; a place counts
where either text has a token.

Shape legend: m mixtures; t tokens of the longest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from distilmatch.types import TupleTable

Parts = Sequence[Sequence[int]]
"""The token ids of a text or a pair, parted where special tokens begin and end."""


def virtual_text(first: str, second: str, share: float) -> str:
    """What stands for a mixture: `share` of the first text, the rest of the second."""
    return json.dumps([first, second, share], ensure_ascii=False)


def mixed_of(virtual: str) -> tuple[str, str, float]:
    """The two texts of a virtual one, and the share of the first."""
    first, second, share = json.loads(virtual)
    return first, second, share


def draw_mixtures(table: TupleTable, count: int, alpha: float, seed: int) -> TupleTable:
    """`count` mixtures of two distinct pairs of a table each, as pairs of virtual texts: both sides with the same share, which
    is drawn from Beta(alpha, alpha). The same seed draws the same.

    Args:
        table: whose rows with a gold label are mixed, or all where it has none; two distinct ones at least.
    """
    known = np.arange(len(table)) if table.gold is None else np.flatnonzero(~np.isnan(table.gold))
    pairs = np.unique(table.rows[known], axis=0)
    assert len(pairs) >= 2, "mixtures of fewer than two pairs"
    rng = np.random.default_rng(seed)
    texts: dict[str, int] = {}
    rows = []
    for _ in range(count):
        first, second = pairs[rng.choice(len(pairs), 2, replace=False)].tolist()
        share = round(float(rng.beta(alpha, alpha)), 6)
        virtual = [virtual_text(table.texts[a], table.texts[b], share) for a, b in zip(first, second, strict=True)]
        rows.append([texts.setdefault(text, len(texts)) for text in virtual])
    return TupleTable(texts=list(texts), rows=np.array(rows, dtype=np.int64), side_names=table.side_names)


def text_parts(ids: Sequence[int], before: int, after: int) -> Parts:
    """The parts of one text with so many special tokens before and after it."""
    end = len(ids) - after
    return [ids[:before], ids[before:end], ids[end:]]


def mixed_batch(
    mixtures: Sequence[tuple[Parts, Parts, float]], pad_id: int, *, left: bool = False
) -> dict[str, torch.Tensor]:
    """What a model reads of mixtures.

    Args:
        mixtures: the parts of both texts, as many of each, and the share of the first.
        pad_id: the token of places where one of them has none.
        left: whether batches are padded on the left.

    Returns:
        `input_ids` and `mixed_ids`, (m, t) int64 of the first and the second text, `attention_mask`, (m, t) int64, `shares`,
        (m,) float32, and `parts`, (m, t) int64, which part a place is of.
    """
    laid = [_laid_over(first, second, pad_id) for first, second, _ in mixtures]
    longest = max(len(places) for places in laid)
    columns = np.zeros((len(laid), longest, 4), dtype=np.int64)
    columns[:, :, :2] = pad_id
    for row, places in enumerate(laid):
        start = longest - len(places) if left else 0
        columns[row, start : start + len(places)] = places
    names = ("input_ids", "mixed_ids", "parts", "attention_mask")
    batch = {name: torch.from_numpy(np.ascontiguousarray(columns[:, :, i])) for i, name in enumerate(names)}
    return batch | {"shares": torch.tensor([share for *_, share in mixtures], dtype=torch.float32)}


def _laid_over(first: Parts, second: Parts, pad_id: int) -> list[tuple[int, int, int, int]]:
    """For each place the token of the first and of the second, the part, and 1: one of them has a token there."""
    places = []
    for part, (own, other) in enumerate(zip(first, second, strict=True)):
        for at in range(max(len(own), len(other))):
            ids = [int(tokens[at]) if at < len(tokens) else pad_id for tokens in (own, other)]
            places.append((ids[0], ids[1], part, 1))
    return places
