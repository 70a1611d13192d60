"""What tuples are ranked by, and the best of what was seen.

Shape legend: n rows; m columns of a block; c labels; k best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn.functional import pad

from distilmatch.arguments import real_number
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, did_you_mean

RankBy = Literal["logit", "probability", "expectation"]

_NOTHING = -(2**63)
_LOW_BITS = 2**32 - 1
_WIDE = 1024  # columns from which on it pays to look at groups first
MOST_TEXTS = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One number of a tuple's c logits, fp32.

    Probabilities near 1 are one number in fp32. So what is ranked by a class's probability is its log-odds, the logit less the
    logsumexp of the others, which is in the same order; `shown` and `limit` go between the two. An expectation is as fine as
    fp32 numbers of the size of `values`: expectations closer than that are ties. On a CPU the sums are in float64.

    Attributes:
        by: a logit, the probability of a class, or the expectation of `values` under the classes' probabilities.
        label: number of the logit or class.
        values: c numbers, for the expectation.
    """

    by: RankBy = "logit"
    label: int = 0
    values: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        task: TaskConfig,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
    ) -> Ranking:
        """The ranking that a user asks for.

        Args:
            task: the model's; with one label nothing needs to be said.
            by: see `Ranking`; the order of one label's logits is that of its scores.
            label: name or number of a class.
            values: what each class is worth, in the order of the task's classes.

        Raises:
            ConfigError: it is not said which of several labels counts, the model has no such label, or there is no such `by`.
        """
        classes = task.classes
        if by not in get_args(RankBy):
            wanted = ", ".join(get_args(RankBy))
            raise ConfigError(
                f"what is ranked by is one of {wanted}, not {by!r}{did_you_mean(str(by), get_args(RankBy))}"
            )
        if task.num_labels == 1:
            return cls()
        known = ", ".join(classes)
        if by == "expectation":
            if values is None or len(values) != task.num_labels:
                raise ConfigError(f"an expectation needs a value for each class, in this order: {known}")
            numbers = tuple(real_number("values", value) for value in values)
            if not all(map(math.isfinite, numbers)):
                raise ConfigError(f"the values {numbers} of the classes {known} must be finite")
            return cls(by=by, values=numbers)
        if label is None:
            raise ConfigError(f"this model has {task.num_labels} labels: say which one is ranked ({known})")
        number = classes.index(label) if isinstance(label, str) and label in classes else label
        if isinstance(number, bool) or not isinstance(number, Integral) or not 0 <= number < task.num_labels:
            hint = did_you_mean(label, classes) if isinstance(label, str) else ""
            raise ConfigError(f"the model has no label {label!r}; its labels are {known}{hint}")
        return cls(by=by, label=int(number))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """(...) fp32 that (..., c) logits are ranked by: of a probability its log-odds."""
        if self.by == "logit":
            return logits[..., self.label].float()
        wide = logits.double() if logits.device.type == "cpu" else logits.float()
        if self.by == "probability":
            others = torch.cat([wide[..., : self.label], wide[..., self.label + 1 :]], -1)
            return (wide[..., self.label] - others.logsumexp(-1)).float()
        return (wide.softmax(-1) @ wide.new_tensor(self.values)).float()

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """(...) fp32 scores as users read them, of (...) fp32 that were ranked."""
        if self.by != "probability":
            return scores
        return torch.from_numpy(scores).double().sigmoid().float().numpy()

    def limit(self, threshold: float) -> float:
        """What is ranked at a threshold of what users read.

        Raises:
            ConfigError: no probability.
        """
        if self.by != "probability":
            return threshold
        if not 0 <= threshold <= 1:
            raise ConfigError(f"the threshold is {threshold}; probabilities are between 0 and 1")
        if threshold in (0, 1):
            return math.inf if threshold else -math.inf
        return math.log(threshold) - math.log1p(-threshold)


def _keys(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    # int64 numbers that are in the order of the scores, of equal ones in the falling order of the columns.
    bits = (scores + 0.0).contiguous().view(torch.int32).long()  # -0.0 counts as 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return ((ordered << 32) | (_LOW_BITS - columns)).masked_fill(scores.isnan(), _NOTHING)


def _of_best_groups(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Scores and columns of the k groups of neighbouring columns, in each row, with the largest scores. The k best are
    # among them: a column outside has k groups before its own, and in each a score before its own. Columns past the
    # last are numbered on.
    n, m = scores.shape
    size = 1 << int(0.5 * math.log2(m / k))  # about as many columns are left as there are groups
    grouped = pad(scores, (0, -m % size), value=-torch.inf).unflatten(1, (-1, size))
    largest = grouped.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(-1)
    keys = _keys(largest, torch.arange(largest.shape[1], device=scores.device))
    groups = _LOW_BITS - (keys.topk(k, dim=1).values & _LOW_BITS)  # (n, k)
    columns = groups[:, :, None] * size + torch.arange(size, device=scores.device)
    return grouped.gather(1, groups[:, :, None].expand(-1, -1, size)).flatten(1), columns.flatten(1)


def best_first(ranked: np.ndarray, rows: np.ndarray, lists: np.ndarray | None = None) -> np.ndarray:
    """The order of matches, best first: of equal scores the lower row. The compiled kernels have it in `native/ranking.h`.

    Args:
        ranked: (..., k) scores, or (q,) of several lists one after another.
        rows: of the same shape, what is matched: row numbers of texts or items.
        lists: (q,) the list of each; None where each row of `ranked` is a list.

    Returns:
        Indices along the last axis.
    """
    return np.lexsort((rows, -ranked) if lists is None else (rows, -ranked, lists))


class BestRows:
    """The k best columns of each row, of blocks in whatever order they come; of equal scores the lower column.

    A score and its column are one int64, the score's bits in their order above the column's complement.
    """

    def __init__(self, rows: int, k: int, device: torch.device | str = "cpu", first: int = 0) -> None:
        """`first`: the number of the first row."""
        self.first = first
        self.keys = torch.full((rows, k), _NOTHING, dtype=torch.int64, device=device)

    def add(self, first_row: int, scores: torch.Tensor, first_column: int) -> None:
        """Sees a block of (n, m) fp32 scores; NaN is never kept."""
        kept = self.keys[first_row - self.first : first_row - self.first + len(scores)]
        k, m = kept.shape[1], scores.shape[1]
        columns = torch.arange(m, device=scores.device)
        if m >= max(_WIDE, 16 * k):
            scores, columns = _of_best_groups(scores, k)
        keys = _keys(scores, first_column + columns).masked_fill(columns >= m, _NOTHING)
        if keys.shape[1] > k:
            keys = keys.topk(k, dim=1).values
        kept.copy_(torch.cat([kept, keys], 1).topk(k, dim=1).values)

    def restore(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Adds (rows, k) scores and columns that `best` gave before; a column below 0 is none."""
        device = self.keys.device
        scores_kept, columns = torch.from_numpy(scores).to(device), torch.from_numpy(rows).to(device)
        keys = _keys(scores_kept, columns).masked_fill(columns < 0, _NOTHING)
        k = self.keys.shape[1]
        self.keys.copy_(torch.cat([self.keys, keys], 1).topk(k, dim=1).values)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, k) fp32 scores, falling, and (rows, k) int64 columns; -inf and -1 where there are no more."""
        keys = self.keys.sort(dim=1, descending=True).values.cpu()
        ordered = (keys >> 32).int()
        scores = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
        columns = _LOW_BITS - (keys & _LOW_BITS)
        nothing = keys == _NOTHING
        return scores.masked_fill(nothing, -torch.inf).numpy(), columns.masked_fill(nothing, -1).numpy()
