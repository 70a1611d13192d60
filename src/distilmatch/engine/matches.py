"""What a scorer finds: the best of each text, and pairs above a threshold.

Shape legend: n texts of a side; k best; q pairs above a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_MOST_SAMPLED, _PAIRS_SAMPLED = 1000, 2**26


@dataclass(frozen=True, kw_only=True)
class BestMatches:
    """The k best of each text of one side.

    Attributes:
        scores: (n, k) fp32, falling, as `Ranking.shown` gives them; where probabilities round to one number the order of
            `rows` still is that of the log-odds. -inf where there are no more.
        rows: (n, k) int64, row numbers on the other side; -1 where there are no more.
        ranked: (n, k) fp32, what the rows are in the order of: of probabilities their log-odds, else the scores.
    """

    scores: np.ndarray
    rows: np.ndarray
    ranked: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs above a threshold, by left row, then right row.

    Attributes:
        rows: (q, 2) int64.
        scores: (q,) fp32, as `Ranking.shown` gives them.
        ranked: (q,) fp32, what was compared with the threshold: of probabilities their log-odds, else the scores.
    """

    rows: np.ndarray
    scores: np.ndarray
    ranked: np.ndarray


class MatchStream:
    """Pairs above a threshold as they are found, which may be more than memory holds: an iterator of `Matches`, one a block.

    Blocks come in the order in which they are scored, the pairs of one by left row, then right row.
    """

    def __init__(self, blocks: Iterator[Matches]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[Matches]:
        return self._blocks

    def __next__(self) -> Matches:
        return next(self._blocks)

    def collect(self) -> Matches:
        """All pairs that are left, in memory, by left row, then right row."""
        blocks = list(self._blocks)
        rows = np.concatenate([np.empty((0, 2), dtype=np.int64), *(block.rows for block in blocks)])
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        nothing = np.empty(0, dtype=np.float32)
        scores = np.concatenate([nothing, *(block.scores for block in blocks)])
        ranked = np.concatenate([nothing, *(block.ranked for block in blocks)])
        return Matches(rows=rows[order], scores=scores[order], ranked=ranked[order])


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What candidates found of the exact best.

    Attributes:
        share: of the exact list's rows, in the mean over `texts` texts.
        interval: in which the mean of all texts lies with a probability of 95 %: 1.96 standard errors to either side.
    """

    share: float
    interval: tuple[float, float]
    texts: int


def recall(candidates: BestMatches, exact: BestMatches) -> Recall:
    """The share of the exact best rows that were found."""
    shares = np.array(
        [
            np.isin(exact_rows[exact_rows >= 0], rows).mean()
            for rows, exact_rows in zip(candidates.rows, exact.rows, strict=True)
            if (exact_rows >= 0).any()
        ]
    )
    mean, error = float(shares.mean()), float(shares.std() / len(shares) ** 0.5)
    interval = max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)
    return Recall(share=mean, interval=interval, texts=len(shares))


def sampled_texts(left: int, right: int) -> int:
    """Of how many left texts the exact best are found, to say what candidates miss."""
    return max(1, min(left, _MOST_SAMPLED, _PAIRS_SAMPLED // right))
