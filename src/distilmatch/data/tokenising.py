"""Token ids of many texts, batches without wasted padding, and the one place that sorts by length and restores.

Shape legend: n texts; t tokens of a batch's longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distilmatch.concurrency import frozen_tokenizer
from distilmatch.errors import ModelError

_CHUNK = 8192  # texts given to a tokenizer at once


class TokenIds(Sequence[np.ndarray]):
    """Token ids of n texts, four bytes each, in one array.

    Args:
        flat: (all tokens,) int32.
        bounds: (n + 1,) int64, text i is `flat[bounds[i]:bounds[i + 1]]`.
    """

    def __init__(self, flat: np.ndarray, bounds: np.ndarray) -> None:
        self.flat = flat
        self.bounds = bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        assert not isinstance(index, slice)
        return self.flat[self.bounds[index] : self.bounds[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64, tokens of each text."""
        return np.diff(self.bounds)


def token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> TokenIds:
    """The token ids of each text, special tokens included, cut at `max_length`.

    Args:
        tokenizer: Hugging Face's; nothing in it changes.

    Raises:
        ModelError: a text that the tokenizer gives no token, or cannot read; its position and beginning are named.
    """
    tokenizer = frozen_tokenizer(tokenizer, max_length)
    flat_ids, lengths = [np.empty(0, dtype=np.int32)], []
    for start in range(0, len(texts), _CHUNK):
        chunk = [texts[i] for i in range(start, min(start + _CHUNK, len(texts)))]
        try:
            encoded = tokenizer(
                chunk, truncation=True, max_length=max_length, padding=False, return_attention_mask=False
            )
        except (TypeError, UnicodeError):
            bad = next((i for i, text in enumerate(chunk) if not _is_unicode(text)), None)
            if bad is None:
                raise
            raise ModelError(
                f"text {start + bad} holds half of a surrogate pair, which is no character: {chunk[bad][:80]!r}; decode it "
                "again with errors='replace'"
            ) from None
        chunk_lengths = [len(ids) for ids in encoded["input_ids"]]
        if 0 in chunk_lengths:
            empty = chunk_lengths.index(0)
            raise ModelError(
                f"text {start + empty} has no token: {chunk[empty][:80]!r}; this tokenizer puts no special tokens "
                "around a text, so that one without any word cannot be read: leave it out"
            )
        lengths += chunk_lengths
        flat_ids.append(np.array([token for ids in encoded["input_ids"] for token in ids], dtype=np.int32))
    return TokenIds(np.concatenate(flat_ids), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def pad_batch(ids: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, (n, t) int64, padded on the right."""
    longest = max(len(text) for text in ids)
    input_ids = np.full((len(ids), longest), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(ids), longest), dtype=np.int64)
    for row, text in enumerate(ids):
        input_ids[row, : len(text)] = text
        attention_mask[row, : len(text)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


def length_order(lengths: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) positions that sort by length, longest first, and (n,) positions that restore the given order."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    restore = np.empty_like(order)
    restore[order] = np.arange(len(order))
    return order, restore


def length_chunks(lengths: Sequence[int] | np.ndarray, max_waste: float = 0.1, min_tokens: int = 256) -> list[slice]:
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
