"""Token ids of many texts, batches without wasted padding, and the one place that sorts by length and restores.

Shape legend: n texts; t tokens of a batch's longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

TokenIds = list[list[int]]


def token_ids(tokenizer: Any, texts: Sequence[str], max_length: int, chunk: int = 8192) -> TokenIds:
    """The token ids of each text, special tokens included, cut at `max_length`; `tokenizer` is Hugging Face's."""
    ids: TokenIds = []
    for start in range(0, len(texts), chunk):
        part = list(texts[start : start + chunk])
        encoded = tokenizer(part, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
        ids += encoded["input_ids"]
    return ids


def pad_batch(ids: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, (n, t) int64, padded on the right."""
    longest = max(len(text) for text in ids)
    input_ids = np.full((len(ids), longest), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(ids), longest), dtype=np.int64)
    for row, text in enumerate(ids):
        input_ids[row, : len(text)] = text
        attention_mask[row, : len(text)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


def length_order(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) positions that sort by length, longest first, and (n,) positions that restore the given order."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    restore = np.empty_like(order)
    restore[order] = np.arange(len(order))
    return order, restore


def length_chunks(lengths: Sequence[int], max_waste: float = 0.1, min_tokens: int = 256) -> list[slice]:
    """Cuts texts that are sorted by length, longest first, into chunks with little padding.

    A chunk ends where one more text would make more than `max_waste` of its padded tokens padding, but not before it
    holds `min_tokens`, below which a matrix product wastes more than padding does.

    Args:
        lengths: (n,) tokens a text, not rising.

    Returns:
        Slices that cover 0 to n.
    """
    chunks = []
    start, real = 0, 0
    for end, length in enumerate(lengths):
        padded = lengths[start] * (end - start + 1)
        if real >= min_tokens and real + length < (1 - max_waste) * padded:
            chunks.append(slice(start, end))
            start, real = end, 0
        real += length
    if len(lengths) > start:
        chunks.append(slice(start, len(lengths)))
    return chunks
