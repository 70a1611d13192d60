"""What every teacher offers, and the check of what it is asked.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distilmatch.errors import DataError, ModelError

Pairs = Sequence[tuple[str, str]]


class Teacher(Protocol):
    """Something that gives raw logits for pairs of text."""

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The c names of the labels, in the order of the logits; None where the model has none."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the texts."""

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32 raw logits, in the order of `pairs`."""


def check_pairs(pairs: Pairs) -> None:
    """Checks that every item is two texts.

    Raises:
        DataError: the first item that is not, with its position.
    """
    for position, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != 2 or not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise DataError(f"pair {position} is not two texts but {pair!r}; a cross-encoder labels pairs of strings")


def check_logits(logits: np.ndarray, pairs: Pairs, num_labels: int) -> np.ndarray:
    """(n, c) float32 of a teacher's answer, checked.

    Raises:
        ModelError: another shape than one row of c logits a pair, or NaN or infinite logits; the first such pair is
            named.
    """
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    if logits.shape != (len(pairs), num_labels):
        raise ModelError(
            f"the teacher gave logits of shape {logits.shape} for {len(pairs)} pairs and {num_labels} label(s)"
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ModelError(
            f"the teacher's logits for the pair {tuple(pairs[first])!r} are {logits[first].tolist()}, not finite numbers "
            f"({int((~finite).sum())} such pairs); check its weights, or label in precision fp32"
        )
    return logits
