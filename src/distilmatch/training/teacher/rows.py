"""The labelled pairs that a teacher learns from: their targets, how long they are, and batches of like length.

Shape legend: n rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError
from distilmatch.types import TupleTable

_LOOKED_AT = 20_000
_FITTING = 0.995


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledRows:
    """Pairs with their targets.

    Attributes:
        pairs: n pairs of texts.
        targets: (n,) int64 classes, or float32 in [0, 1].
    """

    pairs: list[tuple[str, str]]
    targets: np.ndarray

    def take(self, chosen: np.ndarray) -> LabelledRows:
        """Some of the rows, by number."""
        return LabelledRows(pairs=[self.pairs[row] for row in chosen], targets=self.targets[chosen])


def smallest_share(targets: np.ndarray, task: TaskConfig) -> float:
    """The share of rows of the rarest class that occurs, or of matches; 0.5 for tasks without classes."""
    if task.kind == "classification":
        counts = np.bincount(targets)
        return float(counts[counts > 0].min() / len(targets))
    if task.kind == "binary":
        share = float((targets >= 0.5).mean())
        return min(share, 1 - share)
    return 0.5


def needed_length(tokenizer: Any, pairs: Sequence[tuple[str, str]], most: int) -> int:
    """How many tokens 99.5 % of the pairs fit in, special tokens included, a multiple of 8; `most` where it is more.

    Args:
        tokenizer: of the base model, or None where pairs cannot be tokenised by themselves: `most` then.
        pairs: 20,000 of them are looked at.
    """
    if tokenizer is None or not pairs:
        return most
    chosen = np.random.default_rng(0).permutation(len(pairs))[:_LOOKED_AT]
    encoded = tokenizer([pairs[row][0] for row in chosen], [pairs[row][1] for row in chosen], truncation=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    longest = float(np.quantile(lengths, _FITTING, method="higher"))
    return max(8, min(most, 8 * math.ceil(longest / 8)))


def labelled_pairs(table: TupleTable, task: TaskConfig, name: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs with a gold label, (n,) long, and their targets: (n,) int64 classes, or float32 in [0, 1]."""
    if table.sides != 2:
        raise DataError(f"a cross-encoder reads pairs, the {name} table has {table.sides} texts a row")
    labelled = np.zeros(len(table), dtype=bool) if table.gold is None else ~np.isnan(table.gold)
    if not labelled.any():
        raise DataError(
            f"the {name} table has no row with a gold label, so a teacher cannot learn from it; name its column with "
            "`table.label_column` (--label-column)"
        )
    assert table.gold is not None
    gold = table.gold[labelled].astype(np.float64)
    pairs = [(table.texts[left], table.texts[right]) for left, right in table.rows[labelled]]
    lowest, highest = _target_range(task, gold, name)
    if gold.min() < lowest or gold.max() > highest:
        raise DataError(f"gold labels of the {name} table must lie between {lowest:g} and {highest:g} for {task.kind}")
    if task.kind == "classification":
        return pairs, gold.astype(np.int64)
    return pairs, ((gold - lowest) / (highest - lowest)).astype(np.float32)


def _target_range(task: TaskConfig, gold: np.ndarray, name: str) -> tuple[float, float]:
    if task.kind == "classification":
        if (gold != np.floor(gold)).any():
            raise DataError(f"gold labels of the {name} table must be class indices for classification")
        return 0.0, float(task.num_labels - 1)
    if task.kind == "regression":
        return task.label_range
    if task.kind == "ranking":
        if gold.max() <= 0:
            raise DataError(f"no row of the {name} table has a relevance above 0, so there is nothing to learn")
        return 0.0, float(gold.max())
    return 0.0, 1.0


class LengthGroupedBatches(DefaultBatchSampler):
    """Random batches of pairs of about the same length: rows are shuffled, cut into groups of 50 batches, each group
    is sorted by length and cut into batches, and the batches are shuffled.
    """

    group = 50

    def __init__(self, dataset: Dataset, **settings: Any) -> None:
        super().__init__(dataset, **settings)
        self.lengths = np.array(
            [len(left) + len(right) for left, right in zip(dataset["left"], dataset["right"], strict=True)],
            dtype=np.int64,
        )

    def __iter__(self) -> Iterator[list[int]]:
        """The row numbers of each batch; another order in every epoch, the same for the same seed."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        width = self.group * self.batch_size
        for start in range(0, len(order), width):
            window = order[start : start + width]
            order[start : start + width] = window[np.argsort(-self.lengths[window], kind="stable")]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.drop_last and batches and len(batches[-1]) < self.batch_size:
            batches.pop()
        for batch in random.permutation(len(batches)):
            yield batches[batch].tolist()
