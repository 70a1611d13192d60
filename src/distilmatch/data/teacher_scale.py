"""Teacher labels of users: logits, or probabilities that are turned into logits.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEW_ROWS = 2  # of so few rows logits may lie within [0, 1] by chance
_SUM_ERROR = 1e-3
SMALLEST = 1e-6  # a probability of 0 or 1 has no finite logit


def are_probabilities(values: np.ndarray) -> bool:
    """Whether teacher labels, (n, c), can be nothing but probabilities: all within [0, 1] and not all the same, those of
    several labels adding up to 1, more than two rows of them.
    """
    if len(values) <= _FEW_ROWS or values.min() < 0 or values.max() > 1 or values.min() == values.max():
        return False
    return values.shape[1] == 1 or bool(np.all(np.abs(values.sum(axis=1) - 1) <= _SUM_ERROR))


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """The logits, (n, c) float64, whose sigmoid (c = 1) or softmax is `probabilities`, clipped to [1e-6, 1 - 1e-6]."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(clipped) - np.log1p(-clipped) if clipped.shape[1] == 1 else np.log(clipped)


def why_no_probabilities(values: tuple[float, ...]) -> str | None:
    """What is wrong with the teacher's labels of one row, (c,), as probabilities; None where nothing is."""
    if not all(0 <= value <= 1 for value in values):
        return f"teacher probability {next(v for v in values if not 0 <= v <= 1):g} is not between 0 and 1"
    if len(values) > 1 and abs(sum(values) - 1) > _SUM_ERROR:
        return f"teacher probabilities add up to {sum(values):.4g}, not 1"
    return None


def said_scale(columns: Sequence[str], scale: str, *, several: bool, asked: bool = False) -> str:
    """What a log says of the columns that hold a teacher's labels.

    Args:
        columns: their names.
        scale: what they hold, "logit" or "probability".
        several: whether a row has several labels.
        asked: whether a setting says so, else it was seen.
    """
    named = f"teacher column{'s' if len(columns) > 1 else ''} {', '.join(map(repr, columns))}"
    verb = "hold" if len(columns) > 1 else "holds"
    if scale == "logit":
        return f"{named} {verb} logits{', as `teacher_scale` says' if asked else ''}, which are taken as they are"
    if asked:
        return f"{named} {verb} probabilities, as `teacher_scale` says; they become logits"
    why = "all within [0, 1], each row adds up to 1" if several else "all within [0, 1]"
    return (
        f"{named} {verb} probabilities ({why}); they become logits. `teacher_scale: logit` takes them as they are, "
        "`teacher_scale: probability` says what they are"
    )
