"""Representations of one side, checked against the model, and folded when a kernel asks for them.

Shape legend: n texts of the side; m texts asked for.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distilmatch.engine.finite import NotFinite
from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.ranking import MOST_TEXTS
from distilmatch.engine.sources import RowSource, Subset
from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.models.stamps import check_numbers
from distilmatch.runtime import autocast
from distilmatch.types import TokenRepresentations

_MEASURED_TEXTS = 64


class LoadedSide:
    """n texts of one side for a scorer; `Scorer.load` makes it. What fits in memory is folded once and kept.

    Several threads may use one: the first that needs all texts folds them, the others wait.

    Attributes:
        side: the number of the side.
        shown: what messages call it.
    """

    def __init__(
        self,
        model: DiPair,
        kernel: Kernel,
        source: RowSource,
        side: int,
        memory_bytes: int,
        wanted: Callable[[], str],
    ) -> None:
        """Checks model, side and number of texts.

        Args:
            wanted: gives the fingerprint of the representations that the kernel scores on this side.

        Raises:
            ModelError: representations of another model or side, or of a shape that is not the model's.
            DataError: there are none, or more than rows can be numbered.
        """
        self._folding = threading.Lock()
        self._whole: Any = None
        self._kept_bytes: int | None = None
        self.model, self.kernel, self.source, self.side, self.memory_bytes = model, kernel, source, side, memory_bytes
        self.shown = _checked(model, source, side, wanted)

    def __len__(self) -> int:
        return len(self.source)

    def part(self, start: int, stop: int) -> LoadedSide:
        """The texts from `start` to `stop`, to be folded on their own."""
        subset = copy.copy(self)
        subset._folding, subset._whole = threading.Lock(), None
        subset.source = Subset(self.source, range(start, min(stop, len(self))))
        return subset

    @property
    def kept_bytes(self) -> int:
        """Bytes of a folded text, by a few that are folded."""
        if self._kept_bytes is None:
            sample = self.take(np.arange(min(len(self), _MEASURED_TEXTS)))
            self._kept_bytes = max(1, sample.nbytes // len(sample))
        return self._kept_bytes

    @property
    def bytes_per_text(self) -> int:
        """Bytes that a text takes while it is folded: `kept_bytes`, and its numbers in fp32 about three times over."""
        return self.kept_bytes + 12 * self.model.student.kept_vectors[self.side] * self.model.student.vector_width

    def in_one_piece(self, sides: int) -> bool:
        """Whether its share of the memory holds `sides` such sides folded, and one of them while it is folded."""
        others = (sides - 1) * self.kept_bytes
        return len(self) * (others + self.bytes_per_text) <= self.memory_bytes

    @property
    def whole(self) -> Any:
        """All texts as the kernel prepares them."""
        if self._whole is None:
            with self._folding:
                if self._whole is None:
                    self._whole = self.take(np.arange(len(self)))
        return self._whole

    @property
    def is_folded(self) -> bool:
        """Whether all texts are folded and kept."""
        return self._whole is not None

    def blocks(self, rows: int) -> Iterator[tuple[int, Any]]:
        """First row and prepared texts, `rows` at a time; a side of one block is kept."""
        if rows >= len(self):
            yield 0, self.whole
            return
        for start in range(0, len(self), rows):
            yield start, self.take(np.arange(start, min(start + rows, len(self))))

    def take(self, rows: np.ndarray) -> Any:
        """The texts at (m,) row numbers, prepared; in fp32, whatever autocast the caller is in.

        Raises:
            As `read`; ModelError: the head makes numbers of a text that are not finite.
        """
        texts = self.read(rows)
        try:
            with autocast("fp32", self.model.device):
                return self.kernel.prepare(texts, self.side)
        except NotFinite as error:
            raise error.of(f"{self.shown}, row {self.number(int(rows[error.rows[0]]))}") from None

    def number(self, row: int) -> int:
        """The number that a text has in what it was loaded from."""
        return int(self.source.numbers(np.array([row]))[0])

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """The representations at (m,) row numbers, as they are stored.

        Raises:
            ModelError: a text without a real token, numbers that are not finite or above 1e15; the row is named.
            CacheError: a folder is damaged.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        texts = self.source.read(numbers)
        try:
            check_numbers(texts, self.side, self.source.numbers(numbers))
        except ModelError as error:
            raise ModelError(f"{self.shown}, {error}") from None
        return texts


def _checked(model: DiPair, source: RowSource, side: int, wanted: Callable[[], str]) -> str:
    # What an error message calls it.
    shown = source.shown(model.student.side_names[side])
    source.check(model, side, wanted)
    if not len(source):
        raise DataError(f"{shown} is empty; encode its texts first")
    if len(source) > MOST_TEXTS:
        raise DataError(f"{shown} has {len(source)} texts, more than {MOST_TEXTS}; split it")
    return shown
