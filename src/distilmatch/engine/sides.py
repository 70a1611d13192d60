"""Representations of one side, checked against the model, and folded when a kernel asks for them.

Shape legend: n texts of the side; m texts asked for.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.engine.finite import NotFinite
from distilmatch.engine.folded import FoldedFolder
from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.ranking import MOST_TEXTS
from distilmatch.engine.sources import RowSource, Subset
from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.models.stamps import check_numbers
from distilmatch.runtime import autocast
from distilmatch.types import TokenRepresentations

_MEASURED_TEXTS = 64
_CHUNK_BYTES = 2**26  # of folded texts
_FEWEST_A_CHUNK, _MOST_A_CHUNK = 64, 2**16
_CHUNK_SHARE, _FOLDING_SHARE = 16, 8  # of the memory, for a chunk, and for texts while they are folded


class LoadedSide:
    """n texts of one side for a scorer; `Scorer.load` makes it. Texts are folded in chunks, so that memory for it is bounded.

    What fits in memory is folded once and kept there. What does not is folded once where there is a folder for it, whose files
    are then looked at, else whenever it is asked for. Several threads may use one: the first that needs all texts folds them,
    the others wait.

    Attributes:
        side: the number of the side.
        shown: what messages call it.
        folder: where folded chunks are kept; None keeps none.
        folded_texts: how many texts were folded, each time counted.
    """

    def __init__(
        self,
        model: DiPair,
        kernel: Kernel,
        source: RowSource,
        side: int,
        memory_bytes: int,
        wanted: Callable[[], str],
        kept: tuple[Path, str] | None = None,
    ) -> None:
        """Checks model, side and number of texts.

        Args:
            wanted: gives the fingerprint of the representations that the kernel scores on this side.
            kept: a folder for folded chunks, and a fingerprint of model, kernel, side and texts.

        Raises:
            ModelError: representations of another model or side, or of a shape that is not the model's.
            DataError: there are none, or more than rows can be numbered.
        """
        self._folding = threading.Lock()
        self._whole: Any = None
        self._kept_bytes: int | None = None
        self._opened: dict[int, Any] = {}
        self.folded_texts = 0
        self.model, self.kernel, self.source, self.side, self.memory_bytes = model, kernel, source, side, memory_bytes
        self.shown = _checked(model, source, side, wanted)
        self.folder: FoldedFolder | None = None
        if kept is not None:
            place, of = kept
            self.folder = FoldedFolder(place, f"{of} {self.chunk_texts}", kernel.form, made_of=of)

    def __len__(self) -> int:
        return len(self.source)

    def part(self, start: int, stop: int) -> LoadedSide:
        """The texts from `start` to `stop`, to be folded on their own."""
        return self.chosen(range(start, min(stop, len(self))))

    def chosen(self, rows: np.ndarray | range) -> LoadedSide:
        """The texts at row numbers, in that order, to be folded on their own."""
        subset = copy.copy(self)
        subset._folding, subset._whole, subset._opened, subset.folder = threading.Lock(), None, {}, None
        subset.source = Subset(self.source, rows)
        return subset

    def shared_part(self, start: int, stop: int) -> LoadedSide:
        """As `part`; of texts that are folded and kept in memory it has what is there."""
        part = self.part(start, stop)
        if self._whole is not None:
            part._whole = self.kernel.form.part(self._whole, start, stop)
        return part

    @property
    def kept_bytes(self) -> int:
        """Bytes of a folded text, by a few that are folded."""
        if self._kept_bytes is None:
            sample = self._folded(np.arange(min(len(self), _MEASURED_TEXTS)))
            self._kept_bytes = max(1, sample.nbytes // len(sample))
        return self._kept_bytes

    @property
    def bytes_per_text(self) -> int:
        """Bytes that a text takes while it is folded: `kept_bytes`, and its numbers in fp32 about ten times over."""
        return self.kept_bytes + 40 * self.model.student.kept_vectors[self.side] * self.model.student.vector_width

    @property
    def chunk_texts(self) -> int:
        """Texts of a chunk: a power of two, for which there is memory."""
        return chunk_texts(self.kept_bytes, self.memory_bytes)

    @property
    def _texts_at_once(self) -> int:
        # How many are folded in one go.
        return max(_FEWEST_A_CHUNK, self.memory_bytes // _FOLDING_SHARE // self.bytes_per_text)

    def fits(self, sides: int) -> bool:
        """Whether its share of the memory, one of `sides`, holds all texts folded, and some while they are folded."""
        folding = min(len(self), self._texts_at_once) * self.bytes_per_text
        return len(self) * self.kept_bytes + folding <= self.memory_bytes // sides

    @property
    def whole(self) -> Any:
        """All texts as the kernel prepares them."""
        if self._whole is None:
            with self._folding:
                if self._whole is None:
                    self._whole = self._joined(0, len(self))
        return self._whole

    @property
    def is_folded(self) -> bool:
        """Whether all texts are folded and kept in memory."""
        return self._whole is not None

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-len(self) // self.chunk_texts)

    def chunk(self, number: int) -> Any:
        """The prepared texts of a chunk: of those in memory, from its file, or folded now and, where there is a folder, kept.

        Raises:
            As `take`; CacheError: the folder is damaged or cannot be written.
        """
        start = number * self.chunk_texts
        stop = min(start + self.chunk_texts, len(self))
        if self._whole is not None:
            return self.kernel.form.part(self._whole, start, stop)
        texts = None if self.folder is None else self.folder.open(number)
        if texts is None:
            texts = self.take(np.arange(start, stop))
            if self.folder is not None:
                self.folder.write(number, texts)
        return texts

    def opened(self, number: int) -> Any:
        """As `chunk`; a file once opened stays open."""
        texts = self._opened.get(number)
        if texts is None:
            texts = self.chunk(number)
            if self.folder is not None:
                self._opened[number] = texts
        return texts

    def pieces(self, rows: range) -> Iterator[tuple[int, Any]]:
        """First row and prepared texts of a range of rows, a chunk or what the range has of it at a time."""
        for number in range(rows.start // self.chunk_texts, -(-rows.stop // self.chunk_texts)):
            first = number * self.chunk_texts
            start, stop = max(rows.start, first), min(rows.stop, first + self.chunk_texts)
            texts = self.chunk(number)
            whole = (start, stop) == (first, first + len(texts))
            yield start, texts if whole else self.kernel.form.part(texts, start - first, stop - first)

    def block(self, start: int, stop: int) -> Any:
        """The prepared texts from `start` to `stop` in one piece."""
        if (start, stop) == (0, len(self)):
            return self.whole
        if self._whole is not None:
            return self.kernel.form.part(self._whole, start, stop)
        return self._joined(start, stop)

    def _joined(self, start: int, stop: int) -> Any:
        form, room = self.kernel.form, None
        for first, texts in self.pieces(range(start, stop)):
            if len(texts) == stop - start:
                return texts
            room = form.room(texts, stop - start) if room is None else room
            form.put(room, first - start, texts)
        return room

    def take(self, rows: np.ndarray) -> Any:
        """The texts at (m,) row numbers, folded now; in fp32, whatever autocast the caller is in.

        Raises:
            As `read`; ModelError: the head makes numbers of a text that are not finite.
        """
        self.folded_texts += len(rows)
        step, form, room = self._texts_at_once, self.kernel.form, None
        if len(rows) <= step:
            return self._folded(rows)
        for start in range(0, len(rows), step):
            texts = self._folded(rows[start : start + step])
            room = form.room(texts, len(rows)) if room is None else room
            form.put(room, start, texts)
        return room

    def _folded(self, rows: np.ndarray) -> Any:
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


def chunk_texts(text_bytes: int, memory_bytes: int) -> int:
    """Texts of a chunk, where one takes so many bytes folded: a power of two, for which there is memory."""
    room = min(_CHUNK_BYTES, memory_bytes // _CHUNK_SHARE) // text_bytes
    return max(_FEWEST_A_CHUNK, min(_MOST_A_CHUNK, 1 << max(0, room.bit_length() - 1)))


def _checked(model: DiPair, source: RowSource, side: int, wanted: Callable[[], str]) -> str:
    # What an error message calls it.
    shown = source.shown(model.student.side_names[side])
    source.check(model, side, wanted)
    if not len(source):
        raise DataError(f"{shown} is empty; encode its texts first")
    if len(source) > MOST_TEXTS:
        raise DataError(f"{shown} has {len(source)} texts, more than {MOST_TEXTS}; split it")
    return shown
