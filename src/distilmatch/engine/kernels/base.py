"""What a kernel is: the plain PyTorch one (`torch_kernel`) runs everywhere, others where the machine allows it.

Shape legend: n texts of a side; p tuples; s sides; c labels; k best; q pairs above a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distilmatch.engine.kernels.forms import Form
from distilmatch.engine.ranking import Ranking
from distilmatch.types import TokenRepresentations


class Prepared(Protocol):
    """Texts of one side as a kernel wants them."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        ...


class Kernel(Protocol):
    """Scores texts that it has prepared.

    Attributes:
        name: as users ask for it.
        pairs_a_call: how many a call of `top_k` or `above` should have: enough to work on, few enough that a progress bar
            moves.
        most_pairs_a_call: of a call that keeps few of them, where more at once are faster.
        form: of the texts that it prepares.
    """

    name: str
    pairs_a_call: int
    most_pairs_a_call: int
    form: Form

    def prepare(self, texts: TokenRepresentations, side: int) -> Prepared:
        """Folds and packs texts.

        Raises:
            NotFinite: a text whose folded numbers no score can be computed from.
        """
        ...

    def pairs(self, sides: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        """(p, c) fp32 logits of tuples of prepared texts; `rows` is (p, s) int64."""
        ...

    def best_rows(self, rows: int, k: int, first: int = 0) -> Any:
        """What `top_k` fills, of texts that are numbered from `first`; `best` tells what it has kept so far, and `restore`
        adds what it told before.
        """
        ...

    @property
    def skipped_pairs(self) -> int:
        """Pairs of all calls so far that got no exact score, since a bound of it was below what was asked for."""
        ...

    def top_k(
        self, left: Any, right: Any, ranking: Ranking, of_left: Any, of_right: Any, offsets: tuple[int, int]
    ) -> None:
        """All of `left` against all of `right`; `offsets` are the numbers of their first texts.

        Raises:
            NotFinite: the logits of a pair are no finite numbers.
        """
        ...

    def above(
        self, left: Any, right: Any, ranking: Ranking, threshold: float, offsets: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(q, 2) int64 row numbers and (q,) fp32 scores of all pairs with a score above `threshold`, in any order.

        Scores and threshold are what is ranked (`Ranking`): of a probability its log-odds.

        Raises:
            NotFinite: as `top_k`.
        """
        ...
