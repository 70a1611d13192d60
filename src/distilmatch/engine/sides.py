"""Representations of one side, checked against the model, and folded when a kernel asks for them.

Shape legend: n texts of the side; m texts asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from distilmatch.engine.kernels import Kernel
from distilmatch.engine.ranking import MOST_TEXTS
from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder
from distilmatch.types import TokenRepresentations

Representations = TokenRepresentations | RepresentationFolder
_MEASURED_TEXTS = 64


class LoadedSide:
    """n texts of one side for a scorer; `Scorer.load` makes it. What fits in memory is folded once and kept.

    Attributes:
        side: the number of the side.
        first: row number, in what it was loaded from, of its first text.
    """

    def __init__(
        self,
        model: DiPair,
        kernel: Kernel,
        source: Representations,
        side: int,
        memory_bytes: int,
        rows: range | None = None,
    ) -> None:
        """Checks model, side and number of texts; `rows` are those of the source that count, None for all.

        Raises:
            ModelError: representations of another model or side.
            DataError: there are none, or more than rows can be numbered.
        """
        self.model, self.kernel, self.source, self.side, self.memory_bytes = model, kernel, source, side, memory_bytes
        self.shown = _checked(model, source, side)
        self._rows = range(len(source)) if rows is None else rows
        self.first = self._rows.start

    def __len__(self) -> int:
        return len(self._rows)

    def part(self, start: int, stop: int) -> LoadedSide:
        """The texts from `start` to `stop`, which are loaded anew."""
        return LoadedSide(
            self.model, self.kernel, self.source, self.side, self.memory_bytes, self._rows[start : min(stop, len(self))]
        )

    @cached_property
    def kept_bytes(self) -> int:
        """Bytes of a folded text, by a few that are folded."""
        some = self.take(np.arange(min(len(self), _MEASURED_TEXTS)))
        return max(1, some.nbytes // len(some))

    @property
    def bytes_per_text(self) -> int:
        """Bytes that a text takes while it is folded: `kept_bytes`, and its numbers in fp32 about three times over."""
        return self.kept_bytes + 12 * self.model.student.kept_tokens[self.side] * self.model.student.vector_width

    def in_one_piece(self, sides: int) -> bool:
        """Whether its share of the memory holds `sides` such sides folded, and one of them while it is folded."""
        others = (sides - 1) * self.kept_bytes
        return len(self) * (others + self.bytes_per_text) <= self.memory_bytes

    @cached_property
    def whole(self) -> Any:
        """All texts as the kernel prepares them."""
        return self.take(np.arange(len(self)))

    @property
    def is_folded(self) -> bool:
        """Whether all texts are folded and kept."""
        return "whole" in self.__dict__

    def blocks(self, rows: int) -> Iterator[tuple[int, Any]]:
        """First row and prepared texts, `rows` at a time; a side of one block is kept."""
        if rows >= len(self):
            yield 0, self.whole
            return
        for start in range(0, len(self), rows):
            yield start, self.take(np.arange(start, min(start + rows, len(self))))

    def take(self, rows: np.ndarray) -> Any:
        """The texts at (m,) row numbers, prepared."""
        return self.kernel.prepare(self.read(rows), self.side)

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """The representations at (m,) row numbers, as they are stored.

        Raises:
            DataError: numbers that are not finite; the row is named.
        """
        numbers = np.asarray(rows, dtype=np.int64) + self.first
        source = self.source
        texts = source.read(numbers) if isinstance(source, RepresentationFolder) else source[torch.from_numpy(numbers)]
        finite = torch.isfinite(texts.tokens).flatten(1).all(1)
        if not finite.all():
            bad = numbers[int((~finite).nonzero()[0, 0])]
            raise DataError(
                f"{self.shown}, row {bad}: numbers that are not finite (NaN or Inf); encode its texts again"
            )
        return texts


def _checked(model: DiPair, source: Representations, side: int) -> str:
    # What an error message calls it.
    name = model.student.side_names[side]
    shown = f"the {name} side"
    if isinstance(source, RepresentationFolder):
        shown = str(source.path)
        manifest, wanted = source.manifest, model.representation_fingerprint(side)
        if manifest.side != side or manifest.model_fingerprint != wanted:
            raise ModelError(
                f"{shown} holds {manifest.side_name} representations of a model {manifest.model_fingerprint}; "
                f"wanted are {name} representations of {wanted}: encode the texts again with this model and side"
            )
    else:
        expected = (model.student.kept_tokens[side], model.student.vector_width)
        if tuple(source.tokens.shape[1:]) != expected:
            raise ModelError(
                f"{shown} holds {tuple(source.tokens.shape[1:])} (tokens, width) a text, this model needs {expected}: "
                "encode it with this model and this side"
            )
    if not len(source):
        raise DataError(f"{shown} is empty; encode its texts first")
    if len(source) > MOST_TEXTS:
        raise DataError(f"{shown} has {len(source)} texts, more than {MOST_TEXTS}; split it")
    return shown
