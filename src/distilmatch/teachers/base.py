"""What every teacher offers, and the check of what it is asked.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distilmatch.errors import ConfigError, ModelError
from distilmatch.text_arguments import text_tuples

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


def pair_list(pairs: Any) -> list[tuple[str, str]]:
    """The pairs of an argument, in their order; one pair of strings is a list of one.

    Raises:
        DataError: an item that is not two strings, with its position; see `text_tuples`.
    """
    return text_tuples(pairs, 2, "pairs")  # type: ignore[return-value]


def given_teachers(teachers: Any, method: str, what: str) -> tuple[Any, ...]:
    """The teachers of an argument that holds one or several.

    Args:
        method: what each of them must have.
        what: what messages call the whole.

    Raises:
        ConfigError: none, or an item that is no teacher.
    """
    several = (teachers,) if hasattr(teachers, method) or isinstance(teachers, str) else tuple(teachers)
    for position, teacher in enumerate(several):
        if not hasattr(teacher, method):
            raise ConfigError(
                f"{what} takes loaded teachers, but item {position} is a {type(teacher).__name__} ({teacher!r}): "
                "load it first"
            )
    if not several:
        raise ConfigError(f"{what} needs one teacher or more")
    return several


def check_loaded(name: str, *, dtype: str = "auto", revision: str | None = None) -> None:
    """Refuses settings of loading for a model that is loaded already.

    Args:
        name: what messages call it.

    Raises:
        ConfigError: a dtype or a revision.
    """
    for setting, is_given in (("dtype", dtype != "auto"), ("revision", revision is not None)):
        if is_given:
            raise ConfigError(f"{name} has its weights already: leave `{setting}` out, or give the model by name")


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
