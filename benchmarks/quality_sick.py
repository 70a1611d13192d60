"""SICK entailment, three classes: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_sick --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

Accuracy on the test split. `DIR` is the folder of all sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import compare_and_publish
from benchmarks.sets import SETS
from distilmatch.metrics import task_metrics
from distilmatch.types import TupleTable

TASK, TABLE = SETS["sick"].task, SETS["sick"].table
STUDENTS: dict[str, dict[str, Any]] = {
    "student": {"kept_tokens": [16, 16]},
    "student_4_8": {"kept_tokens": [4, 8]},
    "de_cos": {"head": "cosine", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"},
    "de_ffnn": {"head": "feed_forward", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"},
}


def accuracy(logits: np.ndarray, test: TupleTable) -> float:
    """Share of rows with the right class."""
    assert test.gold is not None
    return task_metrics(TASK, test.gold, logits)["accuracy"]


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    compare_and_publish("quality_sick", __doc__, "sick")


if __name__ == "__main__":
    main()
